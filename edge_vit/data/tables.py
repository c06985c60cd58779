"""Lists and tables of images, as spreadsheets and other tools write them."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_vit.data.class_names import Naming, key_of, match_names
from edge_vit.data.images import FileSource
from edge_vit.data.listed_files import find_file
from edge_vit.data.registry import IMAGE_SUFFIXES, LIST_SUFFIX
from edge_vit.data.source import Wanted
from edge_vit.data.text_lines import read_text, shorten, split_lines
from edge_vit.errors import ImageError
from edge_vit.git_lfs import refuse_lfs_pointer

_PATHS = (
    "path paths image images file filename file_name filepath file_path img img_path image_path "
    "image_file imagepath image_name"
)
_CLASSES = (
    "label labels class classes class_name classname class_id class_index class_idx target targets "
    "category category_name category_id label_name label_id truth ground_truth y"
)
PATH_HEADERS, CLASS_HEADERS = frozenset(_PATHS.split()), frozenset(_CLASSES.split())
_IDS = frozenset(("id", "image_id", "img_id"))
"""Headers of paths where no other column holds them, and of row numbers where one does."""
_SAMPLE = 20  # rows that tell how a table is laid out
_WANTED = "one image a line: path,label"


@dataclass(frozen=True)
class _Listed:
    """Images that a list or a table names.

    Attributes:
        paths: of the images.
        classes: index of each one's class; None where the table says none.
        notes: sentences about how the table was read.
    """

    paths: list[Path]
    classes: list[int] | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Row:
    number: int
    cells: list[str]

    def cell(self, place: int) -> str:
        return self.cells[place] if place < len(self.cells) else ""


@dataclass(frozen=True)
class _Columns:
    """Where a table has its paths and its classes; the header is no row of it."""

    path: int
    labels: tuple[int, ...]
    count: int
    notes: tuple[str, ...] = ()
    needs_names: bool = False


def open_table(address: str, wanted: Wanted) -> FileSource:
    """Return the images in a list, ``.txt``, or a table, ``.csv``, ``.tsv`` or ``.txt``.

    A list has a path a line; empty lines and ``#`` lines are left out. A table has a path and, if
    it is known, a class, separated by commas, semicolons or tabs, with or without a line of
    headers. Relative paths start at the file's folder; backslashes separate folders too.

    Raises:
        ImageError: the file is no such table, an image is not there, or a class is none of the
            model's: see `match_names`.
    """
    listed = _read_listed(Path(address), wanted)
    labels = wanted.labels if listed.classes is not None else ()
    return FileSource(listed.paths, listed.classes, labels, listed.notes)


def _read_listed(path: Path, wanted: Wanted) -> _Listed:
    lines = _lines(path)
    if not lines:
        raise ImageError(f"{_what(path)} names no image, expected {_wanted(path)}")
    if path.suffix.lower() == LIST_SUFFIX and _is_list(path.parent, lines):
        first = lines[0][1]
        is_head = _header_key(first) in PATH_HEADERS and not find_file(path.parent, first)
        rest = lines[1:] if is_head and len(lines) > 1 else lines
        return _Listed([_need(path, number, line) for number, line in rest], None)
    rows, header = _split(path, lines)
    columns = _find_columns(path, rows, header, has_truth=wanted.has_truth)
    if not rows:
        raise ImageError(f"{_what(path)} names no image, expected {_wanted(path)}")
    paths = []
    words: dict[int, list[tuple[int, str]]] = {place: [] for place in columns.labels}
    for row in rows:
        if len(row.cells) > columns.count:
            raise ImageError(
                f"{_what(path)}, line {row.number}: got {len(row.cells)} cells, expected "
                f"{'path,label or path' if header is None else columns.count}"
            )
        paths.append(_need(path, row.number, row.cell(columns.path)))
        for place, column in words.items():
            if row.cell(place):
                column.append((row.number, row.cell(place)))
    some = [column for column in words.values() if column]
    if not some:
        return _Listed(paths, None, columns.notes)
    for column in some:
        if len(column) != len(paths):
            raise ImageError(
                f"{_what(path)}: {len(column)} of {len(paths)} images have a label, expected all "
                "or none"
            )
    classes, notes = _match_columns(path, some, wanted, columns)
    return _Listed(paths, classes, (*columns.notes, *notes))


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a file that are not empty and no comments, each with its number."""
    refuse_lfs_pointer(path, ImageError)
    try:
        lines = split_lines(read_text(path, errors="surrogateescape"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ImageError(
            f"{_what(path)} cannot be read as text: {reason}. Write {_wanted(path)}"
        ) from None
    return [
        (number, line)
        for number, line in enumerate(lines, 1)
        if line.strip() and not _is_comment(path.parent, line, number)
    ]


def _is_comment(folder: Path, line: str, number: int) -> bool:
    """Whether a line begins with ``#`` and names no file so, or is Excel's ``sep=;``."""
    if number == 1 and re.fullmatch("sep=.", line.strip().strip('"'), re.IGNORECASE):
        return True
    if not line.lstrip().startswith("#"):
        return False
    return not any(find_file(folder, part) for part in (line, *re.split("[,;\t]", line)))


def _what(path: Path) -> str:
    return f"image {'list' if path.suffix.lower() == LIST_SUFFIX else 'table'} {path}"


def _wanted(path: Path) -> str:
    return "one path a line" if path.suffix.lower() == LIST_SUFFIX else _WANTED


def _need(path: Path, number: int, text: str) -> Path:
    found = find_file(path.parent, text)
    if found is not None:
        return found
    name = text.strip().replace("\\", "/")
    hint = (
        f"Paths start at the {'list' if path.suffix.lower() == LIST_SUFFIX else 'table'}'s folder"
    )
    suffix = next(
        (end for end in IMAGE_SUFFIXES if name and find_file(path.parent, name + end)), None
    )
    if suffix:
        hint = f"{name}{suffix} is there: write paths with their suffix"
    elif "://" in text:
        hint = "Only files are read: download the images first"
    if name and not Path(name).is_absolute() and find_file(Path(), name):
        hint += f", and this one is found from {Path.cwd()}: move {path.name} there"
    raise ImageError(
        f"{_what(path)}, line {number}: {shorten(str(path.parent / name))} does not exist or is "
        f"no file. {hint}"
    )


def _is_list(folder: Path, lines: Sequence[tuple[int, str]]) -> bool:
    """Whether lines as a whole are paths, rather than rows of a table."""
    some = lines[:_SAMPLE]
    if any(find_file(folder, line) for _, line in some):
        return True
    return not any(_places(folder, _sample(lines, delimiter)) for delimiter in "\t;|, ")


def _split(path: Path, lines: Sequence[tuple[int, str]]) -> tuple[list[_Row], list[str] | None]:
    """The rows of a table, and its headers if it has them, by the delimiter that gives paths."""
    delimiters = {".tsv": "\t,;|", LIST_SUFFIX: "\t;|, "}.get(path.suffix.lower(), ",;\t|")
    some = [_sample(lines, delimiter) for delimiter in delimiters]
    scores = [sum(_places(path.parent, rows).values()) for rows in some]
    if not any(scores):  # not one image is there: what cuts every line alike
        counts = [{len(row.cells) for row in rows} for rows in some]
        scores = [int(len(count) == 1 and min(count) > 1) for count in counts]
    try:
        rows = _parse(lines, delimiters[scores.index(max(scores))])
    except csv.Error as error:
        raise ImageError(f"{_what(path)} cannot be read: {error}. Write {_WANTED}") from None
    return (rows[1:], rows[0].cells) if _is_header(path.parent, rows) else (rows, None)


def _parse(lines: Sequence[tuple[int, str]], delimiter: str) -> list[_Row]:
    if delimiter == " ":  # as Caffe has it: the last word is the class
        return [_Row(number, line.strip().rsplit(None, 1)) for number, line in lines]
    reader = csv.reader((line + "\n" for _, line in lines), delimiter=delimiter)
    rows = []
    for cells in reader:
        stripped = [cell.strip() for cell in cells]
        while len(stripped) > 1 and not stripped[-1]:
            stripped.pop()
        if any(stripped):
            rows.append(_Row(lines[reader.line_num - 1][0], stripped))
    return rows


def _sample(lines: Sequence[tuple[int, str]], delimiter: str) -> list[_Row]:
    try:
        return _parse(lines[:_SAMPLE], delimiter)
    except csv.Error:
        return []


def _places(folder: Path, rows: Iterable[_Row]) -> dict[int, int]:
    """Columns that hold paths of files, and in how many of the first rows."""
    places: dict[int, int] = {}
    for row in list(rows)[:_SAMPLE]:
        for place, cell in enumerate(row.cells):
            if find_file(folder, cell):
                places[place] = places.get(place, 0) + 1
    return places


def _is_header(folder: Path, rows: Sequence[_Row]) -> bool:
    first = rows[0].cells
    if _places(folder, rows[:1]) or any(_looks_like_path(cell) for cell in first):
        return False
    names = set(map(_header_key, first))
    return bool(names & (PATH_HEADERS | _IDS)) or bool(_places(folder, rows[1:]))


def _looks_like_path(cell: str) -> bool:
    return "/" in cell or "\\" in cell or cell.lower().endswith(IMAGE_SUFFIXES)


def _header_key(cell: str) -> str:
    return "_".join(cell.casefold().replace("-", " ").replace("_", " ").split())


def _find_columns(
    path: Path, rows: Sequence[_Row], header: Sequence[str] | None, *, has_truth: bool
) -> _Columns:
    found = _places(path.parent, rows)
    if header is None:
        count = max(len(row.cells) for row in rows)
        if count > 2 and has_truth:
            return _Columns(0, (1,), 2)  # the row that is too long is named by its line
        _refuse_several(path, [str(place + 1) for place in found])
        place = next(iter(found), 0)
        return _Columns(place, (1 - place,) if count == 2 and has_truth else (), count)
    width = max(len(row.cells) for row in rows) if rows else 0
    header = [*header, *[""] * (width - len(header))]
    names = [_header_key(cell) for cell in header]
    places = [place for place, name in enumerate(names) if name in PATH_HEADERS]
    ids = [place for place, name in enumerate(names) if name in _IDS]
    places = [place for place in places if place in found] or places or list(found) or ids
    _refuse_several(path, [header[place] for place in places])
    if not places:
        raise ImageError(
            f"{_what(path)} has the columns {shorten(', '.join(header))}, and none holds paths of "
            "images. Call it path, and the one of the classes label"
        )
    others = [place for place in range(len(names)) if place != places[0]]
    if not has_truth or not others:
        return _Columns(places[0], (), len(names))
    return _find_label(path, header, names, places[0], others)


def _find_label(
    path: Path, header: Sequence[str], names: Sequence[str], place: int, others: Sequence[int]
) -> _Columns:
    called = [other for other in others if names[other] in CLASS_HEADERS]
    if not called and len(others) > 1:
        which = shorten(", ".join(header[other] or "(no name)" for other in others))
        raise ImageError(
            f"{_what(path)}: its columns {which} do not tell the class of each image, expected one "
            "column called label. Call it so, or keep the path alone to measure agreement only"
        )
    chosen = tuple(called or others)
    left = [header[other] for other in others if other not in chosen and header[other]]
    notes = (f"{_what(path)}: columns {shorten(', '.join(left))} are not used.",) if left else ()
    return _Columns(place, chosen, len(names), notes, needs_names=not called)


def _refuse_several(path: Path, columns: Sequence[str]) -> None:
    if len(columns) > 1:
        raise ImageError(
            f"{_what(path)}: columns {shorten(' and '.join(columns))} both hold paths of images, "
            "expected one. Keep the one that is meant"
        )


def _match_columns(
    path: Path,
    some: Sequence[Sequence[tuple[int, str]]],
    wanted: Wanted,
    columns: _Columns,
) -> tuple[list[int], tuple[str, ...]]:
    """The class index of each image by the columns of classes that are the model's.

    Several, such as index and name, have to agree; one that names no class of the model is left.

    Raises:
        ImageError: no column is of the model's classes, or two differ.
    """
    matched, errors = [], []
    for words in some:
        try:
            matched.append(_match(path, words, wanted, needs_names=columns.needs_names))
        except ImageError as error:
            errors.append(error)
    if not matched:
        raise errors[0]
    classes, notes = matched[0]
    for others, _ in matched[1:]:
        if others != classes:
            row = next(
                i for i, pair in enumerate(zip(classes, others, strict=True)) if len({*pair}) > 1
            )
            raise ImageError(
                f"{_what(path)}, line {some[0][row][0]}: its columns of classes name class "
                f"{classes[row]} and class {others[row]}. Keep the one that is the model's"
            )
    if errors:
        notes = (*notes, f"A column of classes is not used: {errors[0]}.")
    return classes, notes


def _match(
    path: Path, words: Sequence[tuple[int, str]], wanted: Wanted, *, needs_names: bool
) -> tuple[list[int], tuple[str, ...]]:
    """The class index of each of `words`, (line, class)."""
    first: dict[str, int] = {}
    for number, word in words:
        first.setdefault(word, number)
    naming = Naming(
        f"Classes in {path}",
        _namer(path, first),
        lambda: "Write the label, or its class index from 0 on",
    )
    keys = {key_of(label) for label in wanted.labels}
    if needs_names and not any(key_of(word) in keys for word in first):
        raise ImageError(
            f"{_what(path)}: its columns do not tell which one holds the classes. "
            "Call it label, and the other one path"
        )
    matched = match_names(list(first), wanted.labels, naming, num_classes=wanted.num_classes)
    return [matched.indices[word] for _, word in words], matched.notes


def _namer(path: Path, first: dict[str, int]) -> Callable[[str], str]:
    return lambda word: f"{_what(path)}, line {first[word]}: label {shorten(word)!r}"
