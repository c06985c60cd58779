"""One tiny bundle for all tests of the command line, and a way to call it."""

from __future__ import annotations

import shutil
import traceback

import pytest
from click.testing import CliRunner
from PIL import Image
from tiny import exported_as, tiny_digits, write_held_out

from edge_vit.bundle import Bundle
from edge_vit.cli import main


@pytest.fixture(autouse=True, scope="module")
def onnx_runtime_first():
    """Let ``auto`` take ONNX Runtime, which opens a session in a fraction of OpenVINO's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edge_vit.runtime.backends.has_vnni", lambda: False)
        yield


@pytest.fixture
def edgevit():
    """Return a function that calls the command line, and checks that no traceback comes of it."""

    def call(*arguments, charset="utf-8"):
        result = CliRunner(charset=charset).invoke(main, list(map(str, arguments)))
        if result.exc_info and not isinstance(result.exception, SystemExit | None):
            pytest.fail("".join(traceback.format_exception(*result.exc_info)))
        assert "Traceback" not in result.output or "--verbose" in arguments
        return result

    return call


@pytest.fixture
def refused(edgevit):
    """Return a function that calls the command line, and returns its one line of refusal."""

    def call(*arguments, status=1):
        result = edgevit("--quiet", *arguments)
        assert result.exit_code == status, result.output
        assert result.stdout == ""
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        if status != 2:  # wrong usage shows the usage too
            assert result.stderr == line + "\n"
        return line.removeprefix("Error: ")

    return call


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory):
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="session")
def held_out(tiny_home):
    """Return a folder of class folders: 40 digits."""
    return write_held_out(tiny_home / "val")


@pytest.fixture(scope="session")
def calibration(tiny_home):
    """Return a flat folder: 8 digits to calibrate on."""
    folder = tiny_home / "calib"
    folder.mkdir()
    for index, pixels in enumerate(tiny_digits().train_images[::150]):
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def made(shared_bundle, monkeypatch):
    """Spare the work of exporting; return the addresses of what was to be exported."""
    from edge_vit.export import export

    addresses, earlier = [], exported_as(shared_bundle)

    def export_model(request, **options):
        addresses.append(request.address)
        return earlier

    monkeypatch.setattr(export, "export_model", export_model)
    return addresses


@pytest.fixture
def bundle(shared_bundle, tmp_path):
    """Return a copy of the bundle, to write to."""
    path = tmp_path / "digits.edgevit"
    shutil.copytree(shared_bundle.path, path)
    return Bundle.open(path)


@pytest.fixture
def image(held_out):
    """Return one image."""
    return sorted(held_out.glob("3/*.png"))[0]
