"""Stages 1 and 2 with weights spread over two processes (FSDP2, ZeRO-2 and -3; gloo on the CPU) against one process
that accumulates.
"""

import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file

from reward_model.engine.settings import read_yaml
from reward_model.minis.model import build_judge
from tests.launched import ROOT, launch
from tests.sharded import needs_deepspeed

pytestmark = pytest.mark.slow
DEEPSPEED = [pytest.param(kind, marks=needs_deepspeed) for kind in ("zero2", "zero3")]

WORKER = """
import sys
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from tests.sharded import shard_on_cpu
shard_on_cpu(sys.argv[1])
from reward_model.minis.stages import MINI
from reward_model.training.sft.run import run_recipe
sys.exit(run_recipe(sys.argv[2], sys.argv[3:], MINI))
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    for part in build_judge("tiny"):
        part.save_pretrained(folder)
    shutil.copy(ROOT / "assets" / "cac-mini" / "judge.json", folder)
    return folder


def run(tmp_path, name, base, kind, stage, **changes):
    """Three steps of two half batches, one per process or one after the other; returns the judge's folder."""
    count = 1 if kind == "plain" else 2
    given = read_yaml(ROOT / "recipes" / "configs" / stage / "mini.yaml")
    settings = {k: v for k, v in given.items() if k not in ("matrix_lr", "use_cpu")}  # AdamW, as at full size
    settings |= {
        "model_name_or_path": str(base),
        "output_dir": str(tmp_path / name),
        "use_cpu": kind == "plain",
        "max_steps": 3,
        "warmup_steps": 1,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2 // count,
        "gradient_checkpointing": True,
        "eval_strategy": "no",
        "save_steps": 1,
        "dataloader_num_workers": 0,
        "disable_tqdm": True,
        **changes,
    }
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(root=str(ROOT)))
    launch(script, count, kind, stage, "--config", tmp_path / "settings.yaml")
    return tmp_path / name


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("kind", ["fsdp2", *DEEPSPEED])
@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_sharded_stage_gives_the_judge_of_one_process_and_goes_on_bit_for_bit(tmp_path, base, kind, stage):
    """LoRA in stage 1, all weights in stage 2, as in ``full.yaml``; recomputed activations; plain names."""
    lora = {"use_peft": True, "lora_r": 4, "lora_dropout": 0.0} if stage == "stage1" else {}
    one = weights(run(tmp_path, "one", base, "plain", stage, **lora))
    folder = run(tmp_path, "many", base, kind, stage, **lora)
    many, start = weights(folder), load_file(base / "model.safetensors")
    assert one.keys() == many.keys() == start.keys()
    assert any(not torch.equal(one[k], start[k]) for k in start)
    for name, value in one.items():  # Adam makes much of tiny gradients, so single weights may differ
        assert float((many[name] - value).norm()) <= 5e-2 * float((value - start[name]).norm()) + 1e-6, name
    for path in folder.glob("training/checkpoint-[23]"):
        shutil.rmtree(path)
    (folder / "model.safetensors").unlink()
    again = weights(run(tmp_path, "many", base, kind, stage, **lora))
    assert all(torch.equal(again[k], many[k]) for k in many)


@needs_deepspeed
def test_muon_under_deepspeed_is_refused(tmp_path, base, capfd):
    with pytest.raises(AssertionError):
        run(tmp_path, "run", base, "zero2", "stage2", matrix_lr=0.01)
    assert "matrix_lr=0.01 needs whole matrices" in capfd.readouterr().err
