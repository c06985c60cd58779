"""New bundles: filled beside their place, there in one step, over an old one or not."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from edge_vit.bundle.bundle import Bundle
from edge_vit.bundle.journal import STAGED, commit, manifest_paths, stage_file, sync_tree, tidy
from edge_vit.bundle.manifest import BUNDLE_FORMAT, MANIFEST, TABLE, WEIGHTS, Artifact, Manifest
from edge_vit.errors import ArtifactError
from edge_vit.files import refuse_os_errors, sync_folder
from edge_vit.formats import all_formats
from edge_vit.locks import LOCK, locked
from edge_vit.progress import SILENT, Progress
from edge_vit.spec import ModelSpec


def _derived_files() -> list[str]:
    """Return the files that are made from others of the bundle, parents before children."""
    files = [f for each in all_formats() if not each.is_reference for f in each.files]
    return [TABLE, *files, *(f + WEIGHTS for f in files)]


def refuse_existing(path: Path, *, force: bool) -> None:
    """Refuse a `path` where something is that is no bundle, or that `force` does not replace."""
    if path.exists() and not any(manifest.exists() for manifest in manifest_paths(path)):
        raise ArtifactError(
            f"{path} exists and is not a bundle; --force replaces bundles only. Take another name"
        )
    if path.exists() and not force:
        raise ArtifactError(f"{path} exists already. Add --force to replace it")


@contextlib.contextmanager
def draft_bundle(
    path: Path | str,
    spec: ModelSpec,
    *,
    force: bool = False,
    progress: Progress = SILENT,
    lock_timeout: float | None = None,
) -> Iterator[Bundle]:
    """Give an empty bundle that appears at `path` when the block ends well, and not otherwise.

    Over an old bundle, with `force`, it comes in one step: links lead to the new one, a process
    that is killed leaves the old or the new, and files that were made from what did not change
    stay. Another writer is waited for, `lock_timeout` seconds at most.
    """
    path = Path(path)
    refuse_existing(path, force=force)
    home = Path(os.path.realpath(path))
    with refuse_os_errors(path):
        home.parent.mkdir(parents=True, exist_ok=True)
    with _locked_place(home, progress, lock_timeout):
        refuse_existing(path, force=force)  # another command may have made it while this waited
        is_there = home.is_dir()
        folder = home / STAGED if is_there else home.with_name(f".{home.name}.partial")
        try:
            with refuse_os_errors(path):
                if is_there:
                    tidy(home)
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
                manifest = Manifest(BUNDLE_FORMAT, now, spec, {})
                stage_file(folder, MANIFEST, manifest.to_bytes())  # one without files opens too
            yield Bundle(folder, manifest)
            with refuse_os_errors(path):
                if is_there:
                    _replace(home, folder, progress)
                else:
                    sync_tree(folder)
                    folder.replace(home)
                    sync_folder(home.parent)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked_place(home: Path, progress: Progress, timeout_s: float | None) -> Iterator[None]:
    """Hold the lock of the bundle at `home`, or of the place where there is none yet."""
    while True:
        is_there = home.is_dir()
        lock = home / LOCK if is_there else home.with_name(f".{home.name}{LOCK}")
        with locked(lock, progress, timeout_s):
            if home.is_dir() == is_there:
                yield
                return


def _replace(home: Path, folder: Path, progress: Progress) -> None:
    """Make the draft in `folder` the bundle at `home`, with what fits it of the old one."""
    manifest = Bundle.open(folder).manifest
    try:
        old = Bundle.open(home)
    except ArtifactError:  # which is why it is made anew
        old = None
    kept = _fitting(old, manifest) if old else {}
    artifacts = {**manifest.artifacts, **kept}
    gone = [n for n in _derived_files() if old and old.has(n) and n not in artifacts]
    if old is not None and (old.spec, old.manifest.artifacts) == (manifest.spec, artifacts):
        manifest = old.manifest  # byte for byte the same, so that reports know it
    manifest = dataclasses.replace(manifest, artifacts=artifacts)
    stage_file(folder, MANIFEST, manifest.to_bytes())
    reports = home / "reports"
    goes = reports.is_dir() and not (old and _graphs(old.manifest) == _graphs(manifest))
    stays = [*kept, *(["reports/"] if reports.is_dir() and not goes else [])]
    if stays:
        progress.note(f"kept, as the graph is the same: {', '.join(stays)}")
    if gone or goes:
        every = [*gone, *(["reports/"] if goes else [])]
        progress.note(f"gone, of the bundle that was there: {', '.join(every)}")
    commit(home)
    if goes:
        shutil.rmtree(reports, ignore_errors=True)


def _graphs(manifest: Manifest) -> tuple[ModelSpec, dict[str, str]]:
    """Return what decides a bundle's predictions: reports stay where it is the same."""
    artifacts = manifest.artifacts.items()
    return manifest.spec, {n: each.sha256 for n, each in artifacts if n.startswith("onnx/")}


def _fitting(old: Bundle, new: Manifest) -> dict[str, Artifact]:
    """Return the files of `old` whose parents are all in `new`, and that are whole."""
    kept: dict[str, Artifact] = {}
    is_same = old.spec.preprocess == new.spec.preprocess and old.spec.task == new.spec.task
    for name in _derived_files() if is_same else ():
        artifact = old.manifest.artifacts.get(name)
        if artifact is None or name in new.artifacts:
            continue
        known = {each.sha256 for each in (*new.artifacts.values(), *kept.values())}
        if artifact.parents and known.issuperset(artifact.parents):
            with contextlib.suppress(ArtifactError):
                old.check_file(name)
                kept[name] = artifact
    return kept
