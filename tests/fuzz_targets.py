"""Every reader of a user's file, with valid files for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from fuzzing import Target, array_seeds, checkpoint_seeds, image_seeds
from tiny_graph import tiny_onnx

from edge_vit.bundle import MANIFEST, Bundle, Golden
from edge_vit.bundle.record import ExportRecord, HalfProof
from edge_vit.data.class_names import read_labels
from edge_vit.data.images import load_image, open_image_source
from edge_vit.export.checkpoint import fill
from edge_vit.export.export import export_model
from edge_vit.export.sources import SourceRequest
from edge_vit.report.saved import read_json, read_measured
from edge_vit.spec.table import CalibrationTable

GOLDEN_FILES = Path(__file__).parent / "golden"
IMAGES = ("a.png", "b c.png", "c.jpg", "Käfer.png")
LABELS = ("cat", "dog", "bird")
NAMES = (
    "manifest",
    "calibration table",
    "export record",
    "FP16 proof",
    "report",
    "golden images",
    "list of images",
    "table of images",
    "labels",
    "labels as JSON",
    "arrays",
    "image",
    "safetensors",
    "torch checkpoint",
    "ONNX file",
)


def make_targets(bundle: Bundle) -> dict[str, Target]:
    """Return the targets by name.

    Args:
        bundle: a small one with every file; it is not written to.
    """
    safetensors, saved = checkpoint_seeds()
    picture = image_seeds()[0]

    def read_manifest(path: Path) -> object:
        folder = path.parent / "b.edgevit"
        if not folder.exists():
            shutil.copytree(bundle.path, folder)
        shutil.copy(path, folder / MANIFEST)
        opened = Bundle.open(folder)
        opened.check()
        return opened.spec, opened.precisions, opened.read_table(), opened.read_golden()

    def read_onnx(path: Path) -> object:
        return export_model(SourceRequest(f"onnx:{path}"))

    def read_images(path: Path) -> object:
        for name in IMAGES:
            image = path.parent / name
            if not image.exists():
                image.write_bytes(picture)
        return len(open_image_source(path, LABELS))

    def read_weights(path: Path) -> object:
        return fill(torch.nn.ModuleDict({"head": torch.nn.Linear(4, 3)}), path)

    def seeds(*names: str) -> tuple[bytes, ...]:
        return tuple((GOLDEN_FILES / name).read_bytes() for name in names)

    lists = (b"a.png\nb c.png\n\nc.jpg\n", "Käfer.png\r\n".encode())
    tables = (b"path,label\na.png,0\nb c.png,2\n", b'path,label\n"a.png","cat"\nc.jpg,dog\n')
    labels = (b"cat\ndog\nbird\n", b'["cat", "dog"]', b'{"0": "cat", "1": "dog"}')
    targets = [
        Target(
            "manifest",
            "manifest.json",
            ((bundle.path / MANIFEST).read_bytes(),),
            read_manifest,
            is_json=True,
        ),
        Target(
            "calibration table",
            "calibration.json",
            (
                bundle.read("calibration.json"),
                *seeds(*(f"table.format{n}.json" for n in (1, 2, 3))),
            ),
            lambda path: CalibrationTable.from_bytes(path.read_bytes()),
            is_json=True,
        ),
        Target(
            "export record",
            "export.json",
            (bundle.read("export.json"), *seeds("export.format1.json")),
            lambda path: ExportRecord.from_bytes(path.read_bytes()),
            is_json=True,
        ),
        Target(
            "FP16 proof",
            "fp16.json",
            (bundle.read("fp16.json"),),
            lambda path: HalfProof.from_bytes(path.read_bytes()),
            is_json=True,
        ),
        Target(
            "report",
            "verify.json",
            seeds("report.format1.json", "report.format2.json"),
            lambda path: (read_measured(path, "a"), read_json(path)),
            is_json=True,
        ),
        Target(
            "golden images",
            "golden.npz",
            (bundle.read("golden/golden.npz"),),
            lambda path: Golden.from_bytes(path.read_bytes()),
        ),
        Target("list of images", "images.txt", lists, read_images),
        Target("table of images", "images.csv", tables, read_images),
        Target("labels", "labels.txt", labels, read_labels),
        Target("labels as JSON", "labels.json", labels[1:], read_labels, is_json=True),
        Target("arrays", "images.npz", array_seeds(), read_images),
        Target("image", "image.png", image_seeds(), load_image),
        Target("safetensors", "w.safetensors", safetensors, read_weights),
        Target("torch checkpoint", "w.pth", saved, read_weights),
        Target("ONNX file", "m.onnx", (tiny_onnx(), tiny_onnx(batch=1)), read_onnx),
    ]
    return {target.name: target for target in targets}
