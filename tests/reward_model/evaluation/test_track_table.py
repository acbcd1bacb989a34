"""The table of ticks: columns from rows, gains by seeds, limits from the truth, cheats; its recipe and the presets."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reward_model.engine.settings import read_yaml
from reward_model.evaluation.benches.bench import DevBench
from reward_model.evaluation.running.row import Row
from reward_model.evaluation.tables.track_table import (
    CHEATS,
    cheat_overlaps,
    cheat_table,
    cheat_tube,
    codec_limit,
    limit_table,
    t_plus_mv,
    track_gain_table,
    track_table,
)
from reward_model.schema import Box
from reward_model.tracks.codec import STEPS, PerFrame, Ticks
from reward_model.training.grpo.config import OWN, GrpoConfig
from reward_model.world.narration import narrate_zoom
from tests.campaigns import draws

PRESETS = Path(__file__).parents[3] / "recipes" / "configs" / "tracks"
BOX, NEAR = Box(0, 0, 100, 100), Box(0, 0, 100, 34)


def row(index, value, truth="abnormal", **more):
    overlaps = dict.fromkeys(("tube_iou", "hull_viou", "t_iou", "mv_union", "mv_inter", "mv_gt"), value)
    found = Row(index, f"v{index}", "", truth, has_verdict=True, zoomed=True, zoom_tokens=40 + index, seconds=2.0)
    return replace(found, **(overlaps if truth == "abnormal" else {}), **more)


def cells(table, line=0):
    return dict(zip(table.columns, table.rows[line], strict=True))


def test_a_line_for_each_judge_and_rate():
    rows = [row(0, 0.2), row(1, 0.6), row(2, None), row(3, 0, "normal", zoomed=False, zoom_tokens=0)]
    table = track_table("dev", {("ticks", 8.0): [rows], ("ticks", 4.0): [rows[:2], [row(0, 0.4), row(1, 1.0)]]})
    one = cells(table)
    assert (one["judge"], one["fps"], one["checkpoints"]) == ("ticks", "8", 1)
    assert one["vIoU"].value == pytest.approx(0.8 / 3), "a missed one is 0"
    assert one["t + mv"].value == pytest.approx(1.6 / 3)
    assert one["tokens"].value == 41 and one["seconds a video"].value == 2
    assert one["vIoU"].interval.low <= one["vIoU"].value <= one["vIoU"].interval.high
    two = cells(table, 1)
    assert two["checkpoints"] == 2 and two["vIoU"].value == pytest.approx(0.55)
    assert tuple(two["vIoU"].interval) == pytest.approx((0.4, 0.7))


def test_gains_are_paired_by_video_and_by_seed():
    before = [[row(k, 0.1 * k) for k in range(4)], [row(k, 0.2) for k in range(4)]]
    after = [[row(k, 0.1 * k + 0.1) for k in range(4)], [row(k, 0.25) for k in range(4)]]
    found = cells(track_gain_table("dev", {"rl - sft": (after, before)}))
    assert found["t + mv"].value == pytest.approx(0.15) and found["videos"] == 4
    assert tuple(found["t + mv"].interval) == pytest.approx((0.15, 0.15))
    assert found["each seed"] == "+0.200, +0.100"
    with pytest.raises(ValueError, match="2 checkpoints against 1"):
        track_gain_table("dev", {"rl - sft": (after, before[:1])})
    with pytest.raises(ValueError, match="same abnormal videos"):
        track_gain_table("dev", {"rl - sft": (after[:1], [before[0][:3]])})
    assert t_plus_mv(Row(0, "v", "", "abnormal")) == 0


def test_limits_fall_with_the_step_and_ticks_take_fewer_tokens():
    bench = DevBench(draws(6, 4))
    found = {
        (name, 8.0): codec_limit(bench, codec, 8.0, len, narrate_zoom)
        for name, codec in {"all": PerFrame(), **{n: Ticks(s) for n, s in STEPS.items()}}.items()
    }
    means = {name: np.mean(limit.viou) for (name, _), limit in found.items()}
    assert means["all"] == 1 > means["0.25s"] >= means["0.5s"] >= means["1s"] > 0.3
    boxes = {name: np.mean(limit.box_tokens) for (name, _), limit in found.items()}
    assert boxes["1s"] <= boxes["all"] / 4
    assert len(limit_table("dev", found).rows) == 4


def test_cheats_are_what_they_are_called():
    drawn, truth = {4: (NEAR,), 5: (NEAR,), 6: (NEAR,)}, {5: (BOX,), 6: (BOX,)}
    assert cheat_tube("whole video", drawn, truth, 10) == dict.fromkeys(range(10), (NEAR,))
    assert cheat_tube("one tick", drawn, truth, 10) == {5: (NEAR,)}
    assert cheat_tube("one perfect tick", drawn, truth, 10) == {6: (BOX,)}
    assert cheat_tube("full frame", drawn, truth, 10) == dict.fromkeys((4, 5, 6), (Box(0, 0, 1000, 1000),))
    assert all(cheat_tube(name, {}, truth, 10) == {} for name in CHEATS)


def test_under_union_no_cheat_pays_and_under_inter_one_does():
    """Two true frames, boxes of a third of the true area: the mean overlap that CaC reports."""
    answers = [({4: (NEAR,), 5: (NEAR,)}, {4: (BOX,), 5: (BOX,)}, 40)] * draws(3, 2)
    table = cheat_table("dev", cheat_overlaps(answers))
    found = {cells(table, k)["answer"]: cells(table, k) for k in range(len(table.rows))}
    honest = found.pop("honest")
    assert set(found) == set(CHEATS) and honest["t + mv, union"].value == pytest.approx(1.34)
    assert all(f[f"t + mv, {norm}"].value < 1.34 for f in found.values() for norm in ("union", "gt"))
    assert found["one perfect tick"]["t + mv, inter"].value == 1.5 > honest["t + mv, inter"].value


@pytest.mark.slow
def test_the_recipe_writes_the_limits(load_recipe, tmp_path, capsys):
    assert load_recipe("track_table").main(["--limits", "--videos", "4", "--output", str(tmp_path)]) == 0
    assert "Limits of ticks on dev" in capsys.readouterr().out and (tmp_path / "tables.json").is_file()


@pytest.mark.slow
def test_the_recipe_measures_judges_gains_and_cheats(load_recipe, tmp_path):
    """The shipped judge twice: no gain over itself, and no cheat exceeds it under the norm that training uses."""
    words = ["--models", "a=assets/cac-mini", "b=assets/cac-mini", "--gain", "a:b", "--cheats", "a", "--videos", "8"]
    assert load_recipe("track_table").main([*words, "--output", str(tmp_path)]) == 0
    tables = {t["title"]: t for t in json.loads((tmp_path / "tables.json").read_text())["tables"]}
    assert [*tables] == ["Tracks on dev", "Gains of tracks on dev", "Cheats on dev"]
    ((gain,),) = tables["Gains of tracks on dev"]["groups"]
    assert gain["t + mv"] == {"value": 0, "interval": [0, 0]} and gain["videos"] == 4
    lines = [line for group in tables["Cheats on dev"]["groups"] for line in group]
    value = {line["answer"]: line["t + mv, union"]["value"] for line in lines}
    honest = value.pop("honest")
    assert honest > 0.8 and all(v < honest for v in value.values())


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "nothing to measure"),
        (["--limits", "--fps", "0"], "above 0"),
        (["--models", "a"], "must read ROW=FOLDER"),
        (["--models", "a=x", "--gain", "a:b"], "must name judges"),
        (["--models", "a=x", "--gain", "a"], "must name judges"),
        (["--models", "a=x", "--cheats", "b"], "must name judges"),
        (["--limits", "--batch-size", "0"], "batch_size=0"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_a_model_loads(load_recipe, tmp_path, words, reason):
    with pytest.raises(ValueError, match=reason):
        load_recipe("track_table").main([*words, "--output", str(tmp_path / "out")])


def test_clips_keep_their_seconds_at_another_rate(load_recipe):
    recipe, mini = load_recipe("track_table"), str(PRESETS.parents[2] / "assets" / "cac-mini")
    assert recipe.settings_at(mini, 8) == {"zoom_fps": 8, "max_zoom_frames": 24}
    assert recipe.settings_at(mini, 4) == {"zoom_fps": 4, "max_zoom_frames": 12}
    fast = recipe.settings_at(mini, 16)
    assert fast == {"zoom_fps": 16, "max_zoom_frames": 41, "max_zoom_tokens": 960}, "it knows 41 marks of frames"


@pytest.mark.parametrize("name", ["mini_grpo", "smoke_grpo", "full_grpo"])
def test_presets_of_stage_three_ask_for_the_verifier(name):
    settings = read_yaml(PRESETS / f"{name}.yaml")
    config = GrpoConfig.from_dict({k: v for k, v in settings.items() if k not in OWN})
    assert (config.localisation, config.mv_norm) == ("tv_verifier", "union")
    assert (config.weight_temporal, config.weight_spatial) == (1, 1)


@pytest.mark.parametrize("name", ["mini", "smoke", "full"])
def test_presets_of_stage_two_ask_for_ticks(name):
    from reward_model.minis.stages import MiniArguments
    from reward_model.training.sft.config import parse_stage
    from reward_model.training.sft.model import judge_settings_of

    stage, _, _ = parse_stage(["--config", str(PRESETS / f"{name}.yaml"), "--dry-run"], options=MiniArguments)
    from reward_model.config import JudgeConfig

    assert judge_settings_of(stage, JudgeConfig()).track in STEPS
    assert stage.gt_replace == ("on" if name == "full" else "off")
