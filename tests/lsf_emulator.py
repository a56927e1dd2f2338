#!/usr/bin/env python3
"""A strict emulator of LSF's bsub, bjobs, bkill, bstop, bresume and bqueues; no free LSF exists.

    env = lsf_emulator.install(folder)      # bsub, bjobs, bkill in folder/bin
    os.environ.update(env)                  # PATH and LSF_EMULATOR_DIR

What LSF refuses is refused; where versions of LSF differ, so is what only some of them take.
A job really runs, as a child of a small detached process, and gets LSF's signals.

    $LSF_EMULATOR_DIR/
      lastid              the number of the newest job
      lsbatch/TIME.ID     the spooled scripts
      ID/record.json      what was parsed: queue, name, project, options, directives...
      ID/state.json       stat, exit_code, start, end, pid, exit_reason
      ID/signals          what bkill asked for, a number per line; 0 means the whole sequence
      ID/stdout stderr    until the job ends;  ID/mail  what went nowhere else

Settings, all from the environment of the commands:

    LSB_BSUB_PARSE_SCRIPT=Y     `bsub SCRIPT` reads the #BSUB lines of SCRIPT
    LSF_EMULATOR_GROUPS         names that -G takes, by commas (none)
    LSF_EMULATOR_RESERVATIONS   names that -U takes, by commas (none)
    LSF_EMULATOR_JSRUN=Y        a site with jsrun: -nnodes and -alloc_flags are known
    LSF_EMULATOR_SLOTS          slots of the cluster (64)
    LSF_EMULATOR_MINUTE_S       length of a minute of -W (60)
    LSF_EMULATOR_GRACE_S        from the SIGUSR2 at the run limit to the kill (600)
    LSF_EMULATOR_KILL_S         from SIGINT to SIGTERM, and to SIGKILL (10)
    LSF_EMULATOR_DISPATCH_S     how long a job is pending at least (0)
    LSF_EMULATOR_CLEAN_S        how long a finished job is known (3600)
    LSF_EMULATOR_MAX_S          no job runs longer (3600)
    LSF_EMULATOR_BANNER         a line that bsub prints first, as site filters do
    LSF_EMULATOR_HANG_S         bsub sleeps so long between the submission and its answer (0)

Queues: normal (default), exclusive (allows -x), held (its jobs stay PEND).
"""

import fcntl
import fnmatch
import getpass
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from typing import Any, Callable, Dict, Iterator, List, NoReturn, Optional, Tuple

QUEUES = ("normal", "exclusive", "held")
FINAL = ("DONE", "EXIT")
REFUSED = 255           # bsub's status, and that of bjobs and bkill without a job
TICK_S = 0.02
PYTHON = [sys.executable, "-S", "-E"]   # nothing installed is needed, and this starts faster
OWNER = "TERM_OWNER: job killed by owner"
RUNLIMIT = "TERM_RUNLIMIT: job killed after reaching LSF run time limit"
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
DIRECTIVE = re.compile(r"\s*#\s*BSUB\s*(-.*)", re.DOTALL)

# Options without a value, and those whose value is taken as it comes.
FLAGS = "-B -H -N -Ne -r -rn -x".split()
PLAIN = ("-P -Jd -o -oo -e -eo -i -is -cwd -outdir -E -Ep -L -a -app -b -t -m -u -g -sla -sp -S"
         " -s -We -c -C -D -F -T -v -Q -k -f -jsm -step_cgroup").split()


class Refused(Exception):
    """A submission that LSF would not take."""


def setting(name: str, default: float) -> float:
    """A number from the environment."""
    return float(os.environ.get("LSF_EMULATOR_" + name, default))


def names(variable: str) -> List[str]:
    """The names in a variable, by commas."""
    return [n for n in os.environ.get("LSF_EMULATOR_" + variable, "").split(",") if n]


def root() -> str:
    """The folder of the jobs."""
    folder = os.environ.get("LSF_EMULATOR_DIR")
    if not folder:
        raise SystemExit("lsf_emulator: LSF_EMULATOR_DIR is not set")
    return os.path.abspath(folder)


# ------------------------------------------------------------------ jobs on disk

class Job:
    """The files of one job."""

    def __init__(self, jobid: int) -> None:
        self.jobid = jobid
        self.base = os.path.join(root(), str(jobid))

    def path(self, name: str) -> str:
        """The path of one of the job's files."""
        return os.path.join(self.base, name)

    def load(self, name: str) -> Dict[str, Any]:
        """The object in a JSON file."""
        with open(self.path(name), encoding="utf-8", errors="surrogateescape") as stream:
            value: Dict[str, Any] = json.load(stream)
            return value

    def save(self, name: str, value: Dict[str, Any]) -> None:
        """Replace a JSON file, so that a reader sees the old or the new one."""
        with open(self.path(name + "~"), "w", encoding="utf-8") as stream:
            json.dump(value, stream, indent=1)
        os.rename(self.path(name + "~"), self.path(name))

    def update(self, only_from: str, **changes: Any) -> bool:
        """Change the state if it is still the one expected; whether it was."""
        with open(self.path("lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self.load("state.json")
            if state["stat"] != only_from:
                return False
            self.save("state.json", dict(state, **changes))
            return True

    def is_known(self) -> bool:
        """Whether LSF still remembers the job."""
        try:
            state = self.load("state.json")
        except OSError:
            return False
        return state["stat"] not in FINAL or time.time() - state["end"] < setting("CLEAN_S", 3600)


def all_jobs() -> List[Job]:
    """The known jobs, oldest first."""
    ids = sorted(int(name) for name in os.listdir(root()) if name.isdigit())
    return [job for job in map(Job, ids) if job.is_known()]


def new_job() -> Job:
    """A job with the next free number."""
    os.makedirs(os.path.join(root(), "lsbatch"), exist_ok=True)
    with open(os.path.join(root(), "lastid"), "a+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        jobid = int(stream.read() or 100) + 1
        stream.seek(0)
        stream.truncate()
        stream.write(str(jobid))
        stream.flush()
        job = Job(jobid)
        os.mkdir(job.base, 0o700)
    return job


# ------------------------------------------------------------------ #BSUB lines

def words(text: str) -> Iterator[str]:
    """The words of a directive; a word that begins with # ends it.

    A quote opens a word and its like closes it; nothing escapes it.
    """
    rest = text.strip()
    while rest:
        quote = rest[0] if rest[0] in "'\"" else ""
        if quote:
            word, closed, rest = rest[1:].partition(quote)
            if not closed or rest[:1].strip():
                raise Refused("Bad quotes in <%s>" % text.strip())
        else:
            word = rest.split(None, 1)[0]
            rest = rest[len(word):]
            if "'" in word or '"' in word:
                raise Refused("Bad quotes in <%s>" % text.strip())
        if word.startswith("#"):
            return
        yield word
        rest = rest.lstrip()


def joined_lines(script: str) -> Iterator[str]:
    """The lines of a script, a directive that ends in a backslash with the line after it."""
    pending = ""
    for line in script.split("\n"):
        line = pending + line
        is_directive = line.startswith("#") and "BSUB" in line
        if is_directive and line.endswith("\\"):
            pending = line[:-1]
            continue
        pending = ""
        yield line
    if pending:
        yield pending


def read_script(script: str) -> Tuple[List[List[str]], bool]:
    """The directives of a script, wherever they stand, and whether it has a command."""
    found: List[List[str]] = []
    has_command = False
    for line in joined_lines(script):
        match = DIRECTIVE.match(line)
        if match:
            found.append(list(words(match.group(1))))
        elif line.strip() and not line.lstrip().startswith("#"):
            has_command = True
    return found, has_command


# ------------------------------------------------------------------ options

def matcher(pattern: str, message: str) -> Callable[[str], None]:
    """A check that a value looks like the pattern."""
    def check(value: str) -> None:
        if not re.match("(?:%s)\\Z" % pattern, value):
            raise Refused(message % {"value": value})
    return check


def check_member(variable: str, message: str) -> Callable[[str], None]:
    """A check that a value is one of the names in a variable."""
    def check(value: str) -> None:
        if value not in names(variable):
            raise Refused("%s: %s" % (value, message))
    return check


def check_slots(value: str) -> None:
    """-n MIN[,MAX]"""
    matcher(r"[1-9]\d*(,[1-9]\d*)?", "Bad argument <%(value)s> for option -n")(value)
    if max(map(int, value.split(","))) > setting("SLOTS", 64):
        raise Refused("Too many processors requested")


def check_name(value: str) -> None:
    """-J NAME: arrays, NAME[LIST], are not emulated, and other brackets are not allowed."""
    if not value or "[" in value or "]" in value or len(value.encode("utf-8", "replace")) > 4094:
        raise Refused("Bad job name")


def check_queue(value: str) -> None:
    """-q QUEUE"""
    if value not in QUEUES:
        raise Refused("%s: No such queue" % value)


def check_jsrun(value: str) -> None:
    """-nnodes and -alloc_flags exist only where jsrun does."""
    if os.environ.get("LSF_EMULATOR_JSRUN") != "Y":
        raise Refused("Illegal option: this cluster has no jsrun")
    if not value:
        raise Refused("Bad argument")


def check_nnodes(value: str) -> None:
    """-nnodes N"""
    check_jsrun(value)
    matcher(r"[1-9]\d*", "Bad argument <%(value)s> for option -nnodes")(value)


def check_env(value: str) -> None:
    """-env none | all[, ~NAME][, NAME=VALUE] | NAME[=VALUE][, ...]"""
    for index, item in enumerate(split_env(value)):
        name = item.lstrip("~").partition("=")[0]
        whole = item in ("all", "none")
        if not IDENTIFIER.match(name) or whole and index or item[:1] == "~" and "=" in item:
            raise Refused("Bad environment variable list <%s>" % value)


def split_env(value: str) -> List[str]:
    """The items of -env; a comma always parts."""
    return [item.strip() for item in value.split(",")]


def check_depend(value: str) -> None:
    """-w EXPRESSION over done(ID), exit(ID), ended(ID), started(ID)"""
    try:
        depends(value)
    except (SyntaxError, ValueError):
        raise Refused("%s: Dependency condition syntax error" % value) from None


SECTION = r"(?:select|order|rusage|same|cu|affinity)\[[^][]+\]"
SPAN = r"span\[(?:ptile=[1-9]\d*|hosts=(?:1|-1)|block=[1-9]\d*)\]"
GPU_KEYS = "mode|mps|j_exclusive|aff|block|gpack|gmodel|gmem|gtile|glink|gvendor"
GPU = r"(?:num=[1-9]\d*(?:/task|/host)?|(?:%s)=[^:=\s]+)" % GPU_KEYS

CHECKED: Dict[str, Callable[[str], None]] = {
    "-n": check_slots,
    "-W": matcher(r"(?:\d+:)?0*[1-9]\d*(?:/\S+)?|\d*[1-9]\d*:\d+", "Bad RUNLIMIT specification"),
    "-R": matcher(r"(?:(?:%s|%s)\s*)+" % (SPAN, SECTION), "Bad resource requirement syntax"),
    "-gpu": matcher(r"-|%s(?::%s)*" % (GPU, GPU), "Bad GPU requirement syntax <%(value)s>"),
    "-M": matcher(r"[1-9]\d*\s*(?:[KMGTPEZ]B?)?(?:!|hard)?", "Bad MEMLIMIT specification"),
    "-J": check_name,
    "-q": check_queue,
    "-G": check_member("GROUPS", "No such user/host group"),
    "-U": check_member("RESERVATIONS", "The specified reservation does not exist"),
    "-env": check_env,
    "-w": check_depend,
    "-nnodes": check_nnodes,
    "-alloc_flags": check_jsrun,
}


def read_options(argv: List[str]) -> Tuple[Dict[str, Any], List[str]]:
    """The options at the head of the words, and the words that follow them.

    Of an option that comes twice the last one counts; -R adds up.
    """
    options: Dict[str, Any] = {}
    rest = list(argv)
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if option in FLAGS:
            options[option] = True
            continue
        if option not in CHECKED and option not in PLAIN:
            raise Refused("%s: Illegal option" % option)
        if not rest:
            raise Refused("%s: Option needs an argument" % option)
        value = rest.pop(0)
        if option in CHECKED:
            CHECKED[option](value)
        options[option] = options.get("-R", []) + [value] if option == "-R" else value
    return options, rest


def script_options(directives: List[List[str]]) -> Dict[str, Any]:
    """The options of all directives, which hold nothing else."""
    options, rest = read_options([word for line in directives for word in line])
    if rest:
        raise Refused("%s: Illegal option" % rest[0])
    return options


# ------------------------------------------------------------------ bsub

def bsub(argv: List[str]) -> int:
    """Submit a job."""
    if os.environ.get("LSF_EMULATOR_BANNER"):
        print(os.environ["LSF_EMULATOR_BANNER"])
    try:
        record, script = read_submission(argv)
    except Refused as err:
        # LSF's commands know bytes only, and so must an odd name in a message.
        sys.stderr.buffer.write(os.fsencode("%s. Job not submitted.\n" % err))
        return REFUSED
    job = create(record, script)
    if record["queue"] != "held" and "-H" not in record["options"]:
        start_runner(job)
    sys.stdout.flush()
    time.sleep(setting("HANG_S", 0))
    print("Job <%d> is submitted to %squeue <%s>." % (
        job.jobid, "" if "-q" in record["options"] else "default ", record["queue"]))
    return 0


def read_submission(argv: List[str]) -> Tuple[Dict[str, Any], Optional[str]]:
    """What was asked for, and the script that came on stdin, if one did."""
    options, command = read_options(argv)
    directives: List[List[str]] = []
    script = None
    if not command:
        script = os.fsdecode(sys.stdin.buffer.read())
        directives, has_command = read_script(script)
        if not has_command:
            raise Refused("No command is specified in the script file")
    elif len(command) == 1 and os.environ.get("LSB_BSUB_PARSE_SCRIPT") == "Y":
        with open(command[0], encoding="utf-8", errors="surrogateescape") as stream:
            directives = read_script(stream.read())[0]
    # The command line wins over the script.
    options = dict(script_options(directives), **options)
    queue = options.get("-q", QUEUES[0])
    if "-x" in options and queue != "exclusive":
        raise Refused("%s: Queue does not accept EXCLUSIVE jobs" % queue)
    text = " ".join(command)
    return {"queue": queue, "name": options.get("-J", (text or script or "").strip()[:4094]),
            "project": options.get("-P", "default"), "description": options.get("-Jd", ""),
            "options": options, "directives": directives, "argv": argv, "command": text,
            "user": getpass.getuser(), "cwd": os.getcwd(), "submit": time.time()}, script


def create(record: Dict[str, Any], script: Optional[str]) -> Job:
    """Lay down a pending job."""
    job = new_job()
    record["jobid"] = job.jobid
    if script is not None:
        spool = os.path.join(root(), "lsbatch", "%d.%d" % (record["submit"], job.jobid))
        with open(os.open(spool, os.O_WRONLY | os.O_CREAT, 0o700), "wb") as stream:
            stream.write(os.fsencode(script))
        record["script"] = spool
    job.save("record.json", record)
    env = job_env(record)
    with open(os.open(job.path("environ"), os.O_WRONLY | os.O_CREAT, 0o600), "wb") as stream:
        stream.write(b"\0".join(os.fsencode("%s=%s" % item) for item in env.items()))
    held = "PSUSP" if "-H" in record["options"] else "PEND"
    job.save("state.json", {"stat": held, "exit_code": None, "start": None, "end": None,
                            "pid": None, "runner": None, "exit_reason": ""})
    return job


def start_runner(job: Job) -> None:
    """Start the detached process that runs the job."""
    with open(job.path("runner.log"), "ab") as log:
        subprocess.Popen(PYTHON + [os.path.abspath(__file__), "run", str(job.jobid)], cwd="/",
                         stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                         start_new_session=True)


def job_env(record: Dict[str, Any]) -> Dict[str, str]:
    """The job's environment: what -env says of the submitter's, and LSF's variables."""
    basics = ("HOME", "LOGNAME", "USER", "SHELL", "PATH")
    items = split_env(record["options"].get("-env", "all"))
    env = {k: v for k, v in os.environ.items() if items[0] == "all" or k in basics}
    for item in items:
        name, has_value, value = item.partition("=")
        if has_value:
            env[name] = value
        elif name.startswith("~"):
            env.pop(name[1:], None)
        elif name in os.environ:
            env[name] = os.environ[name]
    return dict(env, **lsf_variables(record))


def hosts(options: Dict[str, Any]) -> List[Tuple[str, int]]:
    """The hosts given to the job, with the slots on each.

    There is one machine, so all names but the first are made up.
    """
    slots = int(options.get("-n", "1").split(",")[0])
    ptile = re.search(r"span\[ptile=(\d+)\]", " ".join(options.get("-R", [])))
    per_host = int(ptile.group(1)) if ptile else slots
    count = int(options.get("-nnodes", -(-slots // per_host)))
    if "-nnodes" in options:
        slots = count
        per_host = 1
    first = socket.gethostname()
    return [(first if i == 0 else "%s-%d" % (first, i + 1), min(per_host, slots - i * per_host))
            for i in range(count)]


def lsf_variables(record: Dict[str, Any]) -> Dict[str, str]:
    """What LSF sets in a job."""
    given = hosts(record["options"])
    jobid, total = str(record["jobid"]), str(sum(slots for _, slots in given))
    hostfile = os.path.join(root(), "lsbatch", "%s.hostfile" % jobid)
    each = [name for name, slots in given for _ in range(slots)]
    with open(hostfile, "w") as stream:
        stream.write("".join(name + "\n" for name in each))
    return {"LSB_JOBID": jobid, "LSB_BATCH_JID": jobid, "LSB_JOBINDEX": "0",
            "LSB_JOBNAME": record["name"], "LSB_QUEUE": record["queue"],
            "LSB_PROJECT_NAME": record["project"], "LSB_SUB_HOST": given[0][0],
            "LSB_HOSTS": " ".join(each), "LSB_DJOB_NUMPROC": total,
            "LSB_MCPU_HOSTS": " ".join("%s %d" % pair for pair in given),
            "LSB_MAX_NUM_PROCESSORS": total, "LSB_DJOB_HOSTFILE": hostfile,
            "LSB_JOBFILENAME": record.get("script", ""), "LS_SUBCWD": record["cwd"],
            "LSFUSER": record["user"], "LS_EXEC_T": "START"}


# ------------------------------------------------------------------ the runner

def depends(expression: str) -> bool:
    """Whether a -w condition holds; SyntaxError or ValueError when it is none."""
    claims = {"done": ("DONE",), "exit": ("EXIT",), "ended": FINAL, "started": ("RUN",) + FINAL}

    def holds(match: "re.Match[str]") -> str:
        job = Job(int(match.group(2)))
        if not job.is_known():
            raise ValueError("no such job")
        return str(job.load("state.json")["stat"] in claims[match.group(1) or "done"])

    text = re.sub(r"\b(?:(done|exit|ended|started)\()?\b(\d+)\b(?(1)\))", holds, expression)
    text = text.replace("&&", " and ").replace("||", " or ").replace("!", " not ")
    if not set(re.findall(r"\w+|[^\w\s]", text)) <= {"True", "False", "and", "or", "not", "(", ")"}:
        raise ValueError("not a condition")
    return bool(eval(text.strip(), {"__builtins__": {}}))


class Runner:
    """One job from PEND to its end."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.record = job.load("record.json")
        self.options = self.record["options"]
        self.reason = ""
        self.seen = 0                   # lines of `signals` that were read
        self.plan: List[Tuple[float, int]] = []     # signals to come
        self.limit_at = float("inf")
        self.end_by = time.time() + setting("MAX_S", 3600)

    def run(self) -> None:
        """Wait for the job's turn, run it, and note how it ended."""
        if not self.wait_turn():
            return
        started = time.time()
        with open(self.job.path("stdout"), "wb") as out, open(self.job.path("stderr"), "wb") as err:
            code = self.execute(out, err if self.has_error_file() else out, started)
        code = code if code >= 0 else 128 - code
        # The output is in its place before bjobs says that the job has ended.
        self.deliver(code)
        self.job.update("RUN", stat="EXIT" if code else "DONE", exit_code=code or None,
                        end=time.time(), exit_reason=self.reason if code else "")

    def wait_turn(self) -> bool:
        """Whether the job left PEND to run; False when it was killed before."""
        not_before = self.record["submit"] + setting("DISPATCH_S", 0)
        while time.time() < self.end_by:
            if self.job.load("state.json")["stat"] != "PEND":
                return False
            if time.time() >= not_before and self.may_start():
                return self.job.update("PEND", stat="RUN", start=time.time(), runner=os.getpid())
            time.sleep(TICK_S)
        return False

    def may_start(self) -> bool:
        """Whether the job waits for no other; one that was forgotten holds it for ever."""
        try:
            return "-w" not in self.options or depends(self.options["-w"])
        except ValueError:
            return False

    def has_error_file(self) -> bool:
        """Whether stderr goes a way of its own."""
        return "-e" in self.options or "-eo" in self.options

    def execute(self, out: Any, err: Any, started: float) -> int:
        """The status of the job's process, negative when a signal ended it."""
        cwd = self.options.get("-cwd", self.record["cwd"])
        cwd = os.path.join(self.record["cwd"], cwd)
        with open(self.job.path("environ"), "rb") as stream:
            env = dict(os.fsdecode(item).split("=", 1) for item in stream.read().split(b"\0"))
        try:
            child = subprocess.Popen(
                self.argv(), env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                cwd=cwd if os.path.isdir(cwd) else "/tmp", start_new_session=True)
        except OSError as problem:
            os.write(err.fileno(), os.fsencode("%s\n" % problem))
            return 127
        self.job.update("RUN", pid=child.pid)
        self.plan_limit(started)
        while child.poll() is None:
            self.read_requests()
            self.send_due(child.pid)
            time.sleep(TICK_S)
        return child.returncode

    def argv(self) -> List[str]:
        """How the job is started: its #! line is honoured, and /bin/sh runs the rest."""
        script = self.record.get("script")
        if script is None:
            return ["/bin/sh", "-c", self.record["command"]]
        with open(script, "rb") as stream:
            return [script] if stream.read(2) == b"#!" else ["/bin/sh", script]

    def plan_limit(self, started: float) -> None:
        """Plan the signals of the run limit, and the end of all patience."""
        self.plan.append((self.end_by, signal.SIGKILL))
        if "-W" in self.options:
            hours, _, minutes = ("0:" + self.options["-W"].split("/")[0]).rpartition(":")
            limit_min = int(hours.split(":")[-1]) * 60 + int(minutes)
            self.limit_at = started + limit_min * setting("MINUTE_S", 60)
            self.plan.append((self.limit_at, signal.SIGUSR2))
            self.plan_kill(self.limit_at + setting("GRACE_S", 600))

    def plan_kill(self, at: float) -> None:
        """Plan SIGINT, SIGTERM and SIGKILL."""
        for number, signum in enumerate((signal.SIGINT, signal.SIGTERM, signal.SIGKILL)):
            self.plan.append((at + number * setting("KILL_S", 10), signum))

    def read_requests(self) -> None:
        """Plan what bkill asked for since the last look."""
        try:
            with open(self.job.path("signals")) as stream:
                lines = stream.read().split()
        except OSError:
            return
        for line in lines[self.seen:]:
            if line == "0":
                self.reason = OWNER
                self.plan_kill(time.time())
            else:
                self.plan.append((time.time(), int(line)))
        self.seen = len(lines)

    def send_due(self, pgid: int) -> None:
        """Send the signals whose time has come to the job's whole process group."""
        due = [step for step in self.plan if step[0] <= time.time()]
        if time.time() >= self.limit_at:
            self.reason = self.reason or RUNLIMIT
        for _, signum in sorted(due):
            try:
                os.killpg(pgid, signum)
            except ProcessLookupError:
                pass
        self.plan = [step for step in self.plan if step not in due]

    def deliver(self, code: int) -> None:
        """Put the output where -o and -e say, LSF's report before it; else it is mail."""
        target = self.target("-o", "-oo") or self.job.path("mail")
        with open(self.job.path("stdout"), "rb") as stream:
            output = stream.read()
        self.append(target, os.fsencode(self.report(code)) + output, "-oo" in self.options)
        if self.has_error_file():
            with open(self.job.path("stderr"), "rb") as stream:
                self.append(self.target("-e", "-eo"), stream.read(), "-eo" in self.options)

    def target(self, *options: str) -> str:
        """The file that one of the options names, empty when none does."""
        for option in options:
            if option in self.options:
                name = str(self.options[option]).replace("%J", str(self.job.jobid))
                return os.path.join(str(self.record["cwd"]), name.replace("%I", "0"))
        return ""

    @staticmethod
    def append(path: str, data: bytes, anew: bool) -> None:
        """Add to a file of the user's; one that cannot be written is lost, as in LSF."""
        try:
            with open(path, "wb" if anew else "ab") as stream:
                stream.write(data)
        except OSError as problem:
            print("output lost: %s" % problem)

    def report(self, code: int) -> str:
        """The text that LSF puts before a job's output."""
        how = "Exited with exit code %d." % code if code else "Successfully completed."
        return ("Sender: LSF System (emulator)\nSubject: Job %d: <%s> in cluster <emulator> %s\n\n"
                "%s%s\n\nThe output (if any) follows:\n\n" % (
                    self.job.jobid, self.record["name"].split("\n")[0],
                    "Exited" if code else "Done", self.reason + ".\n" if self.reason else "", how))


# ------------------------------------------------------------------ bjobs

def stamp(seconds: Optional[float]) -> str:
    """A time as bjobs shows it."""
    return time.strftime("%b %d %H:%M", time.localtime(seconds)) if seconds else ""


def pend_reason(state: Dict[str, Any]) -> str:
    """Why a job does not run yet."""
    reasons = {"PEND": "Job is waiting for scheduling", "PSUSP": "Job is held"}
    return reasons.get(str(state["stat"]), "")


FIELDS: Dict[str, Callable[[Dict[str, Any], Dict[str, Any]], Any]] = {
    "jobid": lambda r, s: r["jobid"],
    "stat": lambda r, s: s["stat"],
    "user": lambda r, s: r["user"],
    "queue": lambda r, s: r["queue"],
    "job_name": lambda r, s: r["name"],
    "job_description": lambda r, s: r["description"],
    "proj_name": lambda r, s: r["project"],
    "exit_code": lambda r, s: s["exit_code"],
    "exit_reason": lambda r, s: s["exit_reason"],
    "pend_reason": lambda r, s: pend_reason(s),
    "submit_time": lambda r, s: stamp(r["submit"]),
    "start_time": lambda r, s: stamp(s["start"]),
    "finish_time": lambda r, s: stamp(s["end"]),
    "from_host": lambda r, s: socket.gethostname(),
    "exec_host": lambda r, s: s["start"] and socket.gethostname(),
    "command": lambda r, s: r["command"] or r["name"],
    "sub_cwd": lambda r, s: r["cwd"],
    "output_file": lambda r, s: r["options"].get("-o"),
    "error_file": lambda r, s: r["options"].get("-e"),
    "slots": lambda r, s: r["options"].get("-n", "1"),
}
TABLE = "jobid user stat queue from_host exec_host job_name submit_time"


class Usage(Exception):
    """A command line that bjobs or bkill cannot read."""


def fail(message: str) -> NoReturn:
    """Refuse a command line."""
    raise Usage(message)


def query_options(argv: List[str], flags: str, valued: str) -> Tuple[Dict[str, str], List[int]]:
    """The options and the job ids of a bjobs or bkill command line."""
    options: Dict[str, str] = {}
    ids: List[int] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word.isdigit():
            ids.append(int(word))
        elif word in flags.split():
            options[word] = ""
        elif word in valued.split() and rest:
            options[word] = rest.pop(0)
        elif word.startswith("-"):
            fail("%s: Illegal option" % word)
        else:
            fail("%s: Illegal job ID" % word)
    return options, ids


def selected(options: Dict[str, str], ids: List[int]) -> Tuple[List[Job], List[int]]:
    """The jobs that a command line speaks of, and the ids that are none."""
    found = [job for job in all_jobs() if job.jobid in ids or not ids]
    for option, key in (("-J", "name"), ("-Jd", "description"), ("-q", "queue"), ("-P", "project")):
        if option in options:
            found = [job for job in found
                     if fnmatch.fnmatchcase(job.load("record.json")[key], options[option])]
    known = [job.jobid for job in found]
    return found, [jobid for jobid in ids if jobid not in known]


def is_wanted(stat: str, options: Dict[str, str], by_id: bool) -> bool:
    """Whether bjobs shows a job in this state: unfinished ones, unless asked for more."""
    states = {"-r": ("RUN",), "-p": ("PEND", "PSUSP"), "-d": FINAL}
    asked = [s for option in states if option in options for s in states[option]]
    if asked:
        return stat in asked
    return by_id or "-a" in options or stat not in FINAL


def read_format(text: str) -> Tuple[List[str], str]:
    """The fields and the delimiter of a -o value: "jobid stat:10 delimiter='^'"."""
    match = re.search(r"\bdelimiter=(?:'([^']*)'|\"([^\"]*)\"|(\S))", text)
    delimiter = next((g for g in match.groups() if g), "") if match else ""
    rest = text.replace(match.group(0), " ") if match else text
    fields = [word.partition(":")[0].lower() for word in rest.split()]
    unknown = [field for field in fields if field not in FIELDS]
    if unknown or not fields:
        fail("Field name <%s> is invalid" % (unknown or [""])[0])
    return fields, delimiter


def bjobs(argv: List[str]) -> int:
    """Show jobs; REFUSED when there is none."""
    try:
        options, ids = query_options(argv, "-a -w -W -d -p -r -noheader -X",
                                     "-o -u -J -Jd -q -P -m")
        fields, delimiter = read_format(options.get("-o", TABLE))
    except Usage as err:
        print("%s." % err, file=sys.stderr)
        return REFUSED
    jobs, missing = selected(options, ids)
    rows = []
    for job in jobs:
        record, state = job.load("record.json"), job.load("state.json")
        if is_wanted(state["stat"], options, bool(ids)):
            values = [FIELDS[field](record, state) for field in fields]
            rows.append([one_line("-" if v in (None, "") else v) for v in values])
    for jobid in missing:
        print("Job <%d> is not found" % jobid, file=sys.stderr)
    if not rows:
        if not missing:
            print("No %sjob found" % ("" if "-a" in options else "unfinished "), file=sys.stderr)
        return REFUSED
    print_rows(rows, "-noheader" not in options, fields, delimiter)
    return 0


def one_line(value: Any) -> str:
    """A value without line ends."""
    return str(value).replace("\n", ";")


def print_rows(rows: List[List[str]], header: bool, fields: List[str], delimiter: str) -> None:
    """Print a table, in columns when there is no delimiter."""
    if header:
        rows = [[field.upper() for field in fields]] + rows
    wide = [max(len(row[i]) for row in rows) for i in range(len(fields))]
    for row in rows:
        cells = row if delimiter else [cell.ljust(width) for cell, width in zip(row, wide)]
        sys.stdout.buffer.write(os.fsencode((delimiter or " ").join(cells).rstrip() + "\n"))


# ------------------------------------------------------------------ bkill

def bkill(argv: List[str]) -> int:
    """Kill jobs, or send them a signal; REFUSED when one of them could not be."""
    try:
        options, ids = query_options(argv, "-r -b", "-s -u -J -q")
        signum = signal_number(options["-s"]) if "-s" in options else 0
    except Usage as err:
        print("%s." % err, file=sys.stderr)
        return REFUSED
    if not ids and not options:
        print("Job ID must be specified.", file=sys.stderr)
        return REFUSED
    jobs, missing = selected(options, [jobid for jobid in ids if jobid])
    if 0 in ids or not ids:     # 0 stands for every unfinished job
        jobs = [job for job in jobs if job.load("state.json")["stat"] not in FINAL]
    for jobid in missing:
        print("Job <%d>: No matching job found" % jobid, file=sys.stderr)
    if not jobs and not missing:
        print("No matching job found", file=sys.stderr)
        return REFUSED
    killed = [kill_job(job, signum) for job in jobs]
    return REFUSED if missing or not all(killed) else 0


def signal_number(name: str) -> int:
    """A signal by number or name, with or without SIG."""
    if name.isdigit():
        return int(name)
    found = getattr(signal, "SIG" + name.upper().replace("SIG", "", 1), None)
    return int(found) if found else fail("%s: Illegal signal value" % name)


def kill_job(job: Job, signum: int) -> bool:
    """Kill one job, at once when it has not started; whether there was something to kill."""
    for stat in ("PEND", "PSUSP"):
        if not signum and job.update(stat, stat="EXIT", end=time.time(), exit_reason=OWNER):
            print("Job <%d> is being terminated" % job.jobid)
            return True
    if job.load("state.json")["stat"] in FINAL:
        print("Job <%d>: Job has already finished" % job.jobid, file=sys.stderr)
        return False
    with open(job.path("signals"), "a") as stream:
        stream.write("%d\n" % signum)
    print("Job <%d> is being %s" % (job.jobid, "signaled" if signum else "terminated"))
    return True


# ------------------------------------------------------------------ bstop, bresume, bqueues

def bstop(argv: List[str]) -> int:
    """Hold jobs that wait; those that run are not stopped here."""
    refused = [jobid for jobid in argv if not Job(int(jobid)).update("PEND", stat="PSUSP")]
    return refuse_jobs(refused, "Job is suspended, has started or has finished")


def refuse_jobs(refused: List[str], why: str) -> int:
    """Say what cannot be done to these jobs; the exit status."""
    for jobid in refused:
        print("Job <%s>: %s" % (jobid, why), file=sys.stderr)
    return REFUSED if refused else 0


def bresume(argv: List[str]) -> int:
    """Let jobs go that are held."""
    refused = [jobid for jobid in argv if not Job(int(jobid)).update("PSUSP", stat="PEND")]
    for jobid in argv:
        if jobid not in refused:
            start_runner(Job(int(jobid)))
    return refuse_jobs(refused, "Job is not held")


def bqueues(argv: List[str]) -> int:
    """List the queues, as `bqueues -w` does; its other options are not known."""
    form = "%-15s %4s  %-15s %4s %4s %4s %4s %6s %6s %6s %6s"
    print(form % tuple("QUEUE_NAME PRIO STATUS MAX JL/U JL/P JL/H NJOBS PEND RUN SUSP".split()))
    stats = [job.load("state.json")["stat"] for job in all_jobs()]
    for name in QUEUES:
        limit = str(int(setting("SLOTS", 64))) if name == QUEUES[0] else "-"
        print(form % (name, 30, "Open:Active", limit, "-", "-", "-", len(stats),
                      stats.count("PEND"), stats.count("RUN"), 0))
    return 0


# ------------------------------------------------------------------ for tests

def install(folder: str) -> Dict[str, str]:
    """Write the commands to folder/bin; the environment that makes them be found.

    Jobs lie in folder/jobs, unless LSF_EMULATOR_DIR says otherwise when a command runs.
    """
    folder = os.path.abspath(folder)
    jobs, bin_dir = os.path.join(folder, "jobs"), os.path.join(folder, "bin")
    for path in (jobs, bin_dir):
        os.makedirs(path, exist_ok=True)
    argv = " ".join(map(shlex.quote, PYTHON + [os.path.abspath(__file__)]))
    for name in COMMANDS:
        path = os.path.join(bin_dir, name)
        with open(path, "w") as stream:
            stream.write("#!/bin/sh\n: ${LSF_EMULATOR_DIR:=%s}\nexport LSF_EMULATOR_DIR\n"
                         "exec %s %s \"$@\"\n" % (shlex.quote(jobs), argv, name))
        os.chmod(path, 0o755)
    return {"PATH": bin_dir + os.pathsep + os.environ.get("PATH", os.defpath),
            "LSF_EMULATOR_DIR": jobs}


def clean(folder: str) -> None:
    """End every process of the jobs of an installed emulator."""
    os.environ["LSF_EMULATOR_DIR"] = os.path.join(os.path.abspath(folder), "jobs")
    for job in all_jobs():
        for stat in ("PEND", "PSUSP"):
            job.update(stat, stat="EXIT", end=time.time())
        state = job.load("state.json")
        if state["stat"] not in FINAL:
            kill_group(state["pid"])
            kill_group(state["runner"])


def kill_group(pgid: Optional[int]) -> None:
    """Kill a process group that may have gone."""
    try:
        if pgid:
            os.killpg(pgid, signal.SIGKILL)
    except ProcessLookupError:
        pass


COMMANDS = {"bsub": bsub, "bjobs": bjobs, "bkill": bkill, "bstop": bstop, "bresume": bresume,
            "bqueues": bqueues}


def main(argv: List[str]) -> int:
    """Be one of the commands, or the process behind a job."""
    if argv[:1] == ["run"] and len(argv) == 2:
        Runner(Job(int(argv[1]))).run()
        return 0
    if not argv or argv[0] not in COMMANDS:
        print(__doc__, file=sys.stderr)
        return 2
    os.makedirs(root(), exist_ok=True)
    return COMMANDS[argv[0]](argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
