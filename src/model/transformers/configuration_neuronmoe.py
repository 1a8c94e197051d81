# SPDX-License-Identifier: Apache-2.0
"""Configuration of a decoder (Llama, Qwen2, Mistral, Qwen3) some of whose layers have several feed-forward experts."""
from transformers import PretrainedConfig


class NeuronMoEConfig(PretrainedConfig):
    """The fields of `LlamaConfig`, and

    base_model_type: family of the dense model that the experts were added to; for information.
    num_experts: experts of each layer, the base included; 1 is a dense layer.
    num_experts_per_tok: experts that a token visits; in a layer with fewer, all of them.
    qkv_bias: whether the projections of q, k and v have biases (Qwen2).
    qk_norm: whether each head of q and k is normalized before the rotary embedding (Qwen3).
    router_compat: "none" computes router logits, expert weights and the sum over experts in float32, "release" in the
        model's type, as the method's published code does.
    output_router_logits: whether a forward pass returns the router logits of every layer that has a router.
    """
    model_type = "neuronmoe"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]

    def __init__(self, vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
                 num_key_value_heads=None, head_dim=None, hidden_act="silu", max_position_embeddings=2048, initializer_range=0.02,
                 rms_norm_eps=1e-6, use_cache=True, rope_parameters=None, base_model_type="llama", num_experts=None,
                 num_experts_per_tok=2, qkv_bias=False, qk_norm=False, router_compat="none", output_router_logits=False, **kwargs):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_attention_heads if num_key_value_heads is None else num_key_value_heads
        self.head_dim = hidden_size // num_attention_heads if head_dim is None else head_dim
        self.hidden_act = hidden_act
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range
        self.rms_norm_eps = rms_norm_eps
        self.use_cache = use_cache
        self.rope_parameters = {"rope_type": "default", "rope_theta": 10000.0} | (rope_parameters or {})
        self.rope_theta = self.rope_parameters["rope_theta"]
        if not hasattr(PretrainedConfig, "rope_scaling"):  # before transformers 5, which has it as another name
            self.rope_scaling = self.rope_parameters
        # What Llama's classes ask for and none of these models has.
        self.attention_bias, self.attention_dropout, self.mlp_bias, self.pretraining_tp = False, 0.0, False, 1
        self.base_model_type = base_model_type
        self.num_experts = [1] * num_hidden_layers if num_experts is None else list(num_experts)
        if len(self.num_experts) != num_hidden_layers or min(self.num_experts) < 1 or num_experts_per_tok < 1:
            raise ValueError(f"num_experts is {self.num_experts} for {num_hidden_layers} layers, num_experts_per_tok "
                             f"{num_experts_per_tok}; expected one positive number for each layer, and a positive one")
        if router_compat not in ("none", "release"):
            raise ValueError(f"router_compat is {router_compat!r}; known are 'none' and 'release'")
        self.num_experts_per_tok = num_experts_per_tok
        self.qkv_bias = qkv_bias
        self.qk_norm = qk_norm
        self.router_compat = router_compat
        self.output_router_logits = output_router_logits
        for name in ("attention_bias", "attention_dropout", "mlp_bias", "pretraining_tp", "rope_theta", "rope_scaling"):
            kwargs.pop(name, None)
        super().__init__(**kwargs)


__all__ = ["NeuronMoEConfig"]
