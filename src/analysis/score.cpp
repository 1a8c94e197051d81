// `score`: reads slabs of responses, scores them, and writes the result.
#include "neuronmoe/analysis/score.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <map>

#include "neuron_file_parts.hpp"
#include "neuronmoe/analysis/responses.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/comm/layout.hpp"
#include "response_source.hpp"

namespace nmoe::analysis {
namespace {

/// Distinct labels ascending; {0, 1} is the binary question "1 or not".
std::vector<std::int64_t> scored_labels(const ResponseSource& source) {
  std::vector<std::int64_t> labels = source.labels();
  std::sort(labels.begin(), labels.end());
  labels.erase(std::unique(labels.begin(), labels.end()), labels.end());
  NMOE_CHECK(labels.size() >= 2, bad_data,
             "{}: /labels holds {} distinct values; positives and negatives are needed", source.name(),
             labels.size());
  NMOE_CHECK(labels.front() >= 0 && labels.size() <= 1024, bad_data,
             "{}: /labels runs from {} with {} distinct values; wanted at most 1024 values >= 0",
             source.name(), labels.front(), labels.size());
  if (labels.size() == 2 && labels[0] == 0 && labels[1] == 1) labels.erase(labels.begin());
  return labels;
}

SampleRoles roles_of(const ResponseSource& source, const std::vector<std::int64_t>& scored) {
  std::map<std::int64_t, int> classes;
  for (const std::int64_t label : source.labels()) classes.emplace(label, 0);
  int next = 0;
  for (auto& [label, id] : classes) id = next++;
  std::vector<int> language_of_sample, analysed;
  for (const std::int64_t label : source.labels()) language_of_sample.push_back(classes[label]);
  for (const std::int64_t label : scored) analysed.push_back(classes[label]);
  return shared_pool_roles(language_of_sample, next, analysed);
}

void write_scores(const std::string& output, const NeuronStatistics& statistics, const SampleRoles& roles,
                  const std::vector<std::int64_t>& scored) {
  const auto languages = static_cast<std::int64_t>(scored.size());
  std::vector<std::uint64_t> positives, negatives, at_ap;
  for (int g = 0; g < roles.num_languages; ++g) {
    positives.push_back(static_cast<std::uint64_t>(roles.count(g, Role::positive)));
    negatives.push_back(static_cast<std::uint64_t>(roles.count(g, Role::negative)));
    for (const std::int64_t count : neurons_at_ap(statistics.ap[static_cast<std::size_t>(g)]))
      at_ap.push_back(static_cast<std::uint64_t>(count));
  }
  io::write_h5_atomically(output, io::Storage::compressed, [&](io::H5File& file) {
    write_root_attributes(file, score_file_format, statistics.provenance,
                          "average precision of each row of /responses for one label against all others");
    file.write("/label", scored);
    write_statistics(file, statistics, static_cast<std::int64_t>(statistics.ap[0].size()));
    file.write("/n_pos", positives);
    file.write("/n_neg", negatives);
    file.write("/neurons_at_ap", at_ap, {languages, num_ap_thresholds});
  });
}

struct Times {
  double read_s = 0.0, score_s = 0.0, score_processor_s = 0.0;
  std::int64_t slabs = 0, rows = 0;
};

/// This rank's neurons, as many at a time as the memory allows. The slab of a neuron changes nothing in its
/// score.
Times score_slabs(comm::ExecutionContext& context, ResponseSource& source, const SampleRoles& roles,
                  std::int64_t memory_bytes, std::vector<NeuronScore>& scores) {
  using Clock = std::chrono::steady_clock;
  const int rank = context.world.rank(), size = context.world.size();
  const std::int64_t samples = source.num_samples();
  const std::int64_t first = comm::slice_begin(source.num_neurons(), rank, size);
  const std::int64_t count = comm::slice_begin(source.num_neurons(), rank + 1, size) - first;
  const std::int64_t row_bytes =
      samples * static_cast<std::int64_t>(source.wide() ? sizeof(double) : sizeof(float));
  Times times;
  times.rows = std::clamp<std::int64_t>(memory_bytes / std::max<std::int64_t>(row_bytes, 1), 1,
                                        std::max<std::int64_t>(count, 1));
  scores.resize(static_cast<std::size_t>(count * roles.num_languages));
  std::vector<float> single;
  std::vector<double> wide;
  const auto run = [&](auto& slab, auto&& read, auto&& score) {
    for (std::int64_t done = 0; done < count; done += times.rows, ++times.slabs) {
      const std::int64_t rows = std::min(times.rows, count - done);
      const std::span<NeuronScore> out(scores.data() + done * roles.num_languages,
                                       static_cast<std::size_t>(rows * roles.num_languages));
      slab.resize(static_cast<std::size_t>(rows * samples));
      const auto start = Clock::now();
      read(first + done);
      const auto middle = Clock::now();
      const std::clock_t processor = std::clock();
      score(first + done, out);
      times.score_processor_s += static_cast<double>(std::clock() - processor) / CLOCKS_PER_SEC;
      times.read_s += std::chrono::duration<double>(middle - start).count();
      times.score_s += std::chrono::duration<double>(Clock::now() - middle).count();
      context.heartbeat.beat();
    }
  };
  if (source.wide())
    run(
        wide, [&](std::int64_t at) { source.read_wide(at, wide); },
        [&](std::int64_t at, std::span<NeuronScore> out) { score_rows(wide, roles, out, at); });
  else
    run(
        single, [&](std::int64_t at) { source.read(at, single); },
        [&](std::int64_t at, std::span<NeuronScore> out) {
          score_rows({context.stream, memory_bytes}, single, roles, out, at);
        });
  return times;
}

}  // namespace

void score_responses(comm::ExecutionContext& context, const ScoreRequest& request, const std::string& output,
                     const Provenance& provenance) {
  std::unique_ptr<ResponseSource> source;
  std::vector<std::int64_t> scored;
  SampleRoles roles;
  std::vector<NeuronScore> scores;
  Times times;
  comm::agree(context.world, [&] {
    NMOE_CHECK(request.input.empty() != request.synthetic.empty(), config,
               "score.input = '{}' and score.synthetic = '{}': give one of them", request.input,
               request.synthetic);
    source = request.input.empty() ? make_synthetic_responses(request.synthetic)
                                   : open_response_file(request.input);
    scored = scored_labels(*source);
    roles = roles_of(*source, scored);
    times = score_slabs(context, *source, roles, request.memory_bytes, scores);
  });
  const std::int64_t neurons = source->num_neurons();
  const auto all = gather_scores(context.world, context.stream, scores, neurons, roles.num_languages);
  comm::agree(context.world, [&] {
    if (context.world.rank() != 0) return;
    NeuronStatistics statistics;
    statistics.provenance = provenance;
    statistics.languages.resize(scored.size());
    append_scores(statistics, all);
    write_scores(output, statistics, roles, scored);
    const double mine = static_cast<double>(static_cast<std::int64_t>(scores.size()) / roles.num_languages);
    context.log.info("{}: {} neurons scored for {} labels over {} samples", source->name(), neurons,
                     scored.size(), source->num_samples());
    context.log.info(
        "rank 0: {} slabs of at most {} neurons; {:.2f} s of input; {:.2f} "
        "s of scoring, {:.2f} s of processor time: {:.0f} neurons/s and core",
        times.slabs, times.rows, times.read_s, times.score_s, times.score_processor_s,
        times.score_processor_s > 0.0 ? mine / times.score_processor_s : 0.0);
  });
}

}  // namespace nmoe::analysis
