"""The peers of psik.py: an environment for each, made once; and job trees that all can read."""
import glob
import json
import os
import shutil
import subprocess
import sys
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

OURS, UPSTREAM, API = "psik.py", "psik 1.2.2", "psik_api 1.0.0"
PEERS = {  # name: (folder of the environment below DEPS, what pip installs)
    UPSTREAM: ("psik-1.2.2", "psik==1.2.2"),
    # Its FastAPI does not start with a later pydantic.
    API: ("bench-psik_api", "psik_api==1.0.0 pydantic==2.11.10"),
    "psik 3.1.1": ("bench-psik-3.1.1", "psik==3.1.1"),
    "psij-python": ("bench-psij", "psij-python==0.9.11"),
    "submitit": ("bench-submitit", "submitit==1.5.4"),
}
NEED_RC = (UPSTREAM, API)  # their jobs are rc scripts
BROUGHT_BY_VENV = ("pip", "setuptools", "wheel", "pkg_resources", "_distutils_hack",
                   "distutils-precedence")
UNWANTED = ("PSIK_CONFIG", "PSIK_API_CONFIG", "VIRTUAL_ENV", "XDG_DATA_HOME")


class Peer(NamedTuple):
    """A peer that is installed."""
    name: str
    python: str

    def program(self, name: str) -> str:
        """The path of a program of its environment."""
        return os.path.join(os.path.dirname(self.python), name)

    def installed(self) -> Tuple[List[str], float]:
        """Its packages (`name-version`) and their size in MB, less what every environment has."""
        folder = glob.glob(self.program("../lib/python*/site-packages"))[0]
        packages, size = [], 0
        for entry in sorted(os.listdir(folder)):
            if entry.split("-")[0].split(".")[0] not in BROUGHT_BY_VENV:
                packages += [entry[:-len(".dist-info")]] if entry.endswith(".dist-info") else []
                path = os.path.join(folder, entry)
                files = [os.path.join(where, name) for where, _, names in os.walk(path)
                         for name in names] or [path]
                size += sum(os.lstat(file).st_size for file in files)
        return packages, size / 1e6


def environment(deps: str, folder: str, packages: str) -> str:
    """The Python of an environment, which is made where it is not there yet."""
    place = os.path.join(deps, folder)
    python = os.path.join(place, "bin", "python")
    if not os.path.exists(os.path.join(place, "done")):
        print("installing " + packages, file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
        subprocess.run([python, "-m", "pip", "-q", "install", "--disable-pip-version-check"]
                       + packages.split(), check=True)
        open(os.path.join(place, "done"), "w").close()
    return python


def install(deps: str) -> Tuple[Dict[str, Peer], Dict[str, str]]:
    """The peers that can be had here, by name; why the others cannot."""
    found, missing = {}, {}
    for name, (folder, packages) in PEERS.items():
        if name in NEED_RC and not shutil.which("rc"):
            missing[name] = "needs rc (Debian package rc)"
            continue
        try:
            found[name] = Peer(name, environment(deps, folder, packages))
        except (OSError, subprocess.CalledProcessError):
            missing[name] = "pip could not install %s for this Python" % packages
    return found, missing


def clean_environment(home: str, **variables: str) -> Dict[str, str]:
    """The variables for a program that is measured: ours, without what would lead it elsewhere."""
    kept = {name: value for name, value in os.environ.items()
            if name not in UNWANTED and not name.startswith("PYTHON")}
    return dict(kept, HOME=home, **variables)


def write_json(path: str, value: Any) -> str:
    """Write a JSON file; its path."""
    with open(path, "w") as file:
        json.dump(value, file, indent=4)
    return path


def make_tree(psik: Any, root: str, count: int, callback: Optional[str] = None) -> str:
    """Make a folder of so many completed jobs, by none of those measured; the last job's path.

    The specs are those that psik.py writes; psik 1.2.2 and psik_api read them too.
    """
    spec = psik.to_json(psik.JobSpec(script="true", name="bench", callback=callback))
    base = ""
    for begun in range(1700000000, 1700000000 + count):
        base = os.path.join(root, "%d.%03d" % (begun, begun % 1000))
        os.makedirs(base)
        write_json(os.path.join(base, "spec.json"),
                   dict(spec, directory=os.path.join(base, "work")))
        with open(os.path.join(base, "status.csv"), "w") as file:
            file.write("{0}.000,0,new,0\n{0}.010,1,queued,4242\n{0}.020,1,active,4242\n"
                       "{0}.030,1,completed,0\n".format(begun))
    return base
