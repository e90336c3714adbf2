"""The published sources: what each judges, on which scale, and who published it.

A table and no code: ``layout`` names the reader of its rows.
"""

from __future__ import annotations

from typing import Any

from unified_reward.core.samples import Form, Task
from unified_reward.core.verdicts import Scale
from unified_reward.data.sources.benchmarks import BENCHMARKS
from unified_reward.data.sources.source import Source
from unified_reward.prompts.parse import Aspect


_HUB = "https://huggingface.co/datasets/CodeGoat24/"
_FORMS: tuple[Form, ...] = ("score", "compare")
_ARXIV = "https://arxiv.org/abs/"
_EVALMUSE: dict[str, Any] = {
    "note": "Images lie in the folder images beside pairwise and pointwise: give it as media.",
    "url": _HUB + "EvalMuse",
    "paper": _ARXIV + "2412.18150",
}
_LLAVA_CRITIC: dict[str, Any] = {
    "url": _HUB + "LLaVA-Critic-113k",
    "paper": _ARXIV + "2410.02712",
    "options": {"rationale": True},
}
_SHAREGPTVIDEO: dict[str, Any] = {
    "note": "Frames lie in a folder beside pairwise and pointwise: give it as media.",
    "url": _HUB + "ShareGPTVideo-DPO",
    "paper": _ARXIV + "2404.01258",
}
_VIDEOFEEDBACK = tuple(
    Aspect(name, Scale(1.0, 4.0), name)
    for name in (
        "visual quality",
        "temporal consistency",
        "dynamic degree",
        "text-to-video alignment",
        "factual consistency",
    )
)
_CONVERSATIONS = (
    Source(
        "hpd",
        "sharegpt",
        Task.IMAGE_GENERATION,
        "compare",
        url=_HUB + "HPD",
        paper=_ARXIV + "2409.11904",
    ),
    Source("oip", "sharegpt", Task.IMAGE_GENERATION, "compare", url=_HUB + "OIP"),
    Source("evalmuse_pair", "sharegpt", Task.IMAGE_GENERATION, "compare", **_EVALMUSE),
    Source(
        "evalmuse_point",
        "sharegpt",
        Task.IMAGE_GENERATION,
        "score",
        Scale(1.0, 5.0),
        options={"checks": True},
        **_EVALMUSE,
    ),
    Source("llava_critic_pair", "sharegpt", Task.IMAGE_UNDERSTANDING, "compare", **_LLAVA_CRITIC),
    Source(
        "llava_critic_point",
        "sharegpt",
        Task.IMAGE_UNDERSTANDING,
        "score",
        Scale(0.0, 100.0),
        **_LLAVA_CRITIC,
    ),
    Source(
        "videodpo",
        "sharegpt",
        Task.VIDEO_GENERATION,
        "compare",
        note="The preferences are synthetic, not human.",
        url=_HUB + "VideoDPO",
        paper=_ARXIV + "2412.14167",
    ),
    Source(
        "lift_hra",
        "sharegpt",
        Task.VIDEO_GENERATION,
        "score",
        Scale(1.0, 3.0),
        note="The answer is taken to begin with the grade, Bad, Normal or Good (1, 2, 3), as its "
        "critic says it, on the one dimension that the question names; every other answer is an "
        "error. How these rows write it is not documented.",
        url=_HUB + "LiFT-HRA",
        paper=_ARXIV + "2412.04814",
        options={"grades": {"bad": 1.0, "normal": 2.0, "good": 3.0}},
    ),
    Source(
        "videofeedback",
        "sharegpt",
        Task.VIDEO_GENERATION,
        "score",
        aspects=_VIDEOFEEDBACK,
        note="There is no overall score.",
        url=_HUB + "VideoFeedback",
        paper=_ARXIV + "2406.15252",
    ),
    Source("sharegptvideo_pair", "sharegpt", Task.VIDEO_UNDERSTANDING, "compare", **_SHAREGPTVIDEO),
    Source(
        "sharegptvideo_point",
        "sharegpt",
        Task.VIDEO_UNDERSTANDING,
        "score",
        Scale(1.0, 5.0),
        **_SHAREGPTVIDEO,
    ),
)
_EVALMUSE_RATINGS: dict[str, Any] = {
    "layout": "ratings",
    "task": Task.IMAGE_GENERATION,
    "scale": Scale(1.0, 5.0),
    "note": "The raw train_list.json, with the ratings of every annotator.",
    "url": "https://github.com/DYEvaLab/EvalMuse",
    "paper": _ARXIV + "2412.18150",
    "options": {
        "id": "{img_path}",
        "media": "{img_path}",
        "overall": "total_score",
        "elements": "element_score",
        "annotators": 3,
    },
}
_RATINGS = (
    Source("evalmuse_ratings", form="score", **_EVALMUSE_RATINGS),
    Source("evalmuse_ratings_pair", form="compare", **_EVALMUSE_RATINGS),
    *(
        Source(
            f"annotated.{task.value}.{form}",
            "annotated",
            task,
            form,
            Scale(1.0, 5.0) if form == "score" else None,
            note="Your own: the columns are described at `annotated.read`.",
        )
        for task in Task
        for form in _FORMS
    ),
)
_VOTES = (
    Source(
        "votes",
        "votes",
        Task.IMAGE_GENERATION,
        "compare",
        note="The file of votes of an arena, of any tasks; the majority of each item.",
    ),
    Source(
        "votes_stars",
        "stars",
        Task.IMAGE_GENERATION,
        "score",
        note="The stars in the same file, one to five by aspect; their mean for each candidate.",
    ),
)
SOURCES: dict[str, Source] = {
    source.name: source for source in (*_CONVERSATIONS, *BENCHMARKS, *_RATINGS, *_VOTES)
}
