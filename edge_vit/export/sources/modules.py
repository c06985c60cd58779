"""What a factory or a library returns -> the plain torch module in it, or why there is none."""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from edge_vit.errors import SpecError

_WRAPPERS = {
    "OptimizedModule": "_orig_mod",  # torch.compile
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
    "AveragedModel": "module",  # torch.optim.swa_utils
    "ModelEma": "ema",  # timm
    "ModelEmaV2": "module",
    "ModelEmaV3": "module",
    "EMA": "ema_model",  # ema_pytorch
}
"""Class name of a wrapper -> its attribute that holds the model; of averages, the averaged one."""

_AVERAGE = re.compile(r"(?:^|[a-z_])(?:EMA|Ema)(?![a-z])|Averag|^SWA")
_AVERAGED = ("ema", "module", "ema_model", "averaged_model", "shadow")
"""Class names of other averages, and what they call the averaged model."""

_QUANTIZED = (
    "torch.ao.nn.quantized",
    "torch.ao.nn.intrinsic.quantized",
    "torch.nn.quantized",
    "torchao",
    "bitsandbytes",
    "optimum.quanto",
    "auto_gptq",
    "awq",
)
"""Packages whose layers and tensors are quantized."""


def plain_module(value: object, address: str) -> nn.Module:
    """Return the torch module in `value`: without compilers, data parallelism and averages.

    Modules inside it are freed of them as well.
    """
    module = _unwrap(value)
    if not isinstance(module, nn.Module):
        raise SpecError(f"{address} returned {_describe(value)}, expected a torch.nn.Module")
    _free_children(module, set())
    if refusal := _refusal(module):
        raise SpecError(f"{address}: {refusal}")
    for inner in module.modules():
        _forget_compilation(inner)
    return module


def _unwrap(value: object) -> object:
    """Return what the wrappers around `value` hold."""
    while True:
        names = {cls.__name__ for cls in type(value).__mro__}
        places = [place for name, place in _WRAPPERS.items() if name in names]
        if any(map(_AVERAGE.search, names)):
            places += _AVERAGED
        held = (getattr(value, place, None) for place in places)
        inner = next((found for found in held if isinstance(found, nn.Module)), None)
        if inner is None and isinstance(value, nn.Module):
            children = list(value.children())
            runs = getattr(type(value), "forward", None) is not nn.Module.forward
            if not runs and len(children) == 1:
                inner = children[0]  # it cannot run itself: somebody's own kind of average
        if inner is None or inner is value:
            return value
        value = inner


def _free_children(module: nn.Module, seen: set[nn.Module]) -> None:
    if module in seen:
        return
    seen.add(module)
    for name, child in module.named_children():
        inner = child if isinstance(child, nn.ModuleList | nn.ModuleDict) else _unwrap(child)
        assert isinstance(inner, nn.Module)
        module._modules[name] = inner
        _free_children(inner, seen)


def _forget_compilation(module: nn.Module) -> None:
    """Let `module` run its own forward, not what torch.compile has put in its place."""
    module._compiled_call_impl = None
    forward: Callable[..., Any] = module.forward
    original = getattr(forward, "_torchdynamo_orig_callable", None)
    if original is not None:
        is_bound = isinstance(original, types.MethodType)
        module.forward = original if is_bound else types.MethodType(original, module)


def _describe(value: object) -> str:
    """Return what `value` is, and what it may have been meant for."""
    if isinstance(value, type) and issubclass(value, nn.Module):
        return f"the class {value.__name__}, not a model of it"
    if isinstance(value, dict) and value and all(isinstance(v, Tensor) for v in value.values()):
        return "a dict of weights (build the model, load them into it)"
    if isinstance(value, torch.export.ExportedProgram):
        return "an ExportedProgram (return its module())"
    if isinstance(value, tuple | list):
        kinds = ", ".join(type(item).__name__ for item in value)
        return f"a {type(value).__name__} of {kinds}"
    return f"a {type(value).__name__}"


def _refusal(module: nn.Module) -> str:
    """Return which layer or tensor of `module` cannot be exported, and what to do; empty: none."""
    quantized = "is quantized already. Give the float model; edge-vit quantizes it"
    for name, inner in module.named_modules():
        what = f"{name or 'the model'} ({type(inner).__name__})"
        if isinstance(inner, torch.jit.ScriptModule):
            return (
                f"{what} is TorchScript, which cannot be traced again. Return the "
                "torch.nn.Module that it was made of, or write it as an ONNX file and give that"
            )
        if type(inner).__module__.startswith(_QUANTIZED):
            return f"{what} {quantized}"
    tensors = [*module.named_parameters(), *module.named_buffers()]
    for name, tensor in tensors:
        if is_lazy(tensor):
            return (
                f"{name} has no size yet, its layer is lazy. Run the model once on an "
                "image in the factory"
            )
        if tensor.is_quantized or type(tensor.data).__module__.startswith(_QUANTIZED):
            return f"{name} {quantized}"
        if tensor.is_complex() or tensor.layout != torch.strided:
            kind = "complex" if tensor.is_complex() else str(tensor.layout).replace("torch.", "")
            return f"{name} is {kind}, expected dense real numbers"
    on_meta = [name for name, tensor in tensors if tensor.is_meta]
    if on_meta:
        return (
            f"{len(on_meta)} of {len(tensors)} tensors are on the meta device and hold "
            f"no numbers, such as {on_meta[0]}. Build the model on the CPU, or load its weights "
            "with load_state_dict(..., assign=True)"
        )
    return ""
