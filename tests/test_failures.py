"""What is said and done when something is amiss: files, scripts, hosts, disks, requests."""
import asyncio
import contextlib
import errno
import fcntl
import gc
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import unittest
from typing import Any, Callable, Dict, Iterator, List, Tuple, Type
from unittest import mock

import psik
from clusters import age_submission
from harness import FAST, PSIK, Case, captured, needs, processes_with

FORM = b'--xx\r\nContent-Disposition: form-data; name="files"; filename="f"\r\n\r\n'
MULTIPART = "multipart/form-data; boundary=xx"
# Method, path below the job, type and bytes of the body, status, what is said.
REFUSED: List[Tuple[str, str, str, bytes, int, str]] = [
    ("PUT", "/access", "application/json", b"[1]", 422, "should be {user"),
    ("PUT", "/access", "application/json", b'{"ada": [{}]}', 422, "is not an operation"),
    ("PUT", "/access", "application/json", b'{"": ["GET"]}', 422, "is not a user's name"),
    ("PUT", "/access", "application/json", b'{"addr:1.2.3.4": ["GET"]}', 422,
     "is not a user's name"),
    ("PUT", "/access", "application/json", b"[" * 60000, 422, "nested too deeply"),
    ("GET", "/archive?path=nowhere", "", b"", 404, "no directory 'nowhere'"),
    ("GET", "/archive?path=..", "", b"", 403, "leads out"),
    ("GET", "/files/nowhere/at/all", "", b"", 404, "no file"),
    ("GET", "/logs/nothing.9", "", b"", 404, "no file"),
    ("GET", "/logs/stdout.1?offset=1&tail=1", "", b"", 422, "exclude each other"),
    ("PUT", "/files/.psik-upload-x", "", b"x", 400, "names no file"),
    ("PUT", "/files/a/..", "", b"x", 400, "names no file"),
    ("DELETE", "/files/..", "", b"", 400, "names no file"),
    ("DELETE", "/files/nothing", "", b"", 404, "no file"),
    ("PATCH", "/state", "", b"", 405, "no PATCH here"),
    ("POST", "/files", "text/plain", b"x", 415, "multipart/form-data"),
    ("POST", "/files", MULTIPART, b"--xx--\r\n", 422, "no part of the form"),
    ("POST", "/files", MULTIPART, b"moo\r\n--xx--\r\n", 400, "does not begin with its boundary"),
    ("POST", "/files", MULTIPART, b"--xxmoo\r\n\r\n\r\n--xx--\r\n", 400,
     "followed by something else"),
    ("POST", "/files", MULTIPART, b"--xx\r\nX: " + b"y" * 200000, 400, "too long"),
    ("POST", "/files", MULTIPART, FORM + b"cut", 400, "was cut"),
    ("POST", "/files", MULTIPART, b"--xx\r\nContent-Type: x/y\r\n\r\nmoo\r\n--xx--\r\n", 422,
     "no part of the form"),
]


class Memory:
    """A Wire whose other end has sent all that it will."""
    recv_size = 1000
    is_cut = is_gone = False

    def __init__(self, data: bytes) -> None:
        self.data, self.sent = data, b""

    def read(self, size: int, timeout_s: float = 0) -> bytes:
        size = min(size, self.recv_size)
        block, self.data = self.data[:size], self.data[size:]
        return block

    def send(self, data: bytes) -> None:
        self.sent += data

    def send_file(self, file: Any, offset: int, length: int) -> None:
        file.seek(offset)
        self.sent += file.read(length)


class Amiss(Case):
    """A test with a job that was made and not started."""

    def setUp(self) -> None:
        super().setUp()
        self.made = self.job(self.run_spec("--no-submit", script="true", name="one"))

    def spoil(self, text: str, *parts: str) -> str:
        """Overwrite a file of the job; its path."""
        with open(self.made.at(*parts), "w") as file:
            file.write(text)
        os.chmod(self.made.at(*parts), 0o700)
        return str(self.made.at(*parts))

    def refused(self, kind: Type[Exception], said: str, function: Callable[..., Any],
                *args: Any) -> None:
        """Check that a call raises this, and that it says so."""
        with self.assertRaises(kind) as caught:
            function(*args)
        self.assertIn(said, str(caught.exception))

    def ask(self, api: Any, method: str, target: str, kind: str = "", body: bytes = b"",
            **headers: str) -> Any:
        """What the dispatcher answers: (status, what is sent)."""
        wire: Any = Memory(body)
        if kind:
            headers["content-type"] = kind
        req = psik.Request(method, target, headers, psik.Body(wire, len(body)))
        caller = psik.Caller(psik.LOCAL_USER, trusted=True)
        response = psik.ROUTER.dispatch(api, req, lambda req, route: caller)
        response.send(wire, closes=True, chunks=False)
        return response.status, wire.sent.decode("utf-8", "replace")


class Trees(Amiss):
    def test_a_program_that_takes_too_long_leaves_none_of_its_own(self) -> None:
        nap = "61.%07d" % os.getpid()
        with self.assertRaisesRegex(TimeoutError, "no answer from /bin/sh within 0.5 s"):
            psik.run_program(["/bin/sh", "-c", "sleep %s & sleep %s" % (nap, nap)], 0.5)
        self.until(lambda: not processes_with("sleep " + nap),
                   "the end of what it started", seconds=5)

    def test_a_file_that_cannot_be_read_is_not_taken_for_an_empty_one(self) -> None:
        path = self.write("revoked", "one two\n")
        with mock.patch("builtins.open", side_effect=OSError(errno.EMFILE, "too many")):
            self.assertRaises(OSError, psik.read_unless_known, path)
        self.assertEqual(psik.read_unless_known(path), "one two\n")
        self.assertEqual(psik.read_unless_known(path + ".gone"), "")

    def test_a_log_of_callbacks_that_was_cut_short(self) -> None:
        line = "1795220145.691,1,active,%s,2,1,200 OK" % ("a" * 32)
        self.spoil(line[:30] + line + "\n" + line[:40] + "\n" + line + "\n", "log", "callbacks")
        self.assertEqual([each["place"] for each in psik.Outbox(self.made).delivered()], [2, 2])

    def poll(self, text: str, job: psik.JobDir) -> None:
        """Let a job be queued since long, and its poll script say this."""
        psik.write_file(job.script("poll"), "#!/bin/sh\n%s\n" % text, 0o700)
        psik.write_file(job.log("submit", 1), "")
        stamp = time.time() - 100
        psik.write_file(job.status_path, "%.3f,0,new,0\n%.3f,1,queued,%s\n"
                        % (stamp, stamp, job.jobid.replace(".", "")))

    def test_a_listing_by_state_asks_for_all_that_it_looks_at(self) -> None:
        config = psik.Config(prefix=self.prefix, poll_interval_s=60, poll_grace_s=0)
        jobs = [self.made, psik.create(config, psik.JobSpec(script="x"))]
        text = "for id; do case $id in %s) echo $id failed 3 ;; *) echo $id active - ;; esac; done"
        for job in jobs:
            self.poll(text % jobs[0].jobid.replace(".", ""), job)
        listed = psik.list_jobs(config, state="failed", limit=1)
        self.assertEqual([each.jobid for each in listed], [jobs[0].jobid])

    def test_an_answer_about_another_job_of_the_same_native_id(self) -> None:
        config = psik.Config(prefix=self.prefix, poll_interval_s=3600, poll_grace_s=0)
        psik.reached(self.made, 1, psik.JobState.queued, 77)
        now = time.time()
        status = psik.Status("77", "psik-1600000000.000.1", "completed", "0", "", now, now)
        path = os.path.join(os.path.dirname(self.made.path), ".poll.json")
        psik.write_file(path, psik.Answer(now, [status]).text())
        self.assertEqual([each.state for each in psik.list_jobs(config)], ["queued"])
        ours = status._replace(tag="psik-%s.1" % self.made.jobid)
        psik.write_file(path, psik.Answer(now, [ours]).text())
        self.assertEqual([each.state for each in psik.list_jobs(config)], ["completed"])

    def test_one_answer_without_a_job_does_not_end_it(self) -> None:
        config = psik.Config(prefix=self.prefix, poll_interval_s=0, poll_grace_s=1)
        self.poll("true", self.made)
        for text, state in (("true", "queued"), ("exit 1", "queued"), ("true", "failed")):
            with self.subTest(text, state=state):
                psik.write_file(self.made.script("poll"), "#!/bin/sh\n%s\n" % text, 0o700)
                with captured():
                    self.assertEqual([each.state for each in psik.list_jobs(config)], [state])
                time.sleep(1.1)

    def test_an_answer_that_is_kept_is_no_second_one(self) -> None:
        self.poll("true", self.made)
        for interval_s, state in ((60, "queued"), (60, "queued"), (0, "failed")):
            config = psik.Config(prefix=self.prefix, poll_interval_s=interval_s, poll_grace_s=1)
            self.assertEqual([each.state for each in psik.list_jobs(config)], [state])
            time.sleep(1.1)

    def test_which_poll_lines_are_about_a_step(self) -> None:
        waiting = psik.Step(self.made, 2, "77")
        running = waiting._replace(is_claimed=True)
        tag = "psik-%s." % self.made.jobid
        for native, text, of_waiting, of_running in (
                ("77", tag + "2", True, True), ("78", tag + "2", True, False),   # made twice
                ("77", tag + "1", True, True), ("78", tag + "1", False, False),  # requeued
                ("77", tag + "3", False, False), ("77", "psik-1.500.2", False, False),
                ("77", "-", True, True), ("78", "-", False, False),
                ("77", "none", False, True), ("78", "none", False, False)):
            with self.subTest(native=native, tag=text):
                self.assertEqual(waiting.is_meant_by(native, text), of_waiting)
                self.assertEqual(running.is_meant_by(native, text), of_running)

    def test_a_listing_that_lags_is_no_requeue(self) -> None:
        config = psik.Config(prefix=self.prefix, poll_interval_s=0, poll_grace_s=0)
        self.poll("echo 77 queued -", self.made)
        old = "%.3f,0,new,0\n%.3f,1,queued,77\n" % (time.time() - 100, time.time() - 100)
        for age_s, last in ((1, "1 active"), (psik.LISTED_S + 1, "2 queued")):
            psik.write_file(self.made.status_path,
                            old + "%.3f,1,active,77\n" % (time.time() - age_s))
            psik.list_jobs(config)
            self.assertEqual(self.states(self.made.jobid)[-1], last)

    def test_what_somebody_else_has_recorded_is_no_requeue(self) -> None:
        self.poll("echo 77 queued -", self.made)
        for rows in ("1,active,77\n%.3f,0,canceled,0", "1,active,77\n%.3f,1,completed,0"):
            now = time.time() - 100
            text = "%.3f,0,new,0\n%.3f,1,queued,77\n%.3f," % (now, now, now) + rows % now + "\n"
            psik.write_file(self.made.status_path, text)
            psik.record_requeue(psik.Step(self.made, 1, "77", True))
            self.assertNotIn("2 queued", self.states(self.made.jobid))

    def test_the_grace_begins_anew_for_a_step_of_which_nobody_asked_for_long(self) -> None:
        now, key = time.time(), ("77", "psik-%s.1" % self.made.jobid)
        for age_s, tag, is_new in ((5, key[1], False), (psik.WANTED_S + 1, key[1], True),
                                   (5, "psik-1.500.1", True)):
            old = psik.Status("77", tag, "", "-", "", now - 100, now - age_s)
            step = psik.Step(self.made, 1, "77")
            status = psik.Answer(now, [old]).next([], [key], [key]).of(step)
            assert status
            self.assertEqual(status.since >= now, is_new)

    def test_one_broken_job_does_not_hide_the_others(self) -> None:
        config = psik.Config(prefix=self.prefix, poll_interval_s=0, poll_grace_s=0)
        jobs = [self.made, psik.create(config, psik.JobSpec(script="x"))]
        for job in jobs:
            self.poll("for id; do echo $id failed 3; done", job)
        psik.write_file(jobs[1].script("callback.json"), "{")
        with captured() as (_, err):
            states = {each.jobid: each.state for each in psik.list_jobs(config)}
        self.assertEqual(states, {jobs[0].jobid: "failed", jobs[1].jobid: "queued"})
        self.assertIn("is not up to date", err.getvalue())

    def test_what_was_recorded_stands_though_it_cannot_be_delivered(self) -> None:
        with mock.patch("psik.deliver", side_effect=OSError("oh")), captured() as (_, err):
            self.assertEqual(psik.reached(self.made, 1, psik.JobState.active, 7).info, 7)
        self.assertIn("its callbacks cannot be sent now: oh", err.getvalue())

    def test_a_cancel_that_cannot_ask_for_a_cut_submission_ends_what_it_knows(self) -> None:
        psik.reached(self.made, 1, psik.JobState.active, 77)
        self.spoil("#!/bin/sh\necho $1 >>%s/ended\n" % self.folder, "scripts", "cancel")
        self.spoil("#!/bin/sh\necho 77 active -\n", "scripts", "poll")
        problem = psik.BackendError("nobody answers")
        with mock.patch("psik.adopt", side_effect=problem):
            self.refused(psik.BackendError, "nobody answers", psik.cancel, self.made)
        self.assertEqual(psik.read_or_empty(os.path.join(self.folder, "ended")), "77\n")

    def test_a_copy_that_the_disk_does_not_take_leaves_nothing(self) -> None:
        copies = psik.Copies(os.path.join(self.folder, "elsewhere"))
        os.makedirs(copies.folder)
        with mock.patch("psik.os.rename", side_effect=OSError(errno.ENOSPC, "full")):
            self.assertRaises(OSError, copies.write)
        self.assertEqual(os.listdir(copies.folder), [])

    def test_a_row_of_which_the_disk_takes_a_part(self) -> None:
        write = os.write

        def full(fd: int, data: bytes) -> int:
            if len(data) < 20:
                raise OSError(errno.ENOSPC, "full")
            return write(fd, data[:15])

        with self.made.history() as history:
            with mock.patch("psik.os.write", full), self.assertRaisesRegex(OSError, "full"):
                history.append([(1, psik.JobState.queued, 5)])
            history.append([(1, psik.JobState.active, 5)])
        with captured():
            self.assertEqual([row.state for row in self.made.rows()], ["new", "active"])

    def test_a_spec_that_names_its_backend(self) -> None:
        spec = json.loads(psik.read_text(self.made.at("spec.json")))
        self.spoil(json.dumps(dict(spec, backend="local")), "spec.json")
        self.psik("start", "--wait", self.made.jobid)
        moved = self.prefix + "-moved"
        os.rename(self.prefix, moved)
        self.psik("start", "--wait", self.made.jobid, env={"PSIK_PREFIX": moved})

    def test_of_a_running_and_a_canceled_step_the_running_one_is_named(self) -> None:
        for row in ((1, "queued", 7), (0, "canceled", 0), (2, "queued", 8), (2, "active", 8)):
            psik.reached(self.made, row[0], psik.JobState(row[1]), row[2])
        self.refused(psik.ConflictError, "its step 2 is active", psik.submit, self.made)

    def test_broken_files(self) -> None:
        path = self.spoil("{", "spec.json")
        self.assertIn(path + ":1:2: not JSON", self.psik("status", "last", status=2).err)
        self.assertIn(self.made.jobid, self.psik("ls").out)
        self.spoil("[" * 100000, "spec.json")
        self.assertIn(self.made.jobid, self.psik("ls").out)
        self.spoil('{"script": "x\xff"}', "spec.json")
        with open(path, "wb") as file:
            file.write(b'{"script": "\xff"}')
        self.refused(psik.InvalidError, "not UTF-8 text (byte 12)", self.made.spec)
        path = self.spoil("{", "scripts", "callback.json")
        self.refused(psik.InvalidError, path + ": is not valid", psik.reached, self.made, 1,
                     psik.JobState.active)
        self.spoil("[]", "access.json")
        self.assertEqual(psik.Access.of(self.made).owner, psik.LOCAL_USER)
        os.makedirs(os.path.join(self.prefix, ".tokens"))
        key = self.write("jobs/.tokens/key", "moo", 0o600)
        self.refused(psik.InvalidError, key + ": it holds no key", psik.Keyring(self.config()).key)

    def test_a_foreign_file_in_the_outbox_and_a_broken_job_keep_no_event(self) -> None:
        config = self.config()
        text = psik.json.dumps({"script": "true", "callback": "http://127.0.0.1:9/"})
        jobs = [psik.create(config, psik.load_spec(text, "here")) for _ in range(2)]
        for job in jobs:
            psik.reached(job, 1, psik.JobState.active)
        with open(jobs[0].at("scripts", "callback.json"), "w") as file:
            file.write("{")
        with open(psik.Outbox(jobs[1]).path(9), "w") as file:
            file.write("{}")
        with captured() as (_, err):
            self.assertEqual(psik.deliver_all(config, now=True),
                             {jobs[0].jobid: False, jobs[1].jobid: False})
        self.assertIn("callback.json: is not valid", err.getvalue())
        self.assertIn(".000009.json: not an event; remove it", err.getvalue())
        self.assertEqual(len([each for each in psik.Outbox(jobs[1]).describe()
                              if each["outcome"] == "pending"]), 1)
        psik.remove(jobs[1], force=True)
        self.assertFalse(os.path.exists(psik.Outbox(jobs[1]).path(1)))

    def test_an_event_whose_row_was_never_written_is_dropped(self) -> None:
        job = psik.create(self.config(),
                          psik.JobSpec(script="true", callback="http://127.0.0.1:9/"))
        for place in (1, 7):
            psik.Outbox(job).add(place, 1, psik.JobState.active, 0)
        self.assertTrue(psik.deliver(job))
        # It is not looked for at every transition.
        self.assertEqual([event["place"] for event in psik.Outbox(job).describe()], [7])
        psik.deliver_all(self.config())
        self.assertEqual(psik.Outbox(job).describe(), [])

    def test_an_outbox_that_is_out_of_reach_and_a_long_history(self) -> None:
        job = psik.create(self.config(),
                          psik.JobSpec(script="true", callback="http://127.0.0.1:9/"))
        psik.Outbox(job).add(1234567, 1, psik.JobState.active, 0)
        root = os.path.dirname(job.path)
        self.assertEqual(psik.Outbox.jobs_in(root), [job.jobid])
        self.assertEqual(len(psik.Outbox(job).events()), 1)
        with mock.patch("psik.paths_in", side_effect=PermissionError):
            self.assertEqual((psik.Outbox.jobs_in(root), psik.Outbox(job).events()), ([], []))

    def test_an_event_of_another_row_is_not_told(self) -> None:
        job = psik.create(self.config(),
                          psik.JobSpec(script="true", callback="http://127.0.0.1:9/"))
        # Its writer died, and a job script wrote another row.
        psik.Outbox(job).add(1, 0, psik.JobState.canceled, 0)
        with open(job.status_path, "a") as file:
            file.write("%.3f,1,active,007\n" % time.time())
        for _ in range(2):
            self.assertFalse(psik.deliver(job))
            self.assertEqual([(event["jobndx"], event["state"])
                              for event in psik.Outbox(job).describe()], [(1, "active")])

    def test_while_another_process_delivers_one_waits_and_no_longer_than_it_may(self) -> None:
        self.configure(callback_timeout_s=1)
        job = psik.create(self.config(),
                          psik.JobSpec(script="true", callback="http://127.0.0.1:9/"))
        with open(job.at("log", "callbacks"), "w") as file, psik.locked(file.fileno()):
            begun = time.time()
            self.assertFalse(psik.deliver(job))
            self.assertLess(time.time() - begun, 5)

    def test_a_proxy_that_refuses(self) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)

            def refuse() -> None:
                connection, _ = listener.accept()
                self.asked = connection.recv(1000)
                connection.sendall(b"HTTP/1.1 403 Not through me\r\n\r\n")
                connection.close()

            thread = threading.Thread(target=refuse)
            thread.start()
            proxy = "http://127.0.0.1:%d" % listener.getsockname()[1]
            settings = psik.CallbackSettings(5, 5, None, True)
            with mock.patch.dict(os.environ, {"https_proxy": proxy, "no_proxy": ""}):
                post = psik.Post("https://example.org/x", settings, time.monotonic() + 5)
                self.refused(OSError, "the proxy refused: 403 Not through me", post.send, b"", {})
            thread.join(10)
            self.assertTrue(
                self.asked.startswith(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n"))

    def test_scripts_that_fail(self) -> None:
        self.spoil("#!/bin/sh\nexit 3\n", "scripts", "cancel")
        self.spoil("#!/bin/sh\necho no such controller >&2\nexit 1\n", "scripts", "poll")
        self.spoil("#!/nowhere\n", "scripts", "submit")
        self.refused(psik.BackendError, "did not take it", psik.submit, self.made)
        self.assertIn("No such file", psik.read_or_empty(self.made.log("submit", 1)))
        psik.reached(self.made, 2, psik.JobState.queued, 77)
        with captured() as (_, err):
            psik.reconcile(self.config(), [(self.made, self.made.rows())], force=True)
        self.assertIn("could not ask the scheduler: no such controller", err.getvalue())
        fault = psik.Answer.latest(os.path.dirname(self.made.path)).fault
        self.assertIn("no such controller", fault)
        self.refused(psik.BackendError, "could not be told so: %s could not ask the scheduler"
                     % self.made.script("poll"), psik.cancel, self.made)
        self.spoil("#!/bin/sh\necho 77 active -\n", "scripts", "poll")
        self.refused(psik.BackendError, "could not be told so: exit 3; `", psik.cancel, self.made)
        os.unlink(self.made.at("scripts", "cancel"))
        self.refused(psik.BackendError, "could not be told so: [Errno 2]", psik.cancel, self.made)
        psik.write_file(self.made.log("host", 2), os.uname().nodename + "\n")
        self.refused(psik.BackendError, "could not be ended: [Errno 2]", psik.cancel, self.made)
        with open(os.path.join(os.path.dirname(self.made.path), ".poll.json"), "w") as file:
            file.write("[")
        self.assertEqual(psik.Answer.latest(os.path.dirname(self.made.path)).fault, "")

    def test_a_cut_submission_of_which_nobody_can_be_asked(self) -> None:
        self.spoil("#!/bin/sh\necho no such controller >&2\nexit 1\n", "scripts", "poll")
        self.spoil("", "log", "submit.1")
        self.refused(psik.BackendError, "could not ask the scheduler: no such controller",
                     psik.submit, self.made)
        self.spoil("elsewhere", "log", "host.1")
        self.refused(psik.BackendError, "was cut short on elsewhere; try again there",
                     psik.submit, self.made)
        self.assertEqual([row.state for row in self.made.rows()], ["new"])
        self.psik("ls")
        os.unlink(self.made.log("host", 1))
        os.unlink(self.made.script("poll"))
        said = "no poll script to look for it; remove " + self.made.log("submit", 1)
        self.refused(psik.BackendError, said, psik.submit, self.made)
        os.unlink(self.made.log("submit", 1))
        psik.submit(self.made)

    def lost(self, jobs: int = 1, steps: int = 0) -> List[Any]:
        """Jobs with so many steps that are completed, and a submission whose answer never came.

        Their poll script notes each call in `asked`, and lists what `listed` holds; their cancel
        script notes the native ids in `ended`.
        """
        made = [self.job(self.run_spec("--no-submit", script="true")) for _ in range(jobs)]
        for job in made:
            for name, text in (("poll", "{ echo asked; sort; } >>%s; cat %s 2>/dev/null; true"),
                               ("cancel", "echo $* >>%s; : %s")):
                paths = (os.path.join(self.folder, each) for each in
                         ("asked" if name == "poll" else "ended", "listed"))
                psik.write_file(job.script(name), "#!/bin/sh\n" + text % tuple(paths) + "\n", 0o700)
            for step in range(1, steps + 1):
                psik.reached(job, step, psik.JobState.queued, 70 + step)
                psik.reached(job, step, psik.JobState.completed, 0)
            psik.write_file(job.log("submit", steps + 1), "no answer\n")
        return made

    def noted(self, name: str) -> List[str]:
        """The lines of `asked` or `ended`."""
        return psik.read_or_empty(os.path.join(self.folder, name)).splitlines()

    def test_lost_submissions_are_looked_for_by_one_question(self) -> None:
        jobs = self.lost(5)
        self.write("listed", "".join("%d queued - %s.1\n" % (800 + place, job.tag)
                                     for place, job in enumerate(jobs[:3])))
        listing = self.psik("ls").out
        self.assertEqual(self.noted("asked"),
                         ["asked"] + sorted("- %s.1" % job.tag for job in jobs))
        self.assertEqual([len(job.rows()) for job in jobs], [2, 2, 2, 1, 1])
        self.assertEqual(jobs[1].rows()[-1][1:], (1, "queued", 801))
        self.assertEqual(listing.count("submission unknown since"), 2)

    def test_a_lost_submission_of_a_later_step_is_shown(self) -> None:
        job, = self.lost(steps=1)
        self.assertIn("submission of step 2 unknown since 20", self.psik("ls").out)
        self.assertIn("it is not known yet whether its scheduler has step 2",
                      self.psik("rm", job.jobid, status=5).err)
        self.assertIn("submission of step 2 unknown", self.psik("wait", job.jobid, status=5).err)
        self.write("listed", "88 failed 3 %s.2\n" % job.tag)
        self.psik("ls")     # takes the answer that is kept
        self.psik("poll")
        self.assertEqual(self.states(job.jobid)[-2:], ["2 queued", "2 failed"])
        self.psik("wait", job.jobid, status=3)
        self.psik("rm", job.jobid)

    def test_a_lost_submission_that_is_canceled(self) -> None:
        job, = self.lost()
        self.assertNotIn("has ended already", self.psik("cancel", job.jobid).err)
        self.assertEqual(self.states(job.jobid)[-1], "0 canceled")
        self.assertIn("submission unknown since", self.psik("ls").out)
        self.write("listed", "88 active - %s.1\n" % job.tag)
        self.psik("poll")   # finds it
        self.psik("poll")   # ends it
        self.assertEqual(self.noted("ended"), ["88"])
        self.assertFalse(os.path.exists(job.log("cancel", 1)))

    def test_what_is_owed_to_be_canceled_is_told_by_one_call(self) -> None:
        jobs = self.lost(4)
        for place, job in enumerate(jobs):
            os.unlink(job.log("submit", 1))
            psik.reached(job, 1, psik.JobState.active, 800 + place)
            psik.write_file(job.log("cancel", 1), "")
            psik.reached(job, 0, psik.JobState.canceled)
        self.write("listed", "".join("%d active - %s.1\n" % (800 + place, job.tag)
                                     for place, job in enumerate(jobs)))
        self.psik("poll")
        self.assertEqual(sorted(self.noted("ended")[0].split()), ["800", "801", "802", "803"])
        self.assertEqual(len(self.noted("ended")), 1)
        self.assertFalse(any(os.path.exists(job.log("cancel", 1)) for job in jobs))

    def test_a_submission_in_progress_is_not_lost_and_not_forgotten(self) -> None:
        job, = self.lost(steps=1)
        tracker = psik.Tracker(self.config())
        with job.history():     # whoever submits it holds the lock
            self.assertIsNone(psik.lost_step(job, psik.Steps(job.rows())))
            self.assertNotIn("unknown", self.psik("ls").out)
            self.assertIn("it is not known yet", self.psik("rm", job.jobid, status=5).err)
            tracker.look(deep=True)
        self.write("listed", "88 active - %s.2\n" % job.tag)
        tracker.poll()
        self.assertEqual(self.states(job.jobid)[-1], "2 queued")

    def test_a_job_whose_logs_were_removed_is_started(self) -> None:
        shutil.rmtree(self.made.at("log"))
        self.psik("start", "--wait", self.made.jobid)
        self.assertEqual(self.states(self.made.jobid)[-1], "1 completed")

    def test_a_link_that_leads_nowhere_among_the_logs(self) -> None:
        os.symlink("/nowhere/at/all", self.made.at("log", "latest"))
        self.psik("start", "--wait", self.made.jobid)
        for argv in (("status",), ("status", "--json"), ("logs",), ("why",)):
            self.psik(*argv, self.made.jobid)

    def test_a_prefix_below_another_one(self) -> None:
        self.prefix = os.path.join(self.folder, ".psik", "data")
        self.env["PSIK_PREFIX"] = self.prefix
        self.psik("run", "--wait", "--", "true")
        self.psik("start", "--wait", "last")

    def test_a_job_whose_logs_were_removed_is_removed(self) -> None:
        jobid = self.run_spec("--wait", script="true", callback="http://127.0.0.1:9/")
        shutil.rmtree(self.job(jobid).at("log"))
        self.assertIn("callbacks cannot be sent now", self.psik("rm", jobid).err)

    def test_who_waits_while_it_is_submitted(self) -> None:
        self.assertIn("was never started", self.psik("wait", self.made.jobid, status=5).err)
        with self.made.history() as history:    # whoever submits it holds the lock
            looks = psik.look_at(self.config(), [self.made])
            self.assertFalse(psik.all_ended(looks))
            history.append([(1, psik.JobState.completed, 0)])
        self.psik("wait", self.made.jobid)

    def test_a_task_whose_scheduler_cannot_be_told_is_canceled_again(self) -> None:
        job = self.job(self.run_spec("--no-submit", script="true", array=3))
        psik.write_file(job.log("round", 0), "0 1-3\n")
        for step in (1, 2, 3):
            psik.reached(job, step, psik.JobState.queued, 70)
        with mock.patch.object(psik.Ending, "cancel", side_effect=psik.BackendError("no")):
            self.refused(psik.BackendError, "cancel it again", psik.cancel, job, False, [2])
        self.assertEqual(self.states(job.jobid)[-1], "3 queued")
        with mock.patch.object(psik.Ending, "cancel") as told:
            psik.cancel(job, tasks=[2])
        self.assertEqual([step.native for step in told.call_args[0][0]], ["70+2"])
        self.assertEqual(self.states(job.jobid)[-1], "2 canceled")
        # Who asks the scheduler before that is recorded knows who has ended it.
        psik.write_file(job.log("cancel", 3), "")
        status = psik.Status("70", "", "failed", "-", "CANCELLED", time.time(), 0.0)
        psik.Status.record_ends([(psik.Step(job, 3, "70", False, 3), status)])
        self.assertEqual(self.states(job.jobid)[-1], "3 canceled")

    def test_a_piece_of_an_array_that_was_recorded_in_part(self) -> None:
        job = self.job(self.run_spec("--no-submit", script="true", array="1-4%2"))
        pieces = [psik.Piece(0, [1, 2], 2), psik.Piece(2, [1, 2], 2)]
        psik.Piece.plan(job, 0, pieces)
        psik.reached(job, 1, psik.JobState.queued, 70)
        psik.reached(job, 1, psik.JobState.completed, 0)
        round_ = psik.NextRound(job, psik.Steps(job.rows()), False)
        self.assertEqual(round_.before(pieces[1]), "")

    def test_tasks_of_one_native_id_are_asked_for_once(self) -> None:
        with mock.patch.object(psik.JobScripts, "run",
                               return_value=psik.Finished(0, "", "")) as run:
            psik.ask_scheduler(self.made, [("70", "psik-1.1"), ("70", "psik-1.2")], 5)
        self.assertEqual(run.call_args[0][1], ["70"])

    def test_a_row_that_could_not_be_read_is_refused(self) -> None:
        for jobndx, info in ((1, "out of memory"), (1, "a,b"), (-1, 0), (1, "x" * 201)):
            self.refused(psik.InvalidError, "INFO one short word", psik.reached, self.made, jobndx,
                         psik.JobState.failed, info)

    def test_a_pipe_that_does_not_wait(self) -> None:
        end, begin = os.pipe()
        os.set_blocking(begin, False)
        data, found = b"moo" * 300000, []
        with open(end, "rb") as reader, psik.closing_fd(begin):
            thread = threading.Thread(target=lambda: found.append(reader.read(len(data))))
            thread.start()
            psik.write_whole(begin, data)
            thread.join()
        self.assertEqual(found, [data])

    def test_the_socket_of_a_server_that_is_busy(self) -> None:
        place = psik.UnixPlace(os.path.join(self.folder, "busy.sock"))
        with socket.socket(socket.AF_UNIX) as server, contextlib.ExitStack() as clients:
            server.bind(place.path)
            server.listen(0)
            for _ in range(2):
                client = clients.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect_ex(place.path)
            self.refused(psik.ConflictError, "does not answer", place.clear)
        self.assertTrue(os.path.exists(place.path))

    def test_a_server_whose_psik_py_is_replaced(self) -> None:
        path = self.write("psik-here.py", psik.read_text(PSIK))
        self.addCleanup(psik.Copies.files.cache_clear)
        with mock.patch.object(psik, "FILE", path):
            psik.Copies.files.cache_clear()
            psik.Api(self.config())
            self.write("psik-here.py", "another version")
            self.assertNotIn(b"another version", psik.Copies.files().values())

    def test_a_copy_of_which_a_file_is_gone(self) -> None:
        copy, = (path for path in psik.paths_in(os.path.join(self.prefix, ".psik"))
                 if os.path.isdir(path))
        os.unlink(os.path.join(copy, "supervisor.py"))
        self.assertIn("%s was changed: remove it" % copy,
                      self.psik("run", "--", "true", status=6).err)
        shutil.rmtree(copy)
        self.psik("run", "--wait", "--", "true")

    def test_two_hosts_do_not_change_the_copies_at_the_same_time(self) -> None:
        flags = fcntl.LOCK_EX | fcntl.LOCK_NB
        with psik.Copies(self.prefix).turn(), open(os.path.join(self.prefix, ".psik", "lock"),
                                                   "r+") as file:
            self.assertRaises(BlockingIOError, fcntl.flock, file, flags)
        self.assertEqual(os.listdir(os.path.join(self.prefix, ".psik")).count("lock"), 1)

    def test_a_program_that_could_not_be_run_is_tried_again(self) -> None:
        path = os.path.join(self.folder, "late")
        self.assertEqual(psik.ask_program([path]), "")
        self.write("late", "#!/bin/sh\necho here\n", 0o755)
        self.assertEqual(psik.ask_program([path]), "here")

    def test_a_submission_is_refused_in_its_own_words(self) -> None:
        for why, status in (("error: first", os.EX_TEMPFAIL), ("error: second", 1)):
            self.spoil("#!/bin/sh\necho '%s' >&2\nexit %d\n" % (why, status), "scripts", "submit")
            said = self.psik("start", "--force", self.made.jobid, status=4).err
            self.assertIn(why, said)
        self.assertNotIn("error: first", said)

    def test_a_cancel_that_is_owed_where_nothing_can_be_removed(self) -> None:
        job, = self.lost()
        os.unlink(job.log("submit", 1))
        psik.reached(job, 1, psik.JobState.active, 800)
        psik.write_file(job.log("cancel", 1), "")
        psik.reached(job, 0, psik.JobState.canceled)
        with mock.patch.object(psik.Ending, "tell", side_effect=OSError(30, "Read-only")):
            with captured() as (_, err):
                psik.list_jobs(self.config())
        self.assertIn("their scheduler could not be told", err.getvalue())

    def test_the_output_of_an_array_that_was_not_submitted_whole(self) -> None:
        job = self.job(self.run_spec("--no-submit", script="true", array=2))
        psik.reached(job, 1, psik.JobState.completed)
        psik.write_file(job.log("stdout", 1), "moo\n")
        self.assertEqual(psik.logs(job), "moo\n")

    def test_a_file_of_a_time_far_away(self) -> None:
        with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
            os.utime(file.name, (10 ** 12, 10 ** 12))
            answer = psik.Response.of_file(psik.Request("GET", "/", {}, psik.Body(Memory(b""), 0)),
                                           open(file.name, "rb"), "text/plain")
            self.assertIn(("Last-Modified", "Wed, 16 Mar 2242 12:56:32 GMT"), answer.headers)
            answer.body.file.close()

    def stopped_with_lock(self, path: str) -> "subprocess.Popen[bytes]":
        """A process that has locked this file, and is stopped."""
        holder = subprocess.Popen([sys.executable, "-c", (
            "import fcntl, os, signal, sys\nfile = open(sys.argv[1], 'a')\n"
            "fcntl.flock(file, fcntl.LOCK_EX)\nos.kill(os.getpid(), signal.SIGSTOP)"), path])
        self.addCleanup(holder.wait)
        self.addCleanup(holder.kill)
        self.until(lambda: psik.LockHolder("", holder.pid).is_stopped)
        return holder

    def test_a_process_that_is_stopped_while_it_has_a_lock(self) -> None:
        job = self.made
        holder = self.stopped_with_lock(job.status_path)
        for words in (["cancel", job.jobid], ["start", job.jobid], ["rm", "--force", job.jobid]):
            self.assertIn("process %d keeps %s locked, and is stopped; `kill -CONT %d` lets"
                          % (holder.pid, job.status_path, holder.pid),
                          self.psik(*words, status=5).err)
        self.assertIn(job.jobid, self.psik("ls").out)
        holder.send_signal(signal.SIGCONT)
        self.psik("cancel", job.jobid)

    def test_a_process_that_is_stopped_while_it_asks_the_scheduler(self) -> None:
        self.configure(poll_interval_s=0)
        job, = self.lost()
        self.write("listed", "88 active - %s.1\n" % job.tag)
        self.stopped_with_lock(os.path.join(os.path.dirname(job.path), ".poll.lock"))
        self.psik("poll")
        self.assertEqual(self.states(job.jobid)[-1], "1 queued")

    def test_those_who_look_do_not_hide_it_from_each_other(self) -> None:
        job, = self.lost()
        with open(job.status_path) as file:
            psik.fcntl.flock(file, psik.fcntl.LOCK_SH)
            self.assertIsNotNone(psik.lost_step(job, psik.Steps(job.rows())))

    def test_who_waits_for_a_canceled_job_is_not_told_to_start_it(self) -> None:
        job, = self.lost()
        self.psik("cancel", job.jobid)
        self.psik("wait", job.jobid, status=143)
        old = time.time() - psik.REMOVE_UNASKED_S - 1
        os.utime(job.log("submit", 1), (old, old))
        self.assertFalse(psik.has_news(job, job.rows()))
        self.assertNotIn("unknown", self.psik("ls").out)

    def test_a_cancel_of_what_failed_long_ago_while_nobody_answers(self) -> None:
        psik.reached(self.made, 1, psik.JobState.queued, 77)
        psik.reached(self.made, 1, psik.JobState.failed, 3)
        self.spoil("#!/bin/sh\necho no such controller >&2\nexit 1\n", "scripts", "poll")
        self.assertIn("has ended already", self.psik("cancel", self.made.jobid).err)

    @staticmethod
    def give_to_a_scheduler(job: Any) -> None:
        """Let a job count as one that not only this host can know."""
        psik.write_spec(job, psik.replace(job.spec(), backend=psik.BackendConfig("slurm")))

    def test_ten_minutes_begin_anew_when_it_is_submitted_again(self) -> None:
        job, = self.lost()
        self.give_to_a_scheduler(job)
        self.psik("poll")
        age_submission(job)
        psik.write_file(job.script("submit"), "#!/bin/sh\nexit 75\n", 0o700)
        self.assertIn("not known yet", self.psik("start", job.jobid, status=4).err)
        old = time.time() - 3600    # an hour in which nobody answered
        os.utime(job.log("submit", 1), (old, old))
        self.assertIn("may still get it", self.psik("start", job.jobid, status=4).err)

    def test_ten_minutes_of_answers(self) -> None:
        job, = self.lost()
        self.give_to_a_scheduler(job)
        old = time.time() - 3600
        os.utime(job.log("submit", 1), (old, old))
        self.assertIn("may still get it", self.psik("start", job.jobid, status=4).err)
        age_submission(job)
        self.psik("start", job.jobid)
        self.psik("wait", job.jobid)

    def test_a_step_whose_rows_come_from_elsewhere_is_no_lost_submission(self) -> None:
        psik.reached(self.made, 1, psik.JobState.active, 77)
        psik.reached(self.made, 1, psik.JobState.completed, 0)
        self.psik("start", self.made.jobid)
        self.psik("wait", self.made.jobid)
        self.assertEqual(self.states(self.made.jobid)[-1], "2 completed")

    def test_a_wait_where_nothing_can_be_recorded(self) -> None:
        psik.reached(self.made, 1, psik.JobState.queued, 77)
        psik.reached(self.made, 1, psik.JobState.failed, 137)
        self.assertFalse(psik.is_over(self.made, self.made.rows()))
        with mock.patch("psik.os.access", return_value=False):
            self.assertTrue(psik.is_over(self.made, self.made.rows()))

    def test_a_final_row_of_the_whole_job_ends_its_steps_only_where_it_was_canceled(self) -> None:
        psik.reached(self.made, 1, psik.JobState.active, 77)
        psik.reached(self.made, 0, psik.JobState.failed, 1)
        steps = psik.Steps(self.made.rows())
        self.assertEqual([step.native for step in steps.live(self.made)], ["77"])
        psik.reached(self.made, 0, psik.JobState.canceled)
        steps = psik.Steps(self.made.rows())
        self.assertEqual(steps.live(self.made), [])
        found = steps.live(self.made, canceled_too=True)
        self.assertEqual([step.native for step in found], ["77"])

    def test_why_a_step_was_stopped_is_asked_also_where_it_was_never_queued(self) -> None:
        psik.reached(self.made, 1, psik.JobState.active, 77)
        psik.reached(self.made, 1, psik.JobState.failed, 137)
        steps = psik.Steps(self.made.rows()).unsettled(self.made)
        self.assertEqual([(step.jobndx, step.native) for step in steps], [(1, "77")])
        for _ in range(2):
            status = psik.Status("77", steps[0].tag, "failed", "137", "OUT_OF_MEMORY", 0, 0)
            self.assertEqual(len(psik.Status.record_ends([(steps[0], status)])), 3)
        self.assertEqual(psik.Steps(self.made.rows()).unsettled(self.made), [])
        self.assertEqual(psik.list_jobs(self.config(), poll=False)[0].reason,
                         "OUT_OF_MEMORY; resources.memory_per_process was not set")

    def test_two_backends_may_give_the_same_native_id(self) -> None:
        said = {(path, 1): psik.Status("77", "-", "active", "-", text, 0, 0)
                for path, text in ((self.made.path, "ours"), ("/other", "theirs"))}
        psik.reached(self.made, 1, psik.JobState.active, 77)
        self.assertEqual(psik.summarize(self.made, self.made.rows(), said).reason, "ours")

    def test_a_job_of_another_host(self) -> None:
        self.configure(kill_grace_s=1)
        made = psik.create(self.config(), psik.JobSpec(script="true"))
        psik.reached(made, 1, psik.JobState.active, 77)
        psik.write_file(made.log("host", 1), "elsewhere\n")
        self.refused(psik.BackendError, "its host, elsewhere, has not answered the request ",
                     psik.cancel, made)
        self.assertEqual([row.state for row in made.rows()], ["new", "active"])

    def cancel_what_lives_on(self, poll: str = "echo 77 active -") -> None:
        """Let the job's step be canceled, and yet be polled so; its cancel script takes notes."""
        psik.reached(self.made, 1, psik.JobState.queued, 77)
        psik.reached(self.made, 0, psik.JobState.canceled)
        self.spoil("#!/bin/sh\n%s\n" % poll, "scripts", "poll")
        self.spoil("#!/bin/sh\necho $1 >>%s/ended\n" % self.folder, "scripts", "cancel")

    def ended(self) -> str:
        """What the cancel script was called for."""
        return psik.read_or_empty(os.path.join(self.folder, "ended"))

    def test_a_job_that_lives_on_after_it_was_canceled_is_neither_started_nor_removed(self) -> None:
        self.cancel_what_lives_on()
        self.refused(psik.ConflictError, "its step 1 is not yet gone; cancel it first",
                     psik.submit, self.made)
        self.refused(psik.ConflictError, "its step 1 is not yet gone; cancel it again",
                     psik.remove, self.made)
        self.assertEqual(self.states(self.made.jobid), ["0 new", "1 queued", "0 canceled"])
        self.spoil("#!/bin/sh\nexit 0\n", "scripts", "poll")
        psik.remove(self.made)
        self.assertFalse(os.path.exists(self.made.path))

    def test_a_job_that_lives_on_after_it_was_canceled_is_canceled_again(self) -> None:
        self.cancel_what_lives_on()
        self.assertTrue(psik.cancel(self.made))
        self.assertEqual(self.ended(), "77\n")
        self.assertEqual(self.states(self.made.jobid), ["0 new", "1 queued", "0 canceled"])

    def test_removing_with_force_cancels_first_and_waits_for_the_end(self) -> None:
        self.cancel_what_lives_on("cd %s\ntest -e ended && test -e seen && exit\n"
                                  "test -e ended && touch seen\necho 77 active -" % self.folder)
        psik.remove(self.made, force=True)
        self.assertEqual(self.ended(), "77\n")
        self.assertTrue(os.path.exists(os.path.join(self.folder, "seen")))
        self.assertFalse(os.path.exists(self.made.path))

    def test_a_job_whose_scheduler_cannot_be_asked_is_removed_when_it_is_old(self) -> None:
        self.cancel_what_lives_on("echo no such controller >&2; exit 1")
        self.refused(psik.BackendError, "could not ask the scheduler: no such controller",
                     psik.remove, self.made)
        old = [row._replace(time=row.time - psik.REMOVE_UNASKED_S - 1) for row in self.made.rows()]
        psik.write_file(self.made.status_path, "".join("%.3f,%d,%s,%s\n" % row for row in old))
        psik.remove(self.made)
        self.assertFalse(os.path.exists(self.made.path))

    def test_a_job_of_another_host_that_lives_on_is_asked_to_end_again(self) -> None:
        self.cancel_what_lives_on()
        psik.write_file(self.made.log("host", 1), "elsewhere\n")
        self.spoil("import sys\nsys.exit('asked: ' + sys.stdin.read())\n", "scripts", "supervise")
        self.refused(psik.BackendError, "asked: 77 %s.1" % self.made.tag, psik.cancel, self.made)

    def test_a_job_that_lives_on_is_ended_though_its_history_cannot_be_written(self) -> None:
        self.cancel_what_lives_on()
        with mock.patch("psik.JobDir.history",
                        side_effect=OSError(errno.EROFS, "Read-only file system")):
            said = "was asked to end, but this cannot be recorded in %s" % self.made.status_path
            self.refused(psik.PsikError, said, psik.cancel, self.made)
        self.assertEqual(self.ended(), "77\n")

    def test_jobs_that_are_gone(self) -> None:
        config = self.config()
        psik.remove(self.made, force=True)
        for function in (psik.submit, psik.remove, psik.find_log, psik.logs):
            self.refused(psik.NotFoundError, "no job at " + self.made.path, function, self.made)
        self.refused(psik.NotFoundError, "is gone", psik.wait, config, [self.made])
        self.refused(psik.NotFoundError, "no job", psik.find_job, config, self.made.jobid)
        said = psik.Status("77", "-", "failed", "1", "why", 0, 0)
        self.assertEqual(said.record_ends([(psik.Step(self.made, 1, "77"), said)]), [])
        tracker = psik.Tracker(config)
        tracker.look(deep=True)
        other = psik.create(config, psik.JobSpec(script="true"))
        tracker.look(deep=False)
        self.assertEqual(list(tracker.known), [other.path])
        self.assertEqual([told.job.jobid for told in tracker.journal.recent], [other.jobid])
        psik.remove(other, force=True)
        tracker.take_in(other)
        tracker.look(deep=True)
        self.assertEqual(tracker.known, {})

    def test_ids_of_several_lengths_are_in_order(self) -> None:
        root = os.path.dirname(self.made.path)
        for jobid in ("5.5", "10000000000.125", "99", "last", "17x"):
            os.makedirs(os.path.join(root, jobid))
            with open(os.path.join(root, jobid, "status.csv"), "w") as file:
                file.write("5.5,0,new,0\n")
        self.assertEqual([each.jobid for each in psik.list_jobs(self.config())],
                         ["10000000000.125", self.made.jobid, "99", "5.5"])
        self.assertEqual(psik.find_job(self.config(), "last").jobid, "10000000000.125")
        self.assertEqual(self.psik("ls", "-n", "9" * 30, "--json").out.count("jobid"), 4)

    def test_file_systems_without_locks(self) -> None:
        for number in (errno.ENOLCK, errno.EINVAL):
            with mock.patch("psik.fcntl.flock", side_effect=OSError(number, "no locks")):
                psik.reached(self.made, 1, psik.JobState.active)
        with mock.patch("psik.fcntl.flock", side_effect=OSError(errno.EBADF, "bad")):
            self.refused(OSError, "bad", psik.reached, self.made, 1, psik.JobState.completed)
        self.assertEqual([row.state for row in self.made.rows()], ["new", "active", "active"])

    def test_a_file_is_replaced_whole_or_not(self) -> None:
        path = self.write("file", "old")
        with mock.patch("psik.os.replace", side_effect=OSError(errno.ENOSPC, "full")):
            self.refused(OSError, "full", psik.replace_file, path, "new")
        left = [name for name in os.listdir(self.folder) if name.startswith("file")]
        self.assertEqual((psik.read_or_empty(path), left), ("old", ["file"]))
        self.assertEqual(psik.read_or_empty(self.folder), "")

    def test_an_archive_holds_what_can_be_had(self) -> None:
        work = self.made.directory()
        os.symlink("/etc/passwd", os.path.join(work, "link"))
        os.mkfifo(os.path.join(work, "fifo"))
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(os.path.join(work, "sock"))
        os.mkdir(os.path.join(work, "sub"))
        with open(os.path.join(work, "sub", "file"), "w") as file:
            file.write("moo")
        blocks: List[bytes] = []
        psik.write_archive(psik.ConfinedFolder(work).entries("", "top"), blocks.append)
        with tarfile.open(fileobj=io.BytesIO(b"".join(blocks))) as archive:
            self.assertEqual({item.name: item.linkname for item in archive}, {
                "top/fifo": "", "top/link": "/etc/passwd", "top/sub": "", "top/sub/file": ""})
        self.refused(psik.ForbiddenError, "not a plain file",
                     psik.ConfinedFolder(work).open, "fifo")
        self.refused(psik.ForbiddenError, "not a plain file",
                     psik.ConfinedFolder(work).open, "sock")
        self.refused(psik.NotFoundError, "no directory", psik.ConfinedFolder(work).stat, "sub/file")
        with mock.patch.object(psik.os, "readlink", side_effect=OSError(errno.EINVAL, "a file")):
            entries = psik.Entries()
            with psik.closing_fd(os.open(work, os.O_RDONLY)) as top:
                names = [info.name for info, _ in entries.inside("", top)]
        self.assertEqual((names, entries.missed), (["fifo", "sub", "sub/file"],
                                                   ["link: it went meanwhile"]))
        folder = psik.ConfinedFolder(work)
        os.rename(work, work + ".old")
        os.symlink(self.folder, work)       # after its path was resolved
        self.refused(psik.NotFoundError, "is gone", folder.descend, work)
        os.unlink(work)
        os.rename(work + ".old", work)
        self.refused(psik.NotFoundError, "is gone", psik.ConfinedFolder(work + "/nowhere").descend,
                     work + "/nowhere")


    def test_an_archive_that_is_cut_sends_nothing_later(self) -> None:
        work = os.path.join(self.folder, "files")
        os.mkdir(work)
        psik.write_file(os.path.join(work, "big"), "x" * 300000)
        sent: List[bytes] = []

        def send(data: bytes) -> None:
            sent.append(data)
            raise ConnectionError("gone")

        with self.assertRaises(ConnectionError):
            psik.write_archive(psik.ConfinedFolder(work).entries("", "top"), send)
        gc.collect()
        self.assertEqual(len(sent), 1)

    def test_numbers_of_queries(self) -> None:
        api = psik.Api(self.config())
        for query, status, said in (
                ("index=" + "9" * 35, 422, "is too large"), ("index=2147483648", 422, "too large"),
                ("limit=0000000000000000000000000000000001", 200, self.made.jobid),
                ("limit=1.0", 200, self.made.jobid), ("limit=-1", 422, "is too small")):
            answer = self.ask(api, "GET", "/v1/jobs?" + query)
            self.assertEqual(answer[0], status, answer)
            self.assertIn(said, answer[1])
        psik.write_file(self.made.log("stdout", 1), "x")
        path = "/v1/jobs/%s/logs/stdout.1?offset=" % self.made.jobid
        self.assertEqual(self.ask(api, "GET", path + "5000000000")[0], 200)


class Requests(Amiss):
    def setUp(self) -> None:
        super().setUp()
        self.api = psik.Api(self.config())

    def test_what_is_refused(self) -> None:
        base = "/v1/jobs/" + self.made.jobid
        for method, path, kind, body, status, said in REFUSED:
            with self.subTest(method=method, path=path, body=body[:60]):
                found, text = self.ask(self.api, method, base + path, kind, body)
                self.assertEqual(found, status, text)
                self.assertIn(said, text)

    def test_a_form_in_small_pieces(self) -> None:
        content = b"m" * 5000 + b"\r\n--x" + b"o" * 5000
        for size in (1, 7, 4000):
            with mock.patch.object(Memory, "recv_size", size):
                status, _ = self.ask(self.api, "POST", "/v1/jobs/%s/files" % self.made.jobid,
                                     MULTIPART, FORM + content + b"\r\n--xx--\r\n")
            self.assertEqual(status, 200)
            with open(os.path.join(self.made.directory(), "f"), "rb") as file:
                self.assertEqual(file.read(), content)

    def test_a_form_whose_type_is_hard_to_read(self) -> None:
        kind = "multipart/form-data;" + "boundary=" * 22 + " " * 30000 + ","
        begun = time.monotonic()
        for _ in range(20):
            self.assertIsNone(psik.FORM_TYPE.fullmatch(kind))
        self.assertLess(time.monotonic() - begun, 20)   # it took a minute

    def test_what_the_system_refuses(self) -> None:
        base = "/v1/jobs/" + self.made.jobid
        for number, status, said in ((errno.ENOSPC, 507, "the disk is full"),
                                     (errno.EACCES, 403, "the system does not let us"),
                                     (errno.EIO, 500, "psik.py; its log has it as error")):
            broken = mock.patch("psik.ConfinedFolder.save", side_effect=OSError(number, "oh"))
            with broken, captured() as (_, err):
                found, text = self.ask(self.api, "PUT", base + "/files/f", body=b"x")
            self.assertEqual((found, said in text), (status, True), text)
            self.assertEqual("Traceback" in err.getvalue(), status == 500)
        with mock.patch("psik.write_file", side_effect=OSError(errno.EROFS, "read-only")):
            self.api.look_at(self.api.backends.values())
        self.assertEqual(self.ask(self.api, "GET", "/v1/health")[0], 503)
        self.api.look_at(self.api.backends.values())
        self.assertEqual(self.ask(self.api, "GET", "/v1/health")[0], 200)
        with mock.patch("psik.STUCK_S", 0):     # the file system hangs
            self.assertEqual(self.ask(self.api, "GET", "/v1/health")[0], 503)
        psik.delete_tree(self.made.at("log"))
        self.assertEqual(self.ask(self.api, "GET", base + "/logs")[0], 404)

    def test_callbacks_that_do_not_fit(self) -> None:
        told: Dict[str, Any] = {"jobid": self.made.jobid, "jobndx": 1,
                                "state": "active", "info": "a,b"}
        for wrong, said in (({}, "info a native id"),
                            ({"info": 1, "state": "dancing"}, "is not a state"),
                            ({"jobid": "../x"}, "is not a job id")):
            body = json.dumps(dict(told, **wrong)).encode()
            status, text = self.ask(self.api, "POST", "/v1/jobs/callback", "application/json", body)
            self.assertEqual((status, said in text), (422, True), text)

    @contextlib.contextmanager
    def silent_client(self) -> Iterator[socket.socket]:
        """A client that a server has accepted, and that has said nothing."""
        place = psik.UnixPlace(os.path.join(self.folder, "s.sock"))
        server = psik.make_server(self.api, place)
        self.addCleanup(server.server_close)
        server.timeout = 20
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(place.path)
            server.handle_request()
            yield client

    def test_a_connection_whose_thread_cannot_start_is_forgotten(self) -> None:
        with self.silent_client() as client:
            full = mock.patch("psik._thread.start_new_thread",
                              side_effect=RuntimeError("no more threads"))
            with full, captured() as (_, err):
                client.sendall(b"G")
                self.until(lambda: not self.api.connections.open)
                self.assertEqual(client.recv(10), b"")
            self.assertIn("a connection was lost: no more threads", err.getvalue())

    def test_a_connection_that_stays_silent_is_ended(self) -> None:
        with self.silent_client() as client:
            self.api.connections.end_slow()
            self.assertEqual(len(self.api.connections.open), 1)
            for wire in self.api.connections.open:
                wire.waits_since -= psik.IDLE_TIMEOUT_S + 1
            self.api.connections.end_slow()
            self.until(lambda: not self.api.connections.open)
            self.assertEqual(client.recv(10), b"")

    def test_a_round_that_is_refused_is_said_once(self) -> None:
        def work() -> None:
            done.append(1)
            self.api.stopping = len(done) == 6
            if len(done) < 4:
                raise psik.ForbiddenError("the prefix belongs to somebody else")
            raise OSError(errno.ESTALE, "Stale file handle", "/home/jobs")

        done: List[int] = []
        with captured() as (_, err):
            psik.Rounds(self.api).repeat(work, lambda: 0)
        self.assertEqual(err.getvalue(), "psik: the prefix belongs to somebody else\n"
                         "psik: /home/jobs: stale file handle\n")

    def test_a_request_on_a_connection_that_was_ended_is_not_carried_out(self) -> None:
        wire = psik.Wire(mock.Mock())
        wire.read_head = lambda: setattr(wire, "is_cut", True) or (  # type: ignore
            b"POST /v1/jobs/%s/start HTTP/1.1\r\nHost: localhost\r\n\r\n"
            % self.made.jobid.encode())
        self.assertFalse(psik.Session(self.api, wire).answer_next())
        self.assertEqual(len(self.made.rows()), 1)

    def test_idempotency_keys(self) -> None:
        root = os.path.dirname(self.made.path)
        with psik.IdempotencyKeys(root).entry("key", "request") as entry:
            entry.keep("5.5")
        self.refused(psik.ConflictError, "came with another request",
                     psik.IdempotencyKeys(root).entry("key", "other").__enter__)
        folder = os.path.join(root, ".keys")
        path = os.path.join(folder, os.listdir(folder)[0])
        with open(path, "w") as file:
            file.write('{"request": "')  # cut when it was written
        with psik.IdempotencyKeys(root).entry("key", "other") as entry:
            self.assertEqual(entry.jobid, "")
        self.assertEqual(os.listdir(folder), [])  # no job was made, so there is nothing to remember
        with psik.IdempotencyKeys(root).entry("key", "request") as entry:
            entry.keep("5.6")
        psik.IdempotencyKeys(root).forget_old()
        self.assertEqual(os.listdir(folder), [os.path.basename(path)])
        os.utime(path, (1, 1))
        psik.IdempotencyKeys(root).forget_old()
        self.assertEqual(os.listdir(folder), [])

    def test_a_policy_that_fails_lets_nobody_in(self) -> None:
        class Broken:
            def allows(self, user: str, operation: str, job: Any) -> bool:
                raise RuntimeError("oh")

        with captured() as (_, err):
            policy = psik.Policy(self.config())
            policy.rule = Broken()
            self.assertFalse(policy.allows(psik.Caller("ada"), "GET", self.made))
        self.assertIn("the policy failed: RuntimeError: oh", err.getvalue())
        self.write("policy.py", "class Policy:\n    allows = None\n")
        config = psik.Config(authz="policy:Policy", authz_path=self.folder)
        self.refused(psik.InvalidError, "its `allows` is not a method", psik.Policy, config)

    def test_what_a_server_does_unasked_goes_on_after_a_failure(self) -> None:
        rounds = psik.Rounds(self.api)
        names = ("psik.Connections.end_slow", "psik.Tracker.look", "psik.Tracker.poll",
                 "psik.deliver_all", "psik.Api.look_at")
        self.assertEqual(len(names), len(rounds.table))
        for name, (work, rest_s) in zip(names, rounds.table):
            self.api.stopping = False
            rests: List[float] = []

            def rest() -> float:
                rests.append(rest_s())
                self.api.stopping = len(rests) == 2
                return 0

            broken = mock.patch(name, side_effect=RuntimeError("oh"))
            with broken as failing, captured() as (_, err):
                rounds.repeat(work, rest)
            self.assertEqual(failing.call_count, 2)
            self.assertEqual(err.getvalue().count("RuntimeError: oh"), 2)
            wanted_s = {"poll": self.api.config.poll_interval_s, "look_at": psik.CHECK_S}.get(
                name.rpartition(".")[2], 1)
            self.assertEqual(rests, [wanted_s] * 2)

    def test_a_scheduler_is_not_asked_more_often_where_asking_fails(self) -> None:
        rounds = psik.Rounds(self.api)
        keeper = threading.Thread(target=rounds.repeat, args=rounds.table[2])
        broken = mock.patch("psik.Tracker.poll", side_effect=OSError(28, "full"))
        with broken as failing, captured():
            keeper.start()
            time.sleep(2.2)
            self.api.stopping = True
            keeper.join(5)
        self.assertEqual(failing.call_count, 1)

    def test_a_config_that_is_read_again(self) -> None:
        for mode in ("local", "tls"):
            api = psik.Api(self.config(), mode)
            for config, told in ((self.config(), False), (psik.Config(authz="owner"), True)):
                with captured() as (_, err):
                    psik.read_again(api, lambda: config)
                said = "authz has effect only when the server is started again" in err.getvalue()
                self.assertEqual(said, told)

    def test_sockets_that_are_handed_over(self) -> None:
        given = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"}
        with mock.patch.dict(os.environ, given):
            self.refused(psik.InvalidError, "hands over 2 sockets", psik.inherited_place)
        with mock.patch.dict(os.environ, {"XDG_RUNTIME_DIR": self.folder}):
            self.assertEqual(psik.UnixPlace.default(), os.path.join(self.folder, "psik.sock"))
        with mock.patch.dict(os.environ, {"XDG_RUNTIME_DIR": ""}):
            self.assertEqual(psik.UnixPlace.default(), "/tmp/psik-%d/psik.sock" % os.getuid())
        with mock.patch("pwd.getpwuid", side_effect=KeyError):
            self.assertEqual(psik.name_of_user(os.getuid()), str(os.getuid()))

    def test_tokens_that_are_none(self) -> None:
        self.refused(ValueError, "not base64url", psik.decode_base64, "a+b")
        self.refused(ValueError, "not canonical", psik.decode_base64, "AB")
        req = psik.Request("GET", "/v1/token", {}, psik.Body(psik.Wire(), 0))
        handler = psik.ServerHandler(self.api, req, psik.Caller("addr:1.2.3.4"))
        self.refused(psik.RequestError, "only a caller with a name", handler.get_token)


class CommandLine(Amiss):
    def test_of_several_jobs_each_has_its_turn(self) -> None:
        def action(job: psik.JobDir) -> None:
            done.append(job.jobid)
            raise OSError(errno.ENOSPC, "full")

        done: List[str] = []
        other = psik.create(self.config(), psik.JobSpec(script="true")).jobid
        words = [self.made.jobid, "last", other]
        with captured() as (_, err):
            status = psik.Selection(psik.Options(
                config=self.env["PSIK_CONFIG"], jobid=words)).each(action)
        self.assertEqual((status, done), (1, [self.made.jobid, other]))
        self.assertEqual(err.getvalue().count("full"), 2)

    def test_a_job_whose_id_nobody_takes_runs(self) -> None:
        for stdout, status in (("/dev/full", 1), (None, 141)):
            reader, writer = os.pipe()
            os.close(reader)
            with open(stdout or os.devnull, "w") as file, psik.closing_fd(writer):
                done = subprocess.run(FAST + ["run", "-c", "true"], env=self.env,
                                      stdout=file if stdout else writer, stderr=subprocess.PIPE)
            match = re.match(r"psik: job ([0-9.]+)\n", done.stderr.decode())
            assert match
            self.assertEqual(done.returncode, status)
            self.until_last(match.group(1), "1 completed")

    def test_a_folder_that_is_gone_and_names_of_other_bytes(self) -> None:
        within = ["sh", "-c", 'mkdir "$1" && cd "$1" && shift && "$@"', "sh"]
        gone = "psik: the folder that this was called in is gone; cd to another one\n"
        for argv in (["run", "-c", "true"], ["serve", "--uds", "x"], ["ls"]):
            there = [*within, "gone", "sh", "-c", 'rmdir ../gone && exec "$@"', "sh",
                     sys.executable, PSIK]
            self.assertEqual(self.psik(*argv, status=1, program=there).err, gone)
        self.assertIn("directory: '%s/b\\udcff' holds half of a surrogate pair, or a byte that is "
                      "not UTF-8" % self.folder, self.psik(
                          "run", "-c", "true", status=2, program=[*within, "b\udcff", *FAST]).err)
        self.write("a\udcff.sh", "echo moo\n")
        self.psik("run", "--wait", "a\udcff.sh")
        self.assertEqual(self.psik("logs", "a?.sh").out, "moo\n")

    @needs("root and Linux namespaces", os.geteuid() == 0 and shutil.which("unshare"))
    def test_a_doctor_on_a_disk_that_runs_nothing(self) -> None:
        script = 'mount -t tmpfs -o noexec,mode=700 none "$1" && shift && exec "$@"'
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script, "sh", self.prefix, sys.executable, PSIK,
             "doctor"], env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual((done.returncode, done.stderr), (1, b""))
        self.assertIn("its file system runs no script (Permission denied)", done.stdout.decode())

    @needs("root and Linux namespaces", os.geteuid() == 0 and shutil.which("unshare"))
    def test_a_full_disk_and_one_that_is_read_only(self) -> None:
        place = os.path.join(self.folder, "disk")
        os.mkdir(place)
        self.env["XDG_DATA_HOME"] = place
        del self.env["PSIK_CONFIG"]
        way_out = "set PSIK_PREFIX to another folder for the jobs\n"
        for options, said in (("size=100k", "/psik.py: no space left on device; free some space, "
                               "or "),
                              ("ro", "/disk/psik: read-only file system; ")):
            script = 'mount -t tmpfs -o "$1" none "$2" && shift 2 && exec "$@"'
            done = subprocess.run(
                ["unshare", "-m", "sh", "-c", script, "sh", options, place, sys.executable, PSIK,
                 "run", "-c", "true"], env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            self.assertEqual(done.returncode, 1)
            self.assertTrue(done.stderr.decode().endswith(said + way_out), done.stderr)

    def test_a_script_that_is_busy_for_a_moment(self) -> None:
        path = self.write("script", "#!/bin/sh\necho hi\n", 0o755)
        file = open(path, "a")      # as a child of another thread has it until it executes
        timer = threading.Timer(0.3, file.close)
        timer.start()
        self.assertEqual(psik.run_program([path], 10).out, "hi\n")
        timer.join()

    def test_a_shell_that_answers_like_none(self) -> None:
        self.configure(rc_path="/bin/cat", psik_path="/nowhere/psik")
        for argv, status in ((["config"], 0), (["backends", "--check"], 4)):
            self.assertIn("does not answer like rc or sh", self.psik(*argv, status=status).out)

    def test_a_psik_that_is_not_there(self) -> None:
        self.configure(psik_path="/nowhere/psik")
        self.assertIn("no program '/nowhere/psik', which psik_path names",
                      self.psik("backends", "--check", status=4).out)
        self.assertEqual(json.loads(self.psik("backends", "--json").out)[0]["type"], "local")

    def test_what_is_refused(self) -> None:
        config = self.write("c.json", '{"tokens": "x"}')
        for argv, said in ((["serve", "--inetd", "--tls-cert", "x"], "--inetd speaks no TLS"),
                           (["run", ""], "SPEC is empty"),
                           (["logs", "-n", "-1", "last"], "-n wants a number of lines"),
                           (["config", "--config", config], "neither jwt nor biscuit")):
            self.assertIn(said, self.psik(*argv, status=2).err)

    def test_changes_of_a_spec_that_lead_nowhere(self) -> None:
        for change, said in ((".a=1", "names no field"),
                             ("script.x.y=1", "leads into a value that is not an object"),
                             ("moo", "should look like")):
            ran = self.psik("run", "-", "--set", change, stdin='{"script": "true"}', status=2)
            self.assertIn(said, ran.err)

    def test_a_launcher_may_be_one_line(self) -> None:
        self.assertEqual(psik.Config(launcher="srun -n 2").launcher, ["srun", "-n", "2"])

    def test_watching_a_listing(self) -> None:
        child = subprocess.Popen([sys.executable, PSIK, "ls", "--watch"], stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, env=self.env)
        assert child.stdout and child.stderr
        lines = [child.stdout.readline() for _ in range(5)]
        child.send_signal(signal.SIGINT)
        self.assertEqual((child.wait(30), child.stderr.read()), (130, b""))
        child.stdout.close()
        child.stderr.close()
        jobid = self.made.jobid.encode()[:5]
        self.assertEqual([line[:5] for line in lines], [b"JOBID", jobid, b"\n", b"JOBID", jobid])

    def test_compiling_once(self) -> None:
        path = self.write("module.py", "x = 1\n")
        with mock.patch("sys.dont_write_bytecode", True):
            self.assertFalse(psik.CompiledFile(path).is_usable())
        with mock.patch("sys.dont_write_bytecode", False):
            for _ in range(2):
                self.assertEqual(psik.CompiledFile.find(path).prefix, "")
            with mock.patch("py_compile.compile", side_effect=PermissionError):
                self.assertIsNone(psik.CompiledFile.find(self.write("other.py", "x = 1\n")))


class Interface(Amiss):
    def test_names_and_waits(self) -> None:
        job = psik.Job(self.made.path)
        for each, name in ((self.made, "JobDir"), (job, "Job"), (job.base, "AsyncPath")):
            self.assertEqual(repr(each), "%s(%r)" % (name, self.made.path))
        self.assertEqual("%s" % format(psik.JobState.active, ">8"), "  active")
        config = self.config()
        threading.Timer(0.3, psik.reached, (self.made, 1, psik.JobState.completed)).start()
        psik.reached(self.made, 1, psik.JobState.active)
        self.assertEqual([str(row.state) for row in psik.watch(config, self.made)],
                         ["new", "active", "completed"])

        async def main() -> List[str]:
            psik.reached(self.made, 2, psik.JobState.active)
            threading.Timer(0.3, psik.reached, (self.made, 2, psik.JobState.completed)).start()
            seen = [str(row.state) async for row in psik.Job(self.made.path, config).watch(after=3)]
            with open(self.made.at("spec.json"), "w") as file:
                file.write("{")
            return seen + [found.jobid async for found in psik.JobManager(config).ls()]

        loop = asyncio.new_event_loop()
        try:
            self.assertEqual(loop.run_until_complete(main()), ["active", "completed"])
        finally:
            loop.close()


if __name__ == "__main__":
    unittest.main()
