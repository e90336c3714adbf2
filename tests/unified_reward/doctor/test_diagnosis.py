"""A machine as one object: devices, what fits on them, and what to do next."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from unified_reward.core.install import install_command
from unified_reward.doctor import devices, diagnosis
from unified_reward.doctor.machine import Memory
from unified_reward.doctor.self_tests import SelfTest
from unified_reward.doctor.sizes import GIB


@pytest.fixture
def card(monkeypatch, tmp_path):
    """A pretended GPU of 24 GiB, 16 of them free."""
    properties = SimpleNamespace(name="Pretended RTX", major=8, minor=9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (16 * GIB, 24 * GIB))
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.10  Thu Jan\n")
    monkeypatch.setattr(devices, "NVIDIA", driver)


@pytest.mark.usefixtures("card")
def test_a_card_is_described_and_judges_are_bfloat16_there():
    assert devices.devices() == [
        devices.Device("cuda:0", "Pretended RTX", "8.9", 24 * GIB, 16 * GIB, True, "bfloat16")
    ]
    backends = devices.backends()
    assert (backends.device, backends.dtype, backends.driver) == ("cuda", "bfloat16", "570.86.10")
    assert backends.attention["sdpa"] == ""
    assert backends.attention["flash_attention_2"].startswith("needs the package flash_attn")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """This machine, with an empty cache."""
    return diagnosis.diagnose(tmp_path_factory.mktemp("hub"))


@pytest.mark.usefixtures("card")
def test_what_fits_on_a_card_is_by_its_free_memory(found):
    # 7B: 15.4 GiB of weights, 0.9 of cache, 2.6 of a pass and 1.
    there = replace(found, devices=devices.devices())
    rows = {(row["model"], row["use"], row["dtype"]): row["fits"] for row in diagnosis.fits(there)}
    assert rows["7B", "inference", "bfloat16"] == "if empty"
    assert rows["7B", "inference", "8bit"] == "yes"
    assert rows["7B", "inference", "float32"] == rows["7B", "full", "float32"] == "no"
    assert rows["ixc-2.5-reward", "inference", "bfloat16"] == "unknown"
    assert ("pickscore", "lora", "bfloat16") not in rows


def test_without_a_device_models_are_put_into_main_memory(found):
    plain = replace(found, devices=[], memory=Memory(total=64 * GIB, available=None, limit=GIB))
    assert plain.places == [("cpu", None, GIB)]
    assert {row["place"] for row in diagnosis.fits(plain)} == {"cpu"}
    nothing = replace(plain, memory=Memory(None, None, None))
    assert {row["fits"] for row in diagnosis.fits(nothing)} == {"unknown"}


def test_next_is_the_first_thing_that_hinders(found):
    assert diagnosis.next_step(found, []).endswith("--judge tiny_judge")
    bare = replace(found, folders=[])
    assert "--judge HUB_ID" in diagnosis.next_step(bare, [])
    failed = SelfTest("DPO step", "train", "failed", 1.0, "ImportError: trl")
    assert diagnosis.next_step(found, [failed]) == install_command("train", upgrade=True)
    local = next(extra for extra in found.extras if extra.name == "local")
    lacking = replace(found, extras=[replace(local, missing=("torch",), install="pip install x")])
    assert install_command("local") in diagnosis.next_step(lacking, [])
    assert lacking.lacking == {"local": "[local] lacks torch: pip install x"}
    wrong = replace(found, extras=[replace(local, wrong=("trl 1",), install="pip install y")])
    assert diagnosis.next_step(wrong, []) == "pip install y"


def test_only_a_complete_judge_is_proposed(found):
    from unified_reward.doctor.weights import CachedWeights

    judge = CachedWeights("o/j", "judge", ("",), "o/j", "/", 1, None, ("weights",))
    scorer = CachedWeights("o/s", "system", ("s",), "s:o/s", "/", 1, None, ())
    assert diagnosis.next_step(replace(found, cached=[judge, scorer]), []).endswith("s:o/s")
