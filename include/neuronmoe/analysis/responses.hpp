#pragma once
// Pooled responses: mean activation of every watched unit over the tokens of each sample (METHOD 1.4),
// gathered where the forward ran and then exchanged so that each rank holds some units over all samples
// (DESIGN 6). Used by analyze and specialize.
#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "neuronmoe/analysis/average_precision.hpp"
#include "neuronmoe/analysis/row_grouping.hpp"
#include "neuronmoe/analysis/sense.hpp"
#include "neuronmoe/base/raw_vector.hpp"
#include "neuronmoe/comm/communicator.hpp"
#include "neuronmoe/model/observer.hpp"
#include "neuronmoe/tensor/read_back.hpp"

namespace nmoe::analysis {

/// A place to watch and the width of what appears there.
struct WatchedSite {
  model::ActivationSite site;
  std::int64_t width;
};

/// Pools what passes the watched sites. Sums in float32 (float64 for double models) in token order, then
/// divided by the token count. Values are pooled where they are: from a GPU only the sums of samples come to
/// the host, in large pieces. Keeps samples × width floats per site until it is destroyed.
class ResponseStore : public RoundObserver {
 public:
  /// What this rank has seen of one site: one row per sample with at least one token.
  struct Rows {
    std::vector<std::int64_t> samples, num_tokens;
    RawVector<float> values;  ///< [samples.size(), width]
  };

  /// @param stream of the decoder; must outlive this   @param expected_samples room for so many per site is
  /// set aside
  ResponseStore(std::vector<WatchedSite> sites, Stream& stream, std::int64_t expected_samples = 0);
  bool wants(const model::ActivationSite& site) const override;
  bool takes_device_values() const override { return true; }
  void observe(const model::ActivationSite& site, ConstTensorView values,
               ConstTensorView row_sample) override;
  void begin_round(std::span<const std::int64_t> samples) override;
  void end_round() override;

  const std::vector<WatchedSite>& sites() const { return sites_; }
  const Rows& rows(std::size_t site) const { return rows_[site]; }
  /// Frees the rows of a site that has been scored.
  void release(std::size_t site) { rows_[site] = {}; }

 private:
  struct Pending {                                        // sums of the current round
    std::vector<std::int64_t> row_of_sample, num_tokens;  // −1 = not seen; per row
    std::vector<std::int64_t> sample_of_row;
    RawVector<double> sums;  // exact widening of the kernel's sums
  };
  void fold(Pending& pending, ConstTensorView sums, const std::vector<std::int32_t>& samples,
            const std::vector<std::int64_t>& num_tokens);

  Stream& stream_;
  RowGrouping grouping_;
  std::unique_ptr<ReadBack> read_back_;  // only if the stream is a GPU's
  std::vector<WatchedSite> sites_;
  std::unordered_map<std::int64_t, std::size_t> index_;
  std::vector<Rows> rows_;
  std::vector<Pending> pending_;
  std::vector<std::int64_t> round_samples_;
};

/// Some units of one site over all samples.
struct SiteResponses {
  std::int64_t first_unit = 0, num_units = 0;
  RawVector<float> values;  ///< [num_units, S]
  std::vector<std::int64_t>
      num_tokens;  ///< [S], the same on every rank; 0 = no token of the sample came here
};

/// Gives rank r the units [width·r/R, width·(r+1)/R) over all samples; samples without tokens get `fill`.
/// Memory of an earlier `result` is used again.
/// @throws Error(internal) if two ranks claim the same sample.   Collective over the world.
void exchange_site(SiteResponses& result, comm::ExecutionContext& context, const ResponseStore::Rows& mine,
                   std::int64_t width, std::int64_t num_samples, float fill);

/// Scores of all units of a site on rank 0, [width, languages]; empty elsewhere.   Collective.
/// @param place where this rank scores its units   @param what named in the message of a NaN
std::vector<NeuronScore> score_site(comm::Communicator& comm, ScoringPlace place, const SiteResponses& mine,
                                    std::int64_t width, const SampleRoles& roles, const std::string& what);

/// Scores [slice of `width` as in exchange_site, languages] of all ranks on rank 0, in unit order.
/// Collective.
std::vector<NeuronScore> gather_scores(comm::Communicator& comm, Stream& stream,
                                       const std::vector<NeuronScore>& scores, std::int64_t width,
                                       int languages);

}  // namespace nmoe::analysis
