#!/usr/bin/env python3
"""What kind of file psik.py is, in figures, beside its models; the templates in it are left out.

    python tests/measure.py [--check]

Needs radon.  --check prints what misses a goal, and exits 1 where something does.
"""
import ast
import io
import os
import statistics
import sys
import tokenize
from typing import Any, Dict, Iterator, List, Set, Tuple

from radon.complexity import cc_visit

PSIK = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "psik.py")
TEMPLATES_BEGIN = "# begin embedded templates\n"

# Functions above a complexity of ten, each with its reason.
EXCUSED: Dict[str, str] = {}

# The same figures of git-filter-repo, git-imerge, bottle, redo, submitit and psik 3.1, as measured
# when psik.py was begun.
MODELS = {
    "lines": (4989, 4366, 4583, 3412, 3651, 2313),
    "functions": (184, 197, 358, 162, 234, 99),
    "functions at the top level": (None, None, None, None, None, None),
    "of them used in one place, %": (None, None, None, None, None, None),
    "lines over 100 columns": (8, 0, 7, None, None, None),
    "classes": (31, 26, 69, 12, 33, 18),
    "lines of a function, mean": (24.9, 20, 10, 16.9, 11.1, 17.7),
    "lines of a function, median": (11, 11, 5, 7, 6, 12),
    "lines of a function, 90th percentile": (50, 45, 21, 41, 26, 37),
    "lines of the longest function": (427, 345, 108, 177, 143, 110),
    "comments, % of lines": (17, 10, 7, 16, 10, 10),
    "docstrings, % of lines": (8, 14, 19, 11, 28, 14),
    "functions with a docstring, %": (30, 44, 44, 35, 39, 40),
    "arguments annotated, %": (0, 0, 0, 0, 100, 78),
    "complexity, mean": (5.9, 4.0, 3.1, 4.7, 2.6, 3.2),
    "complexity, highest": (56, 20, 31, 51, 23, 15),
    "functions of a complexity above 10": (27, 10, 14, 18, 3, 3),
    "references that point up the page, %": (97, 94, 56, None, None, None),
}
GOALS = {  # {figure: (least, most)}
    "functions at the top level": (0.0, 220.0),
    "lines over 100 columns": (0.0, 0.0),
    "lines of a function, median": (0.0, 7.0),
    "lines of the longest function": (0.0, 60.0),
    "arguments annotated, %": (100.0, 100.0),
    "references that point up the page, %": (97.0, 100.0),
}


def functions_of(tree: ast.AST) -> List[Any]:
    """Every function and method."""
    return [node for node in ast.walk(tree)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def body_lines(function: Any) -> int:
    """The lines of a function, from its def to its end."""
    return int(function.end_lineno - function.lineno + 1)


def docstring_lines(tree: ast.AST) -> int:
    """The lines of all docstrings."""
    found = 0
    for node in ast.walk(tree):
        if (isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
                and ast.get_docstring(node)):
            found += (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
    return found


def comment_lines(text: str) -> int:
    """The lines that hold nothing but a comment, or end in one."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return len({token.start[0] for token in tokens if token.type == tokenize.COMMENT})


def arguments_of(function: Any) -> Iterator[ast.arg]:
    """The arguments of a function but self and cls."""
    args = function.args
    for arg in args.args + args.kwonlyargs + [each for each in (args.vararg, args.kwarg) if each]:
        if arg.arg not in ("self", "cls"):
            yield arg


def references_up(tree: ast.Module) -> Tuple[int, int]:
    """(uses of module-level names that stand above their use, all such uses)."""
    defined: Dict[str, int] = {}
    for node in tree.body:
        names: Set[str] = {part.id for part in ast.walk(node)
                           if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names = {node.name}
        for name in names:
            defined.setdefault(name, node.lineno)
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name)
            and isinstance(node.ctx, ast.Load) and node.id in defined]
    return sum(defined[node.id] <= node.lineno for node in uses), len(uses)


def top_level(tree: ast.Module) -> List[str]:
    """The functions that belong to no class, but those of the command line, which a table calls."""
    return [node.name for node in tree.body
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("cmd_")]


def used_once(tree: ast.Module) -> int:
    """How many functions of the top level are used in one place."""
    names = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
    return len([name for name in top_level(tree) if names.count(name) == 1])


def complexities(text: str) -> Dict[str, int]:
    """{function: its cyclomatic complexity}; a method as Class.method."""
    found = {}
    for block in cc_visit(text):
        for each in getattr(block, "methods", None) or [block]:
            owner = getattr(each, "classname", None)
            found["%s.%s" % (owner, each.name) if owner else each.name] = each.complexity
    return found


def measure(text: str) -> Dict[str, float]:
    """The figures of a source text."""
    tree = ast.parse(text)
    functions = functions_of(tree)
    lengths = sorted(map(body_lines, functions))
    filled = len([line for line in text.split("\n") if line.strip()])
    arguments = [arg for function in functions for arg in arguments_of(function)]
    complexity = list(complexities(text).values())
    up, uses = references_up(tree)
    return {
        "lines": text.count("\n"),
        "functions": len(functions),
        "functions at the top level": len(top_level(tree)),
        "of them used in one place, %": 100 * used_once(tree) / len(top_level(tree)),
        "lines over 100 columns": len([line for line in text.split("\n") if len(line) > 100]),
        "classes": len([node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]),
        "lines of a function, mean": statistics.mean(lengths),
        "lines of a function, median": statistics.median(lengths),
        "lines of a function, 90th percentile": lengths[int(len(lengths) * 0.9)],
        "lines of the longest function": lengths[-1],
        "comments, % of lines": 100 * comment_lines(text) / filled,
        "docstrings, % of lines": 100 * docstring_lines(tree) / filled,
        "functions with a docstring, %":
            100 * len([each for each in functions if ast.get_docstring(each)]) / len(functions),
        "arguments annotated, %":
            100 * len([arg for arg in arguments if arg.annotation]) / len(arguments),
        "complexity, mean": statistics.mean(complexity),
        "complexity, highest": max(complexity),
        "functions of a complexity above 10": len([each for each in complexity if each > 10]),
        "references that point up the page, %": 100 * up / uses,
    }


def misses(text: str, figures: Dict[str, float]) -> List[str]:
    """What does not meet its goal, a line each."""
    found = ["%s: %.1f, and not %g to %g" % (name, figures[name], least, most)
             for name, (least, most) in GOALS.items() if not least <= figures[name] <= most]
    known = complexities(text)
    found += ["%s has a complexity of %d; make it simpler, or give the reason in tests/measure.py"
              % (name, number) for name, number in known.items()
              if number > 10 and name not in EXCUSED]
    return found + ["%s is excused in tests/measure.py, and needs it no more" % name
                    for name in EXCUSED if known.get(name, 0) <= 10]


def main() -> int:
    with open(PSIK, encoding="utf-8") as file:
        text = file.read().partition(TEMPLATES_BEGIN)[0]
    figures = measure(text)
    if "--check" in sys.argv[1:]:
        for line in misses(text, figures):
            print("psik.py: " + line)
        return int(bool(misses(text, figures)))
    print("%-38s %8s   %s" % ("", "psik.py",
                              "filter-repo   imerge   bottle     redo submitit psik 3.1"))
    for name, value in figures.items():
        beside = ["%8s" % ("-" if each is None else "%g" % each) for each in MODELS[name]]
        print("%-38s %8.1f      %s" % (name, value, " ".join(beside)))
    for name, reason in EXCUSED.items():
        print("above 10: %s, %d: %s" % (name, complexities(text)[name], reason))
    return 0


if __name__ == "__main__":
    sys.exit(main())
