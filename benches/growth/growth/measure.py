"""One number of tenants at a time: what each thing costs on a folder that holds so many."""

import http.client
import json
import random
import time
from statistics import median
from types import SimpleNamespace

from harness import load
from harness.problem import Problem, tail
from harness.servers import START_SECONDS, Server

# Open at once where the number of open tenants is not what is varied.
OPEN = 100
# Room while cold opens are measured: fewer than any number of tenants measured.
ROOM = 50
COLD = 2000
STARTS = 5
CATALOG = 200
KEY = "growth-growth-growth"


def user(number):
    """As `benches/tenants` names them."""
    return f"user_{number:08}"


class Cubby(Server):
    """The server on a folder that outlives it."""

    def __init__(self, binary, folder, room=None):
        options = SimpleNamespace(keep=True, solo_env=[])
        super().__init__("cubby", SimpleNamespace(cubby=binary), options, folder, room)
        self.command = self.serve

    def serve(self, ready, port, folder, room, _):
        limit = ["--max-open", room] if room else []
        return [ready.cubby, "serve", "--listen", f"127.0.0.1:{port}", "--data", folder,
                "--admin-api-key", KEY, "--log", "info", "--log-format", "json", *limit]

    def start(self):
        self.began = time.perf_counter()
        return super().start()

    def wait_until_ready(self):
        """As its parent does, but every millisecond: the time itself is measured."""
        while time.perf_counter() - self.began < START_SECONDS:
            if self.process.poll() is not None:
                break
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_SECONDS)
                connection.request("GET", "/readyz")
                status = connection.getresponse().status
                connection.close()
                if status == 200:
                    self.started_in = time.perf_counter() - self.began
                    return
            except OSError:
                time.sleep(0.001)
        log = tail(self.log)
        self.stop()
        raise Problem(f"cubby was not ready within {START_SECONDS} s{log}")

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()


def get(client, path, wanted=200):
    status, _, body, _ = client.request("GET", path)
    if status != wanted:
        raise Problem(f"GET {path}: status {status}, not {wanted}: {body[:200]!r}")
    return body


def get_note(client, path):
    """A user who is not there has no notes and is no error, and costs less."""
    if b'"note_' not in get(client, path):
        raise Problem(f"GET {path}: no note")


def timed(work, arguments):
    """The median of what each call takes, in µs."""
    samples = []
    for argument in arguments:
        began = time.perf_counter()
        work(argument)
        samples.append((time.perf_counter() - began) * 1e6)
    return median(samples)


def spread(tenants, count):
    """Tenants in a random order, each as long ago as can be."""
    return random.Random(7).sample(range(tenants), min(tenants, count))


def starts(binary, folder):
    times, memory = [], 0
    for _ in range(STARTS):
        with Cubby(binary, folder) as server:
            times.append(server.started_in * 1000)
            memory = server.usage()["rss_mb"]
    return {"start_ms": median(times), "rest_mb": memory}


def cold(binary, folder, tenants):
    """Reads that each find their tenant closed: more of them in turn than there is room for."""
    order = spread(tenants, COLD)
    rounds = max(1, COLD // len(order))
    with Cubby(binary, folder, ROOM) as server:
        client = load.Client(server.port)
        paths = [f"/{user(number)}?limit=1" for number in order]
        for path in paths[:ROOM]:
            get_note(client, path)
        before = server.cpu()
        took = timed(lambda path: get_note(client, path), (paths[ROOM:] + paths[:ROOM]) * rounds)
        used = server.cpu() - before
        client.close()
        return {"cold_us": took, "cold_cpu_us": used * 1e6 / (len(paths) * rounds)}


def hot(server, options, numbers):
    """Requests to tenants that are all open."""
    paths = [f"/{user(number)}?limit=1" for number in numbers]
    client = load.Client(server.port)
    for path in paths[:100]:
        get_note(client, path)
    client.close()
    errors = load.touch(server, paths)
    load.wrk(server, options, options.warmup, reads=paths)
    sample = load.measure(server, options, reads=paths)
    if errors or sample["errors"]:
        raise Problem(f"{errors + sample['errors']} requests to open tenants failed{tail(server.log)}")
    return sample


def hot_few(binary, folder, tenants, options):
    with Cubby(binary, folder) as server:
        sample = hot(server, options, spread(tenants, OPEN))
        return {"hot_cpu_us": sample["cpu_us"], "hot_rate": sample["rate"], "hot_mb": server.usage()["rss_mb"]}


def catalog(binary, folder, tenants, fresh):
    """What an operator and a new user ask of the catalog. `fresh` makes ids never used before."""
    with Cubby(binary, folder) as server:
        client = load.Client(server.port, f"authorization: Bearer {KEY}\r\n")
        order = random.Random(11)
        some = [order.randrange(tenants) for _ in range(CATALOG)]
        # Full ones, however few tenants there are.
        page = [f"/api/admin/tenants?limit=100&after={user(number % max(tenants - 100, 1))}" for number in some]
        one = [f"/api/admin/tenants?limit=1&after={user(number)}" for number in some]
        show = [f"/api/admin/tenants/{user(number)}" for number in some]
        get(client, page[0])
        create = [f"/{next(fresh)}" for _ in range(CATALOG)]

        def post(path):
            status, _, body, _ = client.request("POST", path, load.BODY)
            if status != 201:
                raise Problem(f"POST {path}: status {status}: {body[:200]!r}")

        figures = {
            "page_us": timed(lambda path: get(client, path), page),
            # A page of one, with the counts that come with each page.
            "counts_us": timed(lambda path: get(client, path), one),
            "find_us": timed(lambda path: get(client, path), show),
            "unknown_us": timed(lambda number: get(client, f"/nobody_{number}/note_abcdefghijklmnop", 404), some),
            "create_us": timed(post, create),
        }
        client.close()
        return figures


def open_tenants(binary, folder, tenants, options):
    """Throughput over ever more open tenants, up to what the descriptors allow."""
    with Cubby(binary, folder) as server:
        room = capacity(server)
        counts = sorted({count for count in (10, 100, 1000, 3000, 10_000, room) if count <= min(room, tenants)})
        points = []
        for count in counts:
            sample = hot(server, options, range(count))
            # An open tenant has its file and its log.
            if sample["descriptors"] < 2 * count:
                raise Problem(f"{sample['descriptors']} descriptors for {count} tenants: not all are open")
            points.append({"open": count, "rate": sample["rate"], "cpu_us": sample["cpu_us"],
                           "mb": sample["rss_mb"], "threads": sample["threads"]})
        return room, points


def cold_beside(binary, folder, tenants):
    """Cold reads while ever more others are open."""
    with Cubby(binary, folder) as server:
        most = capacity(server)
    points = []
    for room in sorted({room for room in (10, 100, 1000, 3000, 10_000, most) if room <= min(most, tenants // 2)}):
        with Cubby(binary, folder, room) as server:
            if load.touch(server, [f"/{user(number)}?limit=1" for number in range(room)]):
                raise Problem(f"requests to fill the room failed{tail(server.log)}")
            client = load.Client(server.port)
            paths = [f"/{user(number)}?limit=1" for number in range(room, min(tenants, room + COLD))]
            before = server.cpu()
            took = timed(lambda path: get_note(client, path), paths)
            used = server.cpu() - before
            client.close()
            points.append({"open": room, "cold_us": took, "cold_cpu_us": used * 1e6 / len(paths)})
    return points


def capacity(server):
    """The room for open tenants, as the server says it when it starts."""
    for line in server.log.read_text().splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if "room" in said:
            return int(said["room"])
    raise Problem(f"the server did not say how many tenants may be open{tail(server.log)}")
