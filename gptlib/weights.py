"""OpenAI's weights in, ours out, and the place where two models part (chapter 7).

The definitions stand in teaching order. Whose name is whose: `NAMES`, `gpt2_view`, `layout`. A
model's folder: `read_config`, `read_tokenizer`, `build_model`, `load_gpt2`, and back, `save_gpt2`.
The proof: `activations`, `first_divergence`. A look inside: `head_scores`, `logit_lens`.
`gptlib.extras.models.load_model` opens whatever else there is: GPT-2 by its name, the files of
other programs, a run of training.

Example:
    >>> import tempfile
    >>> from gptlib.tokenizer import BPETokenizer
    >>> tokenizer = BPETokenizer.train("low lower lowest", vocab_size=262)
    >>> config = GPTConfig(vocab_size=262, context_length=8, n_layer=2, n_head=2, n_embd=4)
    >>> model = GPT(config).eval()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_gpt2(model, tokenizer, folder)
    ...     same, _ = load_gpt2(folder)
    >>> first_divergence(model, same, torch.tensor([[1, 2, 3]])) is None
    True
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import tiktoken
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gptlib.generation import check_vocabulary
from gptlib.gpt2 import GPT, GPTConfig, tie_head
from gptlib.tokenizer import (
    END_OF_TEXT,
    BPETokenizer,
    Tokenizer,
    gpt2_encoding,
    read_gpt2_ranks,
    recover_merges,
    whole_file,
)
from gptlib.training import unwrap

NAMES = {
    "embed.token_embedding": "wte",
    "embed.position_embedding": "wpe",
    "blocks": "h",
    "attn.qkv": "attn.c_attn",
    "attn.proj": "attn.c_proj",
    "mlp.expand": "mlp.c_fc",
    "mlp.proj": "mlp.c_proj",
}
"""Parts of our tensors' names, and what they are called in GPT-2's files; the rest is equal."""

TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
"""OpenAI's "Conv1D" keeps these as (in, out); our `nn.Linear` keeps its weight as (out, in)."""

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of each tensor by its name."""


def gpt2_view(model: GPT) -> dict[str, Tensor]:
    """See a model's weights as GPT-2's files have them: renamed, four matrices transposed.

    A shared table comes once; an output layer of its own is "lm_head.weight".

    Returns:
        By GPT-2's names views of the parameters: to write to a view is to write to the model.

    Example:
        >>> model = GPT(GPTConfig(vocab_size=9, context_length=8, n_layer=1, n_head=1, n_embd=4))
        >>> gpt2_view(model)["h.0.attn.c_attn.weight"].shape, model.blocks[0].attn.qkv.weight.shape
        (torch.Size([4, 12]), torch.Size([12, 4]))
    """
    views = {}
    for name, parameter in model.named_parameters():
        # Not in NAMES: those are replaced anywhere, and would make "lm_head" "lm_lm_head".
        if name == "head.weight":
            name = "lm_head.weight"
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        tensor = parameter.detach()
        views[name] = tensor.T if name.endswith(TRANSPOSED) else tensor
    return views


def layout(config: GPTConfig) -> Shapes:
    """List what GPT-2's file of a model of these sizes holds.

    Example:
        >>> layout(GPTConfig())["h.11.attn.c_attn.weight"]
        (768, 2304)
    """
    # GPT-2's file always has a table of positions, and all biases.
    with torch.device("meta"):  # shapes without values
        model = GPT(replace(config, positions="learned", bias=True, qkv_bias=None))
    return {name: tuple(view.shape) for name, view in gpt2_view(model).items()}


def damaged(path: Path, reason: object) -> ValueError:
    """Make the error for a file that can't be what it says it is."""
    return ValueError(f"{path} is damaged: {reason}; copy, download or save it again")


@contextmanager
def open_weights(path: Path) -> Iterator[Any]:
    """Open a safetensors file: a description in JSON, then numbers, and nothing that could run.

    Raises:
        ValueError: If the description is damaged, or does not cover every byte exactly once.
    """
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise damaged(path, error) from error


def read_shapes(path: Path) -> Shapes:
    """List the tensors of a safetensors file; no number is read."""
    with open_weights(path) as file:
        return {n: tuple(file.get_slice(n).get_shape()) for n in file.keys()}  # noqa: SIM118


def read_tensor(path: Path, name: str) -> Tensor:
    """Read one tensor of a safetensors file."""
    with open_weights(path) as file:  # opened anew each time: what was read can leave the memory
        return file.get_tensor(name)


def compare_shapes(found: Shapes, wanted: Shapes) -> str:
    """Name up to five tensors that are missing, too many or of another shape; "" if all fit."""
    odd = [
        f"{name} {found.get(name, 'missing')} instead of {wanted.get(name, 'nothing')}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    return ", ".join(odd[:5]) + (f" and {len(odd) - 5} more" if len(odd) > 5 else "")


def build_model(
    config: GPTConfig, shapes: Shapes, read: Callable[[str], Tensor], dtype: torch.dtype
) -> GPT:
    """Fill a new model with stored weights, one tensor at a time; no starting weights are drawn.

    Args:
        config: The model.
        shapes: The tensors that there are, by GPT-2's names.
        read: Reads one of them.
        dtype: What the numbers become.

    Returns:
        The model, in evaluation mode, on the CPU.

    Raises:
        ValueError: If they are not the tensors of this model.
    """
    # First the sizes alone: a damaged config.json could ask for a model of any size.
    tables = {
        "wte.weight": (config.vocab_size, config.n_embd),
        "wpe.weight": (config.context_length, config.n_embd),
        "h.0.mlp.c_fc.weight": (config.n_embd, config.hidden_size),
    }
    odd = compare_shapes({name: shapes[name] for name in tables.keys() & shapes.keys()}, tables)
    # Each layer has several tensors, so this bounds the model that `layout` makes.
    if not odd and config.n_layer > len(shapes):
        odd = f"{len(shapes)} tensors can't be {config.n_layer} layers"
    odd = odd or compare_shapes(shapes, layout(config))
    if odd:
        raise ValueError(f"the weights don't fit config.json: {odd}; take both from one model")
    with torch.device("meta"):
        model = GPT(config).to(dtype)
    # to_empty made two tables of the shared one.
    tie_head(model.to_empty(device="cpu"))
    # The largest first: it is in memory twice while it is copied, and the rest is not yet there.
    for name, view in sorted(gpt2_view(model).items(), key=lambda item: -item[1].numel()):
        view.copy_(read(name))
    return model.eval()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: If the file is no JSON, or no object.
    """
    with open(path, "rb") as file:
        content = file.read(2**26)  # a wrong file of gigabytes is not read to its end
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"its {len(content)} bytes of JSON can't be read ({error})") from error
    if not isinstance(values, dict):
        raise damaged(path, f"its JSON is a {type(values).__name__}, not an object with names")
    return values


ARCHITECTURE: dict[str, Any] = {
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
"""What config.json must say, where it says anything: anything else is another computation."""


def read_config(path: Path) -> GPTConfig:
    """Read a model's sizes, and refuse a model that computes something else than GPT-2.

    Raises:
        ValueError: If the file is damaged, or describes another architecture.
    """
    # What a file leaves out is transformers' default, GPT-2's; only model_type must be said.
    values = ARCHITECTURE | {"model_type": None} | read_json(path)
    try:
        same = {"activation_function": "gelu_pytorch_tanh"}  # what other programs write for it
        for name, needed in ARCHITECTURE.items():
            if values[name] not in (needed, same.get(name, needed)):
                odd = f"{name} {values[name]!r} where GPT-2 has {needed!r}"
                raise ValueError(f"{odd}; choose a model of GPT-2's architecture")
        sizes = {name: values[name] for name in ("vocab_size", "n_layer", "n_head", "n_embd")}
        dropout = values.get("resid_pdrop", 0.1)
        hidden = values.get("n_inner")
        # One form for one size, so that equal models have equal configurations.
        return GPTConfig(
            context_length=values["n_positions"],
            dropout=dropout,
            d_ff=None if hidden == 4 * sizes["n_embd"] else hidden,
            tie_weights=values.get("tie_word_embeddings", True),
            **sizes,
        )
    except KeyError as error:
        raise damaged(path, f"it lacks {error}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


VOCABULARY_SHA256 = {
    "vocab.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "merges.txt": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
"""The sha256 of GPT-2's two files, which OpenAI named encoder.json and vocab.bpe."""


def read_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer of a folder with vocab.json and merges.txt.

    Returns:
        GPT-2's own as tiktoken's `Encoding`, which is fast; any other as a `BPETokenizer`.

    Raises:
        ValueError: If a file is damaged, or the two do not belong together.
    """
    contents = {name: (folder / name).read_bytes() for name in VOCABULARY_SHA256}
    found = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    if found == VOCABULARY_SHA256:
        return gpt2_encoding()
    read_json(folder / "vocab.json")  # says so if it is damaged
    return BPETokenizer.load(folder)


MODEL_FILES = ("config.json", "model.safetensors", "vocab.json", "merges.txt")
"""What a model's folder holds."""


def require_files(folder: Path, names: Iterable[str] = MODEL_FILES) -> None:
    """Refuse a folder that lacks a file, with its name (FileNotFoundError)."""
    for name in names:
        if not (folder / name).is_file():
            whole = ", ".join(MODEL_FILES)
            raise FileNotFoundError(f"{folder} has no {name}; a model's folder holds {whole}")


def load_gpt2(folder: str | Path, dtype: torch.dtype = torch.float32) -> tuple[GPT, Tokenizer]:
    """Load a model in GPT-2's layout, as `save_gpt2` writes it, with its tokenizer.

    Args:
        folder: Holds `MODEL_FILES`.
        dtype: What the weights become, however they are stored.

    Returns:
        The model, in evaluation mode and on the CPU, and the tokenizer: GPT-2's own as tiktoken's
        `Encoding`, any other as a `BPETokenizer`.
    """
    folder = Path(folder).expanduser()
    require_files(folder)
    config, tokenizer = read_config(folder / "config.json"), read_tokenizer(folder)
    path = folder / "model.safetensors"
    model = build_model(config, read_shapes(path), partial(read_tensor, path), dtype)
    check_vocabulary(tokenizer, model)
    return model, tokenizer


def write_tokenizer(folder: Path, tokenizer: BPETokenizer) -> None:
    """Write vocab.json and merges.txt, and what transformers wants to know beside them."""
    plain = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    special = {
        str(token): {"content": name, "special": True, **plain}
        for name, token in tokenizer.special_tokens.items()
    }
    end = END_OF_TEXT if END_OF_TEXT in tokenizer.special_tokens else None
    # One token in three roles, as in GPT-2's own files.
    roles = dict.fromkeys(("bos_token", "eos_token", "unk_token"), end)
    values = {"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": special, **roles}
    text = json.dumps(values | {"add_prefix_space": False}, indent=2)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
    tokenizer.save(folder)  # last: another library's tokenizer has a configuration of its own


def describe_model(config: GPTConfig, dtype: torch.dtype, end: int | None) -> dict[str, Any]:
    """Say in config.json's words how large a model is, and that it computes what GPT-2 does.

    Args:
        config: The sizes.
        dtype: How the weights are stored.
        end: The id of `END_OF_TEXT`.
    """
    return {
        "architectures": ["GPT2LMHeadModel"],
        **ARCHITECTURE,
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_ctx": config.context_length,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_inner": config.d_ff,
        "tie_word_embeddings": config.tie_weights,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), config.dropout),
        "bos_token_id": end,
        "eos_token_id": end,
        "dtype": str(dtype).removeprefix("torch."),
    }


def save_gpt2(
    model: GPT,
    tokenizer: Tokenizer,
    folder: str | Path,
    dtype: torch.dtype = torch.float32,
    *,
    beside: Iterable[str] = (),
) -> None:
    """Write a model and its tokenizer in GPT-2's layout, which transformers and others open.

    No mixture of two models is ever loaded: what the folder held leaves first, with what its
    config.json lists as lying beside that model, and the new config.json comes last.

    Args:
        model: The model, on any device.
        tokenizer: The tokenizer whose ids it was trained on.
        folder: Where to write; it is made if it is not there.
        dtype: How the numbers are stored: torch.float32 exactly; torch.float16 or torch.bfloat16
            in half the space, with three to four digits of each number, or two to three.
        beside: Names of files that the caller will put beside these and that belong to this model
            only; config.json lists them.

    Raises:
        OSError: If the folder can't be written.
        ValueError: If the two do not belong together, GPT-2's layout has no place for the model, a
            number has none in `dtype`, or files of another model there would be read first.
    """
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"dtype is {dtype}; choose torch.float32, torch.float16 or torch.bfloat16")
    model = unwrap(model)
    views, config = gpt2_view(model), model.config
    if odd := compare_shapes({n: tuple(v.shape) for n, v in views.items()}, layout(config)):
        ways = "put back what was added, learn positions and biases, or use save_checkpoint"
        raise ValueError(f"GPT-2's layout has no place for this model: {odd}; {ways}")
    check_vocabulary(tokenizer, model)
    if isinstance(tokenizer, tiktoken.Encoding):
        # The same tokens under two names.
        if tokenizer.name not in ("gpt2", "r50k_base"):
            way = "pass gpt2_encoding() or a BPETokenizer"
            raise ValueError(f"GPT-2's files can't hold tiktoken's {tokenizer.name!r}; {way}")
        tokenizer = BPETokenizer(recover_merges(read_gpt2_ranks()))
    # safetensors stores no strided views, and four matrices of a block are transposed ones.
    tensors = {name: view.to("cpu", dtype).contiguous() for name, view in views.items()}
    for name, tensor in tensors.items():
        if not views[name].isfinite().all():
            raise ValueError(f"{name} holds a value that is nan or infinite; load an older copy")
        if not tensor.isfinite().all():
            raise ValueError(f"{name} holds a value too large for {dtype}; save with torch.float32")
    folder = Path(folder).expanduser()
    written = getattr(tokenizer, "files", ())  # what another library's tokenizer writes itself
    # Programs that look for these first would open the old model.
    for name in ("encoder.json", "tokenizer.json", "added_tokens.json", "model.ckpt.index"):
        if (folder / name).exists() and name not in written:
            raise ValueError(f"{folder} holds another model's {name}; choose an empty folder")
    end = tokenizer.special_tokens.get(END_OF_TEXT)
    description = describe_model(config, dtype, end) | {"beside": list(beside)}
    listed: list[str] = []
    with suppress(OSError, ValueError, KeyError, TypeError):  # no model there, or an older one's
        listed = list(read_json(folder / "config.json")["beside"])
    try:
        # Both are whole before anything leaves; in the end config.json is moved after the weights.
        with (
            whole_file(folder / "config.json") as described,
            whole_file(folder / "model.safetensors") as stored,
        ):
            described.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
            save_file(tensors, stored, {"format": "pt"})
            # config.json first: without it a half-emptied folder is no model.
            for path in sorted(folder.iterdir(), key=lambda p: (p.name != "config.json", p.name)):
                if path.name in ("config.json", "model.safetensors", *listed):
                    path.unlink()  # from here to the end there is no model
            write_tokenizer(folder, tokenizer)
    except (OSError, SafetensorError) as error:
        raise OSError(f"{folder} can't be written ({error}); choose another folder") from error


@torch.no_grad()
def activations(model: GPT, tokens: Tensor) -> dict[str, Tensor]:
    """Record what every stage of a model hands on while it computes its logits.

    Args:
        model: The model; it runs as it is, mistakes and all.
        tokens: Token ids, shape (B, T).

    Returns:
        By stage: "embed"; for each block "blocks.0.ln_1", "blocks.0.attn", "blocks.0.ln_2",
        "blocks.0.mlp" and "blocks.0", the stream after it; "ln_f", each (B, T, C); and "logits",
        (B, T, V).
    """
    record: dict[str, Tensor] = {}

    def keep_as(stage: str) -> Callable[[nn.Module, Any, Tensor], None]:
        # A copy: code under test may change it in place. None is returned, so the output stays.
        return lambda _module, _inputs, output: record.update({stage: output.clone()})

    is_stage = re.compile(r"embed|blocks\.\d+(\.(ln_1|attn|ln_2|mlp))?|ln_f").fullmatch
    stages = [(name, module) for name, module in model.named_modules() if is_stage(name)]
    hooks = [module.register_forward_hook(keep_as(name)) for name, module in stages]
    try:
        logits = model(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return record | {"logits": logits}


@dataclass(frozen=True)
class Difference:
    """Say how far two models are apart at one stage."""

    stage: str
    """The stage, a key of `activations`."""
    error: float
    """Length of the difference, as a share of the reference's length; nan counts as different."""
    largest: float
    """The largest difference of two values."""
    position: tuple[int, ...]
    """Where that is: batch, position and channel (or token of the vocabulary)."""


@torch.no_grad()
def compare_stages(
    model: GPT, reference: GPT | Mapping[str, Tensor], tokens: Tensor
) -> list[Difference]:
    """Measure at every stage how far a model is from one that is known to be right.

    Args:
        model: The model to test.
        reference: A model of ours, or the activations of any other program's model by the names
            of `activations`; it need not have all stages.
        tokens: Token ids, shape (B, T), the same that the activations were recorded with.

    Returns:
        A difference for each stage that both have, in the order of the computation.

    Raises:
        ValueError: If they have no stage in common, or a stage with different shapes.
    """
    right = activations(reference, tokens) if isinstance(reference, GPT) else reference
    differences = []
    for stage, mine in activations(model, tokens).items():
        if stage not in right:
            continue
        if mine.shape != right[stage].shape:
            shapes = f"{tuple(mine.shape)} here, {tuple(right[stage].shape)} in the reference"
            raise ValueError(f"{stage}: {shapes}; compare one size on the same tokens")
        theirs = right[stage].cpu().double()
        gap = (mine.cpu().double() - theirs).abs()
        error = float(gap.norm() / theirs.norm().clamp(min=1e-30))
        place = torch.unravel_index(gap.argmax(), gap.shape)
        differences.append(Difference(stage, error, float(gap.max()), tuple(map(int, place))))
    if not differences:
        raise ValueError(f"the reference has no stage of this model, only {list(right)[:5]}")
    return differences


def first_divergence(
    model: GPT, reference: GPT | Mapping[str, Tensor], tokens: Tensor, tolerance: float = 1e-5
) -> Difference | None:
    """Find the first stage where a model computes something else than one known to be right.

    All stages before it agree, so the mistake is in this one, or in how its input is added up.

    Args:
        model: The model to test.
        reference: A model of ours, or recorded activations; see `compare_stages`.
        tokens: Token ids, shape (B, T); a few dozen varied ones show most mistakes.
        tolerance: The largest `Difference.error` that passes as rounding; in float32 two right
            programs differ by about 1e-6.

    Returns:
        The first difference above the tolerance, None if there is none.
    """
    differences = compare_stages(model, reference, tokens)
    return next((d for d in differences if not d.error <= tolerance), None)  # finds nan, too


@torch.no_grad()
def head_scores(maps: Tensor, period: int) -> dict[str, Tensor]:
    """Score every head for three habits that are known from trained models.

    Args:
        maps: Attention weights, shape (L, B, H, T, S) with S = T, from `attention_maps`, of a
            text that repeats itself after `period` tokens.
        period: Length of what is repeated, in tokens, 2 up to but not including T.

    Returns:
        Shares of attention from 0 to 1, each of shape (L, H), averaged over queries: "previous
        token"; "first token"; and "induction", from a token's second occurrence to the token that
        followed the first.

    Source:
        Olsson et al. 2022, "In-context Learning and Induction Heads".
    """
    if not 2 <= period < maps.size(-1):
        raise ValueError(f"period is {period}; choose 2 to {maps.size(-1) - 1}, below the length")
    # Query t, key t - period + 1; not the first, whose query, period - 1, is in the first copy.
    induction = maps.diagonal(1 - period, dim1=-2, dim2=-1)[..., 1:]
    habits = {
        "previous token": maps.diagonal(-1, dim1=-2, dim2=-1),
        "first token": maps[..., 1:, 0],  # query 0 has no other choice
        "induction": induction,
    }
    return {habit: weights.mean(dim=(1, -1)) for habit, weights in habits.items()}  # (L, H)


@torch.no_grad()
def logit_lens(model: GPT, tokens: Tensor) -> Tensor:
    """Ask after every layer which token the model would name if it stopped there.

    Args:
        model: The model, in evaluation mode.
        tokens: Token ids, shape (B, T).

    Returns:
        Logits, shape (L + 1, B, T, V): of the embedding, then after each block; the last are the
        model's own.

    Source:
        nostalgebraist 2020, "interpreting GPT: the logit lens".
    """
    record = activations(model, tokens)
    stages = ["embed", *(f"blocks.{layer}" for layer in range(model.config.n_layer))]
    return torch.stack([model.unembed(record[stage]) for stage in stages])  # (L + 1, B, T, V)
