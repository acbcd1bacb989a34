"""From stored scores to a table's numbers: which video stands for a row, and its values as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cac_align.flow_grpo.judging.reward_specs import RewardSpec
from cac_align.rewards.base import order
from cac_align.rewards.calibration import Calibration
from cac_align.rewards.normalise import mean_of_parts, per_reward_scores
from cac_align.selection.costs import as_count
from cac_align.table2.columns import DIVERSITY, Column, all_columns, fault_columns
from cac_align.table2.curves import logged_forwards
from cac_align.table2.draws import SeededPrompt, Source
from cac_align.table2.job import TableJob
from cac_align.table2.measures import diversity
from cac_align.table2.ratings import Ratings, video_name
from cac_align.table2.results import DIGITS, Results
from cac_align.table2.rows import TableRow
from reward_model.shipped import code_revision, package_version

Values = Mapping[str, float | None]


@dataclass(frozen=True)
class Chosen:
    """The video that stands for a row: candidate ``index`` of an item of a source."""

    source: Source
    item: SeededPrompt
    index: int

    @property
    def name(self) -> str:
        """Of its file among the videos for people."""
        return video_name(self.source.name, self.item.name, self.index)


class Matrix:
    """The values of a table.

    Args:
        job: whose scores are read; what is not there yet is left out.
    """

    def __init__(self, job: TableJob) -> None:
        self.job, self.settings = job, job.settings
        self.ratings = Ratings(self.settings.ratings) if self.settings.ratings else None

    @property
    def columns(self) -> list[Column]:
        """The settings' columns, then the rewards."""
        return all_columns(self.settings.columns, self.settings.reward_specs)

    @cached_property
    def stored(self) -> dict[tuple[str, str], list[dict[str, float | None]]]:
        """All values by source and item, a mapping for each candidate."""
        found = {}
        for source in self.job.sources.values():
            if not self.job.ready(source):
                continue
            for item in self.job.draws.items:
                if self.job.scores.path(source, item).is_file():
                    found[source.name, item.name] = self.job.scores.values(source, item)
        return found

    @property
    def candidates(self) -> str:
        """The source with the most candidates of the untouched model, which rewards are compared on."""
        return max((s for s in self.job.sources.values() if s.lora is None), key=lambda s: s.count).name

    def videos(self, source: str | None = None) -> tuple[list[Values], np.ndarray]:
        """The values of every candidate of a source, or of all, and the label of each one's prompt."""
        entries = [(item, found) for (name, item), found in sorted(self.stored.items()) if source in (None, name)]
        rows: list[Values] = [values for _, candidates in entries for values in candidates]
        prompts = np.array([item.partition("-")[0] for item, candidates in entries for _ in candidates])
        return rows, prompts

    def chosen(self, row: TableRow) -> list[list[Chosen | None]]:
        """The video of each training seed (a single list for rows that are not trained) and item; None if it is not
        there, or nothing could be judged.
        """
        items, found = self.job.draws.items, []
        for source in self.job.sources_of(row):
            picks = [self._pick(row, source, item) for item in items]
            found.append([None if k is None else self._there(source, i, k) for i, k in zip(items, picks, strict=True)])
        return found

    def array(self, row: TableRow, column: Column) -> np.ndarray:
        """(R, P, S) values of a row, NaN where there is none."""
        return self._array(self.chosen(row), column)

    def _array(self, chosen: Sequence[Sequence[Chosen | None]], column: Column) -> np.ndarray:
        if column == DIVERSITY:
            rows = [self._diversity(videos) for videos in chosen]
        else:
            rows = [[self.value(video, column) for video in videos] for videos in chosen]
        return np.array(rows, float).reshape(len(rows), -1, len(self.settings.eval_seeds))

    def _diversity(self, videos: Sequence[Chosen | None]) -> list[float]:
        """The difference of each video from the others of its prompt; NaN where there is none."""
        size, found = len(self.settings.eval_seeds), []
        for same in (videos[k : k + size] for k in range(0, len(videos), size)):
            values = iter(diversity([self.job.draws.load(v.source, v.item, v.index) for v in same if v is not None]))
            found += [float("nan") if v is None else next(values) for v in same]
        return found

    def results(self) -> Results:
        """Everything that the tables are made of, values rounded as in the file."""
        job, settings = self.job, self.settings
        rows, adapted = settings.table_rows, [s for s in job.sources.values() if s.lora is not None]
        columns = [*self.columns, *fault_columns(settings.columns)]
        values = {}
        for row in rows:
            chosen = self.chosen(row)
            values[row.slug] = {c.name: np.round(self._array(chosen, c), DIGITS) for c in columns}
        return Results(
            settings=settings,
            model=settings.video.model,
            prompts=settings.prompts,
            drawings={row.slug: settings.drawing_of(row) for row in rows},
            forwards={row.slug: self._forwards(row) for row in rows},
            training_forwards={row.slug: self._training_forwards(row) for row in rows if row.has_loras},
            values=values,
            made_by={
                "cac_align": package_version(),
                "revision": code_revision(),
                "model": job.draws.model,
                "adapters": {s.name: job.draws.adapter_digest(s) for s in adapted if job.ready(s)},
                "scorers": {scorer.name: scorer.setting for scorer in job.scorers},
            },
        )

    def _forwards(self, row: TableRow) -> float | None:
        """Forward passes of one delivered video: those of all candidates that it was chosen from."""
        count = self.settings.candidates(row)
        found = {self.job.draws.forwards(source, count) for source in self.job.sources_of(row)}
        return found.pop() if len(found) == 1 else None

    def _training_forwards(self, row: TableRow) -> float | None:
        counted = [logged_forwards(source.run) for source in self.job.sources_of(row) if source.run is not None]
        known = [count for count in counted if count is not None]
        return as_count(sum(known) / len(known)) if known and len(known) == len(counted) else None

    def value(self, video: Chosen | None, column: Column) -> float:
        """The value of a video in a column."""
        if video is None:
            return float("nan")
        if column.key == "people":
            rated = self.ratings.value(video.name) if self.ratings else None
            return float("nan") if rated is None else rated
        found = self.values_of(video).get(self.key(column))
        return float("nan") if found is None else float(found)

    def key(self, column: Column) -> str:
        """The key of a column's values; the judge's goes by the name of the reward that judges."""
        return f"{self.settings.judge}/abnormal" if column.key == "judge/abnormal" else column.key

    def values_of(self, video: Chosen) -> Values:
        return self.stored[video.source.name, video.item.name][video.index]

    def _there(self, source: Source, item: SeededPrompt, index: int) -> Chosen | None:
        return Chosen(source, item, index) if (source.name, item.name) in self.stored else None

    def _pick(self, row: TableRow, source: Source, item: SeededPrompt) -> int | None:
        """The candidate that a row delivers; None where there is none yet, or none could be judged."""
        if not row.rewards or row.kind != "best_of_n":
            return 0
        found = self.stored.get((source.name, item.name))
        if found is None:
            return None
        count = self.settings.candidates(row)
        return best_candidate(found[:count], row.rewards, row.combination, self.job.calibration)


def column_of(rows: Sequence[Values], name: str) -> np.ndarray:
    """(N,) values of a name, NaN where there is none."""
    return np.array([np.nan if (value := row.get(name)) is None else value for row in rows], float)


def best_candidate(
    candidates: Sequence[Values],
    rewards: Sequence[RewardSpec],
    combination: str = "scores",
    calibration: Calibration | None = None,
) -> int | None:
    """The candidate with the highest reward, the first of equal ones; None if none has every reward that counts.

    Args:
        candidates: values of each.
        rewards: with weights.
        combination: ``scores``: weighted mean; ``advantages``: each standardised among the candidates first.
        calibration: fixed scales on which ``scores`` are averaged; None: as they are.
    """
    counted = [r for r in rewards if r.weight > 0]
    parts = _whole_parts(candidates, [r.name for r in counted])
    weights = [r.weight for r in counted]
    if combination == "scores" and calibration is not None:
        scales = [calibration.scales[r.name] for r in counted]
        parts = [
            [None if v is None else scale.place(v) for v in part] for scale, part in zip(scales, parts, strict=True)
        ]
    if combination == "scores":
        scores = mean_of_parts(parts, weights)
    else:
        scores = per_reward_scores(parts, weights, [0] * len(candidates))
    best = order(scores, rank_by="score")[0] if scores else None
    return best if best is not None and scores[best] is not None else None


def _whole_parts(candidates: Sequence[Values], names: Sequence[str]) -> list[list[float | None]]:
    """Of each name the values of the candidates, all None for a candidate that lacks one."""
    rows = [[values.get(name) for name in names] for values in candidates]
    rows = [row if None not in row else [None] * len(names) for row in rows]
    return [list(part) for part in zip(*rows, strict=True)] if rows else [[] for _ in names]
