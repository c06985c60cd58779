from __future__ import annotations

import importlib.metadata
import sys
import types

import numpy as np
import pytest

from edge_vit.camera.sources.address import parse_address, source_maker
from edge_vit.data.images import ArraySource, open_image_source
from edge_vit.data.registry import (
    PLUGINS,
    SHIPPED,
    SourceKind,
    frame_forms,
    image_forms,
    kind_of,
)
from edge_vit.errors import SpecError
from edge_vit.plugins import import_target


@pytest.mark.parametrize("kind", SHIPPED, ids=lambda kind: kind.name)
def test_every_opener_is_there(kind):
    openers = [target for target in (kind.images, kind.frames) if target]
    assert openers
    assert all(callable(import_target(target)) for target in openers)
    assert kind.form in image_forms() + frame_forms()


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "a.JPG": "image",
        "a": "image",
        "a.tar": "image",
        "a.CSV": "table",
        "b.txt": "table",
        "c.npz": "array",
        "d.tgz": "cifar",
        "e.Mp4": "video",
        "rtsp:x.y4m": "video",
    }.items(),
)
def test_a_file_is_known_by_its_name(tmp_path, name, expected):
    (tmp_path / name).touch()
    assert kind_of(str(tmp_path / name)).name == expected
    assert kind_of(f"file://{tmp_path / name}").name == expected


def test_a_folder_is_known_by_what_is_in_it(tmp_path):
    (tmp_path / "test").touch()
    assert kind_of(str(tmp_path)).name == "folder"
    (tmp_path / "meta").touch()
    assert kind_of(str(tmp_path)).name == "cifar"


def test_a_camera_is_no_source_of_images():
    with pytest.raises(SpecError, match=r"source csi://0 is the CSI .* --keep-frames DIR"):
        open_image_source("csi://0")
    with pytest.raises(SpecError, match="source rtsps://cam/x is a network camera"):
        open_image_source("rtsps://me:secret@cam/x")


def test_an_unknown_scheme_proposes_what_is_near(tmp_path):
    with pytest.raises(SpecError, match=r"got scheme 'rstp', .*Did you mean rtsp:\?"):
        open_image_source("rstp://cam/x")
    with pytest.raises(SpecError, match="A plug-in that adds lmdb: is not installed"):
        open_image_source("lmdb:photos")


@pytest.fixture
def plugin(monkeypatch):
    """A distribution that adds the scheme ``toy``, as if it were installed."""
    module = types.ModuleType("toy_images")

    def open_toy(address, wanted):
        count = int(address.partition(":")[2])
        return ArraySource(np.zeros((count, 4, 4, 3), np.uint8), [0] * count, wanted.labels)

    module.open_toy = open_toy
    module.TOY = SourceKind(
        *("toy", "toy:N", "N black images"), images="toy_images:open_toy", schemes=("toy",)
    )
    monkeypatch.setitem(sys.modules, "toy_images", module)
    points = (importlib.metadata.EntryPoint("toy", "toy_images:TOY", PLUGINS._group),)

    def entry_points(group):
        return [p for p in points if p.group == group]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    monkeypatch.setattr(PLUGINS, "_loaded", {})
    return module


def test_a_plug_in_adds_a_scheme(plugin):
    source = open_image_source("toy:5", ("black", "white"), limit=3)
    assert [item.label for item in source] == [0, 0, 0]
    assert source.labels == ("black", "white")
    with pytest.raises(SpecError, match=r"Did you mean toy:\?"):
        open_image_source("tyo:5")


def test_a_plug_in_may_give_frames(plugin):
    with pytest.raises(SpecError, match="toy://5 gives images and no frames"):
        parse_address("toy://5")
    plugin.open_live = lambda address, timeout_s, clock: (address.target, timeout_s)
    plugin.TOY = SourceKind(
        *("toy", "toy://N", "black frames"),
        frames="toy_images:open_live",
        schemes=("toy",),
        options=("rate",),
        is_live=True,
    )
    PLUGINS._loaded.clear()
    maker = source_maker("toy://5#rate=2", timeout_s=1.5)
    assert (maker.name, maker.is_live, maker.make()) == ("toy://5", True, ("5", 1.5))


def test_options_of_a_plug_in_are_not_held_to_those_of_sinks(plugin):
    plugin.TOY = SourceKind(
        *("toy", "toy://N", "N black frames"),
        frames="toy_images:open_live",
        schemes=("toy",),
        options=("on", "interval", "rate"),
    )
    PLUGINS._loaded.clear()
    options = parse_address("toy://5#on=motion,interval=1m").options
    assert options == {"on": "motion", "interval": "1m"}
    with pytest.raises(SpecError, match="got 'rate=0', expected rate=N, at least 1"):
        parse_address("toy://5#rate=0")
