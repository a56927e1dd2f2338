"""psik.py installed with pip, and used by a program that is type-checked."""
import os
import shutil
import subprocess
import sys
import unittest
import zipfile
from typing import List

import psik
from harness import DEPS, PSIK, ROOT, Case, needs

BUILD = os.path.join(DEPS, "build", "bin", "python")
MYPY = os.path.join(DEPS, "lint", "bin", "mypy")
TYPED = """
import asyncio
from typing import Dict, List
import psik

def codes(scripts: List[str]) -> Dict[str, int]:
    config = psik.Config(prefix="/tmp/none", backend=psik.BackendConfig(type="local"))
    jobs = [psik.create(config, psik.JobSpec(script=text)) for text in scripts]
    for job in jobs:
        row: psik.Row = psik.submit(job)
        assert row.jobndx == 1
    return {each.jobid: psik.exit_status(each) for each in psik.wait(config, jobs, timeout_s=9.5)}

async def one(mgr: psik.JobManager) -> str:
    job = await mgr.create(psik.JobSpec(script="true", resources=psik.ResourceSpec(duration=60)))
    jobndx, native = await job.submit()
    async for row in job.watch():
        print(row.time + 1.0, row.state.is_final(), native)
    async for other in mgr.ls():
        print(other.history[-1].state, (await other.wait()).reason.upper())
    return (await (job.base / "status.csv").read_text()).strip()

def faults() -> List[str]:
    try:
        psik.load_spec("{}", "-")
    except psik.InvalidError as err:
        return [fault.path for fault in err.faults]
    return [psik.sign_message(b"x", "secret")] if psik.verify_signature("x", b"y", None) else []
"""


class Typed(Case):
    @needs("mypy, in .deps/lint (make test-deps)", os.path.exists(MYPY))
    def test_a_program_that_uses_it_passes_mypy_strict(self) -> None:
        path = self.write("program.py", TYPED)
        shutil.copy(PSIK, self.folder)  # without what lies beside it: on 3.6, the backport
        cache = os.path.join(self.folder, "cache")
        done = subprocess.run([MYPY, "--strict", "--cache-dir", cache, path], cwd=self.folder,
                              env=dict(self.env, MYPYPATH=self.folder), stdout=subprocess.PIPE)
        self.assertEqual(done.returncode, 0, done.stdout.decode())


@needs("git", shutil.which("git"))
class Release(Case):
    """What `make release-check` says of a commit."""

    def setUp(self) -> None:
        super().setUp()
        for name in ("psik.py", "templates", "tests/release_check.sh"):
            self.copy(name)
        if sys.version_info < (3, 7):
            shutil.copy(__import__("dataclasses").__file__, self.folder)
        self.env.update(PYTHON=sys.executable, PYTHONDONTWRITEBYTECODE="1")
        self.write("CHANGELOG.md", "# Changes\n\n## %s, 2026-11-22\n" % psik.__version__)
        self.git("init", "-q")
        self.commit()

    def copy(self, name: str) -> None:
        """Copy what lies in the checkout."""
        source, target = os.path.join(ROOT, name), os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.isdir(source):
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)

    def git(self, *argv: str) -> None:
        """Run git there."""
        who = ["-c", "user.name=ada", "-c", "user.email=ada@localhost"]
        subprocess.run(["git"] + who + list(argv), cwd=self.folder, env=self.env, check=True,
                       stdout=subprocess.DEVNULL)

    def commit(self) -> None:
        """Commit all that lies there."""
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "all of it")

    def check(self, said: str, status: int = 1) -> None:
        """Check what is said, and with which status."""
        done = subprocess.run(["sh", "tests/release_check.sh"], cwd=self.folder, env=self.env,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertRegex(done.stdout.decode(), said)
        self.assertEqual(done.returncode, status)

    def test_a_commit_that_can_be_tagged(self) -> None:
        self.check("^%s can be tagged: git tag -s" % psik.__version__, 0)

    def test_what_is_not_committed(self) -> None:
        self.write("new", "")
        self.check("is not what is committed")

    def test_a_version_that_is_tagged(self) -> None:
        for tag in (psik.__version__, "v" + psik.__version__):
            self.git("tag", tag)
            self.check("%s is a tag already" % tag)
            self.git("tag", "-d", tag)

    def test_a_changelog_of_another_version_or_without_a_date(self) -> None:
        for head, said in (("99.0.0, 2026-11-22", "begins with another version"),
                           (psik.__version__ + ", not released yet", "has no date")):
            self.write("CHANGELOG.md", "# Changes\n\n## %s\n" % head)
            self.commit()
            self.check(said)

    def test_templates_that_are_not_embedded(self) -> None:
        with open(os.path.join(self.folder, "templates", "slurm", "cancel"), "a") as file:
            file.write("# more\n")
        self.commit()
        self.check("make embed")


class Installed(Case):
    def run_in(self, *argv: str) -> str:
        """What a program prints that must succeed."""
        env = {name: value for name, value in self.env.items() if name != "PYTHONPATH"}
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              cwd=self.folder, env=env)
        self.assertEqual(done.returncode, 0, done.stdout.decode())
        return done.stdout.decode().strip()

    @needs("setuptools, in .deps/build (make test-deps)", os.path.exists(BUILD))
    def test_pip_wheel_and_install(self) -> None:
        source = os.path.join(self.folder, "source")
        os.mkdir(source)
        for name in ("psik.py", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(os.path.join(ROOT, name), source)
        self.run_in(BUILD, "-m", "pip", "-q", "wheel", "--no-index", "--no-deps",
                    "--no-build-isolation", "-w", self.folder, source)
        wheels: List[str] = [name for name in os.listdir(self.folder) if name.endswith(".whl")]
        self.assertEqual(wheels, ["psik-%s-py3-none-any.whl" % psik.__version__])
        with zipfile.ZipFile(os.path.join(self.folder, wheels[0])) as file:
            self.assertEqual([name for name in file.namelist() if ".dist-info/" not in name],
                             ["psik.py"])
        clean = os.path.join(self.folder, "clean")
        self.run_in(BUILD, "-m", "venv", clean)
        python = os.path.join(clean, "bin", "python")
        self.run_in(python, "-m", "pip", "-q", "install",
                    "--no-index", os.path.join(self.folder, wheels[0]))
        self.assertEqual(self.run_in(os.path.join(clean, "bin", "psik"), "--version"),
                         psik.__version__)
        self.assertEqual(self.run_in(python, "-c", "import psik; print(psik.__version__)"),
                         psik.__version__)
        script = self.write("hello", "#!/bin/sh\n$psik --version\n", 0o755)
        self.assertIn(psik.__version__,
                      self.run_in(os.path.join(clean, "bin", "psik"), "run", "--follow", script))


if __name__ == "__main__":
    unittest.main()
