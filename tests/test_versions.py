"""Version 1.0.0 and this one at the same tree: each reads, follows and ends what the other made."""
import gzip
import json
import os
import sys
import time
from typing import Any, Dict, List

import psik
from harness import FAST, ROOT, Case

OLD = os.path.join(ROOT, "tests/old/psik-1.0.0.py.gz")
SCRIPTS = {"completed": "#!/bin/sh\necho moo\n", "failed": "#!/bin/sh\necho oh >&2; exit 3\n",
           "active": "#!/bin/sh\necho here; exec sleep 600\n"}


class Older(Case):
    def setUp(self) -> None:
        super().setUp()
        with gzip.open(OLD) as file:
            path = self.write("psik100.py", file.read().decode())
        self.old = [sys.executable, path]
        self.configure(rc_path="/bin/sh", poll_interval_s=0, poll_grace_s=1, kill_grace_s=1)

    def made_by(self, program: List[str]) -> Dict[str, str]:
        """{state: id} of jobs that a version has made, and that are in these states."""
        found = {}
        for state, script in SCRIPTS.items():
            found[state] = self.psik("run", "-", stdin=json.dumps(
                {"script": script, "name": state, "resources": {"duration": 20}}),
                program=program).out.strip()
            self.until(lambda: "1 " + state in self.states(found[state]), state)  # noqa: B023
        found["new"] = self.psik("run", "--no-submit", "-", stdin='{"script": "#!/bin/sh\\n:"}',
                                 program=program).out.strip()
        found["canceled"] = self.psik("run", "--no-submit", "-", program=program,
                                      stdin='{"script": "#!/bin/sh\\n:"}').out.strip()
        self.psik("cancel", found["canceled"], program=program)
        return found

    def is_handled_by(self, program: List[str], jobs: Dict[str, str]) -> None:
        """Check that a version handles these jobs."""
        def run(*argv: str, status: int = 0) -> Any:
            return self.psik(*argv, status=status, program=program)

        for _ in range(2):      # longer than poll_grace_s, after which what is not known is failed
            listed = json.loads(run("ls", "--json").out)
            time.sleep(1.2)
        self.assertEqual({each["jobid"]: each["state"] for each in listed},
                         {jobid: state for state, jobid in jobs.items()})
        self.assertEqual(run("logs", jobs["completed"]).out, "moo\n")
        self.assertIn("oh", run("logs", "--stderr", jobs["failed"]).out)
        run("wait", jobs["completed"])
        run("wait", jobs["failed"], status=3)
        self.assertEqual(json.loads(run("status", "--json", jobs["failed"]).out)[0]["name"],
                         "failed")
        run("cancel", jobs["active"])
        self.assertEqual(psik.Steps(self.job(jobs["active"]).rows()).states[1].state, "canceled")
        run("wait", jobs["active"], status=143)
        for state in ("new", "failed"):
            run("start", jobs[state])
        run("wait", jobs["new"])
        run("wait", jobs["failed"], status=3)
        self.assertEqual(self.states(jobs["failed"])[-1], "2 failed")
        for jobid in jobs.values():
            run("rm", jobid)
        self.assertEqual(run("ls", "--json").out.split(), ["[]"])

    def test_what_the_older_made(self) -> None:
        self.is_handled_by(FAST, self.made_by(self.old))

    def test_what_the_newer_made(self) -> None:
        self.is_handled_by(self.old, self.made_by(FAST))

    def test_jobs_with_new_fields_are_listed_awaited_and_canceled_by_the_older(self) -> None:
        array = self.run_spec(script="#!/bin/sh\ntrue\n", array="2", setup=["true"])
        long = self.run_spec(script="#!/bin/sh\nexec sleep 600\n", array="2")
        self.until(lambda: self.states(long).count("1 active") + self.states(long).count(
            "2 active") == 2)
        self.psik("wait", array)
        listed = json.loads(self.psik("ls", "--json", program=self.old).out)
        self.assertEqual([each["state"] for each in listed], ["active", "completed"])
        self.psik("wait", array, program=self.old)
        self.psik("cancel", long, program=self.old)
        self.until(lambda: {"1 canceled", "2 canceled"} <= set(self.states(long)))
        self.psik("wait", long, status=143)

    def test_callbacks_that_the_older_could_not_deliver(self) -> None:
        jobid = self.psik("run", "--wait", "-", program=self.old, stdin=json.dumps(
            {"script": "#!/bin/sh\n:", "callback": "http://127.0.0.1:9/"})).out.strip()
        outbox = psik.Outbox(self.job(jobid))
        self.assertEqual([event.state for event in outbox.events()],
                         ["queued", "active", "completed"])
        self.psik("deliver", "--all", status=1)
        self.assertEqual([event.attempts > 0 for event in outbox.events()], [True, False, False])


if __name__ == "__main__":
    import unittest
    unittest.main()
