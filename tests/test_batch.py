"""Batch scripts as people have them: their directives become fields, or are named."""
import os
import unittest
from typing import Any, Dict

import psik
from clusters import SLURM, OnSlurm
from harness import Case, needs

# Scripts for sbatch, in different styles.
SCRIPTS = {
    "plain": "#!/bin/bash\n#SBATCH --time=30\n#SBATCH --ntasks=2\n\nsrun hostname\n",
    "short": "#!/bin/sh\n#SBATCH -N 2 -n 4\n#SBATCH -t 1:30:00\n#SBATCH -J short -p main\ntrue\n",
    "attached": "#!/bin/bash -l\n#SBATCH -N2\n#SBATCH -c3\n#SBATCH -t1-12\ntrue\n",
    "per node": "#!/bin/bash\n#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=2\n#SBATCH --mem=300M\n"
                "#SBATCH --time 00:20:30\ntrue\n",
    "memory": "#!/bin/bash\n#SBATCH --mem-per-cpu=100\n#SBATCH --cpus-per-task 2\ntrue\n",
    "one node": "#!/bin/bash\n#SBATCH -N 1\n#SBATCH -n 4\n#SBATCH --mem 1G\n#SBATCH -t 2-0:0:0\n",
    "gpus": "#!/bin/bash\n#SBATCH --ntasks=1\n#SBATCH --gpus-per-task=1\n#SBATCH -t 5\ntrue\n",
    "exclusive": "#!/bin/bash\n#SBATCH --exclusive\n#SBATCH --time=01:00\ntrue\n",
    "comments": "#!/bin/bash\n# a job of mine\n#SBATCH --time=15   # minutes\n##SBATCH --time=99\n"
                "# SBATCH -N 7\n\n#SBATCH --comment=\"two words\"\necho\n#SBATCH --nodes=4\n",
    "quotes": "#!/bin/bash\n#SBATCH --job-name='a name of two'\n#SBATCH --time=\"10\"\ntrue\n",
    "others": "#!/bin/bash\n#SBATCH --nice=7 --begin=now+2hours\n#SBATCH --licenses=\n"
              "#SBATCH --mail-type=NONE\n#SBATCH --signal=B:USR1@60\n#SBATCH --requeue\n"
              "#SBATCH -t 7\ntrue\n".replace("#SBATCH --licenses=\n", ""),
    "ranges": "#!/bin/bash\n#SBATCH --nodes=1-2 -n 2\n#SBATCH --mem=0\n#SBATCH --gres=gpu:1\n"
              "#SBATCH -t 0:90\ntrue\n",
}
SHOWN = ("TimeLimit", "NumNodes", "NumTasks", "CPUs/Task", "MinMemoryNode", "MinMemoryCPU",
         "Partition", "Account", "OverSubscribe", "Requeue", "TresPerTask", "TresPerNode",
         "NtasksPerN:B:S:C", "Features")
LSF = """#!/bin/sh
#BSUB -J "a job" -q normal
#BSUB -W 2:30
#BSUB -n 4
#BSUB -M 2GB
#BSUB -o out.%J -e err.%J
#BSUB -app big
true
#BSUB -P money
"""
PBS = """#!/bin/bash
#PBS -N name
#PBS -l select=2:ncpus=4,walltime=01:30:30
#PBS -l place=scatter
#PBS -q workq
#PBS -A money
true
"""
SGE = """#!/bin/bash
#$ -N name -cwd
#$ -l h_rt=0:10:0 -l h_vmem=2G
#$ -pe smp 4
true
"""


class Read(Case):
    """What becomes of directives."""

    def spec(self, text: str, kind: str) -> Dict[str, Any]:
        return psik.to_json(psik.load_spec(text, "job.sh", kind=kind))

    def test_a_size_without_a_unit_has_the_schedulers_own(self) -> None:
        for line, kind, attributes in (("#BSUB -M 4000000", "lsf", {"-M": "4000000"}),
                                       ("#$ -l h_vmem=4294967296", "sge",
                                        {"-l": "h_vmem=4294967296"})):
            spec = self.spec("#!/bin/sh\n%s\ntrue\n" % line, kind)
            self.assertIsNone(spec["resources"]["memory_per_process"])
            self.assertEqual(spec["attributes"], attributes)

    def test_of_lsf(self) -> None:
        spec = self.spec(LSF, "lsf")
        needs = spec["resources"]
        self.assertEqual((needs["duration"], needs["process_count"], needs["memory_per_process"],
                          needs["exclusive_node_use"]), (150, 4, 2048, False))
        self.assertEqual((spec["name"], spec["backend"]["queue_name"],
                          spec["backend"]["project_name"]), ("a job", "normal", "money"))
        self.assertEqual(spec["attributes"], {"-app": "big"})

    def test_of_pbs_and_sge(self) -> None:
        spec = self.spec(PBS, "pbs")
        self.assertEqual((spec["name"], spec["resources"]["duration"],
                          spec["backend"]["queue_name"], spec["attributes"]),
                         ("name", 91, "workq", {"-l": "select=2:ncpus=4,place=scatter"}))
        spec = self.spec(SGE, "sge")
        needs = spec["resources"]
        self.assertEqual((needs["duration"], needs["memory_per_process"], spec["attributes"]),
                         (10, 2048, {"-pe": "smp 4"}))

    def test_output_that_is_joined(self) -> None:
        for prefix, kind, value, joins in (
                ("#$", "sge", "y", True), ("#$", "sge", "n", False), ("#PBS", "pbs", "oe", True),
                ("#PBS", "pbs", "n", False)):
            spec = self.spec("#!/bin/sh\n%s -j %s\ntrue\n" % (prefix, value), kind)
            self.assertIs(spec["join_output"], joins, (kind, value))

    def test_an_array_of_no_task(self) -> None:
        for tasks in ("5-1", "1,1", "1-200000"):
            with self.subTest(tasks), self.assertRaisesRegex(psik.InvalidError, "#BSUB -J x"):
                self.spec("#!/bin/sh\n#BSUB -J x[%s]\ntrue\n" % tasks, "lsf")

    def test_an_empty_item_of_a_list_is_none(self) -> None:
        spec = self.spec("#!/bin/sh\n#$ -l a=1,\n#$ -l b=2\ntrue\n", "sge")
        self.assertEqual(spec["attributes"], {"-l": "a=1,b=2"})

    def test_several_requirements_of_lsf(self) -> None:
        spec = self.spec("#!/bin/sh\n#BSUB -R select[x]\n#BSUB -R rusage[y=1]\ntrue\n", "lsf")
        self.assertEqual(spec["attributes"], {"-R": "select[x] rusage[y=1]"})

    def test_a_job_that_may_run_again(self) -> None:
        for line, kind, requeue in (("#$ -r y", "sge", True), ("#$ -r n", "sge", False),
                                    ("#$ -r oe", "sge", False),
                                    ("#BSUB -r", "lsf", True),
                                    ("#SBATCH --requeue", "slurm", True)):
            spec = self.spec("#!/bin/sh\n%s\ntrue\n" % line, kind)
            self.assertIs(spec["requeue"], requeue, line)
            self.assertEqual(spec["attributes"], {} if requeue else {"-r": line.split()[-1]}, line)

    def test_what_is_left_out_is_named(self) -> None:
        self.write("job.sh", "#!/bin/sh\n#SBATCH -o out\n#SBATCH -C cpu --qos=high\n"
                             "#SBATCH --nodes=1\necho moo\n")
        ran = self.psik("run", "--wait", "job.sh")
        for said in ("job.sh: not taken over: -o (for slurm; the job goes to local); -C (for slurm",
                     "--qos (for slurm", "job.sh: no directive asks for a walltime"):
            self.assertIn(said, ran.err)
        self.assertEqual(self.psik("logs", "last").out, "moo\n")
        self.configure(backend={"type": "slurm"})
        ran = self.psik("run", "--no-submit", "job.sh")
        self.assertIn("job.sh: not taken over: -o (output goes to the job's log/", ran.err)
        self.assertNotIn("-C", ran.err)
        spec = self.job(ran.out.strip()).spec()
        self.assertEqual(spec.backend.attributes, {"-C": "cpu", "--qos": "high"})
        self.write("job.sh", "#!/bin/sh\n#SBATCH --array=x\n")
        self.assertIn("`run --array`", self.psik("run", "job.sh", status=2).err)

    def test_the_backend_of_set_is_the_one_that_it_goes_to(self) -> None:
        self.configure(backends={"here": {"backend": {"type": "local"}},
                                 "there": {"backend": {"type": "slurm"}}})
        self.write("job.sh", "#!/bin/sh\n#SBATCH -C cpu --time=5\necho moo\n")
        for option in ("backend=there", "backend.type=slurm"):
            ran = self.psik("run", "--no-submit", "--set", option, "job.sh")
            self.assertEqual(self.job(ran.out.strip()).spec().backend.attributes, {"-C": "cpu"})
            self.assertNotIn("not taken over", ran.err)

    def test_a_script_without_directives(self) -> None:
        self.assertEqual(psik.load_spec("#!/bin/sh\ntrue\n", "a.sh").resources,
                         psik.ResourceSpec())
        self.write("bare", "export A=moo\necho $A\n")
        self.assertEqual(self.psik("run", "--wait", "bare").err, "")
        self.assertEqual(self.psik("logs", "last").out, "moo\n")
        self.psik("run", "-", stdin="export A=moo\n", status=2)
        self.write("bare.json", "hello\n")
        self.assertIn("not JSON", self.psik("run", "bare.json", status=2).err)

    def test_a_directive_that_cannot_be_read(self) -> None:
        self.write("job.sh", "#!/bin/sh\n#SBATCH --job-name='open\n")
        said = self.psik("run", "job.sh", status=2).err
        self.assertIn("#SBATCH --job-name='open: no closing quotation", said)

    def test_walltimes(self) -> None:
        for text, units, wanted in (
                ("5", "slurm", 5), ("5:01", "slurm", 6), ("1:00:00", "slurm", 60),
                ("1-0", "slurm", 1440), ("1-2:30", "slurm", 1590), ("1-0:0:1", "slurm", 1441),
                ("90", "m", 90), ("1:30", "m", 90), ("90", "s", 2), ("1:30", "s", 2),
                ("01:30:00", "s", 90)):
            self.assertEqual(psik.minutes(text, units), wanted, text)
        for text, units in (("x", "s"), ("1-0", "s"), ("1:2:3:4", "slurm"), ("", "m")):
            self.assertRaises(ValueError, psik.minutes, text, units)


@needs("Slurm", SLURM)
class Compared(OnSlurm, Case):
    """Twelve scripts, submitted by sbatch and by psik.py, as Slurm shows them."""
    slurm_settings = {"MinJobAge": 60}

    def shown(self, native: str) -> Dict[str, str]:
        said = self.slurm.run("scontrol", "-o", "show", "job", native).stdout
        pairs = (word.partition("=") for word in said.split(" ") if "=" in word)
        return {name: value for name, _, value in pairs if name in SHOWN}

    def test_they_are_the_same(self) -> None:
        self.configure(backend={"type": "slurm"})
        for name, text in SCRIPTS.items():
            with self.subTest(script=name):
                path = self.write("job", text)
                by_sbatch = self.slurm.run("sbatch", "--parsable", "-H", "-o", "/dev/null", path)
                self.assertEqual(by_sbatch.returncode, 0, by_sbatch.stderr)
                ran = self.psik("run", "--set", "attributes.--hold=", path)
                job = self.job(ran.out.strip())
                ours = self.shown(str(job.rows()[-1].info))
                theirs = self.shown(by_sbatch.stdout.strip())
                if "walltime" in ran.err:   # Slurm's default is the partition's
                    self.assertEqual(ours.pop("TimeLimit"), "00:10:00")
                    theirs.pop("TimeLimit")
                for shown in (ours, theirs):
                    self.make_comparable(shown, text)
                self.assertEqual(ours, theirs)
                self.slurm.run("scancel", "-u", str(os.getuid()))

    @staticmethod
    def make_comparable(shown: Dict[str, str], text: str) -> None:
        """Leave out what psik.py says otherwise by intent; all memory is that of the job."""
        if "--requeue" not in text:     # it has to be allowed
            shown.pop("Requeue")
        nodes = int(shown["NumNodes"].split("-")[0])
        if "-N" not in text and "--nodes" not in text:  # a guess, of a job that waits
            shown.pop("NumNodes")
        sizes = {name: float(shown.pop(name, "0")[:-1] or 0) * (1024 if unit == "G" else 1)
                 for name in ("MinMemoryNode", "MinMemoryCPU")
                 for unit in [shown.get(name, "M")[-1]]}
        cores = int(shown["NumTasks"]) * int(shown["CPUs/Task"])
        shown["memory"] = str(sizes["MinMemoryNode"] * nodes + sizes["MinMemoryCPU"] * cores)


if __name__ == "__main__":
    unittest.main()
