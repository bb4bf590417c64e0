"""The command `info` counts what a model is and costs."""

import json
from pathlib import Path

import pytest
from command_line import refusal, written

from gptlib.gpt2 import GPT, GPT2_XL, GPTConfig, count_parameters, flops_per_token

SMALL = GPTConfig(vocab_size=30, context_length=8, n_layer=3, n_head=2, n_embd=12)


@pytest.mark.parametrize("bias", [True, False])
def test_the_parts_are_those_of_a_model_and_sum_to_all(bias: bool) -> None:
    config = GPTConfig(**{**SMALL.__dict__, "bias": bias})
    parts, block = count_parameters(config), GPT(config).blocks[0]
    assert parts["total"] == sum(n for name, n in parts.items() if name != "total")
    assert parts["total"] == count_parameters(config)["total"]
    qkv = sum(parameter.numel() for parameter in block.attn.qkv.parameters())
    assert parts["queries"] == parts["keys"] == parts["values"] == config.n_layer * qkv // 3
    output = sum(parameter.numel() for parameter in block.attn.proj.parameters())
    assert parts["attention output"] == config.n_layer * output


def test_a_size_is_counted_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(written(capsys, "info", "gpt2-xl", "--json"))
    assert told["config"]["n_layer"] == 48
    assert told["parameters"]["total"] == 1_557_611_200
    assert told["bytes"]["weights"] == 2 * told["bytes"]["weights in bfloat16"] == 6_230_444_800
    assert told["flops_per_token"] == flops_per_token(GPT2_XL)
    more = json.loads(written(capsys, "info", "gpt2-xl", "--json", "--batch-size", 3))
    name = "keys and values of full contexts"
    assert more["bytes"][name] == 3 * told["bytes"][name]


def test_models_and_configurations_are_told_as_tables(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shipped = written(capsys, "info")
    assert written(capsys, "info", "novels-gpu") == shipped  # the course's model has its sizes
    assert "queries" in shipped
    assert "13,891,584  100.0%" in shipped
    (tmp_path / "my.yaml").write_text("model: {n_layer: 1, n_head: 2, n_embd: 6}\n")
    assert "n_embd                6" in written(capsys, "info", tmp_path / "my.yaml")


def test_what_names_no_model_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "there is no folder 'nope'" in refusal(capsys, "info", "nope")
    assert "gives no sizes of a model under `model:`" in refusal(capsys, "info", "fine-tune")
    assert "--batch-size: 0 is too small" in refusal(capsys, "info", "--batch-size", 0)
    (tmp_path / "odd.yaml").write_text("model: {layers: 3}\n")
    assert "gives no sizes" in refusal(capsys, "info", tmp_path / "odd.yaml")
    (tmp_path / "odd.yaml").write_text("model: 3\n")
    assert "gives no sizes" in refusal(capsys, "info", tmp_path / "odd.yaml")


@pytest.mark.parametrize(("norm", "norms"), [("none", 1), ("post", 5)])
def test_a_variant_s_norms_are_counted(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, norm: str, norms: int
) -> None:
    sizes = "n_layer: 2, n_head: 2, n_embd: 6, vocab_size: 9, context_length: 4"
    (tmp_path / "odd.yaml").write_text(f"model: {{{sizes}, norm: {norm}}}\n")
    told = json.loads(written(capsys, "info", tmp_path / "odd.yaml", "--json"))
    parts, total = told["parameters"], told["parameters"].pop("total")
    assert parts["norms"] == norms * 2 * 6
    assert total == sum(parts.values())
    assert told["bytes"]["weights"] == 2 * told["bytes"]["weights in bfloat16"] == 4 * total
