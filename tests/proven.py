"""Proofs of the ways of asking a model, made once for the same model."""

import hashlib
import json
from copy import deepcopy

import torch

from unified_reward.backends import hf_vlm
from unified_reward.backends.image_features import ImageEncoder


_KNOWN = {}
"""Ways of asking, and arguments of an encoder of images, by hash of a model."""


def remember(patch, *, weights=True):
    """Let a model that is loaded again have the ways that were proven before.

    Args:
        patch: A monkeypatch.
        weights: False if models that differ in their weights alone have the same ways too.
    """
    prove = hf_vlm.prove

    def proven(vlm):
        key = _key(vlm, weights=weights)
        if key not in _KNOWN:
            prove(vlm)
            _KNOWN[key] = deepcopy(vlm.ways), _encoding(vlm.encoder)
            return
        ways, encoding = _KNOWN[key]
        vlm.ways = deepcopy(ways)
        if encoding:
            vlm.encoder = ImageEncoder(vlm.model, vlm.chat.processor, **encoding)

    patch.setattr(hf_vlm, "prove", proven)


def _encoding(encoder):
    return encoder and {"by_company": encoder._by_company, "type_ids": encoder.type_ids}


def _key(vlm, *, weights):
    """Hash of all that a proof depends on: configuration, processor, place and weights."""
    config = vlm.model.config.to_dict() | {"_name_or_path": "", "transformers_version": ""}
    processor = vlm.chat.processor
    facts = [
        *(type(part).__name__ for part in (vlm.model, processor, vlm.chat.tokenizer)),
        *(json.dumps(part, sort_keys=True, default=str) for part in (config, _settings(processor))),
        str((vlm.model.dtype, vlm.model.device, vlm.model.config._attn_implementation)),
        str((vlm.chat.pad_id, vlm.chat.padding_side)),
        str(sorted(vlm.chat.tokenizer.get_vocab().items())),
    ]
    digest = hashlib.blake2b("\n".join(facts).encode())
    for name, value in vlm.model.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)}".encode())
        if weights:
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.digest()


def _settings(processor):
    parts = {name: getattr(processor, name, None) for name in ("image_processor", "chat_template")}
    if hasattr(parts["image_processor"], "to_dict"):
        parts["image_processor"] = parts["image_processor"].to_dict()
    return parts
