"""Maps between the latents that a pipeline denoises and those of its autoencoder, found by probing.

A pipeline packs, permutes, scales and shifts its latents before they are decoded. Probes in place
of the last latents, seen where they reach the decoder, show what it does to each element.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from unified_reward.core.errors import ModelError
from unified_reward.policies.layouts import close


_BASE = 64
"""Indices are probed as digits, which survive scaling in 16-bit precision."""


class LatentMap(NamedTuple):
    """Inverse of what a pipeline does to its latents before decoding."""

    order: Tensor
    """For each element of the pipeline's latents, its index in the decoder's. Shape (N,)."""
    scale: Tensor
    """Factor from the pipeline's elements to the decoder's, in the order of the latter. (N,)."""
    shift: Tensor
    """Value of the decoder's elements where the pipeline's are 0. Shape (N,)."""
    shape: tuple[int, ...]
    """Shape of a sample's latents in the pipeline."""
    decoder_shape: tuple[int, ...]
    """Shape of the decoder's input for one sample, with its batch dimension."""

    def encode(self, latents: Tensor) -> Tensor:
        """Latents of the pipeline from those of its autoencoder, with B samples in both."""
        b = len(latents) // self.decoder_shape[0]
        flat = (latents.reshape(b, -1) - self.shift.to(latents)) / self.scale.to(latents)
        return flat[:, self.order.to(latents.device)].reshape(b, *self.shape)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents of the autoencoder from B of the pipeline, as the pipeline decodes them."""
        b, place = len(latents), self.order.argsort().to(latents.device)
        flat = latents.reshape(b, -1)[:, place] * self.scale.to(latents) + self.shift.to(latents)
        return flat.reshape(b * self.decoder_shape[0], *self.decoder_shape[1:])


def latent_map_of_shapes(shape: tuple[int, ...], decoder_shape: tuple[int, ...]) -> LatentMap:
    """Map for the meta device, of shapes alone.

    Raises:
        ModelError: They are of different sizes.
    """
    n = math.prod(shape)
    if math.prod(decoder_shape) != n:
        raise ModelError(
            f"latents of shape {shape} have another size than those of the autoencoder, "
            f"{decoder_shape}"
        )
    return LatentMap(torch.arange(n), torch.ones(n), torch.zeros(n), shape, decoder_shape)


def find_latent_map(decode: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> LatentMap:
    """Find the map by its values for probes; on the meta device only its shapes are found.

    Args:
        decode: Input of the decoder for two samples' latents of the pipeline, shape (2, *shape).
        shape: Shape of a sample's latents.

    Raises:
        ModelError: The decoder's input is no permutation of the latents, scaled and shifted.
    """
    n = math.prod(shape)
    index = torch.arange(n)
    n_digits = max(1, math.ceil(math.log(n, _BASE)))
    digits = [index // _BASE**k % _BASE for k in range(n_digits + n_digits % 2)]
    probes = [torch.zeros(n), torch.ones(n), *(digit.float() for digit in digits)]
    values: list[Tensor] = []
    for pair in zip(probes[::2], probes[1::2], strict=True):
        decoded = decode(torch.stack(pair).reshape(2, *shape))
        decoder_shape = (len(decoded) // 2, *decoded.shape[1:])
        if decoded.is_meta:
            return latent_map_of_shapes(shape, decoder_shape)
        values += decoded.reshape(2, -1).double().cpu()
    shift, scale = values[0], values[1] - values[0]
    if len(shift) != n or not (scale.isfinite() & (scale != 0)).all():
        raise ModelError(f"{len(shift)} numbers reach the decoder for {n} latents")
    found = [((value - shift) / scale).round().long() for value in values[2:]]
    place = sum(digit * _BASE**k for k, digit in enumerate(found))
    if not torch.equal(torch.as_tensor(place).sort().values, index):
        raise ModelError("what the pipeline decodes is no permutation of its latents")
    order = torch.as_tensor(place).argsort()
    found_map = LatentMap(order, scale.float(), shift.float(), shape, decoder_shape)
    trial = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    if not close(found_map.encode(decode(trial).cpu()), trial, 1e-4):
        raise ModelError("what the pipeline decodes is not its latents, scaled and shifted")
    return found_map
