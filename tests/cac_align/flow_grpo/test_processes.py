"""Real processes: a killed run, and two ranks (gloo) that must do what one does with the whole batch."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cac_align.flow_grpo.checkpoint import last_checkpoint
from tests.cac_align.flow_grpo.runs import build, equal, weights

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.slow

CHILD = """
import sys
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from tests.cac_align.flow_grpo.runs import EVAL_PROMPTS, build
build(sys.argv[1], max_steps=8, save_every=2, eval_prompts=EVAL_PROMPTS, reward_mode="thread").train()
"""


def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path):
    from tests.cac_align.flow_grpo.runs import EVAL_PROMPTS

    torch.set_num_threads(1)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", CHILD.format(root=str(ROOT)), str(tmp_path / "killed")]
    child = subprocess.Popen(command, env=env, cwd=ROOT)
    deadline = time.monotonic() + 600
    while last_checkpoint(tmp_path / "killed") is None:
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert last_checkpoint(tmp_path / "killed").name != "checkpoint-8"
    options = {"max_steps": 8, "save_every": 2, "eval_prompts": EVAL_PROMPTS}
    resumed = build(tmp_path / "killed", **options)
    resumed.train()
    straight = build(tmp_path / "straight", **options)
    straight.train()
    assert equal(weights(resumed), weights(straight)) and resumed.history == straight.history


WORKER = """
import sys
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from safetensors.torch import save_file
from tests.cac_align.flow_grpo.runs import EVAL_PROMPTS, build
out, count = sys.argv[1], int(sys.argv[2])
trainer = build(out, batch="4x2", beta=0.1, max_grad_norm=0.0, max_steps=2, save_every=1, eval_every=1,
                eval_prompts=EVAL_PROMPTS + ["a green square moves right"], ema_decay=0.5, objective={objective!r},
                kernel={kernel!r}, noise_level={noise!r}, learning_rate=1e-2)
assert trainer.accelerator.num_processes == count
trainer.run_step()
experience = trainer.collect()
found = {{}}
def note(loss):
    found.update({{k: p.grad.clone() for k, p in trainer.parameters.items()}})
    trainer.optimizer.zero_grad()
trainer._apply, real = note, trainer._apply
trainer.learn_numbers = trainer._policy_numbers
trainer._policy_numbers = lambda updates: {{}}
trainer.learn(experience)
trainer._apply, trainer._policy_numbers = real, trainer.learn_numbers
windows = {{r.group: [x.step for x in r.records] for r in experience.rollouts}}
windows = dict(trainer._gather(list(windows.items())))
groups = trainer._gather([sorted({{r.group for r in experience.rollouts}})])
assert sorted(g for part in groups for g in part) == [0, 1, 2, 3], groups  # no group on two ranks
trainer.step = 1
folder = trainer.save()
again = build(out, batch="4x2", beta=0.1, max_grad_norm=0.0, max_steps=2, save_every=1, eval_every=1,
              eval_prompts=EVAL_PROMPTS + ["a green square moves right"], ema_decay=0.5, objective={objective!r},
              kernel={kernel!r}, noise_level={noise!r}, learning_rate=1e-2)
again.train()
assert again.step == 2 and [e["step"] for e in again.history] == [0, 2]
if trainer.accelerator.is_main_process:
    found["windows"] = torch.tensor([windows[g] for g in sorted(windows)]).float()
    found["advantages"] = experience.advantages.values
    found["rewards"] = torch.tensor([r.score for r in experience.rows])
    found["history"] = torch.tensor([e["reward"] for e in again.history])
    save_file({{k: v.contiguous() for k, v in found.items()}}, out + ".st")
"""


def launch(script, count, port, *arguments):
    """``count`` processes of a script on the CPU with the environment ``accelerate launch`` gives them."""
    world = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    quiet = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    env = {**os.environ, **world, **quiet, "MASTER_PORT": str(port)}
    command = [sys.executable, str(script), *map(str, arguments)]
    children = [
        subprocess.Popen(command, env={**env, "RANK": str(k), "LOCAL_RANK": str(k)}, cwd=ROOT) for k in range(count)
    ]
    try:
        assert [child.wait(timeout=900) for child in children] == [0] * count
    finally:
        for child in children:
            child.kill()


@pytest.mark.parametrize(
    ("objective", "kernel", "noise"), [("grpo", "flow", 0.7), ("nft", "ode", None)], ids=["grpo", "nft"]
)
def test_two_processes_are_one_with_the_whole_batch(tmp_path, objective, kernel, noise):
    """Gradients, rewards, advantages, windows and evaluation; groups stay whole; a checkpoint of two ranks resumes."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(root=str(ROOT), objective=objective, kernel=kernel, noise=noise))
    found = {}
    for count in (1, 2):
        launch(script, count, 29400 + os.getpid() % 400 + count, tmp_path / str(count), count)
        found[count] = load_file(tmp_path / f"{count}.st")
    one, two = found[1], found[2]
    assert torch.equal(one.pop("windows"), two.pop("windows"))
    for name in ("rewards", "advantages", "history"):
        assert torch.allclose(one.pop(name), two.pop(name), atol=1e-6)
    scale = max(float(v.abs().max()) for v in one.values())
    assert scale > 0 and one.keys() == two.keys()
    assert max(float((one[k] - two[k]).abs().max()) for k in one) < 1e-6 * max(1.0, scale)
