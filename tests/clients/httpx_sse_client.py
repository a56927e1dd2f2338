"""Print the transitions that a server tells, whatever becomes of it: httpx_sse_client.py URL."""
import sys
import time

import httpx
from httpx_sse import connect_sse

last = ""
for _ in range(1000):
    try:
        with httpx.Client(timeout=30) as client, connect_sse(
                client, "GET", sys.argv[1] + "v1/events",
                headers={"Last-Event-ID": last} if last else {}) as source:
            for event in source.iter_sse():
                last = event.id
                key = event.json()["key"] if event.event == "transition" else event.data
                print(event.event, key, flush=True)
    except httpx.TransportError:
        time.sleep(0.2)
