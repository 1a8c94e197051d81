// INI texts compared key by key.
#include "neuronmoe/train/config_changes.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>

#include "neuronmoe/base/error.hpp"

namespace nmoe::train {

namespace {

constexpr const char* not_set = "(not set)";

struct Entry {
  std::string key, value;
};

/// "key = value" and "# key is not set" lines under "[section]" as section.key, in their order.
std::vector<Entry> entries_of(std::string_view text) {
  std::vector<Entry> entries;
  std::string section;
  const auto add = [&](std::string_view key, std::string_view value) {
    const std::string full = section + "." + std::string(key);
    const auto same =
        std::find_if(entries.begin(), entries.end(), [&](const Entry& e) { return e.key == full; });
    if (same != entries.end())
      same->value += ", " + std::string(value);
    else
      entries.push_back({full, std::string(value)});
  };
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    constexpr std::string_view separator = " = ";
    if (line.starts_with('[') && line.ends_with(']'))
      section = line.substr(1, line.size() - 2);
    else if (const auto at = line.find(separator); at != std::string_view::npos && !line.starts_with('#'))
      add(line.substr(0, at), line.substr(at + separator.size()));
  }
  return entries;
}

std::string value_of(const std::vector<Entry>& entries, const std::string& key) {
  const auto found =
      std::find_if(entries.begin(), entries.end(), [&](const Entry& e) { return e.key == key; });
  return found == entries.end() ? not_set : found->value;
}

/// What a resume must find as it was: a key, or with a final dot a whole section, and why.
struct Fixed {
  std::string_view key, why;
};
constexpr std::string_view mixture = "the mixture of experts would compute something else";
constexpr std::string_view order = "the data order would change";
constexpr std::array fixed_keys = {
    Fixed{"train.top_k", mixture}, Fixed{"router.compat", mixture},
    Fixed{"train.seed", order},    Fixed{"train.seq_length", order},
    Fixed{"pack.", order},         Fixed{"train.global_batch_size", order},
};

const Fixed* find_fixed(const std::string& key) {
  for (const Fixed& fixed : fixed_keys) {
    if (fixed.key.ends_with('.') ? key.starts_with(fixed.key) : key == fixed.key) return &fixed;
  }
  return nullptr;
}

}  // namespace

std::vector<ConfigChange> config_changes(std::string_view before, std::string_view after) {
  const std::vector<Entry> old_entries = entries_of(before), new_entries = entries_of(after);
  std::vector<ConfigChange> changes;
  for (const Entry& entry : new_entries) {
    const std::string old_value = value_of(old_entries, entry.key);
    if (old_value != entry.value) changes.push_back({entry.key, old_value, entry.value});
  }
  for (const Entry& entry : old_entries) {
    if (value_of(new_entries, entry.key) == not_set) changes.push_back({entry.key, entry.value, not_set});
  }
  return changes;
}

std::string to_string(const std::vector<ConfigChange>& changes) {
  std::string text;
  for (const ConfigChange& c : changes)
    text += fmt::format("{}{} {} -> {}", text.empty() ? "" : ", ", c.key, c.before, c.after);
  return text;
}

void require_resumable(const std::string& checkpoint, const std::vector<ConfigChange>& changes) {
  std::string reasons;
  for (const ConfigChange& c : changes) {
    const Fixed* fixed = find_fixed(c.key);
    // A checkpoint of a program that did not know the key was made with what is its default now.
    if (fixed == nullptr || c.before == not_set || c.after == not_set) continue;
    reasons += fmt::format("{}{} = {} stored, now {} ({})", reasons.empty() ? "" : "; ", c.key, c.before,
                           c.after, fixed->why);
  }
  NMOE_CHECK(reasons.empty(), config,
             "{} cannot be resumed with {}; give the stored values, or start a new run in another --output",
             checkpoint, reasons);
}

}  // namespace nmoe::train
