"""Extensions: hints about the laboratory, and packages that are installed meanwhile."""

from importlib.metadata import EntryPoints

from unified_reward.core import extensions
from unified_reward.core.extensions import missing_hint


def test_a_name_of_the_laboratory_has_a_hint_only_where_it_is_not_installed(monkeypatch):
    assert missing_hint("tiny_judge:x") == ""
    monkeypatch.setattr(extensions, "entry_points", lambda group: EntryPoints(()))
    assert "tiny_judge:x comes with the laboratory: pip install" in missing_hint("tiny_judge:x")
    assert missing_hint("other") == ""


def test_a_package_that_is_installed_while_python_runs_is_found(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    assert "new" not in extensions.extensions("judges")
    metadata = tmp_path / "new-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: new\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[unified_reward.judges]\nnew = new:Judge\n")
    assert extensions.extensions("judges")["new"].value == "new:Judge"
