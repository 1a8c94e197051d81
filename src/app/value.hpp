#pragma once
// Text to typed value and back, one overload per type a field may have. Used by schema.cpp and help.cpp only.
#include <cstdint>
#include <string>
#include <vector>

#include "neuronmoe/base/fields.hpp"

namespace nmoe::app {

/// Each returns why `text` cannot be the value, or an empty string after `value` was set. Nothing is guessed:
/// a sign on an unsigned field, nan, inf, a trailing letter and an out-of-range number are all refused.
std::string parse_value(const std::string& text, const FieldInfo& info, bool& value);
std::string parse_value(const std::string& text, const FieldInfo& info, int& value);
std::string parse_value(const std::string& text, const FieldInfo& info, std::int64_t& value);
std::string parse_value(const std::string& text, const FieldInfo& info, std::uint64_t& value);
std::string parse_value(const std::string& text, const FieldInfo& info, double& value);
std::string parse_value(const std::string& text, const FieldInfo& info, std::string& value);

/// The shortest text that gives the value again.
std::string format_value(bool value);
std::string format_value(int value);
std::string format_value(std::int64_t value);
std::string format_value(std::uint64_t value);
std::string format_value(double value);
std::string format_value(const std::string& value);
std::string format_value(const std::vector<std::string>& value);

/// "1..2 ranks", "a|b|c", "tokens"; empty if there is nothing to say.
std::string describe_range(const FieldInfo& info);

}  // namespace nmoe::app
