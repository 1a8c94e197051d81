#pragma once
// From text to AppConfig and back: types, ranges, choices, nearest key and --print-config, all from
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

/// Returns INI text with every field; reading it gives the same config again. `with_layout` false leaves out
/// the keys that say where a run happens, for files that must not depend on it.
std::string config_to_ini(const AppConfig& config, bool with_layout);

/// Returns the keys and values of one section, of --model and of train.dtype, without those that say where a
/// run happens: what files of results say about how they were made.
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

/// Returns the short name of a key, the key itself where it has none ("run.model" -> "model").
std::string short_form(std::string_view key);

/// Returns whether a key has a value; numbers and choices with a default always do. "data": whether there is
/// a data set.
bool is_set(const AppConfig& config, std::string_view key);

/// Returns every fixed key and short name, for the command line; `[data.<name>]` keys are checked by
/// `is_data_key`.
std::vector<std::string> all_keys();
/// Returns whether a key or short name takes true or false: on the command line its name alone means true.
bool is_flag(const std::string& key, std::span<const std::string> sections);
bool is_data_key(std::string_view key);
/// Returns the known key or short name with the smallest edit distance.
std::string nearest_key(const std::string& key);
/// Returns the one of `names` with the smallest edit distance to `word`, "" if there is none within
/// `max_distance`.
std::string nearest_name(std::string_view word, std::span<const std::string> names,
                         std::size_t max_distance = std::string::npos);

}  // namespace nmoe::app
