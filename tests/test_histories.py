"""A few of the random lives and of the faults that `make faults` tries by the hundred."""
import os
import subprocess
import sys
import unittest

from harness import DEPS, ROOT, needs

HYPOTHESIS = os.path.join(DEPS, "openapi/bin/python")


class AFew(unittest.TestCase):
    def said(self, *argv: str) -> str:
        """What a program of tests/ prints; it must not fail."""
        done = subprocess.run(argv, cwd=os.path.join(ROOT, "tests"), stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)
        said = done.stdout.decode("utf-8", "replace")
        self.assertEqual(done.returncode, 0, said)
        return said

    @needs("hypothesis", os.path.exists(HYPOTHESIS))
    def test_random_lives(self) -> None:
        self.assertRegex(self.said(HYPOTHESIS, "histories.py", "100"), r"Ran 3 tests .*\s+OK\n$")

    def test_faults_of_the_client_and_of_the_server(self) -> None:
        said = self.said(sys.executable, "faults.py", "--times", "1", "--backends", "local",
                         "--shells", "sh", "--faults", "client,server,supervisor is stopped")
        self.assertRegex(said, r"10 trials in 10 cells, seed \d+; 0 cells broken")


if __name__ == "__main__":
    unittest.main()
