#pragma once
// Documents from JSONL ("text" field) or plain text (one document per line), cut into pieces so that every
// world size sees the same documents. tokenize reads corpora with it; evaluate reads its items.
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nmoe::data {

/// What to do with a line that is not a document.
enum class BadLinePolicy { error, skip };
/// "error" or "skip". @throws Error(config)
BadLinePolicy parse_bad_line_policy(const std::string& text);

struct BadLine {
  std::int64_t line;  ///< 1-based: of the piece in PieceReport, of the file elsewhere
  std::string reason;
};

/// What reading a piece found besides documents.
struct PieceReport {
  std::int64_t num_lines = 0;  ///< lines that begin in the piece, blank ones included
  std::int64_t num_docs = 0;
  std::int64_t num_bad = 0;
  std::vector<BadLine> first_bad;  ///< at most 10
};

/// What a line of a file is.
enum class TextFormat { plain, jsonl };
/// By the name: .txt is plain, .jsonl and .json are JSONL. @throws Error(bad_data) for any other
TextFormat text_format_of(const std::string& path);

/// A line of a file, without its end and without a byte order mark.
struct Line {
  std::string_view text;
  std::int64_t number = 0;  ///< 1-based, of the piece
  std::int64_t end = 0;     ///< position in the file behind the line
};

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
/// The document in a line. @throws Error(bad_data) with the bare reason (read_piece lists them)
std::string document_of(std::string_view line, TextFormat format);

/// Notes a line that is no document; only the first ten keep their reason.
void report_bad_line(PieceReport& report, std::int64_t line, std::string reason);

/// Receives a document and the position in the file behind its line.
using OnDocument = std::function<void(std::string_view text, std::int64_t line_end)>;

/// Calls `on_document` for each document whose line begins in bytes [begin, end) of `path`, in file
/// order. Pieces that tile a file give each document exactly once. Lines that are not documents (invalid
/// JSON or UTF-8, no "text" string, NUL or lone surrogate in it, longer than 64 MiB) are reported, never
/// passed on; blank lines are ignored.
/// @throws Error(bad_data) if the file cannot be read or its name does not tell its format
PieceReport read_piece(const std::string& path, std::int64_t begin, std::int64_t end,
                       const OnDocument& on_document);
/// The same on a file in memory.
PieceReport read_piece_of(std::string_view file, TextFormat format, std::int64_t begin, std::int64_t end,
                          const OnDocument& on_document);

/// A byte range of one input.
struct InputPiece {
  int input;
  std::int64_t begin, end;
};
/// Rank's share of all inputs laid end to end: contiguous, near-equal in bytes, possibly empty. Ranks in
/// order tile the inputs.
std::vector<InputPiece> pieces_of(std::span<const std::int64_t> input_bytes, int rank, int world_size);

/// Whole file, not split. Skipped lines are counted in `report` (file line numbers).
/// @throws Error(bad_data) "PATH:LINE: reason" under BadLinePolicy::error.
std::vector<std::string> read_documents(const std::string& path, BadLinePolicy policy,
                                        PieceReport* report = nullptr);

/// True if `text` is well-formed UTF-8 (no overlong forms, surrogates or values above U+10FFFF).
bool is_valid_utf8(std::string_view text);

}  // namespace nmoe::data
