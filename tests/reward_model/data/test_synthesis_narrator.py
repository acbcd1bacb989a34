"""The whole synthesis offline: procedural videos, a teacher that errs on purpose, a reviewer that knows the truth."""

from __future__ import annotations

import json
import random
import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from reward_model.conversation import Sampling
from reward_model.data.annotations import read_annotations, video_path, write_annotations
from reward_model.data.cot import read_cot
from reward_model.data.gt_replace import replace_samples
from reward_model.data.records import Record
from reward_model.data.synthesis import LedgerError, Price, plan, synthesize, write_outputs
from reward_model.data.synthesis.config import AskConfig, RuleConfig
from reward_model.data.synthesis.narrator_teacher import NarratorJudge, NarratorTeacher, agrees
from reward_model.data.synthesis.noise import Noise, spoil_report
from reward_model.data.synthesis.rule_check import rule_check
from reward_model.data.synthesis.tasks import conversation
from reward_model.data.synthesis.world_records import write_world_records
from reward_model.data.targets import targets_of
from reward_model.grounding import mean_box_iou
from reward_model.parsing import format_report
from reward_model.video.clip import Video, load_video
from reward_model.world import KINDS, make_video
from reward_model.world.narration import narrate_scan, narrate_zoom
from tests.campaigns import draws

ASK = AskConfig(max_crops=1)
#: Faults whose effect does not depend on what is in the videos, many enough for every decision of the loop.
HEAVY = Noise(status=0.06, type=0.2, json=0.1, hint=0.12)
RECIPE = Path(__file__).resolve().parents[3] / "recipes" / "synthesize_cot.py"


@pytest.fixture(scope="module")
def world():
    """Twelve videos in memory, half of them normal, and a loader."""
    kinds, videos, records = list(KINDS), {}, []
    for k in range(12):
        frames, truth = make_video(41_000 + k, kinds[k // 2 * 2 % len(kinds)] if k % 2 else None)
        truth = replace(truth, video_id=f"v{k:02d}")
        videos[truth.video_id] = Video(frames, truth.fps)
        records.append(Record(f"{truth.video_id}.mkv", truth))
    return records, lambda record: videos[record.truth.video_id]


def part(world):
    """The first of the videos, for tests that hold for each."""
    return world[0][: draws(12, 6)], world[1]


def run(world, folder, noise=None, seed=0, **options):
    records, load = world
    tasks = plan(records, ASK)
    teacher = NarratorTeacher(tasks, load, ASK, noise, seed)
    return synthesize(records, teacher, folder, load=load, judge=NarratorJudge(tasks), ask=ASK, **options), teacher


def test_a_teacher_without_mistakes_passes_every_first_round(world, tmp_path):
    done, _ = run(world, tmp_path)
    assert {(o.decision, len(o.rounds)) for o in done.outcomes} == {("salient", 1)}
    assert done.tallies["teacher"].calls == len(done.outcomes) == 24
    assert done.tallies["judge"].calls == 12


def test_every_decision_of_the_loop_occurs_and_the_files_agree(world, tmp_path):
    done, _ = run(world, tmp_path, HEAVY, seed=6)
    assert {o.decision for o in done.outcomes} == {"salient", "non-salient", "discarded"}
    assert any(o.decision == "discarded" and o.task.normal for o in done.outcomes)
    write_annotations(tmp_path / "in" / "annotations.jsonl", world[0])
    report = write_outputs(done, tmp_path, tmp_path / "in" / "annotations.jsonl", price=Price(2.0, 10.0))
    samples = read_cot(tmp_path / "cot.jsonl")
    lost = [json.loads(line) for line in (tmp_path / "discarded.jsonl").read_text().splitlines()]
    assert len(samples) + len(lost) == len(done.outcomes)
    records = read_annotations(tmp_path / "annotations_with_saliency.jsonl", check_videos=False)
    assert {r.truth.video_id for r in records} == {s.video_id for s in samples}
    assert {r.truth.video_id for r in records} & {e["video_id"] for e in lost} == set()
    marks = []
    for record in records:
        own = [s for s in samples if s.video_id == record.truth.video_id]
        assert {s.status for s in own} == {record.truth.status}
        assert record.video == f"in/{record.truth.video_id}.mkv"
        for anomaly in record.truth.anomalies:
            marks.append(anomaly.salient)
            assert anomaly.salient is all(s.saliency == "salient" for s in own)
    assert set(marks) == {True, False}
    assert sum("another sample" in e["reason"] for e in lost) == 2
    assert all(e["rounds"] and (e["rounds"][-1]["faults"] or "another sample" in e["reason"]) for e in lost)
    teacher = done.tallies["teacher"]
    judge = done.tallies["judge"]
    read, written = teacher.tokens_in + judge.tokens_in, teacher.tokens_out + judge.tokens_out
    assert report["cost"] == pytest.approx((2 * read + 10 * written) / 1e6)
    assert sum(report["rounds"].values()) == sum(o.answer is not None for o in done.outcomes)
    assert report["videos"] == {"asked": 12, "kept": len(records)}
    page = (tmp_path / "report.md").read_text()
    assert f"{len(records)} of 12 videos kept" in page and "| types |" in page


def test_partial_videos_can_be_kept(world, tmp_path):
    done, _ = run(world, tmp_path, HEAVY, seed=6)
    write_outputs(done, tmp_path, tmp_path / "annotations.jsonl", keep_partial=True)
    assert len(read_cot(tmp_path / "cot.jsonl")) == sum(o.answer is not None for o in done.outcomes)


def test_the_result_does_not_depend_on_the_order_of_answers(world, tmp_path):
    world = part(world)
    noise = Noise.even(0.5)
    runs = [
        run(world, tmp_path / "a", noise, workers=1)[0],
        run(world, tmp_path / "b", noise, workers=6)[0],
        run(world, tmp_path / "c", noise, mode="batched", batch_size=3)[0],
    ]
    first = [(o.task.key, o.decision, o.answer, o.rounds) for o in runs[0].outcomes]
    assert all([(o.task.key, o.decision, o.answer, o.rounds) for o in r.outcomes] == first for r in runs[1:])
    assert len({r.tallies["teacher"].calls for r in runs}) == 1


def test_a_finished_run_is_read_back_without_a_call_or_a_frame(world, tmp_path):
    world = part(world)
    before, _ = run(world, tmp_path, Noise.even(0.5))
    tasks = plan(world[0], ASK)
    silent = NarratorTeacher([], world[1], ASK, Noise.even(0.5))  # knows no question
    after = synthesize(world[0], silent, tmp_path, load=None, judge=NarratorJudge([]), ask=ASK)
    assert [(o.decision, o.answer) for o in after.outcomes] == [(o.decision, o.answer) for o in before.outcomes]
    assert after.tallies["teacher"].calls == before.tallies["teacher"].calls
    assert len(tasks) == len(after.outcomes)


def test_recorded_answers_can_be_held_to_other_rules(world, tmp_path):
    world = part(world)
    noise = Noise(window=0.9, hard_share=0)
    before, _ = run(world, tmp_path, noise)
    with pytest.raises(LedgerError, match="verify was"):
        run(world, tmp_path, noise, rules=RuleConfig(verify="rule"))
    after, _ = run(world, tmp_path, noise, rules=RuleConfig(verify="rule"), accept_new_rules=True)
    assert after.tallies["teacher"].calls == before.tallies["teacher"].calls
    assert sum(len(o.rounds) for o in after.outcomes) < sum(len(o.rounds) for o in before.outcomes)


def test_an_unreadable_video_leaves_its_own_samples_open(world, tmp_path):
    records, load = world
    gone = replace(records[0], truth=replace(records[0].truth, video_id="gone"))
    teacher = NarratorTeacher(plan(records, ASK), load, ASK)
    done = synthesize(
        [*records[:2], gone],
        teacher,
        tmp_path,
        load=lambda r: load_video(tmp_path / "absent.mkv") if r is gone else load(r),
        judge=NarratorJudge(plan(records, ASK)),
        ask=ASK,
    )
    assert [o.decision for o in done.outcomes] == ["salient"] * 4 + ["open"] * 2
    assert "no video file" in done.outcomes[-1].reason


def test_ids_that_repeat_are_refused(world, tmp_path):
    with pytest.raises(ValueError, match="'v00' occurs 2 times"):
        synthesize([world[0][0]] * 2, NarratorTeacher([], world[1], ASK), tmp_path, load=world[1])


@pytest.mark.parametrize("kind", list(KINDS))
def test_truth_of_every_kind_is_met_by_its_narration_and_every_fault_is_not(kind):
    _, truth = make_video(43_007, kind)
    for task in plan([Record("a.mkv", truth)], ASK):
        zoom = task.turn == "zoom"
        report = (narrate_zoom if zoom else narrate_scan)(truth, task.indices)
        size = len(task.indices)
        assert rule_check(report, task.truth, num_frames=size, boxes=zoom).passed
        assert agrees(format_report(report, boxes=zoom), task)
        for fault in ("status", "type", "box" if zoom else "status"):
            spoiled = spoil_report(report, fault, size, random.Random(0))
            assert not rule_check(spoiled, task.truth, num_frames=size, boxes=zoom).passed


def test_noise_is_drawn_from_seed_sample_and_round(world):
    records, load = part(world)
    tasks = plan(records, ASK)
    asked = [conversation(t, load(t.record), ASK) for t in tasks]
    teacher = NarratorTeacher(tasks, load, ASK, Noise.even(0.7))

    def texts(teacher, seed):
        return [c.text for c in teacher.generate(asked, Sampling(seed=seed))]

    assert texts(teacher, 1) == texts(NarratorTeacher(tasks, load, ASK, Noise.even(0.7)), 1)
    assert texts(teacher, 1) != texts(teacher, 2)
    assert texts(teacher, 1) != texts(NarratorTeacher(tasks, load, ASK, Noise.even(0.7), seed=1), 1)
    stranger = teacher.generate([asked[0] + asked[1]], Sampling())[0]
    assert stranger.error and not stranger.text


def test_a_blunt_teacher_has_the_words_right_and_the_boxes_off(world, tmp_path):
    records, load = world
    tasks = plan(records, ASK)
    blunt = NarratorTeacher(tasks, load, ASK, blunt=True)
    rules = RuleConfig(verify="rule")
    done = synthesize(records, blunt, tmp_path, load=load, ask=ASK, rules=rules)
    write_outputs(done, tmp_path, tmp_path / "annotations.jsonl", keep_partial=True)
    kept = [s for s in read_cot(tmp_path / "cot.jsonl") if s.turn == "zoom" and s.status == "abnormal"]
    truths = {r.truth.video_id: r.truth for r in records}

    def overlaps(samples):
        found = [targets_of(truths[s.video_id], "zoom", s.indices) for s in samples]
        return [mean_box_iou(s.report().anomalies[0].boxes, t[0].boxes) for s, t in zip(samples, found, strict=True)]

    assert len(kept) >= 4 and all(0.5 < overlap < 0.95 for overlap in overlaps(kept))
    assert max(len(o.rounds) for o in done.outcomes) > 1  # boxes are drawn anew where they were too far off
    assert overlaps(replace_samples(kept, truths).samples) == [1.0] * len(kept)


def test_the_noise_has_the_mean_that_was_asked_for():
    noise, rng = Noise.even(0.35), random.Random(0)
    drawn = [noise.draw(rng, hard=rng.random() < noise.hard_share) for _ in range(20_000)]
    assert sum(d is not None for d in drawn) / len(drawn) == pytest.approx(0.35, abs=0.015)
    assert all(drawn.count(f) / len(drawn) == pytest.approx(0.05, abs=0.01) for f in noise.faults())
    with pytest.raises(ValueError, match="may exceed 1"):
        Noise.even(1.2)


def test_the_recipe_runs_offline(tmp_path, capsys):
    main = runpy.run_path(str(RECIPE))["main"]
    assert main(["--world", "2", "--noise", "0.3", "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "2 videos, 4 samples" in out and "At most 20 teacher calls" in out and "videos kept" in out
    records = read_annotations(tmp_path / "annotations_with_saliency.jsonl")  # the videos are found from there
    assert video_path(records[0], tmp_path / "annotations_with_saliency.jsonl").is_file()


@pytest.mark.parametrize("option", ["--noise=0.3", "--three-steps", "--blunt"])
def test_what_the_worlds_teacher_alone_does_is_refused_for_another(option, tmp_path):
    check = runpy.run_path(str(RECIPE))
    (own := tmp_path / "own.jsonl").touch()
    args = check["parser"]().parse_args(["--annotations", str(own), "--teacher", "any", option])
    with pytest.raises(ValueError, match=f"{option.partition('=')[0]} is for --world"):
        check["check"](args)


def test_world_files_give_every_pixel_back(tmp_path):
    path = write_world_records(tmp_path, 2, seed=42_000, kinds=("vanish",))
    records = read_annotations(path)
    frames, truth = make_video(42_001, "vanish")
    video = load_video(video_path(records[1], path))
    assert (video.frames == frames).all() and video.fps == 16
    assert records[1].truth == truth and records[0].truth.status == "normal"
    with pytest.raises(ValueError, match="count=0"):
        write_world_records(tmp_path, 0)
