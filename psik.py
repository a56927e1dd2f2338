#!/usr/bin/env python3
"""psik.py: submit, follow and keep track of batch jobs, from one file and nothing but Python.

    python3 psik.py run spec.json       run the job of a JSON spec (or a #! script); print its id
    python3 psik.py ls                  list the jobs, newest first
    python3 psik.py serve               serve the REST API and a page, on a socket for you alone
    python3 psik.py --help              list every command

The job tree, all of it readable with cat:

    prefix/                 named in the config; by default ~/.local/share/psik
      .psik/                copies of psik.py, each named by its hash, for the jobs that need them
      .tokens/              the key that signs the server's tokens, and the ids of revoked tokens
      .events/              the server's journal: the transitions that it has told, numbered
      .apps/NAME            how many jobs an application has made, a byte for each
      <backend>/            the backend's name in the config
        .poll.json          the scheduler's last answer and its time; .poll-HOST.json: an answer
                            that only HOST can get
        .outbox/            callbacks not yet delivered, a file each; dead/ holds those given up;
                            JOBID.end: only the end of the job is to be told, and is to come
        .keys/              the Idempotency-Keys of the last day
        .uploads/           the folders in which a cut upload may have left a part
        .after/ID/          the jobs that wait for the end of job ID, a file each
        <jobid>/            seconds since the epoch, three decimals
          spec.json         the JobSpec; mode 0600, because it can hold secrets
          status.csv        time,jobndx,state,info: one line per transition, append-only
          scripts/          submit job cancel poll run psik supervise;
                            setup if the spec has set-up lines; callback.json if the job has a
                            callback; scheduler.json: the config's scheduler_environment, if any;
                            hold release signal where the backend has them; .environ: what a job
                            waits for that is to run after others, and the environment to submit it
                            with;
                            of an array, tasks: the number and the variables of each, a line a task,
                            and array, which tells how large an array of the scheduler's may be;
                            .psik.py: a hard link to the copy of psik.py that the job calls
          work/             where the job runs, or a link to spec.directory; .inputs/ in it holds
                            the inputs of an application that are files.  Until the job is made, it
                            is called incoming/
          log/              stdout.N stderr.N of step N; submit.N: stderr of its submission, there
                            from before it begins; reason.N: why it failed;
                            host.N: the one host that knows its native id;
                            round.R: what round R of an array was submitted as; host.O+, submit.O+:
                            the same for the steps that begin behind step O as one array;
                            claim.N: which submission runs it, where, and what it has used;
                            alive.N: locked while a process of it has it open;
                            cancel.N: a request to end it;
                            callbacks: time,jobndx,state,delivery,row,attempts,answer of each event
                            that was delivered;
                            applications: the interactive ones that were run in it, a line each
          access.json       owner and shares of a job that was made through the REST API

A job's Nth run (its jobndx, from 1) is a step; starting the job again makes the next one.  Of an
array of n tasks, task k has the steps k, n + k, 2n + k and so on, one for each round; its `new` row
holds n.
"Upstream" is the packages psik and psik_api, whose names and files psik.py takes over.  The first
line of a docstring often says what is returned: "Submit the step; the `queued` row."

Contents; each section uses only what stands above it, and the templates:

     1. Constants
     2. Errors
     3. Tools
     4. Models
     5. Reading specs
     6. Configuration
     7. Job tree
     8. Templates
     9. Backends
    10. Callbacks
    11. Reconciliation
    12. Operations
    13. Python interface
    14. Confined files
    15. Applications
    16. Explanations
    17. HTTP
    18. Access
    19. Service state
    20. REST API
    21. Routes
    22. Server
    23. Between hosts
    24. Command line
    25. Embedded templates

The stable interface is what __all__ lists.
"""
# Modules that cost start-up time (argparse, subprocess, shutil, difflib) are imported where they
# are used: the call inside a job should not pay for them.
import sys
if __name__ == "__main__" and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    # This file's folder, or the current one: whoever can write there could plant a module, say
    # json.py, and we would import it.
    BESIDE = sys.path.pop(0)
import _thread
import errno
import fcntl
import json
import operator
import os
import re
import stat
import string
import time
from contextlib import contextmanager
from contextlib import suppress
from enum import Enum
from functools import lru_cache
from types import SimpleNamespace
from typing import Any
from typing import AsyncIterator
from typing import Callable
from typing import ClassVar
from typing import Dict
from typing import FrozenSet
from typing import Generator
from typing import IO
from typing import Iterable
from typing import Iterator
from typing import List
from typing import Mapping
from typing import NamedTuple
from typing import Optional
from typing import Sequence
from typing import Set
from typing import Tuple
from typing import Type
from typing import TypeVar
from typing import Union

STANDARD = os.path.dirname(os.__file__)
sys.path.insert(0, STANDARD)  # before a backport of dataclasses that may lie beside psik.py
if sys.version_info < (3, 7) and __name__ == "__main__" and not sys.flags.isolated:
    sys.path.append(BESIDE)
try:
    from dataclasses import dataclass
    from dataclasses import field
    from dataclasses import fields
    from dataclasses import replace
except ImportError:  # Python 3.6 lacks it
    message = ("psik.py: on Python 3.6 put the one-file backport dataclasses.py beside psik.py, "
               "or use Python 3.7 or newer")
    if __name__ == "__main__":
        sys.exit(message)
    raise ImportError(message)
finally:
    sys.path.remove(STANDARD)

__all__ = [
    "JobManager", "Job", "AsyncPath",
    "JobState", "ResourceSpec", "BackendConfig", "JobAttributes", "JobSpec", "Callback", "Config",
    "Backend",
    "PsikError", "InvalidError", "NotFoundError", "ForbiddenError", "ConflictError", "BackendError",
    "Fault", "InvalidJobException", "SubmitException", "Queue",
    "JobDir", "Row", "Summary", "load_config", "load_spec", "from_json", "to_json", "backends_of",
    "create", "submit", "reached", "find_job", "list_jobs", "find_log", "logs", "wait", "watch",
    "exit_status", "hold", "send_signal", "cancel", "remove", "sweep", "reconcile", "deliver",
    "deliver_all", "sign_message", "verify_signature", "web", "main",
]
__version__ = "1.1.0"
# A program that is read from stdin has no file; its jobs get a copy of the compiled code instead.
FILE = str(globals().get("__file__", ""))
CODE = None if os.path.isfile(FILE) else sys._getframe().f_code


# ------------------------------------------------------------------------------------- 1. Constants

APPLICATION_NAME = re.compile("[A-Za-z][A-Za-z0-9._-]{0,62}")
JOBID = re.compile(r"[0-9]+(\.[0-9]+)?")      # matched whole before an id becomes part of a path
BACKEND_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")  # the first letter sets it off from a job id
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")  # not allowed in one-line fields
SURROGATE = re.compile("[\ud800-\udfff]")     # half a character, which no UTF-8 file can hold
ROW = re.compile(r"([0-9]{1,10}(?:\.[0-9]*)?),([0-9]{1,9}),"
                 r"(new|queued|active|completed|failed|canceled),([^,\s]*)$")
# A line of log/callbacks.  Like ROW, it is searched for: the rest of a torn line may precede it.
DELIVERED = re.compile(r"([0-9]{1,10}\.[0-9]{3}),([0-9]{1,9}),([a-z]+),([0-9a-f]{32}),([0-9]{1,9}),"
                       r"([0-9]{1,9}),(.*)$")
# Lines in which schedulers' programs say why they refuse, and lines that tell a user nothing.
SAYS_WHY = re.compile("(?i)error|invalid|fail|denied|not |cannot|can't|no such|unable|exceed")
# How schedulers and the supervisor call the end of a job that had asked for too little of this.
WANTED_MORE = {"memory_per_process": re.compile("OUT_OF_MEMORY|TERM_MEMLIMIT"),
               "duration": re.compile("TIMEOUT|TERM_RUNLIMIT|walltime")}
SAYS_NOTHING = re.compile("(?i)^(usage|try )|--help|^exiting|^job not submitted[.]?$")
# What a script holds that is plainly written for sh, and means something else to rc, or nothing.
WRITTEN_FOR_SH = re.compile(
    r"(?m)^\s*export\s+\w+=|\$\(|2>&1|(?:^|;)\s*(?:(?:if|while)\s+)?\[\s.*\s\]"
    r"|(?:^|;)\s*(?:then|fi|do|done|esac)\b")
SYNTAX_ERROR = re.compile("(?i)syntax error|unexpected")   # of sh, bash and rc, on stderr
NATIVE_ID = re.compile(r"[^\s,]+")            # printed by submit; goes into a column of status.csv
SAFE_WORD = re.compile(r"[A-Za-z0-9_/.:+-][A-Za-z0-9_/.,:+%-]*")  # needs no quotes in rc and sh

# What psik.py itself keeps in a job's log/.
OUR_LOG = re.compile(r"(submit|reason|host|claim|alive|cancel|round)\.[0-9]+\+?|callbacks|"
                     r"applications")
JOB_SCRIPTS = ("submit", "job", "cancel", "poll")  # of the backend's templates; poll may be missing
STEERING_SCRIPTS = ("hold", "release", "signal")    # the same; any of them may be missing
ARRAY_SCRIPTS = ("array",)  # the same, of arrays alone
OPTIONAL_SCRIPTS = ("poll",) + STEERING_SCRIPTS + ARRAY_SCRIPTS
OUR_SCRIPTS = ("psik", "supervise")  # the same for every backend
MAX_ANSWER_HEAD = 65536        # bytes, the head of the answer to a callback
STALE_S = 3600                 # a directory that never became a job is swept when older than this
PROBE_TIMEOUT_S = 5            # for a command that shows what it is: whether `rc` is the shell rc
POLL_TIMEOUT_S = 15            # for a scheduler's answer; somebody may be waiting for a listing
WANTED_S = 600                 # a poll includes the steps that other processes asked about lately
SETTLE_S = 1                   # so old may an answer be about a step that a signal has ended
UNKNOWN_S = 600                # so late may a submission without an answer reach its scheduler
UNKNOWN_LIFE_S = 86400         # so long is it remembered that a scheduler does not have one
LISTED_S = 30                  # a scheduler's listing may be so old (bjobs: 5 s, as a rule)
CANCEL_TIMEOUT_S = 60          # for a scheduler's answer when a job is canceled or removed
REMOVE_UNASKED_S = 86400       # a canceled job this old may be removed even if its scheduler cannot
                               # be asked whether it has ended
END_WAIT_S = 120               # for a scheduler to end a canceled job
MAX_COUNT = 2 ** 31 - 1        # the largest number in a spec or config
MAX_STEP = 10 ** 9 - 1         # the largest jobndx that ROW matches
MAX_TASKS = 100000             # of an array
MAX_INFO = 200                 # characters of a row's info
MAX_INPUT_PARTS = 100000       # commas and brackets of the inputs of an application, as JSON
MAX_INTERACTIVE = 4            # applications that answer at once, at the same time
MAX_VARIABLE = 131000          # bytes of a variable; execve(2) takes 128 KiB with the name
BLOCK = 262144                 # bytes read or sent at once
MAX_HEAD = 32768               # bytes of a request's head
MAX_HEADERS = 100              # lines
MAX_PARTING = 64               # connections that were turned away and are not closed yet
MAX_PARTS = 1000               # of a multipart form
MAX_TOKEN = 4096               # characters
MAX_PARENTS = 8                # in a chain of tokens, each issued to the bearer of the one before
MAX_KEY = 255                  # characters of an Idempotency-Key
MAX_TICKETS = 1000             # that a server knows at once
MAX_KEYS = 10000               # Idempotency-Keys that a backend remembers
BEAT_S = 2                     # between checks that an event stream is still read and admitted
MAX_FAULTS = 100               # about so many are reported of one document
MAX_SHARES = 65536             # bytes of a request that sets the shares of a job
MAX_CALLBACK = 65536           # bytes of a callback from a job elsewhere
MAX_CHUNK_LINE = 1024          # bytes
MAX_SMALL_CHUNKS = 10000       # of a body; if it has more, they must average 16 bytes
MAX_DRAINED_CHUNKS = 100       # small ones, of a body that nobody wants; then the connection ends
MAX_TEXTS = 1000               # files whose text a process caches
MAX_WORDS = 4096               # bytes of a line between two hosts
MAX_PART = 255                 # characters of a name in a folder
MAX_NAMES = 65536              # bytes of the names in a header of a tar archive
MAX_TYPED = 65536              # characters; longer JSON was not typed, so no slip is forgiven
MAX_JSON = 16 * 1024 * 1024    # bytes of a body that is read whole
HEAD_TIMEOUT_S = 10            # from a head's first byte to its last; for a TLS handshake
IDLE_TIMEOUT_S = 75            # between two requests on a connection
BODY_TIMEOUT_S = 30            # from one piece of a body to the next
BODY_RATE = 1000               # bytes per second, the slowest that a body or a file may travel
SEND_TIMEOUT_S = 60            # for a client to take the next piece of an answer
CROWD_S = 1                    # a younger connection is not ended to make room for its peer's next
LINGER_S = 2                   # for a client to stop sending and read why its request was refused
STOP_GRACE_S = 30              # for the requests in hand when a server is stopped
MAX_WAIT_S = 60                # that a request may ask for
LOOK_S = 0.25                  # between two looks at a job that somebody follows
BACKLOG = 1024                 # connections waiting to be accepted
MAX_NEWS = 2000                # transitions that a server has in memory, and sends at once
JOURNAL_LINES = 5000           # of a file of the journal, before the next one is begun
JOURNAL_FILES = 8              # of them are kept
JOURNAL_GAP = 1000000          # a server that starts begins with a multiple of this
TICKET_LIFE_S = 60             # how long a ticket opens its path
KEY_LIFE_S = 86400             # how long an Idempotency-Key is remembered
UPLOAD_PREFIX = ".psik-upload-"      # begins the name of an upload until it is complete
INPUT_FILES = ".inputs"         # the folder, where a job runs, of its inputs that are files
TOKEN_ISSUER = "psik"
CLOCK_SKEW_S = 60              # by how much the clocks of two hosts may differ
WORD_SEPARATOR = "\x01"           # separates the words of a list that rc exports

# The variables of a job that does not inherit its environment: who and where the user is.
BASIC_ENVIRONMENT = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "LANG")

# What schedulers' programs read from the environment: variables of a surrounding job, and options
# that would beat those of the spec.  Those that name the cluster stay.
SCHEDULER_VARIABLE = re.compile(
    "(SLURM|SLURMD|SBATCH|SALLOC|SRUN|SQUEUE|SCANCEL|SACCT|LSB|PBS|SGE)_.+")
CLUSTER_VARIABLE = re.compile(
    ".+_(CONF|CONF_FILE|CONF_SERVER|ROOT|CELL|QMASTER_PORT|EXECD_PORT|JWT)"
    "|SLURM_CLUSTERS|PBS_(DEFAULT|SERVER|EXEC)|LSF_(ENVDIR|SERVERDIR|BINDIR|LIBDIR)"
    "|EGO_(TOP|CONFDIR)|FLUX_URI")
# Names a scheduler's job in its environment, for each scheduler.
SCHEDULER_IDS = ("SLURM_JOB_ID", "LSB_JOBID", "PBS_JOBID", "JOB_ID")
# A site's defaults, which count where neither of these words is in the spec.
SITE_DEFAULTS = {
    "SBATCH_ACCOUNT": "project_name --account -A", "SBATCH_PARTITION": "queue_name --partition -p",
    "SBATCH_QOS": "--qos -q", "SBATCH_RESERVATION": "reservation_id --reservation",
    "LSB_DEFAULTQUEUE": "queue_name -q", "LSB_DEFAULTPROJECT": "project_name -P",
}

# The only state at module level that changes, besides NEAR and the caches of @lru_cache.
WARNED: Set[str] = set()                       # the warnings that were printed
PROBED: Dict[str, str] = {}                    # {command: the first line that it printed}
TEXTS: Dict[str, Tuple[Tuple[int, int, int], str]] = {}  # {path: ((inode, mtime ns, size), text)}
LISTED: Dict[str, Tuple[int, List[str]]] = {}  # {folder: (mtime ns, job ids, newest first)}
WERE_WRITABLE: Set[str] = set()                # jobs that others could write to until this process
                                               # forbade it; their scripts are refused once

Json = Any
ExitStatus = int
Info = Union[int, str]
T = TypeVar("T")
M = TypeVar("M", bound="Model")


# ---------------------------------------------------------------------------------------- 2. Errors

class Fault(NamedTuple):
    """One fault of a document: its place (`resources.duration`, or '') and what is wrong there."""
    path: str
    message: str

    def __str__(self) -> str:
        return "%s: %s" % (self.path, self.message) if self.path else self.message


class PsikError(Exception):
    """A failure that the user can act on.

    main() prints it and exits with exit_status; the server answers with http_status.  faults lists
    everything that is wrong; source is the file that has the faults, or ''; path and message are
    those of the first fault.
    """
    exit_status, http_status = 1, 500

    def __init__(self, faults: Union[str, Sequence[Fault]], source: str = "") -> None:
        self.faults = [Fault("", faults)] if isinstance(faults, str) else list(faults)
        self.source = source
        self.path, self.message = self.faults[0]
        start = source + ": " if source else ""
        super().__init__("\n".join(start + str(fault) for fault in self.faults))


class InvalidError(PsikError):
    """A spec, config, argument or request is invalid."""
    exit_status, http_status = 2, 400


class NotFoundError(PsikError):
    """No such job or file."""
    exit_status, http_status = 3, 404


class ForbiddenError(PsikError):
    """The caller may not do this, a signature is wrong, or a file could be somebody else's work."""
    exit_status, http_status = 6, 403


class BackendError(PsikError):
    """The scheduler, or the script that talks to it, refused or did not answer."""
    exit_status, http_status = 4, 502


class ConflictError(PsikError):
    """The request does not fit the state that the job is in."""
    exit_status, http_status = 5, 409


# ----------------------------------------------------------------------------------------- 3. Tools

def write_log(text: str) -> None:
    """Write to stderr; if nobody reads that any more, the work goes on."""
    with suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()


def complain(text: str) -> None:
    """Print a message of one line to stderr; stdout is for results."""
    write_log("psik: %s\n" % text)


def complain_once(text: str) -> None:
    """Like complain(), but once per process and text: `wait` and a server look again and again."""
    if text not in WARNED:
        WARNED.add(text)
        complain(text)


def shown(value: Any) -> str:
    """repr(value), cut to 100 characters."""
    text = repr(value[:100] if isinstance(value, (str, bytes, list, tuple)) else value)
    return text if len(text) <= 100 else text[:97] + "..."


def strict_pairs(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    """The dict of a JSON object; ValueError if a key is given twice."""
    values = dict(pairs)
    if len(values) != len(pairs):
        names = sorted(name for name, _ in pairs)
        twice = next(name for name, after in zip(names, names[1:]) if name == after)
        raise ValueError("%s is given twice" % shown(twice))
    return values


def finite(text: str) -> float:
    """The number of a text; ValueError for NaN and Infinity, which JSON does not have."""
    number = float(text)
    if not abs(number) < float("inf"):
        raise ValueError("%s is not JSON" % text if text.isalpha() else
                         "%s is too large a number" % text[:20])
    return number


def without_comma(text: str, position: int) -> str:
    """Take out the comma before a closing bracket, if that comma is the fault of a JSON text.

    position is that of the fault; a text with another fault is returned unchanged.
    """
    # Python 3.13 gives the position of the comma, earlier versions that of what follows it.
    head = text[:position + (text[position:position + 1] == ",")].rstrip()
    rest = text[len(head):]
    is_last = head.endswith(",") and rest.lstrip()[:1] in ("]", "}")
    is_slip = is_last and head[:-1].rstrip()[-1:] not in ("[", "{", ",")
    return head[:-1] + rest if is_slip else text


def load_json(text: str, forgiving: bool = True) -> Json:
    """The value of a JSON text; ValueError or RecursionError if it is invalid.

    forgiving: a comma before a closing bracket passes in a text short enough to have been typed.
    """
    slips = 100 if forgiving and len(text) <= MAX_TYPED else 0
    while True:
        try:
            return json.loads(text, object_pairs_hook=strict_pairs, parse_constant=finite,
                              parse_float=finite)
        except json.JSONDecodeError as err:
            tidy = without_comma(text, err.pos)
            if tidy == text or not slips:
                raise
            text, slips = tidy, slips - 1


def parse_json(text: str, source: str) -> Json:
    """Like load_json(); InvalidError names source, line and column of a fault."""
    try:
        return load_json(text)
    except json.JSONDecodeError as err:
        place = "%s:%d:%d" % (source, err.lineno, err.colno)
        hint = "" if text.lstrip()[:1] in ("{", "[", '"') else "; a script begins with #!"
        said = re.sub(" at$", "", err.msg.lower())  # where, has been said already
        message = "not JSON: " + said + hint if text.strip() else "it is empty"
        raise InvalidError(message, place) from None
    except RecursionError:
        raise InvalidError("nested too deeply", source) from None
    except ValueError as err:
        raise InvalidError(str(err), source) from None


def read_text(path: str) -> str:
    """The text of a UTF-8 file; InvalidError if it cannot be read."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except UnicodeDecodeError as err:
        raise InvalidError("not UTF-8 text (byte %d)" % err.start, path) from None
    except OSError as err:
        raise InvalidError("cannot be read: %s" % (err.strerror or err), path) from None


@contextmanager
def naming(path: str, always: bool = False) -> Iterator[None]:
    """Let an error of the system that happens here name this file, as those of open() do.

    always: also one that names a file, which may be a temporary one.
    """
    try:
        yield
    except OSError as err:
        err.filename = path if always else err.filename or path
        raise


def write_file(path: str, text: str, mode: int = 0o600, durable: bool = False) -> None:
    """Make a file with this text and mode, whatever the umask.

    durable: return when the text is on the disk.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with naming(path), open(fd, "w", encoding="utf-8", newline="") as file:
        os.fchmod(fd, mode)
        file.write(text)
        if durable:
            file.flush()
            os.fsync(fd)


def replace_file(path: str, text: str, durable: bool = False) -> None:
    """Make or replace a file in one step, so that a reader sees the old text or the new one.

    durable: the text is on the disk before it takes the file's name.
    """
    temporary = "%s.%s" % (path, os.urandom(6).hex())
    try:
        write_file(temporary, text, durable=durable)
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def paths_in(folder: str) -> List[str]:
    """The paths of a folder's entries; [] if there is no such folder."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return [entry.path for entry in os.scandir(folder)]
    return []


def read_or_empty(path: str) -> str:
    """A file's text, '' if it cannot be read; bytes that are not UTF-8 become U+FFFD."""
    try:
        # O_NONBLOCK, because a FIFO without a writer would hold us up.  os.open() costs a third of
        # open(), and a listing does this for every job.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        blocks = iter(lambda: os.read(fd, 65536), b"")  # a file in /proc comes in small pieces
        return b"".join(blocks).decode("utf-8", "replace")
    except OSError:
        return ""
    finally:
        os.close(fd)


def make_folder(path: str) -> None:
    """Make a directory of mode 0700, and each missing one above it likewise.

    os.makedirs() gives the mode to the last one only.
    """
    path, missing = os.path.abspath(path), []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for folder in reversed(missing):
        with suppress(FileExistsError):  # another process was first
            os.mkdir(folder, 0o700)


def write_whole(fd: int, data: bytes) -> None:
    """Write all of data, or raise OSError; on a full disk write(2) may take only a part."""
    while data:
        data = data[os.write(fd, data):]


@contextmanager
def closing_fd(fd: int) -> Iterator[int]:
    """Close a descriptor at the end of the block."""
    try:
        yield fd
    finally:
        os.close(fd)


def open_up(path: str) -> None:
    """Give us all permissions for a directory, but never for what a symbolic link leads to.

    The change goes through a descriptor, because a link may take the directory's place meanwhile.
    """
    fd = os.open(path, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW)
    with closing_fd(fd):
        os.chmod("/proc/self/fd/%d" % fd, 0o700)


def read_unless_known(path: str) -> str:
    """A text file's content, '' if there is none; read again only if the file has changed.

    OSError if it is there and cannot be read: a list of revoked tokens must not seem empty.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return ""
    version = status.st_ino, status.st_mtime_ns, status.st_size
    if len(TEXTS) > MAX_TEXTS:
        TEXTS.clear()
    text = TEXTS.get(path, ((0, 0, 0), ""))
    if text[0] != version:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = TEXTS[path] = version, file.read()
    return text[1]


def delete_tree(path: str) -> None:
    """Remove a directory, even if the job took permissions from parts of it; of a link, the link.

    PsikError if something of it remains.
    """
    import shutil
    if os.path.islink(path):
        os.unlink(path)
        return
    for folder, folders, _ in os.walk(path, onerror=lambda err: None):
        for name in folders:
            with suppress(OSError):  # a link, or gone meanwhile
                open_up(os.path.join(folder, name))
    shutil.rmtree(path, ignore_errors=True)
    if os.path.lexists(path):
        raise PsikError("%s could not be removed whole: something may still write to it" % path)


@contextmanager
def locked(fd: int, patient: bool = True) -> Iterator[None]:
    """Hold the exclusive flock(2) of an open file, the one that flock(1) takes in the job scripts.

    On a file system without locks the block runs unlocked, and relies on a short O_APPEND write
    staying whole.  Unless patient, BlockingIOError if somebody else holds it.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if patient else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as err:
        if err.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            raise
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)


def find_program(name: str) -> Optional[str]:
    """The path of a program as a shell finds it, or None: shutil.which() without its import."""
    folders = [""] if os.sep in name else os.environ.get("PATH", os.defpath).split(os.pathsep)
    paths = (os.path.join(folder, name) for folder in folders)
    programs = (path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK))
    return next((os.path.abspath(path) for path in programs), None)


# Ownership of files.  Whoever can write to a file that we run, or whose content we act on, can act
# as us.  So such a file must be ours or root's, and nobody else may write to it; ssh demands the
# same of its own files.

@lru_cache(maxsize=None)
def is_private_group(gid: int) -> bool:
    """Whether a group has no member but us: the one of our name that Linux makes for each user."""
    import grp
    import pwd
    try:
        name, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(gid)
    except KeyError:
        return False
    members = group.gr_mem + [user.pw_name for user in pwd.getpwall() if user.pw_gid == gid]
    return group.gr_name == name and set(members) <= {name}


def others_may_write(status: os.stat_result) -> bool:
    """Whether anybody but the owner may write here.  To a sticky directory others can add."""
    if status.st_mode & 0o002:
        return True
    return bool(status.st_mode & 0o020) and not is_private_group(status.st_gid)


def is_foreign(status: os.stat_result) -> bool:
    """Whether a file is neither ours nor root's."""
    return status.st_uid not in (os.geteuid(), 0)


def close_to_others(path: str) -> bool:
    """Take write permission for a file of ours from others; True if they had it, and lost it."""
    status = os.lstat(path)
    is_ours = status.st_uid == os.geteuid() and stat.S_IFMT(status.st_mode) in (
        stat.S_IFREG, stat.S_IFDIR)     # and no device, which is everybody's
    if not is_ours or not others_may_write(status):
        return False
    try:
        os.chmod(path, stat.S_IMODE(status.st_mode) & ~0o022)
    except OSError as err:
        if err.errno != errno.EROFS:  # on a read-only file system nobody can write now
            raise
    return not status.st_mode & 0o022 & os.lstat(path).st_mode  # some file systems keep the mode


def name_of_user(uid: int) -> str:
    """The name of a user, or the uid if it has none."""
    import pwd
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)


class Guarded:
    """A path that others could have made or changed; it is checked before it is read or run.

    instead: what the user can do if it is somebody else's.  to_run: it is a program.
    """

    def __init__(self, path: str, instead: str = "", to_run: bool = False) -> None:
        self.path, self.instead, self.to_run = path, instead, to_run

    def refuse_owner(self, uid: int) -> None:
        """Raise ForbiddenError: the path belongs to this user."""
        raise ForbiddenError(
            '%s belongs to %s, so it is not read: %s (or set "check_owner": false in the config, '
            "if the file system does not know owners)"
            % (self.path, name_of_user(uid), self.instead))

    def deny_others(self, status: os.stat_result) -> None:
        """Take write permission from others and report it; status is that of the path.

        ForbiddenError if others can write and we cannot stop them: it is root's, or a folder for
        everybody like /tmp.  A program is refused too, this once: others may have changed it.  The
        next try runs it.
        """
        ours, open_to_others = status.st_uid == os.geteuid(), others_may_write(status)
        if open_to_others and (not ours or status.st_mode & stat.S_ISVTX):
            raise ForbiddenError("%s can be written by others, so it is not read: chmod go-w %s"
                                 % (self.path, self.path))
        if open_to_others and close_to_others(os.path.realpath(self.path)):
            text = "others could write to %s; their permission was taken away" % self.path
            if self.to_run:
                raise ForbiddenError(text + ": look at what it holds, and try again")
            complain_once(text)
        elif ours and open_to_others:
            complain_once("others can write to %s, and its file system keeps it so; if that is "
                          'meant, set "check_owner": false in the config' % self.path)

    def check_ours(self) -> None:
        """ForbiddenError if it is neither ours nor root's; then close() it to others.

        A missing path passes: whoever reads it will report that.
        """
        with suppress(FileNotFoundError, NotADirectoryError):
            status = os.stat(self.path)
            if is_foreign(status):
                self.refuse_owner(status.st_uid)
            self.deny_others(status)

    def make_sticky(self) -> None:
        """Keep others who may write to a folder from renaming and removing what is ours there.

        ForbiddenError if the folder is somebody else's, and has no sticky bit.
        """
        with suppress(FileNotFoundError, NotADirectoryError):
            status = os.stat(self.path)
            if not others_may_write(status) or status.st_mode & stat.S_ISVTX:
                return
            if status.st_uid != os.geteuid():
                raise ForbiddenError("others can replace what is yours in %s: chmod +t %s"
                                     % (self.path, self.path))
            os.chmod(self.path, stat.S_IMODE(status.st_mode) | stat.S_ISVTX)

    def check_own(self) -> None:
        """Like check_ours(), for a part of the tree: root's is refused too, and others' links.

        A link of root's passes: it leads where root wants it to.
        """
        with suppress(FileNotFoundError, NotADirectoryError):
            link, status = os.lstat(self.path), os.stat(self.path)
            if is_foreign(link):
                self.refuse_owner(link.st_uid)
            if status.st_uid != os.geteuid():
                self.refuse_owner(status.st_uid)
            self.deny_others(status)


def last_line(text: str) -> str:
    """The last non-blank line of a text, stripped; '' if there is none."""
    lines = text.split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def telling_lines(text: str) -> str:
    """What a program said, in a line: at most three of its lines, those with an error first."""
    lines = [line.strip() for line in text.split("\n")
             if line.strip() and not SAYS_NOTHING.search(line)]
    lines.sort(key=lambda line: not SAYS_WHY.search(line))  # stable
    return "; ".join(dict.fromkeys(lines[:3]))


class Finished(NamedTuple):
    """The result of a program: exit status (128+n for signal n), stdout and stderr."""
    status: int
    out: str
    err: str

    @classmethod
    def of(cls, child: Any, out: bytes, err: bytes) -> "Finished":
        """The result of a program that has ended, and what it printed."""
        status = child.returncode if child.returncode >= 0 else 128 - child.returncode
        return cls(status, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))

    @property
    def fault(self) -> str:
        """Why a script failed: what it said on stderr, else its exit status."""
        return telling_lines(self.err) or "exit %d" % self.status

    def tell(self, argv: Sequence[str], seconds: float) -> None:
        """Tell the program's log, if it has one (`-v`), what was run, and what that printed."""
        logging = sys.modules.get("logging")    # to import it would cost each start some time
        if logging:
            log = logging.getLogger("psik")
            log.info("%s: exit %d after %.2f s", " ".join(argv), self.status, seconds)
            for line in (self.out + self.err).splitlines():
                log.debug("    %s", line)


def end_session(child: Any) -> None:
    """Kill a program that leads its session, and its process group; close its pipes."""
    import signal
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    # They are not read to their end: a descendant that left the session may hold them for ever.
    for pipe in (child.stdout, child.stderr):
        if pipe:
            pipe.close()


def start_program(argv: Sequence[str], **options: Any) -> Any:
    """Start a program, as subprocess.Popen.

    A script that was just written may be busy for a moment: another thread that forked meanwhile
    has it open until its child executes a program.
    """
    import subprocess
    for tries_left in range(100, -1, -1):
        try:
            return subprocess.Popen(argv, **options)
        except OSError as err:
            if err.errno != errno.ETXTBSY or not tries_left:
                raise
            time.sleep(0.02)


def run_program(argv: Sequence[str], timeout_s: Optional[float],
                env: Optional[Dict[str, str]] = None, stderr_path: Optional[str] = None,
                cwd: Optional[str] = None, text: str = "") -> Finished:
    """Run a program to its end, in a session of its own; text is its stdin.

    stderr is appended to the file stderr_path, if there is one.  TimeoutError after timeout_s; the
    program and its process group are killed then.  OSError if it cannot be started.
    """
    import subprocess
    begun = time.monotonic()
    log = open(stderr_path, "ab") if stderr_path else subprocess.PIPE  # type: Union[int, IO[bytes]]
    try:
        child = start_program(argv, stdin=subprocess.PIPE if text else subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=log, env=env, cwd=cwd,
                              start_new_session=True)
    finally:
        if not isinstance(log, int):
            log.close()
    data = text.encode("utf-8", "surrogateescape") if text else None
    try:
        out, err = child.communicate(data, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        end_session(child)
        raise TimeoutError("no answer from %s within %g s" % (argv[0], timeout_s or 0)) from None
    done = Finished.of(child, out, err or b"")
    done.tell(argv, time.monotonic() - begun)
    return done


def try_program(argv: Sequence[str], timeout_s: Optional[float], text: str,
                env: Optional[Dict[str, str]] = None) -> Finished:
    """Run a program, text its stdin; if it cannot start or takes too long, stderr says so."""
    try:
        return run_program(argv, timeout_s, env, text=text)
    except OSError as err:
        return Finished(1, "", str(err))


def ask_program(argv: Sequence[str]) -> str:
    """The first line that a command prints, or '' if it cannot be run; run once per process."""
    key = "\0".join(argv)
    if key not in PROBED:
        try:
            PROBED[key] = run_program(argv, PROBE_TIMEOUT_S).out.split("\n")[0]
        except OSError:
            PROBED[key] = ""
    return PROBED[key]


PORTS = {"http": 80, "https": 443}


def encode_percent(text: str, plain: str = "[A-Za-z0-9_./~-]") -> str:
    """A text for a URL or a header; a character that does not match `plain` as %XX of its UTF-8."""
    def encoded(char: str) -> str:
        return "".join("%%%02X" % byte for byte in char.encode("utf-8", "surrogateescape"))

    return "".join(char if re.match(plain, char) else encoded(char) for char in text)


def split_url(url: str) -> Tuple[str, str, int, str]:
    """(scheme, host, port, path with query) of an http or https URL; ValueError otherwise."""
    match = re.fullmatch(r"(https?)://(\[[0-9A-Fa-f:.%]+\]|[^/?#@:\[\]\s]+)(?::([0-9]{1,5}))?"
                         r"([/?][^#\s]*)?(?:#\S*)?", url, re.IGNORECASE)
    if not match or int(match.group(3) or 1) not in range(1, 65536):
        hint = "; a user or password does not belong in it" if "@" in url.split("?")[0] else ""
        raise ValueError("%r is not an http or https URL%s" % (url, hint))
    scheme, host, port, path = match.groups()
    scheme, path = scheme.lower(), encode_percent(path or "/", "[!-~]")
    return scheme, host, int(port or PORTS[scheme]), path if path[0] == "/" else "/" + path


def age_s(stamp: float) -> float:
    """The seconds since a time that another process or host may have written.

    A time more than CLOCK_SKEW_S in the future counts as infinitely old, because a clock was set
    back; a nearer one counts as now, because the clocks of two hosts may differ.
    """
    age = time.time() - stamp
    return max(age, 0) if age > -CLOCK_SKEW_S else float("inf")


def clock(stamp: float) -> str:
    """A time in the local zone, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(stamp))


def pauses() -> Iterator[float]:
    """How long to sleep between looks, in seconds: short at first, at most half a second."""
    pause_s = 0.01
    while True:
        yield pause_s
        pause_s = min(pause_s * 1.3, 0.5)


def one_line(text: str) -> str:
    """A text from a spec or a log, safe for a terminal: each control character is a `?`."""
    return CONTROL.sub("?", text)


def skip_to_tail(file: IO[bytes], lines: Optional[int]) -> None:
    """Seek to the start of the last lines of a file, reading only these; None: do not seek."""
    if lines is None:
        return
    end = position = file.seek(0, os.SEEK_END)
    begin, left = end, lines
    while position > 0 and left > 0:
        step = min(65536, position)
        position -= step
        file.seek(position)
        block = file.read(step)
        cut = len(block) - (position + step == end and block.endswith(b"\n"))
        while left > 0:
            cut = block.rfind(b"\n", 0, cut)
            if cut < 0:
                break
            left -= 1
            begin = position + cut + 1
    file.seek(begin if left <= 0 else 0)


class NearSide:
    """Where the user types: her terminal, and the files that she names.

    That is here, in this process, unless another host called it by ssh; section 23 does so.
    """

    def __init__(self) -> None:
        self.mark = ""      # sets our output off from that of a login; "": she types here
        self.called = ""    # how she calls this program, on this host
        self.terminal: Dict[str, Any] = {}      # what facts() are there
        self.texts: Optional[Dict[str, str]] = None     # of the files that she names; None: unknown

    @property
    def is_here(self) -> bool:
        """Whether she types where this process runs."""
        return not self.mark

    def is_terminal(self, stream: Any) -> bool:
        """Whether stdout, or stderr, is a terminal."""
        name = "stdout" if stream is sys.stdout else "stderr"
        return bool(self.terminal[name] if self.terminal else stream.isatty())

    @property
    def is_plain(self) -> bool:
        """Whether a terminal is to get no colour, and no line that is rewritten."""
        plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        return bool(self.terminal.get("plain", plain))

    def takes_colour(self, stream: Any) -> bool:
        """Whether it is a terminal that takes colour, and a line that is rewritten."""
        return self.is_terminal(stream) and not self.is_plain

    def size(self, columns: int = 80, lines: int = 24) -> Tuple[int, int]:
        """The (columns, lines) of the terminal; these if there is none."""
        if self.terminal:
            return self.terminal["columns"], self.terminal["lines"]
        import shutil
        found = shutil.get_terminal_size((columns, lines))
        return found.columns, found.lines

    def facts(self) -> Dict[str, Any]:
        """What a program has to know of the terminal that does not have it."""
        columns, lines = self.size()
        return {"stdout": self.is_terminal(sys.stdout), "stderr": self.is_terminal(sys.stderr),
                "plain": self.is_plain, "columns": columns, "lines": lines}

    @staticmethod
    def read_stdin() -> str:
        """The text that stdin holds; InvalidError if it is not UTF-8."""
        text = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
        if SURROGATE.search(text):
            raise InvalidError("not UTF-8 text", "stdin")
        return text

    def read(self, path: str) -> str:
        """The text of a file that she names; of stdin if it is -."""
        if self.texts is not None and path in self.texts:
            return self.texts[path]
        if not self.is_here:
            raise NotFoundError("no file %s" % shown(path))
        text = self.read_stdin() if path == "-" else read_text(os.path.expanduser(path))
        if self.texts is not None:
            self.texts[path] = text
        return text

    def read_bytes(self, path: str) -> bytes:
        """The content of a file that she names, which has at most MAX_JSON bytes."""
        import base64
        key = "@" + path
        if self.texts is not None and key in self.texts:
            return base64.b64decode(self.texts[key])
        if not self.is_here:
            raise NotFoundError("no file %s" % shown(path))
        with naming(path, always=True), open(os.path.expanduser(path), "rb") as file:
            data = file.read(MAX_JSON + 1)
        if len(data) > MAX_JSON:
            raise InvalidError("%s has more than %d bytes" % (path, MAX_JSON))
        if self.texts is not None:
            self.texts[key] = base64.b64encode(data).decode()
        return data


NEAR = NearSide()


def called() -> str:
    """The program's name in a command to type: `psik...` as `install` names it, else psik.py."""
    name = os.path.basename(sys.argv[0]) if sys.argv else ""
    own = name if re.fullmatch("psik[0-9A-Za-z._-]*", name) else "psik.py"
    return NEAR.called or own


def nearest(word: str, names: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the end of a message; '' if no name is similar."""
    import difflib
    matches = difflib.get_close_matches(word, list(names), 1)
    return " (did you mean %r?)" % matches[0] if matches else ""


# ---------------------------------------------------------------------------------------- 4. Models

class JobState(str, Enum):
    """The states of a step; a job shows the state of its latest step."""
    new = "new"
    queued = "queued"
    active = "active"
    completed = "completed"
    failed = "failed"
    canceled = "canceled"

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)

    def is_final(self) -> bool:
        """Whether a step in this state has ended."""
        return RANK[self] == 3


# A step only moves to a higher rank, so its first final state stays.
RANK = {JobState.new: 0, JobState.queued: 1, JobState.active: 2,
        JobState.completed: 3, JobState.failed: 3, JobState.canceled: 3}
LIVE = (JobState.queued, JobState.active)   # its scheduler has it
STATES: Dict[str, JobState] = {state.value: state for state in JobState}
STATE_MEANINGS = {
    "new": "made, not submitted", "queued": "its scheduler has it", "active": "it runs",
    "completed": "it ended with exit status 0",
    "failed": "it ended otherwise, or could not be submitted",
    "canceled": "someone asked psik.py to end it"}
STATES_ELSEWHERE = {"running": "active", "pending": "queued", "waiting": "queued",
                    "done": "completed", "success": "completed", "killed": "canceled"}


def no_state(text: str) -> str:
    """The message for a text that is not a state."""
    here = STATES_ELSEWHERE.get(text.lower())
    return "%r is not a state%s" % (text, ": here it is %s" % here if here
                                    else nearest(text, STATES))


def option(default: Any, doc: str, **limits: Any) -> Any:
    """A model's field with its description.

    limits: least (the smallest number, or number of words), size (a number of MiB, for which texts
    like 4G are taken too), lines (the text may have several), path
    (a leading `~` is expanded), strict (a number is not taken for a text), keys (of a dict: the
    pattern of its keys, and the message for others), read (how it is read, where its type
    does not tell), of (of a dict of models: a function that
    returns their class), pattern (of a text, as the interface's document declares it; faults()
    checks it), secret (never shown).  A default that is a class is called for each
    object; the default `...` marks a required field.
    """
    meta = dict(limits, doc=doc, required=default is ...)
    if isinstance(default, type):
        return field(default_factory=default, metadata=meta)
    return field(default="" if default is ... else default, metadata=meta)


class Model:
    """A dataclass whose fields are checked, and converted from JSON's types.

    That holds for one that is read from a file and for one that is made in Python.
    """

    given: ClassVar[FrozenSet[str]] = frozenset()  # the keys that its JSON object had, defaults too

    def __post_init__(self) -> None:
        reader = FieldReader()
        values = reader.fields(type(self), vars(self), "")
        if reader.faults:
            raise InvalidError(reader.faults, type(self).__name__)
        vars(self).update(values)

    @classmethod
    def upgrade(cls, data: Dict[str, Any]) -> Dict[str, Any]:
        """Convert what upstream versions wrote to today's form."""
        return data

    def faults(self) -> Iterator[Fault]:
        """The faults that no field has by itself, such as two fields that contradict each other."""
        return iter(())

    def is_written(self, name: str) -> bool:
        """Whether to_json() writes this field."""
        return True


# What the variables of a task cannot be called.
OUR_VARIABLES = "task tasks mpirun nodes base jobid jobndx psik rc IFS PATH HOME".split()
TASK_RANGE = re.compile("([0-9]{1,9})(?:-([0-9]{1,9})(?::([1-9][0-9]{0,8}))?)?")


class Tasks(NamedTuple):
    """The tasks of an array, in order: the number by which each is called, and its variables."""
    numbers: Sequence[int]
    variables: Sequence[Dict[str, str]] = ()
    at_once: Optional[int] = None

    @property
    def names(self) -> List[str]:
        """The names of the variables."""
        return list(self.variables[0]) if self.variables else []

    @property
    def table(self) -> str:
        """scripts/tasks: a line for each task; the first line names the columns."""
        names, rows = self.names, [[str(number)] for number in self.numbers]
        for row, values in zip(rows, self.variables):
            row += values.values()
        return "".join("\t".join(row) + "\n" for row in [["task"] + names] + rows)

    def find(self, number: int) -> int:
        """The place of the task that is called so, from 1; NotFoundError if there is none."""
        try:
            return list(self.numbers).index(number) + 1
        except ValueError:
            raise NotFoundError("there is no task %d; they are %s" % (
                number, one_line(self.text_of(self.numbers))[:100])) from None

    @staticmethod
    def range_of(text: str) -> range:
        """The numbers of a part like `7`, `1-3` or `0-90:10`; ValueError if it is none."""
        match = TASK_RANGE.fullmatch(text)
        if not match:
            raise ValueError("%s is neither a count of tasks nor numbers of tasks like 1-10,15%%5"
                             % shown(text))
        first, last, step = match.groups()
        found = range(int(first), int(last or first) + 1, int(step or 1))
        if not found:
            raise ValueError("%s has no task" % shown(text))
        return found

    @classmethod
    def of_text(cls, text: str) -> "Tasks":
        """Those of a text like `1-100%5`, `0-90:10` or `1,5,7`; ValueError if it means none."""
        ranges, percent, most = text.partition("%")
        if percent and not re.fullmatch("[1-9][0-9]{0,8}", most):
            raise ValueError("%s: behind the %% is the number of tasks that may run at once"
                             % shown(text))
        parts = [cls.range_of(part) for part in ranges.split(",")]
        if sum(map(len, parts)) > MAX_TASKS:
            raise ValueError("%s has more than %d tasks" % (shown(text), MAX_TASKS))
        numbers = [number for part in parts for number in part]
        if len(set(numbers)) < len(numbers):
            raise ValueError("%s has a task twice" % shown(text))
        return cls(numbers, (), int(most) if most else None)

    @staticmethod
    def text_of(numbers: Sequence[int]) -> str:
        """Numbers in ascending order as a text like `1-3,7`."""
        import itertools
        groups = itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
        runs = [[number for _, number in group] for _, group in groups]
        return ",".join("%d-%d" % (run[0], run[-1]) if len(run) > 1 else str(run[0])
                        for run in runs)

    @classmethod
    def of_scheduler(cls, text: str) -> str:
        """The `array` of a spec, from a scheduler's, for which a number is a task and no count."""
        cls.of_text(text)
        return re.sub("^([0-9]+)(%|$)", r"\1-\1\2", text)

    @staticmethod
    def check(variables: Sequence[Dict[str, str]]) -> None:
        """ValueError if these cannot be the variables of tasks, one dict for each."""
        if len(variables) > MAX_TASKS:
            raise ValueError("%d tasks are more than %d" % (len(variables), MAX_TASKS))
        names = list(variables[0])
        for name in names:
            is_ours = name in OUR_VARIABLES or name.startswith("PSIK_")
            if is_ours or not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError("%s cannot be a variable of a task" % shown(name))
        for number, row in enumerate(variables, 1):
            if set(row) != set(names):
                raise ValueError("task %d has the variables %s, and task 1 has %s"
                                 % (number, " ".join(row) or "-", " ".join(names) or "-"))


def default_of(item: Any) -> Any:
    """The default value of a dataclass's field."""
    return item.default_factory() if callable(item.default_factory) else item.default


class FieldReader:
    """Reads the fields of models from JSON's types; collects every fault with its path.

    number, flag, line, words, document and tasks read one value each; meta holds the limits of
    option().  They raise ValueError with the message of the fault.
    """

    FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    KINDS = {int: "number", bool: "flag", str: "line", List[str]: "words"}  # annotation: method

    def __init__(self) -> None:
        self.faults: List[Fault] = []

    def fault(self, path: str, message: str) -> None:
        """Add a fault."""
        self.faults.append(Fault(path, message))

    SIZE = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*([KMGT])(?:i?B)?\s*", re.IGNORECASE)
    MIB = {"K": 2.0 ** -10, "M": 1.0, "G": 2.0 ** 10, "T": 2.0 ** 20}

    @classmethod
    def mebibytes(cls, value: Any) -> Any:
        """The MiB of a size like 4G or 500 MB, rounded up; any other value as it is."""
        match = cls.SIZE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            return value
        return int(-(-float(match.group(1)) * cls.MIB[match.group(2).upper()] // 1))

    @classmethod
    def number(cls, value: Any, meta: Any) -> int:
        """A whole number from 60, 60.0 or "60"."""
        if meta.get("size"):
            value = cls.mebibytes(value)
        is_number = isinstance(value, (int, float, str)) and not isinstance(value, bool)
        text = str(value) if is_number else ""
        match = re.fullmatch(r"\s*([+-]?)0*([0-9]+)(\.0*)?\s*", text)
        if not match:
            what = "size; give MiB, or a text like 4G" if meta.get("size") else "whole number"
            raise ValueError("%s is not a %s" % (shown(value), what))
        sign, digits, _ = match.groups()
        number = int(sign + digits[:18])    # enough to see that it is too large
        least = meta.get("least", 0)
        if number < least:
            raise ValueError("%s is too small; the least is %d" % (shown(value), least))
        if number > meta.get("most", MAX_COUNT) or len(digits) > 18:
            raise ValueError("%s is too large" % shown(value))
        return number

    @classmethod
    def flag(cls, value: Any, meta: Any) -> bool:
        """A truth value from true, "true", "yes", 1 and their opposites."""
        flag = cls.FLAGS.get(str(value).strip().lower())
        if flag is None:
            raise ValueError("%s is neither true nor false" % shown(value))
        return flag

    @staticmethod
    def line(value: Any, meta: Any) -> str:
        """A text, of one line unless the field takes several; a number becomes its digits."""
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if is_number and not meta.get("strict"):
            value = str(value)
        if not isinstance(value, str):
            raise ValueError("%s is not a text" % shown(value))
        if SURROGATE.search(value):
            raise ValueError("it holds half of a surrogate pair, which is no character")
        if "\0" in value:
            raise ValueError("it holds a NUL character")
        if not meta.get("lines") and CONTROL.search(value):
            raise ValueError("it holds a control character (%r), and must be one line"
                             % CONTROL.findall(value)[0])
        return os.path.expanduser(value) if meta.get("path") else value

    @classmethod
    def words(cls, value: Any, meta: Any) -> List[str]:
        """A list of words, from a list or from a text with blanks between them.

        If a word may have several lines, a text is one word.
        """
        has_lines = meta.get("lines", False)
        words = value if not isinstance(value, str) else [value] if has_lines else value.split()
        if not isinstance(words, (list, tuple)) or len(words) < meta.get("least", 0):
            raise ValueError("%s is not a list of %s" % (shown(value),
                                                         "lines" if has_lines else "words"))
        return [cls.line(word, {"lines": has_lines}) for word in words]

    @staticmethod
    def document(value: Any, meta: Any) -> Dict[str, Any]:
        """An object of JSON, as it stands."""
        if not isinstance(value, dict):
            raise ValueError("%s is not an object {...}" % shown(value))
        return value

    @classmethod
    def table(cls, rows: Sequence[Any]) -> List[Dict[str, str]]:
        """The variables of the tasks of an array, from an object for each."""
        found = [{cls.line(name, {}): cls.line(row[name], {}) for name in row}
                 if isinstance(row, dict) else {} for row in rows]
        Tasks.check(found)
        return [{name: row[name] for name in found[0]} for row in found]

    @classmethod
    def tasks(cls, value: Any, meta: Any) -> Union[str, List[Dict[str, str]]]:
        """What `array` says: a text like 1-100%5, also from a count or numbers, or a table."""
        if isinstance(value, (list, tuple)) and any(isinstance(row, dict) for row in value):
            return cls.table(value)
        if isinstance(value, (list, tuple)):
            numbers = [cls.number(each, {}) for each in value]
            value = ",".join(map(str, numbers)) if len(numbers) != 1 else "%d-%d" % (numbers[0],
                                                                                     numbers[0])
        elif not isinstance(value, str):
            value = str(cls.number(value, {"least": 1}))
        text = cls.line(value, {}).replace(" ", "")
        match = re.match("[0-9]+(?=%|$)", text)     # a count
        if match:
            text = "1-%d" % cls.number(match.group(), {"least": 1}) + text[match.end():]
        Tasks.of_text(text)
        return text

    def value(self, kind: Any, value: Any, meta: Any, path: str) -> Any:
        """One value of a field annotated with kind; None if it is invalid.

        An Optional is read as the type that it allows besides None; any other Union as str if the
        value is a text, else as the last of its types.  With `read` in meta the method of this
        name reads it.
        """
        if "read" in meta:
            return self.read_by(meta["read"], value, meta, path)
        if getattr(kind, "__origin__", None) is Union:
            options = [part for part in kind.__args__ if part is not type(None)]
            kind = str if isinstance(value, str) and str in options else options[-1]
        if isinstance(kind, type) and issubclass(kind, Model):
            return self.model(kind, value, path)
        if kind not in self.KINDS:
            return self.object(value, meta, path)
        return self.read_by(self.KINDS[kind], value, meta, path)

    def read_by(self, method: str, value: Any, meta: Any, path: str) -> Any:
        """One value, read by a method of this class; None if it is invalid."""
        try:
            return getattr(self, method)(value, meta)
        except ValueError as err:
            self.fault(path, str(err))
            return None

    def object(self, value: Any, meta: Any, path: str) -> Dict[str, Any]:
        """The valid items of an object of texts (null is ''), or of models if meta has `of`."""
        if not isinstance(value, dict):
            self.fault(path, "%s is not an object {...}" % shown(value))
            return {}
        read: Dict[str, Any] = {}
        for name, item in value.items():
            if len(self.faults) >= MAX_FAULTS:
                break
            place = "%s.%s" % (path, name)
            pattern, what = meta["keys"]
            is_text = isinstance(name, str) and not SURROGATE.search(name)
            if not is_text or not re.fullmatch(pattern, name):
                self.fault(place, what)
            elif "of" in meta:
                read[name] = self.model(meta["of"](), item, place)
            else:
                read[name] = self.value(str, "" if item is None else item, meta, place)
        return read

    @staticmethod
    def advice(prefix: str, name: str, items: Dict[str, Any]) -> str:
        """What may be meant by an unknown name: a field of an object here, or one spelt like it."""
        inner = [item.name for item in items.values()
                 if name in getattr(item.default_factory, "__dataclass_fields__", ())]
        return ": it is %s%s.%s" % (prefix, inner[0], name) if inner else nearest(name, items)

    def given(self, items: Dict[str, Any], data: Dict[str, Any], prefix: str) -> Dict[str, Any]:
        """The valid ones of the fields that data sets; null sets none.  items is {name: field}."""
        unknown = [str(name)[:100] for name in list(data)[:MAX_FAULTS] if name not in items]
        for name in unknown:
            self.fault(prefix + name, "unknown key" + self.advice(prefix, name, items))
        values = {}
        for name, item in items.items():
            if data.get(name) is not None:
                value = self.value(item.type, data[name], item.metadata, prefix + name)
                values.update({} if value is None else {name: value})
            elif item.metadata["required"]:
                self.fault(prefix + name, "is missing")
        return values

    def fields(self, cls: Type[Model], data: Dict[str, Any], path: str) -> Dict[str, Any]:
        """Every field of cls: converted if data has it, else its default.

        An invalid field gets its default too, so that cls.faults() can check the others.
        """
        prefix = path + "." if path else ""
        items = {item.name: item for item in fields(cls)}  # type: ignore[arg-type]
        before = len(self.faults)
        values = self.given(items, data, prefix)
        wrong = {fault.path for fault in self.faults[before:]}
        for name, item in items.items():
            values.setdefault(name, default_of(item))
        model = cls.__new__(cls)
        vars(model).update(values)
        for place, message in model.faults():
            if prefix + place not in wrong:
                self.fault(prefix + place, message)
        return values

    def model(self, cls: Type[M], data: Json, path: str) -> Optional[M]:
        """The model that a JSON object describes; None if anything in it is invalid."""
        if isinstance(data, cls):
            return data
        if not isinstance(data, dict):
            self.fault(path, "%s is not an object {...}" % shown(data))
            return None
        before = len(self.faults)
        values = self.fields(cls, cls.upgrade(dict(data)), path)
        if len(self.faults) > before:
            return None
        model = cls.__new__(cls)  # __post_init__ would check all of it once more
        given = frozenset(name for name, value in data.items() if value is not None)
        vars(model).update(values, given=given)
        return model


VARIABLE_NAMES = ("[^-=\0-\x1f][^=\0-\x1f]*", "not the name of a variable")
OPTION_NAMES = ("-*[A-Za-z0-9][A-Za-z0-9_.:+-]*",
                "not an option; it should look like -C or --gpu-bind")


@dataclass
class ResourceSpec(Model):
    """What a job needs; counts are whole numbers."""
    duration: int = option(10, "walltime, minutes", least=1)
    node_count: Optional[int] = option(None, "nodes", least=1)
    process_count: Optional[int] = option(
        None, "processes in all; not with node_count x processes_per_node", least=1)
    processes_per_node: Optional[int] = option(None, "processes on each node", least=1)
    cpu_cores_per_process: int = option(1, "CPU cores for each process", least=1)
    gpu_cores_per_process: int = option(0, "GPUs for each process", least=0)
    memory_per_process: Optional[int] = option(
        None, "memory for each process, MiB; or \"4G\", \"500M\"", least=1, size=True)
    exclusive_node_use: bool = option(True, "share the nodes with no other job")

    def names_set(self) -> List[str]:
        """The fields that were given, or that have another value than their defaults."""
        return [item.name for item in fields(ResourceSpec)
                if item.name in self.given or getattr(self, item.name) != default_of(item)]

    def processes(self) -> int:
        """The number of processes in all."""
        return self.process_count or (self.node_count or 1) * (self.processes_per_node or 1)

    def shares(self) -> Dict[str, int]:
        """What it takes of the slots and the gpus of a host."""
        return {"slots": self.processes() * self.cpu_cores_per_process,
                "gpus": self.processes() * self.gpu_cores_per_process}

    def processes_on_a_node(self) -> Optional[int]:
        """The most processes that a node may have; None if the spec leaves that open."""
        if self.process_count and self.node_count and not self.processes_per_node:
            return -(-self.process_count // self.node_count)
        return self.processes_per_node

    def memory_per_node(self) -> Optional[int]:
        """MiB for each node of a job that has its nodes alone; None if that is not known.

        There a scheduler counts every core of a node as the job's, used or not, and so does what is
        asked for each core.
        """
        processes = 1 if self.processes() == 1 else self.processes_on_a_node()
        if not (self.exclusive_node_use and self.memory_per_process and processes):
            return None
        return self.memory_per_process * processes

    def memory_per_core(self) -> Optional[int]:
        """MiB for each core, where memory_per_node() does not say it."""
        if not self.memory_per_process or self.memory_per_node():
            return None
        return -(-self.memory_per_process // self.cpu_cores_per_process)

    def faults(self) -> Iterator[Fault]:
        product = (self.node_count or 0) * (self.processes_per_node or 0)
        if self.process_count and product and product != self.process_count:
            yield Fault("process_count", "%d contradicts node_count x processes_per_node = %d; "
                        "leave one out" % (self.process_count, product))
        nodes = self.node_count or 1
        if self.process_count and self.process_count < nodes:
            yield Fault("process_count", "%d cannot be spread over %d nodes; ask for fewer nodes, "
                        "or for more processes" % (self.process_count, nodes))


@dataclass
class Defaults(ResourceSpec):
    """What the jobs of a backend need that do not say it; only what is set counts."""
    attributes: Dict[str, str] = option(dict, "options of the scheduler", keys=OPTION_NAMES)
    setup: List[str] = option(list, "set-up lines, before those of the spec", lines=True)

    # How many processes there are, and where; a spec that says one of these says all of it.
    COUNTS: ClassVar[Tuple[str, ...]] = ("node_count", "process_count", "processes_per_node")

    def faults(self) -> Iterator[Fault]:
        return iter(())

    def is_written(self, name: str) -> bool:
        """What is not set must not be read as set."""
        return name in self.names_set() or bool({"attributes": self.attributes,
                                                 "setup": self.setup}.get(name))

    def of(self, needs: ResourceSpec) -> ResourceSpec:
        """What a job needs, with these for what it does not set itself."""
        said = set(needs.names_set())
        if said & set(self.COUNTS):
            said.update(self.COUNTS)
        return replace(needs, **{name: getattr(self, name) for name in self.names_set()
                                 if name not in said})


@dataclass
class Limits(ResourceSpec):
    """The most that a job of a backend may ask for; only what is given counts."""

    def faults(self) -> Iterator[Fault]:
        return iter(())

    def is_written(self, name: str) -> bool:
        """What is not set must not be read as set."""
        return name in self.names_set()

    def exceeded(self, needs: ResourceSpec, backend: str) -> Iterator[Fault]:
        """The faults of a job that asks for more."""
        asked = dict(vars(needs), process_count=needs.processes())
        for name in self.names_set():
            most = getattr(self, name)
            if asked[name] is not None and asked[name] > most:
                yield Fault("resources.%s" % name, "%d is more than the %d that backend %r allows"
                            % (asked[name], most, backend))


@dataclass
class BackendConfig(Model):
    """How jobs go to a scheduler: the kind of scheduler, and the default options of its jobs."""
    type: str = option("local", "local, at, slurm, lsf, or a folder of the config's templates",
                       pattern="^%s$" % BACKEND_NAME.pattern)
    queue_name: Optional[str] = option(None, "queue or partition")
    project_name: Optional[str] = option(None, "project or account that is charged")
    reservation_id: Optional[str] = option(None, "reservation")
    attributes: Dict[str, str] = option(
        dict, "further options of the scheduler, {\"-C\": \"gpu\"}", keys=OPTION_NAMES)

    def faults(self) -> Iterator[Fault]:
        if not BACKEND_NAME.fullmatch(self.type):
            yield Fault("type", "%r is not the name of a backend" % self.type)


@dataclass
class JobSpec(Model):
    """A job: its script, where and with what it runs, and where its changes of state are sent."""
    name: Optional[str] = option(None, "the job's name")
    directory: Optional[str] = option(
        None, "where it runs; by default work/ in the job's own directory", path=True)
    script: str = option(
        ..., "the script; without #! it runs in the shell that psik chose", lines=True, strict=True,
        pattern=r"^[^\u0000]*[A-Za-z0-9][^\u0000]*$")
    setup: List[str] = option(
        list, "lines that are run before it by a login bash, [\"module load gcc\"]", lines=True)
    environment: Dict[str, str] = option(dict, "variables to set", keys=VARIABLE_NAMES, lines=True)
    inherit_environment: bool = option(True, "take over the submitter's environment too")
    resources: ResourceSpec = option(ResourceSpec, "what it needs")
    backend: Union[str, BackendConfig] = option(
        BackendConfig, "a backend's name, or settings that override the config's")
    launcher: Optional[List[str]] = option(
        None, "the words of $mpirun, instead of the backend's", least=1)
    after: List[str] = option(
        list, "jobs that have to end well first, [\"JOBID\"]; any:JOBID however it ends, "
        "notok:JOBID if it does not")
    array: Union[None, str, List[Dict[str, str]]] = option(
        None, "it is so many tasks: 100, \"1-100%5\" (5 at a time), or a list with an object for "
        "each task, which sets variables", read="tasks")
    at_once: Optional[int] = option(None, "tasks that may run at the same time", least=1)
    join_output: bool = option(
        False, "what it writes to stderr goes to stdout's log too, in order of arrival")
    requeue: bool = option(
        False, "the scheduler may run it again, as the next step, after a lost node, say")
    callback: Optional[str] = option(
        None, "URL to which every change of state is sent", pattern="^https?://[!-~]+$")
    callback_on: str = option(
        "all", "all: each of them, of each task too; final: once, when the job has ended",
        pattern="^(all|final)$")
    cb_secret: Optional[str] = option(None, "key that signs what is sent there", secret=True)
    cb_headers: Dict[str, str] = option(
        dict, "further headers of the callback", secret=True, keys=("[!-9;-~]+", "not a header"))
    client_secret: Optional[str] = option(
        None, "key that verifies callbacks to the server about this job", secret=True)
    attributes: Dict[str, str] = option(
        dict, "further options of the scheduler, added to the config's", keys=OPTION_NAMES)
    application: Optional[str] = option(
        None, "the application that it was made of, for the record",
        pattern="^%s$" % APPLICATION_NAME.pattern)
    inputs: Dict[str, Any] = option(
        dict, "what that was given, for the record; `environment` holds it too", read="document")

    @classmethod
    def upgrade(cls, data: Dict[str, Any]) -> Dict[str, Any]:
        """Let settings that name no type go to the default backend, not to a local one."""
        settings = data.get("backend")
        if isinstance(settings, dict) and settings.get("type") is None:
            data["backend"] = dict(settings, type="default")
        return data

    def faults(self) -> Iterator[Fault]:
        if not self.script.strip():
            yield Fault("script", "is empty")
        elif self.script.startswith("#!") and self.script.split("\n")[0].endswith("\r"):
            yield Fault("script", "its lines end in CR LF, so its #! line names no program; "
                        "save it with LF")
        yield from self.faults_of_callback()
        if self.directory == "":
            yield Fault("directory", "is empty; leave it out to run in the job's own work/")
        if self.at_once and (not self.array or "%" in self.array):
            yield Fault("at_once", "is for an array, and not for one that says it after a %")
        if self.application is not None and not APPLICATION_NAME.fullmatch(self.application):
            yield Fault("application", "%s is no name for one" % shown(self.application))

    def faults_of_callback(self) -> Iterator[Fault]:
        """The faults of where changes of state are sent, and which."""
        if self.callback_on not in ("all", "final"):
            yield Fault("callback_on", "%s is neither all nor final" % shown(self.callback_on))
        if self.callback is not None:
            try:
                split_url(self.callback)
            except ValueError as err:
                yield Fault("callback", str(err))
        for name in self.cb_headers:
            if name.lower() in ("host", "content-length", "transfer-encoding", "connection"):
                yield Fault("cb_headers.%s" % name, "is a header that psik.py sets itself")

    def variables_in(self, folder: str) -> Dict[str, str]:
        """The variables that it sets in a job that runs in a folder.

        An input that is a file is known by its whole path.
        """
        files = {name: "%s/%s" % (folder, path) for name, path in self.inputs.items()
                 if self.application and path == "%s/%s" % (INPUT_FILES, name)}
        return dict(self.environment, **files)

    @property
    def variables(self) -> List[str]:
        """The names of the variables that it sets, those of its tasks too."""
        ours = ["task", "tasks"] + self.tasks.names if self.tasks else []
        return list(dict.fromkeys([*self.environment, *ours]))

    @property
    def tasks(self) -> Optional[Tasks]:
        """The tasks of an array; None if the job is none."""
        if isinstance(self.array, str):
            tasks = Tasks.of_text(self.array)
            return tasks._replace(at_once=tasks.at_once or self.at_once)
        if self.array:
            return Tasks(range(1, len(self.array) + 1), self.array, self.at_once)
        return None


@dataclass
class Callback(Model):
    """What is sent to a callback: the step, its new state, and the info of status.csv."""
    jobid: str = option(..., "the job's id", pattern="^%s$" % JOBID.pattern)
    jobndx: int = option(..., "the step, from 1; 0 is the job as a whole")
    state: str = option(..., "the state reached", pattern="^(%s)$" % "|".join(STATES))
    info: Union[str, int] = option(
        0, "the native id, or the exit status", pattern=r"^[^\s,\u0000-\u0020]{1,200}$")

    def faults(self) -> Iterator[Fault]:
        if not JOBID.fullmatch(self.jobid):
            yield Fault("jobid", "%r is not a job id" % self.jobid)
        if self.state not in STATES:
            yield Fault("state", no_state(self.state))


def to_json(model: Model, secrets: bool = True) -> Dict[str, Json]:
    """A model as JSON's types; without secrets, each secret field is null."""
    def plain(value: Any) -> Json:
        if isinstance(value, Model):
            return to_json(value, secrets)
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items()}
        return value

    data: Dict[str, Json] = {}
    for item in fields(model):  # type: ignore[arg-type]
        if not model.is_written(item.name):
            continue
        is_hidden = item.metadata.get("secret") and not secrets
        data[item.name] = None if is_hidden else plain(getattr(model, item.name))
    return data


def from_json(cls: Type[M], data: Json, source: str = "") -> M:
    """The model that a JSON value describes; InvalidError lists every fault with its path."""
    reader = FieldReader()
    model = reader.model(cls, data, "")
    if model is None:
        raise InvalidError(reader.faults, source)
    return model


class Option(NamedTuple):
    """An option of the scheduler, written `-C gpu`, `--gpu-bind=closest` or `--no-requeue`."""
    name: str
    value: str

    @classmethod
    def of(cls, key: str, value: str) -> "Option":
        """The option that an attribute means.

        `---x` is `--x`; `x` without dashes is `-x`, and a longer word gets two.
        """
        word = key.lstrip("-")
        dashes = min(len(key) - len(word), 2) or (1 if len(word) == 1 else 2)
        return cls("-" * dashes + word, value)


# Options that a job cannot have, by kind of backend, and why.  `-J[` is -J with a [ in its value.
ARRAYS = "give the spec's field `array` instead, or `run --array`"
OUR_LOGS = "output goes to the job's log/, where `logs` shows it, and stdin is empty"
ONE_JOB = "makes something else of the submission than one job that waits in its queue"
REFUSED_OPTIONS = {
    "slurm": {
        "--array -a": ARRAYS,
        "--clusters --cluster -M": "make a backend for that cluster, with SLURM_CLUSTERS in its "
                                   "scheduler_environment",
        "--output -o --error -e --input -i": OUR_LOGS,
        "--wait -W --test-only --wrap": ONE_JOB},
    "lsf": {"-J[": ARRAYS, "-o -oo -e -eo -i -is": OUR_LOGS, "-K -I -Ip -Is": ONE_JOB},
    "at": {"-f -c -d -l -r": ONE_JOB},
    "sge": {"-t -tc": ARRAYS, "-o -e -i -j": OUR_LOGS, "-sync -now -b": ONE_JOB},
    "pbs": {"-J -t": ARRAYS},
}


# The options whose value schedulers keep with a job.  psik.py's tag stands there too.
COMMENTS = {"slurm": ("--comment",), "lsf": ("-Jd",)}


def refused_options(kind: str, attributes: Dict[str, str]) -> Iterator[Fault]:
    """The faults of attributes that a backend of this kind cannot take."""
    for key, value in attributes.items():
        name = Option.of(key, value).name
        names = (name, name + "[") if "[" in value else (name,)
        for words, why in REFUSED_OPTIONS.get(kind.split("-")[0], {}).items():
            # sbatch takes an option by its beginning, too.
            if any(word in names or (len(name) > 3 and word.startswith(name))
                   for word in words.split()):
                yield Fault("attributes.%s" % key, why)


# --------------------------------------------------------------------------------- 5. Reading specs

# Batch scripts.  Their directives (#SBATCH and so on) become fields of the spec; what has no field
# becomes an attribute, if the job goes to the scheduler that they are for.

def minutes(text: str, units: str = "s") -> int:
    """The minutes of a walltime, rounded up; ValueError if it is none.

    units: what the last number of H:M:S counts, `s` or `m` (as for LSF, which has no seconds), or
    `slurm`: days may come first, and a number alone means minutes.
    """
    match = re.fullmatch(r"(?:([0-9]+)-)?([0-9]+(?::[0-9]+){0,2})", text)
    if not match or (match.group(1) and units != "slurm"):
        raise ValueError("%s is not a walltime" % shown(text))
    numbers = [int(part) for part in match.group(2).split(":")]
    if match.group(1):      # days-hours:minutes:seconds
        numbers = [int(match.group(1)) * 24 + numbers[0]] + (numbers[1:] + [0, 0])[:2]
    elif units == "m" or (units == "slurm" and len(numbers) == 1):
        numbers.append(0)
    seconds = 0
    for number in numbers:
        seconds = seconds * 60 + number
    return -(-seconds // 60)


def count(text: str) -> int:
    """A number that is given as such; ValueError if it is anything else, a range say."""
    return FieldReader.number(text if text.isdigit() else "", {"least": 1})


def mebibytes(text: str) -> int:
    """A size in MiB; ValueError if it is none, or 0."""
    return FieldReader.number(text, {"least": 1, "size": True})


def yes(text: str) -> bool:
    """True for an option without a value; ValueError if it has one."""
    if text:
        raise ValueError("%s is more than yes" % shown(text))
    return True


def joins(text: str) -> bool:
    """True for `-j y` and `-j oe`; ValueError for others."""
    return yes("" if text in ("y", "yes", "oe", "eo") else text)


# {prefix of a directive: (kind of its scheduler, {options: (field, how its value is read)})}
Readers = Dict[str, Tuple[str, Callable[[str], Any]]]
DIRECTIVE_FIELDS: Dict[str, Tuple[str, Readers]] = {
    "#SBATCH": ("slurm", {
        "--time -t": ("resources.duration", lambda text: minutes(text, "slurm")),
        "--nodes -N": ("resources.node_count", count),
        "--ntasks -n": ("resources.process_count", count),
        "--ntasks-per-node": ("resources.processes_per_node", count),
        "--cpus-per-task -c": ("resources.cpu_cores_per_process", count),
        "--gpus-per-task": ("resources.gpu_cores_per_process", count),
        "--mem-per-cpu": ("memory_per_core", mebibytes), "--mem": ("memory_per_node", str),
        "--exclusive": ("resources.exclusive_node_use", yes),
        "--partition -p": ("backend.queue_name", str),
        "--account -A": ("backend.project_name", str),
        "--reservation": ("backend.reservation_id", str),
        "--job-name -J": ("name", str), "--chdir -D": ("directory", str),
        "--array -a": ("array", Tasks.of_scheduler), "--requeue": ("requeue", yes)}),
    "#BSUB": ("lsf", {
        "-W": ("resources.duration", lambda text: minutes(text.split("/")[0], "m")),
        "-nnodes": ("resources.node_count", count), "-n": ("resources.process_count", count),
        "-M": ("resources.memory_per_process", mebibytes),
        "-x": ("resources.exclusive_node_use", yes),
        "-q": ("backend.queue_name", str), "-P": ("backend.project_name", str),
        "-U": ("backend.reservation_id", str), "-J": ("name", str), "-cwd": ("directory", str),
        "-r": ("requeue", yes)}),
    "#PBS": ("pbs", {
        "-l walltime": ("resources.duration", minutes),
        "-q": ("backend.queue_name", str), "-A": ("backend.project_name", str),
        "-j": ("join_output", joins), "-N": ("name", str)}),
    "#$": ("sge", {
        "-l h_rt": ("resources.duration", minutes), "-q": ("backend.queue_name", str),
        "-P": ("backend.project_name", str), "-ar": ("backend.reservation_id", str),
        "-l h_vmem": ("memory_per_core", mebibytes), "-r y": ("requeue", yes),
        "-t": ("array", Tasks.of_scheduler), "-tc": ("at_once", count),
        "-j": ("join_output", joins), "-N": ("name", str), "-wd": ("directory", str)}),
}
# Options that a job of psik.py has anyway, or that mean nothing to it.
DIRECTIVES_PASSED = {"slurm": "--no-requeue --export=ALL --ntasks=1 --get-user-env", "lsf": "-rn",
                     "pbs": "-V -S", "sge": "-V -cwd -S"}


class BatchScript:
    """A script with directives for a scheduler: the spec that they make, and what is left out."""

    def __init__(self, text: str) -> None:
        self.text, self.kind = text, ""
        self.data: Dict[str, Json] = {}
        self.attributes: Dict[str, str] = {}
        for prefix, (kind, table) in DIRECTIVE_FIELDS.items():
            options = list(self.options(prefix))
            if options and not self.kind:
                self.kind = kind
                self.readers = {word: reader for words, reader in table.items()
                                for word in self.words(words)}
                for name, value in options:
                    self.take(name, value)
                self.finish()

    @staticmethod
    def words(options: str) -> List[str]:
        """The options of a key of DIRECTIVE_FIELDS; `-l x` is one."""
        return [options] if options.startswith("-l ") else options.split()

    @staticmethod
    def words_behind(prefix: str, line: str) -> List[str]:
        """The words of a directive; [] if the line is none.  InvalidError if a quote is open."""
        import shlex
        match = re.match(re.escape(prefix) + r"\s*(-.*)", line)
        try:
            return shlex.split(match.group(1), comments=True) if match else []
        except ValueError as err:
            raise InvalidError("%s: %s" % (line, str(err).lower()), "script") from None

    def options(self, prefix: str) -> Iterator[Tuple[str, str]]:
        """(option, its value or '') of the directives; `-l a=1,b=2` comes as `-l a` and `-l b`."""
        for line in self.text.split("\n"):
            if prefix == "#SBATCH" and line.strip() and not line.startswith("#"):
                return  # as sbatch has it, a command ends them
            words = self.words_behind(prefix, line)
            while words:
                name, value, words = self.next_option(words)
                if name == "-l":
                    parts = (part.partition("=") for part in value.split(","))
                    yield from (("-l " + part[0], part[2]) for part in parts)
                else:
                    yield name, value

    @staticmethod
    def next_option(words: List[str]) -> Tuple[str, str, List[str]]:
        """(option, value, the words behind it) of a directive's words."""
        name, equals, value = words[0].partition("=")
        if equals and name.startswith("--"):
            return name, value, words[1:]
        short = re.fullmatch("(-[A-Za-z])([0-9].*)", words[0])  # -N2
        if short:
            return short.group(1), short.group(2), words[1:]
        size = 3 if name == "-pe" else 2    # SGE's parallel environment has a name and a number
        if len(words) > 1 and not words[1].startswith("-"):
            return words[0], " ".join(words[1:size]), words[size:]
        return words[0], "", words[1:]

    def take(self, name: str, value: str) -> None:
        """Let an option become a field, or else an attribute."""
        field_name, read = self.readers.get(name, ("", str))
        passed = DIRECTIVES_PASSED[self.kind].split()
        if name in passed or "%s=%s" % (name, value) in passed:
            return
        try:
            if not field_name:
                raise ValueError("no field")
            self.data[field_name] = read(value)
        except ValueError:
            if name.startswith("-l "):  # several of these are one option
                value = name[3:] + "=" * bool(value) + value
                value, name = ",".join(filter(None, (self.attributes.get("-l"), value))), "-l"
            self.attributes[name] = value

    def finish(self) -> None:
        """Make one field of those that only mean something together."""
        per_core = self.data.pop("memory_per_core", 0)
        per_node = self.data.pop("memory_per_node", "")
        memory = per_core * self.data.get("resources.cpu_cores_per_process", 1) or (
            self.per_process(per_node) if per_node else None)
        if memory:
            self.data["resources.memory_per_process"] = memory
        elif per_node:
            self.attributes["--mem"] = per_node
        match = re.fullmatch(r"(.*)\[([0-9,:-]+)\]((?:%[0-9]+)?)", self.data.get("name", ""))
        if self.kind == "lsf" and match:
            self.data["name"] = match.group(1)
            self.data["array"] = Tasks.of_scheduler(match.group(2) + match.group(3))
        # Unlike a spec, a batch script that does not ask for whole nodes does not want them.
        self.data.setdefault("resources.exclusive_node_use", False)

    def per_process(self, per_node: str) -> Optional[int]:
        """MiB for each process, from those for each node; None if that cannot be told."""
        needs = {name.rpartition(".")[2]: value for name, value in self.data.items()}
        processes, nodes = needs.get("process_count", 1), needs.get("node_count", 1)
        here = needs.get("processes_per_node") or (processes if 1 in (processes, nodes) else 0)
        size = FieldReader.mebibytes(per_node)
        return size // here if here and isinstance(size, int) and size >= here else None

    def left_out(self, kind: str) -> Dict[str, str]:
        """{option: why} of those that a job of a backend of this kind cannot have from here."""
        if kind and kind.split("-")[0] != self.kind:
            return dict.fromkeys(self.attributes, "for %s; the job goes to %s" % (self.kind, kind))
        names = next((words.split() for words, why in REFUSED_OPTIONS[self.kind].items()
                      if why is OUR_LOGS), [])
        return {name: OUR_LOGS for name in self.attributes if name in names}

    def spec(self, kind: str, source: str) -> Dict[str, Json]:
        """The spec as a JSON object, for a backend of this kind; prints what it leaves out."""
        spec: Dict[str, Json] = {}
        for path, value in self.data.items():
            above, _, name = path.rpartition(".")
            (spec.setdefault(above, {}) if above else spec)[name] = value
        left_out = self.left_out(kind)
        if left_out:
            complain("%s: not taken over: %s" % (source, "; ".join(
                "%s (%s)" % (name, why) for name, why in left_out.items())))
        if "resources.duration" not in self.data:
            complain("%s: it asks for no walltime, so it gets the default" % source)
        attributes = {name: value for name, value in self.attributes.items()
                      if name not in left_out}
        return dict(spec, attributes=attributes)


# Specs, from JSON or from a script.

class TaskFile:
    """A file of tasks: CSV (commas or tabs), whose head names the variables, or a JSON list."""

    def __init__(self, path: str) -> None:
        self.path, self.text = path, NEAR.read(path)

    def rows(self) -> List[List[str]]:
        """The lines of a CSV file that are not empty; at least one."""
        import csv
        import io
        delimiter = "\t" if "\t" in self.text.split("\n")[0] else ","
        lines = io.StringIO(self.text, newline="")
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
        try:
            return list(filter(None, reader)) or [[]]
        except csv.Error as err:
            raise InvalidError("line %d: %s" % (reader.line_num, err), self.path) from None

    def table(self) -> Json:
        """The variables of each task; InvalidError if the file holds none."""
        if self.path.endswith(".json"):
            table = parse_json(self.text, self.path)
            if not isinstance(table, list) or not table:
                raise InvalidError("is not a list of tasks", self.path)
            return table
        rows = self.rows()
        head = list(map(str.strip, rows[0]))
        wrong = [row for row in rows if len(row) != len(head)]
        if wrong:
            raise InvalidError("%s has %d values, and the first line names %d variables" % (
                shown(" ".join(wrong[0])), len(wrong[0]), len(head)), self.path)
        if len(set(head)) < len(head) or len(rows) < 2:
            raise InvalidError("its first line has to name the variables, each once, and a line "
                               "for each task to follow", self.path)
        return [dict(zip(head, row)) for row in rows[1:]]

    @classmethod
    def put_into(cls, data: Dict[str, Json]) -> None:
        """Put the variables in place of the file that an `array` names, `params.csv%5` say."""
        text = data.get("array")
        match = re.fullmatch("(.*[A-Za-z].*?)(?:%([1-9][0-9]{0,8}))?", str(text))
        if isinstance(text, str) and match:
            data["array"] = cls(match.group(1)).table()
            if match.group(2):
                data["at_once"] = int(match.group(2))


def value_in(data: Json, name: str) -> Json:
    """The value at a key of an object, None if it is none; where nothing is, it becomes an object.

    A backend that is only named is one of that type.
    """
    if not isinstance(data, dict):
        return None
    value = data.get(name)
    if value is None or (name == "backend" and isinstance(value, str)):
        data[name] = {"type": value} if value else {}
    return data[name]


def set_path(data: Json, change: str) -> None:
    """Apply `resources.duration=30` to a JSON object; missing objects on the way are made."""
    path, equals, value = change.partition("=")
    # What follows the name of a dict is one key: an option or a variable may have dots in it.
    names = re.fullmatch(
        r"(?:(environment|attributes|backend\.attributes|cb_headers)\.(.+)|(.+))", path)
    if not equals or not names:
        raise InvalidError("%r should look like resources.duration=30" % change, "--set")
    parts = names.group(1).split(".") + [names.group(2)] if names.group(1) else path.split(".")
    if not all(parts):
        raise InvalidError("%r names no field" % path, "--set")
    for name in parts[:-1]:
        data = value_in(data, name)
    if not isinstance(data, dict):
        raise InvalidError("%r leads into a value that is not an object" % path, "--set")
    data[parts[-1]] = value


def script_in(text: str, source: str) -> str:
    """The script that a text is; '' if it is JSON.  Named as a file, a script needs no #!."""
    is_file = source != "-" and not source.endswith(".json")
    if text.startswith("#!"):
        return text
    return "#!/bin/sh\n" + text if is_file and text.strip()[:1] not in ("", "[", "{") else ""


def load_spec(text: str, source: str, changes: Sequence[str] = (), kind: str = "") -> JobSpec:
    """The JobSpec of a JSON text, or of a script, which a file may also be if it has no #!.

    A job that is given as a script is named after its source.  The directives of a batch script
    become fields; kind is that of the backend that it goes to, if it is known, and stderr tells
    what cannot be taken over.  changes are texts like `path.to.field=value`; they are applied
    before anything is checked.  Where `array` names a file, the tasks are read from it.
    """
    place = "stdin" if source == "-" else source
    script = script_in(text, source)
    if script:
        batch = BatchScript(script)
        data: Json = {"name": None if source == "-" else os.path.basename(source)}
        data.update(batch.spec(kind, place) if batch.kind else {}, script=script)
    else:
        data = parse_json(text, place)
    for change in changes:
        set_path(data, change)
    if isinstance(data, dict):
        TaskFile.put_into(data)
    return from_json(JobSpec, data, place)


# --------------------------------------------------------------------------------- 6. Configuration

def data_home() -> str:
    """The default of a config's prefix."""
    home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(home, "psik")


class Backend(NamedTuple):
    """A backend as configured: its name, its tree, its jobs' defaults, and the config in force."""
    name: str
    prefix: str
    settings: BackendConfig
    config: "Config"

    @property
    def root(self) -> str:
        """The folder of its jobs."""
        return os.path.join(self.prefix, self.name)

    @property
    def kind(self) -> str:
        """The name of the folder that its templates come from."""
        return self.settings.type

    @property
    def shared(self) -> Dict[str, int]:
        """What its jobs share on a host, slots and gpus; only a host's own jobs do."""
        if self.kind.split("-")[0] not in ("local", "at"):
            return {}
        slots, gpus = self.config.slots, self.config.gpus
        cores = (os.cpu_count() or 1) if not hasattr(os, "sched_getaffinity") else len(
            os.sched_getaffinity(0))
        return {**({"slots": cores if slots == "auto" else int(slots)} if slots else {}),
                **({"gpus": gpus} if gpus else {})}

    def lacking(self, needs: ResourceSpec) -> Iterator[Fault]:
        """The faults of a job that needs more than its host has."""
        shared = self.shared
        for name, there in shared.items():
            asked = needs.shares()[name]
            if asked > there:
                yield Fault("resources", "the job needs %d %s, and backend %r has %d" % (
                    asked, {"slots": "cores", "gpus": "GPUs"}[name], self.name, there))

    def with_defaults(self, spec: JobSpec) -> JobSpec:
        """The spec, with the backend's settings for what it does not set itself.

        As upstream has it, attributes of spec.backend replace the config's, and spec.attributes
        are added.  InvalidError if it asks for more than the config's limits.
        """
        own = BackendConfig() if isinstance(spec.backend, str) else spec.backend
        defaults = self.config.defaults
        attributes = dict(defaults.attributes, **(own.attributes or self.settings.attributes))
        needs = defaults.of(spec.resources)
        exceeded = list(self.config.limits.exceeded(needs, self.name)) + list(self.lacking(needs))
        if exceeded:
            raise InvalidError(exceeded)
        merged = BackendConfig(
            type=self.kind,
            queue_name=own.queue_name or self.settings.queue_name,
            project_name=own.project_name or self.settings.project_name,
            reservation_id=own.reservation_id or self.settings.reservation_id,
            attributes=dict(attributes, **spec.attributes))
        return replace(spec, backend=merged, attributes={}, resources=needs,
                       setup=defaults.setup + spec.setup)


def plain_serial(text: str) -> str:
    """A certificate's serial number in upper-case hexadecimal digits; '' if the text is not one.

    openssl writes `serial=` before it, or colons between the bytes.
    """
    digits = re.sub("^serial=|^0x|:", "", text.strip()).upper().lstrip("0")
    return digits if re.fullmatch("[0-9A-F]*", digits) else ""


@dataclass
class UserConfig(Model):
    """The settings of a user of a server."""
    roles: List[str] = option(list, "the user's roles")


@dataclass
class IssuerConfig(Model):
    """Another web application, whose tokens a server takes."""
    key: str = option(..., "the file of its public RSA key, PEM", path=True)
    prefix: str = option(..., "begins the names of its users here, \"portal:\"")
    audience: Optional[str] = option(
        None, "whom its tokens are for; without it, a token that names somebody is refused")
    longest_life_s: int = option(
        86400, "a token that is valid for longer is refused, seconds", least=1)

    def faults(self) -> Iterator[Fault]:
        if not self.prefix or self.prefix.startswith(("local:", "addr:")):
            yield Fault("prefix", "must set its users off from all others; portal: would")


@dataclass
class HostConfig(Model):
    """How another host is reached, and what psik.py uses there."""
    ssh: List[str] = option(
        list, "the words behind `ssh`, [\"-p\", \"2222\", \"ada@login1\"]; by default its name")
    python: Optional[str] = option(
        None, "the Python there; by default the newest one that is found")
    prefix: Optional[str] = option(None, "the job tree there, in place of the one of its config")
    config: Optional[str] = option(None, "the config there, a path")

    def faults(self) -> Iterator[Fault]:
        if self.python is not None and not re.fullmatch("[A-Za-z0-9_./~+-]+", self.python):
            yield Fault("python", "%s is no name or path of plain letters" % shown(self.python))


ANYBODY = "*"  # in `users`: everybody whom a certificate or a token names


@dataclass
class Config(Model):
    """Where jobs are kept and what runs them: one file for one backend or for several."""
    prefix: Optional[str] = option(
        None, "the job tree; by default $XDG_DATA_HOME/psik or ~/.local/share/psik", path=True)
    backend: Optional[BackendConfig] = option(None, "the one backend")
    backends: Dict[str, "Config"] = option(
        dict, "or several, by name", of=lambda: Config,
        keys=(BACKEND_NAME.pattern, "not a backend's name"))
    psik_path: Optional[str] = option(
        None, "the psik that jobs call, if it is not this file", path=True)
    rc_path: Optional[str] = option(
        None, "the shell of the scripts; by default rc if there is one, else /bin/sh", path=True)
    templates: Optional[str] = option(
        None, "a folder of backends of your own, searched first", path=True)
    check_owner: bool = option(
        True, "read and run only what is yours or root's; false for file systems that do not know "
        "owners")
    group_writable: bool = option(
        False, "others may write to the prefix and the backend's folder; a job is yours alone all "
        "the same")
    launcher: Optional[List[str]] = option(
        None, "the words of $mpirun, instead of the template's", least=1)
    defaults: Defaults = option(
        Defaults, "what jobs need that do not say it, {\"duration\": 60}: any field of "
        "`resources`, `attributes` and `setup`")
    limits: Limits = option(
        Limits, "the most that a job may ask for, {\"duration\": 2880, \"node_count\": 64}")
    slots: Optional[str] = option(
        None, "cores that the jobs of local and at share on a host, 8, or auto for all that there "
        "are; a job waits until its own are free")
    gpus: Optional[int] = option(
        None, "GPUs that they share; a job finds its own in CUDA_VISIBLE_DEVICES and its like",
        least=1)
    scheduler_environment: Dict[str, str] = option(
        dict, "variables for the scheduler's own programs, {\"SLURM_CLUSTERS\": \"north\"}",
        keys=VARIABLE_NAMES)
    poll_interval_s: int = option(
        10, "the scheduler is asked at most this often, seconds", least=0)
    poll_grace_s: int = option(
        30, "a job that the scheduler no longer knows is failed after this, seconds", least=0)
    kill_grace_s: int = option(
        10, "from TERM to KILL, for a job that is stopped and for what it leaves running, seconds",
        least=1)
    submit_timeout_s: int = option(60, "for an answer of the scheduler, seconds", least=1)
    callback_timeout_s: int = option(
        5, "what delivering callbacks may take at each transition, seconds", least=1)
    callback_give_up_s: int = option(
        259200, "an event that could not be delivered is given up after this, seconds", least=0)
    callback_proxy: bool = option(False, "use the proxy that the environment names")
    ca_file: Optional[str] = option(
        None, "certificates of authorities to trust besides the system's, for https callbacks",
        path=True)
    database_url: Optional[str] = option(None, "accepted from the files of psik_api, and not used")
    authz: Optional[str] = option(
        None, "who may use the server: local, owner, or module:Class of a policy of your own")
    authz_path: Optional[str] = option(None, "the folder of that module", path=True)
    tokens: str = option("jwt", "the kind of the server's tokens: jwt or biscuit")
    trusted_proxy: List[str] = option(
        list, "addresses of proxies that end TLS, from which tokens are accepted")
    users: Dict[str, UserConfig] = option(
        dict, "who may make jobs: a list of users, {user: {\"roles\": [...]}}, or \"*\" for "
        "whoever has a certificate or a token",
        of=lambda: UserConfig, keys=("[^\0-\x1f]+", "not a user"))
    admins: List[str] = option(list, "users who own every job, and may make them")
    refused_certificates: List[str] = option(
        list, "serial numbers of client certificates that are no longer accepted, as openssl "
        "prints them")
    max_upload_mb: int = option(102400, "the largest upload, MB", least=1)
    applications: Optional[str] = option(
        None, "a folder of scripts that others may run with values of their own, a JSON file each",
        path=True)
    submit: str = option(
        "scripts", "what users of the server may submit: scripts, or applications, which leaves "
        "scripts to its owner and the admins")
    application_callbacks: bool = option(
        False, "who may submit no scripts may name a callback for an application all the same")
    issuers: Dict[str, IssuerConfig] = option(
        dict, "web applications whose users may use the applications, {\"https://portal\": "
        "{\"key\": \"portal.pem\", \"prefix\": \"portal:\"}}",
        of=lambda: IssuerConfig, keys=("[^\0-\x1f]+", "not the name of an issuer"))
    hosts: Dict[str, HostConfig] = option(
        dict, "other hosts for `--on`, {\"north\": {\"ssh\": [\"ada@login1.north\"]}}",
        of=lambda: HostConfig, keys=(r"[^-\s][^\s]*", "not a host's name"))
    tls_user_field: str = option(
        "commonName", "the part of a client certificate's subject that names the user")

    @classmethod
    def upgrade(cls, data: Dict[str, Any]) -> Dict[str, Any]:
        """Turn the entries of `backends` in psik 3.x, and a list of users, into what this is."""
        if isinstance(data.get("backends"), dict):
            data["backends"] = {name: cls.around_settings(entry)
                                for name, entry in data["backends"].items()}
        if "users" in data:
            data["users"] = cls.users_by_name(data["users"])
        return data

    @staticmethod
    def around_settings(entry: Any) -> Any:
        """An entry of `backends`, with the backend's settings moved below its `backend`."""
        if not isinstance(entry, dict) or "backend" in entry:
            return entry
        names = {item.name for item in fields(BackendConfig)} & set(entry)
        rest = {name: entry[name] for name in entry if name not in names}
        return dict(rest, backend={name: entry[name] for name in names})

    @staticmethod
    def users_by_name(given: Any) -> Any:
        """{user: settings} from a list of users or from "*"; anything else unchanged."""
        users = [given] if given == ANYBODY else given
        if isinstance(users, list) and all(isinstance(user, str) for user in users):
            return {user: {} for user in users}
        return given

    def faults(self) -> Iterator[Fault]:
        if self.backend is not None and self.backends:
            yield Fault("backend", "give `backend` or `backends`, not both")
        if self.slots is not None and not re.fullmatch("auto|[1-9][0-9]{0,5}", self.slots):
            yield Fault("slots", "%s is neither a number of cores nor auto" % shown(self.slots))
        if self.tokens not in ("jwt", "biscuit"):
            yield Fault("tokens", "%r is neither jwt nor biscuit" % self.tokens)
        if self.submit not in ("scripts", "applications"):
            yield Fault("submit", "%s is neither scripts nor applications" % shown(self.submit))
        for serial in self.refused_certificates:
            if not plain_serial(serial):
                yield Fault("refused_certificates",
                            "%s is not a serial number, in hexadecimal" % shown(serial))
        yield from self.faults_of_issuers()

    def faults_of_issuers(self) -> Iterator[Fault]:
        """The faults of the issuers: their users must not be taken for others."""
        issuers = {name: issuer for name, issuer in self.issuers.items() if issuer}  # valid ones
        prefixes = [issuer.prefix for issuer in issuers.values()]
        for name, issuer in issuers.items():
            if sum(map(issuer.prefix.startswith, prefixes)) > 1:
                yield Fault("issuers.%s.prefix" % name, "begins as that of another issuer")
        if TOKEN_ISSUER in self.issuers:
            yield Fault("issuers." + TOKEN_ISSUER, "is the name of psik.py itself")
        for user in self.admins:
            if user.startswith(tuple(prefixes)):
                yield Fault("admins", "%s comes from an issuer, and cannot be one" % shown(user))

    @property
    def is_personal(self) -> bool:
        """Whether a server with this config serves its own user alone, which is the default."""
        return self.authz in (None, "local")

    @property
    def by_name(self) -> Dict[str, Backend]:
        """The backends by name, the default one first; an entry inherits from the config around it.

        They are resolved once, so a change of a Config that is in use has no effect on them.
        """
        resolved = vars(self).get("resolved")
        if resolved is None:
            resolved = vars(self)["resolved"] = self.resolve()
        return dict(resolved)

    def resolve(self) -> Dict[str, Backend]:
        """Resolve the backends, for by_name."""
        prefix = os.path.abspath(self.prefix or data_home())
        if not self.backends:
            settings = self.backend or BackendConfig()
            return {settings.type: Backend(settings.type, prefix, settings, self)}
        resolved = {}
        for name, entry in self.backends.items():
            # A key that an entry of a file sets to its default is not inherited.  An entry made in
            # Python does not tell which keys were set, so it inherits each that has its default.
            inherited = {item.name: getattr(self, item.name) for item in fields(Config)
                         if item.name not in entry.given
                         and getattr(entry, item.name) == default_of(item)}
            entry = replace(entry, **dict(inherited, backend=entry.backend, backends={}))
            own_prefix = os.path.abspath(entry.prefix or prefix)
            resolved[name] = Backend(name, own_prefix, entry.backend or BackendConfig(), entry)
        return resolved

    def of_backend(self, name: str) -> "Config":
        """The config of a backend's jobs; this one if no backend has that name."""
        backends = self.by_name
        return backends[name].config if name in backends else self

    def choose_backend(self, spec: JobSpec, name: Optional[str] = None) -> Backend:
        """The backend that a job goes to: the one of this name, else the spec's, else the first.

        A spec's backend.type picks the backend of that name or type; `local` and `default` pick the
        first if there is none such, and so do settings that all have their defaults, as upstream
        writes them when nobody chose.  InvalidError, with the names of those configured, otherwise.
        """
        backends = self.by_name
        asked = "default" if spec.backend == BackendConfig() else spec.backend
        wanted = name or (asked if isinstance(asked, str) else asked.type)
        if wanted in backends:
            return backends[wanted]
        if not name:
            first = next(iter(backends.values())) if wanted in ("local", "default") else None
            of_kind = (backend for backend in backends.values() if backend.kind == wanted)
            chosen = next(of_kind, first)
            if chosen:
                return chosen
        raise InvalidError([Fault("backend", "%r is not configured%s; there is %s"
                                  % (wanted, nearest(wanted, backends), ", ".join(backends)))])

    def check_site_file(self, path: str) -> None:
        """ForbiddenError if somebody else could write to a program in a folder of the config."""
        instead = "copy it to a folder of your own, and name that in the config"
        for place in (os.path.dirname(path), path) if self.check_owner else ():
            Guarded(place, instead, to_run=True).check_ours()

    def settle_paths(self, here: str) -> None:
        """Let relative paths begin at a folder; $PSIK_PREFIX comes before the prefix."""
        for entry in [self] + list(self.backends.values()):
            for name in ("prefix", "templates", "ca_file", "authz_path", "applications"):
                if getattr(entry, name):
                    setattr(entry, name, os.path.normpath(os.path.join(here, getattr(entry, name))))
            for issuer in entry.issuers.values():
                issuer.key = os.path.normpath(os.path.join(here, issuer.key))
        self.prefix = os.environ.get("PSIK_PREFIX") or self.prefix

    @staticmethod
    def place(path: Optional[str], serving: bool = False) -> Tuple[str, str]:
        """(what names the config's file, its path), as ("$PSIK_CONFIG", "/home/ada/psik.json").

        A server looks first where psik_api does.
        """
        if path:
            return "--config", path
        if serving and os.environ.get("PSIK_API_CONFIG"):
            return "$PSIK_API_CONFIG", os.environ["PSIK_API_CONFIG"]
        upstreams = os.path.join(os.environ.get("VIRTUAL_ENV", "/"), "etc", "psik_api.json")
        if serving and os.path.exists(upstreams):
            return "psik_api's place", upstreams
        if os.environ.get("PSIK_CONFIG"):
            return "$PSIK_CONFIG", os.environ["PSIK_CONFIG"]
        return "the usual place", os.path.expanduser("~/.config/psik.json")


def backends_of(config: Config) -> Dict[str, Backend]:
    """The backends of a config by name, the default one first."""
    return config.by_name


def load_config(path: Optional[str] = None, serving: bool = False) -> Config:
    """The config in the file `path`, else $PSIK_CONFIG, ~/.config/psik.json, or the built-in one.

    serving: psik_api's places come before $PSIK_CONFIG.  Relative paths in the file start at its
    own folder.  InvalidError if the config is invalid, or a file that was named does not exist;
    ForbiddenError if it is somebody else's.
    """
    namer, place = Config.place(path, serving)
    if namer == "the usual place" and not os.path.exists(place):
        return Config(prefix=os.environ.get("PSIK_PREFIX") or data_home())
    # Before it is read: its own `check_owner` must not decide on this.
    if os.path.exists(place) and is_foreign(os.stat(place)):
        raise ForbiddenError("%s belongs to %s, so it is not read: copy it, and name the copy: "
                             "--config FILE" % (place, name_of_user(os.stat(place).st_uid)))
    config = from_json(Config, parse_json(read_text(place), place), place)
    if config.check_owner:
        Guarded(place).deny_others(os.stat(place))
    config.settle_paths(os.path.dirname(os.path.abspath(place)))
    return config


# -------------------------------------------------------------------------------------- 7. Job tree

class Row(NamedTuple):
    """One line of status.csv: seconds since the epoch, step, state, native id or exit status."""
    time: float
    jobndx: int
    state: JobState
    info: Info


Transition = Tuple[int, JobState, Info]   # jobndx, state, info of a row that is to be


class Summary(NamedTuple):
    """One job in a listing.

    reason: the scheduler's or psik's reason for its state, or ''.  tasks: {state: tasks in it} of
    an array.  began, elapsed: when its latest step began, of an array its latest round, and for how
    many seconds it has run; None if it has not.
    """
    jobid: str
    name: str
    backend: str
    state: str
    jobndx: int
    info: Info
    updated: float
    reason: str
    tasks: Optional[Dict[str, int]] = None
    began: Optional[float] = None
    elapsed: Optional[float] = None


def read_info(text: str) -> Info:
    """A value of the info column: an int if it is a number of up to 18 digits, else the text."""
    # Only ASCII digits count; str.isdigit() accepts those of other scripts too.
    return int(text) if text.isdigit() and len(text) < 19 and text.encode().isdigit() else text


def parse_rows(text: str, source: str) -> List[Row]:
    """The rows of a status.csv in file order.

    A torn or foreign line is skipped with a warning; a row behind the rest of a torn one is kept.
    """
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        match = ROW.search(line)
        if match:
            stamp, jobndx, state, info = match.groups()
            rows.append(Row(float(stamp), int(jobndx), STATES[state], read_info(info)))
        if line and (not match or match.start()) and line.strip():
            complain_once("%s:%d: skipped text that is not a transition: %r"
                          % (source, number, line[:60]))
    return rows


class JobDir:
    """One job's directory: every path in it, its spec and its history.

    Spec and history are read at each call; only the number of tasks, and the hosts of rounds, which
    never change, are kept in memory.  check_owner: refuse to run a
    script of it that could be somebody else's.
    """

    def __init__(self, path: str, backend: str = "", check_owner: bool = True) -> None:
        self.path = os.path.abspath(path)
        self.jobid = os.path.basename(self.path)
        self.backend = backend or os.path.basename(os.path.dirname(self.path))
        self.check_owner = check_owner
        self.known_tasks = 0
        self.hosts: Dict[int, str] = {}

    def __repr__(self) -> str:
        return "JobDir(%r)" % self.path

    def at(self, *parts: str) -> str:
        """A path inside the directory."""
        return "/".join((self.path,) + parts)

    def log(self, kind: str, jobndx: int) -> str:
        """The path of a step's log.

        kind is stdout, stderr, submit, reason, host, claim, alive or cancel; or round, of a round.
        """
        return self.at("log", "%s.%d" % (kind, jobndx))

    def host(self, jobndx: int) -> str:
        """The only host that knows a step's native id, such as a process id; '' if all hosts do."""
        own = read_or_empty(self.log("host", jobndx)).strip()
        if own or self.tasks == 1:
            return own
        before = (jobndx - 1) // self.tasks * self.tasks    # its round: log/host.20+
        if not self.hosts.get(before):
            self.hosts[before] = read_or_empty(self.log("host", before) + "+").strip()
        return self.hosts[before]

    @staticmethod
    def tasks_in(rows: Sequence[Row]) -> int:
        """How many tasks an array has, which its `new` row tells; 1 if the job is none."""
        first = rows[0] if rows else None
        if first is None or first[1:3] != (0, JobState.new) or not isinstance(first.info, int):
            return 1
        return min(max(first.info, 1), MAX_TASKS)

    @property
    def tasks(self) -> int:
        """How many tasks it has as an array; 1 if it is none."""
        if not self.known_tasks:
            with suppress(OSError), open(self.status_path, "rb") as file:
                line = file.readline(200).decode("utf-8", "replace")
                self.known_tasks = self.tasks_in(parse_rows(line, self.status_path)) if line else 0
        return self.known_tasks or 1

    def is_elsewhere(self, jobndx: int) -> bool:
        """Whether only another host knows a step's native id."""
        return self.host(jobndx) not in ("", os.uname().nodename)

    def log_sizes(self) -> Dict[str, int]:
        """{name: bytes} of what the job has written, in order."""
        paths = [path for path in paths_in(self.at("log"))
                 if not OUR_LOG.fullmatch(os.path.basename(path))]
        return {os.path.basename(path): os.path.getsize(path) for path in sorted(paths)}

    def claimed(self) -> List[int]:
        """The steps that a supervisor has claimed."""
        names = [os.path.basename(path) for path in paths_in(self.at("log"))]
        return [int(name[6:]) for name in names if re.fullmatch("claim[.][0-9]{1,9}", name)]

    @property
    def tag(self) -> str:
        """Its name for its scheduler; with `.JOBNDX` behind it, the name of a step."""
        return "psik-" + self.jobid

    def script(self, name: str) -> str:
        """The path of one of its scripts."""
        return self.at("scripts", name)

    @property
    def status_path(self) -> str:
        """The path of its history."""
        return self.at("status.csv")

    def spec(self) -> JobSpec:
        """The JobSpec, with the backend's defaults of the time when the job was made."""
        path = self.at("spec.json")
        return from_json(JobSpec, parse_json(read_text(path), path), path)

    def places(self, text: str) -> List[int]:
        """The places in its array, from 1, of the tasks that a text like `3,7-9` names.

        InvalidError if the text is none; NotFoundError if it has no such task, or is no array.
        """
        tasks = self.spec().tasks
        if tasks is None:
            raise NotFoundError("job %s is no array, so it has no tasks" % self.jobid)
        try:
            parts = [Tasks.range_of(part) for part in text.split(",")]
            return [tasks.find(number) for part in parts for number in part]
        except ValueError as err:
            raise InvalidError([Fault("task", str(err))]) from None

    def rows(self) -> List[Row]:
        """The history in file order; [] if there is no such job, or none yet."""
        return parse_rows(read_or_empty(self.status_path), self.status_path)

    def exists(self) -> bool:
        """Whether the directory holds a job: one that is being made has no history yet."""
        try:
            return os.stat(self.status_path).st_size > 0
        except OSError:
            return False

    def incoming(self) -> str:
        """Make the folder, of a job that is being made, for what is to be in its work/."""
        os.mkdir(self.at("incoming"), 0o700)
        return self.at("incoming")

    def make_work(self, directory: str) -> None:
        """Make work/ of a new job: what has come for it, or the link to the directory."""
        work, has_come = self.at("work"), os.path.isdir(self.at("incoming"))
        if has_come and directory != work:
            raise InvalidError([Fault("directory", "a job that gets files runs in its own work/")])
        if has_come:
            os.rename(self.at("incoming"), work)
        elif directory != work:
            os.symlink(directory, work)
        else:
            os.mkdir(work, 0o700)

    def directory(self) -> str:
        """The directory that it runs in."""
        return os.path.realpath(self.at("work"))

    @contextmanager
    def history(self, patient: bool = True) -> Iterator["History"]:
        """Hold the lock of the history, to read it and to add to it.

        NotFoundError if there is no job; unless patient, BlockingIOError if somebody else holds it.
        """
        try:
            # Somebody may have put a FIFO or a link in its place: neither wait nor follow.
            fd = os.open(self.status_path, os.O_RDWR | os.O_APPEND | os.O_NONBLOCK | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise NotFoundError("no job at %s" % self.path) from None
        with closing_fd(fd), locked(fd, patient):
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise PsikError("%s is not a plain file" % self.status_path)
            yield History(self, fd)

    def close_to_others(self) -> bool:
        """Take write permission from others for a job that an older psik made under a lax umask.

        False, with nothing changed, if something in it is not ours.
        """
        folders = [self.path, self.at("scripts"), self.at("log")]
        paths = folders + [path for folder in folders for path in paths_in(folder)]
        with suppress(FileNotFoundError):
            present = [path for path in paths if os.path.lexists(path)]
            if any(os.lstat(path).st_uid != os.geteuid() for path in present):
                return False
            complain_once("others could write to jobs in %s, such as %s; their permission was "
                          "taken away" % (os.path.dirname(self.path), self.jobid))
            WERE_WRITABLE.add(self.path)
            # The job's own folder comes last: if this is cut short, the job is looked at again.
            for path in reversed(paths):
                close_to_others(path)
        return True

    def raw_spec(self) -> Dict[str, Json]:
        """The content of its spec.json, unchecked, for a listing of many jobs; {} if it is none."""
        with suppress(ValueError):
            data = json.loads(read_or_empty(self.at("spec.json")) or "{}")
            return data if isinstance(data, dict) else {}
        return {}

    @property
    def name(self) -> str:
        """The name in its spec, or ''."""
        return str(self.raw_spec().get("name") or "")

    @property
    def application(self) -> str:
        """The application that it was made of, or ''."""
        return str(self.raw_spec().get("application") or "")

    def is_named(self, pattern: str) -> bool:
        """Whether it has this name, or one that matches a pattern like `sweep*`."""
        import fnmatch
        name = self.name
        return name == pattern or fnmatch.fnmatchcase(name, pattern)

    def is_of(self, pattern: str) -> bool:
        """Whether it was made of this application, or of one that matches a pattern."""
        import fnmatch
        return fnmatch.fnmatchcase(self.application, pattern)


class History:
    """A status.csv that is open and locked."""

    def __init__(self, job: JobDir, fd: int) -> None:
        self.fd = fd
        os.lseek(fd, 0, os.SEEK_SET)
        with open(fd, encoding="utf-8", errors="replace", closefd=False) as file:
            text = file.read()
        self.torn = bool(text) and not text.endswith("\n")
        self.rows = parse_rows(text, job.status_path)

    def append(self, news: Sequence[Transition], durable: bool = False) -> List[Row]:
        """Add rows, in one write; durable ones are on the disk when this returns."""
        now = round(time.time(), 3)
        rows = [Row(now, jobndx, state, info) for jobndx, state, info in news]
        lines = "".join("%.3f,%d,%s,%s\n" % row for row in rows)
        # The rest of a torn row gets an end of its own, else the two would be one line.
        data, self.torn = ("\n" * self.torn + lines).encode(), True
        with naming("status.csv"):
            write_whole(self.fd, data)
            if durable:
                os.fsync(self.fd)
        self.torn = False
        self.rows += rows
        return rows


# In place of a tag in a poll line: the scheduler does not tell it; the job has none of psik.py's.
ANY_TAG, NO_TAG = "-", "none"
UNKNOWN_ID = "-"    # in place of a native id that was never heard


class Piece(NamedTuple):
    """The steps of an array that are submitted at once, as an array of the scheduler's own.

    For that they are offset + index, with indices from 1; so one array can be shifted behind
    another.  Steps that are submitted alone are pieces too, also the steps of a job without tasks.
    Task k of n has the steps k, n + k, 2n + k and so on, in each round the next.
    log/round.R holds the pieces of round R, from 0: a line `OFFSET INDICES` for each.
    """
    offset: int
    indices: List[int]
    at_once: Optional[int] = None

    @property
    def first(self) -> int:
        """Its first step, whose number the piece has in log/submit.N and for its scheduler."""
        return self.offset + self.indices[0]

    @property
    def steps(self) -> List[int]:
        """Its steps."""
        return [self.offset + index for index in self.indices]

    @property
    def is_array(self) -> bool:
        """Whether it is submitted as an array."""
        return len(self.indices) > 1

    @property
    def text(self) -> str:
        """Its indices, and how many may run at once: `1-10,15%5`."""
        return Tasks.text_of(self.indices) + ("%%%d" % self.at_once if self.at_once else "")

    @classmethod
    def alone(cls, jobndx: int) -> "Piece":
        """The piece of one step."""
        return cls(jobndx - 1, [1])

    @classmethod
    def cut(cls, steps: Sequence[int], begin: int, most: int, kind: str,
            at_once: Optional[int]) -> List["Piece"]:
        """The pieces of a round that begins behind step `begin`.

        most: the largest index that the scheduler takes; kind: `list`, or `range` if the indices of
        an array must follow one another.
        """
        groups: Dict[Tuple[int, int], List[int]] = {}
        for place, step in enumerate(steps):
            window = (step - begin - 1) // most
            run = step - place if kind == "range" else 0    # the same as long as there is no gap
            groups.setdefault((window, run), []).append(step)
        return [cls(begin + window * most, [step - begin - window * most for step in group],
                    at_once) for (window, _), group in groups.items()]

    @classmethod
    def of_round(cls, job: "JobDir", number: int) -> List["Piece"]:
        """The pieces of a round; [] if there is no such round, or if it was never planned."""
        return cls.parse(read_or_empty(job.log("round", number)))

    @classmethod
    @lru_cache(maxsize=8)
    def parse(cls, text: str) -> List["Piece"]:
        """The pieces in the text of log/round.R."""
        pieces = []
        for line in text.splitlines():
            offset, _, indices = line.partition(" ")
            with suppress(ValueError):
                tasks = Tasks.of_text(indices)
                pieces.append(cls(int(offset), list(tasks.numbers), tasks.at_once))
        return pieces

    def has(self, step: int) -> bool:
        """Whether it has this step."""
        import bisect
        index = step - self.offset
        place = bisect.bisect_left(self.indices, index)
        return self.indices[place:place + 1] == [index]

    @classmethod
    def of_step(cls, job: "JobDir", jobndx: int, tasks: int) -> "Piece":
        """The piece by which a step of an array was submitted, or was before it was requeued."""
        for step in range(jobndx, 0, -tasks if tasks > 1 else -jobndx):
            for piece in cls.of_round(job, (step - 1) // tasks):
                if piece.has(step):
                    return piece
        return cls.alone(jobndx)

    @staticmethod
    def plan(job: "JobDir", number: int, pieces: Sequence["Piece"]) -> None:
        """Keep the pieces of a round."""
        lines = ["%d %s\n" % (piece.offset, piece.text) for piece in pieces]
        replace_file(job.log("round", number), "".join(lines))

    @classmethod
    def forget(cls, job: "JobDir", steps: "Steps") -> None:
        """Drop what was never submitted of the round that the next submission belongs to."""
        number = steps.next_round(job)
        pieces = cls.of_round(job, number)
        kept = [piece for piece in pieces if steps.is_submitted(piece)
                or os.path.exists(job.log("submit", piece.first))]
        if len(kept) < len(pieces):
            cls.plan(job, number, kept)


class Step(NamedTuple):
    """A step with the native id by which a scheduler knows it, or knew it."""
    job: JobDir
    jobndx: int
    native: str
    is_claimed: bool = False    # it runs, or ran, under this native id and no other
    tasks: int = 1              # of its job

    @property
    def tag(self) -> str:
        """Its name for its scheduler."""
        return "%s.%d" % (self.job.tag, self.jobndx)

    @property
    def task(self) -> int:
        """Its task, from 1; 1 too if the job has none."""
        return (self.jobndx - 1) % self.tasks + 1

    @property
    def tag_in_round(self) -> str:
        """Its tag, for a step of an array with what is before its round: `psik-JOBID.20+3`."""
        if self.tasks == 1:
            return self.tag
        return "%s.%d+%d" % (self.job.tag, self.jobndx - self.task, self.task)

    def as_task(self) -> "Step":
        """The same as a scheduler's scripts are told of one task of an array: NATIVEID+INDEX."""
        piece = Piece.of_step(self.job, self.jobndx, self.tasks)
        index = next(index for index in piece.indices
                     if (piece.offset + index - self.jobndx) % self.tasks == 0)
        return self._replace(native="%s+%d" % (self.native, index))

    def names(self) -> List[Tuple[str, str]]:
        """The (native id, tag) under which a scheduler may have it, besides its own tag."""
        earlier = ["%s.%d" % (self.job.tag, jobndx)
                   for jobndx in range(self.jobndx - self.tasks, 0, -self.tasks)]
        return [(self.native, tag) for tag in [ANY_TAG, NO_TAG] + earlier]

    def has_scheduler(self) -> bool:
        """Whether a scheduler, and not this host alone, can be asked about the step."""
        return os.path.exists(self.job.script("poll")) and not self.job.host(self.jobndx)

    def may_go_on(self) -> bool:
        """Whether a scheduler may know more of the step, if a signal has ended it.

        False where log/ cannot be written: what it knows could not be recorded.
        """
        log = self.job.at("log")
        return (self.has_scheduler() and not os.path.exists(self.job.log("reason", self.jobndx))
                and os.access(log, os.W_OK))

    def is_meant_by(self, native: str, tag: str) -> bool:
        """Whether a poll line with this native id and tag is about the step.

        A native id alone proves little: a scheduler that crashed gives its last ones again.  The
        tag names the submission.  A submission may have been made twice, until one of the two has
        claimed the step; and one that is requeued runs the next step under its old tag.
        """
        if tag == self.tag:
            return native == self.native or not self.is_claimed
        owner, _, jobndx = tag.rpartition(".")
        is_earlier = (owner == self.job.tag and jobndx.isdigit() and int(jobndx) < self.jobndx
                      and (self.jobndx - int(jobndx)) % self.tasks == 0)
        is_untold = tag == ANY_TAG or (tag == NO_TAG and self.is_claimed)
        return native == self.native != UNKNOWN_ID and (is_earlier or is_untold)


def is_signal(row: Row) -> bool:
    """Whether this is the row of a step that a signal ended."""
    # Signals are numbered from 1 to 64.
    return row.state is JobState.failed and isinstance(row.info, int) and 128 < row.info < 193


class Steps:
    """The state and the native id of each step, from a job's history.

    The whole history decides, not its last row: final beats active beats queued beats new, and the
    first final row stays.  A `canceled` row of step 0 ends every step that had begun and not ended.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows, self.tasks = rows, JobDir.tasks_in(rows)
        # The row that decides each step's state; {0: row} if no step was ever submitted.
        self.states: Dict[int, Row] = {}
        self.queued: Dict[int, Info] = {}   # the native id that a step's submission returned
        self.active: Dict[int, Info] = {}   # the native id that a running step recorded for itself
        self.begun: Dict[int, float] = {}   # when that was
        self.ended: Set[int] = set()        # by a final row of their own
        self.canceled: Set[int] = set()     # by a cancel of the whole job
        self.unsubmitted = rows[0] if rows else None    # the row of a task without a step
        for row in rows:
            self.take_in(row)
        if len(self.states) > 1:
            self.states.pop(0, None)

    def take_in(self, row: Row) -> None:
        """Take the next row into account."""
        stamp, jobndx, state, info = row
        if jobndx == 0 and state is JobState.canceled:
            self.canceled.update(self.queued, self.active)
            self.unsubmitted = row
            for each in list(self.states) or [0]:
                self.settle(row._replace(jobndx=each))
            return
        self.settle(row)
        if state is JobState.queued:
            self.queued[jobndx] = info
        elif state is JobState.active:
            self.active[jobndx] = info
            self.begun[jobndx] = stamp
        elif RANK[state] == 3:
            self.ended.add(jobndx)

    def settle(self, row: Row) -> None:
        """Let a row decide its step's state, if it moves the step on."""
        before = self.states.get(row.jobndx)
        if before is None or RANK[row.state] > RANK[before.state]:
            self.states[row.jobndx] = row

    # What an array is while its tasks are in several states: the last of these.
    WEIGHTS = (JobState.completed, JobState.canceled, JobState.failed, JobState.new,
               JobState.queued, JobState.active)

    def task_of(self, jobndx: int) -> int:
        """The task of a step, from 1."""
        return (jobndx - 1) % self.tasks + 1

    @property
    def by_task(self) -> Dict[int, Row]:
        """The row that decides the state of each task's latest step, by task from 1.

        A task of which nothing was submitted is missing; a job without tasks counts as one.
        """
        if self.tasks == 1:
            return {1: self.states[max(self.states)]} if self.states else {}
        return {self.task_of(jobndx): self.states[jobndx]
                for jobndx in sorted(self.states) if jobndx}

    @property
    def latest(self) -> Optional[Row]:
        """The row that decides the latest step's state, and so the job's; None without rows.

        Of an array's rows it is that of a task that runs, else of one that waits, else of the
        failed one with the greatest exit status, and so on.
        """
        if self.tasks == 1 or 0 in self.states:
            return self.states[max(self.states)] if self.states else None
        rows = list(self.by_task.values())
        if len(rows) < self.tasks and self.unsubmitted:
            rows.append(self.unsubmitted)

        def weight(row: Row) -> Tuple[int, int, float]:
            code = row.info if row.state is JobState.failed and isinstance(row.info, int) else 0
            return self.WEIGHTS.index(row.state), code, row.time

        return max(rows, key=weight)

    def span(self, state: JobState) -> Tuple[Optional[float], Optional[float]]:
        """(when the latest step began, for how many seconds it has run); None if it has not.

        state: that of the job.  The steps of an array's latest round count together.
        """
        number = (max(self.states, default=0) - 1) // self.tasks
        begun = {jobndx: stamp for jobndx, stamp in self.begun.items()
                 if (jobndx - 1) // self.tasks == number}
        if not begun:
            return None, None
        end = time.time() if state in LIVE else max(self.states[jobndx].time for jobndx in begun)
        began = min(begun.values())
        return began, max(0.0, round(end - began, 3))

    def counts(self) -> Dict[str, int]:
        """{state: tasks in it}, of an array."""
        counts = dict.fromkeys(STATES, 0)
        for row in self.by_task.values():
            counts[row.state.value] += 1
        if self.unsubmitted:
            counts[self.unsubmitted.state.value] += self.tasks - sum(counts.values())
        return counts

    @property
    def natives(self) -> Dict[int, Info]:
        """The native id of each step: its own once it runs, until then that of its submission.

        The two differ if a step was submitted twice: only one of the submissions runs it.
        """
        own = {jobndx: info for jobndx, info in self.active.items() if info}
        return {**self.active, **self.queued, **own}

    def live(self, job: JobDir, canceled_too: bool = False) -> List[Step]:
        """The steps that were queued or active and have not ended.

        canceled_too: also those that only a cancel of the whole job ended; they may live on.
        """
        over = self.ended if canceled_too else self.ended | self.canceled
        return self.known(job, [jobndx for jobndx in {**self.active, **self.queued}
                                if jobndx not in over])

    def live_in(self, job: JobDir, state: JobState) -> List[Step]:
        """Those of the live steps that are in this state."""
        return [step for step in self.live(job) if self.states[step.jobndx].state is state]

    def known(self, job: JobDir, jobndxs: Sequence[int]) -> List[Step]:
        """Those of these steps of which the native id is known."""
        natives = self.natives if jobndxs else {}
        return [Step(job, jobndx, str(natives[jobndx]), bool(self.active.get(jobndx)), self.tasks)
                for jobndx in jobndxs if natives.get(jobndx, "") != ""]

    def is_requeued(self, step: Step) -> bool:
        """Whether a later step has the native id of this one: its scheduler ran it again."""
        later = range(step.jobndx + self.tasks, max(self.states) + 1, self.tasks)
        return any(str(self.active.get(jobndx) or self.queued.get(jobndx)) == step.native
                   for jobndx in later)

    def unsettled(self, job: JobDir) -> List[Step]:
        """The steps that a signal ended, and about which their scheduler has the last word.

        It may know why (TIMEOUT, OUT_OF_MEMORY, NODE_FAIL), or run the step's job again.  A step
        is settled once log/reason.N is written.
        """
        steps = self.known(job, [row.jobndx for row in self.states.values() if is_signal(row)])
        return [step for step in steps if not self.is_requeued(step) and step.may_go_on()]

    def revivable(self, job: JobDir) -> List[Step]:
        """The steps that a scheduler may run again: those unsettled, and the latest that failed.

        A site may have jobs with certain exit statuses run again (Slurm's RequeueExit).
        """
        failed = [row.jobndx for row in self.by_task.values() if row.state is JobState.failed]
        latest = [step for step in self.known(job, failed) if step.has_scheduler()]
        return list(dict.fromkeys(self.unsettled(job) + latest))

    def untold(self, job: JobDir) -> List[Step]:
        """The steps that are canceled, and whose scheduler could not be told so yet."""
        return [step for step in self.known(job, sorted(self.canceled - self.ended))
                if os.path.exists(job.log("cancel", step.jobndx)) and not job.host(step.jobndx)]

    def unqueued(self) -> Optional[int]:
        """The latest step, if it has begun and was never queued: its submission was cut short."""
        latest = max(self.states, default=0)
        return latest if latest in self.active and latest not in self.queued else None

    def is_submitted(self, piece: Piece) -> bool:
        """Whether the answer to the submission of a piece is on record."""
        first = piece.first
        return first in self.queued or (first in self.ended and first not in self.active)

    def of_task(self, job: JobDir, text: str) -> int:
        """The latest step of the task that a text names; NotFoundError if it has none."""
        places = job.places(text)
        if len(places) > 1:
            raise InvalidError("--task wants the number of one task")
        row = self.by_task.get(places[0])
        if row is None:
            raise NotFoundError("job %s: task %s was not submitted yet" % (job.jobid, text))
        return row.jobndx

    def next_jobndx(self, job: JobDir) -> int:
        """The jobndx of the next submission: of an array, the first step of the next piece."""
        last = max(row.jobndx for row in self.rows)
        if self.tasks == 1:
            return last + 1
        number = (last - 1) // self.tasks
        pieces = Piece.of_round(job, number) + Piece.of_round(job, number + 1)
        return next((piece.first for piece in pieces if not self.is_submitted(piece)),
                    (number + 1) * self.tasks + 1)

    def next_round(self, job: JobDir) -> int:
        """The round of an array that the next submission belongs to, from 0."""
        return (self.next_jobndx(job) - 1) // self.tasks


class Root(NamedTuple):
    """A folder that holds jobs, with the name and the config of their backend."""
    backend: str
    folder: str
    config: Config

    def check(self) -> None:
        """ForbiddenError if others could make jobs here, and the config does not let them.

        Also if a file that psik.py keeps beside the jobs could be somebody else's work.
        """
        instead = 'name a folder of your own in the config, as "prefix": "~/jobs"'
        if not self.config.check_owner:
            return
        if self.config.group_writable:
            Guarded(self.folder, instead).make_sticky()
        else:
            Guarded(self.folder, instead).check_own()
        names = [".outbox", ".outbox/dead", ".keys", ".uploads", ".events"]
        for poll in (".poll", ".poll-" + os.uname().nodename):
            names += [poll + ".json", poll + ".lock"]
        for name in names:
            Guarded(os.path.join(self.folder, name), "remove it").check_own()

    def job(self, jobid: str) -> Optional[JobDir]:
        """The directory of this job id, which need not hold a job.

        Where owners are checked: None if it is missing or, with a warning, if it could be somebody
        else's work.
        """
        if not JOBID.fullmatch(jobid):
            return None
        job = JobDir(os.path.join(self.folder, jobid), self.backend, self.config.check_owner)
        if not self.config.check_owner:
            return job
        try:
            status = os.lstat(job.path)
            if stat.S_ISLNK(status.st_mode) and status.st_uid == os.geteuid():
                status = os.stat(job.path)  # a link of ours counts as what it leads to
        except OSError:
            return None
        if status.st_uid != os.geteuid():
            complain_once("%s holds jobs of %s, which are passed over"
                          % (self.folder, name_of_user(status.st_uid)))
            return None
        if others_may_write(status) and not job.close_to_others():
            complain_once("%s could be written by others, and holds what is not yours, so it is "
                          "passed over" % job.path)
            return None
        return job

    def jobs(self) -> Iterator[Tuple[float, JobDir]]:
        """(time of creation, directory) of each that may be a job's, newest first."""
        for jobid in self.ids():
            job = self.job(jobid)
            if job:
                yield float(jobid), job

    def ids(self) -> List[str]:
        """The ids in the folder, newest first; read again only if the folder has changed."""
        try:
            changed = os.stat(self.folder).st_mtime_ns
            listed = LISTED.get(self.folder)
            if listed is None or listed[0] != changed:
                names = [name for name in os.listdir(self.folder) if JOBID.fullmatch(name)]
                names.sort(reverse=True)
                if len({len(name) for name in names}) > 1:  # at one length, texts sort like numbers
                    names.sort(key=float, reverse=True)
                if time.time() - changed / 1e9 < 2:  # a later change may bear the same time
                    changed = 0
                listed = LISTED[self.folder] = (changed, names)
            return listed[1]
        except FileNotFoundError:
            return []


def with_rows(jobs: Iterable[JobDir]) -> Iterator[Tuple[JobDir, List[Row]]]:
    """(job, its history) of those directories that are a job's."""
    for job in jobs:
        rows = job.rows()
        if rows:
            yield job, rows


class JobTree:
    """The folders of a config that hold jobs; ForbiddenError if one could be somebody else's work.

    Upstream keeps jobs in the prefix itself; they are listed as jobs of the first backend there.
    """

    def __init__(self, config: Config) -> None:
        self.roots: List[Root] = []
        for backend in config.by_name.values():
            if backend.prefix not in [root.folder for root in self.roots]:
                self.roots.append(Root(backend.name, backend.prefix, backend.config))
            self.roots.append(Root(backend.name, backend.root, backend.config))
        for root in self.roots:
            root.check()

    def of_id(self, jobid: str, backend: Optional[str] = None) -> Iterator[JobDir]:
        """The directories of this job id in all the folders; see Root.job()."""
        roots = (root for root in self.roots if backend in (None, root.backend))
        return filter(None, (root.job(jobid) for root in roots))

    def jobs(self, backend: Optional[str] = None) -> Iterator[JobDir]:
        """Every directory that may be a job's, newest first over all the folders."""
        import heapq
        dated = [root.jobs() for root in self.roots if backend in (None, root.backend)]
        for _, job in heapq.merge(*dated, key=lambda pair: pair[0], reverse=True):
            yield job

    def like(self, text: str) -> List[JobDir]:
        """The jobs that an id, the beginning of one or `last` may mean, newest first, at most four.

        Just the one, if the id is complete.
        """
        import itertools
        if text == "last":
            return [job for job, _ in itertools.islice(with_rows(self.jobs()), 1)]
        exact = list(itertools.islice(with_rows(self.of_id(text)), 1))
        others = with_rows(job for job in self.jobs() if job.jobid.startswith(text))
        return [job for job, _ in exact or list(itertools.islice(others, 4))]

    def named(self, pattern: str, limit: Optional[int] = None) -> List[JobDir]:
        """The jobs whose names match a pattern like `sweep*`, newest first, at most so many."""
        import itertools
        named = (job for job, _ in with_rows(self.jobs()) if job.is_named(pattern))
        return list(itertools.islice(named, limit))

    def reserve(self, backend: Backend) -> JobDir:
        """Make the directory of a new job.

        Its id is the current millisecond, or the next one that is free in every folder.
        """
        make_folder(backend.root)
        others = [root.folder for root in self.roots if root.folder != backend.root]
        stamp_ms = int(time.time() * 1000)
        while True:
            jobid = "%d.%03d" % divmod(stamp_ms, 1000)
            path = os.path.join(backend.root, jobid)
            stamp_ms += 1
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                continue
            if not any(os.path.lexists(os.path.join(folder, jobid)) for folder in others):
                return JobDir(path, backend.name, backend.config.check_owner)
            os.rmdir(path)  # another folder has a job of this id

    @contextmanager
    def reserved(self, backend: Backend) -> Iterator[JobDir]:
        """The directory of a new job; unless it becomes one, it goes again.

        What is put into its folder incoming/ before will be in the job's work/.
        """
        job = self.reserve(backend)
        try:
            yield job
        finally:
            if not job.exists():
                delete_tree(job.path)


def refuse_unknown(config: Config, text: str) -> JobDir:
    """Raise NotFoundError: there is no job of this id or name."""
    prefixes = sorted({backend.prefix for backend in config.by_name.values()})
    hint = "" if JOBID.fullmatch(text) else "; `%s ls` shows ids and names" % called()
    raise NotFoundError("no job %s under %s%s" % (one_line(text) or "''", ", ".join(prefixes),
                                                  hint))


def find_job(config: Config, text: str) -> JobDir:
    """The job of this id, or of the id that begins so, or else the newest of this name.

    For `last` it is the newest of all.  InvalidError if several ids begin so; NotFoundError if
    there is no such job.
    """
    tree = JobTree(config)
    jobs = tree.like(text) if text == "last" or JOBID.fullmatch(text) else []
    jobs = jobs or tree.named(text, 1 if text else 0)
    if len(jobs) > 1:
        jobids = " ".join(job.jobid for job in jobs[:3]) + " ..." * (len(jobs) > 3)
        raise InvalidError("%s matches more than one job: %s" % (text, jobids))
    return jobs[0] if jobs else refuse_unknown(config, text)


def find_jobs(config: Config, text: str) -> List[JobDir]:
    """The job as find_job(), or all whose names match a pattern like `sweep*`; errors the same."""
    found = JobTree(config).named(text) if re.search("[*?[]", text) else []
    return found or [find_job(config, text)]


# ------------------------------------------------------------------------------------- 8. Templates

class ShellTemplate(string.Template):
    """`@name@` is the markup; `$VAR`, "$@", ${a[@]} and %j pass through untouched.

    Between two @ may also stand `name?default`, `name*name` or `name/name`: see value_of().
    """
    factor = r"[a-z][a-z0-9_]*(?:\?[A-Za-z0-9_.-]*)?"
    pattern: ClassVar[Any] = (r"@(?P<named>%s(?:[*/]%s)*)@|(?P<escaped>(?!))|(?P<braced>(?!))"
                              r"|(?P<invalid>(?!))" % (factor, factor))  # (?!) never matches

    @classmethod
    @lru_cache(maxsize=512)
    def expressions(cls, text: str) -> List[str]:
        """What stands between two @ in a text."""
        return [match.group("named") for match in cls.pattern.finditer(text)]

    @staticmethod
    def value_of(expression: str, values: Mapping[str, Any]) -> Any:
        """What stands in place of `name`, of `a*b`, or of `a/b`, rounded up; None if a value is.

        In place of a name, `name?text` gives the text if the value is None; without a text it is
        an empty word.
        """
        def factor(text: str) -> Any:
            name, mark, default = text.partition("?")
            return default if values[name] is None and mark else values[name]

        first, *rest = re.split("([*/])", expression)
        value = factor(first)
        for sign, text in zip(rest[::2], rest[1::2]):
            other = factor(text)
            if value is None or other is None:
                return None
            value = int(value) * int(other) if sign == "*" else -(-int(value) // int(other))
        return value


OPTIONAL_PART = re.compile(r"@\[(.*?)\]@")  # of a line: it vanishes alone


class Block(str):
    """Ready-made text, which replaces the line that names it, whole and unquoted."""


Value = Union[None, int, str, Option, List[str], List[Option]]

# The templates of a backend, and what the scripts do that are made from them.
TEMPLATES_OF_A_BACKEND = {
    "submit": "hands scripts/job to the scheduler, and prints the native id as its last line; "
              "called with the jobndx, for an array with OFFSET+, and the name of this host",
    "job": "runs in the job with the jobndx: sets mpirun, nodes, jobid and psik_walltime_s, then "
           "@job_body@ hands over to the supervisor",
    "cancel": "ends the jobs of the native ids with which it is called; stdin has a line "
              "`nativeid tag` for each",
    "poll": "prints `nativeid state exitstatus tag reason...` for each job that the scheduler has; "
            "may be missing, like all that follow",
    "array": "prints the largest index of an array, and `list` or `range`",
    "check": "fails, and says why, where the scheduler cannot take jobs",
    "hold": "keeps jobs that wait from starting", "release": "lets them start again",
    "signal": "sends the signal that its first argument names to jobs",
    "usage": "prints `nativeid cpu_s memory_kib` of each id on stdin, from the accounting",
    "queues": "prints `name state nodes free_nodes cores free_cores max_walltime_min` of each"}
# Every name that a template may use, and what it stands for.
TEMPLATE_NAMES = {
    "shell": "the command behind `#!`",
    "job_body": "the lines that hand over to the supervisor; they replace their line",
    "job": "the path of the job's `scripts/job`",
    "base": "the job's directory",
    "log": "its `log/`",
    "tag": "`psik-JOBID`; the scheduler must get it with `.JOBNDX` behind it",
    "comment": "a comment of the user's own with a blank behind it, else an empty word",
    "name": "the job's name",
    "plain_name": "the name, with `_` for all but letters, digits and `_.-`",
    "directory": "where the payload runs",
    "duration_min": "the walltime in minutes",
    "duration_s": "the walltime in seconds",
    "nearly_s": "the same less `kill_grace_s`, for a scheduler that sends KILL and no TERM",
    "grace_s": "seconds from TERM to KILL",
    "node_count": "nodes",
    "process_count": "processes in all, if the spec says it",
    "processes": "processes in all, at least 1",
    "processes_per_node": "processes on a node, if the spec says it",
    "ptile": "processes on a node, if the spec decides that",
    "slots": "process_count if there is no node_count",
    "cpu_cores_per_process": "cores for each process",
    "cores": "the same if more than 1",
    "gpu_cores_per_process": "GPUs for each process, if it asks for any",
    "memory_per_process": "MiB for each process",
    "memory_per_core": "MiB for each core, unless memory_per_node is given",
    "memory_per_node": "MiB, if the nodes are the job's alone and their processes are known",
    "exclusive": "an empty text if the nodes are to be the job's alone",
    "requeue": "an empty text if the job may be requeued",
    "no_requeue": "an empty text if it may not",
    "queue_name": "queue or partition",
    "project_name": "project or account",
    "reservation_id": "reservation",
    "attributes": "a list of the scheduler's own options, quoted for their line",
    "launcher": "the words of the spec's `launcher`, else of the config's",
    "mpiexec": "`mpirun -n N` if there is an mpirun, else a program of psik.py's for one host",
    "python": "the Python that made the job",
    "supervise": "the path of the program that runs the job's steps",
    "settings": "what that program has to know of the job",
    "setup": "a list of the set-up lines",
    "environment_name": "a list of the names of the variables that the spec sets",
    "psik": "the program that `$psik` names",
    "psik_dir": "the folder of the job's copy of psik.py",
    "by_itself": "yes if a script can record transitions without Python",
}
# For templates of version 1.0.0 that a site has kept.
OLD_TEMPLATE_NAMES = {
    "rc": "the words of the shell rc", "inherit_environment": "yes or nothing",
    "reporter": "the program that records transitions; nothing if the script does so itself",
    "run": "its scripts/run", "status": "its status.csv", "environment": "NAME=value, one a line",
    "nearly_min": "a little less than the walltime",
    "grace_fifths": "grace_s in fifths of a second", "timeout": "timeout(1)",
    "psik_module": "psik", "psik_file": "psik_dir/psik.py", "backport_dir": "psik_dir",
}


def quote_sbatch(value: str) -> str:
    """A value as one word of an #SBATCH line.

    A backslash makes the next character literal, inside quotes too.  One goes between `pack` or
    `het` and `job`, because older versions cut that word out (tried with Slurm 20 to 22).
    """
    word = re.sub(r"""(["'#\\])""", r"\\\1", value)
    return '"%s"' % re.sub(r"(?i)(pack|het)(?=job)", r"\1\\", word)


def quote_bsub(value: str, scheduler: str = "LSF") -> str:
    """A value as one word of a #BSUB or #PBS line, which has no escape inside quotes.

    InvalidError if it cannot be written.
    """
    mark = "'" if '"' in value else '"'
    if mark in value or value.startswith("#"):
        raise InvalidError("%r: %s cannot take a value that holds both kinds of quotes, or begins "
                           "with #" % (value, scheduler))
    return mark + value + mark


def quote_sge(value: str) -> str:
    """A value as one word of a #$ line, where nothing hides a quote or a #.

    InvalidError if it cannot be written.
    """
    if re.search("[\"'#]", value):
        raise InvalidError("%r: SGE cannot take a value that holds a quote or a #" % value)
    return '"%s"' % value


DIRECTIVES: Dict[str, Callable[[str], str]] = {
    "#SBATCH": quote_sbatch, "#BSUB": quote_bsub, "#$": quote_sge,
    "#PBS": lambda value: quote_bsub(value, "PBS")}


class Shell(NamedTuple):
    """The shell of a job's scripts: its kind, rc or sh, and the command behind #!."""
    kind: str
    command: str

    def quote_word(self, value: str) -> str:
        """A value as one word."""
        if SAFE_WORD.fullmatch(value):
            return value
        return "'%s'" % value.replace("'", "''" if self.kind == "rc" else "'\\''")

    def quote(self, value: Union[int, str, Option], line: str) -> str:
        """A value, quoted for this line of a template: a directive or shell."""
        if line.startswith("#!"):
            return str(value)
        if isinstance(value, Option):
            word = self.quote(value.value, line) if value.value else ""
            joint = "" if not value.value else "=" if value.name.startswith("--") else " "
            return value.name + joint + word
        directive = DIRECTIVES.get(line.split(None, 1)[0])
        if directive and not SAFE_WORD.fullmatch(str(value)):
            return directive(str(value))
        return str(value) if directive else self.quote_word(str(value))

    def check_script(self, script: str) -> None:
        """InvalidError if a script without #! is plainly not for this shell, which is rc."""
        found = WRITTEN_FOR_SH.search(script)
        if found:
            why = "%r is not rc's" % found.group(0).strip()
        else:
            said = try_program(self.command.split() + ["-n"], PROBE_TIMEOUT_S, script).err
            why = last_line(said)
        if why:
            raise InvalidError([Fault("script", "it has no #! line, so %s would read it, and %s: "
                                      "begin it with #!/bin/sh, or name rc_path in the config"
                                      % (self.command, why))])

    def with_head(self, script: str) -> str:
        """A user's script, under its own #! or this shell's."""
        head = "" if script.startswith("#!") else "#!%s\n" % self.command
        if head and self.kind == "sh":
            # The words of $mpirun are joined as rc exports a list; this makes sh split them.
            head += "IFS=$(printf ' \\t\\n\\001')\n"
        return head + script + ("" if script.endswith("\n") else "\n")

    @classmethod
    def for_script(cls, config: Config, script: str) -> "Shell":
        """The shell of a job with this script; InvalidError as of(), or as check_script()."""
        shell = cls.of(config)
        if shell.kind == "rc" and not config.rc_path and not script.startswith("#!"):
            shell.check_script(script)
        return shell

    @staticmethod
    def is_rc(words: Sequence[str]) -> bool:
        """Whether this is Rakitzis' rc: init tools and Plan 9's shell are called rc too."""
        # Plan 9's rc has `if not` in place of else.
        return ask_program(list(words) + ["-c", "if(~ a b) {echo x} else {echo rc}"]) == "rc"

    @classmethod
    def of(cls, config: Config) -> "Shell":
        """The shell of the scripts: rc_path, else an rc that answers like rc, else /bin/sh.

        InvalidError if rc_path is neither rc nor a POSIX shell.
        """
        if not config.rc_path:
            path = find_program("rc")
            return cls("rc", path) if path and cls.is_rc([path]) else cls("sh", "/bin/sh")
        words = config.rc_path.split()
        if cls.is_rc(words):
            return cls("rc", config.rc_path)
        if ask_program(words + ["-c", "test a = a && echo sh"]) == "sh":
            return cls("sh", config.rc_path)
        raise InvalidError([Fault("rc_path", "%r does not answer like rc or sh; correct it or "
                                  "leave it out" % config.rc_path)], "config")


SH = Shell("sh", "/bin/sh")


@lru_cache(maxsize=64)
def template_pieces(text: str) -> List[Tuple[int, str, List[str]]]:
    """The pieces of a template: (number of the first line, text, names).

    A piece is one line with names in it, or several in a row without.
    """
    pieces: List[Tuple[int, str, List[str]]] = []
    for number, line in enumerate(text.rstrip("\n").split("\n"), 1):
        names = [factor.partition("?")[0] for found in ShellTemplate.expressions(line)
                 for factor in re.split("[*/]", found)]
        if pieces and not names and not pieces[-1][2]:
            pieces[-1] = (pieces[-1][0], pieces[-1][1] + "\n" + line, [])
        else:
            pieces.append((number, line, names))
    return pieces


class Template(NamedTuple):
    """A template: its text and its source, a path or `templates/NAME`."""
    source: str
    text: str

    @classmethod
    def built_in(cls, name: str) -> "Template":
        """A template of those at the end of this file."""
        return cls("templates/" + name, TEMPLATES[name])

    @classmethod
    def find(cls, kind: str, name: str, shell: str, config: Config) -> Optional["Template"]:
        """A backend's template: the file for this shell, else the one for both, else None.

        The site's own folder comes first.  A kind like `lsf-mpi` falls back on `lsf`; '' is that of
        the templates which all backends share.  ForbiddenError if somebody else could write to it.
        """
        kinds = [kind, kind.split("-")[0]] if "-" in kind else [kind]
        files = (name + "." + shell, name)
        for path in [os.path.join(each, file) for each in kinds for file in files]:
            own = os.path.join(config.templates, path) if config.templates else ""
            if own and os.path.isfile(own):
                config.check_site_file(own)
                return cls(own, read_text(own))
            if path in TEMPLATES:
                return cls.built_in(path)
        return None

    @staticmethod
    def optional(part: str, given: Mapping[str, Value]) -> str:
        """A part of a line that vanishes if one of its values is None."""
        absent = any(ShellTemplate.value_of(name, given) is None
                     for name in ShellTemplate.expressions(part))
        return "" if absent else part

    @staticmethod
    def repeated(values: Dict[str, Value]) -> List[Dict[str, Value]]:
        """The values of each copy of a line: a copy for each item of the first list among them."""
        many = next((name for name, value in values.items() if isinstance(value, list)), None)
        items: Any = values[many] if many else ()
        return [dict(values, **{many: item}) for item in items] if many else [values]

    def render_piece(self, piece: str, given: Mapping[str, Value], shell: Shell) -> List[str]:
        """The lines that a piece becomes; given holds the values of all names."""
        piece = OPTIONAL_PART.sub(lambda part: self.optional(part.group(1), given), piece)
        values = {name: ShellTemplate.value_of(name, given)
                  for name in ShellTemplate.expressions(piece)}
        block = next((value for value in values.values() if isinstance(value, Block)), None)
        if block is not None:
            return [block]
        if None in values.values():
            return []
        template = ShellTemplate(piece)
        return [template.substitute({name: shell.quote(value, piece)  # type: ignore
                                     for name, value in copy.items()})
                for copy in self.repeated(values)]

    def render(self, values: Dict[str, Value], shell: Shell) -> str:
        """The text with the values in place, line by line.

        A line with a value None vanishes, and so does a part of it between @[ and ]@; a line with
        a list is repeated, once per item; one with a Block is replaced by it.  InvalidError gives
        source and line of an unknown name.
        """
        lines: List[str] = []
        for number, piece, names in template_pieces(self.text):
            unknown = [name for name in names if name not in values]
            if unknown:
                hint = nearest(unknown[0], values)
                raise InvalidError("@%s@ is not a template's name%s" % (unknown[0], hint),
                                   "%s:%d" % (self.source, number))
            try:
                lines += self.render_piece(piece, values, shell) if names else [piece]
            except (ArithmeticError, TypeError, ValueError) as err:
                raise InvalidError("%s: %s" % (piece.strip(), err),
                                   "%s:%d" % (self.source, number)) from None
        return "\n".join(lines) + "\n"


# -------------------------------------------------------------------------------------- 9. Backends

# A job calls a copy of psik.py: it stays in place when psik.py is moved or replaced, and there is
# one even when the program was read from stdin.

class Copies:
    """The copies of psik.py that the jobs of a prefix share, each in a folder named by its hash.

    Each job holds a hard link to the copy that it calls, so the link count tells which are unused.
    """

    def __init__(self, prefix: str) -> None:
        self.folder = os.path.join(prefix, ".psik")

    @staticmethod
    def code() -> bytes:
        """The compiled code of this program, as a .pyc file."""
        import importlib.util
        import marshal
        head = importlib.util.MAGIC_NUMBER + bytes(8 if sys.version_info < (3, 7) else 12)
        return head + marshal.dumps(CODE)

    @staticmethod
    @lru_cache(maxsize=1)
    def files() -> Dict[str, bytes]:
        """{name: content} of a copy: the supervisor, and psik.py (psik.pyc if read from stdin)."""
        files = {"supervisor.py": TEMPLATES["supervisor.py"].encode()}
        if CODE is None:
            with open(os.path.realpath(FILE), "rb") as file:
                files["psik.py"] = file.read()
        else:
            files["psik.pyc"] = Copies.code()
        if sys.version_info < (3, 7):
            with open(sys.modules["dataclasses"].__file__ or "", "rb") as file:
                files["dataclasses.py"] = file.read()
        return files

    @staticmethod
    @lru_cache(maxsize=1)
    def hash() -> str:
        """The name of our copy's folder: 16 hexadecimal digits, a hash of its files."""
        import hashlib
        content = b"".join(content for _, content in sorted(Copies.files().items()))
        return hashlib.sha256(content).hexdigest()[:16]

    @classmethod
    def of(cls, job: JobDir) -> "Copies":
        """The copies under a job's prefix."""
        return cls(os.path.dirname(os.path.dirname(job.path)))

    @property
    def own(self) -> str:
        """The folder of our copy."""
        return os.path.join(self.folder, self.hash())

    @staticmethod
    def linked_file(copy: str) -> str:
        """The file of a copy to which the jobs that need it hold hard links."""
        path = os.path.join(copy, "psik.py")
        return path if os.path.exists(path) else os.path.join(copy, "psik.pyc")

    def write(self) -> None:
        """Make the folder of our copy, complete or not at all."""
        temporary = "%s.%s" % (self.own, os.urandom(6).hex())
        os.mkdir(temporary, 0o700)
        # Python itself would make __pycache__ with whatever permissions the umask leaves.
        os.mkdir(os.path.join(temporary, "__pycache__"), 0o700)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            for name, content in self.files().items():
                path = os.path.join(temporary, name)
                with naming(path), open(os.open(path, flags, 0o600), "wb") as file:
                    file.write(content)
            os.rename(temporary, self.own)
        except BaseException:  # on a full disk it would be in the way of everything else
            delete_tree(temporary)
            raise

    def is_whole(self) -> bool:
        """Whether the files of our copy have the content that they should have."""
        for name, content in self.files().items():
            with open(os.path.join(self.own, name), "rb") as file:
                if file.read() != content:
                    return False
        return True

    def link(self, job: JobDir) -> None:
        """Link our copy into a job, in place of the link to an earlier one."""
        temporary = job.script(".psik.%s" % os.urandom(6).hex())
        os.link(self.linked_file(self.own), temporary)
        # If both names are links to one file, rename(2) does nothing, and leaves both.
        os.replace(temporary, job.script(".psik.py"))
        if os.path.exists(temporary):
            os.unlink(temporary)

    def keep(self, job: JobDir) -> None:
        """Make our copy unless it is there, and keep it for as long as the job exists.

        ForbiddenError if it was changed, or if somebody else could have written it.
        """
        make_folder(self.folder)
        if job.check_owner:
            self.check(self.own)
        with closing_fd(os.open(self.folder, os.O_RDONLY)) as lock, locked(lock):
            if not os.path.isdir(self.own):
                self.write()
            elif not self.is_whole():
                raise ForbiddenError("%s was changed: remove it" % self.own)
            try:
                self.link(job)
            except OSError as err:
                if err.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                # The file system has no hard links, or allows no more of them to this file.  Then
                # links do not tell who needs the copy, so it is never removed.
                write_file(os.path.join(self.own, "keep"), "")

    def check(self, copy: str) -> None:
        """Raise ForbiddenError if somebody else could have written a copy."""
        instead = "remove it, or name a prefix of your own in the config"
        cached = paths_in(os.path.join(copy, "__pycache__"))
        for path in [self.folder, copy] + paths_in(copy) + cached:
            Guarded(path, instead, to_run=path.startswith(copy + os.sep)).check_own()

    def drop_unused(self) -> None:
        """Remove the copies that no job needs any more."""
        if not os.path.isdir(self.folder):
            return
        with closing_fd(os.open(self.folder, os.O_RDONLY)) as lock, locked(lock):
            for copy in paths_in(self.folder):
                is_copy = re.fullmatch("[0-9a-f]{16}", os.path.basename(copy))
                with suppress(FileNotFoundError):
                    if is_copy and self.is_unused(copy):
                        delete_tree(copy)

    def is_unused(self, copy: str) -> bool:
        """Whether no job has a link to a copy; never true of one that is not counted by links."""
        uncounted = os.path.exists(os.path.join(copy, "keep"))
        return os.stat(self.linked_file(copy)).st_nlink == 1 and not uncounted


class ScriptWriter:
    """Makes the texts of a job's scripts/ from the templates of its backend."""

    def __init__(self, job: JobDir, spec: JobSpec, backend: Backend, shell: Shell) -> None:
        assert isinstance(spec.backend, BackendConfig)
        self.job, self.spec, self.shell = job, spec, shell
        self.settings, self.config, self.kind = spec.backend, backend.config, backend.kind
        self.shared = backend.shared
        self.environment = spec.variables_in(job.at("work"))

    @staticmethod
    def can_record() -> bool:
        """Whether a script can append a transition without Python.

        That takes flock(1), and a date(1) that prints milliseconds.
        """
        return bool(find_program("flock")) and ask_program(["date", "+%3N"]).isdigit()

    def resource_values(self) -> Dict[str, Value]:
        """{name: value} of the template names for what the job needs."""
        needs, mpirun = self.spec.resources, find_program("mpirun")
        processes = str(needs.processes())
        if mpirun:
            mpiexec = [mpirun, "-n", processes]
        elif needs.processes() > 1:
            mpiexec = [sys.executable or "python3", "-I", "-S", "-X", "utf8",
                       self.job.script("supervise"), "ranks", processes]
        else:
            mpiexec = ["env", "PSIK_RANK=0", "PSIK_SIZE=1"]
        cores = needs.cpu_cores_per_process
        return {
            "duration_min": needs.duration,
            "duration_s": needs.duration * 60,
            "nearly_min": "%.2f" % (needs.duration * 0.98),
            "nearly_s": needs.duration * 60 - min(self.config.kill_grace_s + 2, needs.duration * 6),
            "node_count": needs.node_count,
            "process_count": needs.process_count,
            "processes_per_node": needs.processes_per_node,
            "processes": needs.processes(),
            "slots": None if needs.node_count else needs.process_count,
            "ptile": needs.processes_on_a_node(),
            "cpu_cores_per_process": cores,
            "cores": cores if cores > 1 else None,
            "gpu_cores_per_process": needs.gpu_cores_per_process or None,
            "memory_per_process": needs.memory_per_process,
            "memory_per_core": needs.memory_per_core(),
            "memory_per_node": needs.memory_per_node(),
            "exclusive": Option("", "") if needs.exclusive_node_use else None,
            "mpiexec": WORD_SEPARATOR.join(mpiexec),
        }

    def options(self) -> Tuple[List[Option], List[Option]]:
        """The options of the attributes: those for scripts/job, and the comment of the user's."""
        options = [Option.of(*pair) for pair in self.settings.attributes.items()]
        names = COMMENTS.get(self.kind.split("-")[0], ())
        comments = [option for option in options if option.name in names]
        return [option for option in options if option not in comments], comments

    def spec_values(self) -> Dict[str, Value]:
        """{name: value} of the template names for everything else in the spec."""
        spec, settings = self.spec, self.settings
        plain_name = re.sub(r"[^A-Za-z0-9_.-]", "_", spec.name) if spec.name else None
        options, comments = self.options()
        return {
            "directory": spec.directory,
            "name": spec.name,
            "plain_name": plain_name,
            "queue_name": settings.queue_name,
            "project_name": settings.project_name,
            "reservation_id": settings.reservation_id,
            "attributes": options,
            "comment": "".join(option.value + " " for option in comments),
            "requeue": Option("", "") if spec.requeue else None,
            "no_requeue": None if spec.requeue else Option("", ""),
        }

    def script_values(self) -> Dict[str, Value]:
        """{name: value} of the template names for what the script finds when it begins."""
        spec = self.spec
        return {
            "environment": ["%s=%s" % pair for pair in self.environment.items()],
            "environment_name": [name for name in spec.variables if name.isidentifier()],
            "setup": [line for line in spec.setup if line.strip()],
            "inherit_environment": "yes" if spec.inherit_environment else None,
            "launcher": WORD_SEPARATOR.join(spec.launcher or self.config.launcher or ()) or None,
        }

    def place_values(self) -> Dict[str, Value]:
        """{name: value} of the template names for the job's files and the programs it calls."""
        job, config, copy = self.job, self.config, Copies.of(self.job).own
        psik, alone = config.psik_path or job.script("psik"), self.can_record()
        rc = self.shell.command.split() if self.shell.kind == "rc" else ["/usr/bin/env", "rc"]
        return {
            "shell": self.shell.command,
            "psik": psik,
            "rc": WORD_SEPARATOR.join(rc),
            "reporter": None if alone and not self.spec.callback else psik,
            "by_itself": "yes" if alone else None,
            "base": job.path,
            "log": job.at("log"),
            "status": job.status_path,
            "job": job.script("job"),
            "run": job.script("run"),
            "supervise": job.script("supervise"),
            "tag": job.tag,
            "grace_s": config.kill_grace_s,
            "grace_fifths": config.kill_grace_s * 5,
            "timeout": find_program("timeout") or "timeout",
            "python": sys.executable or "python3",
            "psik_dir": copy,
            "psik_module": "psik",
            "backport_dir": copy,
            "psik_file": os.path.join(copy, "psik.py"),
        }

    def supervisor_settings(self, values: Dict[str, Value]) -> Block:
        """The line SETTINGS of scripts/supervise: what the supervisor has to know of the job."""
        spec, config = self.spec, self.config
        return Block("SETTINGS = %r" % {
            "home": values["psik_dir"], "check_owner": config.check_owner, "base": self.job.path,
            "directory": spec.directory, "environment": self.environment,
            "psik": values["psik"], "rc": values["rc"], "grace_s": config.kill_grace_s,
            "duration_min": spec.resources.duration, "has_setup": bool(spec.setup),
            "tasks": len(spec.tasks.numbers) if spec.tasks else 0,
            "shared": self.shared, "shares": spec.resources.shares(),
            "slots_folder": self.slots_folder() if self.shared else "",
            "callback_timeout_s": config.callback_timeout_s if spec.callback else 0,
            "final_only": spec.callback_on == "final", "join_output": spec.join_output})

    def slots_folder(self) -> str:
        """Where the jobs of a prefix that wait for slots of a host are counted, on that host."""
        import hashlib
        prefix = os.path.realpath(os.path.dirname(os.path.dirname(self.job.path)))
        name = hashlib.sha256(os.fsencode(prefix)).hexdigest()[:16]
        return "/tmp/psik-%d/slots-%s" % (os.getuid(), name)

    def values(self) -> Dict[str, Value]:
        """{name: value} of all template names, without job_body, for the scripts of this job."""
        values = {**self.place_values(), **self.spec_values(), **self.script_values(),
                  **self.resource_values()}
        return dict(values, settings=self.supervisor_settings(values))

    def texts(self) -> Dict[str, str]:
        """{name: text} of the scripts.

        InvalidError if a template is missing or holds an unknown name.
        """
        config, shell, values = self.config, self.shell, self.values()
        body = Template.find("", "job_body", shell.kind, config) or Template("", "")
        values["job_body"] = Block(body.render(values, shell).rstrip("\n"))
        scripts = {"run": shell.with_head(self.spec.script)}
        if self.spec.setup:
            scripts["setup"] = Template.built_in("setup").render(values, SH)
        more = STEERING_SCRIPTS + ARRAY_SCRIPTS * bool(self.spec.tasks)
        for name in JOB_SCRIPTS + more + OUR_SCRIPTS:
            kind = "" if name in OUR_SCRIPTS else self.kind
            template = Template.find(kind, name, shell.kind, config)
            if template:
                # A template may name /bin/sh, whatever the shell of the others is.
                is_sh = template.text.startswith("#!/bin/sh")
                scripts[name] = template.render(values, SH if is_sh else shell)
            elif name not in OPTIONAL_SCRIPTS:
                where = config.templates or "psik.py, and the config names no folder of templates"
                text = "%r is not a backend: there is no template %r in %s"
                raise InvalidError([Fault("backend", text % (self.kind, name, where))], "config")
        self.check_array(scripts)
        return scripts

    def check_array(self, scripts: Dict[str, str]) -> None:
        """InvalidError if the tasks of an array cannot be run so many at a time."""
        tasks = self.spec.tasks
        if tasks and tasks.at_once and "array" not in scripts:
            raise InvalidError([Fault("array", "the tasks of %r jobs are jobs of their own, and "
                                      "all of them may run at once" % self.kind)])


def check_template(backend: Backend, name: str, shell: Shell) -> List[str]:
    """What is wrong with one of a backend's templates, or missing; [] if nothing is."""
    try:
        template = Template.find(backend.kind, name, shell.kind, backend.config)
    except PsikError as err:
        return [str(err)]
    if not template:
        effect = "; jobs that are killed stay active" if name == "poll" else ""
        return ["no template %r%s" % (name, effect)]
    missing = []
    try:
        template.render({known: 1 for known in {**TEMPLATE_NAMES, **OLD_TEMPLATE_NAMES}}, shell)
    except InvalidError as err:
        missing.append(str(err))
    lines = re.findall(r"^# needs:(.*)$", template.text, re.MULTILINE)
    absent = [word for line in lines for word in line.split() if not find_program(word)]
    return missing + ["no program %r, which %s calls" % (word, template.source) for word in absent]


def unused_fields(backend: Backend, spec: JobSpec) -> List[str]:
    """The fields that a spec sets, and that no template of its backend has a place for."""
    settings = spec.backend if isinstance(spec.backend, BackendConfig) else BackendConfig()
    given = {"resources.memory_per_process": spec.resources.memory_per_process}
    for name in ("queue_name", "project_name", "reservation_id", "attributes"):
        given["backend." + name] = getattr(settings, name)
    shell = Shell.of(backend.config).kind
    found = [Template.find(backend.kind, name, shell, backend.config) for name in JOB_SCRIPTS]
    text = " ".join(template.text for template in found if template)
    words = {path: path.rpartition(".")[2].replace("memory_per_process", "memory_per_")
             for path, value in given.items() if value}
    return [path for path, word in words.items() if not re.search("@[^@\n]*" + word, text)]


def basic_environment(env: Mapping[str, str]) -> Dict[str, str]:
    """What a job that does not inherit an environment gets of it all the same."""
    return {name: value for name, value in env.items()
            if name in BASIC_ENVIRONMENT or CLUSTER_VARIABLE.fullmatch(name)}


def without_options(env: Mapping[str, str]) -> Dict[str, str]:
    """An environment without what a surrounding job or a shell tells a scheduler's programs."""
    return {name: value for name, value in env.items()
            if not SCHEDULER_VARIABLE.fullmatch(name) or CLUSTER_VARIABLE.fullmatch(name)}


def try_template(backend: Backend, name: str, text: str = "") -> Optional[Finished]:
    """Run a template of a backend's that belongs to no job, text its stdin; None if it has none."""
    shell = Shell.of(backend.config)
    template = Template.find(backend.kind, name, shell.kind, backend.config)
    if not template:
        return None
    script = template.render({"shell": shell.command}, shell)
    env = dict(without_options(os.environ), **backend.config.scheduler_environment)
    return try_program(shell.command.split() + ["-c", script], POLL_TIMEOUT_S, text, env)


def ask_backend(backend: Backend) -> List[str]:
    """What the backend's check script says is wrong with its scheduler; [] if that answers."""
    done = try_template(backend, "check")
    return [done.fault] if done and done.status else []


class Queue(NamedTuple):
    """A queue or partition; None stands for what its scheduler does not say."""
    name: str
    state: str
    nodes: Optional[int]
    free_nodes: Optional[int]
    cores: Optional[int]
    free_cores: Optional[int]
    max_walltime_min: Optional[int]

    @classmethod
    def of(cls, backend: Backend) -> List["Queue"]:
        """The queues of a backend, by its template `queues`.

        NotFoundError if its kind has none; BackendError if its scheduler does not answer.
        """
        done = try_template(backend, "queues")
        if done is None:
            raise NotFoundError("backend %r: %r jobs have no queues" % (backend.name, backend.kind))
        if done.status:
            raise BackendError("backend %r: %s" % (backend.name, done.fault))
        size = len(cls._fields)
        rows = [line.split() for line in done.out.splitlines()]
        return [cls(*row[:2], *(int(word) if word.isdigit() else None  # type: ignore[arg-type]
                                for word in row[2:size]))
                for row in rows if len(row) >= size]


def check_backend(backend: Backend) -> List[str]:
    """What a backend lacks: templates, known names in them, programs; [] if it lacks nothing."""
    config = backend.config
    try:
        shell = Shell.of(config)
    except InvalidError as err:
        return [str(err)]
    missing = [fault for name in JOB_SCRIPTS for fault in check_template(backend, name, shell)]
    if config.psik_path and not find_program(config.psik_path):
        missing.insert(0, "no program %r, which psik_path names" % config.psik_path)
    return missing


class JobScripts:
    """The files in a job's scripts/, which are checked before one of them is run."""

    def __init__(self, job: JobDir) -> None:
        self.job = job

    def settings(self) -> str:
        """The text of scripts/supervise; '' in jobs of version 1.0.0 and upstream."""
        return read_or_empty(self.job.script("supervise"))

    def copy_in(self, settings: str) -> str:
        """The folder of the copy of psik.py that settings() of this text names; '' if none."""
        copy = re.search(r"/\.psik/([0-9a-f]+)", settings)
        return os.path.join(Copies.of(self.job).folder, copy.group(1)) if copy else ""

    @property
    def are_stale(self) -> bool:
        """Whether the job was moved since they were made, or the psik.py that they call is gone."""
        settings = self.settings()
        is_here = ("'base': %r," % self.job.path) in settings
        return bool(settings) and not (is_here and os.path.isdir(self.copy_in(settings)))

    def has(self, name: str) -> bool:
        """Whether the job has a script of this name."""
        return os.path.exists(self.job.script(name))

    def check(self) -> None:
        """Raise ForbiddenError if somebody else could have written them, or what they call."""
        job, instead = self.job, "remove the job, or what was put into it"
        if job.path in WERE_WRITABLE:  # refused once: whoever tries again has been warned
            WERE_WRITABLE.discard(job.path)
            raise ForbiddenError("others could write to job %s: look at what it holds, and try "
                                 "again" % job.jobid)
        folders = [job.path, job.at("scripts"), job.at("log"), job.at("spec.json")]
        for path in folders + paths_in(job.at("log")):
            Guarded(path, instead).check_own()
        for path in paths_in(job.at("scripts")):
            Guarded(path, instead, to_run=True).check_own()
            if os.lstat(path).st_nlink > 1 and os.path.basename(path) != ".psik.py":
                raise ForbiddenError("%s is also a file by another name, which others may be able "
                                     "to write: remove it" % path)
        copy = self.copy_in(self.settings())
        if copy:
            Copies.of(job).check(copy)

    def path(self, name: str) -> str:
        """The path of a script that is about to be run; ForbiddenError as check()."""
        if self.job.check_owner:
            self.check()
        return self.job.script(name)

    def environment(self, given: Optional[Dict[str, str]] = None) -> Dict[str, str]:
        """The environment of submit, poll and cancel, made from one that is given, or ours."""
        text = read_or_empty(self.job.script("scheduler.json"))
        return dict(without_options(os.environ if given is None else given),
                    **json.loads(text or "{}"))

    def run(self, name: str, words: Sequence[str], timeout_s: Optional[float],
            text: str = "") -> Finished:
        """Run a script with these arguments, text its stdin; if that fails, stderr says why."""
        try:
            return try_program([self.path(name)] + list(words), timeout_s, text,
                               self.environment())
        except ForbiddenError as err:
            return Finished(1, "", str(err))


def is_over(job: JobDir, rows: Sequence[Row]) -> bool:
    """Whether a job's latest step, or its tasks' latest, has ended for good; True if it is gone."""
    steps = Steps(rows)
    latest = steps.latest
    if latest is None or not latest.state.is_final():
        return latest is None
    last = {row.jobndx for row in steps.by_task.values()}
    may_go_on = any(step.jobndx in last for step in steps.unsettled(job))
    return not may_go_on or JobScripts(job).are_stale  # of which nobody can be asked


def export_templates(folder: str) -> List[str]:
    """Write the built-in templates below a folder that has none of them yet; their paths."""
    paths = {name: os.path.join(folder, name) for name in sorted(TEMPLATES)}
    for path in paths.values():
        if os.path.lexists(path):
            raise ConflictError("%s exists already; name another folder" % path)
    for name, path in paths.items():
        make_folder(os.path.dirname(path))
        write_file(path, TEMPLATES[name], 0o644)
    return list(paths.values())


# ------------------------------------------------------------------------------------ 10. Callbacks

# An event is written to .outbox/ before its row to the history, and removed once a 2xx has come
# back.  So a process that dies on the way leaves an event without a row, which is dropped, or one
# with a row, which the next process sends, perhaps a second time.  No event is lost.

def as_bytes(text: Union[str, bytes]) -> bytes:
    """Text as UTF-8; bytes as they are."""
    return text.encode("utf-8") if isinstance(text, str) else text


def sign_message(payload: Union[str, bytes], secret: Union[str, bytes]) -> str:
    """The X-Hub-Signature-256 of a message, `sha256=<hex>`, as GitHub makes it; text is UTF-8."""
    import hashlib
    import hmac
    return "sha256=" + hmac.new(as_bytes(secret), as_bytes(payload), hashlib.sha256).hexdigest()


def verify_signature(payload: Union[str, bytes], secret: Union[str, bytes],
                     signature: Optional[str]) -> bool:
    """True if this is the message's signature, compared in constant time; else ForbiddenError."""
    import hmac
    if not signature:
        raise ForbiddenError("the X-Hub-Signature-256 header is missing")
    given = signature.strip().encode("utf-8", "replace")
    if not hmac.compare_digest(sign_message(payload, secret).encode(), given):
        raise ForbiddenError("the signature does not match the message")
    return True


class web:
    """Upstream's name for these two: psik.web.sign_message, psik.web.verify_signature."""
    sign_message = staticmethod(sign_message)
    verify_signature = staticmethod(verify_signature)


class CallbackSettings(NamedTuple):
    """What callbacks need of the config.

    It is kept in scripts/callback.json, because a process inside a job reads no config.
    """
    timeout_s: float
    give_up_s: float
    ca_file: Optional[str]
    proxy: bool
    final_only: bool = False

    @classmethod
    def of(cls, job: JobDir) -> Optional["CallbackSettings"]:
        """The settings of a job; None if it has no callback."""
        text = read_unless_known(job.script("callback.json"))
        with suppress(ValueError, TypeError):
            return cls(**json.loads(text)) if text else None
        raise InvalidError("is not valid; copy that of another job of this backend",
                           job.script("callback.json"))


class Post:
    """One POST to a callback, to be answered before a deadline of time.monotonic().

    OSError if there is no answer; TimeoutError if there is none before the deadline.
    """
    # By hand, because each call in a job pays for it: http.client would cost 26 ms of CPU, while an
    # interpreter's start costs 8.  Only the head of the answer is read, and strictly: HTTP/1.0 or
    # 1.1, a status of three digits, then anything up to an empty line, in all at most
    # MAX_ANSWER_HEAD bytes.  Heads of 1xx are skipped; headers and body are of no interest.

    def __init__(self, url: str, settings: CallbackSettings, deadline: float) -> None:
        self.url, self.settings, self.deadline = url, settings, deadline
        self.scheme, self.host, self.port, self.target = split_url(url)
        is_usual = self.port == PORTS[self.scheme]
        self.name = self.host if is_usual else "%s:%d" % (self.host, self.port)

    def remaining_s(self) -> float:
        """The seconds until the deadline; TimeoutError if it has passed."""
        seconds = self.deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("no answer in time")
        return seconds

    def resolve(self, host: str, port: int) -> List[Any]:
        """The addresses of a host, as socket.getaddrinfo() returns them."""
        import socket
        result: List[Any] = []  # the addresses, or one exception
        name: Any = host.strip("[]")
        if re.fullmatch("[!-~]+", name):  # a str would go through the idna codec, which costs 2 ms
            name = name.encode()

        def look_up() -> None:
            try:
                result.extend(socket.getaddrinfo(name, port, 0, socket.SOCK_STREAM))
            except (OSError, UnicodeError) as err:
                result.append(err)

        if re.fullmatch(r"[0-9.]+|\[.*\]", host):  # an address, which needs no look-up
            look_up()
        else:  # in a thread, because getaddrinfo(3) has no time-out
            import threading
            thread = threading.Thread(target=look_up, daemon=True)
            thread.start()
            thread.join(self.remaining_s())
        if not result or isinstance(result[0], Exception):
            reason = getattr(result[0], "strerror", result[0]) if result else "no answer"
            raise OSError("%s does not resolve: %s" % (host, reason))
        return result

    def connect(self, host: str, port: int) -> Any:
        """A socket connected to the first address of a host that accepts the connection."""
        import socket
        problem = OSError("no address")
        for family, kind, protocol, _, address in self.resolve(host, port):
            sock = None
            try:
                sock = socket.socket(family, kind, protocol)  # fails for IPv6 where there is none
                sock.settimeout(self.remaining_s())
                sock.connect(address)
                return sock
            except OSError as err:
                problem = err
                if sock:
                    sock.close()
        raise problem

    def proxy(self) -> Optional[str]:
        """The proxy that the environment names for the host; None unless the config wants one."""
        if not self.settings.proxy:
            return None
        from urllib import request
        proxy = None if request.proxy_bypass(self.host) else request.getproxies().get(self.scheme)
        try:
            split_url(proxy or self.url)
        except ValueError:  # without the URL: it may hold a password, and what is raised is kept
            raise OSError("the proxy that the environment names is not a plain http URL") from None
        return proxy

    def receive(self, sock: Any) -> bytes:
        """The next block of an answer."""
        sock.settimeout(self.remaining_s())
        try:
            block = bytes(sock.recv(4096))
        except TimeoutError:
            raise TimeoutError("no answer in time") from None
        except OSError as err:  # before Python 3.10 socket.timeout is not a TimeoutError
            is_late = "timed out" in str(err)
            raise (TimeoutError("no answer in time") if is_late else err) from None
        if not block:
            raise OSError("the receiver closed the connection in mid-answer")
        return block

    def exchange(self, sock: Any, head: str, body: bytes = b"") -> Tuple[int, str]:
        """Send a request and read the head of the answer: (status, `200 OK`)."""
        sock.settimeout(self.remaining_s())
        sock.sendall(head.encode("latin-1", "replace") + body)
        answer = b""
        while True:
            while b"\r\n\r\n" not in answer:
                answer += self.receive(sock)
                if len(answer) > MAX_ANSWER_HEAD:
                    raise OSError("the head of the answer is too long")
            match = re.match(rb"HTTP/1\.[01] ([0-9]{3}) ?([^\r\n]{0,100})", answer)
            if not match:
                raise OSError("the answer is not HTTP/1")
            status, phrase = match.group(1).decode(), match.group(2).decode("latin-1")
            if not 100 <= int(status) < 200:
                return int(status), ("%s %s" % (status, phrase)).strip()
            answer = answer.split(b"\r\n\r\n", 1)[1]  # after 100 Continue and its like

    def wrap_tls(self, sock: Any) -> Any:
        """The socket under TLS.

        The server's certificate is checked against the system's roots and the config's ca_file.
        """
        import ssl
        context = ssl.create_default_context()
        if self.settings.ca_file:
            context.load_verify_locations(self.settings.ca_file)
        sock.settimeout(self.remaining_s())
        return context.wrap_socket(sock, server_hostname=self.host.strip("[]"))

    def open_tunnel(self, sock: Any) -> None:
        """Have a proxy connect to the host."""
        place = self.host, self.port, self.name
        status, answer = self.exchange(sock, "CONNECT %s:%d HTTP/1.1\r\nHost: %s\r\n\r\n" % place)
        if status != 200:
            raise OSError("the proxy refused: %s" % answer)

    def send(self, body: bytes, headers: Dict[str, str]) -> Tuple[int, str]:
        """POST the body and read the head of the answer: (status, `200 OK`).

        Redirects are not followed: nobody but the job's owner decides where its events go.
        """
        proxy = self.proxy()
        host, port = split_url(proxy)[1:3] if proxy else (self.host, self.port)
        sock = self.connect(host, port)
        try:
            if self.scheme == "https":
                if proxy:
                    self.open_tunnel(sock)
                sock = self.wrap_tls(sock)
            target = "http://" + self.name if proxy and self.scheme == "http" else ""
            target += self.target
            lines = ["POST %s HTTP/1.1" % target, "Host: " + self.name,
                     "Content-Length: %d" % len(body), "Connection: close"]
            lines += ["%s: %s" % header for header in headers.items()]
            return self.exchange(sock, "\r\n".join(lines) + "\r\n\r\n", body)
        finally:
            sock.close()


class Event(NamedTuple):
    """A transition to be delivered to a callback.  Times are seconds since the epoch."""
    delivery: str       # X-Psik-Delivery, the same at each try
    jobid: str
    place: int          # of its row in the history, which is the order of delivery
    jobndx: int
    state: str
    info: Info
    made: float
    attempts: int = 0
    due: float = 0.0    # when the next try is due
    said: str = ""      # the outcome of the last try: the answer, or the error
    is_end: bool = False    # it tells the job's end, and was made after that

    @property
    def body(self) -> bytes:
        """The bytes that are sent and signed."""
        return json.dumps({"jobid": self.jobid, "jobndx": self.jobndx,
                           "state": self.state, "info": self.info}).encode()

    @classmethod
    def read(cls, path: str) -> Optional["Event"]:
        """The event in a file.

        None if it was delivered meanwhile, or, with a warning, if the file holds no event.
        """
        text = read_or_empty(path)
        with suppress(ValueError, TypeError):
            event = cls(**json.loads(text)) if text else None
            if event is None or re.fullmatch("[0-9a-f]{32}", event.delivery):
                return event
        complain("%s: not an event; remove it" % path)
        return None

    def belongs_to(self, rows: Sequence[Row]) -> bool:
        """Whether its row was written: its maker may have died, and another row be in its place."""
        if self.place >= len(rows) or self.is_end:
            return self.place < len(rows)
        row, info = rows[self.place], read_info(str(self.info))
        return (self.jobndx, self.state, info) == (row.jobndx, row.state.value, row.info)

    def post(self, spec: JobSpec, settings: CallbackSettings, deadline: float) -> Tuple[int, str]:
        """Try once to deliver it: (HTTP status, the answer), or (0, the error)."""
        headers = dict(spec.cb_headers)
        headers.update({"Content-Type": "application/json", "Accept": "application/json",
                        "User-Agent": "psik/" + __version__, "X-Psik-Delivery": self.delivery})
        if spec.cb_secret:
            headers["X-Hub-Signature-256"] = sign_message(self.body, spec.cb_secret)
        try:
            return Post(spec.callback or "", settings, deadline).send(self.body, headers)
        except (OSError, ValueError) as err:  # the errors of ssl, and time-outs, are OSErrors
            return 0, str(err) or type(err).__name__

    def describe(self, outcome: str) -> Dict[str, Json]:
        """What `status` shows of an event that is not delivered."""
        return dict(jobndx=self.jobndx, state=self.state, delivery=self.delivery, place=self.place,
                    attempts=self.attempts, said=self.said, delivered=None, outcome=outcome)


def backoff_s(attempts: int) -> float:
    """Seconds until the next try: they double from one second up to an hour.

    Up to a third more or less, so that jobs whose receiver was down do not retry all at once.
    """
    return float(min(3600, 2 ** min(attempts, 12))) * (0.67 + 0.66 * os.urandom(1)[0] / 255)


class Outbox:
    """The events of one job, in the folder .outbox/ that the jobs of its backend share.

    Its dead/ holds those that were given up.
    """

    def __init__(self, job: JobDir) -> None:
        self.job = job
        self.folder = os.path.join(os.path.dirname(job.path), ".outbox")

    @staticmethod
    def files(folder: str, dead: bool = False) -> List[str]:
        """The event files of a folder of jobs, waiting or given up; [] if they are out of reach."""
        with suppress(OSError):
            paths = paths_in(os.path.join(folder, ".outbox", "dead" * dead))
            return sorted(path for path in paths if path.endswith(".json"))
        return []

    @classmethod
    def jobs_in(cls, folder: str, dead: bool = False) -> List[str]:
        """The ids of the jobs to which the events of files() belong."""
        names = (os.path.basename(path)[:-len(".json")] for path in cls.files(folder, dead))
        jobids = {name.rpartition(".")[0] for name in names}
        with suppress(OSError):
            jobids.update(os.path.basename(path)[:-len(".end")] for path in
                          paths_in(os.path.join(folder, ".outbox")) if path.endswith(".end"))
        return sorted(jobid for jobid in jobids if JOBID.fullmatch(jobid))

    def path(self, place: int, dead: bool = False) -> str:
        """The file of the event for the row at this place of the history."""
        name = "%s.%06d.json" % (self.job.jobid, place)
        return os.path.join(self.folder, "dead" * dead, name)

    def events(self, rows: Optional[int] = None, dead: bool = False) -> List[Event]:
        """The events that wait, or those given up, in the order of delivery.

        rows: the length of the history, if known; then the events of other jobs are not listed,
        however many there are.
        """
        if rows is None:
            beginning = self.job.jobid + "."
            paths = [path for path in self.files(os.path.dirname(self.folder), dead)
                     if os.path.basename(path).startswith(beginning)]
        else:  # one more than there are rows, because an event is written before its row
            paths = [self.path(place, dead) for place in range(rows + 1)]
        return [event for event in map(Event.read, paths) if event]

    def keep(self, event: Event, dead: bool = False) -> None:
        """Write an event's file, durably; if it is given up, in place of the one that waits."""
        path = self.path(event.place, dead)
        make_folder(os.path.dirname(path))
        replace_file(path, json.dumps(event._asdict()) + "\n", durable=True)
        if dead:
            self.drop(event)

    def drop(self, event: Event, dead: bool = False) -> None:
        """Remove an event's file."""
        os.unlink(self.path(event.place, dead))

    def add(self, place: int, jobndx: int, state: JobState, info: Info) -> Event:
        """Make and keep the event for the row that is, or will be, at this place of the history."""
        event = Event(os.urandom(16).hex(), self.job.jobid, place, jobndx, state.value, info,
                      round(time.time(), 3))
        self.keep(event)
        return event

    @property
    def end_path(self) -> str:
        """The file that stands for the event of the job's end, as long as that is to come."""
        return os.path.join(self.folder, self.job.jobid + ".end")

    def expect_end(self, rows: int) -> None:
        """Let the job's end be told, if nothing else is, once it has more rows than so many."""
        if self.tells_end_only:
            make_folder(self.folder)
            write_file(self.end_path, "%d\n" % rows)

    def is_end_due(self, rows: Sequence[Row]) -> bool:
        """Whether the job has ended, and that is to be told."""
        before = read_or_empty(self.end_path).strip()
        return before.isdigit() and len(rows) > int(before) and is_over(self.job, rows)

    def add_end(self, rows: Sequence[Row]) -> List[Event]:
        """Make and keep the event of the job's end, if it is due; [] or that one."""
        steps = Steps(rows)
        row, place = steps.latest, len(rows) - 1
        if row is None or not self.is_end_due(rows):
            return []
        if place not in self.missed(rows, self.events(len(rows))):  # it was made, by one who died
            os.unlink(self.end_path)
            return []
        event = Event(os.urandom(16).hex(), self.job.jobid, place,
                      row.jobndx if steps.tasks == 1 else 0, row.state.value, row.info,
                      round(time.time(), 3), is_end=True)
        self.keep(event)
        os.unlink(self.end_path)
        return [event]

    def delivered(self) -> List[Dict[str, Json]]:
        """The events that were delivered, from log/callbacks."""
        lines = read_or_empty(self.job.at("log", "callbacks")).split("\n")
        rows = [match.groups() for match in map(DELIVERED.search, lines) if match]
        return [dict(jobndx=int(jobndx), state=state, delivery=delivery, place=int(place),
                     attempts=int(attempts), said=answer, delivered=float(stamp),
                     outcome="delivered")
                for stamp, jobndx, state, delivery, place, attempts, answer in rows]

    def missed(self, rows: Sequence[Row], waiting: Sequence[Event]) -> List[int]:
        """The places of the rows without an event: the job wrote them on a node without Python."""
        places = {event.place for event in list(waiting) + self.events(len(rows), dead=True)}
        places.update(each["place"] for each in self.delivered())
        return [place for place, row in enumerate(rows)
                if row.state is not JobState.new and place not in places]

    def settle(self, rows: Sequence[Row], thorough: bool) -> List[Event]:
        """The events to deliver, in order; the history must be locked.

        An event without a row is dropped, a row without an event gets one.  thorough: look for
        events behind the end of the history too.
        """
        waiting = []
        for event in self.events(None if thorough else len(rows)):
            if event.belongs_to(rows):
                waiting.append(event)
            else:
                self.drop(event)
        if self.tells_end_only:
            return waiting + self.add_end(rows)
        for place in self.missed(rows, waiting):
            row = rows[place]
            waiting.append(self.add(place, row.jobndx, row.state, row.info))
        return sorted(waiting, key=lambda event: event.place)

    @property
    def tells_end_only(self) -> bool:
        """Whether only the job's end is told."""
        settings = CallbackSettings.of(self.job)
        return settings is not None and settings.final_only

    def send(self, event: Event, spec: JobSpec, settings: CallbackSettings, log_fd: int,
             deadline: float) -> bool:
        """Try to deliver an event, and keep the outcome; whether the event no longer waits."""
        status, answer = event.post(spec, settings, deadline)
        due = time.time() + backoff_s(event.attempts)
        event = event._replace(attempts=event.attempts + 1, said=answer, due=due)
        taken, late = 200 <= status < 300, time.time() - event.made > settings.give_up_s
        if taken:
            line = "%.3f,%d,%s,%s,%d,%d,%s\n" % (
                time.time(), event.jobndx, event.state, event.delivery, event.place,
                event.attempts, CONTROL.sub(" ", answer))
            write_whole(log_fd, line.encode())
            self.drop(event)
        else:
            self.keep(event, dead=late)
        return taken or late

    def send_all(self, settings: CallbackSettings, log_fd: int, deadline: float, now: bool,
                 thorough: bool) -> bool:
        """Send the events in order until one fails; whether none is left.

        This process must hold the lock of log_fd.
        """
        # Whoever makes an event holds the history's lock until its row is written, so an event that
        # has no row now will never have one.
        with self.job.history() as history:
            events = self.settle(history.rows, thorough)
        spec = self.job.spec()
        for event in events:
            if (event.due > time.time() and not now) or time.monotonic() >= deadline:
                return False
            if not self.send(event, spec, settings, log_fd, deadline):
                return False
        return True

    def describe(self) -> List[Dict[str, Json]]:
        """Every event: its transition, whether and when it was delivered, the receiver's answer."""
        return (self.delivered() + [event.describe("dead") for event in self.events(dead=True)]
                + [event.describe("pending") for event in self.events()])

    def is_owed(self, waits: bool) -> bool:
        """Whether there is something to deliver: an event that waits, or a row without an event."""
        if self.tells_end_only:
            rows = self.job.rows()
            return bool(rows and self.is_end_due(rows) or self.events())
        has_callback = CallbackSettings.of(self.job) is not None
        return has_callback and (waits or bool(self.missed(self.job.rows(), [])))

    def clear(self) -> None:
        """Remove every event."""
        for dead in (False, True):
            for event in self.events(dead=dead):
                self.drop(event, dead)
        with suppress(FileNotFoundError):
            os.unlink(self.end_path)

    def revive(self) -> None:
        """Let the events that were given up wait again, for as long as new ones."""
        for event in self.events(dead=True):
            self.keep(event._replace(made=time.time()))
            self.drop(event, dead=True)


def deliver(job: JobDir, now: bool = True, thorough: bool = False) -> bool:
    """Send a job's events in order until one fails; whether none is left.

    now: also those whose next try is not due yet.  thorough: look at the whole outbox.  This takes
    at most the time that the config allows for one transition, in which it also waits for another
    process that sends for the job: only one does so at a time.
    """
    settings = CallbackSettings.of(job)
    if settings is None:
        return True
    deadline = time.monotonic() + settings.timeout_s
    # A FIFO in its place would hold us up, if it were not opened to read too, without waiting.
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(job.at("log", "callbacks"), flags, 0o600)
    with closing_fd(fd):
        while time.monotonic() < deadline:
            try:
                with locked(fd, patient=False):
                    return Outbox(job).send_all(settings, fd, deadline, now, thorough)
            except BlockingIOError:  # flock(2) has no time-out
                time.sleep(0.05)
        return False


def deliver_all(config: Config, now: bool = False, dead: bool = False) -> Dict[str, bool]:
    """Send the events of every job that has some: {jobid: whether none is left}.

    now: also those whose next try is not due yet, and those of rows for which no event was made;
    this looks at every job.  dead: also those that were given up.
    """
    outcomes = {}
    for root in JobTree(config).roots:
        for jobid in Outbox.jobs_in(root.folder, dead=True) if dead else ():
            Outbox(JobDir(os.path.join(root.folder, jobid))).revive()
        waiting = Outbox.jobs_in(root.folder)
        for jobid in root.ids() if now else waiting:
            job = root.job(jobid)
            try:
                if job and Outbox(job).is_owed(jobid in waiting):
                    outcomes[jobid] = deliver(job, now or dead, thorough=True)
            except (PsikError, OSError) as err:  # a broken job must not hold up the others' events
                complain(str(err))
                outcomes[jobid] = False
    return outcomes


# ------------------------------------------------------------------------------- 11. Reconciliation

# A history grows by what psik.py and the job's supervisor record.  A supervisor that was killed, or
# lost with its node, can record nothing: then the scheduler status of the step counts.  One call
# asks for all steps of a backend, and processes share its answer.

def record_all(job: JobDir, history: History, rows: Sequence[Transition]) -> List[Row]:
    """Add transitions to a locked history, after their events; all but a job's first come so."""
    settings = CallbackSettings.of(job)
    wanted = settings is not None and not settings.final_only
    if wanted:
        for place, (jobndx, state, info) in enumerate(rows, len(history.rows)):
            Outbox(job).add(place, jobndx, state, info)
    return history.append(rows, durable=wanted)


def record(job: JobDir, history: History, jobndx: int, state: JobState, info: Info) -> Row:
    """Add one transition as record_all() does."""
    return record_all(job, history, [(jobndx, state, info)])[0]


def deliver_if_possible(job: JobDir) -> None:
    """Deliver a job's events; a failure is printed: what was recorded stands, and they wait."""
    try:
        deliver(job)
    except (PsikError, OSError) as err:
        complain("job %s: its events cannot be delivered now: %s" % (job.jobid, err))


@contextmanager
def transitions(job: JobDir, patient: bool = True) -> Iterator[History]:
    """A job's history, locked, to be read and added to; afterwards new events are delivered."""
    with job.history(patient) as history:
        before = len(history.rows)
        yield history
    if len(history.rows) > before:  # without the lock, which a slow receiver must not hold up
        deliver_if_possible(job)


def reached(job: JobDir, jobndx: int, state: JobState, info: Info = 0) -> Row:
    """Record that a step has come to a state, as `$psik reached` does in a job."""
    with transitions(job) as history:
        return record(job, history, jobndx, state, info)


class PollLine(NamedTuple):
    """A poll line: one line that a poll script prints about one of its scheduler's jobs."""
    native: str
    state: str
    exit_status: str    # '-' if the scheduler gives none
    tag: str            # or ANY_TAG, NO_TAG
    reason: str

    @staticmethod
    def by_name(lines: Sequence["PollLine"], asked: Iterable[Tuple[str, str]]
                ) -> Dict[Tuple[str, str], "PollLine"]:
        """{(native id, tag): line} of those asked for, and of others of psik.py's jobs.

        Nobody need ask for the others then.  What was asked for and has no line is in no state, ''.
        """
        silence = PollLine("", "", "-", ANY_TAG, "the scheduler no longer knows it")
        by_native = {line.native: line for line in lines}
        found = {(line.native, line.tag): line for line in lines if line.tag.startswith("psik-")}
        for native, tag in asked:
            line = by_native.get(native, silence)
            found.setdefault((native, tag), line if line.tag == ANY_TAG else silence)
            if line.tag == NO_TAG:
                found[native, NO_TAG] = line
        return found

    @staticmethod
    def parse(text: str) -> List["PollLine"]:
        """The poll lines `nativeid state [exitstatus [tag [reason...]]]` among these lines."""
        lines = (line.split(None, 4) for line in text.split("\n"))
        found = [PollLine(*(words + ["-", "-", ""][len(words) - 2:])) for words in lines
                 if len(words) > 1 and words[1] in STATES]
        return [each for line in found for each in line.of_tasks()]

    def of_tasks(self) -> List["PollLine"]:
        """This line, with the tag of a step for each task that its tag names: `psik-ID.20+1-3`."""
        base, plus, indices = self.tag.partition("+")
        owner, _, offset = base.rpartition(".")
        if not plus or not offset.isdigit():
            return [self]
        try:
            numbers = Tasks.of_text(indices).numbers
        except ValueError:
            return [self]
        return [self._replace(tag="%s.%d" % (owner, int(offset) + number)) for number in numbers]


# What schedulers are asked.

def steps_text(steps: Iterable[Tuple[str, str]]) -> str:
    """The stdin of poll and cancel scripts: a line `NATIVEID TAG` for each of these pairs."""
    return "".join("%s %s\n" % pair for pair in steps)


def ask_scheduler(job: JobDir, steps: Sequence[Tuple[str, str]], timeout_s: float
                  ) -> List[PollLine]:
    """The poll lines that a job's poll script prints about these (native id or `-`, tag).

    BackendError if it fails.
    """
    words = sorted(tag if native == "-" else native for native, tag in steps)
    done = JobScripts(job).run("poll", words, timeout_s, steps_text(steps))
    if done.status:
        raise BackendError("%s could not ask the scheduler: %s" % (job.script("poll"), done.fault))
    return PollLine.parse(done.out)


def submissions(steps: Sequence[Step], lines: Sequence[PollLine],
                states: Sequence[str] = LIVE) -> List[Step]:
    """What a scheduler has of these steps in these states, by its poll lines.

    A step of which it has two submissions comes twice, with a native id each.
    """
    by_name: Dict[Tuple[str, str], PollLine] = {}
    by_tag: Dict[str, List[PollLine]] = {}
    for line in lines:
        if line.state in states:
            by_name[line.native, line.tag] = line
            by_tag.setdefault(line.tag, []).append(line)
    found = []
    for step in steps:
        others = [by_name[name] for name in step.names() if name in by_name]
        found += [step._replace(native=line.native) for line in by_tag.get(step.tag, []) + [
            line for line in others if step.is_meant_by(line.native, line.tag)]]
    return list(dict.fromkeys(found))


def living(job: JobDir, steps: Sequence[Step]) -> List[Step]:
    """Those of a job's steps that its poll script reports as queued or active, as submissions().

    [] if its backend has no poll script, for then nobody can tell; BackendError if the scheduler
    cannot be asked.
    """
    if not steps or not JobScripts(job).has("poll"):
        return []
    pairs = [(step.native, step.tag) for step in steps]
    return submissions(steps, ask_scheduler(job, pairs, CANCEL_TIMEOUT_S))


# Submissions whose answer never came.

def find_tagged(job: JobDir, jobndx: int) -> Optional[PollLine]:
    """The poll line of a step whose native id nobody knows, found by its tag.

    None if its scheduler does not have it; BackendError if that cannot be asked here and now.
    """
    if job.is_elsewhere(jobndx):
        raise BackendError("job %s: an earlier submission was cut short on %s; try again there"
                           % (job.jobid, job.host(jobndx)))
    tag = "%s.%d" % (job.tag, jobndx)
    lines = [line for line in ask_scheduler(job, [("-", tag)], POLL_TIMEOUT_S) if line.tag == tag]
    alive = [line for line in lines if line.state in LIVE]
    return next(iter(alive + lines), None)


def submitted_at(job: JobDir, jobndx: int) -> float:
    """When a step was submitted, whether or not that was answered; 0 if it never was."""
    try:
        return os.stat(job.log("submit", jobndx)).st_mtime
    except OSError:
        return 0.0


def is_being_changed(job: JobDir) -> bool:
    """Whether a process holds the lock of the job's history, as one does that submits it."""
    try:
        with closing_fd(os.open(job.status_path, os.O_RDONLY | os.O_NONBLOCK)) as fd:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who look do not meet
    except BlockingIOError:
        return True
    except OSError:  # it is gone, or the file system has no locks
        pass
    return False


def may_be_lost(job: JobDir, steps: Steps) -> bool:
    """Whether the job's next step was submitted, and the history has no answer.

    A day after its job was canceled a submission is given up.
    """
    submitted = submitted_at(job, steps.next_jobndx(job)) if steps.rows else 0.0
    if not submitted:
        return False
    latest = steps.latest
    is_canceled = latest is not None and latest.state is JobState.canceled
    return not is_canceled or age_s(submitted) < REMOVE_UNASKED_S


def lost_step(job: JobDir, steps: Steps) -> Optional[Step]:
    """The job's next step, if it was submitted and no answer came; only its tag is known.

    None while another process submits it, or if nothing can be recorded of it.
    """
    is_lost = (may_be_lost(job, steps) and not is_being_changed(job)
               and os.access(job.status_path, os.W_OK))
    return Step(job, steps.next_jobndx(job), UNKNOWN_ID) if is_lost else None


def record_adoption(job: JobDir, history: History, jobndx: int, native: Info) -> Row:
    """Record that a scheduler has taken a submission after all; the `queued` row."""
    piece = Piece.of_step(job, jobndx, job.tasks)
    rows = record_all(job, history, [(step, JobState.queued, native) for step in piece.steps])
    if os.path.exists(job.log("cancel", jobndx)):  # canceled before anybody knew its native id
        record(job, history, 0, JobState.canceled, 0)
    return rows[0]


def adopt(job: JobDir, history: History) -> Optional[Row]:
    """Record a submission whose answer never came, if its step has begun or its scheduler has it.

    A submission that was cut short leaves log/submit.N without a row of step N, or a step that has
    begun and was never queued.  None if there is nothing to adopt; BackendError if the scheduler
    cannot be asked.
    """
    steps = Steps(history.rows)
    begun = steps.unqueued()
    if begun:
        begun = Piece.of_step(job, begun, steps.tasks).first
        # Else it was recorded by POST /v1/jobs/callback, say.
        is_ours = begun in steps.active and submitted_at(job, begun)
        begun = begun if is_ours else None
    jobndx = begun or steps.next_jobndx(job)
    native = steps.active[begun] if begun else ""
    if not native:
        if not submitted_at(job, jobndx) or not JobScripts(job).has("poll"):
            return None
        line = find_tagged(job, jobndx)
        if line is None:
            return None
        native = read_info(line.native)
    return record_adoption(job, history, jobndx, native)


# How steps end.

def describe_exit(info: Info) -> str:
    """What an exit status means by itself: a signal's name, say; '' if nothing."""
    import signal
    if info == 127:
        return "a command or the script's interpreter was not found"
    if isinstance(info, int) and 128 < info < 128 + signal.NSIG:
        names = {int(number): number.name for number in signal.Signals}
        return "killed by %s" % names.get(info - 128, "signal %d" % (info - 128))
    return ""


def write_reason(step: Step, reason: str) -> None:
    """Write why a step ended to log/reason.N."""
    path = step.job.log("reason", step.jobndx)
    if read_or_empty(path) != reason + "\n":
        replace_file(path, reason + "\n")


def record_requeue(step: Step) -> List[Row]:
    """Record that a scheduler queues a step again, as the next; the history as it is then."""
    with transitions(step.job) as history:
        steps = Steps(history.rows)
        row = steps.states.get(step.jobndx)
        goes_on = row and row.state in (JobState.active, JobState.failed)
        if not goes_on or steps.is_requeued(step):  # somebody else was first, or it is canceled
            return history.rows
        known = step.job.claimed() + [row.jobndx for row in history.rows]
        jobndx = step.tasks + max(each for each in known
                                  if (each - step.jobndx) % step.tasks == 0)
        if step.jobndx not in steps.ended:  # its node was lost
            record(step.job, history, step.jobndx, JobState.failed, 1)
        write_reason(step, "its scheduler runs it again, as step %d" % jobndx)
        record(step.job, history, jobndx, JobState.queued, read_info(step.native))
        return history.rows


def record_requeues(steps: Sequence[Step]) -> List[Row]:
    """Record those of a job's steps that its scheduler queues again, each as the next step.

    The history as it is then, [] if there are none.  BackendError if it cannot be asked.
    """
    # Asked now, because an answer that is kept may be older than the step's last row.
    pairs = [(step.native, step.tag) for step in steps]
    lines = ask_scheduler(steps[0].job, pairs, POLL_TIMEOUT_S) if steps else []
    rows: List[Row] = []
    for step in submissions(steps, lines, ["queued"]):
        if step in steps:   # under the same native id
            rows = record_requeue(step)
    return rows


# What schedulers are told.

class Ending:
    """Has steps ended, by the scripts of a job of their backend; stdin names the steps to these.

    The methods raise BackendError if a program fails, or the scheduler cannot be asked.
    """

    def __init__(self, job: JobDir) -> None:
        self.job, self.scripts = job, JobScripts(job)

    @staticmethod
    def run(argv: Sequence[str], steps: Sequence[Step], timeout_s: Optional[float],
            env: Optional[Dict[str, str]] = None) -> None:
        """Run a program that ends these steps."""
        text = steps_text((step.native, step.tag_in_round) for step in steps)
        done = try_program(argv, timeout_s, text, env)
        if done.status:
            raise BackendError(done.fault)

    def cancel(self, steps: Sequence[Step], timeout_s: Optional[float]) -> None:
        """Run scripts/cancel for these steps, if there are any."""
        if steps:
            natives = dict.fromkeys(step.native for step in steps)
            self.run([self.scripts.path("cancel"), *natives], steps, timeout_s,
                     self.scripts.environment())

    @staticmethod
    def young(steps: Sequence[Step]) -> List[Step]:
        """Those of these steps that were taken just now: a scheduler may not list them yet."""
        jobs = {step.job.path: step.job for step in steps}.values()
        young = {(job.path, row.jobndx) for job in jobs for row in job.rows()
                 if row.state is JobState.queued and age_s(row.time) < LISTED_S}
        return [step for step in steps if (step.job.path, step.jobndx) in young]

    def find(self, steps: Sequence[Step]) -> List[Step]:
        """What the scheduler has of these steps, by scripts/poll; as submissions().

        All of them if there is no such script.
        """
        if not self.scripts.has("poll") or not steps:
            return list(steps)
        pairs = [(step.native, step.tag) for step in steps]
        lines = ask_scheduler(self.job, pairs, CANCEL_TIMEOUT_S)
        listed = {line.native for line in lines}
        return submissions(steps, lines) + [
            step for step in self.young(steps) if step.native not in listed]

    @staticmethod
    def requests(steps: Sequence[Step]) -> List[str]:
        """The paths of log/cancel.N of those steps that a scheduler must be told to end."""
        return [step.job.log("cancel", step.jobndx) for step in steps
                if not step.job.host(step.jobndx)]

    def tell(self, steps: Sequence[Step]) -> None:
        """Have the scheduler end these steps, by their tags.

        If that fails, reconcile() tries again as long as a step's log/cancel.N exists.
        """
        self.cancel(self.find(steps), CANCEL_TIMEOUT_S)
        for path in self.requests(steps):
            with suppress(FileNotFoundError):
                os.unlink(path)


class Cancellation:
    """The cancellation of every step of a job that has not ended."""

    def __init__(self, job: JobDir) -> None:
        self.job = job
        self.steps = self.live(Steps(job.rows()))
        self.elsewhere = [step for step in self.steps if job.is_elsewhere(step.jobndx)]
        self.is_lost = False    # whether the answer to a submission never came
        self.fault = ""         # why that submission could not be looked for

    def live(self, steps: Steps) -> List[Step]:
        """The steps to end."""
        return steps.live(self.job, canceled_too=True)

    def not_ended(self, err: BackendError) -> BackendError:
        """The error that a step lives on."""
        return BackendError("job %s could not be ended: %s; cancel it again"
                            % (self.job.jobid, err))

    def stop_elsewhere(self) -> None:
        """Have the supervisors on other hosts end their steps; BackendError if they do not."""
        if self.elsewhere:
            supervise = JobScripts(self.job).path("supervise")
            argv = [sys.executable, "-I", "-S", "-X", "utf8", supervise, "cancel"]
            try:
                Ending.run(argv, self.elsewhere, None)
            except BackendError as err:
                raise self.not_ended(err) from None

    def by_place(self) -> Tuple[List[Step], List[Step]]:
        """(the steps that only one host knows, those that a scheduler has)."""
        places = [(step, bool(self.job.host(step.jobndx))) for step in self.steps]
        return ([step for step, is_here in places if is_here],
                [step for step, is_here in places if not is_here])

    def stop(self) -> None:
        """End the steps; BackendError if that fails."""
        # A step that only this host knows may take as long as its supervisor needs to end it.
        here, others = self.by_place()
        try:
            Ending(self.job).cancel(here, None)
        except BackendError as err:
            raise self.not_ended(err) from None
        try:
            if others:
                Ending(self.job).tell(others)
        except BackendError as err:
            raise BackendError("job %s is canceled, and its scheduler could not be told: %s; "
                               "`%s poll` tells it again" % (self.job.jobid, err, called())
                               ) from None

    def await_end(self) -> None:
        """Wait until the scheduler has ended the steps; BackendError if not within END_WAIT_S."""
        deadline = time.monotonic() + END_WAIT_S
        for pause_s in pauses():
            alive = living(self.job, self.steps)
            if not alive:
                return
            if time.monotonic() > deadline:
                names = ", ".join("step %d is %s" % (step.jobndx, step.native) for step in alive)
                raise BackendError("job %s was asked to end, and has not ended yet: %s"
                                   % (self.job.jobid, names))
            time.sleep(pause_s)

    def adopt(self, history: History) -> None:
        """Adopt a submission that was cut short; one that cannot be found must not run later."""
        jobndx = Steps(history.rows).next_jobndx(self.job)
        if submitted_at(self.job, jobndx):
            self.is_lost = True
            write_file(self.job.log("cancel", jobndx), "")
        try:
            adopt(self.job, history)
        except BackendError as err:
            self.fault = str(err)

    def record(self) -> bool:
        """Record that the job is canceled, and find the steps to end; whether one had not ended."""
        job = self.job
        with job.history() as history:
            if history.rows:
                self.adopt(history)
            steps = Steps(history.rows)
            self.steps = self.live(steps)
            for path in Ending.requests(self.steps):  # first, so that a server that sees the row
                write_file(path, "")                # sees what is owed
            over = all(row.state.is_final() for row in steps.states.values()) and (
                steps.latest is None or steps.latest.state.is_final())
            if not over:
                record(job, history, 0, JobState.canceled, 0)
            Piece.forget(job, steps)
            return not over

    def cancel(self) -> bool:
        """Record it, and end the steps; whether there was anything to end."""
        steps = Steps(self.job.rows())
        unsettled = steps.unsettled(self.job)
        try:
            record_requeues(steps.revivable(self.job))  # a job that waits again has not ended
        except BackendError as err:
            self.fault = str(err) if unsettled else ""
        self.stop_elsewhere()
        try:
            was_live = self.record()
        except OSError as err:  # the history cannot be written
            self.stop()
            raise PsikError("job %s was asked to end, and %s cannot be written: %s" % (
                self.job.jobid, self.job.status_path, (err.strerror or str(err)).lower())) from None
        self.stop()
        if self.fault:
            raise BackendError("job %s: it is not known whether its scheduler still has it: %s; "
                               "cancel it again" % (self.job.jobid, self.fault))
        return was_live or self.is_lost or bool(self.steps or self.elsewhere)


class TaskCancellation(Cancellation):
    """The cancellation of some tasks of an array; the others go on."""

    def __init__(self, job: JobDir, tasks: Sequence[int]) -> None:
        """tasks: their places in the array, from 1."""
        self.tasks = frozenset(tasks)
        self.others: Set[str] = set()   # the native ids of the steps that go on
        super().__init__(job)

    def live(self, steps: Steps) -> List[Step]:
        """The steps of the tasks that have not ended."""
        return [step for step in super().live(steps) if step.task in self.tasks]

    def record(self) -> bool:
        """Request the end of the steps; that of those which have not begun is recorded.

        A supervisor that is told to stop finds the request, and records that its step is canceled.
        """
        job = self.job
        with job.history() as history:
            steps = Steps(history.rows)
            self.steps = self.live(steps)
            for step in self.steps:
                write_file(job.log("cancel", step.jobndx), "")
            record_all(job, history, [(step.jobndx, JobState.canceled, 0) for step in self.steps
                                      if steps.states[step.jobndx].state is JobState.queued])
            self.others = {step.native for step in super().live(steps)
                           if step.task not in self.tasks}
        return bool(self.steps)

    def named(self, step: Step) -> Step:
        """The step as scripts/cancel wants it: NATIVEID+INDEX if others have its native id too."""
        return step.as_task() if step.native in self.others else step

    def stop(self) -> None:
        """End the steps; BackendError if that fails."""
        ending, (here, others) = Ending(self.job), self.by_place()
        try:
            found = [self.named(step) for step in here + ending.find(others)]
            ending.cancel(found, None if here else CANCEL_TIMEOUT_S)
        except BackendError as err:
            raise self.not_ended(err) from None


# What schedulers answer, and what becomes of it.

class Status(NamedTuple):
    """What a scheduler says of a job of its own; times are seconds since the epoch."""
    native: str
    tag: str
    state: str          # '' if it no longer knows the job
    exit_status: str    # '-' if it gave none
    reason: str
    since: float        # when an answer first had this state
    wanted: float       # when somebody last asked for it

    def relevance(self) -> int:
        """Its rank among several statuses of one step."""
        return 2 + LIVE.index(STATES[self.state]) if self.state in LIVE else int(bool(self.state))

    def after(self, old: "Status") -> "Status":
        """This status with the times of the one before it."""
        # A time that was written before a clock was set back may lie in the future.
        since = min(old.since, self.since) if old.state == self.state else self.since
        return self._replace(since=since, wanted=max(old.wanted, self.wanted))

    def settle(self, step: Step, info: Info) -> None:
        """Write why a step ended that has ended with this info; that settles it."""
        # The scheduler may know better than the supervisor why it was stopped.
        reason = self.reason if self.state else ""
        if reason or not os.path.exists(step.job.log("reason", step.jobndx)):
            write_reason(step, reason or describe_exit(info))

    def record_end(self, step: Step, history: History, latest: Optional[Row]) -> None:
        """Record the end of a step, unless the history has it, and why it ended.

        latest: the row that decides the step's state so far.  A step that the scheduler calls
        canceled is failed here: if psik had been asked to cancel it, the history would have that
        already.
        """
        if latest is None:
            return
        if not latest.state.is_final():
            code = read_info(self.exit_status)
            state = JobState.failed
            if self.state == JobState.completed:
                state = JobState.completed
            else:
                write_reason(step, self.reason or "its scheduler reports that it failed")
            info = code if isinstance(code, int) else int(state is JobState.failed)
            record(step.job, history, step.jobndx, state, info)
        elif latest.state is JobState.failed and not step.job.host(step.jobndx):
            self.settle(step, latest.info)

    def is_end(self, grace_s: float) -> bool:
        """Whether this is final, or the step has been unknown for grace_s."""
        is_unsure = not self.state and time.time() - self.since < grace_s
        return not (self.state == JobState.new or self.state in LIVE or is_unsure)

    @staticmethod
    def record_ends(ended: Sequence[Tuple[Step, "Status"]]) -> List[Row]:
        """Record the ends of some steps of a job; the history as it is then, [] if it is gone."""
        job = ended[0][0].job
        try:
            with transitions(job) as history:
                states = Steps(history.rows).states
                for step, status in ended:
                    status.record_end(step, history, states.get(step.jobndx))
                return history.rows
        except NotFoundError:  # removed meanwhile
            return []

    def record_adoption(self, step: Step) -> List[Row]:
        """Record that a scheduler has taken a submission whose answer never came.

        The history as it is then.
        """
        with transitions(step.job) as history:
            if Steps(history.rows).next_jobndx(step.job) == step.jobndx:  # else another was first
                record_adoption(step.job, history, step.jobndx, read_info(self.native))
            return history.rows


class Answer:
    """A scheduler's last answer: its time, what it says, and why there was none, or ''."""

    def __init__(self, stamp: float = 0.0, statuses: Iterable[Status] = (),
                 fault: str = "") -> None:
        self.time, self.statuses, self.fault = stamp, list(statuses), fault
        self.by_name = {(status.native, status.tag): status for status in self.statuses}
        self.by_tag: Dict[str, List[Status]] = {}
        for status in self.statuses:
            self.by_tag.setdefault(status.tag, []).append(status)

    @classmethod
    def read(cls, path: str) -> "Answer":
        """The answer in a file; an empty one if there is none, or of another version."""
        with suppress(ValueError, TypeError, KeyError):
            data = json.loads(read_or_empty(path))
            steps = [Status(*values) for values in data["steps"].values()]
            return cls(float(data["time"]), steps, str(data["fault"]))
        return cls()

    def text(self) -> str:
        """Its text in a file."""
        # In a form that other versions can tell from their own: they take it for an empty answer.
        steps = {"%s %s" % (status.native, status.tag): status for status in self.statuses}
        return json.dumps({"time": self.time, "steps": steps, "fault": self.fault}) + "\n"

    def next(self, lines: Sequence[PollLine], asked: Iterable[Tuple[str, str]],
             ours: Iterable[Tuple[str, str]]) -> "Answer":
        """The answer that follows this one, from the poll lines.

        asked: the (native id, tag) that the scheduler was asked for; ours: those of this process,
        the others being asked for on behalf of other processes.
        """
        now, wanted = time.time(), set(ours)
        new = {name: status for name, status in self.by_name.items()
               if age_s(status.wanted) < (UNKNOWN_LIFE_S if status.native == UNKNOWN_ID
                                          else WANTED_S)}
        for (native, tag), line in PollLine.by_name(lines, asked).items():
            status = Status(native, tag, line.state, line.exit_status, line.reason, now,
                            now if (native, tag) in wanted else 0.0)
            new[native, tag] = status.after(new.get((native, tag), status))
        return Answer(now, new.values())

    def of(self, step: Step) -> Optional[Status]:
        """The status of a step, None if the answer is not about it."""
        known = self.by_tag.get(step.tag, []) + [
            self.by_name[name] for name in step.names() if name in self.by_name]
        meant = [status for status in known if step.is_meant_by(status.native, status.tag)]
        found = max(meant, key=Status.relevance, default=None)
        return found and found._replace(since=self.unknown_since(found))

    def unknown_since(self, status: Status) -> float:
        """status.since, or now if its scheduler has a job of the same native id without a tag.

        That may be the very job, whose comment was changed.
        """
        nameless = self.by_name.get((status.native, NO_TAG))
        is_there = nameless is not None and nameless.state in LIVE
        return time.time() if is_there and not status.state else status.since

    @classmethod
    def latest(cls, root: str) -> "Answer":
        """The last answer that the scheduler of the backend with this folder gave here.

        An empty one if nobody has asked it of late.
        """
        names = (".poll.json", ".poll-%s.json" % os.uname().nodename)
        answers = [cls.read(os.path.join(root, name)) for name in names]
        last = max(answers, key=lambda answer: answer.time)
        return last if age_s(last.time) < WANTED_S else cls()


class Poll:
    """One question to a scheduler, asked by one call: the steps, each with its job's history.

    host is the only one that knows their native ids, '' if any does.  The processes that ask share
    answer_path, the file of the last answer.
    """

    def __init__(self, root: str, host: str, config: Config) -> None:
        self.host, self.config = host, config
        self.members: List[Tuple[Step, List[Row]]] = []
        self.untold: List[Step] = []        # those that the scheduler is to be told to end
        self.max_age_s = config.poll_interval_s     # of an answer that is good enough
        self.may_have_news = False  # True once the last row of a step is not a recent one
        self.answer_path = os.path.join(root, ".poll%s.json" % ("-" + host if host else ""))

    def add(self, step: Step, rows: List[Row], may_go_on: bool = False) -> None:
        """Ask for this step too; may_go_on: a signal has ended it, and may not be the last word."""
        self.members.append((step, rows))
        if may_go_on:
            self.max_age_s = min(self.max_age_s, SETTLE_S)
        is_due = age_s(rows[-1].time) >= self.config.poll_interval_s or step.native == UNKNOWN_ID
        self.may_have_news = self.may_have_news or is_due or may_go_on

    def asker(self) -> Optional[JobDir]:
        """The job whose poll script asks for all: the newest, likely made by the newest psik.py."""
        jobs = sorted({step.job.path: step.job for step, _ in self.members}.values(),
                      key=lambda job: float(job.jobid), reverse=True)
        return next((job for job in jobs
                     if JobScripts(job).has("poll") and not JobScripts(job).are_stale), None)

    def ask(self, job: JobDir, before: Answer) -> Answer:
        """Run this job's poll script, for our steps and for those that others asked for of late.

        If the scheduler does not answer: the answer before, and why.
        """
        ours = [(step.native, step.tag) for step, _ in self.members]
        others = [(status.native, status.tag) for status in before.statuses
                  if age_s(status.wanted) < WANTED_S and status.state in LIVE]
        asked = list(dict.fromkeys(others + ours))
        try:
            return before.next(ask_scheduler(job, asked, POLL_TIMEOUT_S), asked, ours)
        except BackendError as err:
            complain(str(err))
            return Answer(time.time(), before.statuses, str(err))

    def is_fresh(self, answer: Answer) -> bool:
        """Whether an answer is recent, and about all of the steps or that there is none."""
        covers = bool(answer.fault) or all(answer.of(step) for step, _ in self.members)
        return age_s(answer.time) < self.max_age_s and covers

    @staticmethod
    @contextmanager
    def turn(answer_path: str) -> Iterator[None]:
        """Keep other processes from changing the file of the last answer."""
        path = answer_path[:-len("json")] + "lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        with closing_fd(lock), locked(lock):
            yield

    def ask_in_turn(self, job: JobDir, force: bool) -> Answer:
        """Ask, one process at a time, and keep the answer for the others.

        A process that had to wait takes the answer it finds, if that is fresh.  OSError if the
        answer cannot be kept.
        """
        with self.turn(self.answer_path):
            answer = Answer.read(self.answer_path)
            if force or not self.is_fresh(answer):
                answer = self.ask(job, answer)
                replace_file(self.answer_path, answer.text())
            return answer

    def answer(self, force: bool) -> Answer:
        """The scheduler's answer about the steps, and about others.

        The scheduler is asked again if its last answer is not fresh and there may be news of one of
        the steps; with force in any case.
        """
        answer = Answer.read(self.answer_path)
        is_due = force or (self.may_have_news and not self.is_fresh(answer))
        job = self.asker() if is_due else None
        if job is None:
            return answer
        try:
            return self.ask_in_turn(job, force)
        except OSError:  # the disk is full or read-only: each process asks for itself, each time
            return self.ask(job, answer)

    def adopt(self, step: Step, status: Status) -> List[Row]:
        """Record a submission that was found by its tag, and its end if it has ended; as act()."""
        if not status.state:
            return []
        rows = status.record_adoption(step)
        found = step._replace(native=status.native)
        is_end = status.is_end(self.config.poll_grace_s)
        return (Status.record_ends([(found, status)]) if is_end else []) or rows

    def told(self, steps: Sequence[Step], answer: Answer) -> List[Tuple[Step, Status]]:
        """What an answer says of steps, except of those that are still to be ended."""
        untold = set(self.untold)
        return [(step, status) for step, status in zip(steps, map(answer.of, steps))
                if status is not None and step not in untold]

    def act(self, steps: Sequence[Step], rows: Sequence[Row], answer: Answer) -> List[Row]:
        """Do what an answer about steps of a job demands; the history as it is then, or []."""
        now, known = list(rows[:0]), []
        for step, status in self.told(steps, answer):
            if step.native == UNKNOWN_ID:
                now = self.adopt(step, status) or now
            else:
                known.append((step, status))
        now = self.record_requeues(known, rows) or now
        ended = [pair for pair in known if pair[1].is_end(self.config.poll_grace_s)]
        return (Status.record_ends(ended) if ended else []) or now

    def record_requeues(self, told: Sequence[Tuple[Step, Status]], rows: Sequence[Row]
                        ) -> List[Row]:
        """Record which of these steps a scheduler runs again; the history as it is then, or []."""
        again = [step for step, status in told
                 if status.state == "queued" and step.is_claimed and not self.host]
        begun = Steps(rows).begun if again else {}
        # A scheduler may list a job that has begun as waiting, for a while.
        return record_requeues([step for step in again if age_s(begun[step.jobndx]) >= LISTED_S])

    def record(self, answer: Answer) -> None:
        """Record what an answer says of the steps; the rows are brought up to date."""
        jobs: Dict[str, List[Tuple[Step, List[Row]]]] = {}
        for step, rows in self.members:
            jobs.setdefault(step.job.path, []).append((step, rows))
        for members in jobs.values():
            job, rows = members[0][0].job, members[0][1]
            try:
                rows[:] = self.act([step for step, _ in members], rows, answer) or rows
            except (PsikError, OSError) as err:  # one broken job must not hide the others
                complain_once("job %s is not up to date: %s" % (job.jobid, err))
        asker = self.asker() if self.untold and not answer.fault else None
        if asker:
            try:
                Ending(asker).tell(self.untold)
            except PsikError as err:
                complain_once("not all that is canceled has ended: %s" % err)

    @staticmethod
    def all_of(config: Config, jobs: Sequence[Tuple[JobDir, List[Row]]]) -> List["Poll"]:
        """The questions about these jobs' steps, except those that only another host knows.

        A scheduler is asked for the steps that have not ended, for those that a signal has ended,
        for submissions whose answer never came, and for steps that it is still to be told to end.
        """
        configs = {name: config.of_backend(name) for name in {job.backend for job, _ in jobs}}
        polls: Dict[Tuple[str, str], Poll] = {}
        for job, rows in jobs:
            steps = Steps(rows)
            lost = lost_step(job, steps)
            unsettled, untold = set(steps.unsettled(job)), set(steps.untold(job))
            for step in [*steps.live(job), *untold, *unsettled] + ([lost] if lost else []):
                root, host = os.path.dirname(job.path), job.host(step.jobndx)
                if host in ("", os.uname().nodename):
                    poll = polls.setdefault((root, host), Poll(root, host, configs[job.backend]))
                    poll.add(step, rows, may_go_on=step in unsettled)
                    poll.untold += [step] if step in untold else []
        return list(polls.values())


def has_news(job: JobDir, rows: Sequence[Row]) -> bool:
    """Whether a scheduler may have something to say of a job, or is still to be told something."""
    steps = Steps(rows)
    latest = steps.latest
    is_going_on = not is_over(job, rows) and latest is not None and latest.state != JobState.new
    return is_going_on or bool(steps.untold(job)) or may_be_lost(job, steps)


# {(path of the job, jobndx): status}; each lost step has one, None if nothing was said of it.
Statuses = Dict[Tuple[str, int], Optional[Status]]


def reconcile(config: Config, jobs: List[Tuple[JobDir, List[Row]]],
              force: bool = False) -> Statuses:
    """Bring histories up to date with the schedulers, and return the statuses of their steps.

    jobs holds each job with its rows; the rows of those that changed are replaced in place.  A
    scheduler is asked again only if its last answer is older than the config's poll_interval_s or
    lacks a step, or with force; it is not asked while the last row of every step is younger than
    that.
    """
    statuses: Statuses = {}
    for poll in Poll.all_of(config, jobs):
        answer = poll.answer(force)
        for step, _ in poll.members:
            status = answer.of(step)
            if status or step.native == UNKNOWN_ID:
                statuses[step.job.path, step.jobndx] = status
        poll.record(answer)
    return statuses


# Jobs that wait for others.

DEPENDENCY = re.compile(r"(?:(ok|any|notok):)?(.+)")


class Dependency(NamedTuple):
    """A job that another one waits for, and how it has to end: ok, any or notok."""
    how: str
    job: JobDir

    @classmethod
    def parse(cls, config: Config, text: str) -> "Dependency":
        """What a word of that means; InvalidError if there is no such job."""
        match = DEPENDENCY.fullmatch(text)
        if not match:
            raise InvalidError([Fault("after", "%s is not a job's id, nor any: or notok: and "
                                      "one" % shown(text))])
        try:
            return cls(match.group(1) or "ok", find_job(config, match.group(2)))
        except (NotFoundError, InvalidError) as err:
            raise InvalidError([Fault("after", str(err))]) from None

    @classmethod
    def all_of(cls, config: Config, texts: Sequence[str]) -> List["Dependency"]:
        """What the words of a spec's `after` mean."""
        return [cls.parse(config, text) for text in texts]

    def __str__(self) -> str:
        return self.job.jobid if self.how == "ok" else "%s:%s" % (self.how, self.job.jobid)

    def is_met(self) -> Optional[bool]:
        """Whether the job has ended so; None while it may yet, False if it cannot any more."""
        rows = self.job.rows()
        latest = Steps(rows).latest
        if latest is None:  # it was removed
            return self.how == "any"
        if not is_over(self.job, rows):
            return None
        return self.how == "any" or (latest.state is JobState.completed) == (self.how == "ok")


Waits = TypeVar("Waits", bound="Held")


class Held:
    """A job that is submitted once others have ended; it is `new` until then.

    scripts/.environ holds what it waits for, and from its start on the environment to submit it
    with.  Beside each job ID that it waits for, the folder .after/ID names it.
    """

    def __init__(self, job: JobDir) -> None:
        self.job, self.path = job, job.script(".environ")

    def read(self) -> Dict[str, Json]:
        """What scripts/.environ holds; {} if there is none of ours, or it makes no sense."""
        if self.job.check_owner and os.path.lexists(self.path):
            places = (self.job.path, self.job.at("scripts"), self.path)
            if any(is_foreign(os.lstat(place)) for place in places):
                return {}
        with suppress(ValueError, TypeError):
            data = dict(json.loads(read_or_empty(self.path) or "{}"))
            if (all(len(row) == 3 for row in data.get("after", ()))
                    and isinstance(data.get("environment", {}), dict)):
                return data
        return {}

    def write(self, data: Dict[str, Json]) -> None:
        """Write scripts/.environ, complete or not at all."""
        replace_file(self.path, json.dumps(data) + "\n")

    def prepare(self, dependencies: Sequence[Dependency], backend: Backend, spec: JobSpec) -> None:
        """Write what a new job is to wait for, and name it beside the jobs that it waits for."""
        self.write({"after": [(each.how, each.job.path, each.job.backend) for each in dependencies],
                    "kind": backend.kind, "inherits": spec.inherit_environment})
        for each in dependencies:
            self.mark(os.path.join(self.folder(each.job), self.job.jobid))

    def mark(self, path: str) -> None:
        """Make the file that names the job; others remove an empty folder at any time."""
        for tries_left in reversed(range(9)):
            try:
                make_folder(os.path.dirname(os.path.dirname(path)))
                make_folder(os.path.dirname(path))
                replace_file(path, self.job.path + "\n")
                return
            except FileNotFoundError:
                if not tries_left:
                    raise

    def begin(self, timeout_s: float) -> None:
        """Let the job wait from now on, and keep our environment for its submission.

        ConflictError if it was submitted or canceled meanwhile.
        """
        with self.job.history() as history:
            data, environment = self.read(), dict(os.environ)
            if len(history.rows) != 1 or not data:
                raise ConflictError("job %s was started by another process" % self.job.jobid)
            if not data["inherits"]:
                environment = basic_environment(environment)
            self.write(dict(data, environment=environment, host=os.uname().nodename,
                            timeout_s=timeout_s))

    @property
    def is_waiting(self) -> bool:
        """Whether somebody has started the job, and it was neither submitted nor canceled yet."""
        return "environment" in self.read() and len(self.job.rows()) == 1

    def dependencies(self) -> List[Dependency]:
        """What the job waits for still."""
        return [Dependency(how, JobDir(path, backend, self.job.check_owner))
                for how, path, backend in self.read().get("after", ())]

    def drop_met(self) -> None:
        """Wait no more for those that have ended as they should, whatever becomes of them."""
        met = [[each.how, each.job.path] for each in self.dependencies() if each.is_met()]
        with self.job.history() as history:
            data = self.read()
            if met and len(history.rows) == 1 and data:
                self.write(dict(data, after=[row for row in data["after"] if row[:2] not in met]))

    @staticmethod
    def scheduler_job(environment: Mapping[str, str]) -> Dict[str, str]:
        """The variables that name a scheduler's job; JOB_ID does so under SGE only."""
        return {name: environment[name] for name in SCHEDULER_IDS if name in environment
                and (name != "JOB_ID" or "SGE_TASK_ID" in environment)}

    def is_home(self, data: Dict[str, Json]) -> bool:
        """Whether this process runs where the job was started: on that host, in no other job."""
        theirs = self.scheduler_job(data["environment"])
        return data["host"] == os.uname().nodename and all(
            theirs.get(name) == value for name, value in self.scheduler_job(os.environ).items())

    def reason(self) -> str:
        """What the job waits for, in words; '' if it does not wait."""
        if not self.is_waiting:
            return ""
        texts = []
        for each in self.dependencies():
            if each.is_met() is None:
                rows = each.job.rows()
                is_idle = len(rows) == 1 and not Held(each.job).is_waiting
                texts.append(str(each) + ", which was never started" * is_idle)
        return ("waits for " + ", ".join(texts) if texts
                else "waits to be submitted on %s" % self.read().get("host"))

    def stop(self) -> None:
        """Let the job wait no more, because it is canceled; what it was to wait for stays known."""
        data = self.read()
        if data:
            self.write({name: data[name] for name in ("after", "kind", "inherits")})

    def forget(self) -> None:
        """Let the job wait no more, because it is submitted."""
        if os.path.exists(self.path):   # else a tree that cannot be written would refuse
            with suppress(FileNotFoundError):
                os.unlink(self.path)

    @staticmethod
    def folder(job: JobDir) -> str:
        """The folder that names the jobs which wait for this one."""
        return os.path.join(os.path.dirname(job.path), ".after", job.jobid)

    @classmethod
    def behind(cls: Type[Waits], job: JobDir) -> List[Waits]:
        """The jobs that wait for this one; what names any that never will is removed."""
        folder = cls.folder(job)
        if job.check_owner and os.path.isdir(folder) and is_foreign(os.lstat(folder)):
            return []
        found: List[Waits] = []
        for path in paths_in(folder):
            if not JOBID.fullmatch(os.path.basename(path)):     # it is about to be one
                continue
            held = cls(JobDir(read_or_empty(path).strip(), "", job.check_owner))
            if held.is_waiting:
                found.append(held)
            elif not os.path.lexists(held.path):
                with suppress(OSError):     # another was first, or the tree cannot be written
                    os.unlink(path)
        if not found:
            with suppress(OSError):     # it is not there, or not empty
                os.rmdir(folder)
        return found


# ----------------------------------------------------------------------------------- 12. Operations

# Making and starting.

def write_scripts(job: JobDir, spec: JobSpec, backend: Backend, shell: Shell) -> None:
    """Write a job's scripts/, and the copy of psik.py that they call."""
    scripts = ScriptWriter(job, spec, backend, shell).texts()
    Copies.of(job).keep(job)
    for name, text in scripts.items():
        write_file(job.script(name), text, 0o700)
    if spec.tasks:
        write_file(job.script("tasks"), spec.tasks.table)
    if spec.callback:
        config = backend.config
        settings = CallbackSettings(config.callback_timeout_s, config.callback_give_up_s,
                                    config.ca_file, config.callback_proxy,
                                    spec.callback_on == "final")
        write_file(job.script("callback.json"), json.dumps(settings._asdict()) + "\n")
    if backend.config.scheduler_environment:
        write_file(job.script("scheduler.json"),
                   json.dumps(backend.config.scheduler_environment) + "\n")
    else:
        with suppress(FileNotFoundError):
            os.unlink(job.script("scheduler.json"))


def write_spec(job: JobDir, spec: JobSpec) -> None:
    """Write a job's spec.json."""
    replace_file(job.at("spec.json"), json.dumps(to_json(spec), indent=4) + "\n")


class Settled(NamedTuple):
    """A spec that suits the config, and what else a job is made from."""
    spec: JobSpec
    backend: Backend
    shell: Shell
    dependencies: List[Dependency]


def fill_jobdir(job: JobDir, settled: Settled, access: Optional[Json] = None) -> None:
    """Write everything that belongs to a new job, with access.json if it has one.

    status.csv comes last: it makes the directory a job, so a creation cut short leaves none.
    """
    spec, backend, shell, dependencies = settled
    directory = os.path.abspath(spec.directory) if spec.directory else job.at("work")
    spec = replace(spec, directory=directory)
    if access is not None:
        write_file(job.at("access.json"), json.dumps(access) + "\n")
    job.make_work(directory)
    os.mkdir(job.at("log"), 0o700)
    os.mkdir(job.at("scripts"), 0o700)
    write_scripts(job, spec, backend, shell)
    write_spec(job, spec)
    Outbox(job).expect_end(1)
    if dependencies:
        Held(job).prepare(dependencies, backend, spec)
    tasks = len(spec.tasks.numbers) if spec.tasks else 0
    write_file(job.status_path, "%.3f,0,new,%d\n" % (time.time(), tasks))


def settle_spec(config: Config, spec: JobSpec, backend: Optional[str]) -> Settled:
    """A spec with its backend's defaults, and what it needs; InvalidError as create()."""
    chosen = config.choose_backend(spec, backend)
    spec = chosen.with_defaults(spec)
    assert isinstance(spec.backend, BackendConfig)
    refused = list(refused_options(chosen.kind, spec.backend.attributes))
    if refused:
        raise InvalidError(refused)
    if spec.directory and not os.path.isdir(spec.directory):
        raise InvalidError([Fault("directory", "%s does not exist; make it first, or leave it out "
                                  "to run in the job's own work/" % spec.directory)])
    shell = Shell.for_script(chosen.config, spec.script)
    dependencies = Dependency.all_of(config, spec.after)
    return Settled(replace(spec, after=list(map(str, dependencies))), chosen, shell, dependencies)


def dry_scripts(config: Config, spec: JobSpec, backend: Optional[str] = None) -> Dict[str, str]:
    """{name: text} of what the scheduler and the shell would be given of a job; makes none."""
    spec, chosen, shell, _ = settle_spec(config, spec, backend)
    job = JobDir(os.path.join(chosen.root, "JOBID"), chosen.name)
    directory = os.path.abspath(spec.directory) if spec.directory else job.at("work")
    texts = ScriptWriter(job, replace(spec, directory=directory), chosen, shell).texts()
    return {name: texts[name] for name in ("submit", "job", "setup", "run") if name in texts}


def create(config: Config, spec: JobSpec, backend: Optional[str] = None,
           access: Optional[Json] = None) -> JobDir:
    """Make a job's directory and scripts; the job is `new`, and nothing runs yet.

    backend names one of the config's; access is the content of access.json, for a job of the
    server's users.  InvalidError if the spec does not suit the config; no directory is left then.
    """
    settled = settle_spec(config, spec, backend)
    with JobTree(config).reserved(settled.backend) as job:
        fill_jobdir(job, settled, access)
    return job


def remake_scripts(config: Config, job: JobDir) -> None:
    """Make a job's scripts anew for its present place, as for a new job of its spec."""
    spec, backend = job.spec(), config.by_name.get(job.backend)
    if backend is None:
        raise InvalidError([Fault("backend", "job %s was moved to %s, and the config has no "
                                  "backend %r to make its scripts anew"
                                  % (job.jobid, job.path, job.backend))])
    with job.history():  # its lock: another process may be about to run them
        if not os.path.islink(job.at("work")):  # work/ was moved with the job
            spec = replace(spec, directory=job.at("work"))
            write_spec(job, spec)
        write_scripts(job, spec, backend, Shell.of(backend.config))


def exported_functions(env: Mapping[str, str]) -> Dict[str, str]:
    """The functions that bash exports, in variables that other shells pass on to the supervisor."""
    texts = ["%s=%s" % pair for pair in env.items() if pair[0].startswith("BASH_FUNC_")]
    found = {"PSIK_FUNCTION_%d" % number: text.encode("utf-8", "surrogateescape").hex()
             for number, text in enumerate(texts)}
    return {name: text for name, text in found.items() if len(text) < MAX_VARIABLE}


def forget_answers(job: JobDir, jobndx: int) -> None:
    """Let the ten minutes of answers without a submission begin anew: it is made again now."""
    path = os.path.join(os.path.dirname(job.path), ".poll.json")
    step = Step(job, jobndx, UNKNOWN_ID)
    if Answer.read(path).of(step):
        with suppress(OSError), Poll.turn(path):
            answer = Answer.read(path)
            rest = [status for status in answer.statuses
                    if (status.native, status.tag) != (UNKNOWN_ID, step.tag)]
            replace_file(path, Answer(answer.time, rest, answer.fault).text())


def unknown_since(job: JobDir, jobndx: int) -> float:
    """Since when a scheduler has answered that it does not have a submission.

    If no such answer was kept, it is the time of the submission.
    """
    answer = Answer.read(os.path.join(os.path.dirname(job.path), ".poll.json"))
    status = answer.of(Step(job, jobndx, UNKNOWN_ID))
    return max(submitted_at(job, jobndx), status.since if status else 0)


def said_taken(job: JobDir, row: Row) -> Row:
    """The `queued` row of a submission whose answer never came; prints that it was taken."""
    complain("job %s: its scheduler had taken step %d after all, as %s; it is not submitted again"
             % (job.jobid, row.jobndx, row.info))
    return row


class Submission:
    """The submission of a job's next step.

    environment: that of whoever started a job which waits; by default ours.  away: it is not done
    where he did that, so that a refusal says nothing.  failed_only: of an array only the tasks that
    have ended and are not completed.
    """

    def __init__(self, job: JobDir, timeout_s: float,
                 environment: Optional[Dict[str, str]] = None, away: bool = False,
                 failed_only: bool = False) -> None:
        self.job, self.timeout_s, self.away = job, timeout_s, away
        self.failed_only = failed_only
        self.waits = environment is not None
        self.given = dict(os.environ) if environment is None else environment

    def refuse_gone(self, history: History) -> None:
        """NotFoundError if there is no job; ConflictError if it waits no more, but should."""
        if not history.rows:
            raise NotFoundError("no job at %s" % self.job.path)
        if self.waits and not Held(self.job).is_waiting:
            raise ConflictError("job %s was started by another process" % self.job.jobid)

    def refuse_running(self, rows: Sequence[Row]) -> None:
        """ConflictError if a step of the job has not ended, or was canceled and lives on."""
        steps = Steps(rows)
        tasks = set(self.tasks_to_run(steps))
        live = [step for step in steps.live(self.job) if step.task in tasks]
        canceled = [step for step in steps.live(self.job, canceled_too=True) if step not in live]
        unsure = [step for step in canceled + steps.unsettled(self.job) if step.task in tasks]
        blocking = next(iter(live or living(self.job, unsure)), None)
        if blocking:
            state = steps.states[blocking.jobndx].state if live else "not yet gone"
            raise ConflictError("job %s: its step %d is %s; cancel it first, or let the next step "
                                "run beside it with --force"
                                % (self.job.jobid, blocking.jobndx, state))

    def rest(self, steps: Steps) -> List[Piece]:
        """The pieces of a round that was begun which are not submitted yet.

        With failed_only they only count if a submission was not answered.
        """
        pieces = Piece.of_round(self.job, steps.next_round(self.job))
        rest = [piece for piece in pieces if not steps.is_submitted(piece)]
        is_lost = bool(rest and submitted_at(self.job, rest[0].first))
        return rest if is_lost or (len(rest) < len(pieces) and not self.failed_only) else []

    def tasks_to_run(self, steps: Steps) -> List[int]:
        """The tasks that are to be submitted, from 1; [1] for a job without tasks."""
        rest = [step for piece in self.rest(steps) for step in piece.steps]
        if rest:
            return [steps.task_of(step) for step in rest]
        done = [task for task, row in steps.by_task.items() if self.failed_only
                and row.state not in (JobState.failed, JobState.canceled)]
        return sorted(set(range(1, steps.tasks + 1)) - set(done))

    def plan(self, steps: Steps, tasks: Sequence[int]) -> List[Piece]:
        """The pieces of the next round, which has these tasks; they are kept.

        BackendError if the scheduler does not say how large an array may be.
        """
        job = self.job
        Piece.forget(job, steps)
        number = steps.next_round(job)
        begin, scripts, spec = number * steps.tasks, JobScripts(job), job.spec()
        done = scripts.run("array", [], POLL_TIMEOUT_S) if scripts.has("array") else Finished(
            0, "1 range", "")
        match = re.fullmatch("([1-9][0-9]{0,8}) (list|range)", last_line(done.out))
        if not match:
            raise BackendError("job %s: its scheduler does not say how large an array may be: %s"
                               % (job.jobid, done.fault))
        pieces = Piece.cut([begin + task for task in tasks], begin, int(match.group(1)),
                           match.group(2), spec.tasks.at_once if spec.tasks else None)
        Piece.plan(job, number, pieces)
        return pieces

    def pieces(self, steps: Steps) -> List[Piece]:
        """What is to be submitted: the rest of a round that was begun, or the next round.

        ConflictError if there is nothing to submit; BackendError as plan().
        """
        job, rest, tasks = self.job, self.rest(steps), self.tasks_to_run(steps)
        if not tasks:
            raise ConflictError("job %s: nothing of it has failed" % job.jobid)
        if steps.tasks == 1:
            return [Piece.alone(steps.next_jobndx(job))]
        if rest:
            complain("job %s: the rest of its tasks is submitted: %d of %d" % (
                job.jobid, sum(len(piece.indices) for piece in rest), steps.tasks))
        return rest or self.plan(steps, tasks)

    def before(self, steps: Steps, piece: Piece) -> str:
        """The native id of what has to end before a piece, so that not too many run at once."""
        pieces = Piece.of_round(self.job, (piece.first - 1) // steps.tasks)
        natives = [steps.queued[each.first] for each in pieces
                   if each.first < piece.first and each.first in steps.queued]
        return str(natives[-1]) if natives and piece.at_once else ""

    def refuse_unready(self, history: History, force: bool) -> None:
        """ConflictError or BackendError if the next step cannot be submitted as things are."""
        job, scripts = self.job, JobScripts(self.job)
        if not force:
            self.refuse_running(history.rows)
        jobndx = Steps(history.rows).next_jobndx(job)
        submitted, since = submitted_at(job, jobndx), unknown_since(job, jobndx)
        if submitted and not scripts.has("poll"):
            raise BackendError("job %s: an earlier submission was cut short, and its backend has "
                               "no poll script to look for it; remove %s to submit it anew"
                               % (job.jobid, job.log("submit", jobndx)))
        if submitted and age_s(since) < UNKNOWN_S and not force and not job.host(jobndx):
            raise BackendError("job %s: its scheduler does not have the submission of %s, and may "
                               "still get it; start it after %s, or with --force"
                               % (job.jobid, clock(submitted), clock(since + UNKNOWN_S)))
        if scripts.are_stale:
            raise ConflictError("job %s was moved to %s, or its psik.py is gone; `%s start` makes "
                                "its scripts anew" % (job.jobid, job.path, called()))

    def site_defaults(self, settings: BackendConfig) -> Dict[str, str]:
        """Those of SITE_DEFAULTS in the environment that the spec does not override."""
        said = {name for name, value in vars(settings).items() if value}
        said.update(Option.of(name, "").name for name in settings.attributes)
        return {name: self.given[name] for name, words in SITE_DEFAULTS.items()
                if name in self.given and not said & set(words.split())}

    def environment(self, jobndx: int) -> Dict[str, str]:
        """The environment of scripts/submit.

        PSIK_MARK in it names this step, even where psik.py runs inside another job.
        """
        spec, given = self.job.spec(), self.given
        assert isinstance(spec.backend, BackendConfig)
        if not spec.inherit_environment:
            given = basic_environment(given)
        # A local job may be meant to use the allocation around it.
        env = given if spec.backend.type == "local" else dict(
            JobScripts(self.job).environment(given), **self.site_defaults(spec.backend))
        return dict(env, PSIK_MARK="%s.%d" % (self.job.tag, jobndx), **exported_functions(given))

    def run(self, piece: Piece, before: str) -> Finished:
        """Run scripts/submit; with the status EX_TEMPFAIL, the scheduler may have the job.

        before: the native id of the piece that has to end first, or ''.  What it says on stderr
        goes to log/submit.N, and in a line into the result.
        """
        jobndx, job = piece.first, self.job
        log, env = job.log("submit", jobndx), self.environment(jobndx)
        if submitted_at(job, jobndx):
            forget_answers(job, jobndx)
        with suppress(FileNotFoundError):  # a request to end an earlier submission of the step
            os.unlink(job.log("cancel", jobndx))
        try:
            what = ("%d+" % piece.offset, piece.text) if piece.is_array else (str(jobndx), "")
            argv = [JobScripts(job).path("submit"), what[0], os.uname().nodename, what[1], before]
            size = len(read_or_empty(log))
            done = run_program(argv, self.timeout_s, env, log, job.path)
            return done._replace(err=telling_lines(read_or_empty(log)[size:]))
        except TimeoutError as err:
            with open(log, "a", encoding="utf-8") as file:
                file.write("%s\n" % err)
            return Finished(os.EX_TEMPFAIL, "", "")
        except OSError as err:
            write_file(log, "%s\n" % err)
            return Finished(126, "", "")  # as a shell has it

    def refusal(self, jobndx: int, done: Finished) -> str:
        """What was said of a submission that was refused."""
        return telling_lines(read_or_empty(self.job.log("submit", jobndx))) or (
            "exit %d" % done.status)

    def pass_over_refusal(self, jobndx: int, done: Finished) -> None:
        """BackendError, with nothing recorded, if a submission was refused away from home."""
        if self.away and done.status not in (0, os.EX_TEMPFAIL):
            why = self.refusal(jobndx, done)
            os.unlink(self.job.log("submit", jobndx))
            raise BackendError("job %s: %s did not take it from here: %s"
                               % (self.job.jobid, self.job.backend, why))

    def submit(self, force: bool) -> Row:
        """Submit the step, with the history locked; the `queued` row."""
        job = self.job
        with transitions(job) as history:
            self.refuse_gone(history)
            adopted = adopt(job, history)
            if adopted:
                Held(job).forget()
                return said_taken(job, adopted)
            self.refuse_unready(history, force)
            Outbox(job).expect_end(len(history.rows))
            pieces, rows = self.pieces(Steps(history.rows)), list(history.rows[:0])
            while pieces:
                done = self.run(pieces[0], self.before(Steps(history.rows), pieces[0]))
                self.pass_over_refusal(pieces[0].first, done)
                Held(job).forget()
                row = self.take_answer(history, pieces[0], done)
                if row is None:
                    break
                rows.append(row)
                pieces.pop(0)
            else:
                return rows[0]
            record_all(job, history, [(step, JobState.failed, done.status)
                                      for piece in pieces for step in piece.steps])
        raise self.refused(pieces[0], done, bool(rows))

    def take_answer(self, history: History, piece: Piece, done: Finished) -> Optional[Row]:
        """Record what was answered to the submission of a piece; None if it was refused."""
        job = self.job
        native = last_line(done.out).split(";")[0]  # sbatch may add ;cluster
        if done.status == 0 and NATIVE_ID.fullmatch(native):
            if done.err:
                complain("job %s: %s says: %s" % (job.jobid, job.backend, done.err))
            return record_all(job, history, [(step, JobState.queued, read_info(native))
                                             for step in piece.steps])[0]
        return self.look_for(history, piece.first, done) if done.status in (
            0, os.EX_TEMPFAIL) else None

    def refused(self, piece: Piece, done: Finished, is_part: bool) -> BackendError:
        """The error that a piece was refused; is_part: others of its round were taken."""
        job, why = self.job, self.refusal(piece.first, done)
        if "exclusive" in why.lower() and job.spec().resources.exclusive_node_use:
            why += "; set resources.exclusive_node_use to false"
        what = "all of it; `%s start --failed` submits the rest" % called() if is_part else "it"
        return BackendError("job %s: %s did not take %s: %s (full answer: %s)" % (
            job.jobid, job.backend, what, why, job.log("submit", piece.first)))

    def look_for(self, history: History, jobndx: int, done: Finished) -> Row:
        """The `queued` row of a submission that gave no native id, if its scheduler has it.

        BackendError if that is not known yet.
        """
        adopted = None
        if done.status == 0:  # it answered, so it can be asked
            with suppress(BackendError):
                adopted = adopt(self.job, history)
        if adopted:
            return adopted
        said = done.out + read_or_empty(self.job.log("submit", jobndx))
        raise BackendError("job %s: %s; it is not known yet whether its scheduler has it: `poll` "
                           "and `start` look for it, and do not submit it twice"
                           % (self.job.jobid, telling_lines(said) or "no answer"))


class Waiter(Held):
    """A held job that is about to be submitted, or canceled if it can never run."""

    def cancel(self, dependency: Dependency) -> Row:
        """Cancel it, because another job did not end as it should; the row."""
        job, latest = self.job, Steps(dependency.job.rows()).latest
        how = "is %s" % latest.state if latest else "was removed"
        with transitions(job) as history:
            row = history.rows[-1]
            if len(history.rows) == 1:
                replace_file(job.log("reason", 0),
                             "it was to run after %s, which %s\n" % (dependency, how))
                row = record(job, history, 0, JobState.canceled, 0)
            self.stop()
            return row

    def settle(self) -> Row:
        """Submit it if it need not wait any more, or cancel it if it can never run.

        Its `queued`, its `canceled` or, if it goes on waiting, its `new` row.  Errors as submit().
        A process of a host has to be started at home; and only there does a refusal of the
        scheduler count, for many nodes may not submit.
        """
        dependencies, rows, data = self.dependencies(), self.job.rows(), self.read()
        if len(rows) != 1 or "environment" not in data:
            raise ConflictError("job %s was started by another process" % self.job.jobid)
        met = [each.is_met() for each in dependencies]
        if False in met:
            return self.cancel(dependencies[met.index(False)])
        if None in met:
            self.drop_met()
            return rows[0]
        away = not self.is_home(data)
        if away and data["kind"] in ("local", "at"):
            return rows[0]
        return Submission(self.job, data["timeout_s"], data["environment"], away).submit(False)

    def submit(self, timeout_s: float) -> Row:
        """Submit it as soon as it need not wait; its latest row, as settle().

        ConflictError if it can never run, and is canceled for that; or if it was canceled before,
        and the others have not ended as they should.
        """
        job = self.job
        if len(job.rows()) > 1:
            for each in self.dependencies():
                if not each.is_met():
                    raise ConflictError("job %s is to run after %s; start it when that has ended, "
                                        "or with --force" % (job.jobid, each))
            return Submission(job, timeout_s).submit(False)
        self.begin(timeout_s)
        row = self.settle()
        if row.state is JobState.canceled:
            self.release(job)
            raise ConflictError("job %s is canceled: %s" % (
                job.jobid, last_line(read_or_empty(job.log("reason", 0)))))
        if row.state is JobState.new:
            complain("job %s %s" % (job.jobid, self.reason()))
        return row

    @classmethod
    def release(cls, job: JobDir, tell: Callable[[str], None] = complain_once) -> None:
        """Submit the jobs that wait for this one, if they need not any more.

        Those that can never run are canceled, and what waits for them is looked at too.  tell is
        called with what goes wrong; the next look tries again.
        """
        ended = [job]
        while ended:
            for held in cls.behind(ended.pop()):
                try:
                    held.settle()
                except ConflictError:   # another process was first
                    pass
                except PsikError as err:
                    tell(str(err))
                except OSError as err:
                    tell("job %s cannot be submitted now: %s" % (held.job.jobid, err))
                if is_over(held.job, held.job.rows()):  # it is canceled, or was refused
                    ended.append(held.job)


def release_all(config: Config) -> None:
    """Do so for every job that is waited for and has ended; their schedulers are asked."""
    folders: List[str] = []
    for backend in config.by_name.values():
        with suppress(PermissionError):     # of another user, under a prefix that several share
            folders += paths_in(os.path.join(backend.root, ".after"))
    if not folders:
        return
    tree, found, gone = JobTree(config), [], []
    for folder in folders:
        jobs = list(with_rows(tree.of_id(os.path.basename(folder))))
        above = os.path.dirname(os.path.dirname(folder))
        found += jobs
        gone += [JobDir(os.path.join(above, os.path.basename(folder)))] * (not jobs)
    reconcile(config, found)
    for job in gone + [job for job, rows in found if is_over(job, rows)]:
        Waiter.release(job)


def submit(job: JobDir, timeout_s: float = 60, force: bool = False,
           failed_only: bool = False) -> Row:
    """Hand the job's next step to its scheduler; the `queued` row, whose info is the native id.

    A job that is to run after others is held until they have ended, unless force; its `new` row.
    Of an array all tasks are submitted, or with failed_only those that have failed or are canceled;
    the first `queued` row is returned.  ConflictError with failed_only if nothing has failed.

    The history stays locked meanwhile, so `queued` comes before `active`, unless the supervisor has
    to go on without the lock.  A submission whose answer never came is looked for by its tag first,
    and is not made again within UNKNOWN_S, unless force.  ConflictError if a step has not ended,
    unless force.  BackendError if the scheduler refuses (the step is `failed` then, and
    log/submit.N holds the answer), or if it is not known whether it took the job.
    """
    held = Waiter(job)
    try:
        if held.read() and not force:
            return held.submit(timeout_s)
        return Submission(job, timeout_s, failed_only=failed_only).submit(force)
    except BackendError:
        if is_over(job, job.rows()):    # it was refused, and is failed
            Waiter.release(job)
        raise


def submit_next(config: Config, job: JobDir, force: bool = False,
                failed_only: bool = False) -> Row:
    """As submit(), with the time-out of the config, after bringing the job up to date.

    Its last step may have ended unrecorded, or a submission be found whose answer never came.  If
    the job was moved, its scripts are made anew.
    """
    rows = job.rows()
    lost = lost_step(job, Steps(rows))
    if has_news(job, rows) and not force:
        reconcile(config, [(job, rows)], force=True)
    if lost and lost.jobndx in Steps(rows).queued:
        return said_taken(job, next(row for row in rows if row.state is JobState.queued
                                    and row.jobndx == lost.jobndx))
    timeout_s = config.of_backend(job.backend).submit_timeout_s
    if JobScripts(job).are_stale:
        if not force:
            Submission(job, timeout_s, failed_only=failed_only).refuse_running(rows)
        remake_scripts(config, job)
    return submit(job, timeout_s, force, failed_only)


# Looking.

def shell_of(job: JobDir) -> str:
    """What reads the job's script: its #! line, or that of the shell that psik.py chose."""
    return read_or_empty(job.script("run")).split("\n")[0][len("#!"):].strip()


class StepEnd(NamedTuple):
    """What is known of how a step ended, from its last row and its logs."""
    job: JobDir
    row: Row

    def log(self, kind: str) -> str:
        """The path of one of its logs."""
        return self.job.log(kind, self.row.jobndx)

    @property
    def has_run(self) -> bool:
        """Whether it ran at all."""
        return os.path.exists(self.log("stdout"))

    def recorded(self) -> str:
        """The last line of log/reason.N, with the field of the spec that it is about."""
        reason = last_line(read_or_empty(self.log("reason")))
        for name in (name for name, words in WANTED_MORE.items() if words.search(reason)):
            with suppress(PsikError):
                asked = getattr(self.job.spec().resources, name)
                usual = ", which is the default" if asked == getattr(ResourceSpec(), name) else ""
                unit = "MiB" if name == "memory_per_process" else "min"
                reason += "; resources.%s %s" % (
                    name, "is %d %s%s" % (asked, unit, usual) if asked else "was not set")
        return reason

    def tail(self, limit: int, kind: str = "stderr") -> List[str]:
        """The last lines, so many at most, that it wrote there, each cut; no empty ones."""
        try:
            # A FIFO in its place must not hold us up.
            with open(os.open(self.log(kind), os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    return []
                file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))
                lines = file.read(65536).decode("utf-8", "replace").split("\n")
        except OSError:
            return []
        lines = lines[:-1] if not lines[-1] else lines  # what is behind the last newline
        scripts = self.job.at("scripts") + os.sep       # `run: 2: x: not found` says enough
        shown_lines = (line.replace(scripts, "") for line in lines[-limit:] if line.strip())
        # Cut, for a search in a line of 64 KB without a blank would take minutes.
        return [line if len(line) < 400 else line[:200] + " ... " + line[-190:]
                for line in shown_lines]

    def misread(self, lines: Sequence[str]) -> str:
        """Which shell said here that a script without #! has a syntax error; '' if none did."""
        with suppress(PsikError):
            if (SYNTAX_ERROR.search(" ".join(lines))
                    and not self.job.spec().script.startswith("#!")):
                return ("a syntax error for %s, which reads a script without #!"
                        % shell_of(self.job))
        return ""

    def last_words(self) -> str:
        """By what one sees why it failed: a signal, or the last line on stderr."""
        died = describe_exit(self.row.info)
        if died and self.row.info != 127:
            return died
        lines = self.tail(3)
        return self.misread(lines) or "".join(lines[-1:])[:200] or died

    def why(self) -> str:
        """Why it failed: its recorded reason, its last words or, if it never ran, what was said."""
        job, reason = self.job, self.recorded()
        if self.has_run:
            return reason or self.last_words()
        said = telling_lines(read_or_empty(self.log("submit")))
        if not said and job.tasks > 1 and self.row.state is JobState.failed:
            first = Piece.of_step(job, self.row.jobndx, job.tasks).first
            said = telling_lines(read_or_empty(job.log("submit", first)))
        return ": ".join(part for part in (reason, said) if part)


def lost_reason(job: JobDir, row: Row, steps: Steps, statuses: Statuses) -> str:
    """Since when it is unknown whether a scheduler has the job's next submission; '' if it is not.

    row: the one that decides the job's state.
    """
    jobndx = 0 if row.state in LIVE else steps.next_jobndx(job)
    if (job.path, jobndx) not in statuses:
        return ""
    which = " of step %d" % jobndx if jobndx > 1 else ""
    return "submission%s unknown since %s" % (which, clock(submitted_at(job, jobndx)))


def reason_of(job: JobDir, row: Row, steps: Steps, statuses: Statuses) -> str:
    """Why a job is in the state of this row, in one line; '' if that is not known."""
    if row.state in LIVE:
        status = statuses.get((job.path, row.jobndx))
        return status.reason if status else ""
    if row.state is JobState.canceled and os.path.exists(job.log("cancel", row.jobndx)):
        is_owed = bool(steps.untold(job))
        return "its scheduler has not been told yet" if is_owed else ""
    if row.state is JobState.completed:  # though a process of it was killed for want of memory
        return StepEnd(job, row).recorded()
    return StepEnd(job, row).why() if row.state.is_final() else ""


# The order in which tasks are shown.
TASK_ORDER = ("failed", "canceled", "active", "queued", "new", "completed")


class TaskState(NamedTuple):
    """A task of an array: the number by which it is called, and its latest step."""
    task: int
    state: str
    jobndx: int
    info: Info
    updated: float
    reason: str

    @staticmethod
    def progress(counts: Dict[str, int]) -> str:
        """How far an array is, in words: `37/100 done, 2 failed`."""
        parts = ["%d/%d done" % (counts["completed"], sum(counts.values()))]
        parts += ["%d %s" % (counts[state], word) for state, word in (
            ("failed", "failed"), ("canceled", "canceled"), ("new", "not submitted yet"))
            if counts[state]]
        return ", ".join(parts)

    @classmethod
    def all_of(cls, job: JobDir, rows: Sequence[Row], statuses: Statuses) -> List["TaskState"]:
        """The tasks of an array; those that failed come first.  [] if the job is none."""
        tasks, steps = job.spec().tasks, Steps(rows)
        if tasks is None or not rows:
            return []
        found, by_task = [], steps.by_task
        for place, number in enumerate(tasks.numbers, 1):
            row = by_task.get(place) or steps.unsubmitted
            assert row is not None
            reason = reason_of(job, row, steps, statuses) if row.jobndx else ""
            found.append(cls(number, row.state.value, row.jobndx, row.info, row.time, reason))
        return sorted(found, key=lambda task: TASK_ORDER.index(task.state))


def current_reason(job: JobDir, row: Row, steps: Steps, statuses: Statuses) -> str:
    """Why a job is as it is: lost, held, or in the state of the row that decides it."""
    lost = lost_reason(job, row, steps, statuses)
    if row.state is JobState.new and not lost and not steps.queued:
        return Held(job).reason()
    return lost or reason_of(job, row, steps, statuses)


def summarize(job: JobDir, rows: Sequence[Row], statuses: Statuses,
              reasons: bool = True) -> Summary:
    """A job's summary.  NotFoundError if it has no rows: it was removed meanwhile.

    reasons: also why, for which several files may have to be read.
    """
    steps = Steps(rows)
    row = steps.latest
    if not row:
        raise NotFoundError("job %s is gone" % job.jobid)
    counts = steps.counts() if steps.tasks > 1 and steps.queued else None
    reason = current_reason(job, row, steps, statuses) if reasons else ""
    if counts and reasons:
        reason = TaskState.progress(counts) + (": " + reason if reason else "")
    return Summary(job.jobid, job.name, job.backend, row.state.value, row.jobndx, row.info,
                   row.time, reason, counts, *steps.span(row.state))


class JobFilter(NamedTuple):
    """Which jobs are asked for; by default all."""
    backend: Optional[str] = None
    states: Sequence[str] = ()      # none: any
    name: Optional[str] = None      # or a pattern like `sweep*`
    since: float = 0.0              # made then or later
    before: float = float("inf")    # made before then
    is_visible: Callable[[JobDir], bool] = lambda job: True
    reasons: bool = True            # whether their summaries tell them
    app: Optional[str] = None       # made of this application

    def admits(self, job: JobDir) -> bool:
        """Whether it admits a job, whatever the job's state is."""
        return (self.backend in (None, job.backend)
                and self.since <= float(job.jobid) < self.before and self.is_visible(job)
                and (self.name is None or job.is_named(self.name))
                and (self.app is None or job.is_of(self.app)))

    def first(self, config: Config, pairs: Iterator[Tuple[JobDir, List[Row]]], wanted: int,
              poll: bool) -> List[Tuple[JobDir, Summary]]:
        """The first of these jobs that are in one of the states."""
        import itertools
        found: List[Tuple[JobDir, Summary]] = []
        while len(found) < wanted:
            # Each batch can be a question to the scheduler.
            size = max(wanted - len(found), 200 * bool(self.states))
            batch = list(itertools.islice(pairs, size))
            if not batch:
                break
            statuses = reconcile(config, batch) if poll else {}
            summaries = [(job, summarize(job, rows, statuses, self.reasons)) for job, rows in batch]
            found += [(job, summary) for job, summary in summaries
                      if not self.states or summary.state in self.states]
        return found[:wanted]

    def find(self, config: Config, limit: Optional[int] = None, poll: bool = True, index: int = 0,
             among: Optional[Sequence[JobDir]] = None) -> List[Tuple[JobDir, Summary]]:
        """These jobs, newest first, brought up to date with their schedulers unless poll is false.

        index: skip so many; among: only jobs of these, in their order.  It stops once index + limit
        jobs match; where states are asked for it reads at least 200 at a time.
        """
        import itertools
        if poll:
            release_all(config)
        given = JobTree(config).jobs(self.backend) if among is None else among
        jobs: Iterator[JobDir] = filter(self.admits, given)
        if not self.states:     # what is skipped need not be read
            jobs, index = itertools.islice(filter(JobDir.exists, jobs), index, None), 0
        wanted = sys.maxsize if limit is None else min(index + limit, sys.maxsize)
        return self.first(config, with_rows(jobs), wanted, poll)[index:]


def list_jobs(config: Config, backend: Optional[str] = None, state: Optional[str] = None,
              limit: Optional[int] = None, poll: bool = True, index: int = 0,
              name: Optional[str] = None) -> List[Summary]:
    """The jobs, newest first, brought up to date with their schedulers unless poll is false.

    state: only those in this one, or in one of `active,failed`; name: only those of this name, or
    of names like `sweep*`; limit, index: at most so many, after so many.
    """
    chosen = JobFilter(backend, state.split(",") if state else (), name)
    return [summary for _, summary in chosen.find(config, limit, poll, index)]


def find_log(job: JobDir, kind: str = "stdout", jobndx: Optional[int] = None) -> str:
    """The path of a step's output, by default that of Steps.latest; kind is stdout or stderr.

    NotFoundError if there is no such step, or if it has written nothing yet.
    """
    history = Steps(job.rows())
    if not history.latest:
        raise NotFoundError("no job at %s" % job.path)
    steps, latest = history.states, max(history.states)
    jobndx = history.latest.jobndx if jobndx is None else jobndx
    if not latest:
        raise NotFoundError("job %s was never started: `%s start %s`" % (job.jobid, called(),
                                                                         job.jobid))
    if jobndx not in steps or jobndx == 0:
        raise NotFoundError("job %s has no step %d; its latest is %d" % (job.jobid, jobndx, latest))
    path, state = job.log(kind, jobndx), steps[jobndx].state
    if not os.path.exists(path):
        raise NotFoundError("job %s is %s and wrote no %s.%d" % (job.jobid, state, kind, jobndx))
    return path


def logs(job: JobDir, kind: str = "stdout", jobndx: Optional[int] = None) -> str:
    """A step's output so far; bytes that are not UTF-8 become U+FFFD.  Errors as find_log()."""
    return read_or_empty(find_log(job, kind, jobndx))


# Waiting.

class Look(NamedTuple):
    """A job as it was at one look."""
    summary: Summary
    rows: List[Row]
    ended: bool     # its latest step, for good
    waits: bool     # for other jobs, before it is submitted
    lost: bool      # it was submitted again, and the answer never came


def look_at(config: Config, jobs: Sequence[JobDir]) -> List[Look]:
    """The jobs as they are now, in order, brought up to date; NotFoundError if one is gone."""
    release_all(config)
    pairs = [(job, job.rows()) for job in jobs]
    statuses = reconcile(config, pairs)
    return [Look(summarize(job, rows, statuses), rows, is_over(job, rows),
                 # It may have been submitted since its rows were read: then it waits no more.
                 len(rows) == 1 and (Held(job).is_waiting or len(job.rows()) > 1),
                 bool(rows) and (job.path, Steps(rows).next_jobndx(job)) in statuses)
            for job, rows in pairs]


def all_ended(looks: Sequence[Look]) -> bool:
    """Whether every job has ended.

    ConflictError if one was never started, or if it is not known whether it was started again.
    """
    unstarted = [look.summary for look in looks
                 if look.summary.state == JobState.new and not look.waits or (
                     look.ended and look.lost and look.summary.state != JobState.canceled)]
    if unstarted:
        jobid, reason = unstarted[0].jobid, unstarted[0].reason or "was never started"
        raise ConflictError("job %s: %s: `%s start %s`" % (jobid, reason, called(), jobid))
    return all(look.ended for look in looks)


def look_until_ended(config: Config, jobs: Sequence[JobDir],
                     timeout_s: Optional[float] = None) -> Iterator[List[Look]]:
    """Looks at the jobs, one after another, until every job has ended, or for timeout_s.

    ConflictError, after the first look, if a job was never started.
    """
    deadline = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
    for pause_s in pauses():
        looks = look_at(config, jobs)
        yield looks
        if all_ended(looks) or time.monotonic() >= deadline:
            return
        time.sleep(pause_s)


def wait(config: Config, jobs: Sequence[JobDir], timeout_s: Optional[float] = None,
         show: Callable[[List[Summary]], None] = lambda summaries: None) -> List[Summary]:
    """Wait until every job has ended, or for timeout_s; their summaries, in order.

    show is called with the summaries after each look.  ConflictError if a job was never started.
    """
    summaries: List[Summary] = []
    for looks in look_until_ended(config, jobs, timeout_s):
        summaries = [look.summary for look in looks]
        show(summaries)
    return summaries


def watch(config: Config, job: JobDir, after: int = 0) -> Iterator[Row]:
    """The rows of a job's history as they are written, until its latest step has ended.

    after: skip so many.  ConflictError, after the rows that are there, if it was never started.
    """
    for looks in look_until_ended(config, [job]):
        yield from looks[0].rows[after:]
        after = max(after, len(looks[0].rows))


def exit_status(summary: Summary) -> ExitStatus:
    """The exit status that a shell would give to a job: its own, or 143 if it was canceled."""
    if summary.state in (JobState.completed, JobState.canceled):
        return 0 if summary.state == JobState.completed else 143
    return summary.info if isinstance(summary.info, int) and 0 < summary.info < 256 else 1


# Steering.

def steer(job: JobDir, script: str, words: Sequence[str], steps: Sequence[Step],
          wrong: str) -> None:
    """Run an optional script of a job's backend for some of its steps.

    words: its first arguments; wrong: what is said if there are no steps.  ConflictError then, or
    if its backend has no such script; BackendError if the script fails.
    """
    if not steps:
        latest = Steps(job.rows()).latest
        raise ConflictError("job %s %s: it is %s" % (job.jobid, wrong,
                                                     latest.state if latest else JobState.new))
    scripts = JobScripts(job)
    if not scripts.has(script):
        raise ConflictError("job %s: its backend has no template `%s`" % (job.jobid, script))
    natives = list(dict.fromkeys(step.native for step in steps))
    done = scripts.run(script, [*words, *natives], CANCEL_TIMEOUT_S,
                       steps_text((step.native, step.tag) for step in steps))
    if done.status:
        raise BackendError("job %s: %s" % (job.jobid, done.fault))


def hold(job: JobDir, keep: bool = True) -> None:
    """Keep a job that waits in its queue from starting; with keep False let it start again.

    Errors as steer(): it must wait, its backend must be able to hold jobs.
    """
    waiting = Steps(job.rows()).live_in(job, JobState.queued)
    steer(job, "hold" if keep else "release", (), waiting, "does not wait in a queue")


def signal_name(text: str) -> str:
    """The name of a signal, `USR1` for `SIGUSR1`; InvalidError if it cannot be passed on."""
    import signal
    if text.isdigit() and text in [str(int(each)) for each in signal.Signals]:
        text = signal.Signals(int(text)).name
    name = text.upper()[len("SIG") if text.upper().startswith("SIG") else 0:]
    if not re.fullmatch("[A-Z]+[0-9]*", name) or not hasattr(signal, "SIG" + name):
        raise InvalidError("%s is no signal; name one like USR1, INT or TERM" % shown(text))
    if name in ("KILL", "STOP"):
        raise InvalidError("%s does not reach a script by way of its supervisor; `%s cancel` ends "
                           "a job" % (name, called()))
    return name


def send_signal(job: JobDir, name: str, tasks: Optional[Sequence[int]] = None) -> None:
    """Send a signal, `USR1` say, to the script of a job that runs.

    tasks: only to these tasks of an array, by their places.  Errors as signal_name() and steer().
    """
    name = signal_name(name)
    steps = Steps(job.rows())
    chosen = [step for step in steps.live_in(job, JobState.active)
              if tasks is None or step.task in tasks]
    # Those that wait must not get it either: Slurm would try again until they run.
    others = {step.native for step in steps.live(job) if step not in chosen}
    steer(job, "signal", [name], [step.as_task() if step.native in others else step
                                  for step in chosen],
          "does not run" if tasks is None else "has no such task that runs")


# Ending.

def cancel(job: JobDir, wait: bool = False, tasks: Optional[Sequence[int]] = None) -> bool:
    """End every step of the job that has not ended; whether there was one.

    tasks: only those of these tasks of an array, by their places in it, from 1.

    The history gets its `canceled` row first, from which the supervisor learns why it is stopped.
    A step on another host is ended before, by its supervisor, which records that.  A local job has
    ended when this returns; a scheduler ends its jobs in its own time, for which wait waits.
    BackendError if something lives on; then another cancel tries again.
    """
    if tasks and not set(tasks) <= set(Steps(job.rows()).by_task):
        raise ConflictError("job %s: not all of these tasks are submitted yet; start the rest, or "
                            "cancel all of it" % job.jobid)
    cancellation = Cancellation(job) if tasks is None else TaskCancellation(job, tasks)
    try:
        had_any = cancellation.cancel()
        if wait:
            cancellation.await_end()
    finally:  # last, because a slow receiver must not keep the job running
        if tasks is None:
            Held(job).stop()
        deliver_if_possible(job)
        Waiter.release(job)
    return had_any


def refuse_unended(job: JobDir, rows: Sequence[Row]) -> None:
    """ConflictError if a job has not ended, and so must not be removed."""
    state = summarize(job, rows, {}, reasons=False).state
    if not STATES[state].is_final():
        raise ConflictError("job %s is %s; cancel it first, or use --force" % (job.jobid, state))
    steps = Steps(rows)
    jobndx = steps.next_jobndx(job)
    lost = [Step(job, jobndx, UNKNOWN_ID)] if may_be_lost(job, steps) else []
    if lost and (is_being_changed(job) or age_s(unknown_since(job, jobndx)) < UNKNOWN_S):
        raise ConflictError("job %s: it is not known yet whether its scheduler has step %d; look "
                            "again in ten minutes, or use --force" % (job.jobid, jobndx))
    unsure = steps.live(job, canceled_too=True) + steps.unsettled(job) + lost
    try:
        alive = living(job, unsure)
    except BackendError:
        # After a while it counts as ended: a cluster that was taken down answers no more, and must
        # not keep its jobs' directories for ever.
        if age_s(rows[-1].time) < REMOVE_UNASKED_S:
            raise
        return
    if alive:
        raise ConflictError("job %s: its step %d is not yet gone; cancel it again, or use --force"
                            % (job.jobid, alive[0].jobndx))


def remove(job: JobDir, force: bool = False) -> None:
    """Remove a job's directory with everything in it; if that is a link, the link alone.

    ConflictError if the job has not ended, unless force, which cancels it; BackendError if it does
    not end then.
    """
    rows = job.rows()
    if not rows:
        raise NotFoundError("no job at %s" % job.path)
    waiting = " ".join(held.job.jobid for held in Held.behind(job))
    if waiting and not force:
        raise ConflictError("job %s is waited for by %s; cancel that first; with --force "
                            "it runs if it may still, or is canceled" % (job.jobid, waiting))
    try:
        refuse_unended(job, rows)
    except ConflictError:
        if not force:
            raise
        cancel(job, wait=True)
    deliver(job)  # a last try, for its events are removed too
    # Renamed first, so that nobody finds half of a job; sweep() removes what is left if this is cut
    # short.
    temporary = os.path.join(os.path.dirname(job.path), ".removed-" + job.jobid)
    if os.path.islink(job.path):
        complain("%s is a link; its target, %s, stays" % (job.path, os.path.realpath(job.path)))
    try:
        Outbox(job).clear()
        os.rename(job.path, temporary)
    except FileNotFoundError:
        raise NotFoundError("job %s was removed by somebody else meanwhile" % job.jobid) from None
    delete_tree(temporary)
    Copies.of(job).drop_unused()
    Waiter.release(job)


def is_unbegun(path: str) -> bool:
    """Whether a directory holds only the beginnings of a job: no history, no file of the user's.

    What is in incoming/ came with a request that was never answered.
    """
    status, work = os.path.join(path, "status.csv"), os.path.join(path, "work")
    ours = {"scripts", "log", "work", "incoming", "spec.json", "status.csv", "access.json"}
    return (not (os.path.lexists(status) and os.path.getsize(status))
            and not set(os.listdir(path)) - ours
            and (os.path.islink(work) or not os.path.isdir(work) or not os.listdir(work)))


def is_stale(path: str) -> bool:
    """Whether a directory was left, over STALE_S ago, by a creation of ours that was cut short."""
    return (os.path.isdir(path) and os.stat(path).st_uid == os.geteuid()
            and time.time() - os.path.getmtime(path) > STALE_S and is_unbegun(path))


def sweep(config: Config) -> List[str]:
    """Remove what crashes left, and return the paths.

    That is directories older than STALE_S that never became a job, if they hold only the beginnings
    of one, and jobs whose removal was cut short.  The copies of psik.py that no job needs are
    removed too.
    """
    swept = []
    JobTree(config)  # ForbiddenError if one of the folders is somebody else's
    for backend in config.by_name.values():
        for path in paths_in(backend.root):
            name = os.path.basename(path)
            is_jobid = re.fullmatch(r"[0-9]{10}\.[0-9]{3}", name)
            if name.startswith(".removed-") or (is_jobid and is_stale(path)):
                delete_tree(path)
                swept.append(path)
        Copies(backend.prefix).drop_unused()
    return swept


# ----------------------------------------------------------------------------- 13. Python interface

# Upstream's names, and an asynchronous face for the operations above: what blocks runs in a thread.

JobAttributes = BackendConfig
InvalidJobException = InvalidError
SubmitException = BackendError


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """The result of a blocking call, made in a thread of the running loop's pool."""
    import asyncio
    return await asyncio.get_event_loop().run_in_executor(None, function, *args)


class AsyncPath:
    """A path that never blocks the event loop: `await (job.base / "status.csv").read_text()`."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return self.path

    __str__ = __fspath__

    def __repr__(self) -> str:
        return "AsyncPath(%r)" % self.path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncPath) and other.path == self.path

    def __hash__(self) -> int:
        return hash(self.path)

    def __truediv__(self, name: Union[str, "os.PathLike[str]"]) -> "AsyncPath":
        return AsyncPath(os.path.join(self.path, os.fspath(name)))

    @property
    def name(self) -> str:
        """The last part of the path."""
        return os.path.basename(self.path)

    @property
    def parent(self) -> "AsyncPath":
        """The directory above."""
        return AsyncPath(os.path.dirname(self.path))

    async def exists(self) -> bool:
        """Whether there is such a file or directory."""
        return await in_thread(os.path.exists, self.path)

    async def read_bytes(self) -> bytes:
        """The content of a file; OSError if it cannot be read."""
        def read() -> bytes:
            with open(self.path, "rb") as file:
                return file.read()
        return await in_thread(read)

    async def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The content of a text file; OSError or UnicodeDecodeError if it cannot be read."""
        return (await self.read_bytes()).decode(encoding, errors)

    async def iterdir(self) -> AsyncIterator["AsyncPath"]:
        """The entries of a directory, sorted by name; OSError if it cannot be read."""
        for name in sorted(await in_thread(os.listdir, self.path)):
            yield self / name


async def look_in_loop(config: Config, jobs: Sequence[JobDir],
                       timeout_s: Optional[float] = None) -> AsyncIterator[List[Look]]:
    """As look_until_ended(), for an event loop: it looks in a thread, and sleeps in the loop."""
    import asyncio
    deadline = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
    for pause_s in pauses():
        looks = await in_thread(look_at, config, jobs)
        yield looks
        if all_ended(looks) or time.monotonic() >= deadline:
            return
        await asyncio.sleep(pause_s)


async def wait_in_loop(config: Config, jobs: Sequence[JobDir],
                       timeout_s: Optional[float]) -> List[Summary]:
    """As wait(), for an event loop."""
    summaries: List[Summary] = []
    async for looks in look_in_loop(config, jobs, timeout_s):
        summaries = [look.summary for look in looks]
    return summaries


class Job:
    """One job, by its directory.  `job = await Job(base)` reads it, and read_info() does so again.

    base is its directory; jobid, or as upstream calls it stamp, its id; spec its JobSpec; history
    its rows (time, jobndx, state, info) in file order; valid: spec and history were read.
    """
    spec: JobSpec

    def __init__(self, base: Union[str, "os.PathLike[str]", JobDir],
                 config: Optional[Config] = None) -> None:
        self.config = config or Config()
        if not isinstance(base, JobDir):
            base = JobDir(os.fspath(base), check_owner=self.config.check_owner)
        self.jobdir = base
        self.base = AsyncPath(self.jobdir.path)
        self.jobid = self.stamp = self.jobdir.jobid
        self.history: List[Row] = []
        self.valid = False

    def __repr__(self) -> str:
        return "Job(%r)" % self.jobdir.path

    def __await__(self) -> Generator[Any, None, "Job"]:
        return self.read_info().__await__()

    async def read_info(self) -> "Job":
        """Read spec and history, and return the job itself; NotFoundError if there is none."""
        rows = await in_thread(self.jobdir.rows)
        if not rows:
            raise NotFoundError("no job at %s" % self.jobdir.path)
        self.spec = await in_thread(self.jobdir.spec)
        self.history, self.valid = rows, True
        return self

    async def submit(self) -> Tuple[int, Info]:
        """Hand the next step to the scheduler; (jobndx, native id).  Errors as submit().

        (0, 0) if the job waits for others.
        """
        row = await in_thread(submit_next, self.config, self.jobdir)
        await self.read_info()
        return row.jobndx, row.info

    async def reached(self, jobndx: int, state: Union[str, JobState], info: Info = 0) -> bool:
        """Record that a step has come to a state; True.  InvalidError if there is no such state."""
        if state not in STATES:
            raise InvalidError(no_state(state))
        await in_thread(reached, self.jobdir, jobndx, STATES[state], info)
        await self.read_info()
        return True

    async def cancel(self) -> bool:
        """End every step that has not ended; whether there was one.  Errors as cancel()."""
        done = await in_thread(cancel, self.jobdir)
        await self.read_info()
        return done

    async def wait(self, timeout_s: Optional[float] = None) -> Summary:
        """Wait until the job has ended, or for timeout_s; exit_status(summary) is the job's own."""
        return (await wait_in_loop(self.config, [self.jobdir], timeout_s))[0]

    async def watch(self, after: int = 0) -> AsyncIterator[Row]:
        """As watch(): the rows of the history as they are written, until the latest step ends."""
        async for looks in look_in_loop(self.config, [self.jobdir]):
            for row in looks[0].rows[after:]:
                yield row
            after = max(after, len(looks[0].rows))

    async def logs(self, kind: str = "stdout", jobndx: Optional[int] = None) -> str:
        """A step's stdout or stderr so far, by default the latest step's.  Errors as logs()."""
        return await in_thread(logs, self.jobdir, kind, jobndx)

    async def remove(self, force: bool = False) -> None:
        """Remove the directory.  ConflictError if the job has not ended; force cancels it first."""
        await in_thread(remove, self.jobdir, force)

    def summarize(self) -> Tuple[int, Dict[JobState, Set[int]]]:
        """(the next jobndx, {state: the steps in it}), by the history as it was read last."""
        steps = Steps(self.history).states
        by_state: Dict[JobState, Set[int]] = {
            state: {jobndx for jobndx, row in steps.items() if row.state is state}
            for state in JobState if state is not JobState.new}
        return max(steps or [0]) + 1, by_state


class JobManager:
    """The jobs of a config, by default of the one in force: makes, lists and finds them.

    It holds nothing but the config, so threads may share one, and processes may use one tree.
    """

    def __init__(self, config: Optional[Config] = None) -> None:
        self.config = config or load_config()
        self.prefix = AsyncPath(next(iter(self.config.by_name.values())).prefix)

    async def create(self, spec: JobSpec, backend: Optional[str] = None) -> Job:
        """Make a job, which is `new`; backend names one of the config's.  Errors as create()."""
        return await Job(await in_thread(create, self.config, spec, backend), self.config)

    async def ls(self, backend: Optional[str] = None) -> AsyncIterator[Job]:
        """Every job by its files alone, oldest first as upstream has it; summaries() asks more."""
        for jobdir in reversed(await in_thread(lambda: list(JobTree(self.config).jobs(backend)))):
            job = Job(jobdir, self.config)
            try:
                await job.read_info()
            except (NotFoundError, InvalidError):  # it is no job, or was removed, or is broken
                continue
            yield job

    async def find(self, jobid: str) -> Job:
        """The job of an id or of its beginning; for `last`, the newest.  Errors as find_job()."""
        return await Job(await in_thread(find_job, self.config, jobid), self.config)

    async def summaries(self, backend: Optional[str] = None, state: Optional[str] = None,
                        limit: Optional[int] = None) -> List[Summary]:
        """The summaries of the jobs, newest first, brought up to date with their schedulers."""
        return await in_thread(list_jobs, self.config, backend, state, limit)

    async def wait(self, jobs: Iterable[Job], timeout_s: Optional[float] = None) -> List[Summary]:
        """Wait until all these jobs have ended, or for timeout_s; their summaries, in order."""
        return await wait_in_loop(self.config, [job.jobdir for job in jobs], timeout_s)


# ------------------------------------------------------------------------------- 14. Confined files

# Files in a folder, by names that come from outside.  No name leads out of the folder: not by `..`,
# not by a link, and not by a link that a job puts there between the check and the use.  So a path
# is resolved and checked first (real), and then opened part by part, following no link (descend).

Send = Callable[[bytes], None]
Refusals = Dict[int, Tuple[Type[PsikError], str]]   # {errno: our error, its message}
NO_FILE: Refusals = dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP),
                                  (NotFoundError, "no file %(path)r"))
NO_READING: Refusals = dict(NO_FILE)
NO_READING[errno.ENXIO] = ForbiddenError, "%(path)r is not a plain file"  # a socket
NO_REMOVING: Refusals = dict(NO_FILE)
NO_REMOVING[errno.EISDIR] = ConflictError, "%(path)r is a directory"
# An entry of an archive that was replaced by a link or a socket since it was looked at.
REPLACED: Refusals = dict.fromkeys((errno.ELOOP, errno.ENXIO),
                                 (NotFoundError, "%(path)r is something else now"))
NO_WRITING: Refusals = dict.fromkeys(
    (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTEMPTY,
     errno.ENXIO), (ConflictError, "%(path)r cannot be a file here: %(why)s"))
NO_WRITING[errno.ENOENT] = ConflictError, "nothing of %(path)r is here, or its directory is gone"


@contextmanager
def refusing(path: str, refusals: Refusals) -> Iterator[None]:
    """Turn an OSError listed in `refusals` into our error about `path`; let others through."""
    try:
        yield
    except OSError as err:
        if err.errno not in refusals:
            raise
        kind, message = refusals[err.errno]
        raise kind(message % {"path": path, "why": (err.strerror or "").lower()}) from None


CheckChange = Callable[[Optional[os.stat_result]], None]    # of the file that is there, or None;
                                                            # raises if it must not be changed


def etag(status: os.stat_result) -> str:
    """The ETag of a file."""
    return '"%x-%x"' % (status.st_mtime_ns, status.st_size)


def status_of(name: str, folder: int) -> Optional[os.stat_result]:
    """The status of a file in an open folder, a link counting as what it leads to; None if none."""
    for as_target in (True, False):    # a link may lead nowhere
        with suppress(OSError):
            return os.stat(name, dir_fd=folder, follow_symlinks=as_target)
    return None


# Entries: what is in a folder, or in an archive, one after another, on its way to another.

Entry = Tuple[Any, Optional[IO[bytes]]]     # a tarfile.TarInfo, and the content of a file
Hides = Callable[[os.stat_result], bool]    # whether a folder is passed over
NOT_TAKEN = "%s is left out: it is a link that leads out, or no plain file"
BECAME_SHORTER = "%s became shorter while it was copied; copy it again"


class Wanted:
    """Which paths are wanted: all, or those that fit one of these patterns.

    `*` in a pattern also stands for parts with a `/`.  What is called as one of `but`, or is in a
    folder of such a name, is wanted only if a pattern begins as the name does, and not with `*`.
    """

    def __init__(self, patterns: Sequence[str] = (), but: Sequence[str] = ()) -> None:
        import fnmatch
        texts = [os.path.normpath(pattern) for pattern in patterns]
        self.rules = [re.compile(fnmatch.translate(text)) for text in texts]
        self.plain = [re.split(r"[*?\[]", text)[0] for text in texts]   # how they begin
        self.but = {name for name in but if not any(
            name.startswith(plain or "*") or plain.startswith(name + "/") for plain in self.plain)}

    def has(self, path: str) -> bool:
        """Whether it, or a folder above it, is wanted."""
        parts = path.split("/")
        places = ["/".join(parts[:number]) for number in range(1, len(parts) + 1)]
        return parts[0] not in self.but and (not self.rules or any(
            rule.match(place) for rule in self.rules for place in places))

    def may_be_in(self, folder: str) -> bool:
        """Whether something in a folder may be wanted."""
        return self.has(folder) or any(
            (folder + "/")[:len(plain)] == plain[:len(folder) + 1] for plain in self.plain)


class Entries:
    """What is in folders, as entries.  The content of a file is open until the next one comes.

    strict: a user gave the folders, so she is told of what is left out; and an error at the end
    tells of what cannot be read, when all else has gone.
    """

    def __init__(self, hides: Hides = lambda status: False, wanted: Optional[Wanted] = None,
                 strict: bool = False) -> None:
        self.hides, self.wanted, self.strict = hides, wanted or Wanted(), strict
        self.missed: List[str] = []     # what cannot be read, and why

    def at(self, name: str, folder: int, item: str) -> Optional[Entry]:
        """What has this name in an open folder; None if it cannot be read, or is not to go."""
        try:
            with refusing(item, REPLACED):
                return self.look(name, folder, item)
        except (NotFoundError, FileNotFoundError, NotADirectoryError):
            self.missed.append("%s: it went meanwhile" % one_line(name))
        except PermissionError:
            self.missed.append("%s: permission denied" % one_line(name))
        return None

    def look(self, name: str, folder: int, item: str) -> Optional[Entry]:
        """The same; OSError if it cannot be read.  A file has the size that it has now."""
        import tarfile
        info: Any = tarfile.TarInfo(name)
        status, flags = os.stat(item, dir_fd=folder, follow_symlinks=False), os.O_NOFOLLOW
        info.mode, info.mtime = stat.S_IMODE(status.st_mode), max(0, int(status.st_mtime))
        if stat.S_ISREG(status.st_mode):
            fd = os.open(item, flags | os.O_NONBLOCK, dir_fd=folder)
            info.size = os.fstat(fd).st_size
            if not stat.S_ISREG(os.fstat(fd).st_mode):  # something else has taken its place
                os.close(fd)
                return None
            return info, open(fd, "rb")
        if stat.S_ISLNK(status.st_mode):
            info.type, info.linkname = tarfile.SYMTYPE, os.readlink(item, dir_fd=folder)
        elif stat.S_ISDIR(status.st_mode):
            os.close(os.open(item, flags | os.O_DIRECTORY, dir_fd=folder))
            info.type = tarfile.DIRTYPE
        elif stat.S_ISFIFO(status.st_mode):
            info.type = tarfile.FIFOTYPE
        elif self.strict:
            complain(NOT_TAKEN % one_line(name))
        is_odd = info.type == tarfile.REGTYPE or (info.isdir() and self.hides(status))
        return None if is_odd else (info, None)

    def inside(self, name: str, top: int) -> Iterator[Entry]:
        """Everything in an open folder, below name; what was seen as a directory is entered.

        If a directory has taken the place of a link meanwhile, its content is left out.
        """
        for folder, folders, files, fd in os.fwalk(".", dir_fd=top):
            entered = []
            for item in sorted(folders + files):
                path = os.path.normpath(os.path.join(folder, item))
                goes = self.wanted.has(path) and not item.startswith(UPLOAD_PREFIX)
                found = None
                if goes or (item in folders and self.wanted.may_be_in(path)):
                    found = self.at(os.path.join(name, path), fd, item)
                if not found:
                    continue
                entered += [item] * found[0].isdir()
                yield from self.one(found) if goes else ()
            folders[:] = entered

    @staticmethod
    def one(entry: Entry) -> Iterator[Entry]:
        """An entry, whose content is closed afterwards."""
        try:
            yield entry
        finally:
            if entry[1]:
                entry[1].close()

    def complete(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """These entries, and the error at their end."""
        yield from entries
        if self.strict and self.missed:
            more = "; and %d more" % (len(self.missed) - 3) * (len(self.missed) > 3)
            raise ForbiddenError("not copied: %s%s" % ("; ".join(self.missed[:3]), more))

    @staticmethod
    def names_of(paths: Sequence[str]) -> List[str]:
        """The names under which files and folders go; '' for those of which the content goes."""
        return ["" if name in (".", "..") else name for name in map(os.path.basename, paths)]

    @classmethod
    def tops_of(cls, paths: Sequence[str]) -> List[str]:
        """The names that they have where they arrive, those in a folder whose content goes too."""
        return [each for name, path in zip(cls.names_of(paths), paths)
                for each in ([name] if name or not os.path.isdir(path) else os.listdir(path))]

    @staticmethod
    def check_path(path: str) -> None:
        """NotFoundError or ForbiddenError if a user's path is no file or folder that is hers."""
        if not os.path.exists(path):
            raise NotFoundError("no file %s" % shown(path))
        is_either = os.path.isfile(path) or os.path.isdir(path)
        if not is_either or not os.access(path, os.R_OK):
            raise ForbiddenError("%s is no file or folder that you may read" % shown(path))

    @classmethod
    def of_paths(cls, paths: Sequence[str],
                 hides: Hides = lambda status: False) -> Iterator[Entry]:
        """Files, and folders with all that is in them, each under the last part of its path.

        What is in a folder stands by itself if the path ends with a slash, or is `.`.  A path may
        be a link; no link below it is followed.  InvalidError if two have the same name,
        NotFoundError or ForbiddenError if one is not there, or cannot be read.
        """
        for path in paths:
            cls.check_path(path)
        names = cls.tops_of(paths)
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise InvalidError("two of the files are called %s" % shown(twice))
        own = cls(hides, strict=True)
        return own.complete(entry for name, path in zip(cls.names_of(paths), paths)
                            for entry in own.of_path(name, path))

    def of_path(self, name: str, path: str) -> Iterator[Entry]:
        """A file, or a folder and all that is in it, under this name; '' for what is in it."""
        above, item = os.path.split(os.path.realpath(path))
        flags = getattr(os, "O_PATH", os.O_RDONLY)  # it need not be readable itself
        with naming(path), closing_fd(os.open(above, flags)) as folder:
            found = self.at(name or path, folder, item or ".")
        if found and name:
            yield from self.one(found)
        if found and found[0].isdir():
            with naming(path), closing_fd(os.open(path, os.O_RDONLY | os.O_DIRECTORY)) as top:
                yield from self.inside(name, top)


class Content:
    """The content of an entry, as save() writes it: shared with the original where that can be."""
    FICLONE = 0x40049409    # of Linux, on btrfs and xfs say

    def __init__(self, info: Any, file: IO[bytes]) -> None:
        self.info, self.file = info, file

    def is_file(self, status: Optional[os.stat_result]) -> bool:
        """Whether it comes from the very file that has this status."""
        with suppress(OSError, AttributeError):     # of an archive, it has no descriptor
            return status is not None and os.path.samestat(os.fstat(self.file.fileno()), status)
        return False

    def clone(self, fd: int) -> bool:
        """Let an empty file share the blocks of the original; whether that was done."""
        if sys.platform != "linux":
            return False
        import fcntl
        with suppress(OSError, AttributeError):     # of an archive, it has no descriptor
            fcntl.ioctl(fd, self.FICLONE, self.file.fileno())
            return True
        return False

    def write_to(self, fd: int) -> None:
        """Write it to an empty file, which gets its time, and of its mode what the umask leaves.

        ConflictError if the original became shorter meanwhile.
        """
        size = self.info.size if self.clone(fd) else self.copy(fd)
        if size < self.info.size:
            raise ConflictError(BECAME_SHORTER % one_line(self.info.name))
        mode = os.fstat(fd).st_mode     # as the umask has left it
        os.fchmod(fd, self.info.mode & (mode | (mode & 0o444) >> 2) | 0o400)
        os.utime(fd, (self.info.mtime, self.info.mtime))

    def copy(self, fd: int) -> int:
        """Copy it to an open file; how many bytes there were."""
        size = 0
        for block in iter(lambda: self.file.read(BLOCK), b""):
            write_whole(fd, block)
            size += len(block)
        return size


class ConfinedFolder:
    """A folder and the files in it, by paths that come from outside and are relative to it.

    ForbiddenError if a path leads out of the folder, or into one of the hidden folders.
    """
    changes = _thread.allocate_lock()   # held from a check of an ETag to the change

    def __init__(self, root: str, hidden: Iterable[str] = ()) -> None:
        self.root = os.path.realpath(root)
        self.hidden = [os.stat(path) for path in hidden if os.path.isdir(path)]

    def hides(self, folder: os.stat_result) -> bool:
        """Whether this is one of the hidden folders, by whatever path it was reached."""
        return any(os.path.samestat(folder, other) for other in self.hidden)

    def real(self, path: str) -> str:
        """The absolute path of `path`, with all its links resolved."""
        parts = [part for part in path.split("/") if part not in ("", ".")]
        real = os.path.realpath(os.path.join(self.root, *parts))
        inside = real == self.root or real.startswith(self.root.rstrip("/") + "/")
        if ".." in parts or not inside:
            raise ForbiddenError("%r leads out of the directory" % path)
        return real

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder at this path."""
        return os.path.isdir(self.real(path))

    def descend(self, real: str, make: bool = False) -> int:
        """A descriptor of the folder at a path that real() gave; make: create what is missing."""
        try:
            fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            raise NotFoundError("%s is gone" % self.root) from None
        for part in os.path.relpath(real, self.root).split("/") if real != self.root else []:
            try:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=fd)
                # real() has resolved every link, so a link that is met now was put there since.
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            finally:
                os.close(fd)
            fd = inner
            if self.hides(os.fstat(fd)):
                os.close(fd)
                raise ForbiddenError("%s holds everybody's jobs, and no files of this one" % real)
        return fd

    def open(self, path: str) -> IO[bytes]:
        """A file, open for reading.  NotFoundError; ForbiddenError if it is not a plain file."""
        real = self.real(path)
        above = os.path.dirname(real) if real != self.root else real
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # not to wait for a FIFO's writer
        with refusing(path, NO_READING), closing_fd(self.descend(above)) as folder:
            fd = os.open(os.path.basename(real), flags, dir_fd=folder)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise ForbiddenError("%r is not a plain file" % path)
        return open(fd, "rb")

    def split(self, path: str) -> Tuple[str, str]:
        """(folder, name) of a file that is to be written or removed, the folder as real() has it.

        InvalidError if path names no file; ForbiddenError if it is absolute.
        """
        above, _, name = path.rpartition("/")
        if path.startswith("/"):
            raise ForbiddenError("%s leads out of the directory" % shown(path))
        if name in ("", ".", "..") or "\0" in path or name.startswith(UPLOAD_PREFIX):
            raise InvalidError("%s names no file" % shown(path))
        return self.real(above), name

    @staticmethod
    def part_name(name: str) -> str:
        """The name under which a part of a file is kept until the rest of it has come."""
        import hashlib
        mark = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
        return UPLOAD_PREFIX + mark[:32]

    @staticmethod
    def write(fd: int, blocks: Union[Iterable[bytes], Content]) -> None:
        """Write blocks to an open file."""
        if isinstance(blocks, Content):
            blocks.write_to(fd)
            return
        for block in blocks:
            write_whole(fd, block)

    @staticmethod
    def is_same(fd: int, name: str, folder: int) -> bool:
        """Whether an open file still has this name, and is a plain file of ours that has no other.

        Others may have put a link or a file of theirs under a name that they can foretell.
        """
        status = os.fstat(fd)
        with suppress(FileNotFoundError):
            named = os.stat(name, dir_fd=folder, follow_symlinks=False)
            return (os.path.samestat(status, named) and stat.S_ISREG(status.st_mode)
                    and status.st_uid == os.geteuid() and status.st_nlink == 1)
        return False

    def drop_part(self, folder: int, part: str) -> bool:
        """Remove a part of an upload, unless a request is writing it; whether there was one."""
        with suppress(OSError), closing_fd(
                os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)) as fd:
            with locked(fd, patient=False):
                os.unlink(part, dir_fd=folder)
            return True
        return False

    def save(self, path: str, blocks: Union[Iterable[bytes], Content],
             check: CheckChange = lambda status: None,
             cut: Tuple[Type[BaseException], ...] = ()) -> None:
        """Write a file, and make the folders above it; the file appears whole or not at all.

        check is called before the file takes its name.  If blocks raises one of `cut`, what has
        come is kept, for append().  InvalidError or ForbiddenError as split(); ConflictError if
        path names a directory, or leads through a file.
        """
        real, name = self.split(path)
        temporary, part = "%s%s" % (UPLOAD_PREFIX, os.urandom(8).hex()), self.part_name(name)
        with refusing(path, NO_WRITING), closing_fd(self.descend(real, make=True)) as folder:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            try:
                with closing_fd(os.open(temporary, flags, 0o666, dir_fd=folder)) as fd:
                    self.write(fd, blocks)
                with self.changes:
                    check(status_of(name, folder))
                    # Replaces a link itself, and never what the link leads to.
                    os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
                self.drop_part(folder, part)    # it is needless now
            except BaseException as err:
                with suppress(FileNotFoundError):
                    if isinstance(err, cut):
                        self.drop_part(folder, part)
                        with suppress(OSError):     # another request is writing one
                            os.link(temporary, part, src_dir_fd=folder, dst_dir_fd=folder)
                    os.unlink(temporary, dir_fd=folder)
                raise

    @staticmethod
    def open_part(folder: int, part: str, start: int) -> int:
        """A descriptor of a part of an upload; made if it begins anew."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
        return os.open(part, flags if start else flags | os.O_CREAT, 0o666, dir_fd=folder)

    def append(self, path: str, start: int, total: int, blocks: Iterable[bytes],
               check: CheckChange) -> int:
        """Write a file in parts: blocks begin at start, and the file is whole with total bytes.

        The number of bytes that are there now.  A start of 0 begins anew; ConflictError if any
        other is not where the parts before end, or if another request is writing one.
        """
        real, name = self.split(path)
        part = self.part_name(name)
        try:
            with refusing(path, NO_WRITING), \
                    closing_fd(self.descend(real, make=not start)) as folder, \
                    closing_fd(self.open_part(folder, part, start)) as fd, \
                    locked(fd, patient=False):
                return self.extend(fd, folder, name, start, total, blocks, check)
        except BlockingIOError:
            raise ConflictError("another request uploads %s" % shown(path)) from None

    def extend(self, fd: int, folder: int, name: str, start: int, total: int,
               blocks: Iterable[bytes], check: CheckChange) -> int:
        """As append(), with the part of the file open and locked."""
        part, size = self.part_name(name), os.fstat(fd).st_size
        if not self.is_same(fd, part, folder):
            raise ConflictError("an upload of %s cannot go on: something else is in its place"
                                % shown(name))
        if start not in (0, size):
            raise ConflictError("%d bytes of %s are here; go on there, or begin anew"
                                % (size, shown(name)))
        os.ftruncate(fd, start)
        os.lseek(fd, start, os.SEEK_SET)
        self.write(fd, blocks)
        size = os.fstat(fd).st_size
        if size == total:
            with self.changes:
                check(status_of(name, folder))
                if not self.is_same(fd, part, folder):
                    raise ConflictError("%s was uploaded by another request meanwhile"
                                        % shown(name))
                os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
        return size

    def part_size(self, path: str) -> Optional[int]:
        """How many bytes of a file's upload have come, if that is not complete; else None."""
        with suppress(OSError, PsikError):
            real, name = self.split(path)
            with closing_fd(self.descend(real)) as folder:
                return os.stat(self.part_name(name), dir_fd=folder, follow_symlinks=False).st_size
        return None

    def status(self, path: str) -> Optional[os.stat_result]:
        """The status of a file that is to be written or removed; None if there is none."""
        real, name = self.split(path)
        with suppress(OSError), closing_fd(self.descend(real)) as folder:
            return status_of(name, folder)
        return None

    def unlink(self, path: str, check: CheckChange = lambda status: None) -> None:
        """Remove a file or a link, if check() lets it, and what has come of an upload of it.

        NotFoundError if there is neither; ConflictError if it is a directory.
        """
        real, name = self.split(path.rstrip("/"))
        with refusing(path, NO_REMOVING), closing_fd(self.descend(real)) as folder:
            with self.changes:
                check(status_of(name, folder))
                had_part = self.drop_part(folder, self.part_name(name))
                try:
                    os.unlink(name, dir_fd=folder)
                except FileNotFoundError:
                    if not had_part:
                        raise

    def entries(self, path: str = "", name: str = "",
                wanted: Optional[Wanted] = None, strict: bool = False) -> Iterator[Entry]:
        """Everything in the folder at a path that is wanted; below name.

        strict: as for Entries.
        """
        with closing_fd(self.descend(self.real(path))) as top:
            own = Entries(self.hides, wanted, strict)
            yield from own.complete(own.inside(name, top))

    def digest(self) -> str:
        """What tells the folder's files, and their names, from others."""
        import hashlib
        found = hashlib.sha256()
        for info, content in self.entries():
            found.update(("%s\0%s\0%d\0" % (info.name, info.linkname, info.size)).encode(
                "utf-8", "surrogateescape"))
            block = content.read(BLOCK) if content else b""
            while content and block:
                found.update(block)
                block = content.read(BLOCK)
        return found.hexdigest()

    def take_in(self, entries: Iterable[Entry], below: str = "") -> List[str]:
        """Write entries that come from elsewhere below a path; the names of up to 100 left out.

        These are devices, FIFOs, hard links, and links that lead out of the folder.  Files replace
        others of their names, each at once.  ForbiddenError if a name leads out.
        """
        left_out: List[str] = []
        for info, content in entries:
            parts = (below + "/" + info.name).split("/")
            name = "/".join(part for part in parts if part not in ("", "."))
            with refusing(name, NO_WRITING), \
                    naming(os.path.join(self.root, name), always=True):
                if info.isdir():
                    self.make_folder(name, info.mode)
                elif content:
                    self.replace_by(name, Content(info, content))
                elif not (info.issym() and self.link(name, info.linkname)):
                    left_out += [one_line(info.name)[:MAX_PART]] * (len(left_out) < 100)
        return left_out

    def replace_by(self, path: str, content: Content) -> None:
        """Let a file have this content, unless that is its own: somebody may be writing it."""
        if not content.is_file(self.status(path)):
            self.save(path, content)

    def make_folder(self, path: str, mode: int) -> None:
        """Make a folder, and those above it; of the mode, a new one gets what the umask leaves."""
        real = self.real(path)
        is_new = not os.path.lexists(real)
        with closing_fd(self.descend(real, make=True)) as folder:
            if is_new:
                os.fchmod(folder, os.fstat(folder).st_mode & mode & 0o777 | 0o700)

    def link(self, path: str, target: str) -> bool:
        """Make a symbolic link in place of what is there; False if it could lead out."""
        real, name = self.split(path)
        inside = os.path.normpath(os.path.join(os.path.relpath(real, self.root), target))
        # Behind the name of a link, `..` is not the folder in which that link is.
        parts = target.split("/")
        is_plain = parts[:parts.count("..")] == [".."] * parts.count("..")
        if os.path.isabs(target) or inside.split("/")[0] == ".." or not is_plain:
            return False
        temporary = "%s%s" % (UPLOAD_PREFIX, os.urandom(8).hex())
        with closing_fd(self.descend(real, make=True)) as folder:
            try:
                os.symlink(target, temporary, dir_fd=folder)
            except (OSError, ValueError):   # it is empty, say, or too long, or has a NUL in it
                return False
            try:
                os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                os.unlink(temporary, dir_fd=folder)
                raise
        return True

    def stat(self, path: str = "") -> Dict[str, Dict[str, int]]:
        """{name: {size, atime, mtime}} of a folder's entries, where a link stands for itself.

        NotFoundError if there is no such folder.
        """
        try:
            fd = self.descend(self.real(path))
        except OSError:
            raise NotFoundError("no directory %r" % path) from None
        entries = {}
        with closing_fd(fd):
            for item in sorted(os.listdir(fd)):
                try:
                    status = os.stat(item, dir_fd=fd, follow_symlinks=False)
                except FileNotFoundError:  # removed meanwhile
                    continue
                if not item.startswith(UPLOAD_PREFIX):
                    # JSON cannot carry the bytes of a name that is not UTF-8.
                    name = item.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                    entries[name] = {"size": status.st_size, "atime": int(status.st_atime),
                                     "mtime": int(status.st_mtime)}
        return entries


class BlockFile:
    """Blocks, as a file that is read once."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self.blocks, self.buffer = iter(blocks), bytearray()

    def fill(self, size: int) -> None:
        """Have as many bytes at hand, or all that are left."""
        while len(self.buffer) < size:
            block = next(self.blocks, None)
            if block is None:
                break
            self.buffer += block

    def read(self, size: int) -> bytes:
        """The next bytes, fewer at the end."""
        self.fill(size)
        data = bytes(memoryview(self.buffer)[:size])
        del self.buffer[:size]  # the front of a bytearray goes without a copy of the rest
        return data


class TarContent:
    """The content of a file in an archive; it has to be read before the next entry."""

    def __init__(self, tar: "TarReader", size: int) -> None:
        self.tar, self.remaining = tar, size

    def read(self, size: int) -> bytes:
        """The next block; b"" at the end."""
        size = min(size, self.remaining)
        self.remaining -= size
        return self.tar.take(size) if size else b""

    def close(self) -> None:
        """Pass over what was not read."""
        while self.read(BLOCK):
            pass


class TarReader:
    """An archive of tar (POSIX, pax, GNU), also gzipped, that is read once, from a pipe say.

    Of hostile archives tarfile reads names of any length into memory, works for hours at certain
    headers, and takes sizes below 0; and one that is cut between two files is whole to it.  So
    only the single header is read by tarfile here.  InvalidError if an archive is none, is cut, or
    holds more bytes than limit; what names it.
    """

    def __init__(self, blocks: Iterable[bytes], what: str, limit: float = float("inf")) -> None:
        import itertools
        self.what, self.limit, self.file = what, limit, BlockFile(blocks)
        self.file.fill(2)
        if self.file.buffer[:2] == b"\x1f\x8b":
            packed = itertools.chain([bytes(self.file.buffer)], self.file.blocks)
            self.file = BlockFile(self.inflated(packed))

    @staticmethod
    def inflated(blocks: Iterable[bytes]) -> Iterator[bytes]:
        """The content of gzip, in blocks of bounded size; zlib.error if it is none."""
        import zlib
        stream = zlib.decompressobj(zlib.MAX_WBITS + 16)
        for block in blocks:
            while block:
                if stream.eof:  # another member follows
                    stream = zlib.decompressobj(zlib.MAX_WBITS + 16)
                yield stream.decompress(block, BLOCK)
                block = stream.unused_data or stream.unconsumed_tail
        if not stream.eof:
            raise zlib.error("it is cut")

    def fault(self, why: str) -> InvalidError:
        """The error that this is wrong with the archive."""
        return InvalidError("%s is no whole tar archive: %s" % (self.what, why))

    def take(self, size: int) -> bytes:
        """So many bytes."""
        import zlib
        try:
            data = self.file.read(size)
        except zlib.error as err:
            raise self.fault(str(err)) from None
        if len(data) < size:
            raise self.fault("it is cut")
        return data

    def header(self) -> Any:
        """The next header as a TarInfo; None at the end."""
        import tarfile
        block = self.take(tarfile.BLOCKSIZE)
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as err:
            if block.count(0) == len(block):
                return None
            raise self.fault(str(err)) from None
        if info.size < 0 or info.type == tarfile.GNUTYPE_SPARSE:
            raise self.fault("files with holes are not taken; make it without --sparse")
        return info

    def records(self, info: Any) -> Dict[str, str]:
        """What a header of names says of the entry behind it: path, linkpath, size and mtime."""
        if info.size > MAX_NAMES:
            raise self.fault("a name is too long")
        data = self.take(-(-info.size // 512) * 512)[:info.size]
        if info.type in (b"L", b"K"):
            name = self.text(data.partition(b"\0")[0])
            return {"path" if info.type == b"L" else "linkpath": name}
        found = dict(self.pax_records(data)) if info.type == b"x" else {}
        if any(key.startswith("GNU.sparse") for key in found):
            raise self.fault("files with holes are not taken; make it without --sparse")
        return found

    def pax_records(self, data: bytes) -> Iterator[Tuple[str, str]]:
        """The records of a header of pax: LENGTH KEY=VALUE and a newline."""
        while data:
            head = data[:20].partition(b" ")[0]
            length = int(head) if head.isdigit() else 0
            key, equals, value = data[len(head) + 1:length - 1].partition(b"=")
            if not equals or data[length - 1:length] != b"\n":
                raise self.fault("a header is invalid")
            yield self.text(key), self.text(value)
            data = data[length:]

    @staticmethod
    def text(data: bytes) -> str:
        """A name; what is no UTF-8 stays as it is, as in the names of files."""
        return data.decode("utf-8", "surrogateescape")

    def apply(self, info: Any, records: Dict[str, str]) -> None:
        """Let an entry be what the headers before it say."""
        import tarfile
        info.name, info.linkname = (records.get("path", info.name),
                                    records.get("linkpath", info.linkname))
        size, seconds = records.get("size", "0"), records.get("mtime", "0").partition(".")[0]
        if "size" in records:
            info.size = int(size) if re.fullmatch("[0-9]{1,18}", size) else -1
        if "mtime" in records:
            info.mtime = int(seconds) if re.fullmatch("[0-9]{1,18}", seconds) else 0
        info.mtime = min(max(info.mtime, 0), 2 ** 33)
        if not info.isreg() and info.type in tarfile.SUPPORTED_TYPES:
            info.size = 0   # of a hard link it may be that of the file, and nothing follows
        if "\0" in info.name + info.linkname or info.size < 0:
            raise self.fault("a header is invalid")

    def entries(self) -> Iterator[Entry]:
        """Its entries.  The content of a file is there until the next one is asked for."""
        records: Dict[str, str] = {}
        left = self.limit
        for info in iter(self.header, None):
            if info.type in (b"x", b"g", b"L", b"K"):
                records.update(self.records(info))
                continue
            self.apply(info, records)
            records = {}
            content: Any = TarContent(self, info.size)
            left -= info.size
            if left < 0:
                raise InvalidError("%s holds more than %d bytes" % (self.what, self.limit))
            yield info, content if info.isreg() else None
            content.close()
            self.take(-info.size % 512)


class BoundedReads:
    """A file of which never more than a bounded part is read into memory at once.

    zipfile reads the whole list of what is in an archive, as long as the archive says that it is.
    """
    MAX = 4 * 2 ** 20       # bytes: the list of some 50,000 files

    def __init__(self, file: IO[bytes]) -> None:
        self.seek, self.tell, self.seekable, self.file = file.seek, file.tell, file.seekable, file

    def read(self, size: int = -1) -> bytes:
        """As a file's; ValueError for more."""
        data = self.file.read(self.MAX + 1 if size < 0 else min(size, self.MAX + 1))
        if len(data) > self.MAX:
            raise ValueError("it lists too many files")
        return data


class ZipContent:
    """The content of a file in a zip archive."""

    def __init__(self, archive: "ZipReader", item: Any) -> None:
        with archive.faults():
            self.archive, self.file = archive, archive.zip.open(item)

    def read(self, size: int) -> bytes:
        """The next block; b"" at the end.  InvalidError if it is damaged."""
        with self.archive.faults():
            return bytes(self.file.read(size))

    def close(self) -> None:
        """Read no more."""
        self.file.close()


class ZipReader:
    """A zip archive that lies in a file.  Errors and limit as for TarReader."""

    def __init__(self, file: IO[bytes], what: str, limit: float = float("inf")) -> None:
        import zipfile
        self.what, self.limit = what, limit
        bounded: Any = BoundedReads(file)
        with self.faults():
            self.zip: Any = zipfile.ZipFile(bounded)

    @classmethod
    @contextmanager
    def or_tar(cls, blocks: Iterable[bytes], what: str, limit: float, place: str
               ) -> Iterator[Iterator[Entry]]:
        """The entries of an archive that comes in blocks: of a zip, or of a tar, also gzipped.

        place: a folder where a zip may lie meanwhile, without a name.
        """
        import itertools
        import tempfile
        file = BlockFile(blocks)
        file.fill(4)
        if file.buffer[:2] != b"PK":
            blocks = itertools.chain([bytes(file.buffer)], file.blocks)
            yield TarReader(blocks, what, limit).entries()
            return
        with tempfile.TemporaryFile(dir=place) as whole:    # zip has its list of files at the end
            for block in iter(lambda: file.read(BLOCK), b""):
                whole.write(block)
            yield cls(whole, what, limit).entries()

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Re-raise what zipfile raises for a damaged archive as InvalidError."""
        try:
            yield
        except Exception as err:    # at what hostile ones hold, it may stumble anywhere
            if isinstance(err, PsikError) or (isinstance(err, OSError)
                                              and err.errno != errno.EINVAL):
                raise
            why = str(err) or type(err).__name__
            raise InvalidError("%s is no whole zip archive: %s" % (self.what, why)) from None

    def info(self, item: Any) -> Any:
        """A file of the archive, as a tarfile.TarInfo; a device and its like is one of those."""
        import tarfile
        info, mode = tarfile.TarInfo(item.filename.rstrip("/")), item.external_attr >> 16
        info.size, info.mode = item.file_size, stat.S_IMODE(mode) or 0o644
        with suppress(ValueError, OverflowError):   # it has no date
            info.mtime = int(time.mktime(item.date_time + (0, 0, -1)))
        if item.filename.endswith("/"):
            info.type, info.mode = tarfile.DIRTYPE, stat.S_IMODE(mode) or 0o755
        elif stat.S_ISLNK(mode):
            info.type = tarfile.SYMTYPE
        elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            info.type = tarfile.CHRTYPE
        return info

    def entries(self) -> Iterator[Entry]:
        """Its entries.  The content of a file is there until the next one is asked for."""
        import zipfile
        left = self.limit
        for item in self.zip.infolist():
            info = self.info(item)
            left -= info.size
            if left < 0:
                raise InvalidError("%s holds more than %d bytes" % (self.what, self.limit))
            # The other methods of compression inflate a block without a limit.
            if item.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise InvalidError("%s is compressed by a method that is not taken" % self.what)
            if info.issym() or info.isreg():
                content: Any = ZipContent(self, item)
                if info.issym():
                    info.linkname = content.read(MAX_PART * 16).decode("utf-8", "surrogateescape")
                yield info, content if info.isreg() else None
                content.close()
            else:
                yield info, None


class Padded:
    """A file that yields exactly size bytes, with zeros after its end."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.remaining, self.lacked = file, size, False

    def read(self, size: int) -> bytes:
        """The next block."""
        size = min(size, self.remaining)
        self.remaining -= size
        data = self.file.read(size)
        self.lacked = self.lacked or len(data) < size
        return data + b"\0" * (size - len(data))


class Archive:
    """A tar archive that is sent while it is made; links stay links.

    A file that changes meanwhile keeps the size that its header has announced.
    """

    turn = _thread.allocate_lock()  # one block at a time is compressed, which leaves other cores
                                    # to the requests that are answered meanwhile

    def __init__(self, send: Send, packed: bool) -> None:
        """packed: by gzip."""
        import tarfile
        import zlib
        self.send = send
        # tarfile's own compression takes the highest level: of text 6 times the work of this one,
        # for a tenth less to send.
        self.gzip = zlib.compressobj(3, zlib.DEFLATED, zlib.MAX_WBITS + 16) if packed else None
        self.tar: Any = tarfile.open(fileobj=self, mode="w|", bufsize=65536)  # type: ignore

    def write(self, data: bytes) -> int:
        """Pass on what tarfile writes, compressed if it is to be."""
        block = data
        if self.gzip:
            with self.turn:
                block = self.gzip.compress(data)
        self.send(block)
        return len(data)

    def close(self) -> None:
        """Send the end of the archive."""
        self.tar.close()
        if self.gzip:
            self.send(self.gzip.flush())


def write_archive(entries: Iterable[Entry], send: Send, packed: bool = True,
                  strict: bool = False) -> None:
    """Send entries as a tar archive, by default as a .tar.gz.

    strict: ConflictError if a file becomes shorter meanwhile, instead of zeros at its end.
    """
    archive = Archive(send, packed)
    try:
        for info, content in entries:
            padded = Padded(content, info.size) if content else None
            archive.tar.addfile(info, padded)
            if strict and padded and padded.lacked:
                raise ConflictError(BECAME_SHORTER % one_line(info.name))
    except BaseException:
        # tarfile sends the rest of its buffer when it is collected, whoever has the connection.
        archive.send = lambda data: None
        raise
    finally:
        archive.close()


# --------------------------------------------------------------------------------- 15. Applications

# A script for others, who may run nothing else.  They give values, which are checked against a
# schema and reach the script as variables: no value ever becomes a part of the script's text.

class Pattern:
    """A regular expression that a schema may have: one that JSON Schema and Python read alike.

    It is matched by all ways at once, so the time grows with the text and the number of states, and
    with nothing else; `re` tries one way after another, for minutes at certain texts, and lets no
    other thread run meanwhile.  No group may be repeated, and none referred back to.  `\\s`, `\\w`
    and `\\b` go by ASCII.
    """

    MAX_TEXT = 1000     # characters of a value that is matched
    MAX_STATES = 256
    MAX_STEPS = 500     # that are remembered
    ESCAPE = r"\\(?:[dDsSwWfnrtv]|[^A-Za-z0-9])"
    PIECE = (   # not compiled yet: most starts of psik.py need no pattern
        r"(?P<atom>%s|\[\^?(?!\])(?:(?!--|&&|~~|\|\|)(?:%s|[^\]\\\[]))+\]|[^\\\[\](){}*+?^$|])|"
        r"(?P<times>(?:[*+?]|\{[0-9]{1,3}(?:,[0-9]{0,3})?\})\??)|"
        r"(?P<edge>\\[bB]|\^|\$)|(?P<open>\(\?:|\((?!\?))|(?P<close>\))|(?P<or>\|)"
        % (ESCAPE, ESCAPE))
    END = 0     # the state in which it is found

    def __init__(self, text: str) -> None:
        """ValueError says why it may not be used."""
        self.tests: List[Any] = [None]          # of each state: what takes a character to the next
        self.edges: List[str] = [""]            # or what has to be here, as `^`
        self.nexts: List[List[int]] = [[]]      # the states that follow
        self.steps: Dict[Any, FrozenSet[int]] = {}
        self.rest = list(self.pieces(text))
        self.start = self.either(self.END)
        if self.rest:
            raise ValueError("%s has a ) too many" % shown(text))

    @classmethod
    def pieces(cls, text: str) -> Iterator[Tuple[str, str]]:
        """(kind, text) of each piece of a pattern; ValueError if there is another."""
        piece, place, before = re.compile(cls.PIECE, re.DOTALL), 0, ""
        while place < len(text):
            match = piece.match(text, place)
            if not match:
                raise ValueError("%s is not understood at %s" % (shown(text), shown(text[place:])))
            if match.lastgroup == "times" and before != "atom":
                raise ValueError("only a single character or a class [...] may be repeated, and no "
                                 "group: %s" % shown(text[:match.end()]))
            before, place = str(match.lastgroup), match.end()
            yield before, match.group()

    # Making the states, from the end to the beginning.

    def state(self, nexts: List[int], test: Any = None, edge: str = "") -> int:
        """A new state."""
        self.tests.append(test)
        self.edges.append(edge)
        self.nexts.append(nexts)
        if len(self.tests) > self.MAX_STATES:
            raise ValueError("it is too long")
        return len(self.tests) - 1

    def either(self, after: int) -> int:
        """The state before the alternatives that come next."""
        begins = []
        while True:
            items = []
            while self.rest and self.rest[0][0] not in ("or", "close"):
                items.append(self.item())
            begin = after
            for item in reversed(items):
                begin = item(begin)
            begins.append(begin)
            if not self.rest or self.rest[0][0] == "close":
                return self.state(begins)
            self.rest.pop(0)

    def item(self) -> Callable[[int], int]:
        """What makes the states of the next item, before a state."""
        kind, text = self.rest.pop(0)
        if kind == "open":
            # Its end is not known yet; this state leads there.
            leave = self.state([])
            begin = self.either(leave)
            if not self.rest:
                raise ValueError("a ( is not closed")
            self.rest.pop(0)

            def join(after: int) -> int:
                self.nexts[leave].append(after)
                return begin
            return join
        if kind == "edge":
            return lambda after: self.state([after], edge=text)
        times = self.rest.pop(0)[1] if self.rest and self.rest[0][0] == "times" else "{1}"
        return lambda after: self.repeated(self.test(text), times.rstrip("?") or "?", after)

    @staticmethod
    def test(text: str) -> Any:
        """What tells whether a character fits an atom; ValueError."""
        try:
            # `.` passes over the ends of lines that the standard knows.
            return re.compile("[^\n\r\u2028\u2029]" if text == "." else text, re.ASCII).match
        except re.error as err:
            raise ValueError("%s is no pattern: %s" % (shown(text), err)) from None

    @staticmethod
    def bounds(times: str) -> Tuple[int, Optional[int]]:
        """How often `*`, `+`, `?` or `{2,3}` repeats, at least and at most."""
        if times[0] != "{":
            return int(times == "+"), 1 if times == "?" else None
        low, comma, high = times[1:-1].partition(",")
        least, most = int(low), int(high or low) if high or not comma else None
        if most is not None and most < least:
            raise ValueError("%s repeats nothing" % times)
        return least, most

    def repeated(self, test: Any, times: str, after: int) -> int:
        """The state before a repeated character."""
        (least, most), begin = self.bounds(times), after
        if most is None:
            begin = self.state([after])
            self.nexts[begin].append(self.state([begin], test))
        for _ in range(0 if most is None else most - least):
            begin = self.state([after, self.state([begin], test)])
        for _ in range(least):
            begin = self.state([begin], test)
        return begin

    # Matching.

    @staticmethod
    def holds(edge: str, before: str, after: str) -> bool:
        """Whether `^`, `$`, `\\b` or `\\B` is between two characters, of which '' is none."""
        if edge in ("^", "$"):
            return not (before if edge == "^" else after)
        words = [bool(re.match(r"\w", each, re.ASCII)) for each in (before, after)]
        return (words[0] != words[1]) == (edge == r"\b")

    def reached(self, states: Iterable[int], before: str, after: str) -> FrozenSet[int]:
        """The states that are reached from some between two characters, these too."""
        found: Set[int] = set()
        left = list(states)
        while left:
            state = left.pop()
            if state not in found:
                found.add(state)
                edge = self.edges[state]
                if not self.tests[state] and (not edge or self.holds(edge, before, after)):
                    left += self.nexts[state]
        return frozenset(found)

    def step(self, states: FrozenSet[int], before: str, after: str) -> FrozenSet[int]:
        """The states after a character, with another to come; it may begin there, too."""
        key = states, before, after
        found = self.steps.get(key)
        if found is None:
            passed = [following for state in states for following in self.nexts[state]
                      if self.tests[state] and self.tests[state](before)]
            found = self.reached(passed + [self.start], before, after)
            if len(self.steps) < self.MAX_STEPS:
                self.steps[key] = found
        return found

    def found_in(self, text: str) -> bool:
        """Whether it is found in a text."""
        states = self.reached([self.start], "", text[:1])
        for place, character in enumerate(text):
            if self.END in states:
                break
            states = self.step(states, character, text[place + 1:place + 2])
        return self.END in states

    # As a keyword.

    @classmethod
    @lru_cache(maxsize=1000)
    def of(cls, text: str) -> "Pattern":
        """The pattern of a text; ValueError if it may not be used."""
        return cls(text)

    @classmethod
    def wrong(cls, text: Any) -> str:
        """What is wrong with the value of `pattern`, or ''."""
        try:
            cls.of(text)
        except (ValueError, RecursionError) as err:
            return str(err)
        except TypeError:
            return "%s is not a text" % shown(text)
        return ""

    @classmethod
    def fits(cls, value: str, text: str) -> bool:
        """Whether a pattern is found in a value."""
        return len(value) <= cls.MAX_TEXT and cls.of(text).found_in(value)


class Keyword(NamedTuple):
    """A keyword of JSON Schema that says one thing of the values of one kind."""
    kind: str                               # of these values, or `any`
    wrong: Callable[[Json], str]            # what is wrong with what a schema gives it, or ''
    holds: Callable[[Any, Any], bool]       # whether it holds for a value; the second is the limit
    message: str                            # of a value for which it does not, with the limit

    def faults(self, value: Json, limit: Json, path: str) -> Iterator[Fault]:
        """The fault of a value for which it does not hold."""
        if not self.holds(value, limit):
            message = self.message % shown(limit) if "%" in self.message else self.message
            yield Fault(path, "%s %s" % (shown(value), message))


class Placed(str):
    """An input that is a file: the path of the file."""


class JsonValue:
    """What values of JSON's types are to JSON Schema."""

    KINDS = {str: ("string",), bool: ("boolean",), type(None): ("null",), dict: ("object",),
             list: ("array",), int: ("integer", "number"), float: ("number",)}

    @classmethod
    def kinds(cls, value: Json) -> Tuple[str, ...]:
        """The types that a value has; 1.0 is an integer too, and true no number."""
        if type(value) is float and value.is_integer():
            return "integer", "number"
        return next(kinds for kind, kinds in cls.KINDS.items() if isinstance(value, kind))

    @classmethod
    def are_equal(cls, one: Json, other: Json) -> bool:
        """Whether two values are the same; 1 and 1.0 are, 1 and true are not."""
        if isinstance(one, bool) or isinstance(other, bool):
            return one is other
        if isinstance(one, list) and isinstance(other, list):
            return len(one) == len(other) and all(map(cls.are_equal, one, other))
        if isinstance(one, dict) and isinstance(other, dict):
            return set(one) == set(other) and all(cls.are_equal(one[name], other[name])
                                                  for name in one)
        return bool(one == other)

    @classmethod
    def are_types(cls, given: Json) -> bool:
        """Whether this is the name of a type, or a list of some."""
        names = given if isinstance(given, list) else [given]
        known = {kind for kinds in cls.KINDS.values() for kind in kinds}
        return bool(names) and all(isinstance(name, str) and name in known for name in names)

    @staticmethod
    def is_multiple(value: Any, step: Any) -> bool:
        """Whether a number is a multiple of another, as decimals: 0.3 is one of 0.1."""
        from fractions import Fraction
        return (Fraction(str(value)) / Fraction(str(step))).denominator == 1

    @staticmethod
    def decoded(text: str) -> bytes:
        """What a text in base64 holds; ValueError."""
        import base64
        if not re.fullmatch("[A-Za-z0-9+/]*={0,2}", text):  # Python 3.6 lets a newline end it
            raise ValueError("not base64")
        return base64.b64decode(text)

    @classmethod
    def is_base64(cls, value: str, _: Json) -> bool:
        """Whether a text is base64, with its padding and without blanks."""
        with suppress(ValueError):
            return cls.decoded(value) is not None
        return False

    @classmethod
    def must(cls, what: str, kind: str = "any", fits: Callable[[Any], bool] = lambda given: True
             ) -> Callable[[Json], str]:
        """For Keyword.wrong: what a schema gives must be of a kind, and fit."""
        def wrong(given: Json) -> str:
            is_fine = kind in cls.kinds(given) + ("any",) and fits(given)
            return "" if is_fine else "%s is not %s" % (shown(given), what)
        return wrong


ANYTHING = JsonValue.must("")
A_TEXT = JsonValue.must("a text", "string")
A_LIST = JsonValue.must("a list", "array")
A_NUMBER = JsonValue.must("a number", "number", lambda given: abs(given) < 1e300)
A_COUNT = JsonValue.must("a count", "integer", lambda given: 0 <= given < 1e9)
KEYWORDS = {
    "enum": Keyword("any", A_LIST, lambda value, given: any(
        JsonValue.are_equal(value, each) for each in given), "is none of %s"),
    "const": Keyword("any", ANYTHING, JsonValue.are_equal, "is not %s"),
    "minimum": Keyword("number", A_NUMBER, operator.ge, "is less than %s"),
    "maximum": Keyword("number", A_NUMBER, operator.le, "is more than %s"),
    "exclusiveMinimum": Keyword("number", A_NUMBER, operator.gt, "is not more than %s"),
    "exclusiveMaximum": Keyword("number", A_NUMBER, operator.lt, "is not less than %s"),
    "multipleOf": Keyword("number", JsonValue.must("a number above 0", "number",
                                                   lambda given: bool(given > 0)),
                          JsonValue.is_multiple, "is no multiple of %s"),
    "minLength": Keyword("string", A_COUNT, lambda value, least: len(value) >= least,
                         "has fewer than %s characters"),
    "maxLength": Keyword("string", A_COUNT, lambda value, most: len(value) <= most,
                         "has more than %s characters"),
    "pattern": Keyword("string", Pattern.wrong, Pattern.fits,
                       "does not fit the pattern %%s, or has more than %d characters"
                       % Pattern.MAX_TEXT),
    "minItems": Keyword("array", A_COUNT, lambda value, least: len(value) >= least,
                        "has fewer than %s items"),
    "maxItems": Keyword("array", A_COUNT, lambda value, most: len(value) <= most,
                        "has more than %s items"),
    "contentEncoding": Keyword("string", JsonValue.must(
        "base64, which is the only encoding", "string", lambda given: bool(given == "base64")),
        JsonValue.is_base64, "is not base64; on the command line NAME=@FILE takes a file"),
}
# What describes a schema, and what holds other schemas: {keyword: what its value must be}.
STRUCTURE: Dict[str, Callable[[Json], str]] = {
    "title": A_TEXT, "description": A_TEXT, "contentMediaType": A_TEXT, "examples": A_LIST,
    "default": ANYTHING, "items": ANYTHING, "additionalProperties": ANYTHING,
    "properties": JsonValue.must("an object", "object"),
    "type": JsonValue.must("a type, or a list of types", fits=JsonValue.are_types),
    "required": JsonValue.must("a list of names", "array",
                               lambda given: all(isinstance(each, str) for each in given)),
    "anyOf": JsonValue.must("a list of schemas", "array", bool),
}


class Schema:
    """A JSON Schema (2020-12) of the keywords in KEYWORDS and STRUCTURE, and no other."""

    MAX_DEPTH = 16

    @staticmethod
    def inner(schema: Json) -> Iterator[Tuple[str, Json]]:
        """(place, schema) of each schema directly inside this one."""
        for name in ("items", "additionalProperties"):
            if name in schema:
                yield name, schema[name]
        for name, each in dict(schema.get("properties", {})).items():
            yield "properties." + name, each
        for number, each in enumerate(schema.get("anyOf", ())):
            yield "anyOf.%d" % number, each

    @classmethod
    def wrong(cls, schema: Json, path: str, depth: int = 0) -> Iterator[Fault]:
        """What is wrong with a schema."""
        if isinstance(schema, bool):
            return
        if not isinstance(schema, dict) or depth > cls.MAX_DEPTH:
            yield Fault(path, "%s is no schema, or nested too deeply" % shown(schema))
            return
        messages = {name: cls.wrong_keyword(name, given) for name, given in schema.items()}
        found = [Fault("%s.%s" % (path, name), messages[name]) for name in filter(
            messages.get, messages)]
        for place, each in cls.inner(schema) if not found else ():
            found += cls.wrong(each, "%s.%s" % (path, place), depth + 1)
        yield from found
        if "default" in schema and not found:
            yield from cls.faults(schema, schema["default"], path + ".default")

    @staticmethod
    def wrong_keyword(name: str, given: Json) -> str:
        """What is wrong with a keyword and its value, or ''."""
        if name in KEYWORDS:
            return KEYWORDS[name].wrong(given)
        if name in STRUCTURE:
            return STRUCTURE[name](given)
        names = [*KEYWORDS, *STRUCTURE]
        return "is no keyword that is known here%s: there is %s" % (
            nearest(name, names), ", ".join(names))

    @classmethod
    def within(cls, schema: Json) -> Iterator[Tuple[str, Json]]:
        """(place, schema) of each schema inside this one, those inside them too."""
        for place, each in cls.inner(schema) if isinstance(schema, dict) else ():
            yield place, each
            yield from cls.within(each)

    @staticmethod
    def types(schema: Json) -> List[str]:
        """The types that a schema names; [] if it names none."""
        given = schema.get("type", []) if isinstance(schema, dict) else []
        return [given] if isinstance(given, str) else list(given)

    @classmethod
    def kinds(cls, schema: Json) -> List[str]:
        """The types of values that fit, by its type, or else by its values and inner schemas."""
        about = schema if isinstance(schema, dict) else {}
        values = about.get("enum", []) + [about[name] for name in ("const",) if name in about]
        found = cls.types(schema) or [kind for value in values for kind in JsonValue.kinds(value)]
        return found or [kind for each in about.get("anyOf", ()) for kind in cls.kinds(each)]

    @classmethod
    def faults(cls, schema: Json, value: Json, path: str) -> Iterator[Fault]:
        """What is wrong with a value, by a schema that is right."""
        if isinstance(schema, bool) or isinstance(value, Placed):   # a path tells no content
            if schema is False:
                yield Fault(path, "may not be given")
            return
        kinds, types = JsonValue.kinds(value), cls.types(schema)
        if types and not set(kinds) & set(types):
            hint = ", which is true or false" * (types == ["boolean"])
            yield Fault(path, "%s is not of type %s%s" % (shown(value), " or ".join(types), hint))
            return
        for name, keyword in KEYWORDS.items():
            if name in schema and keyword.kind in kinds + ("any",):
                yield from keyword.faults(value, schema[name], path)
        yield from cls.faults_inside(schema, value, path)

    @classmethod
    def faults_inside(cls, schema: Json, value: Json, path: str) -> Iterator[Fault]:
        """What is wrong with a value by the schemas inside one."""
        if "anyOf" in schema:
            yield from cls.faults_of_any(schema["anyOf"], value, path)
        if isinstance(value, dict):
            yield from cls.faults_of_object(schema, value, path)
        if isinstance(value, list) and "items" in schema:
            for number, each in enumerate(value):
                yield from cls.faults(schema["items"], each, "%s.%d" % (path, number))

    @classmethod
    def faults_of_any(cls, schemas: Sequence[Json], value: Json, path: str) -> Iterator[Fault]:
        """The fault of a value that fits none of several schemas."""
        firsts = []
        for each in schemas:
            first = next(cls.faults(each, value, path), None)
            if first is None:
                return
            firsts.append(first.message if first.path == path else str(first))
        yield Fault(path, "; and ".join(dict.fromkeys(firsts)))

    @classmethod
    def faults_of_object(cls, schema: Json, value: Dict[str, Json], path: str) -> Iterator[Fault]:
        """The faults of an object's members."""
        start = path + "." if path else ""
        for name in schema.get("required", ()):
            if name not in value:
                yield Fault(start + name, "is missing")
        known = schema.get("properties", {})
        for name, each in value.items():
            if name in known:
                yield from cls.faults(known[name], each, start + name)
            elif schema.get("additionalProperties", True) is False:
                yield Fault(path, "%s is no input%s" % (shown(name), nearest(name, known)))
            else:
                yield from cls.faults(schema.get("additionalProperties", True), each, start + name)


# What no input may be called: variables that change what shells and other programs do, and ours.
NOT_INPUTS = "|".join((
    "_ UID EUID PPID PATH CDPATH HOME SHELL USER LOGNAME ENV PS[0-9] PWD OLDPWD OPTIND OPTARG "
    "RANDOM SECONDS LINENO TMPDIR LANG LOCPATH NLSPATH GCONV_PATH HOSTALIASES PROMPT_COMMAND "
    "SHELLOPTS JOB_ID inputs "
    "(LC|LD|DYLD|NODE|JAVA|_JAVA|GIT|SLURM|SBATCH|SRUN|LSB|LSF|LS|PBS|SGE|PSIK|CUDA|GPU|PMI)_.* "
    "(BASH|PYTHON|PERL|RUBY|MODULE).* "
    # Of rc, which also takes each fn_NAME for a function; and of zsh.
    "fn_.* prompt path home cdpath ifs status pid apid apids bqstatus history version tab nl argv "
    "fpath manpath signals").split() + OUR_VARIABLES)


@dataclass(eq=False)    # each is known by itself
class Application(Model):
    """A script that others may run with values of their own, and nothing else."""
    summary: str = option("", "what it does, in a line")
    description: str = option("", "the same at length", lines=True)
    script: str = option("", "the script; it finds each input in a variable, and never pastes one "
                         "into a line that a shell reads", lines=True, strict=True)
    script_file: Optional[str] = option(None, "or the file that holds it", path=True)
    setup: List[str] = option(
        list, "lines that are run before it by a login bash, [\"module load gcc\"]", lines=True)
    backend: List[str] = option(list, "where it runs: a backend's name, or several")
    pick: str = option("first", "which of them takes a job: first, or round: each in its turn")
    resources: ResourceSpec = option(ResourceSpec, "what its jobs need")
    inputs: Dict[str, Any] = option(
        dict, "a JSON Schema of its inputs: an object, whose properties become variables",
        read="document")
    needs: List[str] = option(
        list, "files that have to be there before it runs; [] takes files, whichever they are")
    outputs: List[str] = option(list, "patterns of the files that it makes, [\"*.csv\"]")
    roles: List[str] = option(list, "who may use it: whoever has one of these; by default all")
    interactive: bool = option(
        False, "it answers at once, in the directory of a completed job, and is no job itself")
    of: Optional[str] = option(None, "of interactive ones: only in jobs of this application")

    MAX_FILE: ClassVar[int] = 2 ** 20       # bytes
    MAX_VALUES: ClassVar[int] = 96 * 1024   # bytes of all inputs as JSON; execve(2) takes 128 KiB
    name: ClassVar[str] = ""                # of its file, without .json

    def faults(self) -> Iterator[Fault]:
        if bool(self.script.strip()) == bool(self.script_file):
            yield Fault("script", "give `script` or `script_file`")
        if self.pick not in ("first", "round"):
            yield Fault("pick", "%s is neither first nor round" % shown(self.pick))
        if self.of and not self.interactive:
            yield Fault("of", "is for interactive applications")
        for name in ("backend", "outputs") if self.interactive else ():
            if getattr(self, name):
                yield Fault(name, "is not for an interactive application")
        yield from self.faults_of_needs()
        yield from self.faults_of_inputs()

    def faults_of_needs(self) -> Iterator[Fault]:
        """The faults of the files that it needs."""
        for path in self.needs:
            if {"", ".", ".."} & set(path.split("/")) or re.search(r"[*?\[]", path):
                yield Fault("needs", "%s is no path below the directory" % shown(path))

    def faults_of_inputs(self) -> Iterator[Fault]:
        """The faults of the schema of its inputs."""
        faults = list(Schema.wrong(self.inputs, "inputs"))
        for place, message in faults:
            name = place.partition(".")[2]
            is_input = isinstance(self.inputs.get(name), dict) and name not in STRUCTURE
            yield Fault(place, "should stand below inputs.properties" if is_input else message)
        if faults:
            return
        if Schema.types(self.inputs) not in ([], ["object"]):
            yield Fault("inputs.type", "must be object: each of its properties is an input")
        for name, each in self.schema["properties"].items():
            wrong = self.wrong_input(name, each)
            if wrong:
                yield Fault("inputs.properties." + name, wrong)
        for name in self.inputs.get("required", ()):
            if name not in self.schema["properties"]:
                yield Fault("inputs.required", "%s is none of the properties" % shown(name))

    @staticmethod
    def wrong_input(name: str, schema: Json) -> str:
        """What is wrong with an input of this name, or ''."""
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,99}", name):
            return "is no name of a variable: letters, digits and _"
        if re.fullmatch(NOT_INPUTS, name):
            return "cannot be the name of an input: shells or psik.py use it"
        if isinstance(schema, dict) and "contentEncoding" in schema and (
                Schema.types(schema) != ["string"]):
            return "must have the type string, because of contentEncoding"
        inner = [each for _, each in Schema.within(schema) if isinstance(each, dict)]
        if any("contentEncoding" in each for each in inner):
            return "contentEncoding is for an input, and not for a part of one"
        return ""

    @property
    def schema(self) -> Dict[str, Json]:
        """The schema of its inputs, which takes no others."""
        return dict({"type": "object", "properties": {}}, **dict(self.inputs,
                                                                 additionalProperties=False))

    @property
    def file_inputs(self) -> List[str]:
        """The inputs that are files; as a value, such a one comes in base64."""
        return [name for name, each in self.schema["properties"].items()
                if isinstance(each, dict) and "contentEncoding" in each]

    @staticmethod
    def text_of(value: Json, is_item: bool = False) -> str:
        """A value as a variable: a list's items joined as those of $mpirun, an object as JSON."""
        if isinstance(value, str):
            return value
        if isinstance(value, list) and not is_item:
            return WORD_SEPARATOR.join(Application.text_of(each, True) for each in value)
        if type(value) is float and value.is_integer() and abs(value) < 1e15:
            return "%d" % value
        return json.dumps(value, ensure_ascii=False)

    @classmethod
    def variables(cls, values: Dict[str, Json]) -> Dict[str, str]:
        """The variables of inputs, and `inputs`, JSON of all; null and [] are no variable."""
        found = {name: cls.text_of(value) for name, value in values.items()
                 if value is not None and value != []}
        return dict(found, inputs=json.dumps(values, ensure_ascii=False))

    def spec(self, values: Dict[str, Json]) -> Dict[str, Json]:
        """The spec, as JSON's types, of a job with these inputs."""
        needs = {name: getattr(self.resources, name) for name in self.resources.given}
        return {"name": self.name, "script": self.script, "setup": self.setup, "resources": needs,
                "environment": self.variables(values), "application": self.name, "inputs": values}

    @property
    def takes_files(self) -> bool:
        """Whether it says what files it needs, be it none."""
        return "needs" in self.given

    def check_takes_files(self) -> None:
        """InvalidError if it has no use for files: they would lie where its script runs."""
        if not self.takes_files:
            raise InvalidError("%s takes no files" % self.name)

    def missing(self, folder: ConfinedFolder) -> Iterator[Fault]:
        """The files that it needs and a folder does not have."""
        for path in self.needs:
            status = folder.status(path)
            if status is None or not stat.S_ISREG(status.st_mode):
                yield Fault("files", "%s is missing: %s needs it" % (path, self.name))

    def offer(self) -> Dict[str, Json]:
        """What those who may use it are told of it."""
        names = ("name", "summary", "description", "needs", "outputs", "roles", "interactive", "of",
                 "takes_files")
        return dict({name: getattr(self, name) for name in names}, inputs=self.schema)

    def turn(self, prefix: str) -> int:
        """How many jobs were made of it, this one too; it is counted in .apps/, a byte for each."""
        folder = os.path.join(prefix, ".apps")
        make_folder(folder)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        with closing_fd(os.open(os.path.join(folder, self.name), flags, 0o600)) as fd:
            os.write(fd, b".")
            return os.lseek(fd, 0, os.SEEK_CUR)

    def choose(self, config: Config,
               allowed: Callable[[Backend], bool] = lambda backend: True) -> Backend:
        """The backend of its next job, one of those allowed; ForbiddenError if there is none."""
        backends = [config.by_name[name] for name in self.backend or list(config.by_name)[:1]]
        found = [backend for backend in backends if allowed(backend)]
        if not found:
            raise ForbiddenError("you may not make jobs on %s" % " or ".join(
                backend.name for backend in backends))
        is_round = self.pick == "round" and len(found) > 1
        return found[(self.turn(found[0].prefix) - 1) % len(found) if is_round else 0]


class Applications:
    """The applications of a config, by name, and what is wrong with the files of others."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.by_name: Dict[str, Application] = {}
        self.faults: Dict[str, List[str]] = {}  # of each file that is wrong
        folder = config.applications
        if folder and not os.path.isdir(folder):
            self.faults[""] = ["config: applications: there is no folder %s" % folder]
        for path in sorted(paths_in(folder)) if folder and not self.faults else ():
            if path.endswith(".json"):
                self.take(path)
        self.drop_lost(folder or "")

    def drop_lost(self, folder: str) -> None:
        """Offer no interactive one of an application that is not there."""
        lost = {name: app.of for name, app in self.by_name.items()
                if app.of and app.of not in self.by_name}
        for name, other in lost.items():
            self.faults[name] = ["%s/%s.json: of: there is no application %s%s" % (
                folder, name, shown(other), nearest(other, self.by_name))]
            del self.by_name[name]

    @property
    def wrong(self) -> List[str]:
        """What is wrong, a line each."""
        return [line for lines in self.faults.values() for line in lines]

    def take(self, path: str) -> None:
        """Offer the application of a file; if anything is wrong with that, say so."""
        name = os.path.basename(path)[:-len(".json")]
        try:
            if not APPLICATION_NAME.fullmatch(name):
                raise InvalidError("%s is no name for an application" % shown(name), path)
            self.by_name[name] = self.read(name, path)
        except PsikError as err:
            start = "" if path in str(err) else path + ": "
            self.faults[name] = [start + line for line in str(err).split("\n")]

    def text(self, path: str) -> str:
        """The text of a file that nobody else could have written."""
        if os.path.exists(path) and not os.path.isfile(path):   # a FIFO would keep us waiting
            raise InvalidError("is no plain file", path)
        self.config.check_site_file(path)
        if os.path.isfile(path) and os.path.getsize(path) > Application.MAX_FILE:
            raise InvalidError("has more than %d bytes" % Application.MAX_FILE, path)
        return read_text(path)

    def read(self, name: str, path: str) -> Application:
        """The application of a file; PsikError with all that is wrong with it."""
        app = from_json(Application, parse_json(self.text(path), path), path)
        if app.script_file:
            vars(app)["script"] = self.text(os.path.join(os.path.dirname(path), app.script_file))
        for backend in app.backend:
            if backend not in self.config.by_name:
                raise InvalidError([Fault("backend", "%r is not configured%s" % (
                    backend, nearest(backend, self.config.by_name)))], path)
        vars(app)["name"] = name
        try:
            from_json(JobSpec, {"script": app.script, "setup": app.setup})
            Shell.for_script(self.config, app.script)
        except InvalidError as err:
            raise InvalidError(err.faults, path) from None
        return app

    def find(self, name: str) -> Application:
        """The application of this name; NotFoundError, or InvalidError if its file is wrong."""
        if name in self.faults:
            raise InvalidError("\n".join(self.faults[name]))
        if name not in self.by_name:
            raise NotFoundError("no application %s%s" % (shown(name), nearest(name, self.by_name)))
        return self.by_name[name]


class Inputs:
    """The inputs of one use of an application: values, and files below a folder."""

    MAX_DEPTH = 32      # of a value

    def __init__(self, app: Application, folder: ConfinedFolder) -> None:
        self.app, self.folder, self.schema = app, folder, app.schema
        self.values: Dict[str, Json] = {}
        self.properties: Dict[str, Json] = self.schema["properties"]
        self.file_inputs = app.file_inputs

    def is_file(self, name: str) -> bool:
        """Whether an input is a file."""
        return name in self.file_inputs

    def takes_empty(self, name: str) -> bool:
        """Whether an empty text can be an input's value, and does not just mean that it has none.
        """
        kinds = Schema.kinds(self.properties.get(name, {}))
        return name in self.properties and not self.is_file(name) and (
            not kinds or "string" in kinds)

    @staticmethod
    def value_of(text: str, types: Sequence[str]) -> Json:
        """The value that a text stands for where one of these types is wanted."""
        if types and "string" not in types:
            with suppress(ValueError, RecursionError):
                return load_json(text)
        return text

    def add_text(self, name: str, text: str) -> None:
        """Take an input that comes as a text: from a form, a query or a command line.

        One that is a list may come as JSON, or item by item.
        """
        types = Schema.kinds(self.properties.get(name, {}))
        if "array" not in types or text.startswith("["):
            if name in self.values:
                raise InvalidError([Fault(name, "is given twice")])
            self.values[name] = self.value_of(text, types)
        else:
            before = self.values.get(name, [])
            if not isinstance(before, list):
                raise InvalidError([Fault(name, "is given twice, as %s too" % shown(before))])
            item = self.value_of(text, Schema.kinds(self.properties[name].get("items", {})))
            self.values[name] = before + [item]

    def add_file(self, name: str, blocks: Iterable[bytes]) -> None:
        """Take the content of an input that is a file."""
        if isinstance(self.values.get(name), Placed):
            raise InvalidError([Fault(name, "is given twice")])
        path = "%s/%s" % (INPUT_FILES, name)
        self.folder.save(path, blocks)
        self.values[name] = Placed(path)

    @staticmethod
    def parts(value: Json) -> List[Json]:
        """The values directly inside a value, the names of an object too."""
        return [*value, *value.values()] if isinstance(value, dict) else (
            value if isinstance(value, list) else [])

    @classmethod
    def odd(cls, value: Json, path: str) -> Iterator[Fault]:
        """What no variable can hold of a value."""
        found = [(value, 0)]
        while found:
            each, depth = found.pop()
            if depth > cls.MAX_DEPTH:
                yield Fault(path, "is nested too deeply")
                return
            found += [(part, depth + 1) for part in cls.parts(each)]
            if isinstance(each, str) and (SURROGATE.search(each) or re.search("[\0\1]", each)):
                yield Fault(path, "holds what no variable can hold: NUL, \\x01 or half of a "
                            "surrogate pair")

    def faults(self) -> Iterator[Fault]:
        """What is wrong with the values; the schema is asked only of those of bounded size."""
        odd = [fault for name, value in self.values.items() for part in (name, value)
               for fault in self.odd(part, name if name in self.properties else "")]
        yield from odd
        plain = {name: value for name, value in self.values.items() if not self.is_file(name)}
        size = 0 if odd else len(json.dumps(plain, ensure_ascii=False).encode())
        if size > Application.MAX_VALUES:
            yield Fault("", "the values have %d bytes as JSON, and may have %d; an input with "
                        "contentEncoding base64 may be larger" % (size, Application.MAX_VALUES))
        elif not odd:
            yield from Schema.faults(self.schema, self.values, "")

    def settle(self) -> Dict[str, Json]:
        """The values, with their defaults; what comes in base64 becomes a file.

        InvalidError with everything that is wrong with them.
        """
        import itertools
        for name, each in self.properties.items():
            if isinstance(each, dict) and "default" in each:
                self.values.setdefault(name, each["default"])
        faults = list(itertools.islice(self.faults(), MAX_FAULTS))
        if faults:
            raise InvalidError(faults)
        for name, value in list(self.values.items()):
            if self.is_file(name) and isinstance(value, str) and not isinstance(value, Placed):
                self.add_file(name, [JsonValue.decoded(value)])
        return self.values


class InteractiveRun:
    """An application that answers at once: it runs in the directory of a completed job."""
    LONGEST_S = 30
    MAX_OUTPUT = 2 ** 20    # bytes of stdout and stderr together
    MEMORY_MB = 2048        # of each of its processes, unless its resources say another size

    def __init__(self, job: JobDir, app: Application, shell: Shell) -> None:
        self.job, self.app, self.shell = job, app, shell
        self.out: Dict[Any, bytearray] = {}     # {pipe: what came through it}

    def check(self, rows: Sequence[Row]) -> None:
        """ConflictError if it is not for this job, or if the job has not completed."""
        app, latest = self.app, Steps(rows).latest
        if not app.interactive:
            raise ConflictError("%s is not interactive: POST /v1/applications/%s"
                                % (app.name, app.name))
        if app.of and self.job.application != app.of:
            raise ConflictError("%s is for jobs of %s" % (app.name, app.of))
        if latest is None or latest.state is not JobState.completed:
            raise ConflictError("job %s has not completed" % self.job.jobid)
        missing = list(app.missing(ConfinedFolder(self.job.directory())))
        if missing:
            raise ConflictError(missing)

    @contextmanager
    def folder(self) -> Iterator[str]:
        """A folder of the job's for the script, and for inputs that are files.

        Those that a killed server has left are removed.
        """
        path = self.job.at(".run-" + os.urandom(8).hex())
        for old in paths_in(self.job.path):
            if os.path.basename(old).startswith(".run-") and age_s(
                    os.path.getmtime(old)) > 2 * self.LONGEST_S:
                delete_tree(old)
        os.mkdir(path, 0o700)
        try:
            yield path
        finally:
            delete_tree(path)

    def command(self, folder: str) -> List[str]:
        """What runs the script, which it writes into a folder."""
        script, setup = folder + "/script", folder + "/setup"
        write_file(script, self.shell.with_head(self.app.script), 0o700)
        lines = ["eval %s || exit" % SH.quote_word(line) for line in self.app.setup]
        write_file(setup, "\n".join(lines + ['exec "$1"', ""]))
        limit = (self.app.resources.memory_per_process or self.MEMORY_MB) * 1024
        # If this server is killed, timeout(1) ends it.
        timeout = find_program("timeout")
        return ["/bin/sh", "-c", 'ulimit -v "$1" && shift && exec "$@"', "sh", str(limit)] + (
            [timeout, "-s", "KILL", str(self.LONGEST_S + 5)] if timeout else []) + (
            ["/bin/bash", "-l", setup, script] if self.app.setup else [script])

    def environment(self, values: Dict[str, Json], folder: str) -> Dict[str, str]:
        """The variables that it finds."""
        spec = from_json(JobSpec, self.app.spec(values))
        return dict(basic_environment(os.environ), jobid=self.job.jobid, base=self.job.path,
                    **spec.variables_in(folder))

    def room(self) -> int:
        """How much it may still print."""
        return self.MAX_OUTPUT - sum(map(len, self.out.values()))

    def read(self, selector: Any, wait_s: float) -> bool:
        """Read what it has printed meanwhile; whether there was anything."""
        ready = selector.select(wait_s)
        for key, _ in ready:
            data = os.read(key.fd, min(BLOCK, self.room() + 1))
            self.out[key.fileobj] += data
            if not data:
                selector.unregister(key.fileobj)
        return bool(ready)

    def watch(self, child: Any) -> str:
        """Read what it prints until it ends; why it has to be ended, or ''."""
        import selectors
        deadline = time.monotonic() + self.LONGEST_S
        with selectors.DefaultSelector() as selector:
            for pipe in (child.stdout, child.stderr):
                self.out[pipe] = bytearray()
                selector.register(pipe, selectors.EVENT_READ)
            while child.poll() is None and self.room() >= 0 and time.monotonic() < deadline:
                if not selector.get_map():
                    time.sleep(0.02)
                else:
                    self.read(selector, min(0.05, max(0.0, deadline - time.monotonic())))
            self.read_rest(selector)
        if self.room() < 0:
            return "it printed more than %d bytes" % self.MAX_OUTPUT
        return "" if child.poll() is not None else "it took longer than %d s" % self.LONGEST_S

    def read_rest(self, selector: Any) -> None:
        """Read what it printed last, and not what others may print later that it has left."""
        while selector.get_map() and self.room() >= 0 and self.read(selector, 0):
            pass

    def answer(self, argv: Sequence[str], environment: Dict[str, str]) -> Dict[str, Json]:
        """Run it: {exit_status, stdout, stderr}.  When it ends, its process group ends too."""
        import subprocess
        child = start_program(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, env=environment, cwd=self.job.directory(),
                              start_new_session=True)
        try:
            why = self.watch(child)
        finally:
            with suppress(ProcessLookupError):
                end_session(child)
        done = Finished.of(child, *(bytes(self.out[pipe])
                                    for pipe in (child.stdout, child.stderr)))
        ended = "psik: ended: %s\n" % why if why else ""
        return {"exit_status": done.status, "stdout": done.out, "stderr": done.err + ended}

    def run(self, inputs: Inputs, folder: str, user: str) -> Dict[str, Json]:
        """Run it with these inputs, and note in the job's log who did; as answer().

        folder: that of folder(), where the inputs put their files.  InvalidError if they do not
        fit.
        """
        environment = self.environment(inputs.settle(), folder)
        answer = self.answer(self.command(folder), environment)
        note = {"time": round(time.time(), 3), "user": user, "application": self.app.name,
                "exit_status": answer["exit_status"],
                "inputs": one_line(json.dumps(inputs.values))[:1000]}
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        with closing_fd(os.open(self.job.at("log", "applications"), flags, 0o600)) as fd:
            write_whole(fd, (json.dumps(note) + "\n").encode())
        return answer


# --------------------------------------------------------------------------------- 16. Explanations

class Usage(NamedTuple):
    """What the processes of a step have used: CPU time in seconds, the most memory of one in KiB.

    Its supervisor writes that at its end, for the host where it began; a scheduler's accounting may
    know it for all hosts.
    """
    cpu_s: float
    memory_kib: int

    @classmethod
    def of(cls, job: JobDir, jobndx: int) -> Optional["Usage"]:
        """That of a step; None if it is not known."""
        text = read_or_empty(job.log("claim", jobndx))
        match = re.search(r"^cpu_s ([0-9.]{1,12})\nmemory_kib ([0-9]{1,12})$", text, re.MULTILINE)
        with suppress(ValueError):
            return cls(float(match.group(1)), int(match.group(2))) if match else None
        return None

    @classmethod
    def accounted(cls, backend: Optional[Backend], native: Info) -> Optional["Usage"]:
        """That of a native id, by the template `usage`; None if there is none, or no answer."""
        done = try_template(backend, "usage", "%s\n" % native) if backend else None
        for line in done.out.splitlines() if done else ():
            words = line.split()
            with suppress(ValueError):
                if len(words) == 3 and words[0] == str(native):
                    return cls(float(words[1]), int(words[2]))
        return None

    def most(self, other: Optional["Usage"]) -> "Usage":
        """The greater of two accounts of the same."""
        return self if other is None else Usage(max(self.cpu_s, other.cpu_s),
                                                max(self.memory_kib, other.memory_kib))


class Cause(NamedTuple):
    """A row of the table of causes: by what it is known, what it means, and the way out.

    words are a regular expression; \\1 stands for its first group in the other two.
    """
    words: str
    cause: str
    way_out: str


# What schedulers, their programs and psik.py say of a job that failed, or that waits.
SAID_CAUSES = tuple(Cause(*cells) for cells in (
    ("^set-up line \\d+ .*?: (?:module|ml) ", "a module of its set-up cannot be loaded",
     "`module avail` on a node shows those that there are"),
    ("^set-up line (\\d+) ", "line \\1 of its set-up failed", "mend it: `setup` in the spec"),
    ("^the interpreter of its script", "the program in its #! line is not on that host",
     "mend that line"),
    ("(?:QOS|Assoc)Max\\w*PerJob", "it asks for more than a job of yours may have",
     "ask for less: `run -t`, `-n`, `-N`, `--mem`; `cancel` this one, which never starts"),
    ("TIMEOUT|TERM_RUNLIMIT|walltime .*was over|wallclock|exceeded .*h_rt|DEADLINE",
     "its walltime was over before it had ended",
     "give it more: `run -t`, `resources.duration`; or let it save its state and go on from there"),
    ("OUT_OF_MEMORY|TERM_MEMLIMIT|want of memory|h_vmem",
     "it wanted more memory than it had asked for",
     "ask for more: `run --mem`, `resources.memory_per_process`"),
    ("NODE_FAIL|BOOT_FAIL|TERM_UNKNOWN|LAUNCH_FAILED|JobLaunchFailure|launch failed",
     "a node of it failed", "`start` it again; with `\"requeue\": true` its scheduler does so"),
    ("PREEMPTED|TERM_PREEMPT|TERM_BUCKET", "another job with a higher rank took its nodes",
     "`start` it again; with `\"requeue\": true` its scheduler does so"),
    ("QOSMaxSubmitJob|AssocMaxSubmitJob|MaxSubmitJobs|AssocGrpSubmit|job limit|pending job",
     "as many of your jobs as you may have wait or run already",
     "wait until some have ended; one array, `run --array 100%5`, may count as one"),
    ("Minutes|BillingLimit|budget|allocation .*(?:expired|used|exhausted)",
     "the time of its project is used up, or would be", "name another project: `run --project`"),
    ("QOS\\w*Limit|QOSMax|QOSGrp|AssocMax|AssocGrp|ArrayTaskLimit|[Uu]ser limit|slot limit",
     "your running jobs, or those of your project, use as much as they may",
     "it starts when some of them have ended"),
    ("ReqNodeNotAvail|NodeDown|UnavailableNodes|ReservedForMaintenance|closed",
     "nodes that it needs are down, or reserved for maintenance",
     "wait; or let it end before the maintenance begins: a shorter `run -t`"),
    ("PartitionTimeLimit|time limit is invalid|exceed.*(?:time|run) ?limit|RUNLIMIT: Cannot",
     "it asks for more time than its queue allows",
     "`run -t` with less, or another `--queue`; `backends --queues` shows what they allow"),
    ("PartitionNodeLimit|Node count specification invalid|[Mm]ore processors requested|TaskCount",
     "it asks for more nodes or processes than its queue has",
     "`run -N`, `-n` with less, or another `--queue`; `backends --queues` shows what there is"),
    ("DependencyNeverSatisfied|[Dd]ependency condition invalid",
     "the job that it waits for did not end as it should", "`cancel` it; or run the other again"),
    ("[Ii]nvalid account|InvalidAccount|[Pp]roject .*(?:invalid|unknown|not exist)",
     "its scheduler does not know its project, or you are not a member of it",
     "`run --project` with one of yours; `sacctmgr show associations user=$USER` shows Slurm's"),
    ("[Ii]nvalid partition|[Nn]o such queue|[Uu]nknown queue|[Uu]nable to run job: .*queue",
     "there is no such queue", "`backends --queues` shows those that there are"),
    ("BadConstraints|Requested node configuration is not available|cannot run on any host",
     "no node of its queue has all that it asks for",
     "ask for fewer cores, less memory or fewer GPUs a node; or for another `--queue`"),
    ("JobHeldUser|JobHeldAdmin|^held|PSUSP", "it is held", "`release` it, if you have held it"),
    ("error state E|Eqw", "it could not be started, and waits until somebody clears the error",
     "look at the reason; then `cancel` it, and `start` it again"),
    ("^(?:Priority|Resources)\\b|waits for .* slots|New job is waiting|enough (?:job )?slot",
     "others are before it, or what it needs is in use",
     "it starts by itself; one that asks for less time or fewer nodes may start sooner"),
    ("Dependency|^waits for", "it waits for another job",
     "it starts, or is canceled, when that has ended"),
    ("BeginTime|start time", "it was asked for a later time", "it starts then"),
    ("CANCELLED|TERM_OWNER|TERM_ADMIN|TERM_FORCE",
     "it was ended by another program than psik.py, or by an administrator", "`start` it again"),
    ("permission to use at|cron.allow|at.deny", "you may not use at on this host",
     "choose a backend of type `local`"),
    ("supervisor was killed", "the process that looked after it was killed, and it with it",
     "`start` it again; where logins are cut when they end, try a backend of type `at`"),
    ("submission.* unknown since", "the scheduler has not answered whether it took the job",
     "look again; after ten minutes `start` submits it once more"),
))
# What the last lines on stderr say.
STDERR_CAUSES = tuple(Cause(*cells) for cells in (
    (r"\\r'?: command not found|bad interpreter.*\^M|\r.*(?:not found|No such file)",
     "the script was written on Windows: its lines end with CR LF", "sed -i 's/\\r$//' FILE"),
    (r"\b(module|ml|conda|mamba|spack): (?:command )?not found",
     "\\1 is a function of login shells, which a script does not have by itself",
     "name it as set-up: `run --setup '\\1 ...'`, `setup` in the spec"),
    (r"bad interpreter: |exec: \S*/\S+: not found|env: .{1,80}: No such file"
     r"|required file not found",
     "a program is not there, or the one that its #! line names",
     "`path JOBID work` is where it runs; the #! line may end with CR LF: sed -i 's/\\r$//' FILE"),
    (r"^\S+: (?:line )?\d+: (?:\S+: )*(\S+): (?:command )?not found$|: command not found"
     r"|^zsh.*: command not found: (\S+)",
     "a program is not on that host, or not in its PATH",
     "load what has it as set-up: `run --setup 'module load ...'`; or name its whole path"),
    (r"Too many open files|shared object file: Error 24", "it has as many files open as it may",
     "`ulimit -n 4096` in the script, if the host allows that many"),
    (r"error while loading shared libraries: (\S+?):|(\S+?): cannot open shared object",
     "the library \\1, with which a program was linked, is not found",
     "load the module with which the program was built: `run --setup 'module load ...'`"),
    (r"No space left on device", "a disk is full", "`df -h` shows which; write somewhere else"),
    (r"[Dd]isk quota exceeded", "your quota of disk space is used up",
     "remove what is not needed: `rm --state completed --older 30d`"),
    (r"no CUDA-capable device|CUDA_ERROR_NO_DEVICE|CUDA driver version is insufficient"
     r"|No CUDA GPUs are available|hipErrorNoDevice", "it looked for a GPU, and got none",
     "ask for one: `run -g 1`; and for a `--queue` that has some"),
    (r"CUDA out of memory|CUDA_ERROR_OUT_OF_MEMORY", "the memory of its GPU was full",
     "smaller batches; or more GPUs: `run -g`"),
    (r"not enough slots available|More processors requested than permitted|oversubscribe",
     "the launcher was asked for more ranks than the job has processes",
     "let `$mpirun` choose the number; or ask for more: `run -n`"),
    (r"ModuleNotFoundError: No module named '?([\w.]+)|ImportError: No module named '?([\w.]+)",
     "Python does not have the package that it imports",
     "activate the environment that has it: `run --setup 'source venv/bin/activate'`"),
    (r"(?:^|[.])MemoryError|Unable to allocate|std::bad_alloc|[Cc]annot allocate memory"
     "|[Oo]ut of memory",
     "it got no more memory",
     "ask for more, `run --mem`, where a scheduler sets the limit; elsewhere the host has no more"),
    (r"[Ss]yntax error|unexpected end of file|unterminated quoted",
     "a shell cannot read the script", "mend that line; `sh -n FILE` finds such errors"),
    (r"(\w+): (?:unbound variable|parameter not set)", "the variable \\1 is not set",
     "`run --env \\1=VALUE`, or set it in the script"),
    (r"Connection refused|Could not resolve|Network is unreachable|Temporary failure in name",
     "it could not reach another host", "nodes often have no way out: fetch files before the job"),
    (r"Host key verification failed|Permission denied \(publickey",
     "ssh did not let it on to another host", "let ssh know the host, and your key there"),
    (r"Permission denied", "it may not run or open a file",
     "`chmod +x` a program; a directory needs x too"),
    (r"No such file or directory", "a file is not there",
     "`path JOBID work` is where it runs; `run --here` and `--dir` choose another place"),
    (r"^[A-Za-z_][\w.]*(?:Error|Exception|Interrupt)\b", "its Python program raised an exception",
     "`logs --stderr JOBID` shows where"),
))
# What a program that cannot be started leaves on stderr; and lines that need not tell of a failure.
NOT_STARTED = re.compile("not found|denied|interpreter|No such file|cannot (?:open|execute)")
HARMLESS = re.compile(r"(?i)^\W*(?:\S+:)?\s*(?:warn|note|info|hint|debug)|ignor|continu")
# What an exit status says where nobody has said more.
EXIT_CAUSES: Dict[Info, Tuple[str, str]] = {
    124: ("timeout(1), or its like, ended a program of it", "give that more time"),
    126: ("the script, or a program, cannot be executed", "`chmod +x` it; or mend its #! line"),
    127: ("a program, or the script's interpreter, was not found",
          "`logs --stderr JOBID` names it; load it as set-up: `run --setup 'module load ...'`"),
    134: ("it aborted itself", "`logs --stderr JOBID` may say why"),
    135: ("it used memory that is not there (SIGBUS): of a file that was cut, or on a full disk",
          "`df -h /tmp /dev/shm`"),
    136: ("it divided by zero, or the like (SIGFPE)", "a debugger shows where"),
    137: ("it was killed: by the kernel for want of memory, by its scheduler, or by a person",
          "if that was for memory, ask for more: `run --mem`"),
    139: ("it used memory that is not its own (SIGSEGV)",
          "a debugger shows where; for Fortran, try `ulimit -s unlimited`"),
    141: ("it wrote into a pipe whose reader had gone", "look at `set -o pipefail`"),
    143: ("it was asked to end (SIGTERM)", "`start` it again"),
    152: ("its CPU time was over (SIGXCPU)", "`ulimit -t` on that host tells the limit"),
    153: ("a file became too large (SIGXFSZ)", "`ulimit -f` on that host tells the limit"),
}


class Explanation(NamedTuple):
    """What is known of why something is so; the texts are '' where nothing is."""
    cause: str = ""
    way_out: str = ""
    evidence: Sequence[str] = ()
    is_sure: bool = False   # nothing speaks for another cause

    @classmethod
    def find(cls, causes: Sequence[Cause], lines: Sequence[str]) -> "Explanation":
        """What the rows know of the last of these lines of which one knows something."""
        for line in reversed(lines):
            for row in causes:
                match = re.search(row.words, line)
                if match:
                    part = one_line(next(filter(None, match.groups()), "it"))
                    return cls(row.cause.replace("\\1", part), row.way_out.replace("\\1", part),
                               [line], True)
        return cls()

    @classmethod
    def of_stderr(cls, lines: Sequence[str], info: Info) -> "Explanation":
        """What the last lines on stderr tell of a step that ended with this exit status.

        The last line counts, and one that the exit status bears out; another is a guess.
        """
        found = cls.find(STDERR_CAUSES, lines[-1:])
        if not found.cause and info in (126, 127):
            found = cls.find(STDERR_CAUSES, [line for line in lines if NOT_STARTED.search(line)])
        if found.cause or info in EXIT_CAUSES:
            return found
        found = cls.find(STDERR_CAUSES, [line for line in lines[-8:] if not HARMLESS.search(line)])
        return found._replace(cause="perhaps " * bool(found.cause) + found.cause, is_sure=False)

    @classmethod
    def of_failure(cls, end: StepEnd) -> "Explanation":
        """What is known of a step that failed, where nobody else has said why."""
        info, lines = end.row.info, end.tail(60)
        died = isinstance(info, int) and info > 128 and info != 134     # which may have said why
        found = cls() if died else cls.of_stderr(lines, info)
        if not found.cause and info in EXIT_CAUSES:
            found = cls(*EXIT_CAUSES[info], lines[-3:], True)
        return found if found.cause else cls.of_unknown(end)

    @classmethod
    def of_unknown(cls, end: StepEnd) -> "Explanation":
        """What can be said of a failure of which nothing is known."""
        said = [kind for kind in ("stderr", "stdout") if end.tail(1, kind)]
        way_out = "`%s logs%s JOBID` shows what it said" % (
            called(), " --stderr" if said[:1] == ["stderr"] else "")
        return cls("its script ended with exit status %s" % end.row.info,
                   way_out if said else "it said nothing; with `set -x` a shell says what it does",
                   end.tail(3, said[0]) if said else [])

    @classmethod
    def of_job(cls, job: JobDir, rows: Sequence[Row], statuses: Statuses,
               summary: Summary) -> "Explanation":
        """Why a job failed, or waits; summary is the one of these rows."""
        steps = Steps(rows)
        row = steps.latest
        assert row is not None
        if row.state is JobState.completed:
            return cls()
        end, said = StepEnd(job, row), summary.reason
        if row.state is JobState.failed and end.has_run:
            said = end.recorded()
        elif summary.tasks:     # without how far it is
            said = reason_of(job, row, steps, statuses)
        found = cls.find(SAID_CAUSES, [said[:400]])
        if row.state is JobState.failed and not found.cause:
            found = cls.of_failure(end)
        elif row.state is JobState.new and not said:
            found = cls("it was never started", "`%s start JOBID`" % called(), (), True)
        return found._replace(way_out=found.way_out.replace("JOBID", job.jobid))


def describe(config: Config, job: JobDir, accounts: bool = False, poll: bool = True
             ) -> Dict[str, Json]:
    """All that `status` shows of a job, without secrets.

    poll: its scheduler is asked first.  accounts: so is its accounting, which may be slow.
    """
    rows = job.rows()
    statuses = reconcile(config, [(job, rows)]) if poll else {}
    summary, spec = summarize(job, rows, statuses), job.spec()
    tasks = [task._asdict() for task in TaskState.all_of(job, rows, statuses)]
    usage = Usage.of(job, summary.jobndx)
    if accounts and STATES[summary.state].is_final() and not summary.tasks:
        known = Usage.accounted(config.by_name.get(job.backend),
                                Steps(rows).natives.get(summary.jobndx, ""))
        usage = known.most(usage) if known else usage
    return dict(summary._asdict(), counts=summary.tasks, tasks=tasks, base=job.path,
                usage=usage and usage._asdict(),
                why=Explanation.of_job(job, rows, statuses, summary)._asdict(),
                directory=spec.directory, shell=shell_of(job),
                spec=to_json(spec, secrets=False), history=[row._asdict() for row in rows],
                callbacks=Outbox(job).describe(), logs=job.log_sizes())


# ----------------------------------------------------------------------------------------- 17. HTTP

# The protocol, without a word of jobs.  http.server accepts the connections (section 22), and no
# more: heads, chunks and forms are read by hand, and not by its handler, http.client and email,
# because of what strangers can send.
# - A request that a proxy and we read differently can hide another one.  So what is ambiguous is
#   refused: two lengths, a length and chunks, folded lines, a blank before a colon, a lone LF.
# - A byte a second holds a thread for ever if only each read has a time-out.  So a whole head has
#   one deadline, and a body a least rate.  A connection that is idle, or whose caller has no name
#   yet, can be ended to make room for another (section 19).
# - A body can be larger than memory, or nothing but chunk heads and trailers.  So heads, lines,
#   chunks, parts and bodies are bounded, and uploads and downloads pass in blocks.

class RequestError(PsikError):
    """Answers a request with a status and headers (`_` for `-`) instead of carrying it out."""
    exit_status = 2

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.http_status = status
        self.headers = [(name.replace("_", "-"), value) for name, value in headers.items()]


class CutBody(RequestError):
    """A body whose rest does not come."""


class InvalidInput(InvalidError):
    """A body or a query that is invalid; source says which of the two."""
    http_status = 422


def socket_shutdown(sock: Any) -> None:
    """End both directions of a socket that another thread may be using."""
    import socket
    # Not by SSLSocket.shutdown(): it drops TLS first, and that thread would go on in plain text.
    socket.socket.shutdown(sock, socket.SHUT_RDWR)


class Peer(NamedTuple):
    """Who is at the other end of a connection, as far as the system knows."""
    address: str            # an IP address; '' for a UNIX socket or a pipe
    uid: Optional[int]      # None if the system cannot tell
    subject: str = ""       # the name in a client's certificate
    serial: str = ""        # the serial number of that certificate


class Wire:
    """One connection over a socket; it buffers what it receives.  No call waits without a limit."""

    def __init__(self, sock: Any = None) -> None:
        self.sock = sock
        self.buffer = bytearray()
        self.searched = 0           # bytes of the buffer in which no head ends
        self.silent = True          # no byte has come yet: it waits in the lobby
        self.idle = True            # waiting for the first byte of a request
        self.handshaking = False    # TLS is not established yet
        self.peer = Peer("", None)
        self.key = ""               # whose it is, as far as is known: connections are counted by it
        self.share = 1              # how many connections may have this key
        self.named = False          # its caller has a name: Connections.name() decides
        self.streaming = False      # sending a stream of events
        self.since = time.monotonic()  # when it was accepted; once named, when it last became idle

    def receive(self, timeout_s: float) -> bytes:
        """The next bytes, b"" at the end; TimeoutError if nothing comes."""
        self.sock.settimeout(max(timeout_s, 0.001))  # 0 would mean: do not wait at all
        try:
            return bytes(self.sock.recv(BLOCK))
        except OSError as err:  # before Python 3.10 socket.timeout was no TimeoutError
            raise (TimeoutError("nothing came") if "timed out" in str(err) else err) from None

    def send(self, data: bytes) -> None:
        """Send all of data; OSError if the other end does not take it."""
        view = memoryview(data)
        self.sock.settimeout(SEND_TIMEOUT_S)  # for each sendall(); under TLS, for each record
        for at in range(0, len(data), BLOCK):
            self.sock.sendall(view[at:at + BLOCK])

    def send_block(self, file: IO[bytes], offset: int, size: int) -> int:
        """Send at most so many bytes of a file, by sendfile(2) if possible; their number."""
        self.sock.settimeout(SEND_TIMEOUT_S)
        return int(self.sock.sendfile(file, offset, size))

    def send_file(self, file: IO[bytes], offset: int, length: int) -> None:
        """Send a part of a file; OSError if the client is too slow, or the file got shorter."""
        begun, sent, done = time.monotonic(), 0, 1
        while sent < length and done:
            done = self.send_block(file, offset + sent, min(BLOCK * 4, length - sent))
            sent += done
            if time.monotonic() - begun > SEND_TIMEOUT_S * 2 + sent / BODY_RATE:
                raise TimeoutError("the client takes it too slowly")
        if sent < length:  # the length is announced already: the client sees only a cut connection
            raise ConnectionError("the file became shorter")

    def read(self, size: int, timeout_s: float = BODY_TIMEOUT_S) -> bytes:
        """1 to size bytes of a body; RequestError if the connection ends or falls silent."""
        if not self.buffer:
            self.fill(timeout_s)
        return self.take(size)

    def take(self, size: int) -> bytes:
        """At most size of the bytes that have been received."""
        data = bytes(memoryview(self.buffer)[:size])
        del self.buffer[:size]  # the front of a bytearray goes without a copy of the rest
        return data

    def fill(self, timeout_s: float) -> None:
        """Receive more of a body; RequestError if no more comes."""
        try:
            block = self.receive(timeout_s)
        except TimeoutError:
            raise CutBody(408, "the body did not come") from None
        if not block:
            raise CutBody(400, "the body was cut")
        self.buffer += block

    def read_line(self, timeout_s: float) -> bytes:
        """A line of a chunked body without its CR LF; RequestError if it is invalid or too long."""
        end = self.buffer.find(b"\n", 0, MAX_CHUNK_LINE)
        while end < 0:
            if len(self.buffer) > MAX_CHUNK_LINE:
                raise RequestError(400, "a chunk's head is too long")
            self.fill(timeout_s)
            end = self.buffer.find(b"\n", 0, MAX_CHUNK_LINE)
        line = self.take(end + 1)
        if not line.endswith(b"\r\n"):
            raise RequestError(400, "a chunk's head ends without CR LF")
        return line[:-2]

    def take_head(self) -> Optional[bytes]:
        """The head in the buffer, None if it is not complete; RequestError if it is too long."""
        end = self.buffer.find(b"\r\n\r\n", self.searched, MAX_HEAD + 4)
        if end >= 0:
            self.searched = 0
            return self.take(end + 4)[:-4]
        self.searched = max(len(self.buffer) - 3, 0)
        if len(self.buffer) > MAX_HEAD:
            raise RequestError(431, "the head of the request is longer than %d bytes" % MAX_HEAD)
        return None

    def read_head(self) -> bytes:
        """The head of the next request, without its blank line; b"" if no more will come.

        RequestError if it is too long or too slow.
        """
        self.idle = True
        if self.named:
            self.since = time.monotonic()
        deadline = time.monotonic() + IDLE_TIMEOUT_S
        while True:
            if self.idle:
                self.buffer = self.buffer.lstrip(b"\r\n")  # RFC 9112, 2.2: ignore blank lines here
                if self.buffer:
                    self.idle, deadline = False, time.monotonic() + HEAD_TIMEOUT_S
            head = self.take_head()
            if head is not None:
                return head
            try:
                block = self.receive(deadline - time.monotonic())
            except TimeoutError:
                if self.idle:
                    return b""
                message = "the head of the request did not come within %d s" % HEAD_TIMEOUT_S
                raise RequestError(408, message) from None
            if not block:
                return b""
            self.buffer += block

    def cut(self) -> None:
        """End the connection, whatever its thread is doing; that thread closes it then."""
        # Were it closed here, its thread could go on with a descriptor that is another's by now.
        with suppress(OSError):
            socket_shutdown(self.sock)

    def linger(self) -> None:
        """Let a client that is still sending read its answer.

        Closing at once, with bytes unread, would reset the connection, and the answer be lost.
        """
        import socket
        deadline = time.monotonic() + LINGER_S
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
            while time.monotonic() < deadline and self.receive(deadline - time.monotonic()):
                pass

    def shutdown(self, how: int) -> None:
        """End one direction, as a socket does; socketserver calls this."""
        self.sock.shutdown(how)

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()


class PipeWire(Wire):
    """One connection over two file descriptors, as of an ssh session: stdin and stdout."""

    def __init__(self, receiver: int = 0, sender: int = 1) -> None:
        super().__init__()
        self.receiver, self.sender = receiver, sender

    def receive(self, timeout_s: float) -> bytes:
        """As of a socket."""
        import select
        if not select.select([self.receiver], [], [], max(timeout_s, 0))[0]:
            raise TimeoutError("nothing came")
        return os.read(self.receiver, BLOCK)

    def send(self, data: bytes) -> None:
        """As to a socket."""
        import select
        view = memoryview(data)
        while view:
            if not select.select([], [self.sender], [], SEND_TIMEOUT_S)[1]:
                raise TimeoutError("nobody reads")
            try:  # a pipe that select() names takes 4096 bytes (PIPE_BUF) at once
                view = view[os.write(self.sender, view[:4096]):]
            except BlockingIOError:
                time.sleep(0.01)

    def send_block(self, file: IO[bytes], offset: int, size: int) -> int:
        """As to a socket."""
        file.seek(offset)
        block = file.read(size)
        self.send(block)
        return len(block)

    def cut(self) -> None:
        """Nothing: there is one connection, and nobody to make room for."""

    def linger(self) -> None:
        """Nothing: what was written to a pipe can be read after its end."""

    def close(self) -> None:
        """Nothing: the process ends with its pipes."""


CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[^\x00-\x08\x0a-\x1f\x7f]*)?")


class Body:
    """The body of a request, which is read once, in blocks: by its length, or chunk by chunk.

    length is None for chunks; expects: the client waits for `100 Continue` before it sends.
    """

    def __init__(self, wire: Wire, length: Optional[int], expects: bool = False) -> None:
        self.wire, self.expects = wire, expects
        self.remaining = length or 0        # bytes of the body, or of the chunk
        self.chunked = length is None
        self.ended = not self.chunked and not self.remaining
        self.begun = self.broken = False    # a chunk has begun; a read has failed
        self.patience_s: float = BODY_TIMEOUT_S
        self.since, self.got = time.monotonic(), 0
        self.chunks, self.most_chunks = 0, MAX_SMALL_CHUNKS

    def read(self, size: int = 65536) -> bytes:
        """The next block, b"" at the end.

        RequestError if the body is invalid, cut or too slow; it is broken then, and the connection
        takes no other request.
        """
        self.broken = True
        data = self.next_block(size)
        self.broken = False
        self.got += len(data)
        if time.monotonic() - self.since > BODY_TIMEOUT_S * 2 + self.got / BODY_RATE:
            self.broken = True
            raise CutBody(408, "the body comes too slowly")
        return data

    def next_block(self, size: int) -> bytes:
        """As read(), however slowly it comes."""
        if self.expects and not self.ended:
            self.expects = False
            self.wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self.chunked:
            data = b""
            if not self.ended:
                data = self.wire.read(min(size, self.remaining), self.patience_s)
            self.remaining -= len(data)
            self.ended = not self.remaining
            return data
        pieces = [self.next_piece(size)]
        while self.wire.buffer and pieces[-1]:  # as many small chunks as have been received
            size -= len(pieces[-1])
            pieces.append(self.next_piece(size))
        return b"".join(pieces)

    def next_piece(self, size: int) -> bytes:
        """The next piece of a chunk; b"" at the end of the body, or if size is 0."""
        if not self.remaining and not self.ended and size:
            self.next_chunk()
        if self.ended or not size:
            return b""
        data = self.wire.read(min(size, self.remaining), self.patience_s)
        self.remaining -= len(data)
        return data

    def next_chunk(self) -> None:
        """Read the head of the next chunk; after the last chunk, pass over the trailers."""
        if self.begun and self.wire.read_line(self.patience_s):
            raise RequestError(400, "a chunk is longer than it says")
        self.begun = True
        size = CHUNK_LINE.fullmatch(self.wire.read_line(self.patience_s))
        if not size:
            raise RequestError(400, "a chunk's length is not a number")
        self.remaining, self.chunks = int(size.group(1), 16), self.chunks + 1
        # A chunk of one byte costs us as much work as a large one, and its sender next to nothing.
        if self.chunks > self.most_chunks + self.got // 16:
            raise RequestError(400, "the chunks of the body are too small")
        if self.remaining:
            return
        for _ in range(MAX_HEADERS):
            if not self.wire.read_line(self.patience_s):
                self.ended = True
                return
        raise RequestError(400, "too many trailers")

    def blocks(self, limit: int) -> Iterator[bytes]:
        """The whole body, block by block; RequestError 413 if it is longer than limit."""
        self.check_size(0 if self.chunked else self.remaining, limit)
        for block in iter(self.read, b""):
            self.check_size(self.got, limit)
            yield block

    def check_size(self, size: int, limit: int) -> None:
        """RequestError 413 if a size is above a limit, both in bytes."""
        if size > limit:
            raise RequestError(413, "the body is longer than %d bytes" % limit)

    def read_all(self, limit: int) -> bytes:
        """The whole body; RequestError 413 if it is longer than limit."""
        return b"".join(self.blocks(limit))

    def drain(self) -> bool:
        """Pass over what the handler did not read; whether the connection can take another request.

        It cannot if there is much to pass over, if it comes slowly, or if it is broken.
        """
        # A client that expects, and was never told to continue, may send its body or not.
        if self.broken or self.expects or (not self.chunked and self.remaining > BLOCK):
            return self.ended and not self.broken
        self.patience_s, self.most_chunks = 0.3, self.chunks + MAX_DRAINED_CHUNKS
        try:
            self.read_all(BLOCK)
        except RequestError:
            return False
        return True


def decode_percent(text: str) -> str:
    """A part of a URL with its %XX decoded; RequestError if it is not UTF-8, or holds a NUL."""
    import urllib.parse
    try:
        text = urllib.parse.unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise RequestError(400, "the URL is not UTF-8") from None
    if "\0" in text:
        raise RequestError(400, "the URL holds a NUL")
    return text


def http_time(text: str) -> Optional[float]:
    """Seconds since the epoch of an HTTP date; None if it is none."""
    import email.utils
    parts = email.utils.parsedate_tz(text)
    with suppress(ValueError, OverflowError):
        return float(email.utils.mktime_tz(parts)) if parts else None
    return None


REQUEST_LINE = re.compile(rb"([A-Z]{1,20}) ([\x21-\x7e]{1,8192}) HTTP/(1\.[01])")
HEADER_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# A request may have only one of each: programs differ in which of two they obey.
SINGLE_HEADERS = ("host", "content-length", "transfer-encoding", "authorization", "content-type")


class Request:
    """A request as it came: method, decoded path, query, headers (by lower-case name) and body."""

    def __init__(self, method: str, target: str, headers: Dict[str, str], body: Body,
                 version: str = "1.1") -> None:
        self.method, self.version, self.headers, self.body = method, version, headers, body
        self.raw_path, _, query = target.partition("?")
        self.path = decode_percent(self.raw_path)
        self.query = self.parse_query(query)
        self.params: Dict[str, str] = {}    # what its route's pattern took from the path
        # Raises PsikError if the request, sent again now, would be refused.
        self.check_again: Callable[[], Any] = lambda: None

    @property
    def verb(self) -> str:
        """The method, with GET for HEAD, which differs only in that its answer has no body."""
        return "GET" if self.method == "HEAD" else self.method

    @property
    def media_type(self) -> str:
        """The media type of the body, without its parameters; '' if the request does not say."""
        return self.headers.get("content-type", "").split(";")[0].strip().lower()

    @property
    def bearer(self) -> Optional[str]:
        """The request's bearer token, or None."""
        scheme, _, token = self.headers.get("authorization", "").strip().partition(" ")
        return token.strip() if scheme.lower() == "bearer" and token.strip() else None

    def keeps_alive(self) -> bool:
        """Whether the client wants to send another request on this connection."""
        wish = self.headers.get("connection", "").lower()
        return "close" not in wish and (self.version == "1.1" or "keep-alive" in wish)

    def names_tag(self, header: str, tag: Optional[str], weak: bool) -> bool:
        """Whether a header lists this ETag; `*` stands for any, and None is that of no file.

        weak: the header may call it weak, as W/"...".
        """
        words = [word.strip() for word in self.headers.get(header, "").split(",")]
        return tag is not None and ("*" in words or tag in words or weak and "W/" + tag in words)

    def has_copy(self, tag: str, modified: Optional[float] = None) -> bool:
        """Whether the client says that it has what this ETag stands for.

        That is If-None-Match or, without it, If-Modified-Since if the time of a change is known.
        """
        if "if-none-match" in self.headers:
            return self.names_tag("if-none-match", tag, weak=True)
        since = http_time(self.headers.get("if-modified-since", ""))
        return None not in (since, modified) and int(modified or 0) <= (since or 0)

    def check_unchanged(self, status: Optional[os.stat_result]) -> None:
        """RequestError 412 if a file (None: there is none) is not the one that is meant.

        The conditions are If-Match or, without it, If-Unmodified-Since.
        """
        tag = etag(status) if status else None
        if "if-match" in self.headers:
            is_other = not self.names_tag("if-match", tag, weak=False)
        else:
            since = http_time(self.headers.get("if-unmodified-since", ""))
            is_other = since is not None and status is not None and int(status.st_mtime) > since
        if is_other:
            raise RequestError(412, "the file is not the one that is meant: its ETag is %s"
                               % (tag or "none, as there is no file"))

    def check_change(self, status: Optional[os.stat_result]) -> None:
        """As check_unchanged(), for a change; then If-None-Match counts too."""
        self.check_unchanged(status)
        if status and self.names_tag("if-none-match", etag(status), weak=True):
            raise RequestError(412, "there is a file already, with the ETag %s" % etag(status))

    def wants_range(self, tag: str, modified: str) -> bool:
        """Whether a range is wanted of what this ETag stands for: If-Range may name another."""
        return self.headers.get("if-range", tag) in (tag, modified)

    def content_range(self) -> Optional[Tuple[int, int, int]]:
        """(start, length, total) of the part of a file that the body is; None if it is the whole.

        RequestError 400 if Content-Range is invalid, or does not fit the body.
        """
        text = self.headers.get("content-range")
        if text is None:
            return None
        match = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", text)
        start, last, total = map(int, match.groups()) if match else (0, 0, 0)
        if not start <= last < total:
            raise RequestError(400, "Content-Range must be like `bytes 500-999/1200`, with the "
                                    "size of the whole file")
        if not self.body.chunked and self.body.remaining != last + 1 - start:
            raise RequestError(400, "the body has not the length that Content-Range gives it")
        return start, last + 1 - start, total

    def byte_range(self, size: int) -> Optional[Tuple[int, int]]:
        """The (first, last) byte that Range asks for, of size bytes.

        first > last: unsatisfiable; None: not a single range, so the whole is asked for.
        """
        match = re.fullmatch(r"bytes=([0-9]{0,18})-([0-9]{0,18})", self.headers.get("range", ""))
        if not match or match.group(0) == "bytes=-":
            return None
        first, last = match.groups()
        if not first:
            return max(size - int(last), 0), size - 1
        return int(first), min(int(last), size - 1) if last else size - 1

    @staticmethod
    def parse_query(text: str) -> Dict[str, str]:
        """{name: value} of a query; RequestError if it is not UTF-8, or holds a NUL."""
        pairs = (pair.replace("+", "%20").partition("=") for pair in text.split("&"))
        return {decode_percent(name): decode_percent(value) for name, _, value in pairs if name}

    @staticmethod
    def parse_line(line: bytes) -> Tuple[str, str, str]:
        """(method, target, version) of a head's first line; RequestError if it is invalid."""
        match = REQUEST_LINE.fullmatch(line)
        if match:
            return match.group(1).decode(), match.group(2).decode(), match.group(3).decode()
        if re.search(rb" HTTP/(?!1\.[01]$)[0-9.]+$", line):
            raise RequestError(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
        raise RequestError(414 if len(line) > 8192 else 400, "the first line is not a request line")

    @staticmethod
    def parse_headers(lines: Sequence[bytes]) -> Dict[str, str]:
        """{lower-case name: value} of the other lines of a head; RequestError if one is invalid."""
        if len(lines) > MAX_HEADERS:
            raise RequestError(431, "more than %d headers" % MAX_HEADERS)
        headers: Dict[str, str] = {}
        for line in lines:
            word, colon, rest = line.partition(b":")
            control = re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", rest)
            if not colon or not HEADER_NAME.fullmatch(word) or control:
                raise RequestError(400, "a header is invalid: %r" % line[:40])
            name, value = word.decode().lower(), rest.strip(b" \t").decode("latin-1")
            if name in headers and name in SINGLE_HEADERS:
                raise RequestError(400, "%s is given twice" % name)
            headers[name] = headers[name] + ", " + value if name in headers else value
        return headers

    @staticmethod
    def body_length(headers: Dict[str, str]) -> Optional[int]:
        """The length of the body, None for chunks; RequestError if the headers leave any doubt."""
        coding, length = headers.get("transfer-encoding"), headers.get("content-length", "0")
        if coding is not None:
            if "content-length" in headers:
                raise RequestError(400, "both Content-Length and Transfer-Encoding")
            if coding.lower() != "chunked":
                raise RequestError(501, "the only transfer coding is chunked")
            return None
        if not re.fullmatch("[0-9]{1,18}", length):
            raise RequestError(400, "Content-Length is not a number")
        return int(length)

    @classmethod
    def parse(cls, head: bytes, wire: Wire) -> "Request":
        """The request of a head; RequestError unless it is HTTP/1 to the letter."""
        lines = head.split(b"\r\n")
        method, target, version = cls.parse_line(lines[0])
        headers = cls.parse_headers(lines[1:])
        if version == "1.1" and "host" not in headers:
            raise RequestError(400, "the Host header is missing")
        if version == "1.0" and "transfer-encoding" in headers:
            raise RequestError(400, "HTTP/1.0 has no Transfer-Encoding")
        absolute = re.match(r"https?://([^/?#]*)", target, re.IGNORECASE)
        if absolute:  # its host counts, and Host does not: RFC 9112, 3.2.2
            headers["host"] = absolute.group(1)
            target = re.sub("^(?!/)", "/", target[absolute.end():])
        if headers.get("expect", "100-continue").lower() != "100-continue":
            raise RequestError(417, "the only expectation is 100-continue")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise RequestError(415, "a body is taken as it is, without Content-Encoding")
        expects = "expect" in headers and version == "1.1"
        return cls(method, target, headers, Body(wire, cls.body_length(headers), expects), version)


class FilePart(NamedTuple):
    """A part of an open file as the body of an answer; sending it closes the file."""
    file: IO[bytes]
    offset: int
    length: int


class Response(NamedTuple):
    """An answer.  Its body is bytes, a part of a file, or a function that sends it in pieces."""
    status: int
    body: Union[bytes, FilePart, Callable[[Send], None]] = b""
    headers: Tuple[Tuple[str, str], ...] = ()

    @classmethod
    def of_json(cls, value: Json, status: int = 200) -> "Response":
        """A value as JSON."""
        headers = (("Content-Type", "application/json"),)
        return cls(status, json.dumps(value).encode() + b"\n", headers)

    @classmethod
    def of_error(cls, err: PsikError) -> "Response":
        """The answer to a failure: {"detail": ...}, and the job's id if a job was made.

        The detail is one line; for an invalid body or query it lists each place, as psik_api does.
        """
        headers = tuple(getattr(err, "headers", ()))
        if err.http_status in (204, 304):
            return cls(err.http_status, b"", headers)
        value: Dict[str, Json] = {"detail": one_line(str(err))}
        if isinstance(err, InvalidInput):
            value["detail"] = [
                {"loc": [err.source] + (fault.path.split(".") if fault.path else []),
                 "msg": fault.message, "type": "value_error"} for fault in err.faults]
        value.update({"jobid": text for name, text in headers if name == "X-Psik-Jobid"})
        return cls.of_json(value, err.http_status).plus(*headers)

    @classmethod
    def of_bug(cls, err: BaseException) -> "Response":
        """The answer to a defect of ours: an id, under which the traceback is in the log."""
        import traceback
        mark = os.urandom(4).hex()
        text = "".join(traceback.format_exception(type(err), err, err.__traceback__)).rstrip()
        complain("error %s: %s" % (mark, text))
        detail = "a defect of psik.py; its log has it as error %s" % mark
        return cls.of_json({"detail": detail}, 500)

    @classmethod
    def of_system_error(cls, err: OSError) -> "Response":
        """The answer to an OSError: a full disk, a missing permission, else a defect."""
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            return cls.of_error(RequestError(507, "the disk is full"))
        if err.errno in (errno.EACCES, errno.EPERM):
            message = "the system does not let us: %s" % (err.strerror or err)
            return cls.of_error(ForbiddenError(message))
        return cls.of_bug(err)

    @classmethod
    def of_text(cls, text: str, kind: str = "text/plain") -> "Response":
        """A text of this media type."""
        return cls(200, text.encode(), (("Content-Type", kind + "; charset=utf-8"),))

    def compressed(self) -> "Response":
        """The same answer, its body as gzip; for a body of bytes."""
        import zlib
        assert isinstance(self.body, bytes)
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)     # as gzip, without the time: one ETag
        body = packer.compress(self.body) + packer.flush()
        return self._replace(body=body).plus(("Content-Encoding", "gzip"))

    @classmethod
    def of_file(cls, req: Request, file: IO[bytes], kind: str, name: str = "") -> "Response":
        """A file, the range of it that is asked for, or 304, as in RFC 9110; takes the file over.

        RequestError 416 for a range outside the file.
        """
        import email.utils
        status = os.fstat(file.fileno())
        tag, size = etag(status), status.st_size
        modified = email.utils.formatdate(status.st_mtime, usegmt=True)
        # In a browser a job's file must not act as a page of this server: its type is not guessed,
        # and its scripts do not run.
        head: Tuple[Tuple[str, str], ...] = (
            ("Content-Type", kind), ("ETag", tag), ("Accept-Ranges", "bytes"),
            ("Last-Modified", modified),
            ("X-Content-Type-Options", "nosniff"), ("Content-Security-Policy", "sandbox"))
        if name:
            plain = re.sub(r'[^ -~]|["\\]', "_", name)     # for clients that know only this form
            disposition = "attachment; filename=\"%s\"; filename*=UTF-8''%s" % (
                plain, encode_percent(name))
            head += (("Content-Disposition", disposition),)
        try:
            req.check_unchanged(status)
        except RequestError:
            file.close()
            raise
        if req.has_copy(tag, status.st_mtime):
            file.close()
            return cls(304, b"", head)
        part = req.byte_range(size) if req.wants_range(tag, modified) else None
        if part is None:
            return cls(200, FilePart(file, 0, size), head)
        start, end = part
        if start > end:
            file.close()
            raise RequestError(416, "the file has %d bytes" % size,
                               Content_Range="bytes */%d" % size)
        head += (("Content-Range", "bytes %d-%d/%d" % (start, end, size)),)
        return cls(206, FilePart(file, start, end - start + 1), head)

    def plus(self, *headers: Tuple[str, str]) -> "Response":
        """The same with more headers."""
        return self._replace(headers=self.headers + headers)

    def with_etag(self, req: Request) -> "Response":
        """The same with its ETag; 304 if the client already has it."""
        if req.verb != "GET" or self.status != 200 or not isinstance(self.body, bytes):
            return self
        import hashlib
        tag = '"%s"' % hashlib.sha256(self.body).hexdigest()[:24]
        if req.has_copy(tag):
            return Response(304, b"", (("ETag", tag),))
        return self.plus(("ETag", tag))

    def with_caching(self) -> "Response":
        """The same with what caches must know: it is for one caller, and to be asked for again."""
        has_rule = any(name == "Cache-Control" for name, _ in self.headers)
        rule = () if has_rule else (("Cache-Control", "private, no-cache"),)
        return self.plus(*rule, ("Vary", "Authorization, Accept-Encoding"))

    def head(self, closes: bool, chunks: bool) -> bytes:
        """The status line and the headers, with the blank line after them."""
        import http
        lines = ["HTTP/1.1 %d %s" % (self.status, http.HTTPStatus(self.status).phrase)]
        lines += ["%s: %s" % header for header in self.headers]
        if not isinstance(self.body, (bytes, FilePart)):
            lines += ["Transfer-Encoding: chunked"] if chunks else []
        elif self.status not in (204, 304):
            body = self.body
            length = len(body) if isinstance(body, bytes) else body.length
            lines.append("Content-Length: %d" % length)
        lines += ["Connection: close"] if closes else []
        return "\r\n".join(lines + ["", ""]).encode("latin-1", "replace")

    def send(self, wire: Wire, closes: bool, bodiless: bool = False, chunks: bool = True) -> int:
        """Send it; the number of bytes of the body that were sent.

        bodiless: leave the body out, for HEAD.  A body of unknown length goes in chunks or, without
        chunks, ends with the connection.
        """
        body, head = self.body, self.head(closes, chunks)
        try:
            if bodiless:
                wire.send(head)
                return 0
            if isinstance(body, bytes):
                wire.send(head + body)
                return len(body)
            wire.send(head)
            if isinstance(body, FilePart):
                wire.send_file(*body)
                return body.length
            return self.send_pieces(wire, body, chunks)
        finally:
            if isinstance(body, FilePart):
                body.file.close()

    @staticmethod
    def send_pieces(wire: Wire, body: Callable[[Send], None], chunks: bool) -> int:
        """Send a body of unknown length; the number of its bytes."""
        sent = 0

        def send(data: bytes) -> None:
            nonlocal sent
            if data:  # an empty chunk would end the body
                wire.send(b"%x\r\n%s\r\n" % (len(data), data) if chunks else data)
                sent += len(data)

        body(send)
        wire.send(b"0\r\n\r\n" if chunks else b"")
        return sent


FORM_TYPE = re.compile(r'multipart/form-data\s*;.*\bboundary=("?)([^";,]{1,200})\1\s*(?:;.*)?',
                       re.IGNORECASE)
PART_OPTION = r'(?im)^content-disposition:[^\r\n]*;\s*%s="((?:[^"\\\r\n]|\\.)*)"'


class Form:
    """A body that is multipart/form-data, which is read once, part by part.

    RequestError 415 if it is anything else; 413 if it is longer than limit.
    """

    def __init__(self, req: Request, limit: int) -> None:
        match = FORM_TYPE.fullmatch(req.headers.get("content-type", ""))
        if not match:
            raise RequestError(415, "the body must be multipart/form-data, with its boundary")
        self.mark = b"\r\n--" + match.group(2).encode("latin-1")
        # Each boundary is searched for with the CR LF before it; the first one gets it here.
        self.incoming, self.pending = req.body.blocks(limit), b"\r\n"

    @staticmethod
    def option(head: bytes, name: str) -> str:
        """A parameter of a part's Content-Disposition (name, filename), or ''."""
        match = re.search(PART_OPTION % name, head.decode("utf-8", "replace"))
        text = re.sub(r"\\(.)", r"\1", match.group(1)) if match else ""
        # Browsers escape these three characters, and no other.
        return text.replace("%22", '"').replace("%0D", "\r").replace("%0A", "\n")

    def parts(self) -> Iterator[Tuple[str, str, Iterator[bytes]]]:
        """(field's name, file name, blocks of its content) of each part.

        The blocks must be read before the next part is asked for.
        """
        if any(self.content()):
            raise RequestError(400, "the form does not begin with its boundary")
        for _ in range(MAX_PARTS):
            head = self.part_head()
            if head is None:
                return
            yield self.option(head, "name"), self.option(head, "filename"), self.content()
        raise RequestError(413, "the form has more than %d parts" % MAX_PARTS)

    def receive(self) -> None:
        """Read another block of the body; RequestError if there is none."""
        block = next(self.incoming, b"")
        if not block:
            raise RequestError(400, "the form was cut")
        self.pending += block

    def content(self) -> Iterator[bytes]:
        """What stands before the next boundary, in blocks."""
        while True:
            before, boundary, after = self.pending.partition(self.mark)
            if boundary:
                self.pending = after
                if before:
                    yield before
                return
            sure = len(self.pending) - len(self.mark) + 1  # no boundary begins in so many bytes
            if sure > 0:
                block, self.pending = self.pending[:sure], self.pending[sure:]
                yield block
            self.receive()

    def part_head(self) -> Optional[bytes]:
        """The head of the part after a boundary; None after the last boundary."""
        while b"\r\n\r\n" not in self.pending and not self.pending.startswith(b"--"):
            if len(self.pending) > MAX_HEAD:
                raise RequestError(400, "the head of a part is too long")
            self.receive()
        if self.pending.startswith(b"--"):
            return None
        if not self.pending.startswith(b"\r\n"):
            raise RequestError(400, "a boundary of the form is followed by something else")
        head, _, self.pending = self.pending.partition(b"\r\n\r\n")
        return head


# --------------------------------------------------------------------------------------- 18. Access

# Who sends a request, and what he may do.  In local mode the kernel says whose process is at the
# other end, and only we ourselves and root are let in.  Otherwise a client certificate or a token
# names the caller, and each job belongs to the user who made it.

LOCAL_USER = "local:psik_api"   # what psik_api calls the caller in local mode
OPERATIONS = ("GET", "POST")    # reading a job, and all else; a token's ops are HTTP methods
HTTP_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")
CERTIFICATE = "cert"            # claim: the serial number of the certificate that got the token
# The claims that make a token narrower than its user.
NARROWINGS = ("ops", "jobs", "backends", "apps")


def is_user(name: Any) -> bool:
    """Whether this can be a user's name; `addr:...` cannot, it stands for a caller without one."""
    if not isinstance(name, str) or not name or name.startswith("addr:"):
        return False
    return not CONTROL.search(name) and not SURROGATE.search(name)


class Access(NamedTuple):
    """A job's access.json: its owner, and {user: operations} of those it is shared with."""
    owner: str
    shared: Dict[str, List[str]]

    @classmethod
    def of(cls, job: JobDir) -> "Access":
        """The access of a job; LOCAL_USER owns one without a valid access.json."""
        text = read_or_empty(job.at("access.json"))
        with suppress(ValueError, TypeError):
            return cls(**json.loads(text)) if text else cls(LOCAL_USER, {})
        return cls(LOCAL_USER, {})

    def write(self, job: JobDir) -> None:
        """Replace a job's access.json."""
        replace_file(job.at("access.json"), json.dumps(self._asdict()) + "\n", durable=True)

    @classmethod
    def share(cls, job: JobDir, wanted: Dict[str, List[str]]) -> "Access":
        """Share a job: {user: ["GET", "POST"]}, [] to withdraw; the new access.  InvalidError."""
        for user, operations in wanted.items():
            if operations and not is_user(user):
                raise InvalidError("%s is not a user's name" % shown(user))
            for operation in operations:
                if operation not in OPERATIONS:
                    raise InvalidError("%s is not an operation; use GET (look) or POST (the rest)"
                                       % shown(operation))
        with job.history():  # for its lock: another request may share the job at the same time
            access = cls.of(job)
            shared = dict(access.shared)
            for user, operations in wanted.items():
                shared[user] = sorted(set(operations) | {"GET"})  # who may change it may look at it
            shared = {user: operations for user, operations in shared.items()
                      if wanted.get(user, True)}
            access = access._replace(shared=shared)
            access.write(job)
        return access


class Caller(NamedTuple):
    """Who sends a request: a user, and what his token allows him (None: everything)."""
    user: str
    trusted: bool = False       # we, or an administrator: owns every job
    jobs: Optional[FrozenSet[str]] = None
    backends: Optional[FrozenSet[str]] = None
    apps: Optional[FrozenSet[str]] = None       # applications, and the jobs that were made of them
    claims: Optional[Dict[str, Json]] = None
    issuer: str = ""                            # that has named him, if it was not we
    roles: FrozenSet[str] = frozenset()         # that the issuer gives him; see Policy.roles()

    @property
    def anonymous(self) -> bool:
        """Whether nobody vouches for a name, so that an address stands for it."""
        return self.user.startswith("addr:")

    @property
    def is_ours(self) -> bool:
        """Whether he is who runs the server, or an administrator."""
        return self.trusted or self.user == LOCAL_USER

    @property
    def names(self) -> List[str]:
        """What `users` of a config may call him; whom an issuer names is not just anybody."""
        return [self.user] if self.issuer else [self.user, ANYBODY]

    @property
    def narrowed(self) -> bool:
        """Whether his token allows less than he may do."""
        claims = self.claims or {}
        return any(name in claims for name in NARROWINGS) or claims.get("narrowed", False)

    def reaches_backend(self, name: str) -> bool:
        """Whether his token is not too narrow for a backend."""
        return self.backends is None or name in self.backends

    def reaches(self, job: Optional[JobDir]) -> bool:
        """Whether his token is not too narrow for a job; without a job, to make one."""
        if job is None:
            return self.jobs is None
        return ((self.jobs is None or job.jobid in self.jobs)
                and self.reaches_backend(job.backend)
                and (self.apps is None or job.application in self.apps))

    def owns(self, job: JobDir) -> bool:
        """Whether he owns the job, or is trusted as if he did; never with a narrowed token."""
        return not self.narrowed and (self.trusted or Access.of(job).owner == self.user)


class OwnerPolicy:
    """The built-in rule: a job's owner may do everything, others what he has shared with them."""

    def allows(self, user: str, operation: str, job: Optional[JobDir]) -> bool:
        """Whether a user may GET (look at) or POST (change) a job; without a job, may make one."""
        if job is None:
            return True
        access = Access.of(job)
        return user == access.owner or operation in access.shared.get(user, ())


def add_site_packages() -> None:
    """Make installed packages importable if the interpreter was started without them (-S)."""
    if sys.flags.no_site:
        sys.path.insert(0, STANDARD)  # so that no other module called site is imported
        try:
            import site
        finally:
            sys.path.remove(STANDARD)
        site.main()


def load_module(name: str, path: str) -> Any:
    """The module in a file.  Raises whatever its code raises.

    It is compiled anew: nobody has checked whose the compiled files beside it are.
    """
    import types
    module = types.ModuleType(name)
    module.__file__ = path
    exec(compile(read_text(path), path, "exec"), vars(module))
    return module


class Policy:
    """Who may do what, by the config's users, the caller's token, and a rule.

    The rule is an object whose allows(user, operation, job) decides: an OwnerPolicy, or one of the
    config's `module:Class`.
    """

    def __init__(self, config: Config) -> None:
        self.configs = [backend.config for backend in config.by_name.values()]
        self.scripts = config.submit == "scripts"
        self.rule = self.load_rule(config)

    @staticmethod
    def site_rule(config: Config, module: str, name: str) -> Any:
        """An object of a class in a module of the folder authz_path.

        Raises whatever the module's code raises.
        """
        path = os.path.join(config.authz_path or "", module + ".py")
        config.check_site_file(path)
        add_site_packages()
        rule = getattr(load_module("psik_policy_" + module, path), name)()
        if not callable(rule.allows):
            raise TypeError("its `allows` is not a method")
        return rule

    @classmethod
    def load_rule(cls, config: Config) -> Any:
        """The rule that a config names; InvalidError if it cannot be loaded.

        Its module comes from the folder authz_path, and from nowhere else.
        """
        if config.is_personal or config.authz in ("owner", "psik_api.authz:BaseAuthz"):
            return OwnerPolicy()
        module, colon, name = (config.authz or "").partition(":")
        if not colon or not config.authz_path or not re.fullmatch(r"[A-Za-z_]\w*", module):
            message = ("%r must be local, owner, or module:Class with authz_path naming the folder "
                       "of the module" % config.authz)
            raise InvalidError([Fault("authz", message)], "config")
        try:
            return cls.site_rule(config, module, name)
        except PsikError:
            raise
        except (Exception, SystemExit) as err:  # a site's own code may fail in any way
            path = os.path.join(config.authz_path, module + ".py")
            message = "%s: %s: %s" % (path, type(err).__name__, err)
            raise InvalidError([Fault("authz", message)], "config") from None

    def allows(self, caller: Caller, operation: str, job: Optional[JobDir]) -> bool:
        """Whether a caller may do an operation on a job; without a job, whether he may make one."""
        if not caller.reaches(job):
            return False
        if caller.trusted or caller.anonymous:
            return caller.trusted
        try:
            return bool(self.rule.allows(caller.user, operation, job))
        except Exception as err:  # a site's own code; in doubt the answer is no
            complain("the policy failed: %s: %s" % (type(err).__name__, one_line(str(err))))
            return False

    def is_maker(self, caller: Caller, config: Optional[Config] = None) -> bool:
        """Whether `users`, of this config or of any, lets a caller make jobs; we and admins may."""
        configs = [config] if config else self.configs
        return caller.is_ours or any(set(caller.names) & set(each.users) for each in configs)

    def check_is_maker(self, caller: Caller, config: Optional[Config] = None) -> None:
        """ForbiddenError unless is_maker()."""
        if not self.is_maker(caller, config):
            raise ForbiddenError("%s may not make jobs here; the server's owner lets users do so "
                                 'by "users" in the config' % caller.user)

    def check_may_create(self, caller: Caller) -> None:
        """ForbiddenError if the token, `users` or the rule does not let a caller make jobs."""
        self.check_is_maker(caller)
        self.check_takes_scripts(caller)
        self.check_may_make(caller)

    def check_may_make(self, caller: Caller) -> None:
        """ForbiddenError if the token or the rule does not let a caller make jobs."""
        if caller.jobs is not None:
            raise ForbiddenError("the token does not let you make jobs")
        # The rule is for users; LOCAL_USER is who runs the server.
        if caller.user != LOCAL_USER and not self.allows(caller, "POST", None):
            raise ForbiddenError("the policy does not let %s make jobs" % caller.user)

    # Applications.

    def takes_scripts(self, caller: Caller) -> bool:
        """Whether a caller may run what he likes, and not only applications.

        A user of an issuer may if `users` has him.
        """
        is_known = not caller.issuer or self.is_maker(caller)
        return caller.apps is None and (caller.is_ours or (self.scripts and is_known))

    def check_takes_scripts(self, caller: Caller) -> None:
        """ForbiddenError unless takes_scripts()."""
        if not self.takes_scripts(caller):
            raise ForbiddenError("%s may run applications here, and nothing else; "
                                 "GET /v1/applications lists them" % caller.user)

    def roles(self, caller: Caller) -> Set[str]:
        """The roles that a caller has, from the config and from an issuer."""
        given = {role for config in self.configs for name in caller.names if name in config.users
                 for role in config.users[name].roles}
        return given | caller.roles

    def is_applicant(self, caller: Caller, config: Optional[Config] = None) -> bool:
        """Whether a caller may use applications: a user of an issuer, or who may make jobs."""
        return bool(caller.issuer) or self.is_maker(caller, config)

    def check_is_applicant(self, caller: Caller, config: Optional[Config] = None) -> None:
        """ForbiddenError unless is_applicant()."""
        if not self.is_applicant(caller, config):
            self.check_is_maker(caller, config)

    def check_may_apply(self, caller: Caller) -> None:
        """ForbiddenError if token, config or rule do not let a caller make jobs of applications."""
        self.check_is_applicant(caller)
        self.check_may_make(caller)

    def may_use(self, caller: Caller, app: Application) -> bool:
        """Whether the token and the roles of a caller let him use an application."""
        if caller.anonymous or (caller.apps is not None and app.name not in caller.apps):
            return False
        return caller.is_ours or not app.roles or bool(self.roles(caller) & set(app.roles))

    def check_may_use(self, caller: Caller, app: Application) -> None:
        """ForbiddenError unless may_use()."""
        if not self.may_use(caller, app):
            raise ForbiddenError("%s may not use %s; it is for the roles %s" % (
                caller.user, app.name, ", ".join(app.roles)) if caller.apps is None or (
                    app.name in caller.apps) else "the token is not for " + app.name)


# Tokens, signed with a key that only we can read.  The config chooses the algorithm, and never the
# token: one that calls itself unsigned is not taken at its word.

def encode_base64(data: bytes) -> str:
    """base64url without its padding."""
    import base64
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def decode_base64(text: str) -> bytes:
    """The bytes of a base64url text without padding; ValueError if it is invalid."""
    import base64
    if not re.fullmatch("[A-Za-z0-9_-]*", text):
        raise ValueError("not base64url")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if encode_base64(data) != text:  # unused bits at the end would make two texts of one token
        raise ValueError("not canonical base64url")
    return data


class Keyring:
    """The key that signs a config's tokens, and the ids of the tokens that were revoked.

    Both are files in .tokens/ below the first backend's prefix.
    """

    def __init__(self, config: Config) -> None:
        first = next(iter(config.backends.values()), config)
        prefix = os.path.abspath(first.prefix or config.prefix or data_home())
        self.folder = os.path.join(prefix, ".tokens")
        self.path, self.revoked_path = self.folder + "/key", self.folder + "/revoked"
        self.check_owner = config.check_owner

    def make_folder(self) -> None:
        """Make the folder if it is missing; ForbiddenError if it is somebody else's."""
        make_folder(self.folder)
        if self.check_owner:
            instead = "remove it, or name a prefix of your own in the config"
            Guarded(self.folder, instead).check_own()

    def make_key(self) -> None:
        """Make a key, unless another process is first."""
        temporary = "%s.%s" % (self.path, os.urandom(6).hex())
        try:
            write_file(temporary, os.urandom(32).hex() + "\n", durable=True)
            os.link(temporary, self.path)  # unlike a rename, it fails if there is a key by now
        except FileExistsError:
            pass
        finally:
            if os.path.exists(temporary):
                os.unlink(temporary)

    def key(self) -> bytes:
        """The key, made when it is first needed.  ForbiddenError if others can read its file."""
        if self.path not in TEXTS:  # else the folder was checked when the key was read
            self.make_folder()
        if not os.path.exists(self.path):
            self.make_key()
        status = os.stat(self.path)
        if status.st_mode & 0o077 or status.st_uid != os.getuid():
            raise ForbiddenError("%s can be read by others, so it is not used; remove it, and with "
                                 "it every token" % self.path)
        text = read_unless_known(self.path).strip()
        if not re.fullmatch("[0-9a-f]{64}", text):
            raise InvalidError("it holds no key; remove it", self.path)
        return bytes.fromhex(text)

    def revoked(self) -> Set[str]:
        """The ids of the tokens that were revoked."""
        return set(read_unless_known(self.revoked_path).split())

    def revoke(self, jti: str) -> None:
        """Revoke a token by its id: its claim jti, or a biscuit's revocation id."""
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,200}", jti):
            raise InvalidError("%r is not the id of a token; `%s token --show TOKEN` prints it"
                               % (jti, called()))
        self.make_folder()
        fd = os.open(self.revoked_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with open(fd, "w") as file:
            file.write(jti + "\n")


class ExpiredError(ValueError):
    """A token was valid once."""


def refused_token(why: str, said: str = "is invalid") -> RequestError:
    """The 401 for a token; what is wrong with it is for the log, and `said` for the client."""
    complain("refused: a token, for %s" % one_line(why)[:200])
    return RequestError(401, "the token " + said,
                        WWW_Authenticate='Bearer error="invalid_token"')


class Tokens:
    """A config's tokens; for each kind a subclass makes tokens from claims, and reads them.

    Claims are those of a JWT: sub (the user), exp (seconds since the epoch), jti (the token's id);
    and those of NARROWINGS that make it narrower.
    """

    def __init__(self, config: Config) -> None:
        self.keys = Keyring(config)

    def encode(self, claims: Dict[str, Json]) -> str:
        """The token of these claims."""
        raise NotImplementedError

    def decode(self, token: str, facts: Dict[str, str]) -> Dict[str, Json]:
        """The claims of a valid token; ValueError, KeyError or TypeError says why it is invalid.

        facts describe the request, for the conditions of a biscuit: client, operation and path.
        """
        raise NotImplementedError

    def show(self, token: str) -> List[str]:
        """What a token says, block by block, valid or not; ValueError if it is no token at all."""
        raise NotImplementedError

    def public_key(self) -> str:
        """The key that a holder needs to narrow his token, in hexadecimal digits."""
        raise NotImplementedError

    def make(self, user: str, expires_s: float, parents: Sequence[str] = (), certificate: str = "",
             **narrow: Optional[Sequence[str]]) -> str:
        """A token for a user, which expires, narrowed by those of NARROWINGS that are given.

        parents: the ids of the tokens that were shown to get it, certificate: the serial number of
        the certificate; it is void once one of them is revoked or refused.  InvalidError if it
        would be too long.
        """
        now = int(time.time())
        claims: Dict[str, Json] = {
            "sub": user, "iss": TOKEN_ISSUER, "aud": TOKEN_ISSUER,
            "iat": now, "exp": int(now + expires_s), "jti": os.urandom(12).hex()}
        claims.update({name: list(values) for name, values in narrow.items() if values is not None})
        claims.update({CERTIFICATE: certificate} if certificate else {})
        token = self.encode(dict(claims, parents=list(parents)) if parents else claims)
        if len(token) > MAX_TOKEN:
            raise InvalidError("the token would have %d characters, and may have %d: narrow it to "
                               "fewer jobs" % (len(token), MAX_TOKEN))
        return token

    def read(self, token: str, facts: Dict[str, str]) -> Dict[str, Json]:
        """The claims of a valid token, as decode(); else a 401, and the reason goes to the log."""
        if len(token) > MAX_TOKEN:
            raise refused_token("it is longer than %d characters" % MAX_TOKEN)
        try:
            return self.decode(token, facts)
        except ExpiredError as err:
            raise refused_token(str(err), "has expired") from None
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError,
                RecursionError) as err:
            raise refused_token(str(err)) from None

    def blocks(self, token: str) -> List[str]:
        """What a token says, as show(); RequestError 401 if it is no token at all."""
        try:
            return self.show(token)
        except (ValueError, RecursionError) as err:
            raise refused_token(str(err)) from None


class JwtTokens(Tokens):
    """JWTs, signed with HS256."""

    def mark(self, text: str) -> str:
        """The signature of a JWT's first two parts: its third."""
        import hashlib
        import hmac
        return encode_base64(hmac.new(self.keys.key(), text.encode(), hashlib.sha256).digest())

    def encode(self, claims: Dict[str, Json]) -> str:
        """header.claims.signature, each in base64url."""
        header = {"alg": "HS256", "typ": "JWT"}
        parts = [encode_base64(json.dumps(part, separators=(",", ":")).encode())
                 for part in (header, claims)]
        return ".".join(parts + [self.mark(".".join(parts))])

    def decode(self, token: str, facts: Dict[str, str]) -> Dict[str, Json]:
        """The claims, whatever the facts: a JWT has no conditions."""
        import hmac
        head, body, signature = token.split(".")
        if not hmac.compare_digest(self.mark(head + "." + body).encode(), signature.encode()):
            raise ValueError("its signature is not ours")
        header = json.loads(decode_base64(head))
        if header.get("alg") != "HS256" or "crit" in header:  # crit: must be understood
            raise ValueError("its algorithm is not HS256, or its header demands an extension")
        claims: Dict[str, Json] = json.loads(decode_base64(body))
        self.check(claims)
        return claims

    def check(self, claims: Dict[str, Json]) -> None:
        """ValueError, KeyError or TypeError unless the claims are valid, here and now."""
        if claims["iss"] != TOKEN_ISSUER or claims["aud"] != TOKEN_ISSUER:
            raise ValueError("it is for somebody else")
        if not is_user(claims["sub"]):
            raise ValueError("it names no user")
        self.check_times(claims)
        if self.keys.revoked() & {str(jti) for jti in [claims["jti"]] + claims.get("parents", [])}:
            raise ValueError("it was revoked")
        for name in NARROWINGS:
            values = claims.get(name, [])
            if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
                raise ValueError("its %s must be a list of strings" % name)

    @staticmethod
    def check_times(claims: Dict[str, Json]) -> None:
        """ValueError or KeyError unless the claims are valid now; clocks may differ a little."""
        import math
        now = time.time()
        times = {"exp": claims["exp"], "nbf": claims.get("nbf", 0), "iat": claims.get("iat", 0)}
        # Python's JSON reader takes NaN and Infinity; and True, as a number, is an int.
        if not all(type(each) in (int, float) and math.isfinite(each) for each in times.values()):
            raise ValueError("its times are not numbers")
        if not now <= times["exp"] + CLOCK_SKEW_S:
            raise ExpiredError("it has expired")
        if not max(times["nbf"], times["iat"]) <= now + CLOCK_SKEW_S:
            raise ValueError("it is not valid yet")

    def show(self, token: str) -> List[str]:
        """The claims, as JSON."""
        if token.count(".") != 2:
            raise ValueError("not a JWT")
        return [json.dumps(json.loads(decode_base64(token.split(".")[1])))]

    def public_key(self) -> str:
        """InvalidError: there is none."""
        raise InvalidError('the tokens are JWTs, which have no public key; "tokens": "biscuit" in '
                           "the config makes biscuits")


class Protobuf:
    """A protobuf message, as far as it can be read without its schema."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def number(self) -> int:
        """Read the number (a varint) at self.place; IndexError if it is cut."""
        value = shift = 0
        while self.data[self.place] & 0x80:
            value |= (self.data[self.place] & 0x7F) << shift
            shift, self.place = shift + 7, self.place + 1
        self.place += 1
        return value | self.data[self.place - 1] << shift

    def skip(self, kind: int) -> bytes:
        """Read the value of a field of wire type 1, 2 or 5 at self.place; KeyError for others."""
        size = self.number() if kind == 2 else {1: 8, 5: 4}[kind]
        start, self.place = self.place, self.place + size
        return self.data[start:self.place]

    def below(self, *path: int) -> List["Protobuf"]:
        """The messages in fields path[0], in fields path[1] of each of these, and so on."""
        messages = [self]
        for wanted in path:
            messages = [inner for message in messages for inner in message.fields(wanted)]
        return messages

    def values(self) -> Iterator[Tuple[int, Union[int, "Protobuf"]]]:
        """(number, value) of each field; ValueError if this is not a message.

        A value that is not an int may be a message, or bytes.
        """
        self.place = 0
        try:
            while self.place < len(self.data):
                key = self.number()
                if key & 7 == 0:
                    yield key >> 3, self.number()
                else:
                    value = self.skip(key & 7)
                    yield key >> 3, Protobuf(value)
        except (IndexError, KeyError):
            raise ValueError("not a protobuf message") from None

    def fields(self, wanted: int) -> List["Protobuf"]:
        """The messages in the fields of this number."""
        return [value for field_number, value in self.values()
                if field_number == wanted and isinstance(value, Protobuf)]

    def numbers(self, wanted: int) -> List[int]:
        """The ints in the fields of this number."""
        return [value for field_number, value in self.values()
                if field_number == wanted and isinstance(value, int)]


# The kinds of operations that a biscuit's holder may add, as schema.proto numbers them: negation,
# parentheses, length, type; comparisons, membership, beginning and end of a text, and, or, not
# equal, and the lazy ones.
UNARY, BINARY = (0, 1, 2, 3), (0, 1, 2, 3, 4, 5, 6, 7, 13, 14, 20, 21, 22, 23, 24)


class BiscuitTokens(Tokens):
    """Biscuits, if biscuit-python is installed.  Whoever holds one can narrow it without us."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        add_site_packages()
        try:
            import biscuit_auth  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            message = ('"biscuit" needs biscuit-python, which this Python does not have; leave it '
                       "out for JWTs")
            raise InvalidError([Fault("tokens", message)], "config") from None
        self.auth: Any = biscuit_auth

    def private_key(self) -> Any:
        """The private key of our biscuits, made from the key of our tokens."""
        return self.auth.PrivateKey.from_bytes(self.keys.key(), self.auth.Algorithm.Ed25519)

    def root_key(self) -> Any:
        """The public key of our biscuits."""
        return self.auth.KeyPair.from_private_key(self.private_key()).public_key

    def public_key(self) -> str:
        """The root key in hexadecimal digits; it is not a secret."""
        return bytes(self.root_key().to_bytes()).hex()

    def encode(self, claims: Dict[str, Json]) -> str:
        """A biscuit of these claims.

        It holds `user("...")`, checks on the time and the operation, and the other facts that
        authorized() asks for.
        """
        import datetime
        exp = datetime.datetime.fromtimestamp(claims["exp"], datetime.timezone.utc)
        source = "user({user}); check if time($time), $time < {exp};"
        values = {"user": claims["sub"], "exp": exp}
        for name, fact in (("ops", "operation"), ("jobs", "job"), ("backends", "backend"),
                           ("apps", "app")):
            words = {"%s%d" % (name, number): word
                     for number, word in enumerate(claims.get(name, ()))}
            if name == "ops" and words:
                source += " check if %s;" % " or ".join("operation({%s})" % key for key in words)
            else:
                source += "".join(" only_%s({%s});" % (fact, key) for key in words)
            values.update(words)
        if CERTIFICATE in claims:
            source += " certificate({certificate});"
            values["certificate"] = claims[CERTIFICATE]
        return str(self.auth.BiscuitBuilder(source, values).build(self.private_key()).to_base64())

    @classmethod
    def check_blocks(cls, token: str) -> None:
        """ValueError if a biscuit's holder added what may take long to decide.

        The library holds the interpreter's lock meanwhile, and looks at its limits only between
        two rules.  So blocks after the first may hold a few checks, each on few facts and with few
        plain comparisons, and no facts or rules.

        The numbers of fields are those of biscuit's schema.proto: Biscuit.blocks 3,
        SignedBlock.block 1, Block.facts 4, rules 5, checks 6, Check.queries 1, Rule.body 2,
        expressions 3, Expression.ops 1.
        """
        biscuit = Protobuf(decode_base64(token.rstrip("=")))
        blocks, queries = biscuit.below(3, 1), biscuit.below(3, 1, 6, 1)
        if biscuit.below(3, 1, 4) + biscuit.below(3, 1, 5):
            raise ValueError("its holder added facts or rules, where only checks may be")
        on_many_facts = (len(query.fields(2)) > 3 for query in queries)
        if len(blocks) > 8 or len(queries) > 32 or any(on_many_facts):
            raise ValueError("its holder added too many checks, or one on more than three facts")
        if cls.count_operations([op for query in queries for op in query.below(3, 1)]) > 64:
            raise ValueError("its holder added too many operations")

    @staticmethod
    def check_kinds(operations: Sequence[Protobuf], part: int, allowed: Sequence[int]) -> None:
        """ValueError unless this part of each operation is of one kind, which is allowed."""
        for inner in (inner for operation in operations for inner in operation.fields(part)):
            kinds = inner.numbers(1)
            if len(kinds) != 1 or kinds[0] not in allowed:  # of two, the library may take the other
                raise ValueError("its holder added an operation that may take long")

    @classmethod
    def count_operations(cls, operations: Sequence[Protobuf]) -> int:
        """How many operations these are, with those in their closures.

        ValueError for one that may take long: a regular expression, a call of a function, a closure
        with parameters (which runs for each item of a list); and for one that can be read in two
        ways.

        Fields: Op.unary 2, binary 3, closure 4; OpUnary.kind, OpBinary.kind 1; OpClosure.params 1,
        ops 2.
        """
        closures = [closure for operation in operations for closure in operation.fields(4)]
        cls.check_kinds(operations, 2, UNARY)
        cls.check_kinds(operations, 3, BINARY)
        if any(number == 1 for closure in closures for number, _ in closure.values()):
            raise ValueError("its holder added a closure with parameters")
        inner = sum(cls.count_operations(closure.fields(2)) for closure in closures)
        return len(operations) + inner

    def authorizer(self, token: Any, facts: Dict[str, str]) -> Any:
        """What decides whether a biscuit with a valid signature allows a request of these facts."""
        import datetime
        now = datetime.datetime.now(datetime.timezone.utc)
        request = " ".join("%s({%s});" % (name, name) for name in facts)
        source = "time({now}); %s allow if user($u);" % request
        builder = self.auth.AuthorizerBuilder(source, dict(facts, now=now))
        limits = builder.limits()
        # By default it is a millisecond, which a busy machine misses.
        limits.max_time = datetime.timedelta(seconds=1)
        builder.set_limits(limits)
        return builder.build(token)

    def authorized(self, token: Any, facts: Dict[str, str]) -> Dict[str, List[str]]:
        """{fact: its values} of a biscuit that allows a request; else an error of the library's."""
        authorizer, rule = self.authorizer(token, facts), "value($x) <- %s($x)"
        authorizer.authorize()
        return {fact: [row.terms[0] for row in authorizer.query(self.auth.Rule(rule % fact))]
                for fact in ("user", "only_job", "only_backend", "only_app", "certificate")}

    def decode(self, token: str, facts: Dict[str, str]) -> Dict[str, Json]:
        """The claims of a biscuit that allows a request with these facts."""
        self.check_blocks(token)
        try:
            biscuit = self.auth.Biscuit.from_base64(token, self.root_key())
            revoked = bool(self.keys.revoked() & set(biscuit.revocation_ids))
            values = {} if revoked else self.authorized(biscuit, facts)
        except PsikError:
            raise
        except Exception as err:  # the library's errors have no base but this
            raise ValueError(str(err)) from None
        if revoked:
            raise ValueError("it was revoked")
        if len(values["user"]) != 1 or not is_user(values["user"][0]):
            raise ValueError("it names no user")
        return self.claims(biscuit, values)

    @staticmethod
    def claims(biscuit: Any, values: Dict[str, List[str]]) -> Dict[str, Json]:
        """The claims of a biscuit with these values.

        exp is only a guess: the checks, which have passed, decide how long a biscuit is valid.
        """
        narrow = {"jobs": values["only_job"], "backends": values["only_backend"],
                  "apps": values["only_app"]}
        claims: Dict[str, Json] = {name: words for name, words in narrow.items() if words}
        claims.update({CERTIFICATE: serial for serial in values["certificate"]})
        narrowed = biscuit.block_count() > 1 or "check if operation(" in biscuit.block_source(0)
        return dict(claims, sub=values["user"][0], exp=time.time() + 86400, narrowed=narrowed)

    def show(self, token: str) -> List[str]:
        """Each block as Datalog, with its revocation id."""
        try:
            biscuit = self.auth.UnverifiedBiscuit.from_base64(token)
        except Exception as err:  # the library's errors have no base but this
            raise ValueError(str(err)) from None
        blocks = [biscuit.block_source(number) for number in range(biscuit.block_count())]
        return ["%s# revocation id: %s" % pair for pair in zip(blocks, biscuit.revocation_ids)]


class Der:
    """What a key in DER holds, item after item; ValueError where it is not written as DER wants it.
    """
    NUMBER, BITS, SEQUENCE = 0x02, 0x03, 0x30

    def __init__(self, data: bytes) -> None:
        self.rest = data

    def take(self, tag: int) -> bytes:
        """The content of the next item, which has this tag."""
        data, start = self.rest + b"\0\0", 2
        size = data[1]
        if size & 0x80:     # the length of the length, which is no longer than it has to be
            start += size & 0x7F
            size = int.from_bytes(data[2:start], "big")
            if start > 5 or data[2] == 0 or size < 0x80:
                raise ValueError("a length in it is invalid")
        if data[0] != tag or start + size > len(self.rest):
            raise ValueError("it is cut, or something else")
        content, self.rest = self.rest[start:start + size], self.rest[start + size:]
        return content

    def number(self) -> int:
        """The next item, which is a number above 0."""
        content = self.take(self.NUMBER)
        if not content or content[0] & 0x80 or (content[0] == 0 and not content[1:2] > b"\x7f"):
            raise ValueError("a number in it is invalid")
        return int.from_bytes(content, "big")

    def inner(self, tag: int) -> "Der":
        """What is inside the next item, which has this tag and is the last."""
        content = self.take(tag)
        if self.rest:
            raise ValueError("something stands behind it")
        return Der(content)


RSA_ALGORITHM = bytes.fromhex("06092a864886f70d0101010500")     # rsaEncryption, NULL
SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")   # RFC 8017, 9.2


class RsaKey(NamedTuple):
    """A public key of RSA, for signatures of PKCS #1 v1.5 with SHA-256 (RFC 8017).

    Only public numbers are here, so no time that an operation takes tells a secret.
    """
    modulus: int
    exponent: int

    @classmethod
    def of_pem(cls, text: str) -> "RsaKey":
        """The key of a PEM text, PUBLIC KEY or RSA PUBLIC KEY; ValueError says why it is none."""
        import base64
        found = re.findall(r"-----BEGIN ([A-Z0-9 ]+)-----([A-Za-z0-9+/=\s]+)-----END \1-----", text)
        if len(found) != 1:
            raise ValueError("it is no PEM file with one key")
        kind, body = found[0]
        if "PRIVATE" in kind:
            raise ValueError("it is the private key, which only the issuer should have; `openssl "
                             "pkey -pubout -in FILE` prints the public one")
        if kind not in ("PUBLIC KEY", "RSA PUBLIC KEY"):
            raise ValueError("%s is not taken; it should be a PUBLIC KEY" % kind)
        data = base64.b64decode("".join(body.split()), validate=True)
        return cls.of_der(data if kind == "RSA PUBLIC KEY" else cls.unwrapped(data))

    @staticmethod
    def unwrapped(data: bytes) -> bytes:
        """The key inside a SubjectPublicKeyInfo."""
        outer = Der(data).inner(Der.SEQUENCE)
        if outer.take(Der.SEQUENCE) != RSA_ALGORITHM:
            raise ValueError("it is no key for RS256; those for PSS or elliptic curves are not "
                             "taken")
        bits = outer.take(Der.BITS)
        if outer.rest or bits[:1] != b"\0":
            raise ValueError("it is cut, or something else")
        return bits[1:]

    @classmethod
    def of_der(cls, data: bytes) -> "RsaKey":
        """The key of an RSAPublicKey in DER."""
        items = Der(data).inner(Der.SEQUENCE)
        key = cls(items.number(), items.number())
        size = key.modulus.bit_length()
        if items.rest or not key.modulus & 1:
            raise ValueError("it is no key of RSA")
        if not 2048 <= size <= 8192:
            raise ValueError("it has %d bits, and must have 2048 to 8192" % size)
        if not (key.exponent & 1 and 1 < key.exponent < 2 ** 32):
            raise ValueError("its exponent must be odd, above 1 and below 2^32")
        return key

    def has_signed(self, message: bytes, signature: bytes) -> bool:
        """Whether this is the signature of a message: all that it encodes is built and compared."""
        import hashlib
        import hmac
        size, number = (self.modulus.bit_length() + 7) // 8, int.from_bytes(signature, "big")
        if len(signature) != size or number >= self.modulus:
            return False
        digest = SHA256_INFO + hashlib.sha256(message).digest()
        encoded = b"\0\1" + b"\xff" * (size - len(digest) - 3) + b"\0" + digest
        return hmac.compare_digest(
            pow(number, self.exponent, self.modulus).to_bytes(size, "big"), encoded)


class Issuers:
    """The issuers that a config trusts, and their tokens: JWTs, signed with RS256 (RFC 7515, 7519).

    What a token may be is in the config alone.  A token says who has issued it, but no more: not
    the algorithm, and not where the key is.
    """

    def __init__(self, config: Config) -> None:
        """InvalidError if a key cannot be used."""
        self.known, self.keyring = config.issuers, Keyring(config)
        self.keys = {name: self.read_key(config, name) for name in self.known}

    def read_key(self, config: Config, name: str) -> RsaKey:
        """The key of an issuer."""
        path = self.known[name].key
        try:
            if config.check_owner:
                Guarded(path, "copy it to a folder of your own").check_ours()
            return RsaKey.of_pem(read_text(path))
        except (ValueError, InvalidError) as err:
            why = str(err) if path in str(err) else "%s: %s" % (path, err)
            raise InvalidError([Fault("issuers.%s.key" % name, why)], "config") from None

    @staticmethod
    def part(text: str) -> Dict[str, Json]:
        """The JSON object of a part of a token; ValueError."""
        data = load_json(decode_base64(text).decode("utf-8"), forgiving=False)
        if not isinstance(data, dict):
            raise ValueError("a part of it is no object")
        return data

    def caller(self, token: str) -> Optional[Caller]:
        """Whom a token of an issuer names; None if it is of none; else a 401."""
        parts = token.split(".")
        try:
            issuer = str(self.part(parts[1]).get("iss")) if len(parts) == 3 else ""
        except (ValueError, RecursionError):
            return None
        if issuer not in self.known:
            if self.known and issuer not in ("", TOKEN_ISSUER):
                complain("a token is of the issuer %s, which the config does not name%s"
                         % (shown(issuer), nearest(issuer, self.known)))
            return None
        try:
            return self.read(issuer, *parts)
        except ExpiredError as err:
            raise refused_token("%s: %s" % (issuer, err), "has expired") from None
        except KeyError as err:
            raise refused_token("%s: it has no %s" % (issuer, err)) from None
        except (ValueError, TypeError, ArithmeticError, RecursionError) as err:
            raise refused_token("%s: %s" % (issuer, err)) from None

    def read(self, issuer: str, head: str, body: str, signature: str) -> Caller:
        """Whom a token of an issuer names; an error says why it is invalid."""
        config, header = self.known[issuer], self.part(head)
        if header.get("alg") != "RS256":
            raise ValueError("its algorithm is %s, and must be RS256" % shown(header.get("alg")))
        if "crit" in header:    # it must be understood
            raise ValueError("its header demands an extension: %s" % shown(header["crit"]))
        if not self.keys[issuer].has_signed(("%s.%s" % (head, body)).encode(),
                                            decode_base64(signature)):
            raise ValueError("its signature is not the issuer's")
        claims = self.part(body)
        self.check(config, claims)
        user, roles = config.prefix + claims["sub"], frozenset(claims.get("roles") or ())
        if not is_user(user):
            raise ValueError("it names no user")
        return Caller(user, claims={"exp": claims["exp"]}, issuer=issuer, roles=roles)

    @staticmethod
    def check_audience(ours: Optional[str], named: Any) -> None:
        """ValueError or TypeError unless a token, which names somebody or not, is for us."""
        names = named if isinstance(named, list) else [named]
        if (named is not None or ours) and ours not in names:
            raise ValueError("it is for %s, and not for %s" % (shown(named), shown(ours)))

    def check(self, config: IssuerConfig, claims: Dict[str, Json]) -> None:
        """ValueError, KeyError or TypeError unless the claims are valid, here and now."""
        JwtTokens.check_times(claims)
        if claims["exp"] > time.time() + config.longest_life_s + CLOCK_SKEW_S:
            raise ValueError("it is valid for longer than %d s" % config.longest_life_s)
        self.check_audience(config.audience, claims.get("aud"))
        for name, texts in (("sub", [claims["sub"]]), ("roles", claims.get("roles") or [])):
            if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
                raise ValueError("its %s should be text" % name)
        if not claims["sub"]:
            raise ValueError("it names no user")
        if self.keyring.revoked() & {str(claims.get("jti"))}:
            raise ValueError("it was revoked")


TOKEN_KINDS: Dict[str, Type[Tokens]] = {"jwt": JwtTokens, "biscuit": BiscuitTokens}


def tokens_of(config: Config) -> Tokens:
    """The tokens of a config; InvalidError if their kind needs a package that is not installed."""
    return TOKEN_KINDS[config.tokens](config)


# -------------------------------------------------------------------------------- 19. Service state

# What a server keeps while it runs: what it knows of the tree, the keys of requests that made jobs,
# and its connections.

class Shape(NamedTuple):
    """What a tracker remembers of a job: bytes and rows of its history, its backend, its state."""
    size: int = 0
    rows: int = 0
    backend: str = ""
    state: str = ""


class Told(NamedTuple):
    """A transition that servers have told, with its number in the journal."""
    number: int
    backend: str
    path: str       # the job's directory
    place: int      # of its row in the history, from 1
    row: Row

    @property
    def job(self) -> JobDir:
        """The job."""
        return JobDir(self.path, self.backend)

    @property
    def key(self) -> str:
        """Names the transition; it has the same key if it is told a second time."""
        return "%s/%d" % (os.path.basename(self.path), self.place)

    @property
    def line(self) -> str:
        """Its line in the journal."""
        return json.dumps(list(self[:4]) + list(self.row)) + "\n"

    @classmethod
    def read(cls, line: str) -> Optional["Told"]:
        """The transition of a line; None if that is torn, or no transition."""
        with suppress(ValueError, TypeError, KeyError):
            number, backend, path, place, stamp, jobndx, state, info = json.loads(line)
            row = Row(float(stamp), int(jobndx), STATES[state], info)
            return cls(int(number), str(backend), str(path), int(place), row)
        return None


class Journal:
    """The transitions that servers have told, in the order of telling, below PREFIX/.events/.

    A client goes on after the number of the last one that it has got, whatever server it asks, and
    however often that was started.  Each file is named by the number from which it may hold
    transitions, and begins with the line {path of a live job: rows that were told}.  The servers of
    a tree share the files: each reads what the others have told before it adds to them.  Only the
    last JOURNAL_FILES files are kept, and only the last MAX_NEWS transitions are in memory.
    """
    # A server that starts leaves a gap in the numbers: after a power failure the disk may lack
    # transitions that clients have got, and their numbers must not be given again.  It writes a
    # line with the number at which it begins.

    def __init__(self, prefix: str) -> None:
        self.folder = os.path.join(prefix, ".events")
        self.told: Dict[str, int] = {}      # {path of a job: rows that were told}
        self.recent: List[Told] = []        # the last ones
        self.number = 0                     # of the last one
        self.path, self.offset, self.lines = "", 0, 0   # the last file, and what is read of it
        self.unwritten: List[Told] = []     # those that the disk did not take
        self.alive = time.time()    # when an earlier server last looked, if there was one

    def files(self) -> List[str]:
        """The paths of the files, oldest first."""
        return sorted(path for path in paths_in(self.folder)
                      if re.fullmatch("[0-9]{15}", os.path.basename(path)))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other servers from adding to it."""
        make_folder(self.folder)
        path = os.path.join(self.folder, "lock")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        with closing_fd(fd), locked(fd):
            yield

    def load(self) -> None:
        """Read what earlier servers have told; OSError if the files cannot be read or written."""
        try:
            with self.alone():
                files = self.files()
                self.catch_up()
                self.alive = self.last_look(files)
                number = (self.number // JOURNAL_GAP + 1) * JOURNAL_GAP
                if not files:
                    self.begin_file(number + 1, {})
                self.write("%d\n" % number)    # for the servers that run already
                self.number = number
        except OSError:     # no number that was ever given may be given again
            self.path, self.number = "", max(self.number, int(time.time() * 1000))
            raise

    def last_look(self, files: Sequence[str]) -> float:
        """When an earlier server last looked; now if there was none."""
        looked = os.stat(files[-1]).st_mtime if files else time.time()
        if looked < time.time() + CLOCK_SKEW_S:
            return looked
        # A clock was set back since: by what was told then, if that is of use.
        last = self.recent[-1].row.time if self.recent else 0.0
        return min(last, time.time())

    def begin_file(self, number: int, live: Dict[str, int]) -> None:
        """Begin a file for this number on; live: {path of a live job: rows that were told}."""
        path, head = os.path.join(self.folder, "%015d" % number), json.dumps(live) + "\n"
        write_file(path + ".new", head)
        os.rename(path + ".new", path)
        self.path, self.offset, self.lines = path, len(head.encode()), 0
        for path in self.files()[:-JOURNAL_FILES]:
            os.unlink(path)

    def write(self, text: str) -> None:
        """Add to the last file, of which all whole lines were read."""
        fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW)
        with closing_fd(fd):
            size = os.fstat(fd).st_size
            torn = size > self.offset   # a server was killed while it wrote
            try:
                write_whole(fd, ("\n" * torn + text).encode())
            except OSError:     # on a full disk a part of it may be written
                os.ftruncate(fd, size)
                raise
            self.offset = os.fstat(fd).st_size

    def catch_up(self) -> None:
        """Take in what was added to the files since they were read last."""
        for path in self.files():
            if path > self.path:
                self.path, self.offset, self.lines = path, 0, 0
            elif path < self.path:
                continue
            with open(path, "rb") as file:
                file.seek(self.offset)
                data = file.read()
            data = data[:data.rfind(b"\n") + 1]     # another server may be writing the rest
            self.offset += len(data)
            for line in data.decode("utf-8", "replace").splitlines():
                self.take_in(line)

    def take_in(self, line: str) -> None:
        """Take in a line of a file."""
        told = Told.read(line)
        if told:
            self.remember(told)
        elif re.fullmatch("[0-9]{1,15}", line):
            self.number = max(self.number, int(line))
        elif line.startswith("{"):
            with suppress(ValueError):
                for path, rows in json.loads(line).items():
                    self.told.setdefault(str(path), int(rows))

    def remember(self, told: Told) -> None:
        """Remember a transition that was told."""
        self.number, self.lines = max(self.number, told.number), self.lines + 1
        self.told[told.path] = max(told.place, self.told.get(told.path, 0))
        self.recent.append(told)
        if len(self.recent) > 2 * MAX_NEWS:
            del self.recent[:MAX_NEWS]

    def number_all(self, job: JobDir, rows: Sequence[Row], place: int) -> List[Told]:
        """These rows, the first of which has this place, with the next numbers.

        Those that another server has told are left out.
        """
        done = max(self.told.get(job.path, 0) + 1 - place, 0)
        return [Told(self.number + 1 + at, job.backend, job.path, place + done + at, row)
                for at, row in enumerate(rows[done:])]

    def append(self, job: JobDir, rows: Sequence[Row], place: int,
               live: Callable[[], Dict[str, int]]) -> List[Told]:
        """Number these rows, as number_all(), and write them; OSError if that cannot be."""
        with self.alone():
            self.catch_up()
            new = self.number_all(job, rows, place)
            if self.lines >= JOURNAL_LINES or not os.path.exists(self.path):
                self.begin_file(self.number + 1, live())
            self.write("".join(told.line for told in self.unwritten + new))
            self.unwritten = []
            return new

    def add(self, job: JobDir, rows: Sequence[Row], place: int,
            live: Callable[[], Dict[str, int]]) -> None:
        """Tell these rows, as append(); from memory, until the files can be written again."""
        try:
            new = self.append(job, rows, place, live)
        except OSError as err:
            complain_once("%s cannot be written (%s): clients that come again after a restart of "
                          "the server may miss transitions" % (self.folder, err.strerror or err))
            new = self.number_all(job, rows, place)
            self.unwritten = (self.unwritten + new)[-MAX_NEWS:]
        for told in new:
            self.remember(told)

    def say_alive(self) -> None:
        """Let the next server know that until now all that happened was told."""
        with suppress(OSError):
            os.utime(self.path)

    def oldest(self) -> int:
        """A number after which everything is known."""
        first = self.recent[0].number if self.recent else self.number + 1
        return min([first] + [int(os.path.basename(path)) for path in self.files()]) - 1

    def recent_after(self, number: int) -> Optional[List[Told]]:
        """The transitions after a number, at most MAX_NEWS; None if not all are in memory."""
        if self.recent and number < self.recent[0].number - 1:
            return None
        return [told for told in self.recent if told.number > number][:MAX_NEWS]

    def read_after(self, number: int) -> List[Told]:
        """As recent_after(), from the disk."""
        found: List[Told] = []
        files = self.files()
        for path, following in zip(files, files[1:] + [""]):
            if following and int(os.path.basename(following)) <= number:
                continue
            lines = map(Told.read, read_or_empty(path).splitlines())
            found += [told for told in lines if told and told.number > number]
            if len(found) >= MAX_NEWS:
                break
        # If the files are gone, what is in memory has to do.
        return (found or self.recent)[:MAX_NEWS]


class Tracker:
    """What is known of a tree: its jobs, which of them are alive, and the journal.

    Only a server's own threads (Rounds) call look() and poll(); any thread may call the rest.
    """

    def __init__(self, config: Config) -> None:
        import threading
        self.config = config
        self.known: Dict[str, Shape] = {}                       # by path
        self.shapes: Dict[Shape, Shape] = {}                    # equal ones share an object
        self.live: Dict[str, JobDir] = {}                       # queued and active jobs, by path
        self.changed = threading.Condition(threading.RLock())
        self.journal = Journal(next(iter(config.by_name.values())).prefix)
        self.watchers = 0                                       # threads that wait for news
        self.looked = 0.0                   # when look() last saw the whole tree; 0: never

    def look(self, deep: bool) -> None:
        """Take in new and live jobs; deep: take in every job, and forget those that are gone."""
        self.read_journal()
        seen, familiar = set(), 0   # familiar: jobs in a row that were known already
        for number, job in enumerate(JobTree(self.config).jobs(), 1):
            seen.add(job.path)
            familiar += 1
            if deep or job.path not in self.known:
                self.take_in(job)
                familiar = 0
            if familiar >= 50 and not deep:  # the newest come first, so hardly a new one follows
                break
            if number % 50 == 0:
                time.sleep(0.001)  # let the threads of requests go first
        for job in list(self.live.values()):
            self.take_in(job)
        if deep:
            self.forget(set(self.known) - seen)
            self.looked = time.monotonic()
            self.journal.say_alive()

    def read_journal(self) -> None:
        """Take in what other servers have told; at first, what earlier ones have."""
        with self.changed:
            before = self.journal.number
            try:
                if self.journal.path:
                    self.journal.catch_up()
                else:
                    self.journal.load()
            except OSError as err:
                complain_once("%s: %s" % (self.journal.folder, err.strerror or err))
            if self.journal.number > before:
                self.changed.notify_all()

    def forget(self, paths: Iterable[str]) -> None:
        """Forget those of the jobs at these paths that are gone."""
        for path in paths:
            if not os.path.exists(path):
                self.known.pop(path, None)
                self.live.pop(path, None)
                self.journal.told.pop(path, None)

    def told(self, job: JobDir, rows: Sequence[Row]) -> int:
        """How many of a job's rows were told.

        If the first look finds a job that the journal does not know, those count as told that are
        older than the last look of an earlier server.
        """
        known, told = self.known.get(job.path), self.journal.told.get(job.path, 0)
        if known or told or self.looked:
            return max(known.rows if known else 0, told)
        # A row's time is by its writer's clock, the journal's by ours.
        since = self.journal.alive - CLOCK_SKEW_S
        return next((place for place, row in enumerate(rows) if row.time >= since), len(rows))

    def take_in(self, job: JobDir) -> None:
        """Read a job's history if it has grown, and tell its new rows."""
        try:
            size = os.stat(job.status_path).st_size
        except OSError:  # gone, or out of reach for now
            return
        rows = job.rows() if size != self.known.get(job.path, Shape()).size else []
        latest = Steps(rows).latest
        if latest is None:
            return
        with self.changed:
            if not self.journal.path:
                self.read_journal()
            if len(rows) < self.known.get(job.path, Shape()).rows:
                return  # another thread has read more meanwhile
            self.tell(job, rows)
            shape = Shape(size, len(rows), job.backend, latest.state.value)
            if latest.state.is_final():
                shape = self.shapes.setdefault(shape, shape)
            self.known[job.path] = shape
            if has_news(job, rows):
                self.live[job.path] = job
            else:
                self.live.pop(job.path, None)

    def tell(self, job: JobDir, rows: Sequence[Row]) -> None:
        """Tell those of a job's rows that were not told yet."""
        told = self.told(job, rows)
        if len(rows) > told:
            self.journal.add(job, rows[told:], told + 1, self.told_of_live)
            self.changed.notify_all()

    def told_of_live(self) -> Dict[str, int]:
        """{path of a live job: rows that were told}."""
        return {path: max(self.journal.told.get(path, 0), self.known.get(path, Shape()).rows)
                for path in list(self.live)}

    @contextmanager
    def following(self, job: JobDir) -> Iterator[None]:
        """Refresh the tracker for this job on exit, so that what happened to it is news at once."""
        try:
            yield
        finally:
            self.take_in(job)

    def poll(self) -> None:
        """Bring the live jobs up to date with their schedulers."""
        pairs = [(job, job.rows()) for job in list(self.live.values())]
        reconcile(self.config, [(job, rows) for job, rows in pairs if rows])
        release_all(self.config)
        for job, rows in pairs:
            self.take_in(job)
            if not has_news(job, rows):  # though no row was added
                self.live.pop(job.path, None)

    def counts(self, chosen: Optional[JobFilter] = None) -> Dict[Tuple[str, str], int]:
        """{(backend, state): number of jobs}; of those that a filter admits in any state."""
        counts: Dict[Tuple[str, str], int] = {}
        for path, shape in list(self.known.items()):
            if chosen is None or chosen.admits(JobDir(path, shape.backend)):
                counts[shape[2:]] = counts.get(shape[2:], 0) + 1
        return counts

    def place_of(self, number: Optional[int]) -> Optional[int]:
        """Where a client goes on that has got the transition of this number.

        None if it is not known any more what came after it, or if there never was one.
        """
        with self.changed:
            is_known = number is not None and (
                self.journal.oldest() <= number <= self.journal.number)
            return number if is_known else None

    def news(self, number: int, timeout_s: float) -> List[Told]:
        """The transitions after this number, at most MAX_NEWS; waits for one if there is none."""
        with self.changed:
            self.watchers += 1
            try:
                # Not by journal.number: a server that starts raises it, and tells nothing.
                recent = self.journal.recent
                if not recent or recent[-1].number <= number:
                    self.changed.wait(timeout_s)
            finally:
                self.watchers -= 1
            found = self.journal.recent_after(number)
        return self.journal.read_after(number) if found is None else found


class KeyEntry:
    """What is known of an idempotency key: its request's digest, and the job made for it, or ''."""

    def __init__(self, file: IO[str], mark: str, jobid: str) -> None:
        self.file, self.mark, self.jobid = file, mark, jobid

    def keep(self, jobid: str) -> None:
        """Remember the job; the record is on the disk when this returns."""
        self.jobid = jobid
        self.file.seek(0)
        self.file.truncate()
        self.file.write(json.dumps({"request": self.mark, "jobid": jobid}) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())


class IdempotencyKeys:
    """The idempotency keys of a backend, a file each, which are kept for KEY_LIFE_S."""

    def __init__(self, root: str) -> None:
        self.folder = os.path.join(root, ".keys")

    @staticmethod
    def digest(text: str) -> str:
        """The SHA-256 of a text: of a key, it names its file; of a request, it is compared."""
        import hashlib
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    @staticmethod
    @contextmanager
    def open(path: str) -> Iterator[IO[str]]:
        """The locked file of a key; made anew if another request removed it while we waited."""
        while True:
            is_there = False
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            with open(fd, "r+", encoding="utf-8") as file, locked(file.fileno()):
                with suppress(FileNotFoundError):
                    is_there = os.path.samestat(os.stat(path), os.fstat(file.fileno()))
                if is_there:
                    yield file
                    return

    @contextmanager
    def entry(self, key: str, request: str) -> Iterator[KeyEntry]:
        """What is known of a key; requests with the same key get it one after the other.

        ConflictError if the key came with another request before; RequestError 429 if too many keys
        are remembered.
        """
        make_folder(self.folder)
        path, mark = os.path.join(self.folder, self.digest(key)), self.digest(request)
        if not os.path.exists(path) and len(os.listdir(self.folder)) >= MAX_KEYS:
            message = "more than %d Idempotency-Keys came in a day; leave it out" % MAX_KEYS
            raise RequestError(429, message, Retry_After="3600")
        with self.open(path) as file:
            try:
                record = json.loads(file.read() or "{}")
            except ValueError:  # its writer was cut short; a job that it had made stays `new`
                record = {}
            if record and record.get("request") != mark:
                raise ConflictError("this Idempotency-Key came with another request before")
            entry = KeyEntry(file, mark, record.get("jobid", ""))
            try:
                yield entry
            finally:
                if not entry.jobid:  # no job was made, so there is nothing to remember
                    os.unlink(path)

    def forget_old(self) -> None:
        """Remove the keys that are older than KEY_LIFE_S."""
        for path in paths_in(self.folder):
            with suppress(FileNotFoundError):  # another server was first
                if time.time() - os.path.getmtime(path) > KEY_LIFE_S:
                    os.unlink(path)


class Tickets:
    """Words in an address that let a browser save a file, as it sends no bearer token then.

    Each is for one path and a minute, for GET alone, and stands for who asked for it.
    """

    def __init__(self) -> None:
        self.known: Dict[str, Tuple[str, Caller, float]] = {}   # {ticket: (path, whose, its end)}

    def issue(self, caller: Caller, path: str) -> str:
        """A new ticket for a path; those that are over are forgotten, and the oldest of too many.
        """
        import secrets
        now, held = time.monotonic(), list(self.known.items())
        over = [ticket for ticket, (_, _, end) in held if end < now]
        for ticket in over + [ticket for ticket, _ in held[:1 - MAX_TICKETS]]:
            self.known.pop(ticket, None)
        ticket = secrets.token_urlsafe(24)
        self.known[ticket] = path, caller, now + TICKET_LIFE_S
        return ticket

    def caller(self, req: Request, route: "Route") -> Optional[Caller]:
        """Whom the ticket of a request stands for; None if it has none that is valid."""
        path, caller, end = self.known.get(req.query.get("ticket", ""), ("", None, 0.0))
        is_valid = (path == req.path and req.verb == route.method == "GET"
                    and route.scope == "job" and time.monotonic() < end)
        return caller if is_valid else None


class UploadFolders:
    """The folders to which files of a backend's jobs were uploaded of late.

    For each there is a file that holds its path, as long as an upload that was cut may have left a
    part there.  Such parts are removed after KEY_LIFE_S.
    """

    def __init__(self, root: str) -> None:
        self.folder = os.path.join(root, ".uploads")

    def note(self, folder: str) -> None:
        """Remember that something is uploaded to a folder."""
        path = os.path.join(self.folder, IdempotencyKeys.digest(folder))
        if not os.path.exists(path):
            make_folder(self.folder)
            replace_file(path, folder)

    @staticmethod
    def drop_old(folder: str) -> bool:
        """Remove the parts that cut uploads left in a folder long ago; whether any is younger."""
        young = False
        if os.path.realpath(folder) != folder:  # a link has taken its place
            return young
        for path in paths_in(folder):
            if os.path.basename(path).startswith(UPLOAD_PREFIX):
                status = os.lstat(path)
                is_old = time.time() - status.st_mtime > KEY_LIFE_S
                if is_old and stat.S_ISREG(status.st_mode):
                    os.unlink(path)
                young = young or not is_old
        return young

    def forget_old(self) -> None:
        """Remove old parts, and forget the folders in which no others are."""
        for path in paths_in(self.folder):
            with suppress(OSError):     # another server was first, or the folder is out of reach
                is_old = time.time() - os.path.getmtime(path) > KEY_LIFE_S
                if is_old and not self.drop_old(read_or_empty(path)):
                    os.unlink(path)


class Connections:
    """The connections of a server.  Each needs a thread, so they are limited: in all, and by peer.

    Until a request on it comes from a caller with a name, a connection may be ended at any time to
    make room for a newer one, whatever it is doing: who sends nothing, a byte a second, or what is
    refused, keeps nobody out.  After that it may be ended only while it is idle.  A caller has a
    name here if somebody vouches for it, he may make jobs, and he shows no narrowed token.
    """

    def __init__(self, limit: int) -> None:
        import threading
        self.limit, self.lock = limit, threading.RLock()
        self.open: Set[Wire] = set()
        self.parting: List[Wire] = []   # those that were turned away and are not closed yet

    @property
    def fair_share(self) -> int:
        """The number of connections that one peer, or one user, may have."""
        return max(1, self.limit // 4)

    def mark(self, wire: Wire, trusted_proxy: Sequence[str]) -> None:
        """Set whose a new connection is: a user's of this machine, or else an address's."""
        peer = wire.peer
        wire.key = "addr:" + peer.address if peer.uid is None else "uid:%d" % peer.uid
        whole = peer.uid in (os.getuid(), 0) or not peer.address or peer.address in trusted_proxy
        wire.share = self.limit if whole else self.fair_share

    def name(self, wire: Wire, caller: Caller, maker: bool) -> None:
        """Count a connection as its caller's; RequestError 503 if he has as many as he may.

        maker: he may make jobs.  If he may not, or shows a narrowed token, his connections are
        counted apart, and may still be ended at any time.
        """
        full = maker and not caller.narrowed
        key = caller.user + " (narrowed)" * (not full)
        share = self.limit if caller.trusted and full else self.fair_share
        if caller.anonymous or wire.key == key:
            return
        with self.lock:
            taken = sum(other.key == key for other in self.open) + 1
            if taken > share:
                message = "you have %d connections, and may have %d" % (taken - 1, share)
                raise RequestError(503, message, Retry_After="5")
            wire.named, wire.key, wire.share = full, key, share

    def end_one(self, wires: Iterable[Wire]) -> bool:
        """End the oldest without a name, else the longest idle one; False if all are at work."""
        with self.lock:
            endable = [(wire.named, wire.since, id(wire), wire)
                      for wire in wires if wire.idle or not wire.named]
            if endable:
                oldest = min(endable)[3]
                oldest.cut()
                self.open.discard(oldest)
            return bool(endable)

    def crowd_of(self, wire: Wire) -> List[Wire]:
        """The other connections of a peer that has as many as it may; [] if it may have more."""
        if wire.share >= self.limit:
            return []
        others = [other for other in self.open if other.key == wire.key]
        return others if len(others) >= wire.share else []

    def take_in(self, wire: Wire) -> bool:
        """Take in a new connection; end another if there are too many, of its peer or in all.

        False if none may be ended.  Of a peer that has too many, connections younger than CROWD_S
        are kept, so a burst beyond its share is turned away.
        """
        with self.lock:
            crowd = self.crowd_of(wire)
            if crowd:
                old = [other for other in crowd if wire.since - other.since > CROWD_S]
                has_room = self.end_one(old)
            else:
                has_room = len(self.open) < self.limit or self.end_one(self.open)
            if has_room:
                self.open.add(wire)
            return has_room

    def discard(self, wire: Wire) -> None:
        """Forget a connection that has ended."""
        with self.lock:
            self.open.discard(wire)

    def begin_stream(self, wire: Wire) -> None:
        """Let a connection send a stream of events until its request is answered.

        RequestError 503 if too many are open.  Streams may take half of all connections, and half
        of a caller's share; those of callers without a name a quarter of all.
        """
        with self.lock:
            streams = [(other.key, other.named) for other in self.open if other.streaming]
            unnamed = sum(not named for _, named in streams) if not wire.named else 0
            mine = sum(key == wire.key for key, _ in streams)
            is_full = max(len(streams), 2 * unnamed) >= max(1, self.limit // 2)
            if is_full or mine >= max(1, wire.share // 2):
                raise RequestError(503, "too many streams of events are open", Retry_After="5")
            wire.streaming = True

    def turn_away(self, wire: Wire, response: Response) -> None:
        """Answer a client from whom nothing is read, without waiting for it.

        The connection is closed a little later: closed at once, it would be reset while the client
        still sends its request, and the answer be lost.
        """
        import socket
        head = response.head(closes=True, chunks=False)
        with suppress(OSError):
            wire.sock.setblocking(False)
            wire.sock.send(head + bytes(response.body))  # type: ignore[arg-type]
            wire.sock.shutdown(socket.SHUT_WR)
        with self.lock:
            self.parting.append(wire)
        self.close_parting()

    def close_parting(self) -> None:
        """Close those that were turned away a while ago, and the oldest if there are too many."""
        with self.lock:
            late = [wire for wire in self.parting if time.monotonic() - wire.since > LINGER_S]
            gone = self.parting[:max(len(late), len(self.parting) - MAX_PARTING)]
            del self.parting[:len(gone)]
        for wire in gone:
            wire.close()

    def end_slow(self) -> None:
        """End those that are silent for too long.

        A TLS handshake must be complete in time, even if bytes keep coming.
        """
        with self.lock:
            for wire in self.open:
                age_s = time.monotonic() - wire.since
                if (age_s > HEAD_TIMEOUT_S and wire.handshaking
                        or age_s > IDLE_TIMEOUT_S and wire.silent):
                    wire.cut()

    def finish(self, wait_s: float) -> None:
        """Wait up to wait_s for the requests in hand, and end the connections that have none."""
        deadline = time.monotonic() + wait_s
        while self.open and time.monotonic() < deadline + 2:
            with self.lock:
                over = [wire for wire in self.open if wire.idle or time.monotonic() > deadline]
            for wire in over:
                wire.cut()
            time.sleep(0.05)


class Api:
    """What the handlers share: the config in force, the policy, and what is known of the tree."""

    def __init__(self, config: Config, mode: str = "local", limit: int = 256) -> None:
        import threading
        self.mode = mode                    # local, insecure or tls
        self.tracker = Tracker(config)      # never replaced: streams read from it
        self.load(config)
        self.stopping = False
        self.access_log = True
        self.connections = Connections(limit)
        self.begun, self.lock = time.monotonic(), threading.Lock()
        self.tickets = Tickets()
        self.interactive: List[str] = []    # the users whose interactive applications run
        # {(method, status): [requests, seconds]}
        self.counts: Dict[Tuple[str, int], List[float]] = {}
        # The token that callers in local mode must show; '' if none.  It is set by --token, and
        # where the kernel cannot say who they are.
        self.local_token = ""

    def load(self, config: Config) -> None:
        """Take a config, at the start and when it is read again; an invalid one changes nothing.

        A request that is being answered meanwhile may see both.
        """
        policy, backends, tree = Policy(config), config.by_name, JobTree(config)
        issuers, applications = Issuers(config), Applications(config)
        self.config, self.policy, self.backends, self.tree = config, policy, backends, tree
        self.issuers, self.applications = issuers, applications
        for line in applications.wrong:
            complain(line)
        self.checked: Dict[str, Tuple[float, List[str]]] = {}   # {backend: (when, what it lacks)}
        self.queues: Dict[str, Tuple[float, List[Queue]]] = {}  # {backend: (when, its queues)}
        self.tracker.config = config

    @property
    def configs(self) -> List[Config]:
        """The config of each backend."""
        return [backend.config for backend in self.backends.values()]

    @contextmanager
    def turn_of(self, user: str) -> Iterator[None]:
        """One of the few turns of interactive applications; RequestError 503 if there is none.

        One user has at most half of them.
        """
        with self.lock:
            is_full = (len(self.interactive) >= MAX_INTERACTIVE
                       or self.interactive.count(user) >= MAX_INTERACTIVE // 2)
            if not is_full:
                self.interactive.append(user)
        if is_full:
            raise RequestError(503, "as many interactive applications run as may", Retry_After="5")
        try:
            yield
        finally:
            with self.lock:
                self.interactive.remove(user)

    def count(self, method: str, status: int, seconds: float) -> None:
        """Add a request to the counts; methods that clients have made up are counted as one."""
        key = method if method in HTTP_METHODS else "other", status
        with self.lock:
            entry = self.counts.setdefault(key, [0, 0.0])
            entry[:] = [entry[0] + 1, entry[1] + seconds]


# ------------------------------------------------------------------------------------- 20. REST API

# A handler only looks up a job, calls an operation of section 12, and describes what it returned.

TASK_NUMBERS = "^[0-9]{1,9}(,[0-9]{1,9}){0,99}$"


class Param(NamedTuple):
    """A parameter of a query: name, type in JSON, description, least and greatest value."""
    name: str
    kind: str
    doc: str
    least: int = 0
    most: int = MAX_COUNT

    def value(self, req: Request) -> Any:
        """Its value in a request, None where it is not given; InvalidInput."""
        text = req.query.get(self.name)
        if text is None:
            return None
        try:
            if self.kind == "integer":
                return FieldReader.number(text, {"least": self.least, "most": self.most})
            if self.kind == "boolean":
                return FieldReader.flag(text, {})
            if self.kind == "state" and text not in STATES:
                raise ValueError(no_state(text))
            if self.kind == "tasks" and not re.fullmatch(TASK_NUMBERS, text):
                raise ValueError("%s is not a list of numbers like 3,7" % shown(text))
        except ValueError as err:
            raise InvalidInput([Fault(self.name, str(err))], "query") from None
        return text


INDEX = Param("index", "integer", "pass over so many jobs, newest first")
LIMIT = Param("limit", "integer", "at most so many jobs")
STATE = Param("state", "state", "only jobs in this state")
BACKEND_PARAM = Param("backend", "string",
                      "a backend's name; by default all of them, or the first for a new job")
MACHINE = Param("machine", "string", "the same, as psik_api calls it")
NAME = Param("name", "string", "only those of this name, or of names like `sweep*`")
DETAIL = Param("detail", "boolean", "with each job's backend, reason, times and application")
SINCE = Param("since", "integer", "only jobs made then or later, seconds since the epoch")
APP = Param("app", "string", "only jobs of this application")
OFFSET = Param("offset", "integer", "from this byte on", 0, 10 ** 15)
WAIT = Param("wait", "integer", "seconds to wait for more than there is, at most 60")
TAIL = Param("tail", "integer", "only so many last lines")
ALL = Param("all", "boolean", "also what psik.py itself keeps there")
UNTIL_END = Param("wait", "integer", "seconds to wait for the job's end, at most 60; then the "
                  "answer is its JobStepInfo, whether it has ended or not")
DOWNLOAD = Param("path", "string", "a ticket for this path")
WITHIN = Param("path", "string", "a directory in the work directory")
TASK = Param("task", "tasks", "only these tasks of an array: 3, or 3,7")
FAILED = Param("failed", "boolean", "only the tasks of an array that failed or were canceled")
PURGE = Param("purge", "boolean", "remove the job, which must have ended, instead of cancelling it")
JSON_TYPE = (("Content-Type", "application/json"),)
NOT_STORED = ("Cache-Control", "no-store")
NOT_BUFFERED = ("X-Accel-Buffering", "no")  # which nginx obeys
PAGE_HEADERS = (
    ("Content-Security-Policy",
     "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
     "img-src blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"), ("Cache-Control", "no-cache"),
    ("X-Content-Type-Options", "nosniff"))


@contextmanager
def given_in(place: str) -> Iterator[None]:
    """Re-raise InvalidError as an InvalidInput, a 422, located in this place of a request."""
    try:
        yield
    except InvalidError as err:
        raise InvalidInput(err.faults, place) from None


def step_info(job: JobDir, name: str, row: Row) -> Dict[str, Json]:
    """A row as psik_api's JobStepInfo."""
    return {"jobid": job.jobid, "name": name, "updated": row.time, "jobndx": row.jobndx,
            "state": row.state.value, "info": row.info}


def try_writing(folder: str) -> bool:
    """Whether a file can be made in a folder; tried, for permissions do not show a full disk."""
    path = os.path.join(folder, ".probe-" + os.urandom(6).hex())
    try:
        make_folder(folder)
        write_file(path, "?")
        return True
    except OSError:
        return False
    finally:
        with suppress(OSError):
            os.unlink(path)


def texts_in(folder: str, hidden: Sequence[str] = ()) -> Callable[[Send], None]:
    """A body that sends {name: text} of the files in a folder, block by block.

    Files that are hidden, or links, are left out.  NotFoundError if the folder is gone.
    """
    if not os.path.isdir(folder):
        raise NotFoundError("%s is gone" % folder)

    def is_shown(name: str) -> bool:
        path = os.path.join(folder, name)
        is_file = os.path.isfile(path) and not os.path.islink(path)
        return is_file and not name.startswith(".") and name not in hidden

    def send_all(send: Send) -> None:
        import codecs
        before = "{"
        for name in filter(is_shown, sorted(os.listdir(folder))):
            send(("%s%s: \"" % (before, json.dumps(name))).encode())
            before = ", "
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            with open(os.open(os.path.join(folder, name), flags), "rb") as file:
                for block in iter(lambda: file.read(BLOCK), b""):
                    send(json.dumps(decoder.decode(block))[1:-1].encode())
            send((json.dumps(decoder.decode(b"", True))[1:-1] + '"').encode())
        send(b"{}\n" if before == "{" else b"}\n")
    return send_all


class StreamEvent(NamedTuple):
    """An event of a stream; without data it only tells the client its place in the stream."""
    id: str
    data: Json = None
    kind: str = "transition"

    @property
    def text(self) -> bytes:
        """What is sent."""
        lines = ["id: " + self.id]
        lines += ["event: " + self.kind, "data: " + json.dumps(self.data)] if self.data else []
        return "\n".join(lines + ["", ""]).encode()


# A source of events yields None where nothing happened for a while, and ends where no more will
# come.
Events = Iterator[Optional[StreamEvent]]


def events_of_job(api: Api, job: JobDir, after: int) -> Events:
    """The transitions of one job except the first `after`, until its latest step has ended.

    An event's id is its place in the history, from 1.
    """
    name, place = job.name, after
    while not api.stopping:
        rows = job.rows()
        for row in rows[place:]:
            place += 1
            yield StreamEvent(str(place), step_info(job, name, row))
        if is_over(job, rows):
            return
        yield None
        time.sleep(LOOK_S)


class TreeEvents:
    """The transitions of all jobs that a caller may see, as a source of events.

    last is the id of the last event that the client has got, or ''.  Where the journal no longer
    has all that came after an event, a `reset` follows it: the client has to ask for the jobs anew.
    """

    def __init__(self, api: Api, caller: Caller, last: str) -> None:
        self.api, self.caller, self.last = api, caller, last
        self.number = 0     # of the last transition that was looked at

    def reset(self) -> StreamEvent:
        """Go on with what happens from now on."""
        reason = "what came after the event %s is not known any more" % shown(self.last)
        self.number = self.api.tracker.journal.number
        return StreamEvent(str(self.number), {"reason": reason}, "reset")

    def begin(self) -> StreamEvent:
        """Where the stream begins, once the tracker has seen the whole tree."""
        tracker = self.api.tracker
        while not tracker.looked and not self.api.stopping:
            time.sleep(0.05)
        number = int(self.last) if re.fullmatch("[0-9]{1,15}", self.last) else None
        if self.last and tracker.place_of(number) is None:
            return self.reset()
        self.number = tracker.journal.number if number is None else number
        return self.place()

    def place(self) -> StreamEvent:
        """An event without data, by which the client knows where to go on."""
        return StreamEvent(str(self.number))

    def of(self, news: Sequence[Told]) -> Iterator[StreamEvent]:
        """The events of those transitions that the caller may see."""
        for told in news:
            job, self.number = told.job, told.number
            # Asked for each event, because this may change.
            if self.api.policy.allows(self.caller, "GET", job):
                data = dict(step_info(job, job.name, told.row), key=told.key)
                self.last = str(told.number)
                yield StreamEvent(self.last, data)

    def __iter__(self) -> Events:
        yield self.begin()
        beat = time.monotonic()
        while not self.api.stopping:
            news = self.api.tracker.news(self.number, BEAT_S)
            if self.api.tracker.place_of(self.number) is None:
                yield self.reset()
                continue
            yield from self.of(news)
            if time.monotonic() - beat > BEAT_S:    # also if the caller may see none of them
                beat = time.monotonic()
                yield self.place() if news else None


def unauthorized(message: str) -> RequestError:
    """The 401 for a caller whom nobody vouches for; the message says what would."""
    return RequestError(401, message, WWW_Authenticate="Bearer")


class Handler:
    """Answers a request of a caller.  The methods of routes return JSON's types or a Response."""

    def __init__(self, api: Api, req: Request, caller: Caller) -> None:
        self.api, self.req, self.caller = api, req, caller

    def json(self, limit: int = MAX_JSON, parts: int = MAX_JSON) -> Json:
        """The JSON of the request's body; RequestError 400, 413 or 415, InvalidInput.

        limit: the bytes that it may have; parts: the commas and brackets.
        """
        if self.req.media_type != "application/json":
            raise RequestError(415, "the body must be application/json, and say so in Content-Type")
        try:
            text = self.req.body.read_all(limit).decode("utf-8")
        except UnicodeDecodeError as err:
            raise RequestError(400, "the body is not UTF-8 (byte %d)" % err.start) from None
        if sum(map(text.count, ",[{")) > parts:
            raise RequestError(413, "the body has more than %d parts" % parts)
        with given_in("body"):
            return parse_json(text, "body")

    @property
    def upload_limit(self) -> int:
        """The bytes that an upload may have."""
        return self.api.config.max_upload_mb * 10 ** 6

    def offered(self) -> List[Application]:
        """The applications that the caller may use."""
        return [app for app in self.api.applications.by_name.values()
                if self.api.policy.may_use(self.caller, app)]

    def values(self, app: Application) -> Dict[str, Json]:
        """The inputs of an application that the body holds as JSON; {} if it is empty.

        It may be long only where one of them is a file, and has few parts then too: Python's
        objects take a hundred times the room of their JSON.
        """
        if self.req.body.ended:     # it has none
            return {}
        limit = MAX_JSON if app.file_inputs else 8 * Application.MAX_VALUES
        values = self.json(limit, MAX_INPUT_PARTS)
        if not isinstance(values, dict):
            raise InvalidInput([Fault("", "should be an object {INPUT: VALUE}")], "body")
        return values

    def model(self, cls: Type[M]) -> M:
        """The model that the request's body describes; RequestError, InvalidInput."""
        with given_in("body"):
            return from_json(cls, self.json(), "body")

    def backend_name(self) -> Optional[str]:
        """The backend that the query names; NotFoundError where no backend has that name."""
        name = self.req.query.get("backend")
        if name is None and self.req.path.rstrip("/").endswith("/new"):
            name = self.req.query.get("machine")
        if name is not None and name not in self.api.backends:
            raise NotFoundError("no backend %r; there is %s" % (name, ", ".join(self.api.backends)))
        return name

    def find_rows(self, caller: Caller) -> Tuple[JobDir, List[Row]]:
        """The job that the request is for, which the caller may see, and its history.

        InvalidError where that is no id; NotFoundError where there is no such job, or the caller
        may not see it.
        """
        jobid, policy = self.req.params["jobid"], self.api.policy
        backend = self.backend_name()
        if not JOBID.fullmatch(jobid):
            raise InvalidError("%r is not a job id" % jobid)
        operation = "GET" if self.req.verb == "GET" else "POST"
        for job, rows in with_rows(self.api.tree.of_id(jobid, backend)):
            if policy.allows(caller, operation, job):
                return job, rows
            complain("refused: %s may not %s job %s" % (one_line(caller.user), operation, jobid))
            if operation == "POST" and policy.allows(caller, "GET", job):
                raise ForbiddenError("job %s is not yours to change" % jobid)
        raise NotFoundError("no job %s" % jobid)

    def application(self, name: str) -> Application:
        """The application of this name; NotFoundError, or ForbiddenError if it is not for the
        caller.
        """
        applications = self.api.applications.by_name
        if name not in applications:
            raise NotFoundError("no application %s" % shown(name))
        self.api.policy.check_may_use(self.caller, applications[name])
        return applications[name]

    def start(self, job: JobDir, failed_only: bool = False) -> None:
        """Submit a job's next step; RequestError with the job's id where the scheduler refuses."""
        with self.api.tracker.following(job):
            try:
                submit_next(self.api.config, job, failed_only=failed_only)
            except BackendError as err:
                raise RequestError(err.http_status, str(err), X_Psik_Jobid=job.jobid) from None

    def may_go_on(self) -> bool:
        """Whether the request would still be admitted: neither token nor share was withdrawn."""
        with suppress(PsikError):
            self.req.check_again()
            return True
        return False

    def send_events(self, events: Events, send: Send) -> None:
        """Send events as they come, until there are no more or the request is no longer admitted.

        Every BEAT_S a comment shows whether the client is still there.
        """
        beat = time.monotonic()
        for event in events:
            if event is not None:
                send(event.text)
            if time.monotonic() - beat > BEAT_S:
                if not self.may_go_on():
                    return
                send(b": still here\n\n")
                beat = time.monotonic()

    def stream(self, events: Events) -> Response:
        """A stream of events; RequestError 503 where there are too many streams."""
        self.api.connections.begin_stream(self.req.body.wire)
        return Response(200, lambda send: self.send_events(events, send),
                        (("Content-Type", "text/event-stream"), NOT_STORED, NOT_BUFFERED))


class ServerHandler(Handler):
    """The routes that are for no job, or for a new one."""

    # The server itself.

    def get_page(self) -> Response:
        """A page for people."""
        if self.req.path == "/v1/":     # its files are named relative to the path above
            return Response(308, b"", (("Location", "../v1"),))
        return self.page_file("index.html", "text/html")

    def page_file(self, name: str, kind: str) -> Response:
        """A file of the page, compressed where the client takes that: it may come by a tunnel."""
        response = Response.of_text(TEMPLATES["page/" + name], kind).plus(*PAGE_HEADERS)
        coding = self.req.headers.get("accept-encoding", "")
        return response.compressed() if re.search(r"\bgzip\b(?!;q=0(\.0*)?\s*(,|$))", coding) \
            else response

    def get_page_file(self) -> Response:
        """A file of the page: a style sheet, or a module of its script."""
        name = self.req.params["name"]
        kind = {"css": "text/css", "js": "text/javascript"}.get(name.rpartition(".")[2])
        if not kind or "page/" + name not in TEMPLATES:
            raise NotFoundError("the page has no file %s" % shown(name))
        return self.page_file(name, kind)

    def get_health(self) -> Response:
        """Whether jobs can be written, and the state of each backend; 503 if jobs cannot."""
        backends, stranger = self.api.backends, self.caller.anonymous
        # For a caller without a name nothing is written: only the permissions are looked at.
        writable = {name: (os.access(backend.root, os.W_OK) if stranger
                           else try_writing(backend.root)) for name, backend in backends.items()}
        states = {name: self.system_status(backend)["status"] for name, backend in backends.items()}
        fine = all(writable.values())
        status = "ok" if fine and set(states.values()) == {"active"} else "degraded"
        return Response.of_json({"status": status, "version": __version__, "writable": fine,
                                 "backends": states}, 200 if fine else 503)

    def get_metrics(self) -> Response:
        """Counters for Prometheus."""
        api, labels = self.api, '{method="%s",status="%d"}'
        jobs = sorted(api.tracker.counts().items()) if self.caller.trusted else []
        counts = sorted(api.counts.items())
        lines = ["# TYPE psik_up_seconds gauge",
                 "psik_up_seconds %.0f" % (time.monotonic() - api.begun)]
        lines += ["# TYPE psik_jobs gauge"]
        lines += ['psik_jobs{backend="%s",state="%s"} %d' % (key + (count,)) for key, count in jobs]
        lines += ["# TYPE psik_requests_total counter"]
        lines += ["psik_requests_total%s %d" % (labels % key, count) for key, (count, _) in counts]
        lines += ["# TYPE psik_request_seconds_total counter"]
        lines += ["psik_request_seconds_total%s %.6f" % (labels % key, seconds)
                  for key, (_, seconds) in counts]
        return Response(200, "\n".join(lines + [""]).encode(),
                        (("Content-Type", "text/plain; version=0.0.4; charset=utf-8"),))

    # Backends.

    def lacks(self, backend: Backend) -> List[str]:
        """What a backend lacks, looked for again after ten seconds."""
        when, missing = self.api.checked.get(backend.name, (0.0, []))
        if time.monotonic() - when > 10 or not when:
            missing = check_backend(backend)
            self.api.checked[backend.name] = time.monotonic(), missing
        return missing

    def system_status(self, backend: Backend) -> Dict[str, Json]:
        """A backend as psik_api's SystemStatus, and when its scheduler was last asked.

        It is unavailable where it lacks something, degraded where its scheduler gives no answer.
        """
        missing, trusted = self.lacks(backend), self.caller.trusted
        answer = Answer.latest(backend.root)
        notes = missing + ([answer.fault] if answer.fault else [])
        return {"name": backend.name, "full_name": backend.name,
                "description": backend.kind + " jobs" + (" in " + backend.root if trusted else ""),
                "system_type": backend.kind,
                "notes": notes if trusted else ["see the server's log"] * bool(notes),
                "status": "unavailable" if missing else "degraded" if answer.fault else "active",
                "answered": answer.time or None,
                "updated_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}

    def get_backends(self) -> Json:
        """The backends, by name."""
        backends, name = self.api.backends, NAME.value(self.req)
        if name is not None and name not in backends:
            raise NotFoundError("no backend %r" % name)
        names = list(backends) if name is None else [name]
        return {each: self.system_status(backends[each]) for each in names}

    def get_backend(self) -> Json:
        """One backend."""
        name = self.req.params["name"]
        if name not in self.api.backends:
            raise NotFoundError("no backend %r" % name)
        return self.system_status(self.api.backends[name])

    def get_queues(self) -> Json:
        """The queues of a backend, with what is free in them, at most ten seconds old."""
        name, api = self.req.params["name"], self.api
        if name not in api.backends:
            raise NotFoundError("no backend %r" % name)
        when, queues = api.queues.get(name, (0.0, []))
        if time.monotonic() - when > 10 or not when:
            queues = Queue.of(api.backends[name])
            api.queues[name] = time.monotonic(), queues
        return [queue._asdict() for queue in queues]

    # Tokens.

    def new_token(self) -> str:
        """A token for a day; no longer and no wider than the one that the caller shows."""
        claims = self.caller.claims or {}
        left_s = min(86400.0, float(claims["exp"]) - time.time()) if claims else 86400.0
        parents = claims.get("parents", []) + ([claims["jti"]] if claims else [])
        if len(parents) > MAX_PARENTS:
            raise ForbiddenError("this token is the last of a chain of %d, and there may be no "
                                 "more; ask with an earlier one" % MAX_PARENTS)
        certificate = claims.get(CERTIFICATE, self.req.body.wire.peer.serial)
        narrowings = {name: claims.get(name) for name in NARROWINGS}
        tokens = tokens_of(self.api.config)
        return tokens.make(self.caller.user, left_s, parents, certificate, **narrowings)

    def get_token(self) -> Response:
        """A token for who asks, for a day; no wider than the one that he shows.

        With `path`, a ticket instead, which `?ticket=` shows for this path below /v1/jobs/: what is
        there can be read with it for a minute.
        """
        caller, bearer, path = self.caller, self.req.bearer, DOWNLOAD.value(self.req)
        if caller.anonymous:
            raise unauthorized("no token for an address: nobody vouches for it")
        if path is not None:
            return Response.of_text(self.api.tickets.issue(caller, path)).plus(NOT_STORED)
        if caller.issuer:
            raise ForbiddenError("your tokens come from " + caller.issuer)
        # What the holder of a biscuit has narrowed must not come back wide.
        keeps = caller.claims is not None and self.api.config.tokens == "biscuit"
        return Response.of_text((bearer or "") if keeps else self.new_token()).plus(NOT_STORED)

    def post_token(self) -> Json:
        """What the request's bearer token says."""
        token = self.req.bearer
        if token is None:
            raise unauthorized("the header Authorization: Bearer TOKEN is missing")
        return {"blocks": tokens_of(self.api.config).blocks(token)}

    # All jobs.

    @staticmethod
    def job_info(job: JobDir, summary: Summary, detail: bool) -> Dict[str, Json]:
        """A job as a JobStepInfo, with what is known besides if detail is wanted."""
        names: Tuple[str, ...] = ("jobid", "name", "updated", "jobndx", "state", "info")
        names += ("tasks",) * bool(summary.tasks)
        names += ("backend", "reason", "began", "elapsed") * detail
        info = {name: getattr(summary, name) for name in names}
        if detail:
            spec = job.raw_spec()
            needs = spec.get("resources")
            walltime = needs.get("duration") if isinstance(needs, dict) else None
            info.update(duration=walltime if isinstance(walltime, int) else None,
                        application=str(spec.get("application") or ""))
        return info

    def chosen(self, reasons: bool = False) -> JobFilter:
        """The jobs that the query asks for and the caller may see; with their reasons if wanted."""
        req, state = self.req, STATE.value(self.req)
        return JobFilter(self.backend_name(), (state,) if state else (), NAME.value(req),
                         SINCE.value(req) or 0, app=APP.value(req), reasons=reasons,
                         is_visible=lambda job: self.api.policy.allows(self.caller, "GET", job))

    def get_counts(self) -> Json:
        """How many jobs are in each state, {state: number}, as the server has last seen them."""
        counts = dict.fromkeys(STATES, 0)
        for (_, state), number in self.api.tracker.counts(self.chosen()).items():
            counts[state] += number
        return counts

    def get_jobs(self) -> Response:
        """Jobs, newest first, each with its latest step.

        With `detail` also its backend, its reason, its times, its walltime and its application.
        """
        req, detail = self.req, bool(DETAIL.value(self.req))
        index, limit = INDEX.value(req) or 0, LIMIT.value(req)
        found = self.chosen(detail).find(self.api.config, limit, poll=False, index=index)
        answer = Response.of_json([self.job_info(job, summary, detail) for job, summary in found])
        if not limit or len(found) < limit:
            return answer
        query = "&".join("%s=%s" % (encode_percent(name), encode_percent(value))
                         for name, value in dict(req.query, index=str(index + limit)).items())
        return answer.plus(("Link", '<?%s>; rel="next"' % query))  # relative: a prefix stays

    def get_events(self) -> Response:
        """Each transition of every job as it happens; Last-Event-ID resumes an earlier stream.

        An event's data has a `key` too: what is told again after a crash has the same.
        """
        last = self.req.headers.get("last-event-id", "")
        return self.stream(iter(TreeEvents(self.api, self.caller, last)))

    # New jobs.

    def is_among_jobs(self, folder: str) -> bool:
        """Whether a folder lies in a tree of jobs, or holds one.

        There the file routes would show other users' files, and the key of the tokens.
        """
        place = os.path.join(os.path.realpath(folder), "")
        prefixes = {backend.prefix for backend in self.api.backends.values()}
        trees = {os.path.join(os.path.realpath(prefix), "") for prefix in prefixes}
        return any(place.startswith(tree) or tree.startswith(place) for tree in trees)

    def backend_of_new(self, spec: JobSpec) -> Backend:
        """The backend of a new job; ForbiddenError where the caller may not make it there."""
        name = self.backend_name()
        with given_in("body"):
            backend = self.api.config.choose_backend(spec, name)
        if not self.caller.reaches_backend(backend.name):
            raise ForbiddenError("the token does not let you make jobs on " + backend.name)
        self.api.policy.check_is_maker(self.caller, backend.config)
        if spec.directory and not self.caller.trusted and self.is_among_jobs(spec.directory):
            raise ForbiddenError("a job's directory may not be among the jobs")
        return backend

    def check_after(self, spec: JobSpec) -> None:
        """InvalidError if the caller may not see a job that the new one is to wait for."""
        for word in spec.after:
            jobid = word.rpartition(":")[2]
            jobs = self.api.tree.of_id(jobid) if JOBID.fullmatch(jobid) else ()
            if not any(job.exists() and self.api.policy.allows(self.caller, "GET", job)
                       for job in jobs):
                raise InvalidError([Fault("after", "no job %s" % shown(jobid))])

    @property
    def access(self) -> Optional[Json]:
        """The access.json of a job that belongs to the caller; None if it gets none."""
        return None if self.caller.user == LOCAL_USER else Access(self.caller.user, {})._asdict()

    def new_job(self, spec: JobSpec) -> JobDir:
        """Make a job that belongs to the caller."""
        backend = self.backend_of_new(spec).name
        with given_in("body"):
            self.check_after(spec)
            return create(self.api.config, spec, backend, self.access)

    def submitted(self, backend: Backend, spec: JobSpec, make: Callable[[], JobDir],
                  files: str = "") -> JobDir:
        """The job of this spec that make() makes, submitted.

        With an Idempotency-Key it is the one that the caller has made with the key already.
        backend: whose keys that are; files: tells the files that were sent from others.
        """
        key = self.req.headers.get("idempotency-key")
        if key is None:
            job = make()
            self.start(job)
            return job
        if len(key) > MAX_KEY:
            raise RequestError(400, "the Idempotency-Key is longer than %d characters" % MAX_KEY)
        name, text = "%s\n%s" % (self.caller.user, key), json.dumps(to_json(spec), sort_keys=True)
        text += files
        with IdempotencyKeys(backend.root).entry(name, text) as entry:
            known = next(self.api.tree.of_id(entry.jobid), None) if entry.jobid else None
            if known is None or not known.rows():
                job = make()
                entry.keep(job.jobid)
            else:
                job = known
            if len(job.rows()) == 1:  # not submitted yet; a refused one is answered as it stands
                self.start(job)
            return job

    def created(self, job: JobDir) -> Response:
        """The answer to who made a job: its id, and where it is."""
        # Relative, so that it holds below the prefix of a proxy too.
        place = os.path.relpath("/v1/jobs/" + job.jobid, os.path.dirname(self.req.path))
        return Response.of_json(job.jobid).plus(("Location", place))

    def answer(self, job: JobDir, wait_s: Optional[float]) -> Response:
        """The answer to who made a job and submitted it: its id; with a time its JobStepInfo.

        Then it is answered when the job has ended or the time is over, and tells its state then.
        """
        if wait_s is None:
            return self.created(job)
        deadline = time.monotonic() + min(wait_s, MAX_WAIT_S)
        for pause_s in pauses():
            rows = job.rows()
            if is_over(job, rows) or time.monotonic() > deadline or self.api.stopping:
                break
            time.sleep(pause_s)
        latest = Steps(rows).latest
        if latest is None:
            raise NotFoundError("job %s was removed meanwhile" % job.jobid)
        info = Response.of_json(step_info(job, job.name, latest))
        return self.created(job)._replace(body=info.body)

    def post_job(self) -> Response:
        """Make a job and submit it; its id.  The same Idempotency-Key gives the same job again.

        With `wait`, its JobStepInfo.
        """
        spec, wait_s = self.model(JobSpec), UNTIL_END.value(self.req)
        return self.answer(self.submitted(self.backend_of_new(spec), spec,
                                          lambda: self.new_job(spec)), wait_s)

    def post_new(self) -> Response:
        """Make a job and do not submit it; its id."""
        return self.created(self.new_job(self.model(JobSpec)))

    # Callbacks of jobs elsewhere.

    @staticmethod
    def read_callback(message: bytes) -> Tuple[Callback, Info]:
        """The callback of a job elsewhere, and its info as a history has it; InvalidInput."""
        with given_in("body"):
            data = parse_json(message.decode("utf-8", "replace"), "body")
            callback = from_json(Callback, data, "body")
        info = read_info(str(callback.info))
        is_info = NATIVE_ID.fullmatch(str(info)) and len(str(info)) <= MAX_INFO
        if not is_info or callback.jobndx > MAX_STEP:
            text = "jobndx is at most %d, and info a native id or an exit status" % MAX_STEP
            raise InvalidInput([Fault("info", text)], "body")
        return callback, info

    def find_signed(self, message: bytes) -> Tuple[JobDir, List[Row]]:
        """The job that a signed message is for, and its history.

        If the job's spec has no client_secret, whoever may change the job may send it.
        ForbiddenError if the signature is wrong; NotFoundError for who may not see the job.
        """
        # Looked up as for a trusted caller: it is the signature that decides.
        job, rows = self.find_rows(self.caller._replace(trusted=True))
        secret = job.spec().client_secret
        try:
            if secret:
                verify_signature(message, secret, self.req.headers.get("x-hub-signature-256"))
                return job, rows
        except ForbiddenError:
            self.find_rows(self.caller)  # NotFoundError: only who may see the job gets the 403
            raise
        found = self.find_rows(self.caller)
        self.api.policy.check_takes_scripts(self.caller)    # who may use applications says nothing
        return found

    def post_callback(self) -> Json:
        """Record a transition of a job elsewhere, signed with client_secret.

        The job's own callback is told of it too.
        """
        if "x-hub-signature-256" not in self.req.headers and self.caller.anonymous:
            raise unauthorized("sign it, in the header X-Hub-Signature-256")
        message = self.req.body.read_all(MAX_CALLBACK)
        callback, info = self.read_callback(message)
        self.req.params["jobid"] = callback.jobid
        job, rows = self.find_signed(message)
        transition = (callback.jobndx, callback.state, info)
        if not any(row[1:] == transition for row in rows):  # a delivery may come twice
            reached(job, callback.jobndx, STATES[callback.state], info)
            self.api.tracker.take_in(job)
        return "OK"


class ApplicationHandler(ServerHandler):
    """The routes of applications, for who may make jobs of them."""
    ARCHIVES = ("application/zip", "application/x-zip-compressed", "application/x-tar",
                "application/gzip", "application/x-gzip")

    def get_applications(self) -> Json:
        """The applications that the caller may use, with their inputs."""
        return [app.offer() for app in self.offered()]

    def get_application(self) -> Json:
        """One application, with its inputs."""
        return self.application(self.req.params["name"]).offer()

    def take_archive(self, inputs: Inputs, blocks: Iterable[bytes]) -> None:
        """Unpack an archive to where the job will run."""
        inputs.app.check_takes_files()
        folder = inputs.folder
        with ZipReader.or_tar(blocks, "the archive", self.upload_limit, folder.root) as entries:
            folder.take_in(entries)

    def take_part(self, inputs: Inputs, name: str, filename: str, blocks: Iterable[bytes]) -> None:
        """Take a part of a form: a value, an input that is a file, an archive, or another file."""
        if not filename:    # a browser sends an empty part for a field that was left out
            text = b""
            for block in blocks:
                text += block
                if len(text) > Application.MAX_VALUES:
                    raise RequestError(413, "the field %s is too long" % shown(name))
            if text or inputs.takes_empty(name):
                inputs.add_text(name, text.decode("utf-8", "surrogateescape"))
        elif inputs.is_file(name):
            inputs.add_file(name, blocks)
        elif name in ("upload", "archive"):
            self.take_archive(inputs, blocks)
        else:
            inputs.app.check_takes_files()
            inputs.folder.save(filename, blocks)

    def take_body(self, inputs: Inputs) -> None:
        """Take the inputs that come in the body: as JSON, as a form, or as an archive of files.

        Beside an archive, the values are in the query.
        """
        kind = self.req.media_type
        if kind == "multipart/form-data":
            for name, filename, blocks in Form(self.req, self.upload_limit).parts():
                self.take_part(inputs, name, filename, blocks)
                for _ in blocks:
                    pass
        elif kind in self.ARCHIVES:
            self.take_archive(inputs, self.req.body.blocks(self.upload_limit))
            for name in inputs.properties:
                if name in self.req.query:
                    inputs.add_text(name, self.req.query[name])
        else:
            inputs.values = self.values(inputs.app)

    def callback(self) -> Dict[str, Json]:
        """The callback that the request names, as fields of a spec; {} if it names none."""
        headers, policy = self.req.headers, self.api.policy
        url, secret = headers.get("x-psik-callback"), headers.get("x-psik-callback-secret")
        if url is None and secret is not None:
            raise RequestError(400, "X-Psik-Callback-Secret goes with X-Psik-Callback")
        if url is None:
            return {}
        if not self.api.config.application_callbacks and not policy.takes_scripts(self.caller):
            raise ForbiddenError("callbacks of applications are not allowed here")
        return {"callback": url, "cb_secret": secret}

    def may_use_backend(self, backend: Backend) -> bool:
        """Whether token and `users` let the caller make jobs on a backend."""
        return self.caller.reaches_backend(backend.name) and self.api.policy.is_applicant(
            self.caller, backend.config)

    def spec_of(self, app: Application, folder: ConfinedFolder) -> JobSpec:
        """The spec of a job with the inputs of the request, whose files go into a folder."""
        inputs = Inputs(app, folder)
        with given_in("body"):
            self.take_body(inputs)
            values = inputs.settle()
            missing = list(app.missing(folder))
            if missing:
                raise InvalidError(missing)
            return from_json(JobSpec, dict(app.spec(values), **self.callback()), "body")

    def post_application(self) -> Response:
        """Make a job of an application and submit it; its id.  Idempotency-Key, wait: as for jobs.

        The inputs come as JSON; as a form, whose files are those that it needs, those that are
        inputs, and archives (`upload`), which are unpacked; or as an archive.
        """
        app, config = self.application(self.req.params["name"]), self.api.config
        wait_s = UNTIL_END.value(self.req)
        if app.interactive:
            raise ConflictError("%s is interactive: POST /v1/jobs/{jobid}/applications/%s"
                                % (app.name, app.name))
        backend = app.choose(config, self.may_use_backend)
        with self.api.tree.reserved(backend) as job:
            folder = ConfinedFolder(job.incoming())
            spec = self.spec_of(app, folder)
            files = folder.digest() if "idempotency-key" in self.req.headers else ""

            def make() -> JobDir:
                fill_jobdir(job, settle_spec(config, spec, backend.name), self.access)
                return job

            first = config.by_name[(app.backend or [backend.name])[0]]  # whichever was chosen
            return self.answer(self.submitted(first, spec, make, files), wait_s)


class JobHandler(Handler):
    """The routes of a job that the caller may see, or change if the method is not GET."""

    def __init__(self, api: Api, req: Request, caller: Caller) -> None:
        super().__init__(api, req, caller)
        self.job, self.rows = self.find_rows(caller)

    def places(self) -> Optional[List[int]]:
        """The places of the tasks that the query names; None if it names none."""
        text = TASK.value(self.req)
        with given_in("query"):
            return None if text is None else self.job.places(text)

    def asked_steps(self) -> Optional[Set[int]]:
        """The steps of the tasks that the query names; None if it names none."""
        places, steps = self.places(), Steps(self.rows)
        return None if places is None else {
            row.jobndx for row in self.rows if row.jobndx and steps.task_of(row.jobndx) in places}

    def get_job(self) -> Json:
        """A job's history, in order."""
        name, asked = self.job.name, self.asked_steps()
        return [step_info(self.job, name, row) for row in self.rows
                if asked is None or row.jobndx in asked]

    def get_tasks(self) -> Json:
        """The tasks of an array, those that failed first; [] if the job is none."""
        return [task._asdict() for task in TaskState.all_of(self.job, self.rows, {})]

    def start_job(self) -> Json:
        """Submit a job, or submit it again as its next step; only who may make jobs may."""
        policy, config = self.api.policy, self.api.backends[self.job.backend].config
        name = self.job.application
        if name:
            policy.check_is_applicant(self.caller, config)
            self.application(name)
        else:
            policy.check_is_maker(self.caller, config)
            policy.check_takes_scripts(self.caller)
        self.start(self.job, bool(FAILED.value(self.req)))
        return None

    def cancel_job(self) -> Json:
        """End a job, whatever it is doing."""
        tasks = self.places()
        with self.api.tracker.following(self.job):
            cancel(self.job, tasks=tasks)
        return None

    def hold_job(self) -> Json:
        """Keep a job that waits in a queue from starting."""
        hold(self.job)
        return None

    def release_job(self) -> Json:
        """Let a job that is held start."""
        hold(self.job, keep=False)
        return None

    def delete_job(self) -> Json:
        """End a job; with purge, remove one that has ended."""
        if not PURGE.value(self.req):
            return self.cancel_job()
        if TASK.value(self.req):
            raise InvalidInput([Fault("task", "purge and task exclude each other")], "query")
        remove(self.job)
        self.api.tracker.forget([self.job.path])
        return None

    def get_state(self) -> Json:
        """A job's state: that of its latest step."""
        latest = Steps(self.rows).latest
        assert latest is not None  # a job has a row
        return latest.state.value

    def shown(self, spec: Dict[str, Json]) -> Dict[str, Json]:
        """What the caller may see of a spec: what could be secret is for the job's owner only."""
        if not self.caller.owns(self.job):
            callback = spec["callback"] and re.sub(r"[?#].*", "", spec["callback"])
            spec = dict(spec, environment={}, inputs={}, callback=callback)
        return spec

    def get_spec(self) -> Json:
        """A job's spec without secrets; environment and the callback's query for its owner only."""
        return self.shown(to_json(self.job.spec(), secrets=False))

    def get_status(self) -> Json:
        """All that is known of a job, as `status --json` shows it: why, use, tasks, history, spec.
        """
        status = describe(self.api.config, self.job, poll=False)
        return dict(status, spec=self.shown(status["spec"]),
                    callbacks=status["callbacks"] if self.caller.owns(self.job) else [])

    def post_interactive(self) -> Json:
        """Run an interactive application in the directory of a completed job; what it printed.

        It may take 30 seconds, and print a mebibyte.
        """
        api, app = self.api, self.application(self.req.params["name"])
        api.policy.check_is_applicant(self.caller, api.backends[self.job.backend].config)
        values = self.values(app)   # before its turn: they may come slowly
        call = InteractiveRun(self.job, app, Shell.of(api.config))
        with api.turn_of(self.caller.user), given_in("body"), call.folder() as folder:
            call.check(self.job.rows())
            inputs = Inputs(app, ConfinedFolder(folder))
            inputs.values = values
            return call.run(inputs, folder, self.caller.user)

    # Logs, scripts, events.

    def get_logs(self) -> Response:
        """What the job wrote, {file: text}; with `all`, every file of its log/."""
        folder = self.job.at("log")
        names = list(map(os.path.basename, paths_in(folder)))
        hidden = [name for name in names if OUR_LOG.fullmatch(name) and not ALL.value(self.req)]
        hidden += ["applications"] * (not self.caller.owns(self.job))   # it holds inputs
        asked = self.asked_steps()
        if asked is not None:
            numbers = set(map(str, asked))
            hidden += [name for name in names if name.rpartition(".")[2] not in numbers]
        return Response(200, texts_in(folder, hidden), JSON_TYPE)

    def get_scripts(self) -> Response:
        """Every script, {file: text}; those that hold the job's environment, for its owner only."""
        hidden = []
        if not self.caller.owns(self.job):
            has_environment = bool(self.job.spec().environment)
            hidden = ["supervise", "scheduler.json"]
            hidden += ["job"] * has_environment  # as version 1.0.0 made it
        return Response(200, texts_in(self.job.at("scripts"), hidden), JSON_TYPE)

    def await_growth(self, path: str, size: int, wait_s: float) -> None:
        """Wait until a log is longer than size, its job has ended, or the time is over."""
        def has_grown() -> bool:
            return os.path.exists(path) and os.path.getsize(path) > size

        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline and not (
                self.api.stopping or is_over(self.job, self.job.rows()) or has_grown()):
            time.sleep(0.1)

    def log_name(self) -> str:
        """The name of the log that the caller asks for, and may see; NotFoundError."""
        name = self.req.params["name"]
        if name == "applications" and not self.caller.owns(self.job):   # it holds inputs
            raise NotFoundError("no such log")
        return name

    def get_log(self) -> Response:
        """One log, as bytes.  X-Psik-Offset: where to read on; X-Psik-State: the job's state."""
        req, job, name = self.req, self.job, self.log_name()
        offset, tail = OFFSET.value(req), TAIL.value(req)
        if offset is not None and tail is not None:
            raise InvalidInput([Fault("tail", "tail and offset exclude each other")], "query")
        self.await_growth(job.at("log", name), offset or 0,
                          min(WAIT.value(req) or 0, MAX_WAIT_S))
        latest = Steps(job.rows()).latest  # before the file is read: if final, the file is whole
        if latest is None:
            raise NotFoundError("no job %s" % job.jobid)
        file, kind = ConfinedFolder(job.at("log")).open(name), "text/plain; charset=utf-8"
        size = os.fstat(file.fileno()).st_size
        notes = (("X-Psik-Offset", str(size)), ("X-Psik-State", latest.state.value))
        if offset is None and tail is None:
            return Response.of_file(req, file, kind).plus(*notes)
        if tail is not None:
            skip_to_tail(file, tail)
            offset = file.tell()
        start = min(offset or 0, size)
        return Response(200, FilePart(file, start, size - start),
                        (("Content-Type", kind), ("X-Content-Type-Options", "nosniff")) + notes)

    def get_job_events(self) -> Response:
        """Each transition of a job as it happens, until its latest step has ended; then 204."""
        last = self.req.headers.get("last-event-id", "")
        after = int(last) if re.fullmatch("[0-9]{1,9}", last) else 0
        if is_over(self.job, self.rows) and after >= len(self.rows):
            return Response(204)
        return self.stream(events_of_job(self.api, self.job, after))

    # Files: nothing outside the work directory, by no name and by no link.

    def folder(self) -> ConfinedFolder:
        """The folder where the job runs.  A tree of jobs that lies in it is hidden.

        ForbiddenError where it lies in a tree of jobs itself, except in a job's work/: the file
        routes would show other users' files there, and the key of the tokens.
        """
        folder = os.path.realpath(self.job.directory())
        trees = {os.path.realpath(backend.prefix) for backend in self.api.backends.values()}
        for tree in trees:
            inside = os.path.relpath(folder, tree)
            is_work = re.match(r"([^/]+/)?%s/work(/|$)" % JOBID.pattern, inside)
            if inside.split("/")[0] != ".." and not is_work:
                raise ForbiddenError("job %s runs among the jobs, whose files are not shown"
                                     % self.job.jobid)
        if not self.caller.owns(self.job):
            trees.add(self.job.at("work", INPUT_FILES))
        return ConfinedFolder(folder, trees)

    def get_files(self) -> Json:
        """What lies in the work directory: {name: {size, atime, mtime}}."""
        return self.folder().stat()

    def get_file(self) -> Union[Json, Response]:
        """A file of the work directory, as bytes; of a directory, what lies in it.

        Upload-Offset: how much has come of an upload that is not complete.
        """
        path, folder = self.req.params["path"].rstrip("/"), self.folder()
        if folder.is_folder(path):
            return folder.stat(path)
        size = folder.part_size(path)
        notes = () if size is None else (("Upload-Offset", str(size)),)
        try:
            file, kind = folder.open(path), "application/octet-stream"
        except NotFoundError as err:
            raise RequestError(404, str(err), **dict(notes)) from None
        return Response.of_file(self.req, file, kind, os.path.basename(path)).plus(*notes)

    def check_may_write(self) -> None:
        """ForbiddenError if the caller may not change files: a script could run what is there."""
        self.api.policy.check_takes_scripts(self.caller)

    def expect_upload(self, folder: ConfinedFolder, path: str) -> None:
        """Check the conditions of an upload before its body is read, and note where it goes."""
        self.check_may_write()
        above, name = folder.split(path)
        self.req.check_change(folder.status(path))
        if os.path.isdir(os.path.join(above, name)) and not os.path.islink(
                os.path.join(above, name)):
            raise ConflictError("%s is a directory" % shown(path))
        UploadFolders(self.api.backends[self.job.backend].root).note(above)

    def put_file(self) -> Union[Json, Response]:
        """Write a file of the work directory; the directories on the way are made.

        With Content-Range, a part of it: 202 until it is whole.  Upload-Offset: how much is there.
        """
        folder, path, part = self.folder(), self.req.params["path"], self.req.content_range()
        body, limit, check = self.req.body, self.upload_limit, self.req.check_change
        self.expect_upload(folder, path)
        if part is None:
            folder.save(path, body.blocks(limit), check, (CutBody, ConnectionError))
            return None
        start, length, total = part
        body.check_size(total, limit)
        try:
            size = folder.append(path, start, total, body.blocks(length), check)
        except ConflictError as err:
            offset = str(folder.part_size(path) or 0)
            raise RequestError(err.http_status, str(err), Upload_Offset=offset) from None
        answer = Response.of_json(None, 200 if size == total else 202)
        return answer.plus(("Upload-Offset", str(size)))

    def delete_file(self) -> Json:
        """Remove a file of the work directory."""
        self.check_may_write()
        self.folder().unlink(self.req.params["path"], self.req.check_change)
        return None

    def post_files(self) -> Json:
        """Write the files of a form's fields `files` into the work directory."""
        saved = 0
        for field_name, name, blocks in Form(self.req, self.upload_limit).parts():
            if field_name == "files" and name:
                folder = self.folder()
                self.expect_upload(folder, name)
                folder.save(name, blocks, self.req.check_change)
                saved += 1
            for _ in blocks:
                pass
        if not saved:
            text = "no part of the form is a field `files` with a file name"
            raise InvalidInput([Fault("files", text)], "body")
        return None

    def get_archive(self) -> Response:
        """The work directory, or one in it, as .tar.gz."""
        folder, path, jobid = self.folder(), WITHIN.value(self.req) or "", self.job.jobid
        if not folder.is_folder(path):
            raise NotFoundError("no such directory")
        return Response(200, lambda send: write_archive(folder.entries(path, jobid), send), (
            ("Content-Type", "application/gzip"),
            ("Content-Disposition", 'attachment; filename="%s.tar.gz"' % jobid)))

    def put_archive(self) -> Json:
        """Unpack an archive, .tar, .tar.gz or .zip, in the work directory, or in one in it.

        Answers which entries were left out: devices, FIFOs, hard links, links that lead out of it.
        """
        folder, below, limit = self.folder(), WITHIN.value(self.req) or "", self.upload_limit
        UploadFolders(self.api.backends[self.job.backend].root).note(folder.root)
        self.check_may_write()
        blocks = self.req.body.blocks(limit)
        with given_in("body"), ZipReader.or_tar(blocks, "the body", limit, folder.root) as entries:
            return folder.take_in(entries, below)

    # Access.

    def get_access(self) -> Json:
        """Who owns a job, and who else may do what."""
        return Access.of(self.job)._asdict()

    def put_access(self) -> Json:
        """Share a job with users, {user: ["GET"]}; [] withdraws it.  Only its owner may."""
        if not self.caller.owns(self.job):
            raise ForbiddenError("job %s is not yours to share" % self.job.jobid)
        wanted = self.json(MAX_SHARES)
        is_map = isinstance(wanted, dict)
        if not is_map or not all(isinstance(each, list) for each in wanted.values()):
            raise InvalidInput([Fault("", 'should be {user: ["GET", "POST"]}')], "body")
        with given_in("body"):
            return Access.share(self.job, wanted)._asdict()


# --------------------------------------------------------------------------------------- 21. Routes

# Which request goes to which handler, who may send it, and the interface as a document.

@lru_cache(maxsize=16)
def openapi_response(apps: Tuple[Application, ...]) -> Response:
    """The interface as a document, with these applications.

    It is kept: to make it takes ten milliseconds, and anybody may ask.
    """
    return Response.of_json(OpenApi().document(apps))


def get_openapi(handler: ServerHandler) -> Response:
    """This interface, as OpenAPI 3.1, with the applications that the caller may use.

    X-Forwarded-Prefix: the path below which a proxy shows this server.
    """
    answer = openapi_response(tuple(handler.offered()))
    prefix = handler.req.headers.get("x-forwarded-prefix", "")
    if not re.fullmatch("(/[A-Za-z0-9._~-]{1,60}){1,9}", prefix):
        return answer
    place = '"servers": [{"url": "%s"}]'
    body = answer.body.replace((place % "/").encode(), (place % prefix).encode())  # type: ignore
    return answer._replace(body=body)


@lru_cache(maxsize=None)
def route_pattern(path: str) -> Any:
    """The regular expression of a route's path; `{path}` matches slashes too."""
    def group(match: Any) -> str:
        name = match.group(1)
        return "(?P<%s>%s)" % (name, ".+" if name == "path" else "[^/]+")

    text = re.sub(r"\\?\{(\w+)\\?\}", group, re.escape(path))
    return re.compile(text + "/?" if path != "/" else "/", re.DOTALL)


class Route(NamedTuple):
    """One row of ROUTES."""
    method: str
    path: str               # {name} is one part of it, without a slash; {path} all the rest
    # Who may send the request:
    #   open    anybody; at a local server that asks for a token, who shows it
    #   page    anybody
    #   token   who shows a token, whatever it is narrowed to
    #   signed  who has signed the body
    #   user    whom the kernel, a certificate or a token names
    #   create  who may make jobs
    #   apply   who may make jobs of applications
    #   job     who may see the job, or change it if the method is not GET
    scope: str
    handler: Callable[[Any], Union[Json, Response]]  # of JobHandler if the scope is `job`
    gives: str              # a schema's name, [name] or {name} of several, or a media type
    takes: str = ""         # a model's name, or a media type
    query: Tuple[Param, ...] = ()   # besides `backend`, which every route of a job has

    @property
    def params(self) -> Tuple[Param, ...]:
        """The parameters that its query may have."""
        return (BACKEND_PARAM,) + self.query if self.scope == "job" else self.query

    @property
    def pattern(self) -> Any:
        """The regular expression of its path."""
        return route_pattern(self.path)

    def match(self, req: Request) -> Optional[Dict[str, str]]:
        """What it takes from a request's path, None where it does not match.

        The path is decoded only now, so that an encoded slash separates nothing.
        """
        match = self.pattern.fullmatch(req.raw_path)
        if not match:
            return None
        params = {name: decode_percent(value) for name, value in match.groupdict().items()}
        return None if any("/" in params[name] for name in params if name != "path") else params


ROUTES = (
    Route("GET", "/", "page", ServerHandler.get_page, "text/html"),
    Route("GET", "/v1", "page", ServerHandler.get_page, "text/html"),
    Route("GET", "/page/{name}", "page", ServerHandler.get_page_file, "text/javascript"),
    Route("GET", "/v1/openapi.json", "open", get_openapi, "object"),
    Route("GET", "/v1/health", "open", ServerHandler.get_health, "Health"),
    Route("GET", "/v1/metrics", "user", ServerHandler.get_metrics, "text/plain"),
    Route("GET", "/v1/backends", "open", ServerHandler.get_backends, "{SystemStatus}", "", (NAME,)),
    Route("GET", "/v1/backends/{name}", "open", ServerHandler.get_backend, "SystemStatus"),
    Route("GET", "/v1/backends/{name}/queues", "user", ServerHandler.get_queues, "[Queue]"),
    Route("GET", "/v1/token", "user", ServerHandler.get_token, "text/plain", "", (DOWNLOAD,)),
    Route("POST", "/v1/token", "token", ServerHandler.post_token, "Blocks"),
    Route("GET", "/v1/events", "user", ServerHandler.get_events, "text/event-stream"),
    Route("GET", "/v1/jobs", "user", ServerHandler.get_jobs, "[JobStepInfo]", "",
          (INDEX, LIMIT, STATE, BACKEND_PARAM, NAME, APP, SINCE, DETAIL)),
    Route("GET", "/v1/jobs/counts", "user", ServerHandler.get_counts, "Counts", "",
          (BACKEND_PARAM, NAME, APP, SINCE)),
    Route("POST", "/v1/jobs", "create", ServerHandler.post_job, "Created", "JobSpec",
          (BACKEND_PARAM, UNTIL_END)),
    Route("POST", "/v1/jobs/new", "create", ServerHandler.post_new, "string", "JobSpec",
          (BACKEND_PARAM, MACHINE)),
    Route("POST", "/v1/jobs/callback", "signed", ServerHandler.post_callback, "string", "Callback",
          (BACKEND_PARAM,)),
    Route("GET", "/v1/applications", "apply", ApplicationHandler.get_applications,
          "[Application]"),
    Route("GET", "/v1/applications/{name}", "apply", ApplicationHandler.get_application,
          "Application"),
    Route("POST", "/v1/applications/{name}", "apply", ApplicationHandler.post_application,
          "Created", "Inputs", (UNTIL_END,)),
    Route("GET", "/v1/jobs/{jobid}", "job", JobHandler.get_job, "[JobStepInfo]", "", (TASK,)),
    Route("DELETE", "/v1/jobs/{jobid}", "job", JobHandler.delete_job, "null", "",
          (PURGE, TASK)),
    Route("GET", "/v1/jobs/{jobid}/tasks", "job", JobHandler.get_tasks, "[TaskState]"),
    Route("POST", "/v1/jobs/{jobid}/start", "job", JobHandler.start_job, "null", "", (FAILED,)),
    Route("POST", "/v1/jobs/{jobid}/cancel", "job", JobHandler.cancel_job, "null", "", (TASK,)),
    Route("POST", "/v1/jobs/{jobid}/hold", "job", JobHandler.hold_job, "null"),
    Route("POST", "/v1/jobs/{jobid}/release", "job", JobHandler.release_job, "null"),
    Route("POST", "/v1/jobs/{jobid}/applications/{name}", "job", JobHandler.post_interactive,
          "Finished", "Inputs"),
    Route("GET", "/v1/jobs/{jobid}/state", "job", JobHandler.get_state, "JobState"),
    Route("GET", "/v1/jobs/{jobid}/status", "job", JobHandler.get_status, "JobStatus"),
    Route("GET", "/v1/jobs/{jobid}/spec", "job", JobHandler.get_spec, "JobSpec"),
    Route("GET", "/v1/jobs/{jobid}/logs", "job", JobHandler.get_logs, "{string}", "",
          (ALL, TASK)),
    Route("GET", "/v1/jobs/{jobid}/logs/{name}", "job", JobHandler.get_log, "text/plain", "",
          (OFFSET, WAIT, TAIL)),
    Route("GET", "/v1/jobs/{jobid}/scripts", "job", JobHandler.get_scripts, "{string}"),
    Route("GET", "/v1/jobs/{jobid}/events", "job", JobHandler.get_job_events, "text/event-stream"),
    Route("GET", "/v1/jobs/{jobid}/archive", "job", JobHandler.get_archive, "application/gzip", "",
          (WITHIN,)),
    Route("PUT", "/v1/jobs/{jobid}/archive", "job", JobHandler.put_archive, "[string]",
          "application/octet-stream", (WITHIN,)),
    Route("GET", "/v1/jobs/{jobid}/access", "job", JobHandler.get_access, "Access"),
    Route("PUT", "/v1/jobs/{jobid}/access", "job", JobHandler.put_access, "Access", "Shares"),
    Route("GET", "/v1/jobs/{jobid}/files", "job", JobHandler.get_files, "{FileInfo}"),
    Route("POST", "/v1/jobs/{jobid}/files", "job", JobHandler.post_files, "null",
          "multipart/form-data"),
    Route("GET", "/v1/jobs/{jobid}/files/{path}", "job", JobHandler.get_file,
          "application/octet-stream"),
    Route("PUT", "/v1/jobs/{jobid}/files/{path}", "job", JobHandler.put_file, "null",
          "application/octet-stream"),
    Route("POST", "/v1/jobs/{jobid}/files/{path}", "job", JobHandler.put_file, "null",
          "application/octet-stream"),
    Route("DELETE", "/v1/jobs/{jobid}/files/{path}", "job", JobHandler.delete_file, "null"),
)


# The document.

def object_of(optional: Optional[Dict[str, Json]] = None, **properties: Json) -> Json:
    """The schema of an object that has all of these, and may have the optional ones."""
    return {"type": "object", "properties": {**properties, **(optional or {})},
            "required": list(properties)}


def map_of(schema: Json) -> Json:
    """The schema of an object whose values have this one."""
    return {"type": "object", "additionalProperties": schema}


def list_of(schema: Json) -> Json:
    """The schema of a list whose items have this one."""
    return {"type": "array", "items": schema}


TEXT: Json = {"type": "string"}
JOBID_SCHEMA: Json = {"type": "string", "pattern": "^%s$" % JOBID.pattern,
                      "examples": ["1693992878.203"]}
LINE: Json = {"type": "string", "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$"}
LINES: Json = {"type": "string", "pattern": r"^[^\u0000]*$"}
NUMBER: Json = {"type": "integer"}
SIZE_SCHEMA: Json = {"type": "string", "pattern": "^[1-9][0-9]{0,4}[MG]$", "examples": ["4G"]}
FLAG: Json = {"type": "boolean"}
TASK_RANGES = "[0-9]{1,9}(-[0-9]{1,9}(:[1-9][0-9]{0,8})?)?"
ARRAY_SCHEMA: Json = {"anyOf": [
    {"type": "integer", "minimum": 1, "maximum": MAX_TASKS},
    {"type": "string", "pattern": "^%s(,%s)*(%%[1-9][0-9]{0,8})?$" % (TASK_RANGES, TASK_RANGES),
     "examples": ["1-10%2"]},
    list_of({"type": "integer", "minimum": 0, "maximum": 10 ** 9 - 1}), list_of(map_of(LINE)),
    {"type": "null"}]}
NULL: Json = {"type": "null"}
FILE_SCHEMA: Json = {"type": "string", "format": "binary"}
STATE_SCHEMA: Json = {"$ref": "#/components/schemas/JobState"}
SHARES_SCHEMA = map_of(list_of({"enum": list(OPERATIONS), "type": "string"}))
FAULTS_SCHEMA = list_of(object_of(loc=list_of(TEXT), msg=TEXT, type=TEXT))
BASIC_SCHEMAS = ("string", "null", "object")    # which stand by themselves where they are used
SCHEMAS: Dict[str, Json] = {
    "string": TEXT, "null": NULL, "object": {"type": "object"},
    "JobState": {"type": "string", "enum": list(STATES)},
    "Created": {"anyOf": [JOBID_SCHEMA, {"$ref": "#/components/schemas/JobStepInfo"}]},
    "JobStepInfo": object_of(
        {"tasks": dict(map_of(NUMBER), description="in a listing, of an array: tasks by state"),
         "backend": TEXT, "reason": TEXT, "application": TEXT, **dict.fromkeys(
             ("began", "elapsed", "duration"), {"anyOf": [{"type": "number"}, NULL]})},
        jobid=JOBID_SCHEMA, name=TEXT, updated={"type": "number"}, jobndx=NUMBER,
        state=STATE_SCHEMA, info={"anyOf": [NUMBER, TEXT]}),
    "JobStatus": object_of(
        jobid=JOBID_SCHEMA, name=TEXT, backend=TEXT, state=STATE_SCHEMA, jobndx=NUMBER,
        info={"anyOf": [NUMBER, TEXT]}, reason=TEXT, updated={"type": "number"},
        began={"anyOf": [{"type": "number"}, NULL]}, elapsed={"anyOf": [{"type": "number"}, NULL]},
        counts={"anyOf": [map_of(NUMBER), NULL]}, base=TEXT, directory=TEXT, shell=TEXT,
        spec={"$ref": "#/components/schemas/JobSpec"}, why={"type": "object"},
        usage={"anyOf": [{"type": "object"}, NULL]},
        tasks=list_of({"$ref": "#/components/schemas/TaskState"}),
        history=list_of({"type": "object"}), callbacks=list_of({"type": "object"}),
        logs=map_of(NUMBER)),
    "Counts": map_of(NUMBER),
    "TaskState": object_of(
        task=NUMBER, state=STATE_SCHEMA, jobndx=NUMBER, info={"anyOf": [NUMBER, TEXT]},
        updated={"type": "number"}, reason=TEXT),
    "SystemStatus": object_of(
        name=TEXT, full_name=TEXT, description=TEXT, system_type=TEXT, notes=list_of(TEXT),
        status={"type": "string", "enum": ["active", "unavailable", "degraded", "other"]},
        answered={"anyOf": [{"type": "number"}, NULL]},
        updated_at={"type": "string", "format": "date-time"}),
    "Queue": object_of(name=TEXT, state=TEXT, **dict.fromkeys(
        Queue._fields[2:], {"anyOf": [NUMBER, NULL]})),
    "FileInfo": object_of(size=NUMBER, atime=NUMBER, mtime=NUMBER),
    "Health": object_of(status=TEXT, version=TEXT, writable=FLAG, backends=map_of(TEXT)),
    "Application": object_of(
        name=TEXT, summary=TEXT, description=TEXT, needs=list_of(TEXT), outputs=list_of(TEXT),
        roles=list_of(TEXT), interactive=FLAG, takes_files=FLAG, of={"anyOf": [TEXT, NULL]},
        inputs={"type": "object", "description": "a JSON Schema of its inputs"}),
    "Finished": object_of(exit_status=NUMBER, stdout=TEXT, stderr=TEXT),
    "Inputs": {"type": "object", "description": "the inputs, by name", "examples": [{}]},
    "Access": object_of(owner=TEXT, shared=SHARES_SCHEMA),
    "Shares": SHARES_SCHEMA,
    "Blocks": object_of(blocks=list_of(TEXT)),
    "Error": {"type": "object", "required": ["detail"], "properties": {
        "detail": {"anyOf": [TEXT, FAULTS_SCHEMA]}, "jobid": TEXT}},
}


# What a header of a request or an answer means, and which handlers read or send it.
READS_FILE = (JobHandler.get_file, JobHandler.get_log)
CHANGES_FILE = (JobHandler.put_file, JobHandler.delete_file, JobHandler.post_files)
STREAMS = (ServerHandler.get_events, JobHandler.get_job_events)
Handlers = Tuple[Callable[[Any], Any], ...]
REQUEST_HEADERS: Dict[str, Tuple[str, Handlers]] = {
    "Idempotency-Key": ("the same key gives the same job, for a day", (
        ServerHandler.post_job, ApplicationHandler.post_application)),
    "X-Psik-Callback": ("URL to which every change of state is sent",
                        (ApplicationHandler.post_application,)),
    "X-Psik-Callback-Secret": ("key that signs what is sent there",
                               (ApplicationHandler.post_application,)),
    "X-Hub-Signature-256": ("sha256= and the HMAC of the body, with client_secret",
                            (ServerHandler.post_callback,)),
    "Last-Event-ID": ("go on after this event", STREAMS),
    "Range": ("bytes=FIRST-LAST: only this part", READS_FILE),
    "If-Range": ("an ETag or a date: the part only if that is unchanged, else the whole",
                 READS_FILE),
    "If-None-Match": ("ETags, or * for any: only if the file has none of them",
                      READS_FILE + CHANGES_FILE),
    "If-Modified-Since": ("a date: 304 if the file was not changed since", READS_FILE),
    "If-Match": ("an ETag, or * for any: only if the file has it", READS_FILE + CHANGES_FILE),
    "If-Unmodified-Since": ("a date: only if the file was not changed since",
                            READS_FILE + CHANGES_FILE),
    "Content-Range": ("bytes FIRST-LAST/SIZE: the body is this part of the file",
                      (JobHandler.put_file,)),
    "X-Forwarded-Prefix": ("the path below which a proxy shows this server", (get_openapi,)),
}
ANSWER_HEADERS: Dict[str, Tuple[str, Handlers]] = {
    "ETag": ("what the content is known by", READS_FILE),
    "Last-Modified": ("when it was changed", READS_FILE),
    "Location": ("where the job is", (
        ServerHandler.post_job, ServerHandler.post_new, ApplicationHandler.post_application)),
    "Link": ("where the listing goes on, if it does", (ServerHandler.get_jobs,)),
    "Upload-Offset": ("how many bytes of an upload are here", (
        JobHandler.put_file, JobHandler.get_file)),
    "X-Psik-Offset": ("the size of the log, from which to go on", (JobHandler.get_log,)),
    "X-Psik-State": ("the job's state", (JobHandler.get_log,)),
}
# What a route may answer besides 200 to a request that it carries out.
MORE_ANSWERS: Dict[str, Tuple[str, Handlers]] = {
    "202": ("a part of it is here; more is to come", (JobHandler.put_file,)),
    "204": ("there will be no more", (JobHandler.get_job_events,)),
    "206": ("a range of it", READS_FILE),
    "503": ("jobs cannot be written", (ServerHandler.get_health,)),
}
TAGS = {"jobs": "jobs, their logs and their files",
        "applications": "scripts to run with values of your own", "backends": "where jobs can run",
        "token": "tokens that name a user", "events": "what happens to all jobs, as it happens",
        "server": "the server itself"}
SPEC_EXAMPLE = {"name": "show", "script": "#!/bin/sh\nhostname\n", "resources": {"duration": 2}}


class OpenApi:
    """The interface as an OpenAPI 3.1 document, made from ROUTES and the models."""

    def schema(self, text: str) -> Json:
        """The schema of a route's `gives` or `takes`: [X] is a list of X, {X} an object of them."""
        if text[:1] == "[":
            return list_of(self.schema(text[1:-1]))
        if text[:1] == "{":
            return map_of(self.schema(text[1:-1]))
        if "/" in text:
            return TEXT if text.startswith("text/") else FILE_SCHEMA
        return SCHEMAS[text] if text in BASIC_SCHEMAS else {"$ref": "#/components/schemas/" + text}

    def of_type(self, kind: Any, meta: Any) -> Json:
        """The schema of a field that is annotated with kind; meta holds the limits of option()."""
        parts = getattr(kind, "__args__", None) or ()
        if getattr(kind, "__origin__", None) is Union:
            return {"anyOf": [self.of_type(part, meta) for part in parts]}
        if isinstance(kind, type) and issubclass(kind, Model):
            return {"$ref": "#/components/schemas/" + kind.__name__}
        text = {"type": "string", "pattern": meta["pattern"]} if "pattern" in meta else (
            LINES if meta.get("lines") else LINE)
        simple = {int: NUMBER, bool: FLAG, str: text, type(None): NULL, List[str]: list_of(text)}
        if kind in simple:
            return simple[kind]
        return dict(map_of(text), propertyNames={"pattern": "^(?:%s)$" % meta["keys"][0]})

    def of_field(self, item: Any) -> Json:
        """The schema of a model's field."""
        read = {"tasks": ARRAY_SCHEMA, "document": {"type": "object"}}
        kind = item.metadata.get("read")
        schema = read[kind] if kind else self.of_type(item.type, item.metadata)
        if "least" in item.metadata:
            limits = {"minimum": item.metadata["least"], "maximum": MAX_COUNT}
            if "type" in schema:
                schema = dict(schema, **limits)
            else:
                schema = {"anyOf": [dict(part, **limits) if part == NUMBER else part
                                    for part in schema["anyOf"]]}
        if item.metadata.get("size"):
            schema["anyOf"].append(SIZE_SCHEMA)
        if item.metadata.get("secret") and "anyOf" not in schema:  # it is shown as null
            schema = {"anyOf": [schema, NULL]}
        # Said in words: from `default`, generators conclude that the field is always there.
        is_plain = isinstance(item.default, int)
        default = "; by default %s" % json.dumps(item.default) if is_plain else ""
        return dict(schema, description=item.metadata["doc"] + default)

    def of_model(self, cls: Type[Model]) -> Json:
        """The schema of a model, from its fields."""
        items = fields(cls)  # type: ignore[arg-type]
        examples = {"examples": [SPEC_EXAMPLE]} if cls is JobSpec else {}
        schema = {"type": "object", "description": (cls.__doc__ or "").strip(), **examples,
                  "additionalProperties": False,
                  "properties": {item.name: self.of_field(item) for item in items}}
        required = [item.name for item in items if item.metadata["required"]]
        return dict(schema, required=required) if required else schema

    def name_of(self, route: Route) -> str:
        """A route's name: its handler's; of the further routes of a handler, with an ending."""
        name = route.handler.__name__
        first = next(other for other in ROUTES if other.handler is route.handler)
        if route is first:
            return name
        if route.method != first.method:
            return name + "_by_" + route.method.lower()
        return name + "_" + re.sub(r"\W+", "_", route.path).strip("_")

    def parameters(self, route: Route) -> List[Json]:
        """The parameters in a route's path and query, and the headers that it reads."""
        kinds = {"integer": NUMBER, "boolean": FLAG, "state": STATE_SCHEMA, "string": TEXT,
                 "tasks": dict(TEXT, pattern=TASK_NUMBERS)}
        names = re.findall(r"\{(\w+)\}", route.path)
        parameters: List[Json] = [
            {"name": name, "in": "path", "required": True,
             "schema": JOBID_SCHEMA if name == "jobid" else TEXT} for name in names]
        parameters += [
            {"name": name, "in": "header", "required": False, "description": doc, "schema": TEXT}
            for name, (doc, handlers) in REQUEST_HEADERS.items() if route.handler in handlers]
        for param in route.params:
            is_number = param.kind == "integer"
            limits = {"minimum": param.least, "maximum": param.most} if is_number else {}
            schema = dict(kinds[param.kind], **limits)
            parameters.append({"name": param.name, "in": "query", "required": False,
                               "description": param.doc, "schema": schema})
        return parameters

    def refusals(self, route: Route) -> List[int]:
        """The statuses with which a route may refuse."""
        asks_scheduler = (
            ServerHandler.post_job, ApplicationHandler.post_application,
            ServerHandler.get_queues, JobHandler.start_job,
            JobHandler.hold_job, JobHandler.release_job, JobHandler.cancel_job,
            JobHandler.delete_job)
        statuses = {400, 403, 404}
        statuses.update([401] if route.scope not in ("open", "page") else [])
        statuses.update([503] if route.gives in ("text/event-stream", "Finished") else [])
        has_key = (ServerHandler.post_job, ApplicationHandler.post_application)
        statuses.update([429] if route.handler in has_key else [])
        statuses.update([413, 415, 422] if route.takes else [])
        statuses.update([412] if route.handler in READS_FILE + CHANGES_FILE else [])
        statuses.update([416] if route.handler in READS_FILE else [])
        statuses.update([422] if route.params else [])
        statuses.update([409] if route.method != "GET" else [])
        statuses.update([502] if route.handler in asks_scheduler else [])
        return sorted(statuses)

    def content(self, route: Route) -> Json:
        """What the body of a route's answer may be, by media type."""
        media = route.gives if "/" in route.gives else "application/json"
        content = {media: {"schema": self.schema(route.gives)}}
        if media == "application/octet-stream":  # of a directory, what lies in it
            content["application/json"] = {"schema": self.schema("{FileInfo}")}
        if media == "text/javascript":  # the page has a style sheet too
            content["text/css"] = content[media]
        if media == "application/gzip":  # generated clients know only this type
            content = {"application/octet-stream": content[media], **content}
        return content

    def successes(self, route: Route) -> Dict[str, Json]:
        """What a route answers to a request that it carries out, by status."""
        headers = {name: {"description": doc, "schema": TEXT}
                   for name, (doc, handlers) in ANSWER_HEADERS.items() if route.handler in handlers}
        done: Json = {"description": "done", "content": self.content(route)}
        done.update({"headers": headers} if headers else {})
        answers: Dict[str, Json] = {"200": done}
        if route.method == "GET":
            answers["304"] = {"description": "not changed"}
        answers.update({status: dict(done, description=doc)
                        for status, (doc, handlers) in MORE_ANSWERS.items()
                        if route.handler in handlers})
        if "204" in answers:
            del answers["204"]["content"]
        if "206" in answers:  # never of a directory
            answers["206"]["content"] = dict(list(done["content"].items())[:1])
        return answers

    def answers(self, route: Route) -> Dict[str, Json]:
        """What a route answers, by status."""
        import http
        error = {"application/json": {"schema": self.schema("Error")}}
        answers = self.successes(route)
        for status in self.refusals(route):
            phrase = http.HTTPStatus(status).phrase
            answers[str(status)] = {"description": phrase, "content": error}
        return dict(answers, default={"description": "refused, and why", "content": error})

    def operation(self, route: Route) -> Json:
        """A route as OpenAPI's Operation."""
        part, summary = (route.path.split("/") + ["", ""])[2], (route.handler.__doc__ or "").strip()
        tag = part if part in TAGS else "server"
        operation = {"operationId": self.name_of(route), "tags": [tag],
                     "summary": summary.split("\n")[0],
                     "parameters": self.parameters(route), "responses": self.answers(route)}
        if route.takes:
            media = route.takes if "/" in route.takes else "application/json"
            is_form = media == "multipart/form-data"
            files = dict(list_of(FILE_SCHEMA), minItems=1)
            schema = object_of(files=files) if is_form else self.schema(route.takes)
            operation["requestBody"] = {"required": True, "content": {media: {"schema": schema}}}
        return operation

    def use_of(self, route: Route, app: Application) -> Json:
        """The use of an application, as an Operation of its own; route: that of all of them."""
        operation = dict(self.operation(route))
        schema, files = dict(app.schema), {"files": list_of(FILE_SCHEMA), "upload": FILE_SCHEMA}
        form = dict(schema, properties={**schema["properties"], **files})
        operation.update({
            "operationId": "use_" + re.sub(r"\W", lambda odd: "_%x_" % ord(odd[0]), app.name),
            "summary": app.summary or "Run " + app.name,
            "description": "\n\n".join(filter(None, [app.description] + [
                "It needs the files %s, as `files` of a form, or in an archive, `upload`."
                % ", ".join(app.needs)] * bool(app.needs))),
            "parameters": [each for each in operation["parameters"] if each["in"] != "path"],
            "requestBody": {"required": True, "content": {
                "application/json": {"schema": schema}, "multipart/form-data": {"schema": form}}}})
        return operation

    def uses(self, apps: Sequence[Application]) -> Dict[str, Dict[str, Json]]:
        """The paths of the uses of applications."""
        route = next(route for route in ROUTES
                     if route.handler is ApplicationHandler.post_application)
        return {route.path.replace("{name}", app.name): {"post": self.use_of(route, app)}
                for app in apps if not app.interactive}

    def document(self, apps: Sequence[Application] = ()) -> Json:
        """The whole document, with an operation for each of these applications."""
        paths = self.uses(apps)
        for route in ROUTES:
            paths.setdefault(route.path, {})[route.method.lower()] = self.operation(route)
        schemas = {name: schema for name, schema in SCHEMAS.items() if name not in BASIC_SCHEMAS}
        for cls in (ResourceSpec, BackendConfig, JobSpec, Callback):
            schemas[cls.__name__] = self.of_model(cls)
        bearer = {"type": "http", "scheme": "bearer"}
        info = {"title": "psik", "version": __version__, "summary": "batch jobs and their files",
                "license": {"name": "BSD 3-Clause", "identifier": "BSD-3-Clause"}}
        return {"openapi": "3.1.0", "info": info, "servers": [{"url": "/"}], "paths": paths,
                "tags": [{"name": name, "description": doc} for name, doc in TAGS.items()],
                "security": [{}, {"bearer": []}],
                "components": {"schemas": schemas, "securitySchemes": {"bearer": bearer}}}


# Dispatching.

Identify = Callable[[Request, Route], Caller]   # who sends a request for a route; raises PsikError


class Router:
    """Finds the route of a request, decides whether the caller may, and lets its handler answer."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = routes

    def find(self, req: Request) -> Tuple[Route, Dict[str, str]]:
        """The route of a request, and what it takes from the path; RequestError 404 or 405."""
        allowed: Set[str] = set()
        for route in self.routes:
            params = route.match(req)
            if params is not None and route.method == req.verb:
                return route, params
            if params is not None:
                allowed.update([route.method] + ["HEAD"] * (route.method == "GET"))
        if not allowed:
            raise NotFoundError("no such route; GET /v1/openapi.json lists them")
        status = 204 if req.method == "OPTIONS" else 405
        methods = ", ".join(sorted(allowed | {"OPTIONS"}))
        raise RequestError(status, "there is no %s here" % req.method, Allow=methods)

    @staticmethod
    def admit(api: Api, req: Request, route: Route, identify: Identify) -> Handler:
        """The handler of a request that the caller may send; PsikError for any other.

        This is decided before the body is read.  Handlers also check what only the body tells (the
        backend of a new job, a callback's signature), and what only owners or makers of jobs may
        do.
        """
        caller = identify(req, route)
        if route.scope == "create":
            api.policy.check_may_create(caller)
        if route.scope == "apply":
            api.policy.check_may_apply(caller)
        kinds = {"job": JobHandler, "apply": ApplicationHandler}
        return kinds.get(route.scope, ServerHandler)(api, req, caller)

    def dispatch(self, api: Api, req: Request, identify: Identify) -> Response:
        """Answer a request, whatever happens; identify says who sends it."""
        return self.answer(api, req, identify).with_caching()

    def answer(self, api: Api, req: Request, identify: Identify) -> Response:
        """As dispatch(), without what caches are told."""
        try:
            route, req.params = self.find(req)
            if "content-range" in req.headers and route.handler is not JobHandler.put_file:
                raise RequestError(400, "Content-Range is only for the upload of a file")
            req.check_again = lambda: self.admit(api, req, route, identify)
            value = route.handler(self.admit(api, req, route, identify))
            answer = value if isinstance(value, Response) else Response.of_json(value)
            return answer.with_etag(req)
        except PsikError as err:
            return Response.of_error(err)
        except (ConnectionError, TimeoutError):  # the client is gone
            raise
        except OSError as err:
            return Response.of_system_error(err)
        except Exception as err:  # a bug must not cost the client its connection
            return Response.of_bug(err)


ROUTER = Router(ROUTES)


# --------------------------------------------------------------------------------------- 22. Server

# Sockets, threads and signals around the router.

# Who is at the other end.

def is_loopback(address: str) -> bool:
    """Whether this is a loopback address, or `localhost`; `127.0.0.1.example.org` is neither."""
    # Names are not looked up: whoever answers for DNS could make any name one of ours.
    is_ipv4 = re.fullmatch(r"(::ffff:)?127(\.[0-9]{1,3}){3}", address)
    return address in ("localhost", "::1") or bool(is_ipv4)


class TcpEnds:
    """The two ends of a TCP connection on this machine; an IPv4-mapped address counts as IPv4."""
    asking = _thread.allocate_lock()    # one question at a time is on the socket to the kernel

    def __init__(self, client: Sequence[Any], server: Sequence[Any]) -> None:
        import socket
        self.packed = [self.pack(end[0].split("%")[0]) for end in (client, server)]
        self.ports = [client[1], server[1]]
        self.family = socket.AF_INET if len(self.packed[0]) == 4 else socket.AF_INET6

    @staticmethod
    def pack(address: str) -> bytes:
        """An address as the network has it."""
        import socket
        if ":" not in address:
            return socket.inet_pton(socket.AF_INET, address)
        packed = socket.inet_pton(socket.AF_INET6, address)
        return packed[12:] if packed.startswith(b"\0" * 10 + b"\xff\xff") else packed

    @staticmethod
    @lru_cache(maxsize=1)
    def kernel() -> Any:
        """A socket to the kernel.  It is kept, and never waits: each system call of the accepting
        thread lets others have the interpreter, and makes all that want to connect wait for them.
        """
        import socket
        netlink_sock_diag = 4
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netlink_sock_diag)
        sock.setblocking(False)
        return sock

    def ask_kernel(self) -> Optional[int]:
        """The uid that owns the client's end, by sock_diag(7); None if no process holds it now.

        OSError if the kernel does not answer.  The question is a struct nlmsghdr and an
        inet_diag_req_v2, the answer nlmsghdr and inet_diag_msg, which ends with uid and inode.
        """
        import socket
        import struct
        sock_diag_by_family, is_request = 20, 1
        any_state, no_cookie = 0xFFFFFFFF, 0xFFFFFFFF
        addresses = [packed.ljust(16, b"\0") for packed in self.packed]
        question = (struct.pack("=BBBBI", self.family, socket.IPPROTO_TCP, 0, 0, any_state)
                    + struct.pack("!HH16s16s", *self.ports, *addresses)
                    + struct.pack("=III", 0, no_cookie, no_cookie))
        head = struct.pack("=IHHII", 16 + len(question), sock_diag_by_family, is_request, 1, 0)
        with self.asking:
            sock = self.kernel()
            sock.sendto(head + question, (0, 0))
            answer = sock.recv(4096)    # is there already
        if struct.unpack_from("=H", answer, 4)[0] != sock_diag_by_family:
            code = -struct.unpack_from("=i", answer, 16)[0]
            if code == errno.ENOENT:
                return None
            raise OSError(code, os.strerror(code))
        uid, inode = struct.unpack_from("=II", answer, 16 + 64)
        return int(uid) if inode else None

    @staticmethod
    def written(packed: bytes, port: int) -> str:
        """An end as /proc/net/tcp writes it."""
        words = [packed[at:at + 4] for at in range(0, len(packed), 4)]
        if sys.byteorder == "little":
            words = [word[::-1] for word in words]
        return "%s:%04X" % (b"".join(words).hex().upper(), port)

    def read_proc(self) -> Optional[int]:
        """As ask_kernel(), from /proc/net, which is long on a busy machine.

        A socket that no process holds any more has root's uid there, and inode 0.
        """
        import socket
        tables = {"tcp6": self.packed}
        if self.family == socket.AF_INET:  # a client's IPv6 socket can be connected to it too
            mapped = [b"\0" * 10 + b"\xff\xff" + packed for packed in self.packed]
            tables = {"tcp": self.packed, "tcp6": mapped}
        for table, packed in tables.items():
            wanted = [self.written(*end) for end in zip(packed, self.ports)]
            for line in read_or_empty("/proc/net/" + table).split("\n")[1:]:
                parts = line.split()
                if parts[1:3] == wanted and parts[9] != "0":
                    return int(parts[7])
        return None

    def owner(self) -> Optional[int]:
        """The uid that owns the client's end; None if the system does not tell."""
        try:
            return self.ask_kernel()
        except (OSError, AttributeError):  # AttributeError: a system without netlink
            return self.read_proc()


def named_by_certificate(sock: Any, part: str) -> Tuple[str, str]:
    """(user, serial number) of a client's certificate.

    The user is what this part of the certificate's subject names, '' if that is no user's name.
    """
    certificate = sock.getpeercert() or {}
    pairs = [pair for group in certificate.get("subject", ()) for pair in group]
    names = [value for key, value in pairs if key == part]
    # `local:` begins the name of a caller in local mode, so no certificate may hold it.
    good = len(names) == 1 and is_user(names[0]) and not names[0].startswith("local:")
    return str(names[0]) if good else "", plain_serial(certificate.get("serialNumber", ""))


def peer_of(sock: Any) -> Peer:
    """The other end of a connected socket."""
    import socket
    import struct
    if sock.family == socket.AF_UNIX:
        if not hasattr(socket, "SO_PEERCRED"):
            return Peer("", os.getuid())  # the socket's mode lets nobody else in
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)  # pid, uid, gid
        return Peer("", struct.unpack("3i", credentials)[1])
    address = sock.getpeername()
    owner = TcpEnds(address, sock.getsockname()).owner() if is_loopback(address[0]) else None
    sock.getpeername()  # OSError if it has ended: its port may be another user's by now
    return Peer(address[0], owner)


BUSY = RequestError(503, "as many connections are open as may be", Retry_After="1")
STRANGER = ForbiddenError("this server is for its own user")


class Authentication:
    """Says who sends a request: the kernel in local mode, else a client certificate or a token."""

    def __init__(self, api: Api, peer: Peer) -> None:
        self.api, self.peer = api, peer

    @property
    def is_stranger(self) -> bool:
        """Whether the peer is another user, at a server that is for its own user only."""
        # Root may do everything anyway.  sshd connects as the user who has logged in, so what comes
        # through his tunnel is his.
        return self.api.mode == "local" and self.peer.uid not in (None, os.getuid(), 0)

    def check_host(self, req: Request) -> None:
        """ForbiddenError unless Host is `localhost` or a loopback address.

        Over TCP also if a browser asks for `localhost`.  A foreign name may be made to resolve to
        127.0.0.1 (DNS rebinding).  `localhost` is ::1 as well, where another user may listen at the
        same port.
        """
        host = req.headers.get("host", "")
        name = re.sub(r":[0-9]+$", "", host).strip("[]").lower()
        if host and not (is_loopback(name) or name.endswith(".localhost")):
            raise ForbiddenError("this server is not %r; ask for localhost" % host[:100])
        is_browser = bool({"origin", "sec-fetch-site"} & set(req.headers))
        if self.peer.address and name.endswith("localhost") and is_browser:
            raise ForbiddenError("open this server by its address, http://127.0.0.1 and its port, "
                                 "and not as localhost")

    @staticmethod
    def check_origin(req: Request) -> None:
        """ForbiddenError for what a browser sends for another site's page."""
        origin, host = req.headers.get("origin"), req.headers.get("host", "")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            raise ForbiddenError("a page of another origin may not ask this server")
        if req.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise ForbiddenError("a page of another site may not ask this server")

    def check_local(self, req: Request, route: Route) -> None:
        """Admit only ourselves and root, by the kernel's word; with --token, only with the token.

        The page itself needs none: it reads the token from the URL's fragment.  A ticket will do.
        """
        import hmac
        self.check_host(req)
        if self.is_stranger:
            raise ForbiddenError(STRANGER.message)
        token, has_ticket = self.api.local_token, bool(self.api.tickets.caller(req, route))
        if self.peer.uid is None and not token:
            raise unauthorized("the system does not tell whose connection this is; use a UNIX "
                               "socket, or --token")
        needs_token = token and route.scope != "page" and not has_ticket
        if needs_token and not hmac.compare_digest((req.bearer or "").encode(), token.encode()):
            raise unauthorized("open the address that `serve` printed, token and all; or send it: "
                               "Authorization: Bearer TOKEN")

    @property
    def refused_serials(self) -> List[str]:
        """The serial numbers of the certificates that are no longer accepted."""
        return [plain_serial(serial) for serial in self.api.config.refused_certificates]

    @property
    def takes_tokens(self) -> bool:
        """Whether nobody can have read a token on its way: TLS, a trusted proxy, a UNIX socket."""
        address = self.peer.address
        return self.api.mode == "tls" or not address or address in self.api.config.trusted_proxy

    def bearer_caller(self, req: Request, route: Route, token: str) -> Caller:
        """The user whom a token names, with the token's limits.

        RequestError 401 if it is invalid, ForbiddenError if it is not for this operation.
        """
        operation = "GET" if route.scope == "token" else req.verb  # to read a token is to look
        issued = self.api.issuers.caller(token) if len(token) <= MAX_TOKEN else None
        if issued:
            return issued
        client = self.peer.subject or "addr:" + self.peer.address
        claims = tokens_of(self.api.config).read(token, {
            "client": client, "path": req.path, "operation": operation})
        narrow: Dict[str, Any] = {name: frozenset(claims[name]) for name in NARROWINGS
                                  if name in claims and name != "ops"}
        if claims.get(CERTIFICATE) in self.refused_serials:
            raise refused_token("its certificate was withdrawn")
        if operation not in claims.get("ops", [operation]):
            raise ForbiddenError("the token does not let you %s" % req.method)
        user = claims["sub"]
        return Caller(user, user in self.api.config.admins, claims=claims, **narrow)

    def named_caller(self, req: Request, route: Route) -> Caller:
        """Whom the request's ticket or token names, else the certificate, else only an address."""
        peer, holder = self.peer, self.api.tickets.caller(req, route)
        if holder and self.takes_tokens:
            return holder
        if req.bearer and self.takes_tokens:
            return self.bearer_caller(req, route, req.bearer)
        is_admin = bool(peer.subject) and peer.subject in self.api.config.admins
        return Caller(peer.subject or "addr:" + peer.address, is_admin)

    def caller(self, req: Request, route: Route) -> Caller:
        """Who sends a request; RequestError 401 if the route needs a name and he has none."""
        self.check_origin(req)
        if self.api.mode == "local":
            self.check_local(req, route)
            return Caller(LOCAL_USER, trusted=True)
        if self.peer.serial and self.peer.serial in self.refused_serials:
            raise ForbiddenError("the certificate was withdrawn")
        caller = self.named_caller(req, route)
        if route.scope in ("user", "create", "apply", "job") and caller.anonymous:
            raise unauthorized("show a client certificate, or a token: Authorization: Bearer TOKEN")
        return caller


# Connections.

class Session:
    """All that happens on one connection; tls is the server's context, or None."""

    def __init__(self, api: Api, wire: Wire, tls: Any = None) -> None:
        self.api, self.wire, self.tls = api, wire, tls
        self.user = "-"     # who sent the request in hand, for the log

    def admit(self) -> bool:
        """Whether to serve the connection, which was just accepted; it is closed otherwise.

        The client gets a 403 or 503, except over TLS: no TLS is spoken yet to send it in.
        """
        api, wire = self.api, self.wire
        wire.peer, wire.handshaking = peer_of(wire.sock), self.tls is not None
        api.connections.mark(wire, api.config.trusted_proxy)
        if Authentication(api, wire.peer).is_stranger:
            refusal = STRANGER  # type: Optional[PsikError]
        else:
            refusal = None if api.connections.take_in(wire) else BUSY
        if refusal and self.tls is None:
            api.connections.turn_away(wire, Response.of_error(refusal))
        elif refusal:
            wire.close()
        return refusal is None

    def tune_tcp(self) -> None:
        """Set the options of an accepted TCP connection."""
        import socket
        sock = self.wire.sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # an answer is one write
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # a machine that has vanished answers nothing
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * SEND_TIMEOUT_S)

    def establish_tls(self) -> None:
        """Complete the TLS handshake in time; a certificate may tell who the client is."""
        wire = self.wire
        wire.sock.settimeout(HEAD_TIMEOUT_S)
        wire.sock = self.tls.wrap_socket(wire.sock, server_side=True, do_handshake_on_connect=False)
        wire.sock.do_handshake()
        wire.handshaking = False
        subject, serial = named_by_certificate(wire.sock, self.api.config.tls_user_field)
        wire.peer = wire.peer._replace(subject=subject, serial=serial)

    def identify(self, req: Request, route: Route) -> Caller:
        """Who sends a request; the connection counts as his from then on."""
        caller = Authentication(self.api, self.wire.peer).caller(req, route)
        self.user = caller.user
        self.api.connections.name(self.wire, caller, self.api.policy.is_maker(caller))
        return caller

    def log(self, what: str, status: int, sent: int, begun: float) -> None:
        """Count a request, and log it in one line, without query and headers: they hold secrets."""
        took = time.monotonic() - begun
        self.api.count(what.split(" ")[0], status, took)
        if self.api.access_log:
            when = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() - took))
            address = self.wire.peer.address or "local"
            write_log('%s %s %s "%s" %d %d %.1fms\n' % (
                when, address, one_line(self.user), what[:500], status, sent, took * 1000))

    def answer(self, req: Request) -> bool:
        """Answer one request; whether the connection can take another."""
        begun, wire, sent = time.monotonic(), self.wire, 0
        self.user, status = "-", 499  # as nginx logs a client that went away before its answer
        try:
            response = ROUTER.dispatch(self.api, req, self.identify)
            status = response.status
            drained, chunks = req.body.drain(), req.version == "1.1"
            closes = (not drained or not req.keeps_alive() or self.api.stopping
                      or (not chunks and callable(response.body)))
            sent = response.send(wire, closes, req.method == "HEAD", chunks)
            if not drained:
                wire.linger()
            return not closes
        finally:
            wire.streaming = False
            self.log("%s %s" % (req.method, encode_percent(req.path)), status, sent, begun)

    def refuse(self, err: PsikError) -> None:
        """Answer what cannot be read as a request, and end the connection."""
        begun, response, self.user = time.monotonic(), Response.of_error(err), "-"
        response.send(self.wire, closes=True)
        self.wire.linger()
        self.log("-", response.status, 0, begun)

    def answer_all(self) -> None:
        """Answer the requests of the connection one by one, until either end closes it."""
        while not self.api.stopping:
            try:
                head = self.wire.read_head()
                if not head:
                    return
                req = Request.parse(head, self.wire)
            except PsikError as err:
                self.refuse(err)
                return
            if not self.answer(req):
                return

    def run(self) -> None:
        """Serve the connection from its first byte to its end; a thread of its own runs this."""
        try:
            if self.tls is not None:
                self.establish_tls()
            if self.wire.peer.address:
                self.tune_tcp()
            self.answer_all()
        except OSError as err:
            complain("a connection was lost: %s" % err)
        except Exception as err:
            Response.of_bug(err)
        finally:
            self.api.connections.discard(self.wire)
            self.wire.close()


class Lobby:
    """Where accepted connections wait for their first byte: all together, without threads.

    So whoever connects and says nothing costs next to nothing.  serve starts a thread.
    """

    def __init__(self, connections: Connections, serve: Callable[[Wire], None]) -> None:
        import selectors
        import threading
        self.connections, self.serve = connections, serve
        self.selector = selectors.DefaultSelector()  # of the kernel: other threads may add to it
        threading.Thread(target=self.run, daemon=True).start()

    def add(self, wire: Wire) -> None:
        """Let a connection wait."""
        self.selector.register(wire.sock, 1, wire)  # EVENT_READ

    def let_go(self, wire: Wire) -> None:
        """Serve a connection from which something has come; close it if that is its end."""
        import socket
        self.selector.unregister(wire.sock)
        try:
            wire.silent = not wire.sock.recv(1, socket.MSG_PEEK)
            if not wire.silent:
                self.serve(wire)
        except (OSError, RuntimeError) as err:  # no thread could be had
            wire.silent = True
            complain("a connection was lost: %s" % err)
        if wire.silent:
            self.connections.discard(wire)
            wire.close()

    def run(self) -> None:
        """Wait for first bytes, until the process ends."""
        while True:
            for key, _ in self.selector.select():
                try:
                    self.let_go(key.data)
                except Exception as err:    # the others must not wait for ever
                    Response.of_bug(err)


# Listening.

def adopted_socket(fd: int) -> Any:
    """The socket behind a descriptor that somebody else opened."""
    import socket
    asked = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fd)
    so_domain = getattr(socket, "SO_DOMAIN", 39)  # Python 3.6 has no name for it
    family = asked.getsockopt(socket.SOL_SOCKET, so_domain)
    return socket.socket(family, socket.SOCK_STREAM, 0, asked.detach())


class UnixPlace:
    """A path at which a server listens; the mask decides who can connect, by default its user only.

    ConflictError if a server is alive there; ForbiddenError if others could replace the socket.
    """

    def __init__(self, path: str, mask: int = 0o177) -> None:
        import socket
        self.family, self.mask = socket.AF_UNIX, mask
        self.path = os.path.abspath(os.path.expanduser(path))
        self.inode = 0

    @staticmethod
    def default() -> str:
        """The path if none is named: in the user's runtime directory, else below /tmp."""
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        if runtime and os.path.isdir(runtime):
            return os.path.join(runtime, "psik.sock")
        folder = "/tmp/psik-%d" % os.getuid()
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        status = os.lstat(folder)  # another user may have put it there, or a link
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            owner = name_of_user(status.st_uid)
            raise ForbiddenError("%s belongs to %s, or is a link; put the socket into a directory "
                                 "of your own: --uds ~/psik.sock" % (folder, owner))
        return os.path.join(folder, "psik.sock")

    def clear(self) -> None:
        """Remove the socket that a dead server left behind; ConflictError if it is alive."""
        import socket
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(2)
            sock.connect(self.path)
        except socket.timeout:  # alive, and busy
            raise ConflictError("a server listens on %s already, and does not answer; stop it, or "
                                "name another socket" % self.path) from None
        except OSError:
            if not stat.S_ISSOCK(os.lstat(self.path).st_mode):
                raise ConflictError("%s is there already, and no socket" % self.path) from None
            os.unlink(self.path)
        else:
            raise ConflictError("a server listens on %s already; stop it, or name another socket "
                                "with --uds" % self.path)
        finally:
            sock.close()

    def bind(self, sock: Any) -> None:
        """Give a socket the path."""
        folder = os.path.dirname(self.path)
        status = os.stat(folder)
        is_sticky = bool(status.st_mode & stat.S_ISVTX)  # others can add to it, not replace ours
        if is_foreign(status) or (others_may_write(status) and not is_sticky):
            raise ForbiddenError("others can write to %s; put the socket into a directory of your "
                                 "own" % folder)
        if len(os.fsencode(self.path)) > 107:
            raise InvalidError("%s is longer than the 107 bytes that a socket's path may have; "
                               "name another with --uds" % self.path)
        if os.path.lexists(self.path):
            self.clear()
        before = os.umask(self.mask)
        try:
            sock.bind(self.path)
        finally:
            os.umask(before)
        self.inode = os.stat(self.path).st_ino

    def leave(self) -> None:
        """Remove the path, unless another server has taken it meanwhile."""
        if os.path.exists(self.path) and os.stat(self.path).st_ino == self.inode:
            os.unlink(self.path)


class TcpPlace:
    """An address at which a server listens; InvalidError if it is not ours, or in use."""

    def __init__(self, host: str, port: int) -> None:
        import socket
        self.host, self.port = host, port
        try:
            addresses = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
        except (OSError, UnicodeError, OverflowError) as err:
            raise self.refused(err) from None
        self.family, _, _, _, self.address = addresses[0]

    def refused(self, err: Exception) -> InvalidError:
        """The error to raise if the system refuses the address."""
        why = getattr(err, "strerror", None) or err
        return InvalidError("cannot listen on %s, port %d: %s" % (self.host, self.port, why))

    def bind(self, sock: Any) -> None:
        """Give a socket the address."""
        import socket
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind(self.address)
        except OSError as err:
            raise self.refused(err) from None

    def leave(self) -> None:
        """Nothing of it is left behind."""


class InheritedPlace:
    """A socket that listens already, behind a descriptor that systemd or inetd opened."""

    def __init__(self, fd: int) -> None:
        self.sock = adopted_socket(fd)
        self.family = self.sock.family

    def leave(self) -> None:
        """It is not ours to remove."""


Place = Union[UnixPlace, TcpPlace, InheritedPlace]


def inherited_place() -> Optional[InheritedPlace]:
    """The listening socket that systemd hands over (LISTEN_FDS), or None."""
    number = os.environ.get("LISTEN_FDS", "0")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not number.isdigit():
        return None
    if int(number) != 1:
        raise InvalidError("systemd hands over %s sockets; one is wanted" % number)
    return InheritedPlace(3)


def tls_context(cert: str, key: Optional[str], client_ca: Optional[str]) -> Any:
    """TLS 1.2 or newer with this certificate; client_ca: ask for client certificates of it."""
    import ssl
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    if hasattr(ssl, "TLSVersion"):
        context.minimum_version = ssl.TLSVersion.TLSv1_2
    else:  # Python 3.6
        context.options |= ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1
    try:
        context.load_cert_chain(cert, key)
        if client_ca:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL
    except OSError as err:
        raise InvalidError("the certificate, its key or the client CA cannot be used: %s"
                           % (err.strerror or err)) from None
    return context


def library_server() -> Any:
    """The class ThreadingHTTPServer, which Python 3.6 has not."""
    import http.server
    import socketserver
    bases = (socketserver.ThreadingMixIn, http.server.HTTPServer)
    base = getattr(http.server, "ThreadingHTTPServer", None)
    return base or type("ThreadingHTTPServer", bases, {})


def make_server(api: Api, place: Place, tls: Any = None) -> Any:
    """A ThreadingHTTPServer that listens at a place.

    Accepting, serving in threads and shutting down are the library's; each method that is
    overridden says why.
    """
    import socketserver

    class Connection(socketserver.BaseRequestHandler):
        """One connection.  The library's handler is lenient; section 17 says why ours is not."""

        def handle(self) -> None:
            """Serve the connection."""
            Session(api, self.request, tls).run()  # a Wire, which process_request made

    class Server(library_server()):  # type: ignore[misc]
        """The accepting loop."""
        address_family, daemon_threads, request_queue_size = place.family, True, BACKLOG

        def server_bind(self) -> None:
            """Bind to the place; the library knows no UNIX sockets, and asks DNS for our name."""
            assert not isinstance(place, InheritedPlace)
            place.bind(self.socket)

        def get_request(self) -> Tuple[Any, Any]:
            """As the library's; if that fails, for want of descriptors say, end a connection.

            Else the loop would spin.
            """
            try:
                return super().get_request()  # type: ignore[no-any-return]
            except OSError:
                api.connections.end_one(api.connections.open)
                time.sleep(0.05)
                raise

        def process_request(self, request: Any, client_address: Any) -> None:
            """As the library's, but threads are bounded, and begin at the first byte.

            Strangers get none.
            """
            wire = Wire(request)
            if Session(api, wire, tls).admit():
                lobby.add(wire)

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Print a line for a connection that was not served; the library prints a traceback."""
            complain("a connection was not served: %s" % sys.exc_info()[1])

    def serve(wire: Wire) -> None:
        # Thread.start() would wait until it runs: long, where many say something at once.
        _thread.start_new_thread(server.process_request_thread, (wire, ""))

    inherited = isinstance(place, InheritedPlace)
    server, lobby = Server(("", 0), Connection, not inherited), Lobby(api.connections, serve)
    if isinstance(place, InheritedPlace):
        server.socket.close()
        server.socket = place.sock
    return server


def address_lines(api: Api, sock: Any) -> List[str]:
    """The lines that tell people where a server can be reached, here and through ssh."""
    import socket
    token = "#token=" + api.local_token if api.local_token else ""

    def tunnel(near_port: int, far: str) -> str:
        host, user = socket.gethostname(), name_of_user(os.getuid())
        return "from elsewhere: ssh -N -L 127.0.0.1:%d:%s %s@%s, then http://127.0.0.1:%d/%s" % (
            near_port, far, user, host, near_port, token)

    if sock.family == socket.AF_UNIX:
        path = sock.getsockname()
        return ["listening on %s" % path, tunnel(8000, path)]
    name, port = sock.getsockname()[:2]
    name = "[%s]" % name if ":" in name else name
    scheme = "https" if api.mode == "tls" else "http"
    lines = ["listening on %s://%s:%d/%s" % (scheme, name, port, token)]
    return lines + [tunnel(port, "%s:%d" % (name, port))] * (api.mode == "local")


# Running.

class Rounds:
    """What a server does unasked, again and again, each in a thread of its own."""

    def __init__(self, api: Api) -> None:
        self.api = api

    def look(self) -> None:
        """Follow the tree; end slow connections, and close those that were turned away."""
        api = self.api
        deep = time.monotonic() - api.tracker.looked >= max(1, api.config.poll_interval_s)
        api.tracker.look(deep)
        api.connections.end_slow()
        api.connections.close_parting()

    def poll(self) -> None:
        """Ask the schedulers about live jobs, which may take long; forget old keys."""
        self.api.tracker.poll()
        for backend in self.api.backends.values():
            IdempotencyKeys(backend.root).forget_old()
            UploadFolders(backend.root).forget_old()

    def deliver(self) -> None:
        """Send the callbacks that are due."""
        deliver_all(self.api.config)

    @property
    def table(self) -> Tuple[Tuple[Callable[[], None], Callable[[], float]], ...]:
        """For each thread: its work, and how long it rests after it, whether that failed or not."""
        api = self.api
        return ((self.look, lambda: LOOK_S if api.tracker.watchers else 1),
                (self.poll, lambda: max(1, api.config.poll_interval_s)),
                (self.deliver, lambda: 1))

    def repeat(self, work: Callable[[], None], rest_s: Callable[[], float]) -> None:
        """Do a work until the server stops, even where it fails."""
        while not self.api.stopping:
            try:
                work()
            except PsikError as err:  # as where the prefix has become somebody else's
                complain_once(str(err))
            except Exception as err:  # it must go on
                Response.of_bug(err)
            until = time.monotonic() + rest_s()
            while time.monotonic() < until and not self.api.stopping:
                time.sleep(max(0, min(until - time.monotonic(), 1)))

    def start(self) -> None:
        """Start the threads."""
        import threading
        for row in self.table:
            threading.Thread(target=self.repeat, args=row, daemon=True).start()


def read_again(api: Api, reload: Callable[[], Config]) -> None:
    """Load the config again; the old one stays in force if the new one is invalid."""
    try:
        config, before = reload(), api.config
        api.load(config)
        complain("the config was read again")
        if config.is_personal != before.is_personal:
            complain("but authz has effect only when the server is started again")
    except (PsikError, OSError) as err:
        complain("the config is invalid, so the old one stays: %s" % err)
    except Exception as err:    # a bug must not end the server
        complain("the config cannot be read, so the old one stays: %s: %s"
                 % (type(err).__name__, err))


def warn_of_users(api: Api) -> None:
    """Warn of a server that is likely to let in too many users, or too few."""
    if not os.getuid():
        complain("this server runs as root, and so does every job that it is sent; start it as a "
                 "user")
    if api.mode != "local" and not api.config.users:
        complain('nobody but the admins may make jobs: "users" in the config lets users do so, '
                 '["ada"] or "*" for all')


def run_server(api: Api, server: Any, reload: Callable[[], Config],
               announce: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests in hand; SIGHUP reads the config.

    announce is called when signals are heeded.
    """
    import gc
    import signal
    import threading
    ending = threading.Event()

    def stop(number: int, frame: Any) -> None:
        api.stopping = True
        ending.set()

    def shut_down() -> None:  # in a thread started before: a signal handler should not start one
        ending.wait()
        with api.tracker.changed:
            api.tracker.changed.notify_all()
        server.shutdown()

    if hasattr(gc, "freeze"):     # Python 3.6 has it not
        gc.freeze()     # a collection need not go through all that is imported, each time for 20 ms
    sys.setswitchinterval(0.001)  # a thread with little to do waits less for those with much
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    signal.signal(signal.SIGHUP, lambda *_: read_again(api, reload))
    warn_of_users(api)
    announce()
    threading.Thread(target=shut_down, daemon=True).start()
    Rounds(api).start()
    server.serve_forever(poll_interval=0.2)
    server.server_close()
    submissions_s = [config.submit_timeout_s + 5 for config in api.configs]  # they must not be cut
    api.connections.finish(max([STOP_GRACE_S] + submissions_s))


def serve_pipe(api: Api) -> None:
    """Serve one connection on stdin and stdout: inetd's socket, or the pipes of an ssh session."""
    Rounds(api).start()
    if not stat.S_ISSOCK(os.fstat(0).st_mode):
        wire = PipeWire()  # type: Wire
        wire.peer = Peer("", os.getuid())
    else:
        # inetd connects the client to stderr too.
        api.access_log = api.access_log and not os.path.sameopenfile(0, 2)
        sock = adopted_socket(os.dup(0))
        sock.setblocking(True)
        wire = Wire(sock) if os.path.sameopenfile(0, 1) else PipeWire()
        wire.peer = peer_of(sock)
    api.connections.mark(wire, api.config.trusted_proxy)
    Session(api, wire).answer_all()


# -------------------------------------------------------------------------------- 23. Between hosts

# `psik.py --on HOST COMMAND` reads a command line here, and the command is carried out there.  ssh
# starts a shell there, which starts templates/loader.py with the newest Python that it finds.  The
# loader asks for this file, unless a copy is there under its hash, and imports it.
#
# Down ssh's stdin go the request (JSON), the files that the loader asks for, and a tar of the
# user's files if the command takes some.  Then it stays open; when it ends, the command there ends,
# as by Ctrl-C.  Up ssh's stdout come, each behind a mark, what the loader says, what the command
# prints, and a tar of the job's files if the command gives some.  Before the first mark comes what
# the login shell prints.  stderr is ssh's.

Options = SimpleNamespace
Command = Callable[[Options], Optional[ExitStatus]]


class Progress:
    """The line on the terminal that shows how much has been copied, if it takes a while."""

    def __init__(self) -> None:
        self.lively = NEAR.is_here and NEAR.takes_colour(sys.stderr)
        self.begun, self.shown, self.bytes = time.monotonic(), 0.0, 0

    def add(self, number: int) -> None:
        """So many bytes more."""
        self.bytes += number
        took = time.monotonic() - self.begun
        if self.lively and took > 2 and took - self.shown > 0.5:
            self.shown = took
            write_log("\r\x1b[K%.1f MB, %.1f MB/s" % (self.bytes / 1e6, self.bytes / 1e6 / took))

    def clear(self) -> None:
        """Remove the line."""
        if self.shown:
            write_log("\r\x1b[K")

    def over(self, items: Iterable[T], size: Callable[[T], int]) -> Iterator[T]:
        """The same items, whose sizes are added up as they pass."""
        try:
            for item in items:
                yield item
                self.add(size(item))
        finally:
            self.clear()

    def over_entries(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """The same entries."""
        return self.over(entries, lambda entry: int(entry[0].size))


class FarSide:
    """A command that was read on another host and is carried out here: the far side of it."""

    @staticmethod
    def read_request(data: bytes) -> Json:
        """Take a request as what the near side is from now on; the request."""
        request = json.loads(data)
        NEAR.mark, NEAR.called = request["mark"], request["called"]
        NEAR.terminal, NEAR.texts = request["terminal"], request["texts"]
        for name, value in (("PSIK_PREFIX", request["prefix"]), ("PSIK_CONFIG", request["config"])):
            if value:
                os.environ[name] = os.path.expanduser(value)
        return request

    @staticmethod
    def watch() -> None:
        """End this process, as by Ctrl-C, when the near side closes the connection."""
        import signal
        with suppress(OSError):
            while os.read(0, BLOCK):
                pass
        os.kill(os.getpid(), signal.SIGINT)


class Exchange:
    """Files that go from the user to a job, and back: copied here, or as a tar through ssh."""

    @classmethod
    def put(cls, folder: ConfinedFolder, paths: Sequence[str]) -> None:
        """Copy the user's files and folders to where a job runs."""
        if NEAR.is_here:
            own = os.stat(folder.root)
            entries = Entries.of_paths(paths, lambda other: os.path.samestat(own, other))
            cls.tell(folder.take_in(Progress().over_entries(entries)))
            return
        try:
            blocks = iter(lambda: os.read(0, BLOCK), b"")
            cls.tell(folder.take_in(TarReader(blocks, "what was sent").entries()))
        except InvalidError:
            if not os.read(0, 1):   # the near side has given up, and said why
                raise KeyboardInterrupt from None
            raise
        _thread.start_new_thread(FarSide.watch, ())

    @staticmethod
    def tell(left_out: Sequence[str]) -> None:
        """Say which entries were not copied."""
        for name in left_out[:5]:
            complain(NOT_TAKEN % one_line(name))
        if len(left_out) > 5:
            complain("and %d more of these" % (len(left_out) - 5))

    @classmethod
    def get(cls, job: JobDir, wanted: Wanted, folder: Optional[str]) -> None:
        """Copy files of a job into a folder of the user's: this one, or the one where she stands.

        All of them, if no patterns are given, go into a folder that is named after the job, unless
        one is named.  NotFoundError if there are none.
        """
        import itertools
        if not wanted.rules and os.path.islink(job.at("work")):
            raise InvalidError("job %s runs in %s; say which of the files there you want, '*' for "
                               "all of them" % (job.jobid, job.directory()))
        place = cls.made(folder or ".") if NEAR.is_here else ""
        source = ConfinedFolder(job.directory(), [place] * bool(place))
        below = "" if wanted.rules or folder else job.jobid
        entries = source.entries("", below, wanted, strict=True)
        first = next(entries, None)
        if first is None:
            raise NotFoundError("job %s has no such files" % job.jobid)
        entries = itertools.chain([first], entries)
        if place:
            cls.unpack(Progress().over_entries(entries), place)
            return
        sys.stdout.flush()
        write_whole(1, ("%s files\n" % NEAR.mark).encode())
        write_archive(entries, lambda data: write_whole(1, data), packed=False, strict=True)

    @staticmethod
    def made(folder: str) -> str:
        """The path of a folder of the user's, which is made if it is not there."""
        place = os.path.abspath(folder)
        if os.path.lexists(place) and not os.path.isdir(place):
            raise ConflictError("%s is there, and no directory" % place)
        with naming(place):
            os.makedirs(place, exist_ok=True)
        return place

    @classmethod
    def unpack(cls, entries: Iterable[Entry], place: str) -> None:
        """Write entries into a folder of the user's."""
        try:
            cls.tell(ConfinedFolder(place).take_in(entries))
        except OSError as err:
            raise PsikError("%s: %s" % (err.filename or place, str(err.strerror).lower())) from None


class HostConnection:
    """The ssh to another host, what goes down, and what comes up."""
    PYTHONS = ["python3.%d" % minor for minor in range(19, 6, -1)] + [
        "python3", "python3.6", "/usr/libexec/platform-python"]
    SCRIPT = (  # some of the names are of programs that do not run: pyenv has such
        "for each in {pythons}; do",
        "command -v $each >/dev/null 2>&1 &&",
        '$each -Sc "import sys; sys.exit(sys.version_info < (3, 6))" 2>/dev/null &&',
        'exec $each -ISc "import base64, sys; exec(base64.b64decode(sys.argv[1]))"',
        "{loader} {mark} {hash}; done; echo;",
        "echo {mark} none $(command -v {named} && {named} -V 2>&1)")

    def __init__(self, name: str, host: HostConfig, options: Sequence[str] = ()) -> None:
        """options: of ssh, besides those of the config."""
        self.name, self.host, self.options = name, host, list(options)
        self.mark = "psik-" + os.urandom(8).hex()
        self.buffer = b""
        self.is_up = False  # the command runs there
        self.printed = b""  # the end of what a login has printed before the first mark
        self.patience_s: Optional[float] = None     # for more to come up
        self.ssh: Any = None
        self.progress = Progress()

    def content(self, name: str) -> bytes:
        """The content of psik.py, or of the backport beside it; InvalidError if it is not there.

        The far side may ask for nothing else, and for each once.
        """
        path = os.path.realpath(FILE)
        if name == "dataclasses.py":
            path = os.path.join(os.path.dirname(path), name)
        elif CODE is not None:
            raise InvalidError("--on sends psik.py there, and this one was read from no file: save "
                               "it, and run the file")
        if not os.path.exists(path):
            raise InvalidError("%s has no newer Python than 3.6: put the backport dataclasses.py "
                               "(PyPI, `dataclasses` 0.8) beside %s" % (self.name, FILE))
        with open(path, "rb") as file:
            return file.read()

    def line(self) -> str:
        """The command that ssh passes to the login shell, whichever that is (sh, csh, fish, rc).

        There is no quote, backslash, `!` or newline in it but for the quotes around all.
        """
        import base64
        import hashlib
        loader = base64.b64encode(TEMPLATES["loader.py"].encode()).decode()
        key = hashlib.sha256(self.content("psik.py")).hexdigest()[:16]
        return "exec /bin/sh -c '%s'" % " ".join(self.SCRIPT).format(
            pythons=" ".join([self.host.python] if self.host.python else self.PYTHONS),
            loader=loader, mark=self.mark, hash=key, named=self.host.python or "python3")

    def __enter__(self) -> "HostConnection":
        import signal
        import subprocess
        argv = ["ssh", "-T"] + self.options + (self.host.ssh or [self.name]) + [self.line()]
        logging = sys.modules.get("logging")
        if logging:
            logging.getLogger("psik").info("%s", " ".join(argv[:-1]))
        # Ctrl-C is for us: the far side is told by the end of its stdin, and says its last words.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self.ssh = start_program(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except FileNotFoundError:
            raise NotFoundError("there is no program ssh here, which --on wants") from None
        finally:
            signal.signal(signal.SIGINT, before)
        return self

    def __exit__(self, *error: object) -> None:
        """End what still runs there; ssh gets some seconds to say how that went."""
        import subprocess
        for pipe in (self.ssh.stdin, self.ssh.stdout):
            with suppress(OSError):
                pipe.close()
        for end in (self.ssh.terminate, self.ssh.kill):
            with suppress(subprocess.TimeoutExpired):
                self.ssh.wait(3)
                break
            end()

    def send(self, data: bytes) -> None:
        """Send bytes down; whoever does not want them says so on stderr, and ends."""
        write_whole(self.ssh.stdin.fileno(), data)
        self.progress.add(len(data))

    def send_sized(self, data: bytes) -> None:
        """Send bytes with their number before them, unless ssh has ended: its stdout tells why."""
        with suppress(BrokenPipeError):
            self.send(b"%d\n" % len(data) + data)

    def receive(self) -> bool:
        """Wait for more to come up; False at the end."""
        if self.patience_s is not None:
            import select
            if not select.select([self.ssh.stdout], [], [], self.patience_s)[0]:
                return False
        block = os.read(self.ssh.stdout.fileno(), BLOCK)
        self.buffer += block
        return bool(block)

    def held_back(self) -> int:
        """How many of the last bytes could be the beginning of a mark."""
        mark = self.mark.encode()
        sizes = range(min(len(mark), len(self.buffer)), 0, -1)
        return next((size for size in sizes if self.buffer.endswith(mark[:size])), 0)

    def blocks(self) -> Iterator[bytes]:
        """What comes up before the next mark, or before the end."""
        mark = self.mark.encode()
        while mark not in self.buffer:
            size = len(self.buffer) - self.held_back()
            if size:
                block, self.buffer = self.buffer[:size], self.buffer[size:]
                yield block
            if not self.receive():
                mark = b""
        place = self.buffer.index(mark) if mark else len(self.buffer)
        block, self.buffer = self.buffer[:place], self.buffer[place:]
        yield block

    def word(self) -> List[str]:
        """The words behind the mark that comes next; none if there is no mark."""
        while b"\n" not in self.buffer and len(self.buffer) < MAX_WORDS and self.receive():
            pass
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.decode("utf-8", "replace").split(" ")[1:]

    def next_word(self) -> List[str]:
        """The same, with what is printed before it shown."""
        for block in self.blocks():
            write_whole(1, block)
        return self.word()

    def no_python(self, found: str) -> str:
        """That no Python could be started there; found: one that is too old, '' for none."""
        if self.host.python:
            return "%s: %s is no Python from 3.6 on that runs there%s" % (
                self.name, self.host.python, ": " + found if found else "")
        return "%s has no Python from 3.6 on%s; name one as `python` of the host, in `hosts` of " \
            "the config" % (self.name, ", but " + found if found else "")

    def begin(self, request: Json) -> bool:
        """Send a request, and psik.py if it is wanted there; False if ssh ends before it runs.

        BackendError if it cannot run there.
        """
        self.send_sized(json.dumps(request).encode())
        wanted = {"psik.py", "dataclasses.py"}
        while True:
            for block in self.blocks():
                self.printed = (self.printed + block)[-1000:]
            word, *rest = self.word() or [""]
            if word != "want" or not wanted.issuperset(rest):
                break
            wanted -= set(rest)
            for name in rest:
                self.send_sized(self.content(name))
        if word == "none":
            raise BackendError(self.no_python(" ".join(rest)))
        if word == "full":
            raise BackendError("%s: psik.py can be kept nowhere: %s" % (
                self.name, one_line(" ".join(rest))))
        # From here on a job may print what it likes, and may know the mark, which `ps` shows.
        self.mark, self.is_up = request["mark"], word == "go"
        self.progress = Progress()
        return self.is_up


class HostCall:
    """A command that was read here and is carried out on another host: the near side of it."""
    HERE = ("install", "serve")     # not for another host

    def __init__(self, name: str, verb: str, opts: Options) -> None:
        """name: of the host; verb: of the command, '' for none."""
        if not re.fullmatch("[^-\\s][^\\s]*", name):
            raise InvalidError("--on: %s is not the name of a host" % shown(name))
        self.name, self.verb, self.opts = name, verb, opts
        self.mark = "psik-" + os.urandom(16).hex()
        self.files_come = False     # what comes up now is no text

    def request(self) -> Json:
        """All that the far side has to know."""
        given = {name: value for name, value in vars(self.opts).items()
                 if name not in ("func", "config", "command")}
        return {"command": self.verb, "options": given, "terminal": NEAR.facts(),
                "texts": NEAR.texts, "called": "%s --on %s" % (called(), self.name),
                "mark": self.mark, "takes_files": self.inputs is not None,
                "prefix": self.host.prefix, "config": self.host.config}

    @property
    def wanted(self) -> Optional[Wanted]:
        """Which files may come; None if none."""
        if self.verb == "get":
            return Wanted(self.opts.pattern)
        patterns = getattr(self.opts, "get", [])
        return Wanted(patterns, self.opts.input_names) if patterns else None

    def asked_for(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Those entries; ForbiddenError if there is another, by which a host could do harm."""
        wanted, out = self.wanted, getattr(self.opts, "out", None)
        for info, content in entries:
            parts = [part for part in info.name.split("/") if part not in ("", ".")]
            if wanted and (wanted.rules or out):
                is_fine = wanted.has("/".join(parts))
            else:
                is_fine = bool(wanted and parts and JOBID.fullmatch(parts[0]))
            if not is_fine:
                raise ForbiddenError("%s sends %s, which was not asked for" % (
                    self.name, shown(info.name)))
            yield info, content

    def options(self) -> List[str]:
        """What ssh is told besides."""
        return []

    def run(self) -> ExitStatus:
        """Carry it out there; its exit status."""
        opts = self.opts
        self.host = load_config(opts.config).hosts.get(self.name) or HostConfig()
        paths = opts.path if self.verb == "put" else getattr(opts, "inputs", None)
        self.inputs = Entries.of_paths(paths) if paths else None
        opts.input_names = Entries.tops_of(paths or [])
        if self.wanted:
            self.place = Exchange.made(getattr(opts, "out", None) or ".")
        with HostConnection(self.name, self.host, self.options()) as there:
            try:
                return self.converse(there)
            except KeyboardInterrupt:
                return self.interrupted(there)

    def converse(self, there: HostConnection) -> ExitStatus:
        """Say what is wanted, send files, show what is printed, and take files."""
        is_begun, fault = there.begin(self.request()), None
        if is_begun and self.inputs is not None:
            with suppress(BrokenPipeError):
                write_archive(self.inputs, there.send, packed=False, strict=True)
            there.progress.clear()
        if is_begun and there.next_word() == ["files"] and self.wanted:
            self.files_come = True
            try:
                blocks = there.progress.over(there.blocks(), len)
                archive = TarReader(blocks, "what came from " + self.name)
                Exchange.unpack(self.asked_for(archive.entries()), self.place)
            except InvalidError as err:     # the far side may have said why
                fault = err
        status = self.status(there)
        if fault and not status:
            raise fault
        return status

    def status(self, there: HostConnection) -> ExitStatus:
        """The exit status, when all is over; 255 is ssh's own, which is said."""
        while there.receive():  # to its end, before the command there is told to end
            there.buffer = b""
        there.ssh.stdin.close()
        status = int(there.ssh.wait())
        if status < 0:
            complain("ssh was ended by signal %d" % -status)
            return 255
        if not there.is_up:
            for line in filter(None, there.printed.decode("utf-8", "replace").split("\n")[-4:]):
                complain("%s: %s" % (self.name, one_line(line)))
            complain("ssh to %s failed, with exit status %d" % (self.name, status))
            return status or 255
        if status == 255:
            complain("the connection to %s broke, or the command there ended with 255" % self.name)
        return status

    def interrupted(self, there: HostConnection) -> ExitStatus:
        """End the command there, and show its last words, if they come soon."""
        with suppress(OSError):
            there.ssh.stdin.close()
        if not there.is_up:
            there.ssh.terminate()
        there.patience_s = 3
        with suppress(OSError, KeyboardInterrupt):
            for block in there.blocks() if there.is_up and not self.files_come else ():
                write_whole(1, block)
        return 130


# --------------------------------------------------------------------------------- 24. Command line

class Argument(NamedTuple):
    """One add_argument call."""
    names: Tuple[str, ...]
    options: Dict[str, Any]


def arg(*names: str, **options: Any) -> Argument:
    """An argument of a command, as argparse wants it."""
    return Argument(names, options)


COMMANDS: List[Tuple[str, Command, Tuple[Argument, ...], str]] = []  # name, what to call, example
GROUPS = (  # as `psik.py --help` lists them
    ("jobs", ("run", "apps", "start", "ls", "status", "why", "logs", "path", "put", "get", "wait",
              "hold", "release", "kill", "cancel", "rm")),
    ("schedulers and callbacks", ("poll", "deliver", "reached")),
    ("the REST API", ("open", "serve", "token", "share")),
    ("setup", ("doctor", "backends", "config", "install", "help")),
)
WHICH_JOB = "a job's id, or its beginning, or its name, or `last`"
JOBIDS = arg("jobid", nargs="+", metavar="JOBID",
             help=WHICH_JOB + "; 'sweep*' for all of such names")
ONE_JOBID = arg("jobid", metavar="JOBID", help=WHICH_JOB)
AS_JSON = arg("--json", action="store_true", help="print JSON")
TIMEOUT = arg("--timeout", type=float, metavar="S",
              help="wait no longer than so many seconds; exit 124 then")
BACKEND = arg("--backend", metavar="NAME", help="a backend of the config")


def command(example: str, *arguments: Argument) -> Callable[[Command], Command]:
    """Make the function cmd_NAME the subcommand NAME, whose help is the function's docstring."""
    def enter(function: Command) -> Command:
        COMMANDS.append((function.__name__[len("cmd_"):], function, arguments, example))
        return function
    return enter


def printable(text: str) -> str:
    """A text of which the characters that stdout cannot encode are escapes."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def say(text: str) -> None:
    """Print one line of results; characters that stdout cannot encode become escapes."""
    with naming("standard output"):
        sys.stdout.write(printable(text) + "\n")


SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
COLOURS = {"completed": "32", "failed": "31", "canceled": "33", "active": "36", "queued": "34"}


def painted(text: str, state: str) -> str:
    """A text in the colour of a state if stdout is a terminal."""
    colour = COLOURS.get(state)
    if not colour or not NEAR.takes_colour(sys.stdout):
        return text
    return "\x1b[%sm%s\x1b[0m" % (colour, text)


class Column(NamedTuple):
    """A column of a table."""
    head: str
    least: int = 0      # a terminal that is too narrow may cut it to this width; 0: never
    rank: int = 0       # and leave it out, the highest rank first; 0: never


class Table:
    """Columns as wide as their widest cell; on a terminal not wider than that."""

    def __init__(self, columns: Sequence[Column], rows: Sequence[Sequence[str]],
                 states: Sequence[str] = ()) -> None:
        """states: of each row, for the colour of the cell that holds it."""
        self.columns, self.states = columns, states
        self.rows = [list(map(printable, cells)) for cells in rows]

    @staticmethod
    def width_of(text: str) -> int:
        """The width of a text on a terminal: some characters take two places, and some none."""
        import unicodedata
        if len(text) == len(text.encode("utf-8", "replace")):
            return len(text)
        return sum(0 if unicodedata.combining(character)
                   else 1 + (unicodedata.east_asian_width(character) in "WF") for character in text)

    @classmethod
    def fit(cls, text: str, width: int) -> str:
        """A text of this width: filled with blanks, or cut, with a … at its end."""
        text = text[:4 * width]     # what is beyond does not fit, and each round counts all of it
        if cls.width_of(text) > width:
            while cls.width_of(text) >= width:
                text = text[:-1]
            text += "…" if printable("…") == "…" else "~"
        return text + " " * (width - cls.width_of(text))

    def heads(self) -> List[str]:
        """The names of the columns."""
        return [column.head for column in self.columns]

    def widths(self) -> List[int]:
        """The widths of the columns, as wide as their widest cells are."""
        return [max(map(self.width_of, cells)) for cells in zip(self.heads(), *self.rows)]

    def layout(self, limit: int) -> Tuple[List[int], List[int]]:
        """(the places of the columns that are shown, their widths), not wider than this if it may.

        What can be left out goes first until the others fit, cut to their least widths if need be.
        """
        chosen = list(range(len(self.columns)))
        widths = self.widths()
        while True:
            over = sum(widths) + 2 * (len(chosen) - 1) - limit
            spare = [max(0, width - (self.columns[place].least or width))
                     for place, width in zip(chosen, widths)]
            ranks = [self.columns[place].rank for place in chosen]
            if over <= sum(spare) or not any(ranks):
                break
            gone = ranks.index(max(ranks))
            del chosen[gone], widths[gone]
        for _ in range(min(over, sum(spare))):
            widest = max((place for place, more in enumerate(spare) if more),
                         key=widths.__getitem__)
            widths[widest] -= 1
            spare[widest] -= 1
        return chosen, widths

    def show(self) -> None:
        """Print it."""
        limit = NEAR.size()[0] if NEAR.is_terminal(sys.stdout) else sys.maxsize
        chosen, widths = self.layout(limit)
        for number, cells in enumerate([self.heads(), *self.rows]):
            texts = [self.fit(cells[place], width) for place, width in zip(chosen, widths)]
            if number and self.states:
                state = self.states[number - 1]
                texts = [painted(text, state) if text.rstrip() == state else text for text in texts]
            say("  ".join(texts).rstrip())


# What several commands share.

def config_of(opts: Options, serving: bool = False, makes: bool = False) -> Config:
    """The config in force.

    makes: jobs are to be made; without a config the first time makes the data home, and says where.
    """
    config = load_config(opts.config, serving)
    place = Config.place(opts.config, serving)[1]
    if makes and not os.path.exists(place) and not os.path.exists(data_home()):
        make_folder(data_home())
        complain("no config, so jobs run locally and are kept in %s" % data_home())
    return config


def spec_text(source: str) -> str:
    """The text of a SPEC on the command line: of a file, or of stdin."""
    if not source:
        raise InvalidError("SPEC is empty; name a JSON file, a script, or - for stdin")
    return NEAR.read(source)


class Waiting:
    """The line on the terminal that shows what is waited for."""

    def __init__(self, lively: bool) -> None:
        self.lively, self.begun = lively, time.monotonic()

    def show(self, summaries: List[Summary]) -> None:
        """Rewrite the line."""
        if self.lively:
            what = summaries[0].jobid if len(summaries) == 1 else "%d jobs" % len(summaries)
            states = "/".join(sorted({summary.state for summary in summaries}))
            if summaries[0].tasks and len(summaries) == 1:
                states += ", " + TaskState.progress(summaries[0].tasks)
            write_log("\r\x1b[K%s %s, %d s" % (what, states, time.monotonic() - self.begun))

    def count(self, number: int) -> None:
        """Show how many jobs are done, if it has taken a while."""
        if self.lively and time.monotonic() - self.begun > 2:
            write_log("\r\x1b[K%d jobs, %d s" % (number, time.monotonic() - self.begun))

    def clear(self) -> None:
        """Remove the line."""
        if self.lively:
            write_log("\r\x1b[K")


def say_ends(jobs: Sequence[JobDir], summaries: Sequence[Summary]) -> None:
    """Print which jobs failed or were canceled, why, and the way out where it is known."""
    for job, summary in zip(jobs, summaries):
        if summary.state in (JobState.failed, JobState.canceled):
            why = ": " + one_line(summary.reason) if summary.reason else ""
            status = " with exit status %s" % summary.info if summary.state == "failed" else ""
            complain("job %s %s%s" % (summary.jobid, summary.state, why or status))
        if summary.state == JobState.failed:
            found = Explanation.of_job(job, job.rows(), {}, summary)
            if found.is_sure:
                complain("%s: %s" % (found.cause, found.way_out))


def wait_for(config: Config, jobs: Sequence[JobDir], timeout_s: Optional[float],
             look: Optional[Callable[[List[Summary]], None]] = None) -> ExitStatus:
    """Wait for jobs, with a line on the terminal unless look is given; the worst exit status."""
    line = Waiting(NEAR.takes_colour(sys.stderr) and not look)
    try:
        summaries = wait(config, jobs, timeout_s, look or line.show)
    except KeyboardInterrupt:
        ids = " ".join(job.jobid for job in jobs)
        sys.stderr.write("\n")
        complain("no longer waiting; %s goes on. To cancel: %s cancel %s" % (ids, called(), ids))
        return 130
    finally:
        line.clear()
    say_ends(jobs, summaries)
    going_on = [job.jobid for job in jobs if not is_over(job, job.rows())]
    if going_on:
        complain("still not ended after %g s: %s" % (timeout_s or 0, " ".join(going_on)))
        return 124
    return max(map(exit_status, summaries))


class LogReader:
    """Copies the logs of a step to stdout, and what it wrote to stderr there if both are wanted."""

    def __init__(self, job: JobDir, jobndx: int, kinds: Sequence[str],
                 lines: Optional[int] = None) -> None:
        """kinds: stdout, stderr; lines: begin with so many last lines of each."""
        self.job, self.jobndx, self.kinds, self.lines = job, jobndx, kinds, lines
        self.files: Dict[str, IO[bytes]] = {}

    def __enter__(self) -> "LogReader":
        return self

    def __exit__(self, *error: object) -> None:
        for file in self.files.values():
            file.close()

    @staticmethod
    def pour(file: IO[bytes], out: IO[bytes]) -> None:
        """Copy a file from where it stands to its end."""
        for block in iter(lambda: file.read(65536), b""):
            out.write(block)
        out.flush()

    def open(self, kind: str) -> None:
        """Open a log if it is there, and not open yet, also by its other name."""
        path = self.job.log(kind, self.jobndx)
        if kind in self.files or not os.path.exists(path):
            return
        if any(os.path.samestat(os.fstat(file.fileno()), os.stat(path))
               for file in self.files.values()):
            return
        self.files[kind] = open(path, "rb")
        skip_to_tail(self.files[kind], self.lines)

    def copy(self) -> None:
        """Copy what has been written since the last time."""
        for kind in self.kinds:
            self.open(kind)
            if kind in self.files:
                out = sys.stderr if kind == "stderr" and len(self.kinds) > 1 else sys.stdout
                self.pour(self.files[kind], out.buffer)

    def follow(self, config: Config, timeout_s: Optional[float] = None) -> ExitStatus:
        """Copy them as they grow, until the job ends; its exit status."""
        return wait_for(config, [self.job], timeout_s, lambda summaries: self.copy())


def read_span(text: str, option: str) -> int:
    """The seconds of a time like 90s, 10m, 12h or 1d, given for an option."""
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if not match or not int(match.group(1)):
        raise InvalidError("%s wants a time like 90s, 10m, 12h or 1d, and not %r" % (option, text))
    return int(match.group(1)) * SECONDS[match.group(2)]


def fault_of_system(err: OSError) -> str:
    """A failure of the system in a line: the file, what went wrong, and often the way out."""
    elsewhere = "name another folder as `prefix` in the config, or set XDG_DATA_HOME"
    name = str(err.filename or "")      # of some calls it is a descriptor
    ways_out = {errno.ENOSPC: "; free some space, or " + elsewhere, errno.EROFS: "; " + elsewhere,
                errno.EDQUOT: "; remove what you need no more, or " + elsewhere}
    if name.startswith(data_home()) and err.errno in (errno.EACCES, errno.EPERM):
        ways_out[err.errno] = "; " + elsewhere
    return "%s: %s%s" % (name or "system", (err.strerror or str(err)).lower(),
                         ways_out.get(err.errno or 0, ""))


class JobTable:
    """Jobs as `ls` shows them to people: ages on a terminal, and dates in a pipe."""
    COLUMNS = (Column("JOBID"), Column("NAME", least=14), Column("BACKEND", rank=6),
               Column("STATE"), Column("STEP", rank=7), Column("INFO", rank=5),
               Column("ELAPSED", rank=3), Column("UPDATED", rank=4),
               Column("REASON", least=16, rank=1))

    def __init__(self, summaries: Sequence[Summary]) -> None:
        self.summaries, self.now = summaries, time.time()
        self.lively = NEAR.is_terminal(sys.stdout)

    @staticmethod
    def span(seconds: float) -> str:
        """A span of time like 0:42, 1:02:03 or 2-03:04:05."""
        minutes, rest = divmod(int(seconds), 60)
        if minutes < 60:
            return "%d:%02d" % (minutes, rest)
        days, hours = divmod(minutes // 60, 24)
        return "%s%02d:%02d:%02d" % ("%d-" % days if days else "", hours, minutes % 60, rest)

    def moment(self, stamp: float) -> str:
        """When something was: on a terminal 42s ago, 5h ago or, after a month, the day."""
        age = max(0, int(self.now - stamp))
        if not self.lively:
            return clock(stamp)
        for unit, seconds in (("s", 60), ("m", 3600), ("h", 86400), ("d", 30 * 86400)):
            if age < seconds:
                return "%d%s ago" % (age // SECONDS[unit], unit)
        return clock(stamp).split()[0]

    def row(self, each: Summary) -> List[str]:
        """The cells of a job."""
        return [each.jobid, one_line(each.name), each.backend, each.state, str(each.jobndx),
                one_line(str(each.info)), "" if each.elapsed is None else self.span(each.elapsed),
                self.moment(each.updated), one_line(each.reason)]

    def show(self) -> None:
        """Print it."""
        Table(self.COLUMNS, list(map(self.row, self.summaries)),
              [each.state for each in self.summaries]).show()


def print_jobs(summaries: Sequence[Summary], as_json: bool) -> None:
    """Print a listing, for people or for programs."""
    if as_json:
        say(json.dumps([summary._asdict() for summary in summaries], indent=2))
    elif summaries:
        JobTable(summaries).show()
    else:
        complain("no jobs")


class Selection:
    """The jobs that a command is to act on: those that it names, of which filters leave some.

    Where none are named, the filters choose among all jobs.  states: the ones in which a job is
    chosen so, unless --state says others; none: filters do not choose.
    """
    FILTERS = (
        arg("--state", metavar="STATE,...", help="only jobs in these states: " + " ".join(STATES)),
        arg("--name", metavar="NAME", help="only of this name, or of names like 'sweep*'"),
        arg("--since", metavar="TIME", help="only those made within 90s, 10m, 12h or 2d"),
        arg("--older", metavar="TIME", help="only those made longer ago than that"),
        arg("--backend", metavar="NAME", help="only those of this backend"),
        arg("--app", metavar="NAME", help="only those of this application"))
    # Of a command that changes jobs.
    OPTIONS = (arg("jobid", nargs="*", metavar="JOBID",
                   help=WHICH_JOB + "; 'sweep*' for all of such names"),) + FILTERS + (
        arg("--keep", type=int, metavar="N", help="leave the newest N of those out"),
        arg("-n", "--dry-run", action="store_true", help="only show which jobs that are"),
        arg("--yes", action="store_true", help="even if one is named by fewer than three figures"))

    def __init__(self, opts: Options, states: Sequence[str] = ()) -> None:
        self.opts, self.config, self.worst, self.failures = opts, config_of(opts), 0, 0
        self.changes = self.option("yes") is not None
        self.named: List[str] = self.option("jobid") or []
        self.is_filtered = any(self.option(name) is not None for name in (
            "state", "name", "since", "older", "backend", "app", "keep"))
        self.filter = self.read_filter(() if self.named else states)

    def option(self, name: str) -> Any:
        """The value of an option; None if the command has none of this name."""
        return getattr(self.opts, name, None)

    def read_filter(self, states: Sequence[str]) -> JobFilter:
        """The filter that the options describe; InvalidError."""
        state, backend = self.option("state"), self.option("backend")
        if backend and backend not in self.config.by_name:
            # Raises, and names those that are known.
            self.config.choose_backend(JobSpec(script=":"), backend)
        if (self.option("keep") or 0) < 0:
            raise InvalidError("--keep wants a number of jobs, 0 or more")
        states = states if state is None else state.split(",")
        for state in states:
            if state not in STATES:
                raise InvalidError("--state: " + no_state(state))
        ages = {name: time.time() - read_span(self.option(name), "--" + name)
                for name in ("since", "older") if self.option(name) is not None}
        return JobFilter(backend, states, self.option("name"), ages.get("since", 0.0),
                         ages.get("older", float("inf")), app=self.option("app"))

    def attempt(self, action: Callable[[Any], Any], what: Union[str, JobDir]) -> Any:
        """What an action returns; None if it fails, which is printed, and counts in the status."""
        self.failures += 1
        try:
            result = action(what)
            self.failures -= 1
            return result
        except PsikError as err:
            complain(str(err))
            self.worst = max(self.worst, err.exit_status)
        except BrokenPipeError:
            raise
        except OSError as err:
            complain("%s: %s" % (getattr(what, "jobid", what), fault_of_system(err)))
            self.worst = max(self.worst, 1)
        return None

    def jobs_of(self, text: str) -> List[JobDir]:
        """The jobs that a word of the command line names."""
        jobs = find_jobs(self.config, text)
        if self.changes:
            self.check_word(text, jobs[0])
        return jobs

    def check_word(self, text: str, newest: JobDir) -> None:
        """InvalidError if a word is too little to change jobs by; says if it names the newest."""
        is_sure = self.opts.yes or self.opts.dry_run or self.is_filtered
        if re.fullmatch("[0-9]{1,2}", text) and newest.jobid.startswith(text) and not is_sure:
            raise InvalidError("%s is little to name job %s by; give three figures of it, or --yes"
                               % (text, newest.jobid))
        if not text.strip("*?") and not is_sure:
            raise InvalidError("%s is every job; give --yes, or say which, by --state say" % text)
        if newest.name == text and len(JobTree(self.config).named(text, 2)) > 1:
            complain("%s is the newest of several jobs named %s; --name takes all of them" % (
                newest.jobid, one_line(text)))

    def all_named(self) -> Iterator[JobDir]:
        """The jobs that are named, one after another; whatever names none is printed."""
        seen: Set[str] = set()
        for text in self.named:
            for job in self.attempt(self.jobs_of, text) or []:
                if job.path not in seen:
                    yield job
                seen.add(job.path)

    def found(self, limit: Optional[int] = None) -> List[Tuple[JobDir, Summary]]:
        """The jobs that the filters leave, newest first; at most so many."""
        among = None
        if self.named:
            among = sorted(self.all_named(), key=lambda job: float(job.jobid), reverse=True)
        return self.filter.find(self.config, limit, among=among)[self.option("keep") or 0:]

    def each(self, action: Callable[[JobDir], Any]) -> ExitStatus:
        """Apply an action to each job, or show which they are; the worst exit status."""
        if not self.named and not self.is_filtered:
            raise InvalidError("name the jobs, or say which: --state failed, --name 'sweep*', "
                               "--since 1h, --older 30d")
        if self.option("dry_run"):
            return self.preview()
        jobs = (job for job, _ in self.found()) if self.is_filtered else self.all_named()
        number, failed, line = 0, 0, Waiting(NEAR.takes_colour(sys.stderr) and self.changes)
        for number, job in enumerate(jobs, 1):
            before = self.failures
            self.attempt(action, job)
            failed += self.failures - before
            line.count(number)
        line.clear()
        if self.is_filtered or number > len(self.named):
            self.tell(number - failed, number)
        return self.worst

    def preview(self) -> ExitStatus:
        """Show which jobs they are; the worst exit status."""
        print_jobs([summary for _, summary in self.found()], as_json=False)
        return self.worst

    def tell(self, done: int, number: int) -> None:
        """Say how many of so many jobs were changed."""
        if self.changes:
            complain("%d of %d jobs" % (done, number) if number
                     else "no job is in such a state, of such a name and age")


# Jobs.

class NewJob:
    """The job that `run` is asked for: a SPEC, a command behind `--`, or a line of shell."""

    # {option: the field that it sets}
    FIELDS = {"name": "name", "dir": "directory", "callback": "callback", "array": "array",
              "N": "resources.node_count", "n": "resources.process_count",
              "g": "resources.gpu_cores_per_process", "mem": "resources.memory_per_process",
              "queue": "backend.queue_name", "project": "backend.project_name"}

    def __init__(self, opts: Options) -> None:
        self.opts, self.is_command = opts, opts.spec is None
        waits = opts.wait or opts.follow
        for wrong, message in self.faults_of_source() + (
                ((opts.no_submit or opts.dry_run) and waits,
                 "--no-submit and --dry-run leave nothing to wait for; give one or the other"),
                (opts.timeout is not None and not waits,
                 "--timeout goes with --wait or --follow; -t is the walltime"),
                (opts.here and opts.dir is not None, "--here and --dir exclude each other"),
                (opts.here and opts.inputs, "--here and --in exclude each other: the job would run "
                 "where the files are"),
                (opts.get and not waits, "--get goes with --wait or --follow")):
            if wrong:
                raise InvalidError(message)

    def faults_of_source(self) -> Tuple[Tuple[bool, str], ...]:
        """What may be wrong with how it is given: pairs of whether it is, and the message."""
        given = [self.opts.spec is not None, self.opts.c is not None, bool(self.opts.words)]
        return (given.count(True) != 1, "name one of SPEC, -c 'LINE', -- COMMAND ARGUMENT... and "
                "--app NAME INPUT=VALUE..."),

    @property
    def runs_here(self) -> bool:
        """Whether it runs in the current directory, as a command does that takes no files along."""
        opts = self.opts
        is_plain = self.is_command and opts.dir is None and not opts.inputs and NEAR.is_here
        return opts.here or is_plain

    @staticmethod
    def walltime(text: str) -> str:
        """The minutes of 30, 90m, 2h, 1d or 1:30:00."""
        match = re.fullmatch("([0-9]{1,9})([smhd])", text)
        try:
            if match:
                seconds = int(match.group(1)) * SECONDS[match.group(2)]
                return str(-(-seconds // 60))
            return str(minutes(text, "slurm"))
        except ValueError:
            raise InvalidError("-t: %s is not a walltime like 30 (minutes), 2h, 1d or 1:30:00"
                               % shown(text)) from None

    def changes(self) -> List[str]:
        """What the options set, as texts for load_spec()."""
        opts, changes = self.opts, ["environment." + pair for pair in self.opts.env]
        for pair in opts.env:
            if pair.find("=") < 1:
                raise InvalidError("--env: %s is not NAME=VALUE" % shown(pair))
        for name, path in self.FIELDS.items():
            value = getattr(opts, name)
            changes += ["%s=%s" % (path, value)] if value is not None else []
        changes += ["join_output=true"] * opts.join
        if opts.t is not None:
            changes.append("resources.duration=" + self.walltime(opts.t))
        changes += ["directory=" + os.getcwd()] * self.runs_here
        return changes + list(opts.set)

    def text(self) -> Tuple[str, str]:
        """(what load_spec() reads, its source)."""
        opts = self.opts
        if not self.is_command:
            return spec_text(opts.spec), opts.spec
        line = opts.c if opts.c is not None else "exec " + " ".join(map(SH.quote_word, opts.words))
        if "\0" in line or not line.strip():
            raise InvalidError("the command is empty")
        name = (opts.words or opts.c.split())[0].rpartition("/")[2]
        return "#!/bin/sh\n%s\n" % line, name

    def spec(self, kind: str) -> JobSpec:
        """The spec, for a backend of this kind; InvalidError."""
        return self.loaded(*self.text(), kind)

    def loaded(self, text: str, source: str, kind: str) -> JobSpec:
        """The spec of a text, with what the options set."""
        spec = load_spec(text, source, self.changes(), kind)
        return replace(spec, after=spec.after + self.opts.after, setup=spec.setup + self.opts.setup)

    def read_files(self) -> None:
        """Read the files that it names, for the far side."""
        if self.opts.here:
            raise InvalidError("--here is this host; --dir names a directory there")
        text, source = self.text()
        data = {} if script_in(text, source) else parse_json(text, source)
        for change in self.changes():
            set_path(data, change)
        if isinstance(data, dict):
            TaskFile.put_into(data)

    def make(self, config: Config) -> Optional[JobDir]:
        """Make the job; with --dry-run show its scripts instead."""
        opts = self.opts
        spec = self.spec(config.choose_backend(JobSpec(script=":"), opts.backend).kind)
        self.warn(config.choose_backend(spec, opts.backend), spec)
        if opts.dry_run:
            self.show(config, spec, opts.backend)
            return None
        job = create(config, spec, opts.backend)
        if opts.inputs:
            self.send_inputs(job)
        return job

    @staticmethod
    def warn(backend: Backend, spec: JobSpec) -> None:
        """Tell which fields of the spec have no effect on a backend."""
        for name in unused_fields(backend, spec):
            complain("%s says nothing to backend %s" % (name, backend.name))

    @staticmethod
    def show(config: Config, spec: JobSpec, backend: Optional[str]) -> None:
        """Print the scripts that it would have."""
        for name, text in dry_scripts(config, spec, backend).items():
            say("==> scripts/%s <==\n%s" % (name, text))

    def send_inputs(self, job: JobDir) -> None:
        """Copy its inputs to where it runs; if that fails, there is no job."""
        try:
            Exchange.put(ConfinedFolder(job.directory()), self.opts.inputs)
        except BaseException:
            delete_tree(job.path)
            raise

    def await_end(self, config: Config, job: JobDir) -> ExitStatus:
        """Wait for its end, show its output if that is asked for, and hand over its results."""
        opts = self.opts
        if opts.follow:
            if job.spec().tasks:
                complain("this shows the first task; `%s logs --task N last` shows another"
                         % called())
            with LogReader(job, 1, ("stdout", "stderr")) as reader:
                status = reader.follow(config, opts.timeout)
        else:
            status = wait_for(config, [job], opts.timeout)
        if opts.get and is_over(job, job.rows()):
            try:
                names = opts.input_names if not NEAR.is_here else Entries.tops_of(opts.inputs)
                Exchange.get(job, Wanted(opts.get, names), ".")
            except NotFoundError as err:    # often the job has failed before it made them
                complain(str(err))
                return status or err.exit_status
        return status


class NewUse(NewJob):
    """The job of an application that `run --app` is asked for."""

    def __init__(self, opts: Options) -> None:
        super().__init__(opts)
        self.is_command = False

    def faults_of_source(self) -> Tuple[Tuple[bool, str], ...]:
        """As for every job; it is given by the application and its inputs."""
        opts = self.opts
        return ((opts.c is not None, "--app and -c exclude each other"),
                (opts.here or opts.dir is not None,
                 "--app runs in the job's own folder; --in copies files there"))

    def given(self) -> List[Tuple[str, str, Optional[bytes]]]:
        """(name, value, the content of a file in place of the value) of each input."""
        found = []
        for word in ([] if self.opts.spec is None else [self.opts.spec]) + self.opts.words:
            name, equals, value = word.partition("=")
            if not equals or not name:
                raise InvalidError("%s is not INPUT=VALUE; `%s apps %s` lists the inputs" % (
                    shown(word), called(), self.opts.app))
            if value == "@":
                raise InvalidError("%s=@FILE wants a file; @@ is a text that begins with @" % name)
            is_file = value.startswith("@") and not value.startswith("@@")
            content = NEAR.read_bytes(value[1:]) if is_file else None
            found.append((name, value[value.startswith("@@"):], content))
        return found

    def changes(self) -> List[str]:
        """What the options set besides the inputs; InvalidError if they set inputs, or the script.
        """
        changes = super().changes()
        for change in changes:
            name = change.partition("=")[0]
            if name.partition(".")[0] in ("inputs", "script", "application", "environment"):
                raise InvalidError("--set and --env do not change an application's %s; an input is "
                                   "given as INPUT=VALUE" % name)
        return changes

    def read_files(self) -> None:
        """Read the files that it names, for the far side."""
        self.given()

    def take_inputs(self, app: Application, folder: ConfinedFolder) -> Dict[str, Json]:
        """The application's inputs, with the files that belong to them in a folder."""
        inputs = Inputs(app, folder)
        with self.saying_where():
            for name, value, content in self.given():
                if content is None:
                    inputs.add_text(name, value)
                elif inputs.is_file(name):
                    inputs.add_file(name, [content])
                else:
                    inputs.add_text(name, content.decode("utf-8", "surrogateescape"))
            return inputs.settle()

    @contextmanager
    def saying_where(self) -> Iterator[None]:
        """Let a fault say which application it is about."""
        try:
            yield
        except InvalidError as err:
            raise InvalidError(err.faults, "--app " + self.opts.app) from None

    def spec_with(self, app: Application, values: Dict[str, Json], kind: str) -> JobSpec:
        """The spec of a job with these inputs, and what the other options set."""
        return self.loaded(json.dumps(app.spec(values)), "--app %s.json" % app.name, kind)

    def make(self, config: Config) -> Optional[JobDir]:
        """Make the job; with --dry-run show its scripts instead."""
        app = Applications(config).find(self.opts.app)
        if app.interactive:
            raise InvalidError("%s is an interactive application: it runs in a completed job, and "
                               "only through the REST API" % app.name)
        chosen = config.choose_backend(JobSpec(script=":"), self.opts.backend)
        if self.opts.dry_run:
            first = config.by_name[app.backend[0]] if app.backend else chosen
            self.preview(config, app, chosen if self.opts.backend else first)
            return None
        return self.made(config, app, chosen if self.opts.backend else app.choose(config))

    def preview(self, config: Config, app: Application, backend: Backend) -> None:
        """Print the scripts of the job."""
        import tempfile
        with tempfile.TemporaryDirectory() as place:
            values = self.take_inputs(app, ConfinedFolder(place))
        say("==> variables <==")
        for pair in app.variables(values).items():
            say("%s=%s" % pair)
        self.show(config, self.spec_with(app, values, backend.kind), backend.name)

    def made(self, config: Config, app: Application, backend: Backend) -> JobDir:
        """The job, made."""
        opts = self.opts
        with JobTree(config).reserved(backend) as job:
            folder = ConfinedFolder(job.incoming())
            spec = self.spec_with(app, self.take_inputs(app, folder), backend.kind)
            self.warn(backend, spec)
            if opts.inputs:
                app.check_takes_files()
                Exchange.put(folder, opts.inputs)
            missing = [] if opts.no_submit else list(app.missing(folder))
            if missing:
                raise InvalidError(missing, "--app " + app.name)
            fill_jobdir(job, settle_spec(config, spec, backend.name))
        return job


@command("run --wait -t 2h -- python3 train.py",
         arg("spec", metavar="SPEC", nargs="?",
             help="a JSON file, or a script, a batch script say, or - for stdin; or a command, "
             "behind --, which runs in the current directory"),
         arg("-c", metavar="LINE", help="a line of shell, which runs in the current directory"),
         arg("--app", metavar="NAME", help="an application of the config, with the words "
             "INPUT=VALUE, or INPUT=@FILE, in place of SPEC; `apps` lists them"),
         arg("--no-submit", action="store_true", help="only make the job; `start` submits it"),
         arg("--dry-run", action="store_true", help="show its scripts, and make no job"),
         BACKEND,
         arg("--name", help="the job's name"),
         arg("-t", metavar="TIME", help="the walltime: 30 (minutes), 2h, 1d, 1:30:00"),
         arg("-N", metavar="NODES", help="nodes"), arg("-n", metavar="N", help="processes"),
         arg("-g", metavar="GPUS", help="GPUs for each process"),
         arg("--mem", metavar="SIZE", help="memory for each process: 500M, 4G"),
         arg("--queue", metavar="NAME", help="queue or partition"),
         arg("--project", metavar="NAME", help="project or account"),
         arg("--setup", action="append", default=[], metavar="LINE",
             help="a line to run before it: 'module load gcc'"),
         arg("--env", action="append", default=[], metavar="NAME=VALUE", help="set a variable"),
         arg("--dir", metavar="DIR", help="run in this directory"),
         arg("--here", action="store_true", help="run in the current directory"),
         arg("--callback", metavar="URL", help="send every change of state there"),
         arg("--after", action="append", default=[], metavar="JOBID",
             help="when this job has ended well; any:JOBID however, notok:JOBID if it fails"),
         arg("--array", metavar="TASKS", help="so many tasks: 100, 1-100%%5 (5 at a time), or a "
             "CSV file whose head names the variables of each; $task tells which one it is"),
         arg("--in", action="append", default=[], metavar="PATH", dest="inputs",
             help="first copy this file or folder to where the job runs, which is its own folder"),
         arg("--get", action="append", default=[], metavar="PATTERN",
             help="when it has ended, copy such files from there to the current directory: 'out*'"),
         arg("--join", action="store_true",
             help="its stderr goes to the log of its stdout, in order of arrival"),
         arg("--set", action="append", default=[], metavar="FIELD=VALUE",
             help="set any field, over what the spec says: resources.duration=30"),
         arg("--wait", action="store_true", help="until it ends, and exit as it did"),
         arg("--follow", action="store_true", help="the same, and show its output"), TIMEOUT)
def cmd_run(opts: Options) -> Optional[ExitStatus]:
    """Make a job and submit it; print its id."""
    new, config = (NewUse if opts.app else NewJob)(opts), config_of(opts, makes=not opts.dry_run)
    job = new.make(config)
    if job is None:
        return None
    if opts.follow:
        complain("job %s" % job.jobid)
    else:
        say(job.jobid)
        sys.stdout.flush()
    if opts.no_submit:
        return None
    submit_next(config, job)
    return new.await_end(config, job) if opts.wait or opts.follow else None


@command("start --state failed --since 1d", *Selection.OPTIONS,
         arg("--failed", action="store_true",
             help="only the tasks of an array that failed or were canceled"),
         arg("--force", action="store_true", help="also beside a step that has not ended"))
def cmd_start(opts: Options) -> Optional[ExitStatus]:
    """Submit a job, or submit it again as its next step."""
    chosen = Selection(opts, ("new", "failed", "canceled"))
    return chosen.each(lambda job: submit_next(chosen.config, job, opts.force, opts.failed))


class Listing(Selection):
    """The jobs that `ls` shows, in its order."""
    RECENT_DAYS = 3     # a job that ended before is old
    # {option: what is compared, and whether the greatest comes first}
    ORDERS: Dict[str, Tuple[Callable[[Summary], Any], bool]] = {
        "name": (lambda each: each.name, False),
        "state": (lambda each: list(STATES).index(each.state), False),
        "elapsed": (lambda each: each.elapsed or 0.0, True),
        "updated": (lambda each: each.updated, True)}

    def __init__(self, opts: Options) -> None:
        super().__init__(opts)
        if opts.n is not None and opts.n < 1:
            raise InvalidError("-n wants a number of jobs, 1 or more")
        self.is_recent = not (self.is_filtered or self.named or opts.all or opts.json or opts.n
                              or opts.sort)

    def summaries(self) -> Tuple[List[Summary], int]:
        """(the jobs that are shown, how many older ones are not)."""
        order, limit = self.ORDERS.get(self.opts.sort or ""), self.opts.n
        found = [summary for _, summary in self.found(None if order else limit)]
        if order:
            found = sorted(found, key=order[0], reverse=order[1])[:limit]
        if not self.is_recent:
            return found, 0
        begin = time.time() - self.RECENT_DAYS * 86400
        recent = [each for each in found
                  if each.updated >= begin or not STATES[each.state].is_final()]
        return recent, len(found) - len(recent)

    def show(self, again: bool = False) -> None:
        """Look, and print; again: over what was printed before, if that is on a terminal."""
        summaries, older = self.summaries()
        lively = NEAR.takes_colour(sys.stdout)
        if again:
            sys.stdout.write("\x1b[H\x1b[2J" if lively else "\n")
        fits = NEAR.size()[1] - 3 if self.opts.watch and lively else sys.maxsize
        more = len(summaries) - fits
        if summaries or not older:
            print_jobs(summaries[:fits], self.opts.json)
        if more > 0:
            say("and %d more" % more)
        if older:
            complain("%d older; `%s ls -a` shows them too" % (older, called()))


@command("ls --state active,queued --since 2d",
         arg("jobid", nargs="*", metavar="JOBID", help="only these: ids, names, or 'sweep*'"),
         *Selection.FILTERS,
         arg("-a", "--all", action="store_true",
             help="also those that ended more than %d days ago" % Listing.RECENT_DAYS),
         arg("-n", type=int, metavar="N", help="only the first N"),
         arg("--sort", choices=list(Listing.ORDERS), metavar="FIELD",
             help="by %s; else the newest first" % ", ".join(Listing.ORDERS)), AS_JSON,
         arg("--watch", action="store_true", help="look again every two seconds, until Ctrl-C"))
def cmd_ls(opts: Options) -> ExitStatus:
    """List jobs, newest first.

    Those that have not ended, and those of the last days; with -a, -n, --json or a filter all.
    """
    listing = Listing(opts)
    listing.show()
    while opts.watch:
        sys.stdout.flush()
        time.sleep(2)
        listing.show(again=True)
    return listing.worst


class StatusText:
    """All that is known of a job, for people; of an array at most `limit` tasks and rows."""

    def __init__(self, job: Dict[str, Json], limit: Optional[int]) -> None:
        self.job, self.limit = job, limit

    @staticmethod
    def fields(lines: Sequence[Tuple[str, str]]) -> None:
        """Print names and values; no empty ones."""
        for name, value in lines:
            if value:
                say("  %-10s %s" % (name, value))

    def used(self) -> str:
        """What the job has used, beside what it asked for; '' if it has not run."""
        job = self.job
        if job["elapsed"] is None:
            return ""
        needs = job["spec"]["resources"]
        text = "%s of %s min" % (JobTable.span(job["elapsed"]), needs["duration"])
        if job["usage"]:
            usage, asked = Usage(**job["usage"]), needs.get("memory_per_process")
            cpu = "%.1f s" % usage.cpu_s if usage.cpu_s < 60 else JobTable.span(usage.cpu_s)
            text += "; CPU time %s; a process at most %d MiB%s" % (
                cpu, -(-usage.memory_kib // 1024), " of %d" % asked if asked else "")
        return text

    def head(self) -> None:
        """Print what the job is, where it is, and what it asks for."""
        job = self.job
        needs, settings = job["spec"]["resources"], job["spec"]["backend"]
        say("%s  %s" % (job["jobid"], one_line(job["name"])))
        asked = ["%s=%s" % pair for pair in list(needs.items()) + list(settings.items())
                 if pair[1] not in (None, {}) and pair[0] != "type"]
        lines = [("state", painted(job["state"], job["state"])),
                 ("reason", one_line(job["reason"])),
                 ("backend", "%s (%s)" % (job["backend"], settings["type"])), ("base", job["base"]),
                 ("directory", job["directory"]), ("shell", job["shell"]),
                 ("resources", one_line(" ".join(asked))), ("used", self.used()),
                 ("app", job["spec"]["application"] or "")]
        lines += [("input", one_line("%s = %s" % (name, json.dumps(value, ensure_ascii=False)))[
            :MAX_INFO]) for name, value in job["spec"]["inputs"].items()]
        self.fields(lines)

    def explanation(self) -> None:
        """Print the cause of what the job is in, what shows it, and the way out."""
        found = Explanation(**self.job["why"])
        self.fields([("cause", found.cause)] + [
            ("evidence", one_line(line)) for line in found.evidence] + [("way out", found.way_out)])

    def why(self) -> None:
        """Print why the job is in its state."""
        job = self.job
        status = " with exit status %s" % job["info"] if job["state"] == "failed" else ""
        say("%s  %s" % (job["jobid"], one_line(job["name"])))
        self.fields([("state", painted(job["state"], job["state"]) + status),
                     ("reason", one_line(job["reason"]))])
        self.explanation()
        self.fields([("used", self.used())])
        for reason, numbers in self.failed_tasks().items():
            shown = " ".join(map(str, numbers[:20])) + " ..." * (len(numbers) > 20)
            say("  %d failed   %s: %s" % (len(numbers), one_line(reason) or "it is not known why",
                                          shown))

    def failed_tasks(self) -> Dict[str, List[int]]:
        """{reason: the tasks of an array that failed for it}, the most frequent first."""
        found: Dict[str, List[int]] = {}
        for task in self.job["tasks"]:
            if task["state"] == "failed":
                found.setdefault(task["reason"], []).append(task["task"])
        return dict(sorted(found.items(), key=lambda item: -len(item[1])))

    def tasks(self) -> None:
        """Print the tasks of an array."""
        tasks = self.job["tasks"][:self.limit]
        left = len(self.job["tasks"]) - len(tasks)
        say("  tasks" + ", %d more with --all" % left * bool(left))
        width = max(len(str(task["task"])) for task in tasks)
        for task in tasks:
            state = painted("%-9s" % task["state"], task["state"])
            say(("    %*d  %s  step %d  %s  %s" % (
                width, task["task"], state, task["jobndx"], one_line(str(task["info"])),
                one_line(task["reason"]))).rstrip())

    def history(self) -> None:
        """Print the history."""
        rows = self.job["history"]
        shown_rows = rows[-self.limit if self.limit and self.job["tasks"] else 0:]
        is_part = len(shown_rows) < len(rows)
        say("  history" + ", the last %d rows" % len(shown_rows) * is_part)
        for row in shown_rows:
            state = painted("%-9s" % row["state"], row["state"])
            say("    %s  %d  %s  %s" % (
                clock(row["time"]), row["jobndx"], state, one_line(str(row["info"]))))

    def callbacks(self) -> None:
        """Print what became of the job's callbacks."""
        say("  callbacks to %s" % one_line(self.job["spec"]["callback"]))
        for event in self.job["callbacks"]:
            when = clock(event["delivered"]) if event["delivered"] else event["outcome"]
            answer = one_line(event["said"]) or "not tried yet"
            say("    %-19s  %d  %-9s  %s" % (when, event["jobndx"], event["state"], answer))

    def show(self) -> None:
        """Print all of it."""
        self.head()
        if self.job["why"]["is_sure"]:
            self.explanation()
        if self.job["tasks"]:
            self.tasks()
        self.history()
        if self.job["callbacks"]:
            self.callbacks()


@command("status last", JOBIDS, AS_JSON,
         arg("--all", action="store_true",
             help="all tasks of an array; by default 20, those that failed first"))
def cmd_status(opts: Options) -> Optional[ExitStatus]:
    """Show all that is known of jobs.

    Their place, their needs, their history, the scheduler's reason, and their callbacks.
    """
    chosen = Selection(opts)
    jobs: List[Dict[str, Json]] = []
    worst = chosen.each(lambda job: jobs.append(describe(chosen.config, job)))
    if opts.json:
        say(json.dumps(jobs, indent=2))
    else:
        for job in jobs:
            StatusText(job, None if opts.all else 20).show()
    return worst


@command("why last", JOBIDS, AS_JSON)
def cmd_why(opts: Options) -> ExitStatus:
    """Say why jobs failed, or why they wait.

    The cause, what shows it, the way out, and what was used beside what was asked for.
    """
    chosen = Selection(opts)
    jobs: List[Dict[str, Json]] = []
    worst = chosen.each(lambda job: jobs.append(describe(chosen.config, job, accounts=True)))
    if opts.json:
        say(json.dumps([dict({name: job[name] for name in ("jobid", "state", "reason", "usage")},
                             **job["why"]) for job in jobs], indent=2))
    for job in jobs if not opts.json else ():
        StatusText(job, None).why()
    return worst


def may_grow(steps: Dict[int, Row], jobndx: int) -> bool:
    """Whether a step's logs can be followed: it is the latest, or has not ended."""
    is_step = jobndx > 0 and jobndx in steps
    return is_step and (jobndx == max(steps) or not steps[jobndx].state.is_final())


def step_to_show(job: JobDir, steps: Steps, opts: Options) -> int:
    """The step that `logs` was asked for, 0 if there is none; says so if it chose a task."""
    if opts.ndx is not None:
        return int(opts.ndx)
    if opts.task is not None:
        return steps.of_task(job, opts.task)
    jobndx = steps.latest.jobndx if steps.latest else 0
    if steps.tasks > 1 and jobndx:
        task = (job.spec().tasks or Tasks(())).numbers[steps.task_of(jobndx) - 1]
        complain("this is task %d; --task shows another" % task)
    return jobndx


def show_stderr(job: JobDir, jobndx: int, lines: Optional[int]) -> None:
    """Print what a step wrote to stderr, which wrote nothing else; says so."""
    path = job.log("stderr", jobndx)
    if os.path.exists(path) and os.path.getsize(path):
        complain("it wrote to stderr only:")
        with LogReader(job, jobndx, ("stderr",), lines) as reader:
            reader.copy()


@command("logs -f last", ONE_JOBID,
         arg("--ndx", type=int, metavar="N", help="of this step; by default the latest"),
         arg("--task", metavar="N", help="of the latest step of this task of an array"),
         arg("--stderr", action="store_true", help="what it wrote to stderr"),
         arg("--both", action="store_true",
             help="that too, to stderr; `run --join` keeps the order"),
         arg("-f", "--follow", action="store_true",
             help="go on until the job ends, and exit as it did"),
         arg("-n", type=int, metavar="LINES", help="only the last lines"))
def cmd_logs(opts: Options) -> Optional[ExitStatus]:
    """Print what a job wrote."""
    config = config_of(opts)
    if opts.n is not None and opts.n < 0:
        raise InvalidError("-n wants a number of lines")
    job = find_job(config, opts.jobid)
    steps, kinds = Steps(job.rows()), ["stderr" if opts.stderr else "stdout"]
    kinds += ["stderr"] * (opts.both and not opts.stderr)
    jobndx = step_to_show(job, steps, opts)
    with LogReader(job, jobndx, kinds, opts.n) as reader:
        if opts.follow and may_grow(steps.states, jobndx):
            return reader.follow(config)
        path = find_log(job, kinds[0], jobndx)  # says so if there is none
        reader.copy()
        if kinds == ["stdout"] and not os.path.getsize(path):
            show_stderr(job, jobndx, opts.n)
    return None


@command("path last work", ONE_JOBID,
         arg("part", nargs="?", choices=("work", "log", "scripts"), help="a folder of it"))
def cmd_path(opts: Options) -> None:
    """Print where a job lies, for `cd $(psik path last work)`.

    `work` is the directory that it runs in.
    """
    job = find_job(config_of(opts), opts.jobid)
    say(job.path if not opts.part else job.directory() if opts.part == "work"
        else job.at(opts.part))


@command("put last data.csv params/", ONE_JOBID,
         arg("path", nargs="+", metavar="PATH",
             help="a file or a folder; what is in a folder if a slash follows"))
def cmd_put(opts: Options) -> None:
    """Copy files and folders to where a job runs."""
    Exchange.put(ConfinedFolder(find_job(config_of(opts), opts.jobid).directory()), opts.path)


@command("get last 'out*' -o results", ONE_JOBID,
         arg("pattern", nargs="*", default=[], metavar="PATTERN",
             help="only files like this, and what is in such folders: 'out*' '*.csv'"),
         arg("-o", "--out", metavar="DIR", help="put them there, and not here"))
def cmd_get(opts: Options) -> None:
    """Copy the files of a job to the current directory.

    Without a PATTERN and -o all go into a new folder that is named after the job.
    """
    Exchange.get(find_job(config_of(opts), opts.jobid), Wanted(opts.pattern), opts.out)


class ApplicationText:
    """What `apps NAME` prints: what an application does, and its inputs."""

    # {keyword: what it says of an input}
    LIMITS = {"minimum": "%s or more", "exclusiveMinimum": "above %s", "maximum": "%s or less",
              "exclusiveMaximum": "below %s", "multipleOf": "a multiple of %s",
              "minLength": "at least %s characters", "maxLength": "at most %s characters",
              "minItems": "at least %s items", "maxItems": "at most %s items",
              "pattern": "like %s"}

    def __init__(self, app: Application) -> None:
        self.app, self.schema = app, app.schema

    @classmethod
    def kind(cls, schema: Json) -> str:
        """What an input may be, in a few words."""
        if not isinstance(schema, dict):
            return "any"
        if "contentEncoding" in schema:
            return "file"
        if "enum" in schema:
            return " | ".join(map(Application.text_of, schema["enum"]))
        kinds = " or ".join(dict.fromkeys(Schema.kinds(schema))) or "any"
        return "list of " + cls.kind(schema["items"]) if kinds == "array" and (
            "items" in schema) else kinds

    def row(self, name: str, schema: Json) -> Tuple[str, str, str]:
        """What is told of an input: its name, what it may be and its meaning."""
        about = schema if isinstance(schema, dict) else {}
        if "default" in about:
            otherwise = "by default %s" % json.dumps(about["default"], ensure_ascii=False)
        else:
            otherwise = "has to be given" * (name in self.schema.get("required", ()))
        meaning = about.get("description", about.get("title", "")).rstrip(".")
        limits = ", ".join(text % about[word] for word, text in self.LIMITS.items()
                           if word in about)
        return name, self.kind(schema), "; ".join(filter(None, (meaning, limits, otherwise)))

    @staticmethod
    def show_all(apps: Sequence[Application]) -> None:
        """Print a line for each of several."""
        rows = [(app.name, app.summary or app.description.split("\n")[0]) for app in apps]
        if rows:
            Table((Column("NAME"), Column("SUMMARY")), rows).show()

    def example(self) -> str:
        """A command line that makes a job of it."""
        words = ["%s=VALUE" % name for name in self.schema.get("required", ())]
        words += [word for path in self.app.needs for word in ("--in", path.split("/")[0])]
        return " ".join(["%s run --app %s" % (called(), self.app.name)] + words)

    def show(self) -> None:
        """Print all of it."""
        app = self.app
        say(": ".join(filter(None, (app.name, app.summary))))
        if app.description:
            say("\n" + app.description.rstrip() + "\n")
        rows = [self.row(*pair) for pair in self.schema["properties"].items()]
        if rows:
            Table((Column("INPUT"), Column("TYPE"), Column("MEANING")), rows).show()
        for what, words in (("needs the files", app.needs), ("makes", app.outputs),
                            ("is for the roles", app.roles), ("runs on", app.backend)):
            if words:
                say("%s: %s" % (what, ", ".join(words)))
        if app.interactive:
            say("answers at once, in completed jobs%s: POST /v1/jobs/JOBID/applications/%s" % (
                " of %s" % app.of if app.of else "", app.name))
        else:
            say("example: " + self.example())


@command("apps wc", arg("name", metavar="NAME", nargs="?", help="show this one, with its inputs"),
         AS_JSON)
def cmd_apps(opts: Options) -> Optional[ExitStatus]:
    """List the applications that there are, or show one.

    They are scripts that run with values of your own: `run --app NAME INPUT=VALUE...`.
    """
    applications = Applications(config_of(opts))
    if opts.name is not None:
        app = applications.find(opts.name)
        if opts.json:
            say(json.dumps(app.offer(), indent=2))
        else:
            ApplicationText(app).show()
        return None
    for line in applications.wrong:
        complain(line)
    apps = list(applications.by_name.values())
    if opts.json:
        say(json.dumps([app.offer() for app in apps], indent=2))
    else:
        ApplicationText.show_all(apps)
    if not apps and not applications.wrong:
        complain('there are none; "applications" in the config names a folder of them')
    return InvalidError.exit_status if applications.wrong else None


@command("wait --timeout 3600 last", JOBIDS, TIMEOUT)
def cmd_wait(opts: Options) -> ExitStatus:
    """Wait until jobs have ended, and exit as they did.

    For several jobs the exit status is the worst; for a canceled one it is 143.
    """
    config = config_of(opts)
    jobs = [job for text in opts.jobid for job in find_jobs(config, text)]
    return wait_for(config, jobs, opts.timeout)


@command("hold last", JOBIDS)
def cmd_hold(opts: Options) -> ExitStatus:
    """Keep jobs that wait in a queue from starting."""
    return Selection(opts).each(hold)


@command("release last", JOBIDS)
def cmd_release(opts: Options) -> ExitStatus:
    """Let jobs that are held start."""
    return Selection(opts).each(lambda job: hold(job, keep=False))


@command("kill -s USR1 last", *Selection.OPTIONS,
         arg("-s", "--signal", default="TERM", metavar="SIGNAL",
             help="USR1, INT, or another; by default TERM"),
         arg("--task", metavar="N", help="only to these tasks of an array: 3, or 3,7-9"))
def cmd_kill(opts: Options) -> ExitStatus:
    """Send a signal to the scripts of jobs that run.

    TERM, INT, HUP and XCPU end a job, which counts as failed; what a script does about others is
    its own.  To end a job for certain, cancel it.
    """
    def send(job: JobDir) -> None:
        send_signal(job, opts.signal, job.places(opts.task) if opts.task is not None else None)

    return Selection(opts, ("active",)).each(send)


@command("cancel --name 'sweep*'", *Selection.OPTIONS,
         arg("--task", metavar="N", help="only these tasks of an array: 3, or 3,7-9"),
         arg("--wait", action="store_true",
             help="until the scheduler has ended them; a local job is always waited for"))
def cmd_cancel(opts: Options) -> ExitStatus:
    """End jobs, whatever they are doing.

    A job that has ended already stays as it is.
    """
    def end(job: JobDir) -> None:
        tasks = job.places(opts.task) if opts.task is not None else None
        if not cancel(job, opts.wait, tasks):
            complain("job %s has ended already" % job.jobid)

    return Selection(opts, ("new", "queued", "active")).each(end)


@command("rm --state completed --older 30d --keep 100", *Selection.OPTIONS,
         arg("--force", action="store_true", help="cancel first what has not ended"),
         arg("--stale", action="store_true", help="remove what crashes left behind too"))
def cmd_rm(opts: Options) -> ExitStatus:
    """Remove the directories of jobs, logs and results too."""
    chosen = Selection(opts, list(STATES) if opts.force else ("completed", "failed", "canceled"))
    for path in sweep(chosen.config) if opts.stale else ():
        complain("removed %s" % path)
    if opts.stale and not chosen.named and not chosen.is_filtered:
        return 0
    return chosen.each(lambda job: remove(job, opts.force))


# Schedulers and callbacks.

def deliver_some(opts: Options) -> ExitStatus:
    """Send the events of the named jobs, by id or, as a job names itself, by directory.

    If one has ended, the jobs that wait for it are submitted first.
    """
    worst = 0
    for text in opts.jobid:
        job = JobDir(text) if os.sep in text else find_job(config_of(opts), text)
        if not job.rows():
            raise NotFoundError("no job at %s" % job.path)
        if is_over(job, job.rows()):    # what goes wrong is no news for the log of this job
            Waiter.release(job, lambda text: None)
        worst = max(worst, 0 if deliver(job) else 1)
    return worst


@command("deliver --all",
         arg("jobid", nargs="*", metavar="JOBID",
             help="only these jobs, by id or directory; whatever waits is sent, due or not"),
         arg("--all", action="store_true", help="also those whose next try is not due yet"),
         arg("--dead", action="store_true", help="also those that were given up"))
def cmd_deliver(opts: Options) -> ExitStatus:
    """Send the callbacks that have not arrived yet.

    Prints each job that had any, and exits 1 if some still have not arrived.  Jobs that wait for
    the end of those that are named are submitted.
    """
    if opts.jobid:
        return deliver_some(opts)
    sent = deliver_all(config_of(opts), opts.all, opts.dead)
    for jobid, done in sent.items():
        say("%s %s" % (jobid, "delivered" if done else "pending"))
    return 0 if all(sent.values()) else 1


@command("poll")
def cmd_poll(opts: Options) -> None:
    """Ask the schedulers now, and send the callbacks that are due.

    Brings the histories up to date, and prints each job that has changed.
    """
    config = config_of(opts)
    pairs = [(job, job.rows()) for job in JobTree(config).jobs()]
    before = {job.path: list(rows) for job, rows in pairs}
    reconcile(config, pairs, force=True)
    release_all(config)
    for job, rows in pairs:
        if rows != before[job.path]:
            say("%s %s" % (job.jobid, summarize(job, rows, {}, reasons=False).state))
    deliver_all(config)


@command("reached $base $jobndx active $jobid",
         arg("base", metavar="BASE", help="the job's directory"),
         arg("jobndx", type=int, metavar="JOBNDX", help="the step; 0 is the job as a whole"),
         arg("state", choices=list(STATES), metavar="STATE", help="the state it has reached"),
         arg("info", nargs="?", default="0", metavar="INFO", help="native id or exit status"))
def cmd_reached(opts: Options) -> None:
    """Record that a step has reached a state; job scripts call it."""
    is_word = not opts.info or NATIVE_ID.fullmatch(opts.info)
    if not 0 <= opts.jobndx <= MAX_STEP or not is_word or len(opts.info) > MAX_INFO:
        raise InvalidError("JOBNDX is a number from 0, and INFO one short word without a comma")
    reached(JobDir(opts.base), opts.jobndx, STATES[opts.state], read_info(opts.info))


# The REST API.

def is_compiled(cache: str) -> bool:
    """Whether a compiled file is whole, and nobody else can write it.

    On a full disk Python leaves a part of it; that is removed.
    """
    import marshal
    for status in [os.stat(path) for path in (os.path.dirname(cache), cache)]:
        if is_foreign(status) or others_may_write(status):  # code of theirs may be there
            return False
    with open(cache, "rb") as file:
        file.seek(16 if sys.version_info >= (3, 7) else 12)
        try:
            marshal.load(file)
            return True
        except (EOFError, ValueError, TypeError):
            os.unlink(cache)
            return False


def compile_once(path: str) -> bool:
    """Compile a module into its __pycache__, if it has changed; whether to run it from there."""
    import importlib.util
    import py_compile
    cache, folder = importlib.util.cache_from_source(path), os.path.dirname(path)
    try:
        if is_foreign(os.stat(folder)) or others_may_write(os.stat(folder)):
            return False
        if not os.path.exists(cache) or os.path.getmtime(cache) < os.path.getmtime(path):
            if sys.dont_write_bytecode:
                return False
            py_compile.compile(path)
        return is_compiled(cache)
    except OSError:  # a folder that may not be written to
        return False


def begin_compiled() -> None:
    """Begin again from the compiled file, if Python has compiled this file for this run only.

    Python does so with a file that is named on the command line, and a server would keep the 16 MB
    that compiling takes.
    """
    path = os.path.realpath(FILE)
    if __name__ != "__main__" or not path.endswith(".py") or not compile_once(path):
        return
    flags = {"-I": sys.flags.isolated, "-S": sys.flags.no_site, "-E": sys.flags.ignore_environment}
    beside = [os.path.dirname(path)] if sys.version_info < (3, 7) else []  # holds dataclasses.py
    code = ("import sys; sys.path[:sys.path[:1] == ['']] = []; sys.path += %r; "
            "import importlib.util as util; "
            "spec = util.spec_from_file_location('psik', %r); "
            "sys.modules['psik'] = psik = util.module_from_spec(spec); "
            "spec.loader.exec_module(psik); sys.exit(psik.main())" % (beside, path))
    given = [flag for flag, is_set in flags.items() if is_set]
    os.execv(sys.executable, [sys.executable] + given + ["-c", code] + sys.argv[1:])


def raise_descriptor_limit() -> int:
    """Raise the limit of open files as far as a server needs; the number that it may open."""
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return (soft if soft != resource.RLIM_INFINITY else wanted) - 30  # what we have open anyway


class Serving:
    """The server that the options of `serve` ask for."""

    def __init__(self, opts: Options) -> None:
        self.opts = opts
        self.check()

    def check(self) -> None:
        """InvalidError if options exclude each other, or are out of range."""
        opts = self.opts
        own = not opts.tls_cert and not opts.inetd
        for wrong, message in (
                (opts.workers < 1, "--workers wants a number from 1"),
                (opts.port is not None and not 0 <= opts.port < 65536,
                 "--port wants a number from 0 to 65535"),
                ((opts.tls_key or opts.client_ca) and not opts.tls_cert,
                 "--tls-key and --client-ca go with --tls-cert"),
                (opts.token and not own,
                 "--token is for a server of your own; leave out --tls-cert and --inetd"),
                (opts.inetd and opts.tls_cert,
                 "--inetd speaks no TLS; let inetd or ssh do so, and leave --tls-cert out"),
                (opts.uds and (opts.host, opts.port) != (None, None),
                 "--uds and --host or --port are two places; give one")):
            if wrong:
                raise InvalidError(message)

    def config(self) -> Config:
        """The config in force now; SIGHUP asks again."""
        return load_config(self.opts.config, serving=True)

    def api(self, tls: Any) -> Api:
        """The state of the server; the folders of its backends are made."""
        opts, config = self.opts, self.config()
        mode = "tls" if tls else "local" if config.is_personal else "insecure"
        if mode == "local" and (config.issuers or config.submit != "scripts"):
            raise InvalidError([Fault("authz", 'is local, so whoever gets in is you, and `issuers` '
                                      'and `submit` mean nothing: set "authz": "owner"')], "config")
        limit = min(opts.workers, raise_descriptor_limit() // 3)  # a socket, and files
        api = Api(config, mode, max(1, limit))
        api.access_log = not opts.quiet
        api.local_token = os.urandom(24).hex() if opts.token else ""
        for backend in api.backends.values():
            make_folder(backend.root)
        return api

    @staticmethod
    def check_tcp(api: Api, address: str) -> None:
        """InvalidError if a server for its own user only would be open to others.

        Where the system cannot tell whose a connection is, a token is asked for.
        """
        if api.mode == "local" and not is_loopback(address):
            raise InvalidError('authz is local, which serves a UNIX socket or a loopback address '
                               'and not %s; give --tls-cert, or another authz, as "owner", in the '
                               'config' % address)
        if api.mode == "local" and not os.path.exists("/proc/net/tcp"):
            api.local_token = api.local_token or os.urandom(24).hex()
        if api.mode == "insecure":
            complain("this is plain TCP without TLS: only a trusted_proxy may pass tokens on, and "
                     "nobody else reaches the jobs; give --tls-cert")

    def place(self, api: Api) -> Place:
        """Where to listen."""
        opts, inherited = self.opts, inherited_place()
        if inherited:
            return inherited
        if opts.uds or (api.mode == "local" and (opts.host, opts.port) == (None, None)):
            # 0660, for a proxy in the socket's group: who reaches it still has to show a token.
            mask = 0o177 if api.mode == "local" else 0o117
            return UnixPlace(opts.uds or UnixPlace.default(), mask)
        place = TcpPlace(opts.host or "127.0.0.1", opts.port or 0)
        self.check_tcp(api, place.address[0])
        return place

    def run(self) -> None:
        """Serve until a signal ends it, or one connection with --inetd."""
        opts = self.opts
        tls = tls_context(opts.tls_cert, opts.tls_key, opts.client_ca) if opts.tls_cert else None
        api = self.api(tls)
        if opts.inetd:
            serve_pipe(api)
            return
        place = self.place(api)
        server = make_server(api, place, tls)
        try:
            run_server(api, server, self.config, lambda: self.announce(api, server.socket))
        finally:
            place.leave()

    def announce(self, api: Api, sock: Any) -> None:
        """Say where the server can be reached."""
        for line in address_lines(api, sock):
            complain(line)


@command("serve --uds ~/psik.sock",
         arg("--uds", metavar="PATH",
             help="listen on a UNIX socket; by default one in your runtime directory"),
         arg("--host", metavar="H",
             help="listen on TCP at this address; by default, with --port, at 127.0.0.1"),
         arg("--port", type=int, metavar="N",
             help="listen on TCP at this port; 0, and --host alone, take a free one"),
         arg("--tls-cert", metavar="FILE",
             help="speak TLS, with this certificate (and those of its chain)"),
         arg("--tls-key", metavar="FILE", help="its key, where the file above does not hold it"),
         arg("--client-ca", metavar="FILE",
             help="the authorities whose client certificates name users"),
         arg("--workers", type=int, default=256, metavar="N",
             help="so many connections at once, a thread each (256)"),
         arg("--token", action="store_true",
             help="make callers show a token, which is printed; use it where others can reach the "
                  "end of your tunnel"),
         arg("--quiet", action="store_true", help="no access log"),
         arg("--inetd", action="store_true", help="serve one connection on stdin and stdout"),
         arg("--openapi", action="store_true",
             help="print the interface as OpenAPI, and serve nothing"))
def cmd_serve(opts: Options) -> None:
    """Serve the REST API and a page for the browser."""
    if opts.openapi:
        say(json.dumps(OpenApi().document(), indent=2))
        return
    begin_compiled()
    Serving(opts).run()


def token_for(config: Config, opts: Options) -> str:
    """The token that the command line asks for."""
    user = LOCAL_USER if opts.user is None else opts.user
    if not is_user(user):
        raise InvalidError("%r is no user" % user)
    apps = Applications(config).by_name if opts.apps else {}
    is_backend, is_app = config.by_name.__contains__, apps.__contains__
    methods = ("GET", "POST", "PUT", "DELETE")
    narrow = {"ops": [each.upper() for each in opts.ops], "jobs": opts.jobs,
              "backends": opts.backends, "apps": opts.apps}
    for name, fits, what in (("ops", methods.__contains__, "route's method"),
                             ("jobs", JOBID.fullmatch, "job id"),
                             ("backends", is_backend, "backend of the config"),
                             ("apps", is_app, "application of the config")):
        for word in narrow[name]:
            if not fits(word):
                raise InvalidError("%r is no %s" % (word, what))
    given: Dict[str, Any] = {name: words for name, words in narrow.items() if words}
    return tokens_of(config).make(user, read_span(opts.expires, "--expires"), **given)


@command("token --user bot --expires 7d --ops GET",
         arg("--user", metavar="U",
             help="the user it names; by default the owner of jobs made on the command line"),
         arg("--expires", default="1d", metavar="TIME",
             help="how long it is valid: 90s, 10m, 12h, 1d"),
         arg("--ops", action="append", default=[], metavar="METHOD",
             help="only these HTTP methods: GET, POST, PUT, DELETE"),
         arg("--jobs", action="append", default=[], metavar="ID", help="only these jobs"),
         arg("--backends", action="append", default=[], metavar="NAME",
             help="only these backends"),
         arg("--apps", action="append", default=[], metavar="NAME",
             help="only these applications, and the jobs that were made of them"),
         arg("--show", metavar="TOKEN", help="print what a token says"),
         arg("--public-key", action="store_true",
             help="print the key that a biscuit's holder needs to narrow it"),
         arg("--revoke", metavar="JTI", help="take a token back, by the jti that it shows"))
def cmd_token(opts: Options) -> None:
    """Make, show or revoke a token for the REST API.

    For use over TLS; in local mode, the default, none is needed.
    """
    config = load_config(opts.config, serving=True)
    if sum(map(bool, (opts.revoke, opts.show, opts.public_key))) > 1:
        raise InvalidError("--revoke, --show and --public-key are several things; give one")
    if opts.public_key:
        say(tokens_of(config).public_key())
    elif opts.revoke:
        Keyring(config).revoke(opts.revoke)
    elif opts.show:
        for block in tokens_of(config).blocks(opts.show):
            say(block)
    else:
        say(token_for(config, opts))


@command("share last ada:GET", ONE_JOBID,
         arg("user", nargs="*", metavar="USER[:GET|:]",
             help="USER may use and change it, USER:GET only look, `USER:` nothing any more"))
def cmd_share(opts: Options) -> None:
    """Let users of the REST API look at a job, or use it.

    Who may use it may also change, start and cancel it; only the owner may share it, and see its
    environment.  Without a user, it shows who may.
    """
    job = find_job(config_of(opts, serving=True), opts.jobid)
    for text in opts.user:
        user, colon, operation = text.rpartition(":")
        if operation.upper() in HTTP_METHODS and operation not in OPERATIONS:
            raise InvalidError("%r: it is USER, USER:GET, or USER: for nothing any more" % text)
        if not colon or operation not in OPERATIONS + ("",):
            user, operation = text, "POST"
        Access.share(job, {user: [operation] if operation else []})
    access = Access.of(job)
    say("owner %s" % access.owner)
    for user, operations in sorted(access.shared.items()):
        say("%s %s" % (user, " ".join(operations)))


# Setup.

def print_backends(rows: Sequence[Dict[str, Any]], faults: Sequence[str]) -> None:
    """Print the backends, and what they lack, for people."""
    Table(list(map(Column, ("NAME", "TYPE", "JOBS IN", "READY"))), [
        (row["name"], row["type"], row["root"], "no" if row["missing"] else "yes")
        for row in rows]).show()
    for fault in faults:
        say(fault)


def print_queues(config: Config, name: str, as_json: bool) -> None:
    """Print the queues of a backend, or of the config's first."""
    queues = Queue.of(config.choose_backend(JobSpec(script=":"), name or None))
    if as_json:
        say(json.dumps([queue._asdict() for queue in queues], indent=2))
        return
    rows = [[str("-" if value is None else value) for value in queue] for queue in queues]
    Table([Column(field.upper().replace("_", " ")) for field in Queue._fields], rows).show()


@command("backends --check", AS_JSON,
         arg("--check", action="store_true",
             help="say what is missing or does not answer; exit 4 if anything is"),
         arg("--queues", nargs="?", const="", metavar="NAME",
             help="the queues of this backend, or of the first"),
         arg("--export", metavar="DIR", help="write the built-in templates there"))
def cmd_backends(opts: Options) -> Optional[ExitStatus]:
    """Show the backends that are configured."""
    if opts.export:
        for path in export_templates(opts.export):
            say(path)
        return None
    if opts.queues is not None:
        print_queues(config_of(opts), opts.queues, opts.json)
        return None
    rows, faults = [], []
    for backend in config_of(opts).by_name.values():
        missing = check_backend(backend)
        if opts.check:
            missing = missing or ask_backend(backend)
            faults += ["%s: %s" % (backend.name, fault) for fault in missing]
        rows.append(dict(name=backend.name, type=backend.kind, root=backend.root, missing=missing))
    if opts.json:
        say(json.dumps(rows, indent=2))
    else:
        print_backends(rows, faults)
    return BackendError.exit_status if faults else None


def print_settings(config: Config) -> None:
    """Print the settings of a config, and the defaults in force, for people."""
    for name, value in to_json(config, secrets=False).items():
        if name not in ("backend", "backends") and value is not None:
            say("%-20s %s%s" % (name, value, "" if name in config.given else "   (default)"))


def shell_or_fault(config: Config) -> str:
    """The shell of the scripts, or why the one in the config cannot be used."""
    try:
        return Shell.of(config).command
    except InvalidError as err:
        return str(err)


def describe_backend(backend: Backend) -> Dict[str, Any]:
    """All that `config` shows of a backend."""
    return dict(name=backend.name, prefix=backend.prefix, settings=to_json(backend.settings),
                shell=shell_or_fault(backend.config), templates=backend.config.templates,
                psik=backend.config.psik_path or os.path.abspath(FILE))


@command("config", AS_JSON)
def cmd_config(opts: Options) -> None:
    """Show the configuration in force, and where it comes from."""
    who, place = Config.place(opts.config)
    config = config_of(opts)
    exists = os.path.exists(place)
    backends = [describe_backend(backend) for backend in config.by_name.values()]
    if opts.json:
        say(json.dumps({"file": place if exists else None, "config": to_json(config, secrets=False),
                        "backends": backends}, indent=2))
        return
    file = place if exists else "none, so the built-in default; looked for " + place
    say("file      %s (%s)" % (file, who))
    print_settings(config)
    for backend in backends:
        say("backend %s" % backend["name"])
        settings = dict(backend["settings"])
        settings.update({name: backend[name] for name in ("shell", "psik", "prefix")})
        for name in [name for name, value in settings.items() if value not in (None, {})]:
            say("  %-18s %s" % (name, settings[name]))


class Finding(NamedTuple):
    """One line of `doctor`: of what it is, what was found, and where that is wrong the way out."""
    subject: str
    found: str
    is_wrong: bool = False
    way_out: str = ""

    def show(self) -> None:
        """Print it."""
        marks = ("✓", "✗") if printable("✓") == "✓" else ("ok", "NO")
        mark = painted(marks[self.is_wrong], "failed" if self.is_wrong else "completed")
        say("%s %-10s %s" % (mark, self.subject, one_line(self.found)))
        if self.way_out:
            say("    " + self.way_out)
        sys.stdout.flush()


class FolderExam:
    """Tries what psik.py needs of the file system below a folder, in a file that is removed."""
    SPARE_BYTES, SPARE_FILES, CLOCK_S = 100 * 1024 * 1024, 1000, 2

    def __init__(self, folder: str) -> None:
        import tempfile
        make_folder(folder)
        fd, self.path = tempfile.mkstemp(prefix=".doctor-", dir=folder)
        os.close(fd)

    def all(self) -> Iterator[Tuple[str, str]]:
        """(what is wrong, the way out)."""
        try:
            for test in (self.locks, self.appends, self.links, self.clock, self.space):
                yield from test()
        finally:
            for path in (self.path, self.path + "-link"):
                with suppress(FileNotFoundError):
                    os.unlink(path)

    def locks(self) -> Iterator[Tuple[str, str]]:
        """Whether a lock keeps others out."""
        way_out = "jobs are told apart by process ids there; let psik.py run on one host only"
        with closing_fd(os.open(self.path, os.O_RDWR)) as first:
            with closing_fd(os.open(self.path, os.O_RDWR)) as second:
                try:
                    fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    yield "its file system gives a lock to two at once", way_out
                except BlockingIOError:
                    pass
                except OSError as err:
                    yield "its file system has no locks (%s)" % err.strerror, way_out

    def appends(self) -> Iterator[Tuple[str, str]]:
        """Whether two who append do not write over each other."""
        flags = os.O_WRONLY | os.O_APPEND
        with closing_fd(os.open(self.path, flags)) as first:
            with closing_fd(os.open(self.path, flags)) as second:
                for fd, text in ((first, b"1"), (second, b"2"), (first, b"3")):
                    os.write(fd, text)
        if read_or_empty(self.path) != "123":
            yield "on its file system one who appends writes over another", "choose another prefix"

    def links(self) -> Iterator[Tuple[str, str]]:
        """Whether a file can have two names."""
        try:
            os.link(self.path, self.path + "-link")
        except OSError:
            yield ("its file system has no hard links, so each job has a copy of psik.py",
                   "another prefix saves the space")

    def clock(self) -> Iterator[Tuple[str, str]]:
        """Whether the file server's clock is ours."""
        with open(self.path, "w") as file:
            file.write("now")
        off_s = os.stat(self.path).st_mtime - time.time()
        if abs(off_s) > self.CLOCK_S:
            yield ("the clock of its file system is %.0f s %s" % (
                abs(off_s), "ahead" if off_s > 0 else "behind"), "tell the administrators")

    def space(self) -> Iterator[Tuple[str, str]]:
        """Whether there is room."""
        room = os.statvfs(self.path)
        way_out = "`%s rm --state completed --older 30d`" % called()
        if room.f_bavail * room.f_frsize < self.SPARE_BYTES:
            yield "only %d MiB are free there" % (room.f_bavail * room.f_frsize >> 20), way_out
        if room.f_files and room.f_favail < self.SPARE_FILES:
            yield "only %d more files can be made there" % room.f_favail, way_out


class Doctor:
    """Looks for what keeps jobs from running, and says what to type."""
    DEEP_S = 120

    def __init__(self, config: Config, place: str) -> None:
        self.config, self.place = config, place

    def python(self) -> Iterator[Finding]:
        """The Python that runs this, and that runs the supervisors where a node has it too."""
        yield Finding("python", "%s, %s" % (sys.version.split()[0], sys.executable))

    def settings(self) -> Iterator[Finding]:
        """The config and the shell."""
        exists = os.path.exists(self.place)
        yield Finding("config", self.place if exists else "none; jobs run locally")
        try:
            yield Finding("shell", Shell.of(self.config).command)
        except InvalidError as err:
            yield Finding("shell", str(err), True, "leave `rc_path` out of the config, or mend it")

    def prefixes(self) -> Iterator[Finding]:
        """The folders of jobs."""
        for folder in sorted({backend.prefix for backend in self.config.by_name.values()}):
            try:
                faults = list(FolderExam(folder).all())
                JobTree(self.config)    # whose it is
            except ForbiddenError as err:
                faults = [(str(err), "choose a prefix of your own")]
            except OSError as err:
                faults = [(fault_of_system(err), "name another folder as `prefix` in %s, or set "
                           "XDG_DATA_HOME" % self.place)]
            yield from (Finding("prefix", "%s: %s" % (folder, wrong), True, way_out)
                        for wrong, way_out in faults)
            if not faults:
                yield Finding("prefix", folder)

    def backends(self) -> Iterator[Finding]:
        """The programs of each backend, and whether its scheduler answers."""
        for backend in self.config.by_name.values():
            faults = check_backend(backend) or ask_backend(backend)
            yield from (Finding("backend", "%s: %s" % (backend.name, fault), True,
                                "ask the administrators, or choose another `type`; `%s help config`"
                                % called()) for fault in faults)
            if not faults:
                yield Finding("backend", "%s (%s)" % (backend.name, backend.kind))

    def applications(self) -> Iterator[Finding]:
        """The applications that are offered."""
        found = Applications(self.config)
        yield from (Finding("apps", line, True, "mend the file; it is not offered until "
                            "then") for line in found.wrong)
        if self.config.applications and not found.wrong:
            yield Finding("apps", ", ".join(found.by_name) or "none")

    def callbacks(self) -> Iterator[Finding]:
        """Callbacks that could not be sent."""
        for backend in self.config.by_name.values():
            waiting, dead = (len(Outbox.files(backend.root, dead)) for dead in (False, True))
            if waiting or dead:
                yield Finding("callbacks", "%s: %d wait to be sent, %d were given up" % (
                    backend.name, waiting, dead), True, "`%s deliver --all --dead` tries again; "
                    "`status` of a job says what was answered" % called())

    def deep(self) -> Iterator[Finding]:
        """A job of one line on each backend."""
        needs = ResourceSpec(duration=2, exclusive_node_use=False)
        for backend in self.config.by_name.values():
            try:
                job = create(self.config, JobSpec(name="doctor", script="echo psik",
                                                  resources=needs), backend.name)
                yield self.trial(job)
            except PsikError as err:
                yield Finding("a job", "%s: %s" % (backend.name, err), True,
                              "`%s help config`" % called())

    def trial(self, job: JobDir) -> Finding:
        """How a job fares, which is removed."""
        submit(job)
        line = Waiting(NEAR.takes_colour(sys.stderr))
        summary, = wait(self.config, [job], self.DEEP_S, line.show)
        line.clear()
        rows = job.rows()
        steps = ["%s after %.1f s" % (row.state, row.time - rows[0].time) for row in rows[1:]]
        found = "%s: %s" % (job.backend, ", ".join(steps))
        if summary.state == JobState.completed and logs(job) == "psik\n":
            remove(job)
            return Finding("a job", found)
        found += ": " + summary.reason if summary.reason else ""
        return Finding("a job", found, True, "`%s why %s`; `%s rm --force %s`" % (
            called(), job.jobid, called(), job.jobid))

    def findings(self, deep: bool) -> Iterator[Finding]:
        """All that is found."""
        for look in (self.python, self.settings, self.prefixes, self.backends, self.applications,
                     self.callbacks):
            yield from look()
        if deep:
            yield from self.deep()


@command("doctor --deep", AS_JSON,
         arg("--deep", action="store_true", help="run a job of one line on each backend too"))
def cmd_doctor(opts: Options) -> ExitStatus:
    """Look for what keeps jobs from running here, and say what to type.

    Python, the config, the folder of the jobs and its file system, the shell, the programs and the
    schedulers of the backends, callbacks.  Exits 1 if something is wrong.
    """
    doctor = Doctor(config_of(opts, makes=True), Config.place(opts.config)[1])
    found: List[Finding] = []
    for each in doctor.findings(opts.deep):
        found.append(each)
        if not opts.json:
            each.show()
    if opts.json:
        say(json.dumps([each._asdict() for each in found], indent=2))
    return 1 if any(each.is_wrong for each in found) else 0


# Installing.

def summaries_of_commands() -> Dict[str, str]:
    """What each command does, in one line."""
    return {name: (function.__doc__ or "").split("\n")[0].rstrip(".")
            for name, function, _, _ in COMMANDS}


class Installation:
    """The command psik in a folder, and its completions, where bash and zsh look for them."""

    def __init__(self, folder: str) -> None:
        self.folder = os.path.abspath(os.path.expanduser(folder))
        parent, name = os.path.split(self.folder)
        share = os.path.join(parent, "share") if name == "bin" else self.folder
        self.program = os.path.join(self.folder, "psik")
        self.zsh_folder = os.path.join(share, "zsh/site-functions")
        self.sources = {  # {path: the template that it is made from}
            self.program: "launcher.py",
            os.path.join(share, "bash-completion/completions/psik"): "completion.bash",
            os.path.join(self.zsh_folder, "_psik"): "completion.zsh"}

    @staticmethod
    def flags() -> Dict[str, str]:
        """{command: its long options, with blanks between}."""
        def flags_of(arguments: Sequence[Argument]) -> str:
            names = [name for argument in arguments for name in argument.names]
            return " ".join(name for name in names if name.startswith("--"))

        return {name: flags_of(arguments) for name, _, arguments, _ in COMMANDS}

    @staticmethod
    def interpreter_line(python: str) -> str:
        """The #! line for a Python; through a shell if the path is too long, or has a blank."""
        if len(python) < 120 and " " not in python:
            return python + " -IS"
        # The second line is a command to sh, and a text to Python.
        return '/bin/sh\n"exec" "%s" "-IS" "$0" "$@"' % python

    def values(self) -> Dict[str, Value]:
        """The values of the templates: the interpreter, the place of psik.py, the commands.

        InvalidError if psik.py has no name that can be imported.
        """
        home, name = os.path.split(os.path.realpath(FILE))
        if CODE is not None or not (name.endswith(".py") and name[:-3].isidentifier()):
            raise InvalidError("install wants psik.py as a file with a name like psik.py")
        flags = self.flags()
        with_jobs = [name for name, _, arguments, _ in COMMANDS
                     if any("jobid" in argument.names for argument in arguments)]
        described = ("%s:%s" % pair for pair in summaries_of_commands().items())
        cases = ("\t\t%s) flags='%s' ;;" % pair for pair in flags.items())
        return {"python": self.interpreter_line(sys.executable),
                "place": Block("folder, module = %r, %r" % (home, name[:-3])),
                "commands": Block("\t\twords='%s'" % " ".join(flags)),
                "options": Block("\n".join(cases)),
                "jobs": Block("\t\t%s)" % " | ".join(with_jobs)),
                "described": Block("\n".join("\t\t" + SH.quote_word(text) for text in described))}

    def refuse_others(self) -> None:
        """ConflictError if a file is in the way that `install` has not made."""
        for path in self.sources:
            if os.path.lexists(path) and "made by `psik.py install`" not in read_or_empty(path):
                raise ConflictError("%s is there already, and not made by install; name another "
                                    "folder" % path)

    def make(self) -> None:
        """Write the files."""
        values = self.values()
        self.refuse_others()
        here = os.path.realpath(FILE)
        folder = os.path.dirname(here)
        for path in (here, folder, os.path.join(folder, "__pycache__")):  # the launcher runs them
            Guarded(path, "copy psik.py to a folder of your own, and install that").check_ours()
        for path, source in self.sources.items():
            make_folder(os.path.dirname(path))
            text = Template.built_in(source).render(values, SH)
            write_file(path, text, 0o755 if path == self.program else 0o644)


@command("install",
         arg("dir", nargs="?", default="~/.local/bin", metavar="DIR",
             help="where; by default ~/.local/bin"))
def cmd_install(opts: Options) -> None:
    """Make the command psik, and its completion for bash and zsh.

    It calls this psik.py where it lies now.  To undo it, remove the files that are printed.
    """
    installation = Installation(opts.dir)
    installation.make()
    for path in installation.sources:
        say(path)
    if installation.folder not in os.environ.get("PATH", "").split(os.pathsep):
        complain('the shell does not look there yet: export PATH="%s:$PATH"' % installation.folder)
    complain("zsh completes with this in ~/.zshrc, above compinit: fpath+=(%s)"
             % installation.zsh_folder)


# The page.

class Browser:
    """The user's browser, and the file that sends it to an address.

    An address with a token must not stand in the arguments of a program, which others can see.
    """

    def __init__(self) -> None:
        self.path = ""

    @staticmethod
    def can_show() -> bool:
        """Whether there is a screen for a browser; in a terminal one would take the terminal."""
        names = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER", "WSL_DISTRO_NAME")
        return sys.platform == "darwin" or any(map(os.environ.get, names))

    def open(self, url: str) -> None:
        """Open an address, or print it where that cannot be done."""
        import tempfile
        import webbrowser
        complain("%s shows the jobs, until Ctrl-C" % url)
        if not self.can_show():
            return
        fd, self.path = tempfile.mkstemp(".html", "psik-")   # only we can read it
        with closing_fd(fd):
            write_whole(fd, b"<!DOCTYPE html><title>psik</title>"
                        b"<meta http-equiv=refresh content=\"0; url=%s\">" % url.encode())
        webbrowser.open("file://" + self.path)

    def close(self) -> None:
        """Remove the file."""
        with suppress(OSError):
            os.unlink(self.path)


class Opening(Serving):
    """The server of `open`: of the user alone, and only with a token, which only she is told."""

    def __init__(self, opts: Options) -> None:
        self.given, self.browser = opts, Browser()
        super().__init__(Options(
            config=opts.config, token=True, quiet=True, workers=256, port=None,
            host="127.0.0.1" if NEAR.is_here else None, uds=getattr(opts, "socket", None),
            inetd=False, tls_cert=None, tls_key=None, client_ca=None))

    def config(self) -> Config:
        """The config in force, for the user alone."""
        return replace(super().config(), authz="local")

    def api(self, tls: Any) -> Api:
        """As of any server; the token is the one that the near side knows."""
        api = super().api(tls)
        api.local_token = getattr(self.given, "token", "") or api.local_token
        return api

    def place(self, api: Api) -> Place:
        """Where to listen; the folder of a socket is made, and there must be none."""
        if not NEAR.is_here:
            os.mkdir(os.path.dirname(self.given.socket), 0o700)
        return super().place(api)

    def announce(self, api: Api, sock: Any) -> None:
        """Open the browser here, or let the near side do so."""
        if NEAR.is_here:
            self.browser.open("http://127.0.0.1:%d/#token=%s" % (
                sock.getsockname()[1], api.local_token))
        else:
            write_whole(1, ("%s open\n" % NEAR.mark).encode())

    def run(self) -> None:
        """Serve until Ctrl-C, or until the near side is gone."""
        try:
            super().run()
        finally:
            self.browser.close()
            if not NEAR.is_here:
                with suppress(OSError):
                    os.rmdir(os.path.dirname(self.given.socket))


class HostOpening(HostCall):
    """`open` for another host: the server is there, behind a port that ssh forwards from here."""

    def options(self) -> List[str]:
        """What ssh is told besides; a connection that is shared would keep the port open."""
        import socket
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        self.opts.token = os.urandom(24).hex()
        self.opts.socket = "/tmp/psik-open-%s/socket" % os.urandom(16).hex()
        return ["-o", "ExitOnForwardFailure=yes", "-o", "ControlPath=none",
                "-L", "127.0.0.1:%d:%s" % (self.port, self.opts.socket)]

    def converse(self, there: HostConnection) -> ExitStatus:
        """Open the browser when the server is there, and wait for the end."""
        is_begun, browser = there.begin(self.request()), Browser()
        try:
            if is_begun and there.next_word() == ["open"]:
                browser.open("http://127.0.0.1:%d/#token=%s" % (self.port, self.opts.token))
            there.next_word()
        finally:
            browser.close()
        return self.status(there)

    def interrupted(self, there: HostConnection) -> ExitStatus:
        """End the server there; Ctrl-C is how `open` ends."""
        super().interrupted(there)
        return 0


@command("open --on login1.north")
def cmd_open(opts: Options) -> None:
    """Open a page in the browser that shows the jobs, until Ctrl-C.

    The server is yours alone; with --on it is there, behind a port here that ssh forwards.
    """
    if NEAR.is_here:
        begin_compiled()
    Opening(opts).run()


# The command line as a whole.

class CommandLine:
    """Reads a command line, and says where one stands if there is none."""

    @staticmethod
    def overview() -> str:
        """What psik.py is, and its commands, a line each."""
        about = summaries_of_commands()
        lines = ["Submit, follow and keep track of batch jobs."]
        for group, names in GROUPS:
            lines += [group + ":"] + ["  %-9s %s" % (name, about[name]) for name in names]
        return "\n".join(lines)

    @classmethod
    def parser(cls) -> Any:
        """The parser, made from COMMANDS."""
        import argparse
        shared = argparse.ArgumentParser(add_help=False)
        shared.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS,
                            help="the config; by default $PSIK_CONFIG, else ~/.config/psik.json")
        shared.add_argument("--on", metavar="HOST", default=argparse.SUPPRESS,
                            help="carry it out on this host, through ssh; by default $PSIK_ON")
        shared.add_argument("-v", "--verbose", action="count", default=argparse.SUPPRESS,
                            help="show each call of a scheduler's program; -vv what it prints")
        parser = argparse.ArgumentParser(
            prog=called(), usage="%s [-h] [--version] [-v] [--config FILE] [--on HOST] COMMAND ..."
            % called(),
            description=cls.overview(), parents=[shared], add_help=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog=called() + " COMMAND --help tells more, with an example.")
        parser.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
        parser.add_argument("--version", action="version", version=__version__,
                            help=argparse.SUPPRESS)
        subs = parser.add_subparsers(prog=called(), metavar="COMMAND", dest="command",
                                     help=argparse.SUPPRESS)
        subs.required = True
        for name, function, arguments, example in COMMANDS:
            sub = subs.add_parser(name, parents=[shared], description=function.__doc__,
                                  epilog="example: %s %s" % (called(), example))
            for names, options in arguments:
                sub.add_argument(*names, **options)
            sub.set_defaults(func=function)
        return parser

    @staticmethod
    def of_reached(words: Sequence[str]) -> Optional[Options]:
        """The options of `reached BASE JOBNDX STATE [INFO]`; None if it is written otherwise."""
        if len(words) not in (4, 5):
            return None
        base, jobndx, state, info = (list(words) + ["0"])[1:5]
        if not re.fullmatch("[0-9]{1,9}", jobndx) or state not in STATES:
            return None
        return Options(func=cmd_reached, config=None, base=base, jobndx=int(jobndx), state=state,
                       info=info, command="reached", verbose=0)

    @classmethod
    def in_job(cls, argv: Sequence[str]) -> Optional[Options]:
        """The options of a command line that a job uses; None for any other.

        argparse costs more time than the whole rest of such a call.
        """
        words = [word for word in argv if word != "--"]
        if any(word.startswith("-") for word in words):
            return None
        if words[:1] == ["deliver"] and len(words) > 1:
            return Options(func=cmd_deliver, config=None, jobid=words[1:], all=False, dead=False,
                           command="deliver", verbose=0)
        return cls.of_reached(words) if words[:1] == ["reached"] else None

    # {what others call it: its name here}
    COMMANDS_ELSEWHERE = {
        "ps": "ls", "list": "ls", "queue": "ls", "squeue": "ls", "bjobs": "ls", "qstat": "ls",
        "submit": "run", "sbatch": "run", "bsub": "run", "qsub": "run", "add": "run", "exec": "run",
        "scancel": "cancel", "bkill": "cancel", "qdel": "cancel", "stop": "cancel", "log": "logs",
        "remove": "rm", "delete": "rm", "clean": "rm --state completed", "show": "status",
        "prune": "rm --state completed --older 30d", "info": "status", "inspect": "status",
        "restart": "start", "retry": "start --state failed", "follow": "logs -f", "tail": "logs -f",
        "signal": "kill", "check": "doctor", "sinfo": "backends --queues"}
    OPTIONS_ELSEWHERE = {
        "-J": "--name", "--job-name": "--name", "-p": "--queue", "--partition": "--queue",
        "-q": "--queue", "-A": "--project", "--account": "--project", "-P": "--project",
        "-d": "--after", "--dependency": "--after", "-a": "--array", "--time": "-t", "-W": "-t",
        "--walltime": "-t", "--nodes": "-N", "--ntasks": "-n", "--gpus": "-g", "-M": "--mem",
        "--cpus-per-task": "--set resources.cpu_cores_per_process", "-D": "--dir",
        "--chdir": "--dir", "-o": "--join, and `logs` shows the output"}

    @classmethod
    def check(cls, names: Sequence[str], unknown: Sequence[str] = ()) -> None:
        """InvalidError if the first of these words is no command, or if it has no such options."""
        known = {name: arguments for name, _, arguments, _ in COMMANDS}
        name = names[0] if names else ""
        if name and name not in known:
            here = cls.COMMANDS_ELSEWHERE.get(name)
            raise InvalidError("no command %s%s; `%s --help` lists them" % (
                shown(name), ": here it is `%s %s`" % (called(), here) if here
                else nearest(name, known), called()))
        if unknown:
            cls.refuse(name, unknown[0], [each for argument in known.get(name, ())
                                          for each in argument.names])

    @classmethod
    def refuse(cls, name: str, word: str, options: Sequence[str]) -> None:
        """Raise InvalidError: a command, which has these options, does not take this word."""
        if name == "run" and not word.startswith("-"):
            raise InvalidError("run takes one SPEC, and no %s; a command stands behind --: `%s run "
                               "-- COMMAND ARGUMENT...`" % (shown(word), called()))
        option = word.split("=")[0]
        here = cls.OPTIONS_ELSEWHERE.get(option) if name == "run" else ""
        near = ": here it is %s" % here if here else nearest(option, options)
        raise InvalidError("%s takes no %s%s; `%s %s --help` tells what it takes" % (
            name, shown(word), near, called(), name))

    @staticmethod
    def words_in(argv: Sequence[str]) -> List[str]:
        """The words that are no options, nor the value of --config: the command is the first."""
        return [word for last, word in zip([""] + list(argv), argv) if not word.startswith("-")
                and not (len(last) > 3 and "--config".startswith(last))]

    @staticmethod
    def signals_in(argv: Sequence[str]) -> List[str]:
        """The words of `kill` with -s where -9 or -USR1 is meant for an option, as elsewhere."""
        return [part for word in argv for part in (
            ("-s", word[1:]) if re.fullmatch("-([0-9]+|[A-Z][A-Z0-9]+)", word) else (word,))]

    @staticmethod
    def take_rest(names: Sequence[str], rest: Sequence[str], opts: Options) -> Sequence[str]:
        """The words left over, of those that argparse leaves over where options stand between.

        It takes no more of a list when an option has followed: `get last -o DIR PATTERN`.
        """
        arguments = next((each for name, _, each, _ in COMMANDS if name in names[:1]), ())
        of_list = next((argument.names[0] for argument in arguments
                        if argument.options.get("nargs") in ("*", "+")), "-")
        words = list(rest)
        if "--" in words:
            words.remove("--")
        elif any(word.startswith("-") for word in words):
            return rest
        if of_list.startswith("-"):
            return rest
        getattr(opts, of_list).extend(words)
        return []

    @staticmethod
    def take_inputs(rest: Sequence[str], opts: Options) -> Sequence[str]:
        """The words left over that are no inputs of an application, where `run` is given one."""
        if not vars(opts).get("app"):
            return rest
        opts.words = [word for word in rest if not word.startswith("-")] + opts.words
        return [word for word in rest if word.startswith("-")]

    @classmethod
    def read(cls, argv: Sequence[str]) -> Options:
        """The options of a command line; InvalidError, or SystemExit if argparse refuses it."""
        if not argv:
            return Options(func=cls.welcome, config=None, verbose=0)
        given = cls.in_job(argv)
        if given:
            return given
        words: Sequence[str] = []
        before = argv[:list(argv).index("--")] if "--" in argv else argv
        names = cls.words_in(before)
        if names[:1] == ["run"]:    # what follows is a command
            argv, words = before, argv[len(before) + 1:]
        if names[:1] == ["kill"]:
            argv = cls.signals_in(argv)
        cls.check(names)
        opts = Options(config=None, verbose=0, words=list(words))
        rest = cls.take_rest(names, cls.parser().parse_known_args(argv, opts)[1], opts)
        cls.check(names, cls.take_inputs(rest, opts))
        return opts

    @staticmethod
    def host_in(argv: Sequence[str]) -> Tuple[str, List[str]]:
        """(the host that --on or $PSIK_ON names, '' for this one; the other words)."""
        words, host = list(argv), os.environ.get("PSIK_ON", "")
        end = words.index("--") if "--" in words else len(words)
        for place, word in enumerate(words[:end]):
            if word == "--on" or word.startswith("--on="):
                value = words[place:place + 2] if word == "--on" else [word[:4], word[5:]]
                if len(value) < 2:
                    raise InvalidError("--on wants the name of a host, as ssh takes it")
                return value[1], words[:place] + words[place + (2 if word == "--on" else 1):]
        return host, words

    @classmethod
    def read_any(cls, argv: Sequence[str]) -> Options:
        """As read(), with a command for another host as one that is carried out there."""
        host, words = cls.host_in(argv)
        opts = cls.read(words)
        if hasattr(opts, "on"):
            raise InvalidError("write --on out")
        cls.begin_logging(opts)
        # These are for this host; so they are, unless --on itself asks for something else.
        is_ours = vars(opts).get("command") in ("help",) + HostCall.HERE * (len(words) == len(argv))
        return cls.of_host(host, opts) if host and not is_ours else opts

    @staticmethod
    def begin_logging(opts: Options) -> None:
        """With -v show each call of a scheduler's program on stderr; with -vv what it prints too.
        """
        if opts.verbose:
            import logging
            logging.basicConfig(level="DEBUG" if opts.verbose > 1 else "INFO",
                                format="psik: %(message)s")

    @classmethod
    def of_host(cls, host: str, opts: Options) -> Options:
        """The options of a command that is carried out on another host."""
        name = vars(opts).get("command", "")
        if name in HostCall.HERE:
            raise InvalidError("%s is not for --on: log in there for it%s" % (
                name, ", or type `open`" * (name == "serve")))
        kind, func = HostOpening if name == "open" else HostCall, opts.func
        call = kind(host, name, opts)

        def carry_out(_: Options) -> ExitStatus:
            if func is cmd_run:
                NEAR.texts = {}
                (NewUse if opts.app else NewJob)(opts).read_files()
            return call.run()

        return Options(func=carry_out)

    @staticmethod
    def of_request(request: Json) -> Options:
        """The options of a command that was read on another host."""
        functions = {name: function for name, function, _, _ in COMMANDS}
        func = functions.get(request["command"], CommandLine.welcome)
        return Options(func=func, config=None, **request["options"])

    @staticmethod
    def welcome(opts: Options) -> None:
        """Say what psik.py is, and where one stands."""
        config = load_config(opts.config)
        found = JobFilter(reasons=False).find(config, limit=200, poll=False)
        newest = [summary for _, summary in found]
        begin = time.time() - Listing.RECENT_DAYS * 86400
        counts = {state: sum(each.state == state for each in newest if state in ("queued", "active")
                             or each.updated >= begin) for state in ("active", "queued", "failed")}
        say("psik.py %s: submits, follows and keeps track of batch jobs." % __version__)
        say("Here, of the newest jobs, %d run, %d wait, and %d failed in the last days.\n" % (
            counts["active"], counts["queued"], counts["failed"]))
        for example, meaning in (("run -- COMMAND", "run a command as a job"), ("ls", "list jobs"),
                                 ("why last", "why the newest failed, or waits"),
                                 ("--help", "all commands"), ("help spec", "what a job can be")):
            say("  %s %-15s %s" % (called(), example, meaning))


# Help.

class Reference:
    """What `help TOPIC` prints, made from the models and tables by which the code itself goes."""

    def __init__(self) -> None:
        self.width = max(40, min(100, NEAR.size(100)[0]))

    def entry(self, name: str, meaning: str) -> None:
        """Print a name, and below it what it means."""
        import textwrap
        say(name)
        for line in textwrap.wrap(meaning, self.width - 6) or [""]:
            say("      " + line)

    def fields(self, model: Type[Model], above: str = "") -> None:
        """Print the fields of a model."""
        for item in fields(model):  # type: ignore[arg-type]
            default = default_of(item)
            if item.metadata["required"]:
                value = " (required)"
            else:
                value = "" if default in (None, {}, [], "") or isinstance(default, Model) else (
                    " = " + json.dumps(default))
            self.entry(above + item.name + value, item.metadata["doc"])

    def rows(self, rows: Mapping[str, str]) -> None:
        """Print a table."""
        for name, meaning in rows.items():
            self.entry(name, meaning)

    def spec(self) -> None:
        """A job: the JSON that `run` takes."""
        self.fields(JobSpec)
        self.fields(ResourceSpec, "resources.")
        self.fields(BackendConfig, "backend.")

    def config(self) -> None:
        """~/.config/psik.json."""
        self.fields(Config)
        self.fields(BackendConfig, "backend.")

    def states(self) -> None:
        """The states of a job."""
        self.rows(STATE_MEANINGS)
        say("A step only moves down this list, and its first final state stays.")

    @staticmethod
    def tree() -> None:
        """The files of a job."""
        doc = __doc__
        if not doc:
            raise InvalidError("this Python was told to drop all help (-OO)")
        say(doc[doc.index("    prefix/"):doc.index('"Upstream" is')].rstrip())

    def templates(self) -> None:
        """How a backend is made, for a scheduler that psik.py does not know."""
        say("The folder that `templates` in the config names holds a folder for each type of\n"
            "backend; `%s backends --export DIR` writes the built-in ones out.\n" % called())
        self.rows(TEMPLATES_OF_A_BACKEND)
        say("\nIn a template stands, in place of")
        self.rows({"@%s@" % name: meaning for name, meaning in TEMPLATE_NAMES.items()})

    @staticmethod
    def callbacks() -> None:
        """What is sent to the URL that `callback` of a spec names."""
        say("Each change of state is a POST with this JSON, signed if the spec has a cb_secret:\n")
        say(json.dumps({"jobid": "1795220145.691", "jobndx": 1, "state": "active", "info": 4242}))
        say("\nx-hub-signature-256 is sha256= and the HMAC-SHA256 of the body under the secret.\n"
            "What could not be sent is tried again by `%s deliver`, `poll` and the server."
            % called())

    def api(self) -> None:
        """The routes of `serve`."""
        for route in ROUTES:
            doc = (route.handler.__doc__ or "").strip().split("\n")[0]
            self.entry("%-6s %s" % (route.method, route.path), doc)
        say("`%s serve --openapi` prints all of it." % called())

    def exit(self) -> None:
        """Exit statuses."""
        self.rows({str(status): meaning for status, meaning in (
            (0, "it is done"), (1, "the system failed"), *sorted(
                (cls.exit_status, (cls.__doc__ or "").split("\n")[0]) for cls in (
                    InvalidError, NotFoundError, BackendError, ConflictError, ForbiddenError)),
            (124, "--timeout was over"), (130, "Ctrl-C; the job goes on"),
            (143, "`wait`: the job was canceled; else `wait` exits as the job did"))})

    @staticmethod
    def schema() -> Json:
        """The JSON Schema of a spec, for editors."""
        text = json.dumps(OpenApi().document()["components"]["schemas"])
        found: Set[str] = set()
        wanted = ["JobSpec"]
        parts = json.loads(text.replace("#/components/schemas/", "#/$defs/"))
        while wanted:
            name = wanted.pop()
            found.add(name)
            wanted += set(re.findall(r'"#/[$]defs/(\w+)"', json.dumps(parts[name]))) - found
        return {"$schema": "https://json-schema.org/draft/2020-12/schema",
                "$ref": "#/$defs/JobSpec", "$defs": {name: parts[name] for name in sorted(found)}}

    TOPICS = ("spec", "config", "states", "tree", "templates", "callbacks", "api", "exit")

    @classmethod
    def topics(cls) -> Dict[str, str]:
        """{topic: what it is about}."""
        return {name: (getattr(cls, name).__doc__ or "").rstrip(".") for name in cls.TOPICS}


@command("help spec",
         arg("topic", nargs="?", metavar="TOPIC",
             help="a command, or one of " + ", ".join(Reference.TOPICS)),
         arg("--json", action="store_true", help="of spec: its JSON Schema, for editors"))
def cmd_help(opts: Options) -> Optional[ExitStatus]:
    """Tell all about a command, a spec, the config, or the files of a job."""
    topic = opts.topic
    if opts.json:
        if topic != "spec":
            raise InvalidError("--json goes with `help spec`")
        say(json.dumps(Reference.schema(), indent=2))
    elif topic in Reference.TOPICS:
        getattr(Reference(), topic)()
    elif topic in [name for name, _, _, _ in COMMANDS]:
        CommandLine.read([topic, "--help"])
    elif topic:
        names = list(Reference.TOPICS) + [name for name, _, _, _ in COMMANDS]
        raise InvalidError("no help on %s%s; there is %s" % (
            shown(topic), nearest(topic, names), ", ".join(Reference.TOPICS)))
    else:
        CommandLine.parser().print_help()
        say("\n%s help TOPIC tells more of:" % called())
        for name, about in Reference.topics().items():
            say("  %-9s %s" % (name, about))
    return None


# The program.

def open_missing_streams() -> None:
    """Open the null device as stdin, stdout or stderr if it was closed.

    The next file that is opened would get its descriptor, and our output with it.
    """
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), fd)
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, "w" if fd else "r", closefd=False))


def run_one(read: Callable[[], Options]) -> ExitStatus:
    """Read options and run their command; the exit status.  What fails is said in a line."""
    try:
        opts = read()
        status = opts.func(opts) or 0
        with naming("standard output"):
            sys.stdout.flush()
        return int(status)
    except SystemExit as stop:  # argparse has said what was wrong
        return stop.code if isinstance(stop.code, int) else 2
    except PsikError as err:
        for line in str(err).split("\n"):
            complain(one_line(line))
        return err.exit_status
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130
    except OSError as err:
        complain(fault_of_system(err))
        return 1


def main(argv: Optional[Sequence[str]] = None) -> ExitStatus:
    """Run one command line; its exit status."""
    open_missing_streams()
    return run_one(lambda: CommandLine.read_any(sys.argv[1:] if argv is None else argv))


def main_for(data: bytes, mark: str) -> ExitStatus:
    """Run one command that was read on another host; templates/loader.py calls this."""
    def read() -> Options:
        request = FarSide.read_request(data)
        opts = CommandLine.of_request(request)
        CommandLine.begin_logging(opts)
        if not request["takes_files"]:
            _thread.start_new_thread(FarSide.watch, ())
        return opts

    import signal
    signal.signal(signal.SIGINT, signal.default_int_handler)    # of some logins it is ignored
    write_whole(1, ("%s go\n" % mark).encode())
    return run_one(read)


# --------------------------------------------------------------------------- 25. Embedded templates

# Made from templates/ by `make embed`; edit them there.
# begin embedded templates
TEMPLATES: Dict[str, str] = {
    'completion.bash': r'''# Completion of psik in bash, made by `psik.py install`.
_psik() {
	local word=${COMP_WORDS[COMP_CWORD]} words='' flags=''
	if [[ $COMP_CWORD == 1 ]]; then
@commands@
	elif [[ $word == -* ]]; then
		case ${COMP_WORDS[1]} in
@options@
		esac
	else
		case ${COMP_WORDS[1]} in
@jobs@
			words="last $("${COMP_WORDS[0]}" ls -n 20 2>/dev/null |
				sed -n 's/^\([0-9][0-9.]*\).*/\1/p')"
		esac
	fi
	mapfile -t COMPREPLY < <(compgen -W "$words $flags" -- "$word")
}
complete -o default -F _psik psik
''',
    'completion.zsh': r'''#compdef psik
# Completion of psik in zsh, made by `psik.py install`.
local -a found
local flags
if ((CURRENT == 2)); then
	found=(
@described@
	)
	_describe command found
elif [[ $words[CURRENT] == -* ]]; then
	case $words[2] in
@options@
	esac
	compadd -- ${=flags}
else
	case $words[2] in
@jobs@
		compadd last ${(f)"$($words[1] ls -n 20 2>/dev/null |
			sed -n 's/^\([0-9][0-9.]*\).*/\1/p')"} ;;
	*) _files ;;
	esac
fi
''',
    'job_body': r'''# From here on the job script is the supervisor: it starts scripts/run, and
# records how that ends.
test -x @python@ && mpirun=$mpirun nodes=$nodes jobid=$jobid psik_task=$psik_task \
	psik_walltime_s=$psik_walltime_s exec @python@ -I -S -X utf8 @supervise@ @job@ $1
# The Python that made the job is not on this node: take another one.
mpirun=$mpirun nodes=$nodes jobid=$jobid psik_task=$psik_task \
	psik_walltime_s=$psik_walltime_s exec /bin/sh -c '
	for python in python3 /usr/bin/python3 /usr/libexec/platform-python; do
		"$python" -c "import sys; sys.exit(sys.version_info < (3, 6))" 2>/dev/null &&
			exec "$python" -I -S -X utf8 "$@"
	done
	log=${2%/scripts/job}/log
	reason="this node, $(uname -n), has no python3, or one older than 3.6"
	echo "$reason" >>"$log/submit.$3"
	echo "$reason" >"$log/reason.$3"
	echo "$(date +%s || echo 0),$3,failed,127" >>"$log/../status.csv"
	exit 127' psik @supervise@ @job@ $1
''',
    'launcher.py': r'''#!@python@
# The command psik, made by `psik.py install`.  It imports psik.py, so that it is compiled once, and
# nothing from the current directory.
import sys
@place@
sys.path.append(folder)  # last, so that no file beside psik.py replaces a module of Python's own
try:
    psik = __import__(module)
except ImportError as err:
    sys.exit("psik: %s in %s; if psik.py was moved, run its `install` again" % (err, folder))
except (EOFError, ValueError, TypeError):  # on a full disk Python cuts the compiled file
    import shutil
    shutil.rmtree(folder + "/__pycache__")
    sys.dont_write_bytecode = True
    psik = __import__(module)
sys.exit(psik.main())
''',
    'loader.py': r'''# Runs psik.py on a host that `psik.py --on HOST` has reached by ssh.
#
# A copy of psik.py stays there, in a folder named by its hash.
#
# argv: this program; the mark that sets our words off from those of a login; the hash of psik.py.
# stdin: the length of the request in a line, and the request; the same for each file asked for.
# stdout: `MARK want NAME...`, `MARK full REASON`, or `MARK go`; what follows is the command's own.
import os
import stat
import sys
import time
from contextlib import suppress

MARK, HASH = sys.argv[2:4]
BEGIN = "import base64, sys; exec(base64.b64decode(sys.argv[1]))"
NAMES = ["psik.py"] + ["dataclasses.py"] * (sys.version_info < (3, 7))
FOLDER = HASH + "-3.6" * (len(NAMES) > 1)
KEEP_S = 30 * 86400     # a copy goes when it has not been used for so long


def tell(words):
    os.write(1, ("%s %s\n" % (MARK, words)).encode("utf-8", "backslashreplace"))


def read(size):
    data = b""
    while len(data) < size:
        block = os.read(0, size - len(data))
        if not block:
            os._exit(1)     # the connection is gone, and with it whoever could be told
        data += block
    return data


def read_sized():
    line = b""
    while not line.endswith(b"\n"):
        line += read(1)
    return read(int(line))


def places():
    """Where the copies may be kept, the best place first."""
    home = os.path.expanduser("~")
    yield os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache"), "psik")
    if os.environ.get("XDG_RUNTIME_DIR"):
        yield os.path.join(os.environ["XDG_RUNTIME_DIR"], "psik")
    yield os.path.join(os.environ.get("TMPDIR") or "/tmp", "psik-%d" % os.getuid())


def is_ours(path):
    """Whether a folder is ours alone: no link, and nobody else can write to it."""
    status = os.lstat(path)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() \
        and not status.st_mode & 0o022


def find():
    """The folder of the copy; None if there is no whole one."""
    for place in places():
        folder = os.path.join(place, FOLDER)
        files = [os.path.join(folder, name) for name in NAMES]
        if os.path.isdir(folder) and is_ours(place) and is_ours(folder) \
                and all(map(os.path.isfile, files)):
            return folder


def write(path, content):
    """Make a file, and see it on the disk."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(fd)


def keep(files, place):
    """Write a copy, whole or not at all; its folder."""
    import hashlib
    import shutil
    os.makedirs(place, 0o700, exist_ok=True)
    if not is_ours(place):
        raise OSError("%s: others can write there, or it is a link" % place)
    folder = os.path.join(place, FOLDER)
    temporary = "%s.%s" % (folder, os.urandom(6).hex())
    os.mkdir(temporary, 0o700)
    try:
        for name, content in files.items():
            write(os.path.join(temporary, name), content)
        with open(os.path.join(temporary, "psik.py"), "rb") as file:
            if hashlib.sha256(file.read()).hexdigest()[:16] != HASH:
                raise OSError("%s: what came is not what was sent" % place)
        if os.path.lexists(folder) and not find():
            os.rename(folder, temporary + ".old")   # it lacks something
        with suppress(OSError):      # another call was first
            os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(temporary + ".old", ignore_errors=True)
    if not find():
        raise OSError("%s cannot be made" % folder)
    return folder


def drop_old(place):
    """Remove the copies that have not been used for long."""
    import shutil
    for name in os.listdir(place):
        folder = os.path.join(place, name)
        is_copy = len(name) >= 16 and set(name[:16]) <= set("0123456789abcdef")
        with suppress(OSError):
            if is_copy and os.lstat(folder).st_mtime < time.time() - KEEP_S:
                shutil.rmtree(folder)


def receive():
    """Ask for psik.py, and keep it; its folder, None if it can be kept nowhere."""
    tell("want " + " ".join(NAMES))
    files, why = {name: read_sized() for name in NAMES}, ""
    for place in places():
        try:
            folder = keep(files, place)
        except OSError as err:
            why += "; " * bool(why) + str(err)
        else:
            drop_old(place)
            return folder
    tell("full " + why)


def touch(folder):
    """Note once a day that a copy is used, and remove those that are not."""
    with suppress(OSError):     # of a home that is full, or cannot be written to now
        if time.time() - os.stat(folder).st_mtime > 86400:
            for path in [folder] + [os.path.join(folder, name) for name in NAMES]:
                os.utime(path)
            drop_old(os.path.dirname(folder))


def begin_with_utf8():
    """Let Python 3.6 take names of files as UTF-8, as later ones do where no locale is set."""
    if len(NAMES) > 1 and sys.getfilesystemencoding() != "utf-8" and "PSIK_AGAIN" not in os.environ:
        os.environ.update(LC_ALL="C.UTF-8", PSIK_AGAIN="")
        os.execv(sys.executable, [sys.executable, "-ISc", BEGIN] + sys.argv[1:])
    if os.environ.pop("PSIK_AGAIN", None) is not None:
        os.environ.pop("LC_ALL")


def main():
    begin_with_utf8()
    request = read_sized()
    folder = find() or receive()
    if not folder:
        return 1
    touch(folder)
    sys.path.append(folder)
    sys.argv[:] = ["psik.py"]
    try:
        import psik
    except (EOFError, ValueError, TypeError):   # on a full disk Python cuts the compiled file
        import shutil
        shutil.rmtree(os.path.join(folder, "__pycache__"))
        sys.dont_write_bytecode = True
        import psik
    return psik.main_for(request, MARK)


sys.exit(main())
''',
    'psik': r'''#!/bin/sh
# The program that $psik names inside the job: the psik.py that made the job, run by the Python
# that made it, or by python3 if this node does not have that one; what the job did to PYTHONPATH
# and PYTHONHOME does not matter.  psik.py is imported, so that its compiled file is used again.

# record BASE JOBNDX STATE [INFO]: append a transition of a job without a callback, in a tenth of
# the time that Python takes.  It fails if anything is not plain; then Python does it.
record() {
	case $2 in '' | *[!0-9]* | ??????????*) return 1 ;; esac
	case $3 in new | queued | active | completed | failed | canceled) ;; *) return 1 ;; esac
	case ${4-0} in '' | *[!A-Za-z0-9._+:-]*) return 1 ;; esac
	test $# -le 4 && test "${#4}" -le 200 || return 1
	test -s "$1/status.csv" && test ! -e "$1/scripts/callback.json" || return 1
	flock -w 60 "$1/status.csv" date "+%s.%3N,$2,$3,${4-0}" >>"$1/status.csv"
}
psik_by_itself=
psik_by_itself=@by_itself@
if test -n "$psik_by_itself" && test "$1" = reached; then
	if test "$2" = --; then
		(shift 2 && record "$@") && exit
	else
		(shift && record "$@") && exit
	fi
fi
psik_python=@python@
test -x "$psik_python" || psik_python=python3
exec "$psik_python" -I -S -c 'import gc
import os
import sys
gc.disable() # a collection would go through all that is imported, and find nothing
sys.path.append(sys.argv.pop(1))
os.environ.pop("PSIK_ON", None) # what a job calls is for the host where it is
try:
	import psik
except (EOFError, ValueError, TypeError): # on a full disk Python cuts the compiled file
	import shutil
	shutil.rmtree(sys.path[-1] + "/__pycache__")
	sys.dont_write_bytecode = True
	import psik
gc.enable()
status = psik.main()
sys.stdout.flush()
sys.stderr.flush()
os._exit(status) # to take the interpreter apart first would cost time' @psik_dir@ "$@"
''',
    'setup': r'''#!/bin/bash
# The set-up lines of the spec, which the supervisor runs in a login bash; then the script takes
# its place.  A line fails if its exit status is not 0, or if it is a module command that says
# ERROR: old ones exit with 0 all the same.
psik_keep() { # NAME: set by the spec; the files that a login reads may have changed it
	local kept=PSIK_SET_$1
	test -z "${!kept+x}" || export "$1=${!kept}"
	unset "$kept"
}
psik_end() { # STATUS WHAT: end the step, because of the line in hand
	trap - EXIT
	printf 'set-up line %s %s: %s\n' "$psik_number" "$2" "${psik_line%%$'\n'*}" \
		>"$base/log/reason.$jobndx"
	exit "$1"
}
psik_check() { # STATUS: of the line in hand; 9 is what was written to stderr since
	local said wrong=
	while IFS= read -r said; do
		case $psik_line:$said in
			"module "*ERROR* | "ml "*ERROR*) wrong=yes ;;
		esac
	done <&9
	test "$1" -eq 0 || psik_end "$1" failed
	test -z "$wrong" || psik_end 1 failed
}
psik_keep @environment_name@
cd @directory@ || exit
exec 9<"$base/log/stderr.$jobndx"
psik_number=0
trap 'psik_end 1 "ended the shell"' EXIT
trap 'trap - EXIT TERM; kill -TERM $$' TERM
psik_number=$((psik_number + 1)) psik_line=@setup@; eval "$psik_line"; psik_check $?
trap - EXIT TERM
exec 9<&-
unset psik_line psik_number
exec "$base/scripts/run"
''',
    'supervise': r'''"""Start the supervisor of this job's steps, with the job's settings."""
import posix
import sys

SETTINGS = {"home": ".", "check_owner": False}  # @settings@

path = SETTINGS["home"] + "/supervisor.py"
if SETTINGS["check_owner"] and posix.stat(path).st_uid not in (posix.geteuid(), 0):
    sys.exit("psik: %s belongs to somebody else, so it is not run" % SETTINGS["home"])
sys.path.insert(0, SETTINGS["home"])
try:
    import supervisor
except (EOFError, ValueError, TypeError):  # on a full disk Python cuts the compiled file
    posix.unlink("%s/__pycache__/supervisor.%s.pyc" % (
        SETTINGS["home"], sys.implementation.cache_tag))
    sys.dont_write_bytecode = True
    import supervisor

supervisor.main(SETTINGS, sys.argv)
''',
    'supervisor.py': r'''#!/usr/bin/env python3
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
        path = self.folder + "/lock"
        while True:
            self.make_folder()
            fd = posix.open(path, posix.O_RDWR | posix.O_CREAT, 0o600)
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
        posix.close(self.fd)
        try:
            fd = self.lock()
            posix.unlink(self.own)
            for path in self.paths():
                if Ticket(path).counts():
                    break
                posix.unlink(path)
            else:
                posix.unlink(self.folder + "/lock")
                posix.rmdir(self.folder)
            posix.close(fd)
        except OSError:
            pass
        self.own = ""

    def waiting(self) -> "Dict[str, Tuple[int, str]]":
        """{path of log/alive.N: (supervisor, what it waits for)} of the steps that wait."""
        found = {}
        for ticket in map(Ticket, self.paths() if self.folder else ()):
            if not ticket.is_granted and ticket.alive and is_locked(ticket.path):
                parts = ["%d of %d %s" % (asked, self.there[name], name) for name, asked in (
                    ("slots", ticket.slots), ("gpus", ticket.gpus))
                    if asked and name in self.there]
                found[ticket.alive] = (ticket.pid, "waits for " + " and ".join(parts))
        return found


# What the backends' cancel and poll ask.

def steps_of_stdin() -> "Iterator[Tuple[str, Step]]":
    """(native id, step) of each line `NATIVEID psik-JOBID.JOBNDX` on stdin.

    The jobs lie in the same folder as this one.  In place of JOBNDX, a task of an array may have
    OFFSET+TASK.
    """
    for line in open(0, "rb"):
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


def poll() -> int:
    """Print a poll line for each step that is alive, or whose supervisor was killed.

    A step on another host counts as alive.
    A step without a claim is only beginning, or was started by psik.py 1.0.0, whose native ids are
    numbers of sessions.
    """
    processes, steps, waiting = our_processes(), list(steps_of_stdin()), Slots().waiting()
    running = set() if all(step.claim.host for _, step in steps) else running_scripts()
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
        elif not place and step.log("alive") in waiting:
            print(native, "queued -", step.tag, waiting[step.log("alive")][1])
        elif not place and (step.base in running
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


def cancel() -> int:
    """End the steps that stdin names; 1 if one of them is still alive, else 0.

    Nothing is done about a step of this host without a claim, whose supervisor will see in the
    history that it is canceled, nor about one from before the host was started again.
    """
    status, grace_s = 0, float(SETTINGS["grace_s"])
    ways = {"here": end_here, "apart": end_elsewhere, "elsewhere": end_elsewhere}
    steps = [step for _, step in steps_of_stdin()]
    request_ends(steps)
    for step in steps:
        end = ways.get(step.place())
        fault = end(step, grace_s) if end else ""
        if fault:
            complain("step %d: %s" % (step.jobndx, fault))
            status = 1
    end_waiting(steps)
    arrays = {step.base for step in steps if step.offset is not None and not step.place()
              and not exists(step.log("cancel"))}   # else only some of its tasks are to end
    deadline = time.monotonic() + 2 * CANCEL_LOOK_S
    while arrays & running_scripts() and time.monotonic() < deadline:
        time.sleep(0.05)    # until the supervisor of the array has seen it
    return status


def end_waiting(steps: "List[Step]") -> None:
    """Let the supervisors of those steps that wait for slots see that they are canceled."""
    deadline, pids = time.monotonic() + 2 * CANCEL_LOOK_S, {0}
    while pids and time.monotonic() < deadline:
        waiting = Slots().waiting()
        pids = {waiting[step.log("alive")][0] for step in steps if step.log("alive") in waiting}
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
    for _, step in steps_of_stdin():
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
        target, lines = self.targets[receiver], lines[:cut]
        while lines:
            lines = lines[posix.write(target, lines):]
        if not data:
            posix.close(receiver)
            del self.targets[receiver]

    def reap(self) -> None:
        """Take note of those that have ended."""
        for pid in list(self.pids):
            ended, status = posix.waitpid(pid, posix.WNOHANG)
            if not ended:
                continue
            self.pids.discard(pid)
            if status and not self.code:
                exited = posix.WIFEXITED(status)
                self.code = posix.WEXITSTATUS(status) if exited else 128 + posix.WTERMSIG(status)
                for other in self.pids:
                    send(other, _signal.SIGTERM, _signal.SIGCONT)

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
        for fd in self.unsynced:
            posix.fsync(fd)
            posix.close(fd)
        if self.unsynced:
            posix.fsync(self.fd)
        self.unsynced = []

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
        self.began = time.monotonic()
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
            self.handle(self.wait(min(1.0, 0.05 + 0.05 * self.slots.place)))
            self.slots.touch()
            self.history.read()
            if self.history.is_canceled(self.step.jobndx) or exists(self.step.log("cancel")):
                break
        self.began = time.monotonic()

    def begin(self) -> bool:
        """Claim the step and record that it is active; False if it must not run."""
        self.write_to_log()
        self.await_slots()
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
        ours.update({"mpirun": self.words["mpirun"], "nodes": self.words["nodes"],
                     "base": SETTINGS["base"], "jobid": self.native,
                     "jobndx": str(self.step.jobndx), "psik": SETTINGS["psik"],
                     "rc": SETTINGS["rc"], "PSIK_MARK": self.step.mark})
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
        longest_s = CANCEL_LOOK_S if self.walltime_s else 86400  # a scheduler signals
        while self.code is None and not self.stopped:
            self.handle(self.wait(max(0.0, min(deadline - time.monotonic(), longest_s))))
            self.slots.touch()
            if self.walltime_s and exists(self.step.log("cancel")):
                self.stop(_signal.SIGTERM, "")
            elif time.monotonic() >= deadline and self.code is None:
                minutes = SETTINGS["duration_min"]
                self.stop(_signal.SIGTERM, "its walltime of %s min was over" % minutes)
        if not self.walltime_s and not self.stopped:
            # A scheduler that ends a job may signal the payload first, and us a moment later.
            self.handle(self.wait(0.1))
        self.end_members()

    def end_members(self) -> None:
        """End what is alive of the step, the payload included."""
        # Process ids grow until they wrap round, so what the step has started has greater ids than
        # ours.  They do not come round within a second: the last one given out tells.
        is_quick = time.monotonic() - self.began < 1 and last_process() > posix.getpid()
        killed, rest = end_processes(self.step, self.payload, SETTINGS["grace_s"], self.wait,
                                     posix.getpid() if is_quick else 0)
        if killed and "walltime" in self.reason:
            self.stopped = 137
        while rest and self.walltime_s:  # what cannot be killed yet: the job has not ended
            self.wait(CANCEL_LOOK_S)
            rest = self.step.rest(self.payload)

    # Ending.

    def outcome(self) -> "Tuple[str, int]":
        """(state, info) of the step's end."""
        if not self.stopped:
            return "failed" if self.code else "completed", self.code or 0
        is_canceled = (self.history.is_canceled(self.step.jobndx)
                       or exists(self.step.log("cancel")))
        return "canceled" if is_canceled else "failed", self.stopped

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
        deadline = time.monotonic() + (OWN_RETRY_S if self.walltime_s else RETRY_S)
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
        self.history.sync()
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
        if not self.stopped:
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
            return 1, "its directory is gone"
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
            ended = self.history.ended()
            for jobndx in canceled:
                if jobndx not in ended:     # psik.py may have recorded it
                    self.history.append(jobndx, "canceled", "143")
            self.history.unlock()

    def start(self, jobndx: int) -> None:
        """Run a task in a process of its own."""
        pid = posix.fork()
        if pid:
            self.running.add(pid)
            return
        try:
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
            self.leave_out_canceled()
            while self.waiting and len(self.running) < self.at_once:
                self.start(self.waiting.pop(0))
            if self.running:
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
    if argv[1:] in (["poll"], ["cancel"]):
        posix._exit(poll() if argv[1] == "poll" else cancel())
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
''',
    'at/array': r'''#!@shell@
# at: a supervisor runs the tasks of an array, however many and whichever.
echo 100000 list
''',
    'at/cancel': r'''#!@shell@
# at: atrm removes jobs from the queue, but does not end those that run: their supervisors do.  A
# task of an array that goes on (ID+INDEX) is left out by its supervisor.
# needs: atrm
/bin/sh -c 'for id; do
		case $id in *+*) ;; *) atrm "$id" ;; esac
	done' psik $*
test -x @python@ && exec @python@ -I -S -X utf8 @supervise@ cancel
exec python3 -I -S -X utf8 @supervise@ cancel
''',
    'at/check': r'''#!@shell@
# at: fail if the user may not use at, or if no atd is running.  at(1) itself finds it by its pid.
# needs: atq
exec /bin/sh -c 'atq >/dev/null || exit 1
	test -d /proc/1 || exit 0
	read -r pid 2>/dev/null </run/atd.pid || read -r pid 2>/dev/null </var/run/atd.pid
	test -d "/proc/${pid:-none}" || {
		echo "no atd is running" >&2
		exit 1
	}'
''',
    'at/job': r'''#!@shell@
# at: @name@
mpirun=@mpiexec@
mpirun=@launcher@
nodes=1
jobid=ask
psik_task=all
psik_walltime_s=@duration_s@
@job_body@
''',
    'at/poll': r'''#!@shell@
# at: atq lists the jobs that wait.  Whether one runs is known from the locks and marks of its step,
# because atq forgets a job whose first process has ended.  Only the text of a job holds its tag, so
# it is read only if a tag is asked for.
# needs: at atq
exec /bin/sh -c 'python=$1 supervise=$2
	shift 2
	test -x "$python" || python=python3
	waiting=$(atq) || exit 1
	why=
	read -r pid 2>/dev/null </run/atd.pid || read -r pid 2>/dev/null </var/run/atd.pid
	test ! -d /proc/1 || test -d "/proc/${pid:-none}" || why="no atd is running"
	"$python" -I -S -X utf8 "$supervise" poll || exit 1
	case "$*" in *psik-*) tagged=yes ;; esac
	while read -r id rest; do
		test -n "$id" || continue
		state=queued
		case $rest in *" = "*) state=active ;; esac
		echo "$id $state - - $why"
		test -z "$tagged" || at -c "$id" | while read -r line; do
			case $line in *" # psik-"*) echo "$id $state - psik-${line##* \# psik-} $why" ;; esac
		done
	done <<-END
	$waiting
	END' psik @python@ @supervise@ $*
''',
    'at/signal': r'''#!@shell@
# at: the supervisor of a step passes the signal on.
test -x @python@ && exec @python@ -I -S -X utf8 @supervise@ signal $1
exec python3 -I -S -X utf8 @supervise@ signal $1
''',
    'at/submit': r'''#!@shell@
# at: queue scripts/job, by default in queue b, which batch uses and which waits for a low load.
# Print the number of the job, which at prints on stderr, and on stderr all else that at says.  at
# has /bin/sh run the text that it reads, in this directory.
# needs: at
cd @base@ || exit 1
echo $2 >@log@/host.$1
psik_queue=b
psik_queue=@queue_name@
exec /bin/sh -c 'jobndx=$1 tag=$2
	shift 2
	text="exec \"\$(pwd)\"/scripts/job $jobndx </dev/null >/dev/null 2>&1 # $tag"
	answer=$(echo "$text" | at "$@" now 2>&1)
	status=$?
	while read -r word id at rest; do
		case "$word $at" in
			"job at") echo "$id" ;;
			"warning: will") ;;
			*) test -z "$word" || echo "$word $id $at $rest" >&2 ;;
		esac
	done <<-END
	$answer
	END
	exit $status' psik $1 @tag@.$1$3 -q $psik_queue \
	@attributes@ \
	-M
''',
    'local/array': r'''#!@shell@
# local: a supervisor runs the tasks of an array, however many and whichever.
echo 100000 list
''',
    'local/cancel': r'''#!@shell@
# local: the supervisor of a step ends it.
test -x @python@ && exec @python@ -I -S -X utf8 @supervise@ cancel
exec python3 -I -S -X utf8 @supervise@ cancel
''',
    'local/job': r'''#!@shell@
# local: @name@
mpirun=@mpiexec@
mpirun=@launcher@
nodes=1
jobid=own
psik_task=all
psik_walltime_s=@duration_s@
@job_body@
''',
    'local/poll': r'''#!@shell@
# local: the locks and marks of a step show whether it is alive.
test -x @python@ && exec @python@ -I -S -X utf8 @supervise@ poll
exec python3 -I -S -X utf8 @supervise@ poll
''',
    'local/signal': r'''#!@shell@
# local: the supervisor of a step passes the signal on.
test -x @python@ && exec @python@ -I -S -X utf8 @supervise@ signal $1
exec python3 -I -S -X utf8 @supervise@ signal $1
''',
    'local/submit': r'''#!/bin/sh
# local: start scripts/job and print its process id.  Only this host knows that process, so the
# name of the host is kept.
echo "$2" >@log@/host."$1"
@job@ "$1" </dev/null >/dev/null 2>&1 &
echo $!
''',
    'lsf/array': r'''#!@shell@
# lsf: the largest index of an array.
# needs: bparams sed
exec /bin/sh -c 'answer=$(bparams -a) || exit 1
	size=$(printf "%s\n" "$answer" | sed -n "s/^ *MAX_JOB_ARRAY_SIZE *= *\([0-9]*\).*/\1/p")
	echo "${size:-1000} list"'
''',
    'lsf/cancel': r'''#!@shell@
# lsf: bkill fails if a job has already ended, but then there is nothing to do.  A task of an array
# is ID+INDEX here, and for LSF ID[INDEX].
# needs: bkill sed
exec /bin/sh -c 'set -f
	answer=$(bkill $(echo "$@" | sed "s/+\([0-9]*\)/[\1]/g") 2>&1) && exit
	status=$?
	test -n "$answer" || exit $status
	answer=$(printf "%s\n" "$answer" | sed -e "/has already finished/d" \
		-e "/No matching job found/d" -e "/is being terminated/d" \
		-e "/Operation is in progress/d")
	printf "%s\n" "$answer" >&2
	test -z "$answer"' psik $*
''',
    'lsf/check': r'''#!@shell@
# lsf: fail if mbatchd does not answer.
# needs: bqueues
bqueues >/dev/null
''',
    'lsf/hold': r'''#!@shell@
# lsf: keep jobs that wait from starting.  For an array bstop may fail though it does so.
# needs: bstop sed
exec /bin/sh -c 'answer=$(bstop "$@" 2>&1) && exit
	status=$?
	test -n "$answer" || exit $status
	answer=$(printf "%s\n" "$answer" | sed -e "/Operation is in progress/d" \
		-e "/is being stopped/d" -e "/is being resumed/d")
	printf "%s\n" "$answer" >&2
	test -z "$answer"' psik $*
''',
    'lsf/job': r'''#!@shell@
#BSUB -J @plain_name@
#BSUB -env "all"
#BSUB -W @duration_min@
#BSUB -nnodes @node_count@
#BSUB -n @slots@
#BSUB -gpu "num=@gpu_cores_per_process@/task"
#BSUB -M @memory_per_process@MB
#BSUB -R "rusage[mem=@memory_per_process@MB]"
#BSUB -q @queue_name@
#BSUB -P @project_name@
#BSUB -U @reservation_id@
#BSUB -r@requeue@
#BSUB -rn@no_requeue@
#BSUB -o /dev/null
#BSUB -e /dev/null
#BSUB @attributes@
#CALL exec @job@
mpirun=jsrun
mpirun=@launcher@
nodes=ask
jobid=$LSB_JOBID
psik_task=$LSB_JOBINDEX
psik_walltime_s=0
@job_body@
''',
    'lsf/poll': r'''#!@shell@
# lsf: all jobs of the user, also those that ended lately: id, state, exit status, tag, reasons.
# The tag is the last word of the description, which may hold a ^, and so comes last.  Each task of
# an array has a line of its own, and its index goes behind the + of the tag.
# needs: bjobs sed
exec /bin/sh -c 'quote=$(printf "\047")
	fields="jobid stat exit_code jobindex pend_reason exit_reason exec_host job_description"
	answer=$(bjobs -a -noheader -o "$fields delimiter=$quote^$quote" 2>&1) || case $answer in
		*"No job found"* | *"No unfinished job found"*) exit 0 ;;
		*) printf "%s\n" "$answer" >&2; exit 1 ;;
	esac
	field="\([^^]*\)" start="^\([0-9]*\)^\([A-Z]*\)^$field^$field^$field^$field^$field^"
	printf "%s\n" "$answer" | sed -n \
		-e "s/$start.*\(psik-[0-9.][0-9.]*+\)\$/\1 \2 \3 \8\4 \5 \6@\7/" -e "t begin" \
		-e "s/$start.*\(psik-[0-9.][0-9.]*\)\$/\1 \2 \3 \8 \5 \6@\7/" -e "t begin" \
		-e "s/$start.*/\1 \2 \3 none \5 \6@\7/" -e "t begin" -e ":begin" \
		-e "/ RUN \| USUSP \| SSUSP /s/\( [^ ]* [^ ]* [^ ]*\) .*@\([^@]*\)\$/\1 on \2/" \
		-e "s/@[^@]*\$//" \
		-e "s/ -\$//" -e "s/^\([^ ]* [^ ]* [^ ]* [^ ]*\) -\$/\1/" \
		-e "s/^\([^ ]* [^ ]* [^ ]* [^ ]*\) - /\1 /" -e "t next" -e ":next" \
		-e "s/ PEND \| PSUSP \| WAIT \| PROV / queued /p; t" \
		-e "s/ RUN \| USUSP \| SSUSP \| UNKWN / active /p; t" \
		-e "s/ DONE / completed /p; t" -e "s/ EXIT \| ZOMBI / failed /p"'
''',
    'lsf/queues': r'''#!@shell@
# lsf: the queues, and how many slots they have for jobs; bqueues counts no hosts.
# needs: awk bqueues
exec /bin/sh -c 'answer=$(bqueues -w) || exit 1
	printf "%s\n" "$answer" | awk "
		NR > 1 && NF > 9 {
			free = \$4 ~ /^[0-9]+\$/ ? \$4 - \$10 : \"-\"
			print \$1, \$3, \"-\", \"-\", \$4, free, \"-\"
		}"'
''',
    'lsf/release': r'''#!@shell@
# lsf: let jobs that are held start.  For an array bresume may fail though it does so.
# needs: bresume sed
exec /bin/sh -c 'answer=$(bresume "$@" 2>&1) && exit
	status=$?
	test -n "$answer" || exit $status
	answer=$(printf "%s\n" "$answer" | sed -e "/Operation is in progress/d" \
		-e "/is being stopped/d" -e "/is being resumed/d")
	printf "%s\n" "$answer" >&2
	test -z "$answer"' psik $*
''',
    'lsf/signal': r'''#!@shell@
# lsf: send a signal to all processes of jobs; the supervisor passes it on too.  For an array bkill
# may fail though it does so.
# needs: bkill sed
exec /bin/sh -c 'set -f
	name=$1
	shift
	answer=$(bkill -s "$name" $(echo "$@" | sed "s/+\([0-9]*\)/[\1]/g") 2>&1) && exit
	status=$?
	test -n "$answer" || exit $status
	answer=$(printf "%s\n" "$answer" |
		sed -e "/Operation is in progress/d" -e "/is being signaled/d")
	printf "%s\n" "$answer" >&2
	test -z "$answer"' psik $*
''',
    'lsf/submit': r'''#!@shell@
# lsf: bsub reads directives from its stdin only, and the script there gets no arguments.  So bsub
# gets the directives of scripts/job, and a line that calls scripts/job with its jobndx.  The
# description ends with the tag by which a submission is found again.  $3 holds the indices of an
# array, `1-10%5`, $4 the id of an array that has to end before.
# needs: bsub sed
exec /bin/sh -c 'tag=$3$2.$1 call="s/^#CALL \(.*\)/\1 $1/p" indices=$4 before=$5
	set --
	if test -n "$indices"; then
		name=$(sed -n "s/^#BSUB -J //p" "$0") most=
		case $indices in *%*) most=%${indices#*%} ;; esac
		set -- -J "${name:-psik}[${indices%%%*}]$most"
	fi
	test -z "$before" || set -- "$@" -w "ended($before)"
	answer=$(sed -n "1p; /^#BSUB/p; $call" "$0" | bsub "$@" -Jd "$tag") || exit
	printf "%s\n" "$answer" | sed -n "s/^Job <\([0-9]*\)> is submitted.*/\1/p"' \
	@job@ $1 @tag@ @comment@ $3 $4
''',
    'lsf-file/signal': r'''#!@shell@
# lsf-file: bkill would end the shell that LSF starts around the file, so the supervisor of a step
# is sent the signal, on its host, and passes it on.
test -x @python@ && exec @python@ -I -S -X utf8 @supervise@ signal $1
exec python3 -I -S -X utf8 @supervise@ signal $1
''',
    'lsf-file/submit': r'''#!@shell@
# lsf-file: as lsf, for sites where bsub takes a file and reads nothing from stdin.
# needs: bsub sed
exec /bin/sh -c 'tag=$3$2.$1 file=$0.$1 indices=$4 before=$5
	sed -n "1p; /^#BSUB/p; s/^#CALL \(.*\)/\1 $1/p" "$0" >"$file" || exit
	chmod 700 "$file" || exit
	set --
	if test -n "$indices"; then
		name=$(sed -n "s/^#BSUB -J //p" "$0") most=
		case $indices in *%*) most=%${indices#*%} ;; esac
		set -- -J "${name:-psik}[${indices%%%*}]$most"
	fi
	test -z "$before" || set -- "$@" -w "ended($before)"
	answer=$(LSB_BSUB_PARSE_SCRIPT=Y bsub "$@" -Jd "$tag" "$file") || exit
	printf "%s\n" "$answer" | sed -n "s/^Job <\([0-9]*\)> is submitted.*/\1/p"' \
	@job@ $1 @tag@ @comment@ $3 $4
''',
    'lsf-mpi/job': r'''#!@shell@
# lsf-mpi: LSF at sites where mpirun starts programs.  exclusive_node_use asks for -x, which the
# queue must allow.
#BSUB -J @plain_name@
#BSUB -env "all"
#BSUB -W @duration_min@
#BSUB -n @processes@
#BSUB -R "span[ptile=@ptile@]"
#BSUB -R "affinity[core(@cores@)]"
#BSUB -gpu "num=@gpu_cores_per_process@/task"
#BSUB -M @memory_per_process@MB
#BSUB -R "rusage[mem=@memory_per_process@MB]"
#BSUB -x@exclusive@
#BSUB -q @queue_name@
#BSUB -P @project_name@
#BSUB -U @reservation_id@
#BSUB -r@requeue@
#BSUB -rn@no_requeue@
#BSUB -o /dev/null
#BSUB -e /dev/null
#BSUB @attributes@
#CALL exec @job@
mpirun=mpirun
mpirun=@launcher@
nodes=ask
jobid=$LSB_JOBID
psik_task=$LSB_JOBINDEX
psik_walltime_s=0
@job_body@
''',
    'page/api.js': r'''// The server, by its public routes.
//
// A token stands behind the # of the address that `open` and `serve --token` print; browsers send
// that to nobody.  It is kept for this tab alone, and leaves the address.

export function takeToken() {
	const given = new URLSearchParams(location.hash.replace(/^#\/?/, "")).get("token")
	if (!given) return
	sessionStorage.setItem("token", given)
	history.replaceState(null, "", location.pathname + "#/")
}
export const token = () => sessionStorage.getItem("token")

// The page is shown at / and at /v1, and a proxy may put a path before both.
export const base = location.pathname.replace(/(\/v1)?\/?$/, "/v1/")

export class Failure extends Error {
	constructor(status, detail, body) {
		const faults = Array.isArray(detail) ? detail : []
		super(faults.length ? faults.map(fault => `${fault.loc.slice(1).join(".")}: ${fault.msg}`)
			.join("; ") : detail)
		this.status = status
		this.faults = faults
		this.body = body
	}
}

export async function ask(path, options = {}) {
	const headers = {...options.headers}
	if (token()) headers.Authorization = `Bearer ${token()}`
	let answer
	try {
		answer = await fetch(base + path, {cache: "no-cache", ...options, headers})
	} catch (error) {
		if (error.name === "AbortError") throw error
		throw new Failure(0, "the server does not answer; is the tunnel still open?")
	}
	if (answer.ok) return answer
	const body = await answer.json().catch(() => ({detail: answer.statusText}))
	throw new Failure(answer.status, body.detail || answer.statusText, body)
}

export const get = (path, options) => ask(path, options).then(answer => answer.json())
export const post = (path, body) => ask(path, {
	method: "POST", ...(body === undefined ? {} : {
		body: JSON.stringify(body), headers: {"Content-Type": "application/json"}})
}).then(answer => answer.json())
export const part = name => name.split("/").map(encodeURIComponent).join("/")

async function* events(path, last, signal) {
	const answer = await ask(path, {signal, headers: last.id ? {"Last-Event-ID": last.id} : {}})
	last.told("")
	last.over = answer.status === 204
	if (last.over) return
	const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader()
	for (let text = "";;) {
		const {value, done} = await reader.read()
		if (done) return
		text += value
		const whole = text.split("\n\n")
		text = whole.pop()
		for (const block of whole) {
			const fields = Object.fromEntries(block.split("\n").filter(line => !line.startsWith(
				":"))
				.map(line => [line.split(":")[0], line.slice(line.indexOf(":") + 1).trim()]))
			if (fields.id) last.id = fields.id
			if (fields.data) yield JSON.parse(fields.data)
		}
	}
}

// Hands over each event until there will be no more (204), comes again when the connection breaks,
// and says whether there is one.  EventSource cannot send a token, so it is read by fetch.
export async function follow(path, take, signal, told = () => {}) {
	const last = {told}
	for (let pause = 1; !signal.aborted && !last.over; pause = Math.min(2 * pause, 30)) {
		try {
			for await (const event of events(path, last, signal)) {
				pause = 1
				take(event)
			}
			if (last.over) return
		} catch (error) {
			if (signal.aborted) return
			told(error.status === 401 ? "the token is no longer valid: open the page's address anew"
				: error.status === 404 ? "" : String(error.message))
			if ([401, 403, 404].includes(error.status)) return
		}
		await new Promise(done => setTimeout(done, 1000 * pause))
	}
}
''',
    'page/apidoc.js': r'''// The routes, as openapi.json describes them, each with a line for curl.
import {el, plain, table} from "./dom.js"
import {base, get} from "./api.js"

export async function showApi(_, view, signal) {
	const found = await get("openapi.json", {signal})
	const url = path => location.origin + base.replace(/\/v1\/$/, "") + path
	view.append(el("h1", {}, "API"), el("p", {}, "The whole of it is ", el("code", {},
		url("/v1/openapi.json")), "."))
	for (const tag of found.tags) {
		const operations = Object.entries(found.paths).flatMap(([path,
			methods]) => Object.entries(methods)
			.filter(([, about]) => about.tags.includes(tag.name)).map(([method, about]) => [method,
				path, about]))
		view.append(el("h2", {}, tag.description))
		for (const [method, path, about] of operations) {
			const media = Object.keys(about.requestBody?.content || {})[0]
			const curl = ["curl", method === "get" ? "" : `-X ${method.toUpperCase()}`,
				media === "application/json" ? "--json '{}'" : media ? "--data-binary @FILE" : "",
					url(path)]
			view.append(el("details", {}, el("summary", {}, el("code", {},
				`${method.toUpperCase()} ${path}`), " ",
				about.summary), about.description ? el("p", {}, about.description) : "",
			about.parameters.length ? table(["parameter", "in", ""], about.parameters.map(
				each => [el("code", {}, each.name), each.in, each.description || ""])) : "",
			plain(curl.filter(Boolean).join(" "))))
		}
	}
}
''',
    'page/dom.js': r'''// Elements, made from data.
//
// What jobs and users have named goes into textContent alone, so no name and no line of a log can
// become markup.

const maker = create => (tag, attributes, ...children) => {
	const element = create(tag)
	for (const [name, value] of Object.entries(attributes || {})) {
		if (name.startsWith("on")) element.addEventListener(name.slice(2), value)
		else if (name === "value") element.value = value
		else if (value === true) element.setAttribute(name, "")
		else if (value || value === 0) element.setAttribute(name, value)
	}
	element.append(...children.flat(9).filter(child => child || child === 0).map(
		child => child instanceof Node ? child : String(child)))
	return element
}
export const el = maker(tag => document.createElement(tag))
const svg = maker(tag => document.createElementNS("http://www.w3.org/2000/svg", tag))

// Bars on one axis of time, rows of {title, href, bars: [[from, to, kind], ...]}.
export function chart(label, rows, begin, end) {
	const at = stamp => Math.min(798, 800 * Math.max(0, stamp - begin) / Math.max(1, end - begin))
	return svg("svg", {viewBox: `0 0 800 ${rows.length * 16 + 4}`, role: "group", class: "chart",
		"aria-label": label}, rows.map(({title, href, bars}, line) => svg(href ? "a" : "g",
		{href}, svg("title", {}, title), bars.map(([from, to, kind]) => svg("rect", {x: at(from),
			y: line * 16 + 2, width: Math.max(2, at(to) - at(from)), height: 12, class: kind})))))
}

export const replace = (element, ...children) => element.replaceChildren(...children.flat(9).filter(
	Boolean))

// A shape, a colour and a word: nobody has to tell states by colour.
const SHAPES = {active: "●", queued: "◌", new: "○", completed: "✓", failed: "✗", canceled: "⊘"}
export const state = name => el("span", {class: "state " + name},
	el("span", {"aria-hidden": "true"}, SHAPES[name] + " "), name)

export const isFinal = name => ["completed", "failed", "canceled"].includes(name)

// Seconds as 0:42, 1:02:03 or 2-03:04:05.
export function span(seconds) {
	if (seconds === null || seconds === undefined) return ""
	const two = number => String(number).padStart(2, "0")
	const whole = Math.floor(seconds), minutes = Math.floor(whole / 60)
	if (minutes < 60) return `${minutes}:${two(whole % 60)}`
	const hours = Math.floor(minutes / 60), days = Math.floor(hours / 24)
	return `${days ? days + "-" : ""}${two(hours % 24)}:${two(minutes % 60)}:${two(whole % 60)}`
}

// When something was: local, and UTC for who points at it.
export function moment(stamp) {
	const then = new Date(stamp * 1000), age = Date.now() / 1000 - stamp
	const near = age < 60 ? "just now" : age < 3600 ? `${Math.floor(age / 60)} min ago`
		: age < 86400 ? `${Math.floor(age / 3600)} h ago` : then.toLocaleString()
	return el("time", {datetime: then.toISOString(), title: then.toUTCString()}, near)
}

export function bytes(size) {
	for (const unit of ["B", "kB", "MB", "GB", "TB"]) {
		if (size < 1000 || unit === "TB") return `${unit === "B" ? size : size.toFixed(1)} ${unit}`
		size /= 1000
	}
}

// Text as it is, which can be scrolled by the keyboard too.
export const plain = (text, attributes) => el("pre", {tabindex: 0, ...attributes}, text)

// A table whose rows are lists of what their cells hold.
export const table = (heads, rows) => el("div", {class: "scroll"}, el("table", {},
	el("thead", {}, el("tr", {}, heads.map(head => head ? el("th", {scope: "col"},
		head) : el("td")))),
	el("tbody", {}, rows.map(cells => el("tr", {}, cells.map(cell => el("td", {}, cell)))))))

// A word that stays until it was read.
export function say(text) {
	const said = document.getElementById("said")
	if ([...said.children].some(line => line.dataset.text === text)) return
	const line = el("p", {"data-text": text}, text,
		el("button", {onclick: () => line.remove()}, "close"))
	said.append(line)
}

// Asks in place before what cannot be undone: the button becomes the question.
export function confirming(label, question, action) {
	let asked = null
	const settle = () => {
		clearTimeout(asked)
		asked = null
		button.textContent = label
	}
	const button = el("button", {onclick: () => {
		if (asked) {
			settle()
			return action()
		}
		button.textContent = `${question}? Press again`
		asked = setTimeout(settle, 5000)
	}, onkeydown: event => { if (event.key === "Escape") settle() }}, label)
	return button
}
''',
    'page/form.js': r'''// Fields made from a JSON Schema, with the server's names, types and texts.
import {el} from "./dom.js"

const kinds = schema => (schema.anyOf ? schema.anyOf.flatMap(kinds) : [schema.type].flat())
	.filter(Boolean)
const alone = schema => (schema.anyOf || [schema]).find(each => each.type !== "null") || schema

// One field: its label, its input, what it means, and room for what is wrong with it.
function field(name, schema, value, required) {
	const types = kinds(schema), one = alone(schema), id = `field-${name}`
	const given = value ?? schema.default
	let input
	if (schema.enum || one.enum) {
		input = el("select", {id}, el("option", {value: ""}, ""), (schema.enum || one.enum)
			.map(each => el(
			"option", {value: JSON.stringify(each), selected: each === given}, String(each))))
	} else if (one.contentEncoding) {
		input = el("input", {id, type: "file"})
	} else if (types.length && types.every(type => type === "boolean" || type === "null")) {
		// With a default it is on or off; without one it may also be left out.
		input = given === undefined ? el("select", {id}, ["", "true", "false"].map(each => el(
			"option", {value: each}, each))) : el("input", {id, type: "checkbox", checked: given})
	} else if (["integer", "number"].includes(one.type) && types.every(type => type !== "string")) {
		input = el("input", {id, type: "number", min: one.minimum, max: one.maximum,
			step: one.type === "integer" ? 1 : "any", value: given ?? ""})
	} else {
		const text = given === undefined || given === null ? "" : typeof given === "string" ? given
			: JSON.stringify(given)
		input = name === "script" ? el("textarea", {id, value: text, spellcheck: "false"})
			: el("input", {id, type: "text", value: text, placeholder: one.type === "object" ? "{}"
				: one.type === "array" ? "[]" : ""})
	}
	const fault = el("span", {class: "fault", role: "alert", "data-fault": name,
		id: `fault-${name}`})
	input.setAttribute("aria-describedby", `fault-${name}`)
	return el("div", {class: "field"}, el("label", {for: id}, schema.title || name,
		required ? " (needed)" : ""), input,
		el("small", {}, schema.description || ""), fault)
}

// What a field holds, of an input that is a file the File; undefined if nothing.
function valueOf(input, schema) {
	const types = kinds(schema)
	if (input.type === "checkbox") return input.checked
	if (input.type === "file") return input.files[0]
	if (input.value === "") return undefined
	if (input.tagName === "SELECT") return JSON.parse(input.value)
	if (input.type === "number") return Number(input.value)
	const typed = /^\s*[[{]/.test(input.value) || !types.includes("string")
	if (typed && types.some(type => type !== "string")) {
		try {
			return JSON.parse(input.value)
		} catch { /* the server says what is wrong with it */ }
	}
	return input.value
}

export function form(properties, values = {}) {
	const fields = Object.entries(properties).map(([name, schema]) => field(name, schema === true
		? {}
		: schema, values[name]))
	return {
		fields,
		read() {
			const read = {}
			for (const [name, schema] of Object.entries(properties)) {
				const input = fields.find(each => each.querySelector(`#field-${CSS.escape(name)}`))
					.querySelector(`#field-${CSS.escape(name)}`)
				const value = valueOf(input, schema === true ? {} : schema)
				if (value !== undefined) read[name] = value
			}
			return read
		},
		// Puts each fault of a refused request beside its field; what has none is returned.
		show(faults) {
			fields.forEach(each => { each.querySelector("[data-fault]").textContent = "" })
			return faults.filter(fault => {
				const name = fault.loc[1] === "resources" || fault.loc[1] === "backend"
					? fault.loc[2] : fault.loc[1]
				const place = fields.map(each => each.querySelector("[data-fault]")).find(
					each => each.dataset.fault === name)
				if (place) place.textContent = fault.msg
				return !place
			})
		}
	}
}
''',
    'page/index.html': r'''<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>psik</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="page/style.css">
<script type="module" src="page/main.js"></script>
<body>
<header>
	<a class="brand" href="#/">psik</a>
	<nav aria-label="Pages">
		<a href="#/">Jobs</a>
		<a href="#/new">New job</a>
		<a href="#/overview">Overview</a>
		<a href="#/api">API</a>
	</nav>
	<p id="health" role="status"></p>
</header>
<main id="view" tabindex="-1"></main>
<div id="said" role="log" aria-live="polite"></div>
<dialog id="keys" aria-label="Keys"></dialog>
<noscript>This page needs JavaScript; <code>psik.py ls</code> does not.</noscript>
''',
    'page/job.js': r'''// One job: what it does and why, its logs, its files, what it was made from.
import {bytes, chart, confirming, el, isFinal, moment, plain, replace, say, span, state,
	table} from "./dom.js"
import {ask, base, follow, get, part, post, token} from "./api.js"
import {showLog} from "./log.js"

const ended = job => isFinal(job.state)

// When each step waited and ran, as bars on one axis.
function timeline(job) {
	const steps = {}, now = Date.now() / 1000
	for (const row of job.history) (steps[row.jobndx] ??= {})[row.state] ??= row.time
	const rows = Object.entries(steps).filter(([step]) => step > 0).slice(-50).map(([step,
		times]) => {
		const how = Object.keys(times).find(isFinal) || "active"
		const end = times[how] && how !== "active" ? times[how] : now, began = times.active || end
		return {title: `step ${step}: ${how}`, bars: [[times.queued || began, began, "waited"],
			...(times.active ? [[began, end, how]] : [])]}
	})
	const times = rows.flatMap(row => row.bars.flatMap(bar => bar.slice(0, 2)))
	return rows.length ? [chart(`${rows.length} steps: how long they waited and ran`, rows,
		Math.min(...times), Math.max(...times))] : []
}

function facts(job) {
	const needs = job.spec.resources, pairs = {
		state: [state(job.state), job.reason ? ` ${job.reason}` : ""], step: job.jobndx || "",
		changed: moment(job.updated), backend: `${job.backend} (${job.spec.backend.type})`,
		ran: job.elapsed === null ? "" : `${span(job.elapsed)} of ${span(needs.duration * 60)}`,
		used: job.usage ? `CPU time ${span(job.usage.cpu_s)}, a process at most ${
			bytes(job.usage.memory_kib * 1024)}` : "",
		asked: Object.entries(needs).filter(([, value]) => value && value !== true).map(
			([name, value]) => `${name} ${value}`).join(", "),
		application: job.spec.application || "", directory: job.directory}
	return el("dl", {}, Object.entries(pairs).filter(([, value]) => value).map(
		([name, value]) => [el("dt", {}, name), el("dd", {}, value)]))
}

function why(job) {
	if (!job.why?.cause || job.state === "completed") return ""
	return el("div", {class: job.state === "failed" ? "box" : "box wait"}, el("strong", {},
		job.why.cause),
		(job.why.evidence || []).map(line => plain(line, {class: "wrap"})),
		job.why.way_out ? el("p", {}, "→ ", job.why.way_out) : "")
}

async function showFiles(view, job, folder, signal) {
	const url = `jobs/${part(job.jobid)}/files/`, list = el("div")
	const below = name => (folder ? folder + "/" : "") + name
	const send = async files => {
		for (const file of files) {
			try {
				await ask(url + part(below(file.name)), {method: "PUT", body: file})
			} catch (error) {
				say(`${file.name}: ${error.message}`)
			}
		}
		draw()
	}
	const blob = async path => {
		const made = URL.createObjectURL(await (await ask(path, {signal})).blob())
		setTimeout(() => URL.revokeObjectURL(made), 60000)
		return made
	}
	// Without a token the server saves the file itself; with one it goes through memory.
	const save = async (path, name) => el("a", {href: token() ? await blob(path) : base + path,
		download: name}).click()
	const preview = async name => {
		const place = view.querySelector("#preview")
		if (/\.(png|jpe?g|gif|webp)$/i.test(name)) {
			return replace(place, el("img", {
				src: await blob(url + part(below(name))), alt: name}))
		}
		const head = await ask(url + part(below(name)), {headers: {Range: "bytes=0-65535"}})
			.then(answer => answer.text(), error => error.status === 416 ? "" : error.message)
		replace(place, el("h2", {}, name, head.length < 65536 ? "" : ", its beginning"),
			plain(head))
	}
	async function draw() {
		const found = await get(folder ? url + part(folder) : `jobs/${part(job.jobid)}/files`,
			{signal})
		replace(list, table(["name", "size", "changed", ""], Object.entries(found).map(
			([name, file]) => [el("button", {onclick: () => open(name)}, name), bytes(file.size),
				moment(file.mtime), [el("button", {onclick: () => save(url + part(below(name)),
					name)}, "download"), " ",
					confirming("remove", "Remove it", async () => {
						await ask(url + part(below(name)), {method: "DELETE"})
						draw()
					})]])),
		Object.keys(found).length ? "" : el("p", {class: "quiet"}, "There are no files."))
	}
	async function open(name) {
		const answer = await ask(url + part(below(name)), {method: "HEAD"})
		if (answer.headers.get("Content-Type").startsWith("application/json")) {
			location.hash = `#/job/${part(job.jobid)}/files/${part(below(name))}`
		} else preview(name)
	}
	const archive = () => save(`jobs/${part(job.jobid)}/archive?path=${encodeURIComponent(folder)}`,
		`${job.jobid}.tar.gz`)
	const up = folder.split("/").slice(0, -1).join("/")
	const drop = el("div", {ondragover: event => { event.preventDefault(); drop.classList.add(
		"drop") },
		ondragleave: () => drop.classList.remove("drop"), ondrop: event => {
			event.preventDefault()
			drop.classList.remove("drop")
			send([...event.dataTransfer.files])
		}},
	el("div", {class: "bar"},
		folder ? el("a", {href: `#/job/${part(job.jobid)}/files/${part(up)}`}, "↑ " + (up || "top"))
			: "",
		el("code", {}, folder || "."),
		el("label", {}, "upload ", el("input", {type: "file", multiple: true,
			onchange: event => send([...event.target.files])})),
		el("button", {onclick: archive}, "download all of it"),
		el("span", {class: "quiet"}, "or drop files here")), list, el("div", {id: "preview"}))
	view.append(drop)
	await draw()
}

const TABS = {
	log: showLog,
	files: showFiles,
	spec: (view, job) => view.append(el("p", {}, el("a", {href: `#/new?from=${part(job.jobid)}`},
		"copy as a new job")), plain(JSON.stringify(job.spec, null, 4))),
	scripts: async (view, job, _, signal) => {
		const scripts = await get(`jobs/${part(job.jobid)}/scripts`, {signal})
		view.append(...Object.entries(scripts).map(([name, text]) => el("details",
			{open: name === "run"},
			el("summary", {}, name), plain(text))))
	},
	history: (view, job) => view.append(...timeline(job), table(["time", "step", "state", "info"],
		job.history.map(row => [moment(row.time), row.jobndx, state(row.state), row.info]))),
	tasks: (view, job) => view.append(table(["task", "state", "step", "why"], job.tasks.map(
		task => [task.task, state(task.state), task.jobndx, task.reason]))),
	callbacks: (view, job) => view.append(table(["step", "state", "how", "tries", "answer"],
		job.callbacks.map(event => [event.jobndx, event.state, event.outcome, event.attempts,
			event.said])))
}

export async function showJob([jobid, rest], view, signal) {
	const [tab = "log", ...path] = (rest || "log").split("/").map(decodeURIComponent)
	const url = `jobs/${part(decodeURIComponent(jobid))}`
	const head = el("div"), actions = el("div", {class: "bar"}), content = el("section")
	const doing = (label, action) => async () => {
		try {
			await action()
			if (!signal.aborted) await refresh()
		} catch (error) {
			if (!signal.aborted) say(`${label}: ${error.message}`)
		}
	}
	let job = await get(`${url}/status`, {signal})

	function draw(anew = true) {
		replace(head, el("h1", {}, job.name || job.jobid), el("p", {}, el("code", {}, job.jobid)),
			why(job),
			facts(job))
		if (!anew) return   // a question that stands there stays
		const over = ended(job), button = (label, verb, show) => show && el("button", {
			onclick: doing(label, () => post(`${url}/${verb}`))}, label)
		replace(actions,
			!over && job.state !== "new" && confirming("Cancel", "Cancel it",
				doing("cancel", () => post(`${url}/cancel`))),
			button(over ? "Start again" : "Start", "start", over || job.state === "new"),
			button("Start the failed tasks", "start?failed=true", over && job.tasks.length
				&& job.state !== "completed"),
			button("Hold", "hold", job.state === "queued"), button("Release", "release",
				job.state === "queued"),
			el("a", {href: `#/new?from=${part(job.jobid)}`}, "copy as new"),
			(over || job.state === "new") && confirming("Remove",
				"Remove it with its logs and files", doing("remove", async () => {
					await ask(`${url}?purge=true`, {method: "DELETE"})
					location.hash = "#/"
				})))
	}
	let followed = false
	async function watch() {    // as long as it goes on, also when it was started again
		if (followed || ended(job)) return
		followed = true
		let waiting = null
		await follow(`${url}/events`, () => {
			waiting = waiting || setTimeout(() => { waiting = null; refresh().catch(() => {}) },
				500)
		}, signal)
		followed = false
	}
	async function refresh() {
		const before = JSON.stringify([job.state, job.jobndx])
		job = await get(`${url}/status`, {signal})
		draw(before !== JSON.stringify([job.state, job.jobndx]))
		watch()
		if (["history", "tasks", "callbacks"].includes(tab)) {
			replace(content)
			await TABS[tab](content, job, path.join("/"), signal)
		}
	}
	draw()
	const names = Object.keys(TABS).filter(name => (name !== "tasks" || job.tasks.length)
		&& (name !== "callbacks" || job.callbacks.length))
	view.append(head, actions, el("nav", {"aria-label": "Parts of the job"},
		names.map(name => el("a", {
		href: `#/job/${part(job.jobid)}/${name}`, "aria-current": name === tab && "page"}, name))),
			content)
	watch()
	await (TABS[tab] || showLog)(content, job, path.join("/"), signal)
}
''',
    'page/list.js': r'''// The jobs: live, filtered by the server, each in a row of its own.
import {confirming, el, moment, plain, say, span, state} from "./dom.js"
import {ask, follow, get, part, post} from "./api.js"

const STATES = ["active", "queued", "new", "failed", "canceled", "completed"]
const PERIODS = {"": "any time", 3600: "the last hour", 86400: "the last day",
	604800: "the last week"}
const PAGE = 100

// What is known of a job's progress: how long of its walltime, or how many tasks of an array.
function progress(job) {
	if (job.tasks) {
		const all = Object.values(job.tasks).reduce((sum, count) => sum + count, 0)
		const done = job.tasks.completed, failed = job.tasks.failed + job.tasks.canceled
		return [el("progress", {max: all, value: done + failed,
			"aria-label": "tasks that have ended"}),
			` ${done}/${all} done${failed ? `, ${failed} failed` : ""}`]
	}
	const elapsed = span(job.elapsed)
	if (job.state !== "active" || !job.duration) return elapsed
	return [el("progress", {max: job.duration * 60, value: job.elapsed,
		"aria-label": "of its walltime"}),
		` ${elapsed} of ${span(job.duration * 60)}`]
}

function cells(job) {
	return [
		el("td", {}, state(job.state)),
		el("td", {}, el("a", {class: "id", href: `#/job/${part(job.jobid)}`}, job.jobid)),
		el("td", {class: "name"}, job.name, job.application && job.application !== job.name
			? el("span", {class: "quiet"}, ` (${job.application})`) : ""),
		el("td", {class: "wide"}, job.backend),
		el("td", {}, progress(job)),
		el("td", {class: "why wide"}, (job.tasks ? "" : job.reason) || (job.state === "failed"
			? `exit ${job.info}` : "")),
		el("td", {class: "wide"}, moment(job.updated))]
}

export async function showList([query], view, signal) {
	const filter = new URLSearchParams(query || "")
	const chosen = new Set(), rows = new Map()
	const body = el("tbody"), count = el("span", {class: "quiet", role: "status"})
	const more = el("button", {onclick: () => load(rows.size)}, "older jobs")
	let wanted = PAGE

	const set = (name, value) => {
		value ? filter.set(name, value) : filter.delete(name)
		history.replaceState(null, "", `#/?${filter}`)
		wanted = PAGE
		load(0)
	}
	const chips = STATES.map(name => el("button", {
		"aria-pressed": String(filter.get("state") === name), onclick: event => {
			const is = filter.get("state") === name
			set("state", is ? "" : name)
			chips.forEach(chip => chip.setAttribute("aria-pressed", "false"))
			event.currentTarget.setAttribute("aria-pressed", String(!is))
		}}, state(name), " ", el("span", {class: "quiet", "data-count": name})))
	const search = el("input", {type: "search", placeholder: "name, or sweep*",
		value: filter.get("name") || "",
		"aria-label": "Filter by name", onchange: event => set("name", event.target.value)})
	const pick = (label, name, options) => el("select", {"aria-label": label,
		onchange: event => set(name, event.target.value)}, options.map(([value, text]) => el(
		"option", {value, selected: (filter.get(name) || "") === value}, text)))
	const backends = pick("Backend", "backend", [["", "all backends"]])
	const since = pick("Made", "since", Object.entries(PERIODS))

	const act = (label, verb) => async () => {
		const jobs = [...chosen]
		for (const jobid of jobs) {
			try {
				await verb(part(jobid))
			} catch (error) {
				say(`${label} ${jobid}: ${error.message}`)
			}
		}
		chosen.clear()
		load(0)
	}
	const actions = el("span", {class: "bar last", hidden: true},
		confirming("Cancel", "Cancel them", act("cancel",
			id => post(`jobs/${id}/cancel`))),
		el("button", {onclick: act("start", id => post(`jobs/${id}/start`))}, "Start again"),
		confirming("Remove", "Remove them and their files",
			act("remove", id => ask(`jobs/${id}?purge=true`, {method: "DELETE"}))))

	function put(job, before) {
		const known = rows.get(job.jobid)
		const row = known || el("tr", {onanimationend: () => row.classList.remove("changed")},
			el("td", {}, el("input", {type: "checkbox", "aria-label": `Select ${job.jobid}`,
				onchange: event => {
					event.target.checked ? chosen.add(job.jobid) : chosen.delete(job.jobid)
					actions.hidden = !chosen.size
				}})))
		cells(job).forEach((cell, at) => {  // only those that differ: who is in one stays there
			const old = row.children[at + 1]
			if (!old) row.append(cell)
			else if (!old.isEqualNode(cell)) old.replaceWith(cell)
		})
		if (known && row.dataset.state !== job.state) row.classList.add("changed")
		row.dataset.state = job.state
		rows.set(job.jobid, row)
		if (body.children[before] !== row) body.insertBefore(row, body.children[before] || null)
	}

	// One at a time, so that the answer to an older filter never comes last.
	let loading = Promise.resolve()
	const load = index => {
		loading = loading.catch(() => {}).then(() => fetchJobs(index))
		return loading
	}
	async function fetchJobs(index) {
		if (index) wanted = index + PAGE
		const asked = new URLSearchParams(filter)
		if (filter.get("since")) asked.set("since", Math.floor(Date.now() / 1000 - filter.get(
			"since")))
		const jobs = await get(`jobs?detail=true&limit=${wanted}&${asked}`, {signal})
		jobs.forEach(put)
		const found = new Set(jobs.map(job => job.jobid))
		for (const [jobid, row] of rows) if (!found.has(jobid)) {
			row.remove()
			rows.delete(jobid)
			chosen.delete(jobid)
		}
		actions.hidden = !chosen.size
		more.hidden = jobs.length < wanted
		const text = jobs.length ? `${jobs.length}${more.hidden ? "" : " newest"} jobs` : ""
		if (count.textContent !== text) count.textContent = text
		for (const name of STATES) {
			const number = jobs.filter(job => job.state === name).length
			view.querySelector(`[data-count=${name}]`).textContent = number || ""
		}
		empty.hidden = jobs.length > 0
		empty.replaceChildren(...([...filter].length ? [el("p", {},
			"No job is like that.")] : [
			el("p", {}, "No jobs yet. Type, where psik.py is:"),
			plain("psik.py run -- hostname\npsik.py ls\npsik.py logs -f last"),
			el("p", {}, el("a", {href: "#/new"}, "or make one here"))]))
	}

	const empty = el("div", {hidden: true})
	const lost = el("p", {class: "box", role: "alert", hidden: true})
	view.append(
		el("h1", {}, "Jobs"),
		el("div", {class: "bar"}, chips),
		el("div", {class: "bar"}, search, backends, since, count, actions), lost,
		el("div", {class: "scroll"}, el("table", {}, el("thead", {}, el("tr", {},
			["", "state", "id", "name", "backend", "progress", "why", "changed"]
				.map(head => el("th", {
				scope: "col", class: ["backend", "why", "changed"].includes(head) ? "wide" : ""},
					head
				|| el("span", {class: "quiet"}, "☐"))))), body)),
		more, empty)
	const trouble = text => { lost.textContent = text; lost.hidden = !text }
	get("backends", {signal}).then(found => backends.append(...Object.keys(found).map(name => el(
		"option", {value: name, selected: filter.get("backend") === name}, name))), () => {})
	// Whatever happens to a job, the list is asked for anew, at most once a second.
	let waiting = null
	const soon = () => {
		waiting = waiting || setTimeout(() => {
			waiting = null
			if (!signal.aborted) load(0).then(() => trouble(""), error => {
				if (!signal.aborted) trouble(error.message)
			})
		}, 1000)
	}
	const clock = setInterval(soon, 30000)
	signal.addEventListener("abort", () => { clearInterval(clock); clearTimeout(waiting) })
	follow("events", soon, signal, trouble)
	await load(0).catch(error => { if (!signal.aborted) trouble(error.message) })
}
''',
    'page/log.js': r'''// What a job wrote, from its end.
//
// So a log of any size opens at once; it goes on while the job does.
import {bytes, el, isFinal, replace} from "./dom.js"
import {ask, get, part} from "./api.js"

const WINDOW = 256 * 1024   // bytes that are shown at first, and fetched at once
const MOST = 4 * WINDOW     // characters that stay in the page

export async function showLog(view, job, name, signal) {
	const url = `jobs/${part(job.jobid)}/`
	let status = job
	while (!Object.keys(status.logs).length) {
		const over = isFinal(status.state)
		replace(view, el("p", {class: "quiet"}, over ? "It wrote nothing."
			: "It has written nothing yet."))
		if (over) return
		await new Promise(done => setTimeout(done, 500))
		status = await get(`${url}status`, {signal})
	}
	const found = Object.keys(status.logs), last = status.history.at(-1).jobndx
	const first = status.state === "failed" && status.logs[`stderr.${last}`] ? `stderr.${last}`
		: found.includes(`stdout.${last}`) ? `stdout.${last}` : found.at(-1)
	let shown = null    // the log that is shown: its name, what is shown of it, and what ends that
	let following = true
	const text = el("pre", {tabindex: 0, "aria-label": "Log", onscroll: () => {
		following = text.scrollTop + text.clientHeight >= text.scrollHeight - 8
		news.hidden = following
	}})
	const news = el("button", {hidden: true,
		onclick: () => { text.scrollTop = text.scrollHeight }}, "▼ to the end")
	const size = el("span", {class: "quiet"})
	const earlier = el("button", {hidden: true, onclick: () => before(shown)}, "earlier lines")
	const search = el("input", {type: "search", placeholder: "search",
		"aria-label": "Search in the log", onchange: () => find()})
	const read = async (log, from, to) => to <= from ? ""
		: (await ask(`${url}logs/${part(log.name)}`, {
		signal: log.signal, headers: {Range: `bytes=${from}-${to - 1}`}})).text()
	const look = async (log, wait) => {
		const answer = await ask(`${url}logs/${part(log.name)}?offset=${log.end}&wait=${wait}`,
			{method: "HEAD", signal: log.signal})
		return [Number(answer.headers.get("X-Psik-Offset")), answer.headers.get("X-Psik-State")]
	}
	function add(log, more) {
		text.append(more)
		while (text.textContent.length > MOST && text.childNodes.length > 1) {
			log.begin += new Blob([text.firstChild.textContent]).size
			text.firstChild.remove()
		}
		earlier.hidden = log.begin === 0
		size.textContent = `${bytes(log.end)}${log.begin ? `, from ${bytes(log.begin)}` : ""}`
		if (following) text.scrollTop = text.scrollHeight
	}
	async function before(log) {
		const from = Math.max(0, log.begin - WINDOW), more = await read(log, from, log.begin)
		if (log !== shown) return
		text.prepend(more)
		log.begin = from
		earlier.hidden = from === 0
		text.scrollTop = 0
	}
	function find() {
		const range = document.createRange(), wanted = search.value
		for (const node of text.childNodes) {
			const at = wanted ? node.textContent.indexOf(wanted) : -1
			if (at < 0) continue
			range.setStart(node, at)
			range.setEnd(node, at + wanted.length)
			getSelection().removeAllRanges()
			getSelection().addRange(range)
			const top = each => each.getBoundingClientRect().top
			text.scrollTop += top(range) - top(text) - 40
			return
		}
		if (wanted) size.textContent = `${wanted} is not in what is shown`
	}
	// Shows the end of a log, and what comes; after a break of the connection it goes on.
	async function open(wanted) {
		shown?.leave.abort()
		const leave = new AbortController(), log = {name: wanted, begin: 0, end: 0, leave,
			signal: leave.signal}
		shown = log
		replace(text)
		following = true
		for (let wait = 0, begun = false, state = ""; !leave.signal.aborted;) {
			try {
				const [end, now] = await look(log, wait)
				// Of what has come, at most the last of it: it may be much.
				const from = Math.max(log.end, end - WINDOW)
				if (!begun || from > log.end) {
					replace(text)
					log.begin = from
				}
				const more = await read(log, from, end)
				if (log !== shown) return
				log.end = end
				if (more || !begun) add(log, more)
				begun = true
				state = now
				wait = 30
			} catch (error) {
				if (leave.signal.aborted) return
				size.textContent = error.message
				await new Promise(done => setTimeout(done, 3000))
			}
			if (isFinal(state)) return
		}
	}
	signal.addEventListener("abort", () => shown?.leave.abort())
	const line = `psik.py logs ${isFinal(job.state) ? "" : "-f "}${job.jobid}`
	const logs = el("select", {"aria-label": "Which log", onfocus: () => list(),
		onchange: event => open(event.target.value)})
	async function list() {     // of an array, others have come meanwhile
		const names = Object.keys((await get(`${url}status`, {signal})).logs)
		if (names.length !== logs.options.length) options(names)
	}
	const options = names => replace(logs, names.map(each => el("option", {value: each,
		selected: each === shown.name}, each)))
	replace(view, el("div", {class: "bar"}, logs, search, el("label", {}, el("input", {
		type: "checkbox", onchange: event => text.classList.toggle("wrap", event.target.checked)}),
	" wrap"), earlier, size, news, el("span", {class: "last"}, el("code", {}, line), " ",
		el("button", {onclick: () => navigator.clipboard?.writeText(line)}, "copy"))), text)
	open(found.includes(name) ? name : first)
	options(found)
}
''',
    'page/main.js': r'''// The addresses behind the #, and what is shown there.
//
// Each view is a function of the rest of the address, the element to fill, and a signal that says
// that another view is shown.
import {el, replace, say} from "./dom.js"
import {get, takeToken} from "./api.js"
import {showList} from "./list.js"
import {showJob} from "./job.js"
import {showNew} from "./new.js"
import {showOverview} from "./overview.js"
import {showApi} from "./apidoc.js"

const VIEWS = [[/^#\/job\/([^/]+)(?:\/(.*))?$/, showJob], [/^#\/new(?:\?(.*))?$/, showNew],
	[/^#\/overview(?:\?(.*))?$/, showOverview], [/^#\/api$/, showApi],
	[/^#?\/?(?:\?(.*))?$/, showList]]
const KEYS = {j: "next row", k: "row before", Enter: "open the row", x: "select the row",
	"/": "filter", n: "new job", g: "jobs", "?": "this list", Escape: "leave the field, or close"}

let shown = new AbortController()

function show() {
	takeToken()
	shown.abort()
	shown = new AbortController()
	const view = document.getElementById("view")
	const [pattern, draw] = VIEWS.find(([pattern]) => pattern.test(location.hash)) || VIEWS.at(-1)
	document.querySelectorAll("nav a").forEach(link => {
		const is = link.hash === location.hash.split("?")[0] || (draw === showList
			&& link.hash === "#/")
		is ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current")
	})
	view.focus()
	replace(view)
	draw((location.hash.match(pattern) || []).slice(1), view, shown.signal).catch(error => {
		if (error.name !== "AbortError") view.append(el("p", {class: "box", role: "alert"},
			error.message))
	})
}

function move(step) {
	const links = [...document.querySelectorAll("main tbody a.id")]
	const at = links.indexOf(document.activeElement)
	links[Math.max(0, Math.min(links.length - 1, at + step))]?.focus()
}

const keys = document.getElementById("keys")
document.addEventListener("keydown", event => {
	const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)
		&& event.target.type !== "checkbox"
	if (event.key === "Escape" && typing) return event.target.blur()
	if (typing || keys.open || event.ctrlKey || event.metaKey || event.altKey) return
	const acts = {
		j: () => move(1), k: () => move(-1), n: () => { location.hash = "#/new" },
		g: () => { location.hash = "#/" }, "?": () => keys.showModal(),
		x: () => document.activeElement.closest("tr")?.querySelector("[type=checkbox]")?.click(),
		"/": () => document.querySelector("main [type=search]")?.focus()}
	if (acts[event.key]) {
		event.preventDefault()
		acts[event.key]()
	}
})
replace(keys, el("dl", {}, Object.entries(KEYS).map(([key, what]) => [
	el("dt", {}, el("kbd", {}, key)), el("dd", {}, what)])),
el("form", {method: "dialog"}, el("button", {}, "close")))

async function health() {
	const line = document.getElementById("health")
	const said = await get("health").catch(error => error.body?.backends ? error.body
		: {backends: {}, status: error.message})
	const text = Object.entries(said.backends).map(([name, how]) => `${name} ${how}`).concat(
		said.status === "ok" ? [] : said.status).join(" · ")
	if (line.textContent !== text) line.textContent = text
	setTimeout(health, 30000)
}

addEventListener("hashchange", show)
addEventListener("unhandledrejection", event => {
	event.preventDefault()
	if (event.reason?.name !== "AbortError") say(String(event.reason?.message || event.reason))
})
show()
health()
''',
    'page/new.js': r'''// A new job: of an application, with a form of its own, or of a script.
import {el, plain, replace, say} from "./dom.js"
import {ask, base, get, part, post} from "./api.js"
import {form} from "./form.js"

const FIRST = ["name", "script"]
const RESOURCES = ["duration", "node_count", "process_count", "cpu_cores_per_process",
	"memory_per_process",
	"gpu_cores_per_process"]
const REST = ["setup", "environment", "array", "after", "join_output", "requeue", "callback",
	"cb_secret",
	"callback_on", "directory"]
const EXAMPLE = {name: "hello", script: "#!/bin/sh\nhostname\n"}

const some = (properties, names) => Object.fromEntries(names.filter(name => properties[name]).map(
	name => [name, properties[name]]))
const named = values => Object.fromEntries(Object.entries(values).filter(
	([, value]) => value !== null && value !== "" && JSON.stringify(value) !== "{}"
		&& JSON.stringify(value) !== "[]"))

// Sends, and goes to the job; what is refused is said at its field, the rest below the button.
function sending(fields, send) {
	const said = el("p", {class: "box", role: "alert", hidden: true})
	const button = el("button", {class: "main", onclick: async event => {
		event.preventDefault()
		button.disabled = true
		said.hidden = true
		try {
			location.hash = `#/job/${part(await send())}`
		} catch (error) {
			const rest = fields.reduce((left, each) => each.show(left), error.faults || [])
			said.textContent = error.faults?.length && !rest.length
				? "Some fields are not right yet."
				: rest.map(fault => `${fault.loc.slice(1).join(".")} ${fault.msg}`.trim())
					.join("; ") || error.message
			said.hidden = false
		}
		button.disabled = false
	}}, "Submit")
	return [el("div", {class: "bar"}, button), said]
}

function applicationForm(app, values) {
	const fields = form(app.inputs.properties, values, app.inputs.required)
	const slots = app.needs.map(name => [name, el("input", {type: "file", id: `needs-${name}`})])
	const archive = el("input", {type: "file", id: "upload", accept: ".zip,.tar,.tar.gz,.tgz"})
	const send = async () => {
		const values = fields.read(), files = Object.values(values).some(
			each => each instanceof File)
		if (!files && !app.takes_files) return post(`applications/${part(app.name)}`, values)
		const body = new FormData()
		for (const [name, value] of Object.entries(values)) {
			body.append(name, typeof value === "string" || value instanceof File ? value
				: JSON.stringify(value))
		}
		for (const [name, input] of slots) {
			if (input.files[0]) body.append("files", input.files[0], name)
		}
		if (archive.files[0]) body.append("upload", archive.files[0])
		return (await ask(`applications/${part(app.name)}`, {method: "POST", body})).json()
	}
	return el("form", {}, el("p", {}, app.description || app.summary), fields.fields,
		app.takes_files ? el("fieldset", {}, el("legend", {}, "files"), slots.map(([name,
			input]) => el("div", {
			class: "field"}, el("label", {for: `needs-${name}`}, name), input)),
		el("div", {class: "field"}, el("label", {for: "upload"}, "or an archive of them"), archive))
			: "",
		sending([fields], send))
}

function scriptForm(schemas, spec, backends) {
	const all = schemas.JobSpec.properties, needs = schemas.ResourceSpec.properties
	const first = form(some(all, FIRST), spec), asked = form(some(needs, RESOURCES), spec.resources)
	const rest = form(some(all, REST), named(spec))
	const backend = el("select", {id: "backend"}, Object.keys(backends).map(name => el("option",
		{value: name}, name)))
	const queue = el("input", {id: "queue", list: "queues", type: "text",
		value: spec.backend?.queue_name || ""})
	const queues = el("datalist", {id: "queues"})
	const free = el("small")
	const askQueues = async () => {
		replace(queues)
		free.textContent = ""
		const found = await get(`backends/${part(backend.value)}/queues`).catch(() => [])
		queues.append(...found.map(each => el("option", {value: each.name})))
		free.textContent = found
			.map(
			each => `${each.name}: ${each.free_nodes ?? "?"} of ${each.nodes ?? "?"} nodes free`)
			.join(", ")
	}
	backend.addEventListener("change", askQueues)
	askQueues()
	// What the form does not show stays as it was in the job that is copied.
	const kept = Object.fromEntries(Object.entries(named(spec)).filter(([name]) => ![...FIRST,
		...REST,
		"resources", "backend", "application", "inputs"].includes(name)))
	const whole = () => ({...kept, ...first.read(), ...rest.read(),
		resources: {...named(spec.resources || {}), ...asked.read()},
		...(queue.value || spec.backend ? {backend: {...named(spec.backend || {}),
			type: backends[backend.value].system_type, queue_name: queue.value || null}} : {})})
	const lines = plain("")
	const copy = event => {
		if (!event.target.open) return
		const text = JSON.stringify(whole(), null, 1), name = backend.value
		const url = location.origin + base + `jobs?backend=${part(name)}`
		lines.textContent = [`psik.py run --backend ${name} - <<'END'`, text, "END", "",
			`curl --json '${text.replaceAll("'", "'\\''")}' '${url}'`].join("\n")
	}
	return el("form", {}, first.fields,
		el("fieldset", {}, el("legend", {}, "where"),
			el("div", {class: "field"}, el("label", {for: "backend"}, "backend"), backend),
			el("div", {class: "field"}, el("label", {for: "queue"}, "queue"), queue, queues, free)),
		el("fieldset", {}, el("legend", {}, "what it needs"), asked.fields),
		el("details", {}, el("summary", {}, "more"), rest.fields),
		el("details", {ontoggle: copy}, el("summary", {}, "the same on the command line"), lines),
		sending([first, asked, rest], async () => post(`jobs?backend=${part(backend.value)}`,
			whole())))
}

export async function showNew([query], view, signal) {
	const from = new URLSearchParams(query || "").get("from"), wanted = new URLSearchParams(query
		|| "").get("app")
	const [api, backends, apps] = await Promise.all([get("openapi.json", {signal}),
		get("backends", {signal}),
		get("applications", {signal}).catch(() => [])])
	const spec = from ? await get(`jobs/${part(from)}/spec`, {signal}) : {}
	const offered = apps.filter(app => !app.interactive), place = el("div")
	const pick = name => {
		const app = offered.find(each => each.name === name)
		replace(place, app ? applicationForm(app, spec.application === name ? spec.inputs : {})
			: scriptForm(api.components.schemas, from ? {...spec, directory: null} : EXAMPLE,
				backends))
	}
	const first = wanted || spec.application || ""
	view.append(el("h1", {}, "New job"), offered.length ? el("div", {class: "field"},
		el("label", {for: "kind"}, "what it runs"), el("select", {id: "kind",
			onchange: event => pick(event.target.value)},
			el("option", {value: ""}, "a script of your own"), offered.map(app => el("option", {
				value: app.name, selected: app.name === first}, app.summary
					? `${app.name}: ${app.summary}` : app.name)))) : "",
	place)
	pick(first)
	if (from && spec.application && !offered.some(app => app.name === spec.application)) {
		say(`the application ${spec.application} is not offered any more`)
	}
}
''',
    'page/overview.js': r'''// When things ran, how long they waited, and why they failed.
import {chart, el, isFinal, span, state, table} from "./dom.js"
import {get, part} from "./api.js"

const median = numbers => numbers.sort((one, other) => one - other)[Math.floor(numbers.length / 2)]
const group = (jobs, key) => jobs.reduce((found, job) => {
	(found[key(job)] ??= []).push(job)
	return found
}, {})

export async function showOverview([query], view, signal) {
	const days = Number(new URLSearchParams(query).get("days")) || 1
	const now = Date.now() / 1000, begin = Math.floor(now - days * 86400)
	const [jobs, backends] = await Promise.all([
		get(`jobs?detail=true&limit=1000&since=${begin}`, {signal}), get("backends", {signal})])
	for (const job of jobs) {
		job.made = Number(job.jobid)
		job.start = job.began ?? (isFinal(job.state) ? job.updated : now)
		job.end = job.start + (job.elapsed || 0)
	}
	const link = (number, text) => el("a", {href: `#/overview?days=${number}`,
		"aria-current": number === days && "page"}, text)
	view.append(el("h1", {}, "Overview"), el("nav", {"aria-label": "Period"}, link(1, "24 hours"),
		link(7, "7 days")), el("p", {class: "quiet"}, `${jobs.length} jobs; grey: waiting`))
	const found = group(jobs, job => job.backend)
	for (const [name, about] of Object.entries(backends)) {
		const own = found[name] || [], ran = own.filter(job => job.began)
		view.append(el("h2", {}, name, el("span", {class: "quiet"}, ` ${about.status}`)),
			about.notes.map(note => el("p", {class: "box wait"}, note)))
		if (!own.length) continue
		view.append(el("p", {}, ran.length ? `${own.length} jobs waited ${span(median(ran.map(
			job => job.start - job.made)))} and ran ${span(median(ran.map(job => job.elapsed)))}, `
			+ "by the median" : `${own.length} jobs`),
		chart(`${own.length} jobs of ${name}, when they waited and ran`, own.slice(0, 100).map(
			job => ({title: `${job.name || job.jobid}: ${job.state}`,
				href: `#/job/${part(job.jobid)}`,
				bars: [[job.made, job.start, "waited"],
					...(job.began ? [[job.start, job.end, job.state]] : [])]})), begin, now))
	}
	const failed = Object.entries(group(jobs.filter(job => job.state === "failed"),
		job => job.reason || `exit ${job.info}`)).sort((one,
			other) => other[1].length - one[1].length)
	if (failed.length) view.append(el("h2", {}, "Failures by cause"), table(["jobs", "cause",
		"the newest"],
		failed.map(([cause, those]) => [those.length, cause, [el("a", {
			href: `#/job/${part(those[0].jobid)}`}, those[0].name || those[0].jobid), " ",
		state("failed")]])))
}
''',
    'page/style.css': r'''/* Six colours, defined once; a 4 px grid. */
:root {
	--ground: #fff; --text: #1c2024; --quiet: #5b636b; --line: #d9dde1; --field: #f5f7f8;
	--accent: #0b57a4;
	--good: #18692f; --bad: #ab1a1a; --live: #00657a; --wait: #2b4ba8; --odd: #7a5200;
	font: 15px/20px system-ui, sans-serif; color: var(--text); background: var(--ground)
}
@media (prefers-color-scheme: dark) {
	:root {
		--ground: #15181b; --text: #dfe3e6; --quiet: #9aa4ad; --line: #363c42; --field: #1e2327;
		--accent: #7db7f0;
		--good: #72c78a; --bad: #ff8f85; --live: #5fd0e0; --wait: #9fb4ff; --odd: #e2b65a
	}
}
@media (prefers-reduced-motion: no-preference) { .changed { animation: changed .8s } }
@keyframes changed { from { background: var(--field); box-shadow: inset 3px 0 var(--accent) } }
* { box-sizing: border-box }
[hidden] { display: none !important }
body { margin: 0 auto; max-width: 1440px; padding: 0 16px 48px }
header { display: flex; flex-wrap: wrap; gap: 4px 24px; align-items: baseline; padding: 12px 0 }
header p { margin: 0 0 0 auto; color: var(--quiet); font-size: 13px }
.brand { font-size: 18px; font-weight: 600; color: inherit; text-decoration: none }
nav { display: flex; gap: 4px 16px; flex-wrap: wrap }
nav a[aria-current] { color: inherit; font-weight: 600; text-decoration: none }
a { color: var(--accent) }
h1 { font-size: 24px; line-height: 32px; margin: 8px 0; overflow-wrap: anywhere }
h2 { font-size: 18px; line-height: 24px; margin: 24px 0 8px }
main:focus { outline: none }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px }
code, pre, .id, textarea { font: 13px/18px ui-monospace, monospace }
button, input, select, textarea {
	font: inherit; color: inherit; background: var(--field); border: 1px solid var(--quiet);
	border-radius: 4px; padding: 4px 8px; min-height: 30px
}
textarea { width: 100%; min-height: 180px; font: 13px/18px ui-monospace, monospace }
input[type=checkbox] { min-height: 0; margin: 0; vertical-align: middle }
button { cursor: pointer }
button.main { background: var(--accent); border-color: var(--accent); color: var(--ground) }
button[aria-pressed=true] { border-color: var(--accent); box-shadow: inset 0 -2px var(--accent) }
button:disabled { opacity: .5; cursor: default }
.bar { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; margin: 8px 0 }
.bar .last { margin-left: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th { text-align: left; font-weight: 600; font-size: 13px; color: var(--quiet) }
td, th { padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); vertical-align: baseline }
td.number, th.number { text-align: right }
td.name { overflow-wrap: anywhere; min-width: 96px }
td.why { color: var(--quiet); font-size: 13px; overflow-wrap: anywhere }
.scroll { overflow-x: auto }
.state { white-space: nowrap }
.completed { color: var(--good) } .failed { color: var(--bad) } .canceled { color: var(--odd) }
.active { color: var(--live) } .queued, .new { color: var(--wait) }
.quiet { color: var(--quiet) }
progress { width: 96px; height: 8px; accent-color: var(--live) }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 16px; margin: 8px 0 }
dt { color: var(--quiet) } dd { margin: 0; overflow-wrap: anywhere }
pre { background: var(--field); border: 1px solid var(--line); padding: 8px; margin: 8px 0;
	overflow: auto; max-height: 70vh; tab-size: 4 }
pre.wrap { white-space: pre-wrap; overflow-wrap: anywhere }
.drop { outline: 2px dashed var(--accent); outline-offset: 4px }
.box { border-left: 3px solid var(--bad); background: var(--field); padding: 8px 12px;
	margin: 8px 0 }
.wait { border-color: var(--wait) }
#said { position: fixed; bottom: 8px; left: 16px; right: 16px; max-width: 720px;
	max-height: 50vh; overflow: auto }
#said p { background: var(--text); color: var(--ground); padding: 8px 12px; margin: 4px 0;
	display: flex; gap: 16px; border-radius: 4px; overflow-wrap: anywhere }
#said button { background: none; color: inherit; border-color: currentColor; min-height: 0;
	margin-left: auto }
fieldset { border: 1px solid var(--line); border-radius: 4px; margin: 12px 0; padding: 8px 16px }
legend { color: var(--quiet); padding: 0 4px }
.field { display: grid; grid-template-columns: 220px 1fr; gap: 4px 16px; margin: 8px 0 }
.field small { color: var(--quiet); grid-column: 2 }
.field .fault { color: var(--bad); grid-column: 2 }
.field input:not([type=checkbox]), .field select { width: 100%; max-width: 480px }
.field input[type=checkbox] { justify-self: start; height: 20px; width: 20px }
dialog { color: inherit; background: var(--ground); border: 1px solid var(--quiet) }
img { max-width: 100% }
@media (max-width: 640px) {
	.field { grid-template-columns: 1fr }
	.field small, .field .fault { grid-column: 1 }
	.wide { display: none }
	td, th { padding-right: 8px }
}
.chart { width: 100%; max-height: 60vh; border: 1px solid var(--line) }
.chart rect { fill: currentColor }
.chart .waited { color: var(--line) }
''',
    'sge/array': r'''#!@shell@
# sge: the largest index of an array; its indices must follow one another.
# needs: qconf sed
exec /bin/sh -c 'answer=$(qconf -sconf) || exit 1
	size=$(printf "%s\n" "$answer" | sed -n "s/^max_aj_tasks *//p")
	test "${size:-0}" -gt 0 || size=75000
	echo "$size range"'
''',
    'sge/cancel': r'''#!@shell@
# sge: qdel kills at once, so first the supervisors of what runs are told to end it.  qdel fails
# if a job has ended, but then there is nothing to do.  A task of an array is ID+INDEX here, and
# for SGE ID.INDEX.
# needs: qdel sed tr
exec /bin/sh -c 'python=$1 supervise=$2
	shift 2
	test -x "$python" || python=python3
	"$python" -I -S -X utf8 "$supervise" cancel
	answer=$(qdel $(echo "$@" | tr + .) 2>&1) && exit
	status=$?
	test -n "$answer" || exit $status
	answer=$(printf "%s\n" "$answer" | sed -e "/does not exist/d" -e "/has deleted job/d" \
		-e "/has registered the job/d" -e "/is already in deletion/d")
	printf "%s\n" "$answer" >&2
	test -z "$answer"' psik @python@ @supervise@ $*
''',
    'sge/check': r'''#!@shell@
# sge: fail if the master does not answer.
# needs: id qstat
exec /bin/sh -c 'qstat -u "$(id -un)" >/dev/null'
''',
    'sge/hold': r'''#!@shell@
# sge: keep jobs that wait from starting.
# needs: qhold
qhold $*
''',
    'sge/job': r'''#!@shell@
# sge: Grid Engine.  It counts slots, one for each core; only a parallel environment counts hosts.
#$ -S /bin/sh
#$ -V
#$ -j y
#$ -l h_rt=@duration_s@
#$ -l mem_free=@memory_per_process/cpu_cores_per_process@M
#$ -l h_vmem=@memory_per_process/cpu_cores_per_process@M
#$ -l gpu=@gpu_cores_per_process@
#$ -q @queue_name@
#$ -P @project_name@
#$ -ar @reservation_id@
#$ -r y@requeue@
#$ -r n@no_requeue@
#$ @attributes@
#NAME @plain_name@
#SLOTS slots=@processes*cpu_cores_per_process@
#SLOTS hosts=@node_count@
#SLOTS each=@ptile*cpu_cores_per_process@
mpirun=mpirun
mpirun=@launcher@
nodes=$NHOSTS
jobid=$JOB_ID
psik_task=$SGE_TASK_ID
psik_walltime_s=@nearly_s@
@job_body@
''',
    'sge/poll': r'''#!@shell@
# sge: the jobs of the user that wait or run: id, state, -, tag, reason; the tag ends the name.  The
# tasks of an array that wait have one line, with their indices behind the + of the tag.  For
# ids on stdin that the master no longer knows, the accounting is asked, if this host can read it.
# A job in an error state waits until somebody clears or cancels it: the reason says why.
# needs: awk id qstat sed
exec /bin/sh -c 'asked=$(cat)
	answer=$(qstat -xml -u "$(id -un)" -s prs) || exit 1
	seen=$(printf "%s\n" "$answer" | awk -F "[<>]" "
		\$2 == \"JB_job_number\" { id = \$3 }
		\$2 == \"JB_name\" {
			tag = match(\$3, /psik-[0-9.]+[+]?\$/) ? substr(\$3, RSTART) : \"none\"
		}
		\$2 == \"tasks\" && tag ~ /[+]\$/ { tag = tag \$3 }
		\$2 == \"state\" { state = \$3 }
		\$2 == \"queue_name\" { host = \$3; sub(/.*@/, \"\", host) }
		\$2 == \"/job_list\" {
			print id, state ~ /q/ ? \"queued\" : \"active\", \"-\", tag, state, host
		}")
	broken=$(printf "%s\n" "$seen" | sed -n "s/^\([0-9]*\) .* [A-Za-z]*E[A-Za-z]* *$/\1/p")
	why=
	test -z "$broken" || why=$(qstat -j "$(echo $broken | sed "s/ /,/g")" | awk "
		\$1 == \"job_number:\" { id = \$2 }
		/^error reason/ { sub(/^error reason *[0-9]*: */, \"\"); print \"why\", id, \$0 }")
	printf "%s\n%s\n" "$why" "$seen" | awk "
		\$1 == \"why\" { id = \$2; sub(/^why [0-9]+ /, \"\"); why[id] = \$0; next }
		NF < 5 { next }
		{ reason = \$6 ? \"on \" \$6 : \"\" }
		\$5 ~ /h/ { reason = \"held\" }
		\$5 ~ /s|S|T/ { reason = reason \", suspended\" }
		\$5 ~ /E/ { reason = \"error state \" \$5 \": \" why[\$1] }
		{ print \$1, \$2, \$3, \$4, reason }"

	command -v qacct >/dev/null || exit 0
	command -v timeout >/dev/null && limit="timeout 10"
	printf "%s\n\n%s\n" "$seen" "$asked" | awk "
		\$0 == \"\" { asking = 1 }
		!asking { known[\$1] = 1 }
		asking && \$1 ~ /^[0-9]+\$/ && !(\$1 in known) { print \$1 }" |
	while read -r id; do
		$limit qacct -j "$id" 2>/dev/null </dev/null | awk "
			function tell() {
				if (tag == \"\") return
				if (failed == 100) why = \"deleted, or over a limit; maxvmem \" used
				if (failed + code == 0) print id, \"completed\", 0, tag
				else print id, \"failed\", code ? code : \"-\", tag, why
			}
			/^=====/ { tell(); tag = \"\" }
			\$1 == \"jobname\" { tag = \"none\" }
			\$1 == \"jobname\" && match(\$2, /psik-[0-9.]+[+]?\$/) { tag = substr(\$2, RSTART) }
			\$1 == \"taskid\" && tag ~ /[+]\$/ { tag = tag \$2 }
			\$1 == \"failed\" { failed = \$2; why = \$0; sub(/^failed *[0-9]* *:? */, \"\", why) }
			\$1 == \"exit_status\" { code = \$2 }
			\$1 == \"maxvmem\" { used = \$2 }
			END { tell() }" id="$id"
	done' psik
''',
    'sge/queues': r'''#!@shell@
# sge: the queues.  A queue's slots are its cores; what its hosts have is not asked for.
# needs: awk qconf qstat
exec /bin/sh -c 'answer=$(qstat -g c) || exit 1
	limits=$(qconf -sq "*" 2>/dev/null | awk "
		\$1 == \"qname\" { name = \$2 }
		\$1 == \"h_rt\" { sub(/[,[].*/, \"\", \$2); print \"limit\", name, \$2 }")
	printf "%s\n%s\n" "$limits" "$answer" | awk "
		\$1 == \"limit\" {
			count = split(\$3, part, \":\")
			limit[\$2] = count == 3 ? part[1] * 60 + part[2] : \"-\"
			next
		}
		NF == 8 && \$6 ~ /^[0-9]+\$/ {
			state = \$6 == \$7 + \$8 ? \"down\" : \"up\"
			print \$1, state, \"-\", \"-\", \$6, \$5, \$1 in limit ? limit[\$1] : \"-\"
		}"'
''',
    'sge/release': r'''#!@shell@
# sge: let jobs that are held start.
# needs: qrls
qrls $*
''',
    'sge/signal': r'''#!@shell@
# sge: the supervisor of a step passes the signal on.
test -x @python@ && exec @python@ -I -S -X utf8 @supervise@ signal $1
exec python3 -I -S -X utf8 @supervise@ signal $1
''',
    'sge/submit': r'''#!@shell@
# sge: give qsub the directives of scripts/job, and lines that call scripts/job with its jobndx.  A
# job has no comment, so its name ends with the tag by which the submission is found again.  Exit
# 75: the connection broke, so the job may have been taken.  $3 holds the indices of an array,
# `1-10%5`, $4 the id of an array that has to end before.
# More than one slot needs a parallel environment: the attribute -pe names it, else it is the first
# that gives the slots on one host, so many on each of several, or wherever they are free.
# needs: grep qconf qsub sed
exec /bin/sh -c 'job=$1 jobndx=$2 tag=$3 log=$4 indices=$5 before=$6 hosts=any each=none
	find_environment() {
		for name in $(qconf -spl); do
			rule=$(qconf -sp "$name" | sed -n "s/^allocation_rule *//p")
			case "$rule $hosts" in
				"\$pe_slots 1" | "\$fill_up any" | "\$round_robin any" | "$each "[2-9]*)
					echo "$name"
					return ;;
			esac
		done
		echo "no parallel environment gives $slots slots on $hosts hosts; name one of those" \
			"that qconf -spl lists, by the attribute -pe" >&2
		return 1
	}
	eval "$(sed -n "s/^#SLOTS //p" "$job")"
	parallel=
	if test "$slots" -gt 1 && ! grep -q "^#\$ -pe " "$job"; then
		parallel=$(find_environment) || exit 1
	fi
	name=$(sed -n "s/^#NAME //p" "$job")
	case $name in
		"") ;;
		[A-Za-z_]*) name=$name- ;;
		*) name=_$name- ;;
	esac
	array=
	test -z "$indices" || array="-t ${indices%%%*}"
	case $indices in *%*) array="$array -tc ${indices#*%}" ;; esac
	test -z "$before" || array="$array -hold_jid $before"
	case $log in *[,:\$]*) log=/dev/null ;; *) log=$log.$jobndx ;; esac
	answer=$({
		sed -n -e "s/^\(#\\$ -pe\) \"\(.*\)\"$/\1 \2/" -e "s/^#\\$ -pe [^ ]*$/& $slots/" \
			-e "/^#\\$ /p" "$job"
		test -z "$parallel" || echo "#\$ -pe $parallel $slots"
		printf "read -r job <<\\\\end\n%s\nend\nexec \"\$job\" %s\n" "$job" "$jobndx"
	} | qsub -terse $array -N "$name$tag.$jobndx" -o "$log" 2>&1)
	status=$?
	printf "%s\n" "$answer" | sed "/^[0-9][0-9.:-]*$/d" >&2
	printf "%s\n" "$answer" | sed -n "s/^\([0-9][0-9]*\)[0-9.:-]*$/\1/p"
	test $status -eq 0 && exit
	printf "%s\n" "$answer" | grep -q "Connection refused" && exit $status
	printf "%s\n" "$answer" | grep -q -e "gdi request" -e timeout -e "read error" \
		-e "send error" && exit 75
	exit $status' psik @job@ $1 @tag@ @log@/submit $3 $4
''',
    'slurm/array': r'''#!@shell@
# slurm: the largest index of an array, which is one less than MaxArraySize.
# needs: scontrol sed
exec /bin/sh -c 'answer=$(scontrol show config) || exit 1
	size=$(printf "%s\n" "$answer" | sed -n "s/^MaxArraySize *= *//p")
	test "${size:-0}" -gt 1 && echo "$((size - 1)) list"'
''',
    'slurm/cancel': r'''#!@shell@
# slurm: scancel fails if a job has ended and is forgotten, but then there is nothing to do.  A task
# of an array is ID+INDEX here, and for Slurm ID_INDEX.
# needs: scancel sed tr
exec /bin/sh -c 'answer=$(scancel $(echo "$@" | tr + _) 2>&1) && exit
	status=$?
	test -n "$answer" || exit $status
	answer=$(printf "%s\n" "$answer" |
		sed -e "/Invalid job id/d" -e "/already completing or completed/d")
	printf "%s\n" "$answer" >&2
	test -z "$answer"' psik $*
''',
    'slurm/check': r'''#!@shell@
# slurm: fail if slurmctld does not answer.
# needs: squeue
squeue -h --me -o %i >/dev/null
''',
    'slurm/hold': r'''#!@shell@
# slurm: keep jobs that wait from starting.
# needs: scontrol
scontrol hold $*
''',
    'slurm/job': r'''#!@shell@
#SBATCH --job-name=@tag@
#SBATCH --job-name=@name@
#SBATCH --chdir=@directory@
#SBATCH --export=ALL
#SBATCH --time=@duration_min@
#SBATCH --nodes=@node_count@
#SBATCH --ntasks=@processes@
#SBATCH --ntasks-per-node=@processes_per_node@
#SBATCH --cpus-per-task=@cpu_cores_per_process@
#SBATCH --gpus-per-task=@gpu_cores_per_process@
#SBATCH --mem-per-cpu=@memory_per_core@M
#SBATCH --mem=@memory_per_node@M
#SBATCH --exclusive@exclusive@
#SBATCH --partition=@queue_name@
#SBATCH --account=@project_name@
#SBATCH --reservation=@reservation_id@
#SBATCH --requeue@requeue@
#SBATCH --no-requeue@no_requeue@
#SBATCH --kill-on-invalid-dep=yes
#SBATCH @attributes@
#CALL exec @job@
mpirun=srun
mpirun=@launcher@
nodes=$SLURM_JOB_NUM_NODES
jobid=$SLURM_JOB_ID
psik_task=$SLURM_ARRAY_TASK_ID
psik_walltime_s=0
@job_body@
''',
    'slurm/poll': r'''#!@shell@
# slurm: all jobs of the user that slurmctld still knows, also ended ones (for MinJobAge):
# id, state, exit status, tag, reason.  The tag is the last word of the comment.  squeue prints the
# exit status as wait(2) returns it; with -r each task of an array has a line of its own, and its
# index goes behind the + of the tag.  The reason of a job that waits tells when it is expected to
# start, that of one that runs tells where.
# About ids on stdin that it no longer knows, the accounting is asked, if there is one.  Where it
# keeps no comments, a job is ours if it has our directory and was submitted after ours was made.
# needs: awk head sed squeue tr
exec /bin/sh -c 'base=$1
	asked=$(cat)
	fields="ArrayJobID:|,State:|,exit_code:|,Reason:|,StartTime:|,NodeList:|"
	fields="$fields,ArrayTaskID:|,Comment:|"
	answer=$(squeue -h -r -t all --me -O "$fields") || exit 1
	seen=$(printf "%s\n" "$answer" | awk -F "|" "
		NF < 8 { next }
		{ state = \"failed\"; code = int(\$3 / 256); reason = \$4 == \"None\" ? \"\" : \$4 }
		{ line = \$0; sub(/[| ]+\$/, \"\", line) }
		{ tag = match(line, /psik-[0-9.]+[+]?\$/) ? substr(line, RSTART) : \"none\" }
		tag ~ /[+]\$/ { tag = tag \$7 }
		code == 0 { code = \$3 % 128 && \$3 % 128 < 65 ? 128 + \$3 % 128 : \"-\" }
		\$2 ~ /^(PENDING|CONFIGURING|RESV_DEL_HOLD|SPECIAL_EXIT)\$/ { state = \"queued\" }
		\$2 ~ /^(REQUEUED|REQUEUE_HOLD|REQUEUE_FED)\$/ { state = \"queued\" }
		\$2 ~ /^(RUNNING|COMPLETING|SUSPENDED|STOPPED)\$/ { state = \"active\" }
		\$2 ~ /^(SIGNALING|STAGE_OUT|RESIZING)\$/ { state = \"active\" }
		\$2 == \"COMPLETED\" { state = \"completed\"; code = 0 }
		\$2 == \"OUT_OF_MEMORY\" { code = 137 }
		state == \"queued\" && \$5 ~ /^[0-9]/ {
			reason = (reason ? reason \", \" : \"\") \"expected to start at \" \$5
		}
		state == \"active\" && \$6 != \"\" { reason = \"on \" \$6 }
		state == \"failed\" && reason == \"NonZeroExitCode\" { reason = \"\"; \$2 = \"\" }
		state == \"failed\" && \$2 != \"\" { reason = \$2 (reason ? \" (\" reason \")\" : \"\") }
		{ print \$1, state, code, tag, reason }")
	printf "%s\n" "$seen"

	lost=$(printf "%s\n\n%s\n" "$seen" "$asked" | awk "
		\$0 == \"\" { asking = 1 }
		!asking && match(\$4, /[0-9]+[+][0-9]+\$/) {
			split(substr(\$4, RSTART), part, \"+\")
			known[\$1, substr(\$4, 1, RSTART - 1) part[1] + part[2]] = 1
			next
		}
		!asking { known[\$1] = 1 }
		asking && \$1 ~ /^[0-9]+\$/ && !(\$1 in known) && !((\$1, \$2) in known) && !told[\$1]++ {
			printf \"%s\", comma \$1
			comma = \",\"
		}")
	test -n "$lost" && command -v sacct >/dev/null || exit 0
	command -v timeout >/dev/null && limit="timeout 10"
	SLURM_TIME_FORMAT=%s $limit sacct -n -X -D -P -j "$lost" \
		-o JobIDRaw,JobID,State,ExitCode,Submit,WorkDir,Comment 2>/dev/null |
	while IFS="|" read -r id task state code submit place comment; do
		case $task in *_*) id=${task%%_*} ;; esac
		state=${state%% *} signal=${code#*:} code=${code%:*}
		case $comment in
			*psik-*+) tag=psik-${comment##*psik-}$(echo "${task#*_}" | tr -d "[]") ;;
			*psik-*) tag=psik-${comment##*psik-} ;;
			*)
				tag=$(printf "%s\n" "$asked" | sed -n "s/^$id \(psik-.*\)/\1/p" | head -n 1)
				jobid=${tag#psik-} jobid=${jobid%.*}
				here=$(cd "$base/../$jobid/work" 2>/dev/null && pwd -P)
				there=$(cd "$place" 2>/dev/null && pwd -P)
				test -n "$here" && test "$here" = "$there" &&
					test "$submit" -ge "${jobid%.*}" 2>/dev/null || tag=none
		esac
		test "$code" != 0 || code=-
		test "$signal" = 0 || code=$((128 + signal))
		case $state in
			COMPLETED) echo "$id completed 0 $tag" ;;
			OUT_OF_MEMORY) echo "$id failed 137 $tag $state" ;;
			FAILED) echo "$id failed $code $tag" ;;
			BOOT_FAIL | CANCELLED | DEADLINE | NODE_FAIL | PREEMPTED | TIMEOUT)
				echo "$id failed $code $tag $state" ;;
		esac
	done' psik @base@
''',
    'slurm/queues': r'''#!@shell@
# slurm: the partitions.
# needs: awk sinfo
exec /bin/sh -c 'answer=$(sinfo -h -o "%R|%a|%D|%A|%C|%l") || exit 1
	printf "%s\n" "$answer" | awk -F "|" "
		NF == 6 {
			split(\$4, nodes, \"/\"); split(\$5, cores, \"/\")
			count = split(\$6, part, \"[-:]\"); days = \$6 ~ /-/ ? part[1] : 0
			hours = days * 24 + (count > 2 ? part[count - 2] : 0)
			minutes = hours * 60 + part[count - 1]
			if (\$6 == \"infinite\" || \$6 == \"n/a\") minutes = \"-\"
			print \$1, \$2, \$3, nodes[2], cores[4], cores[2], minutes
		}"'
''',
    'slurm/release': r'''#!@shell@
# slurm: let jobs that are held start.
# needs: scontrol
scontrol release $*
''',
    'slurm/signal': r'''#!@shell@
# slurm: send a signal to the supervisors of jobs, which pass it on.  To a task of an array of which
# others wait slurmctld sends it too, but answers that it is too early: scancel would send it again
# after 5 s, and so on for 45.
# needs: scancel sed tr
exec /bin/sh -c 'name=$1
	shift
	limit=$(command -v timeout) && limit="$limit 4"
	answer=$($limit scancel --verbose --batch --signal="$name" $(echo "$@" | tr + _) 2>&1) && exit
	status=$?
	case $answer in *"transitional state, retrying"*) exit 0 ;; esac
	test $status -ne 124 || answer="scancel: error: slurmctld does not answer"
	printf "%s\n" "$answer" | sed -n "s/^scancel: error: //p" >&2
	exit $status' psik $*
''',
    'slurm/submit': r'''#!@shell@
# slurm: give sbatch the directives of scripts/job, and a line that calls scripts/job with its
# jobndx; print the id that it answers with, and on stderr all else.  The comment ends with the tag
# by which the submission is found again.  $3 holds the indices of an array, $4 the id of an array
# that has to end before.  What Slurm says of a script that it cannot start goes to
# log/submit.N.  Exit 75: the connection broke, so the job may have been taken.
# needs: grep sbatch sed tail
exec /bin/sh -c 'log=$(printf "%s\n" "$3.$1" | sed "s/%/%%/g")
	array=
	test -z "$5" || array="--array=$5"
	test -z "$6" || array="$array --dependency=afterany:$6"
	answer=$(sed -n "1p; /^#SBATCH/p; s/^#CALL \(.*\)/\1 $1/p" "$0" | sbatch --parsable $array \
		--comment="$4$2.$1" --output="$log" --open-mode=append 2>&1)
	status=$?
	printf "%s\n" "$answer" | sed -e "/^[0-9][0-9]*$/d" -e "/^[0-9][0-9]*;/d" >&2
	if test $status -eq 0; then
		printf "%s\n" "$answer" | sed -n -e "s/^\([0-9][0-9]*\)$/\1/p" \
			-e "s/^\([0-9][0-9]*\);.*/\1/p" -e "s/^Submitted batch job \([0-9]*\).*/\1/p" |
			tail -n 1
	elif printf "%s\n" "$answer" | grep -q -i -e "timed out" -e "(send failure)" \
		-e "receive failure" -e "shutdown failure" -e "Zero Bytes" -e "Unexpected message" \
		-e "missing socket"; then
		exit 75
	fi
	exit $status' @job@ $1 @tag@ @log@/submit @comment@ $3 $4
''',
    'slurm/usage': r'''#!@shell@
# slurm: what its accounting knows of the use of the jobs whose ids stdin holds: id, CPU time in
# seconds, and the most memory of a task in KiB.
# needs: awk sacct tr
exec /bin/sh -c 'ids=$(tr "\n" ,)
	answer=$(sacct -n -P --noconvert -j "${ids%,}" -o JobID,TotalCPU,MaxRSS) || exit 1
	printf "%s\n" "$answer" | awk -F "|" "
		{ split(\$1, id, \".\"); kib = \$3 + 0 }
		\$1 !~ /[.]/ {
			count = split(\$2, part, \"[-:]\"); days = \$2 ~ /-/ ? part[1] : 0
			hours = days * 24 + (count > 2 ? part[count - 2] : 0)
			cpu[\$1] = hours * 3600 + part[count - 1] * 60 + part[count]
		}
		\$3 ~ /[0-9]\$/ { kib /= 1024 }
		\$3 ~ /M\$/ { kib *= 1024 }
		\$3 ~ /G\$/ { kib *= 1048576 }
		kib > most[id[1]] { most[id[1]] = kib }
		END { for (each in cpu) printf \"%s %.2f %d\n\", each, cpu[each], most[each] }"'
''',
}
# end embedded templates


if __name__ == "__main__":
    sys.exit(main())
