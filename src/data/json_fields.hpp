#pragma once
// Fields of a tokenizer.json object, taken one by one: what is left over was not understood.
#include <fmt/core.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "neuronmoe/base/error.hpp"

namespace nmoe::data {

/// A JSON object with its place ("tokenizer.json: model.vocab") for messages. Non-owning.
class JsonObject {
 public:
  JsonObject(const nlohmann::json& value, std::string where) : value_(value), where_(std::move(where)) {
    NMOE_CHECK(value.is_object(), bad_data, "{} is not an object", where_);
  }
  const std::string& where() const { return where_; }
  std::string where(std::string_view key) const { return fmt::format("{}.{}", where_, key); }
  bool has(const char* key) const {
    const auto found = value_.find(key);
    return found != value_.end() && !found->is_null();
  }
  const nlohmann::json& at(const char* key) const {
    NMOE_CHECK(value_.contains(key), bad_data, "{} is missing", where(key));
    return value_[key];
  }
  JsonObject object(const char* key) const { return {at(key), where(key)}; }
  const nlohmann::json& array(const char* key) const {
    NMOE_CHECK(at(key).is_array(), bad_data, "{} is not an array", where(key));
    return value_[key];
  }
  std::string text(const char* key) const {
    NMOE_CHECK(at(key).is_string(), bad_data, "{} is not a string", where(key));
    return value_[key].get<std::string>();
  }
  /// `fallback` if the field is absent or null.
  bool flag(const char* key, bool fallback) const {
    if (!has(key)) return fallback;
    NMOE_CHECK(value_[key].is_boolean(), bad_data, "{} is not true or false", where(key));
    return value_[key].get<bool>();
  }
  /// @throws Error(bad_data) naming the first field that is not among `known`
  void allow(std::initializer_list<std::string_view> known) const {
    for (const auto& [key, value] : value_.items())
      NMOE_CHECK(std::find(known.begin(), known.end(), key) != known.end(), bad_data, "{} is not supported",
                 where(key));
  }

 private:
  const nlohmann::json& value_;
  std::string where_;
};

/// An id from 0 to 2^30.
inline std::int32_t token_id(const nlohmann::json& value, const std::string& where) {
  NMOE_CHECK(value.is_number_unsigned() && value.get<std::uint64_t>() <= std::uint64_t{1} << 30U, bad_data,
             "{} is not a token id", where);
  return value.get<std::int32_t>();
}

}  // namespace nmoe::data
