"""Two real users of this machine, for what strangers try."""
import os
import shutil
import subprocess
from typing import Any, List

from harness import PSIK, Case, Ran
from serving import Server

SYSTEM_PYTHON = "/usr/bin/python3"
CAN_MAKE_USERS = os.getuid() == 0 and shutil.which("useradd") and os.path.exists(SYSTEM_PYTHON)


class TwoUsers(Case):
    """Ada, whose files and servers are tried, and eve."""

    def setUp(self) -> None:
        super().setUp()
        os.chmod(self.folder, 0o755)
        self.names = ["psik%d%s" % (os.getpid() % 10000, end) for end in "ab"]
        for name in self.names:
            home = os.path.join(self.folder, name)
            subprocess.run(["useradd", "-m", "-d", home, "-s", "/bin/sh", name], check=True)
            self.addCleanup(subprocess.run, ["userdel", name], stderr=subprocess.DEVNULL)
            os.chmod(home, 0o755)
        self.ada, self.eve = self.names
        self.program = shutil.copy(PSIK, self.folder)

    def as_user(self, name: str) -> List[str]:
        """The words before a command that a user runs."""
        return ["setpriv", "--reuid", name, "--regid", name, "--clear-groups", "env",
                "HOME=" + os.path.join(self.folder, name)]

    def home(self, name: str, *parts: str) -> str:
        """A path in a user's home."""
        return os.path.join(self.folder, name, *parts)

    def sh(self, name: str, command: str) -> str:
        """What a user's shell command prints; it must succeed."""
        done = subprocess.run(self.as_user(name) + ["sh", "-ec", command], stdout=subprocess.PIPE,
                              cwd=self.home(name), env=self.env)
        self.assertEqual(done.returncode, 0, command)
        return done.stdout.decode()

    def of(self, name: str, *argv: str, **options: Any) -> Ran:
        """A command line of a user, who has no config but ~/.config/psik.json."""
        self.env.pop("PSIK_CONFIG", None)
        return self.psik(*argv,
                         program=self.as_user(name) + [SYSTEM_PYTHON, self.program], **options)

    def curl(self, name: str, *argv: str) -> str:
        """The status that a user's curl gets; 000 where it cannot connect."""
        done = subprocess.run(self.as_user(name) + ["curl", "-s", "-m", "20", "-o", "/dev/null",
                                                    "-w", "%{http_code}"] + list(argv),
                              stdout=subprocess.PIPE)
        return done.stdout.decode()

    def serve(self, *argv: str) -> Server:
        """A server of ada's."""
        self.env.pop("PSIK_CONFIG", None)
        return Server(self, *argv, program=self.as_user(self.ada) + [SYSTEM_PYTHON, self.program])
