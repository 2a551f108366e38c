"""Scenes at once: the same bits by one process or several, and as a source."""

from __future__ import annotations

import numpy as np
import pytest

from echoic.data.synth.corpus import SceneSource, draw_scenes, render_all
from echoic.types import ConfigError


def test_number_of_processes_changes_nothing():
    scenes = draw_scenes(70, split="valid", seed=4, max_s=2.0)
    together = render_all(scenes, 8000, processes=2)
    for alone in render_all(scenes[:21], 8000):
        assert np.array_equal(next(together), alone)
    together.close()  # a reader may stop early


def test_source_renders_what_is_read():
    scenes = draw_scenes(3, split="test", max_s=2.0)
    source = SceneSource(scenes)
    assert [clip.key for clip in source.clips] == [scene.key for scene in scenes]
    assert np.array_equal(source.read(2, 8000), list(render_all(scenes, 8000))[2])
    with pytest.raises(ConfigError, match="no split"):
        draw_scenes(1, split="dev")
