"""Guidance of pipelines that have a guider and no such argument."""

from dataclasses import replace

import numpy as np
import pytest
from diffusers import ClassifierFreeGuidance

from tests.diffusion import PIPELINES
from unified_reward.core.errors import ConfigError
from unified_reward.policies.diffusion import DiffusionPolicy


MOTIF = PIPELINES["MotifVideoPipeline"]


def build(guider=None, **options):
    pipeline = MOTIF.build()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.guider = guider or pipeline.guider
    sampling = replace(MOTIF.sampling, **options)
    return DiffusionPolicy(pipeline, sampling, name="motif", batch_size=2)


def frames(policy):
    return policy.sample("a red star", (), [1])[0].source.astype(int)


def test_guidance_is_the_scale_of_a_new_guider_that_keeps_its_other_settings():
    guider = ClassifierFreeGuidance(guidance_scale=6.0, guidance_rescale=0.5)
    policy = build(guider, guidance=2.0)
    assert dict(policy.pipeline.guider.config)["guidance_rescale"] == 0.5
    assert policy.pipeline.guider.guidance_scale == 2.0
    assert guider.guidance_scale == 6.0


def test_a_guided_clip_depends_on_the_scale():
    weak, strong = frames(build(guidance=1.0)), frames(build(guidance=6.0))
    assert np.array_equal(strong, frames(build(guidance=None))), "the scale of the pipeline"
    assert np.abs(strong - weak).max() > 1


def test_a_guider_without_a_scale_takes_no_guidance():
    class Unscaled(ClassifierFreeGuidance):
        config = {}  # noqa: RUF012

    policy = build(Unscaled(), guidance=None)
    with pytest.raises(ConfigError, match="takes no guidance"):
        DiffusionPolicy(policy.pipeline, MOTIF.sampling, name="motif", batch_size=2)
