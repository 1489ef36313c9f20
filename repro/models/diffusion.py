"""Diffusion of images: noising, losses, samplers and guidance, for a network ``model(z, t, y)``.

z are noised images ``[B, C, H, W]``, t times ``[B]`` in [0, 1] (0: clean), y labels ``[B]``. All noise comes from the
generator that is handed in, which has to be on the images' device.

- `RectifiedFlow` (Liu et al., 2023; Esser et al., 2024): straight paths, the network gives the velocity.
- `GaussianDiffusion` (Ho et al., 2020; Nichol and Dhariwal, 2021): a Markov chain of T steps, the network gives the
  noise and, with as many channels again, the variance of the reverse step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Generator, Tensor

#: (z, t, y) to the network's output.
Field = Callable[[Tensor, Tensor, Tensor], Tensor]


class Process(Protocol):
    """What a network is trained and sampled by."""

    def times(self, count: int, generator: Generator) -> Tensor:
        """Times of a training batch, ``[count]``."""
        ...

    def quantiles(self, count: int) -> Tensor:
        """Fixed times that stand for the distribution of `times`: the middles of ``count`` equally likely parts."""
        ...

    def loss(self, model: Field, x: Tensor, t: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        """Training loss of every image, ``[B]``."""
        ...

    def error(self, model: Field, x: Tensor, t: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error of what the network predicts, ``[B]``: comparable between networks."""
        ...

    def sample(
        self, model: Field, shape: Sequence[int], y: Tensor, generator: Generator, steps: int,
        watch: Callable[[int], None] = ...,
    ) -> Tensor:  # fmt: skip
        """Images of the classes y. ``watch`` is called with the number of each step, from 0 (noise), before it."""
        ...


def normal(shape: Sequence[int], like: Tensor, generator: Generator) -> Tensor:
    """Standard normal noise on the device and in the type of ``like``."""
    return torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)


def _quiet(step: int) -> None:
    return None


def per_image(values: Tensor) -> Tensor:
    """Mean over all but the first dimension."""
    return values.flatten(1).mean(1)


def drop_labels(y: Tensor, none: int, share: float, generator: Generator) -> Tensor:
    """Labels with a random ``share`` of them replaced by ``none``, for classifier-free guidance."""
    return torch.where(torch.rand(y.shape, generator=generator, device=y.device) < share, none, y)


def guided(model: Field, none: int, scale: float, channels: int | None = None) -> Field:
    """Classifier-free guidance (Ho and Salimans, 2022): ``without + scale (with - without)``.

    The images with their labels come first in the batch that the network sees, the same images with ``none`` after
    them. ``scale`` 1 is the network itself.

    Args:
        channels: only the first so many channels are guided, the rest are as with the label; None: all. DiT's code
            guides three of four.
    """
    if scale == 1:
        return model

    def field(z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        both = model(torch.cat((z, z)), torch.cat((t, t)), torch.cat((y, torch.full_like(y, none))))
        given, free = both.chunk(2)
        out = free + scale * (given - free)
        return out if channels is None else torch.cat((out[:, :channels], given[:, channels:]), 1)

    return field


class RectifiedFlow:
    """``z_t = (1 - t) x + t eps``; the network's first C channels give ``dz/dt = eps - x``.

    Times of training are logistic-normal: ``t = sigmoid(N(mean, std^2))``.
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0):
        self.mean, self.std = mean, std

    def times(self, count: int, generator: Generator) -> Tensor:
        drawn = torch.randn(count, generator=generator, device=generator.device)
        return torch.sigmoid(self.mean + self.std * drawn)

    def quantiles(self, count: int) -> Tensor:
        share = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(share)).float()

    def loss(self, model: Field, x: Tensor, t: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        at = t.view(-1, *[1] * (x.dim() - 1))
        z = torch.lerp(x, noise, at.to(x.dtype))
        velocity = model(z, t, y)[:, : x.shape[1]]
        return per_image((velocity - (noise - x)).float().square())

    error = loss

    @torch.no_grad()
    def sample(
        self, model: Field, shape: Sequence[int], y: Tensor, generator: Generator, steps: int = 50,
        watch: Callable[[int], None] = _quiet,
    ) -> Tensor:  # fmt: skip
        """Euler's method from noise at t = 1 to images at t = 0, in equal steps."""
        z = torch.randn(*shape, generator=generator, device=y.device)
        for step in range(steps):
            watch(step)
            t = torch.full((len(y),), 1 - step / steps, device=y.device)
            z = z - model(z, t, y)[:, : shape[1]] / steps
        return z


class GaussianDiffusion:
    """``z_t = sqrt(abar_t) x + sqrt(1 - abar_t) eps`` in T steps; the network's first C channels give eps.

    Where it has 2 C channels the others interpolate the log of the reverse variance between its two bounds, and are
    trained by the variational bound alone, in bits, whose mean passes no gradient. Times are the number of the step,
    t = 0 .. T - 1, over ``scale``, so that a shortened chain tells the network the steps of the long one.

    Args:
        betas: variances of the forward steps, float64 ``[T]``.
        numbers: of the steps in the chain that the network was trained on; None: 0 .. T - 1.
        scale: length of that chain.
        bin: width of an image's grey level where the last step is a discrete likelihood, 2/255 in [-1, 1]. The same
            for latents, as in DiT's code.

    Raises ValueError for a variance outside (0, 1).
    """

    def __init__(
        self, betas: Tensor, *, numbers: Tensor | None = None, scale: int = 0, bin: float = 2 / 255
    ) -> None:  # fmt: skip
        betas = betas.double()
        if not bool(((betas > 0) & (betas < 1)).all()):
            raise ValueError("the variances of the steps have to lie between 0 and 1")
        self.betas, self.steps = betas, len(betas)
        self.numbers = torch.arange(len(betas)) if numbers is None else numbers
        self.scale, self.bin = scale or len(betas), bin
        self.abar = torch.cumprod(1 - betas, 0)
        before = torch.cat((torch.ones(1, dtype=torch.float64), self.abar[:-1]))
        self.variance = betas * (1 - before) / (1 - self.abar)
        # the first is 0; DiT's code takes the second in its place
        self.log_variance = torch.cat((self.variance[1:2], self.variance[1:])).log() if len(betas) > 1 else betas.log()
        self.from_clean = betas * before.sqrt() / (1 - self.abar)
        self.from_noised = (1 - before) * (1 - betas).sqrt() / (1 - self.abar)

    @classmethod
    def linear(cls, steps: int = 1000, low: float = 1e-4, high: float = 2e-2) -> GaussianDiffusion:
        """Betas in equal steps, scaled so that a shorter chain ends as noisy as that of 1,000 steps."""
        return cls(torch.linspace(low, high, steps, dtype=torch.float64) * 1000 / steps)

    def shortened(self, steps: int) -> GaussianDiffusion:
        """The chain over so many of the steps, evenly spread from the first to the last; the last alone for one. Raises
        ValueError for more steps than there are."""
        if not 1 <= steps <= self.steps:
            raise ValueError(f"a chain of {self.steps} steps cannot be shortened to {steps}")
        first = 0 if steps > 1 else self.steps - 1
        kept = torch.linspace(first, self.steps - 1, steps, dtype=torch.float64).round().long()
        abar = self.abar[kept]
        betas = 1 - abar / torch.cat((torch.ones(1, dtype=torch.float64), abar[:-1]))
        return GaussianDiffusion(betas, numbers=self.numbers[kept], scale=self.scale, bin=self.bin)

    def at(self, values: Tensor, index: Tensor, like: Tensor) -> Tensor:
        """Values of the steps ``index [B]``, to be multiplied with ``like``."""
        return values.to(like.device)[index].to(like.dtype).view(-1, *[1] * (like.dim() - 1))

    def index(self, t: Tensor) -> Tensor:
        """Numbers of the steps of an unshortened chain at times ``t [B]``."""
        return (t * self.scale).round().long().clamp(0, self.steps - 1)

    def times(self, count: int, generator: Generator) -> Tensor:
        drawn = torch.randint(self.steps, (count,), generator=generator, device=generator.device)
        return drawn.float() / self.scale

    def quantiles(self, count: int) -> Tensor:
        share = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        return ((share * self.steps).floor() / self.scale).float()

    def noised(self, x: Tensor, index: Tensor, noise: Tensor) -> Tensor:
        """A draw from ``q(z_t | x)``."""
        return self.at(self.abar.sqrt(), index, x) * x + self.at((1 - self.abar).sqrt(), index, x) * noise

    def clean(self, z: Tensor, index: Tensor, eps: Tensor) -> Tensor:
        """The image that z would be made of, were eps its noise."""
        return self.at(self.abar.rsqrt(), index, z) * z - self.at((1 / self.abar - 1).sqrt(), index, z) * eps

    def posterior_mean(self, x: Tensor, z: Tensor, index: Tensor) -> Tensor:
        """Mean of ``q(z_{t-1} | z_t, x)``; its variance is ``variance``."""
        return self.at(self.from_clean, index, x) * x + self.at(self.from_noised, index, x) * z

    def log_reverse_variance(self, output: Tensor, z: Tensor, index: Tensor) -> Tensor:
        """From the network's output; the smaller bound where it gives no variance."""
        low = self.at(self.log_variance, index, z)
        if output.shape[1] == z.shape[1]:
            return low.expand_as(z)
        share = (output[:, z.shape[1] :] + 1) / 2
        return share * self.at(self.betas.log(), index, z) + (1 - share) * low

    def bound(self, x: Tensor, z: Tensor, index: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        """Term t of the variational bound, bits per value, ``[B]``: a divergence between normals, and at the first step
        the likelihood of the image's grey level."""
        true_mean, true_log = self.posterior_mean(x, z, index), self.at(self.log_variance, index, x)
        divergence = 0.5 * (
            log_variance - true_log + (true_log - log_variance).exp() - 1
            + (true_mean - mean).square() * (-log_variance).exp()
        )  # fmt: skip
        return torch.where(
            index == 0, per_image(-self.log_likelihood(x, mean, log_variance)), per_image(divergence)
        ) / math.log(2)

    def log_likelihood(self, x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        """Log of the probability, under a normal, of the grey level that a value in [-1, 1] belongs to."""
        inverse = (-0.5 * log_variance).exp()
        above = torch.special.ndtr(inverse * (x - mean + self.bin / 2)).clamp_min(1e-12)
        below = torch.special.ndtr(inverse * (x - mean - self.bin / 2))
        inner = torch.where(x > 0.999, 1 - below, above - below).clamp_min(1e-12).log()
        return torch.where(x < -0.999, above.log(), inner)

    def loss(self, model: Field, x: Tensor, t: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        """Squared error of the noise, plus the bound where the variance is learned."""
        index = self.index(t)
        z = self.noised(x, index, noise)
        output = model(z, t, y).float()
        eps = output[:, : x.shape[1]]
        loss = per_image((eps - noise).square())
        if output.shape[1] > x.shape[1]:
            mean = self.posterior_mean(self.clean(z, index, eps.detach()), z, index)
            loss = loss + self.bound(x, z, index, mean, self.log_reverse_variance(output, z, index))
        return loss

    def error(self, model: Field, x: Tensor, t: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        index = self.index(t)
        return per_image((model(self.noised(x, index, noise), t, y)[:, : x.shape[1]] - noise).float().square())

    @torch.no_grad()
    def sample(
        self, model: Field, shape: Sequence[int], y: Tensor, generator: Generator, steps: int = 250,
        watch: Callable[[int], None] = _quiet,
    ) -> Tensor:  # fmt: skip
        """The reverse chain over ``steps`` of the steps, the last without noise."""
        chain = self if steps == self.steps else self.shortened(steps)
        z = torch.randn(*shape, generator=generator, device=y.device)
        for step in range(chain.steps):
            watch(step)
            number = chain.steps - 1 - step
            index = torch.full((len(y),), number, device=y.device)
            output = model(z, (chain.numbers[number] / chain.scale).float().to(y.device).expand(len(y)), y)
            mean = chain.posterior_mean(chain.clean(z, index, output[:, : shape[1]]), z, index)
            z = mean
            if number:
                deviation = (0.5 * chain.log_reverse_variance(output, mean, index)).exp()
                z = mean + deviation * normal(shape, mean, generator)
        return z

    @torch.no_grad()
    def sample_ddim(
        self, model: Field, shape: Sequence[int], y: Tensor, generator: Generator, steps: int = 50
    ) -> Tensor:  # fmt: skip
        """DDIM (Song et al., 2021): the same chain without noise but the first."""
        chain = self if steps == self.steps else self.shortened(steps)
        z = torch.randn(*shape, generator=generator, device=y.device)
        for number in reversed(range(chain.steps)):
            index = torch.full((len(y),), number, device=y.device)
            eps = model(z, (chain.numbers[number] / chain.scale).float().to(y.device).expand(len(y)), y)[:, : shape[1]]
            z = chain.clean(z, index, eps)
            if number:
                z = chain.noised(z, index - 1, eps)
        return z


@torch.no_grad()
def held_out_error(
    process: Process, model: Field, batches: Sequence[tuple[Tensor, Tensor]], levels: int, generator: Generator
) -> Tensor:
    """Error of the network on images ``(x, y)`` at each of ``levels`` fixed times, float64 ``[levels]``.

    Every image meets every time with noise of its own, the same for all networks that are given an equal generator on
    the CPU: small differences between networks can be told.
    """
    times = process.quantiles(levels)
    total, count = torch.zeros(levels, dtype=torch.float64), 0
    for x, y in batches:
        for level, t in enumerate(times):
            noise = torch.randn(x.shape, generator=generator).to(x.device)
            found = process.error(model, x, t.to(x.device).expand(len(x)), y, noise)
            total[level] += found.double().sum().cpu()
        count += len(x)
    return total / count


def as_field(model: Callable[..., Tensor], dtype: str = "float32") -> Field:
    """The network with its matrix products in ``dtype`` (``float32`` or ``bfloat16``) and a float32 output."""
    if dtype == "float32":
        return model

    def field(z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(z.device.type, torch.bfloat16):
            return model(z, t, y).float()

    return field


def velocity_of_gaussian(variance: float) -> Field:
    """The best velocity of a `RectifiedFlow` where images are independent normal values of a variance: what a network
    on such data can be compared with."""

    def field(z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        at = t.view(-1, *[1] * (z.dim() - 1))
        return z * (at - (1 - at) * variance) / ((1 - at).square() * variance + at.square())

    return field


def least_error_of_gaussian(variance: float, t: Tensor) -> Tensor:
    """Mean squared error of `velocity_of_gaussian` at times t: no network can have less."""
    spread = (1 - t).square() * variance + t.square()
    return 1 + variance - (t - (1 - t) * variance).square() / spread
