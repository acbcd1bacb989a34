"""``cac-align lora``: adapters of Wan between programs."""

from __future__ import annotations

import argparse
from pathlib import Path

from cac_align.commands.steps import add_steps, run_step

NAME, HELP = "lora", "Rewrite a LoRA of Wan for ComfyUI, or for diffusers."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_steps(parser, STEPS)


run = run_step


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("lora", type=Path, metavar="LORA", help="a .safetensors file, or a folder with one")
    parser.add_argument(
        "--to",
        required=True,
        choices=("comfyui", "diffusers"),
        help="names to write: those of the original Wan code (comfyui), or those of pipe.load_lora_weights (diffusers)",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the .safetensors file to write")


def _convert(args: argparse.Namespace) -> int:
    from cac_align.flow_grpo.learner.lora_convert import convert_lora

    made = convert_lora(args.lora, args.output, args.to)
    ranks = " and ".join(str(rank) for rank in made.ranks)
    print(f"{made.path}: {made.num_modules} modules of rank {ranks}, alpha multiplied in")
    return 0


STEPS = (("convert", "Write a LoRA by the names of another program.", _add_convert, _convert),)
