"""An OpenAI-compatible server as a process of its own, around a real model, with the faults that servers have.

`python -m tests.endpoint MODEL…` serves each model under its name on a free port of 127.0.0.1, which it prints.
MODEL is what transformers loads, or `toy`: a model over word pairs that needs no torch and so starts at once.
`POST /control` sets `Faults`, `GET /control` tells what was asked. Written from the published API, not from our client.
"""

import argparse
import hashlib
import itertools
import json
import math
import os
import re
import sys
import threading
import time
from dataclasses import dataclass, field, fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

WORDS = (" yes", " no", " the", " it", ".", "\n\n")


class Toy:
    """Tokens are words with the space before them; a token's probability hangs on the token before it."""

    context = 400

    def encode(self, text: str) -> list[str]:
        return ["<s>", *re.findall(r" ?\w+|[^\w]", text)]

    def piece(self, token: str) -> str:
        return token

    def logprobs(self, tokens: list[str]) -> list[float | None]:
        return [None, *(toy_logprob(a, b) for a, b in itertools.pairwise(tokens))]

    def following(self, tokens: list[str]) -> list[tuple[str, float]]:
        found = [(word, toy_logprob(tokens[-1], word)) for word in WORDS]
        return sorted(found, key=lambda one: -one[1])

    def text(self, tokens: list[str], written: list[str]) -> str:
        return "".join(written)

    def is_end(self, token: str) -> bool:
        return token == "."


def toy_logprob(before: str, token: str) -> float:
    """Between -8 and -1 nats."""
    digest = hashlib.sha256(f"{before}\0{token}".encode()).digest()
    return -1 - 7 * int.from_bytes(digest[:4], "big") / 2**32


class Loaded:
    """A model of transformers, asked in the plainest way: one text at a time, the whole model, float64."""

    def __init__(self, name: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(1)
        self.torch = torch
        self.tokenizer: Any = AutoTokenizer.from_pretrained(name)
        self.model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval()
        self.context = self.model.config.max_position_embeddings
        self.lock = threading.Lock()

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text).input_ids

    def piece(self, token: int) -> str:
        # As vLLM writes tokens: decoded one by one, a sentencepiece's space kept.
        raw = self.tokenizer.convert_ids_to_tokens(token)
        return raw.replace("▁", " ") if "▁" in raw else self.tokenizer.decode([token])

    def distribution(self, tokens: list[int]) -> Any:
        with self.lock, self.torch.inference_mode():
            return self.model(self.torch.tensor([tokens])).logits[0].double().log_softmax(-1)

    def logprobs(self, tokens: list[int]) -> list[float | None]:
        found = self.distribution(tokens)
        return [None, *(found[at, token].item() for at, token in enumerate(tokens[1:]))]

    def following(self, tokens: list[int]) -> list[tuple[int, float]]:
        values, tokens = self.distribution(tokens)[-1].topk(5)
        return list(zip(tokens.tolist(), values.tolist(), strict=True))

    def text(self, tokens: list[int], written: list[int]) -> str:
        before, whole = self.tokenizer.decode(tokens), self.tokenizer.decode(tokens + written)
        return whole[len(before) :]

    def is_end(self, token: int) -> bool:
        return token == self.tokenizer.eos_token_id


@dataclass
class Faults:
    statuses: list[int] = field(default_factory=list)
    """Of the next answers; 0 closes the connection instead, and -1 is a right answer."""
    retry_after: str = ""
    message: str = "something went wrong"
    code: str = ""
    die_after: int = -1
    """Answers, then the process ends in the middle of one."""
    slow_seconds: float = 0
    """Before the next answer only."""
    prompt_logprobs: str = "right"
    """right | none | generated (of the written token only) | zeros | shifted | not finite | mangled (tokens)"""
    echo: bool = True
    """Whether `echo` is known; else it is an error."""
    bos: bool = True
    """Whether the BOS is in the list of tokens."""
    offsets_only: bool = False
    """Tokens are told by their numbers, so that only text_offset says where they are."""
    completions: bool = True
    length_key: str = "max_tokens"
    key: str = ""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    models: dict[str, Any]
    faults = Faults()
    asked: list[dict[str, Any]]
    answered = 0
    under_way = most_under_way = 0
    lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def send(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None) -> None:
        self.send({"error": {"message": message, "type": "error", "code": code or None}}, status, headers)

    def do_GET(self) -> None:
        if self.path == "/control":
            self.send({"asked": self.server.asked, "most_under_way": self.server.most_under_way})
        elif self.path == "/v1/models":
            self.send({"object": "list", "data": [{"id": name, "object": "model"} for name in self.server.models]})
        else:
            self.refuse(404, "no such path")

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/control":
            known = {one.name for one in fields(Faults)}
            assert set(body) <= known, body
            server.faults, server.asked, server.answered = Faults(**body), [], 0
            server.most_under_way = 0
            return self.send({})
        with server.lock:
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        try:
            self.answer(body)
        finally:
            with server.lock:
                server.under_way -= 1

    def answer(self, body: dict[str, Any]) -> None:
        server, faults = self.server, self.server.faults
        with server.lock:
            server.asked.append({"path": self.path, "at": time.time(), **body})
            status = faults.statuses.pop(0) if faults.statuses else None
            server.answered += 1
            dies = 0 <= faults.die_after < server.answered
            slow, faults.slow_seconds = faults.slow_seconds, 0
        if dies:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n{")
            self.wfile.flush()
            os._exit(1)
        time.sleep(slow)
        if status == 0:
            self.close_connection = True
            return None
        if status not in (None, -1):
            return self.refuse(
                status, faults.message, faults.code, {"Retry-After": faults.retry_after} if faults.retry_after else None
            )
        if faults.key and self.headers.get("Authorization") != f"Bearer {faults.key}":
            return self.refuse(401, f"Incorrect API key provided: {self.headers.get('Authorization')}")
        chat = self.path == "/v1/chat/completions"
        if not chat and (self.path != "/v1/completions" or not faults.completions):
            return self.refuse(404, "no such path")
        if body["model"] not in server.models:
            return self.refuse(404, f"The model `{body['model']}` does not exist.")
        if body.get("echo") and not faults.echo:
            return self.refuse(400, "Only no echo is supported")
        if faults.length_key not in body:
            return self.refuse(400, f"Unsupported parameter: use '{faults.length_key}' instead.")
        return self.complete(server.models[body["model"]], body, chat)

    def complete(self, model: Any, body: dict[str, Any], chat: bool) -> None:
        faults = self.server.faults
        text = "".join(one["content"] for one in body["messages"]) if chat else body["prompt"]
        tokens = model.encode(text)
        most = body[faults.length_key]
        if len(tokens) + most > model.context:
            return self.refuse(
                400,
                f"This model's maximum context length is {model.context} tokens. However, you requested "
                f"{len(tokens) + most} tokens.",
            )
        written, first, reason = [], [], "length"
        stops = body.get("stop") or []
        while len(written) < most:
            best = model.following(tokens + written)
            first = first or best
            if model.is_end(best[0][0]) and not faults.offsets_only:
                reason = "stop"
                break
            written.append(best[0][0])
            if any(stop in model.text(tokens, written) for stop in stops):
                reason = "stop"
                break
        answer = model.text(tokens, written)
        for stop in stops:
            answer = answer.partition(stop)[0]
        usage = {"prompt_tokens": len(tokens), "completion_tokens": len(written)}
        usage["total_tokens"] = sum(usage.values())
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
        if chat:
            choice["message"] = {"role": "assistant", "content": answer}
        else:
            choice["text"] = text + answer if body.get("echo") else answer
            if body.get("logprobs") is not None:
                choice["logprobs"] = self.listed(model, tokens, written, first, body)
            if body.get("prompt_logprobs") is not None and faults.prompt_logprobs == "right":
                values = model.logprobs(tokens)
                choice["prompt_logprobs"] = [
                    None
                    if value is None
                    else {str(i): {"logprob": value, "rank": 1, "decoded_token": model.piece(token)}}
                    for i, (token, value) in enumerate(zip(tokens, values, strict=True))
                ]
        return self.send({"object": "text_completion", "model": body["model"], "choices": [choice], "usage": usage})

    def listed(self, model: Any, tokens: list[Any], written: list[Any], first: list[Any], body: dict[str, Any]) -> Any:
        """The `logprobs` of a choice: of the prompt too where it is echoed, and of the first written token."""
        faults = self.server.faults
        echoed = tokens if body.get("echo") and faults.prompt_logprobs != "generated" else []
        if body.get("echo") and faults.prompt_logprobs == "none":
            return None
        values = model.logprobs(tokens)[: len(echoed)]
        if faults.prompt_logprobs == "zeros":
            values = [0.0] * len(values)
        elif faults.prompt_logprobs == "shifted":
            values = [None, *values[:-1]]
        elif faults.prompt_logprobs == "not finite":
            values = [math.nan if i > 3 else value for i, value in enumerate(values)]
        if echoed and not faults.bos:
            echoed, values = echoed[1:], [None, *values[2:]]
        after = [(token, value) for token, value in first if written and token == written[0]]
        pieces = [model.piece(token) for token in [*echoed, *(token for token, _ in after)]]
        offsets, at = [], 0
        for piece in pieces:
            offsets.append(at)
            at += 0 if piece == "<s>" else len(piece)
        if faults.prompt_logprobs == "mangled":
            pieces, offsets = pieces[::-1], [offset + 1 for offset in offsets]
        if faults.offsets_only:
            pieces = [f"token_id:{i}" for i, _ in enumerate(pieces)]
        top = {model.piece(token): value for token, value in first[: body["logprobs"]]}
        return {
            "tokens": pieces,
            "token_logprobs": [*values, *(value for _, value in after)],
            "top_logprobs": [*[None] * len(echoed), top],
            "text_offset": offsets,
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    names = parser.parse_args().models
    server = Server(("127.0.0.1", 0), Handler)
    server.models = {Path(name).name: Toy() if name == "toy" else Loaded(name) for name in names}
    server.asked = []
    sys.stdout.write(f"{server.server_port}\n")  # what starts this process waits for its address
    sys.stdout.flush()
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    server.serve_forever()


def _leave_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
