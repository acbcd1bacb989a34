"""Procedural videos whose truth is known to the pixel: what the mini models learn from and what tests measure
against.

``kinds`` lists what can go wrong, ``palette`` names colours, words and styles, ``looks`` what styles add to colours;
``things``, ``people``, ``physics`` and ``signs`` are the actors, ``scene`` casts them, ``video`` draws and measures
them. ``shifts`` names other ways to present the same world (``shift``: what one can say, ``edits``: what is done to
finished pictures), and ``films`` films a scene so. ``look_alikes`` and ``short`` are hard to judge: pairs that a coarse
grid of frames cannot tell apart, and anomalies that it hardly meets. ``supervision`` blunts an annotation to what
people give.
"""

from reward_model.world.films import Film, film, film_scene, make_shifted
from reward_model.world.kinds import KINDS
from reward_model.world.look_alikes import LOOK_ALIKES, STRATA, Moment, Pair, make_pair, make_pair_scenes
from reward_model.world.palette import TRAINING_STYLES
from reward_model.world.scene import Scene, make_scene
from reward_model.world.shift import Shift
from reward_model.world.shifts import SHIFTS, draw_shift
from reward_model.world.short import SHORT_KINDS, make_short, make_short_scene
from reward_model.world.supervision import as_people_annotate
from reward_model.world.video import make_annotation, make_video

__all__ = [
    "KINDS",
    "LOOK_ALIKES",
    "SHIFTS",
    "SHORT_KINDS",
    "STRATA",
    "TRAINING_STYLES",
    "Film",
    "Moment",
    "Pair",
    "Scene",
    "Shift",
    "as_people_annotate",
    "draw_shift",
    "film",
    "film_scene",
    "make_annotation",
    "make_pair",
    "make_pair_scenes",
    "make_scene",
    "make_shifted",
    "make_short",
    "make_short_scene",
    "make_video",
]
