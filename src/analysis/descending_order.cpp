// Sorts the responses of one neuron: a radix sort over scaled values, and one over whole keys as a fallback.
#include "neuronmoe/analysis/descending_order.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "neuronmoe/base/error.hpp"

namespace nmoe::analysis {
namespace {

// A 32-bit item is (scaled value << index bits | sample).
constexpr unsigned max_index_bits = 16, max_scale_bits = 20, digit_bits = 10;

/// Counts to first positions.
void accumulate(std::span<std::uint32_t> counts) {
  std::uint32_t before = 0;
  for (auto& count : counts) before += std::exchange(count, before);
}

/// Orders like the float, ascending, as a signed integer.
std::int32_t signed_key(float value) {
  const auto bits = std::bit_cast<std::int32_t>(value);
  return bits ^ ((bits >> 31) & 0x7FFFFFFF);
}
float value_of_signed(std::int32_t key) {
  return std::bit_cast<float>(key ^ ((key >> 31) & 0x7FFFFFFF));
}

/// Smaller key = larger value; −0 is made +0 first, so that the two tie.
std::uint32_t descending_key(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value == 0.0F ? 0.0F : value);
  const std::uint32_t ascending = (bits >> 31) != 0U ? ~bits : bits | 0x80000000U;
  return ~ascending;
}

/// items[i] = (min(max((top − x)·scale, 0), limit) truncated) << shift | i. Apart from everything else, and
/// with 32-bit counts, so that it becomes vector code.
void scale_items(std::uint32_t* items, std::span<const float> responses, float top, float scale, float limit,
                 unsigned shift) {
  const auto n = static_cast<std::uint32_t>(responses.size());
  for (std::uint32_t i = 0; i < n; ++i) {
    float at = (top - responses[i]) * scale;
    at = at > 0.0F ? at : 0.0F;
    at = at < limit ? at : limit;
    items[i] = static_cast<std::uint32_t>(static_cast<std::int32_t>(at)) << shift | i;
  }
}

}  // namespace

DescendingOrder::DescendingOrder(std::size_t num_samples)
    : index_bits_(static_cast<unsigned>(std::bit_width(num_samples > 0 ? num_samples - 1 : 0))),
      items_(num_samples),
      buffer_(num_samples),
      order_(num_samples),
      ties_(num_samples) {}

/// In integers, where minimum and maximum do not depend on NaN rules and the loop becomes vector code.
DescendingOrder::Range DescendingOrder::range_of(std::span<const float> responses) {
  std::int32_t low = std::numeric_limits<std::int32_t>::max(),
               high = std::numeric_limits<std::int32_t>::min();
  std::uint32_t largest = 0;  // magnitude; NaN lies above infinity
  for (const float response : responses) {
    const std::int32_t key = signed_key(response);
    low = std::min(low, key);
    high = std::max(high, key);
    largest = std::max(largest, std::bit_cast<std::uint32_t>(response) & 0x7FFFFFFFU);
  }
  if (largest > 0x7F800000U)
    for (std::size_t i = 0; i < responses.size(); ++i)
      NMOE_CHECK(!std::isnan(responses[i]), bad_data,
                 "response of sample {} is NaN; average precision is undefined", i);
  return {value_of_signed(low), value_of_signed(high)};
}

void DescendingOrder::sort(std::span<const float> responses) {
  NMOE_CHECK(responses.size() == order_.size(), internal, "{} responses, made for {} samples",
             responses.size(), order_.size());
  num_ties_ = 0;
  responses_ = responses;
  if (responses.empty()) return;
  const Range range = range_of(responses);
  if (range.min == range.max) {
    std::iota(order_.begin(), order_.end(), 0U);
    num_ties_ = responses.size() - 1;
    std::iota(ties_.begin(), ties_.end(), 1U);
    return;
  }
  if (!sort_by_scale(range)) sort_by_key();
}

/// Where nearly all responses lie, guessed from a few, so that outliers do not crowd the others together.
DescendingOrder::Range DescendingOrder::bulk_of(std::span<const float> responses, Range range) {
  constexpr std::size_t num_probes = 32, extremes = 3;
  if (responses.size() < 4 * num_probes) return range;
  std::array<float, extremes + 1> lowest{}, highest{};  // in order, by insertion without branches
  lowest.fill(range.max);
  highest.fill(range.min);
  for (std::size_t k = 0; k < num_probes; ++k) {
    float up = responses[(2 * k + 1) * responses.size() / (2 * num_probes)], down = up;
    for (std::size_t e = 0; e <= extremes; ++e) {
      const float low = lowest[e], high = highest[e];
      lowest[e] = std::min(low, up);
      up = std::max(low, up);
      highest[e] = std::max(high, down);
      down = std::min(high, down);
    }
  }
  const float low = lowest[extremes], high = highest[extremes];
  if (low == high) return range;
  const float margin = 4.0F * (high - low);
  return {std::max(range.min, low - margin), std::min(range.max, high + margin)};
}

/// min((max − x)·scale, limit) truncated is monotone in x, because rounding is; so it may decide the order of
/// whatever it tells apart.
bool DescendingOrder::sort_by_scale(Range range) {
  if (index_bits_ > max_index_bits) return false;
  if (!std::isfinite(range.max - range.min)) return false;
  range = bulk_of(responses_, range);
  const unsigned scale_bits = std::min(max_scale_bits, 32 - index_bits_);
  const auto limit = static_cast<float>((1U << scale_bits) - 1U);
  const float scale = limit / (range.max - range.min);
  if (!std::isfinite(scale)) return false;
  scale_items(items_.data(), responses_, range.max, scale, limit, index_bits_);
  constexpr std::uint32_t mask = (1U << digit_bits) - 1U;
  const unsigned low = index_bits_, high = index_bits_ + digit_bits;
  std::array<std::uint32_t, mask + 1> low_counts{}, high_counts{};
  for (const std::uint32_t item : items_) {
    ++low_counts[(item >> low) & mask];
    ++high_counts[item >> high];
  }
  accumulate(low_counts);
  accumulate(std::span(high_counts).first((std::size_t{1} << scale_bits) >> digit_bits));
  for (const std::uint32_t item : items_) buffer_[low_counts[(item >> low) & mask]++] = item;
  const std::uint32_t sample = (std::uint32_t{1} << index_bits_) - 1U;
  for (const std::uint32_t item : buffer_) order_[high_counts[item >> high]++] = item & sample;
  return settle();
}

/// Moves samples that stand behind a smaller response up to their place, and notes who ties with the one
/// above; gives up after as many moves as there are samples. The order is right already nearly everywhere.
bool DescendingOrder::settle() {
  const std::size_t n = order_.size();
  std::uint32_t* const ties = ties_.data();
  std::size_t moves = 0, num_ties = 0;
  float before = std::numeric_limits<float>::infinity();
  for (std::size_t p = 0; p < n; ++p) {
    const std::uint32_t sample = order_[p];
    const float response = responses_[sample];
    if (response <= before) {
      ties[num_ties] = static_cast<std::uint32_t>(p);  // no branch: ties come unforeseen
      num_ties += response < before ? 0U : 1U;
      before = response;
      continue;
    }
    std::size_t at = p;
    for (; at > 0 && value(at - 1) < response; --at) order_[at] = order_[at - 1];
    order_[at] = sample;
    if ((moves += p - at) > n) return false;
    const std::size_t more = at > 0 && value(at - 1) == response ? 1 : 0;
    std::size_t k = num_ties;  // ties below stand one rank lower now
    for (; k > 0 && ties[k - 1] > at; --k) ties[k - 1 + more] = ties[k - 1] + 1;
    if (more != 0) ties[k] = static_cast<std::uint32_t>(at);
    num_ties += more;
  }
  num_ties_ = num_ties;
  return true;
}

/// Least significant digit radix sort, three passes of 11 bits over (key << 32 | sample).
void DescendingOrder::sort_by_key() {
  const std::size_t n = responses_.size();
  keys_.resize(n);
  key_buffer_.resize(n);
  std::array<std::array<std::uint32_t, 2048>, 3> counts{};
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint32_t key = descending_key(responses_[i]);
    keys_[i] = (std::uint64_t{key} << 32) | i;
    for (unsigned d = 0; d < 3; ++d) ++counts[d][(key >> (11 * d)) & 2047U];
  }
  for (unsigned d = 0; d < 3; ++d) {
    accumulate(counts[d]);
    for (const std::uint64_t key : keys_) key_buffer_[counts[d][(key >> (32 + 11 * d)) & 2047U]++] = key;
    keys_.swap(key_buffer_);
  }
  for (std::size_t p = 0; p < n; ++p) {
    order_[p] = static_cast<std::uint32_t>(keys_[p]);
    if (p > 0 && value(p) == value(p - 1)) ties_[num_ties_++] = static_cast<std::uint32_t>(p);
  }
}

void DescendingOrder::group_ends(std::vector<std::uint32_t>& ends) const {
  ends.resize(order_.size());
  std::iota(ends.begin(), ends.end(), 1U);
  std::uint32_t end = 0, next = 0;
  for (std::size_t k = num_ties_; k-- > 0;) {
    const std::uint32_t rank = ties_[k];
    end = rank + 1 == next ? end : rank + 1;
    ends[rank - 1] = end;
    next = rank;
  }
}

}  // namespace nmoe::analysis
