"""Headless Chromium over its debugging pipe: open a page, look at it, ask it things.

Commands are those of the Chrome DevTools Protocol, as JSON between zero bytes on file descriptors 3
and 4, so that no package and no port is needed.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import tempfile
from types import TracebackType
from typing import Any

_START = 'exec chromium "$@" 3<&"$FROM_US" 4>&"$TO_US"'
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--mute-audio"),
    *("--remote-debugging-pipe", "--no-first-run", "--disable-background-networking"),
)


class Chromium:
    """A browser with one page; a context manager that ends it."""

    def __enter__(self) -> Chromium:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        from_us, self._writer = os.pipe()
        self._reader, to_us = os.pipe()
        self._process = subprocess.Popen(
            ["sh", "-c", _START, "sh", *_FLAGS, f"--user-data-dir={self._profile.name}"],
            env={**os.environ, "FROM_US": str(from_us), "TO_US": str(to_us)},
            pass_fds=(from_us, to_us),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(from_us)
        os.close(to_us)
        self._count, self._rest, self._session = 0, b"", ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._writer)
        os.close(self._reader)
        self._profile.cleanup()

    def call(self, method: str, **params: Any) -> Any:
        """Return the result of a command; what the browser tells unasked is passed over."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writer, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def show(self, url: str, width: int, height: int, *, is_dark: bool, is_phone: bool) -> None:
        """Open `url` in a window of that many CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if is_phone else 1,
            mobile=is_phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    def screenshot(self) -> bytes:
        """Return the window as PNG."""
        data = self.call("Page.captureScreenshot", format="png", optimizeForSpeed=False)["data"]
        return base64.b64decode(data)

    def _read(self) -> Any:
        while b"\0" not in self._rest:
            part = os.read(self._reader, 1 << 16)
            if not part:
                raise RuntimeError("chromium has ended")
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)
