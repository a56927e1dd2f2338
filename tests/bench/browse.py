"""Milliseconds from a page's first byte to its first row: browse.py URL CHROMIUM TIMES.

Prints a line of JSON: the times in new tabs, with nothing in the cache, and those of reloads.
"""
import json
import sys
from typing import Any

from playwright.sync_api import sync_playwright

URL, CHROMIUM, TIMES = sys.argv[1], sys.argv[2], int(sys.argv[3])
NOTE = """new MutationObserver(() => {
    if (!window.firstRow && document.querySelector("tbody tr")) window.firstRow = performance.now()
}).observe(document, {childList: true, subtree: true})"""
TOOK = "window.firstRow && window.firstRow - performance.getEntries()[0].responseStart"


def took(page: Any) -> float:
    """How long the page that was just opened took."""
    for _ in range(400):
        found = page.evaluate(TOOK)
        if found:
            return float(found)
        page.wait_for_timeout(25)
    raise RuntimeError("no row has come")


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    new, again = [], []
    for _ in range(TIMES):
        context = browser.new_context()
        tab = context.new_page()
        tab.add_init_script(NOTE)
        tab.goto(URL)
        new.append(took(tab))
        tab.reload()
        again.append(took(tab))
        context.close()
    browser.close()
print(json.dumps([new, again]))
