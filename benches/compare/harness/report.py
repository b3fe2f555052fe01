"""Medians, and the tables made of them."""

from statistics import median

from .rows import ROWS

PEERS = ("limit", "naive", "node", "workerd", "raw", "cubby-solo")


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
    return ROWS[row].title.replace("20,000", f"{results['options']['cold_tenants']:,}")


def number(figure, digits=3):
    """A figure with the digits that mean something."""
    if figure is None:
        return "–"
    if figure >= 10 ** (digits - 1) or figure == int(figure):
        return f"{figure:,.0f}"
    return f"{figure:.{digits - len(str(int(figure)))}f}"


def milliseconds(microseconds):
    return "–" if microseconds is None else f"{number(microseconds / 1000)} ms"


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
                title(results, row), server, number(got.get("rate")), milliseconds(got.get("p50_us")),
                milliseconds(got.get("p99_us")), number(got.get("cpu_us")), number(got.get("rss_mb")),
                number(got.get("threads")), number(got.get("descriptors")), errors,
            ]


def ratios(results):
    """Cubby's figure by each peer's: rate (more is better), CPU and memory (less is better)."""
    kinds = (("rate", "rate"), ("cpu_us", "CPU"), ("rss_mb", "memory"))
    for row in results["rows"]:
        for name, label in kinds:
            if name == "rss_mb" and not row.startswith("memory"):
                continue
            own = value(results, row, "cubby", name)
            cells = []
            for peer in PEERS:
                other = value(results, row, peer, name)
                cells.append(f"{number(own / other)}×" if own and other else "–")
            if any(cell != "–" for cell in cells):
                yield [title(results, row), label, *cells]


def fairness(results):
    for row, server, entry in ((row, *pair) for row in results["rows"] if row.startswith("fairness")
                               for pair in results["rows"][row].items()):
        got = entry.get("median")
        if got:
            yield [
                title(results, row), server, milliseconds(got["p99_alone_us"]), milliseconds(got["p99_us"]),
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
