"""Other people's libraries, kept quiet and kept from waiting for a network that is not there."""

from __future__ import annotations

import contextlib
import logging
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from typing import Any

from edge_vit.errors import EdgeVitError
from edge_vit.optional import require

_PATIENCE_S = 3.0


@contextlib.contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Keep Python warnings and what the named `loggers` say from the user inside the block."""
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
    """Let Hugging Face's hub answer from its cache alone where it cannot be reached.

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
        with urllib.request.urlopen(
            urllib.request.Request(url, method="HEAD"), timeout=_PATIENCE_S
        ):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def no_pretrained(address: str, reason: str) -> EdgeVitError:
    """Return the error for pretrained weights that cannot be had because of `reason`."""
    return EdgeVitError(
        f"{address}: no pretrained weights ({reason}). Add --checkpoint FILE, or --random-weights "
        "for "
        "shape and speed only"
    )
