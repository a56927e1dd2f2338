"""What a user does with the page, in a real browser: walk_page.py WALK URL CHROMIUM [WORD...].

Each walk prints what is to be seen at the end of each of its steps.
"""
import sys
from typing import Any, Callable, Dict

from playwright.sync_api import expect, sync_playwright

URL, WORDS = sys.argv[2], sys.argv[4:]


def row(page: Any, jobid: str) -> Any:
    """The row of a job in the list."""
    return page.locator("tbody tr", has_text=jobid)


def submit(page: Any) -> None:
    """A script of one's own: from the form to the log that follows; the same once more."""
    page.goto(URL + "#/new")
    page.fill("#field-name", "from <b>the</b> page")
    page.fill("#field-script", "#!/bin/sh\nfor i in 1 2 3; do echo line $i; sleep 1; done\n")
    page.fill("#field-duration", "99999999999")
    page.click("text=Submit")
    expect(page.locator("[data-fault=duration]")).not_to_be_empty()
    print(page.locator("[data-fault=duration]").inner_text())
    page.fill("#field-duration", "2")
    page.click("text=Submit")
    expect(page.locator("h1")).to_have_text("from <b>the</b> page")
    expect(page.locator("pre")).to_contain_text("line 1")
    expect(page.locator("dd .state")).to_contain_text("completed", timeout=20000)
    expect(page.locator("pre")).to_have_text("line 1\nline 2\nline 3\n")
    page.click("text=copy as new")
    expect(page.locator("#field-name")).to_have_value("from <b>the</b> page")
    print(page.locator("#field-duration").input_value())
    page.click("text=the same on the command line")
    expect(page.locator("details pre").last).to_contain_text("psik.py run --backend local -")
    page.click("text=Submit")
    expect(page.locator("dd .state")).to_contain_text("active")
    page.click("text=Cancel")
    page.click("text=Cancel it? Press again")
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
    page.click("text=Remove")
    page.click("text=Remove it with its logs and files? Press again")
    expect(page.locator("h1")).to_have_text("Jobs")
    print(page.locator("#said p").count())


def application(page: Any) -> None:
    """An application: what is wrong is said at its field; a file that it needs; its log."""
    page.goto(URL + "#/new?app=show")
    page.click("text=Submit")
    expect(page.locator("[data-fault=count]")).not_to_be_empty()
    print(page.locator("[data-fault=count]").inner_text())
    page.fill("#field-count", "3")
    page.fill("#field-word", "it's $(id)")
    page.select_option("#field-flag", "true")
    page.select_option("#field-how", label="b")
    page.fill("#field-list", "[1, 2.5]")
    page.set_input_files("#field-picture", {"name": "p.png", "mimeType": "image/png",
                                            "buffer": b"12345"})
    page.click("text=Submit")
    expect(page.locator("p.box")).to_contain_text("data.txt")
    print(page.locator("p.box").inner_text())
    page.set_input_files("#needs-data\\.txt", {"name": "mine.txt", "mimeType": "text/plain",
                                               "buffer": b"moo\n"})
    page.click("text=Submit")
    expect(page.locator("dd .state")).to_contain_text("completed", timeout=20000)
    expect(page.locator("pre")).to_contain_text("moo")
    print(repr(page.locator("pre").inner_text()))


def listing(page: Any) -> None:
    """The list: live, filtered, several at once; a reload stays."""
    waits, failed = WORDS
    page.goto(URL)
    expect(row(page, waits)).to_contain_text("active")
    expect(row(page, failed)).to_contain_text("no-such-command: not found")
    page.click("button:has-text('failed')")
    expect(row(page, waits)).to_have_count(0)
    print(page.url.rpartition("#")[2])
    page.reload()
    expect(row(page, failed)).to_have_count(1)
    expect(row(page, waits)).to_have_count(0)
    page.goto(URL + "#/")
    page.fill("main [type=search]", "wai*")
    page.keyboard.press("Enter")
    expect(row(page, failed)).to_have_count(0)
    row(page, waits).locator("[type=checkbox]").check()
    page.click(".bar button:text-is('Cancel')")
    page.click("text=Cancel them? Press again")
    expect(row(page, waits)).to_contain_text("canceled", timeout=20000)
    expect(page.locator("text=Start again")).to_be_hidden()
    print(page.evaluate("fetch('v1/jobs', {method: 'POST', body: '{\"script\": \"true\", \"name\": "
                        "\"waited\"}', headers: {'Content-Type': 'application/json'}})"
                        ".then(answer => answer.status)"))
    expect(page.locator("tbody")).to_contain_text("waited", timeout=20000)  # by its event


def files(page: Any) -> None:
    """Files up, into folders, seen, and removed."""
    page.goto(URL + "#/job/%s/files" % WORDS[0])
    page.set_input_files("[type=file]", [{"name": "a b.txt", "mimeType": "text/plain",
                                          "buffer": b"<script>moo</script>\n"}])
    page.click("button:text-is('a b.txt')")
    expect(page.locator("#preview pre")).to_have_text("<script>moo</script>\n")
    page.click("button:text-is('sub')")
    expect(page.locator("code", has_text="sub").first).to_be_visible()
    page.set_input_files("[type=file]", [{"name": "c", "mimeType": "", "buffer": b"c"}])
    expect(page.locator("button:text-is('c')")).to_be_visible()
    with page.expect_download() as got:
        page.click("text=download all of it")
    print(got.value.suggested_filename == WORDS[0] + ".tar.gz")
    page.click("text=↑ top")
    expect(page.locator("button:text-is('a b.txt')")).to_be_visible()
    page.locator("tr", has_text="a b.txt").locator("text=remove").click()
    page.click("text=Remove it? Press again")
    expect(page.locator("button:text-is('a b.txt')")).to_have_count(0)


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


def hostile(page: Any) -> None:
    """Names that would be markup or scripts are text."""
    said = []
    page.on("dialog", lambda dialog: said.append(dialog.message) or dialog.dismiss())
    for place in ("#/", "#/job/%s" % WORDS[0], "#/job/%s/files" % WORDS[0],
                  "#/job/%s/spec" % WORDS[0], "#/job/%s/scripts" % WORDS[0],
                  "#/job/%s/history" % WORDS[0], "#/new?from=" + WORDS[0]):
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
    page.wait_for_function("document.querySelector('pre').textContent.length > 400000")
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
                      job + "/spec", job + "/scripts", job + "/history"):
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
    print(page.locator("svg.chart a").count())
    page.click("text=7 days")
    expect(page.locator("[aria-current=page]", has_text="7 days")).to_be_visible()
    page.locator("svg.chart a").last.click()
    expect(page.locator("h1")).to_be_visible()
    print(page.url.rpartition("#")[2].startswith("/job/"))


WALKS: Dict[str, Callable[[Any], None]] = {walk.__name__: walk for walk in (
    submit, application, listing, files, keyboard, hostile, api, overview, log, accessible)}

with sync_playwright() as play:
    browser = play.chromium.launch(executable_path=sys.argv[3],
                                   args=["--no-sandbox", "--disable-dev-shm-usage"])
    tab = browser.new_page()
    tab.set_default_timeout(20000)
    tab.on("pageerror", lambda err: print("error in the page:", err))
    WALKS[sys.argv[1]](tab)
