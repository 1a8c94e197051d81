// Oniguruma's spelling of a Split expression to PCRE2's.
#include <cctype>

#include "neuronmoe/base/error.hpp"
#include "split_regex.hpp"

namespace nmoe::data {
namespace {

constexpr std::size_t max_pattern_bytes = 2000;
/// Unicode White_Space. PCRE2's own \s holds U+180E besides, Oniguruma's does not.
constexpr std::string_view white_space =
    "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& what) : pattern_(pattern), what_(what) {}

  std::string run() {
    NMOE_CHECK(!pattern_.empty() && pattern_.size() <= max_pattern_bytes, bad_data,
               "{}: Split expression of {} bytes; between 1 and {} are read", what_, pattern_.size(),
               max_pattern_bytes);
    while (at_ < pattern_.size()) {
      const char c = pattern_[at_];
      if (c == '\\')
        escape(false);
      else if (c == '[')
        character_class();
      else if (c == '(')
        group();
      else if (c == '{')
        counted();
      else if (c == '^' || c == '$' || c == '\0')
        refuse(1);
      else
        take(1);
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(std::size_t length) const {
    throw Error(ErrorCode::bad_data,
                fmt::format("{}: the Split expression has \"{}\" at byte {}, which is not supported", what_,
                            printable(pattern_.substr(at_, length)), at_));
  }
  static std::string printable(std::string_view text) {
    std::string shown;
    for (const char c : text)
      shown += static_cast<unsigned char>(c) < 0x20U ? fmt::format("\\x{:02x}", static_cast<unsigned char>(c))
                                                     : std::string(1, c);
    return shown;
  }
  void take(std::size_t length) {
    out_ += pattern_.substr(at_, length);
    at_ += length;
  }
  char peek(std::size_t ahead) const { return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : '\0'; }

  void escape(bool in_class) {
    const char c = peek(1);
    if (c == 's' || (c == 'S' && !in_class)) {
      if (!in_class) out_ += c == 's' ? "[" : "[^";
      out_ += white_space;
      if (!in_class) out_ += ']';
      at_ += 2;
    } else if (c == 'p' || c == 'P') {
      property();
    } else if (c == 'd' || c == 'r' || c == 'n' || c == 't') {
      take(2);
    } else if (c > ' ' && c < 0x7F && std::isalnum(static_cast<unsigned char>(c)) == 0) {
      take(2);
    } else {
      refuse(c == '\0' ? 1 : 2);
    }
  }

  /// \p{L}, \P{Lu}, \p{^Nd}: general categories, where both engines follow Unicode.
  void property() {
    std::size_t end = 3;
    if (peek(2) == '{' && peek(3) == '^') ++end;
    if (peek(2) == '{')
      while (std::isalpha(static_cast<unsigned char>(peek(end))) != 0) ++end;
    const std::string_view name = pattern_.substr(at_, end + 1);
    const std::size_t letters = name.size() - std::min(name.size(), name.find('{') + 1) - 1;
    if (peek(2) != '{' || peek(end) != '}' || letters < 1 || letters > 3) refuse(end);
    take(end + 1);
  }

  void character_class() {
    const std::size_t opened = at_;
    take(1);
    if (peek(0) == '^') take(1);
    if (peek(0) == ']') refuse(1);
    while (at_ < pattern_.size() && pattern_[at_] != ']') {
      if (pattern_[at_] == '\\')
        escape(true);
      else if (pattern_[at_] == '[' || pattern_[at_] == '\0' || (pattern_[at_] == '&' && peek(1) == '&'))
        refuse(pattern_[at_] == '&' ? 2 : 1);
      else
        take(1);
    }
    if (at_ == pattern_.size()) {
      at_ = opened;
      refuse(1);
    }
    take(1);
  }

  void group() {
    if (peek(1) == '*') refuse(2);  // a verb of PCRE2
    if (peek(1) != '?') return take(1);
    for (const std::string_view known : {"(?:", "(?i:", "(?=", "(?!", "(?>"})
      if (pattern_.substr(at_).starts_with(known)) return take(known.size());
    refuse(3);
  }

  /// {n}, {n,} and {n,m} mean the same to both unless a '+' follows.
  void counted() {
    std::size_t end = 1;
    const auto digits = [&] {
      const std::size_t first = end;
      while (std::isdigit(static_cast<unsigned char>(peek(end))) != 0) ++end;
      return end - first;
    };
    const std::size_t low = digits();
    if (peek(end) == ',') {
      ++end;
      digits();
    }
    if (low == 0 || peek(end) != '}' || peek(end + 1) == '+') refuse(end + 1);
    take(end + 1);
  }

  std::string_view pattern_;
  const std::string& what_;
  std::size_t at_ = 0;
  std::string out_;
};

}  // namespace

std::string translate_to_pcre2(std::string_view pattern, const std::string& what) {
  return Translator(pattern, what).run();
}

}  // namespace nmoe::data
