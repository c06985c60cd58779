"""Results that cannot be written: found before the work, and printed where it shows only later."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys

import pytest

from edge_vit.errors import ArtifactError


def worked(*arguments, **options):
    raise AssertionError("the work began")


@pytest.fixture
def no_work(monkeypatch):
    """Fail where anything is opened, measured or trained."""
    monkeypatch.setattr("edge_vit.bundle.Bundle.open", worked)
    monkeypatch.setattr("edge_vit.measure.partial.read_partial", worked)
    monkeypatch.setattr("edge_vit.report.saved.read_measured", worked)
    monkeypatch.setattr("edge_vit.training.datasets.open_dataset", worked)
    monkeypatch.setattr("edge_vit.export.export.export_model", worked)


COMMANDS = {
    "eval": ("eval", "b", "--data", "d", "-o", "PATH.json"),
    "shard": ("eval", "b", "--data", "d", "--shard", "1/2", "-o", "PATH.json"),
    "bench": ("bench", "b", "-o", "PATH.json"),
    "merge": ("merge", "p", "-o", "PATH.json"),
    "compare": ("compare", "r", "-o", "PATH.html"),
    "report": ("report", "b", "-o", "PATH.md"),
    "explain": ("explain", "b", "i", "-o", "PATH.json"),
    "verify": ("verify", "b", "--data", "d", "-o", "PATH.html"),
    "junit": ("verify", "b", "--data", "d", "--junit", "PATH.xml"),
    "markdown": ("verify", "b", "--data", "d", "--markdown", "PATH.md"),
    "camera report": ("camera", "b", "--source", "test://", "--report", "PATH.json"),
    "frames": ("camera", "b", "--source", "test://", "--record-disagreements", "PATH"),
    "lines": ("camera", "b", "--source", "test://", "--sink", "PATH.jsonl"),
    "video": ("camera", "b", "--source", "test://", "--sink", "PATH.mp4"),
    "kept frames": ("calibrate", "b", "--from-camera", "test://", "--keep-frames", "PATH"),
    "finetune": ("finetune", "vit_digits", "--data", "digits", "-o", "PATH.safetensors"),
    "export": ("export", "timm:vit_tiny_patch16_224", "-o", "PATH"),
}


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("place", ["proc", "below a file", "read-only"])
@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_a_place_that_cannot_be_written_is_found_first(
    refused, tmp_path, monkeypatch, shared_bundle, arguments, place
):
    if arguments[0] == "camera" and "--sink" in arguments:
        monkeypatch.undo()  # sinks are made once the bundle is open
        monkeypatch.setattr("edge_vit.cli.camera.open_session", worked)
        monkeypatch.setattr("edge_vit.bundle.Bundle.open", lambda path: shared_bundle)
    if place == "read-only":
        refuse = refusing(errno.EROFS)
        monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    (tmp_path / "file").write_bytes(b"")
    folder = {"proc": "/proc", "below a file": tmp_path / "file", "read-only": tmp_path}[place]
    typed = [word.replace("PATH", f"{folder}/out") for word in arguments]
    line = refused(*typed)
    assert line.startswith("cannot write ")
    assert f"{folder}/out" in line


def refusing(code):
    def refuse(*arguments, **options):
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    "arguments", [c for c in COMMANDS.values() if c[-1].startswith("PATH.")], ids=" ".join
)
def test_a_folder_is_no_place_for_a_file(refused, tmp_path, monkeypatch, shared_bundle, arguments):
    if "--sink" in arguments:
        monkeypatch.undo()
        monkeypatch.setattr("edge_vit.cli.camera.open_session", worked)
        monkeypatch.setattr("edge_vit.bundle.Bundle.open", lambda path: shared_bundle)
    path = tmp_path / arguments[-1].replace("PATH", "out")
    path.mkdir()
    assert refused(*arguments[:-1], path) == f"cannot write {path}: Is a directory"


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("module", ["jinja2", "matplotlib"])
def test_a_page_whose_package_is_missing_is_found_first(refused, tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    path = tmp_path / "out.html"
    line = refused("verify", "b", "--data", "d", "-o", path)
    assert line == (
        f"writing {path} needs {module}, which is not installed. "
        "Run: pip install 'edge-vit[report]'"
    )


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("command", ["export", "finetune"])
def test_what_makes_one_thing_refuses_a_second_output(refused, tmp_path, command):
    *words, _ = COMMANDS[command]
    line = refused(*words, tmp_path / "a", "-o", tmp_path / "b", status=2)
    assert (
        line == f"-o: got {tmp_path}/a, {tmp_path}/b, expected one. Run the command once for each"
    )


# A disk that is full only afterwards


@pytest.fixture
def full_afterwards(monkeypatch, tmp_path):
    """Let every write of a result fail, though it could be tried before."""

    def refuse(path, data):
        raise ArtifactError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr("edge_vit.cli.output.write_atomically", refuse)
    monkeypatch.setattr("edge_vit.report.saved.write_atomically", refuse)


@pytest.mark.usefixtures("full_afterwards")
def test_what_was_measured_is_printed_though_it_cannot_be_written(
    edgevit, shared_bundle, held_out, tmp_path
):
    out = tmp_path / "out.json"
    few = ["--num-images", 4, "--threads", 1]
    measured = {
        "eval": ["eval", shared_bundle.path, "--data", held_out, *few, "-o", out, "--json"],
        "bench": [
            *("bench", shared_bundle.path, "--iterations", 3, "--threads", 1),
            *("-o", out, "--json"),
        ],
    }
    for name, arguments in measured.items():
        result = edgevit(*arguments)
        assert result.exit_code == 1, name
        assert json.loads(result.stdout)["precision"] == "int8"
        assert f"Error: cannot write {out}: No space left on device" in result.stderr


@pytest.mark.uncounted
@pytest.mark.usefixtures("full_afterwards")
def test_what_can_be_written_is_written_though_another_file_cannot(
    edgevit, bundle, held_out, tmp_path
):
    out, summary = tmp_path / "out.json", tmp_path / "summary.md"
    arguments = ["verify", bundle.path, "--data", held_out, "--num-images", 4, "--iterations", 3]
    result = edgevit(*arguments, "--threads", 1, "-o", out, "--markdown", summary)
    assert result.exit_code == 1
    assert "int8" in result.stdout
    assert "int8" in summary.read_text()
    assert f"Error: cannot write {out}: No space left on device" in result.stderr


# Names of any bytes


@pytest.fixture
def odd_folder(held_out, tmp_path):
    """Labelled images whose names are not UTF-8, in a folder whose name is not either."""
    folder = tmp_path / os.fsdecode(b"\xe9t\xe9")
    try:
        for source in sorted(held_out.rglob("*.png"))[:6]:
            target = folder / source.parent.name / os.fsdecode(b"\xff" + source.name.encode())
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    except OSError:
        pytest.skip("the file system takes UTF-8 names alone")
    return folder


@pytest.mark.uncounted
def test_names_that_are_not_utf8_cost_no_result(edgevit, bundle, odd_folder, tmp_path):
    out, part = tmp_path / "out.json", tmp_path / "part.json"
    common = [bundle.path, "--data", odd_folder, "--threads", 1, "--backend", "ort"]
    for arguments in (
        ("eval", *common, "-o", out),
        ("eval", *common, "--shard", "1/1", "-o", part),
        ("merge", part, "-o", tmp_path / "merged.json"),
        ("verify", *common, "--iterations", 3, "-o", tmp_path / "out.html"),
        ("report", bundle.path, "-o", tmp_path / "out.md"),
    ):
        result = edgevit(*arguments)
        assert "internal error" not in result.stderr
        assert result.exit_code in (0, 3, 5), result.stderr
    assert json.loads(out.read_bytes())["data"].endswith("\\xe9t\\xe9")
    assert json.loads((tmp_path / "merged.json").read_bytes())["num_images"] == 6
