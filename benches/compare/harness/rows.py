"""The workloads. Each takes a running server on its own data folder and returns one sample."""

import random

from . import load, sql
from .problem import Problem

PACE = 400

# Which servers are in rows of SQL over HTTP.
SQL_SERVERS = ("cubby", "limit", "sqld")


class Row:
    def __init__(self, title, work, room=1000, raw=None, only=(), keeps_data=False, slow=False,
                 slow_disk=False):
        self.title = title
        self.work = work
        # How many tenants a server may have open.
        self.room = room
        # What `compare-raw` measures for this row, as its command and arguments.
        self.raw = raw
        # The servers the row is about, when it is not about all.
        self.only = only
        # A row that only reads seeds a server once and starts it anew on the same folder.
        self.keeps_data = keeps_data
        # Cubby is started with the routes of `slow/`.
        self.slow = slow
        # The servers run on a disk of `--flushes` flushes a second, by way of `shim/`.
        self.slow_disk = slow_disk

    def runs_on(self, name):
        if name == "raw":
            return self.raw is not None
        # libSQL's server has no notes API, so it is in the rows that name it.
        return name in self.only if self.only else name != "sqld"


class Scale:
    """Sizes, smaller in a smoke test."""

    def __init__(self, options):
        self.options = options
        self.hot = max(int(100 * options.few), 10)
        self.many = max(int(1000 * options.few), 50)
        self.open = max(int(9000 * options.few), 200)
        self.cold = options.cold_tenants


def lists(paths):
    return sorted({"/" + path.split("/")[1] + "?limit=20" for path in paths})


def users(paths):
    return sorted({"/" + path.split("/")[1] for path in paths})


def warmed(server, options, **work):
    load.wrk(server, options, options.warmup, **work)
    return load.measure(server, options, **work)


def read(server, options, scale, _):
    paths = load.seed(server, scale.hot, 20)
    return warmed(server, options, reads=paths)


def list_twenty(server, options, scale, _):
    paths = load.seed(server, scale.hot, 20)
    return warmed(server, options, reads=lists(paths))


def create(server, options, scale, _):
    paths = load.seed(server, scale.hot, 1)
    return warmed(server, options, writes=users(paths))


def create_slow(server, options, scale, kept):
    sample = create(server, options, scale, kept)
    if not sample["flush_rate"]:
        raise Problem(f"{server.name} flushes nothing by way of libc, so its flushes have no bound")
    return sample


def create_one(server, options, scale, _):
    paths = load.seed(server, 1, 1)
    return warmed(server, options, writes=users(paths))


def alone(server, options, scale, _):
    paths = load.seed(server, 1, 1)
    return warmed(server, options, writes=users(paths), connections=1)


def mix(server, options, scale, _):
    paths = load.seed(server, scale.many, 5)
    return warmed(server, options, reads=paths, writes=users(paths), share=0.1)


def cold(server, options, scale, kept):
    if "paths" not in kept:
        kept["paths"] = load.seed(server, scale.cold, 1)
        # What seeding left open is closed, and the server measured as it is after a start.
        server.restart()
    return warmed(server, options, reads=kept["paths"])


def new(server, options, scale, _):
    # The warm-up fills the room for open tenants, so that evictions are part of what is measured.
    load.wrk(server, options, options.warmup, fresh="user_warm")
    return load.measure(server, options, fresh="user_new")


def memory(server, options, scale, _):
    paths = load.seed(server, scale.many, 5)
    for work in (
        {"reads": paths},
        {"reads": lists(paths)},
        {"reads": paths, "writes": users(paths), "share": 0.1},
    ):
        load.wrk(server, options, options.seconds, **work)
    errors = load.touch(server, paths[::5])
    return {"errors": errors, "open": scale.many, **server.usage()}


def memory_open(server, options, scale, _):
    paths = load.seed(server, scale.open, 1)
    server.restart()
    errors = load.touch(server, paths)
    usage = server.usage()
    # An open tenant holds its file and its log. Fewer, and some were closed again to make room:
    # the memory would be that of another row.
    if usage["descriptors"] < 2 * scale.open:
        raise Problem(f"only {usage['descriptors']} descriptors for {scale.open} tenants: not all are open. "
                      f"Is the limit of descriptors at least {2 * scale.open + 1000}?")
    return {"errors": errors, "open": scale.open, **usage}


def sql_select(server, options, scale, _):
    notes = sql.seed(server, scale.hot, 20)
    return warmed(server, options, posts=sql.selects(server, notes))


def sql_creates(server, options, scale, _):
    notes = sql.seed(server, scale.hot, 1)
    sample = warmed(server, options, posts=sql.inserts(server, notes))
    # SQL that fails is answered 200, too.
    stored = sql.count(server, notes)
    if stored < sample["requests"]:
        raise Problem(f"{server.name}: {stored} rows are stored after {sample['requests']} inserts in the run alone")
    return sample


def sql_memory(server, options, scale, _):
    notes = sql.seed(server, scale.many, 5)
    for posts in (sql.selects(server, notes), sql.inserts(server, notes)):
        load.wrk(server, options, options.seconds, posts=posts)
    sql.touch(server, notes)
    return {"errors": 0, "open": scale.many, **server.usage()}


def two_tenants(server):
    """The notes of a quiet tenant, and the path of one to be flooded."""
    paths = load.seed(server, 2, 20)
    quiet, flooded = users(paths)
    return [path for path in paths if path.startswith(quiet + "/")], flooded


def fairness(server, options, scale, _):
    quiet, flooded = two_tenants(server)
    load.wrk(server, options, options.warmup, writes=[flooded])
    sample, flood = beside(server, options, quiet, flooded, writes=[flooded])
    sample["errors"] += flood["socket_errors"]
    return sample


def slow_reads(route):
    def work(server, options, scale, _):
        quiet, flooded = two_tenants(server)
        sample, flood = beside(server, options, quiet, flooded, reads=[flooded + route])
        # Most of such a flood is refused, or waits until the client gives up. Some must have run.
        if flood["requests"] <= flood["bad_status"]:
            raise Problem(f"none of {flood['requests']} slow reads succeeded: that is no flood of slow reads")
        return sample

    return work


def beside(server, options, paths, flooded, **flood):
    """A quiet tenant's paced reads alone, then while another is flooded."""
    load.wrk(server, options, options.warmup, reads=paths, connections=1)
    alone, errors = load.paced(server.port, paths, PACE, options.seconds)
    # The flood outlasts the paced reads at both ends.
    with load.Flood(server, options, flooded, options.seconds + 3, **flood) as flood:
        beside, more = load.paced(server.port, paths, PACE, options.seconds)
        result = flood.result()
    p99 = [samples[int(len(samples) * 0.99)] for samples in (alone, beside)]
    return {
        "p50_us": beside[len(beside) // 2],
        "p50_alone_us": alone[len(alone) // 2],
        "p99_us": p99[1],
        "p99_alone_us": p99[0],
        "p99_ratio": p99[1] / p99[0],
        "flood_rate": result["requests"] / result["seconds"],
        # A server may refuse part of a flood (503): that is no error of the quiet tenant's.
        "flood_refused": result["bad_status"],
        "errors": errors + more,
        **server.usage(),
    }, result


ROWS = {
    "read": Row("read one note, 100 hot tenants", read),
    "list": Row("list 20 notes, 100 hot tenants", list_twenty),
    "create": Row("durable create, 100 tenants", create),
    "create-slow": Row("durable create, 100 tenants, disk of 3,000 flushes/s", create_slow, slow_disk=True,
                       only=("cubby", "cubby-solo", "naive", "node", "workerd")),
    "create-one": Row("durable create, one tenant, 64 connections", create_one, raw=("insert",)),
    "alone": Row("durable create, one writer alone", alone, raw=("insert",)),
    "mix": Row("90/10 read/create, 1,000 tenants", mix),
    "cold": Row("cold: 20,000 tenants, room for 500", cold, room=500, keeps_data=True,
                raw=("open", "cold_tenants")),
    "new": Row("new tenant and first note", new, raw=("create", "connections", "room")),
    "memory": Row("memory, 1,000 open after hot work", memory),
    "memory-9000": Row("memory, 9,000 open, one read each", memory_open, room=9000, only=("cubby",)),
    "sql-select": Row("SQL: select one row by key, 100 hot tenants", sql_select, only=SQL_SERVERS),
    "sql-creates": Row("SQL: batch of one insert, 100 tenants", sql_creates, only=("cubby", "sqld")),
    "sql-memory": Row("SQL: memory, 1,000 open after hot work", sql_memory, only=("cubby", "sqld")),
    "fairness": Row("a quiet tenant beside one flooded with writes", fairness),
    "fairness-slow": Row("a quiet tenant beside one flooded with slow reads", slow_reads("/slow"),
                         only=("cubby", "limit"), slow=True),
    "fairness-inline": Row("the same, slow reads passed off as short ones", slow_reads("/slow-inline"),
                           only=("cubby", "limit"), slow=True),
}


def shuffled(names, round_number):
    """The order of servers in a round: no server always comes after the same one."""
    order = list(names)
    random.Random(round_number).shuffle(order)
    return order
