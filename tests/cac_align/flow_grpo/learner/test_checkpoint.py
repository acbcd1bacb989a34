"""Checkpoints that were cut or tampered with: one line that names file and remedy, never another run."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from cac_align.flow_grpo.learner.checkpoint import TrainingCheckpointError, newest_checkpoint
from tests.cac_align.flow_grpo.runs import build, equal, weights
from tests.campaigns import slow_but


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps with a checkpoint after each, and a trainer that would go on from it."""
    folder = tmp_path_factory.mktemp("run")
    build(folder, max_steps=2, save_every=1, batch="1x4").train()
    return folder, build(folder, save_every=1, batch="1x4")


@pytest.fixture
def copied(run, tmp_path):
    """The newest checkpoint, in a run folder of its own beside the older one."""
    folder, trainer = run
    shutil.copytree(folder / "checkpoint-1", tmp_path / "checkpoint-1")
    shutil.copytree(folder / "checkpoint-2", tmp_path / "checkpoint-2")
    return tmp_path / "checkpoint-2", trainer


def state(folder, without_digests=False, **changes):
    """Writes the state anew; without digests, as checkpoints of earlier versions have none."""
    path = folder / "grpo_state.json"
    data = {**json.loads(path.read_text()), **changes}
    if without_digests:
        del data["digests"]
    path.write_text(json.dumps(data))


def tensors(change):
    def rewrite(folder, name="optimizer"):
        path = folder / f"{name}.safetensors"
        values = load_file(path)
        change(values)
        save_file(values, path)

    return rewrite


def drop_first(values):
    values.pop(min(values))


def spoil(values):
    values[max(values)].fill_(float("nan"))


def reshape(values):
    values[max(values)] = torch.zeros(3)


FILES = ("lora", "optimizer", "ema", "random_0")


@pytest.mark.parametrize(
    ("name", "digests"),
    slow_but([(name, d) for name in FILES for d in (True, False)], *((name, True) for name in FILES), ("ema", False)),
)
def test_a_part_that_is_missing_or_cut_is_named(copied, name, digests):
    folder, trainer = copied
    state(folder, without_digests=not digests)
    path = folder / f"{name}.safetensors"
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(
        TrainingCheckpointError, match=rf"{name}.safetensors' is damaged: it is missing.*from checkpoint-1"
    ):
        trainer.resume(folder)
    for cut in (b"", whole[:7], whole[: len(whole) // 2], whole[:-1], b'\x10\0\0\0\0\0\0\0{"a": [1, 2, 3] }'):
        path.write_bytes(cut)
        with pytest.raises(TrainingCheckpointError, match=rf"{name}.safetensors' is damaged: .*Delete checkpoint-2"):
            trainer.resume(folder)


@pytest.mark.parametrize("change", [dict.clear, drop_first, spoil, reshape], ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", ["lora", "optimizer", "ema"])
def test_a_part_with_other_tensors_is_no_fresh_start(copied, name, change):
    folder, trainer = copied
    state(folder, without_digests=True)
    tensors(change)(folder, name)
    with pytest.raises(TrainingCheckpointError, match=rf"{name}.safetensors' is damaged: "):
        trainer.resume(folder)


def test_a_flipped_bit_is_found(copied):
    folder, trainer = copied
    path = folder / "optimizer.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(TrainingCheckpointError, match="its bytes differ from those that were written"):
        trainer.resume(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"updates": None}, "'updates' is None, must be a whole number"),
        ({"updates": 7}, "'schedule' is at update 2, the run at 7"),
        ({"ema_updates": 0}, "'ema_updates' is 0, must be 2"),
        ({"step": 5}, "it is of step 5"),
        ({"step": "2"}, "'step' is '2'"),
        ({"history": [{"step": "x"}]}, "'history' holds"),
        ({"schedule": {}}, "'schedule' has last_epoch=None"),
        ({"schedule": {"last_epoch": 2, "_last_lr": "fast"}}, "'schedule' has _last_lr='fast'"),
        ({"parts": ["lora", "ema"]}, "'parts' lacks 'optimizer'"),
        ({"parts": ["../lora"]}, "must list names"),
    ],
)
def test_a_state_that_does_not_fit_is_named(copied, changes, said):
    folder, trainer = copied
    state(folder, **changes)
    with pytest.raises(TrainingCheckpointError, match=rf"grpo_state.json' is damaged: .*{said}"):
        trainer.resume(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"\\ud800', "[" * 100_000])
def test_a_state_that_is_no_json_is_named(copied, text):
    folder, trainer = copied
    (folder / "grpo_state.json").write_text(text)
    with pytest.raises(TrainingCheckpointError, match=r"grpo_state\.json' is damaged"):
        trainer.resume(folder)


@pytest.mark.parametrize("text", ["{}", '{"numpy": 1, "python": 2}', '{"numpy": ["MT19937", [], 0, 0, 0.0]}'])
def test_a_random_state_that_is_none_is_named(copied, text):
    folder, trainer = copied
    state(folder, without_digests=True)
    (folder / "random_0.json").write_text(text)
    with pytest.raises(TrainingCheckpointError, match=r"random_0.json' is damaged: it holds no random state"):
        trainer.resume(folder)


def test_a_checkpoint_without_state_is_no_older_one(copied):
    """The folder is renamed when it is whole; one without its state was changed, and is not passed over."""
    folder, _ = copied
    (folder / "grpo_state.json").unlink()
    with pytest.raises(TrainingCheckpointError, match=r"checkpoint-2/grpo_state.json' is damaged: it is missing"):
        newest_checkpoint(folder.parent)


def test_a_checkpoint_of_an_earlier_version_is_read(copied):
    """No digests, no readout named, none of the settings that came later, and one that had no effect: the same run."""
    folder, trainer = copied
    path = folder / "grpo_state.json"
    data = json.loads(path.read_text())
    for name in ("digests", "nft_sigmas", "rvm_scale", "shared_prefix", "log_prob_constants"):
        del data[name]
    data["nft_decay"] = 2
    path.write_text(json.dumps(data))
    before = load_file(folder / "lora.safetensors")
    trainer.resume(folder)
    assert trainer.step == 2 and equal(weights(trainer), before)


def test_a_run_goes_on_after_the_folders_of_its_models_have_moved(tmp_path):
    def settings(place):
        judge = {"reward": "cac", "options": {"model": str(place / "judge"), "scan_fps": 2}}
        return {"model": str(place / "model"), "prompts": str(place / "prompts.txt"), "rewards": [judge]}

    here, there = tmp_path / "here", tmp_path / "there"
    for name in ("model", "judge"):
        (here / name).mkdir(parents=True)
        (here / name / "weights").write_text(f"those of the {name}")
    (here / "prompts.txt").write_text("a red ball")
    trainer = build(tmp_path / "run", **settings(here))
    folder, start = trainer.save(), weights(trainer)
    shutil.copytree(here, there)
    moved = build(tmp_path / "run", **settings(there))
    moved.resume(folder)
    assert equal(weights(moved), start)
    (there / "judge" / "weights").write_text("those of another judge")
    with pytest.raises(TrainingCheckpointError, match=r"another run: rewards was [^;]*$"):
        build(tmp_path / "run", **settings(there)).resume(folder)
    state(folder, contents=None)  # as version 0.2 wrote it
    build(tmp_path / "run", **settings(here)).resume(folder)
    with pytest.raises(TrainingCheckpointError, match=r"another run: model was .*; prompts was .*; rewards was"):
        moved.resume(folder)
