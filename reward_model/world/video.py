"""Draws scenes and measures their truth: all asked-for frames at once, boxes from the actors' own masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from reward_model.schema import Anomaly, AnomalyType, VideoAnnotation
from reward_model.world.canvas import Actor, Canvas, Layer, mask_box, picture_shape
from reward_model.world.kinds import BOUNDARY, REASONS
from reward_model.world.looks import Look
from reward_model.world.physics import Floor
from reward_model.world.scene import Scene, make_scene
from reward_model.world.things import Thing

#: Height and width of the world's pictures unless asked otherwise.
SIZE = 48


def make_video(
    seed: int, anomaly: AnomalyType | str | None = None, *, size: int | tuple[int, int] = SIZE, **options: Any
) -> tuple[np.ndarray, VideoAnnotation]:
    """One video and its truth.

    Args:
        seed: the scene; the same seed and setting with and without an anomaly gives twins.
        anomaly: None (normal), an :class:`AnomalyType`, or a kind of :data:`reward_model.world.KINDS`.
        size: the shorter side in pixels, or height and width.
        options: options of :func:`reward_model.world.make_scene`, for instance ``num_frames``, ``fps``, ``setting``,
            ``style``, ``duration_s``, ``scale``, ``nuisance``, ``aspect``, ``pan``,
            ``zoom``. 81 frames at 16 fps are Wan-2.1's five seconds.

    Returns:
        frames (T, H, W, 3) uint8 and the annotation with native frame indices.

    Example:
        >>> frames, truth = make_video(7, "squash")
        >>> frames.shape, truth.status
        ((81, 48, 48, 3), 'abnormal')
    """
    scene = make_scene(seed, anomaly, **options)
    return render(scene, range(scene.num_frames), size), make_annotation(scene, size)


def render(scene: Scene, indices: Sequence[int], size: int | tuple[int, int] = SIZE) -> np.ndarray:
    """The given native frames of a scene, (len(indices), H, W, 3) uint8; each frame is the same in any selection.

    Args:
        scene: what is drawn.
        indices: native frames.
        size: the shorter side in pixels, the longer one follows from the scene's ``aspect``; or height and width.
    """
    index = np.asarray(indices)
    height, width = shape_of(scene, size)
    canvas = open_canvas(scene, index, (height, width))
    across, down = ((np.arange(side) + 0.5) / side - 0.5 for side in (width, height))
    shade = 1 + scene.weather.shade[0] * across[None, :] + scene.weather.shade[1] * down[:, None]
    ground = ((scene.ground + scene.weather.tint[0]) * shade[..., None]).astype(np.float32)
    if scene.style.outlined:
        ground = ground * _hatch(height, width)
    # Colours come first, (3, N, S, S): over pixels whose three colours stand side by side, layers take twice as long.
    planes = np.repeat(_planes(ground), len(index), axis=1)
    look = scene.look or Look()
    if look.ground is not None:
        # Where the camera stands still, one frame's ground is every frame's.
        shown = slice(None) if scene.camera.any() or scene.zoom is not None else slice(1)
        planes *= look.ground.factor(canvas.x[shown] - np.float32(0.5), canvas.y[shown] - np.float32(0.5))
    for actor in scene.actors:
        _draw(actor, planes, canvas, scene)
    planes *= scene.weather.light[index].astype(np.float32)[:, None, None]
    if scene.weather.grain:
        planes += _grain(scene, index, height, width)
    return np.ascontiguousarray(np.moveaxis(np.clip(planes + 0.5, 0, 255).astype(np.uint8), 0, -1))


def _draw(actor: Actor, planes: np.ndarray, canvas: Canvas, scene: Scene) -> None:
    """Draws an actor, and the shadow it casts, over the planes (3, N, H, W) in place."""
    look, tint = scene.look or Look(), scene.weather.tint[1].astype(np.float32)
    layers = actor.layers(canvas)
    if look.shadow and layers and not isinstance(actor, Floor):
        planes *= 1 - np.float32(look.shadow) * _shadow(layers, look, canvas.size)
    pattern = look.things.factor(*canvas.at(actor.path)) if look.things and isinstance(actor, Thing) else None
    for layer in layers:
        color = _planes(layer.color + tint)
        color = color if pattern is None else color * pattern
        planes += layer.cover.astype(np.float32, copy=False) * (color - planes)


def _planes(color: np.ndarray) -> np.ndarray:
    """Colours (3,), (S, S, 3) or (N, 1, 1, 3) as planes (3, N or 1, S or 1, S or 1)."""
    return np.moveaxis(color.reshape((1,) * (4 - color.ndim) + color.shape), -1, 0)


def shape_of(scene: Scene, size: int | tuple[int, int] = SIZE) -> tuple[int, int]:
    """Height and width in pixels of a scene's pictures, see :func:`render`."""
    return picture_shape(size, scene.aspect) if isinstance(size, int) else size


def make_annotation(scene: Scene, size: int | tuple[int, int] = SIZE) -> VideoAnnotation:
    """The truth of a scene, boxes measured on its own masks at the size of :func:`render`."""
    shape = shape_of(scene, size)
    return VideoAnnotation(
        video_id=f"world-{scene.seed}-{scene.fault.kind if scene.fault else scene.setting}",
        num_frames=scene.num_frames,
        fps=scene.fps,
        width=shape[1],
        height=shape[0],
        prompt=scene.prompt,
        anomalies=(_anomaly(scene, shape),) if scene.fault else (),
        source="world" if not scene.style.outlined else "world-ink",
    )


def _anomaly(scene: Scene, size: tuple[int, int]) -> Anomaly:
    fault = scene.fault
    assert fault is not None
    window = fault.frames
    shown = list(window.frames())
    if fault.kind in BOUNDARY:
        # A thing that goes is boxed on the last and the first frame that show it, one that comes likewise (B.1.3).
        shown = [window.start - 1, window.end + 1] if fault.kind == "vanish" else [window.start, window.end]
    masks = scene.focus.regions(open_canvas(scene, np.asarray(shown), size))
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


def open_canvas(scene: Scene, index: np.ndarray, size: tuple[int, int]) -> Canvas:
    """The canvas on which the actors of a scene draw its native frames ``index`` (N,), at a height and width."""
    return Canvas.open(
        index,
        size,
        scene.camera,
        scene.weather.softness,
        outlined=scene.style.outlined,
        zoom=scene.zoom,
        contour=scene.look.contour if scene.look else 0.0,
    )


def _shadow(layers: Sequence[Layer], look: Look, size: int) -> np.ndarray:
    """Share of each pixel (N, H, W) in the soft shadow of what is drawn: its cover, moved by whole pixels."""
    cover = np.maximum.reduce([layer.cover for layer in layers])
    right, down = (round(part * size) for part in look.sun)
    near = max(1, round(0.02 * size))
    reach = near + max(abs(right), abs(down))
    padded = np.pad(cover, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    height, width = cover.shape[1:]
    parts = [
        padded[:, top : top + height, left : left + width]
        for top in (reach - down - near, reach - down + near)
        for left in (reach - right - near, reach - right + near)
    ]
    return np.asarray(sum(parts) / np.float32(4), np.float32)


def _hatch(height: int, width: int) -> np.ndarray:
    """Faint diagonal lines (height, width, 1)."""
    lines = (np.arange(height)[:, None] + np.arange(width)[None, :]) % 5 == 0
    return (1 - 0.06 * lines).astype(np.float32)[..., None]


def _grain(scene: Scene, index: np.ndarray, height: int, width: int) -> np.ndarray:
    """Noise (3, N, H, W), another crop of one tile per frame: cheap, and the same in any selection."""
    rng = np.random.default_rng([scene.seed, 2])
    tile = rng.standard_normal((2 * height, 2 * width, 3), np.float32) * np.float32(scene.weather.grain)
    offsets = rng.integers(0, min(height, width), size=(scene.num_frames, 2))
    tile = np.ascontiguousarray(np.moveaxis(tile, -1, 0))
    return np.stack([tile[:, a : a + height, b : b + width] for a, b in offsets[index]], axis=1)
