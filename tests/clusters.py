"""A real Slurm, or a real Grid Engine, of its own for the tests of a class."""
import contextlib
import json
import os
import shutil
import tempfile
import time
from typing import Any, Dict

import psik
import services

SLURM = services.which("sbatch") and services.which("slurmctld")
SGE = os.getuid() == 0 and services.which("sge_qmaster") and services.which("sge_execd")


def age_submission(job: Any) -> None:
    """Let it be long ago that a job's next step was submitted, and that answers came without it."""
    old = time.time() - psik.UNKNOWN_S - 1
    with contextlib.suppress(OSError):
        os.utime(job.log("submit", psik.Steps(job.rows()).next_jobndx(job)), (old, old))
    path = os.path.join(os.path.dirname(job.path), ".poll.json")
    answer = json.loads(psik.read_or_empty(path) or "{}")
    for values in answer.get("steps", {}).values():
        if values[0] == psik.UNKNOWN_ID:
            values[psik.Status._fields.index("since")] = old
    if answer:
        psik.write_file(path, json.dumps(answer))


class OnSlurm:
    """Goes before Case among the bases; the settings are lines of slurm.conf."""
    slurm_nodes = 2
    slurm_settings: Dict[str, Any] = {}
    slurm_kind: Any = services.Slurm

    @classmethod
    def setUpClass(cls) -> None:
        cls.place = tempfile.mkdtemp(prefix="psl")
        cls.slurm = cls.slurm_kind(nodes=cls.slurm_nodes)
        cls.slurm.start(cls.place, **cls.slurm_settings)

    @classmethod
    def tearDownClass(cls) -> None:
        cls.slurm.stop()
        shutil.rmtree(cls.place, True)

    def setUp(self: Any) -> None:
        super().setUp()
        self.env.update(self.slurm.env)


class OnAt:
    """Goes before Case among the bases; atd runs, or is used where it runs already."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.atd = services.Atd()
        cls.atd.hold()

    @classmethod
    def tearDownClass(cls) -> None:
        cls.atd.release()


class OnSge:
    """Goes before Case among the bases."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.place = tempfile.mkdtemp(prefix="psg")
        cls.sge = services.Sge()
        cls.sge.start(cls.place)

    @classmethod
    def tearDownClass(cls) -> None:
        cls.sge.stop()
        shutil.rmtree(cls.place, True)

    def setUp(self: Any) -> None:
        super().setUp()
        self.env.update(self.sge.env)
        self.addCleanup(self.sge.run, "qdel", "-u", "root")
