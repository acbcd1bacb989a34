"""Flow-GRPO with weights (FSDP2) or optimiser (ZeRO-2) spread over two CPU processes (gloo), against one process."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from cac_align.flow_grpo.learner.checkpoint import TrainingCheckpointError, read_checkpoint
from cac_align.flow_grpo.loading import check_deepspeed
from tests.launched import ROOT, launch
from tests.sharded import needs_deepspeed

KINDS = ["fsdp2", pytest.param("zero2", marks=needs_deepspeed)]

WORKER = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from safetensors.torch import save_file
from cac_align.flow_grpo.learner.lora import adapter_off
from tests.cac_align.flow_grpo.runs import EVAL_PROMPTS, build, tiny_pipe
from tests.sharded import shard_on_cpu, sharded_accelerator
out, kind, changes = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
base = changes.pop("base", None)
if changes.pop("held", False):  # by a frozen adapter and by videos, equal in all processes
    from reward_model.video.writing import write_video
    from tests.cac_align.flow_grpo.learner.adapters import export_trained
    from tests.cac_align.flow_grpo.learner.test_data_term import video
    own = Path(out + "-" + os.environ["RANK"])
    export_trained(own / "frozen")
    for k in range(3):
        write_video(own / "videos" / f"a red ball moves right-{{k}}.mp4", video(k), 16)
    changes |= {{"frozen_adapter": str(own / "frozen"), "data_regulariser": str(own / "videos"), "data_batch": 3}}
pipe = tiny_pipe()
if base:
    pipe.transformer.to(getattr(torch, base))
shard_on_cpu(kind)
accelerator = sharded_accelerator(kind, changes.get("mixed_precision", "no")) if kind == "fsdp2" else None
trainer = build(out, pipe=pipe, text_cache=None, accelerator=accelerator, batch="4x2", max_steps=3, save_every=2,
                eval_every=1, eval_prompts=EVAL_PROMPTS + ["a green square moves right"], ema_decay=0.5,
                learning_rate=1e-2, **changes)
trainer.train()
weights = trainer.learner.exported(averaged=False)
trainer.export(out + "/lora")
# Weights put in for a while are those that are used, whatever was gathered before.
model, learner = trainer.transformer, trainer.learner
dtype = next(model.parameters()).dtype
given = dict(hidden_states=torch.ones(1, model.config.in_channels, 2, 4, 4).to(dtype), timestep=torch.tensor([500.0]),
             encoder_hidden_states=torch.ones(1, 16, model.config.text_dim).to(dtype), return_dict=False)
with torch.no_grad():
    trained = model(**given)[0]
    for value in learner.ema.shadow_params:
        value.zero_()
    with learner.averaged_weights():
        averaged = model(**given)[0]
    with adapter_off(model):
        plain = model(**given)[0]
    assert torch.equal(averaged, plain) and not torch.equal(trained, plain)
    assert torch.equal(model(**given)[0], trained)
if trainer.accelerator.is_main_process:
    save_file({{k: v.contiguous() for k, v in weights.items()}}, out + "/weights.safetensors")
"""


def run(tmp_path, name, kind, count, changes):
    """A run of three steps; returns its folder."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(root=str(ROOT)))
    launch(script, count, tmp_path / name, kind, json.dumps(changes))
    return tmp_path / name


def weights(folder):
    return load_file(folder / "weights.safetensors")


def history(folder):
    """Rewards of the evaluations: base, then the averaged weights after each step."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["eval/reward"] for line in lines if "eval/reward" in line]


CASES = {
    "grpo": {"beta": 0.1},
    "adapters outside of the blocks": {"lora_targets": ["to_q", "proj_out"]},
    "guidance in two calls": {"batched_guidance": False, "gradient_checkpointing": True},
    "nft": {"objective": "nft", "kernel": "ode", "noise_level": None},
    "a frozen adapter and videos beside": {"beta": 0.1, "held": True},
    "rvm": {"objective": "rvm", "kernel": "ode", "noise_level": None},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_a_sharded_run_is_one_process_with_the_whole_batch(tmp_path, kind, changes):
    """Sampling, evaluation with averaged weights, updates and export all gather what they need."""
    one, many = run(tmp_path, "one", "plain", 1, changes), run(tmp_path, "many", kind, 2, changes)
    assert history(many) == pytest.approx(history(one), abs=1e-5) and len(set(history(one))) > 1
    a, b = weights(one), weights(many)
    assert a.keys() == b.keys()
    moved = max(float(v.abs().max()) for k, v in a.items() if "lora_B" in k)
    assert moved > 1e-2  # B starts at zero
    for name, value in a.items():  # Adam makes much of tiny gradients, so single weights may differ
        assert float((b[name] - value).norm()) < 1e-2 * max(float(value.norm()), moved), name
    exported = [load_file(folder / "lora" / "pytorch_lora_weights.safetensors") for folder in (one, many)]
    assert exported[0].keys() == exported[1].keys()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_sharded_run_goes_on_bit_for_bit(tmp_path, kind):
    folder = run(tmp_path, "run", kind, 2, {"beta": 0.1})
    straight = weights(folder)
    shutil.rmtree(folder / "checkpoint-3")
    again = weights(run(tmp_path, "run", kind, 2, {"beta": 0.1}))
    assert straight.keys() == again.keys() and all(torch.equal(straight[k], again[k]) for k in straight)
    if kind == "zero2":
        with pytest.raises(TrainingCheckpointError, match="by 2 processes under DeepSpeed"):
            read_checkpoint(folder / "checkpoint-2", {}, 0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_with_fp32_adapters(tmp_path, kind):
    """A frozen base in bf16, adapters in fp32, products in bf16: the first ratio is one, and it learns."""
    folder = run(tmp_path, "run", kind, 2, {"mixed_precision": "bf16", "base": "bfloat16", "noise_floor": "refuse"})
    found = weights(folder)
    assert {v.dtype for v in found.values()} == {torch.float32}
    assert max(float(v.abs().max()) for k, v in found.items() if "lora_B" in k) > 1e-2


@pytest.mark.parametrize(("stage", "precision", "said"), [(3, "bf16", "fsdp2.yaml"), (2, "fp16", 'use "bf16"')])
def test_what_deepspeed_cannot_do_here_is_refused_with_a_way_out(stage, precision, said):
    accelerator = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=stage)))
    with pytest.raises(ValueError, match=said):
        check_deepspeed(accelerator, precision)
    accelerator.state.deepspeed_plugin.zero_stage = 2
    assert check_deepspeed(accelerator, "bf16") is accelerator
