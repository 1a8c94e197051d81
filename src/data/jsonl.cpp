// Reads the lines of a corpus: pieces of files for each rank, documents, and reports of bad lines.
#include "neuronmoe/data/jsonl.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/comm/layout.hpp"
#include "neuronmoe/io/json_file.hpp"
#include "utf8.hpp"

namespace nmoe::data {
namespace {

constexpr std::size_t max_line_bytes = std::size_t{64} << 20;
constexpr std::size_t max_reported = 10;
constexpr std::size_t max_reason_bytes = 160;
constexpr std::string_view byte_order_mark = "\xEF\xBB\xBF";

bool is_blank(std::string_view line) {
  return line.find_first_not_of(" \t\r") == std::string_view::npos;
}

/// Valid UTF-8 of a bounded length: the parser's messages may quote half a character.
std::string shortened(std::string reason) {
  if (reason.size() > max_reason_bytes) {
    std::size_t end = max_reason_bytes;
    while (end > 0 && (static_cast<unsigned char>(reason[end]) & 0xC0U) == 0x80U)
      --end;  // not inside a character
    reason = reason.substr(0, end) + "...";
  }
  return replace_ill_formed(std::move(reason));
}

}  // namespace

bool is_valid_utf8(std::string_view text) {
  const auto* p = reinterpret_cast<const unsigned char*>(text.data());
  const auto* const end = p + text.size();
  while (p < end) {
    if (end - p >= 8) {
      std::uint64_t eight = 0;
      std::memcpy(&eight, p, 8);
      if ((eight & 0x8080808080808080U) == 0) {
        p += 8;
        continue;
      }
    }
    const unsigned first = *p++;
    if (first < 0x80U) continue;
    const int more = first >= 0xF0U ? 3 : first >= 0xE0U ? 2 : 1;
    if (first < 0xC2U || first > 0xF4U || end - p < more) return false;
    // The second byte is where overlong forms, surrogates and values above U+10FFFF show.
    const unsigned low = first == 0xE0U ? 0xA0U : first == 0xF0U ? 0x90U : 0x80U;
    const unsigned high = first == 0xEDU ? 0x9FU : first == 0xF4U ? 0x8FU : 0xBFU;
    if (*p < low || *p > high) return false;
    for (int i = 1; i < more; ++i)
      if ((p[i] & 0xC0U) != 0x80U) return false;
    p += more;
  }
  return true;
}

TextFormat text_format_of(const std::string& path) {
  if (path.ends_with(".txt")) return TextFormat::plain;
  NMOE_CHECK(path.ends_with(".jsonl") || path.ends_with(".json"), bad_data,
             "{}: the name must end in .jsonl (JSON lines with \"text\") or .txt (one document per line)",
             path);
  return TextFormat::jsonl;
}

std::string document_of(std::string_view line, TextFormat format) {
  NMOE_CHECK(line.size() <= max_line_bytes, bad_data, "line of {} bytes; at most {} are read", line.size(),
             max_line_bytes);
  NMOE_CHECK(is_valid_utf8(line), bad_data, "invalid UTF-8");
  std::string text(line);
  if (format == TextFormat::jsonl) {
    constexpr std::string_view keys[] = {"text"};
    const nlohmann::json row = io::parse_json_line(line, "", keys);  // refuses lone surrogates
    NMOE_CHECK(row.is_object() && row.contains("text") && row["text"].is_string(), bad_data,
               "no \"text\" field that is a string");
    text = row["text"].get<std::string>();
  }
  NMOE_CHECK(text.find('\0') == std::string::npos, bad_data, "NUL character in the text");
  return text;
}

void require_line_ends(std::string_view file, const std::string& path) {
  const std::size_t carriage = file.find('\r');
  NMOE_CHECK(
      file.find('\n') != std::string_view::npos || carriage == std::string_view::npos ||
          file.find_first_not_of("\r", carriage) == std::string_view::npos,
      bad_data,
      "{}: its lines end with a carriage return alone, as on old Macs, so all of it would be one document; "
      "tr '\\r' '\\n' makes lines of it",
      path);
}

LineReader::LineReader(std::string_view file, std::int64_t begin, std::int64_t end)
    : file_(file),
      at_(static_cast<std::size_t>(begin)),
      stop_(std::min(file.size(), static_cast<std::size_t>(std::max<std::int64_t>(0, end)))) {
  if (at_ > 0 && at_ < stop_ && file_[at_ - 1] != '\n') at_ = after_line(at_);  // began before this piece
}

std::size_t LineReader::after_line(std::size_t from) const {
  const std::size_t newline = file_.find('\n', from);
  return newline == std::string_view::npos ? file_.size() : newline + 1;
}

bool LineReader::next(Line& line) {
  while (at_ < stop_) {
    const std::size_t begin = std::exchange(at_, after_line(at_));
    std::string_view text = file_.substr(begin, at_ - begin);
    if (text.ends_with('\n')) text.remove_suffix(1);
    if (text.ends_with('\r')) text.remove_suffix(1);
    if (begin == 0 && text.starts_with(byte_order_mark)) text.remove_prefix(byte_order_mark.size());
    ++num_lines_;
    if (is_blank(text)) continue;
    line = {text, num_lines_, static_cast<std::int64_t>(at_)};
    return true;
  }
  return false;
}

void report_bad_line(PieceReport& report, std::int64_t line, std::string reason) {
  ++report.num_bad;
  if (report.first_bad.size() < max_reported)
    report.first_bad.push_back({line, shortened(std::move(reason))});
}

std::vector<InputPiece> pieces_of(std::span<const std::int64_t> input_bytes, int rank, int world_size) {
  std::int64_t total = 0;
  for (const std::int64_t n : input_bytes) total += n;
  const std::int64_t begin = comm::slice_begin(total, rank, world_size);
  const std::int64_t end = comm::slice_begin(total, rank + 1, world_size);
  std::vector<InputPiece> pieces;
  std::int64_t start = 0;
  for (std::size_t i = 0; i < input_bytes.size(); ++i) {
    const std::int64_t from = std::max(begin, start), to = std::min(end, start + input_bytes[i]);
    if (from < to) pieces.push_back({static_cast<int>(i), from - start, to - start});
    start += input_bytes[i];
  }
  return pieces;
}

}  // namespace nmoe::data
