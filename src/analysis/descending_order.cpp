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

// Counts to first positions.
template <std::size_t N>
void accumulate(std::array<std::uint32_t, N>& counts) {
  std::uint32_t before = 0;
  for (auto& count : counts) before += std::exchange(count, before);
}

// Orders like the float, ascending, as a signed integer.
std::int32_t signed_key(float value) {
  const auto bits = std::bit_cast<std::int32_t>(value);
  return bits ^ ((bits >> 31) & 0x7FFFFFFF);
}
float value_of_signed(std::int32_t key) {
  return std::bit_cast<float>(key ^ ((key >> 31) & 0x7FFFFFFF));
}

// Smaller key = larger value; −0 is made +0 first, so that the two tie.
std::uint32_t descending_key(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value == 0.0F ? 0.0F : value);
  const std::uint32_t ascending = (bits >> 31) != 0U ? ~bits : bits | 0x80000000U;
  return ~ascending;
}

// items[i] = (min(max((top − x)·scale, 0), limit) truncated) << shift | i. Apart from everything else, and with
// 32-bit counts, so that it becomes vector code.
void scale_items(std::uint32_t* items, const float* responses, std::uint32_t n, float top, float scale,
                 float limit, unsigned shift) {
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
      sorted_(num_samples) {}

// In integers, where minimum and maximum do not depend on NaN rules and the loop becomes vector code.
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
  has_ties_ = false;
  if (responses.empty()) return;
  const Range range = range_of(responses);
  if (range.min == range.max) {
    std::iota(order_.begin(), order_.end(), 0U);
    std::copy(responses.begin(), responses.end(), sorted_.begin());
    has_ties_ = responses.size() > 1;
    return;
  }
  if (!sort_by_scale(responses, range)) sort_by_key(responses);
}

// Where nearly all responses lie, guessed from a few, so that outliers do not crowd the others together.
DescendingOrder::Range DescendingOrder::bulk_of(std::span<const float> responses, Range range) {
  constexpr std::size_t num_probes = 32, extremes = 3;
  if (responses.size() < 4 * num_probes) return range;
  std::array<float, num_probes> probes{};
  for (std::size_t k = 0; k < num_probes; ++k)
    probes[k] = responses[(2 * k + 1) * responses.size() / (2 * num_probes)];
  std::sort(probes.begin(), probes.end());
  const float low = probes[extremes], high = probes[num_probes - 1 - extremes];
  if (low == high) return range;
  const float margin = 4.0F * (high - low);
  return {std::max(range.min, low - margin), std::min(range.max, high + margin)};
}

// min((max − x)·scale, limit) truncated is monotone in x, because rounding is; so it may decide the order of
// whatever it tells apart.
bool DescendingOrder::sort_by_scale(std::span<const float> responses, Range range) {
  if (index_bits_ > max_index_bits) return false;
  if (!std::isfinite(range.max - range.min)) return false;
  range = bulk_of(responses, range);
  const unsigned scale_bits = std::min(max_scale_bits, 32 - index_bits_);
  const auto limit = static_cast<float>((1U << scale_bits) - 1U);
  const float scale = limit / (range.max - range.min);
  if (!std::isfinite(scale)) return false;
  const auto n = static_cast<std::uint32_t>(responses.size());
  scale_items(items_.data(), responses.data(), n, range.max, scale, limit, index_bits_);
  constexpr std::uint32_t mask = (1U << digit_bits) - 1U;
  const unsigned low = index_bits_, high = index_bits_ + digit_bits;
  std::array<std::uint32_t, mask + 1> low_counts{}, high_counts{};
  for (const std::uint32_t item : items_) {
    ++low_counts[(item >> low) & mask];
    ++high_counts[item >> high];
  }
  accumulate(low_counts);
  accumulate(high_counts);
  for (const std::uint32_t item : items_) buffer_[low_counts[(item >> low) & mask]++] = item;
  for (const std::uint32_t item : buffer_) items_[high_counts[item >> high]++] = item;
  return settle(responses, items_.data());
}

// Looks up the responses in the order of the items and inserts those that stand behind a smaller one; gives
// up after as many moves as there are samples.
bool DescendingOrder::settle(std::span<const float> responses, const std::uint32_t* items) {
  const std::size_t n = responses.size();
  const std::uint32_t mask = (std::uint32_t{1} << index_bits_) - 1U;
  std::size_t moves = 0;
  bool ties = false;
  float before = std::numeric_limits<float>::infinity();
  for (std::size_t p = 0; p < n; ++p) {
    const std::uint32_t sample = items[p] & mask;
    const float value = responses[sample];
    std::size_t at = p;
    if (value > before) {
      for (; at > 0 && sorted_[at - 1] < value; --at) {
        sorted_[at] = sorted_[at - 1];
        order_[at] = order_[at - 1];
      }
      if ((moves += p - at) > n) return false;
      ties = ties || (at > 0 && sorted_[at - 1] == value);
    } else {
      ties |= value == before;
      before = value;
    }
    sorted_[at] = value;
    order_[at] = sample;
  }
  has_ties_ = ties;
  return true;
}

// Least significant digit radix sort, three passes of 11 bits over (key << 32 | sample).
void DescendingOrder::sort_by_key(std::span<const float> responses) {
  const std::size_t n = responses.size();
  keys_.resize(n);
  key_buffer_.resize(n);
  std::array<std::array<std::uint32_t, 2048>, 3> counts{};
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint32_t key = descending_key(responses[i]);
    keys_[i] = (std::uint64_t{key} << 32) | i;
    for (unsigned d = 0; d < 3; ++d) ++counts[d][(key >> (11 * d)) & 2047U];
  }
  for (unsigned d = 0; d < 3; ++d) {
    accumulate(counts[d]);
    for (const std::uint64_t key : keys_) key_buffer_[counts[d][(key >> (32 + 11 * d)) & 2047U]++] = key;
    keys_.swap(key_buffer_);
  }
  has_ties_ = false;
  for (std::size_t p = 0; p < n; ++p) {
    order_[p] = static_cast<std::uint32_t>(keys_[p]);
    sorted_[p] = responses[order_[p]];
    has_ties_ = has_ties_ || (p > 0 && sorted_[p] == sorted_[p - 1]);
  }
}

void DescendingOrder::group_ends(std::vector<std::uint32_t>& ends) const {
  const std::size_t n = sorted_.size();
  ends.resize(n);
  if (n == 0) return;
  auto end = static_cast<std::uint32_t>(n);
  ends[n - 1] = end;
  for (std::size_t p = n - 1; p-- > 0;) {
    const std::uint32_t keep = sorted_[p] == sorted_[p + 1] ? ~0U : 0U;  // a mask: ties come unforeseen
    end = (end & keep) | (static_cast<std::uint32_t>(p + 1) & ~keep);
    ends[p] = end;
  }
}

}  // namespace nmoe::analysis
