"""From a settings file to a trainer of stage 3: model, data, fast vision path; and the plan that is printed first."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_model.backends.checkpoint import settings_folder
from reward_model.backends.source import announce_demo_scale
from reward_model.chunks import scan_grids
from reward_model.config import JUDGE_FILE, OF_THE_WEIGHTS, JudgeConfig, judge_json, load_judge_config
from reward_model.engine.trackers import check_reporters
from reward_model.evidence.opening import RefereeSettings, open_referee
from reward_model.evidence.referee import OracleReferee, Referee
from reward_model.extras import need
from reward_model.rewards import ANNOTATED, Need, RewardConfig, check_reward_needs
from reward_model.schema import VideoAnnotation
from reward_model.training.grpo.config import OWN, GrpoConfig
from reward_model.training.grpo.labels import VIDEO_LEVEL, check_labels, given_by, told
from reward_model.training.grpo.rows import VisionInputs
from reward_model.training.grpo.trainer import GrpoTrainer
from reward_model.training.grpo.videos import (
    Load,
    annotated_loader,
    annotated_rows,
    chunk_loader,
    facts_of_rows,
    world_loader,
    world_rows,
)

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

    from reward_model.training.plan import PlanConfig

log = logging.getLogger(__name__)

GIB = 2**30
#: Model and processor -> a faster way from frames to patches, and the block in which the model takes them.
FastVision = Callable[[Any, Any], tuple[VisionInputs, AbstractContextManager[None]]]


@contextmanager
def open_trainer(settings: Mapping[str, Any], *, fast_vision: FastVision | None = None) -> Iterator[GrpoTrainer]:
    """The trainer a settings file describes, ready within the block; the fast vision path ends with it.

    Args:
        settings: settings of the file.
        fast_vision: taken where the settings say ``fast_vision``; without one, frames go through the stock processor,
            with the same result.

    Raises:
        ValueError: if a setting is unknown or wrong; the message names it.
    """
    need("datasets", "stage 3")
    own = {k: settings[k] for k in OWN if k in settings}
    config = GrpoConfig.from_dict({k: v for k, v in settings.items() if k not in OWN})
    check_reporters(config.report_to)
    for name in ("model", "data"):
        if name not in own:
            raise ValueError(f"the settings must name {name!r}; see recipes/configs/stage3/mini.yaml")
    refereed = RefereeSettings.of(own["referee"]) if own.get("referee") else None
    known = load_judge_config(settings_folder(own["model"]))
    announce_demo_scale(own["model"], known.demo_scale)
    judge = known.override(**own.get("judge", {}))
    rows, load, given = _data(own["data"], judge)
    _check_reward(config.reward_config(judge), given, own["data"], refereed)
    check_limits(known, config.asked(judge), longest_scan(rows, load, judge))
    referee = _referee(config, refereed)
    model, processor = _load(own)
    fast: VisionInputs | None = None
    block: AbstractContextManager[None] = nullcontext()
    if own.get("fast_vision"):
        if fast_vision is None:
            log.warning("fast_vision: none is given to open_trainer, so frames go through the stock processor")
        else:
            fast, block = fast_vision(model, processor)
    with block:  # before the trainer copies the model: the reference has to see frames the same way
        trainer = GrpoTrainer(model, processor, rows, load, config, judge, vision_inputs=fast, referee=referee)
        trainer.judge_file = judge_file(own["model"], trainer.judge_config)
        yield trainer


def plan_config(settings: Mapping[str, Any]) -> PlanConfig:
    """Settings of the plan that ``--dry-run`` prints; ``plan`` in the settings may name ``model``, ``num_gpus``,
    ``peak_tflops`` and other fields of :class:`~reward_model.training.plan.PlanConfig`; no GPU (0) is a CPU.

    A step is counted as the training passes of its rollouts, each as long as a scan; drawing them and the reference
    pass come on top. Memory is reckoned for the longest answers: about a clip of ``max_zoom_frames``.

    Raises:
        ValueError: if a setting is unknown or wrong.
    """
    from reward_model.training.plan import PlanConfig

    config = GrpoConfig.from_dict({k: v for k, v in settings.items() if k not in OWN})
    data, named = settings.get("data") or {}, settings.get("referee")
    told = VIDEO_LEVEL if data.get("labels") == "video" else ANNOTATED  # files are not opened to plan
    _check_reward(config.reward_config(), told, data, RefereeSettings.of(named) if named else None)
    known = dict(settings.get("plan") or {})
    judge = _judge_of(settings.get("model"), settings.get("judge", {}), config)
    scan_frames = int(known.get("num_frames", PlanConfig.num_frames))
    lengths = _longest_answers(judge, scan_frames)
    if "answer_tokens" in known:
        lengths |= {"longest_frames": None, "longest_answer": None}
    defaults = {
        **({"model": settings["model"]} if settings.get("model") else {}),
        "lora_r": config.lora_r if config.use_lora else None,
        "steps": config.max_steps,
        "gradient_checkpointing": config.gradient_checkpointing,
        "reference": bool(config.beta) and not config.use_lora,
        "host_copies": 2 if config.beta and not config.use_lora else 1,
        **_drawing(config, int(known.get("num_gpus", 8)), sum(_answer_limits(judge, scan_frames))),
        **lengths,
    }
    try:
        return PlanConfig(stage="stage3", **{**defaults, **known})
    except TypeError as error:
        raise ValueError(f"plan: {error}; its fields are those of reward_model.training.plan.PlanConfig") from None


def _answer_limits(judge: JudgeConfig, scan_frames: int) -> tuple[int, int]:
    """Most tokens of both turns' answers, turn two's about the longest clip; 0 without a turn two."""
    zoom = judge.answer_limit(2, judge.max_zoom_frames) if judge.num_turns == 2 else 0
    return judge.answer_limit(1, scan_frames), zoom


def _longest_answers(judge: JudgeConfig, scan_frames: int) -> dict[str, Any]:
    """Settings of a plan about lengths."""
    limits = _answer_limits(judge, scan_frames)
    longest = judge.max_zoom_frames if judge.num_turns == 2 else scan_frames
    return {"answer_tokens": limits[0], "longest_frames": longest, "longest_answer": max(limits)}


def _drawing(config: GrpoConfig, gpus: int, tokens: int) -> dict[str, Any]:
    """Settings of a plan about GPUs and the rollouts they draw, ``tokens`` each."""
    rollouts, processes = config.prompts_per_step * config.num_generations, max(1, gpus)
    each = math.ceil(rollouts / processes)
    drawn = min(config.generation_batch_size, each)
    return {
        "num_gpus": gpus,
        "accumulation": max(1, math.ceil(rollouts * config.num_iterations / processes)),
        "drawn_tokens": math.ceil(each / drawn) * tokens if gpus > 1 else 0,
        "drawn_at_once": 0 if config.use_vllm else drawn,
        "vllm_share": config.vllm_gpu_memory_utilization if config.use_vllm and gpus else 0.0,
    }


def _judge_of(model: PreTrainedModel | str, changes: Mapping[str, Any], config: GrpoConfig) -> JudgeConfig:
    """Settings the judge will have, as far as they are known before its checkpoint exists."""
    known = load_judge_config(model) if isinstance(model, str) else JudgeConfig()
    return config.asked(known.override(**changes))


def judge_file(model: str, judge: JudgeConfig) -> str:
    """The text of the trained judge's ``judge.json``: that of the checkpoint it started from, with how it was asked."""
    path = settings_folder(model) / JUDGE_FILE
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    # An older name of the limits that follow; what stage 3 states itself; what is left out where it is the paper's; and
    # bounds that were calibrated for the weights before training.
    for name in ("max_new_tokens", "trained_on", "track", "track_smoothing", *OF_THE_WEIGHTS):
        known.pop(name, None)
    return json.dumps({**known, **json.loads(judge_json(replace(judge, trained_on=None)))}, indent=2) + "\n"


def longest_scan(rows: Dataset, load: Load, judge: JudgeConfig) -> int:
    """Frames of the longest scan of these rows."""
    lengths = {(count, fps) for count, fps, _, _ in facts_of_rows(rows, load)}
    return max(len(grid) for length, rate in lengths for grid in scan_grids(length, rate, judge))


def check_limits(known: JudgeConfig, asked: JudgeConfig, scan_frames: int) -> None:
    """No answer that the earlier stages taught is cut: a cut answer is invalid, and would be trained away.

    Args:
        known: the checkpoint's own settings.
        asked: those of the training.
        scan_frames: frames of the longest scan.

    Raises:
        ValueError: if a limit lies below the checkpoint's.
    """
    for turn, name, frames in ((1, "max_scan_tokens", scan_frames), (2, "max_zoom_tokens", asked.max_zoom_frames)):
        limit, needed = asked.answer_limit(turn, frames), known.answer_limit(turn, frames)
        if limit < needed:
            raise ValueError(
                f"{name}={limit} is below the {needed} tokens that the checkpoint was taught to write about {frames} "
                f"frames; cut answers would count as invalid. Set {name} to null, which takes the checkpoint's limit"
            )


def _load(own: Mapping[str, Any]) -> tuple[Any, Any]:
    """Model on the CPU (accelerate places it) and processor."""
    from reward_model.backends.checkpoint import load_checkpoint
    from reward_model.backends.devices import torch_dtype

    dtype = torch_dtype(own.get("dtype", "float32"))
    return load_checkpoint(own["model"], dtype=dtype, attn_implementation=own.get("attn_implementation") or None)


def _data(data: Mapping[str, Any], judge: JudgeConfig) -> tuple[Any, Load, frozenset[Need]]:
    """Rows, their loader and what they tell of their videos: ``source: world`` (what :func:`world_rows` takes: rows,
    kinds, seed, seeds, stories) or ``source: annotations`` (cache_dir, and what :func:`annotated_rows` takes: path,
    disjoint, held_out, rows, seed, split, video_root). ``labels: video`` keeps video-level labels alone.
    """
    options = dict(data)
    source, labels = options.pop("source", None), options.pop("labels", "full")
    check_labels(labels)
    if source == "world":
        size = options.pop("size", None) or judge.frame_size
        if not size:
            raise ValueError("data: source 'world' needs a size: this checkpoint's judge.json has no frame_size")
        given = VIDEO_LEVEL if labels == "video" else ANNOTATED
        try:
            rows = world_rows(options.pop("rows"), judge=judge, **options)
        except (KeyError, TypeError) as error:
            raise ValueError(f"data: {error}; see reward_model.training.grpo.videos.world_rows") from None
        return rows, told(chunk_loader(world_loader(size), judge), given), given
    if source == "annotations":
        cache = options.pop("cache_dir", None)
        try:
            rows = annotated_rows(options.pop("path"), judge=judge, labels=labels, **options)
        except (KeyError, TypeError) as error:
            raise ValueError(f"data: {error}; see reward_model.training.grpo.videos.annotated_rows") from None
        given = given_by(VideoAnnotation.from_dict(json.loads(text)) for text in set(rows["truth"][:]))
        return rows, told(annotated_loader(judge, cache), given), given
    raise ValueError(f"data: source={source!r} must be 'world' or 'annotations'")


def _check_reward(
    config: RewardConfig, given: frozenset[Need], data: Mapping[str, Any], referee: RefereeSettings | None
) -> None:
    """The data tells what the reward needs, and what its referee does.

    Raises:
        ValueError: if it does not.
    """
    source = _source(data)
    check_reward_needs(config, given | ({"referee"} if referee is not None else set()), source)
    if not config.weights.ser or referee is None or referee.kind != "oracle":
        return
    if not OracleReferee.needs <= given:
        raise ValueError(
            f"the oracle grades by true windows and boxes: {source} has none. Name another kind of referee"
        )


def _referee(config: GrpoConfig, settings: RefereeSettings | None) -> Referee | None:
    """The referee of a training; its answers are kept beside the log, those of each process in a file of its own."""
    if settings is None or not config.weight_ser:
        return None
    import torch

    if settings.device is None and torch.cuda.is_available():
        settings = replace(settings, device=f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    rank = os.environ.get("RANK", "0")
    return open_referee(settings, Path(config.output_dir) / "referee" / f"answers-{rank}.jsonl")


def _source(data: Mapping[str, Any]) -> str:
    """The data as a message names it."""
    name = str(data.get("path") or f"data of source {data.get('source')}")
    return f"{name} (labels: video)" if data.get("labels") == "video" else name


def describe_run(trainer: GrpoTrainer, settings: Mapping[str, Any]) -> str:
    """Description of a run for the terminal. Memory is arithmetic on weights, gradients and AdamW's moments;
    activations come on top.
    """
    config, world = trainer.config, trainer.accelerator.num_processes
    parameters = list(trainer.policy.parameters())
    total = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    weights = sum(p.numel() * p.element_size() for p in parameters)
    training = sum(3 * p.numel() * p.element_size() for p in parameters if p.requires_grad)
    reference = weights if config.beta and not config.use_lora else 0
    memory = (weights + training + reference) / GIB
    rollouts = config.prompts_per_step * config.num_generations
    judge, epochs = trainer.judge_config, config.max_steps * config.prompts_per_step / len(trainer.dataset)
    return "\n".join(
        [
            f"stage 3, two-turn GRPO of {settings['model']}",
            f"  data        {len(trainer.dataset)} rows ({settings['data'].get('source')})",
            f"  rollouts    {config.prompts_per_step} prompts x {config.num_generations} = {rollouts} a step over "
            f"{world} process(es), at most {judge.max_scan_tokens} and {judge.max_zoom_tokens} new tokens"
            + (f", by vLLM on {config.vllm_gpu_memory_utilization:.0%} of each GPU" if config.use_vllm else ""),
            f"  steps       {config.max_steps}, {config.num_iterations} update(s) each, learning rate "
            f"{config.learning_rate:g}; {epochs:.2f} epochs",
            f"  trained     {trained:,} of {total:,} parameters" + (" (LoRA)" if config.use_lora else ""),
            f"  memory      {memory:.2f} GiB of weights, gradients, optimiser and reference, before activations and "
            "sharding",
            f"  output      {config.output_dir} (from step {_last_step(config)})",
        ]
    )


def _last_step(config: GrpoConfig) -> int:
    from reward_model.engine.checkpoints import last_checkpoint

    last = last_checkpoint(Path(config.output_dir))
    return int(last.name.rpartition("-")[2]) if last else 0
