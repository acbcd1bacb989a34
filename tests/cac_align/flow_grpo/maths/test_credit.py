"""Verdicts as weights of latent cells: where they lie, that they have mean 1, and that all alike is exactly 1."""

import numpy as np
import pytest
import torch

from cac_align.flow_grpo.maths.credit import (
    LatentGrid,
    anomaly_weights,
    normalised,
    verdict_weights,
    without_first_frame,
)
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, Verdict
from reward_model.world import make_video

GRID = LatentGrid(num_frames=17, height=32, width=64)


def anomaly(start, end, boxes=None):
    return Anomaly(AnomalyType.OBJECT, FrameRange(start, end), boxes or {})


def verdict(status, anomalies=(), window=None, num_frames=17):
    score = None if status is None else 0.5
    return Verdict(status=status, score=score, anomalies=tuple(anomalies), window=window, num_frames=num_frames, fps=16)


def test_frames_fold_as_the_causal_vae_folds_them():
    """Wan: frame 0 alone, then four at a time; the tiny real VAE agrees on the count."""
    assert GRID.shape == (5, 4, 8)
    assert [GRID.latent_frame(k) for k in (0, 1, 4, 5, 8, 9, 16)] == [0, 1, 1, 2, 2, 3, 4]
    even = LatentGrid(16, 32, 32, first_frame_alone=False)
    assert even.shape == (4, 4, 4) and [even.latent_frame(k) for k in (0, 3, 4, 15)] == [0, 0, 1, 3]
    assert LatentGrid(81, 480, 832).shape == (21, 60, 104)


def test_the_grid_is_that_of_a_real_pipeline(wan_pipe):
    latents = wan_pipe(
        "a red ball", height=16, width=32, num_frames=9, num_inference_steps=1, guidance_scale=1.0, output_type="latent"
    ).frames
    weights = verdict_weights([verdict("normal", num_frames=9)], LatentGrid(9, 16, 32))
    assert (latents * weights).shape == latents.shape and weights.shape == (1, 1, 3, 2, 4)


def test_a_window_weighs_its_latent_frames():
    found = anomaly_weights([anomaly(4, 5)], GRID, floor=0.25)
    assert found.shape == (5, 4, 8) and found.dtype == torch.float32
    mean = (2 * 1 + 3 * 0.25) / 5
    assert found[:, 0, 0].tolist() == pytest.approx([0.25 / mean, 1 / mean, 1 / mean, 0.25 / mean, 0.25 / mean])
    assert found.mean().item() == pytest.approx(1, abs=1e-6)


def test_a_box_weighs_the_cells_it_covers_in_part_by_area():
    # x from 125 to 312.5 of 1000: cell 1 whole, half of cell 2; y from 0 to 375: row 0 whole, half of row 1.
    found = anomaly_weights([anomaly(1, 4, {1: (Box(125, 0, 312, 375),)})], GRID, floor=0.0)
    part = (312 - 250) / 125
    expected = np.zeros((5, 4, 8))
    expected[1, 0, 1:3], expected[1, 1, 1:3] = (1, part), (0.5, 0.5 * part)
    assert found.numpy() == pytest.approx(expected / expected.mean(), abs=1e-5)


def test_frames_without_boxes_take_those_of_the_nearest_one():
    left, right = Box(0, 0, 125, 1000), Box(875, 0, 1000, 1000)
    found = anomaly_weights([anomaly(1, 16, {2: (left,), 14: (right,), 9: ()})], GRID, floor=0.0)
    assert found[1, :, 0].min() > 0 and found[1, :, 1:].max() == 0
    assert found[4, :, 7].min() > 0 and found[4, :, :7].max() == 0
    assert found[2, :, 0].min() > 0 and found[3, :, 7].min() > 0 and found[0].max() == 0


def test_several_anomalies_do_not_add_up():
    one = anomaly_weights([anomaly(1, 4)], GRID)
    assert torch.equal(anomaly_weights([anomaly(1, 4), anomaly(2, 3)], GRID), one)


def test_all_alike_is_exactly_one():
    ones = torch.ones(5, 4, 8)
    assert torch.equal(anomaly_weights([], GRID), ones)
    assert torch.equal(anomaly_weights([anomaly(0, 16)], GRID, floor=0.3), ones)
    assert torch.equal(anomaly_weights([anomaly(3, 4)], GRID, floor=1.0), ones)
    for value in (1 / 3, 0.1, 1e-9, 7.7):
        assert torch.equal(normalised(torch.full((21, 60, 104), value)), torch.ones(21, 60, 104))


def test_verdicts_of_a_batch():
    found = verdict_weights(
        [
            verdict("normal", window=FrameRange(2, 3)),
            verdict("abnormal", [anomaly(1, 4)], FrameRange(0, 16)),
            verdict("abnormal", window=FrameRange(1, 4)),
            verdict("abnormal"),
            verdict(None),
            None,
        ],
        GRID,
    )
    assert found.shape == (6, 1, 5, 4, 8)
    expected = anomaly_weights([anomaly(1, 4)], GRID)
    for row, wanted in enumerate((None, expected, expected, None, None, None)):
        assert torch.equal(found[row, 0], torch.ones(5, 4, 8) if wanted is None else wanted)


def test_the_truth_of_a_made_video_is_where_the_weight_lies():
    _, truth = make_video(3, anomaly=AnomalyType.OBJECT, num_frames=33, size=32)
    found = anomaly_weights(truth.anomalies, LatentGrid(33, 32, 32), floor=0.1)
    first = truth.anomalies[0]
    frame, boxes = next(iter(first.boxes.items()))
    x, y = ((boxes[0].xmin + boxes[0].xmax) / 2 / 1000, (boxes[0].ymin + boxes[0].ymax) / 2 / 1000)
    cell = found[LatentGrid(33, 32, 32).latent_frame(frame), int(y * 4), int(x * 4)]
    assert cell > 1 and cell > 3 * found.min() and found.mean().item() == pytest.approx(1, abs=1e-6)


def test_a_given_first_frame_weighs_nothing():
    grid = LatentGrid(num_frames=9, height=16, width=16)
    plain = without_first_frame(None, grid, 2)
    assert plain.shape == (2, 1, 3, 2, 2) and plain.mean() == 1
    assert not plain[:, :, 0].any() and (plain[:, :, 1:] == 1.5).all()
    early = Anomaly(AnomalyType.OBJECT, FrameRange(0, 0))
    late = Anomaly(AnomalyType.OBJECT, FrameRange(5, 8))
    cells = torch.stack([anomaly_weights([a], grid, floor=0.0) for a in (early, late)])[:, None]
    found = without_first_frame(cells, grid, 2)
    assert found[0].tolist() == plain[0].tolist(), "what lies in the first frame alone is nowhere to be trained"
    assert found[1, 0, :, 0, 0].tolist() == [0, 0, 3]
    with pytest.raises(ValueError, match="num_frames=1 leaves nothing behind the first frame"):
        without_first_frame(None, LatentGrid(1, 16, 16), 1)


def test_bad_input():
    with pytest.raises(ValueError, match=r"num_frames=16 must be 1 \+ a multiple of 4"):
        LatentGrid(16, 32, 32)
    with pytest.raises(ValueError, match="width=30 must be a multiple of 8"):
        LatentGrid(17, 32, 30)
    with pytest.raises(ValueError, match=r"floor=1.5 must lie in \[0, 1\]"):
        anomaly_weights([], GRID, floor=1.5)
    with pytest.raises(ValueError, match="frame 17 lies outside a video of 17 frames"):
        anomaly_weights([anomaly(12, 17)], GRID)
    with pytest.raises(ValueError, match="verdict 0 is about 81 frames, the latents stand for 17"):
        verdict_weights([verdict("normal", num_frames=81)], GRID)
    with pytest.raises(ValueError, match="must not be negative"):
        normalised(torch.tensor([1.0, -1.0]))
