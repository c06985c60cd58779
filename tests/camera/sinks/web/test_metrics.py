import re

import device_trees
from made_predictions import make_summary

from edge_vit.camera.sinks.web.metrics import metrics_text
from edge_vit.camera.summary import Percentiles
from edge_vit.device import TelemetryReader

SAMPLE = re.compile(
    r"""[a-z_]+(\{[a-z_]+="(?:[^"\\\n]|\\["\\n])*"(?:,[a-z_]+="(?:[^"\\\n]|\\["\\n])*")*\})? \S+"""
)


def lines(text):
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_every_line_is_of_the_format(tmp_path):
    reading = TelemetryReader(device_trees.orin_nano(tmp_path)).read()
    text = metrics_text(make_summary(), reading)
    assert text.endswith("\n")
    for line in lines(text):
        assert SAMPLE.fullmatch(line), line
        float(line.rpartition(" ")[2])


def test_every_family_is_described_once():
    text = metrics_text(make_summary(), None)
    described = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
    assert len(described) == len({name for name, _ in described})
    named = {line.partition("{")[0].partition(" ")[0] for line in lines(text)}
    assert {re.sub("_seconds_(sum|count)$", "_seconds", name) for name in named} == {
        name for name, _ in described
    }
    assert all(name.endswith("_total") == (kind == "counter") for name, kind in described)


def test_names_with_quotes_and_newlines_are_escaped():
    text = metrics_text(make_summary(), None)
    assert r'source="v4l2:///dev/\"video0\"",outcome="dropped"} 15.0' in text


def test_latencies_are_seconds_and_only_those_that_are_known():
    text = metrics_text(make_summary(), None)
    assert 'edgevit_latency_seconds{quantile="0.99"} 0.04' in text
    assert 'quantile="0.999"' not in text
    assert 'edgevit_stage_seconds{stage="infer",quantile="0.5"} 0.002' in text


def test_latencies_have_the_sum_and_the_count_that_rates_are_made_of():
    latency = Percentiles(4, 20.0, None, None, None, 50.0, 25.0)
    text = metrics_text(make_summary(latency_ms=latency), None)
    assert "edgevit_latency_seconds_sum 0.1\nedgevit_latency_seconds_count 4.0\n" in text
    assert 'edgevit_stage_seconds_count{stage="infer"} 500.0' in text


def test_holds_the_machine_where_it_tells(tmp_path):
    reading = TelemetryReader(device_trees.thor(tmp_path)).read()
    text = metrics_text(make_summary(), reading)
    assert 'edgevit_power_watts{source="VIN"} 39.6' in text
    assert 'edgevit_temperature_celsius{zone="gpu"} 109.0' in text
    assert "edgevit_throttled 1.0" in text
    assert "edgevit_power" not in metrics_text(make_summary(), None)
