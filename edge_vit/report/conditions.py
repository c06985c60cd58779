"""All that numbers were taken under: the model, the data, the run, the machine."""

from __future__ import annotations

from collections.abc import Sequence

from edge_vit.measure.results import Environment, LatencyReport, VerifyReport
from edge_vit.report.grids import Grid, turns_of
from edge_vit.report.wording import MISSING, count
from edge_vit.spec import ModelSpec
from edge_vit.spec.table import CalibrationTable
from edge_vit.tasks import task_of


def conditions(report: VerifyReport, table: CalibrationTable | None) -> tuple[Grid, ...]:
    """Return all that the numbers were taken under, one grid per subject."""
    return (
        Grid("Data", ("fact", "value"), _data_rows(report, table), 2),
        Grid("Run", ("fact", "value"), _run_rows(report.latency), 2),
        Grid("Machine", ("fact", "value"), _machine_rows(report), 2),
        model_grid(report.model),
        preprocess_grid(report.model),
    )


def _data_rows(report: VerifyReport, table: CalibrationTable | None) -> tuple[tuple[str, str], ...]:
    rows = [("bundle", report.bundle), ("digest of the bundle", report.bundle_digest)]
    for accuracy in report.accuracy[:1]:
        rows += [
            ("images", f"{accuracy.num_images} of {accuracy.data}"),
            ("labelled", str(accuracy.num_labelled)),
            ("digest of the images", accuracy.data_digest),
            ("also calibrated on", str(accuracy.num_calibrated_on)),
            ("reference", accuracy.reference),
        ]
    if table:
        rows.append(("calibrated on", count(table.num_images, "image")))
    return tuple(rows)


def _run_rows(reports: Sequence[LatencyReport]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (
            f"{r.precision} {r.backend}",
            f"batch {r.batch_size}, {count(r.threads, 'thread')}, {r.warmup} warm-up and "
            f"{r.iterations} timed runs, {turns_of(r)}",
        )
        for r in reports
    )


def _machine_rows(report: VerifyReport) -> tuple[tuple[str, str], ...]:
    machine = report.environment
    return (
        ("device", machine.device),
        ("instruction sets", ", ".join(machine.instruction_sets) or "none of those that matter"),
        ("logical cores", str(machine.num_cores)),
        ("memory", f"{machine.memory_gib:.1f} GiB"),
        *((name, value) for name, value in _gpu_rows(machine) if value),
        ("system", machine.system),
        ("Python", machine.python),
        *machine.packages.items(),
    )


def _gpu_rows(machine: Environment) -> tuple[tuple[str, str], ...]:
    """What a machine with a GPU tells beside; "" for what it does not."""
    return (
        ("GPU", machine.gpu),
        ("compute capability", machine.compute_capability),
        ("driver", machine.driver),
        ("CUDA", machine.cuda),
        ("TensorRT", machine.tensorrt),
        ("Jetson Linux", machine.l4t),
        ("power mode", machine.power_mode),
        ("clocks locked", {True: "yes", False: "no", None: ""}[machine.clocks_locked]),
    )


def model_grid(spec: ModelSpec) -> Grid:
    """Return the facts of the model, one per row."""
    labels = ", ".join(spec.labels[:5]) + (" …" if len(spec.labels) > 5 else "")
    rows = (
        ("name", spec.name),
        ("source", spec.source),
        ("task", spec.task),
        *((("activation", str(spec.activation)),) if spec.gives_probabilities else ()),
        *((("threshold", f"{spec.threshold:g}"),) if task_of(spec).has_threshold else ()),
        *(("input", f"{tensor.name}: {tensor}") for tensor in spec.inputs),
        *(("output", f"{tensor.name}: {tensor}") for tensor in spec.outputs),
        ("labels", f"{len(spec.labels)}: {labels}" if spec.labels else MISSING),
        ("blocks", str(spec.depth) if spec.depth else "none found"),
        ("heads", str(spec.num_heads or "not known")),
        ("width", str(spec.embed_dim or "not known")),
        ("tokens", str(spec.num_tokens or "not known")),
        ("licence of the weights", spec.licence or "unknown"),
    )
    return Grid("Model", ("fact", "value"), rows, 2)


def preprocess_grid(spec: ModelSpec) -> Grid:
    """Return how an image becomes the model's input, in timm's words."""
    preprocess = spec.preprocess
    rows = (
        ("image_size", " × ".join(map(str, preprocess.image_size)) + " (height × width)"),
        ("interpolation", preprocess.interpolation),
        ("crop_pct", str(preprocess.crop_pct)),
        ("crop_mode", preprocess.crop_mode),
        ("mean", ", ".join(f"{value:g}" for value in preprocess.mean)),
        ("std", ", ".join(f"{value:g}" for value in preprocess.std)),
    )
    return Grid("Preprocessing", ("option", "value"), rows, 2)
