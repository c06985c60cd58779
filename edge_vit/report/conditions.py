"""All that numbers were taken under: the model, the data, the run, the machine."""

from __future__ import annotations

from edge_vit.measure.results import VerifyReport
from edge_vit.report.grids import Grid, place_of, turns_of
from edge_vit.report.wording import MISSING, YES_NO, count, short_digest
from edge_vit.spec import ModelSpec
from edge_vit.spec.table import CalibrationTable
from edge_vit.tasks import task_of
from edge_vit.values import to_json


def conditions(report: VerifyReport, table: CalibrationTable | None) -> tuple[Grid, ...]:
    """Return all that the numbers were taken under, one grid per subject."""
    data = {"bundle": report.bundle, "digest of the bundle": report.bundle_digest}
    for accuracy in report.accuracy[:1]:
        data |= {
            "images": f"{accuracy.num_images} of {accuracy.data}",
            "labelled": str(accuracy.num_labelled),
            "digest of the images": accuracy.data_digest,
            "also calibrated on": str(accuracy.num_calibrated_on),
            "reference": accuracy.reference,
        }
    if table:
        data["calibrated on"] = count(table.num_images, "image")
    run = [
        (
            place_of(r),
            f"batch {r.batch_size}, {count(r.threads, 'thread')}, {r.warmup} warm-up and "
            f"{r.iterations} timed runs, {turns_of(r)}",
        )
        for r in report.latency
    ]
    machine = report.environment
    facts = {
        "device": machine.device,
        "instruction sets": ", ".join(machine.instruction_sets) or "none of those that matter",
        "logical cores": str(machine.num_cores),
        "memory": f"{machine.memory_gib:.1f} GiB",
        "GPU": machine.gpu,
        "compute capability": machine.compute_capability,
        "driver": machine.driver,
        "CUDA": machine.cuda,
        "TensorRT": machine.tensorrt,
        "Jetson Linux": machine.l4t,
        "power mode": machine.power_mode,
        "clocks locked": YES_NO[machine.clocks_locked],
        "system": machine.system,
        "Python": machine.python,
        **machine.packages,
    }
    return (
        Grid("Data", ("fact", "value"), tuple(data.items()), 2),
        Grid("Run", ("fact", "value"), tuple(run), 2),
        facts_grid("Machine", facts),
        model_grid(report.model),
        preprocess_grid(report.model),
    )


def facts_grid(title: str, facts: dict[str, str]) -> Grid:
    """Return one row per fact that is known."""
    rows = tuple((name, value) for name, value in facts.items() if value)
    return Grid(title, ("fact", "value"), rows, 2)


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
        *_text_rows(spec),
        ("blocks", str(spec.depth) if spec.depth else "none found"),
        ("heads", str(spec.num_heads or "not known")),
        ("width", str(spec.embed_dim or "not known")),
        ("tokens", str(spec.num_tokens or "not known")),
        ("licence of the weights", spec.licence or "unknown"),
    )
    return Grid("Model", ("fact", "value"), rows, 2)


def _text_rows(spec: ModelSpec) -> tuple[tuple[str, str], ...]:
    if spec.text is None:
        return ()
    digest = f"SHA-256 {short_digest(spec.text.digest)}"
    return ("prompts", "; ".join(spec.text.prompts)), ("text matrix", digest)


def preprocess_grid(spec: ModelSpec) -> Grid:
    """Return how an image becomes the model's input, in timm's words; or its other inputs."""
    if not spec.takes_images:
        inputs = [(tensor.name, str(tensor)) for tensor in spec.inputs]
        sampling = [] if spec.sampling is None else to_json(spec.sampling).items()
        facts = [(name.replace("_", " "), str(value)) for name, value in sampling]
        return Grid("Inputs", ("input", "value"), (*inputs, *facts), 2)
    preprocess = spec.preprocess
    rows = (
        ("image_size", " × ".join(map(str, preprocess.image_size)) + " (height × width)"),
        ("interpolation", preprocess.interpolation),
        ("crop_pct", str(preprocess.crop_pct)),
        ("crop_mode", preprocess.crop_mode),
        ("mean", ", ".join(f"{value:g}" for value in preprocess.mean)),
        ("std", ", ".join(f"{value:g}" for value in preprocess.std)),
        *((("clip", str(preprocess.clip)),) if preprocess.clip else ()),
    )
    return Grid("Preprocessing", ("option", "value"), rows, 2)
