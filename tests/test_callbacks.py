"""Callbacks that arrive: signed, in order, once, whatever receivers do and whoever is killed."""
import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
import unittest
from typing import Any, Callable, Dict, List, Optional, Tuple
from unittest import mock

import psik
from harness import DEPS, KILLED_AT, PSIK, ROOT, Case, needs, processes_with, rc_path

RECEIVER = os.path.join(DEPS, "receiver", "bin", "python")
SECRET = "it's a $ecret"
URLS: List[Tuple[str, Any]] = [  # a URL, its parts or what is said of it
    ("http://a/b?c=d", ("http", "a", 80, "/b?c=d")),
    ("HTTPS://a", ("https", "a", 443, "/")),
    ("http://[::1]:8000/x#frag", ("http", "[::1]", 8000, "/x")),
    ("http://a?q", ("http", "a", 80, "/?q")),
    ("http://a/é", ("http", "a", 80, "/%C3%A9")),
    ("http://u:p@a/", "a user or password does not belong in it"),
    ("ftp://a/", "is not an http or https URL"), ("a", "is not"), ("http://", "is not"),
    ("http://a:99999/", "is not"), ("http://a b/", "is not"), ("http://a/b c", "is not"),
    ("file:///etc/passwd", "is not"), ("", "is not"),
]
KILLED = KILLED_AT + """
job = psik.JobDir(sys.argv[1])
sys.setprofile(stop)
psik.reached(job, 1, psik.JobState.completed, 0)
"""


class Parts(unittest.TestCase):
    def test_a_host_without_ipv6(self) -> None:
        real = socket.socket

        def no_ipv6(family: int = socket.AF_INET, *args: Any) -> Any:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            return real(family, *args)

        with real() as server:
            server.bind(("127.0.0.1", 0))
            server.listen(1)
            port = server.getsockname()[1]
            found = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
                     (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
            settings = psik.CallbackSettings(5, 5, None, False)
            post = psik.Post("http://localhost:%d/" % port, settings, time.monotonic() + 5)
            with mock.patch("socket.getaddrinfo", return_value=found), \
                    mock.patch("socket.socket", no_ipv6):
                post.connect("localhost", port).close()

    def test_urls(self) -> None:
        for url, said in URLS:
            with self.subTest(url=url):
                try:
                    self.assertEqual(psik.split_url(url), said)
                except ValueError as err:
                    self.assertIn(str(said), str(err))
                    with self.assertRaises(psik.InvalidError):
                        psik.JobSpec(script="x", callback=url)

    def test_signatures(self) -> None:
        # GitHub's own example.
        known = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
        self.assertEqual(psik.sign_message("Hello, World!", "It's a Secret to Everybody"), known)
        secret = "It's a Secret to Everybody"
        self.assertEqual(psik.web.sign_message(b"Hello, World!", secret.encode()), known)
        self.assertTrue(psik.web.verify_signature("Hello, World!", secret, known))
        for signature in (None, "", "sha256=", known[:-1], known.upper(), "sha1=" + known[7:], "é"):
            with self.assertRaises(psik.ForbiddenError):
                psik.verify_signature(b"Hello, World!", "It's a Secret to Everybody", signature)

    def test_backoff(self) -> None:
        rounds = [psik.backoff_s(attempts) for attempts in range(20)]
        self.assertTrue(0.6 < rounds[0] < 1.4 and max(rounds) < 4800 and rounds[-1] > 2400, rounds)


class Receiving(Case):
    """A test with a receiver that can be taken down and put up again."""

    def setUp(self) -> None:
        super().setUp()
        self.log = os.path.join(self.folder, "received")
        self.port = 0
        self.child: Optional[Any] = None
        self.addCleanup(self.down)

    def up(self, *tls: str) -> int:
        """Start the receiver; its port."""
        self.child = subprocess.Popen(
            [RECEIVER, os.path.join(ROOT, "tests", "receiver.py"), self.log, SECRET] + list(tls),
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self.child.stdout
        self.port = int(self.child.stdout.readline())
        return self.port

    def down(self) -> None:
        if self.child:
            self.child.kill()
            self.child.wait()
            self.child.stdout.close()
            self.child = None

    def received(self) -> List[Dict[str, Any]]:
        return [json.loads(line) for line in psik.read_or_empty(self.log).splitlines()]

    def told(self) -> List[Tuple[int, str]]:
        """What arrived and was taken, each delivery once, in order."""
        seen: Dict[str, Tuple[int, str]] = {}
        for item in self.received():
            if item["status"] == 200:
                seen.setdefault(item["delivery"], (item["body"]["jobndx"], item["body"]["state"]))
        return list(seen.values())

    def put(self, path: str = "/ok", script: str = "true", port: int = 0, status: int = 0,
            **spec: Any) -> str:
        """Run a job to its end, and until its callback was told of that, a moment later; its id."""
        url = "http://127.0.0.1:%d%s" % (port or self.port, path)
        jobid = self.run_spec("--wait", script=script, status=status,
                              callback=url, cb_secret=SECRET, **spec)
        self.gone(jobid)
        return jobid


WHOLE = [(1, "queued"), (1, "active"), (1, "completed")]


@needs("Flask from PyPI", os.path.exists(RECEIVER))
class Arriving(Receiving):
    def test_every_transition_arrives_signed_and_in_order(self) -> None:
        self.up()
        for shell in (rc_path(), "/bin/sh"):
            if not shell:
                continue
            self.configure(rc_path=shell)
            open(self.log, "w").close()
            jobid = self.put("/ok?a=b%20c", cb_headers={"X-Extra": "more"})
            self.until(lambda: len(self.received()) >= 3)
            self.assertEqual(self.told(), WHOLE)
            for item in self.received():
                wanted = {"signed": True, "agent": "psik/" + psik.__version__, "extra": "more",
                          "type": "application/json", "path": "/ok?a=b%20c", "method": "POST"}
                self.assertEqual({name: item[name] for name in wanted}, wanted)
                self.assertEqual(set(item["body"]), {"jobid", "jobndx", "state", "info"})
                self.assertEqual(item["body"]["jobid"], jobid)
            self.assertEqual(len({item["delivery"] for item in self.received()}), 3)
            shown = self.until(lambda: self.callbacks(jobid, 3))
            self.assertEqual([(each["outcome"], each["said"], each["attempts"]) for each in shown],
                             [("delivered", "200 OK", 1)] * 3)
            self.assertRegex(self.psik("status", jobid).out,
                             r"callbacks to http://127.*\n +\d{4}-.* 1  queued +200 OK")

    def callbacks(self, jobid: str, delivered: int) -> List[Dict[str, Any]]:
        shown = json.loads(self.psik("status", "--json", jobid).out)[0]["callbacks"]
        return shown if sum(each["outcome"] == "delivered" for each in shown) == delivered else []

    def test_the_end_alone_is_told_once(self) -> None:
        self.up()
        jobid = self.put(callback_on="final", script="exit 3", status=3)
        array = self.put(callback_on="final", script="#!/bin/sh\nexit $task", array="0-2",
                         status=2)
        self.until(lambda: len(self.received()) >= 2)
        self.psik("start", "--failed", array)
        self.until(lambda: len(self.received()) >= 3)
        self.gone(array)
        never = self.run_spec(callback="http://127.0.0.1:%d/ok" % self.port, script="true",
                              callback_on="final", after=[array], status=5)
        self.until(lambda: len(self.received()) >= 4)
        self.psik("deliver", "--all")
        said = [tuple(item["body"].values()) for item in self.received()]
        self.assertEqual(said, [(jobid, 1, "failed", 3), (array, 0, "failed", 2),
                                (array, 0, "failed", 2), (never, 0, "canceled", 0)])
        left = psik.paths_in(os.path.join(self.prefix, "local", ".outbox"))
        self.assertEqual([path for path in left if not path.endswith("dead")], [])

    def test_an_end_is_not_told_again(self) -> None:
        self.up()
        jobid = self.put(callback_on="final")
        self.until(lambda: self.received())
        box = psik.Outbox(self.job(jobid))
        rows = self.job(jobid).rows()
        for before, left in ((len(rows), True), (1, False)):    # a submission without an answer;
            psik.write_file(box.end_path, "%d" % before)        # who made the event has died
            self.psik("deliver", jobid)
            self.assertEqual(os.path.exists(box.end_path), left)
        self.assertEqual(len(self.received()), 1)

    def test_the_end_is_told_later_where_nobody_was_there(self) -> None:
        port = self.up()
        self.down()
        jobid = self.put(callback_on="final", port=port)
        self.assertEqual(self.psik("deliver", jobid, status=1).out, "")
        self.assertIn("pending", self.psik("status", jobid).out)
        self.up()
        spec = psik.read_text(self.job(jobid).at("spec.json")).replace(str(port), str(self.port))
        psik.write_file(self.job(jobid).at("spec.json"), spec)
        self.psik("deliver", "--all")
        self.until(lambda: self.received())
        self.assertEqual(self.received()[0]["body"]["state"], "completed")

    def test_unsigned_without_a_secret(self) -> None:
        self.up()
        self.run_spec("--wait", script="true", callback="http://localhost:%d/ok" % self.port)
        self.until(lambda: len(self.received()) == 3)
        self.assertEqual({item["given"] for item in self.received()}, {""})

    def put_while_down(self) -> str:
        """Run a job whose receiver is not there; its id."""
        self.up()
        self.down()
        return self.put(port=self.port)

    def test_what_a_receiver_that_is_down_has_not_taken_waits(self) -> None:
        jobid = self.put_while_down()
        self.assertEqual(self.states(jobid), ["0 new", "1 queued", "1 active", "1 completed"])
        shown = self.psik("status", jobid).out
        self.assertIn("pending", shown)
        self.assertIn("onnection refused", shown)

    def test_to_deliver_names_what_waits(self) -> None:
        jobid = self.put_while_down()
        self.assertIn("pending", self.psik("deliver", "--all", status=1).out)
        for name in (jobid, self.job(jobid).path):
            self.psik("deliver", name, status=1)

    def test_to_deliver_wants_a_job(self) -> None:
        self.assertIn("no job", self.psik("deliver", "12345", status=3).err)
        self.assertIn("no job at", self.psik("deliver", self.folder + "/nowhere", status=3).err)

    def test_what_waited_arrives_when_the_receiver_is_up(self) -> None:
        jobid, port = self.put_while_down(), self.port
        self.up()
        text = psik.read_text(self.job(jobid).at("spec.json"))
        psik.write_file(self.job(jobid).at("spec.json"),
                        text.replace(":%d/" % port, ":%d/" % self.port))
        self.assertIn("delivered", self.psik("deliver", "--all").out)
        self.assertEqual(self.told(), WHOLE)
        self.assertEqual(self.psik("deliver", "--all").out, "")

    def test_failing_three_times(self) -> None:
        self.up()
        jobid = self.put("/fail/3")
        self.until(lambda: (self.psik("deliver", status=None).status == 0
                            and len(self.told()) == 3))
        self.assertEqual(self.told(), WHOLE)
        answers = [(item["delivery"], item["status"]) for item in self.received()]
        self.assertEqual([status for _, status in answers[:4]], [500, 500, 500, 200])
        self.assertEqual(len({delivery for delivery, _ in answers[:4]}), 1)
        self.assertEqual(self.callbacks(jobid, 3)[0]["attempts"], 4)

    def test_what_is_not_due_is_not_tried(self) -> None:
        self.up()
        job = self.job(self.put("/fail/99"))
        event = psik.Outbox(job).events()[0]
        psik.replace_file(psik.Outbox(job).path(event.place),
                          json.dumps(event._replace(due=time.time() + 60)._asdict()))
        before = len(self.received())
        self.psik("deliver", status=1)
        self.psik("poll")
        self.assertEqual(len(self.received()), before)
        self.psik("deliver", "--all", status=1)
        self.assertEqual(len(self.received()), before + 1)

    def test_a_redirect_is_not_followed(self) -> None:
        self.up()
        jobid = self.put("/moved")
        self.assertIn("301", self.psik("status", jobid).out)
        self.assertNotIn("/ok", [item["path"] for item in self.received()])

    def test_giving_up_and_trying_again(self) -> None:
        self.up()
        self.configure(callback_give_up_s=0)
        jobid = self.put("/fail/3")
        self.assertEqual(len(psik.Outbox(self.job(jobid)).events(dead=True)), 3)
        self.assertIn("dead", self.psik("status", jobid).out)
        self.psik("deliver", "--dead")
        self.assertEqual(self.told(), WHOLE)

    def test_a_hundred_jobs_ending_at_once(self) -> None:
        self.up()
        config = self.config()
        gate = os.path.join(self.folder, "gate")
        os.mkfifo(gate)  # its readers wait for a writer, and all end when he leaves
        spec = psik.JobSpec(script="#!/bin/sh\ncat %s" % gate, cb_secret=SECRET,
                            callback="http://127.0.0.1:%d/ok" % self.port)
        jobs = [psik.create(config, spec) for _ in range(100)]
        for job in jobs:
            psik.submit(job)
        for job in jobs:
            self.until(lambda: len(job.rows()) == 3, seconds=120)
        time.sleep(0.5)
        open(gate, "w").close()
        psik.wait(config, jobs, 200)
        self.until(lambda: self.psik("deliver", "--all", status=None, timeout=200).status == 0)
        for job in jobs:
            states = {item["delivery"]: item["body"]["state"] for item in self.received()
                      if item["body"]["jobid"] == job.jobid}
            self.assertEqual(list(states.values()), ["queued", "active", "completed"])

    def test_killed_at_any_point_nothing_is_lost(self) -> None:
        self.up()
        for count in range(1, 400, 19):
            open(self.log, "w").close()
            job = psik.create(self.config(), psik.JobSpec(
                script="true", cb_secret=SECRET, callback="http://127.0.0.1:%d/ok" % self.port))
            done = subprocess.run([sys.executable, "-c", KILLED, job.path, str(count)])
            self.psik("deliver", "--all")
            recorded = [(row.jobndx, row.state.value) for row in job.rows()[1:]]
            self.assertEqual(self.told(), recorded, count)
            self.assertEqual(psik.Outbox(job).events(), [])
            if done.returncode == 0:
                break
        self.assertEqual((done.returncode, recorded), (0, [(1, "completed")]))

    def test_the_secret_is_nowhere_else(self) -> None:
        self.up()
        jobid = self.run_spec(script="sleep 1; env", cb_secret="s3cr3t-w0rd",
                              callback="http://127.0.0.1:%d/fail/99" % self.port)
        self.until(lambda: "1 active" in self.states(jobid))
        self.assertEqual(processes_with("s3cr3t-w0rd"), [])
        self.psik("wait", jobid)
        found = subprocess.run(["grep", "-rl", "s3cr3t-w0rd", self.prefix],
                               stdout=subprocess.PIPE).stdout.decode().split()
        self.assertEqual(found, [self.job(jobid).at("spec.json")])
        self.assertEqual(oct(os.stat(found[0]).st_mode & 0o777), "0o600")

    def test_tls(self) -> None:
        cert, key = os.path.join(self.folder, "cert.pem"), os.path.join(self.folder, "key.pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes",
                        "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost",
                        "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"], check=True,
                       stderr=subprocess.DEVNULL)
        port = self.up(cert, key)
        jobid = self.run_spec("--wait", script="true", callback="https://localhost:%d/ok" % port,
                              cb_secret=SECRET)
        self.assertRegex(self.psik("status", jobid).out, "(?i)certificate")
        self.assertEqual(self.told(), [])
        self.configure(ca_file="cert.pem")
        self.run_spec("--wait", script="true", callback="https://localhost:%d/ok" % port,
                      cb_secret=SECRET)
        self.until(lambda: len(self.told()) == 3)
        self.assertTrue(all(item["signed"] for item in self.received()))

    def test_canceled_and_failed_are_told_too(self) -> None:
        self.up()
        self.put(script="exit 3", status=3)
        self.until(lambda: self.told() == [(1, "queued"), (1, "active"), (1, "failed")])
        open(self.log, "w").close()
        jobid = self.run_spec(script="sleep 60", callback="http://127.0.0.1:%d/ok" % self.port)
        self.until(lambda: (1, "active") in self.told())
        self.psik("cancel", jobid)
        ended = [(1, "queued"), (1, "active"), (0, "canceled"), (1, "canceled")]
        self.until(lambda: self.told() == ended)

    def test_what_a_job_script_recorded_without_psik_is_told_too(self) -> None:
        self.up()
        job = psik.create(self.config(), psik.JobSpec(
            script="sleep 1", callback="http://127.0.0.1:%d/ok" % self.port))
        # As where no Python starts.
        self.write(os.path.relpath(job.script("psik"), self.folder), "#!/bin/sh\nexit 1\n", 0o755)
        psik.submit(job)
        psik.wait(self.config(), [job], 30)
        self.assertEqual(self.states(job.jobid), ["0 new", "1 queued", "1 active", "1 completed"])
        self.assertNotIn((1, "completed"), self.told())
        self.assertEqual(self.psik("deliver", "--all").out, "%s delivered\n" % job.jobid)
        self.assertEqual(self.told(), WHOLE)
        self.assertEqual(self.psik("deliver", "--all").out, "")

    def test_two_processes_send_an_event_once(self) -> None:
        port = self.up()
        self.down()
        jobid = self.put(port=port)
        self.up()
        text = psik.read_text(self.job(jobid).at("spec.json"))
        text = text.replace(":%d/" % port, ":%d/" % self.port)
        psik.write_file(self.job(jobid).at("spec.json"), text)
        children = [subprocess.Popen([sys.executable, PSIK, "deliver", "--all"], env=self.env,
                                     stdout=subprocess.DEVNULL) for _ in range(5)]
        self.assertEqual([child.wait() for child in children], [0] * 5)
        self.assertEqual(
            [(item["body"]["jobndx"], item["body"]["state"]) for item in self.received()], WHOLE)


class Rude(Case):
    """Receivers that no framework would make: a job loses seconds to them, and no more."""

    def serve(self, answer: Callable[[Any], None], family: int = socket.AF_INET) -> int:
        """Answer each connection so, in a thread; the port."""
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        listener.listen(50)
        self.addCleanup(listener.close)
        self.requests: List[bytes] = []

        def loop() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                with sock:
                    self.requests.append(sock.recv(65536))
                    try:
                        answer(sock)
                    except OSError:
                        pass

        threading.Thread(target=loop, daemon=True).start()
        return int(listener.getsockname()[1])

    def try_job(self, url: str, said: str, most_s: float) -> str:
        self.configure(callback_timeout_s=1)
        begun = time.time()
        jobid = self.run_spec("--wait", script="exit 0", callback=url)
        self.assertLess(time.time() - begun, most_s)
        self.assertEqual(self.states(jobid), ["0 new", "1 queued", "1 active", "1 completed"])
        self.until(lambda: said in self.psik("status", jobid).out, said)
        return jobid

    def test_answering_nothing(self) -> None:
        port = self.serve(lambda sock: time.sleep(60))
        self.try_job("http://127.0.0.1:%d/" % port, "no answer in time", 40)

    def test_a_byte_now_and_then(self) -> None:
        def drip(sock: Any) -> None:
            for _ in range(100):
                sock.sendall(b"H")
                time.sleep(0.3)
        self.try_job("http://127.0.0.1:%d/" % self.serve(drip), "no answer in time", 40)

    def test_closing_in_mid_answer(self) -> None:
        port = self.serve(lambda sock: sock.sendall(b"HTTP/1.1 200 OK\r\nContent-"))
        self.try_job("http://127.0.0.1:%d/" % port, "closed the connection in mid-answer", 40)

    def test_no_http(self) -> None:
        port = self.serve(lambda sock: sock.sendall(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"))
        self.try_job("http://127.0.0.1:%d/" % port, "not HTTP/1", 40)

    def test_a_head_without_end(self) -> None:
        def flood(sock: Any) -> None:
            for _ in range(100):
                sock.sendall(b"x" * 4096)
        self.try_job("http://127.0.0.1:%d/" % self.serve(flood),
                     "head of the answer is too long", 40)

    def test_a_name_that_does_not_resolve(self) -> None:
        self.try_job("http://no-such-host.invalid/", "does not resolve", 40)

    def test_continue_then_ok_over_ipv6(self) -> None:
        port = self.serve(lambda sock: sock.sendall(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"), socket.AF_INET6)
        self.try_job("http://[::1]:%d/x?y" % port, "204 No Content", 40)
        self.assertTrue(
            self.requests[0].startswith(b"POST /x?y HTTP/1.1\r\nHost: [::1]:%d\r\n" % port))

    def test_a_proxy_only_where_the_config_says_so(self) -> None:
        port = self.serve(
            lambda sock: sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
        env = {"http_proxy": "http://127.0.0.1:%d" % port, "no_proxy": ""}
        self.configure(callback_timeout_s=1)
        spec = json.dumps({"script": "true", "callback": "http://elsewhere.invalid/x"})
        self.psik("run", "--wait", "-", stdin=spec, env=env)
        self.assertEqual(self.requests, [])
        self.configure(callback_timeout_s=5, callback_proxy=True)
        jobid = self.psik("run", "--wait", "-", stdin=spec, env=env).out.strip()
        self.until(lambda: len(self.requests) == 3)
        self.assertTrue(self.requests[0].startswith(
            b"POST http://elsewhere.invalid/x HTTP/1.1\r\nHost: elsewhere.invalid\r\n"))
        self.psik("rm", jobid)



if __name__ == "__main__":
    unittest.main()
