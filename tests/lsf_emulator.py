#!/usr/bin/env python3
"""A strict emulator of LSF's bsub, bjobs, bkill, bstop, bresume, bqueues and bparams.

No free LSF exists.

    env = lsf_emulator.install(folder)      # bsub, bjobs, bkill in folder/bin
    os.environ.update(env)                  # PATH and LSF_EMULATOR_DIR

What LSF refuses is refused; where versions of LSF differ, so is what only some of them take.
A job really runs, as a child of a small detached process, and gets LSF's signals.  One process
runs all elements of a job array, as many at a time as its %LIMIT and the cluster's slots let it.

    $LSF_EMULATOR_DIR/
      lastid              the number of the newest job
      lsbatch/TIME.ID     the spooled scripts
      ID/record.json      what was parsed: queue, name, project, options, directives...
      ID/state.json       stat, exit_code, start, end, pid, exit_reason
      ID/signals          what bkill asked for, a number per line; 0 means the whole sequence
      ID/stdout stderr    until the job ends;  ID/mail  what went nowhere else
      ID/INDEX/           of an element of a job array: all of this but record.json

Settings, all from the environment of the commands:

    LSB_BSUB_PARSE_SCRIPT=Y     `bsub SCRIPT` reads the #BSUB lines of SCRIPT
    LSF_EMULATOR_GROUPS         names that -G takes, by commas (none)
    LSF_EMULATOR_RESERVATIONS   names that -U takes, by commas (none)
    LSF_EMULATOR_JSRUN=Y        a site with jsrun: -nnodes and -alloc_flags are known
    LSF_EMULATOR_SLOTS          slots of the cluster (64)
    LSF_EMULATOR_ARRAY_SIZE     how high an index of a job array may be, and how many it has (1000)
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
import threading
import time
from typing import (Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, NoReturn, Optional,
                    Set, Tuple)

QUEUES = ("normal", "exclusive", "held")
FINAL = ("DONE", "EXIT")
REFUSED = 255           # bsub's status, and that of bjobs and bkill without a job
TICK_S = 0.02
PYTHON = [sys.executable, "-S", "-E"]   # nothing installed is needed, and this starts faster
OWNER = "TERM_OWNER: job killed by owner"
RUNLIMIT = "TERM_RUNLIMIT: job killed after reaching LSF run time limit"
FINISHED = "Job has already finished"
NO_MATCH = "No matching job found"
IN_PROGRESS = "Operation is in progress"    # what the command line hears of a whole array
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
DIRECTIVE = re.compile(r"\s*#\s*BSUB\s*(-.*)", re.DOTALL)

# Options without a value, and those whose value is taken as it comes.
FLAGS = "-B -H -N -Ne -r -rn -x".split()
PLAIN = ("-P -Jd -o -oo -e -eo -i -is -cwd -outdir -E -Ep -L -a -app -b -t -m -u -g -sla -sp -S"
         " -s -We -c -C -D -F -T -v -Q -k -f -jsm -step_cgroup").split()


# NAME[LIST]%LIMIT, and an item of the list; IBM's pages allow a name no more than this.
ARRAY = re.compile(r"([A-Za-z0-9._-]*)\[([^][]*)\](?:%([0-9]+))?\Z")
INDICES = re.compile(r"\s*([0-9]+)(?:-([0-9]+)(?::([0-9]+))?)?\s*\Z")


class Refused(Exception):
    """A submission that LSF would not take."""


class Array(NamedTuple):
    """What -J says of a job array."""
    name: str
    ranges: List[range]
    limit: int              # how many elements run at once; 0 is no limit


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


# ------------------------------------------------------------------ job arrays

def read_ranges(text: str) -> List[range]:
    """The ranges of an index list, A or A-B or A-B:STEP by commas; none when it is no such list."""
    ranges = []
    for item in text.split(","):
        match = INDICES.match(item)
        if not match:
            return []
        start, end, step = match.group(1), match.group(2) or match.group(1), match.group(3) or "1"
        if not 1 <= int(start) <= int(end) or not int(step):
            return []
        ranges.append(range(int(start), int(end) + 1, int(step)))
    return ranges


def read_array(spec: str) -> Array:
    """The parts of a -J value with brackets."""
    match = ARRAY.match(spec)
    ranges = read_ranges(match.group(2)) if match else []
    if not match or not ranges or len(spec) > 255 or int(match.group(3) or 1) < 1:
        raise Refused("Bad job name")
    return Array(match.group(1), ranges, int(match.group(3) or 0))


def indices(record: Dict[str, Any]) -> List[int]:
    """The indices of a job's elements; of a job that is no array, 0 alone."""
    spec = record["options"].get("-J", "")
    if "[" not in spec:
        return [0]
    return list(dict.fromkeys(index for each in read_array(spec).ranges for index in each))


def id_text(jobid: int, index: int) -> str:
    """A job's id, or that of an element, as LSF writes it."""
    return "%d[%d]" % (jobid, index) if index else str(jobid)


def element_variables(record: Dict[str, Any]) -> Dict[str, str]:
    """What LSF sets in an element of an array, beside what the others have too."""
    index, array = record["jobindex"], read_array(record["options"]["-J"])
    own = next(each for each in array.ranges if index in each)
    return {"LSB_JOBINDEX": str(index), "LSB_JOBNAME": record["name"],
            "LSB_BATCH_JID": id_text(record["jobid"], index),
            "LSB_JOBINDEX_STEP": str(own.step), "LSB_JOBINDEX_END": str(own.stop - 1)}


# ------------------------------------------------------------------ jobs on disk

class Job:
    """The files of one job, or of an element of an array; those of a whole array have index 0."""

    def __init__(self, jobid: int, index: int = 0) -> None:
        self.jobid = jobid
        self.index = index
        self.base = os.path.join(root(), str(jobid), *[str(index)] if index else [])

    def path(self, name: str) -> str:
        """The path of one of the job's files."""
        return os.path.join(self.base, name)

    def load(self, name: str) -> Dict[str, Any]:
        """The object in a JSON file."""
        with open(self.path(name), encoding="utf-8", errors="surrogateescape") as stream:
            value: Dict[str, Any] = json.load(stream)
            return value

    def record(self) -> Dict[str, Any]:
        """What was parsed, with the index and the name of this element."""
        record = Job(self.jobid).load("record.json")
        if self.index:
            name = read_array(record["options"]["-J"]).name
            record["name"] = "%s[%d]" % (name, self.index)
        return dict(record, jobindex=self.index)

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


def members(jobid: int) -> List[Job]:
    """The job with this number, or the elements of the array; what is not known is left out."""
    try:
        record = Job(jobid).load("record.json")
    except OSError:
        return []
    return [job for job in (Job(jobid, index) for index in indices(record)) if job.is_known()]


def all_jobs() -> List[Job]:
    """The known jobs and elements, oldest first."""
    ids = sorted(int(name) for name in os.listdir(root()) if name.isdigit())
    return [job for jobid in ids for job in members(jobid)]


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
    """-J NAME, or NAME[LIST]%LIMIT for an array; brackets stand for nothing else."""
    if not value or len(value.encode("utf-8", "replace")) > 4094:
        raise Refused("Bad job name")
    if "[" in value or "]" in value:
        ranges, size = read_array(value).ranges, setting("ARRAY_SIZE", 1000)
        if max(each.stop - 1 for each in ranges) > size or sum(map(len, ranges)) > size:
            raise Refused("Job array index too large")


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
    """Lay down a pending job, or all elements of an array."""
    job = new_job()
    record["jobid"] = job.jobid
    if script is not None:
        spool = os.path.join(root(), "lsbatch", "%d.%d" % (record["submit"], job.jobid))
        with open(os.open(spool, os.O_WRONLY | os.O_CREAT, 0o700), "wb") as stream:
            stream.write(os.fsencode(script))
        record["script"] = spool
    env = job_env(record)
    with open(os.open(job.path("environ"), os.O_WRONLY | os.O_CREAT, 0o600), "wb") as stream:
        stream.write(b"\0".join(os.fsencode("%s=%s" % item) for item in env.items()))
    held = "PSUSP" if "-H" in record["options"] else "PEND"
    for index in indices(record):
        member = Job(job.jobid, index)
        os.makedirs(member.base, exist_ok=True)
        member.save("state.json", {"stat": held, "exit_code": None, "start": None, "end": None,
                                   "pid": None, "runner": None, "exit_reason": ""})
    # Without this file the job is not known: a whole array comes into being at once.
    job.save("record.json", record)
    return job


def start_runner(job: Job) -> None:
    """Start the detached process that runs the job, or the elements of the array."""
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
        jobs = [job for job in members(int(match.group(2)))
                if int(match.group(3) or job.index) == job.index]
        if not jobs:
            raise ValueError("no such job")
        claimed = claims[match.group(1) or "done"]      # of an array, by every element
        return str(all(job.load("state.json")["stat"] in claimed for job in jobs))

    text = re.sub(r"\b(?:(done|exit|ended|started)\()?\b(\d+)\b(?:\[(\d+)\])?(?(1)\))", holds,
                  expression)
    text = text.replace("&&", " and ").replace("||", " or ").replace("!", " not ")
    if not set(re.findall(r"\w+|[^\w\s]", text)) <= {"True", "False", "and", "or", "not", "(", ")"}:
        raise ValueError("not a condition")
    return bool(eval(text.strip(), {"__builtins__": {}}))


class Runner:
    """One job from PEND to its end."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.record = job.record()
        self.options = self.record["options"]
        self.reason = ""
        self.seen = 0                   # lines of `signals` that were read
        self.plan: List[Tuple[float, int]] = []     # signals to come
        self.limit_at = float("inf")
        self.end_by = time.time() + setting("MAX_S", 3600)

    def run(self) -> None:
        """Wait for the job's turn, and run it."""
        if self.wait_turn():
            self.work()

    def work(self) -> None:
        """Run the job, and note how it ended."""
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
        while time.time() < self.end_by:
            if self.job.load("state.json")["stat"] != "PEND":
                return False
            if self.may_start():
                return self.begin()
            time.sleep(TICK_S)
        return False

    def begin(self) -> bool:
        """Let the job run, unless it is pending no more."""
        return self.job.update("PEND", stat="RUN", start=time.time(), runner=os.getpid())

    def may_start(self) -> bool:
        """Whether the job waits for no other; one that was forgotten holds it for ever."""
        if time.time() < self.record["submit"] + setting("DISPATCH_S", 0):
            return False
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
        with open(Job(self.job.jobid).path("environ"), "rb") as stream:
            env = dict(os.fsdecode(item).split("=", 1) for item in stream.read().split(b"\0"))
        if self.job.index:
            env.update(element_variables(self.record))
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
                name = name.replace("%I", str(self.job.index))
                return os.path.join(str(self.record["cwd"]), name)
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
        """The text that LSF puts before a job's output; it names an array as -J did."""
        name = str(self.options.get("-J", self.record["name"])).split("\n")[0]
        how = "Exited with exit code %d." % code if code else "Successfully completed."
        return ("Sender: LSF System (emulator)\nSubject: Job %s: <%s> in cluster <emulator> %s\n\n"
                "%s%s\n\nThe output (if any) follows:\n\n" % (
                    id_text(self.job.jobid, self.job.index), name,
                    "Exited" if code else "Done", self.reason + ".\n" if self.reason else "", how))


class Dispatcher:
    """The elements of one array, from PEND to their ends."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.first = Runner(job)        # no element starts before the array may
        options = self.first.options
        slots = sum(slots for _, slots in hosts(options))
        room = max(1, int(setting("SLOTS", 64)) // slots)
        self.room = min(room, read_array(options["-J"]).limit or room)
        self.waiting = [Job(job.jobid, index) for index in indices(self.first.record)]
        self.running: List[threading.Thread] = []

    def run(self) -> None:
        """Run elements until none is pending; one that a dispatcher leaves is the next one's."""
        with open(self.job.path("dispatcher"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            while time.time() < self.first.end_by:
                began = time.time()
                if not self.start_some() and not self.running:
                    return
                time.sleep(max(TICK_S, 4 * (time.time() - began)))

    def start_some(self) -> bool:
        """Start what there is room for; whether an element may be pending still."""
        self.running = [thread for thread in self.running if thread.is_alive()]
        is_pending = False
        may_start = self.first.may_start()
        for job in list(self.waiting):
            if len(self.running) >= self.room:
                return True
            stat = job.load("state.json")["stat"]
            if stat == "PEND" and may_start:
                self.start(Runner(job))
            elif stat not in ("PEND", "PSUSP"):
                self.waiting.remove(job)
            is_pending = is_pending or stat == "PEND"
        return is_pending

    def start(self, runner: Runner) -> None:
        """Run an element beside the others, unless it was held or killed just now."""
        if runner.begin():
            self.waiting.remove(runner.job)
            self.running.append(threading.Thread(target=runner.work))
            self.running[-1].start()


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
    "jobindex": lambda r, s: r["jobindex"],
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
Ids = List[Tuple[int, List[range]]]     # job ids, with the ranges of ID[LIST]


class Usage(Exception):
    """A command line that bjobs, bkill and the like cannot read."""


def fail(message: str) -> NoReturn:
    """Refuse a command line."""
    raise Usage(message)


def read_id(word: str) -> Tuple[int, List[range]]:
    """A job id, and the ranges of indices in brackets after it."""
    jobid, bracket, listed = word.partition("[")
    if not jobid.isdigit():
        fail("%s: Illegal job ID" % word)
    ranges = read_ranges(listed[:-1]) if listed.endswith("]") else []
    if bracket and not ranges:
        fail("%s: Bad job array index list" % word)
    if bracket and not int(jobid):
        fail("%s: Job ID out of valid range" % word)
    return int(jobid), ranges


def query_options(argv: List[str], flags: str, valued: str) -> Tuple[Dict[str, str], Ids]:
    """The options and the job ids of a command line of bjobs, bkill and the like."""
    options: Dict[str, str] = {}
    ids: Ids = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word in flags.split():
            options[word] = ""
        elif word in valued.split() and rest:
            options[word] = rest.pop(0)
        elif word.startswith("-"):
            fail("%s: Illegal option" % word)
        else:
            ids.append(read_id(word))
    return options, ids


def is_meant(job: Job, ids: Ids) -> bool:
    """Whether one of the ids is that of the job, or of the array it is in."""
    return any(job.jobid == jobid and (not ranges or any(job.index in each for each in ranges))
               for jobid, ranges in ids)


def is_named(job: Job, pattern: str) -> bool:
    """Whether -J means the job: a name with * in it, of an array without or with an index."""
    name, _, index = pattern.partition("[")
    if not job.index:
        return fnmatch.fnmatchcase(job.record()["name"], pattern)
    return (fnmatch.fnmatchcase(job.record()["name"].partition("[")[0], name)
            and index in ("", "%d]" % job.index))


def selected(options: Dict[str, str], ids: Ids) -> Tuple[List[Job], List[Tuple[int, int]]]:
    """The jobs that a command line speaks of, and the ids and indices that are none."""
    numbers = sorted({jobid for jobid, _ in ids})
    found = [job for jobid in numbers for job in members(jobid) if is_meant(job, ids)]
    if not ids:
        found = all_jobs()
    if "-J" in options:
        found = [job for job in found if is_named(job, options["-J"])]
    for option, key in (("-Jd", "description"), ("-q", "queue"), ("-P", "project")):
        if option in options:
            found = [job for job in found
                     if fnmatch.fnmatchcase(job.record()[key], options[option])]
    known = {(job.jobid, index) for job in found for index in (0, job.index)}
    asked = [(jobid, index) for jobid, ranges in ids
             for index in [index for each in ranges for index in each] or [0]]
    return found, [each for each in asked if each not in known]


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
        record, state = job.record(), job.load("state.json")
        if is_wanted(state["stat"], options, bool(ids)):
            values = [FIELDS[field](record, state) for field in fields]
            rows.append([one_line("-" if v in (None, "") else v) for v in values])
    for each in missing:
        print("Job <%s> is not found" % id_text(*each), file=sys.stderr)
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


# ------------------------------------------------------------------ bkill, bstop, bresume

Act = Callable[[Job], str]      # does something to a job; why it cannot be done, or nothing


def control(argv: List[str], flags: str, valued: str,
            read: Callable[[Dict[str, str]], Tuple[str, Act]]) -> int:
    """Do to jobs what a command line asks for; REFUSED when it could not be done to one of them."""
    try:
        options, ids = query_options(argv, flags, valued)
        doing, act = read(options)
    except Usage as err:
        print("%s." % err, file=sys.stderr)
        return REFUSED
    if not ids and not options:
        print("Job ID must be specified.", file=sys.stderr)
        return REFUSED
    jobs, missing = selected(options, [each for each in ids if each[0]])
    if (0, []) in ids or not ids:       # 0 stands for every unfinished job
        jobs = [job for job in jobs if job.load("state.json")["stat"] not in FINAL]
    if not jobs and not missing:
        print(NO_MATCH, file=sys.stderr)
        return REFUSED
    refused = {NO_MATCH: missing} if missing else {}
    refused.update(apply(jobs, {jobid for jobid, ranges in ids if not ranges}, doing, act))
    for why, which in refused.items():
        for text in folded(which):
            print("Job <%s>: %s" % (text, why), file=sys.stderr)
    return REFUSED if refused else 0


def apply(jobs: List[Job], whole: Set[int], doing: str,
          act: Act) -> Dict[str, List[Tuple[int, int]]]:
    """Do something to jobs and say to which it was done; the reasons of the others, and these.

    What is asked of a whole array, by its id alone, LSF does in its own time, and it counts that
    among the refusals: so does Platform Lava, the part of LSF whose source is open.
    """
    refused: Dict[str, List[Tuple[int, int]]] = {}
    arrays: Dict[int, Set[str]] = {}
    for job in jobs:
        why = act(job)
        if job.index and job.jobid in whole:
            arrays.setdefault(job.jobid, set()).add(why)
        elif why:
            refused.setdefault(why, []).append((job.jobid, job.index))
        else:
            print("Job <%s> is being %s" % (id_text(job.jobid, job.index), doing))
    for jobid, reasons in arrays.items():
        why = FINISHED if reasons == {FINISHED} else IN_PROGRESS
        refused.setdefault(why, []).append((jobid, 0))
    return refused


def folded(elements: Iterable[Tuple[int, int]]) -> Iterator[str]:
    """The ids of elements; LSF 10.1 writes neighbours of which it says the same as ID[A-B:1]."""
    runs: List[Tuple[int, int, int]] = []
    for jobid, index in elements:
        if index > 1 and runs and (runs[-1][0], runs[-1][2]) == (jobid, index - 1):
            runs[-1] = (jobid, runs[-1][1], index)
        else:
            runs.append((jobid, index, index))
    for jobid, first, last in runs:
        yield id_text(jobid, first) if first == last else "%d[%d-%d:1]" % (jobid, first, last)


def bkill(argv: List[str]) -> int:
    """Kill jobs, or send them a signal."""
    def read(options: Dict[str, str]) -> Tuple[str, Act]:
        signum = signal_number(options["-s"]) if "-s" in options else 0
        return "signaled" if signum else "terminated", lambda job: kill_job(job, signum)
    return control(argv, "-r -b", "-s -u -J -q", read)


def signal_number(name: str) -> int:
    """A signal by number or name, with or without SIG."""
    if name.isdigit():
        return int(name)
    found = getattr(signal, "SIG" + name.upper().replace("SIG", "", 1), None)
    return int(found) if found else fail("%s: Illegal signal value" % name)


def kill_job(job: Job, signum: int) -> str:
    """Kill one job, at once when it has not started; why not, if there was nothing to kill."""
    for stat in ("PEND", "PSUSP"):
        if not signum and job.update(stat, stat="EXIT", end=time.time(), exit_reason=OWNER):
            return ""
    if job.load("state.json")["stat"] in FINAL:
        return FINISHED
    with open(job.path("signals"), "a") as stream:
        stream.write("%d\n" % signum)
    return ""


def bstop(argv: List[str]) -> int:
    """Hold jobs that wait; those that run are not stopped here."""
    return control(argv, "", "-u -J -q", lambda _: ("stopped", hold_job))


def hold_job(job: Job) -> str:
    """Hold one job; why not, if it does not wait."""
    return change_job(job, "PEND", "PSUSP", "Job is suspended or has started")


def change_job(job: Job, before: str, after: str, why: str) -> str:
    """Give a job another state; why not, if it has ended or its state was a third one."""
    if job.update(before, stat=after):
        return ""
    return FINISHED if job.load("state.json")["stat"] in FINAL else why


def bresume(argv: List[str]) -> int:
    """Let jobs go that are held."""
    resumed = set()

    def resume_job(job: Job) -> str:
        why = change_job(job, "PSUSP", "PEND", "Job is not held")
        if not why:
            resumed.add(job.jobid)
        return why

    status = control(argv, "", "-u -J -q", lambda _: ("resumed", resume_job))
    for jobid in sorted(resumed):
        start_runner(Job(jobid))
    return status


# ------------------------------------------------------------------ bqueues, bparams

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


def bparams(argv: List[str]) -> int:
    """List parameters of the cluster, as `bparams -a` does; its other forms are not known."""
    if argv != ["-a"]:
        print("usage: bparams -a", file=sys.stderr)
        return REFUSED
    for name, value in (("CLEAN_PERIOD", setting("CLEAN_S", 3600)),
                        ("JOB_TERMINATE_INTERVAL", setting("KILL_S", 10)),
                        ("MAX_JOB_ARRAY_SIZE", setting("ARRAY_SIZE", 1000))):
        print("    %s = %d" % (name, value))
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
            "bqueues": bqueues, "bparams": bparams}


def main(argv: List[str]) -> int:
    """Be one of the commands, or the process behind a job."""
    if argv[:1] == ["run"] and len(argv) == 2:
        job = Job(int(argv[1]))
        if indices(job.record()) == [0]:
            Runner(job).run()
        else:
            Dispatcher(job).run()
        return 0
    if not argv or argv[0] not in COMMANDS:
        print(__doc__, file=sys.stderr)
        return 2
    os.makedirs(root(), exist_ok=True)
    return COMMANDS[argv[0]](argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
