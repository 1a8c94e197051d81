// The inputs of `score`: an HDF5 file, or responses computed from their position.
#include "response_source.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/base/philox.hpp"
#include "neuronmoe/io/hdf5_file.hpp"

namespace nmoe::analysis {
namespace {

std::vector<std::int64_t> read_labels(io::H5File& file, std::int64_t num_samples) {
  const io::DatasetInfo info = file.info("/labels");
  const std::int64_t shape[] = {num_samples};
  NMOE_CHECK(info.kind == io::DatasetInfo::Kind::numbers, bad_data, "{}: /labels does not hold numbers",
             file.path());
  NMOE_CHECK(info.shape.size() == 1 && info.shape[0] == num_samples, bad_data,
             "{}: /labels has {} entries, /responses has {} samples: one label per sample is needed",
             file.path(), info.shape.empty() ? 0 : info.shape[0], num_samples);
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
                              file.path(), name_of(info.type)));
  }
}

class FileResponses : public ResponseSource {
 public:
  explicit FileResponses(const std::string& path)
      : file_(io::H5File::open_foreign(path)), info_(file_.info("/responses")) {
    NMOE_CHECK(info_.kind == io::DatasetInfo::Kind::numbers && info_.shape.size() == 2 &&
                   (info_.type == io::ElementType::float32 || info_.type == io::ElementType::float64),
               bad_data, "{}: /responses must be a float32 or float64 matrix [neuron, sample]", path);
    labels_ = read_labels(file_, num_samples());
  }
  std::int64_t num_neurons() const override { return info_.shape[0]; }
  std::int64_t num_samples() const override { return info_.shape[1]; }
  const std::vector<std::int64_t>& labels() const override { return labels_; }
  bool wide() const override { return info_.type == io::ElementType::float64; }
  void read(std::int64_t first, std::span<float> responses) override { read_rows(first, responses); }
  void read_wide(std::int64_t first, std::span<double> responses) override { read_rows(first, responses); }
  std::string name() const override { return file_.path(); }

 private:
  template <typename T>
  void read_rows(std::int64_t first, std::span<T> responses) {
    const io::FileRange range{first * num_samples(), static_cast<std::int64_t>(responses.size())};
    file_.read_ranges("/responses", info_.type, info_.shape, {&range, range.count > 0 ? 1U : 0U},
                      responses.data());
    const auto infinite = std::find_if(responses.begin(), responses.end(), [](T r) { return std::isinf(r); });
    const std::int64_t at = range.begin + (infinite - responses.begin());
    NMOE_CHECK(infinite == responses.end(), bad_data,
               "{}: /responses[{}, {}] is infinite; means and percentiles are undefined", file_.path(),
               at / num_samples(), at % num_samples());
  }
  io::H5File file_;
  io::DatasetInfo info_;
  std::vector<std::int64_t> labels_;
};

class SyntheticResponses : public ResponseSource {
 public:
  SyntheticResponses(std::string text, std::array<std::int64_t, 3> sizes)
      : text_(std::move(text)), sizes_(sizes) {
    for (std::int64_t s = 0; s < sizes_[1]; ++s) labels_.push_back(s * sizes_[2] / sizes_[1]);
  }
  std::int64_t num_neurons() const override { return sizes_[0]; }
  std::int64_t num_samples() const override { return sizes_[1]; }
  const std::vector<std::int64_t>& labels() const override { return labels_; }
  void read(std::int64_t first, std::span<float> responses) override {
    const std::int64_t samples = sizes_[1], rows = static_cast<std::int64_t>(responses.size()) / samples;
#pragma omp parallel for schedule(static)
    for (std::int64_t n = 0; n < rows; ++n) {
      for (std::int64_t s = 0; s < samples; ++s) {
        const std::uint64_t bits = random_.bits(static_cast<std::uint64_t>((first + n) * samples + s));
        const bool shifted = (first + n) % (2 * sizes_[2]) == labels_[static_cast<std::size_t>(s)];
        const double sum = static_cast<double>(bits >> 32) + static_cast<double>(bits & 0xFFFFFFFFU);
        responses[static_cast<std::size_t>(n * samples + s)] =
            static_cast<float>(sum * 0x1.0p-32 - (shifted ? 0.5 : 1.0));
      }
    }
  }
  void read_wide(std::int64_t, std::span<double>) override {
    throw Error(ErrorCode::internal, text_ + ": synthetic responses are float32");
  }
  std::string name() const override {
    return "synthetic " + text_;
  }

 private:
  std::string text_;
  std::array<std::int64_t, 3> sizes_;  // neurons, samples, languages
  std::vector<std::int64_t> labels_;
  Philox random_{1, RandomPurpose::synthetic};
};

}  // namespace

std::unique_ptr<ResponseSource> open_response_file(const std::string& path) {
  return std::make_unique<FileResponses>(path);
}

std::unique_ptr<ResponseSource> make_synthetic_responses(const std::string& text) {
  std::array<std::int64_t, 3> sizes{};
  const char* at = text.data();
  const char* const end = at + text.size();
  bool good = true;
  for (std::size_t i = 0; i < 3 && good; ++i) {
    const auto [stop, error] = std::from_chars(at, end, sizes[i]);
    good = error == std::errc() && sizes[i] > 0 && sizes[i] <= (1 << 30) &&
           (i == 2 ? stop == end : stop != end && *stop == 'x');
    at = good && i < 2 ? stop + 1 : stop;
  }
  NMOE_CHECK(good && sizes[2] >= 2 && sizes[2] <= sizes[1], config,
             "score.synthetic = {} is not NEURONSxSAMPLESxLANGUAGES with at least two languages and no fewer "
             "samples than languages, for example 774144x4500x9",
             text);
  return std::make_unique<SyntheticResponses>(text, sizes);
}

}  // namespace nmoe::analysis
