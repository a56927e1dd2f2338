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

    def test_arrays(self) -> None:
        rows = [  # a directive, the array's name, its indices, its limit
            ("-J a[1-3]", "a", [1, 2, 3], 0),
            ("-J \"a.b_c-D[1-5,8]%2\"", "a.b_c-D", [1, 2, 3, 4, 5, 8], 2),
            ("-J 'a[1-10:4, 2,5-5,1-2]'", "a", [1, 5, 9, 2], 0),
            ("-J [1000]", "", [1000], 0),
        ]
        for line, name, indices, limit in rows:
            with self.subTest(line):
                directives, _ = lsf_emulator.read_script("#BSUB %s\n" % line)
                options = lsf_emulator.script_options(directives)
                array = lsf_emulator.read_array(options["-J"])
                self.assertEqual((array.name, array.limit), (name, limit))
                self.assertEqual(lsf_emulator.indices({"options": options}), indices)

    def test_refusals(self) -> None:
        rows = [  # a directive, part of what LSF says
            ("--exclusive", "--exclusive: Illegal option"),
            ("-J", "-J: Option needs an argument"),
            ("-J '#a'", "-J: Option needs an argument"),
            ("-J x y", "y: Illegal option"),
            ("-J 'a", "Bad quotes"),
            ("-J 'a'b", "Bad quotes"),
            ("-J \"a \\\"b\\\"\"", "Bad quotes"),
            ("-J a]b", "Bad job name"),
            ("-J a[b]", "Bad job name"),
            ("-J a[]", "Bad job name"),
            ("-J a[1,]", "Bad job name"),
            ("-J a[0-3]", "Bad job name"),
            ("-J a[3-1]", "Bad job name"),
            ("-J a[3-]", "Bad job name"),
            ("-J a[1-3:0]", "Bad job name"),
            ("-J a[1-3]b", "Bad job name"),
            ("-J a[1-3]%0", "Bad job name"),
            ("-J a[1][2]", "Bad job name"),
            ("-J 'a b[1-3]'", "Bad job name"),
            ("-J %s[1-3]" % ("a" * 251), "Bad job name"),
            ("-J a[1-1001]", "Job array index too large"),
            ("-J a[1001]", "Job array index too large"),
            ("-J a[1-600,1-600]", "Job array index too large"),
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


class Arrays(Case):
    """Job arrays."""
    element = ["bjobs", "-a", "-noheader", "-o", "jobid jobindex stat job_name delimiter='^'"]

    def stats(self, jobid: str) -> List[str]:
        """The states of the elements, in the order of bjobs."""
        return [line.split("^")[2] for line in self.run_it(*self.element + [jobid]).out.split()]

    def until_all(self, jobid: str, *stats: str) -> None:
        """Wait for the elements to be in these states."""
        deadline = time.time() + 20
        while self.stats(jobid) != list(stats) and time.time() < deadline:
            time.sleep(0.05)
        self.assertEqual(self.stats(jobid), list(stats))

    def test_submission(self) -> None:
        script = "#!/bin/sh\n#BSUB -J \"inner[1-3]\"\ntrue\n"
        small = {"LSF_EMULATOR_ARRAY_SIZE": "2"}
        too_large = Ran(255, "", "Job array index too large. Job not submitted.\n")
        rows = [  # argv, environment, what bsub says, elements
            ([], {}, Ran(0, "Job <101> is submitted to default queue <normal>.\n", ""),
             ["inner[1]", "inner[2]", "inner[3]"]),
            (["-J", "outer[7]%1"], {},
             Ran(0, "Job <102> is submitted to default queue <normal>.\n", ""), ["outer[7]"]),
            (["-q", "held", "-J", "a"], {},
             Ran(0, "Job <103> is submitted to queue <held>.\n", ""), ["a"]),
            ([], small, too_large, []),
            (["-J", "a[3]"], small, too_large, []),
            (["-J", "a[0-2]"], {}, Ran(255, "", "Bad job name. Job not submitted.\n"), []),
        ]
        for argv, env, said, elements in rows:
            with self.subTest((argv, env)):
                self.assertEqual(self.run_it("bsub", *argv, stdin=script, env=env), said)
                if elements:
                    out = self.run_it(*self.element + [said.out[5:8]]).out
                    self.assertEqual([line.split("^")[3] for line in out.split()], elements)

    def test_bparams(self) -> None:
        for env, expected in (({}, 1000), ({"LSF_EMULATOR_ARRAY_SIZE": "75000"}, 75000)):
            ran = self.run_it("bparams", "-a", env=env)
            self.assertEqual(ran.status, 0, ran)
            self.assertIn("    MAX_JOB_ARRAY_SIZE = %d\n" % expected, ran.out)

    def test_surroundings(self) -> None:
        jobid = self.submit(
            "#!/bin/sh\n#BSUB -J n.x[1-5:3,8]%3\n#BSUB -o out.%J.%I -e err.%I\n"
            "echo $LSB_JOBID $LSB_BATCH_JID $LSB_JOBINDEX $LSB_JOBNAME $LSB_JOBINDEX_STEP"
            " $LSB_JOBINDEX_END\necho oops $LSB_JOBINDEX >&2; exit $((LSB_JOBINDEX - 1))")
        self.until_all(jobid, "DONE", "EXIT", "EXIT")
        rows = [(1, "3 5", "Done", "-"), (4, "3 5", "Exited", "3"), (8, "1 8", "Exited", "7")]
        for index, step_and_end, how, code in rows:
            with self.subTest(index):
                report, out = self.text("out.%s.%d" % (jobid, index)).split("follows:\n\n")
                one = "%s[%d]" % (jobid, index)
                self.assertIn("Job %s: <n.x[1-5:3,8]%%3> in cluster <emulator> %s" % (one, how),
                              report)
                self.assertEqual(out, "%s %s %d n.x[%d] %s\n" % (jobid, one, index, index,
                                                                 step_and_end))
                self.assertEqual(self.text("err.%d" % index), "oops %d\n" % index)
                self.assertEqual(self.run_it(*SHOW + [one]).out.strip().split("^")[2], code)
        single = self.submit("echo \"$LSB_JOBINDEX $LSB_JOBNAME $LSB_JOBINDEX_STEP\" >out.%I",
                             "-J", "n")
        self.until(single, "DONE")
        self.assertEqual(self.text("out.%I"), "0 n \n")

    def test_bjobs(self) -> None:
        jobid = self.submit("true", "-q", "held", "-J", "a[1-3,7]")
        other = self.submit("true", "-q", "held", "-J", "ab[1]")
        single = self.submit("true", "-q", "held", "-J", "a")
        line = {index: "%s^%d^PEND^a[%d]\n" % (jobid, index, index) for index in (1, 2, 3, 7)}
        array, alone = "".join(line.values()), "%s^0^PEND^a\n" % single
        another = "%s^1^PEND^ab[1]\n" % other
        rows = [  # what is asked for, what is said
            ([], Ran(0, array + another + alone, "")),
            ([jobid], Ran(0, array, "")),
            (["%s[3]" % jobid], Ran(0, line[3], "")),
            (["%s[2-3,7]" % jobid, single], Ran(0, line[2] + line[3] + line[7] + alone, "")),
            (["%s[1-7:2]" % jobid],
             Ran(0, line[1] + line[3] + line[7], "Job <%s[5]> is not found\n" % jobid)),
            (["%s[1]" % single], Ran(255, "", "Job <%s[1]> is not found\n" % single)),
            (["9[1]"], Ran(255, "", "Job <9[1]> is not found\n")),
            (["%s[0]" % jobid], Ran(255, "", "%s[0]: Bad job array index list.\n" % jobid)),
            (["%s[1" % jobid], Ran(255, "", "%s[1: Bad job array index list.\n" % jobid)),
            (["a[1]"], Ran(255, "", "a[1]: Illegal job ID.\n")),
            (["-J", "a"], Ran(0, array + alone, "")),
            (["-J", "a[7]"], Ran(0, line[7], "")),
            (["-J", "a*[1]"], Ran(0, line[1] + another, "")),
            (["-J", "a[*]"], Ran(255, "", "No job found\n")),
        ]
        for argv, expected in rows:
            with self.subTest(argv):
                self.assertEqual(self.run_it(*self.element + argv), expected)

    def test_bkill_of_those_that_wait(self) -> None:
        jobid = self.submit("true", "-q", "held", "-J", "a[1-9]")
        rows = [  # what is killed, stdout, stderr; %s is the job
            ("%s[3]", "Job <%s[3]> is being terminated\n", ""),
            ("%s[3]", "", "Job <%s[3]>: Job has already finished\n"),
            ("%s[10]", "", "Job <%s[10]>: No matching job found\n"),
            ("%s[1-2,5]", "Job <%s[1]> is being terminated\nJob <%s[2]> is being terminated\n"
             "Job <%s[5]> is being terminated\n", ""),
            ("%s[1-5,9-12]", "Job <%s[4]> is being terminated\nJob <%s[9]> is being terminated\n",
             "Job <%s[10-12:1]>: No matching job found\n"
             "Job <%s[1-3:1]>: Job has already finished\nJob <%s[5]>: Job has already finished\n"),
            ("%s[x]", "", "%s[x]: Bad job array index list.\n"),
            ("%s", "", "Job <%s>: Operation is in progress\n"),
            ("%s", "", "Job <%s>: Job has already finished\n"),
            ("0[1]", "", "0[1]: Job ID out of valid range.\n"),
        ]
        for target, out, err in rows:
            with self.subTest(target):
                target, out, err = (text.replace("%s", jobid) for text in (target, out, err))
                self.assertEqual(self.run_it("bkill", target), Ran(255 if err else 0, out, err))
        self.assertEqual(self.stats(jobid), ["EXIT"] * 9)

    def test_bkill_of_those_that_run(self) -> None:
        jobid = self.submit("echo >ready.$LSB_JOBINDEX; sleep 30", "-J", "a[1-3]")
        self.until_all(jobid, "RUN", "RUN", "RUN")
        for index in (1, 2, 3):
            self.until_text("ready.%d" % index)
        ran = self.run_it("bkill", "%s[2]" % jobid)
        self.assertEqual(ran, Ran(0, "Job <%s[2]> is being terminated\n" % jobid, ""))
        self.until_all(jobid, "RUN", "EXIT", "RUN")
        self.assertEqual(self.run_it("bkill", "-J", "a", "0").out,
                         "".join("Job <%s[%d]> is being terminated\n" % (jobid, index)
                                 for index in (1, 3)))
        self.until_all(jobid, "EXIT", "EXIT", "EXIT")
        reason = ["bjobs", "-noheader", "-o", "exit_code exit_reason delimiter='|'", jobid]
        self.assertEqual(self.run_it(*reason).out, ("130|%s\n" % lsf_emulator.OWNER) * 3)

    def test_how_many_run_at_once(self) -> None:
        # Each element counts those that run, and goes on when as many were seen as may run.
        script = ("id=$LSB_JOBID i=$LSB_JOBINDEX; mkdir run.$id.$i; n=$(ls -d run.$id.* | wc -l)\n"
                  "echo $n >count.$id.$i; test $n -lt %d || echo >full.$id\n"
                  "until test -e full.$id; do sleep 0.05; done; sleep 0.3; rmdir run.$id.$i")
        rows = [  # options, environment, the most at once
            (["-J", "a[1-5]%2"], {}, 2),
            (["-J", "a[1-5]%4", "-n", "2"], {"LSF_EMULATOR_SLOTS": "6"}, 3),
            (["-J", "a[1-5]"], {}, 5),
        ]
        ids = [self.submit(script % most, *options, env=env) for options, env, most in rows]
        for jobid, (options, _, most) in zip(ids, rows):
            with self.subTest(options):
                self.until_all(jobid, *["DONE"] * 5)
                counts = [int(self.text("count.%s.%d" % (jobid, index))) for index in range(1, 6)]
                self.assertEqual(max(counts), most)

    def test_hold_and_release(self) -> None:
        jobid = self.submit("true", "-q", "held", "-J", "a[1-4]")
        rows = [  # command, what of the job, stdout, stderr, the states then
            ("bstop", "[2-3]", "Job <%s[2]> is being stopped\nJob <%s[3]> is being stopped\n", "",
             ["PEND", "PSUSP", "PSUSP", "PEND"]),
            ("bstop", "[3]", "", "Job <%s[3]>: Job is suspended or has started\n",
             ["PEND", "PSUSP", "PSUSP", "PEND"]),
            ("bresume", "[4]", "", "Job <%s[4]>: Job is not held\n",
             ["PEND", "PSUSP", "PSUSP", "PEND"]),
            ("bresume", "[9]", "", "Job <%s[9]>: No matching job found\n",
             ["PEND", "PSUSP", "PSUSP", "PEND"]),
            ("bstop", "", "", "Job <%s>: Operation is in progress\n", ["PSUSP"] * 4),
            ("bresume", "[2]", "Job <%s[2]> is being resumed\n", "",
             ["PSUSP", "DONE", "PSUSP", "PSUSP"]),
            ("bstop", "[2]", "", "Job <%s[2]>: Job has already finished\n",
             ["PSUSP", "DONE", "PSUSP", "PSUSP"]),
            ("bresume", "", "", "Job <%s>: Operation is in progress\n", ["DONE"] * 4),
            ("bresume", "", "", "Job <%s>: Job has already finished\n", ["DONE"] * 4),
        ]
        for command, which, out, err, stats in rows:
            with self.subTest((command, which)):
                out, err = out.replace("%s", jobid), err.replace("%s", jobid)
                self.assertEqual(self.run_it(command, jobid + which),
                                 Ran(255 if err else 0, out, err))
                self.until_all(jobid, *stats)

    def test_held_from_the_start(self) -> None:
        jobid = self.submit("until test -e go; do sleep 0.05; done", "-H", "-J", "a[1-3]%1")
        self.until_all(jobid, "PSUSP", "PSUSP", "PSUSP")
        self.run_it("bresume", "%s[3]" % jobid)
        self.until_all(jobid, "PSUSP", "PSUSP", "RUN")
        self.run_it("bresume", "%s[1]" % jobid)     # there is no room for it yet
        self.until_all(jobid, "PEND", "PSUSP", "RUN")
        open(os.path.join(self.folder, "go"), "w").close()
        self.until_all(jobid, "DONE", "PSUSP", "DONE")

    def test_dependencies(self) -> None:
        first = self.submit("test $LSB_JOBINDEX != 1 || sleep 30", "-J", "first[1-2]")
        ids = [self.submit("true", "-w", condition % first)
               for condition in ("done(%s[2])", "ended(%s)")]
        self.until(ids[0], "DONE")
        self.until("%s[1]" % first, "RUN")
        self.assertEqual(self.until(ids[1], "PEND")[1], "PEND")
        self.run_it("bkill", first)
        self.until(ids[1], "DONE")
        after = self.submit("true", "-w", "exit(%s[1])" % first, "-J", "after[1-2]")
        self.until_all(after, "DONE", "DONE")
        self.assertIn("Dependency condition syntax error",
                      self.run_it("bsub", "-w", "done(%s[3])" % first, stdin="true").err)


if __name__ == "__main__":
    unittest.main()
