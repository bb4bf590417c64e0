"""Every option of every command has an example here that works, and every help has examples."""

import argparse
import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch
from command_line import pipe_in

from gptlib.extras.cli import COMMANDS, main
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.tokenizer import BPETokenizer, find_data
from gptlib.weights import save_gpt2

MODEL = "--model.vocab-size 300 --model.context-length 16 --model.n-layer 1 --model.n-head 2"
MODEL += " --model.n-embd 16 --model.dropout 0.1 --model.bias true --model.positions learned"
MODEL += " --model.qkv-bias true --model.d-ff 40 --model.tie-weights true"
MODEL += " --model.norm pre --model.attention full --model.window 8"
PLAN = "--training.n-steps 3 --training.batch-size 2 --training.warmup-steps 1"
RATES = "--training.accumulation-steps 1 --training.max-learning-rate 1e-3"
RATES += (
    " --training.min-learning-rate 1e-4 --training.weight-decay 0.1 --training.betas [0.9,0.95]"
)
RATES += " --training.max-gradient-norm 1 --training.precision float32 --training.report-every 1"
RATES += " --training.evaluate-every 2 --training.save-every 2 --training.seed 4"
DATA = "--data.texts [book.txt] --data.pattern *.txt --data.tokenizer train"
DATA += " --data.validation-fraction 0.2 --data.encoding utf-8 --data.read-special true"
DATA += " --data.fields []"
LORA = "--lora --lora.rank 2 --lora.alpha 4 --lora.projections [attn.qkv]"
SAMPLING = "--repetition-penalty 1.1 --frequency-penalty 0.1 --presence-penalty 0.1"
SAMPLING += " --temperature 0.8 --top-k 40 --top-p 0.9 --min-p 0.01 --seed 7"
LENGTH = "--max-new-tokens 4 --min-new-tokens 2 --stop xyz --device cpu --model tiny"
CLASSES = "--n-epochs 1 --batch-size 8 --learning-rate 1e-3 --head-learning-rate 1e-3"
CLASSES += " --weight-decay 0.01 --frozen nothing --patience 1 --seed 1"
CALLS = [
    f"train {DATA} {MODEL} {PLAN} {RATES} --start-std 0.04 --folder runs/one --device cpu --json",
    "train --resume --folder runs/one --training.n-steps 4 --tensorboard --device cpu",
    f"train book.txt {MODEL} {PLAN} --overwrite --folder runs/one --onednn",
    f"train book.txt {MODEL} {PLAN} --overwrite --folder runs/one --checkpoint-activations",
    f"train book.txt {MODEL} {PLAN} --overwrite --folder runs/one --compile",
    f"train book.txt --init tiny {PLAN} {LORA} --config fine-tune --folder runs/two",
    "train --config war-and-peace-cpu --print-config",
    f"train book.txt {MODEL} {PLAN} --overwrite --folder runs/one --optimizer lion",
    f"tune records.json --model tiny --form alpaca {PLAN} {RATES} --folder runs/three --json",
    f"tune records.json --init tiny {LORA} {PLAN} --overwrite --folder runs/three --device cpu "
    "--onednn false",
    "tune --resume --folder runs/three --training.n-steps 4 --tensorboard",
    "tune --model tiny --data.texts [records.json] --data.validation-fraction 0.2 "
    "--data.encoding utf-8 --data.fields instruction=instruction,output=output --print-config",
    "tune r.jsonl --fields instruction=ask,output=reply --data.encoding utf-8 "
    f"--model tiny {PLAN} --folder runs/four",
    "tune --model tiny --config fine-tune --model.dropout 0 --model.context-length 9 "
    "--print-config",
    "info novels-cpu --batch-size 4 --json",
    "runs --sort loss",
    "runs runs --json",
    "plot runs/one runs/two --save losses.html",
    "plot runs/one --json",
    f"generate {LENGTH} {SAMPLING} --prompt the --hide-prompt --json",
    "generate --model tiny --prompt the --beams 2 --length-penalty 0.5 --max-new-tokens 3",
    "generate --model tiny --compile --max-new-tokens 3",
    f"chat {LENGTH} {SAMPLING}",
    "chat --model runs/three --remember 1 --max-new-tokens 3",
    "chat --model tiny --compile --max-new-tokens 3",
    "evaluate book.txt . --pattern *.txt --model tiny --device cpu --batch-size 2 --json "
    "--encoding utf-8 --read-special",
    f"classify --train messages.tsv --delimiter tab --save filter --model tiny {CLASSES} "
    "--device cpu",
    "classify --train messages.tsv --save filter2 --model tiny --n-epochs 1 --label-column 1 "
    "--text-column 2 --delimiter \\t --encoding utf-8 --skip-contradictions",
    "classify --model filter --file book.txt --json",
    "tokenizer train book.txt . --pattern *.txt --vocab-size 280 --save words --json "
    "--encoding utf-8 --read-special",
    "tokenizer train book.txt --vocab-size 290 --save words --overwrite --special <|pad|>",
    "tokenizer train book.txt --vocab-size 200 --save pieces --kind wordpiece",
    "tokenizer encode book.txt --tokenizer words --special --json",
    "tokenizer decode ids.txt --tokenizer words",
    "data prepare . --pattern *.txt --tokenizer train --vocab-size 280 --save prepared --json "
    "--encoding utf-8 --read-special",
    "convert tiny sharded --to sharded --shard-size 9KB --dtype bfloat16",
    "convert tiny larger --special <|user|>",
    "doctor --json",
]
ELSEWHERE = {
    "--base": "test_convert, with adapters of PEFT",
    "--resume": "of classify: test_commands_classify, after a stop",
    "--strategy": "test_commands_train, under torchrun",
    "--wandb": "test_commands_train, in a process of its own",
}
UNUSED_BY_TUNE = {
    *("--model.vocab-size", "--model.n-layer", "--model.n-head", "--model.n-embd"),
    *("--model.bias", "--model.positions", "--data.pattern", "--data.tokenizer", "--wandb"),
    *("--model.qkv-bias", "--model.d-ff", "--model.tie-weights"),
    *("--model.norm", "--model.attention", "--model.window"),
    "--data.read-special",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("examples")
    text = find_data("stand-in-war-and-peace.txt").read_text(encoding="utf-8")[:6000]
    (place / "book.txt").write_text(text, encoding="utf-8")
    tokenizer = BPETokenizer.train(text, 290)
    config = GPTConfig(vocab_size=290, context_length=256, n_layer=1, n_head=2, n_embd=16)
    save_gpt2(GPT(config, torch.Generator().manual_seed(0)), tokenizer, place / "tiny")
    records = [{"instruction": "say", "input": word, "output": word} for word in text.split()[:9]]
    (place / "records.json").write_text(json.dumps(records), encoding="utf-8")
    rows = [json.dumps({"ask": word, "reply": word}) for word in text.split()[:9]]
    (place / "r.jsonl").write_text("\n".join(rows), encoding="utf-8")
    words = sorted({word for word in text.split() if word.isalpha()})[:40]
    lines = [f"ham\tsee you at the {word}" for word in words]
    lines += [f"spam\twin a prize {word} now" for word in words]
    (place / "messages.tsv").write_text("\n".join(lines), encoding="utf-8")
    (place / "ids.txt").write_text("70 71, 72")
    return place


def parsers(command: str) -> Iterator[argparse.ArgumentParser]:
    """Make a command's parser, or those of its commands."""
    parser = import_module(f"gptlib.extras.commands.{command}").parser(f"gptlib {command}")
    inside = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    yield from (p for action in inside for p in action.choices.values()) if inside else [parser]


def test_the_examples_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("gptlib.extras.fast.compile_decode", lambda model: None)
    monkeypatch.setattr("gptlib.extras.doctor.examine", list)
    for call in CALLS:
        pipe_in(monkeypatch, b"the prince\n")
        assert main(call.split()) == 0, call
        out = capsys.readouterr().out
        if "--json" in call and not call.startswith("classify"):
            json.loads(out)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_an_example(command: str) -> None:
    typed = {word for call in CALLS if call.startswith(command) for word in call.split()}
    for parser in parsers(command):
        for action in parser._actions:
            names = {*action.option_strings}
            unused = UNUSED_BY_TUNE if command == "tune" else {*ELSEWHERE}
            assert not names or names & (typed | {"--help"} | unused), f"{command} {names}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_an_example_and_the_exit_status(command: str) -> None:
    for parser in parsers(command):
        text = parser.format_help()
        assert "exit status: 0" in text
        assert command == "doctor" or re.search(rf"^  .*gptlib {command}", text, re.MULTILINE)
