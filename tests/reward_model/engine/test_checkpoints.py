"""The way every checkpoint is written: beside its place, by all processes, or not at all."""

import pytest
from accelerate import Accelerator

from reward_model.engine.checkpoints import STATE_FILE, TrainingCheckpointError, find_checkpoints, write_checkpoint
from reward_model.engine.guards import DivergenceError


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


def write(folder):
    (folder / "weights").write_text("w")


def finish(folder):
    assert (folder / "weights").is_file(), "the state comes last"
    (folder / STATE_FILE).write_text("{}")


def refuse(folder):
    raise OSError("disk full")


@pytest.mark.parametrize("broken", ["write", "finish"])
def test_a_failure_leaves_the_older_checkpoints_and_no_half(accelerator, tmp_path, broken):
    first = write_checkpoint(accelerator, tmp_path, 1, write=write, finish=finish, keep=2)
    parts = {"write": write, "finish": finish, broken: refuse}
    with pytest.raises(
        TrainingCheckpointError, match=r"checkpoint 2 .*OSError: disk full.*checkpoint-1; free some space"
    ):
        write_checkpoint(accelerator, tmp_path, 2, **parts, keep=2)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-1"] and find_checkpoints(tmp_path) == [first]


def test_the_oldest_go_and_a_step_that_is_written_again_is_replaced(accelerator, tmp_path):
    for step in (1, 2, 3, 3):
        write_checkpoint(accelerator, tmp_path, step, write=write, finish=finish, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-3"]


def test_the_failure_of_another_process_is_heard_in_this_one(tmp_path, monkeypatch):
    """Without it the others would wait for files that never come."""

    class Two:
        num_processes, process_index, is_main_process = 2, 0, True

    said = iter([["", ""], ["", "OSError: disk full"]])
    monkeypatch.setattr("accelerate.utils.gather_object", lambda mine: next(said))
    with pytest.raises(TrainingCheckpointError, match="disk full"):
        write_checkpoint(Two(), tmp_path, 1, write=write, finish=finish, keep=1)
    assert not list(tmp_path.iterdir())


def test_both_trainers_raise_one_divergence_error():
    pytest.importorskip("diffusers")
    from cac_align.flow_grpo import trainer as flow
    from reward_model.training.grpo import trainer as stage3

    assert flow.DivergenceError is stage3.DivergenceError is DivergenceError
