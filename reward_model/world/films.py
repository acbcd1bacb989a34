"""Films: a scene as a shift presents it. The truth is that of the new picture and the new time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from reward_model.schema import AnomalyType, VideoAnnotation
from reward_model.world.edits import LUMA, edit_frames, edit_truth, grey_filter, inner_shape
from reward_model.world.kinds import SETTINGS_OF, find_kinds
from reward_model.world.scene import DURATION_S, EARLIEST_S, Scene, make_scene
from reward_model.world.shift import Shift
from reward_model.world.shifts import find_shift
from reward_model.world.video import make_annotation, render


@dataclass(frozen=True)
class Film:
    """A scene as a shift presents it: ``truth``, and frames when they are asked for.

    ``first`` is the frame of the scene that is shown as frame 0.
    """

    scene: Scene
    shift: Shift
    truth: VideoAnnotation
    first: int = 0

    def take(self, indices: Sequence[int]) -> np.ndarray:
        """The given native frames, (len(indices), H, W, 3) uint8; each frame is the same in any selection."""
        if self.shift.crf is not None:
            return self._stored[list(indices)]
        return self._edited(indices)

    def _edited(self, indices: Sequence[int]) -> np.ndarray:
        drawn = render(self.scene, [self.first + n for n in indices], inner_shape(self.shift))
        return edit_frames(drawn, indices, self.shift, self.scene.seed, self._grey)

    @cached_property
    def _grey(self) -> np.ndarray:
        color = getattr(self.scene.focus, "color", None)
        return (
            LUMA if color is None else grey_filter(np.stack([color, self.scene.ground])[:, list(self.shift.channels)])
        )

    @cached_property
    def _stored(self) -> np.ndarray:
        from reward_model.video.round_trip import round_trip

        assert self.shift.crf is not None
        return round_trip(self._edited(range(self.truth.num_frames)), self.truth.fps, self.shift.crf)


def film(seed: int, anomaly: AnomalyType | str | None = None, shift: Shift | str = "plain", **options: Any) -> Film:
    """The scene of a seed under a shift.

    Args:
        seed: any integer >= 0.
        anomaly: as in :func:`reward_model.world.make_scene`; of a family, a kind that the shift can show.
        shift: a shift, or the name of one of :data:`SHIFTS`.
        options: options of :func:`reward_model.world.make_scene` that the shift does not settle: ``setting``,
            ``nuisance``, ``strength``, ``scale``, ``duration_s`` (in seconds of the video).

    Raises:
        ValueError: if the shift is unknown, cannot show the anomaly or the setting, or the video is too short.
    """
    shift = find_shift(shift)
    rng = np.random.default_rng([seed, 10])
    kind, setting = _choose(seed, anomaly, options.pop("setting", None), shift)
    low, high = options.pop("duration_s", DURATION_S)
    high = min(high, (shift.num_frames - 4) / shift.fps)  # the whole anomaly is shown, also of a slow scene
    low = min(low, high)
    inner = inner_shape(shift)
    scene = make_scene(
        seed,
        kind,
        setting=setting,
        num_frames=shift.scene_frames,
        fps=shift.fps / shift.speed,
        duration_s=(low * shift.speed, high * shift.speed),
        style=shift.style,
        aspect=inner[1] / inner[0],
        pan=shift.pan,
        zoom=shift.zoom,
        **options,
    )
    first = _cut(scene, shift.num_frames, rng)
    return Film(scene, shift, _truth(scene, shift, first), first)


def film_scene(scene: Scene, shift: Shift | str) -> Film:
    """A scene that is there already, such as a member of a pair, under what a shift does to pictures: bars, size,
    mirror image, colours, light, blur, noise and compression. Time, style, shape and camera are the scene's own.

    Compression lets neighbouring frames into each other: the members of a pair are then nearly, not quite, equal on
    the coarse grid.

    Raises:
        ValueError: if the shift is unknown, or would mirror letters.
    """
    shift = find_shift(shift)
    if scene.setting not in shift.settings:
        raise ValueError(
            f"the shift {shift.name!r} cannot show the setting {scene.setting!r}: letters would be mirrored"
        )
    seconds = (scene.num_frames - 1) / scene.fps
    own = replace(shift, seconds=seconds, fps=scene.fps, speed=1.0, aspect=scene.aspect)
    return Film(scene, own, _truth(scene, own, 0))


def make_shifted(
    seed: int, anomaly: AnomalyType | str | None = None, shift: Shift | str = "plain", **options: Any
) -> tuple[np.ndarray, VideoAnnotation]:
    """All frames (T, H, W, 3) uint8 of :func:`film` and the truth.

    Example:
        >>> frames, truth = make_shifted(7, "squash", "wide")
        >>> frames.shape, (truth.width, truth.height)
        ((81, 48, 86, 3), (86, 48))
    """
    found = film(seed, anomaly, shift, **options)
    return found.take(range(found.truth.num_frames)), found.truth


def _choose(
    seed: int, anomaly: AnomalyType | str | None, setting: str | None, shift: Shift
) -> tuple[str | None, str | None]:
    """Kind and setting among those that the shift can show."""
    rng = np.random.default_rng([seed, 11])
    if setting is not None and setting not in shift.settings:
        raise ValueError(f"the shift {shift.name!r} cannot show the setting {setting!r}: letters would be mirrored")
    if anomaly is None:
        return None, setting or str(rng.choice(shift.settings))
    kinds = [k for k in find_kinds(anomaly) if k in shift.kinds and (setting is None or setting in SETTINGS_OF[k])]
    if not kinds:
        raise ValueError(f"the shift {shift.name!r} cannot show {str(anomaly)!r}; it can show {', '.join(shift.kinds)}")
    return str(rng.choice(kinds)), setting


def _cut(scene: Scene, count: int, rng: np.random.Generator) -> int:
    """First frame of the ``count`` shown ones: anywhere, but with the whole anomaly and what must come before it."""
    low, high = 0, scene.num_frames - count
    if scene.fault is not None:
        before = max(2, round(EARLIEST_S.get(scene.fault.kind, 0) * scene.fps))
        low = max(low, scene.fault.frames.end + 2 - count)
        high = max(low, min(high, scene.fault.frames.start - before))
    return int(rng.integers(low, high + 1))


def _truth(scene: Scene, shift: Shift, first: int) -> VideoAnnotation:
    drawn = make_annotation(scene, inner_shape(shift))
    return edit_truth(drawn, first, shift)
