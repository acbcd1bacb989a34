"""How fast the judge trains, each figure beside its plain alternative in the same run.

    python benchmarks/train.py                                   # stages 1 and 2, the mini judge, procedural videos
    python benchmarks/train.py --grpo                            # rollouts of stage 3 too
    python benchmarks/train.py --grpo --skip-sft                 # rollouts alone
    python benchmarks/train.py --output benchmarks/results/train.md

Compared, in alternating rounds with the same weights and the same pre-drawn samples, warm-up steps left out:

1. ``plain TRL``: SFTTrainer with its stock vision-language collator;
2. ``AnswerTrainer``: our trainer with the stock processor (``AnswerCollator``), what full-size judges use;
3. ``AnswerTrainer, equal images``: with ``MiniCollator``, what the minis use;
4. with ``--grpo``: two-turn rollouts drawn as a batch against one ``generate`` call per rollout, and, where vLLM is
   installed, by its engine in the same process, weights handed over each time.

The estimates for the 8B model at the end are arithmetic (FLOPs over peak), not measurements.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from datasets import Dataset
from PIL import Image
from transformers import TrainerCallback
from trl import SFTTrainer

from reward_model.files import write_text
from reward_model.minis.collator import MiniCollator, use_equal_images
from reward_model.minis.model import build_judge
from reward_model.minis.rows import draw_rows, make_example
from reward_model.training.plan import PlanConfig, make_plan
from reward_model.training.sft.trainer import AnswerCollator, AnswerTrainer, sft_config

MIB = 2**20


class Stopwatch(TrainerCallback):
    """Seconds of every optimiser step after the first ``skip``, data loading included."""

    def __init__(self, skip: int) -> None:
        self.skip, self.steps = skip, []
        self._last = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._last = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if state.global_step > self.skip:
            self.steps.append(now - self._last)
        self._last = now


class PeakMemory:
    """Largest resident size of this process while the block runs, and at its start, in MiB."""

    def __enter__(self) -> PeakMemory:
        self._process, self._over = psutil.Process(), threading.Event()
        self.start = self.peak = self._process.memory_info().rss / MIB
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.peak = max(self.peak, self._process.memory_info().rss / MIB)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def stock_rows(examples: list[Any]) -> Dataset:
    """The same samples as conversations with PIL images, as TRL's documentation has them."""
    rows = []
    for example in examples:
        images = [Image.fromarray(p) for m in example.conversation for p in m.content if isinstance(p, np.ndarray)]
        answer = {"role": "assistant", "content": [{"type": "text", "text": example.answer}]}
        prompt = [m.to_chat() for m in example.conversation]
        rows.append({"prompt": prompt, "completion": [answer], "images": images})
    return Dataset.from_list(rows)


def train(variant: str, examples: list[Any], args: argparse.Namespace) -> tuple[list[float], float]:
    """One run of a variant: seconds of its steps, and the peak memory it added in MiB."""
    model, processor = build_judge("mini", seed=0)
    watch = Stopwatch(args.warmup)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as block:
        config = sft_config(
            folder,
            max_steps=args.warmup + args.steps,
            per_device_train_batch_size=args.batch_size,
            learning_rate=1e-4,
            report_to=[],
            save_strategy="no",
            logging_steps=10_000,
            disable_tqdm=True,
            bf16=False,
            gradient_checkpointing=False,
            train_sampling_strategy="sequential",
            use_cpu=not torch.cuda.is_available(),
        )
        shared = {"model": model, "args": config, "processing_class": processor, "callbacks": [watch]}
        rows = Dataset.from_list([{"number": k} for k in range(len(examples))])

        def load(row: Any) -> Any:
            return examples[row["number"]]

        if variant == "plain TRL":
            trainer: Any = SFTTrainer(train_dataset=stock_rows(examples), **shared)
        elif variant == "AnswerTrainer":
            trainer = AnswerTrainer(train_dataset=rows, data_collator=AnswerCollator(processor, load), **shared)
        else:
            block.enter_context(use_equal_images(model))
            trainer = AnswerTrainer(train_dataset=rows, data_collator=MiniCollator(processor, load), **shared)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        with PeakMemory() as memory:
            trainer.train()
    if torch.cuda.is_available():
        return watch.steps, torch.cuda.max_memory_allocated() / MIB
    return watch.steps, memory.peak - memory.start


def peak_memory(variant: str, examples: list[Any], args: argparse.Namespace) -> float:
    """Peak memory of a run in MiB: on a GPU what torch allocated, else what a forked process that does nothing else
    adds to its resident size (in this one, later runs would reuse what earlier ones have freed).
    """
    if torch.cuda.is_available():
        return train(variant, examples, args)[1]
    with get_context("fork").Pool(1) as pool:
        return pool.apply(train, (variant, examples, args))[1]


def count_tokens(processor: Any, examples: list[Any]) -> int:
    """Tokens of prompts, frames and answers, without padding; the same count for every variant."""
    collate = AnswerCollator(processor, lambda row: row["example"])
    return sum(int(collate([{"example": e}])["attention_mask"].sum()) for e in examples)


def draw_examples(tasks: tuple[str, str], args: argparse.Namespace) -> list[Any]:
    """Samples of all steps, the two tasks in turn batch by batch."""
    count = (args.warmup + args.steps) * args.batch_size
    return [make_example(r) for r in draw_rows([tasks[k // args.batch_size % 2] for k in range(count)], seed=9)]


def sft_table(args: argparse.Namespace) -> str:
    """The comparison of stages 1 and 2 as Markdown."""
    variants = ("plain TRL", "AnswerTrainer", "AnswerTrainer, equal images")
    lines = []
    stages = {"stage 1": ("frame", "clip"), "stage 2": ("scan", "zoom")}
    drawn = {stage: draw_examples(tasks, args) for stage, tasks in stages.items()}
    # Before anything trains in this process, so that every fork starts from the same small one.
    memory = {(stage, v): peak_memory(v, examples, args) for stage, examples in drawn.items() for v in variants}
    for stage, tasks in stages.items():
        examples = drawn[stage]
        measured = examples[args.warmup * args.batch_size :]
        _, processor = build_judge("mini")
        tokens = count_tokens(processor, measured)
        seconds: dict[str, list[float]] = {v: [] for v in variants}
        for _ in range(args.rounds):
            for variant in variants:
                seconds[variant].append(sum(train(variant, examples, args)[0]))
        base = statistics.median(seconds["plain TRL"])
        lines += [
            f"### {stage}: {', '.join(tasks)}; {args.steps} steps of {args.batch_size}, {args.rounds} rounds in turn",
            "",
            "| trainer | samples/s | range | tokens/s | peak memory added (MiB) | speed, plain TRL = 1 |",
            "|---|---|---|---|---|---|",
        ]
        for variant in variants:
            times = seconds[variant]
            rate, low, high = (len(measured) / t for t in (statistics.median(times), max(times), min(times)))
            lines.append(
                f"| {variant} | {rate:.1f} | {low:.1f}-{high:.1f} | {tokens / statistics.median(times):.0f} "
                f"| {memory[stage, variant]:.0f} | {base / statistics.median(times):.2f} |"
            )
        lines.append("")
    return "\n".join(lines)


def grpo_table(args: argparse.Namespace) -> str:
    """Rollouts of stage 3: batched with shared prompts against one ``generate`` per rollout."""
    from reward_model.backends.local import LocalBackend
    from reward_model.training.grpo.rollouts import GrpoSample, TwoTurnRollouts
    from reward_model.training.grpo.rows import PromptBuilder, RowModel, stock_vision_inputs
    from reward_model.training.grpo.sampler import ModelSampler, stop_tokens
    from reward_model.world import KINDS, make_video

    backend = LocalBackend(args.model)
    inputs = stock_vision_inputs(backend.processor)
    generator = torch.Generator(backend.device).manual_seed(0)
    stops = stop_tokens(backend.model, backend.processor.tokenizer)
    sampler = ModelSampler(RowModel(backend.model, inputs), generator, stops)
    rollouts = TwoTurnRollouts(PromptBuilder(backend.processor, inputs), sampler, backend.config)
    kinds = list(KINDS)
    size = {"size": backend.config.frame_size} if backend.config.frame_size else {}
    videos = [
        make_video(800_000 + k, None if k % 2 else kinds[k // 2 % len(kinds)], **size) for k in range(args.videos)
    ]
    samples = [GrpoSample(truth, lambda index, f=frames: f[list(index)]) for frames, truth in videos]

    def batched() -> int:
        drawn = rollouts.draw(samples, args.generations)
        return sum(record.num_tokens for group in drawn for record in group)

    def one_by_one() -> int:
        return sum(plain_rollout(backend, frames, truth) for frames, truth in videos for _ in range(args.generations))

    jobs = {"batched": batched, "one by one": one_by_one}
    if importlib.util.find_spec("vllm"):
        jobs["vLLM"] = vllm_rollouts(backend, rollouts, generator, batched)
    rates: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(args.rounds + 1):
        for name, job in jobs.items():
            started = time.perf_counter()
            tokens = job()
            if number:  # the first round warms up
                rates[name].append(tokens / (time.perf_counter() - started))
    fast, slow = (statistics.median(rates[n]) for n in ("batched", "one by one"))
    return (
        f"### stage 3: {args.videos} videos x {args.generations} rollouts, both turns, temperature 1\n\n"
        "| rollouts | sampled tokens/s | range | ratio |\n|---|---|---|---|\n"
        + "".join(
            f"| {n} | {statistics.median(r):.0f} | {min(r):.0f}-{max(r):.0f} | {statistics.median(r) / slow:.2f} |\n"
            for n, r in rates.items()
        )
        + ("" if fast > slow else "\nBatching did not pay here.\n")
    )


def vllm_rollouts(backend: Any, rollouts: Any, generator: torch.Generator, draw: Callable[[], int]) -> Any:
    """The same draw by vLLM in this process, with a transfer of all weights each time, as every step has one."""
    from reward_model.engine.processes import default_accelerator
    from reward_model.training.grpo.sampler import stop_tokens
    from reward_model.training.grpo.vllm_sampler import VllmSampler, engine_weights, make_engine

    step, own = 0, rollouts.generator
    sampler = VllmSampler(
        make_engine(backend.model, default_accelerator()),
        lambda: engine_weights(backend.model),
        lambda: step,
        generator,
        backend.model.config.image_token_id,
        stop_tokens(backend.model, backend.processor.tokenizer),
    )

    def drawn() -> int:
        nonlocal step
        step += 1
        rollouts.generator = sampler
        tokens = draw()
        rollouts.generator = own
        return tokens

    return drawn


def plain_rollout(backend: Any, frames: np.ndarray, truth: Any) -> int:
    """Sampled tokens of one two-turn rollout with a ``generate`` call for each turn; ends after turn one where the
    answer names no window.
    """
    from reward_model.conversation import Sampling
    from reward_model.parsing import ParseError, parse_turn
    from reward_model.prompts import load_prompts
    from reward_model.video.clip import native_window, sample_indices, zoom_indices
    from reward_model.video.framing import Framing

    config, prompts = backend.config, load_prompts(backend.config.prompts)

    def show(index: list[int]) -> np.ndarray:
        height, width = frames.shape[1:3]
        return Framing((height, width), config.frame_size, config.frame_fit).show(frames[index])

    grid = sample_indices(len(frames), truth.fps, config.scan_fps)
    scan = prompts.scan(show(grid), truth.prompt)
    first = backend.generate([scan], Sampling(config.answer_limit(1, len(grid)), temperature=1.0))[0]
    try:
        report = parse_turn(first.text, turn=1, num_frames=len(grid))
    except ParseError:
        return int(first.num_tokens)
    if report.window is None:
        return int(first.num_tokens)
    window = native_window(report.window, grid, len(frames), margin=config.window_margin)
    limits = {"min_frames": config.min_zoom_frames, "max_frames": config.max_zoom_frames}
    clip = zoom_indices(window, len(frames), truth.fps, config.zoom_fps, **limits)
    zoom = prompts.zoom(show(clip), truth.prompt, cot=report.cot)
    second = backend.generate([zoom], Sampling(config.answer_limit(2, len(clip)), temperature=1.0))[0]
    return int(first.num_tokens + second.num_tokens)


def estimates() -> str:
    """Hours of the two full-size stages on eight H200, from FLOPs."""
    lines = [
        "### Qwen3-VL-8B, eight H200: ESTIMATE from FLOPs, not measured",
        "",
        "| stage | steps x batch | tokens a sample | FLOPs a step | hours at 20 / 35 / 50 % of peak | paper's hours |",
        "|---|---|---|---|---|---|",
    ]
    for stage, lora_r, steps, frames, paper in (
        ("stage 1 (LoRA)", 32, 9_330, 1, 11.5),
        ("stage 2 (all parameters)", None, 7_000, 21, 30.5),
    ):
        plan = make_plan(PlanConfig(stage=stage, lora_r=lora_r, steps=steps, num_frames=frames))
        hours = " / ".join(f"{h:.1f}" for h in plan.hours.values())
        lines.append(f"| {stage} | {steps} x 8 | {plan.tokens} | {plan.flops_per_step:.2g} | {hours} | {paper} |")
    lines.append(
        "\nBoth lines are computed: answers count as long as they may be, 320 tokens a frame and 1,024, and a\n"
        "batch is 8 samples, because the paper does not give its own. `cac-align train stage1 --config full\n"
        "--dry-run` and the same of `stage2` and `stage3` print these hours with the memory of a GPU and of a host.\n"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="measured steps of each run")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them that do not count")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--grpo", action="store_true", help="measure rollouts of stage 3 too")
    parser.add_argument("--skip-sft", action="store_true", help="with --grpo: measure rollouts alone")
    parser.add_argument("--model", default="assets/cac-mini", help="judge that draws the rollouts")
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--output", type=Path, default=None, help="write the tables as Markdown")
    args = parser.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} thread(s)"
    command = f"python benchmarks/train.py {' '.join(sys.argv[1:])}"
    text = f"# Training speed, mini judge\n\n    {command}\n\n{device}, torch {torch.__version__}\n"
    text += "" if args.skip_sft else f"\n{sft_table(args)}"
    text += f"\n{grpo_table(args)}" if args.grpo else ""
    text += "" if args.skip_sft else f"\n{estimates()}"
    print(text)
    if args.output:
        write_text(args.output, text)


if __name__ == "__main__":
    main()
