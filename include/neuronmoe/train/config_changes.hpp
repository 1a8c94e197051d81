#pragma once
// In what two configurations differ: the one a checkpoint was made with and the one that resumes it.
#include <string>
#include <string_view>
#include <vector>

namespace nmoe::train {

/// One key with its value in both; "(not set)" where one has none.
struct ConfigChange {
  std::string key, before, after;
};

/// Returns every key whose value differs, in the order of `after` and then of `before`. Both are INI texts as
/// config_to_ini() writes them. A key that is given several times has its values joined by ", ".
std::vector<ConfigChange> config_changes(std::string_view before, std::string_view after);

/// Returns "key before -> after, ..." for people.
std::string to_string(const std::vector<ConfigChange>& changes);

/// @throws Error(config) naming every change that a resume would not survive: of the mixture's function, or
/// of the order of the data
void require_resumable(const std::string& checkpoint, const std::vector<ConfigChange>& changes);

}  // namespace nmoe::train
