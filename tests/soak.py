#!/usr/bin/env python3
"""Put a mixed load on a server for a while, and see that its own users do not notice.

    python3 tests/soak.py [--minutes M | --seconds S] [--tls | --local]

A `psik.py serve` really runs, in a folder of its own.  Honest clients, slow ones, vanishing ones
and hostile ones use it all at once; KINDS is the list of them.  Twice in a second a process that
does nothing else asks for /v1/health, by name, on a fresh connection and on a kept one, and looks
at the memory, the threads and the descriptors of the server.  A bare echo beside it, over the same
transport, and a file that is made and removed, show what the machine itself takes.  At the end come
tables, then a line for each bound that was exceeded, and status 1 where there is one.

With --tls, the default, users are known by their tokens.  With --local the server is its own
user's, at a loopback port.  Run by root, the hostile clients are `nobody`'s.
"""
import argparse
import collections
import contextlib
import encodings.idna  # who has become nobody may not be able to read it any more
import http.client
import json
import multiprocessing
import os
import pwd
import random
import resource
import select
import signal
import socket
import ssl
import statistics
import struct
import sys
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from harness import Case
from serving import Answer, Server
from test_access import make_certificates

STEP_S = 0.5            # from one measurement to the next
HEALTH_TIMEOUT_S = 10
HONEST_TIMEOUT_S = 30   # for an answer
GRACE_S = 60            # after the load: for the last reports, and for the server to be idle again
LARGE = 2000000         # bytes, of the file that is downloaded slowly
SMALL = 200000          # bytes, at most, of the files that are put
STREAMS = 500           # that one caller would like to have
CROWD = 300             # connections that come at once
HONEST_FAILURES = 0.005
SPARE_HANDLES = 5       # threads or descriptors more than before the load are nothing yet
LATE_MS = 40            # a look that took so long is told with its time
WINDOW_S = 25           # of which a middle is taken: about as long as one crowd and the next
TIMED = ("echo", "a file", "health, fresh", "health, kept")     # the first two are the machine's
ROLES = ("honest", "vanishing", "hostile")
Body = Union[None, str, bytes]
Counts = Dict[Tuple[str, str], int]     # {(kind, result): how many}
Context = multiprocessing.get_context("fork")


class Over(Exception):
    """The time is up."""


class Refused(Exception):
    """A status above 399 for an honest client; the seconds after which it may come again."""

    def __init__(self, status: int, seconds: float) -> None:
        super().__init__(status)
        self.seconds = seconds


class Plan(NamedTuple):
    """What every process of the load knows."""
    port: int
    folder: str                         # of all of it
    echo: Any                           # the listening socket of the echo
    pid: int                            # of the server
    tls: Optional[ssl.SSLContext]
    echo_tls: Optional[ssl.SSLContext]
    tokens: Dict[str, str]              # {user: token}
    jobs: Dict[str, str]                # {user: a job of his, with the file `large`}
    until: float                        # on the monotonic clock
    uid: Optional[int]                  # for those without credentials; None: ours


class Usage(NamedTuple):
    """What a server holds."""
    rss_mb: float
    threads: float
    descriptors: float


# Connections.

def dial(plan: Plan, timeout: float = 10, shake: bool = True, narrow: bool = False) -> Any:
    """A connection to the server, TLS and all; narrow: one that can hold little unread."""
    sock = socket.socket()
    try:
        if narrow:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        return connected(plan, sock, plan.port, timeout, shake)
    except BaseException:
        sock.close()
        raise


def connected(plan: Plan, sock: Any, port: int, timeout: float, shake: bool = True) -> Any:
    """This socket, connected to a port of ours."""
    sock.settimeout(timeout)
    sock.connect(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if shake and plan.tls:
        return plan.tls.wrap_socket(sock, server_hostname="localhost")
    return sock


def head(plan: Plan, user: str, method: str, path: str, *lines: str) -> bytes:
    """The head of a request, in the name of a user, or of nobody."""
    token = plan.tokens.get(user)
    shown = ["Authorization: Bearer " + token] if token else []
    words = ["%s %s HTTP/1.1" % (method, path), "Host: localhost"] + shown + list(lines)
    return "\r\n".join(words + ["", ""]).encode()


def heard(sock: Any, timeout: float = 0) -> str:
    """What a connection says: a status, `more`, `closed`, an error's name; "" for nothing."""
    sock.settimeout(timeout)
    try:
        data = sock.recv(65536)
    except (BlockingIOError, ssl.SSLWantReadError, socket.timeout):
        return ""
    except OSError as err:
        return type(err).__name__
    if not data:
        return "closed"
    return str(data[9:12], "latin-1") if data.startswith(b"HTTP/1.1 ") else "more"


def vanish(sock: Any) -> None:
    """Close a connection without a word: as a process does that ends, or by a reset."""
    if random.random() < 0.5:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Caller(http.client.HTTPConnection):
    """Who asks on a connection that is kept, and made anew where the server has closed it."""

    def __init__(self, plan: Plan, user: str, timeout: float = HONEST_TIMEOUT_S) -> None:
        super().__init__("127.0.0.1", plan.port, timeout=timeout)
        self.plan, self.patience, self.reopened = plan, timeout, 0
        token = plan.tokens.get(user)
        self.shown = {"Authorization": "Bearer " + token} if token else {}

    def connect(self) -> None:
        self.sock = dial(self.plan, self.patience)

    def ask_once(self, method: str, path: str, body: Body = None) -> Answer:
        """Send one request; a text goes as JSON."""
        kind = {"Content-Type": "application/json"} if isinstance(body, str) else {}
        try:
            self.request(method, path, body, dict(self.shown, **kind))
            answer = self.getresponse()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, headers, answer.read())
        except BaseException:
            self.close()
            raise

    def ask(self, method: str, path: str, body: Body = None) -> Answer:
        """The same, once more where a kept connection turns out to have been closed."""
        kept = self.sock is not None
        try:
            return self.ask_once(method, path, body)
        except (ConnectionError, ssl.SSLError):
            if not kept or method == "POST":
                raise
        self.reopened += 1
        return self.ask_once(method, path, body)


# Clients: each is a thread, which does what its kind does, round after round.

class Tally:
    """What came of the clients' requests."""

    def __init__(self) -> None:
        self.lock, self.counts = threading.Lock(), collections.Counter()  # type: Any, Any

    def add(self, kind: str, result: str) -> None:
        """Count one."""
        with self.lock:
            self.counts[kind, result] += 1

    def all(self) -> Counts:
        """All of them so far."""
        with self.lock:
            return dict(self.counts)


class Kind(NamedTuple):
    """One row of KINDS."""
    role: str           # its process
    name: str
    act: Callable[[Any], None]
    threads: int
    pause_s: float      # between two rounds
    user: str = ""
    tls: bool = False   # makes sense over TLS only


class Client:
    """One thread of a kind."""

    def __init__(self, plan: Plan, kind: Kind, number: int, tally: Tally) -> None:
        self.plan, self.kind, self.number, self.tally = plan, kind, number, tally
        self.caller = Caller(plan, kind.user)
        self.job = "/v1/jobs/" + plan.jobs.get(kind.user, plan.jobs["ada"])
        self.held = []  # type: List[Any]

    def pause(self, seconds: float) -> None:
        """Wait; Over where the time is up."""
        left = self.plan.until - time.monotonic()
        if left <= 0:
            raise Over
        time.sleep(min(seconds, left))

    def note(self, result: object) -> None:
        """Count what came of a request."""
        self.tally.add(self.kind.name, str(result))

    def ask(self, method: str, path: str, body: Body = None) -> Answer:
        """Ask as an honest client does; Refused where that is not granted."""
        answer = self.caller.ask(method, path, body)
        self.note(answer.status)
        if answer.status >= 400:
            raise Refused(answer.status, float(answer.headers.get("retry-after", "1")))
        return answer

    def head(self, method: str, path: str, *lines: str) -> bytes:
        """The head of a request in one's own name."""
        return head(self.plan, self.kind.user, method, path, *lines)

    def dial(self, data: bytes = b"", shake: bool = True, narrow: bool = False) -> Any:
        """A new connection, on which this has been said already."""
        sock = dial(self.plan, shake=shake, narrow=narrow)
        with contextlib.suppress(OSError):  # it was answered, and closed, before all was said
            sock.sendall(data)
        return sock

    @contextlib.contextmanager
    def crowd(self, number: int, *args: Any, **options: Any) -> Iterator[List[Any]]:
        """So many connections, or those of them that can be had."""
        with contextlib.ExitStack() as stack:
            socks = []
            for _ in range(number):
                self.pause(0)
                try:
                    socks.append(stack.enter_context(self.dial(*args, **options)))
                except OSError as err:
                    self.note(type(err).__name__)
            yield socks

    def hold(self, socks: Sequence[Any], seconds: float) -> None:
        """Keep connections for a while; how each of them is then."""
        self.pause(seconds)
        for sock in socks:
            self.note(heard(sock) or "held")

    def say(self, data: bytes, timeout: float = 10) -> None:
        """Say this on a new connection, and hear the answer."""
        with self.dial(data) as sock:
            self.note(heard(sock, timeout) or "silence")

    def drip(self, socks: Sequence[Any], text: bytes, step_s: float) -> None:
        """Send a text byte by byte on each of these connections, until all are answered."""
        for at in range(len(text)):
            socks = [sock for sock in socks if self.poke(sock, text[at:at + 1])]
            if not socks:
                return
            self.pause(step_s)
        self.hold(socks, step_s)

    def poke(self, sock: Any, byte: bytes) -> bool:
        """Send a byte, unless an answer has come; whether that could be done."""
        said = heard(sock)
        try:
            if not said:
                sock.sendall(byte)
        except OSError as err:
            said = type(err).__name__
        if said:
            self.note(said)
        return not said

    def round(self) -> None:
        """Do once what the kind does."""
        try:
            self.kind.act(self)
        except Refused as err:
            self.pause(err.seconds)
        except (OSError, http.client.HTTPException, ValueError) as err:
            self.note(type(err).__name__)

    def run(self) -> None:
        """Round after round, until the time is up."""
        with contextlib.suppress(Over):
            while True:
                self.round()
                self.pause(self.kind.pause_s)


# Honest ones.

def submits(client: Client) -> None:
    """Submits a job, follows it to its end, and looks at what is left."""
    client.caller.close()  # a kept connection may end as one asks, and this is not asked twice
    jobid = client.ask("POST", "/v1/jobs", json.dumps({"script": "true", "name": "soak"})).json
    for part in ("/events", "/state", "/logs", "/spec"):
        client.ask("GET", "/v1/jobs/%s%s" % (jobid, part))


def looks(client: Client) -> None:
    """Lists the jobs, and reads one of them."""
    jobs = client.ask("GET", "/v1/jobs?limit=20").json
    path = "/v1/jobs/" + str(random.choice(jobs)["jobid"])
    for each in (path, path + "/state", path + "/logs", "/v1/backends", "/v1/metrics"):
        client.pause(0.1)
        client.ask("GET", each)


def moves_files(client: Client) -> None:
    """Puts a file, gets it back, lists the files and takes the archive of them."""
    path, data = "%s/files/f%d" % (client.job, client.number), os.urandom(random.randint(1, SMALL))
    client.ask("PUT", path, data)
    if client.ask("GET", path).body != data:
        client.note("garbled")
    client.ask("GET", client.job + "/files")
    client.ask("GET", client.job + "/archive")


def uploads_slowly(client: Client) -> None:
    """Puts a file in twenty pieces, with a pause before each."""
    path = "%s/files/slow%d" % (client.job, client.number)
    with client.dial(client.head("PUT", path, "Content-Length: %d" % SMALL)) as sock:
        for _ in range(20):
            client.pause(0.3)
            sock.sendall(bytes(SMALL // 20))
        client.note(heard(sock, HONEST_TIMEOUT_S) or "silence")


def downloads_slowly(client: Client) -> None:
    """Gets a large file with small gulps."""
    ask = client.head("GET", client.job + "/files/large", "Connection: close")
    with client.dial(ask, narrow=True) as sock:
        sock.settimeout(HONEST_TIMEOUT_S)
        first = sock.recv(65536)
        got = len(first.partition(b"\r\n\r\n")[2])
        for block in iter(lambda: sock.recv(32768), b""):
            got += len(block)
            client.pause(0.1 * len(block) / 32768)
    client.note(first[9:12].decode() if got == LARGE else "cut")


# Vanishing ones.

def leaves_streams(client: Client) -> None:
    """Follows events for a moment, in five streams, and is gone."""
    for number in range(5):
        path = client.job + "/events" if number % 2 else "/v1/events"
        client.held.append(client.dial(client.head("GET", path)))
    client.pause(random.random() * 3)
    while client.held:
        sock = client.held.pop()
        client.note(heard(sock) or "silence")
        vanish(sock)


def leaves_uploads(client: Client) -> None:
    """Hangs up in the middle of a body, sent by its length or in chunks."""
    size = random.choice(("Content-Length: %d" % SMALL, "Transfer-Encoding: chunked"))
    sock = client.dial(client.head("PUT", client.job + "/files/never", size))
    sock.sendall(b"%x\r\n" % SMALL + bytes(random.randint(1, SMALL // 2)))
    client.pause(random.random() / 2)
    client.note("left")
    vanish(sock)


def leaves_answers(client: Client) -> None:
    """Hangs up in the middle of an answer."""
    path = client.job + random.choice(("/files/large", "/archive"))
    sock = client.dial(client.head("GET", path), narrow=True)
    client.note(heard(sock, 10) or "silence")
    vanish(sock)


# Hostile ones, whom nobody knows.

def says_nothing(client: Client) -> None:
    """Connects, and sends nothing."""
    with client.crowd(20) as socks:
        client.hold(socks, 25)


def comes_in_crowds(client: Client) -> None:
    """Opens hundreds of connections at once, and holds them."""
    with client.crowd(CROWD, shake=False) as socks:
        client.hold(socks, 15)


def hello(context: Any) -> bytes:
    """How a client begins TLS."""
    outgoing = ssl.MemoryBIO()
    begun = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        begun.do_handshake()
    return outgoing.read()


def stops_in_handshake(client: Client) -> None:
    """Begins the handshake of TLS, in part or in whole, and goes no further."""
    data = hello(client.plan.tls)
    with client.crowd(20, data[:random.choice((100, len(data)))], shake=False) as socks:
        client.hold(socks, 15)


def drips_head(client: Client) -> None:
    """Sends the heads of ten requests byte by byte."""
    with client.crowd(10) as socks:
        client.drip(socks, client.head("GET", "/v1/jobs", "X: " + "y" * 100), 0.5)


def drips_body(client: Client) -> None:
    """Sends the bodies of ten requests byte by byte, to one of three routes."""
    method, path = (("POST", "/v1/jobs"), ("POST", "/v1/jobs/callback"),
                    ("PUT", client.job + "/files/drip"))[client.number % 3]
    data = client.head(method, path, "Content-Type: application/json", "Content-Length: 1000")
    with client.crowd(10, data) as socks:
        client.drip(socks, b'{"a": "' + b"y" * 900, 0.5)


def sends_crumbs(client: Client) -> None:
    """Sends a body in ten thousand chunks of a byte."""
    path = random.choice(("/v1/jobs/callback", "/v1/jobs"))
    lines = ("Content-Type: application/json", "Transfer-Encoding: chunked")
    client.say(client.head("POST", path, *lines) + b"1\r\ny\r\n" * 10000 + b"0\r\n\r\n")


def sends_garbage(client: Client) -> None:
    """Sends what is no request, before the handshake or after it."""
    with client.dial(os.urandom(4096), shake=random.random() < 0.5) as sock:
        client.note(heard(sock, 5) or "silence")


REFUSED = (("GET", "/v1/jobs"), ("GET", "/v1/jobs/1.1/logs"), ("DELETE", "/v1/jobs/1.1"),
           ("POST", "/v1/token"), ("PUT", "/v1/jobs/1.1/files/a"), ("PATCH", "/v1/jobs"),
           ("GET", "/%00"), ("GET", "/v1/../../etc/passwd"), ("GET", "/" * 9000))


def asks_again(client: Client) -> None:
    """Asks for what is refused, over and over, on a connection that is kept."""
    for method, path in REFUSED:
        client.note(client.caller.ask(method, path, "[]" if method == "POST" else None).status)
        client.pause(0.05)


def asks_anew(client: Client) -> None:
    """Asks for what is refused, with a token that does not hold, on a new connection each time."""
    method, path = random.choice(REFUSED)
    client.say(client.head(method, path, "Authorization: Bearer e30.e30.e30"))


def never_reads(client: Client) -> None:
    """Asks hundreds of times on each connection, and reads no answer."""
    data = client.head("GET", "/v1/openapi.json") * 500
    with client.crowd(5, narrow=True) as socks:
        for sock in socks:
            sock.settimeout(1)
            with contextlib.suppress(OSError):
                sock.sendall(data)
        client.pause(20)
        client.note("unread")


def sends_much(client: Client) -> None:
    """Sends sixteen megabytes of JSON, a text without its end."""
    size = 16 * 1024 * 1024
    lines = ("Content-Type: application/json", "Content-Length: %d" % size)
    data = client.head("POST", random.choice(("/v1/jobs", "/v1/token")), *lines)
    client.say(data + b'{"script": "' + b"y" * (size - 12))


def sends_long_heads(client: Client) -> None:
    """Sends heads that are as long as may be, or longer, in one line or in many."""
    size, lines = random.choice((32000, 34000)), random.choice((1, 80))
    client.say(client.head("GET", "/v1/health", *["X: " + "y" * (size // lines - 6)] * lines))


# Hostile ones with a token that lets them look.

def hoards_streams(client: Client) -> None:
    """Opens as many streams of events as it gets, and others where some are ended."""
    client.held = [sock for sock in client.held if keeps(client, sock)]
    for _ in range(min(10, STREAMS - len(client.held))):
        client.held.append(client.dial(client.head("GET", "/v1/events")))
        client.pause(0.05)


def keeps(client: Client, sock: Any) -> bool:
    """Whether a stream still runs; where not, it is closed."""
    said = heard(sock)
    if said not in ("", "more"):
        client.note(said)
    if said in ("", "more", "200"):
        return True
    sock.close()
    return False


def asks_narrowly(client: Client) -> None:
    """Asks for what a narrow token may and may not have."""
    for method, path in (("GET", "/v1/jobs?limit=100"), ("GET", client.job), ("GET", "/v1/metrics"),
                         ("POST", "/v1/jobs"), ("DELETE", client.job), ("GET", "/v1/openapi.json")):
        body = '{"script": "true"}' if method == "POST" else None
        client.note(client.caller.ask(method, path, body).status)
        client.pause(0.05)


KINDS = (
    Kind("honest", "submits jobs, follows them", submits, 1, 2, "ada"),
    Kind("honest", "lists and reads", looks, 3, 0.3, "ada"),
    Kind("honest", "files up and down, archive", moves_files, 2, 1, "ada"),
    Kind("honest", "uploads slowly", uploads_slowly, 2, 1, "ada"),
    Kind("honest", "downloads slowly", downloads_slowly, 2, 1, "ada"),
    Kind("vanishing", "leaves event streams", leaves_streams, 2, 0.5, "bob"),
    Kind("vanishing", "leaves uploads", leaves_uploads, 1, 0.5, "bob"),
    Kind("vanishing", "leaves answers", leaves_answers, 1, 0.5, "bob"),
    Kind("hostile", "says nothing", says_nothing, 1, 1),
    Kind("hostile", "300 connections at once", comes_in_crowds, 1, 10),
    Kind("hostile", "stops in the handshake", stops_in_handshake, 1, 1, tls=True),
    Kind("hostile", "drips heads", drips_head, 1, 1),
    Kind("hostile", "drips bodies", drips_body, 3, 1),
    Kind("hostile", "one-byte chunks", sends_crumbs, 1, 1),
    Kind("hostile", "garbage", sends_garbage, 1, 0.5),
    Kind("hostile", "refused, kept connection", asks_again, 1, 0.1),
    Kind("hostile", "refused, new connections", asks_anew, 1, 0.2),
    Kind("hostile", "never reads", never_reads, 2, 1),
    Kind("hostile", "16 MB of open JSON", sends_much, 1, 5),
    Kind("hostile", "heads of 32 KB", sends_long_heads, 1, 0.5),
    Kind("hostile", "narrow token: 500 streams", hoards_streams, 1, 0.5, "eve", tls=True),
    Kind("hostile", "narrow token: asks on", asks_narrowly, 2, 0.1, "eve", tls=True),
)


# The processes of the load.

def become(uid: int) -> None:
    """Be another user from now on."""
    os.setgroups([])
    os.setgid(pwd.getpwuid(uid).pw_gid)
    os.setuid(uid)


def more_descriptors() -> None:
    """Let this process open as many files as it may, up to what the load can want."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def run_clients(plan: Plan, role: str, pipe: Any) -> None:
    """All clients of a role, until the time is up; what came of them goes into the pipe."""
    more_descriptors()
    if role == "hostile" and plan.uid is not None:
        become(plan.uid)
    tally = Tally()
    clients = [Client(plan, kind, number, tally) for kind in KINDS for number in range(kind.threads)
               if kind.role == role and (plan.tls or not kind.tls)]
    for client in clients:
        threading.Thread(target=client.run, daemon=True).start()
    time.sleep(max(plan.until - time.monotonic(), 0))
    pipe.send({"counts": tally.all(), "cpu_s": sum(os.times()[:2]),
               "reopened": sum(client.caller.reopened for client in clients)})


def run_echo(plan: Plan, pipe: Any) -> None:
    """Send back what comes first on each connection: the least that a server can do."""
    while time.monotonic() < plan.until:
        if not select.select([plan.echo], [], [], 0.5)[0]:
            continue
        sock = plan.echo.accept()[0]
        with contextlib.suppress(OSError), contextlib.closing(sock):
            sock.settimeout(HEALTH_TIMEOUT_S)
            with contextlib.closing(plan.echo_tls.wrap_socket(sock, server_side=True)
                                    if plan.echo_tls else sock) as speaking:
                speaking.sendall(speaking.recv(4096))
    pipe.send({})


def usage_of(pid: int) -> Usage:
    """What a process holds; nothing where it is gone."""
    try:
        with open("/proc/%d/status" % pid) as file:
            said = dict(line.split(":", 1) for line in file)
        return Usage(int(said["VmRSS"].split()[0]) / 1024, int(said["Threads"]),
                     len(os.listdir("/proc/%d/fd" % pid)))
    except (OSError, KeyError):
        return Usage(0, 0, 0)


def cpu_of(pid: int) -> float:
    """The seconds that a process has computed."""
    try:
        with open("/proc/%d/stat" % pid) as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return 0.0


class Watch:
    """The honest caller whose answers are timed."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.kept = plan, Caller(plan, "watch", HEALTH_TIMEOUT_S)
        self.times = collections.defaultdict(list)  # type: Dict[str, List[float]]
        self.failures = collections.Counter()  # type: Any
        self.usage = []  # type: List[Usage]
        self.begun = time.monotonic()
        self.late = []  # type: List[str]

    def time(self, what: str, ask: Callable[[], int]) -> None:
        """Time a call that is answered, and note how another fails.

        Calls that fall due while one hangs would have hung for the rest of it: they count too.
        """
        begun = time.perf_counter()
        try:
            status = str(ask())
        except (OSError, http.client.HTTPException) as err:
            status = type(err).__name__
        took = time.perf_counter() - begun
        if status != "200":
            self.failures[what, status] += 1
            return
        late = range(int(took / STEP_S) + 1)
        self.times[what] += [1000 * (took - STEP_S * steps) for steps in late]

    def echo(self) -> int:
        """Ask the echo."""
        with socket.socket() as sock:
            port = self.plan.echo.getsockname()[1]
            with connected(self.plan, sock, port, HEALTH_TIMEOUT_S) as speaking:
                speaking.sendall(b"y" * 150)
                return 200 if speaking.recv(4096) else 0

    def file(self) -> int:
        """Make a file, and remove it."""
        path = os.path.join(self.plan.folder, ".probe")
        with open(path, "w") as file:
            file.write("?")
        os.unlink(path)
        return 200

    def fresh(self) -> int:
        """Ask for the health on a new connection."""
        with contextlib.closing(Caller(self.plan, "watch", HEALTH_TIMEOUT_S)) as caller:
            return caller.ask_once("GET", "/v1/health").status

    def look(self) -> None:
        """Measure everything once."""
        calls = (self.echo, self.file, self.fresh,
                 lambda: self.kept.ask("GET", "/v1/health").status)
        for what, ask in zip(TIMED, calls):
            self.time(what, ask)
        latest = [self.times[what][-1] for what in TIMED if self.times[what]]
        if max(latest, default=0) > LATE_MS:
            self.late.append("%7.1f s  %s" % (time.monotonic() - self.begun, ", ".join(
                "%s %.1f" % pair for pair in zip(TIMED, latest))))
        self.usage.append(usage_of(self.plan.pid))


def run_watch(plan: Plan, pipe: Any) -> None:
    """Measure until the time is up; the figures go into the pipe."""
    watch, due = Watch(plan), time.monotonic()
    while due < plan.until:
        time.sleep(max(due - time.monotonic(), 0))
        watch.look()
        due = max(due + STEP_S, time.monotonic())
    pipe.send({"times": dict(watch.times), "failures": dict(watch.failures), "usage": watch.usage,
               "late": watch.late,
               "reopened": watch.kept.reopened, "cpu_s": sum(os.times()[:2])})


def start(target: Callable[..., None], *args: Any) -> Tuple[Any, Any]:
    """Start a process; it, and the pipe on which it reports."""
    ours, theirs = Context.Pipe(False)
    process = Context.Process(target=target, args=args + (theirs,), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def report_of(process: Any, pipe: Any, until: float) -> Dict[str, Any]:
    """What a process reports, nothing where it does not in time; it has ended then."""
    found = {}  # type: Dict[str, Any]
    with contextlib.suppress(EOFError):
        if pipe.poll(max(until + GRACE_S - time.monotonic(), 0)):
            found = pipe.recv()
    process.join(2)
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    return found


def run_load(plan: Plan) -> Dict[str, Dict[str, Any]]:
    """Run every process until the time is up; {its name: what it reports}."""
    started = {"echo": start(run_echo, plan), "watch": start(run_watch, plan)}
    started.update({role: start(run_clients, plan, role) for role in ROLES})
    return {name: report_of(process, pipe, plan.until)
            for name, (process, pipe) in started.items()}


# The server, and what is there before the load.

def begin_tls(case: Case) -> Server:
    """A server that speaks TLS, for everybody who has a token."""
    make_certificates(case.folder)
    case.configure(authz="owner", users="*")
    at = {name: os.path.join(case.folder, name) for name in ("server.pem", "server.key", "ca.pem")}
    return Server(case, "--host", "127.0.0.1", "--port", "0", "--tls-cert", at["server.pem"],
                  "--tls-key", at["server.key"], "--client-ca", at["ca.pem"])


def echo_context(folder: str) -> ssl.SSLContext:
    """The TLS of the echo: the server's certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(os.path.join(folder, "server.pem"), os.path.join(folder, "server.key"))
    return context


def tokens_of(case: Case) -> Dict[str, str]:
    """A token for each user; eve's is narrow."""
    narrow = {"eve": ("--ops", "GET")}
    return {user: case.psik("token", "--user", user, *narrow.get(user, ())).out.strip()
            for user in ("ada", "bob", "eve", "watch")}


def make_jobs(plan: Plan) -> Dict[str, str]:
    """A job with a large file for each who needs one."""
    made = {}
    for user in ("ada", "bob"):
        caller = Caller(plan, user)
        made[user] = str(caller.ask("POST", "/v1/jobs/new", json.dumps({"script": "true"})).json)
        path = "/v1/jobs/%s/files/large" % made[user]
        answer = caller.ask("PUT", path, os.urandom(LARGE))
        caller.close()
        if answer.status != 200:
            raise RuntimeError("%s: %d %s" % (path, answer.status, answer.text))
    return made


def nobody() -> Optional[int]:
    """The uid of nobody, where we can become it."""
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("nobody").pw_uid if os.getuid() == 0 else None
    return None


def make_plan(case: Case, server: Server, tls: bool) -> Plan:
    """All that the load wants to know, but when it ends."""
    echo = socket.socket()
    case.addCleanup(echo.close)
    echo.bind(("127.0.0.1", 0))
    echo.listen(16)
    plan = Plan(server.port, case.folder, echo, server.process.pid, None, None, {}, {}, 0, nobody())
    if tls:
        plan = plan._replace(
            tls=ssl.create_default_context(cafile=os.path.join(case.folder, "ca.pem")),
            echo_tls=echo_context(case.folder), tokens=tokens_of(case))
    return plan._replace(jobs=make_jobs(plan))


def settle(pid: int, before: Usage) -> Usage:
    """What a server holds when the load is over, once that is about as much as before it."""
    deadline = time.monotonic() + GRACE_S
    while True:
        now = usage_of(pid)
        if max(now.threads - before.threads, now.descriptors - before.descriptors) <= SPARE_HANDLES:
            return now
        if time.monotonic() > deadline:
            return now
        time.sleep(0.5)


class Found(NamedTuple):
    """What a run has shown."""
    seconds: float
    reports: Dict[str, Dict[str, Any]]
    before: Usage       # the load
    after: Usage
    server_cpu_s: float
    ended: Optional[int]    # the status of the server, where it ended under the load
    stopped: int            # its status when it was told to end
    log: str

    @property
    def usage(self) -> List[Usage]:
        """What the server held, time after time."""
        return self.reports["watch"].get("usage") or [self.before]

    def median_until(self, seconds: float) -> Usage:
        """What it held in the window before this time, in the middle."""
        samples = len(self.usage) / self.seconds
        end = max(1, int(seconds * samples))
        rows = self.usage[max(0, end - max(1, int(WINDOW_S * samples))):end]
        return Usage(*map(statistics.median, zip(*rows)))

    @property
    def warm(self) -> Usage:
        """What it held when the steady state began."""
        return self.median_until(max(self.seconds / 4, min(45, self.seconds / 2)))

    @property
    def end(self) -> Usage:
        """What it held when the load ended."""
        return self.median_until(self.seconds)

    def results(self, role: str) -> Dict[str, int]:
        """{what came of the requests of a role: how many}."""
        found = collections.Counter()  # type: Any
        for (_, result), count in self.reports[role].get("counts", {}).items():
            found[result] += count
        return dict(found)


def observe(case: Case, server: Server, plan: Plan, seconds: float) -> Found:
    """Put the load on the server, and look at it before, meanwhile and afterwards."""
    time.sleep(1)
    before, cpu = usage_of(plan.pid), cpu_of(plan.pid)
    reports = run_load(plan._replace(until=time.monotonic() + seconds))
    cpu, ended = cpu_of(plan.pid) - cpu, server.process.poll()
    after = settle(plan.pid, before)
    return Found(seconds, reports, before, after, cpu, ended, server.stop(), server.said())


def run(opts: Any) -> Found:
    """Start a server, observe it under the load, and end it."""
    case = Case()
    case.setUp()
    try:
        server = Server(case, "--port", "0") if opts.local else begin_tls(case)
        return observe(case, server, make_plan(case, server, not opts.local), opts.seconds)
    finally:
        case.doCleanups()


# What is printed.

def percentile(times: Sequence[float], share: float) -> float:
    """The time within which this share of the calls was answered."""
    return sorted(times)[min(int(len(times) * share), len(times) - 1)] if times else float("inf")


def failures_of(found: Found, what: str) -> Dict[str, int]:
    """{how a call failed: how often} of one of those that are timed."""
    failed = found.reports["watch"].get("failures", {})
    return {result: count for (name, result), count in failed.items() if name == what}


def times_of(found: Found, what: str) -> Sequence[float]:
    """The ms that each answer took."""
    times = found.reports["watch"].get("times", {}).get(what, ())  # type: Sequence[float]
    return times


def p99_of(found: Found, what: str) -> float:
    """Within how many ms 99 of 100 answers came."""
    return percentile(times_of(found, what), 0.99)


def listed(counts: Dict[str, int]) -> str:
    """Counts as a text, the most frequent first."""
    often = sorted(counts, key=lambda result: -counts[result])
    return ", ".join("%d %s" % (counts[result], result) for result in often) or "0"


def latency_lines(found: Found) -> Iterator[str]:
    """The table of the latencies."""
    yield "%-16s %8s %8s %8s %8s %8s %8s  %s" % (
        "latency, ms", "answered", "p50", "p90", "p99", "p99.9", "most", "failed")
    for what in TIMED:
        times = times_of(found, what)
        figures = ["%8.1f" % percentile(times, share) for share in (0.5, 0.9, 0.99, 0.999, 1)]
        failed = listed(failures_of(found, what))
        yield "%-16s %8d %s  %s" % (what, len(times), " ".join(figures), failed)
    yield "the kept connection was closed %d times" % found.reports["watch"].get("reopened", 0)
    yield from found.reports["watch"].get("late", ())


def usage_lines(found: Found) -> Iterator[str]:
    """The table of what the server held."""
    yield "%-16s %8s %8s %8s %8s %8s %8s" % (
        "the server", "before", "warm", "middle", "end", "after", "most")
    most = Usage(*map(max, zip(*found.usage)))
    points = (found.before, found.warm, found.median_until(found.seconds / 2), found.end,
              found.after, most)
    for name, form in (("rss_mb", "%8.1f"), ("threads", "%8d"), ("descriptors", "%8d")):
        yield "%-16s %s" % (name, " ".join(form % getattr(point, name) for point in points))


def request_lines(found: Found) -> Iterator[str]:
    """The table of the requests."""
    yield "%-10s %-27s %8s  %s" % ("", "requests", "all", "by result")
    for kind in KINDS:
        counts = found.reports[kind.role].get("counts", {})
        mine = {result: count for (name, result), count in counts.items() if name == kind.name}
        if mine:
            yield "%-10s %-27s %8d  %s" % (kind.role, kind.name, sum(mine.values()), listed(mine))


def cpu_line(found: Found) -> str:
    """How busy everybody was."""
    times = {name: report.get("cpu_s", 0.0) for name, report in found.reports.items()}
    times["server"] = found.server_cpu_s
    names = ("server", "watch") + ROLES
    return "of a CPU: " + ", ".join("%s %.0f %%" % (name, 100 * times[name] / found.seconds)
                                    for name in names)


def honest_failures(found: Found) -> Tuple[int, int, int]:
    """(honest requests, those of them that failed, those of these that were a 503)."""
    results = found.results("honest")
    failed = sum(count for result, count in results.items() if result[:1] not in ("2", "3"))
    return sum(results.values()), failed, results.get("503", 0)


def honest_line(found: Found) -> str:
    """How the honest clients fared."""
    return "honest requests: %d; failed: %d, %d of them with 503; kept connections closed: %d" % (
        honest_failures(found) + (found.reports["honest"].get("reopened", 0),))


# The bounds.

def latency_faults(found: Found, most_ms: float) -> Iterator[str]:
    """How the health was too late, or not told."""
    for what in TIMED[2:]:
        if p99_of(found, what) >= most_ms:
            yield "%s: p99 is %.1f ms, and not below %g; that of the echo is %.1f" % (
                what, p99_of(found, what), most_ms, p99_of(found, "echo"))
        failed = sum(failures_of(found, what).values())
        if failed:
            yield "%s: %d calls failed" % (what, failed)


def usage_faults(found: Found, most_mb: float) -> Iterator[str]:
    """What the server took more and more of, or did not give back."""
    grown = found.end.rss_mb - found.warm.rss_mb
    if grown > most_mb:
        yield "RSS has grown by %.1f MB since the warm-up, and may by %g" % (grown, most_mb)
    for name in ("threads", "descriptors"):
        left = getattr(found.after, name) - getattr(found.before, name)
        if left > SPARE_HANDLES:
            yield "%d %s more are left than there were before the load" % (left, name)


def other_faults(found: Found) -> Iterator[str]:
    """Failures of honest clients; ends of processes; bugs that the log tells of."""
    requests, failed, _ = honest_failures(found)
    if failed > HONEST_FAILURES * requests or not requests:
        yield "%d of %d honest requests failed, and %g %% may" % (
            failed, requests, 100 * HONEST_FAILURES)
    for name in ("watch",) + ROLES:
        if not found.reports[name]:
            yield "the process `%s` of the load has not reported" % name
    if found.ended is not None:
        yield "the server ended under the load, with status %d" % found.ended
    elif found.stopped:
        yield "the server ended with status %d when it was told to" % found.stopped
    if "Traceback" in found.log:
        yield "the log has %d tracebacks" % found.log.count("Traceback")


def faults(found: Found, opts: Any) -> List[str]:
    """A line for each bound that was exceeded."""
    return (list(latency_faults(found, opts.health_ms)) + list(usage_faults(found, opts.rss_mb)) +
            list(other_faults(found)))


# The command line.

def options() -> Any:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    length, mode = parser.add_mutually_exclusive_group(), parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=20, metavar="M", help="how long (20)")
    length.add_argument("--seconds", type=float, metavar="S", help="or in seconds")
    mode.add_argument("--tls", action="store_true", help="over TLS, with tokens; the default")
    mode.add_argument("--local", action="store_true", help="as the server's own user, without TLS")
    parser.add_argument("--health-ms", type=float, default=50, metavar="MS",
                        help="99 of 100 calls for the health are to be faster (50)")
    parser.add_argument("--rss-mb", type=float, default=10, metavar="MB",
                        help="by so much the server may grow after the warm-up (10)")
    opts = parser.parse_args()
    opts.seconds = opts.seconds or opts.minutes * 60
    return opts


def out_of_time(*_: Any) -> None:
    """End everything: the load is long over, and this program is not."""
    raise TimeoutError("this hangs")


def main() -> int:
    opts = options()
    signal.signal(signal.SIGALRM, out_of_time)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.alarm(int(opts.seconds + GRACE_S * 4))
    found = run(opts)
    print("%g s, %s" % (opts.seconds, "local" if opts.local else "TLS"))
    for lines in (latency_lines, usage_lines, request_lines):
        print("\n".join([""] + list(lines(found))))
    print("\n%s\n%s\n" % (honest_line(found), cpu_line(found)))
    exceeded = faults(found, opts)
    print("\n".join("EXCEEDED: " + line for line in exceeded) or "every bound was kept")
    return int(bool(exceeded))


if __name__ == "__main__":
    sys.exit(main())
