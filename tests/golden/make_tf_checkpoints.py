"""Write the small TensorFlow checkpoints of this folder with TensorFlow itself.

    python tests/golden/make_tf_checkpoints.py

They were made once, with TensorFlow 2.21.0 and numpy 2.4.6 on Python 3.11 (Linux), and are what
`gptlib.extras.formats.tensorflow.read_checkpoint` is proved on. TensorFlow is no dependency of the
course: to make them anew, install it in an environment of its own.

    tf-tiny/    a GPT-2 with OpenAI's names, as `tf.compat.v1.train.Saver` wrote the release: one
                data file, 4 layers, hparams.json, encoder.json and vocab.bpe beside it
    tf-shards/  the same tensors over three data files, merged into one index
    tf-blocks/  330 tensors with names of 900 letters: an index of more than one block (a block
                ends after 262,144 bytes), and types besides float32; number n holds n % 100 and
                the number after it

encoder.json and vocab.bpe are vocab.json and merges.txt of a tokenizer of our own,
`BPETokenizer.train("the prince said that the princess had said so", 262).save(folder)`.
The first two have expected.npz: the same numbers as numpy wrote them.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

HERE = Path(__file__).resolve().parent
V, T, C, LAYERS, HEADS = 262, 16, 8, 4, 2


def gpt2_tensors(generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw a model's tensors under the names, and in the shapes, of OpenAI's release."""
    shapes: dict[str, tuple[int, ...]] = {"wte": (V, C), "wpe": (T, C)}
    for layer in range(LAYERS):
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"h{layer}/{norm}/g": (C,), f"h{layer}/{norm}/b": (C,)}
        for name, (n_in, n_out) in {
            "attn/c_attn": (C, 3 * C),
            "attn/c_proj": (C, C),
            "mlp/c_fc": (C, 4 * C),
            "mlp/c_proj": (4 * C, C),
        }.items():
            shapes |= {f"h{layer}/{name}/w": (1, n_in, n_out), f"h{layer}/{name}/b": (n_out,)}
    shapes |= {"ln_f/g": (C,), "ln_f/b": (C,)}
    return {
        f"model/{name}": generator.normal(0, 0.2, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def save(prefix: Path, tensors: dict[str, np.ndarray]) -> None:
    """Save tensors in one data file, as every checkpoint of TensorFlow is."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.constant(value) for value in tensors.values()],
    )


def save_with_saver(prefix: Path, tensors: dict[str, np.ndarray]) -> None:
    """Save tensors as OpenAI did: variables of a graph, by a Saver."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        for name, value in tensors.items():
            v1.get_variable(name, initializer=value)
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(prefix), write_state=False)


def save_shards(prefix: Path, tensors: dict[str, np.ndarray], n_files: int) -> None:
    """Save tensors over several data files with one index."""
    parts = [prefix.parent / f"part-{number}" / "model.ckpt" for number in range(n_files)]
    for number, part in enumerate(parts):
        names = list(tensors)[number::n_files]
        save(part, {name: tensors[name] for name in names})
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=[str(part) for part in parts],
        destination_prefix=str(prefix),
        delete_old_dirs=True,
    )


def main() -> int:
    """Write the three folders anew."""
    generator = np.random.default_rng(1)
    for name in ("tf-tiny", "tf-shards", "tf-blocks"):
        for file in (HERE / name).glob("model.ckpt*"):
            file.unlink()
    tensors = gpt2_tensors(generator)
    save_with_saver(HERE / "tf-tiny" / "model.ckpt", tensors)
    (HERE / "tf-tiny" / "model.ckpt.meta").unlink(missing_ok=True)  # the graph, which is not read
    save_shards(HERE / "tf-shards" / "model.ckpt", tensors, n_files=3)
    sizes = {"n_vocab": V, "n_ctx": T, "n_embd": C, "n_head": HEADS, "n_layer": LAYERS}
    for name in ("tf-tiny", "tf-shards"):
        (HERE / name / "hparams.json").write_text(json.dumps(sizes, indent=2) + "\n")
        arrays: Any = tensors
        np.savez_compressed(HERE / name / "expected.npz", **arrays)
    kinds = [np.float32, np.float64, np.float16, tf.bfloat16.as_numpy_dtype]
    many = {
        f"{number:03d}{'/a_scope_with_a_long_name' * 35}": (number % 100 + np.arange(2)).astype(
            kinds[number % 4]
        )
        for number in range(330)
    }
    save(HERE / "tf-blocks" / "model.ckpt", many)
    print(tf.__version__, np.__version__, sys.version.split()[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
