"""Other people's libraries: quiet, and never waiting for a network that is not there."""

from __future__ import annotations

import io
import logging
import urllib.error
import warnings

import pytest
from huggingface_hub import constants

from edge_vit.export.sources import libraries


@pytest.mark.parametrize("reachable", [True, False])
def test_the_hub_answers_from_its_cache_alone_where_it_cannot_be_reached(monkeypatch, reachable):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(libraries, "is_reachable", lambda url: reachable)
    with pytest.raises(KeyError), libraries.hub_access():
        assert constants.HF_HUB_OFFLINE is not reachable
        raise KeyError
    assert constants.HF_HUB_OFFLINE is False


@pytest.mark.parametrize(
    ("answer", "reachable"),
    [
        (io.BytesIO(), True),
        (urllib.error.HTTPError("https://x", 404, "not found", {}, None), True),
        (urllib.error.URLError("name or service not known"), False),
        (TimeoutError("timed out"), False),
    ],
    ids=["answers", "refuses", "unknown", "silent"],
)
def test_a_server_is_reachable_whatever_it_answers(monkeypatch, answer, reachable):
    def urlopen(request, timeout):
        assert (request.get_method(), timeout) == ("HEAD", 3.0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(libraries.urllib.request, "urlopen", urlopen)
    assert libraries.is_reachable("https://example.org") is reachable


def test_quiet_silences_the_block_and_nothing_after_it(caplog):
    logger = logging.getLogger("noisy")
    with caplog.at_level(logging.INFO, logger="noisy"):
        with libraries.quiet("noisy"):
            logger.warning("inside")
            warnings.warn("inside", UserWarning, stacklevel=1)
        logger.warning("outside")
    assert caplog.messages == ["outside"]
    with pytest.warns(UserWarning, match="outside"):
        warnings.warn("outside", UserWarning, stacklevel=1)
