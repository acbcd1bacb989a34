"""A scene: who is in it, how it is lit and filmed, and at most one anomaly. Everything follows from the seed.

Coordinates are fractions of the picture (x to the right, y down), so that the same scene renders at any size. A scene
with an anomaly and its normal twin (same seed and setting, ``anomaly=None``) are the same until the anomaly begins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reward_model.schema import AnomalyType, FrameRange
from reward_model.world import people, physics, signs, things
from reward_model.world.canvas import Actor
from reward_model.world.kinds import KINDS, SETTINGS, SETTINGS_OF, Fault, find_kinds
from reward_model.world.looks import Look
from reward_model.world.palette import SHAPES, STYLES, WORDS, Style
from reward_model.world.things import MOTIONS, REACH, Thing

#: Seconds an anomaly lasts unless asked otherwise.
DURATION_S = (0.4, 2.4)
#: Kinds that need longer to be told from ordinary movement: a thing at the top of its arc also hangs for a moment.
SHORTEST_S = {"float": 0.65, "rebound": 0.5, "flicker": 0.5}
#: Seconds of ordinary movement that must come first: a bounce is too high only against the bounces before it.
EARLIEST_S = {"rebound": 1.3}
#: Size of the main actor relative to its setting's usual one.
SCALE = (0.65, 1.9)


@dataclass(frozen=True)
class Weather:
    """Harmless looks: ``softness`` of edges, ``light`` (T,) a factor, ``shade`` a gradient, ``tint`` (2, 3) offsets of
    ground and actors, ``grain`` the noise in levels.
    """

    softness: float
    light: np.ndarray
    shade: tuple[float, float]
    tint: np.ndarray
    grain: float


@dataclass(frozen=True)
class Scene:
    """Everything that is needed to draw any frame.

    ``actors`` stand in order from back to front and ``focus`` is the one the anomaly is about. ``camera`` (T, 2) is
    the shift of the view, ``zoom`` (T,) how much larger than usual it shows everything (None: as usual). ``aspect`` is
    width by height of the picture; a scene of a longer picture spreads along it.
    """

    seed: int
    num_frames: int
    fps: float
    setting: str
    prompt: str
    ground: np.ndarray
    actors: tuple[Actor, ...]
    focus: Actor
    camera: np.ndarray
    weather: Weather
    fault: Fault | None
    style: Style
    aspect: float = 1.0
    zoom: np.ndarray | None = None
    look: Look | None = None

    @property
    def object_name(self) -> str:
        return self.focus.name


@dataclass
class _Plan:
    """State that the settings share while a scene is drawn."""

    rng: np.random.Generator
    fault_rng: np.random.Generator
    num_frames: int
    fps: float
    scale: float
    style: Style
    fault: Fault | None
    background: str

    def pick(self, names: tuple[str, ...] | list[str]) -> str:
        return names[self.rng.integers(len(names))]

    def rgb(self, color: str) -> np.ndarray:
        return np.asarray(self.style.colors[color], np.float32)

    @property
    def ground(self) -> np.ndarray:
        return np.asarray(self.style.backgrounds[self.background], np.float32)


def make_scene(
    seed: int,
    anomaly: AnomalyType | str | None = None,
    *,
    setting: str | None = None,
    num_frames: int = 81,
    fps: float = 16,
    nuisance: float = 1.0,
    strength: float | None = None,
    duration_s: tuple[float, float] | None = None,
    scale: tuple[float, float] | None = None,
    style: str = "plain",
    aspect: float = 1.0,
    pan: float = 0.0,
    zoom: float = 0.0,
    window: FrameRange | None = None,
) -> Scene:
    """Draws the scene of a seed.

    Args:
        seed: any integer >= 0; the whole scene is a function of it.
        anomaly: None for a normal video, an :class:`AnomalyType`, or a kind of :data:`KINDS`.
        setting: one of :data:`SETTINGS`, by default any in which the anomaly can happen. ``"single"`` is the plain
            world of the mini generator: one thing and a camera that stands still.
        num_frames: length of the video.
        fps: frames per second.
        nuisance: 0-1, how much lighting change, camera movement, softness, grain and tint the video may carry; all of
            it is normal.
        strength: overrides the drawn stretch factor of a squash or gap of a split.
        duration_s: shortest and longest anomaly in seconds.
        scale: smallest and largest size of the main actor, 1 is usual.
        style: ``"plain"``; one of :data:`~reward_model.world.palette.TRAINING_STYLES`, which differ in colours,
            patterns, contours and shadows; or ``"ink"``, which is kept for out-of-distribution tests.
        aspect: width of the picture by its height, between 1/3 and 3.
        pan: how far the camera travels to either side, as a fraction of the picture, besides its sway.
        zoom: how much the camera zooms in or out, as a share of the picture, at most 0.5.
        window: native frames of the anomaly, in place of drawn ones.

    Raises:
        ValueError: if a name is unknown, the anomaly cannot happen in that setting, the video is too short to hold it,
            or a number is out of its range.
    """
    _check(num_frames, fps, style, aspect, pan, zoom)
    chosen = _choose_setting(seed, anomaly, setting)
    fault = None if anomaly is None else _draw_fault(anomaly, chosen, seed, num_frames, fps, strength, duration_s)
    if window is not None:
        if fault is None or window.start < 1 or window.end > num_frames - 2:
            raise ValueError(f"window={window} needs an anomaly, a frame before it and one after it in {num_frames}")
        fault = replace(fault, frames=window)
    rng = np.random.default_rng([seed, 0])
    background = tuple(STYLES[style].backgrounds)[rng.integers(len(STYLES[style].backgrounds))]
    low, high = scale or SCALE
    factor = float(np.exp(rng.uniform(np.log(low), np.log(high)))) if chosen != "single" or scale else 1.0
    rngs = np.random.default_rng([seed, 3]), np.random.default_rng([seed, 6])
    plan = _Plan(*rngs, num_frames, fps, factor, STYLES[style], fault, background)
    prompt, actors, focus = _CASTS[chosen](plan)
    if aspect != 1 and chosen != "physics":
        places = [_spread(actor, aspect) for actor in actors]
        actors, focus = tuple(places), places[[a is focus for a in actors].index(True)]
    travel, zooms = _travel(pan, zoom, num_frames, np.random.default_rng([seed, 7]))
    looks = STYLES[style].looks
    return Scene(
        seed=seed,
        num_frames=num_frames,
        fps=fps,
        setting=chosen,
        prompt=f"{prompt} on a {background} background",
        ground=plan.ground,
        actors=actors,
        focus=focus,
        camera=_camera(chosen, nuisance, num_frames, np.random.default_rng([seed, 4])) + travel,
        fault=fault,
        style=STYLES[style],
        weather=_weather(nuisance, num_frames, rng),
        aspect=aspect,
        zoom=zooms,
        look=looks.draw(np.random.default_rng([seed, 8])) if looks else None,
    )


def _check(num_frames: int, fps: float, style: str, aspect: float, pan: float, zoom: float) -> None:
    """Raises ValueError for numbers and names that no scene can have."""
    if num_frames < 1 or not fps > 0:
        raise ValueError(f"num_frames={num_frames} and fps={fps} must be positive")
    if style not in STYLES:
        raise ValueError(f"style={style!r} must be one of {', '.join(STYLES)}")
    if not 1 / 3 <= aspect <= 3:
        raise ValueError(f"aspect={aspect} (width by height) must be between 1/3 and 3")
    if not (0 <= pan <= 0.5 and 0 <= zoom <= 0.5):
        raise ValueError(f"pan={pan} and zoom={zoom} must be between 0 and 0.5")


def _choose_setting(seed: int, anomaly: AnomalyType | str | None, setting: str | None) -> str:
    kinds = list(KINDS) if anomaly is None else find_kinds(anomaly)
    possible = [s for s in SETTINGS if any(s in SETTINGS_OF[k] for k in kinds)]
    if setting is None:
        return possible[np.random.default_rng([seed, 5]).integers(len(possible))]
    if setting not in SETTINGS:
        raise ValueError(f"setting={setting!r} must be one of {', '.join(SETTINGS)}")
    if setting not in possible:
        raise ValueError(f"{str(anomaly)!r} cannot happen in the setting {setting!r}; use {', '.join(possible)}")
    return setting


def _draw_fault(
    anomaly: AnomalyType | str,
    setting: str,
    seed: int,
    num_frames: int,
    fps: float,
    strength: float | None,
    duration_s: tuple[float, float] | None,
) -> Fault:
    names = [k for k in find_kinds(anomaly) if setting in SETTINGS_OF[k]]
    rng = np.random.default_rng([seed, 1])
    kind = names[rng.integers(len(names))]
    low, high = duration_s or DURATION_S
    low = max(low, min(SHORTEST_S.get(kind, 0), 0.95 * high))
    shortest, longest = max(2, round(low * fps)), max(2, round(high * fps))
    if num_frames < shortest + 4:
        raise ValueError(f"an anomaly needs at least {shortest + 4} frames at {fps} fps, got num_frames={num_frames}")
    length = int(rng.integers(shortest, max(shortest, min(longest, num_frames - 4)) + 1))
    last = num_frames - 2 - length
    start = int(rng.integers(min(max(2, round(EARLIEST_S.get(kind, 0) * fps)), last), last + 1))
    drawn = {"squash": rng.uniform(1.45, 2.1), "split": rng.uniform(0.5, 0.9)}.get(kind, 1.0)
    window = FrameRange(start, start + length - 1)
    return Fault(kind, window, float(drawn if strength is None else strength), float(rng.random()))


def _weather(nuisance: float, num_frames: int, rng: np.random.Generator) -> Weather:
    phase, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 2.0)
    wave = np.sin(phase + speed * 2 * np.pi * np.arange(num_frames) / num_frames)
    return Weather(
        softness=0.02 + nuisance * rng.uniform(0, 0.05),
        light=1 + nuisance * rng.uniform(0, 0.12) * wave,
        shade=(nuisance * rng.uniform(-0.15, 0.15), nuisance * rng.uniform(-0.15, 0.15)),
        tint=nuisance * rng.uniform(-12, 12, size=(2, 3)),
        grain=nuisance * rng.uniform(0, 5),
    )


def _camera(setting: str, nuisance: float, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """A slow sway of the view (T, 2), in half of the scenes; a camera over a floor sways sideways only."""
    if setting == "single" or rng.random() < 0.5:
        return np.zeros((num_frames, 2))
    t = np.arange(num_frames) / num_frames
    waves = np.sin(2 * np.pi * (rng.uniform(0.4, 1.2, size=2) * t[:, None] + rng.random(2)))
    reach = rng.uniform(0, 0.04, size=2) * nuisance
    return waves * reach * (np.array([1.0, 0.0]) if setting == "physics" else 1.0)


def _travel(
    pan: float, zoom: float, num_frames: int, rng: np.random.Generator
) -> tuple[np.ndarray | float, np.ndarray | None]:
    """A slow travel of the view from one point to another (T, 2), and its zoom (T,), at rest at both ends."""
    t = np.linspace(0, 1, num_frames)
    ease = (t * t * (3 - 2 * t))[:, None]
    ends, closeness = rng.uniform(-1, 1, size=(2, 2)), rng.uniform(-1, 0.5, size=2)
    travel = pan * (ends[0] + (ends[1] - ends[0]) * ease) if pan else 0.0
    seen = closeness[0] + (closeness[1] - closeness[0]) * ease[:, 0]
    return travel, (1 + zoom * seen if zoom else None)


def _spread(actor: Any, aspect: float) -> Any:
    """An actor whose places lie along the whole of a longer picture; its form stays as it is."""
    path = np.array(actor.path, float)
    axis, factor = (0, aspect) if aspect > 1 else (1, 1 / aspect)
    path[:, axis] = 0.5 + (path[:, axis] - 0.5) * factor
    return replace(actor, path=path)


# --- casts ------------------------------------------------------------------------------------------------------------


def _cast_single(plan: _Plan) -> tuple[str, tuple[Actor, ...], Actor]:
    shape, color, motion = plan.pick(SHAPES), plan.pick(tuple(plan.style.colors)), plan.pick(MOTIONS)
    radius = plan.rng.uniform(0.13, 0.18) * plan.scale
    focus, actors = _main_thing(plan, shape, color, motion, radius)
    return f"a {color} {shape} {motion}", actors, focus


def _cast_objects(plan: _Plan) -> tuple[str, tuple[Actor, ...], Actor]:
    shape, color = plan.pick(SHAPES), plan.pick(tuple(plan.style.colors))
    motion = plan.pick((*MOTIONS, "stands"))
    # Nothing of a thing that is stretched to twice its width may leave the picture, hence the limit.
    radius = min(0.13 * plan.scale * plan.rng.uniform(0.9, 1.1), 0.27 / REACH[shape] ** 0.5)
    focus, actors = _main_thing(plan, shape, color, motion, radius)
    others = _bystanders(plan, int(plan.rng.integers(0, 3)), color)
    names = "".join(f" with a {o.name}" for o in others)
    return f"a {color} {shape} {motion}{names}", (*others, *actors), focus


def _main_thing(plan: _Plan, shape: str, color: str, motion: str, radius: float) -> tuple[Thing, tuple[Actor, ...]]:
    """The thing the scene is about, with its fault; the second value is everything to be drawn for it."""
    extent, fault, count = radius * REACH[shape], plan.fault, plan.num_frames
    path = things.draw_path(motion, extent, count, plan.fps, plan.rng)
    thing = Thing(f"{color} {shape}", shape, plan.rgb(color), radius, path, plan.ground, fault)
    if fault is None or fault.kind in ("squash", "split"):
        return thing, (thing,)
    inside = _during(fault, count)
    if fault.kind == "vanish":
        thing = replace(thing, shown=~inside)
    elif fault.kind == "teleport":
        thing = replace(thing, path=things.displace(path, fault, extent))
    elif fault.kind == "flicker":
        thing = replace(thing, gain=things.flicker_gain(fault, count, thing.color))
    else:
        return _intruder(plan, thing, inside)
    return thing, (thing,)


def _during(fault: Fault | None, num_frames: int) -> np.ndarray:
    """(T,) true while the fault lasts."""
    inside = np.zeros(num_frames, bool)
    if fault is not None:
        inside[fault.frames.start : fault.frames.end + 1] = True
    return inside


def _intruder(plan: _Plan, thing: Thing, inside: np.ndarray) -> tuple[Thing, tuple[Actor, ...]]:
    """A second thing that is there during the fault only."""
    colors = [c for c in plan.style.colors if not thing.name.startswith(c)]
    color, shape = str(plan.fault_rng.choice(colors)), str(plan.fault_rng.choice(SHAPES))
    radius = 0.9 * thing.radius
    extent = radius * REACH[shape]
    window = thing.path[inside].mean(axis=0)
    places = plan.fault_rng.uniform(extent + 0.02, max(1 - extent - 0.02, extent + 0.03), size=(12, 2))
    place = places[np.linalg.norm(places - window, axis=1).argmax()]
    path = np.repeat(place[None], plan.num_frames, axis=0)
    ghost = Thing(f"{color} {shape}", shape, plan.rgb(color), radius, path, plan.ground, plan.fault, shown=inside)
    return ghost, (replace(thing, fault=None), ghost)


def _bystanders(plan: _Plan, count: int, taken: str) -> list[Thing]:
    """Small things that mind their own business, mostly standing near a corner."""
    others, corners = [], plan.rng.permutation(4)
    for k in range(count):
        color = plan.pick([c for c in plan.style.colors if c != taken])
        shape = plan.pick(SHAPES)
        radius = plan.rng.uniform(0.06, 0.09)
        corner = np.array([corners[k] % 2, corners[k] // 2])
        start = 0.13 + 0.74 * corner + plan.rng.uniform(-0.03, 0.03, size=2)
        speed = plan.rng.uniform(-0.03, 0.03, size=2) * (plan.rng.random() < 0.5)
        path = np.clip(start + speed * (np.arange(plan.num_frames) / plan.fps)[:, None], 0.1, 0.9)
        others.append(Thing(f"{color} {shape}", shape, plan.rgb(color), radius, path, plan.ground))
    return others


def _cast_person(plan: _Plan) -> tuple[str, tuple[Actor, ...], Actor]:
    color, action = plan.pick(tuple(plan.style.colors)), plan.pick(people.ACTIONS)
    height = float(np.clip(0.68 * plan.scale**0.5 * plan.rng.uniform(0.95, 1.05), 0.52, 0.94))
    person = people.make_person(
        f"{color} person", plan.rgb(color), height, action, plan.num_frames, plan.fps, plan.fault, plan.rng
    )
    others = _bystanders(plan, int(plan.rng.integers(0, 2)), color)
    names = "".join(f" with a {o.name}" for o in others)
    return f"a {color} person {action}{names}", (*others, person), person


def _cast_physics(plan: _Plan) -> tuple[str, tuple[Actor, ...], Actor]:
    shape = plan.pick(("ball", "square"))
    color, other = (str(c) for c in plan.rng.permutation(list(plan.style.colors))[:2])
    radius = float(np.clip(0.11 * plan.scale * plan.rng.uniform(0.9, 1.1), 0.075, 0.25))
    extent = radius * REACH[shape]
    level = float(plan.rng.uniform(0.8, 0.9))
    floor = physics.Floor(level, np.clip(plan.ground * 0.55 + 70, 0, 255))
    fault = plan.fault
    slides = bool(plan.rng.random() < 0.5)
    if fault is not None:
        slides = fault.kind == "overlap"
    if not slides:
        path = physics.bounce_path(extent, level, plan.num_frames, plan.fps, fault, plan.rng)
        thing = Thing(f"{color} {shape}", shape, plan.rgb(color), radius, path, plan.ground)
        return f"a {color} {shape} bounces on the floor", (floor, thing), thing
    block_radius = float(plan.rng.uniform(0.09, 0.15)) * max(1.0, plan.scale**0.5)
    half = block_radius * REACH["square"]
    centre = float(plan.rng.choice([0.42, 0.58]) + plan.rng.uniform(-0.06, 0.06))
    path = physics.slide_path(extent, (centre, half), level, plan.num_frames, fault, plan.rng)
    inside = _during(fault, plan.num_frames)
    thing = Thing(f"{color} {shape}", shape, plan.rgb(color), radius, path, plan.ground, clear=inside)
    spot = np.repeat(np.array([[centre, level - half]]), plan.num_frames, axis=0)
    block = Thing(f"{other} block", "square", plan.rgb(other), block_radius, spot, plan.ground)
    return f"a {color} {shape} slides against a {other} block", (floor, block, thing), thing


def _cast_sign(plan: _Plan) -> tuple[str, tuple[Actor, ...], Actor]:
    color, word = plan.pick(tuple(plan.style.colors)), plan.pick(WORDS)
    board = plan.rgb(color)
    ink = np.array([16, 16, 20] if board.mean() > 110 else [248, 248, 244], np.float32)
    width = float(np.clip(0.72 * plan.scale**0.5 * plan.rng.uniform(0.95, 1.05), 0.56, 0.94))
    height = width * 0.5
    motion = plan.pick(("stands", "stands", "moves right", "moves left", "moves up", "moves down"))
    path = things.draw_path(motion, 0.1, plan.num_frames, plan.fps, plan.rng)
    low, high = np.array([width / 2 + 0.02, height / 2 + 0.02]), np.array([0.98 - width / 2, 0.98 - height / 2])
    # The usual path between the rims, squeezed into the room a board has.
    path = low + (high - low) * (path - 0.13) / 0.74 if width < 0.9 else np.broadcast_to((low + high) / 2, path.shape)
    path = np.clip(path, np.minimum(low, 0.5), np.maximum(high, 0.5))
    sign = signs.make_sign(color, board, ink, width, np.array(path), word, plan.fault)
    others = _bystanders(plan, int(plan.rng.integers(0, 2)), color)
    return f"a {color} sign that reads {word}", (*others, sign), sign


_CASTS = {
    "single": _cast_single,
    "objects": _cast_objects,
    "person": _cast_person,
    "physics": _cast_physics,
    "sign": _cast_sign,
}
