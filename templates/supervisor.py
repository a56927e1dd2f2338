#!/usr/bin/env python3
"""The supervisor: it runs a step of a job, records how it ends, and ends what it leaves running.

    scripts/supervise .../scripts/job JOBNDX    run a step: scripts/job becomes this program, and
                                                keeps its process id
    scripts/supervise .../scripts/job OFFSET+   run the task of an array whose index the scheduler
                                                tells, or all of them, so many at a time
    scripts/supervise cancel                    end the steps that stdin names, and wait until
                                                nothing of them is alive
    scripts/supervise poll                      print the steps on stdin that are alive
    scripts/supervise ranks N PROGRAM ARG...    start N processes of a program; $mpirun is this
                                                where there is no mpirun

For cancel and poll stdin holds a line `NATIVEID psik-JOBID.JOBNDX` for each step.

It needs Python 3.6 or newer and no other program.  Every job starts it, so it imports only what is
built into Python, and fcntl: to import `os`, `signal`, `re`, `json` or `typing` would take as long
as everything that it does for a short job.

Two locks show what is alive of a step: the supervisor holds one on log/claim.N, and the payload
inherits one on log/alive.N.  A process that has closed log/alive.N is found by its mark, PSIK_MARK
in its environment, if there is /proc.
"""
import errno
import fcntl
import gc
import posix
import sys
import time
import _signal

gc.disable()  # a collection would go through everything that is allocated, and find nothing

if False:  # typing costs more than all the rest here; its names are for the type checker
    from typing import Any, Callable, Dict, Iterator, List, Optional, Set, Tuple

SETTINGS: "Dict[str, Any]" = {}  # of the job, from scripts/supervise: base, directory and so on

# Variables in which schedulers name the job that a process belongs to.
SCHEDULER_IDS = ("SLURM_JOB_ID", "LSB_JOBID", "PBS_JOBID", "JOB_ID")
# Where a scheduler's variable is set, these tell a script which task of an array it is.
ARRAY_VARIABLES = (
    ("SLURM_JOB_ID", (("SLURM_ARRAY_TASK_ID", "TASK"), ("SLURM_ARRAY_TASK_COUNT", "COUNT"),
                      ("SLURM_ARRAY_TASK_MIN", "MIN"), ("SLURM_ARRAY_TASK_MAX", "MAX"))),
    ("LSB_JOBID", (("LSB_JOBINDEX", "TASK"), ("LSB_JOBINDEX_END", "MAX"))),
    ("SGE_TASK_ID", (("SGE_TASK_ID", "TASK"), ("SGE_TASK_FIRST", "MIN"), ("SGE_TASK_LAST", "MAX"))),
    ("PBS_JOBID", (("PBS_ARRAY_INDEX", "TASK"),)))
GPU_VARIABLES = (b"CUDA_VISIBLE_DEVICES", b"ROCR_VISIBLE_DEVICES", b"ZE_AFFINITY_MASK")
FINAL = ("completed", "failed", "canceled")
STATES = ("new", "queued", "active") + FINAL
# Begins the variables that hold an exported function of bash, `NAME=TEXT` in hexadecimal: rc and
# dash drop a variable that has a name like BASH_FUNC_module%%.
FUNCTION = b"PSIK_FUNCTION_"
STOPPING = (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP, _signal.SIGXCPU)
# The signals from 32 to SIGRTMIN are the C library's own: glibc has two of them, musl three.
CAUGHT = [number for number in range(1, _signal.NSIG)
          if number not in (_signal.SIGKILL, _signal.SIGSTOP)
          and not 32 <= number < getattr(_signal, "SIGRTMIN", 32)]
DIGITS = frozenset("0123456789")
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
ALIVE_FD = 241          # of the lock that the payload inherits: higher than what scripts use
HISTORY_LOCK_S = 60     # wait for the history's lock, which a hanging submission may hold
RELEASE_S = 60          # for the submission of the jobs that wait for this one
CANCEL_LOOK_S = 3       # between two checks for log/cancel.N
FORGOTTEN_LOOK_S = 20   # between two checks if the job is canceled, where a scheduler should signal
TOUCH_S = 3600          # between two touches of a ticket for slots
KILL_WAIT_S = 10        # wait for processes to disappear after KILL
OWN_RETRY_S = 86400     # how long to try to record an end on a full disk, if no scheduler knows it
RETRY_S = 60            # the same, if one does


# Files.

def read(path: str, offset: int = 0) -> str:
    """The text of a file from this byte on, '' if it cannot be read."""
    try:
        fd = posix.open(path, posix.O_RDONLY)
    except OSError:
        return ""
    try:
        if offset:
            posix.lseek(fd, offset, 0)
        chunks = iter(lambda: posix.read(fd, 65536), b"")
        return b"".join(chunks).decode("utf-8", "surrogateescape")
    except OSError:
        return ""
    finally:
        posix.close(fd)


def exists(path: str) -> bool:
    """Whether a path exists; if it ends in `/.`, whether it is a directory."""
    return posix.access(path, posix.F_OK)


def write_whole(fd: int, text: str) -> None:
    """Write all of a text; OSError if that cannot be.  On a full disk write(2) may take a part."""
    data = text.encode("utf-8", "surrogateescape")
    while data:
        data = data[posix.write(fd, data):]


def write(path: str, text: str, flags: int = posix.O_TRUNC) -> int:
    """Write a file of mode 0600; its open descriptor."""
    fd = posix.open(path, posix.O_RDWR | posix.O_CREAT | flags, 0o600)
    try:
        write_whole(fd, text)
    except OSError:
        posix.close(fd)
        raise
    return fd


def join(path: str, other: str) -> None:
    """Give a file another name too: it has two links or, where there are none, a symbolic one."""
    try:
        posix.link(path, other)
    except FileExistsError:
        pass
    except OSError:
        posix.symlink(path.rpartition("/")[2], other)


def lock(fd: int, kind: int = fcntl.LOCK_EX) -> "Optional[bool]":
    """Lock an open file: True if that worked, False if others hold it, None if there are no locks.

    Only with LOCK_NB in `kind` can it be False; without, this waits.
    """
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
    """Whether somebody holds an exclusive lock on a file; None if that cannot be told.

    It tries a shared lock, so that two who check at once do not take each other for the owner.
    """
    for mode in (posix.O_RDWR, posix.O_RDONLY):  # the file system may be read-only
        try:
            fd = posix.open(path, mode)
        except OSError:
            continue
        try:
            is_free = lock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:  # a file server that does not answer
            is_free = None
        posix.close(fd)
        return None if is_free is None else not is_free
    return None


def complain(text: str) -> None:
    """Write a line to stderr, which in a job is log/submit.N."""
    try:
        posix.write(2, ("psik: %s\n" % text).encode("utf-8", "surrogateescape"))
    except OSError:
        pass


# Processes.  Without /proc only those are known that were started here.

class Process:
    """A process as /proc shows it; in state X if it is not there."""

    def __init__(self, pid: int) -> None:
        stat = read("/proc/%d/stat" % pid)
        words = stat[stat.rfind(")") + 2:].split()  # the name, in (), may hold blanks and )
        self.pid = pid
        self.state = words[0] if words else "X"
        self.parent, self.session = (int(words[1]), int(words[3])) if words else (0, 0)
        self.started = words[19] if words else ""
        self._environment: "Optional[Dict[str, str]]" = None

    @property
    def environment(self) -> "Dict[str, str]":
        """The mark and the schedulers' ids in the environment that it was started with.

        {} if the environment cannot be read.
        """
        if self._environment is None:
            parts = read("/proc/%d/environ" % self.pid).split("\0")
            pairs = (part.split("=", 1) for part in parts if "=" in part)
            self._environment = {name: value for name, value in pairs
                                 if name == "PSIK_MARK" or name in SCHEDULER_IDS}
        return self._environment

    @property
    def lives(self) -> bool:
        """Whether it exists and is no zombie."""
        return self.state not in "ZX"


def our_processes(above: int = 0, everybodys: bool = False) -> "Dict[int, Process]":
    """This user's living processes whose id is greater than `above`, by id; {} without /proc.

    everybodys: other users' too.  A set-uid program (apptainer's, for one) shows as another
    user's, though this user started it and may signal it.
    """
    processes, user = {}, posix.getuid()
    try:
        names = posix.listdir("/proc")
    except OSError:
        return {}
    for name in names:
        if not name.isdigit() or int(name) <= above:
            continue
        try:
            if everybodys or posix.stat("/proc/" + name).st_uid == user:
                process = Process(int(name))
                if process.lives:
                    processes[process.pid] = process
        except OSError:  # it has ended meanwhile
            pass
    return processes


def last_process() -> int:
    """The process id that the system gave out last; 0 if it does not tell."""
    return int((read("/proc/loadavg").split() or ["0"])[-1])


def ancestors_of(pid: int) -> "List[int]":
    """The ids of a process's parent, grandparent and so on, up to the first process."""
    ancestors: "List[int]" = []
    while pid > 1 and len(ancestors) < 100:
        pid = Process(pid).parent
        ancestors.append(pid)
    return ancestors


def scheduler_ids(environment: "Dict[str, str]") -> str:
    """The job of a scheduler that an environment belongs to: `NAME=ID ...`, '' if to none."""
    return " ".join("%s=%s" % (name, environment[name])
                    for name in SCHEDULER_IDS if name in environment)


def given_environment() -> "Dict[bytes, bytes]":
    """The environment that this process was started with, if /proc shows it; else posix.environ.

    posix.environ may hold an LC_CTYPE that Python has added.
    """
    text = read("/proc/self/environ").encode("utf-8", "surrogateescape")
    pairs = (pair.partition(b"=") for pair in text.split(b"\0"))
    return {name: value for name, _, value in pairs if name} or dict(posix.environ)


def as_texts(environment: "Dict[bytes, bytes]") -> "Dict[str, str]":
    """An environment, decoded."""
    return {name.decode("utf-8", "surrogateescape"): value.decode("utf-8", "surrogateescape")
            for name, value in environment.items()}


def send(pid: int, *numbers: int) -> None:
    """Send signals to a process, or to the group -pid; pass over errors: it may have ended."""
    for number in numbers:
        try:
            posix.kill(pid, number)
        except OSError:
            pass


def this_host() -> str:
    """`HOSTNAME BOOTID NAMESPACE`, `-` for what is unknown.

    A process id means the same process only where all three are the same.
    """
    try:
        namespace = posix.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = "-"
    boot = read("/proc/sys/kernel/random/boot_id").strip() or "-"
    return "%s %s %s" % (posix.uname().nodename, boot, namespace)


def memory_cgroup(native: str) -> "Tuple[str, bool]":
    """(the folder of the cgroup that bounds the job's memory, whether it is of version 1).

    native: the job's id, which the path must hold: other jobs may share another cgroup.  The folder
    does not exist if there is none.
    """
    for line in read("/proc/self/cgroup").split("\n"):
        controllers, _, path = line.partition(":")[2].partition(":")
        numbers = "".join(each if each in DIGITS else " " for each in path).split()
        if native in numbers and "memory" in controllers.split(","):
            return "/sys/fs/cgroup/memory" + path, True
        if native in numbers and not controllers:
            return "/sys/fs/cgroup" + path, False
    return "/sys/fs/cgroup/none", False


def most_memory(native: str) -> str:
    """How much memory the job used at most, for the end of a reason; '' if that is not known."""
    folder, is_first = memory_cgroup(native)
    most = read(folder + ("/memory.max_usage_in_bytes" if is_first else "/memory.peak")).strip()
    return "; it used up to %d MiB" % (int(most) >> 20) if most.isdigit() else ""


def killed_for_memory(native: str) -> int:
    """How many processes of the job's cgroup were killed for want of memory, as far as is known."""
    folder, is_first = memory_cgroup(native)
    counts = read(folder + ("/memory.oom_control" if is_first else "/memory.events"))
    for words in [line.split() for line in counts.split("\n")]:
        if words[:1] == ["oom_kill"]:
            return int(words[1])
    return 0


# A step.

def rows_of(text: str) -> "List[Tuple[int, str, str]]":
    """(jobndx, state, info) of each row of a status.csv; skips invalid lines, as psik.py does."""
    rows = []
    for line in text.split("\n"):
        stamp, jobndx, state, info = (["", "", ""] + line.rsplit(",", 3))[-4:]
        numbers = (stamp.rstrip(".")[-1:] in DIGITS and DIGITS.issuperset(jobndx)
                   and 0 < len(jobndx) < 10)
        if numbers and state in STATES and info.split() == [info] * bool(info):
            rows.append((int(jobndx), state, info))
    return rows


def holds(pid: int, path: str) -> bool:
    """Whether a process has a file open under a lock, its own or one that it inherited."""
    try:
        wanted, names = posix.stat(path), posix.listdir("/proc/%d/fd" % pid)
    except OSError:  # it has ended meanwhile, or does not show its open files
        return False
    for name in names:
        try:
            stat = posix.stat("/proc/%d/fd/%s" % (pid, name))
        except OSError:  # it was closed meanwhile
            continue
        is_same = (stat.st_dev, stat.st_ino) == (wanted.st_dev, wanted.st_ino)
        if is_same and "\nlock:" in read("/proc/%d/fdinfo/%s" % (pid, name)):
            return True
    return False


class Claim:
    """log/claim.N: which submission runs a step, where, and below which processes.

    At the end two lines are added, which psik.py reads: cpu_s and memory_kib.  The fields are empty
    if there is no such file.
    """

    def __init__(self, text: str) -> None:
        values = dict((line.split(" ", 1) + [""])[:2] for line in text.splitlines())
        self.native, self.host, self.started = (
            values.get(name, "") for name in ("native", "host", "started"))
        self.pid = int("0" + "".join(filter(str.isdigit, values.get("pid", ""))))
        self.above = values.get("above", "").split()
        self.scheduler = values.get("scheduler", "")

    def is_running(self) -> bool:
        """Whether the supervisor that made it is alive, by process id and, in /proc, start time.

        This needs no locks, so it also serves file systems that have none.
        """
        if exists("/proc/self/stat"):
            process = Process(self.pid)
            return process.lives and process.started == self.started
        if not self.pid:  # a claim that was cut short; kill(2) takes 0 for our own group
            return False
        try:
            posix.kill(self.pid, 0)
        except OSError:
            return False
        return True


def claim_text(native: str) -> str:
    """What this process writes into its claim."""
    pid = posix.getpid()
    lines = (("native", native), ("host", this_host()), ("pid", str(pid)),
             ("started", Process(pid).started), ("above", " ".join(map(str, ancestors_of(pid)))),
             ("scheduler", scheduler_ids(as_texts(posix.environ))))
    return "".join("%s %s\n" % line for line in lines)


class Step:
    """A step of a job: its files, and what is alive of it."""

    def __init__(self, base: str, jobndx: int, offset: "Optional[int]" = None) -> None:
        """offset: what comes before its round, if it is that of an array."""
        self.base, self.jobndx, self.offset = base, jobndx, offset
        self.tag = "psik-%s.%d" % (base.rpartition("/")[2], jobndx)
        self.claim = Claim(read(self.log("claim")))

    def log(self, kind: str) -> str:
        """The path of one of its logs."""
        return "%s/log/%s.%d" % (self.base, kind, self.jobndx)

    def host(self) -> str:
        """The host that log/host.N names; for an array's round this is one file, log/host.20+."""
        return (read(self.log("host")) or self.offset is not None and read(
            "%s/log/host.%d+" % (self.base, self.offset)) or "").strip()

    @property
    def mark(self) -> str:
        """The PSIK_MARK of its processes, which also tells this submission from others."""
        return "%s/%s" % (self.tag, self.claim.native)

    def place(self) -> str:
        """Where it was claimed, as seen from this process; '' if it was not.

        `here`; `apart`: on this host, in another process namespace; `before`: on this host, before
        it was started again; `elsewhere`: on another host.  Its processes can be seen from `here`
        alone, its locks from `apart` too.  An unclaimed step is `elsewhere` if its log/host.N names
        another host.
        """
        node, boot, namespace = (self.claim.host.split() + ["", "", ""])[:3]
        our_node, our_boot, our_namespace = this_host().split()
        if not node:
            return "" if (self.host() or our_node) == our_node else "elsewhere"
        if node != our_node:
            return "elsewhere"
        return "before" if boot != our_boot else "here" if namespace == our_namespace else "apart"

    def is_adopted_by(self, pid: int) -> bool:
        """Whether a process is the supervisor, or may become the parent of the step's orphans.

        Orphans go to process 1, or to an ancestor that asked for them (prctl(2), subreaper).
        """
        return pid in (1, self.claim.pid) or str(pid) in self.claim.above

    def is_ours(self, process: Process, processes: "Dict[int, Process]") -> bool:
        """Whether a process carries the mark, and was started by the step.

        The mark alone proves nothing: at(1) hands the payload's environment on to a job of its own.
        The parent of that job's first process has no mark, and adopts no orphans of the step.
        """
        if (process.environment.get("PSIK_MARK") != self.mark
                or scheduler_ids(process.environment) != self.claim.scheduler):
            return False
        while process.environment.get("PSIK_MARK") == self.mark and process.parent in processes:
            process = processes[process.parent]
        is_marked = process.environment.get("PSIK_MARK") == self.mark  # its parent is hidden
        return self.is_adopted_by(process.parent if is_marked else process.pid)

    def is_anothers(self, process: Process) -> bool:
        """Whether a process carries the mark of another step, or another scheduler job's id."""
        mark, scheduler = process.environment.get("PSIK_MARK"), scheduler_ids(process.environment)
        return ((mark or self.mark) != self.mark
                or (scheduler or self.claim.scheduler) != self.claim.scheduler)

    def members(self, processes: "Dict[int, Process]", payload: int = 0) -> "Set[int]":
        """The ids of the step's living processes, without its supervisor.

        They are those that carry its mark, all in their sessions, and the descendants of these.
        payload: the process that was started here, whose session counts whatever it carries.
        Without /proc they are {-payload}, its group, or {}.
        """
        if not exists("/proc/self/stat"):
            return {-payload} if payload and is_group(payload) else set()
        members = {pid for pid, process in processes.items() if self.is_ours(process, processes)}
        own_session = Process(self.claim.pid).session  # may hold more than the step
        sessions = {processes[pid].session for pid in members} - {own_session} | {payload} - {0}
        members |= {pid for pid, process in processes.items() if process.session in sessions}
        more = members
        while more:
            more = {pid for pid, process in processes.items()
                    if process.parent in more and pid not in members
                    and not self.is_anothers(process)}
            members |= more
        return members - {self.claim.pid, posix.getpid()}

    def holders(self) -> "Set[int]":
        """The ids of the processes that keep log/alive.N locked, marked or not.

        A process that only checks the lock has the file open, but not under a lock.
        """
        path = self.log("alive")
        if not is_locked(path):
            return set()
        return {pid for pid in our_processes() if pid != posix.getpid() and holds(pid, path)}

    def rest(self, payload: int = 0, above: int = 0) -> "Set[int]":
        """The ids of all living processes of the step, without its supervisor.

        {0} if log/alive.N is locked by something that cannot be seen.  payload and above: as for
        members() and our_processes().
        """
        processes = our_processes(above, everybodys=payload > 0)
        pids = self.members(processes, payload) | self.holders()
        return pids or ({0} if is_locked(self.log("alive")) else set())

    def lives(self, processes: "Dict[int, Process]") -> bool:
        """Whether anything of a step claimed on this host is alive, its supervisor included."""
        paths = [path for path in (self.log("claim"), self.log("alive")) if exists(path)]
        locks = [is_locked(path) for path in paths]
        if True in locks or self.place() == "apart":  # whose processes cannot be seen from here
            return True in locks or None in locks
        return None in locks and self.claim.is_running() or bool(self.members(processes))

    def has_ended(self) -> bool:
        """Whether the history holds a final state of it."""
        return any(jobndx == self.jobndx and state in FINAL
                   for jobndx, state, _ in rows_of(read(self.base + "/status.csv")))


def is_group(group: int) -> bool:
    """Whether there is a process group of this number."""
    try:
        posix.killpg(group, 0)
    except OSError:
        return False
    return True


def end_processes(step: Step, payload: int, grace_s: float, wait: "Callable[[float], object]",
                  above: int = 0) -> "Tuple[bool, Set[int]]":
    """End all that is alive of a step: TERM and CONT, after the grace KILL.

    The result is (whether KILL was needed, the ids of what is still alive).  wait(seconds) sleeps,
    and reaps what was started here; above is for the first our_processes().
    """
    deadline, killed, pause_s = time.monotonic() + grace_s, False, 0.01
    rest = step.rest(payload, above)
    # The payload comes first, so that a shell that waits for others gets TERM before they end.
    # TERM is sent once: what a handler starts in order to save its work has until the KILL.
    for pid in sorted(rest - {0}, key=lambda pid: pid != payload):
        send(pid, _signal.SIGTERM, _signal.SIGCONT)  # a stopped process does not act on TERM
    while rest and time.monotonic() < deadline + KILL_WAIT_S:
        wait(pause_s)
        rest = step.rest(payload)
        if rest and time.monotonic() >= deadline:
            killed = True
            for pid in rest - {0}:
                send(pid, _signal.SIGKILL)
        pause_s = min(pause_s * 1.5, 0.2)
    return killed, rest


# Slots: the cores and GPUs that the jobs of a host share.

class Ticket:
    """A step's place in the queue for slots: a file that is locked while its supervisor lives.

    Its text is a line: slots, gpus, the supervisor's process id, whether it is granted (1 or 0),
    the numbers of the GPUs that it got, with commas or `-`, and the path of log/alive.N.  It counts
    as long as its own lock or that of log/alive.N is held; so whatever is killed frees its slots.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        words = (read(path).split(" ", 5) + [""] * 6)[:6]
        self.slots, self.gpus, self.pid, granted = [int("0" + word) for word in words[:4]]
        self.is_granted = bool(granted)
        self.gpu_numbers = [int(word) for word in words[4].split(",") if word.isdigit()]
        self.alive = words[5].strip()

    def counts(self) -> bool:
        """Whether anything of its step is alive."""
        return is_locked(self.path) is not False or bool(
            self.alive and exists(self.alive) and is_locked(self.alive))


class Slots:
    """The slots of this host that the jobs of a prefix share, and the queue for them."""

    def __init__(self) -> None:
        self.folder: str = SETTINGS.get("slots_folder") or ""
        self.there: "Dict[str, int]" = SETTINGS.get("shared") or {}
        self.own = ""           # the path of our ticket
        self.fd = -1            # which keeps it locked
        self.ahead = ""         # the ticket before ours, if it waited at the last look
        self.place = 0          # how many tickets were before ours then
        self.touched = time.monotonic()

    def make_folder(self) -> None:
        """Make the folder; OSError if it is somebody else's."""
        for folder in (self.folder.rpartition("/")[0], self.folder):
            try:
                posix.mkdir(folder, 0o700)
            except FileExistsError:
                pass
            status = posix.lstat(folder)
            if status.st_uid != posix.getuid() or status.st_mode & 0o170022 != 0o40000:
                raise OSError(errno.EACCES, "%s belongs to somebody else, or others may write to "
                              "it" % folder)

    def lock(self) -> int:
        """Keep others from changing the queue; a descriptor, to be closed when that is done."""
        path, tries_left = self.folder + "/lock", 100
        while True:
            try:
                self.make_folder()
                fd = posix.open(path, posix.O_RDWR | posix.O_CREAT, 0o600)
            except FileNotFoundError:   # whoever left last removed the folder just now
                tries_left -= 1
                if not tries_left:
                    raise
                continue
            lock(fd)
            try:    # whoever leaves last removes the folder
                if posix.stat(path).st_ino == posix.fstat(fd).st_ino:
                    return fd
            except OSError:
                pass
            posix.close(fd)

    def paths(self) -> "List[str]":
        """The tickets, first come first."""
        try:
            names = sorted(name for name in posix.listdir(self.folder) if name.isdigit())
        except OSError:
            return []
        return ["%s/%s" % (self.folder, name) for name in names]

    def text(self, alive: str, gpus: "Optional[List[int]]" = None) -> str:
        """The text of our ticket; gpus: those that it got, if it is granted."""
        numbers = ",".join(map(str, gpus or ())) or "-"
        wanted = SETTINGS["shares"]
        return "%d %d %d %d %s %s\n" % (wanted["slots"], wanted["gpus"], posix.getpid(),
                                        gpus is not None, numbers, alive)

    def queue(self, alive: str) -> None:
        """Take a ticket; OSError."""
        fd = self.lock()
        try:
            last = (self.paths() or ["/0"])[-1].rpartition("/")[2]
            self.own = "%s/%09d" % (self.folder, int(last) + 1)
            self.fd = write(self.own, self.text(alive))
            lock(self.fd)
        finally:
            posix.close(fd)

    def ask(self, alive: str) -> "Optional[List[int]]":
        """The numbers of our GPUs if it is our turn, and there is enough for us; else None."""
        if self.ahead and is_locked(self.ahead) and not Ticket(self.ahead).is_granted:
            return None
        fd = self.lock()
        try:
            gpus = self.free_gpus()
            if gpus is not None:
                posix.lseek(self.fd, 0, 0)
                write_whole(self.fd, self.text(alive, gpus))
            return gpus
        finally:
            posix.close(fd)

    def free_gpus(self) -> "Optional[List[int]]":
        """What ask() returns; the queue must be locked.  Tickets of what has ended are removed."""
        self.ahead, self.place, granted = "", 0, []
        for path in self.paths():
            ticket = Ticket(path)
            if path != self.own and not ticket.counts():
                posix.unlink(path)
            elif ticket.is_granted:
                granted.append(ticket)
            elif path < self.own:
                self.ahead = path
                self.place += 1
        wanted, there = SETTINGS["shares"], self.there
        if self.ahead or ("slots" in there and wanted["slots"] + sum(
                ticket.slots for ticket in granted) > there["slots"]):
            return None
        taken = {number for ticket in granted for number in ticket.gpu_numbers}
        free = [number for number in range(there.get("gpus", 0)) if number not in taken]
        if "gpus" in there and wanted["gpus"] > len(free):
            return None
        return free[:wanted["gpus"]]

    def touch(self) -> None:
        """Once an hour, keep what removes old files from /tmp from removing ours."""
        if self.own and time.monotonic() - self.touched > TOUCH_S:
            self.touched = time.monotonic()
            for path in (self.folder.rpartition("/")[0], self.folder, self.folder + "/lock",
                         self.own):
                try:
                    posix.utime(path)
                except OSError:
                    pass

    def leave(self) -> None:
        """Give back what we have; whoever is the last removes the folder."""
        if not self.own:
            return
        fd = -1
        try:
            fd = self.lock()    # first: a ticket that is not locked may be removed by others
            posix.unlink(self.own)
            for path in self.paths():
                if Ticket(path).counts():
                    break
                posix.unlink(path)
            else:
                posix.unlink(self.folder + "/lock")
                posix.rmdir(self.folder)
        except OSError:
            pass
        posix.close(self.fd)
        if fd >= 0:     # else the queue would stay locked until this process ends
            posix.close(fd)
        self.own = ""

    def waiting(self) -> "Dict[Tuple[object, ...], Tuple[int, str]]":
        """{identity of log/alive.N: (supervisor, what it waits for)} of the steps that wait."""
        found = {}
        for ticket in map(Ticket, self.paths() if self.folder else ()):
            if not ticket.is_granted and ticket.alive and is_locked(ticket.path):
                parts = ["%d of %d %s" % (asked, self.there[name], name) for name, asked in (
                    ("slots", ticket.slots), ("gpus", ticket.gpus))
                    if asked and name in self.there]
                found[identity(ticket.alive)] = (ticket.pid, "waits for " + " and ".join(parts))
        return found


# What the backends' cancel and poll ask.

def steps_of_natives(natives: "List[str]") -> "Iterator[Tuple[str, Step]]":
    """(native id, step) of each step that had one of these native ids, by the histories."""
    folder = SETTINGS["base"].rpartition("/")[0]
    for jobid in [name for name in posix.listdir(folder) if name[0] in DIGITS]:
        rows = rows_of(read("%s/%s/status.csv" % (folder, jobid)))
        found = {jobndx: native for jobndx, state, native in rows
                 if state in ("queued", "active") and native in natives}
        for jobndx, native in found.items():
            yield native, Step("%s/%s" % (folder, jobid), jobndx)


def asked_steps(natives: "List[str]") -> "Iterator[Tuple[str, Step]]":
    """(native id, step) of each line `NATIVEID psik-JOBID.JOBNDX` on stdin.

    The jobs lie in the same folder as this one.  In place of JOBNDX, a task of an array may have
    OFFSET+TASK.  natives: the words of the command line, by which version 1.0.0 asks; its stdin is
    empty.
    """
    lines = open(0, "rb").readlines()
    if not lines:
        yield from steps_of_natives(natives)
    for line in lines:
        native, _, tag = line.decode("utf-8", "surrogateescape").strip().partition(" ")
        jobid, _, jobndx = tag[len("psik-"):].rpartition(".")
        before, plus, task = jobndx.partition("+")
        base = "%s/%s" % (SETTINGS["base"].rpartition("/")[0], jobid)
        if jobid and jobndx.isdigit():
            yield native, Step(base, int(jobndx))
        elif jobid and before.isdigit() and task.isdigit():
            yield native, Step(base, int(before) + int(task), int(before))


def running_scripts() -> "Set[str]":
    """The directories of the jobs whose scripts/job or scripts/run is running."""
    words = (word for pid in our_processes()
             for word in read("/proc/%d/cmdline" % pid).split("\0"))
    ends = ("/scripts/job", "/scripts/run")  # of one length
    return {word[:-len(ends[0])] for word in words if word.endswith(ends)}


def identity(path: str) -> "Tuple[object, ...]":
    """What a path leads to, as its folder and its name: a tree may be reached in several ways."""
    folder, _, name = path.rpartition("/")
    try:
        status = posix.stat(folder)
        return status.st_dev, status.st_ino, name
    except OSError:
        return (path,)


def has_array(base: str) -> bool:
    """Whether a supervisor of an array of this job is alive: it keeps log/host.OFFSET+ locked."""
    try:
        names = posix.listdir(base + "/log")
    except OSError:
        return False
    return any(is_locked("%s/log/%s" % (base, name)) for name in names
               if name.startswith("host.") and name.endswith("+"))


def poll(natives: "List[str]") -> int:
    """Print a poll line for each step that is alive, or whose supervisor was killed.

    A step on another host counts as alive.
    A step without a claim is only beginning, or was started by psik.py 1.0.0, whose native ids are
    numbers of sessions.
    """
    processes, steps, waiting = our_processes(), list(asked_steps(natives)), Slots().waiting()
    unclaimed = {step.base for _, step in steps if not step.claim.host}
    running = set(map(identity, running_scripts())) if unclaimed else set()
    begun = {base for base in unclaimed if identity(base) in running or has_array(base)}
    for native, step in steps:
        native, place = step.claim.native if native == "-" else native, step.place()
        if place == "elsewhere":
            host = (step.claim.host.split() or ["another host"])[0]
            print(native, "active - %s it runs on %s" % (step.tag, host))
        elif place in ("here", "apart") and step.lives(processes):
            print(native, "active -", step.tag)
        elif place == "here":
            print(native, "failed -", step.tag,
                  "its supervisor was killed, and nothing of it is left")
        elif not place and waiting and identity(step.log("alive")) in waiting:
            print(native, "queued -", step.tag, waiting[identity(step.log("alive"))][1])
        elif not place and (step.base in begun
                            or not processes and native.isdigit() and is_group(int(native))):
            print(native, "active -", step.tag)
    sys.stdout.flush()
    return 0


def await_end(step: Step, limit_s: float) -> bool:
    """Wait until nothing of a step is alive; False if something still is after limit_s."""
    deadline, pause_s = time.monotonic() + limit_s, 0.005
    while step.lives(our_processes()):
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.2)
    return True


def is_supervised(step: Step) -> bool:
    """Whether the supervisor of a step of this host is alive."""
    return is_locked(step.log("claim")) is not False and step.claim.is_running()


def end_here(step: Step, grace_s: float) -> str:
    """End a step of this host; '', or a message about what is still alive.

    Its supervisor does it; if that is gone, or does not answer, this process does.
    """
    if is_supervised(step):
        send(step.claim.pid, _signal.SIGTERM, _signal.SIGCONT)
        if await_end(step, grace_s + KILL_WAIT_S + CANCEL_LOOK_S):  # the longest that it may take
            return ""
        send(step.claim.pid, _signal.SIGKILL)
    end_processes(step, 0, grace_s, time.sleep)
    if await_end(step, 1):
        return ""
    alive = sorted(step.rest() - {0})
    if not alive and step.has_ended():  # its supervisor has done all that can be done
        return ""
    if not alive:
        return "something keeps %s locked" % step.log("alive")
    return "still alive after KILL: process %s" % " ".join(map(str, alive))


def end_elsewhere(step: Step, grace_s: float) -> str:
    """Ask the supervisor of a step on another host to end it; '', or a message if it has not.

    A supervisor in another process namespace of this host is asked in the same way.
    """
    posix.close(write(step.log("cancel"), ""))
    deadline = time.monotonic() + grace_s + 3 * CANCEL_LOOK_S
    while not step.has_ended() and (step.place() == "elsewhere" or step.lives({})):
        if time.monotonic() > deadline:
            host = (step.claim.host or step.host() or "?").split()[0]
            return "its host, %s, has not answered the request %s" % (host, step.log("cancel"))
        time.sleep(0.1)
    return ""


def cancel(natives: "List[str]") -> int:
    """End the steps that stdin names; 1 if one of them is still alive, else 0.

    Nothing is done about a step of this host without a claim, whose supervisor will see in the
    history that it is canceled, nor about one from before the host was started again.
    """
    status, grace_s = 0, float(SETTINGS["grace_s"])
    ways = {"here": end_here, "apart": end_elsewhere, "elsewhere": end_elsewhere}
    steps = [step for _, step in asked_steps(natives)]
    request_ends(steps)
    begun = time.monotonic()
    for step in steps:
        end = ways.get(step.place())
        # All were asked at once, so those on other hosts have one deadline together.
        left_s = grace_s if end is end_here else begun + grace_s - time.monotonic()
        fault = end(step, left_s) if end else ""
        if fault:
            complain("step %d: %s" % (step.jobndx, fault))
            status = 1
    end_waiting(steps)
    arrays = {identity(step.base) for step in steps
              if step.offset is not None and not step.place()
              and not exists(step.log("cancel"))}   # else only some of its tasks are to end
    deadline = time.monotonic() + 2 * CANCEL_LOOK_S
    while arrays & set(map(identity, running_scripts())) and time.monotonic() < deadline:
        time.sleep(0.05)    # until the supervisor of the array has seen it
    return status


def end_waiting(steps: "List[Step]") -> None:
    """Let the supervisors of those steps that wait for slots see that they are canceled."""
    deadline, pids = time.monotonic() + 2 * CANCEL_LOOK_S, {0}
    while pids and time.monotonic() < deadline:
        waiting = Slots().waiting()
        names = [identity(step.log("alive")) for step in steps]
        pids = {waiting[name][0] for name in names if name in waiting}
        for pid in pids:
            send(pid, _signal.SIGTERM)
        time.sleep(0.02 if pids else 0)


def request_ends(steps: "List[Step]") -> None:
    """Ask all supervisors of these steps to end them, before one is waited for."""
    for step in steps if len(steps) > 1 else ():
        place = step.place()
        if place == "here" and is_supervised(step):
            send(step.claim.pid, _signal.SIGTERM, _signal.SIGCONT)
        elif place in ("apart", "elsewhere"):
            posix.close(write(step.log("cancel"), ""))


def pass_signal(name: str) -> int:
    """Send a signal to the supervisors of the steps that stdin names, which pass it on.

    1 if one is not on this host, or has ended; else 0.
    """
    faults = []
    for _, step in asked_steps([]):
        place = step.place()
        if place == "here" and is_supervised(step):
            send(step.claim.pid, getattr(_signal, "SIG" + name))
        elif place in ("here", "before"):
            faults.append("step %d has no supervisor any more" % step.jobndx)
        elif place == "apart":
            faults.append("step %d runs in another container; send the signal there" % step.jobndx)
        else:
            host = (step.claim.host.split() or ["another host"])[0]
            faults.append("step %d runs on %s; send the signal there" % (step.jobndx, host))
    for fault in faults:
        complain(fault)
    return 1 if faults else 0


# Processes of a parallel program, on a host without mpirun.

class Ranks:
    """Processes of one program, each of which knows its rank; their output comes line by line.

    If one fails, the others are ended, as mpirun does it.
    """

    def __init__(self, size: int) -> None:
        self.size, self.code = size, 0      # the exit status of the first that failed
        self.pids: "Set[int]" = set()
        self.targets: "Dict[int, int]" = {}     # {descriptor to read from: ours to write to}
        self.rest: "Dict[int, bytes]" = {}      # what was read of a line that is not complete

    def start(self, rank: int, path: str, argv: "List[str]") -> None:
        """Start the process of a rank."""
        pipes = {target: posix.pipe() for target in (1, 2)}
        pid = posix.fork()
        if not pid:
            try:
                for number in (_signal.SIGPIPE, _signal.SIGXFSZ):   # which Python ignores
                    _signal.signal(number, _signal.SIG_DFL)
                for target, (_, sender) in pipes.items():
                    posix.dup2(sender, target)
                environment = dict(posix.environ)
                environment.update({b"PSIK_RANK": b"%d" % rank, b"PSIK_SIZE": b"%d" % self.size})
                posix.execve(path, argv, environment)
            except OSError as err:
                complain("%s: %s" % (path, err.strerror))
            posix._exit(126)
        self.pids.add(pid)
        for target, (receiver, sender) in pipes.items():
            posix.close(sender)
            self.targets[receiver], self.rest[receiver] = target, b""

    def pass_on(self, receiver: int) -> None:
        """Write the whole lines of what a process has written; at its end, all of it."""
        data = posix.read(receiver, 65536)
        lines = self.rest[receiver] + data
        cut = lines.rfind(b"\n") + 1 if data and len(lines) < 65536 else len(lines)
        self.rest[receiver] = lines[cut:]
        self.put(self.targets[receiver], lines[:cut])
        if not data:
            posix.close(receiver)
            del self.targets[receiver]

    def put(self, target: int, lines: bytes) -> None:
        """Write lines; if nobody takes them any more, the processes are ended."""
        try:
            while lines:
                lines = lines[posix.write(target, lines):]
        except OSError:
            self.fail(1)

    def fail(self, code: int) -> None:
        """End the processes that still run, because of the first failure."""
        if not self.code:
            self.code = code
            for pid in self.pids:
                send(pid, _signal.SIGTERM, _signal.SIGCONT)

    def reap(self) -> None:
        """Take note of those that have ended."""
        for pid in list(self.pids):
            ended, status = posix.waitpid(pid, posix.WNOHANG)
            if not ended:
                continue
            self.pids.discard(pid)
            if status:
                exited = posix.WIFEXITED(status)
                self.fail(posix.WEXITSTATUS(status) if exited else 128 + posix.WTERMSIG(status))

    def run(self, argv: "List[str]") -> int:
        """Run a program in all ranks; the exit status."""
        import select
        path = find_program(argv[0])
        if not path:
            complain("%s: not found" % argv[0])
            return 127
        for rank in range(self.size):
            self.start(rank, path, argv)
        while self.targets:
            ready = select.select(list(self.targets), [], [], 0.1)[0]
            for receiver in ready:
                self.pass_on(receiver)
            self.reap()
            if not self.pids and not ready:     # something of theirs lives on, and has our pipes
                break
        for receiver, target in self.targets.items():
            self.put(target, self.rest[receiver])
        while self.pids:
            self.reap()
            time.sleep(0.01)
        return self.code


# In the job.

class History:
    """The job's status.csv, open; lock() keeps other writers out, if it can."""

    def __init__(self, base: str, before: "Optional[History]" = None) -> None:
        """before: one that was read already."""
        self.base = base
        self.fd = posix.open(base + "/status.csv", posix.O_RDWR | posix.O_APPEND)
        self.unsynced: "List[int]" = []
        self.rows: "List[Tuple[int, str, str]]" = []
        # The rows of the lines before self.offset.
        self.known: "List[Tuple[int, str, str]]" = before.known if before else []
        self.offset: int = before.offset if before else 0

    def lock(self) -> None:
        """Lock and read it.

        Goes on without the lock if somebody holds it for too long, or the file system has none:
        one write of a short line to the end of a file stays whole.
        """
        deadline, kind = time.monotonic() + HISTORY_LOCK_S, fcntl.LOCK_EX | fcntl.LOCK_NB
        while lock(self.fd, kind) is False and time.monotonic() < deadline:
            time.sleep(0.002)
        self.read()

    def read(self) -> None:
        """Read what was added since the last time."""
        text = read(self.base + "/status.csv", self.offset)
        whole, end, rest = text.rpartition("\n")
        self.known += rows_of(whole)
        self.offset += len(as_bytes(whole + end))
        self.torn = bool(rest)
        self.rows = self.known + rows_of(rest)

    def unlock(self) -> None:
        """Let others have it."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_UN)
        except OSError:
            pass

    def append(self, jobndx: int, state: str, info: str) -> None:
        """Append a transition, and before it, if the job has a callback, write its event.

        sync() brings both to the disk.
        """
        if SETTINGS["callback_timeout_s"] and not SETTINGS.get("final_only"):
            self.put_event(jobndx, state, info)
        # A row that was cut short, on a full disk say, is ended first, so that it spoils no other.
        row = "%.3f,%d,%s,%s\n" % (time.time(), jobndx, state, info)
        text, self.torn = "\n" * self.torn + row, True
        try:
            write_whole(self.fd, text)
            posix.close(posix.dup(self.fd))     # NFS tells only then whether there was room
        except OSError:  # finish() tries again, with a new event in this one's place
            if self.unsynced:
                posix.close(self.unsynced.pop())
            raise
        self.torn = False
        self.rows.append((jobndx, state, info))

    def put_event(self, jobndx: int, state: str, info: str) -> None:
        """Write the event of the next row into the outbox, in the format of psik.py's own."""
        folder, _, jobid = self.base.rpartition("/")
        folder += "/.outbox"
        is_number = info.isdigit() and len(info) < 19
        quoted = info if is_number else '"%s"' % info.replace("\\", "\\\\").replace('"', '\\"')
        text = ('{"delivery": "%s", "jobid": "%s", "place": %d, "jobndx": %d, "state": "%s",'
                ' "info": %s, "made": %.3f}\n' % (posix.urandom(16).hex(), jobid, len(self.rows),
                                                  jobndx, state, quoted, time.time()))
        path = "%s/%s.%06d.json" % (folder, jobid, len(self.rows))
        temporary = "%s.%d" % (path, posix.getpid())
        try:
            posix.mkdir(folder, 0o700)
        except FileExistsError:
            pass
        self.unsynced.append(write(temporary, text))
        posix.rename(temporary, path)

    def sync(self) -> None:
        """Bring the rows and their events to the disk; without events, leave that to the system."""
        fds, self.unsynced = self.unsynced, []
        try:
            for fd in fds + [self.fd] * bool(fds):
                posix.fsync(fd)
        finally:
            for fd in fds:
                posix.close(fd)

    def is_canceled(self, jobndx: int) -> bool:
        """Whether the job was canceled after the step was queued.

        Without a `queued` row, only the first step counts as canceled: the row may mean an earlier
        step.
        """
        queued = [place for place, row in enumerate(self.rows) if row[:2] == (jobndx, "queued")]
        is_first = all(row[0] in (0, jobndx) for row in self.rows)
        later = [row[:2] for row in self.rows[max(queued or [0]):]]
        return (bool(queued) or is_first) and (0, "canceled") in later

    def ended(self) -> "Set[int]":
        """The steps that have a final row."""
        return {jobndx for jobndx, state, _ in self.rows if state in FINAL}

    def has_ended(self, tasks: int) -> bool:
        """Whether the latest step of each task has ended."""
        latest: "Dict[int, Tuple[int, str]]" = {}
        for jobndx, state, _ in self.rows:
            task = (jobndx - 1) % tasks
            if jobndx and latest.get(task, (0, ""))[0] <= jobndx:
                latest[task] = (jobndx, state)
        return len(latest) == tasks and all(state in FINAL for _, state in latest.values())


def start(argv: "List[str]", environment: "Dict[bytes, bytes]", out: str, err: str) -> int:
    """Start a program in a session of its own, its stdin empty, no signal blocked; its process id.

    OSError if it cannot be started.
    """
    append = posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND | posix.O_NOFOLLOW
    files = (("/dev/null", posix.O_RDONLY), (out, append), (err, append))
    try:  # fork would copy the interpreter's memory, which takes longer than all the rest here
        actions = [(posix.POSIX_SPAWN_OPEN, fd, path, flags, 0o666)
                   for fd, (path, flags) in enumerate(files)]
        return posix.posix_spawn(argv[0], argv, environment,
                                 file_actions=actions, setsid=True, setsigmask=())
    except (AttributeError, NotImplementedError):  # before Python 3.8, or with an old C library
        return start_forked(argv, environment, files)


def start_forked(argv: "List[str]", environment: "Dict[bytes, bytes]",
                 files: "Tuple[Tuple[str, int], ...]") -> int:
    """As start(), by fork and exec; the child sends the number of its error through a pipe."""
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
    failed = posix.read(receiver, 20)  # nothing if exec closed the child's end
    posix.close(receiver)
    if failed:
        posix.waitpid(pid, 0)
        raise OSError(int(failed), posix.strerror(int(failed)))
    return pid



class Run:
    """A step that this process runs."""

    def __init__(self, jobndx: int, words: "Dict[str, str]",
                 history: "Optional[History]" = None) -> None:
        """words: the variables that scripts/job has set; history: what was read of it already."""
        self.step = Step(SETTINGS["base"], jobndx)
        self.history = History(SETTINGS["base"], history)
        self.tasks = max(1, SETTINGS.get("tasks", 1))
        self.words = words
        self.walltime_s = int("0" + words["psik_walltime_s"])  # 0 if a scheduler sees to it
        self.native = ""
        self.payload = 0
        self.code: "Optional[int]" = None       # of the payload, once it has ended
        self.stopped = 0                        # 128 + the signal that ended the step, if one did
        self.reason = ""
        self.deliveries: "Set[int]" = set()
        self.killed = 0                         # of its cgroup, before it began
        self.slots = Slots()
        self.gpus: "List[int]" = []             # the numbers of those that it got
        self.began = self.looked = time.monotonic()
        self.counts_usage, self.cpu_s, self.memory_kib = False, 0.0, 0  # of what it has started

    # Claiming.

    def find_native(self) -> str:
        """The native id of this submission, which scripts/job sets as `jobid`.

        `own`: the id of this process; `ask`: what submit printed, by the step's `queued` row.
        The tasks of an array have the array's id.
        """
        jobid = self.words["array"] or self.words["jobid"]
        if jobid == "ask":
            ids = [info for jobndx, state, info in self.history.rows
                   if (jobndx, state) == (self.step.jobndx, "queued")]
            return (ids or [""])[-1]
        return str(posix.getpid()) if jobid == "own" else "".join(jobid.split()).replace(",", "")

    def claim(self) -> bool:
        """Claim the step, or the next one if its scheduler runs it again.

        False if another submission has claimed it.
        """
        while not self.link_claim():
            owner = Claim(read(self.step.log("claim")))
            if not self.native or owner.native != self.native:
                host = (owner.host.split() or ["?"])[0]
                complain("step %d was claimed by %s on %s; this submission of it, %s, runs nothing"
                         % (self.step.jobndx, owner.native or "another", host, self.native))
                return False
            self.begin_next()
        self.step.claim = Claim(read(self.step.log("claim")))
        return True

    def begin_next(self) -> None:
        """Go on to the next step: the scheduler has requeued the job under the same native id.

        Its `queued` row may be there already: psik.py writes it if it sees the job wait.
        """
        task = self.step.jobndx % self.tasks
        rows = [row for row in self.history.rows if row[0] and row[0] % self.tasks == task]
        claimed = [jobndx for jobndx in self.claimed() if jobndx % self.tasks == task]
        ours = [step for step in (Step(SETTINGS["base"], jobndx) for jobndx in claimed)
                if step.claim.native == self.native]
        previous = max(ours, key=lambda step: step.jobndx)
        queued = [jobndx for jobndx, state, info in rows if (state, info) == ("queued", self.native)
                  and jobndx > previous.jobndx and jobndx not in claimed]
        jobndx = queued[0] if queued else max(claimed + [row[0] for row in rows]) + self.tasks
        self.step = Step(SETTINGS["base"], jobndx)
        if not queued:
            reason = "its scheduler runs it again, as step %d\n" % jobndx
            posix.close(write(previous.log("reason"), reason))
            if not previous.has_ended():  # its node was lost
                self.history.append(previous.jobndx, "failed", "1")
            self.history.append(jobndx, "queued", self.native)
        self.write_to_log()

    def claimed(self) -> "List[int]":
        """The steps of the job that are claimed."""
        names = posix.listdir(SETTINGS["base"] + "/log")
        return [int(name[6:]) for name in names
                if name.startswith("claim.") and name[6:].isdigit()]

    def link_claim(self) -> bool:
        """Make log/claim.N, which others see whole and locked at once; False if it exists."""
        path, text = self.step.log("claim"), claim_text(self.native)
        temporary = "%s.%d" % (path, posix.getpid())
        self.claim_fd = write(temporary, text)
        lock(self.claim_fd)
        try:
            posix.link(temporary, path)
        except FileExistsError:
            # With two links it is ours: the file server made it, and its answer was lost.
            if posix.stat(temporary).st_nlink == 1:
                posix.close(self.claim_fd)
                return False
        except OSError:  # a file system without hard links; others may see the claim still empty
            posix.close(self.claim_fd)
            try:
                self.claim_fd = write(path, text, posix.O_EXCL)
            except FileExistsError:
                return False
            lock(self.claim_fd)
        finally:
            posix.unlink(temporary)
        return True

    def await_slots(self) -> None:
        """Wait until the slots are free that the step needs, or until it need not run."""
        if not any(SETTINGS["shares"][name] for name in self.slots.there):
            return
        alive = self.step.log("alive")
        self.slots.queue(alive)
        while not self.stopped:
            gpus = self.slots.ask(alive)
            if gpus is not None:
                self.gpus = gpus
                break
            # Whoever is far behind looks less often: there may be thousands.
            self.handle(self.wait(min(CANCEL_LOOK_S, 0.05 + 0.05 * self.slots.place)))
            self.slots.touch()
            self.history.read()
            if self.history.is_canceled(self.step.jobndx) or exists(self.step.log("cancel")):
                break
        self.began = time.monotonic()

    def begin(self) -> bool:
        """Claim the step and record that it is active; False if it must not run."""
        self.write_to_log()
        try:
            self.await_slots()
        except OSError as err:
            self.code = 1
            self.reason = "its slots cannot be counted: " + ": ".join(
                filter(None, (str(err.filename or ""), err.strerror)))
        self.history.lock()
        try:
            self.native = self.find_native()
            # A cancel concerns the submission, also if that is requeued and runs the next step.
            is_canceled = self.history.is_canceled(self.step.jobndx)
            if not self.claim():
                return False
            jobndx = self.step.jobndx
            if is_canceled or exists(self.step.log("cancel")):
                if jobndx not in self.history.ended():  # psik.py may have recorded it
                    self.history.append(jobndx, "canceled", "143")
                return False
            self.history.append(jobndx, "active", self.native)
            self.killed = 0 if self.walltime_s else killed_for_memory(self.words["jobid"])
            return True
        finally:
            self.history.unlock()

    def write_to_log(self) -> None:
        """From now on append stdout and stderr to log/submit.N."""
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND
        fd = posix.open(self.step.log("submit"), flags, 0o600)
        posix.dup2(fd, 1)
        posix.dup2(fd, 2)
        posix.close(fd)

    # Running.

    def environment(self) -> "Dict[bytes, bytes]":
        """The payload's environment: what the job was given, the spec's own, psik.py's own."""
        environment = given_environment()
        for name in (b"psik_walltime_s", b"psik_task"):
            environment.pop(name, None)
        for name, value in ((b"nl", b"\n"), (b"tab", b"\t")):  # rc's own, which it exports
            if environment.get(name) == value:
                del environment[name]
        for name in [name for name in environment if name.startswith(FUNCTION)]:
            try:
                name, _, value = bytes.fromhex(environment.pop(name).decode()).partition(b"=")
                environment[name] = value
            except ValueError:  # not one of psik.py's
                pass
        if self.gpus:
            numbers = ",".join(map(str, self.gpus)).encode()
            environment.update(dict.fromkeys(GPU_VARIABLES, numbers))
        if b"SLURM_CPUS_PER_TASK" in environment:  # which srun reads no more, from Slurm 22.05 on
            environment.setdefault(b"SRUN_CPUS_PER_TASK", environment[b"SLURM_CPUS_PER_TASK"])
        ours = {"PWD": SETTINGS["directory"]}
        ours.update(SETTINGS["environment"])
        variables = self.task_variables()
        ours.update(variables)
        joint = " " if SETTINGS.get("splits_words") else "\x01"  # \x01: as rc exports a list
        ours.update({"mpirun": self.words["mpirun"].replace("\x01", joint),
                     "nodes": self.words["nodes"], "base": SETTINGS["base"], "jobid": self.native,
                     "jobndx": str(self.step.jobndx), "psik": SETTINGS["psik"],
                     "rc": SETTINGS["rc"].replace("\x01", joint), "PSIK_MARK": self.step.mark})
        if SETTINGS.get("has_setup"):  # where a login reads files that may change these
            ours.update({"PSIK_SET_" + name: value for name, value in
                         dict(SETTINGS["environment"], **variables).items()})
        environment.update({as_bytes(name): as_bytes(value) for name, value in ours.items()})
        return environment

    def task_variables(self) -> "Dict[str, str]":
        """The variables of this task of an array; {} if the job is none."""
        if not SETTINGS.get("tasks"):
            return {}
        head, *lines = read(SETTINGS["base"] + "/scripts/tasks").rstrip("\n").split("\n")
        values = lines[(self.step.jobndx - 1) % self.tasks].split("\t")
        numbers = [line.split("\t")[0] for line in lines]
        words = dict(zip(("TASK", "COUNT", "MIN", "MAX"), (
            values[0], str(self.tasks), min(numbers, key=int), max(numbers, key=int))))
        is_own = self.words["jobid"] in ("own", "ask")
        return dict(([] if is_own else self.scheduler_variables(words)),
                    **dict(zip(head.split("\t"), values), tasks=str(self.tasks)))

    @staticmethod
    def scheduler_variables(words: "Dict[str, str]") -> "List[Tuple[str, str]]":
        """The variables in which the scheduler tells a script its task, with the spec's numbers."""
        given = as_texts(posix.environ)
        return [(name, words[word]) for mark, names in ARRAY_VARIABLES if mark in given
                for name, word in names]

    def start_payload(self) -> None:
        """Start scripts/run, which inherits a lock on log/alive.N."""
        out, err = self.step.log("stdout"), self.step.log("stderr")
        posix.close(write(out, ""))
        if SETTINGS.get("join_output"):
            join(out, err)
            err = out
        else:
            posix.close(write(err, ""))
        alive = write(self.step.log("alive"), "")
        lock(alive)
        try:
            inherited = posix.dup2(alive, ALIVE_FD) or ALIVE_FD  # None before Python 3.7
        except OSError:  # the limit of open files is lower than that
            inherited = posix.dup(alive)
            posix.set_inheritable(inherited, True)
        try:
            argv = [SETTINGS["base"] + "/scripts/run"]
            if SETTINGS.get("has_setup"):
                argv = [find_bash(), "-l", SETTINGS["base"] + "/scripts/setup"]
            self.payload = start(argv, self.environment(), out, err)
        finally:  # a descriptor of ours would keep the lock when the payload has ended
            posix.close(alive)
            posix.close(inherited)

    def wait(self, timeout_s: float) -> int:
        """Wait for a signal, for timeout_s at most, and reap what has ended; the signal, or 0."""
        number = next_signal(timeout_s)
        while True:
            try:
                pid, status = self.reap()
            except ChildProcessError:
                pid = 0
            if not pid:
                return number
            if pid == self.payload:
                exited = posix.WIFEXITED(status)
                self.code = posix.WEXITSTATUS(status) if exited else 128 + posix.WTERMSIG(status)
            self.deliveries.discard(pid)

    def reap(self) -> "Tuple[int, int]":
        """(process id, status) of a child that has ended, (0, 0) if none has; counts its usage."""
        if not self.counts_usage:
            return posix.waitpid(-1, posix.WNOHANG)
        pid, status, usage = posix.wait4(-1, posix.WNOHANG)
        if pid and pid not in self.deliveries:
            self.cpu_s += usage.ru_utime + usage.ru_stime
            unit = 1024 if sys.platform == "darwin" else 1
            self.memory_kib = max(self.memory_kib, usage.ru_maxrss // unit)
        return pid, status

    def stop(self, number: int, reason: str) -> None:
        """Let the step end, with the exit status of this signal."""
        self.stopped, self.reason = 128 + number, reason

    def handle(self, number: int) -> None:
        """Act on a signal: those that end a job stop the step, the others go to the payload."""
        if number in STOPPING:
            # Its scheduler is asked for the reason; it may also run the job again.
            self.stop(number, "it was stopped by signal %d" % number if self.walltime_s else "")
        elif number and number != _signal.SIGCHLD and self.payload and self.code is None:
            send(self.payload, number)  # never to 0, which would be our own process group

    def follow(self) -> None:
        """Wait until the payload has ended, or has to; then end what is alive of the step."""
        deadline = self.began + (self.walltime_s or float("inf"))
        longest_s = CANCEL_LOOK_S if self.walltime_s else FORGOTTEN_LOOK_S
        while self.code is None and not self.stopped:
            self.handle(self.wait(max(0.0, min(deadline - time.monotonic(), longest_s))))
            self.slots.touch()
            if self.is_to_end():
                self.stop(_signal.SIGTERM, "")
            elif time.monotonic() >= deadline and self.code is None:
                minutes = SETTINGS["duration_min"]
                self.stop(_signal.SIGTERM, "its walltime of %s min was over" % minutes)
        if not self.walltime_s and not self.stopped:
            # A scheduler that ends a job may signal the payload first, and us a moment later.
            self.handle(self.wait(0.1))
        self.end_members()

    def is_to_end(self) -> bool:
        """Whether somebody has asked for its end, of whom no signal may come.

        A scheduler that has crashed may have forgotten the job, so that it cannot end it.
        """
        if self.walltime_s:
            return exists(self.step.log("cancel"))
        if time.monotonic() - self.looked < FORGOTTEN_LOOK_S:
            return False
        self.looked = time.monotonic()
        self.history.read()
        return self.history.is_canceled(self.step.jobndx)

    def end_members(self) -> None:
        """End what is alive of the step, the payload included."""
        # Process ids grow until they wrap round, so what the step has started has greater ids than
        # ours.  They do not come round within a second: the last one given out tells.
        is_quick = time.monotonic() - self.began < 1 and last_process() > posix.getpid()
        killed, rest = end_processes(self.step, self.payload, SETTINGS["grace_s"], self.wait,
                                     posix.getpid() if is_quick else 0)
        if killed and "walltime" in self.reason:
            self.stopped = 137
        while rest - {0} and self.walltime_s:  # what cannot be killed yet: the job has not ended
            self.wait(CANCEL_LOOK_S)
            rest = self.step.rest(self.payload)
            for pid in rest - {0}:
                send(pid, _signal.SIGKILL)
        if 0 in rest:   # ssh-agent, say, hides its files and its environment
            complain("something that cannot be seen keeps %s locked" % self.step.log("alive"))

    # Ending.

    def outcome(self) -> "Tuple[str, int]":
        """(state, info) of the step's end."""
        info = self.stopped or self.code or 0
        if not info:
            return "completed", 0
        # Where it is canceled, a signal may have ended the payload that has not come to us.
        is_canceled = (self.history.is_canceled(self.step.jobndx)
                       or exists(self.step.log("cancel")))
        return "canceled" if is_canceled else "failed", info

    def record_end(self) -> int:
        """Record how the step ended, and why; its info.  OSError if that cannot be written."""
        self.history.lock()
        try:
            state, info = self.outcome()
            if not self.walltime_s and killed_for_memory(self.words["jobid"]) > self.killed:
                self.reason = ("OUT_OF_MEMORY: a process of it was killed for want of memory"
                               + most_memory(self.words["jobid"]))
            self.write_reason(state)
            self.write_usage()
            self.history.append(self.step.jobndx, state, str(info))
            return info
        finally:
            self.history.unlock()

    def write_usage(self) -> None:
        """Add to the claim, once, what the step has used; the end does not depend on that."""
        if self.counts_usage:
            self.counts_usage = False
            try:
                write_whole(self.claim_fd, "cpu_s %.2f\nmemory_kib %d\n" % (
                    self.cpu_s, self.memory_kib))
            except OSError:
                pass

    def write_reason(self, state: str) -> None:
        """Write why the step failed; a set-up line that a signal ended was not why it ended."""
        if self.stopped:
            try:
                posix.unlink(self.step.log("reason"))
            except FileNotFoundError:
                pass
        if self.reason and state != "canceled":
            posix.close(write(self.step.log("reason"), self.reason + "\n"))

    def finish(self) -> int:
        """Record the end, as soon as the disk takes it, and deliver the events; the exit status."""
        is_own = self.words["jobid"] in ("own", "ask")  # no scheduler's slots are held meanwhile
        deadline = time.monotonic() + (OWN_RETRY_S if is_own else RETRY_S)
        pause_s = 0.5
        while True:
            try:
                info = self.record_end()
                break
            except OSError as err:
                complain("cannot record the end: %s" % err)
                if time.monotonic() > deadline or not exists(SETTINGS["base"] + "/status.csv"):
                    return self.outcome()[1]  # too late, or the job was removed
            self.wait(pause_s)
            pause_s = min(pause_s * 2, 30)
        posix.close(self.claim_fd)
        wait_s = SETTINGS["callback_timeout_s"] or 0
        if self.is_waited_for():
            wait_s += RELEASE_S
        self.deliver()
        deadline = time.monotonic() + wait_s + 1
        while self.deliveries and time.monotonic() < deadline:
            self.wait(deadline - time.monotonic())
        return info

    def is_waited_for(self) -> bool:
        """Whether the job has ended, with all its tasks, and others run after it."""
        folder, _, jobid = SETTINGS["base"].rpartition("/")
        return exists("%s/.after/%s" % (folder, jobid)) and self.history.has_ended(self.tasks)

    def deliver(self) -> None:
        """Let psik.py deliver the events in the outbox; do not wait for it.

        At the end of the job it submits those first that wait for this one.
        """
        tells = SETTINGS["callback_timeout_s"] and (
            not SETTINGS.get("final_only") or self.history.has_ended(self.tasks))
        if not tells and not self.is_waited_for():
            return
        try:
            self.history.sync()
        except OSError as err:  # a file server without room: the payload must not be left alone
            complain("the events may not be on the disk: %s" % err)
        # Without the mark the delivery is no part of the step, and is not ended with it.
        environment = {name: value for name, value in given_environment().items()
                       if name != b"PSIK_MARK"}
        argv = [SETTINGS["base"] + "/scripts/psik", "deliver", "--", SETTINGS["base"]]
        log = self.step.log("submit")
        try:
            self.deliveries.add(start(argv, environment, log, log))
        except OSError as err:  # the events stay in the outbox
            complain("cannot deliver the events: %s" % err)

    def run(self) -> int:
        """Run the step from its claim to its end; the exit status."""
        try:
            if not self.begin():
                self.slots.leave()
                return 0
        except OSError as err:  # what cannot be recorded is not run
            why = err if err.filename else err.strerror or err
            complain("step %d cannot begin: %s" % (self.step.jobndx, why))
            return 1
        self.handle(next_signal(0))
        if not self.stopped and self.code is None:
            self.run_payload()
        self.slots.leave()
        return self.finish()

    def run_payload(self) -> None:
        """Run the payload, until all that it has started has ended."""
        try:
            posix.chdir(SETTINGS["directory"])
            self.start_payload()
        except OSError as err:
            self.code, self.reason = self.why_not_started(err)
        self.deliver()
        if self.code is None:
            try:    # wait4() wants it, and a slim Python may not have it
                self.counts_usage = bool(__import__("resource"))
            except ImportError:
                pass
            self.follow()

    def why_not_started(self, err: OSError) -> "Tuple[int, str]":
        """(exit status as a shell's, reason) of a payload that could not be started."""
        if not exists(SETTINGS["directory"] + "/."):
            is_there = exists(SETTINGS["directory"])
            return 1, "its directory %s" % ("cannot be entered" if is_there else "is gone")
        if err.errno == errno.ENOENT and not find_bash() and SETTINGS.get("has_setup"):
            return 127, "its set-up lines need bash, which is not on this host"
        if err.errno == errno.ENOENT:
            head = read(SETTINGS["base"] + "/scripts/run").split("\n")[0]
            return 127, "the interpreter of its script is not there: %s" % head[:100]
        return 126, "its script cannot be started: %s" % err.strerror


class Array:
    """The tasks of an array that run on this host, so many at a time.

    Each is run by a process of its own, in a session of its own, which is forked from this one.
    """

    def __init__(self, offset: int, words: "Dict[str, str]") -> None:
        self.words, self.history = words, History(SETTINGS["base"])
        number = offset // SETTINGS["tasks"]
        lines = read("%s/log/round.%d" % (SETTINGS["base"], number)).splitlines()
        indices = dict((line.split(" ", 1) + [""])[:2] for line in lines).get(str(offset), "")
        ranges, _, most = indices.partition("%")
        self.waiting = [offset + index for index in self.numbers(ranges)]
        there = SETTINGS["shared"].get("slots") or self.cores()
        self.at_once = int("0" + most) or max(1, there // SETTINGS["shares"]["slots"])
        self.running: "Set[int]" = set()
        self.looked = 0.0       # when log/cancel.N were looked for
        self.fds = [self.history.fd]    # which a task must not share: its locks would outlive us
        try:    # poll sees by this lock that the tasks which wait are not lost
            self.fds.append(posix.open("%s/log/host.%d+" % (SETTINGS["base"], offset),
                                       posix.O_RDWR))
            lock(self.fds[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pass

    @staticmethod
    def numbers(ranges: str) -> "Iterator[int]":
        """The numbers of a text like `1-3,7`."""
        for part in filter(None, ranges.split(",")):
            first, _, last = part.partition("-")
            yield from range(int(first), int(last or first) + 1)

    @staticmethod
    def cores() -> int:
        """The cores that this process may use."""
        try:
            return len(posix.sched_getaffinity(0))
        except (AttributeError, OSError):  # macOS
            return posix.cpu_count() or 1

    def leave_out_canceled(self) -> None:
        """Take out the tasks that are canceled; those that were so one by one get their row."""
        self.history.read()
        rows = self.history.rows
        if any(row[0] == 0 and row[1] == "canceled" for row in rows) and self.waiting:
            self.waiting = self.waiting if not self.history.is_canceled(self.waiting[0]) else []
        if not self.waiting or time.monotonic() - self.looked < CANCEL_LOOK_S:
            return
        self.looked = time.monotonic()
        names = set(posix.listdir(SETTINGS["base"] + "/log"))
        canceled = [jobndx for jobndx in self.waiting if "cancel.%d" % jobndx in names]
        self.waiting = [jobndx for jobndx in self.waiting if jobndx not in canceled]
        if canceled:
            self.history.lock()
            try:
                ended = self.history.ended()
                for jobndx in canceled:
                    if jobndx not in ended:     # psik.py may have recorded it
                        self.history.append(jobndx, "canceled", "143")
            finally:
                self.history.unlock()

    def start(self, jobndx: int) -> bool:
        """Run a task in a process of its own; False if there cannot be one now."""
        try:
            pid = posix.fork()
        except OSError as err:      # too many processes: it is tried again
            complain("step %d cannot begin yet: %s" % (jobndx, err.strerror))
            self.waiting.insert(0, jobndx)
            return False
        if pid:
            self.running.add(pid)
            return True
        try:
            for fd in self.fds:
                posix.close(fd)
            posix.setsid()
            posix._exit(Run(jobndx, self.words, self.history).run())
        except Exception:   # which must not go on in a copy of the array's supervisor
            sys.excepthook(*sys.exc_info())
        posix._exit(1)

    def reap(self) -> None:
        """Take note of the tasks that have ended."""
        for pid in list(self.running):
            if posix.waitpid(pid, posix.WNOHANG)[0]:
                self.running.discard(pid)

    def run(self) -> int:
        """Run them all; a signal that ends jobs ends those that run, and no more are begun."""
        while self.waiting or self.running:
            try:
                self.leave_out_canceled()
            except OSError as err:      # a full disk, say; a task that is canceled sees that too
                complain("cannot leave out what is canceled: %s" % err)
            while self.waiting and len(self.running) < self.at_once:
                if not self.start(self.waiting.pop(0)):
                    break
            if self.running or self.waiting:
                number = next_signal(CANCEL_LOOK_S)
                if number in STOPPING:
                    self.waiting = []
                    for pid in self.running:
                        send(pid, _signal.SIGTERM, _signal.SIGCONT)
                self.reap()
        return 0


def find_program(name: str, first: "Tuple[str, ...]" = ()) -> str:
    """The path of a program, '' if there is none; looked for in `first`, and then in PATH."""
    folders = list(first) + as_texts(posix.environ).get("PATH", "").split(":")
    paths = [name] if "/" in name else ["%s/%s" % (folder or ".", name) for folder in folders]
    return ([path for path in paths
             if posix.access(path, posix.X_OK) and not exists(path + "/.")] or [""])[0]


def find_bash() -> str:
    """The path of bash, '' if there is none."""
    return find_program("bash", ("/bin", "/usr/bin"))


def as_bytes(text: str) -> bytes:
    """A text, encoded for an environment."""
    return text.encode("utf-8", "surrogateescape")


def next_signal(timeout_s: float) -> int:
    """The next of the blocked signals, waited for at most timeout_s; 0 if none came."""
    if hasattr(_signal, "sigtimedwait"):
        signal = _signal.sigtimedwait(CAUGHT, timeout_s)
        return int(signal.si_signo) if signal else 0
    _signal.setitimer(_signal.ITIMER_REAL, max(timeout_s, 0.001))  # macOS
    number = int(_signal.sigwait(CAUGHT))
    _signal.setitimer(_signal.ITIMER_REAL, 0)
    return number if number != _signal.SIGALRM else 0


def reset() -> None:
    """Block all signals, set their default actions, and close all descriptors above 2.

    This process takes the signals by next_signal(); the payload inherits the default actions.
    """
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
    if argv[1] == "ranks":
        posix._exit(Ranks(int(argv[2])).run(argv[3:]))
    if argv[1] in ("poll", "cancel"):
        posix._exit(poll(argv[2:]) if argv[1] == "poll" else cancel(argv[2:]))
    if argv[1] == "signal":
        posix._exit(pass_signal(argv[2]))
    reset()
    given = as_texts(posix.environ)
    words = {name: given.get(name, "") for name in (
        "mpirun", "nodes", "jobid", "psik_task", "psik_walltime_s")}
    # The templates join the words of mpirun by \x01, as rc exports a list; rc itself, which sees
    # one word, writes the \x01 in it as \x02\x01.
    words["mpirun"] = words["mpirun"].replace("\x02\x01", "\x01")
    if words["nodes"] == "ask":  # LSF names each host, and after it its slots
        words["nodes"] = str(len(given.get("LSB_MCPU_HOSTS", "").split()) // 2)
    offset, is_array, _ = argv[2].partition("+")
    words["array"] = ""
    if is_array and words["psik_task"] == "all":
        posix._exit(Array(int(offset), words).run())
    if is_array:    # Slurm gives each task an id of its own too, but scancel does not take it
        words["array"] = given.get("SLURM_ARRAY_JOB_ID", "")
    run = Run(int(offset) + int(words["psik_task"] if is_array else 0), words)
    if run.walltime_s:  # no scheduler ends the job, so it need not stay in the session it began in
        try:
            posix.setsid()
        except OSError:
            pass
    posix._exit(run.run())  # to take the interpreter apart first would cost time
