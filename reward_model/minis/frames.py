"""Single frames of the world with labels and outlines: what the mini's vision tower warms up on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from reward_model.minis.rows import CLEAR, SMALL_SIZE, TRAIN_SEEDS
from reward_model.video.clip import resize_frames
from reward_model.world.canvas import Canvas, mask_box
from reward_model.world.kinds import KINDS, SETTINGS_OF, SINGLE_FRAME
from reward_model.world.nuisance import degrade
from reward_model.world.palette import COLORS, SHAPES, WORDS
from reward_model.world.scene import Scene, make_scene
from reward_model.world.signs import Sign, spell
from reward_model.world.things import Thing
from reward_model.world.video import SIZE, render

#: What the heads tell of a frame. ``none`` is never a target: that head is not asked about such a frame.
STATES = ("normal", *SINGLE_FRAME)
STAGES = ("things", "person", "physics", "sign")
GAINS = ("dark", "usual", "bright")
HEADS = {"state": STATES, "stage": STAGES, "color": tuple(COLORS), "shape": SHAPES, "word": WORDS, "gain": GAINS}
NONE = -100
#: Kinds are drawn from here: those that one frame shows five times as often as the others.
_POOL = [*KINDS, *4 * SINGLE_FRAME]


class Frames(NamedTuple):
    """Frames and what is true of them.

    ``pictures`` (N, 48, 48, 3) uint8; ``labels`` one (N,) tensor for each head (:data:`NONE` where it has nothing to
    say), ``boxes`` (N, 8) the corners of the first and last region of the main actor in [0, 1]; ``actual`` and
    ``normal`` (N, 48, 48) how much of each pixel the main actor covers, and would cover in the normal twin;
    ``has_normal`` (N,) 0 where the twin says nothing about the frame.
    """

    pictures: np.ndarray
    labels: dict[str, torch.Tensor]
    actual: torch.Tensor
    normal: torch.Tensor
    has_normal: torch.Tensor


def draw_frames(count: int, rng: np.random.Generator, *, nuisance: float = 1.0) -> Frames:
    """Frames of all settings and states; ``nuisance`` 0-1 scales camera, light, grain, blur and the like."""
    shots: list[_Shot] = []
    missing = count
    while missing > 0:
        shots.append(_shoot(missing, rng, nuisance))
        missing -= len(shots[-1].pictures)
    rows = [row for shot in shots for row in shot.rows]
    labels = {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}
    actual, normal = (
        torch.from_numpy(np.concatenate(masks)) for masks in zip(*(s.outlines for s in shots), strict=True)
    )
    has_normal = torch.tensor([shot.has_normal for shot in shots for _ in shot.rows])
    return Frames(np.concatenate([shot.pictures for shot in shots]), labels, actual, normal, has_normal)


class _Shot(NamedTuple):
    """Up to three frames of one scene: pictures, labels, outlines as drawn and of the normal twin."""

    pictures: np.ndarray
    rows: list[dict[str, Any]]
    outlines: tuple[np.ndarray, np.ndarray]
    has_normal: float


def _shoot(most: int, rng: np.random.Generator, nuisance: float) -> _Shot:
    """Frames of a scene that is drawn by chance, ``most`` at most."""
    kind = str(rng.choice(_POOL))
    setting = str(rng.choice(SETTINGS_OF[kind]))
    abnormal = rng.random() < 0.65
    seed = int(rng.integers(TRAIN_SEEDS.start, TRAIN_SEEDS.stop))
    strength = rng.uniform(CLEAR, 2.1) if abnormal and kind == "squash" else None
    scene = make_scene(seed, kind if abnormal else None, setting=setting, strength=strength, nuisance=nuisance)
    # Two frames of the anomaly and one of any kind: the same scene, right and wrong.
    inside = scene.fault.frames.frames() if scene.fault else range(scene.num_frames)
    indices = [*rng.choice(inside, 2), rng.integers(scene.num_frames)][:most]
    small = rng.random() < (0.5 if setting == "single" else 0.1)
    drawn = degrade(render(scene, indices, SMALL_SIZE if small else SIZE), rng, probability=0.5 * nuisance)
    pictures = resize_frames(drawn, (SIZE, SIZE)) if small else drawn
    actual = normal = outline_of(scene, indices)
    if abnormal and kind in SINGLE_FRAME:
        normal = outline_of(make_scene(seed, setting=setting, nuisance=nuisance), indices)
    rows = [describe_frame(scene, int(index)) for index in indices]
    return _Shot(np.asarray(pictures), rows, (actual, normal), float(not abnormal or kind in SINGLE_FRAME))


def outline_of(scene: Scene, indices: Sequence[int]) -> np.ndarray:
    """(N, 48, 48) in [0, 1]: how much of each pixel the main actor covers; of a sign, its letters."""
    canvas = Canvas.open(np.asarray(indices), SIZE, scene.camera, scene.weather.softness)
    layers = scene.focus.layers(canvas)
    chosen = layers[-1:] if scene.setting == "sign" else layers
    return np.maximum.reduce([layer.cover for layer in chosen]).astype(np.float32)


def describe_frame(scene: Scene, index: int) -> dict[str, Any]:
    """The labels of one frame."""
    kind = scene.fault.kind if scene.fault and index in scene.fault.frames else "normal"
    canvas = Canvas.open(np.array([index]), SIZE, scene.camera, scene.weather.softness)
    boxes = [box for mask in scene.focus.regions(canvas) if (box := mask_box(mask[0])) is not None]
    always_shown = scene.prompt.split()[2] in ("person", "sign")
    return {
        "state": STATES.index(kind if kind in STATES else "normal"),
        "stage": STAGES.index(scene.setting if scene.setting in STAGES else "things"),
        **_looks(scene, index, shown=bool(boxes)),
        "word": _word(scene, index) if kind in ("normal", "change") and scene.setting == "sign" else NONE,
        "shown": 1 if always_shown else int(bool(boxes)),
        "boxes": [v / 1000 for box in (boxes[0], boxes[-1]) for v in box.as_list()] if boxes else [0.0] * 8,
    }


def _looks(scene: Scene, index: int, *, shown: bool) -> dict[str, int]:
    """Colour, shape and brightness of the main actor; :data:`NONE` where it is not shown, or has none of them."""
    thing = scene.focus if isinstance(scene.focus, Thing) else None
    gain = 1.0 if thing is None or thing.gain is None else float(thing.gain[index])
    return {
        "color": list(COLORS).index(scene.focus.name.split()[0]) if shown and gain == 1 else NONE,
        "shape": SHAPES.index(thing.shape) if thing and shown else NONE,
        "gain": 1 + int(np.sign(gain - 1)) if thing and shown else NONE,
    }


def _word(scene: Scene, index: int) -> int:
    """The word that the sign reads in a frame."""
    sign = scene.focus
    assert isinstance(sign, Sign)
    shown = sign.texts[sign.which[index]]
    return next(k for k, word in enumerate(WORDS) if (spell(word) == shown).all())
