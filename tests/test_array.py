"""Arrays: on every kind of backend, rerun, canceled in part, throttled, in pieces, cut short."""
import collections
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import unittest
import unittest.mock
from typing import Any, Dict

import lsf_emulator
import psik
from clusters import SGE, SLURM, OnAt, OnSge, OnSlurm
from harness import Case, kill, needs, processes_with, rc_path
from serving import Server

NAP = "sleep 604.%07d" % os.getpid()
CELLS = {"exclusive_node_use": False}


class Arrays(Case):
    """What the tests share."""
    settings: Dict[str, Any] = {}

    def setUp(self) -> None:
        super().setUp()
        self.configure(**dict(dict(poll_interval_s=0, poll_grace_s=3), **self.settings))

    def put(self, script: str, array: Any, status: int = 0, **spec: Any) -> str:
        """Submit an array; its id."""
        return str(self.run_spec(script="#!/bin/sh\n" + script, array=array, resources=CELLS,
                                 status=status, **spec))

    def wait(self, jobid: str, status: int = 0) -> None:
        self.psik("wait", "--timeout", "120", jobid, status=status)

    def shown(self, jobid: str) -> Dict[str, Any]:
        """What `status` shows."""
        found: Dict[str, Any] = json.loads(self.psik("status", "--json", jobid).out)[0]
        return found

    def tasks(self, jobid: str) -> Dict[int, str]:
        """{number: state} of the tasks."""
        return {task["task"]: task["state"] for task in self.shown(jobid)["tasks"]}

    def count(self, jobid: str, state: str) -> int:
        return list(self.tasks(jobid).values()).count(state)

    def said(self, jobid: str, task: int) -> str:
        return str(self.psik("logs", "--task", str(task), jobid).out)

    def note(self) -> str:
        """Lines that note when a task begins and ends, into one file for all."""
        path = os.path.join(self.folder, "times")
        return ("echo $(date +%%s.%%N) 1 >>%s; sleep 1; echo $(date +%%s.%%N) -1 >>%s"
                % (path, path))

    def most_at_once(self) -> int:
        """How many tasks ran at once, by their notes."""
        notes = psik.read_text(os.path.join(self.folder, "times")).splitlines()
        pairs = sorted((float(line.split()[0]), int(line.split()[1])) for line in notes)
        return max(sum(step for _, step in pairs[:end + 1]) for end in range(len(pairs)))


class Everywhere(Arrays):
    """The same on every backend."""
    size = 5

    def test_two_of_five_fail_and_run_again(self) -> None:
        jobid = self.put('echo "task $task of $tasks, step $jobndx"\n'
                         "case $task in 2|5) test -e %s/mended || exit $task; esac\n" % self.folder,
                         5)
        self.wait(jobid, status=5)
        self.assertEqual(self.tasks(jobid), {2: "failed", 5: "failed", 1: "completed",
                                             3: "completed", 4: "completed"})
        self.assertEqual(list(self.tasks(jobid))[:2], [2, 5])      # those that failed come first
        self.assertIn("3/5 done, 2 failed", self.psik("ls").out)
        self.assertEqual(len(self.psik("ls").out.splitlines()), 2)
        self.assertEqual(self.said(jobid, 2), "task 2 of 5, step 2\n")
        self.write("mended", "")
        self.psik("start", "--failed", jobid)
        self.wait(jobid)
        self.assertEqual(set(self.tasks(jobid).values()), {"completed"})
        self.assertEqual(self.said(jobid, 5), "task 5 of 5, step 10\n")
        self.assertEqual(self.said(jobid, 1), "task 1 of 5, step 1\n")
        self.assertEqual(sorted({row.jobndx for row in self.job(jobid).rows()}),
                         [0, 1, 2, 3, 4, 5, 7, 10])
        self.assertIn("has nothing to start again", self.psik("start", "--failed", jobid,
                                                            status=5).err)

    def test_a_task_alone_is_canceled_and_then_all(self) -> None:
        jobid = self.put(NAP, "10-14")
        self.until(lambda: self.count(jobid, "active") > 1)
        running = [task for task, state in self.tasks(jobid).items() if state == "active"]
        self.psik("cancel", "--task", str(running[0]), jobid)
        self.until(lambda: self.tasks(jobid)[running[0]] == "canceled")
        self.assertEqual(self.tasks(jobid)[running[1]], "active")
        self.assertEqual(self.shown(jobid)["state"], "active")
        self.psik("cancel", "--wait", jobid)
        self.gone(NAP)
        self.until(lambda: set(self.tasks(jobid).values()) == {"canceled"})
        self.wait(jobid, status=143)
        self.assertIn("0/5 done, 5 canceled", self.psik("ls").out)
        self.psik("rm", jobid)

    def test_a_signal_for_one_task_and_for_all(self) -> None:
        jobid = self.put("trap 'echo seen; exit 0' USR1; echo ready; %s & wait" % NAP, "10-11")
        for task in (10, 11):
            self.until(lambda: self.psik("logs", "--task", str(task), jobid,
                                         status=None).out == "ready\n")
        self.psik("kill", "-s", "USR1", "--task", "11", jobid)
        self.until(lambda: self.tasks(jobid)[11] == "completed")
        self.assertEqual((self.tasks(jobid)[10], self.said(jobid, 11)), ("active", "ready\nseen\n"))
        self.psik("kill", "-s", "USR1", jobid)
        self.wait(jobid)
        self.assertEqual(self.tasks(jobid), {10: "completed", 11: "completed"})

    def test_a_signal_reaches_no_task_that_waits(self) -> None:
        script = "trap 'echo seen' USR1; echo ready; until test -e %s/go; do sleep 0.1; done"
        jobid = self.put(script % self.folder, "1-3%1")
        self.until(lambda: self.psik("logs", "--task", "1", jobid, status=None).out == "ready\n")
        begun = time.time()
        for argv in ((), ("--task", "1")):
            self.psik("kill", "-s", "USR1", *argv, jobid)
        self.assertLess(time.time() - begun, 20)    # scancel would try for 45 s
        self.assertIn("runs none of these tasks", self.psik(
            "kill", "-s", "USR1", "--task", "3", jobid, status=5).err)
        self.write("go", "")
        self.wait(jobid)
        self.assertEqual([self.said(jobid, task).count("seen") > 0 for task in (1, 2, 3)],
                         [True, False, False])

    def test_a_task_that_waits_is_canceled(self) -> None:
        jobid = self.put("until test -e %s/go; do sleep 0.1; done" % self.folder, "1-3%1")
        self.until(lambda: self.count(jobid, "active"))
        self.psik("cancel", "--task", "2", jobid)
        self.assertEqual(self.tasks(jobid)[2], "canceled")
        self.write("go", "")
        self.wait(jobid, status=143)
        self.assertEqual(self.tasks(jobid), {2: "canceled", 1: "completed", 3: "completed"})
        self.assertNotIn("2 active", self.states(jobid))

    def test_no_more_at_once(self) -> None:
        jobid = self.put(self.note(), "1-%d%%2" % self.size)
        self.wait(jobid)
        self.assertEqual(self.most_at_once(), 2)

    def test_variables_of_a_table(self) -> None:
        table = [{"rate": "0.1", "name": "it's"}, {"rate": "2", "name": 'a "b" $c'}]
        jobid = self.put('printf "%s|%s" "$rate" "$name"', table)
        self.wait(jobid)
        self.assertEqual([self.said(jobid, task) for task in (1, 2)], ["0.1|it's", '2|a "b" $c'])

    def test_a_job_after_an_array(self) -> None:
        jobid = self.put("test $task = 2 && until test -e %s/go; do sleep 0.1; done; true"
                         % self.folder, 2)
        second = self.run_spec(script="#!/bin/sh\necho ran", after=[jobid], resources=CELLS)
        self.until(lambda: self.tasks(jobid)[1] == "completed")
        self.assertEqual(self.states(second), ["0 new"])
        self.write("go", "")
        self.until(lambda: self.psik("ls") and "1 completed" in self.states(second))


class Pieces(Arrays, unittest.TestCase):
    """What the pieces of an array wait for."""

    def test_a_piece_waits_for_the_last_that_still_runs(self) -> None:
        job = self.job(self.run_spec("--no-submit", script="true", array="1-6%2"))
        queued = psik.JobState.queued
        pieces = psik.Piece.cut(range(1, 7), 0, 2, "list", 2)
        psik.Piece.plan(job, 0, pieces)
        history = [(1, queued, 70), (2, queued, 70), (3, queued, 71), (4, queued, 71)]
        for ended, before in (((), "71"), ((3,), "71"), ((3, 4), "70"), ((1, 2, 3, 4), "")):
            done = [(step, psik.JobState.completed, 0) for step in ended]
            rows = list(job.rows()) + [psik.Row(9.0, *each) for each in history + done]
            following = psik.NextRound(job, psik.Steps(rows), False)
            self.assertEqual(following.before(pieces[2]), before, ended)


    def alone(self, array: str) -> str:
        """An array, not yet submitted, whose scheduler takes one task at a time; its id."""
        os.makedirs(os.path.join(self.folder, "site", "single"), exist_ok=True)
        for name, text in (("submit", "echo 7"), ("cancel", ""), ("job", "@job_body@"),
                           ("poll", "echo 7 completed 0")):
            self.write("site/single/" + name, "#!/bin/sh\n%s\n" % text)
        self.configure(templates="site", backend={"type": "single"})
        return str(self.run_spec("--no-submit", script="true", array=array))

    def test_twice_the_pieces_are_twice_the_work(self) -> None:
        def work(tasks: int) -> int:
            """How many functions are called while so many pieces are submitted."""
            job, calls = self.job(self.alone("1-%d" % tasks)), collections.Counter()
            sys.setprofile(lambda frame, event, value: calls.update([event]))
            try:
                psik.submit(job)
            finally:
                sys.setprofile(None)
            return calls["call"] + calls["c_call"]

        self.assertLess(work(160), 2.2 * work(80))

    def test_too_many_pieces(self) -> None:
        jobid = self.alone("1-1001")
        said = self.psik("start", jobid, status=5).err
        self.assertIn("would be 1001 submissions", said)
        self.assertEqual(self.states(jobid), ["0 new"])

    def test_too_many_pieces_of_those_that_failed(self) -> None:
        job = self.job(self.alone("1-5"))
        for step in range(1, 6):
            psik.reached(job, step, psik.JobState.failed, 1)
        with unittest.mock.patch.object(psik, "MAX_PIECES", 3):
            psik.submit(job, failed_only=True)
            psik.reconcile(self.config(), [(job, job.rows())], force=True)
            self.assertEqual(self.tasks(job.jobid), {1: "completed", 2: "completed", 3: "completed",
                                                     4: "failed", 5: "failed"})
            psik.submit(job, failed_only=True)
        self.assertEqual(self.states(job.jobid)[-2:], ["14 queued", "15 queued"])


class Lost(Arrays, unittest.TestCase):
    """An array whose submission nobody answered."""
    settings: Dict[str, Any] = {}

    def test_none_of_its_tasks_runs_once_it_is_canceled(self) -> None:
        os.makedirs(os.path.join(self.folder, "site", "lost"))
        for name, text in (("submit", "exit 75"), ("array", "echo 10 list"), ("cancel", ""),
                           ("job", "jobid=$NATIVE\npsik_task=$TASK\npsik_walltime_s=0\n@job_body@"),
                           ("poll", "")):
            self.write("site/lost/" + name, "#!/bin/sh\n%s\n" % text)
        self.configure(templates="site", backend={"type": "lost"})
        jobid = self.run_spec(script="#!/bin/sh\ntouch ran.$task\n", array="3", status=4)
        job = self.job(jobid)
        self.psik("cancel", jobid)
        for task in ("1", "2", "3"):
            subprocess.run([job.script("job"), "0+"], timeout=30, stdin=subprocess.DEVNULL,
                           env=dict(self.env, TASK=task, NATIVE="7" + task))
        self.assertEqual(os.listdir(job.at("work")), [])
        self.assertEqual(self.states(jobid)[1:], ["0 canceled"] + ["%d canceled" % task
                                                                  for task in (1, 2, 3)])


class Local(Everywhere, unittest.TestCase):
    settings = {"backend": {"type": "local"}, "rc_path": "/bin/sh"}

    def test_a_thousand_have_one_supervisor(self) -> None:
        jobid = self.put("sleep 0.02", "1000%4")
        most = 0
        while self.psik("wait", "--timeout", "0", jobid, status=None).status not in (0, 1):
            lines = processes_with(self.job(jobid).script("supervise"))
            most = max(most, len(lines))
        self.assertLessEqual(most, 4 + 1 + 2)   # two may be about to end
        self.assertEqual(self.count(jobid, "completed"), 1000)
        self.assertIn("1000/1000 done", self.psik("ls").out)

    def test_its_supervisor_is_killed(self) -> None:
        jobid = self.put("until test -e %s/go; do sleep 0.1; done" % self.folder, "1-6%2")
        self.until(lambda: self.count(jobid, "active") == 2)
        row = next(row for row in self.job(jobid).rows() if row.state == "queued")
        os.kill(int(row.info), signal.SIGKILL)
        self.write("go", "")
        self.wait(jobid, status=1)      # those that ran have ended well, the others are lost
        self.assertEqual((self.count(jobid, "completed"), self.count(jobid, "failed")), (2, 4))
        self.psik("start", "--failed", jobid)
        self.wait(jobid)
        self.assertEqual(self.count(jobid, "completed"), 6)

    def test_a_task_and_its_supervisor_are_killed(self) -> None:
        jobid = self.put(NAP, "1-3%2")
        self.until(lambda: self.count(jobid, "active") == 2)
        claim = psik.read_text(self.job(jobid).log("claim", 1))
        os.kill(int(claim.split("\npid ")[1].split()[0]), signal.SIGKILL)
        kill(processes_with(NAP)[:1])
        self.until(lambda: self.count(jobid, "failed") == 1)
        self.assertEqual(self.shown(jobid)["state"], "active")
        self.psik("cancel", jobid)

    def test_files_of_tasks(self) -> None:
        rows = [("lr,name\n0.1,a\n\n\"0,2\",b c\n", ["0.1 a", "0,2 b c"]),
                ("\ufefflr\tname\r\n1\tx\r\n", ["1 x"]),
                ("lr, name\n1,\n", ["1 "]), ("lr,name\n\u00fc,\u96ea\n", ["\u00fc \u96ea"])]
        self.write("job.sh", "#!/bin/sh\necho \"$lr $name\"\n")
        for text, said in rows:
            with self.subTest(text=text):
                self.write("params.csv", text)
                jobid = self.psik("run", "--array", "params.csv%2", "job.sh").out.strip()
                self.wait(jobid)
                self.assertEqual([self.said(jobid, task).rstrip("\n") for task in range(
                    1, len(said) + 1)], said)
        self.write("params.json", json.dumps([{"lr": 3, "name": "n"}]))
        jobid = self.psik("run", "--array", "params.json", "job.sh").out.strip()
        self.wait(jobid)
        self.assertEqual(self.said(jobid, 1), "3 n\n")

    def test_odd_values_of_variables(self) -> None:
        rows = [{"a": "x\u20287", "b": "1"}, {"b": "2", "a": "y\x85"}, {"a": "\u2029", "b": ""}]
        with self.assertRaises(psik.InvalidError):      # a control character
            psik.JobSpec(script="x", array=rows)
        rows[1]["a"] = "y"
        jobid = self.put('echo "$task $a $b"', rows)
        self.wait(jobid)
        self.assertEqual([self.said(jobid, task) for task in (1, 2, 3)],
                         ["1 x\u20287 1\n", "2 y 2\n", "3 \u2029 \n"])

    def test_set_up_lines_leave_the_variables(self) -> None:
        self.write(".bash_profile", "export a=login task=login\n")
        jobid = self.put('echo "$task $a"', [{"a": "1"}], setup=["true"])
        self.wait(jobid)
        self.assertEqual(self.said(jobid, 1), "1 1\n")

    def test_large_ones_take_no_quadratic_time(self) -> None:
        jobid = self.put(NAP, "10000%1")
        self.until(lambda: self.count(jobid, "active"))
        for argv in (("ls",), ("cancel", jobid), ("status", jobid)):
            self.psik(*argv, timeout=30)
        self.assertEqual(self.count(jobid, "canceled"), 10000)

    def test_bad_files_and_numbers(self) -> None:
        self.write("job.sh", "#!/bin/sh\n")
        for text, said in (("a,b\n1\n", "'1' has 1 values, and the first line names 2"),
                           ("a\n", "its first line has to name the variables"), ("", "its first"),
                           ("a,a\n1,2\n", "each once"), ("jobid\n1\n", "'jobid' cannot be a var"),
                           ("a b\n1\n", "'a b' cannot be a variable"),
                           ('a\n"x\ny"\n', "control character")):
            with self.subTest(text=text):
                self.write("params.csv", text)
                ran = self.psik("run", "--array", "params.csv", "job.sh", status=2)
                self.assertIn(said, ran.err)
                self.assertEqual(len(ran.err.splitlines()), 1)
        for text, said in (("nope.csv", "nope.csv: cannot be read: No such file"),
                           ("5-1", "'5-1' has no task"), ("1,1", "has a task twice"),
                           ("0", "'0' is too small; the least is 1"),
                           ("1-3%0", "must follow the %"),
                           ("999999999", "has more than 100000 tasks"),
                           ("1--2", "neither a count of tasks nor numbers")):
            with self.subTest(text=text):
                self.assertIn(said, self.psik("run", "--array", text, "job.sh", status=2).err)
        jobid = self.run_spec(script="true")
        self.assertIn("is no array", self.psik("cancel", "--task", "1", jobid, status=3).err)

    def test_all_tasks_of_a_large_array_by_their_numbers(self) -> None:
        job = self.job(self.run_spec("--no-submit", script="true", array="1-100000"))
        self.assertEqual(job.places("1-100000"), list(range(1, 100001)))
        with self.assertRaisesRegex(psik.InvalidError, "names more than 100000 tasks"):
            job.places("1-100000,7")

    def test_over_rest(self) -> None:
        server = Server(self)
        spec = {"script": "#!/bin/sh\necho $x; test $task != 2\n", "array": [{"x": 1}, {"x": 2}]}
        jobid = server.ask("POST", "/v1/jobs?wait=60", spec).json["jobid"]
        row, = server.ask("GET", "/v1/jobs").json
        self.assertEqual((row["state"], row["jobndx"], row["info"]), ("failed", 2, 1))
        self.assertEqual({name: number for name, number in row["tasks"].items() if number},
                         {"completed": 1, "failed": 1})
        url = "/v1/jobs/" + jobid
        tasks = server.ask("GET", url + "/tasks").json
        self.assertEqual([(task["task"], task["state"]) for task in tasks],
                         [(2, "failed"), (1, "completed")])
        self.assertEqual({row["jobndx"] for row in server.ask("GET", url + "?task=2").json}, {2})
        self.assertEqual(server.ask("GET", url + "/logs?task=2").json,
                         {"stdout.2": "2\n", "stderr.2": ""})
        self.assertEqual(server.ask("GET", url + "?task=9").status, 404)
        self.assertEqual(server.ask("GET", url + "?task=x").status, 422)
        self.assertEqual(server.ask("POST", url + "/start?failed=true").status, 200)
        self.wait(jobid, status=1)
        self.assertEqual(self.states(jobid)[-1], "4 failed")
        for array in ("params.csv", 0, [], {}, [{"task": 1}], "1-200000"):
            self.assertEqual(server.ask("POST", "/v1/jobs", dict(spec, array=array)).status, 422)


@needs("rc", rc_path())
class InRc(Everywhere, unittest.TestCase):
    settings = {"backend": {"type": "local"}, "rc_path": rc_path()}


@needs("at, and root to start atd", shutil.which("at") and os.geteuid() == 0)
class At(OnAt, Everywhere, unittest.TestCase):
    settings = {"backend": {"type": "at", "queue_name": "a"}}


@needs("Slurm", SLURM)
class Slurm(OnSlurm, Everywhere, unittest.TestCase):
    settings = {"backend": {"type": "slurm"}}
    slurm_settings = {"MinJobAge": 60, "KillWait": 5, "MaxArraySize": 4}
    size = 8    # in three pieces

    def test_the_pieces(self) -> None:
        jobid = self.put("echo $task $SLURM_ARRAY_TASK_ID of $SLURM_ARRAY_TASK_COUNT", 8)
        self.wait(jobid)
        self.assertEqual(psik.read_text(self.job(jobid).log("round", 0)), "0 1-3\n3 1-3\n6 1-2\n")
        natives = [str(row.info) for row in self.job(jobid).rows() if row.state == "queued"]
        self.assertEqual(len(set(natives)), 3)
        self.assertEqual([self.said(jobid, task) for task in (3, 4, 8)],
                         ["3 3 of 8\n", "4 4 of 8\n", "8 8 of 8\n"])

    def cut(self, script: str, array: Any = 8, after: str = "exit 1") -> str:
        """Submit an array of three pieces of which the second is not; its id.

        after: what sbatch does in place of the second submission.
        """
        real = shutil.which("sbatch", path=self.env["PATH"])
        calls = os.path.join(self.folder, "calls")
        os.mkdir(os.path.join(self.folder, "bin"))
        self.write("bin/sbatch", "#!/bin/sh\necho x >>%s\ntest $(wc -l <%s) = 2 && { %s; }\n"
                   'exec %s "$@"\n' % (calls, calls, after, real), 0o755)
        path = os.path.join(self.folder, "bin") + ":" + self.env["PATH"]
        spec = json.dumps({"script": "#!/bin/sh\n" + script, "array": array, "resources": CELLS})
        self.psik("run", "-", stdin=spec, status=None, env={"PATH": path})
        return str(self.job("last").jobid)

    # What kills the client, two processes above sbatch's shell, before it goes on.
    KILL = "kill -9 $(ps -o ppid= -p $(ps -o ppid= -p $PPID)); exit 1"

    def test_a_piece_that_is_refused(self) -> None:
        jobid = self.cut("true")
        self.wait(jobid, status=1)
        self.assertEqual((self.count(jobid, "completed"), self.count(jobid, "failed")), (3, 5))
        self.psik("start", "--failed", jobid)
        self.wait(jobid)
        self.assertEqual(self.count(jobid, "completed"), 8)

    def cut_off(self, script: str, array: Any = 8) -> str:
        """The same, by a client that is killed before sbatch is called for the second piece."""
        jobid = self.cut(script, array, self.KILL)
        self.assertEqual(self.shown(jobid)["counts"]["new"], 5)
        os.unlink(self.job(jobid).log("submit", 4))
        return jobid

    def test_the_rest_of_a_round_that_was_cut_off(self) -> None:
        jobid = self.cut_off("test $task != 1 || test -e %s/mended" % self.folder)
        self.assertIn("5 not submitted yet", self.psik("ls").out)
        self.until(lambda: self.count(jobid, "completed") == 2)
        self.assertIn("not all of these tasks are submitted",
                      self.psik("cancel", "--task", "5", jobid, status=5).err)
        ran = self.psik("wait", jobid, status=5)
        self.assertIn("5 not submitted yet", ran.err)
        self.assertIn("submitting the remaining 5 of its 8 tasks", self.psik("start", jobid).err)
        self.wait(jobid, status=1)
        self.assertEqual(self.count(jobid, "completed"), 7)

    def test_what_failed_and_what_was_cut_off_run_again(self) -> None:
        jobid = self.cut_off("test $task != 1 || test -e %s/mended" % self.folder)
        self.until(lambda: self.count(jobid, "completed") == 2)
        self.write("mended", "")
        self.psik("start", "--failed", jobid)
        self.wait(jobid)
        self.assertEqual(self.count(jobid, "completed"), 8)

    def test_one_that_was_cut_off_is_canceled(self) -> None:
        jobid = self.cut_off("true")
        self.until(lambda: self.count(jobid, "completed") == 3)
        self.psik("cancel", jobid)
        self.assertEqual(self.count(jobid, "canceled"), 5)
        self.psik("start", "--failed", jobid)
        self.wait(jobid)
        self.assertEqual(self.count(jobid, "completed"), 8)
        self.psik("rm", jobid)


@needs("Grid Engine, and root", SGE)
class Sge(OnSge, Everywhere, unittest.TestCase):
    settings = {"backend": {"type": "sge"}, "kill_grace_s": 3}


class Lsf(Everywhere, unittest.TestCase):
    """Against the emulator."""
    settings = {"backend": {"type": "lsf"}}
    size = 8    # in two pieces

    def setUp(self) -> None:
        super().setUp()
        place = os.path.join(self.folder, "lsf")
        self.env.update(lsf_emulator.install(place), LSF_EMULATOR_KILL_S="3",
                        LSF_EMULATOR_ARRAY_SIZE="5", LSF_EMULATOR_JSRUN="Y")
        self.addCleanup(lsf_emulator.clean, place)

    def test_hold_and_release(self) -> None:
        jobid = self.put("true", 3, backend={"queue_name": "held"})
        self.psik("hold", jobid)
        self.psik("release", jobid)
        self.psik("cancel", jobid)


class LsfFile(Lsf):
    """Where bsub takes a file."""
    settings = {"backend": {"type": "lsf-file"}}


del Everywhere
