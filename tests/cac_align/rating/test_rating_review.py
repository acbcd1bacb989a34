"""Two rounds of review: accept or return, spot check, and only confirmed annotations are exported."""

import json
from dataclasses import replace

import pytest

from cac_align.cli import main
from cac_align.rating.folder import OutsideError
from cac_align.rating.study import open_review, open_spot_check
from reward_model.data.annotations import read_annotations, write_annotations
from reward_model.data.records import GENERATED, MAKER_KEY, ORIGIN_KEY, Record


@pytest.fixture
def annotations(clips, folder):
    """What Zoe annotated: two batches."""
    records = []
    for name, drawn in clips[1].items():
        truth = replace(drawn, video_id=name, width=256, height=256)
        records.append(Record(name, truth, extra={"annotator": "Zoe", "batch": name[0]}))
    return write_annotations(folder / "annotations.jsonl", records)


def keys_of(study):
    return {i.video: k for k, i in study.store.items.items()}


@pytest.fixture
def reviewed(folder, annotations, opened, tools):
    """Ann returns four.mp4 and accepts the others."""
    page = tools[0](opened(open_review(folder, annotations)))
    page.enter("Ann")
    for video, key in keys_of(page.study).items():
        back = video == "b/four.mp4"
        assert page.decide("Ann", key, "return" if back else "accept", "box the <b>ball</b>" if back else "").json
    return page


def test_reviewers_see_the_annotation_and_annotators_nothing_of_theirs(reviewed, clips):
    items = {i["key"]: i for i in reviewed.enter("Bob")["items"]}
    shown = items[keys_of(reviewed.study)["a/one.mp4"]]["annotation"]
    truth = clips[1]["a/one.mp4"]
    assert shown["status"] == "abnormal" and shown["batch"] == "a" and shown["annotator"] == "Zoe"
    assert shown["anomalies"] == [a.to_dict() for a in truth.anomalies]
    assert reviewed.enter("zoe")["items"] == []
    refused = reviewed.decide("Zoe", keys_of(reviewed.study)["a/one.mp4"], "accept")
    assert refused.status_code == 422


def test_only_accepted_annotations_are_exported_and_a_return_carries_its_note(reviewed, folder, capsys):
    files = reviewed.post("export", {}).json["files"]
    assert files == ["ratings/accepted.jsonl", "ratings/returned.jsonl", "ratings/review.json"]
    accepted = read_annotations(folder / "ratings/accepted.jsonl")
    assert {r.truth.video_id for r in accepted} == {"a/one.mp4", "a/two.mp4", "b/three.mp4", "b/five.mp4"}
    assert {r.extra["reviewer"] for r in accepted} == {"Ann"}
    returned = read_annotations(folder / "ratings/returned.jsonl")
    assert [r.extra["review_note"] for r in returned] == ["Ann: box the <b>ball</b>"]
    assert main(["data", "validate", str(folder / "ratings/accepted.jsonl")]) == 0, capsys.readouterr().out
    batches = json.loads((folder / "ratings/review.json").read_text())["batches"]
    assert [(b["batch"], b["accepted"], b["returned"], b["open"]) for b in batches] == [("a", 2, 0, 0), ("b", 2, 1, 0)]


def test_one_return_outweighs_an_acceptance(reviewed, folder):
    reviewed.enter("Bob")
    reviewed.decide("Bob", keys_of(reviewed.study)["a/one.mp4"], "return", "too long")
    reviewed.post("export", {})
    assert {r.truth.video_id for r in read_annotations(folder / "ratings/returned.jsonl")} == {
        "a/one.mp4",
        "b/four.mp4",
    }


def test_an_amended_annotation_is_reviewed_anew(reviewed, folder, annotations, opened):
    records = read_annotations(annotations)
    kept = [replace(r, truth=replace(r.truth, anomalies=())) if r.video == "a/one.mp4" else r for r in records]
    write_annotations(annotations, kept)
    reviewed.study.close()
    study = opened(open_review(folder, annotations))
    assert keys_of(study)["a/one.mp4"] not in study.store.finished("Ann") and len(study.store.finished("Ann")) == 4


def finish_check(page, checker, clips, spoil=()):
    """The checker annotates as the truth is, but says normal of ``spoil``."""
    for item in page.enter(checker)["items"]:
        video = page.study.store.items[item["key"]].video
        found = [] if video in spoil else [a.to_dict() for a in clips[1][video].anomalies]
        status = "abnormal" if found else "normal"
        reply = page.answer(checker, item["key"], status=status, anomalies=found, done=True)
        assert reply.status_code == 200, reply.json


def test_a_batch_that_the_spot_check_does_not_confirm_goes_back(reviewed, folder, annotations, opened, tools, clips):
    reviewed.study.close()
    check = tools[0](opened(open_spot_check(folder, annotations, ["Cem"], fraction=1)))
    entered = check.enter("Cem")
    assert len(entered["items"]) == 4 and "annotation" not in json.dumps(entered)
    assert check.enter("Dan")["items"] == []
    finish_check(check, "Cem", clips, spoil=["b/three.mp4"])
    check.post("export", {})
    assert {r.truth.video_id for r in read_annotations(folder / "ratings/accepted.jsonl")} == {"a/one.mp4", "a/two.mp4"}
    notes = {r.truth.video_id: r.extra["review_note"] for r in read_annotations(folder / "ratings/returned.jsonl")}
    assert set(notes) == {"b/three.mp4", "b/four.mp4", "b/five.mp4"} and "did not confirm" in notes["b/five.mp4"]
    spot = json.loads((folder / "ratings/review.json").read_text())["spot_check"]
    assert [(b["batch"], b["num_checked"], b["num_agreed"], b["kept"]) for b in spot["batches"]] == [
        ("a", 2, 2, True),
        ("b", 2, 1, False),
    ]
    check.study.close()
    round_one = tools[0](opened(open_review(folder, annotations)))
    results = round_one.post("results", {"person": "Ann"}).json
    assert results["summary"]["spot_check"] == spot


def test_a_draw_stays_and_reviewers_do_not_check_themselves(reviewed, folder, annotations, opened):
    reviewed.study.close()
    with pytest.raises(ValueError, match="Ann"):
        open_spot_check(folder, annotations, ["Ann"])
    drawn = {}
    for seed in (0, 1):
        study = opened(open_spot_check(folder, annotations, ["Cem"], fraction=0.5, seed=seed))
        drawn[seed] = {i.video for i in study.store.items.values()}
        study.close()
    assert drawn[0] == drawn[1] and len(drawn[0]) == 2


def test_annotations_of_videos_elsewhere_are_refused(folder, annotations, tmp_path):
    import shutil

    shutil.copy(folder / "a/one.mp4", tmp_path / "outside.mp4")
    records = [replace(r, video="../outside.mp4") for r in read_annotations(annotations) if r.video == "a/one.mp4"]
    write_annotations(annotations, records)
    with pytest.raises(OutsideError, match="lies outside"):
        open_review(folder, annotations)


def test_a_generated_annotation_is_shown_as_one_and_accepting_it_is_written_down(folder, annotations, opened, tools):
    made = {ORIGIN_KEY: GENERATED, MAKER_KEY: "cac-mini"}
    records = [replace(r, extra=made) for r in read_annotations(annotations)]
    write_annotations(annotations, records)
    page = tools[0](opened(open_review(folder, annotations)))
    shown = page.enter("Ann")["items"][0]["annotation"]
    assert (shown["origin"], shown["made_by"], shown["annotator"]) == (GENERATED, "cac-mini", "")
    for key in page.study.store.items:
        page.decide("Ann", key, "accept" if key == next(iter(page.study.store.items)) else "return", "tighter")
    page.post("export", {})
    (accepted,) = read_annotations(folder / "ratings/accepted.jsonl")
    assert accepted.extra[ORIGIN_KEY] == f"{GENERATED}, accepted by a person" and accepted.extra["reviewer"] == "Ann"
    assert {r.extra[ORIGIN_KEY] for r in read_annotations(folder / "ratings/returned.jsonl")} == {GENERATED}
