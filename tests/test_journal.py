"""The journal of a server: what it has told, in which order, and where a client goes on."""
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
import unittest
from typing import Any, List, Optional, Tuple
from unittest import mock

import psik
from harness import Case, captured
from serving import Server

# Writes the next transitions of a job, as a job script does: PATH, first step, last step.
WRITER = """
import sys
sys.path.insert(0, %r)
import psik
job = psik.JobDir(sys.argv[1])
for step in range(int(sys.argv[2]), int(sys.argv[3]) + 1):
    psik.reached(job, step, psik.JobState.active, 7)
    psik.reached(job, step, psik.JobState.completed, 0)
""" % os.path.dirname(psik.__file__)


class Client:
    """A client of /v1/events that comes again with the id of the last event that it got."""

    def __init__(self) -> None:
        self.last = ""
        self.keys: List[str] = []
        self.kinds: List[str] = []

    def read(self, server: Server, count: int, seconds: float = 60) -> None:
        """Read until there are so many different keys, or the stream ends."""
        connection = server.connection()
        connection.request("GET", "/v1/events",
                           headers={"Last-Event-ID": self.last} if self.last else {})
        answer, deadline = connection.getresponse(), time.monotonic() + seconds
        while len(set(self.keys)) < count and time.monotonic() < deadline:
            line = answer.readline().decode()
            if not line:
                break
            name, _, text = line.strip().partition(": ")
            if name == "id":
                self.last = text
            elif name == "event":
                self.kinds.append(text)
            elif name == "data" and self.kinds[-1] == "transition":
                self.keys.append(json.loads(text)["key"])
        connection.close()


class Journals(Case):
    """A tree and trackers of it, as servers have them."""

    def setUp(self) -> None:
        super().setUp()
        self.made = self.new()

    def new(self) -> Any:
        return psik.create(self.config(), psik.JobSpec(script="true"))

    def tracker(self) -> Any:
        """What a server that starts now knows."""
        tracker = psik.Tracker(self.config())
        tracker.look(deep=True)
        return tracker

    def steps(self, job: Any, first: int, last: int) -> None:
        for step in range(first, last + 1):
            psik.reached(job, step, psik.JobState.active, 7)

    @staticmethod
    def keys(news: List[Any]) -> List[str]:
        return [told.key for told in news]

    def expected(self, job: Any, first: int, last: int) -> List[str]:
        return ["%s/%d" % (job.jobid, place) for place in range(first, last + 1)]

    def test_another_server_keeps_the_lock_of_the_journal(self) -> None:
        tracker = self.tracker()
        place, kept = tracker.journal.number, psik.LockedError(mock.Mock())
        with mock.patch.object(psik, "locked_file", side_effect=kept), captured() as (_, err):
            with tracker.following(self.made):
                self.steps(self.made, 1, 1)
        self.assertIn(".events", err.getvalue())
        tracker.look(deep=True)
        self.assertEqual(self.keys(tracker.news(place, 0)), self.expected(self.made, 2, 2))

    def test_a_server_that_starts_while_the_disk_is_full(self) -> None:
        tracker = self.tracker()
        place = tracker.journal.number
        self.steps(self.made, 1, 5)
        tracker.look(deep=True)
        other, full = psik.Tracker(self.config()), OSError(errno.ENOSPC, "full")
        with mock.patch.object(psik, "write_whole", side_effect=full), captured():
            for _ in range(4):
                other.look(deep=True)
        other.look(deep=True)
        self.assertTrue(other.knows(place))
        self.assertEqual(self.keys(other.news(place, 0)), self.expected(self.made, 2, 6))

    def test_a_client_comes_from_another_server(self) -> None:
        one, two = self.tracker(), self.tracker()
        self.steps(self.made, 1, 1)
        one.look(deep=True)
        number = one.journal.number
        self.assertTrue(two.knows(number))
        self.assertFalse(two.knows(number + 1))

    def test_a_machine_that_was_started_just_now(self) -> None:
        tracker = psik.Tracker(self.config())
        rounds = psik.Rounds(mock.Mock(tracker=tracker, config=psik.Config(
            prefix=self.prefix, poll_interval_s=300)))
        with mock.patch.object(psik.time, "monotonic", return_value=20.0):
            rounds.look()
        self.assertTrue(tracker.looked)

    def test_a_whole_tree_is_looked_at_seldom_if_that_takes_long(self) -> None:
        psik.reached(self.made, 1, psik.JobState.completed, 0)
        tracker = self.tracker()
        rounds = psik.Rounds(mock.Mock(tracker=tracker, config=self.config()))
        place = tracker.journal.number
        psik.reached(self.made, 2, psik.JobState.active, 7)
        for took_s, told in ((20.0, []), (0.5, [self.made.jobid + "/3"])):
            tracker.looked, tracker.took_s = time.monotonic() - 29, took_s
            rounds.look()
            self.assertEqual(self.keys(tracker.news(place, 0)), told)

    def test_a_long_poll_interval_keeps_no_change_of_the_tree_back(self) -> None:
        psik.reached(self.made, 1, psik.JobState.completed, 0)
        tracker = self.tracker()
        rounds = psik.Rounds(mock.Mock(tracker=tracker, config=psik.Config(
            prefix=self.prefix, poll_interval_s=300)))
        place = tracker.journal.number
        psik.reached(self.made, 2, psik.JobState.active, 7)
        tracker.looked -= psik.MAX_LOOK_REST_S
        rounds.look()
        self.assertEqual(self.keys(tracker.news(place, 0)), [self.made.jobid + "/3"])

    def test_a_job_that_is_started_later_is_followed_at_once(self) -> None:
        tracker = self.tracker()
        for _ in range(60):
            self.new()
        tracker.look(deep=False)
        place = tracker.journal.number
        self.steps(self.made, 1, 1)
        tracker.look(deep=False)
        self.assertEqual(self.keys(tracker.news(place, 0)), self.expected(self.made, 2, 2))

    def test_a_live_job_does_not_wait_for_the_end_of_a_whole_look(self) -> None:
        self.steps(self.made, 1, 1)
        others = [self.new() for _ in range(60)]
        tracker = self.tracker()
        place, seen = tracker.journal.number, []

        def sleep(seconds: float) -> None:
            self.steps(self.made, 2, 2)
            seen.append(tracker.journal.number)

        with mock.patch.object(psik.time, "sleep", sleep), mock.patch.object(psik, "LOOK_S", 0):
            with mock.patch.object(psik.JobTree, "jobs", lambda tree: iter(others * 2)):
                tracker.look(deep=True)
        self.assertEqual(seen[0], place)
        self.assertGreater(seen[1], place)

    def test_a_backend_that_the_config_has_no_more(self) -> None:
        tracker = self.tracker()
        self.assertEqual(tracker.counts(), {("local", "new"): 1})
        self.configure(backends={"other": {"type": "local"}})
        tracker.config = self.config()
        tracker.look(deep=True)
        self.assertEqual(tracker.counts(), {})

    def test_what_is_older_than_the_row_told_last_is_told_too(self) -> None:
        tracker = self.tracker()
        start = tracker.journal.number
        other = self.new()
        psik.reached(other, 1, psik.JobState.active, 7)
        tracker.look(deep=False)
        place = tracker.journal.number
        # A job script on a host whose clock is behind.
        with open(self.made.status_path, "a") as file:
            file.write("%.3f,1,active,7\n" % (time.time() - 50))
        tracker.look(deep=True)
        self.assertEqual(self.keys(tracker.news(place, 0)), [self.made.jobid + "/2"])
        self.assertEqual(self.keys(tracker.news(start, 0)),
                         self.expected(other, 1, 2) + [self.made.jobid + "/2"])

    def test_what_happens_while_no_server_runs(self) -> None:
        tracker = self.tracker()
        place = tracker.journal.number
        self.steps(self.made, 1, 1)
        tracker.look(deep=True)
        self.steps(self.made, 2, 2)
        other = self.new()
        again = self.tracker()
        self.assertGreater(again.journal.number, tracker.journal.number + psik.JOURNAL_GAP // 2)
        found = self.keys(again.news(place, 0))
        self.assertEqual(found[0], self.made.jobid + "/2")
        self.assertEqual(sorted(found), self.expected(self.made, 2, 3) + [other.jobid + "/1"])

    def test_old_jobs_are_not_told_by_the_first_server(self) -> None:
        old = time.time() - 3600
        psik.write_file(self.made.status_path, "%.3f,0,new,0\n" % old)
        tracker = self.tracker()
        self.assertEqual(tracker.journal.recent, [])
        os.rename(tracker.journal.folder, tracker.journal.folder + ".gone")
        self.assertEqual(self.tracker().journal.recent, [])

    def test_two_servers_tell_each_transition_once(self) -> None:
        one, two = self.tracker(), self.tracker()
        place = two.journal.number
        self.steps(self.made, 1, 1)
        one.take_in(self.made)
        two.take_in(self.made)
        self.steps(self.made, 2, 2)
        two.take_in(self.made)
        one.look(deep=False)
        for tracker in (one, two):
            self.assertEqual(self.keys(tracker.news(place, 0)), self.expected(self.made, 2, 3))
        numbers = [[told.number for told in tracker.news(place, 0)] for tracker in (one, two)]
        self.assertEqual(numbers[0], numbers[1])

    def test_who_is_far_behind_is_told_from_the_disk(self) -> None:
        with mock.patch("psik.MAX_NEWS", 4), mock.patch("psik.JOURNAL_LINES", 5), \
                mock.patch("psik.JOURNAL_FILES", 3):
            tracker = self.tracker()
            start = place = tracker.journal.number
            found: List[str] = []
            for step in range(1, 14):
                self.steps(self.made, step, step)
                tracker.take_in(self.made)
            while True:
                news = tracker.news(place, 0)
                if not news:
                    break
                self.assertLessEqual(len(news), 4)
                found += self.keys(news)
                place = news[-1].number
            self.assertEqual(found, self.expected(self.made, 2, 14))
            self.assertLess(len(tracker.journal.recent), 9)
            for step in range(14, 31):
                self.steps(self.made, step, step)
                tracker.take_in(self.made)
            self.assertLessEqual(len(tracker.journal.files()), 3)
            self.assertFalse(tracker.knows(start))
            self.assertFalse(tracker.knows(tracker.journal.number + 1))
            self.assertTrue(tracker.knows(tracker.journal.number))

    def test_a_live_job_whose_lines_are_gone(self) -> None:
        with mock.patch("psik.JOURNAL_LINES", 3), mock.patch("psik.JOURNAL_FILES", 1):
            tracker = self.tracker()
            psik.write_file(self.made.status_path, "1.5,0,new,0\n")
            self.steps(self.made, 1, 1)
            tracker.look(deep=True)
            other = self.new()
            for step in range(1, 9):
                self.steps(other, step, step)
                tracker.take_in(other)
            place = tracker.journal.number
            with open(self.made.status_path, "a") as file:  # by a clock that is a day behind
                file.write("%.3f,1,completed,0\n" % (time.time() - 86400))
            again = self.tracker()
            self.assertEqual(self.keys(again.news(place, 0)), [self.made.jobid + "/3"])

    def test_a_server_that_is_killed_while_it_writes(self) -> None:
        tracker = self.tracker()
        place = tracker.journal.number
        self.steps(self.made, 1, 1)
        tracker.take_in(self.made)
        with open(tracker.journal.path, "a") as file:
            file.write(tracker.journal.recent[-1].line[:20])
        self.steps(self.made, 2, 2)
        again = self.tracker()
        self.assertEqual(self.keys(again.news(place, 0)), self.expected(self.made, 2, 3))
        self.assertEqual(self.keys(self.tracker().news(place, 0)), self.expected(self.made, 2, 3))

    def test_who_waits_after_a_restart_waits(self) -> None:
        tracker = self.tracker()
        place = tracker.journal.number
        for again in (self.tracker(), tracker):
            self.tracker()
            again.look(deep=False)
            begun = time.monotonic()
            self.assertEqual(again.news(place, 0.5), [])
            self.assertGreater(time.monotonic() - begun, 0.4)

    def test_a_stream_that_falls_behind_the_journal_is_reset(self) -> None:
        api = psik.Api(self.config())
        caller = psik.Caller(psik.LOCAL_USER, trusted=True)
        with mock.patch("psik.MAX_NEWS", 3), mock.patch("psik.JOURNAL_LINES", 3), \
                mock.patch("psik.JOURNAL_FILES", 2), mock.patch("psik.BEAT_S", 0.1):
            api.tracker.look(deep=True)
            events = iter(psik.TreeEvents(api, caller, ""))
            kinds = [next(events).kind]
            for step in range(1, 41):
                self.steps(self.made, step, step)
                api.tracker.take_in(self.made)
            for event in events:
                if event is None:
                    break
                kinds.append(event.kind)
            self.assertEqual(kinds, ["transition", "reset"])
            self.steps(self.made, 41, 41)
            api.tracker.take_in(self.made)
            found = next(event for event in events if event and event.data)
            self.assertEqual(found.data["key"], self.made.jobid + "/42")

    def test_who_may_see_nothing_is_told_where_he_is(self) -> None:
        self.configure(authz="owner")
        api = psik.Api(self.config())
        api.tracker.look(deep=True)
        with mock.patch("psik.BEAT_S", 0):
            events = iter(psik.TreeEvents(api, psik.Caller("eve"), ""))
            first = next(events)
            self.steps(self.made, 1, 3)
            api.tracker.take_in(self.made)
            then = next(events)
        self.assertEqual((then.data, int(then.id) - int(first.id)), (None, 3))

    def test_a_clock_that_is_set_back(self) -> None:
        tracker = self.tracker()
        place, ahead = tracker.journal.number, time.time() + 7200
        os.utime(tracker.journal.path, (ahead, ahead))
        other = self.new()
        self.steps(other, 1, 2)
        self.assertEqual(self.keys(self.tracker().news(place, 0)), self.expected(other, 1, 3))

    def test_jobs_that_go_while_a_file_is_begun(self) -> None:
        tracker = self.tracker()
        self.steps(self.made, 1, 1)
        tracker.look(deep=True)
        tracker.known.pop(self.made.path)
        self.assertEqual(tracker.told_of_live(), {self.made.path: 2})

    def test_what_the_disk_did_not_take_is_written_later(self) -> None:
        tracker = self.tracker()
        place, write = tracker.journal.number, os.write

        def full(fd: int, data: bytes) -> int:
            """Takes a part, and then nothing."""
            if len(data) < 20:
                raise OSError(28, "full")
            return write(fd, data[:-10])

        self.steps(self.made, 1, 2)
        with mock.patch("psik.os.write", full), captured():
            tracker.take_in(self.made)
            self.steps_by_hand(self.made, 3)
            tracker.take_in(self.made)
        self.assertEqual(self.keys(tracker.news(place, 0)), self.expected(self.made, 2, 4))
        self.steps(self.made, 4, 4)
        tracker.take_in(self.made)
        found = self.keys(tracker.news(place, 0))
        self.assertEqual(found, self.expected(self.made, 2, 5))
        self.assertEqual(self.keys(self.tracker().news(place, 0)), found)

    def steps_by_hand(self, job: Any, step: int) -> None:
        """Add a row, though os.write is not what it was."""
        with open(job.status_path, "a") as file:
            file.write("%.3f,%d,active,7\n" % (time.time(), step))

    def test_a_file_that_cannot_be_begun(self) -> None:
        with mock.patch("psik.JOURNAL_LINES", 2), mock.patch("psik.JOURNAL_FILES", 2):
            tracker = self.tracker()
            place = tracker.journal.number
            for step in range(1, 6):
                self.steps(self.made, step, step)
                if step > 3:
                    with mock.patch("psik.os.rename", side_effect=OSError(28, "full")), captured():
                        tracker.take_in(self.made)
                else:
                    tracker.take_in(self.made)
            files = tracker.journal.files()
            self.assertEqual(len(files), 2)
            self.steps(self.made, 6, 6)
            tracker.take_in(self.made)
            self.assertEqual(self.keys(tracker.news(place, 0)), self.expected(self.made, 2, 7))

    def test_numbers_are_not_given_again_where_nothing_can_be_written(self) -> None:
        numbers = []
        for _ in range(2):
            tracker = psik.Tracker(self.config())
            with mock.patch("psik.write_whole", side_effect=OSError(28, "full")), captured():
                tracker.look(deep=True)
            numbers.append(tracker.journal.number)
            time.sleep(0.01)
        self.assertGreater(numbers[1], numbers[0])

    def test_a_disk_that_takes_nothing(self) -> None:
        tracker = self.tracker()
        place = tracker.journal.number
        with mock.patch("psik.write_whole", side_effect=OSError(28, "full")), \
                captured() as (_, err), mock.patch("psik.WARNED", set()):
            with open(self.made.status_path, "a") as file:
                file.write("%.3f,1,active,7\n" % time.time())
            tracker.take_in(self.made)
        self.assertEqual(self.keys(tracker.news(place, 0)), [self.made.jobid + "/2"])
        self.assertIn("cannot be written", err.getvalue())

    def test_a_file_of_another_users(self) -> None:
        folder = os.path.join(self.prefix, ".events")
        self.tracker()
        os.rename(folder, folder + ".mine")
        os.symlink(folder + ".mine", folder)
        config = self.config()
        with mock.patch("psik.is_foreign", lambda status: True):
            self.assertRaises(psik.ForbiddenError, psik.JobTree, config)


class Streams(Case):
    """Servers that really run, and are killed."""

    def make(self, count: int) -> List[Any]:
        return [psik.create(self.config(), psik.JobSpec(script="true")) for _ in range(count)]

    def write_steps(self, jobs: List[Any], first: int, last: int) -> List[Any]:
        """Let a process for each job write transitions; the processes."""
        return [subprocess.Popen([sys.executable, "-S", "-c", WRITER, job.path, str(first),
                                  str(last)]) for job in jobs]

    def restarted(self, server: Optional[Server]) -> Server:
        """Kill a server, and start one in its place."""
        if server:
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
        return Server(self, "--uds", "s.sock", "--quiet")

    def test_none_is_lost_across_kills(self) -> None:
        server, client, jobs = self.restarted(None), Client(), self.make(4)
        client.read(server, 1, 5)
        wanted = {"%s/%d" % (job.jobid, place) for job in jobs for place in range(1, 202)}
        reader = threading.Thread(target=client.read, args=(server, len(wanted)))
        reader.start()
        for round_ in range(4):
            writers = self.write_steps(jobs, 25 * round_ + 1, 25 * round_ + 25)
            time.sleep(0.3)
            server.process.send_signal(signal.SIGKILL)
            reader.join(60)
            for writer in writers:      # the rest comes while no server runs
                self.assertEqual(writer.wait(60), 0)
            server = self.restarted(server)
            reader = threading.Thread(target=client.read, args=(server, len(wanted)))
            reader.start()
        reader.join(60)
        self.assertEqual(wanted - set(client.keys), set())
        self.assertEqual(set(client.kinds), {"transition"})

    def test_an_id_that_is_not_known(self) -> None:
        server = self.restarted(None)
        for last in ("7", "99999999999999", "1795220145.691/1795220145.6/1/active", "-1"):
            client = Client()
            client.last = last
            reader = threading.Thread(target=client.read, args=(server, 1))
            reader.start()
            self.until(lambda: client.kinds)
            self.make(1)
            reader.join(60)
            self.assertEqual(client.kinds, ["reset", "transition"])
            self.assertEqual(len(client.keys), 1)

    def test_the_text_of_a_stream(self) -> None:
        server = self.restarted(None)
        connection = server.connection()
        connection.request("GET", "/v1/events")
        answer = connection.getresponse()
        self.assertEqual(answer.getheader("X-Accel-Buffering"), "no")
        self.assertEqual(answer.getheader("Cache-Control"), "no-store")
        place = answer.readline()
        self.assertRegex(place, rb"^id: [0-9]+\n$")
        self.assertEqual(answer.readline(), b"\n")
        job, = self.make(1)
        lines = dict(self.field(answer.readline()) for _ in range(3))
        connection.close()
        self.assertGreater(int(lines["id"]), int(place[4:]))
        data = json.loads(lines["data"])
        self.assertEqual((lines["event"], data["key"], data["jobid"], data["state"]),
                         ("transition", job.jobid + "/1", job.jobid, "new"))

    @staticmethod
    def field(line: bytes) -> Tuple[str, str]:
        name, _, text = line.decode().strip().partition(": ")
        return name, text


if __name__ == "__main__":
    unittest.main()
