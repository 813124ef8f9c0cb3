"""What tests of synthesis need: a tiny model in a folder, and an endpoint on loopback that can fail."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PARENTS = [
    f"Parent {number} tells of {'many ' * (number % 7)}things, {number * number} of them." for number in range(40)
]


def write_model(folder: Path, seed: int = 0, chat_template: str | None = None, positions: int = 256) -> Path:
    """A Llama of random weights and a byte-level tokenizer trained on a few words."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|pad|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(PARENTS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|pad|>")
    fast.chat_template = chat_template
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=positions,
        eos_token_id=fast.eos_token_id,
        bos_token_id=None,
        initializer_range=0.4,  # so that the likeliest token is not always the same
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


class Server:
    """Speaks chat completions and completions. An answer is a function of prompt and seed.

    `behave(prompt, attempt)` says what to do instead: (status, body bytes) or "stall"; None to answer.
    `requests` are the bodies received, `headers` their headers.
    """

    def __init__(self, behave: Callable[[str, int], Any] = lambda prompt, attempt: None, reply=None):
        self.requests: list[dict] = []
        self.headers: list[dict] = []
        self.paths: list[str] = []
        self.attempts: Counter[str] = Counter()
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()
        self.behave, self.reply = behave, reply or (lambda prompt, seed: f"On {prompt}: {_digest(prompt, seed)}")
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                server._answer(self)

            def log_message(self, *arguments):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._http.shutdown()
        self._http.server_close()

    def prompts(self) -> list[str]:
        return [_prompt(body) for body in self.requests]

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        prompt = _prompt(body)
        with self._lock:
            self.requests.append(body)
            self.headers.append(dict(handler.headers))
            self.paths.append(handler.path)
            self.attempts[prompt] += 1
            attempt = self.attempts[prompt]
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            told = self.behave(prompt, attempt)
            if told == "stall":
                time.sleep(5)  # in a thread that nobody waits for
                told = (200, b"too late")
            status, data = told or (200, self._completion(body, prompt))
            handler.send_response(status)
            handler.send_header("content-length", str(len(data)))
            if status == 302:
                handler.send_header("location", f"{self.address}/elsewhere")
            handler.end_headers()
            handler.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client has given up, as it should
        finally:
            with self._lock:
                self._at_once -= 1

    def _completion(self, body: dict, prompt: str) -> bytes:
        text = self.reply(prompt, body.get("seed"))
        choice = {"message": {"role": "assistant", "content": text}} if "messages" in body else {"text": text}
        answer = {
            "choices": [choice | {"finish_reason": "stop"}],
            "model": "served-1",
            "system_fingerprint": "fp_7",
        }
        return json.dumps(answer).encode()


def _prompt(body: dict) -> str:
    return body["messages"][0]["content"] if "messages" in body else body["prompt"]


def _digest(prompt: str, seed: int | None) -> str:
    return hashlib.sha256(f"{prompt}/{seed}".encode()).hexdigest()[:12]
