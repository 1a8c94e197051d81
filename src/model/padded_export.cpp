// Ernie4_5_Moe of transformers: names, row order and padding.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "transformers_export.hpp"

namespace nmoe::model {

namespace {

/// Lower than any score of a real expert, which is a probability.
constexpr float never_chosen = -2.0F;

std::int64_t row_bytes(const io::SafetensorsEntry& entry) {
  return entry.num_bytes() / std::max<std::int64_t>(entry.shape[0], 1);
}

/// A tensor of `num_rows` rows, each a row of `source`.
io::TensorSource with_rows(io::TensorSource source, std::int64_t num_rows,
                           std::function<std::int64_t(std::int64_t row)> row_of) {
  const std::int64_t bytes = row_bytes(source.entry);
  io::TensorSource result{source.entry, {}};
  result.entry.shape =
      source.entry.shape.rank() == 1 ? Shape{num_rows} : Shape{num_rows, source.entry.shape[1]};
  result.read = [read = std::move(source.read), row_of = std::move(row_of), bytes](std::int64_t begin,
                                                                                   std::span<char> out) {
    while (!out.empty()) {
      const std::int64_t row = begin / bytes, within = begin % bytes;
      const auto count = std::min<std::int64_t>(bytes - within, static_cast<std::int64_t>(out.size()));
      read(row_of(row) * bytes + within, out.first(static_cast<std::size_t>(count)));
      out = out.subspan(static_cast<std::size_t>(count));
      begin += count;
    }
  };
  return result;
}

/// Rows of a projection of q or k, each head's from halves [x y] to pairs x0 y0 x1 y1 ...
io::TensorSource in_pairs(const io::TensorSource& source, std::int64_t head_dim) {
  return with_rows(source, source.entry.shape[0], [head_dim](std::int64_t row) {
    const std::int64_t place = row % head_dim;
    return row - place + place / 2 + (place % 2) * (head_dim / 2);
  });
}

io::TensorSource zeros(std::string dtype, Shape shape) {
  return {{"", std::move(dtype), shape},
          [](std::int64_t, std::span<char> out) { std::fill(out.begin(), out.end(), '\0'); }};
}

io::TensorSource floats(std::vector<float> values, Shape shape) {
  return {{"", "F32", shape}, [values = std::move(values)](std::int64_t begin, std::span<char> out) {
            std::memcpy(out.data(), reinterpret_cast<const char*>(values.data()) + begin, out.size());
          }};
}

class Padding {
 public:
  Padding(const ModelConfig& config, const TensorSources& tensors, const std::string& where)
      : config_(config), source_(tensors), where_(where) {
    require_representable();
    for (int l = 0; l < config.num_layers; ++l) {
      if (!config.is_moe(l)) continue;
      first_ = first_ < 0 ? l : first_;
      last_ = l;
    }
    num_experts_ =
        std::max(config.top_k, *std::max_element(config.num_experts.begin(), config.num_experts.end()));
  }

  TransformersModel pad() {
    for (const Parameter& p : list_parameters(config_))
      if (p.is_dense() && !is_mlp(p.role)) put_dense(p);
    for (int l = 0; l < config_.num_layers; ++l) put_mlp(l);
    return {config_json(), std::move(tensors_), layout(), "Experts of zeros are never chosen.", {}};
  }

 private:
  static bool is_mlp(Role role) { return properties(role).block == Block::mlp; }

  void require_representable() const {
    const auto refuse = [&](bool refused, std::string_view what) {
      NMOE_CHECK(!refused, config,
                 "{}: {}, which transformers' Ernie4_5_Moe has not; set convert.to = transformers-code",
                 where_, what);
    };
    refuse(config_.qk_norm, "this family has a norm of q and k");
    refuse(config_.release_router, "it was trained with router.compat = release");
    refuse(config_.top_k == 1, "its one expert per token keeps its probability as weight (top_k = 1)");
    refuse(config_.rope_scaling.type != "default" && config_.rope_scaling.type != "linear" &&
               config_.rope_scaling.type != "llama3",
           "its rope_scaling is " + config_.rope_scaling.type);
    for (const int count : config_.num_experts)
      refuse(count > 1 && count < config_.top_k,
             fmt::format("a layer has {} experts and top_k is {}", count, config_.top_k));
  }

  void put(const std::string& name, io::TensorSource source) {
    source.entry.name = name;
    tensors_[name] = std::move(source);
  }

  const io::TensorSource& find(const std::string& name) const { return find_tensor(source_, name, where_); }

  void put_dense(const Parameter& p) {
    const io::TensorSource& source = find(p.name);
    const bool rotated = p.role == Role::q_weight || p.role == Role::k_weight || p.role == Role::q_bias ||
                         p.role == Role::k_bias;
    put(p.name, rotated ? in_pairs(source, config_.head_dim) : source);
    // One switch of the class adds biases to all projections.
    if (p.role == Role::o_weight && config_.attention_bias) put_zero_bias(p.name, source.entry);
  }

  void put_zero_bias(const std::string& weight, const io::SafetensorsEntry& entry) {
    constexpr std::string_view ending = "weight";
    put(weight.substr(0, weight.size() - ending.size()) + "bias", zeros(entry.dtype, Shape{entry.shape[0]}));
  }

  void put_mlp(int layer) {
    const std::string mlp = layer_prefix(layer) + "mlp.";
    const bool padded = layer >= first_ && layer <= last_;
    const int count = config_.num_experts[static_cast<std::size_t>(layer)];
    const int real = count > 1 ? count : padded ? config_.top_k : 1;
    for (const Role role : {Role::gate, Role::up, Role::down}) {
      const io::TensorSource& base = find(parameter_name(role, layer));
      if (!padded) {
        put(parameter_name(role, layer), base);
        if (config_.attention_bias) put_zero_bias(parameter_name(role, layer), base.entry);
        continue;
      }
      for (int e = 0; e < num_experts_; ++e) {
        const std::string name = fmt::format("{}experts.{}.{}", mlp, e, properties(role).name);
        if (e == 0 || (count == 1 && e < real))
          put(name, base);
        else if (e < real)
          put(name, find(parameter_name(role, layer, e)));
        else
          put(name, zeros(base.entry.dtype, base.entry.shape));
      }
    }
    if (padded) put_router(mlp, layer, count, real);
  }

  void put_router(const std::string& mlp, int layer, int count, int real) {
    // Rows of experts that are never chosen repeat the base's: the softmax keeps its range whatever the
    // logits.
    put(mlp + "gate.weight",
        count > 1 ? with_rows(converted(find(parameter_name(Role::router, layer)), DType::float32),
                              num_experts_, [count](std::int64_t row) { return row < count ? row : 0; })
                  : zeros("F32", Shape{num_experts_, config_.hidden_size}));
    std::vector<float> bias(static_cast<std::size_t>(num_experts_), never_chosen);
    std::fill_n(bias.begin(), real, 0.0F);
    put(mlp + "moe_statics.e_score_correction_bias", floats(std::move(bias), Shape{1, num_experts_}));
  }

  std::string config_json() const {
    nlohmann::ordered_json object = transformers_config(config_);
    for (const char* key : {"attention_bias", "sliding_window"}) object.erase(key);
    object["architectures"] = {"Ernie4_5_MoeForCausalLM"};
    object["model_type"] = "ernie4_5_moe";
    object["use_bias"] = config_.attention_bias;
    object["moe_num_experts"] = num_experts_;
    object["moe_k"] = config_.top_k;
    object["moe_intermediate_size"] = config_.intermediate_size;
    object["moe_num_shared_experts"] = 0;
    object["moe_layer_start_index"] = first_;
    object["moe_layer_end_index"] = last_;
    object["moe_layer_interval"] = 1;
    return object.dump(2) + "\n";
  }

  std::string layout() const {
    int before = 0;
    for (const int count : config_.num_experts) before += count;
    const int outside = config_.num_layers - (last_ - first_ + 1);
    const int after = outside + (last_ - first_ + 1) * num_experts_;
    return fmt::format("{} experts per layer in layers {} to {} in place of {}, {:.2f} times the FFN weights",
                       num_experts_, first_, last_, fmt::join(config_.num_experts, ","),
                       static_cast<double>(after) / static_cast<double>(before));
  }

  const ModelConfig& config_;
  const TensorSources& source_;
  const std::string& where_;
  int first_ = -1, last_ = -1, num_experts_ = 0;
  TensorSources tensors_;
};

}  // namespace

TransformersModel pad_experts(const ModelConfig& config, const TensorSources& tensors,
                              const std::string& where) {
  return Padding(config, tensors, where).pad();
}

}  // namespace nmoe::model
