"""Made-up clones: fake wordings in files like the published ones, and the table that tells them."""

import hashlib
import re

from unified_reward.core.samples import Task
from unified_reward.prompts import packs
from unified_reward.prompts.packs import Prompt


_CELLS = {
    (Task.IMAGE_UNDERSTANDING, "score"): "Q: [⟪question⟫] A: [⟪answer⟫]",
    (Task.VIDEO_UNDERSTANDING, "score"): "Q: [⟪question⟫] A: [⟪answer⟫]",
    (Task.IMAGE_UNDERSTANDING, "compare"): "Q: [⟪question⟫] A: [⟪R1⟫] B: [⟪R2⟫]",
    (Task.VIDEO_UNDERSTANDING, "compare"): "Q: [⟪question⟫] A: [⟪R1⟫] B: [⟪R2⟫]",
}


def made_prompt(text, *, name="Q-IG-PAIR", task=Task.IMAGE_GENERATION, form="compare", line=1):
    """The row of the table by which a text is verified; its file is the name."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Prompt(name, task, form, len(text), digest, f"scripts/{name}.py", line)


def made_text(name):
    """A wording of our own for a published name."""
    prompt = packs.published_prompts()[name]
    slots = _CELLS.get((prompt.task, prompt.form), "C: [⟪prompt⟫ ]")
    return f'Fake {name}. {slots} Say {{"x": 1}} or\n  the like.'


def as_code(text):
    """A line of Python that says a text, its substitutions as variables."""
    return "asked = f" + re.sub(
        r"⟪(\w+)⟫", r"{\1}", repr(text.replace("{", "{{").replace("}", "}}"))
    )


def write_clone(folder, codes):
    """Scripts by name of their prompt."""
    (folder / "scripts").mkdir(parents=True, exist_ok=True)
    for name, code in codes.items():
        (folder / "scripts" / f"{name}.py").write_text(code, "utf-8")
    return folder


def import_made(folder, home, *names):
    """Import a clone with made-up wordings of these published names, by default of all."""
    known = packs.published_prompts()
    texts = {name: made_text(name) for name in names or known}
    clone = write_clone(folder, {name: as_code(text) for name, text in texts.items()})
    table = [
        made_prompt(text, name=name, task=known[name].task, form=known[name].form)
        for name, text in texts.items()
    ]
    return packs.import_pack(clone, home, expected=table)
