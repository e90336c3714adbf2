"""Parts of `benchmarks.gpu`; each module has ``measure(run)``, an iterator of rows."""

import sys
from importlib.util import find_spec
from pathlib import Path


if find_spec("unified_reward") is None:  # a checkout that is not installed
    sys.path += map(str, Path(__file__).parents[2].glob("packages/*/src"))
