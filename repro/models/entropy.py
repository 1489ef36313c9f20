"""Learned entropy models: a density that is trained as a rate, and a code that turns integers into bytes and back.

    noisy, bits = prior(v, generator)        training: v + U(-1/2, 1/2), and -log2 p of it, differentiable
    code = prior.code()                      afterwards: tables of integers, fixed for sender and receiver
    messages = [code.encode(image) for image in code.symbols(v)]
    v = code.values(torch.stack([code.decode(m, height * width) for m in messages]))

The density is the factorised one of Balle et al. (2018, Appendix 6.1): every channel has a cumulative distribution of
its own, a composition of small monotone maps, and symbols are independent. The range coder is that of `constriction`.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from repro.models.gdn import bounded

#: Probabilities below this count as this in a rate.
FLOOR = 1e-9
#: Frequencies of a table add up to this.
TOTAL = 2**16


class FactorisedPrior(nn.Module):
    """Densities of ``channels`` independent channels of [N, C, ...].

    Args:
        filters: widths of the monotone maps inside a channel's cumulative distribution.
        scale: width of the densities at the start.

    ``matrices`` go through softplus and ``factors`` through tanh, which keeps every map increasing.
    """

    def __init__(self, channels: int, *, filters: tuple[int, ...] = (3, 3, 3, 3), scale: float = 10.0) -> None:
        super().__init__()
        self.channels, self.scale = channels, scale
        widths = (1, *filters, 1)
        pairs = list(itertools.pairwise(widths))
        self.matrices = nn.ParameterList(torch.empty(channels, out, into) for into, out in pairs)
        self.biases = nn.ParameterList(torch.empty(channels, out, 1) for _, out in pairs)
        self.factors = nn.ParameterList(torch.empty(channels, out, 1) for _, out in pairs[:-1])
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        scale = self.scale ** (1 / len(self.matrices))
        for matrix, bias in zip(self.matrices, self.biases, strict=True):
            matrix.fill_(math.log(math.expm1(1 / scale / matrix.shape[1])))
            bias.uniform_(-0.5, 0.5)
        for factor in self.factors:
            factor.zero_()

    def logits(self, v: Tensor) -> Tensor:
        """Log-odds of the cumulative distribution, [C, 1, n] for v [C, 1, n]; increasing in v."""
        for k, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            v = torch.matmul(F.softplus(matrix), v) + bias
            if k < len(self.factors):
                v = v + torch.tanh(self.factors[k]) * torch.tanh(v)
        return v

    def mass(self, v: Tensor) -> Tensor:
        """Probability of the interval of length 1 around v, [C, 1, n], not below `FLOOR`."""
        lower, upper = self.logits(v - 0.5), self.logits(v + 0.5)
        sign = -(lower + upper).sign().detach()  # the difference is taken in the tail where it does not cancel
        return bounded((torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs(), FLOOR)

    def bits(self, v: Tensor) -> Tensor:
        """``-log2 p`` of every element of v [N, C, ...], in v's shape."""
        rows = v.transpose(0, 1).reshape(self.channels, 1, -1)
        found = -torch.log2(self.mass(rows))
        return found.reshape(v.shape[1], v.shape[0], *v.shape[2:]).transpose(0, 1)

    def forward(self, v: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """What the decoder sees, and its bits, both in v's shape [N, C, ...].

        With a generator (on v's device) v plus noise U(-1/2, 1/2); with None v rounded, for which no gradient passes.
        """
        if generator is None:
            seen = quantise(v, self.medians())
        else:
            seen = v + torch.rand(v.shape, generator=generator, device=v.device, dtype=v.dtype) - 0.5
        return seen, self.bits(seen)

    @torch.no_grad()
    def quantiles(self, share: float) -> Tensor:
        """Where the cumulative distribution of each channel has the value ``share``, by bisection: [C]."""
        target = math.log(share / (1 - share))
        like = self.matrices[0]
        low, high = (like.new_full((self.channels, 1, 1), end) for end in (-1e5, 1e5))
        for _ in range(48):
            middle = (low + high) / 2
            above = self.logits(middle) > target
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return ((low + high) / 2).view(-1)

    def medians(self) -> Tensor:
        """[C]; values are rounded to whole steps from these."""
        return self.quantiles(0.5)

    @torch.no_grad()
    def code(self, *, tail: float = 1e-6, widest: int = 255) -> FactorisedCode:
        """The tables of a range coder.

        Symbols reach from each channel's quantile ``tail`` to ``1 - tail``, at most ``widest`` steps from the median;
        what lies beyond is set to the last one.
        """
        medians = self.medians()
        low = (self.quantiles(tail) - medians).floor().clamp(min=-widest, max=0)
        high = (self.quantiles(1 - tail) - medians).ceil().clamp(min=0, max=widest)
        frequencies = []
        for c in range(self.channels):
            steps = torch.arange(int(low[c]), int(high[c]) + 1, device=low.device)
            at = torch.zeros(self.channels, 1, len(steps), device=low.device) + (medians[c] + steps)
            frequencies.append(table(self.mass(at)[c, 0].cpu().double().numpy()))
        return FactorisedCode(medians.cpu(), low.cpu().long(), frequencies)


def quantise(v: Tensor, medians: Tensor) -> Tensor:
    """v [N, C, ...] rounded to whole steps from the channels' medians [C], without gradient."""
    m = medians.view(1, -1, *([1] * (v.dim() - 2)))
    return (torch.round(v - m) + m).detach()


def table(mass: np.ndarray) -> np.ndarray:
    """Integer frequencies, each at least 1, that add up to `TOTAL`, in proportion to ``mass``.

    Raises ValueError for more symbols than `TOTAL`.
    """
    if len(mass) > TOTAL:
        raise ValueError(f"{len(mass)} symbols do not fit frequencies that add up to {TOTAL}")
    share = mass / mass.sum() * (TOTAL - len(mass))
    counts = np.floor(share).astype(np.int64)
    rest = TOTAL - len(mass) - int(counts.sum())
    counts[np.argsort(counts - share, kind="stable")[:rest]] += 1  # largest remainders first
    return counts + 1


class FactorisedCode:
    """A code for integer symbols of C channels, each with a table of frequencies, and what maps them to values.

    Args:
        medians: [C], the values of symbol 0 (in steps from the median).
        low: LongTensor [C], the smallest step that a channel can send.
        frequencies: of the steps from ``low`` on, a table for every channel.

    A message is the shortest one that the range coder decodes exactly, with zeros behind it; its length is known to the
    receiver, as that of a packet is. It can be empty.
    """

    def __init__(self, medians: Tensor, low: Tensor, frequencies: list[np.ndarray]) -> None:
        import constriction

        self.medians, self.low, self.frequencies = medians, low, frequencies
        self.high = low + torch.tensor([len(f) - 1 for f in frequencies])
        self._queue: Any = constriction.stream.queue
        model = constriction.stream.model
        # a channel of one symbol needs no bits, and no table
        self._models = [model.Categorical(f / TOTAL, perfect=False) if len(f) > 1 else None for f in frequencies]

    def symbols(self, v: Tensor) -> Tensor:
        """Steps from the medians, int32, for v [N, C, ...]; values beyond a table become its last."""
        m, low, high = (self._wide(t, v) for t in (self.medians, self.low, self.high))
        return torch.minimum(torch.maximum(torch.round(v.cpu() - m).long(), low), high).int()

    def values(self, symbols: Tensor) -> Tensor:
        """What the decoder sees, float32, for symbols [N, C, ...]."""
        return symbols.float() + self._wide(self.medians, symbols)

    @staticmethod
    def _wide(channels: Tensor, like: Tensor) -> Tensor:
        return channels.view(1, -1, *([1] * (like.dim() - 2)))

    def ideal_bits(self, symbols: Tensor) -> float:
        """Length of the ideal code of symbols [C, ...] under the tables."""
        total = 0.0
        for c, row in enumerate(symbols.reshape(len(self.low), -1)):
            counts = self.frequencies[c][(row - self.low[c]).numpy()]
            total += float((math.log2(TOTAL) - np.log2(counts)).sum())
        return total

    def encode(self, symbols: Tensor) -> bytes:
        """The message of one image's symbols, int32 [C, ...]."""
        rows = (symbols.reshape(len(self.low), -1) - self.low[:, None]).to(torch.int32).numpy()
        encoder = self._queue.RangeEncoder()
        for model, row in zip(self._models, rows, strict=True):
            if model is not None:
                encoder.encode(np.ascontiguousarray(row), model)
        whole = encoder.get_compressed().astype(">u4").tobytes()
        # the coder writes whole words: any shorter number in the same interval says the same
        for length in range(max(0, len(whole) - 8), len(whole)):
            start = int.from_bytes(whole[:length], "big")
            for number in (start, start + 1):
                if number >> (8 * length):
                    continue
                message = number.to_bytes(length, "big")
                with contextlib.suppress(ValueError):
                    if np.array_equal(self._rows(message, rows.shape[1]), rows):
                        return message
        return whole

    def decode(self, message: bytes, count: int) -> Tensor:
        """Symbols, int32 [C, count], of a message with ``count`` symbols in each channel.

        Raises ValueError for bytes that are no such message; most damage goes unnoticed, as in any range code.
        """
        return torch.from_numpy(self._rows(message, count)).int() + self.low[:, None].int()

    def _rows(self, message: bytes, count: int) -> np.ndarray:
        words = np.frombuffer(message + bytes(-len(message) % 4) + bytes(8), dtype=">u4").astype(np.uint32)
        decoder = self._queue.RangeDecoder(words)
        rows = np.zeros((len(self.low), count), np.int32)
        for c, model in enumerate(self._models):
            if model is not None:
                try:
                    rows[c] = decoder.decode(model, count)
                except AssertionError as error:  # what constriction raises
                    raise ValueError("not a message of this code") from error
        return rows
