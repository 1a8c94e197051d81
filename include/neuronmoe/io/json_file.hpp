#pragma once
// JSON read with suspicion and written atomically. Include <nlohmann/json.hpp> in the .cpp that calls these.
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>

namespace nmoe::io {

/// Parses `text`, demanding valid UTF-8, no duplicate keys and at most `max_depth` levels.
/// @param what named in the message, e.g. the path   @throws Error(bad_data)
nlohmann::json parse_json(std::string_view text, std::string_view what, int max_depth = 32);
/// Parses a line of a JSON lines file. Of its fields only `keys` are read: the others may stand twice and may
/// hold what Python writes beyond JSON (NaN, Infinity), which comes out as null.
/// @param what named in the message; "" for the bare reason   @throws Error(bad_data) if it is not an object,
/// saying what to do about a file that is one JSON value over several lines
nlohmann::json parse_json_line(std::string_view line, std::string_view what,
                               std::span<const std::string_view> keys);
nlohmann::json read_json(const std::string& path, std::int64_t max_bytes = std::int64_t{256} << 20);
/// Writes JSON indented by two, keys ascending, one newline at the end; written atomically.
void write_json(const std::string& path, const nlohmann::json& value);

}  // namespace nmoe::io
