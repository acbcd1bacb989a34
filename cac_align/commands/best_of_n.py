"""``cac-align best-of-n``: from a prompt, or a file of them, to chosen videos and their pages."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cac_align.commands.judge_options import add_judge_arguments, build_judge_reward
from cac_align.prompts import prompt_name, read_prompts
from reward_model.shipped import located
from reward_model.terminal.program import printable, quiet_bars

if TYPE_CHECKING:
    from PIL.Image import Image

    from cac_align.pipelines import Pipeline
    from cac_align.rewards.cac import CaCReward

FOLDER = Path("outputs/best-of-n")
NAME, HELP = "best-of-n", "Draw n videos from a diffusers pipeline, judge them, keep the best, write the evidence."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pipe", required=True, metavar="PATH_OR_ID", help="diffusers pipeline: a folder or a hub id")
    parser.add_argument(
        "--lora",
        action="append",
        metavar="PATH_OR_ID",
        help="LoRA to load into it, such as one that Flow-GRPO wrote: a folder or file; again for one on top of it",
    )
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--prompt", help="what the video shows")
    asked.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help=".txt with a prompt on each line, or .jsonl with 'prompt' and possibly 'image'; all from the same seed",
    )
    parser.add_argument("--negative-prompt", help="what it should not show")
    parser.add_argument("--image", type=Path, help="first frame, for image-to-video pipelines")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help=f"result folder, with a folder for each prompt of a file in it; a run resumes there (default: {FOLDER}/ "
        "and a folder for each prompt)",
    )
    parser.add_argument("--n", type=int, default=5, help="candidates (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument(
        "--fps", type=float, default=16.0, help="frames per second of the pipeline's videos (default: 16, as Wan)"
    )
    parser.add_argument("--batch-size", type=int, default=1, help="candidates per pipeline call (default: 1)")
    parser.add_argument(
        "--rank-by",
        choices=("verdict", "score"),
        default="verdict",
        help="verdict: a video judged abnormal never beats one judged normal; score: the score alone",
    )
    group = parser.add_argument_group("fewer forwards, fewer faults")
    group.add_argument(
        "--preview-steps",
        type=int,
        metavar="N",
        help="draw all candidates with so few denoising steps first and only the best of these previews in full",
    )
    group.add_argument("--keep", type=int, default=2, metavar="N", help="candidates that previews keep (default: 2)")
    group.add_argument(
        "--judge-all",
        action="store_true",
        help="with previews: draw and judge all in full as well, to tell what the previews' choice lost",
    )
    group.add_argument(
        "--repair",
        type=int,
        default=0,
        metavar="N",
        help="where the chosen candidate is judged abnormal, repair up to N candidates, best first (default: 0)",
    )
    group = parser.add_argument_group("pipeline", "left out: the pipeline's own defaults")
    group.add_argument("--steps", type=int, dest="num_inference_steps", metavar="N", help="denoising steps")
    group.add_argument("--guidance-scale", type=float, help="scale of classifier-free guidance; 1 turns it off")
    group.add_argument(
        "--guidance-scale-2", type=float, help="scale of Wan 2.2 A14B's second expert (default: that of the first)"
    )
    group.add_argument("--height", type=int, help="pixels of a frame")
    group.add_argument("--width", type=int, help="pixels of a frame")
    group.add_argument("--num-frames", type=int, help="frames of a video; Wan: 1 + a multiple of 4")
    group.add_argument("--device", help="default: cuda if there is one")
    group.add_argument("--dtype", help="bfloat16, float16, float32 (default: bfloat16 on cuda, else float32)")
    group.add_argument("--cpu-offload", action="store_true", help="keep only the part in use on the GPU")
    add_judge_arguments(parser, prefix="judge-")
    parser.set_defaults(resumes=True)


def run(args: argparse.Namespace) -> int:
    jobs = _prompt_jobs(args)
    _check(args, jobs)
    from cac_align.rewards.base import RewardError

    reward, pipe = _open(args, jobs)
    judged = []
    for number, job in enumerate(jobs, 1):  # one by one: the videos of many prompts need not fit into memory
        try:
            judged.append(_choose(args, pipe, reward, job))
        except RewardError as error:  # the videos are kept, and the other prompts are not lost
            if len(jobs) == 1:
                raise
            judged.append(False)
            print(printable(f"{number} of {len(jobs)}, {job.prompt}: {error}", lines=True), file=sys.stderr)
    if len(jobs) > 1:
        print(printable(f"{len(jobs)} prompts, {judged.count(False)} not judged in full: {jobs[0].folder.parent}"))
    return 0 if all(judged) else 1


def _open(args: argparse.Namespace, jobs: Sequence[PromptJob]) -> tuple[CaCReward, Pipeline]:
    """The judge and the pipeline, after the first frames were found to be pictures (they may be too many to keep)."""
    from cac_align.selection.candidates import open_first_frame

    images = {path for job in jobs if (path := job.image) is not None}
    for path in images:
        open_first_frame(path, "--image")
    reward = build_judge_reward(args)
    # A judge that cannot be opened is found out before the pipeline loads. Where that offloads, memory is too short for
    # both at once, and best_of_n loads the judge after the drawing.
    if args.cpu_offload:
        reward.check_ready()
    else:
        reward.make_ready()
    pipe = load_any_pipeline(args.pipe, args.device, args.dtype, args.cpu_offload, args.lora or (), image=bool(images))
    pipe.set_progress_bar_config(leave=False)  # the bar of denoising steps goes when a video is done
    return reward, pipe


def _choose(args: argparse.Namespace, pipe: Pipeline, reward: CaCReward, job: PromptJob) -> bool:
    """Draws and judges the candidates of one prompt and prints the choice; False if not all could be judged.

    Raises:
        RewardError: if none could.
    """
    from cac_align.selection.best import best_of_n

    chosen = best_of_n(
        pipe,
        job.prompt,
        reward=reward,
        n=args.n,
        seed=args.seed,
        fps=args.fps,
        batch_size=args.batch_size,
        output_dir=job.folder,
        rank_by=args.rank_by,
        preview_steps=args.preview_steps,
        keep=args.keep,
        judge_all=args.judge_all,
        repair=args.repair,
        **_drawing(args, pipe, job),
    )
    print(printable(chosen, lines=True))
    print(printable(job.folder / "report.html"))
    return None not in chosen.scores


def _drawing(args: argparse.Namespace, pipe: Pipeline, job: PromptJob) -> dict[str, Any]:
    """The arguments of the pipeline that the command line and the prompt give."""
    from cac_align.selection.candidates import open_first_frame

    names = ("negative_prompt", "num_inference_steps", "guidance_scale", "guidance_scale_2", "height", "width")
    given = {name: value for name in (*names, "num_frames") if (value := getattr(args, name)) is not None}
    if job.image is not None:
        given["image"] = open_first_frame(job.image, "--image")
        if args.height is None and args.width is None:
            given |= _size_of(pipe, given["image"])
    return given


class PromptJob(NamedTuple):
    """A prompt, the folder of its result, and a first frame where there is one."""

    prompt: str
    folder: Path
    image: Path | None


def _prompt_jobs(args: argparse.Namespace) -> list[PromptJob]:
    """The prompts of the command line.

    Raises:
        ValueError: if the file of prompts is missing or broken, or names a first frame for some of them only.
    """
    if args.prompts is None:
        return [PromptJob(args.prompt, args.output or FOLDER / prompt_name(args.prompt), args.image)]
    found = [
        PromptJob(p.text, (args.output or FOLDER) / prompt_name(p.text), p.image or args.image)
        for p in read_prompts(args.prompts)
    ]
    bare = [job.prompt for job in found if job.image is None]
    if 0 < len(bare) < len(found):
        raise ValueError(
            f"{args.prompts}: {len(bare)} of {len(found)} prompts have no image, such as {bare[0][:60]!r}; name one "
            "for each, or give --image for those without"
        )
    return found


def _check(args: argparse.Namespace, jobs: Sequence[PromptJob]) -> None:
    """Refuses what cannot work before anything loads.

    Raises:
        ValueError: if an argument is out of range, a file is not there, or the folder holds candidates of other
            settings.
    """
    from cac_align.selection.run_folder import check_same_settings
    from reward_model.backends.devices import check_precision, torch_device
    from reward_model.video.clip import check_fps

    check_precision(args.dtype)
    torch_device(args.device)
    if not all(job.prompt.strip() for job in jobs):
        raise ValueError("--prompt is empty; say what the video shows")
    _check_numbers(args)
    check_fps(args.fps)
    _check_sources(args, jobs)
    for job in jobs:
        check_same_settings(job.folder, args.n, {"prompt": job.prompt, "seed": args.seed})


def _check_numbers(args: argparse.Namespace) -> None:
    """Raises ValueError for a number that is too small."""
    least = {"n": 1, "batch_size": 1, "seed": 0, "num_inference_steps": 1, "height": 8, "width": 8, "num_frames": 2}
    least |= {"preview_steps": 1, "keep": 1, "repair": 0}
    for name, low in least.items():
        value = getattr(args, name)
        if value is not None and value < low:
            raise ValueError(f"{name}={value} must be at least {low}")


def _check_sources(args: argparse.Namespace, jobs: Sequence[PromptJob]) -> None:
    """Raises ValueError for a first frame, LoRA or pipeline that is not there, or a folder nobody can write to."""
    from reward_model.files import check_output_folder

    for option, path in (("--image", args.image), *(("--lora", path) for path in args.lora or ())):
        local = path is not None and (str(path).startswith((".", "/")) or option == "--image")
        if local and not Path(path).exists():
            raise ValueError(f"{option} {str(path)!r}: there is no such file; check the path")
    for job in jobs:
        check_output_folder(job.folder)
    args.pipe = located(args.pipe)
    if not Path(args.pipe).exists() and (args.pipe.startswith((".", "/", "~")) or args.pipe.count("/") != 1):
        raise ValueError(f"--pipe {args.pipe!r}: there is no such folder; check the path, or name a hub id")


def _size_of(pipe: Pipeline, image: Image) -> dict[str, int]:
    """Height and width in the shape of the first frame, where the pipeline's own would stretch it."""
    from cac_align.selection.candidates import fitting_size, stretched

    fits = fitting_size(pipe, image) if stretched(pipe, {"image": image}) else None
    return {} if fits is None else {"height": fits[0], "width": fits[1]}


def load_any_pipeline(
    model: str,
    device: str | None = None,
    dtype: str | None = None,
    cpu_offload: bool = False,
    lora: str | Sequence[str] | None = None,
    image: bool = False,
) -> Pipeline:
    """A diffusers pipeline of whatever class its ``model_index.json`` names, with LoRAs at strength 1; one that serves
    both, Wan 2.2 TI2V-5B, for image-to-video where there is an ``image``.

    The VAE of Wan stays in float32, as diffusers' page on Wan has it: in half precision it leaves small artifacts,
    which are what the judge looks for.

    Raises:
        ValueError: if there is no such device or precision, the pipeline lacks weights or cannot take a LoRA, or the
            LoRA does not fit.
    """
    import diffusers
    import torch

    from cac_align.pipelines import open_pipeline, serving_class
    from reward_model.backends.devices import torch_device, torch_dtype

    quiet_bars("diffusers", "transformers")
    place = torch_device(device)
    precision = torch_dtype(None if dtype == "auto" else dtype) or (
        torch.bfloat16 if place.type == "cuda" else torch.float32
    )
    parts = diffusers.DiffusionPipeline.load_config(model)
    wan = "AutoencoderKLWan" in (parts.get("vae") or ())
    given = {"default": precision, "vae": torch.float32} if wan else precision
    served = serving_class(parts, image)
    kind = None if served == parts["_class_name"] else getattr(diffusers, served)
    pipe = open_pipeline(model, kind, dtype=given)
    for one in [lora] if isinstance(lora, str) else lora or ():
        _load_lora(pipe, one)
    if cpu_offload:
        pipe.enable_model_cpu_offload(device=place)
        return pipe
    return pipe.to(place)


def _load_lora(pipe: Pipeline, lora: str) -> None:
    if not hasattr(pipe, "load_lora_weights"):
        raise ValueError(f"--lora: {type(pipe).__name__} takes no LoRA")
    from cac_align.flow_grpo.learner.lora_files import load_lora

    wan = "WanTransformer3DModel" in type(getattr(pipe, "transformer", None)).__name__
    try:
        if wan and Path(lora).exists():  # in more forms than diffusers reads, each at its right strength
            load_lora(pipe, lora)
        elif under := list(pipe.get_active_adapters()):
            pipe.load_lora_weights(lora, adapter_name=f"lora_{len(under)}")
            pipe.set_adapters([*under, f"lora_{len(under)}"])
        else:
            pipe.load_lora_weights(lora)
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"--lora {lora!r} cannot be loaded into {type(pipe).__name__}: {reason}") from error
