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

from gptlib.extras.compiled import CompiledGPT, compile_decode
from gptlib.extras.onednn import multiply_in_onednn
from gptlib.extras.quantize import quantize
from gptlib.generation import (
    Sampling,
    beam_search,
    decode,
    generate,
    generate_batch,
    make_cache,
    prefill,
)
from gptlib.gpt2 import GPT

MODEL = cast(GPT, perturbed(GPT(replace(TINY, n_embd=64), seeded()))).eval()
LENGTH = TINY.context_length
GREEDY = Sampling(temperature=0)

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")) is None,
    reason="there is no C++ compiler on this machine",
)


@pytest.fixture(scope="module")
def fast() -> CompiledGPT:
    return compile_decode(MODEL)


@pytest.fixture
def steps(fast: CompiledGPT, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Note the length of the keys at each compiled step; let no step compile anew."""
    lengths, step = [], fast.step

    def noting(token: Tensor, position: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
        lengths.append(keys[0].size(2))
        return step(token, position, keys, values)

    monkeypatch.setattr(fast, "step", noting)
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield lengths


@needs_compiler
@pytest.mark.parametrize("n_prompt", [1, 2, LENGTH - 3])
def test_each_step_gives_the_logits_of_the_whole_model(
    n_prompt: int, fast: CompiledGPT, steps: list[int]
) -> None:
    tokens = random_tokens(TINY, 1, LENGTH)
    with torch.no_grad():
        expected = MODEL(tokens)[0]
    cache = make_cache(fast, [[0] * n_prompt], LENGTH)
    logits = [prefill(fast, tokens[:, :n_prompt].tolist(), cache)[0]]
    logits += [decode(fast, tokens[:, i], cache)[0] for i in range(n_prompt, LENGTH)]
    torch.testing.assert_close(torch.stack(logits), expected[n_prompt - 1 :], rtol=1e-4, atol=1e-5)
    assert steps == list(range(n_prompt + 1, LENGTH))  # the last slot is left to the plain way
    with pytest.raises(ValueError, match="are filled; make it larger"):
        decode(fast, tokens[:, 0], cache)


@needs_compiler
@pytest.mark.parametrize("n_new", [5, 3 * LENGTH])
def test_it_writes_the_same_text_also_when_the_window_moves(
    n_new: int, fast: CompiledGPT, steps: list[int]
) -> None:
    assert list(generate(fast, [1, 2, 3], n_new, GREEDY)) == list(
        generate(MODEL, [1, 2, 3], n_new, GREEDY)
    )
    drawn = [list(generate(m, [4], n_new, generator=seeded())) for m in (fast, MODEL)]
    assert drawn[0] == drawn[1]
    assert len(steps) > n_new


@needs_compiler
def test_several_texts_and_beams_go_the_plain_way(fast: CompiledGPT, steps: list[int]) -> None:
    prompts = [[1], [2, 3, 4], [5, 6]]
    ends = {*list(generate_batch(MODEL, prompts, 6, GREEDY))[1][:2]} - {None}
    batches = [
        list(generate_batch(model, prompts, 12, GREEDY, end_tokens=cast(set[int], ends)))
        for model in (fast, MODEL)
    ]
    assert batches[0] == batches[1]  # ends with one row, which still has padding before it
    assert beam_search(fast, [1, 2], 3, 6) == beam_search(MODEL, [1, 2], 3, 6)
    assert not steps


@needs_compiler
def test_it_shares_the_weights_and_follows_them(fast: CompiledGPT, steps: list[int]) -> None:
    assert fast.ln_f.weight is MODEL.ln_f.weight
    assert fast.state_dict().keys() == MODEL.state_dict().keys()
    assert type(MODEL) is GPT
    assert type(MODEL.blocks[0].attn.qkv) is torch.nn.Linear
    before = list(generate(fast, [1], 12, GREEDY))
    with torch.no_grad():
        MODEL.ln_f.weight.neg_()
        try:
            after = list(generate(fast, [1], 12, GREEDY))
            assert after == list(generate(MODEL, [1], 12, GREEDY))
        finally:
            MODEL.ln_f.weight.neg_()
    assert after != before
    assert steps


@needs_compiler
def test_models_compiled_in_one_process_do_not_use_up_each_other_s_room(fast: CompiledGPT) -> None:
    small = GPT(replace(TINY, n_layer=1, n_head=1, n_embd=8, context_length=4), seeded()).eval()
    with torch._dynamo.config.patch(recompile_limit=1):
        twin = compile_decode(small)
        assert list(generate(twin, [1], 6, GREEDY)) == list(generate(small, [1], 6, GREEDY))
        assert list(generate(fast, [1], 6, GREEDY)) == list(generate(MODEL, [1], 6, GREEDY))


@needs_compiler
def test_a_model_that_multiplies_in_onednn_can_be_compiled() -> None:
    model = GPT(replace(TINY, n_layer=1, n_head=1, n_embd=8), seeded()).eval()
    expected = list(generate(model, [1], 6, GREEDY))
    multiply_in_onednn(model)
    assert list(generate(compile_decode(model), [1], 6, GREEDY)) == expected


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (GPT(TINY).bfloat16(), r"GPT in torch.bfloat16 on cpu; .* model.float\(\).cpu\(\) first"),
        (GPT(TINY).to("meta"), "in torch.float32 on meta"),
        (quantize(GPT(TINY)), "is a QuantizedGPT"),
    ],
    ids=["half", "meta", "int8"],
)
def test_other_models_are_refused(model: GPT, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        compile_decode(model)


def test_a_missing_compiler_is_told_with_the_way_out(tmp_path: Path) -> None:
    program = (
        "from gptlib.gpt2 import GPT, GPTConfig\n"
        "from gptlib.extras.compiled import compile_decode\n"
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
