"""A reward on another machine: the client of ``cac-align serve``.

It asks again, with growing pauses, as long as the server is away, busy or starting anew, so that a training outlives a
restart of its judge. What it takes for an answer is complete, of the expected form, and of the same reward all along.
"""

from __future__ import annotations

import base64
import http.client
import json
import logging
import math
import os
import random
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from cac_align.rewards.base import Evaluation, RewardError
from cac_align.rewards.model_reward import ModelReward, check_inputs, log_unjudged
from reward_model.backends.secret import Secret
from reward_model.schema import Verdict
from reward_model.setting_keys import bare_address
from reward_model.video.clip import Video, VideoError

logger = logging.getLogger(__name__)

#: Variable of the environment with the token, for server and client.
TOKEN_VARIABLE = "CAC_SERVE_TOKEN"
#: Bytes of an answer that are read, and of one that is quoted.
_MOST_REPLY, _MOST_QUOTED = 64 * 2**20, 500
#: Statuses that pass: too many requests, and what a server or proxy says while it is away.
_PASSING = (408, 429, 502, 503, 504)
#: Seconds before the second try, and the most between two.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0


class AwayError(RewardError):
    """The server gave no answer for as long as the client was told to wait."""


class TooLargeError(RewardError):
    """A request is larger than the server accepts; smaller ones may be asked."""


class _PassingError(Exception):
    """A try that may succeed later, not before ``after_s`` seconds."""

    def __init__(self, reason: str, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.after_s = after_s


class _Patience:
    """The time until which to go on trying; every answer renews it."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.renew()

    def renew(self) -> None:
        self.end = time.monotonic() + self._seconds


class RemoteReward(ModelReward[dict[str, Any]]):
    """A reward that ``cac-align serve`` answers on another machine; also ``remote`` in settings.

    The server is asked for the name of its reward when it is first needed. A video that the server cannot judge, or
    that got no answer in ``patience_s``, is None in the list of scores, with its reason logged. A pickled copy does not
    hold the token, and reads ``$CAC_SERVE_TOKEN`` where it arrives.

    Args:
        url: address of the server, such as ``http://judge:8809``.
        token: what the server wants to be shown; None reads ``$CAC_SERVE_TOKEN``. A token is sent in the clear over
            ``http://``: use ``https://`` (a proxy before the server) where others can listen.
        root: folder that the server serves as its ``--root``, where both machines see the same files: videos in it are
            named instead of sent.
        on_error: ``"none"`` scores a video that cannot be judged None, ``"raise"`` raises.
        evidence: also ask for whole verdicts, with windows, boxes and texts.
        patience_s: seconds to go on trying without an answer.
        timeout_s: seconds that one try may wait for an answer; above the server's own limit.
        concurrency: requests at a time.
        videos_per_request: videos of one request.

    Raises:
        ValueError: if the address or a number makes no sense.
        RewardError: when called, if the server refuses the request (a wrong token, a body above its limit), or serves
            another reward than at the beginning.

    Example:
        >>> reward = RemoteReward("http://judge:8809")             # doctest: +SKIP
        >>> reward([frames], ["a red ball bounces"], fps=16)       # doctest: +SKIP
        [0.9931]
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | Secret | None = None,
        root: str | os.PathLike[str] | None = None,
        on_error: str = "none",
        evidence: bool = True,
        patience_s: float = 900.0,
        timeout_s: float = 660.0,
        concurrency: int = 4,
        videos_per_request: int = 1,
    ) -> None:
        super().__init__(on_error)
        self._server = _split(url)
        for name, value in (("patience_s", patience_s), ("timeout_s", timeout_s)):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name}={value!r} must be a number of seconds above 0")
        for name, number in (("concurrency", concurrency), ("videos_per_request", videos_per_request)):
            if number < 1:
                raise ValueError(f"{name}={number!r} must be at least 1")
        self.url = bare_address(url).rstrip("/")
        self.root = None if root is None else Path(os.path.realpath(root))
        self.evidence, self.patience_s, self.timeout_s = evidence, float(patience_s), float(timeout_s)
        self.concurrency, self.videos_per_request = concurrency, videos_per_request
        self.name = f"remote {self._server[1]}"
        self._token = _hidden(token)

    def __repr__(self) -> str:
        return f"RemoteReward({self.url!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in super().__getstate__().items() if k != "_token"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._token = _hidden(None)

    def check_ready(self) -> None:
        """Asks the server once.

        Raises:
            RewardError: if it does not answer, or refuses the token.
        """
        if self._opened is None:
            self.ping()

    def ping(self) -> None:
        """Asks the server once, whether or not it has answered before; errors as of :meth:`check_ready`."""
        try:
            self._once("GET", "/reward", None)
        except _PassingError as error:
            raise AwayError(
                f"no reward server answers at {self.url} ({error}); start it with cac-align serve, or correct url"
            ) from None

    def describe(self) -> dict[str, Any]:
        """The address, and once the server has been asked the reward that it serves."""
        return {"url": self.url, **({"serves": self._opened["description"]} if self._opened else {})}

    def __call__(
        self,
        videos: Sequence[Any],
        prompts: Sequence[str] | str | None = None,
        *,
        fps: float | None = None,
        **_: object,
    ) -> list[float | None]:
        """The score of each video. Arguments as in :meth:`evaluate`."""
        found = self.evaluate(videos, prompts, fps=fps)
        log_unjudged(
            logger, self.name, [r if s is None else None for s, r in zip(found.scores, found.reasons, strict=True)]
        )
        return found.scores

    def evaluate(
        self, videos: Sequence[Any], prompts: Sequence[str] | str | None = None, *, fps: float | None = None
    ) -> Evaluation:
        """Scores with parts, verdicts and reasons, as the reward on the other side gave them.

        Args:
            videos: (T, H, W, 3) uint8 each, or anything else that :func:`reward_model.video.load_video` reads.
            prompts: one text per video; one string serves all.
            fps: frames per second. Files bring their own.
        """
        items, texts, rates = check_inputs(videos, prompts, fps)
        if not items:
            return Evaluation([], [], [])
        asked = list(zip(items, texts, rates, strict=True))
        shares = [asked[k : k + self.videos_per_request] for k in range(0, len(asked), self.videos_per_request)]
        try:
            served = self.opened
        except AwayError as error:
            results = [_unjudged(str(error)) for _ in items]
        else:
            results = self._ask_all(shares, served)
        self._raise_for([r["reason"] if r["score"] is None else None for r in results], "could not judge")
        names = sorted({name for r in results for name in r["parts"]})
        parts = {name: [r["parts"].get(name) for r in results] for name in names}
        return Evaluation([r["score"] for r in results], [r["verdict"] for r in results], _reasons(results), parts)

    def _ask_all(self, shares: Sequence[Sequence[Any]], served: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Results of all videos, in order; all requests share one patience, which every answer renews."""
        ask = partial(self._share, served=served, patience=_Patience(self.patience_s))
        with ThreadPoolExecutor(min(self.concurrency, len(shares)), "remote-reward") as pool:
            try:
                return [result for share in pool.map(ask, shares) for result in share]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _share(
        self, share: Sequence[tuple[Any, str | None, float | None]], served: Mapping[str, Any], patience: _Patience
    ) -> list[dict[str, Any]]:
        """Results of the videos of one request; those that cannot be read are not sent."""
        lost: dict[int, str] = {}
        sent = []
        for k, (video, prompt, fps) in enumerate(share):
            try:
                sent.append({**self._message(video, fps), **({} if prompt is None else {"prompt": prompt})})
            except (VideoError, OSError) as error:
                lost[k] = str(error)
        answers: list[dict[str, Any]] = []
        if sent:
            body = json.dumps({"videos": sent, "evidence": self.evidence}).encode()
            if len(body) > (most := int(served["limits"].get("max_body", len(body)))):
                raise TooLargeError(
                    f"a request of {len(sent)} video(s) takes {len(body):,} bytes, and {self.url} accepts {most:,}: "
                    "send fewer videos in one (videos_per_request), or start it with a larger --max-body"
                )
            try:
                reply = self._patiently("POST", "/score", body, patience)
                answers = _results(reply, len(sent), served["digest"], self.url)
            except AwayError as error:
                answers = [_unjudged(str(error)) for _ in sent]
        coming = iter(answers)
        return [_unjudged(lost[k]) if k in lost else next(coming) for k in range(len(share))]

    def _message(self, video: Any, fps: float | None) -> dict[str, Any]:
        """One video as the server takes it: a path where both see it, the file as it is, or its frames."""
        rate = {} if fps is None else {"fps": fps}
        if isinstance(video, str | os.PathLike):
            real = Path(os.path.realpath(video))
            if self.root is not None and real.is_relative_to(self.root):
                return {"path": real.relative_to(self.root).as_posix(), **rate}
            return {"file": base64.b64encode(real.read_bytes()).decode(), **rate}
        if not isinstance(video, Video):
            raise VideoError("the frames are not a video")
        frames = np.ascontiguousarray(video.take(range(video.num_frames)), dtype=np.uint8)
        data = base64.b64encode(frames.data).decode()
        drawn = {} if video.drawn_size == video.size else {"drawn_size": list(video.drawn_size)}
        return {"frames": data, "shape": list(frames.shape), "fps": video.fps, **drawn}

    # --- the server ---------------------------------------------------------------------------------------------------

    def _open(self) -> dict[str, Any]:
        """Name, digest and description of the reward that is served, and the limits of a request."""
        found = self._patiently("GET", "/reward", None, _Patience(self.patience_s))
        forms = {"name": str, "digest": str, "description": dict, "limits": dict}
        if not all(isinstance(found.get(name), form) for name, form in forms.items()):
            raise RewardError(f"{self.url} is not a reward server of cac-align; correct url")
        return found

    def _patiently(self, method: str, path: str, body: bytes | None, patience: _Patience) -> dict[str, Any]:
        """The answer to a request, which is repeated until there is one.

        Raises:
            AwayError: if there is none while the patience lasts.
            RewardError: if the server refuses the request for good.
        """
        pause = _FIRST_PAUSE_S
        while True:
            try:
                found = self._once(method, path, body)
                patience.renew()
                return found
            except _PassingError as error:
                # A random share of the pause: clients of one server do not return all at once.
                wait = max(error.after_s, pause * random.uniform(0.5, 1.0))
                if time.monotonic() + wait > patience.end:
                    raise AwayError(f"no answer of {self.url} within {self.patience_s:g} s; at last: {error}") from None
                logger.info("%s: %s; asked again in %.1f s", self.url, error, wait)
            time.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _once(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        scheme, netloc, prefix = self._server
        kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
        connection = kind(netloc, timeout=self.timeout_s)
        headers = {"Content-Type": "application/json", "Connection": "close"}
        if key := self._token.reveal():
            headers["Authorization"] = f"Bearer {key}"
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # one that refuses answers before it has read all
                connection.request(method, prefix + path, body, headers)
            reply = connection.getresponse()
            raw = reply.read(_MOST_REPLY + 1)
            complete = not reply.length
        except (OSError, http.client.HTTPException) as error:
            raise _PassingError(f"the connection failed: {type(error).__name__}: {error}"[:_MOST_QUOTED]) from None
        finally:
            connection.close()
        if not complete and len(raw) <= _MOST_REPLY:
            raise _PassingError("the connection broke off within the answer")
        if reply.status != 200:
            raise self._failure(reply.status, reply.headers, raw)
        return self._content(raw)

    def _failure(self, status: int, headers: http.client.HTTPMessage, raw: bytes) -> Exception:
        said = self._token.hide(_detail(raw))
        if status in _PASSING:
            after = headers.get("Retry-After", "")
            return _PassingError(f"HTTP {status}: {said}", min(float(after), 300.0) if after.isdigit() else 0.0)
        todo = f"; set ${TOKEN_VARIABLE} or pass token" if status == 401 else ""
        return RewardError(f"the reward server {self.url} refused: HTTP {status}: {said}{todo}")

    def _content(self, raw: bytes) -> dict[str, Any]:
        if len(raw) > _MOST_REPLY:
            raise RewardError(f"the answer of {self.url} is longer than {_MOST_REPLY:,} bytes; set evidence=False")
        try:
            found = json.loads(raw)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise RewardError(f"{self.url} does not answer as a reward server of cac-align; correct url")
        return found


def _hidden(token: str | Secret | None) -> Secret:
    """The token in its holder; the variable's if there is none."""
    value = token.reveal() if isinstance(token, Secret) else token
    value = (value if value is not None else os.environ.get(TOKEN_VARIABLE, "")).strip()
    if not value.isascii() or not value.isprintable() or " " in value:
        value = ""  # the frame of this very traceback
        raise ValueError("the token holds characters that no token has (spaces, line breaks or non-ASCII)")
    return Secret.of(value)


def _split(url: str) -> tuple[str, str, str]:
    """Scheme, host with port, and path of an address."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except (ValueError, AttributeError):
        host = None
    if not host or parts.scheme not in ("http", "https") or parts.username is not None or parts.query:
        raise ValueError(f"url={bare_address(str(url))!r} must be the address of a server, such as http://judge:8809")
    return parts.scheme, parts.netloc, parts.path.rstrip("/")


def _unjudged(reason: str) -> dict[str, Any]:
    return {"score": None, "reason": reason, "parts": {}, "verdict": None}


def _reasons(results: Sequence[Mapping[str, Any]]) -> list[str | None]:
    return [r["reason"] or (None if r["score"] is not None else "no reason given") for r in results]


def _detail(raw: bytes) -> str:
    """The reason that a server gives for a refusal."""
    try:
        found = json.loads(raw)
        text = str(found["detail"])
    except (ValueError, KeyError, TypeError):
        text = raw.decode("utf-8", "replace")
    return " ".join(text.split())[:_MOST_QUOTED]


def _results(reply: Mapping[str, Any], count: int, digest: str, url: str) -> list[dict[str, Any]]:
    """The results of an answer, every field checked.

    Raises:
        RewardError: if the server changed its reward, or the answer is not of the expected form.
    """
    if reply.get("digest") != digest:
        raise RewardError(
            f"{url} serves another reward than at the beginning ({str(reply.get('reward'))[:100]!r}); scores of two "
            "rewards do not mix: start the server as it was, or begin a new run"
        )
    results = reply.get("results")
    if not isinstance(results, list) or len(results) != count:
        raise RewardError(f"{url} did not answer with {count} results, one for each video")
    try:
        return [_result(result) for result in results]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RewardError(
            f"{url} answered with a result that cannot be read: {type(error).__name__}: {error}"
        ) from None


def _result(result: Mapping[str, Any]) -> dict[str, Any]:
    verdict = result.get("verdict")
    return {
        "score": _number(result["score"]),
        "reason": None if result["reason"] is None else str(result["reason"]),
        "parts": {str(name): _number(value) for name, value in result["parts"].items()},
        "verdict": None if verdict is None else Verdict.from_dict(verdict),
    }


def _number(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)
