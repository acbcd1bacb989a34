"""Yield and cost of a synthesis, as plain data and as a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from reward_model.data.synthesis.results import verified, videos_kept
from reward_model.data.synthesis.rounds import Decision, Outcome
from reward_model.data.synthesis.run import Synthesis
from reward_model.data.synthesis.tally import Price
from reward_model.schema import AnomalyType

DECISIONS: tuple[Decision, ...] = ("salient", "non-salient", "discarded", "open")


def account(done: Synthesis, price: Price | None = None, judge_price: Price | None = None) -> dict[str, Any]:
    """Everything the report says, JSON-safe.

    Calls, tokens, seconds and cost are those of all runs in the ledger; ``this_run_s`` is wall-clock time.

    Args:
        price, judge_price: per million tokens of the teacher and of the judge. No ``price`` is free, no ``judge_price``
            is the teacher's.
    """
    prices = {"teacher": price or Price(), "judge": judge_price or price or Price()}
    calls = {
        kind: {**tally.to_dict(), "cost": round(tally.cost(prices[kind]), 6)} for kind, tally in done.tallies.items()
    }
    kept = [o for o in done.outcomes if verified(o)]
    videos = {o.task.record.truth.video_id for o in done.outcomes}
    return {
        "videos": {"asked": len(videos), "kept": len(videos_kept(done.outcomes))},
        "samples": _samples(done.outcomes),
        "anomalies": _by_type(done.outcomes, done.provenance["rules"]["salient_rounds"]),
        "rounds": dict(sorted(Counter(o.rounds[-1].number for o in kept).items())),
        "faults": dict(Counter(f.code for o in done.outcomes for r in o.rounds for f in r.faults).most_common()),
        "calls": calls,
        "cost": round(sum(c["cost"] for c in calls.values()), 6),
        "this_run_s": round(done.seconds, 2),
        **done.provenance,
    }


def _samples(outcomes: Sequence[Outcome]) -> dict[str, dict[str, int]]:
    """Decisions by turn and status."""

    def of(turn: str, normal: bool) -> dict[str, int]:
        return _decisions(o for o in outcomes if o.task.turn == turn and o.task.normal == normal)

    return {
        f"{turn} {status}": of(turn, status == "normal")
        for turn in ("scan", "zoom")
        for status in ("abnormal", "normal")
    }


def _decisions(outcomes: Iterable[Outcome]) -> dict[str, int]:
    counts = Counter(o.decision for o in outcomes)
    return {name: counts[name] for name in DECISIONS}


def _by_type(outcomes: Sequence[Outcome], salient_rounds: int) -> dict[str, dict[str, int]]:
    """Counts per type and turn of the anomalies that were matched early, matched late or never."""
    table = {t.value: {"asked": 0, "salient": 0, "non-salient": 0, "unmet": 0} for t in AnomalyType}
    for outcome in outcomes:
        for place, anomaly in enumerate(outcome.task.truth):
            row, first = table[anomaly.type.value], outcome.first_match.get(place)
            row["asked"] += 1
            row["unmet" if first is None else "salient" if first <= salient_rounds else "non-salient"] += 1
    return table


def to_markdown(report: dict[str, Any]) -> str:
    """The report as a page: samples, types, rounds, faults, calls."""
    asked, calls = report["asked"], report["calls"]
    samples = [[name, *row.values()] for name, row in report["samples"].items()]
    types = [[name, *row.values(), _share(row)] for name, row in report["anomalies"].items() if row["asked"]]
    columns = ("calls", "answered", "failed", "cut", "retries", "tokens_in", "tokens_out", "seconds", "cost")
    return (
        "\n\n".join(
            [
                f"{report['videos']['kept']} of {report['videos']['asked']} videos kept. Teacher: {asked['teacher']}; "
                f"judge: {asked['judge']}; verify: {report['rules']['verify']}; wording: {asked['prompt_version']}.",
                _table(["samples", *DECISIONS], samples),
                _table(["anomalies by type", "asked", "salient", "non-salient", "unmet", "met"], types),
                _table(["first round that passed", "samples"], [[k, v] for k, v in report["rounds"].items()]),
                _table(["fault of a round", "count"], [[k, v] for k, v in report["faults"].items()]),
                _table(
                    ["calls, all runs", *columns], [[kind, *(row[c] for c in columns)] for kind, row in calls.items()]
                ),
                f"Cost {report['cost']:.4f}; this run took {report['this_run_s']:.1f} s.",
            ]
        )
        + "\n"
    )


def _share(row: dict[str, int]) -> str:
    return f"{(row['salient'] + row['non-salient']) / row['asked']:.1%}"


def _table(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *(rows or [["none", *[""] * (len(head) - 1)]])]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
