// Rows of responses ranked for every language: one segmented sort of (key, class) pairs, then a warp per row
// and language walks the sorted row 32 ranks at a time, counting with ballots. The sort moves the data a few
// times; the walk is bound by its instructions.
#include "device/elements.cuh"
#include "launch.hpp"
#include "neuronmoe/ops/backends.hpp"
#include "neuronmoe/ops/ranking.hpp"
#include "scratch.hpp"

namespace nmoe::ops::cuda {

using namespace device;

namespace {

constexpr int threads = 256;
constexpr int lanes_of_sum = 8;  // see rank_rows
constexpr std::uint8_t negative = 0, positive = 1, absent = 2;

/// Smaller key = larger value; −0 is made +0 first, so that the two tie.
__device__ std::uint32_t descending_key(float value) {
  const std::uint32_t bits = __float_as_uint(value == 0.0F ? 0.0F : value);
  return (bits >> 31) != 0U ? bits : ~(bits | 0x80000000U);
}
__device__ float value_of_key(std::uint32_t key) {
  return __uint_as_float((key >> 31) != 0U ? key : ~key & 0x7FFFFFFFU);
}

/// One block per row: what is sorted, where the row begins, and its first NaN.
__global__ __launch_bounds__(threads) void ranking_keys_kernel(std::uint32_t* keys, std::uint16_t* classes,
                                                               std::int64_t* begins, std::int32_t* first_nan,
                                                               const float* responses,
                                                               const std::int32_t* class_of_sample,
                                                               std::int32_t samples) {
  const std::int64_t row = blockIdx.x, at = row * samples;
  std::int32_t nan = samples;
  for (std::int32_t s = static_cast<std::int32_t>(threadIdx.x); s < samples; s += threads) {
    const float value = responses[at + s];
    if (value != value && s < nan) nan = s;
    keys[at + s] = descending_key(value);
    classes[at + s] = static_cast<std::uint16_t>(class_of_sample[s]);
  }
  const std::int32_t first = -fold_block<threads>(-nan, Maximum{});
  if (threadIdx.x != 0) return;
  first_nan[row] = first;
  begins[row] = at;
  if (row + 1 == gridDim.x) begins[row + 1] = at + samples;
}

struct Walk {
  const std::uint32_t* keys;
  const std::uint16_t* classes;
  const std::uint8_t* roles;
  const std::int32_t* wanted;
  const std::int64_t* positives_begin;
  std::uint32_t* participants;  // [N, all positives]
  float* statistics;
  std::int32_t samples, num_classes, languages;
};

/// Set bits up to and including `lane`.
__device__ int count_to(unsigned bits, unsigned lane) {
  return __popc(bits & (0xFFFFFFFFU >> (31U - lane)));
}

/// Walks the ranks of one row for one language. ends[i] becomes the number of participants down to the end of
/// the tie group whose last positive is the i-th, and stays 0 for positives that are not their group's last.
__device__ void walk_ranks(const Walk& w, std::int64_t row, int language, std::uint32_t* ends,
                           float* statistics) {
  const unsigned lane = threadIdx.x % warp_size;
  const std::uint32_t* keys = w.keys + row * w.samples;
  const std::uint16_t* classes = w.classes + row * w.samples;
  const std::uint8_t* roles = w.roles + static_cast<std::int64_t>(language) * w.num_classes;
  const std::int32_t* wanted = w.wanted + language * num_order_statistics;
  int positives = 0, negatives = 0, positives_at_end = 0;  // above this step's ranks; at the last group's end
  for (std::int32_t first = 0; first < w.samples; first += static_cast<std::int32_t>(warp_size)) {
    const std::int32_t rank = first + static_cast<std::int32_t>(lane);
    const bool inside = rank < w.samples;
    const std::uint32_t key = inside ? keys[rank] : 0U;
    const std::uint8_t role = inside ? roles[classes[rank]] : absent;
    const bool last_of_ties = inside && (rank + 1 == w.samples || keys[rank + 1] != key);
    const unsigned on = __ballot_sync(all_lanes, role == positive),
                   off = __ballot_sync(all_lanes, role == negative),
                   group_ends = __ballot_sync(all_lanes, last_of_ties);
    const int positives_here = positives + count_to(on, lane),
              negatives_here = negatives + count_to(off, lane);
    const unsigned ends_above = group_ends & ((1U << lane) - 1U);
    const int before =
        ends_above != 0U
            ? positives + count_to(on, 31U - static_cast<unsigned>(__clz(static_cast<int>(ends_above))))
            : positives_at_end;
    if (last_of_ties && positives_here > before)
      ends[positives_here - 1] = static_cast<std::uint32_t>(positives_here + negatives_here);
    for (int k = 0; k < num_order_statistics; ++k) {
      const bool of_positives = k < num_positive_statistics;
      if (role == (of_positives ? positive : negative) &&
          wanted[k] == (of_positives ? positives_here : negatives_here) - 1)
        statistics[k] = value_of_key(key);
    }
    if (group_ends != 0U)
      positives_at_end =
          positives + count_to(on, 31U - static_cast<unsigned>(__clz(static_cast<int>(group_ends))));
    positives += __popc(on);
    negatives += __popc(off);
  }
}

/// One block per row, one warp per language at a time.
__global__ __launch_bounds__(threads) void walk_ranks_kernel(Walk w) {
  const auto lane = static_cast<std::int64_t>(threadIdx.x % warp_size);
  const std::int64_t row = blockIdx.x;
  for (int language = static_cast<int>(threadIdx.x / warp_size); language < w.languages;
       language += threads / static_cast<int>(warp_size)) {
    const std::int64_t begin = w.positives_begin[language], end = w.positives_begin[language + 1];
    std::uint32_t* ends = w.participants + row * w.positives_begin[w.languages];
    for (std::int64_t i = begin + lane; i < end; i += warp_size) ends[i] = 0;
    __syncwarp();
    walk_ranks(w, row, language, ends + begin,
               w.statistics + (row * w.languages + language) * num_order_statistics);
  }
}

/// Eight threads per row and language add the precisions at its positives.
__global__ __launch_bounds__(threads) void average_precision_kernel(double* ap,
                                                                    const std::uint32_t* participants,
                                                                    const std::int64_t* positives_begin,
                                                                    std::int32_t languages,
                                                                    std::int64_t count) {
  const std::int64_t at = (std::int64_t{blockIdx.x} * threads + threadIdx.x) / lanes_of_sum;
  const auto lane = static_cast<std::int32_t>(threadIdx.x % lanes_of_sum);
  const bool inside = at < count;
  const std::int64_t row = inside ? at / languages : 0, language = inside ? at % languages : 0;
  const std::int64_t begin = positives_begin[language];
  const auto positives = static_cast<std::int32_t>(positives_begin[language + 1] - begin);
  const std::uint32_t* ends = participants + row * positives_begin[languages] + begin;
  double sum = 0.0, precision = 0.0;
  std::int32_t group_last = -1;  // last positive of the group that `precision` belongs to
  for (std::int32_t i = lane; i < positives; i += lanes_of_sum) {
    if (i > group_last) {
      for (group_last = i; ends[group_last] == 0;) ++group_last;
      precision = static_cast<double>(group_last + 1) / static_cast<double>(ends[group_last]);
    }
    sum += precision;
  }
  for (int distance = lanes_of_sum / 2; distance > 0; distance /= 2)
    sum += __shfl_xor_sync(all_lanes, sum, distance);
  if (inside && lane == 0) ap[at] = positives > 0 ? sum / static_cast<double>(positives) : 0.0;
}

struct OffSums {
  double* sums;
  const float* responses;
  const std::int32_t *class_of_sample, *sample_by_class, *class_begin;
  const std::uint8_t* roles;
  std::int32_t samples, num_classes, languages;

  /// This thread's share of the sum over a class (disjoint) or over a language's negatives.
  __device__ double partial(bool disjoint, const float* row, std::int32_t group, std::int32_t lane) const {
    double sum = 0.0;
    if (disjoint) {
      for (std::int32_t i = class_begin[group] + lane; i < class_begin[group + 1]; i += lanes_of_sum)
        sum += static_cast<double>(row[sample_by_class[i]]);
    } else {
      const std::uint8_t* role = roles + std::int64_t{group} * num_classes;
      for (std::int32_t s = lane; s < samples; s += lanes_of_sum)
        sum += role[class_of_sample[s]] == negative ? static_cast<double>(row[s]) : 0.0;
    }
    return sum;
  }
};

/// One block per row; eight threads per class or language at a time. Dynamic shared memory: the sums of the
/// classes.
template <bool disjoint>
__global__ __launch_bounds__(threads) void off_sums_kernel(OffSums o) {
  auto* class_sums = reinterpret_cast<double*>(dynamic_shared_memory());
  const std::int64_t row = blockIdx.x;
  const float* responses = o.responses + row * o.samples;
  const auto lane = static_cast<std::int32_t>(threadIdx.x % lanes_of_sum);
  const std::int32_t groups = disjoint ? o.num_classes : o.languages;
  double* sums = disjoint ? class_sums : o.sums + row * o.languages;
  for (std::int32_t first = 0; first < groups; first += threads / lanes_of_sum) {
    const std::int32_t group = first + static_cast<std::int32_t>(threadIdx.x / lanes_of_sum);
    double sum = group < groups ? o.partial(disjoint, responses, group, lane) : 0.0;
    for (int distance = lanes_of_sum / 2; distance > 0; distance /= 2)
      sum += __shfl_xor_sync(all_lanes, sum, distance);
    if (lane == 0 && group < groups) sums[group] = sum;
  }
  if constexpr (disjoint) {
    __syncthreads();
    for (std::int32_t g = static_cast<std::int32_t>(threadIdx.x); g < o.languages; g += threads) {
      double sum = 0.0;
      for (std::int32_t c = 0; c < o.num_classes; ++c)
        if (o.roles[std::int64_t{g} * o.num_classes + c] == negative) sum += class_sums[c];
      o.sums[row * o.languages + g] = sum;
    }
  }
}

void sum_negatives(const RankedRows& results, ConstTensorView responses, const RankingTables& tables,
                   Stream& stream) {
  const OffSums sums{results.of(RankedValue::off_sum),
                     responses.data<float>(),
                     tables.class_of_sample.data<std::int32_t>(),
                     tables.sample_by_class.data<std::int32_t>(),
                     tables.class_begin.data<std::int32_t>(),
                     tables.roles.data<std::uint8_t>(),
                     static_cast<std::int32_t>(responses.dim(1)),
                     static_cast<std::int32_t>(tables.roles.dim(1)),
                     static_cast<std::int32_t>(tables.roles.dim(0))};
  const unsigned blocks = grid_size(responses.dim(0));
  if (!tables.disjoint) return launch(off_sums_kernel<false>, blocks, threads, 0, stream, sums);
  const std::size_t bytes = static_cast<std::size_t>(tables.roles.dim(1)) * sizeof(double);
  NMOE_CHECK(bytes <= 200 * 1024, config,
             "rank_rows: {} classes of samples are too many for a GPU; use --device cpu",
             tables.roles.dim(1));
  launch(off_sums_kernel<true>, blocks, threads, bytes, stream, sums);
}

}  // namespace

void rank_rows(const RankedRows& results, ConstTensorView responses, const RankingTables& tables,
               Stream& stream) {
  const std::int64_t rows = responses.dim(0), samples = responses.dim(1), count = rows * samples;
  const std::int64_t languages = tables.roles.dim(0);
  if (rows == 0 || languages == 0) return;
  NMOE_CHECK(samples < std::int64_t{1} << 31 && tables.roles.dim(1) <= 65536, config,
             "rank_rows: {} samples in {} classes are too many for a GPU; use --device cpu", samples,
             tables.roles.dim(1));
  auto* keys = scratch<std::uint32_t>(stream, Scratch::keys, 2 * count);
  auto* classes = scratch<std::uint16_t>(stream, Scratch::classes, 2 * count);
  auto* begins = scratch<std::int64_t>(stream, Scratch::segments, rows + 1);
  auto* participants = scratch<std::uint32_t>(stream, Scratch::participants, rows * tables.num_positives);
  launch(ranking_keys_kernel, grid_size(rows), threads, 0, stream, keys, classes, begins,
         results.first_nan.data<std::int32_t>(), responses.data<float>(),
         tables.class_of_sample.data<std::int32_t>(), static_cast<std::int32_t>(samples));
  std::size_t bytes = 0;
  sort_segments(nullptr, bytes, keys, keys + count, classes, classes + count, begins, rows, count, stream);
  void* temporary = scratch_bytes(stream, Scratch::sort, static_cast<std::int64_t>(bytes));
  sort_segments(temporary, bytes, keys, keys + count, classes, classes + count, begins, rows, count, stream);
  launch(walk_ranks_kernel, grid_size(rows), threads, 0, stream,
         Walk{keys + count, classes + count, tables.roles.data<std::uint8_t>(),
              tables.wanted.data<std::int32_t>(), tables.positives_begin.data<std::int64_t>(), participants,
              results.order_statistics.data<float>(), static_cast<std::int32_t>(samples),
              static_cast<std::int32_t>(tables.roles.dim(1)), static_cast<std::int32_t>(languages)});
  launch(average_precision_kernel, grid_size(blocks_for(rows * languages, threads / lanes_of_sum)), threads,
         0, stream, results.of(RankedValue::ap), static_cast<const std::uint32_t*>(participants),
         tables.positives_begin.data<std::int64_t>(), static_cast<std::int32_t>(languages), rows * languages);
  sum_negatives(results, responses, tables, stream);
}

}  // namespace nmoe::ops::cuda
