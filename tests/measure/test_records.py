import numpy as np
import pytest

from edge_vit.errors import SpecError
from edge_vit.measure.records import OUTCOME, RECORD, digest_of_images, pack, unpack


def _images(*digests):
    rows = np.zeros(len(digests), RECORD)
    for row, digest in enumerate(digests):
        rows["digest"][row] = np.frombuffer(bytes.fromhex(digest * 32), np.uint8)
    return rows


def test_images_have_the_same_digest_in_any_order():
    first, other = _images("aa", "bb", "cc"), _images("cc", "aa", "bb")
    assert digest_of_images(first) == digest_of_images(other)


@pytest.mark.parametrize("other", [["aa"], ["aa", "aa", "bb"], ["aa", "bc"], []])
def test_other_images_have_another_digest(other):
    assert digest_of_images(_images(*other)) != digest_of_images(_images("aa", "bb"))


def test_packing_loses_nothing_and_a_cut_record_is_refused():
    rows = _images("aa", "bb")
    assert (unpack(pack(rows.tobytes()), RECORD) == rows).all()
    with pytest.raises(SpecError, match="which end within a record"):
        unpack(pack(b"12345"), OUTCOME)
    with pytest.raises(SpecError, match="records of images"):
        unpack("?", OUTCOME)
