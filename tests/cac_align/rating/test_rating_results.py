"""What comes of ratings: numbers computed by hand, files the trainer accepts, and the judge beside people."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cac_align.cli import main
from cac_align.rating.study import open_rating
from cac_align.rating.suggestions import Suggestion
from cac_align.table2.ratings import Ratings
from reward_model.data.annotations import read_annotations
from reward_model.minis.stages import MINI
from reward_model.schema import Anomaly
from reward_model.training.sft.config import parse_stage
from reward_model.training.sft.run import run_stage

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def verdicts(page, folder):
    """The judge: two right, one wrong and sure, one wrong and unsure, none on five.mp4."""
    said = {"one": ("abnormal", 0.1), "two": ("normal", 0.9), "three": ("normal", 0.95), "four": ("abnormal", 0.4)}
    entries = []
    for item in page.study.store.items.values():
        stem = item.video.split("/")[-1].removesuffix(".mp4")
        if stem in said:
            status, score = said[stem]
            found = [{"type": "Object Distortion", "frames": [4, 9], "boxes": {"4": [[100, 200, 500, 700]]}}]
            verdict = {"status": status, "score": score, "anomalies": found if status == "abnormal" else []}
            entries.append({"video": item.video, "status": status, "score": score, "verdict": verdict})
    path = folder / "verdicts.json"
    path.write_text(json.dumps(entries))
    return path


def test_agreement_and_rates_equal_those_computed_by_hand(page, rate_everything):
    rate_everything(page, "Ann", {"one", "two", "five"})
    assert page.post("results", {"person": "Ann"}).json["summary"]["agreement"] is None
    rate_everything(page, "Bob", {"one", "five"})
    summary = page.post("results", {"person": "Bob"}).json["summary"]
    # Four of five agree; by chance (3 * 2 + 2 * 3) / 25: (0.8 - 0.48) / 0.52. Alpha: 1 - 9 * 2 / (100 - 25 - 25).
    assert summary["agreement"]["kappa"]["status"] == pytest.approx(0.32 / 0.52)
    assert summary["agreement"]["alpha"]["status"] == pytest.approx(1 - 9 * 2 / 50)
    # two.mp4 is undecided; of the other four, two are abnormal.
    assert summary["undecided"] == ["a/two.mp4"]
    assert summary["all"]["abnormal"] == 2 and summary["all"]["rate"] == 0.5
    assert summary["all"]["low"] == pytest.approx(0.1500, abs=1e-4)
    assert {k: (v["abnormal"], v["num"]) for k, v in summary["folders"].items()} == {"a": (1, 1), "b": (1, 3)}
    assert summary["raters"]["Ann"]["rate"] == 0.6
    rate_everything(page, "Cem", {"one", "two", "five"})
    summary = page.post("results", {"person": "Cem"}).json["summary"]
    # Three raters: pairs in disagreement 2 of two.mp4 -> D_o = 2*2/2 = 2, 15 labels, 8 abnormal and 7 normal.
    assert summary["agreement"]["alpha"]["status"] == pytest.approx(1 - 14 * 2 / (225 - 64 - 49))
    assert summary["agreement"]["kappa"]["status"] is None and summary["all"]["rate"] == 0.6


def test_exported_ratings_are_valid_annotations(page, folder, rate_everything, capsys):
    rate_everything(page, "Ann", {"one", "three", "five"})
    rate_everything(page, "Bob", {"one"})
    page.enter("Lazy")
    files = page.post("export", {}).json["files"]
    expected = ["raters/Ann.jsonl", "raters/Bob.jsonl", "consensus.jsonl", "summary.json", "summary.md"]
    assert files == [f"ratings/{name}" for name in expected]
    for name in expected[:3]:
        assert main(["data", "validate", str(folder / "ratings" / name)]) == 0, capsys.readouterr().out
    records = {r.truth.video_id: r for r in read_annotations(folder / "ratings/raters/Ann.jsonl")}
    one = records["a/one.mp4"]
    assert one.truth.status == "abnormal" and one.extra["annotator"] == "Ann"
    assert one.truth.anomalies[0].boxes[4][0].as_list() == [100, 200, 500, 700]
    assert len(read_annotations(folder / "ratings/consensus.jsonl")) == 3
    assert "60.0" in (folder / "ratings/summary.md").read_text() or "0.6" in (folder / "ratings/summary.md").read_text()


@pytest.mark.slow
def test_exported_ratings_train_a_judge_and_fill_the_column_of_people(page, folder, rate_everything, tmp_path):
    """The whole way of an answer: clicked, exported, a step of stage 1 from the shipped mini, a cell of the table."""
    rate_everything(page, "Ann", {"one", "three", "five"})
    rate_everything(page, "Bob", {"one", "three", "five"})
    consensus = folder / page.post("export", {}).json["files"][2]

    config = ["--config", str(ROOT / "recipes" / "configs" / "stage1" / "mini_own.yaml"), "--data", str(consensus)]
    start = ["--model_name_or_path", str(ROOT / "assets" / "cac-mini"), "--output_dir", str(tmp_path / "stage1")]
    steps = [
        "--max_steps",
        "1",
        "--warmup_steps",
        "0",
        "--save_steps",
        "1",
        "--disable_tqdm",
        "true",
        "--dataloader_num_workers",
        "0",
    ]
    run_stage("stage1", *parse_stage([*config, *start, *steps], options=MINI.options), MINI)
    before, after = (load_file(f / "model.safetensors") for f in (ROOT / "assets" / "cac-mini", tmp_path / "stage1"))
    assert any(not torch.equal(before[k], after[k]) for k in before)

    people = Ratings(consensus)
    assert [people.value(name) for name in ("one", "two", "three", "four", "five")] == [1, 0, 1, 0, 1]


def test_nothing_to_export_is_said(page):
    page.enter("Ann")
    reply = page.post("export", {})
    assert reply.status_code == 422 and "nobody has finished" in reply.json["error"]


def test_the_judge_is_hidden_until_a_person_has_answered_and_then_the_answer_stays(
    page, folder, verdicts, opened, tools
):
    tab, squashed = tools
    page.study.close()
    judged = tab(opened(open_rating(folder, verdicts=[verdicts])))
    key = next(k for k, i in judged.study.store.items.items() if i.video == "b/three.mp4")
    entered = judged.enter("Ann")
    assert all(i["suggestion"] is None for i in entered["items"]) and "0.95" not in json.dumps(entered)
    draft = judged.answer("Ann", key, status="abnormal", anomalies=[squashed()])
    assert draft.json["suggestion"] is None
    assert judged.post("results", {"person": "Ann"}).json["differences"] == []
    done = judged.answer("Ann", key, status="abnormal", anomalies=[squashed()], done=True)
    assert done.json["suggestion"]["status"] == "normal" and done.json["suggestion"]["score"] == 0.95
    changed = judged.answer("Ann", key, status="normal", done=True)
    assert changed.status_code == 422 and "stays as it is" in changed.json["error"]
    judged.enter("Bob")
    assert all(i["suggestion"] is None for i in judged.enter("Bob")["items"])


def test_differences_list_the_surest_mistakes_first(page, folder, verdicts, opened, tools, rate_everything):
    page.study.close()
    judged = tools[0](opened(open_rating(folder, verdicts=[verdicts])))
    rate_everything(judged, "Ann", {"one", "three", "five"})
    results = judged.post("results", {"person": "Ann"}).json
    rows = [(r["video"], r["people"], r["judge"], r["differs"]) for r in results["differences"]]
    assert rows[0] == ("b/three.mp4", "abnormal", "normal", ["status"])
    assert rows[1] == ("b/four.mp4", "normal", "abnormal", ["status"])
    assert [r[3] for r in rows[2:]] == [[], []] and results["summary"]["judge"] == {"compared": 4, "same_status": 2}
    judged.post("export", {})
    lines = (folder / "ratings/differences.jsonl").read_text().splitlines()
    assert [json.loads(x)["video"] for x in lines[:2]] == ["b/three.mp4", "b/four.mp4"]
    assert Anomaly.from_dict(json.loads(lines[0])["people_anomalies"][0]).frames.start == 4


def test_verdicts_that_fit_nothing_are_refused(page, folder, tmp_path):
    page.study.close()
    for text, message in (("[]", "none on a video"), ("{", "neither JSON"), ("[1]", "not a list of verdicts")):
        (tmp_path / "v.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            open_rating(folder, verdicts=[tmp_path / "v.json"])
        # The journal is free again: the next round opens it.


def test_the_command_exports_without_serving(page, folder, rate_everything, capsys):
    rate_everything(page, "Ann", {"one"})
    page.study.close()
    assert main(["rate", str(folder), "--export"]) == 0
    assert "consensus.jsonl" in capsys.readouterr().out
    assert main(["rate", str(folder), "--spot-check", "Ann"]) == 2
    assert main(["rate", str(folder / "nowhere")]) == 2
    assert "is not a folder" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[" * 100_000, "null", "3", '{"video": 3}', '[{"video": []}]', '{"candidates": {}}'])
def test_verdict_files_of_another_form_are_refused(two_clips, tmp_path, text):
    (tmp_path / "v.json").write_text(text)
    with pytest.raises(ValueError, match=r"not a list of verdicts|neither JSON"):
        open_rating(two_clips, verdicts=[tmp_path / "v.json"])


def test_a_verdict_that_fits_no_file_is_left_out_and_the_others_stay(two_clips, opened, tmp_path):
    window = {"type": "object", "frames": [3, 99], "boxes": {}}
    bad = [
        {"verdict": 3},
        {"verdict": {"status": "abnormal", "anomalies": 3}},
        {"verdict": {"status": "abnormal", "anomalies": [window]}},
        {"verdict": {"status": "abnormal", "anomalies": [{**window, "boxes": 7}]}},
        {"status": "normal", "score": "high"},
        {"status": "normal", "score": float("nan")},
    ]
    good = {"video": "a/one.mp4", "status": "normal", "score": 0.9}
    for entry in bad:
        (tmp_path / "v.json").write_text(json.dumps([{"video": "b/four.mp4", **entry}, good]))
        study = opened(open_rating(two_clips, verdicts=[tmp_path / "v.json"]))
        assert [s.score for s in study.suggestions.values()] == [0.9]
        assert "the verdict on b/four.mp4" in study.notes[0]
        study.close()


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ({}, ""),
        ({"out_of_domain": None, "domain_reason": "9 s"}, ""),
        ({"out_of_domain": False}, ""),
        ({"out_of_domain": True, "domain_reason": "20 s; trained on 1 to 6 s"}, "20 s; trained on 1 to 6 s"),
        ({"out_of_domain": True, "domain_reason": 3}, "out of domain"),
    ],
)
def test_a_rater_is_told_that_the_judge_does_not_know_such_videos(two_clips, opened, tmp_path, told, shown):
    entry = {"video": "a/one.mp4", "verdict": {"status": "normal", "score": 0.9, **told}}
    (tmp_path / "v.json").write_text(json.dumps([entry]))
    (found,) = opened(open_rating(two_clips, verdicts=[tmp_path / "v.json"])).suggestions.values()
    assert found.to_dict()["unfamiliar"] == shown and found.note == ""


@pytest.mark.parametrize(
    ("status", "score", "readout", "note"),
    [
        ("normal", 0.9, "direct", ""),
        ("abnormal", 0.1, "paper", ""),
        ("normal", 0.5, "direct", ""),
        ("normal", None, "direct", ""),
        ("normal", 0.0, "direct", "reward, read before it had reasoned, leaned towards an anomaly; .* verdict normal"),
        ("abnormal", 0.9, "log_odds", "leaned towards normal; its reasoning came to the verdict abnormal"),
        ("abnormal", 0.9, "paper", "Its reward leaned towards normal"),
        ("abnormal", 0.9, "", "Its reward leaned towards normal"),
    ],
)
def test_reward_and_verdict_tell_one_story(status, score, readout, note):
    found = Suggestion(status, score, readout=readout)
    assert re.search(note, found.note) and bool(found.note) == bool(note)
    assert found.to_dict()["note"] == found.note
