"""Small seeded models of an image and a text tower of transformers, with their tokenizers."""

from __future__ import annotations

import json

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from edge_vit.export.sources import SourceRequest

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
WORDS = ("a", "photo", "of", "the", "cat", "dog", "cow", "red", "blue", "in", "snow", "!")
LONGEST = 12
HALF = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 24,
}
VISION = {**HALF, "image_size": 32, "patch_size": 8}
TEXT = {
    **HALF,
    "vocab_size": 40,
    "max_position_embeddings": LONGEST,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
IMAGES = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 32, "width": 32},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
LABELS = ("cat", "red dog", "cow in the snow")
PROMPTS = ("a photo of a {}", "the {}")


def make_tokenizer(folder):
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", special_tokens=[(name, vocabulary[name]) for name in ("<s>", "</s>")]
    )
    names = dict(zip(("pad", "unk", "bos", "eos", "mask"), SPECIAL, strict=True))
    whole = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=LONGEST,
        **{f"{kind}_token": name for kind, name in names.items()},
    )
    whole.save_pretrained(folder)
    return whole


def make_letters(folder):
    """Save a tokenizer of letters; that of SigLIP 2 is made by a class of its own."""
    letters = ["▁", *sorted(set("".join(WORDS)))]
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *letters))}
    names = dict(zip(("pad", "unk", "bos", "eos", "mask"), SPECIAL, strict=True))
    tokenizer = transformers.Siglip2Tokenizer(
        vocabulary, [], model_max_length=40, **{f"{kind}_token": n for kind, n in names.items()}
    )
    tokenizer.save_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


def make_pair(folder, name="CLIP", *, images=IMAGES, **text):
    """Return a seeded model of both towers and its tokenizer, which are saved in `folder`."""
    model_class = getattr(transformers, f"{name}Model")
    vision = {**VISION, "num_patches": 16} if name == "Siglip2" else VISION
    kinds = {"projection_dim": 7} if "CLIP" in name.upper().replace("SIGLIP", "") else {}
    config = model_class.config_class(
        vision_config=vision, text_config={**TEXT, "projection_size": 12, **text}, **kinds
    )
    torch.manual_seed(1)
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
        model.logit_scale.fill_(2.0)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    return model, (make_letters if name == "Siglip2" else make_tokenizer)(folder)


def ask(folder, **said):
    said = {"labels": LABELS, "prompts": PROMPTS[:1], **said}
    return SourceRequest(f"hf:{folder}", **said)


def logits_of(model, tokenizer, texts, **images):
    """Return what transformers itself says of texts and images."""
    padding = "max_length" if "Siglip" in type(model).__name__ else True
    tokens = tokenizer(list(texts), padding=padding, return_tensors="pt")
    if not type(model).__name__.startswith(("Alt", "Chinese")):
        tokens.pop("token_type_ids", None)
    with torch.no_grad():
        return model(**tokens, **images).logits_per_image
