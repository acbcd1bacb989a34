"""Procedural videos whose truth is known to the pixel: what the mini models learn from and what tests measure
against.

``kinds`` lists what can go wrong, ``palette`` names colours, words and styles; ``things``, ``people``, ``physics`` and
``signs`` are the actors, ``scene`` casts them, ``video`` draws them and measures their boxes.
"""

from reward_model.world.kinds import KINDS
from reward_model.world.scene import Scene, make_scene
from reward_model.world.video import make_annotation, make_video

__all__ = ["KINDS", "Scene", "make_annotation", "make_scene", "make_video"]
