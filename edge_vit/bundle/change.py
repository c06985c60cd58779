"""Files on their way into a bundle, all of them at once or none."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from edge_vit.bundle.journal import STAGED, commit, stage_file
from edge_vit.bundle.manifest import BUNDLE_FORMAT, MANIFEST, Artifact, check_name, digest_of
from edge_vit.errors import ArtifactError
from edge_vit.files import refuse_os_errors

if TYPE_CHECKING:
    from edge_vit.bundle.bundle import Bundle


class Change:
    """A change of a bundle that is being prepared; `Bundle.change` opens and commits it.

    Files go to the disk as they are added, and become part of the bundle together.

    Args:
        before: the bundle as it is on disk, locked.
        known: the bundle as the caller has opened it, maybe earlier.

    Attributes:
        before: see above.
        bundle: the bundle with the change; `before` until it is committed.
    """

    def __init__(self, before: Bundle, known: Bundle) -> None:
        self.before = self.bundle = before
        self._known = known
        self._artifacts = dict(before.manifest.artifacts)
        self._added: set[str] = set()

    def add(
        self,
        files: Mapping[str, bytes],
        *,
        parents: tuple[str, ...] = (),
        made_by: Mapping[str, str] | None = None,
    ) -> None:
        """Add `files`, or replace those of their names.

        Args:
            files: bytes by path inside the bundle.
            parents: names of the files that these were made from; added ones count.
            made_by: name and version of each tool that took part.

        Raises:
            ArtifactError: a parent is not there, or was changed by another command; or the disk
                refuses.
        """
        digests = tuple(self._digest_of_parent(name) for name in parents)
        for name, data in files.items():
            check_name(name)
            with refuse_os_errors(self.before.path / name):
                stage_file(self.before.path / STAGED, name, data)
            self._artifacts[name] = Artifact(digest_of(data), len(data), digests, made_by or {})
            self._added.add(name)

    def drop(self, *names: str) -> None:
        """Take files out of the bundle, where it has them."""
        for name in names:
            self._artifacts.pop(name, None)

    def commit(self) -> None:
        """Make the bundle what was prepared.

        Raises:
            ArtifactError: the disk refuses; the bundle is then the old one or the new one.
        """
        before = self.before
        if not self._added and self._artifacts == before.manifest.artifacts:
            return
        manifest = dataclasses.replace(
            before.manifest, format=BUNDLE_FORMAT, artifacts=self._artifacts
        )
        data = manifest.to_bytes()
        with refuse_os_errors(before.path / MANIFEST):
            stage_file(before.path / STAGED, MANIFEST, data)
        commit(before.path)
        self.bundle = dataclasses.replace(before, manifest=manifest, digest=digest_of(data))

    def _digest_of_parent(self, name: str) -> str:
        if name in self._added:
            return self._artifacts[name].sha256
        digest = self._known.artifact(name).sha256
        if name not in self._artifacts or self._artifacts[name].sha256 != digest:
            raise ArtifactError(
                f"{self.before.path / name} was changed by another command meanwhile, and what was "
                "made from it no longer fits: nothing was written. Run this again"
            )
        return digest
