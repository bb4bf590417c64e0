"""The one door to trained models: the course's own, GPT-2, your runs, other people's files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from gptlib.extras.formats.folders import (
    bare_name,
    hide_tokens,
    load_folder,
    load_pickled,
    read_pickle,
)
from gptlib.extras.formats.hub import RELEASES, find_release
from gptlib.extras.formats.text_files import check_file
from gptlib.extras.formats.tokenizer_files import FILES, fit_tokenizer, read_any_tokenizer
from gptlib.extras.tokens import quick
from gptlib.extras.variants import as_config, build
from gptlib.generation import check_vocabulary
from gptlib.gpt2 import GPT
from gptlib.instructions import LoRAConfig, add_lora, lora_layers, merge_lora
from gptlib.tokenizer import Tokenizer, find_data, gpt2_encoding
from gptlib.weights import gpt2_view, read_json, read_shapes, read_tensor

SHIPPED = "novels"
"""Name of the model that travels with the course, in data/models."""

MADE_BY = "made-by.txt"
"""In a run's tokenizer folder: what it was asked for as; GPT-2's own tokenizer is not copied."""


def load_model(
    model: str | Path | None = None, dtype: torch.dtype = torch.float32
) -> tuple[GPT, Tokenizer]:
    """Load a trained model and its tokenizer.

    Args:
        model: "novels", which travels with the course; "gpt2" (124M), "gpt2-medium" (355M),
            "gpt2-large" (774M) or "gpt2-xl" (1558M), which are fetched once; or a folder: of
            `save_gpt2`, of transformers (also cut into shards, or of adapters of PEFT), of OpenAI's
            release (which `gptlib.extras.formats.openai_release` fetches) and what gpt-2-simple
            makes of it, chapter 5's runs folder (`NAME.pt` beside `NAME-tokenizer`), or of a run of
            `python -m gptlib train`, complete or stopped; or one file of weights in such a folder,
            or nanoGPT's ckpt.pt. "./gpt2" is a folder. None loads `default_model()`.
        dtype: What the weights become, however they are stored.

    Returns:
        The model, on the CPU and in evaluation mode, and the tokenizer: GPT-2's own as tiktoken's
        `Encoding`, any other as a `BPETokenizer`. A model with more rows than its tokenizer has
        tokens keeps them, and never draws them.

    Raises:
        ConnectionError: If GPT-2 is not on this machine and can't be fetched.
        FileNotFoundError: If the folder or one of its files is not there.
        ValueError: If a file is damaged, could run code, or does not fit the others.

    Example:
        >>> load_model("my-model")
        Traceback (most recent call last):
        FileNotFoundError: there is no folder 'my-model'; pass one, or one of novels, gpt2,
        gpt2-medium, gpt2-large, gpt2-xl
    """
    wanted = default_model() if model is None else model
    name = wanted.removeprefix("openai-community/") if isinstance(wanted, str) else ""
    if name == SHIPPED:
        return load_folder(find_shipped(), dtype)
    if name in RELEASES:
        return load_folder(find_release(name), dtype)
    path = Path(wanted).expanduser()
    index = Path(f"{path}.index")  # TensorFlow names a checkpoint without its ends
    if path.is_file() or index.is_file():
        return _load_file(path if path.is_file() else index, dtype)
    if not path.is_dir():
        raise FileNotFoundError(
            f"there is no folder {str(wanted)!r}; pass one, or one of "
            + ", ".join([SHIPPED, *RELEASES])
        )
    whole = [*path.glob("model*.safetensors"), *path.glob("pytorch_model*.bin")]
    if (path / _ADAPTERS).is_file() and not whole:
        return load_peft(path, dtype)
    if (path / "config.json").exists():
        return load_folder(path, dtype)
    if (path / "config.yaml").is_file():
        return _load_trained(path, dtype)
    if runs := sorted([*path.glob("*.pt"), *path.glob("*.pth"), *path.glob("*.ckpt")]):
        return _load_file(_choose_run(runs), dtype)
    marks = ("config.json", "hparams.json", "config.yaml")
    inside = [
        str(part.parent.relative_to(path))
        for mark in marks
        for place in ("*", "snapshots/*")  # the latter in a cache of Hugging Face's
        for part in sorted(path.glob(f"{place}/{mark}"))
    ]
    if inside and not (path / "hparams.json").is_file():
        raise FileNotFoundError(
            f"{path} holds no model itself; name one of its folders: {', '.join(inside[:9])}"
        )
    name_adapters(path)
    return load_folder(path, dtype)


def _load_file(path: Path, dtype: torch.dtype) -> tuple[GPT, Tokenizer]:
    """Load a model whose weights are in one file, with what lies beside it."""
    check_file(path)
    if path.name.startswith("adapter_"):
        return load_peft(path.parent, dtype)
    if path.suffix in (".index", ".safetensors", ".bin", ".json"):
        name_adapters(path.parent)
        return load_folder(path.parent, dtype, path if path.name != "config.json" else None)
    with open(path, "rb") as file:
        if file.read(2) not in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04"):
            raise ValueError(
                f"{path} is no file of weights that can be read; name a model's folder"
            )
    content = read_pickle(path)
    if isinstance(content, dict) and "training_config" in content:
        return _load_checkpoint(path, content, dtype)
    return load_pickled(path, content, lambda: _find_tokenizer(path), dtype)


def _find_tokenizer(run: Path) -> Tokenizer | None:
    """Look for a tokenizer beside a checkpoint, None if there is none."""
    for folder in (run.with_name(f"{run.stem}-tokenizer"), run.with_name("tokenizer"), run.parent):
        if any((folder / name).is_file() for name in (MADE_BY, *FILES)):
            return load_run_tokenizer(folder)
    return None


def default_model() -> str:
    """Name the model to use when none is named: that of the variable `GPTLIB_MODEL`, or ours."""
    chosen = os.environ.get("GPTLIB_MODEL", "").strip()
    return chosen or str(find_shipped())


def find_shipped() -> Path:
    """Find the folder of the model that travels with the course, in a clone or a wheel."""
    return find_data(f"models/{SHIPPED}/model.safetensors").parent


def _choose_run(runs: Sequence[Path]) -> Path:
    """Choose the checkpoint of a folder: the only one that has a tokenizer, else the first."""
    whole = [run for run in runs if run.with_name(f"{run.stem}-tokenizer").is_dir()]
    if len(whole) > 1:
        raise ValueError(
            f"{runs[0].parent} has {len(whole)} checkpoints ({', '.join(run.name for run in whole)}"
            "); name the one you mean"
        )
    return whole[0] if whole else runs[0]


def load_run_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer of a run or a model: GPT-2's own as tiktoken's, any other as ours."""
    is_gpt2 = not any((folder / name).is_file() for name in FILES)
    is_gpt2 &= (folder / MADE_BY).is_file()
    return gpt2_encoding() if is_gpt2 else quick(read_any_tokenizer(folder))


def _load_trained(folder: Path, dtype: torch.dtype) -> tuple[GPT, Tokenizer]:
    """Load from a run of `train`: the model if it is complete, else the last checkpoint."""
    if (folder / "model" / "config.json").is_file():
        return load_folder(folder / "model", dtype)
    if (folder / "checkpoint.pt").is_file():
        return _load_file(folder / "checkpoint.pt", dtype)
    raise FileNotFoundError(
        f"{folder} is a run that has no checkpoint yet; go on with "
        f"python -m gptlib train --resume --folder {folder}"
    )


def _load_checkpoint(
    run: Path, checkpoint: dict[str, Any], dtype: torch.dtype
) -> tuple[GPT, Tokenizer]:
    if "model_config" not in checkpoint:
        raise ValueError(
            f"{run} is of a classifier that was stopped; finish it with classify --train --resume"
        )
    if (tokenizer := _find_tokenizer(run)) is None:
        raise FileNotFoundError(
            f"{run.with_name(run.stem)}-tokenizer has no vocab.json; save the run's tokenizer "
            "there, as chapter 5 does"
        )
    try:
        with torch.device("meta"):  # the starting weights are never drawn
            model = _with_lora(build(as_config(checkpoint["model_config"])), run.parent)
        # torch.compile and DDP put their own names before those of the model that they wrap.
        weights = {bare_name(name): tensor for name, tensor in checkpoint["model"].items()}
        model.load_state_dict(weights, assign=True)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{run}: the weights are not those of its configuration ({error}); train anew"
        ) from error
    tokenizer = fit_tokenizer(tokenizer, model.config.vocab_size)
    check_vocabulary(tokenizer, model)
    if lora_layers(model):
        merge_lora(model)
    hide_tokens(model, tokenizer)
    return model.to(dtype).eval(), tokenizer


def _with_lora(model: GPT, folder: Path) -> GPT:
    """Give a model the low-rank additions that its run's configuration asks for, if any."""
    config = folder / "config.yaml"
    values = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
    if not (lora := values.get("lora")):
        return model
    return add_lora(model, LoRAConfig(**lora | {"projections": tuple(lora["projections"])}))


# Adapters without their model

_ADAPTERS = "adapter_config.json"
"""What PEFT writes beside adapters."""


def load_peft(
    folder: Path, dtype: torch.dtype, base: str | Path | None = None
) -> tuple[GPT, Tokenizer]:
    """Add a folder's adapters of PEFT to the weights of their model, or of `base`."""
    values = read_json(folder / _ADAPTERS)
    base = base or values.get("base_model_name_or_path")
    try:
        if not base:
            raise FileNotFoundError("its base_model_name_or_path names none")
        model, tokenizer = load_model(base)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{folder} holds adapters of PEFT alone, and their model is not here ({error}); say "
            f"where it is: python -m gptlib convert {folder} FOLDER --base DIR"
        ) from error
    path, old = folder / "adapter_model.safetensors", folder / "adapter_model.bin"
    if not path.is_file() and not old.is_file():
        raise FileNotFoundError(f"{folder} has no {path.name} beside {_ADAPTERS}; copy it, too")
    check_file(path if path.is_file() else old)
    try:
        more = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern")
        if values["peft_type"] != "LORA" or any(values.get(name) for name in more):
            raise ValueError("they are more than LoRA's two matrices a layer, all of one scale")
        rank = values["r"] ** (0.5 if values.get("use_rslora") else 1)
        views = gpt2_view(model)
        if path.is_file():
            parts = {name: read_tensor(path, name) for name in read_shapes(path)}
        else:
            parts = read_pickle(old)
        for name in sorted(name for name in parts if ".lora_A." in name):
            down = parts[name]  # (r, in)
            up = parts[name.replace(".lora_A.", ".lora_B.")]  # (out, r)
            place = bare_name(name.removeprefix("base_model.")).partition(".lora_A.")[0]
            change = (up.float() @ down.float() * (values["lora_alpha"] / rank)).T
            views[f"{place}.weight"] += change  # (in, out)
        odd = [name for name in parts if ".lora_A." not in name and ".lora_B." not in name]
        if odd or not parts:
            raise ValueError(f"they hold {odd[:3]} besides LoRA's two matrices a layer")
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"the adapters of {folder} can't be added to {base} ({error}); add them with PEFT: "
            "model.merge_and_unload().save_pretrained(FOLDER)"
        ) from error
    return model.to(dtype), tokenizer


def name_adapters(folder: Path) -> None:
    """Say what a folder that holds adapters of ours and no model needs (ValueError)."""
    if (folder / "config.json").is_file():
        return
    for path in sorted(folder.glob("*.safetensors")):
        if any(name.endswith(".down") for name in read_shapes(path)):
            raise ValueError(
                f"{path} holds adapters alone; load the model that they were trained for, then "
                f"gptlib.extras.adapters.load_adapters(model, {str(path)!r})"
            )
