"""A judge behind any OpenAI-compatible chat server: vLLM, SGLang, llama.cpp, hosted models.

Frames travel as base64 data URLs. Every request states its temperature, because a server's own default applies
otherwise (Qwen3-VL's generation config asks vLLM for 0.7). What may pass by itself is asked again; an item that fails
carries its error and spoils no other.

The verdict's probability needs a server that continues an unfinished answer (``continue_final_message`` of vLLM and
SGLang) and lists log-probabilities; see :meth:`OpenAIBackend.score` for what happens elsewhere. For instance::

    vllm serve Qwen/Qwen3-VL-8B-Instruct --limit-mm-per-prompt.image 64 --enable-prefix-caching
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Literal, TypeVar

from reward_model.backends.base import BackendError, Wanted, WordScores
from reward_model.backends.chat_server import ChatServer
from reward_model.backends.logprobs import (
    Ask,
    NextTokens,
    continues,
    generated_verdict,
    next_tokens,
    verdict_score,
    word_log_prob,
)
from reward_model.backends.replay import request_key
from reward_model.backends.reply import Reply
from reward_model.backends.retrying import Backoff, Deadline, RequestRejected
from reward_model.backends.secret import Secret
from reward_model.backends.wire import check_frames, to_wire
from reward_model.conversation import Completion, Conversation, Sampling
from reward_model.schema import VerdictScore
from reward_model.turns import words_after

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Seconds the caller waits beyond the deadline for requests that are giving up by themselves.
_GRACE_S = 2.0
_MAX_REMEMBERED = 4096
#: Of a call's deadline: what retries and a server that is starting may take beside the requests themselves.
_BASE_DEADLINE_S = 780.0
#: Characters of an answer: no token of a common vocabulary has more.
_MAX_LENGTH, _MAX_LENGTH_PER_TOKEN = 1024, 128
#: HTTP statuses of a server that does not offer what it was asked for.
_NOT_OFFERED = (400, 422, 501)
_CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}


class OpenAIBackend:
    """Judges with a model behind an OpenAI-compatible chat server.

    Args:
        model: the name under which the server serves it.
        base_url: for instance ``http://judge:8000/v1``; None is ``$OPENAI_BASE_URL``, else OpenAI itself.
        api_key: None reads ``$OPENAI_API_KEY``; your own server usually needs none. Never logged, printed or
            pickled: a copy in another process reads the environment there.
        timeout_s: seconds from sending a request to the last byte of its answer; None: 120, and a tenth of a second
            more for each token the answer may have (734 s for 6,144).
        deadline_s: seconds one call of :meth:`generate` or :meth:`score` may take with all its items and retries;
            ``"auto"``: 780 and two of those time-outs for each round of ``concurrency`` items; None: no limit.
        max_retries: further attempts of a request after the first.
        concurrency: requests under way at a time.
        image_format: ``"png"`` shows the exact pixels; ``"jpeg"`` (quality 95) is smaller and adds faint artifacts of
            its own.
        on_missing_logprobs: without probabilities, ``"none"`` gives None and warns once, ``"raise"`` raises.
        top_logprobs: how many tokens the server is asked to list; OpenAI and vLLM allow 20. A server that refuses to
            list so many is asked for as many as it lists.
        backoff_s: upper end of the first wait before another attempt; it doubles each time, up to 30 s.
        extra_body: further fields of every request, such as ``{"chat_template_kwargs": {"enable_thinking": False}}``.

    Raises:
        ImportError: if the ``openai`` package is missing.
        ValueError: if an argument is out of range, or OpenAI itself would be asked without a key.

    Example:
        >>> backend = OpenAIBackend("my-org/cac-8b", base_url="http://judge:8000/v1")
        >>> question = (Message("user", ("Frame 0:", frame, "Is it normal?")),)
        >>> backend.generate([question], Sampling())[0].text                            # doctest: +SKIP
        >>> backend.score([question], ['{"COT": "", "status": "'])[0].p_normal          # doctest: +SKIP
    """

    name = "openai"

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | Secret | None = None,
        timeout_s: float | None = None,
        deadline_s: float | Literal["auto"] | None = "auto",
        max_retries: int = 5,
        concurrency: int = 8,
        image_format: Literal["png", "jpeg"] = "png",
        on_missing_logprobs: Literal["none", "raise"] = "none",
        top_logprobs: int = 20,
        backoff_s: float = 0.5,
        extra_body: dict[str, Any] | None = None,
    ) -> None:
        api_key, self.model = Secret(api_key), model
        if not model:
            raise ValueError("model is empty; give the name under which the server serves it")
        for name, seconds in (("timeout_s", timeout_s), ("deadline_s", None if deadline_s == "auto" else deadline_s)):
            if seconds is not None and (isinstance(seconds, str) or not seconds > 0):
                raise ValueError(f"{name}={seconds!r} must be seconds above zero, or be left out")
        if concurrency < 1 or not 1 <= top_logprobs <= 20:
            raise ValueError(f"concurrency must be >= 1 and top_logprobs 1-20, got {concurrency} and {top_logprobs}")
        if image_format not in ("png", "jpeg"):
            raise ValueError(f"image_format must be 'png' or 'jpeg', got {image_format!r}")
        if on_missing_logprobs not in ("none", "raise"):
            raise ValueError(f"on_missing_logprobs must be 'none' or 'raise', got {on_missing_logprobs!r}")
        self.deadline_s = deadline_s
        self.concurrency = concurrency
        self.image_format = image_format
        self.on_missing_logprobs = on_missing_logprobs
        self.top_logprobs = top_logprobs
        self.extra_body = dict(extra_body or {})
        self.server = ChatServer(base_url, api_key, timeout_s=timeout_s, backoff=Backoff(max_retries, backoff_s))
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._probed = False
        self._continues: bool | None = None
        self._warned: set[str] = set()
        self._served_by: dict[str, Any] = {}
        self._verdicts: OrderedDict[str, VerdictScore] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if not k.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def __repr__(self) -> str:
        server = getattr(self, "server", None)  # absent while a wrong argument is told
        return f"OpenAIBackend({self.model!r}, base_url={server.base_url if server else None!r})"

    def describe(self) -> dict[str, Any]:
        """Provenance: who was asked for what, and what the server says of itself. Never a key."""
        with self._lock:
            served = dict(self._served_by)
        return {
            "backend": self.name,
            "model": self.model,
            "base_url": self.server.base_url,
            "image_format": self.image_format,
            "openai": sys.modules["openai"].__version__,
            "extra_body": self.extra_body,
            **served,
        }

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Completion]:
        """One answer per conversation, in order; a failed one has ``error`` and no text.

        ``extra`` holds ``finish_reason``, ``prompt_tokens`` and ``verdict``: the log-probabilities where the server
        wrote its verdict, as the fields of a :class:`VerdictScore`, or None.

        Raises:
            ValueError: if a frame is not (H, W, 3) uint8.
        """
        check_frames(conversations)

        def answer(conversation: Conversation, deadline: Deadline) -> Completion:
            return self._answer(conversation, sampling, deadline)

        failed = lambda why: Completion("", finished=False, error=why)  # noqa: E731
        return self._each(answer, conversations, failed, sampling.max_new_tokens)

    def _answer(self, conversation: Conversation, sampling: Sampling, deadline: Deadline) -> Completion:
        start = time.monotonic()
        try:
            reply = self._ask(to_wire(conversation, self.image_format), deadline, **_sampling_fields(sampling))
        except BackendError as error:
            return Completion("", finished=False, seconds=time.monotonic() - start, error=str(error))
        return self._completion(conversation, reply, sampling.max_new_tokens, time.monotonic() - start)

    def score(self, conversations: Sequence[Conversation], prefixes: Sequence[str]) -> list[VerdictScore | None]:
        """Log-probabilities of ``normal`` and ``abnormal`` as whole continuations of each prefix, in order.

        The prefix goes out as an unfinished assistant message and each word is walked token by token
        (:mod:`reward_model.backends.logprobs`): two or three one-token requests. A server that begins a new answer
        instead of continuing is found out by the length it counts for two short prompts, or where it does not count, by
        the answer it would begin. There, and without log-probabilities, the score is read from the answer
        :meth:`generate` got from this server, if the prefix is the beginning of that very answer; otherwise it is None,
        and a warning says why, once. A score whose requests failed says so in its ``error``.

        Raises:
            BackendError: if a score is missing and ``on_missing_logprobs="raise"``.
            ValueError: not one prefix per conversation, or a frame is not (H, W, 3) uint8.
        """
        check_frames(conversations)
        if len(conversations) != len(prefixes):
            raise ValueError(f"score needs one prefix per conversation, got {len(prefixes)} for {len(conversations)}")
        items = list(zip(conversations, prefixes, strict=True))
        self._probe()
        scores = self._each(self._score_one, items, lambda why: VerdictScore(math.nan, math.nan, error=why), 1)
        self._check_missing(scores)
        return scores

    def _check_missing(self, scores: Sequence[VerdictScore | None]) -> None:
        missing = sum(score is None for score in scores)
        if self.on_missing_logprobs == "raise" and missing:
            raise BackendError(
                f"{missing} of {len(scores)} verdicts have no probability (the log says why); "
                "serve with log-probabilities and continue_final_message, or set on_missing_logprobs='none'"
            )

    def look_then_answer(
        self, conversations: Sequence[Conversation], prefixes: Sequence[str], sampling: Sampling, wanted: Wanted
    ) -> list[tuple[VerdictScore | None, Completion | None]]:
        """Of each conversation the score and, where it is wanted, right after it the answer: with prefix caching
        (``--enable-prefix-caching`` of vLLM) the server still holds the frames it has just read.
        """
        check_frames(conversations)
        self._probe()

        def ask(
            item: tuple[int, Conversation, str], deadline: Deadline
        ) -> tuple[VerdictScore | None, Completion | None]:
            k, conversation, prefix = item
            score = self._score_one((conversation, prefix), deadline)
            return score, self._answer(conversation, sampling, deadline) if wanted(k, score) else None

        items = [(k, c, p) for k, (c, p) in enumerate(zip(conversations, prefixes, strict=True))]
        failed = lambda why: (None, Completion("", finished=False, error=why))  # noqa: E731
        found = self._each(ask, items, failed, sampling.max_new_tokens)
        self._check_missing([score for score, _ in found])
        return found

    def _score_one(self, item: tuple[Conversation, str], deadline: Deadline) -> VerdictScore | None:
        conversation, prefix = item
        failed: VerdictScore | None = None
        try:
            score = self._walk(conversation, prefix, deadline)
        except BackendError as error:
            if isinstance(error, RequestRejected) and error.status in _NOT_OFFERED:
                score = self._unscored(str(error))
            else:
                score, failed = None, VerdictScore(math.nan, math.nan, error=str(error))
        if score is not None:
            return score
        with self._lock:
            return self._verdicts.get(request_key("score", conversation, prefix=prefix), failed)

    def _unscored(self, why: str) -> VerdictScore | None:
        """No score, and a warning, the same one only once."""
        with self._lock:
            new = why not in self._warned
            self._warned.add(why)
        if new:
            logger.warning("a verdict has no probability: %s", why)
        return None

    def choose(
        self, conversations: Sequence[Conversation], prefixes: Sequence[str], words: Sequence[str], *, after: str = ""
    ) -> list[WordScores | None]:
        """Log-probabilities of any words as whole continuations of each prefix, in order; one-token requests, as in
        :meth:`score`. None where the server does not continue an answer, lists no log-probabilities, or lists none
        of the words; a word beyond those listed has an upper bound. Listed tokens that go on behind a word count for
        it whatever they go on with, so ``after`` is not needed.
        """
        check_frames(conversations)
        self._probe()

        def chosen(item: tuple[Conversation, str], deadline: Deadline) -> WordScores | None:
            try:
                ask = self._next_tokens(*item, tuple(words), deadline)
                found = None if ask is None else [word_log_prob(word, ask) for word in words]
            except BackendError as error:
                if isinstance(error, RequestRejected) and error.status in _NOT_OFFERED:
                    self._unscored(str(error))
                    return None
                return WordScores(error=str(error))
            if found is None or any(f is None for f in found) or all(f[1] for f in found if f is not None):
                return None  # of words that are all beyond the listed tokens nothing is known
            return WordScores(tuple(f[0] for f in found if f is not None))

        items = list(zip(conversations, prefixes, strict=True))
        return self._each(chosen, items, lambda why: WordScores(error=why), 1)

    def _next_tokens(
        self, conversation: Conversation, prefix: str, words: tuple[str, ...], deadline: Deadline
    ) -> Ask | None:
        """The likeliest tokens after a prefix and part of a word, each asked for once; None, and a warning, where the
        server does not tell.
        """
        if self._continues is False:
            self._unscored(f"{self.model} at {self.server.base_url} does not continue an unfinished answer")
            return None
        messages = to_wire(conversation, self.image_format)
        lists: dict[str, NextTokens | None] = {}

        def ask(covered: str) -> NextTokens | None:
            if covered not in lists:
                unfinished = [*messages, {"role": "assistant", "content": prefix + covered}]
                # Temperature 1 leaves the listed probabilities as they are on every server; the token is not used.
                reply = self._ask(unfinished, deadline, max_tokens=1, temperature=1.0, top_p=1.0, **_CONTINUE)
                lists[covered] = next_tokens(reply.tokens[0]) if reply.tokens else None
            return lists[covered]

        first = ask("")
        if not first:
            self._unscored(f"{self.model} at {self.server.base_url} sends no log-probabilities")
            return None
        if self._continues is None and not continues(first, words):
            self._unscored(f"{self.model} at {self.server.base_url} seems to begin a new answer instead of continuing")
            return None
        return ask

    def _walk(self, conversation: Conversation, prefix: str, deadline: Deadline) -> VerdictScore | None:
        words = words_after(prefix)
        ask = self._next_tokens(conversation, prefix, words, deadline)
        if ask is None:
            return None
        score = verdict_score(ask, words)
        if score is None:
            listed = len(ask("") or ())
            return self._unscored(
                f"{words[0]!r} and {words[1]!r} both lie beyond the {listed} likeliest tokens, so that "
                "nothing is known of their ratio"
            )
        return score

    def _probe(self) -> None:
        """Finds out, once, whether the server continues an unfinished answer.

        An answer of one letter, continued, makes the prompt a token longer. Closed and followed by the opening of the
        next answer, it makes it at least three longer in every chat format. Servers that do not count leave it open.
        """
        if self._probed:
            return
        deadline, few = Deadline(self._seconds(1, 1)), {"max_tokens": 1, "temperature": 1.0}
        hello = {"role": "user", "content": "Hello"}
        try:
            begun = self._ask([hello, {"role": "assistant", "content": "a"}], deadline, **few, **_CONTINUE)
            alone = self._ask([hello], deadline, **few)
            longer = begun.prompt_tokens - alone.prompt_tokens
            self._continues = True if 1 <= longer <= 2 else False if longer > 2 else None
        except RequestRejected as error:
            if error.status not in _NOT_OFFERED:
                return  # wrong key or model: the items themselves will say so
            self._continues = False
        except BackendError:
            return  # unreachable now: undecided, asked again at the next call
        self._probed = True

    def _ask(self, messages: list[dict[str, Any]], deadline: Deadline, **fields: Any) -> Reply:
        listing = {"logprobs": True, "top_logprobs": self.top_logprobs}
        return self.server.post(
            {**self.extra_body, "model": self.model, "messages": messages, **listing, **fields}, deadline
        )

    def _completion(self, conversation: Conversation, reply: Reply, limit: int, seconds: float) -> Completion:
        if len(reply.text) > _MAX_LENGTH + _MAX_LENGTH_PER_TOKEN * limit:
            return Completion(
                "",
                finished=False,
                seconds=seconds,
                error=f"the server sent {len(reply.text):,} characters where {limit} tokens were asked for",
            )
        verdict = generated_verdict(reply.tokens, reply.text)
        with self._lock:
            self._served_by = dict(reply.served_by)
            if verdict is not None:
                self._verdicts[request_key("score", conversation, prefix=verdict[0])] = verdict[1]
            while len(self._verdicts) > _MAX_REMEMBERED:
                self._verdicts.popitem(last=False)
        nothing = f"the server sent no text (finish_reason {reply.finish_reason!r})"
        return Completion(
            reply.text,
            finished=reply.finish_reason not in ("length", "content_filter"),
            num_tokens=reply.completion_tokens,
            seconds=seconds,
            error=None
            if reply.text or reply.finish_reason == "length"
            else f"{nothing}; the model says: {reply.refusal}"
            if reply.refusal
            else nothing,
            extra={
                "finish_reason": reply.finish_reason,
                "prompt_tokens": reply.prompt_tokens,
                "verdict": None if verdict is None else verdict[1].to_dict(),
                **({"text_from": reply.source} if reply.source != "content" else {}),
            },
        )

    def _seconds(self, items: int, tokens: int) -> float | None:
        """Time limit of a call that asks for answers of up to ``tokens`` tokens to that many items."""
        if self.deadline_s != "auto":
            return self.deadline_s
        rounds = math.ceil(items / self.concurrency)
        return _BASE_DEADLINE_S + 2 * self.server.timeout(tokens) * rounds

    def _each(
        self,
        work: Callable[[Item, Deadline], Result],
        items: Sequence[Item],
        failed: Callable[[str], Result],
        tokens: int,
    ) -> list[Result]:
        """``work`` on all items at once, results in order; ``failed(why)`` for those the deadline overtakes, and for
        those on which it fails in whatever way: what a server sends to one must not cost the others.
        """
        if not items:
            return []
        seconds = self._seconds(len(items), tokens)
        deadline = Deadline(seconds)

        def safely(item: Item) -> Result:
            try:
                return work(item, deadline)
            except Exception as error:
                logger.debug("an item failed", exc_info=True)
                return failed(self.server.hide(f"unexpected {type(error).__name__}: {error}")[:500])

        pool = ThreadPoolExecutor(min(self.concurrency, len(items)), thread_name_prefix="judge")
        try:
            futures = [pool.submit(safely, item) for item in items]
            done = wait(futures, None if seconds is None else seconds + _GRACE_S).done
            late = f"the deadline of {seconds} s passed"
            return [f.result() if f in done else failed(late) for f in futures]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _sampling_fields(sampling: Sampling) -> dict[str, Any]:
    fields = {"max_tokens": sampling.max_new_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p}
    return fields if sampling.seed is None else {**fields, "seed": sampling.seed}
