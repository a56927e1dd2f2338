#!/usr/bin/env python3
"""Make README's pictures of the page: a day of made-up jobs, a few real ones, and a browser.

    python3 tests/pictures.py FOLDER
"""
import json
import os
import sys
import time
import unittest
from typing import Any

from serving import Server
from test_page import Browsed

HOUR = 3600
# Name, hours ago, hours that it waited and ran, state, exit status, why.
PAST = (
    ("relax-038", 21, 1.2, 3.1, "completed", 0, ""),
    ("relax-039", 20, 1.9, 2.4, "completed", 0, ""),
    ("md-short", 17, 0.1, 0.6, "completed", 0, ""),
    ("relax-040", 14, 2.6, 4.2, "completed", 0, ""),
    ("build", 9, 0.01, 0.02, "failed", 127, "module: command not found"),
    ("relax-041", 8.5, 0.8, 2.9, "completed", 0, ""),
    ("md-long", 7, 0.5, 3.5, "failed", 137, "out of memory: asked 4G a process, used 4.0G"),
    ("bands", 5, 0.2, 1.1, "canceled", 143, ""), ("dos", 4, 0.4, 1.4, "completed", 0, ""))


class Pictures(Browsed):
    def runTest(self) -> None:
        self.configure(backends={"here": {"type": "local"}})
        for name, ago_h, waited_h, ran_h, state, status, why in PAST:
            made = "%.3f" % (time.time() - ago_h * HOUR)
            times = [float(made) + hours * HOUR for hours in (0, 0, waited_h, waited_h + ran_h)]
            rows = zip(times, (0, 1, 1, 1), ("new", "queued", "active", state), (0, 7, 7, status))
            os.makedirs(os.path.join(self.prefix, "here", made, "log"))
            for path, text in (
                    ("spec.json", json.dumps({"name": name, "script": "true"})),
                    ("status.csv", "".join("%.3f,%d,%s,%d\n" % row for row in rows)),
                    ("log/reason.1", why)):
                self.write(os.path.join("jobs", "here", made, path), text)
        array: Any = "1-60%8"
        self.run_spec(name="sweep-temperature", array=array, resources={"duration": 5},
                      script="#!/bin/sh\nsleep 2\ntest $task != 7\n")
        failed = self.run_spec("--wait", name="analyse", status=1, script=(
            "#!/bin/sh\necho reading data.csv\npython3 -c 'import pandas_of_mine'\n"))
        runs = self.run_spec(name="relax-042", resources={"duration": 30}, script=(
            "#!/bin/sh\ni=20400\nwhile sleep 0.1\ndo i=$((i + 10)); printf "
            "'step %d  E = -1423.%d  dE = 1.2e-5\\n' $i $((88000 + i))\ndone\n"))
        self.run_spec(name="report", after=[runs], script="true")
        time.sleep(8)
        server = Server(self, "--port", "0", "--quiet")
        self.walk("pictures", os.path.abspath(sys.argv[1]), runs, failed, url=server.where)
        for jobid in (runs, "sweep-temperature"):
            self.psik("cancel", jobid, status=None)


if __name__ == "__main__":
    sys.exit(not unittest.TextTestRunner().run(Pictures()).wasSuccessful())
