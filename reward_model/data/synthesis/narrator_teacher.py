"""A teacher and a reviewer for procedural videos that know the truth: the whole synthesis, offline and in seconds.

The teacher recognises a question by its frames and answers as :mod:`reward_model.world.narration` does, with mistakes
drawn from (seed, sample, round). The reviewer applies the points of Fig. S6 to the reports it is shown.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from reward_model.backends.replay import request_key
from reward_model.conversation import Completion, Conversation, Sampling
from reward_model.data.cot import TURN_NUMBER
from reward_model.data.synthesis.config import AskConfig
from reward_model.data.synthesis.full_reasoning import three_steps
from reward_model.data.synthesis.loop import LoadVideo
from reward_model.data.synthesis.noise import Noise, spoil_report, spoil_text
from reward_model.data.synthesis.rule_check import boundary_check
from reward_model.data.synthesis.tasks import Task, conversation
from reward_model.digests import text_digest
from reward_model.parsing import ParseError, format_report, parse_turn
from reward_model.prompts.verification import FENCE
from reward_model.schema import Anomaly, TurnReport, VerdictScore
from reward_model.world.narration import narrate_scan, narrate_zoom
from reward_model.world.supervision import as_people_annotate


class NarratorTeacher:
    """Answers questions about world videos from their truth.

    Args:
        tasks: the questions it knows, as :func:`~reward_model.data.synthesis.tasks.plan` makes them.
        load: reads the video of a record; each is read once here, to recognise its frames.
        ask: the settings the questions are asked with.
        noise: how often it errs.
        seed: seed of its mistakes.
        full: reason in three steps, as the full-size wording asks, in place of a sentence a frame.
        blunt: right words and poor coordinates: windows and boxes as a person in a hurry draws them
            (:func:`reward_model.world.as_people_annotate`), anew in each round.

    Example:
        >>> teacher = NarratorTeacher(tasks, load, AskConfig(), Noise.even(0.4))              # doctest: +SKIP
    """

    name = "narrator"

    def __init__(
        self,
        tasks: Iterable[Task],
        load: LoadVideo,
        ask: AskConfig,
        noise: Noise | None = None,
        seed: int = 0,
        *,
        full: bool = False,
        blunt: bool = False,
    ) -> None:
        self.noise, self.seed, self.full, self.blunt = noise or Noise(), seed, full, blunt
        self._tasks = {_fingerprint(conversation(task, load(task.record), ask)): task for task in tasks}

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Completion]:
        """One answer per question; an unknown one has an ``error``. Tokens are counted as words."""
        return [self._answer(c, sampling) for c in conversations]

    def score(self, conversations: Sequence[Conversation], prefixes: Sequence[str]) -> list[VerdictScore | None]:
        """None: it has no probabilities."""
        return [None for _ in conversations]

    def describe(self) -> dict[str, Any]:
        faults = ", ".join(f"{k} {v:.3g}" for k, v in self.noise.faults().items() if v)
        style = (", in three steps" if self.full else "") + (", blunt" if self.blunt else "")
        return {"model": f"narrator (seed {self.seed}; {faults or 'no noise'}{style})", "noise": self.noise.faults()}

    def _answer(self, asked: Conversation, sampling: Sampling) -> Completion:
        started = time.perf_counter()
        task = self._tasks.get(_fingerprint(asked))
        if task is None:
            return Completion("", finished=False, error="the narrator does not know these frames")
        text, fault = self._text(task, sampling.seed or 0)
        words = sum(len(p.split()) for m in asked for p in m.content if isinstance(p, str))
        took = time.perf_counter() - started
        return Completion(text, fault != "cut", len(text.split()), took, extra={"prompt_tokens": words})

    def _text(self, task: Task, seed: int) -> tuple[str, str | None]:
        name = task.key.rpartition("|")[0]  # without the digest of the truth
        hard = random.Random(f"{self.seed} {name}").random() < self.noise.hard_share
        rng = random.Random(f"{self.seed} {name} {seed}")
        fault = self.noise.draw(rng, hard=hard)
        narrate = narrate_scan if task.turn == "scan" else narrate_zoom
        truth = task.record.truth
        if self.blunt:
            own = [self.seed, seed, int(text_digest(name)[:8], 16)]
            truth = as_people_annotate(truth, np.random.default_rng(own), untyped=0.0)
        report: TurnReport = narrate(truth, task.indices)
        if self.full:
            cot = three_steps(report.anomalies, len(task.indices), task.record.truth.prompt)
            report = replace(report, cot=cot)
        if fault in ("json", "cut"):
            return spoil_text(format_report(report, boxes=task.turn == "zoom"), fault), fault
        if fault:
            report = spoil_report(report, fault, len(task.indices), rng)
        return format_report(report, boxes=task.turn == "zoom"), fault


class NarratorJudge:
    """Reviews reports about known tasks by the five points of Fig. S6, and answers with one word.

    Point 2 asks that the reason names an annotated object, point 3 that it is the annotated reason, apart from case and
    punctuation.
    """

    name = "narrator-judge"

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = {task.key: task for task in tasks}

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Completion]:
        """One word per question; an unknown segment has an ``error``."""
        return [self._review("".join(p for p in c[-1].content if isinstance(p, str))) for c in conversations]

    def score(self, conversations: Sequence[Conversation], prefixes: Sequence[str]) -> list[VerdictScore | None]:
        """None: it has no probabilities."""
        return [None for _ in conversations]

    def describe(self) -> dict[str, Any]:
        return {"model": self.name}

    def _review(self, question: str) -> Completion:
        segment = re.search(r"^Segment ID: (.*)$", question, re.MULTILINE)
        task = self._tasks.get(segment[1]) if segment else None
        parts = question.split(FENCE)
        if task is None or len(parts) != 3:
            return Completion("", finished=False, error="the narrator does not know this segment")
        word = "consistent" if agrees(parts[1].strip(), task) else "inconsistent"
        return Completion(word, num_tokens=1, extra={"prompt_tokens": len(question.split())})


def agrees(answer: str, task: Task) -> bool:
    """True if a report agrees with the annotation on the five points of Fig. S6."""
    try:
        report = parse_turn(answer, turn=TURN_NUMBER[task.turn], num_frames=len(task.indices))
    except ParseError:
        return False
    left = list(task.truth)
    for pred in report.anomalies:
        partner = next((t for t in left if _same(pred, t, zoom=task.turn == "zoom")), None)
        if partner is None:
            return False
        left.remove(partner)
    return not left


def _same(pred: Anomaly, truth: Anomaly, *, zoom: bool) -> bool:
    in_time = boundary_check(pred.frames, truth.frames, min_overlap=None if zoom else 0.85)
    named = not truth.objects or any(_plain(o) in _plain(f"{pred.reason} {pred.region}") for o in truth.objects)
    return pred.type == truth.type and in_time and named and _plain(pred.reason) == _plain(truth.reason)


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _fingerprint(asked: Conversation) -> str:
    return request_key("generate", asked)
