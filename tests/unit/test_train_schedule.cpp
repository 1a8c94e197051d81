// How long a run is and how fast it learns: METHOD 7.1 and the table of 7.3.
#include <boost/test/unit_test.hpp>

#include "neuronmoe/train/schedule.hpp"

using namespace nmoe::train;

BOOST_AUTO_TEST_CASE(steps_of_two_billion_tokens) {
  constexpr std::int64_t sequences = 2'000'000'000 / 1024;
  struct Row {
    std::int64_t sequences_per_step, whole, half;
  };
  // METHOD 7.3: world x 32 x accumulation, steps for 2 B tokens, steps for half an epoch.
  for (const Row& row : {Row{32, 61036, 30518}, Row{64, 30518, 15259}, Row{128, 15259, 7630},
                         Row{256, 7629, 3815}, Row{2048, 953, 477}}) {
    BOOST_TEST(steps_of_epochs(1.0, sequences, 32, row.sequences_per_step) == row.whole);
    BOOST_TEST(steps_of_epochs(0.5, sequences, 32, row.sequences_per_step) == row.half);
  }
  BOOST_TEST(steps_of_epochs(0.001, 5, 32, 128) == 1);  // never none
}

BOOST_AUTO_TEST_CASE(cosine_and_warm_up) {
  BOOST_TEST(cosine_learning_rate(1e-4, 0.0, 0, 477, 0) == 1e-4);
  BOOST_TEST(cosine_learning_rate(1e-4, 0.0, 0, 100, 50) == 0.5e-4, boost::test_tools::tolerance(1e-12));
  BOOST_TEST(cosine_learning_rate(1e-4, 0.1, 10, 100, 100) == 1e-5, boost::test_tools::tolerance(1e-12));
  BOOST_TEST(cosine_learning_rate(1e-4, 0.1, 10, 100, 5) == 0.5e-4, boost::test_tools::tolerance(1e-12));
}
