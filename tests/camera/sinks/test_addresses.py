import pytest

from edge_vit.camera.sinks.addresses import make_sink
from edge_vit.camera.sinks.json_lines import JsonLinesSink, StdoutSink
from edge_vit.camera.sinks.mqtt import MqttSink
from edge_vit.camera.sinks.video_file import VideoFileSink
from edge_vit.camera.sinks.web.dashboard import DashboardSink
from edge_vit.camera.sinks.webhook import WebhookSink
from edge_vit.errors import SpecError

TOKEN = {"EDGEVIT_TOKEN": "correct-horse-battery"}


@pytest.mark.parametrize(
    ("address", "kind", "name"),
    [
        ("stdout", StdoutSink, "stdout"),
        ("-", StdoutSink, "stdout"),
        ("a/b.jsonl", JsonLinesSink, "jsonl:a/b.jsonl"),
        ("A.JSONL#max-mb=1,keep=0", JsonLinesSink, "jsonl:A.JSONL"),
        ("seen.mp4", VideoFileSink, "video:seen.mp4"),
        ("seen.MKV", VideoFileSink, "video:seen.MKV"),
        ("mqtt://u:p@host/a/b#qos=1", MqttSink, "mqtt://host/a/b"),
        ("mqtts://host:9/a", MqttSink, "mqtts://host:9/a"),
        ("https://u:p@host/hook?x=1", WebhookSink, "https://host/hook"),
        ("http://host/#on=every,interval=0.5", WebhookSink, "http://host/"),
        ("dashboard", DashboardSink, "http://127.0.0.1:8080/"),
        ("dashboard:9000", DashboardSink, "http://127.0.0.1:9000/"),
        ("dashboard:localhost:9000", DashboardSink, "http://localhost:9000/"),
        ("dashboard:[::1]:9000", DashboardSink, "http://[::1]:9000/"),
    ],
)
def test_every_form_of_address(address, kind, name):
    sink = make_sink(address, environment={})
    assert isinstance(sink, kind)
    assert sink.name == name
    assert sink.queue_size > 0


def test_options_reach_the_sink():
    assert make_sink("a.jsonl#max-mb=2&keep=7")._max_bytes == 2 << 20
    assert make_sink("a.jsonl#max-mb=2&keep=7")._num_kept == 7
    assert make_sink("mqtt://host/a#qos=1")._qos == 1
    assert make_sink("http://host/#on=every")._interval_s == 1
    assert make_sink("http://host/")._on == "change"


def test_a_dashboard_for_others_takes_its_token_from_the_environment():
    sink = make_sink("dashboard:0.0.0.0:8080", environment=TOKEN)
    assert sink.name == "http://0.0.0.0:8080/"
    with pytest.raises(SpecError, match="export EDGEVIT_TOKEN="):
        make_sink("dashboard:0.0.0.0:8080", environment={})
    with pytest.raises(SpecError, match="export EDGEVIT_TOKEN="):
        make_sink("dashboard:0.0.0.0:8080", environment={"EDGEVIT_TOKEN": ""})


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("", "expected stdout"),
        ("answers.txt", "expected stdout"),
        ("kafka://host/a", "got 'kafka'"),
        ("dashboard:", "expected stdout"),
        ("dashboard:70000", "port 70000"),
        ("dashboard:99999999", "expected stdout"),
        ("stdout#x=1", "expected of stdout: none"),
        ("seen.mp4#fps=30", "expected of video: none"),
        ("a.jsonl#size=3", "got option 'size', expected of jsonl: max-mb, keep"),
        ("a.jsonl#max-mb=0", "got 'max-mb=0'"),
        ("a.jsonl#keep=many", "got 'keep=many'"),
        ("mqtt://host/a#qos=2", "got 'qos=2'"),
        ("http://host/#on=always", "got 'on=always'"),
    ],
)
def test_refuses_what_is_no_sink(address, message):
    with pytest.raises(SpecError, match=message):
        make_sink(address, environment={})


def test_a_refusal_holds_no_password():
    with pytest.raises(SpecError) as refused:
        make_sink("kafka://me:secret@host/a")
    assert "secret" not in str(refused.value)
    with pytest.raises(SpecError) as refused:
        make_sink("mqtt://me:secret@host/#qos=1")
    assert "secret" not in str(refused.value)
