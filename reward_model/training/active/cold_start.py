"""The cold start: scripted episodes that a judge is taught before it draws its own.

The script knows the annotation: it looks where something happens, in normal and abnormal videos alike, and answers what
it then sees. Some episodes look elsewhere first, some about easy videos answer at once. At one view of each the verdict
word before any reasoning is learned as well, so that beliefs say what can be known there.
"""

from __future__ import annotations

import numpy as np

from reward_model.active.episodes import run_episode
from reward_model.active.operators import Operator, Zoom
from reward_model.active.policies import Narrate, OraclePolicy
from reward_model.active.views import first_view, view_indices
from reward_model.schema import FrameRange
from reward_model.training.active.config import ActiveConfig
from reward_model.training.active.episode_rows import EpisodeCase, belief_rows, write_script
from reward_model.training.active.videos import ActiveSample
from reward_model.training.grpo.rows import SequenceRow

#: Seconds of a place that is looked at where nothing happens.
_NOWHERE_S = 1.0


def scripted_rows(
    case: EpisodeCase, config: ActiveConfig, narrate: Narrate, rng: np.random.Generator
) -> tuple[SequenceRow, SequenceRow]:
    """A scripted episode of a video as a training row, and a row for the verdict word at one of its views.

    Args:
        case: the video.
        config: shares of detours and of answers at once.
        narrate: makes answers.
        rng: all that is drawn.
    """
    sample = case.sample
    window = scripted_window(sample, config, rng)
    environment = case.environment()
    footage = environment.footage
    detours: tuple[Operator, ...] = ()
    shown = view_indices(first_view(footage, environment.limits), footage)
    if window is not None and rng.random() < config.detours and environment.limits.max_operators > 1:
        place = int(rng.integers(len(shown)))
        last = min(place + int(rng.integers(1, 3)), len(shown) - 1)
        detours = (Zoom(shown[min(place, last)] / footage.fps, shown[last] / footage.fps, int(rng.choice((2, 4)))),)
    frames = case.wording.frames_in_moves
    oracle = OraclePolicy([sample.truth], [window], narrate, [detours], frames_in_moves=frames, framing=case.framing)
    episode = run_episode(oracle, environment)
    tokens = write_script(case, episode.observations, episode.moves)
    place = int(rng.integers(len(episode.moves)))
    normal, abnormal = belief_rows([tokens.copy(place).context()], case.builder)
    return tokens.row(), abnormal if sample.truth.status == "abnormal" else normal


def scripted_window(sample: ActiveSample, config: ActiveConfig, rng: np.random.Generator) -> FrameRange | None:
    """Place the script looks at: where something happens, or anywhere; nowhere in a share of easy videos."""
    if sample.easy and rng.random() < config.answer_at_once:
        return None
    if sample.window is not None:
        return sample.window
    first, last = sample.part or (0, sample.truth.num_frames - 1)
    length = min(round(_NOWHERE_S * sample.truth.fps), last - first)
    start = int(rng.integers(first, last - length + 1))
    return FrameRange(start, start + length)
