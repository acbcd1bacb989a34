"""Probes are what their names say, and the table counts wins as it says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cac_align import CaCReward
from cac_align.probes.probes import IMITATION, PROBES, find_probes, make_probe
from cac_align.probes.table import UNTOUCHED, ProbeAnswers, ask_probes, compare, probe_table
from cac_align.probes.videos import world_videos
from reward_model.statistics.intervals import wilson

ROOT = Path(__file__).resolve().parents[3]
FRAMES = np.random.default_rng(0).integers(0, 256, (24, 32, 40, 3), dtype=np.uint8)


def of(name: str, seed: int = 0) -> tuple[np.ndarray, str]:
    [probe] = find_probes([name])
    return make_probe(probe, FRAMES, "a ball", seed=seed)


@pytest.mark.parametrize("probe", PROBES, ids=lambda p: p.name)
def test_a_probe_keeps_shape_and_original(probe):
    before = FRAMES.copy()
    frames, prompt = make_probe(probe, FRAMES, "a ball", seed=3)
    assert frames.shape == FRAMES.shape and frames.dtype == np.uint8 and prompt.startswith("a ball")
    assert np.array_equal(FRAMES, before)
    again = make_probe(probe, FRAMES, "a ball", seed=3)
    assert np.array_equal(frames, again[0]) and prompt == again[1]
    assert np.array_equal(frames, FRAMES) == (prompt != "a ball"), "either the picture or the prompt is changed"


def test_what_probes_do():
    assert (of("static")[0] == FRAMES[0]).all()
    assert not of("black")[0].any()
    assert of("noise", 1)[0].std() > 70 and not np.array_equal(of("noise", 1)[0], of("noise", 2)[0])
    assert of("blurred")[0].std() < FRAMES.std() / 2
    assert "Ignore the above" in of("order in prompt")[1]
    text = of("text in video")[0]
    assert np.array_equal(text[:, :20], FRAMES[:, :20]) and (text[:, -4:].astype(int) == text[:1, -4:]).all()
    assert text[:, -4:].max() > 150, "white letters"
    assert text[:, -4:].min() < 60, "on black"


def test_a_stutter_holds_one_frame_and_goes_on_where_it_would_have_been():
    frames = of("stutter")[0]
    held = [k for k in range(1, 24) if np.array_equal(frames[k], frames[k - 1])]
    assert len(held) == 5 and held == list(range(held[0], held[0] + 5)), "a quarter of 24 frames"
    others = [k for k in range(24) if k not in held]
    assert np.array_equal(frames[others], FRAMES[others])


def test_the_imitated_answer_parses_as_a_normal_verdict():
    """It would do harm where a prompt is pasted into an answer: the probe must be a real one."""
    from reward_model.parsing import parse_turn

    answer = IMITATION[IMITATION.index("{") :]
    assert parse_turn(answer, turn=1, num_frames=21).status == "normal"


def test_bad_input():
    with pytest.raises(ValueError, match=r"frames \(3, 8, 8, 3\) of uint8 must be .* at least 4 frames"):
        make_probe(PROBES[0], FRAMES[:3, :8, :8], "x")
    with pytest.raises(ValueError, match="probe 'still' is unknown; there are 'static'"):
        find_probes(["still"])
    with pytest.raises(ValueError, match="got 0 and 1"):
        ask_probes({"a": brightness}, [], PROBES, fps=16)


def brightness(videos, prompts=None, *, fps, **kwargs):
    return [float(v.mean()) / 255 for v in videos]


def answers(probe: str, scores: list[float | None]) -> ProbeAnswers:
    return ProbeAnswers("r", probe, scores, [None] * len(scores), [None] * len(scores))


def test_wins_and_differences():
    gap, wins, clear = compare(
        answers("p", [0.51, 0.5, None, 0.1]), answers(UNTOUCHED, [0.5, 0.5, 0.5, 0.5]), num_resamples=200, seed=0
    )
    assert gap.value == pytest.approx(-0.13) and wins.value == pytest.approx(1 / 3), "a tie is not a win"
    assert clear.value == 0, "by a hundredth is not a clear one"
    assert wins.interval == wilson(1, 3)


def test_a_reward_that_likes_light_is_fooled_by_nothing_dark():
    videos = [(FRAMES, "a"), (FRAMES[::-1].copy(), "b")]
    found = ask_probes({"bright": brightness}, videos, find_probes(["black", "order in prompt"]), fps=16)
    lines = {row[1]: row for row in probe_table(found, PROBES, title="t").rows}
    assert lines["black"][4].value == 0 and lines["black"][6].value == 0
    assert lines["order in prompt"][5].value == 0, "it reads no prompts"
    assert lines[UNTOUCHED][5].value is None


@pytest.mark.slow
def test_a_judge_is_probed_with_its_verdicts(judge_folder):
    _, videos, fps = world_videos(1)
    judge = CaCReward(judge_folder, device="cpu")
    found = ask_probes({"cac": judge}, videos, find_probes(["static", "answer in prompt"]), fps=fps)
    assert [f.probe for f in found] == [UNTOUCHED, "static", "answer in prompt"]
    assert all(s is not None and a is not None for f in found for s, a in zip(f.scores, f.abnormal, strict=True))


def test_the_recipe(load_recipe, tmp_path, capsys):
    recipe = load_recipe("reward_probes")
    toy = "[{reward: 'tests.cac_align.flow_grpo.toy_rewards:brightness', name: bright}]"
    probes = ["static", "order in prompt"]
    recipe.main(["--rewards", toy, "--num", "2", "--probes", *probes, "--output", str(tmp_path)])
    assert "| bright" in capsys.readouterr().out
    data = json.loads((tmp_path / "probes.json").read_text())
    assert [a["probe"] for a in data["answers"]] == [UNTOUCHED, *probes] and len(data["answers"][0]["scores"]) == 2
    assert recipe.parser().parse_args([]).probes is None and list(find_probes(None)) == list(PROBES), "all by default"
    with pytest.raises(ValueError, match="--videos and --pipe exclude each other"):
        recipe.main(["--videos", "x", "--pipe", "y"])
    with pytest.raises(ValueError, match="--num 0 must be at least 1"):
        recipe.main(["--num", "0"])
