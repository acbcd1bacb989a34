"""The paper's tables as stored, and what follows from them."""

from __future__ import annotations

import pytest

from reward_model.evaluation import implied_rates, load_paper_tables, paper_table
from reward_model.evaluation.tables.paper_tables import CLASS_TABLES, INCONSISTENT_ROW

#: Rounding: every printed rate is within half a thousandth, and a precision depends on two of them.
RATE, F1 = 6e-4, 1e-3
ROWS = [(name, row) for name in CLASS_TABLES for row in paper_table(name).rows]


def printed(name: str, row: str) -> dict[str, float]:
    table = paper_table(name)
    return {column: float(table.cell(row, column)) for column in table.columns}


def gaps(values: dict[str, float]) -> dict[str, float]:
    found = implied_rates(values["recall, abnormal"], values["recall, normal"])
    implied = {
        "precision, abnormal": found.precision_abnormal,
        "precision, normal": found.precision_normal,
        "accuracy": found.accuracy,
    }
    return {k: abs(v - values[k]) for k, v in implied.items()}


def test_there_are_twenty_five_rows():
    assert len(ROWS) == 25 and INCONSISTENT_ROW in ROWS


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_rates_follow_from_the_recalls_at_equal_class_sizes_but_for_one_row(name, row):
    found = gaps(printed(name, row))
    if (name, row) == INCONSISTENT_ROW:
        assert found["precision, abnormal"] > 0.1 and found["precision, normal"] > 0.05
        assert found["accuracy"] <= RATE  # its accuracy does follow
    else:
        assert max(found.values()) <= RATE, found


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_f1_is_the_harmonic_mean_in_every_row(name, row):
    values = printed(name, row)
    for status in ("abnormal", "normal"):
        recall, precision = values[f"recall, {status}"], values[f"precision, {status}"]
        assert 2 * recall * precision / (recall + precision) == pytest.approx(values[f"F1, {status}"], abs=F1)


def test_no_class_ratio_explains_the_exception():
    values = printed(*INCONSISTENT_ROW)
    for share in (k / 100 for k in range(1, 100)):
        found = implied_rates(values["recall, abnormal"], values["recall, normal"], share_abnormal=share)
        assert (
            abs(found.precision_abnormal - values["precision, abnormal"]) > RATE
            or abs(found.precision_normal - values["precision, normal"]) > RATE
        )


def test_known_cells_and_margins():
    tables = load_paper_tables()
    assert set(tables) == {"Table 1", "Table 2", "Table 3", "Table S1", "Table S2", "Table S3", "Table S4", "Figure 4"}
    assert tables["Table 2"].cell("expert anomaly rate", "Flow-GRPO UR+CaC") == 0.173
    assert (
        tables["Table S2"].cell("CaC", "time") == 33.2 and tables["Table S2"].cell("video sampling", "accuracy") is None
    )
    cells = tables["Figure 4"]
    best = {c: max(cells.cell(r, c) for r in cells.rows if r != "CaC") for c in cells.columns}
    assert [round(cells.cell("CaC", c) - best[c], 2) for c in cells.columns] == [0.38, 0.16, 0.36, 0.14]
    rivals = [r for r in tables["Table 1"].rows if r != "CaC"]
    gain = tables["Table 1"].cell("CaC", "accuracy") - max(tables["Table 1"].cell(r, "accuracy") for r in rivals)
    assert round(gain, 3) == 0.257  # "25.7 %" are absolute points


def test_implied_rates_at_their_ends():
    always = implied_rates(1.0, 0.0)
    assert always.precision_abnormal == 0.5 and always.precision_normal is None and always.f1_normal is None
    assert implied_rates(1, 1).f1_abnormal == 1.0
    with pytest.raises(ValueError, match="recalls must lie"):
        implied_rates(1.2, 0.5)


@pytest.mark.parametrize(("call", "match"), [(lambda: paper_table("Table 9"), "no 'Table 9'")])
def test_unknown_tables_are_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()
    with pytest.raises(ValueError, match="no row 'CAC'"):
        paper_table("Table 1").cell("CAC", "accuracy")
    with pytest.raises(ValueError, match="no column 'Acc'"):
        paper_table("Table 1").cell("CaC", "Acc")
