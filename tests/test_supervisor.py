"""What happens to a job when something goes wrong around it: faults on real jobs, in rc and in sh.

A row is a fault; the claim is the same for all: what the record says is so, and a job that is to
end ends.
"""
import contextlib
import fcntl
import json
import os
import py_compile
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from typing import Any, Callable, Dict, List
from unittest import mock

import psik
from clusters import SLURM, OnAt, OnSlurm
from harness import (FAST, PSIK, Case, brought_to_the_disk, captured, kill, needs, processes_with,
                     rc_path)

ROOT_USER = os.geteuid() == 0 and os.path.isdir("/proc/self/ns")
NAMESPACES = needs("root and Linux namespaces", ROOT_USER and shutil.which("unshare"))
SLEEP = shutil.which("sleep") or ""
SAVING = ("#!/bin/sh\ntrap 'echo saved; exit 0' USR1 USR2\necho ready\n"
          "while :; do %s 0.1; done\n" % SLEEP)
PYTHON_DAEMON = """#!%s
import os, subprocess
subprocess.Popen(NAP, start_new_session=True)  # which closes what it inherited
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 1000)
        os.execv(NAP[0], NAP)
    os._exit(0)
os.wait()
""" % sys.executable


ROWS = ["1.5,0,new,0", "12,1,queued,a b", "12.,1,active,x", "xx9.5,1,active,", "9.5,1,active,7\r",
        "9.5,²,active,7", "9.5,1,dancing,7", "9.5,1234567890,active,7", "junk1.5,2,completed,0",
        "1.5,2,failed", ",1,active,7", "x,1,active,7", "1.5,1,active,a\"b"]


class Program(unittest.TestCase):
    """Parts of the supervisor, as a module."""

    def setUp(self) -> None:
        sys.path.insert(0, os.path.join(os.path.dirname(PSIK), "templates"))
        self.addCleanup(sys.path.pop, 0)
        self.module: Any = __import__("supervisor")

    def test_it_reads_a_history_as_psik_does(self) -> None:
        for line in ROWS:
            with captured():
                known = [(row.jobndx, row.state.value, str(row.info))
                         for row in psik.parse_rows(line, "status.csv")]
            self.assertEqual(self.module.rows_of(line), known, line)

    def test_a_new_step_is_not_canceled_by_what_ended_an_older_one(self) -> None:
        history = self.module.History.__new__(self.module.History)
        new, queued, ended = (0, "new", "0"), (1, "queued", "7"), (0, "canceled", "0")
        for rows, canceled in (([new, queued, ended], {1: True, 2: False}),
                               ([new, queued, ended, (1, "canceled", "143")], {2: False}),
                               ([new, ended], {1: True}), ([new, ended, queued], {1: False})):
            history.rows = rows
            found = {jobndx: history.is_canceled(jobndx) for jobndx in canceled}
            self.assertEqual(found, canceled, rows)

    def slots(self) -> Any:
        """The slots of a folder of the test's."""
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        slots = self.module.Slots()
        slots.folder = os.path.join(folder, "slots")
        return slots

    def test_whoever_leaves_lets_others_into_the_queue(self) -> None:
        slots = self.slots()
        os.close(slots.lock())
        slots.own, slots.fd = slots.folder + "/1", os.open(slots.folder + "/1", os.O_CREAT)
        psik.write_file(slots.folder + "/2", "")
        os.unlink(slots.own)    # by whoever found it without its lock
        slots.leave()
        with open(slots.folder + "/lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def test_the_folder_of_the_queue_goes_just_now(self) -> None:
        slots = self.slots()
        make, gone = slots.make_folder, []

        def make_folder() -> None:
            make()
            if not gone:
                gone.append(os.rmdir(slots.folder))

        slots.make_folder = make_folder
        os.close(slots.lock())
        self.assertEqual(gone, [None])

    def test_steps_of_one_dead_node_have_one_deadline(self) -> None:
        def end(step: Any, left_s: float) -> str:
            left.append(left_s)
            time.sleep(0.3)
            return "no answer"

        steps = [("7", mock.Mock(jobndx=number, offset=None)) for number in (1, 2, 3)]
        for _, step in steps:
            step.place.return_value = "elsewhere"
        left: List[float] = []
        with mock.patch.multiple(self.module, asked_steps=lambda natives: steps, end_elsewhere=end,
                                 request_ends=mock.Mock(), end_waiting=mock.Mock()), \
                mock.patch.dict(self.module.SETTINGS, {"grace_s": 5}), captured():
            self.assertEqual(self.module.cancel(["7"]), 1)
        self.assertLess(left[2], left[0] - 0.5)

    def test_another_jobs_want_of_memory(self) -> None:
        below = "/slurm/uid_0/job_77/step_batch"
        for line, path in (("5:memory:", "/sys/fs/cgroup/memory%s/memory.oom_control"),
                           ("0::", "/sys/fs/cgroup%s/memory.events")):
            texts = {"/proc/self/cgroup": line + below + "\n", path % below: "oom_kill 3\n"}
            with mock.patch.object(self.module, "read", lambda path: texts.get(path, "")):
                found = [self.module.killed_for_memory(native) for native in ("77", "7", "")]
            self.assertEqual(found, [3, 0, 0])

    def test_an_event_is_one_that_psik_reads(self) -> None:
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        job = psik.create(psik.Config(prefix=folder),
                          psik.JobSpec(script="true", callback="http://127.0.0.1:9/"))
        self.module.SETTINGS.update(callback_timeout_s=1, base=job.path)
        history = self.module.History(job.path)
        history.lock()
        for state, info in (("queued", 'a"b\\c'), ("active", "12"), ("completed", "0")):
            history.append(1, state, info)
        history.unlock()
        history.sync()
        events = psik.Outbox(job).events()
        rows = job.rows()
        self.assertEqual([(event.state, event.info, event.place) for event in events],
                         [("queued", 'a"b\\c', 1), ("active", 12, 2), ("completed", 0, 3)])
        self.assertEqual([event.belongs_to(rows) for event in events], [True] * 3)
        self.assertEqual(psik.Outbox(job).missed(rows, events), [])

    def test_events_and_then_the_history_are_on_the_disk_before_they_are_delivered(self) -> None:
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        job = psik.create(psik.Config(prefix=folder),
                          psik.JobSpec(script="true", callback="http://127.0.0.1:9/"))
        self.module.SETTINGS.update(callback_timeout_s=1, base=job.path)
        run, known = self.module.Run(1, {"jobid": "own", "psik_walltime_s": "600"}), []
        run.history.lock()
        for state in ("active", "completed"):
            run.history.append(1, state, "0")
        run.history.unlock()
        paths = [psik.Outbox(job).path(place) for place in (1, 2)] + [job.status_path]
        with brought_to_the_disk("posix.fsync") as found:
            with mock.patch.object(self.module, "start",
                                   lambda *words: known.append(list(found)) or 1):
                run.deliver()
        self.assertEqual(known, [[(path, psik.read_text(path).encode()) for path in paths]])

    def test_a_step_that_was_submitted_twice_is_known_by_the_one_that_runs(self) -> None:
        rows = psik.parse_rows("1.5,0,new,0\n1.5,1,active,77\n1.6,1,queued,78\n", "x")
        job = psik.JobDir("/x/1.5")
        self.assertEqual([step.native for step in psik.Steps(rows).live(job)], ["77"])
        rows = psik.parse_rows("1.5,0,new,0\n1.5,1,queued,78\n1.6,1,active,0\n", "x")
        self.assertEqual([step.native for step in psik.Steps(rows).live(job)], ["78"])


class Faulty(Case):
    """A test with a nap of its own, and a config for each shell."""
    count = 0
    backend: Dict[str, Any] = {"type": "local"}

    def setUp(self) -> None:
        super().setUp()
        Faulty.count += 1
        # BusyBox takes no fractions.
        self.seconds = "1%05d%03d" % (os.getpid() % 100000, Faulty.count)
        self.nap = "%s %s" % (SLEEP, self.seconds)
        self.addCleanup(lambda: kill(self.naps()))

    def configure(self, **settings: Any) -> str:
        options: Dict[str, Any] = dict(poll_interval_s=0, kill_grace_s=1, backend=self.backend)
        return super().configure(**dict(options, **settings))

    def naps(self) -> List[str]:
        """The processes that sleep for this test."""
        return processes_with("sleep " + self.seconds)

    def in_both_shells(self, test: Callable[[], None], **settings: Any) -> None:
        for shell in (rc_path(), "/bin/sh"):
            if shell:
                with self.subTest(shell=shell):
                    self.configure(rc_path=shell, **settings)
                    test()

    def put(self, script: str, naps: int = 1, **spec: Any) -> str:
        """Submit a job and wait until so many of its naps have begun; its id."""
        spec.setdefault("resources", {"exclusive_node_use": False})
        jobid = self.run_spec(script=script, **spec)
        self.until(lambda: len(self.naps()) >= naps,
                   "%d naps: %s" % (naps, psik.read_or_empty(self.job(jobid).log("submit", 1))))
        self.until(lambda: "1 active" in self.states(jobid))
        return jobid

    def supervisor(self, jobid: str) -> int:
        """Its process id."""
        text = psik.read_or_empty(self.job(jobid).log("claim", 1))
        return int(dict(line.split(" ", 1) for line in text.splitlines())["pid"])

    def nothing_left(self, jobid: str, *last: str) -> None:
        """Check that nothing of a job runs, and how its history ends."""
        self.assertEqual(self.naps(), [])
        self.until(lambda: self.states(jobid)[-len(last):] == list(last),
                   "%s, not %s" % (last, self.states(jobid)), seconds=5)


class Everywhere:
    """What holds on every backend."""
    needs_cells: Dict[str, Any] = {"exclusive_node_use": False}

    def test_what_the_script_left_running_has_ended_when_the_job_has(self: Any) -> None:
        argv = json.dumps(self.nap.split())
        scripts = {"in the background": "#!/bin/sh\n%s & exit 0" % self.nap,
                   "in a session": "#!/bin/sh\nsetsid %s & exit 0" % self.nap,
                   "without its environment": "#!/bin/sh\nenv -i setsid %s & exit 0" % self.nap,
                   "daemons": PYTHON_DAEMON.replace("NAP", argv),
                   "stubborn": "#!/bin/sh\n(trap '' TERM; %s) & exit 0" % self.nap}

        def test() -> None:
            for script in scripts.values():
                with self.subTest(script=script):
                    jobid = self.run_spec(script=script, resources=self.needs_cells)
                    self.psik("wait", jobid)
                    self.nothing_left(jobid, "1 completed")
        self.in_both_shells(test)

    def test_a_user_signal_for_everything_is_the_payloads(self: Any) -> None:
        def test() -> None:
            for number in (signal.SIGUSR1, signal.SIGUSR2):
                jobid = self.run_spec(script=SAVING, resources=self.needs_cells)
                self.until(lambda: self.psik("logs", jobid, status=None).out == "ready\n")
                supervisor = self.supervisor(jobid)
                os.killpg(os.getpgid(supervisor), number)
                kills = [line for line in processes_with(self.job(jobid).path)
                         if str(supervisor) not in line.split()]
                for line in kills:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(line.split()[1]), number)
                self.psik("wait", jobid)
                self.assertEqual(self.states(jobid)[-1], "1 completed")
                self.assertEqual(self.psik("logs", jobid).out, "ready\nsaved\n")
        self.in_both_shells(test)

    def cancel_and_remove(self: Any, jobid: str, *last: str) -> None:
        self.psik("cancel", "--wait", jobid)
        self.nothing_left(jobid, *last)
        self.psik("rm", jobid)

    def test_all_of_it_was_stopped(self: Any) -> None:
        def test() -> None:
            jobid = self.put(self.nap)
            for line in processes_with(self.job(jobid).path) + self.naps():
                os.kill(int(line.split()[1]), signal.SIGSTOP)
            self.cancel_and_remove(jobid, "0 canceled", "1 canceled")
        self.in_both_shells(test)

    def test_removing_with_force_waits_for_all_of_it(self: Any) -> None:
        def test() -> None:
            stubborn = "(trap '' TERM; %s; %s) & " % (self.nap, self.nap)
            jobid = self.put("#!/bin/sh\n" + stubborn * 8 + "wait", naps=8)
            self.psik("rm", "--force", jobid)
            self.assertEqual(self.naps(), [])
        self.in_both_shells(test)


class Ends(Everywhere, Faulty):
    """How a job ends, and what it leaves behind."""

    def test_exit_statuses_and_signals(self) -> None:
        def test() -> None:
            config = self.config()
            wanted = {"exit %d" % status: status for status in range(256)}
            wanted.update({"kill -%d $$" % number: 128 + number for number in range(1, 32)
                           if number not in (signal.SIGCHLD, signal.SIGCONT, signal.SIGURG,
                                             signal.SIGWINCH, signal.SIGSTOP, signal.SIGTSTP,
                                             signal.SIGTTIN, signal.SIGTTOU)})
            jobs = {}
            for script in wanted:
                job = jobs[script] = psik.create(
                    config, psik.JobSpec(script="#!/bin/sh\nulimit -c 0\n" + script))
                psik.submit(job)
            summaries = psik.wait(config, list(jobs.values()), 240)
            self.assertEqual({script: each.info for script, each in zip(jobs, summaries)}, wanted)
        self.in_both_shells(test)

    def test_its_directory_is_removed_by_hand(self) -> None:
        def test() -> None:
            jobid = self.run_spec(script="sleep 0.5")
            path = self.job(jobid).path
            self.until(lambda: processes_with(path))
            os.rename(path, os.path.join(self.folder, jobid))
            self.gone(path)
        self.in_both_shells(test)

    @needs("root and setpriv", ROOT_USER and shutil.which("setpriv"))
    def test_a_process_of_another_user_in_its_session(self) -> None:
        other = "setpriv --reuid=65534 --regid=65534 --clear-groups %s" % self.nap

        def test() -> None:
            jobid = self.run_spec("--wait", script="#!/bin/sh\n%s & exit 0" % other)
            self.nothing_left(jobid, "1 completed")
            jobid = self.put("#!/bin/sh\nexec " + other)
            self.psik("cancel", jobid)
            self.nothing_left(jobid, "0 canceled", "1 canceled")
        self.in_both_shells(test)

    def test_a_pipe_breaks_as_in_a_shell(self) -> None:
        jobid = self.run_spec("--wait", script="#!/bin/bash\nyes | head -1\necho ${PIPESTATUS[0]}")
        self.assertEqual((self.psik("logs", jobid).out, self.psik("logs", "--stderr", jobid).out),
                         ("y\n141\n", ""))

    def test_what_the_payload_is_given(self) -> None:
        script = ("#!%s -S\nimport json, os\nstatus = open('/proc/self/status').read()\n"
                  "print(json.dumps([status, os.listdir('/proc/self/fd')]))" % sys.executable)

        def test() -> None:
            env = {name: value for name, value in self.env.items()
                   if not name.startswith(("LC_", "LANG"))}
            job = psik.create(self.config(), psik.JobSpec(script=script))
            line = "trap '' HUP USR1; exec %s 1 7</dev/null" % job.script("job")
            subprocess.run(["/bin/sh", "-c", line], env=env, timeout=60)
            status, fds = json.loads(psik.logs(job))
            masks = dict(line.split(":\t") for line in status.splitlines()
                         if line.startswith("Sig"))
            self.assertEqual(int(masks["SigBlk"], 16), 0)
            # Less two of Python's and two of the C library's.
            self.assertEqual(int(masks["SigIgn"], 16) & ~0x181001000, 0)
            # With the lock, and what lists them.
            self.assertEqual(sorted(map(int, fds))[:3] + [len(fds)], [0, 1, 2, 5])
            jobid = self.run_spec("--wait", script="#!/bin/sh\nenv")
            self.assertIn("PSIK_MARK=psik-%s.1/" % jobid, self.psik("logs", jobid).out)
            job = psik.create(self.config(), psik.JobSpec(script="#!/bin/sh\nenv"))
            subprocess.run([job.script("job"), "1"], env=env, timeout=60)
            self.assertNotIn("LC_CTYPE", psik.logs(job))
        self.in_both_shells(test)

    def test_a_script_that_cannot_be_started(self) -> None:
        def test() -> None:
            spec = '{"script": "#!/no/such -x"}'
            self.assertIn("the interpreter of its script is not there: #!/no/such -x",
                          self.psik("run", "--wait", "-", stdin=spec, status=127).err)
            huge = {"V%d" % number: "x" * 120000 for number in range(40)}
            spec = json.dumps({"script": "true", "environment": huge})
            self.assertIn("Argument list too long",
                          self.psik("run", "--wait", "-", stdin=spec, status=126).err)
            place = os.path.join(self.folder, "place")
            os.makedirs(place)
            jobid = self.run_spec("--no-submit", script="true", directory=place)
            os.rmdir(place)
            self.psik("start", jobid)
            self.assertIn("its directory is gone", self.psik("wait", jobid, status=1).err)
        self.in_both_shells(test)

    def test_where_it_runs_and_what_others_see(self) -> None:
        secret = "secret-%s" % self.seconds

        def test() -> None:
            jobid = self.put("echo $PWD\n%s" % self.nap, environment={"TOKEN": secret})
            self.assertEqual(processes_with(secret), [])
            self.assertEqual(self.psik("logs", jobid).out.strip(), self.job(jobid).at("work"))
            self.psik("rm", "--force", jobid)
        self.in_both_shells(test)

    def test_a_receiver_that_does_not_answer_holds_nothing_up(self) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(20)
            url = "http://127.0.0.1:%d/" % listener.getsockname()[1]

            def test() -> None:
                jobid = self.run_spec(script="#!/bin/sh\ndate +%s.%N", callback=url, status=None)
                self.until_last(jobid, "1 completed")
                rows = self.job(jobid).rows()
                # A busy disk takes seconds to sync.
                self.assertLess(float(self.psik("logs", jobid).out) - rows[2].time, 6)
                self.assertLess(rows[3].time - rows[2].time, 6)
            self.in_both_shells(test, callback_timeout_s=8)

    def test_a_step_runs_once(self) -> None:
        def test() -> None:
            jobid = self.put("echo once\n" + self.nap)
            job = self.job(jobid)
            done = subprocess.run([job.script("job"), "1"], stdin=subprocess.DEVNULL,
                                  env=self.env, timeout=30)
            self.assertEqual(done.returncode, 0)
            self.assertRegex(
                psik.read_or_empty(job.log("submit", 1)),
                r"step 1 was claimed by \d+ on \S+; this submission of it, \d+, runs nothing")
            self.assertEqual((len(self.naps()), psik.logs(job)), (1, "once\n"))
            self.psik("rm", "--force", jobid)
            self.assertEqual(self.naps(), [])
        self.in_both_shells(test)


class OwnProcesses:
    """What holds where nobody but the supervisor ends a job."""

    def test_its_supervisor_was_killed(self: Any) -> None:
        def test() -> None:
            daemon = PYTHON_DAEMON + "subprocess.call(NAP)"
            daemon = daemon.replace("NAP", json.dumps(self.nap.split()))
            for script in (self.nap, "#!/bin/sh\nsetsid %s & wait" % self.nap,
                           "#!/bin/sh\nenv -i %s" % self.nap, daemon):
                with self.subTest(script=script):
                    jobid = self.put(script)
                    os.kill(self.supervisor(jobid), signal.SIGKILL)
                    self.psik("poll")
                    self.assertEqual(self.states(jobid)[-1], "1 active")
                    self.psik("rm", jobid, status=5)
                    self.cancel_and_remove(jobid, "0 canceled")
        self.in_both_shells(test)


# The head of a supervisor that is stopped when it has locked the history for the first time.
STOPS_WITH_LOCK = """
import posix, signal, sys
def hook(frame, event, arg):
    code = frame.f_code
    if event == "return" and (code.co_name, code.co_varnames[:1]) == ("lock", ("self",)):
        sys.setprofile(None)
        posix.close(posix.open("%s/stops", posix.O_CREAT))
        posix.kill(posix.getpid(), signal.SIGSTOP)
if sys.argv[1:2] != ["cancel"]:
    sys.setprofile(hook)
"""


class Cancels(OwnProcesses, Faulty):
    """A job that is to end ends, whatever has happened to it."""
    cancel_and_remove = Everywhere.cancel_and_remove

    def test_nothing_but_sh_and_python(self) -> None:
        tools = os.path.join(self.folder, "bin")
        os.mkdir(tools)
        os.symlink("/bin/sh", os.path.join(tools, "sh"))
        os.symlink(sys.executable, os.path.join(tools, "python3"))
        self.env["PATH"] = tools

        def test() -> None:
            self.assertEqual(self.psik("backends", "--check").err, "")
            self.psik("run", "--wait", "-", stdin='{"script": "exit 7"}', status=7)
            jobid = self.put("#!/bin/sh\n%s & %s" % (self.nap, self.nap), naps=2)
            self.cancel_and_remove(jobid, "0 canceled", "1 canceled")
        self.in_both_shells(test)

    def test_a_job_that_is_canceled_before_it_begins_does_not_run(self) -> None:
        job = psik.create(self.config(), psik.JobSpec(script="touch ran"))
        psik.reached(job, 1, psik.JobState.queued, 99)
        psik.reached(job, 0, psik.JobState.canceled)
        subprocess.run([job.script("job"), "1"], stdin=subprocess.DEVNULL, env=self.env, timeout=30)
        self.assertEqual(os.listdir(job.at("work")), [])
        self.assertEqual(self.states(job.jobid)[-1], "1 canceled")

    def test_a_supervisor_that_is_stopped_while_it_has_the_lock(self) -> None:
        job = self.job(self.run_spec("--no-submit", script="#!/bin/sh\ntouch ran\n"))
        text = psik.read_text(job.script("supervise"))
        psik.write_file(job.script("supervise"), STOPS_WITH_LOCK % self.folder + text, 0o700)
        self.psik("start", job.jobid)
        self.until(lambda: os.path.exists(self.folder + "/stops"))
        self.assertEqual(self.psik("cancel", "--wait", job.jobid).err, "")
        self.assertEqual(psik.summarize(job, job.rows(), {}).state, "canceled")
        self.assertEqual(os.listdir(job.at("work")), [])

    def test_a_job_of_which_only_the_payload_was_signalled(self) -> None:
        """As where the scheduler's second signal comes late."""
        jobid = self.run_spec(script="#!/bin/sh\nuntil test -e go; do sleep 0.1; done\nexit 9")
        job = self.job(jobid)
        self.until_last(jobid, "1 active")
        psik.reached(job, 0, psik.JobState.canceled)
        psik.write_file(os.path.join(job.at("work"), "go"), "")
        self.until(lambda: self.states(jobid)[-1] != "0 canceled")
        self.assertEqual(self.job(jobid).rows()[-1][1:], (1, psik.JobState.canceled, 9))

    def test_a_job_that_its_scheduler_has_forgotten_ends_itself(self) -> None:
        """As slurmctld forgets a job if it crashes soon after it was started."""
        os.makedirs(os.path.join(self.folder, "site", "lost"))
        for name, text in (("submit", "setsid @job@ $1 </dev/null >/dev/null 2>&1 &\necho 7"),
                           ("job", "jobid=7\npsik_walltime_s=0\n@job_body@"),
                           ("cancel", ""), ("poll", "")):
            self.write("site/lost/" + name, "#!/bin/sh\n%s\n" % text)
        self.configure(templates="site", backend={"type": "lost"}, poll_grace_s=600)
        jobid = self.put(self.nap)
        self.psik("cancel", "--wait", jobid)
        self.assertEqual(len(self.naps()), 1)
        self.until_last(jobid, "1 canceled")
        self.assertEqual(self.naps(), [])

    def test_a_job_whose_body_claims_nothing_is_followed_all_the_same(self) -> None:
        """As those of version 1.0.0, whose native id is the number of their session."""
        self.configure(poll_grace_s=1)
        jobs = []
        for _ in range(2):
            job = psik.create(self.config(), psik.JobSpec(script=self.nap))
            psik.write_file(job.script("job"),
                            "#!/bin/sh\necho $(date +%%s.%%3N),$1,active,$$ >>%s\n%s\nexit 0\n"
                            % (job.status_path, job.script("run")), 0o700)
            psik.write_file(job.script("cancel"), "#!/bin/sh\nkill -- -$1\n", 0o700)
            psik.write_file(job.script("submit"),
                            "#!/bin/sh\nsetsid %s $1 </dev/null >/dev/null 2>&1 &\necho $!\n"
                            % job.script("job"), 0o700)
            psik.submit(job)
            jobs.append(job)
        self.until(lambda: len(self.naps()) == 2)
        self.psik("poll")
        # In whatever order it was written.
        self.assertEqual([psik.Steps(job.rows()).states[1].state for job in jobs], ["active"] * 2)
        self.psik("cancel", jobs[0].jobid)
        self.until(lambda: len(self.naps()) == 1)
        kill(processes_with(jobs[1].script("job")))
        self.psik("poll")
        self.assertEqual(psik.Steps(jobs[1].rows()).states[1].state, "active")
        kill(self.naps())
        self.assertIn("no longer knows it", self.psik("wait", jobs[1].jobid, status=1).err)

    def test_a_second_start_is_refused(self) -> None:
        def test() -> None:
            jobid = self.put(self.nap)
            self.assertIn("its step 1 is active", self.psik("start", jobid, status=5).err)
            self.psik("start", "--force", jobid)
            self.until(lambda: "2 active" in self.states(jobid))
            self.psik("cancel", jobid)
            self.assertEqual(self.naps(), [])
            jobid = self.run_spec("--no-submit", script=self.nap)
            children = [subprocess.Popen(FAST + ["start", jobid], env=self.env,
                                         stderr=subprocess.DEVNULL) for _ in range(2)]
            self.assertEqual(sorted(child.wait(60) for child in children), [0, 5])
            self.psik("rm", "--force", jobid)
        self.in_both_shells(test)

    def test_a_start_beside_another_is_not_taken_for_a_lost_one(self) -> None:
        jobid = self.run_spec("--no-submit", script=self.nap)
        others: List[subprocess.Popen[bytes]] = []
        may_be_lost = psik.may_be_lost

        def after_another(job: Any, steps: Any) -> bool:
            """Its answer, when another start was let in since the history was read."""
            if not others:
                others.append(subprocess.Popen(FAST + ["start", jobid], env=self.env,
                                               stderr=subprocess.DEVNULL))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    others[0].wait(2)
            return bool(may_be_lost(job, steps))

        with mock.patch.object(psik, "may_be_lost", after_another):
            row = psik.submit_next(self.config(), self.job(jobid))
        self.assertEqual((row.jobndx, str(row.state)), (1, "queued"))
        self.assertEqual(others[0].wait(60), 5)
        self.psik("rm", "--force", jobid)

    def test_a_job_that_a_job_submitted_lives_on(self) -> None:
        def test() -> None:
            spec = self.write("inner.json", json.dumps({"script": self.nap}))
            script = "#!/bin/sh\n%s %s run %s\n" % (sys.executable, PSIK, spec)
            jobid = self.run_spec("--wait", script=script)
            inner = self.psik("logs", jobid).out.strip()
            self.until(lambda: "1 active" in self.states(inner))
            self.until(self.naps)
            self.assertEqual(self.states(jobid)[-1], "1 completed")
            time.sleep(0.5)
            self.assertEqual(self.states(inner)[-1], "1 active")
            self.cancel_and_remove(inner, "0 canceled", "1 canceled")
        self.in_both_shells(test)


# The heads of supervisors in which a call of the system fails.
FAILING = """
import errno, posix, sys
def failing(call, wanted, number, times=[3]):
    def fail(*args):
        frame = sys._getframe(1)
        if (frame.f_code.co_name, "jobndx" in frame.f_locals) == wanted and times[0]:
            times[0] -= 1
            raise OSError(number, "it fails")
        return call(*args)
    return fail
"""
NO_SYNC = FAILING + "posix.fsync = failing(posix.fsync, ('sync', False), errno.EDQUOT, [99])\n"
NO_FORK = FAILING + "posix.fork = failing(posix.fork, ('start', True), errno.EAGAIN)\n"


class Calls(Faulty):
    """What the system refuses for a while."""

    def broken(self, head: str, **spec: Any) -> str:
        """Run a job whose supervisor begins with a head; its id."""
        jobid = self.run_spec("--no-submit", **spec)
        path = self.job(jobid).script("supervise")
        psik.write_file(path, head + psik.read_text(path), 0o700)
        self.psik("start", jobid)
        self.psik("wait", "--timeout", "60", jobid, status=None)
        return jobid

    def test_a_disk_that_takes_no_sync(self) -> None:
        jobid = self.broken(NO_SYNC, script="#!/bin/sh\nsleep 1; echo end",
                            callback="http://127.0.0.1:9/")
        self.assertEqual(self.states(jobid)[1:], ["1 queued", "1 active", "1 completed"])
        self.assertEqual(self.psik("logs", jobid).out, "end\n")

    def test_too_many_processes_for_the_tasks_of_an_array(self) -> None:
        jobid = self.broken(NO_FORK, script="#!/bin/sh\necho $task", array="1-4%2")
        self.assertEqual(sorted(self.states(jobid)[-8:]),
                         ["%d %s" % (step, state) for step in (1, 2, 3, 4)
                          for state in ("active", "completed")])

    def test_tasks_that_wait_are_known_by_any_path(self) -> None:
        link = os.path.join(self.folder, "link")
        os.makedirs(self.prefix)
        os.symlink(self.prefix, link)
        self.configure(poll_grace_s=0)
        jobid = self.run_spec(script="#!/bin/sh\nsleep 3", array="1-3%1")
        self.until(lambda: "1 active" in self.states(jobid))
        self.configure(poll_grace_s=0, prefix=link)
        self.run_spec(script="#!/bin/sh\nsleep 3")     # whose poll script asks for all
        for _ in range(3):
            self.psik("poll")
            time.sleep(0.5)
        self.assertEqual([row for row in self.states(jobid) if "failed" in row], [])
        self.psik("wait", "--timeout", "60", jobid)

    def test_processes_whose_lines_nobody_takes(self) -> None:
        path = ":".join(folder for folder in self.env["PATH"].split(":")
                        if not os.path.exists(os.path.join(folder, "mpirun")))
        self.env["PATH"] = path
        jobid = self.run_spec("--wait", script="#!/bin/sh\n$mpirun yes moo | head -n 1\n",
                              resources={"process_count": 2})
        self.assertEqual(self.psik("logs", jobid).out, "moo\n")
        self.assertEqual(self.psik("logs", "--stderr", jobid).out, "")
        jobid = self.run_spec("--wait", script="#!/bin/sh\n$mpirun printf moo\n",
                              resources={"process_count": 2})
        self.assertEqual(self.psik("logs", jobid).out, "moomoo")

    def test_a_task_of_a_scheduler_on_a_node_without_python(self) -> None:
        self.configure(backend={"type": "slurm"})
        job = psik.create(self.config(), psik.JobSpec(
            script="true", array="1-3"))
        tools = os.path.join(self.folder, "tools")
        os.mkdir(tools)
        for name in ("date", "uname"):
            os.symlink(shutil.which(name) or "", os.path.join(tools, name))
        text = psik.read_text(job.script("job")).replace(sys.executable, "/no/python3")
        text = text.replace("/usr/bin/python3 /usr/libexec/platform-python", "")
        psik.write_file(job.script("job"), text, 0o700)
        done = subprocess.run(["/bin/sh", job.script("job"), "0+"], env={
            "PATH": tools, "SLURM_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "2"})
        self.assertEqual(done.returncode, 127)
        self.assertEqual([(row.jobndx, row.state, row.info) for row in job.rows()[1:]],
                         [(2, "failed", 127)])
        self.assertIn("has no python3", psik.read_text(job.log("reason", 2)))


class Places(Faulty):
    """Jobs, and psik.py itself, that are moved, linked or removed."""

    def test_a_compiled_psik_without_its_source(self) -> None:
        compiled = os.path.join(self.folder, "psik.pyc")
        py_compile.compile(PSIK, compiled, doraise=True)
        self.psik("run", "--wait", "-c", "$psik --version", program=[sys.executable, compiled])
        self.assertEqual(self.psik("logs", "last").out, psik.__version__ + "\n")

    def test_what_is_done_to_a_copy_leaves_the_original_alone(self) -> None:
        jobid = self.put(self.nap)
        copies = os.path.join(self.folder, "copies")
        shutil.copytree(self.prefix, copies)
        for argv in (("cancel", jobid), ("rm", "--force", jobid)):
            said = self.psik(*argv, env={"PSIK_PREFIX": copies}, status=5).err
            self.assertIn("is a copy of %s, whose steps these are" % self.job(jobid).path, said)
        self.assertEqual(self.states(jobid)[-1], "1 active")
        self.assertTrue(self.naps())
        self.psik("cancel", jobid)

    def test_a_job_that_was_moved_starts_where_it_is(self) -> None:
        def test() -> None:
            jobid = self.run_spec("--wait", script="pwd; $psik --version")
            there = os.path.join(self.folder, "there")
            shutil.rmtree(there, True)
            os.makedirs(there)
            shutil.move(os.path.dirname(self.job(jobid).path), there)
            shutil.rmtree(self.prefix)
            self.configure(prefix=there, rc_path=self.config().rc_path)
            self.psik("start", jobid)
            self.psik("wait", jobid)
            self.assertEqual(self.psik("logs", jobid).out,
                             "%s\n%s\n" % (self.job(jobid).at("work"), psik.__version__))
            self.assertFalse(os.path.exists(self.prefix))
            self.psik("rm", jobid)
        self.in_both_shells(test)

    def test_a_moved_job_keeps_the_copy_that_it_calls(self) -> None:
        jobs = [self.run_spec("--wait", script="true") for _ in range(2)]
        there = os.path.join(self.folder, "there", "local")
        os.makedirs(there)
        shutil.move(self.job(jobs[0]).path, there)
        self.configure(prefix=os.path.dirname(there))
        other = self.run_spec("--wait", script="true")
        self.psik("start", jobs[0])
        self.psik("wait", jobs[0])
        self.psik("rm", other)
        self.psik("start", jobs[0])
        self.psik("wait", jobs[0])
        self.assertEqual(self.states(jobs[0])[-1], "3 completed")

    def test_a_copy_of_a_job_is_not_asked_about_others(self) -> None:
        jobid = self.run_spec("--no-submit", script="true")
        copied = self.job(jobid).path
        self.configure(prefix=os.path.join(self.folder, "there"), poll_grace_s=0)
        running = self.put(self.nap)
        copy = os.path.join(os.path.dirname(self.job(running).path), "9999999999.999")
        shutil.copytree(copied, copy, symlinks=True)
        with open(os.path.join(copy, "status.csv"), "a") as file:
            file.write("%.3f,1,active,1\n" % time.time())
        self.psik("poll")
        self.assertEqual(self.states(running)[-1], "1 active")
        self.psik("rm", "--force", running)

    def test_the_python_that_made_a_job_is_gone(self) -> None:
        link = os.path.join(self.folder, "python3")
        os.symlink(sys.executable, link)

        def test() -> None:
            if not os.path.lexists(link):
                os.symlink(sys.executable, link)
            spec = self.write("spec.json", json.dumps({"script": self.nap}))
            env = {"PATH": os.environ["PATH"] + ":" + os.path.dirname(sys.executable)}
            jobid = self.psik("run", spec, program=[link, PSIK], env=env).out.strip()
            self.until(self.naps)
            self.assertIn(link, psik.read_text(self.job(jobid).script("cancel")))
            os.unlink(link)
            self.psik("cancel", jobid, env=env)
            self.assertEqual(self.naps(), [])
        self.in_both_shells(test)

    def test_psik_is_moved_while_its_job_waits(self) -> None:
        for start in ("file", "stdin"):
            place = os.path.join(self.folder, start)
            os.mkdir(place)
            shutil.copy(PSIK, place)
            if sys.version_info < (3, 7):
                shutil.copy(__import__("dataclasses").__file__, place)
                self.env["PYTHONPATH"] = place
            with open(PSIK) as text:
                file = os.path.join(place, "psik.py") if start == "file" else "-"
                program = [sys.executable, file]
                spec = self.write("spec.json", json.dumps({"script": "#!/bin/sh\n$psik --version"}))
                done = subprocess.run(program + ["run", "--no-submit", spec],
                                      env=self.env, stdout=subprocess.PIPE, timeout=60,
                                      stdin=text if start == "stdin" else subprocess.DEVNULL)
            jobid = done.stdout.decode().strip()
            shutil.rmtree(place)
            self.psik("start", jobid)
            self.psik("wait", jobid)
            self.assertEqual(self.psik("logs", jobid).out, psik.__version__ + "\n")
            copies = os.path.join(self.prefix, ".psik")
            self.assertEqual(len(os.listdir(copies)), 2)    # it, and the lock
            self.psik("rm", jobid)
            self.assertEqual(os.listdir(copies), ["lock"])

    def test_the_directory_of_a_job_is_a_link(self) -> None:
        def test() -> None:
            jobid = self.run_spec("--wait", script="echo moo >file; chmod 500 .")
            job, scratch = self.job(jobid), os.path.join(self.folder, "scratch-" + jobid)
            shutil.move(job.path, scratch)
            os.symlink(scratch, job.path)
            self.assertIn(scratch, self.psik("rm", jobid).err)
            self.assertFalse(os.path.lexists(job.path))
            self.assertEqual(psik.read_or_empty(scratch + "/work/file"), "moo\n")
            self.assertEqual(os.stat(scratch + "/work").st_mode & 0o777, 0o500)
            self.psik("rm", "--stale")
            self.assertEqual(self.psik("ls").out, "")
        self.in_both_shells(test)

    def test_a_job_that_is_gone_between_two_reads(self) -> None:
        jobid = self.run_spec("--wait", script="true")
        job = self.job(jobid)
        for verb in (["logs"], ["status"], ["logs", "-f"], ["wait"]):
            gone = ("import psik; found = psik.JobDir(%r); psik.find_job = lambda *words: found; "
                    "psik.JobDir.rows = lambda job: [];" % job.path)
            code = FAST[-1].replace("import psik;", gone)
            ran = self.psik(*(verb + [jobid]), program=FAST[:-1] + [code], status=3)
            self.assertRegex(ran.err, "no job at|is gone")

    def test_a_clock_that_was_set_back(self) -> None:
        self.configure(poll_interval_s=5)
        jobid = self.put(self.nap)
        job = self.job(jobid)
        ahead = time.time() + 100000
        os.kill(self.supervisor(jobid), signal.SIGKILL)
        kill(self.naps())
        steps = {str(job.rows()[1].info): ["active", "-", "", ahead, ahead, ""]}
        path = os.path.join(os.path.dirname(job.path), ".poll-%s.json" % os.uname().nodename)
        psik.write_file(path, json.dumps({"time": ahead, "fault": "", "steps": steps}))
        rows = [row._replace(time=ahead) for row in job.rows()]
        psik.write_file(job.status_path, "".join("%.3f,%d,%s,%s\n" % row for row in rows))
        self.psik("wait", "--timeout", "30", jobid, status=1)

    def test_closed_descriptors(self) -> None:
        spec = self.write("spec.json", '{"script": "true"}')
        for words, status in (("ls 2>&-", 0), ("ls >&- 2>&- <&-", 0), ("run %s >&-" % spec, 0),
                              ("run - <&-", 2), ("run %s 2>&-" % spec, 0)):
            line = "%s %s %s" % (sys.executable, PSIK, words)
            done = subprocess.run(["sh", "-c", line], env=self.env, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, timeout=60)
            self.assertEqual((done.returncode, b"Traceback" in done.stderr),
                             (status, False), (line, done))


@needs("at, and root to start atd", shutil.which("at") and os.geteuid() == 0)
class At(OnAt, Everywhere, OwnProcesses, Faulty):
    """The same where atd starts the jobs."""
    backend = {"type": "at", "queue_name": "a"}

    def test_a_job_that_the_payload_gives_to_at_lives_on(self) -> None:
        def test() -> None:
            script = "#!/bin/sh\necho exec %s | at -q a now 2>/dev/null; sleep 1" % self.nap
            jobid = self.run_spec("--wait", script=script)
            self.assertEqual(self.states(jobid)[-1], "1 completed")
            self.assertEqual(len(self.naps()), 1)
            kill(self.naps())
        self.in_both_shells(test)


@needs("Slurm", SLURM)
class Slurm(OnSlurm, Everywhere, Faulty):
    """The same under Slurm, which ends jobs by itself."""
    backend = {"type": "slurm"}
    slurm_settings = {"KillWait": 3}

    def native(self, jobid: str) -> str:
        return str(self.job(jobid).rows()[1].info)

    def test_a_signal_for_every_process_of_the_job(self) -> None:
        def test() -> None:
            jobid = self.run_spec(script=SAVING, resources=self.needs_cells)
            self.until(lambda: self.psik("logs", jobid, status=None).out == "ready\n")
            self.slurm.run("scancel", "--full", "-s", "USR2", self.native(jobid))
            self.psik("wait", jobid)
            self.assertEqual((self.states(jobid)[-1], self.psik("logs", jobid).out),
                             ("1 completed", "ready\nsaved\n"))
        self.in_both_shells(test)

    def test_a_job_that_the_payload_gives_to_slurm_lives_on(self) -> None:
        def test() -> None:
            script = ("#!/bin/sh\nsbatch --parsable -n1 -o /dev/null --wrap 'exec %s'\n"
                      "while ! pgrep -f '^%s'; do sleep 0.2; done" % (self.nap, self.nap))
            jobid = self.run_spec("--wait", resources=self.needs_cells, script=script)
            self.assertEqual(self.states(jobid)[-1], "1 completed")
            self.assertEqual(len([line for line in self.naps() if "/bin/sh" not in line]), 1)
            self.slurm.run("scancel", self.psik("logs", jobid).out.split()[0])
            self.until(lambda: not self.naps())
        self.in_both_shells(test)

    def test_a_step_that_slurm_runs_again_is_the_next_one(self) -> None:
        def test() -> None:
            jobid = self.put("echo run $jobndx\n%s" % self.nap, attributes={"--requeue": ""})
            self.slurm.run("scontrol", "requeue", self.native(jobid))
            # It would begin after two minutes, and is told to while the first run is being ended.
            for _ in range(12):
                self.slurm.run("scontrol", "update", "JobId=" + self.native(jobid), "StartTime=now")
                with contextlib.suppress(self.failureException):
                    self.until(lambda: "2 active" in self.states(jobid), seconds=5)
                    break
            self.assertIn("2 active", self.states(jobid))
            self.until(lambda: psik.read_or_empty(self.job(jobid).log("stdout", 2)))
            self.assertEqual([psik.logs(self.job(jobid), "stdout", jobndx) for jobndx in (1, 2)],
                             ["run 1\n", "run 2\n"])
            self.psik("cancel", "--wait", jobid)
            self.psik("ls")     # on a busy machine Slurm kills the supervisor before it has written
            self.until_last(jobid, "2 canceled")
            self.assertEqual(self.naps(), [])
        self.in_both_shells(test)

    def test_the_supervisor_is_killed(self) -> None:
        def test() -> None:
            jobid = self.put("#!/bin/sh\nsetsid %s & wait" % self.nap)
            os.kill(self.supervisor(jobid), signal.SIGKILL)
            self.psik("wait", "--timeout", "60", jobid, status=None)
            self.assertEqual(self.states(jobid)[-1], "1 failed")
            kill(self.naps())  # proctrack/linuxproc knows no process that left
        self.in_both_shells(test)


@NAMESPACES
class Systems(Faulty):
    """Other systems, made of this one's namespaces."""

    def inside(self, script: str, *options: str, root: str = "") -> Any:
        """Start a shell script in namespaces of its own; their first process reaps no orphans."""
        code = "import subprocess, sys; subprocess.call(['/bin/sh', '-c', sys.argv[1]])"
        first = [sys.executable, "-c", code]
        argv = ["unshare"] + list(options) + (["chroot", root] if root else []) + first + [script]
        child = subprocess.Popen(argv, env=self.env, stdin=subprocess.DEVNULL,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        self.addCleanup(child.stdout.close)
        return child

    def psik_line(self, *words: str) -> str:
        """A command line for a script of these systems."""
        return " ".join([sys.executable, PSIK] + list(words))

    def until_said(self, line: str) -> str:
        """A line that waits until another prints something, for some seconds at most."""
        return ("n=0; until test -n \"$(%s)\" || test $n -gt 100; do n=$((n + 1)); sleep 0.2; done"
                % line)

    def until_active(self) -> str:
        """A line that waits until the job is active."""
        return self.until_said(self.psik_line("ls") + " | grep active")

    def said(self, script: str, *options: str, root: str = "") -> str:
        """What such a script prints."""
        child = self.inside(script, *options, root=root)
        said, _ = child.communicate(timeout=120)
        return str(said.decode())

    def until_go(self) -> str:
        """A payload that waits for go(), whose file lies on another disk."""
        path = os.path.join(self.folder, "go")
        if os.path.exists(path):
            os.unlink(path)
        return "#!/bin/sh\nuntil test -e %s; do sleep 0.1; done" % path

    def go(self) -> str:
        """A line that lets it end."""
        return "touch %s" % os.path.join(self.folder, "go")

    def spec(self, script: str) -> str:
        """The path of a spec."""
        return self.write("spec.json", json.dumps({"script": script}))

    @needs("busybox", shutil.which("busybox"))
    def test_in_a_root_of_busybox(self) -> None:
        root = os.path.join(self.folder, "root")
        for folder in ("bin", "proc", "tmp", "dev"):
            os.makedirs(os.path.join(root, folder))
        shutil.copy(shutil.which("busybox") or "", os.path.join(root, "bin"))
        os.makedirs(self.prefix)
        lines = ["cd %s && ./bin/busybox --install bin 2>/dev/null" % root,
                 "mount -t proc proc proc && mount --bind /dev dev"]
        needed = ["/usr/lib", "/lib", "/lib64", os.path.dirname(PSIK), self.prefix]
        needed += sorted({sys.base_prefix, sys.prefix})  # two of them in a virtual environment
        for place in needed + [rc_path()] * bool(rc_path()):
            if os.path.isdir(str(place)):
                lines.append("mkdir -p .%s && mount --bind %s .%s" % (place, place, place))
            else:
                lines.append("mkdir -p .%s && touch .%s && mount --bind %s .%s"
                             % (os.path.dirname(str(place)), place, place, place))
        config = {"prefix": self.prefix, "poll_interval_s": 0, "kill_grace_s": 1}
        chroot = shutil.which("chroot", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
        run = "HOME=/ PSIK_CONFIG=/psik.json PATH=/bin exec %s . /bin/sh -c 'cd /; %%s'" % chroot
        tool = "%s %s" % (sys.executable, PSIK)
        inner = ["%s run /long.json" % tool, "%s run /spec.json" % tool, "sleep 2",
                 "%s cancel last; echo $?; %s rm last; echo $?" % (tool, tool),
                 "%s wait last; echo $?" % tool, "%s ls" % tool]
        naps = "#!/bin/sh\nsleep %s & setsid sleep %s & sleep %s" % ((self.seconds,) * 3)

        def test() -> None:
            for name, document in (("spec", {"script": naps}),
                                   ("long", {"script": naps, "resources": {"duration": 1}})):
                self.write("root/%s.json" % name, json.dumps(document))
            self.write("root/psik.json", json.dumps(dict(config, rc_path=self.config().rc_path)))
            said = self.said("\n".join(lines + [run % "; ".join(inner)]), "--mount")
            ends = r"(?s)^[\d.]+\n[\d.]+\n0\n0\n.*its walltime of 1 min was over; .*\n143\n"
            self.assertRegex(said, ends)
            self.assertEqual(self.naps(), [])
        self.in_both_shells(test)

    def test_nobody_reaps(self) -> None:
        # The orphan will be a zombie for ever.
        script = "#!/bin/sh\n(%s &)\n%s" % (self.nap, self.nap)

        def test() -> None:
            lines = [self.psik_line("run", self.spec(script)), self.until_active(), "sleep 0.5",
                     self.psik_line("cancel", "last"), "echo $?",
                     self.until_said("grep 1,canceled %s/local/*/status.csv" % self.prefix)]
            said = self.said("\n".join(lines), "--pid", "--fork", "--mount-proc").split()
            self.assertEqual(said[1:], ["0"])
            rows = self.job(said[0]).rows()
            self.assertEqual(self.states(said[0])[-2:], ["0 canceled", "1 canceled"])
            self.assertLess(rows[-1].time - rows[-2].time, 5)
            self.psik("rm", said[0], status=None)
        self.in_both_shells(test, kill_grace_s=8)

    def test_without_proc(self) -> None:
        def test() -> None:
            spec = self.spec("#!/bin/sh\n%s & %s" % (self.nap, self.nap))
            lines = ["mount -t tmpfs none /proc", self.psik_line("run", spec), self.until_active(),
                     "sleep 0.5", self.psik_line("cancel", "last"), "echo status $?",
                     self.psik_line("rm", "last"), "echo status $?"]
            said = self.said("\n".join(lines), "--mount")
            self.assertEqual(said.split("\n", 1)[1], "status 0\nstatus 0\n")
            self.assertEqual(self.naps(), [])
        self.in_both_shells(test)

    def test_a_history_that_cannot_be_written(self) -> None:
        def test() -> None:
            os.makedirs(self.prefix, exist_ok=True)
            lines = ["mount -t tmpfs -o size=4m,mode=700 none PREFIX",
                     self.psik_line("run", self.spec(self.nap)), self.until_active(), "sleep 0.5",
                     "unshare --mount sh -c 'mount --bind PREFIX PREFIX; "
                     "mount -o remount,ro,bind PREFIX; cd; %s'" % self.psik_line("cancel", "last"),
                     "echo status $?", "ps -ww -eo args | grep -c '[s]leep %s'" % self.seconds,
                     "sleep 0.5", "cat PREFIX/local/*/status.csv"]
            said = self.said("\n".join(lines).replace("PREFIX", self.prefix), "--mount")
            ends = "(?s)to end, but this cannot be recorded in .*: read-only.*status 1\n0\n"
            self.assertRegex(said, ends)
            self.assertRegex(said, r",1,failed,143\n$")
        self.in_both_shells(test)

    def test_a_full_disk_at_the_end(self) -> None:
        def test() -> None:
            os.makedirs(self.prefix, exist_ok=True)
            lines = ["mount -t tmpfs -o size=4m,mode=700 none PREFIX",
                     self.psik_line("run", self.spec(self.until_go())), self.until_active(),
                     "cat /dev/zero >PREFIX/full 2>/dev/null; cd PREFIX/local/*/ || exit",
                     "dd if=/dev/zero bs=1 count=4096 >>status.csv 2>/dev/null",
                     self.go(), "sleep 3", self.psik_line("ls"), "rm PREFIX/full",
                     self.until_said(self.psik_line("ls") + " | grep completed"),
                     self.psik_line("ls")]
            said = self.said("\n".join(lines).replace("PREFIX", self.prefix), "--mount")
            self.assertRegex(said, "(?s) active .* completed ")
            self.assertNotIn("failed", said)
        self.in_both_shells(test)

    def test_a_disk_that_takes_a_part_of_the_last_row(self) -> None:
        os.makedirs(self.prefix, exist_ok=True)
        lines = ["mount -t tmpfs -o size=4m,mode=700 none PREFIX",
                 self.psik_line("run", self.spec(self.until_go())), self.until_active(),
                 "cat /dev/zero >PREFIX/full 2>/dev/null; cd PREFIX/local/*/ || exit",
                 "dd if=/dev/zero bs=1 count=4096 >>status.csv 2>/dev/null",
                 "truncate -s -10 status.csv", self.go(), "sleep 3", "rm PREFIX/full",
                 self.until_said(self.psik_line("ls") + " | grep completed"),
                 self.psik_line("ls"), "tail -c 40 status.csv"]
        said = self.said("\n".join(lines).replace("PREFIX", self.prefix), "--mount")
        self.assertRegex(said, r"(?s) completed .*\n[0-9.]+,1,completed,0\n$")

    def test_a_job_on_another_host(self) -> None:
        def test() -> None:
            child = self.inside("\n".join([
                "hostname elsewhere", self.psik_line("run", self.spec(self.nap)), "exec sleep 60"]),
                "--uts", "--pid", "--fork", "--mount-proc", "--kill-child")
            jobid = child.stdout.readline().decode().strip()
            self.until(self.naps)
            self.psik("poll")
            self.assertEqual(self.states(jobid)[-1], "1 active")
            self.psik("rm", jobid, status=5)
            self.psik("cancel", jobid)
            self.nothing_left(jobid, "1 canceled")
            self.psik("rm", jobid)
            child.kill()
        self.in_both_shells(test)

    def test_another_host_that_does_not_answer(self) -> None:
        def test() -> None:
            line = self.psik_line("run", self.spec(self.nap))
            child = self.inside("hostname elsewhere\n%s\nexec sleep 60" % line,
                                "--uts", "--pid", "--fork", "--mount-proc", "--kill-child")
            jobid = child.stdout.readline().decode().strip()
            self.until(self.naps)
            for line in processes_with(self.job(jobid).path):
                os.kill(int(line.split()[1]), signal.SIGSTOP)
            self.assertIn("its host, elsewhere, has not answered",
                          self.psik("cancel", jobid, status=4).err)
            self.assertEqual(self.states(jobid)[-1], "1 active")
            self.psik("rm", jobid, status=5)
            self.assertTrue(os.path.exists(self.job(jobid).path))
            child.kill()
            kill(self.naps() + processes_with(self.job(jobid).path))
        self.in_both_shells(test)


if __name__ == "__main__":
    unittest.main()
