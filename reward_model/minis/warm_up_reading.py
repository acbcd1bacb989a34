"""A stand-in for a pretrained language model: the mini first learns to follow a video, frame by frame.

The full-size recipe starts from a model that can read; the mini starts from noise, and what it sees in a frame has to
come together at the frame's mark before any sentence can look it up. Throw-away heads ask for it twice: on every mark
behind its picture, what this frame shows and what has changed since the one before; and on the same marks repeated
after the video in any order, where it has to be found again. That is an answer for each frame at once, where a written
answer tells the model of an event in one word of sixty. This is not part of the paper's recipe.

The marks are those of the drawn world, or of annotated videos (``annotated_marks``).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from reward_model.conversation import Conversation
from reward_model.data.example import IGNORE, Example
from reward_model.engine.checkpoints import fingerprint
from reward_model.engine.muon import MuonAdamW, divide_parameters
from reward_model.minis.collator import MiniCollator, use_equal_images
from reward_model.minis.gradients import average_gradients, share_of
from reward_model.minis.rows import draw_rows, make_example
from reward_model.minis.warm_up_state import WarmupState
from reward_model.world.kinds import KINDS
from reward_model.world.narration import NORMAL_STATE, read_states
from reward_model.world.scripts import SHIFTED

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

#: What a mark is asked for: nothing, or a kind.
NAMES = ("", *KINDS)
#: Kinds that are an event: they show where they begin and end.
_EVENTS = ("vanish", "appear", "teleport", "change")
#: Kinds of video, cycled through within a step.
_TURNS = ("splice", "splice", "splice", "scan")


class Rates(NamedTuple):
    """Learning rates: weight matrices (Muon), the rest (AdamW), and the vision tower relative to both."""

    matrices: float
    rest: float
    tower: float


class Marks(NamedTuple):
    """Positions of tokens, a mask (N, L), and their labels, in that order."""

    places: torch.Tensor
    labels: torch.Tensor


class MarkedBatch(NamedTuple):
    """Inputs that end in a list of all marks in any order, each followed by the same words; the marks behind pictures,
    those of the list, and the tokens before each verdict with its first token, where it is asked for.
    """

    inputs: dict[str, torch.Tensor]
    shown: Marks
    asked: Marks
    said: Marks | None = None


class MarkSource(Protocol):
    """Videos whose marks are known: how many labels a mark can have, how fast to learn them, what must be equal for a
    stopped warm-up to be continued, the videos of a step, and batch ``k`` of a process.
    """

    num_labels: ClassVar[int]
    rates: ClassVar[Rates]
    batch: ClassVar[int]

    @property
    def run(self) -> Mapping[str, Any]: ...

    def batches(self, collator: MiniCollator, steps: int, batch: int, seed: int, rank: int) -> Dataset: ...


@dataclass(frozen=True)
class WorldMarks:
    """Procedural videos, a ``shifted`` share of which is shown under a drawn shift."""

    shifted: float = 0.0

    num_labels: ClassVar[int] = len(NAMES)
    rates: ClassVar[Rates] = Rates(matrices=0.01, rest=2e-3, tower=0.1)
    batch: ClassVar[int] = 32

    @property
    def run(self) -> Mapping[str, Any]:
        return {"shifted": self.shifted} if self.shifted else {}

    def batches(self, collator: MiniCollator, steps: int, batch: int, seed: int, rank: int) -> MarkedPrompts:
        return MarkedPrompts(collator, steps, batch, seed, rank, self.shifted)


def mark_labels(answer: str) -> list[int]:
    """Label of each mark, as indices of :data:`NAMES`, from the perfect answer to a scan.

    Of an event, the frame it begins at and the first after it (where things jump back); of a thing that hangs in the
    air, the frames at which it has not moved; of all other kinds, every frame that shows it.
    """
    kinds = read_states(answer)
    before = ["", *kinds]
    labels = []
    for now, last in zip(kinds, before, strict=False):
        if now in _EVENTS or last in _EVENTS:
            labels.append(now or last if now != last else "")
        else:
            labels.append("" if now == "float" and last != "float" else now)
    return [NAMES.index(kind) for kind in labels]


def warm_up_reading(
    model: PreTrainedModel,
    collator: MiniCollator,
    *,
    steps: int,
    source: MarkSource | None = None,
    batch: int | None = None,
    seed: int = 0,
    num_workers: int = 0,
    state_file: Path | None = None,
    progress: bool = False,
) -> float:
    """Trains the whole model in place; returns the share of anomalous frames that are found again at the end.

    Where ``torch.distributed`` is set up, processes share the batch, each draws its own, and gradients are averaged.

    Args:
        model: the mini judge, its vision tower warmed up.
        collator: lays out prompts as the model takes them.
        steps: optimiser steps; rates rise for 3 % of them and fall over the last 40 %.
        source: the videos; by default those of the drawn world.
        batch: videos of a step, of all processes together; by default as many as the source advises.
        seed: seed of the videos and the heads.
        num_workers: processes that draw videos ahead (0: this one); the result does not depend on it.
        state_file: where the state is kept now and then; a stopped warm-up continues from it, bit for bit on a CPU.
        progress: show a bar with the time left.
    """
    source = source or WorldMarks()
    rank, batch = share_of(batch or source.batch)
    run = {"steps": steps, "batch": batch, "seed": seed, "start": fingerprint(model), **source.run}
    torch.manual_seed(seed)
    width, depth = model.config.text_config.hidden_size, model.config.text_config.num_hidden_layers
    # Marks behind pictures from where frames have been compared, marks that are asked for at the end.
    layers = [*range(2, max(3, depth)), depth]
    heads = nn.ModuleList(nn.Linear(width, source.num_labels) for _ in layers)
    named = [*model.named_parameters(), *((f"heads.{name}", p) for name, p in heads.named_parameters())]
    optimizer = MuonAdamW(_groups(named, source.rates))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / (0.03 * steps), max(0.02, (1 - step / steps) / 0.4))
    )
    state = WarmupState(state_file, {"model": model, "heads": heads}, [optimizer], [schedule], run)
    first, right = state.load()
    prompts = source.batches(collator, steps, batch, seed, rank)
    drawn = DataLoader(prompts, batch_size=None, sampler=range(first, steps), num_workers=num_workers)
    bar = tqdm(drawn, "reading warm-up", total=steps, initial=first, disable=not progress or rank != 0)
    model.train()
    with use_equal_images(model), logging_redirect_tqdm():
        for step, marked in enumerate(bar, first):
            loss, logits = _loss(model, heads, layers, marked)
            optimizer.zero_grad()
            loss.backward()
            average_gradients([p for _, p in named])
            nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
            optimizer.step()
            schedule.step()
            wrong = marked.asked.labels > 0
            share = (logits.argmax(-1) == marked.asked.labels)[wrong].float().mean().item() if wrong.any() else right
            right += 0.05 * (share - right)
            if rank == 0 and (step % 25 == 0 or step == steps - 1):
                log.info("reading warm-up step %d/%d: loss %.3f, found right %.3f", step, steps, loss.item(), right)
            state.keep(step + 1, right)
    model.eval()
    return right


def _loss(
    model: PreTrainedModel, heads: nn.ModuleList, layers: Sequence[int], marked: MarkedBatch
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of all that is asked, and the last head's answers to the marks of the list, (marks, labels)."""
    inputs, shown, asked, said = marked
    out = model.model(**inputs, use_cache=False, output_hidden_states=True)
    states = out.hidden_states
    guesses = [head(states[k][shown.places]) for head, k in zip(heads[:-1], layers, strict=False)]
    logits = heads[-1](states[layers[-1]][asked.places])
    loss = torch.stack([cross_entropy(guess, shown.labels) for guess in guesses]).mean()
    loss = loss + cross_entropy(logits, asked.labels)
    if said is not None:
        loss = loss + cross_entropy(model.lm_head(out.last_hidden_state[said.places]), said.labels)
    return loss, logits


def _groups(named: list[tuple[str, nn.Parameter]], rates: Rates) -> list[dict[str, Any]]:
    tables = ("embed_tokens", "lm_head", "pos_embed", "heads.")
    tower = [(name, p) for name, p in named if ".visual." in name]
    rest = [(name, p) for name, p in named if ".visual." not in name]
    return [
        *divide_parameters(rest, lr=rates.matrices, adam_lr=rates.rest, adam_names=tables),
        *divide_parameters(tower, lr=rates.matrices * rates.tower, adam_lr=rates.rest * rates.tower, adam_names=tables),
    ]


class MarkedPrompts(Dataset):
    """Batch ``k`` of process ``rank`` of procedural videos."""

    def __init__(
        self, collator: MiniCollator, steps: int, batch: int, seed: int, rank: int, shifted: float = 0.0
    ) -> None:
        self.stories = {SHIFTED: shifted} if shifted else {}
        self.collator, self.steps, self.batch, self.seed, self.rank = collator, steps, batch, seed, rank
        self.marks = mark_tokens(collator.processor.tokenizer)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> MarkedBatch:
        rng = np.random.default_rng([self.seed, step, self.rank])
        tasks = [_TURNS[k % len(_TURNS)] for k in range(self.batch)]
        rows = [{**row, "cot": True} for row in draw_rows(tasks, seed=int(rng.integers(2**31)), stories=self.stories)]
        examples = [make_example(row) for row in rows]
        labels = [mark_labels(e.answer) for e in examples]
        return marked_batch(self.collator, self.marks, [e.conversation for e in examples], labels, rng)


def marked_batch(
    collator: MiniCollator,
    known: torch.Tensor,
    conversations: Sequence[Conversation],
    labels: Sequence[Sequence[int]],
    rng: np.random.Generator,
    *,
    before: str = "",
) -> MarkedBatch:
    """Questions about videos and the labels of their frames as a batch.

    Args:
        known: :func:`mark_tokens`.
        before: is written before each list.
    """
    orders = [rng.permutation(len(found)) for found in labels]
    lists = [before + "".join(f" Frame {k}: {NORMAL_STATE}" for k in order) for order in orders]
    collate = MiniCollator(collator.processor, lambda example: example)  # type: ignore[arg-type,return-value]
    examples: list[Any] = [Example(c, text) for c, text in zip(conversations, lists, strict=True)]
    inputs = collate(examples)
    listed = inputs.pop("labels") != IGNORE
    marks = torch.isin(inputs["input_ids"], known)
    if int(marks.sum()) != 2 * sum(map(len, labels)):
        raise RuntimeError(f"{int(marks.sum())} marks for twice {sum(map(len, labels))} frames")
    shown = Marks(marks & ~listed, torch.tensor([k for found in labels for k in found]))
    again = [found[k] for found, order in zip(labels, orders, strict=True) for k in order]
    return MarkedBatch(inputs, shown, Marks(marks & listed, torch.tensor(again)))


def mark_tokens(tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """Ids of the tokens that are a frame's mark."""
    return torch.tensor([i for i in tokenizer.get_vocab().values() if _is_mark(tokenizer, i)])


def _is_mark(tokenizer: PreTrainedTokenizerBase, token: int) -> bool:
    """True if a token is ``Frame <number>:``."""
    text = tokenizer.decode([token]).strip()
    return text.startswith("Frame ") and text.endswith(":") and text[6:-1].isdigit()
