import contextlib
import http.client
import socket
import threading
import time

import pytest

from edge_vit.camera.sinks.web import server as module
from edge_vit.camera.sinks.web.server import (
    MAX_HEAD_BYTES,
    STRICT_HEADERS,
    Reply,
    StrictServer,
    text_reply,
)

PATIENCE_S = 120.0


@pytest.fixture
def serve():
    """Return a function that starts a server; all are stopped at the end."""
    servers = []

    def start(respond=lambda request: text_reply(200, request.path), **timeouts):
        server = StrictServer("127.0.0.1", 0, respond, **timeouts)
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


def send(server, data, retry=PATIENCE_S):
    """Send raw bytes; return all that comes back."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=retry) as client:
        with contextlib.suppress(OSError):  # refused before it has taken everything
            client.sendall(data)
        return receive(client)


def receive(client):
    reply = b""
    try:
        while part := client.recv(65536):
            reply += part
    except ConnectionResetError:
        pass
    return reply


def get(server, path="/", method="GET", headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=PATIENCE_S)
    connection.request(method, path, headers=headers or {})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


def test_every_reply_has_the_strict_headers(serve):
    server = serve()
    for path, headers in (("/", {}), ("/x", {"Content-Length": "5"}), ("/" + "x" * 9000, {})):
        response, _ = get(server, path, headers=headers)
        assert {name: response.headers[name] for name in STRICT_HEADERS} == STRICT_HEADERS
        assert response.headers["Server"] == "edge-vit"
        assert response.headers["Connection"] == "close"


def test_the_page_may_load_nothing_from_elsewhere():
    policy = STRICT_HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "frame-ancestors 'none'" in policy


def test_a_request_is_handed_on_as_it_was_asked(serve):
    seen = []
    server = serve(lambda request: seen.append(request) or text_reply(200, "ok"))
    get(server, "/a%20b?x=1&x=2&y=%C3%BC", headers={"X-Thing": "yes"})
    assert seen[0].path == "/a%20b"
    assert seen[0].query == {"x": "2", "y": "ü"}
    assert seen[0].headers["x-thing"] == "yes"


def test_head_sends_no_body(serve):
    response, body = get(serve(), method="HEAD")
    assert (response.status, body) == (200, b"")
    assert response.headers["Content-Length"] == "2"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "FOO"])
def test_only_reading_is_possible(serve, method):
    assert get(serve(), method=method)[0].status == 501


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\nContent-Length: 10\r\n\r\n", b"413"),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"413"),
        (b"GET /?" + b"&".join(b"a=1" for _ in range(40)) + b" HTTP/1.1\r\n\r\n", b"400"),
        (b"GET http://[ HTTP/1.1\r\n\r\n", b"400"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/9.9\r\n\r\n", b"505"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", b"431"),
        (b"GET /" + b"x" * (MAX_HEAD_BYTES + 10) + b" HTTP/1.1\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", b"431"),
    ],
)
def test_refuses_what_is_too_large_or_no_request(serve, head, status):
    assert send(serve(), head).split()[1] == status


def test_a_head_without_end_is_cut_off_by_its_size_long_before_its_time(serve):
    server = serve(head_s=3600)
    client = socket.create_connection(("127.0.0.1", server.server_port), timeout=PATIENCE_S)
    with client, pytest.raises(OSError):  # reset, or nobody takes it
        for _ in range(10_000):
            client.sendall(b"x" * 4096)
    deadline = time.monotonic() + PATIENCE_S
    while server._open:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_small_refusal_arrives(serve):
    reply = send(serve(), b"GET / HTTP/1.1\r\nContent-Length: 10\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 413 ")


def test_one_request_per_connection(serve):
    reply = send(serve(), b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n")
    assert reply.count(b"HTTP/1.1 200") == 1


def test_who_sends_byte_by_byte_is_cut_off(serve):
    server = serve(head_s=0.5)
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=PATIENCE_S) as slow:
        start, is_cut = time.monotonic(), False
        while not is_cut and time.monotonic() - start < PATIENCE_S:
            try:
                slow.sendall(b"G")
                slow.settimeout(0.05)
                is_cut = slow.recv(1) == b""
            except TimeoutError:
                continue  # still connected: one more byte
            except OSError:
                is_cut = True
        assert is_cut
        assert time.monotonic() - start >= 0.4


def test_who_says_nothing_is_cut_off(serve):
    assert send(serve(head_s=0.2), b"") == b""


def test_who_reads_nothing_is_cut_off(serve):
    ended = threading.Event()

    def endless():
        try:
            while True:
                yield b"x" * 65536
        finally:
            ended.set()

    server = serve(lambda request: Reply(200, "text/plain", endless()), send_s=0.2)
    with socket.create_connection(("127.0.0.1", server.server_port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert ended.wait(PATIENCE_S)


def test_turns_away_who_is_one_too_many_and_takes_the_next(serve, monkeypatch):
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 4)
    server = serve(head_s=60)
    idle = [socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(4)]
    deadline = time.monotonic() + PATIENCE_S
    while len(server._open) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert send(server, b"").startswith(b"HTTP/1.1 503 ")
    for client in idle:
        client.close()
    reply = b""
    while reply != b"/\n":  # until it has noticed that they left
        assert time.monotonic() < deadline
        with contextlib.suppress(OSError, http.client.HTTPException):
            reply = get(server)[1]


def test_stopping_cuts_off_who_is_connected(serve):
    server = serve(head_s=60)
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=PATIENCE_S) as client:
        deadline = time.monotonic() + PATIENCE_S
        while not server._open:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        server.stop()
        assert receive(client) == b""


def test_listens_on_ipv6_too():
    try:
        server = StrictServer("::1", 0, lambda request: text_reply(200, "six"))
    except OSError:
        pytest.skip("this machine has no IPv6")
    server.start()
    connection = http.client.HTTPConnection("::1", server.server_port, timeout=PATIENCE_S)
    connection.request("GET", "/")
    assert connection.getresponse().read() == b"six\n"
    connection.close()
    server.stop()


def test_nothing_of_a_request_is_printed(serve, capfd):
    get(serve(), "/?token=secret")
    assert capfd.readouterr() == ("", "")


def test_a_reply_that_fails_is_one_and_is_logged(serve, caplog):
    def reply(request):
        if request.path == "/broken":
            raise RuntimeError("dictionary changed size during iteration")
        return text_reply(200, "well")

    server = serve(reply)
    for _ in range(3):
        response, body = get(server, "/broken")
        assert (response.status, body) == (500, b"this failed here; the log says why\n")
    assert get(server)[0].status == 200
    assert len([m for m in caplog.messages if "dictionary changed size" in m]) == 1


def test_serving_goes_on_after_a_fault(serve, monkeypatch, caplog):
    faults = iter([RuntimeError("selector"), OSError("out of descriptors")])
    serve_forever = StrictServer.serve_forever

    def faulty(self, *arguments):
        for fault in faults:
            raise fault
        serve_forever(self, *arguments)

    monkeypatch.setattr(StrictServer, "serve_forever", faulty)
    assert get(serve())[0].status == 200
    assert "the dashboard failed: RuntimeError: selector" in caplog.messages
