import time

import numpy as np
import pytest
from made_predictions import make_prediction, make_summary

from edge_vit.camera.sinks.drawing import draw_prediction, to_jpeg
from edge_vit.camera.sinks.video_file import VideoFileSink, _Video, claim_path
from edge_vit.errors import ArtifactError

av = pytest.importorskip("av")


def opened(path):
    sink = VideoFileSink(path)
    sink.open(make_summary)
    return sink


def read(path):
    """Return the frames of a video: times in seconds, and pixels."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [round(frame.time, 3) for frame in frames], [
        f.to_ndarray(format="rgb24") for f in frames
    ]


def test_frames_stand_where_they_were_captured(tmp_path):
    path = tmp_path / "new" / "seen.mp4"
    sink = opened(path)
    for number, at_ms in enumerate((5000, 5033, 5100, 6100)):
        sink.write(make_prediction(number * 60, at_ms=at_ms, size=(96, 128)))
    sink.close()
    times, pixels = read(path)
    assert times == [0, 0.033, 0.1, 1.1]
    assert pixels[0].shape == (96, 128, 3)
    tops = [frame[:40].mean() for frame in pixels]
    assert tops == pytest.approx([40, 100, 160, 220], abs=6)


def test_the_answer_is_drawn_below(tmp_path):
    sink = opened(tmp_path / "seen.mp4")
    sink.write(make_prediction(0, (9.0, 0, 0, 0), size=(96, 128)))
    sink.close()
    _, (frame,) = read(tmp_path / "seen.mp4")
    assert frame[:60].std() < 3
    assert frame[-20:].std() > 20


def test_frames_that_come_at_once_keep_their_order(tmp_path):
    sink = opened(tmp_path / "seen.mp4")
    for number in range(4):
        sink.write(make_prediction(number * 60, at_ms=100 - number, size=(64, 64)))
    sink.close()
    times, _ = read(tmp_path / "seen.mp4")
    assert times == [0, 0.001, 0.002, 0.003]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_video_that_is_cut_off_still_plays(tmp_path, suffix):
    path = tmp_path / f"seen{suffix}"
    sink = opened(path)
    for number in range(100):
        sink.write(make_prediction(number, at_ms=33 * number, size=(64, 64)))
    path.with_name(f"cut{suffix}").write_bytes(path.read_bytes())  # as it lies on the disk now
    sink.close()
    assert len(read(path)[0]) == 100
    assert len(read(path.with_name(f"cut{suffix}"))[0]) >= 20


def test_odd_sizes_and_changes_of_size(tmp_path):
    sink = opened(tmp_path / "seen.mp4")
    sink.write(make_prediction(0, size=(75, 101)))
    sink.write(make_prediction(1, size=(200, 300)))
    sink.close()
    _, pixels = read(tmp_path / "seen.mp4")
    assert [frame.shape for frame in pixels] == [(74, 100, 3)] * 2


def test_every_source_has_its_own_video_and_none_is_written_over(tmp_path):
    (tmp_path / "seen.mp4").write_bytes(b"mine")
    sink = opened(tmp_path / "seen.mp4")
    for number, source in enumerate("abab"):
        sink.write(make_prediction(number, source=source))
    sink.close()
    assert (tmp_path / "seen.mp4").read_bytes() == b"mine"
    assert [len(read(tmp_path / f"seen-{n}.mp4")[0]) for n in (1, 2)] == [2, 2]
    assert claim_path(tmp_path / "seen.mp4").name == "seen-3.mp4"


def test_a_video_that_fails_is_ended_and_another_begun_after_a_while(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    sink = opened(tmp_path / "seen.mp4")
    sink.write(make_prediction(0))
    (video,) = sink._videos.values()
    monkeypatch.setattr(
        video, "add", lambda prediction: (_ for _ in ()).throw(OSError("disk gone"))
    )
    with pytest.raises(ArtifactError, match="disk gone"):
        sink.write(make_prediction(1))
    with pytest.raises(ArtifactError, match="disk gone"):
        sink.write(make_prediction(2))
    now[0] += 31
    sink.write(make_prediction(3))
    sink.close()
    assert len(read(tmp_path / "seen-1.mp4")[0]) == 1


def test_a_full_disk_is_not_filled_with_empty_videos(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("No space left on device")

    sink = opened(tmp_path / "seen.mp4")
    monkeypatch.setattr(_Video, "add", fail)
    for number in range(20):
        with pytest.raises(ArtifactError, match="No space left"):
            sink.write(make_prediction(number))
    assert len(list(tmp_path.iterdir())) <= 1


def test_what_cannot_be_written_at_the_end_is_an_error_and_the_other_videos_end(
    tmp_path, monkeypatch
):
    sink = opened(tmp_path / "seen.mp4")
    for source in ("left", "right"):
        sink.write(make_prediction(0, source=source))
    video = sink._videos["left"]
    monkeypatch.setattr(video, "close", lambda: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(ArtifactError, match=r"seen.mp4: No space left, so its end is missing"):
        sink.close()
    assert len(read(tmp_path / "seen-1.mp4")[0]) == 1


def test_a_run_without_frames_leaves_no_file(tmp_path):
    opened(tmp_path / "seen.mp4").close()
    assert not (tmp_path / "seen.mp4").exists()


def test_refuses_what_it_cannot_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot write"):
        opened(tmp_path / "file" / "seen.mp4")


def test_drawing_leaves_the_frame_as_it_was():
    prediction = make_prediction(0, size=(96, 128))
    before = prediction.frame.pixels.copy()
    drawn = np.asarray(draw_prediction(prediction))
    assert np.array_equal(prediction.frame.pixels, before)
    assert not np.array_equal(drawn, before)
    unsure = np.asarray(draw_prediction(make_prediction(0, size=(96, 128), is_confident=False)))
    assert not np.array_equal(drawn, unsure)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3)])
def test_draws_on_pictures_of_any_size(size):
    assert draw_prediction(make_prediction(0, size=size)).size == size[::-1]
    assert draw_prediction(make_prediction(0, features=(1.0,), size=size)).size == size[::-1]


def test_jpeg_is_made_smaller_where_it_is_too_large():
    from io import BytesIO

    from PIL import Image

    image = Image.open(BytesIO(to_jpeg(np.zeros((600, 1200, 3), np.uint8), 300)))
    assert (image.size, image.format) == ((300, 150), "JPEG")
