"""The camera loop in your own program: your own sink, your own step, and a source of your own.

`edgevit camera` does all of this from the command line. A fake session stands for the model here,
and the camera is a moving pattern, so neither a model nor a camera is needed.
"""

import dataclasses

import numpy as np

import edge_vit
from edge_vit.camera.loop import CameraLoop
from edge_vit.camera.sink import Sink
from edge_vit.camera.sources.address import source_maker
from edge_vit.camera.sources.source import Capture, SourceMaker
from edge_vit.camera.stages import LoopOptions
from edge_vit.camera.summary import summary_lines
from edge_vit.camera.values import SourceFormat
from edge_vit.runtime.fake import FakeSession
from edge_vit.spec import image_input, task_output

SPEC = edge_vit.ModelSpec(
    name="sorter",
    source="made up",
    task="classification",
    labels=("apple", "pear", "plum"),
    inputs=(image_input((32, 32)),),
    outputs=(task_output("classification", 3),),
    preprocess=edge_vit.PreprocessSpec((32, 32)),
)


class Boxes(Sink):
    """A sink: counts what falls into which box. A thread of its own calls it."""

    name = "boxes"
    queue_size = 8

    def __init__(self):
        self.counts = dict.fromkeys(SPEC.labels, 0)

    def write(self, prediction):
        """Take one prediction; if this raises, it counts as failed, and the next one comes."""
        if prediction.is_confident:
            self.counts[prediction.raw.classes[0].label] += 1


def doubt(prediction):
    """A step: no fruit is sorted on less than 0.4."""
    return dataclasses.replace(prediction, is_confident=prediction.raw.classes[0].score >= 0.4)


# Twenty frames a second for a second, each answered and handed on.
boxes = Boxes()
loop = CameraLoop(
    [source_maker("test://#width=64,height=48,rate=20,count=20")],
    FakeSession(SPEC, delay_ms=5),
    SPEC,
    sinks=[boxes],
    steps=[doubt],
    options=LoopOptions(top=3),
)
summary = loop.run()  # until the source ends, or `loop.stop()` from another thread
assert summary.counts.answered == 20
print(boxes.counts)
print(*summary_lines(summary), sep="\n")


class Conveyor:
    """A source: whatever camera library there is, behind four methods."""

    def __init__(self):
        self.left = 5

    def open(self):
        """Connect; raise SourceError if that is to be tried again later."""
        return SourceFormat(width=64, height=48, rate=0, colour="made in RGB")

    def read(self):
        """Return the next frame, with the driver's stamp where there is one; None at the end."""
        self.left -= 1
        return Capture(np.full((48, 64, 3), 50 * self.left, np.uint8)) if self.left >= 0 else None

    def abort(self):
        """Make a `read` that waits in another thread return soon."""

    def close(self):
        """Free what it holds."""


makers = [SourceMaker("conveyor", is_live=False, make=Conveyor), source_maker("test://#count=5")]
summary = CameraLoop(makers, FakeSession(SPEC), SPEC, sinks=[Boxes()]).run()
for source in summary.sources:
    print(source.name, source.counts)
