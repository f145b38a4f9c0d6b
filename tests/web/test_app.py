import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openflan.catalog.load import Catalog, load_catalog
from openflan.errors import ConfigError, RunError
from openflan.web import app as module
from openflan.web import views


@pytest.fixture(scope="module")
def world() -> Catalog:
    return load_catalog("world")


@pytest.fixture(scope="module")
def tiny() -> Any:
    """A random model of a few kilobytes that reads bytes."""
    torch = pytest.importorskip("torch")
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    from openflan.models.load import LanguageModel

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(BPE(vocab={token: i for i, token in enumerate(["<s>", "</s>", *letters])}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    torch.manual_seed(0)
    config = AutoConfig.for_model("gpt2", n_embd=16, n_layer=1, n_head=2, vocab_size=260, n_positions=96)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    return LanguageModel(name="tiny", model=model, tokenizer=tokenizer, prompt_format=None, context=96, identity="tiny")


def test_a_task_is_shown_through_its_templates(world: Catalog) -> None:
    name = next(iter(world.tasks))
    one = views.rendered(world, name, world.task(name).templates[0].id, "train", 2, "", 0)
    every = views.rendered(world, name, views.ALL, "train", 2, "", 0)
    assert one.count("<pre>") == 2
    assert every.count("<pre>") == 2 * len(world.task(name).templates)
    assert world.task(name).title in every


def test_options_are_ranked_best_first_and_their_shares_sum_to_all(tiny: Any) -> None:
    html = views.answered(tiny, "Is it so?", "yes\nno\n\nperhaps\nno")
    assert sorted(re.findall(r'<th scope="row">(\w+)</th>', html)) == ["no", "perhaps", "yes"]
    shares = [float(share) for share in re.findall(r"</span>([\d.]+)</td>", html)]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert "<pre>Is it so?\n</pre>" in html


def test_without_options_the_model_writes(tiny: Any) -> None:
    assert '<pre class="of-target">' in views.answered(tiny, "Go on:", "  \n")


def test_what_does_not_fit_is_said_and_not_cut(tiny: Any) -> None:
    html = views.shown(views.answered)(tiny, "a" * 200, "yes\nno")
    assert "does not fit tiny" in html


def test_foreign_text_is_inert(tiny: Any) -> None:
    html = views.answered(tiny, "<script>${x}</script>{{y}}", "<b>")
    assert not re.search(r"<script|<b>|\$\{|\{\{", html)


def test_a_run_is_shown_in_a_frame_that_may_do_nothing(tmp_path: Path) -> None:
    numbers = '{"format": 1, "held_out": ["nli"], "arms": {"untuned": {"tasks": {"rte": {"mean": 0.5312}}}}}'
    (tmp_path / "result.json").write_text(numbers, encoding="utf-8")
    html = views.run_page(str(tmp_path))
    assert 'sandbox=""' in html
    assert "53.1" in html
    assert html.count("<") == 2  # the page itself is an attribute


def test_errors_are_shown_and_bugs_are_not_hidden() -> None:
    def refuses() -> str:
        raise RunError("no <result> here")

    assert "no &lt;result&gt; here" in views.shown(refuses)()
    with pytest.raises(ZeroDivisionError):
        views.shown(lambda: str(1 / 0))()
    assert "name a run folder" in views.shown(views.run_page)(" ")


def test_a_cleared_field_is_named(world: Catalog) -> None:
    html = views.shown(views.rendered)(world, next(iter(world.tasks)), views.ALL, "train", None, "", None)
    assert "rows: is empty" in html and "seed: is empty" in html


def test_what_the_system_refuses_is_shown(tmp_path: Path) -> None:
    (tmp_path / "result.json").mkdir()
    assert "result.json: Is a directory" in views.shown(views.run_page)(str(tmp_path))


def test_without_gradio_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    with pytest.raises(ConfigError, match=r"openflan\[web\]"):
        module.build_app()


@pytest.fixture
def built() -> Iterator[Any]:
    pytest.importorskip("gradio", reason="gradio is not installed (openflan[web])")
    before = threading.active_count()
    yield module.build_app(catalogs=["world"])
    assert threading.active_count() <= before + 8


@pytest.mark.slow
def test_the_app_builds_with_its_tabs(built: Any) -> None:
    labels = {block.get("props", {}).get("label") for block in built.get_config_file()["components"]}
    assert {"Catalog", "Runs", "Playground", "Task", "Run folder", "Instruction"} <= labels
    assert len(built.get_config_file()["dependencies"]) == 4
