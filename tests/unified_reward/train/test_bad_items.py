"""An item that cannot be processed is found before training, or costs itself alone."""

import PIL.Image
import pytest
import torch

from tests.unified_reward.pairs.candidate_files import write_rows
from unified_reward.backends.hf_vlm import load_vlm
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.requests import Request
from unified_reward.core.samples import Image
from unified_reward.train import dpo_vlm, judge
from unified_reward.train.bad_items import SparingCollator
from unified_reward.train.dpo_vlm import VLMDPO, AnswerPair, align_vlm
from unified_reward.train.dry_run import dry_run
from unified_reward.train.judge import JudgeTraining, train_judge
from unified_reward.train.optim import OptimConfig
from unified_reward.train.scalar import ScalarConfig, ScalarExample, fit_scalar
from unified_reward.train.sft import ChatExample, fit


OPTIM = OptimConfig(steps=2, batch_size=2, accumulate=1, lr=1e-3, warmup=0.0)
LONG = "word " * 5000


class Numbers:
    """Items that are their indices; some are bad."""

    def __init__(self, n, *bad):
        self.n, self.bad = n, bad
        self.log = []

    def __len__(self):
        return self.n

    def name(self, index):
        return f"item {index}"

    def collate(self, batch):
        rows = [row["row"] for row in batch]
        if wrong := [row for row in rows if row in self.bad]:
            raise ValueError(f"{wrong[0]} is bad")
        return {"input_ids": torch.tensor(rows)}

    def batch(self, *rows):
        collate = SparingCollator(self.collate, self, self.log.append)
        return [collate([{"row": i} for i in some])["input_ids"].tolist() for some in rows]


def test_a_bad_item_is_left_out_of_its_batch_and_reported_once():
    numbers = Numbers(6, 2)
    assert numbers.batch([0, 1, 2], [3, 4], [1, 2, 0]) == [[0, 1], [3, 4], [1, 0]]
    assert numbers.log == ["left out of training: record 'item 2': 2 is bad"]


def test_a_batch_of_bad_items_alone_becomes_the_next_good_item():
    numbers = Numbers(6, 4, 5, 0)
    assert numbers.batch([4], [5, 4]) == [[1], [1]]
    assert len(numbers.log) == 3


@pytest.mark.parametrize(("n", "bad"), [(20, 4), (100, 11), (2, 2)])
def test_too_many_bad_items_stop_the_training(n, bad):
    numbers = Numbers(n, *range(bad))
    with pytest.raises(DataError, match="used"):
        numbers.batch([*range(n)], [0])


@pytest.mark.parametrize("n", [3, 4])
def test_a_few_bad_items_do_not(n):
    assert Numbers(n, *range(n - 1)).batch([0]) == [[n - 1]]


def test_an_error_of_the_whole_batch_is_no_items_fault():
    numbers = Numbers(6)

    def collate(batch):
        if len(batch) > 1:
            raise RuntimeError("shapes differ")
        return numbers.collate(batch)

    with pytest.raises(RuntimeError, match="shapes differ"):
        SparingCollator(collate, numbers)([{"row": 0}, {"row": 1}])


def test_an_error_of_the_recipe_is_no_items_fault():
    def collate(_):
        raise ConfigError("scores cannot be ranked")

    with pytest.raises(ConfigError):
        SparingCollator(collate, Numbers(6))([{"row": 0}])


@pytest.fixture
def folder(tmp_path):
    """Pictures: one that is good, one that Qwen's processor refuses, one that is cut off."""
    PIL.Image.new("RGB", (64, 64), "blue").save(tmp_path / "ok.png")
    PIL.Image.new("RGB", (300, 1), "red").save(tmp_path / "thin.png")
    PIL.Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "torn.jpg")
    (tmp_path / "torn.jpg").write_bytes((tmp_path / "torn.jpg").read_bytes()[:900])
    return tmp_path


BAD = {
    "thin": ("thin.png", "x", "aspect ratio"),
    "torn": ("torn.jpg", "x", "torn.jpg"),
    "long": ("ok.png", LONG, "the model takes"),
}


def record(name, file="ok.png", prompt="x"):
    return {
        "id": name,
        "task": "image_generation",
        "prompt": prompt,
        "candidates": [{"image": file}],
        "target": {"score": 3, "scale": [1, 5]},
    }


@pytest.mark.parametrize("head", ["generative", "scalar"])
@pytest.mark.parametrize(
    ("base", "bad"),
    [
        *(("qwen2_5_vl", name) for name in BAD),
        *(("qwen3_vl", name) for name in ("thin", "long")),
        *(("llava_onevision", name) for name in ("torn", "long")),
    ],
)
def test_a_row_that_is_refused_stops_before_the_first_step(
    checkpoints, folder, monkeypatch, base, bad, head
):
    for name in ("fit", "fit_scalar"):
        monkeypatch.setattr(judge, name, lambda *_, **__: pytest.fail("it trains"))
    file, prompt, reason = BAD[bad]
    rows = [record("a"), record("the bad", file, prompt), record("b")]
    path = write_rows(folder / "rows.jsonl", rows)
    config = JudgeTraining(OPTIM, base=str(checkpoints[base]), data=str(path), head=head)
    with pytest.raises(DataError, match=rf"1 of 3 rows .* record 'the bad': .*{reason}"):
        train_judge(config, folder / "out")


def test_a_dry_run_names_the_row_that_is_refused(checkpoints, folder):
    path = write_rows(folder / "rows.jsonl", [record("a"), record("the bad", "thin.png")])
    config = JudgeTraining(OPTIM, base=str(checkpoints["qwen2_5_vl"]), data=str(path))
    with pytest.raises(DataError, match=r"record 'the bad': .*aspect ratio"):
        dry_run(config)


def request(width):
    return Request((PIL.Image.new("RGB", (width, 1 if width > 200 else 56)), "which colour?"))


def test_fine_tuning_goes_on_without_an_example_that_is_refused(checkpoints, folder, caplog):
    vlm = load_vlm(checkpoints["qwen2_5_vl"], device="cpu")
    turns = [ChatExample(request(width), "red") for width in (56, 300, 56)]
    _, losses = fit(vlm.model, vlm.chat, turns, OPTIM, folder)
    assert len(losses) == 2
    (logged,) = caplog.messages
    assert logged.startswith("left out of training: example 1: absolute aspect ratio")


def test_a_scalar_judge_learns_without_an_example_that_is_refused(checkpoints, folder, caplog):
    vlm = load_vlm(checkpoints["qwen3_vl"], device="cpu")
    labels = [ScalarExample((request(width),), 0.5) for width in (300, 56, 56)]
    losses = fit_scalar(vlm, labels, ScalarConfig(), OPTIM, folder)[-1]
    assert len(losses) == 2
    assert len(caplog.messages) == 1


def pair(name, file="ok.png", prompt="which colour?", chosen="red"):
    return {
        "id": name,
        "status": "kept",
        "task": "image_understanding",
        "prompt": prompt,
        "context": [{"image": file}],
        "chosen": {"text": chosen},
        "rejected": {"text": "blue"},
    }


@pytest.mark.parametrize("policy", ["qwen2_5_vl", "llava_onevision"])
def test_pairs_that_the_model_refuses_are_left_out_of_dpo(checkpoints, folder, policy):
    thin = [pair("thin", "thin.png")] if policy == "qwen2_5_vl" else []
    bad = [*thin, pair("torn", "torn.jpg"), pair("long", prompt=LONG), pair("far", chosen=LONG)]
    path = write_rows(folder / "pairs.jsonl", [pair("a"), *bad])
    messages = []
    report = align_vlm(checkpoints[policy], path, VLMDPO(OPTIM), folder / "out", messages.append)
    assert report["pairs"] == 1
    assert [message.split(":")[0] for message in messages] == [f"pair {it['id']!r}" for it in bad]


def test_dpo_goes_on_without_a_pair_that_goes_bad(checkpoints, folder, monkeypatch):
    """A file is replaced after the check."""
    answers = [
        AnswerPair("which?", (Image(folder / file),), "red", "blue", file)
        for file in ("ok.png", "thin.png", "torn.jpg")
    ]
    monkeypatch.setattr(dpo_vlm, "trainable_answers", lambda *_: (answers, {"kept": 3}))
    path = write_rows(folder / "pairs.jsonl", [pair("a")])
    messages = []
    options = VLMDPO(OptimConfig(steps=3, batch_size=1, accumulate=1))
    report = align_vlm(checkpoints["qwen2_5_vl"], path, options, folder / "out", messages.append)
    assert len(report["losses"]) == 3
    assert {message.split(": ")[1] for message in messages} == {
        "record 'thin.png'",
        "record 'torn.jpg'",
    }
