// Ranking rows of responses on the GPU: the bits of the plain loops, and of the CPU's scorer, for shared
// pools and for roles with absent samples, on continuous, tied, constant, ±0, denormal and infinite
// responses.
#include <cstring>
#include <limits>

#include "neuronmoe/analysis/average_precision.hpp"
#include "neuronmoe/ops/backends.hpp"
#include "support/on_gpu.hpp"

using namespace nmoe;
using namespace nmoe::analysis;
using namespace nmoe::test;

namespace {

enum class Kind { continuous, rounded, half_zeros, signed_zeros, constant, denormal, infinite };
const std::vector<Kind> kinds = {Kind::continuous, Kind::rounded,  Kind::half_zeros, Kind::signed_zeros,
                                 Kind::constant,   Kind::denormal, Kind::infinite};

float response(Kind kind, std::size_t i, double x) {
  const float value = static_cast<float>(x), inf = std::numeric_limits<float>::infinity();
  switch (kind) {
    case Kind::continuous:
      return value;
    case Kind::rounded:
      return std::round(value);
    case Kind::half_zeros:
      return std::max(value, 0.0F);
    case Kind::signed_zeros:
      return i % 3 == 0 ? 0.0F : -0.0F;
    case Kind::constant:
      return 2.5F;
    case Kind::denormal:
      return std::round(value * 4.0F) * std::numeric_limits<float>::denorm_min();
    case Kind::infinite:
      return std::abs(value) > 1.0F ? std::copysign(inf, value) : value;
  }
  return value;
}

/// One row of each kind, over and over.
std::vector<float> rows_of(std::int64_t rows, std::int64_t samples) {
  std::vector<float> all;
  const Philox random(3, RandomPurpose::test);
  for (std::int64_t i = 0; i < rows * samples; ++i)
    all.push_back(response(kinds[static_cast<std::size_t>(i / samples) % kinds.size()],
                           static_cast<std::size_t>(i), random.normal(static_cast<std::uint64_t>(i))));
  return all;
}

SampleRoles shared(std::int64_t samples, int languages) {
  std::vector<int> language, all;
  for (std::int64_t s = 0; s < samples; ++s)
    language.push_back(static_cast<int>((s * 7 + s / 5) % languages));
  for (int g = 0; g < languages; ++g) all.push_back(g);
  return shared_pool_roles(language, languages, all);
}

/// Five classes of which two are positive for two languages and others take no part.
SampleRoles overlapping(std::int64_t samples) {
  SampleRoles roles;
  roles.num_languages = 3;
  roles.num_classes = 5;
  const auto P = Role::positive, N = Role::negative, A = Role::absent;
  roles.roles = {P, P, N, N, A, /**/ N, P, P, A, N, /**/ A, N, A, P, N};
  for (std::int64_t s = 0; s < samples; ++s)
    roles.class_of_sample.push_back(static_cast<std::uint16_t>((s * 3 + s / 4) % 5));
  return roles;
}

void check_equal(const std::vector<NeuronScore>& got, const std::vector<NeuronScore>& wanted) {
  BOOST_REQUIRE(got.size() == wanted.size());
  std::size_t different = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    for_each_statistic(got[i], wanted[i], [&](std::string_view name, auto a, auto b, const StatisticInfo&) {
      if (name == "off_mean" && std::isnan(a) && std::isnan(b)) return;  // inf − inf
      different += std::memcmp(&a, &b, sizeof(a)) != 0 ? 1 : 0;
    });
  }
  BOOST_TEST(different == 0U);
}

}  // namespace

BOOST_AUTO_TEST_CASE(scores_have_the_bits_of_the_cpu) {
  for (const std::int64_t samples : {1, 2, 31, 32, 33, 64, 257, 1000}) {
    for (const SampleRoles& roles : {shared(samples, 2), shared(samples, 9), overlapping(samples)}) {
      const std::int64_t rows = samples > 100 ? 7 : 21;
      const auto responses = rows_of(rows, samples);
      std::vector<NeuronScore> wanted(static_cast<std::size_t>(rows * roles.num_languages)), got(wanted);
      score_rows(responses, roles, wanted);
      for (const std::int64_t slab_bytes : {1, 5000, 1 << 26}) {
        NeuronScore none;
        for_each_statistic(none, [](std::string_view, auto& value, const StatisticInfo&) { value = -1; });
        got.assign(got.size(), none);
        score_rows({gpu_stream(), slab_bytes}, responses, roles, got);
        check_equal(got, wanted);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(nan_names_neuron_and_sample) {
  const SampleRoles roles = shared(40, 3);
  auto responses = rows_of(9, 40);
  responses[4 * 40 + 17] = responses[4 * 40 + 33] = responses[6 * 40] = std::nanf("");
  std::vector<NeuronScore> scores(27);
  std::string on_cpu, on_the_gpu;
  for (const std::int64_t slab_bytes : {1, 2000, 1 << 26}) {
    try {
      score_rows(responses, roles, scores, 100);
    } catch (const Error& error) {
      on_cpu = error.what();
    }
    BOOST_CHECK_EXCEPTION(score_rows({gpu_stream(), slab_bytes}, responses, roles, scores, 100), Error,
                          [&](const Error& error) {
                            on_the_gpu = error.what();
                            return error.code() == ErrorCode::bad_data;
                          });
    BOOST_TEST(on_the_gpu == on_cpu);
    BOOST_TEST(on_the_gpu.find("neuron 104: response of sample 17 is NaN") != std::string::npos);
  }
}

// The op itself against the plain loops, a language without positives among the languages.
BOOST_AUTO_TEST_CASE(rank_rows_has_the_bits_of_the_plain_loops) {
  static_assert(ops::num_order_statistics == 6 && ops::num_ranked_values == 2, "shapes below");
  const std::int64_t rows = 7, samples = 150;
  const auto values = rows_of(rows, samples);
  std::vector<std::int32_t> classes, by_class;
  for (std::int32_t s = 0; s < samples; ++s) classes.push_back(s / 50);
  for (std::int32_t s = 0; s < samples; ++s) by_class.push_back(s);
  const Tensor responses = make_tensor<float>(values, {rows, samples}),
               class_of_sample = make_tensor<std::int32_t>(classes, {samples}),
               roles = make_tensor<std::uint8_t>({1, 0, 0, /**/ 0, 0, 0, /**/ 0, 0, 1}, {3, 3}),
               positives = make_tensor<std::int64_t>({0, 50, 50, 100}, {4}),
               sample_by_class = make_tensor<std::int32_t>(by_class, {samples}),
               class_begin = make_tensor<std::int32_t>({0, 50, 100, 150}, {4}),
               wanted = make_tensor<std::int32_t>(
                   {25, 24, 5, 4, 50, 49, /**/ -1, -1, -1, -1, 75, 74, /**/ 0, 49, 1, 1, 99, 0}, {3, 6});
  const auto run = [&](const auto& place, auto&& rank) {
    std::vector<Tensor> results;
    for (const auto& [shape, dtype] :
         {std::pair(Shape{2, rows, 3}, DType::float64), std::pair(Shape{rows, 3, 6}, DType::float32),
          std::pair(Shape{rows}, DType::int32)})
      results.push_back(place(Tensor(shape, dtype)));
    const Tensor tables[] = {place(copy_of(class_of_sample)), place(copy_of(roles)),
                             place(copy_of(positives)),       place(copy_of(sample_by_class)),
                             place(copy_of(class_begin)),     place(copy_of(wanted)),
                             place(copy_of(responses))};
    rank(ops::RankedRows{results[0].view(), results[1].view(), results[2].view()}, tables[6].view(),
         ops::RankingTables{tables[0].view(), tables[1].view(), tables[2].view(), 100, tables[3].view(),
                            tables[4].view(), tables[5].view(), true});
    return results;
  };
  const auto plain = run([](Tensor t) { return t; },
                         [](const auto& results, const auto& x, const auto& tables) {
                           ops::reference::rank_rows(results, x, tables, cpu_stream());
                         });
  const auto gpu = run([](const Tensor& t) { return on_gpu(t); },
                       [](const auto& results, const auto& x, const auto& tables) {
                         ops::rank_rows(results, x, tables, gpu_stream());
                       });
  for (std::size_t i = 0; i < plain.size(); ++i) BOOST_TEST(same_bits(from_gpu(gpu[i]), plain[i]));
  BOOST_TEST(plain[0].data<double>()[1] == 0.0);  // the language without positives
}
