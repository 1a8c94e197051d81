// Parameters of the decoder: their memory, binding to layers, initialization and upcycling.
#include <algorithm>
#include <cmath>

#include "neuronmoe/base/hash.hpp"
#include "neuronmoe/base/philox.hpp"
#include "neuronmoe/model/decoder.hpp"
#include "neuronmoe/model/gradient_layout.hpp"
#include "neuronmoe/ops/transformer.hpp"
#include "neuronmoe/tensor/device.hpp"

namespace nmoe::model {

namespace {

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
  std::vector<std::int64_t> leaves;
  for (const Parameter& p : parameters_) leaves.push_back(p.trainable && p.held() ? num_leaves(p) : 0);
  const GradientLayout layout = lay_out_gradients(parameters_, leaves, plan_);
  const DType acc = accumulator_of(dtype_);
  gradients_.clear();
  gradients_shared_ = true;
  Tensor shared({layout.num_shared}, acc, stream_.device());
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& p = parameters_[i];
    if (layout.first[i] == GradientLayout::none) continue;
    const Shape shape{leaves[i], p.shape.num_elements()};
    if (layout.first[i] == GradientLayout::own) {
      gradients_.emplace_back(shape, acc, stream_.device());
      p.grad = gradients_.back().view();
    } else {
      p.grad = shared.view().rows(layout.first[i], shape.num_elements()).reshape(shape);
    }
  }
  gradients_.push_back(std::move(shared));
  layers_.clear();
  bind_weights();
}

void Decoder::begin_segment(int segment) {
  if (!gradients_shared_) return;
  for (Parameter& p : parameters_) {
    if (p.grad && p.last_writer == segment && !plan_.written_twice(p)) ops::fill(p.grad, 0.0, stream_);
  }
}

Parameter& Decoder::parameter(std::string_view name) {
  const auto it = std::lower_bound(parameters_.begin(), parameters_.end(), name,
                                   [](const Parameter& p, std::string_view n) { return p.name < n; });
  NMOE_CHECK(it != parameters_.end() && it->name == name, internal, "the model has no parameter {}", name);
  return *it;
}

Parameter& Decoder::parameter(Role role, int layer, int expert) {
  return parameter(parameter_name(role, layer, expert));
}

Weight Decoder::weight_of(Role role, int layer, int expert, int leaf) {
  if (!has_parameter(config_, role, layer)) return {};
  Parameter& p = parameter(role, layer, expert);
  Weight weight;
  weight.value = ConstTensorView(p.value.view());
  if (p.grad) weight.grad = p.grad.rows(leaf, 1).reshape(p.shape);
  return weight;
}

FeedForwardWeights Decoder::expert_weights(int layer, int expert, int leaf) {
  FeedForwardWeights weights;
  for_each_weight(weights, [&](Role role, Weight& w) { w = weight_of(role, layer, expert, leaf); });
  return weights;
}

void Decoder::bind_weights() {
  embedding_ = weight_of(Role::embedding);
  final_norm_ = weight_of(Role::final_norm);
  head_ = config_.tie_word_embeddings ? embedding_ : weight_of(Role::head);
  layers_.resize(static_cast<std::size_t>(config_.num_layers));
  for (int l = 0; l < config_.num_layers; ++l) {
    LayerWeights& w = layers_[static_cast<std::size_t>(l)];
    for_each_weight(w.attention, [&](Role role, Weight& weight) { weight = weight_of(role, l); });
    w.mlp_norm = weight_of(Role::mlp_norm, l);
    w.mlp = expert_weights(l);
    if (!config_.is_moe(l)) continue;
    w.moe.router = weight_of(Role::router, l);
    w.moe.place_of_expert = places_[static_cast<std::size_t>(l)].view();
    w.moe.base = w.mlp;
    w.moe.experts.resize(static_cast<std::size_t>(config_.num_experts[static_cast<std::size_t>(l)]));
    for (const int e : group_.placement.replicated_experts(l)) {
      w.moe.experts[static_cast<std::size_t>(e)].push_back(expert_weights(l, e));
    }
    for (const int e : group_.placement.experts_on(l, group_.comm.rank())) {
      for (int source = 0; source < group_.comm.size(); ++source) {
        w.moe.experts[static_cast<std::size_t>(e)].push_back(expert_weights(l, e, source));
      }
    }
  }
}

void Decoder::initialise_dense(std::uint64_t seed) {
  const double depth = std::sqrt(2.0 * config_.num_layers);
  for (Parameter& p : parameters_) {
    if (!p.held() || !p.is_dense()) continue;
    const Initial initial = properties(p.role).initial;
    if (initial == Initial::ones || initial == Initial::zeros) {
      ops::fill(p.value.view(), initial == Initial::ones ? 1.0 : 0.0, stream_);
    } else if (initial == Initial::embedding) {
      fill_normal(p.value.view(), p.name, seed, 0.02, stream_);
    } else {
      const double fan_in = std::sqrt(static_cast<double>(p.shape[1]));
      const double stddev = initial == Initial::residual ? 1.0 / (fan_in * depth) : 1.0 / fan_in;
      fill_normal(p.value.view(), p.name, seed, stddev, stream_);
    }
  }
}

void Decoder::upcycle(std::uint64_t seed) {
  for (Parameter& p : parameters_) {
    if (!p.held()) continue;
    if (p.is_new_expert()) {
      ops::cast(p.value.view(), parameter(p.role, p.layer).value.view(), stream_);
    } else if (p.is_router()) {
      const double fans = static_cast<double>(p.shape[0] + p.shape[1]);
      fill_normal(p.value.view(), p.name, seed, std::sqrt(2.0 / fans), stream_);
    }
  }
}

void Decoder::zero_gradients() {
  if (gradients_.empty()) return own_gradients();  // which start as zeros
  for (Parameter& p : parameters_) {
    if (p.grad && (!gradients_shared_ || plan_.written_twice(p))) ops::fill(p.grad, 0.0, stream_);
  }
}

}  // namespace nmoe::model
