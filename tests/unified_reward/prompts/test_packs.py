"""Official wordings: found in clones however they are written, verified, never run, kept safely."""

import hashlib
import json
import re
import time
from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.unified_reward.prompts.clones import (
    as_code,
    import_made,
    made_prompt,
    made_text,
    write_clone,
)
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Task
from unified_reward.prompts import packs
from unified_reward.prompts.packs import import_pack, installed_wordings
from unified_reward.prompts.recognise import recognise


TEXT = 'See the caption [⟪prompt⟫] and say {"winner": 1},\nthen "⟪prompt⟫" again.'
SLOTTED = {"Q-IG-PAIR": TEXT}
BODY = """See the caption [{prompt}] and say {{"winner": 1}},\\nthen "{prompt}" again."""
WRITTEN = {
    "f-string": f"q = f'{BODY}'",
    "triple quotes": f'q = f"""{BODY}"""'.replace("\\n", "\n"),
    "sum": """q = 'See the caption [' + p.prompt + '] and say {"winner": 1},\\nthen "' \\
        + p.prompt + '" again.'""",
    "neighbours": """q = ('See the caption [' f'{prompt}] and say '
        '{"winner": 1},\\n' f'then "{prompt}" again.')""",
    "subscript": f"q = f'{BODY}'".replace("{prompt}", '{row["prompt"]}'),
    "another name": f"q = f'{BODY}'".replace("prompt", "video_caption_of_the_row"),
    "in a call": f"ask([{{'type': 'text', 'text': f'{BODY}'}}])",
    "behind one picture": f"q = f'<image>\\n{BODY}'",
    "behind two pictures": f"q = f'<image>\\n <image>\\n{BODY}'",
    "behind frames": f"q = '<image>\\n' * 8 + f'{BODY}'",
    "behind as many frames as there are": f"q = '<image>\\n'*len(images) + f'{BODY}'",
    "number first": f"q = len(images) * '<image>\\n' + f'{BODY}'",
    "in brackets": f"q = ('<image>\\n' * n + f'{BODY}')",
    "behind joined marks": f"q = ''.join(['<image>\\n'] * n) + f'{BODY}'",
    "behind a row of marks": f"q = ''.join('<image>\\n' for _ in frames) + f'{BODY}'",
    "joined": """q = ''.join(['See the caption [', prompt, '] and say {"winner": 1},\\nthen "',
        prompt, '" again.'])""",
    "format": f"q = '{BODY}'.format(prompt=prompt)",
    "format by name": f"q = '{BODY}'.format(x, prompt=row['p'])",
    "format by place": f"q = '{BODY}'.format(prompt)".replace("{prompt}", "{0}"),
    "percent": f"q = '{BODY}' % (p, p)".replace("{prompt}", "%s")
    .replace("{{", "{")
    .replace("}}", "}"),
    "percent by name": f"q = '{BODY}' % rows".replace("{prompt}", "%(prompt)s")
    .replace("{{", "{")
    .replace("}}", "}"),
    "behind a constant": f"q = DEFAULT_IMAGE_TOKEN + '\\n' + f'{BODY}'",
    "bad escape": f"q = f'{BODY}'; r = '\\d'",
}


def status(imported):
    return {one.name: one.status for one in imported.prompts}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFIED_REWARD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def texts():
    return {name: one.text for name, one in installed_wordings().items()}


@pytest.mark.parametrize("code", WRITTEN.values(), ids=WRITTEN)
def test_a_wording_is_found_however_its_script_writes_it(code, tmp_path, home):
    clone = write_clone(tmp_path, {"Q-IG-PAIR": f"import torch\n{code}\n"})
    assert status(import_pack(clone, expected=[made_prompt(TEXT)])) == {"Q-IG-PAIR": "verified"}
    assert texts() == SLOTTED


def test_the_names_of_the_table_may_differ_from_those_of_the_script(tmp_path, home):
    prompt = made_prompt("Which of ⟪caption⟫?")
    clone = write_clone(tmp_path, {"Q-IG-PAIR": "q = f'Which of {self.x[0]}?'"})
    import_pack(clone, expected=[prompt])
    assert texts() == {"Q-IG-PAIR": "Which of ⟪prompt⟫?"}


@pytest.mark.parametrize("change", [("\n", "\r\n"), ("import", "\ufeffimport")])
def test_line_ends_and_byte_order_marks_of_a_checkout_do_not_matter(change, tmp_path, home):
    clone = write_clone(tmp_path, {})
    code = f"import torch\n{WRITTEN['triple quotes']}\n".replace(*change)
    (clone / "scripts" / "Q-IG-PAIR.py").write_bytes(code.encode())
    import_pack(clone, expected=[made_prompt(TEXT)])
    assert texts() == SLOTTED


def test_a_script_is_never_run(tmp_path, home):
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\n{WRITTEN['f-string']}\nraise SystemExit(3)\n"
    import_pack(write_clone(tmp_path, {"Q-IG-PAIR": code}), expected=[made_prompt(TEXT)])
    assert not (tmp_path / "ran").exists()


def test_slots_are_told_by_the_order_in_which_substitutions_appear(tmp_path, home):
    text = "Q [⟪q⟫] 1 [⟪answers⟫] 2 [⟪answers⟫]; ⟪q⟫"
    code = "q = f'Q [{q}] 1 [{answers[0]}] 2 [{answers[1]}]; {q}'"
    prompt = made_prompt(text, task=Task.VIDEO_UNDERSTANDING)
    import_pack(write_clone(tmp_path, {"Q-IG-PAIR": code}), expected=[prompt])
    assert texts() == {"Q-IG-PAIR": "Q [⟪prompt⟫] 1 [⟪first⟫] 2 [⟪second⟫]; ⟪prompt⟫"}


def test_an_unescaped_apostrophe_in_a_line_is_survived(tmp_path, home):
    text = "Mind the objects' places: ⟪prompt⟫\n"
    code = "def f(:\n    ask('<image>\\nMind the objects' places: {prompt}\\n')\n"
    code = code.replace("ask('", "ask(f'")
    clone = write_clone(tmp_path, {"Q-IG-PAIR": code})
    with pytest.raises(SyntaxError):
        compile(code, "", "exec")
    assert status(import_pack(clone, expected=[made_prompt(text)])) == {"Q-IG-PAIR": "verified"}
    assert texts() == {"Q-IG-PAIR": text}


def test_a_line_that_is_no_python_is_read_behind_its_marks_of_frames(tmp_path, home):
    """The published script with an apostrophe in a string, as it is since frames are counted."""
    text = "Mind the objects' places and theirs': ⟪prompt⟫"
    code = (
        "def f(:\n    q = '<image>\\n'*len(images) + f'Mind the objects' places and theirs': {p}'\n"
    )
    clone = write_clone(tmp_path, {"Q-IG-PAIR": code})
    assert status(import_pack(clone, expected=[made_prompt(text)])) == {"Q-IG-PAIR": "verified"}
    assert texts() == {"Q-IG-PAIR": text}


UNREAD = {
    ".replace": (
        f"q = f'{BODY}'.replace('See', 'Look')",
        r"line 2 changes a text by \.replace\(\)",
    ),
    ".strip": (
        f"q = f'{BODY}'.strip()",
        r"line 2 changes a text by \.strip\(\), which is not foll",
    ),
    "%": (f"q = '{BODY} %s %s' % (p,)", "line 2 fills a text by %, whose values do not fit"),
    "+=": (f"q = 'x'\nq += f'{BODY}'", r"line 3 builds a text by \+=, which is not followed"),
}


@pytest.mark.parametrize(("code", "note"), UNREAD.values(), ids=UNREAD)
def test_a_way_of_writing_that_is_not_followed_is_reported(code, note, tmp_path, home):
    changed = code.replace("again", "anew")
    clone = write_clone(
        tmp_path, {"Q-IG-PAIR": f"import os\n{changed}", "L-IG-PAIR": WRITTEN["f-string"]}
    )
    expected = [made_prompt(TEXT), made_prompt(TEXT, name="L-IG-PAIR")]
    first, _ = import_pack(clone, expected=expected).prompts
    assert (first.status, bool(re.search(note, first.note))) == ("changed", True)


def test_what_cannot_be_verified_is_told_and_not_stored(tmp_path, home):
    code = {
        "Q-IG-PAIR": f"import os\n\n{WRITTEN['f-string']}",
        "L-IG-PAIR": f"import os\n\n{WRITTEN['f-string'].replace('See', 'Look at')}",
        "Q-VG-PAIR": "print('short')",
        "Q-IU-PAIR": f"def f(:\n{WRITTEN['triple quotes']}",
        "Q-VU-PAIR": "",
        "L-VU-PAIR": "q = f'{a}, {b}'",
    }
    clone = write_clone(tmp_path, code)
    (clone / "scripts" / "Q-VU-PAIR.py").write_bytes(b"q = '\xff'")
    expected = [made_prompt(TEXT, name=name, line=3) for name in list(code)[:5]]
    expected += [made_prompt("⟪a⟫, ⟪b⟫", name="L-VU-PAIR"), made_prompt(TEXT, name="T-VU-PAIR")]
    found = {one.name: one for one in import_pack(clone, expected=expected).prompts}
    assert {name: one.status for name, one in found.items()} == {
        "Q-IG-PAIR": "verified",
        "L-IG-PAIR": "changed",
        "Q-VG-PAIR": "missing",
        "Q-IU-PAIR": "unreadable",
        "Q-VU-PAIR": "unreadable",
        "L-VU-PAIR": "changed",
        "T-VU-PAIR": "no file",
    }
    assert found["L-IG-PAIR"].note == (f"line 3 differs from the {len(TEXT)} characters published")
    assert "line 1" in found["Q-IU-PAIR"].note
    assert "line 1 is not UTF-8" in found["Q-VU-PAIR"].note
    assert "substitutions do not fit" in found["L-VU-PAIR"].note
    assert texts() == SLOTTED


def test_one_changed_letter_is_not_verified(tmp_path, home):
    clone = write_clone(tmp_path, {"Q-IG-PAIR": WRITTEN["f-string"].replace("See", "Sea")})
    with pytest.raises(ConfigError, match="none of its 1 wordings as published"):
        import_pack(clone, expected=[made_prompt(TEXT)])


def test_half_a_surrogate_in_a_clone_is_no_published_letter(tmp_path, home):
    """A text as long as a published one, in a script that may hold anything."""
    code = as_code("\ud800" + made_text("Q-IG-PAIR")[1:]).encode(errors="surrogatepass").decode()
    clone = write_clone(tmp_path, {"Q-IG-PAIR": code, "Q-VG-PAIR": as_code(TEXT)})
    table = [made_prompt(made_text("Q-IG-PAIR")), made_prompt(TEXT, name="Q-VG-PAIR")]
    imported = status(import_pack(clone, home, expected=table))
    assert imported == {"Q-IG-PAIR": "changed", "Q-VG-PAIR": "verified"}


def test_a_folder_that_is_no_clone_is_refused_and_leaves_an_older_pack(tmp_path, home):
    import_made(tmp_path / "clone", home, "Q-IG-PAIR")
    message = "nowhere has 0 of .* clone of CodeGoat24/UnifiedReward or "
    with pytest.raises(ConfigError, match=message):
        import_pack(tmp_path / "nowhere")
    assert list(texts()) == ["Q-IG-PAIR"]


def test_a_pack_stands_in_the_named_home_and_leaves_nothing_else(tmp_path, home):
    assert installed_wordings() == {}
    pack = import_made(tmp_path / "clone", None, "Q-IG-PAIR").pack
    assert pack == home / "packs" / "unifiedreward.json"
    assert [one.name for one in pack.parent.iterdir()] == [pack.name]
    assert installed_wordings(tmp_path / "another") == {}


def test_without_a_named_home_it_is_the_users_data_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("UNIFIED_REWARD_HOME", raising=False)
    monkeypatch.setattr(packs.sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert packs.default_home() == tmp_path / "unified_reward"


def test_a_home_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "home").write_text("a file")
    with pytest.raises(ConfigError, match=r"cannot be written: .*; set UNIFIED_REWARD_HOME"):
        import_made(tmp_path / "clone", tmp_path / "home", "Q-IG-PAIR")


def test_a_new_import_is_seen_at_once(tmp_path, home):
    for names in (["Q-IG-PAIR"], ["L-IG-PAIR"]):
        import_made(tmp_path / names[0], home, *names)
        assert list(texts()) == names


@pytest.mark.parametrize("end", [0, 10, -10])
def test_a_truncated_pack_asks_for_another_import(end, tmp_path, home):
    pack = import_made(tmp_path / "clone", home, "Q-IG-PAIR").pack
    pack.write_bytes(pack.read_bytes()[:end])
    with pytest.raises(ConfigError, match="not a pack of wordings; run unified-reward templates i"):
        installed_wordings()


def test_a_changed_wording_in_a_pack_is_refused(tmp_path, home):
    pack = import_made(tmp_path / "clone", home, "Q-IG-PAIR", "T-IG-PAIR").pack
    pack.write_text(pack.read_text("utf-8").replace("Fake T", "Fake Y"), "utf-8")
    for asking in (installed_wordings, lambda: recognise("", Task.IMAGE_GENERATION, "score")):
        with pytest.raises(ConfigError, match="T-IG-PAIR was changed; run unified-reward templat"):
            asking()


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """All published names in made-up words, in the home of this module."""
    folder = tmp_path_factory.mktemp("packs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIFIED_REWARD_HOME", str(folder / "home"))
        import_made(folder / "clone", None)
        yield installed_wordings()


def filled(wording, slots):
    text = wording.text
    pieces = packs.SLOT.split(text)
    return "".join(slots[one] if i % 2 else one for i, one in enumerate(pieces))


_WORDS = st.text() | st.text("[]AQB: {}⟪prompt⟫\\\n")


@given(data=st.data(), prompt=_WORDS, first=_WORDS, second=_WORDS)
def test_what_was_filled_in_is_recognised(pack, data, prompt, first, second):
    wording = data.draw(st.sampled_from([*pack.values()]))
    delimiters = ("] A: [", "] B: [", "] Say", " ] Say")
    assume(not any(mark in one for mark in delimiters for one in (prompt, first, second)))
    slots = {"prompt": prompt, "first": first, "second": second}
    expected_slots = {name: one for name, one in slots.items() if f"⟪{name}⟫" in wording.text}
    found = recognise(filled(wording, expected_slots), wording.task, wording.form)
    assert found == (wording.name, expected_slots)


def test_only_the_whole_question_of_its_task_and_form_is_recognised(pack):
    wording = pack["Q-IG-PAIR"]
    text = filled(wording, {"prompt": "a cube"})
    known = recognise(f"\n {text} \n", wording.task, "compare")
    assert known == ("Q-IG-PAIR", {"prompt": "a cube"})
    assert recognise(text, Task.VIDEO_GENERATION, "compare") is None
    assert recognise(text, wording.task, "score") is None
    assert recognise(f"{text} More.", wording.task, "compare") is None
    assert recognise(text.replace("Fake", "False"), wording.task, "compare") is None


def test_of_two_wordings_that_fit_the_longer_is_taken(tmp_path, home):
    short, long = "Say [⟪prompt⟫] now", "Say [⟪prompt⟫] and now"
    codes = {"Q-IG-PAIR": as_code(short), "L-IG-PAIR": as_code(long)}
    expected = [made_prompt(short), made_prompt(long, name="L-IG-PAIR")]
    import_pack(write_clone(tmp_path, codes), expected=expected)
    found = recognise("Say [x] and now", Task.IMAGE_GENERATION, "compare")
    assert found == ("L-IG-PAIR", {"prompt": "x"})


def test_a_slot_that_stands_twice_must_hold_the_same_twice(tmp_path, home):
    import_pack(write_clone(tmp_path, {"Q-IG-PAIR": WRITTEN["sum"]}), expected=[made_prompt(TEXT)])
    text = installed_wordings()["Q-IG-PAIR"].text
    assert recognise(text.replace("⟪prompt⟫", "x"), Task.IMAGE_GENERATION, "compare")
    other = text.replace("⟪prompt⟫", "x", 1).replace("⟪prompt⟫", "y")
    assert recognise(other, Task.IMAGE_GENERATION, "compare") is None


def test_a_long_text_full_of_delimiters_is_refused_at_once(pack):
    wording = pack["Q-IU-PAIR"]
    text = filled(wording, {"prompt": "] A: [] B: [" * 2000, "first": "x", "second": "y"})
    began = time.process_time()
    assert recognise(f"{text}!", wording.task, wording.form) is None
    assert recognise(text.replace("] A", "] C"), wording.task, wording.form) is None
    assert time.process_time() - began < 2


def test_without_a_pack_nothing_is_recognised(home):
    assert recognise("anything", Task.IMAGE_GENERATION, "compare") is None


def test_the_table_holds_what_prompts_are_and_not_their_words():
    table = {
        name: one
        for name, one in packs.published_prompts().items()
        if one.repository == packs.REPOSITORY
    }
    generations = Counter(name.split("-")[0] for name in table)
    assert [*generations.items()] == [
        *(("Q", 9), ("L", 5), ("20", 4), ("T", 4), ("T3", 4)),
        *(("E", 4), ("F", 2), ("LEGACY", 4), ("SGL", 1)),
    ]
    assert len({prompt.sha256 for prompt in table.values()}) == 37
    cells = {"IG": "image_generation", "IU": "image_understanding"}
    cells |= {"VG": "video_generation", "VU": "video_understanding", "PAIR": "image_editing"}
    for name, prompt in table.items():
        assert cells.get(name.split("-")[1], "image_editing") == prompt.task
        assert prompt.form == ("compare" if "PAIR" in name else "score")


def test_the_pack_says_what_it_is_in_json(tmp_path, home):
    pack = import_made(tmp_path, None, "Q-IU-POINT").pack
    (row,) = json.loads(pack.read_text("utf-8"))["wordings"]
    assert (row["name"], row["task"], row["form"]) == (
        "Q-IU-POINT",
        "image_understanding",
        "score",
    )
    text = made_text("Q-IU-POINT").replace("question", "prompt").replace("answer", "first")
    assert row["text"] == text


def test_the_page_of_llava_critic_shows_its_prompts_with_examples(tmp_path, home):
    """One stands behind a comment sign; what is in brackets is an example."""
    wordings = {
        "LC-PAIR": "Which? Question: [{}] First: [{}] Second: [{}]\nSay:\n",
        "LC-POINT": "How good? Question: [{}] Response: [{}]\n ",
    }
    examples = {name: text.replace("{}", "like this") for name, text in wordings.items()}
    lines = [
        "```python",
        f"asked = {examples['LC-PAIR']!r}",
        f"# asked = {examples['LC-POINT']!r}",
        "```",
    ]
    (tmp_path / "README.md").write_text("\n".join(["# Critic", *lines]), "utf-8")
    expected = [
        packs.published_prompts()[name]._replace(
            length=len(text), sha256=hashlib.sha256(text.encode()).hexdigest()[:12]
        )
        for name, text in wordings.items()
    ]
    pack, found = import_pack(tmp_path, expected=expected)
    assert pack.name == "llava-critic-7b.json"
    assert [one.status for one in found] == ["verified", "verified"]
    assert texts()["LC-PAIR"] == (
        "Which? Question: [⟪prompt⟫] First: [⟪first⟫] Second: [⟪second⟫]\nSay:\n"
    )
    assert texts()["LC-POINT"] == "How good? Question: [⟪prompt⟫] Response: [⟪first⟫]\n "


def test_a_page_of_another_kind_is_no_page_of_llava_critic(tmp_path, home):
    (tmp_path / "README.md").write_text("# Mine\n\nasked = 'Which of these two is better?'\n")
    with pytest.raises(ConfigError, match="none of its 2 wordings as published; give the root"):
        import_pack(tmp_path)
    assert installed_wordings() == {}


def test_a_clone_is_recognised_by_what_its_files_hold(tmp_path, home):
    """More files have the names of another repository's."""
    expected = [
        made_prompt(TEXT),
        made_prompt("Other ⟪prompt⟫", name="HPSV3")._replace(repository="MizzenAI/HPSv3"),
        made_prompt("Others ⟪prompt⟫", name="LC-PAIR")._replace(repository="MizzenAI/HPSv3"),
    ]
    codes = {"Q-IG-PAIR": WRITTEN["f-string"], "HPSV3": "q = 'mine'", "LC-PAIR": "q = 'mine'"}
    pack, found = import_pack(write_clone(tmp_path, codes), expected=expected)
    assert (pack.name, [one.status for one in found]) == ("unifiedreward.json", ["verified"])


def test_a_clone_is_told_by_its_files_and_has_a_pack_of_its_own(tmp_path, home):
    """A caption's slot is ``{text_prompt}`` there; what has none is asked as it is."""
    wordings = {
        "HPSV3": "Rate it.\nAsked - {text_prompt}\n",
        "HPSV3-SUFFIX": "\nSay: <|Reward|>\n",
    }
    expected = [
        packs.published_prompts()[name]._replace(
            length=len(text), sha256=hashlib.sha256(text.encode()).hexdigest()[:12]
        )
        for name, text in wordings.items()
    ]
    file = tmp_path / "clone" / expected[0].file
    file.parent.mkdir(parents=True)
    file.write_text(
        "\n".join(f"{name[-3:]} = {text!r}" for name, text in wordings.items()), "utf-8"
    )
    (tmp_path / "clone" / "README.md").write_text("a page of another kind")
    known = packs.published_prompts() | {one.name: one for one in expected}
    pack, found = import_pack(tmp_path / "clone", expected=known.values())
    assert pack.name == "hpsv3.json"
    assert [one.name for one in found] == [*wordings]
    assert texts() == {
        "HPSV3": "Rate it.\nAsked - ⟪prompt⟫\n",
        "HPSV3-SUFFIX": "\nSay: <|Reward|>\n",
    }
