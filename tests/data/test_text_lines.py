"""Text files in any Unicode encoding."""

from __future__ import annotations

import codecs

import pytest

from edge_vit.data.text_lines import decode_text, read_text, split_lines

TEXT = "photos/1.png,Käse\nphotos/2.png,猫\n"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_reads_every_encoding_of_unicode(tmp_path, encoding):
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT.encode(encoding))
    assert read_text(path) == TEXT


def test_reads_big_endian_with_its_mark():
    assert decode_text(codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be")) == TEXT
    assert decode_text(codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be")) == TEXT


def test_bytes_of_file_names_survive_where_they_are_wanted():
    assert decode_text(b"caf\xe9.png", "surrogateescape").encode("utf-8", "surrogateescape") == (
        b"caf\xe9.png"
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"caf\xe9.png", "byte 3 is no UTF-8"),
        (b"\xff\xfe\x00", "no UTF-16"),
        (b"\x89PNG\0\0\0\x01\x02\x03", "it is no text"),
        (b"a\0b" * 99, "it is no text"),
    ],
)
def test_refuses_what_is_no_text(data, message):
    with pytest.raises(ValueError, match=message):
        decode_text(data)


def test_lines_end_where_editors_end_them():
    assert split_lines("a\r\nb\rc\u2028d\x85e\n\nf\n") == ["a", "b", "c\u2028d\x85e", "", "f"]
    assert split_lines("") == []
