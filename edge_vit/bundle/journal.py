"""How a bundle changes in one step: a complete change lies beside the files before any is touched.

A change is filled in the folder `STAGED`. Renaming that to `NEXT` is what commits it: before, the
old manifest and the old files are the bundle; afterwards what `NEXT` holds is. Then its files are
moved to their places, and its manifest last. A reader that comes in between, or after a process was
killed, takes from `NEXT` what is there, and the next writer moves the rest.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from pathlib import Path

from edge_vit.bundle.manifest import MANIFEST, Manifest, check_name
from edge_vit.errors import ArtifactError
from edge_vit.files import refuse_os_errors, sync_folder, write_atomically

STAGED, NEXT = ".staged", ".next"


def manifest_paths(folder: Path) -> tuple[Path, Path]:
    """Return where the manifest of the bundle in `folder` lies: the first that is there counts."""
    return folder / NEXT / MANIFEST, folder / MANIFEST


def file_paths(folder: Path, name: str) -> tuple[Path, ...]:
    """Return where the file `name` of the bundle may lie, in the order in which to look.

    The first place comes again at the end, as a writer may move the file there in between.
    """
    return folder / name, folder / NEXT / name, folder / name


def stage_file(folder: Path, name: str, data: bytes | Path) -> None:
    """Write `data`, or a copy of that file, below `folder`, and flush it to the disk.

    It belongs to a change that is not committed yet.
    """
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        if isinstance(data, Path):
            with data.open("rb") as source:
                shutil.copyfileobj(source, file, 1 << 20)
        else:
            file.write(data)
        file.flush()
        os.fsync(file.fileno())


def commit(folder: Path) -> None:
    """Make the change in `STAGED` the bundle in `folder`, which has to be locked.

    Where the disk refuses, `folder` holds the old bundle or, after the commit, the new one.
    """
    with refuse_os_errors(folder):
        sync_tree(folder / STAGED)
        (folder / STAGED).replace(folder / NEXT)
        sync_folder(folder)
    try:
        tidy(folder)
    except KeyboardInterrupt:
        tidy(folder)  # a matter of milliseconds, and then all is in its place
        raise


def tidy(folder: Path) -> None:
    """Finish a committed change in the locked `folder`, and remove one that was not committed."""
    following, current = manifest_paths(folder)
    if following.is_file():
        _finish(folder, following, current)
    with refuse_os_errors(folder):
        for leftover in (folder / STAGED, folder / NEXT):
            if leftover.is_dir():
                shutil.rmtree(leftover)
        for path in folder.glob(".*.partial"):  # writes of files in it that were cut off
            path.unlink(missing_ok=True)


def sync_tree(folder: Path) -> None:
    """Write the entries of `folder` and of all folders below it to the disk."""
    for place, _, _ in os.walk(folder):
        sync_folder(Path(place))


def _finish(folder: Path, following: Path, current: Path) -> None:
    manifest = Manifest.from_bytes(following.read_bytes(), str(following), str(folder))
    touched = {folder}
    for name in manifest.artifacts:
        source, target = folder / NEXT / name, folder / name
        _refuse_outside(folder, target)
        with refuse_os_errors(target):
            if source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                _move(source, target)
                touched.add(target.parent)
    for name in _names_in(current) - set(manifest.artifacts):
        _refuse_outside(folder, folder / name)
        with refuse_os_errors(folder / name):
            (folder / name).unlink(missing_ok=True)
    with refuse_os_errors(current):
        for place in touched:
            sync_folder(place)
        following.replace(current)
        sync_folder(folder)


def _move(source: Path, target: Path) -> None:
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        write_atomically(target, source.read_bytes())  # a folder in it lies on another disk
        source.unlink()


def _names_in(manifest: Path) -> set[str]:
    """Return the files that a manifest names, so far as it can be read."""
    with contextlib.suppress(OSError, ValueError, RecursionError, KeyError, TypeError):
        names = set()
        for name in json.loads(manifest.read_bytes())["artifacts"]:
            with contextlib.suppress(ArtifactError):
                check_name(name)
                names.add(name)
        return names
    return set()


def _refuse_outside(folder: Path, path: Path) -> None:
    """Refuse to write through a link that leads out of the bundle."""
    home = folder.resolve()
    if not path.parent.resolve().is_relative_to(home):
        raise ArtifactError(
            f"{path.parent} is a link that leaves the bundle: nothing is written there. "
            "Put a folder in its place"
        )
