"""Starting, watching and stopping one server at a time."""

import http.client
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path

from .problem import Problem, tail

HERE = Path(__file__).resolve().parent.parent
START_SECONDS = 30
STOP_SECONDS = 20
# What configures Cubby is not inherited: it is measured as it ships.
SETTINGS = ("CUBBY_", "CLERK_", "ADMIN_API_KEY", "RUST_LOG", "SQLD_", "LIBSQL_")
TICK = os.sysconf("SC_CLK_TCK")


class Kind:
    def __init__(self, about, command=None, stores=True, notes=True, ready="/readyz"):
        self.about = about
        self.command = command
        # A server that stores nothing needs no seeding.
        self.stores = stores
        # Whether it has the notes API; one without is in rows of SQL only.
        self.notes = notes
        # What answers 200 once it serves.
        self.ready = ready


def cubby(server, folder):
    return [server.ready.cubby, "serve", "--listen", f"127.0.0.1:{server.port}", "--data", folder,
            "--max-open", server.room]


def cubby_slow(server, folder):
    # Clients that gave up leave reads behind that would take minutes.
    return [server.ready.slow, "--listen", f"127.0.0.1:{server.port}", "--data", folder, "--max-open", server.room,
            "--drain-timeout", "1s"]


def limit(server, _):
    return [server.ready.limit, f"127.0.0.1:{server.port}", *([server.replay] if server.replay else [])]


def naive(server, folder):
    return [server.ready.naive, f"127.0.0.1:{server.port}", folder, server.room]


def node(server, folder):
    return [server.ready.node, HERE / "node" / "server.js", "127.0.0.1", server.port, folder, server.room]


def workerd(server, folder):
    # It has no bound on open objects: one leaves memory after ten idle seconds.
    return [server.ready.workerd, "serve", HERE / "workerd" / "config.capnp", "--experimental",
            f"--socket-addr=http=127.0.0.1:{server.port}", f"--directory-path=objects={folder}"]


def sqld(server, folder):
    return [server.ready.sqld, "--db-path", folder, "--http-listen-addr", f"127.0.0.1:{server.port}",
            "--admin-listen-addr", f"127.0.0.1:{server.admin_port}", "--enable-namespaces",
            "--disable-default-namespace", "--max-active-namespaces", server.room, "--no-welcome"]


KINDS = {
    "cubby": Kind("Cubby as it ships", cubby),
    "cubby-solo": Kind("Cubby with the settings of --solo-env", cubby),
    "limit": Kind("axum, the same bytes, nothing stored", limit, stores=False),
    "naive": Kind("axum, spawn_blocking, an r2d2 pool a tenant in moka", naive),
    "node": Kind("Node, hono, better-sqlite3, lru-cache", node),
    "workerd": Kind("a plain Durable Objects worker on workerd", workerd),
    "sqld": Kind("libSQL's server, a namespace a tenant (rows of SQL)", sqld, notes=False, ready="/health"),
    "raw": Kind("SQLite alone, no server (rows create-one, alone, cold, new)"),
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server process on a data folder. Its process group is its own, so that stopping it stops
    whatever it started, and the terminal's Ctrl-C does not reach it before us."""

    running = set()

    def __init__(self, name, ready, options, folder, room, replay=None, slow=False, slow_disk=False):
        self.name, self.ready, self.options = name, ready, options
        self.folder, self.room, self.replay = folder, room, replay
        self.stores = KINDS[name].stores
        self.command = cubby_slow if slow and name == "cubby" else KINDS[name].command
        # Where the shim counts the flushes that it lets through.
        self.slots = self.folder / "flushes" if slow_disk else None
        self.process = None

    def start(self):
        self.port = free_port()
        # For those that make databases at an address apart.
        self.admin_port = free_port()
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        self.log = self.folder / f"{self.name}.log"
        command = self.command(self, data)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(SETTINGS)}
        environment["NODE_ENV"] = "production"
        if self.name == "sqld":
            # By default it writes a line for each request.
            environment["RUST_LOG"] = "error"
        if self.name == "cubby-solo":
            environment.update(setting.split("=", 1) for setting in self.options.solo_env)
        if self.slots:
            environment.update(LD_PRELOAD=str(self.ready.shim), FLUSHES_FILE=str(self.slots),
                               FLUSHES_A_SECOND=str(self.options.flushes))
        with self.log.open("ab") as log:
            # The folder is the working directory too: no .env of the repository is read.
            self.process = subprocess.Popen(
                [str(part) for part in command], cwd=self.folder, env=environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )
        Server.running.add(self)
        self.wait_until_ready()
        return self

    def wait_until_ready(self):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            code = self.process.poll()
            if code is not None:
                self.stop()
                raise Problem(f"{self.name} ended with code {code} while starting{tail(self.log)}")
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
                connection.request("GET", KINDS[self.name].ready)
                status = connection.getresponse().status
                connection.close()
                if status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.02)
        log = tail(self.log)
        self.stop()
        raise Problem(f"{self.name} did not answer {KINDS[self.name].ready} within {START_SECONDS} s{log}")

    def stop(self):
        if not self.process:
            return
        for number, patience in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                pass
            try:
                self.process.wait(patience)
                break
            except subprocess.TimeoutExpired:
                continue
        self.process = None
        Server.running.discard(self)

    def restart(self):
        self.stop()
        return self.start()

    def remove(self):
        self.stop()
        if not self.options.keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def tree(self):
        """The ids of the server's process and all under it."""
        parents = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                fields = stat(int(entry.name))
                if fields:
                    parents.setdefault(int(fields[1]), []).append(int(entry.name))
        found, queue = [], [self.process.pid]
        while queue:
            found.append(queue.pop())
            queue += parents.get(found[-1], [])
        return found

    def cpu(self):
        """Seconds of CPU so far, user and system, children that ended included."""
        self.check_alive()
        ticks = 0
        for pid in self.tree():
            fields = stat(pid)
            if fields:
                ticks += sum(int(field) for field in fields[11:15])
        return ticks / TICK

    def flushes(self):
        """How many flushes the shim let through so far; None for a server without it."""
        if not self.slots:
            return None
        return struct.unpack("=QQ", self.slots.read_bytes())[1] if self.slots.exists() else 0

    def usage(self):
        self.check_alive()
        rss = threads = descriptors = 0
        for pid in self.tree():
            try:
                status = dict(line.split(":", 1) for line in
                              Path(f"/proc/{pid}/status").read_text().splitlines())
                rss += int(status.get("VmRSS", "0 kB").split()[0])
                threads += int(status["Threads"])
                descriptors += len(os.listdir(f"/proc/{pid}/fd"))
            except OSError:
                continue
        return {"rss_mb": rss / 1024, "threads": threads, "descriptors": descriptors}

    def check_alive(self):
        code = self.process.poll() if self.process else "none"
        if code is not None:
            raise Problem(f"{self.name} ended with code {code} while measured{tail(self.log)}")


def stat(pid):
    """The fields of /proc/PID/stat after the name, which may itself hold spaces."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
