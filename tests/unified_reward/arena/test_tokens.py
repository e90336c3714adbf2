import json
import stat

import pytest

from unified_reward.arena.tokens import open_tokens
from unified_reward.core.errors import ConfigError, DataError


def test_tokens_are_secret_reused_and_added(tmp_path):
    path = tmp_path / "VOTES.jsonl.tokens.json"
    first = open_tokens(path, ["ann", "bob"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert open_tokens(path, []) == first
    more = open_tokens(path, ["bob", "eve"])
    assert list(more.raters) == ["ann", "bob", "eve"]
    assert (more.owner, more.key, more.raters["ann"]) == (
        first.owner,
        first.key,
        first.raters["ann"],
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secrets = [more.owner, more.key, *more.raters.values()]
    assert len(set(secrets)) == 5
    assert min(map(len, secrets)) >= 32


def test_a_token_names_its_rater_and_nobody_else(tmp_path):
    tokens = open_tokens(tmp_path / "tokens.json", [])
    (name,) = tokens.raters
    assert name == "rater-1"
    token = tokens.raters[name]
    assert tokens.rater(token) == name
    for wrong in ("", token[:-1], token + "x", tokens.owner, "\udc80", "é"):
        assert tokens.rater(wrong) is None
    assert tokens.is_owner(tokens.owner)
    assert not tokens.is_owner(token)


@pytest.mark.parametrize("name", ["", "a/b", "two words", "x" * 65, "a\nb"])
def test_a_name_that_is_no_name_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="a rater's name is"):
        open_tokens(tmp_path / "tokens.json", [name])
    assert not list(tmp_path.iterdir())


def test_a_file_of_something_else_is_refused_and_left(tmp_path):
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps({"raters": {"ann": "x"}}), "utf-8")
    with pytest.raises(DataError, match="holds no tokens of an arena: key: Field required"):
        open_tokens(path, ["bob"])
    assert "bob" not in path.read_text("utf-8")
