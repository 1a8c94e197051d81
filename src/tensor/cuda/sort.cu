// The sorts that kernels need, by CUB. Nothing else includes CUB: its headers cost more compile time than all
// kernels of a file.
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_segmented_sort.cuh>
#include <device.cuh>

namespace nmoe::device {

void sort_pairs(void* temporary, std::size_t& temporary_bytes, const std::int32_t* keys,
                std::int32_t* sorted_keys, const std::int32_t* values, std::int32_t* sorted_values,
                std::int64_t count, Stream& stream) {
  check(cub::DeviceRadixSort::SortPairs(temporary, temporary_bytes, keys, sorted_keys, values, sorted_values,
                                        count, 0, 32, native(stream)),
        "radix sort");
}

void sort_segments(void* temporary, std::size_t& temporary_bytes, const std::uint32_t* keys,
                   std::uint32_t* sorted_keys, const std::uint16_t* values, std::uint16_t* sorted_values,
                   const std::int64_t* begins, std::int64_t segments, std::int64_t count, Stream& stream) {
  check(
      cub::DeviceSegmentedSort::SortPairs(temporary, temporary_bytes, keys, sorted_keys, values,
                                          sorted_values, count, segments, begins, begins + 1, native(stream)),
      "segmented sort");
}

}  // namespace nmoe::device
