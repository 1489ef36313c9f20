"""Parts of transformers that forecast series in patches: scaling, projections of patches, attention over time and
variates, predictive distributions, and a decoder that draws the future patch by patch.

Shapes: B rows, N tokens, P steps of a patch, d width, H heads, S samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import LogNormal, Normal, StudentT

from repro.models.norm import RMSNorm

#: Floor of the variance in `standardise`.
EPS = 1e-5


# --- values ---------------------------------------------------------------------------------------------------


def standardise(values: Tensor, observed: Tensor, eps: float = EPS) -> tuple[Tensor, Tensor]:
    """Mean and ``sqrt(variance + eps)`` of the observed values of every row, unbiased and computed in float64.

    Args:
        values: [B, T]. observed: bool [B, T].

    Returns:
        loc and scale, [B, 1] in the type of ``values``; 0 and ``sqrt(eps)`` of a row without observations.
    """
    x = values.double().where(observed, 0.0)
    count = observed.sum(1, keepdim=True)
    loc = x.sum(1, keepdim=True) / count.clamp_min(1)
    variance = (x - loc).where(observed, 0.0).square().sum(1, keepdim=True) / (count - 1).clamp_min(1)
    return loc.to(values.dtype), (variance + eps).sqrt().to(values.dtype)


class ResidualProjection(nn.Module):
    """``W2 silu(W1 z + b1) + b2 + Wr z + br``: patches [..., P] to tokens [..., d]."""

    def __init__(self, patch: int, hidden: int):
        super().__init__()
        self.first = nn.Linear(patch, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.residual = nn.Linear(patch, hidden)

    def forward(self, z: Tensor) -> Tensor:
        return self.second(F.silu(self.first(z))) + self.residual(z)


class ByLabel(nn.Module):
    """One module for each label: a row goes through that of its label."""

    def __init__(self, make: Callable[[], nn.Module], labels: int):
        super().__init__()
        self.each = nn.ModuleList(make() for _ in range(labels))

    def idle_parameters(self) -> int:
        """Parameters that one row does not touch."""
        return sum(p.numel() for p in self.parameters()) * (len(self.each) - 1) // len(self.each)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """``x`` [B, ...], ``labels`` LongTensor [B]."""
        order = labels.argsort(stable=True)
        sizes = torch.bincount(labels, minlength=len(self.each)).tolist()
        parts = x[order].split(sizes)
        out = torch.cat([module(part) for module, part in zip(self.each, parts, strict=True)])
        return out[order.argsort()]


# --- predictive distributions ---------------------------------------------------------------------------------


class Head(Protocol):
    """A family of distributions over a step, given by ``size`` unconstrained numbers."""

    size: int

    def log_prob(self, raw: Tensor, z: Tensor) -> Tensor:
        """``raw`` [..., size] and values [...] to log-densities [...]."""
        ...

    def sample(self, raw: Tensor) -> Tensor:
        """``raw`` [..., size] to a draw [...], from torch's own stream of random numbers."""
        ...


def student_t(raw: Tensor) -> StudentT:
    """``raw`` [..., 3] to degrees of freedom 2 + softplus, location, and scale softplus."""
    df, loc, scale = raw.unbind(-1)
    tiny = torch.finfo(raw.dtype).eps
    return StudentT(2 + F.softplus(df), loc, F.softplus(scale).clamp_min(tiny), validate_args=False)


class StudentHead:
    """Student's t."""

    size = 3

    def log_prob(self, raw: Tensor, z: Tensor) -> Tensor:
        return student_t(raw).log_prob(z)

    @torch.no_grad()
    def sample(self, raw: Tensor) -> Tensor:
        return student_t(raw).sample()


class NegativeBinomial:
    """Negative binomial with ``softplus`` total count and logits, its density continued to non-negative reals."""

    def __init__(self, total: Tensor, logits: Tensor):
        self.total, self.logits = F.softplus(total).clamp_min(torch.finfo(total.dtype).eps), logits

    def log_prob(self, z: Tensor) -> Tensor:
        count = torch.lgamma(self.total + z) - torch.lgamma(self.total) - torch.lgamma(1 + z)
        return count + self.total * F.logsigmoid(-self.logits) + z * F.logsigmoid(self.logits)

    def sample(self) -> Tensor:
        return torch.poisson(torch.distributions.Gamma(self.total, (-self.logits).exp(), validate_args=False).sample())


class MixtureHead:
    """Student's t, a normal of scale 1e-3, a negative binomial and a log-normal, mixed: 12 numbers, the logits of the
    mixture first. A component counts only where its support holds the value: z >= 0 for the third, z > 0 for the
    fourth."""

    size = 12
    narrow = 1e-3

    def _parts(self, raw: Tensor) -> tuple[Tensor, StudentT, Normal, NegativeBinomial, LogNormal]:
        logits, t, mean, binomial, log = raw.split((4, 3, 1, 2, 2), -1)
        tiny = torch.finfo(raw.dtype).eps
        return (
            logits.log_softmax(-1),
            student_t(t),
            Normal(mean.squeeze(-1), self.narrow, validate_args=False),
            NegativeBinomial(*binomial.unbind(-1)),
            LogNormal(log[..., 0], F.softplus(log[..., 1]).clamp_min(tiny), validate_args=False),
        )

    def log_prob(self, raw: Tensor, z: Tensor) -> Tensor:
        weights, t, normal, binomial, log_normal = self._parts(raw)
        none = torch.full_like(z, -math.inf)
        # values outside of a support are exchanged before the density, or its gradient would be NaN
        parts = (
            t.log_prob(z),
            normal.log_prob(z),
            binomial.log_prob(z.clamp_min(0.0)).where(z >= 0, none),
            log_normal.log_prob(z.where(z > 0, 1.0)).where(z > 0, none),
        )
        return (weights + torch.stack(parts, -1)).logsumexp(-1)

    @torch.no_grad()
    def sample(self, raw: Tensor) -> Tensor:
        weights, t, normal, binomial, log_normal = self._parts(raw)
        drawn = torch.stack((t.sample(), normal.sample(), binomial.sample(), log_normal.sample()), -1)
        which = torch.distributions.Categorical(logits=weights, validate_args=False).sample()
        return drawn.gather(-1, which[..., None]).squeeze(-1)


HEADS: dict[str, Callable[[], Head]] = {"student": StudentHead, "mixture": MixtureHead}


# --- attention over time and variates -------------------------------------------------------------------------


class Places(NamedTuple):
    """Where tokens stand: ``time`` LongTensor [B, N] or [N], and where rows are not one series without gaps
    ``allowed`` bool [B, N, N] (query, key) and ``same`` bool [B, N, N], of one variate."""

    time: Tensor
    allowed: Tensor | None = None
    same: Tensor | None = None


def packed_places(time: Tensor, sample: Tensor, variate: Tensor) -> Places:
    """Places of packed rows: a token sees those of its sample at its own time and before, of every variate.

    Args:
        time, sample, variate: LongTensor [B, N]; tokens of a negative sample see themselves only.
    """
    one = sample[:, :, None] == sample[:, None, :]
    earlier = time[:, :, None] >= time[:, None, :]
    itself = torch.eye(time.shape[1], dtype=torch.bool, device=time.device)
    return Places(
        time, itself | (one & earlier & (sample >= 0)[:, :, None]), variate[:, :, None] == variate[:, None, :]
    )


def rotate(x: Tensor, time: Tensor, share: float = 0.5, base: float = 10000.0) -> Tensor:
    """Rotary embedding of the first ``share`` of a head's dimensions, neighbours in pairs (Su et al., 2021).

    Args:
        x: [B, H, N, e]. time: [B, N] or [N].
    """
    size = int(x.shape[-1] * share) // 2 * 2
    frequency = base ** (-torch.arange(0, size, 2, device=x.device, dtype=torch.float32) / size)
    angle = time[..., None].float() * frequency
    angle = angle[:, None] if angle.dim() == 3 else angle
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    even, odd = x[..., 0:size:2], x[..., 1:size:2]
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)
    return torch.cat((turned, x[..., size:]), -1)


class Memory(NamedTuple):
    """Keys and values of one layer: those of the past [B, H, N, e], which all samples share, with bool [B, N] of what
    may be seen, and those of every sample's own tokens [B, S, H, n, e], None before the first."""

    keys: Tensor
    values: Tensor
    seen: Tensor | None
    own_keys: Tensor | None = None
    own_values: Tensor | None = None


class TimeAttention(nn.Module):
    """Causal attention with normed queries and keys, rotary embedding of half of a head, and a learned bias of each
    head for keys of the same and of another variate; no other biases."""

    def __init__(self, hidden: int, heads: int, eps: float = 1e-5):
        super().__init__()
        if hidden % heads:
            raise ValueError(f"width {hidden} for {heads} heads")
        self.heads, self.size = heads, hidden // heads
        self.q_proj = nn.Linear(hidden, hidden, bias=False)
        self.k_proj = nn.Linear(hidden, hidden, bias=False)
        self.v_proj = nn.Linear(hidden, hidden, bias=False)
        self.out_proj = nn.Linear(hidden, hidden, bias=False)
        self.q_norm = nn.RMSNorm(self.size, eps=eps)
        self.k_norm = nn.RMSNorm(self.size, eps=eps)
        self.variate_bias = nn.Parameter(torch.zeros(2, heads))

    def _heads(self, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, self.size)) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = self.q_norm(q), self.k_norm(k)
        return rotate(q.transpose(1, 2), time), rotate(k.transpose(1, 2), time), v.transpose(1, 2)

    def forward(self, x: Tensor, places: Places) -> Tensor:
        """``x`` [B, N, d]."""
        return self.remember(x, places)[0]

    def remember(self, x: Tensor, places: Places) -> tuple[Tensor, Memory]:
        """The same, with keys and values for `extend`."""
        q, k, v = self._heads(x, places.time)
        if places.allowed is None:
            # one series without gaps: the bias is the same for all keys, and softmax does not see it
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            mask = torch.zeros(places.allowed.shape, dtype=x.dtype, device=x.device)[:, None]
            if places.same is not None:
                mask = torch.where(places.same[:, None], self.variate_bias[1, :, None, None],
                                   self.variate_bias[0, :, None, None])  # fmt: skip
            mask = mask.masked_fill(~places.allowed[:, None], -math.inf)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype))
        seen = None if places.allowed is None else places.allowed[:, -1]
        return self.out_proj(out.transpose(1, 2).flatten(2)), Memory(k, v, seen)

    def extend(self, x: Tensor, time: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """One token more of every sample, ``x`` [B, S, d], of one variate.

        Keys of the past are the same for all samples, so that they are read once for a row and not once for a sample.

        Args:
            time: LongTensor [B], of the new tokens.
        """
        rows, samples, _ = x.shape
        each = self._heads(x.reshape(rows * samples, 1, -1), time.repeat_interleave(samples)[:, None])
        q, k, v = (t.squeeze(2).unflatten(0, (rows, samples)) for t in each)
        own_k, own_v = k[:, :, :, None], v[:, :, :, None]
        if memory.own_keys is not None and memory.own_values is not None:
            own_k, own_v = torch.cat((memory.own_keys, own_k), 3), torch.cat((memory.own_values, own_v), 3)
        past = q.transpose(1, 2) @ memory.keys.transpose(-1, -2)  # [B, H, S, N]
        if memory.seen is not None:
            past = past.masked_fill(~memory.seen[:, None, None], -math.inf)
        own = (own_k @ q[..., None]).squeeze(-1).transpose(1, 2)  # [B, H, S, n]
        weights = (torch.cat((past, own), -1) / math.sqrt(self.size)).softmax(-1)
        there = past.shape[-1]
        out = (weights[..., :there] @ memory.values).transpose(1, 2)
        out = out + (weights[..., there:].transpose(1, 2)[..., None, :] @ own_v).squeeze(-2)
        return self.out_proj(out.flatten(2)), memory._replace(own_keys=own_k, own_values=own_v)


class FeedForward(Protocol):
    """A feed-forward layer that may have a loss of its own: ``x [..., d]`` to (``[..., d]``, loss or None)."""

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor | None]: ...


class Layer(nn.Module):
    """``h += attention(norm h); h += feed_forward(norm h)``."""

    def __init__(self, hidden: int, heads: int, feed_forward: nn.Module, eps: float = 1e-5):
        super().__init__()
        self.attention_norm = RMSNorm(hidden, eps=eps)
        self.attention = TimeAttention(hidden, heads, eps)
        self.feed_forward_norm = RMSNorm(hidden, eps=eps)
        self.feed_forward = feed_forward

    def _rest(self, h: Tensor) -> tuple[Tensor, Tensor | None]:
        y, auxiliary = self.feed_forward(self.feed_forward_norm(h))
        return h + y, auxiliary

    def forward(self, h: Tensor, places: Places) -> tuple[Tensor, Tensor | None]:
        return self._rest(h + self.attention(self.attention_norm(h), places))

    def remember(self, h: Tensor, places: Places) -> tuple[Tensor, Memory]:
        attended, memory = self.attention.remember(self.attention_norm(h), places)
        return self._rest(h + attended)[0], memory

    def extend(self, h: Tensor, time: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        attended, memory = self.attention.extend(self.attention_norm(h), time, memory)
        return self._rest(h + attended)[0], memory


class PatchDecoder(nn.Module):
    """A decoder-only transformer over patches: at every token the distribution of the next patch.

    Args:
        feed_forwards: one for each layer.
        labels: 0 for one projection in and out; otherwise so many of each, chosen by the label of a row.
    """

    def __init__(
        self, patch: int, hidden: int, heads: int, feed_forwards: Sequence[nn.Module], head: Head, labels: int = 0,
        eps: float = 1e-5,
    ):  # fmt: skip
        super().__init__()
        self.patch, self.head = patch, head

        def out() -> nn.Module:
            return nn.Linear(hidden, patch * head.size)

        def into() -> nn.Module:
            return ResidualProjection(patch, hidden)

        self.into: nn.Module = ByLabel(into, labels) if labels else into()
        self.layers = nn.ModuleList(Layer(hidden, heads, ff, eps) for ff in feed_forwards)
        self.norm = RMSNorm(hidden, eps=eps)
        self.out: nn.Module = ByLabel(out, labels) if labels else out()

    @property
    def stack(self) -> list[Layer]:
        """The layers, the first one first."""
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    def _project(self, module: nn.Module, x: Tensor, labels: Tensor | None) -> Tensor:
        if not isinstance(module, ByLabel):
            return module(x)
        if labels is None:
            raise ValueError("projections by label need the labels of the rows")
        return module(x, labels)

    def _raw(self, h: Tensor, labels: Tensor | None) -> Tensor:
        raw = self._project(self.out, self.norm(h), labels).unflatten(-1, (self.patch, self.head.size))
        return raw.float() if raw.dtype in (torch.bfloat16, torch.float16) else raw  # densities need the precision

    def forward(
        self, z: Tensor, labels: Tensor | None = None, places: Places | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Scaled patches [B, N, P] to the parameters [B, N, P, size] of the next patch at every token, and the sum of
        the layers' own losses or None. Without ``places`` a row is one series without gaps."""
        h = self._project(self.into, z, labels)
        places = places or Places(torch.arange(z.shape[1], device=z.device))
        total: Tensor | None = None
        for layer in self.stack:
            h, auxiliary = layer(h, places)
            if auxiliary is not None:
                total = auxiliary if total is None else total + auxiliary
        return self._raw(h, labels), total

    def nll(self, z: Tensor, first: int, labels: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Mean negative log-likelihood (nats a step) of the patches from ``first`` (at least 1) on, each given all
        before it, and the layers' own losses."""
        raw, auxiliary = self(z[:, :-1], labels)
        return -self.head.log_prob(raw[:, first - 1 :], z[:, first:]).mean(), auxiliary

    @torch.no_grad()
    def sample(
        self, past: Tensor, horizon: int, samples: int, seed: int, labels: Tensor | None = None, rows: int = 64
    ) -> Tensor:
        """Draw the future, patch by patch, each given the past and the patches drawn before it.

        Args:
            past: [B, C] in its own unit, NaN before the first observation; C a multiple of the patch. Mean and scale
                are those of the past and stay as they are.
            seed: of the draws; the same for rows of one batch of ``rows``, whatever else is forecast.
            rows: rows that are computed together.

        Returns:
            [B, samples, horizon] in the unit of the past.
        """
        out = []
        for number, part in enumerate(past.split(rows)):
            which = None if labels is None else labels[number * rows : number * rows + len(part)]
            devices = [part.device] if part.device.type == "cuda" else []
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(seed + number)
                out.append(self._sample(part, horizon, samples, which))
        return torch.cat(out)

    def _sample(self, past: Tensor, horizon: int, samples: int, labels: Tensor | None) -> Tensor:
        observed = ~past.isnan()
        loc, scale = standardise(past.nan_to_num(), observed)
        z = ((past - loc) / scale).nan_to_num().unflatten(1, (-1, self.patch))
        places = past_places(observed.unflatten(1, (-1, self.patch)).any(-1))
        h = self._project(self.into, z, labels)
        memories = []
        for layer in self.stack:
            h, memory = layer.remember(h, places)
            memories.append(memory)
        raw = self._raw(h[:, -1:], labels)
        drawn = [self.head.sample(raw.expand(-1, samples, -1, -1))]
        for step in range(1, -(-horizon // self.patch)):
            time = (places.time[..., -1] + step).expand(len(past))
            h = self._project(self.into, drawn[-1], labels)
            for number, layer in enumerate(self.stack):
                h, memories[number] = layer.extend(h, time, memories[number])
            drawn.append(self.head.sample(self._raw(h, labels)))
        return torch.cat(drawn, -1)[..., :horizon] * scale[..., None] + loc[..., None]


def past_places(there: Tensor) -> Places:
    """Places of rows of one series whose first tokens may be absent: ``there`` bool [B, N]."""
    time = torch.arange(there.shape[1], device=there.device)
    if bool(there.all()):
        return Places(time)
    rows = time.expand(there.shape)
    return packed_places(rows, there.long() - 1, torch.zeros_like(rows))._replace(same=None)
