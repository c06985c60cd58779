"""Names of the pictures that ``edgevit run --draw`` writes."""

from __future__ import annotations

from edge_vit.cli.run import free_name


def test_pictures_of_images_called_alike_are_numbered():
    taken: set[str] = set()
    given = ("a", "b", "a", "a-2", "a")
    assert [free_name(each, taken) for each in given] == ["a", "b", "a-2", "a-2-2", "a-3"]
