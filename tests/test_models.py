"""What a spec and a config may say, and what is answered where it does not hold."""
import json
import os
import re
import unittest
from typing import Any, Dict, List, Tuple

import psik
from harness import Case
from psik import Config, JobSpec, ResourceSpec

SPEC: Dict[str, Any] = {"script": "echo"}
FAULTY: List[Tuple[Dict[str, Any], List[str]]] = [  # changes to a good spec; the faults
    ({"script": None}, ["script: is missing"]),
    ({"script": "  \n"}, ["script: is empty"]),
    ({"script": "#!/bin/sh\r\nls\r\n"}, ["script: its lines end in CR LF"]),
    ({"script": "a\0b"}, ["script: it holds a NUL"]),
    ({"script": "\ud800"}, ["script: '\\ud800' holds half of a surrogate"]),
    ({"name": "a\nb"}, ["name: it holds a control character ('\\n')"]),
    ({"name": "a\x1bb"}, ["name: it holds a control character"]),
    ({"name": ["x"]}, ["name: ['x'] is not a text"]),
    ({"directory": ""}, ["directory: is empty"]),
    ({"resources": {"duration": "abc"}}, ["resources.duration: 'abc' is not a whole number"]),
    ({"resources": {"duration": 1.5}}, ["resources.duration: 1.5 is not a whole number"]),
    ({"resources": {"duration": True}}, ["resources.duration: True is not a whole number"]),
    ({"resources": {"duration": 0}}, ["resources.duration: 0 is too small; the least is 1"]),
    ({"resources": {"node_count": -1}}, ["resources.node_count: -1 is too small"]),
    ({"resources": {"gpu_cores_per_process": -1}},
     ["resources.gpu_cores_per_process: -1 is too small; the least is 0"]),
    ({"resources": {"duration": 10 ** 12}}, ["resources.duration: 1000000000000 is too large"]),
    ({"resources": {"exclusive_node_use": "maybe"}},
     ["resources.exclusive_node_use: 'maybe' is neither true nor false"]),
    ({"resources": {"durration": 5}},
     ["resources.durration: unknown key (did you mean 'duration'?)"]),
    ({"resources": {"process_count": 3, "node_count": 2, "processes_per_node": 2}},
     ["resources.process_count: 3 contradicts node_count x processes_per_node = 4"]),
    ({"resources": []}, ["resources: [] is not an object"]),
    ({"environment": {"A=B": "x"}}, ["environment.A=B: not the name of a variable"]),
    ({"environment": {"A": "\0"}}, ["environment.A: it holds a NUL"]),
    ({"environment": {"A": ["x"]}}, ["environment.A: ['x'] is not a text"]),
    ({"environment": "A=B"}, ["environment: 'A=B' is not an object"]),
    ({"backend": {"queue_name": "a\nb"}}, ["backend.queue_name: it holds a control character"]),
    ({"backend": {"attributes": {"-C": "a\nrm -rf /"}}},
     ["backend.attributes.-C: it holds a control character"]),
    ({"backend": {"attributes": {"a b": "c"}}}, ["backend.attributes.a b: not an option"]),
    ({"backend": {"typo": "x"}}, ["backend.typo: unknown key"]),
    ({"scirpt": "x"}, ["scirpt: unknown key (did you mean 'script'?)"]),
    ({"callback": "ftp://x", "script": "", "name": "\n",
      "resources": {"duration": "x", "process_count": 3, "node_count": 2, "processes_per_node": 2}},
     ["callback: 'ftp://x' is not an http", "script: is empty", "name:", "resources.duration:",
      "resources.process_count: 3 contradicts"]),
    ({"scirpt": 1, "name": "\n", "resources": {"duration": "x"}},
     ["scirpt:", "name:", "resources.duration:"]),
]


class Specs(unittest.TestCase):
    def test_every_fault_is_said_with_its_path(self) -> None:
        for change, said in FAULTY:
            with self.subTest(change=change), self.assertRaises(psik.InvalidError) as caught:
                psik.from_json(JobSpec, dict(SPEC, **change), "spec.json")
            for line in said:
                self.assertIn("spec.json: " + line, str(caught.exception))
            self.assertEqual(len(caught.exception.faults), len(said), caught.exception)

    def test_a_list_as_a_text(self) -> None:
        for text, launcher, setup in (("a b", ["a", "b"], ["a b"]),
                                      ('["a b", "c"]', ["a b", "c"], ["a b", "c"]),
                                      ("[ -f x ] && y", "[ -f x ] && y".split(),
                                       ["[ -f x ] && y"])):
            spec = psik.load_spec('{"script": "x"}', "spec.json",
                                  ["launcher=" + text, "setup=" + text, "environment.A=" + text])
            self.assertEqual((spec.launcher, spec.setup), (launcher, setup))
            self.assertEqual(spec.environment, {"A": text})

    def test_a_text_of_brackets_is_a_word(self) -> None:
        text = "[" * 100000
        self.assertEqual(psik.JobSpec(script="x", setup=text).setup, [text])

    def test_the_defaults_are_upstreams(self) -> None:
        ours = psik.to_json(JobSpec(script="x"))
        for name in ("requeue", "join_output"):     # which upstream has not
            self.assertIs(ours.pop(name), False)
        self.assertEqual(ours.pop("callback_on"), "all")
        self.assertEqual((ours.pop("setup"), ours.pop("after")), ([], []))
        self.assertEqual(ours.pop("inputs"), {})
        for name in ("launcher", "array", "at_once", "application"):
            self.assertIsNone(ours.pop(name))
        self.assertIsNone(ours["resources"].pop("memory_per_process"))
        self.assertEqual(ours, {
            "name": None, "directory": None, "script": "x", "environment": {},
            "inherit_environment": True,
            "resources": {"duration": 10, "node_count": None, "process_count": None,
                          "processes_per_node": None, "cpu_cores_per_process": 1,
                          "gpu_cores_per_process": 0, "exclusive_node_use": True},
            "backend": {"type": "local", "queue_name": None, "project_name": None,
                        "reservation_id": None, "attributes": {}},
            "callback": None, "cb_secret": None, "cb_headers": {}, "client_secret": None,
            "attributes": {}})

    def test_text_and_numbers_are_converted(self) -> None:
        rows: List[Tuple[Dict[str, Any], Any]] = [
            ({"resources": {"duration": "60"}}, 60), ({"resources": {"duration": 60.0}}, 60),
            ({"resources": {"duration": " 60 "}}, 60)]
        for change, value in rows:
            spec = psik.from_json(JobSpec, dict(SPEC, **change))
            self.assertEqual(spec.resources.duration, value)
        spec = psik.from_json(JobSpec, dict(SPEC, environment={"N": 4, "X": None},
                                            inherit_environment="false"))
        self.assertEqual(spec.environment, {"N": "4", "X": ""})
        self.assertIs(spec.inherit_environment, False)

    def test_sizes_of_memory(self) -> None:
        for given, size in (("4G", 4096), ("500M", 500), ("1.5g", 1536), ("2000K", 2), ("1K", 1),
                            (" 2 TiB ", 2 ** 21), ("8 GB", 8192), (512, 512), ("512", 512)):
            spec = psik.from_json(JobSpec, dict(SPEC, resources={"memory_per_process": given}))
            self.assertEqual(spec.resources.memory_per_process, size, given)
            self.assertEqual(psik.to_json(spec)["resources"]["memory_per_process"], size)
        for given, said in (("lots", "'lots' is not a size; give MiB, or a text like 4G"),
                            ("4X", "'4X' is not a size"), ("-4G", "'-4G' is not a size"),
                            ("0G", "0 is too small"), (0, "0 is too small"),
                            (1.5, "1.5 is not a size"), ("99999999T", "is too large")):
            with self.assertRaisesRegex(psik.InvalidError, re.escape(said)):
                psik.from_json(JobSpec, dict(SPEC, resources={"memory_per_process": given}))

    def test_constructors_convert_too(self) -> None:
        self.assertEqual(ResourceSpec(duration="60").duration, 60)  # type: ignore[arg-type]
        backend: Any = {"type": "slurm", "queue_name": "batch"}
        config = Config(prefix="/x", backend=backend)
        self.assertEqual(psik.backends_of(config)["slurm"].settings.queue_name, "batch")
        with self.assertRaises(psik.InvalidError):
            ResourceSpec(duration="x")  # type: ignore[arg-type]

    def test_round_trip(self) -> None:
        spec = psik.from_json(JobSpec, dict(SPEC, cb_secret="s",
                                            backend={"attributes": {"---gpu-bind": "closest"}}))
        self.assertEqual(psik.from_json(JobSpec, psik.to_json(spec)), spec)
        self.assertIsNone(psik.to_json(spec, secrets=False)["cb_secret"])


UPSTREAM_SPECS = [  # as psik 1.2.2, psik 3.x and the documents write them
    '{ "script": "#!/usr/bin/env rc\\necho moo\\n" }',
    '{ "script": "cat data.txt",\n}',
    '{"name": "x", "script": "y", "backend": "default", "attributes": {"--constraint": "gpu"},'
    ' "cb_headers": {"X-A": "b"}}',
    '{"script": "y", "backend": {"type": "slurm", "queue_name": "q",'
    ' "attributes": {"-b": "packed:rs"}}, "client_secret": "s"}',
    '{"name": null, "directory": null, "script": "y", "environment": {}, "callback": null,'
    ' "cb_secret": null}',
]
UPSTREAM_CONFIGS = [  # text, backend's name, prefix, type
    ('{"prefix": "/tmp/.psik", "backend": {"type": "local", "project_name": "p",'
     ' "attributes": {"-b": "packed:rs"}}}', "local", "/tmp/.psik", "local"),
    ('{"prefix": "/a", "psik_path": "/x/psik", "rc_path": "/usr/bin/env rc"}',
     "local", "/a", "local"),
    ('{"backends": {"default": {"prefix": "/b", "backend": {"type": "local"}}}}',
     "default", "/b", "local"),
    ('{"authz": "local", "database_url": "sqlite://", "backends": {"f": {"prefix": "/c",'
     ' "psik_path": "/p", "rc_path": "/bin/sh", "backend": {"type": "slurm", "project_name": "p",'
     ' "attributes": {"---gpu-bind": "closest"}}}}}', "f", "/c", "slurm"),
    ('{"prefix": "/d", "backends": {"default": {"type": "slurm", "queue_name": "q"}, "other": {}}}',
     "default", "/d", "slurm"),
]
BAD_CONFIGS = [  # text, what is said
    ("{", "psik.json:1:2: not JSON"),
    ("", "it is empty"),
    ("[]", "[] is not an object"),
    ('{"prefix": "/a", "backend": {"typ": "x"}}',
     "backend.typ: unknown key (did you mean 'type'?)"),
    ('{"prefixx": "/a"}', "prefixx: unknown key (did you mean 'prefix'?)"),
    ('{"prefix": "/a", "prefix": "/b"}', "'prefix' is given twice"),
    ('{"poll_interval_s": NaN}', "NaN is not JSON"),
    ('{"backend": {"type": "../x"}}', "backend.type: '../x' cannot be the type of a backend"),
    ('{"backends": {"12.5": {}}}', "backends.12.5: not a backend's name"),
    ('{"backends": {"a": {"backend": {"queue": 1}}}}', "backends.a.backend.queue: unknown key"),
    ('{"backend": {}, "backends": {"a": {}}}', "give `backend` or `backends`, not both"),
    ('{"launcher": []}', "launcher: [] is not a list of words"),
    ("[" * 100000, "nested too deeply"),
]


class Documents(Case):
    def test_upstream_specs_are_taken(self) -> None:
        for text in UPSTREAM_SPECS:
            with self.subTest(text=text):
                spec = psik.load_spec(text, "spec.json")
                self.assertTrue(spec.script)
        spec = psik.load_spec(UPSTREAM_SPECS[2], "spec.json")
        merged = Config(prefix="/x").choose_backend(spec).with_defaults(spec)
        self.assertEqual(merged.backend.attributes, {"--constraint": "gpu"})

    def test_upstream_configs_are_taken(self) -> None:
        for text, name, prefix, kind in UPSTREAM_CONFIGS:
            with self.subTest(text=text):
                config = psik.load_config(self.write("c.json", text))
                backend = next(iter(psik.backends_of(config).values()))
                self.assertEqual((backend.name, backend.prefix, backend.kind), (name, prefix, kind))

    def test_bad_configs_are_one_clear_message(self) -> None:
        for text, said in BAD_CONFIGS:
            with self.subTest(text=text[:60]):
                self.write("psik.json", text)
                ran = self.psik("ls", status=2)
                self.assertIn(said, ran.err)
                self.assertTrue(ran.err.startswith("psik: %s" % self.env["PSIK_CONFIG"]), ran.err)
        ran = self.psik("--config", "nowhere.json", "ls", status=2)
        self.assertEqual(ran.err, "psik: nowhere.json: cannot be read: No such file or directory\n")

    def test_relative_paths_start_at_the_config(self) -> None:
        os.mkdir(os.path.join(self.folder, "etc"))
        path = self.write("etc/p.json", '{"prefix": "../tree", "templates": "mine"}')
        config = psik.load_config(path)
        self.assertEqual(config.prefix, os.path.join(self.folder, "tree"))
        self.assertEqual(config.templates, os.path.join(self.folder, "etc", "mine"))

    def test_which_backend_a_job_goes_to(self) -> None:
        config = psik.from_json(Config, {"prefix": "/x", "backends": {
            "big": {"type": "slurm"}, "here": {"type": "local"}}})
        rows: List[Tuple[Any, Any, Any]] = [  # the spec's backend, --backend, the answer
            ({}, None, "big"), ({"queue_name": "q"}, None, "big"),
            ({"type": "local", "queue_name": "q"}, None, "here"), ("big", None, "big"),
            ({"type": "slurm"}, None, "big"), ("here", "big", "big"), ("default", None, "big"),
            ("bigg", None, "did you mean 'big'?"), ({"type": "lsf"}, None, "name one of big, here")]
        for given, named, answer in rows:
            spec = psik.from_json(JobSpec, dict(SPEC, backend=given))
            try:
                self.assertEqual(config.choose_backend(spec, named).name, answer)
            except psik.InvalidError as err:
                self.assertIn(answer, str(err))

    def test_what_an_entry_says_itself_counts(self) -> None:
        config = psik.from_json(Config, {"prefix": "/x", "poll_interval_s": 60, "backends": {
            "a": {"type": "local", "poll_interval_s": 10}, "b": {"type": "local"}}})
        found = [config.of_backend(name).poll_interval_s for name in ("a", "b")]
        self.assertEqual(found, [10, 60])

    def test_config_command_shows_what_is_in_force(self) -> None:
        ran = self.psik("config")
        self.assertIn("($PSIK_CONFIG)", ran.out)
        self.assertRegex(ran.out, r"prefix +%s\n" % self.prefix)
        self.assertRegex(ran.out, r"poll_interval_s +10   \(default\)")
        shown = json.loads(self.psik("config", "--json").out)
        self.assertEqual(shown["backends"][0]["prefix"], self.prefix)


if __name__ == "__main__":
    unittest.main()
