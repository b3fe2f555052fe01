"""From the command line to charts and tables."""

import argparse
import itertools
import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from harness import load, prepare
from harness.options import positive
from harness.problem import Problem
from harness.servers import Server

from . import charts, measure

ROOT = Path(__file__).resolve().parent.parent.parent.parent
SIZES = [100, 1000, 10_000, 100_000]
# Half of the default, in bytes: a million of seven pages are then 16 GB of disk instead of 29. It is the same for all
# sizes, so they can be compared.
PAGE_SIZE = 2048

EXAMPLES = """\
examples:
  run                                  a hundred to a hundred thousand tenants; the charts go to docs/img
  run --million --minutes 120          up to a million
  run --quick --img /tmp/charts        does everything work? a minute, numbers worthless
  run --from growth.json               draw the charts again from saved results
"""


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        prog="run",
        description="Measures what Cubby costs as tenants on disk, and open ones, become many, and draws it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--million", action="store_true", help="measure a million tenants too")
    add("--sizes", type=sizes, default=None, metavar="N,N,…", help="tenants on disk (default 100 to 100000)")
    add("--seconds", type=positive, default=5, help="length of one load (default 5)")
    add("--warmup", type=positive, default=2, help="seconds of load before it (default 2)")
    add("--minutes", type=positive, default=60, help="begin nothing more after so long (default 60)")
    add("--gigabytes", type=positive, default=20, help="most that the data may take (default 20)")
    add("--quick", action="store_true", help="smoke test: 100 and 1000 tenants, loads of one second")
    add("--cubby", type=Path, metavar="BINARY", help="measure this binary instead of building one")
    add("--no-build", action="store_true", help="use what is built and installed already")
    add("--data", type=Path, default=Path(tempfile.gettempdir()), metavar="FOLDER",
        help="where the temporary data folder goes: a real disk (default %(default)s)")
    add("--img", type=Path, default=ROOT / "docs" / "img", metavar="FOLDER",
        help="where the charts go (default docs/img of this repository)")
    add("--out", type=Path, metavar="FILE", help="write every figure here, as JSON")
    add("--from", dest="source", type=Path, metavar="FILE", help="measure nothing, draw these results")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seconds = options.warmup = 1
    if options.sizes is None:
        options.sizes = SIZES[:2] if options.quick else SIZES + [1_000_000] * options.million
    return options


def sizes(text):
    found = sorted({positive(part.strip()) for part in text.split(",")})
    if found[0] < 2 * measure.ROOM:
        raise argparse.ArgumentTypeError(f"the smallest number of tenants is {2 * measure.ROOM}")
    return found


class Run:
    def __init__(self, options, ready, folder):
        self.options, self.ready, self.folder = options, ready, folder
        self.until = time.monotonic() + options.minutes * 60
        # The server's own ids are numbers; these are of the new tenants that measuring makes.
        self.fresh = (f"fresh_{number:06}" for number in itertools.count())
        self.load = SimpleNamespace(seconds=options.seconds, warmup=options.warmup, connections=64, threads=2)
        self.results = {
            "machine": ready.machine,
            "version": ready.versions["cubby"],
            "seconds": options.seconds,
            "quick": options.quick,
            "sizes": [],
            "left_out": [],
        }

    def run(self):
        there = 0
        for tenants in self.options.sizes:
            why = self.cannot(tenants, there)
            if why:
                self.results["left_out"].append(why)
                prepare.say(why)
                break
            there = self.grow(there, tenants)
            self.results["sizes"].append({"tenants": tenants, **self.figures(tenants)})
        if there:
            self.results["room"], self.results["open"] = self.step(
                "throughput over open tenants", measure.open_tenants, there, self.load)
            self.results["cold_beside"] = self.step("cold reads beside open tenants", measure.cold_beside, there)

    def cannot(self, tenants, there):
        if time.monotonic() > self.until:
            return f"{tenants:,} tenants: the time is over; give it more with --minutes"
        if there:
            each = sum(file.stat().st_blocks for file in self.folder.rglob("*") if file.is_file()) * 512 / there
            wanted, free = each * tenants / 1e9, shutil.disk_usage(self.folder).free / 1e9
            most = min(self.options.gigabytes, free * 0.9 + each * there / 1e9)
            if wanted > most:
                return (f"{tenants:,} tenants: they would take {wanted:.0f} GB, with {most:.0f} GB to be had "
                        "(--gigabytes, and what is free)")
        return None

    def step(self, what, work, tenants, *arguments):
        began = time.monotonic()
        result = work(self.ready.cubby, self.folder, tenants, *arguments)
        prepare.say(f"  {what} ({time.monotonic() - began:.0f} s)")
        return result

    def grow(self, there, tenants):
        prepare.say(f"{tenants:,} tenants")
        began = time.monotonic()
        prepare.check(
            ["cargo", "bench", "--quiet", "--locked", "--bench", "tenants", "--",
             "make", str(self.folder / "data"), "--count", str(tenants), "--note", "--page-size", str(PAGE_SIZE)],
            ROOT, "mend what is said above")
        prepare.say(f"  made {tenants - there:,} more ({time.monotonic() - began:.0f} s)")
        return tenants

    def figures(self, tenants):
        def starts(binary, folder, _):
            return measure.starts(binary, folder)

        return {
            **self.step("start-up", starts, tenants),
            **self.step("cold reads", measure.cold, tenants),
            **self.step("hot reads", measure.hot_few, tenants, self.load),
            **self.step("the catalog", measure.catalog, tenants, self.fresh),
        }


def run(options):
    # What the comparison prepares, for one server alone.
    for name, value in (("servers", ["cubby"]), ("rows", []), ("slow", None)):
        setattr(options, name, value)
    ready = prepare.prepare(options)
    folder = Path(tempfile.mkdtemp(prefix="cubby-growth-", dir=options.data))
    current = Run(options, ready, folder)
    try:
        current.run()
    except KeyboardInterrupt:
        current.results["left_out"].append("what was to come when the run was interrupted")
    finally:
        # A second Ctrl-C must not leave servers behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        load.stop_all()
        for server in list(Server.running):
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return current.results


def show(results, options):
    if results["quick"]:
        print("**A smoke test: the numbers mean nothing.**\n")
    print("\n".join(charts.markdown(results)))
    options.img.mkdir(parents=True, exist_ok=True)
    for name, chart in charts.charts(results):
        (options.img / f"{name}.svg").write_text(chart.svg())
    prepare.say(f"charts written to {options.img}")
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    return 3 if results["left_out"] else 0


def stop_on(number, _):
    raise KeyboardInterrupt


def main():
    options = parse()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop_on)
    try:
        return show(json.loads(options.source.read_text()) if options.source else run(options), options)
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError, Problem) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
