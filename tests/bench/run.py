"""One run of the benchmark: what is measured and where, and how measurements take turns."""
import functools
import importlib
import os
import shutil
import statistics
import subprocess
import sys
import time
from typing import Any, Callable, Dict, List, Optional, Sequence

import peers
from plots import Curves
from servers import Server
from table import Row


class Run:
    """What is measured, where, how thoroughly, and what was found on the way."""

    def __init__(self, work: str, deps: str, quick: bool, psik_file: str) -> None:
        self.work, self.deps, self.quick = work, deps, quick
        self.file = os.path.join(work, "lib", "psik.py")  # a copy: the original may change
        os.mkdir(os.path.dirname(self.file))
        shutil.copy(psik_file, self.file)
        sys.path.insert(0, os.path.dirname(self.file))
        self.psik: Any = importlib.import_module("psik")
        self.peers, self.missing = peers.install(deps)
        self.config = self.psik.Config(prefix=os.path.join(work, "jobs"))
        self.trees = os.path.join(work, "trees")
        self.servers: Dict[str, Server] = {}
        self.children: List[subprocess.Popen[bytes]] = []     # that are ended at the end
        self.server_log = os.path.join(work, "servers.log")
        self.curves: Curves = {}

    def pick(self, full: int, quick: int) -> int:
        """The number for this kind of run."""
        return quick if self.quick else full

    def sizes(self) -> List[int]:
        """How many jobs the trees have."""
        return [10, 1000, 10000] + ([] if self.quick else [100000])

    def tree(self, count: int) -> str:
        """The folder, and so the backend, that holds so many jobs; it is made at its first use."""
        name = "jobs-%d" % count
        if not os.path.isdir(os.path.join(self.trees, name)):
            peers.make_tree(self.psik, os.path.join(self.trees, name), count)
        return name

    def command(self, argv: Sequence[str], **variables: str) -> Callable[[], float]:
        """A function that runs a program and says how long that took, milliseconds."""
        env = peers.clean_environment(self.work, **variables)

        def call() -> float:
            begun = time.perf_counter()
            subprocess.run(argv, env=env, check=True, stdin=subprocess.DEVNULL,
                           stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            return (time.perf_counter() - begun) * 1000
        return call

    def bare(self) -> Callable[[], float]:
        """The measure of all: an interpreter that does nothing."""
        return self.command([sys.executable, "-I", "-S", "-c", "pass"])

    def points(self, figure: str, x: float, found: Dict[str, float], label: str = "%s") -> None:
        """Add to the growth curves of a figure."""
        for name, y in found.items():
            self.curves.setdefault(figure, {}).setdefault(label % name, []).append((x, y))

    def on_both(self, action: Callable[[Server], Any]) -> Dict[str, Callable[[], Any]]:
        """An action for each server."""
        return {name: functools.partial(action, server) for name, server in self.servers.items()}


def both(what: str, unit: str, found: Dict[str, float], goal: str) -> Row:
    """The row of what both servers were measured for."""
    return Row(what, unit, found.get(peers.OURS), peers.API, found.get(peers.API), goal)


def in_turn(actions: Dict[str, Callable[[], Any]], rounds: int,
            few: Optional[Dict[str, int]] = None) -> Dict[str, List[Any]]:
    """What each action returned, round by round, so that a busy moment meets all of them.

    Those that few names have fewer rounds.
    """
    found: Dict[str, List[Any]] = {name: [] for name in actions}
    for number in range(rounds):
        for name, action in actions.items():
            if number < (few or {}).get(name, rounds):
                found[name].append(action())
    return found


def medians(found: Dict[str, List[Any]], of: Callable[[Any], float] = float) -> Dict[str, float]:
    """The median of each, of one part of what was found."""
    return {name: statistics.median(map(of, values)) for name, values in found.items() if values}
