"""The command line."""

import argparse
import tempfile
from pathlib import Path

from .rows import ROWS
from .servers import KINDS

EXAMPLES = """\
examples:
  run                                    every row, three rounds of five seconds: half an hour or so
  run --quick                            does everything start and answer? a few minutes, numbers worthless
  run --rows read,list --servers cubby,limit
  run --bars --out results.json          measure all, then check the bars; exit code 1 if one is missed
  run --bars --from results.json         check the bars again from saved results
  run --rows create-slow --flushes 500   durable creates on a disk of 500 flushes a second
  run --rows alone --rounds 5            what one writer waits for; `limit` is what HTTP is of it
  run --rows fairness --flood-hook 'while :; do curl -s "$BASE_URL/slow"; done'

rows:
"""


def names(known, what):
    def parse(text):
        chosen = [name.strip() for name in text.split(",") if name.strip()]
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(
                    f"no {what} is called '{name}'; there are: {', '.join(known)}"
                )
        return chosen

    return parse


def positive(text):
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def parse(arguments=None):
    rows = "".join(f"  {name:<12} {row.title}\n" for name, row in ROWS.items())
    servers = "".join(f"  {name:<12} {kind.about}\n" for name, kind in KINDS.items())
    parser = argparse.ArgumentParser(
        prog="run",
        description="Measures Cubby and its peers on the same work, interleaved, on this machine.",
        epilog=f"{EXAMPLES}{rows}\nservers:\n{servers}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--rows", type=names(ROWS, "row"), default=list(ROWS), help="comma-separated; default all")
    add("--servers", type=names(KINDS, "server"), default=None,
        help="comma-separated; default all (cubby-solo only with --solo-env)")
    add("--seconds", type=positive, default=5, help="length of one measurement (default 5)")
    add("--warmup", type=positive, default=2, help="seconds of load before it (default 2)")
    add("--rounds", type=positive, default=3, help="measurements a server and row (default 3)")
    add("--connections", type=positive, default=64, help="clients at once (default 64)")
    add("--threads", type=positive, default=2, help="wrk's threads (default 2)")
    add("--cold-tenants", type=positive, default=20_000, help="tenants on disk in `cold` (default 20000)")
    add("--flushes", type=positive, default=3000, metavar="RATE",
        help="flushes a second of the disk in `create-slow` (default 3000)")
    add("--quick", action="store_true", help="smoke test: one round of one second, few tenants")
    add("--out", type=Path, metavar="FILE", help="write every sample and the medians here, as JSON")
    add("--from", dest="source", type=Path, metavar="FILE", help="measure nothing, report these results")
    add("--bars", action="store_true", help="check the bars; exit code 1 if one is missed")
    add("--cubby", type=Path, metavar="BINARY", help="measure this binary instead of building one")
    add("--slow", type=Path, metavar="BINARY", help="use this build of slow/ instead of making one")
    add("--solo-env", action="append", default=[], metavar="NAME=VALUE",
        help="add the server cubby-solo: Cubby with this setting, meant to commit every write alone")
    add("--flood-hook", metavar="COMMAND",
        help="shell command that also runs during the flood in `fairness`, given BASE_URL and FLOOD_TENANT")
    add("--no-build", action="store_true", help="use what is built and installed already; only `shim/` is compiled")
    add("--data", type=Path, default=Path(tempfile.gettempdir()), metavar="FOLDER",
        help="where temporary data folders go: a real disk (default %(default)s)")
    add("--keep", action="store_true", help="leave data folders and logs behind")
    options = parser.parse_args(arguments)
    for setting in options.solo_env:
        if "=" not in setting:
            parser.error(f"--solo-env wants NAME=VALUE, not '{setting}'")
    if options.servers is None:
        options.servers = [name for name in KINDS if name != "cubby-solo" or options.solo_env]
    elif "cubby-solo" in options.servers and not options.solo_env:
        parser.error("the server cubby-solo needs --solo-env NAME=VALUE")
    options.few = 1.0
    if options.quick:
        options.seconds = options.warmup = options.rounds = 1
        options.cold_tenants = min(options.cold_tenants, 1000)
        options.few = 0.1
    return options
