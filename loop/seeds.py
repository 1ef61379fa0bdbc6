"""Seeds: every random choice of a campaign follows from one number and the place it is made at."""

import hashlib


def derive_seed(seed: int, *place: str | int) -> int:
    """Return a seed in [0, 2^62) for one place of a campaign, such as `("round", 3, "train")`.

    The same place gives the same seed in any process, and neighbouring places give unrelated ones.
    """
    text = "/".join([str(seed), *map(str, place)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 2
