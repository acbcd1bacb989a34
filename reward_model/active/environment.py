"""Environment of an episode, which shows the frames: over a real video or over captions of a known one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reward_model.active.operators import Operator, OperatorError, frames_of_look, novelty
from reward_model.active.views import Limits, Stretch, View, first_view, view_indices
from reward_model.prompts import Frames
from reward_model.schema import VideoAnnotation
from reward_model.turns import VideoView
from reward_model.world.narration import STATES, anomaly_kind, visible_anomalies


@dataclass(frozen=True, eq=False)
class Observation:
    """Frames and words a judge is shown after a move.

    Attributes:
        view: the view it has now.
        indices: native frames of that view.
        frames: those frames, (N, H, W, 3) uint8; None where nothing new is shown, and in an environment of captions.
        text: what the environment says: why an operator was refused, or captions.
        num_frames: frames that were shown now.
        novelty: share of them that were not shown before.
        operator: what was asked for; None at the beginning.
        refused: why it was not carried out; the view is then the one before.
    """

    view: View
    indices: tuple[int, ...]
    frames: Frames | None = None
    text: str = ""
    num_frames: int = 0
    novelty: float = 0.0
    operator: Operator | None = None
    refused: str | None = None


class Environment(ABC):
    """An episode's side of the conversation: it carries out operators, counts frames and keeps the limits.

    Args:
        footage: the part of the video that may be looked at.
        limits: limits of the episode.
        prompt: the text the video was made from.
    """

    def __init__(self, footage: Stretch, limits: Limits, prompt: str = "") -> None:
        self.footage, self.limits, self.prompt = footage, limits, prompt
        self.seen: set[int] = set()
        self.used = 0
        self.num_operators = 0
        self.view = first_view(footage, limits)

    @property
    def must_answer(self) -> bool:
        """True once no operator is left."""
        return self.num_operators >= self.limits.max_operators

    def start(self) -> Observation:
        """The first view; an environment that was used before begins anew.

        Raises:
            ValueError: if the first view exceeds a limit.
            VideoError: if the frames cannot be read.
        """
        self.seen, self.used, self.num_operators = set(), 0, 0
        self.view = first_view(self.footage, self.limits)
        indices = view_indices(self.view, self.footage)
        most = min(self.limits.max_view_frames, self.limits.max_frames)
        if len(indices) > most:
            raise ValueError(
                f"the first view of {self.view.seconds:.1f} s at {self.view.rate:g} fps has {len(indices)} frames, "
                f"more than {most}; look at a shorter part, lower start_fps, or raise max_view_frames"
            )
        return self._show(self.view, indices, None)

    def step(self, operator: Operator) -> Observation:
        """Carries out an operator. One that cannot be is refused and costs its place all the same.

        Raises:
            RuntimeError: if no operator is left.
        """
        if self.must_answer:
            raise RuntimeError(f"an episode has {self.limits.max_operators} operators, and all were used")
        self.num_operators += 1
        try:
            view, indices = frames_of_look(operator, self.view, self.footage, self.limits, self.used)
        except OperatorError as error:
            shown = view_indices(self.view, self.footage)
            return Observation(self.view, shown, text=f"invalid: {error}", operator=operator, refused=str(error))
        return self._show(view, indices, operator)

    def _show(self, view: View, indices: tuple[int, ...], operator: Operator | None) -> Observation:
        frames, text = self._render(indices)
        share = novelty(indices, self.seen)
        self.view, self.used = view, self.used + len(indices)
        self.seen.update(indices)
        return Observation(view, indices, frames, text, len(indices), share, operator)

    @abstractmethod
    def _render(self, indices: tuple[int, ...]) -> tuple[Frames | None, str]:
        """Frames and text of an observation."""


class VideoEnvironment(Environment):
    """A real video.

    Args:
        video: as the turns of a judge see it.
        limits: limits of the episode.
        part: first and last native frame that may be looked at; None: the whole video.
    """

    def __init__(self, video: VideoView, limits: Limits | None = None, part: tuple[int, int] | None = None) -> None:
        first, last = part or (0, video.num_frames - 1)
        super().__init__(Stretch(first, last, video.fps), limits or Limits(), video.prompt)
        self.video = video

    def _render(self, indices: tuple[int, ...]) -> tuple[Frames | None, str]:
        return self.video.take(indices), ""


class SymbolicEnvironment(Environment):
    """A known video, told in captions: a sentence for each frame, from the annotation. Runs in microseconds.

    Args:
        truth: the annotation.
        limits: limits of the episode.
        caption: (annotation, native frames) -> a sentence for each; by default those of the procedural world.
    """

    def __init__(
        self,
        truth: VideoAnnotation,
        limits: Limits | None = None,
        caption: Callable[[VideoAnnotation, Sequence[int]], list[str]] | None = None,
    ) -> None:
        super().__init__(Stretch(0, truth.num_frames - 1, truth.fps), limits or Limits(), truth.prompt)
        self.truth, self.caption = truth, caption or world_captions

    def _render(self, indices: tuple[int, ...]) -> tuple[Frames | None, str]:
        said = self.caption(self.truth, indices)
        return None, " ".join(f"Frame {k}: {sentence}" for k, sentence in enumerate(said))


def world_captions(truth: VideoAnnotation, indices: Sequence[int]) -> list[str]:
    """A sentence on each frame of a video of the world: the state its anomaly has there, or ``normal.``"""
    shown = visible_anomalies(truth, indices)
    return [" ".join(STATES[anomaly_kind(a)] for a in shown if k in a.frames) or "normal." for k in range(len(indices))]
