import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_predictions import make_prediction, make_summary

from edge_vit.camera.sinks import json_lines
from edge_vit.camera.sinks.json_lines import JsonLinesSink, StdoutSink
from edge_vit.errors import ArtifactError

TESTS = Path(__file__).parents[2]


def opened(path, **settings):
    sink = JsonLinesSink(path, **settings)
    sink.open(make_summary)
    return sink


def numbers(path):
    return [json.loads(line)["number"] for line in path.read_text().splitlines()]


def test_every_answer_is_a_line(tmp_path):
    sink = opened(tmp_path / "new" / "answers.jsonl")
    for number in range(3):
        sink.write(make_prediction(number))
    sink.close()
    assert numbers(tmp_path / "new" / "answers.jsonl") == [0, 1, 2]


def test_goes_on_where_the_last_run_ended(tmp_path):
    path = tmp_path / "answers.jsonl"
    for number in range(2):
        sink = opened(path)
        sink.write(make_prediction(number))
        sink.close()
    assert numbers(path) == [0, 1]


def test_a_line_that_a_power_cut_left_half_written_spoils_no_other(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"number":0}\n{"numb')
    sink = opened(path)
    sink.write(make_prediction(1))
    sink.close()
    lines = path.read_text().splitlines()
    assert (lines[1], json.loads(lines[2])["number"]) == ('{"numb', 1)


def test_rotates_before_the_file_grows_too_large(tmp_path):
    path = tmp_path / "answers.jsonl"
    size = len(json_lines.json_line(make_prediction(10)))
    sink = opened(path, max_bytes=2 * size + 1, num_kept=2)
    for number in range(10, 19):
        sink.write(make_prediction(number))
    sink.close()
    assert numbers(path) == [18]
    assert numbers(tmp_path / "answers.jsonl.1") == [16, 17]
    assert numbers(tmp_path / "answers.jsonl.2") == [14, 15]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"answers.jsonl{e}" for e in ("", ".1", ".2")
    ]


def test_keeps_no_older_file_where_none_is_wanted(tmp_path):
    sink = opened(tmp_path / "answers.jsonl", max_bytes=1, num_kept=0)
    for number in range(3):
        sink.write(make_prediction(number))
    sink.close()
    assert [path.name for path in tmp_path.iterdir()] == ["answers.jsonl"]
    assert numbers(tmp_path / "answers.jsonl") == [2]


def test_a_file_that_somebody_removed_is_made_again(tmp_path):
    path = tmp_path / "answers.jsonl"
    sink = opened(path)
    sink.write(make_prediction(0))
    path.unlink()
    sink.write(make_prediction(1))
    sink.close()
    assert numbers(path) == [1]


def test_a_full_disk_fails_that_answer_and_leaves_whole_lines(tmp_path, monkeypatch):
    path = tmp_path / "answers.jsonl"
    sink = opened(path)
    sink.write(make_prediction(0))
    real, calls = os.write, []

    def half(handle, data):
        calls.append(data)
        if len(calls) == 1:
            return real(handle, bytes(data)[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(json_lines.os, "write", half)
    with pytest.raises(ArtifactError, match="No space left"):
        sink.write(make_prediction(1))
    monkeypatch.undo()
    sink.write(make_prediction(2))
    sink.close()
    assert numbers(path) == [0, 2]


@pytest.mark.parametrize("name", ["folder", "file/below"])
def test_refuses_at_once_what_it_can_never_write(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=name.split("/")[0]):
        opened(tmp_path / name)


def test_lines_on_stdout_are_not_held_back():
    stream = io.BytesIO()
    sink = StdoutSink(stream=stream)
    sink.open(make_summary)
    sink.write(make_prediction(3))
    assert json.loads(stream.getvalue())["number"] == 3
    sink.close()


def test_what_there_is_nothing_to_say_of_prints_nothing():
    stream = io.BytesIO()
    sink = StdoutSink(
        lambda prediction: b"odd\n" if prediction.frame.number % 2 else None, stream=stream
    )
    sink.open(make_summary)
    for number in range(4):
        sink.write(make_prediction(number))
    assert stream.getvalue() == b"odd\n" * 2


def test_tells_once_that_nobody_reads_any_more():
    reader, writer = os.pipe()
    left = []
    with os.fdopen(writer, "wb") as stream:
        sink = StdoutSink(reader_left=lambda: left.append(True), stream=stream)
        sink.open(make_summary)
        os.close(reader)
        with pytest.raises(BrokenPipeError):
            sink.write(make_prediction(0))
        sink.write(make_prediction(1))
    assert left == [True]


def test_stdout_is_that_of_the_process(tmp_path):
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from made_predictions import make_prediction, make_summary\n"
        "from edge_vit.camera.sinks.json_lines import StdoutSink\n"
        "sink = StdoutSink(); sink.open(make_summary); sink.write(make_prediction(5)); sink.close()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(TESTS)],
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)["number"] == 5
