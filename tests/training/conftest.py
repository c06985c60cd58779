"""What the training tests share."""

import contextlib

import pytest

from edge_vit.training.datasets import load_digits


class RecordedProgress:
    """Keeps, by step, how many items were done of how many."""

    def __init__(self):
        self.steps = {}

    @contextlib.contextmanager
    def step(self, name, total=None):
        self.steps[name] = (0, total)

        def advance(count):
            self.steps[name] = (self.steps[name][0] + count, total)

        yield advance

    def note(self, text):
        pass


@pytest.fixture
def recorded_progress():
    return RecordedProgress()


@pytest.fixture(scope="session")
def digits():
    return load_digits()
