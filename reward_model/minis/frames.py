"""Single frames of the world with labels and outlines: what the mini's vision tower warms up on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from reward_model.minis.model import FIT
from reward_model.minis.rows import CLEAR, SMALL_SIZE, TRAIN_SEEDS
from reward_model.video.framing import Framing
from reward_model.world.canvas import mask_box
from reward_model.world.edits import inner_shape
from reward_model.world.films import Film, film_scene
from reward_model.world.kinds import KINDS, SETTINGS_OF, SINGLE_FRAME
from reward_model.world.nuisance import degrade
from reward_model.world.palette import COLORS, SHAPES, WORDS
from reward_model.world.scene import Scene, make_scene
from reward_model.world.scripts import PLAIN, SHIFTED, Script
from reward_model.world.shift import Shift
from reward_model.world.signs import Sign, spell
from reward_model.world.things import Thing
from reward_model.world.video import SIZE, open_canvas

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


def draw_frames(count: int, rng: np.random.Generator, *, nuisance: float = 1.0, shifted: float = 0.0) -> Frames:
    """Frames of all settings and states; ``nuisance`` 0-1 scales camera, light, grain, blur and the like, ``shifted``
    is the share that is shown under a drawn shift.
    """
    shots: list[_Shot] = []
    missing = count
    while missing > 0:
        shots.append(_shoot(missing, rng, nuisance, shifted))
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


class _View(NamedTuple):
    """A film and how a mask of its scene becomes one of what is shown."""

    film: Film
    framing: Framing

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of the picture that the scene is drawn in, between the bars."""
        return inner_shape(self.film.shift)

    def take(self, indices: Sequence[int]) -> np.ndarray:
        return self.framing.show(self.film.take(indices))

    def shown(self, masks: np.ndarray) -> np.ndarray:
        """Masks (N, h, w) in [0, 1] of the scene as masks (N, 48, 48) of what is shown: mirrored, between bars, in the
        square.
        """
        shift = self.film.shift
        masks = masks[:, :, ::-1] if shift.mirror else masks
        (height, width), (h, w) = shift.shape, masks.shape[1:]
        top, left = (height - h) // 2, (width - w) // 2
        whole = np.zeros((len(masks), height, width, 3), np.uint8)
        whole[:, top : top + h, left : left + w] = np.round(255 * masks)[..., None]
        picture = self.framing.show(np.full((1, height, width, 3), 255, np.uint8)) == 255  # without the padding
        return np.float32(1 / 255) * (self.framing.show(whole) * picture)[..., 0]


def _view(script: Script, nuisance: float, small: bool) -> _View:
    film = script.film(nuisance=nuisance)
    if small and script.story == PLAIN:
        film = film_scene(film.scene, Shift(size=SMALL_SIZE))
    return _View(film, Framing((film.truth.height, film.truth.width), SIZE, FIT))


def _shoot(most: int, rng: np.random.Generator, nuisance: float, shifted: float) -> _Shot:
    """Frames of a scene that is drawn by chance, ``most`` at most."""
    kind = str(rng.choice(_POOL))
    setting = str(rng.choice(SETTINGS_OF[kind]))
    abnormal = rng.random() < 0.65
    seed = int(rng.integers(TRAIN_SEEDS.start, TRAIN_SEEDS.stop))
    strength = rng.uniform(CLEAR, 2.1) if abnormal and kind == "squash" else None
    story = SHIFTED if rng.random() < shifted else PLAIN
    draw = int(rng.integers(2**31))
    small = rng.random() < (0.5 if setting == "single" else 0.1)
    script = Script(seed, kind if abnormal else "", setting, story, draw=draw, strength=strength, stored=False)
    view = _view(script, nuisance, small)
    film = view.film
    # Two frames of the anomaly and one of any kind: the same scene, right and wrong.
    inside = film.truth.anomalies[0].frames.frames() if abnormal else range(film.truth.num_frames)
    indices = [int(n) for n in (*rng.choice(inside, 2), rng.integers(film.truth.num_frames))][:most]
    pictures = degrade(view.take(indices), rng, probability=(0.5 if story == PLAIN else 0.2) * nuisance)
    drawn = [film.first + n for n in indices]
    actual = normal = view.shown(outline_of(film.scene, drawn, view.size))
    has_normal = not abnormal or kind in SINGLE_FRAME
    if abnormal and has_normal:
        twin = _twin(film, nuisance)
        normal = view.shown(outline_of(twin, drawn, view.size))
    rows = [describe_frame(film.scene, n, view) for n in drawn]
    return _Shot(np.asarray(pictures), rows, (actual, normal), float(has_normal))


def _twin(film: Film, nuisance: float) -> Scene:
    """The scene of a film without its anomaly."""
    scene, shift = film.scene, film.shift
    return make_scene(
        scene.seed,
        setting=scene.setting,
        nuisance=nuisance,
        num_frames=scene.num_frames,
        fps=scene.fps,
        style=shift.style,
        aspect=scene.aspect,
        pan=shift.pan,
        zoom=shift.zoom,
    )


def outline_of(scene: Scene, indices: Sequence[int], size: tuple[int, int] = (SIZE, SIZE)) -> np.ndarray:
    """(N, H, W) in [0, 1] at a height and width: how much of each pixel the main actor covers; of a sign, its
    letters.
    """
    layers = scene.focus.layers(open_canvas(scene, np.asarray(indices), size))
    if not layers:
        return np.zeros((len(indices), *size), np.float32)
    chosen = layers[-1:] if scene.setting == "sign" else layers
    return np.maximum.reduce([layer.cover for layer in chosen]).astype(np.float32)


def describe_frame(scene: Scene, index: int, view: _View | None = None) -> dict[str, Any]:
    """The labels of one native frame of a scene, as a view shows it; by default as it is drawn."""
    view = view or _View(film_scene(scene, Shift()), Framing())
    kind = scene.fault.kind if scene.fault and index in scene.fault.frames else "normal"
    canvas = open_canvas(scene, np.array([index]), view.size)
    masks = [view.shown(mask)[0] for mask in scene.focus.regions(canvas)]
    boxes = [box for mask in masks if (box := mask_box(mask)) is not None]
    always_shown = scene.setting in ("person", "sign")
    return {
        "state": STATES.index(kind if kind in STATES else "normal"),
        "stage": STAGES.index(scene.setting if scene.setting in STAGES else "things"),
        **_looks(scene, index, view.film.shift, shown=bool(boxes)),
        "word": _word(scene, index) if kind in ("normal", "change") and scene.setting == "sign" else NONE,
        "shown": 1 if always_shown else int(bool(boxes)),
        "boxes": [v / 1000 for box in (boxes[0], boxes[-1]) for v in box.as_list()] if boxes else [0.0] * 8,
    }


def _looks(scene: Scene, index: int, shift: Shift, *, shown: bool) -> dict[str, int]:
    """Colour, shape and brightness of the main actor; :data:`NONE` where it is not shown, has none of them, or the
    shift has changed them.
    """
    thing = scene.focus if isinstance(scene.focus, Thing) else None
    relit = shift.brightness != 0 or shift.contrast != 1
    gain = 1.0 if thing is None or thing.gain is None else float(thing.gain[index])
    return {
        "color": list(COLORS).index(scene.focus.name.split()[0])
        if shown and gain == 1 and not shift.changes_colors
        else NONE,
        "shape": SHAPES.index(thing.shape) if thing and shown else NONE,
        "gain": 1 + int(np.sign(gain - 1)) if thing and shown and not relit else NONE,
    }


def _word(scene: Scene, index: int) -> int:
    """The word that the sign reads in a frame."""
    sign = scene.focus
    assert isinstance(sign, Sign)
    shown = sign.texts[sign.which[index]]
    return next(k for k, word in enumerate(WORDS) if (spell(word) == shown).all())
