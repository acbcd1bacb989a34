"""Interface of a reward: the call, the checks of its answer before anything relies on it, the order of what it has
scored, and its provenance.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

from reward_model.setting_keys import without_keys

if TYPE_CHECKING:
    import numpy as np

    from reward_model.schema import Verdict


@runtime_checkable
class Reward(Protocol):
    """Any callable of this shape is a reward; no base class is needed.

    Args of a call:
        videos: one (T, H, W, 3) uint8 array per video.
        prompts: one text per video, or None.
        fps: frames per second, common to all videos.
        **kwargs: accepted and ignored, so that later callers may pass more.

    Returns:
        One number in [0, 1] per video, higher is better; None if the reward could not judge, never a stand-in
        number.

    A reward should be picklable, so that it can travel to worker processes. It may carry a ``name``, and a
    ``judge_batch`` method that returns :class:`reward_model.schema.Verdict` objects, whose evidence is then kept.

    Example:
        >>> def brightness(videos, prompts=None, *, fps, **kwargs):
        ...     return [float(v.mean()) / 255 for v in videos]
    """

    def __call__(
        self, videos: Sequence[np.ndarray], prompts: Sequence[str] | None = None, *, fps: float, **kwargs: Any
    ) -> list[float | None]: ...


class RewardError(ValueError):
    """A reward broke its contract, or nothing could be judged. The message names the reward and what it did."""

    #: Of a command that ends by it, see :mod:`reward_model.terminal.program`.
    exit_code = 1


@dataclass(frozen=True)
class Evaluation:
    """Scores of some videos by a reward; all lists have one entry per video.

    ``parts`` holds sub-scores: the axes of a reward, the members of a composite one. ``reasons`` says why a score is
    None, or which member it was made without. ``group_scores`` are the standardised values behind scores that depend on
    a group (:class:`~cac_align.rewards.composite.CompositeReward`), None elsewhere.
    """

    scores: list[float | None]
    verdicts: list[Verdict | None]
    reasons: list[str | None]
    parts: dict[str, list[float | None]] = field(default_factory=dict)
    group_scores: list[float | None] | None = None


def reward_name(reward: object) -> str:
    """A short name for messages and reports: its ``name``, else the function's or the class's name."""
    name = getattr(reward, "name", None)
    if isinstance(name, str) and name:
        return name
    return getattr(reward, "__name__", None) or type(reward).__name__


def check_callable(reward: object) -> None:
    """Raises RewardError unless ``reward`` can be called as a reward is."""
    if isinstance(reward, type):
        raise RewardError(f"{reward.__name__} is a class; pass an instance: {reward.__name__}(...)")
    if isinstance(reward, str):
        short = {"cac": "CaCReward", "unified": "UnifiedReward"}.get(reward.lower())
        raise RewardError(
            f"a reward must be callable as reward(videos, prompts, fps=...), got str; pass "
            f"{f'{short}()' if short else f'the reward itself, not its name {reward!r}'}"
        )
    if not callable(reward):
        raise RewardError(
            f"a reward must be callable as reward(videos, prompts, fps=...), got {type(reward).__name__}; "
            "several rewards go in a list"
        )
    if hasattr(reward, "evaluate") or hasattr(reward, "judge_batch"):
        return
    try:
        signature = inspect.signature(reward)
    except (ValueError, TypeError):
        return  # built in: found out when it is called
    try:
        signature.bind([], [], fps=16.0)
    except TypeError as error:
        raise RewardError(
            f"reward {reward_name(reward)!r} cannot be called as reward(videos, prompts, fps=...): {error}; give it "
            "the parameters (videos, prompts=None, *, fps, **kwargs)"
        ) from None


def check_reward(reward: object) -> None:
    """Looks for what would keep a reward from working, without loading a model.

    A reward may have a method ``check_ready()`` that raises if it is certain to fail.

    Raises:
        RewardError: if it cannot be called as a reward is.
        ValueError, BackendError: what its own check found.
    """
    check_callable(reward)
    check = getattr(reward, "check_ready", None)
    if callable(check):
        check()


def check_num_frames(reward: object, num_frames: int) -> None:
    """Raises RewardError if videos of so many frames are too short for a reward, or for a member of a composite one.

    A reward may say so by an attribute ``least_frames``.
    """
    least = getattr(reward, "least_frames", 1)
    if isinstance(least, int) and num_frames < least:
        raise RewardError(
            f"reward {reward_name(reward)!r} needs videos of at least {least} frames, and num_frames={num_frames}; "
            "draw longer videos, or leave it out"
        )
    members = getattr(reward, "rewards", None)
    for member in members if isinstance(members, list | tuple) else ():
        check_num_frames(member, num_frames)


def make_ready(reward: object) -> None:
    """Lets a reward load what it needs, where it has a method ``make_ready()`` for that."""
    load = getattr(reward, "make_ready", None)
    if callable(load):
        load()


def demo_note(reward: object) -> str | None:
    """Note for reports on a reward that is for demonstration only; None for others."""
    note = getattr(reward, "demo_note", None)
    return note if isinstance(note, str) else None


def check_scores(answer: object, num_videos: int, name: str) -> list[float | None]:
    """The answer of a reward as plain floats and None.

    Args:
        answer: a sequence, numpy array or torch tensor; numpy and torch scalars inside are accepted.
        num_videos: how many values are needed.
        name: the reward, for messages.

    Raises:
        RewardError: another length, a value that is not a number, or NaN or infinity.
    """
    if hasattr(answer, "tolist"):
        answer = answer.tolist()
    if isinstance(answer, str | bytes) or not isinstance(answer, Sequence):
        raise RewardError(
            f"reward {name!r} returned {type(answer).__name__}; it must return a list with one number or None per video"
        )
    if len(answer) != num_videos:
        raise RewardError(
            f"reward {name!r} returned {len(answer)} scores for {num_videos} videos; "
            "it must return one per video, in order"
        )
    return [None if value is None else _finite(value, position, name) for position, value in enumerate(answer)]


def _finite(value: Any, position: int, name: str) -> float:
    try:
        number = float(value) if not isinstance(value, str) else math.nan
    except (TypeError, ValueError):
        raise RewardError(
            f"reward {name!r} returned {value!r} for video {position}; expected a number or None"
        ) from None
    if not math.isfinite(number):
        raise RewardError(
            f"reward {name!r} returned {value!r} for video {position}; return None if a video cannot be judged"
        )
    return number


def evaluate(reward: Reward, videos: Sequence[Any], prompts: Sequence[str] | None, *, fps: float) -> Evaluation:
    """Asks a reward once and keeps all it has to say: a judge's verdicts, a composite's parts, and the reason for every
    None.

    Args:
        videos: (T, H, W, 3) uint8 each, or :class:`reward_model.video.Video`, of which a reward gets the frames unless
            its attribute ``takes_videos`` is True.
        prompts: one text per video, or None.
        fps: frames per second.

    Raises:
        RewardError: if ``reward`` is not callable, or its answer breaks the contract.
    """
    name = reward_name(reward)
    if not getattr(reward, "takes_videos", False):
        videos = as_frames(videos)
    if hasattr(reward, "evaluate"):
        return reward.evaluate(videos, prompts, fps=fps)
    if hasattr(reward, "judge_batch"):
        verdicts = list(reward.judge_batch(videos, prompts, fps=fps))
        scores = check_scores([v.score for v in verdicts], len(videos), name)
        reasons = [
            None if s is not None else v.error or "no reason given" for s, v in zip(scores, verdicts, strict=True)
        ]
        return Evaluation(scores, list(verdicts), reasons)
    check_callable(reward)
    scores = check_scores(reward(videos, prompts, fps=fps), len(videos), name)
    reasons = [None if s is not None else f"reward {name!r} returned None" for s in scores]
    return Evaluation(scores, [None] * len(videos), reasons)


def as_frames(videos: Sequence[Any]) -> list[Any]:
    """The frames of every :class:`reward_model.video.Video`, and anything else as it is."""
    from reward_model.video.clip import Video

    return [video.frames if isinstance(video, Video) else video for video in videos]


# --- the order of several candidates: the only place where the best is chosen ----------------------------------------

RankBy = Literal["verdict", "score"]
RANKINGS: tuple[str, ...] = get_args(RankBy)


def check_rank_by(rank_by: str) -> None:
    """Raises ValueError unless it is one of :data:`RANKINGS`."""
    if rank_by not in RANKINGS:
        raise ValueError(
            f"rank_by={rank_by!r} must be 'verdict' (a video judged abnormal never beats one judged normal, then the "
            "score decides) or 'score' (the score alone)"
        )


def order(
    scores: Sequence[float | None], abnormal: Sequence[bool | None] | None = None, rank_by: RankBy | str = "verdict"
) -> list[int]:
    """Positions from best to worst; ties in their order, those without a score last.

    Args:
        scores: one per candidate, higher is better.
        abnormal: whether a judge's final verdict objects to it; None if there is no verdict, which counts as no
            objection.
        rank_by: ``"verdict"`` puts what is judged abnormal behind everything else, ``"score"`` goes by scores alone.

    >>> order([0.2, 0.9, None, 0.4], [False, True, None, False])
    [3, 0, 1, 2]
    >>> order([0.2, 0.9, None, 0.4], [False, True, None, False], "score")
    [1, 3, 0, 2]
    """
    check_rank_by(rank_by)
    objected = [bool(a) and rank_by == "verdict" for a in abnormal or [None] * len(scores)]
    return sorted(range(len(scores)), key=lambda k: (scores[k] is None, objected[k], -(scores[k] or 0.0), k))


def objections(verdicts: Sequence[Verdict | None]) -> list[bool | None]:
    """True for each verdict that says abnormal; None for a missing one."""
    return [None if v is None or v.status is None else v.status == "abnormal" for v in verdicts]


# --- for the files its scores are written to --------------------------------------------------------------------------

#: Attributes of a reward, or of its source, that decide its scores.
_TOLD = ("model", "protocol", "wording", "readout", "revision")
_OPTIONS = ("revision", "dtype", "base_url")


def describe_reward(reward: object) -> dict[str, Any]:
    """JSON-safe values that say which reward this is: model, revision and settings, and never a key; of a composite,
    its members as well.

    Example:
        >>> describe_reward(lambda videos, prompts=None, *, fps, **_: [0.5])["reward"]
        '<lambda>'
    """
    marks: dict[str, Any] = {"reward": reward_name(reward)}
    described = getattr(reward, "describe", None)
    if callable(described):
        marks |= without_keys(dict(described()))
    marks |= {name: value for name in _TOLD if isinstance(value := getattr(reward, name, None), str)}
    if (backend := getattr(reward, "backend", None)) is not None:
        marks["backend"] = (
            backend if isinstance(backend, str) else str(getattr(backend, "name", type(backend).__name__))
        )
    options = getattr(getattr(reward, "_source", None), "options", None) or {}
    if told := {name: options[name] for name in _OPTIONS if options.get(name) is not None}:
        marks |= {name: str(value) for name, value in without_keys(told).items()}
    judge = getattr(reward, "_judge_options", None)
    if isinstance(judge, dict):
        marks["settings"] = {k: list(v) if isinstance(v, tuple) else v for k, v in judge.items()}
    return marks | _describe_members(reward)


def _describe_members(reward: object) -> dict[str, Any]:
    """Descriptions of a composite's members; empty for other rewards."""
    rewards, names = getattr(reward, "rewards", None), getattr(reward, "names", None)
    if not isinstance(rewards, list | tuple) or not isinstance(names, list | tuple):
        return {}
    weights = getattr(reward, "weights", [None] * len(rewards))
    members = {
        name: {"weight": weight, **describe_reward(member)}
        for name, member, weight in zip(names, rewards, weights, strict=True)
    }
    calibration = getattr(reward, "calibration", None)
    scale = {} if calibration is None else {"calibration": calibration.digest}
    return {"normalise": getattr(reward, "normalise", None), **scale, "members": members}
