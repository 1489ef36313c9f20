"""Global-batch load balancing (arXiv 2501.11873): the scope over which expert selections are counted.

A batch is made of N_P groups (parallel micro-batches). In group j, expert i is selected by a share f_i^j of all token
slots and has the mean score P_i^j over the tokens, of N_E experts:

    f_i^j = #{slots of group j that go to i} / (K tokens of group j)        P_i^j = mean_t softmax(logits_t)_i

    LBL_micro  = 1/N_P sum_j  N_E sum_i f_i^j P_i^j                  balance within every micro-batch
    LBL_global = 1/N_P sum_j  N_E sum_i fbar_i P_i^j                 fbar_i = 1/N_P sum_j f_i^j

The second is the loss of the concatenated batch, ``N_E sum_i fbar_i Pbar_i``, although only the N_E counts are
exchanged between the groups: f carries no gradient, so each group keeps its own P. Where the batch does not fit into
one pass, the counts are kept in a *buffer* over the passes of an optimizer step. With f normalised by K times the
tokens the loss is 1 at perfect balance. The difference of the two is a covariance over the groups,

    LBL_micro - LBL_global = N_E sum_i Cov_j(f_i^j, P_i^j),

the price of experts that are used differently in different groups: with one domain per micro-batch, of specialising.

`Balance` is one layer's loss; `RouterBalance` takes the router logits of any model of transformers that returns them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from repro.models.moe import Experts, SwiGLU, TopKRouter

Scope = Literal["micro", "global", "buffer", "shuffle"]
SCOPES = ("micro", "global", "buffer", "shuffle")
Gating = Literal["softmax", "sigmoid"]


# --- the loss ----------------------------------------------------------------------------------------------------


def selection_counts(indices: Tensor, experts: int, groups: int = 1) -> Tensor:
    """Slots that go to each expert: ``indices [T, K]``, groups of adjacent tokens, to int32 ``[groups, N_E]``.

    Raises ValueError when the tokens do not fall into equal groups.
    """
    if len(indices) % groups:
        raise ValueError(f"{len(indices)} tokens do not fall into {groups} equal groups")
    flat = indices.reshape(groups, -1)
    counts = torch.zeros(groups, experts, dtype=torch.int32, device=indices.device)
    return counts.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.int32))


def balance_loss(counts: Tensor, probabilities: Tensor) -> Tensor:
    """``1/N_P sum_j N_E sum_i f_i^j P_i^j`` with f from counts ``[N_P, N_E]`` (or ``[1, N_E]``: one f for all groups)
    and P ``[N_P, N_E]``. No gradient passes through f."""
    f = counts.detach().to(probabilities.dtype)
    f = f / f.sum(-1, keepdim=True)
    return probabilities.shape[1] * (f * probabilities).sum(-1).mean()


def pooled(counts: Tensor, span: int = 0) -> Tensor:
    """Counts ``[groups, N_E]`` summed over ``span`` adjacent groups (0: over all) and given to each of them.

    Raises ValueError when the groups do not divide into spans.
    """
    groups = len(counts)
    span = span or groups
    if groups % span:
        raise ValueError(f"{groups} groups do not divide into spans of {span}")
    sums = counts.view(groups // span, span, -1).sum(1, dtype=counts.dtype)
    return sums.repeat_interleave(span, 0)


def synchronised(counts: Tensor, process_group: dist.ProcessGroup | None = None) -> Tensor:
    """Counts summed over all data-parallel processes: one all-reduce of N_E integers per group. The counts themselves
    where ``torch.distributed`` is not initialised."""
    if dist.is_available() and dist.is_initialized():
        counts = counts.clone()
        dist.all_reduce(counts, group=process_group)
    return counts


def shuffled_counts(indices: Tensor, experts: int, groups: int, generator: torch.Generator) -> Tensor:
    """The shuffle control (section 4.3): every group counts as many tokens as it has, drawn without replacement from
    the whole batch. The draws of the groups are disjoint; one group draws all tokens."""
    order = torch.randperm(len(indices), generator=generator).to(indices.device)
    return selection_counts(indices[order], experts, groups)


def z_loss(logits: Tensor) -> Tensor:
    """Router z-loss ``mean_t (logsumexp logits_t)^2`` (ST-MoE, eq. 5) of ``logits [T, N_E]``."""
    return logits.float().logsumexp(-1).square().mean()


class Balance(nn.Module):
    """The load-balancing loss of one layer, weighted.

    Args:
        experts: N_E.
        scope: where f is counted. ``micro``: in each group; ``global``: in all groups of the pass and of all
            data-parallel processes, or in blocks of ``span`` groups of the pass; ``buffer``: as global, and over all
            passes since `start_step`; ``shuffle``: the control, in one process.
        weight: of the loss.
        span: groups that count together, 0 for all; a balance batch size of ``span`` micro-batches.
        micro_share: weight of an additional micro loss, relative to ``weight`` (the paper's combined loss: 0.01).
        seed: of the shuffle.

    Raises:
        ValueError: for an unknown scope.
    """

    def __init__(
        self,
        experts: int,
        scope: Scope = "global",
        weight: float = 0.01,
        span: int = 0,
        micro_share: float = 0.0,
        seed: int = 0,
        process_group: dist.ProcessGroup | None = None,
    ):
        super().__init__()
        if scope not in SCOPES:
            raise ValueError(f"scope is one of {', '.join(SCOPES)}, not {scope!r}")
        self.experts, self.scope, self.weight, self.span = experts, scope, weight, span
        self.micro_share, self.seed, self.process_group = micro_share, seed, process_group
        self.buffer: Tensor | None = None
        self.generator: torch.Generator | None = None

    def start_step(self) -> None:
        """Empty the buffer; call it before the first pass of every optimizer step."""
        self.buffer = None

    def scope_counts(self, indices: Tensor, groups: int) -> Tensor:
        """The counts that f of each group is made of: ``[groups, N_E]`` or ``[1, N_E]``."""
        if self.scope == "shuffle":
            if self.generator is None:
                self.generator = torch.Generator().manual_seed(self.seed)
            return shuffled_counts(indices, self.experts, groups, self.generator)
        counts = selection_counts(indices, self.experts, groups)
        if self.scope == "micro":
            return counts
        if self.span:
            return pooled(counts, self.span)
        total = synchronised(counts.sum(0, keepdim=True, dtype=counts.dtype), self.process_group)
        if self.scope == "buffer":
            total = total if self.buffer is None else self.buffer + total
            self.buffer = total
        return total

    def forward(self, scores: Tensor, indices: Tensor, groups: int = 1) -> Tensor:
        """Weighted loss of ``scores [T, N_E]`` (all experts, softmax) and the selected ``indices [T, K]``, the tokens
        of a group adjacent."""
        probabilities = scores.view(groups, -1, self.experts).mean(1)
        loss = balance_loss(self.scope_counts(indices, groups), probabilities)
        if self.micro_share:
            local = selection_counts(indices, self.experts, groups)
            loss = loss + self.micro_share * balance_loss(local, probabilities)
        return self.weight * loss


class RouterBalance(nn.Module):
    """The loss for a model of transformers, from its router logits.

        balance = RouterBalance(config.num_experts, config.num_experts_per_tok, scope="buffer", weight=0.01)
        for step in range(steps):
            balance.start_step()
            for micro_batch in ...:                       # gradient accumulation, in every data-parallel process
                out = model(**micro_batch, output_router_logits=True)
                loss = cross_entropy(out.logits, ...) + balance(out.router_logits)
                (loss / accumulate).backward()
            optimizer.step()

    Computes the language-model loss from the logits: ``out.loss`` would hold the model's own balance loss. ``options``
    are those of `Balance`. Layers are summed.
    """

    def __init__(self, experts: int, k: int, z_weight: float = 0.0, **options: object):
        super().__init__()
        self.experts, self.k, self.z_weight, self.options = experts, k, z_weight, options
        self.layers = nn.ModuleList()

    def start_step(self) -> None:
        """Empty the buffers of all layers."""
        for layer in self.layers:
            layer.start_step()  # type: ignore[operator]

    def forward(self, router_logits: Sequence[Tensor], groups: int = 1) -> Tensor:
        """Sum over layers of the weighted loss; one ``[T, N_E]`` of logits per layer."""
        while len(self.layers) < len(router_logits):
            self.layers.append(Balance(self.experts, **self.options))  # type: ignore[arg-type]
        terms = []
        for layer, logits in zip(self.layers, router_logits, strict=True):
            scores = logits.float().softmax(-1)
            terms.append(layer(scores, scores.topk(self.k, dim=-1).indices, groups))
            if self.z_weight:
                terms.append(self.z_weight * z_loss(logits))
        return torch.stack(terms).sum()


# --- balance by biases, without a loss ---------------------------------------------------------------------------


def bias_step(counts: Tensor, rate: float) -> Tensor:
    """One update of the expert biases of auxiliary-loss-free balancing: ``rate sign(mean load - load_i)``, the mean
    over the rows of ``counts [groups, N_E]``. One row of pooled counts is the global scope, one per micro-batch the
    micro."""
    loads = counts.double()
    return rate * (loads.mean(-1, keepdim=True) - loads).sign().mean(0)


class Routed(NamedTuple):
    """`repro.models.moe.Routing` and the logits ``[T, N_E]`` behind it."""

    scores: Tensor
    indices: Tensor
    weights: Tensor
    logits: Tensor


class Router(TopKRouter):
    """Top-k router that keeps its logits. With ``sigmoid`` a bias per expert is added for the selection only."""

    bias: Tensor

    def __init__(self, hidden: int, experts: int, k: int, gating: Gating = "softmax"):
        super().__init__(hidden, experts, k)
        if gating not in ("softmax", "sigmoid"):
            raise ValueError(f"gating is 'softmax' or 'sigmoid', not {gating!r}")
        self.gating = gating
        if gating == "sigmoid":
            self.register_buffer("bias", torch.zeros(experts))

    def forward(self, x: Tensor) -> Routed:  # type: ignore[override]
        """Route ``x [T, d]``; gates are the raw scores."""
        with torch.autocast(x.device.type, enabled=False):
            logits = F.linear(x.float(), self.weight.float())
            scores = logits.sigmoid() if self.gating == "sigmoid" else logits.softmax(-1)
        ranked = scores + self.bias if self.gating == "sigmoid" else scores
        indices = ranked.topk(self.k, dim=-1).indices
        return Routed(scores, indices, scores.gather(-1, indices), logits)


# --- the layer ---------------------------------------------------------------------------------------------------


class BalancedMoE(nn.Module):
    """Dropless mixture of experts with a balance of a chosen scope: the feed-forward layer without norm and residual.

    Args:
        hidden, width, experts, k: d, width of an expert, N_E, K.
        shared_experts: always on, fused into one SwiGLU of as many times the width.
        balance: its loss; not used with ``gating="sigmoid"``, which balances by biases of scope ``balance.scope``.
        gating: ``softmax``, or ``sigmoid`` with biases.
        bias_rate: u of `bias_step`.
        z_weight: of the z-loss.
        micro_batch: sequences of a group.
    """

    def __init__(
        self,
        hidden: int,
        width: int,
        experts: int,
        k: int,
        shared_experts: int,
        balance: Balance,
        gating: Gating = "softmax",
        bias_rate: float = 0.001,
        z_weight: float = 0.001,
        micro_batch: int = 2,
    ):
        super().__init__()
        self.router = Router(hidden, experts, k, gating)
        self.experts = Experts(experts, hidden, width)
        self.shared = SwiGLU(hidden, shared_experts * width) if shared_experts else None
        self.balance, self.bias_rate, self.z_weight, self.micro_batch = balance, bias_rate, z_weight, micro_batch
        self.loads: list[Tensor] = []

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """``x [B, S, d]`` to the layer's output and the auxiliary loss, the latter only while training.

        Raises ValueError while training when the sequences do not divide into micro-batches.
        """
        tokens = x.reshape(-1, x.shape[-1])
        routed = self.router(tokens)
        y = self.experts(tokens, routed.indices, routed.weights)
        if self.shared is not None:
            y = y + self.shared(tokens)
        return y.view_as(x), self.auxiliary(routed, x.shape[0]) if self.training else None

    def auxiliary(self, routed: Routed, sequences: int) -> Tensor:
        """Balance loss (or the loads kept for the biases) and z-loss."""
        if sequences % self.micro_batch:
            raise ValueError(f"{sequences} sequences do not divide into micro-batches of {self.micro_batch}")
        groups = sequences // self.micro_batch
        loss = self.z_weight * z_loss(routed.logits)
        if self.router.gating == "sigmoid":
            self.loads.append(selection_counts(routed.indices, self.experts.count, groups))
            return loss
        return loss + self.balance(routed.scores, routed.indices, groups)

    def start_step(self, first: bool = False) -> None:
        """Before an optimizer step: empty the buffer, and move the biases by the loads of the last step (those counted
        before the ``first`` step are dropped)."""
        self.balance.start_step()
        if self.loads and not first:
            counts = torch.cat(self.loads)
            if self.balance.scope != "micro":
                counts = synchronised(counts.sum(0, keepdim=True, dtype=counts.dtype), self.balance.process_group)
            self.router.bias += bias_step(counts, self.bias_rate).to(self.router.bias)
        self.loads.clear()

    def idle_parameters(self) -> int:
        """Expert parameters that one token does not touch."""
        return (self.experts.count - self.router.k) * self.experts.parameters_each


def start_step(model: nn.Module, step: int) -> None:
    """`BalancedMoE.start_step` for every layer of a model; before the first pass of step ``step``, from 0."""
    for module in model.modules():
        if isinstance(module, BalancedMoE):
            module.start_step(first=step == 0)


def set_scope(model: nn.Module, scope: Scope) -> None:
    """Change the scope of every layer's balance, without spans; for switching during training (section 4.4)."""
    for module in model.modules():
        if isinstance(module, Balance):
            module.scope, module.span = scope, 0
