"""A model with a compiled decode step writes what it wrote before, and is compiled once."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from test_gpt2 import TINY, perturbed, random_tokens, seeded
from torch import Tensor

from gptlib.extras.fast import fast
from gptlib.extras.fast.compiled import compile_decode
from gptlib.extras.fast.int8 import quantize
from gptlib.extras.fast.onednn import multiply_in_onednn
from gptlib.generation import (
    KeyValueCache,
    Sampling,
    Step,
    beam_search,
    decode_step,
    generate,
    generate_batch,
    prefill,
)
from gptlib.gpt2 import GPT

MODEL = cast(GPT, perturbed(GPT(replace(TINY, n_embd=64), seeded()))).eval()
LENGTH = TINY.context_length
GREEDY = Sampling(temperature=0)

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")) is None,
    reason="there is no C++ compiler on this machine",
)


@pytest.fixture(scope="module")
def step() -> Step:
    return compile_decode(MODEL)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Note the length at each step that is not compiled; let no compiled step compile anew."""
    lengths: list[int] = []

    def noting(model: GPT, tokens: Tensor, cache: KeyValueCache) -> Tensor:
        lengths.append(cache.length)
        return decode_step(model, tokens, cache)

    monkeypatch.setattr("gptlib.extras.fast.compiled.decode_step", noting)
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield lengths


@needs_compiler
@pytest.mark.parametrize("n_prompt", [1, 2, LENGTH - 3])
def test_each_step_gives_the_logits_of_the_whole_model(
    n_prompt: int, step: Step, plain: list[int]
) -> None:
    tokens = random_tokens(TINY, 1, LENGTH)
    with torch.no_grad():
        expected = MODEL(tokens)[0]
    cache = KeyValueCache(MODEL, 1, LENGTH)
    logits = [prefill(MODEL, tokens[:, :n_prompt].tolist(), cache)[0]]
    logits += [step(tokens[:, i], cache)[0] for i in range(n_prompt, LENGTH)]
    torch.testing.assert_close(torch.stack(logits), expected[n_prompt - 1 :], rtol=1e-4, atol=1e-5)
    assert plain == [LENGTH - 1]  # the last slot is left to the plain way
    with pytest.raises(ValueError, match="make the cache larger"):
        step(tokens[:, 0], cache)


@needs_compiler
@pytest.mark.parametrize("n_new", [5, 3 * LENGTH])
def test_it_writes_the_same_text_also_when_the_window_moves(
    n_new: int, step: Step, plain: list[int]
) -> None:
    for prompt, sampling in (([1, 2, 3], GREEDY), ([4], Sampling())):
        texts = [
            list(generate(MODEL, prompt, n_new, sampling, generator=seeded(), step=one))
            for one in (step, None)
        ]
        assert texts[0] == texts[1]
    assert len(plain) < n_new / 2


@needs_compiler
def test_several_texts_and_beams_go_the_plain_way(step: Step, plain: list[int]) -> None:
    prompts = [[1], [2, 3, 4], [5, 6]]
    ends = {token or 0 for token in next(generate_batch(MODEL, prompts, 1, GREEDY))[:2]}
    batches = [
        list(generate_batch(MODEL, prompts, 12, GREEDY, end_tokens=ends, step=one))
        for one in (step, None)
    ]
    assert batches[0] == batches[1]  # ends with one row, which still has padding before it
    assert len(plain) == 11
    assert beam_search(MODEL, [1, 2], 3, 6, step=step) == beam_search(MODEL, [1, 2], 3, 6)


@needs_compiler
def test_it_shares_the_weights_and_follows_them(step: Step, plain: list[int]) -> None:
    assert type(MODEL.blocks[0].attn.qkv) is type(MODEL.head) is torch.nn.Linear
    before = list(generate(MODEL, [1], 12, GREEDY, step=step))
    with torch.no_grad():
        MODEL.ln_f.weight.neg_()
        try:
            after = list(generate(MODEL, [1], 12, GREEDY, step=step))
            assert after == list(generate(MODEL, [1], 12, GREEDY))
        finally:
            MODEL.ln_f.weight.neg_()
    assert after != before
    assert not plain


@needs_compiler
def test_models_compiled_in_one_process_do_not_use_up_each_other_s_room(step: Step) -> None:
    small = GPT(replace(TINY, n_layer=1, n_head=1, n_embd=8, context_length=4), seeded()).eval()
    config = torch._dynamo.config
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # 2.6
    with config.patch({limit: 1}):
        twin, its = fast(small, compile=True)
        for model, one in ((twin, its), (MODEL, step)):
            text = list(generate(model, [1], 6, GREEDY, step=one))
            assert text == list(generate(model, [1], 6, GREEDY))


@needs_compiler
def test_a_model_that_multiplies_in_onednn_can_be_compiled() -> None:
    model = GPT(replace(TINY, n_layer=1, n_head=1, n_embd=8), seeded()).eval()
    expected = list(generate(model, [1], 6, GREEDY))
    multiply_in_onednn(model)
    assert list(generate(model, [1], 6, GREEDY, step=compile_decode(model))) == expected


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (GPT(TINY).bfloat16(), r"in torch.bfloat16 on cpu; .* model.float\(\).cpu\(\) first"),
        (GPT(TINY).to("meta"), "in torch.float32 on meta"),
        (quantize(GPT(TINY)), "the model is in int8 on cpu"),
    ],
    ids=["half", "meta", "int8"],
)
def test_other_models_are_refused(model: GPT, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        compile_decode(model)


def test_a_missing_compiler_is_told_with_the_way_out(tmp_path: Path) -> None:
    program = (
        "from gptlib.gpt2 import GPT, GPTConfig\n"
        "from gptlib.extras.fast.compiled import compile_decode\n"
        "compile_decode(GPT(GPTConfig(vocab_size=9, context_length=4, n_layer=1, n_head=1, "
        "n_embd=8)))\n"
    )
    nowhere = {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | nowhere,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "RuntimeError: the decode step could not be compiled; it needs a C++" in done.stderr
    assert "apt install g++" in done.stderr.splitlines()[-1]
