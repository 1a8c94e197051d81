// JSON files: read with limits on size and depth, written atomically.
#include "neuronmoe/io/json_file.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <vector>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/io/atomic_file.hpp"

namespace nmoe::io {
namespace {

using nlohmann::json;

std::string prefix_of(std::string_view what) {
  return what.empty() ? "" : fmt::format("{}: ", what);
}

/// Checks depth and keys before a tree is built. (nlohmann's own parse callback takes quadratic time in wide
/// objects, which a hostile header would use.)
class StrictReader : public nlohmann::json_sax<json> {
 public:
  /// @param once the keys that may not stand twice in the outermost object; null: none in any
  StrictReader(std::string_view what, int max_depth, const std::span<const std::string_view>* once = nullptr)
      : what_(what), max_depth_(max_depth), once_(once) {}
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override {
    descend();
    keys_.emplace_back();
    return true;
  }
  bool key(string_t& name) override {
    const bool matters =
        once_ == nullptr || (depth_ == 1 && std::find(once_->begin(), once_->end(), name) != once_->end());
    if (matters)
      NMOE_CHECK(keys_.back().insert(name).second, bad_data, "{}key \"{}\" appears twice", prefix_of(what_),
                 name);
    return true;
  }
  bool end_object() override {
    keys_.pop_back();
    --depth_;
    return true;
  }
  bool start_array(std::size_t) override {
    descend();
    return true;
  }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& e) override {
    throw Error(ErrorCode::bad_data, fmt::format("{}not valid JSON: {}", prefix_of(what_), e.what()));
  }

 private:
  void descend() {
    NMOE_CHECK(++depth_ <= max_depth_, bad_data, "{}JSON is nested deeper than {} levels", prefix_of(what_),
               max_depth_);
  }
  std::string_view what_;
  int max_depth_, depth_ = 0;
  const std::span<const std::string_view>* once_;
  std::vector<std::unordered_set<std::string>> keys_;  // of the objects that enclose the current place
};

json parse_checked(std::string_view text, std::string_view what, StrictReader& strict) {
  json::sax_parse(text, &strict);
  try {
    return json::parse(text);
  } catch (const json::exception& e) {  // a number out of range
    throw Error(ErrorCode::bad_data, fmt::format("{}not valid JSON: {}", prefix_of(what), e.what()));
  }
}

/// NaN, Infinity and -Infinity outside of strings become null, which is what other writers put there.
std::string without_python_numbers(std::string_view line) {
  std::string text;
  bool quoted = false;
  for (std::size_t i = 0; i < line.size(); ++i) {
    if (quoted && line[i] == '\\') {
      text += line.substr(i++, 2);
      continue;
    }
    if (line[i] == '"') quoted = !quoted;
    std::size_t length = 0;
    if (!quoted) {
      for (const std::string_view word : {"NaN", "Infinity", "-Infinity"})
        if (line.substr(i).starts_with(word)) length = word.size();
    }
    text += length > 0 ? std::string_view("null") : line.substr(i, 1);
    if (length > 0) i += length - 1;
  }
  return text;
}

}  // namespace

json parse_json(std::string_view text, std::string_view what, int max_depth) {
  StrictReader strict(what, max_depth);
  return parse_checked(text, what, strict);
}

json parse_json_line(std::string_view line, std::string_view what, std::span<const std::string_view> keys) {
  constexpr int max_depth = 32;
  const std::size_t first = line.find_first_not_of(" \t\r"), last = line.find_last_not_of(" \t\r");
  NMOE_CHECK(first == std::string_view::npos || line[first] != '[', bad_data,
             "{}this is a JSON array; wanted one object per line (jq -c '.[]' makes that of one array)",
             prefix_of(what));
  NMOE_CHECK(first == std::string_view::npos || line[first] != '{' || first != last, bad_data,
             "{}this is an object over several lines; wanted one per line (jq -c . makes that of it)",
             prefix_of(what));
  std::string plain;
  if (line.find("NaN") != std::string_view::npos || line.find("Infinity") != std::string_view::npos) {
    plain = without_python_numbers(line);
    line = plain;
  }
  StrictReader strict(what, max_depth, &keys);
  return parse_checked(line, what, strict);
}

json read_json(const std::string& path, std::int64_t max_bytes) {
  return parse_json(read_file(path, max_bytes), path);
}

void write_json(const std::string& path, const json& value) {
  write_file_atomically(path, value.dump(2) + "\n");
}

}  // namespace nmoe::io
