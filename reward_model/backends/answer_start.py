"""The end of a question and the beginning of its answer, in the text that a chat template writes."""

from __future__ import annotations

#: What opens a thought, and what closes it: chat templates of thinking models end in an opened one.
_MARKS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<seed:think>": "</seed:think>",
    "[THINK]": "[/THINK]",
}


def question(prompt: str) -> str:
    """The part of a prompt that is the same whatever answer follows: without the line breaks behind an opened thought,
    which :func:`begin_answer` may close.

    Example:
        >>> question("<|im_start|>assistant\\n<think>\\n")
        '<|im_start|>assistant\\n<think>'
    """
    return prompt.rstrip() if prompt.rstrip().endswith(tuple(_MARKS)) else prompt


def begin_answer(prompt: str, prefix: str) -> str:
    """The prompt, as a chat template wrote it, followed by the beginning of an answer.

    A thought that the template has opened is closed first, empty, as the templates themselves do where thinking is
    switched off; unless there is nothing to follow, or the beginning holds the end of the thought itself.

    Example:
        >>> begin_answer("<|im_start|>assistant\\n<think>\\n", '{"COT": "')
        '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n{"COT": "'
    """
    for opened, closed in _MARKS.items():
        if prefix and prompt.rstrip().endswith(opened) and closed not in prefix:
            return f"{prompt.rstrip()}\n\n{closed}\n\n{prefix}"
    return prompt + prefix
