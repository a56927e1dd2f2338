"""Applications over the REST API: who may use which, what is sent to them, other sites' tokens."""
import base64
import hashlib
import http.server
import io
import json
import os
import re
import signal
import subprocess
import tarfile
import threading
import time
import unittest
import zipfile
from typing import Any, Dict, List, Optional, Tuple
from unittest import mock

import psik
from harness import DEPS, ROOT, Case, needs, processes_with
from serving import Answer, Server

GATEWAY = os.path.join(DEPS, "gateway", "bin", "python")
A_FILE = {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/png"}


def form(*parts: Tuple[str, str, bytes]) -> Tuple[bytes, Dict[str, str]]:
    """(body, headers) of a form of (field, file name, content)."""
    body = b""
    for name, filename, content in parts:
        ending = '; filename="%s"' % filename if filename else ""
        body += ('--cut\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n'
                 % (name, ending)).encode() + content + b"\r\n"
    return body + b"--cut--\r\n", {"Content_Type": "multipart/form-data; boundary=cut"}


def zipped(files: Dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred(files: Dict[str, bytes]) -> bytes:
    """A .tar.gz."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


class Received(http.server.BaseHTTPRequestHandler):
    """Takes callbacks."""
    got: List[Tuple[Any, bytes]] = []

    def do_POST(self) -> None:
        self.got.append((self.headers, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


class Gateway(Case):
    """A server for ada, who is of the staff, bob and root, with applications; no scripts."""
    settings: Dict[str, Any] = {}

    def setUp(self) -> None:
        super().setUp()
        self.offer("show", script='#!/bin/sh\ncat "$file"\necho "[$word]"\n', needs=["data.txt"],
                   inputs={"properties": {"file": {"type": "string", "default": "data.txt"},
                                          "word": {"type": "string"}}})
        self.offer("plain", script='#!/bin/sh\nwc -c <"$image"\necho "$count"\n',
                   inputs={"properties": {"image": A_FILE, "count": {"type": "integer"}},
                           "required": ["count"]})
        self.offer("staff", roles=["staff", "boss"])
        self.offer("score", interactive=True, of="show",
                   script='#!/bin/sh\necho "w=$weight"; ls; echo loud >&2; exit 3\n',
                   inputs={"properties": {"weight": {"type": "number"}}, "required": ["weight"]})
        self.prepare()
        self.begin()

    def prepare(self) -> None:
        """Make what the config names."""

    def begin(self, **settings: Any) -> None:
        """Start the server with this config."""
        if hasattr(self, "server"):
            self.server.stop()
        self.configure(**dict({
            "applications": "apps", "authz": "owner", "submit": "applications", "admins": ["root"],
            "users": {"ada": {"roles": ["staff"]}, "bob": {}}, **self.settings}, **settings))
        self.server = Server(self, "--uds", "s.sock")
        self.tokens: Dict[str, str] = {}

    def ask(self, who: str, method: str, path: str, body: Any = None, status: int = 200,
            **headers: str) -> Answer:
        """A request of a user, or of who shows a token."""
        if who not in self.tokens and "." not in who:
            self.tokens[who] = self.psik("token", "--user", who).out.strip()
        answer = self.server.ask(method, "/v1" + path, body,
                                 Authorization="Bearer " + self.tokens.get(who, who), **headers)
        self.assertEqual(answer.status, status, answer)
        return answer

    def use(self, who: str, name: str, body: Any = None, status: int = 200, query: str = "",
            **headers: str) -> Any:
        """What an application answers."""
        return self.ask(who, "POST", "/applications/%s?wait=30%s" % (name, query), body, status,
                        **headers).json

    def shown(self, who: str = "ada") -> str:
        """A job of the application `show`, completed."""
        body, headers = form(("files", "data.txt", b"moo\n"))
        answer = self.use(who, "show", body, **headers)
        self.assertEqual(answer["state"], "completed", answer)
        return str(answer["jobid"])

    def out(self, jobid: str, who: str = "ada") -> str:
        return str(self.ask(who, "GET", "/jobs/%s/logs" % jobid).json["stdout.1"])

    def jobs(self) -> List[str]:
        """What lies in the folder of the jobs."""
        return [path for path in psik.paths_in(os.path.join(self.prefix, "local"))
                if os.path.basename(path)[0] != "."]


class Users(Gateway):
    def test_applications_and_nothing_else(self) -> None:
        script = {"script": "#!/bin/sh\nid\n"}
        for path in ("/jobs", "/jobs/new"):
            answer = self.ask("ada", "POST", path, script, 403)
            self.assertIn("run applications here, and nothing else", answer.text)
        own = str(self.ask("root", "POST", "/jobs/new", script).json)   # an admin may
        self.ask("root", "PUT", "/jobs/%s/access" % own, {"ada": ["POST"]})
        self.ask("ada", "POST", "/jobs/%s/start" % own, status=403)
        jobid = self.shown()
        for method, path, body in (("PUT", "files/x", b"x"), ("POST", "files/x", b"x"),
                                   ("DELETE", "files/data.txt", None),
                                   ("PUT", "archive", bytes(1024))):
            self.ask("ada", method, "/jobs/%s/%s" % (jobid, path), body, 403)
            self.ask("root", method, "/jobs/%s/%s" % (jobid, path), body)
        body, headers = form(("files", "y", b"y"))
        self.ask("ada", "POST", "/jobs/%s/files" % jobid, body, 403, **headers)
        self.ask("ada", "GET", "/jobs/%s/files/y" % jobid, status=404)
        self.ask("root", "PUT", "/jobs/%s/files/data.txt" % jobid, b"x")
        self.ask("ada", "POST", "/jobs/%s/start" % jobid)
        self.ask("bob", "GET", "/jobs/%s" % jobid, status=404)
        self.ask("dora", "GET", "/applications", status=403)
        local = self.server.ask("GET", "/v1/applications")
        self.assertEqual(local.status, 401)

    def test_roles(self) -> None:
        def names(who: str) -> List[str]:
            return [each["name"] for each in self.ask(who, "GET", "/applications").json]

        self.assertEqual(names("ada"), ["plain", "score", "show", "staff"])
        self.assertEqual(names("bob"), ["plain", "score", "show"])
        self.assertEqual(names("root"), names("ada"))
        self.ask("bob", "GET", "/applications/staff", status=403)
        answer = self.ask("bob", "POST", "/applications/staff", {}, 403)
        self.assertIn("it is for the roles staff, boss", answer.text)
        jobid = self.use("ada", "staff", {})["jobid"]
        self.ask("ada", "PUT", "/jobs/%s/access" % jobid, {"bob": ["POST"]})
        self.ask("bob", "POST", "/jobs/%s/start" % jobid, status=403)
        self.ask("ada", "GET", "/applications/nothing", status=404)

    def test_tokens_for_applications(self) -> None:
        jobid, other = self.shown(), self.use("ada", "plain", {"count": 1})["jobid"]
        token = self.psik("token", "--user", "ada", "--apps", "show").out.strip()
        self.assertEqual([job["jobid"] for job in self.ask(token, "GET", "/jobs").json], [jobid])
        self.assertEqual([app["name"] for app in self.ask(token, "GET", "/applications").json],
                         ["show"])
        for path in ("/jobs/" + other, "/jobs/%s/logs" % other):
            self.ask(token, "GET", path, status=404)
        self.ask(token, "POST", "/applications/plain", {"count": 1}, 403)
        self.ask(token, "POST", "/jobs/%s/applications/score" % jobid, {"weight": 1}, 403)
        self.ask(token, "POST", "/jobs/%s/start" % jobid)
        again = self.ask(token, "GET", "/token").text     # no wider
        self.ask(again, "POST", "/applications/plain", {"count": 1}, 403)
        self.psik("token", "--user", "ada", "--apps", "nothing", status=2)
        self.begin(submit="scripts")
        self.ask("ada", "PUT", "/jobs/%s/files/x" % jobid, b"x")
        token = self.psik("token", "--user", "ada", "--apps", "show").out.strip()
        self.ask(token, "POST", "/jobs", {"script": "#!/bin/sh\nid\n"}, 403)
        self.ask("ada", "POST", "/jobs/new", {"script": "#!/bin/sh\nid\n"})
        self.ask("ada", "PUT", "/jobs/%s/files/x" % jobid, b"x")

    def test_what_others_see(self) -> None:
        jobid = self.shown()
        spec = self.ask("ada", "GET", "/jobs/%s/spec" % jobid).json
        self.assertEqual((spec["application"], spec["inputs"]), ("show", {"file": "data.txt"}))
        self.ask("ada", "PUT", "/jobs/%s/access" % jobid, {"bob": ["GET"]})
        spec = self.ask("bob", "GET", "/jobs/%s/spec" % jobid).json
        self.assertEqual((spec["inputs"], spec["environment"]), ({}, {}))
        status = self.ask("bob", "GET", "/jobs/%s/status" % jobid).json
        self.assertEqual((status["spec"], status["callbacks"]), (spec, []))
        self.ask("ada", "POST", "/jobs/%s/applications/score" % jobid, {"weight": 1})
        image = base64.b64encode(b"secret").decode()
        other = self.use("ada", "plain", {"count": 1, "image": image})["jobid"]
        self.ask("ada", "PUT", "/jobs/%s/access" % other, {"bob": ["GET"]})
        for who, status, all_names in (("ada", 200, True), ("bob", 404, False)):
            self.ask(who, "GET", "/jobs/%s/logs/applications" % jobid, status=status)
            logs = self.ask(who, "GET", "/jobs/%s/logs?all=true" % jobid).json
            self.assertEqual("applications" in logs, all_names)
            archive = self.ask(who, "GET", "/jobs/%s/archive" % other).body
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                self.assertEqual(any(".inputs/image" in name for name in tar.getnames()), all_names)
            for path in ("files/.inputs/image", "archive?path=.inputs"):
                self.ask(who, "GET", "/jobs/%s/%s" % (other, path),
                         status=200 if all_names else 403)
        text = self.psik("status", jobid).out
        self.assertIn("app show", re.sub(" +", " ", text))
        self.assertIn('file = "data.txt"', text)

    def test_who_may_use_applications_says_nothing_of_a_jobs_state(self) -> None:
        self.offer("slow", script="#!/bin/sh\nsleep 60\n")
        self.begin()
        jobid = self.ask("ada", "POST", "/applications/slow", {}).json
        self.ask("ada", "POST", "/jobs/callback", {"jobid": jobid, "jobndx": 1, "info": 0,
                                                   "state": "completed"}, 403)
        self.ask("ada", "POST", "/jobs/%s/cancel" % jobid)
        self.server.stop()
        self.server = Server(self, "--uds", "s.sock")

    def test_backends_with_users_of_their_own(self) -> None:
        self.offer("both", backend=["one", "two"], pick="round")
        local = {"type": "local"}
        self.begin(users={}, backends={
            "one": {"backend": local, "users": ["bob"]},
            "two": {"backend": local, "users": ["ada", "bob"]}})
        for who, wanted in (("ada", ["two"] * 3), ("bob", ["one", "two", "one"])):
            jobs = [self.use(who, "both", {})["jobid"] for _ in range(3)]
            self.assertEqual([self.job(jobid).backend for jobid in jobs], wanted)

    def test_a_server_of_ones_own_has_no_use_for_it(self) -> None:
        for setting in ({"submit": "applications"}, {"issuers": {"x": {
                "key": self.folder + "/k", "prefix": "x:"}}}):
            self.configure(**setting)
            self.assertIn('set "authz": "owner"', self.psik("serve", "--uds", "t", status=2).err)

    def test_a_config_that_is_read_again(self) -> None:
        self.offer("later")
        self.ask("ada", "GET", "/applications/later", status=404)
        self.write("apps/show.json", "{")
        self.server.process.send_signal(signal.SIGHUP)
        self.until(lambda: self.server.ask(
            "GET", "/v1/applications/later", Authorization="Bearer " + self.tokens["ada"]
        ).status == 200)
        self.ask("ada", "GET", "/applications/show", status=404)
        self.use("ada", "plain", {"count": 1})
        self.assertIn("apps/show.json:1:2: not JSON", self.server.said())
        os.mkfifo(os.path.join(self.folder, "apps", "fifo.json"))
        self.server.process.send_signal(signal.SIGHUP)
        self.until(lambda: "fifo.json: is no plain file" in self.server.said())
        self.use("ada", "plain", {"count": 1})


class Sent(Gateway):
    """What may be sent to an application."""

    def test_a_form(self) -> None:
        body, headers = form(("word", "", "ä $(id)".encode()), ("files", "data.txt", b"moo\n"),
                             ("files", "", b""))
        jobid = self.use("ada", "show", body, **headers)["jobid"]
        self.assertEqual(self.out(jobid), "moo\n[ä $(id)]\n")
        image = bytes(range(256)) * 1000
        body, headers = form(("count", "", b"7"), ("image", "", b""), ("image", "me.png", image))
        jobid = self.use("ada", "plain", body, **headers)["jobid"]
        self.assertEqual(self.out(jobid), "256000\n7\n")
        value = base64.b64encode(image).decode()
        jobid = self.use("ada", "plain", {"count": 7, "image": value})["jobid"]
        self.assertEqual(self.out(jobid), "256000\n7\n")

    def test_a_form_of_many_values(self) -> None:
        self.offer("numbers", inputs={"properties": {
            "list": {"type": "array", "items": {"type": "number"}}}})
        self.begin()
        body, headers = form(*[("list", "", b'{"a": [%s0]}' % (b"{}," * 30000))] * 9)
        answer = self.ask("ada", "POST", "/applications/numbers", body, 422, **headers)
        self.assertIn("the inputs are too long", answer.text)

    def test_as_many_parts_as_there_may_be(self) -> None:
        jobid = self.shown()
        parts = [("files", "f%d" % (number % 3), b"x") for number in range(psik.MAX_PARTS)]
        for more, status in ((0, 200), (1, 413)):
            body, headers = form(*parts + parts[:more])
            self.ask("root", "POST", "/jobs/%s/files" % jobid, body, status, **headers)

    def test_who_may_not_write_leaves_nothing(self) -> None:
        jobid, noted = self.shown(), os.path.join(self.prefix, "local", ".uploads")
        before = psik.paths_in(noted)
        self.ask("ada", "PUT", "/jobs/%s/archive" % jobid, bytes(1024), 403)
        self.assertEqual(psik.paths_in(noted), before)

    def test_archives(self) -> None:
        files = {"data.txt": b"packed\n", "sub/more": b"x"}
        for media, data in (("application/zip", zipped(files)), ("application/gzip", tarred(files)),
                            ("application/x-tar", tarred(files))):
            jobid = self.use("ada", "show", data, query="&word=w", Content_Type=media)["jobid"]
            self.assertEqual(self.out(jobid), "packed\n[w]\n")
            names = self.ask("ada", "GET", "/jobs/%s/files" % jobid).json
            self.assertEqual(sorted(names), ["data.txt", "sub"])
        body, headers = form(("upload", "all.zip", zipped(files)), ("word", "", b"v"))
        self.assertEqual(self.out(self.use("ada", "show", body, **headers)["jobid"]),
                         "packed\n[v]\n")
        self.ask("root", "PUT", "/jobs/%s/archive?path=sub" % jobid, zipped({"z/y": b"y"}))
        self.ask("ada", "GET", "/jobs/%s/files/sub/z/y" % jobid)

    def test_archives_that_do_harm(self) -> None:
        null, odd = zipfile.ZipInfo("null"), zipfile.ZipInfo("data.txt")
        null.external_attr = 0o120777 << 16
        nulls = io.BytesIO()
        with zipfile.ZipFile(nulls, "w") as archive:
            archive.writestr("data.txt", "x")
            archive.writestr(null, "b\0c")
        self.use("ada", "show", nulls.getvalue(), Content_Type="application/zip")
        end = bytearray(zipped({"data.txt": b"x"}))
        end[-6:-2] = (int.from_bytes(end[-6:-2], "little") + 1000).to_bytes(4, "little")
        far = io.BytesIO()
        with zipfile.ZipFile(far, "w") as archive:
            archive.writestr(odd, "x")
            archive.infolist()[0].header_offset = 2 ** 62
        for data in (bytes(end), far.getvalue()):
            self.ask("ada", "POST", "/applications/show", data, 422,
                     Content_Type="application/zip")
        link = zipfile.ZipInfo("out")
        link.external_attr = 0o120777 << 16
        linked = io.BytesIO()
        with zipfile.ZipFile(linked, "w") as archive:
            archive.writestr("data.txt", "x")
            archive.writestr(link, "/etc")
        jobid = self.use("ada", "show", linked.getvalue(), Content_Type="application/zip")["jobid"]
        self.assertEqual(list(self.ask("ada", "GET", "/jobs/%s/files" % jobid).json), ["data.txt"])
        whole = zipped({"data.txt": os.urandom(5000)})
        bomb = zipped({"data.txt": bytes(90 * 10 ** 6)})
        many = bytearray(zipped({"%060d" % number: b"" for number in range(45000)}))
        for data, said in (
                (whole[:-30], "no whole zip archive"), (whole[:2000], "no whole zip archive"),
                (whole.replace(b"data.txt", b"data.tx\xff", 1), "no whole zip"),
                (bytes([*whole[:60], whole[60] ^ 1, *whole[61:]]), "no whole zip archive"),
                (zipped({"data.txt": b"x" * 999}, zipfile.ZIP_LZMA), "by a method"),
                (b"PK", "no whole zip archive"), (bytes(many), "it lists too many files"),
                (tarred({"data.txt": b"x" * 5000})[:60], "no whole tar archive"),
                (b"hello", "no whole tar archive"), (zipped({"a": b"x"}), "data.txt is missing")):
            with self.subTest(said):
                answer = self.ask("ada", "POST", "/applications/show", data, 422,
                                  Content_Type="application/zip")
                self.assertIn(said, answer.text)
        for name in ("../x", "a/../../x"):
            for data in (zipped({name: b"x"}), tarred({name: b"x"})):
                self.ask("ada", "POST", "/applications/show", data, 403,
                         Content_Type="application/zip")
        self.begin(max_upload_mb=50)
        self.ask("ada", "POST", "/applications/show", bomb, 422, Content_Type="application/zip")
        self.assertEqual(len(self.jobs()), 2)     # nothing is left of the others
        self.assertLess(self.server.rss_mb(), 100)
        self.assertNotIn("Traceback", self.server.said())

    def test_every_fault_at_once(self) -> None:
        answer = self.ask("ada", "POST", "/applications/plain",
                          {"count": "x", "image": "?", "extra": 1}, 422)
        self.assertEqual([(fault["loc"], fault["msg"]) for fault in answer.json["detail"]], [
            (["body", "count"], "'x' is not of type integer"),
            (["body", "image"], "'?' is not base64; on the command line NAME=@FILE takes a file"),
            (["body"], "'extra' is no input")])
        for body in ([], {}, b"", b'{"\\ud800": 1}', b'{"count": 1e999}', b"{",
                     {"count": 1, "image": "\0"}, b'{"count": 1, "count": 2}',
                     {"count": [[[]]] * 3}):
            self.ask("ada", "POST", "/applications/plain", body, 422,
                     Content_Type="application/json")
        self.ask("ada", "POST", "/applications/plain", b"x", 415, Content_Type="text/plain")
        self.ask("ada", "POST", "/applications/plain?wait=soon", {"count": 1}, 422)
        self.ask("root", "POST", "/jobs?wait=soon", {"script": "true"}, 422)
        body, headers = form(("count", "", b"1"), ("files", "x", b"x"))
        self.assertIn("takes no files", self.ask("ada", "POST", "/applications/plain", body, 422,
                                                 **headers).text)
        self.offer("any", needs=[], script="#!/bin/sh\nls\n")
        self.begin()
        body, headers = form(("files", "x y", b"x"))
        self.ask("ada", "POST", "/applications/any", body, **headers)
        self.psik("rm", "--app", "any", "--force", "last")
        body, headers = form(("files", "../data.txt", b"x"))
        self.ask("ada", "POST", "/applications/show", body, 403, **headers)
        self.offer("list", inputs={"properties": {"l": {"type": "array"}}})
        self.begin()
        body, headers = form(("l", "", b"[abc"), ("l", "", b"x"))
        self.ask("ada", "POST", "/applications/list", body, 422, **headers)
        self.ask("ada", "POST", "/applications/list", b'{"l": [' + b"[]," * 300000 + b"1]}", 413,
                 Content_Type="application/json")
        many = b'{"count": [' + b"[]," * 90000 + b"1]}"
        self.ask("ada", "POST", "/applications/plain", many, 413, Content_Type="application/json")
        self.ask("ada", "POST", "/applications/list", None)     # no body: no inputs
        body, headers = form(("count", "", b"1"), ("image", "a", b"a"), ("image", "b", b"b"))
        self.assertIn("given twice", self.ask("ada", "POST", "/applications/plain", body, 422,
                                              **headers).text)
        self.psik("rm", "--app", "list", "--force", "last")
        body, headers = form(("word", "", b"x" * 100000))
        self.ask("ada", "POST", "/applications/show", body, 413, **headers)
        self.ask("ada", "POST", "/applications/score", {"weight": 1}, 409)
        self.assertEqual(self.jobs(), [])

    def test_the_same_key_gives_the_same_job(self) -> None:
        first = self.ask("ada", "POST", "/applications/plain", {"count": 1}, Idempotency_Key="k")
        again = self.ask("ada", "POST", "/applications/plain", {"count": 1}, Idempotency_Key="k")
        self.assertEqual(first.json, again.json)
        self.assertEqual(first.headers["location"], "../jobs/" + first.json)
        self.ask("ada", "POST", "/applications/plain", {"count": 2}, 409, Idempotency_Key="k")
        body, headers = form(("files", "data.txt", b"x"))
        for _ in range(2):
            jobid = self.ask("ada", "POST", "/applications/show", body, Idempotency_Key="f",
                             **headers).json
        self.assertEqual(len(self.jobs()), 2)
        self.assertEqual(self.ask("ada", "GET", "/jobs/%s/files" % jobid).json.keys(), {"data.txt"})
        body, headers = form(("files", "data.txt", b"y"))
        self.ask("ada", "POST", "/applications/show", body, 409, Idempotency_Key="f", **headers)

    def test_the_same_key_on_backends_in_turn(self) -> None:
        self.offer("round", backend=["a", "b"], pick="round")
        local = {"backend": {"type": "local"}}
        self.begin(backends={"a": local, "b": local})
        found = {self.ask("ada", "POST", "/applications/round", {}, Idempotency_Key="k").json
                 for _ in range(3)}
        self.assertEqual(len(found), 1)

    def test_what_a_killed_server_leaves_is_swept(self) -> None:
        head = ("POST /v1/applications/show HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n"
                "Authorization: Bearer %s\r\nContent-Type: multipart/form-data; boundary=cut\r\n"
                "\r\n" % self.psik("token", "--user", "ada").out.strip())
        body = form(("files", "big", b"x" * 100))[0][:-12]
        import socket
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(os.path.join(self.folder, "s.sock"))
            sock.sendall(head.encode() + body)
            self.until(lambda: any(os.path.isdir(path + "/incoming") and os.listdir(
                path + "/incoming") for path in self.jobs()))
            self.server.process.kill()
            self.server.process.wait()
        left = self.jobs()
        self.assertEqual(len(left), 1)
        self.assertEqual(psik.sweep(self.config()), [])
        os.utime(left[0], (time.time() - 4000,) * 2)
        self.assertEqual(psik.sweep(self.config()), left)

    def test_callbacks(self) -> None:
        receiver = http.server.HTTPServer(("127.0.0.1", 0), Received)
        self.addCleanup(receiver.server_close)
        self.addCleanup(receiver.shutdown)
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        url, got = "http://127.0.0.1:%d/" % receiver.server_address[1], Received.got
        headers = {"X_Psik_Callback": url, "X_Psik_Callback_Secret": "s3cret"}
        answer = self.ask("ada", "POST", "/applications/plain", {"count": 1}, 403, **headers)
        self.assertIn("not allowed", answer.text)
        self.begin(application_callbacks=True)
        jobid = self.use("ada", "plain", {"count": 1}, **headers)["jobid"]
        self.until(lambda: len(got) == 3)
        self.assertEqual([json.loads(body.decode())["state"] for _, body in got],
                         ["queued", "active", "completed"])
        for sent, body in got:
            psik.verify_signature(body, "s3cret", sent["x-hub-signature-256"])
        self.assertEqual(self.ask("ada", "GET", "/jobs/%s/spec" % jobid).json["callback"], url)
        self.ask("ada", "POST", "/applications/plain", {"count": 1}, 422,
                 X_Psik_Callback="ftp://x")
        self.ask("ada", "POST", "/applications/plain", {"count": 1}, 400,
                 X_Psik_Callback_Secret="x")

    def test_each_is_an_operation_of_its_own(self) -> None:
        document = self.ask("bob", "GET", "/openapi.json").json
        self.assertEqual([path for path in document["paths"] if "applications" in path][:2],
                         ["/v1/applications/plain", "/v1/applications/show"])
        operation = document["paths"]["/v1/applications/plain"]["post"]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        self.assertEqual(schema["required"], ["count"])
        self.assertFalse(schema["additionalProperties"])
        hers = self.ask("ada", "GET", "/openapi.json").json
        self.assertIn("/v1/applications/staff", hers["paths"])
        nobody = self.server.ask("GET", "/v1/openapi.json").json
        self.assertNotIn("/v1/applications/show", nobody["paths"])


class Interactive(Gateway):
    def call(self, jobid: str, body: Any, status: int = 200, name: str = "score",
             who: str = "ada") -> Any:
        return self.ask(who, "POST", "/jobs/%s/applications/%s" % (jobid, name), body, status).json

    def test_an_answer_at_once(self) -> None:
        jobid = self.shown()
        self.assertEqual(self.call(jobid, {"weight": 0.5}), {
            "exit_status": 3, "stdout": "w=0.5\ndata.txt\n", "stderr": "loud\n"})
        notes = psik.read_text(self.job(jobid).at("log", "applications"))
        note = json.loads(notes)
        self.assertEqual((note["user"], note["application"], note["exit_status"], note["inputs"]),
                         ("ada", "score", 3, '{"weight": 0.5}'))
        self.assertNotIn("applications", self.ask("ada", "GET", "/jobs/%s/logs" % jobid).json)
        self.assertEqual([name for name in os.listdir(self.job(jobid).path) if "run" in name], [])
        for body, status in (({}, 422), ({"weight": "x"}, 422), ([], 422)):
            self.call(jobid, body, status)
        self.call(jobid, {"weight": 1}, 404, who="bob")
        self.call(jobid, {"count": 1}, 409, name="plain")
        self.call(jobid, {}, 404, name="nothing")
        other = self.use("ada", "plain", {"count": 1})["jobid"]
        self.assertIn("is for jobs of show", str(self.call(other, {"weight": 1}, 409)))
        self.offer("score", interactive=True, of="show", needs=["result"])
        self.offer("fails", script="#!/bin/sh\nexit 1\n")
        self.begin()
        self.assertIn("result", str(self.call(jobid, {}, 409)))
        failed = self.use("ada", "fails", {})["jobid"]
        self.offer("score", interactive=True)
        self.begin()
        self.assertIn("has not completed", str(self.call(failed, {}, 409)))
        work = self.job(jobid).at("work")
        os.rename(work, work + "-gone")
        self.assertIn("is gone", str(self.call(jobid, {"weight": 1}, 409)))

    def test_set_up_files_and_variables(self) -> None:
        self.offer("tool", interactive=True, setup=["export made='a b' # here", "cd ."],
                   script='#!/bin/sh\necho "$made $jobid $0"; cat "$image"; pwd; env | sort\n',
                   inputs={"properties": {"image": A_FILE, "x": {"type": "string"}}})
        self.begin()
        jobid = self.shown()
        image = base64.b64encode(b"picture\n").decode()
        out = self.call(jobid, {"image": image, "x": "$(touch owned)"}, name="tool")["stdout"]
        self.assertTrue(out.startswith("a b " + jobid), out)
        self.assertIn("picture\n%s/local/%s/work\n" % (self.prefix, jobid), out)
        self.assertIn("\nx=$(touch owned)\n", out)
        self.assertEqual(os.listdir(self.job(jobid).at("work")), ["data.txt"])
        self.offer("tool", interactive=True, setup=["false"])
        self.begin()
        self.assertEqual(self.call(jobid, {}, name="tool")["exit_status"], 1)

    def run_here(self, script: str, longest_s: float = 30, **app: Any) -> Dict[str, Any]:
        """Run a script as an interactive application, in this process."""
        self.offer("here", interactive=True, script=script, **app)
        job, app_here = self.job(self.shown()), psik.Applications(self.config()).find("here")
        with mock.patch.object(psik.InteractiveRun, "LONGEST_S", longest_s):
            call = psik.InteractiveRun(job, app_here, psik.SH)
            with call.folder() as folder:
                inputs = psik.Inputs(app_here, psik.ConfinedFolder(folder))
                answer: Dict[str, Any] = call.run(inputs, folder, "ada")
        return answer

    def test_what_does_not_end(self) -> None:
        begun = time.monotonic()
        mark = "sleep 4%s" % os.getpid()
        stubborn = "#!/bin/sh\ntrap '' TERM INT HUP\n%s &\necho a\n%s\n" % (mark, mark)
        answer = self.run_here(stubborn, 1)
        self.assertEqual((answer["exit_status"], answer["stdout"]), (137, "a\n"))
        self.assertIn("ended: it took longer than 1 s", answer["stderr"])
        self.assertLess(time.monotonic() - begun, 20)
        self.assertEqual(processes_with(mark), [])
        answer = self.run_here("#!/bin/sh\n%s &\necho left\n" % mark, 20)   # a child stays behind
        self.assertEqual(answer, {"exit_status": 0, "stdout": "left\n", "stderr": ""})
        self.gone(mark)
        answer = self.run_here("#!/bin/sh\nexec >&- 2>&-\nexec %s\n" % mark, 1)
        self.assertEqual(answer["exit_status"], 137)

    def test_what_prints_without_end(self) -> None:
        for script in ("yes", "yes >&2", "yes & yes >&2"):
            answer = self.run_here("#!/bin/sh\n%s\n" % script)
            self.assertEqual(answer["exit_status"], 137)
            self.assertLess(len(answer["stdout"]) + len(answer["stderr"]), 2 ** 20 + 100)
            self.assertIn("it printed more than 1048576 bytes", answer["stderr"])
        self.assertEqual(processes_with("yes \n"), [])

    def test_a_server_that_is_killed(self) -> None:
        mark = "sleep 7%s" % os.getpid()
        self.offer("slow", interactive=True, script="#!/bin/sh\n%s\n" % mark)
        self.begin()
        jobid = self.shown()
        with mock.patch.object(psik.InteractiveRun, "LONGEST_S", -3):   # timeout(1) waits 5 s more
            call = psik.InteractiveRun(self.job(jobid), psik.Applications(self.config()).find(
                "slow"), psik.SH)
            with call.folder() as folder:
                argv = call.command(folder)
                child = subprocess.Popen(argv, start_new_session=True)  # nobody watches it
                self.assertEqual(child.wait(30), -9)
        self.gone(mark)
        left = self.job(jobid).at(".run-old")
        os.mkdir(left)
        os.utime(left, (0, 0))
        self.call(jobid, {"weight": 1})
        self.assertFalse(os.path.exists(left))

    def test_memory(self) -> None:
        answer = self.run_here("#!/usr/bin/env python3\nbytearray(10 ** 9)\n",
                               resources={"memory_per_process": "300M"})
        self.assertIn("MemoryError", answer["stderr"])
        answer = self.run_here("#!/usr/bin/env python3\nprint(len(bytearray(10 ** 8)))\n")
        self.assertEqual(answer["stdout"], "100000000\n")

    def test_only_a_few_at_a_time(self) -> None:
        self.offer("slow", interactive=True, script="#!/bin/sh\nsleep 3\n")
        self.begin()
        jobid, statuses = self.shown(), []  # type: str, List[int]

        def call() -> None:
            statuses.append(self.server.ask(
                "POST", "/v1/jobs/%s/applications/slow" % jobid, {},
                Authorization="Bearer " + self.tokens["ada"]).status)

        threads = [threading.Thread(target=call) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(sorted(statuses), [200] * 2 + [503] * 4)  # of one user
        self.assertEqual(self.call(jobid, {}, name="slow")["exit_status"], 0)


def openssl(folder: str, *argv: str, data: bytes = b"") -> bytes:
    """What openssl prints."""
    return subprocess.run(("openssl",) + argv, cwd=folder, input=data, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, check=True).stdout


class Issued(Gateway):
    """Tokens of another web application."""
    settings = {"issuers": {
        "https://portal": {"key": "portal.pub", "prefix": "portal:", "audience": "psik"},
        "https://other": {"key": "other.pub", "prefix": "other:", "longest_life_s": 7200}}}

    def prepare(self) -> None:
        for name, bits in (("portal", "2048"), ("other", "3072"), ("small", "1024")):
            openssl(self.folder, "genrsa", "-out", name + ".pem", bits)
            openssl(self.folder, "rsa", "-in", name + ".pem", "-pubout", "-out", name + ".pub")

    def token(self, key: str = "portal", head: Optional[Dict[str, Any]] = None,
              digest: str = "sha256", raw: str = "", **claims: Any) -> str:
        """A token that openssl signs; a claim that is None is left out."""
        claims = dict({"iss": "https://portal", "sub": "ada", "aud": "psik",
                       "exp": int(time.time()) + 600, "roles": ["staff"]}, **claims)
        header = dict({"alg": "RS256", "typ": "JWT"}, **(head or {}))
        parts = [json.dumps(header), raw or json.dumps(
            {name: value for name, value in claims.items() if value is not None})]
        text = ".".join(psik.encode_base64(part.encode()) for part in parts)
        mark = openssl(self.folder, "dgst", "-" + digest, "-sign", key + ".pem", data=text.encode())
        return text + "." + psik.encode_base64(mark)

    def test_a_user_of_a_portal(self) -> None:
        token = self.token()
        names = [app["name"] for app in self.ask(token, "GET", "/applications").json]
        self.assertIn("staff", names)
        jobid = self.use(token, "staff", {})["jobid"]
        self.assertEqual(self.ask(token, "GET", "/jobs/%s/access" % jobid).json["owner"],
                         "portal:ada")
        self.assertEqual(len(self.ask(self.token(), "GET", "/jobs").json), 1)
        for other in ("ada", self.token(sub="bob"),
                      self.token("other", iss="https://other", aud=None)):
            self.assertEqual(self.ask(other, "GET", "/jobs").json, [])
        self.ask(token, "POST", "/jobs", {"script": "#!/bin/sh\nid\n"}, 403)
        self.ask(token, "GET", "/token", status=403)
        plain = self.token(roles=None)
        self.ask(plain, "POST", "/applications/staff", {}, 403)
        self.use(plain, "plain", {"count": 1})
        self.ask(self.token(sub="root", roles=["admin", "boss"]), "GET", "/jobs/" + jobid,
                 status=404)
        self.ask(token, "POST", "/jobs/%s/start" % jobid)
        self.begin(submit="scripts", users="*")  # which lets certificates in, and not the portal
        self.ask(token, "POST", "/jobs", {"script": "#!/bin/sh\nid\n"}, 403)
        self.ask(token, "PUT", "/jobs/%s/files/x" % jobid, b"x", 403)
        self.ask(token, "POST", "/applications/plain", {"count": 1}, 403, X_Psik_Callback="http://x")
        self.begin(submit="scripts", users=["portal:ada"])
        self.ask(token, "POST", "/jobs/new", {"script": "#!/bin/sh\nid\n"})

    def test_what_is_no_token_of_the_portals(self) -> None:
        good, now = self.token(), time.time()
        head, body, mark = good.split(".")
        other = self.token("other")
        long_mark = psik.encode_base64(b"\0" + psik.decode_base64(mark))
        bent = bytearray(psik.decode_base64(mark))
        bent[7] ^= 1
        hs = psik.encode_base64(json.dumps({"alg": "HS256", "typ": "JWT"}).encode()) + "." + body
        import hmac
        with open(os.path.join(self.folder, "portal.pub"), "rb") as file:
            public = file.read()
        confused = psik.encode_base64(hmac.new(public, hs.encode(), hashlib.sha256).digest())
        none = psik.encode_base64(b'{"alg": "none"}')
        twice = '{"iss": "https://portal", "sub": "ada", "sub": "eve", "aud": "psik", "exp": %d}'
        for name, token in (
                ("the other's key", other), ("no signature", "%s.%s." % (head, body)),
                ("none", "%s.%s." % (none, body)),
                ("none, signed", "%s.%s.%s" % (none, body, mark)),
                ("HS256 with the public key", hs + "." + confused),
                ("a longer signature", "%s.%s.%s" % (head, body, long_mark)),
                ("a bent signature", "%s.%s.%s" % (head, body, psik.encode_base64(bytes(bent)))),
                ("another body", "%s.%s.%s" % (head, self.token(sub="eve").split(".")[1], mark)),
                ("not canonical", good[:-1] + chr(ord(good[-1]) + 1)),
                ("SHA-512", self.token(digest="sha512")),
                ("RS512", self.token(head={"alg": "RS512"}, digest="sha512")),
                ("PS256", self.token(head={"alg": "PS256"})),
                ("crit", self.token(head={"crit": ["exp"]})),
                ("expired", self.token(exp=int(now) - 100)), ("no exp", self.token(exp=None)),
                ("exp is a text", self.token(exp="9999999999")),
                ("exp is true", self.token(exp=True)),
                ("for ever", self.token(exp=int(now) + 10 ** 6)),
                ("infinite", self.token(raw='{"iss": "https://portal", "sub": "a", "aud": "psik", '
                                        '"exp": 1e999}')),
                ("not yet", self.token(nbf=int(now) + 1000)),
                ("no audience", self.token(aud=None)), ("another", self.token(aud="other")),
                ("among others", self.token(aud=["a", "b"])), ("odd", self.token(aud=5)),
                ("no user", self.token(sub=None)), ("empty", self.token(sub="")),
                ("a number", self.token(sub=5)), ("control", self.token(sub="a\nb")),
                ("roles", self.token(roles="staff")), ("roles of numbers", self.token(roles=[1])),
                ("given twice", self.token(raw=twice % (now + 60))),
                ("a list", self.token(raw="[]")), ("cut", self.token(raw='{"iss": "https://portal"')),
                ("unknown issuer", self.token(iss="https://evil")),
                ("the other's issuer", self.token(iss="https://other", aud=None)),
                ("an audience where none is", self.token("other", iss="https://other")),
                ("longer than there", self.token("other", iss="https://other", aud=None,
                                                 exp=int(now) + 9000))):
            with self.subTest(name):
                self.ask(token, "GET", "/applications", status=401)
        for token in (good, self.token(aud=["x", "psik"]), self.token(
                head={"kid": "../../etc/passwd", "jku": "http://127.0.0.1:1/", "x5u": "x",
                      "jwk": {"kty": "RSA", "n": "AQAB", "e": "AQ"}})):
            self.ask(token, "GET", "/applications")
        self.ask(self.token(jti="t1"), "GET", "/applications")
        self.psik("token", "--revoke", "t1")
        self.ask(self.token(jti="t1"), "GET", "/applications", status=401)
        said = self.server.said()
        for why in ("its algorithm is 'PS256', and must be RS256", "it has no 'exp'",
                    "its audience is 'other', and the config's is 'psik'",
                    "demands an extension: ['exp']",
                    "a token names the issuer 'https://evil', which is not in the config"):
            self.assertIn(why, said)
        self.assertNotIn("Traceback", said)

    def test_keys(self) -> None:
        openssl(self.folder, "rsa", "-in", "portal.pem", "-RSAPublicKey_out", "-out", "pkcs1.pub")
        openssl(self.folder, "genpkey", "-algorithm", "EC", "-pkeyopt",
                "ec_paramgen_curve:P-256", "-out", "ec.pem")
        openssl(self.folder, "pkey", "-in", "ec.pem", "-pubout", "-out", "ec.pub")
        openssl(self.folder, "genpkey", "-algorithm", "RSA-PSS", "-pkeyopt",
                "rsa_keygen_bits:2048", "-out", "pss.pem")
        openssl(self.folder, "pkey", "-in", "pss.pem", "-pubout", "-out", "pss.pub")
        openssl(self.folder, "req", "-x509", "-key", "portal.pem", "-subj", "/CN=x", "-out", "crt")
        public = psik.read_text(os.path.join(self.folder, "portal.pub"))
        for name, text in (("twice", public * 2), ("empty", ""),
                           ("cut", public.replace("MII", "MIJ")),
                           ("tail", public.replace("AB\n", "ABAA\n"))):
            self.write(name, text)
        good = {"prefix": "p:"}
        for key in ("portal.pub", "pkcs1.pub"):
            self.configure(issuers={"x": dict(good, key=key)})
            self.assertEqual(psik.Issuers(self.config()).keys["x"].exponent, 65537)
        for key, said in (("small.pub", "it has 1024 bits, and must have 2048 to 8192"),
                          ("portal.pem", "it is the private key"),
                          ("ec.pub", "it is no key for RS256"),
                          ("pss.pub", "it is no key for RS256"),
                          ("crt", "CERTIFICATE is not taken"),
                          ("twice", "it is no PEM file with one key"), ("empty", "it is no PEM"),
                          ("cut", ""), ("tail", ""), ("nowhere", "cannot be read: No such file")):
            self.configure(issuers={"x": dict(good, key=key)}, authz="owner")
            ran = self.psik("serve", "--uds", "t.sock", status=2)
            self.assertIn("issuers.x.key: %s/%s: %s" % (self.folder, key, said), ran.err)
        for issuers, said in (
                ({"x": {"key": "portal.pub", "prefix": ""}}, "issuers.x.prefix: must set"),
                ({"x": {"key": "portal.pub", "prefix": "local:"}}, "issuers.x.prefix: must set"),
                ({"x": {"key": "portal.pub", "prefix": "a:"}, "y": {
                    "key": "other.pub", "prefix": "a:b:"}}, "issuers.y.prefix: must not begin"),
                ({"psik": {"key": "portal.pub", "prefix": "a:"}}, "issuers.psik: is the name"),
                ({"x": {"prefix": "a:"}}, "issuers.x.key: is missing")):
            self.configure(issuers=issuers)
            self.assertIn(said, self.psik("ls", status=2).err)
        self.configure(issuers={"x": {"key": "portal.pub", "prefix": "a:"}}, admins=["a:root"])
        self.assertIn("admins: 'a:root' is a user of an issuer", self.psik("ls", status=2).err)

    @needs("httpx and PyJWT", os.path.exists(GATEWAY))
    def test_a_portal(self) -> None:
        done = subprocess.run([GATEWAY, os.path.join(ROOT, "tests", "portal.py"),
                               os.path.join(self.folder, "s.sock"),
                               os.path.join(self.folder, "portal.pem")],
                              stdout=subprocess.PIPE, check=True)
        self.assertEqual(done.stdout.decode().split("\n"), [
            "plain score show staff", "data.txt", "422 ['body', 'count']",
            "new queued active completed", repr("moo\n[it's]\n"), "data.txt", "w=2", "data.txt",
            "", "403 403", ""])

    @needs("PyJWT and authlib", os.path.exists(GATEWAY))
    def test_tokens_of_libraries(self) -> None:
        script = (
            "import jwt, sys, time\nfrom authlib.jose import jwt as authlib\n"
            "key = open('portal.pem').read()\n"
            "claims = {'iss': 'https://portal', 'sub': 'ada', 'aud': 'psik', 'roles': ['staff'],\n"
            "          'exp': int(time.time()) + 60}\n"
            "print(jwt.encode(claims, key, 'RS256', headers={'kid': 'one'}))\n"
            "print(authlib.encode({'alg': 'RS256'}, claims, key).decode())\n")
        done = subprocess.run([GATEWAY, "-W", "ignore", "-c", script], cwd=self.folder,
                              stdout=subprocess.PIPE, check=True)
        tokens = done.stdout.decode().split()
        self.assertEqual(len(tokens), 2)
        for token in tokens:
            self.use(token, "staff", {})


class Readme(Gateway):
    """README's applications, made and used as it says."""

    def prepare(self) -> None:
        with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
            self.text = file.read()
        block = r"`apps/([a-z.]+)`[^`]*:\n\n```(?:json|sh)\n(.*?)```"
        found = re.findall(block, self.text, re.DOTALL)
        self.assertEqual([name for name, _ in found],
                         ["wc.json", "size.json", "size.sh", "rescore.json"])
        for name, text in found:
            self.write("apps/" + name, text)
        self.write("README.md", "one\ntwo\n")
        with zipfile.ZipFile(os.path.join(self.folder, "all.zip"), "w") as archive:
            archive.writestr("README.md", "x" * 5000)
        self.offer("dock", script="#!/bin/sh\nmkdir caprieval\n"
                   "printf 'a 1 2\\nb 3 4\\n' >caprieval/scores\n")

    def test_on_the_command_line(self) -> None:
        self.psik("run", "--app", "wc", "--wait", "--in", "README.md")
        self.assertEqual(self.psik("logs", "last").out, "2 README.md\n")
        line = re.findall(r"`psik.py (run --app size [^`]*)`", self.text)[0]
        jobid = self.psik(*line.split()).out.strip()
        self.psik("wait", jobid)
        self.assertRegex(self.psik("logs", jobid).out, r"^[0-9.]+K\t\.\n$")
        listed = self.psik("ls", "--app", "size", "-a").out.split("\n")[1]
        self.assertEqual(listed.split()[0], jobid)
        self.assertNotIn(jobid, self.psik("ls", "--app", "wc", "-a").out)
        for name in ("wc", "size", "rescore"):
            self.assertIn(name, self.psik("apps").out)

    def test_over_rest(self) -> None:
        lines = re.findall(r"^curl (.*\$URL/v1.*)$", self.text, re.MULTILINE)
        setting = self.text.split('{"applications": "apps/", ')[1].split("\n")[0]
        self.begin(**json.loads("{" + setting))
        dock = self.use("ada", "dock", {})["jobid"]
        self.assertEqual(len(lines), 3)
        answers = []
        for line in lines:
            command = "curl -s --unix-socket s.sock " + line.replace("JOBID", dock)
            done = subprocess.run(["sh", "-c", command], cwd=self.folder, check=True,
                                  stdout=subprocess.PIPE,
                                  env=dict(self.env, URL="http://localhost",
                                           TOKEN=self.tokens["ada"]))
            answers.append(json.loads(done.stdout.decode()))
        self.assertEqual([answer["state"] for answer in answers[:2]], ["completed"] * 2)
        self.assertRegex(self.out(answers[1]["jobid"]), r"^[0-9]{4,}\t\.\n$")
        self.assertEqual(answers[2], {
            "exit_status": 0, "stdout": "a 2.2\nb 4.6\n5\n", "stderr": ""})


class Vectors(unittest.TestCase):
    """The examples of RFC 7515, A.2, and RFC 7520, 4.1; and what has no other way to be seen."""
    RFC7515 = (
        "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0"
        "Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXnd"
        "S5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5Ihl"
        "JH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
        "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxl"
        "LmNvbS9pc19yb290Ijp0cnVlfQ",
        "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2"
        "Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjt"
        "QBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6"
        "IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw")
    RFC7520 = (
        "n4EPtAOCc9AlkeQHPzHStgAbgs7bTZLwUBZdR8_KuKPEHLd4rHVTeT-O-XV2jRojdNhxJWTDvNd7nqQ0VEiZQHz_A"
        "JmSCpMaJMRBSFKrKb2wqVwGU_NsYOYL-QtiWN2lbzcEe6XC0dApr5ydQLrHqkHHig3RBordaZ6Aj-oBHqFEHYpPe7"
        "Tpe-OfVfHd1E6cS6M1FZcD1NNLYD5lFHpPI9bTwJlsde3uhGqC0ZCuEHg8lhzwOHrtIQbS0FVbb9k3-tVTU4fg_3L"
        "_vniUFAKwuCLqKnS2BYwdq_mzSnbLY7h_qixoR7jig3__kRhuaxwUkRz5iaiQkqgc5gHdrNP5zw",
        "eyJhbGciOiJSUzI1NiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9.SXTigJlzIGEgZGFu"
        "Z2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZ"
        "CwgYW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG"
        "1pZ2h0IGJlIHN3ZXB0IG9mZiB0by4",
        "MRjdkly7_-oTPTS3AXP41iQIGKa80A0ZmTuV5MEaHoxnW2e5CZ5NlKtainoFmKZopdHM1O2U4mwzJdQx996ivp83x"
        "uglII7PNDi84wnB-BDkoBwA78185hX-Es4JIwmDLJK3lfWRa-XtL0RnltuYv746iYTh_qHRD68BNt1uSNCrUCTJDt"
        "5aAE6x8wW1Kt9eRo4QPocSadnHXFxnt8Is9UzpERV0ePPQdLuW3IS_de3xyIrDaLGdjluPxUAhb6L2aXic1U12pod"
        "GU0KLUQSE_oI-ZnmKJ3F4uOZDnd6QZWJushZ41Axf_fcIe8u9ipH84ogoree7vjbU5y18kDquDg")

    def test_those_of_the_standards(self) -> None:
        for modulus, text, mark in (self.RFC7515, self.RFC7520):
            number = int.from_bytes(psik.decode_base64(modulus), "big")
            key, signature = psik.RsaKey(number, 65537), psik.decode_base64(mark)
            self.assertTrue(key.has_signed(text.encode(), signature))
            self.assertFalse(key.has_signed(text.encode() + b"x", signature))
            larger = (int.from_bytes(signature, "big") + number).to_bytes(257, "big")
            for wrong in (b"", signature[:-1], b"\0" + signature, signature + b"\0", larger,
                          b"\0" * 256, b"\xff" * 256, (1).to_bytes(256, "big")):
                self.assertFalse(key.has_signed(text.encode(), wrong))

    def test_encodings_that_others_have_let_pass(self) -> None:
        """With exponent 3 whoever checks but the beginning of what is encoded can be deceived."""
        modulus, message = 2 ** 2048 - 1942289, b"m"
        key = psik.RsaKey(modulus, 3)
        digest = psik.SHA256_INFO + hashlib.sha256(message).digest()
        for prefix in (b"\0\1" + b"\xff" * 8 + b"\0" + digest, b"\0\1\0" + digest,
                       b"\0\1" + b"\xff" * 202 + b"\0" + digest[:-1]):
            wanted = int.from_bytes(prefix.ljust(256, b"\0"), "big")
            low, high = 0, 2 ** 700
            while low < high:   # the least whose cube is not below
                middle = (low + high) // 2
                low, high = (middle + 1, high) if middle ** 3 < wanted else (low, middle)
            self.assertFalse(key.has_signed(message, low.to_bytes(256, "big")))

    def test_der_that_is_not_as_der_wants_it(self) -> None:
        def item(tag: int, content: bytes) -> bytes:
            size = len(content)
            length = bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2, "big")
            return bytes([tag]) + length + content

        modulus, three = item(2, b"\0" + b"\xff" * 256), item(2, b"\3")
        self.assertEqual(psik.RsaKey.of_der(item(0x30, modulus + three)).exponent, 3)
        for data in (b"", b"\x30", b"\x30\x80", b"\x30\x84" + b"\xff" * 4,
                     item(0x31, modulus + three), item(0x30, modulus),
                     item(0x30, modulus + three) + b"\0",
                     item(0x30, modulus + three + b"\0"), item(0x30, modulus + item(2, b"\0\3")),
                     item(0x30, modulus + item(2, b"")), item(0x30, modulus + item(2, b"\x83")),
                     item(0x30, modulus + item(2, b"\1")), item(0x30, modulus + item(2, b"\4")),
                     item(0x30, modulus + item(2, b"\1\0\0\0\1")),
                     item(0x30, item(2, b"\0" + b"\xff" * 255 + b"\xfe") + three),
                     item(0x30, item(2, b"\xff" * 256) + three),
                     item(0x30, item(2, b"\0" + b"\xff" * 1025) + three),
                     b"\x30\x83\0\1\x06" + modulus + three):
            with self.assertRaises(ValueError):
                psik.RsaKey.of_der(data)
