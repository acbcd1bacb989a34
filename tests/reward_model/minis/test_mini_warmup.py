"""The warm-up of the mini's vision tower: what it is shown, how it starts, and that it learns."""

import numpy as np
import pytest
import torch

from reward_model.minis.collator import MiniCollator, use_equal_images
from reward_model.minis.frames import HEADS, STAGES, draw_frames, outline_of
from reward_model.minis.model import build_judge
from reward_model.minis.rows import make_example
from reward_model.minis.warm_up_vision import OFFSETS, WarmupHeads, init_vision, np_rng, warm_up_vision
from reward_model.world.canvas import Canvas
from reward_model.world.scene import make_scene


@pytest.fixture(scope="module")
def frames():
    return draw_frames(64, np_rng(4))


@pytest.fixture
def judge():
    model, processor = build_judge("tiny", seed=0)
    return model, MiniCollator(processor, make_example)


def test_frames_come_with_labels_of_every_head_and_both_outlines(frames):
    assert frames.pictures.shape == (64, 48, 48, 3) and frames.pictures.dtype == np.uint8
    assert set(frames.labels) == {*HEADS, "shown", "boxes"}
    assert frames.actual.shape == frames.normal.shape == (64, 48, 48)
    for outline in (frames.actual, frames.normal):
        assert outline.min() >= 0 and outline.max() <= 1
    states = frames.labels["state"]
    assert len(states.unique()) >= 6, "most single-frame kinds are there"
    assert 0.3 < (states != 0).float().mean() < 0.7, "right and wrong frames are about equally frequent"
    again = draw_frames(64, np_rng(4))
    assert (again.pictures == frames.pictures).all() and torch.equal(again.normal, frames.normal)


def test_the_two_outlines_differ_where_and_only_where_a_frame_is_wrong(frames):
    states, known = frames.labels["state"], frames.has_normal == 1
    apart = (frames.actual - frames.normal).abs().mean(dim=(1, 2))
    # After a collision that did not happen, things are elsewhere than in the twin.
    collided = frames.labels["stage"] == STAGES.index("physics")
    assert (apart[known & (states == 0) & ~collided] == 0).all()
    assert (apart[known & (states != 0)] > 0.003).all()
    assert known[states != 0].all()


def test_the_normal_outline_is_that_of_the_twin_and_a_sign_shows_its_letters():
    fault = make_scene(5, "missing_limb")
    index = [fault.fault.frames.start]
    whole, broken = outline_of(make_scene(5, setting="person"), index), outline_of(fault, index)
    assert (whole - broken).max() > 0.8 and (whole - broken).min() > -0.05, "the twin has the limb that is missing"
    sign = make_scene(5, "scramble")
    canvas = Canvas.open(np.array([0]), 48, sign.camera, sign.weather.softness)
    board = sign.focus.layers(canvas)[0].cover
    assert 0 < outline_of(sign, [0]).mean() < 0.7 * board.mean(), "of a sign the letters, not the board"


def test_attention_starts_on_the_neighbours_it_is_told(judge):
    """With nothing but the biases, each head of the first blocks looks mostly at the patch it is pointed to."""
    model, collator = judge
    tower = model.model.visual
    init_vision(model, collator, draw_frames(64, np_rng(2)).pictures)
    side = collator.num_grid_per_side
    attention = tower.blocks[0].attn
    dim = attention.qkv.weight.shape[1] // 4
    with torch.no_grad():
        attention.qkv.weight.zero_()
    seen = {}

    def keep(module, query, key, value, attention_mask=None, scaling=1.0, **_):
        heads = query.shape[1]
        q, k = (t.view(heads, -1, side * side, dim).transpose(0, 1) for t in (query, key))
        seen["weights"] = (q @ k.transpose(-1, -2) * scaling).softmax(-1)[0]
        return value.transpose(1, 2), None

    from transformers import AttentionInterface

    AttentionInterface.register("keep_weights", keep)
    inputs = collator.vision_inputs(np.zeros((1, 48, 48, 3), np.uint8))
    tower.config._attn_implementation = "keep_weights"
    hidden = torch.zeros(side * side, tower.config.hidden_size)
    angles = tower.rotary_pos_emb(hidden, inputs["image_position_ids"])
    attention(hidden, cu_seqlens=inputs["image_cu_seqlens"], max_seqlen=side * side, position_embeddings=angles)
    places = inputs["image_position_ids"]
    middle = next(i for i, p in enumerate(places.tolist()) if p == [2, 2])
    for head, (down, right) in enumerate(OFFSETS[0]):
        best = seen["weights"][head, middle].argmax()
        assert places[best].tolist() == [2 + down, 2 + right]


@pytest.mark.slow
def test_it_learns(judge):
    model, collator = judge
    tower = model.model.visual
    held = draw_frames(48, np_rng(3))

    def loss():
        torch.manual_seed(0)
        heads = WarmupHeads(tower, model.config.text_config.hidden_size)
        with use_equal_images(model), torch.no_grad():
            out = model.model.get_image_features(**collator.vision_inputs(held.pictures), return_dict=True)
        for _ in range(30):  # only the heads: what the tower knows is what they can read off
            total, _ = heads.loss(out, held)
            total.backward()
            with torch.no_grad():
                for p in heads.parameters():
                    p.sub_(0.05 * p.grad)
                    p.grad = None
        heads.remove()
        return total.item()

    init_vision(model, collator, held.pictures)
    untrained = loss()
    warm_up_vision(model, collator, steps=8, batch=16, seed=0, sample=64)
    assert loss() < untrained - 0.3


def test_every_part_moves_and_the_same_seed_gives_the_same_tower_whoever_draws_the_frames():
    towers = []
    for num_workers in (0, 1):
        model, processor = build_judge("tiny", seed=0)
        collator = MiniCollator(processor, make_example)
        before = {n: p.detach().clone() for n, p in model.model.visual.named_parameters()}
        warm_up_vision(model, collator, steps=2, batch=6, seed=4, sample=32, num_workers=num_workers)
        assert not model.model.visual.merger._forward_pre_hooks, "no hook is left behind"
        towers.append({n: p.detach().clone() for n, p in model.model.visual.named_parameters()})
    assert all(torch.equal(towers[0][n], towers[1][n]) for n in towers[0])
    assert all(not torch.equal(towers[0][n], before[n]) for n in before)
