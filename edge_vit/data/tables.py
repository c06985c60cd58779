"""Lists and tables of images, as spreadsheets and other tools write them."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_vit.data.class_names import Matched, Naming, as_index, key_of, match_names
from edge_vit.data.images import FileSource
from edge_vit.data.registry import IMAGE_SUFFIXES, LIST_SUFFIX, VIDEO_SUFFIXES
from edge_vit.data.source import Wanted
from edge_vit.data.text_lines import read_text, shorten, split_lines
from edge_vit.errors import ImageError
from edge_vit.git_lfs import refuse_lfs_pointer
from edge_vit.tasks.label_sets import LabelSet

_PATH_HEADER = re.compile("(path|image|img|file)(_?(path|name|file))?s?")
_CLASS_HEADER = re.compile(
    "(ground_)?truth|y|(label|class|target|category)(_?(name|id|index|idx))?(s|es)?"
)
_DELIMITERS = ",;\t|"
_FILE_SUFFIXES = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
_SAMPLE = 20  # rows that tell how a table is laid out
_WANTED = "Write one image a line: path,label"
_SETS_HEADER = re.compile(
    "(ground )?truth|y|(label|class|target|category|categories|tag)( names?)?(s|es)?"
)
_ON = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_UNKNOWN = ("", "-1", "?", "nan")
_WANTED_SETS = (
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


def open_table(address: str, wanted: Wanted) -> FileSource:
    """Return the images in a list, ``.txt``, or a table, ``.csv``, ``.tsv`` or ``.txt``.

    Where several labels are wanted for each image, see `_read_label_sets`; else of one class each:
    a list has a path a line; empty lines and ``#`` lines are left out. A table has a path and, if
    it is known, a class, separated by commas, semicolons, tabs or bars, with or without a line of
    headers. Relative paths start at the file's folder; backslashes separate folders too.

    Raises:
        ImageError: the file is no such table, an image is not there, or a class is none of the
            model's: see `match_names`.
    """
    path = Path(address)
    what = f"image {'list' if path.suffix.lower() == LIST_SUFFIX else 'table'} {path}"
    lines = _lines(path, what)
    if path.suffix.lower() == LIST_SUFFIX and _is_list(path.parent, lines):
        tables = [[Row(number, [line]) for number, line in lines]]
    else:
        tables = [rows for delimiter in _DELIMITERS if (rows := _parse(lines, delimiter))]
    if not tables:
        raise ImageError(f"{what} cannot be read: a line is too long. {_WANTED}")
    rows, header = _best_of(path.parent, tables)
    place, columns, notes = _find_columns(path.parent, what, rows, header, wanted)
    if wanted.has_label_sets and rows:
        return _with_label_sets(path.parent, what, rows, header, place, wanted)
    width = len(header) if header else 2
    for row in rows:
        if len(row.cells) > width and wanted.has_truth:
            raise ImageError(
                f"{what}, line {row.number}: got {len(row.cells)} cells, expected at most {width}. "
                f"{_WANTED}"
            )
    paths = [_need(path.parent, what, row, place, wanted) for row in rows]
    if not paths:
        raise ImageError(f"{what} names no image. {_WANTED}")
    words = [[row.cell(column) for row in rows] for column in columns]
    words = [column for column in words if any(column)]
    if not words:
        return FileSource(paths, notes=notes, clip=wanted.clip)
    matched, column = _match(what, rows, words, wanted)
    classes = [matched.indices[word] for word in column]
    told = (*notes, *matched.notes)
    return FileSource(paths, classes, wanted.labels, told, clip=wanted.clip)


def _with_label_sets(
    folder: Path,
    what: str,
    rows: Sequence[Row],
    header: Sequence[str] | None,
    place: int,
    wanted: Wanted,
) -> FileSource:
    from edge_vit.data.annotated import AnnotatedSource

    paths = [_need(folder, what, row, place, wanted) for row in rows]
    sets, notes = _read_label_sets(what, rows, header, place, wanted)
    if not sets:
        return FileSource(paths, notes=notes, clip=wanted.clip)
    names = [row.cell(place) for row in rows]
    return AnnotatedSource(
        paths, names, lambda index, _: sets[index], wanted.labels, notes, wanted.clip
    )


def _lines(path: Path, what: str) -> list[tuple[int, str]]:
    """The lines of a file that are not empty and no comments, each with its number."""
    refuse_lfs_pointer(path, ImageError)
    try:
        lines = split_lines(read_text(path, errors="surrogateescape"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ImageError(f"{what} cannot be read as text: {reason}") from None
    found = [
        (number, line)
        for number, line in enumerate(lines, 1)
        if line.strip() and (line.lstrip()[0] != "#" or _find_file(path.parent, line))
    ]
    if found and re.fullmatch("sep=.", found[0][1].strip('" '), re.IGNORECASE):
        del found[0]  # Excel's own line
    if not found:
        raise ImageError(f"{what} names no image, expected a path a line, or path,label")
    return found


def _is_list(folder: Path, lines: Sequence[tuple[int, str]]) -> bool:
    """Whether lines as a whole are paths, rather than rows of a table."""
    some = [line for _, line in lines[:_SAMPLE]]
    if any(_find_file(folder, line) for line in some):
        return True
    return not any(delimiter in line for line in some for delimiter in _DELIMITERS)


def _parse(lines: Sequence[tuple[int, str]], delimiter: str) -> list[Row]:
    """The rows of a table; none where it cannot be read so."""
    reader = csv.reader((line for _, line in lines), delimiter=delimiter)
    rows = []
    try:
        for row in reader:
            cells = list(map(str.strip, row))
            while len(cells) > 1 and not cells[-1]:  # spreadsheets fill rows up with delimiters
                cells.pop()
            if any(cells):
                rows.append(Row(lines[reader.line_num - 1][0], cells))
    except csv.Error:
        return []
    return rows


def _best_of(folder: Path, tables: Sequence[list[Row]]) -> tuple[list[Row], Sequence[str] | None]:
    """The rows of the table that names most files, and its headers if it has them."""

    def files(rows: Sequence[Row]) -> int:
        return sum(bool(_find_file(folder, c)) for row in rows[:_SAMPLE] for c in row.cells)

    rows = max(tables, key=lambda rows: (files(rows), min(2, len(rows[0].cells))))
    is_called = any(_PATH_HEADER.fullmatch(_header_key(cell)) for cell in rows[0].cells)
    is_image = any(Path(cell).suffix.lower() in _FILE_SUFFIXES for cell in rows[0].cells)
    is_header = is_called or (files(rows[1:]) > 0 and not is_image)  # or an image that is missing
    has_header = is_header and not files(rows[:1])
    return (rows[1:], rows[0].cells) if has_header else (rows, None)


def _header_key(cell: str) -> str:
    return "_".join(cell.casefold().replace("-", " ").replace("_", " ").split())


def _find_columns(
    folder: Path, what: str, rows: Sequence[Row], header: Sequence[str] | None, wanted: Wanted
) -> tuple[int, list[int], tuple[str, ...]]:
    """The column of the paths, those that may hold the classes, and notes about the others."""
    some = rows[:_SAMPLE]
    places = {i for row in some for i, c in enumerate(row.cells) if _find_file(folder, c)}
    if header is None:
        place = min(places, default=0)
        return place, [1 - place] if place < 2 and wanted.has_truth else [], ()
    names = [_header_key(cell) for cell in header]
    called = [i for i, name in enumerate(names) if _PATH_HEADER.fullmatch(name)]
    place = [*(i for i in called if i in places), *sorted(places), *called, 0][0]
    others = [i for i in range(len(names)) if i != place]
    if not wanted.has_truth or not others:
        return place, [], ()
    columns = [i for i in others if _CLASS_HEADER.fullmatch(names[i])]
    if not columns and len(others) == 1 and not _are_indices(row.cell(others[0]) for row in some):
        columns = others
    if not columns:
        which = shorten(", ".join(header[i] or "(no name)" for i in others))
        raise ImageError(
            f"{what}: its columns {which} do not tell the class of each image, expected one "
            "column called label. Call it so, or keep the path alone to measure agreement only"
        )
    left = shorten(", ".join(header[i] for i in others if i not in columns and header[i]))
    return place, columns, (f"{what}: columns {left} are not used.",) if left else ()


def _match(
    what: str, rows: Sequence[Row], columns: Sequence[Sequence[str]], wanted: Wanted
) -> tuple[Matched, Sequence[str]]:
    """The classes by the column that is of the model's; names are tried before numbers."""
    errors = []
    for words in sorted(columns, key=_are_indices):
        num_words = sum(map(bool, words))
        if num_words < len(rows):
            raise ImageError(
                f"{what}: {num_words} of {len(rows)} images have a label, expected all or none"
            )
        first: dict[str, int] = {}
        for row, word in zip(rows, words, strict=True):
            first.setdefault(word, row.number)
        naming = Naming(
            f"Classes in {what}",
            lambda word, first=first: f"{what}, line {first[word]}: label {shorten(word)!r}",  # type: ignore[misc]
            lambda: "Write the label, or its class index from 0 on",
        )
        try:
            num_classes = wanted.num_classes
            return match_names(list(first), wanted.labels, naming, num_classes=num_classes), words
        except ImageError as error:
            errors.append(error)
    raise errors[0]


def _are_indices(words: Iterable[str]) -> bool:
    return all(as_index(word) is not None for word in words)


def _need(folder: Path, what: str, row: Row, place: int, wanted: Wanted) -> Path:
    """Return the image, or the clip, that a row names in the column `place`."""
    text, has_clips = row.cell(place), wanted.clip is not None
    found = _find_file(folder, text, or_folder=has_clips)
    if found is not None:
        return found
    name = text.strip().replace("\\", "/")
    hint = "Paths start at the folder of this file"
    if name and not Path(name).is_absolute() and _find_file(Path(), name, or_folder=has_clips):
        hint += f", and this one is found from {Path.cwd()}: move the file there"
    missing = f"{shorten(str(folder / name))} does not exist or is no file"
    raise ImageError(f"{what}, line {row.number}: {missing}. {hint}")


def _find_file(folder: Path, text: str, *, or_folder: bool = False) -> Path | None:
    """Return the file, or folder, in `folder` that is called `text`; None where there is none.

    As it is written; else with its backslashes as slashes, or in another composition of Unicode: a
    Mac writes é as two characters.
    """
    name = text.strip()
    slashed = name.replace("\\", "/")
    for form in (text, name, slashed, *(unicodedata.normalize(f, slashed) for f in ("NFC", "NFD"))):
        try:
            found = folder / form
            if form and (found.is_file() or (or_folder and found.is_dir())):
                return found
        except (OSError, ValueError):  # too long, or with a null in it
            continue
    return None


def _read_label_sets(
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
        called = [column for column in own if _SETS_HEADER.fullmatch(key_of(header[column]))]
        if others and not called:
            names = shorten(", ".join(header[column] or "(no name)" for column in own))
            raise ImageError(
                f"{what}: its columns {names} are no labels of the model, expected those, or one "
                f"column called labels. {_WANTED_SETS}"
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
