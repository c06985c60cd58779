"""CIFAR-100's archive: packed, unpacked, damaged, and over the network."""

import hashlib
import http.server
import io
import tarfile
import threading
from dataclasses import replace

import numpy as np
import pytest

from edge_vit.errors import ArtifactError
from edge_vit.training.cifar import (
    CIFAR100,
    Archive,
    download,
    holds_cifar100,
    parse_records,
    read_cifar100,
)

FILES = {
    "train.bin": bytes(range(256)) * 12 + bytes(2),
    "test.bin": bytes(3074),
    "fine_label_names.txt": b"apple\nbear\n",
}


def make_archive(files, folder="cifar-100-binary/"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(folder + name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def write_files(folder):
    folder.mkdir(exist_ok=True)
    for name, data in FILES.items():
        (folder / name).write_bytes(data)


@pytest.mark.parametrize(
    "put",
    [
        lambda root: (root / CIFAR100.file_name).write_bytes(make_archive(FILES)),
        lambda root: write_files(root),
        lambda root: write_files(root / "cifar-100-binary"),
    ],
    ids=["archive", "unpacked", "unpacked-in-folder"],
)
def test_reads_the_three_files(tmp_path, put):
    assert not holds_cifar100(tmp_path)
    put(tmp_path)
    assert holds_cifar100(tmp_path)
    files = read_cifar100(tmp_path)
    assert (files.train, files.test, files.label_names) == tuple(FILES.values())


def test_nothing_of_an_archive_is_extracted(tmp_path):
    archive = make_archive(FILES, folder="../../evil/")
    root = tmp_path / "a" / "b"
    root.mkdir(parents=True)
    (root / CIFAR100.file_name).write_bytes(archive)
    assert read_cifar100(root).test == FILES["test.bin"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [root / CIFAR100.file_name]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"not gzip", "is damaged"),
        (make_archive(FILES)[:200], "is damaged"),
        (make_archive({"readme": b""}), "it holds no train.bin"),
    ],
    ids=["no-archive", "truncated", "another-archive"],
)
def test_refuses_a_damaged_archive(tmp_path, data, message):
    (tmp_path / CIFAR100.file_name).write_bytes(data)
    with pytest.raises(ArtifactError, match=message):
        read_cifar100(tmp_path)


def test_refuses_a_member_that_claims_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr("edge_vit.training.cifar._MAX_MEMBER_BYTES", 3000)
    (tmp_path / CIFAR100.file_name).write_bytes(make_archive(FILES))
    with pytest.raises(ArtifactError, match=r"train\.bin has 3074 bytes, expected at most 3000"):
        read_cifar100(tmp_path)


def test_says_where_to_put_a_missing_archive(tmp_path):
    with pytest.raises(ArtifactError, match=f"Put cifar-100-binary.tar.gz .* into {tmp_path}"):
        read_cifar100(tmp_path)


def test_parses_planes_into_pixels():
    red, green, blue = (np.arange(1024) % 256, np.full(1024, 7), np.full(1024, 9))
    record = np.concatenate([[3, 42], red, green, blue]).astype(np.uint8).tobytes()
    images, labels = parse_records(record * 2, 100, "train.bin")
    assert images.shape == (2, 32, 32, 3)
    assert labels.tolist() == [42, 42]
    assert images[1, 1, 5].tolist() == [37, 7, 9]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "has 0 bytes, expected a multiple of 3074"),
        (bytes(3073), "has 3073 bytes"),
        (bytes([0, 5]) + bytes(3072), "has label 5, expected below 2"),
    ],
    ids=["empty", "cut", "label"],
)
def test_refuses_records_that_cannot_be(data, message):
    with pytest.raises(ArtifactError, match=message):
        parse_records(data, 2, "test.bin")


@pytest.fixture
def published():
    """An archive of 2 MB on a web server of this machine."""
    body = make_archive({"train.bin": np.random.default_rng(0).bytes(2_000_000)})

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/files/small.tar.gz"
        yield Archive(url, len(body), hashlib.md5(body).hexdigest())
        server.shutdown()
        thread.join()


def test_downloads_and_tells_of_every_byte(tmp_path, published, recorded_progress):
    path = download(published, tmp_path / "new", recorded_progress)
    assert path == tmp_path / "new" / "small.tar.gz"
    assert hashlib.md5(path.read_bytes()).hexdigest() == published.md5
    assert recorded_progress.steps == {
        "downloading small.tar.gz (bytes)": (published.num_bytes, published.num_bytes)
    }


@pytest.mark.parametrize(
    "wrong", [{"md5": "0" * 32}, {"num_bytes": 5}, {"num_bytes": 10**9}], ids=str
)
def test_keeps_nothing_of_a_damaged_download(tmp_path, published, wrong):
    with pytest.raises(ArtifactError, match=r"got .* bytes with MD5 .*, expected"):
        download(replace(published, **wrong), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_says_where_to_put_the_file(tmp_path):
    nowhere = Archive("http://127.0.0.1:9/a.tar.gz", 1, "")
    with pytest.raises(ArtifactError, match="cannot download") as caught:
        download(nowhere, tmp_path)
    assert f"Put a.tar.gz (from http://127.0.0.1:9/a.tar.gz) into {tmp_path}" in str(caught.value)
