#!/usr/bin/env python3
"""Run the README's test command on every Python found, in turn, each on a copy of the checkout.

    python3 tests/every_python.py DEPS
    python3 tests/every_python.py --ends DEPS
    python3 tests/every_python.py --newest

The Python that runs this runs everything; the others leave out what depends on a scheduler, a
browser or another peer and not on the Python (tests/run.py --portable).  With --ends the newest
Python found runs everything, 3.6 the portable ones, and those between what depends on the Python
most (tests/run.py --brief).  3.6 gets the backport of dataclasses, which DEPS holds, beside
psik.py.  Ends with the sum.  --newest only prints the path of the newest Python found.
"""
import argparse
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Dict, List

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OLDEST, MINORS = "3.6", range(6, 15)
SUM = re.compile(r"^(\d+) passed, (\d+) failed$", re.MULTILINE)


def pythons() -> Dict[str, str]:
    """{version: path} of one interpreter for each minor version that runs, the oldest first."""
    found: Dict[str, str] = {}
    for minor in MINORS:
        version = "3.%d" % minor
        candidates = glob.glob(os.path.expanduser("~/.pyenv/versions/%s.*/bin/python3" % version))
        for path in candidates + [shutil.which("python" + version) or "", sys.executable,
                                  "/usr/bin/python3"]:
            try:
                said = subprocess.check_output(
                    [path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
                    stderr=subprocess.DEVNULL)
            except (OSError, subprocess.CalledProcessError):
                continue
            if said.decode().strip() == version:
                found.setdefault(version, path)
    return found


def selections(versions: List[str], ends: bool) -> Dict[str, str]:
    """{version: the option of tests/run.py that says what it runs}."""
    if ends:
        return {version: "" if version == versions[-1] else
                "--portable" if version == OLDEST else "--brief" for version in versions}
    ours = "%d.%d" % sys.version_info[:2]
    return {version: "" if version == ours else "--portable" for version in versions}


def run_one(version: str, python: str, deps: str, work: str, selection: str) -> str:
    """Run `make test` on one Python; what it printed."""
    copy = os.path.join(work, version)
    shutil.copytree(ROOT, copy, symlinks=True,
                    ignore=shutil.ignore_patterns(".git", ".deps", "__pycache__", ".mypy_cache"))
    if version == OLDEST:
        shutil.copy(os.path.join(deps, "dataclasses.py"), copy)
    begun = time.time()
    done = subprocess.run(["make", "-s", "test", "PYTHON=" + python, "ARGS=" + selection], cwd=copy,
                          stdin=subprocess.DEVNULL, env=dict(os.environ, PSIK_TEST_DEPS=deps),
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = done.stdout.decode("utf-8", "replace")
    lines = said.strip().split("\n")
    print("\n".join(lines if done.returncode or "\nunsteady: " in said else lines[-8:]))
    print("Python %s took %d s%s\n" % (version, time.time() - begun, selection and " " + selection),
          flush=True)
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ends", action="store_true")
    parser.add_argument("--newest", action="store_true")
    parser.add_argument("deps", nargs="?", default=os.path.join(ROOT, ".deps"))
    opts = parser.parse_args()
    found = pythons()
    if opts.newest:
        print(list(found.values())[-1])
        return 0
    deps, chosen = os.path.abspath(opts.deps), selections(list(found), opts.ends)
    with tempfile.TemporaryDirectory() as work:  # two at once would be too busy for walltimes
        said = [run_one(version, path, deps, work, chosen[version])
                for version, path in found.items()]
    sums = [SUM.findall(text) for text in said]
    silent = sum(not numbers for numbers in sums)
    passed, failed = (sum(int(numbers[-1][column]) for numbers in sums if numbers)
                      for column in (0, 1))
    print("%d Pythons: %s" % (len(found), " ".join(found)))
    print("%d passed, %d failed" % (passed, failed + silent))
    return int(failed + silent > 0 or not said)


if __name__ == "__main__":
    sys.exit(main())
