// Average precision: METHOD 13's hand values, scikit-learn's values, and the fast path against the plain one.
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "../../src/analysis/device_scorer.hpp"
#include "neuronmoe/analysis/average_precision.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/base/philox.hpp"

using namespace nmoe;
using namespace nmoe::analysis;

namespace {

struct Golden {
  std::vector<float> scores;
  std::vector<std::uint8_t> labels;
  double ap;
};

// METHOD 13, column "AP".
const std::vector<Golden> hand_goldens = {
    {{.9F, .8F, .7F, .6F}, {1, 0, 1, 0}, 5.0 / 6}, {{.5F, .5F, .5F, .5F}, {1, 0, 1, 0}, 1.0 / 2},
    {{3, 2, 2, 1}, {1, 1, 0, 0}, 5.0 / 6},         {{3, 2, 2, 1}, {1, 0, 1, 0}, 5.0 / 6},
    {{0, 0, 0, -1}, {1, 0, 0, 0}, 1.0 / 3},        {{1, 2, 3}, {0, 0, 1}, 1.0}};

SampleRoles roles_of(const std::vector<int>& classes, int num_classes) {
  std::vector<int> all;
  for (int c = 0; c < num_classes; ++c) all.push_back(c);
  return shared_pool_roles(classes, num_classes, all);
}

std::vector<NeuronScore> fast(const std::vector<float>& scores, const SampleRoles& roles) {
  std::vector<NeuronScore> result(static_cast<std::size_t>(roles.num_languages));
  NeuronScorer(roles).score(scores, result);
  return result;
}

nlohmann::json sklearn_goldens() {
  std::ifstream file(std::string(std::getenv("NMOE_TEST_SOURCE_DIR")) + "/tests/golden/ap_sklearn.json");
  return nlohmann::json::parse(file);
}

// Scores with few distinct values or many, both signs, and class labels.
std::vector<float> random_scores(std::uint64_t seed, std::size_t n, int kind) {
  const Philox random(seed, RandomPurpose::test);
  std::vector<float> scores(n);
  for (std::size_t i = 0; i < n; ++i) {
    const double x = random.normal(i);
    if (kind == 0) scores[i] = static_cast<float>(x);
    if (kind == 1) scores[i] = static_cast<float>(std::round(x));
    if (kind == 2) scores[i] = static_cast<float>(std::max(x, 0.0));
    if (kind == 3) scores[i] = i % 2 == 0 ? 0.0F : -0.0F;
  }
  return scores;
}

}  // namespace

// CUB once counted in 32 bits, whatever it was given: no slab has 2^31 responses, however large the memory.
BOOST_AUTO_TEST_CASE(slabs_of_a_gpu_can_be_counted_in_32_bits) {
  const std::int64_t huge = std::int64_t{1} << 50;
  BOOST_TEST(rows_of_slab(huge, 24 * 4500, 4500) == 477218);
  BOOST_TEST(rows_of_slab(huge, 24 * 4500, 4500) * 4500 < std::int64_t{1} << 31);
  BOOST_TEST((rows_of_slab(huge, 24, 1) == std::int64_t{1} << 30));  // blocks of a grid
  BOOST_TEST(rows_of_slab(24 * 4500 * 10, 24 * 4500, 4500) == 10);   // else as many as the memory holds
  BOOST_TEST(rows_of_slab(1, 24 * 4500, 4500) == 1);
  BOOST_TEST(rows_of_slab(huge, 24 * 4500, std::int64_t{1} << 32) == 1);
}

BOOST_AUTO_TEST_CASE(hand_values_of_method_13) {
  for (const auto& golden : hand_goldens) {
    BOOST_TEST(average_precision(golden.scores, golden.labels) == golden.ap,
               boost::test_tools::tolerance(1e-15));
    const std::vector<double> wide(golden.scores.begin(), golden.scores.end());
    BOOST_TEST(average_precision(wide, golden.labels) == golden.ap, boost::test_tools::tolerance(1e-15));
    const std::vector<int> classes(golden.labels.begin(), golden.labels.end());
    BOOST_TEST(fast(golden.scores, roles_of(classes, 2))[1].ap == golden.ap,
               boost::test_tools::tolerance(1e-15));
  }
}

BOOST_AUTO_TEST_CASE(equals_scikit_learn_and_numpy) {
  const auto goldens = sklearn_goldens();
  for (const auto& test : goldens["cases"]) {
    const auto& labels = test.contains("labels") ? test["labels"] : goldens["labels"];
    const SampleRoles roles = roles_of(labels.get<std::vector<int>>(), 3);
    std::vector<float> scores;
    for (const auto& text : test["scores"])
      scores.push_back(static_cast<float>(std::stod(text.get<std::string>())));
    const auto result = fast(scores, roles);
    for (std::size_t g = 0; g < 3; ++g) {
      const auto number = [&](const char* key) {
        return std::stod(test["languages"][g][key].get<std::string>());
      };
      BOOST_TEST_CONTEXT(test["name"].get<std::string>() << " language " << g) {
        BOOST_TEST(std::abs(result[g].ap - number("ap")) <= 2e-15);  // sums of up to 60 terms below 1
        BOOST_TEST(result[g].off_p50 == static_cast<float>(number("off_p50")));
        BOOST_TEST(result[g].on_p50 == static_cast<float>(number("on_p50")));
        BOOST_TEST(result[g].on_p90 == static_cast<float>(number("on_p90")));
        BOOST_TEST(result[g].off_mean == static_cast<float>(number("off_mean")),
                   boost::test_tools::tolerance(1e-6F));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(fast_path_equals_the_plain_reference) {
  for (const std::size_t n : {3U, 17U, 1000U}) {
    std::vector<int> classes(n);
    const Philox random(7, RandomPurpose::test, 1);
    for (std::size_t i = 0; i < n; ++i) classes[i] = static_cast<int>(i < 3 ? i : random.below(i, 9) % 3);
    for (int kind = 0; kind < 4; ++kind) {
      const auto scores = random_scores(n, n, kind);
      const auto result = fast(scores, roles_of(classes, 3));
      for (int g = 0; g < 3; ++g) {
        std::vector<std::uint8_t> labels(n);
        std::vector<double> off;
        for (std::size_t i = 0; i < n; ++i) {
          labels[i] = classes[i] == g ? 1 : 0;
          if (labels[i] == 0) off.push_back(static_cast<double>(scores[i]));
        }
        std::sort(off.begin(), off.end());
        const NeuronScore& score = result[static_cast<std::size_t>(g)];
        BOOST_TEST(std::abs(score.ap - average_precision(scores, labels)) <= 1e-14);
        BOOST_TEST(score.off_p50 == static_cast<float>(percentile_sorted(off, 0.5)));
        const std::vector<double> wide(scores.begin(), scores.end());
        BOOST_TEST(score.separation == static_cast<float>(separation(wide, labels)),
                   boost::test_tools::tolerance(1e-6F));
      }
    }
  }
}

// (mean_on − mean_off) / sqrt((var_on + var_off) / 2), population variances.
BOOST_AUTO_TEST_CASE(separation_by_hand) {
  const float inf = std::numeric_limits<float>::infinity();
  const struct {
    std::vector<float> scores;
    std::vector<std::uint8_t> labels;
    float expected;
  } cases[] = {{{1, 3, 10, 14}, {0, 0, 1, 1}, 10.0F / std::sqrt(2.5F)},
               {{10, 1, 14, 3}, {0, 1, 0, 1}, -10.0F / std::sqrt(2.5F)},
               {{2, 2, 2}, {0, 1, 1}, 0.0F},
               {{0.1F, 0.3F, 0.1F, 0.3F, 0.1F}, {0, 1, 0, 1, 0}, inf},
               {{0.3F, 0.1F, 0.3F}, {0, 1, 0}, -inf},
               {{1e8F, 1e8F + 8, 1e8F + 8, 1e8F + 16}, {0, 0, 1, 1}, 2.0F},  // far from 0: two passes
               {{1, 2}, {1, 1}, 0.0F},
               {{-inf, 2, 3}, {0, 0, 1}, 0.0F}};
  for (const auto& test : cases) {
    const std::vector<int> classes(test.labels.begin(), test.labels.end());
    const float found = fast(test.scores, roles_of(classes, 2))[1].separation;
    const std::vector<double> wide(test.scores.begin(), test.scores.end());
    if (std::isinf(test.expected))
      BOOST_TEST(found == test.expected);
    else
      BOOST_TEST(found == test.expected, boost::test_tools::tolerance(1e-6F));
    BOOST_TEST((static_cast<float>(separation(wide, test.labels)) == found ||
                std::abs(found - test.expected) <= 1e-6F * std::abs(test.expected)));
  }
}

BOOST_AUTO_TEST_CASE(absent_samples_do_not_take_part) {
  // Language 0: class 0 positive, class 1 negative, class 2 absent. Scoring without the absent ones must
  // agree.
  SampleRoles roles;
  roles.num_languages = 1;
  roles.num_classes = 3;
  roles.roles = {Role::positive, Role::negative, Role::absent};
  const auto scores = random_scores(3, 90, 1);
  std::vector<float> kept;
  std::vector<std::uint8_t> labels;
  std::vector<double> off;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    roles.class_of_sample.push_back(static_cast<std::uint16_t>(i % 3));
    if (i % 3 == 2) continue;
    kept.push_back(scores[i]);
    labels.push_back(i % 3 == 0 ? 1 : 0);
    if (i % 3 == 1) off.push_back(static_cast<double>(scores[i]));
  }
  std::sort(off.begin(), off.end());
  const auto result = fast(scores, roles);
  BOOST_TEST(std::abs(result[0].ap - average_precision(kept, labels)) <= 1e-14);
  BOOST_TEST(result[0].off_p50 == static_cast<float>(percentile_sorted(off, 0.5)));
}

BOOST_AUTO_TEST_CASE(roles_that_differ_by_language) {
  // Every sample takes part for some languages only, and two languages share positives: the general path.
  SampleRoles roles;
  roles.num_languages = 3;
  roles.num_classes = 5;
  const auto P = Role::positive, N = Role::negative, A = Role::absent;
  roles.roles = {P, P, N, N, A, /**/ N, P, P, A, N, /**/ A, N, A, P, N};
  for (int kind = 0; kind < 4; ++kind) {
    roles.class_of_sample.clear();
    const std::size_t n = 400;
    const auto scores = random_scores(11, n, kind);
    const Philox random(12, RandomPurpose::test);
    for (std::size_t i = 0; i < n; ++i)
      roles.class_of_sample.push_back(static_cast<std::uint16_t>(random.below(i, 5)));
    const auto result = fast(scores, roles);
    for (int g = 0; g < 3; ++g) {
      std::vector<float> kept;
      std::vector<std::uint8_t> labels;
      std::vector<double> on, off;
      double off_sum = 0.0;
      for (std::size_t i = 0; i < n; ++i) {
        const Role role = roles.role(g, roles.class_of_sample[i]);
        if (role == A) continue;
        kept.push_back(scores[i]);
        labels.push_back(role == P ? 1 : 0);
        (role == P ? on : off).push_back(static_cast<double>(scores[i]));
        if (role == N) off_sum += static_cast<double>(scores[i]);
      }
      std::sort(on.begin(), on.end());
      std::sort(off.begin(), off.end());
      const NeuronScore& score = result[static_cast<std::size_t>(g)];
      BOOST_TEST(std::abs(score.ap - average_precision(kept, labels)) <= 1e-14);
      BOOST_TEST(score.on_p50 == static_cast<float>(percentile_sorted(on, 0.5)));
      BOOST_TEST(score.on_p90 == static_cast<float>(percentile_sorted(on, 0.9)));
      BOOST_TEST(score.off_p50 == static_cast<float>(percentile_sorted(off, 0.5)));
      const std::vector<double> wide(kept.begin(), kept.end());
      BOOST_TEST(score.separation == static_cast<float>(separation(wide, labels)),
                 boost::test_tools::tolerance(1e-6F));
      // float64 sums of 400 values in another order, rounded to float32 once
      BOOST_TEST(std::abs(score.off_mean - off_sum / static_cast<double>(off.size())) <= 1e-7);
    }
  }
}

BOOST_AUTO_TEST_CASE(ap_alone_leaves_the_rest_zero) {
  const auto scores = random_scores(5, 300, 0);
  std::vector<int> classes;
  for (int i = 0; i < 300; ++i) classes.push_back(i % 2);
  const SampleRoles roles = roles_of(classes, 2);
  std::vector<NeuronScore> alone(2);
  NeuronScorer(roles, Statistics::average_precision).score(scores, alone);
  const auto all = fast(scores, roles);
  BOOST_TEST(alone[0].ap == all[0].ap);
  BOOST_TEST(alone[0].on_p90 == 0.0F);
  BOOST_TEST(all[0].on_p90 != 0.0F);
}

BOOST_AUTO_TEST_CASE(infinities_sort_last_and_nan_is_an_error) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<int> classes = {1, 0, 0, 1};
  BOOST_TEST(fast({-inf, 0.5F, -2.0F, inf}, roles_of(classes, 2))[1].ap == 0.75);  // 1/2·1 + 1/2·2/4
  const std::vector<float> bad = {1.0F, 2.0F, std::nanf(""), 0.0F};
  const auto names_sample = [](const Error& e) {
    return e.code() == ErrorCode::bad_data && std::string(e.what()).find("sample 2") != std::string::npos;
  };
  BOOST_CHECK_EXCEPTION(fast(bad, roles_of(classes, 2)), Error, names_sample);
  BOOST_CHECK_EXCEPTION(average_precision(bad, std::vector<std::uint8_t>{1, 0, 0, 1}), Error, names_sample);
  std::vector<float> rows(12, 1.0F);
  rows[6] = std::nanf("");
  std::vector<NeuronScore> scores(6);
  BOOST_CHECK_EXCEPTION(score_rows(rows, roles_of(classes, 2), scores, 100), Error, [](const Error& e) {
    return std::string(e.what()).find("neuron 101: response of sample 2") != std::string::npos;
  });
}

BOOST_AUTO_TEST_CASE(no_positive_scores_zero) {
  BOOST_TEST(average_precision(std::vector<float>{1, 2}, std::vector<std::uint8_t>{0, 0}) == 0.0);
  BOOST_TEST(fast({1, 2}, roles_of({0, 0}, 2))[1].ap == 0.0);
}

BOOST_AUTO_TEST_CASE(thresholds_are_strict) {
  const auto counts = neurons_at_ap(std::vector<double>{0.5, 0.5 + 1e-9, 0.75, 1.0, 0.2});
  BOOST_TEST(counts[0] == 3);    // > 0.5
  BOOST_TEST(counts[1] == 2);    // > 0.501
  BOOST_TEST(counts[499] == 1);  // > 0.999
  BOOST_TEST(counts[500] == 0);  // nothing exceeds 1
}

BOOST_AUTO_TEST_CASE(percentiles_interpolate_like_numpy) {
  const std::vector<double> values = {1, 2, 4, 8};
  BOOST_TEST(percentile_sorted(values, 0.5) == 3.0);
  BOOST_TEST(percentile_sorted(values, 0.9) == 6.8, boost::test_tools::tolerance(1e-15));
  BOOST_TEST(percentile_sorted(values, 0.0) == 1.0);
  BOOST_TEST(percentile_sorted(values, 1.0) == 8.0);
  BOOST_TEST(percentile_sorted(std::vector<double>{5}, 0.9) == 5.0);
}
