"""A cache of the hub with snapshots made by hand."""

import json

import pytest
import torch
from safetensors.torch import save_file

from unified_reward.doctor.weights import cache_folder, cached_weights, known_folders


SHARD = "model-0000{}-of-00002.safetensors"


@pytest.fixture
def hub(tmp_path):
    """Write a file of a repository as the hub's cache does: a blob, and a link in the snapshot."""

    def write(repository, name, content):
        root = tmp_path / f"models--{repository.replace('/', '--')}"
        snapshot, blobs = root / "snapshots" / "abc", root / "blobs"
        for folder in (snapshot, blobs, root / "refs"):
            folder.mkdir(parents=True, exist_ok=True)
        (root / "refs" / "main").write_text("abc")
        blob = blobs / name.replace("/", "-")
        save_file(content, blob) if isinstance(content, dict) else blob.write_bytes(content)
        (snapshot / name).symlink_to(blob)
        return root

    write.root = tmp_path
    return write


def judge(hub, *, shards=(1, 2)):
    name = "CodeGoat24/UnifiedReward-qwen-7b"
    weights = {f"w{i}": SHARD.format(i) for i in (1, 2)}
    hub(name, "config.json", b"{}")
    hub(name, "tokenizer.json", b"{}")
    hub(name, "model.safetensors.index.json", json.dumps({"weight_map": weights}).encode())
    for i in shards:
        hub(name, SHARD.format(i), {f"w{i}": torch.zeros(3, 5)})
    return hub.root / f"models--{name.replace('/', '--')}"


def test_a_complete_judge_has_its_parameters_by_the_headers(hub):
    folder = judge(hub)
    (row,), problems = cached_weights(hub.root)
    assert problems == []
    assert (row.hub_id, row.kind) == ("CodeGoat24/UnifiedReward-qwen-7b", "judge")
    assert (row.names, row.reference) == (("unifiedreward-qwen",), row.hub_id)
    assert (row.missing, row.parameters) == ((), 2 * 3 * 5)
    assert row.bytes == sum(file.stat().st_size for file in folder.glob("blobs/*"))


def test_a_partial_snapshot_names_the_shard_and_the_interrupted_download(hub):
    folder = judge(hub, shards=(1,))
    (folder / "blobs" / "123.incomplete").write_bytes(b"half")
    (row,), _ = cached_weights(hub.root)
    assert row.missing == (
        "1 file whose download was interrupted",
        f"1 of 2 shards: {SHARD.format(2)}",
    )


def test_a_link_to_nothing_is_a_problem_of_the_cache(hub):
    folder = judge(hub)
    (folder / "blobs" / SHARD.format(2)).unlink()
    rows, problems = cached_weights(hub.root)
    assert rows == []
    assert len(problems) == 1
    assert "Blob missing" in problems[0]


def test_a_system_is_complete_with_the_files_that_its_scorer_reads(hub):
    hub("yuvalkirstain/PickScore_v1", "model.safetensors", {"w": torch.zeros(2)})
    (row,), _ = cached_weights(hub.root)
    assert row.reference == "pickscore:yuvalkirstain/PickScore_v1"
    assert any("no tokenizer" in missing for missing in row.missing)
    hub("yuvalkirstain/PickScore_v1", "tokenizer.json", b"{}")
    hub("yuvalkirstain/PickScore_v1", "config.json", b"{}")
    (row,), _ = cached_weights(hub.root)
    assert row.missing == ()


def test_other_repositories_and_no_cache_are_nothing(hub, tmp_path):
    hub("somebody/else", "config.json", b"{}")
    assert cached_weights(hub.root) == ([], [])
    assert cached_weights(tmp_path / "none") == ([], [])


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_folders_with_a_name_are_listed_with_their_bytes(monkeypatch, tmp_path):
    (tmp_path / "w").write_bytes(b"12345")
    monkeypatch.setenv("UNIFIED_REWARD_WEIGHTS", str(tmp_path))
    rows = {row.name: row for row in known_folders()}
    assert rows["UNIFIED_REWARD_WEIGHTS"].bytes == 5
    assert (rows["tiny_judge"].kind, rows["tiny_judge"].bytes > 10**6) == ("judge", True)
