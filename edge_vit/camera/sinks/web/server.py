"""A small HTTP server for strangers: short requests, few connections, strict headers.

One request per connection. What is slow or large is cut off; a slow reader holds its own thread and
nothing else.
"""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from typing import Any

from edge_vit.camera.rate_limit import RateLimitedWarnings
from edge_vit.camera.threads import as_error, start_thread
from edge_vit.camera.values import describe
from edge_vit.errors import EdgeVitError

_LOG = logging.getLogger(__name__)

_POLL_S = 0.05
MAX_HEAD_BYTES = 8192
MAX_CONNECTIONS = 64

STRICT_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; "
    "script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        path: without the query.
        query: the arguments; of equal names the last.
        headers: by lower-case name; of equal names the last.
    """

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Reply:
    """A status, a content type, and the body: all of it, or a generator of parts."""

    status: int
    content_type: str
    body: bytes | Generator[bytes, None, None]
    headers: Mapping[str, str] = field(default_factory=dict)


def text_reply(status: int, text: str, headers: Mapping[str, str] | None = None) -> Reply:
    """Return a line of plain text."""
    return Reply(status, "text/plain; charset=utf-8", f"{text}\n".encode(), headers or {})


Respond = Callable[[Request], Reply]


@dataclass(frozen=True)
class Timeouts:
    """Seconds that a client may take: for the whole head of its request, to take what was sent."""

    head_s: float = 5.0
    send_s: float = 10.0


TIMEOUTS = Timeouts()


class StrictServer(ThreadingMixIn, HTTPServer):
    """Serves GET and HEAD by `respond`, each request in its own thread."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 32

    def __init__(
        self, host: str, port: int, respond: Respond, timeouts: Timeouts = TIMEOUTS
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.respond, self.timeouts = respond, timeouts
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__((host, port), _Handler)
        self._thread: threading.Thread | None = None
        self._is_stopping = False
        self._warnings = RateLimitedWarnings(_LOG)

    def start(self) -> None:
        """Serve from now on."""
        self._thread = start_thread("dashboard", self._serve, self._warn)

    def stop(self) -> None:
        """Serve no more, and cut off who is still connected."""
        self._is_stopping = True
        if self._thread is not None and self._thread.is_alive():
            self.shutdown()
        self.server_close()
        with self._lock:
            still_open = list(self._open)
        for connection in still_open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def server_bind(self) -> None:
        """Bind without asking the network for this machine's name, which may take long."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection its thread, or turn it away where there are too many."""
        if not self._slots.acquire(blocking=False):
            with contextlib.suppress(OSError):
                request.settimeout(0.1)
                request.sendall(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\n")
            self.shutdown_request(request)
            return
        with self._lock:
            self._open.add(request)
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._release(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve the connection, and free its place."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._release(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong; a client that left is not an error."""
        fault = sys.exc_info()[1]
        if fault is not None and not isinstance(fault, OSError):
            self._warn(as_error(fault, "a request to the dashboard"))

    def _serve(self) -> None:
        """Serve until it is stopped, after a fault again."""
        while not self._is_stopping:
            try:
                self.serve_forever(_POLL_S)
            except Exception as fault:
                self._warn(as_error(fault, "the dashboard"))
                time.sleep(_POLL_S)

    def _warn(self, error: EdgeVitError) -> None:
        self._warnings.warn(describe(error), describe(error))

    def _release(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        self._slots.release()


class _Handler(BaseHTTPRequestHandler):
    """One connection, one request."""

    protocol_version = default_request_version = "HTTP/1.1"
    server: StrictServer

    def handle(self) -> None:
        """Read the head within its time and size, then answer it."""
        try:
            head = self._read_head()
        except TimeoutError:
            return
        self.connection.settimeout(self.server.timeouts.send_s)
        self.close_connection = True
        if head is None:
            self.requestline, self.command, self.request_version = "", "GET", "HTTP/1.1"
            self._send(text_reply(431, "this request is too long"))
            return
        self.rfile = io.BufferedReader(io.BytesIO(head))
        self.handle_one_request()
        self.close_connection = True

    def do_GET(self) -> None:
        """Answer."""
        if "transfer-encoding" in self.headers or self.headers.get("content-length", "0") != "0":
            self._send(text_reply(413, "a request has no body here"))
            return
        try:
            parts = urllib.parse.urlsplit(self.path)
            query = dict(urllib.parse.parse_qsl(parts.query, max_num_fields=16))
        except ValueError:
            self._send(text_reply(400, "this address cannot be read"))
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            reply = self.server.respond(Request(parts.path, query, headers))
        except Exception:
            self._send(text_reply(500, "this failed here; the log says why"))
            raise
        self._send(reply)

    do_HEAD = do_GET  # noqa: N815

    def version_string(self) -> str:
        """Return the header ``Server``, without versions."""
        return "edge-vit"

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what the standard library's parser could not take."""
        self._send(text_reply(code, message or self.responses.get(code, ("refused",))[0]))

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: an address may hold a token."""

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in {**STRICT_HEADERS, **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", reply.content_type)
        if isinstance(reply.body, bytes):
            self.send_header("Content-Length", str(len(reply.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        if isinstance(reply.body, bytes):
            self.wfile.write(reply.body)
            return
        with contextlib.closing(reply.body) as parts:
            for part in parts:
                self.wfile.write(part)

    def _read_head(self) -> bytes | None:
        """The request up to its empty line, None where it is too long; TimeoutError if too late."""
        deadline = time.monotonic() + self.server.timeouts.head_s
        head = b""
        while b"\r\n\r\n" not in head:
            if len(head) > MAX_HEAD_BYTES:
                return None
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.connection.settimeout(left)
            part = self.connection.recv(4096)
            if not part:
                raise TimeoutError
            head += part
        return head if head.index(b"\r\n\r\n") <= MAX_HEAD_BYTES else None
