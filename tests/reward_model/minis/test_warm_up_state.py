"""The warm-ups of the mini, stopped and continued: the same bits as if they had never stopped."""

import logging
from functools import cache, partial

import pytest
import torch

from reward_model.engine.guards import TrainingStopped
from reward_model.minis import warm_up_state as warmup_state
from reward_model.minis.collator import MiniCollator
from reward_model.minis.model import build_judge
from reward_model.minis.rows import make_example
from reward_model.minis.warm_up_reading import warm_up_reading
from reward_model.minis.warm_up_state import WarmupState, forget_state
from reward_model.minis.warm_up_vision import warm_up_vision

VISION = partial(warm_up_vision, sample=64)
WARM_UPS = [pytest.param(VISION, id="vision"), pytest.param(warm_up_reading, id="reading")]
STEPS = 4


class PowerCut(Exception):
    pass


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(warmup_state, "NUM_STATES", 2)  # a state every two steps
    yield
    torch.set_num_threads(threads)


def run(warm_up, state_file=None, **options):
    """All that a warm-up leaves behind: weights, the share that is right, and torch's random state."""
    model, processor = build_judge("tiny", seed=0)
    given = {"steps": STEPS, "batch": 2, "seed": 3, "state_file": state_file, **options}
    right = warm_up(model, MiniCollator(processor, make_example), **given)
    return {**model.state_dict(), "right": torch.tensor(right), "random": torch.get_rng_state()}


@cache
def whole(warm_up):
    return run(warm_up)


def cut_after(monkeypatch, step):
    """The power fails right after a step, whether its state was kept or not."""
    keep = WarmupState.keep

    def cut(self, done, right):
        keep(self, done, right)
        if done == step:
            raise PowerCut

    monkeypatch.setattr(WarmupState, "keep", cut)
    return lambda: monkeypatch.setattr(WarmupState, "keep", keep)


@pytest.fixture(scope="module")
def states():
    """What each warm-up had written when it was stopped, by warm-up."""
    return {}


@pytest.fixture
def stopped(states, tmp_path, monkeypatch):
    """Gives the state file of a warm-up that was stopped after step 3; each is stopped once."""

    def make(warm_up):
        path = tmp_path / "state.safetensors"
        if warm_up not in states:
            power_back = cut_after(monkeypatch, 3)
            with pytest.raises(PowerCut):
                run(warm_up, path)
            power_back()
            states[warm_up] = path.read_bytes()
        path.write_bytes(states[warm_up])
        return path

    return make


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    ("warm_up", "workers"),
    [
        pytest.param(VISION, 0, marks=pytest.mark.slow),
        (warm_up_reading, 0),
        pytest.param(warm_up_reading, 1, marks=pytest.mark.slow),
    ],
    ids=["vision", "reading", "reading with a worker"],
)
def test_a_stopped_warm_up_ends_with_the_same_bits(warm_up, workers, stopped, caplog):
    path = stopped(warm_up)
    with caplog.at_level(logging.INFO):
        resumed = run(warm_up, path, num_workers=workers)
    assert "continues after step 2 of 4" in caplog.text
    assert same(resumed, whole(warm_up))


@pytest.mark.slow
@pytest.mark.parametrize("warm_up", [VISION, warm_up_reading])
def test_keeping_states_and_showing_a_bar_change_nothing(warm_up, tmp_path, capsys):
    assert same(run(warm_up, tmp_path / "state.safetensors", progress=True), whole(warm_up))
    assert f"/{STEPS} [" in capsys.readouterr().err, "the bar tells the time left"
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"], "nothing half-written is left"


def test_a_state_of_other_settings_is_refused(stopped):
    path = stopped(warm_up_reading)
    with pytest.raises(ValueError, match=r"steps was 4 and is now 8.*--resume False"):
        run(warm_up_reading, path, steps=8)
    with pytest.raises(ValueError, match="seed was 3 and is now 4"):
        run(warm_up_reading, path, seed=4)


@pytest.mark.slow
def test_half_a_state_is_no_state(stopped, caplog):
    path = stopped(warm_up_reading)
    path.write_bytes(path.read_bytes()[:-100])
    assert same(run(warm_up_reading, path), whole(warm_up_reading)) and "incomplete" in caplog.text


def test_a_state_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch, stopped):
    path = stopped(warm_up_reading)
    before = path.read_bytes()

    def full(tensors, place, metadata):
        place.write_bytes(b"half")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(warmup_state, "save_file", full)
        with pytest.raises(TrainingStopped, match=r"after step 4 .*No space left.*Free space"):
            run(warm_up_reading, path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_what_a_kill_left_of_writing_is_removed_with_the_state(tmp_path):
    for name in ("warmup-state.safetensors", ".warmup-state.77.safetensors", "warmup.safetensors"):
        (tmp_path / name).touch()
    forget_state(tmp_path / "warmup-state.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["warmup.safetensors"]
