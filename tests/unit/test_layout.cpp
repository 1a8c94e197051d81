// The arithmetic of DESIGN 2 and 6: who is in which group, who owns what, and in which shape sums are taken.
#include <algorithm>
#include <bit>
#include <boost/test/unit_test.hpp>
#include <string>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/comm/layout.hpp"
#include "neuronmoe/model/expert_placement.hpp"

using namespace nmoe;
using namespace nmoe::comm;
using model::ExpertHome;
using model::ExpertPlacement;

BOOST_AUTO_TEST_CASE(groups_of_six_ranks_with_three_expert_ranks) {
  const int expert_rank[] = {0, 1, 2, 0, 1, 2}, expert_group[] = {0, 0, 0, 1, 1, 1};
  for (int r = 0; r < 6; ++r) {
    const ParallelLayout layout(6, r, 3);
    BOOST_TEST(layout.expert_parallel_rank() == expert_rank[r]);
    BOOST_TEST(layout.expert_parallel_group() == expert_group[r]);
    BOOST_TEST(layout.expert_data_parallel_rank() == expert_group[r]);
    BOOST_TEST(layout.expert_data_parallel_size() == 2);
  }
}

BOOST_AUTO_TEST_CASE(slices_tile_and_differ_by_at_most_one) {
  for (const std::int64_t n : {std::int64_t{0}, std::int64_t{1}, std::int64_t{10}, std::int64_t{1} << 60}) {
    for (int size = 1; size <= 7; ++size) {
      BOOST_TEST(slice_begin(n, 0, size) == 0);
      BOOST_TEST(slice_begin(n, size, size) == n);
      for (int r = 0; r < size; ++r) {
        const std::int64_t share = slice_begin(n, r + 1, size) - slice_begin(n, r, size);
        BOOST_TEST(share == n / size + (r < n % size ? 1 : 0));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(bad_expert_parallel_size_names_the_nearest_valid_one) {
  const auto message = [](int world, int wanted) -> std::string {
    try {
      (void)ParallelLayout(world, 0, wanted);
    } catch (const Error& error) {
      BOOST_TEST((error.code() == ErrorCode::config));
      return error.what();
    }
    return "";
  };
  BOOST_TEST(message(8, 3).find("size 3 does not divide the 8 ranks") != std::string::npos);
  BOOST_TEST(message(8, 3).ends_with(" 2"));  // 2 and 4 are equally near
  BOOST_TEST(message(12, 5).ends_with(" 4"));
  BOOST_TEST(message(4, 100).ends_with(" 4"));
  BOOST_TEST(message(4, 0).ends_with(" 1"));
  BOOST_TEST(message(4, -2).ends_with(" 1"));
  BOOST_TEST(message(6, 3).empty());
}

BOOST_AUTO_TEST_CASE(placement_balances_bytes_and_expected_tokens_over_the_model) {
  // top-2: an expert of layer 0 (E = 4) sees half of the tokens, that of layer 1 (E = 2) all, one of layer 2
  // (E = 8) a quarter.
  const int num_experts[] = {4, 2, 8};
  const ExpertPlacement placement(num_experts, 2, 2);
  std::int64_t tokens[2] = {0, 0}, experts[2] = {0, 0};  // tokens in quarters
  for (int layer = 0; layer < 3; ++layer) {
    for (int r = 0; r < 2; ++r) {
      const auto n = static_cast<std::int64_t>(placement.experts_on(layer, r).size());
      tokens[r] += n * 8 / num_experts[layer];
      experts[r] += n;
    }
  }
  BOOST_TEST(placement.owner(1, 1) == 0);  // the costliest goes first
  BOOST_TEST(experts[0] + experts[1] == 11);
  BOOST_TEST(std::abs(experts[0] - experts[1]) <= 1);
  BOOST_TEST(std::abs(tokens[0] - tokens[1]) <= 2);  // no more than one expert of layer 0
}

BOOST_AUTO_TEST_CASE(experts_on_every_rank) {
  const int num_experts[] = {2, 1, 4};
  const ExpertPlacement automatic(num_experts, 2, 2, ExpertHome::automatic);
  BOOST_TEST(automatic.is_replicated(0, 1));  // every token visits both experts of layer 0
  BOOST_TEST(!automatic.dispatches(0));
  BOOST_TEST(automatic.dispatches(2));
  BOOST_TEST((automatic.replicated_experts(0) == std::vector<int>{1}));
  BOOST_TEST(automatic.to_string().find("on every rank (layer:new experts) 0:1\n") != std::string::npos);
  BOOST_CHECK_THROW(automatic.owner(0, 1), Error);
  const ExpertPlacement all(num_experts, 2, 2, ExpertHome::replicated);
  BOOST_TEST(!all.dispatches(2));
  const ExpertPlacement alone(num_experts, 1, 2, ExpertHome::replicated);
  BOOST_TEST(!alone.is_replicated(2, 1));  // one rank owns everything
}

BOOST_AUTO_TEST_CASE(placement_by_hand) {
  // Layer 1 is the largest (5 owned), then 0 (2), then 3 (1); 2 has only the base.
  const int num_experts[] = {3, 6, 1, 2};
  const ExpertPlacement placement(num_experts, 3);
  // Layer 1 goes 0 1 2 0 1; loads 2 2 1, so layer 0 goes 2 0; loads 3 2 2, so layer 3 goes 1.
  BOOST_TEST((placement.experts_on(1, 0) == std::vector<int>{1, 4}));
  BOOST_TEST((placement.experts_on(1, 1) == std::vector<int>{2, 5}));
  BOOST_TEST((placement.experts_on(1, 2) == std::vector<int>{3}));
  BOOST_TEST(placement.owner(0, 1) == 2);
  BOOST_TEST(placement.owner(0, 2) == 0);
  BOOST_TEST(placement.owner(3, 1) == 1);
  BOOST_TEST(placement.experts_on(2, 0).empty());
  BOOST_TEST(placement.to_string() ==
             "expert-parallel rank 0: 3 experts (layer:ids) 0:2 1:1,4\n"
             "expert-parallel rank 1: 3 experts (layer:ids) 1:2,5 3:1\n"
             "expert-parallel rank 2: 2 experts (layer:ids) 0:1 1:3\n");
  BOOST_CHECK_THROW(placement.owner(0, 0), Error);  // the base belongs to everybody
  BOOST_CHECK_THROW(placement.owner(0, 3), Error);
  BOOST_CHECK_THROW(placement.owner(4, 1), Error);
  const int no_base[] = {2, 0};
  BOOST_CHECK_THROW(ExpertPlacement(no_base, 1), Error);
}

BOOST_AUTO_TEST_CASE(placement_is_balanced_over_the_model_and_in_each_layer) {
  const std::vector<int> num_experts = {6, 1, 2, 2, 5, 3, 2, 4, 1, 6, 3};
  for (int size = 1; size <= 8; ++size) {
    const ExpertPlacement placement(num_experts, size);
    std::vector<int> total(static_cast<std::size_t>(size));
    for (std::size_t layer = 0; layer < num_experts.size(); ++layer) {
      int seen = 0, most = 0, least = 1000;
      for (int r = 0; r < size; ++r) {
        const auto ids = placement.experts_on(static_cast<int>(layer), r);
        const int count = static_cast<int>(ids.size());
        for (const int id : ids) BOOST_TEST(placement.owner(static_cast<int>(layer), id) == r);
        seen += count;
        most = std::max(most, count);
        least = std::min(least, count);
        total[static_cast<std::size_t>(r)] += count;
      }
      BOOST_TEST(seen == num_experts[layer] - 1);
      BOOST_TEST(most - least <= 1);
    }
    const auto [least, most] = std::minmax_element(total.begin(), total.end());
    BOOST_TEST(*most - *least <= 1);
  }
}

BOOST_AUTO_TEST_CASE(shards_cover_every_element_once, *boost::unit_test::label("trap_14")) {
  const std::vector<std::vector<std::int64_t>> lists = {
      {}, {1}, {4096}, {4097, 1, 0, 8192, 5}, {100, 100, 100}, {50000, 3, 12288}};
  for (const auto& sizes : lists) {
    for (int ranks = 1; ranks <= 7; ++ranks) {
      const ShardMap map(sizes, ranks);
      std::vector<std::int64_t> reached(sizes.size(), 0);
      std::int64_t owned = 0, last_tensor = 0, most_blocks = 0, least_blocks = 1 << 30;
      for (int r = 0; r < ranks; ++r) {
        std::int64_t blocks = 0;
        for (const Slice& slice : map.slices(r)) {
          const auto t = static_cast<std::size_t>(slice.tensor);
          BOOST_TEST(slice.tensor >= last_tensor);  // ranks and slices follow the list
          last_tensor = slice.tensor;
          BOOST_TEST(slice.begin == reached[t]);
          BOOST_TEST(slice.begin % ShardMap::block == 0);
          BOOST_TEST((slice.end % ShardMap::block == 0 || slice.end == sizes[t]));
          BOOST_TEST(slice.size() > 0);
          reached[t] = slice.end;
          blocks += (slice.size() + ShardMap::block - 1) / ShardMap::block;
        }
        most_blocks = std::max(most_blocks, blocks);
        least_blocks = std::min(least_blocks, blocks);
        owned += map.num_owned(r);
      }
      BOOST_TEST((reached == sizes));
      BOOST_TEST(owned == map.num_total());
      BOOST_TEST(most_blocks - least_blocks <= 1);
    }
  }
}

BOOST_AUTO_TEST_CASE(shards_by_hand) {
  const std::int64_t sizes[] = {4096 * 2 + 10, 5, 4096};  // blocks: 3 + 1 + 1
  const ShardMap map(sizes, 2);                           // rank 0: blocks 0, 1; rank 1: blocks 2, 3, 4
  BOOST_TEST((map.slices(0) == std::vector<Slice>{{0, 0, 8192}}));
  BOOST_TEST((map.slices(1) == std::vector<Slice>{{0, 8192, 8202}, {1, 0, 5}, {2, 0, 4096}}));
}

BOOST_AUTO_TEST_CASE(micro_batches_go_round_the_ranks) {
  // 5 micro-batches on 2 ranks: 3 micro-steps, the last one empty on rank 1.
  BOOST_TEST(num_micro_steps(5, 2) == 3);
  BOOST_TEST(micro_batch_of(0, 1, 2, 5) == 1);
  BOOST_TEST(micro_batch_of(2, 0, 2, 5) == 4);
  BOOST_TEST(micro_batch_of(2, 1, 2, 5) == -1);
}

namespace {

/// sum(lo, hi) of DESIGN 6, written as text.
std::string by_definition(std::uint64_t lo, std::uint64_t hi) {
  if (hi - lo == 1) return std::to_string(lo);
  const std::uint64_t middle = lo + std::bit_floor(hi - lo - 1);
  return "(" + by_definition(lo, middle) + "+" + by_definition(middle, hi) + ")";
}

}  // namespace

BOOST_AUTO_TEST_CASE(binary_counter_has_the_shape_of_the_definition) {
  const auto add = [](std::string& a, const std::string& b) { a = "(" + a + "+" + b + ")"; };
  BinaryCounterSum<std::string> sum;
  for (std::uint64_t m = 1; m <= 40; ++m) {
    for (std::uint64_t leaf = 0; leaf < m; ++leaf) {
      sum.push(std::to_string(leaf), add);
      BOOST_TEST(sum.depth() <= static_cast<std::size_t>(std::bit_width(m)));  // at most log2 M + 1 buffers
    }
    BOOST_TEST(sum.finish(add) == by_definition(0, m));
    BOOST_TEST(sum.empty());
  }
}
