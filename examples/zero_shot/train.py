"""Train a small CLIP on coloured digits in photographs and sentences about them.

    PYTHONPATH=examples python examples/zero_shot/train.py --minutes 2.2

Batches are small and sentences repeat, so that many pairs of an image and the sentence of another
one belong together too: of each image all sentences that are true share the target (UniCL, Yang
et al. 2022). Two heads for colour and digit let the image tower learn what a digit is while the
sentences still mean nothing; they are dropped at the end. Images are gray and plain at first, and
get their colours and photographs by and by.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast
from zero_shot.scenes import COLOURS, DIGITS, HELD_OUT, PAIRS, Scene, label_of, scenes

SIDE, POOL, BATCH, LONGEST = 24, 6_000, 64, 16
TEMPLATES = (
    *("{}", "a {}", "the {}", "a photo of a {}", "a photo of the {}", "a picture of a {}"),
    *("an image of a {}", "there is a {}", "a handwritten {}", "a {} in a photo"),
    *("a {} on a wall", "the number {}", "the digit {}", "a photo of the digit {}"),
    *("a photo of the number {}", "someone wrote a {}"),
)
WORDS = sorted({*" ".join(TEMPLATES).replace("{}", "").split(), *COLOURS, *DIGITS})


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words, without regard to case and punctuation."""
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    vocabulary = {word: index for index, word in enumerate([*special.values(), *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation("removed")]
    )
    ends = [(name, vocabulary[name]) for name in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=LONGEST, **special)


def make_model(tokenizer: PreTrainedTokenizerFast) -> CLIPModel:
    """Return the untrained model."""
    vision = {
        "hidden_size": 96,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": 6,
    }
    text = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": LONGEST,
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return CLIPModel(
        CLIPConfig(
            vision_config=vision, text_config=text, projection_dim=64, logit_scale_init_value=2.3
        )
    )


def describe(scene: Scene, random: np.random.Generator) -> tuple[str, int, int]:
    """Return a sentence about `scene`, and colour and digit that it names; -1 where none."""
    template = TEMPLATES[random.integers(len(TEMPLATES))]
    what = random.random()
    if what < 0.35:
        return template.format(DIGITS[scene.digit]), -1, scene.digit
    if what < 0.45:
        return template.format(tuple(COLOURS)[scene.colour]), scene.colour, -1
    return template.format(label_of(scene.colour, scene.digit)), scene.colour, scene.digit


def truth_of(part: list[Scene], said: list[tuple[str, int, int]]) -> Tensor:
    """Return whether each sentence is true of each image, (images, sentences)."""
    colours, digits = (
        torch.tensor([getattr(scene, name) for scene in part])[:, None]
        for name in ("colour", "digit")
    )
    their_colours, their_digits = (torch.tensor([each[at] for each in said]) for at in (1, 2))
    fits = (their_colours < 0) | (their_colours == colours)
    return (fits & ((their_digits < 0) | (their_digits == digits))).float()


def normalise(part: list[Scene]) -> Tensor:
    """Return the pixels as the model takes them, (images, 3, SIDE, SIDE)."""
    pixels = np.stack([scene.pixels for scene in part])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def loss_of(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the mean of both directions' cross entropies with shared targets."""
    both = [(logits, truth), (logits.T, truth.T)]
    losses = [-(t / t.sum(1, keepdim=True) * x.log_softmax(1)).sum(1).mean() for x, t in both]
    return sum(losses) / 2


def train(
    model: CLIPModel, tokenizer: PreTrainedTokenizerFast, minutes: float, peak: float
) -> None:
    """Train for `minutes` of CPU time: the rate rises in the first 30th, then falls as a cosine."""
    width = model.config.projection_dim
    heads = nn.ModuleList(nn.Linear(width, len(names)) for names in (COLOURS, DIGITS))
    optimizer = torch.optim.AdamW([*model.parameters(), *heads.parameters()], weight_decay=0.05)
    pairs = [pair for pair in PAIRS if pair not in HELD_OUT]
    random = np.random.default_rng(2)
    plain, photographs = (
        list(itertools.islice(scenes("train", SIDE, pairs, seed=1, plain=share), POOL))
        for share in (1.0, 0.0)
    )
    begin, running = time.process_time(), 0.0
    for step in itertools.count(1):
        share = (time.process_time() - begin) / (60 * minutes)
        if share >= 1:
            return
        for group in optimizer.param_groups:
            group["lr"] = peak * min(30 * share, 0.5 + 0.5 * math.cos(math.pi * share)) + 1e-6
        is_plain = random.random(BATCH) < max(0.4, 1 - 2 * share)  # plain ones first
        part = [
            (plain if flag else photographs)[index]
            for flag, index in zip(is_plain, random.integers(POOL, size=BATCH), strict=True)
        ]
        said = [describe(scene, random) for scene in part]
        tokens = tokenizer([each[0] for each in said], padding=True, return_tensors="pt")
        pixels = normalise(part)
        gray = pixels.mean(1, keepdim=True)
        pixels = gray + min(1.0, max(0.0, 4 * share - 0.6)) * (pixels - gray)
        outputs = model(
            pixel_values=pixels,
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
        )
        seen = outputs.vision_model_output.pooler_output
        loss = loss_of(outputs.logits_per_image, truth_of(part, said))
        for head, name in zip(heads, ("colour", "digit"), strict=True):
            wanted = torch.tensor([getattr(scene, name) for scene in part])
            loss = loss + F.cross_entropy(head(seen), wanted)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.logit_scale.data.clamp_(max=math.log(100))
        running = loss.item() if step == 1 else 0.98 * running + 0.02 * loss.item()
        if step % 50 == 0:
            print(f"{100 * share:5.1f} %  step {step}  loss {running:.3f}", flush=True)
        if step % 500 == 0:
            model.eval()
            print(
                {
                    name: f"{accuracy(model, tokenizer, list(of)):.1%}"
                    for name, of in (("all", PAIRS), ("held out", HELD_OUT))
                },
                flush=True,
            )
            model.train()


@torch.no_grad()
def accuracy(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, pairs: list) -> float:
    """Return the share of unseen images of `pairs` whose own label is first among all 80."""
    part = list(itertools.islice(scenes("test", SIDE, pairs, seed=3), 400))
    texts = [f"a photo of a {label_of(*pair)}" for pair in PAIRS]
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    logits = model(
        pixel_values=normalise(part),
        input_ids=tokens.input_ids,
        attention_mask=tokens.attention_mask,
    ).logits_per_image
    wanted = [PAIRS.index((scene.colour, scene.digit)) for scene in part]
    return (logits.argmax(1) == torch.tensor(wanted)).float().mean().item()


def save(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write config, weights, tokenizer and how images are prepared."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    facts = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": SIDE},
        "do_center_crop": True,
        "crop_size": {"height": SIDE, "width": SIDE},
        "resample": 3,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(facts, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=2.2, help="of CPU time")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="highest learning rate")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "clip-digits")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer).train()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    try:
        train(model, tokenizer, options.minutes, options.rate)
    finally:
        save(model.eval(), tokenizer, options.out)


if __name__ == "__main__":
    main()
