"""What a real Slurm does to jobs: it hangs, dies, forgets, requeues, and gives ids again."""
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
from typing import Any, Dict, List

import psik
import services
import storm
from clusters import SLURM, OnSlurm, age_submission
from harness import Case, FAST, needs
from serving import Server

NAP = "sleep 601.%07d" % os.getpid()
CELLS = {"exclusive_node_use": False}
LATER = {"attributes": {"--begin": "now+1hour"}}


@needs("Slurm", SLURM)
class Cluster(OnSlurm, Case):
    """Tests with a cluster that they share."""
    slurm_settings: Dict[str, Any] = {"MinJobAge": 60, "KillWait": 5, "MessageTimeout": 10}

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(self.slurm.run, "scancel", "-u", str(os.getuid()))
        self.set_up()

    def set_up(self, **settings: Any) -> None:
        """Write the config."""
        self.configure(**dict(dict(backend={"type": "slurm"}, poll_interval_s=0, poll_grace_s=3,
                                   submit_timeout_s=4, kill_grace_s=3), **settings))

    def put(self, script: str, **spec: Any) -> str:
        """Submit a job; its id."""
        return str(self.run_spec(script=script, **dict(dict(resources=CELLS), **spec)))

    def native(self, jobid: str) -> str:
        """The scheduler's id of the latest step."""
        return str([row.info for row in self.job(jobid).rows() if row.state == "queued"][-1])

    def reason(self, jobid: str) -> str:
        return str(json.loads(self.psik("status", "--json", jobid).out)[0]["reason"])

    def queue(self, *argv: str, form: str = "%i %T %k") -> List[str]:
        """The lines of squeue."""
        return self.slurm.run("squeue", "-h", "-o", form, *argv).stdout.strip().split("\n")

    def diagnose(self, jobid: str) -> str:
        """What there is to know of a job."""
        job = self.job(jobid)
        texts = ["%s: %s" % (name, psik.read_or_empty(job.at("log", name)))
                 for name in sorted(os.listdir(job.at("log")))]
        shown = self.slurm.run("scontrol", "show", "job", self.native(jobid)).stdout
        return "\n".join([str(job.rows())] + texts + [shown])

    def begin_now(self, native: str) -> None:
        self.slurm.run("scontrol", "update", "JobId=" + native, "StartTime=now")

    def active(self, jobid: str, step: int = 1) -> None:
        self.until(lambda: "%d active" % step in self.states(jobid))

    def hung_run(self, **spec: Any) -> str:
        """Run a job while slurmctld hangs; its id."""
        self.slurm.freeze_controller()
        try:
            text = json.dumps(dict(dict(resources=CELLS), **spec))
            ran = self.psik("run", "-", stdin=text, status=4)
        finally:
            self.slurm.thaw_controller()
        self.assertIn("it is not known yet whether its scheduler has it", ran.err)
        return str(ran.out.strip())

    def shim(self, name: str, text: str) -> Dict[str, str]:
        """The environment in which another program has this name; $REAL is the real one."""
        head = "#!/bin/sh\nREAL=%s\n" % shutil.which(name)
        os.makedirs(os.path.join(self.folder, "shims"), exist_ok=True)
        path = self.write("shims/" + name, head + text + "\n", 0o755)
        return dict(PATH=os.path.dirname(path) + ":" + self.env["PATH"])


class Submissions(Cluster):
    def test_one_that_hung_is_not_made_again_while_it_may_yet_arrive(self) -> None:
        for _ in range(3):
            jobid = self.hung_run(script="echo ran >>../ran")
            said = self.psik("start", jobid, status=None)
            self.assertIn(said.status, (0, 4), said)
            self.assertRegex(said.err, "had taken step 1 after all|may still get it")
            self.until(lambda: "1 completed" in self.states(jobid))
            self.assertEqual(psik.read_text(self.job(jobid).at("ran")), "ran\n")
            self.assertEqual(sum(jobid in line for line in self.queue("-t", "all")), 1)

    def test_what_is_not_known_is_said(self) -> None:
        jobid = self.hung_run(script="true", backend=LATER)
        self.env.update(self.shim("squeue", "exit 0"))
        self.assertRegex(self.reason(jobid), "^submission unknown since 20")
        said = self.psik("start", jobid, status=4).err
        self.assertRegex(said, "may still get it; start the job after 20.*, or with --force")
        self.assertEqual(self.states(jobid), ["0 new"])

    def test_one_that_was_made_twice_runs_once(self) -> None:
        jobid = self.hung_run(script="echo ran >>../ran; sleep 2", backend=LATER)
        job = self.job(jobid)
        self.until(lambda: any(jobid in line for line in self.queue()))
        first = self.queue()[0].split()[0]
        before, self.env = self.env, dict(self.env, **self.shim("squeue", "exit 0"))
        self.psik("start", jobid, status=4)
        age_submission(job)
        self.psik("start", jobid)
        self.env = before
        second = self.native(jobid)
        self.assertNotEqual(first, second)
        self.assertEqual([line.split()[2] for line in self.queue()], ["psik-%s.1" % jobid] * 2)
        for native in (first, second):
            self.begin_now(native)
        self.psik("wait", jobid)
        self.until(lambda: self.queue() == [""])
        self.assertEqual(psik.read_text(job.at("ran")), "ran\n")
        self.assertEqual([state for state in self.states(jobid) if state != "1 queued"],
                         ["0 new", "1 active", "1 completed"])
        self.assertIn("was claimed by", psik.read_text(job.log("submit", 1)))

    def test_both_of_one_that_was_made_twice_are_canceled(self) -> None:
        jobid = self.hung_run(script="true", backend=LATER)
        self.until(lambda: any(jobid in line for line in self.queue()))
        before, self.env = self.env, dict(self.env, **self.shim("squeue", "exit 0"))
        self.psik("start", "--force", jobid)
        self.env = before
        self.assertEqual(len(self.queue()), 2)
        self.psik("cancel", jobid)
        self.assertEqual(self.queue(), [""])

    def test_one_that_has_ended_meanwhile(self) -> None:
        jobid = self.hung_run(script="exit 3")
        self.until(lambda: "1 failed" in self.states(jobid))
        self.assertIn("had taken step 1 after all", self.psik("start", jobid).err)
        self.assertEqual(self.states(jobid), ["0 new", "1 active", "1 failed", "1 queued"])
        self.assertEqual(self.psik("ls", "--state", "failed").out.count(jobid), 1)
        self.psik("start", jobid)
        self.until_last(jobid, "2 failed")

    def test_one_that_is_canceled_before_it_is_known(self) -> None:
        self.slurm.freeze_controller()
        try:
            text = json.dumps(dict(script="touch ../ran", resources=CELLS))
            jobid = self.psik("run", "-", stdin=text, status=4).out.strip()
            self.psik("cancel", jobid, status=4)
        finally:
            self.slurm.thaw_controller()
        self.until(lambda: any(jobid in line for line in self.queue("-t", "all")))
        self.psik("poll")
        self.until(lambda: self.queue() == [""])
        self.assertEqual(self.states(jobid)[-1].split()[1], "canceled")
        self.assertFalse(os.path.exists(self.job(jobid).at("ran")))

    def test_a_site_whose_sbatch_says_more(self) -> None:
        self.env.update(self.shim(
            "sbatch", 'echo "Welcome"; "$REAL" "$@"; echo "Your balance: 12 hours"'))
        jobid = self.put("true", backend=LATER)
        self.assertTrue(self.native(jobid).isdigit())
        self.psik("cancel", jobid)

    def test_a_site_whose_sbatch_does_not_say_the_id(self) -> None:
        self.env.update(self.shim("sbatch", '"$REAL" "$@" >/dev/null; echo "Thank you"'))
        jobid = self.put("true", backend=LATER)
        self.assertEqual(self.queue(form="%i"), [self.native(jobid)])
        self.psik("cancel", jobid)

    def test_why_one_was_refused(self) -> None:
        spec = json.dumps(dict(script="true", backend={"attributes": {"--no-such": "x"}}))
        said = self.psik("run", "-", stdin=spec, status=4).err
        self.assertIn("unrecognized option '--no-such=x'", said)
        self.assertNotIn("--help", said)
        spec = json.dumps(dict(script="true", resources={"gpu_cores_per_process": 900}))
        said = self.psik("run", "-", stdin=spec, status=4).err
        self.assertIn("sbatch: error: ", said)

    def test_the_variables_of_the_caller(self) -> None:
        self.env.update(SLURM_NTASKS="2", SLURM_JOB_ID="77", SBATCH_TIMELIMIT="5", MINE="yes",
                        SBATCH_EXPORT="NONE", SBATCH_REQUEUE="1", SBATCH_PARTITION="nope")
        jobid = self.put("#!/bin/sh\necho $SLURM_NTASKS $MINE\n$mpirun sh -c 'echo one'",
                         backend={"queue_name": "main"},
                         resources=dict(CELLS, duration=61))
        shown = self.slurm.run("scontrol", "-o", "show", "job", self.native(jobid)).stdout
        self.psik("wait", jobid)
        self.assertEqual(self.psik("logs", jobid).out, "1 yes\none\n")
        for word in ("TimeLimit=01:01:00", "Requeue=0", "Partition=main"):
            self.assertIn(word, shown)
        self.env["SBATCH_PARTITION"] = "nope"  # a site's default, where the spec says nothing
        spec = json.dumps(dict(script="true", resources=CELLS))
        self.assertIn("artition", self.psik("run", "-", stdin=spec, status=4).err)

    def test_cores_and_gpus(self) -> None:
        jobid = self.put("#!/bin/sh\necho $SRUN_CPUS_PER_TASK $SLURM_NTASKS",
                         resources=dict(CELLS, cpu_cores_per_process=2, gpu_cores_per_process=1))
        self.psik("wait", jobid)
        self.assertEqual(self.psik("logs", jobid).out, "2 1\n")
        spec = json.dumps(dict(script="true", resources={"node_count": 2, "process_count": 1}))
        self.assertIn("1 cannot be spread over 2 nodes", self.psik("run", "-", stdin=spec,
                                                                   status=2).err)

    def test_memory(self) -> None:
        for asked, wanted in (
                (dict(CELLS, memory_per_process=100), "MinMemoryCPU=100M"),
                (dict(CELLS, memory_per_process="0.1G", cpu_cores_per_process=2,
                      process_count=2), "MinMemoryCPU=52M"),
                ({"memory_per_process": 200}, "MinMemoryNode=200M"),
                ({"memory_per_process": 200, "node_count": 2, "processes_per_node": 3},
                 "MinMemoryNode=600M"),
                ({"memory_per_process": 200, "process_count": 3}, "MinMemoryCPU=200M")):
            jobid = self.put("true", backend=LATER, resources=asked)
            shown = self.slurm.run("scontrol", "-o", "show", "job", self.native(jobid)).stdout
            self.assertIn(" %s " % wanted, shown)
            self.psik("cancel", jobid)

    def test_options_that_a_job_cannot_have(self) -> None:
        for option, value, said in (("--array", "1-3", "`array`"), ("a", "1-3", "`array`"),
                                    ("--arr", "1-3", "`array`"), ("-M", "x", "CLUSTERS"),
                                    ("clusters", "x", "SLURM_CLUSTERS"), ("--out", "x", "log/"),
                                    ("--wait", "", "one job")):
            spec = json.dumps(dict(script="true", backend={"attributes": {option: value}}))
            err = self.psik("run", "-", stdin=spec, status=2).err
            self.assertIn("attributes.%s: " % option, err)
            self.assertIn(said, err)
        self.assertEqual(self.psik("ls", "--json").out.strip(), "[]")

    def test_a_comment_of_the_users_own(self) -> None:
        own = "mine | psik-1.2, 'all' \"of\" it"
        jobid = self.put(NAP, backend={"attributes": {"--comment": own}})
        self.active(jobid)
        self.assertEqual(self.queue(form="%k"), ["%s psik-%s.1" % (own, jobid)])
        self.psik("poll")
        self.assertEqual(self.states(jobid)[-1], "1 active")
        self.psik("cancel", "--wait", jobid)

    def test_what_slurm_says_of_a_script_that_it_cannot_start(self) -> None:
        jobid = self.put("true", backend=LATER)
        os.rename(self.job(jobid).script("job"), self.job(jobid).script("moved"))
        self.begin_now(self.native(jobid))
        self.psik("wait", jobid, status=None)
        self.assertEqual(self.states(jobid)[-1], "1 failed")
        self.assertIn("scripts/job", self.reason(jobid))

    def test_what_the_accounting_says_of_another_job_of_the_same_id(self) -> None:
        for place, age_s, tag, last in (("%s/work", 0, "", "1 completed"),
                                        ("/tmp", 0, "", "1 failed"),
                                        ("%s/work", 86400, "", "1 failed"),
                                        ("/tmp", 0, "own psik-%s.1", "1 completed"),
                                        ("%s/work", 0, "psik-1.5.1", "1 failed")):
            with self.subTest(place=place, age_s=age_s, tag=tag):
                jobid = self.put("true", backend=LATER)
                job, native = self.job(jobid), self.native(jobid)
                line = "%s|%s|COMPLETED|0:0|%d|%s|%s" % (
                    native, native, time.time() - age_s, place.replace("%s", job.path),
                    tag.replace("%s", jobid))
                self.shim("squeue", "exit 0")
                shims = self.shim("sacct", "echo '%s'" % line)
                ran = self.psik("wait", "--timeout", "60", jobid, status=None, env=shims)
                self.assertEqual(self.states(jobid)[-1], last, ran)

    def test_a_backend_for_each_cluster(self) -> None:
        entry = {"type": "slurm", "scheduler_environment": self.slurm.env}
        self.env.pop("SLURM_CONF")
        self.configure(backends={"north": entry}, poll_interval_s=0)
        for inherit in (True, False):
            jobid = self.put(NAP, inherit_environment=inherit, backend="north")
            self.active(jobid)
            self.assertIn("active", self.psik("ls").out)
            self.psik("cancel", "--wait", jobid)
        self.assertEqual(self.psik("backends", "--check").err, "")


class Ids(Cluster):
    """slurmctld dies, and gives the ids of the last jobs again."""

    def forget(self, jobid: str) -> str:
        """Let slurmctld die so soon that it forgets the job, and give its id to another's."""
        native = self.native(jobid)
        self.slurm.stop_controller(signal.SIGKILL)
        self.slurm.start_controller()
        for _ in range(20):
            other = self.slurm.run("sbatch", "--parsable", "--output=/dev/null",
                                   "--wrap", NAP).stdout.strip()
            if int(other) >= int(native):
                break
        return other

    def test_another_job_of_the_same_id(self) -> None:
        tried = 0
        for _ in range(6):
            jobid = self.put("touch ../ran", backend=LATER)
            native = self.native(jobid)
            other = self.forget(jobid)
            tried += other == native
            self.until(lambda: "RUNNING" in self.queue("-j", other, form="%T")[0])
            self.psik("poll")
            if other == native:
                self.psik("cancel", jobid)
                self.assertEqual(self.queue("-j", other, form="%T"), ["RUNNING"])
                self.assertEqual(self.states(jobid)[-1], "0 canceled")
            self.slurm.run("scancel", "-u", str(os.getuid()))
            self.until(lambda: self.queue() == [""])
        self.assertGreater(tried, 0)

    def test_the_end_of_another_job_is_not_ours(self) -> None:
        for _ in range(6):
            jobid = self.put("touch ../ran", backend=LATER)
            native = self.native(jobid)
            self.slurm.stop_controller(signal.SIGKILL)
            self.slurm.start_controller()
            other = self.slurm.run("sbatch", "--parsable", "--output=/dev/null", "--wrap",
                                   "true").stdout.strip()
            if other == native:
                break
        self.assertEqual(other, native)
        self.until(lambda: "COMPLETED" in self.queue("-t", "all", "-j", other, form="%T")[0])
        self.psik("wait", "--timeout", "60", jobid, status=1)
        self.assertEqual(self.states(jobid)[-1], "1 failed")
        self.assertIn("no longer knows it", self.reason(jobid))


class Requeue(Cluster):
    slurm_settings = dict(Cluster.slurm_settings, PreemptType="preempt/partition_prio",
                          PreemptMode="REQUEUE", RequeueExit=77)
    SCRIPT = "#!/bin/sh\necho step $jobndx\ntest $jobndx -gt 1 || exec %s" % NAP

    def begin_again(self, jobid: str) -> None:
        """Let a requeued job begin at once; Slurm itself waits two minutes, for its end's sake."""
        self.until(lambda: not any("slurmstepd" in services.command_name(pid)
                                   for pid in self.slurm.job_processes()))
        time.sleep(1)
        self.begin_now(self.native(jobid))

    def wait_for(self, jobid: str) -> Any:
        """`wait` for a job, which runs meanwhile."""
        return subprocess.Popen(list(FAST) + ["wait", "--timeout", "300", jobid], env=self.env,
                                cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def requeued(self, jobid: str, *verb: str) -> None:
        """Requeue the job, and see that `ls` knows."""
        self.slurm.run("scontrol", *(verb or ("requeue",)), self.native(jobid))
        self.until(lambda: "2 queued" in (self.psik("ls").out and self.states(jobid)), seconds=90)

    def test_a_job_that_is_requeued(self) -> None:
        jobid = self.put(self.SCRIPT, requeue=True)
        self.active(jobid)
        waiter = self.wait_for(jobid)
        self.requeued(jobid)
        self.assertIsNone(waiter.poll())
        self.assertIn("queued", self.psik("ls").out)
        self.begin_again(jobid)
        out, err = waiter.communicate(timeout=300)
        self.assertEqual(waiter.returncode, 0, (out, err))
        self.assertEqual(self.states(jobid), ["0 new", "1 queued", "1 active", "1 failed",
                                              "2 queued", "2 active", "2 completed"])
        job = self.job(jobid)
        self.assertEqual([psik.read_text(job.log("stdout", n)) for n in (1, 2)],
                         ["step 1\n", "step 2\n"])
        self.assertIn("runs it again, as step 2", psik.read_text(job.log("reason", 1)))

    def test_one_that_is_requeued_twice(self) -> None:
        jobid = self.put(self.SCRIPT.replace("-gt 1", "-gt 2"), requeue=True)
        for step in (1, 2):
            self.active(jobid, step)
            self.slurm.run("scontrol", "requeue", self.native(jobid))
            self.until(lambda: self.queue(form="%T") == ["PENDING"], seconds=90)
            self.begin_again(jobid)
        self.until(lambda: "3 completed" in self.states(jobid), seconds=200)
        self.assertEqual([state for state in self.states(jobid) if "queued" not in state],
                         ["0 new", "1 active", "1 failed", "2 active", "2 failed", "3 active",
                          "3 completed"])

    def test_one_that_nobody_watches(self) -> None:
        jobid = self.put(self.SCRIPT, requeue=True)
        self.active(jobid)
        self.slurm.run("scontrol", "requeue", self.native(jobid))
        self.until(lambda: self.queue(form="%T") == ["PENDING"], seconds=90)
        self.begin_again(jobid)
        self.until(lambda: "2 completed" in self.states(jobid), seconds=200)
        self.assertEqual(self.states(jobid)[3:6], ["1 failed", "2 queued", "2 active"])

    def test_one_that_waits_again_is_canceled(self) -> None:
        jobid = self.put(self.SCRIPT, requeue=True)
        self.active(jobid)
        self.slurm.run("scontrol", "requeue", self.native(jobid))
        self.until(lambda: self.queue(form="%T") == ["PENDING"], seconds=90)
        self.assertIn("cancel it first", self.psik("start", jobid, status=5).err)
        self.assertIn("cancel it", self.psik("rm", jobid, status=5).err)
        self.assertNotIn("has ended already", self.psik("cancel", jobid).err)
        self.until(lambda: self.queue() == [""])
        self.assertEqual(self.states(jobid)[-2:], ["2 queued", "0 canceled"])
        self.psik("wait", jobid, status=143)

    def test_one_that_another_job_preempts(self) -> None:
        nodes = ",".join(self.slurm.nodes)
        self.slurm.run("scontrol", "create", "PartitionName=high", "Nodes=" + nodes,
                       "PriorityTier=100")
        self.addCleanup(self.slurm.run, "scontrol", "delete", "PartitionName=high")
        jobid = self.put(self.SCRIPT, requeue=True)
        self.active(jobid)
        waiter = self.wait_for(jobid)
        other = self.slurm.run("sbatch", "--parsable", "-p", "high", "-N2", "--exclusive",
                               "--output=/dev/null", "--wrap", NAP).stdout.strip()
        self.until(lambda: "2 queued" in (self.psik("ls").out and self.states(jobid)), seconds=90)
        self.slurm.run("scancel", other)
        self.begin_again(jobid)
        out, err = waiter.communicate(timeout=300)
        self.assertEqual(waiter.returncode, 0, (out, err, self.diagnose(jobid)))
        self.assertEqual(self.states(jobid)[-1], "2 completed")

    def test_one_whose_node_is_lost(self) -> None:
        jobid = self.put(self.SCRIPT, requeue=True)
        self.active(jobid)
        node = self.queue(form="%N")[0]
        self.slurm.stop_node(node, signal.SIGKILL)
        for pid in self.slurm.job_processes():
            services.kill(pid, signal.SIGKILL)
        self.slurm.run("scontrol", "update", "NodeName=" + node, "State=DOWN", "Reason=test")
        try:
            self.until(lambda: "2 queued" in (self.psik("ls").out and self.states(jobid)),
                       seconds=90)
            self.assertEqual(self.states(jobid)[3], "1 failed")
        finally:
            self.slurm.start_node(node)
            self.slurm.run("scontrol", "update", "NodeName=" + node, "State=RESUME")
            self.until(self.slurm.is_idle)
        self.begin_again(jobid)
        self.until(lambda: "2 completed" in self.states(jobid), seconds=200)

    def test_one_that_its_exit_status_requeues_is_canceled(self) -> None:
        jobid = self.put("#!/bin/sh\nexit 77", requeue=True)
        self.until(lambda: "1 failed" in self.states(jobid))
        self.until(lambda: self.queue(form="%T") == ["PENDING"], seconds=90)
        self.assertNotIn("has ended already", self.psik("cancel", jobid).err)
        self.until(lambda: self.queue() == [""])
        self.assertEqual(self.states(jobid)[-2:], ["2 queued", "0 canceled"])

    def test_a_signal_that_is_the_end_ends_a_wait(self) -> None:
        jobid = self.put("#!/bin/sh\nkill -9 $$")
        self.psik("wait", "--timeout", "60", jobid, status=137)
        self.assertEqual(self.reason(jobid), "killed by SIGKILL")


@needs("Slurm", SLURM)
class Storms(unittest.TestCase):
    def test_a_small_one(self) -> None:
        self.assertEqual(storm.storm(24, 10, 6, seed=5), 0)


class Told(Cluster):
    def test_a_server_tells_it_too(self) -> None:
        server = Server(self, "--uds", "s.sock")
        jobid = self.put("true", backend=LATER)
        self.until(lambda: server.ask("GET", "/v1/jobs/" + jobid).status == 200)
        self.slurm.stop_controller()
        try:
            self.psik("cancel", jobid, status=4, timeout=200)
        finally:
            self.slurm.start_controller()
        self.until(lambda: self.queue() == [""])

    def test_a_cancel_while_slurmctld_is_down(self) -> None:
        pending, running = self.put("true", backend=LATER), self.put(NAP)
        self.active(running)
        self.slurm.stop_controller()
        try:
            for jobid in (pending, running):
                said = self.psik("cancel", jobid, status=4, timeout=200).err
                self.assertIn("is canceled, but its scheduler could not be told", said)
                self.assertIn("0 canceled", self.states(jobid))
            self.assertEqual(self.reason(pending), "its scheduler has not been told yet")
            self.until_last(running, "1 canceled")      # its supervisor has seen it by itself
        finally:
            self.slurm.start_controller()
        self.psik("poll")
        self.until(lambda: self.queue() == [""])
        for jobid in (pending, running):
            self.assertEqual(self.reason(jobid), "")


@needs("Slurm with slurmdbd and MariaDB, and root",
       SLURM and services.which("slurmdbd") and services.which("mariadbd") and not os.geteuid())
class Accounts(Cluster):
    """A cluster that forgets an ended job at once, and whose accounting does not."""
    slurm_settings = {"MinJobAge": 2, "JobAcctGatherType": "jobacct_gather/linux",
                      "JobAcctGatherFrequency": 1}
    slurm_kind = services.SlurmWithAccounting
    slurm_nodes = 1

    def forgotten(self, jobid: str) -> None:
        """Wait until squeue no longer lists a job."""
        native = self.native(jobid)
        self.until(lambda: native not in self.queue("-t", "all", form="%i"), seconds=120)
        self.assertEqual(self.states(jobid)[-1].split()[1] in ("queued", "active"), True)

    def test_what_it_says_of_jobs_that_are_forgotten(self) -> None:
        pending, running = self.put("true", backend=LATER), self.put(NAP)
        self.active(running)
        self.slurm.run("scancel", self.native(pending))
        # The supervisor can record nothing.
        services.kill(int(psik.read_text(self.job(running).log("claim", 1)).split("pid ")[1]
                          .split()[0]), signal.SIGKILL)
        for jobid, status, reason in ((pending, 1, "CANCELLED"), (running, 137, "")):
            self.forgotten(jobid)
            self.psik("wait", "--timeout", "60", jobid, status=status)
            self.assertIn(reason, self.reason(jobid))
            self.assertNotIn("no longer knows it", self.reason(jobid))


    def test_what_it_says_of_use(self) -> None:
        code = "import time; x = bytearray(150 << 20); sum(range(30 * 1000 * 1000)); time.sleep(3)"
        jobid = self.put("python3 -c '%s'" % code)
        self.psik("wait", jobid)
        # As if it had run elsewhere: the supervisor's own account is not there.
        claim = self.job(jobid).log("claim", 1)
        text = psik.read_text(claim)
        with open(claim, "w") as file:
            file.write(text[:text.index("cpu_s")])
        for _ in range(20):     # slurmdbd hears of the end a little later
            said = self.psik("why", jobid).out
            if re.search("at most [1-9]", said):
                break
            time.sleep(1)
        self.assertRegex(said, r"used       0:\d\d of .* min; CPU time [0-9.]+ s; "
                               r"a process at most 1[5-9]\d MiB\n")
        self.assertGreater(float(said.split("CPU time ")[1].split()[0]), 0.2)
        self.assertNotIn("CPU time", self.psik("status", jobid).out)


class Clusters(Accounts):
    """Two clusters of a site, which know each other through the accounting."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.second = tempfile.mkdtemp(prefix="psl")
        cls.south = services.SlurmBeside(cls.slurm)
        cls.south.start(cls.second, MinJobAge=60)

    @classmethod
    def tearDownClass(cls) -> None:
        cls.south.stop()
        shutil.rmtree(cls.second, True)
        super().tearDownClass()

    def test_a_backend_for_the_other_cluster(self) -> None:
        named = {"SLURM_CLUSTERS": self.south.name}
        self.configure(poll_interval_s=0, poll_grace_s=3, backends={
            "north": {"type": "slurm"},
            "south": {"type": "slurm", "scheduler_environment": named}})
        for inherit in (True, False):
            jobid = self.put(NAP, backend="south", inherit_environment=inherit)
            native = self.native(jobid)
            self.active(jobid)
            time.sleep(4)   # longer than the grace
            self.psik("poll")
            self.assertIn("active", self.psik("ls").out)
            south = self.south.run("squeue", "-h", "-o", "%i").stdout
            self.assertEqual((south.strip(), self.queue(form="%i")), (native, [""]))
            self.psik("cancel", "--wait", jobid)
            self.assertEqual(self.south.run("squeue", "-h").stdout, "")
        jobid = self.put("#!/bin/sh\nexit 3", backend="south")
        self.psik("wait", "--timeout", "60", jobid, status=3)
        self.assertEqual(self.psik("backends", "--check").err, "")

    def test_what_they_say_of_jobs_that_are_forgotten(self) -> None:
        self.configure(backends={"south": {"type": "slurm", "scheduler_environment": {
            "SLURM_CLUSTERS": self.south.name}}}, poll_interval_s=0, poll_grace_s=3)
        jobid = self.put("true", backend=dict(LATER, type="south"))
        self.south.run("scancel", self.native(jobid))
        self.psik("wait", "--timeout", "60", jobid, status=1)
        self.assertIn("CANCELLED", self.reason(jobid))

    test_what_it_says_of_jobs_that_are_forgotten = None


class Comments(Accounts):
    """The same, of a site that keeps the comments of jobs."""
    slurm_settings = dict(Accounts.slurm_settings, AccountingStoreFlags="job_comment")


@needs("Slurm, and memory cgroups that slurmd may use",
       SLURM and os.path.isdir("/sys/fs/cgroup/memory") and os.geteuid() == 0)
class Memory(Cluster):
    slurm_settings = {"ProctrackType": "proctrack/cgroup", "TaskPlugin": "task/cgroup",
                "JobAcctGatherType": "jobacct_gather/none"}

    def test_a_child_that_is_killed_for_want_of_memory(self) -> None:
        eat = "#!/bin/sh\n%s -c 'x = b\"1\" * 300000000' 2>&1\nexit %d\n"
        for code, state in ((0, "completed"), (5, "failed")):
            jobid = self.put(eat % (shutil.which("python3"), code),
                             resources=dict(CELLS, memory_per_process="60M"))
            self.psik("wait", "--timeout", "60", jobid, status=code)
            self.assertEqual(self.states(jobid)[-1], "1 " + state)
            self.assertRegex(self.reason(jobid), "^OUT_OF_MEMORY")
            self.assertIn("; resources.memory_per_process is 60 MiB", self.reason(jobid))
            if code == 0:   # else it is Slurm's word that counts
                self.assertRegex(self.reason(jobid), "; it used up to [56][0-9] MiB; ")
