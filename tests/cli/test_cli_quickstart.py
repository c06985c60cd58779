"""The quickstart on the tiny model: every stage, and what happens when it is run again."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
from tiny import CONFIG, tiny_digits

from edge_vit.bundle import Bundle
from edge_vit.cli import quickstart
from edge_vit.report.saved import read_json
from edge_vit.training import datasets, loop, vit


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def tiny_quickstart(edgevit, monkeypatch, folder):
    """Return a function that runs it with a small model, few images and few runs."""
    monkeypatch.setitem(vit.PRESETS, quickstart.MODEL, CONFIG)
    monkeypatch.setattr(quickstart, "NUM_CALIBRATION_IMAGES", 12)
    monkeypatch.setattr(quickstart, "ITERATIONS", 5)
    digits = tiny_digits()
    few = dataclasses.replace(
        digits, train_images=digits.train_images[::20], train_labels=digits.train_labels[::20]
    )
    monkeypatch.setattr(datasets, "load_digits", lambda: few)

    def call(*arguments):
        return edgevit("quickstart", "--dir", folder, "--epochs", 2, *arguments)

    return call


def test_goes_from_a_training_to_the_verdict(tiny_quickstart, edgevit, made, weights, folder):
    folder.mkdir()
    shutil.copy(weights, folder / "vit_digits.safetensors")
    result = tiny_quickstart()
    assert result.exit_code == 0, result.output
    bundle = Bundle.open(folder / "digits.edgevit")
    assert made == [f"edgevit:{folder / 'vit_digits.safetensors'}"]
    report = read_json(bundle.reports_path / "verify.json")
    assert bundle.precisions == ("fp32", "fp16", "int8")
    assert report.accuracy[0].num_images == report.accuracy[0].num_labelled == 40
    assert report.accuracy[0].num_calibrated_on == 0
    assert len(list((folder / "calib").glob("*/*.png"))) == 12
    assert not set(bundle.read_table().image_digests) & set(bundle.read_golden().digests)
    assert "recommended" in result.stdout
    stages = ("is used again", "parity", "calibrating on 12", "evaluating", "timing")
    assert all(stage in result.stderr for stage in stages)
    assert str(bundle.reports_path / "verify.html") in result.stderr
    (run,) = [line.split()[1:] for line in result.stderr.splitlines() if "  edgevit run" in line]
    assert edgevit(*run).exit_code == 0


def test_leaves_a_folder_alone_that_holds_something_else(tiny_quickstart, image, weights, folder):
    (folder / "val" / "3").mkdir(parents=True)
    shutil.copy(weights, folder / "vit_digits.safetensors")
    shutil.copy(image, folder / "val" / "3")
    result = tiny_quickstart()
    assert result.exit_code == 1
    assert f"{folder / 'val'} holds 1 images, expected the 40 of an earlier" in result.stderr
    assert (folder / "val" / "3" / image.name).exists()


def test_goes_on_with_an_interrupted_training_and_trains_again_when_asked(
    tiny_quickstart, monkeypatch, folder
):
    run_epoch, seen = loop.TrainingLoop.run_epoch, []

    def second_is_interrupted(self):
        seen.append(self.num_epochs_done)
        if len(seen) == 2:
            raise KeyboardInterrupt
        run_epoch(self)

    def stop(*arguments):
        raise KeyboardInterrupt  # what follows the training has its own test

    monkeypatch.setattr(loop.TrainingLoop, "run_epoch", second_is_interrupted)
    monkeypatch.setattr(quickstart, "_write_images", stop)
    result = tiny_quickstart()
    assert result.exit_code == 130
    assert "training vit_digits" in result.stderr
    assert not (folder / "vit_digits.safetensors").exists()
    for arguments, epochs in [((), [0, 1, 1]), ((), [0, 1, 1]), (("--fresh",), [0, 1, 1, 0, 1])]:
        tiny_quickstart(*arguments)
        assert seen == epochs
        assert (folder / "vit_digits.safetensors").exists()


def test_options_keep_the_recipe_of_the_training(tiny_quickstart, monkeypatch):
    given = []

    def stop(folder, options, **rest):
        given.append(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(quickstart, "_run", stop)
    tiny_quickstart("--threads", 3, "-q")
    expected = dataclasses.replace(
        quickstart.QUICKSTART_OPTIONS, epochs=2, warmup_epochs=2, threads=3
    )
    assert given == [expected]
