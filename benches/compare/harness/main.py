"""From the command line to the tables."""

import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from . import bars, load, report
from .options import parse
from .prepare import prepare, say
from .probe import probe, probe_sql
from .problem import Problem
from .rows import ROWS, SQL_SERVERS, Scale, shuffled
from .servers import KINDS, Server


class Run:
    def __init__(self, options, ready, folder):
        self.options, self.ready, self.folder = options, ready, folder
        self.scale = Scale(options)
        self.replay = None
        self.servers = [name for name in KINDS if name in options.servers]
        self.results = {
            "options": {key: getattr(options, key) for key in
                        ("seconds", "warmup", "rounds", "connections", "threads", "cold_tenants", "flushes",
                         "quick")},
            "machine": ready.machine,
            "versions": ready.versions,
            "not_started": {},
            "response_bytes": {},
            "rows": {},
        }

    def server(self, name, room, folder, slow=False, slow_disk=False):
        return Server(name, self.ready, self.options, folder, room, self.replay, slow, slow_disk)

    def probe(self):
        """Starts each server once. One that fails is reported, and left out of the rows."""
        say("probing")
        captured = self.folder / "captured"
        captured.mkdir()
        for name in list(self.servers):
            if name == "raw":
                continue
            server = self.server(name, 100, self.folder / f"probe-{name}")
            try:
                server.start()
                keep = captured if name == "cubby" else None
                sizes = {**(probe(server, keep) if KINDS[name].notes else {}),
                         **(probe_sql(server, keep) if name in SQL_SERVERS else {})}
                self.results["response_bytes"][name] = sizes
                say(f"  {name}: ready; bytes a response: " +
                    ", ".join(f"{route} {size}" for route, size in sizes.items()))
                if keep:
                    self.replay = captured
            except (Problem, OSError) as problem:
                self.servers.remove(name)
                self.results["not_started"][name] = str(problem)
                say(f"  {name}: NOT MEASURED: {problem}")
            finally:
                server.remove()

    def measure(self):
        for row_name in self.options.rows:
            row = ROWS[row_name]
            names = [name for name in self.servers if row.runs_on(name)]
            entries = {name: {"samples": [], "failures": []} for name in names}
            self.results["rows"][row_name] = entries
            kept = {name: {} for name in names}
            for number in range(self.options.rounds):
                for name in shuffled(names, number):
                    say_row = f"{row_name}, round {number + 1} of {self.options.rounds}, {name}"
                    began = time.monotonic()
                    try:
                        sample = self.sample(row_name, row, name, number, kept[name])
                    except (Problem, OSError) as problem:
                        entries[name]["failures"].append(str(problem))
                        say(f"{say_row}: FAILED: {problem}")
                        continue
                    entries[name]["samples"].append(sample)
                    entries[name]["median"] = report.medians(entries[name]["samples"])
                    say(f"{say_row}: {brief(sample)} ({time.monotonic() - began:.0f} s)")

    def sample(self, row_name, row, name, number, kept):
        shared = row.keeps_data and name != "raw"
        folder = self.folder / (f"{row_name}-{name}" if shared else f"{row_name}-{name}-{number}")
        if name == "raw":
            what, *sizes = row.raw
            sizes = [row.room if size == "room" else getattr(self.options, size) for size in sizes]
            return load.raw(self.ready, what, folder, self.options.seconds, *sizes)
        server = self.server(name, row.room, folder, row.slow, row.slow_disk)
        try:
            server.start()
            return row.work(server, self.options, self.scale, kept)
        except (Problem, OSError):
            # Half-seeded data is no data.
            kept.clear()
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            # The data is removed at the end: ext4 does not give the inode of a file away for 35 s after its removal, and whoever
            # makes files meanwhile pays for looking at each of them (`recently_deleted` in fs/ext4/ialloc.c).
            server.stop()


def brief(sample):
    parts = []
    if "rate" in sample:
        parts.append(f"{report.number(sample['rate'])}/s, CPU {report.number(sample['cpu_us'])} µs, "
                     f"p50 {report.latency(sample['p50_us'])}, p99 {report.latency(sample['p99_us'])}")
    elif "p99_ratio" in sample:
        parts.append(f"p99 {report.latency(sample['p99_us'])}, alone "
                     f"{report.latency(sample['p99_alone_us'])}")
    elif "rss_mb" in sample:
        parts.append(f"{report.number(sample['rss_mb'])} MB, {sample['threads']} threads, "
                     f"{sample['descriptors']} descriptors")
    if "flush_rate" in sample:
        parts.append(f"{report.number(sample['flush_rate'])} flushes/s")
    if sample["errors"]:
        parts.append(f"{sample['errors']} ERRORS")
    return ", ".join(parts)


def stop_on(number, _):
    raise KeyboardInterrupt


def run(options):
    ready = prepare(options)
    folder = Path(tempfile.mkdtemp(prefix="cubby-compare-", dir=options.data))
    current = Run(options, ready, folder)
    try:
        current.probe()
        if not current.servers:
            raise Problem("no server is left to measure\n  next: see what each one said above")
        current.measure()
    except KeyboardInterrupt:
        say("\ninterrupted: stopping servers, removing data")
        current.results["interrupted"] = True
    finally:
        # A second Ctrl-C must not leave servers behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        load.stop_all()
        for server in list(Server.running):
            server.stop()
        if options.keep:
            say(f"data and logs are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return current.results


def show(results, options):
    judged = list(bars.evaluate(results))
    results["bars"] = bars.plain(judged)
    print("\n".join(report.markdown(results)))
    if options.bars:
        print("\n" + "\n".join(bars.markdown(judged)))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=1) + "\n")
        say(f"\nresults written to {options.out}")
    failed = results["not_started"] or any(
        entry["failures"] for row in results["rows"].values() for entry in row.values())
    if results.get("interrupted"):
        return 130
    if options.bars and any(entry["passes"] is False for entry in judged):
        return 1
    return 3 if failed else 0


def main():
    options = parse()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop_on)
    try:
        results = json.loads(options.source.read_text()) if options.source else run(options)
        return show(results, options)
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
    except Problem as problem:
        print(f"error: {problem}", file=sys.stderr)
    return 2
