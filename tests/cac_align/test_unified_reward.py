"""UnifiedReward over a real server on 127.0.0.1 that answers by what it sees, over a recording, and over a tiny real
Qwen3-VL.
"""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import subprocess
import sys
import threading
import time
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from cac_align import CompositeReward, UnifiedReward
from cac_align.rewards import unified, unified_model
from cac_align.rewards.base import Reward, RewardError, evaluate
from reward_model.backends.replay import RecordingBackend
from reward_model.conversation import Completion
from reward_model.unified import pairs as unified_pairs
from reward_model.unified import protocols as unified_protocols
from reward_model.unified.protocols import ScoreError
from reward_model.world import make_video

KEY = "sk-test-must-never-be-seen"


def clip(level, frames=20):
    """A grey video; ``level`` 0-255."""
    return np.full((frames, 8, 12, 3), level, np.uint8)


def aps(alignment, physics=3.0, style=3.0):
    return f"Alignment Score (1-5): {alignment}\nPhysics Score (1-5): {physics}\nStyle Score (1-5): {style}"


class BrightnessServer(ThreadingHTTPServer):
    """A chat server whose model likes bright videos and, in pairs, leans by ``bias`` towards the one shown first."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.bias, self.requests, self.refuses = 0.0, [], lambda images, text: False

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def answer(self, images, text):
        if "Video 1" not in text:
            return aps(f"{1 + 4 * images.mean():.4f}")
        half = len(images) // 2
        share = np.clip(0.5 + (images[:half].mean() - images[half:].mean()) / 4 + self.bias, 0, 1)
        return "\n\n".join(
            f"{axis} Score:\n Video 1: {share:.4f}\n Video 2: {1 - share:.4f}"
            for axis in ("Alignment", "Coherence", "Style")
        )


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        *pictures, text = body["messages"][-1]["content"]
        data = [base64.b64decode(p["image_url"]["url"].partition(",")[2]) for p in pictures]
        images = np.stack([np.asarray(Image.open(io.BytesIO(d))) for d in data]) / 255
        self.server.requests.append((images, text["text"], body))
        refused = self.server.refuses(images, text["text"])
        message = {"role": "assistant", "content": self.server.answer(images, text["text"])}
        reply = (
            {"error": {"message": "no"}} if refused else {"choices": [{"message": message, "finish_reason": "stop"}]}
        )
        out = json.dumps(reply).encode()
        self.send_response(400 if refused else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(out)))
        self.end_headers()
        self.wfile.write(out)


@pytest.fixture
def server():
    with BrightnessServer() as made:
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        yield made
        made.shutdown()


def served(server, **options):
    return UnifiedReward("UnifiedReward", backend="openai", base_url=server.url, api_key=KEY, **options)


class Scripted:
    """A backend that gives its answers in turn, and counts how many are asked at once."""

    name = "scripted"

    def __init__(self, *answers):
        self.answers, self.batches = list(answers), []

    def generate(self, conversations, sampling):
        self.batches.append(len(conversations))
        found = [self.answers.pop(0) for _ in conversations]
        return [a if isinstance(a, Completion) else Completion(a) for a in found]

    def score(self, conversations, prefixes):
        raise AssertionError("the protocols read text only")

    def describe(self):
        return {"model": "scripted"}


# --- single videos ---------------------------------------------------------------------------------------------------


def test_a_served_model_scores_each_video_by_its_own_frames_and_prompt(server):
    reward = served(server)
    levels = (255, 0, 51)
    scores = reward([clip(v) for v in levels], ["a sun", "a cave", "dusk"], fps=16)
    assert scores == pytest.approx([(v / 255 + 0.5 + 0.5) / 3 for v in levels], abs=1e-4)
    assert isinstance(reward, Reward) and len(server.requests) == 3
    for images, text, body in server.requests:
        assert images.shape == (16, 8, 12, 3) and body["temperature"] == 0 and body["max_tokens"] == 4096
        caption = {1.0: "a sun", 0.0: "a cave", 0.2: "dusk"}[round(float(images.mean()), 3)]
        assert text.endswith(f"Text Caption: [{caption}]")


def test_one_refused_request_spoils_no_other(server):
    server.refuses = lambda images, text: images.mean() > 0.9
    found = served(server).score([clip(51), clip(255), clip(51)], "a lamp", fps=16)
    assert [f.score is None for f in found] == [False, True, False]
    assert "400" in found[1].error and found[1].text == ""
    with pytest.raises(RewardError, match=r"could not score video 0: .*400"):
        served(server, on_error="raise")([clip(255)], "a lamp", fps=16)


def test_answers_carry_axes_text_and_provenance_without_the_key(server):
    [found] = served(server).score([clip(255)], ["a sun"], fps=16)
    assert found.axes == {"Alignment Score": 1.0, "Physics Score": 0.5, "Style Score": 0.5}
    assert found.text == aps("5.0000")
    assert found.provenance["protocol"] == "aps" and found.provenance["base_url"] == server.url
    other = UnifiedReward(backend=Scripted(""), protocol="video5").score([clip(0)], "a", fps=16)[0]
    assert len(other.provenance["wording"]) == 8 and other.provenance["wording"] != found.provenance["wording"]
    assert KEY not in repr(found) + json.dumps(dict(found.provenance))


def test_pickled_copy_asks_the_same_server_and_carries_no_key(server, monkeypatch):
    reward = served(server, protocol="aps", max_new_tokens=64)
    expected = reward([clip(51)], "dusk", fps=16)
    data = pickle.dumps(reward)
    assert KEY.encode() not in data and KEY not in repr(reward) and len(data) < 2000
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    assert pickle.loads(data)([clip(51)], "dusk", fps=16) == expected
    assert [body["max_tokens"] for _, _, body in server.requests] == [64, 64]


def test_the_five_axes_of_the_first_generation():
    lines = [f"{axis}: {k}" for axis, k in zip(unified_protocols.VIDEO5.axes, (1, 2, 3, 4, 4), strict=True)]
    reward = UnifiedReward(backend=Scripted("\n".join([*lines, "Final Score: 1"])), protocol="video5")
    found = reward.evaluate([make_video(1)[0]], ["a ball"], fps=16)
    assert found.scores == pytest.approx([(2.8 - 1) / 3])
    assert {k: v[0] for k, v in found.parts.items()} == pytest.approx(
        dict(zip(unified_protocols.VIDEO5.axes, (0, 1 / 3, 2 / 3, 1, 1), strict=True))
    )


def test_a_missing_axis_is_none_with_its_reason_in_every_view():
    without_style = aps(3).rpartition("\n")[0]
    reward = UnifiedReward(backend=Scripted(*[aps(5), without_style] * 2))
    found = evaluate(reward, [clip(1), clip(2)], ["a", "b"], fps=16)
    assert found.scores == [pytest.approx(2 / 3), None]
    assert found.reasons == [None, "the answer states no 'Style Score'"]
    assert found.parts["Alignment Score"] == [1.0, None] and found.verdicts == [None, None]
    mixed = CompositeReward([reward, lambda videos, prompts, fps: [0.0, 1.0]], on_failure="drop")
    both = mixed.evaluate([clip(1), clip(2)], ["a", "b"], fps=16)
    assert both.scores == [pytest.approx(1 / 3), 1.0]
    assert both.parts["scripted/Style Score"] == [0.5, None]


def test_a_number_cut_by_the_token_limit_is_not_read():
    cut = Completion(aps(3, style="4"), finished=False)
    whole = Completion(aps(3, style="4") + "\nBecause", finished=False)
    found = UnifiedReward(backend=Scripted(cut, whole)).score([clip(1), clip(2)], "a", fps=16)
    assert [f.score for f in found] == [None, pytest.approx((0.5 + 0.5 + 0.75) / 3)]
    assert "Style" in found[0].error


def test_a_recording_plays_back_the_same_scores(tmp_path):
    videos, path = [clip(1), clip(2), clip(3)], tmp_path / "exchanges.jsonl"
    live = UnifiedReward(backend=RecordingBackend(Scripted(aps(1), aps(2.5), "no idea"), path))
    recorded = live.score(videos, ["a", "b", "c"], fps=16)
    again = UnifiedReward(path, backend="replay")
    played = again.score(videos[::-1], ["c", "b", "a"], fps=16)[::-1]
    assert [f.score for f in played] == [f.score for f in recorded]
    assert [f.text for f in played] == [f.text for f in recorded]
    assert again.name == "exchanges.jsonl" and played[0].provenance["replayed_from"] == str(path)


def test_videos_are_asked_about_in_batches():
    backend = Scripted(*[aps(k) for k in (1, 2, 3, 4, 5)])
    scores = UnifiedReward(backend=backend, batch_size=2)([clip(k) for k in range(5)], "a", fps=16)
    assert backend.batches == [2, 2, 1]
    assert scores == pytest.approx([(k / 4 + 1) / 3 for k in range(5)])
    assert UnifiedReward(backend=Scripted())([], [], fps=16) == []


@pytest.mark.slow
def test_a_real_local_model_is_shown_the_frames_and_its_babble_is_no_score(judge_folder):
    reward = UnifiedReward(judge_folder, device="cpu", batch_size=2, max_new_tokens=6)
    videos = [make_video(3, "squash")[0], make_video(4)[0], clip(0)[:1]]
    found = reward.score(videos, "a ball", fps=16)
    assert [f.score for f in found] == [None] * 3 and found[0].text != found[1].text
    assert all("states no 'Alignment Score'" in f.error for f in found[:2]) and "1 frame" in found[2].error
    assert found[0].text and found[0].provenance["dtype"] == "float32"
    again = pickle.loads(pickle.dumps(reward))
    assert again._opened is None
    assert [f.text for f in again.score(videos, "a ball", fps=16)] == [f.text for f in found]
    ranking = reward.rank(videos[:2], "a ball", fps=16)
    assert ranking.scores == [None, None] and "with a first: the answer states 'Alignment" in ranking.reasons[0]


# --- misuse ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompts", [None, "", ["a", None], ["a", " "], ["a"]])
def test_prompts_are_needed(prompts):
    with pytest.raises(ValueError, match="prompt"):
        UnifiedReward(backend=Scripted())([clip(1), clip(2)], prompts, fps=16)


def test_bad_fps_and_one_video_instead_of_a_list():
    reward = UnifiedReward(backend=Scripted(aps(3)))
    with pytest.raises(ValueError, match="fps"):
        reward([clip(1)], "a", fps=0)
    with pytest.raises(ValueError, match=r"pass \[video\]"):
        reward(clip(1), "a", fps=16)
    assert reward([clip(1)], "a") == [0.5]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backend": "vllm"}, "backend='vllm' must be one of local, openai, replay"),
        ({"protocol": "acs"}, "protocol='acs' must be one of aps, video5, pair"),
        ({"on_error": "ignore"}, "on_error='ignore'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"base_url": "http://x"}, "belong to backend='openai'"),
    ],
)
def test_bad_options_fail_before_any_model_loads(options, words):
    with pytest.raises(ValueError, match=words):
        UnifiedReward("nowhere", **options)


@pytest.mark.parametrize(
    ("model", "protocol"),
    [
        ("CodeGoat24/UnifiedReward-Think-qwen3vl-8b", "aps"),
        ("CodeGoat24/UnifiedReward-Flex-qwen3vl-8b", "think_pair"),
        ("/models/unifiedreward-think-7b", "pair"),
    ],
)
def test_checkpoints_that_only_compare_are_not_asked_for_scores(model, protocol):
    with pytest.raises(ValueError, match=r"trained to compare pairs only.*use protocol='(think|flex)_pair'"):
        UnifiedReward(model, protocol=protocol)
    for fits in ("CodeGoat24/UnifiedReward-2.0-qwen3vl-8b", "thinker"):
        UnifiedReward(fits)
    flex = UnifiedReward("CodeGoat24/UnifiedReward-Flex-qwen3vl-8b", protocol="flex_pair")
    with pytest.raises(ValueError, match=r"compares videos and scores none; use \.compare or \.rank"):
        flex([clip(1)], "a", fps=16)


def test_default_model(monkeypatch):
    monkeypatch.setattr(unified_model, "mini_unified_folder", lambda: None)
    monkeypatch.delenv(unified_model.MODEL_VARIABLE, raising=False)
    for backend in ("local", "openai", "replay"):
        with pytest.raises(ValueError, match=r"pass model=\.\.\. or set \$UNIFIED_REWARD_MODEL"):
            UnifiedReward(backend=backend)
    monkeypatch.setenv(unified_model.MODEL_VARIABLE, "my-org/unified")
    assert UnifiedReward().model == UnifiedReward(backend="openai", base_url="http://x/v1").model == "my-org/unified"


def test_a_shipped_mini_is_the_default_and_announces_itself_once(monkeypatch, judge_folder):
    monkeypatch.delenv(unified_model.MODEL_VARIABLE, raising=False)
    monkeypatch.setattr(unified_model, "mini_unified_folder", lambda: judge_folder)
    unified_model.announce_mini.cache_clear()
    with pytest.warns(UserWarning, match="demo-scale"):
        _ = UnifiedReward(device="cpu").opened_backend
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _ = UnifiedReward(device="cpu").opened_backend
    with pytest.raises(ValueError, match="pass model"):
        UnifiedReward(backend="openai")


def test_making_a_reward_loads_nothing_heavy():
    code = (
        "import sys; from cac_align import CaCReward, UnifiedReward; CaCReward('somewhere');"
        "assert 'torch' not in sys.modules; UnifiedReward('somewhere');"
        "assert not {'torch', 'scipy', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})


def test_protocol_names_are_those_of_the_tables():
    assert tuple(unified_protocols.PROTOCOLS) == unified.POINT_PROTOCOLS
    assert tuple(unified_pairs.PAIR_PROTOCOLS) == unified.PAIR_PROTOCOLS
    assert set(unified.PARTNERS) == set(unified.POINT_PROTOCOLS)
    assert set(unified.PARTNERS.values()) <= set(unified.PAIR_PROTOCOLS)


# --- pairs -----------------------------------------------------------------------------------------------------------


def test_both_orders_cancel_the_bias_of_position(server):
    server.bias = 0.2
    found = served(server).compare(clip(51), clip(102), "a lamp", fps=16)
    assert found.share == pytest.approx(0.5 - 0.05, abs=1e-4)
    assert found.orders == pytest.approx((0.65, 0.25), abs=1e-4) and found.consistent is False
    assert found.axes == pytest.approx(dict.fromkeys(unified_pairs.SHARE_AXES, 0.45), abs=1e-4)
    assert found.provenance["protocol"] == "pair_score"
    firsts = sorted(round(float(images[:8].mean()), 2) for images, _, _ in server.requests)
    assert firsts == [0.2, 0.4] and all(images.shape[0] == 16 for images, _, _ in server.requests)


def test_a_ranking_is_the_mean_share_against_the_others(server):
    server.bias = 0.1
    levels = np.array([0, 255, 102])
    ranking = served(server).rank([clip(v) for v in levels], "a lamp", fps=16)
    assert ranking.order == [1, 2, 0] and len(server.requests) == 6
    shares = 0.5 + (levels[:, None] - levels[None]) / 255 / 4
    expected = [(shares[k].sum() - 0.5) / 2 for k in range(3)]
    assert ranking.scores == pytest.approx(expected, abs=2e-4)
    assert sum(ranking.scores) == pytest.approx(1.5) and ranking.consistency == pytest.approx(2 / 3)


def test_an_order_without_answer_is_no_comparison_and_spoils_no_other(server):
    server.refuses = lambda images, text: images[:8].mean() == 0 and images[8:].mean() == 1
    ranking = served(server).rank([clip(0), clip(255), clip(102)], "a lamp", fps=16)
    assert ranking.comparisons[0, 1].share is None and "with a first: " in ranking.comparisons[0, 1].error
    assert ranking.comparisons[0, 1].orders == (None, pytest.approx(0.25))
    assert ranking.scores == pytest.approx([0.4, 0.65, 0.475], abs=1e-4)
    assert ranking.reasons == [None] * 3


def test_an_unreadable_video_is_left_out_of_the_ranking(server, tmp_path):
    (tmp_path / "none.mp4").write_bytes(b"no video")
    videos = [clip(0), tmp_path / "none.mp4", clip(255)]
    ranking = served(server).rank(videos, "a lamp", fps=16)
    assert ranking.order == [2, 0] and ranking.scores[1] is None and "none.mp4" in ranking.reasons[1]
    assert list(ranking.comparisons) == [(0, 2)]
    alone = served(server).compare(videos[1], videos[0], "a lamp", fps=16)
    assert alone.share is None and "none.mp4" in alone.error
    with pytest.raises(RewardError, match=r"could not compare video 1: cannot decode"):
        served(server, on_error="raise").rank(videos, "a lamp", fps=16)


def test_rankings_need_two_videos_and_their_prompt():
    reward = UnifiedReward(backend=Scripted())
    with pytest.raises(ValueError, match="at least two videos, got 1"):
        reward.rank([clip(1)], "a", fps=16)
    with pytest.raises(ValueError, match="prompt"):
        reward.rank([clip(1), clip(2)], " ", fps=16)


def test_the_first_generation_says_who_is_better_or_that_none_is():
    said = [
        "Video 1 is better than Video 2.",
        "Video 2 is better than Video 1.",
        *["Both videos are equally good."] * 2,
    ]
    reward = UnifiedReward(backend=Scripted(*said), protocol="video5", batch_size=1)
    better = reward.compare(clip(1), clip(2), "a", fps=16)
    assert (better.share, better.consistent, better.provenance["protocol"]) == (1.0, True, "pair")
    tie = reward.compare(clip(1), clip(2), "a", fps=16)
    assert (tie.share, tie.consistent) == (0.5, True)
    assert reward.backend.batches == [1] * 4


SHARES = "Alignment Score:\n Video 1: {}\n Video 2: {}\n\nCoherence Score:\n Video 1: 0.5\n Video 2: 0.5\n\n"
SHARES += "**Style Score:**\n Video 1: **0.2**\n Video 2: **0.8**"
FLEX = {"categories": [{"name": "A", "dims": [{"score_1": 6, "score_2": 4}, {"score_1": 8, "score_2": 2}]}, 3]}


@pytest.mark.parametrize(
    ("protocol", "text", "share"),
    [
        ("pair", "Looking at both, video 2 is better than video 1.", 0.0),
        ("pair_score", SHARES.format(0.4736, 0.5264), (0.4736 + 0.5 + 0.2) / 3),
        ("pair_score", SHARES.format(0.6, 0.41), (0.6 / 1.01 + 0.5 + 0.2) / 3),
        ("pair", "Video 1 is better in colour. Overall, Video 2 is better.", 0.0),
        ("pair", "Video 1 is better in colour. Overall, both are equally good.", 0.5),
        ("pair_score", SHARES.format(0.6, 0.4).replace(" Video", "- Video"), (0.6 + 0.5 + 0.2) / 3),
        ("think_pair", "<think>Video 2 is better at first\n</think>\n<answer>Video 1 is better</answer>", 1.0),
        (
            "think_pair",
            "<think>I may write <answer>Video 1 is better</answer>.</think><answer> Video 2 is better.</answer>",
            0.0,
        ),
        ("flex_pair", json.dumps({**FLEX, "winner": "Video 2"}) + "\n} That is all.", 0.0),
        ("flex_pair", '{"categories": [], "winner": "Video 1 is better",}', 1.0),
        ("flex_pair", "```json\n" + json.dumps({**FLEX, "winner": "Video 2"}) + "\n```", 0.0),
    ],
)
def test_answers_about_pairs(protocol, text, share):
    assert unified_pairs.PAIR_PROTOCOLS[protocol].read(text).share == pytest.approx(share)


def test_points_of_a_flex_answer_are_axes():
    assert unified_pairs.read_flex(json.dumps({**FLEX, "winner": "video 1"})) == unified_pairs.PairAnswer(
        1.0, {"A": 0.7}
    )


@pytest.mark.parametrize(
    ("protocol", "text", "words"),
    [
        ("pair", "Hard to say.", "names no better video"),
        ("pair", "Video 1 is not better than Video 2.", "names no better video"),
        ("pair_score", SHARES.format(0.7, 0.7), "0.7 and 0.7; two shares"),
        ("pair_score", SHARES.format(-0.2, 1.2), "-0.2 and 1.2; two shares"),
        ("pair_score", SHARES.format("nan", 0.5), "two shares"),
        ("pair_score", SHARES.format("x", 0.5), "states 'Alignment Score' for no pair"),
        ("pair_score", SHARES.format(0.4, 0.6) + "\n" + SHARES.format(0.3, 0.7), "'Alignment Score' twice"),
        ("pair_score", SHARES.format(0.4, 0.6).replace("Video 2", "Video 3"), "for no pair"),
        ("think_pair", "<think>Video 1 is better</think>", "no complete <answer> block"),
        ("think_pair", "<think><answer>Video 1 is better</answer></think>", "no complete <answer> block"),
        ("think_pair", "<answer>Neither</answer>", "names no better video"),
        ("flex_pair", '{"winner": "Video 1"', "not a complete JSON"),
        ("flex_pair", '{"winner": "both"}', "winner is 'both'"),
        ("flex_pair", '{"a":' * 100_000 + "}", "not a complete JSON"),
    ],
)
def test_unusable_answers_about_pairs_are_errors(protocol, text, words):
    with pytest.raises(ScoreError, match=words):
        unified_pairs.PAIR_PROTOCOLS[protocol].read(text)


@pytest.mark.parametrize("protocol", unified_pairs.PAIR_PROTOCOLS)
def test_no_answer_takes_long_to_read(protocol):
    pieces = [
        "Alignment Score",
        "Alignment Score:" + " " * 30,
        "Video 1: ",
        "<answer>",
        "equally ",
        '{"a": ',
        ", ",
        "(",
    ]
    for piece in pieces:
        text = piece * (200_000 // len(piece))
        started = time.perf_counter()
        with pytest.raises(ScoreError):
            unified_pairs.PAIR_PROTOCOLS[protocol].read(text)
        assert time.perf_counter() - started < 1, f"{piece!r} repeated"


def test_frames_of_a_pair_are_picked_as_the_protocols_do():
    video = np.arange(81, dtype=np.uint8)[:, None, None, None].repeat(3, -1)
    picked = {name: p.show(video)[:, 0, 0, 0].tolist() for name, p in unified_pairs.PAIR_PROTOCOLS.items()}
    assert picked["pair_score"] == [0, 10, 20, 30, 40, 50, 60, 70]
    assert picked["think_pair"] == picked["flex_pair"] == [0, 11, 22, 34, 45, 57, 68, 80]
    assert unified_pairs.PAIR.show(video).shape == (8, 512, 512, 3)


def test_a_short_video_is_shown_once_through_but_for_the_scripts_that_repeat():
    video = np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(3, -1)
    picked = {name: p.show(video)[:, 0, 0, 0].tolist() for name, p in unified_pairs.PAIR_PROTOCOLS.items()}
    assert picked["pair"] == picked["pair_score"] == [0, 1, 2, 3, 4]
    assert picked["think_pair"] == picked["flex_pair"] == [0, 0, 1, 1, 2, 2, 3, 4]
    for name, pick in (("aps", 16), ("video5", 8)):
        protocol = unified_protocols.PROTOCOLS[name]
        assert protocol.pick(5) == [0, 1, 2, 3, 4]
        for frames in (pick, pick + 1, 81):
            assert len(set(protocol.pick(frames))) == pick


def test_the_first_generation_is_shown_bicubic_squares():
    picture = np.random.default_rng(0).integers(0, 256, (1, 30, 40, 3), np.uint8)
    [shown] = unified_pairs.PAIR.show(picture)
    np.testing.assert_array_equal(shown, np.asarray(Image.fromarray(picture[0]).resize((512, 512))))


def test_a_first_generation_checkpoint_is_asked_by_its_own_protocol():
    for name in ("CodeGoat24/UnifiedReward-qwen-7b", "CodeGoat24/UnifiedReward-7b-v1.5"):
        with pytest.raises(ValueError, match="use protocol='video5'"):
            UnifiedReward(name)
        assert UnifiedReward(name, protocol="video5").protocol == "video5"


def test_a_reward_that_cannot_score_or_load_is_found_without_loading(tmp_path):
    with pytest.raises(ValueError, match="compares videos and scores none"):
        UnifiedReward("thinker", protocol="pair").check_ready()
    with pytest.raises(ValueError, match="there is no folder"):
        UnifiedReward(tmp_path / "nosuch").check_ready()


# --- wording ---------------------------------------------------------------------------------------------------------


def test_a_wording_of_ones_own_is_asked_by_its_protocol_alone(server, tmp_path):
    file = tmp_path / "aps.txt"
    file.write_text("Rate these frames.\nText Caption: [{prompt}]", encoding="utf-8")
    reward = pickle.loads(pickle.dumps(served(server, wording=file)))
    [found] = reward.score([clip(51)], "dusk", fps=16)
    assert found.provenance["wording_origin"] == "file" and found.score is not None
    assert server.requests[-1][1] == "Rate these frames.\nText Caption: [dusk]"
    compared = reward.compare(clip(51), clip(102), "dusk", fps=16)
    assert "Share one point" in server.requests[-1][1], "pairs are asked by pair_score, in our words"
    assert compared.provenance["wording_origin"] == "own"
    with pytest.raises(ValueError, match=r"cannot be read: .*absent"):
        served(server, wording=tmp_path / "absent.txt")
