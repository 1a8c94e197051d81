#pragma once
// The rows of a batch by sample or by language, as the pooling kernels take them. Used by the observers of
// analyze and specialize, which see the same rows at many sites: groups are made again only when the rows
// change.
#include <cstdint>
#include <span>
#include <vector>

#include "neuronmoe/ops/pooling.hpp"

namespace nmoe::analysis {

/// Rows of equal id form a group, in row order. Holds the last grouping, on the stream's device.
class RowGrouping {
 public:
  enum class Empty { kept, left_out };  ///< ids without rows

  explicit RowGrouping(Stream& stream, Empty empty) : stream_(stream), empty_(empty) {}
  /// Groups rows by ids[t]; rows with an id outside [0, num_ids) belong to no group.
  void group(std::span<const std::int32_t> ids, std::int64_t num_ids);
  /// Returns the groups on the stream's device, valid until the next group().
  ops::RowGroups groups() const;
  std::int64_t num_groups() const { return static_cast<std::int64_t>(id_of_group_.size()); }
  /// Returns the id of each group; sizes(): how many rows it has.
  const std::vector<std::int32_t>& ids() const { return id_of_group_; }
  const std::vector<std::int64_t>& sizes() const { return sizes_; }

 private:
  Stream& stream_;
  Empty empty_;
  bool made_ = false;
  std::vector<std::int32_t> ids_, id_of_group_, table_;  // the table: begins, then rows
  std::int64_t num_ids_ = 0;
  std::vector<std::int64_t> sizes_;
  Tensor on_device_;
};

}  // namespace nmoe::analysis
