"""Stage 3 on evidence that a referee scores, with video-level labels alone: rewards, failures, resume, processes."""

import copy
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reward_model.engine.checkpoints import TrainingCheckpointError, last_checkpoint
from reward_model.evidence.cache import CachedReferee
from reward_model.evidence.model_referee import ModelReferee, VLMReferee
from reward_model.evidence.referee import NoisyReferee, Opinion, OracleReferee
from reward_model.minis.model import build_judge
from reward_model.rewards import ANNOTATED
from reward_model.schema import Box
from reward_model.training.grpo.labels import VIDEO_LEVEL, told
from reward_model.training.grpo.scoring import RefereeDownError, RolloutScorer
from reward_model.training.grpo.setup import open_trainer, plan_config
from reward_model.training.grpo.trainer import GrpoTrainer
from tests.campaigns import slow_but
from tests.launched import ROOT, launch
from tests.reward_model.training.grpo.test_grpo_trainer import (
    JUDGE,
    NORMAL,
    ROWS,
    Draws,
    TurnByTurn,
    abnormal,
    distance,
    equal,
    load,
    settings,
    tiny,
    weights,
)

SER = {"weight_temporal": 0.0, "weight_spatial": 0.0, "weight_ser": 5.0}
#: Turn two at the true place (100, 100, 400, 400), beside it, and somewhere else.
ZOOMS = tuple(
    abnormal(0, 1, Box(*corners)) for corners in ((100, 100, 400, 400), (90, 90, 300, 410), (600, 600, 900, 900))
)


class Named(OracleReferee):
    """An oracle for answers that name nothing: the canned ones of these tests."""

    def check(self, questions):
        return super().check([replace(q, claim=replace(q.claim, subject="it")) for q in questions])


class Suspicious(TurnByTurn):
    """Every scan suspects the true window; turn two draws one of three boxes."""

    def __init__(self, trainer):
        super().__init__(trainer, scans=(abnormal(1, 2), NORMAL), zooms=ZOOMS)


def refereed(folder, referee, *, given=VIDEO_LEVEL, generator=Draws, **changes):
    model, processor = copy.deepcopy(tiny()[0]), tiny()[1]
    config = settings(folder, **{**SER, **changes})
    return GrpoTrainer(model, processor, ROWS, told(load, given), config, JUDGE, generator=generator, referee=referee)


def mini_referee(folder=None, rank=0):
    """An untrained referee of another seed than the policy, with the memory of a training."""
    from reward_model.backends.local import LocalBackend

    backend = LocalBackend.of(*build_judge("tiny", seed=5))
    referee = ModelReferee(backend, wording="compact", frame_size=48, fingerprint="tiny-5", batch_size=8)
    return CachedReferee(referee, folder and Path(folder) / f"answers-{rank}.jsonl", batch_size=8)


def test_a_better_box_has_a_larger_reward_although_no_box_is_known(tmp_path):
    trainer = refereed(tmp_path, NoisyReferee(Named()), given=ANNOTATED, generator=Suspicious, num_generations=6)
    experience = trainer.collect()
    by_box = {}
    for sample, group, marks in zip(experience.samples, experience.groups, experience.marks, strict=True):
        assert sample.given == ANNOTATED
        for record, mark in zip(group, marks, strict=True):
            report = record.zooms[0].report if record.zooms else None
            if sample.truth.status == "abnormal" and report:
                [box] = {b for a in report.anomalies for found in a.boxes.values() for b in found}
                by_box[box.xmin] = mark.parts
            else:
                assert mark.parts.ser == 0 and (mark.evidence is None or not record.zooms)
    # Turn two names the first half of the window that turn one gives, which costs a little.
    loose = by_box[100].ser - 1
    assert -0.05 < loose < 0 and by_box[90].ser == pytest.approx(0.75 + loose)
    assert by_box[600].ser == pytest.approx(2 * loose)
    assert {round(p.total - 5 * p.ser, 9) for p in by_box.values()} == {2.0}  # types; neither window nor box is paid


def test_a_training_reads_nothing_but_the_label(tmp_path):
    """Truths that agree in their label and in nothing else give the same rewards."""
    told_of = []

    class Curious(ModelReferee):
        def check(self, questions):
            told_of.extend(q.truth for q in questions)
            return super().check(questions)

    from reward_model.backends.local import LocalBackend

    referee = Curious(LocalBackend.of(*build_judge("tiny", seed=5)), wording="compact", frame_size=48)
    trainer = refereed(tmp_path, referee, generator=Suspicious)
    _, numbers = trainer.run_step()
    assert told_of and all(not a.boxes and len(a.frames) == t.num_frames for t in told_of for a in t.anomalies)
    assert 0 < numbers["referee/relevance"] < 1 and numbers["referee/unanswered"] == numbers["referee/garbled"] == 0
    assert numbers["weighted/ser"] == pytest.approx(5 * numbers["raw/ser"]) and numbers["raw/ser"] > 0
    assert not {"overlap/spatial", "overlap/temporal", "raw/spatial"} & numbers.keys()
    assert "overlap/type_zoom" in numbers and numbers["reward/abnormal"] > 0


class Moody:
    """Fails on every question about the videos it is told to."""

    needs = frozenset()

    def __init__(self, *silent):
        self.silent = silent

    def describe(self):
        return {"referee": "moody"}

    def check(self, questions):
        return [Opinion(0, 0, error="busy") if q.video_id in self.silent else Opinion(1, 1) for q in questions]


def test_a_referee_that_fails_leaves_rollouts_without_a_reward_and_one_that_is_down_stops_the_run(tmp_path, caplog):
    changes = {"generator": Suspicious, "prompts_per_step": 6, "num_generations": 2}
    experience, numbers = refereed(tmp_path / "a", Moody("v1"), **changes).run_step()
    silent = [k for k, s in enumerate(experience.samples) if s.truth.video_id == "v1"]
    assert len(silent) == 1 and experience.rewards[silent[0]].isnan().any()
    assert not experience.rewards[[k for k in range(6) if k not in silent]].isnan().any()
    assert 0 < numbers["referee/unanswered"] < 1 and numbers["rollouts/unscored"] > 0
    assert "has no reward: the referee gave no answer: busy" in caplog.text
    with pytest.raises(RefereeDownError, match=r"none of \d+ questions, .*busy.*last checkpoint"):
        refereed(tmp_path / "b", Moody("v1", "v3", "v5"), **changes).run_step()


def test_without_a_referee_the_trainer_is_not_made(tmp_path):
    with pytest.raises(ValueError, match="weight_ser=5 needs a referee: this trainer has none"):
        refereed(tmp_path, None)
    assert RolloutScorer(settings(tmp_path).reward_config(), Moody()).describe() is None


def test_another_referee_does_not_continue_a_run(tmp_path):
    refereed(tmp_path, mini_referee(), max_steps=1, save_steps=1, num_generations=2).train()
    with pytest.raises(TrainingCheckpointError, match="referee"):
        refereed(tmp_path, Moody(), max_steps=2, num_generations=2).train()


@pytest.mark.slow
def test_a_resumed_run_asks_what_it_asked_and_gets_the_same_weights(tmp_path):
    straight = refereed(tmp_path / "a", mini_referee(tmp_path / "a"))
    straight.train()
    refereed(tmp_path / "b", mini_referee(tmp_path / "b"), max_steps=2).train()
    resumed = refereed(tmp_path / "b", mini_referee(tmp_path / "b"))
    resumed.train()
    assert equal(weights(resumed), weights(straight)) and resumed.step == 4
    kept = [(tmp_path / name / "answers-0.jsonl").read_text() for name in "ab"]
    assert kept[0] == kept[1] and kept[0].count("\n") > 1


REFEREE = {"kind": "oracle"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"data": {"source": "world", "rows": 2, "size": 48, "labels": "video"}},
            "the oracle grades by true windows and boxes: da",
        ),
        ({"referee": None}, "weight_ser=5 needs a referee"),
        ({"referee": {"kind": "local"}}, "kind 'local' needs a model"),
        ({"referee": {"kind": "oracle", "flips": 1}}, "unknown setting.s. flips"),
        ({"num_turns": 1}, "a judge of one turn never draws"),
    ],
)
def test_a_referee_that_cannot_work_is_refused_at_once_and_in_a_dry_run(judge_folder, tmp_path, changes, said):
    given = {
        "model": str(judge_folder),
        "data": {"source": "world", "rows": 2, "size": 48},
        "referee": REFEREE,
        "output_dir": str(tmp_path),
        **SER,
        **changes,
    }
    with pytest.raises(ValueError, match=said), open_trainer(given):
        pass
    with pytest.raises(ValueError, match=said):
        plan_config(given)


@pytest.mark.parametrize("trains", slow_but([False, True], False))
def test_a_settings_file_with_a_referee_becomes_a_run(judge_folder, tmp_path, trains):
    given = {
        "model": str(judge_folder),
        "data": {"source": "world", "rows": 2, "size": 48, "labels": "video"},
        "referee": {"kind": "local", "model": str(judge_folder), "device": "cpu"},
        "output_dir": str(tmp_path),
        "max_steps": 1,
        "prompts_per_step": 2,
        "num_generations": 2,
        **SER,
    }
    with open_trainer(given) as trainer:
        assert isinstance(trainer.scorer.referee, CachedReferee)
        assert isinstance(trainer.scorer.referee.inner, VLMReferee)
        assert not trains or trainer.train()["rollouts/unscored"] == 0


# --- kill -9, two processes -------------------------------------------------------------------------------------------

CHILD = """
import sys
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from tests.reward_model.training.grpo.test_evidence_training import mini_referee, refereed
refereed(sys.argv[1], mini_referee(sys.argv[1]), max_steps=10, save_steps=2).train()
"""


@pytest.mark.slow
def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path):
    torch.set_num_threads(1)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", CHILD.format(root=str(ROOT)), str(tmp_path / "killed")]
    child = subprocess.Popen(command, env=env, cwd=ROOT)
    deadline = time.monotonic() + 300
    while last_checkpoint(tmp_path / "killed") is None:
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert last_checkpoint(tmp_path / "killed").name != "checkpoint-10"
    found = []
    for name in ("killed", "straight"):
        trainer = refereed(tmp_path / name, mini_referee(tmp_path / name), max_steps=10, save_steps=2)
        trainer.train()
        found.append(weights(trainer))
    assert equal(*found)


WORKER = """
import sys
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from safetensors.torch import save_file
from tests.reward_model.training.grpo.test_evidence_training import Suspicious, mini_referee, refereed
trainer = refereed(
    sys.argv[1], mini_referee(), prompts_per_step=4, per_device_train_batch_size=3, generator=Suspicious,
    max_grad_norm=0.0,
)
assert trainer.accelerator.num_processes == int(sys.argv[3])
batches = trainer.micro_batches(trainer.collect())
trainer.remember(batches)
trainer.optimizer.step = lambda *a, **k: None
trainer.optimizer.zero_grad = lambda *a, **k: None
trainer.update(batches)
model = trainer.accelerator.unwrap_model(trainer.policy)
if trainer.accelerator.is_main_process:
    save_file({{n: p.grad.contiguous() for n, p in model.named_parameters() if p.grad is not None}}, sys.argv[2])
"""


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(tmp_path):
    from safetensors.torch import load_file

    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(root=str(ROOT)))
    for count in (1, 2):
        launch(script, count, tmp_path / str(count), tmp_path / f"{count}.st", count)
    one, two = (load_file(tmp_path / f"{n}.st") for n in (1, 2))
    assert distance(two, one) < 1e-6
