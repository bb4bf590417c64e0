"""Train the model that travels with the course, with chapter 5's code, and write its folder.

    python data/models/train_war_and_peace.py

A run that was stopped goes on where its last checkpoint was made: give --resume.
"""

import argparse
import json
import math
from pathlib import Path

import torch
from tqdm import tqdm

from gptlib.embeddings import split_tokens
from gptlib.extras.datasets import war_and_peace
from gptlib.gpt2 import GPT, GPTConfig
from gptlib.tokenizer import BPETokenizer
from gptlib.training import TrainingConfig, bits_per_byte, evaluate, perplexity, train
from gptlib.weights import load_gpt2, save_gpt2

SIZES = GPTConfig(vocab_size=4096, context_length=256, n_layer=6, n_head=8, n_embd=256, dropout=0.2)
BATCH_SIZE = 8
PASSES = 20  # times through the nine tenths of the book that are trained on


def main() -> None:
    """Train, report, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "war-and-peace")
    parser.add_argument("--checkpoint", type=Path, default=Path("runs/shipped.pt"))
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    text = war_and_peace()
    tokenizer = BPETokenizer.train(text, SIZES.vocab_size)
    train_tokens, validation_tokens = split_tokens(torch.tensor(tokenizer.encode(text)))
    n_bytes = len(tokenizer.decode_bytes(validation_tokens.tolist()))

    torch.manual_seed(0)  # dropout draws from PyTorch's own generator
    model = GPT(SIZES, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:  # chapter 5: 0.02 suits 768 channels, fewer want more
                parameter.mul_(math.sqrt(768 / SIZES.n_embd))
    for block in model.blocks:
        block.attn.dropout.p = 0.0  # 4 million random numbers per block: a third of a step's time
    n_steps = int(PASSES * len(train_tokens) / (BATCH_SIZE * SIZES.context_length))
    plan = TrainingConfig(
        n_steps=n_steps,
        batch_size=BATCH_SIZE,
        max_learning_rate=1.5e-3,
        warmup_steps=200,
        weight_decay=0.3,
        precision="bfloat16",
        report_every=50,
        evaluate_every=500,
        save_every=500,
    )
    reports = train(
        model,
        train_tokens,
        validation_tokens,
        plan,
        checkpoint=arguments.checkpoint,
        resume=arguments.resume,
    )
    seconds = 0.0
    with tqdm(total=n_steps, unit="step") as bar:
        for report in reports:
            seconds = report.seconds
            bar.update(report.step - bar.n)
            bar.set_postfix_str(f"loss {report.loss:.3f}")
            if report.validation_loss is not None:
                bits = bits_per_byte(report.validation_loss, len(validation_tokens) - 1, n_bytes)
                bar.write(
                    f"step {report.step}: validation {bits:.4f} bits per byte, perplexity "
                    f"{perplexity(report.validation_loss):.1f} per token"
                )
    save_gpt2(model.eval(), tokenizer, arguments.folder, torch.float16)
    kept, _ = load_gpt2(arguments.folder)  # judged as it will be used, rounded to float16
    loss = evaluate(kept, validation_tokens)
    file = arguments.folder / "config.json"
    record = {
        "text": "War and Peace, its first nine tenths; judged on the last tenth",
        "tokens": len(train_tokens),
        "passes": PASSES,
        "steps": n_steps,
        "batch_size": BATCH_SIZE,
        "precision": plan.precision,
        "threads": arguments.threads,
        "hours": None if arguments.resume else round(seconds / 3600, 2),
        "bits_per_byte": round(bits_per_byte(loss, len(validation_tokens) - 1, n_bytes), 4),
        "perplexity": round(perplexity(loss), 2),
    }
    content = json.loads(file.read_text()) | {"training": record}
    file.write_text(json.dumps(content, indent=2) + "\n")
    print(f"saved to {arguments.folder}: {record}")


if __name__ == "__main__":
    main()
