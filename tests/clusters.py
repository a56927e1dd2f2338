"""A real Slurm of its own for the tests of a class."""
import shutil
import tempfile
from typing import Any, Dict

import services

SLURM = services.which("sbatch") and services.which("slurmctld")


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
