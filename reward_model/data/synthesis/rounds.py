"""Generate, verify, at most five rounds (section 3.1): the course of one sample, without a model and without a clock.

The course is a generator: it yields the calls it needs and is sent their answers, so that the same rules serve a pool
of threads, a batch on one GPU and a ledger that is read back.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import Literal

from reward_model.conversation import Completion, Conversation, Sampling
from reward_model.data.cot import TURN_NUMBER
from reward_model.data.synthesis.config import AskConfig, RuleConfig
from reward_model.data.synthesis.form_check import find_leak, frame_fault
from reward_model.data.synthesis.judge_check import review_question, review_word
from reward_model.data.synthesis.ledger import CallId
from reward_model.data.synthesis.rule_check import AnswerFault, rule_check
from reward_model.data.synthesis.tally import is_answer
from reward_model.data.synthesis.tasks import Task
from reward_model.parsing import ParseError, format_report, parse_turn
from reward_model.schema import TurnReport

#: ``open``: the teacher gave no usable answer; the next run asks again.
Decision = Literal["salient", "non-salient", "discarded", "open"]


@dataclass(frozen=True)
class Call:
    """A question to be asked. ``build`` makes the conversation, which a recorded answer spares."""

    id: CallId
    sampling: Sampling
    build: Callable[[], Conversation] = field(compare=False, repr=False)


@dataclass(frozen=True)
class Round:
    """One answer that came back: no ``faults`` means it passed. ``matched`` are the places in ``task.truth`` it met."""

    number: int
    faults: tuple[AnswerFault, ...]
    matched: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """Result of one sample.

    ``answer`` is the canonical JSON of the first round that passed. ``first_match`` holds, per place in ``task.truth``,
    the first round that matched that anomaly. ``reason`` says why a sample was discarded or left open.
    """

    task: Task
    decision: Decision
    rounds: tuple[Round, ...] = ()
    answer: str | None = None
    first_match: dict[int, int] = field(default_factory=dict)
    reason: str = ""


Course = Generator[Call, Completion, Outcome]


def course(task: Task, build: Callable[[], Conversation], ask: AskConfig, rules: RuleConfig) -> Course:
    """The rounds of one sample; ``build`` makes the teacher's conversation."""
    rounds: list[Round] = []
    first: dict[int, int] = {}
    for number in range(1, rules.max_rounds + 1):
        answer = yield from _teacher(task, number, build, ask)
        if isinstance(answer, str):
            return Outcome(task, "open", tuple(rounds), None, first, f"round {number}: {answer}")
        report, outcome = verify_answer(task, answer, rules)
        if not outcome.faults and not task.normal and rules.verify != "rule":
            reviewed = yield from _reviewed(task, answer.text, outcome, ask, number)
            if reviewed is None:
                return Outcome(task, "open", tuple(rounds), None, first, f"round {number}: the reviewer gave no answer")
            outcome = reviewed
        outcome = replace(outcome, number=number)
        rounds.append(outcome)
        for place in outcome.matched:
            first.setdefault(place, number)
        if report is not None and not outcome.faults:
            return _passed(task, tuple(rounds), report, first, rules)
        if task.normal and report is not None and report.status == "abnormal":
            reason = "the teacher finds an anomaly in a video annotated as normal"
            return Outcome(task, "discarded", tuple(rounds), None, first, reason)
    return Outcome(task, "discarded", tuple(rounds), None, first, _why(task, rounds, first))


def verify_answer(task: Task, answer: Completion, rules: RuleConfig) -> tuple[TurnReport | None, Round]:
    """Form first, then the rule (unless only the reviewer decides). The report is None if the answer cannot be read.

    An answer with a fault of form meets no anomaly, whatever it says: it would not be used.
    """
    if not answer.finished:
        return None, _failed("cut", "the token limit cut the answer")
    try:
        report = parse_turn(answer.text, turn=TURN_NUMBER[task.turn], num_frames=len(task.indices))
    except ParseError as error:
        return None, _failed("parse", error.reason)
    verdict = rule_check(report, task.truth, num_frames=len(task.indices), boxes=task.turn == "zoom", rules=rules)
    faults, met = verdict.faults, tuple(k for k, match in enumerate(verdict.matches) if match.found)
    if rules.verify == "judge":
        faults = tuple(f for f in faults if f.code == "status")
        met = () if faults else tuple(range(len(task.truth)))
    form = _form_faults(report, len(task.indices), rules)
    return report, Round(0, (*form, *faults), () if form else met)


def call_seed(seed: int, number: int, attempt: int) -> int:
    """The sampling seed of a round, 31 bits: another one for each round and each answer that was cut."""
    return zlib.crc32(f"{seed} {number} {attempt}".encode()) & 0x7FFFFFFF


def _teacher(
    task: Task, number: int, build: Callable[[], Conversation], ask: AskConfig
) -> Generator[Call, Completion, Completion | str]:
    """An answer, or why there is none. A cut answer is one only after the last attempt."""
    failures = cuts = 0
    while True:
        sampling = Sampling(ask.max_new_tokens, ask.temperature, ask.top_p, call_seed(ask.seed, number, cuts))
        reply = yield Call(CallId(task.key, "teacher", number, cuts), sampling, build)
        if not is_answer(reply.text, reply.error):
            failures += 1
            if failures == ask.call_attempts:
                return reply.error or "the answer is empty"
        elif reply.finished or cuts + 1 == ask.call_attempts:
            return reply
        else:
            cuts += 1


def _reviewed(
    task: Task, text: str, checked: Round, ask: AskConfig, number: int
) -> Generator[Call, Completion, Round | None]:
    """The round with the reviewer's word on it; None if there was no answer."""
    sampling = Sampling(ask.judge_max_tokens, 0.0, seed=ask.seed)
    for _ in range(ask.call_attempts):
        reply = yield Call(CallId(task.key, "judge", number, 0), sampling, lambda: review_question(task, text))
        if is_answer(reply.text, reply.error):
            word = review_word(reply.text)
            return checked if word == "consistent" else _failed(f"review_{word}", f"the reviewer: {reply.text[:60]!r}")
    return None


def _form_faults(report: TurnReport, num_frames: int, rules: RuleConfig) -> tuple[AnswerFault, ...]:
    leak, frames = find_leak(report), frame_fault(report.cot, num_frames) if rules.check_frames else None
    faults = (AnswerFault("leak", f"the answer gives the hint away: {leak!r}") if leak else None,)
    return tuple(f for f in (*faults, AnswerFault("frames", frames) if frames else None) if f)


def _passed(
    task: Task, rounds: tuple[Round, ...], report: TurnReport, first: dict[int, int], rules: RuleConfig
) -> Outcome:
    # Eq. 6 gives normal samples gamma 1 whatever their rounds.
    salient = task.normal or rounds[-1].number <= rules.salient_rounds
    answer = format_report(report, boxes=task.turn == "zoom")
    return Outcome(task, "salient" if salient else "non-salient", rounds, answer, first)


def _why(task: Task, rounds: list[Round], first: dict[int, int]) -> str:
    lost = [f"{a.type.value}, {a.frames}" for k, a in enumerate(task.truth) if k not in first]
    if lost:
        return f"no round of {len(rounds)} met: {'; '.join(lost)}"
    return f"no round of {len(rounds)} passed as a whole"


def _failed(code: str, detail: str) -> Round:
    return Round(0, (AnswerFault(code, detail),))
