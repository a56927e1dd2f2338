#!/usr/bin/env python3
"""Run the README's test command on every Python found, in turn, each on a copy of the checkout.

    python3 tests/every_python.py DEPS

The Python that runs this runs everything; the others leave out what depends on a scheduler, a
browser or another peer and not on the Python (tests/run.py --portable).  3.6 gets the backport of
dataclasses, which DEPS holds, beside psik.py.  Ends with the sum.
"""
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from typing import Dict, List

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MINORS = range(6, 15)
AT_ONCE = 1  # two keep two cores so busy that walltimes and deadlines mean nothing any more
SUM = re.compile(r"^(\d+) passed, (\d+) failed$", re.MULTILINE)


def pythons() -> Dict[str, str]:
    """{version: path} of one interpreter for each minor version that runs."""
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


def run_one(version: str, python: str, deps: str, work: str, said: Dict[str, str],
            portable: bool) -> None:
    """Run `make test` on one Python; what it printed goes into said."""
    copy = os.path.join(work, version)
    shutil.copytree(ROOT, copy, symlinks=True,
                    ignore=shutil.ignore_patterns(".git", ".deps", "__pycache__", ".mypy_cache"))
    if version == "3.6":
        shutil.copy(os.path.join(deps, "dataclasses.py"), copy)
    begun = time.time()
    done = subprocess.run(
        ["make", "-s", "test", "PYTHON=" + python, "ARGS=" + "--portable" * portable], cwd=copy,
        stdin=subprocess.DEVNULL, env=dict(os.environ, PSIK_TEST_DEPS=deps), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)
    said[version] = done.stdout.decode("utf-8", "replace")
    lines = said[version].strip().split("\n")
    print("\n".join(lines if done.returncode or "\nunsteady: " in said[version] else lines[-8:]))
    print("Python %s took %d s\n" % (version, time.time() - begun), flush=True)


def main() -> int:
    deps = os.path.abspath(sys.argv[1])
    said: Dict[str, str] = {}
    waiting: List[threading.Thread] = []
    slots = threading.Semaphore(AT_ONCE)
    found = pythons()
    ours = "%d.%d" % sys.version_info[:2]
    with tempfile.TemporaryDirectory() as work:
        def in_turn(version: str, python: str) -> None:
            with slots:
                run_one(version, python, deps, work, said, version != ours)

        for version, python in found.items():
            waiting.append(threading.Thread(target=in_turn, args=(version, python)))
            waiting[-1].start()
        for thread in waiting:
            thread.join()
    sums = [SUM.findall(text) for text in said.values()]
    silent = sum(not found for found in sums)
    passed, failed = (sum(int(found[-1][column]) for found in sums if found) for column in (0, 1))
    print("%d Pythons: %s" % (len(said), " ".join(said)))
    print("%d passed, %d failed" % (passed, failed + silent))
    return int(failed + silent > 0 or not said)


if __name__ == "__main__":
    sys.exit(main())
