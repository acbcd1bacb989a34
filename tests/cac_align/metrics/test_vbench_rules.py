"""The arithmetic of VBench, against numbers worked out by hand or by torchvision's own transforms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cac_align.metrics import flow, pixels
from cac_align.metrics.dimensions import DIMENSIONS, check_dimension, total
from cac_align.metrics.musiq import cut, pyramid, same
from cac_align.metrics.native import consistency, flicker_share


def test_consistency_averages_both_neighbours_and_ignores_opposites():
    # cos with the frame before: 0.6, 0.8; with the first: 0.6, 0. The last pair of a reversed feature counts 0.
    features = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 2.0]])
    assert consistency(features) == pytest.approx(((0.6 + 0.6) / 2 + (0.8 + 0.0) / 2) / 2)
    assert consistency(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == 0.0


def test_flicker_is_the_mean_absolute_step():
    frames = np.zeros((3, 4, 4, 3), np.uint8)
    frames[1] = 51
    frames[2] = 255
    assert flicker_share(frames) == pytest.approx((255 - (51 + 204) / 2) / 255)


@pytest.mark.parametrize(("fps", "step"), [(8, 1), (11.9, 1), (12.1, 2), (16, 2), (20, 2), (24, 3), (30, 4), (60, 8)])
def test_frames_are_sampled_an_eighth_of_a_second_apart(fps, step):
    assert list(flow.sampled(9, fps)) == list(range(0, 9, step))


@pytest.mark.parametrize(("num", "need"), [(1, 0), (2, 0), (3, 1), (6, 2), (10, 2), (14, 4), (16, 4)])
def test_a_quarter_of_the_frames_must_move_rounded_to_even(num, need):
    assert flow.needed(num) == need


def test_threshold_grows_with_the_shorter_side():
    assert flow.threshold(256, 455) == 6.0
    assert flow.threshold(480, 832) == pytest.approx(11.25)


def test_totals_weigh_frames_for_consistencies_and_videos_elsewhere():
    assert total(DIMENSIONS["subject_consistency"], [1.0, 0.4], [3, 5]) == pytest.approx((2 * 1.0 + 4 * 0.4) / 6)
    assert total(DIMENSIONS["imaging_quality"], [1.0, 0.4], [3, 5]) == pytest.approx(0.7)
    with pytest.raises(ValueError, match="at least one score"):
        total(DIMENSIONS["imaging_quality"], [], [])


def test_unknown_and_package_only_dimensions_are_named():
    with pytest.raises(ValueError, match=r"'colour' must be one of subject_consistency"):
        check_dimension("colour")
    with pytest.raises(ValueError, match="cac-align vbench install"):
        check_dimension("motion_smoothness")


@pytest.mark.parametrize("size", [(131, 199), (240, 100), (300, 601), (224, 224)])
def test_pixels_are_those_of_torchvision(size):
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Lambda, Normalize, Resize

    frames = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (2, 3, *size)).astype(np.float32))
    shrink = Lambda(lambda x: x / 255)
    bicubic = InterpolationMode.BICUBIC
    dino = Compose([Resize(224, antialias=False), shrink, Normalize(*pixels.IMAGENET)])
    clip = Compose([Resize(224, bicubic, antialias=False), CenterCrop(224), shrink, Normalize(*pixels.CLIP)])
    torch.testing.assert_close(pixels.dino_pixels(frames), dino(frames))
    torch.testing.assert_close(pixels.clip_pixels(frames), clip(frames))
    scale = min(1.0, 512 / max(size))
    wanted = Resize((int(scale * size[0]), int(scale * size[1])), antialias=False)(frames) / 255
    torch.testing.assert_close(pixels.imaging_pixels(frames), wanted)


def test_musiq_pyramid_and_grid():
    images = torch.zeros(1, 3, 100, 333)
    assert [tuple(p.shape[-2:]) for p in pyramid(images)] == [(67, 224), (115, 384), (100, 333)]
    patches, cells = cut(images)
    assert patches.shape == (1, 4 * 11, 3, 32, 32)
    # Four rows fall into rows 0, 2, 5, 7 of ten; eleven columns share ten.
    assert cells[::11].tolist() == [0, 20, 50, 70]
    assert cells[:11].tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_same_padding_puts_the_odd_pixel_right_and_below():
    padded = same(torch.ones(1, 1, 32, 32), 7, 2)
    assert padded.shape[-2:] == (37, 37)
    assert padded[0, 0, :2].sum() == 0
    assert padded[0, 0, 2:34, 2:34].min() == 1
    assert same(torch.ones(1, 1, 16, 16), 3, 2).shape[-1] == 17


def test_every_raft_parameter_has_its_torchvision_name():
    from torchvision.models.optical_flow import raft_large
    from vbench_standins import raft

    named = {flow.torchvision_name(k): tuple(v.shape) for k, v in raft().items() if ".norm3." not in k}
    with torch.device("meta"):
        wanted = raft_large(weights=None).state_dict()
    assert named == {k: tuple(v.shape) for k, v in wanted.items()}


def test_flow_stops_as_soon_as_the_verdict_is_certain(monkeypatch):
    frames, asked = np.zeros((9, 128, 128, 3), np.uint8), []

    def strengths(_raft, _frames, _batch_size):
        for value in (9.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0):
            asked.append(value)
            yield value

    monkeypatch.setattr(flow, "strengths", strengths)
    assert flow.moves(None, frames, 8.0) is True  # needs 2 of 8
    assert len(asked) == 2
    monkeypatch.setattr(flow, "threshold", lambda height, width: 10.0)
    asked.clear()
    assert flow.moves(None, frames, 8.0) is False
    assert len(asked) == 7  # one pair left cannot make two
