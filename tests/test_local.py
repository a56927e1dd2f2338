"""Real jobs as plain processes, in rc and in sh, through the command line."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import unittest
from typing import Any, Dict, List, Tuple

import psik
from harness import PSIK, Case, kill, needs, processes_with, rc_path
from odd import texts

ENDS: List[Tuple[str, int, List[str]]] = [  # a script, its exit status, the last row of the history
    ("#!/bin/sh\necho moo", 0, ["1 completed"]),
    ("exit 0", 0, ["1 completed"]),
    ("exit 7", 7, ["1 failed"]),
    ("exit 124", 124, ["1 failed"]),
    ("#!/bin/sh\nkill -9 $$", 137, ["1 failed"]),
    ("#!/bin/sh\nkill -15 $$", 143, ["1 failed"]),
    ("#!/bin/sh\nkill -SEGV $$", 139, ["1 failed"]),
    ("#!/no/such/interpreter\n", 127, ["1 failed"]),
    ("no_such_command_at_all", 127, ["1 failed"]),
    ("#!/usr/bin/env python3\nraise SystemExit(3)", 3, ["1 failed"]),
]
SHOW = "#!%s\nimport json, os\nprint(json.dumps(dict(os.environ)))\n" % sys.executable
TRAP = """#!/bin/bash
trap 'echo caught; sleep 0.5; echo saved; exit 0' TERM
echo ready
sleep 100 & wait
"""
STUBBORN = """#!/bin/bash
trap '' TERM
(trap '' TERM; NAP) &
NAP
"""


def nap(seconds: int) -> str:
    """A command that sleeps, told from those of tests that run beside this one."""
    return "sleep %d.%07d" % (seconds, os.getpid())


class Local:
    """The tests of one shell."""
    shell = ""
    kind = ""

    def configure(self: Any, **settings: Any) -> str:
        settings.setdefault("rc_path", self.shell)
        settings.setdefault("kill_grace_s", 2)
        return str(Case.configure(self, **settings))

    def test_ends(self: Any) -> None:
        for script, status, last in ENDS:
            with self.subTest(script=script):
                if self.kind == "rc" and script.startswith("no_such"):
                    status = 1  # what rc makes of it
                jobid = self.run_spec("--wait", script=script, status=status)
                self.assertEqual(self.states(jobid), ["0 new", "1 queued", "1 active"] + last)
                self.assertEqual(self.job(jobid).rows()[-1].info, status)

    def test_what_mpirun_starts(self: Any) -> None:
        for script in ("$mpirun echo moo", "#!/bin/sh\n$mpirun echo moo",
                       "#!/usr/bin/env bash\n${mpirun} echo moo"):
            jobid = self.run_spec("--wait", script=script, launcher=["env", "NAME=value"])
            self.assertEqual(self.psik("logs", jobid).out, "moo\n", script)
        path = self.write("job.sh", "$mpirun echo moo\n")
        jobid = self.psik("run", "--wait", path).out.strip()
        self.assertEqual(self.psik("logs", jobid).out, "moo\n")

    def test_a_script_that_quotes_is_as_its_shell_has_it(self: Any) -> None:
        jobid = self.run_spec("--wait", script="#!/usr/bin/env bash\necho 'it is, '$HOME")
        self.assertEqual(self.psik("logs", jobid).out, "it is, %s\n" % self.env["HOME"])
        self.configure(rc_path="/bin/bash")
        jobid = self.run_spec("--wait", script="echo 'it is, '$HOME")
        self.assertEqual(self.psik("logs", jobid).out, "it is, %s\n" % self.env["HOME"])

    def test_the_allocation_around_it_can_be_used(self: Any) -> None:
        self.env.update(SLURM_NTASKS="2")
        for kind in ("local", "local-mine"):
            self.configure(backend={"type": kind})
            jobid = self.run_spec("--wait", script="#!/bin/sh\necho $SLURM_NTASKS")
            self.assertEqual(self.psik("logs", jobid).out, "2\n", kind)

    def test_what_the_payload_finds(self: Any) -> None:
        more = "print(os.getcwd(), repr(os.sys.stdin.read()), os.getsid(0) == os.getpid())"
        jobid = self.run_spec("--wait", script=SHOW + more)
        shown, rest = self.psik("logs", jobid).out.strip().split("\n")
        env, job = json.loads(shown), self.job(jobid)
        words = self.shell.split() if self.kind == "rc" else ["/usr/bin/env", "rc"]
        self.assertEqual({name: env[name] for name in ("nodes", "base", "jobndx", "psik", "rc")},
                         {"nodes": "1", "base": job.path, "jobndx": "1", "psik": job.script("psik"),
                          "rc": "\x01".join(words)})
        self.assertEqual(env["jobid"], str(job.rows()[1].info))
        self.assertEqual(env["mpirun"].split("\x01")[0], shutil.which("mpirun") or "env")
        self.assertEqual(rest, "%s '' True" % job.at("work"))
        self.assertEqual([name for name in env if name.startswith(("fn_", "psik_"))], [])

    def test_mpirun_is_a_command(self: Any) -> None:
        self.configure(launcher=["env", "LAUNCHED=yes"])
        script = "$mpirun sh -c 'echo $LAUNCHED'"
        for spec, said in (({}, "yes\n"), ({"launcher": ["env", "LAUNCHED=own"]}, "own\n")):
            jobid = self.run_spec("--wait", script=script, **spec)
            self.assertEqual(self.psik("logs", jobid).out, said)

    def without_mpirun(self: Any, script: str, processes: int, status: int = 0) -> str:
        """Run a job where no mpirun is found; its id."""
        folders = [folder for folder in self.env["PATH"].split(":")
                   if not os.path.exists(os.path.join(folder, "mpirun"))]
        ran = self.psik("run", "--wait", "-", status=status, env={"PATH": ":".join(folders)},
                        stdin=json.dumps({"script": script, "resources": {
                            "process_count": processes}}))
        return str(ran.out.strip())

    def test_mpirun_starts_processes_that_know_their_rank(self: Any) -> None:
        for processes in (1, 3):
            jobid = self.without_mpirun(
                "$mpirun sh -c 'echo rank $PSIK_RANK; echo of $PSIK_SIZE >/dev/stderr'", processes)
            self.assertEqual(sorted(self.psik("logs", jobid).out.splitlines()),
                             ["rank %d" % rank for rank in range(processes)])
            self.assertEqual(self.psik("logs", "--stderr", jobid).out,
                             "of %d\n" % processes * processes)

    def test_their_output_comes_line_by_line(self: Any) -> None:
        half = "i=0; while test $i -lt 40; do printf %s; sleep 0.002; printf %s; i=$((i+1)); done"
        script = self.write("half", "#!/bin/sh\n" + half % ("$PSIK_RANK$PSIK_RANK",
                                                            "'$PSIK_RANK\\n'") + "\n", 0o755)
        script = self.write("half", psik.read_text(script).replace("'$PSIK_RANK\\n'",
                                                                   '"$PSIK_RANK\\n"'), 0o755)
        jobid = self.without_mpirun("$mpirun %s" % script, 4)
        self.assertEqual(sorted(set(self.psik("logs", jobid).out.splitlines())),
                         ["000", "111", "222", "333"])

    def test_one_of_them_that_fails_ends_the_others(self: Any) -> None:
        begun = time.monotonic()
        jobid = self.without_mpirun(
            "$mpirun sh -c 'test $PSIK_RANK = 1 && exit 7; exec sleep 60'", 3, status=7)
        self.assertLess(time.monotonic() - begun, 50)
        self.assertEqual(self.states(jobid)[-1], "1 failed")
        self.without_mpirun("$mpirun no-such-program", 2, status=127)

    def test_odd_values_arrive_unchanged(self: Any) -> None:
        values = {"V%d" % number: text for number, text in enumerate(texts())}
        values.update({"odd name-": "x", "PYTHONHOME": "/nonsense", "PYTHONPATH": "/nonsense",
                       "PATH": "/nonsense:/bin:/usr/bin"})
        script = SHOW.replace(sys.executable, sys.executable + " -E")
        jobid = self.run_spec("--wait", script=script, environment=values)
        env = json.loads(self.psik("logs", jobid).out)
        self.assertEqual({name: env.get(name) for name in values}, values)
        self.assertEqual(self.states(jobid)[-1], "1 completed")

    def test_odd_names_directories_and_scripts(self: Any) -> None:
        for number, text in enumerate(texts()):
            name = None if psik.CONTROL.search(text) else text
            place = os.path.join(self.folder, "%d" % number,
                                 text.replace("/", "_")[:100].rstrip(".") or "_")
            os.makedirs(place)
            script = "#!/bin/sh\npwd\ncat <<'==E=='\n%s\n==E==\n" % text
            spec = {"name": name, "directory": None if psik.CONTROL.search(text) else place,
                    "script": script}
            job = psik.create(self.config(), psik.from_json(psik.JobSpec, spec))
            psik.submit(job)
            self.until(lambda: psik.Steps(job.rows()).latest.state.is_final())
            with open(job.log("stdout", 1), encoding="utf-8", newline="") as file:
                self.assertEqual(file.read(),
                                 "%s\n%s\n" % (os.path.realpath(job.at("work")), text), spec)

    def test_prefixes_with_odd_names(self: Any) -> None:
        self.configure(prefix=os.path.join(self.folder, "it's a \"prefix\" $x `y` \\ *"))
        jobid = self.run_spec("--wait", script="echo moo")
        self.assertEqual(self.psik("logs", jobid).out, "moo\n")
        jobid = self.run_spec(script=nap(62))
        self.until(lambda: "1 active" in self.states(jobid))
        self.psik("cancel", jobid)
        self.until_last(jobid, "1 canceled")

    def test_inherit_environment(self: Any) -> None:
        for inherit in (True, False):
            ran = self.psik("run", "--follow", "-", env={"MARK": "here", "A": "old"},
                            stdin=json.dumps({"script": SHOW, "inherit_environment": inherit,
                                              "environment": {"A": "new"}}))
            env = json.loads(ran.out)
            self.assertEqual((env.get("MARK"), env["A"]), ("here" if inherit else None, "new"))
            self.assertIn("PATH", env)

    def test_cancel_leaves_no_process(self: Any) -> None:
        inner = "%s &\nsetsid %s & %s | cat" % (nap(63), nap(64), nap(65))
        for script in ("#!/bin/sh\n" + inner, inner if self.kind == "rc" else "(%s)" % inner):
            jobid = self.run_spec(script=script)
            self.until(lambda: len(processes_with(".%07d" % os.getpid())) >= 3)
            self.psik("cancel", jobid)
            self.assertEqual(json.loads(self.psik("ls", "--json").out)[0]["state"], "canceled")
            self.until_last(jobid, "1 canceled")
            kill(processes_with(nap(64)))  # it left the session: nobody could know it
            self.assertEqual(processes_with(".%07d" % os.getpid()), [])
            self.assertEqual(processes_with(self.job(jobid).path), [])
            self.assertIn("has ended already", self.psik("cancel", jobid).err)

    def test_a_payload_may_save_its_work(self: Any) -> None:
        jobid = self.run_spec(script=TRAP)
        self.until(lambda: self.psik("logs", jobid, status=None).out == "ready\n")
        self.psik("cancel", jobid)
        self.psik("wait", jobid, status=143)
        self.until_last(jobid, "1 canceled")
        self.assertEqual(self.psik("logs", jobid).out, "ready\ncaught\nsaved\n")

    def test_a_signal_from_elsewhere_is_a_failure(self: Any) -> None:
        jobid = self.run_spec(script=TRAP)
        self.until(lambda: self.psik("logs", jobid, status=None).out == "ready\n")
        os.kill(self.job(jobid).rows()[1].info, signal.SIGTERM)
        self.assertIn("it was stopped by signal 15", self.psik("wait", jobid, status=143).err)
        self.assertEqual(self.states(jobid)[-1], "1 failed")
        self.assertEqual(self.psik("logs", jobid).out, "ready\ncaught\nsaved\n")

    def test_user_signals_are_passed_on(self: Any) -> None:
        jobid = self.run_spec(
            script="#!/bin/bash\ntrap 'echo usr1; exit 5' USR1\necho ready\n%s & wait\n" % nap(64))
        self.until(lambda: self.psik("logs", jobid, status=None).out == "ready\n")
        os.kill(self.job(jobid).rows()[1].info, signal.SIGUSR1)
        self.psik("wait", jobid, status=5)
        kill(processes_with(nap(64)))

    def test_a_payload_that_ignores_the_signal_is_killed(self: Any) -> None:
        jobid = self.run_spec(script=STUBBORN.replace("NAP", nap(61)))
        self.until(lambda: len(processes_with(nap(61))) >= 2)
        self.psik("cancel", jobid)
        self.until_last(jobid, "1 canceled")
        self.assertEqual(processes_with(nap(61)), [])

    def test_cancel_before_anything_ran(self: Any) -> None:
        jobid = self.run_spec("--no-submit", script="true")
        self.psik("cancel", jobid)
        self.assertEqual(self.states(jobid), ["0 new", "0 canceled"])
        self.psik("start", jobid)
        self.psik("wait", jobid)

    def test_a_job_script_that_was_killed_is_found_out(self: Any) -> None:
        self.configure(poll_interval_s=0, poll_grace_s=1)
        jobid = self.run_spec(script=nap(65))
        self.until(lambda: processes_with(nap(65)))
        os.kill(self.job(jobid).rows()[1].info, signal.SIGKILL)
        self.psik("poll")
        self.assertEqual(self.states(jobid)[-1], "1 active")  # its payload lives on
        self.psik("cancel", jobid)
        self.gone(nap(65))
        jobid = self.run_spec(script=nap(66))
        self.until(lambda: processes_with(nap(66)))
        os.killpg(self.job(jobid).rows()[1].info, signal.SIGKILL)
        kill(processes_with(nap(66)))
        self.assertIn("its supervisor was killed", self.psik("wait", jobid, status=1).err)
        self.assertEqual(self.states(jobid)[-1], "1 failed")

    def test_follow_shows_both_streams_as_they_come(self: Any) -> None:
        spec = {"script": "#!/bin/sh\necho a; sleep 0.3; echo b; echo c >&2; exit 4"}
        ran = self.psik("run", "--follow", "-", stdin=json.dumps(spec), status=4)
        self.assertEqual(ran.out, "a\nb\n")
        self.assertIn("c\n", ran.err)

    def test_the_job_does_not_hold_our_pipes(self: Any) -> None:
        begun = time.time()
        jobid = self.run_spec(script=nap(67))
        self.assertLess(time.time() - begun, 20)
        self.psik("rm", "--force", jobid)

    def test_fifty_at_once(self: Any) -> None:
        config = self.config()
        jobs = [psik.create(config, psik.JobSpec(script="exit 3")) for _ in range(50)]
        for job in jobs:
            psik.submit(job)
        summaries = psik.wait(config, jobs, 180)
        self.assertEqual({(each.state, each.info) for each in summaries}, {("failed", 3)})
        self.assertEqual({len(job.rows()) for job in jobs}, {4})

    def test_psik_works_inside_the_job(self: Any) -> None:
        env = {"PYTHONHOME": "/nonsense", "PYTHONPATH": "/nonsense"}
        script = "#!/bin/sh\n$psik reached -- $base 2 completed && $psik --version"
        jobid = self.run_spec("--wait", script=script, environment=env)
        self.assertIn("2 completed", self.states(jobid))
        self.until(lambda: "1 completed" in self.states(jobid))
        self.assertEqual(self.psik("logs", "--ndx", "1", jobid).out, psik.__version__ + "\n")


@needs("rc", rc_path())
class InRc(Local, Case):
    kind, shell = "rc", rc_path() or ""


class InSh(Local, Case):
    kind, shell = "sh", "/bin/sh"


class Walltime(Case):
    """The shortest walltime is a minute; the jobs of both shells wait for it together."""

    def test_walltime(self) -> None:
        begun = time.time()
        jobs: Dict[str, str] = {}
        for shell in [path for path in (rc_path(), "/bin/sh") if path]:
            for script in ("sleep 120", TRAP, STUBBORN.replace("NAP", nap(121))):
                self.configure(rc_path=shell, kill_grace_s=2)
                jobs[self.run_spec("--set", "resources.duration=1", script=script)] = script
        for jobid, script in jobs.items():
            status = self.psik("wait", "--timeout", "180", jobid, status=None, timeout=200).status
            self.assertEqual(status, 137 if script.startswith(STUBBORN[:30]) else 143, script)
            self.assertIn("its walltime of 1 min was over; resources.duration is 1 min",
                          self.psik("status", jobid).out)
            self.assertGreater(time.time() - begun, 59)
        self.assertEqual(processes_with(nap(121)), [])


class Alone(Case):
    """psik.py by itself in an empty directory, no rc, no config."""

    def test_the_main_job(self) -> None:
        place = os.path.join(self.folder, "empty")
        tools = os.path.join(self.folder, "bin")
        os.mkdir(place)
        os.mkdir(tools)
        shutil.copy(PSIK, place)
        if sys.version_info < (3, 7):
            shutil.copy(__import__("dataclasses").__file__, place)
        for name in ("cat date env expr find flock grep hostname kill pgrep pkill ps rm sed seq "
                     "setsid sh sleep sort timeout tr uname xargs").split():
            os.symlink(shutil.which(name) or "", os.path.join(tools, name))
        env = {"HOME": place, "PATH": tools}
        done = subprocess.run([sys.executable, "psik.py", "run", "--follow", "-"], cwd=place,
                              env=env, input=b'{"script": "hostname; pwd; echo moo"}',
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual(done.returncode, 0, done)
        lines = done.stdout.decode().split()
        self.assertEqual((lines[0], lines[2]), (os.uname().nodename, "moo"))
        self.assertRegex(lines[1], "^%s/.local/share/psik/local/[0-9.]+/work$" % place)


    def test_a_backport_of_dataclasses_beside_it_is_for_one_python_alone(self) -> None:
        shutil.copy(PSIK, self.folder)
        with open(os.path.join(self.folder, "dataclasses.py"), "w") as file:
            if sys.version_info < (3, 7):
                with open(str(__import__("dataclasses").__file__)) as backport:
                    file.write(backport.read())
            else:
                file.write("raise RuntimeError('not for this Python')\n")
        program = [sys.executable, os.path.join(self.folder, "psik.py")]
        jobid = self.psik("run", "--wait", "-", stdin='{"script": "$psik --version"}',
                          program=program).out.strip()
        self.assertEqual(self.psik("logs", jobid, program=program).out, psik.__version__ + "\n")
        program = [sys.executable, "-c", "import psik; print(psik.__version__)"]
        self.assertEqual(self.psik(program=program).out, psik.__version__ + "\n")


class Names(Case):
    """psik.py under other names: what it writes into a job must still find it."""

    def test_other_names(self) -> None:
        for name in ("psik", "psik-1.0.py", "queue.py", "my_psik.py"):
            place = os.path.join(self.folder, "as " + name)
            os.mkdir(place)
            shutil.copy(PSIK, os.path.join(place, name))
            if sys.version_info < (3, 7):
                shutil.copy(__import__("dataclasses").__file__, place)
            program = [sys.executable, os.path.join(place, name)]
            spec = '{"script": "#!/bin/sh\\n$psik --version"}'
            jobid = self.psik("run", "--wait", "-", stdin=spec, program=program).out.strip()
            self.assertEqual(self.psik("logs", jobid).out, psik.__version__ + "\n")


if __name__ == "__main__":
    unittest.main()
