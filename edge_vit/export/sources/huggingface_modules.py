"""What transformers' models need to be traced: one tensor out, and attention without padding."""

from __future__ import annotations

from typing import Any

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
