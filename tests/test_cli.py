"""The command line: what it prints, where, with which exit status."""
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
import unittest
from typing import List, Tuple
from unittest import mock

import psik
from harness import DEPS, PSIK, Case, captured, needs

OPENAPI = os.path.join(DEPS, "openapi", "bin", "python")
BROKEN: List[Tuple[str, str]] = [  # what is given as a spec, what is said
    ("{", "stdin:1:2: not JSON: expecting property name"),
    ("", "stdin:1:1: it is empty"),
    ("[1]", "stdin: [1] is not an object {...}"),
    ('"x"', "stdin: 'x' is not an object {...}"),
    ('{"name": "x"}', "stdin: script: is missing"),
    ('{"script": "x",\n "name": }', "stdin:2:10: not JSON"),
    ('{"script": "x", "script": "y"}', "stdin: 'script' is given twice"),
    ('{"script": "x", "resources": {"duration": Infinity}}', "stdin: Infinity is not JSON"),
    ("\udcff", "stdin: not UTF-8 text"),
]
SETTINGS: List[Tuple[str, str]] = [  # --set, what is said
    ("resources.duration", "--set: 'resources.duration' should look like resources.duration=30"),
    ("script.x=1", "--set: 'script.x' leads into a value that is not an object"),
    ("resources.durtion=1", "resources.durtion: unknown key (did you mean 'duration'?)"),
]


class Specs(Case):
    def test_broken_specs_are_one_line(self) -> None:
        for text, said in BROKEN:
            with self.subTest(text=text):
                ran = self.psik("run", "-", stdin=text, status=2)
                self.assertEqual((ran.out, len(ran.err.splitlines())), ("", 1))
                self.assertTrue(ran.err.startswith("psik: " + said), ran.err)

    def test_a_spec_that_is_not_there(self) -> None:
        self.assertEqual(self.psik("run", "no.json", status=2).err,
                         "psik: no.json: cannot be read: No such file or directory\n")

    def test_settings(self) -> None:
        for setting, said in SETTINGS:
            ran = self.psik("run", "-", "--set", setting, stdin='{"script": "x"}', status=2)
            self.assertIn(said, ran.err)
        jobid = self.psik("run", "-", "--no-submit", "--set", "resources.duration=30",
                          "--set", "environment.A.B=c=d", "--set", "backend.attributes.-C=gpu",
                          "--set", "name=n", stdin='{"script": "x"}').out.strip()
        spec = self.job(jobid).spec()
        self.assertEqual((spec.resources.duration, spec.environment, spec.backend.attributes,
                          spec.name), (30, {"A.B": "c=d"}, {"-C": "gpu"}, "n"))

    def test_a_script_is_a_spec(self) -> None:
        script = self.write("hello.sh", "#!/bin/sh\necho hello\n")
        jobid = self.psik("run", "--wait", script).out.strip()
        self.assertEqual(self.psik("logs", jobid).out, "hello\n")
        self.assertEqual(self.job(jobid).spec().name, "hello.sh")

    def test_here(self) -> None:
        self.assertEqual(self.psik("run", "--follow", "--here", "-", stdin="#!/bin/sh\npwd\n").out,
                         self.folder + "\n")


class Verbs(Case):
    def test_an_empty_listing(self) -> None:
        self.assertEqual(self.psik("ls").err, "psik: no jobs\n")
        self.assertEqual(self.psik("ls", "--json").out, "[]\n")

    def test_a_command_or_a_line_in_place_of_a_spec(self) -> None:
        self.write("data file", "moo\n")
        rows = [(("--", "cat", "data file"), "moo\n"),
                (("--wait", "--", "echo", "-n", "a'b"), "a'b"),
                (("-c", "cat 'data file' | tr m M"), "Moo\n"),
                (("--env", "A=x y", "-c", 'echo "$A" --'), "x y --\n"),
                (("--dir", "/", "--", "pwd"), "/\n"), (("--array", "2", "-c", "echo $task"), "2\n")]
        for argv, said in rows:
            with self.subTest(argv=argv):
                jobid = self.psik("run", *argv).out.strip()
                self.psik("wait", jobid)
                task = ["--task", "2"] * ("--array" in argv)
                self.assertEqual(self.psik("logs", *task, jobid).out, said)
        self.assertEqual([row["name"] for row in json.loads(self.psik("ls", "--json").out)],
                         ["echo", "pwd", "echo", "cat", "echo", "cat"])
        self.psik("run", "--wait", "-c", "exit 3", status=3)

    def test_listing_some(self) -> None:
        old = self.run_spec("--wait", name="sweep 1", script="false", status=1)
        new, other = [self.run_spec("--wait", name=name, script="true")
                      for name in ("sweep 2", "other")]
        before = "%d.000" % (float(old) - 90)
        os.rename(self.job(old).path, os.path.join(self.prefix, "local", before))
        rows = ((("--name", "sweep*"), [new, before]), (("--name", "other"), [other]),
                (("--since", "1m"), [other, new]), (("--since", "1h"), [other, new, before]),
                (("--state", "failed,active"), [before]), (("--state", "active"), []),
                (("--state", "completed", "--name", "s*", "-n", "5"), [new]),
                (("sweep*",), [new, before]), ((before, "other"), [other, before]),
                (("sweep*", "--state", "failed"), [before]))
        for argv, listed in rows:
            with self.subTest(argv=argv):
                found = json.loads(self.psik("ls", "--json", *argv).out)
                self.assertEqual([row["jobid"] for row in found], listed)
        self.assertIn("no job nosuch under", self.psik("ls", "nosuch", status=3).err)
        for argv, said in ((("--since", "2"), "--since wants a time"), (("-n", "0"), "-n wants"),
                           (("--state", "actve"), "--state: 'actve' is not a state (did you")):
            self.assertIn(said, self.psik("ls", *argv, status=2).err)

    def ids(self, *argv: str) -> List[str]:
        """The ids of the jobs that a listing, or a command that only shows its jobs, prints."""
        lines = self.psik(*argv).out.splitlines()
        return [line.split()[0] for line in lines[1:]]

    def test_ending_and_cleaning_some(self) -> None:
        bad = self.run_spec("--wait", name="bad", script="false", status=1)
        good = [self.run_spec("--wait", name="good", script="true") for _ in range(3)][::-1]
        live = [self.run_spec(name="nap", script="exec sleep 300") for _ in range(2)][::-1]
        before = "%d.000" % (float(good[2]) - 90)
        os.rename(self.job(good[2]).path, os.path.join(self.prefix, "local", before))
        good[2] = before
        rows = ((("cancel", "--name", "*"), live), (("cancel", "--state", "active"), live),
                (("cancel", "--name", "x"), []), (("cancel", "--keep", "1"), live[1:]),
                (("rm", "--keep", "0"), good[:2] + [bad, before]),
                (("rm", "--keep", "2"), [bad, before]), (("rm", "--older", "1m"), [before]),
                (("rm", "--since", "1m", "--state", "completed"), good[:2]),
                (("rm", "--force", "--name", "*a[dp]"), live + [bad]),
                (("rm", "--name", "good", "*", "--keep", "2"), [before]),
                (("rm", good[2], good[0], "good*", "good", "--keep", "1"), good[1:]),
                (("rm", *good), good), (("start", "--since", "1m"), [bad]),
                (("start", "--state", "completed", "bad", "good"), good[:1]))
        for argv, jobs in rows:
            with self.subTest(argv=argv):
                self.assertEqual(self.ids(argv[0], "-n", *argv[1:]), jobs)
        self.assertEqual(len(self.ids("ls")), 6)
        self.psik("start", "--state", "failed")
        self.psik("wait", bad, status=1)
        self.assertEqual(self.states(bad)[-1], "2 failed")
        self.psik("cancel", "--name", "nap")
        self.psik("rm", "--state", "canceled,failed")
        self.assertEqual(self.ids("ls"), good)
        self.assertEqual(self.psik("rm", "--state", "failed").err,
                         "psik: no job matches\n")
        for argv, said in ((("rm", "*"), "* means every job; give --yes"),
                           (("rm",), "name the jobs, or say which: --state failed"),
                           (("cancel", "-n"), "name the jobs, or say which"),
                           (("rm", "--keep", "-1"), "--keep wants a number of jobs, 0 or more"),
                           (("rm", "--older", "9"), "--older wants a time like"),
                           (("start", "--backend", "x"), "'x' is not configured")):
            self.assertIn(said, self.psik(*argv, status=2).err)

    def test_jobs_that_are_named_by_little(self) -> None:
        jobid = self.run_spec(script="exec sleep 300")
        for verb in ("cancel", "rm", "start"):
            said = self.psik(verb, jobid[:2], status=2).err
            self.assertIn("17 is too short to name job %s; give at least three" % jobid, said)
        self.psik("status", jobid[:1])
        self.psik("cancel", "--yes", jobid[:1])
        self.psik("rm", jobid[:3])

    def test_signals_that_cannot_be_sent(self) -> None:
        jobid = self.run_spec(script="exec sleep 300")
        for word in ("-9", "-KILL", "-SIGSTOP"):
            self.assertIn("cannot be passed on", self.psik("kill", word, jobid, status=2).err)
        self.assertNotIn("1 failed", self.states(jobid))
        for name, said in (("KILL", "cancel` ends a job"), ("9", "cancel` ends a job"),
                           ("99", "'99' is no signal; name one like"),
                           ("SIG_DFL", "is no signal"), ("", "'' is no signal")):
            self.assertIn(said, self.psik("kill", "-s", name, jobid, status=2).err)
        self.until(lambda: "1 active" in self.states(jobid))
        for word in ("-WINCH", "-%d" % signal.SIGWINCH):    # which changes nothing
            self.psik("kill", word, jobid)
        claim = psik.read_or_empty(self.job(jobid).log("claim", 1))
        supervisor = int(dict(line.split(" ", 1) for line in claim.splitlines())["pid"])
        os.kill(supervisor, signal.SIGKILL)
        self.assertIn("step 1 has no supervisor any more",
                      self.psik("kill", jobid, status=4).err)
        self.psik("cancel", jobid)
        self.assertIn("does not run: it is canceled", self.psik("kill", jobid, status=5).err)

    def test_one_that_fails_does_not_keep_the_others_of_a_pattern(self) -> None:
        for name in ("ab", "a", "ac"):
            self.run_spec(name=name, script="exec sleep 300")
        self.psik("cancel", "a")
        said = self.psik("rm", "a*", status=5).err
        self.assertEqual(said.count("cancel it first"), 2)
        self.assertTrue(said.endswith("psik: 1 of 3 jobs\n"), said)
        self.assertEqual(len(self.ids("ls")), 2)
        self.psik("cancel", "a*")
        self.run_spec("--wait", name="ad", script="true")
        said = self.psik("rm", "nosuch", "a*", status=3).err
        self.assertTrue(said.endswith("psik: 3 of 3 jobs\n"), said)
        self.run_spec("--wait", script="true")
        self.psik("rm", "--state", "completed", "*")    # a filter says which
        self.assertEqual(self.psik("ls").err, "psik: no jobs\n")

    def test_the_newest_of_a_name_is_named(self) -> None:
        first, second = [self.run_spec("--wait", name="dup", script="true") for _ in range(2)]
        self.assertEqual(self.psik("rm", "dup").err, "psik: %s is the newest of several jobs named "
                         "dup; --name takes all of them\n" % second)
        self.assertEqual(self.psik("rm", "dup").err, "")
        self.run_spec("--wait", script="true")      # which has no name
        self.assertEqual(self.psik("rm", "--yes", "*").err, "")
        self.psik("status", first, status=3)

    def test_output_that_is_joined(self) -> None:
        script = "for n in 1 2 3; do echo out $n; echo err $n >&2; done; exit 3"
        lines = "".join("out %d\nerr %d\n" % (n, n) for n in (1, 2, 3))
        for options in ((), ("--setup", "echo set >&2")):
            ran = self.psik("run", "--join", "--follow", *options, "-c", script, status=3)
            said = "set\n" * bool(options) + lines
            self.assertEqual(ran.out, said)
            self.assertNotIn("\nerr 1", ran.err)
            for argv in ((), ("--stderr",), ("--both",)):
                self.assertEqual(self.psik("logs", *argv, "last").out, said)
            self.assertIn("err 3", self.psik("why", "last").out)
        ran = self.psik("run", "--wait", "--array", "2", "--join", "-c", "echo $task >&2")
        self.assertEqual(self.psik("logs", "--task", "2", "last").out, "2\n")

    def test_output_that_is_not_joined(self) -> None:
        self.psik("run", "--wait", "-c", "echo out; echo err >&2")
        self.assertEqual(self.psik("logs", "last")[1:], ("out\n", ""))
        self.assertEqual(self.psik("logs", "--both", "last")[1:], ("out\n", "err\n"))
        self.psik("run", "--wait", "-c", "echo one >&2; echo two >&2")
        for argv, out in (((), "one\ntwo\n"), (("-n", "1"), "two\n")):
            ran = self.psik("logs", *argv, "last")
            self.assertEqual((ran.out, ran.err), (out, "psik: it wrote to stderr only:\n"))
        self.psik("run", "--wait", "-c", "true")
        self.assertEqual(self.psik("logs", "last")[1:], ("", ""))
        self.psik("run", "-c", "sleep 0.7; echo out; sleep 0.3; echo err >&2")
        self.assertEqual(self.psik("logs", "-f", "--both", "last")[1:], ("out\n", "err\n"))

    def test_where_a_job_lies(self) -> None:
        jobid = self.run_spec("--wait", script="true", directory=self.folder)
        base = os.path.join(self.prefix, "local", jobid)
        rows = (((), base), (("log",), base + "/log"), (("work",), self.folder))
        for argv, path in rows:
            self.assertEqual(self.psik("path", jobid, *argv).out, path + "\n")
        self.psik("path", jobid, "nothing", status=2)

    def test_jobs_by_name(self) -> None:
        first, second, third = [self.run_spec("--wait", name=name, script="echo " + name)
                                for name in ("sweep 1", "sweep 2", "a[1]")]
        newest = self.run_spec("--wait", name="sweep 1", script="echo again", after=["sweep 2"])
        self.assertEqual(self.job(newest).spec().after, [second])
        self.assertEqual(self.psik("logs", "sweep 1").out, "again\n")
        self.assertEqual(self.psik("logs", "a[1]").out, "a[1]\n")
        self.assertEqual(self.psik("logs", "*2").out, "sweep 2\n")
        rows = json.loads(self.psik("status", "--json", "sweep*", third).out)
        self.assertEqual([row["jobid"] for row in rows], [newest, second, first, third])
        self.psik("wait", "sweep*")
        for text in ("sweep", "../x", "", "x*", "a/b"):
            self.assertIn("no job ", self.psik("status", text, status=3).err)
        self.psik("rm", "sweep*")
        self.assertEqual(len(json.loads(self.psik("ls", "--json").out)), 1)

    def test_options_for_the_usual_fields(self) -> None:
        self.write("s.json", json.dumps({"script": "true", "backend": "local"}))
        argv = ("run", "--no-submit", "--name", "n", "-t", "2h", "-N", "2", "-n", "4", "-g", "1",
                "--mem", "2G", "--queue", "q", "--project", "p", "--setup", "true", "--setup", ":",
                "--env", "A=b=c", "--callback", "http://localhost:1/", "s.json")
        spec = self.job(self.psik(*argv).out.strip()).spec()
        needs = spec.resources
        self.assertEqual((needs.duration, needs.node_count, needs.process_count,
                          needs.gpu_cores_per_process, needs.memory_per_process),
                         (120, 2, 4, 1, 2048))
        self.assertEqual((spec.name, spec.backend.queue_name, spec.backend.project_name,
                          spec.setup, spec.environment, spec.callback),
                         ("n", "q", "p", ["true", ":"], {"A": "b=c"}, "http://localhost:1/"))
        for text, minutes in (("30", 30), ("90m", 90), ("1d", 1440), ("1:30:00", 90)):
            jobid = self.psik("run", "--no-submit", "-t", text, "s.json").out.strip()
            self.assertEqual(self.job(jobid).spec().resources.duration, minutes)

    def test_what_run_cannot_do(self) -> None:
        for argv, said in (((), "name one of SPEC"), (("s.json", "--", "true"), "name one of SPEC"),
                           (("-c", " "), "the command is empty"), (("--",), "name one of SPEC"),
                           (("-t", "soon", "-c", "true"), "'soon' is not a walltime"),
                           (("--mem", "lots", "-c", "true"), "'lots' is not a size"),
                           (("-n", "two", "-c", "true"), "'two' is not a whole number"),
                           (("--dry-run", "--wait", "-c", "true"), "nothing to wait for"),
                           (("--env", "A", "-c", "true"), "--env: 'A' is not NAME=VALUE"),
                           (("--here", "--dir", "/", "-c", "true"), "exclude each other"),
                           (("--dry-run", "--after", "1.2", "-c", "true"), "no job 1.2")):
            with self.subTest(argv=argv):
                ran = self.psik("run", *argv, status=2)
                self.assertIn(said, ran.err)
                self.assertEqual(len(ran.err.splitlines()), 1)

    def test_dry_run(self) -> None:
        self.configure(backend={"type": "slurm"})
        ran = self.psik("run", "--dry-run", "-t", "1:00", "--mem", "1G", "-c", "echo moo")
        self.assertIn("#SBATCH --time=1\n", ran.out)
        self.assertIn("==> scripts/run <==\n#!/bin/sh\necho moo\n", ran.out)
        self.assertEqual(self.psik("ls", "--json").out, "[]\n")

    def test_listing(self) -> None:
        first, second = [self.run_spec("--wait", name=name, script="true")
                         for name in ("one", "two")]
        rows = json.loads(self.psik("ls", "--json").out)
        self.assertEqual([row["jobid"] for row in rows], [second, first])
        self.assertEqual(set(rows[0]), {"jobid", "name", "backend", "state", "jobndx", "info",
                                        "updated", "reason", "tasks", "began", "elapsed"})
        self.assertRegex(self.psik("ls").out,
                         r"JOBID +NAME .*\n%s +two +local +completed +1 +0 +" % second)

    def test_a_part_of_a_listing(self) -> None:
        made = [self.run_spec("--wait", script="true") for _ in range(2)]
        for argv, listed in ((["-n", "1"], made[1:]), (["--state", "failed"], []),
                             (["--state", "completed"], made[::-1])):
            rows = json.loads(self.psik("ls", "--json", *argv).out)
            self.assertEqual([row["jobid"] for row in rows], listed)
        for argv in (["-n", "0"], ["--backend", "nope"]):
            self.psik("ls", *argv, status=2)

    def test_status(self) -> None:
        jobid = self.run_spec("--wait", script="exit 3", name="x", cb_secret="hush", status=3)
        job = json.loads(self.psik("status", "--json", jobid).out)[0]
        self.assertEqual((job["state"], job["info"], job["base"]),
                         ("failed", 3, self.job(jobid).path))
        self.assertEqual([row["state"] for row in job["history"]],
                         ["new", "queued", "active", "failed"])
        self.assertNotIn("hush", json.dumps(job) + self.psik("status", jobid).out)

    def test_ids(self) -> None:
        jobid = self.run_spec("--wait", script="true")
        for text, status in ((jobid, 0), (jobid[:-2], 0), ("last", 0), ("..", 3), ("1.5/../..", 3),
                             ("12345", 3), ("", 3), (jobid + "\n", 3), ("-1", 3)):
            with self.subTest(text=text):
                self.psik("status", text, status=status)
        other = self.run_spec("--wait", script="true")
        both = os.path.commonprefix([jobid, other]).rstrip(".")
        self.assertIn("matches more than one job", self.psik("status", both, status=2).err)
        self.assertIn("no job 123.456 under " + self.prefix,
                      self.psik("rm", "123.456", status=3).err)

    def test_several_jobs_go_on_after_a_failure(self) -> None:
        jobid = self.run_spec("--wait", script="true")
        ran = self.psik("status", "5.5", jobid, status=3)
        self.assertIn(jobid, ran.out)

    def test_start_again_is_the_next_step(self) -> None:
        jobid = self.run_spec("--no-submit", script="echo $jobndx; exit $jobndx")
        self.assertIn("was never started", self.psik("wait", jobid, status=5).err)
        for step in (1, 2):
            self.psik("start", jobid)
            self.psik("wait", jobid, status=step)
        self.assertEqual(self.psik("logs", jobid).out + self.psik("logs", "--ndx", "1", jobid).out,
                         "2\n1\n")
        self.assertEqual(self.states(jobid)[4:], ["2 queued", "2 active", "2 failed"])
        self.psik("logs", "--ndx", "9", jobid, status=3)
        self.psik("start", "--wait", jobid, status=3)
        self.psik("start", "--timeout", "3", jobid, status=2)
        self.assertIn("still not ended", self.psik(
            "start", "--wait", "--timeout", "0.2", self.run_spec("--no-submit", script="sleep 9"),
            status=124).err)
        self.psik("cancel", "last")
        self.psik("start", "--wait", "--state", "new", status=0)

    def test_logs(self) -> None:
        script = "for i in 1 2 3 4 5; do echo line $i; done; echo oops >&2"
        if psik.Shell.of(self.config()).kind == "rc":
            script = "for(i in 1 2 3 4 5) echo line $i; echo oops >[1=2]"
        jobid = self.run_spec("--wait", script=script)
        self.assertEqual(self.psik("logs", "-n", "2", jobid).out, "line 4\nline 5\n")
        self.assertEqual(self.psik("logs", "-n", "99", jobid).out.count("\n"), 5)
        self.assertEqual(self.psik("logs", "-n", "0", jobid).out, "")
        self.assertEqual(self.psik("logs", "--stderr", jobid).out, "oops\n")
        self.assertEqual(self.psik("logs", "-f", jobid).out.count("\n"), 5)

    def test_rm(self) -> None:
        jobid = self.run_spec(script="sleep 60")
        self.assertIn("cancel it first, or use --force", self.psik("rm", jobid, status=5).err)
        path = self.job(jobid).path
        self.psik("rm", "--force", jobid)
        self.assertFalse(os.path.exists(path))
        self.psik("rm", status=2)
        jobid = self.run_spec("--wait", script="mkdir a; touch a/b; chmod 500 a")
        self.psik("rm", jobid)
        self.assertEqual(os.listdir(os.path.dirname(path)), [])

    def test_wait_gives_up(self) -> None:
        jobid = self.run_spec(script="sleep 60")
        self.assertIn("still not ended",
                      self.psik("wait", "--timeout", "0.2", jobid, status=124).err)
        self.psik("cancel", jobid)
        self.psik("wait", jobid, status=143)

    def test_start_waits_also_if_another_job_cannot_be_started(self) -> None:
        jobid = self.run_spec("--no-submit", script="sleep 1")
        self.psik("start", "--wait", jobid, "nothing", status=3)
        self.assertEqual(self.states(jobid)[-1], "1 completed")

    def test_words_that_are_empty(self) -> None:
        for argv in (("--on", "", "ls"), ("--on=", "ls"), ("--config", "", "ls"),
                     ("token", "--revoke", ""), ("token", "--show", ""),
                     ("serve", "--inetd", "--port", "8000")):
            ran = self.psik(*argv, status=2)
            self.assertEqual((ran.out, len(ran.err.splitlines())), ("", 1), argv)

    def test_wait_gives_up_on_a_job_that_ends_then(self) -> None:
        jobid = self.run_spec("--no-submit", script="true")
        job = self.job(jobid)
        psik.reached(job, 1, psik.JobState.active, 7)
        last = psik.summarize(job, job.rows(), {})
        psik.reached(job, 1, psik.JobState.completed, 0)
        with mock.patch.object(psik, "wait", return_value=[last]), captured():
            self.assertEqual(psik.wait_for(self.config(), [job], 0), 124)
        with mock.patch.object(psik, "wait_for", return_value=0) as waits, captured():
            with mock.patch.dict(os.environ, self.env):
                psik.main(["wait", jobid, jobid])
        self.assertEqual(len(waits.call_args[0][1]), 1)

    def test_reached(self) -> None:
        jobid = self.run_spec("--no-submit", script="true")
        base = self.job(jobid).path
        self.psik("reached", "--", base, "1", "active", "77")
        self.psik("reached", base, "1", "completed")
        self.assertEqual(self.states(jobid), ["0 new", "1 active", "1 completed"])
        self.psik("reached", base, "1", "dancing", status=2)
        self.psik("reached", base, "-3", "active", status=2)
        self.psik("reached", base, "1", "active", "a,b", status=2)
        self.psik("reached", self.folder, "1", "active", status=3)

    def test_words_of_one_command_line_are_not_the_next_ones(self) -> None:
        for _ in range(2):
            opts = psik.CommandLine.read(["get", "last", "-o", "d", "*.csv"])
            self.assertEqual(opts.pattern, ["*.csv"])
        self.assertEqual(psik.CommandLine.read(["get", "last"]).pattern, [])

    def test_no_submit_and_wait_contradict(self) -> None:
        self.psik("run", "--no-submit", "--wait", "-", stdin='{"script": "x"}', status=2)

    def test_help_has_an_example_each(self) -> None:
        for name, function, _, _ in psik.COMMANDS:
            with captured() as (out, _):
                self.assertEqual(psik.main([name, "--help"]), 0)
            self.assertIn("example: psik.py " + name, out.getvalue())
            self.assertTrue(function.__doc__)

    def test_alone_it_says_where_one_stands(self) -> None:
        self.assertIn("of the newest jobs, 0 run, 0 wait, and 0 failed", self.psik().out)
        self.run_spec("--wait", script="exit 3", status=3)
        jobid = self.run_spec(script="exec sleep 300")
        self.until(lambda: "of the newest jobs, 1 run, 0 wait, and 1 failed" in self.psik().out)
        self.psik("rm", "--force", jobid)

    def test_what_is_mistyped(self) -> None:
        for argv, said in ((["lst"], "no command 'lst' (did you mean 'ls'?); `psik.py --help`"),
                           (["--config", "x", "qwert"], "no command 'qwert'; `psik.py --help`"),
                           (["ls", "--bckend=x"], "ls takes no '--bckend=x' (did you mean '--back"),
                           (["status", "x", "--zz"], "status takes no '--zz'; `psik.py status --"),
                           (["squeue"], "here it is `psik.py ls`"),
                           (["delete", "x"], "here it is `psik.py rm`"),
                           (["run", "x.sh", "hi"], "a command stands behind --: `psik.py run --"),
                           (["ls", "--state", "running"], "not a state: here it is active"),
                           (["run", "-J", "x"], "takes no '-J': here it is --name"),
                           (["run", "--account=x", "y"], "here it is --project"),
                           (["--conf", "x", "qwert"], "no command 'qwert'"),
                           (["help", "sepc"], "no help on 'sepc' (did you mean 'spec'?)"),
                           (["help", "--json", "ls"], "--json goes with `help spec`")):
            self.assertIn(said, self.psik(*argv, status=2).err)

    def test_what_programs_are_called(self) -> None:
        self.configure_pond()
        for flags, wanted in ((("run", "-v"), False), (("-vv", "run"), True)):
            said = self.psik(*flags, "--backend", "pond", "-c", "true").err
            self.assertRegex(said, r"psik: /.*/scripts/submit .*: exit 0 after 0\.\d\d s\n")
            self.assertEqual("psik:     7\n" in said, wanted, said)
        self.assertEqual(self.psik("ls").err, "")

    def test_help_on_topics(self) -> None:
        listed = self.psik("help").out
        for topic in psik.Reference.TOPICS:
            said = self.psik("help", topic).out
            self.assertIn("\n  %-9s " % topic, listed)
            self.assertGreater(len(said.splitlines()), 4, topic)
            self.assertLessEqual(max(map(len, said.splitlines())), 100, topic)
        said = self.psik("help", "spec").out
        for model, above in ((psik.JobSpec, ""), (psik.ResourceSpec, "resources.")):
            for item in psik.fields(model):
                self.assertRegex(said, r"(?m)^%s%s( = .*| \(required\))?$" % (above, item.name))
        said = self.psik("help", "config").out
        for item in psik.fields(psik.Config):
            self.assertRegex(said, r"(?m)^%s( = .*)?$" % item.name)
        for topic, words in (("states", psik.STATES), ("exit", ("0", "2", "124", "143")),
                             ("templates", psik.TEMPLATES_OF_A_BACKEND),
                             ("tree", ("status.csv", "claim.N", "alive.N")),
                             ("callbacks", ("x-hub-signature-256",)), ("api", ("/v1/jobs",))):
            for word in words:
                self.assertRegex(self.psik("help", topic).out, r"(?m)(^|\s)%s\b" % re.escape(word))
        self.assertEqual(self.psik("help", "run").out, self.psik("run", "--help").out)

    @needs("jsonschema, from `make test-deps`", os.path.exists(OPENAPI))
    def test_the_schema_of_a_spec(self) -> None:
        schema = self.write("schema.json", self.psik("help", "--json", "spec").out)
        code = ("import json, sys, jsonschema; schema = json.load(open(sys.argv[1]))\n"
                "check = jsonschema.Draft202012Validator(schema); check.check_schema(schema)\n"
                "print([check.is_valid(each) for each in json.load(sys.stdin)])")
        specs = [{"script": "true"}, {"script": "true", "resources": {"duration": 5}},
                 {"script": "true", "array": "1-9%2", "after": ["1.2"], "backend": "x"},
                 {}, {"script": 5}, {"script": "true", "duration": 3},
                 {"script": "true", "resources": {"duration": 0}}]
        done = subprocess.run([OPENAPI, "-I", "-c", code, schema], input=json.dumps(specs).encode(),
                              stdout=subprocess.PIPE, check=True)
        self.assertEqual(done.stdout.decode().split(), str([True] * 3 + [False] * 4).split())

    def test_fields_that_mean_nothing_are_named(self) -> None:
        self.configure(backends={"here": {"type": "local"}, "far": {"type": "slurm"}})
        asked = ("run", "--no-submit", "--mem", "1G", "--queue", "q", "--project", "p",
                 "--set", "backend.reservation_id=r")
        said = "".join("psik: %s has no effect on backend here\n" % name for name in (
            "resources.memory_per_process", "backend.queue_name", "backend.project_name",
            "backend.reservation_id"))
        self.assertEqual(self.psik(*asked, "-c", "true").err, said)
        self.assertEqual(self.psik(*asked, "--backend", "far", "-c", "true").err, "")
        self.assertEqual(self.psik("run", "--no-submit", "-c", "true").err, "")

    def test_help_fits_a_screen_and_names_every_command_once(self) -> None:
        grouped = [name for _, names in psik.GROUPS for name in names]
        self.assertEqual(sorted(grouped), sorted(name for name, _, _, _ in psik.COMMANDS))
        lines = self.psik("--help").out.split("\n")
        self.assertLess(len(lines), 44)
        self.assertLess(max(map(len, lines)), 80)
        for name in grouped:
            found = [line for line in lines if line.startswith("  %s " % name)]
            self.assertEqual(len(found), 1, name)

    def test_without_a_config_it_says_once_where_jobs_are_kept(self) -> None:
        env = {"PSIK_CONFIG": ""}
        self.assertEqual(self.psik("ls", env=env).err, "psik: no jobs\n")
        self.assertFalse(os.path.exists(os.path.join(self.folder, ".local")))
        for said in ("are kept in %s/.local/share/psik\n" % self.folder, ""):
            self.assertTrue(self.psik("run", "-c", "true", env=env).err.endswith(said))
        self.assertEqual(self.psik("run", "-c", "true", env=env).err, "")
        self.assertIn("none, so the built-in default", self.psik("config", env=env).out)

    def test_a_closed_pipe_is_no_traceback(self) -> None:
        for _ in range(3):
            self.run_spec("--no-submit", script="true")
        child = subprocess.Popen([sys.executable, PSIK, "ls"], stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, env=self.env)
        assert child.stdout and child.stderr
        child.stdout.close()
        with child.stderr:
            self.assertEqual(child.stderr.read(), b"")
        child.wait()

    def test_a_prefix_that_cannot_be_made(self) -> None:
        self.configure(prefix=self.write("file", "") + "/jobs")
        self.assertRegex(self.psik("run", "-", stdin='{"script": "x"}', status=1).err,
                         r"^psik: .*file.*: not a directory\n$")


class Terminal(Case):
    lines, columns = 24, 80

    def on_terminal(self, *argv: str, **env: str) -> Tuple[int, bytes]:
        """Run with a terminal for stdout and stderr, interrupted after a second if it waits."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", self.lines, self.columns, 0, 0))
        child = subprocess.Popen([sys.executable, PSIK] + list(argv), stdout=slave, stderr=slave,
                                 env=dict(self.env, TERM="xterm", **env))
        os.close(slave)
        seen, deadline, interrupt = b"", time.time() + 20, 0.0
        while time.time() < deadline:
            if select.select([master], [], [], 0.1)[0]:
                try:
                    seen += os.read(master, 65536)
                except OSError:
                    break
            waits = b"active" in seen and "wait" in argv
            if waits and time.time() > interrupt and child.poll() is None:
                interrupt = time.time() + 5
                child.send_signal(signal.SIGINT)
        os.close(master)
        return child.wait(), seen

    def test_colour_only_on_a_terminal_and_not_with_no_color(self) -> None:
        self.run_spec("--wait", script="true")
        self.assertIn(b"\x1b[32mcompleted", self.on_terminal("ls")[1])
        self.assertNotIn(b"\x1b", self.on_terminal("ls", NO_COLOR="1")[1])
        self.assertNotIn("\x1b", self.psik("ls").out)

    def shown(self, *argv: str, **env: str) -> List[str]:
        """The lines that are seen, without colour."""
        seen = self.on_terminal(*argv, **env)[1].decode("utf-8")
        return re.sub("\x1b\\[[0-9;]*m", "", seen).replace("\r", "").splitlines()

    def test_a_listing_fits_the_terminal(self) -> None:
        wide = "\u65e5\u672c\u8a9e\u306e\u540d\u524d" * 5
        names = ("a name of forty-one letters, and of blanks", wide, "short")
        for name in names:
            self.run_spec("--wait", name=name, script="exit 3", status=3)
        for columns, heads, cut in (
                (200, "JOBID NAME BACKEND STATE STEP INFO ELAPSED UPDATED REASON", False),
                (80, "JOBID NAME BACKEND STATE INFO ELAPSED UPDATED REASON", True),
                (40, "JOBID NAME STATE", True)):
            self.columns = columns
            head, *rows = self.shown("ls")
            with self.subTest(columns=columns):
                self.assertEqual(head.split(), heads.split())
                self.assertEqual("\u2026" in rows[2], cut)
                self.assertEqual(names[0] in rows[2], not cut)
                for row in rows:
                    self.assertLessEqual(psik.Table.width_of(row), columns)
                    self.assertRegex(row, "^[0-9.]{14}  .*  failed( |$)")
                if columns > 40:
                    self.assertRegex(row, r" 0:0\d +\d+s ago")
        self.columns = 20   # narrower than any listing can be
        self.assertEqual(len(self.shown("ls")), 4)
        self.columns = 60
        for row in self.shown("ls", LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="ascii"):
            self.assertLessEqual(len(row), 60)
            self.assertTrue(row.isascii() if hasattr(row, "isascii") else row.encode("ascii"))

    def test_old_jobs_are_shown_with_a(self) -> None:
        old = self.run_spec("--wait", script="true")
        live = self.run_spec(script="exec sleep 300")
        with open(self.job(old).at("status.csv")) as file:
            rows = [line.split(",", 1) for line in file]
        with open(self.job(old).at("status.csv"), "w") as file:
            file.writelines("%.3f,%s" % (float(stamp) - 4 * 86400, rest) for stamp, rest in rows)
        self.assertIn("psik: 1 older; `psik.py ls -a` shows them too", self.shown("ls"))
        self.assertEqual([len(self.shown("ls", *argv)) for argv in (
            ("-a",), ("-n", "9"), ("--state", "completed,active"), ("--sort", "state"))], [3] * 4)
        self.assertIn("4d ago", self.shown("ls", "-a")[2])
        self.assertEqual(len(json.loads(self.psik("ls", "--json").out)), 2)
        self.psik("rm", "--force", live)
        self.assertEqual(self.psik("ls").err, "psik: 1 older; `psik.py ls -a` shows them too\n")

    def test_the_order_of_a_listing(self) -> None:
        slow = self.run_spec("--wait", name="b", script="sleep 1.2")
        last = self.run_spec("--wait", name="c", script="exit 1", status=1)
        quick = self.run_spec("--wait", name="a", script="true")
        self.psik("start", slow)
        self.psik("wait", slow)
        for order, ids in (("elapsed", [slow, quick]), ("name", [quick, slow]),
                           ("updated", [slow, quick]), ("state", [quick, slow])):
            listed = json.loads(self.psik("ls", "--json", "--sort", order).out)
            found = [each["jobid"] for each in listed if each["jobid"] != last]
            self.assertEqual(found, ids, order)
        listed = json.loads(self.psik("ls", "--json", "--sort", "elapsed", "-n", "1").out)
        self.assertEqual([each["jobid"] for each in listed], [slow])
        self.assertGreater(listed[0]["elapsed"], 1)
        self.assertLess(listed[0]["began"], listed[0]["updated"])
        self.psik("ls", "--sort", "size", status=2)

    def test_a_watched_listing_fits_the_screen(self) -> None:
        self.lines = 8
        for number in range(9):
            self.run_spec("--no-submit", script="true", name="n%d" % number)
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 8, 80, 0, 0))
        child = subprocess.Popen([sys.executable, PSIK, "ls", "--watch"], stdout=slave,
                                 env=dict(self.env, TERM="xterm"))
        seen = b""
        while b"\x1b[H" not in seen or not seen.endswith(b"more\r\n"):
            seen += os.read(master, 65536)
        child.send_signal(signal.SIGINT)
        self.assertEqual(child.wait(), 130)
        for fd in (master, slave):
            os.close(fd)
        screen = seen.decode().rpartition("\x1b[H\x1b[2J")[2].splitlines()
        self.assertEqual((len(screen), screen[-1]), (7, "and 4 more"))

    def test_interrupting_a_wait_leaves_the_job(self) -> None:
        jobid = self.run_spec(script="sleep 60")
        status, seen = self.on_terminal("wait", jobid)
        self.assertEqual(status, 130)
        self.assertIn(b"To cancel: psik.py cancel " + jobid.encode(), seen)
        self.assertIn(b"active", seen)
        self.assertNotIn("0 canceled", self.states(jobid))
        self.psik("rm", "--force", jobid)


if __name__ == "__main__":
    unittest.main()
