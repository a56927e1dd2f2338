"""What is measured of callbacks beside a payload, slots, arrays, `install` and other hosts."""
import functools
import os
import shutil
import socket
import subprocess
import sys
import time
from typing import Any, Callable, Iterator

import peers
from commands import Receiver, ls, receiver_url
from run import Run, in_turn, medians
from submitters import recorded, until
from table import Row

TASKS, ARRAYS = 1000, 20


class Sleepy(Receiver):
    """A receiver that takes its time."""

    def do_POST(self) -> None:
        """Answer after a second."""
        time.sleep(1)
        super().do_POST()


def begins(run: Run, **fields: Any) -> Callable[[], float]:
    """Milliseconds from the call of scripts/job until its payload has begun."""
    spec = run.psik.JobSpec(script="#!/bin/sh\n: >begun\n", **fields)

    def call() -> float:
        job = run.psik.create(run.config, spec)
        begun = time.perf_counter()
        child = subprocess.Popen([job.script("job"), "1"], stdin=subprocess.DEVNULL)
        until(lambda: os.path.exists(job.at("work", "begun")))
        took = (time.perf_counter() - begun) * 1000
        child.wait()
        return took
    return call


def whole(run: Run, config: Any) -> Callable[[], float]:
    """Milliseconds from the creation of a job until `completed` is recorded."""
    def call() -> float:
        begun = time.perf_counter()
        job = run.psik.create(config, run.psik.JobSpec(script="#!/bin/sh\n"))
        run.psik.submit(job)
        until(lambda: recorded(job.path))
        return (time.perf_counter() - begun) * 1000
    return call


def payloads(run: Run) -> Iterator[Row]:
    """What a slow receiver, and slots, cost a job."""
    rounds, slots = run.pick(15, 3), run.psik.Config(
        prefix=os.path.join(run.work, "slots"), slots="4")
    found = medians(in_turn({
        "plain": begins(run), "told": begins(run, callback=receiver_url(Sleepy)),
        "job": whole(run, run.config), "with slots": whole(run, slots)}, rounds))
    yield Row("until the payload begins, the receiver of callbacks taking a second", "ms",
              found["told"], "no callback", found["plain"], "<= 1.5 x")
    yield Row("from create until `completed` is recorded, with slots", "ms", found["with slots"],
              "without", found["job"], "<= 1.5 x")


def arrays_tree(run: Run) -> str:
    """A config whose tree holds arrays that have ended."""
    config = run.psik.Config(prefix=os.path.join(run.work, "arrays"))
    spec = run.psik.JobSpec(script="#!/bin/sh\n", array=str(TASKS))
    for _ in range(ARRAYS):
        job, now = run.psik.create(config, spec), time.time()
        with open(job.status_path, "a") as file:
            for state in ("queued", "active", "completed"):
                for step in range(1, TASKS + 1):
                    file.write("%.3f,%d,%s,%d\n" % (now, step, state, 0))
    return peers.write_json(os.path.join(run.work, "arrays.json"), {"prefix": config.prefix})


def one_array(run: Run) -> float:
    """Milliseconds for each task of an array that does nothing, from its creation to its end."""
    begun = time.perf_counter()
    job = run.psik.create(run.config, run.psik.JobSpec(
        script="#!/bin/sh\n", array=str(run.pick(TASKS, 100))))
    run.psik.submit(job)
    tasks: int = job.tasks
    until(lambda: run.psik.read_or_empty(job.status_path).count(",completed,") == tasks)
    return (time.perf_counter() - begun) * 1000 / tasks


def arrays(run: Run) -> Iterator[Row]:
    """What arrays cost, and the command that `install` makes."""
    path, place = arrays_tree(run), os.path.join(run.work, "bin")
    run.command([sys.executable, run.file, "install", place])()
    installed = run.command([place + "/psik", "ls"], PSIK_CONFIG=path)
    installed()
    few = run.command([place + "/psik", "ls"], PSIK_CONFIG=os.path.join(run.work, "jobs-10.json"))
    found = medians(in_turn({
        "bare": run.bare(), "task": functools.partial(one_array, run), "installed": installed,
        "ls": run.command([sys.executable, run.file, "ls"], PSIK_CONFIG=path),
        "compiled": ls(run, 10), "few": few}, run.pick(5, 2)))
    what = "ls of %d arrays of %d tasks" % (ARRAYS, TASKS)
    yield Row("a task of an array of %d, from create to its end" % run.pick(TASKS, 100), "ms",
              found["task"], "bare", found["bare"], "<= 3 x")
    yield Row(what, "ms", found["ls"])
    yield Row(what + ", by the command of `install`", "ms", found["installed"], goal="<= 1000 ms")
    yield Row("ls, 10 jobs, by the command of `install`", "ms", found["few"], "bare",
              found["bare"])
    yield Row("ls, 10 jobs, by the command of `install`", "ms", found["few"],
              "python3 psik.py", found["compiled"])


def start_sshd(run: Run) -> str:
    """A sshd of our own; the path of a program that is ssh with its config."""
    folder = os.path.join(run.work, "ssh")
    os.mkdir(folder, 0o700)
    os.makedirs("/run/sshd", exist_ok=True)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f",
                        os.path.join(folder, name)], check=True)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    run.psik.write_file(folder + "/sshd_config", (
        "Port %d\nListenAddress 127.0.0.1\nHostKey %s/host\nAuthorizedKeysFile %s/user.pub\n"
        "UsePAM no\nStrictModes no\nPermitRootLogin yes\nPidFile none\n") % (port, folder, folder))
    run.psik.write_file(folder + "/config", (
        "Host *\n Port %d\n HostName 127.0.0.1\n IdentityFile %s/user\n LogLevel ERROR\n"
        " StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n") % (port, folder))
    run.psik.write_file(folder + "/ssh", "#!/bin/sh\nexec %s -F %s/config \"$@\"\n" % (
        shutil.which("ssh"), folder), 0o755)
    sshd = str(shutil.which("sshd", path="/usr/sbin:/usr/bin"))
    child = subprocess.Popen([sshd, "-D", "-f", folder + "/sshd_config"],
                             stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run.children.append(child)
    until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
    return folder


def from_elsewhere(run: Run) -> Iterator[Row]:
    """What `--on` adds to the ssh that carries it."""
    if os.geteuid() or not shutil.which("sshd", path="/usr/sbin:/usr/bin"):
        run.missing["--on"] = "it wants sshd, and root to start one"
        return
    folder = start_sshd(run)
    config = peers.write_json(os.path.join(run.work, "on.json"), {"hosts": {"far": {
        "python": sys.executable, "prefix": os.path.join(run.work, "far")}}})
    variables = {"PATH": folder + os.pathsep + os.environ["PATH"], "PSIK_CONFIG": config}
    place = os.path.join(run.work, "bin2")
    run.command([sys.executable, run.file, "install", place])()
    actions = {"ssh": run.command([folder + "/ssh", "far", "true"], **variables),
               "on": run.command([place + "/psik", "--on", "far", "ls"], **variables),
               "here": run.command([place + "/psik", "ls"], PSIK_CONFIG=config,
                                   PSIK_PREFIX=os.path.join(run.work, "far"))}
    for action in actions.values():
        action()
    found = medians(in_turn(actions, run.pick(11, 3)))
    yield Row("`--on HOST ls`, psik.py being there", "ms", found["on"], "ssh HOST true",
              found["ssh"])
    yield Row("the same, less that ssh", "ms", found["on"] - found["ssh"], "ls here",
              found["here"], "<= 3 x")
