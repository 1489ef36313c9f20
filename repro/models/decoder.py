"""A Llama-style decoder as a `transformers` model, whose feed-forward sublayer a subclass chooses.

Attention and rotary embeddings are those of transformers: Llama's (multi-head or grouped-query) and DeepSeek-V2's
multi-head latent attention. What a paper changes is the feed-forward *sublayer*, from residual stream to residual
stream, norm and residual included: a module ``forward(h [B, S, d]) -> (h', balance loss or None)``.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import MoeCausalLMOutputWithPast
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Attention, DeepseekV2RotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

from repro.models.moe import SwiGLU
from repro.models.norm import RMSNorm
from repro.models.packed import PackedExperts, RouterWeights


class DecoderConfig(PreTrainedConfig):
    """Configuration of `Decoder`; names as in transformers.

    ``attention`` is ``mha`` (Llama's, grouped-query when ``num_key_value_heads`` is smaller) or ``mla`` (DeepSeek-V2's,
    sized by ``q_lora_rank``, ``kv_lora_rank`` and the three head dimensions).
    """

    model_type = "repro_decoder"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    vocab_size: int = 256
    hidden_size: int = 64
    intermediate_size: int = 176
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    attention: str = "mha"
    q_lora_rank: int | None = None
    kv_lora_rank: int = 512
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    max_position_embeddings: int = 2048
    rope_parameters: dict[str, Any] | None = None
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    attention_bias: bool = False
    attention_dropout: float = 0.0
    tie_word_embeddings: bool = False
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.attention not in ("mha", "mla"):
            raise ValueError(f"attention is 'mha' or 'mla', not {self.attention!r}")
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.attention == "mla":
            self.head_dim = self.qk_rope_head_dim
        elif self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.rope_parameters is None:
            self.rope_parameters = {"rope_type": "default", "rope_theta": 10000.0}
        super().__post_init__(**kwargs)


class PreNormFeedForward(nn.Module):
    """The usual sublayer ``h + FFN(RMSNorm(h))`` with a dense SwiGLU."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.ffn = SwiGLU(config.hidden_size, config.intermediate_size)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor | None]:
        return h + self.ffn(self.norm(h)), None


class DecoderLayer(nn.Module):
    """Pre-norm attention, then the feed-forward sublayer."""

    def __init__(self, config: DecoderConfig, index: int, feed_forward: nn.Module):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        attention: Any = DeepseekV2Attention if config.attention == "mla" else LlamaAttention
        self.self_attn = attention(config, index)
        self.feed_forward = feed_forward

    def forward(
        self, h: Tensor, position: Any, mask: Tensor | None, cache: Cache | None
    ) -> tuple[Tensor, Tensor | None]:
        attended, _ = self.self_attn(
            hidden_states=self.input_layernorm(h),
            position_embeddings=position,
            attention_mask=mask,
            past_key_values=cache,
        )
        return self.feed_forward(h + attended)


class Decoder(PreTrainedModel, GenerationMixin):
    """Causal language model over `DecoderLayer`; a subclass overrides `make_feed_forward` and ``config_class``.

    ``forward`` returns transformers' ``MoeCausalLMOutputWithPast``: ``loss`` is cross-entropy over shifted labels
    (-100 ignored) plus ``aux_loss``, which is the balance loss with its coefficient, summed over layers, or None.
    """

    config_class = DecoderConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _no_split_modules = ["DecoderLayer"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _tied_weights_keys = {"lm_head.weight": "embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: DecoderConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            DecoderLayer(config, i, self.make_feed_forward(config)) for i in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        rotary: Any = DeepseekV2RotaryEmbedding if config.attention == "mla" else LlamaRotaryEmbedding
        self.rotary_emb = rotary(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def make_feed_forward(cls, config: Any) -> nn.Module:
        """The feed-forward sublayer of one layer."""
        return PreNormFeedForward(config)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embed_tokens = value  # type: ignore[assignment]

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.lm_head = new_embeddings

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PackedExperts):
            for weight in module.parameters(recurse=False):
                init.normal_(weight, std=self.config.initializer_range)
        elif isinstance(module, RouterWeights):
            bound = self.config.hidden_size**-0.5
            for weight in module.parameters(recurse=False):
                init.uniform_(weight, -bound, bound)

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
        """Tokens ``[B, S]`` to logits ``[B, S, vocab]`` (only the last ``logits_to_keep`` positions when positive)."""
        h = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        use_cache = self.config.use_cache and not self.training if use_cache is None else use_cache
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = torch.arange(seen, seen + h.shape[1], device=h.device)[None]
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=h,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        position = self.rotary_emb(h, position_ids)
        total: Tensor | None = None
        for layer in self.layers:
            h, aux = layer(h, position, mask, past_key_values)
            if aux is not None:
                total = aux if total is None else total + aux
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) and logits_to_keep else slice(None)
        if isinstance(logits_to_keep, Tensor):
            keep = logits_to_keep  # type: ignore[assignment]
        logits = self.lm_head(self.norm(h[:, keep]))
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)
            if total is not None:
                loss = loss + total
        return MoeCausalLMOutputWithPast(loss=loss, aux_loss=total, logits=logits, past_key_values=past_key_values)
