"""The same jobs on every backend, in rc and in sh: one table of cases, through the command line.

Slurm and atd are the real ones; for LSF, which has no free server, an emulator stands in.
"""
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple
from unittest import mock

import lsf_emulator
import psik
import services
from clusters import SGE, SLURM, OnAt, OnSge, OnSlurm
from harness import Case, kill, needs, processes_with, rc_path
from odd import texts
from users import CAN_MAKE_USERS, TwoUsers

SHOW = "#!%s -E\nimport json, os\nprint(json.dumps(dict(os.environ)))\n" % sys.executable
NAP = "sleep 600.%07d" % os.getpid()
# The scheduler tells the script, its child and the supervisor one after the other, in any order.
TRAP = """#!/bin/bash
trap 'trap "" TERM; echo saved; sleep 1; exit 0' TERM
echo ready
%s & wait
sleep 1
""" % NAP
PRINTABLE = "".join(chr(code) for code in range(32, 127)) + "é ß 日本"
# Name, spec, exit status, the history's end.
CASES: List[Tuple[str, Optional[Dict[str, Any]], int, List[str]]] = [
    ("success", {"script": "#!/bin/sh\necho moo"}, 0, ["1 queued", "1 active", "1 completed"]),
    ("exit 3", {"script": "exit 3"}, 3, ["1 queued", "1 active", "1 failed"]),
    ("killed inside", {"script": "#!/bin/sh\nkill -9 $$"}, 137,
     ["1 queued", "1 active", "1 failed"]),
    ("every printable character in the name", {"script": "true", "name": PRINTABLE}, 0,
     ["1 queued", "1 active", "1 completed"]),
]


class Scheduler:
    """The cases; a backend says how it is configured and what differs."""
    backend: Dict[str, Any] = {}
    pending: Dict[str, Any] = {}        # changes to a spec that keep its job from starting
    canceled_pending = ["0 canceled"]
    environment: Dict[str, str] = {}
    needs_cells = {"exclusive_node_use": False}
    grace_s = 2

    def in_both_shells(self: Any, test: Callable[[], None], **settings: Any) -> None:
        """Run a test in rc and in sh."""
        for shell in (rc_path(), "/bin/sh"):
            if shell:
                with self.subTest(shell=shell):
                    self.env.update(self.environment)
                    self.configure(rc_path=shell, backend=self.backend, poll_interval_s=1,
                                   kill_grace_s=20,
                                   **dict({"poll_grace_s": self.grace_s}, **settings))
                    test()

    def take_over(self: Any) -> None:
        """Let what the test calls in this process see the scheduler too."""
        patch = mock.patch.dict(os.environ, self.environment)
        patch.start()
        self.addCleanup(patch.stop)

    def put(self: Any, script: str, **spec: Any) -> str:
        """Submit a job; its id."""
        spec.setdefault("resources", self.needs_cells)
        return str(self.run_spec(script=script, **spec))

    def native(self: Any, jobid: str) -> str:
        """The scheduler's id of step 1."""
        return str(next(row.info for row in self.job(jobid).rows() if row.state == "queued"))

    def is_active(self: Any, jobid: str) -> Callable[[], bool]:
        return lambda: "1 active" in self.states(jobid)

    def end(self: Any, jobid: str, status: int, *last: str) -> str:
        """Wait for a job; checks its exit status and its last rows, and returns why it ended."""
        ran = self.psik("wait", "--timeout", "120", jobid, status=None, timeout=150)
        self.assertEqual((ran.status, self.states(jobid)[-len(last):]), (status, list(last)),
                         (ran, jobid, self.diagnose(jobid)))
        return str(json.loads(self.psik("status", "--json", jobid).out)[0]["reason"])

    def diagnose(self: Any, jobid: str) -> str:
        job = self.job(jobid)
        return "\n".join("%s: %s" % (name, psik.read_or_empty(job.at("log", name)))
                         for name in os.listdir(job.at("log")))

    def test_table(self: Any) -> None:
        def test() -> None:
            jobs = [(self.put(**spec), status, last) for _, spec, status, last in CASES]
            for jobid, status, last in jobs:
                self.end(jobid, status, *last)
        self.in_both_shells(test)

    def test_what_the_payload_finds(self: Any) -> None:
        odd = {"V%d" % number: text for number, text in enumerate(texts())}

        def test() -> None:
            for inherit in (True, False):
                place = os.path.join(self.folder, "a \"place's\" $x, %j \\ ü {}".format(inherit))
                os.makedirs(place, exist_ok=True)
                self.env["MARK"] = "two\nlines, 'and' more"
                jobid = self.put(SHOW + "print(os.getcwd())", environment=odd,
                                 inherit_environment=inherit, directory=place)
                self.end(jobid, 0, "1 completed")
                shown, where = self.psik("logs", jobid).out.strip().split("\n")
                env = json.loads(shown)
                self.assertEqual({name: env.get(name) for name in odd}, odd)
                self.assertEqual((env.get("MARK"), where),
                                 (self.env["MARK"] if inherit else None, place))
                self.assertEqual((env["jobid"], env["nodes"], env["jobndx"]),
                                 (self.native(jobid), "1", "1"))
        self.in_both_shells(test)

    def test_functions_that_bash_exports_and_odd_names(self: Any) -> None:
        def test() -> None:
            self.env["an.odd-name"] = "two\nlines"
            jobid = self.put(SHOW)
            self.end(jobid, 0, "1 completed")
            self.assertEqual(json.loads(self.psik("logs", jobid).out)["an.odd-name"], "two\nlines")
            self.env["BASH_FUNC_module%%"] = "() {  echo \"module $*\" '\\'\n}"
            jobid = self.put("#!/bin/bash\nmodule load gcc")
            self.end(jobid, 0, "1 completed")
            self.assertEqual(self.psik("logs", jobid).out, "module load gcc \\\n")
            jobid = self.put("#!/bin/bash\nmodule load gcc", inherit_environment=False)
            self.end(jobid, 127, "1 failed")
        self.in_both_shells(test)

    def test_a_signal(self: Any) -> None:
        def test() -> None:
            if self.pending:
                jobid = self.put("true", **self.pending)
                self.assertIn("does not run: it is queued",
                              self.psik("kill", "-s", "USR1", jobid, status=5).err)
                self.psik("cancel", jobid)
            jobid = self.put(TRAP.replace("TERM", "USR1"))
            self.until(lambda: self.psik("logs", jobid, status=None).out == "ready\n", seconds=120)
            self.psik("kill", "-s", "SIGUSR1", jobid)
            self.end(jobid, 0, "1 completed")
            self.assertEqual(self.psik("logs", jobid).out, "ready\nsaved\n")
            self.psik("kill", "-s", "USR1", jobid, status=5)
        self.in_both_shells(test)

    def test_cancel_while_running(self: Any) -> None:
        def test() -> None:
            jobid = self.put(TRAP)
            self.until(lambda: self.psik("logs", jobid, status=None).out == "ready\n", seconds=120)
            self.psik("cancel", jobid)
            self.psik("wait", jobid, status=143)
            self.until(lambda: self.states(jobid)[-2:] == ["0 canceled", "1 canceled"],
                       self.diagnose(jobid))
            self.assertEqual(self.psik("logs", jobid).out, "ready\nsaved\n", self.diagnose(jobid))
            self.gone(self.job(jobid).path)
            self.assertIn("has ended already", self.psik("cancel", jobid).err)
        self.in_both_shells(test)

    def test_cancel_after_the_end(self: Any) -> None:
        def test() -> None:
            jobid = self.put("true")
            self.end(jobid, 0, "1 completed")
            self.assertIn("has ended already", self.psik("cancel", jobid).err)
            self.assertEqual(self.states(jobid)[-1], "1 completed")
        self.in_both_shells(test)

    def test_the_job_script_is_killed(self: Any) -> None:
        def test() -> None:
            jobid = self.put(NAP)
            self.until(self.is_active(jobid), seconds=120)
            script = "%s/scripts/job 1" % self.job(jobid).path
            kill(self.until(lambda: (processes_with(script)
                                     or processes_with("job 1") and self.wrappers(jobid))))
            kill(processes_with(NAP))
            ran = self.psik("wait", "--timeout", "120", jobid, status=None, timeout=150)
            self.assertEqual(self.states(jobid)[-1], "1 failed", ran)
            self.assertTrue(json.loads(self.psik("status", "--json", jobid).out)[0]["reason"])
        self.in_both_shells(test)

    def wrappers(self: Any, jobid: str) -> List[str]:
        """The processes of the job's script where its scheduler runs a copy of it."""
        return [line for line in processes_with(" 1")
                if self.env_of(line).get("base", "") == self.job(jobid).path]

    def env_of(self: Any, line: str) -> Dict[str, str]:
        """The environment of the process in a line of ps."""
        text = psik.read_or_empty("/proc/%s/environ" % line.split()[1])
        return dict(part.split("=", 1) for part in text.split("\0") if "=" in part)

    def test_parallel_launch(self: Any) -> None:
        text = "#!/bin/sh\nshift\nn=$1\nshift\nfor i in $(seq $n); do \"$@\" & done\nwait\n"
        launcher = self.write("launch", text, 0o755)

        def test() -> None:
            jobid = self.put("$mpirun hostname", resources=dict(self.needs_cells, process_count=2))
            self.end(jobid, 0, "1 completed")
            self.assertEqual(self.psik("logs", jobid).out.split(), [os.uname().nodename] * 2)
        self.in_both_shells(test, launcher=[launcher, "-n", "2"])

    @property
    def pending_or_running(self: Any) -> Dict[str, Any]:
        return dict(self.pending)

    def held(self: Any) -> Any:
        """Keep jobs from starting while this lasts, where the spec cannot say so."""
        return contextlib.ExitStack()

    def known(self: Any, native: str) -> bool:
        """Whether the scheduler still has the job."""
        raise NotImplementedError

    def logged_calls(self: Any, program: str) -> Tuple[Dict[str, str], str]:
        """An environment in which calls of a program are counted in a file, and that file."""
        folder = tempfile.mkdtemp(dir=self.folder)
        real = shutil.which(program, path=dict(self.env, **self.environment)["PATH"])
        with open(os.path.join(folder, program), "w") as file:
            file.write("#!/bin/sh\necho call >>%s/calls\nexec %s \"$@\"\n" % (folder, real))
        os.chmod(os.path.join(folder, program), 0o755)
        path = dict(self.env, **self.environment)["PATH"]
        return {"PATH": folder + ":" + path}, folder + "/calls"

    def logged_polls(self: Any, jobs: Sequence[str]) -> str:
        """A file in which the calls of these jobs' poll scripts are counted."""
        calls = os.path.join(self.folder, "calls")
        for job in map(self.job, jobs):
            head, rest = psik.read_text(job.script("poll")).split("\n", 1)
            psik.write_file(job.script("poll"),
                            "%s\necho call >>%s\n%s" % (head, calls, rest), 0o700)
        return calls

    def ls_calls_once(self: Any, program: str = "") -> None:
        self.env.update(self.environment)
        self.configure(backend=self.backend, poll_interval_s=60)
        with self.held():
            jobs = [self.put(NAP, **self.pending) for _ in range(4)]
            for job in map(self.job, jobs):  # what has just changed is not asked for: make it old
                self.until(lambda: self.pending or self.backend["type"] == "at"
                           or len(job.rows()) == 3)
                text = re.sub("(?m)^[0-9]+", "1000000000", psik.read_text(job.status_path))
                psik.write_file(job.status_path, text)
            env, calls = self.logged_calls(program) if program else ({}, self.logged_polls(jobs))
            children = [subprocess.Popen([sys.executable, psik.__file__, "ls"],
                                         stdout=subprocess.PIPE, env=dict(self.env, **env))
                        for _ in range(3)]
            for child in children:
                child.communicate()
            self.assertEqual(psik.read_or_empty(calls), "call\n")
            for jobid in jobs:
                self.psik("cancel", jobid)


class Queues(Scheduler):
    """One in which jobs wait for others."""

    def queues(self: Any) -> Any:
        """What `backends --queues` says of the scheduler's queues."""
        self.env.update(self.environment)
        self.configure(backend=self.backend)
        return json.loads(self.psik("backends", "--queues", "--json").out)

    def holds(self: Any, pending: Dict[str, Any]) -> None:
        """A job that waits is held and released; one that does not wait is not."""
        self.env.update(self.environment)
        self.configure(backend=self.backend, poll_interval_s=0)
        jobid = self.put("true", **pending)
        for verb in ("hold", "release"):
            self.psik(verb, jobid)
        self.end(jobid, 0, "1 completed")
        for verb in ("hold", "release"):
            said = self.psik(verb, jobid, status=5).err
            self.assertIn("does not wait in a queue: it is completed", said)

    def test_fifty(self: Any) -> None:
        def test() -> None:
            config = self.config()
            os.environ.update(self.environment)
            needed = psik.ResourceSpec(**self.needs_cells)
            jobs = [psik.create(config, psik.JobSpec(script="exit 3", resources=needed))
                    for _ in range(50)]
            for job in jobs:
                psik.submit(job)
            summaries = psik.wait(config, jobs, 240)
            self.assertEqual({(each.state, each.info) for each in summaries}, {("failed", 3)})
        self.in_both_shells(test)

    def test_cancel_while_pending(self: Any) -> None:
        def test() -> None:
            with self.held():
                jobid = self.put("true", **self.pending)
                self.psik("poll")
                self.assertEqual(self.states(jobid), ["0 new", "1 queued"])
                self.psik("cancel", jobid)
                self.end(jobid, 143, *self.canceled_pending)
                self.psik("poll")
                self.assertEqual(self.known(self.native(jobid)), False)
        self.in_both_shells(test)


class Tags(Scheduler):
    """One that can be asked for a job by its tag."""

    def test_a_cut_submission_is_adopted(self: Any) -> None:
        def test() -> None:
            jobid = self.put(NAP, **self.pending_or_running)
            job = self.job(jobid)
            self.until(lambda: self.pending_or_running or len(job.rows()) == 3)
            with open(job.status_path, "w") as file:  # as if we were killed before its answer came
                file.write("1.5,0,new,0\n")
            native = self.until(lambda: psik.submit(job).info if len(self.states(jobid)) == 1
                                else self.job(jobid).rows()[-1].info)
            self.assertEqual(self.psik("poll").err, "")
            self.assertNotIn("2 queued", self.states(jobid))
            self.assertTrue(self.known(str(native)))
            self.psik("rm", "--force", jobid)
        self.in_both_shells(test)


class Local(Tags, Case):
    """Plain processes; test_local.py has more."""
    backend = {"type": "local"}

    def known(self, native: str) -> bool:
        return bool(processes_with(" %s " % native))

    def test_ls_asks_once(self) -> None:
        self.ls_calls_once()


@needs("Slurm", SLURM)
class Slurm(Queues, Tags, Case):
    backend = {"type": "slurm"}
    pending = {"backend": {"attributes": {"--begin": "now+1hour"}}}
    pending_or_running = pending

    @classmethod
    def setUpClass(cls) -> None:
        cls.place = tempfile.mkdtemp(prefix="psl")
        cls.slurm = services.Slurm()
        cls.slurm.start(cls.place, MinJobAge=60, KillWait=30)
        cls.environment = cls.slurm.env
        os.environ.update(cls.slurm.env)

    @classmethod
    def tearDownClass(cls) -> None:
        cls.slurm.stop()
        shutil.rmtree(cls.place, True)

    def known(self, native: str) -> bool:
        return self.slurm.run("squeue", "-h", "-j", native, "-o", "%i").stdout.strip() == native

    def shown(self, native: str) -> Dict[str, str]:
        """What scontrol says of a job."""
        said = self.slurm.run("scontrol", "-o", "show", "job", native).stdout
        return dict(word.split("=", 1) for word in said.split(" ") if "=" in word)

    def test_directives_as_slurm_parsed_them(self) -> None:
        def test() -> None:
            place = os.path.join(self.folder, "it's \"a\" place, $x \\ %j #1")
            os.makedirs(place, exist_ok=True)
            jobid = self.put("true", name=PRINTABLE, directory=place, backend={
                "queue_name": "main", "attributes": {"--begin": "now+1hour", "--nice": "7",
                                                     "--requeue": "", "---gpu-bind": "closest"}},
                resources={"duration": 61, "node_count": 2, "processes_per_node": 2,
                           "cpu_cores_per_process": 2, "gpu_cores_per_process": 1,
                           "exclusive_node_use": True})
            native = self.native(jobid)
            shown = self.shown(native)
            wanted = {"TimeLimit": "01:01:00", "NumNodes": "2-2", "CPUs/Task": "2",
                      "Partition": "main", "Nice": "7", "Requeue": "1"}
            self.assertEqual({name: shown.get(name) for name in wanted}, wanted)
            self.assertIn(shown["NumTasks"], ("4", "4-4"))
            self.assertEqual((shown["OverSubscribe"], shown["NtasksPerN:B:S:C"][:2]), ("NO", "2:"))
            self.assertIn("gpu", shown.get("TresPerTask", ""))
            line = self.slurm.run("scontrol", "show", "job", native).stdout
            self.assertIn("JobName=%s\n" % PRINTABLE, line)
            self.assertIn("WorkDir=%s\n" % place, line)
            comment = self.slurm.run("squeue", "-h", "-j", native, "-o", "%k").stdout.strip()
            self.assertEqual(comment, "psik-%s.1" % jobid)
            self.psik("cancel", jobid)
        self.in_both_shells(test)

    def test_parallel_launch(self) -> None:
        def test() -> None:
            jobid = self.put("#!/bin/sh\n$mpirun hostname",
                             resources={"process_count": 2, "exclusive_node_use": False})
            self.end(jobid, 0, "1 completed")
            self.assertEqual(len(self.psik("logs", jobid).out.split()), 2)
        self.in_both_shells(test)

    def test_refused(self) -> None:
        def test() -> None:
            ran = self.psik("run", "-",
                            stdin='{"script": "true", "backend": {"queue_name": "nope"}}', status=4)
            self.assertIn("Invalid partition name specified", ran.err)
            self.assertEqual(self.states(ran.out.strip()), ["0 new", "1 failed"])
            self.assertIn("nvalid partition",
                          psik.read_or_empty(self.job(ran.out.strip()).log("submit", 1)))
        self.in_both_shells(test)

    def test_why_a_job_waits(self) -> None:
        def test() -> None:
            jobid = self.put("true", **self.pending)
            self.psik("poll")
            self.assertIn("BeginTime", self.psik("status", jobid).out)
            row = next(row for row in json.loads(self.psik("ls", "--json").out)
                       if row["jobid"] == jobid)
            self.assertEqual(row["state"], "queued")
            self.assertRegex(row["reason"], "^BeginTime, expected to start at 20..-..-..T..:..:..$")
            self.psik("cancel", jobid)
        self.in_both_shells(test)

    def test_where_a_job_runs_and_when_it_is_to_start(self) -> None:
        self.env.update(self.environment)
        self.configure(backend=self.backend, poll_interval_s=0)
        whole = {"node_count": len(self.slurm.nodes), "duration": 5}
        running, waiting = self.put(NAP, resources=whole), self.put("true", resources=whole)
        for jobid, reason in ((running, r"reason +on n\[1-4\]"), (waiting, (
                r"reason +(Resources|Priority), expected to start at 20..-"))):
            self.until(lambda: re.search(reason, self.psik("status", jobid).out), reason)
        for jobid in (running, waiting):
            self.psik("cancel", jobid)

    def test_hold_and_release(self) -> None:
        self.holds({"attributes": {"-H": ""}})

    def test_names_that_sbatch_may_cut_words_out_of(self) -> None:
        self.assertEqual(psik.SH.quote("packjob1", "#SBATCH x"), '"pack\\job1"')

        def test() -> None:
            for name in ("packjob1", "HetJobs", "a packjob"):
                jobid = self.put('#!/bin/sh\necho "$SLURM_JOB_NAME"\n', name=name)
                self.end(jobid, 0, "1 completed")
                self.assertEqual(self.psik("logs", jobid).out, name + "\n")
        self.in_both_shells(test)

    def test_queues(self) -> None:
        queue, = self.queues()
        self.assertEqual((queue["name"], queue["state"], queue["nodes"], queue["cores"],
                          queue["max_walltime_min"]), ("main", "up", 4, 16, None))
        self.assertRegex(self.psik("backends", "--queues", "slurm").out,
                         r"NAME +STATE +NODES +FREE NODES .*\nmain +up +4 +\d +16 +\d+ +-\n")
        self.psik("backends", "--queues", "none", status=2)
        self.configure()
        self.assertIn("'local' jobs have no queues", self.psik("backends", "--queues",
                                                               status=3).err)

    def test_canceled_behind_our_back(self) -> None:
        def test() -> None:
            jobid = self.put("true", **self.pending)
            self.slurm.run("scancel", self.native(jobid))
            self.assertIn("CANCELLED", self.end(jobid, 1, "1 failed"))
            jobid = self.put(TRAP)
            self.until(lambda: self.psik("logs", jobid, status=None).out == "ready\n", seconds=120)
            self.slurm.run("scancel", self.native(jobid))
            self.end(jobid, 143, "1 failed")
            self.until(lambda: "CANCELLED" in json.loads(self.psik("status", "--json", jobid).out)
                       [0]["reason"])
        self.in_both_shells(test)

    def test_a_dependency_that_cannot_be(self) -> None:
        def test() -> None:
            first = self.put("exit 3")
            self.end(first, 3, "1 failed")
            needed = {"--dependency": "afterok:" + self.native(first)}
            jobid = self.put("true", backend={"attributes": needed})
            self.assertIn("DependencyNeverSatisfied", self.end(jobid, 1, "1 failed"))
        self.in_both_shells(test)

    def test_a_node_goes_down(self) -> None:
        def test() -> None:
            jobid = self.put(NAP)
            self.until(self.is_active(jobid))
            queue = self.slurm.run("squeue", "-h", "-j", self.native(jobid), "-o", "%N")
            node = queue.stdout.strip()
            self.slurm.run("scontrol", "update", "NodeName=" + node, "State=DOWN", "Reason=test")
            try:
                ran = self.psik("wait", "--timeout", "120", jobid, status=None, timeout=150)
                self.assertEqual(self.states(jobid)[-1], "1 failed", ran)
                self.until(lambda: "NODE_FAIL" in self.psik("status", jobid).out)
            finally:
                self.slurm.run("scontrol", "update", "NodeName=" + node, "State=RESUME")
                self.until(self.slurm.is_idle)
        self.in_both_shells(test)

    def test_the_controller_is_away_while_a_job_ends(self) -> None:
        def test() -> None:
            jobid = self.put("#!/bin/sh\nsleep 2; exit 5")
            self.until(self.is_active(jobid))
            self.slurm.stop_controller()
            try:
                self.end(jobid, 5, "1 failed")
                ran = self.psik("run", "-", stdin='{"script": "true"}', status=4)
                self.assertTrue(ran.err, ran)
            finally:
                self.slurm.start_controller()
            self.until(self.slurm.is_idle)
        self.in_both_shells(test, submit_timeout_s=5)

    def test_ls_asks_once(self) -> None:
        self.ls_calls_once("squeue")

    def test_a_submission_that_hangs_is_not_made_twice(self) -> None:
        def test() -> None:
            for verb in ("poll", "start"):
                self.slurm.freeze_controller()
                try:
                    ran = self.psik("run", "-", stdin=json.dumps(dict(self.pending, script="true")),
                                    status=4, timeout=60)
                finally:
                    self.slurm.thaw_controller()
                jobid = ran.out.strip()
                self.assertIn("not known yet", ran.err)
                self.assertEqual(self.states(jobid), ["0 new"])
                self.until(lambda: jobid in self.slurm.run("squeue", "-h", "-o", "%k").stdout)
                self.psik(*([verb] + [jobid] * (verb == "start")))
                self.assertEqual(self.states(jobid), ["0 new", "1 queued"])
                self.assertEqual(self.slurm.run("squeue", "-h", "-o", "%k").stdout.count(jobid), 1)
                self.psik("cancel", jobid)
        self.in_both_shells(test, submit_timeout_s=3)

    def test_a_client_killed_while_it_submits(self) -> None:
        self.configure(backend=self.backend, poll_interval_s=0)
        self.env.update(self.environment)
        slow, calls = self.logged_calls("sbatch")
        text = psik.read_text(calls.replace("calls", "sbatch")).replace("exec ", "").rstrip()
        text += "; touch %s.taken; sleep 5\n" % calls
        self.write(os.path.relpath(calls.replace("calls", "sbatch"), self.folder), text, 0o755)
        child = subprocess.Popen([sys.executable, psik.__file__, "run", "-"], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, env=dict(self.env, **slow))
        assert child.stdin and child.stdout
        child.stdin.write(json.dumps(dict(self.pending, script="true")).encode())
        child.stdin.close()
        jobid = child.stdout.readline().decode().strip()
        self.until(lambda: os.path.exists(calls + ".taken"))
        child.kill()
        child.wait()
        child.stdout.close()
        self.psik("start", jobid)
        self.assertEqual(self.states(jobid), ["0 new", "1 queued"])
        self.assertEqual(self.slurm.run("squeue", "-h", "-o", "%k").stdout.count(jobid), 1)
        self.psik("cancel", jobid)


@needs("Slurm, and cgroups that slurmd may use",
       SLURM and os.path.isdir("/sys/fs/cgroup/freezer") and os.geteuid() == 0)
class SlurmCgroup(Case):
    """Real sites track processes by cgroup: a signal then reaches the batch shell alone."""

    def test_the_payload_is_told(self) -> None:
        slurm, place = services.Slurm(nodes=1), tempfile.mkdtemp(prefix="psc")
        self.addCleanup(shutil.rmtree, place, True)
        slurm.start(place, ProctrackType="proctrack/cgroup")
        self.addCleanup(slurm.stop)
        self.env.update(slurm.env)
        for shell in (rc_path(), "/bin/sh"):
            self.configure(rc_path=shell, backend={"type": "slurm"}, poll_interval_s=0)
            jobid = self.run_spec(script=TRAP)
            self.until(lambda: self.psik("logs", jobid, status=None).out == "ready\n", seconds=120)
            self.psik("cancel", jobid)
            self.until(lambda: self.states(jobid)[-2:] == ["0 canceled", "1 canceled"])
            self.assertEqual(self.psik("logs", jobid).out, "ready\nsaved\n")


@needs("Slurm", SLURM)
class SlurmForgets(OnSlurm, Case):
    """A cluster that forgets an ended job at once."""
    slurm_nodes = 1
    slurm_settings = {"MinJobAge": 2}

    def test_purged_before_anyone_asked(self) -> None:
        self.configure(backend={"type": "slurm"}, poll_interval_s=0, poll_grace_s=2)
        jobid = self.run_spec(script=NAP)
        self.until(lambda: "1 active" in self.states(jobid))
        native = str(self.job(jobid).rows()[1].info)
        kill(processes_with("%s/scripts/job 1" % self.job(jobid).path))
        queue = ("squeue", "-h", "-t", "all", "-o", "%i")
        self.until(lambda: native not in self.slurm.run(*queue).stdout, seconds=120)
        self.assertEqual(self.states(jobid)[-1], "1 active")
        ran = self.psik("wait", "--timeout", "90", jobid, status=1)
        self.assertIn("no longer knows it", ran.err)
        self.assertEqual(self.states(jobid)[-1], "1 failed")

    def test_the_time_limit(self) -> None:
        self.configure(backend={"type": "slurm"}, poll_interval_s=1)
        jobid = self.run_spec(script=TRAP, resources={"duration": 1})
        ran = self.psik("wait", "--timeout", "240", jobid, status=143, timeout=260)
        self.assertEqual(self.states(jobid)[-1], "1 failed", ran)
        self.assertTrue(self.psik("logs", jobid).out.startswith("ready\nsaved\n"))
        self.assertIn("its walltime was over", self.psik("why", jobid).out)


@needs("at, and root to start atd", shutil.which("at") and os.geteuid() == 0)
class At(OnAt, Queues, Tags, Case):
    backend = {"type": "at", "queue_name": "a"}  # which does not wait for a low load

    def known(self, native: str) -> bool:
        said = subprocess.run(["atq"], stdout=subprocess.PIPE).stdout.decode()
        return native in [line.split()[0] for line in said.splitlines()]

    def held(self) -> Any:
        @contextlib.contextmanager
        def stopped() -> Any:
            self.atd.stop()
            try:
                yield
            finally:
                self.atd.start()
        return stopped()

    def test_queue_and_options(self) -> None:
        def test() -> None:
            with self.held():
                jobid = self.put("true", backend={"queue_name": "k", "attributes": {"-m": ""}})
                said = subprocess.run(["atq"], stdout=subprocess.PIPE).stdout.decode()
                self.assertRegex(said, r"(?m)^%s\t.* k " % self.native(jobid))
                self.psik("cancel", jobid)
        self.in_both_shells(test)

    def test_no_atd(self) -> None:
        self.configure(backend=self.backend, poll_interval_s=0)
        self.assertEqual(self.psik("backends", "--check").err, "")
        with self.held():
            self.assertIn("no atd is running", self.psik("backends", "--check", status=4).out)
            ran = self.psik("run", "-", stdin='{"script": "true"}')
            self.assertIn("No atd running?", ran.err)
            jobid = ran.out.strip()
            self.assertIn("no atd is running", self.psik("ls").out)
            self.psik("cancel", jobid)

    def test_batch_is_the_default(self) -> None:
        self.configure(backend={"type": "at"})
        with self.held():
            jobid = self.put("exit 3")
            said = subprocess.run(["atq"], stdout=subprocess.PIPE).stdout.decode()
            self.assertRegex(said, r"(?m)^%s\t.* b " % self.native(jobid))
            self.psik("cancel", jobid)
        self.end(self.put("exit 3"), 3, "1 failed")

    def test_walltime(self) -> None:
        jobs = []
        self.in_both_shells(lambda: jobs.append(self.put(TRAP, resources={"duration": 1})))
        for jobid in jobs:
            self.psik("wait", "--timeout", "180", jobid, status=143, timeout=200)
            self.assertIn("its walltime of 1 min was over", self.psik("status", jobid).out)

    def test_refused(self) -> None:
        def test() -> None:
            spec = '{"script": "true", "backend": {"attributes": {"-y": ""}}}'
            ran = self.psik("run", "-", stdin=spec, status=4)
            self.assertIn("invalid option",
                          psik.read_or_empty(self.job(ran.out.strip()).log("submit", 1)))
        self.in_both_shells(test)

    def test_ls_asks_once(self) -> None:
        self.ls_calls_once("atq")


@needs("at, and root, who makes users", CAN_MAKE_USERS and shutil.which("atd", path="/usr/sbin"))
class AtDenied(TwoUsers):
    def test_a_user_who_may_not(self) -> None:
        atd, before = services.Atd(), psik.read_or_empty("/etc/at.deny")
        atd.hold()
        self.addCleanup(atd.release)
        self.addCleanup(psik.write_file, "/etc/at.deny", before, 0o640)
        psik.write_file("/etc/at.deny", before + self.ada + "\n", 0o644)
        os.makedirs(self.home(self.ada, ".config"))
        psik.write_file(self.home(self.ada, ".config", "psik.json"),
                        '{"backend": {"type": "at"}}', 0o644)
        self.assertIn("permission", self.of(self.ada, "backends", "--check", status=4).out)


class Lsf(Queues, Tags, Case):
    """Against the emulator."""
    backend: Dict[str, Any] = {"type": "lsf"}
    pending = {"backend": {"queue_name": "held"}}

    def setUp(self) -> None:
        super().setUp()
        place = os.path.join(self.folder, "lsf")
        self.environment = dict(lsf_emulator.install(place), LSF_EMULATOR_KILL_S="3",
                                LSF_EMULATOR_JSRUN="Y", LSF_EMULATOR_RESERVATIONS="res1",
                                LSF_EMULATOR_BANNER="filtered by the site")
        self.addCleanup(lsf_emulator.clean, place)
        self.take_over()

    def kept(self, native: str, name: str) -> Dict[str, Any]:
        """What the emulator keeps of a job in a file of this name."""
        path = os.path.join(self.environment["LSF_EMULATOR_DIR"], native, name + ".json")
        return dict(json.loads(psik.read_or_empty(path)))

    def known(self, native: str) -> bool:
        return self.kept(native, "state")["stat"] not in ("DONE", "EXIT")

    def test_refused(self) -> None:
        def test() -> None:
            ran = self.psik("run", "-",
                            stdin='{"script": "true", "backend": {"queue_name": "nope"}}', status=4)
            self.assertIn("Job not submitted", ran.err)
            self.assertEqual(self.states(ran.out.strip()), ["0 new", "1 failed"])
        self.in_both_shells(test)

    def test_hold_and_release(self) -> None:
        self.holds(self.pending)

    def test_queues(self) -> None:
        queues = self.queues()
        self.assertEqual([queue["name"] for queue in queues], list(lsf_emulator.QUEUES))
        self.assertEqual((queues[0]["state"], queues[0]["cores"]), ("Open:Active", 64))

    def test_where_a_job_runs(self) -> None:
        self.env.update(self.environment)
        self.configure(backend=self.backend, poll_interval_s=0)
        jobid = self.put(NAP)
        self.until(lambda: re.search("reason +on %s" % os.uname().nodename,
                                     self.psik("status", jobid).out))
        self.psik("cancel", jobid)

    def test_a_description_with_the_marks_of_a_listing(self) -> None:
        def test() -> None:
            jobid = self.put(NAP, backend={"queue_name": "held",
                                           "attributes": {"-Jd": "a^b psik-1.2.3 ^ c"}})
            for _ in range(2):
                self.psik("poll")
            self.assertEqual(self.states(jobid)[-1], "1 queued")
            self.psik("cancel", jobid)
            self.until(lambda: not self.known(self.native(jobid)))
        self.in_both_shells(test, poll_grace_s=0)

    def test_text_of_the_user_is_no_directive(self) -> None:
        def test() -> None:
            text = "a\n#BSUB -q held\nb"
            jobid = self.put("#!/bin/sh\n#BSUB -q held\necho \"$X\"", environment={"X": text},
                             name="#BSUB -q held")
            self.end(jobid, 0, "1 completed")
            self.assertEqual(self.psik("logs", jobid).out, text + "\n")
            self.assertEqual(self.kept(self.native(jobid), "record")["queue"], "normal")
        for kind in ("lsf", "lsf-file"):
            self.backend = {"type": kind}
            self.in_both_shells(test)

    def test_a_queue_without_exclusive_use(self) -> None:
        self.env.update(self.environment)
        self.configure(backend={"type": "lsf-mpi"})
        err = self.psik("run", "-", stdin='{"script": "true"}', status=4).err
        self.assertIn("set resources.exclusive_node_use to false", err)

    def test_a_reason_that_is_none(self) -> None:
        self.env.update(self.environment)
        self.configure(backend=self.backend, poll_interval_s=0)
        jobid = self.put(NAP, backend={"attributes": {"-Jd": "mine, too"}})
        self.until(self.is_active(jobid))
        self.assertEqual(json.loads(self.psik("ls", "--json").out)[0]["reason"],
                         "on " + os.uname().nodename)
        self.assertEqual(self.kept(self.native(jobid), "record")["description"],
                         "mine, too psik-%s.1" % jobid)
        self.psik("cancel", "--wait", jobid)

    def test_options_that_a_job_cannot_have(self) -> None:
        self.env.update(self.environment)
        self.configure(backend=self.backend)
        for option, value in (("-J", "x[1-3]"), ("-o", "out"), ("K", "")):
            spec = json.dumps({"script": "true", "attributes": {option: value}})
            self.assertIn("attributes.%s: " % option,
                          self.psik("run", "-", stdin=spec, status=2).err)

    def test_ls_asks_once(self) -> None:
        self.ls_calls_once("bjobs")

    def test_the_run_limit(self) -> None:
        self.environment.update(LSF_EMULATOR_MINUTE_S="2", LSF_EMULATOR_GRACE_S="1",
                                LSF_EMULATOR_KILL_S="4")

        def test() -> None:
            jobid = self.put(
                "#!/bin/bash\ntrap 'echo warned' USR2\ntrap 'echo saved; exit 0' TERM\n"
                "for i in $(seq 200); do sleep 0.2; done\n",
                resources={"duration": 1, "exclusive_node_use": False})
            ran = self.psik("wait", "--timeout", "120", jobid, status=None, timeout=150)
            self.assertIn(ran.status, (130, 143), self.diagnose(jobid))
            self.assertEqual(self.psik("logs", jobid).out.split()[:2], ["warned", "saved"])
            self.until(lambda: "TERM_RUNLIMIT" in self.psik("status", jobid).out)
        self.in_both_shells(test)

    def options(self, **spec: Any) -> Dict[str, Any]:
        """What the emulator parsed of a job."""
        jobid = self.put("true", **spec)
        record = self.kept(self.native(jobid), "record")
        self.psik("rm", "--force", jobid)
        return record


class LsfDirectives(Lsf):
    """What bsub was told, by the ways that sites have."""

    def test_directives(self) -> None:
        needs = {"duration": 61, "node_count": 2, "gpu_cores_per_process": 3,
                 "exclusive_node_use": False, "memory_per_process": "1.5G"}

        def test() -> None:
            record = self.options(name=PRINTABLE, resources=needs, backend={
                "queue_name": "held", "project_name": "a project", "reservation_id": "res1",
                "attributes": {"-alloc_flags": "gpumps smt4", "-sp": "50"}})
            self.assertEqual(record["queue"], "held")
            self.assertEqual(record["project"], "a project")
            flat = json.dumps(record)
            for word in ("61", "num=3/task", "res1", "gpumps smt4", "psik-", "1536MB",
                         "rusage[mem=1536MB]"):
                self.assertIn(word, flat)
            self.assertNotIn("[", record["name"])
        for kind in ("lsf", "lsf-file"):
            self.backend = {"type": kind}
            self.in_both_shells(test)

    def test_mpi_sites(self) -> None:
        self.backend = {"type": "lsf-mpi"}
        self.environment["LSF_EMULATOR_JSRUN"] = "N"

        def test() -> None:
            flat = json.dumps(self.options(backend={"queue_name": "exclusive"}, resources={
                "process_count": 8, "node_count": 3, "cpu_cores_per_process": 2}))
            for word in ("span[ptile=3]", "affinity[core(2)]", "-x"):
                self.assertIn(word, flat)
        self.in_both_shells(test)

    for _name in [name for name in dir(Lsf) if name.startswith("test_")]:
        locals()[_name] = None  # those of the table ran with Lsf


@needs("Grid Engine, and root", SGE)
class Sge(OnSge, Queues, Tags, Case):
    """Grid Engine; test_sge.py has more."""
    backend = {"type": "sge"}
    pending = {"attributes": {"-h": ""}}
    pending_or_running = pending

    def setUp(self) -> None:
        super().setUp()
        self.environment = self.sge.env
        self.take_over()

    def known(self, native: str) -> bool:
        return self.sge.run("qstat", "-j", native).returncode == 0

    def test_ls_asks_once(self) -> None:
        self.ls_calls_once("qstat")

    def test_hold_and_release(self) -> None:
        self.holds(self.pending)

    def test_queues(self) -> None:
        queues = self.queues()
        free = [queue.pop("free_cores") for queue in queues]
        self.assertTrue(0 <= free[0] <= 8 and 0 <= free[1] <= 2, free)
        self.assertEqual(queues, [
            {"name": "all.q", "state": "up", "nodes": None, "free_nodes": None, "cores": 8,
             "max_walltime_min": None},
            {"name": "short.q", "state": "up", "nodes": None, "free_nodes": None, "cores": 2,
             "max_walltime_min": 60}])


class Pbs(Queues, Tags, Case):
    """The backend that README.md shows, from a folder that the config names; its PBS is a fake."""
    backend = {"type": "pbs"}
    pending = {"attributes": {"-h": ""}}
    pending_or_running = pending

    def setUp(self) -> None:
        super().setUp()
        fake = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fake_pbs.py")
        for folder in ("jobs of pbs", "bin"):
            os.makedirs(os.path.join(self.folder, folder))
        for name in ("qsub", "qstat", "qdel", "qhold", "qrls", "qsig"):
            os.symlink(fake, os.path.join(self.folder, "bin", name))
        self.environment = {"PATH": os.path.join(self.folder, "bin") + ":" + self.env["PATH"]}
        self.take_over()
        self.env.update(self.environment)

    def configure(self, **settings: Any) -> str:
        if not os.path.exists(os.path.join(self.folder, "site")):
            os.makedirs(os.path.join(self.folder, "site", "pbs"))
            readme = os.path.join(os.path.dirname(psik.__file__), "README.md")
            with open(readme, encoding="utf-8") as file:
                blocks = file.read().split("```sh\n# site/pbs/")[1:]
            for block in blocks:
                name, text = block.split("```")[0].split("\n", 1)
                self.write("site/pbs/" + name, text)
        folder = os.path.join(self.folder, "jobs of pbs")
        return super().configure(templates="site", scheduler_environment={"FAKE_PBS": folder},
                                 **settings)

    def record_of(self, native: str) -> Dict[str, Any]:
        """What the fake keeps of a job."""
        path = os.path.join(self.folder, "jobs of pbs", native + ".json")
        record: Dict[str, Any] = json.loads(psik.read_text(path))
        return record

    def known(self, native: str) -> bool:
        return bool(self.record_of(native)["state"] != "F")

    def test_it_is_ready(self) -> None:
        self.configure(backend=self.backend)
        self.assertEqual(self.psik("backends", "--check").err, "")

    def test_what_it_asks_for(self) -> None:
        def test() -> None:
            for wanted, select, place in (
                    ({"process_count": 4, "exclusive_node_use": False}, "1:ncpus=4", "scatter"),
                    ({"node_count": 2, "processes_per_node": 3, "cpu_cores_per_process": 4,
                      "gpu_cores_per_process": 1, "memory_per_process": "2G"},
                     "2:ncpus=12:ngpus=3:mem=6144mb", "scatter:excl")):
                jobid = self.put("true", resources=dict(wanted, duration=3), attributes={
                    "-q": "a \"long\" name"}, backend={"project_name": "x"})
                asked = self.record_of(self.native(jobid))["options"]
                self.assertEqual({name: asked[name] for name in (
                    "-l select", "-l place", "-l walltime", "-q", "-A", "-r", "-N")}, {
                    "-l select": select, "-l place": place, "-l walltime": "180", "-A": "x",
                    "-q": "a \"long\" name", "-r": "n", "-N": "psik-%s.1" % jobid})
                self.end(jobid, 0, "1 completed")
        self.in_both_shells(test)

    def test_ls_asks_once(self) -> None:
        self.ls_calls_once("qstat")

    def test_hold_and_release(self) -> None:
        self.holds(self.pending)


if __name__ == "__main__":
    unittest.main()
