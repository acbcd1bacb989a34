"""Corruptions: the annotation must be true of the pixels, and everything else must stay as it was."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from reward_model.data.corruptions import DECOYS, KINDS, CorruptionError, Footage, corrupt
from reward_model.data.corruptions.base import MIN_CHANGE, Rect
from reward_model.data.corruptions.blend import blend_edit, soft_mask
from reward_model.data.corruptions.camera import corner_shift, fit_motion
from reward_model.data.corruptions.decoys import reblend
from reward_model.data.corruptions.region import find_region, follow
from reward_model.schema import AnomalyType, Box, FrameRange
from reward_model.world import make_video
from tests.campaigns import Scale, draws, slow_but

FPS, LENGTH, SHAPE = 16.0, 40, (96, 128)
#: Kinds that share all but their last step with one of the others: made in ``make test-all``.
ALIKE = ("swirl", "melt", "stutter", "teleport", "mirror", "duplicate")
QUICK = tuple(kind for kind in KINDS if kind not in ALIKE)


def texture(shape: tuple[int, int], seed: int, sigma: float, contrast: float) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((*shape, 3))
    smooth = ndimage.gaussian_filter(noise, (sigma, sigma, 0))
    return smooth / smooth.std() * contrast


def path(num_frames: int = LENGTH) -> np.ndarray:
    """Centre (x, y) of the moving disc: it falls slowly to the right, by fractions of a pixel."""
    t = np.arange(num_frames)
    return np.stack([30 + 1.3 * t, 26 + 1.1 * t], axis=1)


@cache
def moving_video(num_frames: int = LENGTH, *, words: bool = False) -> np.ndarray:
    """A textured disc of radius 15 that moves over a still, softly textured ground, with grain; read-only, so that an
    operator that writes into its input fails loudly.
    """
    height, width = SHAPE
    ground = 110 + texture(SHAPE, 1, 6.0, 12.0)
    skin = np.array([190, 90, 60]) + texture((41, 41), 2, 1.5, 34.0)
    y, x = np.mgrid[:height, :width].astype(float)
    rng, frames = np.random.default_rng(3), []
    for cx, cy in path(num_frames):
        cover = np.clip(15.5 - np.hypot(x - cx, y - cy), 0, 1)[..., None]
        places = np.stack([y - cy + 20, x - cx + 20])
        disc = np.stack([ndimage.map_coordinates(skin[..., c], places, order=1, mode="nearest") for c in range(3)], -1)
        picture = ground + cover * (disc - ground)
        if words:
            picture[78:88, 40:88] = np.where(letters()[..., None], 250, 20)
        frames.append(picture + rng.normal(0, 1.5, picture.shape))
    video = np.clip(np.stack(frames) + 0.5, 0, 255).astype(np.uint8)
    video.flags.writeable = False
    return video


def letters() -> np.ndarray:
    """Something like a word: upright strokes of irregular spacing with crossbars, (10, 48) bool."""
    ink = np.zeros((10, 48), bool)
    for k, x in enumerate(range(2, 46, 4)):
        ink[1:9, x : x + 2] = True
        ink[(1, 4, 8)[k % 3], x : x + 4] = k % 4 > 0
    return ink


@pytest.fixture(scope="module")
def clip() -> tuple[np.ndarray, Footage]:
    frames = moving_video(words=True)
    return frames, Footage(frames, FPS)


class Made(dict[str, Any]):
    """The clip with an anomaly of each kind, made when first asked for."""

    def __init__(self, frames: np.ndarray, footage: Footage) -> None:
        super().__init__()
        self.frames, self.footage = frames, footage

    def __missing__(self, kind: str) -> Any:
        self[kind] = corrupt(self.frames, FPS, kind=kind, seed=5, duration_s=0.7, footage=self.footage)
        return self[kind]


@pytest.fixture(scope="module")
def made(clip: tuple[np.ndarray, Footage]) -> Made:
    return Made(*clip)


def pixel_boxes(boxes: tuple[Box, ...]) -> np.ndarray:
    """(H, W) bool: the pixels that the grid boxes touch."""
    inside = np.zeros(SHAPE, bool)
    for box in boxes:
        x0, y0, x1, y1 = box.to_pixels(SHAPE[1], SHAPE[0])
        inside[int(y0 + 1e-6) : int(np.ceil(y1 - 1e-6)), int(x0 + 1e-6) : int(np.ceil(x1 - 1e-6))] = True
    return inside


@pytest.mark.parametrize("kind", slow_but(KINDS, *QUICK))
def test_frames_outside_the_window_are_untouched_and_its_ends_are_changed(kind, clip, made):
    """Fails if a window is off by one, or an edit leaks into a frame that is annotated as normal."""
    out, truth = made[kind]
    window = truth.anomalies[0].frames
    changed = [k for k in range(LENGTH) if (out[k] != clip[0][k]).any()]
    assert (changed[0], changed[-1]) == (window.start, window.end)
    assert truth.anomalies[0].type is KINDS[kind] and 4 <= len(window) <= 12


@pytest.mark.parametrize("kind", [value for value in slow_but(KINDS, *QUICK) if value.values != ("vanish",)])
def test_boxes_are_exactly_the_bounds_of_what_changed(kind, clip, made):
    """Fails if a pixel outside the boxes changes, a box is loose, or a grid coordinate is rounded the wrong way."""
    out, truth = made[kind]
    anomaly = truth.anomalies[0]
    assert list(anomaly.boxes) == list(anomaly.frames.frames())
    for k, boxes in anomaly.boxes.items():
        changed = (out[k] != clip[0][k]).any(-1)
        if not changed.any():
            continue  # a frame of the window that happens to look right borrows its neighbour's boxes
        assert not (changed & ~pixel_boxes(boxes)).any(), (kind, k)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        hull = Box.from_pixels(columns[0], rows[0], columns[-1] + 1, rows[-1] + 1, SHAPE[1], SHAPE[0])
        corners = np.array([b.as_list() for b in boxes])
        assert [*corners[:, :2].min(0), *corners[:, 2:].max(0)] == hull.as_list(), (kind, k)


def test_what_vanishes_has_boxes_around_its_absence_and_is_gone_within(clip, made):
    """Fails if boxes stand inside the window, miss the disc, or the disc is still there."""
    out, truth = made["vanish"]
    anomaly = truth.anomalies[0]
    assert list(anomaly.boxes) == [anomaly.frames.start - 1, anomaly.frames.end + 1]
    for k, (box,) in anomaly.boxes.items():
        x0, y0, x1, y1 = box.to_pixels(SHAPE[1], SHAPE[0])
        true = np.array([*(path()[k] - 15.5), *(path()[k] + 16.5)])
        assert np.abs(np.array([x0, y0, x1, y1]) - true).max() <= 5, (k, box)
    for k in anomaly.frames.frames():
        x, y = path()[k].round().astype(int)
        middle = out[k][y - 6 : y + 7, x - 6 : x + 7].astype(float)
        assert np.abs(middle.mean((0, 1)) - 110).max() < 30  # the ground's colour, not the disc's (190, 90, 60)
        assert middle.std() < 25


def test_a_seed_decides_everything(clip, made):
    frames, footage = clip
    again, truth = corrupt(frames.copy(), FPS, kind="bulge", seed=5, duration_s=0.7)
    assert np.array_equal(again, made["bulge"][0]) and truth == made["bulge"][1]
    other, _ = corrupt(frames, FPS, kind="bulge", seed=6, duration_s=0.7, footage=footage)
    assert not np.array_equal(other, again)


def test_several_anomalies_do_not_touch(clip):
    """Fails if a later anomaly is computed on, or written over, the frames of an earlier one."""
    frames, footage = clip
    out, truth = corrupt(frames, FPS, seed=1, num_anomalies=2, duration_s=0.5, footage=footage)
    first, second = (a.frames for a in truth.anomalies)
    assert first.end < second.start
    changed = {k for k in range(LENGTH) if (out[k] != frames[k]).any()}
    assert (
        changed <= {*first.frames(), *second.frames()} and changed & {*first.frames()} and changed & {*second.frames()}
    )


def test_people_turn_deformations_into_human_distortion(clip):
    frames, footage = clip
    for kind in ("duplicate", "melt")[: draws(2, 1)]:
        _, truth = corrupt(frames, FPS, kind=kind, seed=5, people=True, name="person", footage=footage)
        assert truth.types == (AnomalyType.HUMAN,) and truth.anomalies[0].objects == ("person",)
    with pytest.raises(CorruptionError, match="people=True"):
        corrupt(frames, FPS, kind=AnomalyType.HUMAN, seed=5, footage=footage)


def test_a_region_can_be_named(clip):
    frames, footage = clip
    ground = Box(620, 60, 900, 380)
    _, truth = corrupt(frames, FPS, kind="swirl", seed=0, region=ground, footage=footage)
    for boxes in truth.anomalies[0].boxes.values():
        assert all(b.xmin >= 580 and b.xmax <= 940 and b.ymax <= 420 for b in boxes)
    assert "upper right" in truth.anomalies[0].reason


@cache
def world(seed: int) -> Footage:
    """The first half of a video of the procedural world; analysed once for all tests."""
    return Footage(make_video(seed, size=48)[0][:40], 16)


@pytest.mark.parametrize("seed", [8, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", slow_but(["bulge", "freeze", "flicker", "vanish"], "freeze"))
def test_the_world_can_be_corrupted_too(kind, seed):
    """Tiny even pictures: an operator that needs large frames or fine texture, or a camera fit that follows the one
    thing there is on an even ground, fails here.
    """
    footage = world(seed)
    out, truth = corrupt(footage.frames, 16, kind=kind, seed=3, footage=footage)
    assert out.shape == footage.frames.shape and truth.anomalies[0].type is KINDS[kind]


@pytest.mark.parametrize("shape", [(17, 64, 3), (90, 33, 3)])
def test_any_aspect_and_odd_sizes(shape):
    rng = np.random.default_rng(0)
    frames = (rng.normal(0, 2, (8, *shape)) + texture(shape[:2], 1, 3, 40) + 120).clip(0, 255).astype(np.uint8)
    out, truth = corrupt(frames, 8, kind=AnomalyType.OBJECT, seed=1)
    assert out.shape == frames.shape and truth.status == "abnormal"


@pytest.fixture(scope="module")
def short() -> np.ndarray:
    return moving_video()[:20]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda short: short[:7], {}, "7 frames"),
        (lambda short: np.full((20, 48, 64, 3), 90, np.uint8), {"kind": "bulge"}, "even everywhere"),
        (lambda short: np.repeat(short[:1], 20, 0), {"kind": "freeze"}, "moves by itself"),
        (lambda short: short[..., 0], {}, "expected"),
        (lambda short: short[:12], {"num_anomalies": 4}, "too short"),
        (lambda short: short[:12], {"kind": "explode"}, "unknown kind"),
        (lambda short: short, {"kind": "mirror"}, "writing"),
        (lambda short: short, {"kind": "swirl", "region": (99, Box(0, 0, 500, 500))}, "frame 99"),
    ],
)
def test_unfit_videos_are_refused_with_a_reason(short, change, options, message):
    with pytest.raises(CorruptionError, match=message):
        corrupt(change(short), FPS, seed=0, **options)


def test_hover_needs_vertical_motion():
    """Fails if any motion counts as a fall."""
    sideways = world(8)  # a white square moves left
    with pytest.raises(CorruptionError, match="0 pixels down"):
        corrupt(sideways.frames, 16, kind="hover", seed=0, duration_s=0.7, footage=sideways)


@pytest.mark.slow
def test_hover_needs_a_fall():
    """Fails if what rises counts: a balloon that stops rising is no violation."""
    rising = moving_video(24)[::-1]
    with pytest.raises(CorruptionError, match=r"-[0-9]+ pixels down"):
        corrupt(np.ascontiguousarray(rising), FPS, kind="hover", seed=5, duration_s=0.7)


def test_hover_holds_the_disc_where_the_window_starts(clip, made):
    """Fails if the time map is wrong: the held disc must be at its earlier place, and its true place empty."""
    out, truth = made["hover"]
    window = truth.anomalies[0].frames
    k = window.start + len(window) // 2
    held, true = path()[window.start - 1].round().astype(int), path()[k].round().astype(int)
    middle = (slice(held[1] - 5, held[1] + 6), slice(held[0] - 5, held[0] + 6))
    assert np.abs(out[k][middle].astype(int) - clip[0][window.start - 1][middle]).mean() < 6
    edge = true + np.round((true - held) / np.linalg.norm(true - held) * 11).astype(int)
    near = (slice(edge[1] - 1, edge[1] + 2), slice(edge[0] - 1, edge[0] + 2))
    gap = np.abs(out[k][near].mean((0, 1)) - clip[0][0][near].mean((0, 1))).max()
    assert gap < 12 < np.abs(clip[0][k][near].mean((0, 1)) - clip[0][0][near].mean((0, 1))).max()  # bare ground


def test_tracking_error_on_a_known_path():
    """Fails if positions are off by half a pixel, creep with the template, or drift with the background."""
    frames = moving_video()
    x, y = path()[12]
    track = follow(Footage(frames, FPS), 12, (x - 14, y - 14, x + 15, y + 15), moving=True)
    offset = track.centre - path()
    error = np.abs(offset - offset[12]).max()
    assert error < 1.0 and track.confidence.min() > 0.9


def test_lost_regions_are_reported_as_lost():
    """Fails if the tracker claims to see what has been covered."""
    frames = moving_video().copy()
    frames[25:] = 110 + np.random.default_rng(9).integers(-3, 4, frames[25:].shape).astype(np.uint8) % 5
    x, y = path()[12]
    track = follow(Footage(frames, FPS), 12, (x - 14, y - 14, x + 15, y + 15), moving=True)
    assert track.trusted() == FrameRange(0, 24)


@pytest.mark.slow
def test_the_moving_thing_is_found_although_the_camera_moves():
    """Fails if the camera's motion is not taken out: the textured ground would then move everywhere."""
    still = np.pad(moving_video()[:16], ((0, 0), (30, 30), (30, 30), (0, 0)), mode="symmetric")
    frames = np.stack([still[k, 30 + k // 2 : 126 + k // 2, 30 - k // 2 : 158 - k // 2] for k in range(16)])
    track = find_region(Footage(frames, FPS), np.random.default_rng(0), span=FrameRange(5, 10), need_motion=True)
    seen = path(16)[track.anchor] + [track.anchor // 2, -(track.anchor // 2)]
    assert track.moving and np.abs(track.centre[track.anchor] - seen).max() < 8


def test_camera_motion_golden():
    """A known shift, turn and zoom of a known picture are found to a tenth of a pixel at the corners."""
    picture = 120 + texture((80, 120), 5, 4.0, 30.0)[..., 0]
    angle, zoom = 0.02, 1.03
    true = np.array(
        [[zoom * np.cos(angle), -np.sin(angle), 2.5], [np.sin(angle), zoom * np.cos(angle), -1.5], [0, 0, 1]]
    )
    inverse = np.linalg.inv(true)
    moved = ndimage.affine_transform(
        picture, inverse[:2, :2][::-1, ::-1], inverse[:2, 2][::-1], order=3, mode="nearest"
    )
    found = fit_motion(picture, moved)
    assert corner_shift(np.linalg.inv(true) @ found, picture.shape) < 0.5
    assert np.array_equal(fit_motion(picture, picture), np.eye(3))


def seam(before: np.ndarray, after: np.ndarray) -> float:
    """How large the change is at its own rim, in grey levels: the median over changed pixels beside unchanged ones."""
    change = np.abs(after.astype(int) - before).max(-1)
    steps = [c[(c > 0) & ndimage.binary_dilation(c == 0)] for c in change]
    return float(np.median(np.concatenate(steps)))


@pytest.mark.parametrize("kind", slow_but(["bulge", "swirl", "melt", "flicker"], "bulge", "flicker"))
def test_an_edit_fades_out_at_its_rim(kind, clip, made):
    """Fails without feathering: a judge would learn the cut instead of the anomaly."""
    assert seam(clip[0], made[kind][0]) < 20


def test_the_seam_measure_sees_a_hard_cut(clip):
    """The measure above must be able to fail."""
    out = clip[0].copy()
    out[5, 20:60, 30:90] = out[5, 20:60, 30:90] // 2
    assert seam(clip[0], out) > 40


def test_content_of_another_light_meets_the_frame_at_the_rim(clip):
    """Fails if the level field is left out or has the wrong sign: the patch would be 25 levels brighter inside."""
    frame = clip[0][:1, 40:, 70:]
    rect = Rect(4, 4, 50, 50)
    content = frame[0][rect.slices].astype(np.float32) + 25
    mask = soft_mask(rect, np.array([27.0, 27.0]), np.array([44.0, 44.0]))
    rng = np.random.default_rng(0)
    levelled, plain = (
        blend_edit(frame, 0, rect, content, mask, rng, level=v).pixels.astype(float) for v in (True, False)
    )
    old = frame[0][rect.slices]
    assert np.abs(levelled - old).mean() < 3
    assert np.abs(plain - old).mean() > 8


def test_reblend_edits_pixels_and_shows_nothing(clip):
    """Fails if the decoy does nothing, or does something that shows."""
    frames, footage = clip
    out = reblend(footage, np.random.default_rng(0))
    change = np.abs(out.astype(int) - frames)
    assert (change.max((1, 2, 3)) > 0).sum() >= 6 and np.percentile(change[change > 0], 95) < 24
    assert np.abs(out.astype(float).mean() - frames.mean()) < 0.2


@pytest.mark.parametrize("name", DECOYS)
def test_decoys_are_global_and_mild(name, clip):
    frames, _ = clip
    out = DECOYS[name](frames, np.random.default_rng(2))
    assert out.shape == frames.shape and out.dtype == np.uint8 and not np.array_equal(out, frames)
    a, b = (v.astype(float).mean((1, 2)).ravel() for v in (out, frames))
    assert np.abs(a - b).max() < 30 and np.array_equal(out, DECOYS[name](frames, np.random.default_rng(2)))


def test_small_changes_are_undone(clip, made):
    """The boxes promise that what they exclude is unchanged; what they include is at least MIN_CHANGE."""
    for kind in KINDS if Scale.whole else QUICK:
        change = np.abs(made[kind][0].astype(int) - clip[0]).max(-1)
        assert change[change > 0].min() >= MIN_CHANGE, kind
