// neuronmoe inspect FILE|DIR: what is in something we wrote, and whether it is intact.
#include <fmt/core.h>

#include <filesystem>

#include "commands.hpp"
#include "describe_contents.hpp"
#include "describe_file.hpp"
#include "model_setup.hpp"
#include "neuronmoe/base/one_line.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/manifest.hpp"
#include "standard_output.hpp"
#include "trial_read.hpp"

namespace nmoe::app {
namespace {

namespace fs = std::filesystem;

/// A checkpoint step: facts and verdict. Collective.
std::string describe_step(comm::ExecutionContext& context, const std::string& directory) {
  const std::string fault = io::verify_manifest(context.world, directory);
  return on_rank_zero(context, [&] {
    NMOE_CHECK(fault.empty(), bad_data, "{} is damaged: {}", directory, fault);
    std::string text = on_one_line(directory) + ": checkpoint\n" + contents_of_step(directory);
    for (const auto& [name, value] : io::read_manifest_facts(directory)) {
      const bool long_value = value.find('\n') != std::string::npos;
      text += fmt::format("  {} = {}\n", on_one_line(name),
                          long_value ? fmt::format("({} bytes)", value.size()) : on_one_line(value));
    }
    for (const auto& entry : fs::directory_iterator(directory)) {
      text +=
          fmt::format("  {} ({} bytes)\n", on_one_line(entry.path().filename().string()), entry.file_size());
    }
    return text + "intact: every byte matches manifest.json\n";
  });
}

/// A run directory: every step and which one a resume would take. Collective.
std::string describe_run(comm::ExecutionContext& context, const std::string& directory) {
  const io::ValidStep newest = io::newest_valid_step(context.world, directory);
  std::string text = on_one_line(directory) + ": run directory\n";
  for (const auto& reason : newest.skipped) text += fmt::format("  damaged: {}\n", on_one_line(reason));
  NMOE_CHECK(newest, bad_data, "{}: no intact checkpoint in it", directory);
  return text + on_rank_zero(context, [&] {
           return contents_of_run(directory) +
                  fmt::format("  newest intact checkpoint: {}\n", newest.directory) +
                  contents_of_step(newest.directory);
         });
}

/// A HDF5 file before it is opened: by its checksum, by the manifest beside it, or by a trial. Collective.
void verify_h5(comm::ExecutionContext& context, const std::string& path) {
  const fs::path place(path);
  const std::string directory = place.has_parent_path() ? place.parent_path().string() : ".";
  const std::string listed = on_rank_zero(context, [&]() -> std::string {
    if (!fs::exists(fs::path(directory) / "manifest.json")) return "";
    const std::string fault = io::verify_file(directory, place.filename().string());
    NMOE_CHECK(fault.empty(), bad_data, "{} is damaged: {}", path, fault);
    return "listed";
  });
  if (listed.empty()) verify_h5_inputs(context, {path});
}

bool has_steps(const std::string& directory) {
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (io::step_of_directory_name(entry.path().filename().string())) return true;
  }
  return false;
}

}  // namespace

int run_inspect(comm::ExecutionContext& context, const AppConfig& config) {
  const std::string& path = config.run.input;
  const std::string kind = on_rank_zero(context, [&]() -> std::string {
    NMOE_CHECK(fs::exists(path), bad_data, "{}: there is no such file or directory", path);
    if (!fs::is_directory(path)) return "file";
    if (fs::exists(fs::path(path) / "manifest.json")) return "step";
    if (fs::exists(fs::path(path) / "adapter_config.json")) return "adapter";
    if (fs::exists(fs::path(path) / "config.json")) return "model";
    NMOE_CHECK(has_steps(path), bad_data, "{}: neither a checkpoint nor a run, model or adapter directory",
               path);
    return "run";
  });
  if (kind == "file" && described_as_h5(path)) verify_h5(context, path);
  std::string text;
  if (kind == "step") {
    text = describe_step(context, path);
  } else if (kind == "run") {
    text = describe_run(context, path);
  } else {
    text = on_rank_zero(context, [&] {
      return kind == "model"     ? describe_model(path)
             : kind == "adapter" ? describe_adapter(path)
                                 : describe_file(path);
    });
  }
  comm::agree(context.world, [&] {
    if (context.world.rank() == 0) print(text);
  });
  return 0;
}

}  // namespace nmoe::app
