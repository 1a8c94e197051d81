#pragma once
// JSON read with suspicion and written atomically. Include <nlohmann/json.hpp> in the .cpp that calls these.
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace nmoe::io {

/// Parses `text`, demanding valid UTF-8, no duplicate keys and at most `max_depth` levels.
/// @param what named in the message, e.g. the path   @throws Error(bad_data)
nlohmann::json parse_json(std::string_view text, std::string_view what, int max_depth = 32);
nlohmann::json read_json(const std::string& path, std::int64_t max_bytes = std::int64_t{256} << 20);
/// Indented by two, keys ascending, one newline at the end; written atomically.
void write_json(const std::string& path, const nlohmann::json& value);

}  // namespace nmoe::io
