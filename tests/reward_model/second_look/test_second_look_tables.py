"""Tables of the experiment from rows by hand, and the experiment with a tiny judge in the place of trained ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from reward_model.evaluation.running.row import Row
from reward_model.second_look import stage_runs
from reward_model.second_look.experiment import run_experiment
from reward_model.second_look.settings import SecondLookConfig
from reward_model.second_look.tables import difference_table, ladder_table, parts_table, values
from reward_model.statistics.intervals import wilson
from tests.campaigns import draws

#: Truth, scan, verdict and part: a judge that flags half of what it cannot decide, and clears it rightly.
HALF = (
    *(("normal", "abnormal", "normal", "zoom/fade"), ("abnormal", "abnormal", "abnormal", "zoom/fade")),
    *(("normal", "normal", "normal", "zoom/fade"), ("abnormal", "normal", "normal", "zoom/fade")),
    *(("normal", "normal", "normal", "easy"), ("abnormal", "abnormal", "abnormal", "easy")),
)


def rows(lines=HALF, **columns) -> list[Row]:
    return [
        Row(
            index,
            f"v{index}",
            "vanish" if truth == "abnormal" else "",
            truth,
            has_verdict=True,
            status=final,
            scan_status=scan,
            zoomed=scan == "abnormal",
            group=group,
            **columns,
        )
        for index, (truth, scan, final, group) in enumerate(lines)
    ]


def of(table, judge: str) -> dict[str, object]:
    return next(
        dict(zip(table.columns, row, strict=True))
        for row in table.rows
        if judge in (row[0], row[1] if len(row) > 1 else "")
    )


def test_one_turn_and_two_by_hand():
    table = ladder_table("b", {"half": [rows()]}, num_resamples=100)
    found = of(table, "half")
    assert (found["one turn"].value, found["two turns"].value) == (4 / 6, 5 / 6)
    assert found["two - one"].value == pytest.approx(1 / 6) and found["second turns"].value == 3 / 6
    assert found["scan flags, normal"].value == found["scan flags, abnormal"].value == 1 / 2, "of the undecided alone"
    assert found["two turns"].interval == wilson(5, 6) and found["seeds"] == 1
    assert "Only turn two can decide 0.667 of these 6 videos: one turn reaches 0.667" in table.notes[0]


def test_parts_by_hand():
    table = parts_table("b", {"half": [rows()]}, num_resamples=100)
    assert [row[:2] for row in table.rows] == [("zoom/fade", "half"), ("easy", "half")]
    found = dict(zip(table.columns, table.rows[0], strict=True))
    assert (found["right, normal"].value, found["right, abnormal"].value, found["videos"]) == (1.0, 0.5, 4)


def test_several_seeds_are_a_mean_whose_interval_redraws_them():
    blind = [(t, "normal", "normal", g) for t, _, _, g in HALF]
    table = ladder_table("b", {"both": [rows(), rows(blind)], "one": [rows()]}, num_resamples=400)
    both = of(table, "both")["two turns"]
    assert both.value == pytest.approx((5 / 6 + 3 / 6) / 2)
    assert both.interval.low < 0.5 < 5 / 6 < both.interval.high, "each seed alone is among the redrawn"
    assert of(table, "both")["seeds"] == 2


def test_seeds_that_all_agree_say_no_more_than_one():
    right = [(t, t, t, g) for t, _, _, g in HALF]
    found = of(ladder_table("b", {"x": [rows(right)] * 3}, num_resamples=100), "x")["two turns"]
    assert found.value == 1.0 and found.interval == wilson(6, 6)


def test_an_unparsed_scan_is_wrong_and_flags_nothing():
    lines = [("abnormal", None, "abnormal", "zoom/fade"), ("normal", "normal", "normal", "zoom/fade")]
    found = of(ladder_table("b", {"x": [rows(lines)]}, num_resamples=100), "x")
    assert (found["one turn"].value, found["two turns"].value, found["scan flags, abnormal"].value) == (0.5, 1.0, 0.0)


def test_differences_pair_the_videos_and_count_missed_overlaps_as_nothing():
    blind = [(t, "normal", "normal", g) for t, _, _, g in HALF]
    judges = {"stage 2": [rows(temporal_iou=None)], "new": [rows(blind, temporal_iou=0.5, spatial_iou=0.25)]}
    table = difference_table("b", judges, "stage 2", ["new"], num_resamples=100)
    found = of(table, "new")
    assert found["accuracy"].value == pytest.approx(-2 / 6) and found["accuracy"].interval.high <= 0
    assert (found["temporal IoU, scan"].value, found["spatial IoU"].value) == (0.5, 0.25)
    swapped = difference_table("b", judges, "new", ["stage 2"], num_resamples=100)
    assert of(swapped, "stage 2")["accuracy"].value == -found["accuracy"].value


def test_rows_of_other_videos_are_refused():
    other = [Row(9, "w", "", "normal", has_verdict=True, status="normal")]
    with pytest.raises(ValueError, match="must have judged the same videos"):
        values([rows(), other], lambda row: row.correct)
    assert values([rows()] * 2, lambda row: row.correct).tolist() == [[1, 1, 1, 0, 1, 1]] * 2


# --- the experiment ---------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(monkeypatch, judge_folder):
    """Trainings end at once with a tiny judge; what was launched."""
    launched = []

    def launch(script: Path, *arguments, processes: int, log: Path):
        file = Path(arguments[1])
        launched.append((script.name, file.parent.name, processes))
        place = file.parent if script.name.startswith("stage2") else file.parent / "judge"
        shutil.copytree(judge_folder, place, dirs_exist_ok=True)

    monkeypatch.setattr(stage_runs, "launch_recipe", launch)
    return launched


def config(tmp_path, judge_folder, **changes) -> SecondLookConfig:
    given = {"output_dir": str(tmp_path / "out"), "model": str(judge_folder), "bench_videos": 2, "num_resamples": 100}
    stages = {"stage2": {"max_steps": 1, "matrix_lr": None}, "variants": ("batch_deviation",)}
    return SecondLookConfig(**{**given, **stages, **changes})


def test_an_experiment_trains_judges_and_writes_once(tmp_path, judge_folder, trained):
    seeds = (0, 1)[: draws(2, 1)]
    chosen = config(tmp_path, judge_folder, seeds=seeds, ablation=("batch_deviation", "no_deviation"))
    said: list[str] = []
    tables, written = run_experiment(chosen, ["batch_deviation", "no_deviation"], said.append)
    once = [
        ("stage2_sft.py", "stage2", 2),
        ("stage3_grpo.py", "batch_deviation", 2),
        ("stage3_grpo.py", "no_deviation", 2),
    ]
    assert trained == once * len(seeds)
    titles = [t.title.partition(",")[0] for t in tables]
    assert titles == [
        "One turn and two on second-look",
        "Parts of second-look",
        "Differences to stage 2",
        "Differences to batch_deviation",
        "Cost",
    ]
    assert [row[0] for row in tables[0].rows] == ["judge as given", "stage 2", "batch_deviation", "no_deviation"]
    assert [row[-1] for row in tables[0].rows] == [1, *[len(seeds)] * 3]
    text, data = written[0].read_text(), json.loads(written[1].read_text())
    assert "### One turn and two on second-look" in text and len(data) == 5
    assert sum("of 2 videos" in line for line in said) == 1 + 3 * len(seeds)
    said.clear()
    again, _ = run_experiment(chosen, ["batch_deviation", "no_deviation"], said.append)
    assert trained == once * len(seeds) and not said, "nothing is trained or judged twice"
    assert [t.rows for t in again[:4]] == [t.rows for t in tables[:4]]


@pytest.mark.slow
def test_another_row_is_added_to_a_finished_experiment(tmp_path, judge_folder, trained):
    chosen = config(tmp_path, judge_folder)
    run_experiment(chosen, ["batch_deviation"])
    tables, _ = run_experiment(chosen, ["batch_deviation", "cheap_rescue"])
    assert [name for _, name, _ in trained] == ["stage2", "batch_deviation", "cheap_rescue"]
    assert [row[0] for row in tables[0].rows][-1] == "cheap_rescue"


@pytest.mark.slow
def test_a_training_that_failed_is_continued(tmp_path, judge_folder, trained, monkeypatch):
    chosen, whole = config(tmp_path, judge_folder), stage_runs.launch_recipe

    def fail(script, *_, **__):
        raise ValueError(f"{script.name} ended with exit code 2")

    monkeypatch.setattr(stage_runs, "launch_recipe", fail)
    with pytest.raises(ValueError, match=r"stage2_sft\.py ended with exit code 2"):
        run_experiment(chosen, ["batch_deviation"])
    assert (tmp_path / "out" / "tables.md").is_file(), "what was judged before is shown"
    monkeypatch.setattr(stage_runs, "launch_recipe", whole)
    run_experiment(chosen, ["batch_deviation"])
    state = json.loads((tmp_path / "out" / "seed-0" / "stage2" / "training.json").read_text())
    assert len(trained) == 2 and state["seconds"] >= state["spent"] > 0
