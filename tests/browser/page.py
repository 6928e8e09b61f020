#!/usr/bin/env python3
"""Uses a page of `report --html` in headless Chromium, by chromedriver's HTTP interface, and prints what it saw as JSON.

    page.py PAGE [SCREENSHOT.png [dark]]

Needs Debian's packages chromium and chromium-driver, nothing else. `tests/tests/report.rs` runs it.
"""

import base64
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--window-size=1280,1000",
]

SORT = """
const table = [...document.querySelectorAll('#table table, #classes table')][0];
if (!table) return null;
const column = table.closest('#table') ? 1 : 0;
const read = () => [...table.querySelectorAll('tbody tr')].map((row) => row.children[column].textContent);
const button = table.querySelectorAll('th button')[column];
button.click();
const first = [read(), table.querySelectorAll('th')[column].getAttribute('aria-sort')];
button.click();
return [first, [read(), table.querySelectorAll('th')[column].getAttribute('aria-sort')]];
"""

LOOK = """
const text = (part) => part && part.textContent;
return {
    title: document.title,
    heading: text(document.querySelector('h1')),
    markup: document.querySelectorAll('h1 *, h3 b').length,
    sections: [...document.querySelectorAll('section')].map((part) => part.id),
    charts: [...document.querySelectorAll('svg.chart')].map((chart) => ({
        name: chart.getAttribute('aria-label'), lines: chart.querySelectorAll('.line').length,
        dots: chart.querySelectorAll('.dot').length, ways: chart.querySelectorAll('.way').length,
    })),
    pictures: [...document.querySelectorAll('img')].map((image) => image.complete && image.naturalWidth > 0),
    notes: [...document.querySelectorAll('.note')].map(text),
    overflow: document.documentElement.scrollWidth - innerWidth,
};
"""


class Browser:
    def __init__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.base = f"http://127.0.0.1:{port}"
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        logs = {"browser": "ALL", "performance": "ALL"}
        options = {"args": FLAGS + [f"--user-data-dir={self.profile.name}"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": logs}
        for attempt in range(100):
            try:
                session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
                break
            except (ConnectionError, urllib.error.URLError):
                time.sleep(0.1)
        else:
            raise SystemExit("chromedriver does not answer")
        self.base += f"/session/{session['sessionId']}"

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def run(self, script, *args):
        return self.call("POST", "/execute/sync", {"script": script, "args": list(args)})

    def hover(self, selector):
        """Moves the pointer to the middle of the first such element; returns the tip, or nothing."""
        place = self.run(
            "const e = document.querySelector(arguments[0]); if (!e) return null; e.scrollIntoView({block: 'center'});"
            "const b = e.getBoundingClientRect(); return [b.left + b.width / 2, b.top + b.height / 2];", selector)
        if place is None:
            return None
        moves = [{"type": "pointerMove", "duration": 0, "x": round(x), "y": round(y), "origin": "viewport"}
                 for x, y in [(place[0] - 3, place[1]), place]]
        self.call("POST", "/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": moves}]})
        return self.run("const tip = document.getElementById('tip'); return tip.hidden ? null : tip.textContent;")

    def logs(self, kind):
        return self.call("POST", "/se/log", {"type": kind})

    def close(self):
        try:
            self.call("DELETE", "")
        finally:
            self.driver.terminate()
            self.driver.wait()
            self.profile.cleanup()


def requests(browser):
    """Addresses that the page asked for, but for itself and what it holds."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.logs("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith(("file:", "data:", "chrome:", "about:"))]


def main():
    page = os.path.abspath(sys.argv[1])
    browser = Browser()
    try:
        browser.call("POST", "/url", {"url": "file://" + urllib.request.pathname2url(page)})
        seen = browser.run(LOOK)
        if len(sys.argv) > 3:
            browser.run("setTheme(arguments[0])", sys.argv[3])
        seen["tips"] = {name: browser.hover(selector) for name, selector in [
            ("curve", "#curves .dot, #curves .line"), ("point", "#trials .dot"), ("cell", "#classes .cell rect")]}
        # The middle of what surrounds a broken line is not on the line.
        seen["tips"]["way"] = browser.run(
            "document.querySelector('#trials .way.top')?.dispatchEvent(new PointerEvent('pointermove'));"
            "const tip = document.getElementById('tip'); return tip.hidden ? null : tip.textContent;")
        browser.run("document.querySelector('#trials .dot')?.closest('svg').dispatchEvent(new Event('pointerleave'))")
        seen["sorted"] = browser.run(SORT)
        browser.run("for (const box of document.querySelectorAll('select')) {"
                    "for (const option of box.options) { box.value = option.value; box.dispatchEvent(new Event('change')); } }")
        browser.run("for (const box of document.querySelectorAll('input[type=checkbox], .key')) box.click();")
        browser.run("for (const box of document.querySelectorAll('input[type=checkbox], .key')) box.click();")
        seen["requests"] = requests(browser)
        seen["errors"] = [entry["message"] for entry in browser.logs("browser")]
        if len(sys.argv) > 2:
            height = browser.run("scrollTo(0, 0); return document.documentElement.scrollHeight")
            browser.call("POST", "/window/rect", {"width": 1280, "height": min(height + 100, 12000)})
            with open(sys.argv[2], "wb") as file:
                file.write(base64.b64decode(browser.call("GET", "/screenshot")))
    finally:
        browser.close()
    print(json.dumps(seen))


main()
