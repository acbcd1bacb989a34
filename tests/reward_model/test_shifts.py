"""Shifts and styles: another presentation of the same world, with a truth that is true of the new pixels."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from reward_model.evaluation import HardBench, MainBench, OodBench
from reward_model.evaluation.benches.bench import CalibrationBench
from reward_model.schema import AnomalyType
from reward_model.video.clip import sample_indices
from reward_model.video.round_trip import round_trip
from reward_model.world import (
    KINDS,
    SHIFTS,
    TRAINING_STYLES,
    Shift,
    draw_shift,
    film,
    film_scene,
    make_pair_scenes,
    make_shifted,
    make_video,
)
from reward_model.world.canvas import Canvas, mask_box
from reward_model.world.kinds import SETTINGS, SETTINGS_OF
from reward_model.world.looks import PATTERNS, LookBook
from reward_model.world.palette import BACKGROUNDS, COLORS, STYLES
from reward_model.world.scene import make_scene
from reward_model.world.video import make_annotation, render
from tests.campaigns import draws, slow_but


def mark(frames: np.ndarray, truth) -> str:
    text = json.dumps(truth.to_dict(), sort_keys=True).encode()
    return hashlib.sha256(np.ascontiguousarray(frames).tobytes() + text).hexdigest()[:16]


#: Pixels and truth of videos as version 0.1 made them: published figures rest on them.
PUBLISHED = {
    "plain None": "3221d159bfd1937e",
    "plain squash": "07ee6dbb8b5f0909",
    "plain split": "646b434c626bfc2e",
    "plain extra_limb": "c6b593f289610c91",
    "plain missing_limb": "cfa5e68e3c3706a8",
    "plain bent_limb": "cfcddffa85560a8d",
    "plain vanish": "b6a7f0d4e3772d8b",
    "plain appear": "43fb5f4b2e6c87a5",
    "plain flicker": "bff5ae15b6d4631f",
    "plain teleport": "aea09cc2b1808d3f",
    "plain float": "c666b122972369a3",
    "plain overlap": "6b97ce25b785246a",
    "plain rebound": "e40b86502e998584",
    "plain scramble": "7c5c3d1ea50f3f2a",
    "plain mirror": "908a734da16fb814",
    "plain change": "db4e9ec7e76bf5a4",
    "single ink 24": "55adb6e8647714d3",
    "objects ink 24": "0b11c6b970839fcd",
    "person ink 24": "080038667761a691",
    "physics ink 24": "84480f2e91e861d8",
    "sign ink 24": "1e818aaf8580c331",
    "main 31": "b06418a4a385f8e3",
    "main 8": "5dfd45d9716f4cc5",
    "hard 5": "721427d911d0b7c5",
    "ood 17": "6d387a3f773c651f",
    "calibration 3": "dbad318375798436",
}


def test_the_published_world_is_the_same_to_the_byte():
    found = {f"plain {kind}": mark(*make_video(100 + k, kind)) for k, kind in enumerate((None, *KINDS))}
    for setting in SETTINGS:
        video = make_video(7, None, setting=setting, style="ink", size=24, num_frames=33, fps=12)
        found[f"{setting} ink 24"] = mark(*video)
    for name, bench, k in (
        ("main", MainBench(), 31),
        ("main", MainBench(), 8),
        ("hard", HardBench(2), 5),
        ("ood", OodBench(), 17),
        ("calibration", CalibrationBench(), 3),
    ):
        found[f"{name} {k}"] = mark(*bench[k][:2])
    assert found == PUBLISHED


def test_no_shift_is_the_world_itself():
    frames, truth = make_shifted(100, "squash", "plain", setting="objects")
    same, as_ever = make_video(100, "squash", setting="objects")
    np.testing.assert_array_equal(frames, same)
    assert replace(truth, video_id="") == replace(as_ever, video_id="")


@pytest.mark.parametrize("name", slow_but(SHIFTS, *(name for name in SHIFTS if name != "crf 32")))
def test_every_shift_gives_frames_and_a_truth_that_fit_each_other(name):
    shift = SHIFTS[name]
    step = draws(3 if shift.size < 90 and shift.seconds < 9 else 7, 14)
    for k, kind in enumerate((None, *shift.kinds[::step])):
        found = film(200 + k, kind, shift)
        truth = found.truth
        some = sorted({0, truth.num_frames - 1, *(n for a in truth.anomalies for n in list(a.boxes)[:3])})
        frames = found.take(some)
        assert frames.shape == (len(some), truth.height, truth.width, 3) and frames.dtype == np.uint8
        assert truth.fps == shift.fps and truth.status == ("abnormal" if kind else "normal")
        for anomaly in truth.anomalies:
            assert anomaly.type is KINDS[kind] and anomaly.boxes
            assert anomaly.frames.start >= 1 and anomaly.frames.end <= truth.num_frames - 2
        assert np.array_equal(found.take(some[:1]), frames[:1]), "a frame is the same in any selection"


@pytest.mark.parametrize("name", [n for n, s in SHIFTS.items() if s.size <= 48 and s.crf is None and s.noise == 0])
def test_boxes_lie_where_the_anomaly_is_seen(name):
    """The pixels that differ from the normal twin in the window lie in the box of a thing that is squashed there."""
    shift = SHIFTS[name]
    for seed in range(draws(3, 1)):
        made = film(seed, "squash", shift, setting="objects", nuisance=0)
        twin = replace(made, scene=replace(made.scene, actors=made.scene.actors[:-1]))
        window = list(made.truth.anomalies[0].frames.frames())[::5]
        apart = np.abs(made.take(window).astype(int) - twin.take(window)).max(-1)
        for difference, n in zip(apart, window, strict=True):
            (box,) = made.truth.anomalies[0].boxes[n]
            x0, y0, x1, y1 = (round(v) for v in box.to_pixels(made.truth.width, made.truth.height))
            seen = difference > 0.6 * difference.max()
            assert seen[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1].sum() >= 0.95 * seen.sum(), (seed, n)
            assert (difference > 0.3 * difference.max())[y0:y1, x0:x1].mean() > 0.3, (seed, n)


def test_length_rate_and_speed_are_those_of_the_name():
    lengths = {name: film(5, None, name).truth for name in ("1 s", "20 s", "8 fps", "30 fps", "double speed")}
    assert {n: (t.num_frames, t.fps) for n, t in lengths.items()} == {
        "1 s": (17, 16),
        "20 s": (321, 16),
        "8 fps": (41, 8),
        "30 fps": (151, 30),
        "double speed": (41, 16),
    }
    for seed in range(5):
        usual = make_scene(seed, None, setting="person")
        slow, fast = (film(seed, None, name, setting="person").scene for name in ("half speed", "double speed"))
        step = [np.abs(np.diff(s.focus.limbs[0].swing)).max() for s in (slow, usual, fast)]
        assert step[0] == pytest.approx(step[1] / 2, rel=0.1) and step[2] == pytest.approx(2 * step[1], rel=0.1)


def test_slow_motion_is_cut_so_that_the_anomaly_and_what_leads_up_to_it_are_shown():
    for k, kind in enumerate(KINDS):
        made = film(k, kind, "half speed")
        window = made.truth.anomalies[0].frames
        assert window.start >= 2 and window.end <= made.truth.num_frames - 2
        if kind == "rebound":
            assert window.start >= 30
        drawn = render(made.scene, [made.first + window.start])
        np.testing.assert_array_equal(made.take([window.start]), drawn)


def test_a_mirror_shows_no_letters_and_exchanges_left_and_right():
    shift = SHIFTS["mirror"]
    assert not {k for k in shift.kinds if KINDS[k] is AnomalyType.CHARACTER} and "sign" not in shift.settings
    assert all(film(s, None, shift).scene.setting != "sign" for s in range(40))
    with pytest.raises(ValueError, match="letters would be mirrored"):
        film(0, None, shift, setting="sign")
    with pytest.raises(ValueError, match="cannot show 'mirror'"):
        film(0, "mirror", shift)
    seed = next(s for s in range(99) if "moves right" in make_scene(s, None, setting="single").prompt)
    made = film(seed, "squash", shift, setting="single")
    plain = film(seed, "squash", "plain", setting="single")
    assert "moves left" in made.truth.prompt
    np.testing.assert_array_equal(made.take([0, 40]), plain.take([0, 40])[:, :, ::-1])
    for n, (box,) in made.truth.anomalies[0].boxes.items():
        (other,) = plain.truth.anomalies[0].boxes[n]
        assert (box.xmin, box.xmax) == (1000 - other.xmax, 1000 - other.xmin)


def test_bars_are_black_and_the_scene_between_them_keeps_its_shape():
    for name, axis in (("letterbox", 1), ("pillarbox", 2)):
        frames, truth = make_shifted(3, "squash", name, setting="objects")
        shares = [frames.max(axis=(0, 3 - axis, 3))[k] for k in (0, 5, 42, 47)]
        assert shares == [0, 0, 0, 0] and (truth.height, truth.width) == (48, 48)
        assert frames.max(axis=(0, 3 - axis, 3))[6:42].min() > 10


def test_wide_and_upright_pictures_are_not_squeezed():
    """A ball is as wide as it is high, and things use the whole length of the picture."""
    places = []
    for name in ("wide", "portrait"):
        for seed in range(12):
            made = film(seed, None, name, setting="objects", nuisance=0)
            scene = made.scene
            places.append(max(float(np.ptp(a.path[:, int(name == "portrait")])) for a in scene.actors))
            if scene.focus.shape != "ball":
                continue
            shape = (made.truth.height, made.truth.width)
            canvas = Canvas.open(np.array([40]), shape, scene.camera, 0.02)
            box = mask_box(scene.focus.regions(canvas)[0][0])
            x0, y0, x1, y1 = box.to_pixels(shape[1], shape[0])
            assert abs((x1 - x0) - (y1 - y0)) <= 2.1
    assert max(places) > 1.0


def test_words_are_true_of_new_colours():
    for name in ("swapped", "hue", "grey"):
        for seed in range(draws(12, 6)):
            truth = film(seed, "squash" if seed % 2 else "change", name).truth
            words = " ".join([truth.prompt, *(f"{a.reason} {a.region} {' '.join(a.objects)}" for a in truth.anomalies)])
            assert not set(words.split()) & {*COLORS, *BACKGROUNDS}, words
    assert film(3, None, "bright").truth.prompt == make_scene(3, None, setting=film(3).scene.setting).prompt
    swapped, plain = film(3, None, "swapped").take([7]), film(3).take([7])
    np.testing.assert_array_equal(swapped, plain[..., ::-1])
    grey = film(3, None, "grey").take([7]).astype(int)
    assert np.ptp(grey, axis=-1).max() <= 1


def test_a_black_and_white_film_keeps_things_apart_from_the_ground():
    for seed in range(draws(60, 20)):
        made = film(seed, None, "grey", setting="single", nuisance=0)
        bare = replace(made, scene=replace(made.scene, actors=()))
        assert np.abs(made.take([0]).astype(int) - bare.take([0])).max() > 20, seed


def test_compression_is_that_of_a_file_and_grows_with_the_rate_factor():
    frames = make_video(4, "split")[0][:33]
    off = [float(np.abs(round_trip(frames, 16, crf).astype(int) - frames).mean()) for crf in (5, 32, 40)]
    assert off[0] < off[1] < off[2] and off[1] > 1.5
    np.testing.assert_array_equal(round_trip(frames, 16, 32), round_trip(frames, 16, 32))
    assert round_trip(frames[:, :31, :29], 16, 20).shape == (33, 31, 29, 3)
    with pytest.raises(ValueError, match="crf=60 must be between 0"):
        round_trip(frames, 16, 60)


def test_noise_has_the_stated_spread():
    quiet, loud = film(6, None, "plain", nuisance=0).take([3]), film(6, None, "noise 10", nuisance=0).take([3])
    assert float((loud.astype(int) - quiet).std()) == pytest.approx(10, rel=0.12)


def test_shifts_add_up_and_say_what_they_change():
    both = SHIFTS["mirror"] | SHIFTS["noise 10"]
    assert both.mirror and both.noise == 10 and both.name == "mirror + noise 10"
    assert set(both.to_dict()) == {"name", "about", "mirror", "noise"} and Shift().to_dict() == {}
    assert all(s.about and s.name == name for name, s in SHIFTS.items())


def test_the_members_of_a_pair_can_be_shown_in_another_way():
    shift = SHIFTS["mirror"] | SHIFTS["letterbox"] | SHIFTS["noise 10"]
    pair = make_pair_scenes(4, "fade")
    normal, abnormal = (film_scene(scene, shift) for scene in (pair.normal, pair.abnormal))
    scan, zoom = sample_indices(81, 16, 4), sample_indices(81, 16, 8)
    np.testing.assert_array_equal(normal.take(scan), abnormal.take(scan))
    assert (normal.take(zoom) != abnormal.take(zoom)).any()
    (anomaly,) = abnormal.truth.anomalies
    assert anomaly.frames == make_annotation(pair.abnormal).anomalies[0].frames and anomaly.boxes
    assert normal.truth.anomalies == () and normal.truth.num_frames == 81
    with pytest.raises(ValueError, match="letters would be mirrored"):
        film_scene(make_pair_scenes(4, "turn").normal, "mirror")


def test_drawn_shifts_are_varied_follow_the_generator_and_never_show_ink():
    shifts = [draw_shift(np.random.default_rng(k)) for k in range(300)]
    assert draw_shift(np.random.default_rng(7)) == shifts[7]
    assert {name for s in shifts for name in s.to_dict()} >= {
        *("seconds", "fps", "speed", "letterbox", "pillarbox", "aspect", "size", "mirror", "hue", "saturation"),
        *("channels", "crf", "noise", "brightness", "contrast", "blur", "pan", "zoom", "style"),
    }
    assert {s.style for s in shifts} == set(TRAINING_STYLES) and "ink" not in TRAINING_STYLES
    for k, shift in enumerate(shifts[:24]):
        kind = shift.kinds[k % len(shift.kinds)]
        made = film(k, kind if k % 2 else None, replace(shift, crf=None))
        assert made.take([0, made.truth.num_frames - 1]).shape[1:3] == (made.truth.height, made.truth.width)
        assert all(a.boxes for a in made.truth.anomalies)
    assert all("size" not in draw_shift(np.random.default_rng(k), without=["size"]).to_dict() for k in range(60))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: film(0, None, "upside down"), "no shift 'upside down'"),
        (lambda: film(0, "rebound", "1 s"), "cannot show 'rebound'"),
        (lambda: Shift(seconds=0), "must be above 0"),
        (lambda: Shift(speed=9), "between 1/4 and 4"),
        (lambda: Shift(size=8), "at least 16"),
        (lambda: Shift(letterbox=0.9), "between 0 and 0.6"),
        (lambda: Shift(channels=(0, 0, 1)), "once each"),
        (lambda: draw_shift(np.random.default_rng(0), without=["ink"]), "must name some"),
        (lambda: draw_shift(np.random.default_rng(0), most=40), "between 1 and 14"),
        (lambda: make_scene(0, aspect=9), "between 1/3 and 3"),
        (lambda: make_scene(0, pan=2), "between 0 and 0.5"),
    ],
)
def test_impossible_shifts_are_refused_in_one_line(call, match):
    with pytest.raises(ValueError, match=match):
        call()


# --- styles -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", TRAINING_STYLES)
def test_styles_change_looks_and_not_the_story(style):
    assert list(STYLES[style].colors) == list(COLORS) and list(STYLES[style].backgrounds) == list(BACKGROUNDS)
    for k, kind in enumerate(("squash", "bent_limb", "mirror", "vanish", "float")[: draws(5, 3)]):
        styled, plain = (make_scene(k, kind, setting=SETTINGS_OF[kind][-1], style=s) for s in (style, "plain"))
        assert make_annotation(styled).anomalies == make_annotation(plain).anomalies, "boxes are those of the masks"
        apart = np.abs(render(styled, [0]).astype(int) - render(plain, [0])).mean()
        assert apart > 1 if style != "plain" else apart == 0, (kind, apart)
        np.testing.assert_array_equal(render(styled, [5, 0])[1], render(styled, [0])[0])


def test_the_camera_moves_textures_with_the_world():
    scene = make_scene(2, None, setting="single", style="woven", pan=0.1, nuisance=0)
    still = replace(scene, camera=np.zeros((81, 2)))
    frames, fixed = render(scene, [0, 80]).astype(int), render(still, [0, 80]).astype(int)
    corner = (slice(None), slice(0, 8), slice(0, 8))
    assert np.abs(np.diff(fixed[corner], axis=0)).max() == 0 < np.abs(np.diff(frames[corner], axis=0)).max()


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_stay_within_their_depth_and_are_not_flat(name):
    rows = np.linspace(0, 1, 48, dtype=np.float32)
    for seed in range(20):
        pattern = LookBook((name,)).draw(np.random.default_rng(seed)).ground
        factor = pattern.factor(rows[None, None, :], rows[None, :, None])
        assert factor.shape == (1, 48, 48) and np.abs(factor - 1).max() <= 1.4 * pattern.depth
        assert np.ptp(factor) > 0.5 * pattern.depth, seed


def test_a_slow_and_short_video_shows_its_whole_anomaly():
    """The scene is longer than what is shown of it, and an anomaly of the scene may have been, too."""
    shift = Shift(seconds=1.4, speed=0.5)
    for seed in range(draws(40, 15)):
        truth = film(seed, "squash", shift).truth
        window = truth.anomalies[0].frames
        assert 0 < window.start <= window.end < truth.num_frames - 1


def test_a_thing_that_is_nowhere_casts_no_shadow():
    """Its layers are none in the frames asked for, and the largest of none was asked for."""
    shown = film(11, "appear", Shift(style="sunny"), setting="objects")
    start = shown.truth.anomalies[0].frames.start
    assert shown.take([0, start - 1]).shape == (2, 48, 48, 3)
