"""What other users of the machine, and strangers on the network, try: each of these attacks succeeded once."""
import json
import os
import pty
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import unittest
from typing import Any
from unittest import mock

import psik
from harness import PSIK, Case, needs
from users import CAN_MAKE_USERS, SYSTEM_PYTHON, TwoUsers

USERS = needs("root, useradd and " + SYSTEM_PYTHON, CAN_MAKE_USERS)
PLANT = """mkdir -p %(root)s/1700000000.000/scripts %(root)s/1700000000.000/log
cd %(root)s/1700000000.000
printf '1700000000.000,0,new,0\n1700000000.001,1,queued,77\n' >status.csv
echo '{"script": "true"}' >spec.json
printf '#!/bin/sh\nid -un >%(proof)s\n' >scripts/poll
chmod -R a+rx . ; chmod 755 scripts/poll"""


@USERS
class Files(TwoUsers):
    """Files that another user could write, or did."""

    def setUp(self) -> None:
        super().setUp()
        self.tree, self.proof = self.home(self.ada, "tree"), self.home(self.ada, "proof")

    def settings(self, **settings: Any) -> None:
        """Write ada's config."""
        settings.setdefault("prefix", self.tree)
        self.sh(self.ada, "mkdir -p ~/.config; echo '%s' >~/.config/psik.json" % json.dumps(settings))

    def make_tree(self, mode: int, owner: str = "") -> None:
        """Make the prefix."""
        os.mkdir(self.tree)
        os.chmod(self.tree, mode)
        shutil.chown(self.tree, owner or self.ada)

    def plant(self) -> None:
        """Let eve make a job whose poll script would run as who lists it."""
        self.sh(self.eve, PLANT % {"root": self.tree + "/local", "proof": self.proof})

    def test_a_planted_backend_folder(self) -> None:
        self.make_tree(0o777)
        self.settings()
        self.plant()
        ran = self.of(self.ada, "ls", status=6)
        self.assertIn("%s/local belongs to %s" % (self.tree, self.eve), ran.err)
        self.assertIn('"prefix": "~/jobs"', ran.err)
        self.assertFalse(os.path.exists(self.proof))
        self.assertEqual(stat.S_IMODE(os.stat(self.tree).st_mode), 0o755)
        shutil.rmtree(self.tree + "/local")
        jobid = self.of(self.ada, "run", "-", stdin='{"script": "true"}').out.strip()
        self.of(self.ada, "wait", jobid)

    def test_a_prefix_of_somebody_elses(self) -> None:
        self.make_tree(0o755, self.eve)
        self.plant()
        self.settings()
        for argv in (["ls"], ["poll"], ["rm", "--stale"], ["run", "-"], ["serve", "--uds", "s"]):
            self.assertIn("belongs to " + self.eve, self.of(self.ada, *argv, stdin='{"script": "true"}', status=6).err)
        self.assertFalse(os.path.exists(self.proof))

    def test_a_planted_job_in_a_prefix_that_others_may_write(self) -> None:
        self.make_tree(0o777)
        os.mkdir(self.tree + "/local")
        os.chmod(self.tree + "/local", 0o777)
        self.settings(group_writable=True, poll_interval_s=0)
        self.plant()
        self.assertIn("jobs of %s, which are passed over" % self.eve, self.of(self.ada, "ls").err)
        self.of(self.ada, "status", "1700000000.000", status=3)
        self.assertFalse(os.path.exists(self.proof))
        self.assertEqual(stat.S_IMODE(os.stat(self.tree).st_mode), 0o777)
        jobid = self.of(self.ada, "run", "--wait", "-", stdin='{"script": "true"}').out.strip()
        path = os.path.join(self.tree, "local", jobid)
        job = psik.JobDir(path)
        os.unlink(job.script("poll"))
        self.sh(self.eve, "cd %s && mkdir own && printf '#!/bin/sh\\nid >%s' >own/poll && chmod 755 own/poll"
                % (self.tree, self.proof))
        os.rename(os.path.join(self.tree, "own", "poll"), job.script("poll"))
        with mock.patch("os.geteuid", lambda: os.stat(path).st_uid):
            self.assertIn("belongs to " + self.eve, psik.run_script(job, "poll", [], 5).err)

    def test_a_job_of_an_older_psik_that_the_group_can_write(self) -> None:
        self.settings()
        jobid = self.of(self.ada, "run", "--wait", "-", stdin='{"script": "true"}').out.strip()
        path = os.path.join(self.tree, "local", jobid)
        self.sh(self.ada, "chmod -R a+rwX " + path)
        self.of(self.ada, "ls")
        open_still = [name for name in ("", "status.csv", "spec.json", "scripts", "scripts/poll", "log")
                      if os.stat(os.path.join(path, name)).st_mode & 0o022]
        self.assertEqual(open_still, [])

    def test_config_templates_policy_and_tokens(self) -> None:
        self.settings()
        config, theirs = self.home(self.ada, ".config/psik.json"), self.home(self.eve, "site")
        os.chmod(config, 0o666)
        self.assertIn("others could write to " + config, self.of(self.ada, "ls").err)
        self.assertNotIn("others could write", self.of(self.ada, "ls").err)
        self.sh(self.eve, "mkdir -p site/toy; cd site; echo 'class P: pass' >rule.py; "
                          "echo '#!/bin/sh' | tee toy/submit toy/job toy/cancel >/dev/null")
        self.settings(templates=theirs, backend={"type": "toy"})
        self.assertIn("belongs to " + self.eve, self.of(self.ada, "run", "-", stdin='{"script": "true"}', status=6).err)
        self.assertIn("belongs to " + self.eve, self.of(self.ada, "backends", "--check", status=4).out)
        self.settings(authz="rule:P", authz_path=theirs)
        self.assertIn("belongs to " + self.eve, self.of(self.ada, "serve", "--uds", "s", status=6).err)
        self.settings()
        os.makedirs(self.tree + "/.tokens", exist_ok=True)
        shutil.chown(self.tree, self.ada)
        shutil.chown(self.tree + "/.tokens", self.eve)
        self.assertIn("belongs to " + self.eve, self.of(self.ada, "token", status=6).err)
        shutil.chown(config, self.eve)
        self.assertIn("copy it", self.of(self.ada, "ls", status=6).err)

    def test_a_file_system_without_owners(self) -> None:
        self.settings(check_owner=False)
        self.make_tree(0o777, self.eve)
        self.plant()
        self.assertIn("1700000000.000", self.of(self.ada, "ls").out)
        self.assertTrue(os.path.exists(self.proof))  # so it is to be said by whoever knows

    def test_a_root_of_roots_that_others_can_write(self) -> None:
        self.settings(templates=os.path.join(self.folder, "site"), backend={"type": "toy"})
        os.makedirs(os.path.join(self.folder, "site", "toy"))
        path = self.write("site/toy/submit", "#!/bin/sh\n", 0o666)
        ran = self.of(self.ada, "run", "-", stdin='{"script": "true"}', status=6)
        self.assertIn("chmod go-w " + path, ran.err)

    def test_the_place_of_the_socket(self) -> None:
        place = "/tmp/psik-%d" % os.stat(self.home(self.ada)).st_uid
        os.symlink(self.home(self.ada), place)
        self.addCleanup(os.unlink, place)
        os.chown(place, os.stat(self.home(self.eve)).st_uid, -1, follow_symlinks=False)
        self.env.pop("XDG_RUNTIME_DIR", None)
        self.assertIn("--uds ~/psik.sock", self.of(self.ada, "serve", status=6).err)


class Own(Case):
    """What is made, and removed."""

    def test_every_folder_that_is_made_is_for_us_alone(self) -> None:
        place = os.path.join(self.folder, "a", "b", "c")
        self.configure(prefix=place)
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        self.run_spec("--wait", script="true")
        for path in (place, os.path.dirname(place), os.path.dirname(os.path.dirname(place)), place + "/local", place + "/.psik"):
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o700, path)

    def test_removing_follows_no_link_that_takes_a_folders_place(self) -> None:
        outside, tree = os.path.join(self.folder, "outside"), os.path.join(self.folder, "tree")
        os.mkdir(outside, 0o750)
        os.mkdir(tree)
        os.symlink(outside, os.path.join(tree, "link"))
        real = os.path.islink
        with mock.patch("os.path.islink", lambda path: real(path) and not str(path).endswith("link")):
            psik.delete_tree(tree)
        self.assertEqual(stat.S_IMODE(os.stat(outside).st_mode), 0o750)
        self.assertFalse(os.path.exists(tree))


class Installed(Case):
    """The command that `install` makes."""

    def setUp(self) -> None:
        super().setUp()
        self.program = os.path.join(self.folder, ".local", "bin", "psik")
        shutil.copy(PSIK, self.folder)
        self.psik("install", program=[sys.executable, os.path.join(self.folder, "psik.py")])

    def test_nothing_of_the_folder_one_stands_in_is_run(self) -> None:
        for name in ("json.py", "psik.py", "argparse.py"):
            self.write(name if name != "psik.py" else "dataclasses.py", "print('evil')")
        ran = self.psik("ls", program=[self.program], env={"PYTHONPATH": self.folder})
        self.assertEqual((ran.out, ran.err), ("", "psik: no jobs\n"))
        self.assertTrue(os.listdir(os.path.join(self.folder, "__pycache__")))  # compiled once

    def test_what_it_says_is_to_be_typed_so(self) -> None:
        self.assertIn("`psik ls` shows them", self.psik("status", "x", status=2, program=[self.program]).err)
        self.assertIn("usage: psik [-h]", self.psik("-h", program=[self.program]).out)
        self.assertIn("example: psik start last", self.psik("start", "-h", program=[self.program]).out)
        self.assertIn("example: psik.py start last", self.psik("start", "-h").out)

    def test_again_and_where_something_else_is(self) -> None:
        self.psik("install", program=[self.program])
        with open(self.program, "w") as file:
            file.write("mine")
        self.assertIn("is there already", self.psik("install", status=5, program=[sys.executable, os.path.join(self.folder, "psik.py")]).err)
        with open(PSIK, "rb") as file:
            done = subprocess.run([sys.executable, "-", "install"], stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.env)
        self.assertIn(b"as a file", done.stderr)

    def test_a_python_far_away(self) -> None:
        place = os.path.join(self.folder, "d" * 100, "with blank")
        os.makedirs(place)
        os.symlink(sys.executable, os.path.join(place, "python3"))
        with mock.patch("sys.executable", os.path.join(place, "python3")):
            line = psik.interpreter_line(sys.executable)
        text = psik.TEMPLATES["launcher.py"].replace("@python@", line)
        text = text.replace("@place@", "folder, module = %r, 'psik'" % self.folder)
        self.assertIn("no jobs", self.psik("ls", program=[self.write("far", text, 0o755)]).err)

    @needs("zsh, bash and shellcheck", all(map(shutil.which, ("zsh", "bash", "shellcheck"))))
    def test_completion(self) -> None:
        jobid = self.psik("run", "--no-submit", "-", stdin='{"script": "true"}').out.strip()
        bash = os.path.join(self.folder, ".local/share/bash-completion/completions/psik")
        subprocess.run(["shellcheck", "-s", "bash", "-e", "SC2034", bash], check=True)
        line = ". %s; COMP_WORDS=(%s %%s); COMP_CWORD=%%d; _psik; echo ${COMPREPLY[*]}" % (bash, self.program)
        for words, place, wanted in (("st", 1, "start status"), ("rm --f", 2, "--force"), ("wait ''", 2, "last " + jobid)):
            done = subprocess.run(["bash", "-c", line % (words, place)], stdout=subprocess.PIPE, env=self.env)
            self.assertEqual(done.stdout.decode().strip(), wanted)
        self.assertEqual(self.typed_in_zsh("show stat\t\n"), "status")
        self.assertEqual(self.typed_in_zsh("show wait %s\t\n" % jobid[:5]), "wait " + jobid)

    def typed_in_zsh(self, keys: str) -> str:
        """What a command that is completed as psik is called with, after these keys in a terminal."""
        place = os.path.join(self.folder, ".local/share/zsh/site-functions")
        self.write(".zshrc", "PS1=; fpath+=(%s); autoload -Uz compinit; compinit -u; compdef _psik show\n"
                             "show() { if [[ $1 == ls ]] then psik \"$@\"; else print \"<$*>\"; fi }\nprint READY\n" % place)
        env = dict(self.env, PATH=os.path.dirname(self.program) + ":" + self.env["PATH"], ZDOTDIR=self.folder, TERM="dumb")
        child, fd = pty.fork()
        if not child:
            os.execvpe("zsh", ["zsh", "-i"], env)
        try:
            self.read_until(fd, b"READY")
            os.write(fd, keys.encode())
            return re.findall("<(.*)>", self.read_until(fd, b">").decode())[-1].strip()
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(fd)

    def read_until(self, fd: int, text: bytes) -> bytes:
        """What a terminal shows until this comes."""
        said = b""
        while text not in said:
            self.assertTrue(select.select([fd], [], [], 30)[0], said)
            said += os.read(fd, 4096)
        return said


if __name__ == "__main__":
    unittest.main()
