"""A package of somebody else adds scorers, judges, families and more by entry points."""

import importlib
import json
import textwrap

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import unified_reward as ur
from unified_reward import prompts
from unified_reward.cli import app
from unified_reward.core.errors import ConfigError
from unified_reward.data.sources import read_source
from unified_reward.media import encode_png, open_image


ENTRY_POINTS = """
    [unified_reward.scorers]
    brightness = sunny.scorer:Brightness
    gain = sunny.scorer:Gain
    [unified_reward.judges]
    sunny = sunny.judge:open_sunny
    gloomy = sunny.judge:open_gloomy
    stormy = sunny.storm:open_stormy
    [unified_reward.checkpoints]
    frosty = sunny.storm:FROSTY
    misty = sunny.judge:FAMILY
    [unified_reward.sources]
    forecast = sunny.source:FORECAST
    drizzle = sunny.source:DRIZZLE
    [unified_reward.families]
    sunny = sunny.judge:TEMPLATES
    broken = sunny.nowhere:TEMPLATES
    [unified_reward.benchmarks]
    daylight = sunny.bench:DAYLIGHT
"""
SCORER = """
    import torch
    from unified_reward import media
    from unified_reward.checkpoints.tensor_keys import rename_keys
    from unified_reward.core.samples import Task
    from unified_reward.scorers.base import Prepared, Scorer
    from unified_reward.scorers.card import ScoreCard


    class Gain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.empty(()))


    class Brightness(Scorer):
        card = ScoreCard("brightness", "Brightness", (Task.IMAGE_GENERATION,), "", (), "mean pixel")
        weights = ("gain.safetensors",)
        needed = {}

        @classmethod
        def skeleton(cls, state, folder):
            return Gain()

        @classmethod
        def translate(cls, state, folder):
            return rename_keys(state, ())

        @classmethod
        def prepare(cls, sample):
            image = media.open_image(sample.candidates[0]).convert("L")
            return Prepared(sample.prompt, torch.tensor(sum(image.histogram()[128:])).float())

        def forward(self, batch):
            return torch.stack([self.module.gain * one.pixels for one in batch])[:, None]
"""
JUDGE = """
    from dataclasses import replace

    from unified_reward.judges.card import Card
    from unified_reward.judges.generative import GenerativeJudge
    from unified_reward.judges.scripted import ScriptedModel
    from unified_reward.prompts import TEMPLATES as BUILT_IN
    from unified_reward.prompts.template import Family

    FAMILY = Family("sunny", verdict_first=True)
    TEMPLATES = tuple(
        replace(template, family=FAMILY)
        for (family, _, _), template in BUILT_IN.items()
        if family == "compact"
    )


    def open_sunny(argument, options):
        return GenerativeJudge(ScriptedModel(argument or "first"), Card(options.family or "sunny"))


    def open_gloomy(argument, options):
        return None
"""
SOURCE = """
    from unified_reward.core.samples import Example, Image, Target, Task
    from unified_reward.data.sources import Source
    from unified_reward.io.rows import Row


    def read(rows, source, folder):
        for raw in rows:
            image = Image(folder / raw.value["file"])
            target = Target(raw.value["stars"], source.scale)
            example = Example(source.task, raw.value["text"], (image,), target=target)
            yield Row(raw.line, f"sky {raw.line}", example)


    FORECAST = Source("forecast", read, Task.IMAGE_GENERATION, "score")
    DRIZZLE = Source("drizzle", "no layout of this name", Task.IMAGE_GENERATION)
"""
STORM = """
    FROSTY = 1 / len("ab") + {}["no such key"]
"""
BENCH = """
    from unified_reward.bench.benchmark import Benchmark, pairwise_metrics
    from unified_reward.io.rows import read_examples


    def rows(folder, config):
        return read_examples(folder / "items.jsonl")


    DAYLIGHT = Benchmark("daylight", "Names the brighter image.", "", rows, pairwise_metrics)
"""


@pytest.fixture
def sunny(tmp_path, monkeypatch):
    """A package with its metadata on the path, as an installer would leave them."""
    site = tmp_path / "site"
    (site / "sunny").mkdir(parents=True)
    files = {"__init__": "", "scorer": SCORER, "judge": JUDGE, "bench": BENCH}
    for name, text in {**files, "source": SOURCE, "storm": STORM}.items():
        (site / "sunny" / f"{name}.py").write_text(textwrap.dedent(text))
    metadata = site / "sunny-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: sunny\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(textwrap.dedent(ENTRY_POINTS))
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    weights = tmp_path / "weights"
    weights.mkdir()
    save_file({"gain": torch.tensor(0.5)}, weights / "gain.safetensors")
    return weights


@pytest.fixture
def images(tmp_path):
    """A dark and a bright image."""
    paths = [tmp_path / "dark.png", tmp_path / "bright.png"]
    for path, value in zip(paths, (20, 230), strict=True):
        pixels = np.full((8, 8, 3), value, np.uint8)
        path.write_bytes(encode_png(open_image(ur.Image(pixels, "HWC"))))
    return paths


def test_a_scorer_of_another_package_is_opened_and_judges_by_its_name(sunny, images):
    judge = ur.open_judge(f"brightness:{sunny}", device="cpu")
    assert [scored.score.value for scored in judge.score("noon", images=images)] == [0, 32]
    assert judge.compare("noon", images=images).winner == "second"
    with pytest.raises(ConfigError, match="brightness needs its weights"):
        ur.open_judge("brightness")
    with pytest.raises(ConfigError, match=r"[\w.-]+, brightness, gain\)"):
        ur.open_judge("")


def test_a_benchmark_of_another_package_is_run_by_its_name(sunny, images, tmp_path, capsys):
    row = {"task": "image_generation", "prompt": "noon", "target": {"winner": "second"}}
    row["candidates"] = [{"image": str(path)} for path in images]
    (tmp_path / "items.jsonl").write_text(json.dumps({"id": "a", **row}) + "\n")
    result = ur.run_benchmark("daylight", ur.open_judge(f"brightness:{sunny}"), tmp_path)
    assert result.report["metrics"]["pair_accuracy"]["value"] == 1
    from typer.testing import CliRunner

    options = ["--data", str(tmp_path), "--judge", f"brightness:{sunny}", "--json"]
    done = CliRunner().invoke(app, ["bench", "--on", "daylight", *options])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["metrics"]["pair_accuracy"]["value"] == 1


def test_a_judge_and_a_family_of_another_package_are_opened_by_their_names(sunny, images):
    judge = ur.open_judge("sunny:second")
    assert judge.family == "sunny"
    sample = ur.Sample(ur.Task.IMAGE_GENERATION, "noon", tuple(map(ur.Image, images)))
    (verdict,) = judge.ask([sample], orders=1)
    assert verdict.winner == "second"
    assert ur.open_judge("scripted:first", family="sunny").family == "sunny"
    with pytest.raises(ConfigError, match="'broken' comes with sunny, which fails to load"):
        prompts.family("broken")


def test_a_source_of_another_package_is_read_by_its_name(sunny, tmp_path):
    file = tmp_path / "sky.jsonl"
    file.write_text(json.dumps({"file": "a.png", "text": "noon", "stars": 4.0}) + "\n")
    (row,) = read_source(file, "forecast")
    assert (row.id, row.content.source, row.content.target.score) == ("sky 1", "forecast", 4.0)
    assert row.content.candidates == (ur.Image(tmp_path / "a.png"),)
    with pytest.raises(ConfigError, match="'drizzle' comes with sunny, which gives a Source inst"):
        read_source(file, "drizzle")
    with pytest.raises(ConfigError, match=r"no source 'nowhere'; there are .*forecast"):
        read_source(file, "nowhere")


@pytest.mark.usefixtures("sunny")
@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("gloomy", "'gloomy' comes with sunny, which gives None instead of a judge"),
        ("gain:.", "'gain' comes with sunny, which gives Gain instead of a class derived from Sc"),
        ("misty", "'misty' comes with sunny, which gives a Family instead of a Checkpoint"),
        ("stormy", "'stormy' comes with sunny, which fails to load: 'no such key'"),
        ("frosty", "'frosty' comes with sunny, which fails to load: 'no such key'"),
    ],
)
def test_what_another_package_gets_wrong_is_an_error_that_names_it(reference, message):
    with pytest.raises(ConfigError, match=message):
        ur.open_judge(reference)


@pytest.mark.usefixtures("sunny")
def test_the_list_of_judges_leaves_out_what_does_not_load():
    with pytest.raises(ConfigError, match="there is no judge 'rain'") as caught:
        ur.open_judge("rain")
    assert "frosty" not in str(caught.value)
    assert "misty" not in str(caught.value)
    assert "sunny" in str(caught.value)
