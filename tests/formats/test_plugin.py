"""A number format that another distribution adds: found by its entry point, in one module."""

from __future__ import annotations

import sys

import numpy as np
import pytest

pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime")

from click.testing import CliRunner
from tiny_graph import golden_bundle, tiny_images

from edge_vit.bundle import Bundle
from edge_vit.cli.export import command as export
from edge_vit.errors import SpecError
from edge_vit.formats import FORMATS, all_formats, find_format, look_of
from edge_vit.lowering.variants import write_formats
from edge_vit.measure.verdict import choose_candidate
from edge_vit.report.html import fill_template
from edge_vit.runtime import open_session
from edge_vit.runtime.self_test import run_self_test

MODULE = '''
from edge_vit.formats import Look, NumberFormat, Variant
from edge_vit.lowering.variants import Lowered


def lower(request):
    """Round each weight to a multiple of 1/256."""
    import numpy as np
    from onnx import numpy_helper

    model = request.read_model()
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            coarse = (np.round(array * 256) / 256).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(coarse, tensor.name))
    return Lowered({FORMAT.file: model.SerializeToString()}, request.parents, notes=("coarse",))


FORMAT = NumberFormat(
    name="coarse",
    title="COARSE",
    help="multiples of 1/256",
    order=150,
    bits=12,
    variants=(Variant("any", "every backend", "onnx/coarse.onnx", proven_by="nothing"),),
    self_test_limit=0.3,
    look=Look("#123456", "#abcdef", "green", "P"),
    lower="toy_format:lower",
)
'''


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Return a function that installs the toy distribution for this test, as pip would."""
    folder = tmp_path / "site"

    def install(module: str = MODULE) -> None:
        info = folder / "toy_format-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / "toy_format.py").write_text(module)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-format\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[edge_vit.formats]\ncoarse = toy_format:FORMAT\n")
        monkeypatch.syspath_prepend(str(folder))
        all_formats.cache_clear()

    yield install
    monkeypatch.undo()
    sys.modules.pop("toy_format", None)
    FORMATS._loaded.pop("coarse", None)
    all_formats.cache_clear()


def test_takes_its_place_between_the_others(installed):
    installed()
    assert [each.name for each in all_formats()] == ["fp32", "fp16", "coarse", "int8"]
    assert choose_candidate(["fp32", "coarse"]) == "coarse"
    assert look_of("coarse").marker == "P"


def test_is_written_run_and_tested_like_any_other(installed, tmp_path):
    installed()
    bundle = golden_bundle(tmp_path / "tiny.edgevit")
    with bundle.change() as change:
        write_formats(bundle, change, [find_format("coarse")])
    bundle = Bundle.open(bundle.path)
    assert "coarse" in bundle.precisions
    with (
        open_session(bundle, "coarse", "ort") as coarse,
        open_session(bundle, "fp32", "ort") as exact,
    ):
        outputs = [session.run({"images": tiny_images(2)})["logits"] for session in (coarse, exact)]
        result = run_self_test(coarse, bundle)
    assert 0 < np.abs(outputs[0] - outputs[1]).max() < 0.1
    assert result.limit == 0.3
    assert 0 < result.error < result.limit


def test_the_command_line_and_the_page_know_it(installed):
    installed()
    from edge_vit.cli import export as module

    flags = module._format_flags(lambda: None).__click_params__
    assert {flag.name for flag in flags} == {"fp16", "coarse", "int8"}
    assert "--coarse: #123456" in fill_template("head.html", title="toy")


def test_one_that_cannot_be_loaded_is_left_out_and_named(installed, caplog):
    installed("raise ValueError('broken')")
    assert [each.name for each in all_formats()] == ["fp32", "fp16", "int8"]
    assert "toy-format cannot be loaded: ValueError: broken" in caplog.text
    with pytest.raises(SpecError, match="toy-format cannot be loaded"):
        find_format("coarse")


def test_without_it_the_command_line_refuses_its_flag(tmp_path):
    result = CliRunner().invoke(export, ["timm:x", "-o", str(tmp_path / "x"), "--coarse"])
    assert result.exit_code == 2
    assert "--coarse" in result.output
