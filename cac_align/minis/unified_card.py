"""The model card of unified-mini: what it is, what it was trained on, and what was measured on this very folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from cac_align.minis.unified_data import TEST_SEEDS, TRAIN_SEEDS
from cac_align.minis.unified_measure import Figure, Measurement
from cac_align.minis.unified_settings import UnifiedMiniConfig
from reward_model.files import write_text

TEMPLATE = Path(__file__).with_suffix(".md")


def write_unified_card(folder: Path, found: Measurement, config: UnifiedMiniConfig, *, judge: str, seed: int) -> None:
    """Writes ``README.md`` and ``measured.json`` beside the weights of ``folder``."""
    write_text(folder / "measured.json", json.dumps(asdict(found), indent=2) + "\n")
    write_text(
        folder / "README.md",
        TEMPLATE.read_text(encoding="utf-8").format(
            parameters=count_parameters(folder) / 1e6,
            example=TEST_SEEDS.start,
            samples=(config.max_steps + config.second_steps) * config.batch_size,
            judge="an untrained one" if judge in ("mini", "tiny") else f"`{judge}`'s",
            num=f"{found.num_asked:,}",
            unscored=found.num_unscored,
            first=TEST_SEEDS.start,
            low=TRAIN_SEEDS.start,
            high=TRAIN_SEEDS.stop - 1,
            steps=f"{config.max_steps:,}",
            second_steps=f"{config.second_steps:,}",
            second_rate=config.second_rate,
            seed=seed,
            batch_size=config.batch_size,
            matrix_lr=config.matrix_lr,
            learning_rate=config.learning_rate,
            vision_lr_scale=config.vision_lr_scale,
            spearman=_lines(found.spearman),
            prompts=_lines(found.prompts),
            damage=_lines(found.damage),
            anomalies=_lines(found.anomalies),
        ),
    )


def count_parameters(folder: Path) -> int:
    """The numbers in the folder's weights."""
    from safetensors import safe_open

    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118  (not a dictionary)
                size = 1
                for length in weights.get_slice(name).get_shape():
                    size *= length
                total += size
    return total


def _lines(figures: Mapping[str, Figure]) -> str:
    return "\n".join(
        f"| {name} | {f.value:.3f} [{f.interval.low:.3f}, {f.interval.high:.3f}] | {f.num} |"
        for name, f in figures.items()
    )
