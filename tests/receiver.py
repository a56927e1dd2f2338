#!/usr/bin/env python3
"""A receiver of callbacks in Flask: it checks signatures by itself, as GitHub tells receivers to.

    python receiver.py LOG SECRET [CERT KEY]

Prints its port; appends each request to LOG as a line of JSON.  The path says how it answers: /ok,
/fail/N (500 N times, then 200), /moved (301), /slow (after 60 s).
"""
import collections
import hashlib
import hmac
import json
import sys
import threading
import time

from flask import Flask, Response, redirect, request
from werkzeug.serving import make_server

LOG, SECRET = sys.argv[1], sys.argv[2]
app = Flask(__name__)
failures = collections.Counter()
lock = threading.Lock()


@app.route("/<path:path>", methods=["GET", "POST"])
def take(path):
    """Note what came, and answer as the path says."""
    body = request.get_data()
    expected = "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    given = request.headers.get("X-Hub-Signature-256", "")
    status = 200
    if path.startswith("fail/"):
        with lock:
            failures[path] += 1
            status = 500 if failures[path] <= int(path.split("/")[1]) else 200
    with lock, open(LOG, "a") as file:
        file.write(json.dumps(
            {"body": json.loads(body), "signed": hmac.compare_digest(expected, given),
             "given": given, "delivery": request.headers.get("X-Psik-Delivery"),
             "agent": request.headers.get("User-Agent"),
             "type": request.headers.get("Content-Type"), "extra": request.headers.get("X-Extra"),
             "status": status, "path": request.full_path.rstrip("?"), "method": request.method,
             "time": time.time()}) + "\n")
    if path == "moved":
        return redirect("/ok", 301)
    if path == "slow":
        time.sleep(60)
    return Response("thanks", status)


server = make_server("127.0.0.1", 0, app, threaded=True,
                     ssl_context=(sys.argv[3], sys.argv[4]) if len(sys.argv) > 3 else None)
print(server.server_port, flush=True)
server.serve_forever()
