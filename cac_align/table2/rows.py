"""The rows of a table: kinds of generators, their rewards, and how their videos are drawn."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from cac_align.flow_grpo.judging.reward_specs import RewardSpec, read_specs
from reward_model.terminal.described import as_declared, check_settings, setting


@dataclass(frozen=True)
class TableRow:
    """One row of the table.

    Attributes:
        name: as the table shows it.
        kind: ``base`` (candidate 0 of the untouched model), ``best_of_n`` (the best of its candidates), ``flow_grpo``
            (a LoRA for each training seed) or ``lora`` (the same, trained elsewhere).
        rewards: with their weights; what chooses, or what is trained on.
        combination: ``scores``: the weighted mean of the scores (the paper's); ``advantages``: each reward standardised
            in its group first.
        overrides: settings of Flow-GRPO that are this row's own.
        num_inference_steps, guidance_scale: of its videos, not of its training; None: the table's.
        n: candidates of ``best_of_n``; None: the table's. 1 needs no reward: it is the same generator, drawn otherwise.
        of: name of the trained row whose candidates ``best_of_n`` chooses from; None: those of the untouched model.
        loras: of ``lora``, a folder or file for each training seed.
    """

    name: str
    kind: Literal["base", "best_of_n", "flow_grpo", "lora"]
    rewards: tuple[RewardSpec, ...] = ()
    combination: Literal["scores", "advantages"] = "scores"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    num_inference_steps: int | None = setting(None, least=2)
    guidance_scale: float | None = setting(None, least=1, hint="1 turns guidance off")
    n: int | None = setting(None, least=1)
    of: str | None = None
    loras: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        try:
            check_settings(self)
        except ValueError as error:
            raise ValueError(f"row {self.name!r}: {error}") from None
        self._check_rewards()
        for name, kind in (("overrides", "flow_grpo"), ("n", "best_of_n"), ("of", "best_of_n"), ("loras", "lora")):
            if (value := getattr(self, name)) and self.kind != kind:
                raise ValueError(
                    f"row {self.name!r}: {name}={value!r} belongs to rows of kind {kind} only, not {self.kind}"
                )
        if self.kind == "lora" and not self.loras:
            raise ValueError(f"row {self.name!r} of kind lora must have loras, a folder for each of train_seeds")

    def _check_rewards(self) -> None:
        without, one = self.kind in ("base", "lora"), self.kind == "best_of_n" and self.n == 1
        if without == bool(self.rewards) and not one:
            needed = "no rewards" if without else "rewards"
            raise ValueError(f"row {self.name!r} of kind {self.kind} must have {needed}")
        if self.rewards and not any(r.weight > 0 for r in self.rewards):
            raise ValueError(f"row {self.name!r}: no reward has a weight above 0")

    @property
    def slug(self) -> str:
        """The name as a folder."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower().replace("+", " plus ")).strip("-")

    @property
    def has_loras(self) -> bool:
        """True if the row brings adapters."""
        return self.kind in ("flow_grpo", "lora")

    @property
    def trained(self) -> bool:
        """True if its videos are those of adapters, its own or another row's."""
        return self.has_loras or self.of is not None


def read_row(entry: object, known: Mapping[str, RewardSpec]) -> TableRow:
    """The row of an entry of ``rows``.

    Args:
        entry: a mapping.
        known: rewards of the table by name.

    Raises:
        ValueError: if it is not a mapping, or something in it is unknown or wrong.
    """
    keys = sorted(f.name for f in fields(TableRow))
    if not isinstance(entry, Mapping) or set(entry) - set(keys) or not isinstance(entry.get("name"), str):
        raise ValueError(f"row {entry!r} must be a mapping of {', '.join(keys)} with at least 'name'")
    name, loras = entry["name"], entry.get("loras") or ()
    own = {
        **entry,
        "kind": entry.get("kind", "base"),
        "rewards": tuple(_row_reward(name, r, known) for r in entry.get("rewards") or ()),
        "overrides": entry.get("overrides") or {},
        "loras": tuple(loras) if isinstance(loras, list) else loras,
    }
    return TableRow(**as_declared(TableRow, own))


def _row_reward(row: str, entry: object, known: Mapping[str, RewardSpec]) -> RewardSpec:
    """A reward of a row: a name of ``rewards``, alone or with a weight."""
    name = str(entry.get("reward") if isinstance(entry, Mapping) else entry)
    if name not in known or (isinstance(entry, Mapping) and set(entry) - {"reward", "weight"}):
        raise ValueError(
            f"row {row!r}: reward {entry!r} must be one of {', '.join(known)}, or a mapping of 'reward' and 'weight'"
        )
    spec = known[name]
    weight = entry.get("weight", 1.0) if isinstance(entry, Mapping) else 1.0
    [checked] = read_specs([{"reward": spec.target, "name": spec.name, "weight": weight, "options": spec.options}])
    return checked


def check_table_rows(rows: list[TableRow], train_seeds: int) -> None:
    """Rules between the rows of a table.

    Args:
        rows: all of them, in order.
        train_seeds: number of training seeds.

    Raises:
        ValueError: if the first is not a base, two have the same name, a row refers to one that is not there, or the
            adapters are not one for each training seed.
    """
    if not rows or rows[0].kind != "base":
        raise ValueError("rows must begin with one of kind 'base', which the others are compared with")
    slugs = [r.slug for r in rows]
    if len(set(slugs)) < len(slugs) or not all(slugs):
        raise ValueError(f"rows are named {[r.name for r in rows]}: every name needs letters of its own")
    _check_bases([row for row in rows if row.kind == "base"])
    _check_adapted(rows, train_seeds)


def _check_bases(bases: list[TableRow]) -> None:
    """Raises ValueError if two rows of kind ``base`` are drawn alike."""
    drawn: dict[tuple[int | None, float | None], str] = {}
    for row in bases:
        like = drawn.setdefault((row.num_inference_steps, row.guidance_scale), row.name)
        if like != row.name:
            raise ValueError(
                f"row {row.name!r} is drawn as row {like!r} is; give it num_inference_steps or guidance_scale"
            )


def _check_adapted(rows: list[TableRow], train_seeds: int) -> None:
    """Raises ValueError if a row chooses among videos of one without adapters, or does not bring one for each training
    seed.
    """
    adapted = {word: row for row in rows if row.has_loras for word in (row.name, row.slug)}
    for row in rows:
        if row.of is not None and row.of not in adapted:
            there = ", ".join(repr(r.name) for r in rows if r.has_loras) or "none"
            raise ValueError(
                f"row {row.name!r}: of={row.of!r} must name a row of kind flow_grpo or lora; there is {there}"
            )
        if row.kind == "lora" and len(row.loras) != train_seeds:
            raise ValueError(
                f"row {row.name!r} has {len(row.loras)} loras for {train_seeds} train_seeds; name one for each"
            )
