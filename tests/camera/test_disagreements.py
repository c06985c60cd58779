from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from camera.scripted import Recorder, ScriptedClock, scripted_maker, tiny_spec
from camera.scripted import make_prediction as scripted_answer
from decoding import predict
from PIL import Image

from edge_vit.camera.disagreements import DisagreementSink
from edge_vit.camera.loop import CameraLoop
from edge_vit.camera.values import CameraPrediction
from edge_vit.data.preprocess import preprocess
from edge_vit.errors import ArtifactError
from edge_vit.runtime.fake import FakeSession
from edge_vit.runtime.session import run_batch
from edge_vit.tasks.base import named

SPEC = tiny_spec()


class OtherOnSome(FakeSession):
    """A reference that answers frames of some gray levels otherwise."""

    def __init__(self, levels):
        super().__init__(SPEC)
        self.levels = levels
        self.is_closed = False

    def _run(self, feeds):
        outputs = super()._run(feeds)
        for image, row in zip(feeds["images"], outputs["logits"], strict=True):
            if image[0, 0, 0] in self.levels:
                row[:] = -row
        return outputs

    def _close(self):
        self.is_closed = True


def run(folder, reference, count=40, every=1, limit=500):
    sink = DisagreementSink(reference, SPEC, folder, every=every, limit=limit)
    clock = ScriptedClock()
    loop = CameraLoop(
        [scripted_maker(range(count), clock, is_live=False)],
        FakeSession(SPEC),
        SPEC,
        sinks=[Recorder(), sink],
        clock=clock,
    )
    loop.run()
    return sink


def test_keeps_the_frames_that_differ_with_both_answers(tmp_path):
    reference = OtherOnSome({5, 17})
    sink = run(tmp_path / "kept", reference)
    assert (sink.num_checked, sink.num_differ) == (40, 2)
    pictures = sorted((tmp_path / "kept").glob("*.png"))
    assert [int(np.asarray(Image.open(p))[0, 0, 0]) for p in pictures] == [5, 17]
    facts = json.loads(pictures[1].with_suffix(".json").read_text())
    assert facts["number"] == 17
    assert facts["answered"]["answers"][0] != facts["fp32"]["answers"][0]
    assert reference.is_closed


def test_checks_every_so_many_frames(tmp_path):
    assert run(tmp_path / "kept", OtherOnSome(set()), count=40, every=10).num_checked == 4
    assert list((tmp_path / "kept").iterdir()) == []


def test_keeps_no_more_than_the_limit_the_newest_and_earlier_runs_count(tmp_path):
    for _ in range(2):
        run(tmp_path / "kept", OtherOnSome(set(range(40))), limit=3)
    names = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert len(names) == 6
    assert sorted({name.rpartition(".")[0][-2:] for name in names}) == ["37", "38", "39"]


def test_leaves_other_files_alone(tmp_path):
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "mine.png").write_bytes(b"mine")
    run(folder, OtherOnSome(set(range(40))), limit=1)
    assert (folder / "mine.png").read_bytes() == b"mine"


def test_refuses_a_file_in_the_place_of_its_folder(tmp_path):
    (tmp_path / "kept").write_text("a file")
    with pytest.raises(ArtifactError, match="is a file, expected a folder"):
        run(tmp_path / "kept", OtherOnSome(set()))


def test_labels_differ_where_any_of_them_does(tmp_path):
    spec = dataclasses.replace(SPEC, task="multi_label", activation=None, threshold=None)
    sink = DisagreementSink(FakeSession(spec), spec, tmp_path / "kept", every=1, limit=9)
    sink.open(lambda: None)
    prediction = scripted_answer(3)
    output = run_batch(
        FakeSession(spec), preprocess(prediction.frame.pixels, spec.preprocess)[None]
    )[0]
    other = output.copy()
    least = int(np.argmin(output))
    other[least] = 1.0  # the first label is the same, another one is on
    for number, row in enumerate((output, other)):
        frame = dataclasses.replace(prediction.frame, number=number)
        sink.write(CameraPrediction(frame, predict(spec, row), named(spec, row[None])))
    assert (sink.num_checked, sink.num_differ) == (2, 1)
