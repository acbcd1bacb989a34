"""Faults against forward passes: logs are counted as they were written, and a row is timed to another one's end."""

import json
from pathlib import Path

import pytest

from cac_align.prompts import read_prompts
from cac_align.table2.output import write_table_files
from cac_align.table2.pace import Pace, mean_pace, pace, pace_table, plot_pace
from cac_align.table2.settings import read_settings
from cac_align.table2.training import trainings
from tests.cac_align.table2 import tables
from tests.campaigns import slow_but

CONFIGS = Path(tables.ROOT) / "recipes" / "configs"
GRPO = [Pace((0, 100, 200, 300), (0.4, 0.4, 0.3, 0.2)), Pace((0, 140, 240, 340), (0.4, 0.2, 0.1, 0.2))]
OTHER = [Pace((0, 50, 100, 150), (0.4, 0.2, 0.1, 0.1))]


def test_a_pace_counts_what_was_drawn_and_learned_before_each_evaluation():
    log = [
        {"step": 0, "eval/part/rule": 0.75},
        {"step": 1, "forwards/sample": 9.0, "forwards/train": 5.0},
        {"step": 2, "forwards/sample": 9.0, "forwards/train": 5.0},
        {"step": 2, "eval/part/rule": 0.875},
        {
            "step": 2,
            "forwards/sample": 7.0,
            "forwards/train": 4.0,
        },  # again, after a kill: the last word counts
        {"step": 3, "forwards/train": 6.0},
        {"step": 3, "eval/part/rule": 1.0},
    ]
    assert pace(log) == Pace((0, 25.0, 31.0), (0.25, 0.125, 0.0))
    assert pace(log[1:3]) is None and pace(log[:1]) is None


def test_a_row_is_timed_to_the_last_rate_of_another():
    assert mean_pace(GRPO).rates == pytest.approx((0.4, 0.3, 0.2, 0.2)) and mean_pace(GRPO).forwards[1] == 120
    assert mean_pace([*GRPO, OTHER[0], Pace((0, 9), (0.4, 0.1))]).forwards == (0, 74.75), "as far as all have come"
    lines = {r[0]: r for r in pace_table({"grpo": GRPO, "other": OTHER}, "grpo", 96).rows}
    assert [lines[n][5] for n in ("grpo", "other")] == [220, 50]
    assert [lines[n][6] for n in ("grpo", "other")] == [1, pytest.approx(50 / 220)]
    assert lines["grpo"][3].value == pytest.approx(0.2) and lines["grpo"][4] == 320
    low, high = lines["other"][3].interval
    assert low < 0.1 < high
    never = pace_table({"grpo": OTHER, "late": GRPO}, "grpo", 96).rows
    assert [r[5:] for r in never] == [(100, 1), (None, None)]
    with pytest.raises(ValueError, match="no training of 'nft' has a log with evaluations yet; run with --parts train"):
        pace_table({"grpo": GRPO}, "nft", 96)


RULE = [{"reward": "cac_align.table2.measures:rule", "name": "rule"}]


@pytest.mark.parametrize("reach, watch, said", [
    ("base", True, "reach='base' is of kind base; name a row that is trained here: 'GRPO bright'"),
    ("nobody", True, "no row 'nobody'"),
    ("GRPO bright", False, "reach='GRPO bright' counts faults while it is trained: watch the rule, with "),
    ("GRPO bright", True, "reach='GRPO bright' needs trainings that are evaluated: set overrides.eval_prompts"),
])  # fmt: skip
def test_what_cannot_be_timed_is_refused(table_inputs, tmp_path, reach, watch, said):
    with pytest.raises(ValueError, match=said):
        tables.make_job(table_inputs, tmp_path, reach=reach, watch=RULE if watch else [])


@pytest.mark.parametrize("drawn", slow_but([False, True], False))
def test_a_table_that_is_asked_to_writes_the_pace(made_table, table_inputs, tmp_path, monkeypatch, drawn):
    if drawn:
        files = plot_pace({"grpo": GRPO, "other": OTHER}, "grpo", tmp_path)
        assert [f.name for f in files] == ["pace.png", "pace_dark.png"]
        assert all(f.read_bytes()[:4] == b"\x89PNG" for f in files)
        return
    made, _ = made_table
    watched = {"eval_prompts": str(table_inputs / "eval.txt")}
    job = tables.make_job(table_inputs, tmp_path / "timed", reach="GRPO bright", watch=RULE, overrides=watched)
    [training] = job.trainings.values()
    monkeypatch.setattr(made, "settings", job.settings)
    monkeypatch.setattr(made, "trainings", job.trainings)
    monkeypatch.setattr("cac_align.table2.pace.plot_pace", lambda *_: [])  # matplotlib takes seconds to load
    monkeypatch.setattr("cac_align.table2.curves.plot_curves", lambda *_: [])
    assert made.folder / "pace.md" not in write_table_files(made), "a row without a log has no pace yet"
    training.folder.mkdir(parents=True)
    log = [{"step": 0, "eval/part/rule": 0.5}, {"step": 1, "forwards/train": 8.0, "eval/part/rule": 1.0}]
    (training.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    assert made.folder / "pace.md" in write_table_files(made)
    text = " ".join((made.folder / "pace.md").read_text().split())
    assert "| GRPO bright | 1 | 0.500 | 0.000" in text and "| 8 | 8 | 1.000 |" in text, text


def test_the_preset_times_three_objectives_on_prompts_of_its_own(monkeypatch):
    monkeypatch.chdir(tables.ROOT)
    settings = read_settings(CONFIGS / "table2/mini_objectives.yaml")
    assert {t.row.name: t.config.objective for t in trainings(settings)} == {"grpo": "grpo", "nft": "nft", "rvm": "rvm"}
    ours = [p.text for p in read_prompts(CONFIGS / "table2/mini_pace_prompts.txt")]
    others = (
        "flow_grpo/mini_prompts",
        "flow_grpo/mini_eval_prompts",
        "table2/mini_eval_prompts",
        "table2/mini_test_prompts",
    )
    seen = {p.text for name in others for p in read_prompts(CONFIGS / f"{name}.txt")}
    assert len(set(ours)) == 96 and not set(ours) & seen
