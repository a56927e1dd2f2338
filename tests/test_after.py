"""Jobs that run after others: which way each ends, who releases them, and what crashes leave."""
import json
import os
import shutil
import subprocess
import sys
import time
import unittest
from typing import Any, Dict, List, Tuple
from unittest import mock

import psik
from clusters import SLURM, OnSlurm
from harness import FAST, KILLED_AT, Case, needs
from serving import Server

VERDICTS: List[Tuple[str, str, str]] = [    # what is asked for, how the first ends, the second
    ("%s", "exit 0", "completed"), ("ok:%s", "exit 0", "completed"), ("%s", "exit 3", "canceled"),
    ("any:%s", "exit 0", "completed"), ("any:%s", "exit 3", "completed"),
    ("notok:%s", "exit 3", "completed"), ("notok:%s", "exit 0", "canceled"),
]


RELEASE = KILLED_AT + """
first = sys.argv[1]
sys.setprofile(stop)
psik.main(["deliver", first])
"""


class After(Case):
    """What the tests share."""
    settings: Dict[str, Any] = {}
    spec: Dict[str, Any] = {}

    def setUp(self) -> None:
        super().setUp()
        self.configure(poll_interval_s=0, **self.settings)

    def put(self, line: str, *after: str, status: int = 0, **spec: Any) -> str:
        """Submit a job of one line, after others; its id."""
        return self.run_spec(script="#!/bin/sh\n%s\n" % line, after=list(after), status=status,
                             **dict(self.spec, **spec))

    def until_go(self) -> str:
        """A line that waits for go()."""
        return "until test -e %s/go; do sleep 0.1; done" % self.folder

    def go(self) -> None:
        self.write("go", "")

    def ended(self, jobid: str) -> str:
        """The state of a job when it has ended."""
        self.psik("wait", "--timeout", "60", jobid, status=None)
        return self.states(jobid)[-1].split()[1]

    def reason(self, jobid: str) -> str:
        return str(json.loads(self.psik("status", "--json", jobid).out)[0]["reason"])

    def note(self, name: str) -> str:
        """A line that notes that a job runs."""
        return "echo %s >>%s/ran" % (name, self.folder)

    def ran(self) -> List[str]:
        """The names that were noted, in order."""
        return psik.read_or_empty(os.path.join(self.folder, "ran")).split()

    def folders(self) -> List[str]:
        """What lies in .after/."""
        return psik.paths_in(os.path.join(self.prefix, "local", ".after"))


class Local(After):
    def test_one_waits_for_the_other(self) -> None:
        first = self.put(self.until_go() + "; " + self.note("first"))
        self.env["KEPT"] = "of the shell"
        second = self.put('echo "$KEPT, $base"; ' + self.note("second"), first)
        del self.env["KEPT"]
        self.assertEqual(self.states(second), ["0 new"])
        self.assertEqual(self.reason(second), "waits for " + first)
        self.assertIn("waits for " + first, self.psik("ls").out)
        self.assertEqual(self.folders(), [os.path.join(self.prefix, "local", ".after", first)])
        self.assertEqual(os.stat(self.job(second).script(".environ")).st_mode & 0o77, 0)
        self.go()
        self.until(lambda: "1 completed" in self.states(second))    # without anybody's looking
        self.assertEqual(self.ran(), ["first", "second"])
        self.assertEqual(self.psik("logs", second).out,
                         "of the shell, %s\n" % self.job(second).path)
        self.assertFalse(os.path.exists(self.job(second).script(".environ")))
        self.psik("ls")
        self.assertEqual(self.folders(), [])

    def test_one_waits_for_a_job_of_upstream(self) -> None:
        made = psik.create(self.config(), psik.JobSpec(script="true"))
        first = os.path.join(self.prefix, made.jobid)   # in the prefix itself
        os.rename(made.path, first)
        for state in ("active,77", "completed,0"):
            with open(first + "/status.csv", "a") as file:
                file.write("%.3f,1,%s\n" % (time.time(), state))
            if state == "active,77":
                second = self.put("true", made.jobid)
        self.psik("ls")
        self.assertEqual(self.ended(second), "completed")

    def test_how_the_first_has_to_end(self) -> None:
        for word, line, state in VERDICTS:
            with self.subTest(word=word, line=line):
                first = self.put(line)
                second = self.put("true", word % first, status=None)
                self.assertEqual(self.ended(second), state)
                if state == "canceled":
                    self.assertIn("it was to run after %s, which is " % (word % first),
                                  self.reason(second))

    def test_a_diamond(self) -> None:
        top = self.put(self.until_go() + "; " + self.note("top"))
        sides = [self.put(self.note(name), top) for name in ("left", "right")]
        bottom = self.put(self.note("bottom"), *sides)
        self.assertEqual(self.reason(bottom), "waits for " + ", ".join(sides))
        self.go()
        self.assertEqual(self.ended(bottom), "completed")
        self.assertEqual(self.ran()[0], "top")
        self.assertEqual(sorted(self.ran()[1:3]), ["left", "right"])
        self.assertEqual(self.ran()[3:], ["bottom"])

    def test_a_chain(self) -> None:
        last = self.put(self.until_go() + "; " + self.note("0"))
        for number in range(1, 15):
            last = self.put(self.note(str(number)), last)
        self.go()
        self.assertEqual(self.ended(last), "completed")
        self.assertEqual(self.ran(), [str(number) for number in range(15)])

    def test_many_that_end_at_once(self) -> None:
        many = [self.put(self.until_go()) for _ in range(12)]
        last = self.put(self.note("last"), *many)
        self.go()
        self.until(lambda: "1 completed" in self.states(last))
        self.psik("ls")
        self.assertEqual((self.ran(), self.states(last)[1:]),
                         (["last"], ["1 queued", "1 active", "1 completed"]))

    def test_a_branch_that_fails(self) -> None:
        first = self.put(self.until_go() + "; exit 3")
        second = self.put("true", first)
        third, other = self.put("true", second), self.put(self.note("other"), "notok:" + second)
        self.go()
        self.until(lambda: "1 completed" in self.states(other))
        self.assertEqual([self.states(each)[-1] for each in (second, third)], ["0 canceled"] * 2)
        self.assertEqual(self.reason(third), "it was to run after %s, which is canceled" % second)
        self.psik("wait", third, status=143)

    def test_cancel_start_and_remove(self) -> None:
        first = self.put(self.until_go())
        second, third = self.put("true", first), self.put(self.note("third"), first)
        self.psik("cancel", second)
        self.assertEqual(self.states(second), ["0 new", "0 canceled"])
        self.assertIn("waits for " + first, self.psik("start", third).err)
        self.assertEqual(self.states(third), ["0 new"])
        self.psik("start", "--force", third)
        self.assertEqual(self.ended(third), "completed")
        fourth = self.put("true", first)
        self.assertIn("these jobs wait for it: " + fourth, self.psik("rm", first, status=5).err)
        self.psik("rm", "--force", first)
        self.assertEqual(self.states(fourth)[-1], "0 canceled")
        self.assertEqual(self.reason(fourth), "it was to run after %s, which is canceled" % first)
        self.psik("ls")
        self.assertEqual(self.ran(), ["third"])

    def test_one_that_is_canceled_takes_the_others_along(self) -> None:
        first = self.put(self.until_go())
        second = self.put("true", first)
        third = self.put("true", second)
        self.psik("cancel", first)
        self.assertEqual([self.states(each)[-1] for each in (second, third)], ["0 canceled"] * 2)

    def test_one_that_is_removed_by_hand(self) -> None:
        first = self.put(self.until_go())
        ids = [self.put("true", how + first) for how in ("", "any:", "notok:")]
        psik.delete_tree(self.job(first).path)
        self.go()
        self.assertEqual([self.ended(jobid) for jobid in ids],
                         ["canceled", "completed", "canceled"])
        self.assertEqual(self.reason(ids[0]), "it was to run after %s, which was removed" % first)

    def test_one_whose_making_was_cut_short_leaves_no_name(self) -> None:
        first = self.run_spec("--no-submit", script="true")
        second = self.job(self.run_spec("--no-submit", script="true", after=[first]))
        os.unlink(second.status_path)
        os.utime(second.path, (1, 1))
        self.psik("rm", "--force", first)
        self.assertEqual(len(self.folders()), 1)
        self.psik("rm", "--stale")
        self.assertEqual((self.folders(), os.path.exists(second.path)), ([], False))

    def test_a_tree_that_is_moved(self) -> None:
        done = self.run_spec("--wait", script="true")
        first = self.run_spec("--no-submit", script="#!/bin/sh\ntrue")
        second = self.put("true", first, done)
        third = self.run_spec("--no-submit", script="true", after=[done])
        there = self.folder + "/there"
        os.rename(self.prefix, there)
        self.configure(poll_interval_s=0, prefix=there)
        self.psik("start", "--wait", third)
        self.psik("start", "--wait", first)
        self.psik("start", "--wait", second)    # its scripts are to be made anew
        self.assertEqual(self.states(second)[-1], "1 completed")

    def test_without_a_supervisor_the_next_look_releases(self) -> None:
        for look in ("ls", "poll", "wait"):
            first = self.put(self.until_go())
            second = self.put(self.note(look), first)
            psik.write_file(self.job(first).script("psik"), "#!/bin/sh\nexit 1\n", 0o700)
            self.go()
            self.until(lambda: "1 completed" in self.states(first))
            self.assertEqual(self.states(second), ["0 new"])
            self.psik(*([look, second] if look == "wait" else [look]))
            self.assertEqual(self.ended(second), "completed")
            os.unlink(os.path.join(self.folder, "go"))
        self.assertEqual(self.ran(), ["ls", "poll", "wait"])

    def test_a_release_that_is_cut_short(self) -> None:
        first = self.put("true", status=0)
        self.ended(first)
        for name in ("psik.Submission.run", "psik.History.append", "psik.Held.forget"):
            config = self.config()
            job = psik.create(config, psik.JobSpec(script="#!/bin/sh\n" + self.note(name),
                                                   after=[first]))
            known = getattr(psik, name.split(".")[1])
            real, cut = getattr(known, name.split(".")[2]), []

            def cut_short(*args: Any, **options: Any) -> Any:
                cut.append(1)
                if name.endswith("run"):
                    real(*args, **options)      # the scheduler has it, and its answer is lost
                raise KeyboardInterrupt

            with mock.patch(name, cut_short), self.assertRaises(KeyboardInterrupt):
                psik.submit(job)
            self.assertTrue(cut)
            self.until(lambda: "completed" in self.psik("ls").out.split("\n")[1])
            self.assertEqual(self.ended(job.jobid), "completed")
        self.assertEqual(self.ran(), ["psik.Submission.run", "psik.History.append",
                                      "psik.Held.forget"])

    def test_a_release_that_ends_before_it_has_submitted_anything(self) -> None:
        first = self.put("true")
        self.ended(first)
        job = psik.create(self.config(), psik.JobSpec(script="#!/bin/sh\n" + self.note("it"),
                                                      after=[first]))
        with mock.patch("psik.start_program", side_effect=KeyboardInterrupt), \
                self.assertRaises(KeyboardInterrupt):
            psik.submit(job)
        self.assertTrue(os.path.exists(job.log("submit", 1)))
        self.psik("ls")
        self.assertEqual((self.ended(job.jobid), self.ran()), ("completed", ["it"]))

    def test_a_releaser_that_is_killed_at_any_step(self) -> None:
        """It is what a supervisor calls at its end; each job behind runs once all the same."""
        first = self.put(self.until_go())
        psik.write_file(self.job(first).script("psik"), "#!/bin/sh\nexit 1\n", 0o700)
        names, steps, killed = [], [1, 4, 16], -9
        self.go()
        self.until(lambda: "1 completed" in self.states(first))
        while killed == -9:
            names.append("n%d" % steps[0])
            job = self.held(first, self.note(names[-1]))
            killed = subprocess.run([sys.executable, "-c", RELEASE, first, str(steps[0])],
                                    env=self.env).returncode
            self.psik("ls")
            self.assertEqual(self.ended(job.jobid), "completed", steps[0])
            steps = steps[1:] or [steps[0] + 37]
        self.assertEqual(killed, 0)
        self.assertGreater(len(names), 10)
        self.assertEqual(sorted(self.ran()), sorted(names))

    def held(self, first: str, line: str) -> Any:
        """A job that waits for one which has ended meanwhile."""
        job = psik.create(self.config(), psik.JobSpec(script="#!/bin/sh\n%s\n" % line,
                                                      after=[first]))
        psik.Waiter(job).begin(60)
        return job

    def test_one_that_is_submitted_while_it_is_looked_at(self) -> None:
        first = self.put(self.until_go())
        job = self.job(self.put("true", first))
        real = psik.Held.read

        def submitted(held: Any) -> Any:
            if len(job.rows()) == 1 and sys._getframe(1).f_code.co_name == "is_waiting":
                self.go()
                self.until(lambda: len(job.rows()) > 1)
            return real(held)

        with mock.patch("psik.release_all"), mock.patch("psik.Held.read", submitted):
            look, = psik.look_at(self.config(), [job])
        self.assertEqual((look.summary.state, look.waits), ("new", True))

    def test_one_that_was_canceled_is_started_when_it_may(self) -> None:
        first = self.put(self.until_go())
        second = self.put(self.note("second"), first)
        self.psik("cancel", second)
        said = self.psik("start", second, status=5).err
        self.assertIn("job %s waits for %s, which has not ended as required" % (second, first),
                      said)
        self.go()
        self.ended(first)
        self.psik("start", second)
        self.assertEqual(self.ended(second), "completed")
        self.assertFalse(os.path.exists(self.job(second).script(".environ")))

    def test_what_has_ended_well_is_remembered(self) -> None:
        first, other = self.put("true"), self.put(self.until_go())
        second = self.put(self.note("second"), first, other)
        self.ended(first)
        self.psik("ls")
        self.psik("rm", "--force", first)
        self.assertEqual(self.reason(second), "waits for " + other)
        self.go()
        self.assertEqual(self.ended(second), "completed")

    def test_in_a_moved_tree_what_has_ended_well_is_remembered(self) -> None:
        first, other = (self.run_spec("--no-submit", script="true") for _ in range(2))
        second = self.put("true", first, other)
        moved = self.prefix + "-moved"
        os.rename(self.prefix, moved)
        self.configure(prefix=moved, poll_interval_s=0)
        self.psik("start", "--wait", first)
        self.psik("rm", "--force", first)
        self.assertIn("waits for " + other, self.reason(second))

    def test_one_that_was_never_started_is_named(self) -> None:
        first = self.run_spec("--no-submit", script="true")
        self.assertIn("waits for %s, which was never started" % first,
                      self.psik("run", "-", stdin=json.dumps(
                          {"script": "true", "after": [first]})).err)

    def test_another_process_is_first_to_submit_it(self) -> None:
        for status in (0, 5):
            first = self.run_spec("--wait", script="#!/bin/sh\nexit %d\n" % status, status=status)
            second = self.run_spec("--no-submit", script="true", after=[first])
            begin, looks = psik.Waiter.begin, [0]

            def begin_slowly(held: psik.Waiter, timeout_s: float) -> None:
                begin(held, timeout_s)
                psik.Waiter.release(self.job(first))
                looks[0] += 1

            with mock.patch.object(psik.Waiter, "begin", begin_slowly):
                if status:
                    with self.assertRaisesRegex(psik.ConflictError, "is canceled: it was to run"):
                        psik.submit_next(self.config(), self.job(second))
                else:
                    row = psik.submit_next(self.config(), self.job(second))
                    self.assertIn(str(row.state), ("queued", "active", "completed"))
            self.assertEqual(looks, [1])
            if not status:
                self.until_last(second, "1 completed")
                self.assertEqual(len(self.states(second)), 4)

    def test_a_refusal_away_from_home_says_nothing(self) -> None:
        self.configure_pond()
        first = self.run_spec(script="#!/bin/sh\n" + self.until_go(), backend="local")
        second = self.run_spec(script="true", after=[first], backend="pond")
        third = self.run_spec(script="true", after=["any:" + second], backend="pond")
        submit = self.job(second).script("submit")
        text = psik.read_text(submit)
        psik.write_file(submit, "#!/bin/sh\necho not from this node >&2\nexit 1\n", 0o700)
        self.go()
        self.until(lambda: "1 completed" in self.states(first))
        self.until(lambda: not os.path.exists(self.job(second).log("submit", 1)))
        held, environment = psik.Waiter(self.job(second)), dict(self.env, SLURM_JOB_ID="7")
        with mock.patch.dict(os.environ, environment, clear=True):
            with self.assertRaisesRegex(psik.BackendError, "from this host: not from"):
                held.settle()
        self.assertEqual(self.states(second), ["0 new"])
        psik.write_file(submit, text, 0o700)
        self.psik("ls")
        self.assertEqual(self.states(second), ["0 new", "1 queued"])
        self.psik("cancel", second)
        self.until(lambda: "1 queued" in (self.psik("ls").out and self.states(third)))

    def test_a_job_of_this_host_is_submitted_at_home_only(self) -> None:
        for kind in ("local", "local-mine"):
            self.configure(poll_interval_s=0, backend={"type": kind})
            first = self.run_spec("--no-submit", script="#!/bin/sh\ntrue\n")
            second = self.put("true", first)
            psik.write_file(self.job(first).script("psik"), "#!/bin/sh\nexit 1\n", 0o700)
            self.psik("start", first)   # and its supervisor releases nobody
            self.until_last(first, "1 completed")
            with mock.patch.dict(os.environ, dict(self.env, SLURM_JOB_ID="7"), clear=True):
                psik.Waiter.release(self.job(first))
            self.assertEqual(self.states(second), ["0 new"], kind)
            self.psik("ls")
            self.until_last(second, "1 completed")

    def test_what_is_removed_had_ended_as_it_should(self) -> None:
        first = self.put(self.until_go())
        second, third = self.put("true", first), self.put("true", "notok:" + first)
        path = psik.Held(self.job(second)).path
        data = json.loads(psik.read_text(path))
        psik.write_file(path, json.dumps(dict(data, host="elsewhere")))
        self.go()
        self.until_last(first, "1 completed")
        self.until_last(third, "0 canceled")
        self.psik("rm", "--force", first)
        self.assertEqual(self.states(second), ["0 new"])
        self.assertEqual(self.reason(second), "waits to be submitted on elsewhere")
        psik.write_file(path, json.dumps(dict(
            json.loads(psik.read_text(path)), host=os.uname().nodename)))
        self.psik("poll")
        self.assertEqual(self.ended(second), "completed")

    def test_a_server_that_stops_finishes_a_submission_of_its_own(self) -> None:
        self.configure_pond()
        first = self.run_spec("--no-submit", script="#!/bin/sh\ntrue", backend="local")
        second = self.run_spec(script="true", after=[first], backend="pond")
        begun = os.path.join(self.folder, "begun")
        psik.write_file(self.job(second).script("submit"),
                        "#!/bin/sh\n: >%s\nsleep 2\necho 77\n" % begun, 0o700)
        psik.write_file(self.job(first).script("psik"), "#!/bin/sh\nexit 1\n", 0o700)
        self.psik("start", first)   # and its supervisor releases nobody
        server = Server(self, "--uds", "s.sock")
        self.until(lambda: os.path.exists(begun))
        server.stop()
        self.assertEqual(self.states(second), ["0 new", "1 queued"])

    def test_all_jobs_of_a_name(self) -> None:
        ones = [self.put(self.until_go(), name="sweep-%d" % number) for number in range(2)]
        other = self.put("true", "any:sweep-*", name="other")
        self.assertEqual(sorted(self.job(other).spec().after),
                         sorted("any:" + jobid for jobid in ones))
        self.psik("cancel", ones[1])
        self.assertEqual(self.states(other), ["0 new"])
        self.go()
        self.assertEqual(self.ended(other), "completed")

    def test_a_refusal_at_home_wakes_those_behind(self) -> None:
        self.configure_pond()
        first = self.run_spec("--no-submit", script="true", backend="pond")
        second = self.run_spec(script="#!/bin/sh\ntrue", after=["notok:" + first], backend="local")
        psik.write_file(self.job(first).script("submit"), "#!/bin/sh\nexit 1\n", 0o700)
        self.psik("start", first, status=4)
        self.assertEqual(self.ended(second), "completed")

    def test_what_others_put_there_is_not_read(self) -> None:
        first = self.put(self.until_go())
        second = self.put("true", first)
        self.go()
        folder = psik.Held.folder(self.job(first))
        for name, text in (("111.222", "/nowhere"), ("1.2", ""), ("x", "/etc")):
            psik.write_file(os.path.join(folder, name), text)
        evil = os.path.join(self.folder, "jobs", "local", "5.5", "scripts")
        os.makedirs(evil)
        for text in ("[1]", '{"after": 7, "environment": []}', "no json"):
            psik.write_file(os.path.join(folder, "5.5"), os.path.dirname(evil))
            psik.write_file(os.path.join(evil, ".environ"), text)
            self.psik("ls")
        self.assertEqual(self.ended(second), "completed")

    def test_words(self) -> None:
        first = self.put("true")
        self.write("s.json", json.dumps({"script": "#!/bin/sh", "after": "any:" + first}))
        second = self.psik("run", "s.json").out.strip()
        third = self.psik("run", "--after", "last", "--no-submit", "s.json").out.strip()
        self.assertEqual(self.job(third).spec().after, ["any:" + first, second])
        self.psik("start", third)
        self.assertEqual(self.ended(third), "completed")
        for word, said in (("maybe:" + first, "no job maybe:" + first),
                           ("99", "after: no job 99"), ("../x", "after: no job ../x")):
            self.assertIn(said, self.psik("run", "--after", word, "s.json", status=2).err)

    def test_over_the_api(self) -> None:
        server = Server(self, "--uds", "s.sock")
        waits = {"script": "#!/bin/sh\n" + self.until_go()}
        first = str(server.ask("POST", "/v1/jobs", waits).json)
        second = str(server.ask("POST", "/v1/jobs", {"script": "true", "after": [first]}).json)
        self.assertEqual(server.ask("GET", "/v1/jobs/%s/state" % second).json, "new")
        self.assertEqual(server.ask("GET", "/v1/jobs/%s/spec" % second).json["after"], [first])
        self.assertNotIn("environ", server.ask("GET", "/v1/jobs/%s/scripts" % second).json)
        answer = server.ask("POST", "/v1/jobs", {"script": "true", "after": ["123.456"]})
        self.assertEqual((answer.status, answer.json["detail"][0]["msg"]),
                         (422, "no job '123.456'"))
        self.go()
        self.until(lambda: server.ask("GET", "/v1/jobs/%s/state" % second).json == "completed")

    def test_the_jobs_of_others_are_not_waited_for(self) -> None:
        self.configure(users="*", authz="owner")
        config = self.config()
        theirs = psik.create(config, psik.JobSpec(script="true"), access={"owner": "eve",
                                                                         "shared": {}})
        handler = mock.Mock(spec=psik.ServerHandler)
        handler.api, handler.caller = psik.Api(config, "tls"), psik.Caller("ada")
        for caller, is_refused in ((psik.Caller("ada"), True), (psik.Caller("eve"), False)):
            handler.caller = caller
            spec = psik.JobSpec(script="true", after=[theirs.jobid])
            try:
                psik.ServerHandler.check_after(handler, spec)
                self.assertFalse(is_refused)
            except psik.InvalidError as err:
                self.assertTrue(is_refused)
                self.assertIn("no job", str(err))


@needs("Slurm", SLURM)
class Slurm(OnSlurm, After):
    """Between a real Slurm and this host."""
    settings = {"backends": {"slurm": {"type": "slurm"}, "local": {"type": "local"}},
                "poll_grace_s": 3}
    spec = {"resources": {"exclusive_node_use": False}}
    slurm_settings = {"KillWait": 5}

    def test_from_one_to_the_other(self) -> None:
        ids = "; echo id ${SLURM_JOB_ID-none}"
        first = self.put(self.until_go() + ids, backend="slurm")
        second = self.put("true" + ids, first, backend="local")
        third = self.put("true" + ids, second, backend="slurm")
        fourth = self.put("true" + ids, third, backend="slurm")
        self.go()
        self.until(lambda: "1 completed" in self.states(first))
        self.until(lambda: self.reason(second).startswith("waits to be submitted on")
                   or self.states(second)[1:])
        self.psik("wait", "--timeout", "100", fourth)
        said = [self.psik("logs", each).out.split() for each in (first, second, third, fourth)]
        self.assertEqual(said[1], ["id", "none"])
        natives = [str(self.job(each).rows()[1].info) for each in (first, third, fourth)]
        self.assertEqual([said[0][1], said[2][1], said[3][1]], natives)

    def test_a_supervisor_on_a_node_releases(self) -> None:
        first = self.put(self.until_go(), backend="slurm")
        second = self.put("true", first, backend="slurm")
        self.go()
        self.until(lambda: "1 completed" in self.states(second), seconds=100)

    def test_one_that_the_scheduler_ends(self) -> None:
        first = self.put("sleep 604", backend="slurm")
        second = self.put("true", "any:" + first, backend="local")
        self.until(lambda: "1 active" in self.states(first))
        self.slurm.run("scancel", str(self.job(first).rows()[1].info))
        self.psik("wait", "--timeout", "100", second)


OTHER_HOST = """
hostname psik-other
for each in atjobs atspool; do
	mount -t tmpfs -o mode=1770,uid=$(id -u daemon),gid=$(id -g daemon) none /var/spool/cron/$each
done
install -o daemon -g daemon -m 600 /dev/null /var/spool/cron/atjobs/.SEQ
mkdir "$1" && mount -t tmpfs none "$1"
for each in /run/*; do
	test ! -d $each || { mkdir "$1/${each#/run/}" && mount --bind $each "$1/${each#/run/}"; }
done
mount --rbind "$1" /run
atd -l 50 -b 1 && echo ready
exec sleep 600
"""


@needs("root and Linux namespaces", os.geteuid() == 0 and shutil.which("unshare"))
@needs("atd", shutil.which("atd"))
class TwoHosts(OnSlurm, After):
    """This host, with a real Slurm, and another that shares the tree and has an atd of its own."""
    settings = {"backends": {"slurm": {"type": "slurm"}, "local": {"type": "local"},
                             "at": {"type": "at"}}}
    spec = {"resources": {"exclusive_node_use": False}}

    def setUp(self) -> None:
        super().setUp()
        self.other = subprocess.Popen(
            ["unshare", "-m", "-p", "-u", "-f", "--mount-proc", "--kill-child", "sh", "-c",
             OTHER_HOST, "sh", os.path.join(self.folder, "run")], stdout=subprocess.PIPE)
        self.addCleanup(self.other.wait)
        self.addCleanup(self.other.kill)
        assert self.other.stdout
        self.addCleanup(self.other.stdout.close)
        self.assertEqual(self.other.stdout.readline(), b"ready\n")

    def there(self) -> List[str]:
        """The program on the other host."""
        first = subprocess.run(["pgrep", "-P", str(self.other.pid)], stdout=subprocess.PIPE)
        return ["nsenter", "-t", first.stdout.decode().split()[0], "-m", "-u", "-p"] + FAST

    def submit_there(self, backend: str, line: str, *after: str) -> str:
        """Submit a job of one line on the other host; its id."""
        words = [word for each in after for word in ("--after", each)]
        return self.psik("run", "--backend", backend, *words, "-c", line,
                         program=self.there()).out.strip()

    def test_from_host_to_host(self) -> None:
        """Here local, on Slurm, there at, there local, and here again."""
        first = self.put(self.until_go(), backend="local")
        second = self.put("hostname", first, backend="slurm")
        third = self.submit_there("at", "hostname", second)
        fourth = self.submit_there("local", "hostname", third)
        fifth = self.put("hostname", fourth, backend="local")
        self.go()
        self.psik("wait", "--timeout", "100", second)
        self.psik("ls")
        self.assertEqual(self.states(third), ["0 new"])
        self.assertIn("psik-other", self.reason(third))
        self.psik("poll", program=self.there())
        self.until(lambda: "1 completed" in self.states(fourth))
        self.assertEqual(self.states(fifth), ["0 new"])
        self.psik("ls")
        self.until(lambda: "1 completed" in self.states(fifth))
        here, there = os.uname().nodename, "psik-other"
        self.assertEqual([self.psik("logs", each).out.strip()
                          for each in (third, fourth, fifth)], [there, there, here])


if __name__ == "__main__":
    unittest.main()
