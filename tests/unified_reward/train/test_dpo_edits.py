"""Editing pipelines are aligned on pairs of edits: what is learned, resumed, left out and shown."""

import itertools
import json
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.torch import load_file
from typer.testing import CliRunner

from tests.unified_reward.pairs.candidate_files import read_rows, write_rows
from tests.unified_reward.policies import pipelines
from tests.unified_reward.train import aligned
from tests.unified_reward.train.aligned import align, config, losses
from unified_reward import policies
from unified_reward.cli import app
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Image as Medium
from unified_reward.train.denoisers import Denoiser
from unified_reward.train.dpo import PolicyDPO
from unified_reward.train.dpo_diffusion import DPOModel
from unified_reward.train.dry_run_dpo import dry_run_dpo
from unified_reward.train.latents import Resolution


LN2 = torch.tensor(math.log(2)).item()
SIDE = aligned.SIDE_PX
SLOW = ("sdxl_pix2pix", "qwen_edit", "qwen_edit_plus")


class KilledError(Exception):
    """Stands for the end of a process."""


def sample(policy, source):
    made = policy.sample("star", [Medium(source)], [1, 2])
    return np.stack([one.source for one in made]).astype(int)


@pytest.mark.parametrize(
    ("kind", "rank"),
    [
        *(("pix2pix", 2), ("kontext", 0), ("kontext", 2)),
        *(pytest.param(kind, 2, marks=pytest.mark.slow) for kind in SLOW),
        pytest.param("pix2pix", 0, marks=pytest.mark.slow),
    ],
)
def test_a_policy_starts_as_its_reference_and_ends_as_one_that_edits(kind, rank, editing, tmp_path):
    source, out = editing[kind], tmp_path / "new"
    settings = config(optim={"lora_rank": rank, "lr": 0.1 if rank else 1e-2}, beta=10.0)
    report, log = align(source, out, settings)
    assert losses(report)[0] == LN2
    assert [report[name][0] for name in ("margin", "accuracy", "chosen", "rejected")] == [0] * 4
    assert all(loss != LN2 for loss in losses(report)[1:])
    assert (report["rows"], report["pairs"], log) == ({"kept": 6}, 6, [])

    old, new = policies.load(source / "policy", device="cpu"), policies.load(out, device="cpu")
    assert old.options == new.options
    before, after = (sample(policy, source / "source-0.png") for policy in (old, new))
    # InstructPix2Pix edits at the size of its source.
    assert after.shape == (2, SIDE, 2 * SIDE if kind == "pix2pix" else SIDE, 3)
    assert np.abs(after - before).max() > 3
    assert (out / "adapter").is_dir() == bool(rank)
    if rank:
        old.pipeline.load_lora_weights(out / "adapter")
        attached = sample(old, source / "source-0.png")
        assert np.abs(after - attached).max() <= 1, "merged = with adapters"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pix2pix", "kontext"])
def test_the_aligned_policy_prefers_the_chosen_edits(kind, editing, tmp_path):
    settings = config(30, optim={"lora_rank": 4, "lr": 5e-3, "batch_size": 6})
    report, _ = align(editing[kind], tmp_path, settings)
    assert np.mean(report["accuracy"][-10:]) > 0.7
    assert np.mean(losses(report)[-10:]) < 0.6 < LN2


@pytest.mark.parametrize("kind", ["kontext", pytest.param("qwen_edit", marks=pytest.mark.slow)])
def test_a_killed_run_ends_with_the_same_losses(kind, editing, tmp_path, monkeypatch):
    """Five steps, kept after the second; sources of two forms share the batches."""
    settings = config(5, optim={"save_every": 2, "lora_rank": 2}, beta=10.0)
    whole, _ = align(editing[kind], tmp_path / "whole", settings)
    loss, passes = DPOModel.loss, itertools.count(1)

    def killed(self, *given):
        if next(passes) == 4:
            raise KilledError
        return loss(self, *given)

    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(DPOModel, "loss", killed)
        with pytest.raises(KilledError):
            align(editing[kind], out, settings)
        patch.setattr(Denoiser, "encode_prompt", lambda *_: pytest.fail("encoded again"))
        patch.setattr(DPOModel, "loss", loss)
        again, _ = align(editing[kind], out, settings)
    assert again == whole
    adapters = [load_file(next((each / "adapter").iterdir())) for each in (out, tmp_path / "whole")]
    assert all(torch.equal(adapters[0][name], adapters[1][name]) for name in adapters[1])


def test_passes_of_a_step_count_as_one_large_pass(editing, tmp_path):
    runs = [
        align(
            editing["kontext"],
            tmp_path / str(size),
            config(3, optim={"batch_size": size, "accumulate": 4 // size}, beta=1.0),
        )[0]
        for size in (4, 1)
    ]
    assert losses(runs[1]) == pytest.approx(losses(runs[0]), abs=1e-4)
    assert max(map(abs, runs[0]["margin"][1:])) > 1e-3


SCRIPT = """
import json, sys
from pathlib import Path
from tests.unified_reward.policies import editors
from tests.unified_reward.train.aligned import align, config

with editors.small_sources():
    optim = {"batch_size": 2, "lora_rank": 2, "lr": 1e-2}
    report, _ = align(Path(sys.argv[1]), Path(sys.argv[2]), config(3, optim=optim, beta=10.0))
sys.stdout.write("REPORT" + json.dumps([loss for _, loss in report["losses"]]) + "\\n")
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kontext", "qwen_edit"])
def test_two_processes_are_one_of_twice_the_batch(kind, editing, tmp_path):
    """Layouts in a batch differ between processes; Qwen leaves weights of its last block idle."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, "utf-8")
    torchrun = ("torch.distributed.run", "--nproc_per_node", "2", "--standalone")
    done = subprocess.run(
        [sys.executable, "-m", *torchrun, script, editing[kind], tmp_path / "two"],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line[6:]) for line in done.stdout.splitlines() if "REPORT" in line]
    settings = config(3, optim={"batch_size": 4, "lora_rank": 2, "lr": 1e-2}, beta=10.0)
    expected = losses(align(editing[kind], tmp_path / "one", settings)[0])
    assert len(found) == 2
    for each in found:
        assert each == pytest.approx(expected, rel=1e-3)


def test_each_edit_is_learned_with_its_own_source(editing, tmp_path):
    """Sources changed places: another loss. Chosen, rejected and instructions are the same."""
    source = shutil.copytree(editing["pix2pix"], tmp_path / "it")
    settings = config(2, optim={"lora_rank": 2, "lr": 1e-2}, beta=10.0)
    right, _ = align(source, tmp_path / "right", settings)
    rows = [json.loads(line) for line in (source / "pairs.jsonl").read_text("utf-8").splitlines()]
    for row, other in zip(rows, [*rows[1:], rows[0]], strict=True):
        row["context"] = [{"image": f"source-{other['id'][1:]}.png"}]
    aligned.write(rows, source / "pairs.jsonl")
    swapped, _ = align(source, tmp_path / "swapped", settings)
    assert losses(right)[1] != losses(swapped)[1]


def test_a_source_that_changed_is_encoded_again(editing, tmp_path):
    source = shutil.copytree(editing["pix2pix"], tmp_path / "it")
    out, settings = tmp_path / "new", config(1)
    align(source, out, settings)
    encoded = out / "checkpoints" / "encoded"
    before = {path.name for path in encoded.iterdir()}
    align(source, out, settings)
    assert {path.name for path in encoded.iterdir()} == before
    Image.new("RGB", (SIDE, SIDE)).save(source / "source-1.png")
    align(source, out, settings)
    (added,) = {path.name for path in encoded.iterdir()} - before
    black, others = load_file(encoded / added), [load_file(encoded / name) for name in before]
    (old,) = (row for row in others if torch.equal(row["chosen"], black["chosen"]))
    assert not torch.allclose(old["sample"], black["sample"])
    assert torch.equal(old["encoder_hidden_states"], black["encoder_hidden_states"])


def test_pairs_without_one_source_image_are_told_and_left_out(editing, tmp_path):
    source = shutil.copytree(editing["pix2pix"], tmp_path / "it")
    rows = [json.loads(line) for line in (source / "pairs.jsonl").read_text("utf-8").splitlines()]
    rows[0]["context"] = []
    rows[1]["context"] *= 2
    rows[2]["context"] = [{"video": [rows[2]["context"][0]["image"]]}]
    (source / "source-3.png").write_bytes(b"")
    rows[4]["task"], rows[4]["context"] = "image_generation", []
    aligned.write(rows, source / "pairs.jsonl")
    report, log = align(source, tmp_path / "new", config(2, samples_every=2))
    assert report["pairs"] == 1
    assert log[0] == "line 1: image_editing needs the image or video it is about in context"
    assert log[1] == "line 5: a pair of image_generation"
    assert log[2] == "pair 'p1': an edit has one source image, not 2"
    assert log[3] == "pair 'p2': the source of an edit is an image, not a video"
    assert log[4].startswith("pair 'p3': ")
    assert "source-3.png" in log[4]
    with Image.open(tmp_path / "new" / "samples" / "step-000002.png") as sheet:
        assert sheet.size == (5 * SIDE, SIDE), "one row, of the pair that is learned"


@pytest.mark.parametrize("kind", ["pix2pix", pytest.param("qwen_edit", marks=pytest.mark.slow)])
def test_sheets_begin_with_the_source(kind, editing, tmp_path):
    """Four rows, of which the first and third have sources twice as wide as high."""
    align(editing[kind], tmp_path, config(1, optim={"lr": 0.0}, samples_every=1))
    sheet = np.asarray(Image.open(tmp_path / "samples" / "step-000001.png"))
    source = np.asarray(Image.open(editing[kind] / "source-0.png"))
    assert np.array_equal(sheet[:SIDE, : 2 * SIDE], source)
    square = np.asarray(Image.open(editing[kind] / "source-1.png"))
    assert np.array_equal(sheet[SIDE : 2 * SIDE, :SIDE], square)
    policy = policies.load(editing[kind] / "policy", device="cpu")
    seeds = policies.seeds("star 0", 4, 0)
    first = policy.sample("star 0", [Medium(editing[kind] / "source-0.png")], seeds)[0].source
    found = sheet[:SIDE, 2 * SIDE : 2 * SIDE + first.shape[1]]
    assert np.abs(found.astype(int) - first).max() <= 1
    assert len(sheet) == 4 * SIDE


def test_policies_and_pairs_of_the_other_kind_are_refused(editing, tmp_path):
    generated = aligned.source("pictures", tmp_path / "generated")
    shutil.copytree(editing["pix2pix"] / "policy", tmp_path / "policy")
    shutil.copytree(generated, tmp_path, dirs_exist_ok=True, ignore=lambda *_: ["policy"])
    with pytest.raises(ConfigError, match="policy is for image_editing, and the pairs"):
        align(tmp_path, tmp_path / "new", config())
    shutil.copytree(editing["pix2pix"], tmp_path / "edits", ignore=lambda *_: ["policy"])
    shutil.copytree(generated / "policy", tmp_path / "edits" / "policy")
    with pytest.raises(ConfigError, match="policy is for image_generation, and the pairs of"):
        align(tmp_path / "edits", tmp_path / "new", config())


def test_sides_that_the_autoencoder_does_not_take_are_refused(editing, tmp_path):
    settings = config(resolution=Resolution(height=20, width=16))
    with pytest.raises(ConfigError, match="multiples of 8 above 0 for this pipeline, not 20 and"):
        align(editing["qwen_edit"], tmp_path, settings)


@pytest.mark.parametrize(
    ("kind", "latent", "tokens"),
    [
        ("pix2pix", (4, 8, 8), {}),
        pytest.param("sdxl_pix2pix", (4, 8, 8), {}, marks=pytest.mark.slow),
        ("kontext", (16, 16), {"sample": 2 * 16}),
        ("qwen_edit", (4, 16), {"sample": 4 + 16 * 16}),
        pytest.param("qwen_edit_plus", (4, 16), {"sample": 4 + 16 * 16}, marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_editor_is_rehearsed_from_its_configurations_alone(
    kind, latent, tokens, editing, tmp_path
):
    folder = shutil.copytree(editing[kind], tmp_path / "it")
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    settings = config(optim={"lora_rank": 2})
    result = dry_run_dpo(
        PolicyDPO(str(folder / "policy"), folder / "pairs.jsonl", diffusion=settings)
    )
    assert (result.latent, result.tokens, result.lacking) == (latent, tokens, ())
    real = policies.load(editing[kind] / "policy", device="cpu")
    network = getattr(real.pipeline, "transformer", None) or real.pipeline.unet
    assert result.parameters == network.num_parameters()


def command(*arguments):
    result = CliRunner().invoke(app, [str(item) for item in arguments])
    assert result.exit_code == 0, (result.output, result.exception)


@pytest.mark.slow
def test_edits_are_made_judged_learned_and_exported_by_commands(editing, tmp_path):
    """The context of a row, its source image, reaches every stage; paths stay right."""
    policy, out = editing["pix2pix"] / "policy", tmp_path / "made"
    (tmp_path / "sources").mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        pixels = rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "sources" / f"{i}.png")
    about = {"task": "image_editing", "prompt": "make it red"}
    rows = [about | {"id": f"p{i}", "context": [{"image": f"sources/{i}.png"}]} for i in range(3)]
    write_rows(tmp_path / "prompts.jsonl", rows)
    command("candidates", tmp_path / "prompts.jsonl", out, "--policy", policy, "--n", 3)
    made = read_rows(out / "candidates.jsonl")
    assert [row["context"] for row in made] == [
        [{"image": f"../sources/{i}.png"}] for i in range(3)
    ]
    assert [row["status"] for row in made] == ["generated"] * 3
    assert [row["duplicates"] for row in made] == [0] * 3
    judge = ("--judge", "tiny_judge")
    command("pairs", out / "candidates.jsonl", out / "pairs.jsonl", *judge)
    kept = [row for row in read_rows(out / "pairs.jsonl") if row["status"] == "kept"]
    assert kept
    for row in kept:
        source = out / row["context"][0]["image"]
        assert source.resolve() == (tmp_path / "sources" / f"{row['id'][1:]}.png").resolve()
    steps = ("optim.steps=2", "optim.batch_size=2", "optim.accumulate=1")
    command("dpo", out / "pairs.jsonl", "--policy", policy, "--out", tmp_path / "run", *steps)
    report = json.loads((tmp_path / "run" / "dpo" / "report.json").read_text())
    assert report["losses"][0][1] == pytest.approx(LN2)
    assert (report["pairs"], report["left_out"]) == (len(kept), 0)
    command(
        "candidates",
        tmp_path / "prompts.jsonl",
        tmp_path / "again",
        "--policy",
        tmp_path / "run" / "dpo",
        "--n",
        1,
    )
    exported = tmp_path / "pairs.parquet"
    command("export", out / "pairs.jsonl", exported, "--format", "parquet")
    table = parquet.read_table(exported).to_pylist()
    assert [row["context"] for row in table] == [
        [(out / row["context"][0]["image"]).read_bytes()] for row in kept
    ]


def test_rows_that_an_editor_or_a_generator_cannot_use_fail_before_anything_is_made(
    editing, tmp_path
):
    for name in "ab":
        Image.new("RGB", (SIDE, SIDE)).save(tmp_path / f"{name}.png")
    edit = {"task": "image_editing", "prompt": "make it red"}
    rows = [
        {**edit, "id": "none"},
        {**edit, "id": "two", "context": [{"image": "a.png"}, {"image": "b.png"}]},
        {**edit, "id": "video", "context": [{"video": ["a.png", "b.png"]}]},
        {**edit, "id": "gone", "context": [{"image": "gone.png"}]},
        {"task": "image_generation", "id": "caption", "prompt": "a star"},
    ]
    prompts = write_rows(tmp_path / "prompts.jsonl", rows)
    policy = editing["pix2pix"] / "policy"
    given = ("candidates", prompts, tmp_path / "made", "--policy", policy, "--n", "2")
    result = CliRunner().invoke(app, [str(item) for item in given])
    assert result.exit_code == 1
    reasons = [row["reason"] for row in read_rows(tmp_path / "made" / "candidates.jsonl")]
    expected = [
        "image_editing needs the image or video it is about in context",
        "an edit has one source image, not 2",
        "the source of an edit is an image, not a video",
        "gone.png",
        "is for image_editing, not image_generation",
    ]
    for reason, text in zip(reasons, expected, strict=True):
        assert text in reason
    assert not (tmp_path / "made" / "media").exists()
    caption = {**rows[-1], "context": [{"image": "a.png"}]}
    both = ("candidates", write_rows(tmp_path / "both.jsonl", [caption]), tmp_path / "both")
    kontext = ("--policy", editing["kontext"] / "policy")
    CliRunner().invoke(app, [str(item) for item in (*both, *kontext)])
    (row,) = read_rows(tmp_path / "both" / "candidates.jsonl")
    assert row["reason"].startswith("a prompt of image_generation has no context; an edit has")
    generator = pipelines.pictures(tmp_path / "generator")
    given = ("candidates", prompts, tmp_path / "other", "--policy", generator, "--steps", "1")
    CliRunner().invoke(app, [str(item) for item in given])
    other = read_rows(tmp_path / "other" / "candidates.jsonl")
    assert other[1]["reason"].endswith("is for image_generation, not image_editing")
    assert [row["status"] for row in other] == ["failed"] * 4 + ["generated"]
