"""Against a real mosquitto on loopback."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from made_predictions import make_prediction, make_summary

from edge_vit.camera.sinks.mqtt import MqttSink
from edge_vit.errors import BackendError, SpecError

mqtt = pytest.importorskip("paho.mqtt.client")
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
TESTS = Path(__file__).parents[2]
needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
PATIENCE_S = 60.0


def wait_until(holds, what="it"):
    """Wait until `holds()`; a busy machine takes long."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.01)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Broker:
    """A mosquitto process."""

    def __init__(self, folder, extra=""):
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\n{extra or 'allow_anonymous true'}\n"
            "persistence false\nlog_type none\n"
        )
        self._process = None

    def start(self):
        self._process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self._config)], stderr=subprocess.DEVNULL
        )

        def is_up():
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        wait_until(is_up, "mosquitto's start")

    def stop(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Listener:
    """Somebody who reads the topics."""

    def __init__(self, port, topic):
        self.messages = []
        self._ready = threading.Event()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self._client.on_message = lambda client, data, message: self.messages.append(
            (message.topic, message.payload.decode(), message.retain)
        )
        self._client.on_subscribe = lambda *arguments: self._ready.set()
        self._client.connect("127.0.0.1", port)
        self._client.subscribe(topic, qos=1)
        self._client.loop_start()
        assert self._ready.wait(PATIENCE_S)

    def texts(self, topic):
        return [text for where, text, _ in self.messages if where == topic]

    def stop(self):
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def make_broker(tmp_path):
    """Return a function that makes a broker; all are stopped at the end."""
    brokers = []

    def make(extra=""):
        brokers.append(Broker(tmp_path, extra))
        return brokers[-1]

    yield make
    for broker in brokers:
        broker.stop()


@pytest.fixture
def broker(make_broker):
    broker = make_broker()
    broker.start()
    return broker


@pytest.fixture
def listener(broker):
    listener = Listener(broker.port, "cats/#")
    yield listener
    listener.stop()


def opened(broker, *, user="", **settings):
    sink = MqttSink(f"mqtt://{user}127.0.0.1:{broker.port}/cats/door", **settings)
    sink.open(make_summary)
    return sink


@needs_mosquitto
@pytest.mark.parametrize("qos", [0, 1])
def test_publishes_answers_and_a_status(broker, listener, qos):
    sink = opened(broker, qos=qos)
    wait_until(lambda: listener.texts("cats/door/status") == ["online"], "online")
    for number in range(5):
        sink.write(make_prediction(number))
    wait_until(lambda: len(listener.texts("cats/door")) == 5, "five answers")
    sink.close()
    wait_until(lambda: listener.texts("cats/door/status")[-1] == "offline", "offline")
    numbers = [json.loads(text)["number"] for text in listener.texts("cats/door")]
    assert numbers == [0, 1, 2, 3, 4]


@needs_mosquitto
def test_the_status_is_kept_for_who_comes_later(broker):
    sink = opened(broker)
    wait_until(lambda: sink._client.is_connected(), "the connection")
    sink.write(make_prediction(0))
    late = Listener(broker.port, "cats/#")
    wait_until(lambda: ("cats/door/status", "online", True) in late.messages, "the kept status")
    late.stop()
    sink.close()


@needs_mosquitto
def test_the_broker_says_offline_when_the_process_is_killed(broker, listener):
    code = (
        "import sys, time; sys.path[:0] = [sys.argv[1]]\n"
        "from made_predictions import make_summary\n"
        "from edge_vit.camera.sinks.mqtt import MqttSink\n"
        "MqttSink(sys.argv[2]).open(make_summary); time.sleep(600)"
    )
    url = f"mqtt://127.0.0.1:{broker.port}/cats/door"
    process = subprocess.Popen([sys.executable, "-c", code, str(TESTS), url])
    try:
        wait_until(lambda: listener.texts("cats/door/status") == ["online"], "online")
        process.send_signal(signal.SIGKILL)
        wait_until(lambda: listener.texts("cats/door/status")[-1] == "offline", "the last will")
    finally:
        process.kill()
        process.wait()


@needs_mosquitto
def test_goes_on_when_the_broker_comes_back(broker):
    sink = opened(broker)
    wait_until(lambda: sink._client.is_connected(), "the connection")
    broker.stop()
    wait_until(lambda: not sink._client.is_connected(), "the loss")
    with pytest.raises(BackendError, match=r"connection lost|no broker answers there"):
        sink.write(make_prediction(0))
    broker.start()
    wait_until(lambda: sink._client.is_connected(), "the second connection")
    sink.write(make_prediction(1))
    sink.close()


@needs_mosquitto
def test_a_broker_that_is_not_there_yet_is_waited_for(make_broker):
    broker = make_broker()
    sink = opened(broker)
    with pytest.raises(BackendError, match=r"not connected yet|no broker answers there"):
        sink.write(make_prediction(0))
    wait_until(lambda: sink._reason == "no broker answers there", "the first try")
    broker.start()
    wait_until(lambda: sink._client.is_connected(), "the connection")
    sink.write(make_prediction(1))
    sink.close()


@needs_mosquitto
def test_says_that_the_broker_refuses(make_broker):
    broker = make_broker("allow_anonymous false")
    broker.start()
    sink = opened(broker, user="me:secret@")
    wait_until(lambda: "refused" in sink._reason, "the refusal")
    with pytest.raises(BackendError, match="the broker refused: Not authorized") as refused:
        sink.write(make_prediction(0))
    assert "secret" not in str(refused.value)
    sink.close()


def test_a_broker_that_takes_nothing_fails_the_answer():
    sink = MqttSink("mqtt://127.0.0.1/cats", timeout_s=0.05)

    class Stuck:
        """A connection whose other end does not read."""

        is_connected = staticmethod(lambda: True)

        @staticmethod
        def publish(*arguments, **settings):
            message = mqtt.MQTTMessageInfo(1)
            message.rc = mqtt.MQTT_ERR_SUCCESS
            return message

    sink._client = Stuck
    with pytest.raises(BackendError, match=r"the broker took nothing for 0\.05 s"):
        sink.write(make_prediction(0))


def test_closing_what_was_never_opened_is_fine():
    MqttSink("mqtt://127.0.0.1/cats").close()


def test_the_name_holds_no_password():
    sink = MqttSink("mqtts://me:secret@broker:8884/a%20b/c/")
    assert sink.name == "mqtts://broker:8884/a b/c"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mqtt://host", r"expected mqtt://HOST\[:PORT\]/TOPIC"),
        ("mqtt:///topic", r"expected mqtt://HOST\[:PORT\]/TOPIC"),
        ("tcp://host/topic", r"expected mqtt://HOST\[:PORT\]/TOPIC"),
        ("mqtt://host/cats/+", "without"),
        ("mqtt://me:secret@host:port/cats", r"got mqtt://host:port/cats, expected"),
        ("mqtt://[::1/cats", "expected mqtt://HOST"),
    ],
)
def test_refuses_what_is_no_address(url, message):
    with pytest.raises(SpecError, match=message):
        MqttSink(url)
