#!/usr/bin/env python3
"""Break the sections of psik.py that decide, in one place after another: does a test notice?

    python3 tests/mutants.py [--times N] [--seed S] [--sections 7,17] [--table FILE]

cosmic-ray makes the mutants; the seed chooses N of each section.  Each is tried in a copy of the
project by the tests of its section, one module after another, until one fails.  What survives is
printed with its line: either a test is missing there, or the change makes no difference.
"""
import argparse
import concurrent.futures
import contextlib
import difflib
import importlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
DEPS = os.path.join(ROOT, ".deps")
TIMEOUT_S = 600     # for the tests of a module; what hangs is noticed
# {section: the modules that test it, the quickest first}
SECTIONS = {
    "7. Job tree": ("test_tree", "test_array", "test_failures", "test_histories"),
    "10. Callbacks": ("test_callbacks", "test_failures", "test_journal"),
    "11. Reconciliation": ("test_failures", "test_after", "test_array", "test_histories"),
    "12. Operations": ("test_failures", "test_tree", "test_cli", "test_after", "test_array"),
    "17. HTTP": ("test_http", "test_failures", "test_strangers"),
    "18. Access": ("test_access", "test_users", "test_gateway", "test_strangers")}
OPERATORS = ("AddNot", "ReplaceUnaryOperator_Delete_Not", "ReplaceAndWithOr", "ReplaceOrWithAnd",
             "ReplaceComparisonOperator_Eq_NotEq", "ReplaceComparisonOperator_Is_IsNot",
             "ReplaceComparisonOperator_Lt_LtE", "ReplaceComparisonOperator_LtE_Lt",
             "ReplaceComparisonOperator_Gt_GtE", "ReplaceComparisonOperator_GtE_Gt",
             "ReplaceBinaryOperator_Add_Sub", "ReplaceBinaryOperator_Sub_Add", "NumberReplacer",
             "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceBreakWithContinue",
             "ReplaceContinueWithBreak", "ZeroIterationForLoop")


class Place(NamedTuple):
    """Where psik.py can be broken, and how."""
    section: str
    operator: str
    occurrence: int
    line: int


class Trial(NamedTuple):
    """What became of a mutant."""
    place: Place
    change: str         # the lines that it changes
    noticed_by: str     # the module of tests that failed; '' if it survived
    seconds: float


def read_source() -> Tuple[str, str]:
    """psik.py: its code, and the embedded templates, which are not broken."""
    with open(os.path.join(ROOT, "psik.py"), encoding="utf-8") as file:
        head, mark, tail = file.read().partition("# begin embedded templates")
    return head, mark + tail


def section_lines(code: str) -> Dict[str, range]:
    """{title: the numbers of its lines}."""
    begins = [(number, match.group(1)) for number, line in enumerate(code.split("\n"), 1)
              for match in [re.match(r"# -+ (\d+\. .*)", line)] if match]
    ends = [number for number, _ in begins[1:]] + [code.count("\n") + 2]
    return {title: range(number, end) for (number, title), end in zip(begins, ends)}


def places(code: str) -> Iterator[Place]:
    """All places in the chosen sections."""
    ast = importlib.import_module("cosmic_ray.ast")
    plugins = importlib.import_module("cosmic_ray.plugins")
    sections, nodes = section_lines(code), list(ast.ast_nodes(ast.get_ast(code)))
    for name in OPERATORS:
        operator = plugins.get_operator("core/" + name)()
        found = [begin[0] for node in nodes for begin, _ in operator.mutation_positions(node)]
        for occurrence, line in enumerate(found):
            for section in SECTIONS:
                if line in sections[section]:
                    yield Place(section, name, occurrence, line)


def mutant(code: str, place: Place) -> str:
    """The code, broken in a place."""
    plugins = importlib.import_module("cosmic_ray.plugins")
    mutating = importlib.import_module("cosmic_ray.mutating")
    operator = plugins.get_operator("core/" + place.operator)()
    return str(mutating.mutate_code(code, operator, place.occurrence))


def change_of(before: str, after: str) -> str:
    """The lines that differ."""
    lines = difflib.unified_diff(before.split("\n"), after.split("\n"), n=0, lineterm="")
    return "\n".join(line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---"))


def fails(copy: str, module: str, python: str) -> bool:
    """Whether a module of tests fails in a copy of the project."""
    # By PYTHONPATH psik.py would stand before the package of that name, which some tests run.
    code = ("import os, sys, unittest; sys.path[:0] = [os.path.abspath('tests'), os.getcwd()]; "
            "unittest.main(None)")
    child = subprocess.Popen(
        [python, "-c", code, "-f", module], cwd=copy, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return child.wait(TIMEOUT_S) != 0
    except subprocess.TimeoutExpired:
        return True
    finally:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        child.wait()


@contextlib.contextmanager
def project_with(source: str) -> Iterator[str]:
    """The folder of a copy of the project with this psik.py."""
    copy = tempfile.mkdtemp(prefix="psm")
    try:
        shutil.copytree(ROOT, copy, symlinks=True, dirs_exist_ok=True,
                        ignore=shutil.ignore_patterns(".git", ".deps", "__pycache__", "bench"))
        os.symlink(os.path.realpath(DEPS), os.path.join(copy, ".deps"))
        with open(os.path.join(copy, "psik.py"), "w", encoding="utf-8") as file:
            file.write(source)
        yield copy
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def attempt(code: str, embedded: str, place: Place, python: str) -> Trial:
    """Try a mutant."""
    begun, broken = time.monotonic(), mutant(code, place)
    with project_with(broken + embedded) as copy:
        noticed = next((module for module in SECTIONS[place.section]
                        if fails(copy, module, python)), "")
    return Trial(place, change_of(code, broken), noticed, time.monotonic() - begun)


def refuse_failing(source: str, sections: Sequence[str], python: str) -> None:
    """SystemExit if a test fails as psik.py is: it would notice everything."""
    modules = sorted({module for section in sections for module in SECTIONS[section]})
    with project_with(source) as copy, concurrent.futures.ThreadPoolExecutor(2) as pool:
        failing = [module for module, is_failing in zip(modules, pool.map(
            lambda module: fails(copy, module, python), modules)) if is_failing]
    if failing:
        raise SystemExit("without a change, these fail: " + " ".join(failing))


def report(trials: Sequence[Trial], seed: int) -> Iterator[str]:
    """The lines of the table."""
    yield "# What the tests notice\n"
    yield "Made by `make mutants`: psik.py, broken in places that seed %d chose.\n" % seed
    yield "| section | mutants | noticed |\n| --- | --: | --: |"
    for section in SECTIONS:
        own = [trial for trial in trials if trial.place.section == section]
        if own:
            yield "| %s | %d | %d |" % (section, len(own), sum(bool(each.noticed_by)
                                                              for each in own))
    yield ""
    for trial in trials:
        if not trial.noticed_by:
            yield "Line %d, %s:\n\n```\n%s\n```\n" % (
                trial.place.line, trial.place.operator, trial.change)


def options() -> Any:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--sections", default="", help="their numbers; by default all")
    parser.add_argument("--python", default=sys.executable, help="what runs the tests")
    parser.add_argument("--table", help="write the table to this file")
    return parser.parse_args()


def in_environment(python: str) -> None:
    """Go on with the Python that has cosmic-ray."""
    sys.path.insert(0, os.path.join(HERE, "bench"))
    there = importlib.import_module("peers").environment(DEPS, "mutants", "cosmic-ray==8.7.0")
    if os.path.abspath(sys.executable) != os.path.abspath(there):
        os.execv(there, [there] + sys.argv + ["--python", python])


def main() -> int:
    opts = options()
    in_environment(opts.python)
    # A shell that ran us in the background had it ignored; some tests end a command by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code, embedded = read_source()
    wanted = opts.sections.split(",") if opts.sections else []
    found: Dict[str, List[Place]] = {}
    for place in places(code):
        if not wanted or place.section.split(".")[0] in wanted:
            found.setdefault(place.section, []).append(place)
    chosen = [place for section, own in found.items() for place in random.Random(
        "%d %s" % (opts.seed, section)).sample(own, min(opts.times, len(own)))]
    refuse_failing(code + embedded, list(found), opts.python)
    print("%d mutants, seed %d" % (len(chosen), opts.seed), flush=True)
    trials = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        running = [pool.submit(attempt, code, embedded, place, opts.python) for place in chosen]
        for each in concurrent.futures.as_completed(running):
            trial = each.result()
            trials.append(trial)
            print("%5d  %-34s %4.0f s  %s" % (trial.place.line, trial.place.operator, trial.seconds,
                                             trial.noticed_by or "SURVIVED\n" + trial.change),
                  flush=True)
    trials.sort(key=lambda trial: trial.place.line)
    text = "\n".join(report(trials, opts.seed))
    print(text)
    if opts.table:
        with open(opts.table, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
