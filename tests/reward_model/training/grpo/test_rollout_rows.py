"""Rows of rollouts: positions, masks, shared frames, and log-probabilities that depend on the right context only."""

import copy

import numpy as np
import pytest
import torch

from reward_model.minis.collator import MiniCollator, use_equal_images
from reward_model.minis.model import build_judge
from reward_model.minis.tokenizer import FRAME_SIZE
from reward_model.prompts import load_prompts
from reward_model.training.grpo.rows import (
    Pictures,
    PromptBuilder,
    RowModel,
    SequenceRow,
    branch_mask,
    masked_log_probs,
    mrope_positions,
    pack_rows,
    stock_vision_inputs,
)

WORDING = load_prompts("compact")


@pytest.fixture(scope="module")
def judge():
    return build_judge("tiny")


@pytest.fixture(scope="module")
def builder(judge):
    return PromptBuilder(judge[1], stock_vision_inputs(judge[1]))


def frames(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, FRAME_SIZE, FRAME_SIZE, 3)).astype(np.uint8)


def prompt_of(builder, pictures, cot=""):
    return builder.prompt(WORDING.zoom(pictures.frames, cot=cot), [pictures])


@pytest.fixture(scope="module")
def rows(builder):
    """A scan with two answers, and two clips of different length with one answer each."""
    scan, short, long = (builder.pictures(frames(n, n)) for n in (3, 2, 5))
    first = prompt_of(builder, scan)
    return [
        SequenceRow.answer(first, [20, 21, 22], 0),
        SequenceRow.answer(first, [23, 24, 25, 26, 27], 1),
        SequenceRow.answer(prompt_of(builder, short, "It moves."), [28, 29], 0),
        SequenceRow.answer(prompt_of(builder, long, "It jumps."), [30, 31, 32, 33], 1),
    ]


def log_probs(judge, rows, **options):
    return masked_log_probs(judge[0], rows, stock_vision_inputs(judge[1]), **options)


def by_row(found):
    return [v.detach() for v in found.values.split(found.counts)]


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def gradient_of(judge, batches, weight=lambda k, n: 1.0):
    judge[0].zero_grad()
    for batch in batches:
        found = log_probs(judge, batch)
        parts = found.values.split(found.counts)
        sum(p.sum() * (1 + r.rollout) for p, r in zip(parts, batch, strict=True)).backward()
    return gradients(judge[0])


def assert_close(a, b, tolerance=1e-6):
    assert a.keys() == b.keys() and a
    scale = max(float(v.abs().max()) for v in b.values())
    assert max(float((a[k] - b[k]).abs().max()) for k in a) <= tolerance * scale


def test_positions_are_those_of_the_model(judge, builder):
    model, processor = judge
    pictures = builder.pictures(frames(3))
    ids = prompt_of(builder, pictures).ids
    text = torch.from_numpy(ids)[None]
    grid = stock_vision_inputs(processor)(pictures.frames)["image_grid_thw"]
    kinds = (text == processor.image_token_id).int()
    expected, _ = model.model.get_rope_index(text, mm_token_type_ids=kinds, image_grid_thw=grid)
    found = mrope_positions(ids, processor.image_token_id, [pictures.grid] * 3)
    assert np.array_equal(found, expected[:, 0].numpy())


def test_positions_of_oblong_images(judge):
    model, processor = judge
    image, merge = processor.image_token_id, model.config.vision_config.spatial_merge_size
    ids = np.array([5, *[image] * 6, 6, *[image] * 2, 7, 8])
    expected, _ = model.model.get_rope_index(
        torch.from_numpy(ids)[None],
        mm_token_type_ids=torch.from_numpy(ids == image).int()[None],
        image_grid_thw=torch.tensor([[1, 2 * merge, 3 * merge], [1, 2 * merge, merge]]),
    )
    assert np.array_equal(mrope_positions(ids, image, [(2, 3), (2, 1)]), expected[:, 0].numpy())
    for grids in ([(2, 3)], [(2, 4), (2, 1)], [(2, 3), (1, 1)]):
        with pytest.raises(ValueError, match="placeholder"):
            mrope_positions(ids, image, grids)


def test_log_probs_equal_a_stock_forward_pass(judge, builder, rows):
    model, processor = judge
    for row, found in zip(rows, by_row(log_probs(judge, rows)), strict=True):
        vision = stock_vision_inputs(processor)(row.pictures[0].frames)
        ids = torch.from_numpy(row.ids)[None]
        with torch.no_grad():
            logits = model(input_ids=ids, mm_token_type_ids=(ids == processor.image_token_id).int(), **vision).logits[0]
        places = np.flatnonzero(row.mask)
        expected = torch.log_softmax(logits[places - 1], -1)[torch.arange(len(places)), ids[0, places]]
        assert torch.allclose(found, expected, atol=1e-5)


def test_entropy_and_temperature(judge, rows):
    warm, cold = log_probs(judge, rows, temperature=1.0), log_probs(judge, rows, temperature=0.1)
    size = judge[0].config.text_config.vocab_size
    assert (warm.entropy > 0).all() and (warm.entropy <= np.log(size) + 1e-4).all()
    assert (cold.entropy < warm.entropy).all() and not warm.entropy.requires_grad


def test_padding_batching_and_order_do_not_matter(judge, rows):
    together = by_row(log_probs(judge, rows))
    alone = [by_row(log_probs(judge, [r]))[0] for r in rows]
    turned = by_row(log_probs(judge, rows[::-1]))[::-1]
    for a, b, c in zip(together, alone, turned, strict=True):
        assert torch.allclose(a, b, atol=1e-5) and torch.allclose(a, c, atol=1e-5)


def test_gradients_do_not_depend_on_the_partition(judge, rows):
    whole = gradient_of(judge, [rows])
    # Sums of four rows in another order: some ten roundings of float32 (1.2e-7), relative to the largest gradient.
    assert_close(gradient_of(judge, [[r] for r in rows]), whole, 1.5e-6)
    assert_close(gradient_of(judge, [rows[2:], rows[:2]]), whole, 1.5e-6)


def test_shared_frames_get_the_gradient_of_every_row(judge, rows):
    """Encoding the frames of a group once must not lose the gradient of the other rollouts."""
    copies = [
        SequenceRow(r.ids, r.mask, tuple(Pictures(p.frames.copy(), p.grid) for p in r.pictures), r.rollout)
        for r in rows
    ]
    assert rows[0].pictures[0] is rows[1].pictures[0] and copies[0].pictures[0] is not copies[1].pictures[0]
    shared = gradient_of(judge, [rows])
    assert any("visual" in n for n in shared)
    assert_close(shared, gradient_of(judge, [copies]))


def test_branches_of_a_shared_prompt_give_the_same(judge, builder, rows):
    """The prompt is read once for all answers; a chat that continues with frames of its own is a branch as well."""
    clip = builder.pictures(frames(2, 5))
    between = np.concatenate([[9], np.full(clip.num_tokens, judge[1].image_token_id), [9]])
    rows = [rows[0], rows[1], rows[1].then(between, clip, [40, 41, 42]), *rows[2:]]
    judge[0].zero_grad()
    alone = log_probs(judge, rows)
    (alone.values * torch.linspace(-1, 2, len(alone.values))).sum().backward()
    expected = gradients(judge[0])
    judge[0].zero_grad()
    shared = log_probs(judge, rows, share_prompts=True)
    (shared.values * torch.linspace(-1, 2, len(shared.values))).sum().backward()
    assert [len(p) for p in pack_rows(rows, True)] == [3, 1, 1] and shared.counts == alone.counts
    assert torch.allclose(shared.values, alone.values, atol=1e-5)
    assert_close(gradients(judge[0]), expected, 2e-6)


def test_branches_do_not_see_each_other(judge, rows):
    before = log_probs(judge, rows[:2], share_prompts=True)
    changed = SequenceRow.answer(rows[1].prompt, [50, 51, 52, 53, 54], 1)
    after = log_probs(judge, [rows[0], changed], share_prompts=True)
    assert torch.equal(before.values[:3], after.values[:3]) and not torch.equal(before.values[3:], after.values[3:])
    mask = branch_mask(torch.tensor([[0, 0, 1, 1, 2, -1]]))[0, 0].int().tolist()
    assert mask == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]


def test_chunked_head_gives_the_same(judge, rows):
    judge = copy.deepcopy(judge[0]).double(), judge[1]  # sums in another order must not be told from errors
    judge[0].zero_grad()
    plain = log_probs(judge, rows)
    plain.values.sum().backward()
    whole = gradients(judge[0])
    judge[0].zero_grad()
    chunked = log_probs(judge, rows, chunk=3)
    chunked.values.sum().backward()
    assert torch.allclose(plain.values, chunked.values, atol=1e-6)
    assert_close(gradients(judge[0]), whole)


def test_only_positions_that_predict_sampled_tokens_get_a_gradient(judge, builder, rows):
    """Catches off-by-one shifts: the last prompt position predicts the first sampled token."""
    model, row = judge[0], rows[1]
    kept = []

    def keep(module, args, output):
        output.retain_grad()
        kept.append(output)

    handle = model.model.language_model.norm.register_forward_hook(keep)
    try:
        log_probs(judge, [row]).values.sum().backward()
    finally:
        handle.remove()
    touched = kept[0].grad[0].abs().sum(-1) > 0
    assert touched.tolist() == [*row.mask[1:].tolist(), False]
    assert touched[len(row.ids) - 6] and not touched[len(row.ids) - 7]


def test_unsampled_tokens_are_no_targets(judge, builder, rows):
    """The text of turn one in turn two's prompt is context: masking a token leaves the others' values as they were."""
    row = rows[1]
    mask = row.mask.copy()
    mask[-2] = False
    everything, fewer = by_row(log_probs(judge, [row]))[0], log_probs(judge, [SequenceRow(row.ids, mask, row.pictures)])
    assert fewer.counts == [4]
    assert torch.equal(fewer.values.detach(), everything[[0, 1, 2, 4]])


def test_the_clip_matters_to_turn_two_alone(judge, builder, rows):
    other = builder.pictures(frames(2, 99))
    changed = [*rows[:2], SequenceRow(rows[2].ids, rows[2].mask, (other,), 0), rows[3]]
    before, after = by_row(log_probs(judge, rows)), by_row(log_probs(judge, changed))
    assert all(torch.equal(before[k], after[k]) for k in (0, 1, 3))
    assert (before[2] - after[2]).abs().max() > 1e-4


def test_swapping_the_clips_of_two_rollouts_changes_both(judge, builder):
    clips = [builder.pictures(frames(2, k)) for k in (1, 2)]
    prompts = [prompt_of(builder, c) for c in clips]
    right = [SequenceRow.answer(p, [20, 21]) for p in prompts]
    swapped = [SequenceRow(r.ids, r.mask, (c,)) for r, c in zip(right, clips[::-1], strict=True)]
    for a, b in zip(by_row(log_probs(judge, right)), by_row(log_probs(judge, swapped)), strict=True):
        assert (a - b).abs().max() > 1e-4


def test_fast_vision_path_gives_the_same(judge, rows):
    model, processor = judge
    collator = MiniCollator(processor, lambda row: row)
    stock = log_probs(judge, rows).values
    with use_equal_images(model):
        fast = masked_log_probs(model, rows, lambda shown: collator.vision_inputs(np.stack(shown)))
    assert torch.allclose(stock, fast.values, atol=1e-5)


def test_gradient_checkpointing_gives_the_same(rows):
    plain, kept = build_judge("tiny"), build_judge("tiny")
    kept[0].gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    kept[0].train()
    assert_close(gradient_of(kept, [rows]), gradient_of(plain, [rows]))


def test_row_model_is_the_same_function(judge, rows):
    values, entropy = RowModel(judge[0], stock_vision_inputs(judge[1]))(rows)
    expected = log_probs(judge, rows)
    assert torch.equal(values, expected.values) and torch.equal(entropy, expected.entropy)


def test_a_continued_chat_trains_both_answers_once(builder, rows):
    clip = builder.pictures(frames(2, 5))
    between = np.concatenate([[9, 9], np.full(clip.num_tokens, 7), [9]])
    row = rows[1].then(between, clip, [40, 41, 42])
    assert row.num_tokens == 5 + 3
    assert row.ids[row.mask].tolist() == [23, 24, 25, 26, 27, 40, 41, 42]
    assert row.pictures == (*rows[1].pictures, clip)


def test_bad_rows_are_refused(builder):
    with pytest.raises(ValueError, match="first token"):
        SequenceRow(np.array([1, 2]), np.array([True, True]), ())
    with pytest.raises(ValueError, match="one shape"):
        SequenceRow(np.array([1, 2]), np.array([True]), ())
    pictures = builder.pictures(frames(2))
    with pytest.raises(ValueError, match="2 image"):
        builder.prompt(WORDING.zoom(pictures.frames), [pictures, pictures])


def test_a_sampled_placeholder_is_read_as_text_and_scored_as_drawn(judge, builder):
    """A policy at temperature 1 draws one sooner or later; it must neither stop the run nor count as a picture."""
    model, processor = judge
    prompt = prompt_of(builder, builder.pictures(frames(2)))
    image, end = processor.image_token_id, model.config.vision_end_token_id
    drawn = log_probs(judge, [SequenceRow.answer(prompt, [20, image, 22])])
    read = log_probs(judge, [SequenceRow.answer(prompt, [20, end, 22])])
    assert torch.equal(drawn.values[[0, 2]], read.values[[0, 2]]), "before and after it nothing changes"
    assert drawn.values[1] != read.values[1], "its own probability is that of the placeholder"
    assert torch.isfinite(drawn.values).all()
