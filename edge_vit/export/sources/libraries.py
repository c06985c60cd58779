"""Other people's libraries, kept quiet and kept from waiting for a network that is not there."""

from __future__ import annotations

import contextlib
import logging
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch

from edge_vit.errors import EdgeVitError, SpecError
from edge_vit.export.sources.values import first_line
from edge_vit.optional import require

T = TypeVar("T")

_PATIENCE_S = 3.0


@contextlib.contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Keep Python warnings and records of the named `loggers` from the user inside the block."""
    kept = [(logging.getLogger(name), logging.getLogger(name).level) for name in loggers]
    try:
        for logger, _ in kept:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in kept:
            logger.setLevel(level)


@contextlib.contextmanager
def hub_access() -> Iterator[None]:
    """Let Hugging Face's hub read its cache alone where the network cannot be reached.

    Left to itself it tries again for most of a minute.
    """
    constants: Any = require("huggingface_hub.constants", "reading from Hugging Face's hub")
    was_offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = was_offline or not is_reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline


def is_reachable(url: str) -> bool:
    """Return whether the server of `url` answers, whatever it answers, within seconds."""
    try:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=_PATIENCE_S):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def make(
    library: str, create: Callable[..., T], name: str, arguments: Mapping[str, object], **own: Any
) -> T:
    """Return the model `name` that `create` of a library makes, seeded."""
    torch.manual_seed(0)
    try:
        return create(name, **own, **arguments)
    except OSError:
        raise
    except Exception as error:  # arguments of any kind reach somebody else's code
        given = ", ".join(f"{key}={value}" for key, value in arguments.items()) or "no arguments"
        raise SpecError(f"{library} cannot make {name} with {given}: {first_line(error)}") from None


def no_pretrained(address: str, reason: str) -> EdgeVitError:
    """Return the error for pretrained weights that cannot be had because of `reason`."""
    return EdgeVitError(
        f"{address}: no pretrained weights ({reason}). Add --checkpoint FILE, or --random-weights "
        "for shape and speed only"
    )


def refuse_other_head(address: str, library: str, own: int, wanted: int | None) -> None:
    """Refuse pretrained weights of `own` classes where others are `wanted`; 0 drops them."""
    if wanted not in (None, 0, own):
        reason = f"{library}'s have {own} classes, {wanted} were asked for"
        raise no_pretrained(address, reason)
