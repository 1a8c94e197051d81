#pragma once
// From text to AppConfig and back: types, ranges, choices, nearest key, --help and --print-config, all from
// for_each_field. Called by command_line.cpp and by every command that writes its config into a file.
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "neuronmoe/app/config.hpp"
#include "neuronmoe/app/ini.hpp"

namespace nmoe::app {

/// Fills a config. Earlier assignments lose to later ones; a repeatable key collects the values of its last
/// source. @param sources one list per file in order, the command line last.
/// @throws Error(config) "FILE:LINE: section.key = 'value': why", with the nearest key for an unknown one.
AppConfig make_config(const std::vector<std::vector<Assignment>>& sources);

/// INI text with every field; reading it gives the same config again. `with_layout` false leaves out the keys
/// that say where a run happens, for files that must not depend on it.
std::string config_to_ini(const AppConfig& config, bool with_layout);

/// Keys and values of one section, of --model and of train.dtype, without those that say where a run happens:
/// what files of results say about how they were made.
std::vector<std::pair<std::string, std::string>> recorded_options(const AppConfig& config,
                                                                  std::string_view section);

/// A name that stands for a key on the command line. It may stand for several: in a command for the one in a
/// section that the command reads, else for the first.
struct ShortName {
  std::string_view name, key;
};
std::span<const ShortName> short_names();
/// Returns the key that a short name means where `sections` are read ("model" -> "run.model"); other keys
/// unchanged.
std::string full_key(const std::string& key, std::span<const std::string> sections);

/// Every fixed key and short name, for the command line; `[data.<name>]` keys are checked by `is_data_key`.
std::vector<std::string> all_keys();
/// Whether a key or short name takes true or false: on the command line its name alone means true.
bool is_flag(const std::string& key, std::span<const std::string> sections);
bool is_data_key(std::string_view key);
/// Known key or short name with the smallest edit distance.
std::string nearest_key(const std::string& key);

/// Table of the fields of some sections: key, default, range and unit, help.
std::string help_for_sections(const std::vector<std::string>& sections);

}  // namespace nmoe::app
