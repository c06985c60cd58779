import dataclasses
import http.client
import itertools
import json
import socket
import threading
import time
from io import BytesIO

import device_trees
import numpy as np
import pytest
from made_predictions import make_prediction, make_summary
from PIL import Image

from edge_vit.camera.sink import SinkRunner
from edge_vit.camera.sinks.web.dashboard import DashboardSink
from edge_vit.device import TelemetryReader
from edge_vit.errors import SpecError
from edge_vit.tasks.detection import Box, DetectionPrediction

PATIENCE_S = 120.0
TOKEN = "correct-horse-battery"


@pytest.fixture
def dashboard():
    """Return a function that opens a dashboard on a free port; all are closed at the end."""
    sinks = []

    def start(**settings):
        sink = DashboardSink(port=0, **settings)
        sink.open(make_summary)
        sinks.append(sink)
        return sink

    yield start
    for sink in sinks:
        sink.close()


def port_of(sink):
    return int(sink.name.rstrip("/").rpartition(":")[2])


def get(sink, path="/", host="127.0.0.1", **headers):
    connection = http.client.HTTPConnection(host, port_of(sink), timeout=PATIENCE_S)
    connection.request("GET", path, headers={n.replace("_", "-"): v for n, v in headers.items()})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


def state(sink):
    response, body = get(sink, "/state")
    assert response.status == 200
    return json.loads(body)


def test_the_page_comes_from_here_alone(dashboard):
    sink = dashboard()
    for path, kind in (
        ("/", "text/html"),
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
        ("/icon.svg", "image/svg+xml"),
    ):
        response, body = get(sink, path)
        assert response.status == 200
        assert response.headers["Content-Type"].startswith(kind)
        outside = body.replace(b"http://www.w3.org/2000/svg", b"")
        assert b"http:" not in outside
        assert b"https:" not in outside
        assert b"innerHTML" not in body


def test_the_page_needs_nothing_that_its_own_policy_forbids(dashboard):
    _, page = get(dashboard(), "/")
    assert b"<script src=" in page
    assert b"style=" not in page
    assert b"<style" not in page
    assert b"onclick" not in page


@pytest.mark.parametrize(
    "path",
    ["/page/", "/../pyproject.toml", "/etc/passwd", "/page.css/..", "/%2e%2e/", "/index.html"],
)
def test_there_are_no_folders_to_look_into(dashboard, path):
    assert get(dashboard(), path)[0].status == 404


def test_says_how_the_loop_stands(dashboard, tmp_path):
    sink = dashboard(read=TelemetryReader(device_trees.orin_nano(tmp_path)).read)
    sink.write(make_prediction(7))
    found = state(sink)
    assert found["summary"]["model"] == "tiny"
    assert found["counts"]["dropped"] == 15
    assert found["answers"]["test://"]["number"] == 7
    assert found["telemetry"]["power_w"] == pytest.approx(4.984 * 1.856)
    assert max(found["telemetry"]["temperatures_c"].values()) == 51.187
    assert sum(found["bins"]["latency"]) == 1
    assert found["summary"]["recent_fps"] == 30.5


def test_a_machine_without_sensors_has_a_page_too(dashboard):
    found = state(dashboard())
    assert found["telemetry"] is None
    assert found["answers"] == {}


def test_sensors_that_fail_cost_their_own_figures_alone(dashboard, caplog):
    def read():
        raise OSError("the sensor is busy")

    sink = dashboard(read=read)
    sink.write(make_prediction(7))
    found = state(sink)
    assert found["telemetry"] is None
    assert found["answers"]["test://"]["number"] == 7
    response, body = get(sink, "/metrics")
    assert response.status == 200
    assert b"edgevit_uptime_seconds" in body
    told = "the dashboard's sensors failed: OSError: the sensor is busy"
    assert [text for text in caplog.messages if "sensor" in text] == [told]


def test_everybody_gets_the_same_figures_for_a_moment(dashboard, monkeypatch):
    calls = []
    monkeypatch.setattr("edge_vit.camera.sinks.web.dashboard.STATE_S", 10**6)
    sink = DashboardSink(port=0)
    sink.open(lambda: calls.append(1) or make_summary())
    for _ in range(20):
        state(sink)
    sink.close()
    assert len(calls) == 1


def test_metrics_are_there_for_prometheus(dashboard):
    response, body = get(dashboard(), "/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b'edgevit_info{model="tiny",backend="fake",precision="int8"} 1.0' in body


def test_boxes_are_in_the_picture_itself(dashboard):
    sink = dashboard()
    plain = make_prediction(0, source="a", size=(64, 64))
    box = Box(0, "cat", 0.9, (4.0, 20.0, 60.0, 60.0))
    sink.write(dataclasses.replace(plain, raw=DetectionPrediction("a", (box,))))
    sink.write(dataclasses.replace(plain, frame=dataclasses.replace(plain.frame, source="b")))
    with_box, without = (
        np.asarray(Image.open(BytesIO(get(sink, f"/frame.jpg?source={place}")[1])), int)
        for place in (0, 1)
    )
    assert np.abs(with_box - without)[58:62, 10:50].max(axis=2).mean() > 40
    assert np.abs(with_box - without)[35:45, 20:40].max() < 40


def test_a_picture_of_each_source_with_and_without_its_answer(dashboard):
    sink = dashboard()
    assert get(sink, "/frame.jpg")[0].status == 404
    sink.write(make_prediction(0, source="a"))
    sink.write(make_prediction(1, source="b", size=(32, 32)))
    sizes = []
    for path in ("/frame.jpg", "/frame.jpg?source=1", "/frame.jpg?drawn=1"):
        response, body = get(sink, path)
        assert response.headers["Content-Type"] == "image/jpeg"
        sizes.append(Image.open(BytesIO(body)).size)
    assert sizes == [(64, 48), (32, 32), (64, 48)]
    assert get(sink, "/frame.jpg")[1] != get(sink, "/frame.jpg?drawn=1")[1]
    for wrong in ("2", "-1", "x", "9" * 400):
        assert get(sink, f"/frame.jpg?source={wrong}")[0].status == 404


class Viewer:
    """Somebody who watches the stream."""

    def __init__(self, sink, path="/stream.mjpg", reads=True):
        self.socket = socket.create_connection(("127.0.0.1", port_of(sink)), timeout=PATIENCE_S)
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        self.data = b""
        if reads:
            self.until(b"\r\n\r\n")

    def until(self, mark):
        while mark not in self.data:
            part = self.socket.recv(65536)
            if not part:
                raise EOFError
            self.data += part

    def picture(self):
        """Return the next picture."""
        self.until(b"Content-Length: ")
        _, _, rest = self.data.partition(b"Content-Length: ")
        self.data = rest
        self.until(b"\r\n\r\n")
        length, _, body = self.data.partition(b"\r\n\r\n")
        self.data = body
        while len(self.data) < int(length) + 2:
            self.data += self.socket.recv(65536)
        jpeg, self.data = self.data[: int(length)], self.data[int(length) + 2 :]
        return Image.open(BytesIO(jpeg)).convert("L").getpixel((32, 24))


def shades(sink, viewer, *numbers):
    """Offer answers until each was seen; return the grey of each picture."""
    seen = []
    for number in numbers:
        done = threading.Event()

        def offer(number=number, done=done):
            while not done.wait(0.02):
                sink.write(make_prediction(number))

        thread = threading.Thread(target=offer)
        thread.start()
        try:
            while abs((shade := viewer.picture()) - (40 + number)) > 2:
                continue
        finally:
            done.set()
            thread.join()
        seen.append(shade)
    return seen


def test_the_stream_moves(dashboard):
    sink = dashboard()
    sink.write(make_prediction(0))
    viewer = Viewer(sink)
    assert b"multipart/x-mixed-replace; boundary=edge-vit-frame" in viewer.data
    viewer.data = viewer.data.partition(b"\r\n\r\n")[2]
    viewer.until(b"--edge-vit-frame")
    assert shades(sink, viewer, 0, 50, 100) == pytest.approx([40, 90, 140], abs=2)
    viewer.socket.close()


def test_a_picture_that_no_other_follows_is_sent_twice(dashboard, monkeypatch):
    """Browsers show a part when the next one begins."""
    monkeypatch.setattr("edge_vit.camera.sinks.web.pictures._WAIT_S", 3600)
    sink, parts = dashboard(), []
    sink.write(make_prediction(0))
    (name,) = sink._pictures.newest()
    stream = sink._pictures.stream((name, False))
    sink._pictures._jpegs[name, False] = (3, b"of an earlier viewer")
    thread = threading.Thread(target=lambda: parts.extend(itertools.islice(stream, 2)), daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert len(parts) == 2
    assert parts[0] == parts[1]


def test_no_picture_is_made_while_nobody_watches(dashboard, monkeypatch):
    made = []
    monkeypatch.setattr(
        "edge_vit.camera.sinks.web.pictures._make",
        lambda prediction, is_drawn: made.append(1) or b"",
    )
    sink = dashboard()
    for number in range(50):
        sink.write(make_prediction(number))
    assert made == []


def test_closing_ends_the_streams(dashboard):
    sink = dashboard()
    sink.write(make_prediction(0))
    viewer = Viewer(sink)
    sink.close()
    with pytest.raises((EOFError, ConnectionError)):
        while True:
            viewer.data = b""
            viewer.until(b"never")
    viewer.socket.close()


def test_a_viewer_who_left_is_noticed(dashboard, monkeypatch):
    monkeypatch.setattr("edge_vit.camera.sinks.web.pictures._WAIT_S", 0.01)
    sink = dashboard()
    sink.write(make_prediction(0))
    viewer = Viewer(sink)
    viewer.until(b"--edge-vit-frame")
    assert any(sink._pictures._watchers.values())
    viewer.socket.close()
    deadline = time.monotonic() + PATIENCE_S
    while any(sink._pictures._watchers.values()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_fifty_who_read_nothing_hold_up_neither_sink_nor_others(dashboard):
    sink = dashboard(send_s=3600)
    big = make_prediction(0, size=(700, 900))
    big.frame.pixels[:] = np.random.default_rng(0).integers(0, 256, (700, 900, 3))
    sink.write(big)
    slow = [Viewer(sink, reads=False) for _ in range(50)]
    deadline = time.monotonic() + PATIENCE_S
    while sum(sink._pictures._watchers.values()) < 50:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    runner = SinkRunner(sink)
    for number in range(200):
        runner.offer(make_prediction(number, size=(700, 900)))
    deadline = time.monotonic() + PATIENCE_S  # far less than a reader may take
    while runner.status().written + runner.status().dropped < 200:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert runner.status().failed == 0
    assert get(sink, "/")[0].status == 200
    for viewer in slow:
        viewer.socket.close()
    assert runner.join(time.monotonic_ns() + round(PATIENCE_S * 1e9))


def test_without_the_token_there_is_nothing(dashboard):
    sink = dashboard(token=TOKEN)
    sink.write(make_prediction(0))
    for path in ("/", "/state", "/metrics", "/frame.jpg", "/stream.mjpg", "/page.js", "/nowhere"):
        response, body = get(sink, path)
        assert response.status == 401
        assert b"token" in body
    assert get(sink, "/state", Authorization=f"Bearer {TOKEN}")[0].status == 200


def test_the_token_in_the_address_is_swapped_for_a_cookie(dashboard):
    sink = dashboard(token=TOKEN)
    response, body = get(sink, f"/?token={TOKEN}")
    assert (response.status, response.headers["Location"]) == (303, "/")
    assert TOKEN.encode() not in body
    cookie = response.headers["Set-Cookie"].partition(";")[0]
    assert get(sink, "/state", Cookie=cookie)[0].status == 200


def test_players_show_the_token_in_the_address(dashboard):
    sink = dashboard(token=TOKEN)
    sink.write(make_prediction(0))
    response, body = get(sink, f"/frame.jpg?token={TOKEN}")
    assert (response.status, body[:2]) == (200, b"\xff\xd8")
    assert get(sink, f"//evil.example/?token={TOKEN}")[0].headers["Location"] in (None, "/")


def own_address():
    """Return an address of this machine that is not loopback; skip where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no address but loopback")
        address = probe.getsockname()[0]
    if address.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    return address


def test_a_request_from_another_address_needs_the_token(dashboard):
    address = own_address()
    sink = dashboard(host="0.0.0.0", token=TOKEN)
    assert get(sink, "/state", host=address)[0].status == 401
    assert get(sink, "/state", host=address, Authorization=f"Bearer {TOKEN}")[0].status == 200


def test_on_loopback_nobody_else_can_connect(dashboard):
    address, sink = own_address(), dashboard()
    with socket.socket() as client:
        client.settimeout(5)
        assert client.connect_ex((address, port_of(sink))) != 0


def test_says_that_the_port_is_taken(dashboard):
    taken = port_of(dashboard())
    with pytest.raises(SpecError, match=f"cannot listen on 127.0.0.1:{taken}: Address already"):
        DashboardSink(port=taken).open(make_summary)


def test_closing_what_was_never_opened_is_fine():
    DashboardSink().close()


def test_state_is_made_again_after_a_fault(caplog):
    faults = iter([RuntimeError("dictionary changed size during iteration")])

    def summarize():
        for fault in faults:
            raise fault
        return make_summary()

    sink = DashboardSink(port=0)
    sink.open(summarize)
    try:
        assert get(sink, "/state")[0].status == 500
        assert state(sink)["summary"]["model"] == "tiny"
    finally:
        sink.close()
    assert [text for text in caplog.messages if "dictionary changed size" in text]
