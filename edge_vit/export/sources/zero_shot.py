"""Zero-shot: what labels and prompts say, as the head of a model that sees images alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from edge_vit.errors import ArtifactError, SpecError
from edge_vit.spec import BakedText

TextTower = Callable[[Sequence[str]], Tensor]
"""Texts -> their embeddings, (texts, channels)."""

_TEXTS_AT_ONCE = 64


class ZeroShot(nn.Module):
    """An image tower with a text matrix behind it: the logits of each label."""

    def __init__(self, tower: nn.Module, text: Tensor, scale: float, bias: float) -> None:
        super().__init__()
        self.tower = tower
        self.weight: Tensor
        self.register_buffer("weight", (text.double() * scale).float().T.contiguous())
        self.bias = bias

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, labels) of `images` (B, 3, H, W): scaled cosines, shifted by a bias."""
        features: Tensor = self.tower(images)
        features = features / features.norm(dim=-1, keepdim=True)
        return features @ self.weight + self.bias if self.bias else features @ self.weight


def embed_labels(
    tower: TextTower, labels: Sequence[str], prompts: Sequence[str], address: str
) -> Tensor:
    """Return the text matrix, (labels, channels), its rows of length 1.

    Each row is the mean over the prompts of normalised embeddings, brought to length 1 again
    (Radford et al. 2021, Learning transferable visual models, section 3.1.4).
    """
    total: Tensor | None = None
    for prompt in prompts:
        texts = [prompt.replace("{}", label) for label in labels]
        parts = [
            tower(texts[start : start + _TEXTS_AT_ONCE])
            for start in range(0, len(texts), _TEXTS_AT_ONCE)
        ]
        embedded = torch.cat(parts).double()
        embedded = embedded / embedded.norm(dim=-1, keepdim=True)
        total = embedded if total is None else total + embedded
    assert total is not None, "no prompt"
    matrix: Tensor = (total / total.norm(dim=-1, keepdim=True)).float()
    if not matrix.isfinite().all():
        label = labels[int((~matrix.isfinite()).any(dim=1).int().argmax())]
        raise ArtifactError(f"{address}: its text tower gives NaN or infinity for {label!r}")
    return matrix


def baked(prompts: Sequence[str], matrix: Tensor) -> BakedText:
    """Return what a bundle says of the text `matrix` in its graph."""
    digest = hashlib.sha256(matrix.contiguous().numpy().astype("<f4").tobytes()).hexdigest()
    return BakedText(tuple(prompts), digest)


def check_texts(
    labels: Sequence[str],
    prompts: Sequence[str],
    tokenize: Callable[[Sequence[str]], Sequence[Sequence[int]]],
    longest: int,
    address: str,
) -> None:
    """Refuse a text that is longer than the tower reads, and labels that are the same to it.

    `tokenize` returns the token ids of each text, ends included, of which at most `longest` fit.
    """
    for prompt in prompts:
        seen: dict[tuple[int, ...], str] = {}
        texts = [prompt.replace("{}", label) for label in labels]
        for label, text, ids in zip(labels, texts, tokenize(texts), strict=True):
            if len(ids) > longest:
                raise SpecError(
                    f"--prompt: {text!r} is {len(ids)} tokens, but the text tower of {address} "
                    f"reads {longest}. Shorten the label or the prompt"
                )
            twin = seen.setdefault(tuple(ids), label)
            if twin is not label:
                raise SpecError(
                    f"--labels: {twin!r} and {label!r} are the same words to the tokenizer of "
                    f"{address}, expected labels that it tells apart. Reword one of them"
                )
