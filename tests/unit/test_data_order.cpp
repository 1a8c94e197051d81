// SampleOrder, packing and mixing: pure functions of the position.
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <numeric>
#include <set>

#include "neuronmoe/data/mixture.hpp"
#include "support/temp_dir.hpp"

using namespace nmoe;
using namespace nmoe::data;
using test::expect_error;

namespace {

constexpr std::uint32_t eos = 9;

/// Four documents: en 0 1 2 E | el 10 11 E | en 3 E | el 12 13 14 15 E; en is old, el new.
void write_documents(const std::string& path, const std::string& sha = "tok") {
  const TokenDocuments docs{
      {0, 1, 2, eos, 10, 11, eos, 3, eos, 12, 13, 14, 15, eos}, {4, 3, 2, 5}, {0, 1, 0, 1}, {1, 0, 1, 0}};
  const auto comm = comm::make_local_communicator();
  write_token_file(*comm, path, docs, {20, eos, sha, "in", {"en", "el"}});
}

/// One document of `num_tokens` tokens that count up from `first`.
PackedDataset counting(const test::TempDir& dir, const std::string& name, std::uint32_t first,
                       std::uint64_t num_tokens) {
  TokenDocuments docs{std::vector<std::uint32_t>(num_tokens), {num_tokens}, {0}, {0}};
  std::iota(docs.ids.begin(), docs.ids.end(), first);
  docs.ids.back() = 1000000;
  const auto comm = comm::make_local_communicator();
  write_token_file(*comm, dir / name, docs, {1000001, 1000000, "tok", "in", {"xx"}});
  return PackedDataset({.name = name}, std::make_shared<const TokenFile>(dir / name), 4);
}

template <typename T>
std::vector<int> as_int(const std::vector<T>& v) {
  return {v.begin(), v.end()};
}

}  // namespace

BOOST_AUTO_TEST_CASE(every_epoch_is_a_permutation) {
  for (std::uint64_t n = 1; n <= 100; ++n) {
    const SampleOrder order(42, n);
    for (std::uint64_t epoch = 0; epoch < 3; ++epoch) {
      std::vector<bool> seen(n, false);
      for (std::uint64_t i = 0; i < n; ++i) seen.at(order.at(epoch * n + i)) = true;
      BOOST_TEST(std::count(seen.begin(), seen.end(), true) == static_cast<std::ptrdiff_t>(n));
    }
  }
  const std::uint64_t n = 1000003;
  const SampleOrder order(7, n);
  std::vector<bool> seen(n, false);
  for (std::uint64_t i = 0; i < n; ++i) seen.at(order.at(5 * n + i)) = true;
  BOOST_TEST(std::count(seen.begin(), seen.end(), true) == static_cast<std::ptrdiff_t>(n));
  const std::uint64_t huge = (std::uint64_t{1} << 61) + 12345;
  const SampleOrder large(7, huge);
  std::set<std::uint64_t> few;
  for (std::uint64_t i = 0; i < 1000; ++i) few.insert(large.at(huge - 1 - i));
  BOOST_TEST(few.size() == 1000U);
  BOOST_TEST(*few.rbegin() < huge);
  BOOST_TEST(expect_error(ErrorCode::bad_data, {"0 blocks"}, [] { SampleOrder none(1, 0); }) == "");
}

BOOST_AUTO_TEST_CASE(order_depends_on_seed_epoch_and_stream_and_is_well_mixed) {
  const std::uint64_t n = 5000;
  const auto epoch_of = [&](const SampleOrder& order, std::uint64_t epoch) {
    std::vector<std::uint64_t> v(n);
    for (std::uint64_t i = 0; i < n; ++i) v[i] = order.at(epoch * n + i);
    return v;
  };
  const auto base = epoch_of(SampleOrder(1, n), 0);
  BOOST_TEST((base == epoch_of(SampleOrder(1, n), 0)));
  // Two independent permutations share one fixed place on average; 12 has a chance below 1e-9.
  const auto agreeing = [&](const std::vector<std::uint64_t>& other) {
    int equal = 0;
    for (std::uint64_t i = 0; i < n; ++i) equal += base[i] == other[i];
    return equal;
  };
  BOOST_TEST(agreeing(epoch_of(SampleOrder(2, n), 0)) < 12);
  BOOST_TEST(agreeing(epoch_of(SampleOrder(1, n), 1)) < 12);
  BOOST_TEST(agreeing(epoch_of(SampleOrder(1, n, 1), 0)) < 12);
  std::vector<std::uint64_t> identity(n);
  std::iota(identity.begin(), identity.end(), 0U);
  BOOST_TEST(agreeing(identity) < 12);
  // Correlation of position and value: standard deviation 1/sqrt(n) = 0.014.
  double sum = 0.0;
  const double mean = (n - 1) / 2.0, variance = (static_cast<double>(n) * n - 1) / 12.0;
  for (std::uint64_t i = 0; i < n; ++i)
    sum += (static_cast<double>(i) - mean) * (static_cast<double>(base[i]) - mean);
  BOOST_TEST(std::abs(sum / n / variance) < 0.07);
}

BOOST_AUTO_TEST_CASE(packing_by_hand) {
  const test::TempDir dir;
  write_documents(dir / "t.h5");
  const auto file = std::make_shared<const TokenFile>(dir / "t.h5");
  const PackedDataset all({.name = "all"}, file, 4);  // 14 tokens: 3 blocks, 2 dropped
  BOOST_TEST(all.num_blocks() == 3);
  BOOST_TEST(all.num_tokens() == 14);
  const Sample first = all.block(0), second = all.block(1), third = all.block(2);
  BOOST_TEST(as_int(first.ids) == (std::vector<int>{0, 1, 2, 9}), boost::test_tools::per_element());
  BOOST_TEST(as_int(first.labels) == (std::vector<int>{1, 2, -100, -100}), boost::test_tools::per_element());
  BOOST_TEST(as_int(first.old_mask) == (std::vector<int>{1, 1, 1, 1}), boost::test_tools::per_element());
  BOOST_TEST(as_int(second.ids) == (std::vector<int>{10, 11, 9, 3}), boost::test_tools::per_element());
  BOOST_TEST(as_int(second.labels) == (std::vector<int>{11, -100, 3, -100}),
             boost::test_tools::per_element());
  BOOST_TEST(as_int(second.old_mask) == (std::vector<int>{0, 0, 0, 1}), boost::test_tools::per_element());
  BOOST_TEST(as_int(third.ids) == (std::vector<int>{9, 12, 13, 14}), boost::test_tools::per_element());
  BOOST_TEST(as_int(third.old_mask) == (std::vector<int>{1, 0, 0, 0}), boost::test_tools::per_element());
  const PackedDataset with_eos({.name = "all"}, file, 4, true);
  BOOST_TEST(as_int(with_eos.block(0).labels) == (std::vector<int>{1, 2, 9, -100}),
             boost::test_tools::per_element());
  const PackedDataset greek({.name = "el", .lang = "el", .mark = Mark::old_language}, file, 4);
  BOOST_TEST(as_int(greek.block(1).ids) == (std::vector<int>{13, 14, 15, 9}),
             boost::test_tools::per_element());
  BOOST_TEST(as_int(greek.block(0).ids) == (std::vector<int>{10, 11, 9, 12}),
             boost::test_tools::per_element());
  BOOST_TEST(as_int(greek.block(0).old_mask) == (std::vector<int>{1, 1, 1, 1}),
             boost::test_tools::per_element());
  BOOST_TEST(PackedDataset({.name = "x", .max_docs = 2}, file, 2).num_tokens() == 7);
  BOOST_TEST(PackedDataset({.name = "x", .max_tokens = 5}, file, 2).num_tokens() ==
             7);  // crossing one included
  BOOST_TEST(PackedDataset({.name = "x", .max_tokens = 4}, file, 2).num_tokens() == 4);
  BOOST_TEST(PackedDataset({.name = "x", .lang = "el", .max_docs = 1}, file, 2).num_tokens() == 3);
  BOOST_TEST(expect_error(ErrorCode::bad_data, {"data.x", "t.h5", "15"},
                          [&] { PackedDataset p({.name = "x"}, file, 15); }) == "");
  BOOST_TEST(expect_error(ErrorCode::bad_data, {"data.x", "\"zh\""},
                          [&] { PackedDataset p({.name = "x", .lang = "zh"}, file, 4); }) == "");
}

BOOST_AUTO_TEST_CASE(mixture_by_size_visits_every_block_once_per_epoch) {
  const test::TempDir dir;
  std::vector<PackedDataset> sets;
  sets.push_back(counting(dir, "a", 0, 4 * 7 + 3));
  sets.push_back(counting(dir, "b", 1000, 4 * 30));
  const Mixture mixture(std::move(sets), {0.0, 0.0}, 3);
  BOOST_TEST(mixture.num_blocks() == 37);
  for (std::uint64_t epoch = 0; epoch < 3; ++epoch) {
    std::set<int> starts;
    for (std::uint64_t i = 0; i < 37; ++i) starts.insert(mixture.sample(epoch * 37 + i).ids[0]);
    BOOST_TEST(starts.size() == 37U);
  }
  std::vector<std::uint64_t> count(2, 0);
  for (std::uint64_t p = 0; p < 100; ++p) {
    BOOST_TEST(mixture.cursors(p) == count, boost::test_tools::per_element());
    ++count[static_cast<std::size_t>(mixture.source(p).dataset)];
  }
}

BOOST_AUTO_TEST_CASE(weighted_mixture_keeps_its_shares_and_walks_each_order) {
  const test::TempDir dir;
  std::vector<PackedDataset> sets;
  for (int i = 0; i < 3; ++i)
    sets.push_back(counting(dir, std::to_string(i), 1000U * static_cast<unsigned>(i), 4 * 50));
  const std::vector<double> weights = {0.5, 0.3, 1e-9};
  const Mixture mixture(sets, weights, 3), same(sets, weights, 3), other(sets, weights, 4);
  std::vector<std::uint64_t> count(3, 0);
  std::vector<std::set<std::int64_t>> epoch(3);
  int differing = 0, impure = 0, repeated = 0, far_off = 0;
  for (std::uint64_t p = 0; p < 3 * Mixture::period; ++p) {
    if (p % 511 == 0) BOOST_TEST(mixture.cursors(p) == count, boost::test_tools::per_element());
    const Mixture::Source s = mixture.source(p);
    impure += !(same.source(p) == s);
    differing += !(other.source(p) == s);
    const auto i = static_cast<std::size_t>(s.dataset);
    if (count[i] % 50 == 0) epoch[i].clear();
    repeated += !epoch[i].insert(s.block).second;  // an epoch of a data set has no block twice
    ++count[i];
    // Two samples from the ideal share at most, and the rounding of the quota: below one per period.
    const double ideal = 0.625 * static_cast<double>(p + 1);
    const double bound = 2.0 + static_cast<double>(p) / static_cast<double>(Mixture::period);
    far_off += std::abs(static_cast<double>(count[0]) - ideal) > bound;
  }
  BOOST_TEST(far_off == 0);
  BOOST_TEST(impure == 0);
  BOOST_TEST(repeated == 0);
  BOOST_TEST(differing > 5000);
  BOOST_TEST(count[2] == 3U);  // at least one per period
  const auto late = std::uint64_t{1} << 50;
  BOOST_TEST((mixture.source(late) == same.source(late)));
  BOOST_TEST(expect_error(ErrorCode::config, {"2 of 3"}, [&] { Mixture m(sets, {1, 0, 1}, 1); }) == "");
  BOOST_TEST(expect_error(ErrorCode::config, {"data.1.weight"}, [&] {
               Mixture m(sets, {1, -1, 1}, 1);
             }) == "");
  BOOST_TEST(expect_error(ErrorCode::config, {"[data."}, [&] { Mixture m({}, {}, 1); }) == "");
}

BOOST_AUTO_TEST_CASE(make_mixture_checks_that_tokenizers_agree) {
  const test::TempDir dir;
  write_documents(dir / "a.h5", "one");
  write_documents(dir / "b.h5", "two");
  const Mixture m = make_mixture({{.name = "en", .tokens = dir / "a.h5", .lang = "en", .weight = 1},
                                  {.name = "el", .tokens = dir / "a.h5", .lang = "el", .weight = 3}},
                                 2, false, 1);
  BOOST_TEST(m.datasets()[0].num_tokens() == 6);
  BOOST_TEST(m.to_string().find("el: 2 documents, 8 tokens, 4 sequences, 75.0 %") != std::string::npos);
  BOOST_TEST(expect_error(ErrorCode::bad_data, {"a.h5", "b.h5", "different tokenizers"}, [&] {
               make_mixture({{.name = "x", .tokens = dir / "a.h5"}, {.name = "y", .tokens = dir / "b.h5"}}, 2,
                            false, 1);
             }) == "");
}

// METHOD 7.2: 0 1 2 E | 10 11 E | 3 E | 12 13 14 15 E in batches whose remainders are dropped.
BOOST_AUTO_TEST_CASE(batches_of_documents_and_shards_drop_their_remainders) {
  const test::TempDir dir;
  write_documents(dir / "docs.h5");
  const auto file = std::make_shared<const TokenFile>(dir / "docs.h5");
  const auto blocks = [&](std::int64_t length, const Packing& packing) {
    const PackedDataset set({.name = "x"}, file, length, true, packing);
    std::vector<std::vector<int>> all;
    for (std::int64_t b = 0; b < set.num_blocks(); ++b) all.push_back(as_int(set.block(b).ids));
    return all;
  };
  using Blocks = std::vector<std::vector<int>>;
  const int e = eos;
  BOOST_TEST((blocks(4, {}) == Blocks{{0, 1, 2, e}, {10, 11, e, 3}, {e, 12, 13, 14}}));
  BOOST_TEST((blocks(4, {.batch_docs = 2}) == Blocks{{0, 1, 2, e}, {3, e, 12, 13}}));
  BOOST_TEST((blocks(4, {.batch_docs = 3}) == Blocks{{0, 1, 2, e}, {10, 11, e, 3}, {12, 13, 14, 15}}));
  // Three shards of four documents: 2, 1, 1. More shards than documents: one each.
  BOOST_TEST((blocks(4, {.shards = 3}) == Blocks{{0, 1, 2, e}, {12, 13, 14, 15}}));
  BOOST_TEST((blocks(3, {.shards = 9}) == Blocks{{0, 1, 2}, {10, 11, e}, {12, 13, 14}}));
  BOOST_TEST((blocks(3, {.batch_docs = 1, .shards = 2}) == Blocks{{0, 1, 2}, {10, 11, e}, {12, 13, 14}}));
  BOOST_TEST(expect_error(ErrorCode::bad_data, {"data.x", "14 tokens", "sequence of 6"},
                          [&] { blocks(6, {.batch_docs = 1}); }) == "");
}
