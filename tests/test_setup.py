"""Set-up lines: what a login bash does before the script, in both shells, and on a real Slurm."""
import json
import os
import shutil
import unittest
from typing import Any

import psik
from clusters import SLURM, OnSlurm
from harness import Case, needs, processes_with, rc_path

# What a site's login files do; `module` is one of the old ones, which exit with 0 all the same.
PROFILE = """
echo hello from the site
PATH=/site/bin:/usr/bin:/bin
COLOUR=site
cd /
module() {
	case $2 in
		gcc/12) export CC=gcc-12 PATH=/opt/gcc:$PATH ;;
		*) echo "ModuleCmd_Load.c(213):ERROR:105: Unable to locate a modulefile for '$2'" >&2 ;;
	esac
}
"""
# As `conda init` and an environment's activate.d do it: functions, a shell hook, variables unset.
CONDA = """
conda() {
	test "$1" = activate || return 1
	test -d "$CONDA_ROOT/envs/$2" || { echo "EnvironmentNameNotFound: $2" >&2; return 1; }
	eval "$(printf 'export CONDA_PREFIX=%s\nPS1="(%s) $PS1"\n' "$CONDA_ROOT/envs/$2" "$2")"
	export PATH="$CONDA_PREFIX/bin:$PATH"
	local hook
	for hook in "$CONDA_PREFIX"/etc/conda/activate.d/*.sh; do
		test -r "$hook" && . "$hook"
	done
	hash -r
}
"""
SHOW = """#!/bin/sh
echo "$CC $PATH $COLOUR"
pwd
echo "$0" $jobndx
printf '%s\\n' "$mpirun"
"""
NAP = "601.%07d" % os.getpid()


@needs("bash", shutil.which("bash"))
class Lines(Case):
    """On this host."""

    def setUp(self) -> None:
        super().setUp()
        self.write(".bash_profile", PROFILE)
        self.shells = [path for path in (rc_path(), "/bin/sh") if path]

    def end(self, status: int, script: str, *setup: str, **spec: Any) -> str:
        """Run a job to its end, in a shell or the other; its id."""
        ran = self.psik("run", "--wait", "-", status=status, stdin=json.dumps(
            dict(dict(script=script, setup=list(setup)), **spec)))
        return ran.out.split()[0]

    def reason(self, jobid: str) -> str:
        return str(json.loads(self.psik("status", "--json", jobid).out)[0]["reason"])

    def out(self, jobid: str) -> str:
        return str(self.psik("logs", jobid).out)

    def test_what_they_do_reaches_the_script(self) -> None:
        for shell in self.shells:
            self.configure(rc_path=shell, launcher=["my", "mpi run"])
            jobid = self.end(0, SHOW, "module load gcc/12", "export X='a\nb'; cd /tmp; cd -",
                             environment={"COLOUR": "mine", "a-b": "c"})
            job = self.job(jobid)
            self.assertEqual(self.out(jobid).replace(job.at("work") + "\n", "DIR\n"), (
                "hello from the site\nDIR\ngcc-12 /opt/gcc:/site/bin:/usr/bin:/bin mine\nDIR\n"
                "%s 1\nmy mpi run\n" % job.script("run")))

    @needs("root, for /etc/profile.d", os.getuid() == 0 and os.path.isdir("/etc/profile.d"))
    def test_functions_from_the_profile_of_the_system(self) -> None:
        path = "/etc/profile.d/psik-test-%d.sh" % os.getpid()
        self.addCleanup(os.unlink, path)
        with open(path, "w", encoding="utf-8") as file:     # nobody else's logins take it
            file.write('if test "$PSIK_TEST_PROFILE" = %d; then\n%s%s\nfi\n' % (
                os.getpid(), PROFILE.replace("echo hello from the site\n", ""), CONDA))
        self.write(".bash_profile", "# it has nothing\n")
        env = os.path.join(self.folder, "conda", "envs", "ocean")
        os.makedirs(os.path.join(env, "etc", "conda", "activate.d"))
        os.makedirs(os.path.join(env, "bin"))
        self.write("conda/envs/ocean/etc/conda/activate.d/proj.sh", "export PROJ_LIB=here\n")
        self.write("conda/envs/ocean/bin/tool", "#!/bin/sh\necho tool of $CONDA_PREFIX\n", 0o755)
        self.env.update(PSIK_TEST_PROFILE=str(os.getpid()), CONDA_ROOT=self.folder + "/conda")
        for shell in self.shells:
            self.configure(rc_path=shell)
            jobid = self.end(0, "tool; echo $CC $PROJ_LIB", "module load gcc/12",
                             "conda activate ocean")
            self.assertEqual(self.out(jobid), "tool of %s\ngcc-12 here\n" % env)
            for line in ("module load gcc/99", "conda activate sea"):
                jobid = self.end(1, "true", "true", line)
                self.assertEqual(self.reason(jobid), "set-up line 2 failed: " + line)

    def test_those_of_the_backend_come_first(self) -> None:
        self.configure(defaults={"setup": ["A=1"]})
        jobid = self.end(0, "echo $B", "export B=$A$A")
        self.assertIn("11\n", self.out(jobid))
        self.assertEqual(self.job(jobid).spec().setup, ["A=1", "export B=$A$A"])
        jobid = self.end(0, "echo $B", setup="export B=one text")
        self.assertIn("one\n", self.out(jobid))

    def test_a_line_that_fails(self) -> None:
        for shell in self.shells:
            self.configure(rc_path=shell)
            for lines, status, said in (
                    (["module load gcc/99"], 1, "set-up line 1 failed: module load gcc/99"),
                    (["true", "no-such-program x"], 127, "set-up line 2 failed: no-such-program x"),
                    (["( exit 7 )\ntrue; (exit 3)"], 3, "set-up line 1 failed: ( exit 7 )"),
                    (["if then"], 2, "set-up line 1 failed: if then"),
                    (["true", "exit 5", "true"], 1, "set-up line 2 ended the shell: exit 5"),
                    (["set -e", "false"], 1, "set-up line 2 ended the shell: false"),
                    (["source nowhere/activate"], 1,
                     "set-up line 1 failed: source nowhere/activate")):
                jobid = self.end(status, "touch ran", *lines)
                self.assertEqual(self.reason(jobid), said)
                self.assertEqual(os.listdir(self.job(jobid).at("work")), [])
            self.end(0, "true", "echo ERROR: none >&2", "module load gcc/12")

    def test_one_that_is_canceled(self) -> None:
        for first in "true", "trap : TERM":     # which leaves bash to see the end of sleep
            jobid = self.run_spec(script="true", setup=[first, "sleep " + NAP])
            self.until(lambda: processes_with("sleep " + NAP))
            self.psik("cancel", jobid)
            self.gone("sleep " + NAP)
            self.until_last(jobid, "1 canceled")
            self.assertFalse(os.path.exists(self.job(jobid).log("reason", 1)))

    def test_a_script_that_replaces_bash(self) -> None:
        jobid = self.end(0, "#!%s\nimport os\nprint(os.environ['A'])\n" % shutil.which("python3"),
                         "export A=7")
        self.assertIn("7\n", self.out(jobid))
        jobid = self.end(127, "#!/no/such/thing\n", "true")
        self.assertIn("not found", self.reason(jobid))

    def test_what_cannot_be_lines(self) -> None:
        for setup, said in (([1, {}], "setup: {} is not a text"), ({}, "is not a list of lines"),
                            (["a\0b"], "NUL")):
            with self.assertRaisesRegex(psik.InvalidError, said):
                psik.from_json(psik.JobSpec, {"script": "true", "setup": setup})


@needs("Slurm and bash", SLURM and shutil.which("bash"))
class OnACluster(OnSlurm, Lines):
    """The same, under Slurm."""
    slurm_nodes = 1
    slurm_settings = {"KillWait": 3}

    def configure(self, **settings: Any) -> str:
        return super().configure(**dict(dict(backend={"type": "slurm"}, poll_interval_s=1,
                                             poll_grace_s=5), **settings))

    def end(self, status: int, script: str, *setup: str, **spec: Any) -> str:
        return super().end(status, script, *setup,
                           **dict(dict(resources={"exclusive_node_use": False}), **spec))


if __name__ == "__main__":
    unittest.main()
