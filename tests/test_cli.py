"""The command line says what it is told to, and its exit status can be relied on."""

import inspect
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import PATIENCE, POSIX, pipe_in, refusal, talk, talk_at_terminal, written
from test_compiled import needs_compiler

from gptlib.extras import doctor
from gptlib.extras.chat import save_tuned
from gptlib.extras.cli import COMMANDS, main
from gptlib.extras.commands import chat, writing
from gptlib.extras.commands import generate as generate_command
from gptlib.extras.doctor import Finding
from gptlib.extras.models import load_model
from gptlib.extras.options import descriptions, quoted, suggestion
from gptlib.generation import Sampling, beam_search, generate, generate_text
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.instructions import CHAT, encode_records, tune
from gptlib.tokenizer import BPETokenizer, Tokenizer, end_of_text
from gptlib.training import TrainingConfig
from gptlib.weights import save_gpt2


def pretend(monkeypatch: pytest.MonkeyPatch, *findings: Finding) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: list(findings))


@pytest.mark.parametrize(("status", "expected"), [("ok", 0), ("note", 0), ("problem", 1)])
def test_the_doctor_s_exit_status_tells_whether_there_is_a_problem(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: doctor.Status,
    expected: int,
) -> None:
    pretend(monkeypatch, Finding("disk", status, "0.1 GB free", "free 2 GB"))
    assert main(["doctor"]) == expected
    assert "0.1 GB free" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["nurse"], ["doctor", "--fast"]])
def test_words_that_are_no_command_are_refused(
    words: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "python -m gptlib" in capsys.readouterr().err


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for command, purpose in COMMANDS.items():
        assert re.search(rf"^    {command}\b", text, re.MULTILINE)
        assert purpose.split()[0] in text


def test_what_it_tells_you_to_type_is_what_you_typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/gptlib"])
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert "usage: gptlib train" in text
    assert "  gptlib train --resume --folder runs/mine" in text
    assert "python" not in text


def test_the_module_runs_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, Finding("disk", "problem", "0.1 GB free", "free 2 GB"))
    monkeypatch.setattr(sys, "argv", ["gptlib", "doctor"])
    monkeypatch.delitem(sys.modules, "gptlib.__main__", raising=False)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as caught:
            runpy.run_module("gptlib", run_name="__main__")
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught.value.code == 1


def test_a_folder_that_the_console_cannot_spell_is_no_reason_to_fail() -> None:
    program = (
        "from gptlib.extras import cli, doctor\n"
        "doctor.examine = lambda: [doctor.Finding('disk', 'ok', '1 GB free at /\\u0444')]\n"
        "raise SystemExit(cli.main(['doctor']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", program],
        env={"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1 GB free at /?" in done.stdout


# generate and chat


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = BPETokenizer.train("the prince said that the princess had said so " * 3, 270)
    config = GPTConfig(vocab_size=270, context_length=16, n_layer=1, n_head=2, n_embd=16)
    save_gpt2(GPT(config, torch.Generator().manual_seed(0)), tokenizer, place)
    return place


@pytest.fixture
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe_in(monkeypatch, b"")


def test_generate_writes_what_the_library_writes(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    text = written(
        capsys,
        *("generate", "--model", folder, "--prompt", "the prince", "--max-new-tokens", 30),
        *("--min-new-tokens", 20, "--temperature", 0.8, "--top-k", 50, "--top-p", 0.9),
        *("--min-p", 0.01, "--repetition-penalty", 1.2, "--frequency-penalty", 0.1),
        *("--presence-penalty", -0.1, "--seed", 7, "--stop", "qq", "--stop", "zz"),
    )
    model, tokenizer = load_model(folder)
    sampling = Sampling(
        temperature=0.8,
        top_k=50,
        top_p=0.9,
        min_p=0.01,
        repetition_penalty=1.2,
        frequency_penalty=0.1,
        presence_penalty=-0.1,
    )
    pieces = generate_text(
        model,
        tokenizer,
        "the prince",
        30,
        sampling,
        stop=["qq", "zz"],
        min_new_tokens=20,
        generator=torch.Generator().manual_seed(7),
    )
    assert text == "the prince" + "".join(pieces) + "\n"


def test_a_seed_reproduces_and_without_one_each_text_is_another(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    words = ("generate", "--model", folder, "--prompt", "so", "--max-new-tokens", 20)
    texts = [written(capsys, *words, "--seed", seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert written(capsys, *words) != written(capsys, *words)


def test_the_prompt_can_be_hidden_and_piped_in(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("generate", "--model", folder, "--temperature", 0, "--max-new-tokens", 5)
    shown = written(capsys, *words, "--prompt", "the prince\nsaid")
    for extra in ((), ("--prompt", "-")):
        pipe_in(monkeypatch, b"the prince\r\nsaid\r\n")
        assert written(capsys, *words, *extra) == shown
    hidden = written(capsys, *words, "--prompt", "the prince\nsaid", "--hide-prompt")
    assert "the prince\nsaid" + hidden == shown


def test_stop_strings_end_the_text_and_may_be_line_breaks(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    words = ("generate", "--model", folder, "--prompt", "the", "--seed", 3, "--hide-prompt")
    whole = written(capsys, *words)
    assert len(whole) > 20
    assert (
        written(capsys, *words, "--stop", whole[10:12]) == whole.partition(whole[10:12])[0] + "\n"
    )
    assert writing.unescape(r"\n\t") == "\n\t"


def test_beams_write_what_the_library_finds(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    words = ("generate", "--model", folder, "--prompt", "the", "--beams", 3)
    text = written(capsys, *words, "--max-new-tokens", 6, "--length-penalty", 0.5)
    model, tokenizer = load_model(folder)
    [end] = end_of_text(tokenizer)
    prompt = tokenizer.encode("the")
    best = beam_search(model, prompt, 3, 6, length_penalty=0.5, end_token=end)[0]
    assert text == f"the{tokenizer.decode([t for t in best.tokens if t != end])}\n"
    new = text.removeprefix("the").rstrip("\n")
    stop = new[len(new) // 2 :]
    assert written(
        capsys, *words, "--max-new-tokens", 6, "--length-penalty", 0.5, "--stop", stop
    ) == ("the" + new.partition(stop)[0] + "\n")


@needs_compiler
def test_a_compiled_step_writes_the_same(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    words = ("generate", "--model", folder, "--prompt", "the prince", "--seed", 3)
    assert written(capsys, *words, "--compile") == written(capsys, *words)


def test_a_step_that_cannot_be_compiled_is_told_in_one_line(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_compiler(model: GPT) -> GPT:
        raise RuntimeError("it needs a C++ compiler")

    monkeypatch.setattr("gptlib.extras.fast.compile_decode", without_compiler)
    with pytest.raises(SystemExit) as caught:
        main(["generate", "--model", str(folder), "--prompt", "the", "--compile"])
    assert caught.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "note: compiling ..."
    assert "error: leave out --compile: it needs a C++ compiler" in said[1]
    assert len(said) == 2


def test_a_prompt_beyond_the_context_is_cut_and_that_is_said(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    prompt = "é so the prince said " * 20
    words = ["generate", "--model", str(folder), "--prompt", prompt, "--max-new-tokens", "3"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert out.startswith(prompt)
    assert "longer than the model's context of 16 tokens; it goes on from the last" in err


def test_the_model_of_the_environment_variable_is_used(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("generate", "--prompt", "the", "--max-new-tokens", 9, "--seed", 1)
    monkeypatch.setenv("GPTLIB_MODEL", str(folder))
    text = written(capsys, *words)
    monkeypatch.delenv("GPTLIB_MODEL")
    assert text == written(capsys, *words, "--model", folder)


@pytest.mark.parametrize("name", ["generate", "chat"])
def test_help_shows_every_option_with_its_default(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for field in fields(Sampling):
        assert f"  --{field.name.replace('_', '-')} " in text
    words = " ".join(text.split())
    more = {"generate": 7, "chat": 6}
    assert words.count("(default: ") == len(fields(Sampling)) + more[name]
    assert "divides the logits, 0 or more: below 1 the likely gets likelier" in words
    assert "(default: keeps all)" in words
    assert f"python -m gptlib {name} --" in text.partition("example")[2]
    assert all(len(line) <= 100 for line in text.splitlines())


def test_the_defaults_in_the_help_are_the_library_s() -> None:
    ours = vars(generate_command.parser("generate").parse_args([]))
    theirs = inspect.signature(generate_text).parameters
    assert ours["max_new_tokens"] == theirs["max_new_tokens"].default
    assert ours["min_new_tokens"] == theirs["min_new_tokens"].default
    penalty = inspect.signature(beam_search).parameters["length_penalty"].default
    assert penalty == 1.0


def test_the_end_of_an_option_s_name_is_enough_to_be_understood() -> None:
    known = ["--help", "--training.min-learning-rate", "--training.n-steps"]
    assert suggestion("--n-steps", known) == "; did you mean --training.n-steps?"
    assert suggestion("--steps", known) == "; did you mean --training.n-steps?"


def test_paths_are_printed_so_that_they_can_be_pasted() -> None:
    assert [quoted(Path(name)) for name in ("a/b", "my book")] == ["a/b", '"my book"']


def test_each_field_is_described_by_what_stands_under_it() -> None:
    texts = descriptions(Sampling)
    assert list(texts) == [field.name for field in fields(Sampling)]
    assert all(len(text) > 20 and text[0].islower() for text in texts.values())


def test_the_list_of_commands_does_not_wait_for_pytorch() -> None:
    program = """
import sys
from gptlib.extras.cli import main
try:
    main(["--help"])
except SystemExit:
    assert "torch" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "classify" in done.stdout


@pytest.mark.usefixtures("no_terminal")
@pytest.mark.parametrize("name", ["generate", "chat"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--temperature", "warm"],
            "argument --temperature: 'warm' can't be used; write a number like",
        ),
        (["--temperature", "-1"], "--temperature is -1.0; it must be at least 0 and finite; 0"),
        (["--temperature", "nan"], "--temperature is nan; it must be at least 0 and finite; 0"),
        (["--temperature", "inf"], "--temperature is inf; it must be at least 0 and finite; 0"),
        (["--repetition-penalty", "inf"], "is inf; it must be from 1e-30 to 1e30; 1 is none"),
        (["--top-k", "0"], "--top-k is 0; it must be at least 1, or leave it out to keep all"),
        (["--top-k", "2.5"], "argument --top-k: '2.5' can't be used; write a whole number like 40"),
        (["--top-p", "0"], "--top-p is 0.0; it must be above 0 and at most 1; 1 keeps all"),
        (["--min-p", "1.5"], "--min-p is 1.5; it must be from 0 to 1; 0 keeps all"),
        (["--repetition-penalty", "0"], "--repetition-penalty is 0.0; it must be from 1e-30"),
        (["--frequency-penalty", "inf"], "--frequency-penalty is inf; it must be from -1e30"),
        (["--presence-penalty", "nan"], "--presence-penalty is nan; it must be from -1e30"),
        (["--presence-penalty", "1e300"], "--presence-penalty is 1e+300; it must be from -1e30 to"),
        (["--seed", "-1"], "argument --seed: -1 is too small; write 0 or more"),
        (["--seed", str(2**63)], f"{2**63} is too large; write {2**63 - 1} or less"),
        (["--max-new-tokens", "-1"], "argument --max-new-tokens: -1 is too small; write 0"),
        (["--min-new-tokens", "101"], "--min-new-tokens is 101, above --max-new-tokens 100; low"),
        (["--stop", ""], "argument --stop: the text is empty; write the text to stop before"),
        (["--device", "gpu"], "error: --device is 'gpu'; use cpu, cuda, cuda:N with a card's"),
        (["--device", "cuda:99"], "--device is 'cuda:99', but PyTorch sees"),
        (["--model", "nowhere"], "there is no folder 'nowhere'; name one that holds a model"),
        (["--model", "."], "has no config.json; a model's folder holds config.json, model"),
        (["--tempratur", "1"], "there is no option --tempratur; did you mean --temperature?"),
        (["--temp", "1"], "there is no option --temp; did you mean --temperature?"),
        (["--temperature"], "argument --temperature: expected one argument"),
        (["--stop", "---"], "one that begins with - is written --option=VALUE"),
        (["Prince"], "'Prince' belongs to no option; "),
    ],
)
def test_a_bad_value_is_told_in_one_line(
    name: str,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    prompt = ["--prompt", "the"] if name == "generate" else []
    assert message in refusal(capsys, name, "--model", folder, *prompt, *words)


@pytest.mark.parametrize(
    ("words", "content", "message"),
    [
        ([], b"a\xff", "standard input is no UTF-8 text (byte 1); convert it first"),
        (["--prompt", "a\udcff"], b"", r"character '\udcff' in position 1: surrogates not allowed"),
        (["--prompt", "a", "--beams", "0"], b"", "argument --beams: 0 is too small; write 1 or"),
        (["--prompt", "a", "--beams", "2", "--top-k", "4"], b"", "takes no --top-k; leave it out"),
        (["--prompt", "a", "--beams", "2", "--seed", "4"], b"", "takes no --seed; leave it out"),
        (["--prompt", "a", "--beams", "2", "--compile"], b"", "written token by token; leave it"),
        (["--prompt", "a", "--length-penalty", "2"], b"", "belongs to beam search; add --beams 4"),
        (
            ["--prompt", "a", "--beams", "2", "--length-penalty", "nan"],
            b"",
            "--length-penalty is nan; it",
        ),
    ],
)
def test_a_bad_prompt_or_search_is_told_in_one_line(
    words: list[str],
    content: bytes,
    message: str,
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipe_in(monkeypatch, content)
    assert message in refusal(capsys, "generate", "--model", folder, *words)


@pytest.mark.parametrize(
    ("words", "at_terminal"), [([], True), (["--prompt", ""], True), ([], False)]
)
def test_without_a_prompt_a_text_begins_where_another_one_ended(
    words: list[str],
    at_terminal: bool,
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipe_in(monkeypatch, b"")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: at_terminal)
    model, tokenizer = load_model(folder)
    [end] = end_of_text(tokenizer)
    tokens = generate(model, [end], 9, Sampling(temperature=0), min_new_tokens=9)
    options = ("--max-new-tokens", 9, "--min-new-tokens", 9, "--temperature", 0)
    text = written(capsys, "generate", "--model", folder, *options, *words)
    assert text == tokenizer.decode(list(tokens)) + "\n"


def test_logits_that_are_no_numbers_end_in_one_line(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(place: Path) -> tuple[GPT, Tokenizer]:
        model, tokenizer = load_model(place)
        torch.nn.init.constant_(model.ln_f.weight, float("nan"))
        return model, tokenizer

    monkeypatch.setattr(writing, "load_model", broken)
    with pytest.raises(SystemExit) as caught:
        main(["generate", "--model", str(folder), "--prompt", "the"])
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_chat_goes_on_from_the_whole_conversation_until_the_input_ends(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    _, tokenizer = load_model(folder)

    def echo(model: GPT, prompt: list[int], *_: object, **__: object) -> object:
        asked.append(tokenizer.decode(prompt))
        return (token for token in tokenizer.encode_ordinary(f"<{len(asked)}>"))

    monkeypatch.setattr(writing, "generate", echo)
    pipe_in(monkeypatch, b"\nthe\n\nso\n /clear \nthat")
    assert main(["chat", "--model", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert asked == ["\n", "the", "the<2>", "the<2><3>\n\nso", "that"]
    assert out == "<2>\n<3>\n<4>\n<5>\n"
    assert err.startswith("tiny is a language model and was not tuned to answer: it goes on from")
    assert "as far as its 16 tokens reach.\nEnter alone: go on. /clear: forget." in err
    assert err.endswith("(forgotten)\n")


def test_a_conversation_beyond_the_context_is_cut_from_the_front(folder: Path) -> None:
    writer = writing.Writer(chat.parser("chat").read(["--model", str(folder)]))
    for text in ("the prince " * 30, "é€😀" * 20, "short"):
        part = writer.last_part(text)
        assert text.endswith(part)
        assert len(writer.tokenizer.encode(part)) <= 16
        assert part == text or len(writer.tokenizer.encode(part)) >= 12


# Other processes: streaming, Ctrl-C, terminals

ENDLESS = ("--temperature", "0", "--max-new-tokens", "1000000", "--min-new-tokens", "1000000")
"""Goes round in a circle without a line break, because the tiny model's best tokens repeat."""


# chat with a model that was tuned on instructions


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the folder of a model that can say "yes" and "no"; its form asks as chapter 9 does."""
    place = tmp_path_factory.mktemp("models") / "tuned"
    tokenizer = BPETokenizer([])
    config = GPTConfig(vocab_size=257, context_length=64, n_layer=1, n_head=2, n_embd=32)
    model = GPT(config, torch.Generator().manual_seed(0))
    records = [{"instruction": "Say it.", "input": word, "output": word} for word in ("yes", "no")]
    examples = encode_records(records, tokenizer, CHAT, config.context_length)
    list(tune(model, examples, None, TrainingConfig(n_steps=120, max_learning_rate=1e-2)))
    save_tuned(model.eval(), tokenizer, CHAT, place)
    return place


def test_chat_with_a_tuned_model_answers_each_line_in_its_form(
    tuned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe_in(monkeypatch, b"Say it. | yes\n\n  \nSay it.|no\n| yes\nSay it. | yes\n/clear\n")
    assert main(["chat", "--model", str(tuned), "--max-new-tokens", "8"]) == 0
    out, err = capsys.readouterr()
    assert out == "yes\nno\nyes\n"
    assert "tuned was tuned to answer in the form 'chat'; it sees each question alone" in err
    assert "(the instruction is empty; write what to do)" in err
    assert err.endswith("(forgotten)\n")


def test_chat_says_what_it_cuts_from_a_question(
    tuned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe_in(monkeypatch, b"Say it. | " + b"yes " * 30 + b"\n" + b"Say it " * 20 + b"| x\n")
    assert main(["chat", "--model", str(tuned), "--max-new-tokens", "8"]) == 0
    err = capsys.readouterr().err
    assert re.search(r"\(the last \d+ characters of the question had no place and were cut\)", err)
    assert "leave no place in 56 tokens for what the question is about" in err


def test_chat_with_a_tuned_model_can_see_earlier_turns(
    tuned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[list[int]] = []

    def spy(model: GPT, prompt: list[int], *rest: Any, **named: Any) -> Iterator[int]:
        seen.append(prompt)
        return generate(model, prompt, *rest, **named)

    monkeypatch.setattr(writing, "generate", spy)
    lines = b"Say it. | no\nSay it. | no\nSay it. | no\n"
    for words, counts in ([], [0, 0, 0]), (["--remember", "1"], [0, 1, 1]):
        seen.clear()
        pipe_in(monkeypatch, lines)
        written(capsys, "chat", "--model", tuned, "--max-new-tokens", "8", *words)
        # an end of text stands between them
        assert [prompt.count(256) for prompt in seen[1:]] == counts


def test_remember_is_for_tuned_models(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "chat", "--model", folder, "--remember", "2")
    assert "--remember is for a tuned model, and tiny names no form" in said
    assert "write 0 or more" in refusal(capsys, "chat", "--model", folder, "--remember", "-1")


def test_a_damaged_form_is_told_in_one_line(
    tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "bad"
    shutil.copytree(tuned, place)
    (place / "prompt_form.json").write_text("{}")
    assert "prompt_form.json is damaged" in refusal(capsys, "chat", "--model", place)


@POSIX
def test_chat_streams_and_ctrl_c_stops_the_text_but_not_the_program(folder: Path) -> None:
    with talk("chat", "--model", folder, *ENDLESS) as chat:
        assert chat.process.stdin is not None
        assert chat.process.stderr is not None
        for line in (b"the prince\n", b"and so\n", b"\n"):
            chat.process.stdin.write(line)
            chat.process.stdin.flush()
            assert "\n" not in chat.wait_for(300)  # it arrives though the text has no end
            chat.process.send_signal(signal.SIGINT)
            chat.wait_for("\n")
            assert chat.process.poll() is None
        chat.process.stdin.close()
        assert chat.process.wait(PATIENCE) == 0
        assert chat.process.stderr.read().count(b"\n") == 2, "more than how to use it"


@POSIX
def test_at_a_terminal_chat_prompts_and_ctrl_c_gives_the_turn_back(folder: Path) -> None:
    with talk_at_terminal("chat", "--model", folder, *ENDLESS) as chat:
        assert "is a language model" in chat.wait_for("You: ")
        os.write(chat.out, b"the prince\n")
        chat.wait_for("GPT: ")
        chat.wait_for(300)
        os.write(chat.out, b"\x03")  # Ctrl-C
        chat.wait_for("\nYou: ")
        os.write(chat.out, b"half a line")
        chat.wait_for("half a line")
        chat.press_ctrl_c_until("(Ctrl-D ends the conversation)")
        os.write(chat.out, b"/clear\n")
        chat.wait_for("(forgotten)")
        os.write(chat.out, b"so\n")
        chat.wait_for(300)
        os.write(chat.out, b"\x03")
        chat.wait_for("\nYou: ")
        os.write(chat.out, b"\x04")  # Ctrl-D
        assert chat.process.wait(PATIENCE) == 0
        assert b"Traceback" not in chat.seen


@POSIX
def test_ctrl_c_ends_generate_with_a_line_break_and_status_130(folder: Path) -> None:
    with talk("generate", "--model", folder, "--prompt", "the prince", *ENDLESS) as writer:
        text = writer.wait_for(300)
        assert text.startswith("the prince")
        assert "\n" not in text
        writer.process.send_signal(signal.SIGINT)
        assert writer.wait_for("\n").endswith("\n")
        assert writer.process.wait(PATIENCE) == 130
        assert writer.process.stderr is not None
        assert writer.process.stderr.read() == b""


@POSIX
def test_generate_ends_quietly_when_nobody_reads_on(folder: Path) -> None:
    with talk("generate", "--model", folder, "--prompt", "the prince", *ENDLESS) as writer:
        writer.wait_for("the prince")
        assert writer.process.stdout is not None
        writer.process.stdout.close()  # as head does
        assert writer.process.wait(PATIENCE) == 141
        assert writer.process.stderr is not None
        assert writer.process.stderr.read() == b""
