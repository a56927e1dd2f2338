"""The page, in a real browser."""
import json
import os
import re
import shutil
import subprocess
import sys
import time
import unittest
import zlib
from typing import Any, Dict, List

import psik
from harness import DEPS, PSIK, ROOT, Case, needs
from serving import Server

PYTHON = os.path.join(DEPS, "clients", "bin", "python")
CHROMIUM = shutil.which("chromium")
AXE = os.path.join(DEPS, "node", "node_modules", "axe-core", "axe.min.js")


class Browsed(Case):
    """What is done in a real browser."""

    @staticmethod
    def argv(name: str, url: str, *words: str) -> List[str]:
        """The command of a walk over the page."""
        program = os.path.join(ROOT, "tests", "clients", "walk_page.py")
        return [PYTHON, program, name, url, CHROMIUM or "", *words]

    def walk(self, name: str, *words: str, url: str = "") -> List[str]:
        """What a walk over the page shows, line by line."""
        url = url or Server(self, "--host", "127.0.0.1", "--port", "0", "--quiet").where
        done = subprocess.run(self.argv(name, url, *words), stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=200, env=self.env)
        said = done.stdout.decode("utf-8", "replace")
        self.assertEqual(done.returncode, 0, said)
        self.assertNotIn("error in the page", said)
        return said.splitlines()


@needs("chromium and playwright, in .deps/clients (make test-deps)",
       CHROMIUM and os.path.exists(PYTHON))
class Walks(Browsed):
    def setUp(self) -> None:
        super().setUp()
        self.configure(applications="apps")
        os.makedirs(os.path.join(self.folder, "apps"))

    def test_a_script_is_submitted(self) -> None:
        self.assertEqual(self.walk("submit"), ["99999999999 is too large", "2", "0"])
        self.assertEqual(len(psik.list_jobs(self.config())), 1)

    def test_a_long_log(self) -> None:
        script = "#!/bin/sh\nyes 'a line of a log' | head -c 100000000\necho the last line\n"
        jobid = self.run_spec("--wait", script=script + "echo loud >&2\n")
        self.assertEqual(self.walk("log", jobid), ["True", "oud"])

    @needs("axe-core, in .deps/node (make test-deps)", os.path.exists(AXE))
    def test_it_is_accessible(self) -> None:
        self.offer("show", needs=["a"], inputs={"properties": {"n": {"type": "integer"}}})
        jobid = self.run_spec("--wait", script="#!/bin/sh\necho moo\n>a\n")
        array = self.run_spec("--wait", script="#!/bin/sh\ntest $task != 2\n", array=3, status=1)
        self.assertEqual(self.walk("accessible", AXE, jobid, array), [])

    def test_where_it_is(self) -> None:
        server = Server(self, "--port", "0", "--quiet")
        answer = server.ask("GET", "/v1/")
        self.assertEqual((answer.status, answer.headers["location"]), (308, "../v1"))
        for path in ("/", "/v1", "/page/main.js", "/page/style.css"):
            answer = server.ask("GET", path)
            self.assertEqual((answer.status, answer.headers["x-content-type-options"]),
                             (200, "nosniff"))
            self.assertNotIn("unsafe", answer.headers["content-security-policy"])
        plain = server.ask("GET", "/page/main.js")
        packed = server.ask("GET", "/page/main.js", Accept_Encoding="br, gzip")
        self.assertEqual(zlib.decompress(packed.body, 31), plain.body)
        self.assertEqual((packed.headers["content-encoding"], packed.headers["vary"]),
                         ("gzip", "Authorization, Accept-Encoding"))
        again = {"Accept_Encoding": "gzip", "If_None_Match": packed.headers["etag"]}
        self.assertEqual(server.ask("GET", "/page/main.js", **again).status, 304)
        self.assertNotEqual(packed.headers["etag"], plain.headers["etag"])
        for coding, takes in (("gzip;q=0, br", False), ("gzip; q=0.0", False), ("GZIP;Q=0", False),
                              ("br;q=1, gzip;q=0.5", True), ("x-gzip", True), ("gzipped", False)):
            answer = server.ask("GET", "/", Accept_Encoding=coding)
            self.assertEqual("content-encoding" in answer.headers, takes, coding)
        for path in ("/page/../index.html", "/page/job", "/page/none.js", "/page/x.html"):
            self.assertEqual(server.ask("GET", path).status, 404)

    def test_an_application_is_used(self) -> None:
        self.offer("show", needs=["data.txt"],
                   script='#!/bin/sh\ncat data.txt\nwc -c <"$picture"\necho "$inputs"\n',
                   inputs={"properties": {
                       "count": {"type": "integer", "minimum": 1}, "word": {"type": "string"},
                       "flag": {"type": "boolean"}, "how": {"enum": ["a", "b"]},
                       "list": {"type": "array", "items": {"type": "number"}},
                       "words": {"anyOf": [{"type": "array", "items": {"type": "string"}},
                                           {"type": "null"}], "default": None},
                       "picture": {"type": "string", "contentEncoding": "base64"}},
                       "required": ["count"]})
        lines = self.walk("application")
        self.assertEqual(lines[:2], ["is missing", "files data.txt is missing: show needs it"])
        out = eval(lines[2]).split("\n")
        self.assertEqual(out[:2], ["moo", "5"])
        self.assertEqual(json.loads(out[2]), {
            "count": 3, "word": "it's $(id)", "flag": True, "how": "b", "list": [1, 2.5],
            "picture": ".inputs/picture", "words": None})

    def test_the_list(self) -> None:
        waits = self.run_spec(name="waits", script="#!/bin/sh\nsleep 600\n")
        self.addCleanup(self.psik, "cancel", waits, status=None)
        failed = self.run_spec("--wait", name="fails", script="#!/bin/sh\nno-such-command\n",
                               status=127)
        self.assertEqual(self.walk("listing", waits, failed), ["psik", "/?state=failed", "200"])

    def test_ten_thousand_jobs(self) -> None:
        begun = int(time.time()) - 20000
        for number in range(10000):
            folder = os.path.join(self.prefix, "local", "%d.000" % (begun + number))
            os.makedirs(folder)
            for name, text in (("spec.json", '{"name": "job-%d", "script": "true"}' % number),
                               ("status.csv", "%d.000,0,new,0\n" % (begun + number))):
                with open(os.path.join(folder, name), "w") as file:
                    file.write(text)
        server = Server(self, "--host", "127.0.0.1", "--port", "0", "--quiet")
        # However early one asks: a server that has just begun has not seen them all.
        self.assertEqual(server.ask("GET", "/v1/jobs/counts").json["new"], 10000)
        self.assertEqual(self.walk("many", url=server.where), ["50", "/?name=9999"])

    def test_an_array(self) -> None:
        script = "#!/bin/sh\necho task $task\ntest -e ok || case $task in 2|4) exit 3; esac\n"
        jobid = self.run_spec("--wait", script=script, array=5, status=3)
        self.write(os.path.relpath(self.job(jobid).at("work", "ok"), self.folder), "")
        self.assertEqual(self.walk("array", jobid), [
            "['2', '✗ failed', '2', 'exit 3']", "7"])

    def test_the_server_is_started_again(self) -> None:
        jobid = self.run_spec("--wait", script="true")
        server = Server(self, "--port", "0", "--quiet")
        walk = subprocess.Popen(self.argv("restart", server.where, jobid), stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, env=self.env)
        self.addCleanup(walk.kill)
        assert walk.stdout is not None
        self.assertEqual(walk.stdout.readline(), b"shown\n")
        server.stop()
        self.assertEqual(walk.stdout.readline(), b"lost\n")
        Server(self, "--port", str(server.port), "--quiet")
        self.run_spec("--wait", name="made-meanwhile", script="true")
        said, _ = walk.communicate(timeout=200)
        self.assertEqual(walk.returncode, 0, said.decode("utf-8", "replace"))

    def test_a_token(self) -> None:
        jobid = self.run_spec("--wait", script="#!/bin/sh\necho moo | tee out.txt\n")
        server = Server(self, "--port", "0", "--token")
        token = self.until(lambda: re.search("#token=[0-9a-f]+", server.said())).group(0)
        lines = self.walk("token", token, jobid, url=server.where.partition("#")[0])
        self.assertEqual(lines[:4], ["/", "moo", "True", "True"])
        self.assertIn("open the", lines[4])

    def test_inputs_and_tasks_of_a_csv(self) -> None:
        lines = self.walk("inputs", self.run_spec("--wait", script="false", status=1))
        self.assertEqual(json.loads(lines[0]), [{"temp": "300", "word": 'a, "b"'},
                                                {"temp": "310", "word": "c"}])
        self.assertEqual(lines[1], "True")
        self.do_as_shown(eval(lines[2]))
        job = self.job(lines[3])
        self.assertEqual(job.spec().environment, {"A": "1=2", " B": "x"})
        self.assertEqual(job.spec().setup, ["true", "echo set up >&2"])
        self.assertTrue(os.path.exists(job.at("work", "sub", "deep", "c.txt")))

    def do_as_shown(self, lines: str) -> None:
        """Run what the form shows for the command line: psik.py's part, and curl's."""
        for name in ("data.txt", "sub/deep/c.txt", "d.txt", "it's.txt"):
            path = os.path.join(self.folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                file.write(name)
        ours, _, curls = lines.partition("\nEND\n")
        for text in (ours.replace("psik.py", '"$@"') + "\nEND\n", curls):
            before = {summary.jobid for summary in psik.list_jobs(self.config())}
            subprocess.run(["sh", "-ec", text, "sh", sys.executable, PSIK], cwd=self.folder,
                           env=self.env, check=True, stdout=subprocess.DEVNULL)
            new, = {summary.jobid for summary in psik.list_jobs(self.config())} - before
            work = self.job(new).at("work")
            self.assertEqual(sorted(os.listdir(work)), ["d.txt", "data.txt", "it's.txt", "sub"])
            self.psik("wait", new, status=None)

    def test_a_log_that_changes(self) -> None:
        script = "#!/bin/sh\n" + "\n".join((
            "await() { until test -e go$1; do sleep 0.1; done; }",
            r"printf 'begin \303'; await 1; printf '\251\n'; await 2",
            ": >../log/stdout.$jobndx", "echo anew; await 3")) + "\n"
        self.assertEqual(self.walk("changing_log", self.run_spec(script=script)), ["4"])

    def test_a_log_that_grows(self) -> None:
        line = "\u65e5\u672c\u8a9e\u00e9 of a log" * 9
        script = ("#!/bin/sh\ni=0\nwhile test $i -lt 70\ndo i=$((i + 1)); yes \"$i %s\" "
                  "| head -c 50003; sleep 0.3\ndone\n" % line)
        self.assertEqual(self.walk("growing_log", self.run_spec(script=script)), ["True", "True"])

    def test_a_tab_that_is_not_seen(self) -> None:
        self.assertEqual(self.walk("hidden"), ["['events'] 1"])

    def test_a_job_that_may_not_be_seen_any_more(self) -> None:
        jobid = self.run_spec(script="sleep 600")
        self.addCleanup(self.psik, "cancel", jobid, status=None)
        self.assertEqual(self.walk("refused", jobid), ["True"])

    def test_a_form_that_is_sent_twice(self) -> None:
        jobid, = self.walk("twice")
        self.assertEqual([job.jobid for job in psik.list_jobs(self.config())], [jobid])

    def test_choosing_several(self) -> None:
        jobs = [self.run_spec("--wait", script="true") for _ in range(2)]
        self.assertEqual(self.walk("choosing", *jobs), [])
        self.assertEqual(psik.list_jobs(self.config()), [])

    def test_a_copy_is_the_job_again(self) -> None:
        self.configure(backends={"a": {"type": "local"}, "b": {"type": "local"}})
        specs: List[Dict[str, Any]] = [
            {"resources": {"memory_per_process": "100M", "duration": 7}, "after": [],
             "setup": ["cat >/dev/null <<E", "", "E"], "environment": {"A": "x\ry", "B": "1=2\n"},
             "attributes": {"--x": "y"}},
            {"setup": ["[ -e / ] && true", "export B=1"], "environment": {"{x": "1"},
             "array": [{"x": "1"}, {"x": "a b"}], "join_output": True, "name": "two"}]
        jobs = [self.run_spec("--backend", "b", "--no-submit", script="true\n", **spec)
                for spec in specs]
        lines = self.walk("copies", *jobs)
        for jobid, copy in zip(jobs, lines):
            specs = [psik.to_json(self.job(each).spec()) for each in (jobid, copy)]
            for spec in specs:
                self.assertTrue(spec.pop("directory"))
            self.assertEqual(specs[0], specs[1])
            self.assertEqual(self.job(copy).backend, "b")
        spec = self.job(lines[2]).spec()
        self.assertEqual((spec.resources.memory_per_process, spec.resources.duration), (None, 3))
        self.assertEqual(spec.environment, {"DEBUG": ""})

    def test_uploads_that_break(self) -> None:
        jobid, size = self.run_spec("--wait", script="true"), 2 ** 24 + 7
        self.assertEqual(self.walk("uploads", jobid), [str(["", *(
            "bytes %d-%d/%d" % (first, last, size) for first, last in (
                (0, 2 ** 23 - 1), (2 ** 24, size - 1), (2 ** 23, 2 ** 24 - 1)))])])
        work = self.job(jobid).at("work")
        self.assertEqual(sorted(os.listdir(work)), ["large.bin", "other.bin", "sub"])
        self.assertEqual(os.listdir(os.path.join(work, "sub", "deep")), ["c.txt"])
        for name in ("large.bin", "other.bin"):
            with open(os.path.join(work, name), "rb") as file:
                self.assertEqual(file.read(), b"0123456789abcdef" * 2 ** 20 + b"its end")

    def test_sharing(self) -> None:
        self.assertEqual(self.walk("sharing", self.run_spec("--wait", script="true")), ["bob"])

    def test_files(self) -> None:
        jobid = self.run_spec("--wait", script="#!/bin/sh\nmkdir sub\n")
        self.assertEqual(self.walk("files", jobid), ["True"])
        self.assertEqual(os.listdir(self.job(jobid).at("work")), ["sub"])
        self.assertEqual(os.listdir(self.job(jobid).at("work", "sub")), ["c"])

    def test_the_focus_stays(self) -> None:
        jobs = [self.run_spec(script="#!/bin/sh\nsleep 600", name=name) for name in ("two", "one")]
        self.addCleanup(self.psik, "cancel", *jobs, status=None)
        for jobid in jobs:
            self.until_last(jobid, "1 active")
        self.assertEqual(self.walk("focus", *reversed(jobs)), ["two", "\u25cf active"])

    def test_a_search_in_a_log(self) -> None:
        jobid = self.run_spec("--wait", script="#!/bin/sh\necho '\u0130 Error (1)'; seq 2000\n")
        self.assertEqual(self.walk("searching", jobid), ["Error (1)"])

    def test_the_keyboard_alone(self) -> None:
        self.assertEqual(self.walk("keyboard", self.run_spec("--wait", script="true")), ["True"])

    def test_the_tour_of_the_readme(self) -> None:
        with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
            text = file.read().split("\nA tour:\n")[1].split("\n\n")[0]
        self.assertEqual(self.walk("tour", text), ["API"])

    def test_hostile_names(self) -> None:
        evil = "<img src=x onerror=alert(1)>"
        jobid = self.run_spec("--wait", name=evil, script="#!/bin/sh\necho '%s'\n>'%s'\n" % (
            evil, evil.replace("/", "")))
        self.assertEqual(self.walk("hostile", jobid), ["0 0 0"] * 8)

    def test_the_overview(self) -> None:
        self.configure_pond()
        self.write("site/pond/queues", "#!@shell@\necho batch up 4 2 64 32 120\n")
        self.run_spec("--wait", script="true")
        self.run_spec("--wait", script="#!/bin/sh\nno-such-command\n", status=127)
        self.run_spec("--wait", script="#!/bin/sh\necho constructor >&2; exit 1\n", status=1)
        self.assertEqual(self.walk("overview"), ["3 3", "pond", "True"])

    def test_the_routes(self) -> None:
        self.assertEqual(self.walk("api"), [str(len(psik.ROUTES))])


class Files(unittest.TestCase):
    """The sources of the page."""

    def test_it_stays_small_and_plain(self) -> None:
        files = {name: text for name, text in psik.TEMPLATES.items() if name.startswith("page/")}
        self.assertLess(sum(len(text.encode()) for text in files.values()), 88000)
        for name, text in files.items():
            self.assertIsNone(re.search(
                r"innerHTML|outerHTML|insertAdjacentHTML|eval\(|document\.write", text), name)
            self.assertIsNone(re.search(r"(href|src)=\"(/|https?:)|\sstyle=", text), name)
