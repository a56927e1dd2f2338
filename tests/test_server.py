"""The REST API with real clients: curl, ssh, generated ones, many; and real Slurm behind it."""
import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import unittest
from typing import Any, Callable, List, Tuple
from unittest import mock

import psik
import services
from clusters import SLURM
from harness import DEPS, Case, captured, needs
from serving import SSHD, Answer, Server, tunnels

OPENAPI = os.path.join(DEPS, "openapi", "bin")
CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance",
          "response_schema_conformance")
SHOW_SYSTEM = """curl -s -X POST \\
  http://127.0.0.1:8000/v1/jobs \\
  -H 'accept: application/json' \\
  -H 'Content-Type: application/json' \\
  -d '{
  "name": "show system info",
  "script": "cat /proc/cpuinfo; cat /proc/meminfo; rocm-smi; echo $nodes; $mpirun hostname",
  "resources": {
    "process_count": 8,
    "cpu_cores_per_process": 7,
    "duration": 2,
    "gpu_cores_per_process": 1
  }
}'
"""
NEW = """curl -s -X POST \\
  http://127.0.0.1:8000/v1/jobs/new \\
  -H 'accept: application/json' \\
  -H 'Content-Type: application/json' \\
  -d '{
  "script": "cat data.txt",
}'
"""
UPLOAD = """curl -s -X POST \\
  'http://127.0.0.1:8000/v1/jobs/1693992878.203/files/' \\
  -H 'accept: application/json' \\
  --upload-file data.txt
"""
START = """curl -s -X POST \\
  'http://127.0.0.1:8000/v1/jobs/1693992878.203/start' \\
  -H 'accept: application/json'
"""
LIST = """curl -s -X GET \\
  'http://127.0.0.1:8000/v1/jobs' \\
  -H 'accept: application/json'
"""
LOGS = """curl -s -X GET \\
  'http://127.0.0.1:8000/v1/jobs/1693992878.203/logs' \\
  -H 'accept: application/json'
"""
CLIENT = """
import sys
sys.path.insert(0, sys.argv[1])
from psik_client import Client
from psik_client.api.jobs import get_jobs, get_logs, get_state, post_job
from psik_client.models import JobSpec, ResourceSpec
import time
client = Client(base_url=sys.argv[2])
spec = JobSpec(script="echo moo", name="generated", resources=ResourceSpec(duration=5))
jobid = post_job.sync(client=client, body=spec)
while get_state.sync(jobid, client=client) not in ("completed", "failed"):
    time.sleep(0.1)
print([(job.jobid == jobid, job.name, str(job.state), job.info)
       for job in get_jobs.sync(client=client, limit=1)])
print(get_logs.sync(jobid, client=client)["stdout.1"])
"""


@needs("curl", shutil.which("curl"))
class Curl(Case):
    """The commands of psik_api's page, at another port."""

    def sh(self, command: str, port: int, jobid: str = "") -> str:
        """What a command prints."""
        text = command.replace(":8000/", ":%d/" % port).replace("1693992878.203", jobid)
        return subprocess.run(["sh", "-c", text], stdout=subprocess.PIPE, cwd=self.folder,
                              timeout=60).stdout.decode()

    def walk(self, server: Server, port: int) -> None:
        """All of them, in order."""
        shown = json.loads(self.sh(SHOW_SYSTEM, port))
        jobid = json.loads(self.sh(NEW, port))
        self.write("data.txt", "moo\n")
        self.assertEqual(self.sh(UPLOAD, port, jobid), "null\n")
        self.assertEqual(self.sh(START, port, jobid), "null\n")
        self.until(lambda: ({job["state"] for job in json.loads(self.sh(LIST, port))}
                            <= {"completed", "failed"}))
        self.assertEqual(json.loads(self.sh(LOGS, port, jobid))["stdout.1"], "moo\n")
        self.assertIn("processor", json.loads(self.sh(LOGS, port, shown))["stdout.1"])
        self.assertEqual([job["name"] for job in json.loads(self.sh(LIST, port))],
                         ["", "show system info"])

    def test_over_tcp(self) -> None:
        server = Server(self, "--port", "0")
        self.walk(server, server.port)

    @needs("sshd", SSHD)
    def test_through_ssh_to_the_socket(self) -> None:
        server = Server(self, "--uds", "s.sock")
        self.walk(server, tunnels(self, server.where)[0])


@needs("openapi-python-client and schemathesis, in .deps/openapi (make test-deps)",
       os.path.exists(os.path.join(OPENAPI, "st")))
class Described(Case):
    """What openapi.json promises."""

    def test_a_generated_client(self) -> None:
        server = Server(self, "--port", "0")
        place = os.path.join(self.folder, "client")
        path = dict(self.env, PATH=OPENAPI + ":" + self.env["PATH"])
        done = subprocess.run(["openapi-python-client", "generate",
                               "--url", server.where + "v1/openapi.json", "--output-path", place],
                              env=path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual(done.returncode, 0, done.stdout.decode())
        done = subprocess.run(
            [os.path.join(OPENAPI, "python"), "-c", CLIENT, place, server.where.rstrip("/")],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=self.folder)
        self.assertEqual(done.stdout.decode(), "[(True, 'generated', 'completed', 0)]\nmoo\n\n")

    def test_schemathesis(self) -> None:
        # It is sent all kinds of scripts, so none is run.
        toy = os.path.join(self.folder, "site", "idle")
        os.makedirs(toy)
        for name, text in (("submit", "#!@shell@\necho 7\n"), ("job", "#!@shell@\n@job_body@\n"),
                           ("cancel", "#!@shell@\nexit 0\n"),
                           ("poll", "#!@shell@\necho 7 completed 0\n")):  # none is waited for
            with open(os.path.join(toy, name), "w") as file:
                file.write(text)
        self.configure(templates=os.path.dirname(toy), backend={"type": "idle"}, poll_interval_s=1,
                       applications="apps")
        self.offer("wc", needs=["README.md"], inputs={
            "properties": {"n": {"type": "integer", "minimum": 1}, "word": {"pattern": "^[a-z]+$"},
                           "image": {"type": "string", "contentEncoding": "base64"},
                           "list": {"type": "array", "items": {"type": "number"}}},
            "required": ["n"]})
        self.offer("moo", inputs={"properties": {"times": {"type": "integer", "default": 1}}})
        self.offer("prompt", interactive=True)
        server = Server(self, "--port", "0")
        jobid = str(server.ask("POST", "/v1/jobs/new", {"script": "true"}).json)
        for options in ([], ["--set-path", "jobid=" + jobid]):
            argv = [os.path.join(OPENAPI, "st"), "run", server.where + "v1/openapi.json",
                    "--experimental=openapi-3.1", "--checks", ",".join(CHECKS),
                    "--hypothesis-max-examples=10", "--exclude-path", "/v1/events",
                    "--request-timeout", "30000"]
            done = subprocess.run(argv + options, env=self.env, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, cwd=self.folder)
            self.assertEqual(done.returncode, 0,
                             done.stdout.decode()[-6000:] + server.said()[-6000:])
        self.assertNotIn("Traceback", server.said())


class Load(Case):
    """Many clients, and large files."""
    CLIENTS, SECONDS = 64, float(os.environ.get("PSIK_TEST_LOAD_S", "15"))

    def honest(self, server: Server, jobid: str, number: int, until: float, wrong: List[str],
               count: List[int]) -> None:
        """One client that asks for this and that."""
        asks = [("GET", "/state", None), ("GET", "", None), ("GET", "/logs", None),
                ("GET", "/files", None), ("GET", "/spec", None), ("GET", "/scripts", None),
                ("PUT", "/files/f%d" % number, b"x" * 5000), ("GET", "/files/f%d" % number, None),
                ("GET", "/archive", None), ("GET", "/events", None),
                ("GET", "/logs/stdout.1?tail=3", None), ("GET", "/access", None)]
        connection = server.connection()
        while time.time() < until:
            for method, path, body in asks:
                answer = server.ask(method, "/v1/jobs/%s%s" % (jobid, path), body,
                                    connection=connection)
                count[0] += 1
                if answer.status != 200:
                    wrong.append("%s %s: %d %s" % (method, path, answer.status, answer.text))
            for path in ("/v1/jobs?limit=5", "/v1/backends", "/v1/health", "/v1/metrics"):
                if server.ask("GET", path, connection=connection).status != 200:
                    wrong.append(path)
            if number == 0:
                answer = server.ask("POST", "/v1/jobs", {"script": "true"}, connection=connection)
                wrong += [] if answer.status == 200 else [answer.text]
        connection.close()

    def rude(self, server: Server, until: float) -> None:
        """One that sends half a request, and hangs up in the middle of answers."""
        while time.time() < until:
            for data in (b"GET /v1", b"GET /v1/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n",
                         b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"):
                with socket.socket() as sock:
                    sock.connect(("127.0.0.1", server.port))
                    sock.sendall(data)
                    time.sleep(0.2)

    def test_sixty_four_clients(self) -> None:
        server = Server(self, "--port", "0", "--quiet")
        jobid = str(server.ask("POST", "/v1/jobs", {"script": "echo moo"}).json)
        server.wait_for(jobid)
        before, until = server.handles(), time.time() + self.SECONDS
        wrong: List[str] = []
        count = [0]
        threads = [threading.Thread(target=self.honest,
                                    args=(server, jobid, number, until, wrong, count))
                   for number in range(self.CLIENTS)]
        threads += [threading.Thread(target=self.rude, args=(server, until)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong[:5], [])
        self.assertGreater(count[0], self.CLIENTS * 5)
        self.until(lambda: server.handles() <= before + 2, "no thread or descriptor left over")
        self.assertNotIn("Traceback", server.said())

    def test_a_gigabyte_up_and_another_down(self) -> None:
        server = Server(self, "--uds", "s.sock")
        jobid = str(server.ask("POST", "/v1/jobs/new", {"script": "true"}).json)
        size, block, most = 2 ** 30, b"0123456789abcdef" * 65536, [0.0]
        url = "/v1/jobs/%s/files/large" % jobid

        def down() -> None:
            connection = server.connection()
            connection.request("GET", url + ".0")
            answer, got = connection.getresponse(), 0
            for part in iter(lambda: answer.read(2 ** 20), b""):
                got += len(part)
                most[0] = max(most[0], server.rss_mb())
            self.assertEqual(got, size)

        blocks = (block for _ in range(1024))
        whole = server.ask("PUT", url + ".0", blocks, Content_Length=str(size))
        self.assertEqual(whole.status, 200)
        reader = threading.Thread(target=down)
        reader.start()
        in_chunks = server.ask("PUT", url + ".1", (block for _ in range(1024)))
        self.assertEqual(in_chunks.status, 200)
        reader.join()
        work = os.path.join(self.prefix, "local", jobid, "work")
        self.assertEqual([os.path.getsize(os.path.join(work, "large.%d" % number))
                          for number in range(2)], [size, size])
        self.assertLess(most[0], 60)


class Lobby(Case):
    """Connections between their requests, and others while some take long."""

    def setUp(self) -> None:
        super().setUp()
        os.makedirs(os.path.join(self.folder, "site", "slow"))
        for name, text in (("submit", "echo 7"), ("cancel", ""), ("poll", ""),
                           ("job", "@job_body@"), ("queues", "until test -e %s/go; do sleep 0.1; "
                                                      "done" % self.folder)):
            self.write("site/slow/" + name, "#!/bin/sh\n%s\n" % text)
        self.configure(templates="site", backends={"slow": {"type": "slow"}}, rc_path="/bin/sh")
        self.server = Server(self, "--port", "0")

    def threads(self) -> int:
        return len(os.listdir("/proc/%d/task" % self.server.process.pid))

    def test_connections_between_requests_have_no_threads(self) -> None:
        connections = [self.server.connection() for _ in range(40)]
        for _ in range(3):
            for each in connections:
                for method, path, status in (("GET", "/v1/health", 200), ("POST", "/none", 404),
                                             ("GET", "/v1/jobs?wait=0", 200)):
                    self.assertEqual(self.server.ask(method, path, connection=each).status, status)
            self.until(lambda: self.threads() < 20)

    def test_slow_requests_hold_nobody_up(self) -> None:
        answers: List[Answer] = []

        def ask() -> None:
            connection = self.server.connection()
            for _ in range(2):  # the second time it is known to be slow
                answers.append(self.server.ask("GET", "/v1/backends/slow/queues",
                                               connection=connection))

        slow = [threading.Thread(target=ask) for _ in range(8)]
        for thread in slow:
            thread.start()
        self.until(lambda: self.threads() > 8)
        begun = time.monotonic()
        for _ in range(20):
            self.assertEqual(self.server.ask("GET", "/v1/jobs").status, 200)
        self.assertLess(time.monotonic() - begun, 8)    # the others take as long as POLL_TIMEOUT_S
        self.assertEqual(answers, [])
        self.write("go", "")
        for thread in slow:
            thread.join(30)
        self.assertEqual([answer.status for answer in answers], [200] * 16)

    def test_clients_that_do_not_read_hold_nobody_up(self) -> None:
        jobid = str(self.server.ask("POST", "/v1/jobs/new", {"script": "true"}).json)
        self.server.ask("PUT", "/v1/jobs/%s/files/f" % jobid, b"x" * 20000000)
        idle = [socket.create_connection(("127.0.0.1", self.server.port)) for _ in range(8)]
        for each in idle:
            self.addCleanup(each.close)
            for path in ("files/f", "events"):
                each.sendall(b"GET /v1/jobs/%s/%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % (
                    jobid.encode(), path.encode()))
        for _ in range(20):
            self.assertEqual(self.server.ask("GET", "/v1/jobs").status, 200)


class Leader(Case):
    """Who attends to the connections in the lobby."""

    def test_it_waits_for_no_client(self) -> None:
        """Also where nobody would take the lead from it."""
        api = psik.Api(self.config())
        place = psik.UnixPlace(os.path.join(self.folder, "s.sock"))
        for name, value in (("QUICK_S", 1000), ("LINGER_S", 30)):
            patch = mock.patch.object(psik, name, value)
            patch.start()
            self.addCleanup(patch.stop)
        server = psik.make_server(api, place)
        serving = threading.Thread(target=server.serve_forever, args=(0.1,))
        serving.start()
        for step in (server.server_close, serving.join, server.shutdown):
            self.addCleanup(step)
        job = psik.create(self.config(), psik.JobSpec(script="true"))
        psik.write_file(os.path.join(job.at("work"), "f"), "x" * 9000000)
        head = b"GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n"
        for data in (b"GET  HTTP/1.1\r\n\r\n", head % (b"/", b"Content-Length: 1\r\n"),
                     head % (b"/", b"Transfer-Encoding: chunked\r\n"),
                     head % (b"/", b"Content-Length: 1\r\nExpect: 100-continue\r\n"),
                     head % (b"/", b"") + b"\r\n", head % (b"/", b"") + b"G", b"G", b"\r\n",
                     head % (b"/v1/jobs/%s/files/f" % job.jobid.encode(), b""),
                     head % (b"/v1/events", b""), head % (b"/v1/openapi.json", b"") * 400):
            with self.subTest(data[:200]), socket.socket(socket.AF_UNIX) as slow:
                slow.connect(place.path)
                slow.sendall(data)
                with socket.socket(socket.AF_UNIX) as quick:
                    quick.settimeout(8)
                    quick.connect(place.path)
                    for _ in range(2):
                        quick.sendall(head % (b"/v1/health", b""))
                        self.assertIn(b"200 OK", quick.recv(9999))

    def alone(self) -> Tuple[psik.Session, socket.socket]:
        """A connection in a lobby of its own, and the client's end of it."""
        self.served: List[psik.Session] = []    # those that get a thread
        lobby = psik.Lobby(psik.Connections(1), self.served.append)
        near, far = socket.socketpair()
        self.addCleanup(near.close)
        near.settimeout(20)
        session = psik.Session(mock.Mock(stopping=False), psik.Wire(far), None, lobby)
        lobby.add(session)
        return session, near

    def test_what_took_long_gets_a_thread(self) -> None:
        session, near = self.alone()

        def answer(req: psik.Request) -> bool:
            session.wire.took = 1
            return True

        with mock.patch.object(session, "answer", answer):
            near.sendall(b"GET /1 HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2)
            self.until(lambda: self.served == [session])
        self.assertIn(b"GET /1", session.wire.buffer)

    def test_each_peer_has_its_turn(self) -> None:
        turns = psik.Turns()
        for number, key in enumerate("aaabba"):
            wire = psik.Wire()
            wire.key, wire.took = key, number
            turns.add(psik.Session(mock.Mock(), wire))
        order = [turns.take().wire for _ in range(5)]
        self.assertEqual([(wire.key, wire.took) for wire in order],
                         [("a", 0), ("b", 3), ("a", 1), ("b", 4), ("a", 2)])
        self.assertEqual(len(turns), 1)
        self.assertEqual(turns.take().wire.took, 5)
        self.assertFalse(turns)

    def test_who_is_answered_next_is_not_ended(self) -> None:
        connections = psik.Connections(1)
        near, far = socket.socketpair()
        self.addCleanup(near.close)
        self.addCleanup(far.close)
        wire = psik.Wire(far)
        self.assertTrue(connections.take_in(wire))
        wire.queued = True
        self.assertFalse(connections.take_in(psik.Wire()))
        wire.queued = False
        self.assertTrue(connections.take_in(psik.Wire()))

    def test_who_waits_on_a_connection_that_is_ended_waits_no_more(self) -> None:
        wire, looks = psik.Wire(), []

        def look() -> bool:
            looks.append(wire.is_cut)
            wire.is_cut = len(looks) == 3
            return False

        request = mock.Mock()
        request.body.wire = wire
        psik.Handler(mock.Mock(stopping=False), request, mock.Mock()).wait(look, 60)
        self.assertEqual(looks, [False] * 3)

    def shaking(self) -> Tuple[psik.Session, Any]:
        """A connection in mid-handshake, and the socket of its TLS."""
        near, far = socket.socketpair()
        self.addCleanup(near.close)
        self.addCleanup(far.close)
        session = psik.Session(mock.Mock(stopping=False), psik.Wire(far), mock.Mock())
        session.wire.handshaking = True
        secure = mock.Mock(spec=ssl.SSLSocket)
        secure.getpeercert.return_value = {}
        session.tls.wrap_socket.return_value = secure
        return session, secure

    def test_a_handshake_that_has_to_send_first(self) -> None:
        session, secure = self.shaking()
        secure.do_handshake.side_effect = [ssl.SSLWantReadError(), ssl.SSLWantWriteError(), None]
        for must_send, handshaking in ((False, True), (True, True), (False, False)):
            session.go_on()
            self.assertFalse(session.has_ended)
            self.assertEqual((session.wire.must_send, session.wire.handshaking),
                             (must_send, handshaking))

    def test_a_connection_that_is_ended_while_tls_takes_it_over(self) -> None:
        session, secure = self.shaking()

        def wrap(sock: socket.socket, **_: Any) -> Any:
            os.close(sock.detach())
            session.wire.cut()
            return secure

        session.tls.wrap_socket = wrap
        with captured():
            session.go_on()
        self.assertTrue(session.has_ended)
        secure.do_handshake.assert_not_called()

    def test_a_handshake_that_has_its_turn_soon_is_not_ended(self) -> None:
        with mock.patch.object(psik.Lobby, "lead"):     # nobody attends to it but this test
            session, near = self.alone()
        session.wire.handshaking = True
        self.assertTrue(session.lobby.connections.take_in(session.wire))
        near.sendall(b"x")
        for key, _ in session.lobby.selector.select(20):
            session.lobby.attend(key.data)
        self.assertFalse(session.lobby.connections.take_in(psik.Wire()))

    def test_a_connection_that_cannot_wait_leaves_no_trace(self) -> None:
        session, near = self.alone()
        full = OSError(28, "no space for another watch")
        with mock.patch.object(session.lobby, "add", side_effect=full), mock.patch.object(
                session, "answer", lambda req: True):
            self.assertTrue(session.lobby.connections.take_in(session.wire))
            near.sendall(b"GET /1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.assertEqual(near.recv(1), b"")
            self.until(lambda: not session.lobby.connections.open)

    def test_no_thread_can_be_had_to_lead(self) -> None:
        session, near = self.alone()
        begun, go = threading.Event(), threading.Event()

        def answer(req: psik.Request) -> bool:
            begun.set()
            return go.wait(20) and req.path == "/1"

        with mock.patch.object(session, "answer", answer), mock.patch.object(
                psik._thread, "start_new_thread", side_effect=RuntimeError("no more threads")):
            near.sendall(b"GET /1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.assertTrue(begun.wait(20))
            time.sleep(20 * psik.QUICK_S)
            self.assertEqual(session.lobby.leader, 0)
            go.set()
            near.sendall(b"GET /2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.assertEqual(near.recv(1), b"")     # the same leader has answered both

    def test_a_new_leader_is_quick_to_begin(self) -> None:
        session, near = self.alone()
        start = psik._thread.start_new_thread

        def start_at_once(work: Callable[..., None], args: Tuple[int]) -> None:
            start(work, args)
            time.sleep(0.1)

        def answer(req: psik.Request) -> bool:
            session.give_way()
            return req.path == "/1"

        with mock.patch.object(session, "answer", answer), mock.patch.object(
                psik._thread, "start_new_thread", start_at_once):
            near.sendall(b"GET /1 HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2)
            near.sendall(b"GET /2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.assertEqual(near.recv(1), b"")
        self.assertEqual(session.lobby.leader, 3)


@needs("Slurm", SLURM)
class OnSlurm(Case):
    """The life of a job where Slurm runs it."""

    def test_a_job_and_a_refusal(self) -> None:
        slurm, place = services.Slurm(nodes=1), tempfile.mkdtemp(prefix="psv")
        self.addCleanup(shutil.rmtree, place, True)
        slurm.start(place)
        self.addCleanup(slurm.stop)
        self.env.update(slurm.env)
        self.configure(backend={"type": "slurm"}, poll_interval_s=1)
        server = Server(self, "--uds", "s.sock")
        jobid = str(server.ask("POST", "/v1/jobs", {"script": "echo moo; $mpirun hostname"}).json)
        self.assertEqual(server.wait_for(jobid), "completed")
        said = server.ask("GET", "/v1/jobs/%s/logs/stdout.1" % jobid).body
        self.assertEqual(said.split()[0], b"moo")
        refused = server.ask("POST", "/v1/jobs",
                             {"script": "true", "backend": {"queue_name": "no_such_queue"}})
        self.assertEqual(refused.status, 502)
        self.assertIn("Invalid partition", refused.json["detail"])
        state = server.ask("GET", "/v1/jobs/%s/state" % refused.json["jobid"]).json
        self.assertEqual(state, "failed")
        running = str(server.ask("POST", "/v1/jobs", {"script": "sleep 600"}).json)
        server.wait_for(running, "active")
        server.ask("DELETE", "/v1/jobs/" + running)
        self.assertEqual(server.wait_for(running), "canceled")
        self.assertEqual(server.ask("GET", "/v1/backends").json["slurm"]["status"], "active")


if __name__ == "__main__":
    unittest.main()
