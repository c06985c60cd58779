"""Zero-shot: labels that a text tower reads once, in the head of a graph that sees images alone."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
import transformers
from small_pairs import IMAGES, LABELS, PROMPTS, TEXT, VISION, ask, logits_of, make_pair

from edge_vit.errors import SpecError
from edge_vit.export.export import export_model
from edge_vit.export.meaning import settle_meaning
from edge_vit.export.sources import SourceRequest, open_source
from edge_vit.spec import ModelSpec
from edge_vit.values import from_json, to_json

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    return folder, *make_pair(folder)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("CLIP", "classification"),
        ("Siglip", "multi_label"),
        ("MetaClip2", "classification"),
        ("AltCLIP", "classification"),
        ("ChineseCLIP", "classification"),
    ],
)
def test_gives_the_logits_of_transformers(tmp_path, name, task):
    extra = {"project_dim": 12} if name == "AltCLIP" else {}
    model, tokenizer = make_pair(tmp_path, name, **extra)
    source = open_source(ask(tmp_path))
    pixels = torch.randn(3, 3, 32, 32)
    texts = [f"a photo of a {label}" for label in LABELS]
    wanted = logits_of(model, tokenizer, texts, pixel_values=pixels)
    found = source.module(pixels)
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()
    assert (source.task, source.labels) == (task, LABELS)
    assert not [key for key in source.module.state_dict() if "text" in key]


def test_positions_behind_the_padding_are_not_for_words(tmp_path):
    make_pair(tmp_path, "AltCLIP", project_dim=12)
    longest = "a photo of the red cat in snow"  # 11 tokens with "the" and both ends
    assert open_source(ask(tmp_path, labels=("cat", longest), prompts=("the {}",))).text
    with pytest.raises(SpecError, match=r"is 12 tokens, .* reads 11\. Shorten"):
        open_source(ask(tmp_path, labels=("cat", f"{longest} the"), prompts=("the {}",)))


def test_several_prompts_are_averaged_as_clip_does(clip):
    folder, model, tokenizer = clip
    pixels = torch.randn(2, 3, 32, 32)
    total = 0
    for prompt in PROMPTS:
        texts = [prompt.replace("{}", label) for label in LABELS]
        with torch.no_grad():
            tokens = tokenizer(texts, padding=True, return_tensors="pt")
            tokens.pop("token_type_ids", None)
            total = total + torch.nn.functional.normalize(
                model.get_text_features(**tokens).pooler_output
            )
    with torch.no_grad():
        seen = torch.nn.functional.normalize(model.get_image_features(pixels).pooler_output)
    wanted = seen @ torch.nn.functional.normalize(total).T * np.exp(2.0)
    found = open_source(ask(folder, prompts=PROMPTS)).module(pixels)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grid", [(4, 4), (3, 6)], ids=["square", "wide"])
def test_naflex_takes_whole_images_of_one_size(tmp_path, grid):
    images = {
        "image_processor_type": "Siglip2ImageProcessor",
        "patch_size": 8,
        "max_num_patches": 18,
    }
    model, tokenizer = make_pair(tmp_path, "Siglip2", images=images, max_position_embeddings=40)
    height, width = (8 * side for side in grid)
    size = {} if grid == (4, 4) else {"image_size": (height, width)}
    source = open_source(ask(tmp_path, **size))
    assert source.preprocess.image_size == (height, width)
    assert (source.preprocess.crop_mode, source.preprocess.mean) == ("squash", (0.5, 0.5, 0.5))
    pixels = torch.randn(2, 3, height, width)
    patches = pixels.reshape(2, 3, grid[0], 8, grid[1], 8).permute(0, 2, 4, 3, 5, 1).flatten(3)
    wanted = logits_of(
        model,
        tokenizer,
        [f"a photo of a {label}" for label in LABELS],
        pixel_values=patches.flatten(1, 2),
        pixel_attention_mask=torch.ones(2, grid[0] * grid[1], dtype=torch.int32),
        spatial_shapes=torch.tensor([grid, grid]),
    )
    found = source.module(pixels)
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()
    with pytest.raises(SpecError, match=r"whole patches of 8 x 8 .* Add --image-size 32,40$"):
        open_source(ask(tmp_path, image_size=(30, 41)))


@pytest.mark.parametrize(("name", "dropped"), [("AltCLIP", True), ("CLIP", False)])
def test_without_prompts_it_is_the_image_tower_alone(tmp_path, name, dropped):
    extra = {"project_dim": 12} if name == "AltCLIP" else {}
    model, _ = make_pair(tmp_path, name, **extra)
    source = open_source(SourceRequest(f"hf:{tmp_path}"))
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = model.get_image_features(pixels).pooler_output
    assert torch.allclose(source.module(pixels), wanted, atol=1e-5)
    assert (source.task, source.text) == ("features", None)


def test_a_bundle_says_what_its_head_was_made_of(clip):
    folder = clip[0]
    exported = export_model(ask(folder, prompts=PROMPTS))
    spec = exported.spec
    assert (spec.task, spec.activation, spec.labels) == ("classification", "softmax", LABELS)
    assert spec.text.prompts == PROMPTS
    assert len(spec.text.digest) == 64
    assert from_json(ModelSpec, to_json(spec)) == spec
    assert exported.record.remarks == (
        "3 labels in 2 prompts, read once by the text tower: it is not in the graph",
    )
    graph = onnx.load_from_string(exported.fp32).graph
    assert {tensor.name for tensor in graph.input} == {"images"}
    assert not [t for t in graph.initializer if TEXT["vocab_size"] in t.dims]
    assert spec.depth == 2
    assert open_source(ask(folder)).text.digest != spec.text.digest


def test_labels_of_siglip_are_on_or_off_by_themselves(tmp_path):
    make_pair(tmp_path, "Siglip")
    for said, wanted in {
        (): ("multi_label", "sigmoid"),
        (("labels", ("cat",)),): ("multi_label", "sigmoid"),
        (("task", "classification"),): ("classification", "softmax"),
    }.items():
        request = ask(tmp_path, **dict(said))
        source = open_source(request)
        outputs = source.module(torch.randn(2, 3, 32, 32)).numpy()
        meaning = settle_meaning(request, source.task, None, outputs, source.activation)
        assert (meaning.task, meaning.activation, meaning.remarks) == (*wanted, ())


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"labels": ()}, r"no labels to put into it. Add --labels FILE"),
        ({"prompts": ("a photo",)}, r"got 'a photo', expected \{\} where the label goes"),
        ({"prompts": PROMPTS[:1] * 2}, "the same prompt twice"),
        ({"labels": ("cat", "dog", "cat")}, "'cat' is number 1 and number 3, expected each"),
        ({"labels": ("cat", "Cat")}, "'cat' and 'Cat' are the same words to the tokenizer"),
        ({"labels": ("okapi", "tapir")}, "'okapi' and 'tapir' are the same words"),
        (
            {"labels": ("cat", "a photo of a dog in the snow")},
            r"'a photo of a a photo of a dog in the snow' is 14 tokens, .* reads 12\. Shorten",
        ),
        ({"labels": ("cat",)}, r"compares labels with each other, got 1, expected at least 2"),
        ({"task": "multi_label"}, r"none has a probability of its own. Take a SigLIP"),
        ({"task": "regression"}, "a probability for each label. Leave --task out"),
        ({"num_classes": 0}, "got 3 for 0 classes"),
    ],
)
def test_refuses_labels_and_prompts_that_cannot_be(clip, said, message):
    with pytest.raises(SpecError, match=message):
        open_source(ask(clip[0], **said))


def test_refuses_a_model_that_reads_nothing(tmp_path, clip):
    vit = transformers.ViTConfig(**VISION)
    transformers.ViTForImageClassification(vit).save_pretrained(tmp_path / "vit")
    (tmp_path / "vit/preprocessor_config.json").write_text(json.dumps(IMAGES))
    with pytest.raises(SpecError, match="is a ViTForImageClassification, which has no text tower"):
        open_source(ask(tmp_path / "vit"))
    with pytest.raises(SpecError, match=r"sees images alone, no text tower comes with it"):
        open_source(SourceRequest("timm:vit_tiny_patch16_224", labels=LABELS, prompts=PROMPTS))


def test_refuses_a_folder_without_its_tokenizer(tmp_path, clip):
    make_pair(tmp_path)
    for path in tmp_path.glob("token*"):
        path.unlink()
    with pytest.raises(SpecError, match=r"no tokenizer for --prompt \(.*Put the model's own"):
        open_source(ask(tmp_path))
    make_pair(tmp_path, vocab_size=9)
    with pytest.raises(SpecError, match=r"gives token 15, but its text tower knows 9"):
        open_source(ask(tmp_path))
