#pragma once
// The regular expression of a Split pre-tokenizer on PCRE2 with JIT. References use Oniguruma: the expression
// is translated where the two differ and refused where we do not know that they agree.
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace nmoe::data {

/// Compiled once, used by many threads, each with its own Matcher.
class SplitRegex {
 public:
  /// @param pattern in Oniguruma's spelling   @param what file and place for messages
  /// @throws Error(bad_data) naming the construct that is not supported
  SplitRegex(std::string_view pattern, const std::string& what);
  ~SplitRegex();
  SplitRegex(SplitRegex&&) noexcept;

  /// Match data and JIT stack of one thread.
  class Matcher {
   public:
    explicit Matcher(const SplitRegex& regex);
    ~Matcher();
    Matcher(Matcher&&) noexcept;
    /// First match at or after `from` in well-formed `text`: [begin, end), never empty. @throws
    /// Error(bad_data) if the expression needs too many steps.
    bool next(std::string_view text, std::size_t from, std::size_t& begin, std::size_t& end);

   private:
    struct State;
    std::unique_ptr<State> state_;
  };

 private:
  struct Code;
  std::shared_ptr<const Code> code_;
};

/// The same expression in PCRE2's spelling. @throws Error(bad_data)
std::string translate_to_pcre2(std::string_view pattern, const std::string& what);

}  // namespace nmoe::data
