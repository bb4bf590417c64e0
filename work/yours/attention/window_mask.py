def window_mask(n: int, window: int) -> Tensor:
    """Say which keys each of n queries may look at: the last `window` ones, its own included."""
    mask = causal_mask(n)
    return mask & ~mask.tril(diagonal=-window)
