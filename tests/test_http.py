"""The REST API over a UNIX socket and over TCP: every route, what is refused, and how."""
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import io
import threading
import time
import unittest
from typing import Any, Dict, List, Tuple

import psik
from harness import FAST, PSIK, Case, captured, kill, processes_with
from serving import Answer, Server

OK = b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\n"
JSON = POST + b"Content-Type: application/json\r\n"
BY_ADDRESS = b"GET /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\n"
PART = b'--xx\r\nContent-Disposition: form-data; name="files"; filename='
FORM = (PART + b'"a b%22.txt"\r\n\r\none\r\n'
        + PART + b'"sub/\xc3\xa9.bin"\r\nContent-Type: x/y\r\n\r\n\r\n--x\r\n--\r\n'
        + PART + b'"empty"\r\n\r\n\r\n--xx--\r\n')
NAMES = ["plain.txt", "with blank", "per%cent", "\u00fcml\u00e4ut", "deep/er/file",
         "-dash", "a;b&c", "empty"]
RAW: List[Tuple[bytes, int]] = [  # what is sent; the status of the first answer
    (OK + b"\r\n", 200),
    (b"GET /v1/jobs/ HTTP/1.0\r\n\r\n", 200),
    (b"\r\n" + OK + b"\r\n", 200),
    (b"GET http://localhost/v1/jobs HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
    (b"GET /v1/jobs HTTP/1.1\r\n\r\n", 400),
    (b"GET /v1/jobs HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
    (b"GET /v1/jobs\r\n\r\n", 400),
    (b"get /v1/jobs HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
    (OK + b"Host: localhost\r\n\r\n", 400),
    (OK + b"X: a\r\n folded\r\n\r\n", 400),
    (OK + b"X : a\r\n\r\n", 400),
    (OK + b"X: a\0b\r\n\r\n", 400),
    (OK + b"X: a\nY: b\r\n\r\n", 400),
    (OK + b"X: " + b"a" * 40000 + b"\r\n\r\n", 431),
    (OK + b"X: a\r\n" * 200 + b"\r\n", 431),
    (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
    (OK + b"Content-Length: -1\r\n\r\n", 400),
    (OK + b"Content-Length: +5\r\n\r\nabcde", 400),
    (OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", 400),
    (OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    (b"GET /v1/jobs/%ff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    (b"GET /v1/jobs/%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    (b"GET /v1/jobs?name=%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    (JSON + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    (JSON + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}x\r\n0\r\n\r\n", 400),
    (JSON + b"Content-Length: 9\r\n\r\n{}", 400),
    (JSON + b"Content-Length: 99999999\r\n\r\n", 413),
    (JSON + b"Content-Length: 2\r\n\r\n\xff\xfe", 400),
    (POST + b"Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}", 415),
    (POST + b"Content-Length: 2\r\n\r\n{}", 415),
    (POST + b"Content-Type: application/json; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
     b"2;ext=1\r\n{}\r\n0\r\nTrailer: x\r\n\r\n", 422),
    (b"GET /v1/jobs HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
    (b"GET /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1.evil.example\r\n\r\n", 403),
    (b"GET /v1/jobs HTTP/1.1\r\nHost: 127.evil.example:80\r\n\r\n", 403),
    (b"GET http://evil.example/v1/jobs HTTP/1.1\r\nHost: localhost\r\n\r\n", 403),
    (OK + b"X:" + b" " * 20000 + b"\x01\0\r\n\r\n", 400),
    (OK + b"X: a" + b" " * 20000 + b"b\r\n\r\n", 200),
    (OK + b"Expect: miracles\r\n\r\n", 417),
    (b"POST /v1/jobs HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (JSON.replace(b"/jobs", b"/jobs/callback") + b"Content-Length: 30002\r\n\r\n{\""
     + b"\\\"" * 15000, 422),
    (OK + b"Origin: http://evil.example\r\n\r\n", 403),
    (OK + b"Origin: null\r\n\r\n", 403),
    (BY_ADDRESS + b"Origin: http://127.0.0.1\r\n\r\n", 200),
    (OK + b"Sec-Fetch-Site: cross-site\r\n\r\n", 403),
    (OK + b"Sec-Fetch-Site: same-site\r\n\r\n", 403),
    (BY_ADDRESS + b"Sec-Fetch-Site: same-origin\r\n\r\n", 200),
]


def status_of(answer: bytes) -> int:
    """The status of the first answer in what came back."""
    return int((re.match(rb"HTTP/1\.1 (\d+) ", answer) or [0, 0])[1])


class Api(Case):
    """Over a UNIX socket."""
    argv: Tuple[str, ...] = ("--uds", "s.sock")

    def setUp(self) -> None:
        super().setUp()
        self.server = Server(self, *self.argv)

    def ask(self, method: str, path: str, body: Any = None, status: int = 200,
            **headers: str) -> Answer:
        """One request, whose status is checked."""
        answer = self.server.ask(method, "/v1/jobs" + path if not path.startswith("/v1") else path,
                                 body, **headers)
        self.assertEqual(answer.status, status, answer)
        return answer

    def new(self, path: str = "/new", **spec: Any) -> str:
        """Make a job; its id."""
        return str(self.ask("POST", path, spec).json)

    def ended(self, **spec: Any) -> str:
        """Make a job, let it run, and wait for its end; its id."""
        jobid = self.new("", **spec)
        self.server.wait_for(jobid)
        return jobid

    def test_a_job_is_made_filled_and_started(self) -> None:
        jobid = self.new("/new", script="#!/bin/sh\ncat data.txt; exit 3", name="first")
        base = "/" + jobid
        self.assertEqual(self.ask("GET", base + "/state").json, "new")
        self.ask("POST", base + "/files/data.txt", b"moo\n")
        self.assertIsNone(self.ask("POST", base + "/start/").json)
        self.assertEqual(self.server.wait_for(jobid), "failed")
        rows = self.ask("GET", base).json
        self.assertEqual([(row["jobid"], row["name"], row["jobndx"], row["state"]) for row in rows],
                         [(jobid, "first", 0, "new"), (jobid, "first", 1, "queued"),
                          (jobid, "first", 1, "active"), (jobid, "first", 1, "failed")])
        self.assertEqual(rows[-1]["info"], 3)
        self.assertEqual(self.ask("GET", base + "/logs/stdout.1").body, b"moo\n")

    def test_logs_and_scripts_as_texts(self) -> None:
        base = "/" + self.ended(script="#!/bin/sh\necho moo; echo err >&2")
        logs = self.ask("GET", base + "/logs").json
        self.assertEqual((logs["stdout.1"], logs["stderr.1"]), ("moo\n", "err\n"))
        self.assertIn("echo moo; echo err", self.ask("GET", base + "/scripts").json["run"])

    def test_a_spec_is_shown_without_its_secrets(self) -> None:
        jobid = self.new(script="true", cb_secret="hush", environment={"A": "b"})
        spec = self.ask("GET", "/%s/spec" % jobid)
        self.assertEqual((spec.json["cb_secret"], spec.json["environment"]), (None, {"A": "b"}))
        self.assertNotIn("hush", spec.text)

    def test_to_delete_what_has_ended_removes_it_with_purge_alone(self) -> None:
        base = "/" + self.ended(script="exit 3")
        self.assertIsNone(self.ask("DELETE", base).json)
        self.assertEqual(self.ask("GET", base + "/state").json, "failed")
        self.ask("DELETE", base + "?purge=true")
        self.ask("GET", base, status=404)

    def test_cancel_and_purge(self) -> None:
        jobid = self.new("", script="sleep 600")
        self.server.wait_for(jobid, "active")
        self.assertIn("cancel it first",
                      self.ask("DELETE", "/%s?purge=1" % jobid, status=409).json["detail"])
        self.ask("POST", "/%s/cancel" % jobid)
        self.assertEqual(self.server.wait_for(jobid), "canceled")

    def test_lists(self) -> None:
        made = [self.new(script="true", name="odd" if number % 2 else "even")
                for number in range(5)][::-1]

        def listed(query: str) -> List[str]:
            return [row["jobid"] for row in self.ask("GET", query).json]

        self.assertEqual(listed(""), made)
        self.assertEqual(listed("?index=3"), made[3:])
        self.assertEqual(listed("?name=odd&limit=1"), made[1:2])
        self.assertEqual(listed("?state=new&backend=local"), made)
        self.assertEqual(listed("?state=active"), [])
        self.assertEqual(set(self.ask("GET", "").json[0]),
                         {"jobid", "name", "updated", "jobndx", "state", "info"})

    def test_the_pages_of_a_list_are_linked(self) -> None:
        made = [self.new(script="true") for _ in range(5)][::-1]
        page = self.ask("GET", "?limit=2")
        self.assertEqual([row["jobid"] for row in page.json], made[:2])
        seen = list(page.json)
        while "link" in page.headers:
            path = re.fullmatch(r'<(.*)>; rel="next"', page.headers["link"])
            assert path is not None
            page = self.ask("GET", path.group(1))
            seen += page.json
        self.assertEqual([row["jobid"] for row in seen], made)

    def test_bad_input_is_said_with_its_place(self) -> None:
        spec = {"scirpt": 1, "resources": {"duration": "x"}}
        answer = self.ask("POST", "", spec, status=422).json["detail"]
        places = [["body", "scirpt"], ["body", "script"], ["body", "resources", "duration"]]
        self.assertEqual([each["loc"] for each in answer], places)
        self.assertEqual({key for each in answer for key in each}, {"loc", "msg", "type"})
        answer = self.ask("POST", "", "[1,", status=422,
                          Content_Type="application/json").json["detail"]
        self.assertEqual(answer[0]["loc"], ["body"])
        answer = self.ask("POST", "", {"script": "x", "backend": "nope"}, status=422).json["detail"]
        self.assertEqual(answer[0]["loc"], ["body", "backend"])

    def test_bad_queries_and_ids(self) -> None:
        for path, status in (("?limit=-1", 422), ("?limit=x", 422), ("?index=-1", 422),
                             ("?state=gone", 422), ("?backend=none", 404), ("/no-id", 400),
                             ("/1.2", 404), ("/1.2/state", 404), ("/..", 400)):
            self.assertIn("detail", self.ask("GET", path, status=status).json)
        for path in ("?backend=none", "/new?machine=none"):
            self.ask("POST", path, {"script": "x"}, status=404)

    def test_a_refusal_of_the_scheduler_comes_back(self) -> None:
        toy = os.path.join(self.folder, "site", "toy")
        os.makedirs(toy)
        for name, text in (("submit", "#!@shell@\necho no such queue >/dev/stderr\nexit 1\n"),
                           ("job", "#!@shell@\n"), ("cancel", "#!@shell@\n")):
            with open(os.path.join(toy, name), "w") as file:
                file.write(text)
        self.configure(templates=os.path.dirname(toy), backend={"type": "toy"})
        self.server.process.send_signal(signal.SIGHUP)
        self.until(lambda: "read again" in self.server.said())
        answer = self.ask("POST", "", {"script": "x"}, status=502)
        self.assertIn("no such queue", answer.json["detail"])
        self.assertEqual(self.ask("GET", "/%s/state" % answer.json["jobid"]).json, "failed")

    def test_a_job_that_can_never_run_is_named(self) -> None:
        first = self.ask("POST", "", {"script": "#!/bin/sh\nexit 5\n"}).json
        self.server.wait_for(first)
        answer = self.ask("POST", "", {"script": "true", "after": [first]}, status=409)
        self.assertIn("it was to run after %s" % first, answer.json["detail"])
        self.assertEqual(self.ask("GET", "/%s/state" % answer.json["jobid"]).json, "canceled")

    def test_idempotency(self) -> None:
        found: List[Answer] = []

        def send() -> None:
            found.append(self.server.ask("POST", "/v1/jobs", {"script": "true"},
                                         Idempotency_Key="k1"))

        threads = [threading.Thread(target=send) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual({(each.status, each.body) for each in found}, {(200, found[0].body)})
        self.assertEqual(len(self.ask("GET", "").json), 1)
        self.ask("POST", "", {"script": "false"}, status=409, Idempotency_Key="k1")
        new = {self.ask("POST", "/new", {"script": "true"}, Idempotency_Key="k2").json
               for _ in range(2)}
        self.assertEqual(len(new), 1)
        self.assertEqual(self.states(new.pop()), ["0 new"])
        self.assertNotEqual(self.new("", script="true"), found[0].json)

    def put_files(self) -> Tuple[str, str]:
        """A job with files in its work directory: (its id, the path of its files' route)."""
        jobid = self.new(script="true")
        files = "/%s/files" % jobid
        for name in NAMES:
            content = name.encode() if name != "empty" else b""
            self.ask("PUT", files + "/" + psik.encode_percent(name), content)
        return jobid, files

    def test_files_of_all_names_are_written_listed_and_read(self) -> None:
        _, files = self.put_files()
        for name in NAMES:
            answer = self.ask("GET", files + "/" + psik.encode_percent(name))
            content = name.encode() if name != "empty" else b""
            self.assertEqual((answer.body, answer.headers["content-type"]),
                             (content, "application/octet-stream"))
        self.assertEqual(sorted(self.ask("GET", files + "/").json),
                         sorted({name.split("/")[0] for name in NAMES}))
        self.assertEqual(self.ask("GET", files + "/deep/er").json["file"]["size"],
                         len("deep/er/file"))

    def test_the_files_of_a_form(self) -> None:
        jobid = self.new(script="true")
        files = "/%s/files" % jobid
        for kind in ("multipart/form-data; boundary=xx ; charset=utf-8",
                     'Multipart/Form-Data; boundary="xx"', "multipart/form-data;boundary=xx"):
            self.ask("POST", files, FORM, Content_Type=kind)
        with open(os.path.join(self.prefix, "local", jobid, "work", "a b\".txt")) as file:
            self.assertEqual(file.read(), "one")
        self.assertEqual(self.ask("GET", files + "/sub/%C3%A9.bin").body, b"\r\n--x\r\n--")
        self.assertEqual(self.ask("GET", files + "/empty").body, b"")

    def test_files_that_cannot_be_written_or_removed(self) -> None:
        jobid, files = self.put_files()
        self.ask("DELETE", files + "/plain.txt")
        for method, path, status in (("DELETE", "plain.txt", 404), ("DELETE", "deep", 409),
                                     ("PUT", "deep", 409), ("PUT", "deep/er/file/more", 409),
                                     ("PUT", "n" * 300, 409), ("GET", "n" * 300, 404)):
            self.ask(method, files + "/" + path, b"x" if method == "PUT" else None, status=status)
        left = os.listdir(os.path.join(self.prefix, "local", jobid, "work"))
        self.assertEqual([name for name in left if name.startswith(psik.UPLOAD_PREFIX)], [])

    def test_an_archive_of_all_files_and_of_some(self) -> None:
        jobid, _ = self.put_files()

        def names(query: str) -> List[str]:
            body = self.ask("GET", "/%s/archive%s" % (jobid, query)).body
            with tarfile.open(fileobj=io.BytesIO(body)) as archive:
                return [os.path.normpath(name) for name in archive.getnames()]

        self.assertIn(jobid + "/deep/er/file", names(""))
        self.assertEqual(names("?path=deep"), [jobid + "/er", jobid + "/er/file"])

    def test_nothing_leaves_the_directory(self) -> None:
        jobid = self.new(script="true")
        files, work = "/%s/files" % jobid, os.path.join(self.prefix, "local", jobid, "work")
        os.symlink("/etc/passwd", os.path.join(work, "link"))
        os.symlink("/etc", os.path.join(work, "etc"))
        os.symlink("../spec.json", os.path.join(work, "spec"))
        os.mkfifo(os.path.join(work, "fifo"))
        with open(os.path.join(work, "real"), "w") as file:
            file.write("inside")
        os.symlink("real", os.path.join(work, "inner"))
        self.assertEqual(self.ask("GET", files + "/inner").body, b"inside")
        for path in ("/link", "/etc/passwd", "/etc", "/spec", "/../spec.json", "/..%2fspec.json",
                     "/%2e%2e/spec.json", "/x/../../spec.json", "/fifo"):
            self.ask("GET", files + path, status=403)
        for path in ("/..%2f..%2fx", "/../scripts/run", "/etc/x"):
            self.ask("PUT", files + path, b"bad", status=403)
        self.ask("PUT", files + "/link", b"mine")
        self.assertFalse(os.path.islink(os.path.join(work, "link")))
        self.ask("GET", files + "//etc/passwd", status=403)
        form = FORM.replace(b"sub/\xc3\xa9.bin", b"../scripts/run")
        self.ask("POST", files, form, status=403, Content_Type="multipart/form-data; boundary=xx")
        self.assertNotIn("--x", self.ask("GET", "/%s/scripts" % jobid).json["run"])
        self.ask("GET", "/%s/logs/..%%2fspec.json" % jobid, status=404)
        self.ask("GET", "/%s/archive?path=../log" % jobid, status=403)
        self.ask("GET", "/%s/archive?path=etc" % jobid, status=403)

    def test_cut_uploads_show_nothing(self) -> None:
        jobid = self.new(script="true")
        head = "PUT /v1/jobs/%s/files/%%s HTTP/1.1\r\nHost: localhost\r\n" % jobid
        for name, rest in (("a", b"Content-Length: 1000\r\n\r\nabc"),
                           ("b", b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc"),
                           ("c", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")):
            self.assertIn(status_of(self.server.raw((head % name).encode() + rest)), (0, 400))
        cut = FORM[:FORM.index(b"empty")]
        self.ask("POST", "/%s/files" % jobid, cut, status=400,
                 Content_Type="multipart/form-data; boundary=xx")
        shown = self.ask("GET", "/%s/files" % jobid).json
        self.assertEqual(sorted(shown), ["a b\".txt", "sub"])  # what came whole
        work = os.path.join(self.prefix, "local", jobid, "work")
        parts = [name for name in os.listdir(work) if name not in shown]
        self.assertEqual(sorted(parts), sorted(psik.ConfinedFolder.part_name(name)
                                               for name in "abc"))

    def test_ranges_and_etags(self) -> None:
        jobid = self.new(script="true")
        url = "/%s/files/ten" % jobid
        self.ask("PUT", url, b"0123456789")
        for value, status, body in (("bytes=2-4", 206, b"234"), ("bytes=7-", 206, b"789"),
                                    ("bytes=-3", 206, b"789"), ("bytes=-99", 206, b"0123456789"),
                                    ("bytes=8-99", 206, b"89"), ("lines=1-2", 200, b"0123456789"),
                                    ("bytes=0-1,3-4", 200, b"0123456789"),
                                    ("bytes=-", 200, b"0123456789")):
            self.assertEqual(self.ask("GET", url, status=status, Range=value).body, body, value)
        for value in ("bytes=10-", "bytes=5-2", "bytes=-0"):
            answer = self.ask("GET", url, status=416, Range=value)
            self.assertEqual(answer.headers["content-range"], "bytes */10")
        etag = self.ask("GET", url).headers["etag"]
        self.assertEqual(self.ask("GET", url, status=304, If_None_Match=etag).body, b"")
        self.assertEqual(self.ask("GET", url, Range="bytes=0-1", If_Range='"other"').status, 200)
        head = self.ask("HEAD", url)
        self.assertEqual((head.body, head.headers["content-length"]), (b"", "10"))
        etag = self.ask("GET", "/%s/state" % jobid).headers["etag"]
        answer = self.ask("GET", "/%s/state" % jobid, status=304, If_None_Match=etag)
        self.assertEqual(answer.body, b"")

    def test_methods_that_a_route_has_not(self) -> None:
        for method, status in (("PATCH", 405), ("OPTIONS", 204)):
            self.assertEqual(self.ask(method, "", status=status).headers["allow"],
                             "GET, HEAD, OPTIONS, POST")
        self.ask("GET", "/v1/nothing", status=404)

    def test_the_page_and_the_health(self) -> None:
        self.assertIn("<title>psik</title>", self.ask("GET", "/v1").text)
        self.assertEqual(self.ask("GET", "/v1/health").json["status"], "ok")

    def test_backends(self) -> None:
        self.assertEqual(self.ask("GET", "/v1/backends").json["local"]["status"], "active")
        one = self.ask("GET", "/v1/backends/local").json
        among = self.ask("GET", "/v1/backends?name=local").json
        self.assertEqual(dict(one, updated_at=""), dict(among["local"], updated_at=""))
        self.ask("GET", "/v1/backends/none", status=404)

    def test_metrics(self) -> None:
        self.new(script="true")
        jobs, requests = ('psik_jobs{backend="local",state="new"} 1',
                          'psik_requests_total{method="POST",status="200"} 1')
        self.until(lambda: jobs in self.ask("GET", "/v1/metrics").text)
        self.assertIn(requests, self.ask("GET", "/v1/metrics").text)

    def test_what_is_not_http(self) -> None:
        for data, status in RAW:
            with self.subTest(data=data[:100]):
                answer = self.server.raw(data)
                self.assertEqual(status_of(answer), status, answer[:300])
                if status != 200:
                    self.assertIn(b"\r\n\r\n{\"detail\": ", answer)
        self.assertNotIn("Traceback", self.server.said())

    def test_a_broken_body_ends_the_connection(self) -> None:
        head = JSON.replace(b"/jobs", b"/jobs/new") + b"Transfer-Encoding: chunked\r\n\r\n"
        whole = b"e\r\n{\"script\":\"x\"}\r\n0\r\n"
        for rest in (whole + b"a: b\r\n" * 100, whole + b"x" * 1025 + b"\r\n",
                     whole + b"X: y\n", b"1\r\nXJUNK\r\n\r\n0\r\n\r\n", b"zz\r\n\r\n0\r\n\r\n",
                     b" 1\r\nx\r\n0\r\n\r\n", b"1;a\rb\r\nx\r\n0\r\n\r\n"):
            answers = re.findall(rb"HTTP/1\.1 (\d+)", self.server.raw(head + rest + OK + b"\r\n"))
            self.assertEqual(answers, [b"400"], rest[:50])

    def test_one_connection_takes_many_requests(self) -> None:
        jobid = self.new(script="true")
        connection = self.server.connection()
        for _ in range(20):
            self.assertEqual(self.server.ask("GET", "/v1/jobs/%s/state" % jobid,
                                             connection=connection).json, "new")
            self.assertEqual(self.server.ask("POST", "/v1/jobs/%s/start" % "1.1", b"ignored",
                                             connection=connection).status, 404)
        connection.close()
        pipelined = self.server.raw((OK + b"\r\n") * 3)
        self.assertEqual(len(re.findall(rb"HTTP/1.1 200", pipelined)), 3)

    def test_logs_are_followed(self) -> None:
        jobid = self.new("", script="#!/bin/sh\nfor n in 1 2 3; do echo line $n; sleep 0.4; done")
        text, offset, state = b"", 0, ""
        while state not in ("completed", "failed"):
            query = "offset=%d&wait=20" % offset
            answer = self.server.ask("GET", "/v1/jobs/%s/logs/stdout.1?%s" % (jobid, query))
            if answer.status == 404:  # nothing was written yet
                continue
            text += answer.body
            offset, state = int(answer.headers["x-psik-offset"]), answer.headers["x-psik-state"]
        self.assertEqual(text, b"line 1\nline 2\nline 3\n")
        self.assertEqual(self.ask("GET", "/%s/logs/stdout.1?tail=2" % jobid).body,
                         b"line 2\nline 3\n")
        self.assertEqual(self.ask("GET", "/%s/logs/stdout.1" % jobid, status=206,
                                  Range="bytes=0-3").body, b"line")
        self.ask("GET", "/%s/logs/stdout.9" % jobid, status=404)
        self.ask("GET", "/%s/logs/stdout.1?tail=1&offset=1" % jobid, status=422)

    def events(self, path: str, until: str, last: str = "") -> List[Dict[str, Any]]:
        """The events of a stream until one has this state, or it ends, or a minute is over."""
        connection = self.server.connection()
        connection.request("GET", path, headers={"Last-Event-ID": last} if last else {})
        answer, found = connection.getresponse(), []
        mark, deadline = "", time.monotonic() + 60
        while time.monotonic() < deadline:
            line = answer.readline().decode()
            if line.startswith("id: "):
                mark = line[4:].strip()
            if line.startswith("data: "):
                found.append(dict(json.loads(line[6:]), mark=mark))
                if found[-1]["state"] == until:
                    break
            if not line:
                break
        connection.close()
        return found

    def test_events(self) -> None:
        first: List[Dict[str, Any]] = []
        listener = threading.Thread(
            target=lambda: first.extend(self.events("/v1/events", "failed")))
        listener.start()
        self.until(lambda: self.server.handles() > 8)
        time.sleep(0.3)
        jobid = self.new("", script="sleep 0.5; exit 4")
        found = self.events("/v1/jobs/%s/events" % jobid, "never")
        self.assertEqual([(each["jobndx"], each["state"]) for each in found],
                         [(0, "new"), (1, "queued"), (1, "active"), (1, "failed")])
        rest = self.events("/v1/jobs/%s/events" % jobid, "never", found[1]["mark"])
        self.assertEqual([each["state"] for each in rest], ["active", "failed"])
        self.ask("GET", "/%s/events" % jobid, status=204, Last_Event_ID=found[-1]["mark"])
        listener.join(30)
        self.assertEqual([(each["jobid"], each["state"]) for each in first],
                         [(jobid, each["state"]) for each in found])
        again = self.events("/v1/events", "failed", first[1]["mark"])
        self.assertEqual([each["state"] for each in again], ["active", "failed"])

    def test_callbacks_come_in(self) -> None:
        jobid = self.new(script="true", client_secret="s3")
        body = json.dumps({"jobid": jobid, "jobndx": 1, "state": "active", "info": 7}).encode()
        good = psik.sign_message(body, "s3")
        for signature, status in ((None, 403), ("sha256=00", 403), (good, 200), (good, 200)):
            headers = {"X_Hub_Signature_256": signature} if signature else {}
            answer = self.ask("POST", "/callback", body, status=status,
                              Content_Type="application/json", **headers)
        self.assertEqual(answer.json, "OK")
        self.assertEqual(self.states(jobid), ["0 new", "1 active"])
        self.ask("POST", "/callback", {"jobid": "1.5", "jobndx": 1, "state": "active"}, status=404)
        self.ask("POST", "/callback", {"jobid": "x", "jobndx": 1, "state": "activ"}, status=422)

    def test_a_bug_is_a_500_with_an_id(self) -> None:
        api = psik.Api(self.config())

        def broken(handler: Any) -> Any:
            raise RuntimeError("oops")

        router = psik.Router([psik.Route("GET", "/broken", "open", broken, "null")])
        req = psik.Request("GET", "/broken", {}, psik.Body(psik.Wire(), 0))
        with captured() as (_, err):
            answer = router.dispatch(api, req, lambda req, route: psik.Caller("x"))
        self.assertEqual(answer.status, 500)
        mark = re.findall(r"error ([0-9a-f]{8})", answer.body.decode())[0]
        self.assertIn("error %s" % mark, err.getvalue())
        self.assertIn("oops", err.getvalue())


class Tcp(Api):
    """The same over loopback TCP."""
    argv = ("--host", "127.0.0.1", "--port", "0")


class Serving(Case):
    """How a server begins and ends."""

    def test_a_socket_is_ours_alone_and_goes_with_its_server(self) -> None:
        path = os.path.join(self.folder, "s.sock")
        server = Server(self, "--uds", path)
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        self.assertIn("a server listens on", self.psik("serve", "--uds", path, status=5).err)
        self.assertEqual(server.stop(), 0)
        self.assertFalse(os.path.exists(path))

    def test_a_socket_that_a_killed_server_left_is_taken(self) -> None:
        path = os.path.join(self.folder, "s.sock")
        server = Server(self, "--uds", path)
        server.process.kill()
        server.process.wait()
        self.assertTrue(os.path.exists(path))
        again = Server(self, "--uds", path)
        self.assertEqual(again.ask("GET", "/v1/jobs").json, [])
        self.assertEqual(again.stop(), 0)
        self.assertFalse(os.path.exists(path))

    def test_where_no_socket_can_be(self) -> None:
        self.write("plain", "")
        os.mkdir(os.path.join(self.folder, "open"))
        os.chmod(os.path.join(self.folder, "open"), 0o777)
        for path, said, status in (("plain", "no socket", 5), ("open/s", "others can write", 6),
                                   ("x" * 120, "107 bytes", 2)):
            self.assertIn(said, self.psik("serve", "--uds", path, status=status).err)

    def test_arguments(self) -> None:
        for argv, said in ((("--host", "0.0.0.0", "--port", "0"), "authz is local"),
                           (("--uds", "a", "--port", "1"), "give one"),
                           (("--port", "99999"), "65535"),
                           (("--host", "no.such.host.invalid"), "cannot listen"),
                           (("--tls-key", "x"), "--tls-cert"), (("--workers", "0"), "--workers"),
                           (("--tls-cert", "/nothing"), "cannot be used")):
            self.assertIn(said, self.psik("serve", *argv, status=2).err)
        self.assertEqual(json.loads(self.psik("serve", "--openapi").out)["openapi"], "3.1.0")

    def test_sigterm_finishes_what_is_in_hand(self) -> None:
        server = Server(self, "--uds", "s.sock")
        idle = server.connection()
        idle.connect()
        jobid = str(server.ask("POST", "/v1/jobs/new", {"script": "true"}).json)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(server.where)
            sock.sendall(b"PUT /v1/jobs/%s/files/late HTTP/1.1\r\nHost: localhost\r\n"
                         b"Content-Length: 6\r\n\r\nabc" % jobid.encode())
            time.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            sock.sendall(b"def")
            self.assertEqual(status_of(sock.recv(1000)), 200)
        self.assertEqual(server.process.wait(20), 0)
        with open(os.path.join(self.prefix, "local", jobid, "work", "late")) as file:
            self.assertEqual(file.read(), "abcdef")

    def test_sighup_and_a_config_that_does_not_hold(self) -> None:
        server = Server(self, "--uds", "s.sock")
        self.write("psik.json", "{")
        server.process.send_signal(signal.SIGHUP)
        self.until(lambda: "the old one stays" in server.said())
        self.assertEqual(server.ask("GET", "/v1/jobs").json, [])
        self.configure(backends={"here": {"type": "local"}})
        server.process.send_signal(signal.SIGHUP)
        self.until(lambda: "read again" in server.said())
        self.assertEqual(list(server.ask("GET", "/v1/backends").json), ["here"])

    def test_inetd_and_pipes(self) -> None:
        jobid = self.run_spec(script="true")
        request = ("GET /v1/jobs/%s/spec HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                   % jobid).encode()
        done = subprocess.run(FAST + ["serve", "--inetd"], input=request, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, env=self.env)
        self.assertEqual(status_of(done.stdout), 200)
        for mode in (0o600, 0o666):     # of the second psik.py warns
            os.chmod(self.configure(), mode)
            ours, theirs = socket.socketpair()
            with ours, theirs:
                child = subprocess.Popen(FAST + ["serve", "--inetd"], stdin=theirs, stdout=theirs,
                                         stderr=theirs, env=self.env)
                ours.sendall(request)
                ours.settimeout(20)
                answer = ours.recv(65536)
                self.assertEqual(status_of(answer), 200)
                self.assertNotIn(b"local:psik_api", answer)
                child.wait(20)

    def test_a_socket_that_is_handed_over(self) -> None:
        path = os.path.join(self.folder, "given.sock")
        code = ("import os, socket, sys\ns = socket.socket(socket.AF_UNIX)\n"
                "s.bind(%r); s.listen(5)\nos.dup2(s.fileno(), 3); os.set_inheritable(3, True)\n"
                "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n"
                "os.execv(sys.executable, %r + ['serve'])" % (path, FAST))
        server = Server(self, program=[sys.executable, "-c", code])
        self.assertEqual((server.where, server.ask("GET", "/v1/jobs").json), (path, []))

    def test_psik_apis_config_is_found(self) -> None:
        path = self.write("api.json", json.dumps({
            "authz": "local", "database_url": "sqlite://", "backends": {
                "one": {"prefix": self.prefix, "psik_path": PSIK, "backend": {"type": "local"}},
                "two": {"prefix": self.prefix, "backend": {"type": "at"}}}}))
        server = Server(self, "--uds", "s.sock", env={"PSIK_API_CONFIG": path})
        self.assertEqual(list(server.ask("GET", "/v1/backends").json), ["one", "two"])
        self.assertEqual(server.ask("GET", "/v1/jobs?backend=two").json, [])

    def test_slow_and_silent_clients_hold_nothing_up(self) -> None:
        server = Server(self, "--uds", "s.sock", "--workers", "8")
        sockets = []
        for number in range(30):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(server.where)
            sock.sendall(b"GET /v1" if number % 2 else b"")
            sockets.append(sock)
        for _ in range(10):
            self.assertEqual(server.ask("GET", "/v1/jobs").status, 200)
        # Accepting, the lobby, stopping, looking, polling, delivering; who makes room goes soon.
        own = 6
        self.until(lambda: len(os.listdir("/proc/%d/task" % server.process.pid)) <= 8 + own)
        begun = time.time()
        self.assertEqual(server.stop(), 0)
        self.assertLess(time.time() - begun, 20)
        for sock in sockets:
            sock.close()

    def test_silent_clients_take_no_threads(self) -> None:
        server = Server(self, "--uds", "s.sock")
        sockets = []
        for _ in range(150):
            sockets.append(socket.socket(socket.AF_UNIX))
            sockets[-1].connect(server.where)
        self.assertEqual(server.ask("GET", "/v1/jobs").status, 200)
        self.until(lambda: len(os.listdir("/proc/%d/task" % server.process.pid)) < 10)
        with sockets[7] as late:    # it waits there for as long as it likes, and is served
            late.sendall(OK + b"Connection: close\r\n\r\n")
            self.assertEqual(status_of(late.recv(1000)), 200)
        handles = server.handles()
        for sock in sockets:
            sock.close()
        self.until(lambda: server.handles() <= handles - 149)

    def test_more_uploads_than_workers(self) -> None:
        server = Server(self, "--uds", "s.sock", "--workers", "4")
        jobid = str(server.ask("POST", "/v1/jobs/new", {"script": "true"}).json)
        before, sockets = server.handles(), []
        for _ in range(8):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(server.where)
            try:
                sock.sendall(b"PUT /v1/jobs/%s/files/f HTTP/1.1\r\nHost: localhost\r\n"
                             b"Content-Length: 9\r\n\r\nabc" % jobid.encode())
            except OSError:  # it was told to come again later
                pass
            sockets.append(sock)
            time.sleep(0.1)
        answer = server.raw(OK + b"\r\n")
        self.assertEqual((status_of(answer), json.loads(answer.split(b"\r\n\r\n")[1].decode())),
                         (503, {"detail": "the limit of open connections is reached; try again "
                                          "soon"}))
        for sock in sockets:
            sock.close()
        self.until(lambda: server.handles() <= before + 2)
        self.assertEqual(server.ask("GET", "/v1/jobs").status, 200)

    def test_events_of_the_command_line_and_of_a_server_that_was_told_to_read_again(self) -> None:
        server = Server(self, "--uds", "s.sock")
        for _ in range(2):
            seen: List[str] = []

            def listen() -> None:
                answer, deadline = connection.getresponse(), time.monotonic() + 30
                while "completed" not in seen and time.monotonic() < deadline:
                    line = answer.readline().decode()
                    seen.extend([json.loads(line[6:])["state"]]
                                if line.startswith("data: ") else [])

            connection = server.connection()
            connection.request("GET", "/v1/events")
            listener = threading.Thread(target=listen)
            listener.start()
            time.sleep(1.5)  # it has looked by now
            self.run_spec(script="true")
            listener.join(30)
            connection.close()
            self.assertEqual(seen, ["new", "queued", "active", "completed"])
            server.process.send_signal(signal.SIGHUP)
            self.until(lambda: "read again" in server.said())

    def test_what_dies_is_found_out_without_being_asked(self) -> None:
        self.configure(poll_interval_s=1, poll_grace_s=1)
        server = Server(self, "--uds", "s.sock")
        nap = "sleep 600.%07d" % os.getpid()  # told from those of tests that run beside this one
        jobid = str(server.ask("POST", "/v1/jobs", {"script": "exec " + nap}).json)
        server.wait_for(jobid, "active")
        naps = self.until(lambda: processes_with(nap))
        os.kill(int(self.job(jobid).rows()[-1].info), signal.SIGKILL)
        kill(naps)
        self.assertEqual(server.wait_for(jobid, "failed"), "failed")


if __name__ == "__main__":
    unittest.main()
