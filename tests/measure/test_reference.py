"""The reference is judged before any gate: each finding where it belongs, and nowhere else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edge_vit.data.perceptual import signature
from edge_vit.data.preprocess import digest
from edge_vit.measure.records import OUTCOME, join_packed, make_records, pack, weigh
from edge_vit.measure.reference import (
    ReferenceFacts,
    chance_share,
    is_better_than_chance,
    permuted_classes,
    question_reference,
)
from edge_vit.measure.results import Evidence

NAMES = ("cat", "dog", "bird")
FACTS = ReferenceFacts("fp32 ort", "classification", "softmax", 3, NAMES, NAMES, 0.9, 0.95)


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def one_hot(answers, classes=3):
    return (np.eye(classes)[answers] + 0.01).astype(np.float32)


def evaluated(images, labels, answers, *, outputs=None, candidate=None, seen=None):
    """Return the packed records and outcomes of an evaluation that is told what was predicted."""
    labels, answers = np.asarray(labels), np.asarray(answers)
    candidate = answers if candidate is None else np.asarray(candidate)
    records = make_records(
        [digest(image) for image in images],
        [signature(image) for image in images],
        labels.tolist(),
        2 * one_hot(answers) if outputs is None else outputs,
        [False] * len(images) if seen is None else seen,
    )
    outcomes = np.zeros(len(images), OUTCOME)
    outcomes["agrees"], outcomes["answer"] = answers == candidate, candidate
    return pack(records.tobytes()), pack(outcomes.tobytes())


def findings(records, outcomes, facts=FACTS):
    found = question_reference(records, weigh(records, outcomes), facts)
    return {finding.name: finding for finding in found}


TRUTH = np.arange(120) % 3
GOOD = np.where(np.arange(120) % 20 == 0, (TRUTH + 1) % 3, TRUTH)


def test_a_good_evaluation_is_not_questioned():
    assert not findings(*evaluated(pictures(120), TRUTH, GOOD))


@pytest.mark.parametrize(
    ("labels", "name", "words"),
    [
        (np.random.default_rng(5).integers(0, 3, 120), "chance", "not clearly more than by"),
        ((TRUTH + 1) % 3, "permuted-labels", "cat as bird, dog as cat, bird as dog"),
        (np.where(TRUTH == 2, 2, 1 - TRUTH), "permuted-labels", "cat as dog, dog as cat)"),
        (np.full(120, 2), "one-class", "Every labelled image is of class bird"),
        (np.full(120, 2), "chance", "right on 33.3 % of 120 labelled images"),
        (np.zeros(120, int), "chance", "more than by guessing (33.3 %)"),
    ],
    ids=["random", "rotated", "two swapped", "one class", "wrong and one class", "all of another"],
)
def test_labels_that_are_wrong_are_named(labels, name, words):
    finding = findings(*evaluated(pictures(120), labels, GOOD))[name]
    assert finding.outcome == "undecided"
    assert words in finding.sentence


def test_one_class_that_is_right_is_in_question_for_that_alone():
    labels = np.ones(60, int)
    outputs = one_hot(labels) + np.random.default_rng(1).normal(0, 0.1, (60, 3)).astype("f4")
    found = findings(*evaluated(pictures(60), labels, labels, outputs=outputs))
    assert {name for name, f in found.items() if f.outcome == "undecided"} == {
        "one-class",
        "one-answer",
    }


def test_rare_defects_that_are_found_are_better_than_chance():
    labels = np.where(np.arange(1000) < 10, 1, 0)
    answers = np.where(np.arange(1000) < 17, 1, 0)  # all found, and seven false alarms
    assert "chance" not in findings(*evaluated(pictures(1000), labels, answers))
    never = findings(*evaluated(pictures(1000), labels, np.zeros(1000, int)))
    assert "guessing (99.0 %)" in never["chance"].sentence


def test_a_model_by_chance_is_taken_for_better_in_one_of_twenty_at_most():
    rng, wrong = np.random.default_rng(11), 0
    for _ in range(300):
        labels = rng.choice(4, 200, p=[0.4, 0.3, 0.2, 0.1])
        answers = rng.permutation(labels)
        pairs, counts = np.unique(np.stack([labels, answers]), axis=1, return_counts=True)
        confusion = {(int(a), int(b)): int(n) for (a, b), n in zip(pairs.T, counts, strict=True)}
        right = int((labels == answers).sum())
        wrong += is_better_than_chance(right, 200, chance_share(confusion))
    assert wrong <= 15


def test_what_random_weights_reach_by_luck_is_not_better_than_chance():
    assert not is_better_than_chance(1500, 10_000, chance=0.1)  # surely above chance
    assert is_better_than_chance(3000, 10_000, chance=0.1)
    assert is_better_than_chance(200, 800, chance=0.001)


def test_false_alarms_beside_rare_defects_are_no_chance():
    labels = np.where(np.arange(1000) < 50, 1, 0)
    answers = np.where((np.arange(1000) < 46) | (np.arange(1000) >= 930), 1, 0)
    facts = dataclasses.replace(FACTS, accuracy=0.926)  # a constant guess is right on 95.0 %
    assert "chance" not in findings(*evaluated(pictures(1000), labels, answers), facts)


def test_hard_classes_are_not_taken_for_permuted_ones():
    assert not permuted_classes({(0, 1): 90, (0, 0): 10, (1, 1): 100})  # one direction
    assert not permuted_classes({(0, 1): 52, (0, 0): 48, (1, 0): 52, (1, 1): 48})  # not clearly
    assert not permuted_classes({(0, 1): 4, (1, 0): 4})  # too few
    assert permuted_classes({(0, 1): 6, (1, 0): 6, (2, 2): 6}) == ((0, 1), (1, 0))


def test_a_confident_reference_that_is_wrong_is_in_question():
    facts = dataclasses.replace(FACTS, mean_score=0.93, accuracy=0.4)
    found = findings(*evaluated(pictures(120), TRUTH, GOOD), facts)
    assert "mean score of 93.0 % and is right on 40.0 %" in found["overconfident"].sentence
    modest = dataclasses.replace(FACTS, mean_score=0.2, accuracy=0.95)  # trained label by label
    assert not findings(*evaluated(pictures(120), TRUTH, GOOD), modest)


def test_copies_count_once_and_say_so():
    images = pictures(40)[np.arange(120) % 40]
    images[80:] = images[80:].clip(3, 252) + 2
    records, outcomes = evaluated(images, TRUTH[:40].tolist() * 3, GOOD[:40].tolist() * 3)
    found = findings(records, outcomes)["copies"]
    assert found.outcome == "note"
    assert "80 of 120 images are copies of others (40 exact, 40 encoded anew" in found.sentence
    assert weigh(records, outcomes).num_images == 40


def test_pictures_that_look_alike_with_unlike_labels_are_not_one():
    images = np.repeat(pictures(1).clip(3, 252), 60, axis=0)
    images[30:] += 2
    evidence = weigh(*evaluated(images, [0] * 30 + [1] * 30, [0] * 60))
    assert (evidence.num_distinct, evidence.num_exact_copies, evidence.num_near_copies) == (
        2,
        58,
        0,
    )


def test_one_picture_with_two_labels_counts_as_unlabelled():
    images = np.concatenate([pictures(60), pictures(60)])
    records, outcomes = evaluated(images, [*TRUTH[:60], *(TRUTH[:60] + 1) % 3], [*GOOD[:60]] * 2)
    assert weigh(records, outcomes).num_conflicting == 60
    assert weigh(records, outcomes).num_labelled == 0
    finding = findings(records, outcomes)["labels-conflict"]
    assert (finding.outcome, finding.sentence[:32]) == (
        "undecided",
        "60 of 60 different images come w",
    )


@pytest.mark.parametrize(("count", "outcome"), [(30, "note"), (70, "undecided")])
def test_images_that_calibrated_do_not_decide(count, outcome):
    seen = [index < count for index in range(120)]
    records, outcomes = evaluated(pictures(120), TRUTH, GOOD, seen=seen)
    assert weigh(records, outcomes).num_images == 120 - count
    finding = findings(records, outcomes)["calibrated-on"]
    assert finding.outcome == outcome
    assert f"{count} of 120 different images were also calibrated on" in finding.sentence


def test_lost_and_gained_images_are_counted_once_each():
    candidate = np.where(np.arange(120) < 12, (GOOD + 1) % 3, GOOD)
    images = np.concatenate([pictures(120)] * 2)
    records, outcomes = evaluated(
        images, [*TRUTH] * 2, [*GOOD] * 2, candidate=[*candidate] * 2, seen=[False] * 240
    )
    evidence = weigh(records, outcomes)
    lost = int(((GOOD == TRUTH) & (candidate != TRUTH)).sum())
    assert evidence == Evidence(120, 120, 0, 0, 0, 120, 120, 108, 114, lost, 0)


def test_few_images_decide_nothing_whatever_the_limits():
    found = findings(*evaluated(pictures(9), TRUTH[:9], TRUTH[:9]))
    assert "9 different images that calibration has not seen decide nothing" in (
        found["few-images"].sentence
    )
    assert found["few-images"].outcome == "undecided"


def test_an_output_that_ignores_the_image_is_named():
    outputs = np.tile(np.array([[0.3, 0.5, -1.0]], np.float32), (60, 1))
    found = findings(*evaluated(pictures(60), TRUTH[:60], np.ones(60, int), outputs=outputs))
    assert "does not depend on the image" in found["constant-output"].sentence
    assert "one-answer" not in found


def test_one_class_for_every_image_is_no_agreement():
    facts = dataclasses.replace(FACTS, mean_score=None, accuracy=None)
    answers = np.ones(60, int)
    outputs = one_hot(answers) + np.random.default_rng(1).normal(0, 0.1, (60, 3)).astype("f4")
    found = findings(*evaluated(pictures(60), [-1] * 60, answers, outputs=outputs), facts)
    assert "gives the same class for all 60 different images" in found["one-answer"].sentence
    assert found["no-labels"].outcome == "note"
    assert "constant-output" not in found


@pytest.mark.parametrize(
    ("apply", "activation", "looks_like"),
    [
        (lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True), "softmax", "probabilities"),
        (lambda x: x - np.log(np.exp(x).sum(1, keepdims=True)), "softmax", "log-probabilities"),
        (lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True), "none", ""),
        (lambda x: x, "softmax", ""),
    ],
    ids=["softmax twice", "log-softmax", "known to be probabilities", "logits"],
)
def test_outputs_that_are_probabilities_already_are_named(apply, activation, looks_like):
    outputs = apply(5 * one_hot(GOOD)).astype(np.float32)
    facts = dataclasses.replace(FACTS, activation=activation)
    found = findings(*evaluated(pictures(120), TRUTH, GOOD, outputs=outputs), facts)
    assert ("activated-twice" in found) == bool(looks_like)
    assert looks_like in found["activated-twice"].sentence if looks_like else not found


def test_a_classifier_of_one_output_cannot_disagree():
    facts = dataclasses.replace(FACTS, num_outputs=1, labels=(), data_labels=())
    found = findings(
        *evaluated(pictures(60), [0] * 60, [0] * 60, outputs=np.random.rand(60, 1)), facts
    )
    assert "The model has one output" in found.pop("one-output").sentence
    assert not found


def test_class_names_of_another_model_are_named():
    facts = dataclasses.replace(FACTS, data_labels=("cat", "bird", "dog"))
    found = findings(*evaluated(pictures(120), TRUTH, GOOD), facts)
    assert "'bird' for 'dog', 'dog' for 'bird'" in found["label-names"].sentence
    same = dataclasses.replace(FACTS, data_labels=("Cat", "DOG", "bird"))
    assert not findings(*evaluated(pictures(120), TRUTH, GOOD), same)


def test_classes_without_images_are_counted():
    labels = np.arange(120) % 2
    found = findings(*evaluated(pictures(120), labels, labels))
    assert found["few-classes"].sentence.startswith("The labels cover 2 of 3 classes")


def test_parts_in_any_order_are_the_same_evidence():
    images = np.concatenate([pictures(40), pictures(40).clip(2, 253) + 2, pictures(20, seed=8)])
    labels, answers = [*TRUTH[:40], *TRUTH[:60]], [*GOOD[:40], *GOOD[:60]]
    whole = weigh(*evaluated(images, labels, answers))
    order = np.random.default_rng(2).permutation(100)
    shuffled = evaluated(images[order], np.array(labels)[order], np.array(answers)[order])
    assert weigh(*shuffled) == whole
    halves = [evaluated(images[i::2], labels[i::2], answers[i::2]) for i in (1, 0)]
    assert weigh(*(join_packed(a, b) for a, b in zip(*halves, strict=True))) == whole
