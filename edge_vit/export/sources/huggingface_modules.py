"""What transformers' models need to be traced: one tensor out, and attention without padding."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any
from unittest import mock

from torch import Tensor, nn

from edge_vit.export.sources.huggingface_families import Feature


class Logits(nn.Module):
    """A transformers classifier that returns its logits as one tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, classes) of `images` (B, 3, H, W)."""
        logits: Tensor = self.model(pixel_values=images).logits
        return logits


class Detections(nn.Module):
    """A transformers detector that returns class logits and boxes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, Q, C) and boxes (B, Q, 4), cxcywh from 0 to 1, of `images`."""
        with _traceable(sys.modules[type(self.model).__module__]):
            outputs = self.model(pixel_values=images)
        return outputs.logits, outputs.pred_boxes


@contextlib.contextmanager
def _traceable(modeling: ModuleType) -> Iterator[None]:
    """Let the code of `modeling` be traced at any batch size.

    Its checks of shapes, which no exporter can write into a graph, are switched off, and `len` of a
    tensor stays symbolic, where Python's own would be a number.
    """

    def length(value: Any) -> Any:
        return value.shape[0] if isinstance(value, Tensor) else len(value)

    with (
        mock.patch.dict(os.environ, {"TRANSFORMERS_DISABLE_TORCH_CHECK": "1"}),
        mock.patch.object(modeling, "len", length, create=True),
    ):
        yield


class Features(nn.Module):
    """A transformers model without a head that returns one vector for an image.

    Args:
        model: the model.
        feature: which vector.
    """

    def __init__(self, model: nn.Module, feature: Feature) -> None:
        super().__init__()
        self.model = model
        self.feature = feature

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, channels) of `images` (B, 3, H, W)."""
        outputs = self.model(pixel_values=images)
        if self.feature in ("pooler_output", "image_embeds"):
            pooled: Tensor = outputs[self.feature]
            return pooled
        tokens: Tensor = outputs.last_hidden_state
        return tokens[:, 0] if self.feature == "class token" else tokens.mean(dim=1)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Return softmax(Q Kᵀ scaling) V as (B, N, h, d_k), and the weights (B, h, N, N).

    Transformers' own forms mask padding, even in images, where there is none; the mask would be in
    every graph. An implementation that it does not know gets no such mask, only what belongs to the
    model: Swin's and BEiT's relative positions, added to the scores.

    Args:
        module: the attention layer; not used.
        query: (B, h, N, d_k), and so are key and value.
        key: see there.
        value: see there.
        attention_mask: None, or numbers that broadcast to the scores (B, h, N, N).
        scaling: 1 / √d_k.
    """
    scores = query @ key.transpose(-2, -1) * scaling
    if attention_mask is not None:
        assert attention_mask.is_floating_point()
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights
