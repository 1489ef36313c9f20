"""DeepSeekMoE as a `transformers` causal language model: save, load, generate with a cache, lm-eval."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import Cache
from transformers.modeling_outputs import MoeCausalLMOutputWithPast

from papers.deepseekmoe.baselines import AlwaysOn, HashLayer
from papers.deepseekmoe.method import DeepSeekMoE, Shape
from repro.models.decoder import Decoder, DecoderConfig, PreNormFeedForward
from repro.models.norm import RMSNorm


class DeepSeekMoEConfig(DecoderConfig):
    """Configuration of `DeepSeekMoEForCausalLM`; names as in the released model's.

    ``router`` is ``learned`` (the paper's layer, Switch and GShard), ``hash``, or ``none``: the ``n_shared_experts``
    alone, which is a dense model. The first ``first_k_dense_replace`` layers have a dense FFN of ``intermediate_size``.
    """

    model_type = "deepseekmoe"

    n_routed_experts: int = 31
    n_shared_experts: int = 1
    num_experts_per_tok: int = 7
    moe_intermediate_size: int = 32
    router: str = "learned"
    first_k_dense_replace: int = 0
    aux_loss_alpha: float = 0.01
    device_loss_alpha: float = 0.0
    n_devices: int = 1


class Sublayer(nn.Module):
    """``h + FFN(RMSNorm(h))`` for a layer that returns a balance loss too."""

    def __init__(self, hidden: int, ffn: nn.Module, eps: float):
        super().__init__()
        self.norm = RMSNorm(hidden, eps=eps)
        self.ffn = ffn

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor | None]:
        y, aux = self.ffn(self.norm(h))
        return h + y, aux


class DeepSeekMoEForCausalLM(Decoder):
    """A decoder whose feed-forward layers are DeepSeekMoE's or one of the baselines'."""

    config_class = DeepSeekMoEConfig

    def __init__(self, config: DeepSeekMoEConfig):
        super().__init__(config)
        for layer in list(self.layers)[: config.first_k_dense_replace]:
            layer.feed_forward = PreNormFeedForward(config)
        if config.first_k_dense_replace:
            self.post_init()

    @classmethod
    def make_feed_forward(cls, config: DeepSeekMoEConfig) -> Sublayer:
        c = config
        if c.router == "learned":
            shape = Shape(c.n_routed_experts, c.num_experts_per_tok, c.n_shared_experts, c.moe_intermediate_size)
            ffn: nn.Module = DeepSeekMoE(
                c.hidden_size, shape, c.aux_loss_alpha, c.device_loss_alpha, c.n_devices
            )  # fmt: skip
        elif c.router == "hash":
            ffn = HashLayer(c.hidden_size, c.moe_intermediate_size, c.n_routed_experts)
        elif c.router == "none":
            ffn = AlwaysOn(c.hidden_size, c.moe_intermediate_size, c.n_shared_experts)
        else:
            raise ValueError(f"router is 'learned', 'hash' or 'none', not {c.router!r}")
        return Sublayer(c.hidden_size, ffn, c.rms_norm_eps)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **_: Any,
    ) -> MoeCausalLMOutputWithPast:
        """As `Decoder.forward`. Hash layers see the token ids."""
        if self.config.router == "hash":
            for module in self.modules():
                if isinstance(module, HashLayer):
                    module.token_ids = input_ids
        return super().forward(
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, labels, use_cache, logits_to_keep
        )


AutoConfig.register("deepseekmoe", DeepSeekMoEConfig)
AutoModelForCausalLM.register(DeepSeekMoEConfig, DeepSeekMoEForCausalLM)
