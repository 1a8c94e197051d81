#include "neuronmoe/analysis/score.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "neuron_file_parts.hpp"
#include "neuronmoe/analysis/responses.hpp"
#include "neuronmoe/comm/agree.hpp"

namespace nmoe::analysis {
namespace {

// A rank's neurons [first, first + count) over all samples.
struct Matrix {
  std::int64_t num_neurons = 0, num_samples = 0, first = 0, count = 0;
  std::vector<float> single;
  std::vector<double> wide;  // filled instead for float64 files
  std::vector<std::int64_t> labels;
};

std::vector<std::int64_t> read_labels(io::H5File& file, std::int64_t num_samples) {
  const io::DatasetInfo info = file.info("/labels");
  const std::int64_t shape[] = {num_samples};
  NMOE_CHECK(info.kind == io::DatasetInfo::Kind::numbers, bad_data, "{}: /labels does not hold numbers",
             file.path());
  const auto widened = [&](const auto& values) {
    return std::vector<std::int64_t>(values.begin(), values.end());
  };
  switch (info.type) {
    case io::ElementType::uint8:
      return widened(file.read<std::uint8_t>("/labels", shape));
    case io::ElementType::uint16:
      return widened(file.read<std::uint16_t>("/labels", shape));
    case io::ElementType::int32:
      return widened(file.read<std::int32_t>("/labels", shape));
    case io::ElementType::uint32:
      return widened(file.read<std::uint32_t>("/labels", shape));
    case io::ElementType::int64:
      return file.read<std::int64_t>("/labels", shape);
    default:
      throw Error(ErrorCode::bad_data,
                  fmt::format("{}: /labels is {}, wanted integers (uint8, uint16, int32, uint32 or int64)",
                              file.path(), io::name_of(info.type)));
  }
}

Matrix read_matrix(const std::string& path, int rank, int size) {
  io::H5File file = io::H5File::open_foreign(path);
  const io::DatasetInfo info = file.info("/responses");
  NMOE_CHECK(info.kind == io::DatasetInfo::Kind::numbers && info.shape.size() == 2 &&
                 (info.type == io::ElementType::float32 || info.type == io::ElementType::float64),
             bad_data, "{}: /responses must be a float32 or float64 matrix [neuron, sample]", path);
  Matrix matrix;
  matrix.num_neurons = info.shape[0];
  matrix.num_samples = info.shape[1];
  matrix.first = matrix.num_neurons * rank / size;
  matrix.count = matrix.num_neurons * (rank + 1) / size - matrix.first;
  matrix.labels = read_labels(file, matrix.num_samples);
  const io::FileRange range{matrix.first * matrix.num_samples, matrix.count * matrix.num_samples};
  const auto read = [&](auto& values) {
    values.resize(static_cast<std::size_t>(range.count));
    file.read_ranges("/responses", info.type, info.shape, {&range, range.count > 0 ? 1U : 0U}, values.data());
  };
  if (info.type == io::ElementType::float32)
    read(matrix.single);
  else
    read(matrix.wide);
  file.close();
  return matrix;
}

// Distinct labels ascending; {0, 1} is the binary question "1 or not".
std::vector<std::int64_t> scored_labels(const Matrix& matrix, const std::string& path) {
  std::vector<std::int64_t> labels = matrix.labels;
  std::sort(labels.begin(), labels.end());
  labels.erase(std::unique(labels.begin(), labels.end()), labels.end());
  NMOE_CHECK(labels.size() >= 2, bad_data,
             "{}: /labels holds {} distinct values; positives and negatives are needed", path, labels.size());
  NMOE_CHECK(labels.front() >= 0 && labels.size() <= 1024, bad_data,
             "{}: /labels runs from {} with {} distinct values; wanted at most 1024 values >= 0", path,
             labels.front(), labels.size());
  if (labels.size() == 2 && labels[0] == 0 && labels[1] == 1) labels.erase(labels.begin());
  return labels;
}

SampleRoles roles_of(const Matrix& matrix, const std::vector<std::int64_t>& scored) {
  std::map<std::int64_t, int> classes;
  for (const std::int64_t label : matrix.labels) classes.emplace(label, 0);
  int next = 0;
  for (auto& [label, id] : classes) id = next++;
  std::vector<int> language_of_sample, analysed;
  for (const std::int64_t label : matrix.labels) language_of_sample.push_back(classes[label]);
  for (const std::int64_t label : scored) analysed.push_back(classes[label]);
  return shared_pool_roles(language_of_sample, next, analysed);
}

// float64 responses are not rounded to fit the fast path, where they could tie: the plain reference takes
// them.
void score_wide(const Matrix& matrix, const SampleRoles& roles, std::vector<NeuronScore>& scores) {
  const auto samples = static_cast<std::size_t>(matrix.num_samples);
  for (std::int64_t n = 0; n < matrix.count; ++n) {
    const std::span<const double> row(matrix.wide.data() + static_cast<std::size_t>(n) * samples, samples);
    for (int g = 0; g < roles.num_languages; ++g) {
      std::vector<std::uint8_t> labels(samples);
      std::vector<double> on, off;
      double off_sum = 0.0;
      for (std::size_t s = 0; s < samples; ++s) {
        labels[s] = roles.role(g, roles.class_of_sample[s]) == Role::positive ? 1 : 0;
        (labels[s] == 1 ? on : off).push_back(row[s]);
        if (labels[s] == 0) off_sum += row[s];
      }
      NeuronScore& score = scores[static_cast<std::size_t>(n * roles.num_languages + g)];
      try {
        score.ap = average_precision(row, labels);
      } catch (const Error& error) {
        throw Error(error.code(), fmt::format("neuron {}: {}", matrix.first + n, error.what()));
      }
      std::sort(on.begin(), on.end());
      std::sort(off.begin(), off.end());
      score.on_p50 = static_cast<float>(percentile_sorted(on, 0.5));
      score.on_p90 = static_cast<float>(percentile_sorted(on, 0.9));
      score.off_p50 = static_cast<float>(percentile_sorted(off, 0.5));
      score.off_mean = static_cast<float>(off_sum / static_cast<double>(off.size()));
    }
  }
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
  const auto flat = [](const auto& rows) {
    typename std::decay_t<decltype(rows)>::value_type values;
    for (const auto& row : rows) values.insert(values.end(), row.begin(), row.end());
    return values;
  };
  const std::vector<std::int64_t> shape = {languages, static_cast<std::int64_t>(statistics.ap[0].size())};
  io::write_h5_atomically(output, io::Storage::compressed, [&](io::H5File& file) {
    write_root_attributes(file, "neuronmoe-scores", statistics.provenance,
                          "average precision of each row of /responses for one label against all others");
    file.write("/label", scored);
    file.write("/ap", flat(statistics.ap), shape);
    file.write("/off_mean", flat(statistics.off_mean), shape);
    file.write("/off_p50", flat(statistics.off_p50), shape);
    file.write("/on_p50", flat(statistics.on_p50), shape);
    file.write("/on_p90", flat(statistics.on_p90), shape);
    file.write("/n_pos", positives);
    file.write("/n_neg", negatives);
    file.write("/neurons_at_ap", at_ap, {languages, num_ap_thresholds});
  });
}

}  // namespace

void score_file(comm::ExecutionContext& context, const std::string& input, const std::string& output,
                const Provenance& provenance) {
  Matrix matrix;
  std::vector<std::int64_t> scored;
  SampleRoles roles;
  std::vector<NeuronScore> scores;
  comm::agree(context.world, [&] {
    matrix = read_matrix(input, context.world.rank(), context.world.size());
    scored = scored_labels(matrix, input);
    roles = roles_of(matrix, scored);
    scores.resize(static_cast<std::size_t>(matrix.count) * scored.size());
    if (matrix.wide.empty())
      score_rows(matrix.single, roles, scores, matrix.first);
    else
      score_wide(matrix, roles, scores);
  });
  const auto all =
      gather_scores(context.world, context.stream, scores, matrix.num_neurons, roles.num_languages);
  comm::agree(context.world, [&] {
    if (context.world.rank() != 0) return;
    NeuronStatistics statistics;
    statistics.provenance = provenance;
    statistics.languages.resize(scored.size());
    append_scores(statistics, all);
    write_scores(output, statistics, roles, scored);
    context.log.info("{} neurons scored for {} labels over {} samples: {}", matrix.num_neurons, scored.size(),
                     matrix.num_samples, output);
  });
}

}  // namespace nmoe::analysis
