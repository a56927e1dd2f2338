#!/usr/bin/env python3
"""Break jobs at every step, on every backend and in both shells, and see if the promises hold.

    python3 tests/faults.py [--seed N] [--times N] [--backends NAME,...] [--shells rc,sh]
                            [--faults WORD,...] [--table FILE]

A cell of the table is a fault, on a backend, in a shell.  It is tried several times, at steps that
the seed chooses: a step is a call of a function of psik.py, or of its supervisor.  Afterwards the
user does what users do: she looks again, and starts what was never submitted.  Then each promise of
PROMISES must hold.  The table is printed, and each promise that was broken, with the step; the exit
status is 1 if there is one.

The schedulers are real ones of this program's own, but for LSF, which is the emulator of the tests.
What is not there (a scheduler, rc, root for disks and hosts) is named as left out.
"""
import argparse
import collections
import contextlib
import http.server
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Sequence, Tuple

import lsf_emulator
import services
from harness import FAST, ROOT, kill, processes_with, rc_path

import psik
from clusters import SGE, SLURM, age_submission

SETTLE_S = 120      # until a job that is looked after has ended
IS_ROOT = os.geteuid() == 0
# What may stay in a prefix when its jobs are removed.
STAYS = re.compile(r"[a-z-]+(/\.(poll.*|outbox(/dead)?|(keys|uploads)(/[0-9a-f]{64})?|after))?"
                   r"|\.(psik|events)(/.*)?")

# The head of a program of which a step is broken: all calls are counted in a file, or one of them
# sends a signal to its process.
HOOK = """
import posix, sys
def hook(frame, event, arg, count=[0]):
    if event == "call" and frame.f_code.co_filename.endswith(%(files)r):
        count[0] += 1
        if not %(step)d:    # a supervisor closes what it did not open
            fd = posix.open(%(calls)r, posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND, 0o600)
            posix.write(fd, b".")
            posix.close(fd)
        elif count[0] == %(step)d:
            sys.setprofile(None)
            try:    # of several processes that come to it only the first gets the signal
                posix.close(posix.open(%(calls)r, posix.O_CREAT | posix.O_EXCL))
            except FileExistsError:
                return
            posix.kill(posix.getpid(), %(signal)d)
if not set(sys.argv[1:2]) & {"cancel", "poll", "ranks"} or %(files)r == "psik.py":
    %(more)s
    sys.setprofile(hook)
"""
CLIENT = "sys.path.insert(0, %r)\nimport psik\nsys.argv[0] = 'psik.py'\n" % ROOT
SERVING = """
def go_on(self, real=psik.Session.go_on):
    sys.setprofile(hook)
    real(self)
sys.setprofile(None)
psik.Session.go_on = go_on
"""
NO_LOCKS = """
    import errno, fcntl
    def flock(fd, how):
        raise OSError(errno.ENOLCK, "no locks")
    fcntl.flock = flock
"""


class Receiver:
    """Takes callbacks, and refuses some; what it took, for each trial, in order."""

    def __init__(self, seed: int) -> None:
        chance, lock = random.Random(seed), threading.Lock()
        taken: Dict[str, List[Dict[str, Any]]] = collections.defaultdict(list)
        self.taken = taken
        self.away: List[str] = []       # the trials whose receiver is down
        away = self.away

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    refuses = self.path in away or chance.random() < 0.15
                    if not refuses and all(each["delivery"] != self.headers["X-Psik-Delivery"]
                                           for each in taken[self.path]):
                        taken[self.path].append(dict(
                            body, delivery=self.headers["X-Psik-Delivery"]))
                self.send_response(503 if refuses else 204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Ground:
    """A backend with its scheduler, which may be struck (killed), frozen and mended."""
    can_strike = False
    seconds = 0.3           # that a short payload takes
    settings: Dict[str, Any] = {}
    resources: Dict[str, Any] = {"exclusive_node_use": False, "duration": 5}

    def __init__(self, name: str, folder: str) -> None:
        self.name, self.folder = name, folder
        self.env: Dict[str, str] = {}
        self.turn = threading.Lock()    # of who strikes it, or wants it whole

    def start(self) -> None:
        """Have it ready."""

    def stop(self) -> None:
        """End it."""

    def strike(self) -> None:
        """Kill the scheduler."""

    def freeze(self) -> None:
        """Stop it for a while."""

    def mend(self) -> None:
        """Let it work again."""


class AtGround(Ground):
    can_strike = True

    def start(self) -> None:
        self.atd = services.Atd()
        self.atd.hold()

    def stop(self) -> None:
        self.atd.release()

    def strike(self) -> None:
        self.atd.stop()

    def freeze(self) -> None:
        os.kill(self.atd.running() or 0, signal.SIGSTOP)

    def mend(self) -> None:
        pid = self.atd.running()
        if pid:
            os.kill(pid, signal.SIGCONT)
        self.atd.start()


class SlurmGround(Ground):
    can_strike, seconds = True, 1.0

    def start(self) -> None:
        self.cluster = services.Slurm(nodes=2)
        self.cluster.start(self.folder, KillWait=10, MinJobAge=300)
        self.env = dict(services.sbin_env(), **self.cluster.env)

    def stop(self) -> None:
        self.cluster.stop()

    def strike(self) -> None:
        self.cluster.stop_controller(signal.SIGKILL)

    def freeze(self) -> None:
        self.cluster.freeze_controller()

    def mend(self) -> None:
        with contextlib.suppress(OSError, services.ServiceError):
            self.cluster.thaw_controller()
        if not self.cluster.answers():
            self.cluster.start_controller()
        self.cluster.run("scontrol", "update", "NodeName=ALL", "State=RESUME")


class SgeGround(Ground):
    can_strike, seconds, is_struck = True, 1.0, False

    def start(self) -> None:
        self.cluster = services.Sge()
        self.cluster.start(self.folder)
        self.env = self.cluster.env

    def stop(self) -> None:
        self.cluster.run("qdel", "-u", "root")
        self.cluster.stop()

    def strike(self) -> None:
        self.cluster.stop_master(signal.SIGKILL)
        self.is_struck = True

    def freeze(self) -> None:
        self.cluster.freeze_master()
        self.is_struck = False

    def mend(self) -> None:
        if self.is_struck:
            self.cluster.start_master()
        else:
            self.cluster.freeze_master(signal.SIGCONT)


class LsfGround(Ground):
    def start(self) -> None:
        self.env = dict(lsf_emulator.install(self.folder), LSF_EMULATOR_JSRUN="Y")

    def stop(self) -> None:
        lsf_emulator.clean(self.folder)


GROUNDS: Dict[str, Tuple[Any, Any]] = {     # {backend: (its ground, whether that is there)}
    "local": (Ground, True), "at": (AtGround, IS_ROOT and shutil.which("at")),
    "slurm": (SlurmGround, SLURM), "sge": (SgeGround, SGE), "lsf": (LsfGround, True)}


class Trial:
    """A job in a tree of its own, what is done to it, and what was found."""
    numbers = iter(range(10 ** 6))

    def __init__(self, ground: Ground, shell: str, receiver: Receiver) -> None:
        self.ground, self.receiver = ground, receiver
        self.folder = tempfile.mkdtemp(prefix="psik-fault-")
        self.prefix, self.ran = self.folder + "/jobs", self.folder + "/ran"
        self.nap = "1%05d%03d" % (os.getpid() % 100000, next(self.numbers) % 1000)
        self.path, self.calls = "/" + os.path.basename(self.folder), self.folder + "/calls"
        self.faults: List[str] = []
        os.mkdir(self.prefix, 0o700)
        config = {"prefix": self.prefix, "backend": dict(ground.settings, type=ground.name),
                  "rc_path": shell, "poll_interval_s": 0, "poll_grace_s": 6, "kill_grace_s": 1,
                  "submit_timeout_s": 6, "callback_timeout_s": 2}
        psik.write_file(self.folder + "/psik.json", json.dumps(config))
        self.config = psik.load_config(self.folder + "/psik.json")
        unwanted = ("PSIK_CONFIG", "PSIK_ON", "XDG_DATA_HOME")
        self.env = {name: text for name, text in os.environ.items() if name not in unwanted}
        self.env.update(ground.env, HOME=self.folder, PSIK_CONFIG=self.folder + "/psik.json")

    # Commands.

    def psik(self, *argv: str, timeout: float = 90, text: str = "") -> Tuple[int, str]:
        """Run a command as a user does; (exit status, what it printed)."""
        try:
            done = subprocess.run(FAST + list(argv), env=self.env, cwd=self.folder,
                                  input=text.encode(), stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, timeout=timeout)
        except subprocess.TimeoutExpired:
            self.faults.append("ends: `%s` did not" % " ".join(argv))
            return 124, ""
        if b"Traceback" in done.stderr:
            self.faults.append("a traceback of `%s`: %s" % (" ".join(argv), done.stderr.decode()))
        return done.returncode, done.stdout.decode().strip()

    def hook(self, step: int, number: int, files: str = "psik.py", more: str = "pass") -> str:
        """The head of a program that gets a signal at a step; step 0: its steps are counted."""
        return HOOK % {"step": step, "signal": number, "files": files, "calls": self.calls,
                       "more": more}

    def begin(self, step: int, number: int, *argv: str, more: str = "pass") -> Any:
        """Begin a command that gets a signal at a step."""
        code = "import sys\n" + CLIENT + self.hook(step, number, more=more)
        code += "sys.exit(psik.main())"
        return subprocess.Popen([sys.executable, "-S", "-c", code] + list(argv), env=self.env,
                                cwd=self.folder, stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def killed(self, step: int, *argv: str) -> None:
        """Run a command that is killed at a step."""
        self.begin(step, signal.SIGKILL, *argv).wait(90)

    def stopped(self, step: int, *argv: str) -> Iterator[Any]:
        """A command that is stopped at a step, once it is, unless it ends before; then it goes on.
        """
        child = self.begin(step, signal.SIGSTOP, *argv)
        deadline = time.monotonic() + 60
        while child.poll() is None and time.monotonic() < deadline:
            if re.search(r"\nState:\s+T", psik.read_or_empty("/proc/%d/status" % child.pid)):
                yield child
                break
            time.sleep(0.005)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGCONT)
        try:
            child.wait(90)
        except subprocess.TimeoutExpired:
            self.faults.append("ends: `%s` did not" % " ".join(argv))
            child.kill()
            child.wait()

    def steps(self) -> int:
        """How many steps were counted."""
        return os.path.getsize(self.calls) if os.path.exists(self.calls) else 0

    # Jobs.

    def spec(self, script: str, **fields: Any) -> str:
        """The path of a spec."""
        path = self.folder + "/spec.json"
        port = self.receiver.server.server_address[1]
        psik.write_file(path, json.dumps(dict(
            {"script": "#!/bin/sh\n" + script, "resources": self.ground.resources,
             "callback": "http://127.0.0.1:%d%s" % (port, self.path)}, **fields)))
        return path

    def note(self, word: str) -> str:
        """A line of a payload that notes what it does."""
        return "echo %s $jobndx ${base##*/} >>%s" % (word, self.ran)

    @property
    def short(self) -> str:
        """A payload that notes its beginning and its end."""
        return "%s\nsleep %s\n%s\n" % (self.note("begin"), self.ground.seconds, self.note("end"))

    @property
    def long(self) -> str:
        """A payload that goes on until somebody ends it."""
        return "%s\nsleep %s & sleep %s\n" % (self.note("begin"), self.nap, self.nap)

    def put(self, script: str, *argv: str, **fields: Any) -> Any:
        """Submit a job; its directory."""
        jobid = self.psik("run", self.spec(script, **fields), *argv)[1]
        return psik.find_job(self.config, jobid)

    def put_active(self, script: str) -> Any:
        """Submit a job, and wait until its payload has begun."""
        job = self.put(script)
        self.until(lambda: os.path.exists(self.ran), "the payload begins")
        return job

    def until(self, claim: Callable[[], Any], what: str, seconds: float = 60) -> bool:
        """Wait until a claim holds; whether it did in time, else that is a fault."""
        deadline = time.monotonic() + seconds
        while not claim():
            if time.monotonic() > deadline:
                self.faults.append("ends: %s: not within %g s" % (what, seconds))
                return False
            time.sleep(0.05)
        return True

    def jobs(self) -> List[Any]:
        """Those that were made."""
        return [job for job in psik.JobTree(self.config).jobs() if job.rows()]

    def left(self) -> List[str]:
        """The processes of the trial that run."""
        return processes_with("sleep " + self.nap) + processes_with(self.prefix)

    # Afterwards.

    def settle(self) -> None:
        """Look, and start what was not submitted, until every job has ended."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            self.psik("poll")
            open_jobs = [job for job in self.jobs() if not psik.is_over(job, job.rows())]
            if not open_jobs:
                return
            if time.monotonic() > deadline:
                self.faults.append("ends: job %s does not: %s" % (
                    open_jobs[0].jobid, rows_of(open_jobs[0])))
                return
            for job in open_jobs:
                if len(job.rows()) == 1 and not psik.Held(job).is_waiting:
                    age_submission(job)
                    self.psik("start", job.jobid)
            time.sleep(0.1)

    def deliver(self) -> None:
        """Send what waits, until all has arrived."""
        for _ in range(60):
            if self.psik("deliver", "--all", "--dead")[0] == 0:
                return
        self.faults.append("told: not all of it")

    def clear(self) -> None:
        """Remove all jobs, and what is left of others."""
        for job in self.jobs():
            self.psik("rm", "--force", job.jobid)
        make_old(self.prefix)
        self.psik("rm", "--stale")

    def end(self) -> None:
        """Leave nothing behind."""
        kill(self.left())
        subprocess.run(["umount", "-l", self.prefix], stderr=subprocess.DEVNULL)
        shutil.rmtree(self.folder, ignore_errors=True)


def paths_below(prefix: str) -> Iterator[str]:
    """All files and folders of a tree of jobs, as paths relative to it."""
    for folder, folders, files in os.walk(prefix):
        for name in folders + files:
            yield os.path.relpath(os.path.join(folder, name), prefix)


def make_old(prefix: str) -> None:
    """Make all that is left look as if it had been left for long."""
    old = time.time() - psik.STALE_S - 10
    for path in paths_below(prefix):
        os.utime(os.path.join(prefix, path), (old, old), follow_symlinks=False)


def leftovers(prefix: str) -> Iterator[str]:
    """What is left in a tree whose jobs are removed, and should not be."""
    for path in paths_below(prefix):
        if not STAYS.fullmatch(path) or psik.UNFINISHED.fullmatch(path):
            yield "is left: " + path


def rows_of(job: Any) -> List[str]:
    """The history of a job, to be shown."""
    return ["%d %s %s" % row[1:] for row in job.rows()]


# The promises: each yields what is wrong with the trial, after all of it.

def runs_once(trial: Trial) -> Iterator[str]:
    """No step runs twice, and none runs that the record does not have."""
    lines = [line.split() for line in psik.read_or_empty(trial.ran).splitlines()]
    counts = collections.Counter((words[2], words[1]) for words in lines if words[0] == "begin")
    for (jobid, jobndx), number in counts.items():
        if number > 1:
            yield "step %s of %s ran %d times" % (jobndx, jobid, number)
    known = {job.jobid: {str(row.jobndx) for row in job.rows()} for job in trial.jobs()}
    for jobid, jobndx in counts:
        if jobid in known and jobndx not in known[jobid]:
            yield "step %s of %s ran, and is not on record" % (jobndx, jobid)
    for job in trial.jobs():
        begun = [jobndx for jobid, jobndx in counts if jobid == job.jobid]
        states = psik.Steps(job.rows()).states
        done = [jobndx for jobndx in begun if states[int(jobndx)].state == "completed"]
        if len(done) > 1 or (done and len(begun) > 1 and begun[-1] not in done):
            yield "%s ran again after it was done: %s" % (job.jobid, rows_of(job))


def is_true(trial: Trial) -> Iterator[str]:
    """What the record says is so."""
    said = psik.read_or_empty(trial.ran)
    for job in trial.jobs():
        for jobndx, row in psik.Steps(job.rows()).states.items():
            has_begun, has_ended = ("%s %d %s\n" % (word, jobndx, job.jobid) in said
                                    for word in ("begin", "end"))
            state = row.state.value
            if state == "completed" and not (has_begun and has_ended):
                yield "step %d of %s is completed, and is not: %s" % (jobndx, job.jobid,
                                                                      rows_of(job))
            if state == "failed" and has_ended and row.info == 0:
                yield "step %d of %s is failed with 0" % (jobndx, job.jobid)
            reason = psik.reason_of(job, row, psik.Steps(job.rows()), {})
            if state == "failed" and not reason:
                yield "step %d of %s failed, and nobody knows why: %s" % (jobndx, job.jobid,
                                                                         rows_of(job))


def is_told(trial: Trial) -> Iterator[str]:
    """Each row of a history is told, once and in order."""
    taken = trial.receiver.taken[trial.path]
    for job in trial.jobs():
        told = [(each["jobndx"], each["state"], each["info"]) for each in taken
                if each["jobid"] == job.jobid]
        rows = [(row.jobndx, row.state.value, row.info) for row in job.rows()
                if row.state != "new"]
        if told != rows:
            yield "of %s was told %s, and its history is %s" % (job.jobid, told, rows)


def is_gone(trial: Trial) -> Iterator[str]:
    """Nothing of a job runs when it has ended."""
    deadline = time.monotonic() + 60    # or a scheduler that crashed has forgotten it
    while trial.left() and time.monotonic() < deadline:
        time.sleep(0.1)
    for line in trial.left():
        yield "runs on: %s" % line.strip()[:200]


def is_clean(trial: Trial) -> Iterator[str]:
    """Where the jobs are removed, nothing of them is left."""
    trial.clear()
    yield from leftovers(trial.prefix)


PROMISES: Dict[str, Callable[[Trial], Iterator[str]]] = {
    "once": runs_once, "true": is_true, "told": is_told, "gone": is_gone, "clean": is_clean}


# The faults.

class Fault(NamedTuple):
    """A row of the table.  tried is called with a trial and a step; with the step 0 it counts."""
    name: str
    tried: Callable[[Trial, int], None]
    has_steps: bool = True
    needs: Callable[[Ground], Any] = lambda ground: True


def client_killed_in_run(trial: Trial, step: int) -> None:
    trial.killed(step, "run", trial.spec(trial.short))


def client_stopped_in_run(trial: Trial, step: int) -> None:
    for _ in trial.stopped(step, "run", trial.spec(trial.short)):
        trial.psik("ls", timeout=30)


def client_killed_in_cancel(trial: Trial, step: int) -> None:
    job = trial.put_active(trial.long)
    trial.killed(step, "cancel", job.jobid)
    trial.psik("cancel", "--wait", job.jobid)


def client_killed_in_rm(trial: Trial, step: int) -> None:
    job = trial.put_active(trial.long)
    trial.killed(step, "rm", "--force", job.jobid)
    if job.rows():
        trial.psik("rm", "--force", job.jobid)


def client_killed_in_poll(trial: Trial, step: int) -> None:
    job = trial.put_active(trial.short)
    pid = dict(line.split(" ", 1) for line in psik.read_or_empty(
        job.log("claim", 1)).splitlines())["pid"]
    os.kill(int(pid), signal.SIGKILL)
    trial.killed(step, "poll")


def client_killed_in_delivery(trial: Trial, step: int) -> None:
    trial.receiver.away.append(trial.path)
    trial.put(trial.short)
    trial.settle()
    trial.receiver.away.remove(trial.path)
    trial.killed(step, "deliver", "--all")


def client_killed_in_release(trial: Trial, step: int) -> None:
    go = trial.folder + "/go"
    job = trial.put("until test -e %s; do sleep 0.1; done\n%s" % (go, trial.short))
    psik.write_file(job.script("psik"), "#!/bin/sh\nexit 1\n", 0o700)  # its supervisor cannot do it
    trial.put(trial.short, "--after", job.jobid)
    psik.write_file(go, "")
    trial.until(lambda: job.rows()[-1].state.is_final(), "the first job")
    trial.killed(step, "ls")


def hooked_supervisor(trial: Trial, step: int, number: int, script: str, more: str = "pass") -> Any:
    """A job that was submitted, and whose supervisor gets a signal at a step."""
    job = trial.put(script, "--no-submit")
    text = psik.read_or_empty(job.script("supervise"))
    psik.write_file(job.script("supervise"), trial.hook(step, number, "supervisor.py", more) + text,
                    0o700)
    trial.psik("start", job.jobid)
    return job


def supervisor_killed(trial: Trial, step: int) -> None:
    hooked_supervisor(trial, step, signal.SIGKILL, trial.short)
    if not step:
        trial.settle()


def processes_stopped(trial: Trial) -> List[int]:
    """The processes of a trial that are stopped."""
    pids = [int(line.split()[1]) for line in trial.left()]
    return [pid for pid in pids
            if re.search(r"\nState:\s+T", psik.read_or_empty("/proc/%d/status" % pid))]


def await_stop(trial: Trial, job: Any) -> None:
    """Wait until the supervisor of a job is stopped, or has ended before."""
    trial.until(lambda: processes_stopped(trial) or job.rows()[-1].state.is_final(),
                "the supervisor stops")


def go_on(trial: Trial) -> None:
    """Let what is stopped go on."""
    for pid in processes_stopped(trial):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def supervisor_stopped(trial: Trial, step: int) -> None:
    job = hooked_supervisor(trial, step, signal.SIGSTOP, trial.short)
    await_stop(trial, job)
    trial.psik("cancel", job.jobid)
    go_on(trial)
    trial.psik("cancel", job.jobid)


def payload_killed(trial: Trial, step: int) -> None:
    trial.put(trial.note("begin") + "\nkill -9 $$\n")


def payload_stopped(trial: Trial, step: int) -> None:
    job = trial.put_active(trial.note("begin") + "\nkill -STOP $$\n")
    time.sleep(0.3)
    trial.psik("cancel", "--wait", job.jobid)


def scheduler_killed_in_run(trial: Trial, step: int) -> None:
    with trial.ground.turn:
        for _ in trial.stopped(step, "run", trial.spec(trial.short)):
            trial.ground.strike()
        trial.ground.mend()


def scheduler_frozen_in_run(trial: Trial, step: int) -> None:
    with trial.ground.turn:
        for child in trial.stopped(step, "run", trial.spec(trial.short)):
            trial.ground.freeze()
            os.kill(child.pid, signal.SIGCONT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(30)
        trial.ground.mend()


def scheduler_killed_in_cancel(trial: Trial, step: int) -> None:
    job = trial.put_active(trial.long)
    with trial.ground.turn:
        for _ in trial.stopped(step, "cancel", job.jobid):
            trial.ground.strike()
        trial.ground.mend()
    trial.until(lambda: trial.psik("cancel", "--wait", job.jobid)[0] == 0, "the cancellation")


class Served:
    """A server of a trial, at a socket."""

    def __init__(self, trial: Trial, step: int) -> None:
        from serving import UnixConnection
        self.path, self.connection = trial.folder + "/socket", UnixConnection
        code = "import sys\n" + CLIENT + trial.hook(step, signal.SIGKILL) + SERVING
        code += "sys.exit(psik.main())"
        self.child = subprocess.Popen(
            [sys.executable, "-S", "-c", code, "serve", "--quiet", "--uds", self.path],
            env=trial.env, cwd=trial.folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        trial.until(self.answers, "the server")

    def answers(self) -> bool:
        """Whether somebody listens at the socket."""
        import socket
        with socket.socket(socket.AF_UNIX) as sock:
            return sock.connect_ex(self.path) == 0

    def ask(self, method: str, path: str, body: bytes, **headers: str) -> Tuple[int, Any]:
        """(status, answer); (0, '') if the server is gone."""
        try:
            there = self.connection(self.path)
            there.request(method, path, body, {name.replace("_", "-"): text
                                               for name, text in headers.items()})
            answer = there.getresponse()
            return answer.status, (answer.getheader("Upload-Offset"), answer.read())
        except OSError:
            return 0, ""
        except Exception:   # http.client's own, for an answer that is cut
            return 0, ""

    def stop(self) -> None:
        """End it."""
        self.child.terminate()
        self.child.wait(60)


def server_killed_in_post(trial: Trial, step: int) -> None:
    with open(trial.spec(trial.short), "rb") as file:
        spec = file.read()
    for each in (step, 10 ** 9):
        server = Served(trial, each)
        status, _ = server.ask("POST", "/v1/jobs", spec, Content_Type="application/json",
                               Idempotency_Key="one")
        server.stop()
        if status == 200:
            break
    if len(trial.jobs()) != 1:
        submitted = [job for job in trial.jobs() if len(job.rows()) > 1]
        if len(submitted) != 1:
            trial.faults.append("once: %d jobs of one key were submitted" % len(submitted))
        for job in trial.jobs():    # the beginning of one, which nobody was told of
            if job not in submitted:
                trial.psik("rm", "--force", job.jobid)


def server_killed_in_upload(trial: Trial, step: int) -> None:
    job = trial.put(trial.short)
    path, data = "/v1/jobs/%s/files/in.dat" % job.jobid, os.urandom(300000)
    status, at = 0, 0
    for each in (step, 10 ** 9, 10 ** 9):
        server = Served(trial, each)
        status, answer = server.ask(
            "PUT", path, data[at:], Content_Range="bytes %d-%d/%d" % (
                at, len(data) - 1, len(data)))
        if status == 409:
            at = int(answer[0] or 0)
        server.stop()
        if status == 200:
            break
    place = job.at("work", "in.dat")
    if status != 200 or not os.path.exists(place) or open(place, "rb").read() != data:
        trial.faults.append("true: the upload is not what was sent (status %d)" % status)


@contextlib.contextmanager
def small_disk(trial: Trial) -> Iterator[Callable[[], None]]:
    """A small disk for the prefix; what fills it is emptied again at the end."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m,mode=700", "none", trial.prefix],
                   check=True)
    full = trial.prefix + "/.full"

    def fill() -> None:
        for size in (65536, 1):     # to the last byte that a block has left
            with contextlib.suppress(OSError), open(full, "ab", buffering=0) as file:
                while True:
                    file.write(b"\0" * size)

    try:
        yield fill
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(full)


def disk_full_in_run(trial: Trial, step: int) -> None:
    with small_disk(trial) as fill:
        for _ in trial.stopped(step, "run", trial.spec(trial.short)):
            fill()


def disk_full_in_supervisor(trial: Trial, step: int) -> None:
    with small_disk(trial) as fill:
        job = hooked_supervisor(trial, step, signal.SIGSTOP, trial.short)
        await_stop(trial, job)
        fill()
        go_on(trial)
        time.sleep(trial.ground.seconds + 1)


def read_only_in_cancel(trial: Trial, step: int) -> None:
    job = trial.put_active(trial.long)
    subprocess.run(["mount", "--bind", trial.prefix, trial.prefix], check=True)
    read_only = ["mount", "-o", "remount,ro,bind", trial.prefix]
    try:
        for _ in range(100):    # it is busy while anybody has a file open there to write to it
            if not subprocess.run(read_only, stderr=subprocess.DEVNULL).returncode:
                break
            time.sleep(0.1)
        trial.psik("cancel", job.jobid)
    finally:
        subprocess.run(["umount", "-l", trial.prefix], check=True)
    trial.psik("cancel", job.jobid)


def no_locks(trial: Trial, step: int) -> None:
    job = trial.put(trial.short, "--no-submit")
    text = psik.read_or_empty(job.script("supervise"))
    psik.write_file(job.script("supervise"), trial.hook(
        10 ** 9, 0, "supervisor.py", NO_LOCKS) + text, 0o700)
    trial.begin(10 ** 9, 0, "start", job.jobid, more=NO_LOCKS).wait(60)


def torn_line(trial: Trial, step: int) -> None:
    job = trial.put(trial.short)
    time.sleep(random.Random(step).random() * trial.ground.seconds)
    with open(job.status_path, "a") as file:
        file.write("1795220145.69,1,act")


def clock_jumps(trial: Trial, step: int) -> None:
    off_s = random.Random(step).choice((-90000, -100, 100, 90000))
    more = "import time\n    time.time = lambda real=time.time: real() + %d" % off_s
    trial.begin(10 ** 9, 0, "run", trial.spec(trial.short), more=more).wait(60)
    trial.begin(10 ** 9, 0, "ls", more=more).wait(60)


def node_is_lost(trial: Trial, step: int) -> None:
    trial.put_active(trial.long)
    ground: Any = trial.ground
    with ground.turn:
        nodes = ground.cluster.run("sinfo", "-h", "-N", "-o", "%N").stdout.split()
        for node in nodes:
            ground.cluster.stop_node(node, signal.SIGKILL)
        for pid in ground.cluster.job_processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        kill(trial.left())
        for node in nodes:
            ground.cluster.run("scontrol", "update", "NodeName=" + node, "State=DOWN",
                               "Reason=lost")
        trial.psik("poll")
        for node in nodes:
            ground.cluster.start_node(node)
        ground.mend()


def cancelled_from_another_host(trial: Trial, step: int) -> None:
    job = trial.put_active(trial.long)
    line = " ".join(map(psik.SH.quote_word, FAST + ["cancel", job.jobid]))
    done = subprocess.run(["unshare", "--uts", "sh", "-c", "hostname elsewhere; exec " + line],
                          env=trial.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        trial.faults.append("ends: cancel from another host: %s" % done.stdout.decode())


def can_strike(ground: Ground) -> bool:
    """Whether the scheduler of a ground can be killed."""
    return ground.can_strike


def has_disks(ground: Ground) -> bool:
    """Whether disks can be mounted."""
    return IS_ROOT


FAULTS = (
    Fault("the client is killed in `run`", client_killed_in_run),
    Fault("the client is stopped in `run`", client_stopped_in_run),
    Fault("the client is killed in `cancel`", client_killed_in_cancel),
    Fault("the client is killed in `rm --force`", client_killed_in_rm),
    Fault("the client is killed in `poll`, the supervisor before", client_killed_in_poll),
    Fault("the client is killed in `deliver`", client_killed_in_delivery),
    Fault("the client is killed while it releases a job", client_killed_in_release),
    Fault("the supervisor is killed", supervisor_killed),
    Fault("the supervisor is stopped, and the job canceled", supervisor_stopped),
    Fault("the payload is killed", payload_killed, has_steps=False),
    Fault("the payload is stopped, and the job canceled", payload_stopped, has_steps=False),
    Fault("the scheduler is killed in `run`", scheduler_killed_in_run, needs=can_strike),
    Fault("the scheduler hangs in `run`", scheduler_frozen_in_run, needs=can_strike),
    Fault("the scheduler is killed in `cancel`", scheduler_killed_in_cancel, needs=can_strike),
    Fault("the server is killed in POST", server_killed_in_post),
    Fault("the server is killed in an upload", server_killed_in_upload),
    Fault("the disk is full in `run`", disk_full_in_run, needs=has_disks),
    Fault("the disk is full in the supervisor", disk_full_in_supervisor, needs=has_disks),
    Fault("the disk is read-only in `cancel`", read_only_in_cancel, False, has_disks),
    Fault("the file system has no locks", no_locks, has_steps=False),
    Fault("a line of the history is torn", torn_line, has_steps=False),
    Fault("the clock jumps", clock_jumps, has_steps=False),
    Fault("the nodes are lost", node_is_lost, False, lambda ground: ground.name == "slurm"),
    Fault("the job is canceled from another host", cancelled_from_another_host, False,
          lambda ground: IS_ROOT and ground.name in ("local", "at")),
)


class Cell:
    """A fault on a backend in a shell: the steps at which it was tried, and what was broken."""

    def __init__(self, fault: Fault, ground: Ground, shell: str, receiver: Receiver) -> None:
        self.fault, self.ground, self.shell, self.receiver = fault, ground, shell, receiver
        self.tried: List[int] = []
        self.broken: List[str] = []
        self.ends: Dict[str, int] = {}  # {state: jobs that ended so}

    @contextlib.contextmanager
    def trial(self) -> Iterator[Trial]:
        """A trial of its own."""
        trial = Trial(self.ground, self.shell, self.receiver)
        try:
            yield trial
        finally:
            trial.end()

    def count(self) -> int:
        """How many steps there are."""
        with self.trial() as trial:
            self.fault.tried(trial, 0)
            trial.settle()
            self.broken += ["uncut: " + fault for fault in trial.faults]
            return trial.steps()

    def attempt(self, step: int) -> None:
        """Try the fault at a step, and ask for the promises."""
        with self.trial() as trial:
            self.tried.append(step)
            try:
                self.fault.tried(trial, step)
                trial.settle()
                for job in trial.jobs():
                    state = psik.summarize(job, job.rows(), {}).state
                    self.ends[state] = self.ends.get(state, 0) + 1
                trial.deliver()
                for name, promise in PROMISES.items():
                    trial.faults += ["%s: %s" % (name, fault) for fault in promise(trial)]
            except Exception as err:
                trial.faults.append("the trial failed: %r" % err)
            self.broken += ["step %d: %s" % (step, fault) for fault in trial.faults]

    def run(self, times: int, chance: random.Random) -> None:
        """Try it so many times."""
        steps = [chance.randrange(10 ** 6)] * (1 if not self.fault.has_steps else 0)
        if self.fault.has_steps:
            number = max(self.count(), 1)
            cuts = [number * place // times for place in range(times + 1)]
            steps = [chance.randrange(low + 1, max(high, low + 1) + 1)
                     for low, high in zip(cuts, cuts[1:])]
        for step in steps:
            self.attempt(step)

    @property
    def text(self) -> str:
        """What the table says."""
        broken = len({fault.split(":")[0] for fault in self.broken})
        return "%d" % len(self.tried) if not broken else "**%d of %d**" % (broken, len(self.tried))


def run_ground(ground: Ground, cells: Sequence[Cell], opts: Any) -> None:
    """Try the cells of a ground, one after another."""
    ground.start()
    try:
        for cell in cells:
            begun = time.monotonic()
            cell.run(opts.times, random.Random("%d %s %s" % (opts.seed, cell.fault.name,
                                                            cell.shell)))
            ends = " ".join("%d %s" % (number, state) for state, number in cell.ends.items())
            print("%-6s %-3s %-57s %-10s %4.0f s  %s" % (
                ground.name, os.path.basename(cell.shell), cell.fault.name, cell.text,
                time.monotonic() - begun, ends), flush=True)
            for line in cell.broken:
                print("    BROKEN " + line, flush=True)
    finally:
        ground.stop()


def table(cells: Dict[Tuple[str, str, str], Cell], backends: Sequence[str],
          shells: Dict[str, str]) -> Iterator[str]:
    """The lines of the table."""
    columns = [(backend, name) for backend in backends for name in shells]
    yield "| fault | " + " | ".join("%s, %s" % pair for pair in columns) + " |"
    yield "| --- |" + " --: |" * len(columns)
    for fault in FAULTS:
        row = [cells.get((fault.name, backend, name)) for backend, name in columns]
        if any(row):
            yield "| %s | %s |" % (fault.name, " | ".join(cell.text if cell else "-"
                                                         for cell in row))


def options() -> Any:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--times", type=int, default=6)
    parser.add_argument("--backends", default=",".join(GROUNDS))
    parser.add_argument("--shells", default="rc,sh")
    parser.add_argument("--faults", default="", help="words of the names of faults")
    parser.add_argument("--table", help="write the table to this file")
    return parser.parse_args()


def chosen_faults(words: str) -> List[Fault]:
    """The faults whose names have one of these words."""
    return [fault for fault in FAULTS
            if not words or any(word in fault.name for word in words.split(","))]


def main() -> int:
    opts, begun = options(), time.monotonic()
    found = {"rc": rc_path(), "sh": "/bin/sh"}
    shells = {name: str(found[name]) for name in opts.shells.split(",") if found[name]}
    backends = [name for name in opts.backends.split(",") if GROUNDS[name][1]]
    for name in set(opts.backends.split(",")) - set(backends):
        print("left out: %s, which is not there" % name)
    print("seed %d" % opts.seed, flush=True)
    receiver, place = Receiver(opts.seed), tempfile.mkdtemp(prefix="psf")
    cells: Dict[Tuple[str, str, str], Cell] = {}
    threads = []
    for backend in backends:
        ground = GROUNDS[backend][0](backend, os.path.join(place, backend))
        own = {(fault.name, backend, name): Cell(fault, ground, path, receiver)
               for fault in chosen_faults(opts.faults) if fault.needs(ground)
               for name, path in shells.items()}
        cells.update(own)
        threads.append(threading.Thread(target=run_ground, args=(ground, list(own.values()), opts)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shutil.rmtree(place, ignore_errors=True)
    lines = list(table(cells, backends, shells))
    broken = sum(bool(cell.broken) for cell in cells.values())
    tried = sum(len(cell.tried) for cell in cells.values())
    lines += ["", "%d trials in %d cells, seed %d; %d cells broken; %.0f s" % (
        tried, len(cells), opts.seed, broken, time.monotonic() - begun)]
    print("\n".join(lines))
    if opts.table:
        psik.write_file(opts.table, "# What was broken, and what held\n\nMade by `make faults`. "
                        "A number is how often a fault was tried, each time at another step.\n\n"
                        + "\n".join(lines) + "\n", 0o644)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
