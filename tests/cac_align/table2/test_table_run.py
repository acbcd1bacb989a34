"""A table from settings to page, on tiny real models."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cac_align import best_of_n
from cac_align.cli import main
from cac_align.flow_grpo.needs import own_reward
from cac_align.rewards.calibration import CalibrationError
from cac_align.selection import candidates, run_folder
from cac_align.selection.candidates import generate
from cac_align.selection.run_folder import ResumeError
from cac_align.table2.columns import find_column
from cac_align.table2.draws import source_pipeline
from cac_align.table2.matrix import Matrix
from cac_align.table2.output import write_result_tables, write_table_files
from cac_align.table2.results import read_table_results
from cac_align.table2.tables import TableMaker
from tests.cac_align.table2 import tables
from tests.campaigns import slow_but

pytestmark = pytest.mark.filterwarnings("ignore")


def test_every_video_is_scored_once(made_table):
    job, asked = made_table
    items = 2 * 2
    assert asked.count("bright") == asked.count("red") == items * (3 + 1), (
        "three candidates of the base, one of the LoRA"
    )
    assert len(list(job.folder.glob("videos/base/*/candidates/*.npz"))) == items * 3
    assert len(list(job.folder.glob("videos/grpo-bright/seed-0/*/candidates/*.npz"))) == items


def test_nothing_is_left_to_do(made_table, monkeypatch, tmp_path):
    job, _ = made_table
    monkeypatch.setenv("TABLE_TEST_COUNT", str(tmp_path / "count"))
    again = tables.make_job(Path(job.settings.flow_grpo).parent, job.folder)
    assert not [u for u in again.units(["train", "draw", "score"]) if not u.done()]
    again.work(["train", "draw", "score"])
    assert not (tmp_path / "count").exists()


def test_a_batch_draws_and_scores_the_videos_of_a_prompt_at_once(made_table, table_inputs, tmp_path, monkeypatch):
    other, _ = made_table
    calls = []
    monkeypatch.setattr(candidates, "generate", lambda *a: (calls.append(len(a[2])), generate(*a))[1])
    changes = {"rows": tables.settings(table_inputs, tmp_path)["rows"][:2], "batch_size": 6}
    job = tables.make_job(table_inputs, tmp_path / "out", **changes)
    base = job.sources["base"]
    assert [[i.name for i in group] for group in job.draws.groups(base)] == [["0000-0", "0000-1"], ["0001-0", "0001-1"]]
    asked = []
    scorer = job.scores.scorers["bright"]
    job.scores.scorers["bright"] = replace(scorer, ask=lambda *a: (asked.append(len(a[0])), scorer.ask(*a))[1])
    job.work(["draw", "score"])
    assert calls == asked == [6, 6]
    for item in job.draws.items:
        frames = [job.draws.load(base, item, k) for k in range(3)]
        alone = [other.draws.load(other.sources["base"], item, k) for k in range(3)]
        assert np.abs(np.stack(frames).astype(int) - np.stack(alone)).max() <= 1
        scores = [job.scores.answer(base, item, k, "bright")["score"] for k in range(3)]
        assert scores == tables.brightness(frames, fps=16), "each answer stands at its own video"
    assert job.draws.forwards(base, 3) == other.draws.forwards(other.sources["base"], 3)

    run_folder.frames_path(job.draws.place(base, job.draws.items[1]), 2).unlink()
    again = tables.make_job(table_inputs, tmp_path / "out", **{**changes, "batch_size": 4})
    assert [len(group) for group in again.draws.groups(base)] == [1, 1, 1, 1]
    again.work(["draw", "score"])
    assert calls == [6, 6, 1], "what was there is not drawn again"


def test_diversity_compares_what_a_row_delivers(made_table):
    job, _ = made_table
    matrix, column = Matrix(job), find_column("diversity")
    row = job.settings.row("BoN bright")
    [chosen] = matrix.chosen(row)
    found = matrix.array(row, column)
    assert found.shape == (1, 2, 2)
    for prompt in (0, 1):
        a, b = (job.draws.load(v.source, v.item, v.index).astype(float) for v in chosen[2 * prompt : 2 * prompt + 2])
        assert found[0, prompt] == pytest.approx([np.abs(a - b).mean() / 255] * 2)
    trained = matrix.array(job.settings.row("GRPO bright"), column)
    assert trained.shape == (1, 2, 2) and (trained > 0).all()


def test_candidates_are_those_of_best_of_n(made_table):
    job, _ = made_table
    item, base = job.draws.items[3], job.sources["base"]
    with source_pipeline(job.draws.config, base, "cpu") as pipe:
        out = best_of_n(
            pipe, item.prompt, reward=tables.brightness, n=3, seed=item.seed, progress_bar=False, **job.draws.arguments
        )
    for k in range(3):
        assert np.array_equal(out.candidates[k], job.draws.load(base, item, k))
    matrix = Matrix(job)
    [chosen] = matrix.chosen(job.settings.row("BoN bright"))
    assert chosen[3].index == out.best


def test_a_lora_starts_from_the_latents_of_candidate_0_and_changes_the_video(made_table):
    job, _ = made_table
    item, lora = job.draws.items[0], job.sources["grpo-bright/seed-0"]
    drawn = job.draws.load(lora, item, 0)
    with source_pipeline(job.draws.config, lora, "cpu") as pipe:
        generator = torch.Generator("cpu").manual_seed(job.draws.made_by(lora, item, 0)["candidate_seed"])
        frames = pipe(item.prompt, generator=generator, output_type="np", **job.draws.arguments).frames[0]
    assert np.array_equal(np.round(frames * 255).astype(np.uint8), drawn)
    base = job.draws.load(job.sources["base"], item, 0)
    assert not np.array_equal(base, drawn)
    seeds = [job.draws.made_by(s, item, 0)["candidate_seed"] for s in job.sources.values()]
    assert len(set(seeds)) == 1


def test_arrays_hold_the_chosen_videos_values(made_table):
    job, _ = made_table
    matrix = Matrix(job)
    bright = next(c for c in matrix.columns if c.name == "reward_bright")
    base, best = (matrix.array(job.settings.row(name), bright) for name in ("base", "BoN bright"))
    assert base.shape == best.shape == (1, 2, 2)
    item = job.draws.items[2]  # the second prompt, first seed
    videos = [job.draws.load(job.sources["base"], item, k) for k in range(3)]
    scores = tables.brightness(videos, fps=16)
    assert base[0, 1, 0] == scores[0] and best[0, 1, 0] == max(scores)
    assert (best >= base).all()


def test_a_candidate_that_one_reward_could_not_judge_is_not_chosen(made_table):
    job, _ = made_table
    [chosen] = Matrix(job).chosen(job.settings.row("BoN both"))
    assert all(video.index != 1 for video in chosen), "redness has no score for the second video"


@pytest.mark.parametrize("curves", slow_but([False, True], False))
def test_outputs(made_table, monkeypatch, tmp_path, curves):
    job, _ = made_table
    if not curves:
        monkeypatch.setattr(job, "trainings", {})  # matplotlib takes seconds to load
    written = write_table_files(job)
    assert {p.name for p in written} >= {
        "table2.md",
        "table2.tex",
        "table2.json",
        "results.json",
        "correlations.md",
        "table2.html",
    }
    text = (job.folder / "table2.md").read_text()
    for expected in (
        "GRPO bright",
        "Ratio to the base",
        "motion\\_energy of at least 0.95 of base",
        "The paper's Table 2",
    ):
        assert expected in text
    agreement = json.loads((job.folder / "correlations.json").read_text())
    assert {entry["name"] for entry in agreement["within_prompts"]} >= set(job.settings.reward_specs)
    assert agreement["correlations"] and "Rewards within a prompt" in (job.folder / "correlations.md").read_text()
    data = json.loads((job.folder / "table2.json").read_text())
    assert np.shape(data["values"]["grpo-bright"]["motion_energy"]) == (1, 2, 2)
    results = read_table_results(job.folder / "results.json")
    write_result_tables(results, tmp_path)
    for name in ("table2.md", "table2.tex", "table2.json"):
        assert (tmp_path / name).read_bytes() == (job.folder / name).read_bytes()
    assert results.made_by["scorers"].keys() == {"canaries", "bright", "red"} and results.made_by["model"]
    assert results.made_by["adapters"].keys() == {"grpo-bright/seed-0"}
    html = (job.folder / "table2.html").read_text()
    assert html.count("<video") >= 6 and "http" not in html.replace("http-equiv", "")
    if curves:
        assert (job.folder / "curves.png").read_bytes()[:4] == b"\x89PNG"
    prompts = json.loads((job.folder / "videos-mp4" / "prompts.json").read_text())
    assert len(prompts) == len(list((job.folder / "videos-mp4").glob("*.mp4"))) >= 8


def test_means_and_differences_are_those_of_the_values(made_table):
    job, _ = made_table
    maker = TableMaker(Matrix(job).results())
    column = find_column("motion_energy")
    line = next(r for r in maker.differences().rows if r[0] == "GRPO bright")
    row, base = (maker.of(job.settings.row(n), column) for n in ("GRPO bright", "base"))
    assert line[1].value == pytest.approx((row - base).mean())
    ratio = next(r for r in maker.ratios().rows if r[0] == "GRPO bright")
    assert ratio[2].value == pytest.approx(row.mean() / base.mean())
    low, high = ratio[2].interval
    assert ratio[1] == ("yes" if low >= 0.95 else "no" if high < 0.95 else ratio[1])


@pytest.mark.slow
def test_a_row_that_is_not_there_yet_is_named(table_inputs, tmp_path):
    job = tables.make_job(table_inputs, tmp_path, num_eval_prompts=2, eval_seeds=[0], n=1)
    job.work(["draw", "score"], row="base")
    notes = TableMaker(Matrix(job).results()).means().notes
    assert any(n.startswith("GRPO bright: 2 of 2 videos without motion energy") for n in notes)


@pytest.mark.slow
def test_videos_of_other_settings_are_refused(table_inputs, tmp_path):
    short = {"rows": [{"name": "base"}], "num_eval_prompts": 2, "eval_seeds": [0]}
    tables.make_job(table_inputs, tmp_path, **short).work(["draw"])
    other = tables.make_job(table_inputs, tmp_path, num_inference_steps=4, **short)
    with pytest.raises(ResumeError, match=r"arguments\.num_inference_steps was 3, now 4"):
        other.work(["score"])


@pytest.mark.slow
def test_scores_of_a_changed_reward_are_made_anew(table_inputs, tmp_path):
    short = {"rows": [{"name": "base"}], "num_eval_prompts": 2, "eval_seeds": [0]}
    tables.make_job(table_inputs, tmp_path, **short).work(["draw", "score"])
    rewards = [{"reward": f"{tables.TOYS}:redness", "name": "bright"}]
    other = tables.make_job(table_inputs, tmp_path, rewards=rewards, **short)
    item, base = other.draws.items[0], other.sources["base"]
    assert [s.name for s in other.scores.missing(base, item)] == ["bright"], "canaries stay"
    assert other.scores.values(base, item)[0].keys() >= {"canaries/motion_energy"}
    assert "bright" not in other.scores.values(base, item)[0]


def test_a_training_of_other_settings_is_refused(made_table):
    job, _ = made_table
    [training] = job.trainings.values()
    assert training.done()
    changed = replace(training, config=replace(training.config, learning_rate=0.5))
    with pytest.raises(ValueError, match=r"learning_rate was 0\.01, now 0\.5"):
        changed.done()


def test_parts_that_nobody_prepares_are_named(table_inputs, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    job = tables.make_job(table_inputs, tmp_path)
    with pytest.raises(ValueError, match=r"units wait for results .* run the earlier parts \(train, draw\) first"):
        job.work(["score"])


@pytest.mark.slow
def test_a_table_on_a_fixed_scale_names_the_command_that_makes_it(table_inputs, tmp_path):
    changes = {"overrides": {"calibration": str(tmp_path / "scale.json")}}
    with pytest.raises(CalibrationError, match="there is no calibration") as raised:
        tables.make_job(table_inputs, tmp_path / "table", **changes)
    command = str(raised.value).rpartition("make it for these settings: ")[2]
    assert main([*shlex.split(command)[1:], "--num-videos", "12"]) == 0
    job = tables.make_job(table_inputs, tmp_path / "table", **changes)
    assert job.calibration.scales.keys() == {"bright", "red"}
    [training] = job.trainings.values()
    assert training.config.calibration == str(tmp_path / "scale.json")
    own_reward(training.config)  # one of its rewards, on the scale that was measured for both
