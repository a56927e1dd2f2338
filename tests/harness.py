"""What the tests share: a folder of their own, the command line as a user types it, real shells."""
import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple
from unittest import mock

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PSIK = os.path.join(ROOT, "psik.py")
DEPS = os.environ.get("PSIK_TEST_DEPS", os.path.join(ROOT, ".deps"))
sys.path.insert(0, ROOT)

import psik

# The command line through the compiled file, without site: as `python3 psik.py`, but faster.
FAST = [sys.executable] + ["-S"] * ("COVERAGE_PROCESS_START" not in os.environ) + [
    "-c", "import sys; sys.path.insert(0, %r); sys.argv[0] = 'psik.py'\n"
    "import psik; sys.exit(psik.main())" % ROOT]


# The head of a program that is killed at the Nth call of a function of psik.py:
# python -c KILLED_AT + ... PATH N
KILLED_AT = """
import os, sys
sys.path.insert(0, %r)
import psik
def stop(frame, event, arg, count=[0]):
    if event == "call" and frame.f_code.co_filename == psik.__file__:
        count[0] += 1
        if count[0] == int(sys.argv[2]):
            os.kill(os.getpid(), 9)
""" % ROOT


class Ran(NamedTuple):
    """What a command line left."""
    status: int
    out: str
    err: str


def rc_path() -> Optional[str]:
    """A real rc, or None."""
    found = shutil.which("rc")
    return found if found and psik.Shell.is_rc([found]) else None


def shells() -> Dict[str, str]:
    """The shells to try everything in: {name: path}."""
    return {"rc": rc_path() or "", "sh": "/bin/sh"}


def needs(component: str, there: Any) -> Callable[[Any], Any]:
    """Leave a test out, and say so, where a real component is missing."""
    return unittest.skipUnless(there, "needs " + component)


POND = {"submit": "echo 7", "job": "@job_body@", "cancel": "", "hold": "echo $* >>@base@/held",
        "release": "echo $* >>@base@/released", "queues": "echo deep up 3 - 12 8 60"}


class Case(unittest.TestCase):
    """A test with a folder, a home and a config of its own."""

    def setUp(self) -> None:
        self.folder = os.path.realpath(tempfile.mkdtemp(prefix="psik-test-"))
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.prefix = os.path.join(self.folder, "jobs")
        unwanted = ("PSIK_CONFIG", "PYTHONDONTWRITEBYTECODE", "XDG_DATA_HOME", "NO_COLOR",
                    "VIRTUAL_ENV")
        self.env = {name: value for name, value in os.environ.items() if name not in unwanted}
        self.env["HOME"] = self.folder
        self.configure()

    def configure(self, **settings: Any) -> str:
        """Write the config that the command line finds; its path."""
        settings.setdefault("prefix", self.prefix)
        path = self.write("psik.json", json.dumps(settings))
        self.env["PSIK_CONFIG"] = path
        return path

    def offer(self, name: str, **app: Any) -> str:
        """Write an application into the folder apps/; the path of its file."""
        os.makedirs(os.path.join(self.folder, "apps"), exist_ok=True)
        app.setdefault("script", "#!/bin/sh\ntrue\n")
        return self.write("apps/%s.json" % name, json.dumps(app))

    def configure_pond(self) -> None:
        """Have a second backend, of a site's own: in its queue jobs wait for ever.

        There are the applications moo and, an interactive one, prompt, too.
        """
        self.offer("moo", inputs={"properties": {"times": {"type": "integer"}}})
        self.offer("prompt", interactive=True)
        os.makedirs(os.path.join(self.folder, "site", "pond"))
        for name, text in POND.items():
            self.write("site/pond/" + name, "#!@shell@\n%s\n" % text)
        self.configure(templates="site", applications="apps", backends={"local": {"type": "local"},
                                                   "pond": {"type": "pond"}})

    def config(self) -> Any:
        """The config as psik reads it."""
        return psik.load_config(self.env["PSIK_CONFIG"])

    def write(self, name: str, text: str, mode: int = 0o644) -> str:
        """Make a file in the folder; its path."""
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, mode)
        return path

    def psik(self, *argv: str, stdin: str = "", status: Optional[int] = 0, timeout: float = 150,
             env: Optional[Dict[str, str]] = None, program: Sequence[str] = FAST) -> Ran:
        """Run a command line as a user does; checks its exit status unless status is None."""
        done = subprocess.run(list(program) + list(argv), cwd=self.folder,
                              input=stdin.encode("utf-8", "surrogateescape"),
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              env=dict(self.env, **(env or {})), timeout=timeout)
        ran = Ran(done.returncode, done.stdout.decode("utf-8", "replace"),
                  done.stderr.decode("utf-8", "replace"))
        self.assertNotIn("Traceback", ran.err)
        if status is not None:
            self.assertEqual(ran.status, status, ran)
        return ran

    def run_spec(self, *argv: str, status: Optional[int] = 0, **spec: Any) -> str:
        """Submit a spec; the job's id."""
        return self.psik("run", "-", *argv, stdin=json.dumps(spec), status=status).out.strip()

    def job(self, jobid: str) -> Any:
        """The JobDir of an id."""
        return psik.find_job(self.config(), jobid)

    def states(self, jobid: str) -> List[str]:
        """The history of a job as `jobndx state` texts."""
        return ["%d %s" % (row.jobndx, row.state) for row in self.job(jobid).rows()]

    def until_last(self, jobid: str, row: str, seconds: float = 60) -> None:
        """Wait until this `jobndx state` is the last of a job's history."""
        with contextlib.suppress(self.failureException):
            self.until(lambda: self.states(jobid)[-1] == row, seconds=seconds)
        self.assertEqual(self.states(jobid)[-1], row, self.states(jobid))

    def gone(self, text: str) -> None:
        """Wait until no process's command line holds this text; its last word may come before."""
        self.until(lambda: not processes_with(text), "the end of every process with %r" % text)

    def until(self, claim: Callable[[], Any], what: str = "", seconds: float = 60) -> Any:
        """Wait until a claim holds, and return what it said."""
        deadline = time.time() + seconds
        while True:
            said = claim()
            if said:
                return said
            if time.time() > deadline:
                self.fail("not within %g s: %s" % (seconds, what or claim))
            time.sleep(0.05)


def processes_with(text: str) -> List[str]:
    """The command lines of processes that hold this text, zombies left out."""
    listing = subprocess.run(["ps", "-ww", "-eo", "stat=,pid=,args="],
                             stdout=subprocess.PIPE).stdout.decode("utf-8", "replace")
    return [line for line in listing.splitlines()
            if text in line and not line.startswith("Z") and str(os.getpid()) not in line.split()]


def kill(lines: Sequence[str]) -> None:
    """Kill the processes of these lines of ps; one that has gone meanwhile is as good."""
    for line in lines:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(line.split()[1]), signal.SIGKILL)


@contextlib.contextmanager
def captured() -> Iterator[Any]:
    """stdout and stderr of what runs inside, as text: with captured() as (out, err)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield out, err


@contextlib.contextmanager
def brought_to_the_disk(fsync: str = "os.fsync") -> Iterator[List[Tuple[str, bytes]]]:
    """(path, content) of each file that is brought to the disk inside, as they were then."""
    found: List[Tuple[str, bytes]] = []
    known = os.fsync

    def noted(fd: int) -> None:
        path = os.readlink("/proc/self/fd/%d" % fd)
        with open(path, "rb") as file:
            found.append((path, file.read()))
        known(fd)

    with mock.patch(fsync, noted):
        yield found
