// Compiles a Split expression with PCRE2 and finds its matches.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "split_regex.hpp"

#include <pcre2.h>

#include <array>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/base/handle.hpp"

namespace nmoe::data {
namespace {

constexpr std::size_t jit_stack_begin = std::size_t{32} << 10, jit_stack_max = std::size_t{8} << 20;
/// Backtracking steps per match: text that needs more takes minutes, not seconds.
constexpr std::uint32_t max_steps = 10'000'000;

std::string pcre2_message(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

}  // namespace

struct SplitRegex::Code {
  std::string what;
  Handle<pcre2_code*, &pcre2_code_free> code;
  bool jit = false;
};

SplitRegex::SplitRegex(std::string_view pattern, const std::string& what) {
  const std::string translated = translate_to_pcre2(pattern, what);
  auto code = std::make_shared<Code>();
  code->what = what;
  int fault = 0;
  std::size_t at = 0;
  code->code = Handle<pcre2_code*, &pcre2_code_free>(
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(), PCRE2_UTF | PCRE2_UCP,
                    &fault, &at, nullptr));
  NMOE_CHECK(code->code, bad_data, "{}: the Split expression is not valid: {}", what, pcre2_message(fault));
  std::uint32_t matches_empty = 0;
  pcre2_pattern_info(code->code.get(), PCRE2_INFO_MATCHEMPTY, &matches_empty);
  NMOE_CHECK(matches_empty == 0, bad_data, "{}: the Split expression can match the empty text", what);
  code->jit = pcre2_jit_compile(code->code.get(), PCRE2_JIT_COMPLETE) == 0;  // a system may forbid it
  code_ = std::move(code);
}

SplitRegex::~SplitRegex() = default;
SplitRegex::SplitRegex(SplitRegex&&) noexcept = default;

struct SplitRegex::Matcher::State {
  std::shared_ptr<const Code> code;
  Handle<pcre2_match_context*, &pcre2_match_context_free> context;
  Handle<pcre2_match_data*, &pcre2_match_data_free> data;
  Handle<pcre2_jit_stack*, &pcre2_jit_stack_free> stack;

  explicit State(std::shared_ptr<const Code> c)
      : code(std::move(c)),
        context(pcre2_match_context_create(nullptr)),
        data(pcre2_match_data_create_from_pattern(code->code.get(), nullptr)),
        stack(pcre2_jit_stack_create(jit_stack_begin, jit_stack_max, nullptr)) {
    NMOE_CHECK(context && data && stack, internal, "{}: no memory for the Split expression", code->what);
    pcre2_set_match_limit(context.get(), max_steps);
    pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
  }
};

SplitRegex::Matcher::Matcher(const SplitRegex& regex) : state_(std::make_unique<State>(regex.code_)) {}
SplitRegex::Matcher::~Matcher() = default;
SplitRegex::Matcher::Matcher(Matcher&&) noexcept = default;

bool SplitRegex::Matcher::next(std::string_view text, std::size_t from, std::size_t& begin,
                               std::size_t& end) {
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const auto match = state_->code->jit ? pcre2_jit_match : pcre2_match;
  const int found = match(state_->code->code.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK,
                          state_->data.get(), state_->context.get());
  if (found == PCRE2_ERROR_NOMATCH) return false;
  NMOE_CHECK(found >= 0, bad_data, "{}: the Split expression fails on a text of {} bytes: {}",
             state_->code->what, text.size(), pcre2_message(found));
  const std::size_t* range = pcre2_get_ovector_pointer(state_->data.get());
  begin = range[0];
  end = range[1];
  return true;
}

}  // namespace nmoe::data
