import json

import numpy as np
import pytest
from graph_files import HALF_PROOF, ONNX_FILES

from edge_vit.bundle import TABLE, Bundle, digest_of, draft_bundle
from edge_vit.bundle.record import HalfProof
from edge_vit.data.images import ArraySource
from edge_vit.data.preprocess import digest
from edge_vit.errors import ArtifactError, BackendError, SpecError
from edge_vit.measure import verify as verify_module
from edge_vit.measure.limits import Limits
from edge_vit.measure.results import VerifyReport
from edge_vit.measure.verify import verify
from edge_vit.runtime.fake import FakeSession
from edge_vit.runtime.session import SessionOptions, run_batch
from edge_vit.spec.table import RECIPES, CalibrationTable
from edge_vit.values import from_json, to_json


@pytest.fixture
def spec(make_model):
    return make_model()


@pytest.fixture
def images():
    return np.random.default_rng(5).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def source(spec, images):
    return _labelled_by_reference(spec, images)


@pytest.fixture
def many(spec):
    images = np.random.default_rng(6).integers(0, 256, (660, 8, 8, 3), dtype=np.uint8)
    return _labelled_by_reference(spec, images)


def _labelled_by_reference(spec, images):
    return ArraySource(images, run_batch(FakeSession(spec), images).argmax(axis=1).tolist())


@pytest.fixture
def make_bundle(tmp_path, spec):
    def make(*precisions, calibrated_on=None):
        path = tmp_path / "tiny.edgevit"
        with draft_bundle(path, spec) as draft:
            bundle = draft.add({ONNX_FILES[p]: p.encode() for p in precisions})
            if calibrated_on is not None:
                digests = tuple(sorted(map(digest, calibrated_on)))
                table = CalibrationTable(RECIPES["minmax"], digest_of(b"fp32"), {}, digests)
                bundle.add({TABLE: table.to_bytes()})
        return Bundle.open(path)

    return make


@pytest.fixture
def fake_backend(monkeypatch, spec):
    """Sessions as slow and as wrong as asked: ``fake_backend(int8={"delay_ms": 1})``."""
    opened = []

    def use(**behaviour):
        def open_fake(bundle, precision, backend, options, progress=None):
            session = FakeSession(
                spec, precision, threads=options.num_threads, **behaviour.get(precision, {})
            )
            opened.append(session)
            return session

        monkeypatch.setattr(verify_module, "open_session", open_fake)
        return opened

    return use


FAST, SLOW = {"delay_ms": 0}, {"delay_ms": 8}


@pytest.mark.uncounted
@pytest.mark.parametrize(
    ("behaviour", "num_images", "exit_status", "recommended", "words"),
    [
        ({"fp32": SLOW, "int8": FAST}, None, 0, "int8", "Ship INT8: "),
        (
            {"fp32": SLOW, "int8": {**FAST, "noise": 0.5, "seed": 1}},
            50,
            3,
            "fp32",
            "Do not ship INT8: accuracy drop",
        ),
        ({"fp32": FAST, "int8": SLOW}, 50, 3, "fp32", "it is slower than FP32"),
        ({"fp32": SLOW, "int8": FAST}, 50, 5, "fp32", "about 970 images like these would decide"),
    ],
    ids=["int8 is better", "int8 is inaccurate", "int8 is slower", "too few images"],
)
def test_says_what_to_ship(
    make_bundle, fake_backend, many, behaviour, num_images, exit_status, recommended, words
):
    fake_backend(**behaviour)
    bundle = make_bundle("fp32", "int8", calibrated_on=[])
    report = verify(bundle, many, iterations=40, num_images=num_images)
    assert report.verdict.exit_status == exit_status
    assert report.verdict.recommended == recommended
    assert words in report.verdict.sentence


def test_measures_every_precision_in_one_run_and_closes_the_sessions(
    make_bundle, fake_backend, source
):
    opened = fake_backend()
    bundle = make_bundle("fp32", "fp16", "int8", calibrated_on=[])
    report = verify(bundle.path, source, options=SessionOptions(threads=2), iterations=11)
    assert [r.precision for r in report.accuracy] == ["fp32", "fp16", "int8"]
    assert [r.precision for r in report.latency] == ["fp32", "fp16", "int8"]
    assert {r.threads for r in report.latency} == {2}
    assert {r.iterations for r in report.latency} == {11}
    assert report.latency[2].interleaved_with == ("fp32", "fp16")
    assert {gate.precision for gate in report.verdict.gates} == {"fp16", "int8"}
    assert report.model == bundle.spec
    assert report.bundle == str(bundle.path)
    assert report.accuracy[0].data == "ArraySource"
    assert from_json(VerifyReport, json.loads(json.dumps(to_json(report)))) == report
    assert len(opened) == 12  # three for the answers, then each three times for the latency
    assert all(session._closed for session in opened)


def test_notes_what_a_reader_has_to_know(make_bundle, fake_backend, source, images):
    fake_backend()
    bundle = make_bundle("fp32", "fp16", "int8", calibrated_on=images[:7])
    report = verify(bundle, source, iterations=5)
    notes = "\n".join(report.notes)
    assert "tells calibration's images by their pixels alone" in notes
    (finding,) = [f for f in report.verdict.findings if f.name == "calibrated-on"]
    assert "7 of 50 different images were also calibrated on" in finding.sentence
    assert "p99 is not told: there were 5 timed runs" in notes
    assert "FP16 on a CPU is mostly float32" in notes
    assert "does not prove that nothing overflows there" in notes
    assert report.accuracy[0].data_digest in notes
    assert report.accuracy[2].num_calibrated_on == 7


def test_repeats_what_a_session_remarks(make_bundle, fake_backend, source, monkeypatch):
    fake_backend()
    monkeypatch.setattr(FakeSession, "remark", "Half of it was made up.")
    report = verify(make_bundle("fp32", "int8"), source, iterations=5)
    assert report.notes.count("Half of it was made up.") == 1
    for measured in report.accuracy:  # what `eval` writes too
        assert "Half of it was made up." in measured.notes


def test_says_that_fp16_was_proven(make_bundle, fake_backend, source):
    fake_backend()
    bundle = make_bundle("fp32", "fp16")
    bundle = bundle.add({HALF_PROOF: HalfProof(5, 0.999987, 0).to_bytes()})
    notes = "\n".join(verify(bundle, source, iterations=5).notes)
    assert "proven when it was written, node by node" in notes
    assert "5 images, cosine at least 0.999987 with fp32" in notes
    assert "does not prove" not in notes


def test_notes_nothing_that_is_not_so(make_bundle, fake_backend, source):
    fake_backend()
    report = verify(make_bundle("fp32", "int8", calibrated_on=[]), source, iterations=1000)
    assert [note.split()[0] for note in report.notes] == ["Evaluated"]


def test_notes_that_calibration_images_are_not_known(make_bundle, fake_backend, source):
    fake_backend()
    report = verify(make_bundle("fp32", "int8"), source, iterations=5)
    assert any("whether images were also calibrated on was not checked" in n for n in report.notes)


def test_takes_limits_and_a_part_of_the_images(make_bundle, fake_backend, source):
    fake_backend(fp32=SLOW)
    bundle = make_bundle("fp32", "int8", calibrated_on=[])
    report = verify(bundle, source, Limits(20, 0.01), iterations=40, num_images=40)
    assert {r.num_images for r in report.accuracy} == {40}
    assert {gate.limit for gate in report.verdict.gates} == {20, 0.01, 90, 10}
    assert report.verdict.outcome == "pass"


def test_takes_every_backend_that_this_machine_has(make_bundle, fake_backend, source, monkeypatch):
    opened = fake_backend(fp32=SLOW)
    monkeypatch.setattr(verify_module, "available_backends", lambda: ("openvino", "ort", "trt"))
    open_fake = verify_module.open_session

    def open_session(bundle, precision, backend, options, progress):
        if (backend, precision) == ("trt", "int8"):
            raise BackendError("no engine")
        session = open_fake(bundle, precision, backend, options)
        session.backend = backend
        return session

    monkeypatch.setattr(verify_module, "open_session", open_session)
    report = verify(make_bundle("fp32", "int8"), source, backend="all", iterations=5)
    places = [(r.backend, r.precision) for r in report.latency]
    assert places[:4] == [(b, p) for b in ("ort", "openvino") for p in ("fp32", "int8")]
    assert {r.reference for r in report.accuracy} == {"fp32 ort"}
    assert places[4:] == [("trt", "fp32")]
    assert report.notes[0] == "int8 on trt is left out: no engine"
    assert report.verdict.backend in ("ort", "openvino")
    assert all(session._closed for session in opened)


def test_refuses_where_no_backend_runs_the_reference(make_bundle, source, monkeypatch):
    def refuse(bundle, precision, backend, options, progress):
        raise BackendError("broken")

    monkeypatch.setattr(verify_module, "open_session", refuse)
    with pytest.raises(BackendError, match=r"no backend here runs fp32.*broken"):
        verify(make_bundle("fp32", "int8"), source, backend="all")


def test_guards_against_an_earlier_report(make_bundle, fake_backend, source):
    fake_backend(fp32=SLOW)
    bundle = make_bundle("fp32", "int8")
    earlier = verify(bundle, source, iterations=5)
    report = verify(bundle, source, iterations=5, earlier=earlier)
    gates = {gate.name: gate for gate in report.verdict.gates}
    assert gates["baseline-accuracy"].outcome == "pass"
    assert gates["baseline-speed"].value > 0


def test_refuses_a_bundle_with_nothing_to_verify(make_bundle, source):
    with pytest.raises(SpecError, match=r"nothing to verify: got fp32.*Run: edgevit export"):
        verify(make_bundle("fp32"), source)


def test_refuses_a_bundle_without_the_reference(make_bundle, source):
    with pytest.raises(ArtifactError, match=r"holds no onnx/fp32.onnx"):
        verify(make_bundle("int8"), source)


def test_a_fallback_stands_in_the_report(make_bundle, fake_backend, source, monkeypatch):
    fake_backend(fp32=SLOW)
    open_fake = verify_module.open_session

    def open_degraded(*args):
        session = open_fake(*args)
        session.degraded = "trt cannot run fp32 of x: no driver"
        return session

    monkeypatch.setattr(verify_module, "open_session", open_degraded)
    report = verify(make_bundle("fp32", "int8"), source, iterations=5)
    assert report.notes[0] == "Degraded: trt cannot run fp32 of x: no driver."
