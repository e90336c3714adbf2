"""The trunk and its head, as a system that is not here yet would have them."""

import json

import PIL.Image
import pytest
import torch
from safetensors.torch import save_file
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel

import unified_reward as ur
from tests.unified_reward.scorers import twins
from tests.unified_reward.scorers.test_preparation import waves
from unified_reward import media
from unified_reward.scorers.base import Prepared
from unified_reward.scorers.card import ScoreCard
from unified_reward.scorers.loading import check, load_system
from unified_reward.scorers.qwen_vl import PixelBounds, QwenScorer, chat, patched, target_size


pytestmark = pytest.mark.numeric


class Edits(QwenScorer):
    """Like EditReward: a Qwen2.5-VL whose head gives two means and two deviations."""

    card = ScoreCard("edits", "Edits", (ur.Task.IMAGE_GENERATION,), "", (), "made up")
    weights = ("model.safetensors",)
    medium = "image"
    reward_tokens = ("<|Reward|>",)

    @classmethod
    def prepare(cls, sample):
        picture = media.open_image(sample.candidates[0])
        height, width = target_size(*picture.size[::-1], PixelBounds(56 * 56, 100 * 784))
        pixels = torch.tensor(list(picture.resize((width, height)).tobytes())).view(
            1, height, width, 3
        )
        patches, grid = patched(pixels.permute(0, 3, 1, 2).float())
        return Prepared(chat("image", f"{sample.prompt} <|Reward|>"), patches, grid=grid)


@pytest.fixture
def folder(tmp_path):
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": twins.VOCAB,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [2, 3, 3],
            },
            "bos_token_id": None,
            "eos_token_id": None,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 64,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
    )
    torch.manual_seed(0)
    trunk = Qwen2_5_VLModel(config)
    state = {
        name.replace("language_model.", "model.", 1): one.contiguous()
        for name, one in trunk.state_dict().items()
    }
    for place, shape in {0: (8, 64), 2: (4, 8)}.items():
        state[f"rm_head.{place}.weight"] = twins.draw(0, str(place), *shape)
        state[f"rm_head.{place}.bias"] = twins.draw(1, str(place), shape[0])
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict(), default=str))
    twins.byte_tokenizer(tmp_path, (*twins.LIKE_QWEN, *twins.PADS))
    return tmp_path


def test_a_trunk_of_qwen2_5_with_a_head_of_two_maps_is_read_at_its_token(folder):
    assert not check(Edits, folder).problems
    scorer = load_system(Edits, folder, device="cpu", dtype="float64")
    samples = [
        ur.Sample(ur.Task.IMAGE_GENERATION, words, (ur.Image(PIL.Image.fromarray(waves(60, 90))),))
        for words in ("a", "a longer one")
    ]
    batch = [Edits.prepare(one) for one in samples]
    together = scorer.forward(batch)
    assert together.shape == (2, 4)
    alone = torch.cat([scorer.forward([one]) for one in batch])
    assert torch.allclose(together, alone, atol=1e-6)

    ids = torch.tensor([scorer._tokens(batch[1])])
    places = torch.arange(ids.shape[1]).expand(3, 1, -1)
    trunk = scorer.module.model
    trunk.config.image_token_id = scorer.pad
    hidden = trunk(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=batch[1].pixels.double(),
        image_grid_thw=torch.tensor([batch[1].grid]),
        position_ids=places,
    ).last_hidden_state[0]
    read = hidden[ids[0].tolist().index(scorer._reward_ids[0])]
    first, second = scorer.module.head[0], scorer.module.head[2]
    wanted = second(torch.relu(first(read)))
    assert torch.allclose(alone[1], wanted, atol=1e-6)


def test_a_configuration_of_another_trunk_is_refused(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert "is of a llama; trunks are" in "; ".join(check(Edits, folder).problems)
