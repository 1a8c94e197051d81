// Pools activations per sample, exchanges them between ranks, and gathers the scores.
#include "neuronmoe/analysis/responses.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/comm/layout.hpp"

namespace nmoe::analysis {
namespace {

constexpr std::int64_t read_back_piece_bytes = std::int64_t{64} << 20;

std::int64_t key_of(const model::ActivationSite& site) {
  return (std::int64_t{site.layer} * 16 + static_cast<int>(site.projection)) * 65536 + site.expert + 1;
}

/// The lists of all ranks, one after another.
std::vector<std::int64_t> gather_all(comm::Communicator& comm, Stream& stream,
                                     const std::vector<std::int64_t>& mine,
                                     const std::vector<std::int64_t>& counts) {
  std::vector<std::int64_t> all(
      static_cast<std::size_t>(std::accumulate(counts.begin(), counts.end(), std::int64_t{0})));
  const TensorView recv(all.data(), DType::int64, {static_cast<std::int64_t>(all.size())});
  const ConstTensorView send(mine.data(), DType::int64, {static_cast<std::int64_t>(mine.size())});
  comm.all_gather_v(recv, counts, send, stream).wait();
  return all;
}

std::vector<std::int64_t> gather_count(comm::Communicator& comm, Stream& stream, std::size_t mine) {
  return gather_all(comm, stream, {static_cast<std::int64_t>(mine)},
                    std::vector<std::int64_t>(static_cast<std::size_t>(comm.size()), 1));
}

/// values[unit, samples[i]] = received[i, unit], a cache line of units at a time. Rows of all ranks came in
/// rank order, like `samples`.
void transpose(SiteResponses& result, const RawVector<float>& received,
               const std::vector<std::int64_t>& samples, std::int64_t num_samples) {
  constexpr std::int64_t block = 16;
  const std::int64_t units = result.num_units;
#pragma omp parallel for schedule(static)
  for (std::int64_t first = 0; first < units; first += block) {
    const std::int64_t last = std::min(first + block, units);
    for (std::size_t i = 0; i < samples.size(); ++i) {
      const float* row = received.data() + static_cast<std::int64_t>(i) * units;
      for (std::int64_t u = first; u < last; ++u)
        result.values[static_cast<std::size_t>(u * num_samples + samples[i])] = row[u];
    }
  }
}

}  // namespace

ResponseStore::ResponseStore(std::vector<WatchedSite> sites, Stream& stream, std::int64_t expected_samples)
    : stream_(stream),
      grouping_(stream, RowGrouping::Empty::left_out),
      read_back_(stream.device() == Device::cpu ? nullptr
                                                : std::make_unique<ReadBack>(stream, read_back_piece_bytes)),
      sites_(std::move(sites)),
      rows_(sites_.size()),
      pending_(sites_.size()) {
  for (std::size_t i = 0; i < sites_.size(); ++i) index_[key_of(sites_[i].site)] = i;
  NMOE_CHECK(index_.size() == sites_.size(), internal, "a site is watched twice");
  for (std::size_t i = 0; i < sites_.size(); ++i)
    rows_[i].values.reserve(static_cast<std::size_t>(expected_samples * sites_[i].width));
}

bool ResponseStore::wants(const model::ActivationSite& site) const {
  return index_.count(key_of(site)) != 0;
}

void ResponseStore::begin_round(std::span<const std::int64_t> samples) {
  round_samples_.assign(samples.begin(), samples.end());
  for (auto& pending : pending_) {
    pending.row_of_sample.assign(samples.size(), -1);
    pending.num_tokens.clear();
    pending.sample_of_row.clear();
    pending.sums.clear();
  }
}

void ResponseStore::observe(const model::ActivationSite& site, ConstTensorView values,
                            ConstTensorView row_sample) {
  const auto at = index_.find(key_of(site));
  NMOE_CHECK(at != index_.end(), internal, "layer {} projection {} expert {} is not watched", site.layer,
             static_cast<int>(site.projection), site.expert);
  const std::int64_t width = sites_[at->second].width, rows = row_sample.num_elements();
  NMOE_CHECK(values.num_elements() == rows * width, internal,
             "layer {} projection {}: {} values, wanted {} x {}", site.layer,
             static_cast<int>(site.projection), values.num_elements(), rows, width);
  if (rows == 0) return;
  const auto num_samples = static_cast<std::int64_t>(round_samples_.size());
  const std::span<const std::int32_t> sample(row_sample.data<std::int32_t>(), static_cast<std::size_t>(rows));
  for (std::size_t t = 0; t < sample.size(); ++t)
    NMOE_CHECK(sample[t] >= 0 && sample[t] <= num_samples, internal, "row {} belongs to sample {} of {}", t,
               sample[t], num_samples);
  grouping_.group(sample, num_samples);  // num_samples itself stands for rows that are not pooled
  const Shape shape{grouping_.num_groups(), width};
  Pending& pending = pending_[at->second];
  if (values.device() == Device::cpu) {
    Tensor sums(shape, accumulator_of(values.dtype()));
    ops::sum_groups(sums.view(), values.reshape({rows, width}), grouping_.groups(), stream_);
    fold(pending, sums.view(), grouping_.ids(), grouping_.sizes());
    return;
  }
  const TensorView sums =
      read_back_->take(shape, accumulator_of(values.dtype()),
                       [this, &pending, samples = grouping_.ids(), num_tokens = grouping_.sizes()](
                           ConstTensorView on_host) { fold(pending, on_host, samples, num_tokens); });
  ops::sum_groups(sums, values.reshape({rows, width}), grouping_.groups(), stream_);
}

/// A sample normally arrives in one call; experts may see it in several.
void ResponseStore::fold(Pending& pending, ConstTensorView sums, const std::vector<std::int32_t>& samples,
                         const std::vector<std::int64_t>& num_tokens) {
  const std::int64_t width = sums.dim(1);
  const std::size_t rows_before = pending.sample_of_row.size();
  std::vector<std::int64_t> rows;
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const auto sample = static_cast<std::size_t>(samples[i]);
    std::int64_t& row = pending.row_of_sample[sample];
    if (row < 0) {
      row = static_cast<std::int64_t>(pending.sample_of_row.size());
      pending.sample_of_row.push_back(round_samples_[sample]);
      pending.num_tokens.push_back(0);
    }
    pending.num_tokens[static_cast<std::size_t>(row)] += num_tokens[i];
    rows.push_back(row);
  }
  pending.sums.resize(pending.sample_of_row.size() * static_cast<std::size_t>(width));
  const auto add = [&](const auto* from) {
#pragma omp parallel for schedule(static)
    for (std::size_t i = 0; i < rows.size(); ++i) {
      double* to = pending.sums.data() + rows[i] * width;
      const bool first = rows[i] >= static_cast<std::int64_t>(rows_before);
      for (std::int64_t n = 0; n < width; ++n) {
        const auto sum = static_cast<double>(from[static_cast<std::int64_t>(i) * width + n]);
        to[n] = first ? sum : to[n] + sum;
      }
    }
  };
  if (sums.dtype() == DType::float64)
    add(sums.data<double>());
  else
    add(sums.data<float>());
}

void ResponseStore::end_round() {
  if (read_back_) read_back_->drain();
  for (std::size_t i = 0; i < sites_.size(); ++i) {
    const Pending& pending = pending_[i];
    Rows& rows = rows_[i];
    const auto width = static_cast<std::size_t>(sites_[i].width), before = rows.values.size();
    rows.samples.insert(rows.samples.end(), pending.sample_of_row.begin(), pending.sample_of_row.end());
    rows.num_tokens.insert(rows.num_tokens.end(), pending.num_tokens.begin(), pending.num_tokens.end());
    rows.values.resize(before + pending.sums.size());
#pragma omp parallel for schedule(static)
    for (std::size_t r = 0; r < pending.sample_of_row.size(); ++r) {
      for (std::size_t n = 0; n < width; ++n)  // float32 sum ÷ count, as numpy's mean over float32
        rows.values[before + r * width + n] =
            static_cast<float>(pending.sums[r * width + n]) / static_cast<float>(pending.num_tokens[r]);
    }
  }
}

void exchange_site(SiteResponses& result, comm::ExecutionContext& context, const ResponseStore::Rows& mine,
                   std::int64_t width, std::int64_t num_samples, float fill) {
  comm::Communicator& comm = context.world;
  Stream& stream = context.stream;
  const int size = comm.size();
  const auto num_rows = gather_count(comm, stream, mine.samples.size());
  const auto samples = gather_all(comm, stream, mine.samples, num_rows);
  const auto tokens = gather_all(comm, stream, mine.num_tokens, num_rows);

  result.first_unit = comm::slice_begin(width, comm.rank(), size);
  result.num_units = comm::slice_begin(width, comm.rank() + 1, size) - result.first_unit;
  result.num_tokens.assign(static_cast<std::size_t>(num_samples), 0);
  for (std::size_t i = 0; i < samples.size(); ++i) {
    auto& count = result.num_tokens[static_cast<std::size_t>(samples[i])];
    NMOE_CHECK(count == 0, internal, "sample {} was pooled twice", samples[i]);
    count = tokens[i];
  }

  result.values.resize(static_cast<std::size_t>(result.num_units * num_samples));
  if (static_cast<std::int64_t>(samples.size()) < num_samples)
    std::fill(result.values.begin(), result.values.end(), fill);
  if (size == 1) return transpose(result, mine.values, samples, num_samples);
  // One block [my rows, units of r] per receiver.
  std::vector<std::int64_t> send_counts, recv_counts;
  RawVector<float> send;
  send.reserve(mine.values.size());
  for (int r = 0; r < size; ++r) {
    const std::int64_t begin = comm::slice_begin(width, r, size), end = comm::slice_begin(width, r + 1, size);
    for (std::size_t row = 0; row < mine.samples.size(); ++row) {
      const auto first = mine.values.begin() + static_cast<std::ptrdiff_t>(row) * width;
      send.insert(send.end(), first + begin, first + end);
    }
    send_counts.push_back(static_cast<std::int64_t>(mine.samples.size()) * (end - begin));
    recv_counts.push_back(num_rows[static_cast<std::size_t>(r)] * result.num_units);
  }
  RawVector<float> recv(samples.size() * static_cast<std::size_t>(result.num_units));
  comm.all_to_all_v(TensorView(recv.data(), DType::float32, {static_cast<std::int64_t>(recv.size())}),
                    recv_counts,
                    ConstTensorView(send.data(), DType::float32, {static_cast<std::int64_t>(send.size())}),
                    send_counts, stream)
      .wait();
  transpose(result, recv, samples, num_samples);
}

std::vector<NeuronScore> gather_scores(comm::Communicator& comm, Stream& stream,
                                       const std::vector<NeuronScore>& scores, std::int64_t width,
                                       int languages) {
  // Plain bytes to rank 0; the others receive nothing.
  static_assert(std::is_trivially_copyable_v<NeuronScore>);
  const bool root = comm.rank() == 0;
  const auto bytes_of = [&](int r) {
    return (comm::slice_begin(width, r + 1, comm.size()) - comm::slice_begin(width, r, comm.size())) *
           languages * static_cast<std::int64_t>(sizeof(NeuronScore));
  };
  std::vector<std::int64_t> send_counts(static_cast<std::size_t>(comm.size()), 0), recv_counts(send_counts);
  send_counts[0] = bytes_of(comm.rank());
  if (root)
    for (int r = 0; r < comm.size(); ++r) recv_counts[static_cast<std::size_t>(r)] = bytes_of(r);
  std::vector<NeuronScore> all(root ? static_cast<std::size_t>(width * languages) : 0);
  comm.all_to_all_v(
          TensorView(all.data(), DType::uint8, {static_cast<std::int64_t>(all.size() * sizeof(NeuronScore))}),
          recv_counts, ConstTensorView(scores.data(), DType::uint8, {send_counts[0]}), send_counts, stream)
      .wait();
  return all;
}

std::vector<NeuronScore> score_site(comm::Communicator& comm, ScoringPlace place, const SiteResponses& mine,
                                    std::int64_t width, const SampleRoles& roles, const std::string& what) {
  std::vector<NeuronScore> scores(static_cast<std::size_t>(mine.num_units * roles.num_languages));
  comm::agree(comm, [&] {
    try {
      score_rows(place, mine.values, roles, scores, mine.first_unit);
    } catch (const Error& error) {
      throw Error(error.code(), fmt::format("{}: {}", what, error.what()));
    }
  });
  return gather_scores(comm, place.stream, scores, width, roles.num_languages);
}

}  // namespace nmoe::analysis
