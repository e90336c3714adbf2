"""The published benchmarks among the sources, and votes that come in the same layouts.

A table and no code: ``layout`` names the reader of its rows.
"""

from __future__ import annotations

from typing import Any

from unified_reward.core.samples import Task
from unified_reward.core.verdicts import Scale
from unified_reward.data.sources.source import Source
from unified_reward.prompts.parse import Aspect


_ARXIV = "https://arxiv.org/abs/"
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
    "note": "Ties are of two kinds; the tag vote tells them apart: tievote or bothbad_vote.",
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
    "tags": {"vote": "vote_type"},
}
BENCHMARKS = (
    Source(
        "imagereward",
        "rankings",
        Task.IMAGE_GENERATION,
        "compare",
        note="Rankings of 4 to 9 images. Its benchmark leaves out the ties.",
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
        note="Without embedded images a file is named by its uid or by the end of its URL.",
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
        note="Label 0 names the first image, where label_0 of Pick-a-Pic itself says it lost.",
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
        note="One row for each video, with lists of its raters' scores. There is no overall score. "
        "An id is <line of the prompt>:<model>.",
        url="https://github.com/llyx97/FETV",
        paper=_ARXIV + "2311.01813",
        options={
            "id": "{id}:{model}",
            "media": "videos/{model}/{id}.mp4",
            "tags": {"prompt": "id", "model": "model"},
        },
    ),
    Source(
        "hpdv2",
        "rankings",
        Task.IMAGE_GENERATION,
        "compare",
        note="test.json; images lie in the folder test. A rank is that of all annotators.",
        url="https://huggingface.co/datasets/ymhao/HPDv2",
        paper=_ARXIV + "2306.09341",
        options={"columns": {"generations": "image_path", "ranking": "rank"}},
    ),
    Source(
        "multimodal_rewardbench",
        "preferences",
        Task.IMAGE_UNDERSTANDING,
        "compare",
        note="all_data.json as its script 0 makes it. An id is <category>:<ID>.",
        url="https://github.com/facebookresearch/multimodal_rewardbench",
        paper=_ARXIV + "2502.14191",
        options={
            "columns": {
                "id": "ID",
                "prompt": "Text",
                "first": "Output1",
                "second": "Output2",
                "context": "Image",
                "winner": "Better",
            },
            "words": {"Output1": "first", "Output2": "second"},
            "tags": {"category": "Category"},
            "group": "category",
        },
    ),
    *(
        Source(
            f"mmrb2_{name}",
            "interleaved",
            task,
            "compare",
            note="As its build_from_hf.py writes it. The tag prompt_source is as there.",
            url="https://github.com/facebookresearch/MMRB2",
            paper=_ARXIV + "2512.16899",
            options={"rows": "pairs", "answers": task is Task.IMAGE_UNDERSTANDING},
        )
        for name, task in (
            ("t2i", Task.IMAGE_GENERATION),
            ("edit", Task.IMAGE_EDITING),
            ("interleaved", Task.IMAGE_GENERATION),
            ("reasoning", Task.IMAGE_UNDERSTANDING),
        )
    ),
    Source(
        "videorewardbench",
        "preferences",
        Task.VIDEO_UNDERSTANDING,
        "compare",
        note="Its columns are documented nowhere we could read: these are tried, and a row without "
        "them is an error. An id is <dimension>:<id>; the chosen answer is the first.",
        url="https://huggingface.co/datasets/Dragonriser/VideoRewardBench",
        paper=_ARXIV + "2509.00484",
        options={
            "columns": {
                "prompt": ("question", "query", "prompt"),
                "first": ("chosen", "chosen_response"),
                "second": ("rejected", "rejected_response"),
                "context": ("video", "video_path"),
            },
            "always": "first",
            "tags": {"dimension": ("dimension", "category", "subset")},
            "group": "dimension",
        },
    ),
    Source(
        "nlvr",
        "sentences",
        Task.IMAGE_GENERATION,
        "compare",
        note="dev.json or test.json, of each image the first order of its boxes.",
        url="https://github.com/lil-lab/nlvr",
        paper="https://aclanthology.org/P17-2034",
        options={
            "media": tuple(
                f"{place}{split}-{{identifier}}-0.png"
                for split in ("test", "dev")
                for place in ("images/{directory}/", "")
            )
        },
    ),
)
