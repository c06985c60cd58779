"""Every kind of source of images and frames by its address, as data.

A kind has its addresses, and the functions that open it: as images, each with its
class where that is known, or as the frames of a camera's loop. Other distributions add kinds with
an entry point ``edge_vit.data``, called by the scheme of their addresses::

    [project.entry-points."edge_vit.data"]
    lmdb = "my_package.lmdb_images:LMDB"  # a SourceKind, for addresses such as lmdb:photos
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_vit.errors import SpecError
from edge_vit.plugins import Registry

IMAGE_SUFFIXES = (".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".webp")
"""Endings of the names of images, in lower or upper case."""

LIST_SUFFIX = ".txt"
TABLE_SUFFIXES = (LIST_SUFFIX, ".csv", ".tsv")
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mkv", ".mov", ".avi", ".webm", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg"),
    *(".3gp", ".3g2", ".flv", ".f4v", ".wmv", ".asf", ".ogv", ".m2v", ".ivf", ".y4m", ".vob"),
    *(".mxf", ".nut", ".qt", ".divx", ".h264", ".264", ".h265", ".265", ".hevc", ".mjpeg"),
    *(".mjpg", ".gif"),
)
CIFAR_FILES = (
    ("cifar-10-batches-py", "test_batch", "batches.meta"),
    ("cifar-100-python", "test", "meta"),
    ("cifar-10-batches-bin", "test_batch.bin", "batches.meta.txt"),
    ("cifar-100-binary", "test.bin", "fine_label_names.txt"),
)
"""Of each form in which CIFAR is published: the archive's folder, the test images, the names."""

_SIZE = ("width", "height", "rate")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")  # of two letters at least: C: is a drive


@dataclass(frozen=True)
class SourceKind:
    """One kind of source."""

    name: str
    form: str  # how its addresses are written
    help: str  # what it is, in a few words
    # The module:function that opens it as images, called with its address and a Wanted; empty where
    # it goes on for ever
    images: str = ""
    # The module:function that opens it as a camera's frames, called with a SourceAddress, the
    # seconds to wait and a clock; empty where it has none
    frames: str = ""
    schemes: tuple[str, ...] = ()  # with which its addresses begin
    suffixes: tuple[str, ...] = ()  # of its files, in lower case
    # Sets of paths; a folder that holds all files of one set is this kind's
    layouts: tuple[tuple[str, ...], ...] = ()
    options: tuple[str, ...] = ()  # names that may stand behind a # in the address
    holds_samples: bool = False  # whether it may hold inputs that are no images
    is_live: bool = False  # whether it goes on by itself, so that the newest frame counts
    needs: str = ""  # the package that has to be installed for it


_CAMERA = "edge_vit.camera.sources"
SHIPPED = (
    SourceKind(
        *("folder", "DIR", "images, flat or in class folders, also as ImageNet or YOLO have them"),
        images="edge_vit.data.images:open_folder",
        frames=f"{_CAMERA}.simple:FolderSource",
    ),
    SourceKind(
        *("cifar", "DIR or .tar.gz", "CIFAR-10 or CIFAR-100 as published"),
        images="edge_vit.data.cifar:open_cifar",
        suffixes=(".tar.gz", ".tgz"),
        layouts=tuple(
            (f"{place}{test}", f"{place}{names}")
            for folder, test, names in CIFAR_FILES
            for place in ("", f"{folder}/")
        ),
    ),
    SourceKind(
        *("coco", "FILE.json", "images with boxes, as COCO annotates them"),
        images="edge_vit.data.annotated:open_coco",
        suffixes=(".json",),
    ),
    SourceKind(
        *("table", "TABLE.csv, .tsv or .txt", "paths of images, with or without a class"),
        images="edge_vit.data.tables:open_table",
        suffixes=TABLE_SUFFIXES,
    ),
    SourceKind(
        *("array", "FILE.npz or .npy", "images, and labels in a .npz"),
        images="edge_vit.data.images:open_array",
        suffixes=(".npy", ".npz"),
        holds_samples=True,
    ),
    SourceKind(
        *("seeds", "seeds:0-31", "noise by its seed, for models that generate"),
        images="edge_vit.data.samples:open_seeds",
        schemes=("seeds",),
        holds_samples=True,
    ),
    SourceKind(
        *("video", "FILE.mp4", "frames of a video"),
        images="edge_vit.data.video:open_video",
        frames=f"{_CAMERA}.stream:StreamSource",
        suffixes=VIDEO_SUFFIXES,
        needs="av",
    ),
    SourceKind(
        *("image", "FILE.jpg", "one JPEG, PNG, WebP or BMP file"),
        images="edge_vit.data.images:open_image",
        suffixes=IMAGE_SUFFIXES,
    ),
    SourceKind(
        *("csi", "csi://0", "the CSI camera of a Jetson"),
        frames=f"{_CAMERA}.gstreamer:GStreamerSource",
        schemes=("csi",),
        options=_SIZE,
        is_live=True,
    ),
    SourceKind(
        *("v4l2", "v4l2:///dev/video0 (or 0)", "a USB camera"),
        frames=f"{_CAMERA}.stream:StreamSource",
        schemes=("v4l2",),
        options=(*_SIZE, "format"),
        is_live=True,
        needs="av",
    ),
    SourceKind(
        *("rtsp", "rtsp://HOST/PATH", "a network camera"),
        frames=f"{_CAMERA}.stream:StreamSource",
        schemes=("rtsp", "rtsps"),
        options=("transport",),
        is_live=True,
        needs="av",
    ),
    SourceKind(
        *("http", "http://HOST/PATH", "a stream from a web server"),
        frames=f"{_CAMERA}.stream:StreamSource",
        schemes=("http", "https"),
        is_live=True,
        needs="av",
    ),
    SourceKind(
        *("gst", "gst:PIPELINE", "a pipeline of GStreamer's"),
        frames=f"{_CAMERA}.gstreamer:GStreamerSource",
        schemes=("gst",),
        is_live=True,
    ),
    SourceKind(
        *("test", "test://", "a moving pattern"),
        frames=f"{_CAMERA}.simple:PatternSource",
        schemes=("test",),
        options=(*_SIZE, "count"),
        is_live=True,
    ),
)
"""The kinds of edge-vit itself. Of a folder or file the first that fits is taken."""

PLUGINS: Registry[SourceKind] = Registry("kind of source", "edge_vit.data", {})


def source_kinds() -> Iterator[SourceKind]:
    """Yield every kind: those that ship here, then those of plug-ins."""
    yield from SHIPPED
    yield from map(PLUGINS.load, PLUGINS)


def kind_named(name: str) -> SourceKind:
    """Return the kind called `name`."""
    return next(kind for kind in source_kinds() if kind.name == name)


def kind_of(address: str) -> SourceKind:
    """Return the kind of source at `address`: by what is there, else by its scheme.

    A file of any other name is taken for an image, and a path where nothing is for a folder:
    opening it reports what is wrong.
    """
    path = Path(address.removeprefix("file://"))
    if path.is_dir():
        fits = (
            kind
            for kind in SHIPPED
            if any(all((path / name).is_file() for name in names) for names in kind.layouts)
        )
        return next(fits, kind_named("folder"))
    if path.is_file():
        name = path.name.lower()
        ends = (kind for kind in source_kinds() if kind.suffixes and name.endswith(kind.suffixes))
        return next(ends, kind_named("image"))
    found = _SCHEME.match(address)
    return kind_of_scheme(found[1], hide_user(address)) if found else kind_named("folder")


def kind_of_scheme(scheme: str, address: str, *, has_frames: bool = False) -> SourceKind:
    """Return the kind whose addresses begin with `scheme`, of those with frames or of all."""
    kinds = [kind for kind in SHIPPED if kind.frames or not has_frames]
    for kind in kinds:
        if scheme in kind.schemes:
            return kind
    if scheme in PLUGINS:
        return PLUGINS.load(scheme)
    schemes = [*(scheme for kind in kinds for scheme in kind.schemes), *PLUGINS]
    near = difflib.get_close_matches(scheme, schemes, n=1)
    hint = (
        f"Did you mean {near[0]}:?"
        if near
        else f"A plug-in that adds {scheme}: is not installed, and no file is there"
    )
    raise SpecError(
        f"source {address}: got scheme {scheme!r}, expected a path or one of "
        f"{', '.join(schemes)}. {hint}"
    )


def hide_user(address: str) -> str:
    """Return `address` without user name and password, for a message."""
    return re.sub("(:/+).*@", r"\1", address)


def image_forms() -> str:
    """Return a phrase for each kind that images are read from, for a help text."""
    return "; ".join(f"{kind.form}: {kind.help}" for kind in SHIPPED if kind.images)


def frame_forms() -> str:
    """Return the forms of the addresses that frames are read from, for help and messages."""
    kinds = sorted(SHIPPED, key=lambda kind: not kind.is_live)
    return ", ".join(kind.form for kind in kinds if kind.frames)
