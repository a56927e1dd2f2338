"""The job tree: what is on disk, what a crash leaves, what upstream's trees show."""
import asyncio
import json
import os
import signal
import subprocess
import sys
import unittest
from typing import Any, Dict, List, Optional, Tuple
from unittest import mock

import psik
from harness import DEPS, KILLED_AT, ROOT, Case, brought_to_the_disk, captured, needs
from psik import JobSpec

HISTORIES: List[Tuple[str, str, int]] = [  # rows as `jobndx state`, the job's state, its last step
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
JOB_MODES = {  # of all that a job consists of, once it ran
    ".": "700", "access.json": "600", "spec.json": "600", "status.csv": "600", "work": "700",
    "log": "700", "log/alive.1": "600", "log/callbacks": "600", "log/claim.1": "600",
    "log/stderr.1": "600", "log/stdout.1": "600",
    "scripts": "700", "scripts/.psik.py": "600", "scripts/callback.json": "600",
    "scripts/cancel": "700", "scripts/job": "700", "scripts/poll": "700", "scripts/psik": "700",
    "scripts/signal": "700",
    "scripts/run": "700", "scripts/submit": "700", "scripts/supervise": "700",
}
# Shells write these two, as the umask has it; the mode of log/ keeps others from them.
BY_SHELLS = {"log/host.1", "log/submit.1"}
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
                foreign = [line for line in text.split("\n") if line.strip()
                           and not psik.ROW.fullmatch(line)]
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
        self.assertEqual(found,
                         ["log", "scripts", "scripts/.psik.py", "scripts/cancel", "scripts/job",
                          "scripts/poll", "scripts/psik", "scripts/run", "scripts/signal",
                          "scripts/submit", "scripts/supervise", "spec.json", "status.csv", "work"])
        modes = [oct(os.stat(path).st_mode & 0o777)
                 for path in (job.path, job.at("spec.json"), job.script("run"))]
        self.assertEqual(modes, ["0o700", "0o600", "0o700"])
        with open(job.at("spec.json")) as file:
            self.assertEqual(json.load(file)["cb_secret"], "s3cret")

    def test_ten_processes_creating_at_once_get_distinct_ids(self) -> None:
        code = ("import sys; sys.path.insert(0, %r); import psik\n"
                "config = psik.load_config(sys.argv[1])\n"
                "for _ in range(20): print(psik.create(config, psik.JobSpec(script='echo')).jobid)"
                % ROOT)
        children = [subprocess.Popen([sys.executable, "-c", code, self.env["PSIK_CONFIG"]],
                                     stdout=subprocess.PIPE) for _ in range(10)]
        ids = [jobid for child in children for jobid in child.communicate()[0].split()]
        self.assertEqual((len(ids), len(set(ids))), (200, 200))
        self.assertEqual(len(psik.list_jobs(self.config())), 200)

    def test_a_crash_at_any_call_of_a_creation_leaves_a_job_or_none(self) -> None:
        whole = lost = 0
        for count in range(1, 2000, 47):
            argv = [sys.executable, "-c", CRASH, self.env["PSIK_CONFIG"], str(count)]
            done = subprocess.run(argv, stdout=subprocess.PIPE)
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
        self.assertEqual(sorted(os.listdir(root)),
                         sorted(each.jobid for each in psik.list_jobs(self.config())))

    def test_sweeping_takes_nothing_of_the_users(self) -> None:
        jobid = self.run_spec("--wait", script="true")
        os.makedirs(os.path.join(self.prefix, "2024", "results"))
        for name, inside in (("1000000001.001", "work"), ("1000000002.002", "mine"),
                             ("1000000003.003", "log")):
            os.makedirs(os.path.join(self.prefix, "local", name, inside,
                                     "x" if inside != "log" else ""))
        for folder in (os.path.join(self.prefix, "local"), self.prefix):
            for name in os.listdir(folder):
                os.utime(os.path.join(folder, name), (1, 1))
        self.psik("rm", "--stale")
        self.assertEqual(sorted(name for name in os.listdir(os.path.join(self.prefix, "local"))
                                if name[0] != "."),
                         ["1000000001.001", "1000000002.002", jobid])
        self.assertTrue(os.path.isdir(os.path.join(self.prefix, "2024", "results")))

    def test_sweeping_takes_no_job_whose_history_is_lost(self) -> None:
        jobid = self.run_spec("--wait", script="#!/bin/sh\necho precious", directory=self.folder)
        job = self.job(jobid)
        os.truncate(job.status_path, 0)
        os.utime(job.path, (1, 1))
        self.psik("rm", "--stale")
        self.assertEqual(psik.read_text(job.log("stdout", 1)), "precious\n")

    def test_sweeping_takes_what_killed_processes_have_left(self) -> None:
        self.run_spec("--wait", script="true")
        hexadecimal, kept, left = ".0123456789ab", [], []
        for place in ("local/.poll.json", "local/.uploads/x", "local/.outbox/1.2.000001.json",
                      "local/.after/1.2/3.4", ".psik/0123456789abcdef", ".tokens/key"):
            path = os.path.join(self.prefix, place)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            kept.append(path)
            left.append(path + hexadecimal)
        left += [os.path.join(self.prefix, "local/.outbox/1.2.000002.json.4242"),
                 os.path.join(self.prefix, ".events/000000001000001.new")]
        os.mkdir(os.path.dirname(left[-1]))
        os.mkdir(left[4])
        young = kept[1] + ".ba9876543210"
        for path in kept + left + [young]:
            if path not in (kept[4], left[4]):
                psik.write_file(path, "{}")
            else:
                os.makedirs(path, exist_ok=True)
        for path in left + kept:
            os.utime(path, (1, 1))
        kept.remove(kept[4])        # a copy that no job needs
        kept = [path for path in kept if "/.after/" not in path]    # it names no job
        self.psik("rm", "--stale")
        self.assertEqual([path for path in kept + left + [young] if os.path.exists(path)],
                         kept + [young])

    def test_removing_does_not_follow_links(self) -> None:
        outside = os.path.join(self.folder, "outside")
        os.mkdir(outside)
        os.chmod(outside, 0o750)
        script = "mkdir -p ro/deep; ln -s %s ro/link; chmod 000 ro/deep; chmod 500 ro" % outside
        jobid = self.run_spec("--wait", script=script)
        self.psik("rm", jobid)
        self.assertEqual(oct(os.stat(outside).st_mode & 0o777), "0o750")

    def test_removing_a_tree_of_any_depth(self) -> None:
        jobid = self.run_spec("--wait", script="#!%s\nimport os\nfor _ in range(1500):\n"
                              "    os.mkdir('d')\n    open('f', 'w').close()\n"
                              "    os.symlink('/', 'l')\n    os.chdir('d')\n" % sys.executable)
        self.psik("rm", jobid)
        self.assertEqual(psik.list_jobs(self.config()), [])
        self.assertFalse(any(name.startswith(".removed") for name in os.listdir(
            os.path.join(self.prefix, "local"))))

    def test_a_dry_run_sweeps_nothing(self) -> None:
        path = os.path.join(self.prefix, "local", ".removed-1700000000.000")
        os.makedirs(path)
        self.assertIn("would remove " + path, self.psik("rm", "--stale", "--dry-run").err)
        self.assertTrue(os.path.exists(path))
        self.assertIn("psik: removed " + path, self.psik("rm", "--stale").err)
        self.assertFalse(os.path.exists(path))

    def test_sweeping_beside_another_who_removes(self) -> None:
        os.makedirs(os.path.join(self.prefix, "local", "1700000000.000"))
        with mock.patch.object(psik.Remains, "is_old", side_effect=FileNotFoundError):
            self.assertEqual(psik.sweep(self.config()), [])

    def test_an_odd_info_is_a_text(self) -> None:
        jobid = self.run_spec("--no-submit", script="true")
        self.psik("reached", self.job(jobid).path, "1", "active", "\u00b2")
        self.psik("reached", self.job(jobid).path, "9999999999", "active", status=2)
        self.assertEqual(self.job(jobid).rows()[-1].info, "\u00b2")
        self.psik("ls", env={"PYTHONIOENCODING": "ascii"})

    def test_a_cut_submission_that_started_is_queued_once(self) -> None:
        job = psik.create(self.config(), JobSpec(script="true"))
        psik.write_file(job.log("submit", 1), "")   # it is there before a submission begins
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
        for argv, spec in ((["--backend", "nope"], {"script": "x"}),
                           ([], {"script": "x", "directory": "/no/such"}), ([], {"script": ""}),
                           (["--set", "resources.duration=x"], {"script": "x"})):
            ran = self.psik("run", "-", *argv, stdin=json.dumps(spec), status=2)
            self.assertEqual(len(ran.err.splitlines()), 1, ran)
            self.assertFalse(os.path.exists(os.path.join(self.prefix, "local")), ran)
        self.configure(rc_path="/bin/cat")
        self.assertIn("rc_path: '/bin/cat' does not answer",
                      self.psik("run", "-", stdin='{"script": "x"}', status=2).err)
        self.configure(backend={"type": "nosuch"})
        self.assertIn("'nosuch' is not a type of backend",
                      self.psik("run", "-", stdin='{"script": "x"}', status=2).err)
        self.assertEqual([names for _, _, names in os.walk(self.prefix) if names], [])

    def test_a_directory_of_ones_own(self) -> None:
        place = os.path.join(self.folder, "my place's $x")
        os.mkdir(place)
        jobid = self.run_spec("--wait", script="pwd; echo out >made", directory=place)
        self.assertEqual(self.psik("logs", jobid).out.strip(), place)
        self.assertTrue(os.path.exists(os.path.join(place, "made")))
        self.psik("rm", jobid)
        self.assertTrue(os.path.exists(os.path.join(place, "made")))


class SeveralBackends(Case):
    """The jobs of a tree with several backends are one list, in the order in which they came."""

    def setUp(self) -> None:
        super().setUp()
        self.configure(backends={"one": {"type": "local"}, "two": {"type": "local"}})
        made = [psik.create(self.config(), JobSpec(script="true"), name)
                for name in ("one", "two", "two", "one", "two", "one")]
        self.made = [job.jobid for job in made]
        os.rename(made[3].path, os.path.join(self.prefix, made[3].jobid))  # as upstream keeps jobs

    def listed(self, **options: Any) -> List[str]:
        """The ids that a listing shows, in its order."""
        return [each.jobid for each in psik.list_jobs(self.config(), **options)]

    def test_a_listing_has_the_newest_first(self) -> None:
        self.assertEqual(self.listed(), self.made[::-1])
        self.assertEqual([line.split()[0] for line in self.psik("ls").out.splitlines()[1:]],
                         self.made[::-1])

    def test_a_part_of_a_listing_is_the_newest_of_all(self) -> None:
        self.assertEqual(self.listed(limit=2), [self.made[5], self.made[4]])
        self.assertEqual(self.listed(limit=3, index=1), [self.made[4], self.made[3], self.made[2]])

    def test_a_listing_of_one_backend_has_its_own_alone(self) -> None:
        self.assertEqual(self.listed(backend="two"), [self.made[4], self.made[2], self.made[1]])
        self.assertEqual(self.listed(backend="one"), [self.made[5], self.made[3], self.made[0]])

    def test_a_listing_looks_at_no_job_that_is_too_old_or_not_meant(self) -> None:
        newest, old = self.listed()[0], self.listed()[-1]
        looked: List[str] = []
        job_of = psik.Root.job

        def look(root: psik.Root, jobid: str) -> Optional[psik.JobDir]:
            looked.append(jobid)
            return job_of(root, jobid)

        for chosen, meant in ((psik.JobFilter(since=float(newest)), newest),
                              (psik.JobFilter(ids=frozenset([old])), old)):
            with self.subTest(chosen), mock.patch.object(psik.Root, "job", look):
                found = chosen.find(self.config(), poll=False)
                self.assertEqual([job.jobid for job, _ in found], [meant])
                self.assertEqual(set(looked), {meant})
                looked.clear()

    def test_a_manager_lists_the_oldest_first(self) -> None:
        async def listed() -> List[str]:
            return [job.jobid async for job in psik.JobManager(self.config()).ls()]

        loop = asyncio.new_event_loop()
        try:
            self.assertEqual(loop.run_until_complete(listed()), self.made)
        finally:
            loop.close()

    def test_the_last_is_the_newest_of_all(self) -> None:
        self.assertEqual(psik.find_job(self.config(), "last").jobid, self.made[5])
        psik.remove(self.job(self.made[5]), force=True)
        self.assertEqual(psik.find_job(self.config(), "last").jobid, self.made[4])

    def test_an_id_is_given_once_in_all_of_them(self) -> None:
        with mock.patch("psik.time.time", return_value=9999999999.5):
            made = [psik.create(self.config(), JobSpec(script="true"), name).jobid
                    for name in ("one", "two", "one")]
        self.assertEqual(made, ["9999999999.500", "9999999999.501", "9999999999.502"])


class Modes(Case):
    """What psik.py makes is for its owner alone, whatever the umask; here that forbids nothing."""

    def setUp(self) -> None:
        super().setUp()
        before = os.umask(0)
        self.addCleanup(os.umask, before)

    def modes(self, folder: str) -> Dict[str, str]:
        """The mode of a folder and of all that lies in it, by path."""
        paths = [folder] + [os.path.join(place, name) for place, folders, names in os.walk(folder)
                            for name in folders + names]
        return {os.path.relpath(path, folder): "%o" % (os.lstat(path).st_mode & 0o7777)
                for path in paths}

    def test_of_all_that_a_job_consists_of(self) -> None:
        spec = psik.load_spec(json.dumps({"script": "true", "callback": "http://127.0.0.1:9/"}),
                              "here")
        job = psik.create(self.config(), spec, access={"owner": "ada", "shared": {}})
        psik.submit(job)
        psik.wait(self.config(), [job], 60)
        self.gone(job.path)
        modes = self.modes(job.path)
        for path in BY_SHELLS:
            self.assertEqual(int(modes.pop(path), 8) & 0o7711, 0o600, path)
        self.assertEqual(modes, JOB_MODES)

    def test_of_the_copy_of_psik(self) -> None:
        psik.create(self.config(), JobSpec(script="true"))
        modes = self.modes(os.path.join(self.prefix, ".psik"))
        self.assertEqual(set(modes.values()), {"700", "600"}, modes)

    def test_of_what_a_share_writes(self) -> None:
        job = psik.create(self.config(), JobSpec(script="true"),
                          access={"owner": "ada", "shared": {}})
        psik.Access.share(job, {"eve": ["GET"]})
        self.assertEqual(self.modes(job.path)["access.json"], "600")

    def test_of_what_lies_beside_the_jobs(self) -> None:
        self.configure(poll_interval_s=0)
        jobid = self.run_spec(script="sleep 600", callback="http://127.0.0.1:9/")
        self.until(lambda: "1 active" in self.states(jobid))
        self.psik("poll")
        self.psik("cancel", jobid)
        self.gone(jobid)
        psik.Keyring(self.config()).key()
        keys = psik.IdempotencyKeys(os.path.join(self.prefix, "local"))
        with keys.entry("key", "request") as entry:
            entry.keep(jobid)
        self.assertIn("%s.000001.json" % jobid,
                      os.listdir(os.path.join(self.prefix, "local", ".outbox")))
        folders = [".", ".psik", ".tokens", "local", "local/.keys", "local/.outbox"]
        files = [".tokens/key"] + [name % os.uname().nodename
                                   for name in ("local/.poll-%s.json", "local/.poll-%s.lock")]
        for folder in ("local/.keys", "local/.outbox"):
            files += [os.path.join(folder, name)
                      for name in os.listdir(os.path.join(self.prefix, folder))]
        modes = self.modes(self.prefix)
        self.assertEqual({path: modes[path] for path in folders}, dict.fromkeys(folders, "700"))
        self.assertEqual({path: modes[path] for path in files}, dict.fromkeys(files, "600"))


class Durable(Case):
    """What must not be lost when the machine stops is on the disk when the call returns, whole."""

    def check(self, found: Tuple[str, bytes], path: str) -> None:
        """Check that this file, whole, was brought to the disk, maybe under its passing name."""
        self.assertEqual(found[0] if found[0] == path else found[0].rsplit(".", 1)[0], path)
        with open(path, "rb") as file:
            self.assertEqual(found[1], file.read())

    def test_an_event_and_then_its_row(self) -> None:
        job = psik.create(self.config(),
                          psik.JobSpec(script="true", callback="http://127.0.0.1:9/"))
        with job.history() as history, brought_to_the_disk() as found:
            psik.record(job, history, 1, psik.JobState.active, 7)
            self.assertEqual(len(found), 2)
            self.check(found[0], psik.Outbox(job).path(1))
            self.check(found[1], job.status_path)
        self.assertTrue(found[1][1].endswith(b",1,active,7\n"))

    def test_an_event_that_is_tried_again_later(self) -> None:
        job = psik.create(self.config(),
                          psik.JobSpec(script="true", callback="http://127.0.0.1:9/"))
        event = psik.Outbox(job).add(1, 1, psik.JobState.active, 7)
        with brought_to_the_disk() as found:
            psik.Outbox(job).keep(event._replace(attempts=3))
        self.assertEqual(len(found), 1)
        self.check(found[0], psik.Outbox(job).path(1))

    def test_whom_a_job_is_shared_with(self) -> None:
        job = psik.create(self.config(), JobSpec(script="true"),
                          access={"owner": "ada", "shared": {}})
        with brought_to_the_disk() as found:
            psik.Access.share(job, {"eve": ["GET"]})
        self.assertEqual(len(found), 1)
        self.check(found[0], job.at("access.json"))

    def test_the_key_of_tokens(self) -> None:
        with brought_to_the_disk() as found:
            psik.Keyring(self.config()).key()
        self.assertEqual(len(found), 1)
        self.check(found[0], os.path.join(self.prefix, ".tokens", "key"))

    def test_the_job_that_an_idempotency_key_made(self) -> None:
        keys = psik.IdempotencyKeys(os.path.join(self.prefix, "local"))
        with keys.entry("key", "request") as entry, brought_to_the_disk() as found:
            entry.keep("5.5")
            self.assertEqual(len(found), 1)
            self.check(found[0], os.path.join(keys.folder, os.listdir(keys.folder)[0]))

    def test_what_cannot_be_looked_at_is_not_taken_for_gone(self) -> None:
        path = self.write("f", "x")
        psik.remove_file(path)
        psik.remove_file(path)
        with self.assertRaises(NotADirectoryError):
            psik.remove_file(self.write("g", "x") + "/f")


UPSTREAM = os.path.join(DEPS, "psik-1.2.2", "bin", "psik")


@needs("psik 1.2.2 from PyPI", os.path.exists(UPSTREAM))
class Upstream(Case):
    def upstream(self, *argv: str) -> str:
        done = subprocess.run([UPSTREAM] + list(argv), stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, env=self.env)
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout.decode()

    def test_we_read_its_tree(self) -> None:
        spec = self.write("spec.json", '{"name": "moo", "script": "#!/bin/sh\\necho moo"}')
        self.upstream("run", "--no-submit", spec)
        listing = json.loads(self.psik("ls", "--json").out)
        self.assertEqual([(job["name"], job["state"], job["backend"]) for job in listing],
                         [("moo", "new", "local")])
        self.assertEqual(self.psik("status", "last").err, "")
        self.psik("rm", "last", "--force")
        self.assertEqual(self.psik("ls", "--json").out, "[]\n")

    def test_it_reads_ours(self) -> None:
        jobid = self.run_spec("--wait", name="moo", script="exit 3",
                              environment={"A": "b"}, status=3)
        self.configure(prefix=os.path.join(self.prefix, "local"))
        self.assertIn("%s/local/%s 'moo' JobState.failed/1" % (self.prefix, jobid),
                      self.upstream("ls"))
        self.assertRegex(self.upstream("status", jobid), r"1 JobState.failed +3")

    def test_it_reads_our_arrays(self) -> None:
        jobid = self.run_spec("--wait", name="moo", array=[{"a": "1"}, {"a": "2"}],
                              script="#!/bin/sh\nexit $a", status=2)
        self.configure(prefix=os.path.join(self.prefix, "local"))
        self.assertRegex(self.upstream("ls"), "%s 'moo' JobState.failed/[12]" % jobid)
        said = self.upstream("status", jobid)
        self.assertRegex(said, r"1 JobState.failed +1")
        self.assertRegex(said, r"2 JobState.failed +2")


if __name__ == "__main__":
    unittest.main()
