"""The bars: what Cubby's speed is held to, each a ratio within one run or a figure of memory."""

from .report import number, table, value


class Missing(Exception):
    """A median that was not measured."""


class Bar:
    """`figure(get)` is what is held against `bound`; `get(row, server, name)` is a median."""

    def __init__(self, text, figure, bound, least=False, stretch=None, unit="×", limit=None):
        self.text, self.figure, self.bound = text, figure, bound
        # The row and the name of the limit server's own figure, to be shown beside.
        self.limit = limit
        self.least, self.stretch, self.unit = least, stretch, unit

    def meets(self, figure, bound):
        return figure >= bound if self.least else figure <= bound


def cpu(row, over, under):
    return lambda get: get(row, over, "cpu_us") / get(row, under, "cpu_us")


def rate(row, over, under):
    return lambda get: get(row, over, "rate") / get(row, under, "rate")


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
    Bar("durable create, 100 tenants: rate, Cubby by Node", rate("create", "cubby", "node"), 8, least=True),
    Bar("durable create, one tenant: rate, by that without combining", without_combining, 8, least=True),
    Bar("cold: CPU, Cubby by raw open + query + close", cpu("cold", "cubby", "raw"), 2.5),
    Bar("cold: rate, Cubby by the naive design", rate("cold", "cubby", "naive"), 3, least=True),
    Bar("new tenant: rate, Cubby by the raw durable limit", rate("new", "cubby", "raw"), 0.6, least=True),
    Bar("1,000 open after hot work: memory", lambda get: get("memory", "cubby", "rss_mb"), 160,
        stretch=110, unit=" MB"),
    Bar("1,000 open after hot work: threads", lambda get: get("memory", "cubby", "threads"), 100, unit=""),
    Bar("9,000 open, one read each: memory", lambda get: get("memory-9000", "cubby", "rss_mb"), 900,
        unit=" MB"),
    *(
        Bar(f"quiet tenant: p99 beside {flood}, by p99 alone",
            lambda get, row=row: get(row, "cubby", "p99_ratio"), 3, limit=(row, "p99_ratio"))
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
            yield {"bar": bar, "figure": None, "passes": None, "errors": 0, "limit": None}
        else:
            passes = bar.meets(figure, bar.bound) and not errors
            limit = value(results, bar.limit[0], "limit", bar.limit[1]) if bar.limit else None
            yield {"bar": bar, "figure": figure, "passes": passes, "errors": errors, "limit": limit}


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
        if entry["limit"]:
            cell += f" (the limit server itself: {number(entry['limit'])}{bar.unit})"
        lines.append([bar.text, word, cell, bound])
    yield from table(("bar", "result", "figure", "bound"), lines)


def plain(judged):
    """For the results file."""
    return [
        {"bar": entry["bar"].text, "bound": entry["bar"].bound, "figure": entry["figure"],
         "passes": entry["passes"], "errors": entry["errors"], "limit": entry["limit"]}
        for entry in judged
    ]
