"""Zero-shot: the text towers of transformers, CLIP, SigLIP and their like, read once for a head."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_vit.errors import ArtifactError, SpecError
from edge_vit.export.sources.huggingface_models import FAMILIES, Choice, ImageTower, embedding_in
from edge_vit.export.sources.request import SourceRequest
from edge_vit.export.sources.values import first_line
from edge_vit.spec import BakedText

TextTower = Callable[[Sequence[str]], Tensor]  # texts -> their embeddings, (texts, channels)

_TEXTS_AT_ONCE = 64


def make_zero_shot(
    transformers: ModuleType, request: SourceRequest, model: Any, choice: Choice, place: str
) -> tuple[nn.Module, BakedText]:
    """Return the image tower of `model` with the texts of `request` in its head, and what they are.

    The logits of the labels are transformers' own ``logits_per_image``.
    """
    if choice.activation == "softmax":
        _refuse_single_labels(request, choice)
    tokenizer = _read_tokenizer(transformers, request, place)
    facts = model.config.text_config
    longest = min(_num_positions(model, facts), int(tokenizer.model_max_length))
    padding: dict[str, object] = {"padding": True}
    if choice.activation == "sigmoid":  # SigLIP was trained on texts filled up, and reads the last
        padding = {"padding": "max_length", "max_length": longest}
    known = set(inspect.signature(model.get_text_features).parameters)

    def tokenize(texts: Sequence[str]) -> Sequence[Sequence[int]]:
        ids: Sequence[Sequence[int]] = tokenizer(list(texts))["input_ids"]
        if (largest := max(map(max, ids))) >= facts.vocab_size:
            raise SpecError(
                f"{request.address}: its tokenizer gives token {largest}, but its text tower knows "
                f"{facts.vocab_size}: the tokenizer is another model's. Put its own beside it"
            )
        return ids

    def embed(texts: Sequence[str]) -> Tensor:
        tokens: Mapping[str, Tensor] = tokenizer(list(texts), return_tensors="pt", **padding)
        with torch.no_grad():
            taken = {name: tokens[name] for name in tokens if name in known}
            return embedding_in(model.get_text_features(**taken))

    model.eval().float()
    if not hasattr(model, "logit_scale"):
        raise SpecError(
            f"--prompt: a {type(model).__name__} does not scale cosines of images and texts, as "
            "CLIP does. Leave it out for features"
        )
    _check_texts(request.labels, request.prompts, tokenize, longest, request.address)
    matrix = _embed_labels(embed, request.labels, request.prompts, request.address)
    scale = float(model.logit_scale.detach().double().exp())
    bias = float(model.logit_bias.detach()) if hasattr(model, "logit_bias") else 0.0
    if model.config.model_type not in FAMILIES:
        _check_logits(model, tokenizer, embed, scale, bias, request)
    digest = hashlib.sha256(matrix.contiguous().numpy().astype("<f4").tobytes()).hexdigest()
    text = BakedText(tuple(request.prompts), digest)
    return _ZeroShot(ImageTower(model), matrix, scale, bias), text


class _ZeroShot(nn.Module):
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


def _embed_labels(
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


def _check_texts(
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


def _num_positions(model: nn.Module, facts: Any) -> int:
    """Return how many tokens the text tower has positions for: RoBERTa's begin behind padding."""
    tables = (m for n, m in model.named_modules() if n.endswith("position_embeddings"))
    padding = (m.padding_idx for m in tables if isinstance(m, nn.Embedding))
    skipped = next((index + 1 for index in padding if index is not None), 0)
    return int(facts.max_position_embeddings) - skipped


def _check_logits(
    model: Any, tokenizer: Any, embed: TextTower, scale: float, bias: float, request: SourceRequest
) -> None:
    """Refuse a model whose logits are not scaled cosines of its two towers."""
    texts = [request.prompts[0].replace("{}", label) for label in request.labels[:2]]
    side = model.config.vision_config.image_size
    images = torch.randn(2, 3, *((side, side) if isinstance(side, int) else side))
    with torch.no_grad():
        known = set(inspect.signature(model.forward).parameters)
        tokens = tokenizer(texts, return_tensors="pt", padding=True)
        taken = {name: tokens[name] for name in tokens if name in known}
        wanted = model(pixel_values=images, **taken).logits_per_image
        seen = embedding_in(model.get_image_features(pixel_values=images))
        cosines = F.normalize(seen, dim=-1) @ F.normalize(embed(texts), dim=-1).T
    if not torch.allclose(cosines * scale + bias, wanted, rtol=1e-3, atol=1e-4 * abs(scale)):
        raise SpecError(
            f"--prompt: the logits of {request.address} are not scaled cosines of its image and "
            "text features, which alone can be written into a graph. Leave it out for features"
        )


def _refuse_single_labels(request: SourceRequest, choice: Choice) -> None:
    if request.task not in (None, choice.task):
        raise SpecError(
            f"--task {request.task}: {request.address} compares labels with each other, none has a "
            "probability of its own. Take a SigLIP for that, or leave --task out"
        )
    if len(request.labels) < 2:
        raise SpecError(
            f"--labels: {request.address} compares labels with each other, got 1, expected at "
            "least 2, such as the label and what is there without it"
        )


def _read_tokenizer(transformers: ModuleType, request: SourceRequest, place: str) -> Any:
    reason = "it has no words"
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            place, trust_remote_code=False, local_files_only=Path(place).is_dir()
        )
    except Exception as error:  # a library that it needs, or files of any kind
        reason = first_line(error)
    else:
        # Without its files some classes are made with their special tokens alone.
        if len(tokenizer) > len(tokenizer.all_special_ids):
            return tokenizer
    raise SpecError(
        f"{request.address}: no tokenizer for --prompt ({reason}). Put the model's own beside its "
        "config.json, such as tokenizer.json and tokenizer_config.json"
    )
