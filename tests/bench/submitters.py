"""Submit jobs that run `true` through one library, in its environment, and say at which pace.

    python submitters.py LIBRARY FOLDER JOBS SINGLES RESULT

Writes {"rate": jobs/s, "latency_ms": [...]} to RESULT: JOBS one after the other from this one
process; then SINGLES jobs, each until its end is known.
"""
import asyncio
import json
import os
import sys
import time
from typing import Any, Callable, Dict, Tuple

PATIENCE_S = 180
Library = Tuple[Callable[[], Any], Callable[[Any], bool]]  # submit() -> job, ended(job)


def until(claim: Callable[[], bool]) -> None:
    """Wait until a claim holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not claim():
        if time.monotonic() > deadline:
            raise TimeoutError("the jobs have not ended within %d s" % PATIENCE_S)
        time.sleep(0.001)


def recorded(base: Any) -> bool:
    """Whether the history in a job's directory says that it has completed."""
    with open(os.path.join(str(base), "status.csv")) as file:
        return ",completed," in file.read()


def ours(folder: str) -> Library:
    """psik.py."""
    import psik
    config = psik.Config(prefix=folder, backend=psik.BackendConfig(type="local"))

    def submit() -> Any:
        job = psik.create(config, psik.JobSpec(script="true"))
        psik.submit(job)
        return job.path
    return submit, recorded


def upstream(folder: str) -> Library:
    """psik 1.2.2 or 3.1.1."""
    import psik
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    manager = psik.JobManager(psik.Config(prefix=folder))

    async def submit() -> Any:
        job = await manager.create(psik.JobSpec(script="true"))
        await job.submit()
        return job.base
    return lambda: loop.run_until_complete(submit()), recorded


def psij(folder: str) -> Library:
    """psij-python's local executor; what it knows of a job is in its memory only."""
    import psij as library
    executor = library.JobExecutor.get_instance("local")

    def submit() -> Any:
        job = library.Job(library.JobSpec(executable="/bin/true"))
        executor.submit(job)
        return job
    return submit, lambda job: bool(job.status.final)


def submitit(folder: str) -> Library:
    """submitit's local executor."""
    import submitit as library
    command = library.helpers.CommandFunction(["true"], verbose=False)
    executor = library.LocalExecutor(folder=folder)
    return lambda: executor.submit(command), lambda job: bool(job.done())


LIBRARIES: Dict[str, Callable[[str], Library]] = {
    "psik.py": ours, "psik 1.2.2": upstream, "psik 3.1.1": upstream, "psij-python": psij,
    "submitit": submitit}


def main() -> None:
    """Submit, and write down how long it took."""
    name, folder, jobs, singles, result = sys.argv[1:]
    os.makedirs(folder)
    os.chdir(folder)  # some write their logs to where they are
    submit, ended = LIBRARIES[name](folder)

    def alone() -> float:
        begun = time.perf_counter()
        job = submit()
        until(lambda: ended(job))
        return (time.perf_counter() - begun) * 1000

    alone()  # what is only paid once, is paid now
    begun = time.perf_counter()
    submitted = [submit() for _ in range(int(jobs))]
    rate = len(submitted) / (time.perf_counter() - begun)
    until(lambda: all(ended(job) for job in submitted))
    latencies = [alone() for _ in range(int(singles))]
    with open(result, "w") as file:
        json.dump({"rate": rate, "latency_ms": latencies}, file)


if __name__ == "__main__":
    main()
