// Placement of experts on the ranks of an expert-parallel group, and how even it is.
#include "neuronmoe/model/expert_placement.hpp"

#include <algorithm>

#include "neuronmoe/base/error.hpp"

namespace nmoe::model {

ExpertPlacement::ExpertPlacement(std::span<const int> num_experts, int expert_parallel_size, int top_k,
                                 ExpertHome home, const ExpertTokens& measured)
    : expert_parallel_size_(expert_parallel_size) {
  NMOE_CHECK(expert_parallel_size >= 1, internal, "expert_parallel_size {}", expert_parallel_size);
  NMOE_CHECK(measured.empty() || measured.size() == num_experts.size(), internal,
             "tokens of {} layers for a model of {}", measured.size(), num_experts.size());
  struct Owned {
    std::size_t layer, expert;
    std::int64_t tokens, cost;
  };
  std::vector<Owned> to_place;
  owner_.resize(num_experts.size());
  std::int64_t all_tokens = 0;
  const auto tokens_of = [&](std::size_t layer, std::size_t expert) {
    if (!measured.empty()) return measured[layer][expert];
    const int e = num_experts[layer];  // expected, in 1/5040 of all tokens: 1..10 divide it
    return top_k == 0 ? std::int64_t{1} : std::int64_t{5040} * std::min(top_k, e) / e;
  };
  for (std::size_t layer = 0; layer < num_experts.size(); ++layer) {
    const int e = num_experts[layer];
    NMOE_CHECK(e >= 1, config, "layer {} has {} experts; the frozen base alone is 1", layer, e);
    NMOE_CHECK(measured.empty() || measured[layer].size() == static_cast<std::size_t>(e), internal,
               "layer {}: tokens of {} experts, it has {}", layer, measured[layer].size(), e);
    const bool everywhere = expert_parallel_size > 1 &&
                            (home == ExpertHome::replicated || (home == ExpertHome::automatic && top_k >= e));
    owner_[layer].assign(static_cast<std::size_t>(e), everywhere ? replicated : -1);
    owner_[layer][0] = -1;
    for (std::size_t expert = 1; !everywhere && expert < owner_[layer].size(); ++expert) {
      to_place.push_back({layer, expert, tokens_of(layer, expert), 0});
      all_tokens += to_place.back().tokens;
    }
  }
  // Bytes (every expert has the same) and tokens weigh alike: both are taken relative to their mean. Counts
  // of long runs lose their last bits, so that no product overflows.
  int shift = 0;
  while ((all_tokens >> shift) >> 40 != 0) ++shift;
  const std::int64_t all = std::max<std::int64_t>(1, all_tokens >> shift);
  for (Owned& o : to_place) o.cost = all + (o.tokens >> shift) * static_cast<std::int64_t>(to_place.size());
  std::stable_sort(to_place.begin(), to_place.end(), [&](const Owned& a, const Owned& b) {
    return a.cost != b.cost ? a.cost > b.cost : num_experts[a.layer] > num_experts[b.layer];
  });
  std::vector<std::int64_t> load(static_cast<std::size_t>(expert_parallel_size), 0);
  for (const Owned& o : to_place) {
    const auto least = std::min_element(load.begin(), load.end());  // the lower position of equal ones
    *least += o.cost;
    owner_[o.layer][o.expert] = static_cast<int>(least - load.begin());
  }
}

int ExpertPlacement::at(int layer, int expert_id) const {
  NMOE_CHECK(layer >= 0 && static_cast<std::size_t>(layer) < owner_.size(), internal, "layer {} of {}", layer,
             owner_.size());
  const auto& experts = owner_[static_cast<std::size_t>(layer)];
  NMOE_CHECK(expert_id >= 1 && static_cast<std::size_t>(expert_id) < experts.size(), internal,
             "expert {} of layer {}: new experts are 1..{}", expert_id, layer, experts.size() - 1);
  return experts[static_cast<std::size_t>(expert_id)];
}

int ExpertPlacement::owner(int layer, int expert_id) const {
  const int rank = at(layer, expert_id);
  NMOE_CHECK(rank >= 0, internal, "expert {} of layer {} is on every rank", expert_id, layer);
  return rank;
}

bool ExpertPlacement::dispatches(int layer) const {
  const auto& experts = owner_[static_cast<std::size_t>(layer)];
  return std::any_of(experts.begin(), experts.end(), [](int owner) { return owner >= 0; });
}

std::vector<int> ExpertPlacement::experts_on(int layer, int expert_parallel_rank) const {
  NMOE_CHECK(layer >= 0 && static_cast<std::size_t>(layer) < owner_.size(), internal, "layer {} of {}", layer,
             owner_.size());
  const auto& experts = owner_[static_cast<std::size_t>(layer)];
  std::vector<int> ids;
  for (std::size_t e = 1; e < experts.size(); ++e) {
    if (experts[e] == expert_parallel_rank) ids.push_back(static_cast<int>(e));
  }
  return ids;
}

std::string ExpertPlacement::to_string() const {
  std::string text;
  for (int r = 0; r < expert_parallel_size_; ++r) {
    std::size_t total = 0;
    std::string layers;
    for (std::size_t layer = 0; layer < owner_.size(); ++layer) {
      const std::vector<int> ids = experts_on(static_cast<int>(layer), r);
      if (ids.empty()) continue;
      total += ids.size();
      layers += fmt::format(" {}:", layer);
      for (std::size_t i = 0; i < ids.size(); ++i) layers += fmt::format("{}{}", i > 0 ? "," : "", ids[i]);
    }
    text += fmt::format("expert-parallel rank {}: {} experts (layer:ids){}\n", r, total,
                        layers.empty() ? " none" : layers);
  }
  std::string everywhere;
  for (std::size_t layer = 0; layer < owner_.size(); ++layer) {
    const std::size_t n = replicated_experts(static_cast<int>(layer)).size();
    if (n > 0) everywhere += fmt::format(" {}:{}", layer, n);
  }
  if (!everywhere.empty()) text += fmt::format("on every rank (layer:new experts){}\n", everywhere);
  return text;
}

PlacementBalance balance_of(const ExpertPlacement& placement, int expert_parallel_size,
                            const ExpertTokens& tokens) {
  PlacementBalance balance;
  std::int64_t all_tokens = 0, all_experts = 0, most_experts = 0;
  for (int r = 0; r < expert_parallel_size; ++r) {
    std::int64_t mine = 0, experts = 0;
    for (std::size_t l = 0; l < tokens.size(); ++l) {
      for (const int e : placement.experts_on(static_cast<int>(l), r)) {
        mine += tokens[l][static_cast<std::size_t>(e)];
        ++experts;
      }
    }
    all_tokens += mine;
    all_experts += experts;
    balance.most_tokens = std::max(balance.most_tokens, mine);
    most_experts = std::max(most_experts, experts);
  }
  const auto of_mean = [&](std::int64_t most, std::int64_t all) {
    return all > 0 ? static_cast<double>(most) * expert_parallel_size / static_cast<double>(all) : 1.0;
  };
  balance.tokens = of_mean(balance.most_tokens, all_tokens);
  balance.bytes = of_mean(most_experts, all_experts);
  return balance;
}

}  // namespace nmoe::model
