"""The synthesis as a whole: records in, verified reasoning out (section 3.1, B.2)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from reward_model.backends.base import Backend
from reward_model.data.records import Record
from reward_model.data.synthesis.asking import Asker
from reward_model.data.synthesis.config import AskConfig, RuleConfig, settings
from reward_model.data.synthesis.form_check import LEAK_PHRASES
from reward_model.data.synthesis.ledger import Kind, Ledger
from reward_model.data.synthesis.ledger_header import LedgerHeader
from reward_model.data.synthesis.loop import LoadVideo, Sample, run_batched, run_parallel
from reward_model.data.synthesis.rounds import Outcome
from reward_model.data.synthesis.tally import Tally
from reward_model.data.synthesis.tasks import Task, plan
from reward_model.digests import model_fingerprint
from reward_model.prompts import load_prompts
from reward_model.prompts.verification import load_verification

LEDGER_FILE = "ledger.jsonl"


@dataclass(frozen=True)
class Synthesis:
    """Result of a run: an outcome per task in the order of the plan, the calls of all runs, this run's seconds."""

    records: tuple[Record, ...]
    outcomes: tuple[Outcome, ...]
    tallies: dict[Kind, Tally]
    seconds: float
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CostEstimate:
    """Upper bound of a run: every sample using every round."""

    videos: int
    samples: int
    teacher_calls: int
    judge_calls: int
    frames_once: int
    frames_at_most: int


def estimate(tasks: Sequence[Task], rules: RuleConfig | None = None) -> CostEstimate:
    """Counts before anything is paid for; cut answers may add calls."""
    rules = rules or RuleConfig()
    reviewed = 0 if rules.verify == "rule" else sum(not t.normal for t in tasks)
    shown = sum(len(t.indices) for t in tasks)
    return CostEstimate(
        videos=len({t.record.truth.video_id for t in tasks}),
        samples=len(tasks),
        teacher_calls=len(tasks) * rules.max_rounds,
        judge_calls=reviewed * rules.max_rounds,
        frames_once=shown,
        frames_at_most=shown * rules.max_rounds,
    )


def synthesize(
    records: Iterable[Record],
    teacher: Backend,
    output: str | Path,
    *,
    load: LoadVideo,
    judge: Backend | None = None,
    ask: AskConfig | None = None,
    rules: RuleConfig | None = None,
    mode: Literal["parallel", "batched"] = "parallel",
    workers: int = 8,
    batch_size: int = 4,
    accept_new_rules: bool = False,
    give_up_after: int = 20,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> Synthesis:
    """Asks, verifies and remembers; continues where an earlier run in ``output`` stopped.

    Args:
        records: annotated videos.
        teacher: writes the reasoning.
        output: folder of the ledger.
        load: reads the video of a record.
        judge: reviews abnormal reports; by default the teacher itself.
        mode: ``"parallel"`` asks ``workers`` samples at once (servers), ``"batched"`` up to ``batch_size`` in one
            batch (models in this process).
        accept_new_rules: hold recorded answers to rules that changed since.
        give_up_after: failed calls in a row that end the run.
        on_outcome: called as each sample ends, for a progress bar.

    Raises:
        LedgerError: if the folder holds a run with other settings.
        BackendError: a model stopped answering; everything answered so far is kept.
        ValueError: ``workers`` or ``batch_size`` is below 1, or video ids repeat.
    """
    ask, rules = ask or AskConfig(), rules or RuleConfig()
    if workers < 1 or batch_size < 1:
        raise ValueError(f"workers={workers} and batch_size={batch_size} must be at least 1")
    records, started = tuple(records), time.monotonic()
    _check_ids(records)
    judge = judge or teacher
    header = _header(teacher, judge, ask, rules)
    tasks, by_task = plan(records, ask), {}

    def keep(outcome: Outcome) -> None:
        by_task[outcome.task.key] = outcome
        if on_outcome:
            on_outcome(outcome)

    with Ledger(Path(output) / LEDGER_FILE, header, accept_new_rules=accept_new_rules) as ledger:
        asker = Asker({"teacher": teacher, "judge": judge}, ledger, give_up_after)
        samples = (Sample(task, load, ask, rules) for task in tasks)
        if mode == "parallel":
            run_parallel(samples, asker, workers, keep)
        else:
            run_batched(samples, asker, batch_size, keep)
    outcomes = tuple(by_task[task.key] for task in tasks)
    return Synthesis(records, outcomes, ledger.tallies, time.monotonic() - started, header.to_dict())


def model_name(backend: Backend) -> str:
    """Name of a model in ledgers and samples."""
    return str(backend.describe().get("model") or backend.name)


def _header(teacher: Backend, judge: Backend, ask: AskConfig, rules: RuleConfig) -> LedgerHeader:
    asked = {
        "prompt_version": load_prompts(ask.prompts).version,
        "verification_version": load_verification().version,
        **settings(ask),
    }
    models = {"teacher": model_name(teacher), "judge": model_name(judge)}
    contents = {role: model_fingerprint(name) for role, name in models.items() if Path(name).is_dir()}
    return LedgerHeader({**models, **asked}, {**settings(rules), "leak_phrases": list(LEAK_PHRASES)}, contents)


def _check_ids(records: Sequence[Record]) -> None:
    counts = Counter(record.truth.video_id for record in records)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise ValueError(f"video id {twice[0]!r} occurs {counts[twice[0]]} times; every video needs its own id")
