"""Templates: the three rules, the quoting for each place, the scripts that come of them."""
import glob
import os
import re
import subprocess
import unittest
from typing import Any, Dict, List, Tuple

import psik
from harness import ROOT, Case, needs, rc_path, shells
from odd import texts
from psik import JobSpec, Option, Shell

SH, RC = Shell("sh", "/bin/sh"), Shell("rc", "/usr/bin/rc")
RULES: List[Tuple[str, Dict[str, Any], Shell, str]] = [  # template, values, shell, script
    ("a @x@ b", {"x": "1"}, SH, "a 1 b\n"),
    ("a @x@ b\nc", {"x": None}, SH, "c\n"),
    ("a @x@ b\nc", {"x": []}, SH, "c\n"),
    ("a @x@ \\\nc", {"x": ["1", "2 3"]}, SH, "a 1 \\\na '2 3' \\\nc\n"),
    ("a @x@ @y@", {"x": ["1", "2"], "y": "z"}, SH, "a 1 z\na 2 z\n"),
    ("a @x@", {"x": "it's"}, SH, "a 'it'\\''s'\n"),
    ("a @x@", {"x": "it's"}, RC, "a 'it''s'\n"),
    ("a @x@", {"x": ""}, SH, "a ''\n"),
    ("#SBATCH -J @x@", {"x": "a b"}, SH, '#SBATCH -J "a b"\n'),
    ("#SBATCH @x@", {"x": [Option("-C", "gpu"), Option("--gpu-bind", "a b"),
                           Option("--no-requeue", "")]}, SH,
     '#SBATCH -C gpu\n#SBATCH --gpu-bind="a b"\n#SBATCH --no-requeue\n'),
    ("x @x@", {"x": [Option("-C", "a b")]}, SH, "x -C 'a b'\n"),
    ("#!@x@", {"x": "/usr/bin/env rc"}, SH, "#!/usr/bin/env rc\n"),
    ('$VAR "$@" ${a[@]} %j a@b @ @@ @X', {}, SH, '$VAR "$@" ${a[@]} %j a@b @ @@ @X\n'),
    ("a @x@", {"x": "@y@ $z"}, SH, "a '@y@ $z'\n"),
    ("a @x?@ @y?@", {"x": None, "y": "b c"}, SH, "a '' 'b c'\n"),
    ("a @x*y@ @x*y*x@ @y/x@", {"x": 2, "y": 3}, SH, "a 6 12 2\n"),
    ("a @x*y@\nb @x*y?4@ @y?1@\nc", {"x": 2, "y": None}, SH, "b 8 1\nc\n"),
    ("#PBS -l select=@n?1@:ncpus=@x*y/n?1@", {"x": 2, "y": 3, "n": None}, SH,
     "#PBS -l select=1:ncpus=6\n"),
    ("#PBS -l select=@n?1@:ncpus=@x*y/n?1@", {"x": 2, "y": 3, "n": 4}, SH,
     "#PBS -l select=4:ncpus=2\n"),
    ("#PBS -l select=@x@@[:ncpus=@y@]@@[:ngpus=@z@]@", {"x": 2, "y": 8, "z": None}, SH,
     "#PBS -l select=2:ncpus=8\n"),
    ("#PBS -l select=@x@@[:ncpus=@y@]@", {"x": None, "y": 8}, SH, "\n"),
    ("a @[-q @x@]@ @[-n @y*y@]@", {"x": "it's", "y": 3}, SH, "a -q 'it'\\''s' -n 9\n"),
    ("a ${a[@]} @[b]@", {}, SH, "a ${a[@]} @[b]@\n"),
    ("#PBS -N @x@", {"x": 'a "b'}, SH, "#PBS -N 'a \"b'\n"),
    ("#$ -wd @x@", {"x": "/a b"}, SH, '#$ -wd "/a b"\n'),
    ("#$ @x@", {"x": [Option("-l", "mem_free=1G"), Option("-now", "no")]}, SH,
     '#$ -l "mem_free=1G"\n#$ -now no\n'),
]
ATTRIBUTES = [("-C", "-C"), ("--gpu-bind", "--gpu-bind"), ("---gpu-bind", "--gpu-bind"),
              ("C", "-C"), ("constraint", "--constraint"), ("-alloc_flags", "-alloc_flags")]


class Rules(unittest.TestCase):
    def test_rules(self) -> None:
        for text, values, shell, script in RULES:
            with self.subTest(text=text, values=values):
                self.assertEqual(psik.Template("x", text).render(values, shell), script)

    def test_an_unknown_name_is_said_with_its_line(self) -> None:
        with self.assertRaises(psik.InvalidError) as caught:
            psik.Template("site/job", "a\nb @directry@").render({"directory": ""}, SH)
        said = ("site/job:2: @directry@ is not a name that templates can use (did you mean "
                "'directory'?)")
        self.assertEqual(str(caught.exception), said)

    def test_what_a_scheduler_cannot_take_is_refused(self) -> None:
        for line, value in (("#$ @x@", "it's"), ("#$ @x@", "a # b"), ("#PBS @x@", "\"'"),
                            ("#BSUB @x@", "\"'")):
            with self.assertRaises(psik.InvalidError, msg=line):
                psik.Template("x", line).render({"x": value}, SH)

    def test_what_cannot_be_calculated_is_said_with_its_line(self) -> None:
        for text, value in (("@x/y@", 0), ("@x*y@", "b"), ("@x*y@", []), ("@x*z?a@", 1)):
            with self.assertRaises(psik.InvalidError, msg=text) as caught:
                psik.Template("site/job", "a\nb " + text).render(
                    {"x": 1, "y": value, "z": None}, SH)
            self.assertIn("site/job:2: b " + text, str(caught.exception))

    def test_attributes(self) -> None:
        for key, name in ATTRIBUTES:
            self.assertEqual(Option.of(key, "x").name, name)

    def test_the_documented_names_are_those_that_are_given(self) -> None:
        backend = next(iter(psik.backends_of(psik.Config(prefix="/x")).values()))
        spec = backend.with_defaults(JobSpec(script="x"))
        values = psik.ScriptWriter(psik.JobDir("/x/local/1.5"), spec, backend, SH).values()
        names = {**psik.TEMPLATE_NAMES, **psik.OLD_TEMPLATE_NAMES}
        self.assertEqual(set(values) | {"job_body"}, set(names))
        with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
            readme = file.read()
        absent = [row for row in ("| `@%s@` | %s |" % pair for pair in psik.TEMPLATE_NAMES.items())
                  if row not in readme]
        self.assertEqual(absent, [])

    def test_a_quoted_word_is_that_word_in_both_shells(self) -> None:
        for name, path in shells().items():
            if not path:
                continue
            for text in texts():
                script = "printf '%%s' %s" % psik.Shell(name, path).quote_word(text)
                said = subprocess.run([path, "-c", script], stdout=subprocess.PIPE).stdout
                self.assertEqual(said.decode("utf-8"), text, (name, script))


KINDS = sorted({name.split("/")[0] for name in psik.TEMPLATES if "/" in name} - {"page"})


class Scripts(Case):
    def rendered(self, shell: Shell, kind: str = "local") -> Dict[str, str]:
        config = psik.Config(prefix="/p", backend=psik.BackendConfig(type=kind))
        backend = next(iter(psik.backends_of(config).values()))
        spec = backend.with_defaults(JobSpec(script="x", name="a b", directory="/d",
                                             environment={"A": "it's\nx"}))
        return psik.ScriptWriter(psik.JobDir("/p/%s/1.5" % kind), spec, backend, shell).texts()

    def test_templates_are_shell_as_they_lie(self) -> None:
        for path in glob.glob(ROOT + "/templates/**/*", recursive=True):
            others = (".py", ".rc", ".html", ".bash", ".zsh", "/supervise")
            is_shell = not path.endswith(others) and "/page/" not in path
            if os.path.isfile(path) and is_shell:
                done = subprocess.run(["sh", "-n", path], stderr=subprocess.PIPE)
                self.assertEqual((done.returncode, done.stderr), (0, b""), path)

    def test_scripts_are_sh(self) -> None:
        for kind in KINDS:
            for name, text in self.rendered(SH, kind).items():
                if name == "supervise":
                    continue
                path = self.write("script", text)
                for shell in ("sh", "bash"):
                    done = subprocess.run([shell, "-n", path], stderr=subprocess.PIPE)
                    self.assertEqual((done.returncode, done.stderr), (0, b""), (kind, name))

    @needs("rc", rc_path())
    def test_scripts_are_rc(self) -> None:
        for kind in KINDS:
            for name, text in self.rendered(RC, kind).items():
                if text.startswith("#!/bin/sh\n") or name == "supervise":
                    continue
                self.write("script", text)
                done = subprocess.run([rc_path() or "", "-n", os.path.join(self.folder, "script")],
                                      stderr=subprocess.PIPE)
                self.assertEqual((done.returncode, done.stderr), (0, b""), (kind, name))

    def test_a_script_without_an_interpreter_gets_the_chosen_one(self) -> None:
        self.assertEqual(self.rendered(SH)["run"], "#!/bin/sh\nx\n")
        self.assertEqual(self.rendered(RC)["run"], "#!/usr/bin/rc\nx\n")

    def test_which_scripts_split_the_words_of_mpirun(self) -> None:
        for head in ("#!/bin/sh\n", "#!/bin/bash -e\n", "#! /usr/bin/env bash\n",
                     "#!/bin/busybox sh\n"):
            for rest, splits in (("# moo\n$mpirun x\n", True), ("${mpirun} x", True),
                                 ("$rc x", True), ("$mpiruns\n", False), ("echo\n", False)):
                self.assertEqual(bool(psik.SPLITS_WORDS.match(head + rest)), splits, head + rest)
        for script in ("#!/usr/bin/python3\n# $mpirun\n", "#!/usr/bin/env rc\n$mpirun x\n",
                       "#!/bin/csh\n$mpirun x\n", "$mpirun x\n"):
            self.assertIsNone(psik.SPLITS_WORDS.match(script), script)

    def test_which_shell_is_chosen(self) -> None:
        os.mkdir(os.path.join(self.folder, "bin"))
        self.write("bin/rc", "#!/bin/sh\necho nonsense\n", 0o755)
        path = os.environ["PATH"]
        self.addCleanup(os.environ.__setitem__, "PATH", path)
        os.environ["PATH"] = os.path.join(self.folder, "bin") + ":" + path
        self.assertEqual(psik.Shell.of(psik.Config()), SH)
        os.environ["PATH"] = path
        if rc_path():
            self.assertEqual(psik.Shell.of(psik.Config()), Shell("rc", rc_path() or ""))
        self.assertEqual(psik.Shell.of(psik.Config(rc_path="/bin/bash")), Shell("sh", "/bin/bash"))

    def test_export_and_use_a_folder_of_ones_own(self) -> None:
        folder = os.path.join(self.folder, "mine")
        self.assertIn(folder + "/local/job", self.psik("backends", "--export", folder).out.split())
        self.psik("backends", "--export", folder, status=5)
        with open(folder + "/local/cancel", "a") as file:
            file.write("@nme@\n")
        self.configure(templates="mine")
        ran = self.psik("backends", "--check", status=4)
        said = (r"local: .*mine/local/cancel:\d+: @nme@ is not a name that templates can use "
                r"\(did you mean 'name'\?\)")
        self.assertRegex(ran.out, said)
        os.remove(folder + "/local/cancel")
        self.assertRegex(self.psik("backends", "--check").out, r"local +local +\S+ +yes")

    def test_check_names_missing_programs(self) -> None:
        empty = os.path.join(self.folder, "empty")
        os.mkdir(empty)
        self.configure(backend={"type": "slurm"})
        ran = self.psik("backends", "--check", status=4, env={"PATH": empty})
        self.assertIn("slurm: no program 'sbatch', which templates/slurm/submit calls", ran.out)

    def test_what_the_supervisor_is_told_is_python(self) -> None:
        found: Dict[str, Any] = {}
        exec(self.rendered(SH)["supervise"].split("\nif SETTINGS")[0], found)
        wanted = {"base": "/p/local/1.5", "directory": "/d", "duration_min": 10,
                  "environment": {"A": "it's\nx"}}
        self.assertEqual({name: found["SETTINGS"][name] for name in wanted}, wanted)

    def test_directives_stand_before_the_first_command(self) -> None:
        for name, text in psik.TEMPLATES.items():
            body = re.split(r"^[^#\n]", text, maxsplit=1, flags=re.MULTILINE)
            if len(body) == 2 and name.endswith("/job"):
                self.assertNotRegex(body[1], r"(?m)^#(SBATCH|BSUB)", name)


if __name__ == "__main__":
    unittest.main()
