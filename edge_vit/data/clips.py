"""Clips: the frames that a model reads out of a video, a folder of frames or an array."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_vit.data.decoding import is_image, load_frames, load_image
from edge_vit.data.folder import Found, find_files, is_image_file
from edge_vit.data.preprocess import UInt8Array
from edge_vit.data.registry import VIDEO_SUFFIXES
from edge_vit.data.video import VideoSource
from edge_vit.errors import ImageError
from edge_vit.printable import natural_key
from edge_vit.spec import ClipSpec

CLIP_SUFFIXES = (*VIDEO_SUFFIXES, ".npy")
"""Endings of the names of files that hold one clip each, in lower case."""

STRIP_FRAMES = 4  # of a clip that are shown side by side, or make its signature


def read_clip(path: str | Path, clip: ClipSpec) -> UInt8Array:
    """Return the frames that `clip` reads, uint8 (frames, H, W, 3) RGB.

    `path` is a video, an animated picture, a ``.npy`` array (frames, H, W, 3), or a folder of
    frames in the order of their names, numbers in them by value.

    Raises:
        ImageError: there is no clip at the path, or it cannot be decoded.
    """
    path = Path(path)
    if path.is_dir():
        return _read_frames(path, clip)
    if path.suffix.lower() == ".npy" and path.is_file():
        return _read_array(path, clip)
    if path.is_file() and is_image(path, with_bmp=True):
        frames = load_frames(path, clip.indices)
        if frames is not None:
            return frames
        raise ImageError(
            f"{path} is a single image, and the model reads {clip}. Expected a video, a folder of "
            "frames, or a .npy array (frames, height, width, 3)"
        )
    return VideoSource(path).read_clip(clip)


def strip_of(pixels: UInt8Array) -> UInt8Array:
    """Return an image as it is, and a clip as one image of a few frames side by side."""
    return pixels if pixels.ndim == 3 else np.concatenate(list(_some(pixels)), axis=1)


def tiles_of(pixels: UInt8Array) -> UInt8Array:
    """Return an image as it is, and a clip as one image of four frames in two rows."""
    if pixels.ndim == 3:
        return pixels
    frames = _some(pixels)
    return np.concatenate(
        [np.concatenate(list(row), axis=1) for row in (frames[:2], frames[2:])], axis=0
    )


def _some(clip: UInt8Array) -> UInt8Array:
    """Return `STRIP_FRAMES` frames of a clip, the first and the last among them."""
    chosen = np.linspace(0, len(clip) - 1, STRIP_FRAMES).round().astype(int)
    frames: UInt8Array = clip[chosen]
    return frames


def _read_frames(folder: Path, clip: ClipSpec) -> UInt8Array:
    files = [path for path in folder.iterdir() if is_image_file(path)]
    if not files:
        raise ImageError(f"clip {folder} is a folder without images, expected its frames")
    files.sort(key=lambda path: natural_key(path.name))
    frames: dict[int, UInt8Array] = {}
    indices = clip.indices(len(files))
    for index in indices:
        if index not in frames:
            frames[index] = load_image(files[index])
        _check_size(folder, frames[index], frames[indices[0]])
    return np.stack([frames[index] for index in indices])


def _read_array(path: Path, clip: ClipSpec) -> UInt8Array:
    try:
        frames = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # what is read was made elsewhere, and may be anything
        raise ImageError(f"clip {path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(frames, np.ndarray):  # what it holds tells np.load, not its name
        raise ImageError(
            f"clip {path} holds an .npz archive, expected one array as numpy.save writes it"
        )
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        got = f"{frames.dtype} {frames.shape}"
        raise ImageError(f"clip {path}: got {got}, expected uint8 (frames, height, width, 3) RGB")
    return sample(frames, clip)


def sample(frames: UInt8Array, clip: ClipSpec) -> UInt8Array:
    """Return what `clip` reads of an array of frames; exactly so many are taken as sampled."""
    if len(frames) == clip.frames:
        return np.asarray(frames)
    return np.asarray(frames[list(clip.indices(len(frames)))])


def _check_size(where: Path, frame: UInt8Array, first: UInt8Array) -> None:
    if frame.shape != first.shape:
        sizes = " and ".join(f"{each.shape[1]} x {each.shape[0]}" for each in (first, frame))
        raise ImageError(f"clip {where}: its frames are of different sizes, {sizes} pixels")


def find_clips(folder: Path) -> Found:
    """Return the clips below `folder`, flat or in class folders: files, and folders of frames.

    A folder with images in it is one clip; so is `folder` itself, whose path is then ``.``.
    """
    paths: dict[Path, None] = {}
    others: list[Path] = []
    for path in find_files(folder):
        if path.suffix.lower() in CLIP_SUFFIXES:
            paths[path] = None
        elif is_image_file(folder / path):
            paths[path.parent] = None
        else:
            others.append(path)
    return Found(
        sorted(paths, key=lambda path: path.parts),
        others,
        noun="clip",
        wanted="videos, .npy arrays (frames, height, width, 3) or folders of frames",
        left_out="neither videos nor frames",
    )
