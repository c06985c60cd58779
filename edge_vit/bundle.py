"""The bundle: one folder that holds a model, what is known of it, and how each file was made."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from edge_vit.errors import ArtifactError, SpecError
from edge_vit.files import draft_folder, refuse_os_errors, write_atomically
from edge_vit.spec import PRECISIONS, ModelSpec, Precision
from edge_vit.table import CalibrationTable
from edge_vit.values import from_json, parse_json, to_json

BUNDLE_FORMAT = 2
"""Format 1 has no activation and no threshold in its spec: those are its task's defaults."""
READABLE_FORMATS = (1, 2)
MANIFEST = "manifest.json"
TABLE = "calibration.json"
RECORD = "export.json"
HALF_PROOF = "fp16.json"
GOLDEN = "golden/golden.npz"
FP32, FP16, INT8 = "onnx/fp32.onnx", "onnx/fp16.onnx", "onnx/int8.onnx"
INT8_CPU = "onnx/int8.cpu.onnx"
INT8_ORT_X64 = "onnx/int8.ort-x64.onnx"
INT8_FILES = (INT8, INT8_CPU, INT8_ORT_X64)

ONNX_FILES: Mapping[Precision, str] = {"fp32": FP32, "fp16": FP16, "int8": INT8}
"""The graph that TensorRT builds for each precision."""


@dataclass(frozen=True)
class Artifact:
    """One file of the bundle.

    Attributes:
        sha256: of its bytes, hexadecimal.
        num_bytes: its size.
        parents: SHA-256 of each file that it was made from.
        made_by: name and version of each tool that took part.
    """

    sha256: str
    num_bytes: int
    parents: tuple[str, ...] = ()
    made_by: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """What a bundle holds: the model's facts, and each portable file with its digest.

    Attributes:
        format: of the bundle; `BUNDLE_FORMAT` for what this version writes.
        created: when, UTC, ISO 8601.
        spec: the model.
        artifacts: by path inside the bundle, such as ``onnx/fp32.onnx``.
    """

    format: int
    created: str
    spec: ModelSpec
    artifacts: Mapping[str, Artifact]


@dataclass(frozen=True)
class Golden:
    """A few images and what the fp32 graph says of them: the model's own self-test.

    Attributes:
        images: uint8 (count, height, width, 3) RGB, as preprocessed.
        outputs: float32 (count, classes or channels).
    """

    images: npt.NDArray[np.uint8]
    outputs: npt.NDArray[np.float32]

    @property
    def digests(self) -> frozenset[str]:
        """Digest of each image, as a calibration table lists those that it has seen."""
        from edge_vit.preprocess import digest

        return frozenset(map(digest, self.images))

    def to_bytes(self) -> bytes:
        """Return both arrays as an uncompressed ``.npz``."""
        buffer = io.BytesIO()
        np.savez(buffer, images=self.images, outputs=self.outputs)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Golden:
        """Return what `to_bytes` wrote.

        Raises:
            ArtifactError: these are no such bytes.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return cls(arrays["images"], arrays["outputs"])
        except Exception as error:  # a damaged archive can raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ArtifactError(f"{GOLDEN} cannot be read: {reason[:200]}") from None


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk, as its manifest described it when it was opened.

    Files are read through `read`, which checks their digest, so that an edited or truncated file
    never reaches a backend. Methods that write return the new `Bundle`.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | str) -> Bundle:
        """Return the bundle at `path`; reads the manifest alone.

        Raises:
            ArtifactError: there is none, it is half-written, or of an unknown format.
        """
        path = Path(path)
        if not path.is_dir():
            what = "is a file, not a folder" if path.exists() else "does not exist"
            raise ArtifactError(
                f"bundle {path} {what}. Make one with: edgevit export MODEL -o {path}"
            )
        try:
            data = parse_json((path / MANIFEST).read_bytes())
        except FileNotFoundError:
            raise ArtifactError(
                f"{path} holds no {MANIFEST}: not a bundle, or one that was never finished. "
                f"Remove it, then run: edgevit export MODEL -o {path}"
            ) from None
        except OSError as error:
            raise ArtifactError(f"{path / MANIFEST} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise ArtifactError(
                f"{path / MANIFEST} cannot be read: {error}. "
                f"Make the bundle again: edgevit export MODEL -o {path} --force"
            ) from None
        if not isinstance(data, dict) or data.get("format") not in READABLE_FORMATS:
            found = data.get("format") if isinstance(data, dict) else None
            raise ArtifactError(
                f"{path}: bundle format {found}, this edge-vit reads "
                f"{' and '.join(map(str, READABLE_FORMATS))}. Export it again, or update edge-vit"
            )
        try:
            manifest = from_json(Manifest, data, MANIFEST)
        except SpecError as error:
            raise ArtifactError(f"{path}: {error}") from None
        for name in manifest.artifacts:
            _check_name(name)
        return cls(path, manifest)

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
        """The precisions that it holds a graph for, in the order fp32, fp16, int8."""
        return tuple(p for p in PRECISIONS if ONNX_FILES[p] in self.manifest.artifacts)

    @property
    def smallest_precision(self) -> Precision:
        """What runs where nobody chose: int8 where there is one, else fp16, else fp32."""
        return self.precisions[-1] if self.precisions else "fp32"

    @property
    def reports_path(self) -> Path:
        """Where reports go; made by whoever writes the first."""
        return self.path / "reports"

    def has(self, name: str) -> bool:
        """Say whether the manifest names the file `name`."""
        return name in self.manifest.artifacts

    def artifact(self, name: str) -> Artifact:
        """Return the manifest's entry of the file `name`.

        Raises:
            ArtifactError: there is none; the message says how to make it.
        """
        if name not in self.manifest.artifacts:
            raise ArtifactError(f"{self.path} holds no {name}. {_how_to_make(name, self.path)}")
        return self.manifest.artifacts[name]

    def read(self, name: str) -> bytes:
        """Return the bytes of the file `name`, whose digest was checked.

        Raises:
            ArtifactError: it is missing, truncated or edited.
        """
        artifact = self.artifact(name)
        try:
            data = (self.path / name).read_bytes()
        except OSError as error:
            raise ArtifactError(f"{self.path / name} cannot be read: {error.strerror}") from None
        if len(data) != artifact.num_bytes:
            raise ArtifactError(
                f"{self.path / name} is truncated or edited: {len(data)} bytes, the manifest says "
                f"{artifact.num_bytes}. {_how_to_make(name, self.path)}"
            )
        if digest_of(data) != artifact.sha256:
            raise ArtifactError(
                f"{self.path / name} was edited: its SHA-256 is not the manifest's. "
                f"{_how_to_make(name, self.path)}"
            )
        return data

    def check(self) -> None:
        """Check the digest of every file.

        Raises:
            ArtifactError: for the first file that is missing, truncated or edited.
        """
        for name in self.manifest.artifacts:
            self.read(name)

    def read_table(self) -> CalibrationTable:
        """Return the calibration table.

        Raises:
            ArtifactError: there is none, or it belongs to another fp32 graph.
        """
        table = CalibrationTable.from_bytes(self.read(TABLE), str(self.path / TABLE))
        if table.model_digest != self.artifact(FP32).sha256:
            raise ArtifactError(
                f"{self.path / TABLE} was made for another graph than {FP32}. "
                f"Run: edgevit calibrate {self.path} --calib DIR"
            )
        return table

    def read_golden(self) -> Golden:
        """Return the golden images and their fp32 outputs."""
        return Golden.from_bytes(self.read(GOLDEN))

    def add(
        self,
        files: Mapping[str, bytes],
        *,
        parents: tuple[str, ...] = (),
        made_by: Mapping[str, str] | None = None,
        drop: tuple[str, ...] = (),
    ) -> Bundle:
        """Write `files`, then the manifest that names them; return the new bundle.

        Args:
            files: bytes by path inside the bundle.
            parents: names of the files that these were made from.
            made_by: name and version of each tool that took part.
            drop: names of files that are stale now; they leave the manifest first, the disk last.

        Raises:
            ArtifactError: the disk refuses; the manifest then still describes what is there.
        """
        digests = tuple(self.artifact(name).sha256 for name in parents)
        artifacts = dict(self.manifest.artifacts)
        for name in drop:
            artifacts.pop(name, None)
        for name, data in files.items():
            _check_name(name)
            artifacts[name] = Artifact(digest_of(data), len(data), digests, made_by or {})
        replaced = {n for n in (*files, *drop) if n in self.manifest.artifacts}
        if replaced:  # between two manifests no file may contradict the one on disk
            kept = {n: a for n, a in self.manifest.artifacts.items() if n not in replaced}
            self._write_manifest(dataclasses.replace(self.manifest, artifacts=kept))
        for name, data in files.items():
            write_atomically(self.path / name, data)
        manifest = dataclasses.replace(self.manifest, artifacts=artifacts)
        self._write_manifest(manifest)
        for name in drop:
            with refuse_os_errors(self.path / name):
                (self.path / name).unlink(missing_ok=True)
        return Bundle(self.path, manifest)

    def _write_manifest(self, manifest: Manifest) -> None:
        manifest = dataclasses.replace(manifest, format=BUNDLE_FORMAT)
        text = json.dumps(to_json(manifest), indent=1, ensure_ascii=False)
        write_atomically(self.path / MANIFEST, (text + "\n").encode())


def refuse_existing(path: Path, *, force: bool) -> None:
    """Refuse to make a bundle at `path`, before any work, where it would not be written later.

    Raises:
        ArtifactError: something is there, and it is no bundle or `force` is not set.
    """
    if path.exists() and not force:
        raise ArtifactError(f"{path} exists already. Add --force to replace it")
    if path.exists() and not (path / MANIFEST).exists():
        raise ArtifactError(
            f"{path} is not a bundle; --force replaces bundles only. Remove it first"
        )


@contextlib.contextmanager
def draft_bundle(path: Path | str, spec: ModelSpec, *, force: bool = False) -> Iterator[Bundle]:
    """Give an empty bundle that appears at `path` when the block ends well, and not otherwise.

    Raises:
        ArtifactError: `path` exists and `force` is not set, or the disk refuses.
    """
    path = Path(path)
    refuse_existing(path, force=force)
    with draft_folder(path, replace=force) as folder:
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        bundle = Bundle(folder, Manifest(BUNDLE_FORMAT, now, spec, {}))
        bundle._write_manifest(bundle.manifest)  # so that one without files opens too
        yield bundle


def digest_of(data: bytes) -> str:
    """Return the SHA-256 of `data`, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _check_name(name: str) -> None:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise ArtifactError(f"artifact path {name!r} leaves the bundle")


def _how_to_make(name: str, path: Path) -> str:
    if name == TABLE:
        return f"Run: edgevit calibrate {path} --calib DIR"
    if name in (*INT8_FILES, FP16):
        return f"Run: edgevit quantize {path} (after: edgevit calibrate {path} --calib DIR)"
    return f"Run: edgevit export MODEL -o {path} --force"
