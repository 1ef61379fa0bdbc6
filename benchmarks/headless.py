"""A headless Chromium that opens pages and takes pictures, by the DevTools protocol alone."""

import base64
import io
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome")
WITHOUT_GPU = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
"""Pages that draw with WebGL, as Prefect's timeline of a run does, stay empty without it."""
START_S, LOAD_S = 60.0, 60.0
COLOURS = 128
"""Of a picture's palette: enough for a page of text and plots, at a third of the bytes."""


class Page:
    """One tab. What is waited for is a condition in JavaScript: pages go on loading after they are loaded."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._number = socket, 0
        self.do("Page.enable")

    def do(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=LOAD_S))
            if message.get("id") == self._number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return dict(message["result"])

    def open(self, url: str) -> None:
        """Go to a page."""
        self.do("Page.navigate", url=url)

    def ask(self, expression: str) -> Any:
        """Return what an expression is in the page."""
        found = self.do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until a condition holds."""
        deadline = time.monotonic() + LOAD_S
        while not self.ask(f"Boolean({condition})"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"never: {condition}\n{self.ask('document.body.innerText')}")
            time.sleep(0.2)

    def picture(self, path: Path, *, width: int, height: int, settle_s: float = 3.0) -> None:
        """Write what is to be seen to a PNG file."""
        self.do(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        time.sleep(settle_s)  # plots and fades have no event that says they are done
        content = base64.b64decode(self.do("Page.captureScreenshot", format="png")["data"])
        image = Image.open(io.BytesIO(content)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, optimize=True)


@contextmanager
def browser() -> Iterator[Page]:
    """Yield an empty page of a Chromium that ends with the block."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        raise SystemExit(f"none of {', '.join(NAMES)} is installed: apt-get install chromium")
    with tempfile.TemporaryDirectory(prefix="headless-", ignore_cleanup_errors=True) as home:
        command = [program, "--headless=new", "--no-sandbox", "--hide-scrollbars", *WITHOUT_GPU]
        command += [f"--user-data-dir={home}", "--remote-debugging-port=0", "--no-first-run", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with connect(_address(Path(home)), max_size=None) as socket:
                yield Page(socket)
        finally:
            process.terminate()
            process.wait()


def _address(home: Path) -> str:
    """Return where the first tab is spoken to."""
    import urllib.request

    deadline = time.monotonic() + START_S
    while True:
        try:
            port = (home / "DevToolsActivePort").read_text().split()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=5) as answer:
                [page] = [one for one in json.load(answer) if one["type"] == "page"]
        except (OSError, ValueError, IndexError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return str(page["webSocketDebuggerUrl"])
