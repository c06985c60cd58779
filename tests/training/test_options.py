"""Training options: what cannot be, and the course of the learning rate."""

import math

import pytest

from edge_vit.errors import SpecError
from edge_vit.training.options import FinetuneOptions, learning_rate_at


def test_the_defaults_are_those_for_pretrained_weights():
    options = FinetuneOptions()
    assert (options.learning_rate, options.batch_size, options.optimizer) == (1e-4, 64, "adamw")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs: got 0, expected at least 1"),
        ({"learning_rate": 0.0}, "learning_rate: got 0.0, expected a finite number above 0"),
        ({"learning_rate": math.nan}, "learning_rate: got nan"),
        ({"learning_rate": math.inf}, "learning_rate: got inf"),
        ({"optimizer": "sgd"}, "optimizer: got sgd, expected adamw or adam"),
        ({"weight_decay": -1.0}, "weight_decay: got -1.0"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"warmup_epochs": 3, "epochs": 2}, "warmup_epochs: got 3, expected from 0 to epochs"),
        ({"label_smoothing": 1.0}, "label_smoothing: got 1.0"),
        ({"threads": 0}, "threads: got 0"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_refuses_what_cannot_be(options, message):
    with pytest.raises(SpecError, match=message):
        FinetuneOptions(**options)


def rates(**changes):
    options = FinetuneOptions(epochs=5, learning_rate=2.0, **changes)
    return [learning_rate_at(step, 4, options) for step in range(20)]


def test_rises_linearly_then_falls_along_a_cosine():
    course = rates(warmup_epochs=1)
    assert course[:4] == [0.5, 1.0, 1.5, 2.0]
    assert course[4:] == [1 + math.cos(math.pi * step / 16) for step in range(16)]


def test_stays_after_the_warm_up_without_cosine():
    assert rates(warmup_epochs=1, cosine=False) == [0.5, 1.0, 1.5] + [2.0] * 17


def test_starts_at_the_full_rate_without_warm_up():
    assert rates(warmup_epochs=0)[0] == 2.0


def test_may_be_all_warm_up():
    assert rates(warmup_epochs=5)[-1] == 2.0
