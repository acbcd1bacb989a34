"""Every video scored once by everything: rewards with their axes and verdicts, pixel measures, VBench's dimensions.

One JSON file for each source and item. A score counts as long as the videos and what scored them are the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cac_align.flow_grpo.judging.reward_specs import SHORT, RewardSpec
from cac_align.flow_grpo.needs import check_model, model_of
from cac_align.rewards.base import Reward, check_num_frames, evaluate
from cac_align.table2 import measures
from cac_align.table2.draws import Draws, SeededPrompt, Source
from cac_align.table2.settings import TableSettings
from reward_model.digests import json_digest, model_fingerprint
from reward_model.files import write_json
from reward_model.setting_keys import without_keys

if TYPE_CHECKING:
    from reward_model.schema import Verdict

FORMAT = 1
#: What one scorer says of some videos: for each a ``score`` or ``reason``, and perhaps ``parts`` and a ``verdict``.
Answer = dict[str, Any]


@dataclass(frozen=True)
class Scorer:
    """Something that scores videos.

    Attributes:
        name: its values are called ``name`` and ``name/part``.
        setting: digest of everything its scores depend on besides the video.
        ask: (videos, prompts, fps) -> an answer for each.
        earlier: the digest of version 0.2, which counted where the folder of a model lies.
    """

    name: str
    setting: str
    ask: Callable[[Sequence[np.ndarray], Sequence[str], float], list[Answer]]
    earlier: str | None = None

    def made(self, entry: Mapping[str, Any]) -> bool:
        """True if a stored entry holds its scores."""
        return entry.get("setting") in {self.setting, self.earlier or self.setting}


def make_scorers(settings: TableSettings) -> list[Scorer]:
    """All that a table needs: canaries, pixel measures where a column wants them, VBench's dimensions, the rewards.

    Raises:
        ValueError: a model or weight file is missing; the message has the remedy.
    """
    keys = [column.key for column in settings.table_columns]
    scorers = [_pixels("canaries", "cac_align.flow_grpo.judging.canaries", _canaries)]
    if any(key.startswith("world/") for key in keys):
        scorers.append(_pixels("world", "cac_align.table2.measures", measures.world_values))
    dimensions = [key.removeprefix("vbench/") for key in keys if key.startswith("vbench/")]
    if dimensions:
        scorers.append(_vbench(settings, dimensions))
    return [*scorers, *(reward_scorer(s, settings.device) for s in settings.reward_specs.values())]


def check_long_enough(settings: TableSettings, num_frames: int) -> None:
    """Refuses videos too short for what scores them; no reward is made, which may need a key or a server.

    Raises:
        ValueError: a reward, or a column of changes from frame to frame, needs more frames.
    """
    for spec in settings.reward_specs.values():
        check_num_frames(spec.maker(), num_frames)
    of_changes = [c.name for c in settings.table_columns if c.key in measures.OF_CHANGES]
    if num_frames < 2 and of_changes:
        raise ValueError(
            f"column {of_changes[0]!r} needs videos of at least 2 frames, and num_frames={num_frames}; draw longer "
            "videos, or leave it out"
        )


def reward_scorer(spec: RewardSpec, device: str | None = None) -> Scorer:
    """A reward as a scorer; its model loads when it is first asked. A judge is asked for all its readouts, which leaves
    its score as it is.

    Raises:
        ValueError: if its model is missing.
    """
    model = model_of(spec)
    if model is not None and spec.options.get("backend", "local") == "local":
        check_model(model, f"reward {spec.name!r}")
    options = dict(spec.options)
    if spec.target == SHORT["cac"]:
        options.setdefault("all_readouts", True)
    if device and spec.target in SHORT.values() and options.get("backend", "local") == "local":
        options.setdefault("device", device)
    reward = replace(spec, options=options).build()
    setting, earlier = _settings_of(spec, options, model)
    return Scorer(spec.name, setting, lambda videos, prompts, fps: ask_reward(reward, videos, prompts, fps), earlier)


def _settings_of(spec: RewardSpec, options: Mapping[str, Any], model: str | None) -> tuple[str, str]:
    """Digests under which scores are kept: by the model's content, and, as before, by where it lies."""
    asked = {k: v for k, v in without_keys(options, keep_names=False).items() if k != "device"}
    # Scores are kept under what was asked. Where no readout was named it used to be "direct" and is the judge's best
    # today: what was kept of the first must not be taken for the second.
    if spec.target == SHORT["cac"]:
        readout = asked.pop("readout", None)
        asked |= {} if readout == "direct" else {"readout": readout}
    mark = model_fingerprint(model)[:16] if model and Path(model).is_dir() else model
    placeless = {k: v for k, v in asked.items() if k != "model" or mark == model}
    setting, earlier = (json_digest(["reward", spec.target, said, mark])[:16] for said in (placeless, asked))
    return setting, earlier


def ask_reward(reward: Reward, videos: Sequence[np.ndarray], prompts: Sequence[str], fps: float) -> list[Answer]:
    """A reward's score of each video, with a verdict's readouts and status as parts."""
    answer = evaluate(reward, list(videos), list(prompts), fps=fps)
    answers = []
    for k, (score, verdict) in enumerate(zip(answer.scores, answer.verdicts, strict=True)):
        parts = {name: values[k] for name, values in answer.parts.items()}
        if verdict is not None:
            parts |= verdict_parts(verdict)
        answers.append(
            {
                "score": score,
                "reason": answer.reasons[k],
                "parts": parts,
                "verdict": None if verdict is None else verdict.to_dict(),
            }
        )
    return answers


def verdict_parts(verdict: Verdict) -> dict[str, float | None]:
    """A verdict in numbers: every readout, the log-odds, and ``abnormal``, 1 or 0 (None: no verdict)."""
    from reward_model.chunks import lowest_value
    from reward_model.config import READOUTS

    parts = {name: lowest_value(verdict.turns, name) for name in READOUTS}
    status = None if verdict.status is None else float(verdict.status == "abnormal")
    return {**{k: v for k, v in parts.items() if v is not None}, "abnormal": status}


class Scores:
    """The scores of a table on disk.

    Args:
        draws: the videos.
        scorers: the result of :func:`make_scorers`.
    """

    def __init__(self, draws: Draws, scorers: Sequence[Scorer]) -> None:
        self.draws, self.scorers = draws, {s.name: s for s in scorers}
        self.folder = Path(draws.settings.output_dir) / "scores"
        self._known: set[tuple[str, str]] = set()

    def path(self, source: Source, item: SeededPrompt) -> Path:
        return self.folder / source.name / f"{item.name}.json"

    def missing(self, source: Source, item: SeededPrompt) -> list[Scorer]:
        """Scorers that have not scored these videos yet."""
        if not self.path(source, item).is_file():
            return list(self.scorers.values())
        known = self._read(source, item)
        return [s for s in self.scorers.values() if not s.made(known.get(s.name, {}))]

    def done(self, source: Source, item: SeededPrompt) -> bool:
        """True if every scorer has scored them."""
        key = (source.name, item.name)
        if key not in self._known and not self.missing(source, item):
            self._known.add(key)
        return key in self._known

    def score(self, source: Source, items: Sequence[SeededPrompt]) -> None:
        """Has the videos of a group's items scored by what is missing; each scorer's answers are on disk before the
        next is asked.
        """
        todo = {item: self.missing(source, item) for item in items}
        videos = {item: [self.draws.load(source, item, k) for k in range(source.count)] for item in items if todo[item]}
        for scorer in self.scorers.values():
            asked = [item for item in items if scorer in todo[item]]
            if not asked:
                continue
            prompts = [item.prompt for item in asked for _ in range(source.count)]
            answers = iter(scorer.ask([v for item in asked for v in videos[item]], prompts, self.draws.config.fps))
            for item in asked:
                self._write(source, item, scorer, list(islice(answers, source.count)))

    def answer(self, source: Source, item: SeededPrompt, index: int, scorer: str) -> Answer | None:
        """A scorer's answer about a video; None if it has not been asked yet."""
        path = self.path(source, item)
        entry = self._read(source, item).get(scorer) if path.is_file() else None
        known = self.scorers.get(scorer)
        return None if entry is None or known is None or not known.made(entry) else entry["videos"][index]

    def values(self, source: Source, item: SeededPrompt) -> list[dict[str, float | None]]:
        """All values of each candidate of an item by key; nothing for what was not scored yet."""
        path = self.path(source, item)
        entries = self._read(source, item) if path.is_file() else {}
        values_of: list[dict[str, float | None]] = [{} for _ in range(source.count)]
        for name, entry in entries.items():
            if name not in self.scorers or not self.scorers[name].made(entry):
                continue
            for values, answer in zip(values_of, entry["videos"], strict=True):
                values[name] = answer["score"]
                values |= {f"{name}/{part}": value for part, value in answer["parts"].items()}
        return values_of

    def _write(self, source: Source, item: SeededPrompt, scorer: Scorer, answers: list[Answer]) -> None:
        path = self.path(source, item)
        entries = self._read(source, item) if path.is_file() else {}
        entries[scorer.name] = {"setting": scorer.setting, "videos": answers}
        head = {"format": FORMAT, "videos": self.draws.identity(source, item), "prompt": item.prompt}
        write_json(path, {**head, "scores": entries})

    def _read(self, source: Source, item: SeededPrompt) -> dict[str, Any]:
        path = self.path(source, item)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            same = data["format"] == FORMAT and data["videos"] == self.draws.identity(source, item)
            return dict(data["scores"]) if same else {}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a file of scores ({error!r}); delete it to score again") from error


def _canaries(frames: np.ndarray, fps: float) -> dict[str, float]:
    from cac_align.flow_grpo.judging.canaries import canaries

    return canaries(frames)


def _pixels(name: str, module: str, measure: Callable[[np.ndarray, float], Mapping[str, float]]) -> Scorer:
    """Measures without a network; they have parts and no score of their own."""

    def ask(videos: Sequence[np.ndarray], prompts: Sequence[str], fps: float) -> list[Answer]:
        return [{"score": None, "reason": None, "parts": dict(measure(v, fps)), "verdict": None} for v in videos]

    return Scorer(name, json_digest(["pixels", module, measures.REVISION])[:16], ask)


def _vbench(settings: TableSettings, dimensions: Sequence[str]) -> Scorer:
    from cac_align.metrics.suite import MetricSuite

    options = {"cache_dir": settings.vbench_cache, "backend": settings.vbench_backend, "device": settings.device}
    suite = MetricSuite(dimensions, **options)
    setting = json_digest(["vbench", *(suite.describe(name) for name in dimensions)])[:16]

    def ask(videos: Sequence[np.ndarray], prompts: Sequence[str], fps: float) -> list[Answer]:
        results = suite.evaluate(videos, list(prompts), fps=fps)
        reasons = ["; ".join(f"{d}: {r}" for d, r in f.reasons.items()) or None for f in results]
        return [
            {"score": None, "reason": r, "parts": f.scores, "verdict": None}
            for f, r in zip(results, reasons, strict=True)
        ]

    return Scorer("vbench", setting, ask)
