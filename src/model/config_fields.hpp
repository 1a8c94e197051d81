#pragma once
// The fields of one config.json, read with messages that name file and field. Used by hf_config.cpp and by
// the model families.
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "neuronmoe/base/error.hpp"

namespace nmoe::model {

using nlohmann::json;

// Far beyond any model, and small enough that no product of two extents overflows.
inline constexpr std::int64_t max_layers = 1024, max_heads = 1 << 12, max_head_dim = 1 << 14,
                              max_width = 1 << 20, max_positions = std::int64_t{1} << 31,
                              max_vocabulary = 1 << 26;

class FieldReader {
 public:
  FieldReader(std::string path, const json& object) : path_(std::move(path)), object_(object) {
    NMOE_CHECK(object.is_object(), bad_data, "{}: expected a JSON object", path_);
  }
  std::int64_t integer(const char* key, std::int64_t min, std::int64_t max) const {
    return check(key, required(key), min, max);
  }
  std::int64_t integer_or(const char* key, std::int64_t fallback, std::int64_t min, std::int64_t max) const {
    return has(key) ? check(key, object_.at(key), min, max) : fallback;
  }
  double number(const char* key) const {
    const json& value = required(key);
    NMOE_CHECK(value.is_number() && value.get<double>() > 0.0, bad_data,
               "{}: \"{}\" is {}, expected a positive number", path_, key, value.dump());
    return value.get<double>();
  }
  double number_or(const char* key, double fallback) const { return has(key) ? number(key) : fallback; }
  bool boolean_or(const char* key, bool fallback) const {
    if (!has(key)) return fallback;
    NMOE_CHECK(object_.at(key).is_boolean(), bad_data, "{}: \"{}\" is {}, expected true or false", path_, key,
               object_.at(key).dump());
    return object_.at(key).get<bool>();
  }
  std::string text(const char* key) const {
    const json& value = required(key);
    NMOE_CHECK(value.is_string(), bad_data, "{}: \"{}\" is {}, expected a string", path_, key, value.dump());
    return value.get<std::string>();
  }
  std::string text_or(const char* key, const std::string& fallback) const {
    return has(key) ? text(key) : fallback;
  }
  /// An id, or the first of a list of ids (Llama's instruct models name several ends); −1 if there is none.
  std::int64_t token_id(const char* key, std::int64_t vocab_size) const {
    if (!has(key)) return -1;
    const json& value = object_.at(key);
    if (value.is_array() && !value.empty()) return check(key, value.front(), 0, vocab_size - 1);
    return check(key, value, 0, vocab_size - 1);
  }
  /// Whether the field is there, be it null.
  bool given(const char* key) const { return object_.contains(key); }
  bool has(const char* key) const { return object_.contains(key) && !object_.at(key).is_null(); }
  const json& required(const char* key) const {
    NMOE_CHECK(has(key), bad_data, "{}: field \"{}\" is missing", path_, key);
    return object_.at(key);
  }
  const std::string& path() const { return path_; }

 private:
  std::int64_t check(const char* key, const json& value, std::int64_t min, std::int64_t max) const {
    NMOE_CHECK(
        value.is_number_integer() && value.get<std::int64_t>() >= min && value.get<std::int64_t>() <= max,
        bad_data, "{}: \"{}\" is {}, expected an integer from {} to {}", path_, key, value.dump(), min, max);
    return value.get<std::int64_t>();
  }
  std::string path_;
  const json& object_;
};

}  // namespace nmoe::model
