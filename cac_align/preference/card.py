"""The model card of a LoRA trained on preference pairs: what it is, how it is used, what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cac_align.flow_grpo.card import base_words, comfyui_words, loading_lines, write_lora_card
from cac_align.preference.config import PreferenceConfig
from reward_model.engine.card import plain_table

BODY = """# {title} LoRA of {model}

LoRA of rank {rank}, trained on {num_pairs} {what} ({method}, cac-align): {steps} steps of {batch}, videos of {frames}
frames, {height}x{width}.{base}

```python
from diffusers import {pipeline}

pipe = {pipeline}.from_pretrained("{model}")
{loading}
```

{comfyui}

{measured}

Which video of a pair is the better one was said by models, which err: a pair told right does not prove a better
video. `settings.yaml` beside this file holds every setting of the run.
"""
_METHODS = {
    "dpo": ("DPO", "pairs of a chosen and a rejected video", "flow-matching DPO, beta {beta:g}{where}"),
    "sft": ("Fine-tuned", "chosen videos", "supervised fine-tuning with the flow-matching loss"),
}
#: Numbers of a measurement -> what the table calls them.
_MEASURED = {
    "accuracy": "pairs told right",
    "margin": "margin",
    "chosen_gain": "gain on chosen",
    "rejected_gain": "gain on rejected",
}


def write_preference_card(
    folder: Path,
    config: PreferenceConfig,
    *,
    pipeline: str,
    steps: int,
    num_pairs: int,
    num_eval_pairs: int,
    history: Sequence[Mapping[str, float]],
    experts: bool = False,
) -> Path:
    """``README.md`` with the hub's metadata, and ``settings.yaml``.

    Args:
        folder: folder of the LoRA.
        config: settings of the run.
        pipeline: class of the pipeline.
        steps: steps trained.
        num_pairs, num_eval_pairs: pairs (or winners) that were trained on, and those that were measured.
        history: measurements, the first one first.
        experts: whether there are two adapters, one for each expert.
    """
    title, what, method = _METHODS[config.objective]
    where = ", localised" if config.localised else ""
    body = BODY.format(
        title=title,
        what=what,
        method=method.format(beta=config.beta, where=where),
        model=config.model,
        pipeline=pipeline,
        loading=loading_lines(folder, config, experts),
        base=base_words(config),
        rank=config.lora_r,
        steps=steps,
        batch=config.batch_size,
        num_pairs=num_pairs,
        frames=config.num_frames,
        height=config.height,
        width=config.width,
        comfyui=comfyui_words(config, experts),
        measured=_measured(history, num_eval_pairs),
    )
    tags = ["dpo"] if config.objective == "dpo" else ["supervised-fine-tuning"]
    return write_lora_card(folder, config, body, task="text-to-video", tags=tags)


def _measured(history: Sequence[Mapping[str, float]], num_pairs: int) -> str:
    """The first and the last measurement as a table, or the plain statement that there is none."""
    if not history:
        return "No pairs were measured that it was not trained on."
    entries = [history[0], *([history[-1]] if len(history) > 1 else [])]
    rows = [[f"{e['step']:.0f}", *(f"{e[name]:.4g}" for name in _MEASURED)] for e in entries]
    table = plain_table(("after step", *_MEASURED.values()), rows)
    return (
        f"Of {num_pairs} pairs that it was not trained on; gains are those over the model without the LoRA in the "
        f"flow-matching error:\n\n{table}"
    )
