// Sequences put together into a micro-batch.
#include "neuronmoe/model/batch.hpp"

#include <algorithm>

namespace nmoe::model {

std::int64_t count_old(const Batch& batch) {
  if (!batch.old_mask) return 0;
  const auto* m = batch.old_mask.data<std::uint8_t>();
  return std::count(m, m + batch.old_mask.num_elements(), std::uint8_t{1});
}

void BatchBuilder::clear() {
  ids_.clear();
  labels_.clear();
  row_sample_.clear();
  old_mask_.clear();
  offsets_.assign(1, 0);
  prefixes_.clear();
}

void BatchBuilder::add(std::span<const std::int32_t> ids, std::span<const std::int32_t> labels,
                       std::span<const std::uint8_t> old_mask, std::int32_t sample) {
  NMOE_CHECK(labels.empty() || labels.size() == ids.size(), internal, "{} ids but {} labels", ids.size(),
             labels.size());
  NMOE_CHECK(old_mask.empty() || old_mask.size() == ids.size(), internal, "{} ids but {} mask entries",
             ids.size(), old_mask.size());
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  if (labels.empty()) {
    labels_.resize(ids_.size(), -100);
  } else {
    labels_.insert(labels_.end(), labels.begin(), labels.end());
  }
  if (old_mask.empty()) {
    old_mask_.resize(ids_.size(), 0);
  } else {
    old_mask_.insert(old_mask_.end(), old_mask.begin(), old_mask.end());
  }
  row_sample_.resize(ids_.size(), sample);
  offsets_.push_back(static_cast<std::int64_t>(ids_.size()));
}

void BatchBuilder::add_continuation(std::int64_t prefix, std::span<const std::int32_t> ids) {
  add(ids, {}, {});
  prefixes_.push_back(prefix);
}

Batch BatchBuilder::batch() const {
  const Shape tokens{num_tokens()};
  Batch batch;
  batch.ids = ConstTensorView(ids_.data(), DType::int32, tokens);
  batch.labels = ConstTensorView(labels_.data(), DType::int32, tokens);
  batch.old_mask = ConstTensorView(old_mask_.data(), DType::uint8, tokens);
  batch.row_sample = ConstTensorView(row_sample_.data(), DType::int32, tokens);
  batch.offsets = offsets_;
  batch.prefixes = prefixes_;
  return batch;
}

}  // namespace nmoe::model
