"""The training of a judge that looks itself, on a tiny real judge: rows, masks, rounds, resume, processes."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from reward_model.active.episodes import State, run_episode
from reward_model.active.model_policy import ModelPolicy, episode_conversation
from reward_model.active.moves import write_look
from reward_model.active.operators import Backtrack, Zoom
from reward_model.active.policies import OraclePolicy
from reward_model.backends.local import LocalBackend
from reward_model.config import JudgeConfig
from reward_model.engine.checkpoints import TrainingCheckpointError, last_checkpoint
from reward_model.engine.interrupts import Interrupted
from reward_model.minis.active import add_active_pieces
from reward_model.minis.model import build_judge
from reward_model.parsing import format_report
from reward_model.schema import TurnReport
from reward_model.training.active.cold_start import scripted_rows, scripted_window
from reward_model.training.active.config import ActiveConfig
from reward_model.training.active.episode_rows import EpisodeCase, belief_rows, replay_episode, write_script
from reward_model.training.active.experience import RoundFiles
from reward_model.training.active.losses import PreferencePart, drawn_delta
from reward_model.training.active.pairs import all_pairs
from reward_model.training.active.rollouts import ANSWER_START, Drawn
from reward_model.training.active.trainer import COLD, ROUNDS, ActiveTrainer
from reward_model.training.active.videos import suite_loader, suite_rows
from reward_model.training.grpo.rows import PromptBuilder, core_model, masked_log_probs, row_inputs, stock_vision_inputs
from reward_model.training.grpo.sampler import Sampled
from reward_model.world.narration import narrate_zoom
from tests.campaigns import draws
from tests.launched import ROOT, launch

JUDGE = JudgeConfig(prompts="compact", frame_size=48, max_zoom_tokens=200)
NORMAL = format_report(TurnReport("normal", "All well."))
ZOOM, AGAIN = write_look(Zoom(2.0, 3.0, 4), "Look closer."), write_look(Backtrack(2.5, 0.5), "Look back.")


@cache
def tiny():
    model, processor = build_judge("tiny")
    add_active_pieces(model, processor)
    return model, processor


@cache
def rows():
    return list(suite_rows(12, easy=0.5))


class Draws:
    """Draws prepared texts with the trainer's random state: looks, answers right and wrong, nonsense."""

    def __init__(self, trainer):
        self.trainer = trainer

    def __call__(self, prompts, repeats, max_new_tokens):
        return [[self.one(prompt) for _ in range(n)] for prompt, n in zip(prompts, repeats, strict=True)]

    def one(self, prompt):
        tokenizer = self.trainer.processor.tokenizer
        last = tokenizer.decode(prompt.ids[-12:])
        texts = (ABNORMAL, NORMAL, "{") if "Zoom." in last else (ZOOM, AGAIN, NORMAL, ABNORMAL)
        text = texts[int(torch.randint(len(texts), (1,), generator=self.trainer.random))]
        return Sampled(tuple(tokenizer.encode(text + tokenizer.eos_token, add_special_tokens=False)), True)


ABNORMAL = (
    '{"COT": "Odd.", "status": "abnormal", "anomalies": [{"Attributed Time Region": "Frame 0-1", "Attributed Label": '
    '"Motion Anomalies", "Reason for Anomaly": "it jumps", "Problem Region": "it", "BBOX": {"Frame 0": [0, 0, 9, 9]}}]}'
)


def settings(folder, **changes):
    base = {
        "output_dir": str(folder),
        "cold_steps": 1,
        "cold_batch": 2,
        "rounds": 2,
        "round_videos": 2,
        "held_out_videos": 1,
        "num_generations": 4,
        "num_branches": 1,
        "round_steps": 1,
        "pairs_per_step": 2,
        "learning_rate": 1e-3,
        "cold_learning_rate": 1e-3,
        "warmup_steps": 1,
        "save_steps": 1,
    }
    return ActiveConfig(**{**base, **changes})


def build(folder, *, generator=Draws, data=None, **changes):
    model, processor = copy.deepcopy(tiny()[0]), tiny()[1]
    config = settings(folder, **changes)
    return ActiveTrainer(
        model, processor, data or rows(), suite_loader(48), config, JUDGE, narrate=narrate_zoom, generator=generator
    )


def weights(trainer):
    model = trainer.accelerator.unwrap_model(trainer.policy).model
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def case_of(row, judge=JUDGE):
    processor = tiny()[1]
    builder = PromptBuilder(processor, stock_vision_inputs(processor))
    return EpisodeCase(suite_loader(48)(row), builder, judge.override(policy="active"))


def scripted(row, detours=()):
    case = case_of(row)
    oracle = OraclePolicy(
        [case.sample.truth], [case.sample.window], detours=[detours], frames_in_moves=True, framing=case.framing
    )
    episode = run_episode(oracle, case.environment())
    return case, episode, write_script(case, episode.observations, episode.moves)


def aliased_row():
    return next(r for r in rows() if r["story"] == "aliased" and r["abnormal"])


# --- rows -------------------------------------------------------------------------------------------------------------


def test_a_row_is_the_chat_the_backend_would_read():
    """The ids of training are those of the chat template on the whole conversation, and the mask is on the turns."""
    refused = Zoom(0.0, 5.0, 8)  # 81 frames: the environment says no, without pictures
    case, episode, tokens = scripted(aliased_row(), (refused, Zoom(0.0, 0.5, 2)))
    assert [bool(o.refused) for o in episode.operators][:2] == [True, False] and episode.status == "abnormal"
    row, processor = tokens.row(), tiny()[1]
    state = State(case.environment(), list(episode.observations), list(episode.moves[:-1]))
    backend = LocalBackend.of(*tiny())
    policy = ModelPolicy(backend, case.judge)
    chat = episode_conversation(state, policy.wording)
    inputs = backend._inputs([chat], [""])
    prompt = inputs["input_ids"][0].tolist()
    assert row.ids[: len(prompt)].tolist() == prompt
    answer = processor.tokenizer.decode(row.ids[len(prompt) :].tolist())
    assert answer == episode.moves[-1].text + processor.tokenizer.eos_token
    learned = processor.tokenizer.decode(row.ids[row.mask].tolist())
    assert learned == "".join(m.text + processor.tokenizer.eos_token for m in episode.moves)
    assert sum(len(p.frames) for p in row.pictures) == episode.num_frames


def test_beliefs_are_those_of_the_backend():
    case, episode, tokens = scripted(aliased_row())
    model, processor = tiny()
    policy = ModelPolicy(LocalBackend.of(model, processor), case.judge)
    states = [State(case.environment(), list(episode.observations[: k + 1]), list(episode.moves[:k])) for k in (0, 1)]
    told = policy.believe(states)
    contexts = [tokens.copy(k).context() for k in (0, 1)]
    made = belief_rows(contexts, case.builder)
    with torch.no_grad():
        flat = masked_log_probs(model, made, stock_vision_inputs(processor)).values.double()
    sums = [float(v.sum()) for v in flat.split([r.num_tokens for r in made])]
    found = [1 / (1 + np.exp(sums[2 * k] - sums[2 * k + 1])) for k in (0, 1)]
    np.testing.assert_allclose(found, told, atol=1e-5)


def test_what_was_drawn_is_read_again_id_by_id():
    _, _, tokens = scripted(aliased_row(), (Zoom(0.0, 0.5, 2),))
    trainer_stops = [tiny()[1].tokenizer.eos_token_id]
    again = replay_episode(case_of(aliased_row()), tokens.turns, trainer_stops)
    for one, other in zip(tokens.between, again.between, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(tokens.row().ids, again.row().ids)
    np.testing.assert_array_equal(tokens.row().mask, again.row().mask)
    with pytest.raises(ValueError, match="turn 1 of an episode is not an operator"):
        replay_episode(case_of(aliased_row()), [tokens.turns[-1], tokens.turns[-1]], trainer_stops)
    tokens.between.append(tokens.between[-1])
    with pytest.raises(ValueError, match="ends with a turn"):
        tokens.row()


def test_tokens_of_the_environment_do_not_enter_the_loss():
    """Whatever label they get, the loss stays; and no gradient reaches the logits that predict them."""
    _, _, tokens = scripted(aliased_row())
    row, (model, processor) = tokens.row(), tiny()
    vision = stock_vision_inputs(processor)
    config = ActiveConfig()
    drawn = Drawn(tuple(tokens.turns), (0.5, 0.5), None, reference=tuple(0.0 for _ in tokens.turns))

    def loss(values):
        return drawn_delta(values, drawn, config)

    ours = float(loss(masked_log_probs(model, [row], vision).values).detach())
    rng, totals = np.random.default_rng(0), list[float]()
    for shuffled in (False, True):
        labels = row.ids.copy()
        if shuffled:
            labels[~row.mask] = rng.integers(0, 900, (~row.mask).sum())
        inputs, _, _ = row_inputs(core_model(model), [[row]], vision)
        logits = model(**inputs, use_cache=False).logits[0]
        logits.retain_grad()
        log_probs = torch.log_softmax(logits[:-1].float(), -1)
        taken = log_probs.gather(1, torch.from_numpy(labels)[1:, None])[:, 0]
        total = loss(taken[torch.from_numpy(row.mask)[1:]])
        assert float(total.detach()) == pytest.approx(ours, abs=1e-4 * abs(ours))
        total.backward()
        predicts = np.append(row.mask[1:], False)
        assert float(logits.grad[torch.from_numpy(~predicts)].abs().max()) == 0
        assert float(logits.grad[torch.from_numpy(predicts)].abs().max()) > 0
        totals.append(float(total.detach()))
    assert abs(totals[0] - totals[1]) <= 1e-6


# --- the cold start ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_scripts_look_where_something_happens_in_both_members_and_take_detours():
    config, looks, detours, at_once = ActiveConfig(), [], 0, 0
    for number, row in enumerate(rows() * 3):
        case = case_of(row)
        tokens, belief = scripted_rows(case, config, narrate_zoom, np.random.default_rng([0, number]))
        text = tiny()[1].tokenizer.decode(tokens.ids[tokens.mask].tolist())
        count = text.count('"act"')
        assert text.endswith("]}<|im_end|>")
        looks.append((row["abnormal"], count))
        detours += "Look wider." in text
        at_once += row["story"] == "easy" and count == 0
        said = tiny()[1].tokenizer.decode(belief.ids[belief.mask].tolist())
        assert said == ("abnormal" if row["abnormal"] else "normal")
    by_status = {s: np.mean([n > 0 for a, n in looks if a == s]) for s in (False, True)}
    assert abs(by_status[True] - by_status[False]) < 0.4 and min(by_status.values()) > 0.5
    assert detours >= 2 and at_once >= 2
    sample = case_of(next(r for r in rows() if r["story"] == "easy" and not r["abnormal"])).sample
    never = ActiveConfig(answer_at_once=0.0)
    windows = [scripted_window(sample, never, np.random.default_rng(k)) for k in range(20)]
    assert None not in windows and all(len(w) == 17 and w.end <= 80 for w in windows)


@pytest.mark.slow
def test_the_cold_start_teaches(tmp_path):
    trainer = build(tmp_path, cold_steps=12, rounds=0, warmup_steps=0, detours=0.0, cold_learning_rate=5e-3)
    losses = []
    for _ in range(12):
        losses.append(trainer.run_step()["loss"])
    assert losses[-1] < 0.7 * losses[0], losses


# --- rounds -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nothing stopped."""
    trainer = build(tmp_path_factory.mktemp("straight"), rounds=draws(2, 1))
    start = weights(trainer)
    trainer.train()
    return trainer, start


def test_a_run_leaves_what_it_should(straight):
    trainer, start = straight
    folder = Path(trainer.config.output_dir)
    rounds = trainer.config.rounds
    assert trainer.step == 1 + rounds and not equal(weights(trainer), start)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["phase"]) for row in lines] == [(k + 1, k) for k in range(1 + rounds)]
    assert all(np.isfinite(row["loss"]) for row in lines) and {"preference", "right", "gap"} <= lines[-1].keys()
    assert lines[1]["preference"] == pytest.approx(np.log(2), abs=1e-4), "the reference is the policy of the start"
    told = [json.loads(line) for line in (folder / ROUNDS).read_text().splitlines()]
    drawn = [row for row in told if "round/utility" in row]
    assert [row["round"] for row in drawn] == [1, 2][:rounds] and drawn[0]["round/pairs"] > 0
    assert {"round/accuracy_easy", "round/operator_entropy"} <= drawn[0].keys()
    assert all(0 <= row["held_out/implicit_accuracy"] <= 1 for row in told if "held_out/pairs" in row)
    assert any((folder / "tensorboard").iterdir()) and (folder / COLD / "judge.json").is_file()
    assert json.loads((folder / COLD / "judge.json").read_text())["policy"] == "active"
    assert LocalBackend(folder / COLD, device="cpu").config.policy == "active"


def test_a_round_holds_whole_episodes_with_branches(straight):
    trainer, _ = straight
    videos = RoundFiles(Path(trainer.config.output_dir), 1).read()
    assert [v.number for v in videos] == [0, 1, 2] and [v.held_out for v in videos] == [False, False, True]
    branches = 0
    for video in videos:
        assert len(video.episodes) == 4
        for episode in video.episodes:
            assert (
                len(episode.beliefs)
                == len(episode.judged.operators) + 1
                == len(episode.turns)
                == len(episode.reference)
            )
            assert all(0 < p < 1 for p in episode.beliefs) and all(r < 0 for r in episode.reference)
            if episode.judged.branch is not None:
                parent, turn = episode.judged.branch
                assert video.episodes[parent].turns[:turn] == episode.turns[:turn]
                branches += 1
    assert branches >= 1
    looks = [v.episodes[0].beliefs[0] for v in videos]
    assert len(set(looks)) > 1 and all(len({e.beliefs[0] for e in v.episodes}) == 1 for v in videos)


@pytest.mark.slow
class Looks(Draws):
    """Always looks first; an answer that was begun for it is brought to its end."""

    def __call__(self, prompts, repeats, max_new_tokens):
        self.asked = [*getattr(self, "asked", []), *prompts]
        return super().__call__(prompts, repeats, max_new_tokens)

    def one(self, prompt):
        tokenizer = self.trainer.processor.tokenizer
        last = tokenizer.decode(prompt.ids[-12:])
        text = ABNORMAL if len(prompt.pictures) > 1 else ZOOM
        if last.endswith(ANSWER_START):
            text = ABNORMAL.removeprefix(ANSWER_START)
        return Sampled(tuple(tokenizer.encode(text + tokenizer.eos_token, add_special_tokens=False)), True)


def test_an_episode_is_made_to_answer_where_others_looked(tmp_path):
    """It is asked as they were, its text is a whole answer, and it makes a pair with the look it did without."""
    trainer = build(tmp_path, generator=Looks, num_generations=3, num_branches=0, num_at_once=1)
    numbers = [n for n, row in enumerate(rows()) if row["abnormal"]]
    video = next(v for v in map(partial(trainer.rounds.draw_video, 1), numbers) if v.status == "abnormal")
    *free, at_once = video.episodes
    assert [len(e.judged.operators) for e in free] == [1, 1]
    assert (at_once.judged.operators, len(at_once.turns), len(at_once.beliefs)) == ((), 1, 1)
    assert at_once.judged.correct and not at_once.format_error and at_once.judged.branch in ((0, 0), (1, 0))
    tokenizer, case = trainer.processor.tokenizer, trainer.rounds.case(video.row)
    assert tokenizer.decode(at_once.turns[0]) == ABNORMAL + tokenizer.eos_token
    tokens = replay_episode(case, at_once.turns, trainer.rounds.stop_ids)
    asked = [p.ids.tolist() for p in trainer.rounds.generator.asked]
    begun = tokenizer.encode(ANSWER_START, add_special_tokens=False)
    assert tokens.prompt.ids.tolist() in asked and [*tokens.prompt.ids.tolist(), *begun] in asked
    assert "answer now" not in tokenizer.decode(tokens.prompt.ids.tolist()).lower()
    pairs = all_pairs(0, [e.judged for e in video.episodes], least_gap=0.01)
    assert {p.kind for p in pairs if 2 in (p.winner, p.loser)} >= {"branch"}


def test_drawing_does_not_depend_on_what_was_drawn_before(straight):
    trainer, _ = straight
    one = trainer.rounds.draw_video(1, 1)
    trainer.rounds.draw_video(2, 0)
    trainer.random.manual_seed(7)
    assert trainer.rounds.draw_video(1, 1) == one


def test_gradient_is_that_of_the_written_out_objective(straight):
    trainer, _ = straight
    config = trainer.config
    pair = trainer.pairs[0]
    rows = trainer.rounds.pair_rows(trainer.videos, pair)
    part = PreferencePart((rows,), 1.0, config)
    trainer.policy.zero_grad()
    part.loss(trainer.policy)[0].backward()
    found = {n: p.grad.clone() for n, p in trainer.policy.named_parameters() if p.grad is not None}
    trainer.policy.zero_grad()
    model, vision = trainer.policy.model, trainer.policy.vision_inputs
    first, second = (masked_log_probs(model, [r], vision).values for r in (rows.winner, rows.loser))
    delta = (first.sum() - sum(rows.better.reference)) - (second.sum() - sum(rows.worse.reference))
    (-torch.nn.functional.logsigmoid(config.beta * delta) - config.supervised * first.mean()).backward()
    expected = {n: p.grad for n, p in trainer.policy.named_parameters() if p.grad is not None}
    scale = max(float(v.abs().max()) for v in expected.values())
    assert max(float((found[k] - expected[k]).abs().max()) for k in expected) < 1e-4 * scale
    trainer.policy.zero_grad()


@pytest.mark.slow
def test_a_stopped_run_continues_bit_for_bit(straight, tmp_path):
    whole, _ = straight

    class Interrupting(Draws):
        drawn = 0

        def __call__(self, prompts, repeats, max_new_tokens):
            Interrupting.drawn += 1
            if Interrupting.drawn == 4:
                os.kill(os.getpid(), signal.SIGINT)
            return super().__call__(prompts, repeats, max_new_tokens)

    with pytest.raises(Interrupted, match="continues from"):
        build(tmp_path, generator=Interrupting).train()
    stopped = last_checkpoint(tmp_path)
    assert stopped is not None and stopped.name != "checkpoint-3"
    resumed = build(tmp_path)
    resumed.train()
    assert equal(weights(resumed), weights(whole)) and resumed.step == 3
    for name in ("metrics.jsonl", ROUNDS):
        a, b = ((Path(t.config.output_dir) / name).read_text().splitlines() for t in (whole, resumed))
        drop = ("seconds", "round/seconds")
        assert [{k: v for k, v in json.loads(x).items() if k not in drop} for x in a] == [
            {k: v for k, v in json.loads(x).items() if k not in drop} for x in b
        ]


def test_a_round_that_was_cut_off_goes_on_where_it_was(straight, tmp_path):
    whole, _ = straight
    first = RoundFiles(Path(whole.config.output_dir), 1)
    trainer = build(tmp_path)
    trainer.step = trainer.config.cold_steps
    files = RoundFiles(tmp_path, 1)
    kept = first.read()[1]
    files.add(0, kept)
    with files.journal(0).open("a") as journal:
        journal.write('{"number": 2, "row"')
    asked = []
    draw = trainer.rounds.draw_video
    trainer.rounds.draw_video = lambda phase, number: asked.append(number) or draw(phase, number)
    videos = trainer.rounds.draw(1)
    assert asked == [0, 2] and videos[1] == kept and not files.journal(0).exists()
    files.path.unlink()
    files.add(0, kept)
    with pytest.raises(ValueError, match="round 1 lacks video 0 of 3"):
        files.join(1, 3)


def test_what_cannot_be_continued_is_refused(straight, tmp_path):
    whole, _ = straight
    folder = whole.config.output_dir
    with pytest.raises(TrainingCheckpointError, match="resume it, or choose another"):
        build(folder, rounds=whole.config.rounds).train(resume=False)
    with pytest.raises(TrainingCheckpointError, match=r"beta was 0\.1 and is now 0\.2"):
        build(folder, beta=0.2, rounds=whole.config.rounds).train()
    with pytest.raises(ValueError, match="the data set has no rows"):
        ActiveTrainer(*tiny(), [], suite_loader(48), settings(tmp_path), JUDGE, narrate=narrate_zoom)


def test_a_round_without_pairs_is_said_and_changes_nothing(tmp_path, caplog):
    class Mute(Draws):
        def one(self, prompt):
            tokenizer = self.trainer.processor.tokenizer
            ids = tokenizer.encode(NORMAL + tokenizer.eos_token, add_special_tokens=False)
            return Sampled(tuple(ids), True)

    normal = [r for r in rows() if not r["abnormal"]]
    trainer = build(tmp_path, generator=Mute, data=normal, cold_steps=0, rounds=1)
    start = weights(trainer)
    trainer.train()
    assert equal(weights(trainer), start) and "round 1 has no pair" in caplog.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_branches": 4}, "num_branches=4 must be below num_generations=4"),
        ({"num_branches": 2, "num_at_once": 2}, r"num_branches=2 \+ num_at_once=2 must be below num_generations=4"),
        ({"cold_steps": 0, "rounds": 0}, "leave nothing to do"),
        ({"quota_correct": 0.0, "quota_efficient": 0.0, "quota_branch": 0.0}, "must be above 0"),
        ({"num_generations": 1}, "num_generations=1 must be a whole number of at least 2; pairs need two"),
        ({"phi": "some"}, "phi='some' must be one of 'one', 'dmpo'"),
        ({"temperature": 0}, "temperature=0 must be a number above 0"),
    ],
)
def test_settings_that_make_no_sense_are_named(changes, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        settings(tmp_path, **changes)


def test_unknown_settings_are_named():
    with pytest.raises(ValueError, match=r"unknown setting 'round_step'.*round_steps"):
        ActiveConfig.from_dict({"round_step": 3})
    assert ActiveConfig.from_dict({"learning_rate": "1e-4"}).learning_rate == 1e-4
    config = ActiveConfig(cold_steps=4, warmup_steps=1, cold_learning_rate=1e-5, learning_rate=1e-6, round_steps=3)
    np.testing.assert_allclose([config.rate(k) for k in (0, 1, 3, 4, 5, 7)], [5, 10, 10, 0.5, 1, 0.5])


# --- as users run it --------------------------------------------------------------------------------------------------

CHILD = """
import sys
sys.path.insert(0, {root!r})
from tests.reward_model.training.active.test_active_trainer import build
build(sys.argv[1]).train()
"""


@pytest.mark.slow
def test_a_killed_run_ends_as_if_it_had_not_been(straight, tmp_path):
    whole, _ = straight
    folder = tmp_path / "killed"
    child = subprocess.Popen([sys.executable, "-c", CHILD.format(root=str(ROOT)), str(folder)], cwd=ROOT)
    while not list((folder / "rounds").glob("round-1*")) and child.poll() is None:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL and last_checkpoint(folder).name != "checkpoint-3"
    resumed = build(folder)
    resumed.train()
    assert equal(weights(resumed), weights(whole))


WORKER = """
import sys
sys.path.insert(0, {root!r})
from safetensors.torch import save_file
from tests.reward_model.training.active.test_active_trainer import build
trainer = build(sys.argv[1], max_grad_norm=0.0)
assert trainer.accelerator.num_processes == int(sys.argv[3])
step, trainer.optimizer.step = trainer.optimizer.step, lambda *a, **k: None
zero, trainer.optimizer.zero_grad = trainer.optimizer.zero_grad, lambda *a, **k: None
found = {{}}
for name, phase in (("cold", 0), ("round", 1)):
    zero()
    if phase:
        trainer.step = 1
        trainer.videos = trainer.rounds.draw(1)
        trainer.pairs = trainer.rounds.pairs(trainer.videos, 1, held_out=False)
    trainer.update(trainer.preference_parts(1) if phase else trainer.supervised_parts(0))
    model = trainer.accelerator.unwrap_model(trainer.policy)
    found |= {{name + n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}}
if trainer.accelerator.is_main_process:
    save_file(found, sys.argv[2])
"""


@pytest.mark.slow
def test_two_processes_draw_and_learn_what_one_does(tmp_path):
    """The same episodes token by token, and gradients of both phases that differ by rounding alone."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(root=str(ROOT)))
    for count in (1, 2):
        launch(script, count, tmp_path / str(count), tmp_path / f"{count}.st", count)
    one, two = (RoundFiles(tmp_path / str(n), 1).read() for n in (1, 2))
    assert [[e.turns for e in v.episodes] for v in one] == [[e.turns for e in v.episodes] for v in two]
    first, second = (load_file(tmp_path / f"{n}.st") for n in (1, 2))
    assert first.keys() == second.keys() and {k[:4] for k in first} == {"cold", "roun"}
    for phase in ("cold", "round"):
        one, two = (
            torch.cat([found[k].double().flatten() for k in first if k.startswith(phase)]) for found in (first, second)
        )
        assert one.norm() > 0 and (one - two).norm() < 1e-6 * one.norm(), phase
