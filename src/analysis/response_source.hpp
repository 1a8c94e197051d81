#pragma once
// Where `score` takes responses from, slab by slab: an HDF5 file or numbers made on the fly. A rank-local
// object; nothing here is collective.
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace nmoe::analysis {

class ResponseSource {
 public:
  virtual ~ResponseSource() = default;
  virtual std::int64_t num_neurons() const = 0;
  virtual std::int64_t num_samples() const = 0;
  /// One per sample.
  virtual const std::vector<std::int64_t>& labels() const = 0;
  /// Whether the responses are float64: then read_wide has to be used, otherwise read.
  virtual bool wide() const { return false; }
  /// Rows [first, first + responses.size() / S).
  virtual void read(std::int64_t first, std::span<float> responses) = 0;
  virtual void read_wide(std::int64_t first, std::span<double> responses) = 0;
  /// Named in messages.
  virtual std::string name() const = 0;
};

/// /responses and /labels of a file. @throws Error(bad_data) naming dataset and fault
std::unique_ptr<ResponseSource> open_response_file(const std::string& path);

/// "774144x4500x9": neurons, samples, languages. Responses are a pure function of (neuron, sample): the sum
/// of two uniform numbers, shifted for one language in some neurons. Samples of a language are contiguous.
/// @throws Error(config) for anything else
std::unique_ptr<ResponseSource> make_synthetic_responses(const std::string& text);

}  // namespace nmoe::analysis
