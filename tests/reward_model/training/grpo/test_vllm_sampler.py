"""Rollouts by vLLM: the same answers, weights that follow, a run that can be resumed. Needs vLLM for the slow ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from reward_model.minis.model import build_judge
from reward_model.training.grpo.rows import EncodedPrompt, PromptBuilder, stock_vision_inputs
from reward_model.training.grpo.vllm_sampler import make_engine, request
from tests.vllm_judge import ENVIRONMENT, HAS_VLLM, judge_for_vllm, needs_vllm

ROOT = Path(__file__).resolve().parents[4]

WORKER = """
import json, sys
sys.path.insert(0, {root!r})
import torch
from reward_model.config import load_judge_config
from reward_model.training.grpo.config import GrpoConfig
from reward_model.training.grpo.sampler import ModelSampler, stop_tokens
from reward_model.training.grpo.videos import world_loader, world_rows
from reward_model.training.grpo.trainer import GrpoTrainer
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.sharded import sharded_accelerator

folder, out, steps, lora, kind = sys.argv[1:]
accelerator = sharded_accelerator(kind)
judge = load_judge_config(folder)
model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
for name, parameter in model.named_parameters():
    parameter.requires_grad_(not name.endswith("o_proj.bias"))  # vLLM has none
config = GrpoConfig(
    output_dir=out, max_steps=int(steps), save_steps=1, prompts_per_step=2, num_generations=4, use_vllm=True,
    per_device_train_batch_size=8, learning_rate=1e-3, warmup_steps=0, temperature=0.8, vllm_max_model_length=2048,
    use_lora=lora == "lora", log_samples_every=0,
)
rows, load = world_rows(8, seed=1), world_loader(judge.frame_size)
trainer = GrpoTrainer(model, processor, rows, load, config, judge, accelerator=accelerator)


class Likeliest(ModelSampler):
    def _choose(self, logits):
        return logits.argmax(-1)


def likeliest(prompts):
    bare = trainer.accelerator.unwrap_model(trainer.policy)
    stops = stop_tokens(bare.model, processor.tokenizer)
    own = Likeliest(bare, torch.Generator(trainer.accelerator.device).manual_seed(0), stops)
    engine = trainer.rollouts.generator
    engine.temperature, kept = 1e-6, engine.temperature
    found = engine(prompts, [1] * len(prompts), 120), own(prompts, [1] * len(prompts), 120)
    engine.temperature = kept
    return [[list(answer.ids) for [answer] in side] for side in found]


def gap(batches):
    gaps = [(trainer.policy(b.rows)[0] - b.drawn).abs().mean() for b in batches]
    return float(max(gaps).detach())


found = {{}}
if out.endswith("checked"):
    prompts = [trainer.rollouts._open(s).prompt for s in trainer.samples_of_step(0)]
    found["before"] = likeliest(prompts)
    numbers = trainer.train()
    found["after"] = likeliest(prompts)
    found["followed"] = gap(trainer.micro_batches(trainer.collect()))
    with torch.no_grad():  # the step does not change, so the engine takes the weights for the ones it has
        for parameter in trainer.policy.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    found["stale"] = gap(trainer.micro_batches(trainer.collect()))
else:
    numbers = trainer.train()
found["gap"] = numbers["policy/sampling_gap"]
found["grad_norm"] = numbers["policy/grad_norm"]
trainer.export(out + "/judge")
print("FOUND " + json.dumps(found))
"""


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    return judge_for_vllm(tmp_path_factory.mktemp("judge") / "judge")


def run(tmp_path, judge, name, steps, lora="full", kind="plain"):
    """A run in processes of its own, which vLLM's engine needs: two where weights are sharded."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(root=str(ROOT)))
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", 2, "--master_port", 29400 + os.getpid() % 300]
    launcher = [sys.executable, *(torchrun if kind != "plain" else ())]
    command = [*launcher, script, judge, tmp_path / name, steps, lora, kind]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("FOUND "))
    return json.loads(line.removeprefix("FOUND "))


@needs_vllm
@pytest.mark.slow
@pytest.mark.parametrize("lora", ["full", "lora"])
def test_vllm_answers_as_the_policy_does_and_follows_it(tmp_path, judge, lora):
    found = run(tmp_path, judge, "checked", 2, lora)
    assert found["grad_norm"] > 0
    for side in ("before", "after"):
        theirs, ours = found[side]
        assert theirs == ours and all(len(ids) > 20 for ids in ours)
    assert found["followed"] < 1e-5 and found["gap"] < 1e-5
    assert found["stale"] > 1e-3


@needs_vllm
@pytest.mark.slow
def test_an_engine_in_each_process_follows_sharded_weights(tmp_path, judge):
    found = run(tmp_path, judge, "sharded", 2, kind="fsdp2")
    assert found["grad_norm"] > 0 and found["gap"] < 1e-5


@needs_vllm
@pytest.mark.slow
def test_a_resumed_run_is_the_same_run(tmp_path, judge):
    run(tmp_path, judge, "straight", 3)
    run(tmp_path, judge, "stopped", 2)
    run(tmp_path, judge, "stopped", 3)
    judges = [(tmp_path / name / "judge" / "model.safetensors").read_bytes() for name in ("straight", "stopped")]
    assert judges[0] == judges[1]


def test_vllm_gets_one_placeholder_for_each_frame():
    _, processor = build_judge("tiny")
    builder = PromptBuilder(processor, stock_vision_inputs(processor))
    shown = [builder.pictures(np.full((n, 48, 96, 3), n, np.uint8)) for n in (2, 1)]
    image = processor.image_token
    text = f"a{image}b{image}c{image}"
    prompt = EncodedPrompt(builder.encode(text, shown), tuple(shown))
    asked = request(prompt, processor.image_token_id)
    assert asked["prompt_token_ids"] == processor.tokenizer.encode(text, add_special_tokens=False)
    assert [frame.getpixel((0, 0)) for frame in asked["multi_modal_data"]["image"]] == [(2, 2, 2), (2, 2, 2), (1, 1, 1)]
    assert asked["multi_modal_data"]["image"][0].size == (96, 48)
    assert shown[0].grid[0] * shown[0].grid[1] > 1


@pytest.mark.skipif(HAS_VLLM, reason="vLLM is installed")
def test_missing_vllm_is_named_with_the_remedy():
    with pytest.raises(ValueError, match="pip install vllm"):
        make_engine(build_judge("tiny")[0], None)
