"""The cascade: a verdict stands on the probability read before reasoning where that lies beyond calibrated bounds; only
about the rest the judge reasons.

Turn one is scored first, for all videos of a batch at once. What lies beyond the bounds is decided; the others are
answered in one batch, which a backend that keeps a cache continues from the prompt it has just scored
(:class:`~reward_model.backends.base.Continuing`). Bounds come from :mod:`reward_model.statistics.cascade`.

How far the readout decides is ``JudgeConfig.cascade``: with ``"normal"`` every abnormal verdict has been reasoned about
in both turns, as by the full judge; with ``"windows"`` a surely abnormal video is reasoned about once, which finds its
window, and turn two with its boxes is left out; with ``"scores"`` it is not reasoned about at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from reward_model.backends.base import Backend, Continuing, Wanted
from reward_model.config import JudgeConfig
from reward_model.conversation import Completion, Conversation, Sampling
from reward_model.parsing import forced_prefix
from reward_model.schema import Status, Turn, VerdictScore
from reward_model.turns import TurnRequest, direct_prefix

#: A score and an answer, one of them or neither: what is not known, or was not asked for.
Looked = tuple[VerdictScore | None, Completion | None]


def early_status(score: VerdictScore | None, config: JudgeConfig) -> Status | None:
    """The status beyond the bounds; None in between, and where nothing is known.

    A score that is only a bound, as servers give it that list few words, decides nothing.
    """
    if score is None or score.fault or score.bounded:
        return None
    if config.normal_above is not None and score.log_odds > config.normal_above:
        return "normal"
    if config.cascade != "normal" and config.abnormal_below is not None and score.log_odds < config.abnormal_below:
        return "abnormal"
    return None


def stands(score: VerdictScore | None, config: JudgeConfig) -> bool:
    """True if a turn one with this score is not reasoned about."""
    status = early_status(score, config)
    return status == "normal" or (status == "abnormal" and config.cascade == "scores")


def look(requests: Sequence[TurnRequest], backend: Backend, config: JudgeConfig) -> list[Looked]:
    """Each question's score before reasoning, and its answer unless the score of a turn one stands by itself.

    Args:
        requests: questions of one turn.
    """
    sampling = Sampling(max(r.max_new_tokens for r in requests), config.temperature, seed=config.seed)
    conversations = [request.conversation for request in requests]
    scans = [request.number == 1 for request in requests]

    def wanted(k: int, score: VerdictScore | None) -> bool:
        return not (scans[k] and stands(score, config))

    prefixes = [direct_prefix() for _ in requests]
    if isinstance(backend, Continuing):
        return backend.look_then_answer(conversations, prefixes, sampling, wanted)
    return look_in_two_calls(backend, conversations, prefixes, sampling, wanted)


def look_in_two_calls(
    backend: Backend, conversations: Sequence[Conversation], prefixes: Sequence[str], sampling: Sampling, wanted: Wanted
) -> list[Looked]:
    """:meth:`Continuing.look_then_answer` of a backend without it: one call scores all, one answers the rest."""
    scores = backend.score(conversations, prefixes)
    asked = [k for k, score in enumerate(scores) if wanted(k, score)]
    answers = backend.generate([conversations[k] for k in asked], sampling) if asked else []
    found = dict(zip(asked, answers, strict=True))
    return [(score, found.get(k)) for k, score in enumerate(scores)]


def ask_in_cascade(
    requests: Sequence[TurnRequest],
    backend: Backend,
    config: JudgeConfig,
    *,
    read: Callable[[TurnRequest, Completion], Turn],
    settle: Callable[[Sequence[Conversation], Sequence[Turn], float], list[Turn]],
) -> list[Turn]:
    """The turns about some questions of one number, in order.

    Args:
        read: the reading of an answer.
        settle: scores and decides turns that were reasoned about, which share the seconds since a moment.
    """
    started = time.perf_counter()
    looked = look(requests, backend, config)
    turns: list[Turn] = []
    for request, (score, answer) in zip(requests, looked, strict=True):
        if answer is None and score is not None:
            turns.append(_early_turn(request, score, config))
        else:
            silent = Completion("", finished=False, error="the backend gave neither an answer nor a score")
            turns.append(replace(read(request, answer or silent), direct_score=score))
    reasoned = [k for k, turn in enumerate(turns) if not turn.early]
    for k, turn in zip(
        reasoned,
        settle([requests[k].conversation for k in reasoned], [turns[k] for k in reasoned], started),
        strict=True,
    ):
        turns[k] = _confirmed(turn, config)
    seconds = (time.perf_counter() - started) / len(turns)
    return [replace(turn, seconds=seconds) for turn in turns]


def _early_turn(request: TurnRequest, score: VerdictScore, config: JudgeConfig) -> Turn:
    """Turn one as the readout decides it: its text is the beginning of an answer that was scored."""
    status = early_status(score, config)
    return Turn(1, request.indices, config.scan_fps, forced_prefix(), status=status, direct_score=score, early=True)


def _confirmed(turn: Turn, config: JudgeConfig) -> Turn:
    """A turn one that lies beyond the bound for abnormal, marked as decided where its reasoning agrees: the window it
    names stands, and turn two is not asked.
    """
    agrees = turn.number == 1 and turn.status == "abnormal" == early_status(turn.direct_score, config)
    return replace(turn, early=True) if agrees else turn
