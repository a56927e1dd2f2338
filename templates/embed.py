#!/usr/bin/env python3
"""Write templates/ into the last section of psik.py; with --check, only show the differences."""
import difflib
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TARGET = os.path.join(os.path.dirname(HERE), "psik.py")
BEGIN, END = "# begin embedded templates\n", "# end embedded templates\n"


def sources():
    """Every template below templates/, as sorted (name, text) pairs."""
    for folder, folders, names in sorted(os.walk(HERE)):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in sorted(names):
            if name == "embed.py" or name.endswith(("~", ".swp")):
                continue
            path = os.path.join(folder, name)
            with open(path, encoding="utf-8") as file:
                yield os.path.relpath(path, HERE).replace(os.sep, "/"), file.read()


def section():
    """The generated lines: TEMPLATES, with one raw string for each file."""
    lines = ["TEMPLATES: Dict[str, str] = {\n"]
    for name, text in sources():
        if "'''" in text or text.endswith(("\\", "'")):
            sys.exit("%s: a raw string cannot hold ''', or a backslash or quote at its end" % name)
        lines.append("    %r: r'''%s''',\n" % (name, text))
    return "".join(lines) + "}\n"


def main():
    with open(TARGET, encoding="utf-8") as file:
        old = file.read()
    head, rest = old.split(BEGIN)
    tail = rest.split(END)[1]
    new = head + BEGIN + section() + END + tail
    if new == old:
        return 0
    if "--check" in sys.argv[1:]:
        sys.stdout.writelines(difflib.unified_diff(
            old.splitlines(True), new.splitlines(True), "psik.py", "templates/"))
        print("psik.py and templates/ differ: run `make embed`")
        return 1
    with open(TARGET, "w", encoding="utf-8") as file:
        file.write(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
