#!/usr/bin/env python3
"""Run the tests below tests/ and end with what passed, what failed and what was left out, and why.

    python3 tests/run.py [--all] [--portable | --brief] [--jobs N] [NAME ...]

NAME is a module, class or test (test_local, test_local.Walltime).  The classes run side by side, N
at a time, each in a process of its own: most of them wait for jobs.  --all, or PSIK_TEST_ALL=1,
counts a test that is left out as failed: nothing may be missing then.  --portable leaves out what
one Python shows as well as another; --brief keeps only what depends on the Python most: models, the
Python interface, the command line, local jobs, the server.

A test that failed beside others is run once more, alone: most of them wait for processes, and a
busy machine can be too late for one of them.  What passes only then is shown, with what it said,
and named as unsteady; where more than four failed, nothing is run again.
"""
import argparse
import collections
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import unittest
from typing import Any, Dict, Iterator, List, Sequence

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]
CLASS_TIMEOUT_S = 600
UNSTEADY_AT_MOST = 4
# What one Python shows as well as another, by how its name begins.
WHATEVER_PYTHON = tuple(name + "." for name in (
    "test_access.Secured test_after test_applications.Beside test_array.At test_array.InRc "
    "test_array.Lsf test_array.LsfFile test_array.Sge test_array.Slurm test_cli.Terminal "
    "test_clients test_gateway test_histories test_hosts.Connections test_hosts.Sshd "
    "test_local.InRc test_local.Walltime test_lsf_emulator test_packaging test_page.Walks "
    "test_schedulers test_server test_setup.OnACluster test_sge test_slots.BesideAt test_slurm "
    "test_strangers.Files test_strangers.Installed test_supervisor.At test_supervisor.Places "
    "test_supervisor.Slurm test_supervisor.Systems test_users test_versions test_why.DoctorOfAt "
    "test_why.OnACluster test_why.OnOneHost").split())
# What depends on the Python most.
BRIEF = ("test_models", "test_library", "test_local", "test_http", "test_routes", "test_structure",
         "test_cli.Specs") + tuple("test_cli.Verbs.test_" + name for name in (
             "what_is_mistyped", "options_for_the_usual_fields", "help_on_topics", "listing_some"))
# They wait for walltimes, so they begin first.
SLOW = ("SlurmForgets", "Walltime", "At", "Slurm", "Systems", "Submissions", "Ids", "Requeue",
        "Told", "Accounts", "Comments", "Memory", "Storms")
CHILDREN: List["subprocess.Popen[bytes]"] = []     # the classes that run
OVER = threading.Event()    # set once a signal has ended the run
OWN_PID = os.getpid()


class Result(unittest.TextTestResult):
    """A result that knows how long each test took.

    A signal that ends the run lets the test in hand end, and the daemons of its class.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.seconds: Dict[str, float] = {}

    def startTest(self, test: unittest.TestCase) -> None:
        self.begun = time.time()
        super().startTest(test)

    def stopTest(self, test: unittest.TestCase) -> None:
        self.seconds[test.id()] = time.time() - self.begun
        super().stopTest(test)
        if OVER.is_set():
            self.stop()


def flat(suite: Any) -> Iterator[unittest.TestCase]:
    """Every test of a suite."""
    for part in suite:
        if isinstance(part, unittest.TestSuite):
            yield from flat(part)
        else:
            yield part


def load(names: List[str], without: Sequence[str] = ()) -> Any:
    """The tests of these names, or all of them, without those that begin so."""
    loader = unittest.TestLoader()
    found = loader.loadTestsFromNames(names) if names else loader.discover(HERE, top_level_dir=HERE)
    return unittest.TestSuite(test for test in flat(found)
                              if not test.id().startswith(tuple(without)))


def name_of(test: Any) -> str:
    """What to run again: a test, the test of a subtest, or the class whose setUpClass failed."""
    name: str = getattr(test, "test_case", test).id()
    in_class = re.match(r"\w+ \((.+)\)$", name)
    return in_class.group(1) if in_class else name


def run_here(names: List[str]) -> Dict[str, Any]:
    """Run tests in this process; their times, which of them failed, why others were left out."""
    result: Any = unittest.TextTestRunner(resultclass=Result, verbosity=0).run(load(names))
    failed = [test for test, _ in result.failures + result.errors] + result.unexpectedSuccesses
    return {"failed": sorted({name_of(test) for test in failed}), "seconds": result.seconds,
            "skipped": [reason for _, reason in result.skipped]}


def run_apart(name: str, found: List[Dict[str, Any]]) -> None:
    """Run one class in a process of its own; what it printed is shown where it failed."""
    child = subprocess.Popen([sys.executable, os.path.abspath(__file__), "--here", name],
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE)
    CHILDREN.append(child)
    try:
        out, err = child.communicate(timeout=CLASS_TIMEOUT_S)
        said, report = err.decode("utf-8", "replace"), json.loads(out.decode().split("\n")[-2])
    except (ValueError, IndexError, subprocess.TimeoutExpired) as fault:
        child.kill()
        child.wait()
        said, report = "%s: %s\n" % (name, fault), {"failed": [name], "seconds": {}, "skipped": []}
    CHILDREN.remove(child)
    found.append(report)
    sys.stderr.write(said if report["failed"] else "%4d ok  %s\n" % (len(report["seconds"]), name))


def run_side_by_side(names: List[str], without: Sequence[str],
                     at_once: int) -> List[Dict[str, Any]]:
    """Run every class of these names; the slowest, which wait longest, first."""
    ids = [test.id() for test in flat(load(names, without))]
    classes = collections.Counter(name if "_FailedTest" in name or name in names
                                  else name.rsplit(".", 1)[0] for name in ids)
    found: List[Dict[str, Any]] = []
    slots = threading.Semaphore(at_once)

    def work(name: str) -> None:
        with slots:
            if not OVER.is_set():
                run_apart(name, found)

    first = sorted(classes, key=lambda name: (name.rsplit(".", 1)[-1] not in SLOW, -classes[name]))
    names = [name.replace("unittest.loader._FailedTest.", "") for name in first]
    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if OVER.is_set():
        sys.exit("stopped")
    return found


def stop(signum: int, _: Any) -> None:
    """Begin no other class, and let those that run end.

    What a test forks, as a pool of multiprocessing does, inherits this, and has to end by a signal.
    """
    if os.getpid() != OWN_PID:
        os._exit(128 + signum)
    OVER.set()
    for child in list(CHILDREN):
        child.terminate()


def run_again(failed: List[str]) -> List[str]:
    """Run the few tests that failed once more, each alone; those that count as failed."""
    if len(failed) > UNSTEADY_AT_MOST:
        return failed
    still = []
    for name in failed:
        again: List[Dict[str, Any]] = []
        run_apart(name, again)
        if again[0]["failed"] or again[0]["skipped"]:
            still.append(name)
        else:
            print("unsteady: %s failed beside others and passed alone" % name)
    return still


def main() -> int:
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true",
                        default=os.environ.get("PSIK_TEST_ALL") == "1")
    parser.add_argument("--portable", action="store_true")
    parser.add_argument("--brief", action="store_true")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*")
    opts = parser.parse_args()
    if opts.here:
        print(json.dumps(run_here(opts.names)))
        return 0
    names = opts.names or list(BRIEF if opts.brief else ())
    without = WHATEVER_PYTHON if opts.portable or opts.brief else ()
    reports = run_side_by_side(names, without, opts.jobs)
    seconds = {name: took for report in reports for name, took in report["seconds"].items()}
    for name in sorted(seconds, key=lambda name: -seconds[name])[:5]:
        print("%6.1f s  %s" % (seconds[name], name))
    skipped = collections.Counter(reason for report in reports for reason in report["skipped"])
    for reason, count in skipped.items():
        print("left out: %d, which %s" % (count, reason))
    failed = run_again([name for report in reports for name in report["failed"]])
    passed = len(set(seconds) - set(failed)) - sum(skipped.values())
    bad = len(failed) + opts.all * sum(skipped.values())
    print("Python %d.%d" % sys.version_info[:2])
    print("%d passed, %d failed" % (passed, bad))
    return int(bad > 0 or not passed)


if __name__ == "__main__":
    sys.exit(main())
