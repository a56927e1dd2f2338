"""What a user does with the page, in a real browser: walk_page.py WALK URL CHROMIUM [WORD...].

Each walk prints what is to be seen at the end of each of its steps.
"""
import base64
import re
import sys
from typing import Any, Callable, Dict

from playwright.sync_api import expect, sync_playwright

URL, WORDS = sys.argv[2], sys.argv[4:]


def row(page: Any, jobid: str) -> Any:
    """The row of a job in the list."""
    return page.locator("tbody tr", has_text=jobid)


def until(page: Any, claim: str) -> None:
    """Wait until an expression holds; the page's own policy lets nothing evaluate one there."""
    for _ in range(400):
        if page.evaluate(claim):
            return
        page.wait_for_timeout(50)
    raise AssertionError(claim)


def confirm(page: Any, label: str, question: str) -> None:
    """Press a button, read its question, and press again."""
    page.locator(label).click()
    page.wait_for_timeout(500)
    page.click("text=%s? Press again" % question)


def submit(page: Any) -> None:
    """A script of one's own: from the form to the log that follows; the same once more."""
    page.goto(URL + "#/new")
    page.fill("#field-name", "from <b>the</b> page")
    page.fill("#field-script", "#!/bin/sh\nfor i in 1 2 3; do echo line $i; sleep 1; done\n")
    page.fill("#field-duration", "99999999999")
    page.click("button:text-is('Submit')")
    expect(page.locator("[data-fault=duration]")).not_to_be_empty()
    print(page.locator("[data-fault=duration]").inner_text())
    page.fill("#field-duration", "2")
    page.click("button:text-is('Submit')")
    expect(page.locator("h1")).to_have_text("from <b>the</b> page")
    expect(page.locator("pre")).to_contain_text("line 1")
    expect(page.locator("dd .state")).to_contain_text("completed", timeout=20000)
    expect(page.locator("pre")).to_have_text("line 1\nline 2\nline 3\n")
    page.click("text=copy as new")
    expect(page.locator("#field-name")).to_have_value("from <b>the</b> page")
    print(page.locator("#field-duration").input_value())
    page.click("text=the same on the command line")
    expect(page.locator("details pre").last).to_contain_text("psik.py run --backend local -")
    page.click("button:text-is('Submit')")
    expect(page.locator("dd .state")).to_contain_text("active")
    confirm(page, "button:text-is('Cancel')", "Cancel it")
    expect(page.locator("dd .state")).to_contain_text("canceled")
    for _ in range(20):     # as long as something of it runs, the server refuses
        page.evaluate("[...document.querySelectorAll('button')].find("
                      "each => each.textContent === 'Start again')?.click()")
        page.wait_for_timeout(500)
        if "canceled" not in page.locator("dd .state").inner_text():
            break
    expect(page.locator("dd .state")).to_contain_text("completed", timeout=20000)   # by events
    for button in page.locator("#said button").all():
        button.click()
    confirm(page, "button:text-is('Remove')", "Remove it with its logs and files")
    expect(page.locator("h1")).to_have_text("Jobs")
    print(page.locator("#said p").count())


def application(page: Any) -> None:
    """An application: what is wrong is said at its field; a file that it needs; its log."""
    page.goto(URL + "#/new?app=show")
    page.click("button:text-is('Submit')")
    expect(page.locator("[data-fault=count]")).not_to_be_empty()
    print(page.locator("[data-fault=count]").inner_text())
    page.fill("#field-count", "3")
    page.fill("#field-word", "it's $(id)")
    page.select_option("#field-flag", "true")
    page.select_option("#field-how", label="b")
    page.fill("#field-list", "[1, 2.5]")
    page.set_input_files("#field-picture", {"name": "p.png", "mimeType": "image/png",
                                            "buffer": b"12345"})
    page.click("button:text-is('Submit')")
    expect(page.locator("p.box")).to_contain_text("data.txt")
    print(page.locator("p.box").inner_text())
    page.set_input_files("#needs-data\\.txt", {"name": "mine.txt", "mimeType": "text/plain",
                                               "buffer": b"moo\n"})
    page.click("button:text-is('Submit')")
    expect(page.locator("dd .state")).to_contain_text("completed", timeout=20000)
    expect(page.locator("pre")).to_contain_text("moo")
    print(repr(page.locator("pre").inner_text()))


def listing(page: Any) -> None:
    """The list: live, filtered, several at once; a reload stays."""
    waits, failed = WORDS
    page.goto(URL)
    expect(row(page, waits)).to_contain_text("active")
    expect(row(page, waits)).to_contain_text("left")
    expect(row(page, failed)).to_contain_text("no-such-command: not found")
    expect(page.locator("button:has-text('failed')")).to_have_text("✗ failed 1")
    print(page.title())
    page.click("button:has-text('failed')")
    expect(row(page, waits)).to_have_count(0)
    print(page.url.rpartition("#")[2])
    page.reload()
    expect(row(page, failed)).to_have_count(1)
    expect(row(page, waits)).to_have_count(0)
    page.goto(URL + "#/")
    page.fill("main [type=search]", "wai")
    expect(row(page, failed)).to_have_count(0)
    row(page, waits).locator("[type=checkbox]").check()
    confirm(page, ".bar button:text-is('Cancel')", "Cancel 1")
    expect(row(page, waits)).to_contain_text("canceled", timeout=20000)
    expect(page.locator("text=Start again")).to_be_hidden()
    print(page.evaluate("fetch('v1/jobs', {method: 'POST', body: '{\"script\": \"true\", \"name\": "
                        "\"waited\"}', headers: {'Content-Type': 'application/json'}})"
                        ".then(answer => answer.status)"))
    expect(page.locator("tbody")).to_contain_text("waited", timeout=20000)  # by its event


def files(page: Any) -> None:
    """Files up, into folders, seen, and removed."""
    page.goto(URL + "#/job/%s/files" % WORDS[0])
    page.set_input_files("#upload", [{"name": "a b.txt", "mimeType": "text/plain",
                                          "buffer": b"<script>moo</script>\n"}])
    page.click("button:text-is('a b.txt')")
    expect(page.locator("#preview pre")).to_have_text("<script>moo</script>\n")
    for answer, text in (("keep as they are", "<script>moo</script>\n"), ("replace", "new\n")):
        page.set_input_files("#upload", [{"name": "a b.txt", "mimeType": "text/plain",
                                          "buffer": b"new\n"}])
        expect(page.locator("text=There already: a b.txt.")).to_be_visible()
        page.click("button:text-is('%s')" % answer)
        expect(page.locator("text=There already")).to_have_count(0)
        expect(page.locator("tr:has-text('a b.txt') td").nth(1)).to_have_text("%d B" % len(text))
        page.click("button:text-is('a b.txt')")
        expect(page.locator("#preview pre")).to_have_text(text)
    page.click("button:text-is('sub')")
    expect(page.locator("[aria-label=Folders]")).to_contain_text("work / sub")
    page.set_input_files("#upload", [{"name": "c", "mimeType": "", "buffer": b"c"}])
    expect(page.locator("button:text-is('c')")).to_be_visible()
    with page.expect_download() as got:
        page.click("text=download all of it")
    print(got.value.suggested_filename == WORDS[0] + ".tar.gz")
    page.click("[aria-label=Folders] >> text=work")
    expect(page.locator("button:text-is('a b.txt')")).to_be_visible()
    confirm(page, "tr:has-text('a b.txt') >> text=remove", "Remove it")
    expect(page.locator("button:text-is('a b.txt')")).to_have_count(0)


def many(page: Any) -> None:
    """Ten thousand jobs: page by page, and counted; one page is what a reload shows."""
    page.goto(URL)
    expect(page.locator("[role=status]", has_text="of")).to_have_text("1–50 of 10000 jobs")
    print(page.locator("tbody tr").count())
    page.click("text=older")
    expect(page.locator("[role=status]", has_text="of")).to_have_text("51–100 of 10000 jobs")
    page.reload()
    expect(page.locator("[role=status]", has_text="of")).to_have_text("51–100 of 10000 jobs")
    page.goto(URL + "#/?name=job-")      # in a page that has just been opened
    page.reload()
    expect(page.locator("[role=status]", has_text="of")).to_have_text("1–50 of 10000 jobs")
    expect(page.locator("text=older")).to_be_visible()
    page.fill("main [type=search]", "9999")
    expect(page.locator("[role=status]", has_text="jobs")).to_have_text("1 jobs")
    print(page.url.rpartition("#")[2])


def array(page: Any) -> None:
    """An array: its row unfolds, its tasks lead to their logs; those that failed run again."""
    jobid = WORDS[0]
    page.goto(URL)
    expect(row(page, jobid)).to_contain_text("3/5 done, 2 failed")
    expect(row(page, jobid).locator("svg")).to_have_attribute("aria-label", "2 failed, 3 completed")
    row(page, jobid).locator("[aria-label='its tasks']").click()
    expect(row(page, jobid).locator("svg a")).to_have_count(5)
    row(page, jobid).locator("svg a").nth(3).dispatch_event("click")
    expect(page.locator("[aria-label=Log]")).to_have_text("task 4\n")
    expect(page.locator("section svg, .strip")).to_have_count(1)
    page.click("main nav >> text=tasks")
    expect(page.locator("tbody tr")).to_have_count(5)
    print(page.locator("tbody tr").first.inner_text().split("\t"))
    page.click("text=Start the failed tasks")
    expect(page.locator("dd", has_text="completed")).to_have_count(1, timeout=20000)
    page.click("main nav >> text=history")
    expect(page.locator("svg.chart")).to_be_visible()
    print(page.locator("svg.chart g").count())


def restart(page: Any) -> None:
    """The server goes and comes again, while the list is shown."""
    page.goto(URL)
    expect(row(page, WORDS[0])).to_be_visible()
    print("shown", flush=True)
    expect(page.locator("[role=alert]")).to_contain_text("does not answer", timeout=60000)
    print("lost", flush=True)
    expect(page.locator("tbody")).to_contain_text("made-meanwhile", timeout=60000)
    expect(page.locator("[role=alert]")).to_be_hidden()


def token(page: Any) -> None:
    """A server that wants a token: it leaves the address, and serves streams and downloads."""
    jobid = WORDS[1]
    page.goto(URL + WORDS[0])
    expect(row(page, jobid)).to_be_visible()
    print(page.url.partition("#")[2])
    page.goto(URL + "#/job/%s/files" % jobid)
    with page.expect_download() as got:
        page.click("td >> text=download")
    with open(got.value.path(), encoding="utf-8") as file:
        print(file.read().strip())
    with page.expect_download() as got:
        page.click("text=download all of it")
    print(got.value.suggested_filename == jobid + ".tar.gz")
    page.goto(URL + "#/job/%s/log" % jobid)
    expect(page.locator("pre")).to_have_text("moo\n")
    page.goto(URL + "#/api")
    page.click("summary:has-text('GET /v1/jobs/{jobid}/state')")
    print("Bearer $TOKEN" in page.locator("pre", has_text="/v1/jobs/{jobid}/state").inner_text())
    page.evaluate("sessionStorage.setItem('token', 'wrong')")
    page.goto(URL + "#/")
    expect(page.locator("[role=alert]:visible").first).to_contain_text("token")
    print(page.locator("[role=alert]:visible").first.inner_text())


def inputs(page: Any) -> None:
    """A job with input files, for each row of a CSV a task, after another job."""
    first = WORDS[0]
    page.goto(URL + "#/new")
    page.fill("#field-name", "sweep")
    page.fill("#field-script", '#!/bin/sh\ncat data.txt; echo "$temp/$word"\n')
    page.set_input_files("#inputs", [{"name": "data.txt", "mimeType": "", "buffer": b"moo\n"}])
    drop(page, "#inputs", {"sub": {"deep": {"c.txt": "c"}}, "d.txt": "d"})
    expect(page.locator("li")).to_have_count(3)
    page.click("text=the same on the command line")
    page.set_input_files("#inputs", [{"name": "it's.txt", "mimeType": "", "buffer": b"its\n"}])
    expect(page.locator("details pre").last).to_contain_text("it'")     # as the form is now
    page.click("summary:has-text('more')")
    page.set_input_files("[accept='.csv,text/csv']", {"name": "bad.csv", "mimeType": "text/csv",
                                                      "buffer": b"a,b\n1\n"})
    expect(page.locator("#said p")).to_contain_text("bad.csv has 1 and not 2 fields in row 2")
    page.click("#said button")
    page.set_input_files("[accept='.csv,text/csv']", {
        "name": "p.csv", "mimeType": "text/csv",
        "buffer": b'temp,word\r\n300,"a, ""b"""\r\n310,c\r\n'})
    expect(page.locator("#field-array")).not_to_have_value("")
    print(page.locator("#field-array").input_value())
    page.select_option("[aria-label='when it may start']", "any:")
    page.select_option("[aria-label='add a job to wait for']", first)
    print(page.locator("#field-after").input_value() == "any:" + first)
    page.fill("#field-environment", "A=1=2\n B=x")
    page.fill("#field-setup", "true\n\necho set up >&2")
    expect(page.locator("details pre").last).to_contain_text("--in=sub ")
    print(repr(page.locator("details pre").last.text_content()))
    page.click("button:text-is('Submit')")
    expect(page.locator("h1")).to_have_text("sweep")
    expect(page.locator("dd .state")).to_contain_text("completed", timeout=20000)
    page.goto(page.url + "/log/stdout.1")
    expect(page.locator("pre")).to_have_text('moo\n300/a, "b"\n')
    print(page.url.rpartition("/job/")[2].split("/")[0])


def drop(page: Any, place: str, tree: Dict[str, Any]) -> None:
    """Drop files and folders, {name: text or {...}}, as a browser hands them over."""
    page.locator(place).evaluate("""(place, tree) => {
        const entry = ([name, content]) => typeof content === "string" ? {
            isFile: true, name, file: take => take(new File([content], name))} : {
            isFile: false, name, createReader: () => {
                const some = [Object.entries(content).map(entry), []]
                return {readEntries: take => take(some.shift())}
            }}
        const items = Object.entries(tree).map(pair => ({webkitGetAsEntry: () => entry(pair)}))
        const event = new Event("drop", {bubbles: true, cancelable: true})
        event.dataTransfer = {items}
        place.dispatchEvent(event)
    }""", tree)


def hide(page: Any, is_hidden: str) -> None:
    """Hide the tab, or show it again: `true` or `false`."""
    page.evaluate("Object.defineProperty(document, 'hidden', {configurable: true, value: %s});"
                  "document.dispatchEvent(new Event('visibilitychange'))" % is_hidden)


def hidden(page: Any) -> None:
    """A tab that is not seen has no stream; when it is seen again, it has one."""
    ended, begun = [], []
    page.on("requestfailed", lambda request: ended.append(request.url))
    page.on("request", lambda request: begun.append(request.url))
    with page.expect_response("**/v1/events"):
        page.goto(URL)
    page.wait_for_timeout(2000)
    hide(page, "true")
    page.wait_for_timeout(4000)
    print([url.rpartition("/")[2] for url in ended], len([1 for url in begun if "events" in url]))
    with page.expect_response("**/v1/events"):
        hide(page, "false")
    expect(page.locator("[role=alert]")).to_be_hidden()


def refused(page: Any) -> None:
    """A job that may not be seen any more is not asked about for ever."""
    asked = []

    def refuse(route: Any) -> None:
        asked.append(route.request.url)
        route.fulfill(status=403, body='{"detail": "it is not yours"}')

    page.goto(URL + "#/job/" + WORDS[0])
    expect(page.locator("dd .state")).to_contain_text("active")
    page.route(re.compile("/(status|events)$"), refuse)
    for is_hidden in ("true", "false"):
        hide(page, is_hidden)
        page.wait_for_timeout(1000)
    expect(page.locator("[role=alert]:visible")).to_have_text("it is not yours")
    page.wait_for_timeout(4000)
    print(len(asked) < 4)


def twice(page: Any) -> None:
    """A form is sent again because its answer was lost."""
    def lose(route: Any) -> None:
        if route.request.method == "POST":
            route.fetch()
            route.abort()
        else:
            route.continue_()

    page.goto(URL + "#/new")
    page.fill("#field-name", "once")
    page.route(re.compile("/v1/jobs[?]"), lose)
    page.click("button:text-is('Submit')")
    expect(page.locator("form [role=alert]").last).to_contain_text("does not answer")
    page.unroute(re.compile("/v1/jobs[?]"))
    page.click("button:text-is('Submit')")
    expect(page.locator("h1")).to_have_text("once")
    print(page.url.rpartition("/job/")[2])


def changing_log(page: Any) -> None:
    """A log in pieces that cut a letter, that begins anew, and of a job that runs again."""
    jobid = WORDS[0]

    def go_on(number: int) -> None:
        page.evaluate("fetch('v1/jobs/%s/files/go%d', {method: 'PUT', body: ''})" % (jobid, number))

    page.goto(URL + "#/job/%s/log" % jobid)
    expect(page.locator("[aria-label=Log]")).to_contain_text("begin")
    go_on(1)
    expect(page.locator("[aria-label=Log]")).to_have_text("begin \u00e9\n")
    go_on(2)
    expect(page.locator("[aria-label=Log]")).to_have_text("anew\n")
    go_on(3)
    expect(page.locator("dd .state")).to_contain_text("completed", timeout=20000)
    page.wait_for_timeout(1500)
    page.click("text=Start again")
    expect(page.locator("[aria-label='Which log']")).to_have_value("stdout.2", timeout=20000)
    print(page.locator("[aria-label='Which log'] option").count())


def growing_log(page: Any) -> None:
    """A log that grows fast is shown as it is; while one reads in it, it stands still."""
    jobid = WORDS[0]
    log, shown = "v1/jobs/%s/logs/stdout.1" % jobid, "document.querySelector('[aria-label=Log]')"
    page.goto(URL + "#/job/%s/log" % jobid)
    expect(page.locator("[aria-label=Log]")).to_be_visible(timeout=20000)
    until(page, shown + ".textContent.length > 200000")
    for _ in range(50):     # as a hand does
        page.evaluate(shown + ".scrollTop = 0")
        if page.locator("text=to the end").is_visible():
            break
        page.wait_for_timeout(50)
    before = page.evaluate(shown + ".textContent")
    page.click("text=/to the end, .* more/", trial=True)
    page.wait_for_timeout(1500)
    print(page.evaluate(shown + ".textContent") == before)
    page.click("text=to the end")
    expect(page.locator("dd .state")).to_contain_text("completed", timeout=60000)
    page.wait_for_timeout(1500)
    for _ in range(20):
        if page.locator("text=earlier lines").is_hidden():
            break
        page.locator("text=earlier lines").click()
        page.wait_for_timeout(300)
    print(page.evaluate("fetch('%s').then(answer => answer.text()).then(text => text === %s"
                        ".textContent)" % (log, shown)))


def choosing(page: Any) -> None:
    """The question is about those that are chosen; they stay so when newer jobs come."""
    first, second = WORDS
    page.goto(URL)
    row(page, first).locator("[type=checkbox]").check()
    page.click(".bar button:text-is('Remove')")
    expect(page.locator("text=Remove 1 with their files? Press again")).to_be_visible()
    row(page, second).locator("[type=checkbox]").check()
    expect(page.locator("text=Press again")).to_have_count(0)
    expect(page.locator("text=2 selected")).to_be_visible()
    page.locator(".bar button:text-is('Remove')").dblclick()
    page.wait_for_timeout(1500)
    expect(row(page, first)).to_be_visible()
    page.click("button:has-text('active')")     # pushes both off
    expect(page.locator("tbody tr")).to_have_count(0)
    expect(page.locator("text=2 selected")).to_be_visible()
    page.click("button:has-text('active')")
    expect(row(page, first).locator("[type=checkbox]")).to_be_checked()
    page.uncheck("[aria-label='Select all shown']")
    expect(page.locator("text=selected")).to_be_hidden()
    page.check("[aria-label='Select all shown']")
    confirm(page, ".bar button:text-is('Remove')", "Remove 2 with their files")
    expect(page.locator("tbody tr")).to_have_count(0)


def copies(page: Any) -> None:
    """A copy is the job again, on its backend; what is emptied is gone."""
    for jobid in WORDS:
        page.goto(URL + "#/job/%s/spec" % jobid)
        page.click("text=copy as new")
        expect(page.locator("h1")).to_have_text("New job")
        expect(page.locator("#backend")).to_have_value("b")
        page.click("button:text-is('Submit')")
        expect(page.locator("h1")).not_to_have_text("New job")
        print(page.url.rpartition("/job/")[2])
    page.goto(URL + "#/new?from=" + WORDS[0])
    page.fill("#field-memory_per_process", "")
    page.fill("#field-duration", "many")
    page.click("summary:has-text('more')")
    page.click("button:text-is('Submit')")
    expect(page.locator("[data-fault=duration]")).to_contain_text("number")
    page.fill("#field-duration", "3")
    page.fill("#field-environment", "DEBUG")
    page.click("summary:has-text('more')")
    page.click("button:text-is('Submit')")
    expect(page.locator("[data-fault=environment]")).to_be_visible()
    expect(page.locator("#field-environment")).to_be_focused()
    page.fill("#field-environment", "DEBUG=")
    page.click("button:text-is('Submit')")
    expect(page.locator("h1")).not_to_have_text("New job")
    print(page.url.rpartition("/job/")[2])


def uploads(page: Any) -> None:
    """A large file whose connection breaks; then one whose upload was left, and goes on."""
    page.goto(URL + "#/job/%s/files" % WORDS[0])
    expect(page.locator("text=There are no files")).to_be_visible()
    drop(page, "#upload", {"sub": {"deep": {"c.txt": "c"}}})
    expect(page.locator("button:text-is('sub')")).to_be_visible()
    large, sent = b"0123456789abcdef" * 2 ** 20 + b"its end", []

    def breaks(route: Any) -> None:
        sent.append(route.request.headers.get("content-range", ""))
        if route.request.method == "PUT" and len([each for each in sent if each]) in ending:
            route.abort()
        else:
            route.continue_()

    ending = [2]
    page.route("**/files/large.bin", breaks)
    page.set_input_files("#upload", {"name": "large.bin", "mimeType": "", "buffer": large})
    expect(page.locator("button:text-is('large.bin')")).to_be_visible(timeout=30000)
    print(sorted(set(sent)))
    ending[:] = range(2, 200)
    del sent[:]
    page.unroute("**/files/large.bin")
    page.route("**/files/other.bin", breaks)
    page.set_input_files("#upload", {"name": "other.bin", "mimeType": "", "buffer": large})
    expect(page.locator("p [role=status]")).to_contain_text("does not answer")
    page.unroute("**/files/other.bin")
    page.goto(URL)
    page.goto(URL + "#/job/%s/files" % WORDS[0])
    page.set_input_files("#upload", {"name": "other.bin", "mimeType": "", "buffer": large})
    page.click("text=go on there")
    expect(page.locator("button:text-is('other.bin')")).to_be_visible(timeout=30000)


def sharing(page: Any) -> None:
    """A job is shared, and that is withdrawn."""
    page.goto(URL + "#/job/%s/sharing" % WORDS[0])
    page.fill("#user", "bob")
    page.select_option("#may", "POST")
    page.click("button:text-is('Share')")
    expect(page.locator("tbody")).to_contain_text("change it")
    print(page.locator("tbody td").first.inner_text())
    page.click("text=withdraw")
    expect(page.locator("tbody tr")).to_have_count(0)
    page.fill("#user", "addr:x")
    page.click("button:text-is('Share')")
    expect(page.locator("#said p")).to_contain_text("is not a user's name")


def tour(page: Any) -> None:
    """The tour of README as it stands: **what is pressed**, `what is typed`, *what is seen*."""
    page.goto(URL)
    typed = ""
    for bold, code, seen in re.findall(r"[*][*](.+?)[*][*]|`(.+?)`|[*](.+?)[*]", WORDS[0]):
        page.wait_for_timeout(500)
        field = page.get_by_label(bold, exact=True)
        if code:
            typed = code
        elif seen:
            expect(page.locator("main").get_by_text(seen).first).to_be_visible(timeout=20000)
        elif field.count():
            field.fill(typed)
        else:
            page.locator("a, button, summary").filter(
                has_text=re.compile("^%s$" % re.escape(bold))).first.click()
        if bold == "Submit":
            expect(page.locator("h1")).to_have_text("hello")
    print(page.locator("h1").inner_text())


def pictures(page: Any) -> None:
    """The pictures of README, into a folder; the words are it and the jobs to show."""
    folder, runs, failed = WORDS
    for name, place, scheme, size in (
            ("list", "", "dark", (900, 560)), ("job", "job/" + runs, "light", (900, 560)),
            ("failed", "job/" + failed, "dark", (900, 560)), ("new", "new", "light", (900, 560)),
            ("overview", "overview", "light", (900, 560)), ("narrow", "", "light", (390, 560))):
        page.set_viewport_size({"width": size[0], "height": size[1]})
        page.emulate_media(color_scheme=scheme)
        page.goto(URL + "#/" + place)
        expect(page.locator("h1")).to_be_visible()
        page.wait_for_timeout(1500)
        shot = base64.b64encode(page.screenshot()).decode()
        blank = page.context.browser.new_page()
        small = blank.evaluate("""async shot => {
            const image = new Image()
            image.src = "data:image/png;base64," + shot
            await image.decode()
            const canvas = document.createElement("canvas")
            canvas.width = image.width
            canvas.height = image.height
            canvas.getContext("2d").drawImage(image, 0, 0)
            return canvas.toDataURL("image/webp", .6)
        }""", shot)
        blank.close()
        with open("%s/%s.webp" % (folder, name), "wb") as file:
            file.write(base64.b64decode(small.partition(",")[2]))


def keyboard(page: Any) -> None:
    """No mouse: to a job and back, a new one, the keys."""
    page.goto(URL)
    expect(row(page, WORDS[0])).to_be_visible()
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(page.locator("text=Start again")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_be_visible()
    print(page.url.rpartition("#")[2].startswith("/job/"))
    page.keyboard.press("g")
    expect(row(page, WORDS[0])).to_be_visible()
    page.keyboard.press("n")
    expect(page.locator("#field-script")).to_be_visible()
    page.keyboard.press("?")
    expect(page.locator("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_be_hidden()


def focus(page: Any) -> None:
    """Where the focus is, it stays, and an Enter that is held confirms nothing."""
    upper, lower = WORDS
    page.goto(URL + "#/?state=active")
    row(page, lower).locator("a.job").focus()
    page.evaluate("fetch('/v1/jobs/%s', {method: 'DELETE'})" % upper)
    expect(row(page, upper)).to_have_count(0)
    print(page.evaluate("document.activeElement.textContent"))
    page.keyboard.press("Enter")
    page.locator("button:text-is('Cancel')").focus()
    for _ in range(4):
        page.keyboard.down("Enter")
        page.wait_for_timeout(500)
    page.keyboard.up("Enter")
    expect(page.locator("text=Cancel it? Press again")).to_be_focused()
    print(page.locator("dd .state").first.inner_text())
    page.keyboard.press("Enter")
    expect(page.locator("dd .state")).to_contain_text("canceled")


def searching(page: Any) -> None:
    """A word that is not in view, behind a letter that gets longer in lower case."""
    page.goto(URL + "#/job/%s/log" % WORDS[0])
    expect(page.locator("pre")).to_contain_text("1999")
    page.fill("[aria-label='Search in the log']", "error (1)")
    page.keyboard.press("Enter")
    page.wait_for_timeout(500)
    expect(page.locator(".bar [role=status]")).to_have_text("1 found; Enter: the next")
    print(page.evaluate("String(getSelection())"))


def hostile(page: Any) -> None:
    """Names that would be markup or scripts are text."""
    said = []
    page.on("dialog", lambda dialog: said.append(dialog.message) or dialog.dismiss())
    for place in ("#/", "#/job/%s" % WORDS[0], "#/job/%s/files" % WORDS[0],
                  "#/job/%s/spec" % WORDS[0], "#/job/%s/scripts" % WORDS[0],
                  "#/job/%s/history" % WORDS[0], "#/new?from=" + WORDS[0], "#/overview"):
        page.goto(URL + place)
        page.wait_for_timeout(700)
        print(page.locator("main img").count(), page.locator("main script").count(), len(said))


def api(page: Any) -> None:
    """The routes, each with a line for curl."""
    page.goto(URL + "#/api")
    page.click("summary:has-text('GET /v1/jobs/{jobid}/state')")
    expect(page.locator("pre", has_text="/v1/jobs/{jobid}/state")).to_be_visible()
    print(page.locator("main summary").count())


def log(page: Any) -> None:
    """A log of 100 MB: its end at once, earlier lines on demand, another log and back."""
    page.goto(URL + "#/job/%s/log" % WORDS[0])
    expect(page.locator("pre")).to_contain_text("the last line")
    print(len(page.locator("pre").inner_text()) < 300000)
    page.click("text=earlier lines")
    expect(page.locator(".bar .quiet")).to_contain_text("from")
    until(page, "document.querySelector('pre').textContent.length > 400000")
    page.select_option("select", "stderr.1")
    page.select_option("select", "stdout.1")
    page.select_option("select", "stderr.1")
    expect(page.locator("pre")).to_have_text("loud\n")
    page.fill("[aria-label='Search in the log']", "oud")
    page.keyboard.press("Enter")
    print(page.evaluate("String(getSelection())"))


def accessible(page: Any) -> None:
    """What axe finds wrong with each view, light and dark; the first word is axe's own file."""
    with open(WORDS[0], encoding="utf-8") as file:
        source = file.read()
    job = "#/job/" + WORDS[1]
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for place in ("#/", "#/new", "#/new?app=show", "#/overview", "#/api", job, job + "/files",
                      job + "/spec", job + "/scripts", job + "/history", job + "/sharing",
                      "#/job/" + WORDS[2] + "/tasks"):
            page.goto(URL + place)
            expect(page.locator("h1")).to_be_visible()
            page.wait_for_timeout(500)
            page.evaluate(source)
            for found in page.evaluate("axe.run().then(said => said.violations.map("
                                       "each => [each.id, each.nodes[0].html]))"):
                print(scheme, place, *found)


def overview(page: Any) -> None:
    """When the jobs ran, and why some failed."""
    page.goto(URL + "#/overview")
    expect(page.locator("td", has_text="no-such-command: not found")).to_be_visible()
    print(page.locator("svg.chart a").count(), page.locator("svg.scatter a").count())
    page.click("td >> text=batch")
    expect(page.locator("#queue")).to_have_value("batch")
    print(page.locator("#backend").input_value())
    page.go_back()
    page.click("text=7 days")
    expect(page.locator("[aria-current=page]", has_text="7 days")).to_be_visible()
    page.locator("svg.chart a").last.dispatch_event("click")
    expect(page.locator("h1")).to_be_visible()
    print(page.url.rpartition("#")[2].startswith("/job/"))


WALKS: Dict[str, Callable[[Any], None]] = {walk.__name__: walk for walk in (
    submit, application, listing, many, array, restart, token, inputs, uploads, sharing, files,
    focus, searching, hidden, refused, twice, changing_log, growing_log, choosing, copies, tour,
    pictures, keyboard, hostile, api, overview, log, accessible)}

with sync_playwright() as play:
    browser = play.chromium.launch(executable_path=sys.argv[3],
                                   args=["--no-sandbox", "--disable-dev-shm-usage"])
    tab = browser.new_page()
    tab.set_default_timeout(20000)
    tab.on("pageerror", lambda err: print("error in the page:", err))
    WALKS[sys.argv[1]](tab)
