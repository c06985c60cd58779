"""A small HTTP server that strangers may reach: short requests, few connections, strict headers.

One request per connection. What is slow or large is cut off; a slow reader holds its own thread and
nothing else.
"""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import socketserver
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from edge_vit.camera.threads import RateLimitedWarnings, as_error, describe, start_thread
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
    """A path, its query and the headers by lower-case name; of equal names the last counts."""

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


class StrictServer(ThreadingHTTPServer):
    """Serves GET and HEAD by `respond`, each request in its own thread.

    A client has `head_s` seconds to send the head of its request, and `send_s` to take what is
    sent to it at once.
    """

    allow_reuse_port = False
    block_on_close = False
    request_queue_size = 32

    def __init__(
        self,
        host: str,
        port: int,
        respond: Callable[[Request], Reply],
        *,
        head_s: float = 5.0,
        send_s: float = 10.0,
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.respond, self.head_s, self.send_s = respond, head_s, send_s
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._warnings = RateLimitedWarnings(_LOG)
        self._is_stopping = False
        super().__init__((host, port), _Handler)

    def start(self) -> None:
        """Serve from now on."""
        start_thread("dashboard", self._serve, self._warn)

    def stop(self) -> None:
        """Serve no more, and close the connections that are open."""
        self._is_stopping = True
        self.shutdown()
        self.server_close()
        with self._lock:
            still_open = list(self._open)
        for connection in still_open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        """Serve until `stop`, after a fault too, such as one of too many open files."""
        while not self._is_stopping:
            try:
                self.serve_forever(_POLL_S)
            except Exception as fault:
                self._warn(as_error(fault, "the dashboard"))
                time.sleep(_POLL_S)

    def server_bind(self) -> None:
        """Bind without a look-up of this machine's name, which may take long."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection its thread, or refuse it where there are too many."""
        with self._lock:
            is_full = len(self._open) >= MAX_CONNECTIONS
            if not is_full:
                self._open.add(request)
        if not is_full:
            super().process_request(request, client_address)
            return
        with contextlib.suppress(OSError):
            request.settimeout(0.1)
            request.sendall(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\n")
        self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        """Close the connection, and free its place."""
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong; a client that left is not an error."""
        fault = sys.exc_info()[1]
        if fault is not None and not isinstance(fault, OSError):
            self._warn(as_error(fault, "a request to the dashboard"))

    def _warn(self, error: EdgeVitError) -> None:
        self._warnings.warn(describe(error), describe(error))


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
        self.connection.settimeout(self.server.send_s)
        if len(head) > MAX_HEAD_BYTES:
            self.requestline, self.command, self.request_version = "", "GET", "HTTP/1.1"
            self._send(text_reply(431, "this request is too long"))
            return
        self.rfile = io.BufferedReader(io.BytesIO(head))
        self.handle_one_request()

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
        is_whole = isinstance(reply.body, bytes)
        self.send_response(reply.status)
        for name, value in {**STRICT_HEADERS, **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", reply.content_type)
        if is_whole:
            self.send_header("Content-Length", str(len(reply.body)))  # type: ignore[arg-type]
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

    def _read_head(self) -> bytes:
        """Return the request up to its empty line, or what came of one that is too long."""
        deadline = time.monotonic() + self.server.head_s
        head = b""
        while b"\r\n\r\n" not in head and len(head) <= MAX_HEAD_BYTES:
            left = deadline - time.monotonic()
            self.connection.settimeout(max(left, 1e-3))
            part = self.connection.recv(4096)
            if not part or left <= 0:
                raise TimeoutError
            head += part
        return head
