"""Accuracy of what is kept, against counting by hand, and the table of it."""

import numpy as np
import pytest

from reward_model.evaluation.metrics.coverage import coverage, kept
from reward_model.evaluation.running.measure import measure
from reward_model.evaluation.running.row import Row
from reward_model.evaluation.tables.coverage_table import coverage_table
from reward_model.statistics.intervals import wilson


def test_coverage_counts_the_least_doubtful():
    rng = np.random.default_rng(0)
    correct, doubts = rng.random(50) < 0.8, rng.permutation(50)
    for share, found in zip(
        (1.0, 0.9, 0.5, 0.02), coverage(list(correct), list(doubts), (1.0, 0.9, 0.5, 0.02)), strict=True
    ):
        count = round(share * 50)
        left = [bool(correct[k]) for k in np.argsort(doubts)[:count]]
        assert found.share == count / 50 and found.accuracy == pytest.approx(np.mean(left))
        assert found.interval == wilson(sum(left), count)
        assert found.errors_left_out == pytest.approx(1 - (count - sum(left)) / (50 - sum(correct)))


def test_equal_doubts_stay_together():
    (found,) = coverage([True, False, True, True], [0.2, 0.2, 0.2, 1.0], [0.25])
    assert found.share == 0.75 and found.accuracy == pytest.approx(2 / 3)


def test_of_nothing_there_is_no_accuracy():
    assert kept([], []).accuracy is None and kept([True], [False]).accuracy is None
    assert kept([True], [False]).errors_left_out is None
    with pytest.raises(ValueError, match="share=0"):
        coverage([True], [0.1], [0])
    with pytest.raises(ValueError, match="2 answers and 1 choices"):
        kept([True, True], [True])


def row(index, status, *, far=None, disagree=None, quantile=None):
    return Row(
        index, f"v{index}", "", "normal", has_verdict=True, status=status, score=0.5,
        out_of_domain=far, readouts_disagree=disagree, unfamiliarity=quantile,
    )  # fmt: skip


def test_the_table_shows_what_leaving_out_buys():
    rows = [row(k, "normal", far=False, disagree=False, quantile=0.1 * k) for k in range(6)]
    rows += [
        row(6, "abnormal", far=True, disagree=False, quantile=1.0),
        row(7, "abnormal", far=False, disagree=True, quantile=0.9),
    ]
    table = coverage_table("shift", {"judge": rows, "server": [row(k, "normal", disagree=False) for k in range(4)]})
    shown = {cells[1]: (cells[2], cells[3].value, cells[4]) for cells in table.rows}
    assert {cells[0] for cells in table.rows} == {"judge"}, "one that cannot tell has no rows"
    assert shown["all"] == (1.0, 0.75, 0.0)
    assert shown["in domain"] == (7 / 8, 6 / 7, 0.5) and shown["readouts agree"] == (7 / 8, 6 / 7, 0.5)
    assert shown["in domain, readouts agree"] == (6 / 8, 1.0, 1.0)
    assert shown["most familiar 75%"] == (6 / 8, 1.0, 1.0)
    figures = measure(rows, {}, num_resamples=10).metrics
    assert figures["out of domain"].value == 1 / 8 and figures["status accuracy, in domain"].value == 6 / 7


def test_rows_of_earlier_versions_still_open():
    whole = row(0, "normal", far=True, disagree=False, quantile=1.0)
    assert Row.from_dict(whole.to_dict()) == whole
    old = {k: v for k, v in whole.to_dict().items() if k not in ("out_of_domain", "readouts_disagree", "unfamiliarity")}
    assert Row.from_dict(old).out_of_domain is None
    with pytest.raises(ValueError, match="a row has the columns"):
        Row.from_dict({**old, "colour": "red"})
