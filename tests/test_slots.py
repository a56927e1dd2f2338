"""Slots: the cores and GPUs that the jobs of a host share; whose turn it is; what frees them."""
import os
import shutil
import signal
import time
from typing import Any, List

import psik
from clusters import OnAt
from harness import Case, needs

NAP = "sleep 605.%07d" % os.getpid()


class Shared(Case):
    """What the tests share: two slots."""

    def setUp(self) -> None:
        super().setUp()
        self.set_up(slots=2)

    def set_up(self, **settings: Any) -> None:
        """Write the config."""
        self.configure(**dict(dict(poll_interval_s=0, poll_grace_s=1, kill_grace_s=2), **settings))

    def put(self, line: str, cores: int = 1, **spec: Any) -> str:
        """Submit a job of one line that needs so many cores; its id."""
        needs_ = dict(spec.pop("resources", {}), cpu_cores_per_process=cores)
        return self.run_spec(script="#!/bin/sh\n%s\n" % line, resources=needs_, **spec)

    def state(self, jobid: str) -> str:
        return self.states(jobid)[-1].split()[1]

    def active(self, *jobids: str) -> None:
        for jobid in jobids:
            self.until(lambda: self.state(jobid) == "active", jobid)  # noqa: B023

    def queued(self, jobid: str, reason: str) -> None:
        """The job waits, and says for what."""
        self.until(lambda: "  %s\n" % reason in self.psik("ls").out, reason)
        self.assertEqual(self.state(jobid), "queued")

    def queue(self) -> str:
        """The folder of the tickets."""
        settings = psik.read_text(self.job("last").script("supervise"))
        return settings.split("'slots_folder': '")[1].split("'")[0]

    def tickets(self) -> List[str]:
        """The tickets that are there."""
        return [os.path.basename(path) for path in psik.paths_in(self.queue())
                if path[-1:].isdigit()]


class Local(Shared):
    def test_first_come_first_served(self) -> None:
        order = os.path.join(self.folder, "order")
        line = "echo $name >>%s; sleep 0.3" % order
        jobs = [self.put(line, cores, environment={"name": str(number)})
                for number, cores in enumerate((2, 1, 2, 1, 2, 1))]    # never two at once
        self.psik("wait", *jobs)
        self.assertEqual(psik.read_text(order).split(), list("012345"))
        self.assertEqual(self.tickets(), [])    # nor is their folder there

    def test_what_it_waits_for_and_how_it_is_canceled(self) -> None:
        first = self.put(NAP, 2)
        self.active(first)
        second, third = self.put("true", 2), self.put("true", 1)
        self.queued(second, "waits for 2 of 2 slots")
        self.queued(third, "waits for 1 of 2 slots")
        self.psik("cancel", second)
        self.assertEqual(self.states(second)[:3], ["0 new", "1 queued", "0 canceled"])
        self.psik("rm", second)
        self.psik("cancel", first)
        self.psik("wait", third)

    def test_whatever_is_killed_frees_its_slots(self) -> None:
        jobs = [self.put(NAP) for _ in range(2)]
        self.active(*jobs)
        waiting = self.put("true", 2)
        self.queued(waiting, "waits for 2 of 2 slots")
        claims = [psik.read_text(self.job(jobid).log("claim", 1)) for jobid in jobs]
        pids = [int(text.split("\npid ")[1].split()[0]) for text in claims]
        os.kill(pids[0], signal.SIGKILL)    # its payload lives on, and has the slot
        self.queued(waiting, "waits for 2 of 2 slots")
        os.kill(pids[1], signal.SIGKILL)
        self.queued(waiting, "waits for 2 of 2 slots")
        for jobid in jobs:
            self.psik("cancel", jobid)
        self.psik("wait", waiting)

    def test_one_that_waits_is_killed(self) -> None:
        first = self.put("until test -e %s/go; do sleep 0.1; done" % self.folder, 2)
        self.active(first)
        second, third = self.put("true", 2), self.put("true")
        self.queued(second, "waits for 2 of 2 slots")
        row = next(row for row in self.job(second).rows() if row.state == "queued")
        os.kill(int(row.info), signal.SIGKILL)
        self.write("go", "")
        self.psik("wait", third)
        self.psik("wait", "--timeout", "60", second, status=1)
        self.until(lambda: not os.path.exists(self.queue()))

    def test_more_than_there_is_is_refused(self) -> None:
        ran = self.psik("run", "-", status=2, stdin='{"script": "true", "resources": '
                        '{"process_count": 3}}')
        self.assertIn("resources: the job needs 3 cores, and backend 'local' has 2", ran.err)
        self.set_up(slots="many")
        self.assertIn("slots: 'many' is neither a number of cores nor auto",
                      self.psik("ls", status=2).err)

    def test_another_number_counts_for_the_next(self) -> None:
        first = self.put(NAP, 2)
        self.active(first)
        self.set_up(slots=3)
        self.psik("wait", self.put("true"))
        self.psik("cancel", first)

    def test_gpus(self) -> None:
        self.set_up(gpus=2)
        line = "echo gpus $CUDA_VISIBLE_DEVICES; until test -e %s/go; do sleep 0.1; done"
        jobs = [self.put(line % self.folder, resources={"gpu_cores_per_process": 1})
                for _ in range(3)]
        self.active(*jobs[:2])
        self.queued(jobs[2], "waits for 1 of 2 gpus")
        self.psik("wait", self.put("true"))     # which needs none
        self.write("go", "")
        self.psik("wait", *jobs)
        said = [self.psik("logs", jobid).out for jobid in jobs]
        self.assertEqual(said[:2], ["gpus 0\n", "gpus 1\n"])
        self.assertIn(said[2], said[:2])

    def test_an_array(self) -> None:
        jobid = self.run_spec(script="#!/bin/sh\ndate +%s.%N >>\"$jobndx\"; sleep 0.5\n", array=5)
        self.until(lambda: self.states(jobid).count("1 active") and self.tickets())
        self.assertLessEqual(len(self.tickets()), 2)
        self.psik("wait", jobid)
        self.assertEqual(self.tickets(), [])

    def test_the_walltime_begins_with_the_job(self) -> None:
        first = self.put("until test -e %s/go; do sleep 0.1; done" % self.folder, 2)
        self.active(first)
        second = self.put("true", 2)
        self.queued(second, "waits for 2 of 2 slots")
        time.sleep(1.2)
        self.write("go", "")
        self.psik("wait", second)
        rows = self.job(second).rows()
        self.assertGreater(rows[2].time - rows[1].time, 1)

    def test_a_folder_of_somebody_elses(self) -> None:
        first = self.put(NAP)
        self.active(first)
        os.chmod(self.queue(), 0o777)
        jobid = self.put("true")
        self.psik("wait", "--timeout", "60", jobid, status=1)
        os.chmod(self.queue(), 0o700)
        self.assertIn("or others may write to it", self.psik("ls").out)
        self.psik("cancel", first)


@needs("at, and root to start atd", shutil.which("at") and os.geteuid() == 0)
class BesideAt(OnAt, Shared):
    def test_they_share(self) -> None:
        self.set_up(slots=2, backends={"local": {"type": "local"},
                                       "at": {"type": "at", "queue_name": "a"}})
        first = self.put(NAP, 2, backend="at")
        self.active(first)
        second, third = self.put("true", backend="local"), self.put("true", backend="at")
        self.queued(second, "waits for 1 of 2 slots")
        self.until(lambda: self.psik("ls").out.count("waits for 1 of 2 slots") == 2)
        self.psik("cancel", first)
        self.psik("wait", second, third)
