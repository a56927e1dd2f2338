"""A server that is measured, and the clients that load it: wrk, and http.client."""
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from typing import Any, Dict, Iterator, NamedTuple, Optional, Sequence

from submitters import recorded, until

START_TIMEOUT_S, STOP_TIMEOUT_S, ANSWER_TIMEOUT_S = 60, 10, 180
MB = bytes(1 << 20)
BOUNDARY = "x-bench-boundary-x"
HEADERS = {"User-Agent": "bench", "Accept": "*/*"}  # psik_api fails without either

# wrk calls done() at the end; what it prints by itself is rounded.
WRK_REPORT = """done = function(summary, latency, requests)
    local failed = summary.errors.status + summary.errors.connect
        + summary.errors.read + summary.errors.write
    io.write(string.format('{"rate": %f, "p50_ms": %f, "p99_ms": %f, "failed": %d}\\n',
        summary.requests / summary.duration * 1e6, latency:percentile(50) / 1000,
        latency:percentile(99) / 1000, failed))
end
"""


class Load(NamedTuple):
    """What wrk measured: requests per second, and what half and 99 of 100 took at most."""
    rate: float
    p50_ms: float
    p99_ms: float


class Server:
    """A server that has answered once, after start_ms; it listens at `{port}` in argv."""

    def __init__(self, argv: Sequence[str], env: Dict[str, str], first_path: str, log: str) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        begun = time.perf_counter()
        with open(log, "ab") as file:
            self.child = subprocess.Popen([word.format(port=self.port) for word in argv], env=env,
                                          stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                                          start_new_session=True)
        try:
            self.await_answer(first_path, time.monotonic() + START_TIMEOUT_S)
        except BaseException:
            self.stop()
            raise
        self.start_ms = (time.perf_counter() - begun) * 1000

    def await_answer(self, path: str, deadline: float) -> None:
        """Wait for the first answer; RuntimeError where the server has gone."""
        while True:
            try:
                self.request("GET", path)
                return
            except ConnectionRefusedError:
                if self.child.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the server has not started") from None
                time.sleep(0.002)

    def connect(self) -> http.client.HTTPConnection:
        """A connection, kept alive while the server allows it."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_TIMEOUT_S)

    def request(self, method: str, path: str, body: Any = None,
                headers: Optional[Dict[str, str]] = None,
                connection: Optional[http.client.HTTPConnection] = None) -> bytes:
        """The body of an answer, which must be a success."""
        used = connection or self.connect()
        used.request(method, path, body, dict(HEADERS, **(headers or {})))
        answer = used.getresponse()
        said = answer.read()
        if used is not connection:
            used.close()
        if answer.status // 100 != 2:
            raise RuntimeError("%s %s: %d %s" % (method, path, answer.status,
                                                 said[:300].decode("utf-8", "replace")))
        return said

    def processes(self) -> Iterator[str]:
        """The folders in /proc of its processes."""
        for folder in ("/proc/" + name for name in os.listdir("/proc") if name.isdigit()):
            try:
                if os.getsid(int(folder[6:])) == self.child.pid:
                    yield folder
            except OSError:
                continue

    def memory(self, line: str = "VmRSS") -> float:
        """What its processes have in memory, MB; with VmHWM, at most since forget_peak()."""
        found = 0
        for folder in self.processes():
            with open(folder + "/status") as file:
                found += sum(int(text.split()[1]) for text in file if text.startswith(line + ":"))
        return found * 1024 / 1e6

    def forget_peak(self) -> None:
        """Let VmHWM begin anew."""
        for folder in self.processes():
            with open(folder + "/clear_refs", "w") as file:
                file.write("5")

    def stop(self) -> None:
        """End it, and what it left in its session."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.child.pid, number)
                self.child.wait(STOP_TIMEOUT_S)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                pass


def wrk(server: Server, path: str, connections: int, seconds: int, folder: str) -> Load:
    """Load a path from so many connections, kept alive."""
    script = os.path.join(folder, "report.lua")
    with open(script, "w") as file:
        file.write(WRK_REPORT)
    argv = ["wrk", "-t1", "-c%d" % connections, "-d%ds" % seconds, "--timeout", "10s", "-s", script]
    for header in HEADERS.items():
        argv += ["-H", "%s: %s" % header]
    said = subprocess.run(argv + ["http://127.0.0.1:%d%s" % (server.port, path)], check=True,
                          stdout=subprocess.PIPE).stdout
    found = json.loads(said.decode().strip().split("\n")[-1])
    if found.pop("failed"):
        raise RuntimeError("requests of %s failed: %s" % (path, said.decode()))
    return Load(**found)


def post_jobs(server: Server, folder: str, count: int) -> float:
    """Jobs accepted per second by the backend of a folder, from one client; waits for their end."""
    connection = server.connect()
    path, body = "/v1/jobs?backend=" + os.path.basename(folder), json.dumps({"script": "true"})
    begun = time.perf_counter()
    answers = [server.request("POST", path, body, {"Content-Type": "application/json"}, connection)
               for _ in range(count)]
    rate = count / (time.perf_counter() - begun)
    connection.close()
    jobs = [os.path.join(folder, json.loads(answer.decode())) for answer in answers]
    until(lambda: all(recorded(job) for job in jobs))
    return rate


def upload(server: Server, path: str, name: str, megabytes: int) -> float:
    """Seconds to send a file of so many MB, as a form does."""
    head = ('--%s\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n" % (BOUNDARY, name)).encode()
    tail = ("\r\n--%s--\r\n" % BOUNDARY).encode()
    begun = time.perf_counter()
    server.request("POST", path, iter([head] + [MB] * megabytes + [tail]),
                   {"Content-Type": "multipart/form-data; boundary=" + BOUNDARY,
                    "Content-Length": str(len(head) + len(MB) * megabytes + len(tail))})
    return time.perf_counter() - begun


def download(server: Server, path: str, megabytes: int) -> float:
    """Seconds to fetch a file, which must have so many MB."""
    buffer, size = bytearray(len(MB)), 0
    connection = server.connect()
    begun = time.perf_counter()
    connection.request("GET", path, headers=HEADERS)
    answer = connection.getresponse()
    for count in iter(lambda: answer.readinto(buffer), 0):
        size += count
    seconds = time.perf_counter() - begun
    connection.close()
    if answer.status != 200 or size != megabytes * len(MB):
        raise RuntimeError("GET %s: %d, %d bytes" % (path, answer.status, size))
    return seconds
