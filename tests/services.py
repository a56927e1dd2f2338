#!/usr/bin/env python3
"""Start and stop real schedulers (Slurm, Grid Engine, atd) on a machine without systemd.

    python3 tests/services.py slurm start FOLDER [Key=Value ...]
    python3 tests/services.py slurm stop FOLDER
    python3 tests/services.py atd start
    python3 tests/services.py atd stop

Nothing is installed here: the Debian packages slurmctld, slurmd, slurm-client, munge and at
must be there.  Everything a cluster writes lies below its FOLDER, it listens on 127.0.0.1
alone, and its ports are its own, so several clusters run side by side:

    FOLDER/slurm.conf gres.conf cgroup.conf munge.key munge.sock
    FOLDER/run/NAME.pid   log/NAME.log   state/   spool/NODE/

As root the cluster authenticates with a munged of its own; otherwise, or without munge, it
runs wholly as the calling user with auth/none.
"""

import fcntl
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any, Callable, Dict, List, Optional

START_S = 30        # a cluster is idle after 2 s on a quiet machine
STOP_S = 15         # slurmctld saves its state before it leaves
LEFTOVER_S = 2      # what a cancelled job gets before its processes are killed
TRIES = 3           # another program may take a port between the choice and its use
PORTS = range(20000, 32000)     # below the ports that outgoing connections are given
MAX_FOLDER = 70     # a socket's path has room for 107 characters, and spool/ holds sockets
ATD_PID = "/run/atd.pid"
ATD_ARGV = ["atd", "-l", "50", "-b", "1"]   # a busy machine still starts `batch` jobs

SETTINGS: Dict[str, str] = {
    "MpiDefault": "none",
    # Without these two the daemons would listen on every interface.
    "CommunicationParameters": "NoCtldInAddrAny,NoInAddrAny",
    "ProctrackType": "proctrack/linuxproc",
    "TaskPlugin": "task/none",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_Core_Memory",
    "DefMemPerCPU": "100",
    "SchedulerParameters": "batch_sched_delay=1,sched_interval=1,bf_interval=1",
    "AccountingStorageType": "accounting_storage/none",
    "JobCompType": "jobcomp/none",
    "ReturnToService": "2",
    "InactiveLimit": "0",
    "KillWait": "5",
    "EnforcePartLimits": "ALL",
    "GresTypes": "gpu",
    # Nodes may claim more processors than the machine has.
    "SlurmdParameters": "config_overrides",
}


class ServiceError(Exception):
    """A scheduler that did not start or did not stop."""


def wait_until(claim: Callable[[], bool], limit_s: float) -> bool:
    """Whether the claim came true within limit_s seconds."""
    end = time.monotonic() + limit_s
    while not claim():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def read(path: str) -> bytes:
    """The bytes of a file, none when it cannot be read."""
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError:
        return b""


def write(path: str, text: str, mode: int = 0o644) -> None:
    """A new file with this text and mode."""
    with open(path, "w", encoding="utf-8") as stream:
        os.fchmod(stream.fileno(), mode)
        stream.write(text)


def sbin_env() -> Dict[str, str]:
    """The environment without what an outer Slurm put there, and with sbin in PATH."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))}
    env["PATH"] = env.get("PATH", "/usr/bin:/bin") + ":/usr/local/sbin:/usr/sbin:/sbin"
    return env


def which(program: str) -> Optional[str]:
    """The path of a program, looked for in sbin too."""
    return shutil.which(program, path=sbin_env()["PATH"])


# ------------------------------------------------------------------ processes

def processes() -> List[int]:
    """The ids of all processes."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def command_name(pid: int) -> str:
    """The name of a process's program, cut to 15 characters by the kernel."""
    return read("/proc/%d/comm" % pid).decode("utf-8", "replace").strip()


def stat_fields(pid: int) -> List[bytes]:
    """What follows the name in /proc/PID/stat: the state, then the parent's id."""
    return read("/proc/%d/stat" % pid).rpartition(b")")[2].split()


def is_running(pid: int) -> bool:
    """Whether the process lives; a zombie, which not every init reaps, does not."""
    return stat_fields(pid)[:1] not in ([], [b"Z"], [b"X"])


def has_env(pid: int, entry: str) -> bool:
    """Whether the process was started with NAME=VALUE in its environment."""
    return entry.encode() in read("/proc/%d/environ" % pid).split(b"\0")


def with_children(pids: List[int]) -> List[int]:
    """The processes and all that descend from them."""
    parents = {pid: int((stat_fields(pid) + [b"0", b"0"])[1]) for pid in processes()}
    found = list(pids)
    for pid in found:       # grows while it is walked
        found.extend(c for c, p in parents.items() if p == pid and c not in found)
    return found


def kill(pid: int, signum: int) -> None:
    """Send a signal to a process that may have gone."""
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        pass


def end(pids: List[int], limit_s: float = STOP_S) -> None:
    """End the processes, by force after limit_s; ServiceError when one stays."""
    for signum, patience_s in ((signal.SIGTERM, limit_s), (signal.SIGKILL, 5)):
        alive = [pid for pid in pids if is_running(pid)]
        for pid in alive:
            kill(pid, signum)
        if wait_until(lambda: not any(map(is_running, alive)), patience_s):
            return
    raise ServiceError("processes do not end: %r" % [p for p in pids if is_running(p)])


# ------------------------------------------------------------------ Slurm

def free_ports(count: int) -> List[int]:
    """Ports of 127.0.0.1 that nobody listens on."""
    found: List[int] = []
    for port in random.SystemRandom().sample(PORTS, 500):
        if len(found) == count:
            break
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
    return found


def cgroup_conf() -> str:
    """Text of cgroup.conf, which is read only when a cgroup plugin is asked for."""
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        return ("CgroupPlugin=cgroup/v2\nIgnoreSystemd=yes\nCgroupAutomount=yes\n"
                "ConstrainRAMSpace=yes\n")
    return "CgroupPlugin=cgroup/v1\nCgroupAutomount=yes\nConstrainRAMSpace=yes\n"


class Cluster:
    """A scheduler of its own on this machine; all that it writes lies below its folder."""
    folder = ""

    @property
    def env(self) -> Dict[str, str]:
        """What makes the scheduler's commands talk to this cluster."""
        raise NotImplementedError

    def path(self, *names: str) -> str:
        """A path below the cluster's folder."""
        return os.path.join(self.folder, *names)

    def run(self, *argv: str) -> "subprocess.CompletedProcess[str]":
        """Run one of the scheduler's commands; its status is the caller's to judge."""
        return subprocess.run(list(argv), env=dict(sbin_env(), **self.env), timeout=60,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, universal_newlines=True)


class Slurm(Cluster):
    """A cluster of its own on this machine: nodes n1, n2..., one partition `main`.

    Each node claims `cpus` processors, 4000 MB and two GPUs; none of them need exist.
    """

    def __init__(self, nodes: int = 4, cpus: int = 4) -> None:
        self.nodes = ["n%d" % (i + 1) for i in range(nodes)]
        self.cpus = cpus
        self.folder = ""

    @classmethod
    def attach(cls, folder: str) -> "Slurm":
        """The cluster that another process started in this folder."""
        cluster = cls()
        cluster.folder = os.path.abspath(folder)
        text = read(cluster.conf).decode("utf-8")
        if not text:
            raise ServiceError("%s: no slurm.conf" % folder)
        rows = [line.split() for line in text.splitlines() if line.startswith("NodeName=")]
        cluster.nodes = [row[0].partition("=")[2] for row in rows]
        return cluster

    @property
    def conf(self) -> str:
        """The path of slurm.conf."""
        return os.path.join(self.folder, "slurm.conf")

    @property
    def env(self) -> Dict[str, str]:
        """What makes Slurm's commands talk to this cluster."""
        return {"SLURM_CONF": self.conf}

    # -------------------------------------------------------------- start

    def start(self, folder: str, **settings: Any) -> None:
        """Start the cluster in a folder and wait until every node is idle.

        settings are lines of slurm.conf, KillWait=30; None leaves a line out.
        """
        self.folder = os.path.abspath(folder)
        if len(self.folder) > MAX_FOLDER:
            raise ServiceError("%s: more than %d characters" % (self.folder, MAX_FOLDER))
        for attempt in range(TRIES):
            self._make_folders()
            self._write_conf(settings)
            try:
                self._start_all()
                return
            except ServiceError:
                self.stop()
                if attempt == TRIES - 1:
                    raise

    def _make_folders(self) -> None:
        # State of an earlier cluster would bring its jobs back.
        shutil.rmtree(self.path("state"), ignore_errors=True)
        shutil.rmtree(self.path("log"), ignore_errors=True)
        for name in ["run", "log", "state"] + ["spool/" + node for node in self.nodes]:
            os.makedirs(self.path(name), exist_ok=True)

    @property
    def _munged(self) -> bool:
        return os.geteuid() == 0 and which("munged") is not None

    def _auth(self) -> Dict[str, str]:
        """The lines that say who runs the daemons and how a user is known."""
        user = pwd.getpwuid(os.geteuid()).pw_name
        # The user `slurm` might not be let into the folder, so root runs slurmctld too.
        lines = {"SlurmUser": user, "SlurmdUser": user}
        if self._munged:
            lines.update(AuthType="auth/munge", CredType="cred/munge",
                         AuthInfo="socket=" + self.path("munge.sock"))
        else:
            lines.update(AuthType="auth/none", CredType="cred/none")
        return lines

    def _write_conf(self, settings: Dict[str, Any]) -> None:
        ports = free_ports(len(self.nodes) + 1)
        # Clusters side by side share the machine's cgroups, where a job's number names it.
        first_id = random.SystemRandom().randrange(1000, 600000, 100)
        lines = dict(SETTINGS, ClusterName="test%d" % ports[0], FirstJobId=str(first_id),
                     SlurmctldHost="localhost(127.0.0.1)", SlurmctldPort=str(ports[0]),
                     StateSaveLocation=self.path("state"), SlurmdSpoolDir=self.path("spool/%n"),
                     SlurmctldPidFile=self.path("run/slurmctld.pid"),
                     SlurmdPidFile=self.path("run/slurmd-%n.pid"),
                     SlurmctldLogFile=self.path("log/slurmctld.log"),
                     SlurmdLogFile=self.path("log/slurmd-%n.log"), **self._auth())
        lines.update(settings)
        text = "".join("%s=%s\n" % item for item in lines.items() if item[1] is not None)
        for node, port in zip(self.nodes, ports[1:]):
            text += ("NodeName=%s NodeHostname=localhost NodeAddr=127.0.0.1 Port=%d CPUs=%d"
                     " RealMemory=4000 Gres=gpu:2 State=UNKNOWN\n" % (node, port, self.cpus))
        text += ("PartitionName=main Nodes=%s Default=YES MaxTime=INFINITE State=UP\n"
                 % ",".join(self.nodes))
        write(self.conf, text)
        # A GPU without a file is not counted, and any two devices do.
        write(self.path("gres.conf"), "AutoDetect=off\n" + "".join(
            "NodeName=%s Name=gpu File=/dev/zero,/dev/full\n" % node for node in self.nodes))
        write(self.path("cgroup.conf"), cgroup_conf())

    def _start_all(self) -> None:
        if self._munged:
            self._start_munged()
        self.start_controller()
        for node in self.nodes:
            self.start_node(node)
        if not wait_until(self.is_idle, START_S):
            raise ServiceError("no idle nodes after %d s: %s\n%s" % (
                START_S, self.run("sinfo", "-N", "-o", "%N %T %E").stdout, self._log_tail()))

    def _start_munged(self) -> None:
        key = self.path("munge.key")
        if os.path.exists(key):
            os.unlink(key)
        with open(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as stream:
            stream.write(os.urandom(128))
        paths = {"socket": "munge.sock", "key-file": "munge.key", "log-file": "log/munged.log",
                 "pid-file": "run/munged.pid", "seed-file": "run/munged.seed"}
        # --force: a folder that others may write to only draws a warning.
        self._daemon("munged", "munged", "--force",
                     *("--%s=%s" % (k, self.path(v)) for k, v in paths.items()))

    def _daemon(self, name: str, *argv: str) -> None:
        """Start a program that makes itself a daemon and writes run/NAME.pid."""
        done = self.run(*argv)
        if done.returncode or not wait_until(lambda: self.pid(name) is not None, START_S):
            raise ServiceError("%s did not start (%d): %s%s\n%s" % (
                name, done.returncode, done.stdout, done.stderr, self._log_tail()))

    def _log_tail(self) -> str:
        """The last lines of every log."""
        names = sorted(os.listdir(self.path("log")))
        tails = [read(self.path("log", n)).decode("utf-8", "replace")[-1500:] for n in names]
        return "".join("== %s\n%s" % pair for pair in zip(names, tails))

    # -------------------------------------------------------------- parts

    def pid(self, name: str) -> Optional[int]:
        """The id of a daemon (munged, slurmctld, slurmd-NODE) of this cluster, if it runs."""
        text = read(self.path("run", name + ".pid")).strip()
        if not text.isdigit():
            return None
        pid = int(text)
        # The number may have gone to another program since.
        program = name.partition("-")[0]
        ours = command_name(pid) == program and has_env(pid, "SLURM_CONF=" + self.conf)
        return pid if ours and is_running(pid) else None

    def is_idle(self) -> bool:
        """Whether every node waits for work."""
        states = self.run("sinfo", "-h", "-N", "-o", "%N %T").stdout.splitlines()
        return set(states) == {node + " idle" for node in self.nodes}   # a line a partition

    def answers(self) -> bool:
        """Whether the controller answers."""
        return self.run("scontrol", "ping").returncode == 0

    def start_controller(self) -> None:
        """Start slurmctld with the state it saved, and wait for its answer."""
        self._daemon("slurmctld", "slurmctld")
        if not wait_until(self.answers, START_S):
            raise ServiceError("slurmctld does not answer\n" + self._log_tail())

    def stop_controller(self, signum: int = signal.SIGTERM) -> None:
        """End slurmctld; jobs go on without it.  SIGKILL: as in a crash."""
        self._stop_daemon("slurmctld", signum)

    def freeze_controller(self) -> None:
        """Let slurmctld take connections and answer none; a client gives up after 10 s.

        What it was sent meanwhile, it does once thawed.
        """
        self._signal("slurmctld", signal.SIGSTOP)

    def thaw_controller(self) -> None:
        """Let a frozen slurmctld go on."""
        self._signal("slurmctld", signal.SIGCONT)

    def _signal(self, name: str, signum: int) -> None:
        pid = self.pid(name)
        if pid is not None:
            kill(pid, signum)

    def start_node(self, node: str) -> None:
        """Start the slurmd of a node."""
        self._daemon("slurmd-" + node, "slurmd", "-N", node)

    def stop_node(self, node: str, signum: int = signal.SIGTERM) -> None:
        """End the slurmd of a node; its jobs go on."""
        self._stop_daemon("slurmd-" + node, signum)

    def _stop_daemon(self, name: str, signum: int) -> None:
        pid = self.pid(name)
        if pid is not None:
            kill(pid, signum)
            end([pid])

    def job_processes(self) -> List[int]:
        """The processes of this cluster's jobs, the slurmstepd of each among them.

        A process that lost its parent is known by its environment.
        """
        name = re.search(r"(?m)^ClusterName=(.*)$", read(self.conf).decode("utf-8"))
        job = "SLURM_CLUSTER_NAME=" + (name.group(1) if name else "")
        step = "SLURM_CONF=" + self.conf
        return with_children([
            pid for pid in processes() if pid != os.getpid() and (
                has_env(pid, job) or command_name(pid) == "slurmstepd" and has_env(pid, step))])

    # -------------------------------------------------------------- stop

    def stop(self) -> None:
        """Cancel what runs, end every daemon, and see that nothing is left."""
        if not self.folder:
            return
        self.thaw_controller()
        if self.pid("slurmctld") is not None and self.answers():
            self._cancel_all()
        # A slurmd waits for its steps, so they go first.
        for pid in self.job_processes():
            kill(pid, signal.SIGKILL)
        names = ["slurmd-" + node for node in self.nodes] + ["slurmctld", "munged"]
        # With messages to slurmd under way slurmctld would linger for 10 s; its state is not kept.
        end([pid for pid in map(self.pid, names) if pid is not None], 1)
        left = self.job_processes()
        for pid in left:
            kill(pid, signal.SIGKILL)
        end(left)

    def _cancel_all(self) -> None:
        ids = self.run("squeue", "-h", "-o", "%A").stdout.split()
        if ids:
            self.run("scancel", *sorted(set(ids)))
            wait_until(lambda: not self.run("squeue", "-h").stdout, LEFTOVER_S)


class SlurmWithAccounting(Slurm):
    """A cluster with a slurmdbd and a MariaDB of its own, which runs as `mysql`; for root alone."""

    def __init__(self, nodes: int = 1) -> None:
        super().__init__(nodes)
        self.database: Any = None

    def start(self, folder: str, **settings: Any) -> None:
        """Start it in a folder, the accounting first."""
        self.folder = os.path.abspath(folder)
        os.chmod(self.folder, 0o755)
        self.dbd_port = free_ports(1)[0]
        super().start(folder, **dict(self.accounting, **settings))

    @property
    def accounting(self) -> Dict[str, Any]:
        """The lines of slurm.conf that name the accounting."""
        return {"AccountingStorageType": "accounting_storage/slurmdbd",
                "AccountingStorageHost": "127.0.0.1", "AccountingStoragePort": self.dbd_port,
                "AccountingStoragePass": self.path("munge.sock"),   # where munged listens
                "JobAcctGatherType": "jobacct_gather/none"}

    def _start_database(self) -> None:
        data, self.socket = self.path("data"), self.path("sql/sock")
        for folder in (data, self.path("sql")):     # a second try begins with an empty one
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(folder)
            shutil.chown(folder, "mysql")
        common = ["--no-defaults", "--user=mysql", "--datadir=" + data]
        done = self.run("mariadb-install-db", "--auth-root-authentication-method=normal",
                        "--skip-test-db", *common)
        if done.returncode:     # which is tried again
            raise ServiceError("mariadb-install-db: %s%s" % (done.stdout, done.stderr))
        with open(self.path("log/mariadbd.log"), "wb") as log:
            self.database = subprocess.Popen(
                [which("mariadbd") or "mariadbd"] + common + [
                    "--socket=" + self.socket, "--skip-networking",
                    "--innodb-buffer-pool-size=32M", "--pid-file=" + self.path("sql/pid")],
                stdout=log, stderr=log)
        if not wait_until(lambda: os.path.exists(self.socket), START_S):
            raise ServiceError("mariadbd did not start\n" + self._log_tail())

    def _start_munged(self) -> None:
        super()._start_munged()
        self._start_database()
        lines = {"AuthType": "auth/munge", "AuthInfo": "socket=" + self.path("munge.sock"),
                 "DbdHost": "localhost", "DbdAddr": "127.0.0.1", "DbdPort": self.dbd_port,
                 "SlurmUser": "root", "StorageType": "accounting_storage/mysql",
                 "StorageHost": "localhost", "StorageUser": "root", "StorageLoc": "slurm_acct_db",
                 "LogFile": self.path("log/slurmdbd.log"), "PidFile": self.path("run/slurmdbd.pid")}
        text = "".join("%s=%s\n" % item for item in lines.items())
        write(self.path("slurmdbd.conf"), text, 0o600)
        env = dict(sbin_env(), MYSQL_UNIX_PORT=self.socket, **self.env)
        subprocess.run(["slurmdbd"], env=env, check=True, timeout=START_S)
        if not wait_until(lambda: bool(self._dbd_pid()), START_S):
            raise ServiceError("slurmdbd did not start\n" + self._log_tail())
        time.sleep(1)

    def _dbd_pid(self) -> Optional[int]:
        text = read(self.path("run/slurmdbd.pid")).strip()
        pid = int(text) if text.isdigit() else 0
        return pid if pid and command_name(pid) == "slurmdbd" and is_running(pid) else None

    def stop(self) -> None:
        """End the cluster, and then its accounting."""
        super().stop()
        pid = self._dbd_pid()
        end([pid] if pid else [])
        if self.database:
            end([self.database.pid])
            self.database.wait()


class SlurmBeside(Slurm):
    """Another cluster with the accounting and the munged of one that runs."""

    def __init__(self, other: SlurmWithAccounting, nodes: int = 1) -> None:
        super().__init__(nodes)
        self.other = other

    @property
    def name(self) -> str:
        """Its name in the accounting."""
        text = read(self.conf).decode("utf-8")
        return re.findall("^ClusterName=(.*)$", text, re.MULTILINE)[0]

    def start(self, folder: str, **settings: Any) -> None:
        """Start it in a folder."""
        super().start(folder, **dict(self.other.accounting, **settings))

    def _auth(self) -> Dict[str, str]:
        return dict(super()._auth(), AuthInfo="socket=" + self.other.path("munge.sock"))

    def _start_munged(self) -> None:
        """The other's is used."""


# ------------------------------------------------------------------ Grid Engine

SGE_UTIL = "/usr/lib/gridengine"
SGE_SHARE = "/usr/share/gridengine/util/resources"
SGE_CONFIGURATION = "/usr/share/gridengine/default-configuration"
SGE_NAME = "localhost"
# A queue's attributes that must be given, and have no other meaning here than "no limit".
SGE_UNLIMITED = ["%s_%s" % (kind, of) for kind in "sh" for of in (
    "rt", "cpu", "fsize", "data", "stack", "core", "rss", "vmem")]
SGE_QUEUE = {
    "hostlist": SGE_NAME, "seq_no": "0", "load_thresholds": "NONE", "suspend_thresholds": "NONE",
    "nsuspend": "1", "suspend_interval": "0:5:0", "priority": "0", "min_cpu_interval": "0:5:0",
    "processors": "UNDEFINED", "qtype": "BATCH", "ckpt_list": "NONE", "pe_list": "mpi smp",
    "rerun": "FALSE", "slots": "8", "tmpdir": "/tmp", "shell": "/bin/sh", "prolog": "NONE",
    "epilog": "NONE", "shell_start_mode": "unix_behavior", "starter_method": "NONE",
    "suspend_method": "NONE", "resume_method": "NONE", "terminate_method": "NONE",
    "notify": "0:0:2", "owner_list": "NONE", "user_lists": "NONE", "xuser_lists": "NONE",
    "subordinate_list": "NONE", "complex_values": "NONE", "projects": "NONE",
    "xprojects": "NONE", "calendar": "NONE", "initial_state": "default",
    **{name: "INFINITY" for name in SGE_UNLIMITED}}
SGE_ENVIRONMENT = {     # a parallel environment
    "slots": "999", "user_lists": "NONE", "xuser_lists": "NONE", "start_proc_args": "NONE",
    "stop_proc_args": "NONE", "control_slaves": "TRUE", "job_is_first_task": "FALSE",
    "urgency_slots": "min", "accounting_summary": "FALSE", "qsort_args": "NONE"}


class Sge(Cluster):
    """A Grid Engine of its own on this machine: one host, the queues all.q and short.q.

    Its daemons belong to root, who submits too; they listen on every address, as they always do.
    """

    @property
    def env(self) -> Dict[str, str]:
        """What makes its commands talk to this cluster."""
        return dict(SGE_ROOT=self.folder, SGE_CELL="default", SGE_QMASTER_PORT=str(self.ports[0]),
                    SGE_EXECD_PORT=str(self.ports[1]))

    def must(self, *argv: str) -> str:
        """What a command prints; ServiceError if it fails."""
        done = self.run(*argv)
        if done.returncode:
            raise ServiceError("%s: %s%s" % (" ".join(argv), done.stdout, done.stderr))
        return done.stdout

    def start(self, folder: str) -> None:
        """Start it in a folder, and wait until it takes jobs."""
        self.folder, self.ports = os.path.abspath(folder), free_ports(2)
        for name in ("default/common", "spool/qmaster", "spool/execd"):
            os.makedirs(self.path(name))
        os.chmod(self.folder, 0o755)
        for name in ("bin", "utilbin", "lib", "util"):
            os.symlink("/var/lib/gridengine/" + name, self.path(name))
        self._write_cell()
        self._fill_spool()
        self.start_master()
        for flag in ("-ah", "-as"):     # the master has said already that it is one itself
            self.run("qconf", flag, SGE_NAME)
        self.start_host()
        self._add_queues()
        if not wait_until(lambda: " lx-" in self.run("qstat", "-f").stdout, START_S):
            raise ServiceError("no host: %s" % self.run("qstat", "-f").stdout)

    def _write_cell(self) -> None:
        common = self.path("default/common")
        bootstrap = {"admin_user": "none", "default_domain": "none", "ignore_fqdn": "true",
                     "spooling_method": "classic", "spooling_lib": "libspoolc",
                     "spooling_params": common + ";" + self.path("spool/qmaster"),
                     "binary_path": "/usr/sbin", "qmaster_spool_dir": self.path("spool/qmaster"),
                     "security_mode": "none", "listener_threads": "2", "worker_threads": "2",
                     "scheduler_threads": "1"}
        write(os.path.join(common, "bootstrap"), self._lines(bootstrap))
        write(os.path.join(common, "act_qmaster"), SGE_NAME + "\n")
        names = SGE_NAME + " " + socket.gethostname()
        write(os.path.join(common, "host_aliases"), names + "\n")

    @staticmethod
    def _lines(values: Dict[str, str]) -> str:
        return "".join("%s %s\n" % pair for pair in values.items())

    def _fill_spool(self) -> None:
        ours = {"min_uid": "0", "min_gid": "0", "execd_spool_dir": self.path("spool/execd"),
                "load_report_time": "0:0:1",
                "reporting_params": "accounting=true reporting=false flush_time=0:0:1 "
                                    "accounting_flush_time=0:0:0 joblog=false sharelog=0:0:0"}
        rows = [line.split(None, 1) for line in read(SGE_CONFIGURATION).decode().splitlines()
                if not line.startswith("#") and line.strip()]
        values = dict({name: value.strip() for name, value in rows}, **ours)
        write(self.path("configuration"), "# Version: 6.2\n" + self._lines(values))
        params = self.path("default/common") + ";" + self.path("spool/qmaster")
        self.must(SGE_UTIL + "/spoolinit", "classic", "libspoolc", params, "init")
        for what, source in (("configuration", self.path("configuration")),
                             ("complexes", SGE_SHARE + "/centry"),
                             ("usersets", SGE_SHARE + "/usersets"), ("managers", "root")):
            self.must(SGE_UTIL + "/spooldefaults", what, source)

    def _add(self, flag: str, values: Dict[str, str]) -> None:
        write(self.path("new"), self._lines(values))
        self.must("qconf", flag, self.path("new"))

    def _add_queues(self) -> None:
        for name, rule in (("mpi", "$fill_up"), ("smp", "$pe_slots")):
            self._add("-Ap", dict({"pe_name": name, "allocation_rule": rule}, **SGE_ENVIRONMENT))
        self._add("-Aq", dict({"qname": "all.q"}, **SGE_QUEUE))
        self._add("-Aq", dict({"qname": "short.q"}, **dict(SGE_QUEUE, h_rt="1:0:0", slots="2")))
        scheduling = self.must("qconf", "-ssconf")
        for name, value in (("schedule_interval", "0:0:1"), ("flush_submit_sec", "1"),
                            ("flush_finish_sec", "1")):
            scheduling = re.sub("(?m)^(%s +).*" % name, r"\g<1>" + value, scheduling)
        write(self.path("new"), scheduling)
        self.must("qconf", "-Msconf", self.path("new"))

    def start_master(self) -> None:
        """Start the master, and wait for its answer."""
        self.must("sge_qmaster")
        if not wait_until(lambda: not self.run("qconf", "-sh").returncode, START_S):
            raise ServiceError("qmaster: %s" % read(self.path("spool/qmaster/messages")).decode())

    def start_host(self) -> None:
        """Start the daemon that runs the jobs."""
        self.must("sge_execd")

    def daemons(self, *names: str) -> List[int]:
        """The ids of its processes of these names."""
        return [pid for pid in processes() if command_name(pid) in names
                and has_env(pid, "SGE_ROOT=" + self.folder) and is_running(pid)]

    def stop_master(self, signum: int = signal.SIGTERM) -> None:
        """End the master; jobs go on without it.  SIGKILL: as in a crash."""
        pids = self.daemons("sge_qmaster")
        for pid in pids:
            kill(pid, signum)
        end(pids)

    def freeze_master(self, signum: int = signal.SIGSTOP) -> None:
        """Let the master take connections and answer none; SIGCONT lets it go on."""
        for pid in self.daemons("sge_qmaster"):
            kill(pid, signum)

    def stop(self) -> None:
        """End what runs, and every daemon."""
        if self.folder:
            self.freeze_master(signal.SIGCONT)
            mark = "SGE_ROOT=" + self.folder
            left = with_children([pid for pid in processes() if command_name(pid) != "sge_qmaster"
                                  and has_env(pid, mark)])
            for pid in left:
                kill(pid, signal.SIGKILL)
            end(left + self.daemons("sge_qmaster"), 2)


# ------------------------------------------------------------------ at

class Atd:
    """The daemon of `at` and `batch`; one per machine, and only root can start it."""

    def __init__(self) -> None:
        self.pid: Optional[int] = None  # of the one started here

    @staticmethod
    def running() -> Optional[int]:
        """The id of an atd that runs, whoever started it; not of a child, which waits for a job."""
        noted = read(ATD_PID).decode("utf-8", "replace").strip()
        pid = int(noted) if noted.isdigit() else 0
        return pid if pid and command_name(pid) == "atd" and is_running(pid) else None

    def start(self) -> None:
        """Start atd, unless one runs already: that one is used, and left alone by stop()."""
        if self.running() is not None:
            return
        done = subprocess.run(ATD_ARGV, env=sbin_env(), stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=START_S)
        if done.returncode or not wait_until(lambda: self.running() is not None, START_S):
            raise ServiceError("atd did not start (%d): %s" % (
                done.returncode, done.stderr.decode("utf-8", "replace")))
        self.pid = self.running()

    def stop(self) -> None:
        """End the atd that start() started; what it runs goes on."""
        if self.pid is not None and command_name(self.pid) == "atd":
            end([self.pid])
        self.pid = None

    def hold(self) -> None:
        """Wait until no other test uses this machine's atd, and start it."""
        self.lock = open(os.path.join(tempfile.gettempdir(), "psik-test-atd.lock"), "w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.start()

    def release(self) -> None:
        """Stop it, and let another test use it."""
        self.stop()
        self.lock.close()

    def adopt(self) -> None:
        """Take over an atd that an earlier `services.py atd start` left, so that stop() ends it."""
        pid = self.running()
        if pid is not None:
            argv = read("/proc/%d/cmdline" % pid).decode("utf-8", "replace").split("\0")
            if argv[1:len(ATD_ARGV)] == ATD_ARGV[1:]:
                self.pid = pid


# ------------------------------------------------------------------ command line

def command_slurm(verb: str, folder: str, settings: List[str]) -> None:
    """services.py slurm start|stop FOLDER [Key=Value ...]"""
    if verb == "stop":
        Slurm.attach(folder).stop()
        return
    cluster = Slurm()
    cluster.start(folder, **dict(word.split("=", 1) for word in settings))
    print("export SLURM_CONF=%s" % cluster.conf)


def command_atd(verb: str) -> None:
    """services.py atd start|stop"""
    atd = Atd()
    if verb == "start":
        atd.start()
    else:
        atd.adopt()
        atd.stop()


def main(argv: List[str]) -> int:
    """Do what the command line says; 2 when it cannot be read."""
    usage = argv[:2] in (["slurm", "start"], ["slurm", "stop"]) and len(argv) > 2
    try:
        if usage and all("=" in word for word in argv[3:]):
            command_slurm(argv[1], argv[2], argv[3:])
        elif argv in (["atd", "start"], ["atd", "stop"]):
            command_atd(argv[1])
        else:
            print(__doc__, file=sys.stderr)
            return 2
    except ServiceError as err:
        print("services.py: %s" % err, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
