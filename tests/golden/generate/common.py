"""Shared by the generators: seeded random tensors that are exact in f32, and the writing of cases."""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file

GOLDEN = Path(__file__).resolve().parent.parent


class Draw:
    """A seeded source of float64 tensors whose values are exactly representable in f32."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape, std=1.0, mean=0.0):
        sample = torch.randn(*shape, generator=self.generator, dtype=torch.float32)
        return (sample * std + mean).double()

    def uniform(self, *shape, low, high):
        sample = torch.rand(*shape, generator=self.generator, dtype=torch.float32)
        return (sample * (high - low) + low).double()

    def ids(self, *shape, vocab):
        return torch.randint(0, vocab, shape, generator=self.generator)

    def dense(self, rows, columns, gain=1.0):
        """A Linear weight [out, in] that keeps the variance of its input, times gain squared."""
        return self.normal(rows, columns, std=gain / math.sqrt(columns))


def write(path, tensors, config=None, keep=()):
    """Saves tensors, float64 as f32 except those named in `keep`; `config` goes into the metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        if tensor.dtype == torch.float64 and name not in keep:
            tensor = tensor.float()
        stored[name] = tensor.contiguous().clone()
    metadata = None if config is None else {"config": json.dumps(config, sort_keys=True)}
    save_file(stored, path, metadata=metadata)


def leaves(tensors):
    """Copies that require gradients."""
    return {name: tensor.detach().clone().requires_grad_(True) for name, tensor in tensors.items()}


def gradients(tensors, loss):
    """d loss / d tensor for every entry; zeros where the loss does not depend on it."""
    found = torch.autograd.grad(loss, list(tensors.values()), allow_unused=True)
    return {
        name: torch.zeros_like(tensor) if gradient is None else gradient
        for (name, tensor), gradient in zip(tensors.items(), found)
    }


def check_by_differences(loss_of, tensors, grads, step=1e-6, tolerance=2e-6, seed=0):
    """Central differences along one random direction per tensor, in float64; returns the worst relative error.

    The error is relative to |grad| |direction|, so that a direction that happens to be nearly orthogonal to the
    gradient does not fail by cancellation.
    """
    generator = torch.Generator().manual_seed(seed)
    worst = 0.0
    for name, tensor in tensors.items():
        direction = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        direction /= direction.norm()
        moved = {key: value.detach() for key, value in tensors.items()}
        with torch.no_grad():
            moved[name] = tensor.detach() + step * direction
            above = loss_of(moved)
            moved[name] = tensor.detach() - step * direction
            below = loss_of(moved)
        measured = ((above - below) / (2 * step)).item()
        claimed = (grads[name] * direction).sum().item()
        scale = max(grads[name].norm().item(), 1e-3)
        error = abs(measured - claimed) / scale
        assert error < tolerance, f"{name}: differences {measured}, gradient {claimed}, error {error}"
        worst = max(worst, error)
    return worst


def relative(found, expected):
    """Largest absolute difference over the largest absolute expected value."""
    return ((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30)).item()
