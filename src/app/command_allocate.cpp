// neuronmoe allocate: counts or similarities to experts.cfg.
#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "commands.hpp"
#include "model_setup.hpp"
#include "neuronmoe/analysis/allocate.hpp"
#include "neuronmoe/app/schema.hpp"
#include "neuronmoe/app/version.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/model/checkpoint_weights.hpp"
#include "neuronmoe/model/config.hpp"
#include "neuronmoe/model/hf_model.hpp"
#include "trial_read.hpp"
#include "value.hpp"

namespace nmoe::app {
namespace {

/// Version and the options that decide the list, as comment lines.
std::vector<std::string> provenance_lines(const AppConfig& config) {
  std::vector<std::string> lines{"neuronmoe " + version() + " allocate"};
  analysis::AllocationConfig options = config.allocation;
  for_each_field(options, [&](std::string_view name, const auto& value, const FieldInfo& info) {
    if (const std::string text = format_value(value, info); !text.empty())
      lines.push_back(fmt::format("{} = {}", name, text));
  });
  return lines;
}

/// Experts per layer of the mixture that allocation.add_to names; empty for none.
std::vector<int> existing_experts(comm::ExecutionContext& context, const AppConfig& config) {
  const std::string& from = config.allocation.add_to;
  if (from.empty()) return {};
  NMOE_CHECK(config.allocation.sweep.empty(), config,
             "allocation.sweep tries lists for a base: leave allocation.add_to = {} out", from);
  const bool directory =
      !on_rank_zero(context, [&] { return std::filesystem::is_directory(from) ? from : ""; }).empty();
  const std::string checkpoint = directory ? resolve_checkpoint(context, from) : "";
  std::vector<int> counts;
  comm::agree(context.world, [&] {
    counts = directory ? model::read_expert_counts(checkpoint) : model::load_expert_counts(from);
  });
  return counts;
}

}  // namespace

int run_allocate(comm::ExecutionContext& context, const AppConfig& config) {
  if (!config.allocation.neurons.empty()) verify_h5_inputs(context, {config.allocation.neurons});
  const std::vector<int> existing = existing_experts(context, config);
  comm::agree(context.world, [&] {
    if (context.world.rank() != 0) return;
    std::optional<model::ModelConfig> model;
    if (!config.run.model.empty()) model = model::load_directory_config(config.run.model);
    if (!config.allocation.sweep.empty()) {
      const std::string table = analysis::sweep_csv(config.allocation, model);
      io::write_file_atomically(config.run.output, table);
      context.log.info("{}: {} settings", config.run.output,
                       std::count(table.begin(), table.end(), '\n') - 1);
      return;
    }
    const auto allocation = analysis::allocate_from_files(config.allocation, model, existing);
    analysis::write_experts_cfg(config.run.output, allocation, provenance_lines(config));
    std::string list;
    for (const int count : allocation.num_experts)
      list += fmt::format("{}{}", list.empty() ? "" : ",", count);
    for (const auto& reason : allocation.reasons) context.log.info("{}", reason);
    for (const auto& warning : allocation.warnings) context.log.warn("{}", warning);
    context.log.info("{}: {} experts in {} layers: {}", config.run.output, allocation.total(),
                     allocation.num_experts.size(), list);
  });
  return 0;
}

}  // namespace nmoe::app
