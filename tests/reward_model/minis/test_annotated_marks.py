"""The reading warm-up on annotated videos: labels, twins, looks, and that a stopped one ends with the same bits."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from reward_model.config import JudgeConfig
from reward_model.data.annotations import Record, write_annotations
from reward_model.minis import warm_up_state
from reward_model.minis.annotated_marks import AnnotatedMarks, Variation, frame_labels, vary
from reward_model.minis.collator import MiniCollator
from reward_model.minis.model import build_judge, judge_settings
from reward_model.minis.rows import make_example
from reward_model.minis.stages import MINI
from reward_model.minis.warm_up_reading import mark_tokens, warm_up_reading
from reward_model.minis.warm_up_state import WarmupState
from reward_model.prompts import load_prompts
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, VideoAnnotation
from reward_model.training.sft.config import parse_stage
from reward_model.training.sft.parts import StageData
from reward_model.training.sft.run import run_stage
from reward_model.video.writing import write_video
from tests.conftest import ROOT

SIZE, LENGTH, FPS = 48, 33, 16.0
JUDGE = JudgeConfig(prompts="compact", frame_size=SIZE, frame_fit="pad", scan_fps=4, zoom_fps=8, demo_scale=True)


def annotated(name, *windows, kind=AnomalyType.MOTION):
    boxes = [{n: (Box(200, 200, 420, 420),) for n in range(start, end + 1)} for start, end in windows]
    found = tuple(
        Anomaly(kind, FrameRange(*w), b, ("thing",), "the thing flickers", "the left")
        for w, b in zip(windows, boxes, strict=True)
    )
    return VideoAnnotation(name, LENGTH, FPS, SIZE, SIZE, "", found)


def record(name, *windows, group="clip", seed=1, kind=AnomalyType.MOTION):
    return Record(f"{name}.mp4", annotated(name, *windows, kind=kind), extra={"group": group, "seed": seed})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two clips, each with a flicker and its twin; every frame of a clip shows its number."""
    place = tmp_path_factory.mktemp("annotated")
    records = []
    for k, group in enumerate("ab"):
        frames = np.full((LENGTH, SIZE, SIZE, 3), 60 + 60 * k, np.uint8)
        frames[:, 10:20, 10:20] = (4 * np.arange(LENGTH))[:, None, None, None]
        for name, windows in ((f"{group}-flicker", [(9, 14)]), (f"{group}-normal", [])):
            shown = frames.copy()
            for start, end in windows:
                shown[start : end + 1, 10:20, 10:20] = 255
            write_video(place / f"{name}.mp4", shown, FPS)
            records.append(record(name, *windows, group=group, seed=k))
    write_annotations(place / "annotations.jsonl", records)
    return place, records


@pytest.fixture
def source(folder):
    place, records = folder
    return AnnotatedMarks(records, place / "annotations.jsonl", JUDGE)


def judge():
    model, processor = build_judge("tiny", seed=0)
    return model, MiniCollator(processor, make_example)


def test_a_frame_is_labelled_by_the_type_of_the_window_it_lies_in():
    truth = annotated("a", (5, 8), (20, 20))
    motion = 1 + list(AnomalyType).index(AnomalyType.MOTION)
    assert frame_labels(truth, [0, 4, 5, 8, 9, 20, 24]) == [0, 0, motion, motion, 0, motion, 0]
    mixed = replace(truth, anomalies=(*annotated("b", (0, 4), kind=AnomalyType.OBJECT).anomalies, *truth.anomalies))
    assert frame_labels(mixed, [0, 5]) == [1 + list(AnomalyType).index(AnomalyType.OBJECT), motion]


def test_an_abnormal_video_is_compared_with_its_twin_else_with_its_footage_else_with_any():
    records = [
        record("a1", (4, 9), group="a", seed=1),
        record("a2", (4, 9), group="a", seed=2),
        record("c", (4, 9), group="c", seed=9),
        record("a1n", group="a", seed=1),
        record("a3n", group="a", seed=3),
        record("bn", group="b", seed=1),
    ]
    assert AnnotatedMarks(records, "x.jsonl", JUDGE).pairs == [(0, [3]), (1, [3, 4]), (2, [3, 4, 5])]
    assert AnnotatedMarks([replace(r, extra={}) for r in records], "x.jsonl", JUDGE).pairs[0] == (0, [3, 4, 5])


@pytest.mark.parametrize(("kept", "missing"), [(slice(0, 1), "normal"), (slice(1, 2), "abnormal")])
def test_both_statuses_are_needed(folder, kept, missing):
    with pytest.raises(ValueError, match=rf"own\.jsonl holds no {missing} video .*reading_warmup_steps: 0"):
        AnnotatedMarks(folder[1][kept], "own.jsonl", JUDGE)


def test_a_batch_asks_for_every_mark_twice_and_for_the_verdict_before_the_list(source):
    collator = judge()[1]
    tokenizer = collator.processor.tokenizer
    batch = source.batches(collator, 3, 4, 0, 0)[1]
    ids, marks = batch.inputs["input_ids"], mark_tokens(tokenizer)
    assert batch.shown.places.sum() == batch.asked.places.sum() == len(batch.inputs["image_grid_thw"])
    assert sorted(batch.shown.labels.tolist()) == sorted(batch.asked.labels.tolist())
    assert batch.said is not None and batch.said.places.sum(1).tolist() == [1, 1, 1, 1]
    for row, place in zip(ids, batch.said.places.float().argmax(1), strict=True):
        assert tokenizer.decode(row[place - 1 : place + 1]) == '{"COT": "", "status": "'
        assert row[place + 1] in marks, "the list follows, which says nothing of the verdict"
    assert [tokenizer.decode([t]) for t in batch.said.labels] == ["ab", "normal", "ab", "normal"]


def test_twins_are_shown_alike_and_differ_where_the_anomaly_is(source):
    batch = source.batches(judge()[1], 3, 2, 0, 0)[0]
    counts = batch.shown.places.sum(1).tolist()
    assert counts[0] == counts[1]
    patches = batch.inputs["pixel_values"].view(2, counts[0], -1)
    apart = (patches[0] - patches[1]).abs().amax(1) > 0.2
    assert apart.tolist() == [label > 0 for label in batch.shown.labels[: counts[0]].tolist()]


def test_batches_are_a_function_of_seed_step_and_process_and_every_anomaly_takes_its_turn(source):
    collator = judge()[1]

    def pixels(seed, step, rank):
        return source.batches(collator, 4, 2, seed, rank)[step].inputs["pixel_values"]

    assert torch.equal(pixels(0, 1, 0), pixels(0, 1, 0))
    first = pixels(0, 1, 0)
    for other in (pixels(1, 1, 0), pixels(0, 2, 0), pixels(0, 1, 1)):
        assert other.shape != first.shape or not torch.equal(other, first)
    prompts = source.batches(collator, 4, 2, 0, 0)
    drawn = [prompts._pair(k, np.random.default_rng(0)) for k in range(4)]
    assert sorted(drawn[:2]) == sorted(drawn[2:]) == [(0, 1), (2, 3)]


def test_a_variation_moves_mirrors_and_recolours():
    frames = np.zeros((1, 8, 8, 3), np.uint8)
    frames[0, 2, 1] = (100, 0, 200)
    still = Variation(False, (0, 0), (0, 1, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    assert np.array_equal(vary(frames, still), frames)
    moved = vary(frames, replace(still, shift=(3, 2)))
    assert moved[0, 5, 3].tolist() == [100, 0, 200] and (moved > 0).any(-1).sum() == 1
    assert vary(frames, replace(still, mirrored=True))[0, 2, 6].tolist() == [100, 0, 200]
    assert vary(frames, replace(still, channels=(2, 0, 1)))[0, 2, 1].tolist() == [200, 100, 0]
    lit = vary(frames, replace(still, gain=(0.5, 1.0, 1.0), bias=(0.0, 10.0, 60.0)))
    assert lit[0, 2, 1].tolist() == [114, 10, 255] and lit[0, 0, 0].tolist() == [64, 10, 60]


def test_letters_are_never_mirrored(folder):
    place, records = folder
    assert AnnotatedMarks(records, place, JUDGE).mirrors
    written = record("sign", (4, 9), kind=AnomalyType.CHARACTER)
    assert not AnnotatedMarks([*records, written], place, JUDGE).mirrors


class PowerCut(Exception):
    pass


def test_a_stopped_warm_up_ends_with_the_same_bits_and_other_videos_are_refused(source, tmp_path, monkeypatch):
    monkeypatch.setattr(warm_up_state, "NUM_STATES", 2)
    keep, path = WarmupState.keep, tmp_path / "state.safetensors"

    def run(source, state_file=None):
        model, collator = judge()
        warm_up_reading(model, collator, source=source, steps=4, batch=2, seed=3, state_file=state_file)
        return model.state_dict()

    def cut(self, done, right):
        keep(self, done, right)
        if done == 3:
            raise PowerCut

    whole = run(source)
    monkeypatch.setattr(WarmupState, "keep", cut)
    with pytest.raises(PowerCut):
        run(source, path)
    monkeypatch.setattr(WarmupState, "keep", keep)
    with pytest.raises(ValueError, match=r"annotations was .* and is now"):
        run(replace(source, records=source.records[:3]), path)
    resumed = run(source, path)
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def stage_arguments(tmp_path, *more):
    config = str(ROOT / "recipes" / "configs" / "stage2" / "mini_own.yaml")
    return parse_stage(["--config", config, "--output_dir", str(tmp_path / "out"), *more], options=MINI.options)


def test_a_full_size_judge_is_not_warmed_up_and_a_mini_not_on_the_world_it_knows(source, tmp_path):
    stage, config, model = stage_arguments(tmp_path, "--reading_warmup_steps", "5", "--data", str(source.jsonl))
    data = StageData([], None, make_example, replace(JUDGE, demo_scale=False), "", records=source.records)
    with pytest.raises(ValueError, match=r"reading_warmup_steps=5 is a setting of minis.*set it to 0"):
        MINI.warm_up(None, None, tmp_path, stage, model, config, data)
    assert MINI.dry_run_note("assets/cac-mini", stage) == "Before them: 5 steps of the reading warm-up."
    stage.data = "world"
    MINI.warm_up(None, None, tmp_path, stage, model, config, data)
    assert not list(tmp_path.iterdir()) and MINI.dry_run_note("assets/cac-mini", stage) == ""


@pytest.mark.slow
def test_stage_two_warms_a_checkpoint_up_on_annotated_videos(folder, tmp_path):
    model, processor = build_judge("tiny")
    for part in (model, processor):
        part.save_pretrained(tmp_path / "judge")
    (tmp_path / "judge" / "judge.json").write_text(judge_settings(load_prompts("compact").version))
    few = ["--model_name_or_path", str(tmp_path / "judge"), "--data", str(folder[0] / "annotations.jsonl")]
    few += ["--reading_warmup_steps", "2", "--max_steps", "1", "--eval_strategy", "no", "--held_out", "0"]
    run_stage("stage2", *stage_arguments(tmp_path, *few), MINI)
    work = tmp_path / "out" / "training"
    assert (work / "reading.safetensors").is_file() and not list(work.glob("*-state.safetensors"))
