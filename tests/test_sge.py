"""What a real Grid Engine does to jobs: slots, requeues, error states, a master that hangs."""
import json
import os
import signal
import time
from typing import Any, Dict

import psik
from clusters import SGE, OnSge, age_submission
from harness import Case, kill, needs, processes_with

NAP = "sleep 603.%07d" % os.getpid()


@needs("Grid Engine, and root", SGE)
class Cluster(OnSge, Case):
    """Tests with a cluster that they share."""

    def setUp(self) -> None:
        super().setUp()
        self.set_up()

    def set_up(self, **settings: Any) -> None:
        """Write the config."""
        self.configure(**dict(dict(backend={"type": "sge"}, poll_interval_s=0, poll_grace_s=3,
                                   kill_grace_s=3), **settings))

    def put(self, script: str, **spec: Any) -> str:
        """Submit a job; its id."""
        return str(self.run_spec(script="#!/bin/sh\n" + script, **spec))

    def out_of(self, jobid: str, status: int = 0) -> str:
        """What a job prints, when it has ended with this status."""
        self.psik("wait", "--timeout", "60", jobid, status=status)
        return str(self.psik("logs", jobid).out)

    def status(self, jobid: str) -> Dict[str, Any]:
        found: Dict[str, Any] = json.loads(self.psik("status", "--json", jobid).out)[0]
        return found

    def native(self, jobid: str) -> str:
        """The scheduler's id of the latest step."""
        return str([row.info for row in self.job(jobid).rows() if row.state == "queued"][-1])

    def described(self, jobid: str) -> Dict[str, str]:
        """What qstat -j says of a job."""
        lines = self.sge.run("qstat", "-j", self.native(jobid)).stdout.splitlines()
        pairs = (line.partition(":") for line in lines)
        return {pair[0].strip(): pair[2].strip() for pair in pairs if pair[1]}

    def active(self, jobid: str, step: int = 1) -> None:
        self.until(lambda: "%d active" % step in self.states(jobid))

    def hang(self) -> None:
        """Let the master hang."""
        self.sge.freeze_master()
        self.addCleanup(self.sge.freeze_master, signal.SIGCONT)


class Asked(Cluster):
    def test_what_a_job_asks_for(self) -> None:
        jobid = self.put("true", name="9 o'clock", attributes={"-h": "", "-p": "-5"}, requeue=True,
                         backend={"queue_name": "all.q"},
                         resources={"duration": 20, "memory_per_process": "300M"})
        said = self.described(jobid)
        self.assertEqual(said["job_name"], "_9_o_clock-psik-%s.1" % jobid)
        self.assertEqual(said["hard resource_list"], "h_rt=1200,mem_free=300M,h_vmem=300M")
        self.assertEqual((said["hard_queue_list"], said["priority"]), ("all.q", "-5"))
        self.assertEqual(said["restart"], "y")
        self.assertEqual(self.status(jobid)["reason"], "held")

    def test_what_a_job_finds(self) -> None:
        script = ("echo $jobid $jobndx $nodes $mpirun; ulimit -v; echo $A; echo $B; pwd; "
                  "type hello >/dev/null && hello")
        self.env.update({"B": "of the shell", "SGE_TASK_ID": "7",
                         "BASH_FUNC_hello%%": "() {  echo 'hello, '$USER\n}"})
        for shell in ("/bin/sh", "/usr/bin/rc"):
            with self.subTest(shell=shell):
                self.set_up(rc_path=shell)
                jobid = self.run_spec(script="#!/bin/bash\n" + script, environment={"A": "it's\nx"},
                                      resources={"memory_per_process": "400M"})
                said = self.out_of(jobid).splitlines()
                work = self.job(jobid).at("work")
                self.assertEqual(said, ["%s 1 1 mpirun" % self.native(jobid), "409600", "it's x",
                                        "of the shell", work, "hello, root"])

    def test_a_job_over_its_memory(self) -> None:
        jobid = self.put("exec python3 -c 'a = bytearray(10**9)'",
                         resources={"memory_per_process": "300M"})
        self.psik("wait", jobid, status=1)
        self.assertIn("MemoryError", self.psik("logs", jobid, "--stderr").out)

    def test_parallel_environments(self) -> None:
        script = "echo $PE $NSLOTS $NHOSTS"
        for said, spec in (
                ("mpi 4 1", {"resources": {"process_count": 4}}),
                ("smp 4 1", {"resources": {"process_count": 2, "node_count": 1,
                                           "cpu_cores_per_process": 2}}),
                ("smp 3 1", {"resources": {"process_count": 3}, "attributes": {"-pe": "smp"}}),
                ("smp 2 1", {"attributes": {"-pe": "smp 2"}})):
            with self.subTest(spec=spec):
                self.assertEqual(self.out_of(self.put(script, **spec)), said + "\n")
        ran = self.psik("run", "-", stdin=json.dumps({"script": "#!/bin/sh", "resources": {
            "processes_per_node": 2, "node_count": 2}}), status=4)
        self.assertIn("no parallel environment gives 4 slots on 2 hosts; name one of those that "
                      "qconf -spl lists, by the attribute -pe", ran.err)

    def test_what_is_refused(self) -> None:
        for spec, status, said in (
                ({"backend": {"queue_name": "none.q"}}, 4, 'requests unknown queue "none.q"'),
                ({"resources": {"gpu_cores_per_process": 1}}, 4, 'unknown resource "gpu"'),
                ({"attributes": {"-t": "1-3"}}, 2, "array"),
                ({"attributes": {"-l": "a='b'"}}, 2, "SGE cannot take a value that holds a quote"),
                ({"attributes": {"-o": "x"}}, 2, "output goes to the job's log/")):
            with self.subTest(spec=spec):
                text = json.dumps(dict(spec, script="#!/bin/sh"))
                self.assertIn(said, self.psik("run", "-", stdin=text, status=status).err)

    def test_its_own_batch_script(self) -> None:
        self.write("job.sh", "#!/bin/bash\n#$ -N mine -cwd -V\n#$ -l h_rt=0:20:0,h_vmem=1G\n"
                             "#$ -pe smp 2\n#$ -j y -o out.txt\n#$ -q all.q@localhost\n"
                             "echo $NSLOTS $QUEUE\n")
        ran = self.psik("run", "job.sh")
        self.assertIn("not taken over: -o (output goes", ran.err)
        self.assertEqual(self.out_of(ran.out.strip()), "2 all.q\n")
        spec = self.job(ran.out.strip()).spec()
        self.assertEqual((spec.name, spec.resources.duration, spec.resources.memory_per_process,
                          spec.join_output), ("mine", 20, 1024, True))

    def test_check(self) -> None:
        self.assertRegex(self.psik("backends", "--check").out, r"sge +sge +\S+ +yes")
        self.hang()
        self.psik("backends", "--check", status=4)


class Ended(Cluster):
    def test_cancel_lets_a_job_end_itself(self) -> None:
        jobid = self.put("trap 'echo TERM; exit 3' TERM\necho up\n%s & wait" % NAP)
        self.until(lambda: "up" in self.psik("logs", jobid, status=None).out)
        self.psik("cancel", "--wait", jobid)
        self.assertEqual(self.states(jobid)[-1], "1 canceled")
        self.assertEqual(self.psik("logs", jobid).out, "up\nTERM\n")
        self.gone(NAP)
        self.until(lambda: self.sge.run("qstat", "-j", self.native(jobid)).returncode)

    def test_cancel_of_one_that_waits(self) -> None:
        jobid = self.put("true", attributes={"-h": ""})
        self.psik("cancel", "--wait", jobid)
        self.assertEqual(self.states(jobid)[-1], "0 canceled")
        self.assertNotEqual(self.sge.run("qstat", "-j", self.native(jobid)).returncode, 0)

    def test_walltime(self) -> None:
        jobid = self.put("exec %s" % NAP, resources={"duration": 1})
        self.psik("wait", "--timeout", "100", jobid, status=143)
        self.assertIn("its walltime of 1 min was over", self.status(jobid)["reason"])
        self.gone(NAP)

    def test_one_that_the_scheduler_ends(self) -> None:
        jobid = self.put("exec %s" % NAP)
        self.active(jobid)
        self.sge.run("qdel", self.native(jobid))
        self.psik("wait", "--timeout", "60", jobid, status=None)
        self.assertEqual(self.states(jobid)[-1], "1 failed")
        self.assertIn("deleted, or over a limit; maxvmem ", self.status(jobid)["reason"])
        # It kills what bears the job's group, as the payload does, but for the processes of root.
        kill(processes_with(NAP))

    def test_one_whose_supervisor_is_killed(self) -> None:
        jobid = self.put("exec %s" % NAP)
        self.active(jobid)
        claim = psik.read_text(self.job(jobid).log("claim", 1))
        os.kill(int(claim.split("\npid ")[1].split("\n")[0]), signal.SIGKILL)
        self.psik("wait", "--timeout", "60", jobid, status=None)
        self.assertEqual(self.states(jobid)[-1], "1 failed")
        kill(processes_with(NAP))

    def test_an_error_state_is_told(self) -> None:
        jobid = self.put("true", attributes={"-wd": self.folder + "/nowhere"})
        self.until(lambda: "error state" in self.status(jobid)["reason"])
        said = self.status(jobid)["reason"]
        self.assertRegex(said, r"error state Eqw: .*nowhere")
        self.assertEqual(self.states(jobid)[-1], "1 queued")
        os.mkdir(self.folder + "/nowhere")
        self.sge.run("qmod", "-cj", self.native(jobid))
        self.psik("wait", "--timeout", "60", jobid)

    def test_one_that_is_requeued(self) -> None:
        jobid = self.put("echo step $jobndx\ntest $jobndx -gt 1 || exec %s" % NAP, requeue=True)
        self.active(jobid)
        self.sge.run("qmod", "-rj", self.native(jobid))
        self.psik("wait", "--timeout", "120", jobid)
        self.assertEqual(self.states(jobid), ["0 new", "1 queued", "1 active", "1 failed",
                                              "2 queued", "2 active", "2 completed"])
        logs = [psik.read_text(self.job(jobid).log("stdout", step)) for step in (1, 2)]
        self.assertEqual(logs, ["step 1\n", "step 2\n"])


class Unwell(Cluster):
    def test_a_master_that_hangs(self) -> None:
        self.set_up(submit_timeout_s=4)
        self.hang()
        text = json.dumps({"script": "#!/bin/sh\necho ran >>$base/ran\n"})
        ran = self.psik("run", "-", stdin=text, status=4)
        self.assertIn("it is not known yet whether its scheduler has it", ran.err)
        jobid = ran.out.strip()
        self.sge.freeze_master(signal.SIGCONT)
        time.sleep(2)   # time enough to take it after all
        self.psik("ls")
        age_submission(self.job(jobid))
        self.psik("start", jobid)
        self.psik("wait", "--timeout", "60", jobid)
        self.assertEqual(psik.read_text(self.job(jobid).at("ran")), "ran\n")

    def test_a_master_that_is_not_there(self) -> None:
        running = self.put("echo up; exec sleep 5")
        self.active(running)
        self.sge.stop_master(signal.SIGKILL)
        try:
            ran = self.psik("run", "-", stdin=json.dumps({"script": "#!/bin/sh"}), status=4)
            self.assertIn("Connection refused", ran.err)
            self.assertEqual(self.states(ran.out.strip())[-1], "1 failed")
            self.assertIn("active", self.psik("ls", status=None).out)
            time.sleep(5)
        finally:
            self.sge.start_master()
        self.psik("wait", "--timeout", "60", running)
        self.assertEqual(self.states(running)[-1], "1 completed")

    def test_ids_that_are_given_again(self) -> None:
        first = self.put("exec %s" % NAP, attributes={"-h": ""})
        self.sge.run("qdel", self.native(first))
        other = self.sge.must("qsub", "-terse", "-b", "y", "-N", "anothers", "sleep", "100").strip()
        path = self.job(first).status_path
        rows = psik.read_text(path).replace("queued," + self.native(first), "queued," + other)
        psik.write_file(path, rows)
        self.psik("cancel", first)
        said = self.sge.run("qstat", "-xml").stdout.split("<JB_job_number>%s<" % other)[1]
        self.assertIn("<JB_name>anothers</JB_name>", said)
        self.assertNotIn("<state>d", said.split("</state>")[0])
