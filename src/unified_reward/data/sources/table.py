"""The published sources: what each judges, on which scale, and who published it.

A table and no code: ``layout`` names the reader of its rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from unified_reward.tasks.parse import Aspect
from unified_reward.types import Form, Scale, Task


@dataclass(frozen=True)
class Source:
    """One published set of human judgements."""

    name: str
    layout: str
    """The reader of its rows: the name of a module of this package."""
    task: Task
    form: Form | None = None
    """None where a row says it."""
    scale: Scale | None = None
    """Of the overall score, as published; None where there is none."""
    aspects: tuple[Aspect, ...] = ()
    """What is stated beside the overall score, or instead of it."""
    note: str = ""
    """What a user must know before reading: where media start, what is not certain."""
    url: str = ""
    paper: str = ""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What only this layout needs, such as names of columns."""


_HUB = "https://huggingface.co/datasets/CodeGoat24/"
_FORMS: tuple[Form, ...] = ("score", "compare")
_ARXIV = "https://arxiv.org/abs/"
_EVALMUSE: dict[str, Any] = {
    "note": "Pictures lie in the folder images beside pairwise and pointwise: give it as media.",
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
_A_OR_B = {"A": "first", "same": "tie", "B": "second"}
_LABEL_0 = {"1": "first", "1.0": "first", "0.5": "tie", "0": "second", "0.0": "second"}
_VIDEOALIGN: dict[str, Any] = {
    "layout": "preferences",
    "task": Task.VIDEO_GENERATION,
    "form": "compare",
    "aspects": tuple(
        Aspect(name, Scale(0.0, 1.0), column)
        for name, column in (
            ("visual_quality", "VQ"),
            ("motion_quality", "MQ"),
            ("text_alignment", "TA"),
        )
    ),
    "paper": _ARXIV + "2501.13918",
    "options": {
        "columns": {"first": "path_A", "second": "path_B", "winner": "Overall"},
        "words": _A_OR_B,
    },
}
_PICKAPIC: dict[str, Any] = {
    "prompt": "caption",
    "first": ("jpg_0", "image_0", "image_0_uid", "image_0_url"),
    "second": ("jpg_1", "image_1", "image_1_uid", "image_1_url"),
}
_GENAI_BENCH: dict[str, Any] = {
    "layout": "preferences",
    "form": "compare",
    "note": "Ties are of two kinds; the rationale holds the vote, tievote or bothbad_vote.",
    "url": "https://huggingface.co/datasets/TIGER-Lab/GenAI-Bench",
    "paper": _ARXIV + "2406.04485",
}
_GENAI_VOTES: dict[str, Any] = {
    "words": {
        "leftvote": "first",
        "rightvote": "second",
        "tievote": "tie",
        "bothbad_vote": "tie",
    },
    "kept": ("tievote", "bothbad_vote"),
}
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
_JUDGEMENTS = (
    Source(
        "imagereward",
        "rankings",
        Task.IMAGE_GENERATION,
        "compare",
        note="Rankings of 4 to 9 pictures. Its benchmark leaves out the ties.",
        url="https://github.com/THUDM/ImageReward",
        paper=_ARXIV + "2304.05977",
    ),
    Source(
        "videoalign",
        note="Without a column Overall there are aspects alone and no winner.",
        url="https://github.com/KwaiVGI/VideoAlign",
        **_VIDEOALIGN,
    ),
    Source(
        "videogen_rewardbench",
        url="https://huggingface.co/datasets/KwaiVGI/VideoGen-RewardBench",
        **_VIDEOALIGN,
    ),
    Source(
        "pickapic",
        "preferences",
        Task.IMAGE_GENERATION,
        "compare",
        note="Without embedded pictures a file is named by its uid or by the end of its URL.",
        url="https://huggingface.co/datasets/yuvalkirstain/pickapic_v2",
        paper=_ARXIV + "2305.01569",
        options={
            "columns": _PICKAPIC | {"id": ("id", "ranking_id"), "winner": "label_0"},
            "words": _LABEL_0,
        },
    ),
    Source(
        "pickapic_val500",
        "preferences",
        Task.IMAGE_GENERATION,
        "compare",
        note="Label 0 names the first picture, where label_0 of Pick-a-Pic itself says it lost.",
        url="https://github.com/MJ-Bench/MJ-Bench",
        paper=_ARXIV + "2305.01569",
        options={
            "columns": _PICKAPIC | {"winner": "label"},
            "words": {"0": "first", "tie": "tie", "1": "second"},
        },
    ),
    Source(
        "mjbench_quality",
        "preferences",
        Task.IMAGE_GENERATION,
        "compare",
        note="By construction, not by vote, and always the first: exchange half of them.",
        url="https://github.com/MJ-Bench/MJ-Bench",
        paper=_ARXIV + "2407.04842",
        options={"columns": _PICKAPIC | {"winner": "label_0"}, "words": _LABEL_0},
    ),
    Source(
        "genai_bench_image",
        task=Task.IMAGE_GENERATION,
        options={
            "columns": {"first": "left_image", "second": "right_image", "winner": "vote_type"},
            **_GENAI_VOTES,
        },
        **_GENAI_BENCH,
    ),
    Source(
        "genai_bench_edit",
        task=Task.IMAGE_EDITING,
        options={
            "columns": {
                "prompt": "instruct_prompt",
                "first": "left_output_image",
                "second": "right_output_image",
                "context": "source_image",
                "winner": "vote_type",
            },
            **_GENAI_VOTES,
        },
        **_GENAI_BENCH,
    ),
    Source(
        "genai_bench_video",
        task=Task.VIDEO_GENERATION,
        options={
            "columns": {
                "first": ("video_left", "left_video"),
                "second": ("video_right", "right_video"),
                "winner": "vote_type",
            },
            **_GENAI_VOTES,
        },
        **_GENAI_BENCH,
    ),
    Source(
        "vl_rewardbench",
        "preferences",
        Task.IMAGE_UNDERSTANDING,
        "compare",
        note="The first is better in 1,245 of 1,250: exchange half of them. Of the 25 ids that "
        "stand twice, the second row has :2 behind it.",
        url="https://huggingface.co/datasets/MMInstruction/VL-RewardBench",
        paper=_ARXIV + "2411.17451",
        options={
            "columns": {
                "prompt": "query",
                "pair": "response",
                "context": "image",
                "winner": "human_ranking",
            },
            "words": {"[0, 1]": "first", "[1, 0]": "second"},
            "repeated_ids": True,
        },
    ),
    Source(
        "fetv",
        "ratings",
        Task.VIDEO_GENERATION,
        "score",
        Scale(1.0, 5.0),
        tuple(
            Aspect(name, Scale(1.0, 5.0), name)
            for name in ("static_quality", "temporal_quality", "alignment")
        ),
        note="One row for each clip, with lists of its raters' scores. There is no overall score. "
        "An id is <line of the prompt>:<model>.",
        url="https://github.com/llyx97/FETV",
        paper=_ARXIV + "2311.01813",
        options={"id": "{id}:{model}", "media": "videos/{model}/{id}.mp4"},
    ),
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
SOURCES: dict[str, Source] = {source.name: source for source in (*_CONVERSATIONS, *_JUDGEMENTS)}
