#pragma once
// Copies between buffers of ranks on one node. CMake links x86/ or no_x86/ behind it.
#include <cstddef>

namespace nmoe::comm::detail {

/// From here on a copy leaves out the caches: what is written is not read first, which saves a third of the
/// memory traffic. Below, the target is likely to be read again before it would have left the cache.
inline constexpr std::size_t large_copy_bytes = std::size_t{4} << 20;

/// memcpy. The two do not overlap, or are the same.
void copy_bytes(void* to, const void* from, std::size_t num_bytes);

}  // namespace nmoe::comm::detail
