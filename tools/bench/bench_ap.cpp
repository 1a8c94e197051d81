// Average precision, neurons per second and core: N samples, K languages, continuous responses and half
// zeros. bench_ap [samples] [languages] [neurons]. Prints the fast path and the plain reference (all K
// languages each).
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <ctime>

#include "neuronmoe/analysis/average_precision.hpp"
#include "neuronmoe/base/philox.hpp"

namespace {

using namespace nmoe;
using namespace nmoe::analysis;

double seconds_of(const auto& work) {
  const std::clock_t start = std::clock();  // processor time: the machine may be shared
  work();
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

void run(const char* name, const std::vector<float>& responses, const std::vector<int>& language,
         int languages, std::int64_t neurons) {
  const auto samples = static_cast<std::int64_t>(language.size());
  std::vector<int> all;
  for (int g = 0; g < languages; ++g) all.push_back(g);
  const SampleRoles roles = shared_pool_roles(language, languages, all);
  std::vector<NeuronScore> scores(static_cast<std::size_t>(neurons * languages));
  NeuronScorer scorer(roles);
  double best = 1e30;  // of three
  for (int round = 0; round < 3; ++round)
    best = std::min(
        best, seconds_of([&] {
          for (std::int64_t n = 0; n < neurons; ++n)
            scorer.score(std::span(responses).subspan(static_cast<std::size_t>(n * samples), language.size()),
                         std::span(scores).subspan(static_cast<std::size_t>(n * languages), all.size()));
        }));
  const std::int64_t few = std::min<std::int64_t>(neurons, 50);
  double difference = 0.0;
  const double plain = seconds_of([&] {
    for (std::int64_t n = 0; n < few; ++n) {
      for (int g = 0; g < languages; ++g) {
        std::vector<std::uint8_t> labels;
        for (const int l : language) labels.push_back(l == g ? 1 : 0);
        const double ap = average_precision(
            std::span(responses).subspan(static_cast<std::size_t>(n * samples), language.size()), labels);
        difference =
            std::max(difference, std::abs(ap - scores[static_cast<std::size_t>(n * languages + g)].ap));
      }
    }
  });
  fmt::print("{}: fast {:.0f} neurons/s/core, plain {:.0f} neurons/s/core, largest difference {:.1e}\n", name,
             static_cast<double>(neurons) / best, static_cast<double>(few) / plain, difference);
}

}  // namespace

int main(int argc, char** argv) {
  const std::int64_t samples = argc > 1 ? std::atoll(argv[1]) : 4500;
  const int languages = argc > 2 ? std::atoi(argv[2]) : 9;
  const std::int64_t neurons = argc > 3 ? std::atoll(argv[3]) : 4000;
  const Philox random(1, RandomPurpose::synthetic);
  std::vector<int> language;
  for (std::int64_t s = 0; s < samples; ++s) language.push_back(static_cast<int>(s * languages / samples));
  std::vector<float> responses;
  for (std::int64_t i = 0; i < samples * neurons; ++i)
    responses.push_back(static_cast<float>(random.normal(static_cast<std::uint64_t>(i))));
  fmt::print("{} samples, {} languages, {} neurons, one thread\n", samples, languages, neurons);
  run("continuous", responses, language, languages, neurons);
  for (float& x : responses) x = std::max(x, 0.0F);
  run("half zeros", responses, language, languages, neurons);
}
