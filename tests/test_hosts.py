"""Commands for another host, by `--on`, and files that go to jobs and come back."""
import contextlib
import glob
import gzip
import io
import itertools
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc
from typing import Any, Dict, List, Optional
from unittest import mock
from urllib import request as urllib_request

import psik
from harness import FAST, PSIK, ROOT, Case, Ran, needs, processes_with
from serving import SSHD, free_port, start

# An ssh that goes no further than a shell of this host, in another home.  SSH_LOG counts the calls.
SSH = """#!/bin/sh
echo "$*" >>%(folder)s/calls
for last; do :; done
cd %(far)s
exec env -i HOME=%(far)s PATH="${FAR_PATH:-$PATH}" TMPDIR=%(far)s/tmp \\
	${FAR_SHELL:-/bin/sh} -c "$last"
"""
OLD = next(iter(glob.glob(os.path.expanduser("~/.pyenv/versions/3.6.*/bin/python3.6"))),
           shutil.which("python3.6"))


def far_sides(text: str) -> List[int]:
    """The processes of the far side that have this text in their environment."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open("/proc/%s/cmdline" % name, "rb") as file:
                argv = file.read().split(b"\0")
            with open("/proc/%s/environ" % name, "rb") as file:
                if text.encode() in file.read() and any(b"b64decode" in word for word in argv[:4]):
                    found.append(int(name))
    return found


class Hosts(Case):
    """A host that is reached by an ssh of the tests."""

    def setUp(self) -> None:
        super().setUp()
        self.far = os.path.join(self.folder, "far home")
        for path in (self.far, os.path.join(self.far, "tmp"), os.path.join(self.folder, "bin")):
            os.mkdir(path)
        quoted = {"folder": self.folder, "far": "'%s'" % self.far}
        self.write("bin/ssh", SSH % quoted, 0o755)
        self.env["PATH"] = os.path.join(self.folder, "bin") + ":" + self.env["PATH"]
        self.configure(hosts={"north": {}})

    def on(self, *argv: str, **options: Any) -> Ran:
        """A command for the other host."""
        return self.psik("--on", "north", *argv, **options)

    def calls(self) -> List[str]:
        """The calls of ssh so far, by their arguments."""
        return psik.read_or_empty(os.path.join(self.folder, "calls")).splitlines()

    def copies(self) -> List[str]:
        """The copies of psik.py on the other host."""
        return [os.path.join(folder, "psik.py") for folder, _, names in os.walk(self.far)
                if "psik.py" in names and "/.psik/" not in folder]


class Commands(Hosts):
    def test_a_day(self) -> None:
        """From an empty home to the result file, in one line."""
        self.write("data.csv", "1\n2\n3\n")
        self.write("spec.json", json.dumps({
            "name": "sum", "script": "#!/bin/sh\necho begun\nwc -l <data.csv >out.txt\nexit 7"}))
        ran = self.on("run", "--in", "data.csv", "--follow", "--get", "out*", "spec.json", status=7)
        self.assertEqual((ran.out, psik.read_or_empty(os.path.join(self.folder, "out.txt"))),
                         ("begun\n", "3\n"))
        self.assertIn("psik: job 1", ran.err)
        self.assertEqual(len(self.calls()), 1)
        self.assertFalse(os.path.exists(self.prefix))
        copy, = self.copies()
        self.assertIn("/.cache/psik/", copy)

    def test_results_and_statuses_are_those_of_home(self) -> None:
        jobid = self.on("run", "-c", "echo moo; exit 3").out.strip()
        self.assertEqual(self.on("wait", jobid, status=3).out, "")
        self.assertEqual(self.on("logs", jobid).out, "moo\n")
        listed = json.loads(self.psik("ls", "--json", "--on=north").out)
        self.assertEqual([job["jobid"] for job in listed], [jobid])
        self.assertEqual(self.psik("ls", env={"PSIK_ON": "north"}).out, self.on("ls").out)
        self.on("status", "nix", status=3)
        self.on("ls", "--state", "nix", status=2)
        said = self.on("why", "last").out
        self.assertIn("`psik.py --on north logs", said)
        self.assertEqual(self.on("path", "last").out.strip(), os.path.join(
            self.far, ".local/share/psik/local", jobid))
        self.assertIn("psik.py --on north ls", self.on().out)
        calls = len(self.calls())
        self.assertIn("resources.duration", self.on("help", "spec").out)
        self.on("serve", status=2)
        self.on("run", "--here", "-c", "true", status=2)
        self.on("lz", status=2)
        self.assertEqual(len(self.calls()), calls)
        self.assertEqual(len(self.copies()), 1)

    def test_files_that_are_named_are_read_here(self) -> None:
        self.write("tasks.csv", "A,B\n1,x\n2,y\n")
        self.write("s.json", json.dumps({"script": "#!/bin/sh\necho $task $A $B", "array":
                                         "tasks.csv"}))
        self.on("run", "--wait", "s.json")
        self.assertEqual(self.on("logs", "last", "--task", "2").out, "2 2 y\n")
        jobid = self.on("run", "--array", "tasks.csv", "-", stdin='{"script": "echo $A"}').out
        self.on("wait", jobid.strip())
        self.write("batch.sh", "#!/bin/sh\n#SBATCH --time=7\npwd\n")
        ran = self.on("run", "batch.sh")
        self.on("wait", "last")
        self.assertEqual(self.on("logs", "last").out.strip(), self.on("path", "last", "work").out
                         .strip())
        self.assertIn('"duration": 7', psik.read_or_empty(os.path.join(
            self.far, ".local/share/psik/local", ran.out.strip(), "spec.json")))
        self.on("run", "nowhere.json", status=2)
        self.on("run", "--array", "nowhere.csv", "-c", "true", status=2)

    def test_an_application_there(self) -> None:
        os.makedirs(os.path.join(self.far, ".config", "apps"))
        with open(os.path.join(self.far, ".config", "psik.json"), "w") as file:
            json.dump({"applications": "apps"}, file)
        with open(os.path.join(self.far, ".config", "apps", "wc.json"), "w") as file:
            json.dump({"script": '#!/bin/sh\nwc -c <"$blob"\ncat data.txt\necho "$word"\n',
                       "needs": ["data.txt"], "inputs": {"properties": {
                           "blob": {"type": "string", "contentEncoding": "base64"},
                           "word": {"type": "string"}}, "required": ["blob"]}}, file)
        with open(os.path.join(self.folder, "odd.bin"), "wb") as data:
            data.write(bytes(range(256)))
        self.write("data.txt", "moo\n")
        self.assertIn("wc", self.on("apps").out)
        ran = self.on("run", "--app", "wc", "--follow", "blob=@odd.bin", "word=it's $x",
                      "--in", "data.txt")
        self.assertEqual(ran.out, "256\nmoo\nit's $x\n")
        self.assertIn("blob: is missing", self.on("run", "--app", "wc", status=2).err)
        self.assertIn("nowhere", self.on("run", "--app", "wc", "blob=@nowhere", status=None).err)

    def test_arguments_arrive_as_they_are(self) -> None:
        words = ["it's", 'a "b"', "$HOME `x` \\ !! %s", "two\nlines", "\u00e9"]
        self.on("run", "--wait", "--env", "V=é\n'", "--", "printf", "%s|", *words)
        self.assertEqual(self.on("logs", "last").out, "|".join(words) + "|")

    def test_what_a_job_calls_stays_where_it_is(self) -> None:
        self.psik("run", "--wait", "--env", "PSIK_ON=north", "-c", "$psik ls >listed")
        self.assertIn("active", psik.read_or_empty(self.folder + "/listed"))
        self.assertEqual(self.calls(), [])
        self.on("deliver", "last", status=3)
        self.assertEqual(len(self.calls()), 1)

    def test_the_hosts_of_a_config(self) -> None:
        self.configure(hosts={"north": {
            "ssh": ["-p", "7", "ada@north.example"], "prefix": "~/else", "python": sys.executable,
            "config": "~/their.json"}})
        with open(os.path.join(self.far, "their.json"), "w") as file:
            file.write('{"backend": {"type": "local", "queue_name": "q"}, "prefix": "/nowhere"}')
        self.on("run", "--wait", "-c", "true")
        self.assertTrue(os.path.isdir(os.path.join(self.far, "else", "local")))
        self.assertTrue(self.calls()[0].startswith("-T -p 7 ada@north.example exec /bin/sh"))
        self.assertIn("psik: ssh -T -p 7 ada@north.example\n", self.on("-v", "ls").err)
        for hosts in ({"-x": {}}, {"a b": {}}, {"a": {"python": "py thon"}}, {"a": {"ssh": 5}}):
            self.configure(hosts=hosts)
            self.psik("ls", status=2)
        for argv in (["--on"], ["--on", "-x", "ls"], ["--on", "a b", "ls"], ["--on="]):
            self.psik(*argv, status=2)

    def test_a_terminal_is_the_one_of_home(self) -> None:
        self.on("run", "--wait", "-c", "exit 1", status=1)
        for words in ([], ["--on", "north"]):
            argv = FAST + words + ["ls"]
            pid, fd = pty.fork()
            if not pid:  # pragma: no cover
                os.chdir(self.folder)
                os.execvpe(argv[0], argv, dict(self.env, TERM="xterm", COLUMNS="50", LINES="20"))
            shown = b""
            with contextlib.suppress(OSError):
                for block in iter(lambda: os.read(fd, 65536), b""):
                    shown += block
            os.close(fd)
            os.waitpid(pid, 0)
            lines = re.sub(r"\x1b\[[0-9]*m", "", shown.decode()).splitlines()
            if words:
                self.assertIn(b"\x1b[31mfailed", shown)
                self.assertLessEqual(max(map(len, lines)), 50)


class Connections(Hosts):
    def test_every_login_shell(self) -> None:
        """Each prints a banner first, as some do."""
        banners = {".cshrc": "echo csh banner\n", ".config/fish/config.fish": "echo banner\n",
                   ".bashrc": "echo banner\n"}
        for name, text in banners.items():
            path = os.path.join(self.far, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                file.write(text)
        shells = [name for name in ("sh", "bash", "dash", "csh", "tcsh", "fish", "zsh", "rc")
                  if shutil.which(name)]
        self.assertIn("sh", shells)
        for shell in shells:
            for argv in (("ls",), ("run", "-c", "echo '!' it\\'s")):
                with self.subTest(shell=shell, argv=argv):
                    ran = self.on(*argv, env={"FAR_SHELL": shutil.which(shell) or ""})
                    self.assertNotIn("banner", ran.out)

    def test_a_banner_without_a_newline(self) -> None:
        self.write("login", "#!/bin/sh\nprintf 'psik-0 Welcome to psik-'\nexec /bin/sh \"$@\"\n",
                   0o755)
        env = {"FAR_SHELL": self.folder + "/login"}
        self.assertEqual(self.on("path", "nix", env=env, status=3).out, "")
        self.assertEqual(self.on("run", "--follow", "-c", "printf psik-; sleep 1; echo x",
                                 env=env).out, "psik-x\n")

    def path_with(self, **programs: str) -> Dict[str, str]:
        """The far host's PATH: sh and its like, and these, {name: script or path}."""
        folder = os.path.join(self.folder, "path%d" % len(os.listdir(self.folder)))
        os.mkdir(folder)
        for name in ("sh", "env", "sleep", "cat", "hostname"):
            os.symlink(shutil.which(name) or "", os.path.join(folder, name))
        for name, text in programs.items():
            path = os.path.join(folder, name.replace("_", "."))
            if text.startswith("#!"):
                with open(path, "w") as file:
                    file.write(text)
                os.chmod(path, 0o755)
            else:
                os.symlink(text, path)
        return {"FAR_PATH": folder}

    def test_a_python_is_found(self) -> None:
        broken = "#!/bin/sh\necho 'pyenv: python3.12: command not found' >&2\nexit 127\n"
        env = self.path_with(python3_12=broken, python3=sys.executable)
        self.on("ls", env=env)
        old = "#!/bin/sh\ntest \"$1\" = -V && echo Python 3.4.10\nexit 1\n"
        ran = self.on("ls", env=self.path_with(python3=old), status=4)
        if not os.path.exists("/usr/libexec/platform-python"):
            self.assertRegex(ran.err, r"no Python 3\.6 or newer was found on north, but "
                                      r"\S+/python3 Python 3\.4\.10; name one")
            ran = self.on("ls", env=self.path_with(), status=4)
            self.assertIn("no Python 3.6 or newer was found on north", ran.err)

    @needs("Python 3.6", OLD)
    def test_the_oldest_python_gets_its_backport(self) -> None:
        env = self.path_with(python3=OLD or "")
        shutil.copy(PSIK, self.folder)
        program = [sys.executable, self.folder + "/psik.py"]
        if sys.version_info >= (3, 7):
            ran = self.psik("--on", "north", "ls", env=env, program=program, status=2)
            self.assertIn("put the backport dataclasses.py (PyPI, `dataclasses` 0.8) beside",
                          ran.err)
        backport = os.path.join(os.environ.get("PSIK_TEST_DEPS", ROOT + "/.deps"), "dataclasses.py")
        shutil.copy(backport, self.folder)
        self.write("é", "moo")
        for _ in range(2):
            self.psik("--on", "north", "run", "--wait", "--in", "é", "-c",
                      "cat é; echo ${LC_ALL-é}", env=env, program=program)
            self.assertEqual(self.psik("--on", "north", "logs", "last", env=env,
                                       program=program).out, "mooé\n")
        self.assertEqual(len(glob.glob(self.far + "/.cache/psik/*-3.6")), 1)

    def test_two_first_calls_at_once(self) -> None:
        found: List[int] = []
        threads = [threading.Thread(target=lambda: found.append(self.on("ls").status))
                   for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(found, [0] * 4)
        self.assertEqual(len(glob.glob(self.far + "/.cache/psik/*")), 1)

    def test_old_copies_go(self) -> None:
        place = os.path.join(self.far, ".cache", "psik")
        for name, days in (("0123456789abcdef", 31), ("fedcba9876543210", 29), ("notes", 99)):
            os.makedirs(os.path.join(place, name), 0o700)
            os.utime(os.path.join(place, name), (time.time() - days * 86400,) * 2)
        os.chmod(place, 0o700)
        self.on("ls")
        self.assertEqual(len(os.listdir(place)), 3)
        self.assertFalse(os.path.exists(os.path.join(place, "0123456789abcdef")))
        own, = (os.path.dirname(copy) for copy in self.copies())
        os.utime(own, (0, 0))
        os.utime(os.path.join(place, "fedcba9876543210"), (0, 0))
        self.on("ls")
        self.assertEqual(sorted(os.listdir(place)), sorted(["notes", os.path.basename(own)]))
        self.assertGreater(os.stat(own).st_mtime, time.time() - 1000)

    def test_a_home_that_takes_nothing(self) -> None:
        """The copy goes elsewhere, and never where others can write."""
        with open(os.path.join(self.far, ".cache"), "w"):
            pass    # in the way, as a full disk is
        self.on("run", "--wait", "-c", "true")
        copy = next(path for path in self.copies() if "/tmp/" in path)
        os.chmod(os.path.dirname(copy), 0o777)     # is replaced
        self.on("ls")
        self.assertEqual(os.stat(os.path.dirname(copy)).st_mode & 0o777, 0o700)
        os.unlink(copy)
        self.on("ls")
        os.chmod(os.path.dirname(os.path.dirname(copy)), 0o777)
        self.assertRegex(self.on("ls", status=4).err,
                         "no folder there can hold psik.py: .*; .*others")

    def test_what_is_kept_is_what_was_sent(self) -> None:
        self.on("ls")
        copy, = self.copies()
        with open(copy, "rb") as one, open(PSIK, "rb") as other:
            self.assertEqual(one.read(), other.read())
        self.assertEqual(os.stat(os.path.dirname(copy)).st_mode & 0o777, 0o700)

    def test_a_get_that_is_hung_up_leaves_nothing(self) -> None:
        jobid = self.run_spec("--wait", script="#!/bin/sh\ntruncate -s 1G large\n")
        for number in (signal.SIGHUP, signal.SIGTERM):
            there = os.path.join(self.folder, "there")
            child = subprocess.Popen(FAST + ["get", "-o", there, jobid], env=self.env)
            self.until(lambda place=there: os.path.isdir(place) and os.listdir(place))
            child.send_signal(number)
            self.assertEqual(child.wait(60), 128 + number)
            self.assertEqual(os.listdir(there), [])
            os.rmdir(there)

    def test_ssh_fails(self) -> None:
        self.write("bin/ssh", "#!/bin/sh\necho no route >&2\nexit 255\n", 0o755)
        ran = self.on("run", "-c", "true", status=255)
        self.assertEqual(ran.err, "no route\npsik: ssh to north failed, with exit status 255\n")
        self.write("bin/ssh", "#!/bin/sh\necho This account is not available.\nexit 1\n", 0o755)
        self.on("wait", "last", status=255)
        os.unlink(os.path.join(self.folder, "bin", "ssh"))
        env = self.path_with()
        ran = self.on("ls", env={"PATH": env["FAR_PATH"]}, status=3)
        self.assertIn("no program ssh", ran.err)

    def follower(self, *argv: str) -> Any:
        """A follower of a job there, which leads a process group, once it shows something."""
        child = subprocess.Popen(FAST + ["--on", "north"] + list(argv), cwd=self.folder,
                                 env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                 start_new_session=True)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        self.assertEqual(child.stdout.readline(), b"begun\n")
        return child

    def followers(self) -> List[int]:
        """The processes that follow on the far side."""
        return far_sides("HOME=" + self.far)

    def test_ctrl_c_ends_the_follower_and_not_the_job(self) -> None:
        child = self.follower("run", "--follow", "-c", "echo begun; sleep 300")
        os.killpg(child.pid, signal.SIGINT)
        _, err = child.communicate(timeout=30)
        self.assertEqual(child.returncode, 130)
        self.assertRegex(err.decode(), r"no longer waiting; \S+ goes on. To cancel: psik.py --on "
                                       r"north cancel ")
        self.until(lambda: not self.followers(), "the end of the far side")
        self.assertIn("active", self.on("ls").out)
        self.on("cancel", "last")

    def test_what_is_killed_here_ends_there(self) -> None:
        child = self.follower("run", "--follow", "-c", "echo begun; sleep 300")
        child.kill()
        self.until(lambda: not self.followers(), "the end of the far side")
        self.assertIn("active", self.on("ls").out)
        self.on("cancel", "last")

    def test_a_connection_that_breaks(self) -> None:
        child = self.follower("run", "--follow", "-c", "echo begun; sleep 300")
        far, = self.followers()
        os.kill(far, signal.SIGKILL)
        _, err = child.communicate(timeout=30)
        self.assertEqual(child.returncode, 255, err)
        self.assertIn(b"psik: ssh was ended by signal 9", err)
        self.on("cancel", "last")

    def test_a_reader_that_has_seen_enough(self) -> None:
        child = self.follower("run", "--follow", "-c", "echo begun; exec yes")
        child.stdout.close()
        child.stderr.read()
        self.assertEqual(child.wait(30), 141)
        self.until(lambda: not self.followers(), "the end of the far side")
        self.on("cancel", "last")


    def test_a_compiled_file_that_was_cut(self) -> None:
        """A full disk leaves such, and Python reads them for ever."""
        self.on("ls")
        for _ in range(2):
            cached, = glob.glob(self.far + "/.cache/psik/*/__pycache__/psik.*")
            os.truncate(cached, 5000)
            self.on("ls")
            self.on("ls")

    def test_what_a_login_says_when_it_refuses(self) -> None:
        login = self.write("nologin", "#!/bin/sh\necho This account is not available.\nexit 1\n",
                           0o755)
        ran = self.on("ls", env={"FAR_SHELL": login}, status=255)
        self.assertEqual(ran.err, "psik: north: This account is not available.\n"
                                  "psik: ssh to north failed, with exit status 1\n")

    def test_ctrl_c_before_anything_runs(self) -> None:
        self.write("bin/ssh", "#!/bin/sh\n>'%s/begun'\nexec sleep 60\n" % self.folder, 0o755)
        child = subprocess.Popen(FAST + ["--on", "north", "ls"], cwd=self.folder, env=self.env)
        self.addCleanup(child.kill)
        self.until(lambda: os.path.exists(self.folder + "/begun"))
        time.sleep(0.2)
        begun = time.monotonic()
        child.send_signal(signal.SIGINT)
        self.assertEqual(child.wait(30), 130)
        self.assertLess(time.monotonic() - begun, 10)

    def hostile(self, said: bytes) -> None:
        """Let the other host say this as soon as it is called; $MARK and $SECRET stand in it."""
        self.write("said", "")
        with open(self.folder + "/said", "wb") as file:
            file.write(said)
        self.write("bin/ssh", HOSTILE % {"python": sys.executable, "folder": self.folder}, 0o755)

    def test_a_host_that_wants_other_files(self) -> None:
        self.write("key", "secret")
        for words in ("%s/key" % self.folder, "psik.py psik.json", "../key"):
            self.hostile(b"$MARK want %s\n" % words.encode())
            self.on("ls", status=255)
            self.assertNotIn("secret", psik.read_or_empty(self.folder + "/heard"))
        self.hostile(b"$MARK want psik.py\n$MARK want psik.py\n")
        self.on("ls", status=255)
        self.hostile(b"x" * 10 ** 6 + b"$MARK " + b"x" * 10 ** 6)
        self.on("ls", status=255)

    def test_a_host_that_sends_other_files(self) -> None:
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            tar.addfile(tarfile.TarInfo(".bashrc"))
        self.hostile(b"$MARK go\n$SECRET files\n" + data.getvalue())
        for argv, status in ((("ls",), 0), (("get", "last"), 6), (("get", "last", "out*"), 6),
                             (("run", "--wait", "--get", "b*", "-c", "true"), 6)):
            self.assertNotIn("Traceback", self.on(*argv, status=status).err)
            self.assertFalse(os.path.exists(self.folder + "/.bashrc"))
        self.on("get", "last", ".bash*")
        self.assertTrue(os.path.exists(self.folder + "/.bashrc"))

    def test_a_job_that_prints_a_mark(self) -> None:
        self.write("evil.sh", "tr '\\0' '\\n' </proc/*/cmdline 2>/dev/null | "
                   "grep -ao 'psik-[0-9a-f]*' | sort -u | sed 's/$/ files/'\n"
                   "cat /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -ax 'psik-[0-9a-f]*' |"
                   " sort -u | sed 's/$/ files/'\necho end\n")
        ran = self.on("run", "--follow", "evil.sh")
        self.assertIn("files\n", ran.out)
        self.assertTrue(ran.out.endswith("end\n"))


# An ssh to a host that is an enemy's.
HOSTILE = """#!%(python)s
import json, os, re, sys, time
mark = re.findall(" (psik-[0-9a-f]+) ", sys.argv[-1])[0].encode()
line = b""
while not line.endswith(b"\\n"):
    line += os.read(0, 1)
request = b""
while len(request) < int(line):
    request += os.read(0, int(line) - len(request))
said = open("%(folder)s/said", "rb").read()
os.write(1, said.replace(b"$MARK", mark).replace(b"$SECRET", json.loads(request)["mark"].encode()))
os.close(1)
with open("%(folder)s/heard", "wb") as file:
    while True:
        data = os.read(0, 65536)
        if not data:
            break
        file.write(data)
        file.flush()
sys.exit(0 if b"go" in said else 255)
"""


class Files(Hosts):
    """put, get, --in and --get, here and there."""

    def setUp(self) -> None:
        super().setUp()
        os.makedirs(os.path.join(self.folder, "in", "deep"))
        self.write("in/a.csv", "1,2\n")
        self.write("in/deep/run.sh", "#!/bin/sh\necho ran\n", 0o755)
        os.symlink("../a.csv", os.path.join(self.folder, "in", "deep", "link"))
        os.symlink("/etc/passwd", os.path.join(self.folder, "in", "out"))
        os.utime(os.path.join(self.folder, "in", "a.csv"), (1e9, 1e9))

    def both(self) -> Any:
        """How a command is written for this host, and for the other."""
        return ([], ["--on", "north"])

    def test_inputs_and_results(self) -> None:
        for words in self.both():
            ran = self.psik(*words, "run", "--wait", "--in", "in", "--get", "res*", "-c",
                            "mkdir res; cp in/a.csv res; in/deep/run.sh >res/x; cat in/deep/link")
            self.assertIn("in/out is left out", ran.err)
            self.assertEqual(psik.read_or_empty(self.folder + "/res/x"), "ran\n")
            shutil.rmtree(self.folder + "/res")
            jobid = ran.out.strip()
            self.psik(*words, "get", "last")
            self.assertEqual(os.path.getmtime(os.path.join(self.folder, jobid, "in/a.csv")), 1e9)
            self.assertEqual(os.readlink(os.path.join(self.folder, jobid, "in/deep/link")),
                             "../a.csv")
            self.psik(*words, "get", "last", "*.csv", "in/deep", "-o", "some")
            found = sorted(os.path.relpath(os.path.join(folder, name), self.folder + "/some")
                           for folder, _, names in os.walk(self.folder + "/some") for name in names)
            self.assertEqual(found, ["in/a.csv", "in/deep/link", "in/deep/run.sh", "res/a.csv"])
            self.assertTrue(os.access(self.folder + "/some/in/deep/run.sh", os.X_OK))
            shutil.rmtree(self.folder + "/some")

    def test_what_is_in_a_folder_and_odd_names(self) -> None:
        for name in ("-x", "a b", "new\nline", "\udcff", "é" * 80, "n" * 200):
            self.write("in/" + name, name.encode("utf-8", "replace").decode())
        for words in self.both():
            self.psik(*words, "run", "--wait", "-c", "true")
            os.makedirs(self.folder + "/empty", exist_ok=True)
            self.psik(*words, "put", "last", "in/", "empty")
            work = self.psik(*words, "path", "last", "work").out.strip()
            there = os.path.join(self.far, ".local") if words else self.folder
            self.assertTrue(work.startswith(there))
            if not words:
                continue
            self.assertEqual(sorted(os.listdir(work)), sorted(
                set(os.listdir(self.folder + "/in")) - {"out"} | {"empty"}))
            self.psik(*words, "put", "last", "in/a.csv")
            shutil.rmtree(self.folder + "/res", True)
            self.psik(*words, "get", "last", "-o", "res")
            self.assertEqual(sorted(os.listdir(self.folder + "/res")), sorted(os.listdir(work)))

    def test_refusals(self) -> None:
        os.mkdir(self.folder + "/other")
        self.write("other/a.csv", "")
        for words in self.both():
            self.psik(*words, "run", "--wait", "-c", "true")
            for argv, status, said in (
                    (("put", "last", "nowhere"), 3, "no file 'nowhere'"),
                    (("put", "last", "in/a.csv", "other/a.csv"), 2, "two of the files are called"),
                    (("put", "nix", "in"), 3, "no job nix"), (("get", "nix"), 3, "no job nix"),
                    (("get", "last", "no*"), 3, "has no such files"),
                    (("run", "--in", "nowhere", "-c", "true"), 3, "no file 'nowhere'"),
                    (("run", "--get", "x", "-c", "true"), 2, "--get goes with"),
                    (("run", "--in", "in", "--here", "-c", "true"), 2, "--here")):
                ran = self.psik(*words, *argv, status=status)
                self.assertIn(said, ran.err)
            self.psik(*words, "run", "--wait", "--dir", "/", "-c", "true")
            self.assertIn("runs in /; say which", self.psik(*words, "get", "last", status=2).err)
            self.write("block", "")
            ran = self.psik(*words, "get", "last", "etc/passwd", "-o", "block", status=5)
            self.assertIn("block is there, and no directory", ran.err)

    def test_options_between_words(self) -> None:
        self.psik("run", "--wait", "--in", "in", "-c", "true")
        for argv in (("last", "-o", "some", "*.csv"), ("-o", "some", "last", "*.csv"),
                     ("last", "*.csv", "-o", "some"), ("last", "-o", "some", "--", "./in/a.csv")):
            self.psik("get", *argv)
            self.assertEqual(os.listdir(self.folder + "/some/in"), ["a.csv"])
            shutil.rmtree(self.folder + "/some")
        self.psik("get", "last", "-o", "some", "*.csv", "--nix", status=2)

    def test_what_is_private_stays_so(self) -> None:
        os.makedirs(self.folder + "/keys", 0o700)
        self.write("keys/key", "", 0o600)
        self.write("keys/open", "", 0o664)
        for words in self.both():
            self.psik(*words, "run", "--wait", "--in", "keys", "-c", "true")
            self.psik(*words, "get", "last", "keys", "-o", "back")
            for place in (self.psik(*words, "path", "last", "work").out.strip(),
                          self.folder + "/back"):
                modes = [oct(os.stat(place + name).st_mode)[-3:]
                         for name in ("/keys", "/keys/key", "/keys/open")]
                self.assertEqual(modes, ["700", "600", "644"])
            shutil.rmtree(self.folder + "/back")

    def test_results_that_are_not_there(self) -> None:
        for words in self.both():
            for code, status in ((9, 9), (0, 3)):
                ran = self.psik(*words, "run", "--wait", "--get", "no*", "-c", "exit %d" % code,
                                status=status)
                self.assertIn("has no such files", ran.err)

    def test_inputs_stay_as_they_are_here(self) -> None:
        for words in self.both():
            self.write("data.csv", "mine")
            line = "echo theirs >data.csv; echo theirs >in/a.csv; echo x >other"
            self.psik(*words, "run", "--wait", "--in", "data.csv", "--in", "in/", "--get", "*",
                      "-c", line.replace("in/", ""))
            self.assertEqual([psik.read_text(self.folder + "/" + name)
                              for name in ("data.csv", "other")], ["mine", "x\n"])
            self.assertFalse(os.path.exists(self.folder + "/a.csv"))
            self.psik(*words, "run", "--wait", "--in", "data.csv", "--get", "data*", "-c", line
                      .replace("echo theirs >in/a.csv; ", ""))
            self.assertEqual(psik.read_text(self.folder + "/data.csv"), "theirs\n")

    def test_onto_themselves(self) -> None:
        """Where a job runs in the current directory."""
        self.psik("run", "--wait", "--here", "-c", "echo x >out.log")
        inode = os.stat(self.folder + "/out.log").st_ino
        self.psik("get", "last", "*.log")
        self.psik("put", "last", "out.log")
        self.assertEqual(os.stat(self.folder + "/out.log").st_ino, inode)
        self.psik("get", "last", "*", "-o", "results")
        self.assertIn("in", os.listdir(self.folder + "/results"))
        self.assertNotIn("results", os.listdir(self.folder + "/results"))
        os.makedirs(self.folder + "/sub")
        self.psik("run", "--wait", "--dir", "sub", "-c", "true")
        self.psik("put", "last", ".")
        self.assertIn("in", os.listdir(self.folder + "/sub"))
        self.assertNotIn("sub", os.listdir(self.folder + "/sub"))

    def test_files_that_become_shorter(self) -> None:
        self.write("log", "x" * 3000000)
        real = psik.Entries.look

        def shortened(own: Any, name: str, folder: int, item: str) -> Any:
            found = real(own, name, folder, item)
            if item == "log":
                os.truncate(self.folder + "/log", 1000)
            return found

        with mock.patch("psik.Entries.look", shortened):
            with self.assertRaisesRegex(psik.ConflictError, "log became shorter"):
                psik.write_archive(psik.Entries.of_paths([self.folder + "/log"]),
                                   lambda data: None, packed=False, strict=True)
            self.write("log", "x" * 3000000)
            with self.assertRaisesRegex(psik.ConflictError, "log became shorter"):
                psik.ConfinedFolder(self.folder + "/in").take_in(
                    psik.Entries.of_paths([self.folder + "/log"]))
        self.assertFalse(os.path.exists(self.folder + "/in/log"))

    def test_what_cannot_be_read_is_told(self) -> None:
        self.write("in/secret", "")
        self.write("in/went", "")
        os.makedirs(self.folder + "/in/closed")
        real, refused = os.open, {"secret": PermissionError, "closed": PermissionError,
                                  "went": FileNotFoundError}

        def opened(path: Any, *args: Any, **options: Any) -> int:
            if path in refused:
                raise refused[path](path)
            return real(path, *args, **options)

        os.makedirs(self.folder + "/copy")
        with mock.patch("psik.os.open", opened):
            with self.assertRaisesRegex(psik.ForbiddenError, "not copied: in/closed: permission "
                                        "denied; in/secret: permission denied; in/went: it went"):
                psik.ConfinedFolder(self.folder + "/copy").take_in(
                    psik.Entries.of_paths([self.folder + "/in"]))
        self.assertEqual(sorted(os.listdir(self.folder + "/copy/in")), ["a.csv", "deep"])

    def test_ctrl_c_while_files_come(self) -> None:
        with open(self.folder + "/large", "wb") as file:
            file.truncate(2 ** 30)
        self.psik("run", "--wait", "--dir", ".", "-c", "true")
        self.on("run", "--wait", "--dir", self.folder, "-c", "true")
        os.makedirs(self.folder + "/to")
        child = subprocess.Popen(FAST + ["--on", "north", "get", "last", "large", "-o", "to"],
                                 cwd=self.folder, env=self.env, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE)
        self.addCleanup(child.kill)
        self.until(lambda: any(os.path.getsize(path) > 10 ** 6
                               for path in glob.glob(self.folder + "/to/.psik*")))
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=30)
        self.assertEqual((child.returncode, out, os.listdir(self.folder + "/to")), (130, b"", []))

    def test_a_job_whose_inputs_cannot_be_had_is_none(self) -> None:
        for words in self.both():
            before = json.loads(self.psik(*words, "ls", "--json").out)
            os.mkfifo(self.folder + "/fifo")
            self.psik(*words, "run", "--in", "in", "--in", "fifo", "-c", "true", status=None)
            os.unlink(self.folder + "/fifo")
            self.assertEqual(json.loads(self.psik(*words, "ls", "--json").out), before)

    def test_large_ones_take_no_memory(self) -> None:
        size = 256 * 2 ** 20
        with open(self.folder + "/large", "wb") as file:
            file.truncate(size)
        self.on("run", "--wait", "-c", "true")
        limited = ["sh", "-c", 'ulimit -v 400000; exec "$@"', "sh"] + FAST
        self.psik("--on", "north", "put", "last", "large", program=limited, env={
            "FAR_SHELL": self.write("limited", "#!/bin/sh\nulimit -v 400000\nexec sh \"$@\"\n",
                                    0o755)})
        os.rename(self.folder + "/large", self.folder + "/sent")
        self.psik("--on", "north", "get", "last", "large", program=limited)
        self.assertEqual(os.path.getsize(self.folder + "/large"), size)


class Unpacking(Case):
    """What an archive must not do to the folder in which it is unpacked."""

    def unpack(self, *members: Any, cut: Optional[int] = None) -> List[str]:
        """Unpack (name, type, link) members; what is left out."""
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            for name, kind, link in members:
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, link
                info.size = 3 if kind == tarfile.REGTYPE else 0
                tar.addfile(info, io.BytesIO(b"moo"))
        os.makedirs(self.folder + "/work", exist_ok=True)
        folder = psik.ConfinedFolder(self.folder + "/work")
        return folder.take_in(psik.TarReader([data.getvalue()[:cut]], "it").entries())

    def test_nothing_leads_out(self) -> None:
        file, link = tarfile.REGTYPE, tarfile.SYMTYPE
        for members in (
                [("../evil", file, "")], [("a/../../evil", file, "")],
                [("a", link, ".."), ("a/evil", file, "")],
                [("a", link, self.folder), ("a/evil", file, "")],
                [("y", link, "x/.."), ("x", link, "."), ("y/evil", file, "")],
                [("d/x", link, "../d/../.."), ("d/x/evil", file, "")],
                [("a", tarfile.LNKTYPE, "../evil"), ("a", file, "")],
                [("/evil", file, "")], [("..", tarfile.DIRTYPE, "")]):
            with self.subTest(members=members):
                with contextlib.suppress(psik.PsikError):
                    self.unpack(*members)
                self.assertEqual(os.listdir(self.folder).count("evil"), 0)
                shutil.rmtree(self.folder + "/work")

    def test_links_within_are_made(self) -> None:
        left = self.unpack(("d/f", tarfile.REGTYPE, ""), ("d/l", tarfile.SYMTYPE, "f"),
                           ("l", tarfile.SYMTYPE, "d/f"), ("d/up", tarfile.SYMTYPE, "../l"),
                           ("p", tarfile.FIFOTYPE, ""), ("h", tarfile.LNKTYPE, "d/f"))
        self.assertEqual(left, ["p", "h"])
        for path in ("d/l", "l", "d/up"):
            self.assertEqual(psik.read_or_empty(self.folder + "/work/" + path), "moo")
        # A link is replaced, and what it led to stays.
        self.unpack(("l", tarfile.REGTYPE, ""))
        self.assertFalse(os.path.islink(self.folder + "/work/l"))
        with self.assertRaises(psik.ConflictError):
            self.unpack(("d", tarfile.REGTYPE, ""))

    def test_a_cut_archive_is_told(self) -> None:
        members = [("a", tarfile.REGTYPE, ""), ("b", tarfile.REGTYPE, "")]
        self.assertEqual(self.unpack(*members), [])
        for cut in (0, 100, 512, 600, 1024, 1500, 2048):
            with self.assertRaises(psik.InvalidError, msg=cut):
                self.unpack(*members, cut=cut)

    def refused(self, data: bytes, said: str) -> None:
        """An archive of these bytes is refused, at home and by gzip."""
        for blocks in ([data], [gzip.compress(data)], [data[at:at + 1] for at in range(len(data))]):
            with self.assertRaisesRegex(psik.InvalidError, said):
                folder = psik.ConfinedFolder(self.folder)
                folder.take_in(psik.TarReader(blocks, "it", 10 ** 6).entries())

    @staticmethod
    def header(kind: bytes, size: int, name: str = "x", data: bytes = b"") -> bytes:
        """A header, and what is behind it."""
        info = tarfile.TarInfo(name)
        info.type, info.size = kind, size
        return info.tobuf() + data + bytes(-len(data) % 512)

    def pax(self, **records: str) -> bytes:
        """A header with records of pax, and an empty file behind it."""
        info = tarfile.TarInfo("moo")
        info.pax_headers = records
        return info.tobuf(tarfile.PAX_FORMAT) + bytes(1024)

    def test_hostile_headers(self) -> None:
        end = bytes(1024)
        for data, said in (
                (self.header(b"x", 2 ** 31), "a name is too long"),
                (self.header(b"L", 2 ** 20), "a name is too long"),
                (self.header(b"x", 500, data=b"1" * 500) + end, "a header is invalid"),
                (self.header(b"x", 9, data=b"9 path=a") + end, "a header is invalid"),
                (self.header(b"x", 7, data=b"-7 a=b\n") + end, "a header is invalid"),
                (self.pax(size="-1000000"), "a header is invalid"),
                (self.pax(size="nan"), "a header is invalid"),
                (self.pax(path="a\0b"), "a header is invalid"),
                (self.pax(**{"GNU.sparse.size": "300000000"}), "without --sparse"),
                (self.header(b"S", 0) + end, "without --sparse"),
                (self.header(b"0", 2 * 10 ** 6), "more than 1000000 bytes"),
                (self.header(b"0", -1) + end, "no whole tar"), (b"moo" * 999, "no whole tar")):
            with self.subTest(data=data[:600]):
                self.refused(data, said)
        begun = time.process_time()
        data = b"".join(b"%d a=%s\n" % (9999, b"1" * 9991) for _ in range(6))
        for _ in range(100):
            list(psik.TarReader([self.header(b"x", len(data), data=data) + end], "it").entries())
        zeros = gzip.compress(self.header(b"0", 10 ** 8) + bytes(10 ** 8) + end)
        list(psik.TarReader([zeros], "it").entries())
        self.assertLess(time.process_time() - begun, 20)

    def test_many_headers_and_many_empty_files(self) -> None:
        def header(number: int) -> bytes:
            data = b"".join(b"9999 k%05d=%s\n" % (number * 6 + place, b"1" * 9986)
                            for place in range(6))
            return self.header(b"x", len(data), data=data)

        for data in (b"".join(map(header, range(20))), self.header(b"0", 0) * 2000):
            with self.assertRaisesRegex(psik.InvalidError, "more than 1000000 bytes"):
                list(psik.TarReader([data], "it", 10 ** 6).entries())
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        blocks = itertools.chain(map(header, range(200)), [bytes(1024)])
        list(psik.TarReader(blocks, "it").entries())
        self.assertLess(tracemalloc.get_traced_memory()[1], 2 * 10 ** 6)

    def test_no_folder_is_too_deep(self) -> None:
        folder = psik.ConfinedFolder(self.folder)
        with self.assertRaisesRegex(psik.InvalidError, "more than 200 folders"):
            folder.save("a/" * 201 + "f", [b"x"])
        info = tarfile.TarInfo("c/" * 220 + "f")
        data = info.tobuf(tarfile.PAX_FORMAT) + bytes(1024)
        with self.assertRaisesRegex(psik.InvalidError, "more than 200 folders"):
            folder.take_in(psik.TarReader([data], "it").entries())
        os.makedirs(self.folder + "/d" * 150)
        names = [info.name for info, _ in folder.entries("d")]
        self.assertEqual(max(name.count("d") for name in names), 101)
        with self.assertRaisesRegex(psik.ForbiddenError, "too deep"):
            list(psik.Entries.of_paths([self.folder + "/d"]))

    def test_times_and_types(self) -> None:
        for mtime in ("inf", "nan", "1e300", "-5", "99999999999999"):
            entries = list(psik.TarReader([self.pax(mtime=mtime)], "it").entries())
            self.assertIn(entries[0][0].mtime, (0, 2 ** 33))
        link, = psik.TarReader([self.header(b"1", 700, "h") + bytes(1024)], "it").entries()
        self.assertTrue(link[0].islnk())
        many = b"".join(self.header(b"6", 0, "p%d" % number) for number in range(500))
        folder = psik.ConfinedFolder(self.folder)
        left = folder.take_in(psik.TarReader([many + bytes(1024)], "it").entries())
        self.assertEqual(len(left), 100)

    def test_what_tar_makes_is_read(self) -> None:
        os.makedirs(self.folder + "/d/" + "n" * 200)
        self.write("d/" + "n" * 200 + "/" + "é" * 60, "moo")
        os.symlink("n" * 200 + "/" + "é" * 60, self.folder + "/d/l")
        for form in ("ustar", "gnu", "pax", "v7"):
            packed = subprocess.run(["tar", "-cf", "-", "--format=" + form, "d"], cwd=self.folder,
                                    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            if form in ("ustar", "v7"):     # these hold no such names
                continue
            os.makedirs(self.folder + "/" + form)
            psik.ConfinedFolder(self.folder + "/" + form).take_in(
                psik.TarReader([packed.stdout], "it").entries())
            self.assertEqual(psik.read_text(self.folder + "/%s/d/l" % form), "moo")


@needs("sshd", SSHD)
class Sshd(Case):
    """The real thing."""

    def setUp(self) -> None:
        super().setUp()
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "",
                            "-f", os.path.join(self.folder, name)], check=True)
        self.door = free_port()
        os.makedirs("/run/sshd", exist_ok=True)
        config = self.write("sshd_config", (
            "Port %d\nListenAddress 127.0.0.1\nHostKey %s/host\nAuthorizedKeysFile %s/user.pub\n"
            "UsePAM no\nStrictModes no\nPermitRootLogin yes\nPidFile none\nBanner %s\n"
            "SetEnv PSIK_TEST=%s/far\n") % (self.door, self.folder, self.folder,
                                       self.write("banner", "Keep out\n"), self.folder))
        start(self, [SSHD or "", "-D", "-f", config], self.door)
        ssh_config = self.write("ssh_config", (
            "Host *\n Port %d\n HostName 127.0.0.1\n IdentityFile %s/user\n LogLevel ERROR\n"
            " StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n"
            "Host shared\n ControlMaster auto\n ControlPath %s/cm\n ControlPersist 30\n"
            "Host behind\n ProxyJump far\n") % (self.door, self.folder, self.folder), 0o600)
        self.write("ssh", "#!/bin/sh\nexec %s -F %s \"$@\"\n" % (shutil.which("ssh"), ssh_config),
                   0o755)
        # The word of the config that ssh gets for a jump host is its own -F.
        self.env["PATH"] = self.folder + ":" + self.env["PATH"]
        self.configure(hosts={name: {"prefix": self.folder + "/there",
                                     "python": sys.executable if name != "far" else None}
                              for name in ("far", "shared", "behind")})

    def test_commands(self) -> None:
        for host in ("far", "shared", "shared", "behind"):
            with self.subTest(host=host):
                ran = self.psik("--on", host, "run", "--follow", "--in", "ssh_config", "--get", "o",
                                "--", "sh", "-c", "echo moo; cp ssh_config o; exit 4", status=4)
                self.assertEqual(ran.out, "moo\n")
                with open(self.folder + "/o") as one, open(self.folder + "/ssh_config") as other:
                    self.assertEqual(one.read(), other.read())
                os.unlink(self.folder + "/o")
        subprocess.run(["ssh", "-O", "exit", "shared"], env=self.env, stderr=subprocess.DEVNULL)

    def test_a_connection_that_is_cut(self) -> None:
        child = subprocess.Popen(FAST + ["--on", "far", "run", "--follow", "-c",
                                         "echo begun; sleep 300"], cwd=self.folder, env=self.env,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        self.assertEqual(child.stdout.readline() if child.stdout else b"", b"begun\n")
        for line in processes_with("-F %s/ssh_config" % self.folder):
            os.kill(int(line.split()[1]), signal.SIGKILL)
        child.communicate(timeout=30)
        self.assertNotEqual(child.returncode, 0)
        self.until(lambda: not far_sides(self.folder + "/far"), "the end of the far side")
        self.psik("--on", "far", "cancel", "last")

    def opened(self, *argv: str) -> Any:
        """(a process of `open`, the address that it says)."""
        child = subprocess.Popen(FAST + list(argv) + ["open"], cwd=self.folder, stderr=-1,
                                 env={name: value for name, value in self.env.items()
                                      if name not in ("DISPLAY", "BROWSER", "WAYLAND_DISPLAY")})
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        assert child.stderr
        for line in iter(child.stderr.readline, b""):
            found = re.search(rb"(http://127.0.0.1:[0-9]+)/#token=([0-9a-f]+)", line)
            if found:
                return child, found.group(1).decode(), found.group(2).decode()
        return self.fail("it says no address")

    @staticmethod
    def get(url: str, token: str = "") -> Any:
        """What a GET answers, read as JSON; the status where it is refused."""
        headers = {"Authorization": "Bearer " + token} if token else {}
        try:
            with urllib_request.urlopen(urllib_request.Request(url, headers=headers),
                                        timeout=30) as answer:
                return json.loads(answer.read().decode())
        except urllib_request.HTTPError as err:
            with err:
                return err.code

    def test_open(self) -> None:
        for words in ((), ("--on", "shared")):
            with self.subTest(on=words):
                jobid = self.psik(*words, "run", "--wait", "-c", "true").out.strip()
                child, url, token = self.opened(*words)
                self.assertEqual(self.get(url + "/v1/jobs"), 401)
                self.assertEqual([job["jobid"] for job in self.get(url + "/v1/jobs", token)],
                                 [jobid])
                folders = glob.glob("/tmp/psik-open-*/socket")
                child.send_signal(signal.SIGINT)
                self.assertEqual(child.wait(40), 0)
                self.until(lambda kept=folders: not any(map(os.path.exists, kept)), "no socket")
                with self.assertRaises(OSError):
                    self.get(url + "/v1/jobs", token)
        subprocess.run(["ssh", "-O", "exit", "shared"], env=self.env, stderr=subprocess.DEVNULL)


class Browsers(Case):
    def test_open_is_for_the_user_alone_whatever_the_config_is_for(self) -> None:
        self.configure(authz="owner", submit="applications", applications=self.folder)
        self.browse(signal.SIGINT)

    def test_the_browser_gets_a_file_and_no_token(self) -> None:
        for number in (signal.SIGINT, signal.SIGHUP):
            self.browse(number)

    def browse(self, number: int) -> None:
        """Open a browser, and end the server by a signal."""
        seen = os.path.join(self.folder, "seen")
        browser = self.write("browser", "#!/bin/sh\necho \"$1\" >%s.new; mv %s.new %s\n"
                             "until test -e %s.over; do sleep 0.1; done\n"
                             % (seen, seen, seen, seen), 0o755)
        child = subprocess.Popen(FAST + ["open"], cwd=self.folder, stderr=subprocess.PIPE,
                                 env=dict(self.env, BROWSER=browser + " %s"))
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        self.until(lambda: os.path.exists(seen), "a browser")
        url = psik.read_or_empty(seen).strip()
        self.assertTrue(url.startswith("file:///"), url)
        path = url[len("file://"):]
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        page = re.search("url=(http://127.0.0.1:[0-9]+/)#token=", psik.read_or_empty(path))
        assert page
        with urllib_request.urlopen(page.group(1), timeout=30) as answer:
            self.assertEqual(answer.status, 200)
        self.write("seen.over", "")
        os.unlink(seen)
        child.send_signal(number)
        self.assertEqual(child.wait(40), 0)
        assert child.stderr
        child.stderr.close()
        self.assertFalse(os.path.exists(path))
