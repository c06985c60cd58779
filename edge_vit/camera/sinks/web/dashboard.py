"""The dashboard as a sink: predictions in, a page with picture and figures out."""

from __future__ import annotations

import importlib.resources
import json
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from edge_vit.camera.sink import Sink, Summarize
from edge_vit.camera.sinks.json_lines import prediction_record
from edge_vit.camera.sinks.web.access import Access
from edge_vit.camera.sinks.web.metrics import CONTENT_TYPE, metrics_text
from edge_vit.camera.sinks.web.pictures import BOUNDARY, Key, Pictures
from edge_vit.camera.sinks.web.server import Reply, Request, StrictServer, text_reply
from edge_vit.camera.threads import RateLimitedWarnings, as_error, describe
from edge_vit.camera.values import STAGES, CameraPrediction, Stamps
from edge_vit.device.telemetry import Telemetry
from edge_vit.errors import SpecError
from edge_vit.values import to_json

_LOG = logging.getLogger(__name__)
T = TypeVar("T")

HOST, PORT = "127.0.0.1", 8080
STATE_S, SENSORS_S = 0.2, 1.0
"""Seconds for which everybody gets the same state, and the same reading of the sensors."""

BINS_PER_DECADE = 8
FIRST_DECADE, NUM_DECADES = -1, 5
"""Bins of the histograms: from 0.1 ms to 10 s."""

NUM_BINS = BINS_PER_DECADE * NUM_DECADES
WINDOW_S = 30.0

_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_REFUSALS = {
    "token": (401, "a token is needed: open this address with ?token=…"),
    "host": (421, "this name is not one of this machine"),
    "cross-site": (403, "pages of other sites get nothing here"),
}


class DashboardSink(Sink):
    """A page on ``http://HOST:PORT/``; its pictures as MJPEG, figures as JSON and for Prometheus.

    Any but a loopback address wants a token. Port 0 takes any that is free; `read` gives one
    reading of the machine's sensors; `timeouts` are those of `StrictServer`.
    """

    queue_size = 2
    needs_pixels = True

    def __init__(
        self,
        host: str = HOST,
        port: int = PORT,
        token: str | None = None,
        read: Callable[[], Telemetry] | None = None,
        **timeouts: float,
    ) -> None:
        self._access = Access(host, token)
        self._host, self._port, self._timeouts = host, port, timeouts
        self.name = _address(host, port)
        self._bins, self._pictures = StageBins(time.monotonic), Pictures()
        self._pages = {path: _load(name) for path, (name, _) in _FILES.items()}
        self._read: Callable[[], Telemetry | None] = read or (lambda: None)
        self._warnings = RateLimitedWarnings(_LOG)
        self._reading = _Cached(self._read_sensors, SENSORS_S)
        self._state = _Cached(self._make_state, STATE_S)
        self._server: StrictServer | None = None

    def open(self, summarize: Summarize) -> None:
        """Listen."""
        self._summarize = summarize
        try:
            server = StrictServer(self._host, self._port, self._respond, **self._timeouts)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SpecError(
                f"dashboard: cannot listen on {self._host}:{self._port}: {reason}. "
                f"Choose another port: dashboard:{self._port + 1}"
            ) from None
        self._server, self.name = server, _address(self._host, server.server_port)
        _LOG.info("dashboard on %s", self.name)
        server.start()

    def write(self, prediction: CameraPrediction) -> None:
        """Count `prediction`, and make its picture where it is watched."""
        self._bins.add(prediction.frame.stamps)
        self._pictures.add(prediction)

    def close(self) -> None:
        """Serve no more."""
        self._pictures.close()
        if self._server is not None:
            self._server.stop()

    def _respond(self, request: Request) -> Reply:
        verdict = self._access.judge(request.headers, request.query)
        if verdict == "new cookie" and request.path == "/":  # players keep no cookies
            return text_reply(303, "go on", {"Location": "/", "Set-Cookie": self._access.cookie})
        if verdict in _REFUSALS:
            return text_reply(*_REFUSALS[verdict])
        if request.path in _FILES:
            return Reply(200, _FILES[request.path][1], self._pages[request.path])
        if request.path == "/state":
            return Reply(200, "application/json", self._state.get())
        if request.path == "/metrics":
            text = metrics_text(self._summarize(), self._reading.get())
            return Reply(200, CONTENT_TYPE, text.encode())
        if request.path in ("/frame.jpg", "/stream.mjpg"):
            return self._picture(request.path, request.query)
        return text_reply(404, "nothing is here")

    def _picture(self, path: str, query: Mapping[str, str]) -> Reply:
        """A picture or a stream: of ``?source=N``, with ``?drawn=1`` its prediction on it."""
        sources = list(self._pictures.newest())
        place = query.get("source", "0")
        if not re.fullmatch("[0-9]{1,4}", place) or int(place) >= len(sources):
            return text_reply(404, "there is no picture of this source yet")
        key: Key = (sources[int(place)], query.get("drawn") == "1")
        if path == "/stream.mjpg":
            kind = f"multipart/x-mixed-replace; boundary={BOUNDARY}"
            return Reply(200, kind, self._pictures.stream(key))
        return Reply(200, "image/jpeg", self._pictures.snapshot(key))

    def _read_sensors(self) -> Telemetry | None:
        """One reading; None where that fails, which costs the page these figures alone."""
        try:
            return self._read()
        except Exception as fault:
            reason = describe(as_error(fault, "the dashboard's sensors"))
            self._warnings.warn(reason, reason)
            return None

    def _make_state(self) -> bytes:
        """All that the page shows, as JSON."""
        summary, newest = self._summarize(), self._pictures.newest()
        state: dict[str, Any] = {
            "summary": to_json(summary),
            "counts": to_json(summary.counts),
            "answers": {source: prediction_record(each) for source, each in newest.items()},
            "bins": self._bins.counts(),
            "scale": {"first_decade": FIRST_DECADE, "per_decade": BINS_PER_DECADE},
            "telemetry": to_json(self._reading.get()),
        }
        return json.dumps(state).encode()


class StageBins:
    """How often which latency came in the last half minute to minute, by stage."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._now, self._before = _no_counts(), _no_counts()
        self._turned_s = clock()

    def add(self, stamps: Stamps) -> None:
        """Count a frame's latency and its parts."""
        with self._lock:
            if self._clock() - self._turned_s >= WINDOW_S:
                self._now, self._before = _no_counts(), self._now
                self._turned_s = self._clock()
            for stage, value in {"latency": stamps.latency_ms, **stamps.stage_ms()}.items():
                self._now[stage][bin_of(value)] += 1

    def counts(self) -> dict[str, list[int]]:
        """Return the counts of each bin, by stage and for the whole ``latency``."""
        with self._lock:
            return {
                stage: [sum(pair) for pair in zip(counts, self._before[stage], strict=True)]
                for stage, counts in self._now.items()
            }


def bin_of(value_ms: float) -> int:
    """Return the bin of a latency; what lies outside goes into the first or the last."""
    if value_ms <= 0:
        return 0
    place = math.floor((math.log10(value_ms) - FIRST_DECADE) * BINS_PER_DECADE)
    return min(max(place, 0), NUM_BINS - 1)


class _Cached(Generic[T]):
    """What `make` returns, made anew when it is older than `lifetime_s`; for several threads."""

    def __init__(self, make: Callable[[], T], lifetime_s: float) -> None:
        self._make, self._lifetime_s = make, lifetime_s
        self._lock = threading.Lock()
        self._made: tuple[float, T] | None = None

    def get(self) -> T:
        with self._lock:
            now_s = time.monotonic()
            if self._made is None or now_s - self._made[0] >= self._lifetime_s:
                self._made = now_s, self._make()
            return self._made[1]


def _no_counts() -> dict[str, list[int]]:
    return {stage: [0] * NUM_BINS for stage in ("latency", *STAGES)}


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _load(name: str) -> bytes:
    folder = importlib.resources.files("edge_vit.camera.sinks.web")
    return (folder / "page" / name).read_bytes()
