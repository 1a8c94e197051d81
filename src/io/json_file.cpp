// JSON files: read with limits on size and depth, written atomically.
#include "neuronmoe/io/json_file.hpp"

#include <fmt/core.h>

#include <nlohmann/json.hpp>
#include <unordered_set>
#include <vector>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/io/atomic_file.hpp"

namespace nmoe::io {
namespace {

using nlohmann::json;

/// Checks depth and keys before a tree is built. (nlohmann's own parse callback takes quadratic time in wide
/// objects, which a hostile header would use.)
class StrictReader : public nlohmann::json_sax<json> {
 public:
  StrictReader(std::string_view what, int max_depth) : what_(what), max_depth_(max_depth) {}
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
    NMOE_CHECK(keys_.back().insert(name).second, bad_data, "{}: key \"{}\" appears twice", what_, name);
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
    throw Error(ErrorCode::bad_data, fmt::format("{}: not valid JSON: {}", what_, e.what()));
  }

 private:
  void descend() {
    NMOE_CHECK(++depth_ <= max_depth_, bad_data, "{}: JSON is nested deeper than {} levels", what_,
               max_depth_);
  }
  std::string_view what_;
  int max_depth_, depth_ = 0;
  std::vector<std::unordered_set<std::string>> keys_;  // of the objects that enclose the current place
};

}  // namespace

json parse_json(std::string_view text, std::string_view what, int max_depth) {
  StrictReader strict(what, max_depth);
  json::sax_parse(text, &strict);
  try {
    return json::parse(text);
  } catch (const json::exception& e) {  // a number out of range
    throw Error(ErrorCode::bad_data, fmt::format("{}: not valid JSON: {}", what, e.what()));
  }
}

json read_json(const std::string& path, std::int64_t max_bytes) {
  return parse_json(read_file(path, max_bytes), path);
}

void write_json(const std::string& path, const json& value) {
  write_file_atomically(path, value.dump(2) + "\n");
}

}  // namespace nmoe::io
