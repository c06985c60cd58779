"""Several labels for each image, from the cells of a table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edge_vit.data.class_names import Naming, key_of, match_names
from edge_vit.data.source import Wanted
from edge_vit.data.text_lines import shorten
from edge_vit.errors import ImageError
from edge_vit.tasks.label_sets import LabelSet

_HEADER = re.compile(
    "(ground )?truth|y|(label|class|target|category|categories|tag)( names?)?(s|es)?"
)
_ON = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_UNKNOWN = ("", "-1", "?", "nan")
_WANTED = (
    "Write path,labels with ; between the labels, or a column for each label with 1 where it is on "
    "and 0 where not"
)


@dataclass(frozen=True)
class Row:
    """A line of a table."""

    number: int  # in the file, from 1 on
    cells: list[str]

    def cell(self, place: int) -> str:
        """Return the cell of a column; empty where the row is shorter."""
        return self.cells[place] if place < len(self.cells) else ""


def read_label_sets(
    what: str, rows: Sequence[Row], header: Sequence[str] | None, place: int, wanted: Wanted
) -> tuple[list[LabelSet], tuple[str, ...]]:
    """Return the labels of each row of a table, and notes on how they were read.

    A column for each label is known by headers that are labels, with 1 where the label is on, 0
    where not, -1 or nothing where it is not known. Else the labels stand in a column called labels,
    or behind the path, one a cell or several with ``;`` or ``|`` between them; none is none.
    Nothing is returned for a table of paths alone. `what` is the table in messages, `place` the
    column of the paths; the header is none of the rows.
    """
    others = [column for column in range(max(len(row.cells) for row in rows)) if column != place]
    if header is not None:
        keys = {key_of(label): index for index, label in enumerate(wanted.labels)}
        own = {column: keys.get(key_of(header[column])) for column in others if header[column:]}
        columns = {column: index for column, index in own.items() if index is not None}
        if columns:
            return _read_flags(what, rows, header, columns, wanted)
        called = [column for column in own if _HEADER.fullmatch(key_of(header[column]))]
        if others and not called:
            names = shorten(", ".join(header[column] or "(no name)" for column in own))
            raise ImageError(
                f"{what}: its columns {names} are no labels of the model, expected those, or one "
                f"column called labels. {_WANTED}"
            )
        others = called and [*called, *(c for c in others if c >= len(header))]
    if not others:
        return [], ()
    return _read_names(what, rows, others, wanted)


def _read_flags(
    what: str, rows: Sequence[Row], header: Sequence[str], columns: dict[int, int], wanted: Wanted
) -> tuple[list[LabelSet], tuple[str, ...]]:
    without = frozenset(range(len(wanted.labels))) - set(columns.values())
    found = []
    for row in rows:
        on, unknown = set(), set(without)
        for column, index in columns.items():
            cell = row.cell(column).casefold()
            flag = _ON.get(cell.removesuffix(".0"))
            if flag is None and cell not in _UNKNOWN and cell != "-1.0":
                raise ImageError(
                    f"{what}, line {row.number}: got {shorten(cell)!r} for {header[column]}, "
                    "expected 1 where the label is on, 0 where not, -1 where it is not known"
                )
            if flag:
                on.add(index)
            elif flag is None:
                unknown.add(index)
        found.append(LabelSet(frozenset(on), frozenset(unknown)))
    notes: tuple[str, ...] = ()
    if without:
        names = shorten(", ".join(wanted.labels[index] for index in sorted(without)))
        notes = (f"{what} has no column for {names}: of those nothing is known.",)
    return found, notes


def _read_names(
    what: str, rows: Sequence[Row], columns: Sequence[int], wanted: Wanted
) -> tuple[list[LabelSet], tuple[str, ...]]:
    named = [list(_names_in((row.cell(column) for column in columns), wanted)) for row in rows]
    first: dict[str, int] = {}
    for row, names in zip(rows, named, strict=True):
        for name in names:
            first.setdefault(name, row.number)
    if not first:
        return [], ()
    naming = Naming(
        f"Labels in {what}",
        lambda name: f"{what}, line {first[name]}: label {shorten(name)!r}",
        lambda: "Write the label, or its index from 0 on",
    )
    matched = match_names(list(first), wanted.labels, naming, num_classes=wanted.num_classes)
    sets = [LabelSet(frozenset(matched.indices[name] for name in names)) for names in named]
    return sets, matched.notes


def _names_in(cells: Iterable[str], wanted: Wanted) -> Iterable[str]:
    """Yield the names in `cells`; a cell that is a label as a whole is not split."""
    known = {key_of(label) for label in wanted.labels}
    for cell in cells:
        parts = [cell]
        if key_of(cell) not in known:
            parts = re.split(r"[;|,]", cell)
            words = cell.split()
            if len(parts) == 1 and all(key_of(w) in known or w.isdecimal() for w in words):
                parts = words
        yield from dict.fromkeys(part.strip() for part in parts if part.strip())
