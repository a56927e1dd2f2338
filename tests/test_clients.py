"""The REST API with clients that people have: generated ones, browsers, proxies, curl."""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import unittest
import urllib.parse
import urllib.request
from typing import Any, Callable, Dict, List, Set, Tuple

import psik
from harness import DEPS, ROOT, Case, needs
from serving import Answer, Server, free_port, start

PYTHON = os.path.join(DEPS, "clients", "bin")
NODE = os.path.join(DEPS, "node", "node_modules")
PROGRAMS = os.path.join(ROOT, "tests", "clients")
needs_python = needs("clients for Python, in .deps/clients (make test-deps)",
                     os.path.exists(os.path.join(DEPS, "clients", "done")))
needs_node = needs("node 20, and clients for it in .deps/node (make test-deps)",
                   shutil.which("node") and os.path.exists(os.path.join(DEPS, "node", "done")))
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin")
JSON = "application/json"
SECRET = "open sesame"
CHECKS = ("positive_data_acceptance,not_a_server_error,status_code_conformance,"
          "content_type_conformance,response_headers_conformance,response_schema_conformance")


def program(name: str) -> str:
    """The text of a file of clients/."""
    with open(os.path.join(PROGRAMS, name), encoding="utf-8") as file:
        return file.read()


class Client(Case):
    """A test with programs that ask a server."""

    def run_it(self, *argv: str, stdin: str = "", **env: str) -> str:
        """What a program prints; it has to succeed.  Its folder is the test's."""
        path = PYTHON + ":" + os.path.join(NODE, ".bin") + ":" + self.env["PATH"]
        done = subprocess.run(argv, input=stdin.encode(), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, cwd=self.folder, timeout=240,
                              env=dict(self.env, PATH=path, **env))
        said = done.stdout.decode("utf-8", "replace")
        self.assertEqual(done.returncode, 0, said[-6000:] + done.stderr.decode()[-6000:])
        return said

    def run_python(self, name: str, *argv: str, stdin: str = "") -> str:
        """What a program of clients/ prints."""
        return self.run_it(os.path.join(PYTHON, "python"), os.path.join(PROGRAMS, name), *argv,
                           stdin=stdin)

    def described(self, server: Server) -> Any:
        """openapi.json, which is written into the folder too."""
        text = server.ask("GET", "/v1/openapi.json").text
        self.write("openapi.json", text)
        return json.loads(text)


    def go_on_with_an_upload(self, server: Server, base: str, jobid: str) -> None:
        """Hang up in the middle of an upload, and let curl send the rest."""
        path, data = "/v1/jobs/%s/files/in/large" % jobid, os.urandom(3 * 10 ** 6)
        with open(os.path.join(self.folder, "whole"), "wb") as file:
            file.write(data)
        place = urllib.parse.urlsplit(base.rstrip("/") + path)
        with socket.create_connection((str(place.hostname), int(place.port or 0))) as sock:
            sock.sendall(("PUT %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n"
                          "Expect: 100-continue\r\n\r\n"
                          % (place.path, place.netloc, len(data))).encode())
            self.assertIn(b" 100 ", sock.recv(100))     # only now does it know who we are
            sock.sendall(data[:len(data) // 2])
        self.until(lambda: '"PUT %s"' % path in server.said(), "an upload that is known to be cut")
        head = server.ask("HEAD", path)
        self.assertEqual(head.status, 404)
        said = self.run_it("curl", "-sf", "-C", head.headers["upload-offset"], "-T", "whole",
                           place.geturl())
        self.assertEqual(said, "null\n")
        answer = server.ask("GET", path)
        self.assertTrue(answer.body == data)
        self.assertNotIn("upload-offset", answer.headers)


class Generated(Client):
    """What is made from openapi.json."""

    @needs_python
    def test_openapi_python_client(self) -> None:
        server = Server(self, "--port", "0")
        self.described(server)
        self.run_it("openapi-python-client", "generate", "--fail-on-warning",
                    "--path", "openapi.json", "--output-path", "client")
        self.assertEqual(self.run_python("session.py", "client", server.where.rstrip("/")),
                         program("session.py.said"))

    @needs_node
    def test_openapi_fetch(self) -> None:
        server = Server(self, "--port", "0")
        self.described(server)
        os.symlink(NODE, os.path.join(self.folder, "node_modules"))
        self.write("package.json", '{"type": "module"}')
        self.write("session.ts", program("session.ts"))
        self.run_it("openapi-typescript", "openapi.json", "-o", "api.d.ts")
        self.run_it("tsc", "--strict", "--target", "es2022", "--lib", "es2022,dom,dom.iterable",
                    "--module", "nodenext", "session.ts")
        self.assertEqual(self.run_it("node", "session.js", server.where),
                         program("session.ts.said"))

    @needs_node
    def test_redocly(self) -> None:
        self.described(Server(self, "--port", "0"))
        self.write("redocly.yaml", "extends: [recommended]\n")
        said = self.run_it("redocly", "lint", "--format=json", "openapi.json",
                           REDOCLY_TELEMETRY="off", REDOCLY_SUPPRESS_UPDATE_NOTICE="true")
        self.assertEqual(json.loads(said)["problems"], [], said)

    @needs_python
    def test_schemathesis_has_no_valid_question_refused(self) -> None:
        server = Server(self, "--port", "0")
        jobid = str(server.ask("POST", "/v1/jobs?wait=60", {"script": "echo moo"}).json["jobid"])
        server.ask("PUT", "/v1/jobs/%s/files/data" % jobid, b"moo")
        self.write("st.toml", program("st.toml").replace("JOBID", jobid))
        self.run_it("st", "--config-file", "st.toml", "run", server.where + "v1/openapi.json",
                    "--include-method", "GET", "--exclude-path-regex", "events$",
                    "--mode", "positive", "--checks", CHECKS,
                    "--phases", "examples,coverage,fuzzing", "--max-examples", "10",
                    "--request-timeout", "60", "--continue-on-failure", "--seed", "1")
        self.assertNotIn("Traceback", server.said())


def type_of(schema: Dict[str, Any]) -> str:
    """A schema as Python writes the type; the schemas with a name are in `models`."""
    if "$ref" in schema:
        return "models." + str(schema["$ref"]).rpartition("/")[2]
    if "additionalProperties" in schema:
        return "dict[str, %s]" % type_of(schema["additionalProperties"])
    if schema["type"] == "array":
        return "list[%s]" % type_of(schema["items"])
    names = {"string": "str", "null": "None", "object": "dict"}
    return names[str(schema["type"])]


def json_routes(document: Any) -> List[Tuple[str, str]]:
    """(method, path) of each route whose answer may be JSON."""
    return [(method, path) for path, methods in document["paths"].items()
            for method, operation in methods.items()
            if JSON in operation["responses"]["200"].get("content", {})]


class Models(Client):
    """Models of what is answered."""

    def ask_all(self, server: Server, document: Any) -> List[Tuple[str, str, Answer]]:
        """(method, path, answer) of every route whose answer is JSON."""
        spec = {"script": "cat data", "client_secret": SECRET}
        jobid = str(server.ask("POST", "/v1/jobs/new", spec).json)
        other = str(server.ask("POST", "/v1/jobs", {"script": "sleep 600"}).json)
        waiting = str(server.ask("POST", "/v1/jobs?backend=pond", spec).json)
        done = server.ask("POST", "/v1/jobs?wait=60", {"script": "true"}).json["jobid"]
        names = {"jobid": jobid, "name": "local"}
        told = json.dumps({"jobid": jobid, "jobndx": 1, "state": "active", "info": "7"}).encode()
        sign = {"X_Hub_Signature_256": psik.sign_message(told, SECRET), "Content_Type": JSON}
        form = (b'--cut\r\nContent-Disposition: form-data; name="files"; filename="data"\r\n\r\n'
                b"moo\r\n--cut--\r\n")
        token = server.ask("GET", "/v1/token").text
        gets: List[Any] = [("GET", path, None, {}) for method, path in json_routes(document)
                           if method == "get"]
        asks: List[Tuple[str, str, Any, Dict[str, Any]]] = [
            ("POST", "/v1/jobs/new", spec, {}), ("POST", "/v1/jobs", spec, {}),
            ("POST", "/v1/jobs?wait=60", spec, {}),
            ("POST", "/v1/jobs/{jobid}/files", form,
             {"Content_Type": "multipart/form-data; boundary=cut"}),
            ("POST", "/v1/jobs/{jobid}/files/{path}", b"moo", {}),
            ("PUT", "/v1/jobs/{jobid}/files/{path}", b"moo", {}),
            ("PUT", "/v1/jobs/{jobid}/archive", bytes(1024), {}),
            ("PUT", "/v1/jobs/{jobid}/access", {"bob": ["GET"]}, {}),
            ("POST", "/v1/jobs/{jobid}/start", None, {}),
            ("POST", "/v1/jobs/{jobid}/hold", None, {}),
            ("POST", "/v1/jobs/{jobid}/release", None, {}),
            ("POST", "/v1/applications/{name}", {"times": 2}, {}),
            ("POST", "/v1/applications/moo", {"times": 2}, {}),
            ("POST", "/v1/jobs/{jobid}/applications/{name}", {}, {}),
            ("POST", "/v1/jobs/callback", told, sign), *gets,
            ("POST", "/v1/token", None, {"Authorization": "Bearer " + token}),
            ("DELETE", "/v1/jobs/{jobid}/files/{path}", None, {}),
            ("POST", "/v1/jobs/{jobid}/cancel", None, {}), ("GET", "/v1/jobs/{jobid}", None, {}),
            ("DELETE", "/v1/jobs/{jobid}?purge=true", None, {}),
            ("GET", "/v1/jobs/{jobid}", None, {})]
        self.addCleanup(server.ask, "POST", "/v1/jobs/%s/cancel" % other)
        found = []
        for method, path, body, headers in asks:
            names["path"] = "." if method == "GET" else "data"   # a folder's answer is JSON
            others = {"hold": {"jobid": waiting}, "release": {"jobid": waiting},
                      "queues": {"name": "pond"}}.get(path.rpartition("/")[2], {})
            if "/applications/" in path:
                others = {"jobid": done, "name": "prompt" if "/jobs/" in path else "moo"}
            url = path.format(**dict(names, **others))
            answer = server.ask(method, url, body, **headers)
            found.append((method, path.partition("?")[0], answer))
        return found

    @needs_python
    def test_datamodel_codegen(self) -> None:
        self.configure_pond()
        server = Server(self, "--port", "0")
        document = self.described(server)
        self.run_it("datamodel-codegen", "--input", "openapi.json", "--input-file-type", "openapi",
                    "--output", "models.py", "--output-model-type", "pydantic_v2.BaseModel",
                    "--extra-fields", "forbid", "--formatters", "builtin")
        texts: List[Tuple[str, ...]] = []
        asked: Set[Tuple[str, str]] = set()
        for method, path, answer in self.ask_all(server, document):
            responses = document["paths"][path][method.lower()]["responses"]
            schema = responses[str(answer.status)]["content"][JSON]["schema"]
            texts.append(("%s %s" % (method, path), type_of(schema), answer.text))
            asked |= {(method.lower(), path)} if answer.status == 200 else set()
        self.assertEqual(self.run_python("parse.py", self.folder, stdin=json.dumps(texts)), "")
        self.assertEqual(set(json_routes(document)) - asked, set())


class Streams(Client):
    """Clients that follow the events of all jobs while servers are killed and started."""
    JOBS, ROWS = 20, 100

    def new_jobs(self) -> List[Any]:
        """Jobs of a scheduler that does nothing; this process writes their histories."""
        os.makedirs(os.path.join(self.folder, "site", "idle"))
        for name, text in (("submit", "echo 7"), ("job", "@job_body@"), ("cancel", "exit 0")):
            self.write("site/idle/" + name, "#!@shell@\n%s\n" % text)
        self.configure(templates=os.path.join(self.folder, "site"), backend={"type": "idle"})
        jobs = [psik.create(self.config(), psik.JobSpec(script="true")) for _ in range(self.JOBS)]
        for job in jobs:
            psik.reached(job, 1, psik.JobState.queued, 7)
        return jobs

    @staticmethod
    def write_rows(jobs: List[Any], count: int) -> None:
        """Add so many rows to each history, in turn."""
        for number in range(count):
            for job in jobs:
                state = psik.JobState.active if number % 2 else psik.JobState.queued
                psik.reached(job, 1 + number, state, number)

    def walk(self, name: str, *argv: str) -> None:
        """Kill the server twice; the program has to see every transition, before it or after."""
        jobs, path = self.new_jobs(), self.write("seen", "")
        server = Server(self, "--port", "0")
        with open(path, "wb") as out:
            client = subprocess.Popen([os.path.join(PYTHON, "python"),
                                       os.path.join(PROGRAMS, name), server.where, *argv],
                                      stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                      env=self.env, cwd=self.folder)
        self.addCleanup(client.wait)
        self.addCleanup(client.terminate)
        self.until(lambda: os.path.getsize(path), "a client that is connected")
        self.write_rows(jobs, 1)
        self.until(lambda: len(self.keys(path)) == self.JOBS, "the first transitions")
        for _ in range(2):
            writer = threading.Thread(target=self.write_rows, args=(jobs, self.ROWS // 4))
            writer.start()
            time.sleep(0.1)                             # the server is killed meanwhile
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
            writer.join()
            self.write_rows(jobs, self.ROWS // 4)       # nobody serves
            server = Server(self, "--port", str(server.port))
        wanted = {"%s/%d" % (job.jobid, place) for job in jobs
                  for place in range(3, 1 + len(job.rows()))}
        self.until(lambda: wanted <= self.keys(path), "every transition", 90)
        self.assertEqual(self.keys(path), wanted)
        with open(path, encoding="utf-8") as file:
            self.assertNotIn("reset", file.read())

    @staticmethod
    def keys(path: str) -> Set[str]:
        """The keys of the transitions that a client has seen."""
        with open(path, encoding="utf-8") as file:
            return set(re.findall(r"transition (\S+)\n", file.read()))

    @needs_python
    def test_httpx_sse(self) -> None:
        self.walk("httpx_sse_client.py")

    @needs_python
    @needs("chromium", shutil.which("chromium"))
    def test_event_source_in_chromium(self) -> None:
        self.walk("event_source.py", shutil.which("chromium") or "")


class Proxies(Client):
    """The server below a path of a proxy, with README.md's blocks for them, and at its root."""
    PREFIX = "/psik"

    def setUp(self) -> None:
        super().setUp()
        self.headers: Dict[str, str] = {}

    def block(self, kind: str, target: str, prefix: str) -> str:
        """README.md's block for a proxy, with another target and path."""
        with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
            text = file.read().split("```%s\n" % kind)[1].partition("```")[0]
        text = re.sub(r"\S*psik\.sock[^;\s]*", target, text)
        if not prefix:
            text = re.sub(r".*X-Forwarded-Prefix.*\n", "", text)
        return text.replace(self.PREFIX + "/", prefix + "/")

    def nginx(self, server: Server, prefix: str) -> str:
        """Start nginx, as ourselves, in front of a server; its URL."""
        target = server.where if server.port else "http://unix:%s:/" % server.where
        port, places = free_port(), ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        config = self.write("nginx.conf", (
            "daemon off; master_process off; pid nginx.pid; events {}\n"
            "http { access_log off; %s server { listen 127.0.0.1:%d;\n%s\n} }\n"
        ) % ("".join("%s_temp_path %s; " % (place, place) for place in places), port,
             self.block("nginx", target, prefix)))
        start(self, [NGINX or "", "-p", self.folder, "-e", "nginx.log", "-c", config], port)
        return "http://127.0.0.1:%d%s/" % (port, prefix)

    def caddy(self, server: Server, prefix: str) -> str:
        """Start Caddy in front of a server; its URL."""
        port = free_port()
        target = "127.0.0.1:%d" % server.port if server.port else "unix/" + server.where
        config = self.write("Caddyfile", (
            "{\nadmin off\nauto_https off\n}\nhttp://127.0.0.1:%d {\n%s\n}\n"
        ) % (port, self.block("caddy", target, prefix)))
        start(self, ["env", "XDG_DATA_HOME=" + self.folder, "XDG_CONFIG_HOME=" + self.folder,
                     "caddy", "run", "--adapter", "caddyfile", "--config", config], port)
        return "http://127.0.0.1:%d%s/" % (port, prefix)

    def open(self, url: str, body: Any = None) -> Any:
        """The answer to a request; a body goes as JSON."""
        data = None if body is None else json.dumps(body).encode()
        return urllib.request.urlopen(urllib.request.Request(
            url, data, dict(self.headers, **{"Content-Type": JSON} if data else {})), timeout=30)

    def listed(self, url: str) -> List[str]:
        """The ids of a list of jobs, whose Links are followed."""
        found: List[str] = []
        for _ in range(9):
            with self.open(url) as answer:
                found += [job["jobid"] for job in json.load(answer)]
                following = re.findall("<(.*)>", answer.headers.get("Link", ""))
            if not following:
                break
            url = urllib.parse.urljoin(url, following[0])
        return found

    def walk(self, base: str, prefix: str) -> str:
        """Use a server through a proxy; the id of the newest job."""
        with self.open(base) as page:
            self.assertIn(b"<html", page.read())
        with self.open(base + "v1/openapi.json") as answer:
            self.assertEqual(json.load(answer)["servers"], [{"url": prefix or "/"}])
        made = []
        for _ in range(5):
            with self.open(base + "v1/jobs/new", {"script": "true"}) as answer:
                made.append(json.load(answer))
                place = urllib.parse.urljoin(answer.url, answer.headers["Location"])
            with self.open(place) as answer:
                self.assertEqual(json.load(answer)[0]["jobid"], made[-1])
        self.assertEqual(self.listed(base + "v1/jobs?limit=2"), made[::-1])
        begun = time.monotonic()
        with self.open(base + "v1/events") as stream:
            self.assertRegex(stream.readline(), b"^id: ")
            self.assertLess(time.monotonic() - begun, 2)
            made.append(json.load(self.open(base + "v1/jobs/new", {"script": "true"})))
            begun = time.monotonic()
            self.assertIn(b"event: transition\n", iter(stream))
            self.assertLess(time.monotonic() - begun, 2)
        self.write("large", "moo\n" * 10 ** 6)
        url = "%sv1/jobs/%s/files/" % (base, made[-1])
        argv = ["-H%s: %s" % header for header in self.headers.items()]
        self.assertEqual(self.run_it("curl", "-sf", "-T", "large", url, *argv), "null\n")
        with self.open(url + "large") as answer:
            self.assertEqual(answer.read(), b"moo\n" * 10 ** 6)
        return str(made[-1])

    def walk_all(self, proxy: Callable[[Server, str], str]) -> None:
        """Try a proxy at its root and below a path, in front of a UNIX socket and of TCP."""
        for argv in (["--uds", "s.sock"], ["--port", "0"]):
            for prefix in ("", self.PREFIX):
                with self.subTest(argv=argv, prefix=prefix):
                    self.prefix = os.path.join(self.folder, "jobs%s%s" % (argv[0], prefix))
                    self.configure()
                    server = Server(self, *argv)
                    base = proxy(server, prefix)
                    jobid = self.walk(base, prefix)
                    if not server.port:     # else the kernel cannot tell whose it was, if too late
                        self.go_on_with_an_upload(server, base, jobid)
                    server.stop()

    @needs("nginx", NGINX)
    def test_nginx(self) -> None:
        self.walk_all(self.nginx)

    @needs("caddy", shutil.which("caddy"))
    def test_caddy(self) -> None:
        self.walk_all(self.caddy)

    @needs("nginx", NGINX)
    def test_nginx_and_tokens(self) -> None:
        self.configure(authz="owner", users=["ada"])
        server = Server(self, "--uds", "s.sock")
        self.headers["Authorization"] = "Bearer " + self.psik("token", "--user", "ada").out.strip()
        self.walk(self.nginx(server, self.PREFIX), self.PREFIX)

    @needs_python
    @needs("nginx and chromium", NGINX and shutil.which("chromium"))
    def test_the_page_below_a_path(self) -> None:
        server = Server(self, "--uds", "s.sock")
        base = self.nginx(server, self.PREFIX)
        jobid = json.load(self.open(base + "v1/jobs/new", {"script": "true"}))
        said = self.run_python("page.py", base, shutil.which("chromium") or "", jobid)
        self.assertEqual(said, "True\n200\n")


class Transfers(Client):
    """Files up and down, in parts and under conditions."""

    def setUp(self) -> None:
        super().setUp()
        self.server = Server(self, "--port", "0")
        self.jobid = str(self.server.ask("POST", "/v1/jobs/new", {"script": "true"}).json)
        self.path = "/v1/jobs/%s/files/in/large" % self.jobid
        self.url = self.server.where.rstrip("/") + self.path

    @needs("curl", shutil.which("curl"))
    def test_curl_goes_on_with_an_upload(self) -> None:
        self.go_on_with_an_upload(self.server, self.server.where, self.jobid)

    def go_on_with_a_download(self, *argv: str) -> None:
        """Let a program fetch the rest of a file of which half is there."""
        data = os.urandom(3 * 10 ** 6)
        self.server.ask("PUT", self.path, data)
        with open(os.path.join(self.folder, "got"), "w+b") as file:
            file.write(data[:len(data) // 2])
            file.flush()
            self.run_it(*argv, self.url)
            file.seek(0)
            self.assertTrue(file.read() == data)
        self.assertIn(" 206 ", self.server.said())

    @needs("curl", shutil.which("curl"))
    def test_curl_goes_on_with_a_download(self) -> None:
        self.go_on_with_a_download("curl", "-sf", "-C", "-", "-o", "got")

    @needs("wget", shutil.which("wget"))
    def test_wget_goes_on_with_a_download(self) -> None:
        self.go_on_with_a_download("wget", "-q", "-c", "-O", "got")

    @needs_python
    def test_conditions_from_requests_and_aiohttp(self) -> None:
        for client in ("requests", "aiohttp"):
            self.server.ask("PUT", self.path, b"0123456789")
            self.assertEqual(self.run_python("conditional.py", client, self.url), "")


if __name__ == "__main__":
    unittest.main()
