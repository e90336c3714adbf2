"""A name that no system takes is one of nothing that is there, whoever is given it."""

from pathlib import Path

import pytest

from unified_reward.bench.run import data_folder
from unified_reward.core.errors import UnifiedRewardError
from unified_reward.data.pack import convert, rows_of
from unified_reward.data.series import find_series
from unified_reward.io.atomic import write_bytes
from unified_reward.io.config import load_config
from unified_reward.io.journal import Journal
from unified_reward.io.lock import locked
from unified_reward.judges.files import judge_files
from unified_reward.judges.registry import JudgeOptions, kind_of, open_judge
from unified_reward.judges.table import TableJudge
from unified_reward.media import image_or_video, open_image
from unified_reward.pairs.show import page
from unified_reward.policies import load
from unified_reward.prompts.packs import import_pack
from unified_reward.recipes.installed import find_recipe


READERS = {
    "bench": data_folder,
    "config": lambda name: load_config(dict, Path(name)),
    "files": lambda name: judge_files(name, JudgeOptions()),
    "image": open_image,
    "judge": open_judge,
    "judge_of_scores": lambda name: open_judge(f"table:{name}"),
    "kind": kind_of,
    "medium": image_or_video,
    "page": lambda name: page(Path(name), n=1, status="", advance=print),
    "policy": load,
    "prompts": lambda name: import_pack(Path(name)),
    "recipe": find_recipe,
    "rows": lambda name: list(rows_of(Path(name))),
    "series": lambda name: find_series(name, {}),
    "shards": lambda name: list(rows_of(Path(f"{name}.tar"))),
    "table": lambda name: TableJudge.read(Path(name)),
}
WRITERS = {
    "bytes": lambda name: write_bytes(Path(name), b""),
    "folder": lambda name: convert([], Path(name), print),
    "journal": lambda name: Journal(Path(name)),
    "lock": lambda name: locked(Path(name)).__enter__(),
}


@pytest.mark.parametrize("name", ["x" * 5000, "nul\0"], ids=["long", "nul"])
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_name_that_no_file_can_have_is_refused_by_readers(read, name):
    with pytest.raises(UnifiedRewardError):
        read(name)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_name_that_is_too_long_is_refused_by_writers(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnifiedRewardError):
        write("x" * 5000)
