"""A graph whose weights lie in a file runs as the whole does, and so does a part of it."""

from __future__ import annotations

import errno
import os

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from seeded import random_images, seeded_vit

from edge_vit.errors import ArtifactError
from edge_vit.graph.exact import map_weights, open_exact_session, read_with_weights
from edge_vit.graph.expose import expose
from edge_vit.graph.sites import find_sites


@pytest.fixture(scope="module")
def vit():
    return seeded_vit()


@pytest.fixture
def image():
    return {"images": random_images(1)}


def test_it_says_the_same(vit, image):
    whole = open_exact_session(vit.model, 1).run(None, image)[0]
    with map_weights(vit.model.SerializeToString()) as mapped:
        np.testing.assert_array_equal(open_exact_session(mapped, 1).run(None, image)[0], whole)


def test_copies_are_small_and_find_their_weights(vit, image):
    site = find_sites(ir.from_proto(vit.model).graph)[3]
    name = site.linear.input.name
    whole = open_exact_session(expose(vit.model, [name], only=True), 1).run(None, image)[0]
    with map_weights(vit.model.SerializeToString()) as mapped:
        part = expose(mapped, [name], only=True)
        assert part.ByteSize() < 0.25 * vit.model.ByteSize()
        np.testing.assert_array_equal(open_exact_session(part, 1).run(None, image)[0], whole)
        again = find_sites(ir.from_proto(part).graph)[3]
        np.testing.assert_array_equal(again.linear.weight, site.linear.weight)


def test_a_session_outlives_the_file(vit, image):
    with map_weights(vit.model.SerializeToString()) as mapped:
        session = open_exact_session(mapped, 1)
    whole = open_exact_session(vit.model, 1).run(None, image)[0]
    np.testing.assert_array_equal(session.run(None, image)[0], whole)


def test_nothing_is_left_behind(vit, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(RuntimeError), map_weights(vit.model.SerializeToString()):
        assert list(tmp_path.iterdir())
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_graph_that_holds_its_weights_is_in_no_folder(vit):
    data, folder = read_with_weights(vit.model)
    assert folder == ""
    assert onnx.load_from_string(data) == vit.model


def test_a_full_disk_is_one_line(vit, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("onnx.save", refuse)
    line = r"No space left on device. Set TMPDIR to a folder"
    with pytest.raises(ArtifactError, match=line), map_weights(vit.model.SerializeToString()):
        pass


def test_threads_that_wait_do_not_spin(vit):
    options = open_exact_session(vit.model, 2).get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
