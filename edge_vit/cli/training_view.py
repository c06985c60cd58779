"""A training as the person who waits for it sees it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from edge_vit.cli.progress import ShownProgress

if TYPE_CHECKING:
    from edge_vit.training.loop import FinetuneProgress


@contextlib.contextmanager
def training_view(
    progress: ShownProgress, name: str
) -> Iterator[Callable[[FinetuneProgress], None]]:
    """Give what `finetune` tells of each step: one bar of all steps, with loss and accuracy.

    The bar opens with the first step, since only that says how many there are.
    """
    with contextlib.ExitStack() as stack:
        advance: Callable[[int], None] | None = None
        position = 0

        def show(event: FinetuneProgress) -> None:
            nonlocal advance, position
            if advance is None:
                total = event.num_epochs * event.num_steps
                advance = stack.enter_context(progress.step(f"training {name}", total))
            progress.detail(describe(event))
            now = (event.epoch - 1) * event.num_steps + event.step
            advance(now - position)
            position = now

        yield show


def describe(event: FinetuneProgress) -> str:
    """Return where a training is: epoch, loss, accuracy, and the best on the held-out images."""
    text = (
        f"epoch {event.epoch} of {event.num_epochs}, loss {event.loss:.3f}, "
        f"accuracy {event.accuracy:.1%}"
    )
    best = event.best_accuracy
    return text if best is None else f"{text}, held out at best {best:.1%}"
