"""Videos that nobody had in mind: each gets a verdict, or an error that names the limit it breaks."""

import av
import numpy as np
import pytest

from reward_model.backends.local import LocalBackend
from reward_model.conversation import Completion
from reward_model.judge import TwoTurnJudge
from reward_model.minis.model import build_judge
from reward_model.parsing import format_report
from reward_model.schema import TurnReport, VerdictScore
from reward_model.video.clip import LazyFrames, Video

THREE_HOURS = 3 * 3600
SETTINGS = {"prompts": "compact", "reasoning": False, "readout": "direct"}


@pytest.fixture(scope="module")
def backend():
    return LocalBackend.of(*build_judge("tiny"))


def noise(num_frames, height, width):
    return np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("size", [48, None], ids=["in a square of 48", "left to the processor"])
@pytest.mark.parametrize(
    ("shape", "fps", "shown", "rate"),
    [
        ((8, 48, 48), 16, [2], 4),  # half a second
        ((2, 48, 48), 16, [1], 4),
        ((5, 48, 48), 1, [5], 1),  # a frame a second: all there are
        ((81, 96, 54), 16, [21], 4),  # 9:16
        ((81, 54, 96), 16, [21], 4),
        ((17, 1, 1), 16, [5], 4),
        ((17, 4, 400), 16, [5], 4),
    ],
    ids=["half a second", "two frames", "1 fps", "9 to 16", "16 to 9", "one pixel", "1 to 100"],
)
def test_what_is_odd_is_judged(backend, shape, fps, shown, rate, size):
    judge = TwoTurnJudge(backend, **SETTINGS, frame_size=size)
    (verdict,) = judge.judge([noise(*shape)], fps=fps)
    assert verdict.status in ("normal", "abnormal") and 0 <= verdict.score <= 1, verdict.error
    assert [len(t.frame_indices) for t in verdict.turns] == shown
    assert verdict.turns[0].fps == rate and "thinned_to_fps" not in verdict.provenance


def test_a_shape_that_the_processor_refuses_is_an_error_that_names_it(backend):
    good, bad = TwoTurnJudge(backend, **SETTINGS).judge([noise(9, 48, 48), noise(9, 1, 300)], fps=16)
    assert good.status is not None and good.error is None
    assert bad.status is None and bad.score is None
    assert "300" in bad.error and "must be smaller than 200" in bad.error


def test_one_frame_is_an_error_that_says_how_many_it_takes(backend, tmp_path):
    judge = TwoTurnJudge(backend, **SETTINGS)
    path = write(tmp_path / "still.mp4", 1, rate=16)
    for still in (noise(1, 8, 8), path):
        (verdict,) = judge.judge([still], fps=16)
        assert verdict.status is None and verdict.score is None and "at least 2" in verdict.error


def write(path, num_frames, rate):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast"})
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        for k in range(num_frames):
            frame.pts = k
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_three_hours_in_a_file_are_judged_in_chunks(backend, tmp_path):
    """One frame every minute and a half: 120 frames, in four chunks of at most 34."""
    from fractions import Fraction

    path = write(tmp_path / "long.mp4", THREE_HOURS // 90, rate=Fraction(1, 90))
    judge = TwoTurnJudge(backend, **SETTINGS, max_scan_frames=34, frame_size=16)
    (verdict,) = judge.judge([path])
    assert verdict.num_frames / verdict.fps == THREE_HOURS and verdict.status is not None, verdict.error
    assert len(verdict.turns) == 4 and max(len(t.frame_indices) for t in verdict.turns) <= 34
    assert {n for t in verdict.turns for n in t.frame_indices} == set(range(120))


class Endless(LazyFrames):
    """Twenty minutes at 16 frames a second, made when they are looked at; remembers the most that were asked for."""

    shape = (16 * 20 * 60, 8, 8, 3)
    most = 0

    def __len__(self):
        return self.shape[0]

    def take(self, indices, size=None):
        self.most = max(self.most, len(indices))
        return np.zeros((len(indices), *(size or self.shape[1:3]), 3), np.uint8)


class AlwaysNormal:
    """Answers "normal" and remembers the most pictures that one call held."""

    name, most, calls = "always normal", 0, 0

    def generate(self, conversations, sampling):
        held = [sum(isinstance(p, np.ndarray) for m in c for p in m.content) for c in conversations]
        self.most, self.calls = max(self.most, sum(held)), self.calls + 1
        return [Completion(format_report(TurnReport("normal", "all well"))) for _ in conversations]

    def score(self, conversations, prefixes):
        return [VerdictScore(-0.1, -3) for _ in prefixes]

    def describe(self):
        return {"model": "always normal"}


def test_a_long_video_at_full_rate_is_never_held_at_once():
    """4,800 frames at 4 fps in 39 questions: what is held is one batch of them, however long the video is."""
    frames, backend = Endless(), AlwaysNormal()
    (verdict,) = TwoTurnJudge(backend, prompts="compact", batch_size=4).judge([Video(frames, 16)])
    assert (verdict.status, len(verdict.turns)) == ("normal", 39)
    assert (frames.most, backend.most, backend.calls) == (127, 4 * 127, 10)
