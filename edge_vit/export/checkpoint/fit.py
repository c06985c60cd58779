"""Which of a checkpoint's tensors are the model's, found by what fits it best."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from edge_vit.errors import ArtifactError
from edge_vit.export.checkpoint.misfit import Misfit, Shape
from edge_vit.export.checkpoint.stored import StoredWeights
from edge_vit.export.checkpoint.unpickle import Unusable

Weights = Mapping[str, Tensor | Unusable]

# Beside the weights of a model in training: losses, measures, counters, and the decoder and mask of
# masked pretraining.
_BESIDE = re.compile(
    r"(?i)^(\w*criterion\w*|\w*loss(es|_fn|_func)?|\w*metrics?|\w*acc(uracy)?\d*|n_averaged|"
    r"num_updates|decay|initted|step|global_step|epoch|best_\w+|mixup\w*|\w*rng\w*|center|queue\w*"
    r"|mask_token|decoder\w*|class_weights?|pos_weight)$"
)
_MAX_NAMED = 4
_MAX_SEGMENTS = 60
_MAX_PLACES = 64


@dataclass(frozen=True)
class Fit:
    """The part of a checkpoint that is meant for a model."""

    place: str  # in the file, with a dot at the end: a dictionary, a prefix, or both
    weights: Weights  # by the model's names as far as they fit, every tensor at `place`
    found: int  # how many have a name and a shape of the model
    is_averaged: bool  # whether they are an average over training, such as an EMA
    misfit: Misfit  # what keeps them from being loaded
    rest: tuple[str, ...] = ()  # places of what lies beside and is not used
    notes: tuple[str, ...] = ()  # what was done, for the user

    @property
    def is_complete(self) -> bool:
        """Whether all fits, with nothing missing."""
        return self.misfit.is_empty

    @property
    def key(self) -> str:
        """What `--weights-key` calls it."""
        return self.place.rstrip(".") or "."

    def with_weights(self, module: nn.Module, weights: Weights, *notes: str) -> Fit:
        """Return the fit of `weights`, made of these, to `module`."""
        misfit = Misfit.between(module, weights)
        return replace(self, weights=weights, misfit=misfit, notes=(*self.notes, *notes))


def choose_weights(
    stored: StoredWeights, module: nn.Module, key: str | None = None, unused: Iterable[str] = ()
) -> Fit:
    """Return the part of `stored` that fits `module` best; of several, the averaged one.

    The user may name the place to take with `key`. `unused` are prefixes of the module's usual
    names that it was built without, such as a head's.
    """
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    search = _Search(stored, wanted, tuple(unused))
    fits = [*search.by_prefix(wanted)]
    if not any(fit.is_complete for fit in fits):
        fits += search.inside_wrapper()
    fits += search.from_lists(module, fits)
    fits += search.whole_dictionaries(fits)
    called = fits if key is None else _called(stored, fits, key)
    complete = [fit for fit in called if fit.is_complete]
    best = max(fit.found for fit in called)
    chosen = _settle(stored, complete or [fit for fit in called if fit.found == best])
    return _describe(stored, chosen, fits)


@dataclass(frozen=True)
class _Search:
    """Looks in `stored` for tensors of the names and shapes that are `wanted`."""

    stored: StoredWeights
    wanted: Mapping[str, Shape]
    unused: tuple[str, ...]

    def by_prefix(self, wanted: Mapping[str, Shape]) -> Iterator[Fit]:
        """Yield a fit for each place below which the names of `wanted` are found."""
        by_place: defaultdict[str, dict[str, str]] = defaultdict(dict)
        dotless = {name.replace(".", ""): name for name in wanted if "." in name}
        for full in self.stored.entries:
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
            yield self._fit(wanted, place, names, whole - {place})

    def inside_wrapper(self) -> list[Fit]:
        """Return complete fits of the model in a module that wraps it, as all its names show."""
        prefix, inner, found = "", dict(self.wanted), list[Fit]()
        while not found and (head := _only_head(inner)):
            prefix += head
            inner = {name.removeprefix(head): shape for name, shape in inner.items()}
            for fit in self.by_prefix(inner):
                if fit.is_complete:
                    weights = {prefix + name: value for name, value in fit.weights.items()}
                    notes = (*fit.notes, f"put below the module's own {prefix.rstrip('.')}")
                    found.append(replace(fit, weights=weights, notes=notes))
        return found

    def from_lists(self, module: nn.Module, fits: Iterable[Fit]) -> list[Fit]:
        """Return fits of averaged weights that lie in a list, in the order of the parameters.

        The weights beside them give names and order, and what is no parameter.
        """
        whole = next((fit for fit in fits if fit.is_complete), None)
        if whole is None:
            return []
        names = [name for name, _ in module.named_parameters()]
        found = []
        for place, tensors in self.stored.lists.items():
            shapes = [tuple(tensor.shape) for tensor in tensors]
            if shapes != [_shape(whole.weights[name], ()) for name in names]:
                raise ArtifactError(
                    f"{self.stored.where} keeps averaged weights in a list ({place}) whose "
                    f"{len(tensors)} tensors are not those of the model in its order. Add "
                    f"--weights-key {whole.key} for the others"
                )
            weights = {**whole.weights, **dict(zip(names, tensors, strict=True))}
            found.append(replace(whole, place=f"{place}.", weights=weights, is_averaged=True))
        return found

    def whole_dictionaries(self, fits: list[Fit]) -> list[Fit]:
        """Return the dictionaries as they are, where no name of the model is in the file.

        So it is with weights by other names, which a model's own conversion may know.
        """
        if any(fit.found > len(self.wanted) // 8 for fit in fits):
            return []
        by_container: defaultdict[str, dict[str, Tensor | Unusable]] = defaultdict(dict)
        for full, entry in self.stored.entries.items():
            by_container[entry.container][full[len(entry.container) :]] = entry.value
        most = max(map(len, by_container.values()))
        found = []
        for place, weights in by_container.items():
            if len(weights) < most / 2:
                continue
            while len(weights) > 1 and (head := _only_head(weights)):  # a wrapper's name
                place += head
                weights = {name.removeprefix(head): value for name, value in weights.items()}
            rest = tuple(full for full in self.stored.entries if not full.startswith(place))
            fit = self._as_fit(self.wanted, place, weights, rest)
            found.append(replace(fit, found=max((f.found for f in fits), default=0)))
        return found

    def _fit(
        self,
        wanted: Mapping[str, Shape],
        place: str,
        names: Mapping[str, str],
        others: Iterable[str],
    ) -> Fit:
        """Return the fit of `place`, where the model's `names` were found.

        What lies in the same dictionaries below `place` without belonging to the model is
        unexpected: a layer that the model lacks changes what it computes. Losses and counters do
        not, nor do further copies of the whole model at `others`.
        """
        entries = self.stored.entries
        containers = {entries[full].container for full in names.values()}
        used = set(names.values())
        weights = {name: entries[full].value for name, full in names.items()}
        copies = tuple(other for other in others if not place.startswith(other))
        rest = []
        for full, entry in entries.items():
            if full in used:
                continue
            tail = full[len(place) :]
            is_inside = full.startswith(place) and entry.container in containers
            is_left = tail.startswith(self.unused) or full.startswith(copies)
            if is_inside and not is_left and not any(map(_BESIDE.match, tail.split(".")[:2])):
                weights[tail] = entry.value
            else:
                rest.append(full)
        fit = self._as_fit(wanted, place, weights, tuple(rest))
        return self._with_head_from_beside(wanted, fit, containers)

    def _as_fit(
        self, wanted: Mapping[str, Shape], place: str, weights: Weights, rest: tuple[str, ...]
    ) -> Fit:
        got = {name: _shape(value, wanted.get(name, ())) for name, value in weights.items()}
        found = sum(got.get(name) == shape for name, shape in wanted.items())
        is_averaged = self.stored.is_averaged(place)
        return Fit(place, weights, found, is_averaged, Misfit.of(wanted, got), rest)

    def _with_head_from_beside(
        self, wanted: Mapping[str, Shape], fit: Fit, containers: set[str]
    ) -> Fit:
        """Return `fit` with its head, where a wrapper keeps the head beside the backbone.

        Only where nothing else lies beside them that an image might pass through.
        """
        missing, entries = fit.misfit.missing, self.stored.entries
        if not missing or not fit.place or len(missing) > 4 or fit.misfit.unexpected:
            return fit
        kept = [full for full in fit.rest if not any(map(_BESIDE.match, full.split(".")[-3:]))]
        beside = [full for full in kept if entries[full].container in containers] or kept
        if len({full.rpartition(".")[0] for full in beside}) != 1 or len(beside) != len(missing):
            return fit
        by_last = {full.rpartition(".")[2]: full for full in beside}
        head = {name: by_last.get(name.rpartition(".")[2], "") for name in missing}
        if len(set(head.values())) < len(missing) or not all(
            full and _shape(entries[full].value, missing[name]) == missing[name]
            for name, full in head.items()
        ):
            return fit
        weights = {**fit.weights, **{name: entries[full].value for name, full in head.items()}}
        rest = tuple(full for full in fit.rest if full not in beside)
        whole = self._as_fit(wanted, fit.place, weights, rest)
        return replace(
            whole, notes=(*fit.notes, f"{', '.join(head.values())} taken from beside them")
        )


def _only_head(names: Iterable[str]) -> str:
    """Return the first segment of all `names`, with its dot; empty where it is not the same."""
    heads = {"".join(name.partition(".")[:2]) for name in names}
    head = heads.pop() if len(heads) == 1 else ""
    return head if head.endswith(".") else ""


def _shape(value: Tensor | Unusable, wanted: Shape) -> Shape:
    # What cannot be used is refused by its kind, not by a shape that it does not tell.
    return tuple(value.shape) if isinstance(value, Tensor) else wanted


def _called(stored: StoredWeights, fits: list[Fit], key: str) -> list[Fit]:
    """Return the fits whose place is `key`, else those in whose place it occurs."""
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
    segments = zip(*(fit.place.split(".") for fit in candidates), strict=False)
    shared = itertools.takewhile(lambda each: len(set(each)) == 1, segments)
    depth = len(".".join(each[0] for each in shared))
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
        if value.dtype != other.dtype or not torch.equal(value, other):
            return False
    return True


def _describe(stored: StoredWeights, chosen: Fit, fits: Iterable[Fit]) -> Fit:
    """Return `chosen` with notes: where it lies in the file, and what is left there."""
    notes = []
    if chosen.place:
        averaged = ", an average over training" if chosen.is_averaged else ""
        notes.append(f"weights of {chosen.key}{averaged}")
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
    left = []
    for full in chosen.rest:
        value = stored.entries[full].value
        is_number = isinstance(value, Tensor) and value.ndim == 0  # a score or a counter
        if not full.startswith(copies) and not is_number:
            left.append(full)
    if left:
        more = f" and {len(left) - _MAX_NAMED} more" if len(left) > _MAX_NAMED else ""
        notes.append(f"left: {', '.join(left[:_MAX_NAMED])}{more}")
    return replace(chosen, notes=(*notes, *chosen.notes))
