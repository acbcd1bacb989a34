"""Draws scenes and measures their truth: all asked-for frames at once, boxes from the actors' own masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from reward_model.schema import Anomaly, AnomalyType, VideoAnnotation
from reward_model.world.canvas import Canvas, mask_box
from reward_model.world.kinds import BOUNDARY, REASONS
from reward_model.world.scene import Scene, make_scene

#: Height and width of the world's pictures unless asked otherwise.
SIZE = 48


def make_video(
    seed: int, anomaly: AnomalyType | str | None = None, *, size: int = SIZE, **options: Any
) -> tuple[np.ndarray, VideoAnnotation]:
    """One video and its truth.

    Args:
        seed: the scene; the same seed and setting with and without an anomaly gives twins.
        anomaly: None (normal), an :class:`AnomalyType`, or a kind of :data:`reward_model.world.KINDS`.
        size: height and width in pixels.
        options: options of :func:`reward_model.world.make_scene`, for instance ``num_frames``, ``fps``, ``setting``,
            ``style``, ``duration_s``, ``scale``, ``nuisance``. 81 frames at 16 fps are Wan-2.1's five seconds.

    Returns:
        frames (T, H, W, 3) uint8 and the annotation with native frame indices.

    Example:
        >>> frames, truth = make_video(7, "squash")
        >>> frames.shape, truth.status
        ((81, 48, 48, 3), 'abnormal')
    """
    scene = make_scene(seed, anomaly, **options)
    return render(scene, range(scene.num_frames), size), make_annotation(scene, size)


def render(scene: Scene, indices: Sequence[int], size: int = SIZE) -> np.ndarray:
    """The given native frames of a scene, (len(indices), size, size, 3) uint8; each frame is the same in any
    selection.
    """
    index = np.asarray(indices)
    canvas = _open(scene, index, size)
    axis = (np.arange(size) + 0.5) / size - 0.5
    shade = 1 + scene.weather.shade[0] * axis[None, :] + scene.weather.shade[1] * axis[:, None]
    ground = ((scene.ground + scene.weather.tint[0]) * shade[..., None]).astype(np.float32)
    if scene.style.outlined:
        ground = ground * _hatch(size)
    # Colours come first, (3, N, S, S): over pixels whose three colours stand side by side, layers take twice as long.
    planes = np.repeat(_planes(ground), len(index), axis=1)
    tint = scene.weather.tint[1].astype(np.float32)
    for actor in scene.actors:
        for layer in actor.layers(canvas):
            planes += layer.cover.astype(np.float32, copy=False) * (_planes(layer.color + tint) - planes)
    planes *= scene.weather.light[index].astype(np.float32)[:, None, None]
    if scene.weather.grain:
        planes += _grain(scene, index, size)
    return np.ascontiguousarray(np.moveaxis(np.clip(planes + 0.5, 0, 255).astype(np.uint8), 0, -1))


def _planes(color: np.ndarray) -> np.ndarray:
    """Colours (3,), (S, S, 3) or (N, 1, 1, 3) as planes (3, N or 1, S or 1, S or 1)."""
    return np.moveaxis(color.reshape((1,) * (4 - color.ndim) + color.shape), -1, 0)


def make_annotation(scene: Scene, size: int = SIZE) -> VideoAnnotation:
    """The truth of a scene, boxes measured on its own masks at ``size`` pixels."""
    return VideoAnnotation(
        video_id=f"world-{scene.seed}-{scene.fault.kind if scene.fault else scene.setting}",
        num_frames=scene.num_frames,
        fps=scene.fps,
        width=size,
        height=size,
        prompt=scene.prompt,
        anomalies=(_anomaly(scene, size),) if scene.fault else (),
        source="world" if not scene.style.outlined else "world-ink",
    )


def _anomaly(scene: Scene, size: int) -> Anomaly:
    fault = scene.fault
    assert fault is not None
    window = fault.frames
    shown = list(window.frames())
    if fault.kind in BOUNDARY:
        # A thing that goes is boxed on the last and the first frame that show it, one that comes likewise (B.1.3).
        shown = [window.start - 1, window.end + 1] if fault.kind == "vanish" else [window.start, window.end]
    masks = scene.focus.regions(_open(scene, np.asarray(shown), size))
    boxes = {n: tuple(box for m in masks if (box := mask_box(m[k])) is not None) for k, n in enumerate(shown)}
    name = scene.focus.name
    return Anomaly(
        type=fault.type,
        frames=window,
        boxes={n: found for n, found in boxes.items() if found},
        objects=(name,),
        reason=f"the {name} {REASONS[fault.kind]}",
        region=f"the {name}",
    )


def _open(scene: Scene, index: np.ndarray, size: int) -> Canvas:
    return Canvas.open(index, size, scene.camera, scene.weather.softness, outlined=scene.style.outlined)


def _hatch(size: int) -> np.ndarray:
    """Faint diagonal lines (size, size, 1)."""
    axis = np.arange(size)
    return (1 - 0.06 * ((axis[:, None] + axis[None, :]) % 5 == 0)).astype(np.float32)[..., None]


def _grain(scene: Scene, index: np.ndarray, size: int) -> np.ndarray:
    """Noise (3, N, size, size), another crop of one tile per frame: cheap, and frame n has the same noise in any
    selection.
    """
    rng = np.random.default_rng([scene.seed, 2])
    tile = rng.standard_normal((2 * size, 2 * size, 3), np.float32) * np.float32(scene.weather.grain)
    offsets = rng.integers(0, size, size=(scene.num_frames, 2))
    tile = np.ascontiguousarray(np.moveaxis(tile, -1, 0))
    return np.stack([tile[:, a : a + size, b : b + size] for a, b in offsets[index]], axis=1)
