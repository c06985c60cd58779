import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from made_predictions import make_prediction, make_summary

from edge_vit.camera.sinks.webhook import WebhookSink
from edge_vit.errors import BackendError, SpecError

CAT, DOG = (4.0, 0.0, 0.0, 0.0), (0.0, 4.0, 0.0, 0.0)


class Receiver(BaseHTTPRequestHandler):
    """Keeps what is posted, and answers with the server's `status`."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posts.append((self.path, dict(self.headers), json.loads(body)))
        self.send_response(self.server.status)
        self.send_header("Location", f"{self.server.address}/elsewhere")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, format, *args):
        """Say nothing."""


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.posts, server.status = [], 204
    server.address = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def seen(server):
    return [post["number"] for _, _, post in server.posts]


def test_posts_when_the_answer_changes(server):
    sink = WebhookSink(f"http://{server.address}/hook?key=1")
    sink.open(make_summary)
    for number, logits in enumerate((CAT, CAT, DOG, DOG, CAT)):
        sink.write(make_prediction(number, logits))
    sink.close()
    assert seen(server) == [0, 2, 4]
    path, headers, _ = server.posts[0]
    assert (path, headers["Content-Type"]) == ("/hook?key=1", "application/json")


def test_an_answer_without_confidence_is_no_change(server):
    sink = WebhookSink(f"http://{server.address}/")
    sink.write(make_prediction(0, CAT))
    sink.write(make_prediction(1, DOG, is_confident=False))
    sink.write(make_prediction(2, CAT))
    assert seen(server) == [0]


def test_posts_every_answer_so_often(server):
    now = iter((0.0, 0.4, 1.0, 1.9, 2.0))
    sink = WebhookSink(f"http://{server.address}/", "every", 1.0, clock=lambda: next(now))
    for number in range(5):
        sink.write(make_prediction(number))
    assert seen(server) == [0, 2, 4]


def test_sources_change_apart(server):
    sink = WebhookSink(f"http://{server.address}/")
    for number, source in enumerate("abab"):
        sink.write(make_prediction(number, CAT, source=source))
    assert seen(server) == [0, 1]


def test_a_post_that_failed_is_tried_with_the_next_answer(server):
    sink = WebhookSink(f"http://{server.address}/")
    server.status = 503
    with pytest.raises(BackendError, match="answered with 503 Service Unavailable"):
        sink.write(make_prediction(0, CAT))
    server.status = 200
    sink.write(make_prediction(1, CAT))
    sink.write(make_prediction(2, CAT))
    assert seen(server) == [0, 1]


def test_does_not_follow_where_the_server_points(server):
    server.status = 302
    with pytest.raises(BackendError, match="answered with 302"):
        WebhookSink(f"http://{server.address}/hook").write(make_prediction(0))
    assert [path for path, _, _ in server.posts] == ["/hook"]


def test_user_and_password_go_into_the_header_and_nowhere_else(server):
    sink = WebhookSink(f"http://me:se%3Acret@{server.address}/hook")
    sink.write(make_prediction(0))
    assert server.posts[0][1]["Authorization"] == "Basic bWU6c2U6Y3JldA=="
    assert sink.name == f"http://{server.address}/hook"


def test_says_when_nobody_is_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(BackendError, match="refused"):
        WebhookSink(f"http://u:secret@127.0.0.1:{port}/").write(make_prediction(0))


def test_a_server_that_never_answers_is_left():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        sink = WebhookSink(f"http://127.0.0.1:{port}/", timeout_s=0.2)
        with pytest.raises(BackendError, match="timed out"):
            sink.write(make_prediction(0))


def test_a_server_that_talks_nonsense_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as odd:

        def prediction():
            connection, _ = odd.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"SSH-2.0-hello\r\n\r\n")

        thread = threading.Thread(target=prediction)
        thread.start()
        with pytest.raises(BackendError) as refused:
            WebhookSink(f"http://127.0.0.1:{odd.getsockname()[1]}/").write(make_prediction(0))
        thread.join()
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("url", ["ftp://host/", "http://", "file:///etc/passwd", "host/path"])
def test_refuses_what_is_no_address_of_a_server(url):
    with pytest.raises(SpecError, match="expected http"):
        WebhookSink(url)
