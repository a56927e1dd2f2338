"""portal.py SOCKET KEY: a web portal whose user runs `show` and `score`, with httpx and PyJWT.

It signs a token for the user, looks what may be used, submits a form with a file, follows the job,
fetches its files, weighs them anew, and prints what came of it, a line each.
"""
import io
import json
import sys
import tarfile
import time

import httpx
import jwt

with open(sys.argv[2]) as file:
    token = jwt.encode({"iss": "https://portal", "sub": "eve", "aud": "psik", "roles": ["staff"],
                        "exp": int(time.time()) + 300}, file.read(), "RS256")
with httpx.Client(transport=httpx.HTTPTransport(uds=sys.argv[1]), base_url="http://localhost/v1",
                  headers={"Authorization": "Bearer " + token}, timeout=60) as psik:
    print(*[each["name"] for each in psik.get("/applications").json()])
    print(psik.get("/applications/show").json()["inputs"]["properties"]["file"]["default"])
    wrong = psik.post("/applications/plain", json={"count": "many"})
    print(wrong.status_code, wrong.json()["detail"][0]["loc"])
    jobid = psik.post("/applications/show", data={"word": "it's"},
                      files=[("files", ("data.txt", b"moo\n"))]).json()
    with psik.stream("GET", "/jobs/%s/events" % jobid) as events:
        states = [json.loads(line[5:])["state"] for line in events.iter_lines()
                  if line.startswith("data:")]
    print(*states)
    print(repr(psik.get("/jobs/%s/logs" % jobid).json()["stdout.1"]))
    archive = tarfile.open(fileobj=io.BytesIO(psik.get("/jobs/%s/archive" % jobid).content))
    print(*sorted(name.partition("/")[2] for name in archive.getnames() if "/" in name))
    print(psik.post("/jobs/%s/applications/score" % jobid, json={"weight": 2}).json()["stdout"])
    print(psik.put("/jobs/%s/files/x" % jobid, content=b"x").status_code,
          psik.post("/jobs", json={"script": "id"}).status_code)
