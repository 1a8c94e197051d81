#pragma once
// Documents from JSONL ("text" field) or plain text (one document per line), cut into pieces so that every
// world size sees the same documents. tokenize reads corpora with it.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "neuronmoe/base/enum_names.hpp"

namespace nmoe::data {

/// What to do with a line that is not a document.
enum class BadLinePolicy { error, skip };
constexpr auto enum_names(BadLinePolicy) {
  return std::to_array<EnumName<BadLinePolicy>>(
      {{BadLinePolicy::error, "error"}, {BadLinePolicy::skip, "skip"}});
}

struct BadLine {
  std::int64_t line;  ///< 1-based: of the piece in PieceReport, of the file elsewhere
  std::string reason;
};

/// What reading a piece found besides documents.
struct PieceReport {
  std::int64_t num_lines = 0;  ///< lines that begin in the piece, blank ones included
  std::int64_t num_docs = 0;
  std::int64_t num_empty = 0;  ///< of these, documents without text
  std::int64_t num_bad = 0;
  std::vector<BadLine> first_bad;  ///< at most 10
};

/// What a line of a file is.
enum class TextFormat { plain, jsonl };
/// Returns the format by the name: .txt is plain, .jsonl and .json are JSONL. @throws Error(bad_data) for any
/// other
TextFormat text_format_of(const std::string& path);

/// A line of a file, without its end and without a byte order mark.
struct Line {
  std::string_view text;
  std::int64_t number = 0;  ///< 1-based, of the piece
  std::int64_t end = 0;     ///< position in the file behind the line
};

/// Demands that a text with carriage returns have line feeds, too. @throws Error(bad_data)
void require_line_ends(std::string_view file, const std::string& path);

/// The lines that begin in bytes [begin, end) of a file in memory; blank ones are counted and passed over.
class LineReader {
 public:
  LineReader(std::string_view file, std::int64_t begin, std::int64_t end);
  bool next(Line& line);
  std::int64_t num_lines() const { return num_lines_; }  ///< so far, blank ones included

 private:
  std::size_t after_line(std::size_t from) const;
  std::string_view file_;
  std::size_t at_, stop_;
  std::int64_t num_lines_ = 0;
};
/// Returns the document in a line. @throws Error(bad_data) with the bare reason (report_bad_line keeps it)
std::string document_of(std::string_view line, TextFormat format);

/// Notes a line that is no document; only the first ten keep their reason.
void report_bad_line(PieceReport& report, std::int64_t line, std::string reason);

/// A byte range of one input.
struct InputPiece {
  int input;
  std::int64_t begin, end;
};
/// Returns a rank's share of all inputs laid end to end: contiguous, near-equal in bytes, possibly empty.
/// Ranks in order tile the inputs.
std::vector<InputPiece> pieces_of(std::span<const std::int64_t> input_bytes, int rank, int world_size);

/// Returns whether `text` is well-formed UTF-8 (no overlong forms, surrogates or values above U+10FFFF).
bool is_valid_utf8(std::string_view text);

}  // namespace nmoe::data
