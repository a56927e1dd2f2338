"""A server that really runs, and a client that says exactly what it is told."""
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Union

from harness import FAST, Case


class Answer(NamedTuple):
    """What a server answered."""
    status: int
    headers: Dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body.decode())

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")


class UnixConnection(http.client.HTTPConnection):
    """http.client over a UNIX socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self.path)


class Server:
    """`psik.py serve` in a process of its own; it ends with stop()."""

    def __init__(self, case: Case, *argv: str, env: Optional[Dict[str, str]] = None,
                 program: Sequence[str] = FAST) -> None:
        self.log = os.path.join(case.folder, "server.log")
        self.context: Any = None  # of TLS
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(list(program) + ["serve"] + list(argv),
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=dict(case.env, **(env or {})), cwd=case.folder)
        case.addCleanup(self.stop)
        where = case.until(lambda: (self.process.poll() is not None
                                    or re.search(r"listening on (\S+)", self.said())),
                           "a server that listens")
        if where is True:
            case.fail("the server ended at once: " + self.said())
        self.where = where.group(1)
        self.port = int((re.findall(r":(\d+)/", self.where) or ["0"])[0])

    def said(self) -> str:
        """What it wrote to its log."""
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return file.read()

    def stop(self) -> int:
        """End it with SIGTERM; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def connection(self) -> http.client.HTTPConnection:
        """A connection to it."""
        if self.where.startswith("https"):
            return http.client.HTTPSConnection("localhost", self.port, timeout=60,
                                               context=self.context)
        if self.port:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        return UnixConnection(self.where)

    def ask(self, method: str, path: str,
            body: Union[None, bytes, str, Dict[str, Any], List[Any], Any] = None,
            connection: Optional[http.client.HTTPConnection] = None, **headers: str) -> Answer:
        """Send one request; a dict or list goes as JSON.  Headers as keywords, `_` for `-`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
            sent.setdefault("Content-Type", "application/json")
        use = connection or self.connection()
        try:
            use.request(method, path, body, sent)
            answer = use.getresponse()
            endless = answer.getheader("Content-Type") == "text/event-stream" and connection is None
            return Answer(answer.status,
                          {name.lower(): value for name, value in answer.getheaders()},
                          b"" if endless else answer.read())
        finally:
            if connection is None:
                use.close()

    def raw(self, data: bytes, half: bool = True) -> bytes:
        """Send bytes as they are, and no more; all that comes back until the server closes."""
        with socket.socket(socket.AF_INET if self.port else socket.AF_UNIX) as sock:
            sock.settimeout(30)
            sock.connect(("127.0.0.1", self.port) if self.port else self.where)
            try:
                sock.sendall(data)
                if half:
                    sock.shutdown(socket.SHUT_WR)
            except OSError:  # it has answered, and closed, already
                pass
            got = b""
            try:
                for block in iter(lambda: sock.recv(65536), b""):
                    got += block
            except ConnectionError:
                pass
            return got

    def rss_mb(self) -> float:
        """Its resident memory."""
        with open("/proc/%d/status" % self.process.pid) as file:
            return int(re.findall(r"VmRSS:\s+(\d+)", file.read())[0]) / 1024

    def handles(self) -> int:
        """Its threads and descriptors."""
        return sum(len(os.listdir("/proc/%d/%s" % (self.process.pid, kind)))
                   for kind in ("task", "fd"))

    def wait_for(self, jobid: str, *states: str) -> str:
        """Wait until a job is in one of these states."""
        deadline = time.time() + 60
        while True:
            state = str(self.ask("GET", "/v1/jobs/%s/state" % jobid).json)
            if state in (states or ("completed", "failed", "canceled")):
                return state
            if time.time() > deadline:
                raise AssertionError("job %s is still %s" % (jobid, state))
            time.sleep(0.05)


SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin")


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def tunnels(case: Case, target: str, users: Sequence[str] = ("",)) -> List[int]:
    """Ports from which `ssh -L` of each of these users ('' is ourselves) leads to a UNIX socket."""
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "",
                        "-f", os.path.join(case.folder, name)], check=True)
    os.chmod(os.path.join(case.folder, "user.pub"), 0o644)
    os.makedirs("/run/sshd", exist_ok=True)
    door = free_port()
    config = case.write("sshd_config", (
        "Port %d\nListenAddress 127.0.0.1\nHostKey %s/host\nAuthorizedKeysFile %s/user.pub\n"
        "UsePAM no\nStrictModes no\nPermitRootLogin yes\nPidFile none\n"
    ) % (door, case.folder, case.folder))
    ports = [free_port() for _ in users]
    start(case, [SSHD or "", "-D", "-f", config], door)
    for user, port in zip(users, ports):
        start(case, ["ssh", "-N", "-L", "127.0.0.1:%d:%s" % (port, target), "-p", str(door),
                     "-i", case.folder + "/user", "-F", "none", "-o", "StrictHostKeyChecking=no",
                     "-o", "UserKnownHostsFile=/dev/null",
                     user + "@" * bool(user) + "127.0.0.1"], port)
    return ports


def start(case: Case, argv: List[str], port: int) -> None:
    """Start a program that listens on a port, until the test ends."""
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    case.addCleanup(child.wait)
    case.addCleanup(child.kill)
    case.until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, argv[0])
