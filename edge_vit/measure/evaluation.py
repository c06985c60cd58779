"""One precision of a bundle against its fp32, on all images or on one part of them."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from edge_vit.bundle import TABLE, Bundle
from edge_vit.data.bad_images import DEFAULT_MAX_BAD, MaxBad, noted
from edge_vit.data.images import ImageSource, open_image_source
from edge_vit.data.parts import Part, fingerprint, take_part
from edge_vit.errors import ArtifactError
from edge_vit.formats import REFERENCE, find_format
from edge_vit.measure.accuracy import Save, evaluate_part, subject_of
from edge_vit.measure.partial import PartialAccuracy, find_mismatch, read_partial
from edge_vit.measure.records import CalibrationImages
from edge_vit.plugins import import_target
from edge_vit.printable import one_line
from edge_vit.progress import SILENT, Progress
from edge_vit.runtime.backends import BACKENDS
from edge_vit.runtime.ort import OrtSession
from edge_vit.runtime.session import DEFAULT_OPTIONS, Session, SessionOptions, open_session
from edge_vit.spec import Precision
from edge_vit.tasks import task_of


@dataclass(frozen=True)
class Evaluation:
    """What is to be evaluated, in words that another process or machine understands too."""

    bundle: str  # path of it
    data: str  # path, or another address
    precision: Precision | None = None  # None for the smallest that the bundle has
    backend: str = "auto"
    options: SessionOptions = DEFAULT_OPTIONS
    num_images: int | None = None  # spread evenly; None for all
    max_bad: MaxBad = DEFAULT_MAX_BAD  # that may be left out because they cannot be read


class Evaluator:
    """Sessions and images of an evaluation, open for any number of parts; closes both sessions."""

    def __init__(self, what: Evaluation) -> None:
        self._data = one_line(what.data)
        bundle = Bundle.open(Path(what.bundle))
        self._spec = bundle.spec
        self._source = open_image_source(
            what.data, limit=what.num_images, max_bad=what.max_bad, spec=bundle.spec
        )
        table = bundle.read_table() if bundle.has(TABLE) else None
        self._calibrated_on = CalibrationImages.of(table)
        self._digest = bundle.digest
        precision = what.precision or bundle.smallest_precision
        with contextlib.ExitStack() as stack:
            self._reference = self._candidate = stack.enter_context(
                open_session(bundle, REFERENCE, what.backend, what.options)
            )
            if precision != REFERENCE:
                session = stack.enter_context(
                    open_session(bundle, precision, what.backend, what.options)
                )
                self._candidate = stack.enter_context(emulate_half(session, bundle, what.options))
            self._sessions = stack.pop_all()

    @property
    def remark(self) -> str:
        """What a reader of the candidate's figures has to know; mostly empty."""
        return self._candidate.remark

    def evaluate(
        self,
        part: Part = Part(),  # noqa: B008  # frozen
        *,
        state_path: Path | None = None,
        is_resumed: bool = False,
        progress: Progress = SILENT,
    ) -> PartialAccuracy:
        """Return what is known of one part; `merge_partials` and `report_of` do the rest.

        Every few seconds that is written to `state_path`, which an interrupted evaluation goes on
        from; None to keep no state, and none is kept for `features`. Remove the file when what is
        returned is safe.
        """
        source = take_part(self._source, part, progress)
        if task_of(self._spec).needs_all_images and not is_resumed:
            state_path = None
        start: tuple[PartialAccuracy, ...] = ()
        save: Save | None = None
        if state_path is not None:
            images = fingerprint(source)
            if state_path.exists():
                start = (self._resume(state_path, images, source, part, is_resumed),)
            save = _saver(state_path, images, progress)
        with noted(source, progress):
            (known,) = evaluate_part(
                self._reference,
                [self._candidate],
                self._spec,
                source,
                data=self._data,
                bundle_digest=self._digest,
                part=(part.index, part.count),
                calibrated_on=self._calibrated_on,
                start=start,
                save=save,
                progress=progress,
            )
        return known

    def _resume(
        self, path: Path, images: str, source: ImageSource, part: Part, is_resumed: bool
    ) -> PartialAccuracy:
        """Return the state at `path`; refuse one of another evaluation than is asked for."""
        old = read_partial(path, "state", "Remove it to begin anew")
        if not is_resumed:
            raise ArtifactError(
                f"{path} holds {old.num_images:,} images of an evaluation that was interrupted. "
                "Add --resume to go on with it, or remove the file"
            )
        subject = subject_of(
            self._reference, self._candidate, self._spec, source, self._data, self._digest
        )
        mismatch = find_mismatch(old.subject, subject)
        if old.part != (part.index, part.count):
            then = f"{old.part[0]}/{old.part[1]}"
            mismatch = f"part is {then} in it and {part.index}/{part.count} now"
        elif mismatch is None and old.fingerprint != images:
            mismatch = "the images are other ones now"
        if mismatch:
            raise ArtifactError(
                f"{path} is of another evaluation: {mismatch}. Remove it to begin anew"
            )
        return dataclasses.replace(old, fingerprint="")

    def close(self) -> None:
        """Close the sessions; closing again does nothing."""
        self._sessions.close()

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def state_path_of(output: Path) -> Path:
    """Return where the state of the evaluation that writes `output` is kept."""
    return output.with_name(output.name + ".state")


def _saver(path: Path, images: str, progress: Progress) -> Save:
    """A function that writes what is known to `path`, until that fails once."""
    is_kept = True

    def save(known: tuple[PartialAccuracy, ...]) -> None:
        nonlocal is_kept
        if not is_kept:
            return
        try:
            dataclasses.replace(known[0], fingerprint=images).write(path)
        except ArtifactError as error:  # no reason to lose what is measured
            is_kept = False
            progress.note(f"an interruption would lose what is measured from here on: {error}")

    return save


def emulate_half(session: Session, bundle: Bundle, options: SessionOptions) -> Session:
    """Return a session that predicts as a GPU does, in place of `session`, which is then closed.

    Both runtimes of a CPU keep float32 between the nodes of such a graph: better predictions than a
    GPU's, and an overflow that stays hidden. On a GPU, or in a format that a CPU computes alike,
    `session` is returned as it is.
    """
    is_on_cpu = session.backend in BACKENDS and not session.is_on_gpu
    found = find_format(session.precision)
    if not found.emulate or not is_on_cpu:
        return session
    if not all(map(importlib.util.find_spec, ("onnx", "onnxruntime"))):
        session.remark = (
            f"{found.title} keeps float32 between its nodes on a CPU: its answers here are better "
            "than a GPU's. To have those emulated run: pip install 'edge-vit[export]'"
        )
        return session
    from edge_vit.graph.exact import read_with_weights
    from edge_vit.graph.large import read_graph

    graph, _ = import_target(found.emulate)(read_graph(bundle, found.file))
    data, weights = read_with_weights(graph)
    name = f"{bundle.path / found.file}, emulated"
    options = dataclasses.replace(options, provider="cpu")
    emulated = OrtSession(data, found.name, options, name=name, weights=weights)
    emulated.backend, emulated.degraded = session.backend, session.degraded
    emulated.remark = (
        f"{found.title}'s answers are those of a GPU, emulated: the output of each node rounded to "
        "float16."
    )
    session.close()
    return emulated
