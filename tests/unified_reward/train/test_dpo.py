"""DPO in Python finds the policy that the command finds."""

from unified_reward.core.extensions import checkpoint_path
from unified_reward.train import dpo
from unified_reward.train.dpo_diffusion import DiffusionDPO
from unified_reward.train.dpo_vlm import VLMDPO
from unified_reward.train.optim import OptimConfig


OPTIM = OptimConfig(steps=1, batch_size=1, lr=1e-4)


def test_a_named_policy_is_the_folder_it_names(monkeypatch, tmp_path):
    given = []

    def record(policy, *_):
        given.append(policy)
        return {}

    monkeypatch.setattr(dpo, "align_vlm", record)
    monkeypatch.setattr(dpo, "align_pipeline", record)
    dpo.align("pairs.jsonl", "tiny_vlm", VLMDPO(OPTIM), tmp_path)
    dpo.align("pairs.jsonl", "tiny_image", DiffusionDPO(OPTIM), tmp_path)
    dpo.align("pairs.jsonl", tmp_path / "own", VLMDPO(OPTIM), tmp_path)
    names = [checkpoint_path("tiny_vlm"), checkpoint_path("tiny_image"), tmp_path / "own"]
    assert given == names
    assert names[0].is_dir()
