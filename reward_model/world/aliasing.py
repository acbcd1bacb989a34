"""The aliasing suite: pairs that 2 frames per second cannot tell apart, and easy videos that they show plainly.

A row is a few numbers, so that a set of any size costs no disk: ``{"seed", "story", "kind", "abnormal"}``. Members of a
pair follow each other, the normal one first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reward_model.schema import FrameRange
from reward_model.video.clip import sample_indices
from reward_model.world.kinds import KINDS, SETTINGS_OF
from reward_model.world.look_alikes import LOOK_ALIKES, make_pair_scenes
from reward_model.world.scene import Scene, make_scene

ALIASED, EASY = "aliased", "easy"
#: The grid on which the members of a pair are equal, and one that tells them apart, in frames per second.
COARSE_FPS, FINE_FPS = 2.0, 4.0
#: Frames of the coarse grid that show the anomaly of an easy video, at least.
_SHOWN = 2


def aliasing_rows(count: int, *, first_seed: int, seed: int = 0, easy: float = 0.5) -> list[dict[str, Any]]:
    """Rows of the suite, normal and abnormal in turn.

    Args:
        count: how many, even.
        first_seed: scenes are drawn from here on.
        seed: of the draw of kinds.
        easy: share of easy videos; the others are aliased.

    Raises:
        ValueError: if the number is odd, or the share no share.
    """
    if count < 2 or count % 2 or not 0 <= easy <= 1:
        raise ValueError(
            f"rows of the suite need an even count={count} of at least 2 and a share easy={easy} of 0 to 1"
        )
    rng = np.random.default_rng([seed, 55])
    stories = [EASY] * round(easy * count / 2)
    stories += [ALIASED] * (count // 2 - len(stories))
    rows: list[dict[str, Any]] = []
    scene = first_seed
    for story in [stories[k] for k in rng.permutation(len(stories))]:
        kind = str(rng.choice(list(LOOK_ALIKES if story == ALIASED else KINDS)))
        while story == EASY and not _plain(scene, kind):
            scene += 1
        rows += [{"seed": scene, "story": story, "kind": kind, "abnormal": a} for a in (False, True)]
        scene += 1
    return rows


def aliasing_scene(row: Mapping[str, Any]) -> tuple[Scene, FrameRange | None]:
    """The scene of a row, and the native frames in which something happens that could be wrong; None in a normal easy
    video.
    """
    if row["story"] == ALIASED:
        pair = make_pair_scenes(row["seed"], row["kind"], scan_fps=COARSE_FPS, zoom_fps=FINE_FPS)
        window = FrameRange(pair.moment.start, pair.moment.end)
        return (pair.abnormal if row["abnormal"] else pair.normal), window
    wrong = _easy(row["seed"], row["kind"])
    assert wrong.fault is not None
    if row["abnormal"]:
        return wrong, wrong.fault.frames
    return make_scene(row["seed"], None, setting=wrong.setting), None


def _easy(seed: int, kind: str) -> Scene:
    settings = SETTINGS_OF[kind]
    return make_scene(seed, kind, setting=settings[seed % len(settings)])


def _plain(seed: int, kind: str) -> bool:
    """True if the coarse grid shows the anomaly on several frames."""
    scene = _easy(seed, kind)
    assert scene.fault is not None
    grid = sample_indices(scene.num_frames, scene.fps, COARSE_FPS)
    return sum(n in scene.fault.frames for n in grid) >= _SHOWN
