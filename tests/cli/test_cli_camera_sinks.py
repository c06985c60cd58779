"""Sinks and steps of ``edgevit camera``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request

import device_trees
import pytest
from PIL import Image

from edge_vit import device

CALL = [sys.executable, "-c", "from edge_vit.cli import main; main()"]


@pytest.fixture
def pictures(held_out, tmp_path):
    """Return a flat folder of six digits."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, path in enumerate(sorted(held_out.rglob("*.png"))[:6]):
        Image.open(path).resize((64, 48)).save(folder / f"{index}.png")
    return folder


def test_answers_go_to_every_sink(edgevit, shared_bundle, pictures, tmp_path):
    pytest.importorskip("av")
    lines, video = tmp_path / "out" / "answers.jsonl", tmp_path / "out" / "seen.mp4"
    result = edgevit(
        *("camera", shared_bundle.path, "--source", pictures),
        *("--sink", lines, "--sink", video, "--sink", "dashboard:0"),
    )
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["number"] for line in lines.read_text().splitlines()] == list(range(6))
    assert video.stat().st_size > 500
    assert re.search(r"dashboard on http://127\.0\.0\.1:\d+/", result.stderr)


def test_smoothed_answers_stand_beside_the_raw_ones(edgevit, shared_bundle, pictures):
    result = edgevit(
        *("camera", shared_bundle.path, "--source", pictures, "--json"),
        *("--smooth", "majority:3", "--min-confidence", "0.9"),
    )
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["is_confident"] for line in lines] == [
        line["smoothed"][0]["score"] >= 0.9 for line in lines
    ]
    assert lines[0]["smoothed"][0]["score"] == 1
    assert lines[0]["smoothed"][0]["index"] == lines[0]["answers"][0]["index"]


def test_stdout_as_a_sink_is_json_once(edgevit, shared_bundle, pictures):
    for flags in (["--sink", "stdout"], ["--json"], ["--json", "--sink", "-"]):
        result = edgevit("camera", shared_bundle.path, "--source", pictures, *flags)
        lines = result.stdout.splitlines()
        assert [json.loads(line)["number"] for line in lines] == list(range(6))


@pytest.mark.parametrize(
    ("flags", "message", "status"),
    [
        (["--sink", "kafka://host/a"], "got 'kafka', expected stdout", 1),
        (["--sink", "dashboard:0.0.0.0:8080"], "anybody could watch", 1),
        (["--sink", "seen.avi"], "got 'seen.avi'", 1),
        (["--smooth", "mean:3"], "not of the form ema:8", 2),
        (["--smooth", "ema:0"], "not of the form ema:8", 2),
        (["--min-confidence", "2"], "0<=x<=1", 2),
    ],
)
def test_refuses_before_the_model_is_loaded(
    refused, shared_bundle, pictures, monkeypatch, flags, message, status
):
    monkeypatch.delenv("EDGEVIT_TOKEN", raising=False)
    monkeypatch.setattr("edge_vit.cli.camera.open_session", None)  # would fail if it were called
    line = refused("camera", shared_bundle.path, "--source", pictures, *flags, status=status)
    assert message in line


def test_ends_when_nobody_reads_its_lines(shared_bundle):
    command = [*CALL, "camera", str(shared_bundle.path), "--source", "test://", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert json.loads(process.stdout.readline())["number"] >= 0
            process.stdout.close()
            errors = process.stderr.read().decode()  # until it has ended
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors


def test_the_dashboard_shows_the_running_loop(shared_bundle):
    command = [*CALL, "camera", str(shared_bundle.path), "--source", "test://"]
    with subprocess.Popen(
        [*command, "--sink", "dashboard:0"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            found = None
            while found is None:
                line = process.stderr.readline().decode()
                assert line, "it ended before it listened"
                found = re.search(r"http://127\.0\.0\.1:\d+/", line)
            predictions = {}
            while not predictions:
                with urllib.request.urlopen(f"{found[0]}state", timeout=60) as reply:
                    predictions = json.loads(reply.read())["answers"]
            with urllib.request.urlopen(f"{found[0]}frame.jpg", timeout=60) as reply:
                assert reply.read(3) == b"\xff\xd8\xff"
        finally:
            process.terminate()
            process.stderr.read()
        assert process.wait(timeout=60) == 0


@pytest.fixture
def run_on_board(edgevit, shared_bundle, pictures, tmp_path, monkeypatch):
    """Return a function that runs the camera on a board of `device_trees`, and gives its report."""

    def run(make):
        root = make(tmp_path / "board")
        real = device.open_telemetry
        monkeypatch.setattr(device, "open_telemetry", lambda: real(root))
        report = tmp_path / "report.json"
        result = edgevit("camera", shared_bundle.path, "--source", pictures, "--report", report)
        return json.loads(report.read_text()), result.stderr

    return run


def test_the_report_holds_what_an_answer_costs(run_on_board):
    report, said = run_on_board(device_trees.orin_nano)
    energy = report["energy"]
    assert energy["mean_w"] == pytest.approx(4.984 * 1.856)
    assert energy["joules"] == pytest.approx(energy["mean_w"] * energy["measured_s"])
    assert report["joules_per_answer"] == pytest.approx(energy["joules"] / 6)
    assert "mJ per answer, idling included; 9.3 W on average" in said
    assert not report["was_throttled"]


def test_the_report_says_that_the_machine_was_slowed_down(run_on_board):
    report, said = run_on_board(device_trees.thor)
    assert report["was_throttled"]
    assert "slowed down while it ran: gpu-throttle-alert. Look at edgevit doctor" in said


def test_a_machine_without_sensors_claims_no_energy(run_on_board):
    report, said = run_on_board(lambda root: root)
    assert report["joules_per_answer"] is None
    assert "energy" not in said
