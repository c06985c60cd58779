from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from edge_vit.cli.camera import _Signals

CALL = [sys.executable, "-c", "from edge_vit.cli import main; main()"]


@pytest.fixture
def pictures(held_out, tmp_path):
    """Return a flat folder of six digits."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, path in enumerate(sorted(held_out.rglob("*.png"))[:6]):
        Image.open(path).resize((64, 48)).save(folder / f"{index}.png")
    return folder


def predictions(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_answers_every_image_of_a_folder_as_a_line_of_json(edgevit, shared_bundle, pictures):
    result = edgevit("camera", shared_bundle.path, "--source", pictures, "--json", "--top", 2)
    assert result.exit_code == 0
    lines = predictions(result)
    assert [line["number"] for line in lines] == list(range(6))
    assert {line["source"] for line in lines} == {str(pictures)}
    assert "6 of 6 frames answered, 0 dropped, 0 failed" in result.stderr
    assert "latency from the frame's arrival to the answer" in result.stderr


def test_answers_as_run_does(edgevit, shared_bundle, pictures):
    by_camera = edgevit(
        *("camera", shared_bundle.path, "--source", pictures, "--json"),
        *("--preprocess", "pillow", "--backend", "ort", "--threads", 1),
    )
    by_run = edgevit("run", shared_bundle.path, pictures, "--json", "--backend", "ort")
    labels = [item["predictions"][0]["label"] for item in json.loads(by_run.stdout)]
    assert [first_label(line) for line in predictions(by_camera)] == labels


def first_label(line):
    return line["answers"][0]["label"]


def test_says_in_words_what_is_seen_when_it_changes(edgevit, shared_bundle, pictures):
    result = edgevit("camera", shared_bundle.path, "--source", pictures)
    lines = result.stdout.splitlines()
    assert 1 <= len(lines) <= 6
    assert lines[0].startswith(f"{pictures} #0: ")


def test_writes_a_report(edgevit, shared_bundle, pictures, tmp_path):
    path = tmp_path / "new" / "camera.json"
    edgevit("camera", shared_bundle.path, "--source", pictures, "--report", path)
    report = json.loads(path.read_text())
    assert report["summary"]["sources"][0]["counts"] == {
        "captured": 6,
        "answered": 6,
        "dropped": 0,
        "failed": 0,
        "in_flight": 0,
        "gathered": 0,
    }
    assert report["summary"]["preprocessing"].startswith("auto")
    assert report["environment"]["packages"]["edge-vit"]


def test_a_damaged_image_is_named_and_the_others_are_answered(edgevit, shared_bundle, pictures):
    (pictures / "2.png").write_bytes(b"no image")
    result = edgevit("camera", shared_bundle.path, "--source", pictures, "--json")
    assert result.exit_code == 1
    assert len(predictions(result)) == 5
    assert "2.png is not a JPEG" in result.stderr
    assert "1 of 6 frames have no answer" in result.stderr


def test_several_sources_share_the_model(edgevit, shared_bundle, pictures, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(other / "0.png")
    result = edgevit(
        *("camera", shared_bundle.path, "--source", pictures, "--source", other),
        *("--json", "--batch", 4, "--deadline", 20),
    )
    assert sorted(line["source"] for line in predictions(result)) == sorted(
        [str(pictures)] * 6 + [str(other)]
    )


def test_keeps_disagreements(edgevit, shared_bundle, pictures, tmp_path):
    result = edgevit(
        *("camera", shared_bundle.path, "--source", pictures, "--record-disagreements"),
        *(tmp_path / "kept", "--check-every", 2),
    )
    assert result.exit_code == 0
    assert (tmp_path / "kept").is_dir()
    assert "of 3 frames that fp32 answered too differ" in result.stderr


REFUSED = {
    "address": (["--source", "ftp://cam/"], 1, "got scheme 'ftp'"),
    "option": (["--source", "test://#size=9"], 1, "got option 'size'"),
    "no source": ([], 2, "Missing option '--source'"),
    "batch": (["--source", "test://", "--batch", "0"], 2, "Invalid value for '--batch'"),
    "retry": (["--source", "test://", "--stale-after", "0"], 2, "Invalid value"),
}


@pytest.mark.parametrize(("words", "status", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses_what_cannot_be(refused, shared_bundle, words, status, message):
    assert message in refused("camera", shared_bundle.path, *words, status=status)


def test_a_camera_that_never_answers_ends_with_status_4(edgevit, shared_bundle):
    pytest.importorskip("av", reason="PyAV is not installed")
    result = edgevit(
        *("camera", shared_bundle.path, "--source", "rtsp://me:secret@127.0.0.1:9/x"),
        *("--answer-timeout", 1.5, "--stale-after", 1),
    )
    assert result.exit_code == 4
    assert "Error: no answer for 1.5 s: rtsp://127.0.0.1:9/x is" in result.stderr
    assert "Connection refused" in result.stderr
    assert "secret" not in result.output


def test_prints_a_unit_for_the_very_command(edgevit, shared_bundle):
    result = edgevit(
        *("camera", shared_bundle.path, "--source", "csi://0#rate=60", "--json"),
        *("--print-systemd-unit", "--precision", "int8"),
    )
    assert result.exit_code == 0
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("ExecStart=")]
    assert line.endswith(
        f"camera {shared_bundle.path} --source csi://0#rate=60 --json --precision int8"
    )


class Started:
    """The command as a process of its own, answering a pattern."""

    def __init__(self, bundle, *words):
        self.process = subprocess.Popen(
            [*CALL, "camera", str(bundle), "--source", "test://#rate=60", "--json", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.first = self.process.stdout.readline()

    def end(self, number):
        """Send the signal `number`; return status, lines and stderr."""
        self.process.send_signal(number)
        stdout, stderr = self.process.communicate(timeout=120)
        return self.process.returncode, stdout, stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_it_soon_with_a_summary_and_whole_lines(shared_bundle, number, status):
    started = Started(shared_bundle.path)
    time.sleep(0.3)
    returned, stdout, stderr = started.end(number)
    assert returned == status, stderr
    assert "frames answered" in stderr
    for line in [started.first, *stdout.splitlines()]:
        json.loads(line)
    assert stdout.endswith("\n")


def test_sigterm_while_the_model_is_loaded_is_no_error_of_the_model():
    with _Signals():
        with pytest.raises(SystemExit) as caught:
            try:
                signal.raise_signal(signal.SIGTERM)
                time.sleep(5)
            except Exception:  # what loading a model makes an error of
                pytest.fail("taken for an error")
        assert caught.value.code == 0


def test_a_signal_ends_it_though_nobody_reads_what_it_says(shared_bundle):
    started = Started(shared_bundle.path)
    time.sleep(2)  # until the pipe is full
    started.process.send_signal(signal.SIGTERM)
    try:
        assert started.process.wait(120) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            started.process.kill()
        started.process.communicate()


class TestCalibrate:
    def test_takes_its_images_from_a_camera(self, edgevit, bundle, tmp_path):
        result = edgevit(
            *("calibrate", bundle.path, "--from-camera", "test://#rate=100,width=64,height=64"),
            *("--num-images", 3, "--interval", 0.2, "--keep-frames", tmp_path / "kept"),
            *("--recipe", "minmax"),
        )
        assert result.exit_code == 0, result.output
        assert "calibrated on 3 images" in result.stdout
        assert len(list((tmp_path / "kept").glob("*.png"))) == 3

    def test_takes_its_images_from_a_video(self, edgevit, bundle, tmp_path):
        pytest.importorskip("av", reason="PyAV is not installed")
        from camera.videos import write_video

        video = write_video(tmp_path / "mjpeg.avi", count=12)
        result = edgevit(
            *("calibrate", bundle.path, "--calib", video, "--num-images", 4),
            *("--recipe", "minmax"),
        )
        assert "calibrated on 4 images" in result.stdout

    @pytest.mark.parametrize(
        ("words", "status", "message"),
        [
            ([], 2, "expected either --calib DIR or --from-camera ADDRESS"),
            (["--calib", "a", "--from-camera", "0"], 2, "expected either"),
            (["--calib", "a", "--keep-frames", "b"], 2, "--keep-frames wants --from-camera"),
            (["--from-camera", "tests"], 1, "tests is no camera"),
        ],
    )
    def test_refuses_what_cannot_be(self, refused, shared_bundle, words, status, message):
        assert message in refused("calibrate", shared_bundle.path, *words, status=status)
