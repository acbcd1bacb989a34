"""A judge's checkpoint behind the chat protocol, for measurements that need a served judge where no server runs.

    python benchmarks/chat_server.py assets/cac-mini --port 8123

One request at a time; answers are greedy, unfinished answers are continued, the twenty likeliest tokens are listed.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import torch
from PIL import Image

from reward_model.backends.local import LocalBackend
from reward_model.conversation import Conversation, Message, Sampling

LISTED = 20


class ChatServer(ThreadingHTTPServer):
    """The server on 127.0.0.1; ``port`` 0 takes a free one."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, model: str, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), ChatHandler)
        self.backend, self.lock = LocalBackend(model, device="cpu"), threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed are part of the measurement."""

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """What the model says."""
        messages = body["messages"]
        begun = messages[-1]["role"] == "assistant" and body.get("continue_final_message")
        prefix = messages.pop()["content"] if begun else ""
        asked = tuple(Message(m["role"], tuple(_parts(m["content"]))) for m in messages)
        with self.lock:
            if body["max_tokens"] == 1:
                return self._next_token(asked, prefix)
            (said,) = self.backend.generate([asked], Sampling(body["max_tokens"]))
        return _reply(said.text, "stop" if said.finished else "length", 1, said.num_tokens)

    def _next_token(self, asked: Conversation, prefix: str) -> dict[str, Any]:
        inputs = self.backend._inputs([asked], [prefix])
        with torch.inference_mode():
            logits = self.backend.model(**inputs, logits_to_keep=1).logits[0, -1]
        top = torch.log_softmax(logits.double(), -1).topk(LISTED)
        tokens = [self.backend.processor.tokenizer.decode([k]) for k in top.indices.tolist()]
        listed = [{"token": t, "logprob": p} for t, p in zip(tokens, top.values.tolist(), strict=True)]
        return _reply(tokens[0], "length", inputs["input_ids"].shape[1], 1, [{**listed[0], "top_logprobs": listed}])


class ChatHandler(BaseHTTPRequestHandler):
    server: ChatServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Says nothing."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        data = json.dumps(self.server.answer(body)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _reply(text: str, why: str, prompt_tokens: int, tokens: int, listed: list[Any] | None = None) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "finish_reason": why, "message": {"role": "assistant", "content": text}}
    if listed:
        choice["logprobs"] = {"content": listed}
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens}
    return {"id": "x", "model": "judge", "choices": [choice], "usage": usage}


def _parts(content: str | list[dict[str, Any]]) -> list[str | np.ndarray]:
    if isinstance(content, str):
        return [content]
    return [part["text"] if part["type"] == "text" else _picture(part["image_url"]["url"]) for part in content]


def _picture(url: str) -> np.ndarray:
    data = base64.b64decode(url.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("model", help="folder of the checkpoint")
    found.add_argument("--port", type=int, default=0, help="0 takes a free one (default)")
    return found


def main() -> None:
    args = parser().parse_args()
    with ChatServer(args.model, args.port) as server:
        print(server.url, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
