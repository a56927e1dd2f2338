#!/usr/bin/env python3
"""An hour of mixed work, with trouble now and then: nothing is lost, doubled or told wrongly.

    python3 tests/endurance.py [--minutes M] [--seed N] [--backends NAME,...] [--out FOLDER]

In one prefix, with a backend for each scheduler that is there, users live through STORIES, on the
command line and over REST: jobs that succeed and fail, arrays, chains, cancellations, jobs that run
again, files.  Their callbacks go to a receiver that refuses some.  One server works on throughout;
another is killed or ended again and again, and started anew.  Clients that are hostile or vanish
come in waves.  Two followers read every event, over all restarts.

Each story says how its jobs are to end.  When they have, its jobs are compared with what they did,
with what the receiver was told and with what the followers read; some time later they are removed.
At the end nothing may be left, and no server, tree or journal may have grown.

With --out, a report and a picture are written there.
"""
import argparse
import collections
import contextlib
import glob
import http.client
import importlib
import json
import os
import random
import signal
import statistics
import sys
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import faults
import soak
from harness import DEPS, Case, processes_with
from serving import Answer, Server

import psik

BENCH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bench")
MAKERS = 3
MAX_OPEN = 6            # stories of a backend at once
KEPT = 200              # jobs that have ended, before the oldest is removed
END_S = 300             # for the jobs of a story to end; then for what is told of them
SAMPLE_S = 5
WAVE_S = (20, 100)      # of vanishing and hostile clients; between two waves
SPARE_MB, SPARE_HANDLES = 10, 5
SPARE_FILES = 1000      # one more for each story would be thousands
MEASURES = ("rss_mb", "threads", "descriptors", "files")


class Refused(Exception):
    """A command or a request that should have been granted was not."""


class Follower(threading.Thread):
    """Reads the events of a server, and goes on where it was when the stream ends."""

    def __init__(self, connect: Callable[[], http.client.HTTPConnection], name: str) -> None:
        super().__init__(daemon=True)
        self.connect, self.name, self.last, self.resets = connect, name, "", 0
        self.events: Dict[str, Dict[str, Tuple[int, str, Any]]] = collections.defaultdict(dict)

    def take(self, kind: str, data: str) -> None:
        """Note an event of a job, once."""
        self.resets += kind == "reset"
        if kind == "transition":
            event = json.loads(data)
            row = (event["jobndx"], event["state"], event["info"])
            self.events[event["jobid"]].setdefault(event["key"], row)

    def read(self) -> None:
        """Read one stream to its end."""
        with contextlib.closing(self.connect()) as there:
            there.request("GET", "/v1/events",
                          headers={"Last-Event-ID": self.last} if self.last else {})
            answer, kind = there.getresponse(), ""
            for line in iter(answer.readline, b""):
                name, _, text = line.decode().strip().partition(": ")
                if name == "id":
                    self.last = text
                elif name == "event":
                    kind = text
                elif name == "data":
                    self.take(kind, text)

    def run(self) -> None:
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                self.read()
            time.sleep(0.3)

    def rows(self, jobid: str) -> List[Tuple[int, str, Any]]:
        """What was told of a job, in order."""
        return [row for row in list(self.events[jobid].values()) if row[1] != "new"]


class Site(Case):
    """The prefix, its schedulers, its servers, and what is known of them."""

    def begin(self, seed: int, backends: Sequence[str]) -> None:
        """Start everything."""
        self.setUp()
        self.receiver, self.chance = faults.Receiver(seed), random.Random(seed)
        self.grounds, self.faults, self.restarts = {}, [], []   # type: Any, List[str], List[float]
        for name in backends:
            self.start_scheduler(name)
        self.configure(
            backends={name: {"type": name, **ground.settings}
                      for name, ground in self.grounds.items()},
            poll_interval_s=2, kill_grace_s=1, callback_timeout_s=3, submit_timeout_s=30)
        self.begun = time.monotonic()
        self.steady, self.other = Server(self, "--port", "0", "--quiet"), self.another()
        self.followers = [Follower(self.steady.connection, "the steady server"),
                          Follower(lambda: self.other.connection(), "the restarted one")]
        for follower in self.followers:
            follower.start()

    def start_scheduler(self, name: str) -> None:
        """Start a backend's scheduler; the environments of all of them add up."""
        ground = faults.GROUNDS[name][0](name, os.path.join(self.folder, "of-" + name))
        os.mkdir(ground.folder)
        ground.start()
        self.addCleanup(ground.stop)
        paths = [ground.env.get("PATH", ""), self.env["PATH"]]
        self.env.update(ground.env, PATH=os.pathsep.join(filter(None, paths)))
        self.grounds[name] = ground

    def another(self) -> Server:
        """The server that does not last."""
        return Server(self, "--uds", os.path.join(self.folder, "other.sock"), "--quiet")

    def restart(self) -> None:
        """End the other server, one way or another, and start it anew."""
        self.restarts.append(time.monotonic() - self.begun)
        if self.chance.random() < 0.5:
            self.other.process.kill()
        status = self.other.stop()
        if status not in (0, -signal.SIGKILL):
            self.faults.append("a server ended with status %d" % status)
        self.faults += ["a traceback of a server: " + self.other.said()[-2000:]
                        ] * ("Traceback" in self.other.said())
        self.other = self.another()

    def ask(self, method: str, path: str, body: Any = None, takes: Sequence[int] = (),
            **headers: Any) -> Answer:
        """Ask one of the servers until it grants it, or answers by a status that is taken, too.

        Refused where it does not in a minute.
        """
        deadline, why = time.monotonic() + 60, ""
        while time.monotonic() < deadline:
            server = self.steady if random.random() < 0.5 else self.other
            try:
                answer = server.ask(method, path, body, **headers)
            except (OSError, http.client.HTTPException) as err:
                why = repr(err)
            else:
                if answer.status < 400 or answer.status in takes:
                    return answer
                why = "%d %s" % (answer.status, answer.text)
                if answer.status != 503:
                    break
            time.sleep(0.2)
        raise Refused("%s %s: %s" % (method, path, why))

    def wave(self, plan: soak.Plan, seconds: float) -> None:
        """Let clients come that vanish, and hostile ones."""
        plan = plan._replace(until=time.monotonic() + seconds)
        came = [soak.start(soak.run_clients, plan, role) for role in ("vanishing", "hostile")]
        for process, pipe in came:
            if not soak.report_of(process, pipe, plan.until):
                self.faults.append("a wave of clients has not reported")

    def files(self) -> int:
        """How many files jobs have, and other folders but the Idempotency-Keys of the day.

        A server that is killed leaves the beginnings of a job, which stay until `rm --stale`.
        """
        begun = {os.path.dirname(path) for path in glob.glob(self.prefix + "/*/*/spec.json")
                 if not os.path.exists(os.path.join(os.path.dirname(path), "status.csv"))}
        return sum(len(files) for folder, _, files in os.walk(self.prefix)
                   if not folder.endswith("/.keys") and folder not in begun
                   and os.path.dirname(folder) not in begun)


# Stories.

class Life:
    """A story: its jobs, and how each of their steps is to end."""

    def __init__(self, site: Site, number: int, name: str, backend: str, chance: Any) -> None:
        self.site, self.name, self.backend, self.chance = site, name, backend, chance
        self.path, self.ran = "/%d" % number, os.path.join(site.folder, "ran-%d" % number)
        self.receiver, self.ground = site.receiver, site.grounds[backend]
        self.faults: List[str] = []
        self.wanted: Dict[str, List[str]] = {}  # {job id: the end of each step, as it begins}
        self.told = 0.0     # when its user had done all that he does
        self.over = 0.0     # when its jobs had ended
        self.title = "%s %d on %s" % (name, number, backend)

    # As the promises of tests/faults.py ask it.

    def jobs(self) -> List[Any]:
        """The directories of its jobs."""
        return [psik.JobDir(os.path.join(self.site.prefix, self.backend, jobid))
                for jobid in self.wanted]

    # What users do.

    def spec(self, *lines: str, **fields: Any) -> Dict[str, Any]:
        """A spec whose payload notes its begin and its end."""
        note = "echo %%s $jobndx ${base##*/} >>%s" % self.ran
        script = ["#!/bin/sh", note % "begin"] + list(lines) + [note % "end"]
        callback = "http://127.0.0.1:%d%s" % (self.receiver.server.server_address[1], self.path)
        return dict({"script": "\n".join(script) + "\n", "callback": callback, "name": self.name,
                     "resources": self.ground.resources}, **fields)

    def run(self, spec: Dict[str, Any], *ends: str) -> str:
        """Submit a job whose steps end so: on the command line or over REST; its id."""
        late = ends[0] == "0 canceled"  # what it is to run after may have failed already
        if self.chance.random() < 0.5:
            ran = self.site.psik("run", "-", "--backend", self.backend, stdin=json.dumps(spec),
                                 status=None)
            if ran.status and not (late and "is canceled" in ran.err):
                raise Refused(ran.err)
            jobid = ran.out.strip()
        else:
            jobid = self.post("/v1/jobs", spec, late)
        self.wanted[jobid] = list(ends)
        return jobid

    def post(self, path: str, spec: Dict[str, Any], may_conflict: bool = False) -> str:
        """Make a job over REST; the same key makes it once, however often it is asked for.

        Where a server was killed while it submitted the job, it may still come: so it is forced.
        """
        key = "%s-%016x" % (self.path[1:], self.chance.getrandbits(64))
        answer = self.site.ask("POST", path + "?backend=" + self.backend, spec,
                               (409, 502) if may_conflict else (502,), Idempotency_Key=key)
        if answer.status == 502:
            if "but may still get it" not in answer.text:
                raise Refused(answer.text)
            self.site.psik("start", "--force", answer.json["jobid"])
        return str(answer.json if answer.status < 400 else answer.json["jobid"])

    def until_ended(self, jobid: str) -> None:
        """Wait for a job, on the command line or over REST."""
        deadline = time.monotonic() + END_S
        if self.chance.random() < 0.5:
            self.site.psik("wait", jobid, status=None, timeout=END_S)
            return
        while self.site.ask("GET", "/v1/jobs/%s/state?wait=20" % jobid).json not in (
                "completed", "failed", "canceled"):
            if time.monotonic() > deadline:
                raise Refused("job %s has not ended" % jobid)
            time.sleep(0.5)


def succeeds(life: Life) -> None:
    """A job that does nothing wrong."""
    life.run(life.spec("sleep 0.2"), "1 completed 0")


def fails(life: Life) -> None:
    """A job that fails."""
    jobid = life.run(life.spec("exit 3"), "1 failed 3")
    life.until_ended(jobid)
    said = life.site.psik("why", jobid).out
    if "3" not in said:
        life.faults.append("`why` says " + said)


def is_an_array(life: Life) -> None:
    """An array, of which a task fails."""
    spec = life.spec("test $task != 2 || exit 4", array=4)
    life.run(spec, "1 completed 0", "2 failed 4", "3 completed 0", "4 completed 0")


def is_a_chain(life: Life) -> None:
    """A job after another, and one after one that fails."""
    first = life.run(life.spec("sleep 0.5"), "1 completed 0")
    life.run(life.spec("true", after=[first]), "1 completed 0")
    wrong = life.run(life.spec("sleep 0.2", "exit 5"), "1 failed 5")
    life.run(life.spec("true", after=[wrong]), "0 canceled")


def is_canceled(life: Life) -> None:
    """A job that would run for long."""
    jobid = life.run(life.spec("sleep 600 || exit 9"), "1 canceled")
    time.sleep(life.chance.random() * 3)
    if life.chance.random() < 0.5:
        life.site.psik("cancel", jobid)
    else:
        life.site.ask("DELETE", "/v1/jobs/" + jobid)


def runs_again(life: Life) -> None:
    """A job that fails, and is started again when its cause is mended."""
    mended = life.ran + "-mended"
    jobid = life.run(life.spec("test -e %s || exit 6" % mended), "1 failed 6", "2 completed 0")
    life.until_ended(jobid)
    psik.write_file(mended, "")
    if life.chance.random() < 0.5:
        life.site.psik("start", jobid)
    else:
        life.site.ask("POST", "/v1/jobs/%s/start" % jobid)


def has_files(life: Life) -> None:
    """Files go up before the job begins, and its own come down."""
    jobid = life.post("/v1/jobs/new", life.spec("cat in in >out"))
    life.wanted[jobid] = ["1 completed 0"]
    data = os.urandom(life.chance.randrange(1, 300000))
    life.site.ask("PUT", "/v1/jobs/%s/files/in" % jobid, data)
    life.site.ask("POST", "/v1/jobs/%s/start" % jobid)
    life.until_ended(jobid)
    if life.site.ask("GET", "/v1/jobs/%s/files/out" % jobid).body != data + data:
        life.faults.append("the file is not what was sent")


def is_followed(life: Life) -> None:
    """A user looks on until the job has ended."""
    said = life.site.psik("run", "-", "--backend", life.backend, "--follow", status=7,
                          stdin=json.dumps(life.spec("echo $base moo", "sleep 0.3", "exit 7")))
    line = next((line for line in said.out.splitlines() if line.endswith(" moo")), "")
    if not line:
        raise Refused("nothing followed: %r" % (said,))
    life.wanted[os.path.basename(line[:-4])] = ["1 failed 7"]


STORIES: Dict[str, Tuple[Callable[[Life], None], int]] = {  # {name: (the story, its weight)}
    "succeeds": (succeeds, 4), "fails": (fails, 2), "array": (is_an_array, 2),
    "chain": (is_a_chain, 2), "canceled": (is_canceled, 2), "again": (runs_again, 2),
    "files": (has_files, 2), "followed": (is_followed, 1)}
WEIGHTS = {"local": 5, "at": 2, "slurm": 2, "sge": 1, "lsf": 2}


# What is asked of each story.

def differs(life: Life) -> Iterator[str]:
    """The jobs end as they are to end."""
    for job in life.jobs():
        rows, wanted = job.rows(), life.wanted[job.jobid]
        first = min(1, rows[-1].jobndx or max(row.jobndx for row in rows))
        decisive = sorted(rows, key=lambda row: psik.RANK[row.state])    # `queued` may come late
        last = {row.jobndx: "%d %s %s" % (row.jobndx, row.state.value, row.info)
                for row in decisive if row.jobndx >= first}
        # Canceled before its supervisor began, though its scheduler may have called it active.
        if rows[-1].jobndx == 0 and not os.path.exists(job.log("claim", 1)) and last.get(
                1, "").startswith(("1 queued", "1 active")):
            last = {1: "1 canceled"}
        if len(last) != len(wanted) or not all(
                said.startswith(want) for said, want in zip(sorted(last.values()), wanted)):
            yield "%s is %s, and is to be %s" % (job.jobid, faults.rows_of(job), wanted)


def ran_wrongly(life: Life) -> Iterator[str]:
    """Each step ran once, to its end only where it is completed; no other step ran."""
    counts = collections.Counter(psik.read_or_empty(life.ran).splitlines())
    for job in life.jobs():
        for jobndx, row in psik.Steps(job.rows()).states.items():
            begins, ends = (counts.pop("%s %d %s" % (word, jobndx, job.jobid), 0)
                            for word in ("begin", "end"))
            state = row.state.value
            if begins > 1 or ends != (state == "completed") or (state != "canceled" and not begins
                                                                and jobndx):
                yield "step %d of %s, %s, began %d times and ended %d times" % (
                    jobndx, job.jobid, state, begins, ends)
    for line in counts:
        yield "%r is of no job that was made" % line


def is_followed_wrongly(life: Life) -> Iterator[str]:
    """Each row of a history is an event, once and in order."""
    for job in life.jobs():
        rows = [(row.jobndx, row.state.value, row.info) for row in job.rows()
                if row.state != "new"]
        for follower in life.site.followers:
            if follower.rows(job.jobid) != rows:
                yield "%s told of %s %s, and its history is %s" % (
                    follower.name, job.jobid, follower.rows(job.jobid), rows)


QUESTIONS: Dict[str, Callable[[Any], Iterator[str]]] = {
    "as it is to be": differs, "once": ran_wrongly, "told": faults.is_told,
    "followed": is_followed_wrongly}
LATE = ("told", "followed")     # what need not be so at once


class Sample(NamedTuple):
    """What is there at a time."""
    minute: float
    rss_mb: float
    threads: float
    descriptors: float
    files: float
    open: float     # stories
    done: float


class World:
    """All stories."""

    def __init__(self, site: Site, seed: int, until: float) -> None:
        self.site, self.seed, self.until, self.lock = site, seed, until, threading.Lock()
        self.numbers = iter(range(1, 10 ** 9))
        self.open: List[Life] = []
        self.kept: List[Life] = []
        self.samples: List[Sample] = []
        self.faults: List[str] = []
        self.counts: Any = collections.Counter()    # {(story, backend): how many}
        self.done = self.jobs = 0

    # Making them.

    def next(self) -> Optional[Life]:
        """The next story to live through, unless enough are open on its backend."""
        with self.lock:
            number = next(self.numbers)
            chance = random.Random("%d %d" % (self.seed, number))
            names, backends = list(STORIES), list(self.site.grounds)
            name = chance.choices(names, [STORIES[name][1] for name in names])[0]
            backend = chance.choices(backends, [WEIGHTS[name] for name in backends])[0]
            if sum(life.backend == backend for life in self.open) >= MAX_OPEN:
                return None
            life = Life(self.site, number, name, backend, chance)
            self.open.append(life)
            self.counts[name, backend] += 1
            return life

    def make(self) -> None:
        """One story after the other, until the time is up."""
        while time.monotonic() < self.until:
            life = self.next()
            if life:
                try:
                    STORIES[life.name][0](life)
                except Exception as err:
                    life.faults.append("%s: %s" % (type(err).__name__, err))
                life.told = time.monotonic()
            time.sleep(random.random())

    # Looking at them.

    def questions(self, life: Life, late: bool) -> List[str]:
        """What is wrong with a story."""
        return ["%s: %s" % (word, line) for word, ask in QUESTIONS.items()
                if (word in LATE) == late for line in ask(life)]

    def look(self, life: Life) -> bool:
        """Whether a story is at its end, and all was asked of it."""
        if not life.told:
            return False
        now = time.monotonic()
        if not life.over:
            ended = all(psik.is_over(job, job.rows()) for job in life.jobs())
            if not ended and now - life.told < END_S:
                return False
            life.over = now
            life.faults += [] if ended else ["does not end"]
            life.faults += self.questions(life, late=False)
        wrong = self.questions(life, late=True)
        if wrong and now - life.over < END_S:
            return False
        life.faults += wrong
        return True

    def close(self, life: Life) -> None:
        """Note what was found."""
        self.faults += ["%s: %s" % (life.title, line) for line in life.faults]
        for line in life.faults:
            print("%s: %s" % (life.title, line), flush=True)
        with self.lock:
            self.open.remove(life)
        self.kept.append(life)
        self.done, self.jobs = self.done + 1, self.jobs + len(life.wanted)
        self.receiver_forgets(life)

    def receiver_forgets(self, life: Life) -> None:
        """Keep no more of a story than is needed."""
        self.site.receiver.taken.pop(life.path, None)
        for follower in self.site.followers:
            for jobid in life.wanted:
                follower.events.pop(jobid, None)

    def remove(self, life: Life) -> None:
        """Remove the jobs of a story, as users do."""
        for job in life.jobs():
            try:
                if life.chance.random() < 0.5:
                    self.site.psik("rm", job.jobid)
                else:
                    self.site.ask("DELETE", "/v1/jobs/%s?purge=true" % job.jobid)
            except Exception as err:
                self.faults.append("%s: cannot be removed: %s" % (life.title, err))
            if os.path.exists(job.path):
                self.faults.append("%s: %s is still there" % (life.title, job.path))
        for name in (life.ran, life.ran + "-mended"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)

    def judge(self) -> None:
        """Look at all stories, and remove the oldest, until the time is up and all have ended."""
        while time.monotonic() < self.until or self.open:
            for life in list(self.open):
                if self.look(life):
                    self.close(life)
            while len(self.kept) > KEPT:
                self.remove(self.kept.pop(0))
            time.sleep(0.5)

    # What goes on beside them.

    def disturb(self, minutes: float) -> None:
        """Restart the other server: twenty times in an hour, more often in a short run."""
        while time.monotonic() < self.until:
            time.sleep(min(max(minutes * 3, 10), 180))
            self.site.restart()

    def molest(self) -> None:
        """Waves of hostile clients and such that vanish."""
        plan = soak.make_plan(self.site, self.site.steady, tls=False)
        while time.monotonic() < self.until:
            time.sleep(min(WAVE_S[1], max(5, self.until - time.monotonic() - WAVE_S[0])))
            self.site.wave(plan, WAVE_S[0])
        for jobid in set(plan.jobs.values()):
            self.site.psik("rm", "--force", jobid)

    def browse(self) -> None:
        """Users look at what there is."""
        while time.monotonic() < self.until:
            for argv in (("ls",), ("ls", "--json", "-n", "5"), ("status", "last"), ("poll",)):
                ran = self.site.psik(*argv, status=None)
                if ran.status and "no " not in ran.err and "is gone" not in ran.err:
                    self.faults.append("%s: %s" % (" ".join(argv), ran.err))
            for path in ("/v1/jobs?limit=50", "/v1/jobs/counts", "/v1/backends", "/v1/metrics"):
                self.site.ask("GET", path)
            time.sleep(2)

    def sample(self) -> None:
        """Note what the steady server and the tree hold."""
        usage = soak.usage_of(self.site.steady.process.pid)
        self.samples.append(Sample((time.monotonic() - self.site.begun) / 60, *usage,
                                   self.site.files(), len(self.open), self.done))

    # All of it.

    def live(self, minutes: float) -> None:
        """Let everything happen until the time is up, and all stories have ended."""
        works: List[Callable[[], None]] = [self.make] * MAKERS
        works += [self.judge, self.molest, self.browse, lambda: self.disturb(minutes)]
        threads = [threading.Thread(target=self.safely, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            if time.monotonic() < self.until:
                self.sample()
            time.sleep(SAMPLE_S)

    def safely(self, work: Callable[[], None]) -> None:
        """A mistake of this program ends nothing else, and is told."""
        try:
            work()
        except Exception as err:
            self.faults.append("%s ended: %r" % (work, err))

    # Afterwards.

    def clear(self) -> None:
        """Remove the rest, end the servers, and see that nothing is left."""
        for life in self.kept:
            self.remove(life)
        self.faults += ["%s was reset %d times" % (follower.name, follower.resets)
                        for follower in self.site.followers if follower.resets]
        for server in (self.site.steady, self.site.other):
            self.faults += ["a server ended with status %d" % status
                            for status in [server.stop()] if status]
            self.faults += ["a traceback: " + server.said()[-2000:]] * (
                "Traceback" in server.said())
        self.faults += ["runs on: " + line for line in processes_with(self.site.prefix)]
        faults.make_old(self.site.prefix)
        self.site.psik("rm", "--stale")
        self.faults += faults.leftovers(self.site.prefix)

    def middle(self, share: float) -> Sample:
        """The medians around a share of the samples."""
        place, width = int(share * len(self.samples)), max(1, len(self.samples) // 10)
        rows = self.samples[max(0, place - width):place + 1]
        return Sample(*map(statistics.median, zip(*rows)))

    def growth(self) -> Iterator[str]:
        """What has become more and more."""
        early, late = self.middle(0.4), self.middle(1)
        for name, spare in zip(MEASURES, (SPARE_MB, SPARE_HANDLES, SPARE_HANDLES, SPARE_FILES)):
            if getattr(late, name) - getattr(early, name) > spare:
                yield "%s grew from %.1f to %.1f" % (name, getattr(early, name),
                                                     getattr(late, name))


# The report.

def table(world: World) -> List[str]:
    """How many stories there were."""
    backends = list(world.site.grounds)
    lines = ["| story | %s |" % " | ".join(backends), "| --- |" + " --: |" * len(backends)]
    for name, (story, _) in STORIES.items():
        counts = [str(world.counts[name, backend]) for backend in backends]
        lines.append("| %s | %s |" % ((story.__doc__ or "").rstrip("."), " | ".join(counts)))
    return lines


def report(world: World, minutes: float) -> str:
    """The report, as Markdown."""
    first, last = world.middle(0.4), world.middle(1)
    held = ["| the steady server, and the tree | after 40 % | at the end |", "| --- | --: | --: |"]
    held += ["| %s | %.1f | %.1f |" % (name, getattr(first, name), getattr(last, name))
             for name in MEASURES]
    text = ["# What psik.py endures", "Made by `make soak`.",
            "%s, %g minutes, seed %d; %d stories, %d jobs; the other server was ended %d times." % (
                time.strftime("%Y-%m-%d"), minutes, world.seed, world.done, world.jobs,
                len(world.site.restarts)),
            "\n".join(table(world)), "\n".join(held),
            "![What the server and the tree held](soak.svg)",
            "\n".join("- " + line for line in world.faults) or "Every promise was kept."]
    return "\n\n".join(text) + "\n"


def options() -> argparse.Namespace:
    """The command line."""
    there = [name for name, (_, is_there) in faults.GROUNDS.items() if is_there]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, metavar="M", help="how long (60)")
    parser.add_argument("--seed", type=int, default=int(time.time()), metavar="N")
    parser.add_argument("--backends", default=",".join(there), metavar="NAME,...",
                        help="those that are there: %(default)s")
    parser.add_argument("--out", metavar="FOLDER", help="where the report is written")
    return parser.parse_args()


def main() -> int:
    """Live through it; 1 where a promise was broken."""
    opts = options()
    sys.path.insert(0, BENCH)
    peers = importlib.import_module("peers")
    python = peers.environment(DEPS, "bench", "matplotlib")
    if opts.out and os.path.realpath(sys.prefix) != os.path.realpath(
            os.path.join(os.path.dirname(python), "..")):
        os.execv(python, [python] + sys.argv)
    soak.more_descriptors()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    site = Site()
    try:
        site.begin(opts.seed, opts.backends.split(","))
        world = World(site, opts.seed, time.monotonic() + opts.minutes * 60)
        world.live(opts.minutes)
        world.clear()
        world.faults += site.faults + list(world.growth())
        text = report(world, opts.minutes)
        print(text)
        if opts.out:
            psik.write_file(os.path.join(opts.out, "SOAK.md"), text)
            picture = os.path.join(opts.out, "soak.svg")
            importlib.import_module("plots").draw_samples(world.samples, site.restarts, picture)
    finally:
        site.doCleanups()
    return int(bool(world.faults))


if __name__ == "__main__":
    sys.exit(main())
