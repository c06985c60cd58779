"""Labels, names and files that try to drive the terminal; streams that are closed or full."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import exported_as

from edge_vit.api import export_bundle
from edge_vit.export import export
from edge_vit.printable import printable

pytestmark = pytest.mark.uncounted

HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\rcat"
COMMAND = [sys.executable, "-c", "from edge_vit.cli import main; main(prog_name='edgevit')"]


@pytest.fixture(scope="module")
def hostile(shared_bundle, tmp_path_factory):
    """Return a bundle whose labels, name and licence hold escape sequences."""
    made = exported_as(shared_bundle)
    labels = tuple(f"{HOSTILE}\n{index}" for index in range(10))
    spec = dataclasses.replace(made.spec, labels=labels, name=HOSTILE, licence=HOSTILE)
    path = tmp_path_factory.mktemp("hostile") / "h.edgevit"
    with pytest.MonkeyPatch.context() as patch:
        made = dataclasses.replace(made, spec=spec)
        patch.setattr(export, "export_model", lambda *arguments, **options: made)
        return export_bundle("edgevit:vit_digits", path, precision="fp16")


@pytest.fixture(scope="module")
def hostile_images(tmp_path_factory, held_out):
    """Return a folder with one digit whose name is no UTF-8 and clears the screen."""
    folder = tmp_path_factory.mktemp("images")
    for index, source in enumerate(sorted(held_out.glob("*/*.png"))[:12:4]):
        name = os.fsencode(str(folder)) + b"/\x1b[2J\xe9%d.png" % index
        shutil.copy(source, os.fsdecode(name))
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "BUNDLE"],
        ["run", "BUNDLE", "IMAGES"],
        ["run", "BUNDLE", "IMAGES", "--json"],
        ["run", "BUNDLE", "no/\x1b[2J.png"],
        ["eval", "BUNDLE", "--data", "IMAGES", "--precision", "fp16"],
        ["bench", "BUNDLE", "--iterations", "5", "--warmup", "1"],
        ["verify", "BUNDLE", "--data", "IMAGES", "--iterations", "5"],
        ["camera", "BUNDLE", "--source", "IMAGES"],
        ["camera", "BUNDLE", "--source", "IMAGES", "--json"],
        ["inspect", "\x1b[2J.edgevit"],
        ["inspect", "BUNDLE", "--\x1b[2J"],
        ["\x1b[2J"],
        ["eval", "BUNDLE", "--precision", "\x1b[2J"],
    ],
    ids=lambda arguments: printable(" ".join(arguments)),
)
def test_nothing_from_outside_reaches_the_terminal_raw(
    edgevit, hostile, hostile_images, tmp_path, arguments
):
    places = {"BUNDLE": str(hostile.path), "IMAGES": str(hostile_images)}
    result = edgevit(*(places.get(word, word) for word in arguments))
    assert "internal error" not in result.stderr
    assert result.stdout or result.stderr
    for text in (result.stdout, result.stderr):
        assert printable(text) == text


def run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, close=None):
    def closed():
        os.close(close)

    return subprocess.run(
        [*COMMAND, *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        text=True,
        preexec_fn=closed if close is not None else None,
    )


@contextlib.contextmanager
def full():
    with Path("/dev/full").open("w") as file:
        yield file


def test_a_full_stdout_ends_in_one_line(hostile):
    words = [["--help"], ["bench", "--help"], ["--version"]]
    words += [["inspect", hostile.path], ["inspect", hostile.path, "--json"]]
    for arguments in words:
        with full() as stdout:
            done = run(arguments, stdout=stdout)
        assert done.stderr.splitlines()[-1] == (
            "Error: cannot write results to stdout: No space left on device"
        )
        assert "Traceback" not in done.stderr
        assert done.returncode == 1


def test_a_closed_stdout_ends_in_one_line_before_the_work(hostile):
    for arguments in (["--help"], ["inspect", hostile.path], ["quantize", hostile.path]):
        done = run(arguments, close=1)
        assert done.stderr == (
            "Error: stdout is closed, and results would be lost. Send them to a file with > FILE, "
            "or to /dev/null\n"
        )
        assert done.returncode == 1


@pytest.mark.parametrize("how", ["closed", "full"])
def test_a_stderr_that_takes_nothing_costs_messages_alone(hostile, hostile_images, how):
    with full() as file:
        stderr = {"close": 2} if how == "closed" else {"stderr": file}
        good = run(["run", hostile.path, hostile_images, "--json"], **stderr)
        bad = run(["run", hostile.path, "no.png"], **stderr)
    assert good.returncode == 0
    assert good.stdout.count('"image"') == 3
    assert bad.returncode == 1
