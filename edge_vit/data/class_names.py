"""Names of classes: read from a file, and those of folders and tables matched to them."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_vit.data.text_lines import read_text, shorten, split_lines
from edge_vit.errors import ImageError, SpecError
from edge_vit.git_lfs import refuse_lfs_pointer
from edge_vit.printable import natural_key
from edge_vit.values import parse_json

_NUM_SHOWN = 6
_NEAR, _LOOSELY_NEAR = 0.75, 0.6  # of difflib: "dogs" is 0.86 like "dog", "kat" 0.67 like "cat"
_MAX_COMPARISONS = 20_000  # of difflib, about 0.3 s


@dataclass(frozen=True)
class Matched:
    """The class index of each name; `notes` say how, where a name is not the label itself."""

    indices: Mapping[str, int]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Naming:
    """Names in messages for what is matched."""

    what: str  # all of it, such as class folders of data/val
    of: Callable[[str], str]  # one name of it, such as class folder data/val/cat
    mend: Callable[[], str]  # what to do about a name that is no label


def match_names(
    names: Sequence[str],
    labels: Sequence[str],
    naming: Naming,
    *,
    num_classes: int | None = None,
    is_complete: bool = False,
) -> Matched:
    """Return which class of the model each of `names`, each there once and sorted, is.

    A name is a label letter by letter; else without regard to case, to Unicode's composition and to
    spaces, underscores and hyphens; else one of the synonyms in ``tench, Tinca tinca``. Numbers
    that are no labels are class indices. Names of which none is a label, or like one, are counted
    in sorted order where there are as many as classes, and only where `is_complete`: where each
    class has a name here, as with class folders.

    Folders of a model without class names that are fewer or more than its classes have no index:
    then `indices` is empty.
    """
    num_classes = len(labels) or num_classes
    known = _find_labels(names, labels, naming)
    unknown = [name for name in names if name not in known]
    numbers = {name: number for name in unknown if (number := as_index(name)) is not None}
    if not unknown:
        _refuse_twins(known if is_complete else {}, labels, naming)
        inexact = {name: index for name, index in known.items() if labels[index] != name}
        how = "matched to labels without regard to case, spaces, hyphens and composition"
        return Matched(known, _note(naming, f"{how}: ", inexact, labels) if inexact else ())
    labels_are_words = any(as_index(name) is None for name in known)
    if len(numbers) == len(unknown) and (not known or (labels_are_words and not is_complete)):
        _check_indices(numbers, num_classes, naming, is_complete=is_complete)
        if not is_complete:
            return Matched({**known, **numbers})
        _refuse_twins(numbers, labels, naming)
        return Matched(numbers, _note(naming, "numbers, taken as class indices: ", numbers, labels))
    if is_complete and not labels and num_classes and len(names) != num_classes:
        note = (
            f"{naming.what} are no classes: there are {len(names)} ({_some(names)}), and the model "
            f"has {num_classes} classes without names, so their order is not known. To have "
            "labels, export it with --labels FILE, or call the folders by class index, from 0 on."
        )
        return Matched({}, (note,))
    _refuse_order(names, labels, known, naming, is_complete=is_complete)
    indices = {name: index for index, name in enumerate(names)}
    why = "none is one of the model's labels" if labels else "the model names no classes"
    return Matched(
        indices, _note(naming, f"{why}, so their sorted order decides: ", indices, labels)
    )


def read_labels(path: Path) -> tuple[str, ...]:
    """Return the class names in the file at `path`, by index.

    A name a line; or JSON: a list of names, an object of names by index, one of indices by name, or
    a configuration of Hugging Face's with its ``id2label``.
    """
    refuse_lfs_pointer(path, SpecError)
    try:
        text = read_text(path)
        if text.lstrip().startswith(("[", "{")):
            names: Sequence[Any] = _by_index(parse_json(text))
        else:
            names = [line.strip() for line in split_lines(text) if line.strip()]
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SpecError(f"labels {path} cannot be read: {reason}") from None
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        got = "" if names else "got no name, "
        raise SpecError(
            f"labels {path}: {got}expected a name a line, a JSON list of names, or an object such "
            'as {"0": "cat", "1": "dog"} with a name for every index from 0 on'
        )
    if path.suffix.lower() in (".csv", ".tsv") and all(re.search("[,;\\t]", n) for n in names):
        raise SpecError(
            f"labels {path}: it is a table, its first line {shorten(names[0])!r}, expected names "
            "alone, one a line in the order of their index"
        )
    return tuple(names)


def _by_index(data: Any) -> list[Any]:
    """Names in the order of their index; empty where `data` does not give one for each."""
    if isinstance(data, Mapping) and isinstance(data.get("id2label"), Mapping):
        data = data["id2label"]
    if isinstance(data, list):
        return data
    if not isinstance(data, Mapping):
        return []
    if all(type(index) is int for index in data.values()):  # torchvision's class_to_idx
        data = {str(index): name for name, index in data.items()}
    names = {as_index(index): name for index, name in data.items()}
    return [names.get(index) for index in range(len(data))]


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
    whole = re.fullmatch(r"0*([0-9]{1,9})(\.0+)?", name.strip())
    return int(whole[1]) if whole else None


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of classes as people order them: numbers, if all are, by size, else as text."""
    names = sorted(names)
    indices = [as_index(name) for name in names]
    if None in indices:
        return tuple(names)
    return tuple(sorted(names, key=as_index))  # type: ignore[arg-type]


def nearest_label(name: str, labels: Sequence[str], cutoff: float = _NEAR) -> str | None:
    """Return the label, or the one with a synonym, that `name` is spelt nearly as, or holds."""
    keys, key = _keys(labels), key_of(name)
    near = difflib.get_close_matches(key, keys, n=1, cutoff=cutoff)
    singular = re.sub("ies$", "y", key)  # "puppies" is 0.67 like "puppy"
    if not near and singular in keys:
        near = [singular]
    if not near:
        words = set(re.findall(r"\w+", key))
        near = [each for each in keys if words.issuperset(each.split()) and not each.isdecimal()]
    return labels[keys[max(near, key=len)][0]] if near else None


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
    keys, found = _keys(labels), {}
    exact: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        exact.setdefault(label, []).append(index)
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


def _refuse_order(
    names: Sequence[str],
    labels: Sequence[str],
    known: Mapping[str, int],
    naming: Naming,
    *,
    is_complete: bool,
) -> None:
    """Refuse names whose sorted order may not be that of the classes."""
    unknown = [name for name in names if name not in known]
    some = unknown[: max(1, _MAX_COMPARISONS // max(1, len(labels)))]
    near = {name: label for name in some if (label := nearest_label(name, labels))}
    if labels and (known or near or not is_complete or len(names) != len(labels)):
        name = next(iter(near), unknown[0])
        free = [label for index, label in enumerate(labels) if index not in known.values()]
        meant = near.get(name) or (nearest_label(name, free, _LOOSELY_NEAR) if known else None)
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
    for name, by_size in zip(names, sorted(names, key=natural_key), strict=True):
        if name != by_size:
            raise ImageError(
                f"{naming.what}: as text {shorten(name)!r} comes before {shorten(by_size)!r}, so "
                "their sorted order may not be the model's. Call the folders by class index, from "
                "0 on, or by the model's labels (edgevit export --labels FILE)"
            )


def _check_indices(
    numbers: Mapping[str, int], num_classes: int | None, naming: Naming, *, is_complete: bool
) -> None:
    """Refuse indices that the model has not and, where all are named, gaps among them."""
    last = max(numbers, key=lambda name: numbers[name])
    from_one = min(numbers.values()) == 1
    if num_classes and numbers[last] >= num_classes:
        hint = "; they seem to be counted from 1" if from_one else ""
        raise ImageError(
            f"{naming.of(last)}: the {num_classes} classes are 0 to {num_classes - 1}{hint}. "
            "Number them by class index, from 0 on"
        )
    missing = sorted(set(range(numbers[last])) - set(numbers.values())) if is_complete else []
    if missing:
        hint = (
            "Counted from 1? Then rename them, from 0 on"
            if missing == [0]
            else f"Make an empty folder {missing[0]} if that class has no images here"
        )
        raise ImageError(
            f"{naming.what} are numbers up to {numbers[last]}, and {missing[0]} is not among them, "
            f"so they may be no class indices. {hint}"
        )


def _refuse_twins(known: Mapping[str, int], labels: Sequence[str], naming: Naming) -> None:
    """Refuse two folders for one class: one of them may be another class's, misspelt."""
    first: dict[int, str] = {}
    for name, index in known.items():
        if index in first:
            label = f" {shorten(labels[index])!r}" if labels else ""
            raise ImageError(
                f"{naming.of(name)} and {first[index]!r} beside it are both class {index}{label}. "
                "Move their images into one folder, or rename one of them"
            )
        first[index] = name


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(shorten, names[:3])) + (", ..." if len(names) > 3 else "")


def _note(
    naming: Naming, how: str, known: Mapping[str, int], labels: Sequence[str]
) -> tuple[str, ...]:
    """One sentence with ``bird = 2 'bird', ...``, by index and shortened."""
    ordered = sorted(known.items(), key=lambda pair: pair[1])
    pairs = ", ".join(
        shorten(f"{name} = {index}" + (f" {labels[index]!r}" if labels else ""))
        for name, index in ordered[:_NUM_SHOWN]
    )
    rest = f", ... ({len(ordered)} in all)" if len(ordered) > _NUM_SHOWN else ""
    return (f"{naming.what}: {how}{pairs}{rest}.",)
