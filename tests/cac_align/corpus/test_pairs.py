"""Preference pairs: from scores and comparisons, by margin, with several judges; what is read, and what is written."""

import json
import threading
from itertools import permutations

import numpy as np
import pytest

from cac_align import BestOfNOutput
from cac_align.cli import main
from cac_align.corpus.judged import read_candidates
from cac_align.corpus.pairs import find_pairs, score_differences, share_differences
from cac_align.corpus.table_files import read_table_rows
from cac_align.flow_grpo.sampler.clips import find_clips
from cac_align.rewards.ranking import Comparison
from reward_model.anomalies import Anomaly, AnomalyType, Box, FrameRange
from reward_model.schema import Verdict
from reward_model.video.writing import write_mp4
from tests.cac_align.test_unified_reward import BrightnessServer
from tests.campaigns import slow_but


def found(scores, margin=0.0, abnormal=None, **options):
    return find_pairs([score_differences(scores)], [margin], abnormal, **options)


def places(pairing):
    return [(p.chosen, p.rejected) for p in pairing.pairs]


# --- the pure functions -----------------------------------------------------------------------------------------------


def test_all_pairs_above_the_margin_and_the_reason_of_the_others():
    pairing = found([0.9, 0.8, 0.2, None, 0.2], 0.1, pick="all")
    assert places(pairing) == [(0, 1), (0, 2), (0, 4), (1, 2), (1, 4)], "0.9 - 0.8 reaches 0.1 for all its rounding"
    assert pairing.left_out == {"unjudged": 4, "close": 1}, "equal scores are a tie"
    assert [p.differences for p in pairing.pairs][1] == (pytest.approx(0.7),)
    assert found([0.9, 0.8, 0.2], 0.11, pick="all").left_out == {"close": 1}
    assert found([0.5, 0.5]).pairs == [] and found([0.5]).pairs == [], "a margin of 0 makes no pair of a tie"


def test_one_pair_of_a_prompt_is_the_widest_or_a_drawn_one():
    scores = [0.4, 0.9, 0.1, 0.6]
    assert places(found(scores)) == [(1, 2)] and found(scores).left_out == {"spare": 5}
    drawn = [places(found(scores, pick="random", seed=str(k))) for k in range(40)]
    assert drawn == [places(found(scores, pick="random", seed=str(k))) for k in range(40)], "a function of the seed"
    assert {pair for (pair,) in drawn} == set(places(found(scores, pick="all")))


def test_equally_wide_pairs_are_drawn_and_not_the_first():
    scores = [0.3 + 0.6, 0.9, 0.1 + 0.2, 0.3]  # 0.8999..., 0.9, 0.30000000000000004, 0.3
    chosen = {places(found(scores, seed=str(k)))[0] for k in range(60)}
    assert chosen == {(0, 2), (0, 3), (1, 2), (1, 3)}, "the last bit decides nothing"


def test_a_video_judged_abnormal_is_not_chosen_over_one_that_is_not():
    scores, abnormal = [0.9, 0.5, 0.2], [True, None, True]
    pairing = found(scores, abnormal=abnormal, pick="all")
    assert places(pairing) == [(0, 2), (1, 2)] and pairing.left_out == {"verdict": 1}
    assert found([None, 0.5], abnormal=[False, True]).left_out == {"unjudged": 1}, "a verdict alone decides nothing"
    assert places(found(scores, pick="all")) == [(0, 1), (0, 2), (1, 2)]


def test_several_judges_must_agree_by_the_margin_of_each():
    first, second = score_differences([0.9, 0.5, 0.1]), score_differences([0.5, 0.6, 0.0])
    pairing = find_pairs([first, second], [0.1, 0.1], pick="all")
    assert places(pairing) == [(0, 2), (1, 2)] and pairing.left_out == {"disagree": 1}
    assert pairing.pairs[0].differences == (pytest.approx(0.8), pytest.approx(0.5))
    assert find_pairs([first, second], [0.1, 0.2], pick="all").left_out == {"close": 1}, "0.1 is within 0.2"
    third = np.full((3, 3), np.nan)
    third[0, 2], third[2, 0] = 0.3, -0.3
    pairing = find_pairs([first, second, third], [0, 0, 0], [True, False, True], pick="all")
    assert places(pairing) == [(0, 2)] and pairing.left_out == {"disagree": 1, "unjudged": 1}


def test_pairs_do_not_depend_on_the_order_of_the_candidates():
    scores, other = [0.9, 0.5, 0.1, 0.5, None], [0.4, 0.6, 0.2, 0.3, 0.9]
    wanted = None
    for order in permutations(range(5)):
        tables = [score_differences([s[k] for k in order]) for s in (scores, other)]
        pairing = find_pairs(tables, [0.1, 0.1], pick="all")
        got = {(order[p.chosen], order[p.rejected]) for p in pairing.pairs}, dict(pairing.left_out)
        wanted = wanted or got
        assert got == wanted
    assert wanted[0] == {(0, 2), (0, 3), (1, 2), (3, 2)}


def test_comparisons_in_both_orders():
    shares = {(0, 1): Comparison(0.8, (0.7, 0.9)), (0, 2): Comparison(0.55, (0.9, 0.2)), (1, 2): Comparison(None)}
    table = share_differences(shares, 3)
    assert table[0, 1] == pytest.approx(0.6) and table[1, 0] == pytest.approx(-0.6)
    assert table[0, 2] == 0, "the two orders prefer different videos"
    pairing = find_pairs([table], [0.5], pick="all")
    assert places(pairing) == [(0, 1)] and pairing.left_out == {"close": 1, "unjudged": 1}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"margins": [-0.1]}, "must be 0 or more"),
        ({"margins": [0.1, 0.1]}, "each judge needs its own"),
        ({"pick": "best"}, "widest, random, all"),
        ({"abnormal": [True]}, "different numbers of candidates"),
    ],
)
def test_arguments_that_do_not_fit(change, said):
    with pytest.raises(ValueError, match=said):
        find_pairs(**{"differences": [score_differences([0.1, 0.9])], "margins": [0.0], **change})


# --- the command ------------------------------------------------------------------------------------------------------

BOX = Anomaly(AnomalyType.OBJECT, FrameRange(2, 4), {3: (Box(100, 200, 300, 400),)})


@pytest.fixture
def run_folder(tmp_path):
    """What best-of-n saves: three candidates with verdicts, of which the second has none."""
    frames = np.random.default_rng(0).integers(0, 255, (3, 5, 16, 16, 3), dtype=np.uint8)
    good = Verdict("normal", 0.9, num_frames=5, fps=16)
    bad = Verdict("abnormal", 0.1, anomalies=(BOX,), window=FrameRange(2, 4), num_frames=5, fps=16)
    output = BestOfNOutput(
        "a ball", list(frames), [0.9, None, 0.1], 0, [7, 8, 9], [good, None, bad], [None, "too dark", None], 16.0,
        {"motion": [0.2, 0.3, 0.4]}, {"rank_by": "verdict"},
    )  # fmt: skip
    output.save(tmp_path / "runs" / "ball")
    return tmp_path / "runs"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_folder_of_best_of_n_becomes_pairs(run_folder, tmp_path, capsys):
    out = tmp_path / "made" / "pairs.jsonl"
    assert main(["pairs", str(run_folder), "--margin", "0.5", "--output", str(out)]) == 0
    (pair,) = lines(out)
    assert pair["prompt"] == "a ball" and pair["differences"] == {"score": 0.8}
    assert (out.parent / pair["chosen"]).resolve() == run_folder / "ball" / "candidates" / "00.mp4"
    assert pair["rejected"] == "../runs/ball/candidates/02.mp4"
    assert pair["chosen_anomalies"] == [] and pair["rejected_anomalies"][0]["last_frame"] == 4
    assert pair["rejected_boxes"][0]["x1"] == 300 and pair["rejected_num_frames"] == 5
    assert "pairs: 1, of 3 candidates, 1 prompts; left out: 2 not judged" in capsys.readouterr().out
    assert main(["pairs", str(run_folder), "--by", "score", "motion", "--output", str(tmp_path / "none.jsonl")]) == 1
    assert "1 on which judges disagree" in capsys.readouterr().err and not (tmp_path / "none.jsonl").exists()


def test_previews_are_not_candidates(run_folder):
    path = run_folder / "ball" / "result.json"
    result = json.loads(path.read_text())
    result["candidates"][2]["preview"] = {"score": 0.1, "status": "normal", "rank": 3, "note": "only its preview of 2"}
    path.write_text(json.dumps(result))
    assert [row["seed"] for row in read_candidates([str(run_folder)])] == [7, 8]
    result["settings"]["judge_all"] = True
    path.write_text(json.dumps(result))
    assert [row["seed"] for row in read_candidates([str(run_folder)])] == [7, 8, 9], "this one was drawn in full too"


@pytest.fixture
def table(tmp_path, encoded_corpus):
    """Two prompts of three candidates; one is named twice."""
    rows = [
        {"video": str(encoded_corpus / f"{k}.mp4"), "prompt": p, "maker": "ab"[k % 2], "score": s, "status": "normal"}
        for p, scores in (("one", (0.1, 0.5, 0.9, 0.3)), ("two", (0.6, 0.4, 0.2, None)))
        for k, s in enumerate(scores)
    ]
    path = tmp_path / "scores.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {**rows[0], "score": 1.0}]))
    return path


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_table_becomes_labelled_pairs_of_which_either_side_is_better(table, tmp_path, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    out = tmp_path / f"pairs.{suffix}"
    assert main(["pairs", str(table), "--pick", "all", "--format", "labelled", "--output", str(out)]) == 0
    rows = read_table_rows(out, {"label_0": "number", "label_1": "number"})
    assert list(rows[0]) == ["caption", "video_0", "video_1", "label_0", "label_1"]
    assert len(rows) == 6 + 3 and {row["label_0"] for row in rows} == {0.0, 1.0}
    scores = {(r["prompt"], r["video"]): r["score"] for r in reversed(lines(table))}
    for row in rows:
        left, right = (scores[row["caption"], row[f"video_{k}"]] for k in (0, 1))
        assert (left > right) == (row["label_0"] == 1.0) and row["label_0"] + row["label_1"] == 1


def test_the_same_file_twice_and_another_for_another_seed(table, tmp_path):
    made = []
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        out = tmp_path / f"{name}.jsonl"
        assert main(["pairs", str(table), "--pick", "random", "--seed", seed, "--output", str(out)]) == 0
        made.append(out.read_bytes())
    assert made[0] == made[1] != made[2]


def test_winners_are_clips_to_train_on_and_groups_may_be_narrower(table, tmp_path):
    out = tmp_path / "winners.jsonl"
    command = ["pairs", str(table), "--format", "winners", "--within", "maker", "--output", str(out)]
    assert main(command) == 0
    assert [(clip.path.stem, clip.prompt) for clip in find_clips(out)] == [("2", "one"), ("1", "one"), ("0", "two")]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--by", "motion"], "--by 'motion' is not a column of the candidates"),
        (["--by", "maker"], "which is not a number"),
        (["--margin", "0.1", "0.2"], "2 numbers for 1 columns"),
        (["--margin", "-1"], "must be 0 or more"),
        (["--within", "model"], "no candidate has a column 'model'"),
        (["--unified-model", "x"], "add --unified point"),
        (["--unified", "point", "--unified-protocol", "think_pair"], "scores no single videos"),
    ],
)
def test_wrong_uses_are_one_line(table, tmp_path, capsys, options, said):
    assert main(["pairs", str(table), *options, "--output", str(tmp_path / "out.jsonl")]) == 2
    assert said in capsys.readouterr().err


def test_sources_that_hold_nothing(tmp_path, capsys, table):
    empty = tmp_path / "empty"
    empty.mkdir()
    bare = tmp_path / "bare.csv"
    bare.write_text("video,score\na.mp4,0.5\n")
    for source, said in ((empty, "holds no result.json"), (tmp_path / "no", "neither a folder"), (bare, "prompt=None")):
        assert main(["pairs", str(source), "--output", str(tmp_path / "out.jsonl")]) == 2
        assert said in capsys.readouterr().err
    assert main(["pairs", str(table), "--output", str(table)]) == 2


# --- a UnifiedReward model beside the scores --------------------------------------------------------------------------


@pytest.fixture
def server():
    """A served model that likes bright videos."""
    with BrightnessServer() as made:
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture
def greys(tmp_path):
    """Three grey videos; the judge of the table prefers the middle one."""
    rows = []
    for level, score in ((40, 0.1), (120, 0.9), (200, 0.5)):
        write_mp4(tmp_path / f"{level}.mp4", np.full((4, 32, 32, 3), level, np.uint8), 8)
        rows.append({"video": f"{level}.mp4", "prompt": "a ball", "score": score})
    (tmp_path / "greys.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "greys.jsonl"


def ask(server, greys, protocol, *options):
    model = ["--unified-model", "UnifiedReward", "--unified-backend", "openai", "--unified-url", server.url]
    out = greys.with_name("pairs.jsonl")
    code = main(["pairs", str(greys), "--unified", protocol, *model, *options, "--output", str(out)])
    return code, lines(out) if code == 0 else []


@pytest.mark.parametrize("protocol", slow_but(["point", "pair"], "pair"))
def test_a_unified_reward_model_must_agree(server, greys, capsys, protocol):
    code, pairs = ask(server, greys, protocol, "--pick", "all")
    assert code == 0 and [(p["chosen"], p["rejected"]) for p in pairs] == [("120.mp4", "40.mp4"), ("200.mp4", "40.mp4")]
    assert "1 on which judges disagree" in capsys.readouterr().out
    near, far = (p["differences"]["unified"] for p in pairs)
    # One axis of three shows a difference of brightness as scores, all axes half of it as shares.
    weight = 1 / 3 if protocol == "point" else 1 / 2
    assert near == pytest.approx(weight * 80 / 255, abs=0.02) and far == pytest.approx(weight * 160 / 255, abs=0.02)
    code, pairs = ask(server, greys, protocol, "--pick", "all", "--unified-margin", str((near + far) / 2))
    assert [p["chosen"] for p in pairs] == ["200.mp4"]


@pytest.mark.parametrize(("protocol", "requests"), [("point", 2), ("pair", 2)])
def test_only_videos_of_pairs_that_stand_are_asked_about(server, greys, protocol, requests):
    code, pairs = ask(server, greys, protocol, "--margin", "0.6")
    assert code == 0 and len(pairs) == 1 and len(server.requests) == requests
    assert ask(server, greys, protocol, "--margin", "0.95")[0] == 1 and len(server.requests) == requests


def test_a_comparison_that_goes_by_position_is_a_tie(server, greys, capsys):
    server.bias = 0.4
    assert ask(server, greys, "pair", "--margin", "0.6")[0] == 1
    assert "closer than the margin" in capsys.readouterr().err
