"""Models of other makers: what each is shown, how its answer is read, and which of its rows stand in the tables."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest

from reward_model.conversation import Completion
from reward_model.evaluation import WorldBench, evaluate_judge
from reward_model.evaluation.protocols.status import STATUS_PROTOCOLS, StatusJudge
from reward_model.evaluation.protocols.thinker import FrameSelection, ThinkerJudge, requested_frames
from reward_model.evaluation.running.baselines import ConstantJudge
from reward_model.evaluation.running.choice import balanced, is_biased, stronger_of_both
from reward_model.evaluation.running.contestants import OFFICIAL, WITH_MODEL, ModelSource, parse_baseline
from reward_model.evaluation.tables.paper_tables import paper_table
from reward_model.evaluation.tables.reports import make_tables
from reward_model.unified.pairs import PAIR_PROTOCOLS
from reward_model.unified.protocols import APS, PROTOCOLS, ScoreError
from reward_model.unified.score import UnifiedJudge
from reward_model.unified.wording import PUBLIC_WORDINGS, with_wording, wording_origin, words_digest
from reward_model.video.clip import Video

ROOT = Path(__file__).resolve().parents[3]
FRAMES = np.arange(81, dtype=np.uint8)[:, None, None, None].repeat(12, 1).repeat(12, 2).repeat(3, 3)
VIDEO = Video(FRAMES, 16.0)
BENCH = WorldBench(4, seed=910_000, size=24)


class Scripted:
    """A backend that keeps what it is asked and answers by a function of the conversation."""

    name = "scripted"

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def generate(self, conversations, sampling):
        self.asked += [(c, sampling) for c in conversations]
        found = [self.answer(c) for c in conversations]
        return [a if isinstance(a, Completion) else Completion(a) for a in found]

    def score(self, conversations, prefixes):
        raise AssertionError("these protocols read text only")

    def describe(self):
        return {"model": "scripted"}


def shown(conversation):
    return [int(p[0, 0, 0]) for m in conversation for p in m.content if not isinstance(p, str)]


def text_of(conversation):
    return "".join(p for m in conversation for p in m.content if isinstance(p, str))


# --- a word about one video ------------------------------------------------------------------------------------------


def test_skyra_sees_sixteen_frames_after_their_times_and_the_categories_it_names():
    [system, user] = STATUS_PROTOCOLS["skyra"].conversation(VIDEO)
    assert system.role == "system" and len(set(re.findall(r"[A-Z][\w-]+(?: [A-Z][\w-]+)+", system.content[0]))) >= 23
    assert shown((user,)) == [int(k) for k in np.linspace(0, 80, 16)]
    times = re.findall(r"\[T=(\d+\.\d\d)s\]", text_of((user,)))
    assert times[0] == "0.00" and times[-1] == "5.00" and len(times) == 16
    assert (
        STATUS_PROTOCOLS["skyra"].sampling.temperature == 0
        and STATUS_PROTOCOLS["skyra"].sampling.max_new_tokens == 8192
    )


def test_videoveritas_sees_three_frames_a_second_and_is_drawn_from():
    protocol = STATUS_PROTOCOLS["videoveritas"]
    [system, user] = protocol.conversation(VIDEO)
    assert len(shown((user,))) in (15, 16) and "<answer>" in system.content[0]
    assert (protocol.sampling.temperature, protocol.sampling.max_new_tokens) == (0.7, 4096)


def test_unified_think_rates_one_video_in_its_three_dimensions():
    [user] = STATUS_PROTOCOLS["unified-think"].conversation(VIDEO, "a {caption} <|im_end|>")
    text = text_of((user,))
    assert len(shown((user,))) == 8 and text.endswith("Caption: [a {caption} < |im_end|>]")
    assert all(word in text for word in ("semantic consistency", "temporal coherence", "authenticity", "<think>"))


@pytest.mark.parametrize(
    ("name", "answer", "status"),
    [
        ("skyra", "<think>x</think><answer>Fake</answer>", "abnormal"),
        ("skyra", "<answer> Real.</answer>", "normal"),
        ("skyra", "<think>an <answer>Real</answer>?</think><answer>fake</answer>", "abnormal"),
        ("videoveritas", "so: <answer>The video is real</answer>", "normal"),
        ("unified-think", "<think>9+8+7=24</think><answer>Abnormal</answer>", "abnormal"),
        ("unified-think", "<answer>normal</answer>", "normal"),
    ],
)
def test_words_are_read(name, answer, status):
    assert STATUS_PROTOCOLS[name].read(answer) == status


@pytest.mark.parametrize("answer", ["", "Fake", "<answer>Fake", "<answer>real or fake</answer>", "<answer>?</answer>"])
def test_an_answer_without_one_verdict_is_none(answer):
    with pytest.raises(ScoreError):
        STATUS_PROTOCOLS["skyra"].read(answer)


def test_reading_stays_linear():
    for piece in ("<answer>", "</answer>", "<think>", "<tool_call>", "[1,"):
        started = time.perf_counter()
        with pytest.raises(ScoreError):
            STATUS_PROTOCOLS["skyra"].read(piece * 50_000)
        assert requested_frames(piece * 50_000, 16, 4) == []
        assert time.perf_counter() - started < 1, piece


def test_a_word_model_is_a_judge_of_the_tables():
    truth = {v.frames[0].tobytes(): v.truth.status for v in BENCH}

    def answer(conversation):
        first = next(p for m in conversation for p in m.content if not isinstance(p, str))
        return f"<answer>{'Real' if truth[first.tobytes()] == 'normal' else 'Fake'}</answer>"

    result = evaluate_judge(StatusJudge(Scripted(answer), "skyra"), BENCH, progress=False, num_resamples=10)
    assert result.value("status accuracy") == 1.0 and result.value("not judged") == 0.0
    assert result.judge["protocol"] == "skyra" and len(result.judge["wording"]) == 8
    lost = StatusJudge(Scripted(lambda c: Completion("", error="server down")), "skyra").judge_batch(
        [FRAMES, "no.mp4"], fps=16
    )
    assert [v.status for v in lost] == [None, None]
    assert lost[0].error == "server down" and "no.mp4" in lost[1].error
    with pytest.raises(ValueError, match="protocol='nope'"):
        StatusJudge(Scripted(answer), "nope")


# --- a model that asks for frames ------------------------------------------------------------------------------------


def call(*frames):
    wanted = json.dumps({"name": "select_frames", "arguments": {"target_frames": frames}})
    return f"<think>closer</think><tool_call>{wanted}</tool_call>"


def test_the_thinker_is_shown_what_it_asks_for_and_forgets_older_frames():
    script = iter([call(2, 81, 500), call(10), call(20), "<think>sure</think><answer>abnormal</answer>"])
    backend = Scripted(lambda c: next(script))
    [verdict] = ThinkerJudge(backend, FrameSelection(memory=2)).judge_batch([FRAMES], ["a cup"], fps=16)
    assert verdict.status == "abnormal" and verdict.provenance["protocol"] == "vr-thinker"
    views = [shown(c) for c, _ in backend.asked]
    assert views[0] == [0, 26, 53, 80]
    assert views[1] == [0, 26, 53, 80, 1, 80] and views[2] == [*views[1], 9]
    assert views[3] == [0, 26, 53, 80, 9, 19], "the first request's frames are out of view"
    assert "Frames 2, 81. Go on." in text_of(backend.asked[3][0]), "but it is still told of"


def test_a_thinker_that_never_decides_is_cut_off_and_spoils_no_other():
    def answer(conversation):
        dark = next(p for m in conversation for p in m.content if not isinstance(p, str)).max() == 0
        return call(*range(1, 40)) if dark else "<answer>normal</answer>"

    backend = Scripted(answer)
    bright = np.full((81, 12, 12, 3), 200, np.uint8)
    endless, fine, lost = ThinkerJudge(backend, FrameSelection(max_turns=3)).judge_batch(
        [FRAMES, bright, "no.mp4"], fps=16
    )
    assert endless.status is None and "no complete <answer>" in endless.error
    assert fine.status == "normal" and "no.mp4" in lost.error and len(backend.asked) == 1 + 1 + 2
    assert len(requested_frames(call(*range(1, 40)), 81, 12)) == 12
    with pytest.raises(ValueError, match="memory=0"):
        FrameSelection(memory=0)


# --- wording ---------------------------------------------------------------------------------------------------------


def test_every_protocol_has_the_place_of_its_public_text():
    assert PUBLIC_WORDINGS.keys() == PROTOCOLS.keys() | PAIR_PROTOCOLS.keys()
    for protocol in (*PROTOCOLS.values(), *PAIR_PROTOCOLS.values()):
        assert wording_origin(protocol) == "own"
        public = PUBLIC_WORDINGS[protocol.name]
        assert re.fullmatch("[0-9a-f]{64}", public.digest) and re.fullmatch("[0-9a-f]{40}", public.commit)
        assert words_digest(protocol.question) != public.digest


def test_a_wording_of_ones_own_is_asked_and_told_apart(tmp_path, monkeypatch):
    file = tmp_path / "aps.txt"
    file.write_text("Rate it.\nAlignment Score (1-5): X\n  Text: [{prompt}]", encoding="utf-8")
    changed = with_wording(APS, file)
    backend = Scripted(lambda c: "Alignment Score: 1\nPhysics Score: 3\nStyle Score: 5")
    [found] = UnifiedJudge(backend, changed).score([FRAMES], ["a {cup}"], fps=16)
    assert found.score == 0.5 and text_of(backend.asked[0][0]).endswith("Text: [a {cup}]")
    assert found.provenance["wording_origin"] == "file"
    same_words = " ".join(changed.question.split())
    public = PUBLIC_WORDINGS["aps"]._replace(digest=words_digest(same_words))
    monkeypatch.setitem(PUBLIC_WORDINGS, "aps", public)
    assert wording_origin(changed) == "public", "spaces do not count"
    for bad in ("no place", "{prompt} {prompt}"):
        file.write_text(bad)
        with pytest.raises(ValueError, match=r"names the place of the prompt [02] times; write \{prompt\}"):
            with_wording(APS, file)
    with pytest.raises(ValueError, match="cannot be read"):
        with_wording(APS, tmp_path / "absent.txt")


# --- rows of the tables ----------------------------------------------------------------------------------------------


def test_baselines_by_their_makers_protocols():
    judges = {"a": ModelSource("x")}
    for kind in ("common", "unified-think", "vr-thinker", "skyra", "videoveritas"):
        [made] = parse_baseline(f"{kind}=org/m", judges)
        assert made.name == f"m, {kind}"
    assert (
        len({parse_baseline(f"{k}=org/m", judges)[0].fingerprint for k in ("common", "zero-shot", *OFFICIAL[2:])}) == 6
    )


def test_the_page_and_the_command_name_every_baseline():
    page = (ROOT / "docs" / "how_to" / "evaluate.md").read_text(encoding="utf-8")
    recipe = (ROOT / "recipes" / "evaluate_reward.py").read_text(encoding="utf-8")
    for kind in WITH_MODEL:
        assert f"`{kind}=MODEL`" in page and kind in recipe, kind


def test_the_stronger_of_both_ways_has_a_row():
    def say(status):
        return evaluate_judge(
            ConstantJudge(status), WorldBench(4, seed=910_000, size=24), progress=False, num_resamples=10
        )

    good = evaluate_judge(
        StatusJudge(Scripted(lambda c: "<answer>normal</answer>"), "unified-think"),
        BENCH,
        progress=False,
        num_resamples=10,
    )
    rows = {"m, common": say("normal"), "m, skyra": good, "n, common": say("normal"), "o, skyra": good}
    chosen = stronger_of_both(rows, OFFICIAL)
    assert list(chosen) == ["m"] and chosen["m"][0] == "skyra", "of equals its own protocol"
    [table, *_] = make_tables({"main": rows}, num_resamples=10)
    assert "m, stronger of both (skyra)" in table.to_text()


def test_judges_that_lean_to_one_answer_are_left_out_as_in_the_paper():
    table = paper_table("Table 1")
    leaning = {
        row
        for row in table.rows
        if is_biased(float(table.cell(row, "recall, abnormal")), float(table.cell(row, "recall, normal")))
    }
    assert leaning == {"Gemini-2.5-Pro", "Qwen3-VL-8B", "Qwen3-VL-32B", "Skyra-RL"}
    shown_in_figure = set(paper_table("Figure 4").rows)
    assert not leaning & shown_in_figure


def test_the_rule_reads_the_main_bench():
    main = {
        "fair": evaluate_judge(ConstantJudge("normal"), BENCH, progress=False, num_resamples=10),
    }
    kept, left_out = balanced({"fair": main["fair"], "new": main["fair"]}, main)
    assert (list(kept), left_out) == (["new"], ["fair"]), "not measured on main: kept"
