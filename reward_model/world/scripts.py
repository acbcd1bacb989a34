"""Scripts: a few numbers that name a video of the world, so that a training set of any size costs no disk.

A script tells one of several stories: the plain world, the same world under a drawn shift, a short anomaly, or one
member of a pair of look-alikes. Nothing is drawn before frames are asked for, and the same script always gives the same
video.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from reward_model.schema import VideoAnnotation
from reward_model.world.films import Film, film, film_scene
from reward_model.world.kinds import KINDS
from reward_model.world.look_alikes import LOOK_ALIKES, STRATA, make_pair_scenes
from reward_model.world.palette import TRAINING_STYLES
from reward_model.world.scene import make_scene
from reward_model.world.shift import Shift
from reward_model.world.shifts import draw_shift
from reward_model.world.short import SHORT_KINDS, make_short_scene

PLAIN, SHIFTED, SHORT = "plain", "shifted", "short"
#: Any of :data:`reward_model.world.LOOK_ALIKES`.
ANY_LOOK_ALIKE = "look-alike"
#: Stories a script can tell.
STORIES = (PLAIN, SHIFTED, SHORT, ANY_LOOK_ALIKE)
#: Longest video that is stored and read again for its compression; every frame of it has to be drawn.
_STORED_FRAMES = 121
#: Draws that a scene which is there already cannot follow.
_OF_THE_SCENE = ("length", "rate", "speed", "shape", "camera", "style", "compression")
#: How often a look-alike is shifted, or drawn in another style than the plain one.
_MIXED = 0.3


@dataclass(frozen=True)
class Script:
    """A video of the world by a few numbers.

    Attributes:
        seed: seed of the scene.
        kind: kind of anomaly, "" for a normal video.
        setting: where it plays; look-alikes choose for themselves.
        story: ``plain``, ``shifted``, ``short``, or one of :data:`reward_model.world.LOOK_ALIKES`.
        stratum: of a look-alike, the grid that decides it.
        draw: seed of everything else that is drawn: the shift, the style, how often the scan meets a short anomaly.
        strength: of a squash or split; None: drawn.
        stored: whether a shift may store the video and read it again; to do so every frame has to be drawn.
    """

    seed: int
    kind: str = ""
    setting: str | None = None
    story: str = PLAIN
    stratum: str = "zoom"
    draw: int = 0
    strength: float | None = None
    stored: bool = True

    def film(self, **scene_options: Any) -> Film:
        """The video.

        Args:
            scene_options: of :func:`reward_model.world.make_scene` that the story does not settle, such as
                ``nuisance``.

        Raises:
            ValueError: if the story is unknown, or cannot hold the anomaly.
        """
        if self.story in LOOK_ALIKES:
            return self._look_alike(abnormal=bool(self.kind), **scene_options)
        rng = np.random.default_rng([self.draw, 6])
        options = {"setting": self.setting, "strength": self.strength, **scene_options}
        if self.story == SHIFTED:
            return film(self.seed, self.kind or None, self._shift(rng), **options)
        if self.story == SHORT and self.kind:
            meets = int(rng.random() < 0.7)
            return film_scene(make_short_scene(self.seed, self.kind, meets=meets, **options), Shift())
        if self.story in (PLAIN, SHORT):
            return film_scene(make_scene(self.seed, self.kind or None, **options), Shift())
        raise ValueError(
            f"story={self.story!r} must be {PLAIN}, {SHIFTED}, {SHORT}, or one of {', '.join(LOOK_ALIKES)}"
        )

    def suspicion(self) -> VideoAnnotation | None:
        """Of a look-alike, the truth of the abnormal member: what a scan that cannot tell the two apart may suspect."""
        return self._look_alike(abnormal=True).truth if self.story in LOOK_ALIKES else None

    def _look_alike(self, *, abnormal: bool, **scene_options: Any) -> Film:
        rng = np.random.default_rng([self.draw, 6])
        style = str(rng.choice(TRAINING_STYLES)) if rng.random() < _MIXED else "plain"
        pair = make_pair_scenes(self.seed, self.story, stratum=self.stratum, style=style, **scene_options)
        shift = Shift()
        if rng.random() < _MIXED:
            letters = ("mirror",) if pair.normal.setting == "sign" else ()
            shift = draw_shift(rng, most=1, without=(*_OF_THE_SCENE, *letters))
        return film_scene(pair.abnormal if abnormal else pair.normal, shift)

    def _shift(self, rng: np.random.Generator) -> Shift:
        """A shift that can show the anomaly where it plays."""
        without = () if self.stored else ("compression",)
        while True:
            shift = draw_shift(rng, without=without)
            fits = (not self.kind or self.kind in shift.kinds) and self.setting in (None, *shift.settings)
            if fits and (shift.crf is None or shift.num_frames <= _STORED_FRAMES):
                return shift


def check_stories(shares: Mapping[str, float]) -> None:
    """Raises ValueError for a story that does not exist, or shares that are negative or above 1 together.

    Beside :data:`STORIES` there are the look-alikes by their names, and ``zoom/fade`` or ``zoom/look-alike``: one
    stratum of one of them or of all.
    """
    unknown = [name for name in shares if name not in STORIES[1:] and _look_alike_named(name) is None]
    if unknown or any(share < 0 for share in shares.values()) or sum(shares.values()) > 1:
        raise ValueError(
            f"stories={dict(shares)} must give shares of {', '.join(STORIES[1:])} from 0 to 1, together at most 1; the "
            f"rest is plain. One look-alike ({', '.join(LOOK_ALIKES)}) or stratum ({', '.join(STRATA)}) is named as in "
            "zoom/fade"
        )


class _Named(NamedTuple):
    """A look-alike as a share names it; None: any."""

    stratum: str | None
    event: str | None


def _look_alike_named(name: str) -> _Named | None:
    """The look-alike that a share is of, None if of another story."""
    stratum, slash, event = name.rpartition("/")
    if event not in (ANY_LOOK_ALIKE, *LOOK_ALIKES) or (slash and stratum not in STRATA):
        return None
    return _Named(stratum or None, None if event == ANY_LOOK_ALIKE else event)


def draw_story(rng: np.random.Generator, shares: Mapping[str, float], kind: str, *, abnormal: bool) -> dict[str, Any]:
    """Story, stratum and anomaly of a script, as its arguments of the same names.

    Args:
        rng: decides.
        shares: story -> its share, as :func:`check_stories` takes them.
        kind: kind of anomaly that the video shows, or could show if it is normal.
        abnormal: whether it shows it. A look-alike shows its own kind instead.
    """
    assert kind in KINDS
    names = [PLAIN, *shares]
    story = str(rng.choice(names, p=[1 - sum(shares.values()), *shares.values()]))
    return tell_story(rng, story, kind, abnormal=abnormal)


def tell_story(rng: np.random.Generator, story: str, kind: str, *, abnormal: bool) -> dict[str, Any]:
    """As :func:`draw_story`, of a story that is settled: ``plain``, or what a share names."""
    stratum = str(rng.choice(STRATA, p=(0.25, 0.65, 0.1)))
    if (named := _look_alike_named(story)) is not None:
        story = named.event or str(rng.choice(list(LOOK_ALIKES)))
        stratum = named.stratum or stratum
        kind = LOOK_ALIKES[story]
    elif story == SHORT and kind not in SHORT_KINDS:
        story = PLAIN
    return {"story": story, "stratum": stratum, "kind": kind if abnormal else ""}
