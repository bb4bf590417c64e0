def attend_in_pieces(q: Tensor, k: Tensor, v: Tensor, n: int) -> Tensor:
    """Attend with at most n keys at a time; return the output, shape (T, D)."""
    largest = q.new_full((len(q), 1), -math.inf)
    top, bottom = (q.new_zeros(len(q), v.size(-1)), q.new_zeros(len(q), 1))
    for keys, values in zip(k.split(n), v.split(n), strict=True):
        scores = q @ keys.T / math.sqrt(q.size(-1))
        new = torch.maximum(largest, scores.amax(dim=-1, keepdim=True))
        old, parts = ((largest - new).exp(), (scores - new).exp())
        top = old * top + parts @ values
        bottom = old * bottom + parts.sum(dim=-1, keepdim=True)
        largest = new
    return top / bottom
