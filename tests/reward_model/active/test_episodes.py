"""Episodes without a model: what scripted policies do in an environment of captions, and what that is worth."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from reward_model.active.environment import SymbolicEnvironment, VideoEnvironment, world_captions
from reward_model.active.episodes import Episode, State, run_episode, run_episodes
from reward_model.active.moves import Move, read_move
from reward_model.active.operators import Backtrack, Expand, Zoom
from reward_model.active.policies import (
    AlwaysZoom,
    NeverLook,
    OraclePolicy,
    RandomLooks,
    answer_move,
    frames_of,
    look_at,
    random_operator,
)
from reward_model.active.views import Limits
from reward_model.config import JudgeConfig
from reward_model.schema import FrameRange, TurnReport
from reward_model.turns import VideoView
from reward_model.video.clip import VideoError
from reward_model.world import LOOK_ALIKES, make_annotation, make_pair_scenes, make_scene
from reward_model.world.narration import narrate_zoom, read_states


class Reader:
    """Answers what the captions of the last view say; the report of a perfect judge about it."""

    def __init__(self):
        self.asked = []

    def next(self, states):
        self.asked.append(len(states))
        return [answer_move(s, narrate_zoom(s.environment.truth, s.now.indices)) for s in states]


def believe(states):
    """Sure of an anomaly once a caption has told of one, less and less expecting it otherwise."""
    found = [any(k for o in s.observations for k in read_states(o.text)) for s in states]
    return [0.98 if f else 0.5 / (1 + 0.2 * len(s.moves)) for f, s in zip(found, states, strict=True)]


def aliased(count=24):
    """Annotations of look-alikes that 2 fps cannot tell apart, and the moment of each."""
    truths, windows = [], []
    for seed in range(count // 2):
        kind = list(LOOK_ALIKES)[seed % len(LOOK_ALIKES)]
        pair = make_pair_scenes(seed, kind, scan_fps=2, zoom_fps=4)
        for scene in (pair.normal, pair.abnormal):
            truths.append(make_annotation(scene))
            windows.append(FrameRange(pair.moment.start, pair.moment.end))
    return truths, windows


TRUTHS, WINDOWS = aliased()


def environments(**limits):
    return [SymbolicEnvironment(truth, Limits(**limits)) for truth in TRUTHS]


def accuracy(episodes):
    return np.mean([e.status == t.status for e, t in zip(episodes, TRUTHS, strict=True)])


def worth(episodes):
    return np.mean([e.utility(t.status, 16) for e, t in zip(episodes, TRUTHS, strict=True)])


def middle_hidden(truth, indices):
    """Captions as a judge sees look-alikes: the frames of the 2-fps grid are equal, so they tell nothing."""
    return [c if n % 8 else "normal." for c, n in zip(world_captions(truth, indices), indices, strict=True)]


def test_the_oracle_sees_what_the_passive_judge_cannot():
    oracle = OraclePolicy(TRUTHS, WINDOWS)
    episodes = run_episodes(oracle, environments(), believe=believe)
    assert accuracy(episodes) == 1
    assert all(len(e.operators) == 1 and e.num_frames == 20 for e in episodes)
    assert {type(o.operator) for e in episodes for o in e.operators} == {Zoom}
    reader = Reader()
    passive = run_episodes(NeverLook(reader), environments(), believe=believe)
    assert reader.asked == [len(TRUTHS)] and all(not e.operators for e in passive)
    # The truth of a view tells of the middle frame; a judge sees the same there in both members.
    hidden = [SymbolicEnvironment(t, Limits(), middle_hidden) for t in TRUTHS]
    blind = run_episodes(OraclePolicy([replace(t, anomalies=()) for t in TRUTHS], [None] * len(TRUTHS)), hidden)
    assert accuracy(blind) == 0.5


def test_what_scripts_are_worth():
    oracle = worth(run_episodes(OraclePolicy(TRUTHS, WINDOWS), environments(), believe=believe))
    drawn = run_episodes(RandomLooks(Reader(), seed=1), environments(), believe=believe)
    always = run_episodes(AlwaysZoom(Reader()), environments(), believe=believe)
    assert all(len(e.operators) == 4 for e in always) and worth(always) < worth(drawn) + 0.5
    assert oracle > 0.85 > max(worth(drawn), worth(always))
    assert {type(o.operator) for e in drawn for o in e.operators} == {Zoom, Expand, Backtrack}
    again = run_episodes(RandomLooks(Reader(), seed=1), environments(), believe=believe)
    assert [[o.operator for o in e.operators] for e in drawn] == [[o.operator for o in e.operators] for e in again]


def test_a_budget_of_frames_is_kept_and_random_operators_are_sound():
    for budget in (11, 20, 33):
        episodes = run_episodes(RandomLooks(Reader(), seed=0, budget=budget), environments())
        assert max(e.num_frames for e in episodes) <= budget
        assert not any(o.refused for e in episodes for o in e.operators)
    assert all(not e.operators for e in run_episodes(RandomLooks(Reader(), stop=1.0), environments()))


def test_frames_of_foretells_what_is_shown():
    rng = np.random.default_rng(0)
    for truth in TRUTHS:
        environment = SymbolicEnvironment(truth, Limits(max_frames=30))
        state = State(environment, [environment.start()])
        while not state.must_answer:
            operator = random_operator(state, rng)
            told = frames_of(operator, state)
            state.observations.append(environment.step(operator))
            assert state.now.num_frames == told


def test_the_oracle_widens_zooms_and_takes_detours():
    truth, window = TRUTHS[1], WINDOWS[1]
    second = window.start / 16
    detours = [(Zoom(0.0, 0.5, 2),)] if second > 0.5 else [(Zoom(4.5, 5.0, 2),)]
    for frames in (False, True):
        oracle = OraclePolicy([truth], [window], detours=detours, frames_in_moves=frames)
        episode = run_episode(oracle, SymbolicEnvironment(truth))
        names = [type(o.operator) for o in episode.operators]
        assert names[0] is Zoom and Expand in names and names[-1] is Zoom and episode.status == "abnormal", names
        for shown, move in zip(episode.observations, episode.moves, strict=True):
            again = read_move(move.text, shown.indices, 16.0, JudgeConfig())
            assert again.operator == move.operator and again.error is None and again.status == move.status
    state = State(SymbolicEnvironment(truth), [])
    state.observations.append(state.environment.start())
    assert look_at(FrameRange(0, 80), state) == Zoom(0.0, 5.0, 4)  # refused by the environment, not by the script


def test_an_operator_where_the_answer_has_to_come_is_an_error_of_form():
    class Stubborn:
        def next(self, states):
            return [Move("look", Backtrack(1, 0.5)) for _ in states]

    episode = run_episode(Stubborn(), SymbolicEnvironment(TRUTHS[0]), believe=lambda states: [0.5] * len(states))
    assert len(episode.operators) == 4 and episode.format_error and episode.status is None
    assert "an operator where the answer had to come" in episode.moves[-1].error
    assert episode.utility("normal", 16) == pytest.approx(-0.5 - 4 * (0.05 + 0.05 * 2 / 16 + 0.1))


def test_episodes_of_different_lengths_run_in_step():
    truths = [TRUTHS[0], TRUTHS[1], TRUTHS[2]]
    windows = [None, WINDOWS[1], None]
    oracle = OraclePolicy(truths, windows)
    asked = []

    def counting(states):
        asked.append(len(states))
        return [0.5] * len(states)

    episodes = run_episodes(oracle, [SymbolicEnvironment(t) for t in truths], believe=counting)
    assert asked == [3, 1] and [len(e.beliefs) for e in episodes] == [1, 2, 1]
    assert [e.status for e in episodes] == ["normal", "abnormal", "normal"]
    with pytest.raises(ValueError, match="run the episode with believe"):
        run_episode(OraclePolicy(truths, windows), SymbolicEnvironment(truths[0])).looks()


def test_what_breaks_off_says_so_and_spoils_no_other():
    def take(indices):
        if len(indices) == 9:
            raise VideoError("the file breaks off")
        return np.zeros((len(indices), 8, 8, 3), np.uint8)

    class Script:
        def next(self, states):
            made = []
            for number, s in enumerate(states):
                if number == 1 and not s.moves:
                    made.append(Move("", failed="the server is down"))
                elif number == 0 and not s.moves:
                    made.append(Move("zoom", Zoom(2, 3, 4)))
                else:
                    made.append(answer_move(s, TurnReport("normal", "")))
            return made

    video = VideoView(81, 16.0, take)
    broken, down, sound = run_episodes(Script(), [VideoEnvironment(video) for _ in range(3)])
    assert broken.error == "the file breaks off" and broken.status is None
    assert down.error == "the server is down" and down.status is None
    assert sound.error is None and sound.status == "normal"


def test_captions_are_the_world_s():
    truth = make_annotation(make_scene(3, "vanish"))
    window = truth.anomalies[0].frames
    environment = SymbolicEnvironment(truth)
    said = read_states(environment.start().text)
    assert said == ["vanish" if n in window else "" for n in environment.start().indices]
    assert re.fullmatch(r"Frame 0: .*", environment.start().text) and environment.start().frames is None
    assert isinstance(run_episode(NeverLook(Reader()), environment), Episode)
