"""Whether the page shows a job, and may end it: page.py URL CHROMIUM JOBID."""
import sys

from playwright.sync_api import sync_playwright

with sync_playwright() as play:
    browser = play.chromium.launch(executable_path=sys.argv[2],
                                   args=["--no-sandbox", "--disable-dev-shm-usage"])
    page = browser.new_page()
    page.goto(sys.argv[1])
    page.get_by_text(sys.argv[3]).first.wait_for(timeout=30000)
    print(page.url.startswith(sys.argv[1]))
    print(page.evaluate("fetch('v1/jobs/%s/cancel', {method: 'POST'}).then((a) => a.status)"
                        % sys.argv[3]))
