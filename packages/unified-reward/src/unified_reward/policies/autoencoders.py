"""Autoencoders that compute in a type of their own, beside networks in half precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from unified_reward.policies.observation import networks


def needs_precision(vae: Any) -> bool:
    """True where the config of an autoencoder says that half precision is too little for it."""
    return bool(vae.config.get("force_upcast"))


def isolate(vae: Any) -> None:
    """Let an autoencoder compute in its own type, whatever type or autocast it is called in.

    Encoded latents get the type of the pixels, so that a pipeline can mix them with its own.

    Args:
        vae: An autoencoder of diffusers, changed in place.
    """
    for name, cast_back in (("encode", True), ("decode", False)):
        setattr(vae, name, _isolated(vae, getattr(vae, name), cast_back=cast_back))


def mixing(pipeline: Any) -> AbstractContextManager[Any]:
    """Context in which networks of half precision take what an isolated autoencoder encodes."""
    vae = getattr(pipeline, "vae", None)
    network: Any = next(iter(networks(pipeline).values()))
    dtype = network.dtype
    if vae is None or vae.dtype == dtype or dtype == torch.float32:
        return nullcontext()
    return torch.autocast(vae.device.type, dtype)


def _isolated(vae: Any, method: Callable[..., Any], *, cast_back: bool) -> Callable[..., Any]:
    @wraps(method)
    def run(*positional: Any, **named: Any) -> Any:
        given = next(v for v in (*positional, *named.values()) if isinstance(v, Tensor))
        with torch.autocast(given.device.type, enabled=False):
            positional = tuple(_cast(value, vae.dtype) for value in positional)
            output = method(*positional, **{k: _cast(v, vae.dtype) for k, v in named.items()})
        return _cast(output, given.dtype) if cast_back and given.dtype != vae.dtype else output

    return run


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Cast the floating tensors of an argument or an output of diffusers."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, Mapping):  # an output class, by field
        return type(value)(**{key: _cast(item, dtype) for key, item in value.items()})
    if isinstance(value, tuple):
        return tuple(_cast(item, dtype) for item in value)
    if isinstance(getattr(value, "parameters", None), Tensor):  # a distribution of latents
        return type(value)(value.parameters.to(dtype))
    return value
