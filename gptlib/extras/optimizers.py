"""Other optimizers than AdamW's fused form, for `train(..., optimizer=lion)`.

Each is made from a model and a plan, as `gptlib.training.make_optimizer` makes AdamW: matrices and
tables get weight decay, biases and norms none, and the loop sets the rate of every group. Each
wants a learning rate of its own: for one small model the best was 0.001 for AdamW and for Lion,
0.01 for Muon and 0.03 for SGD (tests/benchmarks/optimizers.py).

Example:
    >>> from gptlib.gpt2 import GPT, GPTConfig
    >>> from gptlib.training import train
    >>> sizes = GPTConfig(vocab_size=10, context_length=8, n_layer=1, n_head=2, n_embd=16)
    >>> model = GPT(sizes, torch.Generator().manual_seed(0))
    >>> config = TrainingConfig(n_steps=60, batch_size=4, max_learning_rate=1e-2)
    >>> reports = list(train(model, torch.arange(200) % 10, None, config, optimizer=lion))
    >>> reports[-1].loss < 1
    True
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gptlib.training import TrainingConfig, make_optimizer, unwrap


def weight_groups(model: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """Part what learns as `make_optimizer` does: with weight decay and, second, without."""
    groups = make_optimizer(model, config).param_groups
    return [{name: group[name] for name in ("params", "weight_decay")} for group in groups]


class PlainAdamW(torch.optim.Optimizer):
    """AdamW step by step, as its equations stand; PyTorch's does the same up to rounding.

    Args:
        groups: Parameters, each group with its "weight_decay".
        lr: The learning rate.
        betas: How much the averages of the gradient and of its square keep per step.

    Source:
        Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": 1e-8})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move each parameter that has a gradient."""
        for group in self.param_groups:
            (keep, keep_square), rate = group["betas"], group["lr"]
            for weight in (p for p in group["params"] if p.grad is not None):
                state = self.state[weight]
                if not state:
                    zeros = torch.zeros_like(weight), torch.zeros_like(weight)
                    state["step"], (state["mean"], state["square"]) = 0, zeros
                state["step"] += 1
                state["mean"].lerp_(weight.grad, 1 - keep)
                state["square"].lerp_(weight.grad**2, 1 - keep_square)
                # Both averages started at 0; the divisions make up for it.
                mean = state["mean"] / (1 - keep ** state["step"])
                square = state["square"] / (1 - keep_square ** state["step"])
                weight -= rate * group["weight_decay"] * weight
                weight -= rate * mean / (square.sqrt() + group["eps"])


def plain_adamw(model: nn.Module, config: TrainingConfig) -> PlainAdamW:
    """Make AdamW by hand."""
    return PlainAdamW(weight_groups(model, config), config.max_learning_rate, config.betas)


def sgd(model: nn.Module, config: TrainingConfig) -> torch.optim.SGD:
    """Make gradient descent with momentum, the plan's first beta.

    Weight decay is added to the gradient, so momentum sums it too: with a beta of 0.9 it pulls ten
    times as strongly as AdamW's at the same rate.
    """
    groups, momentum = weight_groups(model, config), config.betas[0]
    return torch.optim.SGD(groups, config.max_learning_rate, momentum)


class Lion(torch.optim.Optimizer):
    """Move every weight by the learning rate itself, in the direction of a mean gradient's sign.

    It keeps one average per parameter, where AdamW keeps two.

    Args:
        groups: Parameters, each group with its "weight_decay".
        lr: The learning rate.
        betas: How much of the average the step takes, and how much the average keeps.

    Source:
        Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", algorithm 2.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move each parameter that has a gradient."""
        for group in self.param_groups:
            (take, keep), rate = group["betas"], group["lr"]
            for weight in (p for p in group["params"] if p.grad is not None):
                state = self.state[weight]
                mean = state.setdefault("mean", torch.zeros_like(weight))
                direction = mean.lerp(weight.grad, 1 - take).sign()
                weight -= rate * (direction + group["weight_decay"] * weight)
                mean.lerp_(weight.grad, 1 - keep)


def lion(model: nn.Module, config: TrainingConfig) -> Lion:
    """Make Lion."""
    return Lion(weight_groups(model, config), config.max_learning_rate, config.betas)


class MuonAndAdamW(torch.optim.Optimizer):
    """Let Muon move the matrices inside the blocks, and AdamW all the rest.

    Muon makes of a matrix's mean gradient the nearest orthogonal matrix, so that all its directions
    are learnt equally fast. The steps are scaled to the size of AdamW's, and so both learn at one
    rate.

    Args:
        matrices: What Muon moves.
        adamw: Moves the rest.
        lr: The learning rate.
        weight_decay: Of the matrices.

    Source:
        Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the scale,
        Liu et al. 2025, "Muon is Scalable for LLM Training", equation 4.
    """

    def __init__(
        self, matrices: Sequence[Tensor], adamw: torch.optim.AdamW, lr: float, weight_decay: float
    ) -> None:
        muon = torch.optim.Muon(
            matrices, lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        self.parts: list[torch.optim.Optimizer] = [muon, adamw]
        # The groups are the parts' own, so a rate that is set here reaches them.
        super().__init__(self._groups(), {})

    def _groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Let both move what is theirs."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return what both keep."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Hand back what both kept."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = self._groups()  # loading makes new ones


def check_muon() -> None:
    """Refuse a PyTorch that has no Muon (ValueError); 2.9 was the first that had it."""
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(
            f"PyTorch {torch.__version__} has no Muon; install 2.9 or newer, or choose adamw, sgd "
            "or lion"
        )


def muon(model: nn.Module, config: TrainingConfig) -> MuonAndAdamW:
    """Make Muon for the matrices inside the blocks, with AdamW for the rest; see `check_muon`."""
    check_muon()
    blocks = [p for block in unwrap(model).blocks for p in block.parameters() if p.requires_grad]
    matrices = [p for p in blocks if p.dim() == 2]
    inside, adamw = {id(p) for p in matrices}, make_optimizer(model, config)
    for group in adamw.param_groups:
        group["params"] = [p for p in group["params"] if id(p) not in inside]
    return MuonAndAdamW(matrices, adamw, config.max_learning_rate, config.weight_decay)


OPTIMIZERS: dict[str, Callable[[nn.Module, TrainingConfig], torch.optim.Optimizer]] = {
    "adamw": make_optimizer,
    "sgd": sgd,
    "lion": lion,
    "muon": muon,
}
"""What the command `train` can be told to use, by name."""
