"""The job tree: what is on disk, what a crash leaves, what upstream's trees show."""
import json
import os
import signal
import subprocess
import sys
import unittest
from typing import List, Tuple

import psik
from harness import DEPS, KILLED_AT, ROOT, Case, captured, needs
from psik import JobSpec

HISTORIES: List[Tuple[str, str, int]] = [  # rows as `jobndx state`, the job's state, its latest step
    ("0 new", "new", 0),
    ("0 new/1 queued", "queued", 1),
    ("0 new/1 queued/1 active", "active", 1),
    ("0 new/1 queued/1 active/1 completed", "completed", 1),
    ("0 new/1 active/1 completed/1 queued", "completed", 1),
    ("0 new/1 completed/1 failed", "completed", 1),
    ("0 new/1 failed", "failed", 1),
    ("0 new/0 canceled", "canceled", 0),
    ("0 new/1 queued/0 canceled", "canceled", 1),
    ("0 new/1 queued/1 active/0 canceled/1 completed", "canceled", 1),
    ("0 new/1 queued/1 completed/0 canceled", "completed", 1),
    ("0 new/1 queued/0 canceled/2 queued", "queued", 2),
    ("0 new/0 canceled/1 queued", "queued", 1),
    ("0 new/1 queued/1 failed/2 queued/2 active", "active", 2),
    ("0 new/2 completed/1 active", "completed", 2),
]
FOREIGN: List[Tuple[str, List[str]]] = [  # text of a status.csv, the rows that are kept
    ("1.5,0,new,0\ngarbage\n2.5,1,queued,7\n", ["0 new", "1 queued"]),
    ("1.5,0,new,0\n2.5,1,que", ["0 new"]),
    ("1.5,0,new,0\n2.5,1,acti1795220040.1,1,completed,0\n", ["0 new", "1 completed"]),
    ("1.5,0,new,0\n\n\n2.5,1,dancing,0\n3.5,x,queued,1\n", ["0 new"]),
    ("time,jobndx,state,info\n1.5,0,new,0\n", ["0 new"]),
    ("1.5,0,new,0\n2.5,1,queued,12;cluster\n", ["0 new", "1 queued"]),
    ("\x00\x01\xff\n1.5,0,new,0\n", ["0 new"]),
]
CRASH = KILLED_AT + """
psik.PROBED["date\\0+%3N"] = "123"
sys.setprofile(stop)
job = psik.create(psik.load_config(sys.argv[1]), psik.JobSpec(script="echo"))
sys.setprofile(None)
print(job.jobid)
"""


class States(Case):
    def test_state_is_a_function_of_the_history(self) -> None:
        for text, state, jobndx in HISTORIES:
            with self.subTest(history=text):
                rows = [psik.Row(float(i), int(row.split()[0]), psik.STATES[row.split()[1]], 0)
                        for i, row in enumerate(text.split("/"))]
                steps = psik.Steps(rows).states
                self.assertEqual((max(steps), steps[max(steps)].state), (jobndx, state))

    def test_torn_and_foreign_lines_are_skipped_with_a_warning(self) -> None:
        for text, kept in FOREIGN:
            with self.subTest(text=text), captured() as (_, err):
                rows = psik.parse_rows(text, "status.csv")
                self.assertEqual(["%d %s" % (row.jobndx, row.state) for row in rows], kept)
                foreign = [line for line in text.split("\n") if line.strip() and not psik.ROW.fullmatch(line)]
                self.assertEqual(err.getvalue().count("skipped"), len(foreign))

    def test_an_append_mends_a_torn_last_line(self) -> None:
        job = psik.create(self.config(), JobSpec(script="echo"))
        with open(job.status_path, "a") as file:
            file.write("12.5,1,que")
        psik.reached(job, 1, psik.JobState.active, 5)
        with captured():
            self.assertEqual(self.states(job.jobid), ["0 new", "1 active"])


class Creation(Case):
    def test_what_a_new_job_consists_of(self) -> None:
        job = psik.create(self.config(), JobSpec(script="echo", cb_secret="s3cret"))
        found = sorted(os.path.relpath(os.path.join(folder, name), job.path)
                       for folder, folders, names in os.walk(job.path) for name in folders + names)
        self.assertEqual(found, ["log", "scripts", "scripts/.psik.py", "scripts/cancel", "scripts/job", "scripts/poll", "scripts/psik",
                                 "scripts/run", "scripts/submit", "scripts/supervise", "spec.json", "status.csv", "work"])
        modes = [oct(os.stat(path).st_mode & 0o777) for path in (job.path, job.at("spec.json"), job.script("run"))]
        self.assertEqual(modes, ["0o700", "0o600", "0o700"])
        with open(job.at("spec.json")) as file:
            self.assertEqual(json.load(file)["cb_secret"], "s3cret")

    def test_ten_processes_creating_at_once_get_distinct_ids(self) -> None:
        code = ("import sys; sys.path.insert(0, %r); import psik; config = psik.load_config(sys.argv[1])\n"
                "for i in range(20): print(psik.create(config, psik.JobSpec(script='echo')).jobid)" % ROOT)
        children = [subprocess.Popen([sys.executable, "-c", code, self.env["PSIK_CONFIG"]], stdout=subprocess.PIPE)
                    for _ in range(10)]
        ids = [jobid for child in children for jobid in child.communicate()[0].split()]
        self.assertEqual((len(ids), len(set(ids))), (200, 200))
        self.assertEqual(len(psik.list_jobs(self.config())), 200)

    def test_a_crash_at_any_call_of_a_creation_leaves_a_job_or_none(self) -> None:
        whole = lost = 0
        for count in range(1, 2000, 47):
            done = subprocess.run([sys.executable, "-c", CRASH, self.env["PSIK_CONFIG"], str(count)], stdout=subprocess.PIPE)
            if done.returncode == 0:
                whole += 1
                break
            self.assertEqual(done.returncode, -signal.SIGKILL)
            lost += 1
            for summary in psik.list_jobs(self.config()):  # whatever is listed can be started
                psik.find_job(self.config(), summary.jobid).spec()
        self.assertGreater(lost, 5)
        self.assertEqual(whole, 1)
        root = os.path.join(self.prefix, "local")
        for name in os.listdir(root):
            os.utime(os.path.join(root, name), (1, 1))
        self.psik("rm", "--stale")
        self.assertEqual(sorted(os.listdir(root)), sorted(each.jobid for each in psik.list_jobs(self.config())))

    def test_sweeping_takes_nothing_of_the_users(self) -> None:
        jobid = self.run_spec("--wait", script="true")
        os.makedirs(os.path.join(self.prefix, "2024", "results"))
        for name, inside in (("1000000001.001", "work"), ("1000000002.002", "mine"), ("1000000003.003", "log")):
            os.makedirs(os.path.join(self.prefix, "local", name, inside, "x" if inside != "log" else ""))
        for folder in (os.path.join(self.prefix, "local"), self.prefix):
            for name in os.listdir(folder):
                os.utime(os.path.join(folder, name), (1, 1))
        self.psik("rm", "--stale")
        self.assertEqual(sorted(os.listdir(os.path.join(self.prefix, "local"))), ["1000000001.001", "1000000002.002", jobid])
        self.assertTrue(os.path.isdir(os.path.join(self.prefix, "2024", "results")))

    def test_removing_does_not_follow_links(self) -> None:
        outside = os.path.join(self.folder, "outside")
        os.mkdir(outside)
        os.chmod(outside, 0o750)
        jobid = self.run_spec("--wait", script="mkdir -p ro/deep; ln -s %s ro/link; chmod 000 ro/deep; chmod 500 ro" % outside)
        self.psik("rm", jobid)
        self.assertEqual(oct(os.stat(outside).st_mode & 0o777), "0o750")

    def test_an_odd_info_is_a_text(self) -> None:
        jobid = self.run_spec("--no-submit", script="true")
        self.psik("reached", self.job(jobid).path, "1", "active", "\u00b2")
        self.psik("reached", self.job(jobid).path, "9999999999", "active", status=2)
        self.assertEqual(self.job(jobid).rows()[-1].info, "\u00b2")
        self.psik("ls", env={"PYTHONIOENCODING": "ascii"})

    def test_a_cut_submission_that_started_is_queued_once(self) -> None:
        job = psik.create(self.config(), JobSpec(script="true"))
        psik.reached(job, 1, psik.JobState.active, 77)
        self.assertEqual(psik.submit(job).info, 77)
        psik.reached(job, 1, psik.JobState.completed)
        self.assertEqual(self.states(job.jobid), ["0 new", "1 active", "1 queued", "1 completed"])
        self.assertEqual(psik.submit(job).jobndx, 2)
        ended = psik.create(self.config(), JobSpec(script="true"))
        for state in (psik.JobState.active, psik.JobState.completed):
            psik.reached(ended, 1, state, 0)
        self.assertEqual(psik.submit(ended).jobndx, 2)

    def test_a_faulty_spec_leaves_no_directory(self) -> None:
        for argv, spec in ((["--backend", "nope"], {"script": "x"}), ([], {"script": "x", "directory": "/no/such"}),
                           ([], {"script": ""}), (["--set", "resources.duration=x"], {"script": "x"})):
            ran = self.psik("run", "-", *argv, stdin=json.dumps(spec), status=2)
            self.assertEqual(len(ran.err.splitlines()), 1, ran)
            self.assertFalse(os.path.exists(os.path.join(self.prefix, "local")), ran)
        self.configure(rc_path="/bin/cat")
        self.assertIn("rc_path: '/bin/cat' does not answer", self.psik("run", "-", stdin='{"script": "x"}', status=2).err)
        self.configure(backend={"type": "nosuch"})
        self.assertIn("'nosuch' is no backend", self.psik("run", "-", stdin='{"script": "x"}', status=2).err)
        self.assertEqual([names for _, _, names in os.walk(self.prefix) if names], [])

    def test_a_directory_of_ones_own(self) -> None:
        place = os.path.join(self.folder, "my place's $x")
        os.mkdir(place)
        jobid = self.run_spec("--wait", script="pwd; echo out >made", directory=place)
        self.assertEqual(self.psik("logs", jobid).out.strip(), place)
        self.assertTrue(os.path.exists(os.path.join(place, "made")))
        self.psik("rm", jobid)
        self.assertTrue(os.path.exists(os.path.join(place, "made")))


UPSTREAM = os.path.join(DEPS, "psik-1.2.2", "bin", "psik")


@needs("psik 1.2.2 from PyPI", os.path.exists(UPSTREAM))
class Upstream(Case):
    def upstream(self, *argv: str) -> str:
        done = subprocess.run([UPSTREAM] + list(argv), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=self.env)
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout.decode()

    def test_we_read_its_tree(self) -> None:
        spec = self.write("spec.json", '{"name": "moo", "script": "#!/bin/sh\\necho moo"}')
        self.upstream("run", "--no-submit", spec)
        listing = json.loads(self.psik("ls", "--json").out)
        self.assertEqual([(job["name"], job["state"], job["backend"]) for job in listing], [("moo", "new", "local")])
        self.assertEqual(self.psik("status", "last").err, "")
        self.psik("rm", "last", "--force")
        self.assertEqual(self.psik("ls", "--json").out, "[]\n")

    def test_it_reads_ours(self) -> None:
        jobid = self.run_spec("--wait", name="moo", script="exit 3", environment={"A": "b"}, status=3)
        self.configure(prefix=os.path.join(self.prefix, "local"))
        self.assertIn("%s/local/%s 'moo' JobState.failed/1" % (self.prefix, jobid), self.upstream("ls"))
        self.assertRegex(self.upstream("status", jobid), r"1 JobState.failed +3")



if __name__ == "__main__":
    unittest.main()
