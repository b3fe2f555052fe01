"""Starting, watching and stopping one server at a time."""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from .problem import Problem, tail

HERE = Path(__file__).resolve().parent.parent
START_SECONDS = 30
STOP_SECONDS = 20
# What configures Cubby is not inherited: it is measured as it ships.
SETTINGS = ("CUBBY_", "CLERK_", "ADMIN_API_KEY", "RUST_LOG")
TICK = os.sysconf("SC_CLK_TCK")


class Kind:
    def __init__(self, about, command=None, stores=True):
        self.about = about
        self.command = command
        # A server that stores nothing needs no seeding.
        self.stores = stores


def cubby(ready, port, folder, room, _):
    return [ready.cubby, "serve", "--listen", f"127.0.0.1:{port}", "--data", folder, "--max-open", room]


def cubby_slow(ready, port, folder, room, _):
    # Clients that gave up leave reads behind that would take minutes.
    return [ready.slow, "--listen", f"127.0.0.1:{port}", "--data", folder, "--max-open", room,
            "--drain-timeout", "1s"]


def limit(ready, port, folder, room, replay):
    return [ready.limit, f"127.0.0.1:{port}", *([replay] if replay else [])]


def naive(ready, port, folder, room, _):
    return [ready.naive, f"127.0.0.1:{port}", folder, room]


def node(ready, port, folder, room, _):
    return [ready.node, HERE / "node" / "server.js", "127.0.0.1", port, folder, room]


def workerd(ready, port, folder, room, _):
    # It has no bound on open objects: one leaves memory after ten idle seconds.
    return [ready.workerd, "serve", HERE / "workerd" / "config.capnp", "--experimental",
            f"--socket-addr=http=127.0.0.1:{port}", f"--directory-path=objects={folder}"]


KINDS = {
    "cubby": Kind("Cubby as it ships", cubby),
    "cubby-solo": Kind("Cubby with the settings of --solo-env", cubby),
    "limit": Kind("axum, the same bytes, nothing stored", limit, stores=False),
    "naive": Kind("axum, spawn_blocking, an r2d2 pool a tenant in moka", naive),
    "node": Kind("Node, hono, better-sqlite3, lru-cache", node),
    "workerd": Kind("a plain Durable Objects worker on workerd", workerd),
    "raw": Kind("SQLite alone, no server (rows create-one, cold, new)"),
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server process on a data folder. Its process group is its own, so that stopping it stops
    whatever it started, and the terminal's Ctrl-C does not reach it before us."""

    running = set()

    def __init__(self, name, ready, options, folder, room, replay=None, slow=False):
        self.name, self.ready, self.options = name, ready, options
        self.folder, self.room, self.replay = folder, room, replay
        self.stores = KINDS[name].stores
        self.command = cubby_slow if slow and name == "cubby" else KINDS[name].command
        self.process = None

    def start(self):
        self.port = free_port()
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        self.log = self.folder / f"{self.name}.log"
        command = self.command(self.ready, self.port, data, self.room, self.replay)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(SETTINGS)}
        environment["NODE_ENV"] = "production"
        if self.name == "cubby-solo":
            environment.update(setting.split("=", 1) for setting in self.options.solo_env)
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
                connection.request("GET", "/readyz")
                status = connection.getresponse().status
                connection.close()
                if status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.02)
        log = tail(self.log)
        self.stop()
        raise Problem(f"{self.name} did not answer /readyz within {START_SECONDS} s{log}")

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
