"""Medians, and the tables made of them."""

from statistics import median

from .rows import ROWS

PEERS = ("limit", "naive", "node", "workerd", "sqld", "raw", "cubby-solo")


def medians(samples):
    """The median of each number over the rounds."""
    return {
        name: median(sample[name] for sample in samples if name in sample)
        for name in {name for sample in samples for name in sample}
        if all(isinstance(sample.get(name, 0), (int, float)) for sample in samples)
    }


def value(results, row, server, name):
    """One median, or None when it was not measured."""
    return results["rows"].get(row, {}).get(server, {}).get("median", {}).get(name)


def title(results, row):
    options = results["options"]
    text = ROWS[row].title.replace("20,000", f"{options['cold_tenants']:,}")
    # Results that were saved before there was such a row do not have the option.
    return text.replace("3,000", f"{options.get('flushes', 3000):,}")


def number(figure, digits=3):
    """A figure with the digits that mean something."""
    if figure is None:
        return "–"
    if figure >= 10 ** (digits - 1) or figure == int(figure):
        return f"{figure:,.0f}"
    return f"{figure:.{digits - len(str(int(figure)))}f}"


def latency(microseconds):
    if microseconds is None:
        return "–"
    return f"{number(microseconds)} µs" if microseconds < 1000 else f"{number(microseconds / 1000)} ms"


def table(head, lines):
    yield "| " + " | ".join(head) + " |"
    yield "|" + "|".join(["---"] * 2 + ["---:"] * (len(head) - 2)) + "|"
    for line in lines:
        yield "| " + " | ".join(line) + " |"


def figures(results):
    for row, servers in results["rows"].items():
        for server, entry in servers.items():
            got = entry.get("median", {})
            errors = number(sum(sample["errors"] for sample in entry["samples"]))
            if entry["failures"]:
                errors += f"; {len(entry['failures'])} failed"
            yield [
                title(results, row), server, number(got.get("rate")), latency(got.get("p50_us")),
                latency(got.get("p99_us")), number(got.get("cpu_us")), number(got.get("rss_mb")),
                number(got.get("threads")), number(got.get("descriptors")), errors,
            ]


def ratios(results):
    """Cubby's figure by each peer's: rate (more is better), CPU, p50 and memory (less is better)."""
    kinds = (("rate", "rate"), ("cpu_us", "CPU"), ("p50_us", "p50"), ("rss_mb", "memory"))
    for row in results["rows"]:
        for name, label in kinds:
            if name == "rss_mb" and "memory" not in row:
                continue
            # With 64 connections at work, latency is the rate in other words.
            if name == "p50_us" and row != "alone":
                continue
            own = value(results, row, "cubby", name)
            cells = []
            for peer in PEERS:
                other = value(results, row, peer, name)
                cells.append(f"{number(own / other)}×" if own and other else "–")
            if any(cell != "–" for cell in cells):
                yield [title(results, row), label, *cells]


def flushes(results):
    for row, servers in results["rows"].items():
        rates = {server: value(results, row, server, "flush_rate") for server in servers}
        cells = ", ".join(f"{server} {number(rate)}" for server, rate in rates.items() if rate)
        if cells:
            yield f"\nFlushes a second, {title(results, row)}: {cells}."


def fairness(results):
    for row, server, entry in ((row, *pair) for row in results["rows"] if row.startswith("fairness")
                               for pair in results["rows"][row].items()):
        got = entry.get("median")
        if got:
            yield [
                title(results, row), server, latency(got["p99_alone_us"]), latency(got["p99_us"]),
                f"{number(got['p99_ratio'])}×", number(got["flood_rate"]), number(got["flood_refused"]),
            ]


def failures(results):
    for name, text in results["not_started"].items():
        yield f"- **{name}** was not measured: {text}"
    for row, servers in results["rows"].items():
        for server, entry in servers.items():
            for text in entry["failures"]:
                yield f"- **{server}**, {title(results, row)}: {text}"


def settings(results):
    options, machine = results["options"], results["machine"]
    yield (
        f"{machine['cores']} cores ({machine['cpu']}), Linux {machine['kernel']}, data on "
        f"{machine['file_system']}. Medians of {options['rounds']} rounds of {options['seconds']} s, "
        f"{options['connections']} connections, {options['cold_tenants']:,} cold tenants."
    )
    yield "Versions: " + ", ".join(f"{name} {text}" for name, text in results["versions"].items()) + "."
    if options["quick"]:
        yield "**A smoke test: the numbers mean nothing.**"
    if results.get("interrupted"):
        yield "**Interrupted: what had been measured until then.**"


def markdown(results):
    yield from settings(results)
    yield ""
    yield from table(
        ("work", "server", "requests/s", "p50", "p99", "CPU µs/request", "RSS MB", "threads",
         "descriptors", "errors"), figures(results))
    yield from flushes(results)
    lines = list(ratios(results))
    if lines:
        yield "\nCubby's figure divided by the other's:\n"
        yield from table(("work", "of", *PEERS), lines)
    lines = list(fairness(results))
    if lines:
        yield ("\nA quiet tenant's reads, one connection at a steady pace. The limit server has no database: its "
               "ratio is the scheduler's doing alone.\n")
        yield from table(("work", "server", "p99 alone", "p99 beside the flood", "ratio", "flood, requests/s",
                          "of them refused"), lines)
    lines = list(failures(results))
    if lines:
        yield "\nFailed:\n"
        yield from lines
