"""A session through what openapi-python-client made: session.py FOLDER URL."""
import io
import sys
import tarfile
import time

sys.path.insert(0, sys.argv[1])
from psik_client import Client
from psik_client.api.jobs import (cancel_job, delete_job, get_archive, get_file, get_jobs, get_log,
                                  get_logs, get_scripts, get_state, post_job, post_new, put_file,
                                  start_job)
from psik_client.api.server import get_metrics
from psik_client.models import JobSpec, JobState, ResourceSpec
from psik_client.types import UNSET, File

client = Client(base_url=sys.argv[2], raise_on_unexpected_status=True)


def done(answer):
    """Print what was answered."""
    print(int(answer.status_code), answer.parsed)


spec = JobSpec(script="cat in/data.txt", name="generated", resources=ResourceSpec(duration=5))
assert spec.inherit_environment is UNSET and spec.directory is UNSET and spec.requeue is UNSET
jobid = post_new.sync(client=client, body=spec)
done(put_file.sync_detailed(jobid, "in/data.txt", client=client,
                            body=File(payload=io.BytesIO(b"moo\n"))))
done(start_job.sync_detailed(jobid, client=client))
ended = (JobState.COMPLETED, JobState.FAILED)
for _ in range(600):
    if get_state.sync(jobid, client=client) in ended:
        break
    time.sleep(0.1)
print([(job.jobid == jobid, job.name, job.state.value, job.info)
       for job in get_jobs.sync(client=client, limit=1)])
print(sorted(get_logs.sync(jobid, client=client).additional_properties.items()))
print(repr(get_log.sync(jobid, "stdout.1", client=client)))
print("psik_jobs" in get_metrics.sync(client=client))
print("job" in get_scripts.sync(jobid, client=client).additional_properties)
print(get_file.sync(jobid, "in/data.txt", client=client).payload.read())
with tarfile.open(fileobj=get_archive.sync(jobid, client=client).payload) as archive:
    print(archive.extractfile(jobid + "/in/data.txt").read())
print(post_job.sync(client=client, body=JobSpec(script="echo moo"), wait=60).state.value)
other = post_job.sync(client=client, body=JobSpec(script="sleep 600"))
done(cancel_job.sync_detailed(other, client=client))
print(get_state.sync(other, client=client).value)
done(delete_job.sync_detailed(jobid, client=client, purge=True))
print(int(get_state.sync_detailed(jobid, client=client).status_code))
