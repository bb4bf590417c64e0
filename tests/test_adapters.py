"""Low-rank adapters in files of their own, of `gptlib.extras.adapters`."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from byte_model import TOKENS, lora, small
from safetensors.torch import load_file, save_file

from gptlib.extras.adapters import (
    adapter_tensors,
    fingerprint,
    load_adapters,
    save_adapters,
)
from gptlib.instructions import PROJECTIONS, LoRAConfig, lora_layers, merge_lora


def test_adapters_come_back_from_their_file(tmp_path: Path) -> None:
    model = lora(small(), alpha=3.0)
    path = tmp_path / "new" / "adapters.safetensors"
    save_adapters(model, path)
    back = load_adapters(small(), path)
    assert torch.equal(back(TOKENS), model(TOKENS))
    assert next(iter(lora_layers(back).values())).config == LoRAConfig(2, 3.0, PROJECTIONS)
    assert [p.name for p in path.parent.iterdir()] == ["adapters.safetensors"]
    n_bytes = sum(p.numel() * 4 for p in model.parameters() if p.requires_grad)
    assert n_bytes < path.stat().st_size < n_bytes + 8_000
    assert load_file(path).keys() == adapter_tensors(model).keys()
    (tmp_path / "new" / "file").touch()
    assert len({p.stat().st_mode for p in path.parent.iterdir()}) == 1  # read by whoever may


def test_the_fingerprint_is_the_base_model_s_alone() -> None:
    assert fingerprint(lora(small())) == fingerprint(small())
    assert fingerprint(small(1)) != fingerprint(small())
    assert fingerprint(merge_lora(lora(small()))) != fingerprint(small())


def test_the_fingerprint_is_that_of_older_files_where_the_head_had_no_name() -> None:
    model = small()
    names = [name for name in model.state_dict() if name != "head.weight"]
    assert names == [*dict(model.named_parameters())]
    digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters()))
    assert fingerprint(model) == digest.hexdigest()


@pytest.mark.parametrize("other", [{"seed": 1}, {"n_layer": 3}, {"n_embd": 32}])
def test_adapters_of_another_model_are_refused_and_it_stays_as_it_was(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    path = tmp_path / "adapters.safetensors"
    save_adapters(lora(small()), path)
    model = small(**other)
    with pytest.raises(ValueError, match=r"adapters.safetensors were made for another model: its"):
        load_adapters(model, path)
    assert not lora_layers(model)
    assert all(p.requires_grad for p in model.parameters())


def test_a_model_without_adapters_has_none_to_save(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no adapters to save; call add_lora first"):
        save_adapters(small(), tmp_path / "a")


def test_another_safetensors_file_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"model\.safetensors holds no adapters; name a file that"):
        load_adapters(small(), path)


def test_no_file_of_adapters_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_adapters(small(), tmp_path / "none.safetensors")


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "adapters.safetensors"
    model = lora(small())
    save_adapters(model, path)
    whole = path.read_bytes()
    tensors = {name: tensor.detach() for name, tensor in adapter_tensors(model).items()}
    notes = {"fingerprint": fingerprint(model)}
    good = {"rank": 2, "alpha": 16.0, "projections": PROJECTIONS}
    contents: list[bytes | dict[str, str]] = [
        b"", b"text", whole[:-1], whole[:40], whole[8:],
        {"lora": "{"}, {"lora": "[]"}, {"lora": "{}"},
        {"lora": json.dumps(good | {"rank": 0})}, {"lora": json.dumps(good | {"more": 1})},
    ]  # fmt: skip
    for content in contents:
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            save_file(tensors, path, notes | content)
        with pytest.raises(ValueError, match=r"is damaged: "):
            load_adapters(small(), path)
    for wrong in (good | {"rank": 3}, good | {"projections": ["attn.qkv"]}):
        save_file(tensors, path, notes | {"lora": json.dumps(wrong)})
        fresh = small()
        with pytest.raises(ValueError, match="tensors are not those of LoRAConfig"):
            load_adapters(fresh, path)
        assert not lora_layers(fresh)
