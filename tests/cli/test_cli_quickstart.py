"""The quickstart on the tiny model: every stage, and what happens when it is run again."""

from __future__ import annotations

import shutil

import pytest
from tiny import CONFIG, tiny_digits

from edge_vit.bundle import Bundle
from edge_vit.cli import quickstart
from edge_vit.report.saved import read_json
from edge_vit.training import datasets, vit


@pytest.fixture
def tiny_quickstart(edgevit, monkeypatch, tmp_path):
    """Return a function that runs it with a small model, few images and few runs."""
    monkeypatch.setitem(vit.PRESETS, quickstart.MODEL, CONFIG)
    monkeypatch.setattr(quickstart, "NUM_CALIBRATION_IMAGES", 12)
    monkeypatch.setattr(quickstart, "ITERATIONS", 5)
    monkeypatch.setattr(datasets, "load_digits", tiny_digits)

    def call(*arguments):
        folder = tmp_path / "out"
        return edgevit("quickstart", "--dir", folder, "--epochs", 2, "--threads", 2, *arguments)

    return call


def test_goes_from_training_to_the_verdict(tiny_quickstart, edgevit, tmp_path):
    folder = tmp_path / "out"
    result = tiny_quickstart()
    assert result.exit_code == 0, result.output
    bundle = Bundle.open(folder / "digits.edgevit")
    report = read_json(bundle.reports_path / "verify.json")
    assert bundle.precisions == ("fp32", "fp16", "int8")
    assert report.accuracy[0].num_images == report.accuracy[0].num_labelled == 40
    assert report.accuracy[0].num_calibrated_on == 0
    assert bundle.read_table().num_images == len(list((folder / "calib").glob("*/*.png"))) == 12
    assert "recommended" in result.stdout
    stages = ("training vit_digits", "tracing", "parity", "calibrating on 12", "timing")
    assert all(stage in result.stderr for stage in stages)
    assert str(bundle.reports_path / "verify.html") in result.stderr
    suggested = [line.split()[1:] for line in result.stderr.splitlines() if "  edgevit run" in line]
    assert edgevit(*suggested[0]).exit_code == 0

    again = tiny_quickstart()
    assert again.exit_code == 0
    assert "is used again" in again.stderr
    assert "training vit_digits" not in again.stderr

    shutil.rmtree(folder / "val" / "3")
    broken = tiny_quickstart()
    assert broken.exit_code == 1
    assert "Remove it, or choose another folder with --dir" in broken.stderr


def test_goes_on_with_an_interrupted_training_and_trains_again_when_asked(
    tiny_quickstart, monkeypatch, tmp_path
):
    from edge_vit.training import loop

    run_epoch, seen = loop.TrainingLoop.run_epoch, []

    def second_is_interrupted(self):
        seen.append(self.num_epochs_done)
        if len(seen) == 2:
            raise KeyboardInterrupt
        run_epoch(self)

    def stop(*arguments, **options):
        raise KeyboardInterrupt  # what follows the training has its own test

    monkeypatch.setattr(loop.TrainingLoop, "run_epoch", second_is_interrupted)
    monkeypatch.setattr(quickstart, "_write_images", stop)
    assert tiny_quickstart().exit_code == 130
    assert not (tmp_path / "out" / "vit_digits.safetensors").exists()
    tiny_quickstart()
    assert seen == [0, 1, 1]
    assert (tmp_path / "out" / "vit_digits.safetensors").exists()
    tiny_quickstart()
    assert seen == [0, 1, 1]
    tiny_quickstart("--fresh")
    assert seen == [0, 1, 1, 0, 1]
