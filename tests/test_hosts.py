"""Commands for another host, by `--on`, and files that go to jobs and come back."""
import contextlib
import glob
import io
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
from typing import Any, Dict, List, Optional
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

    def test_arguments_arrive_as_they_are(self) -> None:
        words = ["it's", 'a "b"', "$HOME `x` \\ !! %s", "two\nlines", "\u00e9"]
        self.on("run", "--wait", "--env", "V=é\n'", "--", "printf", "%s|", *words)
        self.assertEqual(self.on("logs", "last").out, "|".join(words) + "|")

    def test_what_a_job_calls_stays_where_it_is(self) -> None:
        self.psik("reached", self.folder + "/nowhere", "1", "active", env={"PSIK_ON": "north"},
                  status=3)
        self.assertEqual(self.calls(), [])

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
            self.assertRegex(ran.err, r"north has no Python from 3\.6 on, but \S+/python3 Python "
                                      r"3\.4\.10; name one")
            ran = self.on("ls", env=self.path_with(), status=4)
            self.assertIn("north has no Python from 3.6 on", ran.err)

    @needs("Python 3.6", OLD)
    def test_the_oldest_python_gets_its_backport(self) -> None:
        env = self.path_with(python3=OLD or "")
        shutil.copy(PSIK, self.folder)
        program = [sys.executable, self.folder + "/psik.py"]
        ran = self.psik("--on", "north", "ls", env=env, program=program, status=2)
        self.assertIn("put the backport dataclasses.py (PyPI, `dataclasses` 0.8) beside", ran.err)
        backport = os.path.join(os.environ.get("PSIK_TEST_DEPS", ROOT + "/.deps"), "dataclasses.py")
        shutil.copy(backport, self.folder)
        for _ in range(2):
            self.psik("--on", "north", "run", "--wait", "-c", "true", env=env, program=program)
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
        self.on("ls")
        self.assertGreater(os.stat(own).st_mtime, time.time() - 1000)

    def test_a_home_that_takes_nothing(self) -> None:
        """The copy goes elsewhere, and never where others can write."""
        with open(os.path.join(self.far, ".cache"), "w"):
            pass    # in the way, as a full disk is
        self.on("run", "--wait", "-c", "true")
        copy = next(path for path in self.copies() if "/tmp/" in path)
        os.chmod(os.path.dirname(copy), 0o777)
        self.assertIn("psik.py can be kept nowhere: ", self.on("ls", status=4).err)

    def test_what_is_kept_is_what_was_sent(self) -> None:
        self.on("ls")
        copy, = self.copies()
        with open(copy, "rb") as one, open(PSIK, "rb") as other:
            self.assertEqual(one.read(), other.read())
        self.assertEqual(os.stat(os.path.dirname(copy)).st_mode & 0o777, 0o700)

    def test_ssh_fails(self) -> None:
        self.write("bin/ssh", "#!/bin/sh\necho no route >&2\nexit 255\n", 0o755)
        ran = self.on("run", "-c", "true", status=255)
        self.assertEqual(ran.err, "no route\npsik: ssh to north failed, with exit status 255\n")
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
        self.assertEqual(child.returncode, 128 + signal.SIGKILL, err)
        self.on("cancel", "last")

    def test_a_reader_that_has_seen_enough(self) -> None:
        child = self.follower("run", "--follow", "-c", "echo begun; exec yes")
        child.stdout.close()
        child.stderr.read()
        self.assertEqual(child.wait(30), 141)
        self.until(lambda: not self.followers(), "the end of the far side")
        self.on("cancel", "last")


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
                    (("get", "last", "no*"), 3, "has no files like 'no*'"),
                    (("run", "--in", "nowhere", "-c", "true"), 3, "no file 'nowhere'"),
                    (("run", "--get", "x", "-c", "true"), 2, "--get goes with"),
                    (("run", "--in", "in", "--here", "-c", "true"), 2, "--here")):
                ran = self.psik(*words, *argv, status=status)
                self.assertIn(said, ran.err)
            self.psik(*words, "run", "--wait", "--dir", "/", "-c", "true")
            self.assertIn("runs in /; say which", self.psik(*words, "get", "last", status=2).err)
            self.write("block", "")
            ran = self.psik(*words, "get", "last", "etc/passwd", "-o", "block", status=5)
            self.assertIn("block' is there, and no directory" if words else
                          "block is there, and no directory", ran.err)

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
        with psik.TarReader.reading("it"):
            return folder.take_in(psik.TarReader.entries(io.BytesIO(data.getvalue()[:cut])))

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

    def test_names_are_bounded(self) -> None:
        header = psik.TarReader.header()("x")
        header.type, header.size = b"x", 2 ** 31
        with self.assertRaisesRegex(psik.InvalidError, "a name is too long"):
            with psik.TarReader.reading("it"):
                list(psik.TarReader.entries(io.BytesIO(header.tobuf() + bytes(4096))))


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
                self.assertIn(child.wait(40), (0, 130))
                self.until(lambda kept=folders: not any(map(os.path.exists, kept)), "no socket")
                with self.assertRaises(OSError):
                    self.get(url + "/v1/jobs", token)
        subprocess.run(["ssh", "-O", "exit", "shared"], env=self.env, stderr=subprocess.DEVNULL)


class Browsers(Case):
    def test_the_browser_gets_a_file_and_no_token(self) -> None:
        seen = os.path.join(self.folder, "seen")
        browser = self.write("browser", "#!/bin/sh\necho \"$1\" >%s.new; mv %s.new %s\n"
                             % (seen, seen, seen), 0o755)
        child = subprocess.Popen(FAST + ["open"], cwd=self.folder, stderr=subprocess.PIPE,
                                 env=dict(self.env, BROWSER=browser + " %s"))
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        self.until(lambda: os.path.exists(seen), "a browser")
        url = psik.read_or_empty(seen).strip()
        self.assertTrue(url.startswith("file:///"), url)
        path = url[len("file://"):]
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        self.assertRegex(psik.read_or_empty(path), 'url=http://127.0.0.1:[0-9]+/#token=')
        child.send_signal(signal.SIGINT)
        self.assertEqual(child.wait(40), 0)
        assert child.stderr
        child.stderr.close()
        self.assertFalse(os.path.exists(path))
