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
from edge_vit.training.datasets import (
    CIFAR100,
    Archive,
    download,
    find_cifar,
    load_cifar,
    open_dataset,
)


def _record(label):
    red, green, blue = (np.arange(1024) % 256, np.full(1024, 7), np.full(1024, 9))
    return np.concatenate([[3, label], red, green, blue]).astype(np.uint8).tobytes()


FILES = {
    "train.bin": _record(1) + _record(0),
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
def test_reads_both_parts(tmp_path, put):
    assert find_cifar(tmp_path) is None
    put(tmp_path)
    found = load_cifar(find_cifar(tmp_path))
    assert found.labels == ("apple", "bear")
    assert (found.train_images.shape, found.train_labels.tolist()) == ((2, 32, 32, 3), [1, 0])
    assert found.train_images[0, 1, 5].tolist() == [37, 7, 9]
    assert (found.test_labels.tolist(), found.test_images.any()) == ([0], False)


def test_reads_the_batches_of_cifar_10(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "batches.meta.txt").write_text("apple\nbear\n")
    (folder / "test_batch.bin").write_bytes(bytes(3073))
    for number in range(1, 6):
        (folder / f"data_batch_{number}.bin").write_bytes(bytes([number % 2]) + bytes(3072))
    assert load_cifar(find_cifar(tmp_path)).train_labels.tolist() == [1, 0, 1, 0, 1]
    assert open_dataset(str(tmp_path), 32).name == "cifar2"


def test_nothing_of_an_archive_is_extracted(tmp_path):
    archive = make_archive(FILES, folder="../../evil/cifar-100-binary/")
    root = tmp_path / "a" / "b"
    root.mkdir(parents=True)
    (root / CIFAR100.file_name).write_bytes(archive)
    assert load_cifar(find_cifar(root)).test_labels.tolist() == [0]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [root / CIFAR100.file_name]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"not gzip", "is damaged"),
        (make_archive(FILES)[:200], "is damaged"),
        (make_archive({"readme": b""}), "holds no CIFAR images to train on"),
        (make_archive(FILES | {"train.bin": b""}), r"train\.bin is damaged: 0 bytes are no whole"),
        (make_archive(FILES | {"test.bin": bytes(3073)}), r"test\.bin is damaged: 3073 bytes"),
        (
            make_archive(FILES | {"test.bin": bytes([0, 5]) + bytes(3072)}),
            r"test\.bin is damaged: a class is none of the 2",
        ),
    ],
    ids=["no-archive", "truncated", "another-archive", "empty", "cut", "label"],
)
def test_refuses_a_damaged_archive(tmp_path, data, message):
    path = tmp_path / CIFAR100.file_name
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=message) as caught:
        load_cifar(path)
    assert f"Put {path.name} (from {CIFAR100.url}) into {tmp_path}" in str(caught.value)


def test_refuses_a_member_that_claims_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr("edge_vit.data.cifar._MAX_BYTES", 3000)
    path = tmp_path / CIFAR100.file_name
    path.write_bytes(make_archive(FILES))
    with pytest.raises(ArtifactError, match="holds no CIFAR images to train on"):
        load_cifar(path)


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
