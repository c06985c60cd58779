"""The dashboard as a sink: answers in, a page with picture and figures out."""

from __future__ import annotations

import importlib.resources
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from edge_vit.camera.rate_limit import RateLimitedWarnings
from edge_vit.camera.sinks.web.access import Access
from edge_vit.camera.sinks.web.figures import Figures, page_state
from edge_vit.camera.sinks.web.metrics import CONTENT_TYPE, metrics_text
from edge_vit.camera.sinks.web.pictures import BOUNDARY, Key, Pictures
from edge_vit.camera.sinks.web.server import (
    TIMEOUTS,
    Reply,
    Request,
    StrictServer,
    Timeouts,
    text_reply,
)
from edge_vit.camera.threads import as_error, start_thread
from edge_vit.camera.values import CameraPrediction, describe
from edge_vit.device.telemetry import Telemetry
from edge_vit.errors import EdgeVitError, SpecError

if TYPE_CHECKING:
    from edge_vit.camera.summary import CameraSummary

_LOG = logging.getLogger(__name__)

HOST, PORT = "127.0.0.1", 8080
_STATE_LIFETIME_S = 0.2  # requests within it get the same
_SAMPLE_S = 1.0
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_ICON = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
    b'<rect width="32" height="32" rx="8" fill="#0d9488"/>'
    b'<path d="M8 8h7v7H8zM17 8h7v7h-7zM8 17h7v7H8z" fill="#fff"/>'
    b'<path d="M17 17h7v7h-7z" fill="#99f6e4"/></svg>'
)
_REFUSALS = {
    "token": (401, "a token is needed: open this address with ?token=…"),
    "host": (421, "this name is not one of this machine"),
    "cross-site": (403, "pages of other sites get nothing here"),
}


class DashboardSink:
    """A page on ``http://HOST:PORT/``; its pictures as MJPEG, figures as JSON and for Prometheus.

    Args:
        host: to listen on; any but a loopback address wants a token.
        port: 0 for any that is free.
        token: that everybody has to know; None for none.
        read: one reading of the machine's sensors; None where there are none to show.
        timeouts: of clients.
    """

    queue_size = 2
    needs_pixels = True

    def __init__(
        self,
        host: str = HOST,
        port: int = PORT,
        token: str | None = None,
        read: Callable[[], Telemetry] | None = None,
        timeouts: Timeouts = TIMEOUTS,
    ) -> None:
        self._access = Access(host, token)
        self._host, self._port, self._read, self._timeouts = host, port, read, timeouts
        self.name = _address(host, port)
        self._figures, self._pictures = Figures(time.monotonic), Pictures()
        self._pages = {path: _load(name) for path, (name, _) in _FILES.items()}
        self._server: StrictServer | None = None
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._reading: Telemetry | None = None
        self._state, self._state_s = b"", float("-inf")
        self._warnings = RateLimitedWarnings(_LOG)

    def open(self, summarize: Callable[[], CameraSummary]) -> None:
        """Listen."""
        self._summarize = summarize
        try:
            server = StrictServer(self._host, self._port, self._answer, self._timeouts)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SpecError(
                f"dashboard: cannot listen on {self._host}:{self._port}: {reason}. "
                f"Choose another port: dashboard:{self._port + 1}"
            ) from None
        self._server, self.name = server, _address(self._host, server.server_port)
        _LOG.info("dashboard on %s", self.name)
        server.start()
        start_thread("dashboard sensors", self._sample, self._warn)

    def write(self, prediction: CameraPrediction) -> None:
        """Count `answer`, and make its picture where it is watched."""
        self._figures.add(prediction)
        self._pictures.add(prediction)

    def close(self) -> None:
        """Serve no more."""
        self._stop.set()
        self._pictures.close()
        if self._server is not None:
            self._server.stop()

    def _sample(self) -> None:
        """Read the sensors and keep the past, until the end."""
        while not self._stop.is_set():
            try:
                if self._read is not None:
                    self._reading = self._read()
                self._figures.sample(self._summarize(), self._reading)
            except Exception as fault:  # the next reading may go better
                self._warn(as_error(fault, "the dashboard's sensors"))
            self._stop.wait(_SAMPLE_S)

    def _warn(self, error: EdgeVitError) -> None:
        self._warnings.warn(describe(error), describe(error))

    def _answer(self, request: Request) -> Reply:
        verdict = self._access.judge(request.headers, request.query)
        if verdict == "new cookie" and request.path == "/":  # players keep no cookies
            return text_reply(303, "go on", {"Location": "/", "Set-Cookie": self._access.cookie})
        if verdict in _REFUSALS:
            return text_reply(*_REFUSALS[verdict])
        return self._content(request)

    def _content(self, request: Request) -> Reply:
        if request.path in _FILES:
            return Reply(200, _FILES[request.path][1], self._pages[request.path])
        if request.path == "/icon.svg":
            return Reply(200, "image/svg+xml", _ICON)
        if request.path == "/state":
            return Reply(200, "application/json", self._current_state())
        if request.path == "/metrics":
            text = metrics_text(self._summarize(), self._reading)
            return Reply(200, CONTENT_TYPE, text.encode())
        if request.path in ("/frame.jpg", "/stream.mjpg"):
            return self._picture(request.path, request.query)
        return text_reply(404, "nothing is here")

    def _picture(self, path: str, query: Mapping[str, str]) -> Reply:
        """A picture or a stream: of ``?source=N``, with ``?drawn=1`` its answer on it."""
        sources = self._pictures.sources()
        place = query.get("source", "0")
        if not re.fullmatch("[0-9]{1,4}", place) or int(place) >= len(sources):
            return text_reply(404, "there is no picture of this source yet")
        key: Key = (sources[int(place)], query.get("drawn") == "1")
        if path == "/stream.mjpg":
            kind = f"multipart/x-mixed-replace; boundary={BOUNDARY}"
            return Reply(200, kind, self._pictures.stream(key))
        return Reply(200, "image/jpeg", self._pictures.snapshot(key) or b"")

    def _current_state(self) -> bytes:
        """The figures as JSON, made at most a few times a second however many ask."""
        with self._lock:
            if time.monotonic() - self._state_s >= _STATE_LIFETIME_S:
                newest = {name: self._pictures.newest(name) for name in self._pictures.sources()}
                predictions = {
                    name: prediction
                    for name, prediction in newest.items()
                    if prediction is not None
                }
                state = page_state(self._summarize(), self._figures, predictions, self._reading)
                self._state, self._state_s = json.dumps(state).encode(), time.monotonic()
            return self._state


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _load(name: str) -> bytes:
    folder = importlib.resources.files("edge_vit.camera.sinks.web")
    return (folder / "page" / name).read_bytes()
