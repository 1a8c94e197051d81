#pragma once
// Architecture of a decoder: what, not where. Read from a Hugging Face config.json; carried into every
// checkpoint.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "neuronmoe/base/enum_names.hpp"

namespace nmoe::model {

/// router.compat: router logits, expert weights and the combination in float32, or in the model's type as the
/// released code has them.
enum class RouterCompat { none, release };
constexpr auto enum_names(RouterCompat) {
  return std::to_array<EnumName<RouterCompat>>(
      {{RouterCompat::none, "none"}, {RouterCompat::release, "release"}});
}

/// Routers of a mixture that gets more experts: all drawn anew, or the rows of its experts kept and those of
/// the new ones drawn (METHOD 4.3).
enum class ExtendRouter { redraw, keep };
constexpr auto enum_names(ExtendRouter) {
  return std::to_array<EnumName<ExtendRouter>>(
      {{ExtendRouter::redraw, "redraw"}, {ExtendRouter::keep, "keep"}});
}

/// Most experts of a layer, base included.
inline constexpr int max_num_experts = 4096;

/// Rotary frequency scaling; the fields of Hugging Face's `rope_scaling`.
struct RopeScaling {
  std::string type = "default";  ///< default | linear | llama3
  double factor = 1.0;
  double low_freq_factor = 1.0, high_freq_factor = 4.0;  ///< llama3
  std::int64_t original_max_position_embeddings = 8192;  ///< llama3
};

/// A decoder of any family. `num_experts` has one entry per layer, base included; all ones = dense.
struct ModelConfig {
  std::string model_type = "llama";  ///< Hugging Face's name of the family, for files and messages only
  std::int64_t vocab_size = 0, hidden_size = 0, intermediate_size = 0;
  int num_layers = 0, num_attention_heads = 0, num_key_value_heads = 0, head_dim = 0;
  std::int64_t max_position_embeddings = 0;
  double rope_theta = 10000.0, rms_norm_eps = 1e-5;
  RopeScaling rope_scaling;
  bool tie_word_embeddings = true;
  bool attention_bias = false;  ///< on q, k and v
  bool qk_norm = false;         ///< RMSNorm of each head of q and k, before the rotary embedding
  std::int64_t bos_token_id = -1, eos_token_id = -1;
  std::vector<int> num_experts;
  /// Of an extended mixture, how many experts of each layer, base included, are from before it was extended:
  /// stage 1 leaves them as they are. Empty: the base alone.
  std::vector<int> num_old_experts;
  int top_k = 2;
  /// router.compat = release (METHOD 11 row 38): router logits, expert weights and the combination in the
  /// model's type. Without effect in float32.
  bool release_router = false;
  RouterCompat router_compat() const { return release_router ? RouterCompat::release : RouterCompat::none; }

  bool is_moe(int layer) const { return num_experts[static_cast<std::size_t>(layer)] > 1; }
  /// Returns the first expert of a layer that stage 1 trains; num_experts[layer] if it trains none there.
  int first_trained_expert(int layer) const {
    return num_old_experts.empty() ? 1 : num_old_experts[static_cast<std::size_t>(layer)];
  }
  int num_moe_layers() const;
};

/// Parses config.json. @throws Error(bad_data) naming the file, the field and its value for anything that is
/// not supported and would change the numbers.
ModelConfig load_model_config(const std::string& path);
/// Returns the same fields as JSON text, loadable by transformers.
std::string model_config_json(const ModelConfig& config);
/// Reads `ADA_MOE_NUM_EXPERTS_LIST=` from an experts.cfg (METHOD 3.5); parsed, never sourced.
/// @param num_layers how many counts there must be; none = any number
/// @throws Error(bad_data) naming file and line for a missing list, a wrong length or an entry < 1.
std::vector<int> load_expert_counts(const std::string& path, std::optional<int> num_layers = {});
/// Returns the line of an experts.cfg that load_expert_counts() reads, with its end.
std::string expert_counts_line(const std::vector<int>& num_experts);

}  // namespace nmoe::model
