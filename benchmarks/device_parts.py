"""The measurements of ``device.py``: each part yields rows as soon as it has them.

A row is ``{"what": ..., figures}``; seconds are medians of the rounds after one that warms up.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from device_models import FULL, FixedAnswers, Size, build_pipeline, build_vlm, videos
from flow_grpo_timed import CONFIGS, MINI, PRESETS, Clock, Ours, watched_plain

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.plan import make_run_plan
from cac_align.rewards.cac import CaCReward
from reward_model.backends.local import LocalBackend
from reward_model.config import JudgeConfig
from reward_model.engine.settings import read_yaml
from reward_model.judge import TwoTurnJudge
from reward_model.video.clip import load_video
from reward_model.video.writing import write_video

Row = dict[str, Any]
GIB = 2**30
PRESET_OF = {"fast": "80 GB preset", "plain": "the same by a plain loop", "strict": "strict official path"}


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def timed(job: Callable[[], Any], rounds: int = 1, *, warm: bool = True) -> tuple[float, float]:
    """Median seconds of a job, and the GiB it held at most beyond what was there before (0 on a CPU)."""
    cuda = torch.cuda.is_available()
    if warm:
        job()
    seconds = []
    before = torch.cuda.memory_allocated() if cuda else 0
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    for _ in range(rounds):
        started = time.perf_counter()
        job()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    peak = (torch.cuda.max_memory_allocated() - before) / GIB if cuda else 0.0
    return statistics.median(seconds), peak


def measure_judge(size: Size) -> Iterator[Row]:
    """Eight clips in two turns, batched and by one ``generate`` a turn; then the verdict alone."""
    started = time.perf_counter()
    inner = LocalBackend.of(*build_vlm(size, default_device()), "random weights of Qwen3-VL-8B's size")
    weights = sum(p.numel() * p.element_size() for p in inner.model.parameters()) / GIB
    yield {"what": "weights made", "seconds": time.perf_counter() - started, "GiB": weights}
    backend, clips = FixedAnswers(inner, size.answer_tokens), videos(size)
    config = JudgeConfig(max_zoom_frames=32)

    def judging(batch_size: int, **options: Any) -> Callable[[], Any]:
        judge = TwoTurnJudge(backend, config, batch_size=batch_size, **options)
        return lambda: judge.judge(clips, fps=16)

    verdicts = judging(len(clips))()  # warms up, and shows that both turns took place
    if not all(len(v.turns) == 2 for v in verdicts):
        raise RuntimeError(f"turn two is missing: {[v.error for v in verdicts]}")
    shown = [len(turn.frame_indices) for turn in verdicts[0].turns]
    jobs = {
        "two turns, one batch": judging(len(clips)),
        "two turns, one generate a turn": judging(1),
        "verdict without reasoning, one batch": judging(len(clips), reasoning=False, readout="direct"),
    }
    for what, job in jobs.items():
        backend.drawn, rounds = 0, 1 if "generate" in what else size.rounds
        seconds, peak = timed(job, rounds, warm=False)
        tokens = backend.drawn / rounds
        yield {
            "what": f"{what}; {len(clips)} clips, {shown[0]} and {shown[1]} frames",
            "seconds": seconds,
            "answer tokens": tokens,
            "tokens/s": tokens / seconds,
            "GiB": peak,
        }


def measure_wan(size: Size) -> Iterator[Row]:
    """One forward of the transformer without gradient, by every attention backend that works here."""
    from diffusers.models.attention_dispatch import AttentionBackendName

    device = default_device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    transformer = build_pipeline(size, device, dtype).transformer
    frames = (size.num_frames - 1) // 4 + 1
    latents = torch.randn(1, 16, frames, size.height // 8, size.width // 8, device=device, dtype=dtype)
    text = torch.randn(1, 512, transformer.config.text_dim, device=device, dtype=dtype)
    times = torch.tensor([500], device=device)
    tokens = frames * (size.height // 16) * (size.width // 16)

    @torch.no_grad()
    def forward() -> torch.Tensor:
        return transformer(latents, times, text, return_dict=False)[0]

    exact, absent = forward(), []
    for name in AttentionBackendName:
        if "hub" in name.value or "math" in name.value:  # a download; a form that takes tens of GiB at this length
            continue
        try:
            transformer.set_attention_backend(name.value)
            seconds, peak = timed(forward, size.rounds)
            off = float((forward() - exact).abs().max() / exact.abs().max())
        except Exception:  # whatever a package, a kernel or a device says, the next one has its turn
            absent.append(name.value)
            continue
        finally:
            transformer.reset_attention_backend()
        yield {
            "what": f"attention {name.value}, {tokens} tokens",
            "seconds": seconds,
            "GiB": peak,
            "difference to native": off,
        }
    yield {"what": f"cannot be used here: {', '.join(absent)}"}


def step_config(name: str, size: Size, folder: str) -> FlowGRPOConfig:
    """A preset cut to few steps and one group; tiny: brought to the minis' size as well."""
    settings = {**read_yaml(CONFIGS / PRESETS[name])}
    if size is not FULL:
        settings |= MINI
    settings |= {
        "prompts": MINI["prompts"],
        "eval_prompts": None,
        "rewards": MINI["rewards"],
        "height": size.train_height,
        "width": size.train_width,
        "num_frames": size.train_frames,
        "num_inference_steps": size.num_steps,
        "batch": size.batch,
        "sample_batch_size": size.call,
        "num_minibatches": 1,
        "output_dir": folder,
        "mixed_precision": "bf16" if torch.cuda.is_available() else "no",
    }
    if settings.get("window_stop"):
        settings["window_stop"] = min(settings["window_stop"], size.num_steps - 1)
    return FlowGRPOConfig.from_dict(settings)


def measure_step(size: Size) -> Iterator[Row]:
    """One step of Flow-GRPO: the 80 GB preset, the same maths by a plain loop, the strict official path."""
    device = default_device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    judge = FixedAnswers(LocalBackend.of(*build_vlm(size, device)), size.answer_tokens)
    reward = CaCReward(backend=judge, readout="log_odds", max_zoom_frames=32)
    for name, what in PRESET_OF.items():
        with tempfile.TemporaryDirectory() as folder:
            config, clock = step_config(name, size, folder), Clock()
            pipe = build_pipeline(size, device, dtype)
            build = watched_plain if name == "plain" else Ours
            run: Any = build(config, reward, clock, pipe)
            if name == "fast":
                found = run.trainer.self_check()
                yield {
                    "what": "replay at unchanged weights: largest change of the ratio, and the clip range",
                    "floor": found["floor"],
                    "limit": found["limit"],
                    "of two log-probs": found["log_prob"],
                }
            clock.start()
            run.step()  # warms up
            before = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
            clock.start()
            _, peak = timed(run.step, warm=False)
            phases = clock.stop()
            plan = make_run_plan(config, run.transformer)
            yield {
                "what": f"{what}: {config.samples_per_step} videos, {config.num_inference_steps} steps, "
                f"{config.num_trained_steps} trained",
                "seconds": sum(phases.values()),
                **{f"s {phase}": value for phase, value in phases.items()},
                "GiB": before / GIB + peak,
                "GiB planned, without VAE and judge": plan.memory,
            }
            del run, pipe
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def measure_vae(size: Size) -> Iterator[Row]:
    """A video through the VAE in float32, both ways, and one read from a file."""
    clip = videos(size)[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(path, clip, fps=16)
        seconds, _ = timed(lambda: load_video(str(path)).take(range(0, len(clip), 4)), size.rounds)
        yield {"what": f"file of {len(clip)} frames {size.width}x{size.height} decoded on the CPU", "seconds": seconds}
    device = default_device()
    vae = build_pipeline(size, device, torch.float32).vae
    pixels = torch.from_numpy(clip).to(device).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    for tiling in (False, True):
        getattr(vae, "enable_tiling" if tiling else "disable_tiling")()
        with torch.no_grad():
            latents = vae.encode(pixels).latent_dist.mode()
            encoding = timed(lambda: vae.encode(pixels), size.rounds)
            decoding = timed(lambda latents=latents: vae.decode(latents), size.rounds)
        for what, (seconds, peak) in (("encoded", encoding), ("decoded", decoding)):
            yield {"what": f"VAE, float32, {what}{' in tiles' if tiling else ''}", "seconds": seconds, "GiB": peak}


#: Measurement, and the seconds it may take on the device.
PARTS: dict[str, tuple[Callable[[Size], Iterator[Row]], int]] = {
    "judge": (measure_judge, 170),
    "wan": (measure_wan, 70),
    "step": (measure_step, 160),
    "vae": (measure_vae, 60),
}
