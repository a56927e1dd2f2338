"""README.md: its session is run, its tables are the code's, its links lead somewhere."""
import os
import re
import shutil
import subprocess
import sys
import unittest
from typing import Any, List, Set, Tuple

import psik
from harness import PSIK, ROOT, Case, rc_path

with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as _file:
    README = _file.read()
MASKS: List[Tuple[str, str]] = [(r"\d{10}\.\d{3}", "<id>"),
                                (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "<time>"),
                                (r"((?:queued|active)[, ]+)\d+", r"\1<pid>"),
                                (r"CPU time .* MiB", "CPU time <n> MiB")]


def masked(text: str) -> str:
    """A text with what differs from run to run taken out."""
    for pattern, mask in MASKS:
        text = re.sub(pattern, mask, text)
    return text


def first_column(head: str) -> Set[str]:
    """What stands in backquotes in the first column of the table with this head."""
    table = README.split("| %s |" % head)[1].split("\n\n")[0]
    return {name for line in table.split("\n")[2:]
            for name in re.findall(r"`([^`]+)`", line.split("|")[1])}


def field_names(model: Any) -> Set[str]:
    return {item.name for item in psik.fields(model)}


class Tables(unittest.TestCase):
    def test_tables_are_the_codes(self) -> None:
        rows: List[Tuple[str, Set[str]]] = [
            ("command | what it does", {name for name, _, _, _ in psik.COMMANDS}),
            ("field of `resources` | default | meaning", field_names(psik.ResourceSpec)),
            ("state | meaning", set(psik.STATES)),
            ("template | what it does", set(psik.TEMPLATES_OF_A_BACKEND)),
            ("type | what runs the jobs",
             {name.split("/")[0] for name in psik.TEMPLATES if "/" in name} - {"page"}),
        ]
        for head, names in rows:
            self.assertEqual(first_column(head), names, head)
        table = README.split("| method | route | what it does |")[1].split("\n\n")[0]
        found = re.findall(r"^\| `([A-Z]+)` \| `([^`]+)` \| (.*) \|$", table, re.MULTILINE)
        summaries = [(route.handler.__doc__ or "").strip().split("\n")[0].rstrip(".")
                     for route in psik.ROUTES]
        self.assertEqual(found, [(route.method, route.path, summary)
                                 for route, summary in zip(psik.ROUTES, summaries)])
        tables = README.split("| field | default | meaning |")
        for table, model in zip(tables[1:], (psik.JobSpec, psik.Config)):
            lines = table.split("\n\n")[0].split("\n")[2:]
            names = set(re.findall(r"`([a-z_]+)`", " ".join(line.split("|")[1] for line in lines)))
            self.assertEqual(names, field_names(model), model)

    def test_help_knows_every_template_and_state(self) -> None:
        self.assertEqual({"check", "queues", "usage", *psik.JOB_SCRIPTS, *psik.STEERING_SCRIPTS,
                          *psik.ARRAY_SCRIPTS}, set(psik.TEMPLATES_OF_A_BACKEND))
        for state, meaning in psik.STATE_MEANINGS.items():
            self.assertIn("| `%s` | %s |" % (state, meaning), README)

    def test_the_environment_is_the_codes(self) -> None:
        with open(PSIK, encoding="utf-8") as file:
            read = set(re.findall(r'environ(?:\.get\(|\[)"([A-Z_]+)"', file.read()))
        table = README.split("| environment | what psik.py reads it for |")[1].split("\n\n")[0]
        self.assertEqual(set(re.findall(r"`([A-Z_]{4,})`", table)),
                         read | set(psik.Browser.SCREENS))
        head = 'def environment(self) -> "Dict[bytes'
        body = psik.TEMPLATES["supervisor.py"].split(head)[1].split("def ")[0]
        ranks = set(re.findall('b"(PSIK_[A-Z]+)": ', psik.TEMPLATES["supervisor.py"]))
        self.assertEqual(first_column("variable | value"),
                         set(re.findall('"([a-zA-Z_]+)": ', body)) - {"PWD"} | ranks
                         | {"task", "tasks"})

    def test_the_job_tree_is_told_alike_in_the_docstring(self) -> None:
        def names(text: str) -> Set[str]:
            name = r"(?:^|[ ;])([<.\w-]+(?:/|\.json|\.csv|\.N)|callbacks)(?=[ :;]|$)"
            return set(re.findall(name, text, re.MULTILINE))

        doc = psik.__doc__ or ""
        ours = names(doc[doc.index("prefix/"):doc.index("A job's Nth run")])
        self.assertEqual(names(README[README.index("prefix/\n"):].split("```")[0]), ours)
        self.assertIn("status.csv", ours)

    def test_every_row_of_the_table_for_newcomers_names_what_is_there(self) -> None:
        with open(PSIK, encoding="utf-8") as file:
            code = file.read()
        for row in README.split("| to add | do this |")[1].split("\n\n")[0].split("\n")[2:]:
            for name in re.findall(r"`(ROUTES|GROUPS|[A-Z]+_NAMES|ScriptWriter|JobHandler)`", row):
                number = (re.findall(r"`%s`[^|]*?section (\d+)" % name, row)
                          or re.findall(r"section (\d+)", row))[0]
                at = re.search(r"^(class )?%s\b" % name, code, re.MULTILINE)
                assert at
                found = re.findall(r"^# -+ (\d+)\.", code[:at.start()], re.MULTILINE)[-1]
                self.assertEqual(found, number, name)

    def test_the_changelog_begins_with_this_version(self) -> None:
        with open(os.path.join(ROOT, "CHANGELOG.md"), encoding="utf-8") as file:
            self.assertEqual(re.findall(r"^## ([0-9.]+),", file.read(), re.MULTILINE)[0],
                             psik.__version__)

    def test_links_lead_somewhere(self) -> None:
        for target in re.findall(r"\]\(([^)#]+)\)", README):
            self.assertTrue(os.path.exists(os.path.join(ROOT, target)), target)


class Session(Case):
    def test_the_session_is_what_one_sees(self) -> None:
        home = os.path.join(self.folder, "ada")
        os.mkdir(home)
        shutil.copy(PSIK, home)
        if sys.version_info < (3, 7):
            shutil.copy(__import__("dataclasses").__file__, home)
        session = README.split("```console\n")[1].split("```")[0]
        with open(os.path.join(home, "hello.json"), "w") as file:
            file.write(session.split("\n")[1] + "\n")
        os.mkdir(os.path.join(home, "bin"))
        os.symlink(sys.executable, os.path.join(home, "bin", "python3"))
        env = {"HOME": home, "PATH": os.path.join(home, "bin") + ":" + os.environ["PATH"]}
        subprocess.run([sys.executable, "psik.py", "doctor"], cwd=home, env=env,
                       stderr=subprocess.DEVNULL)
        for step in session.split("$ ")[1:]:
            command, expected = step.split("\n", 1)
            done = subprocess.run(["bash", "-c", command], cwd=home, env=env,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            said = done.stdout.decode().replace(home, "/home/ada")
            said = said.replace(rc_path() or "/bin/sh", "/bin/sh")
            self.assertEqual(masked(said), masked(expected), command)

    def test_the_first_command(self) -> None:
        command = re.findall(r"^    (echo .*psik.py run.*)$", README, re.MULTILINE)[0]
        command = command.replace("python3 psik.py", "%s %s" % (sys.executable, PSIK))
        done = subprocess.run(["sh", "-c", command], env=self.env, stdout=subprocess.PIPE)
        self.assertEqual((done.returncode, done.stdout.split()[-1]), (0, b"moo"))

    def test_the_config_is_read(self) -> None:
        text = README.split("```json\n")[1].split("```")[0]
        self.assertEqual(list(psik.backends_of(psik.load_config(self.write("c.json", text)))),
                         ["here", "frontier"])


if __name__ == "__main__":
    unittest.main()
