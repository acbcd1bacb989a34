"""Stages 1 and 2: supervised fine-tuning of any Qwen3-VL judge on conversations and answers, with TRL's SFTTrainer.

An :class:`Example` is a conversation as :mod:`reward_model.prompts` renders it plus the canonical answer text; a data
set holds light rows and a ``load`` function turns a row into an example when a batch needs it. The loss is on the
answer alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, ProcessorMixin
from trl import SFTConfig, SFTTrainer

from reward_model.data.example import IGNORE, Example, read_ids
from reward_model.engine.guards import (
    GradientGuard,
    StopCallback,
    check_loss,
    last_complete_checkpoint,
    readable,
    save_or_explain,
)
from reward_model.engine.interrupts import StopRequest

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers.utils import ModelOutput

#: The trainer and a function that makes the stock optimiser -> the one to train with.
MakeOptimizer = Callable[["AnswerTrainer", Callable[[], torch.optim.Optimizer]], torch.optim.Optimizer]


@dataclass
class AnswerCollator:
    """Rows -> a padded batch with labels on the answer and its end token, through the stock processor.

    Args:
        processor: processor of the model that is trained.
        load: a row of the data set -> :class:`Example`.
    """

    processor: ProcessorMixin
    load: Callable[[Mapping[str, Any]], Example]

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        examples = [self.load(row) for row in rows]
        tokenizer = self.processor.tokenizer
        ends = [e.answer + tokenizer.eos_token for e in examples]
        texts = [
            self.processor.apply_chat_template(
                [m.to_chat() for m in e.conversation], add_generation_prompt=True, tokenize=False
            )
            + end
            for e, end in zip(examples, ends, strict=True)
        ]
        images = [part for e in examples for m in e.conversation for part in m.content if not isinstance(part, str)]
        batch = dict(self.processor(text=texts, images=images, padding=True, padding_side="right", return_tensors="pt"))
        labels = torch.full_like(batch["input_ids"], IGNORE)
        for i, end in enumerate(ends):
            length = int(batch["attention_mask"][i].sum())
            answer = tokenizer.encode(end, add_special_tokens=False)
            place = slice(length - len(answer), length)
            labels[i, place] = batch["input_ids"][i, place]
            if examples[i].read is not None:
                batch["input_ids"][i, place] = torch.tensor(read_ids(tokenizer, examples[i], answer))
        return {**batch, "labels": labels}


class AnswerTrainer(SFTTrainer):
    """SFTTrainer that projects the labelled positions only, on every device.

    The stock fused head does so where Triton runs and scores every position elsewhere, which on a CPU costs a third of
    the step when prompts are long and answers short. Same loss, same gradients.

    It stops at a loss or gradient that is not a number, and removes a checkpoint that could not be written whole
    (:mod:`reward_model.engine.guards`).
    """

    #: Whether the optimiser has been made; the Trainer asks for it more than once.
    _made = False

    def __init__(self, *args: Any, make_optimizer: MakeOptimizer | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.make_optimizer = make_optimizer
        self.add_callback(GradientGuard())

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """The stock optimiser, or that of ``make_optimizer``."""
        stock = partial(super().create_optimizer, *args, **kwargs)
        if self._made or self.make_optimizer is None:
            return stock()
        optimizer = self.make_optimizer(self, stock)
        self._made = True
        return optimizer

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        check_loss(loss, self.state.global_step, self.args.output_dir)
        return loss

    def _save_checkpoint(self, model: torch.nn.Module, trial: object) -> None:
        def save() -> None:
            super(AnswerTrainer, self)._save_checkpoint(model, trial)

        save_or_explain(save, self.args.output_dir, self.state.global_step)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, *args: Any, **kwargs: Any) -> None:
        with readable(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, *args, **kwargs)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with readable(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with readable(checkpoint):
            super()._load_rng_state(checkpoint)

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, ModelOutput]:
        if return_outputs or inputs["labels"].device.type != "cpu":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"][:, 1:]
        kept = labels != IGNORE
        # The forward must go through the wrapper: DistributedDataParallel averages no gradient of one that does not.
        head = self.accelerator.unwrap_model(model).get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, hidden: (hidden[0][:, :-1][kept],))
        try:
            logits = model(**{k: v for k, v in inputs.items() if k != "labels"}, use_cache=False).logits.float()
        finally:
            hook.remove()
        loss = torch.nn.functional.cross_entropy(logits, labels[kept], reduction="sum")
        mode = "train" if self.model.training else "eval"
        hits = (logits.argmax(-1) == labels[kept]).float().mean()
        self._metrics[mode]["mean_token_accuracy"].append(hits.item())
        if num_items_in_batch is None:
            return loss / kept.sum()
        # num_items_in_batch counts the answers of all processes, and gradients are averaged over them.
        together = self.args.average_tokens_across_devices
        return loss / num_items_in_batch * (self.accelerator.num_processes if together else 1)


#: ``SFTConfig`` arguments every stage shares.
SHARED: dict[str, Any] = {
    "max_length": None,
    "remove_unused_columns": False,
    "dataset_kwargs": {"skip_prepare_dataset": True},
    "lr_scheduler_type": "cosine",
    "logging_steps": 10,
    "save_total_limit": 2,
    "report_to": ["tensorboard"],
    "dataloader_num_workers": 0,
    "num_train_epochs": 1,
}


def sft_config(output_dir: str | Path, **changes: Any) -> SFTConfig:
    """Settings every stage shares; ``changes`` are ordinary ``SFTConfig`` arguments and win."""
    return SFTConfig(**{"output_dir": str(output_dir), **SHARED, **changes})


def run_sft(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    dataset: Dataset,
    collator: Callable[[Sequence[Mapping[str, Any]]], dict[str, torch.Tensor]],
    config: SFTConfig,
    *,
    resume: bool = True,
    callbacks: Sequence[Any] = (),
    eval_dataset: Dataset | None = None,
    peft_config: LoraConfig | None = None,
    make_optimizer: MakeOptimizer | None = None,
) -> AnswerTrainer:
    """Trains ``model`` in place and returns its trainer.

    Args:
        dataset: light rows that ``collator`` understands.
        config: from :func:`sft_config`.
        resume: continue from the last complete checkpoint in ``config.output_dir`` if there is one.
        callbacks: more ``TrainerCallback`` objects.
        eval_dataset: rows whose loss is measured as ``config`` says.
        peft_config: trains an adapter in place of the weights.
        make_optimizer: the trainer and a function that makes the stock optimiser -> the one to train with.

    Raises:
        Interrupted: SIGINT or SIGTERM came; the step was finished and saved.
    """
    stop = StopRequest()
    listener = StopCallback(stop)
    trainer = AnswerTrainer(
        model=model,
        args=config,
        train_dataset=dataset,
        eval_dataset=eval_dataset,
        peft_config=peft_config,
        data_collator=collator,
        processing_class=processor,
        callbacks=[*callbacks, listener],
        make_optimizer=make_optimizer,
    )
    folder = Path(config.output_dir)
    last = last_complete_checkpoint(folder) if resume and folder.is_dir() else None
    with stop.listening():
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    state = trainer.state
    if listener.asked and state.global_step < state.max_steps:
        raise stop.ended(state.global_step, state.max_steps, folder / f"checkpoint-{state.global_step}")
    return trainer
