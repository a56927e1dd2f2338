#!/usr/bin/env python3
"""Enough of PBS for the backend that README.md shows: qsub qstat qdel qhold qrls qsig, by their
names.

Below the folder $FAKE_PBS lies a file for each job, ID.json.  A job runs at once unless it is held;
qsub's own process stays behind as its execution daemon.
"""
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from typing import Any, Dict, List

FOLDER = os.environ["FAKE_PBS"]
OPTIONS = "-S -j -o -l -q -A -r -N -h -V".split()
FLAGS = ("-V", "-h")


def path_of(native: str) -> str:
    """The file of a job."""
    return os.path.join(FOLDER, native + ".json")


def load(native: str) -> Dict[str, Any]:
    """A job; the program ends if it is unknown, as PBS's do."""
    try:
        with open(path_of(native)) as file:
            job: Dict[str, Any] = json.load(file)
            return job
    except OSError:
        sys.exit("qdel: Unknown Job Id %s" % native)


def save(job: Dict[str, Any]) -> None:
    """Write a job, so that others see it whole."""
    with tempfile.NamedTemporaryFile("w", dir=FOLDER, delete=False) as file:
        json.dump(job, file)
    os.replace(file.name, path_of(job["id"]))


def words_of(line: str) -> List[str]:
    """The words of a directive: quotes group, and nothing escapes them."""
    return [quoted or single or plain for quoted, single, plain in
            re.findall(r"\"([^\"]*)\"|'([^']*)'|(\S+)", line)]


def qsub(argv: List[str]) -> None:
    """Take the script on stdin."""
    text = sys.stdin.read()
    lines = [line[len("#PBS"):] for line in text.splitlines() if line.startswith("#PBS")]
    words, options = [word for line in lines for word in words_of(line)] + argv, {}
    while words:
        name = words.pop(0)
        if name not in OPTIONS:
            sys.exit("qsub: invalid option %s" % name)
        value = "" if name in FLAGS else words.pop(0)
        key, _, rest = value.partition("=")
        options.update({name + " " + key: rest} if name == "-l" else {name: value})
    number = len(os.listdir(FOLDER)) + 100
    job = {"id": "%d.fake" % number, "name": options["-N"], "options": options, "text": text,
           "state": "H" if "-h" in options else "Q", "pid": 0, "status": None}
    save(job)
    print(job["id"], flush=True)
    if job["state"] == "Q":
        run(job)


def run(job: Dict[str, Any]) -> None:
    """Run a job in the background, and note its end."""
    if os.fork():
        return
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    child = subprocess.Popen([job["options"]["-S"]], stdin=subprocess.PIPE, start_new_session=True,
                             env=dict(os.environ, PBS_JOBID=job["id"]))
    job.update(state="R", pid=child.pid)
    save(job)
    child.communicate(job["text"].encode())
    code = child.returncode if child.returncode >= 0 else 256 - child.returncode
    save(dict(load(job["id"]), state="F", status=code))


def qstat(argv: List[str]) -> None:
    """Show all jobs, as `qstat -x -f`."""
    for name in sorted(os.listdir(FOLDER)):
        if name.endswith(".json"):
            job = load(name[:-5])
            print("Job Id: %s\n    Job_Name = %s\n    job_state = %s" % (
                job["id"], job["name"], job["state"]))
            if job["status"] is not None:
                print("    Exit_status = %d" % job["status"])
            if job["state"] == "H":
                print("    comment = Job held by %s" % os.environ.get("USER", "root"))
            print()


def qdel(argv: List[str]) -> None:
    """End jobs: TERM first, and KILL by whoever waits no longer."""
    for job in map(load, argv):
        if job["state"] == "F":
            sys.exit("qdel: Job has finished %s" % job["id"])
        if job["pid"]:
            os.killpg(job["pid"], signal.SIGTERM)
        else:
            save(dict(job, state="F", status=271))


def qhold(argv: List[str]) -> None:
    """Hold jobs that wait."""
    for job in map(load, argv):
        save(dict(job, state="H"))


def qrls(argv: List[str]) -> None:
    """Let jobs go that are held."""
    for job in map(load, argv):
        run(dict(job, state="Q"))


def qsig(argv: List[str]) -> None:
    """Send a signal to all processes of jobs."""
    number = getattr(signal, "SIG" + argv[argv.index("-s") + 1])
    for job in map(load, argv[2:]):
        os.killpg(job["pid"], number)


if __name__ == "__main__":
    {"qsub": qsub, "qstat": qstat, "qdel": qdel, "qhold": qhold, "qrls": qrls, "qsig": qsig}[
        os.path.basename(sys.argv[0])](sys.argv[1:])
