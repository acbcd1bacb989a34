"""Measures unified-mini on reserved videos, through the same reward that users call.

Whole videos go to :class:`~cac_align.UnifiedReward`, so sampling, question, processor, generation and parser are those
of real use. A video without a score counts in ``num_unscored`` and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata
from tqdm.auto import tqdm

from cac_align.minis.unified_captions import SLOTS, change_slot, read_caption
from cac_align.minis.unified_damage import PICTURE_KINDS, TIME_KINDS
from cac_align.minis.unified_data import FIRST_ANOMALY_SEED, draw_score_rows, prompt_of, true_scores, video_of
from cac_align.rewards.unified import UnifiedReward
from reward_model.evaluation.metrics.classification import auroc
from reward_model.statistics.intervals import Interval, bootstrap
from reward_model.unified.protocols import APS
from reward_model.world import KINDS, make_scene, make_video

AXES = ("alignment", "physics", "style")
#: Videos drawn and asked about at once.
CHUNK = 32
#: Frame rate of the world's videos.
FPS = 16


@dataclass(frozen=True)
class Figure:
    """A measured number, its 95 % interval (bootstrap over videos) and the number of videos behind it."""

    value: float
    interval: Interval
    num: int


@dataclass(frozen=True)
class Measurement:
    """Everything the card tells.

    Attributes:
        spearman: rank correlation of each axis with its truth, on damaged and undamaged videos.
        prompts: AUROC of the alignment score of right prompts against wrong ones: any, or one with a single wrong slot.
        damage: AUROC of the physics or style score of undamaged videos against one kind of damage.
        anomalies: AUROC of the reward of normal videos against their twins with a local anomaly, which training never
            showed: all kinds, and each alone.
    """

    spearman: dict[str, Figure] = field(default_factory=dict)
    prompts: dict[str, Figure] = field(default_factory=dict)
    damage: dict[str, Figure] = field(default_factory=dict)
    anomalies: dict[str, Figure] = field(default_factory=dict)
    num_asked: int = 0
    num_unscored: int = 0


def measure_unified(folder: str | Path, *, num_videos: int = 400, seed: int = 0) -> Measurement:
    """Measures a checkpoint folder on the CPU.

    Args:
        folder: folder of the checkpoint.
        num_videos: number of videos of each of the three measurements: damage and prompts, single wrong slots (a
            quarter as many, five questions each), anomalies.
        seed: which of the reserved videos.
    """
    ask = _Asker(folder)
    rows = list(draw_score_rows(num_videos, seed=seed))
    scores = ask("damage", ((video_of(row), prompt_of(row)) for row in rows), len(rows))
    truths = np.array([true_scores(row) for row in rows])
    spearman = {axis: _correlate(scores[:, k], truths[:, k]) for k, axis in enumerate(AXES)}
    wrong = truths[:, 0] < APS.high
    damage: dict[str, Figure] = {}
    for axis, key, kinds in ((1, "time", TIME_KINDS), (2, "picture", PICTURE_KINDS)):
        given = np.array([row[key] for row in rows])
        damage |= {kind: _separate(scores[given == "", axis], scores[given == kind, axis]) for kind in kinds}
    prompts = {
        "any": _separate(scores[~wrong, 0], scores[wrong, 0]),
        **_measure_slots(ask, max(6, num_videos // 4), seed),
    }
    anomalies = _measure_anomalies(ask, num_videos)
    return Measurement(
        _known(spearman), _known(prompts), _known(damage), _known(anomalies), ask.num_asked, ask.num_unscored
    )


def _known(figures: dict[str, Figure]) -> dict[str, Figure]:
    """Without those that no video stood behind."""
    return {name: figure for name, figure in figures.items() if np.isfinite(figure.value)}


class _Asker:
    """Asks the reward about (frames, prompt) pairs; (N, 3) axes in [0, 1], NaN where there is no score."""

    def __init__(self, folder: str | Path) -> None:
        # An answer has seven tokens; one that has not ended after thirty never will.
        self.reward = UnifiedReward(folder, device="cpu", max_new_tokens=30)
        self.num_asked = self.num_unscored = 0

    def __call__(self, name: str, pairs: Iterator[tuple[np.ndarray, str]], count: int) -> np.ndarray:
        out: list[list[float]] = []
        with tqdm(total=count, desc=f"measure {name}", mininterval=5.0) as bar:
            while len(out) < count:
                chunk = [pair for _, pair in zip(range(min(CHUNK, count - len(out))), pairs, strict=False)]
                found = self.reward.score([frames for frames, _ in chunk], [text for _, text in chunk], fps=FPS)
                out += [[f.axes.get(axis, np.nan) for axis in APS.axes] for f in found]
                bar.update(len(chunk))
        self.num_asked += count
        self.num_unscored += int(np.isnan(out).any(axis=1).sum())
        return np.array(out)


def _measure_slots(ask: _Asker, count: int, seed: int) -> dict[str, Figure]:
    """Undamaged videos of the mini generator's setting, each asked about with its prompt and with each slot wrong."""
    rows = [
        {**row, "num_wrong": 0, "elsewhere": -1, "time": "", "picture": ""}
        for row in draw_score_rows(count, seed=seed + 1, single=1.0)
    ]
    rng = np.random.default_rng([seed, 43])
    questions = []
    for row in rows:
        right = read_caption(prompt_of(row))
        questions += [(row, str(c)) for c in (right, *(change_slot(right, slot, rng) for slot in SLOTS))]
    scores = ask("prompts", ((video_of(row), text) for row, text in questions), len(questions))[:, 0].reshape(count, -1)
    return {slot: _separate(scores[:, 0], scores[:, 1 + k]) for k, slot in enumerate(SLOTS)}


def _measure_anomalies(ask: _Asker, count: int) -> dict[str, Figure]:
    """Every kind of anomaly in turn beside its normal twin, in the setting where it can happen."""
    kinds = [list(KINDS)[k % len(KINDS)] for k in range(max(count // 2, len(KINDS)))]

    def draw() -> Iterator[tuple[np.ndarray, str]]:
        for k, kind in enumerate(kinds):
            seed = FIRST_ANOMALY_SEED + k
            setting = make_scene(seed, kind).setting
            for anomaly in (None, kind):
                frames, truth = make_video(seed, anomaly, setting=setting)
                yield frames, truth.prompt

    rewards = ask("anomalies", draw(), 2 * len(kinds)).mean(axis=1).reshape(-1, 2)
    found = {"all": _separate(rewards[:, 0], rewards[:, 1])}
    named = np.array(kinds)
    return found | {kind: _separate(rewards[named == kind, 0], rewards[named == kind, 1]) for kind in KINDS}


def _correlate(scores: np.ndarray, truths: np.ndarray) -> Figure:
    known = ~np.isnan(scores)
    a, b = scores[known], truths[known]

    def statistic(index: np.ndarray) -> float:
        # Spearman's coefficient of a constant is not defined; a model that always says the same knows nothing.
        constant = len(set(a[index])) < 2 or len(set(b[index])) < 2
        if constant:
            return 0.0
        ranks = np.column_stack([rankdata(a[index]), rankdata(b[index])])  # spearmanr, without its p value
        return float(np.corrcoef(ranks, rowvar=False)[1, 0])

    return _figure(statistic, np.zeros(len(a), int))


def _separate(good: np.ndarray, bad: np.ndarray) -> Figure:
    """AUROC of higher scores for ``good``."""
    good, bad = good[~np.isnan(good)], bad[~np.isnan(bad)]
    values, labels = np.concatenate([good, bad]), np.repeat([True, False], [len(good), len(bad)])
    if not len(good) or not len(bad):
        return Figure(float("nan"), Interval(float("nan"), float("nan")), len(values))
    return _figure(lambda index: auroc(values[index], labels[index]), labels)


def _figure(statistic: Callable[[np.ndarray], float], strata: Sequence[Any] | np.ndarray) -> Figure:
    num = len(strata)
    if not num:
        return Figure(float("nan"), Interval(float("nan"), float("nan")), 0)
    return Figure(statistic(np.arange(num)), bootstrap(statistic, num, strata=strata, num_resamples=500), num)
