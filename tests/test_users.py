"""Who may use the server: real users of one machine, pages in a real browser, and biscuits."""
import http.server
import os
import re
import shutil
import subprocess
import threading
import time
import unittest
from typing import Any

import psik
import test_access
from harness import DEPS, PSIK, Case, kill, needs, processes_with
from serving import SSHD, Server, tunnels
from users import CAN_MAKE_USERS, SYSTEM_PYTHON, TwoUsers

BISCUIT = os.path.join(DEPS, "biscuit", "bin", "python")
EVIL = """<!doctype html><title>begun</title>
<form id=f method=POST enctype=text/plain action=%(url)sv1/jobs target=t>
<input name='{"script": "touch evil", "name": "' value='"}'></form><iframe name=t></iframe><script>
document.getElementById("f").submit()
const spec = JSON.stringify({script: "touch evil"})
Promise.all([
  fetch("%(url)sv1/jobs", {method: "POST", mode: "no-cors", body: spec}).catch(e => e),
  fetch("%(url)sv1/jobs", {method: "POST", headers: {"Content-Type": "application/json"},
                           body: spec}).catch(e => e),
  fetch("http://evil.example:%(port)d/v1/jobs",
        {method: "POST", mode: "no-cors", body: spec}).catch(e => e),
]).then(() => setTimeout(() => { document.title = "ended" }, 500))
</script>"""


# Like ssh-agent: it leaves its session, and lets nobody see its files and its environment.
HIDDEN = """
import ctypes, os, time
end, begin = os.pipe()
if not os.fork():
    os.setsid()
    ctypes.CDLL(None).prctl(4, 0)   # PR_SET_DUMPABLE
    os.write(begin, b"hidden")
    os.closerange(0, 3)
    time.sleep(300)
os.read(end, 1)
"""


@needs("root, useradd and " + SYSTEM_PYTHON, CAN_MAKE_USERS)
class Doors(TwoUsers):
    """Two users of one machine, and the doors of a server."""

    @needs("curl", shutil.which("curl"))
    def test_the_second_is_let_in_by_no_door(self) -> None:
        first, second = self.names
        server = self.serve("--uds", os.path.join(self.folder, first, "s.sock"))
        url = ["--unix-socket", server.where, "http://localhost/v1/jobs"]
        self.assertEqual((self.curl(first, *url), self.curl(second, *url)), ("200", "000"))
        os.chmod(server.where, 0o666)  # even then
        self.assertEqual((self.curl(first, *url), self.curl(second, *url)), ("200", "403"))
        server.stop()
        for host in ("127.0.0.1", "::1"):
            server = self.serve("--host", host, "--port", "0")
            self.assertEqual((self.curl(first, server.where + "v1/jobs"),
                              self.curl(second, server.where + "v1/jobs")), ("200", "403"))
            server.stop()

    def test_a_process_that_its_own_user_cannot_look_at(self) -> None:
        mark = "hidden%d" % os.getpid()
        self.addCleanup(lambda: kill(processes_with(mark)))
        jobid = self.of(self.ada, "run", "--", SYSTEM_PYTHON, "-c", HIDDEN, mark).out.strip()
        self.of(self.ada, "wait", "--timeout", "90", jobid)
        self.assertEqual(len(processes_with(mark)), 1)
        self.of(self.ada, "rm", "--force", jobid)

    @needs("sshd", SSHD)
    def test_through_ssh(self) -> None:
        server = self.serve("--uds", os.path.join(self.folder, self.names[0], "s.sock"))
        for name in self.names:
            subprocess.run(["usermod", "-p", "*", name], check=True)  # no password, but not locked
        ports = tunnels(self, server.where, self.names)
        self.assertEqual([self.curl("root", "http://127.0.0.1:%d/v1/jobs" % port)
                          for port in ports], ["200", "000"])


@needs("chromium", shutil.which("chromium"))
class Browser(Case):
    """A page in a real browser."""

    def dump(self, *argv: str) -> str:
        """What the browser makes of a page."""
        done = subprocess.run(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--user-data-dir=" + os.path.join(self.folder, "profile"),
             "--host-resolver-rules=MAP evil.example 127.0.0.1", "--virtual-time-budget=8000",
             "--dump-dom"] + list(argv), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            timeout=120, env=dict(self.env, HOME=self.folder))
        return done.stdout.decode("utf-8", "replace")

    def test_pages(self) -> None:
        server = Server(self, "--host", "127.0.0.1", "--port", "0")
        page = (EVIL % {"url": server.where, "port": server.port}).encode()

        class Evil(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(page)

            def log_message(self, *args: Any) -> None:
                pass

        other = http.server.HTTPServer(("127.0.0.1", 0), Evil)
        threading.Thread(target=other.serve_forever, daemon=True).start()
        self.addCleanup(other.server_close)
        self.addCleanup(other.shutdown)
        said = self.dump("http://127.0.0.1:%d/" % other.server_port)
        self.assertIn("<title>ended</title>", said)
        self.assertIn("this server does not answer to",
                      self.dump("http://evil.example:%d/v1/jobs" % server.port))
        posts = re.findall(r'"POST /v1/jobs" (\d+)', server.said())
        self.assertGreaterEqual(len(posts), 3, server.said())
        self.assertEqual(set(posts), {"403"}, server.said())
        self.assertEqual(server.ask("GET", "/v1/jobs").json, [])
        jobid = str(server.ask("POST", "/v1/jobs/new",
                               {"script": "true", "name": "<b>odd & name</b>"}).json)
        ours = self.dump(server.where)
        self.assertIn(jobid, ours)
        self.assertIn("&lt;b&gt;odd &amp; name&lt;/b&gt;", ours)
        self.assertIn("GET /v1/openapi.json", self.dump(server.where + "#/api"))

    def test_a_page_that_wants_a_token(self) -> None:
        server = Server(self, "--host", "127.0.0.1", "--port", "0", "--token")
        token = re.findall("#token=([0-9a-f]+)", server.said())[0]
        jobid = str(server.ask("POST", "/v1/jobs/new", {"script": "true"},
                               Authorization="Bearer " + token).json)
        self.assertIn(jobid, self.dump("http://127.0.0.1:%d/#token=%s" % (server.port, token)))
        without = self.dump("http://127.0.0.1:%d/" % server.port)
        self.assertNotIn(jobid, without)
        self.assertIn("open the address that", without)
        self.assertNotIn(token, server.said().split("#token=" + token, 2)[2])


@needs("biscuit-python, in .deps/biscuit (make test-deps)", os.path.exists(BISCUIT))
class Biscuits(test_access.Secured):
    """The same with biscuits."""
    program = [BISCUIT, "-c", "import sys; sys.path.insert(0, %r); sys.argv[0] = 'psik.py'\n"
               "import psik; sys.exit(psik.main())" % os.path.dirname(PSIK)]
    narrowed = 401  # all that a biscuit says is a condition on its holding

    def begin(self, **settings: Any) -> None:
        super().begin(tokens="biscuit", **settings)

    def revoked(self) -> str:
        token = self.token("--user", "ada")
        shown = self.psik("token", "--show", token[6:], program=self.program).out
        self.psik("token", "--revoke", re.findall(r"revocation id: (\w+)", shown)[0],
                  program=self.program)
        return token

    def expired(self) -> str:
        return self.attenuated(self.token("--user", "ada"),
                               "check if time($t), $t < 2020-01-01T00:00:00Z")

    def token(self, *argv: str) -> str:
        return "token:" + self.psik("token", *argv, program=self.program).out.strip()

    def attenuated(self, token: str, block: str) -> str:
        """A biscuit that its holder has narrowed."""
        code = ("import sys, biscuit_auth as a\nsecret = bytes.fromhex(open(sys.argv[3]).read())\n"
                "key = a.PrivateKey.from_bytes(secret, a.Algorithm.Ed25519)\n"
                "public = a.KeyPair.from_private_key(key).public_key\n"
                "found = a.Biscuit.from_base64(sys.argv[1], public)\n"
                "print(found.append(a.BlockBuilder(sys.argv[2])).to_base64())")
        key = psik.Keyring(self.config()).path
        done = subprocess.run([BISCUIT, "-c", code, token[6:], block, key],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        return "token:" + done.stdout.decode().strip()

    def test_tokens(self) -> None:
        good = self.token("--user", "bob", "--expires", "1h")
        self.assertEqual(self.ask(good, "GET", "/v1/jobs").status, 200)
        block = self.ask(good, "POST", "/v1/token").json["blocks"][0]
        self.assertIn('user("bob");', block)
        given = "token:" + self.ask("ada", "GET", "/v1/token").text
        self.assertEqual(self.ask(given, "GET", "/v1/jobs").status, 200)
        for token in (good[:-8] + "AAAAAAA=", good[6:][::-1], "x",
                      test_access.jwt({"sub": "bob"}, b"k")):
            self.assertEqual(self.ask("token:" + token.replace("token:", ""), "GET",
                                      "/v1/jobs").status, 401)
        self.psik("token", "--revoke", re.findall(r"revocation id: (\w+)", block)[0],
                  program=self.program)
        self.assertEqual(self.ask(good, "GET", "/v1/jobs").status, 401)
        self.assertIn("biscuit-python", self.psik("token", status=2).err)

    def test_narrow_tokens(self) -> None:
        full = self.token("--user", "bob")
        jobid = str(self.ask(full, "POST", "/v1/jobs/new", {"script": "true"}).json)
        long = ('check if operation($o), ["GET", "HEAD"].contains($o)'
                ' && ($o == "GET" || $o.starts_with("H"))')
        for reader in (self.token("--user", "bob", "--ops", "GET"),
                       self.attenuated(full, 'check if operation("GET")'),
                       self.attenuated(full, long)):
            self.assertEqual(self.ask(reader, "GET", "/v1/jobs").status, 200)
            self.assertEqual(self.ask(reader, "POST", "/v1/jobs/%s/start" % jobid).status, 401)
        here = self.attenuated(full, 'check if path("/v1/jobs/%s")' % jobid)
        self.assertEqual((self.ask(here, "GET", "/v1/jobs/" + jobid).status,
                          self.ask(here, "GET", "/v1/jobs").status), (200, 401))
        for block in ('user("root")', 'right($u) <- user($u)'):
            self.assertEqual(self.ask(self.attenuated(full, block), "GET", "/v1/jobs").status, 401)
        one = self.token("--user", "bob", "--jobs", "1.5")
        self.assertEqual(self.ask(one, "GET", "/v1/jobs").json, [])
        late = self.attenuated(full, "check if time($t), $t < 2020-01-01T00:00:00Z")
        self.assertEqual(self.ask(late, "GET", "/v1/jobs").status, 401)

    def test_a_biscuit_that_would_take_long(self) -> None:
        full = self.token("--user", "bob")
        facts = "".join("a(%d);" % number for number in range(60))
        sixteen = ",".join(map(str, range(16)))
        nested = "".join("[%s].all($x%d -> " % (sixteen, number) for number in range(9))
        for block in (facts + "b($w) <- a($w), a($x), a($y), a($z), $w + $x + $y + $z == 1000;",
                      facts + "check if a($w), a($x), a($y), a($z), $w + $x + $y + $z == 1000;",
                      "check if operation($a), operation($b), operation($c), operation($d)",
                      "check if time($t);" * 40, "check if " + nested + "true" + ")" * 9,
                      'check if !"a".matches("\\\\pL{400}N")',
                      "check if " + " || ".join(["1 == 2"] * 60)):
            token = self.attenuated(full, block)
            begun = time.time()
            self.assertEqual(self.ask(token, "GET", "/v1/health").status, 401)
            self.assertLess(time.time() - begun, 2)

    def test_the_public_key_narrows(self) -> None:
        key = self.psik("token", "--public-key", program=self.program).out.strip()
        code = ("import sys, biscuit_auth as a\n"
                "key = a.PublicKey.from_bytes(bytes.fromhex(sys.argv[2]), a.Algorithm.Ed25519)\n"
                "found = a.Biscuit.from_base64(sys.argv[1], key)\n"
                "block = a.BlockBuilder('check if operation(\"GET\")')\n"
                "print(found.append(block).to_base64())")
        narrow = subprocess.run([BISCUIT, "-c", code, self.token("--user", "bob")[6:], key],
                                stdout=subprocess.PIPE).stdout.decode().strip()
        narrow = "token:" + narrow
        self.assertEqual(self.ask(narrow, "GET", "/v1/jobs").status, 200)
        self.assertEqual(self.ask(narrow, "POST", "/v1/jobs", {"script": "true"}).status, 401)
        self.assertEqual(self.ask(narrow, "POST", "/v1/token").status, 200)


if __name__ == "__main__":
    unittest.main()
