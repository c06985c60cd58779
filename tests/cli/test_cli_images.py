"""Folders, tables and bad files through every command that takes images."""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest

pytestmark = pytest.mark.uncounted


@pytest.fixture(scope="module")
def table(held_out, tmp_path_factory):
    """Return a table with class names as a spreadsheet writes it, beside its 40 images."""
    folder = tmp_path_factory.mktemp("table")
    shutil.copytree(held_out, folder / "val")
    paths = sorted((folder / "val").glob("*/*.png"))
    rows = ["Image;Class;Width"]
    rows += [f"val\\{path.parent.name}\\{path.name};{path.parent.name};32" for path in paths]
    (folder / "val.csv").write_text("\n".join(rows), encoding="utf-16")
    return folder / "val.csv"


@pytest.fixture
def damaged(held_out, tmp_path):
    """Return class folders in which one image of 40 is truncated."""
    shutil.copytree(held_out, tmp_path / "val")
    path = sorted((tmp_path / "val").glob("3/*.png"))[0]
    path.write_bytes(path.read_bytes()[:200])
    return path


COMMANDS = {
    "eval": ["--data"],
    "verify": ["--no-report", "--iterations", "3", "--backend", "ort", "--data"],
    "calibrate": ["--recipe", "minmax", "--threads", "1", "--calib"],
    "bench": ["--iterations", "3", "--image"],
}


def run(edgevit, command, bundle, source, *options):
    result = edgevit(command, bundle.path, *COMMANDS[command], source, *options)
    assert result.exit_code in (0, 3, 5), result.output
    return result


@pytest.mark.parametrize("command", COMMANDS)
def test_a_table_with_class_names_works_in_every_command(edgevit, bundle, table, command):
    result = run(edgevit, command, bundle, table)
    if command in ("eval", "verify"):
        assert "columns Width are not used" in result.stderr


def test_a_table_counts_as_its_folder_does(edgevit, shared_bundle, held_out, table):
    reports = [
        json.loads(edgevit("eval", shared_bundle.path, "--data", data, "--json").stdout)
        for data in (held_out, table)
    ]
    for name in ("num_labelled", "top1", "per_class", "data_digest"):
        assert reports[0][name] == reports[1][name]


@pytest.mark.parametrize("command", COMMANDS)
def test_one_bad_image_of_many_is_named_and_left_out(edgevit, bundle, damaged, command):
    folder = damaged.parents[1]
    if command == "bench":  # which takes 8 of the images
        for path in sorted(folder.glob("*/*.png"))[7:]:
            if path != damaged:
                path.unlink()
    result = run(edgevit, command, bundle, folder)
    said = " ".join(result.stderr.split())
    assert "images cannot be read and were left out: image" in said
    assert f"{damaged.parent.name}/{damaged.name}" in said
    strict = edgevit("--quiet", command, bundle.path, *COMMANDS[command], folder, "--max-bad", "0")
    assert strict.exit_code == 1
    assert strict.stderr.startswith(f"Error: image {damaged} ")


def test_more_bad_images_are_an_error_and_can_be_allowed(edgevit, refused, bundle, damaged):
    folder = damaged.parents[1]
    second = sorted(folder.glob("5/*.png"))[0]
    second.write_bytes(b"")
    arguments = ("eval", bundle.path, "--data", folder)
    assert "2 bad of 40 images, expected at most 1 (1%)" in refused(*arguments)
    for limit in ("5%", "2"):
        report = json.loads(edgevit(*arguments, "--max-bad", limit, "--json").stdout)
        assert (report["num_images"], report["num_bad"]) == (38, 2)
        assert f"{second.parent.name}/{second.name}" in report["notes"][-1]
    refused(*arguments, "--max-bad", "some", status=2)


def test_shards_with_a_bad_image_merge_to_the_whole(edgevit, shared_bundle, damaged, tmp_path):
    arguments = ("eval", shared_bundle.path, "--data", damaged.parents[1])
    parts = [tmp_path / f"part{index}.json" for index in (1, 2, 3)]
    for index, path in enumerate(parts, 1):
        assert edgevit(*arguments, "--shard", f"{index}/3", "-o", path).exit_code == 0
    assert edgevit(*arguments, "-o", tmp_path / "whole.json").exit_code == 0
    assert edgevit("merge", *parts, "-o", tmp_path / "merged.json").exit_code == 0
    whole, merged = ((tmp_path / f"{name}.json").read_bytes() for name in ("whole", "merged"))
    assert whole == merged
    assert json.loads(whole)["num_bad"] == 1


def test_verify_keeps_what_it_was_told_of_the_images(edgevit, shared_bundle, damaged):
    folder = damaged.parents[1]
    (folder / "a.heic").write_bytes(b"")
    result = run(edgevit, "verify", shared_bundle, folder, "--json")
    notes = json.loads(result.stdout)["notes"]
    assert any("1 .heic, which are no JPEG" in note for note in notes)
    assert any("1 of 40 images cannot be read" in note for note in notes)


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        ({"3": "3 three"}, "class folder .*3 three is none of the model's 10 labels"),
        ({"3": "val"}, "holds val: parts of a data set, not classes"),
        ({"3": "03", "4": "3"}, "are both class 3 '3'"),
    ],
    ids=["no label", "split", "two for one"],
)
def test_folders_that_are_other_classes_are_refused_before_anything_is_measured(
    refused, bundle, held_out, tmp_path, rename, message
):
    shutil.copytree(held_out, tmp_path / "val")
    for old, new in rename.items():
        (tmp_path / "val" / old).rename(tmp_path / "val" / new)
    for command in ("eval", "verify"):
        line = refused(command, bundle.path, *COMMANDS[command], tmp_path / "val")
        assert re.search(message, line), line


def test_names_that_are_no_utf8_cost_no_result(edgevit, shared_bundle, held_out, tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(held_out, folder)
    for path in sorted(folder.glob("*/*.png")):
        path.rename(path.with_name(os.fsdecode(b"\xff\n") + path.name))
    written = [tmp_path / name for name in ("v.xml", "v.md")]
    options = ("--junit", written[0], "--markdown", written[1], "--json")
    result = run(edgevit, "verify", shared_bundle, folder, *options)
    assert json.loads(result.stdout)["accuracy"][0]["data"].endswith(r"caf\xe9")
    assert all(path.read_text(encoding="utf-8") for path in written)
    for options in (("-o", tmp_path / "a.json"), ("--shard", "1/1", "-o", tmp_path / "b.json")):
        assert edgevit("eval", shared_bundle.path, "--data", folder, *options).exit_code == 0
        assert rb"caf\\xe9" in options[-1].read_bytes()
