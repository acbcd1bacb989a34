"""Rewards of probes beside the untouched videos: mean, paired difference, and how often the probe wins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cac_align.probes.probes import Probe, make_probe
from cac_align.rewards.base import Reward, evaluate
from reward_model.statistics.intervals import mean_interval, wilson
from reward_model.statistics.significance import paired_bootstrap
from reward_model.statistics.table import Cell, Estimate, Table

UNTOUCHED = "untouched"
#: A win that matters: smaller ones come and go with the last digits of a score near 0 or 1.
MARGIN = 0.05


@dataclass(frozen=True)
class ProbeAnswers:
    """Answers of one reward to one probe of every video.

    Attributes:
        reward, probe: names; the probe ``untouched`` is the video itself.
        scores: scores of each video; None if it could not be judged.
        abnormal: a judge's verdicts, True for abnormal; None without a verdict.
        reasons: reasons of every None.
    """

    reward: str
    probe: str
    scores: list[float | None]
    abnormal: list[bool | None]
    reasons: list[str | None]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def ask_probes(
    rewards: Mapping[str, Any],
    videos: Sequence[tuple[np.ndarray, str]],
    probes: Sequence[Probe],
    *,
    fps: float,
    seed: int = 0,
    say: Callable[[str], Any] = lambda text: None,
) -> list[ProbeAnswers]:
    """Asks every reward about every video, untouched and as each probe.

    Args:
        rewards: by name.
        videos: frames (T, H, W, 3) uint8 and prompt of each.
        probes: some of :mod:`cac_align.probes.probes`.
        fps: frames per second of all videos.
        seed: seed of what is random in a probe; video k has its own.
        say: told of progress.

    Raises:
        ValueError: no videos or no rewards.
    """
    if not videos or not rewards:
        raise ValueError(f"probing needs videos and rewards, got {len(videos)} and {len(rewards)}")
    found = []
    sets = {UNTOUCHED: list(videos)} | {
        p.name: [make_probe(p, frames, text, seed=seed + k) for k, (frames, text) in enumerate(videos)] for p in probes
    }
    for name, reward in rewards.items():
        for probe, pairs in sets.items():
            found.append(_ask(name, reward, probe, pairs, fps))
            say(f"{name}: {probe}")
    return found


def _ask(name: str, reward: Reward, probe: str, pairs: Sequence[tuple[np.ndarray, str]], fps: float) -> ProbeAnswers:
    frames, texts = [f for f, _ in pairs], [t for _, t in pairs]
    answer = evaluate(reward, frames, texts, fps=fps)
    abnormal = [None if v is None or v.status is None else v.status == "abnormal" for v in answer.verdicts]
    return ProbeAnswers(name, probe, answer.scores, abnormal, answer.reasons)


def probe_table(
    found: Sequence[ProbeAnswers], probes: Sequence[Probe], *, title: str, num_resamples: int = 2000, seed: int = 0
) -> Table:
    """A line for each reward and probe.

    ``wins`` is the share of videos whose probe scores higher than the untouched video, at all and by
    :data:`MARGIN`; a tie is not a win. A reward that
    nothing here fools has no win and a difference below 0 for every change of the picture, and no difference for words
    in the prompt.
    """
    what = {p.name: p.what for p in probes}
    groups: list[list[Sequence[Cell]]] = []
    for reward in dict.fromkeys(f.reward for f in found):
        mine = {f.probe: f for f in found if f.reward == reward}
        lines: list[Sequence[Cell]] = []
        for name, answers in mine.items():
            options = {"num_resamples": num_resamples, "seed": seed}
            none = (Estimate(None),) * 3
            gap, wins, clear = none if name == UNTOUCHED else compare(answers, mine[UNTOUCHED], **options)
            lost = sum(s is None for s in answers.scores)
            mean, rate = mean_cell(answers.scores, **options), _abnormal(answers)
            lines.append((reward, name, len(answers.scores), lost, mean, gap, wins, clear, rate))
        groups.append(lines)
    notes = ["[low, high]: 95% intervals over videos (bootstrap; Wilson for shares). Differences are video by video."]
    notes += [f"{name}: {text}." for name, text in what.items()]
    titles = (
        "reward",
        "probe",
        "videos",
        "not judged",
        "mean",
        "difference",
        "wins",
        f"wins by {MARGIN:g}",
        "judged abnormal",
    )
    return Table(title, titles, groups, tuple(notes))


def mean_cell(scores: Sequence[float | None], *, num_resamples: int, seed: int) -> Estimate:
    """The mean of what was judged."""
    known = np.array([s for s in scores if s is not None], float)
    if not len(known):
        return Estimate(None)
    return Estimate(float(known.mean()), mean_interval(known, num_resamples=num_resamples, seed=seed))


def compare(
    probe: ProbeAnswers, untouched: ProbeAnswers, *, num_resamples: int, seed: int
) -> tuple[Estimate, Estimate, Estimate]:
    """Mean of probe minus untouched, and the shares of videos on which the probe scores higher at all, and by
    :data:`MARGIN`; over the videos of which both were judged.
    """
    pairs = [(a, b) for a, b in zip(probe.scores, untouched.scores, strict=True) if a is not None and b is not None]
    if not pairs:
        return (Estimate(None),) * 3
    first, second = np.array(pairs, float).T
    gap = paired_bootstrap(
        lambda values, _: float(values.mean()), first, second, num_resamples=num_resamples, seed=seed
    )
    wins, clear = int((first > second).sum()), int((first - second >= MARGIN).sum())
    shares = [Estimate(k / len(pairs), wilson(k, len(pairs))) for k in (wins, clear)]
    return Estimate(gap.value, gap.interval), shares[0], shares[1]


def _abnormal(answers: ProbeAnswers) -> Estimate:
    known = [a for a in answers.abnormal if a is not None]
    return Estimate(sum(known) / len(known), wilson(sum(known), len(known))) if known else Estimate(None)
