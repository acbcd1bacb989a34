"""Stores, suites and reports with a real tiny judge: resumed, not mixed, and complete."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reward_model.digests import model_fingerprint
from reward_model.evaluation import MainBench, Row, RowStore, WorldBench, evaluate_judge, read_rows
from reward_model.evaluation.running.baselines import ConstantJudge
from reward_model.evaluation.running.contestants import (
    Contestant,
    ModelSource,
    distinct,
    file_name,
    judge_contestant,
    parse_baseline,
    parse_source,
)
from reward_model.evaluation.running.suite import run_suite
from reward_model.evaluation.tables.ablation import ROWS, ablation_table, parse_ablation
from reward_model.evaluation.tables.paper_tables import paper_table
from reward_model.evaluation.tables.reports import make_tables, write_report
from tests.campaigns import draws, slow_but

ROOT = Path(__file__).resolve().parents[3]
BENCH = WorldBench(6, seed=920_000, size=24)


class Counting(ConstantJudge):
    """Counts the videos it is asked about; may break down after some."""

    def __init__(self, status="normal", breaks_after=None):
        super().__init__(status)
        self.asked, self.breaks_after = 0, breaks_after

    def judge_batch(self, videos, prompts=None, *, fps=None):
        if self.breaks_after is not None and self.asked >= self.breaks_after:
            raise KeyboardInterrupt
        self.asked += len(videos)
        return super().judge_batch(videos, prompts, fps=fps)


def run(judge, store):
    return evaluate_judge(judge, BENCH, batch_size=2, progress=False, num_resamples=10, store=store)


def test_a_stopped_run_continues_where_it_was(tmp_path):
    path = tmp_path / "rows.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(Counting(breaks_after=4), RowStore.open(path, "f"))
    kept = RowStore.open(path, "f")
    assert [r.index for r in kept.rows] == [0, 1, 2, 3] and not kept.complete
    second = Counting()
    result = run(second, kept)
    assert second.asked == 2 and len(result.videos) == 6 and RowStore.open(path, "f").complete
    assert [v["index"] for v in result.videos] == list(range(6))
    assert result.metrics == run(Counting(), None).metrics
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]  # no temporary file is left


def test_rows_of_another_judge_or_bench_are_not_used(tmp_path, caplog):
    path = tmp_path / "rows.jsonl"
    run(Counting(), RowStore.open(path, "f"))
    fresh = RowStore.open(path, "g")
    assert fresh.rows == [] and "another judge" in caplog.text
    path.write_text(path.read_text()[:-40])
    with pytest.raises(ValueError, match="delete it to judge again"):
        RowStore.open(path, "f")


def test_rows_survive_the_file(tmp_path):
    store = RowStore.open(tmp_path / "rows.jsonl", "f")
    result = run(Counting("abnormal"), store)
    rows = read_rows(store.path).rows
    assert rows == store.rows and [r.to_dict() for r in rows] == result.videos
    assert rows[1].cell is not None and isinstance(rows[1].cell, tuple) and 0 < rows[1].extent < 1
    with pytest.raises(ValueError, match="columns"):
        Row.from_dict({"index": 0})


def test_fingerprint_of_a_folder_follows_its_files(tmp_path):
    (tmp_path / "a").write_text("x")
    before = model_fingerprint(tmp_path, {"num_turns": 2})
    assert model_fingerprint(tmp_path, {"num_turns": 1}) != before == model_fingerprint(tmp_path, {"num_turns": 2})
    (tmp_path / "a").write_text("y")
    assert model_fingerprint(tmp_path, {"num_turns": 2}) != before
    assert model_fingerprint("org/one") != model_fingerprint("org/two")


# --- contestants -----------------------------------------------------------------------------------------------------


def test_models_and_baselines_by_a_short_text():
    assert parse_source("assets/cac-mini")[0] == "cac-mini"
    name, source = parse_source("gpt=openai:gpt-4o@http://judge:8000/v1")
    assert (name, source.model, source.backend, source.options) == (
        "gpt",
        "gpt-4o",
        "openai",
        {"base_url": "http://judge:8000/v1"},
    )
    judges = {"a": ModelSource("x"), "b": ModelSource("y")}
    assert [c.name for c in parse_baseline("single-turn", judges)] == ["a, single-turn", "b, single-turn"]
    assert [c.name for c in parse_baseline("zero-shot=org/base", judges)] == ["base, zero-shot"]
    assert [c.name for c in parse_baseline("unified-video5=org/ur", judges)] == ["ur, unified-video5"]
    assert parse_baseline("normal", judges)[0].open().status == "normal"
    for bad in ("coin", "normal=x", "zero-shot", "unified-pair=x"):
        with pytest.raises(ValueError, match="no baseline"):
            parse_baseline(bad, judges)
    with pytest.raises(ValueError, match="names no model"):
        parse_source("a=")


def test_settings_change_the_fingerprint_of_a_judge():
    source = ModelSource("org/model")
    marks = [judge_contestant("a", source, s).fingerprint for s in ({}, {"num_turns": 1}, {"readout": "paper"})]
    assert len(set(marks)) == 3
    assert judge_contestant("b", source, {"batch_size": 4}).fingerprint == marks[0]  # how many at once decides nothing
    drawn = [{"temperature": 0.8, "seed": s, "batch_size": b} for s, b in ((0, 4), (1, 4), (0, 8))]
    assert len({judge_contestant("a", source, s).fingerprint for s in drawn} - {marks[0]}) == 3  # of a draw it does
    assert [c.name for c in distinct([judge_contestant("a", source)] * 2)] == ["a", "a (2)"]
    assert file_name("../my model: 7B/x") == "my_model_7B_x"


@pytest.mark.parametrize(
    ("judge_json", "line", "readout"),
    slow_but(
        [
            ('{"readouts": ["log_odds", "direct", "paper"]}', [], "log_odds"),
            ('{"readouts": ["log_odds", "direct", "paper"]}', ["--readout", "direct"], "direct"),
            ('{"readouts": ["paper", "log_odds"]}', [], "paper"),
            ('{"readouts": ["paper", "log_odds"]}', ["--no-reasoning"], "log_odds"),
            ("{}", [], "paper"),
        ],
        ('{"readouts": ["log_odds", "direct", "paper"]}', ["--readout", "direct"], "direct"),
        ('{"readouts": ["paper", "log_odds"]}', ["--no-reasoning"], "log_odds"),
    ),
)
def test_a_judge_is_measured_at_the_best_readout_it_was_trained_for(
    load_recipe, judge_folder, tmp_path, judge_json, line, readout
):
    folder = shutil.copytree(judge_folder, tmp_path / "judge")
    (folder / "judge.json").write_text(judge_json)
    recipe = load_recipe("evaluate_reward")
    args = recipe.parser().parse_args(["--model", str(folder), "--device", "cpu", *line])
    [contestant] = recipe._contestants(args)
    config = contestant.open().config
    assert config.readout == readout and config.all_readouts == config.reasoning


def test_a_form_without_reasoning_is_read_at_the_best_place_before_it(judge_folder, tmp_path):
    folder = shutil.copytree(judge_folder, tmp_path / "judge")
    (folder / "judge.json").write_text('{"readouts": ["paper", "log_odds"]}')
    judges = {"a": ModelSource(str(folder), options={"device": "cpu"})}
    for asked, readout in (("paper", "log_odds"), (None, "log_odds"), ("direct", "direct"))[: draws(3, 1)]:
        [form] = parse_baseline("no-reasoning", judges, settings={"readout": asked})
        config = form.open().config
        assert (config.readout, config.reasoning, config.all_readouts) == (readout, False, False)


# --- suite and report ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def suite(judge_folder, tmp_path_factory):
    """A real tiny judge and two baselines on two small benches."""
    output = tmp_path_factory.mktemp("suite")
    source = ModelSource(str(judge_folder), options={"device": "cpu"})
    contestants = [
        judge_contestant("tiny_judge", source),
        *parse_baseline("single-turn", {"tiny_judge": source}),
        *parse_baseline("normal", {}),
    ]
    benches = {"main": MainBench(2, size=24), "hard": WorldBench(2, seed=930_000, size=24)}

    def run():
        return run_suite(contestants, benches, output, progress=False, num_resamples=10)

    return run, run(), output, contestants


def test_suite_measures_everyone_everywhere_once(suite):
    run, results, output, contestants = suite
    assert {b: list(r) for b, r in results.items()} == {b: [c.name for c in contestants] for b in ("main", "hard")}
    found = results["main"]["tiny_judge"]
    assert found.judge["backend"] == "local" and found.value("parse rate") == 0.0  # random weights
    assert found.value("AUROC, direct") is not None and found.value("AUROC, paper") is not None
    before = {p: p.stat().st_mtime_ns for p in output.rglob("*.jsonl")}
    again = run()
    assert len(before) == 6 and before == {p: p.stat().st_mtime_ns for p in output.rglob("*.jsonl")}
    assert {n: r.metrics for n, r in again["main"].items()} == {n: r.metrics for n, r in results["main"].items()}


def test_a_finished_judge_is_not_opened_again(suite, tmp_path):
    _, _, output, contestants = suite
    shutil.copytree(output, tmp_path / "copy")
    closed = [Contestant(c.name, lambda: pytest.fail("opened"), c.fingerprint) for c in contestants]
    run_suite(closed, {"main": MainBench(2, size=24)}, tmp_path / "copy", progress=False, num_resamples=5)
    changed = [Contestant("always normal", Counting, "other weights")]
    run_suite(changed, {"main": MainBench(2, size=24)}, tmp_path / "copy", progress=False, num_resamples=5)
    assert read_rows(tmp_path / "copy/rows/always_normal/main.jsonl").rows[0].score == 1.0
    with pytest.raises(ValueError, match="the same file name"):
        run_suite([changed[0], Contestant("Always  normal", Counting, "")], {}, tmp_path)


def test_report_holds_ours_and_the_papers_rows(suite):
    _, results, output, _ = suite
    tables = make_tables(results, num_resamples=10)
    written = write_report(output, tables, results)
    text = (output / "tables.md").read_text()
    assert r"tiny\_judge, single-turn" in text and "CaC (paper)" in text and "not on this bench" in text
    main = tables[0]
    assert main.groups[1][-1][1:8] == paper_table("Table 1").rows["CaC"] and len(main.groups[0]) == 3
    data = json.loads((output / "tables.json").read_text())
    assert [t["title"] for t in data["tables"]] == [t.title for t in tables]
    assert data["results"]["main"]["always normal"]["metrics"]["status accuracy"]["value"] == 0.5
    assert r"tiny\_judge" in (output / "tables.tex").read_text()
    titles = [t.title for t in tables]
    assert {"Judges on main", "Readouts, main", "Paired differences, main", "Localisation, main"} <= set(titles)
    assert all(p.is_file() for p in written)
    made = {row[0]: dict(zip(tables[-1].columns, row, strict=True)) for row in tables[-1].groups[0]}
    assert tables[-1].title == "Made with" and made.keys() == results["main"].keys()
    assert made["tiny_judge"]["model"] != "-" and made["tiny_judge"]["asked by"].startswith(("paper-", "compact-"))


def test_ablation_is_the_mean_over_seeds_in_the_papers_order(suite):
    rows = parse_ablation(["full=a,b", "mine=d", "base=c"])
    assert list(rows) == ["base", "full", "mine"] and [len(r) for r in rows.values()] == [1, 2, 1]
    _, results, _, _ = suite
    tiny, normal = results["main"]["tiny_judge"], results["main"]["always normal"]
    table = ablation_table("main", {"base": [normal], "full": [normal, tiny]})
    accuracies = [normal.value("status accuracy"), tiny.value("status accuracy")]
    cell = dict(zip(table.columns, table.groups[0][1], strict=True))["accuracy"]
    assert cell.value == sum(accuracies) / 2 and cell.interval == (min(accuracies), max(accuracies))
    assert table.groups[0][0][1].interval == normal.metrics["recall, abnormal"].interval  # one seed: over videos
    assert [r[0] for r in table.groups[1]] == ["1 base Qwen3-VL-8B (paper)", "10 CaC (paper)"]
    assert [r.paper for r in ROWS] == list(paper_table("Table 3").rows)
    for bad, match in ((["full"], "must read ROW=FOLDER"), (["a=x", "a=y"], "given twice")):
        with pytest.raises(ValueError, match=match):
            parse_ablation(bad)


@pytest.mark.slow
def test_recipe_from_the_command_line(judge_folder, tmp_path):
    command = [sys.executable, str(ROOT / "recipes" / "evaluate_reward.py"), "--model", str(judge_folder)]
    command += ["--videos", "2", "--size", "24", "--output", str(tmp_path), "--device", "cpu"]
    subprocess.run(command, check=True, cwd=ROOT)
    names = {p.name for p in tmp_path.iterdir()}
    assert {"evaluation.json", "evaluation.md", "tables.md", "tables.tex", "tables.json", "rows"} <= names
    done = subprocess.run([*command, "--baseline", "coin"], check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "error: no baseline 'coin'" in done.stderr
    twice = [*command, "--bench", "elsewhere", "--bench", "world"]  # one after the other is as good as both at once
    done = subprocess.run(twice, check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "elsewhere" in done.stderr
