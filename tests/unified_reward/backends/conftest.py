import pytest
import torch

import unified_reward as ur
from tests.architectures.plain import Plain


class Loaded(dict):
    """Something by architecture and dtype, loaded when first needed."""

    def __init__(self, load):
        super().__init__()
        self._load = load

    def __missing__(self, key):
        self[key] = self._load(*key)
        return self[key]


@pytest.fixture(scope="session")
def judges(checkpoints):
    """Judges by architecture and name of a dtype."""
    return Loaded(lambda name, dtype: ur.open_judge(checkpoints[name], device="cpu", dtype=dtype))


@pytest.fixture(scope="session")
def plain(checkpoints):
    """Answers by transformers alone, by architecture and name of a dtype."""
    return Loaded(lambda name, dtype: Plain(checkpoints[name], name, getattr(torch, dtype)))


@pytest.fixture
def judge(judges, name):
    """The judge of an architecture in float32; its ways may be changed by a test."""
    judge = judges[name, "float32"]
    model = judge.model
    before = judge.family, judge.card, model.ways, model.encoder, model.batch_size
    yield judge
    judge.family, judge.card, model.ways, model.encoder, model.batch_size = before
