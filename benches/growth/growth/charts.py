"""Which figures are drawn, and the tables of all of them."""

from harness.report import number, table

from .plot import Chart

# The axes are the same whatever was measured.
LEFT, RIGHT = 100, 1_000_000
TENANTS = "tenants on disk"

COLUMNS = (
    ("start_ms", "start-up, ms"),
    ("rest_mb", "memory, none open, MB"),
    ("hot_mb", "memory, 100 open and hot, MB"),
    ("hot_cpu_us", "hot read, CPU µs"),
    ("hot_rate", "hot reads/s"),
    ("cold_us", "cold read, p50 µs"),
    ("cold_cpu_us", "cold read, CPU µs"),
    ("find_us", "catalog: find one, p50 µs"),
    ("unknown_us", "catalog: no such user, p50 µs"),
    ("counts_us", "catalog: counts, p50 µs"),
    ("page_us", "catalog: page of 100, p50 µs"),
    ("create_us", "new tenant and first note, p50 µs"),
)


def line(results, label, name, scale=1.0):
    return label, [(entry["tenants"], entry[name] * scale) for entry in results["sizes"] if name in entry]


def charts(results):
    """Each chart by the name of its file."""
    yield "growth-hot", Chart("Reading from a tenant that is open", TENANTS, "server CPU, µs a request", LEFT, RIGHT, 25, [
        line(results, "hot read", "hot_cpu_us"),
    ])
    yield "growth-cold", Chart("Reading from a tenant that is not open", TENANTS, "µs a request", LEFT, RIGHT, 500, [
        line(results, "latency, median", "cold_us"),
        line(results, "server CPU", "cold_cpu_us"),
    ])
    yield "growth-start", Chart("From start to ready", TENANTS, "ms", LEFT, RIGHT, 100, [
        line(results, "start-up", "start_ms"),
    ])
    yield "growth-memory", Chart("Memory", TENANTS, "resident, MB", LEFT, RIGHT, 100, [
        line(results, "none open", "rest_mb"),
        line(results, "100 open and hot", "hot_mb"),
    ])
    yield "growth-catalog", Chart("What is asked of the catalog", TENANTS, "median, ms", LEFT, RIGHT, 2, [
        line(results, "find one", "find_us", 1e-3),
        line(results, "no such user", "unknown_us", 1e-3),
        line(results, "counts", "counts_us", 1e-3),
        line(results, "page of 100", "page_us", 1e-3),
    ])
    yield "growth-create", Chart("A new tenant and its first note", TENANTS, "median, ms", LEFT, RIGHT, 10, [
        line(results, "durable", "create_us", 1e-3),
    ])
    points = results.get("open", [])
    yield "growth-open", Chart(
        "Reading from ever more open tenants", "tenants open", "thousand requests/s", 10, 100_000, 100, [
            ("requests/s", [(point["open"], point["rate"] / 1e3) for point in points]),
        ])
    beside = results.get("cold_beside", [])
    yield "growth-cold-beside", Chart(
        "Reading from a tenant that is not open, beside others that are", "tenants open", "µs a request",
        10, 100_000, 500, [
            ("latency, median", [(point["open"], point["cold_us"]) for point in beside]),
            ("server CPU", [(point["open"], point["cold_cpu_us"]) for point in beside]),
        ])


def markdown(results):
    machine = results["machine"]
    yield (f"{machine['cores']} cores ({machine['cpu']}), Linux {machine['kernel']}, data on "
           f"{machine['file_system']}, cubby {results['version']}. {results['seconds']} s of load a figure.")
    for word in results["left_out"]:
        yield f"\nNot measured: {word}"
    sizes = results["sizes"]
    if sizes:
        yield ""
        head = [f"{entry['tenants']:,}" for entry in sizes]
        # The first column is text; `table` wants two.
        yield from table(("tenants", "", *head), [
            (label, "", *(number(entry.get(name)) for entry in sizes)) for name, label in COLUMNS])
    if results.get("open"):
        yield f"\nOpen tenants, of {results['room']:,} that the limit on descriptors allows:\n"
        yield from table(("open", "", "requests/s", "CPU µs/request", "memory, MB", "threads"), [
            (f"{point['open']:,}", "", number(point["rate"]), number(point["cpu_us"]), number(point["mb"]),
             number(point["threads"])) for point in results["open"]])
    if results.get("cold_beside"):
        yield "\nA read of a tenant that is not open, beside others that are:\n"
        yield from table(("open", "", "p50 µs", "CPU µs"), [
            (f"{point['open']:,}", "", number(point["cold_us"]), number(point["cold_cpu_us"]))
            for point in results["cold_beside"]])
