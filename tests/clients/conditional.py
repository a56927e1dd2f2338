"""Print each answer that is not as wanted: conditional.py (requests | aiohttp) URL."""
import asyncio
import sys

import aiohttp
import requests

# What is asked of a file that holds 0123456789, in order, and the status and text of the answer;
# TAG and DATE are the file's at first.
CONDITIONS = [
    ("GET", {}, "", [200, "0123456789"]),
    ("GET", {"Range": "bytes=2-4"}, "", [206, "234"]),
    ("GET", {"Range": "bytes=-3"}, "", [206, "789"]),
    ("GET", {"Range": "bytes=2-4", "If-Range": "TAG"}, "", [206, "234"]),
    ("GET", {"Range": "bytes=2-4", "If-Range": '"other"'}, "", [200, "0123456789"]),
    ("GET", {"If-None-Match": "TAG"}, "", [304, ""]),
    ("GET", {"If-Modified-Since": "DATE"}, "", [304, ""]),
    ("GET", {"If-Match": '"other"'}, "", [412]),
    ("GET", {"If-Match": "TAG"}, "", [200, "0123456789"]),
    ("PUT", {"If-None-Match": "*"}, "new", [412]),
    ("PUT", {"If-Match": '"other"'}, "new", [412]),
    ("DELETE", {"If-Match": '"other"'}, "", [412]),
    ("PUT", {"If-Match": "TAG"}, "abcdefgh", [200, "null\n"]),
    ("GET", {"If-None-Match": "TAG"}, "", [200, "abcdefgh"]),
    ("PUT", {"If-Match": "TAG"}, "late", [412]),
    ("DELETE", {"If-Match": "*"}, "", [200, "null\n"]),
    ("PUT", {"If-Match": "*"}, "new", [412]),
    ("PUT", {"If-None-Match": "*"}, "new", [200, "null\n"]),
]


async def ask(session, method, headers, body):
    """Status, headers and text of an answer."""
    data = body.encode() or None
    if sys.argv[1] == "requests":
        answer = session.request(method, sys.argv[2], headers=headers, data=data)
        return answer.status_code, answer.headers, answer.text
    async with session.request(method, sys.argv[2], headers=headers, data=data) as answer:
        return answer.status, answer.headers, await answer.text()


async def main():
    session = requests.Session() if sys.argv[1] == "requests" else aiohttp.ClientSession()
    known = {}
    for method, headers, body, wanted in CONDITIONS:
        sent = {name: known.get(text, text) for name, text in headers.items()}
        status, about, text = await ask(session, method, sent, body)
        known = known or {"TAG": about["ETag"], "DATE": about["Last-Modified"]}
        if [status] + [text] * (status < 400) != wanted:
            print(method, headers, status, text)
    if sys.argv[1] == "aiohttp":
        await session.close()

asyncio.run(main())
