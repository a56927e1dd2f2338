"""`why`: the cause of a failure, what shows it, the way out, and what was used."""
import json
import os
import re
import shutil
import socket
import stat
import time
import unittest
from typing import Any, Dict, List
from unittest import mock

import psik
from clusters import SLURM, OnAt, OnSlurm
from harness import Case, needs

# What others say, each with the beginning of the cause that is to be found.
SAID = (
    ("TIMEOUT", "its walltime was over"), ("TERM_RUNLIMIT: job killed", "its walltime was over"),
    ("its walltime of 1 min was over; resources.duration is 1 min", "its walltime was over"),
    ("job 7 exceeded hard wallclock time", "its walltime was over"),
    ("OUT_OF_MEMORY: a process of it was killed for want of memory", "it wanted more memory"),
    ("TERM_MEMLIMIT: job killed after reaching LSF memory usage limit", "it wanted more memory"),
    ("NODE_FAIL", "a node of it failed"), ("JobLaunchFailure", "a node of it failed"),
    ("PREEMPTED", "another job with a higher rank"),
    ("sbatch: error: QOSMaxSubmitJobPerUserLimit", "as many of your jobs as you may have"),
    ("AssocMaxSubmitJobLimit", "as many of your jobs as you may have"),
    ("AssocGrpCPUMinutesLimit", "the time of its project is used up"),
    ("AssocGrpBillingMinutes", "the time of its project is used up"),
    ("QOSMaxJobsPerUserLimit", "your running jobs"), ("AssocGrpCpuLimit", "your running jobs"),
    ("User has reached the per-user job slot limit of the queue", "your running jobs"),
    ("ReqNodeNotAvail, UnavailableNodes:n[1-4]", "nodes that it needs are down"),
    ("PartitionTimeLimit", "it asks for more time than its queue"),
    ("sbatch: error: Batch job submission failed: Requested time limit is invalid (missing or "
     "exceeds some limit)", "it asks for more time than its queue"),
    ("RUNLIMIT: Cannot exceed queue's hard limit(s). Job not submitted.",
     "it asks for more time than its queue"),
    ("PartitionNodeLimit", "it asks for more nodes"),
    ("sbatch: error: Batch job submission failed: Node count specification invalid",
     "it asks for more nodes"),
    ("DependencyNeverSatisfied", "the job that it waits for did not end"),
    ("Invalid account or account/partition combination specified", "its scheduler does not know"),
    ("sbatch: error: invalid partition specified: nope", "there is no such queue"),
    ("Unable to run job: Job was rejected because job requests unknown queue \"x\".",
     "there is no such queue"),
    ("nope: No such queue. Job not submitted.", "there is no such queue"),
    ("BadConstraints", "no node of its queue has all"),
    ("sbatch: error: Batch job submission failed: Requested node configuration is not available",
     "no node of its queue has all"),
    ("JobHeldUser", "it is held"), ("held", "it is held"),
    ("error state Eqw: can't chdir to /x: No such file", "it could not be started"),
    ("Priority, expected to start at 2026-11-28T12:00:00", "others are before it"),
    ("Resources", "others are before it"), ("waits for 2 of 8 slots", "others are before it"),
    ("New job is waiting for scheduling", "others are before it"),
    ("Dependency", "it waits for another job"), ("waits for 1795868013.233", "it waits for"),
    ("BeginTime", "it was asked for a later time"),
    ("CANCELLED", "it was ended by another program"), ("TERM_OWNER", "it was ended by another"),
    ("You do not have permission to use at.", "you may not use at"),
    ("its supervisor was killed, and nothing of it is left", "its supervisor was killed"),
    ("submission unknown since 2026-11-28 12:00:00", "the scheduler has not answered"),
    ("set-up line 1 failed: module load gcc/99", "a module of its set-up"),
    ("set-up line 1 failed: source /budget/TIMEOUT/activate", "line 1 of its set-up failed"),
    ("the interpreter of its script is not there: #!/opt/closed/x", "the program in its #! line"),
    ("QOSMaxWallDurationPerJobLimit", "it asks for more than a job"),
    ("AssocMaxCpuMinutesPerJobLimit", "it asks for more than a job"),
    ("set-up line 2 failed: conda activate sea", "line 2 of its set-up failed"))
WROTE = (
    ("run: line 2: $'\\r': command not found", "the script was written on Windows"),
    ("run: line 2: module: command not found", "module is a function of login shells"),
    ("run: 2: conda: not found", "conda is a function of login shells"),
    ("bash: ./x.sh: /bin/zork: bad interpreter: No such file", "a program is not there"),
    ("/usr/bin/env: 'zork': No such file or directory", "a program is not there"),
    ("run: line 3: lmp_mpi: command not found", "a program is not on that host"),
    ("zsh:1: command not found: lmp", "a program is not on that host"),
    ("./a.out: error while loading shared libraries: libhdf5.so.103: cannot open shared object "
     "file: No such file or directory", "the library libhdf5.so.103, with which"),
    ("OSError: libx.so.1: cannot open shared object file: No such file or directory",
     "the library libx.so.1, with which"),
    ("cp: error writing 'x': No space left on device", "a disk is full"),
    ("cp: error writing 'x': Disk quota exceeded", "your quota of disk space"),
    ("RuntimeError: No CUDA GPUs are available", "it looked for a GPU"),
    ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "the memory of its"),
    ("There are not enough slots available in the system to satisfy the 8", "the launcher was"),
    ("ModuleNotFoundError: No module named 'numpy'", "Python does not have the package"),
    ("MemoryError", "it got no more memory"),
    ("numpy.core._exceptions._ArrayMemoryError: Unable to allocate 7 GiB", "it got no more memory"),
    ("/x/inner.sh: 2: foo\r: not found", "the script was written on Windows"),
    ("x: error while loading shared libraries: libc.so.6: cannot open shared object file: Error 24",
     "it has as many files open"),
    ("run: 3: Syntax error: \"then\" unexpected", "a shell cannot read"),
    ("run: line 2: DATA: unbound variable", "the variable DATA is not set"),
    ("curl: (6) Could not resolve host: example.org", "it could not reach another host"),
    ("Host key verification failed.", "ssh did not let it on"),
    ("ada@n2: Permission denied (publickey,password).", "ssh did not let it on"),
    ("run: line 2: ./x: Permission denied", "it may not run or open a file"),
    ("cat: x: No such file or directory", "a file is not there"),
    ("ZeroDivisionError: division by zero", "its Python program raised"))


class Tables(unittest.TestCase):
    def test_every_row_is_found_by_what_is_really_said(self) -> None:
        for causes, texts in ((psik.SAID_CAUSES, SAID), (psik.STDERR_CAUSES, WROTE)):
            for text, cause in texts:
                with self.subTest(text=text):
                    found = psik.Explanation.find(causes, ["before", text, "after"])
                    self.assertTrue(found.cause.startswith(cause), found)
                    self.assertEqual((found.evidence, found.is_sure), ([text], True))
                    self.assertNotIn("\\1", found[0] + found[1])
            shown = [psik.Explanation.find(causes, [text])[0] for text, _ in texts]
            for row in causes:
                begin = row.cause.partition("\\1")[0]
                self.assertTrue(any(begin in text for text in shown), row)
        for text in ("KeyError: column: not found", "wget: ERROR: not found", "html: not found"):
            self.assertNotIn("a program", psik.Explanation.find(psik.STDERR_CAUSES, [text])[0])
        self.assertEqual(psik.Explanation.find(psik.SAID_CAUSES, ["", "on n12"]),
                         psik.Explanation())


class Asking(Case):
    backend: Any = None

    def setUp(self) -> None:
        super().setUp()
        self.configure()

    def configure(self, **settings: Any) -> str:
        return super().configure(rc_path="/bin/sh", backend=self.backend, poll_interval_s=0,
                                 **settings)

    def why(self, jobid: str) -> Dict[str, Any]:
        """What `why` finds."""
        found: List[Dict[str, Any]] = json.loads(self.psik("why", "--json", jobid).out)
        return found[0]


class OnOneHost(Asking):
    def test_scripts_that_really_fail(self) -> None:
        broken = os.path.join(self.folder, "broken")
        with open(shutil.which("true") or "", "rb") as file:
            program = file.read()
        with open(broken, "wb") as file:
            file.write(program.replace(b"libc.so.6", b"libq.so.6"))
        os.chmod(broken, stat.S_IRWXU)
        self.write("dos.sh", "#!/bin/sh\r\ntrue\r\n", 0o755)
        self.write("zork.sh", "#!/bin/zork\ntrue\n", 0o755)
        self.write("plain", "true\n")
        at = self.folder + "/"
        rows = [("module load gcc", "module is a function"), ("zork 3", "a program is not on"),
                (broken, "the library libq.so.6"), ("exec %sdos.sh" % at, "a program is not there"),
                ("%szork.sh" % at, "a program is not there|a program is not on"),
                ("#!/bin/bash\n%szork.sh" % at, "a program is not there"),
                ("cat /dev/zero >/dev/full", "a disk is full"), ("%splain" % at, "it may not run"),
                ("cat %snone" % at, "a file is not there"), ("exit 3", "its script ended with"),
                ("kill -KILL $$", "it was killed"), ("./nosuch", "a program is not on that host"),
                ("exec ./nosuch", "a program is not there"), ("if then", "a shell cannot read"),
                ("set -u; echo $NOPE", "the variable NOPE is not set")]
        rows += [("python3 -c '%s'" % code, cause) for code, cause in (
            ("import zork", "Python does not have"), ("1/0", "its Python program raised"),
            ("import ctypes; ctypes.CDLL(\"libz0.so\")", "the library libz0.so"))]
        rows += [("ulimit -v 300000; python3 -c 'bytearray(10**9)'", "it got no more memory")]
        rows += [("ulimit -c 0; kill -%s $$" % name, cause) for name, cause in (
            ("SEGV", "it used memory that is not its own"), ("ABRT", "it aborted"),
            ("BUS", "it used memory that is not there"), ("FPE", "it divided by zero"),
            ("PIPE", "it wrote into a pipe"), ("XFSZ", "a file became too large"))]
        for script, cause in rows:
            with self.subTest(script=script):
                jobid = self.run_spec("--wait", script=script, status=None)
                found = self.why(jobid)
                self.assertRegex(found["cause"], "^(%s)" % cause)
                self.assertTrue(found["way_out"])
                self.assertEqual(found["is_sure"], script != "exit 3")
                self.assertNotIn(self.prefix, "".join(found["evidence"]))

    def test_what_went_wrong_before_and_did_not_matter(self) -> None:
        rows = (
            ("WARNING: No space left on device is possible|ValueError: bad shape", 1,
             "its Python program raised an exception"),
            ("ModuleNotFoundError: No module named 'cupy'; using numpy|KeyError: 'alpha'", 1,
             "its Python program raised an exception"),
            ("ls: /scratch/old: No such file or directory|cleanup done|residual is NaN", 1,
             "perhaps a file is not there"),
            ("bash: module: command not found|starting real run|1|2|3|4|5|6|7|8", 3,
             "its script ended with exit status 3"),
            ("PermissionError: '/var/cache': Permission denied|FATAL: solver diverged", 137,
             "it was killed"),
            ("warning: Disk quota exceeded", 139, "it used memory that is not its own"),
            ("error: command not found: foo (ignored)|bar", 3, "its script ended with"),
            ("module: command not found|run: mpirun: command not found", 127,
             "a program is not on"),
            ("terminate called after throwing an instance of 'std::bad_alloc'", 134,
             "it got no more memory"),
            ("note: No space left on device", 2, "a disk is full"),
            ("cp: error writing 'x': No space left on device|0 bytes copied", 1,
             "perhaps a disk is full"))
        for text, status, cause in rows:
            with self.subTest(text=text):
                script = "tr '|' '\\n' <<'END' >&2\n%s\nEND\nexit %d" % (text, status)
                jobid = self.run_spec("--wait", script=script, status=status)
                self.assertTrue(self.why(jobid)["cause"].startswith(cause), self.why(jobid))

    def test_what_was_said_elsewhere(self) -> None:
        jobid = self.run_spec("--wait", script="echo error: bad line 3; exit 1", status=1)
        found = self.why(jobid)
        self.assertEqual((found["evidence"], found["way_out"]), (
            ["error: bad line 3"], "`psik.py logs %s` shows what it said" % jobid))
        jobid = self.run_spec("--wait", script="exit 1", status=1)
        self.assertIn("it printed nothing", self.why(jobid)["way_out"])
        jobid = self.run_spec("--no-submit", script="exit 1")
        self.assertEqual(self.why(jobid)["way_out"], "`psik.py start %s`" % jobid)

    def test_for_people(self) -> None:
        ran = self.psik("run", "--wait", "-t", "5", "-c", "module load gcc", status=127)
        jobid = ran.out.strip()
        self.assertEqual(ran.err.split("\n")[:2], [
            "psik: job %s failed: run: 2: module: not found" % jobid,
            "psik: module is a function of login shells, which a script does not have by itself: "
            "name it as set-up: `run --setup 'module ...'`, `setup` in the spec"])
        self.assertRegex(self.psik("why", "last").out, r"""%s  module
  state      failed with exit status 127
  reason     run: 2: module: not found
  cause      module is a function of login shells, which a script does not have by itself
  evidence   run: 2: module: not found
  way out    name it as set-up: `run --setup 'module ...'`, `setup` in the spec
  used       0:0\d of 5 min; CPU time \d\.\d s; a process at most \d+ MiB
""" % re.escape(jobid))
        self.assertIn("\n  cause      module is a function", self.psik("status", jobid).out)
        self.assertIn("run: 2: module: not found", self.psik("ls").out)
        jobid = self.psik("run", "-c", "echo one two >&2; exit 7").out.strip()
        ran = self.psik("wait", jobid, status=7)
        self.assertEqual(ran.err, "psik: job %s failed: one two\n" % jobid)
        self.assertRegex(self.psik("why", jobid).out, r"""
  reason     one two
  cause      its script ended with exit status 7
  evidence   one two
  way out    `psik.py logs --stderr %s` shows what it said
""" % re.escape(jobid))
        good = self.psik("run", "--wait", "-c", "echo Priority >&2").out.strip()
        self.assertEqual(self.why(good)["cause"], "")
        self.psik("why", "none", status=3)

    def test_what_was_used(self) -> None:
        code = "x = bytearray(200 * 1024 * 1024); sum(range(20 * 1000 * 1000))"
        jobid = self.run_spec("--wait", script="python3 -c '%s' & wait" % code,
                              resources={"memory_per_process": 1024})
        usage = json.loads(self.psik("status", "--json", jobid).out)[0]["usage"]
        self.assertGreater(usage["cpu_s"], 0.1)
        self.assertTrue(200 * 1024 < usage["memory_kib"] < 400 * 1024, usage)
        self.assertRegex(self.psik("status", jobid).out,
                         r"\n  used       0:0\d of 10 min; CPU time \d\.\d s; "
                         r"a process at most 2\d\d MiB of 1024\n")
        live = self.run_spec(script="exec sleep 300")
        self.until(lambda: "1 active" in self.states(live))
        self.assertRegex(self.psik("why", live).out, r"\n  used       0:0\d of 10 min\n")
        self.psik("rm", "--force", live)

    def test_one_that_waits_for_slots_and_one_for_a_job(self) -> None:
        self.configure(slots=1)
        first, second = [self.run_spec(script="exec sleep 300") for _ in range(2)]
        third = self.run_spec(script="true", after=[second])
        self.until(lambda: "slots" in self.why(second)["reason"])
        self.assertIn("others are before it", self.why(second)["cause"])
        self.assertIn("it waits for another job", self.why(third)["cause"])
        self.psik("rm", "--force", first, second, third)

    def test_a_task_of_an_array(self) -> None:
        jobid = self.run_spec("--wait", array="3", script="test $task -ne 2 || zork", status=127)
        found = self.why(jobid)
        self.assertEqual(found["evidence"], ["run: 2: zork: not found"])
        self.assertIn("2/3 done, 1 failed: run: 2: zork: not found", found["reason"])
        script = "case $task in 1) kill -9 $$ ;; 2 | 4) echo bad >&2; exit 1 ;; esac"
        jobid = self.run_spec("--wait", array="5", script=script, status=137)
        self.assertTrue(self.psik("why", jobid).out.endswith(
            "  2 failed   bad: 2 4\n  1 failed   killed by SIGKILL: 1\n"))

    def test_stderr_of_any_size_and_kind(self) -> None:
        jobid = self.run_spec("--wait", script="head -c 3000000 /dev/zero >&2; exit 5", status=5)
        begun = time.process_time()
        self.assertLess(len(str(psik.describe(self.config(), self.job(jobid)))), 6000)
        self.assertLess(time.process_time() - begun, 5)     # and not minutes
        jobid = self.run_spec("--wait", script=r"printf 'a\033[31mb\377\nc' >&2; exit 5", status=5)
        self.assertNotIn("\x1b", self.psik("why", jobid).out + self.psik("ls").out)
        script = (r"printf 'p: error while loading shared libraries: l\033[31mX.so: x\n' >&2; "
                  "exit 127")
        ran = self.psik("run", "--wait", "-c", script, status=127)
        self.assertIn("the library l?[31mX.so", ran.err)
        self.assertNotIn("\x1b", ran.err + self.psik("why", "last").out)
        self.assertIn("c", self.why(jobid)["reason"])
        self.psik("start", jobid)
        self.psik("wait", jobid, status=5)
        os.unlink(self.job(jobid).log("stderr", 2))
        self.assertEqual(self.why(jobid)["evidence"], [])
        os.mkfifo(self.job(jobid).log("stderr", 2))
        self.assertEqual(self.why(jobid)["evidence"], [])   # and nobody waits for its other end

    def test_the_end_of_a_file_is_found_quickly(self) -> None:
        path = self.write("lines", "1\n" * 100000 + "end")
        begun = time.process_time()
        for lines, begin in ((1, 200000), (2, 199998), (0, 200003), (100000, 2), (200000, 0)):
            with open(path, "rb") as file:
                psik.skip_to_tail(file, lines)
                self.assertEqual(file.tell(), begin, lines)
        self.assertLess(time.process_time() - begun, 1)
        for text, lines, rest in (
                ("a\nb\n", 1, "b\n"), ("a\nb", 1, "b"), ("", 3, ""), ("a", 2, "a"),
                ("\n\n", 1, "\n"), ("a\nb\n", 2, "a\nb\n")):
            with open(self.write("lines", text), "rb") as file:
                psik.skip_to_tail(file, lines)
                self.assertEqual(file.read().decode(), rest, (text, lines))


class Doctor(Asking):
    def found(self, *argv: str, status: int = 0) -> Dict[str, List[Dict[str, Any]]]:
        """What `doctor` finds, by its subject."""
        said = self.psik("doctor", "--json", *argv, status=status).out
        rows: List[Dict[str, Any]] = json.loads(said)
        return {row["subject"]: [each for each in rows if each["subject"] == row["subject"]]
                for row in rows}

    def test_where_all_is_well(self) -> None:
        found = self.found("--deep")
        self.assertEqual(sorted(found), ["a job", "backend", "config", "prefix", "python", "shell"])
        self.assertRegex(found["a job"][0]["found"], "^local: queued after .* completed after")
        self.assertEqual(self.psik("ls", "--json").out, "[]\n")     # it has been removed
        self.assertEqual(sorted(os.listdir(self.prefix)), [".psik", "local"])
        said = self.psik("doctor").out
        self.assertIn("\u2713 prefix     " + self.prefix, said)
        self.env.update(LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
        self.assertIn("ok prefix     " + self.prefix, self.psik("doctor").out)

    def test_what_is_wrong_is_named_with_a_way_out(self) -> None:
        super(Asking, self).configure(
            rc_path="/no/shell", prefix=self.write("file", "") + "/x", backends={
                "a": {"type": "local"}, "b": {"type": "slurm"}})
        self.env["PATH"] = os.path.dirname(shutil.which("true") or "") + "/none"
        found = self.found("--deep", status=1)
        self.assertIn("file/x: not a directory", found["prefix"][0]["found"])
        self.assertIn("psik.json", found["prefix"][0]["way_out"])
        for subject in ("shell", "prefix", "backend", "a job"):
            for row in found[subject]:
                self.assertTrue(row["is_wrong"] and row["way_out"], row)
        self.assertEqual(len(found["backend"]), 2)
        self.assertEqual(self.psik("doctor", status=1).out.count("\u2717"), 4)

    def test_a_job_that_fails_is_left_for_why(self) -> None:
        self.configure(defaults={"setup": ["false"]})
        row, = self.found("--deep", status=1)["a job"]
        self.assertIn("failed after", row["found"])
        self.assertIn("set-up line 1 failed: false", row["found"])
        jobid = json.loads(self.psik("ls", "--json").out)[0]["jobid"]
        self.assertEqual(row["way_out"],
                         "`psik.py why %s`; `psik.py rm --force %s`" % (jobid, jobid))

    def test_callbacks_that_are_left(self) -> None:
        self.run_spec("--wait", script="true", callback="http://127.0.0.1:1/")
        out, left = self.found(status=1)["callbacks"]
        self.assertEqual(out["found"], "http://127.0.0.1:1 cannot be reached: Connection refused")
        self.assertRegex(left["found"], "^[a-z]+: [1-9] wait to be sent, 0 were given up")

    def test_callbacks_that_get_out(self) -> None:
        with socket.socket() as receiver:
            receiver.bind(("127.0.0.1", 0))
            receiver.listen(1)
            port = receiver.getsockname()[1]
            for path in ("a?token=x", "b"):
                self.run_spec("--no-submit", script="true",
                              callback="http://127.0.0.1:%d/%s" % (port, path))
            row, = self.found()["callbacks"]
            self.assertEqual(row["found"], "http://127.0.0.1:%d can be reached" % port)
            with receiver.accept()[0] as taken:
                self.assertEqual(taken.recv(100), b"")      # it is told nothing

    def test_file_systems(self) -> None:
        room = os.statvfs(self.folder)
        full = mock.Mock(f_bavail=10, f_frsize=4096, f_files=9, f_favail=5)
        self.assertGreater(room.f_bavail, 0)
        for name, value, said in (
                ("fcntl.flock", mock.Mock(), "grants one lock to two processes at once"),
                ("fcntl.flock", mock.Mock(side_effect=OSError(37, "No locks available")),
                 "has no locks (No locks available)"),
                ("os.link", mock.Mock(side_effect=OSError(1, "x")), "has no hard links"),
                ("os.statvfs", mock.Mock(return_value=full), "only 0 MiB are free there"),
                ("os.statvfs", mock.Mock(return_value=full), "only 5 more files can be made"),
                ("os.posix_fallocate", mock.Mock(side_effect=OSError(122, "Disk quota exceeded")),
                 "not 16 MiB more can be written there: Disk quota exceeded"),
                ("time.time", mock.Mock(return_value=9.0), "s ahead")):
            with mock.patch(name, value):
                faults = list(psik.FolderExam(self.prefix).all())
            self.assertTrue(any(said in wrong and way for wrong, way in faults), (name, faults))
        with mock.patch("psik.read_or_empty", return_value="13"):
            faults = list(psik.FolderExam(self.prefix).all())
        self.assertIn("appends of two processes overwrite each other", faults[0][0])
        self.assertEqual(list(psik.FolderExam(self.prefix).all()), [])
        self.assertEqual(os.listdir(self.prefix), [])


@needs("at, and root to start atd", shutil.which("at") and os.geteuid() == 0)
class DoctorOfAt(OnAt, Doctor):
    backend = {"type": "at", "queue_name": "a"}

    def test_where_all_is_well(self) -> None:
        row, = self.found("--deep")["a job"]
        self.assertRegex(row["found"], "^at: queued after .* completed")
        self.atd.stop()
        try:
            row, = self.found(status=1)["backend"]
            self.assertIn("no atd is running", row["found"])
        finally:
            self.atd.start()


@needs("Slurm", SLURM)
class OnACluster(OnSlurm, Asking):
    """What a real Slurm says."""
    slurm_settings = {"PartitionName": "short Nodes=n1 MaxTime=60 State=UP"}
    backend = {"type": "slurm"}

    def submitted(self, *argv: str, status: int = 0) -> str:
        """Submit a job with these options; its id."""
        script = ("-c", "sleep 300") if "-c" not in argv else ()
        return self.psik("run", *script, *argv, status=status).out.strip()

    def test_a_doctor(self) -> None:
        row, = json.loads(self.psik("doctor", "--deep", "--json").out)[-1:]
        self.assertRegex(row["found"], "^slurm: queued after .* completed after")

    def test_jobs_that_wait(self) -> None:
        whole = self.submitted("-N", "2")
        self.until(lambda: "1 active" in self.states(whole))
        rows = [(self.submitted("-N", "2"), "others are before it"),
                (self.submitted("--set", "backend.attributes.--begin=now+1hour"), "it was asked"),
                (self.submitted("--set", "backend.attributes.-H="), "it is held")]
        first = str(self.job(rows[0][0]).rows()[1].info)
        rows.append((self.submitted("--set", "backend.attributes.-d=afterok:" + first),
                     "it waits for another job"))
        for jobid, cause in rows:
            self.until(lambda: self.why(jobid)["cause"].startswith(cause), cause)
            self.assertTrue(self.why(jobid)["way_out"])
        for jobid in [whole] + [jobid for jobid, _ in rows]:
            self.psik("cancel", jobid)

    def test_jobs_that_are_refused(self) -> None:
        for argv, cause in ((("--queue", "nope"), "there is no such queue"),
                            (("-N", "9"), "it asks for more nodes|no node of its queue has all"),
                            (("--mem", "900G"), "no node of its queue has all"),
                            (("-t", "2h", "--queue", "short"), "it asks for more time")):
            with self.subTest(argv=argv):
                jobid = self.submitted(*argv, status=4)
                self.assertRegex(self.why(jobid)["cause"], "^(%s)" % cause)

    def test_one_that_somebody_else_ended(self) -> None:
        jobid = self.submitted()
        self.until(lambda: "1 active" in self.states(jobid))
        self.slurm.run("scancel", str(self.job(jobid).rows()[1].info))
        self.psik("wait", jobid, status=143)
        self.until(lambda: self.why(jobid)["cause"].startswith("it was ended by another program"))


if __name__ == "__main__":
    unittest.main()
