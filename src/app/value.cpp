// Numbers, flags and plain text of a config: parsed strictly, written as short as they can be.
#include "value.hpp"

#include <fmt/core.h>

#include <charconv>
#include <cmath>
#include <limits>
#include <system_error>

namespace nmoe::app {
namespace {

bool has_range(const FieldInfo& info) {
  return std::isfinite(info.min) || std::isfinite(info.max);
}

std::string number_text(double value) {
  // Bounds such as 1e15 or 2^20 read better as plain integers; fmt chooses the short form for the others.
  if (value == std::floor(value) && std::fabs(value) < 1e9) return fmt::format("{:.0f}", value);
  return fmt::format("{}", value);
}

std::string out_of_range(const FieldInfo& info) {
  const std::string unit = info.unit.empty() ? "" : " " + std::string(info.unit);
  if (!std::isfinite(info.max)) return fmt::format("must be at least {}{}", number_text(info.min), unit);
  if (!std::isfinite(info.min)) return fmt::format("must be at most {}{}", number_text(info.max), unit);
  return fmt::format("must be between {} and {}{}", number_text(info.min), number_text(info.max), unit);
}

template <typename T>
std::string parse_integer(const std::string& text, const FieldInfo& info, T& value, const char* kind) {
  T parsed{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, parsed);
  if (error == std::errc::result_out_of_range) {
    return has_range(info) ? out_of_range(info) : fmt::format("does not fit in {} bits", 8 * sizeof(T));
  }
  if (error != std::errc() || stop != end) return fmt::format("is not {}", kind);
  if (static_cast<double>(parsed) < info.min || static_cast<double>(parsed) > info.max)
    return out_of_range(info);
  value = parsed;
  return {};
}

}  // namespace

std::string parse_value(const std::string& text, const FieldInfo&, bool& value) {
  if (text != "true" && text != "false") return "must be true or false";
  value = text == "true";
  return {};
}
std::string parse_value(const std::string& text, const FieldInfo& info, int& value) {
  return parse_integer(text, info, value, "a whole number");
}
std::string parse_value(const std::string& text, const FieldInfo& info, std::int64_t& value) {
  return parse_integer(text, info, value, "a whole number");
}
std::string parse_value(const std::string& text, const FieldInfo& info, std::uint64_t& value) {
  return parse_integer(text, info, value, "a whole number >= 0");
}
std::string parse_value(const std::string& text, const FieldInfo& info, double& value) {
  double parsed = 0.0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, parsed);
  if (error == std::errc::result_out_of_range) return "does not fit in a double";
  if (error != std::errc() || stop != end) return "is not a number";
  if (!std::isfinite(parsed)) return "must be a finite number";
  if (parsed < info.min || parsed > info.max) return out_of_range(info);
  value = parsed;
  return {};
}
std::string parse_value(const std::string& text, const FieldInfo&, std::string& value) {
  value = text;
  return {};
}

std::string format_value(bool value, const FieldInfo&) {
  return value ? "true" : "false";
}
std::string format_value(int value, const FieldInfo&) {
  return fmt::format("{}", value);
}
std::string format_value(std::int64_t value, const FieldInfo&) {
  return fmt::format("{}", value);
}
std::string format_value(std::uint64_t value, const FieldInfo&) {
  return fmt::format("{}", value);
}
std::string format_value(double value, const FieldInfo&) {
  return fmt::format("{}", value);
}
std::string format_value(const std::string& value, const FieldInfo&) {
  return value;
}

std::string describe_range(const FieldInfo& info) {
  std::string text;
  if (has_range(info)) {
    text = fmt::format("{}..{}", std::isfinite(info.min) ? number_text(info.min) : "",
                       std::isfinite(info.max) ? number_text(info.max) : "");
  }
  if (!info.unit.empty()) text += (text.empty() ? "" : " ") + std::string(info.unit);
  return text;
}

}  // namespace nmoe::app
