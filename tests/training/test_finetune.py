"""Fine-tuning on a slice of the real digits: it learns, repeats, survives Ctrl-C."""

from dataclasses import replace

import pytest
import torch

from edge_vit.errors import ArtifactError, SpecError
from edge_vit.training.checkpoint import Checkpoint, build_model, load_checkpoint, save_checkpoint
from edge_vit.training.finetune import FinetuneOptions, finetune
from edge_vit.training.vit import VisionTransformer, VisionTransformerConfig

TINY = VisionTransformerConfig(32, 8, 10, embed_dim=32, depth=1, num_heads=2, dropout=0.1)
# One thread: more do not pay at this size, and are slow where others use the CPU too.
OPTIONS = FinetuneOptions(
    epochs=3, learning_rate=3e-3, batch_size=32, label_smoothing=0.1, threads=1
)


def some_of(dataset, every):
    return replace(
        dataset,
        train_images=dataset.train_images[::every],
        train_labels=dataset.train_labels[::every],
        test_images=dataset.test_images[::every],
        test_labels=dataset.test_labels[::every],
    )


@pytest.fixture(scope="session")
def few_digits(digits):
    return some_of(digits, every=12)


def weights(path):
    return load_checkpoint(path).tensors


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.uncounted
def test_learns_digits_that_it_has_not_seen(digits, tmp_path):
    digits = some_of(digits, every=3)
    out = tmp_path / "a.safetensors"
    options = replace(OPTIONS, epochs=8, learning_rate=5e-3, batch_size=16, augment=False)
    config = replace(TINY, dropout=0.0)
    result = finetune(config, digits, options, out)
    assert result.held_out_accuracy > 0.4  # a guess is right for one in ten
    assert result.losses[-1] < result.losses[0]
    checkpoint = load_checkpoint(out)
    assert checkpoint.labels == digits.labels
    assert checkpoint.metrics == {
        "held_out_accuracy": result.held_out_accuracy,
        "epoch": result.best_epoch,
    }
    pixels = torch.from_numpy(digits.test_images).permute(0, 3, 1, 2) / 255
    spec = checkpoint.preprocess
    assert spec == digits.preprocess
    images = (pixels - spec.mean[0]) / spec.std[0]
    with torch.no_grad():
        answers = build_model(checkpoint)(images).argmax(dim=1).numpy()
    assert (answers == digits.test_labels).mean() == pytest.approx(result.held_out_accuracy)


def test_the_seed_decides_the_weights(few_digits, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        finetune(TINY, few_digits, replace(OPTIONS, epochs=1, seed=seed), tmp_path / name)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_leaves_the_callers_torch_as_it_was(few_digits, tmp_path):
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    finetune(TINY, few_digits, replace(OPTIONS, epochs=1, threads=threads % 2 + 1), tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("interrupted_at", "optimizer"),
    [((1, 2), "adamw"), ((2, 1), "adam"), ((3, 3), "adamw")],
    ids=["in-the-first-epoch", "after-it", "in-the-last"],
)
def test_an_interrupted_training_ends_with_the_same_weights(
    few_digits, tmp_path, interrupted_at, optimizer
):
    options = replace(OPTIONS, optimizer=optimizer)
    whole = finetune(TINY, few_digits, options, tmp_path / "whole")

    def ctrl_c(event):
        if (event.epoch, event.step) == interrupted_at:
            raise KeyboardInterrupt

    out = tmp_path / "out.safetensors"
    with pytest.raises(KeyboardInterrupt):
        finetune(TINY, few_digits, options, out, on_progress=ctrl_c)
    assert [path.name for path in tmp_path.glob("*out*")] == ["out.safetensors.resume"]
    epochs = []
    resumed = finetune(
        TINY, few_digits, options, out, resume=True, on_progress=lambda e: epochs.append(e.epoch)
    )
    assert epochs[0] == interrupted_at[0]
    assert same(weights(out), weights(tmp_path / "whole"))
    assert (resumed.losses, resumed.best_epoch) == (whole.losses, whole.best_epoch)
    assert not (tmp_path / "out.safetensors.resume").exists()


def interrupt(event):
    raise KeyboardInterrupt


@pytest.fixture
def interrupted(few_digits, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        finetune(TINY, few_digits, OPTIONS, tmp_path / "out", on_progress=interrupt)
    return tmp_path / "out"


def test_refuses_to_start_over_an_interrupted_training(few_digits, interrupted):
    before = (interrupted.parent / "out.resume").read_bytes()
    with pytest.raises(ArtifactError, match="Add --resume to go on, or delete it"):
        finetune(TINY, few_digits, OPTIONS, interrupted)
    assert (interrupted.parent / "out.resume").read_bytes() == before


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (TINY, replace(OPTIONS, learning_rate=1e-3), "learning_rate was 0.003, is now 0.001"),
        (TINY, replace(OPTIONS, epochs=9), "epochs was 3, is now 9"),
        (replace(TINY, depth=2), OPTIONS, "depth was 1, is now 2"),
    ],
    ids=["learning-rate", "epochs", "model"],
)
def test_refuses_to_resume_another_training(few_digits, interrupted, config, options, message):
    with pytest.raises(ArtifactError, match=rf"belongs to another training: {message}\. Resume"):
        finetune(config, few_digits, options, interrupted, resume=True)


def test_refuses_to_resume_with_other_images(digits, interrupted):
    with pytest.raises(ArtifactError, match=r"images was .*, is now"):
        finetune(TINY, digits, OPTIONS, interrupted, resume=True)


def test_another_number_of_threads_may_resume(few_digits, interrupted):
    options = replace(OPTIONS, threads=2)
    with pytest.raises(KeyboardInterrupt):  # from the first step: it did resume
        finetune(TINY, few_digits, options, interrupted, resume=True, on_progress=interrupt)


@pytest.mark.parametrize(
    "damage", [lambda data: b"text", lambda data: data[:-200]], ids=["text", "cut"]
)
def test_refuses_a_damaged_state(few_digits, interrupted, damage):
    state_path = interrupted.parent / "out.resume"
    state_path.write_bytes(damage(state_path.read_bytes()))
    with pytest.raises(ArtifactError, match=r"is not the state of a training\. Delete it"):
        finetune(TINY, few_digits, OPTIONS, interrupted, resume=True)


def test_runs_no_code_of_a_state(few_digits, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "hacked"), "w"))

    torch.save({"conditions": Evil()}, tmp_path / "out.resume")
    with pytest.raises(ArtifactError, match="is not the state of a training"):
        finetune(TINY, few_digits, OPTIONS, tmp_path / "out", resume=True)
    assert not (tmp_path / "hacked").exists()


def test_tells_of_every_step(few_digits, tmp_path):
    events = []
    options = replace(OPTIONS, epochs=2, warmup_epochs=1)
    result = finetune(TINY, few_digits, options, tmp_path / "a", on_progress=events.append)
    assert [(e.epoch, e.step) for e in events] == [(e, s) for e in (1, 2) for s in (1, 2, 3, 4)]
    assert {(e.num_epochs, e.num_steps) for e in events} == {(2, 4)}
    assert [e.held_out_accuracy is None for e in events] == [True, True, True, False] * 2
    assert events[3].loss == result.losses[0]
    assert events[2].learning_rate == pytest.approx(3e-3 * 3 / 4)
    assert events[0].best_accuracy is None
    assert events[4].best_accuracy == events[3].held_out_accuracy
    best = max(events[3].held_out_accuracy, events[7].held_out_accuracy)
    assert result.held_out_accuracy == best


def test_keeps_the_best_weights_not_the_last(few_digits, tmp_path, monkeypatch):
    accuracies = iter([0.2, 0.9, 0.1])
    monkeypatch.setattr(
        "edge_vit.training.loop.TrainingLoop.held_out_accuracy", lambda self: next(accuracies)
    )
    result = finetune(TINY, few_digits, OPTIONS, tmp_path / "a")
    assert (result.best_epoch, result.held_out_accuracy) == (2, 0.9)


def test_starts_from_a_checkpoint_with_its_mean_and_std(few_digits, tmp_path):
    torch.manual_seed(0)
    config = replace(TINY, image_size=16)
    spec = replace(few_digits.preprocess, image_size=(16, 16), mean=(0.1,) * 3, std=(0.3,) * 3)
    start = Checkpoint(config, few_digits.labels, spec, VisionTransformer(config).state_dict())
    save_checkpoint(tmp_path / "start", start)
    options = replace(
        OPTIONS, epochs=1, learning_rate=1e-12, checkpoint=str(tmp_path / "start"), weight_decay=0
    )
    finetune(TINY, few_digits, options, tmp_path / "a")
    tuned = load_checkpoint(tmp_path / "a")
    assert tuned.preprocess == replace(spec, image_size=(32, 32))
    for name, tensor in start.tensors.items():  # the learning rate moves nothing
        if name != "position_embedding":
            assert torch.allclose(tuned.tensors[name], tensor, atol=1e-6), name


def test_other_classes_get_a_new_head(few_digits, tmp_path):
    torch.manual_seed(0)
    config = replace(TINY, num_classes=2)
    spec = few_digits.preprocess
    start = Checkpoint(config, ("a", "b"), spec, VisionTransformer(config).state_dict())
    save_checkpoint(tmp_path / "start", start)
    options = replace(OPTIONS, epochs=1, checkpoint=str(tmp_path / "start"))
    finetune(TINY, few_digits, options, tmp_path / "a")
    assert weights(tmp_path / "a")["head.weight"].shape == (10, 32)


def test_refuses_a_checkpoint_of_another_model(few_digits, tmp_path):
    config = replace(TINY, depth=2)
    tensors = VisionTransformer(config).state_dict()
    start = Checkpoint(config, few_digits.labels, few_digits.preprocess, tensors)
    save_checkpoint(tmp_path / "start", start)
    options = replace(OPTIONS, checkpoint=str(tmp_path / "start"))
    with pytest.raises(ArtifactError, match=r"does not fit the model: unexpected: blocks\.1\."):
        finetune(TINY, few_digits, options, tmp_path / "a")


def test_model_takes_image_size_and_classes_of_the_data(few_digits, tmp_path):
    two = replace(
        few_digits,
        labels=("even", "odd"),
        train_labels=few_digits.train_labels % 2,
        test_labels=few_digits.test_labels % 2,
    )
    config = replace(TINY, image_size=64, num_classes=1000)
    finetune(config, two, replace(OPTIONS, epochs=1), tmp_path / "a")
    trained = load_checkpoint(tmp_path / "a").config
    assert (trained.image_size, trained.num_classes) == (32, 2)


def test_stops_when_the_loss_is_no_number(few_digits, tmp_path):
    options = replace(OPTIONS, learning_rate=1e30, warmup_epochs=0)
    with pytest.raises(
        SpecError, match=r"the loss became (nan|inf) in epoch \d with learning_rate"
    ):
        finetune(TINY, few_digits, options, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_disk_that_refuses_shows_before_the_training(few_digits, tmp_path):
    (tmp_path / "file").write_text("")
    events = []
    with pytest.raises(ArtifactError, match="cannot write"):
        finetune(TINY, few_digits, OPTIONS, tmp_path / "file" / "a", on_progress=events.append)
    assert events == []


def test_unknown_models_are_refused_with_near_matches(few_digits, tmp_path):
    with pytest.raises(SpecError, match="did you mean vit_digits"):
        finetune("vit_digit", few_digits, OPTIONS, tmp_path / "a")
