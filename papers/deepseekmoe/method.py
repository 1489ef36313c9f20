"""DeepSeekMoE (arXiv 2401.06066), section 3: finely segmented experts, some of them shared.

Start from N experts of the standard FFN width d_ff, K of them active. Cut every expert into m of width d_ff / m and set
K_s of the mN aside as shared ones, which are always on; of the other N' = mN - K_s each token takes K' = mK - K_s:

    h_t = u_t + sum_{i=1..K_s} FFN_i(u_t) + sum_{i=K_s+1..mN} g_{i,t} FFN_i(u_t)                        (eq. 9)
    g_{i,t} = s_{i,t} if s_{i,t} is among the K' largest, else 0                                        (eq. 10)
    s_{i,t} = softmax_i(u_t' e_i), over the routed experts only                                         (eq. 11)

Total and activated expert parameters stay what they were. Gates are the scores themselves, not renormalised over the
chosen ones; shared experts have no gate; no token is dropped. With m = 1 and K_s = 0 this is the paper's GShard layer
(K = 2) and its Switch layer (K = 1).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from repro.models.moe import Experts, Routing, SwiGLU, TopKRouter, sequence_balance_loss


class Shape(NamedTuple):
    """What segmentation makes of a layer: N' routed experts, K' of them active, K_s shared ones, and their width."""

    routed: int
    active: int
    shared: int
    width: int


def segment(experts: int, k: int, width: int, m: int = 1, shared: int = 0) -> Shape:
    """Section 3.1 and 3.2: N experts of width d_ff, K active, cut into m pieces each, K_s of the pieces shared.

    Raises:
        ValueError: when m does not divide the width, or the shared experts leave no routed one active.
    """
    if width % m:
        raise ValueError(f"an expert of width {width} cannot be cut into {m} equal ones")
    if not 0 <= shared < m * k:
        raise ValueError(f"{shared} shared experts of {m * k} active ones leave no routed one")
    return Shape(m * experts - shared, m * k - shared, shared, width // m)


# --- balance losses ----------------------------------------------------------------------------------------------


def expert_balance_loss(scores: Tensor, indices: Tensor) -> Tensor:
    """Expert-level balance loss without alpha_1 (eq. 12-14): ``sum_i f_i P_i``; 1 at perfect balance.

    ``f_i = N' / (K' T) #{t : i selected}`` carries no gradient, ``P_i = mean_t s_{i,t}``. This is DeepSeek-V2's
    sequence-wise loss with the whole batch as one sequence.

    Args:
        scores: ``[T, N']``.
        indices: ``[T, K']``.
    """
    return sequence_balance_loss(scores, indices, 1)


def device_balance_loss(scores: Tensor, indices: Tensor, devices: int) -> Tensor:
    """Device-level balance loss without alpha_2 (eq. 15-17): ``sum_j f'_j P'_j`` over D groups of adjacent experts.

    ``f'_j`` is the mean of f_i over the group, ``P'_j`` the sum of P_i. One group gives 1, one expert a group the
    expert-level loss.

    Raises:
        ValueError: when the experts do not fall into D equal groups.
    """
    experts = scores.shape[1]
    if experts % devices:
        raise ValueError(f"{experts} routed experts do not fall into {devices} equal groups")
    f = torch.bincount(indices.flatten(), minlength=experts).to(scores.dtype) * experts / indices.numel()
    return (f.view(devices, -1).mean(1) * scores.mean(0).view(devices, -1).sum(1)).sum()


# --- the layer ---------------------------------------------------------------------------------------------------


class DeepSeekMoE(nn.Module):
    """The feed-forward layer ``u -> h - u``: without norm and residual, which belong to the host.

        shape = segment(experts=16, k=2, width=d_ff, m=4, shared=1)     # 63 routed (7 active) + 1 shared
        layer = DeepSeekMoE(d, shape, alpha=0.01)
        y, balance = layer(u)                                           # u [B, S, d]; balance only while training
        (loss + balance).backward()

    Args:
        hidden: d.
        shape: as `segment` gives it.
        alpha: alpha_1 of the expert-level balance loss.
        device_alpha: alpha_2 of the device-level balance loss, for expert parallelism.
        devices: D groups of experts for it.

    The K_s shared experts are fused into one SwiGLU of width K_s f: their sum is the same function.
    """

    def __init__(self, hidden: int, shape: Shape, alpha: float = 0.01, device_alpha: float = 0.0, devices: int = 1):
        super().__init__()
        self.shape, self.alpha, self.device_alpha, self.devices = shape, alpha, device_alpha, devices
        self.experts = Experts(shape.routed, hidden, shape.width)
        self.router = TopKRouter(hidden, shape.routed, shape.active)
        self.shared = SwiGLU(hidden, shape.shared * shape.width) if shape.shared else None
        self.ablation: Ablation | None = None

    def route(self, u: Tensor) -> Routing:
        """Scores, chosen experts and gates of tokens ``u [T, d]``, under the ablation if there is one."""
        routing = self.router(u)
        return routing if self.ablation is None else self.ablation.select(routing.scores, self.shape.active)

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor | None]:
        """``u [..., d]`` to (the sum over experts ``[..., d]``, balance loss or None); the loss only while training."""
        tokens = u.reshape(-1, u.shape[-1])
        routing = self.route(tokens)
        y = self.experts(tokens, routing.indices, routing.weights)
        if self.shared is not None and (self.ablation is None or self.ablation.shared):
            y = y + self.shared(tokens)
        return y.view_as(u), self.balance(routing) if self.training else None

    def balance(self, routing: Routing) -> Tensor | None:
        """``alpha_1 L_expert + alpha_2 L_device``, or None where both are off."""
        terms = []
        if self.alpha:
            terms.append(self.alpha * expert_balance_loss(routing.scores, routing.indices))
        if self.device_alpha:
            terms.append(self.device_alpha * device_balance_loss(routing.scores, routing.indices, self.devices))
        return torch.stack(terms).sum() if terms else None

    def idle_parameters(self) -> int:
        """Expert parameters that one token does not touch."""
        return (self.shape.routed - self.shape.active) * self.experts.parameters_each


# --- the analyses of section 4.5, on a trained model -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ablation:
    """A change of the routing of a trained layer, for evaluation.

    Args:
        disabled: fraction of the routed experts, those with the highest scores for a token, that it must do without;
            rounded to whole experts. K' are taken among the rest (Figure 4).
        extra: so many more routed experts are active than in training; negative for fewer (Figure 5).
        shared: whether the shared experts take part. Without them one routed expert more stands in: ``extra=1``.
        replaced: seed by which every token loses one of its chosen experts at random and takes the next best instead;
            the yardstick for losing the shared one.
    """

    disabled: float = 0.0
    extra: int = 0
    shared: bool = True
    replaced: int | None = None

    def select(self, scores: Tensor, active: int) -> Routing:
        """Route by ``scores [T, N']``. Raises ValueError when too few experts are left."""
        skip, k = round(self.disabled * scores.shape[1]), active + self.extra
        spare = skip + (self.replaced is not None)
        if k < 1 or k + spare > scores.shape[1]:
            raise ValueError(f"cannot select {k} of {scores.shape[1]} experts without {spare} of them")
        weights, indices = scores.topk(k + spare, dim=-1)
        weights, indices = weights[:, skip:], indices[:, skip:]
        if self.replaced is not None:
            generator = torch.Generator().manual_seed(self.replaced)
            lost = torch.randint(k, (len(scores), 1), generator=generator).to(scores.device)
            kept = torch.arange(k, device=scores.device)
            kept = kept + (kept >= lost)  # of k + 1 columns all but the lost one
            weights, indices = weights.gather(1, kept), indices.gather(1, kept)
        return Routing(scores, indices, weights)


@contextlib.contextmanager
def ablated(model: nn.Module, ablation: Ablation) -> Iterator[nn.Module]:
    """Inside the block every `DeepSeekMoE` layer of the model routes under the ablation."""
    layers = [m for m in model.modules() if isinstance(m, DeepSeekMoE)]
    before = [layer.ablation for layer in layers]
    for layer in layers:
        layer.ablation = ablation
    try:
        yield model
    finally:
        for layer, old in zip(layers, before, strict=True):
            layer.ablation = old


# --- other people's models ---------------------------------------------------------------------------------------


def host_experts(model: nn.Module, experts: int, k: int, m: int = 4, shared: int = 1, alpha: float = 0.01) -> nn.Module:
    """Put new DeepSeekMoE layers where a transformers decoder has its dense gated MLPs (Llama, Qwen, Mistral...), in
    place, every standard expert as wide as the MLP was; for training. Read their balance loss with `balance_loss`.

        model = host_experts(LlamaForCausalLM(config), experts=16, k=2)

    Raises:
        ValueError: when the model has no such MLP.
    """
    found = [n for n, m_ in model.named_modules() if all(hasattr(m_, f"{p}_proj") for p in ("gate", "up", "down"))]
    for name in found:
        mlp = model.get_submodule(name)
        weight = mlp.get_parameter("gate_proj.weight")
        shape = segment(experts, k, weight.shape[0], m, shared)
        layer = DeepSeekMoE(weight.shape[1], shape, alpha).to(weight)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.normal_(std=float(weight.std()))
        model.set_submodule(name, Hosted(layer))
    if not found:
        raise ValueError(f"{type(model).__name__} has no gated MLP to replace")
    return model


def adopt(model: nn.Module) -> nn.Module:
    """Turn the expert layers of a transformers DeepSeek-V2 model into `DeepSeekMoE`, in place, keeping their weights:
    it computes what it did before, and `ablated` works on it.

    Raises:
        ValueError: when the model has no such layer, or one that selects or scales otherwise than eq. 10.
    """
    from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Moe

    found = {name: module for name, module in model.named_modules() if isinstance(module, DeepseekV2Moe)}
    if not found:
        raise ValueError(f"{type(model).__name__} has no DeepSeek-V2 mixture-of-experts layer")
    for name, moe in found.items():
        c = moe.config
        if c.topk_method != "greedy" or c.routed_scaling_factor != 1 or c.norm_topk_prob:
            raise ValueError(f"{name} selects or scales its experts otherwise than DeepSeekMoE")
        shape = Shape(c.n_routed_experts, c.num_experts_per_tok or 1, c.n_shared_experts, c.moe_intermediate_size)
        layer = DeepSeekMoE(c.hidden_size, shape).to(moe.gate.weight)
        shared = moe.shared_experts
        weights = {
            "experts.gate_up_proj": moe.experts.gate_up_proj,
            "experts.down_proj": moe.experts.down_proj,
            "router.weight": moe.gate.weight,
            "shared.gate_up_proj.weight": torch.cat([shared.gate_proj.weight, shared.up_proj.weight]),
            "shared.down_proj.weight": shared.down_proj.weight,
        }
        layer.load_state_dict(weights)
        model.set_submodule(name, Hosted(layer).train(moe.training))
    return model


class Hosted(nn.Module):
    """A `DeepSeekMoE` behind the interface of a transformers MLP; keeps the balance loss of its last call."""

    def __init__(self, layer: DeepSeekMoE):
        super().__init__()
        self.layer = layer
        self.aux_loss: Tensor | None = None

    def forward(self, u: Tensor) -> Tensor:
        y, self.aux_loss = self.layer(u)
        return y


def balance_loss(model: nn.Module) -> Tensor:
    """Sum of the balance losses that the hosted layers computed in the last forward pass, to add to the loss.

    Raises ValueError when there are none: the model is not in training mode, or has no such layer.
    """
    terms = [m.aux_loss for m in model.modules() if isinstance(m, Hosted) and m.aux_loss is not None]
    if not terms:
        raise ValueError("no layer has computed a balance loss: is the model in training mode?")
    return torch.stack(terms).sum()
