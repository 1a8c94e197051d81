// Allocation against METHOD 3.2: every list entry by entry, the other readings of the formula by their
// totals.
#include <boost/test/unit_test.hpp>
#include <numeric>

#include "neuronmoe/analysis/allocation.hpp"
#include "neuronmoe/base/error.hpp"

using namespace nmoe;
using namespace nmoe::analysis;

namespace {

using Counts = std::vector<double>;
using Experts = std::vector<int>;

// Tables 5 and 6 of the paper (METHOD 14), per layer 0..27.
const Counts table5 = {342, 79, 11, 18, 15, 11, 8,  7,   8,  8,   7,   6,   9,   14,
                       9,   18, 81, 20, 19, 28, 38, 232, 51, 208, 114, 111, 238, 223};
const Counts en = {322, 73, 8,  11, 13, 9, 7,  6,  5,  7,  7,  5,  8,  9,
                   7,   10, 11, 4,  10, 9, 16, 17, 24, 70, 63, 60, 75, 108};
const Counts el = {21, 6, 3,  7,  2, 2,  1,  1,   3,  1,   0,  1,  1,   5,
                   2,  8, 70, 16, 9, 19, 22, 215, 27, 139, 51, 52, 163, 118};
const Counts tr = {8, 5, 3,  17, 0, 2,  0,  1,  1,  1,   1,   1,   0,   2,
                   1, 4, 10, 15, 9, 22, 27, 68, 47, 137, 173, 185, 180, 70};
const Counts hu = {8, 3, 1, 6, 1,  2,  1,  0,  0,  0,   1,   1,   0,   0,
                   1, 6, 8, 8, 15, 23, 18, 92, 40, 117, 190, 303, 124, 24};

const Counts llama_similarity = {0.035939, 0.040217, 0.035217, 0.050344, 0.063556, 0.069761, 0.084228,
                                 0.096011, 0.094489, 0.097772, 0.105956, 0.109378, 0.116444, 0.107439,
                                 0.115156, 0.110856, 0.097250, 0.090733, 0.083033, 0.083539, 0.077828,
                                 0.068328, 0.068467, 0.054800, 0.049811, 0.049661, 0.048100, 0.045344};

Counts sum(const Counts& a, const Counts& b) {
  Counts result = a;
  for (std::size_t l = 0; l < b.size(); ++l) result[l] += b[l];
  return result;
}
int total(const Counts& counts, Rounding rounding, MinOver min_over = MinOver::nonzero) {
  return allocate_by_count(counts, {1, 6, rounding, min_over}).total();
}
void check_list(const Counts& counts, const Experts& expected, int expected_total) {
  const Allocation allocation = allocate_by_count(counts, {});
  BOOST_TEST(allocation.num_experts == expected, boost::test_tools::per_element());
  BOOST_TEST(allocation.total() == expected_total);
}

}  // namespace

BOOST_AUTO_TEST_CASE(lists_of_method_3_2) {
  check_list(table5, {6, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 4, 1, 4, 2, 2, 4, 4},
             49);
  check_list(en, {6, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 2, 2}, 37);
  check_list(el, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 6, 1, 4, 2, 2, 4, 3}, 44);
  check_list(sum(en, tr),
             {6, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 4, 4, 4, 4, 3}, 50);
  // Sums, not unions: layer 25 has 363 instead of at most 360, and layer 1 falls to 1 (METHOD 2).
  BOOST_TEST(allocate_by_count(sum(en, hu), {}).total() == 46);
  Counts overlap = sum(en, hu);
  overlap[25] -= 3;
  check_list(overlap, {5, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 3, 4, 6, 3, 2},
             47);
}

BOOST_AUTO_TEST_CASE(other_readings_of_the_formula) {
  BOOST_TEST(total(table5, Rounding::half_even) == 52);
  BOOST_TEST(total(table5, Rounding::half_up) == 52);
  BOOST_TEST(total(table5, Rounding::ceil) == 75);
  BOOST_TEST(total(en, Rounding::half_up) == 40);
  BOOST_TEST(total(el, Rounding::half_up, MinOver::all) == 49);
  BOOST_TEST(total(el, Rounding::half_up, MinOver::nonzero) == 48);
  BOOST_TEST(total(sum(en, tr), Rounding::half_up) == 55);
}

BOOST_AUTO_TEST_CASE(source_plus_mean_of_targets) {
  const std::vector<Counts> three = {en, el, hu, tr}, one = {en, hu};
  const Allocation allocation = allocate_by_count(sum_mean_sizes(three), {});
  const Experts expected = {6, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                            1, 1, 1, 1, 1, 1, 1, 3, 1, 3, 3, 4, 4, 3};
  BOOST_TEST(allocation.num_experts == expected, boost::test_tools::per_element());
  BOOST_TEST(allocation.total() == 48);
  BOOST_TEST(allocate_by_count(sum_mean_sizes(one), {}).total() == 46);
}

BOOST_AUTO_TEST_CASE(half_even_and_half_up_differ_at_one_half) {
  const Counts counts = {0.5, 1.5, 2.5, 10.5};  // x = 0, 0.5, 1, 5
  const auto entry = [&](Rounding rounding) {
    return allocate_by_count(counts, {1, 6, rounding, {}}).num_experts[1];
  };
  BOOST_TEST(entry(Rounding::trunc) == 1);
  BOOST_TEST(entry(Rounding::half_even) == 1);
  BOOST_TEST(entry(Rounding::half_up) == 2);
  BOOST_TEST(entry(Rounding::ceil) == 2);
}

BOOST_AUTO_TEST_CASE(degenerate_counts) {
  const Experts ones = {2, 2, 2};
  BOOST_TEST(allocate_by_count(Counts{5, 5, 5}, {2, 6, {}, {}}).num_experts == ones,
             boost::test_tools::per_element());
  // An empty layer gets e_min even when the minimum is taken over the others.
  const Experts with_zero = {1, 1, 6};
  BOOST_TEST(allocate_by_count(Counts{0, 3, 9}, {}).num_experts == with_zero,
             boost::test_tools::per_element());
  BOOST_CHECK_THROW(allocate_by_count(Counts{0, 0}, {}), Error);
  BOOST_CHECK_THROW(allocate_by_count(Counts{1, -1}, {}), Error);
  BOOST_CHECK_THROW(allocate_by_count(Counts{1, 2}, {4, 3, {}, {}}), Error);
}

BOOST_AUTO_TEST_CASE(layer_moe_from_similarity) {
  const Experts expected = {5, 5, 5, 4, 3, 3, 2, 2, 2, 2, 2, 2, 2, 2,
                            2, 2, 2, 2, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4};
  const Allocation allocation = allocate_by_similarity(llama_similarity, 70);
  BOOST_TEST(allocation.num_experts == expected, boost::test_tools::per_element());
  BOOST_TEST(allocation.total() == 84);
  const Allocation chosen = allocate_by_similarity(llama_similarity, 0);
  BOOST_TEST(chosen.total() >= 84);
  BOOST_TEST(chosen.total() <= 86);
}

BOOST_AUTO_TEST_CASE(zero_or_negative_similarity_is_refused) {
  for (const double bad : {0.0, -0.015}) {
    BOOST_CHECK_EXCEPTION(allocate_by_similarity(Counts{0.1, bad, 0.2}, 9), Error, [](const Error& e) {
      const std::string text = e.what();
      return e.code() == ErrorCode::bad_data && text.find("layer 1") != std::string::npos &&
             text.find("divides by it") != std::string::npos;
    });
  }
}

BOOST_AUTO_TEST_CASE(group_similarity_averages_pairs) {
  const std::vector<std::pair<std::string, std::string>> pairs = {{"en", "el"}, {"en", "tr"}, {"el", "tr"}};
  const std::vector<double> similarity = {.1, .2, .3, .4, .5, .9};  // [pair, layer]
  const std::vector<std::string> old = {"en"}, both = {"el", "tr"}, one = {"tr"}, unknown = {"hu"};
  const auto two = group_similarity(similarity, pairs, 2, old, both);
  BOOST_TEST(two[0] == 0.5 * (0.5 + 0.2), boost::test_tools::tolerance(1e-15));
  BOOST_TEST(two[1] == 0.5 * (0.9 + 0.3), boost::test_tools::tolerance(1e-15));
  BOOST_TEST(group_similarity(similarity, pairs, 2, old, one)[1] == 0.4);
  BOOST_CHECK_THROW(group_similarity(similarity, pairs, 2, old, unknown), Error);
}

BOOST_AUTO_TEST_CASE(lists_and_uniform) {
  const Experts expected = {6, 2, 1};
  BOOST_TEST(allocate_list(" 6, 2,1 ").num_experts == expected, boost::test_tools::per_element());
  for (const char* bad : {"", "6,,1", "6,0", "6,x", "1.5", "6,2,"})
    BOOST_CHECK_THROW(allocate_list(bad), Error);
  BOOST_TEST(allocate_uniform(28, 3).total() == 84);
  BOOST_CHECK_THROW(allocate_uniform(28, 0), Error);
}
