"""Chain-of-Experts (arXiv 2506.18945), sections 2 and 3: a mixture-of-experts layer that runs over its own output.

    x_0 = x
    x_t = MoE_t(x_{t-1}) + I_r x_{t-1}          t = 1..C                                        (eq. 4-7)
    MoE_t(x) = sum_{i in topK_t(x)} s_{t,i}(x) E_i(x) + E_shared(x)
    y = x_C

The experts are the same in all passes; every pass has a router of its own. The text leaves open where the layer norm
and the outer residual sit; the released code decides (`normed`), and the usual pre-norm layer is the alternative
(`prenorm`). Both are here, and so are both readings of each ablation.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from repro.models.moe import Experts, Routing, SwiGLU, TopKRouter, sequence_balance_loss
from repro.models.norm import RMSNorm

Gating = Literal["independent", "shared", "frozen"]
Residual = Literal["normed", "prenorm", "outer", "both", "init"]
GATINGS = ("independent", "shared", "frozen")
RESIDUALS = ("normed", "prenorm", "outer", "both", "init")


class ChainOfExperts(nn.Module):
    """The feed-forward sublayer: residual stream in, residual stream out, norm included.

    Args:
        hidden: d.
        width: width f of one expert.
        experts: N routed experts, one pool for all passes.
        k: experts selected per pass (K in "K=4, C=2").
        passes: C; 1 is the plain mixture of experts.
        shared_experts: M always-on experts, fused into one SwiGLU of width M f; they run in every pass.
        gating: ``independent``, one router per pass; ``shared``, one router evaluated anew on every x_{t-1} (the
            released ablation script); ``frozen``, the gates of pass 1 kept for all passes (eq. 8).
        residual: with z = RMSNorm(h):
            ``normed``  x_0 = z, x_t = x_{t-1} + MoE_t(x_{t-1}), y = x_C (released code: the skip path carries z);
            ``prenorm`` x_0 = h, x_t = x_{t-1} + MoE_t(RMSNorm_t(x_{t-1})), y = x_C (at C=1 the usual layer);
            ``outer``   x_0 = z, x_t = MoE_t(x_{t-1}), y = x_C + z (eq. 9);
            ``both``    as normed, y = x_C + z (what the released outer-residual script runs);
            ``init``    x_0 = z, x_t = MoE_t(x_{t-1}) + z, y = x_C (eq. 10).
        aux_alpha: coefficient of the sequence-wise balance loss; one term per evaluated router.
        whole_batch: balance over the whole batch as one sequence, for inputs of one position each.

    Raises:
        ValueError: for an unknown gating or residual, or fewer than one pass.
    """

    def __init__(
        self,
        hidden: int,
        width: int,
        experts: int,
        k: int,
        passes: int = 1,
        shared_experts: int = 1,
        gating: Gating = "independent",
        residual: Residual = "normed",
        aux_alpha: float = 0.001,
        whole_batch: bool = False,
        eps: float = 1e-6,
    ):
        super().__init__()
        if gating not in GATINGS:
            raise ValueError(f"gating is one of {', '.join(GATINGS)}, not {gating!r}")
        if residual not in RESIDUALS:
            raise ValueError(f"residual is one of {', '.join(RESIDUALS)}, not {residual!r}")
        if passes < 1:
            raise ValueError(f"a layer runs at least once, not {passes} times")
        self.passes, self.k, self.gating, self.residual = passes, k, gating, residual
        self.aux_alpha, self.whole_batch = aux_alpha, whole_batch
        self.experts = Experts(experts, hidden, width)
        self.shared = SwiGLU(hidden, shared_experts * width) if shared_experts else None
        self.routers = nn.ModuleList(
            TopKRouter(hidden, experts, k) for _ in range(passes if gating == "independent" else 1)
        )
        self.norms = nn.ModuleList(RMSNorm(hidden, eps=eps) for _ in range(passes if residual == "prenorm" else 1))

    def mixture(self, x: Tensor, routing: Routing) -> Tensor:
        """``MoE_t(x)`` for tokens ``x [T, d]`` under a routing."""
        y = self.experts(x, routing.indices, routing.weights)
        return y if self.shared is None else y + self.shared(x)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor | None]:
        """``h [B, S, d]`` to ``(y [B, S, d], balance loss or None)``; the loss only while training."""
        stream = h.reshape(-1, h.shape[-1])
        prenorm = self.residual == "prenorm"
        start = stream if prenorm else self.norms[0](stream)
        sequences = 1 if self.whole_batch else h.shape[0]
        routing: Routing | None = None
        x, terms = start, []
        for t in range(self.passes):
            into = self.norms[t](x) if prenorm else x
            if routing is None or self.gating != "frozen":
                routing = self.routers[t if self.gating == "independent" else 0](into)
                if self.training and self.aux_alpha:
                    terms.append(sequence_balance_loss(routing.scores, routing.indices, sequences))
            out = self.mixture(into, routing)
            if self.residual == "outer":
                x = out
            elif self.residual == "init":
                x = out + start
            else:
                x = out + x
        if self.residual in ("outer", "both"):
            x = x + start
        return x.view_as(h), self.aux_alpha * torch.stack(terms).sum() if terms else None

    def routed_passes(self) -> int:
        """Routed expert passes per token: C K."""
        return self.passes * self.k

    def expert_passes(self) -> int:
        """Expert passes per token, shared experts included, in units of one routed expert: C (K + M)."""
        shared = self.shared.down_proj.in_features // (self.experts.down_proj.shape[2]) if self.shared else 0
        return self.routed_passes() + self.passes * shared

    def idle_parameters(self) -> int:
        """Expert parameters that one token does not touch, if its passes select different experts."""
        return max(0, self.experts.count - self.routed_passes()) * self.experts.parameters_each


def chain_experts(
    model: nn.Module, passes: int, gating: Gating = "independent", residual: Residual = "prenorm"
) -> nn.Module:
    """Turn the MoE layers of a transformers DeepSeek-V2 model into chains, in place, keeping their weights.

    With ``passes=1`` and ``residual="prenorm"`` the model computes what it did before. Further routers (and norms)
    start as copies of the layer's own. The new sublayer stands where the layer's ``mlp`` stood; its norm is inside.

    Raises:
        ValueError: when the model has no such layer, or one that routes otherwise than ``MoE_t`` (limited to groups of
            experts, gates scaled or renormalised): the model is then left as it was.
    """
    from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2DecoderLayer, DeepseekV2Moe

    hosts = [m for m in model.modules() if isinstance(m, DeepseekV2DecoderLayer) and isinstance(m.mlp, DeepseekV2Moe)]
    if not hosts:
        raise ValueError(f"{type(model).__name__} has no DeepSeek-V2 mixture-of-experts layer")
    for layer in hosts:
        c = layer.mlp.config
        if c.topk_method != "greedy" or c.routed_scaling_factor != 1 or c.norm_topk_prob:
            raise ValueError(
                "a chain selects its experts greedily by their scores and weights them with these: it cannot stand for "
                f"topk_method={c.topk_method!r}, routed_scaling_factor={c.routed_scaling_factor}, "
                f"norm_topk_prob={c.norm_topk_prob}"
            )
    for layer in hosts:
        moe = layer.mlp
        assert isinstance(moe, DeepseekV2Moe)
        config = moe.config
        chain = ChainOfExperts(
            config.hidden_size, config.moe_intermediate_size, config.n_routed_experts, config.num_experts_per_tok or 1,
            passes, config.n_shared_experts, gating, residual, eps=config.rms_norm_eps,
        ).to(moe.gate.weight)  # fmt: skip
        with torch.no_grad():
            chain.experts.gate_up_proj.copy_(moe.experts.gate_up_proj)
            chain.experts.down_proj.copy_(moe.experts.down_proj)
            shared = moe.shared_experts
            assert chain.shared is not None
            chain.shared.gate_up_proj.weight.copy_(torch.cat([shared.gate_proj.weight, shared.up_proj.weight]))
            chain.shared.down_proj.weight.copy_(shared.down_proj.weight)
            for copies, own in ((chain.routers, moe.gate), (chain.norms, layer.post_attention_layernorm)):
                for copy in copies:
                    copy.load_state_dict({"weight": own.weight})
        layer.add_module("post_attention_layernorm", nn.Identity())
        layer.add_module("mlp", _Update(chain))
    return model


class _Update(nn.Module):
    """``y - h`` of a sublayer, for a host layer with a residual of its own; keeps the last balance loss."""

    def __init__(self, chain: ChainOfExperts):
        super().__init__()
        self.chain = chain
        self.aux_loss: Tensor | None = None

    def forward(self, h: Tensor) -> Tensor:
        y, self.aux_loss = self.chain(h)
        return y - h
