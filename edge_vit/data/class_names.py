"""Names of classes in folders and tables, matched to the labels of a model."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from edge_vit.data.text_lines import shorten
from edge_vit.errors import ImageError

_NUM_SHOWN = 6
_CUTOFF = 0.75  # of difflib: "dogs" is 0.86 like "dog", "boxes" 0.75 like "box"
_LOOSE_CUTOFF = 0.6  # where others are labels: "kat" is 0.67 like "cat"
_MAX_DIGITS = 9
_MAX_COMPARISONS = 20_000  # of difflib, about 0.3 s


@dataclass(frozen=True)
class Matched:
    """The class index of each name, and one sentence for each decision that a reader has to know.

    Attributes:
        indices: by name.
        notes: empty where every name is a label, letter by letter.
    """

    indices: Mapping[str, int]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Naming:
    """How messages name what is matched.

    Attributes:
        what: all of it, such as ``class folders of data/val``.
        of: one name of it, such as ``class folder data/val/cat``.
        mend: returns what to do about a name that is no label.
    """

    what: str
    of: Callable[[str], str]
    mend: Callable[[], str]


def match_names(
    names: Sequence[str],
    labels: Sequence[str],
    naming: Naming,
    *,
    num_classes: int | None = None,
    is_complete: bool = False,
) -> Matched:
    """Return which class of the model each of `names` is.

    A name is a label letter by letter; else without regard to case, to Unicode's composition and to
    spaces, underscores and hyphens; else one of the synonyms in ``tench, Tinca tinca``. Numbers
    that are no labels are class indices. Names of which none is a label, or like one, are counted
    in sorted order where there are as many as classes, and only where `is_complete`.

    Folders of a model without class names that are fewer or more than its classes have no index:
    then `indices` is empty.

    Args:
        names: each once, sorted.
        labels: the model's class names; empty where they are not known.
        naming: for messages.
        num_classes: of the model, where it is known.
        is_complete: whether each class has a name here, as class folders do: indices have no gaps.

    Raises:
        ImageError: a name is no class, or two are the same one; the message proposes what is near.
    """
    num_classes = len(labels) or num_classes
    known = _find_labels(names, labels, naming)
    unknown = [name for name in names if name not in known]
    numbers = {name: number for name in unknown if (number := as_index(name)) is not None}
    if not unknown:
        notes = _say_inexact(known, labels, naming)
    elif len(numbers) == len(unknown) and (not known or not (is_complete or _are_numbers(known))):
        _check_indices(numbers, num_classes, naming, is_complete=is_complete)
        known, notes = {**known, **numbers}, ()
        if is_complete:
            notes = (f"{naming.what} are numbers, taken as class indices{_meant(known, labels)}.",)
    elif is_complete and not labels and num_classes and len(names) != num_classes:
        note = (
            f"{naming.what} are no classes: there are {len(names)} ({_some(names)}), and the model "
            f"has {num_classes} classes without names, so nothing tells which is which. To have "
            "labels, export it with --labels FILE, or call the folders by class index, from 0 on."
        )
        return Matched({}, (note,))
    else:
        known = _by_order(names, labels, known, naming, is_complete=is_complete)
        why = "none is one of the model's labels" if labels else "the model names no classes"
        notes = (f"{naming.what}: {why}, so their sorted order decides: {_pairs(known, labels)}.",)
    _refuse_twins(known, labels, naming, is_complete=is_complete)
    return Matched(known, notes)


def key_of(name: str) -> str:
    """Return `name` without what does not tell classes apart: case, composition, separators.

    Slashes and colons are separators too, since no folder can have them.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    visible = "".join(c for c in folded if unicodedata.category(c) not in ("Cc", "Cf") or c == "\t")
    key = " ".join(re.sub(r"[\s_\-/\\:\u2010-\u2015]+", " ", visible).split())
    return (key.lstrip("0") or "0") if key.isascii() and key.isdecimal() else key


def as_index(name: str) -> int | None:
    """Return the class index that `name` writes, such as ``007`` or ``7.0``; None for a word."""
    whole = re.fullmatch(r"([0-9]+)(\.0+)?", name.strip())
    return int(whole[1]) if whole and len(whole[1].lstrip("0")) <= _MAX_DIGITS else None


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of classes as people order them: numbers, if all are, by size, else as text."""
    names = list(names)
    if _are_numbers(names):
        return tuple(sorted(names, key=lambda name: (as_index(name), name)))
    return tuple(sorted(names))


def nearest_label(name: str, labels: Sequence[str], cutoff: float = _CUTOFF) -> str | None:
    """Return the label that `name` may mean: its singular, or nearly the same; None for none."""
    keys = {key: index for key, places in _keys(labels).items() for index in places}
    key = key_of(name)
    words = set(re.findall(r"\w+", key))
    for singular in (re.sub(end, by, key) for end, by in (("ies$", "y"), ("es$", ""), ("s$", ""))):
        if singular != key and singular in keys:
            return labels[keys[singular]]
    close = difflib.get_close_matches(key, keys, n=1, cutoff=cutoff)
    if close:
        return labels[keys[close[0]]]
    within = [other for other in keys if set(other.split()) <= words and not other.isdecimal()]
    return labels[keys[max(within, key=len)]] if within else None


def _keys(labels: Sequence[str]) -> dict[str, list[int]]:
    """Places of the labels by key; a synonym counts where no label is called so as a whole."""
    whole: dict[str, list[int]] = {}
    parts: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        whole.setdefault(key_of(label), []).append(index)
        for part in label.split(",") if "," in label else ():
            parts.setdefault(key_of(part), []).append(index)
    return {key: places for key, places in {**parts, **whole}.items() if key}


def _find_labels(names: Iterable[str], labels: Sequence[str], naming: Naming) -> dict[str, int]:
    exact: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        exact.setdefault(label, []).append(index)
    keys = _keys(labels)
    found = {}
    for name in names:
        places = exact.get(name) or keys.get(key_of(name), [])
        if len(places) > 1:  # ImageNet has two kinds of crane
            ours = _some([repr(labels[place]) for place in places])
            raise ImageError(
                f"{naming.of(name)} names {len(places)} of the model's labels, expected one "
                f"({ours}). Pass a flat folder to measure agreement only"
            )
        if places:
            found[name] = places[0]
    return found


def _by_order(
    names: Sequence[str],
    labels: Sequence[str],
    known: Mapping[str, int],
    naming: Naming,
    *,
    is_complete: bool,
) -> dict[str, int]:
    """The place of each name in their order, where nothing speaks against it."""
    unknown = [name for name in names if name not in known]
    some = unknown[: max(1, _MAX_COMPARISONS // max(1, len(labels)))]
    near = {name: label for name in some if (label := nearest_label(name, labels))}
    if labels and (known or near or not is_complete or len(names) != len(labels)):
        name = next(iter(near), unknown[0])
        free = [label for index, label in enumerate(labels) if index not in known.values()]
        meant = near.get(name) or (nearest_label(name, free, _LOOSE_CUTOFF) if known else None)
        hint = f". Is it {shorten(meant)!r}?" if meant else "."
        shown = _some([repr(label) for label in labels])
        raise ImageError(
            f"{naming.of(name)} is none of the model's {len(labels)} labels ({shown}){hint} "
            f"{naming.mend()}"
        )
    if not is_complete:
        raise ImageError(
            f"{naming.of(unknown[0])} names a class, and the model has no class names. "
            "Write class indices from 0 on, or export the model with --labels FILE"
        )
    torn = _torn_numbers(names)
    if torn:
        first, second = map(shorten, torn)
        raise ImageError(
            f"{naming.what}: as text {first!r} comes before {second!r}, so their sorted order may "
            "not be the model's. Call the folders by class index, from 0 on, or by the model's "
            "labels (edgevit export --labels FILE)"
        )
    return {name: index for index, name in enumerate(names)}


def _torn_numbers(names: Sequence[str]) -> tuple[str, str] | None:
    """Two of the sorted `names` that differ in numbers alone and stand in the wrong order."""
    last: dict[str, tuple[list[int], str]] = {}
    for name in names:
        around = re.sub("[0-9]+", "0", name)
        numbers = [int(digits[:_MAX_DIGITS]) for digits in re.findall("[0-9]+", name)]
        if around in last and numbers < last[around][0]:
            return last[around][1], name
        last[around] = numbers, name
    return None


def _check_indices(
    numbers: Mapping[str, int], num_classes: int | None, naming: Naming, *, is_complete: bool
) -> None:
    """Refuse indices that the model has not and, where all are named, gaps among them."""
    last = max(numbers, key=lambda name: numbers[name])
    missing = sorted(set(range(numbers[last])) - set(numbers.values())) if is_complete else []
    if num_classes and numbers[last] >= num_classes:
        one = "; they seem to be counted from 1" if min(numbers.values()) == 1 else ""
        raise ImageError(
            f"{naming.of(last)}: the {num_classes} classes are 0 to {num_classes - 1}{one}. "
            "Number them by class index, from 0 on"
        )
    if missing:
        first = min(numbers.values())
        hint = (
            f"Counted from {first}? Then rename them, from 0 on"
            if missing == list(range(first))
            else f"Make an empty folder {missing[0]} if that class has no images here"
        )
        gap = ", ".join(map(str, missing[:_NUM_SHOWN])) + (", ..." if len(missing) > 6 else "")
        raise ImageError(
            f"{naming.what} are numbers up to {numbers[last]}, and {gap} is not among them, "
            f"so they may be no class indices. {hint}"
        )


def _refuse_twins(
    known: Mapping[str, int], labels: Sequence[str], naming: Naming, *, is_complete: bool
) -> None:
    """Refuse two folders for one class: one of them may be another class's, misspelt."""
    first: dict[int, str] = {}
    for name, index in known.items() if is_complete else ():
        if index in first:
            label = f" {shorten(labels[index])!r}" if labels else ""
            raise ImageError(
                f"{naming.of(name)} and {first[index]!r} beside it are both class {index}{label}. "
                "Move their images into one folder, or rename one of them"
            )
        first[index] = name


def _say_inexact(
    known: Mapping[str, int], labels: Sequence[str], naming: Naming
) -> tuple[str, ...]:
    inexact = {name: index for name, index in known.items() if labels[index] != name}
    if not inexact:
        return ()
    how = "without regard to case, spaces, hyphens and composition"
    return (f"{naming.what}: matched to labels {how}: {_pairs(inexact, labels)}.",)


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(shorten, names[:3])) + (", ..." if len(names) > 3 else "")


def _meant(known: Mapping[str, int], labels: Sequence[str]) -> str:
    return f": {_pairs(known, labels)}" if labels else f" 0 to {max(known.values())}"


def _pairs(known: Mapping[str, int], labels: Sequence[str]) -> str:
    """Return ``bird = 2 'bird', ...``, by index and shortened."""
    ordered = sorted(known.items(), key=lambda pair: pair[1])
    shown = [
        shorten(f"{name} = {index}" + (f" {labels[index]!r}" if labels else ""))
        for name, index in ordered[:_NUM_SHOWN]
    ]
    return ", ".join(shown) + (
        f", ... ({len(ordered)} in all)" if len(ordered) > _NUM_SHOWN else ""
    )


def _are_numbers(names: Iterable[str]) -> bool:
    return all(as_index(name) is not None for name in names)
