// The table of METHOD 8 from counts: the 30 ratios that the paper prints in Table 10.
#include <boost/test/unit_test.hpp>
#include <sstream>

#include "neuronmoe/analysis/specialize.hpp"

using namespace nmoe::analysis;

BOOST_AUTO_TEST_CASE(ratios_of_table_10) {
  struct Row {
    int layer, expert;
    std::int64_t high_ap;
    const char* ratio;
  };
  const std::vector<Row> rows = {
      {0, 0, 0, "0.00"},    {0, 1, 0, "0.00"},    {0, 2, 27, "0.14"},   {0, 3, 0, "0.00"},
      {0, 4, 61, "0.31"},   {0, 5, 19, "0.10"},   {1, 0, 27, "0.14"},   {1, 1, 27, "0.14"},
      {16, 0, 64, "0.33"},  {16, 1, 71, "0.36"},  {21, 0, 26, "0.13"},  {21, 1, 46, "0.24"},
      {21, 2, 0, "0.00"},   {21, 3, 82, "0.42"},  {23, 0, 26, "0.13"},  {23, 1, 57, "0.29"},
      {23, 2, 0, "0.00"},   {23, 3, 46, "0.24"},  {24, 0, 100, "0.51"}, {24, 1, 139, "0.71"},
      {25, 0, 98, "0.50"},  {25, 1, 118, "0.61"}, {26, 0, 0, "0.00"},   {26, 1, 278, "1.43"},
      {26, 2, 154, "0.79"}, {26, 3, 0, "0.00"},   {27, 0, 179, "0.92"}, {27, 1, 0, "0.00"},
      {27, 2, 0, "0.00"},   {27, 3, 405, "2.08"}};
  ExpertStatistics statistics;
  for (const Row& row : rows) {
    ExpertSummary summary;
    summary.layer = row.layer;
    summary.expert = row.expert;
    summary.total = 2 * 8192 + 3072;
    summary.high_ap = {row.high_ap};
    summary.zero_samples = {0};
    statistics.experts.push_back(summary);
  }
  std::istringstream table(expert_csv(statistics, 0));
  std::string line;
  std::getline(table, line);
  BOOST_TEST(line == "layer,expert,total,high_ap,ratio_percent");
  for (const Row& row : rows) {
    std::getline(table, line);
    BOOST_TEST(line == std::to_string(row.layer) + "," + expert_name(row.expert) + ",19456," +
                           std::to_string(row.high_ap) + "," + row.ratio);
  }
  BOOST_TEST(!std::getline(table, line));
}
