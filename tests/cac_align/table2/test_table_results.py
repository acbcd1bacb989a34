"""One small file holds a table's results: what is made from it alone is the same, and differences are paired."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cac_align.table2.curves import logged_forwards
from cac_align.table2.drawing import Drawing
from cac_align.table2.maths import difference_of, redraw
from cac_align.table2.matrix import Matrix
from cac_align.table2.output import write_result_tables
from cac_align.table2.results import DIGITS, Results, read_table_results
from cac_align.table2.settings import TableSettings
from cac_align.table2.tables import TableMaker, show_p
from tests.cac_align.table2 import tables

pytestmark = pytest.mark.filterwarnings("ignore")
NAN = float("nan")
ROWS = [
    {"name": "base", "num_inference_steps": 16, "guidance_scale": 2},
    {"name": "BoN", "kind": "best_of_n", "rewards": ["bright"]},
    {"name": "A", "kind": "flow_grpo", "rewards": ["bright"]},
    {"name": "B", "kind": "lora", "loras": ["b0", "b1", "b2"]},
    {"name": "BoN of B", "kind": "best_of_n", "rewards": ["bright"], "of": "B"},
]


def made(prompts: int = 4, seeds: int = 3, **changes: object) -> Results:
    """Results of made scores: B is always 0.5 above A, whose three trainings are far apart."""
    options = {
        "rows": ROWS,
        "train_seeds": [0, 1, 2],
        "eval_seeds": [*range(seeds)],
        "against": ["A", "BoN"],
        **changes,
    }
    settings = TableSettings(**tables.settings(Path("/nowhere"), Path("/nowhere/out"), **options))
    rng = np.random.default_rng(0)
    draw = (1, prompts, seeds)
    values = {}
    for name in ("motion_energy", "edge_density", "reward_bright", "reward_red"):
        base, best, a = rng.random(draw), rng.random(draw), rng.random((3, prompts, seeds))
        a += np.array([0, 10, 20]).reshape(3, 1, 1)
        best[0, 1, 2] = NAN
        arrays = {"base": base, "bon": best, "a": a, "b": a + 0.5, "bon-of-b": rng.random(a.shape)}
        for slug, array in arrays.items():
            values.setdefault(slug, {})[name] = np.round(array, DIGITS)
    one = Drawing(6, 1.0)
    return Results(
        settings,
        "assets/wan-mini",
        [f"prompt {k}" for k in range(prompts)],
        {"base": Drawing(16, 2.0), "bon": one, "a": one, "b": one, "bon-of-b": one},
        {"base": 32, "bon": 18, "a": 6, "b": None, "bon-of-b": 18},
        {"a": 14080, "b": None},
        values,
        {"cac_align": "0.2.0", "revision": "abc"},
    )


def line(table, name):
    return next(row for row in table.rows if row[0] == name)


def test_differences_to_a_trained_row_pair_the_training_seeds():
    """Set against any other training of A, B would be ten apart and the interval wide."""
    maker = TableMaker(made())
    table = maker.differences(maker.settings.row("A"))
    assert table.title == "Difference to A" and [row[0] for row in table.rows] == ["BoN", "B", "BoN of B"]
    found = line(table, "B")[1]
    assert found.value == pytest.approx(0.5) and found.interval == pytest.approx((0.5, 0.5))
    assert "Training seeds are paired in their order" in table.notes[0]


def test_differences_to_a_row_without_training_are_those_of_the_base_s_kind():
    results = made()
    maker = TableMaker(results)
    column = results.columns[0]
    a, best = (results.array(maker.settings.row(name), column) for name in ("A", "BoN"))
    table = maker.differences(maker.settings.row("BoN"))
    found = line(table, "A")
    draws = redraw(3, 4, num_resamples=200, seed=0)
    assert (found[1].value, found[1].interval) == difference_of(a, best, draws)[:2]
    assert np.nanmean(a - best) == pytest.approx(found[1].value), "the video without a value is left out of both"
    gaps = np.nanmean(a - best, axis=(0, 2))
    assert found[2] == show_p(2 / 2**4) and (gaps > 0).all(), "four prompts of one sign"
    # An untrained row against a trained one is that of the trained against it, turned round.
    other = line(maker.differences(maker.settings.row("A")), "BoN")[1]
    assert other.value == pytest.approx(-found[1].value)
    assert other.interval == pytest.approx((-found[1].interval.high, -found[1].interval.low))


def test_all_tables_of_against_are_made_beside_that_of_the_base():
    titles = [table.title for table in TableMaker(made()).all()]
    assert titles[:4] == [
        "Alignment of assets/wan-mini",
        *(f"Difference to {name}" for name in ("the base", "A", "BoN")),
    ]


def test_the_main_table_states_forwards_and_ways_of_drawing():
    table = TableMaker(made(n=3)).means()
    place = table.columns.index("forwards")
    assert [row[place] for row in table.rows] == [32, 18, 6, None, 18]
    assert (
        "16 steps with guidance 2: base; 6 steps without guidance, best of 3 candidates: BoN, BoN of B"
        in table.notes[0]
    )
    assert "6 steps without guidance: A, B." in table.notes[0]
    assert "to draw and to learn: A 14,080, B not counted." in table.notes[1]
    trained = table.columns.index("training seeds")
    assert [row[trained] for row in table.rows] == [None, None, 3, 3, 3]


def test_the_file_keeps_every_value(tmp_path):
    results = made()
    again = read_table_results(results.save(tmp_path / "results.json"))
    for row in results.settings.table_rows:
        for column in results.columns:
            assert np.array_equal(results.array(row, column), again.array(row, column), equal_nan=True)
    for name in ("model", "prompts", "drawings", "forwards", "training_forwards", "made_by"):
        assert getattr(again, name) == getattr(results, name)
    assert again.to_text() == results.to_text()
    assert [t.to_markdown() for t in TableMaker(again).all()] == [t.to_markdown() for t in TableMaker(results).all()]


def test_the_file_is_small_enough_to_commit(tmp_path):
    """24 prompts of 16 videos: 5 rows in 4 columns of decimals take 9 bytes a value and no more."""
    results = made(24, 16)
    num = sum(array.size for columns in results.values.values() for array in columns.values())
    assert results.save(tmp_path / "results.json").stat().st_size < 9.5 * num + 5000


def test_tables_are_made_again_from_the_file_alone(made_table, tmp_path, load_recipe, capsys):
    """In a place where neither prompts, settings of the trainings, models nor videos are."""
    job, _ = made_table
    write_result_tables(Matrix(job).results(), tmp_path / "first")
    Matrix(job).results().save(tmp_path / "results.json")
    data = json.loads((tmp_path / "results.json").read_text())
    data["settings"] |= {"flow_grpo": "/gone.yaml", "eval_prompts": "/gone.txt", "output_dir": "/gone"}
    (tmp_path / "results.json").write_text(json.dumps(data))
    recipe = load_recipe("table2")
    assert recipe.main(["--from", str(tmp_path / "results.json")]) == 0
    assert (tmp_path / "table2.md").read_bytes() == (tmp_path / "first" / "table2.md").read_bytes()
    assert (tmp_path / "table2.tex").read_bytes() == (tmp_path / "first" / "table2.tex").read_bytes()
    assert "Difference to the base" in capsys.readouterr().out
    words = ["--from", str(tmp_path / "results.json"), "--output", str(tmp_path / "more"), "--set"]
    assert recipe.main([*words, "against=[BoN both]", "num_resamples=100"]) == 0
    assert "### Difference to BoN both" in (tmp_path / "more" / "table2.md").read_text()
    with pytest.raises(ValueError, match="n: tables made from a file can change against, motion, motion_share, num_"):
        recipe.main([*words, "n=3"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.update(format=9), "it has format 9, this version reads 1"),
        (lambda data: data.pop("values"), "'values'"),
        (
            lambda data: data["values"]["a"].update(edge_density=[[[1]]]),
            r"row 'A', column 'edge_density' are \(1, 1, 1\)",
        ),
        (lambda data: data["values"].pop("bon"), "'bon'"),
        (lambda data: data["settings"].update(rows=[]), "rows must begin with one of kind 'base'"),
    ],
)
def test_a_broken_file_is_refused(tmp_path, change, said):
    data = json.loads(made().to_text())
    change(data)
    (tmp_path / "results.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=f"is not a whole file of results: .*{said}.*; make the table again"):
        read_table_results(tmp_path / "results.json")
    with pytest.raises(
        ValueError, match=r"no results at '.*none\.json'; name a results\.json that recipes/table2\.py wrote"
    ):
        read_table_results(tmp_path / "none.json")


def test_forwards_of_a_training_are_summed_over_its_steps(tmp_path):
    assert logged_forwards(tmp_path) is None
    lines = [{"step": 0, "eval/reward": 1}]
    lines += [{"step": k, "forwards/sample": 10.0, "forwards/train": 5.0} for k in (1, 2, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    assert logged_forwards(tmp_path) == 45, "a step that was done again counts once"
