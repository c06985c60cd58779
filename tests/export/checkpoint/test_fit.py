"""The weights in a checkpoint that fit the model are found and taken; all others are named."""

from __future__ import annotations

import argparse
import re
import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from edge_vit.errors import ArtifactError
from edge_vit.export.checkpoint import fill, read_stored
from tests.export.checkpoint.small_net import (
    BODY,
    HEAD,
    ORDER,
    OTHERS,
    WEIGHTS,
    Net,
    holds,
    net_of,
    take,
    under,
)

AVERAGES = {
    "timm": {"state_dict": OTHERS, "state_dict_ema": WEIGHTS},
    "deit": {"model": OTHERS, "model_ema": under("module.")},
    "nested": {"model": OTHERS, "ema": {"module": WEIGHTS, "updates": 7}},
    "ema-of-a-module": {"model": OTHERS, "ema": net_of(WEIGHTS), "updates": 7},
    "beside-each-other": {**under("online_model.", OTHERS), **under("ema_model."), "step": 3},
    "in-a-dictionary-of-its-own": {
        "model": OTHERS,
        "ema": {**under("online_model.", OTHERS), **under("ema_model."), "step": 3},
    },
    "lightning-attribute": {
        "state_dict": {**under("model.", OTHERS), **under("model_ema.module.")}
    },
    "lightning-callback": {
        "state_dict": under("model.", OTHERS),
        "callbacks": {"EMACallback{'decay': 0.9}": {"ema_state_dict": under("model.")}},
    },
    "lightning-averaging": {
        "state_dict": WEIGHTS,
        "current_model_state": OTHERS,
        "averaging_state": {"n_averaged": torch.tensor(3)},
    },
    "names-without-dots": {
        "state_dict": {
            **under("model.", OTHERS),
            **{"model_ema." + name.replace(".", ""): value for name, value in WEIGHTS.items()},
            "model_ema.decay": torch.tensor(0.9),
            "model_ema.num_updates": torch.tensor(3),
        }
    },
    "swa": {"state_dict": OTHERS, "swa_state_dict": under("module.")},
    "in-an-options-object": argparse.Namespace(model=OTHERS, model_ema=WEIGHTS),
}


@pytest.mark.parametrize("content", AVERAGES.values(), ids=AVERAGES)
def test_the_average_is_taken_and_the_weights_beside_it_are_named(tmp_path, content):
    found, note, _ = take(tmp_path, content)
    assert holds(found, WEIGHTS)
    assert ", an average over training; not taken: " in note


def test_an_average_without_names_is_taken_in_the_order_of_the_parameters(tmp_path):
    averages = [WEIGHTS[name] for name in ORDER]
    content = {"model": OTHERS, "ema": {"shadow_params": averages, "collected_params": None}}
    found, note, _ = take(tmp_path, content)
    assert all(torch.equal(found[name], WEIGHTS[name]) for name in ORDER)
    assert torch.equal(found["norm.running_mean"], OTHERS["norm.running_mean"])
    assert "weights of ema.shadow_params, an average" in note
    found, _, _ = take(tmp_path, content, "model")
    assert holds(found, OTHERS)


@pytest.mark.parametrize("change", [lambda a: a[1:], lambda a: a[::-1]], ids=["fewer", "reversed"])
def test_an_average_in_another_order_is_refused(tmp_path, change):
    averages = change([WEIGHTS[name] for name in ORDER])
    with pytest.raises(ArtifactError, match=r"ema.shadow_params.*Add --weights-key model "):
        take(tmp_path, {"model": OTHERS, "ema": {"shadow_params": averages}})


@pytest.mark.parametrize("key", ["state_dict", "state_dict.model", "model"])
def test_a_key_takes_what_it_names(tmp_path, key):
    content = {"state_dict": {**under("model.", OTHERS), **under("ema.")}}
    if key == "state_dict":
        content = {"state_dict": OTHERS, "state_dict_ema": WEIGHTS}
    found, note, _ = take(tmp_path, content, key)
    assert holds(found, OTHERS)
    assert "average" not in note.partition(";")[0]


def test_an_unknown_key_is_refused_with_those_that_there_are(tmp_path):
    with pytest.raises(ArtifactError, match=r"--weights-key best: .* known are model, model_ema$"):
        take(tmp_path, {"model": OTHERS, "model_ema": WEIGHTS}, "best")


ALIKE = {
    "student and teacher": {"student": under("backbone.", OTHERS), "teacher": under("backbone.")},
    "two averages": {"model": OTHERS, "ema_0.999": WEIGHTS, "ema_0.9999": OTHERS},
    "two models": {"model_a": WEIGHTS, "model_b": OTHERS},
}


@pytest.mark.parametrize("content", ALIKE.values(), ids=ALIKE)
def test_of_sets_that_fit_alike_one_is_asked_for(tmp_path, content):
    with pytest.raises(
        ArtifactError, match=r"holds 2 sets of weights .* Add --weights-key"
    ) as error:
        take(tmp_path, content)
    keys = re.findall(r"--weights-key (\S+)", str(error.value))
    taken = [take(tmp_path, content, key)[0] for key in keys]
    assert len(keys) == 2
    assert [holds(found, WEIGHTS) for found in taken].count(True) == 1


def test_one_module_by_two_names_is_no_question(tmp_path):
    found, note, _ = take(tmp_path, {"state_dict": {**under("model."), **under("net.")}})
    assert holds(found, WEIGHTS)
    assert "not taken: state_dict.net" in note


WRAPPED = {
    "no prefix": (WEIGHTS, ""),
    "net": ({"state_dict": under("net.")}, "state_dict.net"),
    "three": ({"a": {"b": under("module._orig_mod.encoder.")}}, "a.b.module._orig_mod.encoder"),
    "teacher alone": ({"teacher": under("backbone."), "student": None}, "teacher.backbone"),
    "in a list": ({"models": [WEIGHTS]}, "models.0"),
    "split by dots": (
        {"model": {"blocks": under("", {k[7:]: v for k, v in WEIGHTS.items() if k[0] == "b"}),
                   "norm": {k[5:]: v for k, v in WEIGHTS.items() if k[0] == "n"},
                   "head": {k[5:]: v for k, v in HEAD.items()}}},
        "model",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("content", "place"), WRAPPED.values(), ids=WRAPPED)
def test_any_prefix_and_dictionary_is_taken_off_and_said(tmp_path, content, place):
    found, note, _ = take(tmp_path, content)
    assert holds(found, WEIGHTS)
    assert note == (f"weights of {place}" if place else "all 11 tensors of the checkpoint")


BESIDE = {
    "criterion.weight": torch.ones(3),
    "loss_fn.pos_weight": torch.ones(2),
    "train_metrics.total": torch.ones(4),
}


@pytest.mark.parametrize("prefix", ["", "model.", "net.module."])
def test_losses_and_counters_are_left_and_named(tmp_path, prefix):
    found, note, _ = take(tmp_path, {"state_dict": {**under(prefix), **BESIDE}})
    assert holds(found, WEIGHTS)
    assert all(f"state_dict.{name}" in note for name in BESIDE)


def test_many_names_are_cut_in_the_line(tmp_path):
    content = {"model": WEIGHTS, "extra": {f"layer{i}.weight": torch.ones(1) for i in range(9)}}
    _, note, _ = take(tmp_path, content)
    assert note.endswith("extra.layer3.weight and 5 more")


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_layer_that_the_model_lacks_is_refused(tmp_path, prefix):
    content = under(prefix, {**WEIGHTS, "blocks.0.scale": torch.ones(3)})
    with pytest.raises(ArtifactError, match=r"1 unexpected: blocks.0.scale$"):
        take(tmp_path, {"state_dict": content})


def test_missing_tensors_are_listed_with_what_lies_beside(tmp_path):
    content = {"state_dict": {**under("backbone.", BODY), "neck.weight": torch.ones(3), **HEAD}}
    with pytest.raises(ArtifactError, match=r"2 missing: head.weight, head.bias") as error:
        take(tmp_path, content)
    assert "beside it state_dict.neck.weight, state_dict.head.weight" in str(error.value)


HEADS = {
    "by its name": {**under("backbone.", BODY), **HEAD},
    "as classifier": {
        **under("backbone.", BODY),
        **{name.replace("head", "classifier"): value for name, value in HEAD.items()},
    },
}


@pytest.mark.parametrize("content", HEADS.values(), ids=HEADS)
def test_a_head_beside_its_backbone_is_taken_where_nothing_else_lies_there(tmp_path, content):
    found, note, _ = take(tmp_path, {"state_dict": content})
    assert holds(found, WEIGHTS)
    assert "taken from beside them" in note


def test_a_head_of_another_width_is_not_taken(tmp_path):
    head = {"fc.weight": torch.ones(5, 3), "fc.bias": torch.ones(5)}
    with pytest.raises(ArtifactError, match=r"2 missing: head.weight, head.bias"):
        take(tmp_path, {"state_dict": {**under("backbone.", BODY), **head}})


MODULES = {
    "alone": net_of(WEIGHTS),
    "in a dictionary": {"model": net_of(WEIGHTS), "epoch": 3},
    "as parameters": {name: nn.Parameter(v.float()) for name, v in WEIGHTS.items()},
    "as numpy arrays": {name: v.numpy() for name, v in WEIGHTS.items()},
    "wrapped": nn.Sequential(net_of(WEIGHTS)),
}


@pytest.mark.parametrize("content", MODULES.values(), ids=MODULES)
def test_weights_are_taken_out_of_whole_pickled_modules_and_arrays(tmp_path, content):
    found, note, _ = take(tmp_path, content)
    assert all(torch.equal(found[name].float(), WEIGHTS[name].float()) for name in WEIGHTS)
    assert ("none of whose code ran" in note) == (
        not isinstance(content, dict) or "epoch" in content
    )


def test_buffers_that_a_module_does_not_save_are_left(tmp_path):
    net = net_of(WEIGHTS)
    net.register_buffer("grid", torch.ones(7), persistent=False)
    assert holds(take(tmp_path, net)[0], WEIGHTS)


UNUSABLE = {
    "sparse": (torch.eye(3).to_sparse(), "is sparse"),
    "meta": (torch.ones(3, 3, device="meta"), "on the meta device"),
    "float8": (torch.ones(3, 3).to(torch.float8_e4m3fn), "is float8_e4m3fn, whose scales"),
    "int8": (torch.ones(3, 3, dtype=torch.int8), "is int8 where the model has floating point"),
    "complex": (torch.ones(3, 3, dtype=torch.complex64), "is complex64 where"),
}


@pytest.mark.parametrize(("value", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_tensors_that_are_no_plain_weights_are_refused_in_one_line(tmp_path, value, message):
    with pytest.raises(ArtifactError, match=f"last.ckpt: blocks.0.weight .*{message}") as error:
        take(tmp_path, {"model": {**WEIGHTS, "blocks.0.weight": value}})
    assert "\n" not in str(error.value)


def test_such_tensors_elsewhere_in_the_file_do_no_harm(tmp_path):
    content = {"model": WEIGHTS, "cache": {"index": torch.eye(3).to_sparse()}}
    assert holds(take(tmp_path, content)[0], WEIGHTS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32_and_is_said(tmp_path, dtype):
    halves = {name: v.to(dtype) if v.is_floating_point() else v for name, v in WEIGHTS.items()}
    found, note, _ = take(tmp_path, halves)
    assert found["blocks.0.weight"].dtype == torch.float32
    assert note.endswith(f"stored as {str(dtype)[6:]}, loaded as float32")


def test_numbers_beside_the_weights_are_no_weights(tmp_path):
    content = {"model": WEIGHTS, "best_acc": np.float64(0.8), "top1": torch.tensor(0.9)}
    assert holds(take(tmp_path, content)[0], WEIGHTS)


def test_counters_of_batch_norms_and_weights_of_classes_change_nothing(tmp_path):
    older = {name: value for name, value in WEIGHTS.items() if "num_batches" not in name}
    assert len(older) == len(WEIGHTS) - 1
    found, _, _ = take(tmp_path, {"net": {**older, "class_weights": torch.ones(3)}})
    assert all(torch.equal(found[name], value) for name, value in older.items())


def test_scores_and_optimizers_are_not_worth_a_word(tmp_path):
    content = {"model": WEIGHTS, "opt": {"state": OTHERS}, "callbacks": {"best": torch.tensor(0.5)}}
    assert take(tmp_path, content)[1] == "weights of model"


@pytest.mark.parametrize("content", [WEIGHTS, {"state_dict": under("net.")}], ids=["bare", "net"])
def test_weights_are_put_below_the_name_that_a_module_has_for_all_of_them(tmp_path, content):
    wrapper = nn.ModuleDict({"model": nn.ModuleDict({"vit": Net()})})
    torch.save(content, tmp_path / "last.ckpt")
    note = fill(wrapper, tmp_path / "last.ckpt")
    assert holds(wrapper["model"]["vit"].state_dict(), WEIGHTS)
    assert note.endswith("put below the module's own model.vit")


@pytest.mark.parametrize(
    "names",
    [["." * 5000], ["a." * 2000 + "weight"], [f"p{i}.head.weight" for i in range(3000)]],
    ids=["dots", "deep", "many-places"],
)
def test_hostile_names_end_soon_in_one_line(tmp_path, names):
    content = {name: torch.ones(2, 3) for name in names}
    started = time.process_time()
    with pytest.raises(ArtifactError, match=r"does not fit|fit the model alike"):
        take(tmp_path, content)
    assert time.process_time() - started < 5


def test_a_key_that_is_a_place_is_not_looked_for_within_others(tmp_path):
    content = {"model": OTHERS, "ema": {"model": WEIGHTS}}
    assert holds(take(tmp_path, content, "model")[0], OTHERS)
    assert holds(take(tmp_path, content, "ema")[0], WEIGHTS)


def test_the_decoder_of_masked_pretraining_is_left(tmp_path):
    content = {
        "model": {**WEIGHTS, "mask_token": torch.ones(1), "decoder_embed.weight": torch.ones(3)}
    }
    found, note, _ = take(tmp_path, content)
    assert holds(found, WEIGHTS)
    assert "left: model.mask_token, model.decoder_embed.weight" in note


def test_adapters_alone_are_named(tmp_path):
    content = {f"base_model.model.blocks.0.lora_{k}.weight": torch.ones(2, 3) for k in "AB"}
    with pytest.raises(ArtifactError, match=r"holds LoRA adapters.*merge_and_unload"):
        take(tmp_path, content)


class Settings(dict):
    """A configuration that is a dictionary with an attribute, as yacs and others have it."""

    def __init__(self, **items):
        super().__init__(**items)
        self.frozen = True


@dataclass
class TrainState:
    model: dict
    step: int


def test_weights_in_objects_of_any_class_are_found(tmp_path):
    assert holds(take(tmp_path, TrainState(WEIGHTS, 3))[0], WEIGHTS)
    content = {"state_dict": WEIGHTS, "cfg": Settings(data=Settings(img_size=[256, 128]))}
    assert holds(take(tmp_path, content)[0], WEIGHTS)
    assert read_stored(tmp_path / "last.ckpt").sizes == {(256, 128)}
