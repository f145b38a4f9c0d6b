"""Servers that others wrote, with packages that openflan's extras do not bring; OPENFLAN_TEST_SERVERS=1 runs these.

`transformers serve` needs openai, llama-cpp-python's server llama_cpp and gguf.
"""

import json
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


def write_gguf(folder: Path, file: Path) -> None:
    """A Llama folder of transformers with a sentencepiece model, as llama.cpp reads it, in float32."""
    gguf = pytest.importorskip("gguf")
    from safetensors.numpy import load_file
    from sentencepiece import SentencePieceProcessor

    config = json.loads((folder / "config.json").read_text())
    heads, key_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name(folder.name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)

    pieces = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    ids = range(pieces.vocab_size())

    def kind(token_id: int) -> int:
        types = gguf.TokenType
        if pieces.is_unknown(token_id):
            return types.UNKNOWN
        if pieces.is_control(token_id):
            return types.CONTROL
        return types.BYTE if pieces.is_byte(token_id) else types.NORMAL

    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([pieces.id_to_piece(token_id) for token_id in ids])
    writer.add_token_scores([pieces.get_score(token_id) for token_id in ids])
    writer.add_token_types([kind(token_id) for token_id in ids])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)

    parts = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    top = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for name, values in load_file(folder / "model.safetensors").items():
        name = name.removesuffix(".weight")
        if name in top:
            writer.add_tensor(f"{top[name]}.weight", values.astype("float32"))
            continue
        _, _, layer, part = name.split(".", 3)
        if part in ("self_attn.q_proj", "self_attn.k_proj"):
            # llama.cpp turns neighbouring pairs, transformers the two halves of a head.
            number = heads if part == "self_attn.q_proj" else key_heads
            halves = values.reshape(number, 2, values.shape[0] // number // 2, values.shape[1])
            values = halves.swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(f"blk.{layer}.{parts[part]}.weight", values.astype("float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def llama_cpp(stories: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("llama_cpp", reason="needs pip install 'llama-cpp-python[server]' gguf")
    folder = tmp_path_factory.mktemp("llama")
    write_gguf(Path(stories), folder / "stories.gguf")
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(folder / "stories.gguf")]
    # Keys and values in float32, and logits of all positions kept.
    command += ["--logits_all", "true", "--n_ctx", "512", "--type_k", "0", "--type_v", "0", "--n_threads", "1"]
    process, url = start([*command, "--model_alias", "stories", "--host", "127.0.0.1", "--port"], folder / "log")
    yield url
    process.kill()
    process.wait()


def test_llama_cpp_python_scores_and_generates_as_we_do(llama_cpp: str, stories_lm: LanguageModel) -> None:
    texts = [TextRequest(i, inputs, options) for i, (inputs, options) in enumerate(QUESTIONS)]
    encoded, merged = encode_requests(stories_lm, texts)
    expected = rank.score(stories_lm, encoded)
    with Endpoint(RemoteSettings(url=llama_cpp, model="stories", scoring="logprobs", concurrency=1)) as endpoint:
        remote = connect(endpoint, ranks=True)
        asked = [RemoteRequest(str(i), (inputs,), options) for i, (inputs, options) in enumerate(QUESTIONS)]
        found = score(remote, asked, moved=WHITESPACE)
        prompts = [RemoteRequest(str(i), (prompt,)) for i, prompt in enumerate(PROMPTS)]
        written = generate(remote, prompts, max_new_tokens=12, stops=["\n\n"])
    assert not found.skipped and sum(one.merged for one in found.answers) == merged
    for one, other in zip(found.answers, expected, strict=True):
        for logprobs, wanted in zip(one.logprobs, other.logprobs, strict=True):
            assert logprobs == pytest.approx(wanted, abs=1e-4)
    ids = [tuple(stories_lm.tokenizer(prompt).input_ids) for prompt in PROMPTS]
    requests = [local_generate.GenerationRequest(str(i), one) for i, one in enumerate(ids)]
    ours = local_generate.generate(stories_lm, requests, max_new_tokens=12, stops=["\n\n"])
    assert [one.text.strip() for one in written.answers] == [one.text.strip() for one in ours]
