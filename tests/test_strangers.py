"""What other users of the machine, and strangers on the network, try; each succeeded once."""
import contextlib
import errno
import http.client
import importlib.util
import glob
import io
import json
import os
import pty
import py_compile
import re
import select
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tarfile
import threading
import time
import unittest
from typing import Any, List, Optional
from unittest import mock

import psik
import test_access
from harness import FAST, PSIK, Case, captured, needs
from serving import Server
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
        self.sh(self.ada,
                "mkdir -p ~/.config; echo '%s' >~/.config/psik.json" % json.dumps(settings))

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
            self.assertIn("belongs to " + self.eve,
                          self.of(self.ada, *argv, stdin='{"script": "true"}', status=6).err)
        self.assertFalse(os.path.exists(self.proof))

    def test_a_planted_job_in_a_prefix_that_others_may_write(self) -> None:
        self.make_tree(0o777)
        os.mkdir(self.tree + "/local")
        os.chmod(self.tree + "/local", 0o1777)
        self.settings(group_writable=True, poll_interval_s=0, poll_grace_s=1)
        self.plant()
        self.assertIn("jobs of %s, which are passed over" % self.eve, self.of(self.ada, "ls").err)
        self.of(self.ada, "status", "1700000000.000", status=3)
        self.assertFalse(os.path.exists(self.proof))
        self.assertEqual(stat.S_IMODE(os.stat(self.tree).st_mode), 0o1777)
        jobid = self.of(self.ada, "run", "--wait", "-", stdin='{"script": "true"}').out.strip()
        path = os.path.join(self.tree, "local", jobid)
        job = psik.JobDir(path)
        os.unlink(job.script("poll"))
        self.sh(self.eve,
                "cd %s && mkdir own && printf '#!/bin/sh\\nid >%s' >own/poll && chmod 755 own/poll"
                % (self.tree, self.proof))
        os.rename(os.path.join(self.tree, "own", "poll"), job.script("poll"))
        with mock.patch("os.geteuid", lambda: os.stat(path).st_uid):
            self.assertIn("belongs to " + self.eve, psik.JobScripts(job).run("poll", [], 5).err)

    def test_a_job_of_an_older_psik_that_the_group_can_write(self) -> None:
        self.settings()
        jobid = self.of(self.ada, "run", "--wait", "-", stdin='{"script": "true"}').out.strip()
        path = os.path.join(self.tree, "local", jobid)
        self.sh(self.ada, "chmod -R a+rwX " + path)
        self.of(self.ada, "ls")
        names = ("", "status.csv", "spec.json", "scripts", "scripts/poll", "log")
        open_still = [name for name in names if os.stat(os.path.join(path, name)).st_mode & 0o022]
        self.assertEqual(open_still, [])

    def test_a_job_whose_folders_nobody_may_write_is_removed(self) -> None:
        self.settings()
        jobid = self.of(self.ada, "run", "--wait", "-", stdin=json.dumps(
            {"script": "mkdir -p a/b; touch a/b/c"})).out.strip()
        path = os.path.join(self.tree, "local", jobid)
        self.sh(self.ada, "chmod -R a-w " + path)
        self.of(self.ada, "rm", jobid)
        self.assertEqual([name for name in os.listdir(os.path.dirname(path)) if jobid in name], [])

    def test_a_config_that_others_can_write_is_closed_to_them(self) -> None:
        self.settings()
        config = self.home(self.ada, ".config/psik.json")
        os.chmod(config, 0o666)
        self.assertIn("others could write to " + config, self.of(self.ada, "ls").err)
        self.assertNotIn("others could write", self.of(self.ada, "ls").err)

    def test_a_config_of_somebody_elses(self) -> None:
        self.settings()
        shutil.chown(self.home(self.ada, ".config/psik.json"), self.eve)
        self.assertIn("copy it", self.of(self.ada, "ls", status=6).err)

    def test_templates_of_somebody_elses(self) -> None:
        self.sh(self.eve, "mkdir -p site/toy; cd site; "
                          "echo '#!/bin/sh' | tee toy/submit toy/job toy/cancel >/dev/null")
        self.settings(templates=self.home(self.eve, "site"), backend={"type": "toy"})
        ran = self.of(self.ada, "run", "-", stdin='{"script": "true"}', status=6)
        self.assertIn("belongs to " + self.eve, ran.err)
        self.assertIn("belongs to " + self.eve,
                      self.of(self.ada, "backends", "--check", status=4).out)

    def test_a_policy_of_somebody_elses(self) -> None:
        self.sh(self.eve, "mkdir site; echo 'class P: pass' >site/rule.py")
        self.settings(authz="rule:P", authz_path=self.home(self.eve, "site"))
        self.assertIn("belongs to " + self.eve,
                      self.of(self.ada, "serve", "--uds", "s", status=6).err)

    def test_a_key_of_tokens_of_somebody_elses(self) -> None:
        self.settings()
        os.makedirs(self.tree + "/.tokens", exist_ok=True)
        shutil.chown(self.tree, self.ada)
        shutil.chown(self.tree + "/.tokens", self.eve)
        self.assertIn("belongs to " + self.eve, self.of(self.ada, "token", status=6).err)

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

    def victim(self) -> str:
        """A finished job of ada's, in a prefix that others can write; its directory."""
        self.make_tree(0o777)
        os.mkdir(self.tree + "/local")
        shutil.chown(self.tree + "/local", self.ada)
        self.settings(group_writable=True, poll_interval_s=0, poll_grace_s=1)
        ran = self.of(self.ada, "run", "--wait", "-", stdin='{"script": "true"}')
        return os.path.join(self.tree, "local", ran.out.strip())

    def test_what_is_planted_in_a_job(self) -> None:
        job = self.victim()
        jobid = os.path.basename(job)
        for name in ("scripts/run", "scripts/job", "spec.json", "status.csv"):
            with self.subTest(name=name):
                self.sh(self.ada, "chmod -R a+rwX " + job)
                self.sh(self.eve, "cd %s && cp %s x && mv -f x %s" % (job, name, name))
                self.of(self.ada, "start", jobid, status=3)
                self.assertIn("not all in it is yours", self.of(self.ada, "ls").err)
                self.sh(self.ada, "cd %s && cp %s y && mv -f y %s" % (job, name, name))
        self.of(self.ada, "ls")
        self.assertEqual(os.stat(job).st_mode & 0o022, 0)

    def test_what_others_could_write_is_not_run_unseen(self) -> None:
        job = self.victim()
        self.sh(self.ada, "chmod -R a+rwX " + job)
        # In place: its owner is still ada.
        self.sh(self.eve, "echo 'touch %s' >%s/scripts/run" % (self.proof, job))
        ran = self.of(self.ada, "start", os.path.basename(job), status=6)
        self.assertIn("look at what it holds", ran.err)
        self.assertIn("others could write to jobs in", ran.err)
        self.assertFalse(os.path.exists(self.proof))
        self.of(self.ada, "start", os.path.basename(job))  # she has looked

    def test_links_in_the_place_of_logs(self) -> None:
        job = self.victim()
        self.sh(self.ada, "echo hers >hers; chmod 777 %s/log; chmod 711 %s" % (job, job))
        self.sh(self.eve, "ln -s %s %s/log/stdout.2" % (self.home(self.ada, "hers"), job))
        self.assertIn("belongs to " + self.eve,
                      self.of(self.ada, "start", os.path.basename(job), status=6).err)
        self.assertEqual(self.sh(self.ada, "cat hers"), "hers\n")

    def test_a_script_by_another_name_and_a_changed_copy(self) -> None:
        job = self.victim()
        self.sh(self.ada, "ln %s/scripts/run notes" % job)
        self.assertIn("has a second hard link",
                      self.of(self.ada, "start", os.path.basename(job), status=6).err)
        self.sh(self.ada, "for file in %s/.psik/*/supervisor.py; do echo 'import os' >>$file; done"
                % self.tree)
        self.assertIn("was changed",
                      self.of(self.ada, "run", "-", stdin='{"script": "true"}', status=6).err)

    def test_a_file_system_that_keeps_its_modes(self) -> None:
        path = self.write("file", "", 0o666)
        for failure in (None, OSError(errno.EROFS, "read-only")):
            psik.WARNED.clear()
            with mock.patch("os.chmod", side_effect=failure), captured() as (_, err):
                psik.Guarded(path, "", to_run=True).check_ours()
            self.assertIn("its file system keeps it so", err.getvalue())

    def test_a_folder_for_everybody_stays_one(self) -> None:
        place = os.path.join(self.folder, "public")
        os.mkdir(place)
        os.chmod(place, 0o1777)
        with self.assertRaisesRegex(psik.ForbiddenError, "chmod go-w"):
            psik.Guarded(place).check_ours()
        self.assertEqual(stat.S_IMODE(os.stat(place).st_mode), 0o1777)

    def test_a_config_that_is_no_file(self) -> None:
        path = os.path.join(self.folder, "fifo")
        os.mkfifo(path)
        shutil.chown(path, self.eve)
        self.assertIn("belongs to " + self.eve,
                      self.of(self.ada, "--config", path, "ls", status=6, timeout=20).err)

    def test_another_users_process_is_no_step_of_ours(self) -> None:
        job = self.victim()
        nap = subprocess.Popen(self.as_user(self.eve) + ["sleep", "60"])
        self.addCleanup(nap.wait)
        self.addCleanup(nap.kill)
        with open(os.path.join(job, "status.csv"), "a") as file:
            file.write("1700000001.000,2,queued,%d\n1700000001.001,2,active,%d\n"
                       % (nap.pid, nap.pid))
        jobid = os.path.basename(job)
        self.until(lambda: self.of(self.ada, "poll") and "failed" in self.of(self.ada, "ls").out)
        self.of(self.ada, "cancel", jobid, status=None)
        self.assertIsNone(nap.poll())

    def test_a_fifo_holds_nobody_up(self) -> None:
        job = self.victim()
        self.sh(self.ada, "cd %s && mv status.csv s && mkfifo status.csv" % job)
        self.of(self.ada, "ls", timeout=20)
        self.of(self.ada, "rm", "--force", os.path.basename(job), status=3, timeout=20)

    def test_a_planted_copy_of_psik(self) -> None:
        job = self.victim()
        jobid = os.path.basename(job)
        copy, = set(os.listdir(self.tree + "/.psik")) - {"lock"}
        self.sh(self.ada, "mv %s/.psik %s/old" % (self.tree, self.tree))
        self.sh(self.eve, "cd %s && mkdir -p .psik/%s && cd .psik/%s && "
                          "echo 'open(\"%s\", \"w\")' >supervisor.py && touch psik.py"
                % (self.tree, copy, copy, self.proof))
        with open(os.path.join(job, "status.csv"), "a") as file:
            file.write("1700000001.000,2,queued,77\n")
        self.assertIn("belongs to " + self.eve, self.of(self.ada, "ls").err)
        self.of(self.ada, "cancel", jobid, status=None)
        self.of(self.ada, "run", "-", stdin='{"script": "true"}', status=6)
        self.assertFalse(os.path.exists(self.proof))

    def test_links_that_another_user_has_put_there(self) -> None:
        self.settings()
        jobid = self.of(self.ada, "run", "--wait", "-", stdin='{"script": "true"}').out.strip()
        elsewhere = self.home(self.ada, "elsewhere")
        self.sh(self.ada, "mv tree elsewhere")
        os.symlink(elsewhere, self.tree)
        self.assertIn(jobid, self.of(self.ada, "ls").out)  # our own, or root's
        os.chown(self.tree, os.stat(self.home(self.eve)).st_uid, -1, follow_symlinks=False)
        self.assertIn("belongs to " + self.eve, self.of(self.ada, "ls", status=6).err)

    def test_a_planted_outbox(self) -> None:
        self.settings()
        self.make_tree(0o777)
        self.sh(self.eve,
                "mkdir %s/.outbox; echo '{}' >%s/.outbox/1.5.000001.json" % (self.tree, self.tree))
        self.assertIn("/.outbox belongs to " + self.eve, self.of(self.ada, "deliver", status=6).err)

    def test_a_job_is_not_exchanged_for_another(self) -> None:
        self.settings(group_writable=True)
        self.make_tree(0o777)
        jobid = self.of(self.ada, "run", "--no-submit", "-", stdin='{"script": "true"}').out.strip()
        self.assertTrue(os.stat(self.tree).st_mode & stat.S_ISVTX)
        self.sh(self.eve, "! mv %s/%s %s/1.5 2>/dev/null" % (self.tree, jobid, self.tree))
        shutil.chown(self.tree, self.eve)
        os.chmod(self.tree, 0o777)
        self.assertIn("chmod +t", self.of(self.ada, "ls", status=6).err)

    def test_a_planted_answer_of_a_scheduler(self) -> None:
        self.settings(group_writable=True)
        self.make_tree(0o777)
        for name in (".poll.json", ".poll-%s.json" % os.uname().nodename):
            path = os.path.join(self.tree, name)
            self.sh(self.eve, "echo '{}' >%s" % path)
            refused = self.of(self.ada, "ls", status=6).err
            self.assertIn("%s belongs to %s" % (name, self.eve), refused)
            os.unlink(path)
        self.of(self.ada, "ls")

    def test_a_config_does_not_switch_off_its_own_check(self) -> None:
        self.settings(check_owner=False)
        config = self.home(self.ada, ".config/psik.json")
        shutil.chown(config, self.eve)
        self.assertIn("belongs to " + self.eve, self.of(self.ada, "ls", status=6).err)

    def test_compiled_files_beside_a_policy(self) -> None:
        place = os.path.join(self.folder, "etc", "__pycache__")
        os.makedirs(place)
        rule = self.write("etc/rule.py",
                          "class P:\n    def allows(self, *args):\n        return True\n")
        evil = self.write("evil.py",
                          "class P:\n    def allows(self, *args):\n        raise SystemExit\n")
        py_compile.compile(evil, importlib.util.cache_from_source(rule), dfile=rule)
        config = psik.Config(authz="rule:P", authz_path=os.path.join(self.folder, "etc"))
        self.assertTrue(psik.Policy.load_rule(config).allows())

    def test_the_place_of_the_socket(self) -> None:
        place = "/tmp/psik-%d" % os.stat(self.home(self.ada)).st_uid
        os.symlink(self.home(self.ada), place)
        self.addCleanup(os.unlink, place)
        os.chown(place, os.stat(self.home(self.eve)).st_uid, -1, follow_symlinks=False)
        self.env.pop("XDG_RUNTIME_DIR", None)
        self.assertIn("--uds ~/psik.sock", self.of(self.ada, "serve", status=6).err)

    def test_the_place_of_the_slots(self) -> None:
        config = os.path.join(self.home(self.ada), ".config/psik.json")
        os.makedirs(os.path.dirname(config), exist_ok=True)
        psik.write_file(config, json.dumps({"slots": 2}))
        for path in (os.path.dirname(config), config):
            os.chown(path, os.stat(self.home(self.ada)).st_uid, -1)
        place = "/tmp/psik-%d" % os.stat(self.home(self.ada)).st_uid
        os.mkdir(place)
        self.addCleanup(os.rmdir, place)
        os.chown(place, os.stat(self.home(self.eve)).st_uid, -1)
        jobid = self.of(self.ada, "run", "-c", "true").out.strip()
        self.of(self.ada, "wait", jobid, status=1)
        wrong = "%s belongs to %s, or is a link" % (place, self.eve)
        self.assertIn("its slots cannot be counted: %s belongs to somebody else" % place,
                      self.of(self.ada, "why", jobid).out)
        self.assertIn(wrong, self.of(self.ada, "doctor", status=1).out)


class Own(Case):
    """What is made, and removed."""

    def test_every_folder_that_is_made_is_for_us_alone(self) -> None:
        place = os.path.join(self.folder, "a", "b", "c")
        self.configure(prefix=place)
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        self.run_spec("--wait", script="true")
        for path in (place, os.path.dirname(place), os.path.dirname(os.path.dirname(place)),
                     place + "/local", place + "/.psik"):
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o700, path)

    def test_a_home_that_is_not_there(self) -> None:
        self.env.pop("PSIK_CONFIG")
        gone, jobs = os.path.join(self.folder, "psik.py", "home"), os.path.join(self.folder, "jobs")
        self.write("psik.py", "")
        said = self.psik("run", "--wait", "-c", "true", env={"HOME": gone, "PSIK_PREFIX": jobs})
        self.assertIn("are kept in %s\n" % jobs, said.err)
        self.assertIn("set PSIK_PREFIX to another folder",
                      self.psik("doctor", env={"HOME": gone}, status=1).out)
        with mock.patch.dict(os.environ, {"HOME": "", "XDG_DATA_HOME": ""}):
            del os.environ["HOME"]
            with mock.patch("pwd.getpwuid", side_effect=KeyError):
                with self.assertRaisesRegex(psik.InvalidError, "your home is not known"):
                    psik.load_config()

    def test_a_folder_that_is_named_from_where_one_stands(self) -> None:
        self.env.pop("PSIK_CONFIG")
        self.psik("run", "-c", "true", env={"XDG_DATA_HOME": "here"})
        self.assertTrue(os.path.isdir(os.path.join(self.folder, "here", "psik")))

    def test_removing_follows_no_link_that_takes_a_folders_place(self) -> None:
        outside, tree = os.path.join(self.folder, "outside"), os.path.join(self.folder, "tree")
        os.mkdir(outside, 0o750)
        os.mkdir(tree)
        os.symlink(outside, os.path.join(tree, "link"))
        real = os.path.islink
        with mock.patch("os.path.islink",
                        lambda path: real(path) and not str(path).endswith("link")):
            psik.delete_tree(tree)
        self.assertEqual(stat.S_IMODE(os.stat(outside).st_mode), 0o750)
        self.assertFalse(os.path.exists(tree))


def opened(server: Server, count: int, data: bytes = b"") -> List[socket.socket]:
    """Connections on which no more than this is sent."""
    found = []
    for _ in range(count):
        sock = socket.create_connection(("127.0.0.1", server.port))
        with contextlib.suppress(OSError):  # it may be closed already
            sock.sendall(data)
        found.append(sock)
    return found


@USERS
class Sockets(TwoUsers):
    """Another user's connections to a server of one's own."""

    @needs("curl", shutil.which("curl"))
    def test_a_strangers_sockets_keep_nobody_out(self) -> None:
        server = self.serve("--port", "0", "--workers", "16")
        code = ("import socket, sys, time\n"
                "socks = [socket.create_connection(('127.0.0.1', %d)) for _ in range(300)]\n"
                "print(socks[-1].recv(4096).decode().split()[1], flush=True)\nsys.stdin.read()"
                % server.port)
        child = subprocess.Popen(self.as_user(self.eve) + [SYSTEM_PYTHON, "-c", code],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdout is not None and child.stdin is not None
        self.assertEqual(child.stdout.readline(), b"403\n")  # though it had sent nothing
        self.assertEqual(self.curl(self.ada, server.where + "v1/jobs"), "200")
        self.assertLess(server.handles(), 120)
        child.communicate()

    def test_whose_socket_it_is_is_asked_of_the_kernel(self) -> None:
        for family, host, other in ((socket.AF_INET, "127.0.0.1", "127.0.0.1"),
                                    (socket.AF_INET6, "::1", "::1"),
                                    (socket.AF_INET6, "::", "127.0.0.1")):
            with self.subTest(host=host), socket.socket(family) as listening:
                if family == socket.AF_INET6:
                    listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
                listening.bind((host, 0))
                listening.listen(1)
                port = listening.getsockname()[1]
                code = ("import socket, sys\ns = socket.create_connection((%r, %d))\n"
                        "sys.stdin.read()" % (other, port))
                child = subprocess.Popen(self.as_user(self.eve) + [SYSTEM_PYTHON, "-c", code],
                                         stdin=subprocess.PIPE)
                with listening.accept()[0] as ours:
                    ends = psik.TcpEnds(ours.getpeername(), ours.getsockname())
                    uid = os.stat(self.home(self.eve)).st_uid
                    self.assertEqual((ends.ask_kernel(), ends.read_proc()), (uid, uid))
                    self.assertEqual(psik.peer_of(ours).uid, uid)
                    child.communicate(b"")
                    self.assertIsNone(ends.ask_kernel())
                    self.assertIsNone(ends.read_proc())


class Slow(Case):
    """Who sends little, much, or reads nothing."""

    def test_a_text_without_its_end_takes_no_memory(self) -> None:
        code = ("import resource, sys\n"
                "resource.setrlimit(resource.RLIMIT_AS, (400 * 2 ** 20,) * 2)\n"
                "sys.path.insert(0, %r)\nimport psik\n"
                "try: psik.parse_json('{\"script\": \"' + 'x\\\\n' * 5000000, 'body')\n"
                "except psik.InvalidError as err: print(err)" % os.path.dirname(PSIK))
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE)
        self.assertIn(b"not JSON", done.stdout, done.stderr[-300:])

    def test_slips_of_the_hand_are_forgiven(self) -> None:
        for text, value in (('{"a": [1, 2,], }', {"a": [1, 2]}), ('{"a": ",]",\n}', {"a": ",]"}),
                            ("[[1,],[2,],]", [[1], [2]])):
            self.assertEqual(psik.parse_json(text, "x"), value)
        for text in ("[,]", "[1,,]", "{,}", "[1" + ",]" * 200, "[" + "1," * 40000 + "]"):
            with self.assertRaises(psik.InvalidError):
                psik.parse_json(text, "x")

    def test_small_chunks(self) -> None:
        server = Server(self, "--port", "0")
        jobid = str(server.ask("POST", "/v1/jobs/new", {"script": "true"}).json)
        head = ("PUT /v1/jobs/%s/files/f HTTP/1.1\r\nHost: localhost\r\n"
                "Transfer-Encoding: chunked\r\n\r\n" % jobid).encode()
        self.assertIn(b" 200 ", server.raw(head + b"1\r\nx\r\n" * 9000 + b"0\r\n\r\n")[:20])
        self.assertEqual(server.ask("GET", "/v1/jobs/%s/files/f" % jobid).body, b"x" * 9000)
        answer = server.raw(head + b"1\r\nx\r\n" * 300000 + b"0\r\n\r\n")
        self.assertIn(b"too small", answer)

    def test_small_chunks_that_nobody_wants(self) -> None:
        server = Server(self, "--port", "0")
        head = (b"POST /v1/none HTTP/1.1\r\nHost: localhost\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n")
        for count, closes in ((50, False), (5000, True)):
            answer = server.raw(head + b"1\r\nx\r\n" * count + b"0\r\n\r\n")
            self.assertIn(b" 404 ", answer[:20])
            self.assertEqual(b"connection: close" in answer.lower(), closes, count)

    def test_uploads_are_bounded(self) -> None:
        self.configure(max_upload_mb=1)
        server = Server(self, "--port", "0")
        jobid = str(server.ask("POST", "/v1/jobs/new", {"script": "true"}).json)
        url, much = "/v1/jobs/%s/files" % jobid, b"x" * 1500000
        self.assertEqual(server.ask("PUT", url + "/f", iter([much[:1000000]])).status, 200)
        field = b"--x\r\nContent-Disposition: form-data; name="
        form = field + b'"files"; filename="g"\r\n\r\n%s\r\n--x--\r\n'
        many = (field + b'"a"\r\n\r\n\r\n') * 1001 + b"--x--\r\n"
        kind = {"Content_Type": "multipart/form-data; boundary=x"}
        for method, path, body, headers in (
                ("PUT", url + "/f", much, {}), ("PUT", url + "/f", iter([much]), {}),
                ("POST", url, form % much, kind), ("POST", url, many, kind)):
            connection = server.connection()
            try:
                status = server.ask(method, path, body, connection=connection, **headers).status
            except (BrokenPipeError, ConnectionResetError):  # it answered before it had read it all
                status = connection.response_class(connection.sock, method=method).begin() or 413
            self.assertEqual(status, 413)
            connection.close()
        self.assertEqual(server.ask("GET", url).json["f"]["size"], 1000000)

    def test_who_has_gone_is_noticed(self) -> None:
        server = Server(self, "--port", "0")
        jobid = str(server.ask("POST", "/v1/jobs/new", {"script": "true"}).json)
        before = server.handles()
        for path in ("/v1/events", "/v1/jobs/%s/events" % jobid) * 5:
            sock = opened(server, 1,
                          ("GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path).encode())[0]
            self.assertIn(b" 200 ", sock.recv(100))
            sock.close()
        self.until(lambda: server.handles() <= before + 2, "the streams' end", 8)

    def test_streams_of_events_are_bounded(self) -> None:
        server = Server(self, "--port", "0", "--workers", "12")
        socks = opened(server, 8, b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.addCleanup(lambda: [sock.close() for sock in socks])
        answers = sorted(sock.recv(1000)[9:12] for sock in socks)
        self.assertEqual(answers, [b"200"] * 6 + [b"503"] * 2)
        self.assertEqual(server.ask("GET", "/v1/health").status, 200)

    def test_keys_are_bounded(self) -> None:
        with mock.patch("psik.MAX_KEYS", 2):
            for number in range(3):
                key = psik.IdempotencyKeys(self.folder).entry("key%d" % number, "request")
                if number == 2:
                    with self.assertRaises(psik.RequestError) as caught:
                        key.__enter__()
                    self.assertEqual(caught.exception.http_status, 429)
                else:
                    with key as entry:
                        entry.keep("1.5")
        server = Server(self, "--port", "0")
        self.assertEqual(server.ask("POST", "/v1/jobs", {"script": "true"},
                                    Idempotency_Key="k" * 300).status, 400)
        self.assertEqual(server.ask("POST", "/v1/jobs", {"script": "true", "directory": "/gone"},
                                    Idempotency_Key="k").status, 422)
        self.assertEqual(os.listdir(os.path.join(self.prefix, "local", ".keys")), [])

    def test_who_waits_for_a_lock_makes_no_second_job(self) -> None:
        path = os.path.join(self.folder, "key")
        with psik.IdempotencyKeys.open(path):
            found: List[bool] = []

            def wait() -> None:
                with psik.IdempotencyKeys.open(path) as file:
                    found.append(os.path.samestat(os.stat(path), os.fstat(file.fileno())))

            waiting = threading.Thread(target=wait)
            waiting.start()
            time.sleep(0.3)
            os.unlink(path)
        waiting.join(20)
        self.assertEqual(found, [True])

    def test_the_interface_is_described_once(self) -> None:
        self.assertIs(psik.openapi_response(()), psik.openapi_response(()))


class Strangers(test_access.Secure):
    """Who comes over TLS, with little or nothing to show."""
    options = ("--workers", "32")

    def connection(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        """A new connection to the server."""
        sock = socket.create_connection(("127.0.0.1", self.server.port))
        return context.wrap_socket(sock, server_hostname="localhost")

    def test_who_shows_nothing_keeps_nobody_out(self) -> None:
        head = (b"POST /v1/jobs%s HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\nContent-Length: 900\r\n\r\n{")
        context = ssl.create_default_context(cafile=self.at("ca.pem"))
        socks = opened(self.server, 20)
        for number in range(60):
            with contextlib.suppress(OSError):
                sock = self.connection(context)
                sock.sendall(head % (b"/callback" * (number % 2)) + b"x" * (number % 3))
                socks.append(sock)
        for _ in range(5):
            self.assertEqual(self.ask("ada", "GET", "/v1/jobs").status, 200)
        for sock in socks:
            sock.close()

    def test_a_narrow_token_has_its_share_of_streams(self) -> None:
        eve = self.token("--user", "eve", "--ops", "GET")
        context = ssl.create_default_context(cafile=self.at("ca.pem"))
        said, socks = [], []
        for _ in range(28):
            sock = self.connection(context)
            sock.sendall(("GET /v1/events HTTP/1.1\r\nHost: localhost\r\n"
                          "Authorization: Bearer %s\r\n\r\n" % eve[6:]).encode())
            said.append(sock.recv(2000))
            socks.append(sock)
        an_eighth = [b"200"] * 4 + [b"503"] * 24  # of 32
        self.assertEqual([text[9:12] for text in said], an_eighth)
        self.assertIn(b'{"detail": "', said[-1])
        self.assertEqual(self.ask("ada", "GET", "/v1/health").status, 200)
        for sock in socks:
            sock.close()

    def hold(self, who: str, count: int, data: bytes) -> List[bytes]:
        """The beginnings of the answers on so many connections, which stay open in this test."""
        context, said = ssl.create_default_context(cafile=self.at("ca.pem")), []
        for _ in range(count):
            with contextlib.suppress(OSError):
                sock = self.connection(context)
                self.addCleanup(sock.close)
                sock.sendall(data % who[6:].encode())
                said.append(sock.recv(2000))
        return said

    def test_users_who_may_make_no_jobs_keep_nobody_out(self) -> None:
        get = b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n"
        drip = b"POST /v1/jobs/callback HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n{"
        for name in ("dora", "zed", "yan", "xia"):
            self.hold(self.token("--user", name), 24, get + drip)
        self.assertEqual(self.ask("ada", "GET", "/v1/health").status, 200)
        narrow = self.token("--user", "ada", "--ops", "GET")
        self.hold(narrow, 24, get)
        self.assertEqual(self.ask("ada", "GET", "/v1/jobs").status, 200)
        statuses = [answer[9:12] for answer in self.hold(self.token("--user", "bob"), 12, get)]
        # And the refused are not served later.
        self.assertEqual((statuses[:8], b"503" in statuses[8:]), ([b"200"] * 8, True))

    def test_a_certificate_that_is_withdrawn_takes_its_tokens_with_it(self) -> None:
        given = "token:" + self.ask("ada", "GET", "/v1/token").text
        again = "token:" + self.ask(given, "GET", "/v1/token").text
        self.assertEqual(self.ask(again, "GET", "/v1/jobs").status, 200)
        self.configure(authz="owner", users="*", refused_certificates=[self.serial("ada")])
        self.server.process.send_signal(signal.SIGHUP)
        self.until(lambda: "read again" in self.server.said())
        self.assertEqual([self.ask(token, "GET", "/v1/jobs").status for token in (given, again)],
                         [401, 401])

    def test_who_is_no_longer_a_user_runs_nothing(self) -> None:
        eve = self.token("--user", "eve")
        jobid = str(self.ask(eve, "POST", "/v1/jobs/new", {"script": "true"}).json)
        self.configure(authz="owner", users=["ada"])
        self.server.process.send_signal(signal.SIGHUP)
        self.until(lambda: "read again" in self.server.said())
        self.assertEqual(self.ask(eve, "GET", "/v1/jobs/" + jobid).status, 200)
        self.assertEqual(self.ask(eve, "POST", "/v1/jobs/%s/start" % jobid).status, 403)

    def test_users_of_one_backend(self) -> None:
        self.server.stop()
        self.begin(backends={"local": {"backend": {"type": "local"}},
                             "gpu": {"backend": {"type": "local"}, "users": ["bob"]}})
        bob = self.token("--user", "bob")
        asked = [(who, place,
                  self.ask(who, "POST", "/v1/jobs/new?backend=" + place, {"script": "true"}).status)
                 for who in ("ada", bob) for place in ("local", "gpu")]
        self.assertEqual([status for _, _, status in asked], [200, 403, 200, 200])

    def test_a_job_that_runs_around_the_jobs_shows_none_of_them(self) -> None:
        work, key = self.folder, "jobs/.tokens/key"
        self.token()
        jobid = self.run_spec("--wait", script="true", directory=work)
        inside = self.run_spec("--wait", script="true", directory=self.prefix)
        for who in ("root", self.token()):
            for path in (key, "jobs", "jobs/local"):
                url = "/v1/jobs/%s/files/%s" % (jobid, path)
                self.assertEqual(self.ask(who, "GET", url).status, 403, path)
            url = "/v1/jobs/%s/files/%s" % (jobid, key)
            self.assertEqual(self.ask(who, "PUT", url, b"x").status, 403)
            self.assertEqual(self.ask(who, "GET", "/v1/jobs/%s/files" % inside).status, 403)
            body = self.ask(who, "GET", "/v1/jobs/%s/archive" % jobid).body
            with tarfile.open(fileobj=io.BytesIO(body)) as archive:
                self.assertFalse([name for name in archive.getnames() if "/jobs" in name])

    def test_an_admins_narrow_token(self) -> None:
        jobid = str(self.ask("ada", "POST", "/v1/jobs/new",
                             {"script": "true", "environment": {"KEY": "hush"}}).json)
        narrow = self.token("--user", "root", "--ops", "GET", "--ops", "PUT")
        access = "/v1/jobs/%s/access" % jobid
        self.assertEqual(self.ask(narrow, "PUT", access, {"dora": ["POST"]}).status, 403)
        self.assertNotIn("hush", self.ask(narrow, "GET", "/v1/jobs/%s/spec" % jobid).text)

    def test_nested_claims(self) -> None:
        self.token()
        tokens = psik.tokens_of(self.config())
        head = psik.encode_base64(b"[" * 100000)[:2000]
        for text in (head + "." + head, psik.encode_base64(b'{"alg": "HS256"}') + "." + head):
            token = "token:%s.%s" % (text, tokens.mark(text))
            self.assertEqual(self.ask(token, "GET", "/v1/jobs").status, 401)

    def test_who_may_make_jobs(self) -> None:
        self.server.stop()
        self.begin(users={"ada": {"roles": ["admin"]}})
        bob = self.token("--user", "bob")
        refused = self.ask(bob, "POST", "/v1/jobs", b"{" * 100, Content_Type="application/json")
        # And its body was not read.
        self.assertEqual(refused.status, 403)
        self.assertIn('"users" in the config', refused.json["detail"])
        for who in ("ada", "root", self.token()):  # the last is the command line's own user
            self.assertEqual(self.ask(who, "POST", "/v1/jobs/new", {"script": "true"}).status, 200)
        self.server.stop()
        self.begin(users=None)
        self.assertIn('"users" in the config lets users do so', self.server.said())
        self.assertEqual(self.ask("ada", "POST", "/v1/jobs", {"script": "true"}).status, 403)
        self.server.stop()
        self.begin(users="*")
        self.assertEqual(self.ask(bob, "POST", "/v1/jobs", {"script": "true"}).status, 200)

    def test_what_the_owner_alone_sees(self) -> None:
        spec = {"script": "true", "environment": {"KEY": "hush-hush"},
                "callback": "http://127.0.0.1:9/x?token=hush-hush"}
        jobid = str(self.ask("ada", "POST", "/v1/jobs/new", spec).json)
        self.ask("ada", "PUT", "/v1/jobs/%s/access" % jobid, {"bob": ["POST"]})
        narrow = self.token("--user", "ada", "--ops", "GET")
        for who, sees in (("ada", True), ("root", True), (self.token("--user", "bob"), False),
                          (narrow, False)):
            for part in ("spec", "scripts"):
                said = self.ask(who, "GET", "/v1/jobs/%s/%s" % (jobid, part)).text
                self.assertEqual("hush-hush" in said, sees, (who, part))
        self.assertEqual(self.ask(narrow, "GET", "/v1/jobs/%s/spec" % jobid).json["callback"],
                         "http://127.0.0.1:9/x")

    def test_a_stream_ends_with_the_right_to_it(self) -> None:
        jobid = str(self.ask("ada", "POST", "/v1/jobs/new", {"script": "true"}).json)
        self.ask("ada", "PUT", "/v1/jobs/%s/access" % jobid, {"bob": ["GET"], "carl": ["GET"]})
        context = ssl.create_default_context(cafile=self.at("ca.pem"))
        carl, socks = self.token("--user", "carl"), []
        for token, path in ((self.token("--user", "bob"), "/v1/jobs/%s/events" % jobid),
                            (carl, "/v1/jobs/%s/events" % jobid), (carl, "/v1/events")):
            sock = self.connection(context)
            sock.settimeout(60)
            sock.sendall(("GET %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n"
                          % (path, token[6:])).encode())
            head = sock.recv(4096)
            self.assertIn(b" 200 ", head)
            socks.append((sock, head))
        self.ask("ada", "PUT", "/v1/jobs/%s/access" % jobid, {"bob": []})
        self.psik("token", "--revoke", json.loads(psik.decode_base64(carl.split(".")[1]))["jti"])
        for sock, said in socks:  # which may tell nothing but its end
            for block in iter(lambda: sock.recv(4096), b""):
                said += block
                if said.endswith(b"\r\n0\r\n\r\n"):
                    break
            self.assertTrue(said.endswith(b"\r\n0\r\n\r\n"), said)
            sock.close()

    def test_a_ticket_opens_one_path_for_a_minute(self) -> None:
        jobid = str(self.ask("ada", "POST", "/v1/jobs/new", {"script": "true"}).json)
        path, bob = "/v1/jobs/%s/spec" % jobid, self.token("--user", "bob")
        taken = self.ask("ada", "GET", "/v1/token?path=" + path)
        self.assertEqual((taken.status, taken.headers["cache-control"]), (200, "no-store"))
        shown = path + "?ticket=" + taken.text
        self.assertEqual(self.ask("", "GET", shown).json["script"], "true")
        self.assertEqual(self.ask("", "HEAD", shown).status, 200)
        others = [("GET", path + "?ticket=x"), ("GET", path + "?ticket="), ("DELETE", shown),
                  ("GET", shown.replace("/spec", "/state")), ("POST", shown)]
        self.assertEqual([self.ask("", *each).status for each in others], [401, 401, 405, 401, 405])
        job = path[:-5] + "?ticket=" + self.ask("ada", "GET", "/v1/token?path=" + path[:-5]).text
        self.assertEqual([self.ask("", method, job).status for method in ("GET", "DELETE")],
                         [200, 401])
        self.assertEqual(self.ask("", "GET", "/v1/token?path=" + path).status, 401)
        hers = path + "?ticket=" + self.ask(bob, "GET", "/v1/token?path=" + path).text
        self.assertEqual(self.ask("", "GET", hers).status, 404)      # it gives no right
        self.assertNotIn(taken.text, self.server.said())
        api, clock = psik.Api(self.config(), "tls"), [100.0]
        req = psik.Request("GET", path, {}, psik.Body(psik.Wire(), 0))
        route = [each for each in psik.ROUTES if each.path == "/v1/jobs/{jobid}/spec"][0]
        with mock.patch("time.monotonic", lambda: clock[0]):
            his = api.tickets.issue(psik.Caller("bob"), None, path)
            hers = [api.tickets.issue(psik.Caller("ada"), None, path) for _ in range(110)]
            for word, known in ((hers[9], False), (hers[10], True), (hers[-1], True), (his, True)):
                req.query["ticket"] = word
                self.assertEqual(bool(api.tickets.of(req, route)), known)
            clock[0] = 161.0
            self.assertIsNone(api.tickets.of(req, route))
            api.tickets.issue(psik.Caller("ada"), None, path)
            self.assertEqual(len(api.tickets.known), 1)

    def test_a_ticket_ends_with_the_token_that_it_was_given_for(self) -> None:
        jobid = str(self.ask("ada", "POST", "/v1/jobs/new", {"script": "true"}).json)
        path, hers = "/v1/jobs/%s/spec" % jobid, self.token("--user", "ada")
        shown = path + "?ticket=" + self.ask(hers, "GET", "/v1/token?path=" + path).text
        self.assertEqual(self.ask("", "GET", shown).status, 200)
        claims = json.loads(psik.decode_base64(hers.split(".")[1]))
        self.psik("token", "--revoke", claims["jti"])
        self.assertEqual(self.ask("", "GET", shown).status, 401)

    def test_counts_of_what_one_may_see(self) -> None:
        bob, carl = self.token("--user", "bob"), self.token("--user", "carl")
        for who, name in (("ada", "sweep-1"), ("ada", "other"), (bob, "his")):
            self.ask(who, "POST", "/v1/jobs/new", {"script": "true", "name": name})

        def counted(who: str, query: str = "") -> int:
            return int(self.ask(who, "GET", "/v1/jobs/counts" + query).json["new"])

        self.until(lambda: counted("root") == 3)
        self.assertEqual([counted("ada"), counted("ada", "?name=sweep*"), counted(carl),
                          counted("ada", "?backend=other"), counted("ada", "?since=2000000000")],
                         [2, 1, 0, 0, 0])

    def test_a_certificate_that_is_withdrawn_while_the_server_runs(self) -> None:
        self.assertEqual(self.ask("gone", "GET", "/v1/jobs").json["detail"],
                         "the certificate was withdrawn")
        self.configure(authz="owner", refused_certificates=[self.serial("ada")[7:].lower()])
        self.server.process.send_signal(signal.SIGHUP)
        self.until(lambda: "read again" in self.server.said())
        self.assertEqual((self.ask("ada", "GET", "/v1/jobs").status,
                          self.ask("gone", "GET", "/v1/jobs").status), (403, 200))
        self.configure(refused_certificates=["no number"])
        self.assertIn("hexadecimal", self.psik("ls", status=2).err)

    def test_tokens_of_tokens_end(self) -> None:
        token, statuses = self.token("--user", "bob"), []
        for _ in range(10):
            answer = self.ask(token, "GET", "/v1/token")
            statuses.append(answer.status)
            token = "token:" + answer.text if answer.status == 200 else token
        self.assertEqual(statuses, [200] * 8 + [403] * 2)
        jobs = ["--jobs=%d.5" % number for number in range(10 ** 9, 10 ** 9 + 400)]
        self.assertIn("narrow it", self.psik("token", *jobs, status=2).err)

    def test_an_operation_of_a_biscuit_that_can_be_read_in_two_ways(self) -> None:
        def field(number: int, value: bytes) -> bytes:
            return bytes([number << 3 | 2, len(value)]) + value

        for kinds, fine in ((b"\x08\x04", True), (b"\x08\x04\x08\x08", False), (b"\x08\x08", False),
                            (b"\x08\x84\x80\x80\x80\x10", False), (b"", False)):
            operations = psik.Protobuf(field(1, field(3, kinds))).fields(1)
            if fine:
                self.assertEqual(psik.BiscuitTokens.count_operations(operations), 1)
            else:
                with self.assertRaises(ValueError):
                    psik.BiscuitTokens.count_operations(operations)

    def test_times_of_a_token_are_finite_numbers(self) -> None:
        claims = {"sub": "bob", "iss": "psik", "aud": "psik", "iat": 1, "jti": "x"}
        with open(self.prefix + "/.tokens/key") if self.token() else open(os.devnull) as file:
            key = bytes.fromhex(file.read().strip())
        for exp in (float("inf"), float("nan"), "9e99", "inf", True, None, [1]):
            token = "token:" + test_access.jwt(dict(claims, exp=exp), key)
            self.assertEqual(self.ask(token, "GET", "/v1/jobs").status, 401, exp)
        token = "token:" + test_access.jwt(dict(claims, exp=time.time() + 9), key)
        self.assertEqual(self.ask(token, "GET", "/v1/jobs").status, 200)

    def test_a_stranger_makes_us_write_nothing(self) -> None:
        api = psik.Api(self.config(), "tls")
        with mock.patch("psik.write_file", side_effect=AssertionError):
            req = psik.Request("GET", "/v1/health", {}, psik.Body(psik.Wire(), 0))
            handler = psik.ServerHandler(api, req, psik.Caller("addr:192.0.2.1"))
            self.assertEqual(handler.get_health().status, 200)


class Requests(Case):
    """Requests, and what they leave, to a server of one's own."""

    def test_hosts_of_a_unix_socket(self) -> None:
        server = Server(self, "--uds", "s.sock")
        for host, status in (("evil:8000", 403), ("evil", 403), ("localhost", 200),
                             ("localhost:8000", 200), ("psik.localhost", 200), ("127.0.0.1:1", 200),
                             ("[::1]:8", 200), ("localhost.evil.example", 403)):
            self.assertEqual(server.ask("GET", "/v1/jobs", Host=host).status, status, host)

    def test_a_browser_asks_by_address(self) -> None:
        server = Server(self, "--port", "0")
        self.assertIn("http://127.0.0.1:", server.said())
        self.assertNotIn("localhost:", server.said())
        browser = {"Sec_Fetch_Site": "none"}
        for host, headers, status in (("localhost:%d", {}, 200), ("localhost:%d", browser, 403),
                                      ("127.0.0.1:%d", browser, 200)):
            answer = server.ask("GET", "/v1/jobs", Host=host % server.port, **headers)
            self.assertEqual(answer.status, status)
        server = Server(self, "--uds", "s.sock")
        answer = server.ask("GET", "/v1/jobs", Host="localhost:8000", **browser)
        self.assertEqual(answer.status, 200)

    def test_encoded_slashes_and_bodies(self) -> None:
        server = Server(self, "--uds", "s.sock")
        for path in ("/v1%2fjobs", "/v1/jobs%2f1.5", "/v1/jobs/1.5%2fstate", "/v1/backends/a%2fb"):
            self.assertEqual(server.ask("GET", path).status, 404, path)
        self.assertEqual(server.ask("POST", "/v1/jobs", {"script": "true"},
                                    Content_Encoding="gzip").status, 415)

    def test_a_socket_behind_a_proxy(self) -> None:
        self.configure(authz="owner", users=["bob"])
        server = Server(self, "--uds", "s.sock")
        self.assertEqual(stat.S_IMODE(os.stat(server.where).st_mode), 0o660)
        token = self.psik("token", "--user", "bob").out.strip()
        self.assertEqual(server.ask("GET", "/v1/jobs").status, 401)
        self.assertEqual(server.ask("POST", "/v1/jobs", {"script": "true"},
                                    Authorization="Bearer " + token).status, 200)

    def test_both_kinds_of_addresses_at_one_socket_of_systemds(self) -> None:
        code = ("import os, socket, sys\ns = socket.socket(socket.AF_INET6)\n"
                "s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)\n"
                "s.bind(('::', 0)); s.listen(5); print(s.getsockname()[1], flush=True)\n"
                "os.dup2(s.fileno(), 3); os.set_inheritable(3, True)\n"
                "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n"
                "os.execv(sys.executable, %r)" % (FAST + ["serve"]))
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE,
                                 stderr=subprocess.DEVNULL, env=self.env)
        self.addCleanup(child.wait)
        self.addCleanup(child.terminate)
        assert child.stdout is not None
        port = int(child.stdout.readline())
        for host in ("127.0.0.1", "::1"):
            connection = http.client.HTTPConnection(host, port, timeout=30)
            connection.request("GET", "/v1/jobs", headers={"Host": "localhost"})
            self.assertEqual(connection.getresponse().status, 200, host)
            connection.close()

    def test_a_token_of_the_servers_own(self) -> None:
        for argv in (("--port", "0"), ("--uds", "s.sock")):
            server = Server(self, "--token", *argv)
            token = self.until(lambda: re.search(r"#token=([0-9a-f]{48})", server.said())).group(1)
            paths = ("/", "/v1", "/v1/jobs", "/v1/health", "/v1/jobs?token=" + token)
            self.assertEqual([server.ask("GET", path).status for path in paths],
                             [200, 200, 401, 401, 401])
            for headers, status in (({"Cookie": "psik_token=" + token}, 401),
                                    ({"Authorization": "Bearer " + token}, 200)):
                self.assertEqual(server.ask("GET", "/v1/jobs", **headers).status, status)
            answer = server.ask("GET", "/", Authorization="Bearer " + token)
            self.assertNotIn("set-cookie", answer.headers)
            path = "/v1/jobs/%s/spec" % server.ask("POST", "/v1/jobs/new", {"script": "true"},
                                                   Authorization="Bearer " + token).json
            ticket = server.ask("GET", "/v1/token?path=" + path, Authorization="Bearer " + token)
            self.assertEqual(server.ask("GET", path + "?ticket=" + ticket.text).status, 200)
            self.assertEqual(server.ask("GET", path[:-5] + "?ticket=" + ticket.text).status, 401)
            server.stop()
        self.assertIn("leave out", self.psik("serve", "--token", "--inetd", status=2).err)

    @needs("root", not os.getuid())
    def test_root_is_told_that_it_should_not(self) -> None:
        self.assertIn("runs as root", Server(self, "--uds", "s.sock").said())

    def test_a_key_that_jwts_do_not_have(self) -> None:
        self.assertIn('"tokens": "biscuit"', self.psik("token", "--public-key", status=2).err)

    def test_headers_of_a_callback(self) -> None:
        for name in ("Host", "content-length", "Transfer-Encoding"):
            spec = {"script": "true", "cb_headers": {name: "x"}}
            ran = self.psik("run", "-", stdin=json.dumps(spec), status=2)
            self.assertIn("cb_headers." + name, ran.err)

    def test_the_name_of_an_attribute_is_no_command(self) -> None:
        for name in ("-q;id", "-q$(id)", "--x`id`", "-c\n", "-c&id", "-c>x"):
            spec = {"script": "true", "attributes": {name: "x"}}
            ran = self.psik("run", "-", stdin=json.dumps(spec), status=2)
            self.assertIn("not an option", ran.err)

    def test_an_archive_goes_below_no_link(self) -> None:
        work = os.path.join(self.folder, "work")
        os.mkdir(work)
        os.symlink("/etc", os.path.join(work, "d"))
        real = psik.Entries.at

        def swapping(name: str, folder: int, item: str, *hides: Any) -> Optional[psik.Entry]:
            added = real(name, folder, item, *hides)
            if item == "d":
                os.unlink(os.path.join(work, "d"))
                os.mkdir(os.path.join(work, "d"))
                with open(os.path.join(work, "d", "passwd"), "w"):
                    pass
            return added

        data = io.BytesIO()
        with mock.patch("psik.Entries.at", swapping):
            psik.write_archive(psik.ConfinedFolder(work).entries("", "job"),
                               lambda block: data.write(block) and None)
        with tarfile.open(fileobj=io.BytesIO(data.getvalue())) as archive:
            self.assertEqual([(item.name, item.issym()) for item in archive], [("job/d", True)])

    def test_what_a_history_holds_does_not_reach_the_terminal(self) -> None:
        jobid = self.run_spec(script="true", name="x")
        self.psik("wait", jobid)
        with open(self.job(jobid).status_path, "a") as file:
            file.write("%.3f,2,queued,\x1b]0;evil\x07\n" % time.time())
        for argv in (("ls",), ("status", jobid)):
            self.assertNotIn("\x1b", self.psik(*argv).out)


class Installed(Case):
    """The command that `install` makes."""

    def setUp(self) -> None:
        super().setUp()
        self.program = os.path.join(self.folder, ".local", "bin", "psik")
        shutil.copy(PSIK, self.folder)
        if sys.version_info < (3, 7):
            shutil.copy(str(sys.modules["dataclasses"].__file__), self.folder)
        self.psik("install", program=[sys.executable, os.path.join(self.folder, "psik.py")])

    def test_nothing_of_the_folder_one_stands_in_is_run(self) -> None:
        for name in ("json.py", "argparse.py", "string.py"):
            self.write(name, "print('evil')")
        ran = self.psik("ls", program=[self.program], env={"PYTHONPATH": self.folder})
        self.assertEqual((ran.out, ran.err), ("", "psik: no jobs\n"))
        self.assertTrue(os.listdir(os.path.join(self.folder, "__pycache__")))  # compiled once

    def test_nothing_that_lies_beside_psik_is_run(self) -> None:
        for name in ("json.py", "argparse.py", "psik/__init__.py"):
            os.makedirs(os.path.join(self.folder, "psik"), exist_ok=True)
            self.write(name, "print('evil')")
        beside = [sys.executable, os.path.join(self.folder, "psik.py")]
        self.assertEqual(self.psik("ls", program=beside).out, "")
        server = Server(self, "--uds", "s.sock", program=beside)
        self.assertEqual(server.ask("GET", "/v1/jobs").json, [])
        self.assertNotIn("evil", server.said())

    def test_what_it_says_is_to_be_typed_so(self) -> None:
        self.assertIn("`psik ls` shows ids and names",
                      self.psik("status", "x", status=3, program=[self.program]).err)
        self.assertIn("usage: psik [-h]", self.psik("-h", program=[self.program]).out)
        self.assertIn("example: psik start --state failed",
                      self.psik("start", "-h", program=[self.program]).out)
        self.assertIn("example: psik.py start --state failed", self.psik("start", "-h").out)

    def test_a_compiled_file_that_was_cut(self) -> None:
        """A full disk leaves such; neither the command, nor a server, nor a job ends with it."""
        self.psik("ls", program=[self.program])
        cached, = glob.glob(self.folder + "/__pycache__/psik.*")
        beside = [sys.executable, os.path.join(self.folder, "psik.py")]
        for _ in range(2):
            os.truncate(cached, 5000)
            self.psik("ls", program=[self.program])
            Server(self, "--uds", "s.sock", program=beside).stop()
            os.truncate(cached, 5000)
            Server(self, "--uds", "s.sock", program=beside).stop()
            self.psik("ls", program=[self.program])
        self.psik("run", "--wait", "-c", "$psik ls", program=beside)
        for _ in range(2):
            for path in glob.glob(self.prefix + "/.psik/*/__pycache__/*"):
                os.truncate(path, os.path.getsize(path) // 2)
            self.psik("run", "--wait", "-c", "$psik ls", program=beside)

    def test_again_and_where_something_else_is(self) -> None:
        self.psik("install", program=[self.program])
        with open(self.program, "w") as file:
            file.write("mine")
        program = [sys.executable, os.path.join(self.folder, "psik.py")]
        self.assertIn("is there already", self.psik("install", status=5, program=program).err)
        with open(PSIK, "rb") as file:
            done = subprocess.run([sys.executable, "-", "install"], stdin=file,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.env)
        self.assertIn(b"as a file", done.stderr)

    def test_a_python_far_away(self) -> None:
        place = os.path.join(self.folder, "d" * 100, "with blank")
        os.makedirs(place)
        os.symlink(sys.executable, os.path.join(place, "python3"))
        with mock.patch("sys.executable", os.path.join(place, "python3")):
            line = psik.Installation.interpreter_line(sys.executable)
        text = psik.TEMPLATES["launcher.py"].replace("@python@", line)
        text = text.replace("@place@", "folder, module = %r, 'psik'" % self.folder)
        self.assertIn("no jobs", self.psik("ls", program=[self.write("far", text, 0o755)]).err)

    @needs("zsh, bash and shellcheck", all(map(shutil.which, ("zsh", "bash", "shellcheck"))))
    def test_completion(self) -> None:
        jobid = self.psik("run", "--no-submit", "-", stdin='{"script": "true"}').out.strip()
        bash = os.path.join(self.folder, ".local/share/bash-completion/completions/psik")
        subprocess.run(["shellcheck", "-s", "bash", "-e", "SC2034", bash], check=True)
        line = (". %s; COMP_WORDS=(%s %%s); COMP_CWORD=%%d; _psik; echo ${COMPREPLY[*]}"
                % (bash, self.program))
        for words, place, wanted in (("st", 1, "start status"), ("rm --f", 2, "--force"),
                                     ("wait ''", 2, "last " + jobid)):
            done = subprocess.run(["bash", "-c", line % (words, place)],
                                  stdout=subprocess.PIPE, env=self.env)
            self.assertEqual(done.stdout.decode().strip(), wanted)
        self.assertEqual(self.typed_in_zsh("show stat\t\n"), "status")
        self.assertEqual(self.typed_in_zsh("show wait %s\t\n" % jobid[:5]), "wait " + jobid)

    def typed_in_zsh(self, keys: str) -> str:
        """What a command that is completed as psik is called with, after these keys."""
        place = os.path.join(self.folder, ".local/share/zsh/site-functions")
        self.write(".zshrc", (
            "PS1=; fpath+=(%s); autoload -Uz compinit; compinit -u; compdef _psik show\n"
            "show() { if [[ $1 == ls ]] then psik \"$@\"; else print \"<$*>\"; fi }\nprint READY\n"
        ) % place)
        env = dict(self.env, PATH=os.path.dirname(self.program) + ":" + self.env["PATH"],
                   ZDOTDIR=self.folder, TERM="dumb")
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
