// Placement by tokens that an earlier run counted, and the counts in its checkpoint.
#include <boost/test/unit_test.hpp>
#include <numeric>

#include "neuronmoe/train/checkpoint.hpp"
#include "neuronmoe/train/plan_report.hpp"
#include "support/temp_dir.hpp"
#include "support/tiny_model.hpp"

using namespace nmoe;
using model::ExpertPlacement;
using model::ExpertTokens;

namespace {

/// Tokens that visit two of each layer's experts; new ones in proportion to 1 / (id + layer mod 3)².
ExpertTokens skewed(const std::vector<int>& num_experts, std::int64_t tokens) {
  ExpertTokens counts;
  for (std::size_t l = 0; l < num_experts.size(); ++l) {
    auto& layer = counts.emplace_back(static_cast<std::size_t>(num_experts[l]), 0);
    if (num_experts[l] == 1) continue;
    std::vector<double> share;
    for (std::size_t e = 1; e < layer.size(); ++e)
      share.push_back(1.0 / static_cast<double>((e + l % 3) * (e + l % 3)));
    const double all = std::accumulate(share.begin(), share.end(), 0.0);
    for (std::size_t e = 1; e < layer.size(); ++e)
      layer[e] = static_cast<std::int64_t>(static_cast<double>(tokens) * share[e - 1] / all);
    layer[0] = 2 * tokens - std::accumulate(layer.begin(), layer.end(), std::int64_t{0});
  }
  return counts;
}

template <typename F>
std::string bad_data_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    BOOST_TEST((e.code() == ErrorCode::bad_data));
    return e.what();
  }
  return "";
}

/// Writes `rows` as /routing of a checkpoint and reads it for a model of {3, 1, 2} experts.
train::MeasuredTokens through_file(const std::vector<std::uint64_t>& rows,
                                   const std::vector<std::int64_t>& shape,
                                   const std::string& experts = "3,1,2",
                                   const io::FileFormat& format = train::state_format) {
  const test::TempDir directory;
  {
    io::H5File file = io::H5File::create(directory.path() + "/state.h5");
    file.write_format(format);
    if (!rows.empty()) {
      file.write("/routing", rows, shape);
      file.write_attribute("/routing", "num_experts", experts);
    }
    file.finish();
  }
  return train::measured_tokens(directory.path(), test::tiny_config({3, 1, 2}));
}

}  // namespace

BOOST_AUTO_TEST_CASE(busy_experts_part_by_hand) {
  const int num_experts[] = {3, 3};
  const ExpertTokens counts = {{100, 90, 10}, {100, 90, 10}};
  // Expected tokens are alike: experts take turns, and the first of each layer meet on rank 0.
  const ExpertPlacement expected(num_experts, 2, 2);
  BOOST_TEST(
      (expected.experts_on(0, 0) == std::vector<int>{1} && expected.experts_on(1, 0) == std::vector<int>{1}));
  const model::PlacementBalance before = model::balance_of(expected, 2, counts);
  BOOST_TEST(before.most_tokens == 180);
  BOOST_TEST(before.tokens == 1.8);
  const ExpertPlacement measured(num_experts, 2, 2, model::ExpertHome::owned, counts);
  const model::PlacementBalance after = model::balance_of(measured, 2, counts);
  BOOST_TEST(after.most_tokens == 100);
  BOOST_TEST(after.tokens == 1.0);
  BOOST_TEST(after.bytes == 1.0);
}

BOOST_AUTO_TEST_CASE(measured_tokens_lower_the_busiest_rank_of_the_greek_model) {
  const char* root = std::getenv("NMOE_TEST_SOURCE_DIR");
  BOOST_REQUIRE(root != nullptr);
  const std::vector<int> num_experts =
      model::load_expert_counts(std::string(root) + "/configs/experts/llama3.2-3b-el.cfg", 28);
  const ExpertTokens counts = skewed(num_experts, 1'000'000);
  for (const int size : {2, 4}) {
    const ExpertPlacement expected(num_experts, size, 2),
        measured(num_experts, size, 2, model::ExpertHome::owned, counts);
    const model::PlacementBalance before = model::balance_of(expected, size, counts),
                                  after = model::balance_of(measured, size, counts);
    BOOST_TEST_MESSAGE(size << " ranks: busiest " << before.most_tokens << " -> " << after.most_tokens << ", "
                            << before.tokens << " -> " << after.tokens << " of the mean; bytes "
                            << before.bytes << " -> " << after.bytes);
    BOOST_TEST(after.most_tokens < before.most_tokens);
    BOOST_TEST(after.tokens < 1.02);
    if (size == 4) BOOST_TEST(before.tokens > 1.29);
    BOOST_TEST(after.bytes <= before.bytes);
  }
}

BOOST_AUTO_TEST_CASE(counts_of_any_size_and_none) {
  const int num_experts[] = {4, 4, 1};
  const ExpertTokens counts = {{5, 7, 1, 2}, {6, 3, 3, 4}, {0}};
  ExpertTokens none = counts;
  for (auto& layer : none) {
    std::fill(layer.begin() + 1, layer.end(), 0);  // every token to the base
  }
  const auto text = [&](const ExpertTokens& by) {
    return ExpertPlacement(num_experts, 3, 2, model::ExpertHome::owned, by).to_string();
  };
  BOOST_TEST(text(none) == ExpertPlacement(num_experts, 3).to_string());  // by bytes alone
  BOOST_TEST(text(counts) != ExpertPlacement(num_experts, 3).to_string());
  BOOST_CHECK_THROW(text({{5, 7, 1, 2}, {6, 3, 3, 4}}), Error);
  const std::vector<int> many(40, 6);  // and the most tokens that a file may count
  const ExpertTokens huge(40, std::vector<std::int64_t>(6, std::int64_t{1} << 48));
  const ExpertPlacement spread(many, 2, 2, model::ExpertHome::owned, huge);
  BOOST_TEST(model::balance_of(spread, 2, huge).most_tokens == std::int64_t{100} << 48);
  BOOST_CHECK_THROW(text({{5, 7, 1, 2}, {6, 3, 3}, {0}}), Error);
}

BOOST_AUTO_TEST_CASE(counts_in_a_checkpoint) {
  // Eleven tokens that visit two experts each (all of them where there are two).
  const train::MeasuredTokens found = through_file({4, 10, 8, 0, 0, 0, 11, 11, 0}, {3, 3});
  BOOST_TEST((found.counts == ExpertTokens{{4, 10, 8}, {0}, {11, 11}}));
  BOOST_TEST(found.to_string().starts_with("tokens counted in /"));
  const io::FileFormat later{train::state_format.name, train::state_format.version + 1};
  BOOST_TEST(bad_data_of([&] {
               static_cast<void>(through_file({}, {}, "3,1,2", later));
             }).find("use a newer neuronmoe") != std::string::npos);
  BOOST_TEST(!through_file({}, {}));                               // an earlier version's
  BOOST_TEST(!through_file({0, 0, 0, 0, 0, 0, 0, 0, 0}, {3, 3}));  // saved before the first step
  const test::TempDir converted;
  BOOST_TEST(!train::measured_tokens(converted.path(), test::tiny_config({3, 1, 2})));
  BOOST_TEST(train::MeasuredTokens().to_string() == "expected tokens");
}

BOOST_AUTO_TEST_CASE(counts_that_do_not_fit_are_refused) {
  const auto refused = [](const std::vector<std::uint64_t>& rows, const std::vector<std::int64_t>& shape,
                          const std::string& text) {
    const std::string message = bad_data_of([&] { static_cast<void>(through_file(rows, shape)); });
    BOOST_TEST(message.find("state.h5") != std::string::npos);
    BOOST_TEST(message.find(text) != std::string::npos, message << " lacks " << text);
  };
  refused({1, 1, 1, 1}, {2, 2}, "/routing");
  refused({4, 10, 8, 0, 0, 0, 11, 11, 0}, {9}, "/routing");
  refused({4, 10, 9, 0, 0, 0, 11, 11, 0}, {3, 3}, "23 visits in layer 0, but 11 tokens");
  refused({4, 10, 8, 0, 0, 0, 11, 12, 0}, {3, 3}, "23 visits in layer 2, but 11 tokens");
  refused({4, 10, 8, 0, 0, 0, 11, 11, 3}, {3, 3},
          "counts 3 tokens for expert 2 of layer 2, which has 2 experts");
  refused({4, 10, 8, 1, 0, 0, 11, 11, 0}, {3, 3}, "layer 1");
  const std::string other = bad_data_of([] {
    static_cast<void>(through_file({4, 10, 8, 0, 0, 0, 7, 8, 7}, {3, 3}, "3,1,3"));
  });
  BOOST_TEST(other.find("counts tokens of 3,1,3 experts per layer, the model has 3,1,2;") !=
             std::string::npos);
  refused({~std::uint64_t{0}, 10, 8, 0, 0, 0, 11, 11, 0}, {3, 3}, "18446744073709551615");
}

BOOST_AUTO_TEST_CASE(plan_says_which_counts_it_used) {
  train::PlanInput input{test::tiny_config({3, 1, 3}), train::RunKind::stage1, {}, 2, {}};
  input.config.expert_parallel_size = 2;
  train::MachineConfig machine;
  BOOST_TEST(train::plan_report(input, machine, {}).find("new experts are placed by expected tokens\n") !=
             std::string::npos);
  input.placed_by = {{{100, 90, 10}, {0}, {100, 90, 10}}, "/runs/a/step_0000000100"};
  const std::string text = train::plan_report(input, machine, {});
  BOOST_TEST(
      text.find("new experts are placed by tokens counted in /runs/a/step_0000000100: of 2 ranks the busiest "
                "computes 1.000 x the mean of their tokens and the fullest holds 1.000 x the mean of their "
                "bytes (placed by expected tokens 1.800 x and 1.000 x)\n") != std::string::npos,
      text);
}
