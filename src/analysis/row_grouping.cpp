// Sorts the rows of a batch into groups of equal id.
#include "neuronmoe/analysis/row_grouping.hpp"

#include <algorithm>

#include "neuronmoe/tensor/device.hpp"

namespace nmoe::analysis {

void RowGrouping::group(std::span<const std::int32_t> ids, std::int64_t num_ids) {
  if (made_ && num_ids == num_ids_ && std::equal(ids.begin(), ids.end(), ids_.begin(), ids_.end())) return;
  made_ = true;
  ids_.assign(ids.begin(), ids.end());
  num_ids_ = num_ids;
  const auto belongs = [&](std::int32_t id) { return id >= 0 && id < num_ids; };
  std::vector<std::int32_t> next(static_cast<std::size_t>(num_ids), 0);
  for (const std::int32_t id : ids)
    if (belongs(id)) ++next[static_cast<std::size_t>(id)];
  table_.assign(1, 0);
  id_of_group_.clear();
  sizes_.clear();
  for (std::size_t id = 0; id < next.size(); ++id) {
    const std::int32_t size = next[id], begin = table_.back();
    next[id] = begin;
    if (size == 0 && empty_ == Empty::left_out) continue;
    id_of_group_.push_back(static_cast<std::int32_t>(id));
    sizes_.push_back(size);
    table_.push_back(begin + size);
  }
  const std::size_t begins = table_.size();
  table_.resize(begins + static_cast<std::size_t>(table_.back()));
  for (std::size_t t = 0; t < ids.size(); ++t)
    if (belongs(ids[t]))
      table_[begins + static_cast<std::size_t>(next[static_cast<std::size_t>(ids[t])]++)] =
          static_cast<std::int32_t>(t);
  if (stream_.device() == Device::cpu) return;
  const auto size = static_cast<std::int64_t>(table_.size());
  if (!on_device_.valid() || on_device_.num_elements() < size)
    on_device_ = Tensor({size}, DType::int32, stream_.device());
  copy(on_device_.view().rows(0, size), ConstTensorView(table_.data(), DType::int32, {size}), stream_);
}

ops::RowGroups RowGrouping::groups() const {
  const auto size = static_cast<std::int64_t>(table_.size()), begins = num_groups() + 1;
  const ConstTensorView table = stream_.device() == Device::cpu
                                    ? ConstTensorView(table_.data(), DType::int32, {size})
                                    : on_device_.view().rows(0, size);
  return {table.rows(begins, size - begins), table.rows(0, begins)};
}

}  // namespace nmoe::analysis
