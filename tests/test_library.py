"""psik.py imported: psik's interface, a synchronous one, and the file in another's package."""
import asyncio
import concurrent.futures
import contextlib
import io
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import threading
import unittest
import zipfile
from typing import Any, Awaitable, Dict, List, Tuple
from unittest import mock

import psik
from harness import PSIK, ROOT, Case

MANY = 40
QUIET = """
import sys, threading, logging, signal
opened = []
if hasattr(sys, "addaudithook"):
    sys.addaudithook(lambda name, args: opened.append(str(args[0]))
                     if name == "open" and isinstance(args[0], str) else None)
before = {number: signal.getsignal(number) for number in range(1, signal.NSIG)}
import psik
assert threading.active_count() == 1
assert not logging.root.handlers
assert before == {number: signal.getsignal(number) for number in range(1, signal.NSIG)}
heavy = {"asyncio", "argparse", "subprocess", "http", "ssl", "socket", "socketserver", "email",
         "urllib.request"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
strange = [path for path in opened
           if not path.endswith((".py", ".pyc", ".so", ".zip")) and ".pyc." not in path]
assert not strange, strange
print("quiet")
"""
VENDORED = "from mypkg.vendor import psik\nconfig = psik.load_config()\n"
JOB_AND_BACK = """
job = psik.create(config, psik.JobSpec(script="$psik --version; exit 3"))
psik.submit(job)
print(psik.exit_status(psik.wait(config, [job], 60)[0]), psik.logs(job).strip())
"""


def run(coroutine: Awaitable[Any]) -> Any:
    """What a coroutine returns, on every Python's asyncio."""
    loop = asyncio.new_event_loop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(coroutine)
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def exit_codes(config: Any) -> List[int]:
    """A few jobs, made and followed in another process."""
    jobs = [psik.create(config, psik.JobSpec(script="exit %d" % number)) for number in range(4)]
    for job in jobs:
        psik.submit(job)
    return [psik.exit_status(summary) for summary in psik.wait(config, jobs, 60)]


class Upstream(Case):
    def test_the_example_of_upstreams_page(self) -> None:
        from psik import Config, JobAttributes, JobManager, JobSpec, ResourceSpec
        self.assertIs(JobAttributes, psik.BackendConfig)

        async def example() -> Tuple[Any, Any]:
            cfg = Config(prefix=self.prefix, backend={  # type: ignore[arg-type]
                "type": "local",
                "queue_name": "batch",
                "project_name": "plaid"})
            mgr = JobManager(cfg)
            rspec = ResourceSpec(duration="60",  # type: ignore[arg-type]
                                 process_count=2,
                                 gpu_cores_per_process=1)
            spec = JobSpec(name="machine info",
                           script="hostname; pwd\necho $mpirun,$nodes,$base,$jobndx,$jobid\n",
                           resources=rspec)
            job = await mgr.create(spec)
            said = await job.submit()
            self.assertEqual(said, (1, job.history[1].info))
            self.assertIn(",1,queued,", await (job.base / "status.csv").read_text())
            await job.wait(60)
            await job.read_info()
            clone = await psik.Job(job.base)
            return job, clone

        job, clone = run(example())
        self.assertEqual(job.history, clone.history)
        self.assertEqual([(ndx, str(state)) for _, ndx, state, _ in job.history],
                         [(0, "new"), (1, "queued"), (1, "active"), (1, "completed")])
        self.assertEqual(job.spec.resources.duration, 60)
        self.assertEqual(job.summarize(), (2, {
            psik.JobState.queued: set(), psik.JobState.active: set(), psik.JobState.failed: set(),
            psik.JobState.completed: {1}, psik.JobState.canceled: set()}))

    def make(self, count: int) -> Tuple[Any, List[Any]]:
        """A manager and so many jobs of it, which are new."""
        async def made() -> List[Any]:
            return [await mgr.create(psik.JobSpec(script="sleep 600")) for _ in range(count)]

        mgr = psik.JobManager(self.config())
        return mgr, run(made())

    def test_cancel_and_wait(self) -> None:
        _, jobs = self.make(2)

        async def example() -> None:
            await jobs[0].submit()
            self.assertTrue(await jobs[0].cancel())
            self.assertEqual((await jobs[0].wait(60)).state, "canceled")
            with self.assertRaises(psik.ConflictError):
                await jobs[1].wait(1)
        run(example())

    def test_what_is_listed_and_found(self) -> None:
        mgr, jobs = self.make(3)

        async def example() -> None:
            self.assertEqual([job.jobid async for job in mgr.ls()], [job.stamp for job in jobs])
            self.assertEqual((await mgr.find("last")).jobid, jobs[2].jobid)
            await jobs[2].cancel()
            await jobs[1].reached(1, psik.JobState.active)
            states = [each.state for each in await mgr.summaries(limit=2)]
            self.assertEqual(states, ["canceled", "active"])
        run(example())

    def test_reached(self) -> None:
        _, [job] = self.make(1)

        async def example() -> None:
            self.assertTrue(await job.reached(7, psik.JobState.active, 99))
            self.assertEqual(job.history[-1][1:], (7, "active", 99))
            self.assertEqual((await psik.Job(str(job.base))).history, job.history)
            with self.assertRaises(psik.InvalidError):
                await job.reached(7, "activ")
        run(example())

    def test_remove(self) -> None:
        mgr, jobs = self.make(2)

        async def example() -> None:
            await jobs[1].remove(force=True)
            self.assertFalse(await jobs[1].base.exists())
            with self.assertRaises(psik.NotFoundError):
                await jobs[1]
            self.assertEqual((await mgr.find("last")).jobid, jobs[0].jobid)
        run(example())

    def test_the_files_of_a_job(self) -> None:
        _, [job] = self.make(1)

        async def example() -> None:
            names = [path.name async for path in job.base.iterdir()]
            self.assertEqual(names, ["log", "scripts", "spec.json", "status.csv", "work"])
            self.assertEqual((job.base / "log").parent, job.base)
            self.assertEqual(len({job.base, job.base / "."}), 2)
        run(example())


class ManyJobs(Case):
    def test_in_a_loop(self) -> None:
        here, threads = threading.current_thread(), set()
        known = psik.create

        def noted(*args: Any) -> Any:
            threads.add(threading.current_thread())
            return known(*args)

        async def one(mgr: Any, number: int) -> Tuple[int, List[str], str]:
            job = await mgr.create(psik.JobSpec(script="echo %d; exit %d" % (number, number)))
            await job.submit()
            states = [str(row.state) async for row in job.watch()]
            return psik.exit_status(await job.wait(60)), states, await job.logs()

        async def all_of_them() -> Any:
            mgr = psik.JobManager(self.config())
            return await asyncio.gather(*[one(mgr, number) for number in range(MANY)])

        with mock.patch("psik.create", noted):
            found = run(all_of_them())
        self.assertTrue(threads)
        self.assertNotIn(here, threads)
        states = ["new", "queued", "active"]
        self.assertEqual(found, [(number, states + ["failed" if number else "completed"],
                                  "%d\n" % number) for number in range(MANY)])

    def test_without_a_loop(self) -> None:
        config = self.config()
        jobs = [psik.create(config, psik.JobSpec(script="echo %d; exit %d" % (number, number)))
                for number in range(MANY)]
        for job in jobs:
            psik.submit(job)
        self.assertEqual([psik.exit_status(each) for each in psik.wait(config, jobs, 120)],
                         list(range(MANY)))
        self.assertEqual([psik.logs(job) for job in jobs],
                         ["%d\n" % number for number in range(MANY)])
        self.assertEqual([[row.jobndx for row in psik.watch(config, job, after=1)] for job in jobs],
                         [[1, 1, 1]] * MANY)

    def test_threads_share_a_manager(self) -> None:
        mgr = psik.JobManager(self.config())

        def one(number: int) -> int:
            async def life() -> int:
                job = await mgr.create(psik.JobSpec(script="exit %d" % number))
                await job.submit()
                return psik.exit_status((await mgr.wait([job], 60))[0])
            return int(run(life()))

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            self.assertEqual(list(pool.map(one, range(16))), list(range(16)))

    def test_processes_share_a_tree(self) -> None:
        with multiprocessing.get_context("fork").Pool(4) as pool:
            self.assertEqual(pool.map(exit_codes, [self.config()] * 4), [[0, 1, 2, 3]] * 4)
        self.assertEqual(len(psik.list_jobs(self.config())), 16)

    def test_inside_a_loop_that_runs_already(self) -> None:
        async def cell() -> List[int]:  # as in a notebook: calls, and awaits, in a running loop
            await asyncio.sleep(0)
            codes = exit_codes(self.config())
            job = await psik.JobManager(self.config()).create(psik.JobSpec(script="exit 9"))
            await job.submit()
            return codes + [psik.exit_status(await job.wait(60))]
        self.assertEqual(run(cell()), [0, 1, 2, 3, 9])


class Sites(Case):
    """What a backend's config says of all its jobs."""

    def needs(self, backend: str = "", **resources: Any) -> Dict[str, Any]:
        """The resources of a job that asks for these."""
        spec = psik.from_json(psik.JobSpec, {"script": "true", "resources": resources})
        job = psik.create(self.config(), spec, backend or None)
        return {name: value for name, value in psik.to_json(job.spec().resources).items()
                if value is not None and name != "exclusive_node_use"}

    def test_defaults(self) -> None:
        self.configure(defaults={"duration": 60, "cpu_cores_per_process": 2, "process_count": 3},
                       backends={"a": {"type": "local"},
                                 "b": {"type": "local", "defaults": {"duration": 4}}})
        usual = {"duration": 60, "cpu_cores_per_process": 2, "gpu_cores_per_process": 0}
        self.assertEqual(self.needs(), dict(usual, process_count=3))
        self.assertEqual(self.needs(duration=10), dict(usual, duration=10, process_count=3))
        self.assertEqual(self.needs(node_count=2), dict(usual, node_count=2))
        self.assertEqual(self.needs("b"), {"duration": 4, "cpu_cores_per_process": 1,
                                           "gpu_cores_per_process": 0})
        made = psik.create(self.config(), psik.JobSpec(script="x", resources=psik.ResourceSpec(
            duration=7)))
        self.assertEqual(made.spec().resources.duration, 7)

    def test_default_attributes(self) -> None:
        self.configure(defaults={"attributes": {"-C": "cpu", "-p": "x"}},
                       backend={"type": "slurm", "attributes": {"-C": "gpu"}})
        job = psik.create(self.config(), psik.JobSpec(script="x", attributes={"-q": "y"}))
        self.assertEqual(job.spec().backend.attributes, {"-C": "gpu", "-p": "x", "-q": "y"})

    def test_limits(self) -> None:
        self.configure(limits={"duration": 120, "process_count": 8, "memory_per_process": "2G"})
        self.assertEqual(self.needs(duration=120, node_count=2, processes_per_node=4,
                                    memory_per_process=2048)["duration"], 120)
        for resources, said in (
                ({"duration": 121}, "duration: 121 is more than the 120 that backend 'local'"),
                ({"node_count": 3, "processes_per_node": 3}, "process_count: 9 is more than the 8"),
                ({"memory_per_process": "3G"}, "memory_per_process: 3072 is more than the 2048")):
            with self.assertRaisesRegex(psik.InvalidError, "resources." + said):
                self.needs(**resources)
        spec = json.dumps({"script": "true", "resources": {"duration": 999}})
        self.assertIn("999 is more than the 120", self.psik("run", "-", stdin=spec, status=2).err)
        self.configure(limits={"duration": 5})  # the ten minutes of who says nothing
        self.assertIn("10 is more than the 5", self.psik(
            "run", "-", stdin='{"script": "true"}', status=2).err)

    def test_a_config_that_psik_has_written(self) -> None:
        for limits in ({}, {"duration": 20}, {"duration": 20, "node_count": None}):
            self.configure(limits=limits, defaults={"duration": 15})
            text = json.dumps(psik.to_json(self.config()))
            config = psik.from_json(psik.Config, json.loads(text))
            self.assertEqual(config.limits.names_set(), ["duration"] if limits else [])
            psik.create(config, psik.JobSpec(script="true"))

    def test_what_a_spec_cannot_set(self) -> None:
        for key in ("limits", "defaults"):
            with self.assertRaisesRegex(psik.InvalidError, key + ": unknown key"):
                psik.from_json(psik.JobSpec, {"script": "x", key: {}})


class Vendored(Case):
    def script(self, text: str, path: str = "") -> str:
        """What a Python program prints."""
        head = "import sys\nsys.path.insert(0, %r)\n" % path if path else ""
        backport = os.path.dirname(sys.modules["dataclasses"].__file__ or "")
        path = backport if sys.version_info < (3, 7) else ""
        done = subprocess.run([sys.executable, "-c", head + text], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, env=dict(self.env, PYTHONPATH=path),
                              cwd=self.folder)
        return done.stdout.decode().strip()

    def folder_with(self, *parts: str) -> str:
        """A folder of packages with psik.py in the innermost."""
        folder = os.path.join(self.folder, parts[0])
        os.makedirs(os.path.join(folder, *parts[1:]))
        for number in range(2, len(parts) + 1):
            self.write(os.path.join(*(parts[:number] + ("__init__.py",))), "")
        shutil.copy(PSIK, os.path.join(folder, *parts[1:]))
        return folder

    def test_import_is_quiet(self) -> None:
        self.assertEqual(self.script(QUIET, ROOT), "quiet")

    def test_in_a_package(self) -> None:
        folder = self.folder_with("lib", "mypkg", "vendor")
        said = self.script(VENDORED + JOB_AND_BACK, folder)
        self.assertEqual(said, "3 " + psik.__version__)

    def test_in_a_zip(self) -> None:
        folder = self.folder_with("lib", "mypkg", "vendor")
        archive = os.path.join(self.folder, "all.zip")
        with zipfile.ZipFile(archive, "w") as file:
            for name in ("mypkg/__init__.py", "mypkg/vendor/__init__.py", "mypkg/vendor/psik.py"):
                file.write(os.path.join(folder, name), name)
        said = self.script(VENDORED + JOB_AND_BACK, archive)
        self.assertEqual(said, "3 " + psik.__version__)

    def test_where_nothing_can_be_written(self) -> None:
        folder = self.folder_with("lib")
        os.mkdir(os.path.join(folder, "__pycache__"), 0o500)
        os.chmod(folder, 0o500)
        said = self.script("import psik\nconfig = psik.load_config()\n" + JOB_AND_BACK, folder)
        os.chmod(folder, 0o700)
        self.assertEqual(said, "3 " + psik.__version__)

    def test_main_where_the_streams_have_text_alone(self) -> None:
        """As in a notebook."""
        said, spec = io.StringIO(), io.StringIO('{"script": "#!/bin/sh\\necho gr\u00fcn"}')
        with mock.patch.dict(os.environ, self.env, clear=True):
            with mock.patch.object(sys, "stdin", spec), contextlib.redirect_stdout(said):
                self.assertEqual(psik.main(["run", "--wait", "-"]), 0)
                self.assertEqual(psik.main(["logs", "last"]), 0)
        self.assertEqual(said.getvalue().splitlines()[1:], ["gr\u00fcn"])

    def test_twice_under_two_names(self) -> None:
        folder = self.folder_with("lib", "mypkg", "vendor")
        said = self.script("""
import importlib.util, sys; sys.path.append(ROOT); import psik
from mypkg.vendor import psik as other
spec = importlib.util.spec_from_file_location("third", psik.__file__)
third = importlib.util.module_from_spec(spec)
spec.loader.exec_module(third)
config = third.load_config()
job = other.create(other.load_config(), other.JobSpec(script="exit 3"))
psik.submit(psik.JobDir(job.path))
print(third.exit_status(third.wait(config, [third.JobDir(job.path)], 60)[0]))
try:
    other.JobSpec(script="")
except psik.PsikError:
    print("mixed")
except other.PsikError:
    print("apart")
""".replace("ROOT", repr(ROOT)), folder)
        self.assertEqual(said, "3\napart")


class Face(unittest.TestCase):
    def test_errors_carry_their_fields(self) -> None:
        with self.assertRaises(psik.InvalidError) as caught:
            psik.from_json(psik.JobSpec,
                           {"script": "x", "resources": {"duration": 0, "nodes": 1}}, "a.json")
        err = caught.exception
        self.assertEqual({fault.path for fault in err.faults},
                         {"resources.duration", "resources.nodes"})
        self.assertEqual((err.path, err.source, err.exit_status, err.http_status),
                         (err.faults[0].path, "a.json", 2, 400))
        self.assertIn("unknown key", err.message)
        other = psik.NotFoundError("no job 7")
        self.assertEqual((str(other), other.path, other.message, other.faults),
                         ("no job 7", "", "no job 7", [psik.Fault("", "no job 7")]))

    def test_pydoc_reads(self) -> None:
        done = subprocess.run([sys.executable, "-m", "pydoc", "psik"],
                              stdout=subprocess.PIPE, cwd=ROOT)
        text = re.sub(".\b", "", done.stdout.decode("utf-8"))
        self.assertEqual(done.returncode, 0)
        for name in psik.__all__:
            self.assertRegex(text, r"\b%s\b" % name)


class Readme(Case):
    def test_its_examples_run(self) -> None:
        with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
            chapter = file.read().split("\n## From Python\n")[1].split("\n## ")[0]
        examples = re.findall(r"```python\n(.*?)```", chapter, re.DOTALL)
        self.assertEqual(len(examples), 2)
        self.env["PYTHONPATH"] = ROOT
        for example in examples:
            example = example.replace("/tmp/jobs-of-mine", self.prefix)
            if sys.version_info < (3, 7):
                run_it = "asyncio.get_event_loop().run_until_complete("
                example = example.replace("asyncio.run(", run_it)
            done = subprocess.run([sys.executable, "-c", example], env=self.env,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            said, wanted = done.stdout.decode(), re.findall(r"# prints (.*)", example)[0]
            self.assertEqual(said.split(), wanted.split(), said)


if __name__ == "__main__":
    unittest.main()
