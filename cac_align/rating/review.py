"""Round one of annotation review: decisions by batch, and the annotations that may be trained on.

A second person accepts an annotation or returns it with a note; one return outweighs any acceptance. Round two, the
spot check, is drawn and judged by :mod:`reward_model.data.review`; a batch it does not confirm goes back as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cac_align.rating.export import write_records
from cac_align.rating.folder import RATINGS, inside
from cac_align.rating.items import Item
from cac_align.rating.store import Store
from cac_align.rating.tally import finished_records
from reward_model.data.records import Record, edited
from reward_model.data.review import BATCH_KEY, REVIEWER_KEY, ReviewResult, draw_spot_check, review_agreement
from reward_model.files import write_json
from reward_model.statistics.agreement import krippendorff_alpha
from reward_model.statistics.intervals import wilson

#: Extra keys: everyone who reviewed it, and what the annotator is asked to change.
REVIEWERS_KEY, NOTE_KEY = "reviewers", "review_note"
SPOT_CHECK_FILE = "spot-check.jsonl"


def decisions(store: Store) -> dict[str, dict[str, dict[str, Any]]]:
    """Item key to reviewer to finished decision."""
    made: dict[str, dict[str, dict[str, Any]]] = {key: {} for key in store.items}
    for person in store.people:
        for key, answer in store.finished(person).items():
            made[key][person] = answer
    return made


def outcome(made: Mapping[str, Mapping[str, Any]]) -> str:
    """ "accepted", "returned" or "open" from the decisions about one video."""
    said = {d["decision"] for d in made.values()}
    return "returned" if "return" in said else "accepted" if said else "open"


def reviewed_records(store: Store, which: str) -> list[Record]:
    """The annotations with one outcome, each with its reviewers and, if returned, their notes; videos are relative to
    the rated folder.
    """
    records = []
    for key, made in decisions(store).items():
        item = store.items[key]
        if outcome(made) != which or item.record is None:
            continue
        names = list(made)
        seen = edited(item.record, item.record) if which == "accepted" else item.record
        extra = {**seen.extra, REVIEWER_KEY: names[0], REVIEWERS_KEY: names}
        notes = [f"{name}: {d['note']}" for name, d in made.items() if d["decision"] == "return"]
        if notes:
            extra[NOTE_KEY] = "\n".join(notes)
        records.append(replace(item.record, video=item.video, extra=extra))
    return records


def draw_once(
    accepted: Sequence[Record], drawn: Sequence[Record], checkers: Sequence[str], *, fraction: float, seed: int
) -> list[Record]:
    """The spot check of all batches: those drawn before keep their draw, so that no work is lost.

    Raises:
        ValueError: if a checker has reviewed what they would check.
    """
    done = {str(r.extra.get(BATCH_KEY, "")) for r in drawn}
    fresh = [r for r in accepted if str(r.extra.get(BATCH_KEY, "")) not in done]
    new = draw_spot_check(fresh, checkers, fraction=fraction, seed=seed) if fresh else []
    for record in new:
        seen = {str(name).casefold() for name in record.extra[REVIEWERS_KEY]}
        if str(record.extra["spot_checker"]).casefold() in seen:
            raise ValueError(
                f"{record.truth.video_id}: {record.extra['spot_checker']} has reviewed it; name checkers who did not "
                "take part in round one"
            )
    return [*drawn, *new]


def summarise_review(store: Store, checked: ReviewResult | None = None) -> dict[str, Any]:
    """Decisions per batch with the share accepted (Wilson's 95 % interval), agreement between reviewers beyond chance,
    and the spot check's outcome.
    """
    made = decisions(store)
    batches: dict[str, list[str]] = {}
    for key, found in made.items():
        batches.setdefault(batch_of(store.items[key]), []).append(outcome(found))
    units = [[d["decision"] for d in found.values()] for found in made.values()]
    twice = any(len(u) > 1 for u in units)
    return {
        "batches": [{"batch": name, **_batch(said)} for name, said in sorted(batches.items())],
        "alpha": krippendorff_alpha(units) if twice else None,
        "spot_check": checked.to_dict() if checked else None,
    }


def _batch(said: Sequence[str]) -> dict[str, Any]:
    accepted, num = said.count("accepted"), len(said) - said.count("open")
    low, high = wilson(accepted, num) if num else (None, None)
    counts = {name: said.count(name) for name in ("accepted", "returned", "open")}
    return {**counts, "share": accepted / num if num else None, "low": low, "high": high}


def batch_of(item: Item) -> str:
    """The batch of an annotation; "" is none."""
    return str(item.record.extra.get(BATCH_KEY, "")) if item.record else ""


def spot_check_result(store: Store, checks: Store | None, threshold: float) -> ReviewResult | None:
    """Result of the spot check, batch by batch; None before anyone has finished one of its videos."""
    if checks is None:
        return None
    found = [r for records in finished_records(checks).values() for r in records.values()]
    annotated = [i.record for i in store.items.values() if i.record is not None]
    return review_agreement(annotated, found, threshold=threshold) if found else None


def export_review(root: Path, store: Store, checked: ReviewResult | None) -> list[Path]:
    """Writes to ``ratings/``: ``accepted.jsonl``, ``returned.jsonl`` and ``review.json``. Only accepted annotations are
    in the first, and none of a batch that the spot check sent back; those are in the second.

    Raises:
        ValueError: if nobody has decided anything.
    """
    accepted, returned = (reviewed_records(store, which) for which in ("accepted", "returned"))
    if not accepted and not returned:
        raise ValueError("no annotation has been accepted or returned yet; there is nothing to export")
    back = {b.batch for b in checked.batches if not b.kept} if checked else set()
    kept = [r for r in accepted if str(r.extra.get(BATCH_KEY, "")) not in back]
    note = "the spot check did not confirm this batch"
    returned += [replace(r, extra={**r.extra, NOTE_KEY: note}) for r in accepted if r not in kept]
    written = [_write_or_remove(root, "accepted.jsonl", kept), _write_or_remove(root, "returned.jsonl", returned)]
    place = inside(root, f"{RATINGS}/review.json")
    write_json(place, summarise_review(store, checked))
    return [path for path in (*written, place) if path is not None]


def _write_or_remove(root: Path, name: str, records: Iterable[Record]) -> Path | None:
    """Refuses an empty list: an annotation file needs at least one record."""
    rows = list(records)
    if rows:
        return write_records(root, name, rows)
    inside(root, f"{RATINGS}/{name}").unlink(missing_ok=True)
    return None
