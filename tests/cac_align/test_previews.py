"""Best-of-n by previews on a tiny real pipeline: what is drawn, what it costs, what is told, and resuming."""

import json
import re

import numpy as np
import pytest
from test_best_of_n import PROMPT, QUIET, WAN, Counting, brightness, largest_difference

from cac_align import best_of_n
from cac_align.selection.run_folder import render_folder
from tests.campaigns import slow_but

FULL = {**WAN, "num_inference_steps": 3}
CALL = {"reward": brightness, "n": 4, "preview_steps": 1, "keep": 2, **FULL, **QUIET}


def without_pictures(page):
    """A page's text: its stills are taken from the saved videos where it is rendered again."""
    return re.sub(r"data:[a-z0-9/]+;base64,[A-Za-z0-9+/=]+", "", page)


@pytest.fixture(scope="module")
def plain(wan_pipe):
    return best_of_n(wan_pipe, PROMPT, reward=brightness, n=4, **FULL, **QUIET)


@pytest.fixture(scope="module")
def few(wan_pipe):
    options = {**FULL, "num_inference_steps": 1}
    return best_of_n(wan_pipe, PROMPT, reward=brightness, n=4, **options, **QUIET)


@pytest.fixture(scope="module")
def whole(wan_pipe):
    """A run by previews that nothing stopped."""
    return best_of_n(wan_pipe, PROMPT, **CALL)


def test_the_best_previews_are_drawn_in_full_from_the_same_seeds(wan_pipe, plain, few, tmp_path):
    out = best_of_n(wan_pipe, PROMPT, output_dir=tmp_path, **CALL)
    assert out.kept == sorted(few.ranking[:2]) and out.previews.scores == few.scores
    for k in range(4):
        source = plain if k in out.kept else few
        assert largest_difference([out.candidates[k]], [source.candidates[k]]) == 0
        assert out.scores[k] == source.scores[k]
    assert out.best == max(out.kept, key=lambda k: plain.scores[k])
    assert out.ranking[0] == out.best and set(out.ranking[:2]) == set(out.kept)
    saved = json.loads((tmp_path / "result.json").read_text())
    left_out = next(k for k in range(4) if k not in out.kept)
    told = saved["candidates"][left_out]["preview"]
    assert told["note"] == "only its preview of 1 steps" and told["rank"] == few.ranking.index(left_out) + 1
    assert saved["settings"]["preview_steps"] == 1 and saved["ranking"] == out.ranking
    page = (tmp_path / "report.html").read_text()
    assert "Its preview came" in page and page.count("only its preview of 1 steps") >= 4
    render_folder(tmp_path)
    assert without_pictures((tmp_path / "report.html").read_text()) == without_pictures(page)
    assert "only its preview" in str(out)


@pytest.mark.slow
def test_costs_are_counted_and_not_estimated(wan_pipe, plain):
    passes = []
    hook = wan_pipe.transformer.register_forward_hook(lambda *_: passes.append(1))
    try:
        out = best_of_n(wan_pipe, PROMPT, **CALL)
    finally:
        hook.remove()
    # Guidance takes two forwards a step: 4 previews of 1 step, 2 videos of 3.
    assert out.costs["forwards"] == {"previews": 8, "candidates": 12, "total": 20, "all_in_full": 24}
    assert len(passes) == 20 and out.costs["judge_calls"] == 6
    assert out.costs["random_pick"]["of"] == "previews" and out.costs["seconds"]["candidate"]["videos"] == 2
    assert plain.costs["forwards"] == {"candidates": 24, "total": 24} and plain.costs["judge_calls"] == 4
    assert plain.costs["random_pick"]["score"] == pytest.approx(np.mean(plain.scores), abs=1e-6)
    assert not wan_pipe.transformer._forward_pre_hooks, "the pipeline is left as it was"
    in_batches = best_of_n(wan_pipe, PROMPT, **{**CALL, "batch_size": 3})
    assert in_batches.costs["forwards"] == out.costs["forwards"], "rows count, not calls"


@pytest.mark.slow
def test_judge_all_tells_what_the_previews_lost_and_changes_no_choice(wan_pipe, plain, whole):
    out = whole
    all_of_them = best_of_n(wan_pipe, PROMPT, judge_all=True, **CALL)
    assert (all_of_them.best, all_of_them.kept) == (out.best, out.kept)
    assert all_of_them.scores == plain.scores and all_of_them.ranking[0] == out.best
    assert all_of_them.costs["oracle"]["candidate"] == plain.best
    assert all_of_them.costs["selector_regret"] == pytest.approx(plain.scores[plain.best] - plain.scores[out.best])
    assert all_of_them.costs["random_pick"]["score"] == pytest.approx(np.mean(plain.scores), abs=1e-6)
    worst = best_of_n(wan_pipe, PROMPT, judge_all=True, **{**CALL, "reward": FirstLowest(plain), "keep": 1})
    assert worst.costs["selector_regret"] > 0, "previews that mislead cost something, and it is told"


class FirstLowest:
    """Likes the previews in the reverse order of the full videos."""

    name = "misled"

    def __init__(self, plain):
        self.known = [c.tobytes() for c in plain.candidates]
        self.scores = plain.scores

    def __call__(self, videos, prompts=None, *, fps, **kwargs):
        full = [v.tobytes() in self.known for v in videos]
        return brightness(videos, fps=fps) if all(full) else [1 - s for s in self.scores]


@pytest.mark.parametrize("fail_at", slow_but([2, 5]))
def test_a_killed_run_goes_on_where_it_stopped(wan_pipe, whole, tmp_path, fail_at):
    broken, again = Counting(wan_pipe, fail_at=fail_at), Counting(wan_pipe)
    with pytest.raises(RuntimeError, match="went away"):
        best_of_n(broken, PROMPT, output_dir=tmp_path, **CALL)
    out = best_of_n(again, PROMPT, output_dir=tmp_path, **CALL)
    assert broken.calls + again.calls == 6
    assert out.best == whole.best and largest_difference(out.candidates, whole.candidates) == 0
    assert out.costs["forwards"] == whole.costs["forwards"], "what was drawn before the kill counts as well"


@pytest.mark.slow
def test_a_run_without_a_folder_loses_nothing(wan_pipe):
    broken, again = Counting(wan_pipe, fail_at=5), Counting(wan_pipe)
    with pytest.raises(RuntimeError) as caught:
        best_of_n(broken, PROMPT, **CALL)
    best_of_n(again, PROMPT, output_dir=caught.value.candidates, **CALL)
    assert (broken.calls, again.calls) == (5, 1)


@pytest.mark.slow
def test_a_folder_of_plain_candidates_is_gone_on_with(wan_pipe, tmp_path):
    best_of_n(Counting(wan_pipe), PROMPT, reward=brightness, n=4, output_dir=tmp_path, **FULL, **QUIET)
    counting = Counting(wan_pipe)
    best_of_n(counting, PROMPT, output_dir=tmp_path, **CALL)
    assert counting.calls == 4, "the previews alone"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"preview_steps": 0}, "preview_steps=0 must be an integer of at least 1"),
        ({"preview_steps": 3}, "preview_steps=3 must be below the 3 denoising steps"),
        ({"keep": 4}, "keep=4 must be below n=4"),
        ({"keep": True}, "keep=True must be an integer"),
        ({"preview_steps": None, "judge_all": True}, "judge_all=True compares with what previews left out"),
    ],
)
def test_previews_that_cannot_be_are_refused(wan_pipe, change, words):
    with pytest.raises(ValueError, match=words):
        best_of_n(wan_pipe, PROMPT, **{**CALL, **change})
