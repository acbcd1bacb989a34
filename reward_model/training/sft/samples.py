"""A few held-out answers at every evaluation: the video, the expected answer and the model's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from reward_model.engine.run_log import RunWriter
from reward_model.engine.video_summary import encode_gif

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin, TrainerControl, TrainerState, TrainingArguments

    from reward_model.data.example import Example

log = logging.getLogger(__name__)

#: Frames per second samples play at: slow enough to follow.
SHOWN_FPS = 4
#: File with the texts of all samples, a line each.
SAMPLES = "samples.jsonl"
#: What stands in a sample, in this order.
COLUMNS = ("expected", "answer")
#: Trackers whose run transformers opens and which take videos by the module's own ``log``.
OPEN_RUNS = ("wandb", "trackio")


class SampleCallback(TrainerCallback):
    """Generates answers to held-out rows, keeps them in ``folder`` (``samples.jsonl`` and animated pictures), and shows
    them in the trackers of ``report_to``: TensorBoard, and the runs of Weights & Biases and trackio that the trainer
    has open.

    Args:
        processor: processor of the model that trains.
        load: row -> :class:`~reward_model.data.example.Example`.
        rows: the rows to show, the same ones each time.
        folder: where samples are kept, the events of TensorBoard among them.
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
        self._writer: RunWriter | None = None

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
        step = state.global_step
        if self._writer is None:  # a run that goes on makes this step's samples anew, and those after it
            own = [name for name in args.report_to if name == "tensorboard"] or ["none"]
            self._writer = RunWriter(self.folder, first_step=step - 1, lines=(SAMPLES,), report_to=own)
        shown: dict[Any, dict[str, Any]] = {import_module(name): {} for name in args.report_to if name in OPEN_RUNS}
        texts = []
        for k, row in enumerate(self.rows):
            example = self.load(row)
            answer = self.answer(model, example)
            texts.append([example.answer, answer])
            path = self._keep(self._writer, step, k, example, answer)
            caption = f"expected: {example.answer}\nanswer: {answer}"
            for module, videos in shown.items():
                videos[f"samples/{k}"] = module.Video(str(path), caption=caption)
        for module, videos in shown.items():
            module.log({**videos, "train/global_step": step})
        assert self._writer.trackers is not None
        self._writer.trackers.table(step, "samples", COLUMNS, texts, _markdown(texts))
        self._writer.flush()

    def _keep(self, writer: RunWriter, step: int, k: int, example: Example, answer: str) -> Path:
        """Writes sample k of a step to the folder and to TensorBoard; returns its animated picture."""
        frames = _frames(example)
        path = self.folder / f"step-{step:05d}-{k}.gif"
        path.write_bytes(encode_gif(frames, SHOWN_FPS))
        row = {"step": step, "sample": k, "expected": example.answer, "answer": answer, "video": path.name}
        writer.append(SAMPLES, row)
        assert writer.trackers is not None
        writer.trackers.video(step, f"samples/{k}", path, frames, fps=SHOWN_FPS)
        return path

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def answer(self, model: PreTrainedModel, example: Example) -> str:
        """Greedy answer of the model to an example."""
        chat = [m.to_chat() for m in example.conversation]
        text = self.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        inputs = self.processor(text=[text], images=_frames(example), return_tensors="pt").to(model.device)
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


def _frames(example: Example) -> list[Any]:
    """The frames that a sample shows, (H, W, 3) uint8 each, in order."""
    return [part for message in example.conversation for part in message.content if not isinstance(part, str)]


def _markdown(texts: Sequence[Sequence[str]]) -> str:
    """Expected answers and the model's, below one another, as they are."""
    return "\n\n".join(
        f"**sample {k}, {title}**\n\n```\n{text}\n```"
        for k, row in enumerate(texts)
        for title, text in zip(COLUMNS, row, strict=True)
    )
