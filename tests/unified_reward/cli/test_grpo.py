"""``unified-reward grpo`` on the command line: its files, output, messages and exit code."""

import json

import pytest

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


def test_a_pipeline_learns_from_two_judges_and_its_run_is_kept(cli, prompts, tmp_path):
    out = tmp_path / "run"
    judges = ("--reward", "tiny_judge", "--reward", "scripted:random")
    arguments = ("grpo", prompts, "--policy", "tiny_image", *judges, "--out", out, *QUICK)
    code, printed, _ = cli(*arguments)
    assert code == 0
    assert printed.startswith("3 prompts, reward ")
    for name in ("config.yaml", "environment.json", "report.json", "adapter", "policy"):
        assert (out / "grpo" / name).exists()
    report = json.loads((out / "report.json").read_text("utf-8"))["grpo"]
    assert report["rows"] == {"used": 3}
    assert report["deviation"] == [0, 0]
    assert policies.load(out / "grpo" / "policy", device="cpu").tasks[0].value.startswith("image")
    again = cli(*arguments)
    assert "grpo: already done" in again[2]
    assert again[:2] == (code, printed)


def test_json_is_exactly_an_object_and_a_row_of_another_task_is_left_out(cli, prompts, tmp_path):
    row = {"id": "v", "task": "video_generation", "prompt": "a dog runs"}
    prompts.write_text(prompts.read_text("utf-8") + json.dumps(row) + "\n", "utf-8")
    given = ("--policy", "tiny_image", "--reward", "tiny_judge", "--out", tmp_path / "run")
    code, printed, messages = cli("grpo", prompts, *given, "--json", *QUICK)
    assert code == 1
    assert json.loads(printed)["rows"] == {"used": 3, "left_out": 1}
    assert "'v' is left out: the policy is for" in messages


@pytest.mark.parametrize(
    ("policy", "reward", "options", "message"),
    [
        ("tiny_vlm", "tiny_judge", (), "tiny_vlm is no diffusers pipeline"),
        ("tiny_image", "nobody", (), "there is no judge 'nobody'"),
        ("tiny_image", "tiny_judge", ("algorithm=ppo",), "algorithm"),
        ("tiny_image", "tiny_judge", ("prompts_per_step=9",), "and there are 3 prompts"),
        (
            "tiny_image",
            "tiny_judge",
            ("algorithm=draft",),
            "tiny_judge has none; those of pickscore",
        ),
        ("tiny_image", "tiny_judge", ("rule=flow",), "the step rule flow needs a flow model"),
    ],
)
def test_wrong_usage_is_a_line(cli, prompts, policy, reward, options, message):
    code, _, messages = cli(
        "grpo", prompts, "--policy", policy, "--reward", reward, *QUICK, *options
    )
    assert code == 2
    assert message in " ".join(messages.split())
