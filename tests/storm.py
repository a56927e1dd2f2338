#!/usr/bin/env python3
"""Submit jobs to a real Slurm whose slurmctld dies and hangs, by clients that are killed.

    python3 tests/storm.py [--submissions 300] [--kills 120] [--restarts 136] [--seed N]

Others submit jobs of their own meanwhile, so that ids which slurmctld has forgotten are given
again; some of ours are canceled.  In the end every job of ours must have run once or not at all,
its history must say so, no job of the others may have been canceled, and every submission whose
client was not killed must have left a job.  The exit status is 1 if one of these does not hold;
what was found is printed.
"""
import argparse
import json
import os
import queue
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, Dict, List, Optional

import services

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
import psik  # noqa: E402
from clusters import age_submission  # noqa: E402

SCRIPT = "#!/bin/sh\necho $jobndx $jobid >>$base/ran\nsleep %.1f\nexit %d\n"
SETTLE_S = 400


class Storm:
    """Jobs, and what happens to them."""

    def __init__(self, cluster: services.Slurm, folder: str, seed: int) -> None:
        self.cluster, self.folder, self.random = cluster, folder, random.Random(seed)
        self.config = psik.Config(
            prefix=os.path.join(folder, "jobs"), backend=psik.BackendConfig("slurm"),
            poll_interval_s=1, poll_grace_s=6, submit_timeout_s=6, kill_grace_s=2)
        psik.write_file(os.path.join(folder, "config.json"), json.dumps(
            psik.to_json(self.config)))
        self.env = dict(services.sbin_env(), PSIK_CONFIG=os.path.join(folder, "config.json"),
                        **cluster.env)
        self.work: queue.Queue[Dict[str, Any]] = queue.Queue()
        self.others: List[str] = []
        self.least_jobs = 0     # as many submissions as were not killed
        self.tracebacks: List[str] = []
        self.progress = 0.0     # of the storm, up to 1

    def psik(self, *argv: str, text: str = "", kill_after_s: Optional[float] = None) -> str:
        """Run psik.py, or kill it on the way; what it printed."""
        child = subprocess.Popen(
            [sys.executable, psik.__file__] + list(argv), env=self.env, cwd=self.folder,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, err = child.communicate(text.encode(), timeout=kill_after_s or 120)
        except subprocess.TimeoutExpired:
            child.kill()
            out, err = child.communicate()
        if b"Traceback" in err:
            self.tracebacks.append("psik.py %s: %s" % (" ".join(argv), err.decode()))
        return out.decode().strip()

    def submit(self) -> None:
        """Take jobs from the queue, submit them, and now and then cancel one."""
        while True:
            try:
                plan = self.work.get_nowait()
            except queue.Empty:
                return
            while self.progress < plan["at"]:   # spread over the whole storm
                time.sleep(0.05)
            spec = {"script": SCRIPT % (plan["naps_s"], plan["exit"]),
                    "resources": {"exclusive_node_use": False}}
            jobid = self.psik("run", "-", text=json.dumps(spec),
                              kill_after_s=plan["kill_after_s"])
            if plan["is_canceled"] and jobid:
                self.psik("cancel", jobid.split()[0])

    def disturb(self, restarts: int) -> None:
        """Kill slurmctld so many times, or let it hang, and submit jobs of others."""
        for number in range(restarts):
            self.progress = number / restarts
            time.sleep(self.random.uniform(0.2, 4))
            if number % 10 == 3:
                self.cluster.freeze_controller()
                time.sleep(self.random.uniform(1, 8))
                self.cluster.thaw_controller()
            self.cluster.stop_controller(signal.SIGKILL)
            self.cluster.start_controller()
            for _ in range(self.random.randrange(4)):
                said = self.cluster.run("sbatch", "--parsable", "--output=/dev/null", "--wrap",
                                        "sleep %d" % self.random.randrange(4))
                self.others.append(said.stdout.strip())
        self.progress = 1.0

    def run(self, submissions: int, kills: int, restarts: int) -> None:
        """Let it all happen."""
        self.least_jobs = submissions - kills
        places = list(range(submissions))
        self.random.shuffle(places)
        for place, number in enumerate(places):
            self.work.put({
                "at": place / submissions,
                "naps_s": self.random.choice((0, 0.5, 3)), "exit": number % 3,
                "is_canceled": number % 9 == 4,
                "kill_after_s": self.random.uniform(0.05, 0.6) if number < kills else None})
        threads = [threading.Thread(target=self.submit) for _ in range(2)]
        for thread in threads:
            thread.start()
        self.disturb(restarts)
        for thread in threads:
            thread.join()

    def jobs(self) -> List[Any]:
        """Those that were made; a client may have been killed before."""
        return [job for job in psik.JobTree(self.config).jobs() if job.rows()]

    def settle(self) -> List[Any]:
        """Look until every job has ended; those that have not."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            self.psik("poll")
            self.cluster.run("scontrol", "update", "NodeName=ALL", "State=RESUME")
            open_jobs = [job for job in self.jobs()
                         if not psik.is_over(job, job.rows()) or self.was_forgotten(job)]
            if not open_jobs or time.monotonic() > deadline:
                return open_jobs
            for job in open_jobs:
                if len(job.rows()) == 1 or self.was_forgotten(job):
                    self.start(job)
            time.sleep(2)

    @staticmethod
    def was_forgotten(job: Any) -> bool:
        """Whether slurmctld has forgotten the job's latest step, which never ran."""
        latest = psik.Steps(job.rows()).latest
        assert latest
        ran = [line.split()[0] for line in psik.read_or_empty(job.at("ran")).splitlines()]
        return latest.state == "failed" and latest.info == 1 and str(latest.jobndx) not in ran

    def start(self, job: Any) -> None:
        """Submit a job again, whose submission nobody answered or which is forgotten."""
        age_submission(job)
        self.psik("start", job.jobid)

    def faults_of(self, job: Any) -> List[str]:
        """What is wrong with a job that has ended."""
        ran = [line.split() for line in psik.read_or_empty(job.at("ran")).splitlines()]
        begun, faults = [words[0] for words in ran], []
        states = psik.Steps(job.rows()).states
        if len(begun) != len(set(begun)):
            faults.append("a step ran twice: %s" % ran)
        wanted = int(job.spec().script.split("exit ")[1])
        for jobndx, row in states.items():
            has_run, state = str(jobndx) in begun, row.state.value
            if state == "completed" and (not has_run or wanted):
                faults.append("step %d is completed, and that is not so" % jobndx)
            if state == "failed" and not wanted and has_run and int(row.info) < 128:
                faults.append("step %d ran and is failed: %s" % (jobndx, row.info))
            if has_run and str(row.info) not in ("0", "1", "2", "143", "137"):
                faults.append("step %d: %s %s" % (jobndx, state, row.info))
        return faults

    def report(self) -> int:
        """Print what was found; the number of faults."""
        left = self.settle()
        faults = list(self.tracebacks)
        if len(self.jobs()) < self.least_jobs:
            faults.append("%d submissions were not killed, and there are %d jobs" % (
                self.least_jobs, len(self.jobs())))
        faults += ["%s has not ended: %s" % (job.jobid, job.rows()) for job in left]
        for job in self.jobs():
            faults += ["%s: %s; %s" % (job.jobid, fault, [tuple(row) for row in job.rows()])
                       for fault in self.faults_of(job)]
        listed = self.cluster.run("squeue", "-h", "-t", "all", "-o", "%i %T %k").stdout
        for line in listed.splitlines():
            native, state, comment = (line.split(None, 2) + [""])[:3]
            if native in self.others and state == "CANCELLED" and "psik-" not in comment:
                faults.append("another's job %s was canceled" % native)
            if "psik-" in comment and state in ("PENDING", "RUNNING"):
                faults.append("%s is still there: %s" % (comment, state))
        counts: Dict[str, int] = {}
        for job in self.jobs():
            latest = psik.Steps(job.rows()).latest
            state = str(latest and latest.state)
            counts[state] = counts.get(state, 0) + 1
        ran_none = sum(not os.path.exists(job.at("ran")) for job in self.jobs())
        print("%d jobs: %s; %d never ran; %d jobs of others" % (
            len(self.jobs()), counts, ran_none, len(self.others)))
        for fault in faults[:20]:
            print("FAULT " + fault)
        print(self.cluster.run("sinfo", "-N", "-o", "%N %T %E").stdout)
        print("%d faults" % len(faults))
        return len(faults)


def storm(submissions: int, kills: int, restarts: int, seed: int) -> int:
    """One storm in a cluster of its own; the number of faults."""
    folder = tempfile.mkdtemp(prefix="psn")
    cluster = services.Slurm(nodes=4)
    try:
        cluster.start(os.path.join(folder, "c"), MinJobAge=300, KillWait=5)
        weather = Storm(cluster, folder, seed)
        weather.run(submissions, kills, restarts)
        return weather.report()
    finally:
        cluster.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--submissions", type=int, default=300)
    parser.add_argument("--kills", type=int, default=120)
    parser.add_argument("--restarts", type=int, default=136)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args()
    begun = time.monotonic()
    print("seed %d" % args.seed, flush=True)
    faults = storm(args.submissions, args.kills, args.restarts, args.seed)
    print("%.0f s" % (time.monotonic() - begun))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
