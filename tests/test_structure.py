"""The architecture of psik.py, as its docstring promises it."""
import ast
import bisect
import multiprocessing
import re
import subprocess
import sys
import time
import unittest
from typing import Any, Dict, List, Set, Tuple

from harness import PSIK, ROOT

with open(PSIK, encoding="utf-8") as _file:
    SOURCE = _file.read()
TREE = ast.parse(SOURCE)
BANNER = re.compile(r"^# -+ +([0-9]+\. .+)$")
FUNCTIONS = [node for node in ast.walk(TREE)
             if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
EXPECTED_UP = {"TEMPLATES"}  # generated, so it stands last
# Two that use each other, or a table that is read first.
EXPECTED_DOWN = {"RANK", "FieldReader", "History", "OpenApi"}


def sections() -> List[Tuple[str, int]]:
    """Each banner's title with its line."""
    return [(match.group(1), number) for number, line in enumerate(SOURCE.split("\n"), 1)
            for match in [BANNER.match(line)] if match]


STARTS = [start for _, start in sections()]


def section_of(line: int) -> int:
    """The index of the section that holds a line; -1 above the first."""
    return bisect.bisect_right(STARTS, line) - 1


def bound_names(node: Any) -> Set[str]:
    """The names that a top-level statement defines."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    targets = getattr(node, "targets", [])
    if isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return {target.id for target in targets if isinstance(target, ast.Name)}


class Architecture(unittest.TestCase):
    def test_contents_list_is_the_banners(self) -> None:
        text = ast.get_docstring(TREE, clean=False) or ""
        listed = re.findall(r"^ +([0-9]+\. .+)$", text, re.MULTILINE)
        self.assertEqual(listed, [title for title, _ in sections()])

    def test_banners_end_in_one_column(self) -> None:
        lines = [line for line in SOURCE.split("\n") if BANNER.match(line)]
        self.assertEqual({len(line) for line in lines}, {100})

    def test_a_section_uses_only_what_stands_above(self) -> None:
        home: Dict[str, int] = {}
        for node in TREE.body:
            for name in bound_names(node):
                home.setdefault(name, section_of(node.lineno))
        early = sorted({"%s, line %d" % (node.id, node.lineno) for node in ast.walk(TREE)
                        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
                        and node.id not in EXPECTED_UP
                        and home.get(node.id, -1) > section_of(node.lineno)})
        self.assertEqual(early, [])

    def test_a_function_stands_below_what_it_uses(self) -> None:
        home: Dict[str, int] = {}
        for node in TREE.body:
            for name in bound_names(node):
                self.assertNotIn(name, home, "is defined twice")
                home[name] = node.lineno
        early = {node.id for node in ast.walk(TREE) if isinstance(node, ast.Name)
                 and isinstance(node.ctx, ast.Load) and node.id not in EXPECTED_UP
                 and home.get(node.id, -1) > node.lineno}
        self.assertEqual(early, EXPECTED_DOWN)

    def test_functions_are_short(self) -> None:
        def last(node: Any) -> int:
            return max(getattr(part, "lineno", 0) for part in ast.walk(node))
        self.assertEqual([node.name for node in FUNCTIONS if last(node) - node.lineno >= 60], [])

    def test_every_argument_and_result_is_annotated(self) -> None:
        bare = [node.name for node in FUNCTIONS if node.returns is None
                or any(each.annotation is None and each.arg not in ("self", "cls")
                       for each in node.args.args + node.args.kwonlyargs)]
        self.assertEqual(bare, [])

    def test_every_public_thing_is_documented(self) -> None:
        inside = {part for node in FUNCTIONS for part in ast.walk(node) if part is not node}
        silent = [node.name for node in ast.walk(TREE)
                  if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node not in inside
                  and not node.name.startswith("_") and node.name != "faults"
                  and not ast.get_docstring(node)]
        self.assertEqual(silent, [])

    def test_all_names_exist(self) -> None:
        import psik
        self.assertEqual([name for name in psik.__all__ if not hasattr(psik, name)], [])

    def test_only_the_standard_library_is_imported(self) -> None:
        modules = {name.name.split(".")[0] for node in ast.walk(TREE)
                   if isinstance(node, ast.Import) for name in node.names}
        modules |= {(node.module or "").split(".")[0]
                    for node in ast.walk(TREE) if isinstance(node, ast.ImportFrom)}
        modules.discard("biscuit_auth")  # used where it is installed, and never needed
        known = getattr(sys, "stdlib_module_names", None)
        if known is None:  # before 3.10: whatever is found without site-packages
            code = "import sys\nfor name in sys.argv[1:]: __import__(name)"
            folder = [] if sys.version_info >= (3, 7) else [
                __import__("dataclasses").__file__.rsplit("/", 1)[0]]
            subprocess.run([sys.executable, "-S", "-c", code] + sorted(modules), check=True,
                           env={"PYTHONPATH": ":".join(folder)})
        else:
            self.assertEqual(modules - set(known), set())

    def test_embedded_templates_are_current(self) -> None:
        done = subprocess.run([sys.executable, ROOT + "/templates/embed.py", "--check"],
                              stdout=subprocess.PIPE)
        self.assertEqual(done.returncode, 0, done.stdout.decode())

    def test_every_handler_is_routed(self) -> None:
        import psik
        verbs = ("get_", "post_", "put_", "delete_", "start_", "cancel_", "hold_",
                 "release_")
        kinds = (psik.ServerHandler, psik.ApplicationHandler, psik.JobHandler)
        methods = [method for cls in kinds
                   for name, method in vars(cls).items() if name.startswith(verbs)]
        self.assertGreater(len(methods), 25)
        self.assertEqual(set(methods) | {psik.get_openapi},
                         {route.handler for route in psik.ROUTES})

    def test_one_exit_and_no_globals(self) -> None:
        found = [node.lineno for node in ast.walk(TREE) if isinstance(node, ast.Global)]
        self.assertEqual(found, [])


class Runner(unittest.TestCase):
    def test_a_fork_of_a_test_ends_by_a_signal(self) -> None:
        fork = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        fork.start()
        time.sleep(0.2)
        fork.terminate()
        fork.join(20)
        self.addCleanup(fork.kill if hasattr(fork, "kill") else fork.terminate)     # 3.7
        self.assertIn(fork.exitcode, (-15, 143))


if __name__ == "__main__":
    unittest.main()
