"""NoProp (arXiv 2503.24322): every block learns alone to denoise a label embedding, given the image.

    q(z_t | y) = N(sqrt(abar_t) u_y, (1 - abar_t) I)        what layer t should hold, fixed beforehand; u_y = W_embed[y]
    L_t = T/2 eta (SNR(t) - SNR(t-1)) |u^_t(z_{t-1}, x) - u_y|^2,    z_{t-1} ~ q(. | y),    SNR = abar / (1 - abar)
    z_t = A_t u^_t(z_{t-1}, x) + B_t z_{t-1} + sqrt(C_t) eps,    z_0 ~ N(0, I)                               inference

Time runs from noise (0) to the label (T, or 1), against the custom of diffusion code. A block is trained by ordinary
back-propagation inside itself; no gradient and no activation passes from one block to another. `NoPropDT` has T blocks
with weights of their own; `NoPropCT` and `NoPropFM` have one that is told the time.

A block is any module with ``look(x)``, features of the image, and ``block(z, seen)`` or ``block(z, seen, t)``, logits
over the classes ``[B, classes]``. An embedding maps labels to rows of its ``weight [classes, d]``; a head maps z to
logits. Images ``x`` are ``[B, ...]``, labels ``y`` LongTensor ``[B]``, z ``[B, d]``. All noise comes from the generator
that is handed in, which has to be on the images' device.

    model = NoPropDT(blocks, embedding, head)
    for t in model.order(epochs):                                    # Algorithm 1
        for x, y in batches:
            model.block_loss(t, x, y, noise).backward()              # only block t, the head and a trained W_embed
            optimizer.step(); optimizer.zero_grad()
    z = model.chain(x, noise)[-1]
    predicted = head(z).argmax(1)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from repro.models.neural_ode import euler


def normal(like: Tensor, generator: Generator) -> Tensor:
    """Standard normal noise of the shape of ``like``."""
    return torch.randn(like.shape, generator=generator, device=like.device)


# --- the noise ------------------------------------------------------------------------------------------------


def cosine_schedule(steps: int, floor: float = 1e-4) -> Tensor:
    """abar_0 .. abar_T, float64 ``[T + 1]``: ``cos^2(pi/2 (1 - t/T))``, kept within ``[floor, 1 - floor]``. The paper
    names a cosine schedule and gives no offsets."""
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    return torch.cos(math.pi / 2 * (1 - t)).square().clamp(floor, 1 - floor)


def snr(abar: Tensor) -> Tensor:
    """Signal-to-noise ratio ``abar / (1 - abar)``."""
    return abar / (1 - abar)


def posterior(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A, B, C of ``q(z_t | z_{t-1}, y)``, of mean ``A u_y + B z_{t-1}`` and variance C, from abar_{t-1} and abar_t."""
    alpha = before / after  # alpha_{t-1}: abar_t is the product of alpha_s for s from t to T
    a = after.sqrt() * (1 - alpha) / (1 - before)
    b = alpha.sqrt() * (1 - after) / (1 - before)
    return a, b, (1 - after) * (1 - alpha) / (1 - before)


def diffuse(u: Tensor, abar: Tensor, generator: Generator) -> Tensor:
    """A draw from ``q(z_t | y)``; ``abar`` is a scalar or ``[B, 1]``. It is the root of abar that scales the mean."""
    abar = abar.to(u.dtype)
    return abar.sqrt() * u + (1 - abar).sqrt() * normal(u, generator)


def prior_divergence(u: Tensor, abar: Tensor) -> Tensor:
    """``KL(q(z_0 | y) || N(0, I))``, mean over the batch; constant where embedding and schedule are fixed."""
    abar, d = abar.to(u.dtype), u.shape[1]
    return 0.5 * (abar * u.square().sum(1) - d * abar - d * torch.log1p(-abar)).mean()


# --- discrete time --------------------------------------------------------------------------------------------


class NoPropDT(nn.Module):
    """T blocks, each trained alone (Algorithm 1).

    Args:
        blocks: u^_1 .. u^_T, each with weights of its own.
        eta: weight of the denoising term.
        blind: an ablation. z is pure noise in training and at inference, so that every block has the image alone.
    """

    blocks: Any
    embedding: Any
    abar: Tensor

    def __init__(
        self, blocks: Iterable[nn.Module], embedding: nn.Module, head: nn.Module, *, eta: float = 0.1,
        blind: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.blocks, self.embedding, self.head = nn.ModuleList(blocks), embedding, head
        self.eta, self.blind = eta, blind
        self.register_buffer("abar", cosine_schedule(len(self.blocks)))

    def order(self, epochs: int) -> Iterator[int]:
        """Which block t = 1..T learns in each pass over the data: one epoch is T passes, one for every block."""
        return (t for _ in range(epochs) for t in range(1, len(self.blocks) + 1))

    def predict(self, t: int, z: Tensor, x: Tensor, generator: Generator) -> Tensor:
        """u^_t of block t = 1..T, ``[B, d]``: a convex combination of the class embeddings."""
        block = self.blocks[t - 1]
        z = normal(z, generator) if self.blind else z
        return block(z, block.look(x)).softmax(1) @ self.embedding.weight

    def block_loss(self, t: int, x: Tensor, y: Tensor, generator: Generator) -> Tensor:
        """The bound on ``-log p(y | x)`` with block t for the expectation over t; no other block runs."""
        u, steps = self.embedding(y), len(self.blocks)
        z = diffuse(u, self.abar[t - 1], generator)
        error = (self.predict(t, z, x, generator) - u).square().sum(1).mean()
        weight = steps / 2 * self.eta * (snr(self.abar[t]) - snr(self.abar[t - 1]))
        label = F.cross_entropy(self.head(diffuse(u, self.abar[-1], generator)), y)
        return label + prior_divergence(u, self.abar[0]) + weight.to(error.dtype) * error

    @torch.no_grad()
    def chain(self, x: Tensor, generator: Generator) -> list[Tensor]:
        """Inference: z_0 .. z_T."""
        z = torch.randn(len(x), self.embedding.weight.shape[1], generator=generator, device=x.device)
        out = [z]
        for t in range(1, len(self.blocks) + 1):
            a, b, c = (v.to(z.dtype) for v in posterior(self.abar[t - 1], self.abar[t]))
            z = a * self.predict(t, z, x, generator) + b * z + c.sqrt() * normal(z, generator)
            out.append(z)
        return out

    def logits(self, x: Tensor, generator: Generator) -> Tensor:
        """Class scores of one stochastic inference, ``[B, classes]``."""
        return self.head(self.chain(x, generator)[-1])


# --- continuous time ------------------------------------------------------------------------------------------


class LearnedSchedule(nn.Module):
    """``gamma(t) = gamma_0 + (gamma_1 - gamma_0)(1 - gbar(t))`` and ``SNR = exp(-gamma)``. gbar rises from 0 to 1: a
    net of two layers with positive weights, normalised.

    ``ends``: gamma_0 and gamma_1 at the start, which the paper does not give. Towards the label dSNR/dt grows as
    ``exp(-gamma_0)``: a low gamma_0 leaves all weight to times at which z tells the label and the image is not needed.
    """

    def __init__(self, ends: tuple[float, float] = (-4.0, 5.0), width: int = 64) -> None:
        super().__init__()
        self.ends = nn.Parameter(torch.tensor(ends))
        self.slope = nn.Parameter(torch.linspace(-2, 2, width))
        self.shift = nn.Parameter(torch.linspace(-2, 2, width))
        self.scale = nn.Parameter(torch.zeros(width))

    def g(self, t: Tensor) -> Tensor:
        hidden = torch.sigmoid(t[..., None] * F.softplus(self.slope) + self.shift)
        return (hidden * F.softplus(self.scale)).sum(-1)

    def gamma(self, t: Tensor) -> Tensor:
        """At times ``[B]`` in [0, 1]."""
        start, end = self.g(torch.arange(2.0, device=t.device))
        low, high = self.ends
        return low + (high - low) * (1 - (self.g(t) - start) / (end - start))

    def abar(self, t: Tensor) -> Tensor:
        return torch.sigmoid(-self.gamma(t))

    def snr_slope(self, t: Tensor) -> Tensor:
        """dSNR/dt at times ``[B]``, differentiable in the schedule's weights."""
        with torch.enable_grad():
            t = t.detach().requires_grad_()
            return torch.autograd.grad(torch.exp(-self.gamma(t)).sum(), t, create_graph=True)[0]


class NoPropCT(nn.Module):
    """Diffusion in continuous time with one timed block, and a noise schedule that is trained along (Algorithm 2)."""

    block: Any
    embedding: Any

    def __init__(
        self, block: nn.Module, embedding: nn.Module, head: nn.Module, *, eta: float = 1.0,
        ends: tuple[float, float] = (-4.0, 5.0),
    ) -> None:  # fmt: skip
        super().__init__()
        self.block, self.embedding, self.head, self.eta = block, embedding, head, eta
        self.schedule = LearnedSchedule(ends)

    def loss(self, x: Tensor, y: Tensor, generator: Generator) -> Tensor:
        """Every image at a time of its own, drawn from U(0, 1)."""
        u = self.embedding(y)
        t = torch.rand(len(y), generator=generator, device=x.device)
        z = diffuse(u, self.schedule.abar(t)[:, None], generator)
        guess = self.block(z, self.block.look(x), t).softmax(1) @ self.embedding.weight
        error = (self.schedule.snr_slope(t) * (guess - u).square().sum(1)).mean()
        first, last = self.schedule.abar(torch.arange(2.0, device=x.device))
        label = F.cross_entropy(self.head(diffuse(u, last, generator)), y)
        return label + prior_divergence(u, first) + self.eta / 2 * error

    @torch.no_grad()
    def logits(self, x: Tensor, generator: Generator, steps: int = 1000) -> Tensor:
        """Class scores after so many steps of the chain of the discrete variant, ``[B, classes]``."""
        weight, seen = self.embedding.weight, self.block.look(x)
        z = torch.randn(len(x), weight.shape[1], generator=generator, device=x.device)
        times = torch.linspace(0, 1, steps + 1, device=x.device)
        abar = self.schedule.abar(times)
        for i in range(steps):
            a, b, c = posterior(abar[i], abar[i + 1])
            guess = self.block(z, seen, times[i].expand(len(x))).softmax(1) @ weight
            z = a * guess + b * z + c.sqrt() * normal(z, generator)
        return self.head(z)


class NoPropFM(nn.Module):
    """Flow matching with one timed block: it learns the velocity from noise z_0 to the label's embedding z_1
    (Algorithm 3).

    ``sigma`` is the spread around the straight path, not given in the paper. ``head`` is trained, and used in training
    only, where the embedding is.
    """

    block: Any
    embedding: Any

    def __init__(self, block: nn.Module, embedding: nn.Module, head: nn.Module | None = None, *, sigma: float = 0.0):
        super().__init__()
        self.block, self.embedding, self.head, self.sigma = block, embedding, head, sigma

    def velocity(self, z: Tensor, seen: Tensor, t: Tensor) -> Tensor:
        """``[B, d]``: a linear combination of the class embeddings, not a convex one."""
        return self.block(z, seen, t) @ self.embedding.weight

    def loss(self, x: Tensor, y: Tensor, generator: Generator) -> Tensor:
        """Every image at a time of its own, drawn from U(0, 1)."""
        u = self.embedding(y)
        noise, t = normal(u, generator), torch.rand(len(y), generator=generator, device=x.device)
        at = t[:, None]
        z = at * u + (1 - at) * noise + self.sigma * normal(u, generator)
        v = self.velocity(z, self.block.look(x), t)
        error = (v - (u - noise)).square().sum(1).mean()
        return error if self.head is None else error + F.cross_entropy(self.head(z + (1 - at) * v), y)

    @torch.no_grad()
    def logits(self, x: Tensor, generator: Generator, steps: int = 1000) -> Tensor:
        """Minus the squared distance from z_1, after so many steps of Euler's method, to each class's embedding."""
        weight, seen = self.embedding.weight, self.block.look(x)
        z = torch.randn(len(x), weight.shape[1], generator=generator, device=x.device)
        z = euler(lambda z, t: self.velocity(z, seen, t.expand(len(x))), z, steps)
        return -torch.cdist(z, weight).square()
