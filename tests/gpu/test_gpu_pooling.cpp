// Sums over groups of rows on the GPU: the bits of the plain loops; reading back in pieces; and the observers
// of analyze, whose responses come off the GPU with the bits that pooling on the host gives.
#include "neuronmoe/analysis/responses.hpp"
#include "neuronmoe/ops/backends.hpp"
#include "support/on_gpu.hpp"

using namespace nmoe;
using namespace nmoe::test;

namespace {

struct Groups {
  Tensor rows, begins;
  ops::RowGroups views() const { return {rows.view(), begins.view()}; }
};
/// Every row but the first in one of `count` groups, the last group empty; rows in a mixed order.
Groups groups_of(std::int64_t rows, std::int32_t count) {
  std::vector<std::int32_t> order, begins(1, 0);
  for (std::int32_t g = 0; g + 1 < count; ++g) {
    for (std::int64_t t = 1; t < rows; ++t)
      if ((t * 5 + t / 3) % (count - 1) == g) order.push_back(static_cast<std::int32_t>(t));
    begins.push_back(static_cast<std::int32_t>(order.size()));
  }
  begins.push_back(begins.back());
  return {make_tensor<std::int32_t>(order, {static_cast<std::int64_t>(order.size())}),
          make_tensor<std::int32_t>(begins, {count + 1})};
}

struct Size {
  std::int64_t rows, width;
};
const std::vector<Size> sizes = {{0, 8}, {1, 1}, {3, 16}, {40, 13}, {70, 131}, {150, 64}, {5, 2056}};

Tensor integers(Shape shape) {
  Tensor result(shape, DType::int64);
  for (std::int64_t i = 0; i < result.num_elements(); ++i) result.data<std::int64_t>()[i] = i % 7;
  return result;
}

}  // namespace

BOOST_AUTO_TEST_CASE(groups_have_the_bits_of_the_plain_loops) {
  for (const DType dtype : fast_dtypes) {
    for (const Size& s : sizes) {
      Tensor values = random_tensor({s.rows, s.width}, dtype, 1);
      if (s.rows > 4)
        std::memset(values.view().rows(4, 1).raw(), 0, static_cast<std::size_t>(s.width * size_of(dtype)));
      const Tensor there = on_gpu(values);
      const Groups host = groups_of(s.rows, 4), gpu{on_gpu(host.rows), on_gpu(host.begins)};
      Tensor sums({4, s.width}, DType::float32),
          counts = integers({4, s.width}), directions = integers({4, s.width}), rows_counted = integers({4});
      Both pooled = poisoned({4, s.width}, DType::float32);
      Tensor gpu_counts = on_gpu(counts), gpu_directions = on_gpu(directions),
             gpu_rows = on_gpu(rows_counted);
      ops::reference::sum_groups(sums.view(), values.view(), host.views(), cpu_stream());
      ops::reference::count_positive(counts.view(), values.view(), host.views(), cpu_stream());
      ops::reference::add_directions(directions.view(), rows_counted.view(), values.view(), host.views(),
                                     0x1.0p38, cpu_stream());
      ops::sum_groups(pooled.gpu.view(), there.view(), gpu.views(), gpu_stream());
      ops::count_positive(gpu_counts.view(), there.view(), gpu.views(), gpu_stream());
      ops::add_directions(gpu_directions.view(), gpu_rows.view(), there.view(), gpu.views(), 0x1.0p38,
                          gpu_stream());
      BOOST_TEST(same_bits(from_gpu(pooled.gpu), sums));
      BOOST_TEST(same_bits(from_gpu(gpu_counts), counts));
      BOOST_TEST(same_bits(from_gpu(gpu_directions), directions));
      BOOST_TEST(same_bits(from_gpu(gpu_rows), rows_counted));
    }
  }
}

BOOST_AUTO_TEST_CASE(read_back_delivers_in_order_whatever_the_pieces) {
  for (const std::int64_t piece_bytes : {1, 600, 1 << 20}) {
    ReadBack read_back(gpu_stream(), piece_bytes);
    for (int round = 0; round < 2; ++round) {
      std::vector<std::int64_t> seen, wanted;
      for (std::int64_t i = 0; i < 9; ++i) {
        const std::int64_t count = i == 4 ? 0 : 1 + i * 37 % 100;
        const TensorView there =
            read_back.take({count}, DType::float32, [&seen, i, count](ConstTensorView host) {
              BOOST_TEST(host.num_elements() == count);
              for (std::int64_t k = 0; k < count; ++k)
                if (host.data<float>()[k] != static_cast<float>(i)) seen.push_back(-1);
              seen.push_back(i);
            });
        ops::fill(there, static_cast<double>(i), gpu_stream());
        wanted.push_back(i);
      }
      read_back.drain();
      BOOST_TEST(seen == wanted, boost::test_tools::per_element());
    }
  }
}

BOOST_AUTO_TEST_CASE(responses_have_the_bits_of_pooling_on_the_host) {
  using analysis::ResponseStore;
  const std::vector<analysis::WatchedSite> sites = {{{0, model::Projection::gate, -1}, 133},
                                                    {{1, model::Projection::down, 2}, 48}};
  Stream cpu;
  ResponseStore here(sites, cpu), there(sites, gpu_stream());
  BOOST_TEST(there.takes_device_values());
  for (const std::int64_t round : {0, 1}) {
    const std::vector<std::int64_t> samples = {10 + round * 5, 11 + round * 5, 12 + round * 5};
    here.begin_round(samples);
    there.begin_round(samples);
    for (std::size_t site = 0; site < sites.size(); ++site) {
      for (const std::int64_t part : {0, 1}) {  // the second site sees some samples twice
        if (site == 0 && part == 1) continue;
        const Tensor values = random_tensor({6, sites[site].width}, DType::float32,
                                            static_cast<std::uint32_t>(site + 2 * part)),
                     row_sample = part == 0 ? make_tensor<std::int32_t>({0, 0, 2, 3, 2, 2}, {6})
                                            : make_tensor<std::int32_t>({2, 1, 1, 1, 3, 1}, {6}),
                     values_there = on_gpu(values);
        here.observe(sites[site].site, values.view(), row_sample.view());
        there.observe(sites[site].site, values_there.view(), row_sample.view());
      }
    }
    here.end_round();
    there.end_round();
  }
  for (std::size_t site = 0; site < sites.size(); ++site) {
    BOOST_TEST(here.rows(site).samples.size() == (site == 0 ? 4U : 6U));
    BOOST_TEST(there.rows(site).samples == here.rows(site).samples, boost::test_tools::per_element());
    BOOST_TEST(there.rows(site).num_tokens == here.rows(site).num_tokens, boost::test_tools::per_element());
    BOOST_TEST(there.rows(site).values == here.rows(site).values, boost::test_tools::per_element());
  }
}
