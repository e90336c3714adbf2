"""A recipe is checked by name and by value before anything runs."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from unified_reward.core.errors import ConfigError
from unified_reward.io.config import as_data, load_config


@dataclass(frozen=True)
class Rates:
    lr: float = 1e-3
    steps: int = 10


@dataclass(frozen=True)
class Plan:
    rates: Rates = field(default_factory=Rates)
    extra: Rates | None = None
    out: Path = Path("runs")

    def __post_init__(self):
        if self.rates.steps < 1:
            raise ConfigError(f"steps must be at least 1, not {self.rates.steps}")


def test_without_file_and_overrides_there_are_the_defaults():
    assert load_config(Plan) == Plan()


def test_an_exponent_without_a_point_is_a_number():
    """YAML 1.1 reads 1e-4 as text."""
    assert load_config(Plan, overrides=["rates.lr=1e-4"]).rates.lr == 1e-4


def test_overrides_win_over_the_file_and_later_ones_over_earlier(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("rates: {lr: 1, steps: 2}\nout: here\n")
    plan = load_config(Plan, path, ["rates.steps=3", "rates.steps=4", "extra.steps=5"])
    assert plan == Plan(Rates(1.0, 4), Rates(steps=5), Path("here"))


@pytest.mark.parametrize(
    ("override", "result"),
    [
        ("rates.stpes=3", "rates.stpes"),
        ("raets.steps=3", "raets"),
        ("extra.stpes=3", "extra.stpes"),
        ("rates.steps=many", "rates.steps: .*integer"),
        ("rates.steps", "an override is key=value, not 'rates.steps'"),
        ("rates.steps.more=1", "rates.steps"),
        ("rates.lr=[1", r"rates.lr: '\[1' is not YAML"),
        ("rates.steps=0", "steps must be at least 1, not 0"),
    ],
)
def test_a_wrong_override_is_refused_by_name(override, result):
    with pytest.raises(ConfigError, match=result):
        load_config(Plan, overrides=["rates.steps=2", override])


@pytest.mark.parametrize(
    ("text", "result"),
    [("a: [1", "cannot be read as YAML"), ("just words", "holds no keys"), ("", "holds no keys")],
)
def test_what_is_no_recipe_is_refused_with_its_path(tmp_path, text, result):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"plan.yaml.*{result}") as caught:
        load_config(Plan, path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused_with_its_path(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere.yaml cannot be read"):
        load_config(Plan, tmp_path / "nowhere.yaml")


def test_a_configuration_written_out_reads_back_the_same(tmp_path):
    plan = Plan(Rates(1e-5, 7), out=tmp_path)
    assert load_config(Plan, overrides=[f"{k}={v}" for k, v in flat(as_data(plan))]) == plan


def flat(data, prefix=""):
    for key, value in data.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("out: a\nrates: {lr: 1}\nout: b\n", "the key 'out' stands on lines 1 and 3"),
        ("rates: {lr: 1, lr: 2}\n", "the key 'lr' stands on lines 1 and 1"),
        ("rates: {lr: 1, \xe9: 2}\n", "line 1 is not UTF-8"),
        ("[" * 5000, "cannot be read as YAML|nested too deeply"),
        ("? [a]\n: 1\n", "plan.yaml"),
    ],
)
def test_a_file_that_contradicts_itself_or_is_no_text_is_refused(text, reason, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=reason):
        load_config(Plan, path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_file_is_read_in_the_encoding_of_its_mark(encoding, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_bytes("out: é\r\nrates: {steps: 3}\r\n".encode(encoding))
    assert load_config(Plan, path) == Plan(Rates(steps=3), out=Path("é"))


@pytest.mark.parametrize(
    ("override", "name"),
    [
        ("rates.lr=true", "rates.lr: it takes a number, not true"),
        ("rates.steps=yes", "rates.steps: it takes a number"),
        ("rates.lr=.nan", "rates.lr: .*finite"),
        ("rates.lr=1e999", "rates.lr: .*finite"),
        ("extra={steps: true}", "extra.steps: it takes a number"),
    ],
)
def test_true_and_nan_are_no_numbers_of_a_recipe(override, name):
    with pytest.raises(ConfigError, match=name):
        load_config(Plan, overrides=[override])
