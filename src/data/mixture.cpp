// Mixes data sets by weight: which set and which of its blocks each training position takes.
#include "neuronmoe/data/mixture.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "neuronmoe/base/error.hpp"

namespace nmoe::data {
namespace {

/// How many of `period` positions each data set gets: largest remainder, at least one each.
std::vector<std::uint64_t> quotas_of(const std::vector<double>& weights, std::uint64_t period) {
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<std::uint64_t> quota;
  std::vector<double> ideal;
  for (const double weight : weights) {
    ideal.push_back(weight / total * static_cast<double>(period));
    quota.push_back(std::max<std::uint64_t>(1, static_cast<std::uint64_t>(ideal.back())));
  }
  auto given = std::accumulate(quota.begin(), quota.end(), std::uint64_t{0});
  const auto owed = [&](std::size_t i) { return ideal[i] - static_cast<double>(quota[i]); };
  for (; given < period; ++given) {  // to the one that is owed most; ties to the first
    std::size_t best = 0;
    for (std::size_t i = 1; i < quota.size(); ++i)
      if (owed(i) > owed(best)) best = i;
    ++quota[best];
  }
  for (; given > period; --given) {  // the minimum of one gave too much: back from the one that has most over
    std::size_t best = 0;
    for (std::size_t i = 1; i < quota.size(); ++i)
      if (quota[i] > 1 && (quota[best] == 1 || owed(i) < owed(best))) best = i;
    --quota[best];
  }
  return quota;
}

/// Spreads the quotas evenly: the data set that is furthest behind its share comes next.
std::vector<int> pattern_of(const std::vector<std::uint64_t>& quota, std::uint64_t period) {
  std::vector<int> pattern;
  std::vector<std::int64_t> credit(quota.size(), 0);
  for (std::uint64_t p = 0; p < period; ++p) {
    for (std::size_t i = 0; i < quota.size(); ++i) credit[i] += static_cast<std::int64_t>(quota[i]);
    const auto next =
        static_cast<std::size_t>(std::max_element(credit.begin(), credit.end()) - credit.begin());
    credit[next] -= static_cast<std::int64_t>(period);
    pattern.push_back(static_cast<int>(next));
  }
  return pattern;
}

}  // namespace

Mixture::Mixture(std::vector<PackedDataset> datasets, std::vector<double> weights, std::uint64_t seed)
    : datasets_(std::move(datasets)) {
  NMOE_CHECK(!datasets_.empty(), config, "there is no data: add a [data.<name>] section with tokens=");
  NMOE_CHECK(weights.size() == datasets_.size() && datasets_.size() < period, internal,
             "{} weights for {} data sets", weights.size(), datasets_.size());
  std::size_t num_zero = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    NMOE_CHECK(std::isfinite(weights[i]) && weights[i] >= 0.0, config,
               "data.{}.weight is {}; it must be a number >= 0", datasets_[i].name(), weights[i]);
    NMOE_CHECK(datasets_[i].seq_length() == seq_length(), internal, "sequence lengths differ");
    num_zero += weights[i] == 0.0;
  }
  NMOE_CHECK(num_zero == 0 || num_zero == weights.size(), config,
             "{} of {} data sets have a weight; give one to all of them or to none",
             weights.size() - num_zero, weights.size());
  first_block_ = {0};
  for (const PackedDataset& d : datasets_) first_block_.push_back(first_block_.back() + d.num_blocks());
  if (num_zero > 0) {
    orders_.emplace_back(seed, static_cast<std::uint64_t>(num_blocks()));
    return;
  }
  for (std::size_t i = 0; i < datasets_.size(); ++i)
    orders_.emplace_back(seed, static_cast<std::uint64_t>(datasets_[i].num_blocks()),
                         static_cast<std::uint32_t>(i) + 1);
  pattern_ = pattern_of(quotas_of(weights, period), period);
  before_.assign(datasets_.size(), 0);
  for (std::uint64_t p = 0; p < period; ++p) {
    for (std::size_t i = 0; i < datasets_.size(); ++i)
      before_.push_back(before_[p * datasets_.size() + i] + (pattern_[p] == static_cast<int>(i) ? 1 : 0));
  }
}

std::int64_t Mixture::num_blocks() const {
  return first_block_.back();
}

std::vector<std::uint64_t> Mixture::cursors(std::uint64_t position) const {
  const std::size_t n = datasets_.size();
  std::vector<std::uint64_t> cursor(n, 0);
  if (pattern_.empty()) {
    // Whole epochs are known in closed form; the current one is counted.
    const std::uint64_t total = orders_.front().size(), epoch = position / total;
    for (std::size_t i = 0; i < n; ++i)
      cursor[i] = epoch * static_cast<std::uint64_t>(datasets_[i].num_blocks());
    for (std::uint64_t p = epoch * total; p < position; ++p)
      ++cursor[static_cast<std::size_t>(source(p).dataset)];
    return cursor;
  }
  for (std::size_t i = 0; i < n; ++i)
    cursor[i] = position / period * before_[period * n + i] + before_[position % period * n + i];
  return cursor;
}

Mixture::Source Mixture::source(std::uint64_t position) const {
  if (pattern_.empty()) {
    const auto block = static_cast<std::int64_t>(orders_.front().at(position));
    const auto next = std::upper_bound(first_block_.begin(), first_block_.end(), block);
    const auto dataset = static_cast<int>(next - first_block_.begin()) - 1;
    return {dataset, block - first_block_[static_cast<std::size_t>(dataset)]};
  }
  const int dataset = pattern_[position % period];
  const auto i = static_cast<std::size_t>(dataset), n = datasets_.size();
  const std::uint64_t count =
      position / period * before_[period * n + i] + before_[position % period * n + i];
  return {dataset, static_cast<std::int64_t>(orders_[i].at(count))};
}

Sample Mixture::sample(std::uint64_t position) const {
  const Source s = source(position);
  return datasets_[static_cast<std::size_t>(s.dataset)].block(s.block);
}

std::string Mixture::to_string() const {
  std::string text;
  for (std::size_t i = 0; i < datasets_.size(); ++i) {
    const PackedDataset& d = datasets_[i];
    const double share = pattern_.empty()
                             ? static_cast<double>(d.num_blocks()) / static_cast<double>(num_blocks())
                             : static_cast<double>(before_[period * datasets_.size() + i]) / period;
    text +=
        fmt::format("{}{}: {} documents, {} tokens, {} sequences, {:.1f} % of the mixture", i > 0 ? "\n" : "",
                    d.name(), d.num_docs(), d.num_tokens(), d.num_blocks(), 100.0 * share);
  }
  return text;
}

Mixture make_mixture(const std::vector<DataSetConfig>& configs, std::int64_t seq_length, bool eos_label,
                     std::uint64_t seed, const Packing& packing, io::SealCheck seal) {
  std::map<std::string, std::shared_ptr<const TokenFile>> files;
  std::vector<PackedDataset> datasets;
  std::vector<double> weights;
  for (const DataSetConfig& config : configs) {
    NMOE_CHECK(!config.tokens.empty(), config, "data.{}.tokens is missing", config.name);
    auto& file = files[config.tokens];
    if (!file) file = std::make_shared<const TokenFile>(config.tokens, seal);
    const TokenFileInfo &first = files.at(configs.front().tokens)->info(), &info = file->info();
    NMOE_CHECK(info.tokenizer_sha256 == first.tokenizer_sha256, bad_data,
               "{} and {} were made with different tokenizers ({} and {})", configs.front().tokens,
               config.tokens, first.tokenizer_sha256, info.tokenizer_sha256);
    datasets.emplace_back(config, file, seq_length, eos_label, packing);
    weights.push_back(config.weight);
  }
  return Mixture(std::move(datasets), std::move(weights), seed);
}

}  // namespace nmoe::data
