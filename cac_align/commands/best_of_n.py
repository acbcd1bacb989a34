"""``cac-align best-of-n``: from a prompt to a chosen video and its page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cac_align.commands.judge_options import add_judge_arguments, build_reward

NAME, HELP = "best-of-n", "Draw n videos from a diffusers pipeline, judge them, keep the best, write the evidence."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pipe", required=True, metavar="PATH_OR_ID", help="diffusers pipeline: a folder or a hub id")
    parser.add_argument("--prompt", required=True, help="what the video shows")
    parser.add_argument("--negative-prompt", help="what it should not show")
    parser.add_argument("--image", type=Path, help="first frame, for image-to-video pipelines")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("outputs/best-of-n"),
        metavar="DIR",
        help="result folder; a run resumes there",
    )
    parser.add_argument("--n", type=int, default=5, help="candidates (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument(
        "--fps", type=float, default=16.0, help="frames per second of the pipeline's videos (default: 16, as Wan)"
    )
    parser.add_argument("--batch-size", type=int, default=1, help="candidates per pipeline call (default: 1)")
    group = parser.add_argument_group("pipeline", "left out: the pipeline's own defaults")
    group.add_argument("--steps", type=int, dest="num_inference_steps", metavar="N", help="denoising steps")
    group.add_argument("--guidance-scale", type=float)
    group.add_argument("--height", type=int)
    group.add_argument("--width", type=int)
    group.add_argument("--num-frames", type=int)
    group.add_argument("--device", help="default: cuda if there is one")
    group.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="default: bfloat16 on cuda, else float32"
    )
    group.add_argument("--cpu-offload", action="store_true", help="keep only the part at work on the GPU")
    add_judge_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from cac_align.selection import best_of_n

    reward = build_reward(args)
    passed = ("negative_prompt", "num_inference_steps", "guidance_scale", "height", "width", "num_frames")
    pipe_kwargs = {name: getattr(args, name) for name in passed if getattr(args, name) is not None}
    if args.image is not None:
        from PIL import Image

        pipe_kwargs["image"] = Image.open(args.image).convert("RGB")
    pipe = load_pipeline(args.pipe, args.device, args.dtype, args.cpu_offload)
    pipe.set_progress_bar_config(leave=False)  # the bar of denoising steps goes when a video is done
    output = best_of_n(
        pipe,
        args.prompt,
        reward=reward,
        n=args.n,
        seed=args.seed,
        fps=args.fps,
        batch_size=args.batch_size,
        output_dir=args.output,
        **pipe_kwargs,
    )
    print(output)
    print(args.output / "report.html")
    return 0 if None not in output.scores else 1


def load_pipeline(model: str, device: str | None = None, dtype: str | None = None, cpu_offload: bool = False) -> Any:
    """A diffusers pipeline of whatever class its ``model_index.json`` names."""
    import torch
    from diffusers import DiffusionPipeline

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    precision = getattr(torch, dtype) if dtype else torch.bfloat16 if device.startswith("cuda") else torch.float32
    pipe = DiffusionPipeline.from_pretrained(model, dtype=precision)
    if cpu_offload:
        pipe.enable_model_cpu_offload(device=device)
        return pipe
    return pipe.to(device)
