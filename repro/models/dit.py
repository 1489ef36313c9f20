"""A diffusion transformer (DiT; Peebles and Xie, 2023): patches as tokens, conditioned by adaptive layer norms that
start at zero (adaLN-Zero). What stands for the MLP of a block is handed in, so that experts can take its place.

Shapes: B images, C channels, T patches, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.models.moe import Experts, SwiGLU, TopKRouter
from repro.models.neural_ode import time_embedding
from repro.models.vit import MLP, Attention
from repro.training.initial import generator


@dataclass(frozen=True, slots=True)
class DiTConfig:
    """Shape of a `DiT`.

    Args:
        size, patch, channels: side of the square image (or latent) and of a patch; channels of the image.
        classes: labels are in ``range(classes)``; the label ``classes`` stands for none.
        hidden, layers, heads: D, blocks, heads.
        outputs: channels of the output; 0: as many as the image has. Twice as many where the variance is learned.
        frequencies: width of the sinusoidal embedding of the time.
        qk_norm: layer norms on queries and keys of every head.
        eps: of the layer norms.

    Raises ValueError when patches do not fill the image, heads do not divide ``hidden`` or 4 does not.
    """

    size: int = 8
    patch: int = 2
    channels: int = 1
    classes: int = 10
    hidden: int = 64
    layers: int = 4
    heads: int = 4
    outputs: int = 0
    frequencies: int = 256
    qk_norm: bool = False
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.size % self.patch:
            raise ValueError(f"patches of {self.patch} do not fill an image of {self.size}")
        if self.hidden % self.heads:
            raise ValueError(f"{self.heads} heads do not divide {self.hidden}")
        if self.hidden % 4:
            raise ValueError(f"positions in two dimensions need a multiple of 4 features, not {self.hidden}")

    @property
    def side(self) -> int:
        """Patches along a side."""
        return self.size // self.patch

    @property
    def tokens(self) -> int:
        """Patches of an image, T."""
        return self.side**2

    @property
    def out_channels(self) -> int:
        return self.outputs or self.channels


#: What stands for the MLP of a block: from the number of the block, counted from 0, to a module ``[B, T, D]`` to the
#: same shape.
FeedForward = Callable[[int], nn.Module]


def plane_positions(hidden: int, side: int) -> Tensor:
    """Sinusoidal positions of a square of patches, row by row: ``[side * side, hidden]``.

    The first half of the features tells the column, the second the row, each as sines and then cosines at frequencies
    from 1 to nearly 1e-4.
    """
    place = torch.arange(side, dtype=torch.float64)
    rates = 1e4 ** -(torch.arange(hidden // 4, dtype=torch.float64) / (hidden // 4))
    angle = place[:, None] * rates
    axis = torch.cat((angle.sin(), angle.cos()), 1)
    across, down = axis.repeat(side, 1), axis.repeat_interleave(side, 0)
    return torch.cat((across, down), 1).float()


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``x (1 + scale) + shift`` with one shift and scale ``[B, D]`` for all tokens of an image ``[B, T, D]``."""
    return torch.addcmul(shift[:, None], x, 1 + scale[:, None])


class NormedAttention(Attention):
    """Self-attention with a layer norm on queries and keys of every head, [B, T, D] to [B, T, D]."""

    def __init__(self, hidden: int, heads: int, eps: float = 1e-6):
        super().__init__(hidden, heads)
        self.q_norm = nn.LayerNorm(hidden // heads, eps=eps)
        self.k_norm = nn.LayerNorm(hidden // heads, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, hidden = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, hidden))


class DiTBlock(nn.Module):
    """``x + g1 Attention(Norm(x) (1 + s1) + b1)``, then ``x + g2 FF(Norm(x) (1 + s2) + b2)``; the six come from the
    condition c ``[B, D]`` through a layer that is zero at the start, so that the block then is the identity."""

    def __init__(self, config: DiTConfig, feed_forward: nn.Module):
        super().__init__()
        d = config.hidden
        self.norm1 = nn.LayerNorm(d, eps=config.eps, elementwise_affine=False)
        self.attention = NormedAttention(d, config.heads) if config.qk_norm else Attention(d, config.heads)
        self.norm2 = nn.LayerNorm(d, eps=config.eps, elementwise_affine=False)
        self.feed_forward = feed_forward
        self.modulation = nn.Linear(d, 6 * d)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        b1, s1, g1, b2, s2, g2 = self.modulation(F.silu(c)).chunk(6, dim=1)
        x = torch.addcmul(x, g1[:, None], self.attention(modulate(self.norm1(x), b1, s1)))
        return torch.addcmul(x, g2[:, None], self.feed_forward(modulate(self.norm2(x), b2, s2)))


class Condition(nn.Module):
    """Time in [0, 1], as a thousandth of a step, plus label: c ``[B, D]``."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.frequencies = config.frequencies
        self.time1 = nn.Linear(config.frequencies, config.hidden)
        self.time2 = nn.Linear(config.hidden, config.hidden)
        self.labels = nn.Embedding(config.classes + 1, config.hidden)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        embedded = time_embedding(t.float(), self.frequencies).to(self.time1.weight.dtype)
        return self.time2(F.silu(self.time1(embedded))) + self.labels(y)


class DiT(nn.Module):
    """Images ``[B, C, H, H]``, times ``[B]`` in [0, 1] and labels ``[B]`` to ``[B, outputs, H, H]``.

    Args:
        feed_forward: makes what stands for the MLP of each block. The default is DiT's, GELU with 4 D units,
            but for its exact form, where DiT's code has that by tanh.
    """

    def __init__(self, config: DiTConfig, feed_forward: FeedForward | None = None):
        super().__init__()
        self.config = config
        d = config.hidden
        make = feed_forward or (lambda _: MLP(d, 4 * d))
        self.patches = nn.Conv2d(config.channels, d, config.patch, config.patch)
        # fixed, and a parameter: the published counts hold it
        self.positions = nn.Parameter(plane_positions(d, config.side), requires_grad=False)
        self.condition = Condition(config)
        self.blocks = nn.ModuleList(DiTBlock(config, make(layer)) for layer in range(config.layers))
        self.norm = nn.LayerNorm(d, eps=config.eps, elementwise_affine=False)
        self.modulation = nn.Linear(d, 2 * d)
        self.out = nn.Linear(d, config.patch**2 * config.out_channels)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        c = self.condition(t, y)
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            tokens = block(tokens, c)
        shift, scale = self.modulation(F.silu(c)).chunk(2, dim=1)
        return self.unpatch(self.out(modulate(self.norm(tokens), shift, scale)))

    def unpatch(self, tokens: Tensor) -> Tensor:
        """``[B, T, patch * patch * C]``, the channel innermost, to ``[B, C, H, H]``."""
        side, p = self.config.side, self.config.patch
        grid = tokens.view(len(tokens), side, side, p, p, -1)
        return grid.permute(0, 5, 1, 3, 2, 4).reshape(len(tokens), -1, side * p, side * p)


def _xavier(shape: tuple[int, ...], name: str, seed: int) -> Tensor:
    """U(-a, a) with ``a^2 = 6 / (inputs + outputs)``, for a weight [outputs, inputs]."""
    bound = (6 / (shape[0] + shape[1])) ** 0.5
    return torch.empty(shape).uniform_(-bound, bound, generator=generator(name, seed))


@torch.no_grad()
def initialise_dit(model: nn.Module, seed: int) -> nn.Module:
    """Draw the weights of a `DiT` anew, in place, every tensor from a generator of its own by name and seed.

    Linear layers, patches and experts Xavier-uniform, the gate and the value half of a SwiGLU each as a layer of its
    own, biases 0; label table and layers of the time N(0, 0.02); all modulations and the last layer 0; routers
    U(-1/sqrt(D), 1/sqrt(D)). Experts are drawn one by one, so that a smaller pool holds the first of a larger one.
    """
    for path, module in model.named_modules():
        name = f"initial {path}"
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            weight = module.weight
            last = path.rsplit(".", 1)[-1]
            if last == "modulation" or path == "out":
                weight.zero_()
            elif last in ("time1", "time2"):
                weight.copy_(torch.empty(weight.shape).normal_(std=0.02, generator=generator(name, seed)))
            elif last == "gate_up_proj":
                half = (len(weight) // 2, weight.shape[1])
                weight.copy_(torch.cat([_xavier(half, f"{name} {part}", seed) for part in ("gate", "up")]))
            else:
                weight.copy_(_xavier((len(weight), weight[0].numel()), name, seed).view(weight.shape))
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            module.weight.copy_(torch.empty(module.weight.shape).normal_(std=0.02, generator=generator(name, seed)))
        elif isinstance(module, Experts):
            width, hidden = module.down_proj.shape[2], module.down_proj.shape[1]
            for e in range(module.count):
                for i, part in enumerate(("gate", "up")):
                    drawn = _xavier((width, hidden), f"{name} {e} {part}", seed)
                    module.gate_up_proj[e, i * width : (i + 1) * width].copy_(drawn)
                module.down_proj[e].copy_(_xavier((hidden, width), f"{name} {e} down", seed))
        elif isinstance(module, TopKRouter):
            bound = module.weight.shape[1] ** -0.5
            drawn = torch.empty(module.weight.shape)
            for e in range(len(drawn)):
                drawn[e].uniform_(-bound, bound, generator=generator(f"{name} {e}", seed))
            module.weight.copy_(drawn)
    return model


def swiglu(config: DiTConfig, width: float) -> FeedForward:
    """A SwiGLU of ``width`` times D units in every block."""
    units = round(width * config.hidden)
    return lambda _: SwiGLU(config.hidden, units)
