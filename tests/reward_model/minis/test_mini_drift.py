"""Answers with moved boxes: what is read changes, what is written does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reward_model.data.example import IGNORE, Example
from reward_model.minis.collator import MiniCollator
from reward_model.minis.drift import drift_boxes
from reward_model.minis.model import build_processor
from reward_model.minis.rows import draw_rows, make_example
from reward_model.minis.tokenizer import coordinate_values
from reward_model.parsing import parse_turn
from reward_model.schema import BOX_SCALE
from reward_model.training.sft.trainer import AnswerCollator


@pytest.fixture(scope="module")
def processor():
    return build_processor()


@pytest.fixture(scope="module")
def rows():
    return [dict(row) for row in draw_rows(["zoom"] * 60, seed=5)]


@pytest.fixture(scope="module")
def with_boxes(rows) -> list[str]:
    return [a for a in (make_example(row).answer for row in rows) if "BBOX" in a]


def test_only_the_boxes_move(with_boxes):
    changed = 0
    for k, answer in enumerate(with_boxes):
        before = parse_turn(answer, turn=2, num_frames=200)
        moved = drift_boxes(answer, np.random.default_rng(k))
        after = parse_turn(moved, turn=2, num_frames=200)
        (old,), (new,) = before.anomalies, after.anomalies
        assert (before.cot, before.status, old.frames, old.reason) == (after.cot, after.status, new.frames, new.reason)
        assert {f: len(b) for f, b in old.boxes.items()} == {f: len(b) for f, b in new.boxes.items()}
        changed += moved != answer
    assert changed > 15


def test_moved_boxes_are_boxes_the_tokenizer_knows(with_boxes):
    known = set(coordinate_values())
    for k, answer in enumerate(with_boxes):
        report = parse_turn(drift_boxes(answer, np.random.default_rng(k)), turn=2, num_frames=200)
        for boxes in report.anomalies[0].boxes.values():
            for box in boxes:
                assert set(box.as_list()) <= known
                assert box.xmin < box.xmax <= BOX_SCALE and box.ymin < box.ymax <= BOX_SCALE


def test_some_tracks_stand_still_about_a_wrong_place():
    # One box that moves 10 pixels over ten frames: read standing still, its spread is that of the noise alone.
    boxes = ", ".join(f'"Frame {k}": {[208 + 21 * k, 208, 417 + 21 * k, 417]}' for k in range(10))
    answer = f'{{"COT": "", "status": "abnormal", "anomalies": [{{"BBOX": {{{boxes}}}}}]}}'
    travelled = []
    for k in range(200):
        text = drift_boxes(answer, np.random.default_rng(k))
        lefts = [int(part.split(",")[0]) * 48 / BOX_SCALE for part in text.split(": [")[2:]]
        travelled.append(np.mean(lefts[5:]) - np.mean(lefts[:5]))
    still = np.mean(np.abs(travelled) < 2.5)
    assert 0.35 < still < 0.6  # 0.8 * 0.6 of the answers; the others travel five pixels between the halves


def test_a_normal_answer_is_left_alone():
    answer = '{"COT": "Frame 0: normal. No anomaly.", "status": "normal", "anomalies": []}'
    assert drift_boxes(answer, np.random.default_rng(0)) == answer


def test_the_model_reads_moved_boxes_and_writes_true_ones(processor, rows):
    row = next(r for r in rows if (e := make_example(r)).read not in (None, e.answer))
    example = make_example(row)
    batch = MiniCollator(processor, make_example)([row])
    answer = batch["labels"][0] != IGNORE
    encode = lambda text: processor.tokenizer.encode(text + processor.tokenizer.eos_token, add_special_tokens=False)  # noqa: E731
    assert batch["labels"][0][answer].tolist() == encode(example.answer)
    assert batch["input_ids"][0][answer].tolist() == encode(example.read)


def test_both_collators_read_the_same(processor, rows):
    row = next(r for r in rows if (e := make_example(r)).read not in (None, e.answer))
    mini, stock = (c(processor, make_example)([row]) for c in (MiniCollator, AnswerCollator))
    torch.testing.assert_close(mini["input_ids"], stock["input_ids"])
    torch.testing.assert_close(mini["labels"], stock["labels"])


def test_a_text_of_another_length_is_refused(processor, rows):
    example = make_example(rows[0])
    longer = Example(example.conversation, example.answer, example.answer + " and more")
    for collator in (MiniCollator, AnswerCollator):
        with pytest.raises(ValueError, match="tokens"):
            collator(processor, lambda _: longer)([rows[0]])
