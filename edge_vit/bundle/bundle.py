"""A bundle on disk: opened by its manifest, read through its digests, changed as a whole."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edge_vit.bundle.journal import STAGED, commit, file_paths, manifest_paths, stage_file, tidy
from edge_vit.bundle.manifest import (
    BUNDLE_FORMAT,
    GOLDEN,
    MANIFEST,
    ROUNDED,
    TABLE,
    WEIGHTS,
    Artifact,
    Manifest,
    check_name,
    digest_of,
    digest_of_file,
)
from edge_vit.bundle.record import Golden
from edge_vit.errors import ArtifactError
from edge_vit.files import refuse_os_errors
from edge_vit.formats import REFERENCE, all_formats, find_format, formats_of
from edge_vit.git_lfs import LFS_POINTER, is_lfs_pointer
from edge_vit.locks import LOCK, locked
from edge_vit.progress import SILENT, Progress
from edge_vit.spec import ModelSpec, Precision
from edge_vit.spec.table import CalibrationTable


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk, as its manifest described it when it was opened.

    Files are read through `read`, which checks their digest, so that an edited or truncated file
    never reaches a backend, nor one that another command has put there meanwhile. Methods that
    write return the new `Bundle`. `digest` is the SHA-256 of the manifest, for reports.
    """

    path: Path
    manifest: Manifest
    digest: str = field(default="", compare=False)

    @classmethod
    def open(cls, path: Path | str) -> Bundle:
        """Return the bundle at `path`, or raise an ArtifactError; reads the manifest alone."""
        path = Path(path)
        if not path.is_dir():
            if path.exists():
                raise ArtifactError(
                    f"bundle {path} is a file, expected a folder that edgevit export has made"
                )
            raise ArtifactError(
                f"bundle {path} does not exist. Make one with: edgevit export MODEL -o {path}"
            )
        data = _read_manifest(path)
        manifest = Manifest.from_bytes(data, str(path / MANIFEST), str(path))
        return cls(path, manifest, digest_of(data))

    @property
    def spec(self) -> ModelSpec:
        """The model's facts."""
        return self.manifest.spec

    @property
    def name(self) -> str:
        """The folder's name without ``.edgevit``."""
        return self.path.name.removesuffix(".edgevit")

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The formats that it holds a graph in, from wide to narrow."""
        return tuple(each.name for each in formats_of(self.manifest.artifacts.keys()))

    @property
    def smallest_precision(self) -> Precision:
        """The default of a run: the narrowest format that it holds."""
        return self.precisions[-1] if self.precisions else REFERENCE

    @property
    def reports_path(self) -> Path:
        """Folder of the reports; made when the first is written."""
        return self.path / "reports"

    @property
    def is_unfinished(self) -> bool:
        """Whether a change is committed and not yet in its place."""
        return manifest_paths(self.path)[0].is_file()

    def has(self, name: str) -> bool:
        """Return whether the manifest names the file `name`."""
        return name in self.manifest.artifacts

    def graph(
        self, precision: Precision = REFERENCE, reader: str = "", capabilities: Collection[str] = ()
    ) -> str:
        """Return the name of the file with the graph of `precision`.

        `reader` is one of `edge_vit.formats.Variant.readers`, on a machine with `capabilities`.
        """
        found = find_format(precision)
        return found.variant(reader, self.has, capabilities).file if reader else found.file

    def read_graph(self, precision: Precision = REFERENCE) -> bytes:
        """Return the graph of `precision` as TensorRT reads it; errors are those of `read`."""
        return self.read(find_format(precision).file)

    def artifact(self, name: str) -> Artifact:
        """Return the manifest's entry of the file `name`; an ArtifactError says how to make it."""
        if name not in self.manifest.artifacts:
            raise ArtifactError(f"{self.path} holds no {name}. {_how_to_make(name, self.path)}")
        return self.manifest.artifacts[name]

    def read(self, name: str) -> bytes:
        """Return the bytes of the file `name`; an ArtifactError where its digest is another."""
        return self._find(name, _read_bytes)[1]

    def find_weights(self, graph: str) -> Path | None:
        """Return the file of the weights of `graph`; None where the graph holds them itself.

        It is read where it lies, as it is large. Raises an ArtifactError where its digest is
        another.
        """
        name = graph + WEIGHTS
        return self._find(name, _digest)[0] if self.has(name) else None

    def _find(self, name: str, load: Callable[[Path], _Loaded]) -> tuple[Path, bytes]:
        """Return where the file `name` is whole, and its bytes as `load` gives them."""
        artifact = self.artifact(name)
        problem = ""
        for path in file_paths(self.path, name):
            try:
                data, digest, num_bytes = load(path)
            except OSError as error:
                problem = problem or f"cannot be read: {error.strerror}"
                continue
            if num_bytes == artifact.num_bytes and digest == artifact.sha256:
                return path, data
            problem = problem or _difference(data, num_bytes, artifact)
        if self.digest and digest_of(_read_manifest(self.path)) != self.digest:
            raise ArtifactError(
                f"{self.path / name} was changed by another command since {self.path} was opened. "
                "Run this again"
            )
        raise ArtifactError(f"{self.path / name} {problem}. {_how_to_make(name, self.path)}")

    def locate(self, name: str) -> Path:
        """Return where the file `name` lies now, unchecked, for what cannot take its bytes."""
        return next((p for p in file_paths(self.path, name)[1:] if p.is_file()), self.path / name)

    def check(self) -> None:
        """Check the digest of every file, and that each was made from those that are there."""
        present = {artifact.sha256 for artifact in self.manifest.artifacts.values()}
        for name, artifact in self.manifest.artifacts.items():
            self.check_file(name)
            if not present.issuperset(artifact.parents):
                raise ArtifactError(
                    f"{self.path / name} was made from a file that the bundle no longer holds. "
                    f"{_how_to_make(name, self.path)}"
                )
        if self.has(TABLE):
            self.read_table()

    def check_file(self, name: str) -> None:
        """Check the digest of the file `name`, which may be large."""
        self._find(name, _digest)

    def read_table(self, *, with_weights: bool = False) -> CalibrationTable:
        """Return the calibration table of this fp32 graph, `with_weights` that it has rounded."""
        table = CalibrationTable.from_bytes(self.read(TABLE), str(self.path / TABLE))
        if table.model_digest != self.artifact(self.graph()).sha256:
            raise ArtifactError(
                f"{self.path / TABLE} was made for another graph than {self.graph()}. "
                f"Run: edgevit calibrate {self.path} --calib DIR"
            )
        if with_weights and table.weights_digest:
            return table.with_weights(self.read(ROUNDED), str(self.path / ROUNDED))
        return table

    def read_golden(self) -> Golden:
        """Return the golden images and their fp32 outputs."""
        return Golden.from_bytes(self.read(GOLDEN))

    @contextlib.contextmanager
    def change(self) -> Iterator[Change]:
        """Give a `Change` that is committed when the block ends well, and leaves nothing otherwise.

        Other writers wait until the block ends. Changes of one bundle do not nest.
        """
        with self.locked():
            tidy(self.path)
            change = Change(Bundle.open(self.path), self)
            try:
                yield change
                change.commit()
            finally:
                shutil.rmtree(self.path / STAGED, ignore_errors=True)

    def locked(
        self, *, progress: Progress = SILENT, lock_timeout: float | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """Keep other writers out for the time of a block; wait `lock_timeout` seconds at most."""
        return locked(self.path / LOCK, progress, lock_timeout)

    def add(
        self,
        files: Mapping[str, bytes | Path],
        *,
        parents: tuple[str, ...] = (),
        made_by: Mapping[str, str] | None = None,
        drop: tuple[str, ...] = (),
    ) -> Bundle:
        """Return the bundle with `files` added, see `Change.add`, and `drop` taken out, at once."""
        with self.change() as change:
            change.drop(*drop)
            change.add(files, parents=parents, made_by=made_by)
        return change.bundle


class Change:
    """A change of a bundle that is being prepared; `Bundle.change` opens and commits it.

    Files go to the disk as they are added, and become part of the bundle together. `before` is the
    bundle on disk, locked; `known` as the caller has opened it, maybe earlier; `bundle` the one
    with the change, once it is committed.
    """

    def __init__(self, before: Bundle, known: Bundle) -> None:
        self.before = self.bundle = before
        self._known = known
        self._artifacts = dict(before.manifest.artifacts)
        self._added: set[str] = set()

    def add(
        self,
        files: Mapping[str, bytes | Path],
        *,
        parents: tuple[str, ...] = (),
        made_by: Mapping[str, str] | None = None,
    ) -> None:
        """Add `files`, by path inside the bundle, or replace those of their names.

        A large one may be given as the path of what is copied.

        `parents` are the names of the files that these were made from, added ones included;
        `made_by` holds name and version of each tool that took part.

        Raises:
            ArtifactError: a parent is missing or was changed by another command; or the disk
                refuses.
        """
        digests = tuple(self._digest_of_parent(name) for name in parents)
        for name, data in files.items():
            check_name(name)
            with refuse_os_errors(self.before.path / name):
                stage_file(self.before.path / STAGED, name, data)
            found = (
                digest_of_file(self.before.path / STAGED / name)
                if isinstance(data, Path)
                else (digest_of(data), len(data))
            )
            self._artifacts[name] = Artifact(*found, digests, made_by or {})
            self._added.add(name)

    def drop(self, *names: str) -> None:
        """Take files out of the bundle, where it has them."""
        for name in names:
            self._artifacts.pop(name, None)

    def commit(self) -> None:
        """Write the change; where the disk refuses, the bundle is the old or the new one."""
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


_HEAD = 64
_Loaded = tuple[bytes, str, int]  # bytes of the file, its digest, their number


def _read_bytes(path: Path) -> _Loaded:
    data = path.read_bytes()
    return data, digest_of(data), len(data)


def _digest(path: Path) -> _Loaded:
    """Return the first bytes alone: the file may be large."""
    with path.open("rb") as file:
        return file.read(_HEAD), *digest_of_file(path)


def _difference(data: bytes, num_bytes: int, artifact: Artifact) -> str:
    if is_lfs_pointer(data):
        return f"is a {LFS_POINTER}"
    if num_bytes != artifact.num_bytes:
        return f"is truncated or edited: {num_bytes} bytes, the manifest says {artifact.num_bytes}"
    return "was edited: its SHA-256 is not the manifest's"


def _read_manifest(path: Path) -> bytes:
    for place in manifest_paths(path):
        try:
            return place.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ArtifactError(f"{place} cannot be read: {error.strerror}") from None
    if (path / "onnx").is_dir():
        raise ArtifactError(
            f"{path} holds no {MANIFEST}: a bundle that was never finished. "
            f"Remove it, then run: edgevit export MODEL -o {path}"
        )
    places = (path.resolve().parent, *sorted(path.iterdir()))
    near = next((p for p in places if any(map(Path.is_file, manifest_paths(p)))), None)
    advice = f". {near} is one" if near else ", expected a folder that edgevit export has made"
    raise ArtifactError(f"{path} is no bundle, it holds no {MANIFEST}{advice}")


def _how_to_make(name: str, path: Path) -> str:
    if name in (TABLE, ROUNDED):
        return f"Run: edgevit calibrate {path} --calib DIR"
    graph = name.removesuffix(WEIGHTS)
    if any(graph == v.file for f in all_formats() if not f.is_reference for v in f.variants):
        return f"Run: edgevit quantize {path} (after: edgevit calibrate {path} --calib DIR)"
    return f"Run: edgevit export MODEL -o {path} --force"
