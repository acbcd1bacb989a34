"""Corruptions of what moves: it must move by itself, visibly, and not be what a moving camera passes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from reward_model.data.corruptions import CorruptionError, Footage, compose, corrupt
from reward_model.data.corruptions.durations import draw_both, draw_seconds
from reward_model.data.corruptions.own_motion import own_motion
from reward_model.data.corruptions.region import find_region
from reward_model.schema import Box, FrameRange
from tests.campaigns import draws

FPS = 16.0


def soft(shape: tuple[int, ...], seed: int, sigma: float, contrast: float) -> np.ndarray:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma, mode="wrap")
    return smooth / smooth.std() * contrast


def grain(frames: np.ndarray) -> np.ndarray:
    noisy = frames + np.random.default_rng(9).normal(0, 1, frames.shape)
    return np.repeat(np.clip(noisy + 0.5, 0, 255).astype(np.uint8)[..., None], 3, -1)


def corridor(num_frames: int = 20) -> np.ndarray:
    """A walk through a corridor with spotted walls and a dark end: all that moves is the camera."""
    spots = 110 + soft((512, 128), 1, 4.0, 50.0)
    y, x = np.mgrid[:64, :104]
    u, v = (x - 51.5) / 52, (y - 31.5) / 32
    near = np.maximum(np.abs(u), np.abs(v)) + 1e-3
    side = np.where(np.abs(u) > np.abs(v), v / near, u / near)
    frames = []
    for k in range(num_frames):
        places = np.stack([70 / near + 3.0 * k, 60 + 50 * side])
        wall = ndimage.map_coordinates(spots, places, order=1, mode="grid-wrap")
        frames.append(np.where(np.abs(u) > np.abs(v), wall, 20) * np.clip(2.2 * near - 0.2, 0.05, 1))
    return grain(np.stack(frames))


def shimmer(num_frames: int = 32) -> np.ndarray:
    """Fine, high-contrast strands that sway by half a pixel before a still, soft ground."""
    strands, ground = soft((96, 160), 2, 0.7, 60.0), 120 + soft((96, 160), 3, 8.0, 10.0)
    y, x = np.mgrid[:96, :160]
    cover = ((np.abs(x - 110) < 16) & (np.abs(y - 45) < 30)).astype(float)
    sway = 0.5 * np.sin(np.arange(num_frames) / 3)
    return grain(np.stack([ground + cover * ndimage.shift(strands, (0, s), order=1, mode="wrap") for s in sway]))


def faller(num_frames: int = 32) -> np.ndarray:
    """A spotted square that falls before a still ground."""
    square, ground = 120 + soft((28, 28), 4, 1.5, 50.0), 100 + soft((96, 160), 3, 6.0, 12.0)
    frames = np.repeat(ground[None], num_frames, 0)
    for k, frame in enumerate(frames):
        top = 4 + round(1.5 * k)
        frame[top : top + 28, 60:88] = square
    return grain(frames)


@pytest.fixture(scope="module")
def walls() -> Footage:
    return Footage(corridor(), FPS)


@pytest.fixture(scope="module")
def falling() -> Footage:
    return Footage(faller(), FPS)


@pytest.fixture(scope="module")
def strands() -> Footage:
    return Footage(shimmer(), FPS)


@pytest.mark.parametrize(
    "kind", ["hover", *(pytest.param(k, marks=pytest.mark.slow) for k in ("vanish", "duplicate", "freeze"))]
)
@pytest.mark.parametrize("seed", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_a_wall_that_the_camera_passes_is_no_moving_thing(kind, seed, walls):
    """Fails if whatever one affine motion of the camera leaves unexplained counts as moving by itself."""
    with pytest.raises(CorruptionError, match="a moving camera passes"):
        corrupt(walls.frames, FPS, kind=kind, seed=seed, footage=walls)


def test_the_motion_of_a_thing_and_of_its_surroundings_are_measured(falling):
    """Fails if patches are matched the wrong way round, or the still ground counts as moving: 1.5 pixels a frame over
    0.3 s are 7.5 pixels.
    """
    motion = own_motion(falling, 16, (59.0, 27.0, 89.0, 57.0))
    assert abs(motion.own - 7.5) < 0.6 and motion.around < 0.3 and motion.enough and not motion.passed
    still = own_motion(falling, 16, (110.0, 40.0, 150.0, 80.0))
    assert still.own < 0.3 and not still.enough


@pytest.mark.parametrize(
    "kind", ["hover", *(pytest.param(k, marks=pytest.mark.slow) for k in ("freeze", "stutter", "vanish"))]
)
def test_a_thing_that_falls_fits(kind, falling):
    """The rules above must let pass what they are not about."""
    _, truth = corrupt(falling.frames, FPS, kind=kind, seed=1, duration_s=0.8, footage=falling)
    assert truth.anomalies


@pytest.mark.parametrize(
    "kind", ["freeze", *(pytest.param(k, marks=pytest.mark.slow) for k in ("stutter", "duplicate"))]
)
def test_what_only_shimmers_does_not_move(kind, strands):
    """Fails if strong detail that sways by a fraction of a pixel, such as hair, is taken for motion."""
    with pytest.raises(CorruptionError, match=r"hardly moves|moves by itself"):
        corrupt(strands.frames, FPS, kind=kind, seed=0, footage=strands)


def test_a_named_region_that_hardly_changes_is_not_frozen(strands):
    """Fails if a freeze is judged by the sharpest twentieth of its pixels: nobody would see this one."""
    with pytest.raises(CorruptionError, match="looks much the same"):
        corrupt(strands.frames, FPS, kind="freeze", seed=0, region=Box(600, 180, 780, 740), footage=strands)


def test_deformations_need_no_motion(walls):
    """Fails if a clip with a moving camera is lost to all kinds."""
    track = find_region(walls, np.random.default_rng(0), span=FrameRange(1, 18))
    assert len(track.trusted()) >= 3
    _, truth = corrupt(walls.frames, FPS, kind="swirl", seed=0, footage=walls)
    assert truth.anomalies


def test_one_length_is_drawn_for_all_that_is_tried(monkeypatch, falling):
    """Fails if each try draws anew: operators that refuse short windows would then make long ones of them all."""
    found = find_region(falling, np.random.default_rng(0), span=FrameRange(1, 30))
    tried: list[int] = []

    def picky(track, window, rng, about):
        tried.append(len(window))
        raise CorruptionError("too short")

    def easy(track, window, rng, about):
        tried.append(len(window))
        return compose.warp.swirl(track, window, rng, about)

    monkeypatch.setattr(compose, "find_region", lambda *_, **__: found)  # looking for one takes all the time
    monkeypatch.setattr(compose, "OPERATORS", dict.fromkeys(compose.OPERATORS, picky) | {"swirl": easy})
    lengths = []
    for seed in range(draws(12, 4)):
        tried.clear()
        _, truth = corrupt(falling.frames, FPS, kind=compose.KINDS["swirl"], seed=seed, footage=falling)
        assert len(set(tried)) == 1
        lengths.append(len(truth.anomalies[0].frames) / FPS)
    assert len(lengths) / 4 <= sum(s < 1 for s in lengths) <= 3 / 4 * len(lengths)


@pytest.mark.parametrize("fps", [8.0, 15.0, 23.976, 30.0])
def test_whole_frames_stay_in_their_half(fps):
    """Fails if rounding to frames makes a second of 0.97 s: stage 2 cuts clips only below a second."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        short, long = draw_both(rng, fps, short=True)
        for seconds, low, high in ((short, 0.3, 1.0), (long, 1.0, 1.7)):
            count = round(seconds * fps)
            assert abs(count - seconds * fps) < 1e-9 and low <= count / fps < high
    assert min(draw_seconds(rng, fps, short=True) for _ in range(200)) < 0.55
