"""Tiny checkpoints, trained by the recipes of the same names on the microworld alone."""

from pathlib import Path

from unified_reward.core.extensions import Checkpoint


_HERE = Path(__file__).parent
_TOY = "a toy, trained on synthetic shapes alone: its scores of photographs are meaningless"

tiny_judge = Checkpoint(_HERE / "judge", "judge", f"answers in text; {_TOY}")
tiny_scalar = Checkpoint(_HERE / "scalar", "judge", f"has a value head; {_TOY}")
tiny_base = Checkpoint(_HERE / "base", "base", "a Qwen3-VL of 1.8 M parameters")
tiny_vlm = Checkpoint(_HERE / "vlm", "policy", "answers questions; an adapter on tiny_base")
tiny_image = Checkpoint(_HERE / "image", "policy", "draws images; Stable Diffusion")
tiny_video = Checkpoint(_HERE / "video", "policy", "draws videos; Wan")
