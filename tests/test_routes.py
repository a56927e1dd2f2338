"""Every route where all is well: what it answers is what openapi.json and the README say."""
import json
import os
import re
import tarfile
import time
import unittest
from typing import Any, Dict, List, Tuple
from unittest import mock

import psik
from harness import ROOT, Case
from serving import Server

SECRET = "s3cret"
SPEC = {"script": "#!/bin/sh\necho moo\n"}
FORM = (b'--xx\r\nContent-Disposition: form-data; name="files"; filename="g"\r\n\r\nmoo\r\n'
        b"--xx--\r\n")
TAR = b"".join([tarfile.TarInfo("moo").tobuf(), bytes(1024)])   # an empty file
Call = Tuple[str, str, str, int, Any, Dict[str, str]]
CALLS: List[Call] = [  # method, route, which job (or what `name` is), status, body, headers
    ("GET", "/", "", 200, None, {}),
    ("GET", "/v1", "", 200, None, {}),
    ("GET", "/page/{name}", "main.js", 200, None, {}),
    ("GET", "/v1/openapi.json", "", 200, None, {}),
    ("GET", "/v1/health", "", 200, None, {}),
    ("GET", "/v1/metrics", "", 200, None, {}),
    ("GET", "/v1/backends", "", 200, None, {}),
    ("GET", "/v1/backends/{name}", "local", 200, None, {}),
    ("GET", "/v1/backends/{name}/queues", "pond", 200, None, {}),
    ("GET", "/v1/token", "", 200, None, {}),
    ("POST", "/v1/token", "", 200, None, {"Authorization": "Bearer TOKEN"}),
    ("GET", "/v1/events", "", 200, None, {}),
    ("GET", "/v1/jobs", "", 200, None, {}),
    ("GET", "/v1/jobs/counts", "", 200, None, {}),
    ("POST", "/v1/jobs", "", 200, SPEC, {}),
    ("POST", "/v1/jobs/new", "", 200, SPEC, {}),
    ("POST", "/v1/jobs/callback", "fresh", 200, {"jobndx": 1, "state": "active", "info": 7}, {}),
    ("GET", "/v1/applications", "", 200, None, {}),
    ("GET", "/v1/applications/{name}", "moo", 200, None, {}),
    ("POST", "/v1/applications/{name}", "moo", 200, {"times": 2}, {}),
    ("POST", "/v1/jobs/{jobid}/applications/{name}", "ended", 200, {}, {}),
    ("GET", "/v1/jobs/{jobid}", "ended", 200, None, {}),
    ("GET", "/v1/jobs/{jobid}/tasks", "ended", 200, None, {}),
    ("POST", "/v1/jobs/{jobid}/start", "ended", 200, None, {}),
    ("POST", "/v1/jobs/{jobid}/cancel", "running", 200, None, {}),
    ("POST", "/v1/jobs/{jobid}/hold", "waiting", 200, None, {}),
    ("POST", "/v1/jobs/{jobid}/release", "waiting", 200, None, {}),
    ("GET", "/v1/jobs/{jobid}/state", "ended", 200, None, {}),
    ("GET", "/v1/jobs/{jobid}/status", "ended", 200, None, {}),
    ("GET", "/v1/jobs/{jobid}/spec", "ended", 200, None, {}),
    ("GET", "/v1/jobs/{jobid}/logs", "ended", 200, None, {}),
    ("GET", "/v1/jobs/{jobid}/logs/{name}", "ended", 200, None, {}),
    ("GET", "/v1/jobs/{jobid}/logs/{name}", "ended", 206, None, {"Range": "bytes=0-1"}),
    ("GET", "/v1/jobs/{jobid}/scripts", "ended", 200, None, {}),
    ("GET", "/v1/jobs/{jobid}/events", "ended", 200, None, {}),
    ("GET", "/v1/jobs/{jobid}/events", "ended", 204, None, {"Last-Event-ID": "99"}),
    ("GET", "/v1/jobs/{jobid}/archive", "ended", 200, None, {}),
    ("PUT", "/v1/jobs/{jobid}/archive", "fresh", 200, TAR, {}),
    ("GET", "/v1/jobs/{jobid}/access", "ended", 200, None, {}),
    ("PUT", "/v1/jobs/{jobid}/access", "ended", 200, {"eve": ["GET"]}, {}),
    ("PUT", "/v1/jobs/{jobid}/files/{path}", "fresh", 200, b"moo", {}),
    ("PUT", "/v1/jobs/{jobid}/files/{path}", "fresh", 202, b"moo",
     {"Content-Range": "bytes 0-2/4"}),
    ("POST", "/v1/jobs/{jobid}/files/{path}", "fresh", 200, b"moo", {}),
    ("POST", "/v1/jobs/{jobid}/files/{path}", "fresh", 202, b"moo",
     {"Content-Range": "bytes 0-2/4"}),
    ("POST", "/v1/jobs/{jobid}/files", "fresh", 200, FORM,
     {"Content-Type": "multipart/form-data; boundary=xx"}),
    ("GET", "/v1/jobs/{jobid}/files", "fresh", 200, None, {}),
    ("GET", "/v1/jobs/{jobid}/files/{path}", "fresh", 200, None, {}),
    ("GET", "/v1/jobs/{jobid}/files/{path}", "fresh", 206, None, {"Range": "bytes=1-"}),
    ("DELETE", "/v1/jobs/{jobid}/files/{path}", "fresh", 200, None, {}),
    ("DELETE", "/v1/jobs/{jobid}", "running", 200, None, {}),
]


def declared() -> Dict[Tuple[str, str], Dict[str, Any]]:
    """{(method, route): the answers of it} that the document declares, by status."""
    return {(method.upper(), path): operation["responses"]
            for path, operations in psik.OpenApi().document()["paths"].items()
            for method, operation in operations.items()}


class Declared(unittest.TestCase):
    """What the document and the README say of each route's answers."""

    def test_no_route_is_left_out(self) -> None:
        self.assertEqual({call[:2] for call in CALLS},
                         {(route.method, route.path) for route in psik.ROUTES})

    def test_no_other_success_is_declared(self) -> None:
        answered: Dict[Tuple[str, str], List[str]] = {}
        for method, route, _, status, _, _ in CALLS:
            answered.setdefault((method, route), []).extend([str(status)] * (status != 204))
        for key, responses in declared().items():
            with self.subTest(method=key[0], route=key[1]):
                found = [status for status in sorted(responses)
                         if status[0] == "2" and "content" in responses[status]]
                self.assertEqual(found, answered[key])

    def test_what_the_readme_says_of_statuses_is_declared(self) -> None:
        with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
            rows = re.findall(r"^\| `([A-Z]+)` \| `(/[^`]*)` \| (.*) \|$", file.read(),
                              re.MULTILINE)
        said = {(method, route): re.findall(r"\b[2-5]\d\d\b", text)
                for method, route, text in rows}
        self.assertEqual({key: found for key, found in said.items() if found},
                         {("GET", "/v1/health"): ["503"],
                          ("GET", "/v1/jobs/{jobid}/events"): ["204"]})
        for key, found in said.items():
            self.assertLessEqual(set(found), set(declared()[key]), key)


class Answers(Case):
    """A server and four jobs: `fresh` was never started, `ended` has ended, `running` runs.

    `waiting` waits in the queue of a backend of the site's own.
    """

    def setUp(self) -> None:
        super().setUp()
        self.configure_pond()
        waiting = self.run_spec("--backend", "pond", script="true")
        self.server = Server(self, "--uds", "s.sock")
        fresh = self.run_spec("--no-submit", script="true", client_secret=SECRET)
        ended = self.run_spec("--wait", **SPEC)
        running = self.run_spec(script="sleep 600")
        self.addCleanup(self.psik, "cancel", running)
        self.jobs = {"fresh": fresh, "ended": ended, "running": running, "waiting": waiting}

    def answer(self, call: Call) -> Tuple[int, str]:
        """(status, content type) of what comes back."""
        method, route, which, _, body, headers = call
        jobid = self.jobs.get(which, "")
        names = {"logs": "stdout.1", "applications": "prompt"}
        path = route.format(jobid=jobid, path="f", name=names[route.split("/")[4]] if jobid
                            and "{name}" in route else which)
        if route.endswith("/callback"):
            body = json.dumps(dict(body, jobid=jobid)).encode()
            headers = {"X-Hub-Signature-256": psik.sign_message(body, SECRET),
                       "Content-Type": "application/json"}
        if "TOKEN" in headers.get("Authorization", ""):
            token = self.server.ask("GET", "/v1/token").text.strip()
            headers = {"Authorization": "Bearer " + token}
        answer = self.server.ask(method, path, body, **headers)
        return answer.status, answer.headers.get("content-type", "").split(";")[0]

    def test_the_status_and_type_of_every_route(self) -> None:
        for call in CALLS:
            method, route, _, wanted, _, _ = call
            with self.subTest(method=method, route=route):
                status, kind = self.answer(call)
                self.assertEqual(status, wanted)
                content = declared()[method, route][str(status)].get("content", {"": None})
                self.assertIn(kind, content)


    def test_holding_and_queues(self) -> None:
        path = "/v1/jobs/" + self.jobs["waiting"]
        for verb in ("hold", "release"):
            self.assertEqual(self.server.ask("POST", "%s/%s" % (path, verb)).status, 200)
        job = self.job(self.jobs["waiting"])
        told = [psik.read_text(job.at(name)) for name in ("held", "released")]
        self.assertEqual(told, ["7\n", "7\n"])
        answer = self.server.ask("POST", "/v1/jobs/%s/hold" % self.jobs["running"])
        self.assertEqual((answer.status, "it is active" in answer.text), (409, True))
        answer = self.server.ask("POST", "/v1/jobs/%s/hold" % self.jobs["fresh"])
        self.assertEqual((answer.status, "it is new" in answer.text), (409, True))
        self.assertEqual(self.server.ask("GET", "/v1/backends/pond/queues").json, [
            {"name": "deep", "state": "up", "nodes": 3, "free_nodes": None, "cores": 12,
             "free_cores": 8, "max_walltime_min": 60}])
        for name, said in (("local", "jobs have no queues"), ("none", "no backend")):
            answer = self.server.ask("GET", "/v1/backends/%s/queues" % name)
            self.assertEqual((answer.status, said in answer.text), (404, True))


class Metrics(Case):
    """The counters for Prometheus."""

    def text(self, api: Any, caller: Any) -> str:
        """What the route answers this caller, seven seconds after the server's start."""
        req = psik.Request("GET", "/v1/metrics", {}, psik.Body(psik.Wire(), 0))
        with mock.patch("psik.time.monotonic", return_value=api.begun + 7.2):
            response = psik.ROUTER.dispatch(api, req, lambda req, route: caller)
        self.assertEqual(response.status, 200)
        return str(response.body.decode())

    def test_the_whole_text(self) -> None:
        self.configure(backends={"one": {"type": "local"}, "two": {"type": "local"}})
        api = psik.Api(self.config())
        jobs = [psik.create(self.config(), psik.JobSpec(script="true"), name)
                for name in ("one", "one", "two", "one")]
        psik.reached(jobs[3], 1, psik.JobState.active, 7)
        api.tracker.look(deep=True)
        for method, status, seconds in (("GET", 200, 0.25), ("GET", 200, 0.5), ("GET", 404, 2.0),
                                        ("POST", 200, 1.0), ("BREW", 405, 0.125)):
            api.count(method, status, seconds)
        requests = """# TYPE psik_requests_total counter
psik_requests_total{method="GET",status="200"} 2
psik_requests_total{method="GET",status="404"} 1
psik_requests_total{method="POST",status="200"} 1
psik_requests_total{method="other",status="405"} 1
# TYPE psik_request_seconds_total counter
psik_request_seconds_total{method="GET",status="200"} 0.750000
psik_request_seconds_total{method="GET",status="404"} 2.000000
psik_request_seconds_total{method="POST",status="200"} 1.000000
psik_request_seconds_total{method="other",status="405"} 0.125000
"""
        head = "# TYPE psik_up_seconds gauge\npsik_up_seconds 7\n# TYPE psik_jobs gauge\n"
        listed = ('psik_jobs{backend="one",state="active"} 1\n'
                  'psik_jobs{backend="one",state="new"} 2\n'
                  'psik_jobs{backend="two",state="new"} 1\n')
        ours = psik.Caller(psik.LOCAL_USER, trusted=True)
        self.assertEqual(self.text(api, ours), head + listed + requests)
        self.assertEqual(self.text(api, psik.Caller("eve")), head + requests)  # no jobs of others

    def test_a_server_counts_each_request_once(self) -> None:
        server = Server(self, "--uds", "s.sock")
        connection, begun = server.connection(), time.monotonic()
        for method, path, body in (("GET", "/v1/jobs", None), ("GET", "/v1/jobs", None),
                                   ("GET", "/v1/none", None), ("POST", "/v1/jobs/new", SPEC),
                                   ("PATCH", "/v1/jobs", None)):
            server.ask(method, path, body, connection=connection)
        text = server.ask("GET", "/v1/metrics", connection=connection).text
        took_s = time.monotonic() - begun   # the server's clock runs on until it has sent an answer
        connection.close()
        line = r'^psik_%s_total\{method="(\w+)",status="(\d+)"\} (\S+)$'
        requests, seconds = ({found[:2]: float(found[2])
                              for found in re.findall(line % name, text, re.MULTILINE)}
                             for name in ("requests", "request_seconds"))
        self.assertEqual(requests, {("GET", "200"): 2, ("GET", "404"): 1, ("POST", "200"): 1,
                                    ("PATCH", "405"): 1})
        self.assertEqual(set(seconds), set(requests))
        self.assertGreater(min(seconds.values()), 0)
        self.assertLess(sum(seconds.values()), took_s)


if __name__ == "__main__":
    unittest.main()
