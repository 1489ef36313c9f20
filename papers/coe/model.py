"""Chain-of-Experts as a `transformers` causal language model: save, load, generate with a cache, lm-eval."""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForCausalLM

from papers.coe.method import ChainOfExperts
from repro.models.decoder import Decoder, DecoderConfig


class CoEConfig(DecoderConfig):
    """Configuration of `CoEForCausalLM`; names as DeepSeek-V2's where that has them, the chain's as in the paper.

    ``num_experts_per_tok`` counts per pass. Every layer is a mixture of experts.
    """

    model_type = "coe"

    n_routed_experts: int = 16
    n_shared_experts: int = 1
    num_experts_per_tok: int = 2
    moe_intermediate_size: int = 32
    passes: int = 2
    gating: str = "independent"
    residual: str = "normed"
    aux_loss_alpha: float = 0.001


class CoEForCausalLM(Decoder):
    """A decoder whose feed-forward sublayers are chains of experts."""

    config_class = CoEConfig

    @classmethod
    def make_feed_forward(cls, config: CoEConfig) -> ChainOfExperts:
        return ChainOfExperts(
            config.hidden_size,
            config.moe_intermediate_size,
            config.n_routed_experts,
            config.num_experts_per_tok,
            config.passes,
            config.n_shared_experts,
            config.gating,  # type: ignore[arg-type]
            config.residual,  # type: ignore[arg-type]
            config.aux_loss_alpha,
            eps=config.rms_norm_eps,
        )


AutoConfig.register("coe", CoEConfig)
AutoModelForCausalLM.register(CoEConfig, CoEForCausalLM)
