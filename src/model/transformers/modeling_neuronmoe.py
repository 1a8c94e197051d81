# SPDX-License-Identifier: Apache-2.0
"""A Llama decoder, with the biases of Qwen2 or the norms of Qwen3 where its base has them, some of whose layers have several
feed-forward experts. Expert 0 is the feed-forward block of the base and keeps its names; a router chooses for each token."""
import torch
from torch import nn
from transformers.modeling_outputs import MoeCausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaForCausalLM,
    LlamaMLP,
    LlamaModel,
    LlamaRMSNorm,
    apply_rotary_pos_emb,
    eager_attention_forward,
)
from transformers.utils import can_return_tuple

from .configuration_neuronmoe import NeuronMoEConfig


class NeuronMoEAttention(LlamaAttention):
    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        if config.qkv_bias:
            for name in ("q_proj", "k_proj", "v_proj"):
                plain = getattr(self, name)
                setattr(self, name, nn.Linear(plain.in_features, plain.out_features, bias=True))
        if config.qk_norm:
            self.q_norm = LlamaRMSNorm(self.head_dim, eps=config.rms_norm_eps)
            self.k_norm = LlamaRMSNorm(self.head_dim, eps=config.rms_norm_eps)

    def forward(self, hidden_states, position_embeddings, attention_mask=None, cache=None, past_key_values=None, **kwargs):
        """`past_key_values`: the name of `cache` in older versions of transformers."""
        shape = hidden_states.shape[:-1]
        q, k, v = (project(hidden_states).view(*shape, -1, self.head_dim) for project in (self.q_proj, self.k_proj, self.v_proj))
        if self.config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = apply_rotary_pos_emb(q.transpose(1, 2), k.transpose(1, 2), *position_embeddings)
        v = v.transpose(1, 2)
        cache = past_key_values if cache is None else cache
        if cache is not None:
            k, v = cache.update(k, v, self.layer_idx, {"cache_position": kwargs.get("cache_position")})
        implementation = self.config._attn_implementation
        attend = eager_attention_forward if implementation == "eager" else ALL_ATTENTION_FUNCTIONS[implementation]
        out, weights = attend(self, q, k, v, attention_mask, dropout=self.attention_dropout if self.training else 0.0,
                              scaling=self.scaling, **kwargs)
        return self.o_proj(out.reshape(*shape, -1).contiguous()), weights


class NeuronMoERouter(nn.Linear):
    """Logits [tokens, experts] in float32."""

    def __init__(self, config, num_experts):
        super().__init__(config.hidden_size, num_experts, bias=False)
        self.in_model_type = config.router_compat == "release"

    def forward(self, x):
        if self.in_model_type:
            return nn.functional.linear(x, self.weight.to(x.dtype)).float()
        return nn.functional.linear(x.float(), self.weight.float())


class NeuronMoEMLP(LlamaMLP):
    """The feed-forward block of the base, which is expert 0, with new experts 1, 2, ... and a router."""

    def __init__(self, config, num_experts):
        super().__init__(config)
        self.router = NeuronMoERouter(config, num_experts)
        self.experts = nn.ModuleDict({str(e): LlamaMLP(config) for e in range(1, num_experts)})

    def forward(self, hidden_states):
        x = hidden_states.reshape(-1, hidden_states.shape[-1])
        num_chosen = min(self.config.num_experts_per_tok, len(self.experts) + 1)
        # Not topk: of equal probabilities the lower expert is chosen.
        weights, chosen = self.router(x).softmax(-1).sort(dim=-1, descending=True, stable=True)
        weights, chosen = weights[:, :num_chosen], chosen[:, :num_chosen]
        if self.config.num_experts_per_tok > 1:
            weights = weights / weights.sum(-1, keepdim=True)
        sum_type = x.dtype if self.config.router_compat == "release" else torch.float32
        weights = weights.to(sum_type)
        y = torch.zeros_like(x, dtype=sum_type)
        for e in range(len(self.experts) + 1):
            token, slot = torch.where(chosen == e)
            if token.numel() > 0:
                out = self.experts[str(e)](x[token]) if e > 0 else super().forward(x[token])
                y.index_add_(0, token, weights[token, slot, None] * out.to(sum_type))
        return y.to(x.dtype).view(hidden_states.shape)


def keep_routers_in_float32(model):
    """Not an attribute of the class: transformers 4 wants modules of that name as soon as Llama's part is there."""
    if max(model.config.num_experts) > 1:
        model._keep_in_fp32_modules_strict = ["router"]


class NeuronMoEModel(LlamaModel):
    config_class = NeuronMoEConfig
    _can_compile_fullgraph = False  # which experts run depends on the tokens

    def __init__(self, config):
        super().__init__(config)
        for l, layer in enumerate(self.layers):
            layer.self_attn = NeuronMoEAttention(config, l)
            if config.num_experts[l] > 1:
                layer.mlp = NeuronMoEMLP(config, config.num_experts[l])
        keep_routers_in_float32(self)
        self.post_init()


class NeuronMoEForCausalLM(LlamaForCausalLM):
    config_class = NeuronMoEConfig
    _can_compile_fullgraph = False

    def __init__(self, config):
        super().__init__(config)
        self.model = NeuronMoEModel(config)
        keep_routers_in_float32(self)
        self.post_init()

    @can_return_tuple
    def forward(self, input_ids=None, attention_mask=None, position_ids=None, inputs_embeds=None, labels=None, use_cache=None,
                output_router_logits=None, logits_to_keep=0, **kwargs):
        """With `output_router_logits` also `router_logits`, a [batch x length, experts] for each layer that has a router."""
        kwargs |= {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids, "labels": labels,
                   "inputs_embeds": inputs_embeds, "use_cache": use_cache, "logits_to_keep": logits_to_keep, "return_dict": True}
        if not (self.config.output_router_logits if output_router_logits is None else output_router_logits):
            return super().forward(**kwargs)
        logits = []
        routers = [module for module in self.model.modules() if isinstance(module, NeuronMoERouter)]
        hooks = [router.register_forward_hook(lambda module, inputs, output: logits.append(output)) for router in routers]
        try:
            output = super().forward(**kwargs)
        finally:
            for hook in hooks:
                hook.remove()
        return MoeCausalLMOutputWithPast(**output, router_logits=tuple(logits))


__all__ = ["NeuronMoEConfig", "NeuronMoEForCausalLM", "NeuronMoEModel"]
