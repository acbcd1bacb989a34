"""Stage 2 on two processes is stage 2 on one: the same samples, the same weights afterwards."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

RECIPES = Path(__file__).parents[4] / "recipes"


def run(folder, processes):
    """Three steps of the tiny judge: two half batches each, one per process or one after the other."""
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    options = {
        "model_name_or_path": "tiny",
        "output_dir": folder,
        "max_steps": 3,
        "warmup_steps": 1,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2 // processes,
        "eval_strategy": "no",
        "save_steps": 3,
        "dataloader_num_workers": 0,
    }
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    config = str(RECIPES / "configs" / "stage2" / "mini.yaml")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*launch, str(RECIPES / "stage2_sft.py"), "--config", config, *given]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    return load_file(folder / "model.safetensors")


@pytest.mark.slow
def test_two_processes_train_like_one_that_accumulates(tmp_path):
    """Fails where a forward goes past the wrapper: then every process trains a model of its own."""
    one, two = run(tmp_path / "one", 1), run(tmp_path / "two", 2)
    assert one.keys() == two.keys()
    worst = max((one[name] - two[name]).abs().max().item() for name in one)
    assert worst < 2e-6, worst
