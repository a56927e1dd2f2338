"""Who may use the server: certificates, tokens, owners, and plain TCP."""
import base64
import hashlib
import hmac
import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import unittest
from typing import Any, Dict, List, Sequence, Tuple, Union

import psik
from harness import FAST, Case, needs
from serving import Answer, Server

POLICY = '''
class Weekday:
    def allows(self, user, operation, job):
        return user == "ada" if job is None else user == "bob" and operation == "GET"
'''


def encode(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def jwt(claims: Dict[str, Any], key: bytes, alg: str = "HS256") -> str:
    """A JWT made by hand; with alg none it bears no signature."""
    head = {"alg": alg, "typ": "JWT"}
    text = ".".join(encode(json.dumps(part).encode()) for part in (head, claims))
    mark = encode(hmac.new(key, text.encode(), hashlib.sha256).digest())
    return text + "." + mark * (alg != "none")


def make_certificates(folder: str) -> None:
    """A CA with certificates of a server, of users and one that expired; another CA with one."""
    def openssl(*argv: str) -> None:
        subprocess.run(("openssl",) + argv, check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, cwd=folder)

    for authority in ("ca", "other"):
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                "-nodes", "-keyout", authority + ".key", "-out", authority + ".pem", "-days", "2",
                "-subj", "/CN=" + authority, "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    for name, authority, days in (("server", "ca", "2"), ("ada", "ca", "2"), ("root", "ca", "2"),
                                  ("gone", "ca", "2"), ("late", "ca", "-1"),
                                  ("foreign", "other", "2")):
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                "-keyout", name + ".key", "-out", name + ".csr", "-subj", "/CN=" + name)
        with open(os.path.join(folder, "ext"), "w") as file:
            file.write("subjectAltName=DNS:localhost,IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
        dates = ["-days", days]
        if days == "-1":
            dates = ["-not_before", "20200101000000Z", "-not_after", "20200201000000Z"]
        argv = ["x509", "-req", "-in", name + ".csr", "-out", name + ".pem", "-extfile", "ext",
                "-CA", authority + ".pem", "-CAkey", authority + ".key", "-CAcreateserial"]
        try:
            openssl(*(argv + dates))
        except subprocess.CalledProcessError:  # before OpenSSL 3.4 x509 takes days, but no dates
            openssl(*(argv + ["-days", days]))


INVALID = ("revoked token", "expired token", "no token")


def expected(who: str, method: str, path: str, narrowed: int) -> Union[str, int]:
    """The status that somebody gets for an operation of openapi.json, or `yes`.

    narrowed: what a token to look gets where it wants more.
    """
    known = who not in ("nobody", "a certificate that was withdrawn")
    if who == "a certificate that was withdrawn":
        return 403
    if who in INVALID:
        return 401
    if path == "/v1/token" and method == "POST":  # what the token says that one shows
        return "yes" if known and who not in ("owner", "admin") else 401
    if who == "token to look" and method != "GET":
        return narrowed
    if method == "GET" and (path in ("/", "/v1", "/v1/openapi.json", "/v1/health")
                            or path in ("/v1/backends", "/v1/backends/{name}", "/page/{name}")):
        return "yes"
    if not known:
        return 401
    if path in ("/v1/metrics", "/v1/token", "/v1/events") or path.endswith("/queues"):
        return "yes"
    if (path, method) in (("/v1/jobs", "GET"), ("/v1/jobs/counts", "GET")):
        return "yes"
    if path.startswith("/v1/applications") and method == "GET" and who.endswith("another backend"):
        return "yes"
    if path in ("/v1/jobs", "/v1/jobs/new") or path.startswith("/v1/applications"):
        return 403 if who in ("not a user", "token for another job", "token for this job",
                              "token for another backend") else "yes"
    return for_a_job(who, method, path)


def for_a_job(who: str, method: str, path: str) -> Union[str, int]:
    """The same, of the operations on one job, which is ada's and shared."""
    if who in ("stranger", "not a user", "token for another job", "token for another backend"):
        return 404
    if path.endswith("/access") and method == "PUT":
        return "yes" if who in ("owner", "admin", "token of the owner") else 403
    if who == "reader":
        return "yes" if method == "GET" else 403
    return "yes"


class Secure(Case):
    """A server that speaks TLS, with the users ada (by certificate), bob and eve (by token)."""
    place = ""
    program: Sequence[str] = FAST
    options: Sequence[str] = ()

    @classmethod
    def setUpClass(cls) -> None:
        cls.place = tempfile.mkdtemp(prefix="psik-ca-")
        make_certificates(cls.place)

    @classmethod
    def tearDownClass(cls) -> None:
        shutil.rmtree(cls.place, True)

    def setUp(self) -> None:
        super().setUp()
        self.begin()

    def begin(self, **settings: Any) -> None:
        """Start the server with this config."""
        settings.setdefault("authz", "owner")
        settings.setdefault("admins", ["root"])
        settings.setdefault("users", ["ada", "bob", "carl", "eve"])
        settings.setdefault("refused_certificates", [self.serial("gone")])
        settings.setdefault("backends", {"local": {"type": "local"}, "other": {"type": "local"}})
        self.configure(applications="apps", **settings)
        self.offer("local")
        self.offer("prompt", interactive=True)
        self.server = Server(self, "--host", "127.0.0.1", "--port", "0",
                             "--tls-cert", self.at("server.pem"),
                             "--tls-key", self.at("server.key"),
                             "--client-ca", self.at("ca.pem"), *self.options, program=self.program)

    def at(self, name: str) -> str:
        """A file of the CA."""
        return os.path.join(self.place, name)

    def serial(self, name: str) -> str:
        """The serial number of a certificate, as openssl prints it."""
        argv = ["openssl", "x509", "-noout", "-serial", "-in", self.at(name + ".pem")]
        return subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout.decode().strip()

    def ask(self, who: str, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """A request of who shows the certificate of this name, or a `token:...`, or nothing."""
        context = ssl.create_default_context(cafile=self.at("ca.pem"))
        if who.startswith("token:"):
            headers["Authorization"] = "Bearer " + who[6:]
        elif who:
            context.load_cert_chain(self.at(who + ".pem"), self.at(who + ".key"))
        self.server.context = context
        return self.server.ask(method, path, body, **headers)

    def token(self, *argv: str) -> str:
        """A token from the command line, as a caller."""
        return "token:" + self.psik("token", *argv).out.strip()

    def made_by(self, who: str) -> str:
        """Let somebody make a job; its id."""
        return str(self.ask(who, "POST", "/v1/jobs/new", {"script": "true"}).json)

    def listed(self, who: str) -> List[str]:
        """The jobs that somebody sees."""
        return sorted(str(job["jobid"]) for job in self.ask(who, "GET", "/v1/jobs").json)


class Secured(Secure):
    """Who may do what, whatever the tokens are."""
    narrowed = 403  # what a token to look is answered where it wants more

    def revoked(self) -> str:
        """A token of ada's that was revoked."""
        token = self.token("--user", "ada")
        self.psik("token", "--revoke", json.loads(psik.decode_base64(token.split(".")[1]))["jti"])
        return token

    def expired(self) -> str:
        """A token of ada's whose time is over."""
        with open(psik.Keyring(self.config()).path) as file:
            key = bytes.fromhex(file.read().strip())
        claims = {"sub": "ada", "iss": "psik", "aud": "psik", "iat": 1, "exp": 2, "jti": "x"}
        return "token:" + jwt(claims, key)

    def identities(self, other: str) -> Dict[str, str]:
        """{name: whom ask() takes} of everybody who may come; other is a job of ada's."""
        return {"nobody": "", "a certificate that was withdrawn": "gone",
                "owner": "ada", "admin": "root",
                "reader": self.token("--user", "bob"), "user": self.token("--user", "carl"),
                "stranger": self.token("--user", "eve"), "not a user": self.token("--user", "dora"),
                "token of the owner": self.token("--user", "ada"),
                "token to look": self.token("--user", "ada", "--ops", "GET"),
                "token for another job": self.token("--user", "ada", "--jobs", other),
                "token for another backend": self.token("--user", "ada", "--backends", "other"),
                "revoked token": self.revoked(), "expired token": self.expired(),
                "no token": "token:x"}

    def sent(self, operation: Dict[str, Any], path: str, jobid: str) -> Tuple[Any, Dict[str, str]]:
        """A body, and headers, that an operation of openapi.json takes."""
        media = list(operation.get("requestBody", {}).get("content", {}))
        if media == ["multipart/form-data"]:
            form = (b'--x\r\nContent-Disposition: form-data; name="files"; filename="g"\r\n\r\n'
                    b"\r\n--x--\r\n")
            return form, {"Content_Type": "multipart/form-data; boundary=x"}
        if media and path.endswith("/archive"):
            return bytes(1024), {}  # an empty one
        if media != ["application/json"]:
            return b"x" if media else None, {}
        if path.endswith("/callback"):
            return {"jobid": jobid, "jobndx": 1, "state": "active"}, {}
        if "applications" in path:
            return {}, {}
        return {"frank": []} if path.endswith("/access") else {"script": "true"}, {}

    def test_every_route_for_every_identity(self) -> None:
        """README's "Who may use it" as a matrix: openapi.json's operations and all who may come."""
        other = str(self.ask("ada", "POST", "/v1/jobs/new", {"script": "true"}).json)
        document = self.ask("", "GET", "/v1/openapi.json").json
        known, tried = self.identities(other), 0
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                jobid = str(self.ask("ada", "POST", "/v1/jobs/new", {"script": "true"}).json)
                self.ask("ada", "PUT", "/v1/jobs/%s/files/f.txt" % jobid, b"x")
                self.ask("ada", "PUT", "/v1/jobs/%s/access" % jobid,
                         {"bob": ["GET"], "carl": ["POST"]})
                with open(self.job(jobid).at("log", "stdout.1"), "w"):
                    pass
                names = {"/v1/jobs/{jobid}/logs/{name}": "stdout.1", "/page/{name}": "main.js",
                         "/v1/jobs/{jobid}/applications/{name}": "prompt"}
                url = path.format(jobid=jobid, path="f.txt", name=names.get(path, "local"))
                body, headers = self.sent(operation, path, jobid)
                token = self.token("--user", "ada", "--jobs", jobid)
                identities = dict(known, **{"token for this job": token})
                # Those who change the job come last.
                for name in sorted(identities, key=lambda name: name in ("owner", "admin", "user")):
                    if method == "delete" and "/files/" in path:
                        self.ask("ada", "PUT", url, b"x")
                    wanted = expected(name, method.upper(), path, self.narrowed)
                    with self.subTest(route=method + " " + path, who=name):
                        answer = self.ask(identities[name], method.upper(), url, body, **headers)
                        # By the one before it was started already; none waits in a queue.
                        let_in = {"start": 409, "hold": 409, "release": 409, "queues": 404,
                                  "{name}": 409}    # the job of an interactive one has not ended
                        done = (200 <= answer.status < 300
                                or let_in.get(path.rpartition("/")[2]) == answer.status)
                        self.assertEqual("yes" if done else answer.status, wanted)
                    tried += 1
        self.assertEqual(tried, len(psik.ROUTES) * 16)
        self.assertNotIn("Traceback", self.server.said())

    def test_a_listing_shows_ones_own_and_what_is_shared(self) -> None:
        bob, eve = self.token("--user", "bob"), self.token("--user", "eve")
        hers, his = self.made_by("ada"), self.made_by(bob)
        self.assertEqual([self.listed(who) for who in ("ada", bob, eve, "root")],
                         [[hers], [his], [], [hers, his]])
        self.assertEqual(self.psik("share", hers, "bob:GET").out, "owner ada\nbob GET\n")
        self.assertEqual(self.listed(bob), [hers, his])
        self.ask("ada", "PUT", "/v1/jobs/%s/access" % hers, {"bob": []})
        self.assertEqual(self.listed(bob), [his])

    def test_who_may_look_may_do_nothing_else(self) -> None:
        bob, hers = self.token("--user", "bob"), self.made_by("ada")
        self.psik("share", hers, "bob:GET")
        self.assertEqual(self.ask(bob, "POST", "/v1/jobs/%s/start" % hers).status, 403)
        access = "/v1/jobs/%s/access" % hers
        self.assertEqual(self.ask(bob, "PUT", access, {"bob": ["POST"]}).status, 403)
        self.assertRegex(self.server.said(), "refused: bob may not (GET|POST) job " + hers)

    def test_who_may_do_all_may_not_share(self) -> None:
        bob, hers = self.token("--user", "bob"), self.made_by("ada")
        self.psik("share", hers, "bob")
        self.assertEqual(self.ask(bob, "POST", "/v1/jobs/%s/start" % hers).status, 200)
        access = "/v1/jobs/%s/access" % hers
        self.assertEqual(self.ask(bob, "PUT", access, {"eve": ["GET"]}).status, 403)

    def test_what_is_no_share(self) -> None:
        hers = self.made_by("ada")
        self.assertIn("USER:GET", self.psik("share", hers, "bob:get", status=2).err)
        access = "/v1/jobs/%s/access" % hers
        self.assertEqual(self.ask("ada", "PUT", access, {"bob": ["FLY"]}).status, 422)

    def test_shares_at_once_are_all_kept(self) -> None:
        access = "/v1/jobs/%s/access" % self.made_by("ada")
        users = ["u%d" % number for number in range(12)]
        threads = [threading.Thread(target=self.ask, args=("ada", "PUT", access, {user: ["GET"]}))
                   for user in users]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(sorted(self.ask("ada", "GET", access).json["shared"]), sorted(users))

    def test_no_directory_among_the_jobs(self) -> None:
        bob = self.token("--user", "bob")
        hers = str(self.ask("ada", "POST", "/v1/jobs/new", {"script": "true"}).json)
        os.symlink(self.prefix, os.path.join(self.folder, "way"))
        for place in (self.prefix + "/.tokens", self.job(hers).path, self.prefix, "/",
                      self.folder + "/way/local"):
            answer = self.ask(bob, "POST", "/v1/jobs/new", {"script": "true", "directory": place})
            self.assertEqual(answer.status, 403, place)

    def test_certificates(self) -> None:
        self.assertEqual(self.ask("ada", "GET", "/v1/jobs").status, 200)
        self.assertEqual(self.ask("", "GET", "/v1/jobs").status, 401)
        self.assertEqual(self.ask("", "GET", "/v1/backends").status, 200)
        for name in ("late", "foreign"):
            with self.assertRaises((ssl.SSLError, ConnectionError, OSError)):
                self.ask(name, "GET", "/v1/jobs")
        with self.assertRaises((ssl.SSLError, ConnectionError)):
            self.server.context = ssl.create_default_context(cafile=self.at("other.pem"))
            self.server.ask("GET", "/v1/jobs")
        done = subprocess.run(
            ["openssl", "s_client", "-connect", "127.0.0.1:%d" % self.server.port, "-tls1_1"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertNotEqual(done.returncode, 0)
        # One that comes to no handshake must hold nobody up.
        silent = socket.create_connection(("127.0.0.1", self.server.port))
        self.assertEqual(self.ask("ada", "GET", "/v1/jobs").status, 200)
        silent.close()

    def test_handshakes_take_no_thread(self) -> None:
        greeting = Handshake(self.server.port, self.at("ca.pem")).next_bytes()
        before, stuck = self.server.handles(), []
        for number in range(20):
            shaking = Handshake(self.server.port, self.at("ca.pem"))
            self.addCleanup(shaking.sock.close)
            shaking.sock.sendall(greeting[:10 * number])
            stuck.append(shaking)
        self.assertEqual(self.ask("ada", "GET", "/v1/jobs").status, 200)
        self.assertLess(self.server.handles() - before, len(stuck) + 10)  # descriptors, and spare
        # What comes byte by byte is a handshake as well.
        slow = Handshake(self.server.port, self.at("ca.pem"))
        self.addCleanup(slow.sock.close)
        while not slow.step():
            for byte in slow.next_bytes():
                slow.sock.sendall(bytes([byte]))
                time.sleep(0.0005)
        slow.tls.write(b"GET /v1/backends HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        slow.sock.sendall(slow.next_bytes())
        self.assertIn(b"HTTP/1.1 200", slow.first_record())

    @needs("curl", shutil.which("curl"))
    def test_curl_with_a_certificate(self) -> None:
        done = subprocess.run(["curl", "-s", "--cacert", self.at("ca.pem"),
                               "--cert", self.at("ada.pem"), "--key", self.at("ada.key"),
                               "https://localhost:%d/v1/jobs" % self.server.port],
                              stdout=subprocess.PIPE)
        self.assertEqual(done.stdout, b"[]\n")


class Handshake:
    """A TLS handshake with a server of which each byte can be sent apart."""

    def __init__(self, port: int, ca: str) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.came, self.goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=ca)
        self.tls = context.wrap_bio(self.came, self.goes, server_hostname="localhost")
        self.begun = False

    def step(self) -> bool:
        """Go on with it; whether it is complete."""
        if self.begun:
            self.came.write(self.sock.recv(65536))
        self.begun = True
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def next_bytes(self) -> bytes:
        """What is to be sent now."""
        if not self.begun:
            self.step()
        return self.goes.read()

    def first_record(self) -> bytes:
        """The first that the other side says, after it has said all."""
        for block in iter(lambda: self.sock.recv(65536), b""):
            self.came.write(block)
        return self.tls.read(65536)


class Jwts(Secure):
    """Tokens that are JWTs, and a policy of the site's own."""

    def key(self) -> bytes:
        """The key that signs tokens."""
        with open(psik.Keyring(self.config()).path) as file:
            return bytes.fromhex(file.read().strip())

    def claims(self, token: str) -> Dict[str, Any]:
        """What a token says, as the server reads it."""
        said: Dict[str, Any] = json.loads(self.ask(token, "POST", "/v1/token").json["blocks"][0])
        return said

    def test_a_token_says_for_whom_it_is(self) -> None:
        good = self.token("--user", "bob", "--expires", "1h")
        self.assertEqual(self.ask(good, "GET", "/v1/jobs").status, 200)
        claims = self.claims(good)
        self.assertEqual((claims["sub"], claims["iss"], claims["aud"]), ("bob", "psik", "psik"))
        same = "token:" + jwt(claims, self.key())
        self.assertEqual(self.ask(same, "GET", "/v1/jobs").status, 200)
        self.assertNotIn(good[6:], self.server.said())

    def test_tokens_that_were_bent(self) -> None:
        good = self.token("--user", "bob", "--expires", "1h")
        claims, key = self.claims(good), self.key()
        now, head, body, mark = time.time(), *good[6:].split(".")
        changed: Dict[str, Any] = {
            "sub": "", "sub2": 7, "sub3": "addr:1.2.3.4", "iss": "other", "aud": "other",
            "exp": now - 61, "exp2": "soon", "iat": now + 100, "nbf": now + 100,
            "ops": "GET", "jobs": [1]}
        bent = {name: jwt(dict(claims, **{name.rstrip("23"): value}), key)
                for name, value in changed.items()}
        for name in ("sub", "exp", "jti"):
            left = {other: value for other, value in claims.items() if other != name}
            bent["no " + name] = jwt(left, key)
        bent.update({
            "key": jwt(claims, b"0" * 32), "none": jwt(claims, key, "none"),
            "rs256": jwt(claims, key, "RS256"), "hs512": jwt(claims, key, "HS512"),
            "list": jwt([1], key),  # type: ignore[arg-type]
            "cut": good[6:-2], "more": good[6:] + "=", "unsigned": head + "." + body + ".",
            "swapped": body + "." + head + "." + mark, "empty": "..", "word": "x",
            "utf": "\u00e9.\u00e9.\u00e9".encode().decode("latin-1")})
        for name, token in bent.items():
            with self.subTest(name=name):
                answer = self.ask("token:" + token, "GET", "/v1/jobs")
                said = "the token has expired" if name == "exp" else "the token is invalid"
                self.assertEqual((answer.status, answer.json["detail"]), (401, said))

    def test_the_clock_of_a_token_may_differ_by_a_little(self) -> None:
        claims = self.claims(self.token("--user", "bob"))
        late = jwt(dict(claims, exp=time.time() - 30), self.key())
        self.assertEqual(self.ask("token:" + late, "GET", "/v1/jobs").status, 200)

    def test_a_token_that_is_revoked_takes_those_with_it_that_were_got_with_it(self) -> None:
        good = self.token("--user", "bob", "--expires", "1h")
        child = good
        for _ in range(2):
            child = "token:" + self.ask(child, "GET", "/v1/token").text
        self.assertEqual(self.ask(child, "GET", "/v1/jobs").status, 200)
        self.psik("token", "--revoke", self.claims(good)["jti"])
        for token in (good, child):
            self.assertEqual(self.ask(token, "GET", "/v1/jobs").status, 401)

    def test_the_key_of_tokens_is_for_its_owner_alone(self) -> None:
        path = psik.Keyring(self.config()).path
        self.token("--user", "bob")
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        os.chmod(path, 0o644)
        self.assertIn("can be read by others", self.psik("token", status=6).err)

    def test_a_token_to_look(self) -> None:
        his = self.made_by(self.token("--user", "bob"))
        reader = self.token("--user", "bob", "--ops", "GET")
        for method in ("GET", "HEAD"):
            self.assertEqual(self.ask(reader, method, "/v1/jobs").status, 200)
        self.assertEqual(self.ask(reader, "POST", "/v1/jobs/%s/start" % his).status, 403)

    def test_a_token_for_one_job(self) -> None:
        mine = [self.made_by(self.token("--user", "bob")) for _ in range(2)]
        one = self.token("--user", "bob", "--jobs", mine[0])
        self.assertEqual(self.listed(one), mine[:1])
        self.assertEqual(self.ask(one, "GET", "/v1/jobs/" + mine[1]).status, 404)
        self.assertEqual(self.ask(one, "POST", "/v1/jobs", {"script": "true"}).status, 403)
        self.assertEqual(json.loads(self.psik("token", "--show", one[6:]).out)["jobs"], mine[:1])

    def test_a_token_for_one_backend(self) -> None:
        self.made_by(self.token("--user", "bob"))
        elsewhere = self.token("--user", "bob", "--backends", "other")
        self.assertEqual(self.listed(elsewhere), [])
        self.assertEqual(self.ask(elsewhere, "POST", "/v1/jobs", {"script": "true"}).status, 403)

    def test_a_narrow_token_of_an_admin_counts_no_jobs(self) -> None:
        job = self.made_by("ada")

        def counts(who: str) -> bool:
            return "psik_jobs{" in self.ask(who, "GET", "/v1/metrics").text

        self.until(lambda: counts(self.token("--user", "root")))
        for argv, sees in (((), True), (("--ops", "GET"), True), (("--jobs", job), False),
                           (("--backends", "local"), False)):
            with self.subTest(argv):
                who = self.token("--user", "root", *argv)
                self.assertEqual(counts(who), sees)
                told = self.ask(who, "GET", "/v1/backends").json["local"]["description"]
                self.assertEqual(self.prefix in told, sees)

    def test_a_narrow_token_gets_no_wider_one(self) -> None:
        his = self.made_by(self.token("--user", "bob"))
        for narrowing in (("--ops", "GET"), ("--jobs", his)):
            narrow = self.token("--user", "bob", *narrowing)
            wider = "token:" + self.ask(narrow, "GET", "/v1/token").text
            self.assertEqual(self.ask(wider, "POST", "/v1/jobs", {"script": "true"}).status, 403)

    def test_tokens_that_cannot_be_made_or_shown(self) -> None:
        for argv, said in ((("--expires", "1y"), "--expires"), (("--user", "addr:x"), "no user"),
                           (("--revoke", "a b"), "no"), (("--show", "x"), "is invalid"),
                           (("--ops", "LOOK"), "LOOK"), (("--jobs", "x"), "'x'"),
                           (("--backends", "none"), "'none'"), (("--user", ""), "no user"),
                           (("--show", "x", "--revoke", "y"), "exclude")):
            self.assertIn(said, self.psik("token", *argv, status=2).err)

    def test_a_policy_of_the_sites_own(self) -> None:
        self.server.stop()
        os.mkdir(os.path.join(self.folder, "etc"))
        self.write("etc/site.py", POLICY)
        self.begin(authz="site:Weekday", authz_path=os.path.join(self.folder, "etc"))
        jobid = str(self.ask("ada", "POST", "/v1/jobs/new", {"script": "true"}).json)
        self.assertEqual(self.ask("ada", "GET", "/v1/jobs/" + jobid).status, 404)
        bob = self.token("--user", "bob")
        self.assertEqual(self.ask(bob, "GET", "/v1/jobs/" + jobid).status, 200)
        self.assertEqual(self.ask(bob, "POST", "/v1/jobs/%s/start" % jobid).status, 403)
        self.assertEqual(self.ask(bob, "POST", "/v1/jobs", {"script": "true"}).status, 403)
        self.write("site.py", POLICY)  # in the working directory, from which nothing is loaded
        for authz, folder, said in (("site:Weekday", None, "authz_path"),
                                    ("site:None", "etc", "NoneType|attribute"),
                                    ("gone:X", "etc", "No such file"),
                                    ("../site:X", "etc", "must be"), ("word", None, "must be")):
            self.configure(authz=authz, authz_path=folder)
            self.assertRegex(self.psik("serve", "--uds", "s", status=2).err, said)


class Plain(Case):
    """Without TLS."""

    def test_insecure(self) -> None:
        self.configure(authz="psik_api.authz:BaseAuthz")
        server = Server(self, "--host", "127.0.0.1", "--port", "0")
        self.assertIn("this is plain TCP without TLS", server.said())
        token = self.psik("token", "--user", "bob").out.strip()
        for headers in ({}, {"Authorization": "Bearer " + token}):
            answer = server.ask("GET", "/v1/jobs", **headers)
            self.assertEqual((answer.status, "over plain TCP" in answer.text),
                             (401, bool(headers)))
            self.assertEqual(server.ask("GET", "/v1/token", **headers).status, 401)
        self.assertEqual(server.ask("GET", "/v1/backends").status, 200)
        server.stop()
        self.configure(authz="owner", trusted_proxy=["127.0.0.1"])
        server = Server(self, "--host", "127.0.0.1", "--port", "0")
        self.assertEqual(server.ask("GET", "/v1/jobs").status, 401)
        self.assertEqual(server.ask("GET", "/v1/jobs", Authorization="Bearer " + token).status, 200)

    def test_where_the_kernel_does_not_tell(self) -> None:
        api = psik.Api(self.config())
        api.local_token = "ab" * 24
        peer, route = psik.Peer("127.0.0.1", None), psik.ROUTES[10]

        def who(target: str = "/v1/jobs", **headers: str) -> Any:
            req = psik.Request("GET", target, dict(headers, host="localhost:1"),
                               psik.Body(psik.Wire(), 0))
            return psik.Authentication(api, peer).caller(req, route).user

        self.assertEqual(who(authorization="Bearer " + api.local_token), psik.LOCAL_USER)
        for target, headers in (("/v1/jobs", {}), ("/v1/jobs?token=" + api.local_token, {}),
                                ("/v1/jobs", {"authorization": "Bearer x"}),
                                ("/v1/jobs", {"cookie": "psik_token=" + api.local_token})):
            with self.assertRaises(psik.RequestError):
                who(target, **headers)


if __name__ == "__main__":
    unittest.main()
