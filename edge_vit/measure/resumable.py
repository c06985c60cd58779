"""An evaluation that goes on where it was cut off, to the same last byte."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from edge_vit.data.images import ImageSource
from edge_vit.data.parts import Part, fingerprint
from edge_vit.errors import ArtifactError, SpecError
from edge_vit.files import write_atomically
from edge_vit.measure.accuracy import NO_IMAGES, SECONDS_BETWEEN_SAVES, evaluate_part, subject_of
from edge_vit.measure.calibrated import CalibrationImages
from edge_vit.measure.partial import PartialAccuracy, Subject, find_mismatch
from edge_vit.progress import SILENT, Progress
from edge_vit.runtime.session import Session
from edge_vit.spec import ModelSpec
from edge_vit.values import from_json, parse_json, to_json

STATE_FORMAT = 2


@dataclass(frozen=True)
class State:
    """How far an evaluation has come.

    Attributes:
        fingerprint: `edge_vit.data.parts.fingerprint` of all images of the part.
        totals: over the first images of the part.
    """

    fingerprint: str
    totals: PartialAccuracy
    format: int = STATE_FORMAT


def state_path_of(output: Path) -> Path:
    """Return where the state of the evaluation that writes `output` is kept."""
    return output.with_name(output.name + ".state")


def evaluate_resumably(
    reference: Session,
    candidate: Session,
    spec: ModelSpec,
    source: ImageSource,
    state_path: Path,
    *,
    is_resumed: bool = False,
    data: str = "",
    bundle_digest: str = "",
    part: Part = Part(),  # noqa: B008  # frozen
    calibrated_on: CalibrationImages = NO_IMAGES,
    seconds_between_saves: float = SECONDS_BETWEEN_SAVES,
    progress: Progress = SILENT,
) -> PartialAccuracy:
    """Return the totals of `candidate` over the images of `source`, which is one part of them.

    Every few seconds the totals are written to `state_path`. Remove the file when what is returned
    is safe; the last seconds before an interruption are measured again.

    Args:
        reference: as for `evaluate`; likewise `candidate` and `spec`.
        candidate: of the same model.
        spec: the model.
        source: the images of this part.
        state_path: of the file that is written while it runs.
        is_resumed: go on from what `state_path` holds, or from the beginning where it is not there.
        data: where the images are from.
        bundle_digest: SHA-256 of the bundle's manifest.
        part: which of how many parts.
        calibrated_on: the images that calibration saw.
        seconds_between_saves: at least.
        progress: is told of each image.

    Raises:
        ArtifactError: there is a state and `is_resumed` is false; or it is of another evaluation.
        SpecError: as `evaluate_part`; so are ImageError and BackendError.
    """
    images = fingerprint(source)
    old = _read(state_path) if state_path.exists() else None
    if old is not None and not is_resumed:
        raise ArtifactError(
            f"{state_path} holds {old.totals.tally.num_images:,} images of an evaluation that was "
            "interrupted. Add --resume to go on with it, or remove the file"
        )

    is_kept = True

    def save(totals: tuple[PartialAccuracy, ...]) -> None:
        nonlocal is_kept
        if not is_kept:
            return
        state = State(images, totals[0])
        try:
            write_atomically(state_path, json.dumps(to_json(state)).encode())
        except ArtifactError as error:  # no reason to lose what is measured
            is_kept = False
            progress.note(f"an interruption would lose what is measured from here on: {error}")

    if old is not None:
        subject = subject_of(reference, candidate, spec, source, data, bundle_digest)
        _check_same(old, images, subject, part, state_path)
    (totals,) = evaluate_part(
        reference,
        [candidate],
        spec,
        source,
        data=data,
        bundle_digest=bundle_digest,
        part=(part.index, part.count),
        calibrated_on=calibrated_on,
        start=() if old is None else (old.totals,),
        save=save,
        seconds_between_saves=seconds_between_saves,
        progress=progress,
    )
    return totals


def _read(path: Path) -> State:
    try:
        data = parse_json(path.read_bytes())
        if not isinstance(data, dict) or data.get("format") != STATE_FORMAT:
            raise SpecError(f"format is not {STATE_FORMAT}")
        return from_json(State, data, str(path))
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, SpecError) as error:
        raise ArtifactError(
            f"{path} is no state of an evaluation: {error}. Remove it to begin anew"
        ) from None


def _check_same(state: State, images: str, subject: Subject, part: Part, path: Path) -> None:
    """Refuse a state of another evaluation than the one that is asked for."""
    mismatch = find_mismatch(state.totals.subject, subject)
    if state.totals.part != (part.index, part.count):
        mismatch = "part is {}/{} in it and {}/{} now".format(
            *state.totals.part, part.index, part.count
        )
    elif mismatch is None and state.fingerprint != images:
        mismatch = "the images are other ones now"
    if mismatch:
        raise ArtifactError(f"{path} is of another evaluation: {mismatch}. Remove it to begin anew")
