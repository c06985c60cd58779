"""A small module and checkpoints of it."""

from __future__ import annotations

import torch
from torch import nn

from edge_vit.export.checkpoint import fill


class Net(nn.Module):
    """Two layers, a norm, a head and a buffer, names of several lengths."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 2)


torch.manual_seed(0)
WEIGHTS = {
    name: value if value.dtype == torch.long else torch.randn(value.shape)
    for name, value in Net().state_dict().items()
}
OTHERS = {
    name: value if value.dtype == torch.long else value + 1 for name, value in WEIGHTS.items()
}
ORDER = [name for name, _ in Net().named_parameters()]
BODY = {name: value for name, value in WEIGHTS.items() if not name.startswith("head.")}
HEAD = {name: value for name, value in WEIGHTS.items() if name.startswith("head.")}


def under(prefix, weights=WEIGHTS):
    return {prefix + name: value for name, value in weights.items()}


def net_of(weights):
    net = Net()
    net.load_state_dict(weights)
    return net


def take(tmp_path, content, key=None):
    """Return the model that `content` was loaded into, and what was said of it."""
    path = tmp_path / "last.ckpt"
    torch.save(content, path)
    net = Net()
    return net.state_dict(), fill(net, path, key), net


def holds(found, weights):
    return all(torch.equal(found[name], weights[name]) for name in WEIGHTS)
