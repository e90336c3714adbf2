"""``unified-reward grpo`` on the command line: its files, output, messages and exit code."""

import json
import sys

import pytest
from PIL import Image

from unified_reward import policies


QUICK = (
    *("optim.steps=2", "optim.batch_size=4", "optim.lora_rank=2", "group=4"),
    *("prompts_per_step=2", "window=1"),
)


def written(path, *prompts):
    rows = [
        {"id": f"p{i}", "task": "image_generation", "prompt": text}
        for i, text in enumerate(prompts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def prompts(tmp_path):
    return written(tmp_path / "prompts.jsonl", "a red circle", "a blue square", "a star")


@pytest.fixture
def function(tmp_path, monkeypatch):
    """Reference of a function in the working directory; it needs a prompt."""
    (tmp_path / "lengths.py").write_text(
        "import numpy as np\n\ndef light(samples):\n"
        "    return [np.mean(each.candidates[0].source) / len(each.prompt) for each in samples]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield "lengths:light"
    sys.modules.pop("lengths", None)


def test_a_pipeline_learns_from_rewards_of_every_kind_and_its_run_is_kept(
    cli, prompts, tmp_path, function
):
    out = tmp_path / "run"
    rewards = ("tiny_judge", "win:scripted:random", f"{{judge: {function}, weight: 0.5, name: f}}")
    given = [part for reward in rewards for part in ("--reward", reward)]
    arguments = ("grpo", prompts, "--policy", "tiny_image", *given, "--out", out, *QUICK)
    code, printed, _ = cli(*arguments)
    assert code == 0
    assert printed.startswith("3 prompts, reward ")
    for name in ("config.yaml", "environment.json", "report.json", "adapter", "policy"):
        assert (out / "grpo" / name).exists()
    report = json.loads((out / "report.json").read_text("utf-8"))["grpo"]
    assert report["rows"] == {"used": 3}
    assert report["deviation"] == [0, 0]
    assert report["failed"] == [0, 0]
    assert policies.load(out / "grpo" / "policy", device="cpu").tasks[0].value.startswith("image")
    again = cli(*arguments)
    assert "grpo: already done" in again[2]
    assert again[:2] == (code, printed)


def test_json_is_exactly_an_object_and_rows_of_no_use_are_left_out(cli, prompts, tmp_path):
    rows = [
        {"id": "v", "task": "video_generation", "prompt": "a dog runs"},
        {"id": "again", "task": "image_generation", "prompt": "a star"},
    ]
    lines = [json.dumps(row) + "\n" for row in rows]
    prompts.write_text(prompts.read_text("utf-8") + "".join(lines), "utf-8")
    given = ("--policy", "tiny_image", "--reward", "tiny_judge", "--out", tmp_path / "run")
    code, printed, messages = cli("grpo", prompts, *given, "--json", *QUICK)
    assert code == 1
    assert json.loads(printed)["rows"] == {"used": 3, "left_out": 1, "repeated": 1}
    assert "'v' is left out: the policy is for" in messages
    assert "'again' is left out: it repeats the prompt of 'p2'" in messages


@pytest.mark.parametrize(
    ("policy", "reward", "options", "message"),
    [
        ("tiny_vlm", "tiny_judge", (), "window: Unexpected keyword argument"),
        ("tiny_image", "nobody", (), "there is no judge 'nobody'"),
        ("tiny_image", "no_module:f", (), "no_module:f is no judge, and there is no module"),
        (
            "tiny_image",
            "{judge: tiny_judge, wait: 1}",
            (),
            "rewards.0.RewardTerm.wait: Unexpected keyword",
        ),
        ("tiny_image", "{judge: tiny_judge", (), "is not YAML"),
        ("tiny_image", "{judge: tiny_judge, scale: x}", (), "there is no scale 'x'"),
        ("tiny_image", "tiny_judge", ("weights=[1,2]",), "2 weights for 1 rewards"),
        ("tiny_image", "tiny_judge", ("opponents=1",), "opponents must be at least 2"),
        ("tiny_image", "tiny_judge", ("judges.vote=2",), "vote: Unexpected keyword argument"),
        ("tiny_image", "tiny_judge", ("judges.api_key=abc",), "keys of servers are never written"),
        (
            "tiny_image",
            "tiny_judge",
            ("--held-out-reward", "win:tiny_judge", "held_out=1"),
            "win rates in a group are 0.5 in the mean",
        ),
        (
            "tiny_image",
            "tiny_judge",
            ("--held-out-reward", "tiny_scalar"),
            "need held_out",
        ),
        ("tiny_image", "tiny_judge", ("algorithm=ppo",), "algorithm"),
        ("tiny_image", "tiny_judge", ("prompts_per_step=9",), "and there are 3 prompts"),
        ("tiny_image", "tiny_judge", ("algorithm=draft",), "tiny_judge has none; scores of"),
        ("tiny_image", "tiny_judge", ("rule=flow",), "the step rule flow needs a flow model"),
    ],
)
def test_wrong_usage_is_a_line(cli, prompts, policy, reward, options, message):
    code, _, messages = cli(
        "grpo", prompts, "--policy", policy, "--reward", reward, *QUICK, *options
    )
    assert code == 2
    assert message in " ".join(messages.split())


def test_a_policy_that_answers_learns_from_the_same_command(cli, tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    row = {"id": "a", "task": "image_understanding", "prompt": "what colour is it?"}
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({**row, "context": [{"image": "a.png"}]}) + "\n", "utf-8")
    out, few = tmp_path / "run", ("optim.steps=1", "optim.batch_size=2", "group=2")
    given = ("--policy", "tiny_vlm", "--reward", "tiny_judge", "--out", out, *few)
    code, printed, _ = cli("grpo", path, *given, "max_new_tokens=4")
    assert code == 0
    assert printed.startswith("1 prompt, reward ")
    assert policies.load(out / "grpo" / "policy", device="cpu").tasks[0] == row["task"]
