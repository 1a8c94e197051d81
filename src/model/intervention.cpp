// Sets of replaced neurons by site, on the device that the pass runs on.
#include "neuronmoe/model/intervention.hpp"

#include <algorithm>
#include <map>
#include <utility>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/ops/transformer.hpp"
#include "neuronmoe/tensor/device.hpp"

namespace nmoe::model {

Intervention::Intervention(const ModelConfig& config, DType dtype, std::span<const ReplacedNeuron> neurons,
                           Stream& stream)
    : first_layer_(config.num_layers) {
  std::map<std::pair<int, Projection>, std::map<std::int32_t, float>> by_site;
  for (const ReplacedNeuron& neuron : neurons) {
    NMOE_CHECK(neuron.layer >= 0 && neuron.layer < config.num_layers && neuron.unit >= 0 &&
                   neuron.unit < projection_width(config, neuron.projection) &&
                   neuron.projection != Projection::mlp_input,
               internal, "an intervention in layer {}, projection {}, unit {}: the model has no such neuron",
               neuron.layer, static_cast<int>(neuron.projection), neuron.unit);
    const bool first = by_site[{neuron.layer, neuron.projection}].emplace(neuron.unit, neuron.value).second;
    NMOE_CHECK(first, internal, "an intervention names layer {}, projection {}, unit {} twice", neuron.layer,
               static_cast<int>(neuron.projection), neuron.unit);
    first_layer_ = std::min(first_layer_, neuron.layer);
  }
  const DType acc = accumulator_of(dtype);
  for (const auto& [site, outputs] : by_site) {
    std::vector<std::int32_t> units;
    std::vector<double> wide;
    std::vector<float> narrow;
    for (const auto& [unit, value] : outputs) {
      units.push_back(unit);
      narrow.push_back(value);
      wide.push_back(static_cast<double>(value));
    }
    const auto count = static_cast<std::int64_t>(units.size());
    const ConstTensorView values = acc == DType::float64 ? ConstTensorView(wide.data(), acc, {count})
                                                         : ConstTensorView(narrow.data(), acc, {count});
    sites_.push_back({site.first, site.second,
                      copied_to(stream.device(), {units.data(), DType::int32, {count}}, stream),
                      copied_to(stream.device(), values, stream)});
  }
}

void Intervention::apply(int layer, Projection projection, TensorView outputs, Stream& stream) const {
  const auto site = std::find_if(sites_.begin(), sites_.end(), [&](const Site& s) {
    return s.layer == layer && s.projection == projection;
  });
  if (site != sites_.end()) ops::replace_columns(outputs, site->units.view(), site->values.view(), stream);
}

}  // namespace nmoe::model
