"""Progress on a terminal and off it."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from edge_vit.cli.finetune import training_view
from edge_vit.cli.log import SECONDS_BETWEEN_LINES, CommandLog, LineProgress, RichProgress
from edge_vit.training.loop import FinetuneProgress


class Clock:
    """Seconds that pass when told."""

    now = 100.0

    def __call__(self):
        return self.now


def plain():
    return Console(file=io.StringIO(), width=80)


def terminal():
    return Console(file=io.StringIO(), width=120, force_terminal=True)


def text_of(console):
    return console.file.getvalue()


def event(epoch, step, **changes):
    values = {
        **{"epoch": epoch, "num_epochs": 3, "step": step, "num_steps": 4, "loss": 0.5},
        **{"accuracy": 0.75, "learning_rate": 1e-3},
        **{"held_out_accuracy": None, "best_accuracy": None},
    }
    return FinetuneProgress(**{**values, **changes})


@pytest.mark.parametrize(
    ("console", "is_quiet", "kind"),
    [
        (plain, False, LineProgress),
        (terminal, False, RichProgress),
        (terminal, True, LineProgress),
    ],
    ids=["pipe", "terminal", "quiet"],
)
def test_suits_the_console(console, is_quiet, kind):
    with CommandLog(console(), is_quiet).progress() as progress:
        assert isinstance(progress, kind)
        with progress.step("work", 3) as advance:
            advance(3)


def test_quiet_prints_nothing():
    console = terminal()
    with (
        CommandLog(console, is_quiet=True).progress() as progress,
        progress.step("work", 1) as advance,
    ):
        advance(1)
    assert text_of(console) == ""


def test_bars_show_name_and_count():
    console = terminal()
    with (
        CommandLog(console).progress() as progress,
        progress.step("[re]calibrating", 256) as advance,
    ):
        advance(64)
        progress.bars.refresh()
        shown = text_of(console)
    assert all(words in shown for words in ("[re]calibrating", "64/256"))


def test_a_spinner_has_no_count():
    console = terminal()
    with CommandLog(console).progress() as progress, progress.step("tracing"):
        progress.bars.refresh()
        shown = text_of(console)
    assert "tracing" in shown
    assert "/" not in shown.replace("\x1b", "")


def test_a_finished_step_leaves_its_duration():
    console = terminal()
    with CommandLog(console).progress() as progress, progress.step("tracing"):
        pass
    assert "tracing (0.0 s)" in text_of(console)


def test_a_failed_step_leaves_no_duration_and_no_bar():
    console = terminal()
    with (
        pytest.raises(ZeroDivisionError),
        CommandLog(console).progress() as progress,
        progress.step("tracing"),
    ):
        raise ZeroDivisionError
    assert "tracing (" not in text_of(console)
    assert not progress.bars.tasks


@pytest.mark.parametrize("console", [plain, terminal])
@pytest.mark.parametrize("is_quiet", [False, True])
def test_notes_are_logged(console, is_quiet, caplog):
    with (
        caplog.at_level(logging.INFO, "edge_vit"),
        CommandLog(console(), is_quiet).progress() as progress,
    ):
        progress.note("parity holds")
    assert caplog.messages == ["parity holds"]


def test_lines_come_seldom():
    console, clock = plain(), Clock()
    progress = LineProgress(console, clock)
    with progress.step("evaluating", 10_000) as advance:
        for _ in range(10_000):
            clock.now += 2 * SECONDS_BETWEEN_LINES / 9_999
            advance(1)
    assert text_of(console).splitlines() == [
        "evaluating",
        "evaluating: 5,000 of 10,000, 5 s left",
        "evaluating: 10,000 of 10,000, 0 s left",
    ]


def test_lines_count_what_has_no_end():
    console, clock = plain(), Clock()
    progress = LineProgress(console, clock)
    with progress.step("reading") as advance:
        clock.now += 60
        advance(7)
    assert text_of(console).splitlines() == ["reading", "reading: 7"]


def test_lines_estimate_from_what_was_done_since_a_leap():
    console, clock = plain(), Clock()
    with LineProgress(console, clock).step("training", 1000) as advance:
        advance(900)
        clock.now += 100
        advance(50)
    assert text_of(console).splitlines()[-1] == "training: 950 of 1,000, 1 min 40 s left"


def test_a_training_is_one_bar_of_all_steps_and_a_note_for_each_epoch(caplog):
    console, clock = plain(), Clock()
    with (
        caplog.at_level(logging.INFO, "edge_vit"),
        training_view(LineProgress(console, clock), "vit_digits") as show,
    ):
        for epoch in (1, 2, 3):
            for step in (1, 2, 3, 4):
                clock.now += 3
                show(event(epoch, step, held_out_accuracy=0.9 if step == 4 else None))
    lines = text_of(console).splitlines()
    assert lines[0] == "training vit_digits"
    assert lines[-1] == "training vit_digits: 11 of 12, 3 s left"
    assert caplog.messages == [
        f"epoch {epoch} of 3: loss 0.500, accuracy 75.0%, held out 90.0%" for epoch in (1, 2, 3)
    ]


def test_a_training_that_never_begins_shows_nothing():
    console = plain()
    with training_view(LineProgress(console), "vit_digits"):
        pass
    assert text_of(console) == ""
