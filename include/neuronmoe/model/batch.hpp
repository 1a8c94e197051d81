#pragma once
// A micro-batch as the decoder takes it: packed sequences, no padding. Built by train, analysis and
// evaluation.
#include <cstdint>
#include <span>
#include <vector>

#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::model {

/// Views stay owned by the caller during the call. T = offsets.back() tokens in B = offsets.size() − 1
/// sequences; T = 0 (offsets = {0}) is a rank without work, which still joins every collective of an
/// expert-parallel forward.
struct Batch {
  ConstTensorView ids;         ///< [T] int32
  ConstTensorView labels;      ///< [T] int32, < 0 = ignored; or {}
  ConstTensorView old_mask;    ///< [T] uint8, 1 = token of an old language; or {}
  ConstTensorView row_sample;  ///< [T] int32, for observers; or {}
  std::vector<std::int64_t> offsets{0};
  /// Empty, or for each of the last prefixes.size() sequences the number of an earlier one, not among them,
  /// which its tokens see whole before their own: positions go on where that ends. For passes without
  /// backward.
  std::vector<std::int64_t> prefixes;

  std::int64_t num_tokens() const { return offsets.back(); }
};

/// Returns the number of tokens of old languages. @pre the batch is in host memory
std::int64_t count_old(const Batch& batch);

/// Owns the memory of a Batch that is put together sequence by sequence.
class BatchBuilder {
 public:
  void clear();
  /// Appends one sequence. `labels` and `old_mask` may be empty; `sample` is its row_sample.
  void add(std::span<const std::int32_t> ids, std::span<const std::int32_t> labels,
           std::span<const std::uint8_t> old_mask, std::int32_t sample = 0);
  /// Appends a sequence that continues an earlier one (Batch::prefixes): from the first of them on, all do.
  void add_continuation(std::int64_t prefix, std::span<const std::int32_t> ids);
  /// Views into this builder; valid until the next add or clear.
  Batch batch() const;
  std::int64_t num_tokens() const { return static_cast<std::int64_t>(ids_.size()); }

 private:
  std::vector<std::int32_t> ids_, labels_, row_sample_;
  std::vector<std::uint8_t> old_mask_;
  std::vector<std::int64_t> offsets_{0}, prefixes_;
};

}  // namespace nmoe::model
