"""Conditions on rows: what they mean, and that they are never more than conditions."""

import json

import numpy as np
import pytest

from cac_align.cli import main
from cac_align.corpus.conditions import ConditionError, RowCondition, beyond_quantile
from cac_align.corpus.table_files import read_table_rows

ROW = {
    "video": "a.mp4",
    "score": 0.9,
    "status": "normal",
    "types": ["Motion Anomalies"],
    "n": 3,
    "none": None,
    "my col": 1,
}


def holds(text, row=ROW):
    return RowCondition(text, list(ROW))(row)


@pytest.mark.parametrize(
    ("text", "true"),
    [
        ("score > 0.8 and status == 'normal'", True),
        ("score > 0.8 and not status == 'normal'", False),
        ("0.5 < score <= .9 < n", True),
        ("0.5 < score < .9", False),
        ("'Motion Anomalies' in types", True),
        ("status in ['abnormal', 'x'] or n in (3, -4)", True),
        ("status not in ('normal',)", False),
        ("len(types) == 1 and len(status) == 6", True),
        ("n * 2 - 1 == 10 / 2", True),
        ("-n < 0", True),
        ("n / 0 == 1", False),
        ("column('my col') == 1", True),
        ("none is None and score is not None", True),
        ("none > 1", False),
        ("not none > 1", False),  # neither true nor false
        ("none > 1 or n == 3", True),
        ("none > 1 and n == 3", False),
        ("not (none > 1 and n == 4)", True),
        ("none == None", False),
    ],
)
def test_what_a_condition_means(text, true):
    assert holds(text) is true


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("__import__('os').system('true')", "not allowed"),
        ("().__class__", "not allowed"),
        ("status.upper() == 'A'", "not allowed"),
        ("types[0] == 'a'", "not allowed"),
        ("[x for x in types]", "not allowed"),
        ("(lambda: 1)() == 1", "not allowed"),
        ("f'{score}' == ''", "not allowed"),
        ("n ** 99999999", "there are + - * and /"),
        ("'a' * 1000000000 == 'b'", "not both numbers"),
        ("b'a' == status", "not allowed"),
        ("open('x')", "there are len"),
        ("scroe > 1", "did you mean score?"),
        ("status == normal", "texts stand in quotes"),
        ("score >", "not a condition"),
        ("", "not a condition"),
        ("score", "neither true nor false"),
        ("n or score", "neither true nor false"),
        ("score > 'a'", "not supported between"),
        ("n is 3", "'is' is for None"),
        ("(" * 500 + "n" + ")" * 500, "not a condition"),
        ("n " + "+ n" * 4000 + " > 1", "too long"),
        ("not " * 2400 + "n > 1", "not a condition"),
    ],
)
def test_what_is_not_a_condition_is_refused(text, said):
    with pytest.raises(ConditionError) as refused:
        holds(text)
    assert said in str(refused.value)


def test_quantiles_are_those_of_numpy_in_each_group():
    scores = np.random.default_rng(0).random(40)
    rows = [{"score": float(s), "prompt": "ab"[k % 2]} for k, s in enumerate(scores)] + [{"score": None, "prompt": "a"}]
    assert beyond_quantile(rows, 0.75) == [*(scores >= np.quantile(scores, 0.75)), False]
    for k, prompt in enumerate("ab"):
        kept = [r["score"] for r, keep in zip(rows, beyond_quantile(rows, 0.5, within="prompt"), strict=True) if keep]
        assert {s for s in kept if s in scores[k::2]} == {s for s in scores[k::2] if s >= np.median(scores[k::2])}, (
            prompt
        )
    lowest = beyond_quantile(rows, 0.1, lowest=True)
    assert sum(lowest) == 4 and not lowest[-1]
    for wrong, said in (({"share": 1.2}, "from 0 to 1"), ({"share": 0.5, "by": "prompt"}, "not a number")):
        with pytest.raises(ConditionError, match=said):
            beyond_quantile(rows, **wrong)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_filter_writes_a_manifest_whose_videos_are_found(capsys, tmp_path, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    table = tmp_path / "scores.jsonl"
    rows = [{"video": f"clips/{k}.mp4", "prompt": "p", "maker": None, "seed": k, "score": k / 10} for k in range(9)]
    table.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {**rows[0], "score": None}]))
    kept = tmp_path / "below" / f"kept.{suffix}"
    assert main(["filter", str(table), "--where", "score < 0.75", "--quantile", "0.5", "--output", str(kept)]) == 0
    assert "4 of 10 rows" in capsys.readouterr().out
    found = read_table_rows(kept, {"seed": "whole", "score": "number"})
    assert [r["seed"] for r in found] == [4, 5, 6, 7] and found[0]["video"] == "../clips/4.mp4"
    assert main(["filter", str(table), "--where", "score > 2", "--output", str(tmp_path / "none.csv")]) == 1
    assert "none of 10 rows is kept" in capsys.readouterr().err and not (tmp_path / "none.csv").exists()
    assert main(["filter", str(table), "--output", str(kept)]) == 2
