"""Videos in TensorBoard: every frame is there, in order, at the right speed."""

import io

import numpy as np
import pytest
from PIL import Image, ImageSequence
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from reward_model.engine.video_summary import add_gif, encode_gif, gif_size

FRAMES = np.stack([np.full((48, 30, 3), 20 * k, np.uint8) for k in range(1, 8)])


def test_a_video_keeps_its_frames_order_and_speed():
    gif = encode_gif(FRAMES, fps=4)
    picture = Image.open(io.BytesIO(gif))
    shown = [np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(picture)]
    assert [int(f[0, 0, 0]) for f in shown] == [20 * k for k in range(1, 8)]
    assert picture.info["duration"] == 250 and picture.info["loop"] == 0
    assert gif_size(gif) == (144, 90) == shown[0].shape[:2], "small frames are enlarged by whole numbers"


@pytest.mark.parametrize(
    ("height", "width", "shown"), [(200, 320, (200, 320)), (480, 832, (185, 320)), (8, 4, (144, 72))]
)
def test_frames_are_shown_in_a_readable_size(height, width, shown):
    assert gif_size(encode_gif(np.zeros((2, height, width, 3), np.uint8), 8)) == shown


def test_long_videos_are_thinned_and_keep_their_time():
    frames = np.random.default_rng(0).integers(0, 255, (81, 16, 16, 3), dtype=np.uint8)
    picture = Image.open(io.BytesIO(encode_gif(frames, 16)))
    durations = [f.info["duration"] for f in ImageSequence.Iterator(picture)]
    assert len(durations) == 32 and sum(durations) == pytest.approx(1000 * 81 / 16, rel=0.05)


def test_tensorboard_reads_what_was_written(tmp_path):
    with SummaryWriter(str(tmp_path)) as board:
        add_gif(board, "clip", encode_gif(list(FRAMES), 4), 3)
    events = EventAccumulator(str(tmp_path)).Reload()
    image = events.Images("clip")[0]
    assert (image.step, image.height, image.width) == (3, 144, 90)
    assert image.encoded_image_string == encode_gif(FRAMES, 4)


@pytest.mark.parametrize(("frames", "fps"), [(FRAMES[:0], 4), (FRAMES, 0)])
def test_no_frames_or_no_rate_is_refused(frames, fps):
    with pytest.raises(ValueError, match="at least one frame"):
        encode_gif(frames, fps)
