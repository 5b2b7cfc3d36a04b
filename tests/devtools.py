"""Drives Chromium over its DevTools protocol: https://chromedevtools.github.io/devtools-protocol/ (only what is needed)."""

from __future__ import annotations

import base64
import itertools
import json
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

KEYS = {"Enter": 13, "Escape": 27, "Tab": 9}
PATIENCE_S = 20


class Browser:
    """A headless Chromium."""

    def __init__(self, program: str, folder: Path) -> None:
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--disable-dev-shm-usage",
                 "--no-first-run", "--force-device-scale-factor=1", f"--user-data-dir={folder}", "about:blank"]  # fmt: skip
        self._process = subprocess.Popen([program, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port_file = folder / "DevToolsActivePort"
        until = time.monotonic() + 60
        while not port_file.exists() or len(port_file.read_text().splitlines()) < 2:
            assert time.monotonic() < until, "Chromium did not start"
            assert self._process.poll() is None, "Chromium ended at once"
            time.sleep(0.05)
        self._port = int(port_file.read_text().splitlines()[0])

    def open(self, url: str) -> Page:
        """Open a page in a tab of its own."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(request, timeout=30) as response:
            target = json.load(response)
        return Page(target["webSocketDebuggerUrl"], url)

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(20)


class Page:
    """One tab. `problems` holds what the page wrote to its console, errors and refusals of its policy."""

    def __init__(self, socket: str, url: str) -> None:
        self._socket = connect(socket, max_size=None, legacy=True)
        self._numbers = itertools.count(1)
        self.problems: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.go(url)

    def go(self, url: str) -> None:
        """Load a page."""
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._hear(message)

    def _hear(self, message: dict[str, Any]) -> None:
        method, told = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.problems.append(str(told["exceptionDetails"].get("exception", told["exceptionDetails"])))
        elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.problems.append(told["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning"):
            self.problems.append(str(told["args"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression; promises are waited for."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, script: str) -> Any:
        """Wait until an expression is true and return its value."""
        until = time.monotonic() + PATIENCE_S
        asked = f"(() => {{ const found = ({script}); return found instanceof Node ? true : found }})()"
        while not (value := self.run(asked)):
            assert time.monotonic() < until, f"never true: {script}\n{self.text()}\n{self.problems}"
            time.sleep(0.03)
        return value

    def text(self, selector: str = "body") -> str:
        """The text that a person sees."""
        return str(self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def click(self, selector: str) -> None:
        """Click in the middle of an element, as a mouse does."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")  # let the page settle
        place = self.wait(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); if (!e) return null;"
            "e.scrollIntoView({block: 'nearest'});"
            "const r = e.getBoundingClientRect(); return r.width ? {x: r.x + r.width / 2, y: r.y + r.height / 2} : null })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def click_text(self, label: str, within: str = "body") -> None:
        """Click the last button that reads so."""
        found = self.wait(
            f"(() => {{ const all = [...document.querySelectorAll({json.dumps(within + ' button')})]"
            f".filter(b => b.textContent === {json.dumps(label)}); if (!all.length) return false;"
            "document.querySelectorAll('[data-wanted]').forEach(e => delete e.dataset.wanted);"
            "all.at(-1).dataset.wanted = '1'; return true })()"
        )
        assert found
        self.click("[data-wanted]")

    def type(self, selector: str, text: str) -> None:
        """Put the focus on a field and insert text."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=text)

    def press(self, key: str, modifiers: int = 0) -> None:
        """Press a key. modifiers: 1 is Alt, 8 is Shift."""
        code = KEYS.get(key, ord(key.upper()[0]))
        text = {"text": "\r"} if key == "Enter" else {}
        self.call(
            "Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, modifiers=modifiers, **text
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code, modifiers=modifiers)

    def say(self, text: str) -> None:
        """Write a message and send it."""
        self.type("#message", text)
        self.press("Enter")

    def idle(self) -> None:
        """Wait until no answer is being made."""
        self.wait("document.getElementById('stop').hidden")

    def screenshot(self, path: Path, *, width: int = 1280, height: int = 860, dark: bool = False) -> Path:
        """Save a picture of the page at a size."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        return path

    def close(self) -> None:
        """Close the tab."""
        self.call("Page.close")
        self._socket.close()
