"""A headless Chromium for tests of pages, by its own protocol over a pipe: no driver, no port, no dependency.

Says what a page did: the console, exceptions, every request. What the browser does by itself is switched off
and is not the page's.
"""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SILENCE_S = 300.0  # a start on a busy machine included
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *(
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--force-color-profile=srgb",
        "--remote-debugging-pipe",
    ),
)


class Chromium:
    """One browser with one tab, a new one for each page. Make it with `browser()`."""

    def __init__(self, process: "subprocess.Popen[bytes]", write: int, read: int) -> None:
        self.process = process
        self._write, self._read = write, read
        self._rest = b""
        self._count = 0
        self._context = ""
        self._session = ""
        self._loaded: set[str] = set()
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command and returns its answer; notes what the page does meanwhile."""
        self._count += 1
        number = self._count
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        self._send(message)
        while True:
            found = self._next()
            if found.get("id") == number:
                if "error" in found:
                    raise RuntimeError(f"{method}: {found['error']}")
                return dict(found["result"])

    def open(
        self,
        path: Path,
        *,
        width: int = 1280,
        height: int = 900,
        dark: bool = False,
        scripts: bool = True,
    ) -> None:
        """Shows a file in a new tab, on a phone where it is narrow; the last page and its windows end."""
        self._new_tab()
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.set_dark(dark)
        self.resize(width, height)
        loader = self.call("Page.navigate", url=path.as_uri())["loaderId"]
        while loader not in self._loaded:
            self._next()
        if scripts:
            self.settle()

    def settle(self) -> None:
        """Waits for two frames: Plotly draws, and fits itself to its place, in the next ones."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def set_dark(self, dark: bool) -> None:
        """Says what the user prefers."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)

    def resize(self, width: int, height: int) -> None:
        """Sets the size of the view, in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def run(self, expression: str) -> Any:
        """Returns the value of an expression in the page; waits for a promise."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(json.dumps(found["exceptionDetails"]))
        return found["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Writes the whole page as a PNG."""
        picture = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(picture))

    def close(self) -> None:
        """Ends the browser."""
        os.close(self._write)
        os.close(self._read)
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _new_tab(self) -> None:
        # In the same tab, what the last page asked for is sometimes reported while the next one is shown.
        if self._context:
            self.call("Target.disposeBrowserContext", browserContextId=self._context)
        self._context = self.call("Target.createBrowserContext")["browserContextId"]
        tab = self.call("Target.createTarget", url="about:blank", browserContextId=self._context)
        session = self.call("Target.attachToTarget", targetId=tab["targetId"], flatten=True)
        self._session = session["sessionId"]
        self._loaded, self.complaints, self.requests = set(), [], []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.setLifecycleEventsEnabled", enabled=True)

    def _send(self, message: dict[str, Any]) -> None:
        if not message["method"].startswith("Target."):  # the browser's own
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], _SILENCE_S)
            if not ready:
                raise RuntimeError(f"Chromium has said nothing for {_SILENCE_S} s.")
            part = os.read(self._read, 1 << 20)
            if not part:
                raise RuntimeError(f"Chromium ended with status {self.process.wait()}.")
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(text)
        parameters = found.get("params", {})
        if found.get("sessionId") != self._session:
            return found  # an earlier page's, or the browser's own
        if found.get("method") == "Page.lifecycleEvent" and parameters["name"] == "load":
            self._loaded.add(parameters["loaderId"])
        elif found.get("method") == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif found.get("method") == "Network.webSocketCreated":
            self.requests.append(parameters["url"])
        elif found.get("method") == "Runtime.consoleAPICalled":
            if parameters["type"] in ("error", "warning", "assert"):
                self.complaints.append(json.dumps(parameters["args"]))
        elif found.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(parameters["exceptionDetails"]))
        elif found.get("method") == "Page.javascriptDialogOpening":
            self.complaints.append(f"a dialog: {parameters['message']}")
            self._count += 1  # nobody waits for the answer
            self._send(
                {"id": self._count, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}}
            )
        elif found.get("method") == "Log.entryAdded":
            self.complaints.append(parameters["entry"]["text"])
        return found


def executable() -> str:
    """Returns the path of Chromium; where there is none the test fails and says what to install."""
    for name in _NAMES:
        if (path := shutil.which(name)) is not None:
            return path
    raise RuntimeError(
        f"Tests of pages need Chromium; got none of {', '.join(_NAMES)} on PATH. Install it, on Debian or "
        "Ubuntu with: apt-get install -y --no-install-recommends chromium"
    )


@contextlib.contextmanager
def browser() -> Iterator[Chromium]:
    """Yields a browser with a profile of its own, and removes both."""
    with tempfile.TemporaryDirectory(prefix="tfx_mobile_chromium_", ignore_cleanup_errors=True) as folder:
        from_us, ours = os.pipe()
        theirs, to_us = os.pipe()
        command = [executable(), *_FLAGS, f"--user-data-dir={folder}", "about:blank"]
        # Chromium reads commands from 3 and answers on 4; sh puts the pipes there.
        shell = f'exec "$@" 3<&{from_us} 4>&{to_us}'
        with (Path(folder) / "stderr").open("wb") as log:
            process = subprocess.Popen(
                ["bash", "-c", shell, "chromium", *command],
                pass_fds=(from_us, to_us),
                stdout=log,
                stderr=log,
            )
        os.close(from_us)
        os.close(to_us)
        found = Chromium(process, ours, theirs)
        try:
            yield found
        finally:
            found.close()
