"""Packages of an extra: imported when first needed, with the install line when absent."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
from types import ModuleType

from edge_vit.errors import MissingDependencyError

# top-level module -> (distribution name, extra that installs it)
_EXTRAS = {
    "onnxruntime": ("onnxruntime", "cpu"),
    "torch": ("torch", "export"),
    "onnx": ("onnx", "export"),
    "onnx_ir": ("onnx-ir", "export"),
    "onnxscript": ("onnxscript", "export"),
    "safetensors": ("safetensors", "export"),
    "timm": ("timm", "zoo"),
    "torchvision": ("torchvision", "zoo"),
    "transformers": ("transformers", "zoo"),
    "huggingface_hub": ("huggingface_hub", "zoo"),
    "sklearn": ("scikit-learn", "train"),
    "openvino": ("openvino", "openvino"),
    "tensorrt": ("tensorrt", "tensorrt"),
    "tensorrt_rtx": ("tensorrt-rtx-cu13", "rtx"),
    "nvidia.cuda_runtime": ("nvidia-cuda-runtime-cu12", "cuda12"),
    "nvidia.cu13": ("nvidia-cuda-runtime", "cuda13"),
    "pynvml": ("nvidia-ml-py", "nvml"),
    "av": ("av", "camera"),
    "paho": ("paho-mqtt", "mqtt"),
    "ray": ("ray", "ray"),
    "jinja2": ("jinja2", "report"),
    "matplotlib": ("matplotlib", "report"),
    "faster_coco_eval": ("faster-coco-eval", "detection"),
}

# top-level modules that hold nothing themselves -> one that loads what the package is for
_PROOFS = {"paho": "paho.mqtt.client"}


def require(module: str, purpose: str) -> ModuleType:
    """Return the imported `module`, such as ``safetensors.torch``.

    `purpose` is what needs it, as the user would say it: ``"exporting a timm: model"``.

    Raises:
        MissingDependencyError: it is not installed; the message holds the install line.
    """
    top = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != top:
            raise  # the package is there; something that it imports is not
        raise _missing(top, purpose) from None


def refuse_missing(module: str, purpose: str) -> None:
    """Refuse as `require` does, before the work for which `module` is imported at its end."""
    try:
        found = importlib.util.find_spec(module)
    except ValueError:
        found = None
    if found is None:
        raise _missing(module, purpose)


def _missing(module: str, purpose: str) -> MissingDependencyError:
    distribution, extra = _EXTRAS.get(module, (module, ""))
    package = f"'edge-vit[{extra}]'" if extra else distribution
    return MissingDependencyError(
        f"{purpose} needs {distribution}, which is not installed. Run: pip install {package}"
    )


def module_of(distribution: str) -> str:
    """Return a module that shows whether `distribution` works once it is imported."""
    tops = {name: module for module, (name, _) in _EXTRAS.items()}
    top = tops.get(distribution, distribution.replace("-", "_"))
    return _PROOFS.get(top, top)


def extra_of(module: str) -> str:
    """Return the extra that installs the top-level `module`; "" where none does."""
    return _EXTRAS.get(module, ("", ""))[1]


def installed_versions(*distributions: str) -> dict[str, str]:
    """Return the version of edge-vit and of each of `distributions` that is installed."""
    versions = {"edge-vit": "source tree"}
    for name in ("edge-vit", *distributions):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
