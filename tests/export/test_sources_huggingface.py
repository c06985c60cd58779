"""``hf:`` models: folders of each family, their image processors in timm's words, refusals."""

from __future__ import annotations

import json
import os

import pytest
import torch
import transformers
from small_folders import NAMES, SMALL, VIT_IMAGES, make, open_folder

from edge_vit.errors import ArtifactError, EdgeVitError, SpecError
from edge_vit.export.export import export_model
from edge_vit.export.sources import SourceRequest, libraries, open_source

FAMILIES = {
    "vit": "ViTForImageClassification",
    "deit": "DeiTForImageClassification",
    "deit-teacher": "DeiTForImageClassificationWithTeacher",
    "dinov2": "Dinov2ForImageClassification",
    "dinov2-registers": "Dinov2WithRegistersForImageClassification",
    "vit-base": "ViTModel",
    "deit-base": "DeiTModel",
    "dinov2-base": "Dinov2Model",
    "dinov2-registers-base": "Dinov2WithRegistersModel",
    "dinov3-base": "DINOv3ViTModel",
    "msn": "ViTMSNForImageClassification",
    "msn-base": "ViTMSNModel",
    "ijepa": "IJepaForImageClassification",
    "ijepa-base": "IJepaModel",
    "siglip-base": "SiglipVisionModel",
    "clip-base": "CLIPVisionModel",
    "clip-projected": "CLIPVisionModelWithProjection",
}
TWO_HALVES = {
    "siglip": "SiglipModel",
    "siglip-classifier": "SiglipForImageClassification",
    "clip": "CLIPModel",
    "clip-classifier": "CLIPForImageClassification",
}


def run(model, images, **arguments):
    with torch.no_grad():
        output = model(pixel_values=images, **arguments)
    for name in ("logits", "image_embeds"):
        if name in output:
            return output[name]
    if isinstance(model, transformers.IJepaModel):
        return output.last_hidden_state.mean(1)
    has_pool = isinstance(model, transformers.SiglipVisionModel | transformers.CLIPVisionModel)
    return output.pooler_output if has_pool else output.last_hidden_state[:, 0]


@pytest.mark.parametrize("class_name", FAMILIES.values(), ids=FAMILIES)
def test_gives_the_numbers_of_the_model_in_the_folder(tmp_path, class_name, capfd):
    model = make(tmp_path, class_name)
    source = open_folder(tmp_path)
    images = torch.randn(2, 3, 32, 32)
    has_head = "ForImage" in class_name
    assert torch.allclose(source.module(images), run(model, images), atol=1e-5)
    assert source.task == ("classification" if has_head else "features")
    assert source.labels == (("cat", "dog", "cow") if has_head else ())
    assert source.name == tmp_path.name
    assert capfd.readouterr() == ("", "")


def test_tokens_without_a_vector_for_the_image_are_refused(tmp_path):
    stages = {"depths": [1] * 4, "num_attention_heads": [1] * 4, "hidden_sizes": [8] * 4}
    images = {**VIT_IMAGES, "size": {"height": 64, "width": 64}}
    make(tmp_path, "PvtModel", images, **stages, image_size=64, patch_sizes=[4, 2, 2, 2])
    with pytest.raises(SpecError, match=r"returns \(1, \d+, \d+\), .* pool its tokens in a module"):
        open_folder(tmp_path)


@pytest.mark.parametrize("name", ["Swin", "Swinv2", "Beit"])
@pytest.mark.parametrize("num_classes", [None, 0])
def test_relative_positions_are_added_to_the_scores(tmp_path, name, num_classes):
    windows = {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
    sizes = {**SMALL, "use_relative_position_bias": True} if name == "Beit" else windows
    class_name = f"{name}ForImageClassification"
    config = getattr(transformers, class_name).config_class(
        **{**sizes, "image_size": 32, "patch_size": 2, "id2label": NAMES}
    )
    torch.manual_seed(1)
    model = getattr(transformers, class_name)(config).eval()
    with torch.no_grad():  # positions that matter
        for parameter_name, parameter in model.named_parameters():
            parameter.normal_(std=2 if "position_bias" in parameter_name else 0.2)
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(VIT_IMAGES))
    images = torch.randn(2, 3, 32, 32)
    source = open_folder(tmp_path, num_classes=num_classes)
    with torch.no_grad():
        if num_classes is None:
            wanted = model(images).logits
        elif name == "Beit":
            wanted = model.beit(images).last_hidden_state[:, 0]
        else:
            wanted = getattr(model, name.lower())(images).pooler_output
    assert torch.allclose(source.module(images), wanted, atol=1e-5)


@pytest.mark.parametrize("class_name", TWO_HALVES.values(), ids=TWO_HALVES)
def test_takes_the_half_that_sees_of_a_model_that_reads_too(tmp_path, class_name):
    text = {key: SMALL[key] for key in list(SMALL)[:4]}
    halves = {"vision_config": SMALL, "text_config": text, "projection_dim": 7}
    model = make(tmp_path, class_name, **halves)
    source = open_folder(tmp_path)
    images = torch.randn(2, 3, 32, 32)
    if class_name.endswith("Model"):
        with torch.no_grad():
            wanted = model.get_image_features(pixel_values=images).pooler_output
    else:
        wanted = run(model, images)
    assert torch.allclose(source.module(images), wanted, atol=1e-5)
    assert source.task == ("features" if class_name.endswith("Model") else "classification")
    with pytest.raises(SpecError, match=r"64 x 64 pixels, but positions of .* Add --image-size 32"):
        open_folder(tmp_path, image_size=(64, 64))


def test_rotary_positions_take_any_image_size(tmp_path):
    model = make(tmp_path, "DINOv3ViTModel")
    images = torch.randn(2, 3, 48, 40)
    source = open_folder(tmp_path, image_size=(48, 40))
    assert torch.allclose(source.module(images), run(model, images), atol=1e-5)
    with pytest.raises(SpecError, match=r"no classifier in transformers. Export it with --num-cla"):
        open_folder(tmp_path, num_classes=3)


def test_attention_has_no_mask_that_would_be_in_every_graph(tmp_path):
    make(tmp_path)
    program = torch.export.export(open_folder(tmp_path).module, (torch.zeros(2, 3, 32, 32),))
    operators = {str(node.target) for node in program.graph.nodes}
    assert any("softmax" in name for name in operators)
    assert not [name for name in operators if "where" in name or "full" in name]


@pytest.mark.parametrize("family", ["vit", "deit", "dinov2", "dinov2-registers"])
def test_interpolates_positions_as_transformers_does(tmp_path, family):
    class_name = FAMILIES[family]
    model = make(tmp_path, class_name)
    source = open_folder(tmp_path, image_size=(48, 40))
    images = torch.randn(1, 3, 48, 40)
    flag = {} if "Dinov2" in class_name else {"interpolate_pos_encoding": True}
    assert torch.allclose(source.module(images), run(model, images, **flag), atol=1e-5)
    assert source.preprocess.image_size == (48, 40)


def test_positions_of_dinov2_are_a_constant_for_the_size_that_its_processor_says(tmp_path):
    images = {**VIT_IMAGES, "size": {"height": 16, "width": 16}}
    model = make(tmp_path, "Dinov2Model", images)
    source = open_folder(tmp_path)
    assert source.module.model.embeddings.position_embeddings.shape == (1, 5, 12)
    pixels = torch.randn(1, 3, 16, 16)
    assert torch.allclose(source.module(pixels), run(model, pixels), atol=1e-5)


def test_a_checkpoint_of_another_image_size_is_interpolated_where_asked_for(tmp_path):
    make(tmp_path)
    other = make(tmp_path / "other", image_size=64)
    torch.save(other.state_dict(), tmp_path / "best.pth")
    with pytest.raises(ArtifactError, match=r"position_embeddings .* Add --image-size 64 "):
        open_folder(tmp_path, checkpoint=tmp_path / "best.pth")
    source = open_folder(tmp_path, checkpoint=tmp_path / "best.pth", image_size=(64, 64))
    images = torch.randn(1, 3, 64, 64)
    assert torch.allclose(source.module(images), run(other, images), atol=1e-5)


def test_reads_the_names_that_older_transformers_wrote(tmp_path):
    model = make(tmp_path)
    renamed = {
        name.replace("vit.layers.", "vit.encoder.layer.")
        .replace("attention.q_proj", "attention.attention.query")
        .replace("attention.k_proj", "attention.attention.key")
        .replace("attention.v_proj", "attention.attention.value")
        .replace("attention.o_proj", "attention.output.dense")
        .replace("mlp.fc1", "intermediate.dense")
        .replace("mlp.fc2", "output.dense"): tensor
        for name, tensor in model.state_dict().items()
    }
    torch.save(renamed, tmp_path / "best.pth")
    source = open_folder(tmp_path, checkpoint=tmp_path / "best.pth")
    images = torch.randn(1, 3, 32, 32)
    assert torch.allclose(source.module(images), run(model, images), atol=1e-6)


def test_no_classes_take_the_head_off(tmp_path):
    model = make(tmp_path)
    source = open_folder(tmp_path, num_classes=0)
    images = torch.randn(1, 3, 32, 32)
    assert (source.task, source.labels) == ("features", ())
    assert torch.allclose(source.module(images), run(model.vit, images), atol=1e-5)


@pytest.mark.parametrize(
    ("problem", "num_labels", "task"),
    [
        (None, 3, "classification"),
        ("single_label_classification", 3, "classification"),
        ("multi_label_classification", 3, "multi_label"),
        ("multi_label_classification", 1, "multi_label"),
        ("regression", 1, "regression"),
        ("regression", 3, "regression"),
    ],
)
def test_the_problem_type_says_the_task(tmp_path, problem, num_labels, task):
    names = {index: f"name {index}" for index in range(num_labels)}
    make(tmp_path, problem_type=problem, id2label=names)
    source = open_folder(tmp_path)
    assert (source.task, source.labels) == (task, tuple(names.values()))


@pytest.mark.uncounted
def test_one_label_without_a_problem_type_is_a_score(tmp_path):
    make(tmp_path, num_labels=1, id2label={0: "LABEL_0"})
    exported = export_model(SourceRequest(f"hf:{tmp_path}"))
    assert (exported.spec.task, exported.spec.activation) == ("regression", "none")
    assert exported.spec.outputs[0].name == "scores"


def test_default_labels_are_none(tmp_path):
    make(tmp_path, id2label={0: "LABEL_0", 1: "LABEL_1"})
    assert open_folder(tmp_path).labels == ()


def test_random_weights_need_the_config_alone(tmp_path):
    make(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    images = torch.randn(1, 3, 32, 32)
    one, two = (open_folder(tmp_path, random_weights=True).module(images) for _ in range(2))
    assert torch.equal(one, two)


class Code:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def test_refuses_a_pickle_in_the_folder_and_does_not_run_it(tmp_path):
    make(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"x": Code(tmp_path / "was-run")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match="cannot be read") as error:
        open_folder(tmp_path)
    assert not (tmp_path / "was-run").exists()
    assert "\n" not in str(error.value)


def break_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def break_config(folder):
    (folder / "config.json").write_text("{")


def other_family(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))


def own_code(folder):
    config = json.loads((folder / "config.json").read_text())
    config.update(model_type="mine", auto_map={"AutoConfig": "mine.Config"})
    (folder / "mine.py").write_text("raise SystemExit('code was run')")
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "said", "error", "message"),
    [
        (break_weights, {}, ArtifactError, "checkpoint .* cannot be read"),
        (lambda f: (f / "model.safetensors").unlink(), {}, ArtifactError, "no file named"),
        (break_config, {}, SpecError, "not a valid JSON"),
        (lambda f: (f / "config.json").unlink(), {}, SpecError, "config.json"),
        (other_family, {}, SpecError, "names no class of a 'bert' model, expected one in"),
        (own_code, {}, SpecError, "mine|custom code"),
        (None, {"num_classes": 7}, ArtifactError, "2 misshapen: .*Add --num-classes 3$"),
        (None, {"model_args": {"dpth": 2}}, SpecError, "has no option 'dpth'"),
        (None, {"model_args": {"num_hidden_layers": 2}}, ArtifactError, "missing: vit.layers.1"),
        (None, {"model_args": {"image_size": 64}}, ArtifactError, "--image-size 32"),
    ],
)  # fmt: skip
def test_refuses_a_folder_that_is_no_whole_model(tmp_path, damage, said, error, message):
    make(tmp_path)
    if damage:
        damage(tmp_path)
    with pytest.raises(error, match=message) as caught:
        open_folder(tmp_path, **said)
    assert "\n" not in str(caught.value)


def test_a_processor_of_another_size_than_the_model_says_which_option_to_add(tmp_path):
    make(tmp_path, images={**VIT_IMAGES, "size": {"height": 64, "width": 64}})
    with pytest.raises(SpecError, match=r"doesn't match model .*Add --image-size"):
        open_folder(tmp_path)


@pytest.mark.parametrize("target", ["./absent", "/absent", "a/b/c"])
def test_refuses_a_folder_that_is_not_there(target):
    with pytest.raises(SpecError, match="no such folder"):
        open_source(SourceRequest(f"hf:{target}"))


def test_a_hub_name_without_a_network_is_one_quick_line(monkeypatch, capfd):
    monkeypatch.setattr(libraries, "is_reachable", lambda url: False)
    with pytest.raises(EdgeVitError, match=r"nobody/nothing is neither a folder here nor") as error:
        open_source(SourceRequest("hf:nobody/nothing"))
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


TALL = {"image_size": [64, 32], "id2label": NAMES}  # 8 x 4 patches
TALL_IMAGES = {**VIT_IMAGES, "size": {"height": 64, "width": 32}}


@pytest.mark.parametrize(
    "class_name", ["ViTForImageClassification", "Dinov2ForImageClassification"]
)
def test_the_average_in_a_checkpoint_is_taken_below_any_prefix(tmp_path, class_name):
    model = make(tmp_path, class_name)
    state = model.state_dict()
    others = {f"model.{name}": value + 1 for name, value in state.items()}
    averages = {f"model_ema.module.{name}": value for name, value in state.items()}
    content = {"state_dict": {**others, **averages, "criterion.weight": torch.ones(3)}}
    torch.save(content, tmp_path / "last.ckpt")
    source = open_folder(tmp_path, checkpoint=tmp_path / "last.ckpt")
    images = torch.randn(1, 3, 32, 32)
    assert torch.allclose(source.module(images), model(images).logits, atol=1e-5)
    assert source.weights.startswith("weights of state_dict.model_ema.module, an average")
    other = open_folder(tmp_path, checkpoint=tmp_path / "last.ckpt", weights_key="state_dict.model")
    assert not torch.allclose(other.module(images), model(images).logits, atol=1e-3)


def test_a_grid_that_is_no_square_is_resampled_by_its_true_shape(tmp_path):
    model = make(tmp_path, images=TALL_IMAGES, **TALL)
    images = torch.randn(1, 3, 64, 32)
    source = open_folder(tmp_path)
    assert torch.allclose(source.module(images), model(images).logits, atol=1e-5)
    resized = open_folder(tmp_path, image_size=(128, 64)).module.model
    positions = model.vit.embeddings.position_embeddings
    grid = positions[:, 1:].reshape(1, 8, 4, 12).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, (16, 8), mode="bicubic", align_corners=False)
    found = resized.vit.embeddings.position_embeddings
    assert torch.allclose(found[:, 1:], expected.permute(0, 2, 3, 1).reshape(1, 128, 12), atol=1e-6)
    assert torch.equal(found[:, :1], positions[:, :1])


def test_a_checkpoint_whose_grid_nothing_tells_is_asked_for(tmp_path):
    tall = make(tmp_path / "tall", images=TALL_IMAGES, **TALL)
    torch.save(tall.state_dict(), tmp_path / "tall.pth")
    make(tmp_path / "square")
    with pytest.raises(ArtifactError, match=r"Add --checkpoint-size .*64,32 or 32,64$"):
        open_folder(tmp_path / "square", checkpoint=tmp_path / "tall.pth", image_size=(32, 64))
    source = open_folder(
        tmp_path / "square",
        checkpoint=tmp_path / "tall.pth",
        image_size=(64, 32),
        checkpoint_size=(64, 32),
    )
    images = torch.randn(1, 3, 64, 32)
    assert torch.allclose(source.module(images), tall(images).logits, atol=1e-5)


def test_a_missing_file_of_several_is_named(tmp_path):
    make(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    index = {"weight_map": {"classifier.weight": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ArtifactError, match=r"1 of 1 files are missing beside it: model-00001"):
        open_folder(tmp_path)


def test_a_model_of_timm_on_the_hub_is_told_its_address(tmp_path, monkeypatch):
    cache = tmp_path / "models--timm--small"
    snapshot = cache / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("a" * 40)
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 3}
    config = {**config, "model_type": "timm_wrapper", "label_names": ["a", "b", "c"]}
    (snapshot / "config.json").write_text(json.dumps(config))
    (snapshot / "preprocessor_config.json").write_text(json.dumps(VIT_IMAGES))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(tmp_path), raising=False)
    with pytest.raises(SpecError, match=r"Export it as timm:hf-hub:timm/small$"):
        open_source(SourceRequest("hf:timm/small"))
