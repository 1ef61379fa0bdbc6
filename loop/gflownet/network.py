"""The multilayer perceptron of a policy, and its gradient written by hand.

What the outputs mean belongs in `policy`.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ROUNDED_LEAST = 4_000_000
"""Multiplications from which rounded products are faster: 128 rows of 256 x 256, not of 32 x 256."""

HALF_LEAST = 16_000_000
"""Multiplications of the largest layer from which a whole pass in bfloat16 is faster: 256 rows of 256 x 256."""

_FUSED = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
"""A linear layer and its ReLU in one kernel: a private name, so plain operations take its place elsewhere."""


class Mlp(nn.Module):
    """Linear layers of the given sizes, each followed by a ReLU, with a backward pass written by hand.

    With `rounds`, large passes that need a gradient keep activations and the factors of products in bfloat16; sums
    within a product are float32, and so are the weights and what the heads say. Gradients of gradients are
    refused.
    """

    def __init__(self, sizes: Sequence[int], generator: torch.Generator, *, rounds: bool = False) -> None:
        super().__init__()
        self.linears = [linear(n_in, n_out, generator) for n_in, n_out in itertools.pairwise(sizes)]
        self.layers = nn.ModuleList(self.linears)
        self.rounds = rounds
        self.weights: list[Tensor] = [p for layer in self.linears for p in (layer.weight, layer.bias)]

    def forward(self, x: Tensor) -> Tensor:
        """Map `n x sizes[0]` to `n x sizes[-1]`."""
        out: Tensor = self.with_heads(x, [])[0]
        return out

    def with_heads(self, x: Tensor, heads: Sequence[nn.Linear]) -> Sequence[Tensor]:
        """Return what linear heads say of `forward(x)`, one tensor each, in one autograd node."""
        weights = [p for head in heads for p in (head.weight, head.bias)]
        found: Sequence[Tensor] = _Pass.apply(  # type: ignore[no-untyped-call]
            x, self.rounds and torch.is_grad_enabled(), len(self.weights), *self.weights, *weights
        )
        return found


def bucket(rows: int) -> int:
    """Return the least number of four binary digits, and zeros, that is not below `rows`.

    The kernels for bfloat16 are made anew for every number of rows: there must not be many.
    """
    step = 1 << max(0, rows.bit_length() - 4)
    return -(-rows // step) * step


def product(operation: Callable[..., Tensor], *factors: Tensor, rounds: bool, out: Tensor | None = None) -> Tensor:
    """Return `mm` of two float32 tensors or `addmm` of three; with `rounds`, of rounded factors if they are large.

    Factors in bfloat16 are round already.
    """
    if not rounds or len(factors[-2]) * factors[-1].numel() < ROUNDED_LEAST:
        return operation(*factors, out=out)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        return operation(*factors, out=out)
    finally:
        torch.set_float32_matmul_precision(before)


def is_large(rows: int, weights: Sequence[Tensor]) -> bool:
    """Return whether a pass over so many rows is faster in bfloat16 from end to end."""
    return rows * max(w.numel() for w in weights) >= HALF_LEAST


def layer(x: Tensor, weight: Tensor, bias: Tensor, *, rounds: bool) -> Tensor:
    """Return a linear layer's output after its ReLU."""
    if x.dtype == torch.bfloat16 and x.device.type == "cpu" and _FUSED is not None:
        out: Tensor = _FUSED(x, weight, bias, "relu", [], "")
        return out
    return product(torch.addmm, bias, x, weight.t(), rounds=rounds).relu_()


def head(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return what a linear head says, in float32: rounded to bfloat16, a logit of 5 would err by 0.02."""
    return product(torch.addmm, bias, x.to(weight.dtype), weight.t(), rounds=x.dtype == torch.bfloat16)


def forward_pass(x: Tensor, weights: Sequence[Tensor], *, rounds: bool) -> list[Tensor]:
    """Return what `backward_pass` needs: input, weight and output of each layer; the last is the pass's output.

    With `rounds`, large passes are in bfloat16, and rows of zeros fill up a `bucket`.
    """
    saved = []
    if rounds and is_large(len(x), weights):
        x = padded(x.bfloat16(), bucket(len(x)))
        weights = [w.bfloat16() for w in weights]
    else:
        x = x.to(weights[0].dtype)
    for weight, bias in zip(weights[::2], weights[1::2], strict=True):
        out = layer(x, weight, bias, rounds=rounds)
        saved += [x, weight, out]
        x = out
    return saved


def backward_pass(saved: Sequence[Tensor], grad: Tensor, *, rounds: bool) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield the number of each layer, the last first, the gradient at its sums, and its input.

    `grad`, at the last output, has its shape and type: `like` gives them to what it is made of.
    """
    for number in reversed(range(len(saved) // 3)):
        x, weight, out = saved[3 * number : 3 * number + 3]
        grad = torch.ops.aten.threshold_backward(grad, out, 0)
        yield number, grad, x
        if number > 0:
            grad = product(torch.mm, grad, weight, rounds=rounds)


def padded(values: Tensor, rows: int) -> Tensor:
    """Return a matrix with rows of zeros added up to `rows`."""
    return values if len(values) == rows else nn.functional.pad(values, (0, 0, 0, rows - len(values)))


def like(values: Tensor, saved: Sequence[Tensor]) -> Tensor:
    """Return a matrix with the number of rows and the type of what a pass has saved."""
    return padded(values.to(saved[0].dtype), len(saved[0]))


def write_gradient(weight: Tensor, bias: Tensor, grad: Tensor, x: Tensor, *, rounds: bool) -> None:
    """Write the gradient of a linear layer over its parameters' own `grad`, which are there."""
    assert weight.grad is not None
    assert bias.grad is not None
    if grad.dtype == weight.dtype:
        torch.sum(grad, 0, out=bias.grad)
        product(torch.mm, grad.t(), x, rounds=rounds, out=weight.grad)
    else:
        bias.grad.copy_(grad.sum(0))
        weight.grad.copy_(grad.t() @ x)


class _Pass(torch.autograd.Function):
    """The layers of `Mlp` and the heads on it as one node.

    Takes the input, whether large passes are in bfloat16, the number of the layers' tensors, and then weight and
    bias of each layer and of each head. Returns one tensor for each head, or the last layer's output where there
    is none.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, rounds: bool, n_layers: int, *weights: Tensor) -> tuple[Tensor, ...]:
        saved, heads = forward_pass(x, weights[:n_layers], rounds=rounds), weights[n_layers:]
        ctx.n_saved, ctx.rounds, ctx.dtype = len(saved), rounds, weights[0].dtype
        ctx.save_for_backward(*saved, *heads[::2])
        found = [head(saved[-1], w, bias)[: len(x)] for w, bias in zip(heads[::2], heads[1::2], strict=True)]
        return tuple(found) if heads else (saved[-1][: len(x)].to(weights[0].dtype),)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved, heads = ctx.saved_tensors[: ctx.n_saved], ctx.saved_tensors[ctx.n_saved :]
        n, hidden = len(grads[0]), saved[-1]
        grads = tuple(like(g, saved) for g in grads)
        found = [part.to(ctx.dtype) for g in grads for part in (g.t() @ hidden, g.sum(0))] if heads else []
        grad = sum(g @ w.to(g.dtype) for g, w in zip(grads, heads, strict=True)) if heads else grads[0]
        for _, at_sums, x in backward_pass(saved, grad, rounds=ctx.rounds):
            of_weight = product(torch.mm, at_sums.t(), x, rounds=ctx.rounds)
            found = [of_weight.to(ctx.dtype), at_sums.sum(0).to(ctx.dtype), *found]
            grad = at_sums
        at_input = (grad @ saved[1])[:n].to(ctx.dtype) if ctx.needs_input_grad[0] else None
        return (at_input, None, None, *found)


def zero_linear(n_in: int, n_out: int) -> nn.Linear:
    """Return a linear layer of zeros, without a word from the global random numbers."""
    layer = nn.Linear(n_in, n_out, device="meta").to_empty(device="cpu")
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def linear(n_in: int, n_out: int, generator: torch.Generator) -> nn.Linear:
    """Return a linear layer as PyTorch initialises it, from our generator: uniform within 1 / sqrt(n_in)."""
    layer = nn.Linear(n_in, n_out, device="meta").to_empty(device="cpu")
    bound = 1 / math.sqrt(n_in)
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer
