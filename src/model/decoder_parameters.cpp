// Parameters of the decoder: their memory, binding to layers, initialization and upcycling.
#include <algorithm>
#include <cmath>

#include "neuronmoe/base/hash.hpp"
#include "neuronmoe/base/philox.hpp"
#include "neuronmoe/model/decoder.hpp"
#include "neuronmoe/ops/transformer.hpp"
#include "neuronmoe/tensor/device.hpp"

namespace nmoe::model {

namespace {

bool ends_with_any(std::string_view name, std::initializer_list<std::string_view> suffixes) {
  return std::any_of(suffixes.begin(), suffixes.end(), [&](std::string_view s) { return name.ends_with(s); });
}

void fill_normal(TensorView there, std::string_view name, std::uint64_t seed, double stddev, Stream& stream) {
  HostSide side(there, stream);
  const TensorView values = side.view();
  // A stream by name: values do not depend on the order of the list.
  const Philox random(seed, RandomPurpose::parameter_init, fnv1a(name));
  const std::int64_t n = values.num_elements();
  for (std::int64_t i = 0; i < n; ++i) {
    const double value = stddev * random.normal(static_cast<std::uint64_t>(i));
    switch (values.dtype()) {
      case DType::float64:
        values.data<double>()[i] = value;
        break;
      case DType::bfloat16:
        values.data<bfloat16>()[i] = bfloat16(static_cast<float>(value));
        break;
      default:
        values.data<float>()[i] = static_cast<float>(value);
        break;
    }
  }
  side.send();
}

}  // namespace

void Decoder::declare_parameters() {
  parameters_ = list_parameters(config_, plan_);
  for (Parameter& p : parameters_) {
    if (p.is_new_expert() && !group_.placement.holds(p.layer, p.expert, group_.comm.rank())) continue;
    p.value = Tensor(p.shape, dtype_, stream_.device());
  }
}

void Decoder::own_gradients() {
  for (Parameter& p : parameters_) {
    if (!p.trainable || !p.held()) continue;
    gradients_.emplace_back(Shape{num_leaves(p), p.shape.num_elements()}, accumulator_of(dtype_),
                            stream_.device());
    p.grad = gradients_.back().view();
  }
  if (gradients_.empty()) return;
  layers_.clear();
  bind_weights();
}

void Decoder::place_experts() {
  for (int l = 0; l < config_.num_layers; ++l) {
    const int num_experts = config_.num_experts[static_cast<std::size_t>(l)];
    const std::vector<std::int32_t> places = TokenDispatcher::places_of_experts(group_, l, num_experts);
    places_.push_back(copied_to(stream_.device(), {places.data(), DType::int32, {num_experts}}, stream_));
  }
}

void Decoder::share_gradients() {
  const DType acc = accumulator_of(dtype_);
  const auto padded = [](std::int64_t n) { return (n + 15) / 16 * 16; };  // every view starts on a cache line
  gradients_.clear();
  gradients_shared_ = true;
  std::vector<std::int64_t> used(static_cast<std::size_t>(plan_.num_segments()), 0);
  std::vector<std::int64_t> first(parameters_.size(), 0);
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& p = parameters_[i];
    if (!p.trainable || !p.held()) continue;
    if (written_twice(p)) {
      gradients_.emplace_back(Shape{num_leaves(p), p.shape.num_elements()}, acc, stream_.device());
      p.grad = gradients_.back().view();
      continue;
    }
    std::int64_t& end = used[static_cast<std::size_t>(p.last_writer)];
    first[i] = end;
    end += padded(num_leaves(p) * p.shape.num_elements());
  }
  gradients_.emplace_back(Shape{*std::max_element(used.begin(), used.end())}, acc, stream_.device());
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& p = parameters_[i];
    if (!p.trainable || !p.held() || written_twice(p)) continue;
    const std::int64_t count = num_leaves(p) * p.shape.num_elements();
    p.grad = gradients_.back().view().rows(first[i], count).reshape({num_leaves(p), p.shape.num_elements()});
  }
  layers_.clear();
  bind_weights();
}

void Decoder::begin_segment(int segment) {
  if (!gradients_shared_) return;
  for (Parameter& p : parameters_) {
    if (p.grad && p.last_writer == segment && !written_twice(p)) ops::fill(p.grad, 0.0, stream_);
  }
}

Parameter& Decoder::parameter(std::string_view name) {
  const auto it = std::lower_bound(parameters_.begin(), parameters_.end(), name,
                                   [](const Parameter& p, std::string_view n) { return p.name < n; });
  NMOE_CHECK(it != parameters_.end() && it->name == name, internal, "the model has no parameter {}", name);
  return *it;
}

Weight Decoder::weight_of(std::string_view name, int leaf) {
  Parameter& p = parameter(name);
  Weight weight;
  weight.value = ConstTensorView(p.value.view());
  if (p.grad) weight.grad = p.grad.rows(leaf, 1).reshape(p.shape);
  return weight;
}

FeedForwardWeights Decoder::expert_weights(const std::string& prefix, int leaf) {
  return {weight_of(prefix + "gate_proj.weight", leaf), weight_of(prefix + "up_proj.weight", leaf),
          weight_of(prefix + "down_proj.weight", leaf)};
}

void Decoder::bind_weights() {
  embedding_ = weight_of("model.embed_tokens.weight");
  final_norm_ = weight_of("model.norm.weight");
  head_ = config_.tie_word_embeddings ? embedding_ : weight_of("lm_head.weight");
  layers_.resize(static_cast<std::size_t>(config_.num_layers));
  for (int l = 0; l < config_.num_layers; ++l) {
    const std::string layer = fmt::format("model.layers.{}.", l);
    LayerWeights& w = layers_[static_cast<std::size_t>(l)];
    w.attention.norm = weight_of(layer + "input_layernorm.weight");
    w.attention.q = weight_of(layer + "self_attn.q_proj.weight");
    w.attention.k = weight_of(layer + "self_attn.k_proj.weight");
    w.attention.v = weight_of(layer + "self_attn.v_proj.weight");
    w.attention.o = weight_of(layer + "self_attn.o_proj.weight");
    if (config_.attention_bias) {
      w.attention.q_bias = weight_of(layer + "self_attn.q_proj.bias");
      w.attention.k_bias = weight_of(layer + "self_attn.k_proj.bias");
      w.attention.v_bias = weight_of(layer + "self_attn.v_proj.bias");
    }
    w.mlp_norm = weight_of(layer + "post_attention_layernorm.weight");
    w.mlp = expert_weights(layer + "mlp.", 0);
    if (!config_.is_moe(l)) continue;
    w.moe.router = weight_of(layer + "mlp.router.weight");
    w.moe.place_of_expert = places_[static_cast<std::size_t>(l)].view();
    w.moe.base = w.mlp;
    w.moe.experts.resize(static_cast<std::size_t>(config_.num_experts[static_cast<std::size_t>(l)]));
    for (const int e : group_.placement.replicated_experts(l)) {
      w.moe.experts[static_cast<std::size_t>(e)].push_back(
          expert_weights(fmt::format("{}mlp.experts.{}.", layer, e), 0));
    }
    for (const int e : group_.placement.experts_on(l, group_.comm.rank())) {
      for (int source = 0; source < group_.comm.size(); ++source) {
        w.moe.experts[static_cast<std::size_t>(e)].push_back(
            expert_weights(fmt::format("{}mlp.experts.{}.", layer, e), source));
      }
    }
  }
}

void Decoder::initialise_dense(std::uint64_t seed) {
  const double depth = std::sqrt(2.0 * config_.num_layers);
  for (Parameter& p : parameters_) {
    if (!p.held() || p.is_new_expert() || p.is_router) continue;
    if (p.name.ends_with("norm.weight")) {
      ops::fill(p.value.view(), 1.0, stream_);
    } else if (p.name.ends_with(".bias")) {
      ops::fill(p.value.view(), 0.0, stream_);
    } else if (ends_with_any(p.name, {"embed_tokens.weight", "lm_head.weight"})) {
      fill_normal(p.value.view(), p.name, seed, 0.02, stream_);
    } else {
      const double fan_in = std::sqrt(static_cast<double>(p.shape[1]));
      const bool residual = ends_with_any(p.name, {"o_proj.weight", "down_proj.weight"});
      fill_normal(p.value.view(), p.name, seed, residual ? 1.0 / (fan_in * depth) : 1.0 / fan_in, stream_);
    }
  }
}

void Decoder::upcycle(std::uint64_t seed) {
  for (Parameter& p : parameters_) {
    if (!p.held()) continue;
    if (p.is_new_expert()) {
      std::string base = p.name;
      const auto at = base.find("experts.");
      base.erase(at, base.find('.', at + 8) + 1 - at);
      ops::cast(p.value.view(), parameter(base).value.view(), stream_);
    } else if (p.is_router) {
      const double fans = static_cast<double>(p.shape[0] + p.shape[1]);
      fill_normal(p.value.view(), p.name, seed, std::sqrt(2.0 / fans), stream_);
    }
  }
}

void Decoder::zero_gradients() {
  if (gradients_.empty()) return own_gradients();  // which start as zeros
  for (Parameter& p : parameters_) {
    if (p.grad && (!gradients_shared_ || written_twice(p))) ops::fill(p.grad, 0.0, stream_);
  }
}

}  // namespace nmoe::model
