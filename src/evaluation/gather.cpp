// Gathers records of all ranks in the order of their first number.
#include "gather.hpp"

#include <algorithm>
#include <numeric>

namespace nmoe::evaluation {

std::vector<double> gather_records(comm::Communicator& comm, Stream& stream, const std::vector<double>& mine,
                                   std::size_t width) {
  const auto size = static_cast<std::size_t>(comm.size());
  std::vector<std::int64_t> counts(size), ones(size, 1);
  const std::int64_t count = static_cast<std::int64_t>(mine.size());
  comm.all_gather_v(TensorView(counts.data(), DType::int64, {comm.size()}), ones,
                    ConstTensorView(&count, DType::int64, {1}), stream)
      .wait();
  std::vector<double> gathered(
      static_cast<std::size_t>(std::accumulate(counts.begin(), counts.end(), std::int64_t{0})));
  comm.all_gather_v(TensorView(gathered.data(), DType::float64, {static_cast<std::int64_t>(gathered.size())}),
                    counts, ConstTensorView(mine.data(), DType::float64, {count}), stream)
      .wait();
  std::vector<std::size_t> order(gathered.size() / width);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return gathered[a * width] < gathered[b * width]; });
  std::vector<double> sorted;
  for (const std::size_t i : order)
    sorted.insert(sorted.end(), gathered.begin() + static_cast<std::ptrdiff_t>(i * width),
                  gathered.begin() + static_cast<std::ptrdiff_t>((i + 1) * width));
  return sorted;
}

}  // namespace nmoe::evaluation
