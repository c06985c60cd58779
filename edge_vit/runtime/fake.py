"""A session without a model, for tests: as slow and as wrong as asked."""

from __future__ import annotations

import time
import zlib

import numpy as np

from edge_vit.formats import REFERENCE
from edge_vit.runtime.session import Array, Session
from edge_vit.spec import ModelSpec, Precision, TensorSpec


class FakeSession(Session):
    """A session with the tensors of `spec` and random outputs.

    Row i of an output is drawn from the standard normal distribution by a generator that is seeded
    with the CRC-32 of image i's bytes. So an image has the same outputs in any batch and in any
    fake session, and two of them, one with `noise`, stand for a reference and its quantized copy:

        reference, candidate = FakeSession(spec), FakeSession(spec, precision="int8", noise=0.1)

    A run takes `delay_ms` at least, whatever the batch. `noise` is the standard deviation of the
    error, drawn by `seed`, of each value of an output; the same image gets the same error again.
    """

    backend = "fake"

    def __init__(
        self,
        spec: ModelSpec,
        precision: Precision = REFERENCE,
        *,
        delay_ms: float = 0.0,
        noise: float = 0.0,
        seed: int = 0,
        threads: int = 1,
    ) -> None:
        super().__init__(
            precision=precision, inputs=spec.inputs, outputs=spec.outputs, threads=threads
        )
        self._delay_ms = delay_ms
        self._noise = noise
        self._seed = seed

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        time.sleep(self._delay_ms / 1000)
        images = feeds[self.inputs[0].name]
        digests = [zlib.crc32(image.tobytes()) for image in images]
        return {
            spec.name: np.stack([self._row(spec, digest) for digest in digests])
            for spec in self.outputs
        }

    def _row(self, spec: TensorSpec, digest: int) -> Array:
        shape = tuple(map(int, spec.shape[1:]))
        answer = np.random.default_rng(digest).standard_normal(shape)
        error = np.random.default_rng((digest, self._seed + 1)).standard_normal(shape)
        return (answer + self._noise * error).astype(spec.dtype)

    def _close(self) -> None:
        """Nothing to free."""
