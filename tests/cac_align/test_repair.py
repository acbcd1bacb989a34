"""Repair on tiny real pipelines: which cells are drawn again, what stays, when it counts, and what is told."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_best_of_n import PROMPT, QUIET, Counting
from test_best_of_n import WAN as ONE_STEP
from test_previews import without_pictures

from cac_align import best_of_n, repair
from cac_align.latent_cells import LatentGrid, cell_cover
from cac_align.selection.repair import grown, kept_errors, pixels_of, redraw_cells, repair_cells
from cac_align.selection.run_folder import render_folder
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, Verdict

WAN = {**ONE_STEP, "num_inference_steps": 2}
TIGHT = {"margin_s": 0, "margin": 0}
FAULT = Anomaly(AnomalyType.OBJECT, FrameRange(1, 4), {2: (Box(0, 0, 500, 500),)}, reason="bent")
STEPS = {name: WAN[name] for name in ("num_inference_steps", "guidance_scale")}


def abnormal(*anomalies, score=0.2, frames=5, window=None):
    return Verdict("abnormal", score, anomalies=anomalies, window=window, num_frames=frames, fps=16)


@pytest.fixture(scope="module")
def video(wan_pipe):
    return best_of_n(wan_pipe, PROMPT, reward=good, n=1, **WAN, **QUIET).candidates[0]


def good(videos, prompts=None, *, fps, **kwargs):
    return [0.9] * len(videos)


def test_boxes_become_cells_and_cells_pixels(wan_pipe):
    cells = repair_cells(wan_pipe, abnormal(FAULT), (5, 16, 16, 3), **TIGHT)
    assert cells.tolist() == [[[False, False], [False, False]], [[True, False], [False, False]]]
    small = Anomaly(AnomalyType.OBJECT, FrameRange(3, 3), {3: (Box(600, 600, 700, 700),)})
    found = repair_cells(wan_pipe, abnormal(FAULT, small), (5, 16, 16, 3), **TIGHT)
    assert found[1].tolist() == [[True, False], [False, True]], "an anomaly smaller than a cell is drawn again as well"
    whole = repair_cells(wan_pipe, abnormal(window=FrameRange(0, 0)), (5, 16, 16, 3), **TIGHT)
    assert whole[0].all() and not whole[1].any(), "a window without boxes is the whole picture"


def test_cells_grow_by_seconds_and_by_a_share_of_the_picture(wan_pipe):
    rng = np.random.default_rng(0)
    cells = rng.random((7, 5, 6)) < 0.02
    for reach in ((0, 0, 0), (1, 0, 2), (2, 1, 1), (9, 9, 9)):
        near = [
            [abs(a - b) <= far for far, a, b in zip(reach, here, there, strict=True)]
            for here in np.ndindex(cells.shape)
            for there in np.argwhere(cells)
        ]
        expected = np.array(near).all(1).reshape(cells.size, -1).any(1).reshape(cells.shape)
        assert np.array_equal(grown(cells, reach), expected)
    early = Anomaly(AnomalyType.OBJECT, FrameRange(1, 4), {2: (Box(0, 0, 250, 250),)})
    told = abnormal(early, frames=17)
    wide = repair_cells(wan_pipe, told, (17, 32, 32, 3), fps=16, margin_s=0.5, margin=0.25)  # 2 cells, 1 of 4
    assert wide.any((1, 2)).tolist() == [True, True, True, True, False] and wide[1, :2, :2].all() and wide[1].sum() == 4
    for wrong in ({"margin_s": -1}, {"margin": 1.5}, {"margin_s": float("nan")}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}=.* must "):
            repair_cells(wan_pipe, told, (17, 32, 32, 3), **wrong)


def test_pixels_of_cells_agree_with_the_mapping_of_frames():
    grid = LatentGrid(13, 32, 48)
    rng = np.random.default_rng(0)
    cells = rng.random(grid.shape) < 0.5
    pixels = pixels_of(cells, (13, 32, 48, 3))
    for frame in range(13):
        expected = cells[grid.latent_frame(frame)].repeat(8, 0).repeat(8, 1)
        assert np.array_equal(pixels[frame], expected)
    assert cell_cover([FAULT], LatentGrid(5, 16, 16))[1, 0, 0] == 1.0


def test_only_the_cells_change_in_latent_space(wan_pipe, video, monkeypatch):
    cells = repair_cells(wan_pipe, abnormal(FAULT), video.shape, **TIGHT)
    decoded, decode = [], wan_pipe.vae.decode
    monkeypatch.setattr(wan_pipe.vae, "decode", lambda z, **k: decoded.append(z.clone()) or decode(z, **k))
    redraw_cells(wan_pipe, video, cells, prompt=PROMPT, seed=1, strength=1.0, **STEPS)
    new, known = decoded
    kept = ~torch.from_numpy(cells)
    assert torch.allclose(new[0][:, kept], known[0][:, kept], atol=1e-5), "the known cells are the encoded video itself"
    assert (new[0][:, ~kept] - known[0][:, ~kept]).abs().mean() > 0.05


@pytest.mark.slow
def test_the_seed_decides_and_the_pipeline_is_left_as_it_was(wan_pipe, video):
    cells = np.ones((2, 2, 2), bool)
    scheduler, before = wan_pipe.scheduler, wan_pipe.scheduler.timesteps.clone()
    one, same, other = (
        redraw_cells(wan_pipe, video, cells, prompt=PROMPT, seed=s, strength=1.0, **STEPS)[0] for s in (1, 1, 2)
    )
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    assert wan_pipe.scheduler is scheduler and torch.equal(scheduler.timesteps, before)
    assert one.shape == video.shape and one.dtype == np.uint8


@pytest.mark.slow
def test_the_mini_with_a_multistep_solver():
    strength = 0.5
    from cac_align.pipelines import open_pipeline

    pipe = open_pipeline(str(Path(__file__).parents[2] / "assets" / "wan-mini"))
    pipe.set_progress_bar_config(disable=True)
    size = {"height": 32, "width": 32, "num_frames": 9}
    options = {"num_inference_steps": 4, "guidance_scale": 3.0}
    prompt = "a yellow triangle moves right on a brown background"
    drawn = best_of_n(pipe, prompt, reward=good, n=1, **size, **options, **QUIET).candidates[0]
    late = Anomaly(AnomalyType.OBJECT, FrameRange(5, 8), {6: (Box(500, 500, 1000, 1000),)})
    told = repair(
        pipe, drawn, abnormal(late, frames=9), prompt=prompt, reward=good, strength=strength, **TIGHT, **options
    )
    assert told.cells.shape == (3, 4, 4) and told.cells.sum() == 4
    assert told.cost.forwards == 2 * int(4 * strength)
    still = np.abs(told.after[:5].astype(int) - drawn[:5]).mean()
    assert told.vae_error > 0 and still < 2 * told.vae_error + 1, "frames before the window stay"


def test_a_repair_counts_only_if_the_reward_rises_and_the_rest_stays(wan_pipe, video):
    call = {"prompt": PROMPT, "reward": good, **STEPS}
    worse = repair(wan_pipe, video, abnormal(FAULT), score=0.95, **call)
    assert not worse.accepted and worse.reason == "the reward does not rise (0.950 to 0.900)"
    assert worse.frames is worse.before and "not accepted" in repr(worse)

    def silent(videos, prompts=None, *, fps, **kwargs):
        return [None]

    unjudged = repair(wan_pipe, video, abnormal(FAULT), score=0.1, **{**call, "reward": silent})
    assert "could not be judged" in unjudged.reason
    everything = repair(wan_pipe, video, abnormal(window=FrameRange(0, 4)), score=0.1, **call)
    assert everything.accepted and everything.frames is everything.after and everything.kept_change == 0.0


def test_the_error_of_what_is_kept_is_measured_against_the_round_trip():
    before = np.full((5, 16, 16, 3), 100, np.uint8)
    round_trip, after = before + 3, before + 3
    after[1:, :8, :8] = 250
    cells = np.zeros((2, 2, 2), bool)
    cells[1, 0, 0] = True
    assert kept_errors(before, after, round_trip, cells) == (0.0, 3.0)
    after[0] += 16  # of the kept pixels, 256 of 256 + 4 * 192
    assert kept_errors(before, after, round_trip, cells) == (pytest.approx(16 * 256 / (256 + 4 * 192)), 3.0)
    assert kept_errors(before, after, round_trip, np.ones((2, 2, 2), bool)) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("verdict", "change", "words"),
    [
        (Verdict("normal", 0.9, num_frames=5, fps=16), {}, "a normal verdict without anomalies"),
        (abnormal(), {}, "names nothing to repair"),
        (abnormal(FAULT, frames=9), {}, "the verdict is about 9 frames, the video has 5"),
        (abnormal(FAULT), {"strength": 0.0}, r"strength=0.0 must lie in \(0, 1\]"),
        (abnormal(FAULT), {"strength": 0.3}, "leave one of the 2 steps"),
    ],
)
def test_what_cannot_be_repaired_is_said(wan_pipe, video, verdict, change, words):
    with pytest.raises(ValueError, match=words):
        repair(wan_pipe, video, verdict, prompt=PROMPT, reward=good, **{**STEPS, **change})


def test_other_pipelines_are_refused(wan_i2v_pipe, ltx_pipe, video):
    for pipe in (wan_i2v_pipe, ltx_pipe):
        with pytest.raises(ValueError, match="repair needs a Wan text-to-video pipeline"):
            repair(pipe, video, abnormal(FAULT), prompt=PROMPT, reward=good)
        with pytest.raises(ValueError, match="repair needs a Wan"):
            best_of_n(pipe, PROMPT, reward=good, n=2, repair=1, **QUIET)


# --- within best-of-n -------------------------------------------------------------------------------------------------


class Objecting:
    """Objects to every candidate as it was drawn, and to nothing it has not seen before."""

    name = "objecting"

    def __init__(self, known=()):
        self.seen = {v.tobytes() for v in known}
        self.calls = 0

    def judge_batch(self, videos, prompts=None, *, fps):
        self.calls += 1
        first = self.calls == 1
        if first:
            self.seen |= {v.tobytes() for v in videos}
        whole = Anomaly(AnomalyType.OBJECT, FrameRange(0, len(videos[0]) - 1))
        return [
            Verdict("abnormal", 0.1 + 0.1 * k, anomalies=(whole,), num_frames=len(v), fps=fps)
            if v.tobytes() in self.seen
            else Verdict("normal", 0.8, num_frames=len(v), fps=fps)
            for k, v in enumerate(videos)
        ]

    def __call__(self, videos, prompts=None, *, fps, **kwargs):
        return [v.score for v in self.judge_batch(videos, prompts, fps=fps)]


def test_the_best_candidate_is_mended_and_the_page_shows_how(wan_pipe, tmp_path):
    out = best_of_n(wan_pipe, PROMPT, reward=Objecting(), n=3, repair=2, output_dir=tmp_path, **WAN, **QUIET)
    assert list(out.repairs) == [2], "the best first, and no other once one is normal"
    assert (out.best, out.scores[2], out.verdicts[2].status) == (2, 0.8, "normal")
    assert np.array_equal(out.frames, out.repairs[2].after)
    # 0.8 of 2 steps is one step with guidance, beside 3 candidates of 2 steps.
    assert out.costs["forwards"] == {"candidates": 12, "repairs": 2, "total": 14} and out.costs["judge_calls"] == 4
    kept = {k: v for k, v in json.loads((tmp_path / "result.json").read_text())["settings"].items() if "repair" in k}
    assert kept == {"repair": 1, "repair_strength": 0.8, "repair_margin_s": 1.0, "repair_margin": 0.5}
    told = json.loads((tmp_path / "result.json").read_text())["candidates"][2]["repair"]
    assert told["accepted"] and told["score_before"] == pytest.approx(0.3) and told["cells"] == told["of_cells"] == 8
    for name in (told["video"], *told["pictures"].values()):
        assert (tmp_path / name).stat().st_size > 0
    page = (tmp_path / "report.html").read_text()
    assert all(text in page for text in ("Repair</h4>", "drawn again: what is bright", "Accepted. 8 of 8 latent cells"))
    assert page.count("<figure><img") >= 3 and "repaired" in str(out)
    render_folder(tmp_path)
    again = (tmp_path / "report.html").read_text()
    assert without_pictures(again) == without_pictures(page) and again.count("<figure><img") == page.count(
        "<figure><img"
    )
    for path in (tmp_path / "repairs").glob("*.png"):
        path.unlink()
    render_folder(tmp_path)
    assert "Accepted. 8 of 8 latent cells" in (tmp_path / "report.html").read_text(), (
        "without pictures, it is still told"
    )


@pytest.mark.slow
def test_a_repair_is_read_back_and_not_drawn_again(wan_pipe, tmp_path):
    call = {"n": 1, "repair": 1, "output_dir": tmp_path, **WAN, **QUIET}
    first = best_of_n(Counting(wan_pipe), PROMPT, reward=Objecting(), **call)
    passes = []
    hook = wan_pipe.transformer.register_forward_hook(lambda *_: passes.append(1))
    try:
        again = best_of_n(Counting(wan_pipe), PROMPT, reward=Objecting(), **call)
    finally:
        hook.remove()
    assert not passes and np.array_equal(again.frames, first.frames)
    assert again.costs["forwards"] == first.costs["forwards"]


def test_nothing_is_repaired_where_nothing_is_objected_to(wan_pipe, tmp_path):
    out = best_of_n(wan_pipe, PROMPT, reward=good, n=2, repair=2, output_dir=tmp_path, **WAN, **QUIET)
    assert not out.repairs and not (tmp_path / "repairs").exists()
    with pytest.raises(ValueError, match="repair=-1 must be an integer of at least 0"):
        best_of_n(wan_pipe, PROMPT, reward=good, n=2, repair=-1, **WAN, **QUIET)


@pytest.mark.slow
def test_previews_and_repair_go_together(wan_pipe):
    options = {**WAN, "num_inference_steps": 3}
    out = best_of_n(wan_pipe, PROMPT, reward=Late(), n=3, preview_steps=1, keep=1, repair=1, **options, **QUIET)
    assert list(out.repairs) == out.kept and out.best == out.kept[0]
    # 3 previews of 1 step, 1 video of 3, and 0.8 of 3 steps again; two forwards each.
    assert out.costs["forwards"]["total"] == 6 + 6 + 4 and out.costs["judge_calls"] == 5


class Late(Objecting):
    """Objects in the first two calls: previews, and what is drawn in full."""

    def judge_batch(self, videos, prompts=None, *, fps):
        if self.calls < 2:
            self.seen |= {v.tobytes() for v in videos}
        return super().judge_batch(videos, prompts, fps=fps)
