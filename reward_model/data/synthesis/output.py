"""The files of a synthesis: what is learned from, what was left out, and the report. Each is whole or absent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reward_model.data.annotations import write_annotations
from reward_model.data.cot import write_cot
from reward_model.data.records import Record, rebase
from reward_model.data.synthesis.accounting import account, to_markdown
from reward_model.data.synthesis.results import left_out, to_samples, with_saliency
from reward_model.data.synthesis.run import Synthesis
from reward_model.data.synthesis.tally import Price
from reward_model.files import write_text

COT_FILE, ANNOTATIONS_FILE, DISCARDED_FILE = "cot.jsonl", "annotations_with_saliency.jsonl", "discarded.jsonl"


def write_outputs(
    done: Synthesis,
    folder: str | Path,
    annotations: str | Path,
    *,
    video_root: str | Path | None = None,
    keep_partial: bool = False,
    price: Price | None = None,
    judge_price: Price | None = None,
) -> dict[str, Any]:
    """Writes ``cot.jsonl``, ``annotations_with_saliency.jsonl``, ``discarded.jsonl``, ``report.md`` and
    ``report.json``; returns the report.

    Args:
        annotations: the file the records were read from; video paths are rewritten to the new place.
        video_root: where relative videos lie, by default the folder of ``annotations``.
        keep_partial: keep verified samples of videos another sample of which failed. Such videos have no record in
            ``annotations_with_saliency.jsonl``.
    """
    folder, asked, rules = Path(folder), done.provenance["asked"], done.provenance["rules"]
    samples = to_samples(done.outcomes, asked["teacher"], asked["prompt_version"], keep_partial=keep_partial)
    write_cot(folder / COT_FILE, samples)
    marked = with_saliency(done.records, done.outcomes, rules["salient_rounds"])
    _write_records(folder / ANNOTATIONS_FILE, rebase(marked, annotations, folder / ANNOTATIONS_FILE, video_root))
    _write_lines(folder / DISCARDED_FILE, left_out(done.outcomes, keep_partial=keep_partial))
    report = account(done, price, judge_price)
    write_text(folder / "report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    write_text(folder / "report.md", "# Synthesis of reasoning\n\n" + to_markdown(report))
    return report


def _write_records(path: Path, records: Sequence[Record]) -> None:
    """An annotation file; an empty one where no video was kept."""
    if records:
        write_annotations(path, records)
    else:
        write_text(path, "")


def _write_lines(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    # A detail may quote what a model wrote; ASCII holds any of it.
    write_text(path, "".join(json.dumps(entry) + "\n" for entry in entries))
