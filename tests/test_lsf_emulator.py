"""The LSF emulator against what LSF prints, takes, refuses and does."""
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import unittest
from typing import Any, Dict, List, NamedTuple, Optional

import lsf_emulator

SHOW = ["bjobs", "-noheader", "-o", "jobid stat exit_code delimiter='^'"]
FAST = {"LSF_EMULATOR_KILL_S": "0.3", "LSF_EMULATOR_GRACE_S": "0.3", "LSF_EMULATOR_MINUTE_S": "0.3"}
NOTHING_LEFT = "No command is specified in the script file"


class Ran(NamedTuple):
    """What a command left."""
    status: int
    out: str
    err: str


class Case(unittest.TestCase):
    """A test with an emulator of its own."""

    def setUp(self) -> None:
        self.folder = os.path.realpath(tempfile.mkdtemp(prefix="psik-test-"))
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.addCleanup(lsf_emulator.clean, self.folder)
        self.env = dict(os.environ, **lsf_emulator.install(self.folder))

    def run_it(self, *argv: str, stdin: str = "", env: Optional[Dict[str, str]] = None) -> Ran:
        """Run one of the commands as a user does."""
        done = subprocess.run(list(argv), input=stdin.encode("utf-8"), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, cwd=self.folder, timeout=30,
                              env=dict(self.env, **(env or {})))
        return Ran(done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8"))

    def submit(self, script: str, *argv: str, env: Optional[Dict[str, str]] = None) -> str:
        """Submit a script on stdin; the job's id."""
        ran = self.run_it("bsub", *argv, stdin=script, env=dict(FAST, **(env or {})))
        self.assertEqual(ran.status, 0, ran)
        return ran.out.split("<")[1].split(">")[0]

    def record(self, jobid: str) -> Dict[str, Any]:
        """What was parsed for a job."""
        with open(os.path.join(self.folder, "jobs", jobid, "record.json")) as file:
            parsed: Dict[str, Any] = json.load(file)
        return parsed

    def until(self, jobid: str, *stats: str) -> List[str]:
        """Wait for a job to be in one of these states; bjobs' line, in fields."""
        deadline = time.time() + 20
        while time.time() < deadline:
            fields = self.run_it(*SHOW + [jobid]).out.strip().split("^")
            if fields[1:2] and fields[1] in stats:
                return fields
            time.sleep(0.05)
        raise AssertionError("job %s never was %s: %s" % (jobid, stats, fields))

    def text(self, name: str) -> str:
        """The text of a file in the folder, empty while it is not there."""
        try:
            with open(os.path.join(self.folder, name)) as file:
                return file.read()
        except OSError:
            return ""

    def until_text(self, name: str) -> None:
        """Wait until a file in the folder is not empty."""
        deadline = time.time() + 20
        while not self.text(name) and time.time() < deadline:
            time.sleep(0.02)


class Grammar(Case):
    """#BSUB lines and options."""

    def test_directives(self) -> None:
        rows = [  # directive lines, what must be found
            ("#BSUB -n 4 -J a", {"-n": "4", "-J": "a"}),
            ("  #  BSUB -J 'a b' -P \"c 'd'\"", {"-J": "a b", "-P": "c 'd'"}),
            ("#BSUB -J a # -n 4", {"-J": "a"}),
            ("#BSUB -J a \\\n -n 2", {"-J": "a", "-n": "2"}),
            ("#BSUB -Jd 'back\\slash $HOME `id` *'", {"-Jd": "back\\slash $HOME `id` *"}),
            ("echo\n#BSUB -J late", {"-J": "late"}),
            ("#BSUB no option", {}),
            ("#BSUBMIT", {}),
            ("#BSUB -R span[ptile=2]\n#BSUB -R 'rusage[mem=1]'",
             {"-R": ["span[ptile=2]", "rusage[mem=1]"]}),
            ("#BSUB -env 'A=1'\n#BSUB -env 'B=2'", {"-env": "B=2"}),
            ("#BSUB -W 1:30 -M 1000 -x -q exclusive",
             {"-W": "1:30", "-M": "1000", "-x": True, "-q": "exclusive"}),
            ("#BSUB -gpu num=2/task", {"-gpu": "num=2/task"}),
        ]
        for lines, expected in rows:
            with self.subTest(lines):
                directives, _ = lsf_emulator.read_script(lines + "\ntrue\n")
                self.assertEqual(lsf_emulator.script_options(directives), expected)

    def test_refusals(self) -> None:
        rows = [  # a directive, part of what LSF says
            ("--exclusive", "--exclusive: Illegal option"),
            ("-J", "-J: Option needs an argument"),
            ("-J '#a'", "-J: Option needs an argument"),
            ("-J x y", "y: Illegal option"),
            ("-J 'a", "Bad quotes"),
            ("-J 'a'b", "Bad quotes"),
            ("-J \"a \\\"b\\\"\"", "Bad quotes"),
            ("-J a[1-3]", "Bad job name"),
            ("-W 1:00:00", "Bad RUNLIMIT specification"),
            ("-W 0", "Bad RUNLIMIT specification"),
            ("-n 0", "Bad argument <0>"),
            ("-n 1000", "Too many processors requested"),
            ("-R span[ptile=]", "Bad resource requirement syntax"),
            ("-gpu num=1/rank", "Bad GPU requirement syntax"),
            ("-q nosuch", "nosuch: No such queue"),
            ("-G project", "project: No such user/host group"),
            ("-U res", "res: The specified reservation does not exist"),
            ("-nnodes 2", "Illegal option"),
            ("-env 'A=1, all'", "Bad environment variable list"),
            ("-env 'A=1, 2'", "Bad environment variable list"),
            ("-w done(9)", "Dependency condition syntax error"),
            ("-w __import__", "Dependency condition syntax error"),
        ]
        for line, message in rows:
            with self.subTest(line), self.assertRaises(lsf_emulator.Refused) as caught:
                lsf_emulator.script_options(lsf_emulator.read_script("#BSUB " + line)[0])
            self.assertIn(message, str(caught.exception))


class Commands(Case):
    """What the commands print, and their status."""

    def test_bsub(self) -> None:
        rows = [  # argv, stdin, status, stdout, stderr
            ([], "true", 0, "Job <101> is submitted to default queue <normal>.\n", ""),
            (["-q", "held"], "true", 0, "Job <102> is submitted to queue <held>.\n", ""),
            (["-zz"], "true", 255, "", "-zz: Illegal option. Job not submitted.\n"),
            ([], "#!/bin/sh\n#BSUB -n 1\n", 255, "", NOTHING_LEFT + ". Job not submitted.\n"),
            (["-x"], "true", 255, "",
             "normal: Queue does not accept EXCLUSIVE jobs. Job not submitted.\n"),
            (["-q", "é"], "true", 255, "", "é: No such queue. Job not submitted.\n"),
        ]
        for argv, script, status, out, err in rows:
            with self.subTest(argv):
                self.assertEqual(self.run_it("bsub", *argv, stdin=script), Ran(status, out, err))

    def test_bjobs_and_bkill(self) -> None:
        done, held = self.submit("true"), self.submit("true", "-q", "held", "-Jd", "a b")
        self.until(done, "DONE")
        describe = ["bjobs", "-a", "-noheader", "-o", "jobid job_description delimiter='^'"]
        rows = [
            (SHOW + [done, held], Ran(0, "%s^DONE^-\n%s^PEND^-\n" % (done, held), "")),
            (SHOW + [done, "9"], Ran(0, "%s^DONE^-\n" % done, "Job <9> is not found\n")),
            (SHOW + ["9"], Ran(255, "", "Job <9> is not found\n")),
            (SHOW, Ran(0, "%s^PEND^-\n" % held, "")),
            (describe + ["-Jd", "a b"], Ran(0, "%s^a b\n" % held, "")),
            (["bkill", "9"], Ran(255, "", "Job <9>: No matching job found\n")),
            (["bkill", done], Ran(255, "", "Job <%s>: Job has already finished\n" % done)),
            (["bkill", held], Ran(0, "Job <%s> is being terminated\n" % held, "")),
            (SHOW + [held], Ran(0, "%s^EXIT^-\n" % held, "")),
            (SHOW, Ran(255, "", "No unfinished job found\n")),
            (["bjobs", "-o", "nosuch"], Ran(255, "", "Field name <nosuch> is invalid.\n")),
        ]
        for argv, expected in rows:
            with self.subTest(argv):
                self.assertEqual(self.run_it(*argv), expected)
        table = self.run_it("bjobs", "-u", "all", "-a", "-w", done).out.splitlines()
        self.assertEqual([line.split()[2] for line in table], ["STAT", "DONE"])

    def test_a_finished_job_is_forgotten(self) -> None:
        jobid = self.submit("true")
        self.until(jobid, "DONE")
        ran = self.run_it(*SHOW + [jobid], env={"LSF_EMULATOR_CLEAN_S": "0"})
        self.assertEqual(ran, Ran(255, "", "Job <%s> is not found\n" % jobid))

    def test_script_and_command_forms(self) -> None:
        with open(os.path.join(self.folder, "job"), "w") as file:
            file.write("#!/bin/sh\n#BSUB -J named\necho \"$@\" >out\n")
        os.chmod(file.name, 0o755)
        yes = {"LSB_BSUB_PARSE_SCRIPT": "Y"}
        rows = [  # argv, environment, the job's name, its output
            (["./job", "a;echo", "*"], {}, "./job a;echo *", "a\n"),
            (["./job"], {}, "./job", "\n"),
            (["./job"], yes, "named", "\n"),
            (["./job", "1"], yes, "./job 1", "1\n"),
        ]
        for argv, env, name, output in rows:
            with self.subTest((argv, env)):
                jobid = self.run_it("bsub", *argv, env=env).out.split("<")[1].split(">")[0]
                self.until(jobid, "DONE")
                self.assertEqual(self.record(jobid)["name"], name)
                self.assertEqual(self.text("out"), output)


class Jobs(Case):
    """How a job runs and ends."""

    def test_surroundings(self) -> None:
        jobid = self.submit(
            "#!/usr/bin/env sh\n#BSUB -n 4 -R span[ptile=2] -J 'a b' -e err -o out.%J\n"
            "echo $0 $# $LSB_JOBID $LSB_JOBNAME $LSB_DJOB_NUMPROC $LSB_MCPU_HOSTS\n"
            "wc -l <$LSB_DJOB_HOSTFILE; pwd; echo oops >&2")
        self.until(jobid, "DONE")
        host = socket.gethostname()
        out = self.text("out." + jobid).split("follows:\n\n")
        self.assertIn("Job %s: <a b> in cluster <emulator> Done" % jobid, out[0])
        self.assertEqual(out[1].splitlines(), [
            "%s 0 %s a b 4 %s 2 %s-2 2" % (self.record(jobid)["script"], jobid, host, host),
            "4", self.folder])
        self.assertEqual(self.text("err"), "oops\n")

    def test_environment(self) -> None:
        rows = [  # -env, what A, B and C are
            (None, "1 2 "), ("all", "1 2 "), ("none", "  "), ("A", "1  "), ("all, ~A, C=3", " 2 3"),
            ("B=x y, C=3", " x y 3"),
        ]
        for value, expected in rows:
            with self.subTest(value):
                argv = ["-env", value] if value else []
                jobid = self.submit("echo \"$A $B $C\" >out", *argv, env={"A": "1", "B": "2"})
                self.until(jobid, "DONE")
                self.assertEqual(self.text("out"), expected + "\n")

    def test_endings(self) -> None:
        ready = "echo >ready.$LSB_JOBID; "
        wait = "i=0; while [ $i -lt 99 ]; do sleep 0.1; i=$((i+1)); done"
        rows = [  # script, options, whether to bkill, state and exit code
            ("exit 3", [], False, ["EXIT", "3"]),
            ("kill -9 $$", [], False, ["EXIT", "137"]),
            ("#!/no/such\ntrue", [], False, ["EXIT", "127"]),
            (ready + wait, [], True, ["EXIT", "130"]),
            ("trap '' INT; " + ready + wait, [], True, ["EXIT", "143"]),
            ("trap '' INT TERM; " + ready + wait, [], True, ["EXIT", "137"]),
            ("trap 'exit 0' INT; " + ready + wait, [], True, ["DONE", "-"]),
            (wait, ["-W", "1"], False, ["EXIT", "140"]),
            ("trap 'echo >got' USR2;" + wait, ["-W", "0:1"], False, ["EXIT", "130"]),
        ]
        ids = [self.submit(script, *options) for script, options, _, _ in rows]
        for jobid, (_, _, kill, _) in zip(ids, rows):
            if kill:
                self.until_text("ready." + jobid)
                ran = self.run_it("bkill", jobid, env=FAST)
                self.assertEqual(ran, Ran(0, "Job <%s> is being terminated\n" % jobid, ""))
        for jobid, (script, _, _, expected) in zip(ids, rows):
            with self.subTest(script):
                self.assertEqual(self.until(jobid, "DONE", "EXIT")[1:], expected)
        self.assertTrue(self.text("got"))

    def test_reasons_and_dependencies(self) -> None:
        first = self.submit("sleep 30", "-J", "first")
        second = self.submit("true", "-w", "ended(%s) && exit(%s)" % (first, first))
        self.until(first, "RUN")
        reason = ["bjobs", "-noheader", "-o", "stat exit_reason pend_reason delimiter='|'"]
        self.assertEqual(self.run_it(*reason + [second]).out,
                         "PEND|-|Job is waiting for scheduling\n")
        self.run_it("bkill", first)
        self.until(second, "DONE")
        self.assertEqual(self.run_it(*reason + [first]).out, "EXIT|%s|-\n" % lsf_emulator.OWNER)


if __name__ == "__main__":
    unittest.main()
