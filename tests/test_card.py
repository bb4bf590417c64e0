"""What only a CUDA card can show: the same texts and losses there, by every way to get them."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gptlib.extras.fast import fast
from gptlib.extras.models import load_model
from gptlib.generation import Sampling, beam_search, draw, generate, generate_batch, keep_top_p
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.scaling import chunked_loss, processes, train_in_parallel
from gptlib.training import Loss, TrainingConfig, next_token_loss, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no card here")

SIZES = GPTConfig(vocab_size=1000, context_length=64, n_layer=2, n_head=2, n_embd=64)
PLAN = TrainingConfig(n_steps=20, batch_size=8, report_every=1, save_every=10)
TOKENS = torch.randint(1000, (4000,), generator=torch.Generator().manual_seed(1))


def losses(device: str, loss: Loss = chunked_loss, plan: TrainingConfig = PLAN) -> list[float]:
    model = GPT(SIZES, torch.Generator().manual_seed(0)).to(device)
    return [report.loss for report in train(model, TOKENS, None, plan, loss=loss)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0),
        Sampling(temperature=0.8, top_p=0.95),
        Sampling(temperature=0.9, top_k=50, min_p=0.02, repetition_penalty=1.1),
    ],
    ids=["greedy", "top-p", "many"],
)
def test_a_seed_gives_the_same_text_by_every_way(sampling: Sampling) -> None:
    model, tokenizer = load_model()
    prompts = [tokenizer.encode_ordinary(text) for text in ("She was ", "In the evening of ")]

    def write(model: GPT, step: object = None) -> list[list[int | None]]:
        sources = [torch.Generator().manual_seed(row) for row in (1, 2)]
        options = {"generators": sources, "step": step}
        return list(generate_batch(model, prompts, 300, sampling, **options))  # type: ignore[arg-type]

    expected = write(model.eval())
    model.cuda()
    assert write(model) == expected
    for compiles in (False, True):
        assert write(*fast(model, compile=compiles)) == expected


@pytest.mark.filterwarnings("ignore")
def test_two_texts_at_once_searches_and_moved_models_are_served() -> None:
    model = GPT(SIZES, torch.Generator().manual_seed(0)).cuda().eval()
    twin, step = fast(model)
    both = [generate(twin, [n], 90, Sampling(temperature=0), step=step) for n in (1, 2)]
    pairs = list(zip(*both, strict=True))
    for n, column in zip((1, 2), zip(*pairs, strict=True), strict=True):
        assert list(column) == list(generate(model, [n], 90, Sampling(temperature=0)))
    assert beam_search(twin, [1], 3, 6, step=step) == beam_search(model, [1], 3, 6)
    with torch.no_grad():
        model.ln_f.weight.neg_()
    after = list(generate(twin, [1], 9, Sampling(temperature=0), step=step))
    assert after == list(generate(model, [1], 9, Sampling(temperature=0)))


@pytest.mark.skipif(find_spec("triton") is None, reason="this PyTorch came without Triton")
@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0])
def test_the_kernels_keep_and_draw_what_chapter_6_does(spread: float) -> None:
    from gptlib.extras.fast.kernels import draw_by_slices, search_top_p

    logits = (spread * torch.randn(5, 50_257)).cuda()
    for p in (0.1, 0.5, 0.9, 0.95):
        same = search_top_p(logits, p).isfinite() == keep_top_p(logits, p).isfinite()
        assert (~same).sum() <= 5  # rounded sums may move a border by a token
    uniform = torch.rand(5).cuda()
    assert (draw_by_slices(logits, uniform) - draw(logits, uniform)).abs().max() <= 1
    equal = torch.zeros(2, 8).cuda()
    assert search_top_p(equal, 0.5).isfinite().sum(1).tolist() == [4, 4]
    cut = torch.tensor([[0.3, 0.1, 0.1, 0.5]]).log().cuda()
    assert search_top_p(cut, 0.8).isfinite().tolist() == [[True, False, False, True]]


@pytest.mark.filterwarnings("ignore")
def test_losses_are_those_of_the_cpu_also_compiled_and_resumed(tmp_path: Path) -> None:
    expected = losses("cpu", next_token_loss)
    ways: dict[str, Loss] = {
        "plain": next_token_loss,
        "in chunks": chunked_loss,
        "compiled": torch.compile(chunked_loss),
        "graphs": torch.compile(chunked_loss, mode="reduce-overhead"),
    }
    for name, loss in ways.items():
        assert losses("cuda", loss) == pytest.approx(expected, rel=2e-4), name
    half = losses("cuda", ways["compiled"], replace(PLAN, precision="bfloat16"))
    assert half == pytest.approx(expected, rel=1e-2)

    path = tmp_path / "run.pt"

    def run(way: str, n: int, resume: bool = False) -> Tensor:
        model = GPT(SIZES, torch.Generator().manual_seed(0)).cuda()
        options = {"loss": ways[way], "checkpoint": path, "resume": resume}
        reports = train(model, TOKENS, None, PLAN, **options)  # type: ignore[arg-type]
        for _, _ in zip(range(n), reports, strict=False):
            pass
        reports.close()
        return model.ln_f.weight.detach().cpu()

    # What is compiled adds the embedding's gradients up in the order in which threads come.
    for way, tolerance in (("in chunks", 0.0), ("compiled", 1e-4)):
        whole = run(way, 20)
        run(way, 10)
        resumed = run(way, 10, resume=True)
        torch.testing.assert_close(resumed, whole, rtol=tolerance, atol=tolerance)


@pytest.mark.filterwarnings("ignore")
def test_nccl_with_one_process_trains_alike() -> None:
    expected = losses("cuda")
    with processes("cuda") as device:
        model = GPT(SIZES, torch.Generator().manual_seed(0)).to(device)
        found = [report.loss for report in train_in_parallel(model, TOKENS, None, PLAN)]
    assert found == pytest.approx(expected, rel=1e-5)
