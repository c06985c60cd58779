"""Drift in the field: frames for which fp32 on the CPU predicts something else, kept on disk."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

from PIL import Image

from edge_vit.camera.sink import Sink, Summarize
from edge_vit.camera.values import CameraPrediction
from edge_vit.data.preprocess import preprocess
from edge_vit.errors import ArtifactError
from edge_vit.files import refuse_os_errors, write_atomically
from edge_vit.formats import REFERENCE
from edge_vit.runtime.predictor import Prediction, interpret
from edge_vit.runtime.session import Session, run_images
from edge_vit.spec import ModelSpec
from edge_vit.tasks import task_of
from edge_vit.tasks.maps.pictures import to_png

_LOG = logging.getLogger(__name__)


class DisagreementSink(Sink):
    """Runs a reference on some frames too, and keeps those for which it predicts something else.

    A kept frame is ``TIME-NUMBER.png``, with both predictions in a ``.json``; the newest are kept.
    """

    queue_size = 1  # a frame that waits longer is replaced by a newer one
    needs_pixels = True

    def __init__(
        self, reference: Session, spec: ModelSpec, folder: Path, *, every: int, limit: int
    ) -> None:
        self.name = f"disagreements:{folder}"
        self.num_checked = self.num_differ = 0
        self._reference, self._spec, self._folder = reference, spec, folder
        self._every, self._limit = every, limit
        self._checked: dict[str, int] = {}  # source -> number of the frame that was checked last

    def open(self, summarize: Summarize) -> None:
        """Make the folder."""
        if self._folder.exists() and not self._folder.is_dir():
            raise ArtifactError(f"{self._folder} is a file, expected a folder to keep frames in")
        with refuse_os_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)

    def write(self, prediction: CameraPrediction) -> None:
        """Check the frame, if it is its turn."""
        frame = prediction.frame
        last = self._checked.get(frame.source)
        if last is not None and frame.number - last < self._every:
            return
        self._checked[frame.source] = frame.number
        model_input = preprocess(frame.pixels, self._spec.preprocess)
        outputs = run_images(self._reference, model_input[None])
        height, width = frame.pixels.shape[:2]
        image = prediction.raw.image
        reference = interpret(image, outputs, self._spec, REFERENCE, 5, (height, width))
        self.num_checked += 1
        if task_of(self._spec).same_roughly(self._spec, outputs, prediction.outputs)[0]:
            return
        self.num_differ += 1
        self._keep(prediction, reference)

    def close(self) -> None:
        """Say what was found, and close the reference."""
        self._reference.close()
        _LOG.info(
            "%s of %s frames that fp32 answered too differ%s",
            self.num_differ,
            self.num_checked,
            f", see {self._folder}" if self.num_differ else "",
        )

    def _keep(self, prediction: CameraPrediction, reference: Prediction) -> None:
        frame = prediction.frame
        name = f"{frame.stamps.captured_unix_ns // 10**6:015d}-{frame.number:08d}"
        facts: dict[str, Any] = {
            "source": frame.source,
            "number": frame.number,
            "model": self._spec.name,
            "answered": prediction.raw.record(),
            REFERENCE: reference.record(),
        }
        write_atomically(self._folder / f"{name}.json", json.dumps(facts, indent=1).encode())
        write_atomically(self._folder / f"{name}.png", to_png(Image.fromarray(frame.pixels)))
        with refuse_os_errors(self._folder):
            for old in _kept(self._folder)[: -self._limit]:
                old.unlink(missing_ok=True)
                old.with_suffix(".json").unlink(missing_ok=True)


def _kept(folder: Path) -> list[Path]:
    """Frames that a sink like this has kept, oldest first."""
    return sorted(p for p in folder.iterdir() if re.fullmatch(r"\d{15}-\d{8,}\.png", p.name))
