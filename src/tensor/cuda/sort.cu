// The sorts that kernels need, by CUB. Nothing else includes CUB: its headers cost more compile time than all
// kernels of a file.
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_segmented_sort.cuh>
#include <device.cuh>
#include <limits>

namespace nmoe::device {

namespace {

/// `count` as the 32 bits in which CUB counted before it took any integer type.
int counted(std::int64_t count, const char* what) {
  constexpr std::int64_t most = std::numeric_limits<int>::max();
  NMOE_CHECK(count <= most, internal, "{} {} in one sort, of {} at most", count, what, most);
  return static_cast<int>(count);
}

}  // namespace

void sort_pairs(void* temporary, std::size_t& temporary_bytes, const std::int32_t* keys,
                std::int32_t* sorted_keys, const std::int32_t* values, std::int32_t* sorted_values,
                std::int64_t count, Stream& stream) {
  check(cub::DeviceRadixSort::SortPairs(temporary, temporary_bytes, keys, sorted_keys, values, sorted_values,
                                        counted(count, "pairs"), 0, 32, native(stream)),
        "radix sort");
}

void sort_segments(void* temporary, std::size_t& temporary_bytes, const std::uint32_t* keys,
                   std::uint32_t* sorted_keys, const std::uint16_t* values, std::uint16_t* sorted_values,
                   const std::int64_t* begins, std::int64_t segments, std::int64_t count, Stream& stream) {
  check(cub::DeviceSegmentedSort::SortPairs(
            temporary, temporary_bytes, keys, sorted_keys, values, sorted_values, counted(count, "pairs"),
            counted(segments, "segments"), begins, begins + 1, native(stream)),
        "segmented sort");
}

}  // namespace nmoe::device
