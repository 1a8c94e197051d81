// The plain form of rank_rows: sort a row, walk it once per language. analysis::NeuronScorer is the fast one.
#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <vector>

#include "neuronmoe/ops/backends.hpp"

namespace nmoe::ops::reference {
namespace {

constexpr std::uint8_t positive = 1, absent = 2;

/// Eight partial sums and their tree.
struct EightSums {
  std::array<double, 8> sums{};
  std::int64_t count = 0;
  void add(double value) { sums[static_cast<std::size_t>(count++ % 8)] += value; }
  double total() const {
    return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
  }
};

struct Row {
  const float* responses;
  std::vector<std::int32_t> order;  // samples, largest response first
  const RankingTables& tables;
  std::int64_t samples, classes;

  std::uint8_t role(std::int64_t language, std::int32_t sample) const {
    return tables.roles
        .data<std::uint8_t>()[language * classes + tables.class_of_sample.data<std::int32_t>()[sample]];
  }
};

double average_precision(const Row& row, std::int64_t language) {
  EightSums precisions;
  std::int64_t positives = 0, participants = 0;
  for (std::size_t i = 0; i < row.order.size();) {
    std::size_t end = i;  // responses that are equal enter together
    const std::int64_t before = positives;
    for (; end < row.order.size() && row.responses[row.order[end]] == row.responses[row.order[i]]; ++end) {
      const std::uint8_t role = row.role(language, row.order[end]);
      positives += role == positive ? 1 : 0;
      participants += role != absent ? 1 : 0;
    }
    for (std::int64_t p = before; p < positives; ++p)
      precisions.add(static_cast<double>(positives) / static_cast<double>(participants));
    i = end;
  }
  return positives > 0 ? precisions.total() / static_cast<double>(positives) : 0.0;
}

void order_statistics(float* out, const Row& row, std::int64_t language) {
  const std::int32_t* wanted = row.tables.wanted.data<std::int32_t>() + language * num_order_statistics;
  std::int32_t positives = 0, negatives = 0;
  for (const std::int32_t sample : row.order) {
    const std::uint8_t role = row.role(language, sample);
    if (role == absent) continue;
    const bool is_positive = role == positive;
    const std::int32_t above = is_positive ? positives++ : negatives++;
    for (int k = 0; k < num_order_statistics; ++k)
      if (wanted[k] == above && (k < num_positive_statistics) == is_positive)
        out[k] = row.responses[sample] + 0.0F;
  }
}

double off_sum(const Row& row, std::int64_t language) {
  if (!row.tables.disjoint) {
    EightSums sums;
    for (std::int32_t s = 0; s < row.samples; ++s)
      sums.add(row.role(language, s) == 0 ? static_cast<double>(row.responses[s]) : 0.0);
    return sums.total();
  }
  const auto* begin = row.tables.class_begin.data<std::int32_t>();
  double total = 0.0;
  for (std::int64_t c = 0; c < row.classes; ++c) {
    if (row.tables.roles.data<std::uint8_t>()[language * row.classes + c] != 0) continue;
    EightSums sums;
    for (std::int32_t i = begin[c]; i < begin[c + 1]; ++i)
      sums.add(static_cast<double>(row.responses[row.tables.sample_by_class.data<std::int32_t>()[i]]));
    total += sums.total();
  }
  return total;
}

}  // namespace

void rank_rows(const RankedRows& results, ConstTensorView responses, const RankingTables& tables, Stream&) {
  const std::int64_t rows = responses.dim(0), samples = responses.dim(1), languages = tables.roles.dim(0);
  for (std::int64_t n = 0; n < rows; ++n) {
    Row row{responses.data<float>() + n * samples,
            std::vector<std::int32_t>(static_cast<std::size_t>(samples)), tables, samples,
            tables.roles.dim(1)};
    const auto* nan =
        std::find_if(row.responses, row.responses + samples, [](float x) { return std::isnan(x); });
    results.first_nan.data<std::int32_t>()[n] = static_cast<std::int32_t>(nan - row.responses);
    if (nan != row.responses + samples) continue;
    std::iota(row.order.begin(), row.order.end(), 0);
    std::stable_sort(row.order.begin(), row.order.end(),
                     [&](std::int32_t a, std::int32_t b) { return row.responses[a] > row.responses[b]; });
    for (std::int64_t g = 0; g < languages; ++g) {
      const std::int64_t at = n * languages + g;
      results.of(RankedValue::ap)[at] = average_precision(row, g);
      results.of(RankedValue::off_sum)[at] = off_sum(row, g);
      order_statistics(results.order_statistics.data<float>() + at * num_order_statistics, row, g);
    }
  }
}

}  // namespace nmoe::ops::reference
