"""Files of a job over the REST API: uploads in parts, conditions, what caches and proxies read."""
import email.utils
import gzip
import io
import json
import os
import re
import tarfile
import threading
import time
import unittest
import zipfile
from typing import Any, Dict, List
from unittest import mock
from urllib.parse import urljoin

import psik
from harness import Case
from serving import Answer, Server


class Files(Case):
    """A server, and a job that was never started."""

    def setUp(self) -> None:
        super().setUp()
        self.server = Server(self, "--port", "0", "--quiet")
        self.jobid = str(self.server.ask("POST", "/v1/jobs/new", {"script": "true"}).json)
        self.url = "/v1/jobs/%s/files/" % self.jobid
        self.work = os.path.join(self.prefix, "local", self.jobid, "work")

    def ask(self, method: str, name: str, body: Any = None, status: int = 200,
            **headers: str) -> Answer:
        answer = self.server.ask(method, self.url + name, body, **headers)
        self.assertEqual(answer.status, status, answer)
        return answer

    def part(self, data: bytes, start: int, total: int, status: int, name: str = "f",
             **headers: str) -> Answer:
        """Upload a part of a file."""
        place = "bytes %d-%d/%d" % (start, start + len(data) - 1, total)
        return self.ask("PUT", name, data, status, Content_Range=place, **headers)

    def content(self, name: str = "f") -> str:
        return psik.read_text(os.path.join(self.work, name))

    def cut(self, data: bytes, length: int, name: str = "f") -> None:
        """Upload a file whose connection is cut."""
        head = "PUT %s%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (
            self.url, name, length)
        self.server.raw(head.encode() + data)


class Parts(Files):
    def test_a_file_in_three_parts(self) -> None:
        self.ask("PUT", "f", b"old")
        answer = self.part(b"0123", 0, 10, 202)
        self.assertEqual((answer.json, answer.headers["upload-offset"]), (None, "4"))
        self.assertEqual(self.part(b"456", 4, 10, 202).headers["upload-offset"], "7")
        self.assertEqual(self.content(), "old")     # as long as the new one is not whole
        self.assertEqual(self.ask("HEAD", "f").headers["upload-offset"], "7")
        self.assertEqual(self.part(b"789", 7, 10, 200).headers["upload-offset"], "10")
        self.assertEqual(self.content(), "0123456789")
        self.assertNotIn("upload-offset", self.ask("HEAD", "f").headers)
        self.assertEqual(os.listdir(self.work), ["f"])

    def test_a_part_that_does_not_fit(self) -> None:
        self.part(b"0123", 0, 10, 202)
        self.assertEqual(self.part(b"xx", 8, 10, 409).headers["upload-offset"], "4")
        self.assertEqual(self.part(b"xx", 2, 10, 409).headers["upload-offset"], "4")
        self.assertEqual(self.part(b"abcdef", 0, 6, 200).json, None)    # begins anew
        self.assertEqual(self.content(), "abcdef")
        for text in ("bytes 0-3/*", "bytes */10", "bytes 0-3", "lines 0-3/10", "bytes 3-0/10",
                     "bytes 0-10/10", "bytes 0-4/10"):
            self.ask("PUT", "g", b"0123", 400, Content_Range=text)
        self.ask("PUT", "../access", b"{}", 403, Content_Range="bytes 0-1/2")
        answer = self.server.ask("PUT", "/v1/jobs/%s/access" % self.jobid, {},
                                 Content_Range="bytes 0-1/2")
        self.assertEqual(answer.status, 400)
        self.assertEqual(sorted(os.listdir(self.work)), ["f"])

    def test_an_upload_that_was_cut_goes_on(self) -> None:
        self.cut(b"01234", 10)
        self.assertEqual(self.ask("HEAD", "f", status=404).headers["upload-offset"], "5")
        self.assertEqual(self.ask("GET", "f", status=404).headers["upload-offset"], "5")
        head = ("PUT %sf HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
                "Content-Range: bytes 5-9/10\r\n\r\n56" % self.url)
        self.server.raw(head.encode())
        self.assertEqual(self.ask("HEAD", "f", status=404).headers["upload-offset"], "7")
        self.part(b"789", 7, 10, 200)
        self.assertEqual(self.content(), "0123456789")
        self.cut(b"abc", 10)
        self.ask("PUT", "f", b"whole")
        self.assertEqual(os.listdir(self.work), ["f"])      # the part is needless now

    def test_in_chunks(self) -> None:
        for start, blocks in ((0, [b"01", b"23"]), (4, [b"45", b"6789"])):
            answer = self.ask("PUT", "f", iter(blocks), 200 if start else 202,
                              Content_Range="bytes %d-%d/10" % (start, 9 if start else 3))
        self.assertEqual(answer.headers["upload-offset"], "10")
        self.assertEqual(self.content(), "0123456789")
        self.ask("PUT", "g", iter([b"0123456789"]), 413, Content_Range="bytes 0-3/20")
        self.assertEqual(self.ask("HEAD", "g", status=404).headers["upload-offset"], "0")

    def test_two_who_upload_the_same(self) -> None:
        def slowly() -> Any:
            yield b"0123"
            inside.set()
            leave.wait(30)
            yield b"4567"

        inside, leave, answers = threading.Event(), threading.Event(), []
        first = threading.Thread(target=lambda: answers.append(self.ask(
            "PUT", "f", slowly(), Content_Range="bytes 0-7/8", Content_Length="8")))
        first.start()
        inside.wait(30)
        self.until(lambda: self.ask("HEAD", "f", status=404).headers.get("upload-offset") == "4")
        self.part(b"4567", 4, 8, 409)
        leave.set()
        first.join(30)
        self.assertEqual(self.content(), "01234567")

    def test_a_whole_upload_beside_one_in_parts(self) -> None:
        """They do not mix, and none is a defect of the server."""
        for length, data, status in ((10, b"BB", 200), (2, b"BB", 409)):    # it is cut, or whole
            inside, leave, answers = threading.Event(), threading.Event(), []

            def slowly() -> Any:
                yield b"0123"
                inside.set()
                leave.wait(30)
                yield b"4567"

            part = threading.Thread(target=lambda: answers.append(self.server.ask(
                "PUT", self.url + "f", slowly(), Content_Range="bytes 0-7/8",
                Content_Length="8")))
            part.start()
            inside.wait(30)
            self.until(lambda: self.server.ask("HEAD", self.url + "f").headers.get(
                "upload-offset") == "4")
            self.cut(data, length)
            leave.set()
            part.join(30)
            self.assertIn(answers[0].status, (200, status))
            self.assertIn(self.content(), ("01234567", "BB"))
            self.assertEqual(self.content() == "01234567", answers[0].status == 200)

    def test_a_part_that_took_its_name_meanwhile(self) -> None:
        folder = psik.ConfinedFolder(self.work)
        fd = os.open(os.path.join(self.work, folder.part_name("f")), os.O_RDWR | os.O_CREAT)
        self.part(b"0123456789", 0, 10, 200)
        with psik.closing_fd(fd), psik.closing_fd(folder.descend(self.work)) as place:
            with self.assertRaises(psik.ConflictError):
                folder.extend(fd, place, "f", 0, 1, [b"x"], lambda status: None)
        self.assertEqual(self.content(), "0123456789")

    def test_a_part_that_is_another_file_too(self) -> None:
        precious = self.write("precious", "keep")
        os.link(precious, os.path.join(self.work, psik.ConfinedFolder.part_name("f")))
        self.part(b"0123", 0, 10, 409)
        self.assertEqual(psik.read_text(precious), "keep")

    def test_what_has_come_is_removed_with_the_file(self) -> None:
        self.part(b"0123", 0, 10, 202)
        self.ask("DELETE", "f")
        self.ask("DELETE", "f", status=404)
        self.assertEqual(os.listdir(self.work), [])
        self.assertIn("nothing of 'deep/g' is here",
                      self.part(b"x", 500, 600, 409, "deep/g").text)
        self.assertEqual(os.listdir(self.work), [])
        os.mkdir(os.path.join(self.work, "d"))
        self.part(b"xyz", 0, 3, 409, "d")
        self.assertEqual(os.listdir(self.work), ["d"])

    def test_a_job_that_is_removed_meanwhile(self) -> None:
        def slowly() -> Any:
            yield b"0123"
            self.psik("rm", "--force", self.jobid)
            yield b"4567"

        answer = self.server.ask("PUT", self.url + "f", slowly(), Content_Length="8")
        self.assertIn(answer.status, (404, 409))

    def test_parts_go_after_a_day(self) -> None:
        api = psik.Api(self.config())
        self.cut(b"abc", 10, "deep/f")
        self.cut(b"abc", 10, "deep/g")
        folder = os.path.join(self.work, "deep")
        noted = psik.UploadFolders(os.path.join(self.prefix, "local"))
        old = time.time() - psik.KEY_LIFE_S - 1
        os.utime(psik.paths_in(noted.folder)[0], (old, old))
        part = os.path.join(folder, psik.ConfinedFolder.part_name("f"))
        os.utime(part, (old, old))
        psik.Rounds(api).poll()
        self.assertEqual(os.listdir(folder), [psik.ConfinedFolder.part_name("g")])
        self.assertEqual(len(psik.paths_in(noted.folder)), 1)
        os.utime(os.path.join(folder, os.listdir(folder)[0]), (old, old))
        psik.Rounds(api).poll()
        self.assertEqual((os.listdir(folder), psik.paths_in(noted.folder)), ([], []))

    def test_a_folder_of_an_archive_that_is_cut(self) -> None:
        folder = psik.UploadFolders(os.path.join(self.prefix, "local")).folder
        os.mkdir(os.path.join(self.work, "deep"))
        archive = "/v1/jobs/%s/archive" % self.jobid
        self.server.ask("PUT", archive, Archives.tar("w", **{"deep/f": b"mooo"}))
        self.assertIn(os.path.join(self.work, "deep"), map(psik.read_text, psik.paths_in(folder)))

    def test_parts_of_a_job_in_the_prefix_itself_go_too(self) -> None:
        path = os.path.join(self.prefix, self.jobid)
        os.rename(os.path.dirname(self.work), path)
        self.work = os.path.join(path, "work")
        self.cut(b"abc", 10, "f")
        noted = psik.UploadFolders(self.prefix)
        part = os.path.join(self.work, psik.ConfinedFolder.part_name("f"))
        for old in psik.paths_in(noted.folder) + [part]:
            os.utime(old, (1, 1))
        psik.Rounds(psik.Api(self.config())).poll()
        self.assertEqual((os.listdir(self.work), psik.paths_in(noted.folder)), ([], []))

    def test_what_a_job_puts_in_the_way_of_a_part(self) -> None:
        place = os.path.join(self.work, psik.ConfinedFolder.part_name("f"))
        outside = self.write("outside", "keep")
        for make in (lambda: os.symlink(outside, place), lambda: os.mkfifo(place)):
            make()
            self.part(b"0123", 0, 10, 409)
            os.unlink(place)
        self.assertEqual(psik.read_text(outside), "keep")


class Archives(Files):
    """PUT of an archive, the mirror of GET."""

    def setUp(self) -> None:
        super().setUp()
        self.url = "/v1/jobs/%s/archive" % self.jobid

    @staticmethod
    def tar(mode: str, **files: bytes) -> bytes:
        """An archive of these files, `-` in a name standing for a link that leads out."""
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode=mode) as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            info = tarfile.TarInfo("out")
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(info)
        return data.getvalue()

    def test_where_the_folder_is_gone(self) -> None:
        os.rmdir(self.work)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("f", "moo")
        for data in (self.tar("w", f=b"moo"), packed.getvalue()):
            self.assertIn("is gone", str(self.ask("PUT", "", data, 404).json))

    def test_there_and_back(self) -> None:
        for mode in ("w", "w:gz"):
            self.assertEqual(self.ask("PUT", "", self.tar(mode, a=b"moo", b=b"")).json, ["out"])
            self.assertEqual((self.content("a"), os.listdir(self.work).count("out")), ("moo", 0))
        self.ask("PUT", "?path=deep/er", iter([self.tar("w", a=b"mooo")]))
        self.assertEqual(self.content("deep/er/a"), "mooo")
        packed = self.ask("GET", "?path=deep").body
        self.ask("PUT", "?path=again", packed)
        self.assertEqual(self.content("again/%s/er/a" % self.jobid), "mooo")

    def test_what_is_none_is_refused(self) -> None:
        whole = self.tar("w", a=b"moo" * 9999)
        for body, status in ((b"moo" * 999, 422), (b"", 422), (whole[:9000], 422),
                             (self.tar("w:bz2"), 422), (self.tar("w:gz", a=b"x" * 9999)[:60], 422),
                             (gzip.compress(b"moo"), 422)):
            self.assertEqual(self.server.ask("PUT", self.url, body).status, status, body[:20])
        self.assertFalse(os.path.exists(os.path.join(self.work, "a")))
        self.assertEqual(self.server.ask("PUT", self.url + "?path=../x", whole).status, 403)

    def test_what_unpacks_to_too_much_is_refused(self) -> None:
        self.server.stop()
        self.configure(max_upload_mb=1)
        self.server = Server(self, "--port", "0")
        bomb = self.tar("w:gz", a=bytes(1500000))
        self.assertLess(len(bomb), 9999)
        answer = self.server.ask("PUT", self.url, bomb)
        self.assertEqual((answer.status, os.listdir(self.work)), (422, []), answer)
        self.assertEqual(self.server.ask("PUT", self.url, bytes(1500000)).status, 413)


class Conditions(Files):
    def test_of_changes(self) -> None:
        tag = self.ask("PUT", "f", b"one", If_None_Match="*").headers.get("etag")
        tag = self.ask("GET", "f").headers["etag"]
        for method, headers in (
                ("PUT", {"If_None_Match": "*"}), ("POST", {"If_None_Match": "*"}),
                ("PUT", {"If_Match": '"other"'}), ("PUT", {"If_Match": "W/" + tag}),
                ("DELETE", {"If_Match": '"other", "more"'}), ("PUT", {"If_None_Match": tag})):
            self.ask(method, "f", b"two", 412, **headers)
        self.ask("PUT", "none", b"two", 412, If_Match="*")
        self.assertEqual((self.content(), os.listdir(self.work)), ("one", ["f"]))
        self.ask("PUT", "f", b"three", If_Match='"other", %s' % tag)
        self.ask("PUT", "f", b"fourth", 412, If_Match=tag)
        tag = self.ask("GET", "f").headers["etag"]
        self.ask("PUT", "f", b"fifth", 412, If_None_Match="W/" + tag)
        old = "Mon, 01 Jan 2001 00:00:00 GMT"
        for method in ("PUT", "DELETE", "GET"):
            self.ask(method, "f", b"sixth" if method == "PUT" else None, 412,
                     If_Unmodified_Since=old)
        self.ask("GET", "f", None, 412, If_Match='"other"')
        self.ask("PUT", "f", b"third", If_Unmodified_Since=old, If_Match=tag)
        os.symlink("f", os.path.join(self.work, "link"))
        self.ask("PUT", "link", b"own", If_Match=self.ask("GET", "link").headers["etag"])
        self.assertEqual(self.content(), "third")
        self.ask("DELETE", "f", If_Match="*", If_None_Match='"other"')
        self.ask("DELETE", "f", status=404)

    def test_one_of_many_who_make_a_file(self) -> None:
        statuses: List[int] = []

        def put(text: bytes) -> None:
            answer = self.server.ask("PUT", self.url + "f", iter([text] * 50), If_None_Match="*")
            statuses.append(answer.status)

        threads = [threading.Thread(target=put, args=(b"%d" % number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(sorted(statuses), [200] + [412] * 7)
        self.assertEqual(len(set(self.content())), 1)

    def test_into_a_folder_whose_name_is_not_utf_8(self) -> None:
        os.mkdir(os.path.join(self.work, "na\udcefve"))
        os.symlink("na\udcefve", os.path.join(self.work, "link"))
        self.ask("PUT", "link/f", b"x")
        self.assertEqual(os.listdir(os.path.join(self.work, "na\udcefve")), ["f"])
        noted = psik.UploadFolders(os.path.join(self.prefix, "local"))
        for path in psik.paths_in(noted.folder):
            os.utime(path, (1, 1))
        part = os.path.join(self.work, "na\udcefve", psik.UPLOAD_PREFIX + "x")
        with open(part, "w"):
            os.utime(part, (1, 1))
        noted.forget_old()
        self.assertFalse(os.path.exists(part))

    def test_of_reading(self) -> None:
        self.ask("PUT", "f", b"0123456789")
        first = self.ask("GET", "f")
        tag, changed = first.headers["etag"], first.headers["last-modified"]
        earlier = email.utils.formatdate(time.time() - 9999, usegmt=True)
        for headers, status in (
                ({"If_None_Match": tag}, 304), ({"If_None_Match": "W/" + tag}, 304),
                ({"If_None_Match": '"x", ' + tag}, 304), ({"If_None_Match": '"x"'}, 200),
                ({"If_None_Match": "*"}, 304), ({"If_Modified_Since": changed}, 304),
                ({"If_Modified_Since": earlier}, 200), ({"If_Modified_Since": "today"}, 200),
                ({"If_Modified_Since": "1 Jan , 00:00 GMT"}, 200),
                ({"If_None_Match": '"x"', "If_Modified_Since": changed}, 200),
                ({"Range": "bytes=1-2", "If_Range": tag}, 206),
                ({"Range": "bytes=1-2", "If_Range": changed}, 206),
                ({"Range": "bytes=1-2", "If_Range": earlier}, 200)):
            self.assertEqual(self.server.ask("GET", self.url + "f", **headers).status, status,
                             headers)


class Headers(Files):
    def test_names_of_downloads(self) -> None:
        for name, plain in (("a.txt", "a.txt"), ("Größe.txt", "Gr__e.txt"), ('a"b\\c', "a_b_c")):
            with open(os.path.join(self.work, name), "w"):
                pass
            quoted = psik.encode_percent(name)
            said = self.ask("GET", quoted).headers["content-disposition"]
            self.assertEqual(said, "attachment; filename=\"%s\"; filename*=UTF-8''%s"
                             % (plain, quoted))

    def test_absolute_names(self) -> None:
        self.ask("PUT", "/etc/x", b"y", 403)
        form = (b'--xx\r\nContent-Disposition: form-data; name="files"; filename="/etc/x"\r\n\r\n'
                b"y\r\n--xx--\r\n")
        self.ask("POST", "", form, 403, Content_Type="multipart/form-data; boundary=xx")
        self.assertEqual(os.listdir(self.work), [])

    def test_what_caches_are_told(self) -> None:
        self.ask("PUT", "f", b"y")
        for path, rule in (("/v1/jobs", "private, no-cache"), (self.url + "f", "private, no-cache"),
                           ("/v1/token", "no-store"), ("/", "no-cache"),
                           ("/v1/nothing", "private, no-cache")):
            headers = self.server.ask("GET", path).headers
            self.assertEqual((headers["cache-control"], headers["vary"]),
                             (rule, "Authorization, Accept-Encoding"))

    def test_places_below_a_prefix(self) -> None:
        for path in ("/v1/jobs", "/v1/jobs/", "/v1/jobs/new", "/v1/jobs/new/"):
            answer = self.server.ask("POST", path, {"script": "true"})
            place = urljoin("http://h/psik" + path, answer.headers["location"])
            self.assertEqual(place, "http://h/psik/v1/jobs/" + answer.json)
        link = self.server.ask("GET", "/v1/jobs?limit=2").headers["link"]
        target = re.findall("<(.*)>", link)[0]
        self.assertEqual(urljoin("http://h/psik/v1/jobs?limit=2", target),
                         "http://h/psik/v1/jobs?limit=2&index=2")
        for prefix, url in (("/psik", "/psik"), ("/a/b", "/a/b"), ('/"x', "/"), ("//h", "/")):
            document = self.server.ask("GET", "/v1/openapi.json", X_Forwarded_Prefix=prefix).json
            self.assertEqual(document["servers"], [{"url": url}])
        page = self.server.ask("GET", "/").text
        self.assertNotRegex(page, r"""["'(`]/v1""".replace("v1", "v1/(jobs|openapi)"))


class Answers(Files):
    def test_the_end_of_a_job_is_waited_for(self) -> None:
        begun = time.monotonic()
        info = self.server.ask("POST", "/v1/jobs?wait=30", {"script": "exit 3"}).json
        self.assertEqual((info["state"], info["info"], info["jobndx"]), ("failed", 3, 1))
        self.assertLess(time.monotonic() - begun, 25)
        slow = self.server.ask("POST", "/v1/jobs?wait=1", {"script": "sleep 600"})
        self.assertIn(slow.json["state"], ("queued", "active"))
        self.assertTrue(slow.headers["location"].endswith(slow.json["jobid"]))
        self.server.ask("DELETE", "/v1/jobs/" + slow.json["jobid"])
        self.assertIsInstance(self.server.ask("POST", "/v1/jobs?wait=0", {"script": "true"}).json,
                              dict)
        same = {"Idempotency_Key": "k"}
        first = self.server.ask("POST", "/v1/jobs?wait=30", {"script": "true"}, **same).json
        again = self.server.ask("POST", "/v1/jobs", {"script": "true"}, **same).json
        self.assertEqual(first["jobid"], again)

    def test_the_logs_of_a_job(self) -> None:
        jobid = self.server.ask("POST", "/v1/jobs?wait=30", {"script": "echo moo"}).json["jobid"]
        url = "/v1/jobs/%s/logs" % jobid
        self.assertEqual(self.server.ask("GET", url).json, {"stdout.1": "moo\n", "stderr.1": ""})
        every: Dict[str, str] = self.server.ask("GET", url + "?all=true").json
        self.assertEqual(set(every) - {"alive.1", "claim.1", "host.1", "submit.1"},
                         {"stdout.1", "stderr.1"})

    def test_a_list_of_none(self) -> None:
        answer = self.server.ask("GET", "/v1/jobs?limit=0")
        self.assertEqual((answer.json, "link" in answer.headers), ([], False))

    def test_a_number_is_no_script(self) -> None:
        for script in (5, 1.5, True):
            answer = self.server.ask("POST", "/v1/jobs", {"script": script})
            self.assertEqual(answer.status, 422)
            self.assertIn("is not a text", json.dumps(answer.json))

    def test_deep_pages_read_what_they_show(self) -> None:
        for _ in range(6):
            psik.create(self.config(), psik.JobSpec(script="true"))
        whole = self.server.ask("GET", "/v1/jobs").json
        with mock.patch("psik.JobDir.rows", autospec=True, side_effect=psik.JobDir.rows) as rows:
            found = psik.list_jobs(self.config(), limit=2, index=4, poll=False)
        self.assertEqual([each.jobid for each in found], [each["jobid"] for each in whole[4:6]])
        self.assertEqual(rows.call_count, 2)


if __name__ == "__main__":
    unittest.main()
