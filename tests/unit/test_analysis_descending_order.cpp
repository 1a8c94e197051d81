// The ranking of responses against std::stable_sort, on what makes a scaled radix sort stumble.
#include <algorithm>
#include <bit>
#include <boost/test/unit_test.hpp>
#include <limits>
#include <numeric>

#include "neuronmoe/analysis/descending_order.hpp"
#include "neuronmoe/base/philox.hpp"

using namespace nmoe;
using namespace nmoe::analysis;

namespace {

void check(const std::vector<float>& responses, const char* what) {
  BOOST_TEST_CONTEXT(what << ", " << responses.size() << " samples") {
    std::vector<float> expected = responses;
    std::stable_sort(expected.begin(), expected.end(), std::greater<>());
    DescendingOrder order(responses.size());
    order.sort(responses);
    std::vector<std::uint8_t> seen(responses.size(), 0);
    bool same = true, once = true, ties = false;
    std::vector<std::uint32_t> ends;
    order.group_ends(ends);
    for (std::size_t p = 0; p < responses.size(); ++p) {
      const std::uint32_t sample = order.samples()[p];
      once = once && seen[sample]++ == 0;
      same = same && order.value(p) == expected[p] && responses[sample] == expected[p];
      ties = ties || (p > 0 && expected[p] == expected[p - 1]);
      const auto above = std::upper_bound(expected.begin(), expected.end(), expected[p], std::greater<>());
      same = same && ends[p] == static_cast<std::uint32_t>(above - expected.begin());
    }
    BOOST_TEST(same);
    BOOST_TEST(once);
    BOOST_TEST(order.has_ties() == ties);
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(equals_a_stable_sort) {
  const float inf = std::numeric_limits<float>::infinity(), max = std::numeric_limits<float>::max();
  for (const std::size_t n : {1U, 2U, 3U, 31U, 128U, 1000U, 4500U, 8192U, 8193U, 66000U}) {
    const Philox random(n, RandomPurpose::test);
    const auto make = [&](auto&& f) {
      std::vector<float> x(n);
      for (std::size_t i = 0; i < n; ++i) x[i] = f(i, static_cast<float>(random.normal(i)));
      return x;
    };
    check(make([](std::size_t, float x) { return x; }), "normal");
    check(make([](std::size_t, float x) { return std::round(3.0F * x); }), "few values");
    check(make([](std::size_t, float x) { return std::max(x, 0.0F); }), "half zeros");
    check(make([](std::size_t, float x) { return x > 0 ? 0.0F : -0.0F; }), "signed zeros");
    check(make([](std::size_t, float x) { return 100.0F + 1e-4F * x; }), "narrow");
    check(make([&](std::size_t i, float x) { return i == n / 2 ? 1e30F : x; }), "one outlier");
    check(make([&](std::size_t i, float x) { return i % 50 == 7 ? -1e6F * x : x; }), "many outliers");
    check(make([](std::size_t, float x) { return std::exp(20.0F * x); }), "17 orders of magnitude");
    check(make([](std::size_t, float x) { return x * 1e-44F; }), "denormal");
    check(make([&](std::size_t, float x) { return x > 0 ? max : -max; }), "range beyond float32");
    check(make([&](std::size_t i, float x) { return i % 3 == 0 ? -inf : i % 7 == 0 ? inf : x; }), "infinite");
    check(make([&](std::size_t i, float) { return static_cast<float>(i); }), "ascending");
    check(make([&](std::size_t i, float) { return -static_cast<float>(i); }), "descending");
    check(make([&](std::size_t i, float x) { return i < n / 2 ? x : 1e-3F * x; }), "two scales");
    check(make([&](std::size_t i, float x) {  // fours that the scale cannot tell apart, equal and unequal
            return static_cast<float>(i % (n / 4 + 1)) + 5e-4F * std::round(x);
          }),
          "close fours");
    check(make([&](std::size_t i, float) {  // any bits that are no NaN
            const auto bits = static_cast<std::uint32_t>(random.below(i, 0xFFFFFFFFU));
            return (bits & 0x7F800000U) == 0x7F800000U ? 1.0F : std::bit_cast<float>(bits);
          }),
          "random bits");
  }
  check({}, "nothing");
}
