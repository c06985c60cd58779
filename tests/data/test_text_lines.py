"""Text files in Unicode encodings."""

from __future__ import annotations

import codecs

import pytest

from edge_vit.data.text_lines import read_text, split_lines

TEXT = "photos/1.png,Käse\nphotos/2.png,猫\n"
BIG_ENDIAN = codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be")


@pytest.mark.parametrize(
    "data", [TEXT.encode(), TEXT.encode("utf-8-sig"), TEXT.encode("utf-16"), BIG_ENDIAN]
)
def test_reads_utf8_and_utf16_with_its_mark(tmp_path, data):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    assert read_text(path) == TEXT


def test_bytes_of_file_names_survive_where_they_are_wanted(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"caf\xe9.png")
    assert read_text(path, "surrogateescape").encode("utf-8", "surrogateescape") == b"caf\xe9.png"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"caf\xe9.png", "byte 3 is no UTF-8"),
        (b"\xff\xfe\x00", "no UTF-16"),
        (b"PNG\0\0\0\x01\x02\x03", "it is no text"),
        (TEXT.encode("utf-16-le"), "Save it as UTF-8"),
    ],
)
def test_refuses_what_is_no_text(tmp_path, data, message):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_text(path)


def test_lines_end_where_editors_end_them():
    assert split_lines("a\r\nb\rc\u2028d\x85e\n\nf\n") == ["a", "b", "c\u2028d\x85e", "", "f"]
    assert split_lines("") == []
