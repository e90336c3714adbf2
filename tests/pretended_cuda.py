"""A pretended CUDA device: tensors that say they are there, with their values on the CPU.

An operation on tensors of both devices raises, as it does on a real one, so that a machine without
a GPU finds what was made on the wrong device.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map


_TAKE_BOTH = ("copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_")
"""Operations that take tensors of both devices: copies, and indices on the CPU."""


class Pretended(torch.Tensor):
    """A tensor on the pretended device."""

    @staticmethod
    def __new__(cls, real):
        return torch.Tensor._make_wrapper_subclass(
            cls, real.size(), strides=real.stride(), dtype=real.dtype, device="cuda:0"
        )

    def __init__(self, real):
        self.inner = real

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, dict(kwargs or {}))

    def __repr__(self, **_):
        return f"Pretended({self.inner!r})"


def _run(func, args, kwargs):
    name = func.overloadpacket.__name__
    given = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
    own = [one for one in given if isinstance(one, Pretended)]
    others = [one for one in given if not isinstance(one, Pretended) and one.dim()]
    if own and others and name not in _TAKE_BOTH:
        raise RuntimeError(
            f"{name}: expected all tensors to be on the same device, but found {len(own)} on "
            f"cuda:0 and {[(*one.shape,) for one in others]} on cpu"
        )
    goes = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
    if goes is not None:
        kwargs["device"] = "cpu"
    out = func(*tree_map(_real, args), **tree_map(_real, kwargs))
    if goes is not None and goes.type == "cpu":
        return out
    known = {id(one.inner): one for one in own}

    def wrapped(value):
        if type(value) is not torch.Tensor:
            return value
        if id(value) in known:
            return known[id(value)]
        with torch.inference_mode(mode=False):  # views of weights count versions
            return Pretended(value)

    return tree_map(wrapped, out)


def _real(value):
    return value.inner if isinstance(value, Pretended) else value


def _is_cuda(value):
    is_device = isinstance(value, str | torch.device) and not isinstance(value, bool)
    return is_device and str(value).startswith("cuda")


def _indices(index):
    """An index with tensors in place of lists, from which torch would make some on the device."""
    if isinstance(index, tuple):
        return tuple(map(_indices, index))
    return torch.tensor([*index]) if isinstance(index, list | range) else index


class _Factories(TorchFunctionMode):
    """Tensors made on the device, or moved there, are pretended; torch would look for a driver."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in ("tolist", "cpu"):
            return func(*tree_map(_real, args))
        if name in ("__getitem__", "__setitem__"):
            return func(args[0], _indices(args[1]), *args[2:])
        is_like = name.startswith("new_") and "device" not in kwargs
        is_made = is_like and isinstance(args[0], Pretended)
        places = [i for i, value in enumerate(args) if i and _is_cuda(value)]
        is_made |= name in ("to", *_MAKERS) and bool(places or _is_cuda(kwargs.get("device")))
        if not is_made:
            return func(*args, **kwargs)
        args = tuple("cpu" if i in places else value for i, value in enumerate(args))
        if "device" in kwargs:
            kwargs["device"] = "cpu"
        return Pretended(func(*tree_map(_real, args), **tree_map(_real, kwargs)))


_MAKERS = (
    *("tensor", "zeros", "ones", "full", "empty", "arange", "linspace", "eye", "rand", "randn"),
    *("randint", "zeros_like", "ones_like", "full_like", "empty_like", "as_tensor", "tril"),
    *("new_zeros", "new_ones", "new_full", "new_tensor", "new_empty", "scalar_tensor"),
)


@contextmanager
def pretended_cuda(module):
    """Move a module to the pretended device until the block ends."""
    places = [
        (table, name, value)
        for part in module.modules()
        for table in (part._parameters, part._buffers)
        for name, value in table.items()
        if value is not None
    ]
    for table, name, value in places:
        moved = Pretended(value.detach())
        is_weight = isinstance(value, nn.Parameter)
        table[name] = nn.Parameter(moved, requires_grad=False) if is_weight else moved
    torch._C._ensureCUDADeviceGuardSet()  # without a driver, one that does nothing
    try:
        with _Factories():
            yield
    finally:
        for table, name, value in places:
            table[name] = value
