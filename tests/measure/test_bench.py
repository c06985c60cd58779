"""All that bench says of a real bundle: stages, energy."""

from __future__ import annotations

import dataclasses

import pytest
from golden_reports import LATENCY
from PIL import Image
from tiny_graph import tiny_bundle

from edge_vit.device import EnergyReport, TelemetryReader
from edge_vit.device.telemetry import Telemetry
from edge_vit.errors import ImageError
from edge_vit.measure.bench import add_energy, benchmark
from edge_vit.measure.latency import Plan
from edge_vit.progress import Silent
from edge_vit.runtime.ort import OrtSession
from edge_vit.runtime.session import SessionOptions

ONE = SessionOptions(threads=1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("bench") / "tiny.edgevit")


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "noise.png"
    Image.effect_noise((40, 30), 50).convert("RGB").save(path)
    return path


def test_measures_everything_that_a_cpu_tells(bundle, image):
    report = benchmark(bundle, "int8", "ort", ONE, Plan(iterations=30, warmup=2), images=image)
    assert (report.precision, report.backend, report.iterations) == ("int8", "ort", 30)
    stages = {stage.name: stage for stage in report.stages}
    assert list(stages) == ["decode", "preprocess", "run", "end-to-end"]
    assert all(0 < stage.p50_ms <= stage.p90_ms for stage in stages.values())
    assert stages["end-to-end"].p50_ms > stages["preprocess"].p50_ms
    assert report.timed_on == str(image)
    assert report.label


def test_what_a_session_computes_in_is_noted(bundle, monkeypatch):
    class Noted(Silent):
        notes = ()

        def note(self, text):
            self.notes += (text,)

    monkeypatch.setattr(OrtSession, "remark", "in bfloat16 on this processor")
    progress = Noted()
    report = benchmark(bundle, "int8", "ort", ONE, Plan(iterations=30, warmup=2), progress=progress)
    assert "in bfloat16 on this processor" in progress.notes
    assert report.remark == "in bfloat16 on this processor"


def test_refuses_an_image_that_is_none(bundle, tmp_path):
    with pytest.raises(ImageError, match="does not exist"):
        benchmark(bundle, "fp32", "ort", ONE, images=tmp_path / "none")


def _reading(at_s, power_w):
    return Telemetry(at_s, power_w, "VDD_IN", {}, {}, {}, (), 0)


def test_energy_is_measured_where_power_is_told(bundle, monkeypatch):
    times = iter(range(1000))
    monkeypatch.setattr(TelemetryReader, "read", lambda self: _reading(float(next(times)), 8.0))
    plan = Plan(iterations=10, warmup=1)
    report = benchmark(bundle, "fp32", "ort", ONE, plan)
    assert report.energy.source == "VDD_IN"
    assert report.energy.mean_w == pytest.approx(8)
    assert report.energy.joules_per_image >= 0.8  # a second of the script at least, for 10 images


MEASURED = EnergyReport(
    duration_s=2.0,
    measured_s=1.5,
    joules=15.0,
    mean_w=10.0,
    max_w=12.0,
    power_source="VDD_IN",
    temperatures_max_c={},
    throttling=(),
    num_throttle_events=0,
)


def test_energy_is_spread_over_all_images():
    latency = dataclasses.replace(LATENCY, iterations=50, batch_size=4)
    energy = add_energy(latency, MEASURED).energy
    assert energy.joules_per_image == pytest.approx(10.0 * 2.0 / 200)


def test_warns_of_a_machine_that_was_slowed_down():
    slowed = dataclasses.replace(MEASURED, throttling=("thermal",), joules=None, mean_w=None)
    report = add_energy(LATENCY, slowed)
    assert report.energy is None
    assert [warning.name for warning in report.warnings] == ["throttled"]
    assert "(thermal)" in report.warnings[0].sentence
