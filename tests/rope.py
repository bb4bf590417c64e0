"""Add rotary positions to a copy of the package, to see how many files that touches.

    python tests/rope.py FOLDER

copies the package to FOLDER, changes it there and names the files. `tests/test_house.py` runs the
result. Source: Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding".
"""

import shutil
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "gptlib"

ROTATE = '''
def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Turn each pair of channels of x, (B, H, T, D), by an angle that grows with the position."""
    channel = torch.arange(0, x.size(-1), 2, device=x.device)  # (D / 2,)
    angles = positions[..., None] * 10_000.0 ** (-channel / x.size(-1))  # ([B,] T, D / 2)
    turns = torch.polar(torch.ones_like(angles), angles).unsqueeze(-3)  # ([B,] 1, T, D / 2)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))  # (B, H, T, D / 2)
    return torch.view_as_real(pairs * turns).flatten(-2)  # (B, H, T, D)


class CausalSelfAttention'''

CHANGES = {
    "embeddings.py": [
        ('"learned", "sinusoidal"]', '"learned", "sinusoidal", "rotary"]'),
        (
            '        if positions == "sinusoidal":',
            '        self.is_rotary = positions == "rotary"\n'
            "        if self.is_rotary:  # queries and keys are turned instead\n"
            "            del self.position_embedding.weight\n"
            '        if positions == "sinusoidal":',
        ),
        (
            "        x = self.token_embedding(tokens) + self.position_embedding(positions)",
            "        x = self.token_embedding(tokens)\n"
            "        if not self.is_rotary:\n"
            "            x = x + self.position_embedding(positions)",
        ),
    ],
    "attention.py": [
        ("\nclass CausalSelfAttention", ROTATE),
        (
            "    def forward(self, x: Tensor, mix: Mix | None = None) -> Tensor:",
            "    is_rotary = False\n\n"
            "    def forward(self, x: Tensor, mix: Mix | None = None, positions=None) -> Tensor:",
        ),
        (
            "        q, k, v = self.project(x)",
            "        q, k, v = self.project(x)\n"
            "        if self.is_rotary:\n"
            "            first = torch.arange(x.size(1), device=x.device)\n"
            "            places = first if positions is None else positions\n"
            "            q, k = rotate(q, places), rotate(k, places)",
        ),
    ],
    "gpt2.py": [
        (
            "    def forward(self, x: Tensor, mix: Mix | None = None) -> Tensor:",
            "    def forward(self, x: Tensor, mix: Mix | None = None, positions=None) -> Tensor:",
        ),
        ("self.attn(self.ln_1(x), mix)", "self.attn(self.ln_1(x), mix, positions)"),
        (
            "        self.mlp = MLP(config)",
            '        self.attn.is_rotary = config.positions == "rotary"\n'
            "        self.mlp = MLP(config)",
        ),
        ("x = block(x, mix)", "x = block(x, mix, positions)"),
    ],
}
"""For each file what is replaced by what."""


def add_rotary_positions(folder: Path) -> list[str]:
    """Copy the package into `folder`, change the copy, and name the files that were changed."""
    copy = folder / "gptlib"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for name, changes in CHANGES.items():
        text = (copy / name).read_text(encoding="utf-8")
        for old, new in changes:
            if text.count(old) != 1:
                raise ValueError(f"{name} has {old!r} {text.count(old)} times; mend this script")
            text = text.replace(old, new)
        (copy / name).write_text(text, encoding="utf-8")
    return list(CHANGES)


if __name__ == "__main__":
    print(", ".join(add_rotary_positions(Path(sys.argv[1]))))
