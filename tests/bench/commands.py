"""What is measured without a server: what a job pays, listings, submissions, what is installed."""
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, Callable, Dict, Iterator, Tuple, Type

import peers
from peers import API, OURS, UPSTREAM
from run import Run, in_turn, medians
from table import Row

FLAT = "<= 1.25 x"
NEWEST = 20     # what a listing of the newest asks for
AT_ONCE = 200   # transitions that one supervisor records, so that its own start does not count
RECORDER = """
import sys
exec(open(%r).read().split("sys.path")[0])
sys.path.insert(0, SETTINGS["home"])
import supervisor
supervisor.SETTINGS.update(SETTINGS)
history = supervisor.History(SETTINGS["base"])
for _ in range(%d):
    history.lock()
    history.append(1, "active", "7")
    history.unlock()
history.sync()
"""


class Receiver(http.server.BaseHTTPRequestHandler):
    """A receiver of callbacks that is content with everything."""

    def do_POST(self) -> None:
        """Read it, and say so."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.send_header("Content-Type", "text/plain")  # psik 1.2.2 fails without one
        self.end_headers()

    def log_message(self, *what: Any) -> None:
        """Say nothing."""


def receiver_url(kind: Type[Receiver] = Receiver) -> str:
    """The URL of a receiver that runs until the end."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return "http://127.0.0.1:%d/" % server.server_address[1]


def transitions_of(run: Run, count: int, **spec: str) -> Tuple[Any, Callable[[], float]]:
    """A job; and milliseconds for each of some transitions, as its supervisor records them."""
    job = run.psik.create(run.config, run.psik.JobSpec(script="#!/bin/sh\nexit 0", **spec))
    call = run.command([sys.executable, "-I", "-S",
                        "-c", RECORDER % (job.script("supervise"), count)])
    new = run.psik.read_text(job.status_path)

    def transition() -> float:
        run.psik.write_file(job.status_path, new)  # a history that grows would cost more each time
        run.psik.write_file(job.at("log", "callbacks"), "")
        return call() / count
    return job, transition


def told(run: Run, url: str) -> Callable[[], float]:
    """Milliseconds until a transition is recorded and its callback told, beside the payload."""
    job, transition = transitions_of(run, 1, callback=url)
    deliver = run.command([job.script("psik"), "deliver", "--", job.path])
    return lambda: transition() + deliver()


def whole_job(run: Run, job: Any) -> Callable[[], float]:
    """Milliseconds for a trivial job, from the start of its script to its end."""
    call = run.command([job.script("job"), "1"])

    def again() -> float:
        for name in os.listdir(job.at("log")):
            os.unlink(job.at("log", name))
        return call()
    return again


def synced(run: Run) -> float:
    """Milliseconds for a short line to come to the disk."""
    with open(os.path.join(run.work, "synced"), "ab") as file:
        begun = time.perf_counter()
        file.write(b"1700000000.000,1,active,4242\n")
        file.flush()
        os.fsync(file.fileno())
        return (time.perf_counter() - begun) * 1000


def costs_of_a_job(run: Run) -> Iterator[Row]:
    """The floors, and a transition beside them."""
    url, shell = receiver_url(), run.psik.Shell.of(run.config).command.split()
    job, plain = transitions_of(run, AT_ONCE)
    actions = {"bare": run.bare(), "fsync": lambda: synced(run),
               "shell": run.command(shell + ["-c", ""]), "plain": plain, "callback": told(run, url),
               "whole": whole_job(run, transitions_of(run, 1)[0]), "by hand": run.command(
                   [job.script("psik"), "reached", "--", job.path, "1", "active", "5"])}
    callbacks = (("1.2.2", None), ("1.2.2 callback", url)) if UPSTREAM in run.peers else ()
    for name, callback in callbacks:
        base = peers.make_tree(run.psik, os.path.join(run.work, name), 1, callback)
        actions[name] = run.command([run.peers[UPSTREAM].program("psik"), "reached", "--", base,
                                     "1", "active", "7"])
    few = run.pick(5, 2)
    found = medians(in_turn(actions, run.pick(21, 7), {"1.2.2": few, "1.2.2 callback": few}))
    yield Row("floor: a bare interpreter, -I -S -c pass", "ms", found["bare"])
    yield Row("floor: an fsync", "ms", found["fsync"])
    yield Row("floor: fork and exec of the scripts' shell", "ms", found["shell"])
    for what, our, upstream, goal in (
            ("a transition in a job, no callback", "plain", "1.2.2", "<= 1 x"),
            ("a transition told to a callback, beside the payload", "callback", "1.2.2 callback",
             "<= 4 x"),
            ("$psik reached by hand, no callback", "by hand", "1.2.2", "<= 3 x")):
        yield Row(what, "ms", found[our], "bare", found["bare"], goal)
        yield Row(what, "ms", found[our], UPSTREAM, found.get(upstream))
    yield Row("a whole trivial job, from its script's start to its end", "ms", found["whole"],
              "bare", found["bare"], "<= 3 x")


def ls(run: Run, count: int, *options: str) -> Callable[[], float]:
    """`python3 psik.py ls` of a tree."""
    name = run.tree(count)
    path = peers.write_json(os.path.join(run.work, name + ".json"),
                            {"prefix": run.trees, "backends": {name: {"type": "local"}}})
    return run.command([sys.executable, run.file, "ls"] + list(options), PSIK_CONFIG=path)


def upstream_ls(run: Run, count: int) -> Dict[str, Callable[[], float]]:
    """`psik ls` of the same tree, where there is a psik and it does not take too long."""
    if UPSTREAM not in run.peers or count > run.pick(10000, 1000):
        return {}
    path = peers.write_json(os.path.join(run.work, "upstream-%d.json" % count),
                            {"prefix": os.path.join(run.trees, run.tree(count))})
    return {UPSTREAM: run.command([run.peers[UPSTREAM].program("psik"), "ls"], PSIK_CONFIG=path)}


def listings(run: Run) -> Iterator[Row]:
    """`ls`, whole and of the newest, in trees of every size."""
    imported = ("import sys; sys.path.insert(0, %r); import psik; sys.exit(psik.main(['ls']))"
                % os.path.dirname(run.file))
    others = {"bare": run.bare(),
              "imported": run.command([sys.executable, "-c", imported], XDG_DATA_HOME=run.work)}
    for count in run.sizes():
        actions = dict({OURS: ls(run, count)}, **upstream_ls(run, count))
        rounds = {10: run.pick(15, 5), 1000: run.pick(7, 3), 10000: run.pick(3, 1),
                  100000: 1}[count]
        few = {UPSTREAM: 1 if count > 1000 else run.pick(3, 2)}
        found = medians(in_turn(dict(actions, **(others if count == 10 else {})), rounds, few))
        run.points("jobs", count, {name: found[name] for name in actions}, "%s ls")
        what = "ls, {:,} jobs".format(count)
        if count == 10:
            yield Row(what, "ms", found[OURS], "bare", found["bare"], "<= 5 x")
            yield Row("ls, no jobs, psik.py imported (compiled once)", "ms", found["imported"],
                      "bare", found["bare"])
        if UPSTREAM in found:
            yield Row(what, "ms", found[OURS], UPSTREAM, found[UPSTREAM],
                      "<= 0.1 x" if count >= 1000 else "")
        if count >= 10000:
            yield Row(what, "ms", found[OURS], goal="<= 1000 ms" if count == 10000 else "")
    found = medians(in_turn({str(count): ls(run, count, "-n", str(NEWEST))
                             for count in run.sizes()}, run.pick(9, 3)))
    for count in run.sizes():
        run.points("jobs", count, {OURS: found[str(count)]}, "%%s ls -n %d" % NEWEST)
        if count > 1000:
            yield Row("ls -n {}, {:,} jobs".format(NEWEST, count), "ms", found[str(count)],
                      "1,000 jobs", found["1000"], FLAT)


def submitter(run: Run, name: str, jobs: int) -> Callable[[], Dict[str, Any]]:
    """What submitters.py finds out about a library."""
    ours = name == OURS
    python = sys.executable if ours else run.peers[name].python
    path = {"PYTHONPATH": os.path.dirname(run.file)} if ours else {}
    env = peers.clean_environment(run.work, **path)

    def call() -> Dict[str, Any]:
        folder = tempfile.mkdtemp(dir=run.work)
        argv = [os.path.join(os.path.dirname(os.path.abspath(__file__)), "submitters.py"), name,
                folder + "/jobs", str(jobs), str(run.pick(7, 2)), folder + "/result.json"]
        subprocess.run([python] + argv, env=env, check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.PIPE)
        with open(argv[-1]) as file:
            return dict(json.load(file))
    return call


def submissions(run: Run) -> Iterator[Row]:
    """The pace at which one process submits, and the time until the end of a job is known.

    What has been submitted runs meanwhile, on the same processors.
    """
    names, jobs = [name for name in run.peers if name != API], run.pick(30, 6)
    found = in_turn({name: submitter(run, name, jobs) for name in [OURS] + names}, run.pick(5, 2))
    rates = medians(found, lambda each: float(each["rate"]))
    ends = medians({name: [ms for each in results for ms in each["latency_ms"]]
                    for name, results in found.items()})
    for name in names:
        yield Row("create and submit %d jobs, local, one process" % jobs, "/s", rates[OURS], name,
                  rates[name], ">= 1 x")
    for name in names:  # psij-python and submitit keep no history; it is known then
        yield Row("from create until `completed` is recorded", "ms", ends[OURS], name,
                  ends[name], "<= 1 x")


def footprints(run: Run) -> Iterator[Row]:
    """What has to be installed."""
    for name, peer in run.peers.items():
        packages, size = peer.installed()
        yield Row("installed size", "MB", os.path.getsize(run.file) / 1e6, name, size,
                  "<= 1 x" if name == API else "")
        yield Row("packages", "", 1, name, len(packages), "<= 1 x" if name == API else "")
