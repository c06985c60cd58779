"""Image in, prediction out: preprocessing, a session, and what its output means."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from edge_vit.bundle import Bundle
from edge_vit.data.images import ImageSource, load_pixels, open_image_source
from edge_vit.data.preprocess import UInt8Array, preprocess
from edge_vit.errors import BackendError
from edge_vit.progress import SILENT, Progress
from edge_vit.runtime.options import DEFAULT_OPTIONS, SessionOptions
from edge_vit.runtime.session import Array, Session, open_session, run_images
from edge_vit.spec import ModelSpec, Precision
from edge_vit.spec.samples import is_sample
from edge_vit.tasks import task_of
from edge_vit.tasks.prediction import Prediction as Prediction


class Predictor:
    """Predictions for images of any size; a context manager that closes the session."""

    def __init__(self, session: Session, spec: ModelSpec) -> None:
        self.session = session
        self.spec = spec

    @classmethod
    def open(
        cls,
        bundle: Bundle | Path | str,
        precision: Precision | None = None,
        backend: str = "auto",
        options: SessionOptions = DEFAULT_OPTIONS,
        progress: Progress = SILENT,
    ) -> Predictor:
        """Return the predictor of `bundle`; arguments and errors are those of `open_session`."""
        if not isinstance(bundle, Bundle):
            bundle = Bundle.open(bundle)
        return cls(open_session(bundle, precision, backend, options, progress), bundle.spec)

    def predict(self, image: Path | str | UInt8Array, top: int | None = None) -> Prediction:
        """Return the prediction for one image: a file, or uint8 (H, W, 3) RGB pixels of any size.

        Of a model of clips it is a video, a folder of frames, or uint8 (frames, H, W, 3).
        It has `top` entries, at least 1; as many as is usual for the task where that is None.

        Raises:
            ImageError: the file cannot be read.
            ShapeError: the pixels are no uint8 (H, W, 3) array.
            SpecError: `top` is below 1.
            BackendError: the model failed, or its output is not finite.
        """
        if isinstance(image, str | Path):
            pixels = load_pixels(image, self.spec.preprocess.clip)
            return self._predict(str(image), pixels, top)
        return self._predict("array", image, top)

    def predict_many(
        self, source: Path | str | ImageSource, top: int | None = None
    ) -> Iterator[Prediction]:
        """Return the predictions for the images of `source`, each made when its turn comes.

        Raises:
            ImageError: there are no images, at once; or one cannot be read, when its turn comes.
        """
        images = open_image_source(source, has_truth=False, spec=self.spec)
        return (self._predict(item.name, item.pixels, top) for item in images)

    def close(self) -> None:
        """Close the session; closing again does nothing."""
        self.session.close()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _predict(self, name: str, pixels: UInt8Array, top: int | None) -> Prediction:
        model_input = preprocess(pixels, self.spec.preprocess)
        run = functools.partial(run_images, self.session)
        outputs, _ = task_of(self.spec).evaluate(self.spec, run, model_input[None])
        size = (0, 0) if is_sample(pixels) else (pixels.shape[-3], pixels.shape[-2])
        return interpret(name, outputs, self.spec, self.session.precision, top, size)


def interpret(
    name: str,
    outputs: Mapping[str, Array],
    spec: ModelSpec,
    precision: Precision,
    top: int | None,
    size: tuple[int, int],
) -> Prediction:
    """Return the prediction of `outputs`, one row each, for the image called `name`.

    `size` is the image's (height, width) before preprocessing; for `top` and errors see
    `Predictor.predict`.
    """
    if not all(np.isfinite(output).all() for output in outputs.values()):
        raise BackendError(
            f"image {name}: {spec.name} in {precision} gave NaN or infinity. "
            "Run it with --precision fp32, and see which layers differ: edgevit inspect"
        )
    task = task_of(spec)
    top = task.default_top if top is None else top
    return task.decode(spec, outputs, (name,), (size,), top=top)[0]
