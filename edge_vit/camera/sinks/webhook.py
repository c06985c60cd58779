"""Predictions posted as JSON to an address on the web: when they change, or every so often."""

from __future__ import annotations

import base64
import http.client
import ssl
import time
import urllib.parse
from collections.abc import Callable

from edge_vit.camera.sink import Sink
from edge_vit.camera.sinks.json_lines import json_line
from edge_vit.camera.sources.address import hide_password, split_url
from edge_vit.camera.threads import describe
from edge_vit.camera.values import CameraPrediction
from edge_vit.errors import BackendError, SpecError

TIMEOUT_S = 5.0


class WebhookSink(Sink):
    """Posts predictions to a `url`, which may hold ``user:password@``; redirects are not followed.

    On ``change`` it posts when a source's prediction, a confident one, is another than the last
    that arrived: its first class, the labels that are on, or the side of the threshold; on
    ``every`` any. Posts of one source are `interval_s` apart at least, and the server may take
    `timeout_s` for each step.
    """

    def __init__(
        self,
        url: str,
        on: str = "change",
        interval_s: float = 0.0,
        timeout_s: float = TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        parts = split_url(url)
        if parts is None or parts.scheme not in ("http", "https"):
            raise SpecError(
                f"webhook: got {hide_password(url)}, expected http://HOST[:PORT]/PATH or https://"
            )
        self._parts, self._on, self._interval_s = parts, on, interval_s
        self._timeout_s, self._clock = timeout_s, clock
        self._sent: dict[str, tuple[object, float]] = {}  # source -> last key that arrived, when
        self.name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def write(self, prediction: CameraPrediction) -> None:
        """Post `prediction` if it is due."""
        source, now_s, key = prediction.frame.source, self._clock(), prediction.shown.key
        last_key, last_s = self._sent.get(source, (object(), float("-inf")))
        is_news = prediction.is_confident and key != last_key
        if (self._on == "change" and not is_news) or now_s - last_s < self._interval_s:
            return
        self._post(json_line(prediction))
        self._sent[source] = (key, now_s)

    def _post(self, body: bytes) -> None:
        parts = self._parts
        headers = {"Content-Type": "application/json", "User-Agent": "edge-vit"}
        if parts.username is not None:
            pair = f"{parts.username}:{parts.password or ''}"
            encoded = base64.b64encode(urllib.parse.unquote(pair).encode()).decode()
            headers["Authorization"] = f"Basic {encoded}"
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection = self._connect()
        try:
            connection.request("POST", target, body, headers)
            response = connection.getresponse()
            if not 200 <= response.status < 300:
                raise BackendError(f"answered with {response.status} {response.reason}")
        except (OSError, http.client.HTTPException) as error:
            raise BackendError(describe(error)) from None
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=context)
