"""A few held-out answers in TensorBoard at every evaluation: the video, the expected answer and the model's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from reward_model.engine.video_summary import add_video
from reward_model.extras import need

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin, TrainerControl, TrainerState, TrainingArguments

    from reward_model.data.example import Example

log = logging.getLogger(__name__)

#: Frames per second samples play at: slow enough to follow.
SHOWN_FPS = 4


class SampleCallback(TrainerCallback):
    """Generates answers to held-out rows and writes them to ``folder`` as TensorBoard text and animated pictures.

    Args:
        processor: processor of the model that trains.
        load: row -> :class:`~reward_model.data.example.Example`.
        rows: the rows to show, the same ones each time.
        folder: folder of the TensorBoard events.
        max_new_tokens: most new tokens of an answer.

    Greedy generation draws no random number, so a run with samples equals one without. Sharded weights (FSDP,
    DeepSpeed) are spread over processes that are not here; there nothing is shown.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        load: Callable[[Mapping[str, Any]], Any],
        rows: Sequence[Mapping[str, Any]],
        folder: str | Path,
        *,
        max_new_tokens: int = 512,
    ) -> None:
        self.processor, self.load, self.rows = processor, load, list(rows)
        self.folder, self.max_new_tokens = Path(folder), max_new_tokens
        self._writer: Any = None

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: PreTrainedModel,
        **_: object,
    ) -> None:
        if not state.is_world_process_zero or not self.rows:
            return
        if getattr(args, "fsdp", None) or getattr(args, "deepspeed", None):
            log.info("no samples are shown: the weights are sharded")
            return
        if self._writer is None:
            need("tensorboard", "the log of a run")
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder))
        for k, row in enumerate(self.rows):
            example = self.load(row)
            text = (
                f"**expected**\n\n```\n{example.answer}\n```\n\n**answer**\n\n```\n{self.answer(model, example)}\n```"
            )
            self._writer.add_text(f"sample {k}", text, state.global_step)
            frames = [p for m in example.conversation for p in m.content if not isinstance(p, str)]
            add_video(self._writer, f"sample {k}", frames, state.global_step, fps=SHOWN_FPS)
        self._writer.flush()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def answer(self, model: PreTrainedModel, example: Example) -> str:
        """Greedy answer of the model to an example."""
        chat = [m.to_chat() for m in example.conversation]
        text = self.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        images = [p for m in example.conversation for p in m.content if not isinstance(p, str)]
        inputs = self.processor(text=[text], images=images, return_tensors="pt").to(model.device)
        was_training, cached = model.training, model.config.text_config.use_cache
        model.eval()
        model.config.text_config.use_cache = True
        try:
            with torch.no_grad():
                greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
                out = model.generate(**inputs, max_new_tokens=self.max_new_tokens, **greedy)
        finally:
            model.config.text_config.use_cache = cached
            model.train(was_training)
        ids = out[0, inputs["input_ids"].shape[1] :]
        return str(self.processor.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
