"""Who measures: a plain function. The model in it stands for a simulator of your own."""

PAIRS = {"AT", "TA", "CG", "GC"}


def stem(text: str) -> float:
    """Return how many letters pair when a sequence is folded in the middle; an end that pairs counts double."""
    half = len(text) // 2
    pairs = [a + b in PAIRS for a, b in zip(text[:half], reversed(text[-half:]), strict=True)]
    return sum(pairs) + float(pairs[0])
