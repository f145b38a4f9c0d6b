"""Servers that others wrote, with packages that openflan's extras do not bring; OPENFLAN_TEST_SERVERS=1 runs these.

`transformers serve` needs openai, llama-cpp-python's server llama_cpp and gguf.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from openflan.encoding.boundary import WHITESPACE
from openflan.models.load import LanguageModel
from openflan.models.remote import Endpoint, RemoteSettings
from openflan.scoring import generate as local_generate
from openflan.scoring import rank
from openflan.scoring.remote import RemoteRequest, connect, generate, score
from openflan.scoring.requests import TextRequest, encode_requests

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "OPENFLAN_TEST_SERVERS" not in os.environ, reason="OPENFLAN_TEST_SERVERS=1 runs foreign servers"
    ),
]

PROMPTS = ["Once upon a time, there was a", "The cat sat on the", "Lily wanted to play.\nShe said:"]
QUESTIONS = [
    ("Once upon a time, there was a", (" little girl", " tree", " big dog named Spot")),
    ("Lily went to the par", ("k", "ty", "rot")),
    ("Is it a dog?\nAnswer:", (" yes", " no")),
    ("Tom said:\n", ("yes", "no, not yet")),
    ("The end. ", ("Once", "The")),
]


def start(command: list[str], log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A server on a free port, given as the last words of its command, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [*command, str(port)], stdout=log.open("wb"), stderr=subprocess.STDOUT, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    url = f"http://127.0.0.1:{port}/v1"
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        try:
            httpx.get(f"{url}/models")
            return process, url
        except httpx.TransportError:
            time.sleep(0.2)
    process.kill()
    pytest.fail(f"{command} did not come up: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def transformers_serve(stories: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("openai", reason="`transformers serve` needs it: pip install 'transformers[serving]'")
    log = tmp_path_factory.mktemp("serve") / "log"
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", stories, "--host", "127.0.0.1"]
    process, url = start([*command, "--device", "cpu", "--port"], log)
    yield url
    process.kill()
    process.wait()


def test_transformers_serve_generates_as_we_do_and_is_not_mistaken_for_a_scorer(
    transformers_serve: str, stories: str, stories_lm: LanguageModel
) -> None:
    ids = [tuple(stories_lm.tokenizer(prompt).input_ids) for prompt in PROMPTS]
    requests = [local_generate.GenerationRequest(str(i), one) for i, one in enumerate(ids)]
    expected = local_generate.generate(stories_lm, requests, max_new_tokens=12, stops=["\n\n"])
    with Endpoint(RemoteSettings(url=transformers_serve, model=stories, retries=1)) as endpoint:
        remote = connect(endpoint, ranks=True)
        # It takes `echo` and `logprobs`, ignores them, and answers.
        assert remote.way is None and "holds no log-probabilities of the prompt" in remote.why
        asked = [RemoteRequest(str(i), (prompt,)) for i, prompt in enumerate(PROMPTS)]
        found = generate(remote, asked, max_new_tokens=12, stops=["\n\n"])
    assert [one.text.strip() for one in found.answers] == [one.text.strip() for one in expected]
    assert [one.num_tokens for one in found.answers] == [one.num_tokens for one in expected]
