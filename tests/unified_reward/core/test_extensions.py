"""Extensions: hints about the laboratory."""

from importlib.metadata import EntryPoints

from unified_reward.core import extensions
from unified_reward.core.extensions import missing_hint


def test_a_name_of_the_laboratory_has_a_hint_only_where_it_is_not_installed(monkeypatch):
    assert missing_hint("tiny_judge:x") == ""
    monkeypatch.setattr(extensions, "entry_points", lambda group: EntryPoints(()))
    assert "tiny_judge:x comes with the laboratory: pip install" in missing_hint("tiny_judge:x")
    assert missing_hint("other") == ""
