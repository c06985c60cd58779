"""Errors: one class for each kind.

A message names the thing, what came, what was wanted and what to type next, in one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MAX_MESSAGE = 1_500


class EdgeVitError(Exception):
    """Anything that edge-vit refuses or fails to do; its text is one line for the user."""

    exit_status = 1

    def __str__(self) -> str:
        """Return the message on one line, its middle left out where a user's text is very long."""
        text = " ".join(super().__str__().splitlines())
        if len(text) <= _MAX_MESSAGE:
            return text
        return f"{text[: _MAX_MESSAGE // 2]} … {text[-_MAX_MESSAGE // 3 :]}"


class SpecError(EdgeVitError):
    """A model, a recipe or an option is impossible."""


class ShapeError(EdgeVitError):
    """An array or tensor has the wrong name, dtype or shape."""


class ImageError(EdgeVitError):
    """An image cannot be read, or is not safe to read."""


class ArtifactError(EdgeVitError):
    """A bundle, or a file in it, is missing, edited, truncated, stale or of an unknown format."""


class BackendError(EdgeVitError):
    """A backend could not load or run a model."""


class ParityError(EdgeVitError):
    """An exported graph gives other numbers than the model it came from."""


class MissingDependencyError(EdgeVitError):
    """A package that belongs to an extra is not installed."""


class SourceError(EdgeVitError):
    """A camera, a stream or a video cannot be opened, or was lost."""


class DeviceLostError(EdgeVitError):
    """A camera or a GPU is gone, and this process cannot get it back; a new one may."""

    exit_status = 4


class GateFailed(EdgeVitError):  # noqa: N818
    """A limit that the user set was not kept."""

    exit_status = 3


def did_you_mean(got: str, known: Iterable[str], count: int = 1) -> str:
    """Return ``. Did you mean NAME?`` with the nearest of `known`; empty where none is near."""
    near = difflib.get_close_matches(got, list(known), n=count)
    return f". Did you mean {' or '.join(near)}?" if near else ""
