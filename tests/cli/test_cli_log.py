"""What goes to stderr, and what a rough terminal does to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-c", "from edge_vit.cli import main; main(prog_name='edgevit')"]


@pytest.fixture
def broken(monkeypatch):
    """Make `edgevit quantize` hit a bug of ours."""
    from edge_vit import api

    def bug(*arguments, **options):
        raise ZeroDivisionError("no such\nthing")

    monkeypatch.setattr(api, "quantize", bug)


def test_a_bug_is_one_line_that_says_how_to_see_more(refused, broken):
    line = refused("quantize", "b")
    assert line == (
        "internal error (ZeroDivisionError: no such thing). "
        "For a traceback run again with --verbose"
    )


@pytest.mark.parametrize("place", ["first", "last"])
def test_verbose_shows_the_traceback(edgevit, broken, place):
    words = ["quantize", "b"]
    result = edgevit(*(["--verbose", *words] if place == "first" else [*words, "--verbose"]))
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stdout == ""


def test_verbose_shows_the_traceback_of_a_refusal_too(edgevit, tmp_path):
    assert "ArtifactError" in edgevit("inspect", tmp_path / "b", "--verbose").stderr


def test_a_flag_after_two_dashes_is_a_name(edgevit, shared_bundle):
    result = edgevit("run", shared_bundle.path, "--", "--verbose")
    assert "image --verbose does not exist" in result.stderr


def test_quiet_leaves_results_alone(edgevit, bundle):
    result = edgevit("quantize", bundle.path, "--quiet")
    assert result.stderr == ""
    assert "int8.onnx" in result.stdout


def test_quiet_still_warns(edgevit, bundle, held_out, monkeypatch):
    from edge_vit.cli import reports
    from edge_vit.errors import ArtifactError

    def refuse(*arguments):
        raise ArtifactError("no room")

    monkeypatch.setattr(reports, "write_report", refuse)
    result = edgevit("-q", "verify", bundle.path, "--data", held_out, "--iterations", 2)
    warnings = result.stderr.splitlines()
    assert len(warnings) == 2
    assert all(line.startswith("Warning: ") and line.endswith("no room") for line in warnings)


def test_nothing_stays_behind_in_the_logger(edgevit, tmp_path):
    import logging

    logger = logging.getLogger("edge_vit")
    before = logger.level, list(logger.handlers)
    edgevit("--verbose", "inspect", tmp_path)
    assert (logger.level, logger.handlers) == before


@pytest.mark.parametrize("charset", ["ascii", "latin-1"])
def test_a_terminal_without_our_letters_shows_what_it_can(edgevit, shared_bundle, charset):
    result = edgevit("inspect", shared_bundle.path, charset=charset)
    assert result.exit_code == 0
    assert "Preprocessing" in result.stdout


def test_a_reader_that_leaves_early_sees_no_traceback(shared_bundle):
    command = [*COMMAND, "inspect", str(shared_bundle.path), "--json"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_ctrl_c_ends_with_one_line(shared_bundle):
    command = [*COMMAND, "bench", str(shared_bundle.path), "--iterations", str(10**9)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("timing"):
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert rest.splitlines()[-1] == "Error: interrupted"
    assert "Traceback" not in rest
