"""Applications: scripts that others run with values of their own, and nothing else."""
import base64
import json
import os
import shutil
import subprocess
import time
from typing import Any, Dict, List, Optional

import psik
from harness import DEPS, ROOT, Case, needs, rc_path, shells

GATEWAY = os.path.join(DEPS, "gateway", "bin", "python")

# What a shell would make something else of, if it ever read a value as its own text.
HOSTILE = ["", " ", "-n", "$(touch owned)", "`touch owned`", "'; touch owned; '",
           '"; touch owned; "', "a\nb", "\ttab", "*", "~", "$HOME", "\\", "!!", "%s", "&", "|",
           "a;b", "${IFS}", "#",
           "ünïcode ☺", "\x7f\x1b[31m", "=", "--", "{x,y}", "x" * 90000, "$'\\n'", "^", "''", '""']
ONE_TEXT = {"properties": {"x": {"type": "string"}}, "required": ["x"]}


def faults_of(inputs: Any, values: Dict[str, Any]) -> List[str]:
    """What is wrong with values, by a schema that is right."""
    assert not list(psik.Schema.wrong(inputs, "")), list(psik.Schema.wrong(inputs, ""))
    return list(map(str, psik.Schema.faults(inputs, values, "")))


class Offered(Case):
    """A config with a folder of applications."""

    def setUp(self) -> None:
        super().setUp()
        os.mkdir(os.path.join(self.folder, "apps"))
        self.configure(applications="apps")

    def wrong(self, **app: Any) -> str:
        """What is said of an application that is wrong."""
        self.offer("wrong", **app)
        ran = self.psik("apps", status=2)
        self.assertNotIn("wrong\n", ran.out)
        return ran.err.replace("psik: %s/apps/wrong.json: " % self.folder, "")


class Schemas(Case):
    def test_every_keyword(self) -> None:
        for schema, good, bad in (
                ({"type": "integer"}, [1, 1.0, -3], [1.5, "1", True, None]),
                ({"type": ["string", "null"]}, ["", None], [0, [], {}]),
                ({"type": "boolean"}, [True], [1, 0, "true"]),
                ({"enum": [1, "a", [2], {"b": None}]}, [1.0, "a", [2.0], {"b": None}],
                 [True, "A", [2, 2], {"b": 0}]),
                ({"const": False}, [False], [0, None, ""]),
                ({"minimum": 1, "exclusiveMaximum": 3}, [1, 2.99, "0"], [0.99, 3]),
                ({"multipleOf": 0.1}, [0.3, 1, 0], [0.35]),
                ({"minLength": 2, "maxLength": 3}, ["ab", "☺☺☺", 7], ["a", "abcd"]),
                ({"items": {"type": "string"}, "minItems": 1, "maxItems": 2}, [["a"], "x"],
                 [[], [1], ["a", "b", "c"]]),
                ({"properties": {"a": {"type": "string"}}, "required": ["a"],
                  "additionalProperties": {"type": "integer"}},
                 [{"a": "x", "b": 2}], [{}, {"a": 1}, {"a": "x", "b": "y"}]),
                ({"anyOf": [{"type": "string"}, {"minimum": 5}]}, ["a", 5, None], [4]),
                ({"contentEncoding": "base64", "contentMediaType": "image/png"},
                 ["", "YQ==", 5], ["YQ", "Y Q==", "☺", "YQ==\n"]),
                (True, [None, 1], []), (False, [], [1]), ({}, [1, "a"], [])):
            for value in good:
                self.assertEqual(faults_of(schema, value), [], (schema, value))
            for value in bad:
                self.assertEqual(len(faults_of(schema, value)), 1, (schema, value))

    def test_places_and_messages(self) -> None:
        schema = {"properties": {"list": {"items": {"maximum": 3}}, "n": {"type": "integer"}},
                  "required": ["word"], "additionalProperties": False}
        self.assertEqual(faults_of(schema, {"list": [1, 9], "n": "x", "wort": 1}), [
            "word: is missing", "list.1: 9 is more than 3", "n: 'x' is not of type integer",
            "'wort' is no input"])
        self.assertEqual(faults_of({"anyOf": [{"type": "null"}, {"properties": {"a": False}}]},
                                   {"a": 1}),
                         ["{'a': 1} is not of type null; and a: may not be given"])

    def test_what_is_no_schema(self) -> None:
        deep: Any = {}
        for _ in range(40):
            deep = {"items": deep}
        for schema, place in (
                ([], ""), ({"items": 3}, ".items"), ({"anyOf": []}, ".anyOf"), (deep, ".items"),
                ({"properties": {"a": {"tpye": "string"}}}, ".properties.a.tpye"),
                ({"format": "date"}, ".format"), ({"$ref": "#"}, ".$ref"),
                ({"type": "text"}, ".type"), ({"type": []}, ".type"), ({"type": 5}, ".type"),
                ({"type": ["string", {}]}, ".type"),
                ({"minLength": -1}, ".minLength"), ({"maxItems": 1.5}, ".maxItems"),
                ({"minimum": "3"}, ".minimum"), ({"multipleOf": 0}, ".multipleOf"),
                ({"required": [1]}, ".required"), ({"enum": "ab"}, ".enum"),
                ({"title": 1}, ".title"),
                ({"contentEncoding": "base32"}, ".contentEncoding"),
                ({"type": "string", "default": 3}, ".default"),
                ({"properties": []}, ".properties")):
            found = list(psik.Schema.wrong(schema, ""))
            self.assertTrue(found and found[0].path.startswith(place), (schema, found))
        self.assertIn("did you mean 'type'?", str(next(psik.Schema.wrong({"tpye": 1}, ""))))

    def test_patterns(self) -> None:
        for pattern in (r"(a+)+", "(ab)*", "(?:a|b){2}", r"(a)\1", "(?P<x>a)", "(?=a)", "(?i)a",
                        "a**", "a++", "*a", "^*", "[]", "[^]", "[z-a]", "(a", "a)", r"\Z", r"\Aa",
                        r"\p{L}", "[[a]", "[a&&b]", "a{2", "a{1001}", "\\", "[a", 5, None, ["a"]):
            self.assertTrue(psik.Pattern.wrong(pattern), pattern)
        for pattern, good, bad in (
                ("^[a-z]+$", ["abc"], ["abc\n", "", "Abc"]), (r"^\d{2}$", ["12"], ["٣٤", "123"]),
                (r"^(?:a|b\.c)x*$", ["axx", "b.c"], ["bxc"]), ("^.$", ["é"], ["\n", "\u2028"]),
                (r"[\w\-]@", ["a@", "-@"], ["é@"]), (r"a\b", ["a b"], ["ab"]),
                ("^a??b", ["ab"], ["aab"])):
            self.assertEqual(psik.Pattern.wrong(pattern), "")
            for text in good:
                self.assertTrue(psik.Pattern.fits(text, pattern), (pattern, text))
            for text in bad:
                self.assertFalse(psik.Pattern.fits(text, pattern), (pattern, text))
        self.assertFalse(psik.Pattern.fits("a" * 1001, "^a*$"))

    def test_no_text_keeps_a_pattern_busy(self) -> None:
        """By `re` each of these takes seconds, in which no other thread runs."""
        for pattern, text in ((r"\d+\.?\d*$", "1" * 999 + "x"),
                              ("^[a-z]*[a-z0-9]*[a-z]*$", "a" * 999 + "!"),
                              (r"^\w+ ?\w* ?\w*$", "a" * 999 + "!"),
                              ("^" + "a*" * 50 + "$", "a" * 999 + "!"),
                              ("^" + "[a-z]{0,9}" * 12 + "$", "abcdefghij" * 99 + "!")):
            begun = time.process_time()
            self.assertFalse(psik.Pattern.fits(text, pattern))
            self.assertLess(time.process_time() - begun, 2)
        self.assertIn("too long", psik.Pattern.wrong("a{200}b{200}"))


class Beside(Case):
    @needs("jsonschema", os.path.exists(GATEWAY))
    def test_beside_the_jsonschema_library(self) -> None:
        done = subprocess.run([GATEWAY, os.path.join(ROOT, "tests", "compare_schemas.py"), "700"],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
        self.assertRegex(done.stdout.decode(), r"^[0-9]{3,} [0-9]{3,}\n$")


class Files(Offered):
    def test_listing(self) -> None:
        self.assertIn("there are none", self.psik("apps").err)
        self.offer("wc", summary="Count words", description="Lines,\nwords.", needs=["a.txt"],
                   inputs={"properties": {"n": {"type": "integer", "default": 3}, "x": {}},
                           "required": ["x"]})
        self.offer("bare")
        self.write("apps/notes.txt", "no application")
        self.assertEqual(self.psik("apps").out.split("\n"),
                         ["NAME  SUMMARY", "bare", "wc    Count words", ""])
        text = self.psik("apps", "wc").out
        for part in ("wc: Count words\n\nLines,\nwords.\n", "by default 3", "has to be given",
                     "a.txt", "%s run --app wc x=VALUE --in a.txt" % psik.called()):
            self.assertIn(part, text)
        self.offer("rescore", description="Weigh anew.\nMore.", interactive=True, of="wc",
                   inputs={"properties": {
                       "w": {"enum": ["low", "high"]}, "n": {"type": "integer", "minimum": 1,
                                                             "exclusiveMaximum": 9},
                       "l": {"type": "array", "items": {"type": "number"}}}})
        text = self.psik("apps", "rescore").out
        for part in ("answers at once, in completed jobs of wc", "low | high", "1 or more, below 9",
                     "list of number"):
            self.assertIn(part, text)
        self.assertIn("rescore  Weigh anew.\n", self.psik("apps").out)
        os.unlink(os.path.join(self.folder, "apps", "rescore.json"))
        offers = json.loads(self.psik("apps", "--json").out)
        self.assertEqual(offers[1]["inputs"]["required"], ["x"])
        self.assertEqual(json.loads(self.psik("apps", "wc", "--json").out)["needs"], ["a.txt"])
        self.assertIn("did you mean 'wc'?", self.psik("apps", "wcc", status=3).err)

    def test_what_is_wrong_with_a_file(self) -> None:
        self.offer("good")
        self.assertEqual(self.wrong(scrpt="x", pick="last").split("\n")[:2], [
            "scrpt: unknown key (did you mean 'script'?)",
            "pick: 'last' is neither first nor round"])
        for app, said in (
                ({"script": " "}, "script: give either `script` or `script_file`"),
                ({"script_file": "x"}, "script: give either `script` or `script_file`"),
                ({"script": "", "script_file": "x"}, "apps/x: cannot be read: No such file"),
                ({"script": "#!/bin/sh\r\necho\r\n"}, "CR LF"),
                ({"backend": ["nowhere"]}, "backend: 'nowhere' is not configured"),
                ({"needs": ["../x"]}, "needs:"), ({"needs": ["/x"]}, "needs:"),
                ({"needs": ["*"]}, "needs:"),
                ({"of": "x"}, "of:"),
                ({"interactive": True, "outputs": ["a"]}, "outputs:"),
                ({"inputs": {"type": "array"}}, "inputs.type:"), ({"inputs": []}, "inputs:"),
                ({"inputs": {"required": ["x"]}}, "inputs.required:"),
                ({"inputs": {"properties": {"a b": {}}}}, "inputs.properties.a b:"),
                ({"inputs": {"properties": {"a": {"items": {"contentEncoding": "base64"}}}}},
                 "inputs.properties.a: contentEncoding"),
                ({"inputs": {"properties": {"a": {"contentEncoding": "base64"}}}},
                 "inputs.properties.a: must have the type string"),
                ({"resources": {"duration": "long"}}, "resources.duration:")):
            self.assertIn(said, self.wrong(**app), app)
        self.write("apps/wrong.json", '{"script": "x", "inputs": {"properties": {"a": {'
                   '"multipleOf": 2, "default": 1e999}}}}')
        self.assertIn("1e999 is too large a number", self.psik("apps", status=2).err)
        self.write("apps/wrong.json", "{")
        self.assertIn("wrong.json:1:2: not JSON", self.psik("apps", status=2).err)
        self.write("apps/wrong.json", '{"script": "%s"}' % ("x" * 2 ** 20))
        self.assertIn("has more than", self.psik("apps", status=2).err)
        os.rename(os.path.join(self.folder, "apps", "wrong.json"),
                  os.path.join(self.folder, "apps", "a b.json"))
        ran = self.psik("apps", status=2)
        self.assertIn("'a b' is no name for an application", ran.err)
        self.assertIn("good", ran.out)  # which all that does not hurt
        self.psik("run", "--app", "good", "--wait")
        self.assertIn("a b.json", self.psik("doctor", status=1).out)
        os.unlink(os.path.join(self.folder, "apps", "a b.json"))
        os.mkfifo(os.path.join(self.folder, "apps", "fifo.json"))
        os.symlink("/dev/zero", os.path.join(self.folder, "apps", "zero.json"))
        self.offer("lost", interactive=True, of="goood")
        self.offer("turned", inputs={"x": {"type": "string"}})
        ran = self.psik("apps", status=2)
        for name, said in (("fifo", "is no plain file"), ("zero", "is no plain file"),
                           ("lost", "of: there is no application 'goood' (did you mean 'good'?)"),
                           ("turned", "inputs.x: should stand below inputs.properties")):
            self.assertIn("%s/apps/%s.json: %s" % (self.folder, name, said), ran.err)
        self.configure(applications="nowhere")
        self.assertIn("there is no folder", self.psik("apps", status=2).err)

    def test_schemas_that_are_true_or_false(self) -> None:
        self.offer("object", inputs={"properties": {
            "o": {"type": "object", "properties": {"a": True}, "additionalProperties": False},
            "l": {"items": True}, "any": {"anyOf": [True]}, "all": True, "none": False}})
        self.assertEqual(self.psik("apps").out, "NAME    SUMMARY\nobject\n")
        self.psik("run", "--app", "object", 'o={"a": 1}', "all=1")
        self.assertIn("none: may not be given",
                      self.psik("run", "--app", "object", "none=1", status=2).err)

    @needs("a real rc", rc_path())
    def test_a_script_for_another_shell(self) -> None:
        self.assertIn("it has no #! line", self.wrong(script="if [ -n \"$w\" ]; then echo; fi\n"))

    def test_names_that_no_input_may_have(self) -> None:
        for name in ("PATH", "LD_PRELOAD", "BASH_ENV", "BASH_FUNC_x", "ENV", "IFS", "PYTHONPATH",
                     "SLURM_JOB_ID", "PSIK_MARK", "inputs", "jobid", "mpirun", "fn_cd", "path", "_",
                     "PS4", "status", "PERL5OPT", "LC_ALL", "GIT_DIR"):
            self.assertIn("cannot be the name", self.wrong(inputs={"properties": {name: {}}}), name)
        os.unlink(os.path.join(self.folder, "apps", "wrong.json"))
        for name in ("id", "file", "n", "OMP_NUM_THREADS", "PATHS", "Path_", "x" * 100):
            self.offer("fine", inputs={"properties": {name: {}}})
            self.psik("apps")

    def test_a_file_that_others_can_write(self) -> None:
        os.chmod(self.offer("mine"), 0o666)
        self.assertIn("others could write to", self.psik("apps", status=2).err)
        self.psik("apps")   # their permission was taken away
        path = self.offer("mine", script="", script_file="mine.sh")
        os.chmod(self.write("apps/mine.sh", "#!/bin/sh\necho own file\n"), 0o622)
        self.assertIn("mine.sh", self.psik("run", "--app", "mine", status=2).err)
        self.psik("run", "--app", "mine", "--wait")
        self.assertEqual(self.psik("logs", "last").out, "own file\n")
        self.assertTrue(path)


class Runs(Offered):
    def use(self, name: str, *words: str, status: Optional[int] = 0) -> Any:
        """Run an application to its end; the job."""
        jobid = self.psik("run", "--wait", "--app", name, *words, status=status).out.strip()
        return self.job(jobid)

    def test_no_value_becomes_a_part_of_the_script(self) -> None:
        names = ["x%d" % number for number in range(len(HOSTILE))]
        inputs = {"properties": {name: {"type": "string"} for name in names}}
        words = ["%s=%s" % pair for pair in zip(names, HOSTILE)]
        for shell, path in shells().items():
            if not path:
                continue
            self.configure(applications="apps", rc_path=path)
            own = "$%s" if shell == "rc" else '"$%s"'
            for head, quoted in (("#!/bin/sh\n", '"$%s"'), ("", own)):
                lines = ["printf %%s %s >%s" % (quoted % name, name) for name in names]
                self.offer("echo", script=head + "\n".join(lines + ["env -0 >environment", ""]),
                           inputs=inputs)
                work = self.use("echo", *words).at("work")
                self.assertEqual(sorted(os.listdir(work)), sorted(names + ["environment"]))
                for name, value in zip(names, HOSTILE):
                    with self.subTest(shell=shell, head=head, value=value[:20]):
                        self.assertEqual(psik.read_text(work + "/" + name), value)
                environment = dict(part.split("=", 1) for part in psik.read_text(
                    work + "/environment").split("\0") if part)
                self.assertEqual(json.loads(environment["inputs"]), dict(zip(names, HOSTILE)))

    def test_how_values_arrive(self) -> None:
        self.offer("all", script="#!/bin/sh\nenv -0 >all\n", inputs={"properties": {
            "text": {"type": "string"}, "number": {"type": "number"}, "whole": {"type": "integer"},
            "flag": {"type": "boolean"}, "nothing": {"type": ["null", "string"]},
            "words": {"type": "array", "items": {"type": "string"}},
            "numbers": {"type": "array", "items": {"type": "number"}}, "thing": {"type": "object"},
            "level": {"enum": [1, 2]}, "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "any": {}, "left": {"type": "string"}, "usual": {"default": [1, 2]}}})
        job = self.use("all", "text=5", "number=0.5", "whole=2.0", "flag=true", "words=a",
                       "words=7", "numbers=[1, 2.5]", 'thing={"a": [1]}', "any=7",
                       "--name", "mine", "-t", "3")
        got = dict(part.split("=", 1) for part in psik.read_text(job.at("work", "all")).split("\0")
                   if part)
        wanted = {"text": "5", "number": "0.5", "whole": "2", "flag": "true", "words": "a\x017",
                  "numbers": "1\x012.5", "thing": '{"a": [1]}', "any": "7", "usual": "1\x012"}
        self.assertEqual({name: got[name] for name in wanted}, wanted)
        self.assertFalse({"nothing", "left"} & set(got))
        spec = job.spec()
        self.assertEqual((spec.name, spec.application, spec.resources.duration), ("mine", "all", 3))
        self.assertEqual(spec.inputs["words"], ["a", "7"])
        self.assertEqual(json.loads(got["inputs"]), spec.inputs)

    def test_files(self) -> None:
        a_file = {"type": "string", "contentEncoding": "base64", "minLength": 4, "maxLength": 9}
        self.offer("size", needs=["data/lines"],
                   script='#!/bin/sh\nwc -c <"$blob"\ncat "$note"\ncd /; cat "$note" lines\n',
                   inputs={"properties": {"blob": a_file, "note": a_file}})
        data = bytes(range(256)) * 400
        with open(os.path.join(self.folder, "blob.bin"), "wb") as file:
            file.write(data)
        os.mkdir(os.path.join(self.folder, "data"))
        note = base64.b64encode("ä\n".encode()).decode()
        self.assertIn("--app size: files: data/lines is missing: size needs it",
                      self.psik("run", "--app", "size", status=2).err)
        self.write("data/lines", "1\n2\n")
        job = self.use("size", "blob=@blob.bin", "note=" + note, "--in", "data", status=1)
        self.assertEqual(self.psik("logs", job.jobid).out.split("\n")[:3], ["102400", "ä", "ä"])
        self.assertEqual(sorted(os.listdir(job.at("work"))), [".inputs", "data"])
        self.assertEqual(job.spec().inputs, {"blob": ".inputs/blob", "note": ".inputs/note"})
        moved = os.path.join(self.folder, "moved")     # where the files are too
        shutil.move(self.prefix, moved)
        self.configure(applications="apps", prefix=moved)
        self.psik("start", job.jobid)
        self.psik("wait", job.jobid, status=1)
        self.assertEqual(self.psik("logs", job.jobid).out.split("\n")[:3], ["102400", "ä", "ä"])

    def test_what_is_refused(self) -> None:
        self.offer("two", inputs={"properties": {"n": {"type": "integer", "maximum": 5},
                                                 "x": {"type": "string"}}, "required": ["x"]})
        for words, said in (
                (["n=9"], ["--app two: x: is missing", "--app two: n: 9 is more than 5"]),
                (["x=a", "x=b"], ["x: is given twice"]), (["x"], ["'x' is not INPUT=VALUE"]),
                (["x=a", "y=b"], ["'y' is no input"]), (["x=\x01"], ["x: holds what no variable"]),
                (["x=@nowhere"], ["nowhere"]), (["x=@"], ["x=@FILE wants a file"]),
                (["=1"], ["'=1' is not INPUT=VALUE"]),
                (["x=a", "--set", "inputs.n=9"], ["do not change an application's inputs.n"]),
                (["x=a", "--env", "n=9"], ["do not change an application's environment.n"]),
                (["x=a", "--in", "apps"], ["two takes no files"]),
                (["x=a", "--dir", "/tmp"], ["--app runs in"]),
                (["x=a", "-c", "true"], ["--app and -c exclude each other"]),
                (["x=a", "--bogus"], ["run takes no '--bogus'"])):
            ran = self.psik("run", "--app", "two", *words, status=None)
            self.assertIn(ran.status, (1, 2, 3), ran)
            for line in said:
                self.assertIn(line, ran.err)
        self.assertEqual(self.use("two", "x=@@home").spec().inputs, {"x": "@home"})
        self.psik("rm", "last")
        big = self.write("big", "x" * 100000)
        self.assertIn("may have 98304", self.psik("run", "--app", "two", "x=@" + big, status=2).err)
        self.assertEqual(psik.paths_in(os.path.join(self.prefix, "local")), [])
        self.assertIn("==> variables <==\nx=a\n",
                      self.psik("run", "--app", "two", "x=a", "--dry-run").out)
        self.assertEqual(psik.paths_in(os.path.join(self.prefix, "local")), [])

    def test_backends_in_turn(self) -> None:
        self.configure(applications="apps", backends={
            name: {"type": "local"} for name in ("north", "south", "other")})
        self.offer("round", backend=["north", "south"], pick="round")
        self.offer("first", backend=["south", "north"])
        used = [self.use("round").backend for _ in range(5)]
        self.assertEqual(used, ["north", "south", "north", "south", "north"])
        self.assertEqual({self.use("first").backend for _ in range(2)}, {"south"})
        self.assertEqual(self.use("first", "--backend", "other").backend, "other")
        self.offer("free")
        self.assertEqual(self.use("free").backend, "north")

    def test_set_up_and_resources(self) -> None:
        self.configure(applications="apps", defaults={"duration": 7})
        self.offer("loaded", script='#!/bin/sh\necho "$made $x"\n', setup=["export made=there"],
                   resources={"process_count": 2}, inputs=ONE_TEXT)
        job = self.use("loaded", "x=given")
        self.assertEqual(self.psik("logs", job.jobid).out, "there given\n")
        needs = job.spec().resources
        self.assertEqual((needs.duration, needs.process_count), (7, 2))
