"""The warm-up of the mini's reading: what a mark is asked for, and that it learns to tell."""

import logging
import re

import pytest
import torch

from reward_model.minis.collator import MiniCollator
from reward_model.minis.model import build_judge
from reward_model.minis.rows import make_example
from reward_model.minis.warm_up_reading import NAMES, MarkedPrompts, mark_labels, warm_up_reading
from reward_model.schema import Anomaly, FrameRange
from reward_model.world.kinds import KINDS, REASONS
from reward_model.world.narration import STATES, narrate_frames, read_states


def told(kind, *windows, frames=9):
    reason = f"the red ball {REASONS[kind]}"
    return narrate_frames([Anomaly(KINDS[kind], FrameRange(*w), reason=reason) for w in windows], frames)


@pytest.fixture
def judge():
    model, processor = build_judge("tiny", seed=0)
    return model, MiniCollator(processor, make_example)


@pytest.mark.parametrize("kind", KINDS)
def test_the_states_of_a_narration_can_be_read_back(kind):
    assert read_states(told(kind, (2, 3), (6, 6))) == ["", "", kind, kind, "", "", kind, "", ""]


def test_sentences_of_somebody_else_are_refused():
    with pytest.raises(ValueError, match="narrator"):
        read_states("Frame 0: normal. Frame 1: something odd.")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("squash", [0, 0, 1, 1, 1, 0, 0, 1, 0]),  # every frame that shows it
        ("rebound", [0, 0, 1, 1, 1, 0, 0, 1, 0]),
        ("teleport", [0, 0, 1, 0, 0, 1, 0, 1, 1]),  # there and back
        ("vanish", [0, 0, 1, 0, 0, 1, 0, 1, 1]),
        ("float", [0, 0, 0, 1, 1, 0, 0, 0, 0]),  # has not moved since the frame before
    ],
)
def test_what_a_mark_has_to_name(kind, expected):
    assert mark_labels(told(kind, (2, 4), (7, 7))) == [NAMES.index(kind) * k for k in expected]


def test_every_frame_is_asked_for_behind_its_picture_and_again_in_another_order(judge):
    _, collator = judge
    inputs, shown, asked, said = MarkedPrompts(collator, steps=3, batch=6, seed=1, rank=0)[2]
    assert said is None, "the warm-up from scratch comes before any verdict"
    tokenizer = collator.processor.tokenizer
    assert shown.places.sum() == asked.places.sum() == len(inputs["image_grid_thw"])
    assert not (shown.places & asked.places).any()
    first = told_numbers(tokenizer, inputs["input_ids"][shown.places])
    again = told_numbers(tokenizer, inputs["input_ids"][asked.places])
    assert first != again
    # Within each video the same frame has the same label both times.
    counts = shown.places.sum(dim=1).tolist()
    for a, b, c, d in zip(*(split(x, counts) for x in (first, shown.labels, again, asked.labels)), strict=True):
        assert a == list(range(len(a))) and dict(zip(a, b, strict=True)) == dict(zip(c, d, strict=True))
    assert not any(words in tokenizer.decode(ids) for ids in inputs["input_ids"] for words in STATES.values())
    assert (shown.labels > 0).any() and (shown.labels == 0).any()


def told_numbers(tokenizer, ids):
    return [int(re.fullmatch(r" ?Frame (\d+):", tokenizer.decode([t]))[1]) for t in ids]


def split(values, counts):
    values, parts = [int(v) for v in values], []
    for count in counts:
        parts.append(values[:count])
        values = values[count:]
    return parts


def test_batches_are_a_function_of_seed_step_and_process(judge):
    _, collator = judge
    batches = [MarkedPrompts(collator, steps=3, batch=4, seed=1, rank=rank)[2] for rank in (0, 0, 1)]
    pixels = [batch.inputs["pixel_values"] for batch in batches]
    assert torch.equal(pixels[0], pixels[1]) and torch.equal(batches[0].asked.labels, batches[1].asked.labels)
    assert pixels[0].shape != pixels[2].shape or not torch.equal(pixels[0], pixels[2])


@pytest.mark.slow
def test_reading_improves_with_steps_and_moves_the_tower_least(judge, caplog):
    model, collator = judge
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with caplog.at_level(logging.INFO):
        warm_up_reading(model, collator, steps=8, batch=2, seed=0)
    losses = [float(m) for m in re.findall(r"loss ([\d.]+)", caplog.text)]
    assert losses[-1] < 0.6 * losses[0]
    moved = {
        name: float((p.detach() - before[name]).norm() / before[name].norm().clamp(min=1e-3))
        for name, p in model.named_parameters()
    }
    tower = [v for n, v in moved.items() if "visual.blocks" in n and n.endswith("weight") and "norm" not in n]
    words = [v for n, v in moved.items() if "language_model.layers" in n and "proj.weight" in n]
    assert 0 < sum(tower) / len(tower) < 0.5 * sum(words) / len(words)
