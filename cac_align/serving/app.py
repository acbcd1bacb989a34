"""Routes of a reward server, and what stands before them: who may ask, how much, and for how long.

The body of a request is read here, within a limit of bytes and seconds, since a framework would take whatever comes.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cac_align.rewards.base import Reward, describe_reward, reward_name
from cac_align.serving.batches import Answered, Batches
from cac_align.serving.counters import Counters
from cac_align.serving.messages import ScoreMessage, VideoMessage
from cac_align.serving.settings import OWN_NAMES, ServeSettings
from cac_align.serving.sources import RefusedError, WaitingVideo, close_all, prepared
from reward_model.digests import json_digest

#: Downloads at a time.
FETCHES = 4
#: Seconds between two looks at whether the client is still there.
WATCH_S = 1.0
#: The last thing said on a connection whose request was not read to its end.
_CLOSE = {"Connection": "close"}


def serving_app(reward: Reward, settings: ServeSettings) -> FastAPI:
    """The ASGI application that serves a reward.

    Raises:
        RewardError: if the reward cannot be served, see :class:`~cac_align.serving.batches.Batches`.
    """
    return _Served(reward, settings).app


class _Served:
    """A reward, its queue and its limits. All but the judging happens in one event loop, so counts need no lock."""

    def __init__(self, reward: Reward, settings: ServeSettings) -> None:
        self.settings, self.counters = settings, Counters()
        self.batches = Batches(reward, settings.max_batch, self.counters)
        self.description = describe_reward(reward)
        self.digest = json_digest(self.description)
        self.name = reward_name(reward)
        self.held_bytes = self.num_waiting = 0
        self._fetches: CapacityLimiter | None = None
        # No pages of documentation: they load scripts from elsewhere.
        self.app = FastAPI(
            title="cac-align serve", docs_url=None, redoc_url=None, openapi_url=None, lifespan=self._life
        )
        self.app.add_middleware(_Counting, counters=self.counters)
        guarded = [Depends(self._check_access)]
        self.app.add_api_route("/health", self.health, methods=["GET"], dependencies=[Depends(self._check_host)])
        self.app.add_api_route("/metrics", self.metrics, methods=["GET"], dependencies=guarded)
        self.app.add_api_route("/reward", self.reward, methods=["GET"], dependencies=guarded)
        self.app.add_api_route("/score", self.score, methods=["POST"], dependencies=guarded)

    @asynccontextmanager
    async def _life(self, _: FastAPI) -> AsyncIterator[None]:
        self._fetches = CapacityLimiter(FETCHES)
        self.batches.start()
        try:
            yield
        finally:
            self.batches.close()

    # --- who may ask --------------------------------------------------------------------------------------------------

    async def _check_host(self, request: Request) -> None:
        """Refuses browsers that were led here: by a name that resolves to this machine, or from another site's page."""
        host = request.headers.get("host", "")
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            name = None
        if name not in OWN_NAMES | self.settings.hosts:
            raise HTTPException(400, f"host {host[:200]!r} is not served here; see --host and --allow-host", _CLOSE)
        if "origin" in request.headers:
            raise HTTPException(403, "pages of browsers are not served here", _CLOSE)

    async def _check_access(self, request: Request) -> None:
        await self._check_host(request)
        token = self.settings.token
        if token is None:
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode(), token.reveal().encode())
        if kind.lower() != "bearer" or not right:
            raise HTTPException(401, "the token is missing or wrong", {"WWW-Authenticate": "Bearer", **_CLOSE})

    # --- routes -------------------------------------------------------------------------------------------------------

    async def health(self) -> Response:
        """200 as long as the reward answers; 503 if a batch takes longer than any client would wait."""
        stuck = not self.batches.is_working or self.batches.busy_s > self.settings.timeout_s
        return JSONResponse({"status": "stuck" if stuck else "ok"}, 503 if stuck else 200)

    async def metrics(self) -> Response:
        """Counts for Prometheus."""
        text = self.counters.text(waiting_videos=self.num_waiting, held_bytes=self.held_bytes)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def reward(self) -> dict[str, Any]:
        """The reward that is served, and what a request may hold; replies of ``/score`` carry the digest."""
        limits = {"max_body": self.settings.max_body, "max_videos": self.settings.max_videos}
        return {"name": self.name, "digest": self.digest, "description": self.description, "limits": limits}

    async def score(self, request: Request) -> Response:
        """Scores of the videos of a :class:`~cac_align.serving.messages.ScoreMessage`, in their order."""
        size, body = self._announced(request), bytearray()
        try:
            await self._receive(request, size, body)
            try:
                async with asyncio.timeout(self.settings.timeout_s):
                    return await self._scored(request, body)
            except TimeoutError:
                raise self._later(f"no answer within {self.settings.timeout_s:g} s") from None
        finally:
            self.held_bytes -= len(body)

    # --- a request ----------------------------------------------------------------------------------------------------

    def _announced(self, request: Request) -> int:
        """Bytes of the body, known to be acceptable before it is read."""
        limit = self.settings.max_body
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HTTPException(415, "send application/json", _CLOSE)
        length = request.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()):
            raise HTTPException(411, "send the body with its Content-Length, not in chunks", _CLOSE)
        if len(length) > 15 or int(length) > limit:
            raise HTTPException(413, f"the body is larger than {limit:,} bytes: send fewer videos (--max-body)", _CLOSE)
        if self.held_bytes + int(length) > self.settings.max_bytes:
            raise self._later("too many bytes are on their way", _CLOSE)
        return int(length)

    async def _receive(self, request: Request, size: int, body: bytearray) -> None:
        """Fills ``body``. Only what has arrived is held against the limit of all requests: large bodies that are
        announced and drip would otherwise keep everybody out.
        """
        try:
            async with asyncio.timeout(self.settings.body_timeout_s):
                async for chunk in request.stream():
                    if self.held_bytes + len(chunk) > self.settings.max_bytes:
                        raise self._later("too many bytes are on their way", _CLOSE)
                    self.held_bytes += len(chunk)
                    body += chunk
        except TimeoutError:
            limit = f"{self.settings.body_timeout_s:g} s"
            raise HTTPException(408, f"the body did not arrive within {limit}", _CLOSE) from None
        except ClientDisconnect:
            raise HTTPException(400, "the client went away", _CLOSE) from None
        if len(body) != size:
            raise HTTPException(400, f"the body has {len(body):,} bytes, {size:,} were announced", _CLOSE)

    async def _scored(self, request: Request, body: bytearray) -> Response:
        try:
            message = await to_thread.run_sync(ScoreMessage.model_validate_json, body)
        except ValidationError as error:
            raise HTTPException(422, _faults(error)) from None
        count, most = len(message.videos), self.settings.max_videos
        if count > min(most, self.settings.max_waiting):
            raise HTTPException(413, f"{count} videos in one request; send at most {most}")
        if self.num_waiting + count > self.settings.max_waiting:
            raise self._later(f"{self.num_waiting} videos wait already")
        self.num_waiting += count
        sources: list[WaitingVideo] = []
        try:
            for k, video in enumerate(message.videos):
                sources.append(await self._prepared(k, video))
            answers = await self._judged(request, sources)
        finally:
            self.num_waiting -= count
            close_all(sources)
        results = [_result(answer, message.evidence) for answer in answers]
        # Not a JSONResponse, which fails at NaN: a verdict says so where it has no probability.
        content = json.dumps({"reward": self.name, "digest": self.digest, "results": results})
        return Response(content, media_type="application/json")

    async def _prepared(self, k: int, video: VideoMessage) -> WaitingVideo:
        limiter = self._fetches if video.url is not None else None
        try:
            return await to_thread.run_sync(prepared, video, self.settings, limiter=limiter)
        except RefusedError as error:
            raise HTTPException(error.status, f"video {k}: {error}") from None

    async def _judged(self, request: Request, sources: list[WaitingVideo]) -> list[Answered]:
        try:
            futures = self.batches.submit(sources)
        except RuntimeError as error:
            raise self._later(str(error)) from None
        pending = {asyncio.wrap_future(future) for future in futures}
        try:
            while pending:
                _, pending = await asyncio.wait(pending, timeout=WATCH_S)
                if pending and await request.is_disconnected():
                    raise HTTPException(400, "the client went away", _CLOSE)
        finally:
            if pending:  # nobody waits any more: those whose turn has not come are not judged
                self.counters.add("videos_total", 'outcome="abandoned"', len(futures))
                for future in futures:
                    future.cancel()
        if any(future.cancelled() for future in futures):
            raise self._later("the server is stopping")
        answers = [future.result() for future in futures]
        lost = sum(answer.score is None for answer in answers)
        self.counters.add("videos_total", 'outcome="scored"', len(answers) - lost)
        self.counters.add("videos_total", 'outcome="unjudged"', lost)
        return answers

    def _later(self, reason: str, headers: Mapping[str, str] | None = None) -> HTTPException:
        """The refusal of a server that is busy, with the seconds after which trying again makes sense."""
        wait = min(max(math.ceil(self.batches.busy_s), 1), 30)
        return HTTPException(503, f"{reason}; try again later", {"Retry-After": str(wait), **(headers or {})})


class _Counting:
    """Counts answers by status, and adds the headers that keep them out of caches."""

    def __init__(self, app: ASGIApp, counters: Counters) -> None:
        self._app, self._counters = app, counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._counters.add("requests_total", f'status="{message["status"]}"')
                extra = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
                message["headers"] = [*message.get("headers", ()), *extra]
            await send(message)

        await self._app(scope, receive, counted if scope["type"] == "http" else send)


def _result(answer: Answered, evidence: bool) -> dict[str, Any]:
    verdict = answer.verdict
    brief: dict[str, Any] = {"score": answer.score, "reason": answer.reason, "parts": answer.parts}
    if verdict is not None:
        window = None if verdict.window is None else [verdict.window.start, verdict.window.end]
        brief |= {"status": verdict.status, "window": window}
    return brief | ({"verdict": verdict.to_dict()} if evidence and verdict is not None else {})


def _faults(error: ValidationError) -> str:
    """The first faults of a body with their places; never the input itself."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    told = [f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}"[:300] for fault in found[:5]]
    more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
    return "; ".join(told) + more
