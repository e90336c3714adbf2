"""Policies as inputs: sampled with equal seeds, resumed, and recognised by their folder."""

from contextlib import contextmanager

import pytest

from tests.unified_reward.evaluate.files import pictures, write_prompts, write_rows
from tests.unified_reward.policies import pipelines
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.samples import Task
from unified_reward.evaluate.inputs import read_models
from unified_reward.evaluate.sampling import PolicySampling, is_policy


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return pipelines.pictures(tmp_path_factory.mktemp("policies") / "painter")


@pytest.fixture
def prompts(tmp_path):
    return write_prompts(tmp_path / "prompts.txt", "a cat", "a dog")


class Settings:
    """Sampling in one step, and the totals of the progress bars that it opened."""

    def __init__(self, out, **options):
        self.totals = []
        options = {"n": 2, "options": {"steps": 1}, "device": "cpu"} | options
        self.sampling = PolicySampling(out, progress=self.bar, **options)

    @contextmanager
    def bar(self, title, total):
        self.totals.append((title, total))
        yield lambda n: None


def test_policies_are_sampled_with_equal_seeds_and_once(tmp_path, policy, prompts):
    settings = Settings(tmp_path / "out")
    options = {"prompts": prompts, "policies": [f"again={policy}"], "sampling": settings.sampling}
    found = read_models([str(policy)], **options)
    assert found.models == ["painter", "again"]
    assert {key: len(parts) for key, parts in found.outputs["painter"].items()} == {"0": 2, "1": 2}
    assert {prompt.task for prompt in found.prompts.values()} == {Task.IMAGE_GENERATION}
    # The second is the first under another name, so equal seeds are equal files.
    assert found.notes[0].startswith("4 files of painter are byte for byte files of again")
    assert settings.totals == [("sampling painter", 2), ("sampling again", 2)]
    settings.totals.clear()
    assert read_models([str(policy)], **options) == found
    assert settings.totals == [("sampling painter", 0), ("sampling again", 0)]
    with pytest.raises(ConfigError, match="seed was 0 and is 1"):
        read_models([str(policy)], prompts, sampling=Settings(tmp_path / "out", seed=1).sampling)


def test_a_policy_and_a_folder_of_files_are_compared(tmp_path, policy, prompts):
    pictures(tmp_path / "old", "0.png", "1.png")
    settings = Settings(tmp_path / "out", n=1)
    found = read_models([str(tmp_path / "old"), str(policy)], prompts, sampling=settings.sampling)
    assert found.models == ["old", "painter"]
    assert found.missing == ()


def test_a_policy_needs_an_output_folder(policy, prompts):
    with pytest.raises(ConfigError, match="painter is a policy, and sampling from it needs --out"):
        read_models([str(policy)], prompts)


def test_a_policy_for_another_kind_of_output_is_refused_before_it_samples(tmp_path, policy):
    prompts = write_rows(tmp_path / "p.jsonl", {"prompt": "a cat", "task": "video_generation"})
    settings = Settings(tmp_path / "out")
    with pytest.raises(DataError, match="task video_generation, and the outputs are images"):
        read_models([str(policy)], prompts, sampling=settings.sampling)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["model_index.json"], True),
        (["config.json", "model.safetensors"], True),
        (["adapter_config.json", "adapter_model.safetensors"], True),
        (["config.json", "0.png"], False),
        (["0.png"], False),
    ],
)
def test_a_policy_is_known_by_its_files(tmp_path, files, expected):
    for name in files:
        (tmp_path / name).touch()
    assert is_policy(tmp_path) is expected
