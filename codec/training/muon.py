"""Muon: momentum whose matrices are orthogonalised."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for the weight matrices inside a network. Jordan et al. 2024, "Muon: an optimizer for
    hidden layers in neural networks"; spectral norm of a step proportional to sqrt(outputs / inputs): Bernstein,
    Newhouse 2024, arXiv:2409.20325, so that 3x3 layers do not run ahead of 1x1 layers.

    torch.optim.Muon takes one matrix after the other. Here matrices of one shape are one batched product, which on a
    CPU is several times as fast, and wide ones iterate on their Gram matrix.

    Args:
        params: parameters of two or more dimensions; (C_out, ...) counts as a matrix of C_out rows.
        lr: the spectral norm of a step is ``32 lr size sqrt(outputs / inputs)``.
        size: see lr; 0.3 with the learning rate of Adam.
        momentum: of Nesterov's kind.
        iterations: of Newton and Schulz.
        dtype: of the iterations' products.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 3e-3,
        size: float = 0.3,
        momentum: float = 0.95,
        iterations: int = 5,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(params, dict(lr=lr, size=size, momentum=momentum, iterations=iterations))
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step; ``closure`` is not called. Returns None."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            for p in parameters:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            momenta, gradients = [self.state[p]["momentum"] for p in parameters], [p.grad for p in parameters]
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, gradients)
            ahead = torch._foreach_add(gradients, momenta, alpha=group["momentum"])
            shapes: dict[torch.Size, list[Any]] = {}
            for p, update in zip(parameters, ahead):
                # Columns in the order of memory, which does not matter to a step.
                order = (0, 2, 3, 1) if p.dim() == 4 and not p.is_contiguous() else tuple(range(p.dim()))
                matrix, update = p.permute(order).view(len(p), -1), update.permute(order).flatten(1)
                tall = matrix.shape[0] > matrix.shape[1]
                matrix, update = (matrix.T, update.T) if tall else (matrix, update)
                reach = 32 * group["lr"] * group["size"] * (p.shape[0] / p[0].numel()) ** 0.5
                shapes.setdefault(matrix.shape, []).append((matrix, update, reach))
            for members in shapes.values():
                stack = torch.stack([update.to(self.dtype) for _, update, _ in members])
                for (matrix, _, reach), update in zip(members, orthogonalised(stack, group["iterations"])):
                    matrix.sub_(update, alpha=reach)


def orthogonalised(x: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """Matrices (B, m, n), m <= n, with all singular values moved to about 1 (0.7 to 1.2), by Newton and Schulz."""
    x = x / (x.float().flatten(1).norm(dim=1)[:, None, None] + 1e-20).to(x.dtype)
    if x.shape[2] < 3 * x.shape[1] or x.dtype != torch.float32:
        for _ in range(iterations):
            x = _polynomial(x @ x.mT) @ x
        return x
    # The polynomial of x x^T is what is iterated: small, and applied to x once. Half precision lacks the range for it.
    a = x @ x.mT
    product: Any = None
    for i in range(iterations):
        step = _polynomial(a)
        product = step if product is None else step @ product
        if i < iterations - 1:
            a = step @ a @ step
    return product @ x


def _polynomial(a):
    """3.4445 - 4.7750 a + 2.0315 a a."""
    step = torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315)
    step.diagonal(dim1=1, dim2=2).add_(3.4445)
    return step
