"""Look-alikes: a normal event and an anomaly that a coarse grid of frames cannot tell apart and a finer one can.

Both members of a pair are the same scene. Around one frame of the coarse grid, the *moment*, something happens: in the
normal member smoothly (a thing fades out and in), in the abnormal one at once (it vanishes and is back). The frames of
the coarse grid are equal, those of the finer grid between them are not: a judge that scans coarsely has to look again.

Three strata say which grid decides: ``scan``, where the event is so long that turn one sees the difference; ``zoom``,
where only turn two does; ``neither``, where no grid does and the best accuracy is one half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from reward_model.schema import FrameRange, VideoAnnotation
from reward_model.video.clip import SCAN_FPS, ZOOM_FPS, sample_indices
from reward_model.world import physics
from reward_model.world.canvas import Actor, Canvas, Layer
from reward_model.world.kinds import Fault
from reward_model.world.scene import Scene, make_scene
from reward_model.world.things import JUMP, REACH, Thing
from reward_model.world.video import SIZE, make_annotation, render

STRATA = ("scan", "zoom", "neither")

#: Each pair by its normal event, and the kind of anomaly beside it.
LOOK_ALIKES: dict[str, str] = {
    "fade": "vanish",
    "pass": "vanish",
    "bounce": "squash",
    "dash": "teleport",
    "turn": "mirror",
    "dim": "flicker",
}
#: What happens in the two members of a pair.
STORIES: dict[str, tuple[str, str]] = {
    "fade": ("a thing fades out and in again", "it vanishes and is back at once"),
    "pass": ("a thing passes behind a bar", "it vanishes beside the bar and comes back on the other side"),
    "bounce": ("a thing is squashed while it touches the floor", "it is squashed in the air before and after as well"),
    "dash": ("a thing moves far away and back, fast", "it jumps there and back"),
    "turn": ("a sign that one can see through turns once about itself", "it is mirrored at once"),
    "dim": ("the light falls and rises", "the light flickers"),
}


class Moment(NamedTuple):
    """Native frames of an event: it begins after ``start`` and is over at ``end``, both frames of the coarse grid, as
    ``middle`` is. ``left`` and ``right`` are the frames of the finer grid next to the middle.
    """

    start: int
    left: int
    middle: int
    right: int
    end: int

    def smooth(self, num_frames: int) -> np.ndarray:
        """(T,): 0 up to the start, evenly to 1 in the middle, and back to 0 at the end."""
        return np.interp(np.arange(num_frames), [self.start, self.middle, self.end], [0.0, 1.0, 0.0])

    def abrupt(self, num_frames: int) -> np.ndarray:
        """(T,): 1 between left and right, 0 elsewhere: equal to the smooth one on the coarse grid."""
        return self.during(self.left, self.right, num_frames).astype(float)

    def during(self, after: int, before: int, num_frames: int) -> np.ndarray:
        """(T,) flags of the frames between two."""
        frames = np.arange(num_frames)
        return np.asarray((frames > after) & (frames < before))


class Pair(NamedTuple):
    """Two scenes that are equal but for the event; :func:`reward_model.world.make_annotation` tells their truth."""

    normal: Scene
    abnormal: Scene
    moment: Moment


def draw_moment(
    num_frames: int,
    fps: float,
    stratum: str,
    rng: np.random.Generator,
    *,
    scan_fps: float = SCAN_FPS,
    zoom_fps: float = ZOOM_FPS,
) -> Moment:
    """The moment of a pair, anywhere in a video.

    The two grids that must agree and differ are those of half ``scan_fps`` and ``scan_fps`` in the stratum ``scan``,
    those of the two turns in ``zoom``, and that of turn two and the native frames in ``neither``.

    Raises:
        ValueError: if the stratum is unknown, or the video too short or its frame rate too low for it.
    """
    if stratum not in STRATA:
        raise ValueError(f"stratum={stratum!r} must be one of {', '.join(STRATA)}")
    if not 0 < scan_fps < zoom_fps:
        raise ValueError(f"scan_fps={scan_fps} must be above 0 and below zoom_fps={zoom_fps}")
    rates = {"scan": (scan_fps / 2, scan_fps), "zoom": (scan_fps, zoom_fps), "neither": (zoom_fps, fps)}[stratum]
    coarse, fine = (sample_indices(num_frames, fps, rate) for rate in rates)
    # Where one grid does not hold the other, neither may show what lies between the frames of the coarse one.
    unseen = set(sample_indices(num_frames, fps, scan_fps)) if stratum == "neither" else set()
    moments = [m for m in _moments(coarse, fine, unseen) if m.start >= 1 and m.end <= num_frames - 2]
    if not moments:
        raise ValueError(
            f"no frame of {num_frames} at {fps:g} fps can hold a pair that {rates[0]:g} fps cannot tell apart and "
            f"{rates[1]:g} fps can (stratum {stratum!r}); use a longer video or more native frames a second"
        )
    return moments[int(rng.integers(len(moments)))]


def _moments(coarse: Sequence[int], fine: Sequence[int], unseen: set[int]) -> Iterator[Moment]:
    """All moments around a frame of the coarse grid with frames of the finer one before and after it, and none of
    ``unseen`` between.
    """
    for start, middle, end in zip(coarse, coarse[1:], coarse[2:], strict=False):
        before, after = [n for n in fine if start < n < middle], [n for n in fine if middle < n < end]
        between = {*range(start + 1, middle), *range(middle + 1, end)}
        if before and after and not unseen & between:
            yield Moment(start, before[-1], middle, after[0], end)


def make_pair_scenes(
    seed: int,
    kind: str,
    *,
    stratum: str = "zoom",
    scan_fps: float = SCAN_FPS,
    zoom_fps: float = ZOOM_FPS,
    num_frames: int = 81,
    fps: float = 16,
    **options: Any,
) -> Pair:
    """The two scenes of a pair, to be drawn by :func:`reward_model.world.video.render` frame by frame.

    Args:
        seed: any integer >= 0; everything follows from it.
        kind: one of :data:`LOOK_ALIKES`.
        stratum: which grid tells the two apart, one of :data:`STRATA`.
        scan_fps, zoom_fps: grids of the two turns. With ``scan_fps=2`` pairs are equal on the 2-fps grid and decided at
            ``zoom_fps``, 4 or 8.
        num_frames, fps: length and native frame rate.
        options: of :func:`reward_model.world.make_scene`: ``nuisance``, ``style``, ``aspect``, ``pan``, ``zoom``.

    Raises:
        ValueError: if a name is unknown, or the video cannot hold the event.
    """
    if kind not in LOOK_ALIKES:
        raise ValueError(f"no look-alike {kind!r}; there are {', '.join(LOOK_ALIKES)}")
    rng = np.random.default_rng([seed, 21])
    moment = draw_moment(num_frames, fps, stratum, rng, scan_fps=scan_fps, zoom_fps=zoom_fps)
    setting = {"pass": "objects", "bounce": "physics", "turn": "sign"}.get(kind)
    if kind in ("fade", "dash"):
        setting = str(rng.choice(("single", "objects")))
    scene = make_scene(seed, None, setting=setting, num_frames=num_frames, fps=fps, **options)
    normal, abnormal, window = _EVENTS[kind](scene, moment, rng)
    fault = Fault(LOOK_ALIKES[kind], FrameRange(*window), 1.0, 0.0)
    return Pair(normal, replace(abnormal, fault=fault), moment)


def make_pair(
    seed: int, kind: str, *, size: int | tuple[int, int] = SIZE, **options: Any
) -> tuple[tuple[np.ndarray, VideoAnnotation], tuple[np.ndarray, VideoAnnotation]]:
    """A normal video and its abnormal look-alike, each with its truth: ``(frames, truth), (frames, truth)``.

    Args:
        seed: the pair.
        kind: one of :data:`LOOK_ALIKES`.
        size: as in :func:`reward_model.world.make_video`.
        options: as in :func:`make_pair_scenes`.

    Example:
        >>> (normal, calm), (abnormal, wrong) = make_pair(7, "fade")
        >>> calm.status, wrong.status, bool((normal[::4] == abnormal[::4]).all())
        ('normal', 'abnormal', True)
    """
    pair = make_pair_scenes(seed, kind, **options)
    stratum = options.get("stratum", "zoom")
    return (
        _shown(pair.normal, f"{kind}-{stratum}-normal", size),
        _shown(pair.abnormal, f"{kind}-{stratum}-abnormal", size),
    )


def _shown(scene: Scene, name: str, size: int | tuple[int, int]) -> tuple[np.ndarray, VideoAnnotation]:
    truth = replace(make_annotation(scene, size), video_id=f"world-{scene.seed}-{name}")
    return render(scene, range(scene.num_frames), size), truth


# --- events: (scene, moment, rng) -> normal scene, abnormal scene, first and last wrong frame -------------------------

_Event = tuple[Scene, Scene, tuple[int, int]]


def _with_focus(scene: Scene, focus: Actor, *, above: Sequence[Actor] = ()) -> Scene:
    """The scene with another main actor in the place of its own, and others over everything."""
    actors = tuple(focus if a is scene.focus else a for a in scene.actors)
    return replace(scene, actors=(*actors, *above), focus=focus)


def _thing(scene: Scene) -> Thing:
    assert isinstance(scene.focus, Thing)
    return scene.focus


def _fade(scene: Scene, moment: Moment, rng: np.random.Generator) -> _Event:
    """Opacity: a thing fades out and in, or is gone at once."""
    thing, count = _thing(scene), scene.num_frames
    smooth, abrupt = (
        _with_focus(scene, replace(thing, opacity=1 - p)) for p in (moment.smooth(count), moment.abrupt(count))
    )
    return smooth, abrupt, (moment.left + 1, moment.right - 1)


def _dash(scene: Scene, moment: Moment, rng: np.random.Generator) -> _Event:
    """Place: a thing moves far to the side and back, or jumps there."""
    thing, count = _thing(scene), scene.num_frames
    extent, axis = thing.radius * REACH[thing.shape], int(rng.integers(2))
    here = thing.path[moment.middle, axis]
    there = np.clip(here + (JUMP if here < 0.5 else -JUMP), extent + 0.01, 1 - extent - 0.01)
    way = np.zeros(2)
    way[axis] = there - here
    members = []
    for profile in (moment.smooth(count), moment.abrupt(count)):
        members.append(_with_focus(scene, replace(thing, path=thing.path + profile[:, None] * way)))
    return members[0], members[1], (moment.left + 1, moment.right - 1)


#: Smallest and largest reach of a thing that passes behind a bar; room between what is hidden and the rim of the bar.
_PASSING, _SPARE = (0.07, 0.095), 0.01


def _pass(scene: Scene, moment: Moment, rng: np.random.Generator) -> _Event:
    """Sight: a thing passes behind a bar; or it is gone before it gets there and until it is well past."""
    count = scene.num_frames
    extent = float(rng.uniform(*_PASSING))
    axis, way, middle = int(rng.integers(2)), float(rng.choice((-1, 1))), float(rng.uniform(0.47, 0.53))
    half = extent + scene.weather.softness + _SPARE
    near = half + 0.75 * extent  # most of the thing is seen beside the bar on the finer grid
    far = min(max(near + 0.1, half + extent + scene.weather.softness + 0.02), 0.46 - extent)
    path = np.empty((count, 2))
    path[:, axis] = middle + way * np.interp(
        np.arange(count),
        [0, *moment, count - 1],
        [-max(far, 0.47 - extent), -far, -near, 0.0, near, far, max(far, 0.47 - extent)],
    )
    path[:, 1 - axis] = float(rng.uniform(0.25, 0.75))
    thing = replace(_thing(scene), radius=extent / REACH[_thing(scene).shape], path=path)
    colors = [c for name, c in scene.style.colors.items() if not thing.name.startswith(name)]
    bar = Bar(middle, half, axis, np.asarray(colors[rng.integers(len(colors))], np.float32) * np.float32(0.8))
    # Whoever stands about would be in the way of the bar.
    alone = replace(scene, actors=(scene.focus,), prompt=_about(scene, f"a {thing.name} passes behind a bar"))
    if alone.look is not None:  # the shadow of what is hidden would fall beside the bar
        alone = replace(alone, look=replace(alone.look, shadow=0.0))
    # What the bar hides is not drawn at all: paint over paint would round differently than paint over the ground.
    seen = np.arange(count) != moment.middle
    normal = _with_focus(alone, replace(thing, shown=seen), above=(bar,))
    gone = moment.during(moment.start, moment.end, count)
    abnormal = _with_focus(alone, replace(thing, shown=~gone), above=(bar,))
    return normal, abnormal, (moment.start + 1, moment.end - 1)


def _bounce(scene: Scene, moment: Moment, rng: np.random.Generator) -> _Event:
    """Shape: a thing is squashed while it touches the floor; or from well before it does until well after."""
    floor = scene.actors[0]
    assert isinstance(floor, physics.Floor)
    thing, count = _thing(scene), scene.num_frames
    strength = float(rng.uniform(1.55, 1.9))
    extent = thing.radius * REACH[thing.shape]
    gap_s = (moment.end - moment.start) / 2 / scene.fps
    period_s = max(float(rng.uniform(0.9, 1.3)), 1.25 * gap_s)
    touch_s = min(0.05, 0.3 * (moment.middle - moment.left) / scene.fps)
    seconds = (np.arange(count) - moment.middle) / scene.fps
    # Seconds since or until the nearest contact, whose middle is at 0.
    away = np.abs((seconds + (period_s / 2 + touch_s)) % (period_s + 2 * touch_s) - (period_s / 2 + touch_s))
    touching = np.clip(1 - away / touch_s, 0, 1)
    share = np.clip(away - touch_s, 0, None) / period_s
    height = rng.uniform(0.75, 0.95) * (floor.level - 2 * extent - 0.05) * 4 * share * (1 - share)
    x = float(rng.uniform(0.5 - 0.9 * (0.5 - extent * 1.9), 0.5 + 0.9 * (0.5 - extent * 1.9)))
    members = []
    for squashed in (touching, np.maximum(touching, moment.during(moment.start, moment.end, count))):
        stretch = 1 + (strength - 1) * squashed
        # The lowest point stays where it is, whatever becomes of the shape.
        path = np.stack([np.full(count, x), floor.level - height - extent / stretch], axis=1)
        changed = replace(thing, path=path, clear=None, stretch=np.stack([stretch, 1 / stretch], axis=1))
        members.append(replace(scene, actors=(floor, changed), focus=changed))
    prompt = _about(scene, f"a {thing.name} bounces on the floor")
    return (
        replace(members[0], prompt=prompt),
        replace(members[1], prompt=prompt),
        (moment.start + 1, moment.end - 1),
    )


#: Least width of a turning sign, seen edge-on; opacity of a board that one can see through.
_EDGE, _GLASS = 0.12, 0.85


def _turn(scene: Scene, moment: Moment, rng: np.random.Generator) -> _Event:
    """Side: a sign turns until it is seen from behind, and on; or its face is mirrored at once."""
    sign: Any = replace(scene.focus, opacity=_GLASS)  # type: ignore[type-var]
    members = []
    for profile in (moment.smooth(scene.num_frames), moment.abrupt(scene.num_frames)):
        cosine = np.cos(np.pi * profile)
        seen = np.where(cosine < 0, -1.0, 1.0) * np.maximum(np.abs(cosine), _EDGE)
        members.append(_with_focus(scene, replace(sign, turn=seen)))
    return members[0], members[1], (moment.left + 1, moment.right - 1)


#: Share of the light that is left at the darkest.
_DARKEST = 0.35


def _dim(scene: Scene, moment: Moment, rng: np.random.Generator) -> _Event:
    """Light: that of the whole picture falls and rises, or is off for a moment."""
    light, members = Light(), []
    for profile in (moment.smooth(scene.num_frames), moment.abrupt(scene.num_frames)):
        weather = replace(scene.weather, light=scene.weather.light * (1 - (1 - _DARKEST) * profile))
        members.append(replace(scene, weather=weather, actors=(*scene.actors, light), focus=light))
    return members[0], members[1], (moment.left + 1, moment.right - 1)


_EVENTS: dict[str, Callable[[Scene, Moment, np.random.Generator], _Event]] = {
    "fade": _fade,
    "pass": _pass,
    "bounce": _bounce,
    "dash": _dash,
    "turn": _turn,
    "dim": _dim,
}


def _about(scene: Scene, what: str) -> str:
    """The prompt of a scene in which something else happens."""
    return f"{what} on a {scene.prompt.rsplit(' on a ', 1)[1]}"


@dataclass(frozen=True)
class Bar:
    """A bar across the picture, ``half`` as wide on each side of ``middle`` along ``axis`` (0: upright)."""

    middle: float
    half: float
    axis: int
    color: np.ndarray
    name: str = "bar"

    def layers(self, canvas: Canvas) -> list[Layer]:
        along = canvas.x if self.axis == 0 else canvas.y
        distance = np.broadcast_to(np.abs(along - np.float32(self.middle)) - np.float32(self.half), canvas.shape)
        return [Layer(canvas.fill(distance), self.color)]

    def regions(self, canvas: Canvas) -> list[np.ndarray]:
        return []


@dataclass(frozen=True)
class Light:
    """The light of the whole picture, which is boxed as a whole."""

    name: str = "light"

    def layers(self, canvas: Canvas) -> list[Layer]:
        return []

    def regions(self, canvas: Canvas) -> list[np.ndarray]:
        return [np.ones(canvas.shape, np.float32)]
