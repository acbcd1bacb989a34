"""Splices: the frames of a video, each drawn at random from the anomalous video or its normal twin.

In a whole video an anomalous frame mostly follows another one, so that the last sentence nearly tells the next and a
model may never learn to look; and an anomaly that only a comparison shows begins in one sentence of twenty. In a splice
only looking helps, at every frame, at this one and at the one before. Frames stay in order: what jumps has jumped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reward_model.world.kinds import KINDS
from reward_model.world.scene import Scene, make_scene
from reward_model.world.things import Thing
from reward_model.world.video import render

#: Kinds a splice can hold: all but two whose paths are not those of a normal twin.
SPLICED = tuple(kind for kind in KINDS if kind not in ("overlap", "rebound"))
#: Frames between two that are sampled: 4 fps of 16.
STRIDE = 4
#: A falling thing is stopped only where it is this fast, relative to its fastest: at the top every thing hangs.
_FAST = 0.5


@dataclass(frozen=True)
class Splice:
    """Two scenes that share all but the anomaly, and which frames are taken from which: ``wrong`` (K,) flags."""

    scene: Scene
    twin: Scene
    wrong: np.ndarray

    def render(self, size: int | tuple[int, int]) -> np.ndarray:
        """(K, H, W, 3) uint8; ``size`` is the height and width in pixels, or both."""
        height, width = (size, size) if isinstance(size, int) else size
        frames = np.empty((len(self.wrong), height, width, 3), np.uint8)
        for scene, chosen in ((self.scene, self.wrong), (self.twin, ~self.wrong)):
            if chosen.any():
                frames[chosen] = render(scene, [STRIDE * int(k) for k in np.flatnonzero(chosen)], size)
        return frames


def make_splice(
    seed: int,
    kind: str,
    setting: str,
    count: int,
    rng: np.random.Generator,
    *,
    strength: float | None = None,
    **look: Any,
) -> Splice:
    """A splice of ``count`` frames at 4 fps.

    Args:
        seed: seed of the scene.
        kind: one of :data:`SPLICED`; empty for a normal one.
        setting: where it happens.
        count: number of frames, at least 3.
        rng: random generator of the choices. The first frame is never wrong.
        strength: strength of a squash or split.
        look: ``style`` and ``aspect`` of :func:`reward_model.world.make_scene`.
    """
    length = STRIDE * count + 4
    if not kind:
        twin = make_scene(seed, setting=setting, num_frames=length, **look)
        return Splice(twin, twin, np.zeros(count, bool))
    if kind == "float":
        return _with_holds(seed, count, rng, look)
    # As long as a scene of that length can hold.
    seconds = (length - 4) / 16
    scene = make_scene(
        seed, kind, setting=setting, num_frames=length, duration_s=(seconds, seconds), strength=strength, **look
    )
    twin = make_scene(seed, setting=setting, num_frames=length, **look)
    wrong = rng.random(count) < rng.uniform(0.2, 0.6)
    assert scene.fault is not None
    wrong &= np.isin(STRIDE * np.arange(count), list(scene.fault.frames.frames()))
    return Splice(scene, twin, wrong)


def _with_holds(seed: int, count: int, rng: np.random.Generator, look: Mapping[str, Any]) -> Splice:
    """A bouncing thing that stops in the air now and then: held for half a second or more, then it goes on."""
    # Things also slide there; the next seed below that lets one fall.
    scenes = (make_scene(k, setting="physics", num_frames=STRIDE * count + 4, **look) for k in range(seed, -1, -1))
    twin = next(scene for scene in scenes if "bounces" in scene.prompt)
    focus = twin.focus
    assert isinstance(focus, Thing)
    speed = np.abs(np.gradient(focus.path[:, 1]))
    fast = speed > _FAST * speed.max()
    share, clock, repeats = rng.uniform(0.3, 0.8), 0, 0
    wrong, path = np.zeros(count, bool), focus.path.copy()
    for k in range(count):
        if repeats:
            repeats, wrong[k] = repeats - 1, True
        else:
            clock += STRIDE if k else 0
            room = count - 1 - k
            if k > 1 and room > 1 and not wrong[k - 1] and fast[clock] and rng.random() < share:
                repeats, wrong[k] = int(rng.integers(2, min(4, room) + 1)), True
        path[STRIDE * k, 1] = focus.path[clock, 1]
    held = replace(focus, path=path)
    scene = replace(twin, focus=held, actors=tuple(held if actor is focus else actor for actor in twin.actors))
    return Splice(scene, scene, wrong)
