"""Which of a checkpoint's tensors are the model's, found by what fits it best."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from edge_vit.errors import ArtifactError
from edge_vit.export.checkpoint.stored import StoredWeights
from edge_vit.export.checkpoint.unpickle import Unusable
from edge_vit.export.misfit import Misfit

Shape = tuple[int, ...]

# Beside the weights of a model in training: losses, measures, counters, and the decoder and mask of
# masked pretraining.
_BESIDE = re.compile(
    r"(?i)^(\w*criterion\w*|\w*loss(es|_fn|_func)?|\w*metrics?|\w*acc(uracy)?\d*|n_averaged|"
    r"num_updates|decay|initted|step|global_step|epoch|best_\w+|mixup\w*|\w*rng\w*|center|queue\w*|mask_token|decoder\w*|"
    r"class_weights?|pos_weight)$"
)
_MAX_NAMED = 4
_MAX_SEGMENTS = 60
_MAX_PLACES = 64


@dataclass(frozen=True)
class Fit:
    """The part of a checkpoint that is meant for a model.

    Attributes:
        place: in the file, with a dot at the end: a dictionary, a prefix, or both.
        weights: by the model's names as far as they fit, every tensor at `place`.
        found: how many have a name and a shape of the model.
        is_averaged: whether they are an average over training, such as an EMA.
        misfit: what keeps them from being loaded.
        rest: places of what lies beside and is not used.
        notes: what was done, for the user.
    """

    place: str
    weights: Mapping[str, Tensor | Unusable]
    found: int
    is_averaged: bool
    misfit: Misfit
    rest: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def is_complete(self) -> bool:
        """Whether all fits, with nothing missing."""
        return self.misfit.is_empty

    @property
    def key(self) -> str:
        """What `--weights-key` calls it."""
        return self.place.rstrip(".") or "."


def choose_weights(
    stored: StoredWeights, module: nn.Module, key: str | None = None, unused: Iterable[str] = ()
) -> Fit:
    """Return the part of `stored` that fits `module` best; of several, the averaged one.

    Args:
        stored: a checkpoint.
        module: that the weights are for.
        key: the place to take, where the user names one.
        unused: prefixes of the module's usual names that it was built without, such as a head's.

    Raises:
        ArtifactError: several fit equally and none of them is the average, or nothing is called
            `key`.
    """
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    fits = [*_by_prefix(stored, wanted, tuple(unused))]
    if not any(fit.is_complete for fit in fits):
        fits += _inside_wrapper(stored, wanted, tuple(unused))
    fits += _from_lists(stored, module, fits)
    fits += _whole_dictionaries(stored, wanted, fits)
    called = fits if key is None else _called(stored, fits, key)
    complete = [fit for fit in called if fit.is_complete]
    best = max(fit.found for fit in called)
    chosen = _settle(stored, complete or [fit for fit in called if fit.found == best])
    return _describe(stored, chosen, fits)


def _by_prefix(
    stored: StoredWeights, wanted: Mapping[str, Shape], unused: tuple[str, ...]
) -> Iterable[Fit]:
    """Yield a fit for each place below which the model's names are found."""
    by_place: defaultdict[str, dict[str, str]] = defaultdict(dict)
    dotless = {name.replace(".", ""): name for name in wanted if "." in name}
    for full in stored.entries:
        if full.count(".") > _MAX_SEGMENTS:
            continue
        tail, place = full, ""
        while True:
            name = tail if tail in wanted else dotless.get(tail)
            if name is not None:
                by_place[place][name] = full
            head, dot, tail = tail.partition(".")
            if not dot:
                break
            place += head + dot
    whole = {place for place, names in by_place.items() if names.keys() == wanted.keys()}
    most = max(map(len, by_place.values()), default=0)
    ranked = sorted(by_place.items(), key=lambda item: -len(item[1]))
    for place, names in ranked[:_MAX_PLACES]:
        if 2 * len(names) < most:
            break
        yield _fit(stored, wanted, place, names, unused, whole - {place})


def _inside_wrapper(
    stored: StoredWeights, wanted: Mapping[str, Shape], unused: tuple[str, ...]
) -> list[Fit]:
    """Return complete fits of the model in a module that wraps it, as all its names show."""
    prefix = ""
    found: list[Fit] = []
    inner = dict(wanted)
    while not found:
        heads = {name.partition(".")[0] for name in inner}
        if len(heads) != 1 or any("." not in name for name in inner):
            break
        prefix += f"{heads.pop()}."
        inner = {name.partition(".")[2]: shape for name, shape in inner.items()}
        for fit in _by_prefix(stored, inner, unused):
            if fit.is_complete:
                weights = {prefix + name: value for name, value in fit.weights.items()}
                notes = (*fit.notes, f"put below the module's own {prefix.rstrip('.')}")
                found.append(replace(fit, weights=weights, notes=notes))
    return found


def _fit(
    stored: StoredWeights,
    wanted: Mapping[str, Shape],
    place: str,
    names: Mapping[str, str],
    unused: tuple[str, ...],
    others: Iterable[str],
) -> Fit:
    """Return the fit of `place`, where the model's `names` were found.

    What lies in the same dictionaries below `place` without belonging to the model is unexpected:
    a layer that the model lacks changes what it computes. Losses and counters do not, nor do
    further copies of the whole model at `others`.
    """
    containers = {stored.entries[full].container for full in names.values()}
    used = set(names.values())
    weights = {name: stored.entries[full].value for name, full in names.items()}
    copies = tuple(other for other in others if not place.startswith(other))
    rest = []
    for full, entry in stored.entries.items():
        if full in used:
            continue
        tail = full[len(place) :]
        is_inside = full.startswith(place) and entry.container in containers
        if (
            is_inside
            and not tail.startswith(unused or ("\0",))
            and not full.startswith(copies or ("\0",))
            and not any(map(_BESIDE.match, tail.split(".")[:2]))
        ):
            weights[tail] = entry.value
        else:
            rest.append(full)
    fit = _as_fit(stored, wanted, place, weights, tuple(rest))
    return _with_head_from_beside(stored, wanted, fit, containers)


def _as_fit(
    stored: StoredWeights,
    wanted: Mapping[str, Shape],
    place: str,
    weights: Mapping[str, Tensor | Unusable],
    rest: tuple[str, ...] = (),
) -> Fit:
    got = {name: _shape(value, wanted.get(name, ())) for name, value in weights.items()}
    misfit = Misfit.of(wanted, got)
    found = sum(got.get(name) == shape for name, shape in wanted.items())
    return Fit(place, weights, found, stored.is_averaged(place), misfit, rest)


def _shape(value: Tensor | Unusable, wanted: Shape) -> Shape:
    # What cannot be used is refused by its kind, not by a shape that it does not tell.
    return tuple(value.shape) if isinstance(value, Tensor) else wanted


def _with_head_from_beside(
    stored: StoredWeights, wanted: Mapping[str, Shape], fit: Fit, containers: set[str]
) -> Fit:
    """Return `fit` with its head, where a wrapper keeps the head beside the backbone.

    Only where nothing else lies beside them that an image might pass through.
    """
    missing = fit.misfit.missing
    if not missing or not fit.place or len(missing) > 4 or fit.misfit.unexpected:
        return fit
    kept = [full for full in fit.rest if not any(map(_BESIDE.match, full.split(".")[-3:]))]
    beside = [full for full in kept if stored.entries[full].container in containers] or kept
    by_name = {
        name: [
            full
            for full in beside
            if full.rpartition(".")[2] == name.rpartition(".")[2]
            and _shape(stored.entries[full].value, shape) == shape
        ]
        for name, shape in missing.items()
    }
    places = {full.rpartition(".")[0] for full in beside}
    if len(places) != 1 or len(beside) != len(missing):
        return fit
    if any(len(fulls) != 1 for fulls in by_name.values()):
        return fit
    head = {name: stored.entries[full].value for name, (full,) in by_name.items()}
    rest = tuple(full for full in fit.rest if full not in beside)
    whole = _as_fit(stored, wanted, fit.place, {**fit.weights, **head}, rest)
    taken = ", ".join(full for (full,) in by_name.values())
    return replace(
        whole,
        notes=(
            *fit.notes,
            f"{taken} taken from beside them",
        ),
    )


def _from_lists(stored: StoredWeights, module: nn.Module, fits: Iterable[Fit]) -> list[Fit]:
    """Return fits of averaged weights that lie in a list, in the order of the module's parameters.

    The weights beside them give names and order, and what is no parameter.
    """
    whole = next((fit for fit in fits if fit.is_complete), None)
    if whole is None or not stored.lists:
        return []
    names = [name for name, _ in module.named_parameters()]
    found = []
    for place, tensors in stored.lists.items():
        shapes = [tuple(tensor.shape) for tensor in tensors]
        if shapes != [tuple(whole.weights[name].shape) for name in names]:  # type: ignore[union-attr]
            raise ArtifactError(
                f"{stored.where} keeps averaged weights in a list ({place}) whose {len(tensors)} "
                f"tensors are not those of the model in its order. Add --weights-key {whole.key} "
                "for the others"
            )
        weights = {**whole.weights, **dict(zip(names, tensors, strict=True))}
        found.append(replace(whole, place=f"{place}.", weights=weights, is_averaged=True))
    return found


def _whole_dictionaries(
    stored: StoredWeights, wanted: Mapping[str, Shape], fits: list[Fit]
) -> list[Fit]:
    """Return the dictionaries as they are, where no name of the model is in the file.

    So it is with weights by other names, which a model's own conversion may know.
    """
    if any(fit.found > len(wanted) // 8 for fit in fits):
        return []
    by_container: defaultdict[str, dict[str, Tensor | Unusable]] = defaultdict(dict)
    for full, entry in stored.entries.items():
        by_container[entry.container][full[len(entry.container) :]] = entry.value
    most = max(map(len, by_container.values()))
    found = []
    for place, weights in by_container.items():
        if len(weights) < most / 2:
            continue
        while len(weights) > 1:  # a wrapper's name before every other
            heads = {name.partition(".")[0] for name in weights}
            if len(heads) > 1 or any("." not in name for name in weights):
                break
            (head,) = heads
            place += f"{head}."
            weights = {name.partition(".")[2]: value for name, value in weights.items()}
        rest = tuple(full for full in stored.entries if not full.startswith(place))
        fit = _as_fit(stored, wanted, place, weights, rest)
        found.append(replace(fit, found=max((f.found for f in fits), default=0)))
    return found


def _called(stored: StoredWeights, fits: list[Fit], key: str) -> list[Fit]:
    """Return the fits whose place is `key`, else those in whose place it occurs.

    Raises:
        ArtifactError: there is none.
    """
    exact = [fit for fit in fits if fit.key == key]
    found = exact or [fit for fit in fits if f".{key.strip('.')}." in f".{fit.place}"]
    if found:
        return found
    known = sorted({fit.key for fit in fits if fit.found > 2 or fit.is_complete})
    raise ArtifactError(
        f"--weights-key {key}: {stored.where} has no such weights, known are "
        f"{', '.join(known[:12]) or 'none that fit the model'}"
    )


def _settle(stored: StoredWeights, fits: list[Fit]) -> Fit:
    """Return the one of equally good `fits` that is meant: the average, else the only one."""
    candidates = [fit for fit in fits if fit.is_averaged] or fits
    depth = len(_shared([fit.place for fit in candidates]))
    # "ema.ema_model" is the average, "ema.online_model" beside it is not.
    candidates = [fit for fit in candidates if stored.is_averaged(fit.place[depth:])] or candidates
    first = candidates[0]
    if all(_same(first, other) for other in candidates[1:]):
        return first
    options = " or ".join(f"--weights-key {fit.key}" for fit in candidates)
    raise ArtifactError(
        f"{stored.where} holds {len(candidates)} sets of weights that fit the model alike. "
        f"Add {options}"
    )


def _shared(places: Iterable[str]) -> str:
    """Return what all `places` begin with, in whole segments."""
    segments = zip(*(place.split(".") for place in places), strict=False)
    same = itertools.takewhile(lambda each: len(set(each)) == 1, segments)
    return ".".join(each[0] for each in same)


def _same(first: Fit, second: Fit) -> bool:
    """Return whether both hold the same tensors, as where one module has two names."""
    if first.weights.keys() != second.weights.keys():
        return False
    for name, value in first.weights.items():
        other = second.weights[name]
        if value is other:
            continue
        if not (isinstance(value, Tensor) and isinstance(other, Tensor)):
            return False
        if (
            value.shape != other.shape
            or value.dtype != other.dtype
            or not torch.equal(value, other)
        ):
            return False
    return True


def _is_number(value: Tensor | Unusable) -> bool:
    """Return whether `value` is one number, a score or a counter, and not worth a word."""
    return isinstance(value, Tensor) and value.ndim == 0


def _describe(stored: StoredWeights, chosen: Fit, fits: Iterable[Fit]) -> Fit:
    """Return `chosen` with notes: where it lies in the file, and what is left there."""
    notes = [
        f"weights of {chosen.key}" + (", an average over training" if chosen.is_averaged else "")
    ]
    notes = notes if chosen.place else []
    others = [fit.key for fit in fits if fit is not chosen and fit.is_complete]
    if others:
        notes.append(f"not taken: {', '.join(others)} (--weights-key takes another)")
    unfit = [fit.key for fit in fits if fit.is_averaged and not fit.is_complete]
    if unfit and chosen.is_complete and not chosen.is_averaged:
        notes.append(f"the averaged weights of {', '.join(unfit[:2])} do not fit and are left")
    if stored.modules:
        kind = stored.modules[0].rpartition(".")[2]
        notes.append(f"out of a whole pickled {kind}, none of whose code ran")
    copies = tuple(f"{other}." for other in others)
    left = [
        full
        for full in chosen.rest
        if not full.startswith(copies or ("\0",)) and not _is_number(stored.entries[full].value)
    ]
    if left:
        more = f" and {len(left) - _MAX_NAMED} more" if len(left) > _MAX_NAMED else ""
        notes.append(f"left: {', '.join(left[:_MAX_NAMED])}{more}")
    return replace(chosen, notes=(*notes, *chosen.notes))
