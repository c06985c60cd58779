"""The text towers of transformers: CLIP, SigLIP and their like, read once for a zero-shot head."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_vit.errors import SpecError
from edge_vit.export.sources.huggingface_models import FAMILIES, Choice, ImageTower, embedding_in
from edge_vit.export.sources.request import SourceRequest
from edge_vit.export.sources.values import first_line
from edge_vit.export.sources.zero_shot import TextTower, ZeroShot, baked, check_texts, embed_labels
from edge_vit.spec import BakedText


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
    check_texts(request.labels, request.prompts, tokenize, longest, request.address)
    matrix = embed_labels(embed, request.labels, request.prompts, request.address)
    scale = float(model.logit_scale.detach().double().exp())
    bias = float(model.logit_bias.detach()) if hasattr(model, "logit_bias") else 0.0
    if model.config.model_type not in FAMILIES:
        _check_logits(model, tokenizer, embed, scale, bias, request)
    return ZeroShot(ImageTower(model), matrix, scale, bias), baked(request.prompts, matrix)


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
