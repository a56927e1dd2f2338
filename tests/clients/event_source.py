"""Print the transitions that a page in Chromium is told: event_source.py URL CHROMIUM."""
import sys

from playwright.sync_api import sync_playwright

with sync_playwright() as play:
    browser = play.chromium.launch(executable_path=sys.argv[2],
                                   args=["--no-sandbox", "--disable-dev-shm-usage"])
    page = browser.new_page()
    page.expose_function("said", lambda text: print(text, flush=True))
    page.goto(sys.argv[1])
    page.evaluate('''() => {
        const source = new EventSource("v1/events");
        source.onopen = () => said("open");
        source.addEventListener("reset", (event) => said("reset " + event.data));
        source.addEventListener("transition",
            (event) => said("transition " + JSON.parse(event.data).key));
    }''')
    page.wait_for_timeout(180000)
