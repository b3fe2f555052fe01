"""Load on a server: seeding, wrk, a paced client, and raw SQLite."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

from .problem import Problem, tail

HERE = Path(__file__).resolve().parent.parent
TEXT = "Bring the blue notebook and two pens to the meeting on Thursday."
BODY = json.dumps({"text": TEXT}).encode()


class Client:
    """One connection. http.client spends longer on a response than most servers here do."""

    def __init__(self, port, headers=""):
        # Lines that every request has besides, each with its end.
        self.headers = headers
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rest = b""

    def request(self, method, path, body=b"", host="localhost"):
        head = f"{method} {path} HTTP/1.1\r\nhost: {host}\r\n{self.headers}"
        if body:
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.socket.sendall(head.encode() + b"\r\n" + body)
        while b"\r\n\r\n" not in self.rest:
            self.receive()
        head, self.rest = self.rest.split(b"\r\n\r\n", 1)
        status, *lines = head.decode().split("\r\n")
        headers = {}
        for line in lines:
            name, value = line.split(":", 1)
            headers[name.lower()] = value.strip()
        if "content-length" not in headers:
            raise Problem(f"{method} {path}: a response without content-length is not understood here")
        length = int(headers["content-length"])
        while len(self.rest) < length:
            self.receive()
        body, self.rest = self.rest[:length], self.rest[length:]
        return int(status.split(" ")[1]), headers, body, head

    def receive(self):
        data = self.socket.recv(65536)
        if not data:
            raise Problem("the server closed the connection")
        self.rest += data

    def close(self):
        self.socket.close()


def names(tenants, first=0):
    return [f"user_{number:06}" for number in range(first, first + tenants)]


def for_each(server, users, work, connections=64):
    """Calls `work(client, user)` for each, on as many connections at once."""
    left, failures, lock = iter(users), [], threading.Lock()

    def take():
        try:
            client = Client(server.port)
            while not failures:
                with lock:
                    user = next(left, None)
                if user is None:
                    return client.close()
                work(client, user)
        except Exception as failure:  # noqa: BLE001: shown by the main thread
            failures.append(failure)

    workers = [threading.Thread(target=take, daemon=True) for _ in range(min(connections, len(users)))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    server.check_alive()
    if failures:
        raise Problem(f"seeding {server.name}: {failures[0]}{tail(server.log)}")


def seed(server, tenants, notes, connections=64, first=0):
    """Creates `notes` notes for each tenant over HTTP; returns the path of every note."""
    users = names(tenants, first)
    if not server.stores:
        return [f"/{user}/note_abcdefghijklmnop" for user in users for _ in range(notes)]
    paths = []

    def work(client, user):
        for _ in range(notes):
            status, headers, body, _ = client.request("POST", f"/{user}", BODY)
            if status != 201:
                raise Problem(f"POST /{user} while seeding: status {status}, {body[:200]!r}")
            paths.append(headers["location"])

    for_each(server, users, work, connections)
    # A location may be absolute or a path.
    return [path if path.startswith("/") else "/" + path.split("/", 3)[3] for path in paths]


def touch(server, paths, connections=16):
    """Reads every path once."""
    left, failures, lock = iter(paths), [], threading.Lock()

    def work():
        client = Client(server.port)
        while True:
            with lock:
                path = next(left, None)
            if path is None:
                return client.close()
            status = client.request("GET", path)[0]
            if status != 200:
                failures.append(f"GET {path}: status {status}")

    workers = [threading.Thread(target=work, daemon=True) for _ in range(connections)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(failures)


class Wrk:
    """One run of wrk. Used as a context so that none is left behind."""

    running = set()

    def __init__(self, server, options, seconds, reads=(), writes=(), posts=(), share=None, fresh=None,
                 connections=None, threads=None):
        connections = connections or options.connections
        environment = dict(os.environ)
        for name, paths in (("LOAD_READS", reads), ("LOAD_WRITES", writes)):
            environment.pop(name, None)
            if paths:
                file = server.folder / name.lower()
                file.write_text("\n".join(paths) + "\n")
                environment[name] = str(file)
        # Each with its host, path and body.
        environment.pop("LOAD_POSTS", None)
        if posts:
            file = server.folder / "load_posts"
            file.write_text("".join("\t".join(post) + "\n" for post in posts))
            environment["LOAD_POSTS"] = str(file)
        environment.pop("LOAD_SHARE", None)
        environment.pop("LOAD_NEW", None)
        if share is not None:
            environment["LOAD_SHARE"] = str(share)
        if fresh:
            environment["LOAD_NEW"] = fresh
        threads = min(threads or options.threads, connections)
        self.process = subprocess.Popen(
            ["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "--latency",
             "--timeout", "10s", "-s", str(HERE / "load.lua"), f"http://127.0.0.1:{server.port}"],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )
        Wrk.running.add(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        if self.process.poll() is None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()
        Wrk.running.discard(self)

    def result(self):
        text, _ = self.process.communicate()
        for line in text.splitlines():
            if line.startswith("RESULT "):
                return json.loads(line[7:])
        raise Problem(f"wrk said no result:\n{text.strip()}")


def wrk(server, options, seconds, **load):
    with Wrk(server, options, seconds, **load) as run:
        return run.result()


def measure(server, options, **load):
    """The numbers of one row, from one run of wrk."""
    os.sync()
    before, flushes, began = server.cpu(), server.flushes(), time.monotonic()
    result = wrk(server, options, options.seconds, **load)
    used = server.cpu() - before
    # By the time between both readings, in which wrk starts and ends too, so that it is not above the bound.
    elapsed = time.monotonic() - began
    bounded = {} if flushes is None else {"flush_rate": (server.flushes() - flushes) / elapsed}
    # An error is quick to make: only what succeeded counts as work done.
    good = result["requests"] - result["bad_status"]
    if not good:
        raise Problem(f"{server.name}: none of {result['requests']} responses was a success; "
                      f"{result['socket_errors']} socket errors{tail(server.log)}")
    return {
        "rate": good / result["seconds"],
        "p50_us": result["p50_us"],
        "p99_us": result["p99_us"],
        "cpu_us": used * 1e6 / good,
        "errors": result["bad_status"] + result["socket_errors"],
        "requests": result["requests"],
        **bounded,
        **server.usage(),
    }


def paced(port, paths, rate, seconds):
    """Reads at a steady pace over one connection; returns latencies in µs, sorted, and errors.
    A late response delays the next request but is not skipped: what it makes wait is counted, as
    latency runs from the moment the request was due."""
    client = Client(port)
    samples, errors = [], 0
    start = time.perf_counter()
    for number in range(int(rate * seconds)):
        due = start + number / rate
        wait = due - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        # The client's own late wake-up is not the server's; a backlog of its responses is.
        began = time.perf_counter() if wait > 0 else due
        status = client.request("GET", paths[number % len(paths)])[0]
        samples.append((time.perf_counter() - began) * 1e6)
        errors += status != 200
    client.close()
    return sorted(samples), errors


def raw(ready, what, folder, *arguments):
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([str(ready.raw), what, str(folder), *map(str, arguments)],
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Problem(f"compare-raw {what} failed: {done.stderr.strip()}")
    result = json.loads(done.stdout)
    return {
        "rate": result["requests"] / result["seconds"],
        "p50_us": result["p50_us"],
        "p99_us": result["p99_us"],
        "cpu_us": result["cpu_us"],
        "errors": 0,
        "requests": result["requests"],
        "sqlite": result["sqlite"],
    }


class Flood:
    """Load on one tenant from many connections, and whatever the hook adds, until left."""

    hooks = set()

    def __init__(self, server, options, tenant, seconds, **load):
        self.wrk = Wrk(server, options, seconds, threads=1, **load)
        self.hook = None
        if options.flood_hook:
            environment = {**os.environ, "BASE_URL": f"http://127.0.0.1:{server.port}",
                           "FLOOD_TENANT": tenant.strip("/")}
            self.hook = subprocess.Popen(["sh", "-c", options.flood_hook], env=environment,
                                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                         stderr=subprocess.DEVNULL, start_new_session=True)
            Flood.hooks.add(self.hook)
        # wrk makes its requests and connections first.
        time.sleep(1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.wrk.stop()
        if self.hook:
            end_hook(self.hook)

    def result(self):
        return self.wrk.result()


def end_hook(hook):
    if hook.poll() is None:
        try:
            os.killpg(hook.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        hook.wait()
    Flood.hooks.discard(hook)


def stop_all():
    for run in list(Wrk.running):
        run.stop()
    for hook in list(Flood.hooks):
        end_hook(hook)
