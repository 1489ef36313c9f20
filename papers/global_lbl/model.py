"""A balanced mixture of experts as a `transformers` causal language model: save, load, generate, lm-eval."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from papers.global_lbl.method import Balance, BalancedMoE
from repro.models.decoder import Decoder, DecoderConfig
from repro.models.norm import RMSNorm


class GlobalLBLConfig(DecoderConfig):
    """Configuration of `GlobalLBLForCausalLM`; names as Qwen's and DeepSeek's where those have them, the balance's as
    in `papers.global_lbl.method`. Every layer is a mixture of experts."""

    model_type = "global_lbl"

    n_routed_experts: int = 16
    n_shared_experts: int = 0
    num_experts_per_tok: int = 2
    moe_intermediate_size: int = 32
    gating: str = "softmax"
    balance_scope: str = "global"
    balance_span: int = 0
    balance_weight: float = 0.01
    micro_share: float = 0.0
    micro_batch: int = 2
    shuffle_seed: int = 0
    bias_rate: float = 0.001
    z_loss_weight: float = 0.001


class Sublayer(nn.Module):
    """``h + MoE(RMSNorm(h))``."""

    def __init__(self, config: GlobalLBLConfig):
        super().__init__()
        c = config
        self.norm = RMSNorm(c.hidden_size, eps=c.rms_norm_eps)
        self.ffn = BalancedMoE(
            c.hidden_size,
            c.moe_intermediate_size,
            c.n_routed_experts,
            c.num_experts_per_tok,
            c.n_shared_experts,
            Balance(
                c.n_routed_experts, c.balance_scope, c.balance_weight, c.balance_span, c.micro_share, c.shuffle_seed  # type: ignore[arg-type]
            ),
            c.gating,  # type: ignore[arg-type]
            c.bias_rate,
            c.z_loss_weight,
            c.micro_batch,
        )  # fmt: skip

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor | None]:
        y, auxiliary = self.ffn(self.norm(h))
        return h + y, auxiliary


class GlobalLBLForCausalLM(Decoder):
    """A decoder whose feed-forward layers are `BalancedMoE`."""

    config_class = GlobalLBLConfig

    @classmethod
    def make_feed_forward(cls, config: GlobalLBLConfig) -> Sublayer:
        return Sublayer(config)


AutoConfig.register("global_lbl", GlobalLBLConfig)
AutoModelForCausalLM.register(GlobalLBLConfig, GlobalLBLForCausalLM)
