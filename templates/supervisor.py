#!/usr/bin/env python3
"""The supervisor: it runs a step of a job, records what becomes of it, and ends what the step leaves behind.

    scripts/supervise .../scripts/job JOBNDX    run a step; scripts/job becomes this program, and keeps its process id
    scripts/supervise cancel                    end the steps that stdin names, and wait until nothing of them lives
    scripts/supervise poll                      print those of the steps that stdin names of which something lives

stdin holds a line `NATIVEID psik-JOBID.JOBNDX` for each step.

It needs Python 3.6 or newer and no other program.  Every job starts it, so it imports only what is built into Python, and
fcntl: `os`, `signal`, `re`, `json` or `typing` would take as long to import as all that it does for a short job.

Two locks tell what lives of a step: the supervisor holds one on log/claim.N, the payload inherits one on log/alive.N.
A process that has closed the second is found by its mark, PSIK_MARK in its environment, where there is /proc.
"""
import errno
import fcntl
import gc
import posix
import sys
import time
import _signal

gc.disable()  # it would look through all that is made, and find nothing

if False:  # typing costs more than all else here; its names are for the type checker
    from typing import Any, Callable, Dict, Iterator, List, Optional, Set, Tuple

SETTINGS: "Dict[str, Any]" = {}  # what scripts/supervise says of the job: base, directory, environment and so on

SCHEDULER_IDS = ("SLURM_JOB_ID", "LSB_JOBID", "PBS_JOBID", "JOB_ID")  # whose job a process belongs to
FINAL = ("completed", "failed", "canceled")
STATES = ("new", "queued", "active") + FINAL
STOPPING = (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP, _signal.SIGXCPU)
CAUGHT = [number for number in range(1, _signal.NSIG)  # but those that the C library keeps for itself: two of glibc, three of musl
          if number not in (_signal.SIGKILL, _signal.SIGSTOP) and not 32 <= number < getattr(_signal, "SIGRTMIN", 32)]
DIGITS = frozenset("0123456789")
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
ALIVE_FD = 241              # of the lock that the payload inherits: beyond what scripts use
HISTORY_LOCK_S = 60         # for whoever holds the history: a submission that hangs, a callback's event
CANCEL_LOOK_S = 3           # between two looks for log/cancel.N
KILL_WAIT_S = 10            # for processes to go after KILL
OWN_RETRY_S = 86400         # to record an end on a disk that is full, where no scheduler knows the end
RETRY_S = 60                # the same where one does


# Files.

def read(path: str) -> str:
    """The text of a file, or '' where it cannot be read."""
    try:
        fd = posix.open(path, posix.O_RDONLY)
    except OSError:
        return ""
    try:
        return b"".join(iter(lambda: posix.read(fd, 65536), b"")).decode("utf-8", "surrogateescape")
    except OSError:
        return ""
    finally:
        posix.close(fd)


def exists(path: str) -> bool:
    """Whether there is such a file or directory; `/.` behind a path asks for a directory."""
    return posix.access(path, posix.F_OK)


def write(path: str, text: str, flags: int = posix.O_TRUNC) -> int:
    """Write a file of mode 0600; its open descriptor."""
    fd = posix.open(path, posix.O_RDWR | posix.O_CREAT | flags, 0o600)
    try:
        posix.write(fd, text.encode("utf-8", "surrogateescape"))
    except OSError:
        posix.close(fd)
        raise
    return fd


def lock(fd: int, kind: int = fcntl.LOCK_EX) -> "Optional[bool]":
    """Lock an open file; whether nobody else has it locked, None where the file system has no locks."""
    try:
        fcntl.flock(fd, kind)
        return True
    except BlockingIOError:
        return False
    except OSError as err:
        if err.errno in NO_LOCKS:
            return None
        raise


def is_locked(path: str) -> "Optional[bool]":
    """Whether somebody locks a file; None where that cannot be told.  The lock that is tried is a shared one, so that two
    who ask at once do not take each other for the owner."""
    for mode in (posix.O_RDWR, posix.O_RDONLY):  # the second where the file system is read-only
        try:
            fd = posix.open(path, mode)
        except OSError:
            continue
        try:
            free = lock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:  # a server that does not answer
            free = None
        posix.close(fd)
        return None if free is None else not free
    return None


def say(text: str) -> None:
    """Write a line to stderr, which is log/submit.N in the job."""
    try:
        posix.write(2, ("psik: %s\n" % text).encode("utf-8", "surrogateescape"))
    except OSError:
        pass


# Processes.  Without /proc only those are known that were started here.

class Process:
    """A process as /proc shows it."""

    def __init__(self, pid: int) -> None:
        stat = read("/proc/%d/stat" % pid)
        words = stat[stat.rfind(")") + 2:].split()
        self.pid = pid
        self.state = words[0] if words else "X"
        self.parent, self.session = (int(words[1]), int(words[3])) if words else (0, 0)
        self.started = words[19] if words else ""
        self._environment: "Optional[Dict[str, str]]" = None

    @property
    def environment(self) -> "Dict[str, str]":
        """The mark and the schedulers' ids among the variables that it was started with; {} where they cannot be read."""
        if self._environment is None:
            pairs = (part.split("=", 1) for part in read("/proc/%d/environ" % self.pid).split("\0") if "=" in part)
            self._environment = {name: value for name, value in pairs if name == "PSIK_MARK" or name in SCHEDULER_IDS}
        return self._environment

    @property
    def lives(self) -> bool:
        """Whether it is there, and no zombie."""
        return self.state not in "ZX"


def our_processes(above: int = 0, everybodys: bool = False) -> "Dict[int, Process]":
    """The living processes of this user, of a process id above this one; {} where there is no /proc.

    A set-uid program (apptainer's, for one) shows as another user's, though this user started it and may signal it.
    """
    found, user = {}, posix.getuid()
    try:
        names = posix.listdir("/proc")
    except OSError:
        return {}
    for name in names:
        try:
            if name.isdigit() and int(name) > above and (everybodys or posix.stat("/proc/" + name).st_uid == user):
                process = Process(int(name))
                if process.lives:
                    found[process.pid] = process
        except OSError:  # it ended meanwhile
            pass
    return found


def last_process() -> int:
    """The process id that the system gave last; 0 where it does not tell."""
    return int((read("/proc/loadavg").split() or ["0"])[-1])


def ancestors_of(pid: int) -> "List[int]":
    """The processes above one, up to the first of them all."""
    found: "List[int]" = []
    while pid > 1 and len(found) < 100:
        pid = Process(pid).parent
        found.append(pid)
    return found


def scheduler_ids(environment: "Dict[str, str]") -> str:
    """Whose job an environment belongs to: `NAME=ID ...`, '' where it names none."""
    return " ".join("%s=%s" % (name, environment[name]) for name in SCHEDULER_IDS if name in environment)


def given_environment() -> "Dict[bytes, bytes]":
    """The environment that this process was given.  posix.environ may hold an LC_CTYPE that Python has added."""
    pairs = read("/proc/self/environ").encode("utf-8", "surrogateescape").split(b"\0")
    return {name: value for name, _, value in (pair.partition(b"=") for pair in pairs) if name} or dict(posix.environ)


def texts(environment: "Dict[bytes, bytes]") -> "Dict[str, str]":
    """An environment as texts."""
    return {name.decode("utf-8", "surrogateescape"): value.decode("utf-8", "surrogateescape") for name, value in environment.items()}


def send(pid: int, *numbers: int) -> None:
    """Send signals to a process, or to a group by its negative number; it may have ended, or refuse them."""
    for number in numbers:
        try:
            posix.kill(pid, number)
        except OSError:
            pass


def this_host() -> str:
    """What must be the same for a process id to mean the same: host name, boot and process namespace."""
    try:
        namespace = posix.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = "-"
    return "%s %s %s" % (posix.uname().nodename, read("/proc/sys/kernel/random/boot_id").strip() or "-", namespace)


# A step.

def rows_of(text: str) -> "List[Tuple[int, str, str]]":
    """(jobndx, state, info) of the rows of a status.csv; what is no row is passed over, as psik.py does."""
    rows = []
    for line in text.split("\n"):
        stamp, jobndx, state, info = (["", "", ""] + line.rsplit(",", 3))[-4:]
        numbers = stamp.rstrip(".")[-1:] in DIGITS and DIGITS.issuperset(jobndx) and 0 < len(jobndx) < 10
        if numbers and state in STATES and info.split() == [info] * bool(info):
            rows.append((int(jobndx), state, info))
    return rows


def holds(pid: int, path: str) -> bool:
    """Whether a process has a file open under a lock that it, or whoever started it, has taken."""
    try:
        wanted, names = posix.stat(path), posix.listdir("/proc/%d/fd" % pid)
    except OSError:  # it ended meanwhile, or shows nobody what it has open
        return False
    for name in names:
        try:
            found = posix.stat("/proc/%d/fd/%s" % (pid, name))
        except OSError:  # it was closed meanwhile
            continue
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return "\nlock:" in read("/proc/%d/fdinfo/%s" % (pid, name))
    return False


class Claim:
    """log/claim.N: which submission runs a step, where, and below which processes.  Empty where there is none."""

    def __init__(self, text: str) -> None:
        values = dict((line.split(" ", 1) + [""])[:2] for line in text.splitlines())
        self.native, self.host, self.started = (values.get(name, "") for name in ("native", "host", "started"))
        self.pid = int("0" + "".join(filter(str.isdigit, values.get("pid", ""))))
        self.above = values.get("above", "").split()
        self.scheduler = values.get("scheduler", "")

    def is_running(self) -> bool:
        """Whether the supervisor that made it lives, by its process id; for file systems without locks."""
        if exists("/proc/self/stat"):
            process = Process(self.pid)
            return process.lives and process.started == self.started
        try:
            posix.kill(self.pid, 0)
        except OSError:
            return False
        return True


def claim_text(native: str) -> str:
    """What this process writes into a claim."""
    pid = posix.getpid()
    lines = (("native", native), ("host", this_host()), ("pid", str(pid)), ("started", Process(pid).started),
             ("above", " ".join(map(str, ancestors_of(pid)))), ("scheduler", scheduler_ids(texts(posix.environ))))
    return "".join("%s %s\n" % line for line in lines)


class Step:
    """A step of a job: its files, and what lives of it."""

    def __init__(self, base: str, jobndx: int) -> None:
        self.base, self.jobndx = base, jobndx
        self.tag = "psik-%s.%d" % (base.rpartition("/")[2], jobndx)
        self.claim = Claim(read(self.log("claim")))

    def log(self, kind: str) -> str:
        """The path of one of its logs."""
        return "%s/log/%s.%d" % (self.base, kind, self.jobndx)

    @property
    def mark(self) -> str:
        """What its processes bear in PSIK_MARK."""
        return "%s/%s" % (self.tag, self.claim.native)

    def place(self) -> str:
        """Where it was claimed: `here`; `apart`, on this host in another process namespace; `before` this host was started
        again; `elsewhere`; '' where it was not.  Its processes can be seen from here alone, its locks from apart too."""
        node, boot, namespace = (self.claim.host.split() + ["", "", ""])[:3]
        our_node, our_boot, our_namespace = this_host().split()
        if not node:
            return "" if (read(self.log("host")).strip() or our_node) == our_node else "elsewhere"
        if node != our_node:
            return "elsewhere"
        return "before" if boot != our_boot else "here" if namespace == our_namespace else "apart"

    def is_adopted_by(self, pid: int) -> bool:
        """Whether a process is the supervisor, or one that an orphan of the step may be given to."""
        return pid in (1, self.claim.pid) or str(pid) in self.claim.above

    def is_ours(self, process: Process, processes: "Dict[int, Process]") -> bool:
        """Whether a process bears the mark, and was started by the step.

        The mark alone does not tell: at(1) hands the environment of a payload on to a job of its own.  The first process of
        that job has a parent without the mark, which is none of those that orphans are given to.
        """
        if process.environment.get("PSIK_MARK") != self.mark or scheduler_ids(process.environment) != self.claim.scheduler:
            return False
        while process.environment.get("PSIK_MARK") == self.mark and process.parent in processes:
            process = processes[process.parent]
        bears = process.environment.get("PSIK_MARK") == self.mark
        return self.is_adopted_by(process.parent if bears else process.pid)

    def is_anothers(self, process: Process) -> bool:
        """Whether a process says that it belongs to another step, or to another job of a scheduler."""
        mark, scheduler = process.environment.get("PSIK_MARK"), scheduler_ids(process.environment)
        return (mark or self.mark) != self.mark or (scheduler or self.claim.scheduler) != self.claim.scheduler

    def members(self, processes: "Dict[int, Process]", payload: int = 0) -> "Set[int]":
        """The living processes of the step but its supervisor: those that bear its mark, all in their sessions, and their
        descendants.  payload: what was started here, whose session counts whatever it bears; without /proc, its group."""
        if not exists("/proc/self/stat"):
            return {-payload} if payload and is_group(payload) else set()
        found = {pid for pid, process in processes.items() if self.is_ours(process, processes)}
        sessions = {processes[pid].session for pid in found} - {Process(self.claim.pid).session} | {payload} - {0}
        found |= {pid for pid, process in processes.items() if process.session in sessions}
        more = found
        while more:
            more = {pid for pid, process in processes.items()
                    if process.parent in more and pid not in found and not self.is_anothers(process)}
            found |= more
        return found - {self.claim.pid, posix.getpid()}

    def holders(self) -> "Set[int]":
        """The processes that keep log/alive.N locked, which may bear no mark; not those that only look whether it is locked."""
        path = self.log("alive")
        return {pid for pid in our_processes() if pid != posix.getpid() and holds(pid, path)} if is_locked(path) else set()

    def rest(self, payload: int = 0, above: int = 0) -> "Set[int]":
        """What lives of the step but its supervisor; {0} where something keeps log/alive.N locked that cannot be seen."""
        found = self.members(our_processes(above, everybodys=payload > 0), payload) | self.holders()
        return found or ({0} if is_locked(self.log("alive")) else set())

    def lives(self, processes: "Dict[int, Process]") -> bool:
        """Whether anything of a step that was claimed on this host lives, its supervisor included."""
        locks = is_locked(self.log("claim")), is_locked(self.log("alive"))
        if True in locks or self.place() == "apart":
            return True in locks
        return None in locks and self.claim.is_running() or bool(self.members(processes))

    def has_ended(self) -> bool:
        """Whether the history says so of it."""
        return any(jobndx == self.jobndx and state in FINAL for jobndx, state, _ in rows_of(read(self.base + "/status.csv")))


def is_group(group: int) -> bool:
    """Whether there is a process group of this number."""
    try:
        posix.killpg(group, 0)
    except OSError:
        return False
    return True


def end_processes(step: Step, payload: int, grace_s: float, wait: "Callable[[float], object]",
                  above: int = 0) -> "Tuple[bool, Set[int]]":
    """End all that lives of a step: TERM, CONT, after the grace KILL; (whether KILL was needed, what lives on).

    TERM is sent once: what a handler starts in order to save its work is left alone.  wait(seconds) sleeps, and reaps what
    was started here; above is for our_processes().
    """
    deadline, killed, pause_s = time.monotonic() + grace_s, False, 0.01
    rest = step.rest(payload, above)
    for pid in sorted(rest - {0}, key=lambda pid: pid != payload):  # a shell that waits for others learns it before they end
        send(pid, _signal.SIGTERM, _signal.SIGCONT)
    while rest and time.monotonic() < deadline + KILL_WAIT_S:
        wait(pause_s)
        rest = step.rest(payload)
        if rest and time.monotonic() >= deadline:
            killed = True
            for pid in rest - {0}:
                send(pid, _signal.SIGKILL)
        pause_s = min(pause_s * 1.5, 0.2)
    return killed, rest


# What the backends' cancel and poll ask.

def steps_of_stdin() -> "Iterator[Tuple[str, Step]]":
    """(native id, step) of each line `NATIVEID psik-JOBID.JOBNDX` on stdin; the jobs lie beside this one."""
    for line in open(0, "rb"):
        native, _, tag = line.decode("utf-8", "surrogateescape").strip().partition(" ")
        jobid, _, jobndx = tag[len("psik-"):].rpartition(".")
        if jobid and jobndx.isdigit():
            yield native, Step("%s/%s" % (SETTINGS["base"].rpartition("/")[0], jobid), int(jobndx))


def running_scripts() -> "Set[str]":
    """The jobs' directories whose scripts/job or scripts/run is being run."""
    words = (word for pid in our_processes() for word in read("/proc/%d/cmdline" % pid).split("\0"))
    return {word[:-len("/scripts/job")] for word in words if word.endswith(("/scripts/job", "/scripts/run"))}


def poll() -> int:
    """Print the steps that live, as a poll script does, and those whose supervisor was killed.

    A step without a claim is only beginning, or psik.py 1.0.0 started it; its native id is the number of a session.
    """
    processes, steps = our_processes(), list(steps_of_stdin())
    running = set() if all(step.claim.host for _, step in steps) else running_scripts()
    for native, step in steps:
        native, place = step.claim.native if native == "-" else native, step.place()
        if place == "elsewhere":
            print(native, "active - %s it runs on %s" % (step.tag, (step.claim.host.split() or ["another host"])[0]))
        elif place in ("here", "apart") and step.lives(processes):
            print(native, "active -", step.tag)
        elif place == "here":
            print(native, "failed -", step.tag, "its supervisor was killed, and nothing of it is left")
        elif not place and (step.base in running or not processes and native.isdigit() and is_group(int(native))):
            print(native, "active -", step.tag)
    sys.stdout.flush()
    return 0


def await_end(step: Step, limit_s: float) -> bool:
    """Whether nothing of a step lives any more, at the latest after so many seconds."""
    deadline, pause_s = time.monotonic() + limit_s, 0.005
    while step.lives(our_processes()):
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.2)
    return True


def end_here(step: Step, grace_s: float) -> str:
    """End a step of this host: its supervisor does it, or, where that is gone or does not answer, this process; what lives on."""
    if is_locked(step.log("claim")) is not False and step.claim.is_running():
        send(step.claim.pid, _signal.SIGTERM, _signal.SIGCONT)
        if await_end(step, grace_s + CANCEL_LOOK_S):
            return ""
        send(step.claim.pid, _signal.SIGKILL)
    end_processes(step, 0, grace_s, time.sleep)
    if await_end(step, 1):
        return ""
    alive = sorted(step.rest() - {0})
    return "process %s lives on after KILL" % " ".join(map(str, alive)) if alive else "something keeps %s locked" % step.log("alive")


def end_elsewhere(step: Step, grace_s: float) -> str:
    """Ask the supervisor of a step on another host to end it, and wait for that; where it runs on, if it does not."""
    posix.close(write(step.log("cancel"), ""))
    deadline = time.monotonic() + grace_s + 3 * CANCEL_LOOK_S
    while not step.has_ended() and (step.place() == "elsewhere" or step.lives({})):
        if time.monotonic() > deadline:
            return "it is asked to end by %s, and its host, %s, has not answered" % (
                step.log("cancel"), (step.claim.host or read(step.log("host")) or "?").split()[0])
        time.sleep(0.1)
    return ""


def cancel() -> int:
    """End steps; 1 where one lives on.  Of a step without a claim, its supervisor will find that it is canceled."""
    status, grace_s = 0, float(SETTINGS["grace_s"])
    for _, step in steps_of_stdin():
        place = step.place()
        lives_on = end_here(step, grace_s) if place == "here" else end_elsewhere(step, grace_s) if place in ("apart", "elsewhere") else ""
        if lives_on:
            say("step %d: %s" % (step.jobndx, lives_on))
            status = 1
    return status


# In the job.

class History:
    """The job's status.csv, open; between lock() and unlock() it is nobody else's."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.fd = posix.open(base + "/status.csv", posix.O_RDWR | posix.O_APPEND)
        self.unsynced: "List[int]" = []
        self.rows: "List[Tuple[int, str, str]]" = []

    def lock(self) -> None:
        """Lock and read it; who holds it for too long, or a file system without locks, is passed over."""
        deadline = time.monotonic() + HISTORY_LOCK_S
        while lock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB) is False and time.monotonic() < deadline:
            time.sleep(0.002)
        text = read(self.base + "/status.csv")
        self.torn = not text.endswith("\n")
        self.rows = rows_of(text)

    def unlock(self) -> None:
        """Let others have it."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_UN)
        except OSError:
            pass

    def append(self, jobndx: int, state: str, info: str) -> None:
        """Add a transition, and before it its event, where a callback is to be told; sync() brings both to the disk."""
        if SETTINGS["callback_timeout_s"]:
            self.put_event(jobndx, state, info)
        posix.write(self.fd, ("%s%.3f,%d,%s,%s\n" % ("\n" * self.torn, time.time(), jobndx, state, info)).encode())
        self.torn = False
        self.rows.append((jobndx, state, info))

    def put_event(self, jobndx: int, state: str, info: str) -> None:
        """Write the event of the row that comes next into the outbox; psik.py reads it as its own."""
        jobid, folder = self.base.rpartition("/")[2], self.base.rpartition("/")[0] + "/.outbox"
        quoted = info if info.isdigit() and len(info) < 19 else '"%s"' % info.replace("\\", "\\\\").replace('"', '\\"')
        text = '{"delivery": "%s", "jobid": "%s", "place": %d, "jobndx": %d, "state": "%s", "info": %s, "made": %.3f}\n' % (
            posix.urandom(16).hex(), jobid, len(self.rows), jobndx, state, quoted, time.time())
        path = "%s/%s.%06d.json" % (folder, jobid, len(self.rows))
        if not exists(folder):
            posix.mkdir(folder, 0o700)
        self.unsynced.append(write("%s.%d" % (path, posix.getpid()), text))
        posix.rename("%s.%d" % (path, posix.getpid()), path)

    def sync(self) -> None:
        """Bring to the disk what was written, where a callback is to be told of it."""
        for fd in self.unsynced:
            posix.fsync(fd)
            posix.close(fd)
        if self.unsynced:
            posix.fsync(self.fd)
        self.unsynced = []

    def is_canceled(self, jobndx: int) -> bool:
        """Whether the job was canceled since the step was queued; of one whose `queued` is not written yet, only the first may
        have been."""
        queued = [place for place, row in enumerate(self.rows) if row[:2] == (jobndx, "queued")]
        first = all(row[0] in (0, jobndx) for row in self.rows)
        return (bool(queued) or first) and (0, "canceled") in [row[:2] for row in self.rows[max(queued or [0]):]]


def start(argv: "List[str]", environment: "Dict[bytes, bytes]", out: str, err: str) -> int:
    """Start a program in a session of its own, its stdin empty, no signal blocked; its process id.

    OSError where it cannot be started.
    """
    append = posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND | posix.O_NOFOLLOW
    files = (("/dev/null", posix.O_RDONLY), (out, append), (err, append))
    try:  # a fork would copy the interpreter's memory, which takes longer than all else here
        actions = [(posix.POSIX_SPAWN_OPEN, fd, path, flags, 0o666) for fd, (path, flags) in enumerate(files)]
        return posix.posix_spawn(argv[0], argv, environment, file_actions=actions, setsid=True, setsigmask=())
    except (AttributeError, NotImplementedError):  # Python 3.7, or an old C library
        return start_forked(argv, environment, files)


def start_forked(argv: "List[str]", environment: "Dict[bytes, bytes]", files: "Tuple[Tuple[str, int], ...]") -> int:
    """As start(), by fork and exec; what goes wrong in the child comes back through a pipe."""
    receiver, sender = posix.pipe()
    pid = posix.fork()
    if not pid:
        try:
            posix.setsid()
            for fd, (path, flags) in enumerate(files):
                posix.dup2(posix.open(path, flags, 0o666), fd)
            _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
            posix.execve(argv[0], argv, environment)
        except OSError as err:
            posix.write(sender, b"%d" % err.errno)
        posix._exit(126)
    posix.close(sender)
    failed = posix.read(receiver, 20)
    posix.close(receiver)
    if failed:
        posix.waitpid(pid, 0)
        raise OSError(int(failed), posix.strerror(int(failed)))
    return pid


class Run:
    """A step that this process runs."""

    def __init__(self, jobndx: int, words: "Dict[str, str]") -> None:
        """words are what scripts/job has set: mpirun nodes jobid psik_walltime_s."""
        self.step = Step(SETTINGS["base"], jobndx)
        self.history = History(SETTINGS["base"])
        self.words = words
        self.walltime_s = int("0" + words["psik_walltime_s"])
        self.native = ""
        self.payload = 0
        self.code: "Optional[int]" = None       # of the payload, once it has ended
        self.stopped = 0                        # 128 + the signal that ended the step, once one has
        self.reason = ""
        self.deliveries: "Set[int]" = set()
        self.began = time.monotonic()

    # Claiming.

    def find_native(self) -> str:
        """The scheduler's id of the job: as scripts/job has it, this process (`own`), or as submit told it (`ask`)."""
        jobid = self.words["jobid"]
        if jobid == "ask":
            known = [info for jobndx, state, info in self.history.rows if (jobndx, state) == (self.step.jobndx, "queued")]
            return (known or [""])[-1]
        return str(posix.getpid()) if jobid == "own" else "".join(jobid.split()).replace(",", "")

    def claim(self) -> bool:
        """Take the step; where its scheduler runs it again, the next one; False where another submission has it."""
        while not self.link_claim():
            owner = Claim(read(self.step.log("claim")))
            if not self.native or owner.native != self.native:
                say("step %d was claimed by %s on %s; this submission of it, %s, runs nothing" % (
                    self.step.jobndx, owner.native or "another", (owner.host.split() or ["?"])[0], self.native))
                return False
            begun = self.step
            self.step = Step(SETTINGS["base"], max(self.claimed() + [row[0] for row in self.history.rows]) + 1)
            if not begun.has_ended():  # its node was lost
                posix.close(write(begun.log("reason"), "its scheduler ran it again, as step %d\n" % self.step.jobndx))
                self.history.append(begun.jobndx, "failed", "1")
            self.history.append(self.step.jobndx, "queued", self.native)
            self.write_to_log()
        self.step.claim = Claim(read(self.step.log("claim")))
        return True

    def claimed(self) -> "List[int]":
        """The steps of the job that are claimed."""
        return [int(name[6:]) for name in posix.listdir(SETTINGS["base"] + "/log") if name.startswith("claim.") and name[6:].isdigit()]

    def link_claim(self) -> bool:
        """Make log/claim.N, whole and locked from the first moment; False where it is there already."""
        path, text = self.step.log("claim"), claim_text(self.native)
        passing = "%s.%d" % (path, posix.getpid())
        self.claim_fd = write(passing, text)
        lock(self.claim_fd)
        try:
            posix.link(passing, path)
        except FileExistsError:
            if posix.stat(passing).st_nlink == 1:  # else it is ours, and a server's first answer was lost
                posix.close(self.claim_fd)
                return False
        except OSError:  # a file system without hard links
            posix.close(self.claim_fd)
            try:
                self.claim_fd = write(path, text, posix.O_EXCL)
            except FileExistsError:
                return False
            lock(self.claim_fd)
        finally:
            posix.unlink(passing)
        return True

    def begin(self) -> bool:
        """Claim the step and record that it is active; False where it is not to run."""
        self.write_to_log()
        self.history.lock()
        try:
            self.native = self.find_native()
            if not self.claim():
                return False
            canceled = self.history.is_canceled(self.step.jobndx) or exists(self.step.log("cancel"))
            self.history.append(self.step.jobndx, *(("canceled", "143") if canceled else ("active", self.native)))
            return not canceled
        finally:
            self.history.unlock()

    def write_to_log(self) -> None:
        """Let what is said from now on go to the end of log/submit.N."""
        fd = posix.open(self.step.log("submit"), posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND, 0o600)
        posix.dup2(fd, 1)
        posix.dup2(fd, 2)
        posix.close(fd)

    # Running.

    def environment(self) -> "Dict[bytes, bytes]":
        """What the payload finds: what the job was given, the spec's own, and what psik.py promises."""
        found = given_environment()
        found.pop(b"psik_walltime_s", None)
        for name, value in ((b"nl", b"\n"), (b"tab", b"\t")):  # rc's own, which it exports
            if found.get(name) == value:
                del found[name]
        ours = {"PWD": SETTINGS["directory"]}
        ours.update(SETTINGS["environment"])
        ours.update({"mpirun": self.words["mpirun"], "nodes": self.words["nodes"], "base": SETTINGS["base"], "jobid": self.native,
                     "jobndx": str(self.step.jobndx), "psik": SETTINGS["psik"], "rc": SETTINGS["rc"],
                     "PSIK_MARK": self.step.mark})
        found.update({as_bytes(name): as_bytes(value) for name, value in ours.items()})
        return found

    def start_payload(self) -> None:
        """Start scripts/run, which inherits a lock on log/alive.N."""
        for kind in ("stdout", "stderr"):
            posix.close(write(self.step.log(kind), ""))
        alive = write(self.step.log("alive"), "")
        lock(alive)
        try:
            inherited = posix.dup2(alive, ALIVE_FD) or ALIVE_FD  # None before Python 3.7
        except OSError:  # fewer files may be open
            inherited = posix.dup(alive)
            posix.set_inheritable(inherited, True)
        try:
            self.payload = start([SETTINGS["base"] + "/scripts/run"], self.environment(), self.step.log("stdout"), self.step.log("stderr"))
        finally:
            posix.close(alive)
            posix.close(inherited)

    def turn(self, timeout_s: float) -> int:
        """Wait for a signal, for so long at most, and reap what has ended; the signal, or 0."""
        number = next_signal(timeout_s)
        while True:
            try:
                pid, status = posix.waitpid(-1, posix.WNOHANG)
            except ChildProcessError:
                pid = 0
            if not pid:
                return number
            if pid == self.payload:
                self.code = posix.WEXITSTATUS(status) if posix.WIFEXITED(status) else 128 + posix.WTERMSIG(status)
            self.deliveries.discard(pid)

    def stop(self, number: int, reason: str) -> None:
        """Let the step end because of a signal, or as if of it."""
        self.stopped, self.reason = 128 + number, reason

    def answer(self, number: int) -> None:
        """Do what a signal asks for: those that end a job end the step, all others are for the payload."""
        if number in STOPPING:
            self.stop(number, "it was stopped by signal %d" % number)
        elif number and number != _signal.SIGCHLD and self.payload and self.code is None:  # 0 would be our own group
            send(self.payload, number)

    def follow(self) -> None:
        """Wait until the payload has ended, or has to; then end what lives of it."""
        deadline = self.began + (self.walltime_s or float("inf"))
        while self.code is None and not self.stopped:
            pause_s = max(0.0, min(deadline - time.monotonic(), CANCEL_LOOK_S if self.walltime_s else 86400))
            self.answer(self.turn(pause_s))
            if self.walltime_s and exists(self.step.log("cancel")):
                self.stop(_signal.SIGTERM, "")
            elif time.monotonic() >= deadline and self.code is None:
                self.stop(_signal.SIGTERM, "its walltime of %s min was over" % SETTINGS["duration_min"])
        if not self.walltime_s and not self.stopped:
            self.answer(self.turn(0.1))  # a scheduler that ends a job may tell the payload first, and us a moment later
        quick = time.monotonic() - self.began < 1 and last_process() > posix.getpid()  # no number was given out twice
        killed, rest = end_processes(self.step, self.payload, SETTINGS["grace_s"], self.turn, posix.getpid() if quick else 0)
        if killed and "walltime" in self.reason:
            self.stopped = 137
        while rest and self.walltime_s:  # what cannot be killed yet: the job has not ended
            self.turn(CANCEL_LOOK_S)
            rest = self.step.rest(self.payload)

    # Ending.

    def outcome(self) -> "Tuple[str, int]":
        """(state, info) of the step's end."""
        if not self.stopped:
            return "failed" if self.code else "completed", self.code or 0
        canceled = self.history.is_canceled(self.step.jobndx) or exists(self.step.log("cancel"))
        return "canceled" if canceled else "failed", self.stopped

    def record_end(self) -> int:
        """Record how the step ended, and why; the info.  OSError where that cannot be written."""
        self.history.lock()
        try:
            state, info = self.outcome()
            if state == "failed" and self.reason:
                posix.close(write(self.step.log("reason"), self.reason + "\n"))
            self.history.append(self.step.jobndx, state, str(info))
            return info
        finally:
            self.history.unlock()

    def finish(self) -> int:
        """Record the end, as soon as the disk takes it; the exit status."""
        deadline, pause_s = time.monotonic() + (OWN_RETRY_S if self.walltime_s else RETRY_S), 0.5
        while True:
            try:
                info = self.record_end()
                break
            except OSError as err:
                say("cannot record the end: %s" % err)
                if time.monotonic() > deadline or not exists(SETTINGS["base"] + "/status.csv"):  # nobody is left to be told
                    return self.outcome()[1]
            self.turn(pause_s)
            pause_s = min(pause_s * 2, 30)
        posix.close(self.claim_fd)
        self.deliver()
        deadline = time.monotonic() + (SETTINGS["callback_timeout_s"] or 0) + 1
        while self.deliveries and time.monotonic() < deadline:
            self.turn(deadline - time.monotonic())
        return info

    def deliver(self) -> None:
        """Let psik.py tell the callback what is in the outbox; nobody waits for it here."""
        if not SETTINGS["callback_timeout_s"]:
            return
        self.history.sync()
        environment = {name: value for name, value in given_environment().items() if name != b"PSIK_MARK"}
        log = self.step.log("submit")
        try:
            self.deliveries.add(start([SETTINGS["base"] + "/scripts/psik", "deliver", "--", SETTINGS["base"]], environment, log, log))
        except OSError as err:  # the events wait in the outbox
            say("cannot deliver: %s" % err)

    def whole(self) -> int:
        """Run the step; the exit status."""
        try:
            if not self.begin():
                return 0
        except OSError as err:  # where nothing can be written, nothing is run
            say("step %d cannot begin: %s" % (self.step.jobndx, err))
            return 1
        self.answer(next_signal(0))
        if not self.stopped:
            self.run_payload()
        return self.finish()

    def run_payload(self) -> None:
        """Run the payload from its start to the end of all that it began."""
        try:
            posix.chdir(SETTINGS["directory"])
            self.start_payload()
        except OSError as err:
            self.code, self.reason = self.why_not_started(err)
        self.deliver()
        if self.code is None:
            self.follow()

    def why_not_started(self, err: OSError) -> "Tuple[int, str]":
        """(exit status as a shell's, reason) of a payload that could not be started."""
        if not exists(SETTINGS["directory"] + "/."):
            return 1, "its directory is gone"
        if err.errno == errno.ENOENT:
            head = read(SETTINGS["base"] + "/scripts/run").split("\n")[0]
            return 127, "the interpreter of its script is not there: %s" % head[:100]
        return 126, "its script cannot be started: %s" % err.strerror


def as_bytes(text: str) -> bytes:
    """A text as it stands in an environment."""
    return text.encode("utf-8", "surrogateescape")


def next_signal(timeout_s: float) -> int:
    """The next signal of those that are blocked, waited for at most so long; 0 where none came."""
    if hasattr(_signal, "sigtimedwait"):
        known = _signal.sigtimedwait(CAUGHT, timeout_s)
        return int(known.si_signo) if known else 0
    _signal.setitimer(_signal.ITIMER_REAL, max(timeout_s, 0.001))  # macOS
    number = int(_signal.sigwait(CAUGHT))
    _signal.setitimer(_signal.ITIMER_REAL, 0)
    return number if number != _signal.SIGALRM else 0


def reset() -> None:
    """Block all signals, whatever was done to them before, and close what was left open."""
    _signal.pthread_sigmask(_signal.SIG_SETMASK, CAUGHT)
    for number in CAUGHT:
        if _signal.getsignal(number) is not _signal.SIG_DFL:
            _signal.signal(number, _signal.SIG_DFL)
    try:
        fds = [int(name) for name in posix.listdir("/proc/self/fd")]
    except OSError:
        fds = list(range(256))
    for fd in fds:
        if fd > 2:
            try:
                posix.close(fd)
            except OSError:
                pass


def main(settings: "Dict[str, Any]", argv: "List[str]") -> None:
    """Do what the command line asks for, and exit."""
    SETTINGS.update(settings)
    if argv[1:] in (["poll"], ["cancel"]):
        posix._exit(poll() if argv[1] == "poll" else cancel())
    reset()
    given = texts(posix.environ)
    words = {name: given.get(name, "") for name in ("mpirun", "nodes", "jobid", "psik_walltime_s")}
    words["mpirun"] = words["mpirun"].replace("\x02\x01", "\x01")  # rc writes one for the other where a word holds it
    if words["nodes"] == "ask":  # LSF names each host with its slots
        words["nodes"] = str(len(given.get("LSB_MCPU_HOSTS", "").split()) // 2)
    run = Run(int(argv[2]), words)
    if run.walltime_s:  # no scheduler ends the job, so it need not stay in the session that started it
        try:
            posix.setsid()
        except OSError:
            pass
    posix._exit(run.whole())  # the interpreter would take itself apart first
