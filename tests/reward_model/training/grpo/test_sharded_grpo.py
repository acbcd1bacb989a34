"""Stage 3 with weights spread over two processes (FSDP2, ZeRO-2 and -3; gloo on the CPU) against one process."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from safetensors.torch import load_file

from reward_model.engine.processes import settle_sharding
from reward_model.minis.model import build_judge
from tests.launched import ROOT, launch
from tests.sharded import needs_deepspeed

WORKER = """
import sys
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from reward_model.training.grpo.trainer import GrpoTrainer
from reward_model.minis.model import build_judge
from reward_model.training.grpo.policy_weights import policy_weights
from safetensors.torch import save_file
from tests.reward_model.training.grpo.test_grpo_trainer import JUDGE, Draws, TurnByTurn, load, settings
from tests.sharded import sharded_accelerator
out, kind, precision, draws, lora = sys.argv[1:]
rows = [{{"seed": k, "abnormal": k % 2}} for k in range(8)]  # no video comes twice
model, processor = build_judge("tiny")
if lora != "no":
    from transformers import AutoModelForImageTextToText
    model = AutoModelForImageTextToText.from_pretrained(lora)
accelerator = sharded_accelerator(kind, precision)
config = settings(out, prompts_per_step=4, max_steps=2, save_steps=1, warmup_steps=0, use_lora=lora != "no")
generator = TurnByTurn if draws == "same" else Draws
trainer = GrpoTrainer(model, processor, rows, load, config, JUDGE, generator=generator, accelerator=accelerator)
trainer.train()
rows = trainer.micro_batches(trainer.collect())[0].rows
with torch.no_grad():
    values = trainer.policy(rows)[0]
assert values.dtype == torch.float32
if precision == "bf16":  # log-probabilities are not rounded to the precision of the products
    assert not torch.equal(values, values.bfloat16().float())
followed = dict(policy_weights(trainer.accelerator.unwrap_model(trainer.policy).model))
if trainer.accelerator.is_main_process:
    save_file({{k: v.contiguous().clone() for k, v in followed.items()}}, out + "/followed.safetensors")
trainer.export(out + "/judge")
"""


def run(tmp_path, name, kind, *, count=2, precision="no", draws="same", lora="no"):
    """A run of two steps; returns its folder."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(root=str(ROOT)))
    launch(script, count, tmp_path / name, kind, precision, draws, lora)
    return tmp_path / name


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def exported(folder):
    """The judge of a run, which is also what an engine would have been given."""
    judge, followed = (load_file(folder / name) for name in ("judge/model.safetensors", "followed.safetensors"))
    assert followed.keys() == judge.keys()
    assert max(float((followed[k] - judge[k]).abs().max()) for k in judge) < 1e-6
    return judge


KINDS = ["fsdp2", pytest.param("zero2", marks=needs_deepspeed), pytest.param("zero3", marks=needs_deepspeed)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_sharded_run_has_the_numbers_of_one_process_and_a_loadable_judge(tmp_path, kind):
    one, many = run(tmp_path, "one", "plain", count=1), run(tmp_path, "many", kind)
    for a, b in zip(metrics(one), metrics(many), strict=True):
        assert a["policy/grad_norm"] > 0
        for name in ("reward/mean", "policy/grad_norm", "policy/kl", "policy/entropy", "policy/tokens"):
            assert b[name] == pytest.approx(a[name], rel=1e-3, abs=1e-6), name  # Adam divides tiny gradients
    start = build_judge("tiny")[0].state_dict()
    plain, spread = exported(one), exported(many)
    assert plain.keys() == spread.keys()
    moved = {k: (plain[k] - start[k]).norm() for k in plain}
    assert all((spread[k] - plain[k]).norm() <= 0.1 * moved[k] + 1e-6 for k in plain)
    assert sum(moved.values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_sharded_run_goes_on_bit_for_bit(tmp_path, kind):
    folder = run(tmp_path, "run", kind, draws="random")
    straight = exported(folder)
    shutil.rmtree(folder / "checkpoint-2")
    shutil.rmtree(folder / "judge")
    again = exported(run(tmp_path, "run", kind, draws="random"))
    assert straight.keys() == again.keys() and all(torch.equal(straight[k], again[k]) for k in straight)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_starts_at_the_reference_and_keeps_its_log_probabilities(tmp_path, kind):
    first, second = metrics(run(tmp_path, "run", kind, precision="bf16"))
    assert first["policy/kl"] == 0 < second["policy/kl"]


@pytest.mark.slow
def test_a_sharded_adapter_is_merged_into_the_judge(tmp_path):
    build_judge("tiny")[0].save_pretrained(tmp_path / "base")
    one, many = (
        exported(run(tmp_path, name, kind, count=count, lora=str(tmp_path / "base")))
        for name, kind, count in (("one", "plain", 1), ("many", "fsdp2", 2))
    )
    start = load_file(tmp_path / "base" / "model.safetensors")
    assert one.keys() == many.keys() == start.keys()
    moved = [k for k in start if not torch.equal(one[k], start[k])]
    assert moved and all("weight" in k for k in moved)
    for k in moved:
        assert (many[k] - one[k]).norm() <= 0.1 * (one[k] - start[k]).norm()


def test_what_leaves_a_sharded_model_is_not_rounded_and_deepspeed_clips_as_told():
    fsdp = FullyShardedDataParallelPlugin(fsdp_version=2)
    fsdp.set_mixed_precision("bf16")
    assert fsdp.mixed_precision_policy.output_dtype == torch.bfloat16
    deepspeed = SimpleNamespace(deepspeed_config={})
    settle_sharding(SimpleNamespace(state=SimpleNamespace(fsdp_plugin=fsdp, deepspeed_plugin=deepspeed)), 0.5)
    assert fsdp.mixed_precision_policy.output_dtype is None
    assert fsdp.mixed_precision_policy.param_dtype == torch.bfloat16
    assert deepspeed.deepspeed_config == {"train_micro_batch_size_per_gpu": 1, "gradient_clipping": 0.5}
