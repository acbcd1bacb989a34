"""Procedural videos whose truth is known to the pixel: what the mini models learn from and what tests measure
against.
"""

from reward_model.world.scene import KINDS, Scene, make_scene
from reward_model.world.video import make_annotation, make_video

__all__ = ["KINDS", "Scene", "make_annotation", "make_scene", "make_video"]
