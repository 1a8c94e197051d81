// Selected neurons and random controls with what replaces their outputs.
#include "neuronmoe/analysis/neuron_sets.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "neuronmoe/analysis/allocation.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/base/hash.hpp"
#include "neuronmoe/base/philox.hpp"

namespace nmoe::analysis {
namespace {

std::vector<std::size_t> wanted_languages(const NeuronStatistics& statistics, const std::string& wanted) {
  const auto& known = statistics.languages;
  auto names = split_list(wanted);
  if (names.empty()) names = known;
  std::vector<std::size_t> result;
  for (const auto& name : names) {
    const auto at = std::find(known.begin(), known.end(), name);
    NMOE_CHECK(at != known.end(), config, "language '{}' has no neurons in the file; it has: {}", name,
               fmt::join(known, ", "));
    const auto index = static_cast<std::size_t>(at - known.begin());
    NMOE_CHECK(std::find(result.begin(), result.end(), index) == result.end(), config,
               "language '{}' is named twice", name);
    result.push_back(index);
  }
  return result;
}

void require_same_modules(const ModuleTable& found, const ModuleTable& wanted) {
  NMOE_CHECK(found.modules().size() == wanted.modules().size(), bad_data,
             "the file has {} modules, the model {}; use the file of this model", found.modules().size(),
             wanted.modules().size());
  for (std::size_t m = 0; m < found.modules().size(); ++m) {
    const Module &a = found.modules()[m], &b = wanted.modules()[m];
    NMOE_CHECK(a.name == b.name && a.width == b.width, bad_data,
               "module {} of the file is {} with {} neurons, of the model {} with {}; use the file of this "
               "model",
               m, a.name, a.width, b.name, b.width);
  }
}

/// Makes sets of one language.
class SetMaker {
 public:
  SetMaker(const NeuronStatistics& statistics, const ModuleTable& modules, Replacement replace,
           std::size_t language)
      : statistics_(statistics), modules_(modules), replace_(replace), language_(language) {
    const auto samples = replace == Replacement::off_p50 ? statistics.n_neg : statistics.n_pos;
    NMOE_CHECK(replace == Replacement::zero || samples[language] > 0, bad_data,
               "the {} of {} is of no sentence at all; replace by zero, or analyze with such sentences",
               name_of(replace), name());
  }

  NeuronSet make(std::int64_t control, std::vector<std::uint64_t> uuids) const {
    std::sort(uuids.begin(), uuids.end());
    const auto twice = std::adjacent_find(uuids.begin(), uuids.end());
    NMOE_CHECK(twice == uuids.end(), bad_data, "neuron {} is selected twice for {}; analyze again", *twice,
               name());
    NeuronSet set{name(), control, std::move(uuids), {}};
    for (const std::uint64_t uuid : set.uuids) {
      const Module& module = modules_.modules()[modules_.module_of(static_cast<std::int64_t>(uuid))];
      set.neurons.push_back({module.layer, module.projection,
                             static_cast<std::int32_t>(static_cast<std::int64_t>(uuid) - module.offset),
                             value_of(uuid, module)});
    }
    return set;
  }

  /// As many units of every module as `selected` has there, none of them `taken` (by any language, [N]).
  std::vector<std::uint64_t> draw(const NeuronSet& selected, std::int64_t control,
                                  const std::vector<bool>& taken, std::uint64_t seed) const {
    const Philox random(seed, RandomPurpose::evaluation, fnv1a(fmt::format("{} {}", name(), control)));
    std::vector<std::uint64_t> drawn;
    for (const Module& module : modules_.modules()) {
      const auto begin = static_cast<std::uint64_t>(module.offset),
                 end = begin + static_cast<std::uint64_t>(module.width);
      const auto count = std::lower_bound(selected.uuids.begin(), selected.uuids.end(), end) -
                         std::lower_bound(selected.uuids.begin(), selected.uuids.end(), begin);
      if (count == 0) continue;
      std::vector<std::pair<std::uint64_t, std::uint64_t>> left;  // draw, uuid
      for (std::uint64_t uuid = begin; uuid < end; ++uuid)
        if (!taken[uuid]) left.emplace_back(random.bits(uuid), uuid);
      NMOE_CHECK(std::ssize(left) >= count, bad_data,
                 "{} of {} are selected for {}, {} are selected for no language: too few for a random set of "
                 "equal size; analyze with a smaller analysis.top_k, or take no control",
                 count, module.name, name(), left.size());
      std::partial_sort(left.begin(), left.begin() + count, left.end());
      for (auto one = left.begin(); one != left.begin() + count; ++one) drawn.push_back(one->second);
    }
    return drawn;
  }

 private:
  const std::string& name() const { return statistics_.languages[language_]; }
  float value_of(std::uint64_t uuid, const Module& module) const {
    if (replace_ == Replacement::zero) return 0.0F;
    const auto& medians = replace_ == Replacement::off_p50 ? statistics_.off_p50 : statistics_.on_p50;
    const float value = medians[language_][uuid];
    NMOE_CHECK(std::isfinite(value), bad_data, "{} of neuron {} ({}) for {} is {}, not a finite number",
               name_of(replace_), uuid, module.name, name(), value);
    return value;
  }

  const NeuronStatistics& statistics_;
  const ModuleTable& modules_;
  Replacement replace_;
  std::size_t language_;
};

}  // namespace

std::vector<NeuronSet> neuron_sets(const NeuronStatistics& statistics, const model::ModelConfig& model,
                                   const NeuronSetOptions& options) {
  const std::vector<std::size_t> languages = wanted_languages(statistics, options.languages);
  const ModuleTable modules(model);
  require_same_modules(statistics.modules, modules);
  std::vector<bool> taken(static_cast<std::size_t>(modules.num_neurons()), false);
  for (const Selection& selection : statistics.selected)
    for (const SelectedNeuron& neuron : selection.neurons) taken[neuron.uuid] = true;
  std::vector<NeuronSet> sets;
  for (const std::size_t language : languages) {
    const SetMaker maker(statistics, modules, options.replace, language);
    std::vector<std::uint64_t> uuids;
    for (const SelectedNeuron& neuron : statistics.selected[language].neurons) uuids.push_back(neuron.uuid);
    const NeuronSet selected = maker.make(0, std::move(uuids));
    sets.push_back(selected);
    for (std::int64_t control = 1; control <= options.controls; ++control)
      sets.push_back(maker.make(control, maker.draw(selected, control, taken, options.seed)));
  }
  return sets;
}

}  // namespace nmoe::analysis
