"""From a settings file to a trainer of a judge that looks itself; and the plan that is printed first."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_model.active.policies import Narrate
from reward_model.backends.checkpoint import load_checkpoint, settings_folder
from reward_model.backends.devices import torch_dtype
from reward_model.backends.source import announce_demo_scale
from reward_model.config import JudgeConfig, load_judge_config
from reward_model.data.plain_cot import plain_report
from reward_model.data.targets import targets_of
from reward_model.engine.trackers import check_reporters
from reward_model.extras import need
from reward_model.schema import TurnReport, VideoAnnotation
from reward_model.training.active.config import OWN, ActiveConfig
from reward_model.training.active.trainer import ActiveTrainer
from reward_model.training.active.videos import Load, footage_loader, footage_rows, suite_loader, suite_rows
from reward_model.training.grpo.rows import VisionInputs
from reward_model.training.grpo.setup import FastVision, judge_file
from reward_model.world.narration import narrate_zoom

if TYPE_CHECKING:
    from reward_model.training.plan import PlanConfig

log = logging.getLogger(__name__)

#: Model and processor -> number of tokens that were added for operators.
AddTokens = Callable[[Any, Any], int]


@contextmanager
def open_active_trainer(
    settings: Mapping[str, Any], *, fast_vision: FastVision | None = None, add_tokens: AddTokens | None = None
) -> Iterator[ActiveTrainer]:
    """The trainer a settings file describes, ready within the block; the fast vision path ends with it.

    Args:
        settings: settings of the file.
        fast_vision: taken where the settings say ``fast_vision``.
        add_tokens: gives a checkpoint of demonstration scale the tokens it writes operators with.

    Raises:
        ValueError: if a setting is unknown or wrong; the message names it.
    """
    need("datasets", "this training")
    config = config_of(settings)
    check_reporters(config.report_to)
    for name in ("model", "data"):
        if name not in settings:
            raise ValueError(f"the settings must name {name!r}; see recipes/configs/active/mini.yaml")
    known = load_judge_config(settings_folder(settings["model"]))
    announce_demo_scale(settings["model"], known.demo_scale)
    judge = known.override(**(settings.get("judge") or {}))
    rows, load, narrate = _data(settings["data"], config.asked(judge))
    dtype = torch_dtype(settings.get("dtype", "float32"))
    attention = settings.get("attn_implementation") or None
    model, processor = load_checkpoint(settings["model"], dtype=dtype, attn_implementation=attention)
    if add_tokens is not None and known.demo_scale and (count := add_tokens(model, processor)):
        log.info("the mini was given %d tokens for operators", count)
    fast: VisionInputs | None = None
    block: AbstractContextManager[None] = nullcontext()
    if settings.get("fast_vision"):
        if fast_vision is None:
            log.warning("fast_vision: none is given to open_active_trainer, so frames go through the stock processor")
        else:
            fast, block = fast_vision(model, processor)
    with block:
        trainer = ActiveTrainer(model, processor, rows, load, config, judge, narrate=narrate, vision_inputs=fast)
        trainer.judge_file = judge_file(settings["model"], trainer.judge_config)
        yield trainer


def config_of(settings: Mapping[str, Any]) -> ActiveConfig:
    """The training's own settings of a file.

    Raises:
        ValueError: if one is unknown or wrong.
    """
    return ActiveConfig.from_dict({k: v for k, v in settings.items() if k not in OWN})


def _data(data: Mapping[str, Any], judge: JudgeConfig) -> tuple[Sequence[Mapping[str, Any]], Load, Narrate]:
    """Rows, their loader, and who writes scripted answers: ``source: aliasing`` (rows, seed, easy, size) or ``source:
    annotations`` (what :func:`reward_model.training.grpo.videos.annotated_rows` takes, and cache_dir).
    """
    options = dict(data)
    source = options.pop("source", None)
    try:
        if source == "aliasing":
            size = options.pop("size", None) or judge.frame_size
            if not size:
                raise ValueError("data: source 'aliasing' needs a size: this checkpoint's judge.json has no frame_size")
            return suite_rows(options.pop("rows"), **options), suite_loader(size), narrate_zoom
        if source == "annotations":
            cache = options.pop("cache_dir", None)
            rows = footage_rows(options.pop("path"), judge=judge, **options)
            return rows, footage_loader(judge, cache), partial(narrate_footage, wording=judge.prompts)
    except (KeyError, TypeError) as error:
        raise ValueError(f"data: {error}; see reward_model.training.active.videos") from None
    raise ValueError(f"data: source={source!r} must be 'aliasing' or 'annotations'")


def narrate_footage(truth: VideoAnnotation, indices: Sequence[int], *, wording: str = "paper") -> TurnReport:
    """The answer of a script about annotated footage: what the annotation says of these frames."""
    return plain_report(targets_of(truth, "zoom", indices), len(indices), boxes=True, wording=wording)


def describe_active_run(trainer: ActiveTrainer, settings: Mapping[str, Any]) -> str:
    """Description of a run for the terminal."""
    config, judge = trainer.config, trainer.judge_config
    parameters = list(trainer.policy.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    source = settings["data"].get("source")
    return "\n".join(
        [
            f"active evidence: {settings['model']}",
            f"  data        {len(trainer.dataset)} rows ({source})",
            f"  cold start  {config.cold_steps} updates of {config.cold_batch} scripted episodes, learning rate "
            f"{config.cold_learning_rate:g}",
            f"  rounds      {config.rounds} of {config.round_videos} + {config.held_out_videos} videos x "
            f"{config.num_generations} episodes ({config.num_branches} branches, {config.num_at_once} at once), "
            f"{config.round_steps} updates of {config.pairs_per_step} pairs, learning rate {config.learning_rate:g}",
            f"  an episode  first view at {judge.start_fps:g} fps, at most {judge.max_operators} operators, "
            f"{judge.max_episode_frames} frames, {judge.max_view_frames} in a view",
            f"  processes   {trainer.accelerator.num_processes}, a whole model in each",
            f"  trained     {trained:,} of {sum(p.numel() for p in parameters):,} parameters"
            + (" (LoRA)" if config.use_lora else ""),
            f"  output      {config.output_dir} (from step {trainer.step})",
        ]
    )


def active_plan_config(settings: Mapping[str, Any]) -> PlanConfig:
    """Settings of the plan that ``--dry-run`` prints; ``plan`` in the settings may name fields of
    :class:`~reward_model.training.plan.PlanConfig`. A sample is the training pass of one episode: as many frames as it
    may show, an answer about a view, and the text around them.

    Raises:
        ValueError: if a setting is unknown or wrong.
    """
    from reward_model.training.plan import PlanConfig

    config, model = config_of(settings), settings.get("model")
    known = dict(settings.get("plan") or {})
    folder = isinstance(model, str) and Path(model).is_dir()
    judge = config.asked(
        (load_judge_config(str(model)) if folder else JudgeConfig()).override(**(settings.get("judge") or {}))
    )
    gpus = int(known.get("num_gpus", 8))
    # Cold start and rounds in updates of one size: scripted episodes, and both episodes of a pair.
    samples = config.cold_steps * config.cold_batch + config.rounds * config.round_steps * config.pairs_per_step * 2
    defaults = {
        "model": model,
        "lora_r": config.lora_r if config.use_lora else None,
        "steps": config.max_steps,
        "accumulation": max(1, round(samples / config.max_steps / max(1, gpus))),
        "num_gpus": gpus,
        "num_frames": judge.max_episode_frames,
        "answer_tokens": judge.answer_limit(2, judge.max_view_frames),
        "gradient_checkpointing": config.gradient_checkpointing,
        "drawn_at_once": 0 if config.use_vllm else min(config.generation_batch_size, config.num_generations),
        "vllm_share": config.vllm_gpu_memory_utilization if config.use_vllm and gpus else 0.0,
    }
    try:
        return PlanConfig(stage="active evidence", **{**defaults, **known})
    except TypeError as error:
        raise ValueError(f"plan: {error}; its fields are those of reward_model.training.plan.PlanConfig") from None


def drawing_note(settings: Mapping[str, Any]) -> str:
    """A line on what rounds draw, which comes on top of the plan."""
    config = config_of(settings)
    videos = config.round_videos + config.held_out_videos
    episodes = config.rounds * videos * config.num_generations
    return (
        f"One sample is one episode's training pass. Drawing comes on top: {config.rounds} rounds x {videos} videos x "
        f"{config.num_generations} episodes = {episodes:,} episodes, each of up to one more turn than it has operators."
    )
