"""A manifest knows when it was edited; those of before, which do not, are still read."""

from __future__ import annotations

import dataclasses
import json

import pytest
from small_bundles import SPEC

from edge_vit.bundle import BUNDLE_FORMAT, MANIFEST, TABLE, Bundle, draft_bundle
from edge_vit.errors import ArtifactError
from edge_vit.printable import printable


def rewrite(bundle, change):
    """Change the parsed manifest of `bundle` on disk, and write it as another program would."""
    path = bundle.path / MANIFEST
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def as_format_1(data):
    del data["digest"]
    data["format"] = 1


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda d: d["spec"]["preprocess"]["mean"].reverse(), id="mean"),
        pytest.param(lambda d: d["spec"]["labels"].reverse(), id="labels"),
        pytest.param(lambda d: d["spec"]["preprocess"].update(crop_pct=0.875), id="crop"),
        pytest.param(lambda d: d["artifacts"].pop(TABLE), id="a file less"),
        pytest.param(lambda d: d["artifacts"][TABLE].update(parents=[]), id="parents"),
        pytest.param(lambda d: d.update(created="2020-01-01T00:00:00+00:00"), id="time"),
        pytest.param(lambda d: d.update(digest="0" * 64), id="digest"),
        pytest.param(lambda d: d.pop("digest"), id="no digest"),
        pytest.param(lambda d: d.update(digest=None), id="null"),
    ],
)
def test_an_edited_manifest_is_refused(bundle, change):
    rewrite(bundle, change)
    with pytest.raises(ArtifactError, match=r"manifest\.json was edited: .* --force") as caught:
        Bundle.open(bundle.path)
    assert "\n" not in str(caught.value)


def test_spacing_and_order_are_no_edit(bundle):
    path = bundle.path / MANIFEST
    data = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(data.items())), indent=4, ensure_ascii=True))
    assert Bundle.open(bundle.path).manifest == bundle.manifest


def test_a_manifest_of_format_1_is_read_without_a_digest(bundle):
    rewrite(bundle, as_format_1)
    old = Bundle.open(bundle.path)
    assert (old.manifest.format, old.spec) == (1, bundle.spec)
    old.check()


def test_what_is_written_to_an_old_bundle_brings_the_new_format(bundle):
    rewrite(bundle, as_format_1)
    added = Bundle.open(bundle.path).add({"notes.txt": b"new"})
    assert added.manifest.format == Bundle.open(bundle.path).manifest.format == BUNDLE_FORMAT
    assert "digest" in json.loads((bundle.path / MANIFEST).read_text())


@pytest.mark.parametrize("number", [True, 1.5, "1", None, 99])
def test_an_unknown_format_is_refused(bundle, number):
    rewrite(bundle, lambda data: data.update(format=number))
    with pytest.raises(ArtifactError, match=r"bundle format .*, this edge-vit reads 1 and 2"):
        Bundle.open(bundle.path)


def test_the_digest_is_known_to_reports(bundle):
    assert bundle.digest == Bundle.open(bundle.path).digest
    assert bundle.add({"notes.txt": b"new"}).digest == Bundle.open(bundle.path).digest
    assert bundle.digest != Bundle.open(bundle.path).digest


@pytest.mark.parametrize(
    "label", ["\udce9t\udce9", "half \ud83d", "\x1b[31m", "\u202eright", 'a "b"\\']
)
def test_labels_of_any_characters_survive_their_digest(tmp_path, label):
    spec = dataclasses.replace(SPEC, labels=("cat", label), source=f"onnx:{label}.onnx")
    with draft_bundle(tmp_path / "odd.edgevit", spec):
        pass
    opened = Bundle.open(tmp_path / "odd.edgevit")
    opened.check()
    assert printable(opened.spec.labels[1]) == printable(label)
    (tmp_path / "odd.edgevit" / MANIFEST).read_text(encoding="utf-8")
