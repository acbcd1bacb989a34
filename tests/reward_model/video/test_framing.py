"""Frames in the judge's square, and boxes on their way in and out of it."""

import numpy as np
import pytest

from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, TurnReport
from reward_model.video.clip import Video, resize_frames
from reward_model.video.framing import AS_IT_IS, PAD, Framing

SIDE = 48
RNG = np.random.default_rng(0)


def frames(height, width):
    return RNG.integers(0, 256, (3, height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("native", "inner", "native_box", "shown_box"),
    [
        ((90, 160), (27, 48), (0, 0, 1000, 1000), (0, 208, 1000, 771)),
        ((160, 90), (48, 27), (0, 0, 1000, 1000), (208, 0, 771, 1000)),
        ((480, 832), (28, 48), (250, 500, 750, 1000), (250, 500, 750, 792)),
        ((1, 1000), (1, 48), (500, 0, 1000, 1000), (500, 479, 1000, 500)),
    ],
)
def test_boxes_of_a_padded_frame(native, inner, native_box, shown_box):
    framing = Framing(native, SIDE, "pad")
    assert framing.inner == inner
    assert framing.to_shown(Box(*native_box)) == Box(*shown_box)
    assert framing.to_native(Box(*shown_box)) == Box(*native_box)


@pytest.mark.parametrize("native", [(90, 160), (160, 90), (480, 832), (100, 99), (3, 1000), (77, 31)])
def test_there_and_back_is_the_same_box(native):
    """Whatever a judge can draw inside the picture comes back as it drew it."""
    framing = Framing(native, SIDE, "pad")
    full = framing.to_shown(Box(0, 0, 1000, 1000))
    for _ in range(200):
        x = np.sort(RNG.choice(np.arange(full.xmin + 1, full.xmax), 2, replace=False))
        y = np.sort(RNG.choice(np.arange(full.ymin + 1, full.ymax), 2, replace=False))
        drawn = Box(int(x[0]), int(y[0]), int(x[1]), int(y[1]))
        back = framing.to_native(drawn)
        assert back is not None and framing.to_shown(back) == drawn


def test_what_reaches_into_the_padding_is_clipped_and_what_lies_in_it_is_nothing():
    framing = Framing((90, 160), SIDE, "pad")
    assert framing.to_native(Box(100, 0, 200, 1000)) == Box(100, 0, 200, 1000)
    assert framing.to_native(Box(100, 0, 200, 200)) is None and framing.to_native(Box(100, 780, 200, 1000)) is None
    drawn = Anomaly(AnomalyType.OBJECT, FrameRange(0, 1), {0: (Box(100, 0, 200, 200),), 1: (Box(100, 300, 200, 1000),)})
    (native,) = framing.native_report(TurnReport("abnormal", "x", (drawn,))).anomalies
    assert native.boxes == {1: (Box(100, 163, 200, 1000),)} and native.frames == drawn.frames


def test_a_frame_keeps_its_shape_between_even_grey():
    wide = frames(90, 160)
    shown = Framing((90, 160), SIDE, "pad").show(wide)
    assert shown.shape == (3, SIDE, SIDE, 3)
    assert np.array_equal(shown[:, 10:37], resize_frames(wide, (27, 48)))
    assert set(np.unique(shown[:, :10])) == set(np.unique(shown[:, 37:])) == {PAD}
    video, framing = Video(wide, 16), Framing((90, 160), SIDE, "pad")
    assert np.array_equal(framing.pad(video.take([0, 1, 2], framing.inner)), shown)


def test_square_frames_are_the_same_bytes_in_both_fits():
    for side in (32, SIDE, 96):
        square = frames(side, side)
        pad, squeeze = (Framing((side, side), SIDE, fit) for fit in ("pad", "squeeze"))
        assert pad.show(square).tobytes() == squeeze.show(square).tobytes()
        assert not pad.moves_boxes and pad.to_native(Box(0, 0, 9, 9)) == Box(0, 0, 9, 9)


def test_squeezed_and_unresized_frames_move_no_box():
    wide = frames(90, 160)
    squeeze = Framing((90, 160), SIDE, "squeeze")
    assert squeeze.show(wide).shape == (3, SIDE, SIDE, 3) and not squeeze.moves_boxes
    assert AS_IT_IS.show(wide) is wide and not Framing((90, 160), None, "pad").moves_boxes
