"""What is measured of two servers, psik.py's and psik_api's, which have the same jobs."""
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from typing import Dict, Iterator, List, Tuple

import peers
from commands import FLAT, NEWEST
from peers import API, OURS
from run import Run, both, in_turn, medians
from servers import Load, Server, download, post_jobs, upload, wrk
from table import Row

CONNECTIONS = (1, 4, 16, 64)  # a quick run takes every other one
FILE_MB = 100
Command = Tuple[List[str], Dict[str, str]]  # words, variables

# psik_api 1.0.0 looks for its settings when its inner application starts; uvicorn does not tell it.
STARTED = """from psik_api.main import app
from psik_api.config import load_config
from psik_api.dependencies import setup_security
setup_security(load_config().authz)
"""


def server_commands(run: Run) -> Dict[str, Command]:
    """How each server that there is, is started; neither writes an access log."""
    names = [run.tree(count) for count in run.sizes() if count <= 10000] + ["posts", "files"]
    for name in names:
        os.makedirs(os.path.join(run.trees, name), exist_ok=True)
    at, found = ["--host", "127.0.0.1", "--port", "{port}"], {}
    serve = [sys.executable, run.file, "serve"]
    tried = subprocess.run(serve + ["--help"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if tried.returncode == 0:
        ours = {"prefix": run.trees,
                "backends": {name: {"backend": {"type": "local"}} for name in names}}
        path = peers.write_json(os.path.join(run.work, "serve.json"), ours)
        found[OURS] = (serve + ["--quiet"] + at,
                       peers.clean_environment(run.work, PSIK_CONFIG=path))
    else:
        run.missing["psik.py serve"] = "this psik.py has no such command"
    if API in run.peers:
        run.psik.write_file(os.path.join(run.work, "started.py"), STARTED)
        psik = run.peers[API].program("psik")
        theirs = {"authz": "local", "backends": {
            name: {"prefix": os.path.join(run.trees, name), "backend": {"type": "local"},
                   "psik_path": psik} for name in names}}
        path = peers.write_json(os.path.join(run.work, "psik_api.json"), theirs)
        found[API] = ([run.peers[API].program("uvicorn"),
                       "--app-dir", run.work, "started:app", "--log-level", "warning"] + at,
                      peers.clean_environment(run.work, PSIK_API_CONFIG=path))
    return found


def state_path(run: Run, count: int = 1000) -> str:
    """The path of the state of a job in the middle of a tree."""
    name = run.tree(count)
    jobs = sorted(os.listdir(os.path.join(run.trees, name)))
    return "/v1/jobs/%s/state?backend=%s" % (jobs[count // 2], name)


def starts(run: Run) -> Iterator[Row]:
    """From start to the first answer, and the memory then; the last ones are used further on."""
    path = state_path(run)

    def start(name: str, command: Command) -> Tuple[float, float]:
        if name in run.servers:
            run.servers.pop(name).stop()
        run.servers[name] = server = Server(command[0], command[1], path, run.server_log)
        return server.start_ms, server.memory()

    found = in_turn({name: functools.partial(start, name, command)
                     for name, command in server_commands(run).items()}, run.pick(7, 2))
    yield both("from start to the first answer", "ms",
               medians(found, lambda each: float(each[0])), "<= 0.2 x")
    yield both("memory (RSS), idle", "MB", medians(found, lambda each: float(each[1])),
               "<= 0.333 x")


def states(run: Run) -> Iterator[Row]:
    """The state of a job, from one connection and from several, and the memory meanwhile."""
    if not shutil.which("wrk"):
        run.missing["GET state"] = "wrk is missing (Debian package wrk)"
        yield Row("GET state: NOT MEASURED, wrk is missing", "/s", None, API)
        return
    path = state_path(run)
    for server in run.servers.values():
        server.forget_peak()
    for connections in CONNECTIONS[::run.pick(1, 2)]:
        def load(server: Server) -> Load:
            return wrk(server, path, connections, run.pick(3, 1), run.work)
        found = in_turn(run.on_both(load), run.pick(5, 1) if connections in (1, 16) else 1)
        rates = medians(found, lambda each: float(each.rate))
        run.points("connections", connections, rates)
        if connections in (1, 16):
            what = "GET state, keep-alive, %d connection%s" % (connections, "s" * (connections > 1))
            yield both(what, "/s", rates, ">= 2 x")
            yield both(what + ", p99", "ms",
                       medians(found, lambda each: float(each.p99_ms)), "<= 1 x")
            peaks = {name: server.memory("VmHWM") for name, server in run.servers.items()}
            yield both("memory (RSS), at most, so far", "MB", peaks,
                       "<= 0.333 x" if connections == 16 else "")


def rest_listings(run: Run) -> Iterator[Row]:
    """The newest jobs in trees of every size."""
    ours = {}
    for count in (10, 1000, 10000):
        path = "/v1/jobs?limit=%d&backend=%s" % (NEWEST, run.tree(count))

        def get(server: Server) -> float:
            begun = time.perf_counter()
            jobs = json.loads(server.request("GET", path).decode())
            if len(jobs) != min(count, NEWEST):
                raise RuntimeError("%s has %d jobs" % (path, len(jobs)))
            return (time.perf_counter() - begun) * 1000
        few = {10: 7, 1000: run.pick(3, 1), 10000: run.pick(1, 0)}[count]
        found = medians(in_turn(run.on_both(get), run.pick(21, 7), {API: few}))
        run.points("jobs", count, found, "%%s GET /v1/jobs?limit=%d" % NEWEST)
        ours[count] = found.get(OURS)
        what = "GET /v1/jobs?limit={}, {:,} jobs".format(NEWEST, count)
        if API in found:
            yield both(what, "ms", found, "<= 0.1 x" if count >= 1000 else "")
        if count > 1000:    # a tree of 10 has no NEWEST to list
            yield Row(what, "ms", ours[count], "1,000 jobs", ours[1000], FLAT)


def crowds(run: Run) -> Iterator[Row]:
    """What sixteen connections get together, beside what one gets."""
    server, newest = run.servers[OURS], "/v1/jobs?limit=%d&backend=%s" % (NEWEST, run.tree(1000))
    for what, path in (("GET state", state_path(run)), ("GET /v1/jobs?limit=20", newest)):
        loads = in_turn({str(count): functools.partial(wrk, server, path, count, run.pick(3, 1),
                                                       run.work) for count in (1, 16)},
                        run.pick(5, 1))
        rates = medians(loads, lambda each: float(each.rate))
        late = medians(loads, lambda each: each.p99_ms / each.p50_ms)
        yield Row(what + ", 16 connections", "/s", rates["16"], "1 connection", rates["1"],
                  ">= 1 x")
        yield Row(what + ", 16 connections, p99 in medians", "", late["16"],
                  goal="<= 10 times")


def first_lists(run: Run) -> Iterator[Row]:
    """The page: from its first byte to the first row of jobs."""
    python = os.path.join(run.deps, "clients", "bin", "python")
    chromium = shutil.which("chromium")
    if not chromium or not os.path.exists(python):
        run.missing["the page's first list"] = "chromium or playwright is missing: make test-deps"
        return
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "browse.py")
    url = "http://127.0.0.1:%d/#/?backend=%s" % (run.servers[OURS].port, run.tree(10000))
    said = subprocess.run([python, program, url, chromium, str(run.pick(9, 3))], check=True,
                          env=peers.clean_environment(run.work), stdout=subprocess.PIPE).stdout
    for what, times in zip(("a new tab", "a reload"), json.loads(said.decode())):
        yield Row("first list of 10,000 jobs, " + what, "ms", statistics.median(times),
                  goal="<= 200 ms")


def posts(run: Run) -> Iterator[Row]:
    """Jobs that are taken one after the other; psik_api answers before it submits."""
    folder = os.path.join(run.trees, "posts")
    found = medians(in_turn(run.on_both(lambda server: post_jobs(server, folder, run.pick(20, 6))),
                            run.pick(3, 2)))
    yield both("POST /v1/jobs, one client", "/s", found, ">= 1 x")


def transfers(run: Run) -> Iterator[Row]:
    """One file, sent and fetched, and the memory that it takes."""
    config = {"prefix": run.trees, "backends": {"files": {"backend": {"type": "local"}}}}
    job = run.psik.create(run.psik.from_json(run.psik.Config, config),
                          run.psik.JobSpec(script="true"))
    path = "/v1/jobs/%s/files%%s?backend=files" % job.jobid

    def both_ways(server: Server, megabytes: int) -> Tuple[float, float, float]:
        server.forget_peak()
        before = server.memory()
        return (upload(server, path % "", "data", megabytes),
                download(server, path % "/data", megabytes), server.memory("VmHWM") - before)

    for megabytes in (10, FILE_MB) if run.quick else (1, 10, FILE_MB, 300):
        found = in_turn(run.on_both(lambda server: both_ways(server, megabytes)),
                        run.pick(3, 1) if megabytes == FILE_MB else 1)
        for column, what in enumerate(("upload", "download")):
            seconds = medians(found, lambda each: float(each[column]))
            run.points("bytes", megabytes, seconds, "%s " + what)
            if megabytes == FILE_MB:
                rates = {name: megabytes / value for name, value in seconds.items()}
                yield both("%s of %d MB" % (what, megabytes), "MB/s", rates, ">= 1 x")
        if megabytes == FILE_MB:
            growth = {name: max(each[2] for each in all) for name, all in found.items()}
            yield both("growth of memory (RSS) meanwhile", "MB", growth, "<= 10 MB")
