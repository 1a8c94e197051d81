#pragma once
// The files of tests/golden that tools/make_golden.py wrote: what PyTorch and transformers computed. Used by
// tests/unit/test_golden_*.cpp and tests/mpi/test_golden_*.cpp.
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "neuronmoe/io/json_file.hpp"
#include "neuronmoe/io/safetensors.hpp"
#include "neuronmoe/model/decoder.hpp"
#include "neuronmoe/tensor/device.hpp"

namespace nmoe::test {

inline std::string golden_path(const std::string& name) {
  return std::string(std::getenv("NMOE_TEST_SOURCE_DIR")) + "/tests/golden/" + name;
}

inline nlohmann::json golden_reference() {
  return io::read_json(golden_path("reference.json"));
}

/// A tensor of a golden file in float64.
inline std::vector<double> golden_tensor(const io::SafetensorsReader& reader, const std::string& name) {
  Tensor values(reader.entry(name).shape, DType::float64);
  reader.read(name, values.view());
  return {values.data<double>(), values.data<double>() + values.num_elements()};
}

/// Elements of a float32 or bfloat16 tensor in float64.
inline std::vector<double> wide(ConstTensorView x) {
  std::vector<double> values(static_cast<std::size_t>(x.num_elements()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = x.dtype() == DType::bfloat16 ? static_cast<double>(float(x.data<bfloat16>()[i]))
                                             : static_cast<double>(x.data<float>()[i]);
  }
  return values;
}

/// ‖found − expected‖ / ‖expected‖; the norm of `found` where nothing is expected.
inline double norm_error(const std::vector<double>& found, const std::vector<double>& expected) {
  BOOST_REQUIRE_EQUAL(found.size(), expected.size());
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    difference += (found[i] - expected[i]) * (found[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  return std::sqrt(difference) / (size > 0 ? std::sqrt(size) : 1.0);
}

inline double relative(double found, double expected) {
  return std::abs(found - expected) / std::max(1e-30, std::abs(expected));
}

/// Weights by parameter name; a router of fewer experts takes the first rows.
inline void load_weights(model::Decoder& decoder, const std::string& file) {
  const io::SafetensorsReader reader(golden_path(file));
  for (model::Parameter& p : decoder.parameters()) {
    if (!p.held()) continue;
    const Shape stored = reader.entry(p.name).shape;
    Tensor whole(stored, p.value.dtype());
    reader.read(p.name, whole.view());
    const ConstTensorView first = p.is_router() ? whole.view().rows(0, p.shape[0]) : whole.view();
    BOOST_REQUIRE_EQUAL(first.num_elements(), p.shape.num_elements());
    copy(p.value.view(), first, decoder.stream());
  }
}

/// The batch of a golden step: sequences of ids and labels, the first `num_old` of them in an old language.
inline model::BatchBuilder golden_batch(const nlohmann::json& step, int num_old = 0) {
  model::BatchBuilder builder;
  const auto ids = step.at("ids").get<std::vector<std::vector<std::int32_t>>>();
  auto labels =
      step.contains("labels") ? step.at("labels").get<std::vector<std::vector<std::int32_t>>>() : ids;
  for (std::size_t s = 0; s < ids.size(); ++s) {
    builder.add(ids[s], labels[s],
                std::vector<std::uint8_t>(ids[s].size(), static_cast<int>(s) < num_old ? 1 : 0));
  }
  return builder;
}

}  // namespace nmoe::test
