#pragma once
// Expressions of Jinja, as chat templates have them. A value is JSON; what is not defined is a discarded one.
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace nmoe::data {

/// Variables of a template by name.
using JinjaScope = std::map<std::string, nlohmann::json, std::less<>>;

/// Returns the value of an expression. Operands that `and`, `or` and `if` pass over are not evaluated.
/// @throws Error(bad_data) with `source` for anything that is not supported
nlohmann::json evaluate_jinja(std::string_view expression, const JinjaScope& scope,
                              const std::string& source);

/// Returns whether a value counts as true in a condition.
bool jinja_truth(const nlohmann::json& value);

/// Returns the text that {{ value }} writes. @throws Error(bad_data) for a list or an object
std::string jinja_text(const nlohmann::json& value);

}  // namespace nmoe::data
