// LAPE's rule on small numbers: entropy, bar, candidates, languages (METHOD 1.8).
#include <boost/test/unit_test.hpp>
#include <cmath>

#include "neuronmoe/analysis/lape.hpp"

using namespace nmoe;
using namespace nmoe::analysis;

BOOST_AUTO_TEST_CASE(entropy_of_normalised_probabilities) {
  BOOST_TEST(activation_entropy({0.3, 0.0, 0.0}) == 0.0);
  BOOST_TEST(activation_entropy({0.2, 0.2}) == std::log(2.0), boost::test_tools::tolerance(1e-15));
  // (1/4, 3/4): −(ln(1/4)/4 + 3·ln(3/4)/4)
  BOOST_TEST(activation_entropy({0.1, 0.3}) == 0.5623351446188083, boost::test_tools::tolerance(1e-14));
  BOOST_TEST(std::isnan(activation_entropy({0.0, 0.0})));
}

BOOST_AUTO_TEST_CASE(bar_candidates_and_languages) {
  // 40 units, 2 languages, 80 probabilities: the bar is the 76th smallest, so four lie above it.
  std::vector<std::vector<double>> p(2, std::vector<double>(40, 0.5));
  std::vector<double> entropy(40, 0.69);
  std::vector<std::uint64_t> uuids;
  for (std::uint64_t u = 0; u < 40; ++u) uuids.push_back(100 + u);
  p[0][3] = 0.9;            // one language only
  p[0][5] = p[1][5] = 0.8;  // both
  p[1][7] = 0.7;
  p[0][9] = p[1][9] = 0.001;  // the lowest entropy, but it hardly ever fires
  entropy[9] = 0.0;
  entropy[11] = 0.05;  // fires as often as the bar, not more
  entropy[7] = 0.1;
  entropy[3] = 0.2;
  entropy[5] = 0.3;
  Lape lape;
  select_by_entropy(p, uuids, entropy, lape);
  BOOST_TEST(lape.bar == 0.5);
  const std::vector<std::uint64_t> first = {103}, second = {107};  // 5 % of 40 units: two
  BOOST_TEST(lape.selected[0] == first, boost::test_tools::per_element());
  BOOST_TEST(lape.selected[1] == second, boost::test_tools::per_element());
  BOOST_TEST(lape.threshold == 0.2);
  entropy[5] = 0.0;
  select_by_entropy(p, uuids, entropy, lape);  // now units 5 and 7
  const std::vector<std::uint64_t> shared = {105}, both = {105, 107};
  BOOST_TEST(lape.selected[0] == shared, boost::test_tools::per_element());
  BOOST_TEST(lape.selected[1] == both, boost::test_tools::per_element());
}
