// Counts of tokens per expert: summed over ranks, written to and read from state.h5.
#include "neuronmoe/train/expert_tokens.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "neuronmoe/train/checkpoint.hpp"

namespace nmoe::train {

namespace {

constexpr const char* dataset = "/routing";
constexpr std::uint64_t most_tokens = std::uint64_t{1} << 48;  // sums over any model stay exact

std::size_t widest(const model::ExpertTokens& tokens) {
  std::size_t most = 0;
  for (const auto& layer : tokens) most = std::max(most, layer.size());
  return most;
}

/// Every token of a run visits min(top_k, E) experts of each mixture layer.
void require_consistent(const std::string& path, const model::ModelConfig& model,
                        const model::ExpertTokens& tokens) {
  std::int64_t expected = -1;
  for (std::size_t l = 0; l < tokens.size(); ++l) {
    const int k = std::min(model.top_k, static_cast<int>(tokens[l].size()));
    std::int64_t sum = 0;
    for (const std::int64_t n : tokens[l]) sum += n;
    if (tokens[l].size() == 1) {
      NMOE_CHECK(sum == 0, bad_data, "{}: {} counts {} tokens of experts in layer {}, which has none", path,
                 dataset, sum, l);
      continue;
    }
    if (expected < 0) expected = sum / k;
    NMOE_CHECK(sum == expected * k, bad_data,
               "{}: {} counts {} visits in layer {}, but {} tokens that visit {} experts each; set "
               "train.placement_tokens = expected or take another checkpoint",
               path, dataset, sum, l, expected, k);
  }
}

}  // namespace

std::string MeasuredTokens::to_string() const {
  return counts.empty() ? "expected tokens" : "tokens counted in " + source;
}

model::ExpertTokens sum_over_ranks(comm::Communicator& comm, const model::ExpertTokens& mine,
                                   Stream& stream) {
  std::vector<std::int64_t> flat;
  for (const auto& layer : mine) flat.insert(flat.end(), layer.begin(), layer.end());
  comm.all_reduce({flat.data(), DType::int64, {static_cast<std::int64_t>(flat.size())}}, comm::ReduceOp::sum,
                  stream)
      .wait();
  model::ExpertTokens sum = mine;
  auto next = flat.begin();
  for (auto& layer : sum) {
    for (std::int64_t& n : layer) n = *next++;
  }
  return sum;
}

void write_expert_tokens(io::H5File& state, const model::ExpertTokens& tokens) {
  if (tokens.empty()) return;
  const std::size_t width = widest(tokens);
  std::vector<std::uint64_t> rows(tokens.size() * width, 0);
  for (std::size_t l = 0; l < tokens.size(); ++l)
    std::copy(tokens[l].begin(), tokens[l].end(), rows.begin() + static_cast<std::ptrdiff_t>(l * width));
  state.write(dataset, rows, {static_cast<std::int64_t>(tokens.size()), static_cast<std::int64_t>(width)});
  std::vector<std::size_t> num_experts;
  for (const auto& layer : tokens) num_experts.push_back(layer.size());
  state.write_attribute(dataset, "num_experts", fmt::format("{}", fmt::join(num_experts, ",")));
}

model::ExpertTokens read_expert_tokens(io::H5File& state, const model::ModelConfig& model) {
  if (!state.exists(dataset)) return {};
  model::ExpertTokens tokens;
  for (const int e : model.num_experts) tokens.emplace_back(static_cast<std::size_t>(e), 0);
  const std::size_t width = widest(tokens);
  const std::string found = state.read_string_attribute(dataset, "num_experts"),
                    wanted = fmt::format("{}", fmt::join(model.num_experts, ","));
  NMOE_CHECK(found == wanted, bad_data,
             "{}: {} counts tokens of {} experts per layer, the model "
             "has {}; take counts of a run with the same experts",
             state.path(), dataset, found, wanted);
  const std::int64_t shape[] = {model.num_layers, static_cast<std::int64_t>(width)};
  const auto rows = state.read<std::uint64_t>(dataset, shape);
  for (std::size_t at = 0; at < rows.size(); ++at) {
    auto& layer = tokens[at / width];
    const bool inside = at % width < layer.size();
    NMOE_CHECK(rows[at] <= (inside ? most_tokens : 0), bad_data,
               "{}: {} counts {} tokens for expert {} of layer {}, which has {} experts", state.path(),
               dataset, rows[at], at % width, at / width, layer.size());
    if (inside) layer[at % width] = static_cast<std::int64_t>(rows[at]);
  }
  require_consistent(state.path(), model, tokens);
  return tokens;
}

MeasuredTokens measured_tokens(const std::string& step_dir, const model::ModelConfig& model) {
  const std::string path = step_dir + "/state.h5";
  if (!std::filesystem::exists(path)) return {};
  io::H5File file = io::H5File::open(path, state_format);
  MeasuredTokens found{read_expert_tokens(file, model), step_dir};
  file.close();
  const bool any = std::any_of(found.counts.begin(), found.counts.end(), [](const auto& layer) {
    return std::any_of(layer.begin(), layer.end(), [](std::int64_t n) { return n > 0; });
  });
  return any ? found : MeasuredTokens{};
}

}  // namespace nmoe::train
