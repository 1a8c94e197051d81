// Average precision, neurons per second and core: N samples, K languages, responses of several kinds.
// bench_ap [samples] [languages] [neurons]. Prints the fast path, alone and with means and percentiles, and
// the plain reference (all K languages each). With a file of float32 [neurons, samples] as fourth argument it
// scores that, prints the two rates as JSON and writes the AP, float64 [neurons, languages], to FILE.ap: for
// ap_against_sklearn.py.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <string>

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

// Neurons per second of one thread, best of five.
double rate(const SampleRoles& roles, Statistics wanted, const std::vector<float>& responses,
            std::vector<NeuronScore>& scores) {
  const auto samples = static_cast<std::size_t>(roles.num_samples());
  const auto languages = static_cast<std::size_t>(roles.num_languages);
  const std::size_t neurons = responses.size() / samples;
  scores.resize(neurons * languages);
  NeuronScorer scorer(roles, wanted);
  double best = 1e30;
  for (int round = 0; round < 5; ++round)
    best = std::min(best, seconds_of([&] {
                      for (std::size_t n = 0; n < neurons; ++n)
                        scorer.score(std::span(responses).subspan(n * samples, samples),
                                     std::span(scores).subspan(n * languages, languages));
                    }));
  return static_cast<double>(neurons) / best;
}

void run(const char* name, const std::vector<float>& responses, const SampleRoles& roles) {
  const auto samples = static_cast<std::size_t>(roles.num_samples());
  const auto languages = static_cast<std::size_t>(roles.num_languages);
  std::vector<NeuronScore> scores;
  const double alone = rate(roles, Statistics::average_precision, responses, scores);
  const double all = rate(roles, Statistics::all, responses, scores);
  const std::size_t few = std::min<std::size_t>(responses.size() / samples, 50);
  double difference = 0.0;
  const double plain = seconds_of([&] {
    for (std::size_t n = 0; n < few; ++n) {
      for (std::size_t g = 0; g < languages; ++g) {
        std::vector<std::uint8_t> labels;
        for (const std::uint16_t c : roles.class_of_sample) labels.push_back(c == g ? 1 : 0);
        const double ap = average_precision(std::span(responses).subspan(n * samples, samples), labels);
        difference = std::max(difference, std::abs(ap - scores[n * languages + g].ap));
      }
    }
  });
  fmt::print("{:<12} {:>10.0f} {:>14.0f} {:>10.0f} {:>10.1e}\n", name, alone, all,
             static_cast<double>(few) / plain, difference);
}

void run_file(const std::string& path, const SampleRoles& roles, std::int64_t neurons) {
  std::vector<float> responses(static_cast<std::size_t>(neurons * roles.num_samples()));
  std::ifstream(path, std::ios::binary)
      .read(reinterpret_cast<char*>(responses.data()),
            static_cast<std::streamsize>(responses.size() * sizeof(float)));
  std::vector<NeuronScore> scores;
  const double alone = rate(roles, Statistics::average_precision, responses, scores);
  const double all = rate(roles, Statistics::all, responses, scores);
  std::ofstream out(path + ".ap", std::ios::binary);
  for (const auto& score : scores) out.write(reinterpret_cast<const char*>(&score.ap), sizeof(score.ap));
  fmt::print("{{\"ap_alone\": {:.1f}, \"all_statistics\": {:.1f}}}\n", alone, all);
}

}  // namespace

int main(int argc, char** argv) {
  const std::int64_t samples = argc > 1 ? std::atoll(argv[1]) : 4500;
  const int languages = argc > 2 ? std::atoi(argv[2]) : 9;
  const std::int64_t neurons = argc > 3 ? std::atoll(argv[3]) : 4000;
  const Philox random(1, RandomPurpose::synthetic);
  std::vector<int> language;
  for (std::int64_t s = 0; s < samples; ++s) language.push_back(static_cast<int>(s * languages / samples));
  std::vector<int> all;
  for (int g = 0; g < languages; ++g) all.push_back(g);
  const SampleRoles roles = shared_pool_roles(language, languages, all);
  if (argc > 4) {
    run_file(argv[4], roles, neurons);
    return 0;
  }
  std::vector<float> normal;
  for (std::int64_t i = 0; i < samples * neurons; ++i)
    normal.push_back(static_cast<float>(random.normal(static_cast<std::uint64_t>(i))));
  const auto mapped = [&](auto&& f) {
    std::vector<float> result = normal;
    for (std::size_t i = 0; i < result.size(); ++i) result[i] = f(i, result[i]);
    return result;
  };
  const auto every = static_cast<std::size_t>(samples);
  fmt::print("{} samples, {} languages, {} neurons, one thread; neurons/s\n", samples, languages, neurons);
  fmt::print("{:<12} {:>10} {:>14} {:>10} {:>10}\n", "responses", "AP alone", "all statistics", "plain AP",
             "difference");
  run("continuous", normal, roles);
  run("half zeros", mapped([](std::size_t, float x) { return std::max(x, 0.0F); }), roles);
  run("five values", mapped([](std::size_t, float x) { return std::round(x); }), roles);
  run("offset 100", mapped([](std::size_t, float x) { return 100.0F + 0.1F * x; }), roles);
  run("outlier", mapped([&](std::size_t i, float x) { return i % every == 0 ? 1e6F : x; }), roles);
}
