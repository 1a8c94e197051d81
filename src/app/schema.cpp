// Assignments to AppConfig and back, over the lists of fields.
#include "neuronmoe/app/schema.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

#include "neuronmoe/base/divisor.hpp"
#include "neuronmoe/base/error.hpp"
#include "value.hpp"

namespace nmoe::app {
namespace {

constexpr ShortName table_of_short_names[] = {
    {"model", "run.model"},
    {"experts", "run.experts"},
    {"tokens", "run.tokens"},
    {"output", "run.output"},
    {"resume", "run.resume"},
    {"device", "run.device"},
    {"stage", "train.stage"},
    {"counts", "allocation.counts"},
    {"columns", "allocation.columns"},
    {"rounding", "allocation.rounding"},
    {"overlap", "allocation.overlap"},
    {"explain", "allocation.explain"},
    {"explain", "plan.explain"},
    {"sweep", "allocation.sweep"},
    {"synthetic", "score.synthetic"},
};

/// The parts of "data.<name>.<key>"; empty if the key has another form.
struct DataKey {
  std::string name, key;
};
DataKey split_data_key(std::string_view key) {
  if (!key.starts_with("data.")) return {};
  const auto dot = key.rfind('.');
  if (dot <= 5) return {};
  return {std::string(key.substr(5, dot - 5)), std::string(key.substr(dot + 1))};
}

std::vector<std::string> data_keys() {
  std::vector<std::string> keys;
  data::DataSetConfig any;
  for_each_field(any, [&](std::string_view key, const auto&, const FieldInfo&) { keys.emplace_back(key); });
  return keys;
}

/// Insertions, deletions, substitutions and swaps of neighbours.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before, above, row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    before = std::exchange(above, row);
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) row[j] = std::min(row[j], before[j - 2] + 1);
    }
  }
  return row.back();
}

/// Sets the field `wanted` of any config struct; true if there is one of that name.
template <class Config>
bool set_field(Config& config, std::string_view wanted, const Assignment& a, bool append) {
  bool found = false;
  std::string problem;
  for_each_field(config, [&](std::string_view name, auto& member, const FieldInfo& info) {
    if (name != wanted) return;
    found = true;
    if constexpr (std::is_same_v<std::remove_reference_t<decltype(member)>, std::vector<std::string>>) {
      if (!append) member.clear();
      member.push_back(a.value);
    } else {
      problem = parse_value(a.value, info, member);
    }
  });
  NMOE_CHECK(problem.empty(), config, "{}: {} = '{}': {}", a.where, a.key, a.value, problem);
  return found;
}

data::DataSetConfig& data_set(AppConfig& config, const std::string& name) {
  const auto it =
      std::find_if(config.data.begin(), config.data.end(), [&](const auto& d) { return d.name == name; });
  if (it != config.data.end()) return *it;
  config.data.emplace_back().name = name;
  return config.data.back();
}

[[noreturn]] void fail_unknown(const Assignment& a) {
  const auto [name, key] = split_data_key(a.key);
  if (!name.empty())
    throw Error(ErrorCode::config, fmt::format("{}: unknown key '{}'; did you mean 'data.{}.{}'?", a.where,
                                               a.key, name, nearest_name(key, data_keys())));
  throw Error(ErrorCode::config,
              fmt::format("{}: unknown key '{}'; did you mean '{}'?", a.where, a.key, nearest_key(a.key)));
}

bool is_list(std::string_view wanted) {
  AppConfig defaults;
  bool list = false;
  for_each_field(defaults, [&](std::string_view name, const auto& member, const FieldInfo&) {
    if (name == wanted)
      list = std::is_same_v<std::remove_cvref_t<decltype(member)>, std::vector<std::string>>;
  });
  return list;
}

/// One file, or the command line: there a later word replaces an earlier one, in a file twice is a mistake.
void apply_source(AppConfig& config, const std::vector<Assignment>& source) {
  std::map<std::string, std::string> seen;  // key -> where
  for (const Assignment& a : source) {
    const auto [it, first] = seen.emplace(a.key, a.where);
    const bool list = is_list(a.key);
    NMOE_CHECK(first || list || a.where == it->second, config, "{}: {} is given twice; first at {}", a.where,
               a.key, it->second);
    const auto [name, key] = split_data_key(a.key);
    const bool found = name.empty() ? set_field(config, a.key, a, list && !first)
                                    : is_data_key(a.key) && set_field(data_set(config, name), key, a, false);
    if (!found) fail_unknown(a);
  }
}

/// What no single field can know. `where` of the last source that set a key goes in front.
void check_together(const AppConfig& config, const std::vector<std::vector<Assignment>>& sources) {
  const auto where = [&](std::string_view key) -> std::string {
    for (auto source = sources.rbegin(); source != sources.rend(); ++source) {
      for (const Assignment& a : *source) {
        if (a.key == key) return a.where + ": ";
      }
    }
    return {};
  };
  const auto& t = config.train;
  NMOE_CHECK(t.global_batch_size % t.micro_batch_size == 0, config,
             "{}train.micro_batch_size = {} does not divide "
             "train.global_batch_size = {}; the nearest that does is {}",
             where("train.micro_batch_size"), t.micro_batch_size, t.global_batch_size,
             nearest_divisor(t.global_batch_size, t.micro_batch_size));
  NMOE_CHECK(t.epochs > 0 || t.warmup_steps <= t.steps, config,
             "{}train.warmup_steps = {} is more than train.steps = {}", where("train.warmup_steps"),
             t.warmup_steps, t.steps);
  const auto& e = config.allocation;
  NMOE_CHECK(e.e_min <= e.e_max, config, "{}allocation.e_min = {} is more than allocation.e_max = {}",
             where("allocation.e_min"), e.e_min, e.e_max);
  for (const auto& d : config.data) {
    const std::string section = "data." + d.name + ".";
    std::string place;
    for (const auto& key : data_keys()) {
      if (place.empty()) place = where(section + key);
    }
    NMOE_CHECK(!d.tokens.empty(), config, "{}[data.{}] has no 'tokens' key; name the token file", place,
               d.name);
  }
}

}  // namespace

AppConfig make_config(const std::vector<std::vector<Assignment>>& sources) {
  AppConfig config;
  // The stage decides some defaults, so it is looked up before anything else is set.
  for (const auto& source : sources) {
    for (const Assignment& a : source) {
      if (a.key == "train.stage") set_field(config, a.key, a, false);
    }
  }
  config.train = train::TrainConfig::for_stage(config.train.stage);
  for (const auto& source : sources) apply_source(config, source);
  check_together(config, sources);
  return config;
}

std::string config_to_ini(const AppConfig& config, bool with_layout) {
  std::vector<std::pair<std::string, std::string>> sections;  // name, lines
  const auto line = [&](std::string_view in, std::string_view key, const auto& value, const FieldInfo& info) {
    auto section =
        std::find_if(sections.begin(), sections.end(), [&](const auto& s) { return s.first == in; });
    if (section == sections.end()) section = sections.insert(section, {std::string(in), {}});
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(value)>, std::vector<std::string>>) {
      for (const auto& v : value) section->second += fmt::format("{} = {}\n", key, v);
    } else {
      const std::string text = format_value(value, info);
      // An empty value is refused when read: what is not set is only mentioned.
      section->second +=
          text.empty() ? fmt::format("# {} is not set\n", key) : fmt::format("{} = {}\n", key, text);
    }
  };
  AppConfig copy = config;  // the lists of fields only take what could be changed
  for_each_field(copy, [&](std::string_view name, const auto& member, const FieldInfo& info) {
    if (info.layout && !with_layout) return;
    const auto dot = name.find('.');
    line(name.substr(0, dot), name.substr(dot + 1), member, info);
  });
  for (auto& d : copy.data) {
    for_each_field(d, [&](std::string_view key, const auto& member, const FieldInfo& info) {
      line("data." + d.name, key, member, info);
    });
  }
  std::string text;
  for (const auto& [name, lines] : sections)
    text += fmt::format("{}[{}]\n{}", text.empty() ? "" : "\n", name, lines);
  return text;
}

std::vector<std::pair<std::string, std::string>> recorded_options(const AppConfig& config,
                                                                  std::string_view section) {
  std::vector<std::pair<std::string, std::string>> options;
  const std::string of_section = fmt::format("{}.", section);
  AppConfig copy = config;
  for_each_field(copy, [&](std::string_view name, const auto& value, const FieldInfo& info) {
    const bool wanted = name.starts_with(of_section) || name == "train.dtype" || name == "run.model";
    if (info.layout || !wanted) return;
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(value)>, std::vector<std::string>>) {
      options.emplace_back(name, fmt::format("{}", fmt::join(value, " ")));
    } else {
      options.emplace_back(name, format_value(value, info));
    }
  });
  return options;
}

std::span<const ShortName> short_names() {
  return table_of_short_names;
}

std::string full_key(const std::string& key, std::span<const std::string> sections) {
  std::string_view full;
  for (const ShortName& s : table_of_short_names) {
    if (key != s.name) continue;
    const std::string_view section = s.key.substr(0, s.key.find('.'));
    if (std::find(sections.begin(), sections.end(), section) != sections.end()) return std::string(s.key);
    if (full.empty()) full = s.key;
  }
  return full.empty() ? key : std::string(full);
}

std::string short_form(std::string_view key) {
  for (const ShortName& s : table_of_short_names) {
    if (s.key == key) return std::string(s.name);
  }
  return std::string(key);
}

bool is_set(const AppConfig& config, std::string_view key) {
  if (key == "data") return !config.data.empty();
  bool set = false;
  AppConfig copy = config;  // the lists of fields only take what could be changed
  for_each_field(copy, [&](std::string_view name, const auto& value, const FieldInfo& info) {
    if (name != key) return;
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(value)>, std::vector<std::string>>)
      set = !value.empty();
    else
      set = !format_value(value, info).empty();
  });
  return set;
}

std::vector<std::string> all_keys() {
  AppConfig defaults;
  std::vector<std::string> keys;
  for_each_field(defaults,
                 [&](std::string_view name, const auto&, const FieldInfo&) { keys.emplace_back(name); });
  for (const ShortName& s : table_of_short_names) keys.emplace_back(s.name);
  return keys;
}

bool is_flag(const std::string& key, std::span<const std::string> sections) {
  AppConfig defaults;
  bool flag = false;
  const std::string wanted = full_key(key, sections);
  for_each_field(defaults, [&](std::string_view name, const auto& member, const FieldInfo&) {
    if (name == wanted) flag = std::is_same_v<std::remove_cvref_t<decltype(member)>, bool>;
  });
  return flag;
}

bool is_data_key(std::string_view key) {
  const DataKey parts = split_data_key(key);
  const auto keys = data_keys();
  return !parts.name.empty() && std::find(keys.begin(), keys.end(), parts.key) != keys.end();
}

std::string nearest_name(std::string_view word, std::span<const std::string> names,
                         std::size_t max_distance) {
  const auto nearer = [&](const std::string& a, const std::string& b) {
    return edit_distance(word, a) < edit_distance(word, b);
  };
  const auto best = std::min_element(names.begin(), names.end(), nearer);
  return best == names.end() || edit_distance(word, *best) > max_distance ? "" : *best;
}

std::string nearest_key(const std::string& key) {
  const auto last = [](const std::string& s) { return std::string_view(s).substr(s.rfind('.') + 1); };
  std::string best;
  std::pair<std::size_t, std::size_t> best_distance;
  for (const auto& known : all_keys()) {
    // A forgotten or wrong section is the commonest slip: the last part alone counts as well, a little worse.
    const std::size_t whole = edit_distance(key, known);
    const std::pair distance{std::min(whole, edit_distance(last(key), last(known)) + 1), whole};
    if (best.empty() || distance < best_distance) {
      best = known;
      best_distance = distance;
    }
  }
  return best;
}

}  // namespace nmoe::app
