"""Evaluating in parts, merging them, and going on after an interruption."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from edge_vit.measure import accuracy
from edge_vit.measure.partial import read_partial
from edge_vit.measure.results import AccuracyReport
from edge_vit.values import from_json


def _eval(edgevit, bundle, data, *more):
    return edgevit("eval", bundle.path, "--data", data, "--threads", 1, *more)


@pytest.mark.uncounted
def test_parts_merged_are_one_evaluation_to_the_last_byte(
    edgevit, shared_bundle, held_out, tmp_path
):
    whole = _eval(edgevit, shared_bundle, held_out, "--json", "-o", tmp_path / "whole.json")
    assert whole.exit_code == 0, whole.output
    files = []
    for index in (3, 1, 2):
        files.append(tmp_path / f"part{index}.json")
        part = _eval(edgevit, shared_bundle, held_out, "--shard", f"{index}/3", "-o", files[-1])
        assert part.exit_code == 0, part.output
        assert part.stdout.startswith(f"{files[-1]}: part {index} of 3, ")
        assert "edgevit merge FILE..." in part.stderr
    merged = edgevit("merge", *files, "--json", "-o", tmp_path / "merged.json")
    assert merged.exit_code == 0, merged.output
    assert merged.stdout == whole.stdout
    assert (tmp_path / "merged.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    report = from_json(AccuracyReport, json.loads((tmp_path / "whole.json").read_bytes()))
    assert (report.num_images, report.num_labelled) == (40, 40)
    assert report.worst[0].thumbnail_png
    assert "top-1" in edgevit("merge", *files).stdout


def test_says_what_a_part_holds_as_json(edgevit, shared_bundle, held_out, tmp_path):
    out = tmp_path / "part.json"
    arguments = ("--num-images", 12, "--shard", "1/1", "-o", out, "--json")
    data = json.loads(_eval(edgevit, shared_bundle, held_out, *arguments).stdout)
    assert data == {"file": str(out), "part": [1, 1], "num_images": 12}


@pytest.mark.uncounted
def test_interrupted_and_resumed_is_the_same_to_the_last_byte(
    edgevit, refused, shared_bundle, held_out, tmp_path, monkeypatch
):
    whole, again = tmp_path / "whole.json", tmp_path / "again.json"
    state = tmp_path / "again.json.state"
    assert _eval(edgevit, shared_bundle, held_out, "-o", whole).exit_code == 0
    assert not (tmp_path / "whole.json.state").exists()
    with monkeypatch.context() as patch:
        _interrupt_after(patch, 15)
        result = _eval(edgevit, shared_bundle, held_out, "-o", again)
    assert result.exit_code == 130
    assert state.exists()
    assert not again.exists()
    arguments = ("eval", shared_bundle.path, "--data", held_out, "--threads", 1, "-o", again)
    line = refused(*arguments)
    assert line.startswith(f"{state} holds 15 images of an evaluation that was interrupted. Add ")
    line = refused(*arguments, "--resume", "--precision", "fp16")
    assert "is of another evaluation: precision is 'int8' in one and 'fp16' in the other" in line
    line = refused(*arguments, "--resume", "--num-images", 20)
    assert "is of another evaluation: the images are other ones now" in line
    line = refused(*arguments, "--resume", "--shard", "1/2")
    assert "is of another evaluation: part is 1/1 in it and 1/2 now" in line
    assert _eval(edgevit, shared_bundle, held_out, "-o", again, "--resume").exit_code == 0
    assert again.read_bytes() == whole.read_bytes()
    assert not state.exists()


def _interrupt_after(patch, count):
    real, seen = accuracy.preprocess, []

    def preprocess(*arguments):
        if len(seen) == count:
            raise KeyboardInterrupt
        seen.append(1)
        return real(*arguments)

    patch.setattr(accuracy, "preprocess", preprocess)
    patch.setattr("edge_vit.measure.evaluation.evaluate_part", _saving_always)


def _saving_always(*arguments, **options):
    return accuracy.evaluate_part(*arguments, **{**options, "seconds_between_saves": 0})


KILLED = """
import sys
from edge_vit.measure import accuracy, evaluation
real = accuracy.evaluate_part
def slow(*arguments, **options):
    return real(*arguments, **{**options, "seconds_between_saves": 0})
evaluation.evaluate_part = slow
see, seen = accuracy.preprocess, []
def preprocess(*arguments):
    seen.append(1)
    if len(seen) == 20:
        print("in the middle", flush=True)
        sys.stdin.read()
    return see(*arguments)
accuracy.preprocess = preprocess
from edge_vit.cli import main
main(sys.argv[1:])
"""


def test_a_process_that_is_killed_loses_nothing(edgevit, shared_bundle, held_out, tmp_path):
    out = tmp_path / "out.json"
    arguments = ["eval", shared_bundle.path, "--data", held_out, "--backend", "ort", "-o", out]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    state = tmp_path / "out.json.state"
    with process:
        assert process.stdout.readline() == b"in the middle\n"
        process.kill()
    assert process.returncode == -9
    assert 0 < read_partial(state).num_images < 40
    assert not out.exists()
    resumed = edgevit(*arguments, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert edgevit(*arguments[:-1], tmp_path / "whole.json").exit_code == 0
    assert out.read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_resume_without_a_state_begins(edgevit, shared_bundle, calibration, tmp_path):
    out = tmp_path / "out.json"
    result = _eval(edgevit, shared_bundle, calibration, "-o", out, "--resume")
    assert result.exit_code == 0, result.output
    assert out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shard", "1/2"], "--shard needs -o FILE, got none"),
        (["--resume"], "--resume needs -o FILE, got none"),
        (["--shard", "3/2", "-o", "x"], "'3/2' is not of the form I/N, such as 1/16 to 16/16"),
        (["--shard", "0/2", "-o", "x"], "'0/2' is not of the form I/N"),
        (["--shard", "half", "-o", "x"], "'half' is not of the form I/N"),
    ],
    ids=["shard", "resume", "beyond", "zero", "words"],
)
def test_wrong_usage(refused, shared_bundle, held_out, options, message):
    line = refused("eval", shared_bundle.path, "--data", held_out, *options, status=2)
    assert message in line


def test_merge_refuses_what_is_no_whole(edgevit, refused, shared_bundle, calibration, tmp_path):
    part, other = tmp_path / "part.json", tmp_path / "other.json"
    for path, precision in ((part, "int8"), (other, "fp16")):
        arguments = ("--shard", "1/2", "-o", path, "--precision", precision)
        assert _eval(edgevit, shared_bundle, calibration, *arguments).exit_code == 0
    assert refused("merge", part).endswith("expected each of 2 once; missing 2/2")
    assert "precision is 'int8' in one and 'fp16' in the other" in refused("merge", part, other)
    assert "cannot be read" in refused("merge", tmp_path / "none.json")
    part.write_text("{}")
    assert "format None of a part" in refused("merge", part)


def test_a_damaged_state_is_refused(refused, shared_bundle, held_out, tmp_path):
    (tmp_path / "out.json.state").write_text('{"format": 99}')
    line = refused(
        "eval", shared_bundle.path, "--data", held_out, "-o", tmp_path / "out.json", "--resume"
    )
    assert "is no state of an evaluation" in line
    assert line.endswith("Remove it to begin anew")
    assert "--shard" not in line
