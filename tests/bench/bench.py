#!/usr/bin/env python3
"""What psik.py costs beside a bare interpreter and its peers, measured in turn; medians and ratios.

    python3 tests/bench/bench.py [--quick] [--psik FILE] [--out FOLDER] [--only TITLE] DEPS

DEPS keeps the peers' environments, which pip makes where they are not there.  A full run writes
RESULTS.md and the growth curves to FOLDER, by default beside this file; a quick one only where
FOLDER is given.  The environments keep the Python that made them, and so does what is measured.  A
goal that is not met fails nothing; a measurement that breaks does.  Whatever is installed in the
machine's own interpreter may slow it down, so all of this runs in environments.  hyperfine and
pyperf time one program after the other; what is compared here has to take turns.
"""
import argparse
import hashlib
import os
import platform
import re
import sys
import tempfile
import time
import traceback
from typing import Dict, List, Sequence, Tuple

import commands
import more
import peers
import plots
import rest
from run import Run
from table import Row, as_markdown, as_text

HERE = os.path.dirname(os.path.abspath(__file__))
SECTIONS = (("What a job pays", commands.costs_of_a_job), ("Listings", commands.listings),
            ("Submission", commands.submissions), ("Payloads", more.payloads),
            ("Arrays, and the command of `install`", more.arrays),
            ("From another host", more.from_elsewhere), ("REST: the server", rest.starts),
            ("REST: states", rest.states), ("REST: listings", rest.rest_listings),
            ("REST: one connection and sixteen", rest.crowds),
            ("REST: the page", rest.first_lists), ("REST: jobs", rest.posts),
            ("REST: files", rest.transfers), ("Installation", commands.footprints))
NOTES = (
    "medians of one run in which all took turns; a ratio is psik.py's value / the other's",
    "psik_api 1.0.0 needs help to answer: an older pydantic, its settings read for it under "
    "uvicorn, and requests with Accept and User-Agent; it answers a POST before it submits, "
    "psik.py once the scheduler has the job",
    "psij-python and submitit keep no history: their jobs' end is known to the process that "
    "submitted them",
)


def machine() -> str:
    """What this runs on."""
    with open("/proc/cpuinfo") as file:
        models = re.findall(r"model name\s*: (.*)", file.read())
    return "%s, %d processors, load %.1f at the start; %s, Python %s" % (
        models[0] if models else platform.machine(), os.cpu_count() or 0, os.getloadavg()[0],
        platform.system(), platform.python_version())


def versions(run: Run) -> str:
    """What was measured."""
    with open(run.file, "rb") as file:
        found = ["psik.py %s (sha256 %s...)" % (run.psik.__version__,
                                                hashlib.sha256(file.read()).hexdigest()[:12])]
    found += [packages.replace("==", " ")
              for name, (_, packages) in peers.PEERS.items() if name in run.peers]
    if peers.API in run.peers:
        words = [name.replace("-", " ") for name in run.peers[peers.API].installed()[0]]
        found.append("psik_api on " + ", ".join(word for word in words
                                                if re.match("(psik|uvicorn|fastapi) ", word)))
    return "; ".join(found)


def measure(run: Run, titles: Sequence[str]) -> Tuple[Dict[str, List[Row]], List[str]]:
    """The rows of each section, printed as they come; and the sections that broke."""
    found: Dict[str, List[Row]] = {}
    broken: List[str] = []
    for title, section in SECTIONS:
        if titles and not any(part in title for part in titles):
            continue
        rows = found.setdefault(title, [])
        try:
            if title.startswith("REST") and not run.servers and section is not rest.starts:
                raise RuntimeError("no server runs")
            rows.extend(section(run))
        except Exception as err:  # the other sections are worth their time
            broken.append(title)
            traceback.print_exc()
            sys.stderr.write((getattr(err, "stderr", None) or b"").decode("utf-8", "replace"))
            sys.stderr.write(run.psik.read_or_empty(run.server_log)[-2000:])
        print("\n%s\n%s" % (title.upper(), as_text(rows)), flush=True)
    return found, broken


def write_results(run: Run, folder: str, about: Sequence[str], found: Dict[str, List[Row]]) -> None:
    """Write RESULTS.md and the curves."""
    text = ["# What psik.py costs", "Made by `make bench`.",
            "\n".join("- " + line for line in about)]
    for title, rows in found.items():
        text += ["## " + title, as_markdown(rows)]
    text += ["## Growth"] + ["![%s](%s)" % (title, name)
                             for name, title in plots.draw(run.curves, folder)]
    with open(os.path.join(folder, "RESULTS.md"), "w") as file:
        file.write("\n\n".join(text) + "\n")


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("deps", metavar="DEPS")
    parser.add_argument("--quick", action="store_true", help="less of everything, in two minutes")
    parser.add_argument("--psik", metavar="FILE", default=os.path.join(HERE, "..", "..", "psik.py"),
                        help="the psik.py to measure")
    parser.add_argument("--out", metavar="FOLDER", help="where the results are written")
    parser.add_argument("--only", metavar="TITLE", action="append", default=[],
                        help="only the sections whose titles hold this")
    return parser.parse_args()


def main() -> int:
    """Measure, print and write; 1 where a measurement broke."""
    opts, begun = options(), time.time()
    python = peers.environment(os.path.abspath(opts.deps), "bench", "matplotlib")
    if os.path.realpath(sys.prefix) != os.path.realpath(
            os.path.join(os.path.dirname(python), "..")):
        os.execv(python, [python] + sys.argv)
    with tempfile.TemporaryDirectory(prefix="psik-bench-") as work:
        run = Run(os.path.realpath(work), os.path.abspath(opts.deps), opts.quick, opts.psik)
        about = ["%s, a %s run" % (time.strftime("%Y-%m-%d"), "quick" if opts.quick else "full"),
                 machine(), versions(run)] + list(NOTES)
        print("\n".join(about), flush=True)
        try:
            found, broken = measure(run, opts.only)
        finally:
            for server in run.servers.values():
                server.stop()
            for child in run.children:
                child.terminate()
                child.wait()
        notes = ["not measured: %s: %s" % pair
                 for pair in run.missing.items()] + ["broke: " + title for title in broken]
        print("\n".join([""] + notes + ["%d s" % (time.time() - begun)]))
        folder = opts.out or ("" if opts.quick else HERE)
        if folder:
            write_results(run, folder, about + notes, found)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
