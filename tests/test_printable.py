"""Text from outside is shown, never obeyed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_vit.printable import escape_json, in_ascii, one_line, printable

ANY_TEXT = st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jcat", r"\x1b[2Jcat"),
        ("\x9b31mcat", r"\x9b31mcat"),  # CSI in one character
        ("a\rb\x08c\x7f", r"a\x0db\x08c\x7f"),
        ("cat\u202egpj.exe", r"cat\u202egpj.exe"),
        ("one\u2028two", r"one\u2028two"),
        ("phot\udce9.png", r"phot\xe9.png"),
        ("\ud800", r"\ud800"),
        ("a\U000e0041b", r"a\U000e0041b"),
        ("Käfer\t猫 👩‍💻\n", "Käfer\t猫 👩‍💻\n"),
    ],
)
def test_writes_out_what_a_terminal_would_obey(text, shown):
    assert printable(text) == shown


def test_a_cell_stays_on_its_line():
    assert one_line("cat\nok\t\x1b") == r"cat\nok\t\x1b"


@given(ANY_TEXT)
def test_what_is_shown_can_be_encoded_and_stays_as_it_is(text):
    shown = printable(text)
    shown.encode()
    assert printable(shown) == shown


@pytest.mark.parametrize("ascii_only", [False, True])
@given(value=st.dictionaries(ANY_TEXT, ANY_TEXT))
def test_json_parses_to_what_can_be_written(ascii_only, value):
    text = escape_json(json.dumps(value, ensure_ascii=False), ascii_only=ascii_only)
    text.encode("ascii" if ascii_only else "utf-8")
    assert text == printable(text)
    found = json.loads(text)
    assert len(found) == len({_without_halves(key) for key in value})
    assert set(found.values()) <= {_without_halves(item) for item in value.values()}


def _without_halves(text):
    return "".join(printable(c) if "\ud800" <= c <= "\udfff" else c for c in text)


def test_pictures_have_the_letters_of_their_font():
    assert in_ascii("2 × Tür, Straße, 木") == "2 x Tur, Strasse, ?"
