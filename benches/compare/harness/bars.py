"""The bars: what Cubby's speed is held to, each a ratio within one run or a figure of memory."""

from contextlib import suppress

from .report import number, table, value


class Missing(Exception):
    """A median that was not measured."""


class Bar:
    """`figure(get)` is what is held against `bound`; `get(row, server, name)` is a median."""

    def __init__(self, text, figure, bound, least=False, stretch=None, unit="×", beside=None):
        self.text, self.figure, self.bound = text, figure, bound
        # What it is and a function like `figure`: shown in brackets, and held against nothing.
        self.beside = beside
        self.least, self.stretch, self.unit = least, stretch, unit

    def meets(self, figure, bound):
        return figure >= bound if self.least else figure <= bound


def cpu(row, over, under):
    return lambda get: get(row, over, "cpu_us") / get(row, under, "cpu_us")


def rate(row, over, under):
    return lambda get: get(row, over, "rate") / get(row, under, "rate")


def p50(row, over, under):
    return lambda get: get(row, over, "p50_us") / get(row, under, "p50_us")


def without_http(get):
    """The limit server stores nothing: what it takes for a request is HTTP."""
    return (get("alone", "cubby", "p50_us") - get("alone", "limit", "p50_us")) / get("alone", "raw", "p50_us")


def without_combining(get):
    """Cubby itself with combining off when that was measured, else the naive server."""
    try:
        return rate("create-one", "cubby", "cubby-solo")(get)
    except Missing:
        return rate("create-one", "cubby", "naive")(get)


BARS = [
    Bar("read one: CPU, Cubby by the limit", cpu("read", "cubby", "limit"), 2.5, stretch=2.0),
    Bar("read one: CPU, Node by Cubby", cpu("read", "node", "cubby"), 2.5, least=True),
    Bar("read one: CPU, workerd by Cubby", cpu("read", "workerd", "cubby"), 10, least=True),
    Bar("list 20: CPU, Cubby by the limit", cpu("list", "cubby", "limit"), 3.2, stretch=2.6),
    Bar("list 20: CPU, Node by Cubby", cpu("list", "node", "cubby"), 5, least=True),
    Bar("mix: CPU, Node by Cubby", cpu("mix", "node", "cubby"), 2, least=True),
    Bar("mix: CPU, Cubby by Node", cpu("mix", "cubby", "node"), 0.35, stretch=0.25),
    Bar("durable create, 100 tenants: rate, Cubby by Node", rate("create", "cubby", "node"), 8, least=True),
    Bar("durable create, 100 tenants: rate, Cubby by the naive design", rate("create", "cubby", "naive"), 2.5,
        least=True, stretch=4),
    Bar("durable create, 100 tenants: CPU, Cubby by the naive design", cpu("create", "cubby", "naive"), 0.4,
        stretch=0.3),
    Bar("durable create, disk with a bound on flushes: rate, Cubby by the naive design",
        rate("create-slow", "cubby", "naive"), 8, least=True, stretch=10),
    Bar("durable create, one tenant: rate, by that without combining", without_combining, 8, least=True),
    Bar("durable create, one tenant: rate, Cubby by raw SQLite", rate("create-one", "cubby", "raw"), 5.6,
        least=True, stretch=8),
    Bar("durable create, one writer alone: p50, Cubby by raw SQLite", p50("alone", "cubby", "raw"), 1.2,
        stretch=1.0, beside=("without HTTP", without_http)),
    Bar("cold: CPU, Cubby by raw open + query + close", cpu("cold", "cubby", "raw"), 2.5, stretch=2),
    Bar("cold: rate, Cubby by the naive design", rate("cold", "cubby", "naive"), 3, least=True),
    Bar("new tenant: rate, Cubby by the raw durable limit", rate("new", "cubby", "raw"), 4, least=True,
        stretch=8),
    Bar("1,000 open after hot work: memory", lambda get: get("memory", "cubby", "rss_mb"), 160,
        stretch=110, unit=" MB"),
    Bar("1,000 open after hot work: threads", lambda get: get("memory", "cubby", "threads"), 100, unit=""),
    Bar("9,000 open, one read each: memory", lambda get: get("memory-9000", "cubby", "rss_mb"), 900,
        unit=" MB"),
    Bar("SQL, select one row by key: CPU, Cubby by the limit", cpu("sql-select", "cubby", "limit"), 2.5),
    Bar("SQL, batch of one insert: rate, Cubby by its own creates of notes",
        lambda get: get("sql-creates", "cubby", "rate") / get("create", "cubby", "rate"), 0.85, least=True),
    *(
        Bar(f"quiet tenant: p99 beside {flood}, by p99 alone",
            lambda get, row=row: get(row, "cubby", "p99_ratio"), 3,
            beside=("the limit server itself", lambda get, row=row: get(row, "limit", "p99_ratio")))
        for row, flood in (("fairness", "a flood of writes"), ("fairness-slow", "slow reads"),
                           ("fairness-inline", "slow reads passed off as short"))
    ),
]


def evaluate(results):
    """Each bar with its figure and whether it passes: True, False, or None when not measured.
    A bar whose figure came with errors is missed, whoever made them: it compares other work."""
    for bar in BARS:
        errors = 0

        def get(row, server, name):
            nonlocal errors
            figure = value(results, row, server, name)
            if not figure:
                raise Missing
            errors += sum(sample["errors"] for sample in results["rows"][row][server]["samples"])
            return figure

        try:
            figure = bar.figure(get)
        except Missing:
            yield {"bar": bar, "figure": None, "passes": None, "errors": 0, "beside": None}
            continue
        judged = {"bar": bar, "figure": figure, "passes": bar.meets(figure, bar.bound) and not errors,
                  "errors": errors, "beside": None}
        if bar.beside:
            with suppress(Missing):
                judged["beside"] = bar.beside[1](get)
        yield judged


def markdown(judged):
    lines = []
    for entry in judged:
        bar, figure = entry["bar"], entry["figure"]
        word = {True: "pass", False: "**FAIL**", None: "not measured"}[entry["passes"]]
        if entry["passes"] and bar.stretch and bar.meets(figure, bar.stretch):
            word = "pass, stretch too"
        if entry["errors"]:
            word += f", {entry['errors']} errors"
        sign = "≥" if bar.least else "≤"
        bound = f"{sign} {number(bar.bound)}{bar.unit}"
        if bar.stretch:
            bound += f" (stretch {number(bar.stretch)}{bar.unit})"
        cell = "–" if figure is None else number(figure) + bar.unit
        if entry["beside"] is not None:
            cell += f" ({bar.beside[0]}: {number(entry['beside'])}{bar.unit})"
        lines.append([bar.text, word, cell, bound])
    yield from table(("bar", "result", "figure", "bound"), lines)


def plain(judged):
    """For the results file."""
    return [
        {"bar": entry["bar"].text, "bound": entry["bar"].bound, "figure": entry["figure"],
         "passes": entry["passes"], "errors": entry["errors"], "beside": entry["beside"]}
        for entry in judged
    ]
