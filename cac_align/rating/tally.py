"""Results of ratings: records, a majority, rates with Wilson's interval, agreement, differences to the judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cac_align.rating.items import Item
from cac_align.rating.store import Store
from cac_align.rating.suggestions import Suggestion
from reward_model.data.records import GROUP_KEY, Record
from reward_model.data.review import ANNOTATOR_KEY, compare_annotations, reviewer_agreement
from reward_model.schema import Anomaly, AnomalyType, VideoAnnotation
from reward_model.statistics.intervals import wilson


def rating_record(item: Item, answer: Mapping[str, Any], person: str) -> Record:
    """A finished rating as a training annotation; ``video`` is relative to the rated folder."""
    anomalies = tuple(Anomaly.from_dict(a) for a in answer["anomalies"])
    known = item.record
    name = known.truth.video_id if known else item.video
    truth = VideoAnnotation(
        name, item.num_frames, item.fps, item.width, item.height, item.prompt, anomalies, source="people"
    )
    extra = {k: v for k, v in known.extra.items() if k in (GROUP_KEY, "batch")} if known else {}
    extra |= {GROUP_KEY: item.group} if item.group else {}
    extra |= {ANNOTATOR_KEY: person}
    extra |= {"note": answer["note"]} if answer["note"] else {}
    return Record(item.video, truth, known.split if known else "", extra)


def finished_records(store: Store) -> dict[str, dict[str, Record]]:
    """Person to item key to record, for everyone who has finished a video."""
    everybody = {
        person: {k: rating_record(store.items[k], a, person) for k, a in store.finished(person).items()}
        for person in store.people
    }
    return {person: records for person, records in everybody.items() if records}


def majority(ratings: Sequence[Record]) -> Record | None:
    """The annotation most people stand behind: of those with the commoner status the one that agrees with the others
    in most aspects, the first at a tie. None if as many say normal as abnormal.
    """
    counts = Counter(r.truth.status for r in ratings)
    if not counts or counts["normal"] == counts["abnormal"]:
        return None
    status = counts.most_common(1)[0][0]
    side = [r for r in ratings if r.truth.status == status]
    return max(side, key=lambda r: sum(sum(compare_annotations(r.truth, o.truth).values()) for o in side))


def rate(abnormal: int, num: int) -> dict[str, Any]:
    """A share with Wilson's 95 % interval; without videos there is none."""
    if not num:
        return {"abnormal": 0, "num": 0, "rate": None, "low": None, "high": None}
    low, high = wilson(abnormal, num)
    return {"abnormal": abnormal, "num": num, "rate": abnormal / num, "low": low, "high": high}


def _rate_of(records: Sequence[Record]) -> dict[str, Any]:
    return rate(sum(r.truth.status == "abnormal" for r in records), len(records))


def consensus(store: Store) -> tuple[dict[str, Record], list[str]]:
    """Item key to the majority's record, and the keys of videos on which people are split evenly."""
    people = finished_records(store)
    rated: dict[str, list[Record]] = {}
    for records in people.values():
        for key, record in records.items():
            rated.setdefault(key, []).append(record)
    chosen = {key: majority(rated[key]) for key in store.items if key in rated}
    return {k: r for k, r in chosen.items() if r is not None}, [k for k, r in chosen.items() if r is None]


def summarise_ratings(store: Store, suggestions: Mapping[str, Suggestion] | None = None) -> dict[str, Any]:
    """Everything that is counted, as plain values for JSON.

    ``all`` and ``folders`` count each video once, by the majority; ``raters`` counts what each person said. Videos on
    which people are split evenly are listed in ``undecided`` and stand in no rate.
    """
    people = finished_records(store)
    agreed, split = consensus(store)
    folders: dict[str, list[Record]] = {}
    for key, record in agreed.items():
        folders.setdefault(store.items[key].folder, []).append(record)
    records = list(agreed.values())
    summary = {
        "num_videos": len(store.items),
        "num_rated": len(agreed) + len(split),
        "all": _rate_of(records),
        "folders": {name: _rate_of(found) for name, found in sorted(folders.items())},
        "types": {t.value: rate(sum(t in r.truth.types for r in records), len(records)) for t in AnomalyType},
        "raters": {name: _rate_of(list(found.values())) for name, found in people.items()},
        "undecided": [store.items[k].video for k in split],
        "agreement": _agreement(people),
    }
    if suggestions:
        found = judge_disagreements(store, suggestions)
        same = sum("status" not in d["differs"] for d in found if d["people"])
        num = sum(d["people"] is not None for d in found)
        summary["judge"] = {"compared": num, "same_status": same}
    return summary


def _agreement(people: Mapping[str, Mapping[str, Record]]) -> dict[str, Any] | None:
    """Cohen's kappa for two, Krippendorff's alpha for any number; None until two people have rated one video."""
    times = Counter(key for records in people.values() for key in records)
    shared = sum(count > 1 for count in times.values())
    if not shared:
        return None
    kappa, alpha = reviewer_agreement([list(records.values()) for records in people.values()])
    return {"num_shared": shared, "kappa": kappa, "alpha": alpha}


def judge_disagreements(store: Store, suggestions: Mapping[str, Suggestion]) -> list[dict[str, Any]]:
    """People against the judge, for every rated video with a verdict: the list one improves a judge by.

    ``differs`` names what is not the same (status, types, window, boxes; "people" where they are split). Videos with
    another status come first, and among them those of which the judge was surest.
    """
    people = finished_records(store)
    agreed, split = consensus(store)
    rows = []
    for key in [*agreed, *split]:
        judge = suggestions.get(key)
        if judge is None:
            continue
        item, record = store.items[key], agreed.get(key)
        rows.append(
            {
                "video": item.video,
                "raters": {p: records[key].truth.status for p, records in people.items() if key in records},
                "people": record.truth.status if record else None,
                "judge": judge.status,
                "score": judge.score,
                "differs": _differs(record, judge, item),
                "people_anomalies": [a.to_dict() for a in record.truth.anomalies] if record else [],
                "judge_anomalies": [a.to_dict() for a in judge.anomalies],
            }
        )
    return sorted(rows, key=_surprise)


def _differs(record: Record | None, judge: Suggestion, item: Item) -> list[str]:
    if record is None:
        return ["people"]
    if record.truth.status != judge.status:
        return ["status"]
    if not judge.anomalies:
        return []  # normal for both, or a verdict that was given without reasoning
    return [aspect for aspect, same in compare_annotations(record.truth, judge.truth(item)).items() if not same]


def _surprise(row: Mapping[str, Any]) -> tuple[int, float, str]:
    """Other status first; then by the probability the judge gave to the status people chose, least first."""
    kind = 0 if "status" in row["differs"] else 1 if row["differs"] else 2
    score = 0.5 if row["score"] is None else row["score"]
    return kind, 1 - score if row["people"] == "abnormal" else score, row["video"]
