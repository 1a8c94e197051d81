// A recursive-descent evaluator: each function reads one level of precedence and returns its value.
#include "jinja_expression.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdint>

#include "neuronmoe/base/error.hpp"

namespace nmoe::data {

namespace {

using nlohmann::json;

constexpr std::size_t longest_text = 1 << 20;

json undefined() {
  return json(json::value_t::discarded);
}

bool is_name(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

class Evaluator {
 public:
  Evaluator(std::string_view text, const JinjaScope& scope, const std::string& source)
      : whole_(text), rest_(text), scope_(scope), source_(source) {}

  json whole() {
    json value = conditional();
    skip_blanks();
    if (!rest_.empty()) refuse();
    return value;
  }

 private:
  [[noreturn]] void refuse() const {
    throw Error(ErrorCode::bad_data,
                fmt::format("{}: \"{:.60}\" is not supported; write the prompt with its markers and leave "
                            "generate.chat out",
                            source_, whole_));
  }

  void skip_blanks() { rest_.remove_prefix(std::min(rest_.find_first_not_of(" \t\r\n"), rest_.size())); }
  bool take(std::string_view symbol) {
    skip_blanks();
    if (!rest_.starts_with(symbol)) return false;
    const bool word = is_name(symbol.back());
    if (word && rest_.size() > symbol.size() && is_name(rest_[symbol.size()])) return false;
    rest_.remove_prefix(symbol.size());
    return true;
  }
  void expect(std::string_view symbol) {
    if (!take(symbol)) refuse();
  }
  std::string name() {
    skip_blanks();
    std::size_t end = 0;
    while (end < rest_.size() && is_name(rest_[end])) ++end;
    if (end == 0) refuse();
    std::string found(rest_.substr(0, end));
    rest_.remove_prefix(end);
    return found;
  }
  /// Reads a level with evaluation on or off.
  template <typename F>
  json passive_unless(bool active, F&& level) {
    const bool before = active_;
    active_ = active_ && active;
    const Depth depth(*this);
    json value = level();
    active_ = before;
    return value;
  }

  // Nesting is bounded: templates come from strangers.
  struct Depth {
    explicit Depth(Evaluator& owner, int levels = 1) : evaluator(owner), levels_(levels) {
      evaluator.depth_ += levels_;
      if (evaluator.depth_ > 64) evaluator.refuse();
    }
    ~Depth() { evaluator.depth_ -= levels_; }
    Depth(const Depth&) = delete;
    Depth& operator=(const Depth&) = delete;
    Evaluator& evaluator;

   private:
    int levels_;
  };

  // Whether `value if condition` stands here: outside strings and brackets, before what ends the expression.
  bool has_condition() const {
    int open = 0;
    char quote = 0;
    for (std::size_t i = 0; i < rest_.size() && open >= 0; ++i) {
      const char c = rest_[i];
      if (quote != 0) {
        if (c == '\\')
          ++i;
        else if (c == quote)
          quote = 0;
      } else if (c == '\'' || c == '"') {
        quote = c;
      } else if (c == '(' || c == '[') {
        ++open;
      } else if (c == ')' || c == ']') {
        --open;
      } else if (open == 0 && rest_.substr(i).starts_with("if") && i > 0 && !is_name(rest_[i - 1]) &&
                 (i + 2 == rest_.size() || !is_name(rest_[i + 2]))) {
        return true;
      }
    }
    return false;
  }
  // The condition stands behind the value, which is read twice: to find it, and once it is known.
  json conditional() {
    if (!has_condition()) return either();
    const Depth depth(*this, 8);
    const std::string_view start = rest_;
    passive_unless(false, [&] { return either(); });
    expect("if");
    const bool chosen = jinja_truth(either());
    const std::string_view end = rest_;
    rest_ = start;
    json value = passive_unless(chosen, [&] { return either(); });
    rest_ = end;
    if (!take("else")) return chosen ? value : undefined();
    json other = passive_unless(!chosen, [&] { return conditional(); });
    return chosen ? value : other;
  }
  json either() {
    json value = both();
    while (take("or")) {
      const bool known = jinja_truth(value);
      json other = passive_unless(!known, [&] { return both(); });
      if (!known) value = std::move(other);
    }
    return value;
  }
  json both() {
    json value = negation();
    while (take("and")) {
      const bool known = !jinja_truth(value);
      json other = passive_unless(!known, [&] { return negation(); });
      if (!known) value = std::move(other);
    }
    return value;
  }
  json negation() {
    if (!take("not")) return comparison();
    return passive_unless(true, [&] { return json(!jinja_truth(negation())); });
  }

  json comparison() {
    json value = sum();
    while (true) {
      if (take("==")) {
        value = equal(value, sum());
      } else if (take("!=")) {
        value = !equal(value, sum());
      } else if (take("is")) {
        const bool inverse = take("not");
        value = test(value, name()) != inverse;
      } else if (take("in")) {
        value = contains(sum(), value);
      } else if (const std::string_view before = rest_; take("not")) {
        if (!take("in")) {
          rest_ = before;
          return value;
        }
        value = !contains(sum(), value);
      } else {
        return value;
      }
    }
  }
  static bool equal(const json& a, const json& b) {
    return a.is_discarded() || b.is_discarded() ? a.is_discarded() && b.is_discarded() : a == b;
  }
  bool test(const json& value, const std::string& what) const {
    if (what == "defined") return !value.is_discarded();
    if (what == "none") return value.is_null();
    if (what == "string") return value.is_string();
    if (what == "mapping") return value.is_object();
    refuse();
  }
  bool contains(const json& whole, const json& part) const {
    if (!active_) return false;
    if (whole.is_string() && part.is_string())
      return whole.get_ref<const std::string&>().find(part.get_ref<const std::string&>()) !=
             std::string::npos;
    if (whole.is_object() && part.is_string()) return whole.contains(part.get_ref<const std::string&>());
    if (whole.is_array()) return std::find(whole.begin(), whole.end(), part) != whole.end();
    refuse();
  }

  json sum() {
    json value = product();
    while (true) {
      if (take("~")) {
        const json other = product();
        if (active_) value = joined(value, other);
      } else if (take("+")) {
        const json other = product();
        if (!active_) continue;
        value = value.is_string() && other.is_string() ? joined(value, other)
                                                       : json(integer_of(value) + integer_of(other));
      } else if (take("-")) {
        const json other = product();
        if (active_) value = integer_of(value) - integer_of(other);
      } else {
        return value;
      }
    }
  }
  json product() {
    json value = operand();
    while (take("%")) {
      const json other = operand();
      if (!active_) continue;
      const std::int64_t divisor = integer_of(other);
      if (divisor <= 0 || integer_of(value) < 0) refuse();
      value = integer_of(value) % divisor;
    }
    return value;
  }
  json joined(const json& left, const json& right) const {
    std::string text = jinja_text(left) + jinja_text(right);
    if (text.size() > longest_text) refuse();
    return text;
  }
  // Numbers are lengths and places: what is larger is no template's business.
  std::int64_t integer_of(const json& value) const {
    if (!value.is_number_integer()) refuse();
    const auto number = value.get<std::int64_t>();
    if (number < -1'000'000'000 || number > 1'000'000'000) refuse();
    return number;
  }

  json operand() {
    json value = primary();
    while (true) {
      if (take(".")) {
        value = member(value, name());
      } else if (take("[")) {
        value = element(value);
      } else if (take("|")) {
        value = filtered(value, name());
      } else {
        return value;
      }
    }
  }
  json primary() {
    skip_blanks();
    if (rest_.empty()) refuse();
    const char c = rest_.front();
    if (c == '\'' || c == '"') return literal(c);
    if (c == '(') {
      expect("(");
      json value = passive_unless(true, [&] { return conditional(); });
      expect(")");
      return value;
    }
    if (take("-")) return -integer_of(integer());
    if (std::isdigit(static_cast<unsigned char>(c)) != 0) return integer();
    const std::string word = name();
    if (word == "true" || word == "True") return true;
    if (word == "false" || word == "False") return false;
    if (word == "none" || word == "None") return nullptr;
    if (active_ && word == "raise_exception" && take("(")) {
      throw Error(ErrorCode::bad_data, fmt::format("{}: {}", source_, jinja_text(conditional())));
    }
    const auto found = scope_.find(word);
    return found == scope_.end() ? undefined() : found->second;
  }
  json integer() {
    skip_blanks();
    std::int64_t value = 0;
    std::size_t digits = 0;
    for (;
         digits < rest_.size() && digits < 10 && std::isdigit(static_cast<unsigned char>(rest_[digits])) != 0;
         ++digits)
      value = value * 10 + (rest_[digits] - '0');
    if (digits == 0 || digits > 9) refuse();
    rest_.remove_prefix(digits);
    return value;
  }
  json literal(char quote) {
    std::string text;
    std::size_t i = 1;
    for (; i < rest_.size() && rest_[i] != quote; ++i) {
      if (rest_[i] != '\\' || i + 1 == rest_.size()) {
        text += rest_[i];
        continue;
      }
      constexpr std::array<std::array<char, 2>, 6> escapes = {
          {{'n', '\n'}, {'t', '\t'}, {'r', '\r'}, {'\\', '\\'}, {'\'', '\''}, {'"', '"'}}};
      const char escaped = rest_[++i];
      const auto* known =
          std::find_if(escapes.begin(), escapes.end(), [&](auto e) { return e[0] == escaped; });
      if (known == escapes.end()) refuse();
      text += (*known)[1];
    }
    if (i >= rest_.size()) refuse();
    rest_.remove_prefix(i + 1);
    return text;
  }

  json member(const json& value, const std::string& key) {
    if (take("(")) {  // strings have methods
      if (!take(")")) refuse();
      if (active_ && !value.is_string()) refuse();
      if (key == "strip") return filtered(value, "trim");
      if (active_) refuse();
      return undefined();
    }
    if (!active_) return undefined();
    if (value.is_discarded() || value.is_null()) refuse();
    return value.is_object() ? value.value(key, undefined()) : undefined();
  }
  json element(const json& value) {
    json from = take(":") ? undefined() : passive_unless(true, [&] { return conditional(); });
    const bool slice = from.is_discarded() || take(":");
    json to = undefined();
    if (slice && !take("]")) {
      to = passive_unless(true, [&] { return conditional(); });
      expect("]");
    } else if (!slice) {
      expect("]");
    }
    if (!active_) return undefined();
    if (slice) return sliced(value, from, to);
    if (from.is_string() && value.is_object()) return value.value(from.get<std::string>(), undefined());
    if (!value.is_array() || !from.is_number_integer()) refuse();
    std::int64_t i = from.get<std::int64_t>();
    if (i < 0) i += std::ssize(value);
    return i >= 0 && i < std::ssize(value) ? value[static_cast<std::size_t>(i)] : undefined();
  }
  json sliced(const json& value, const json& from, const json& to) const {
    if (!value.is_array()) refuse();
    const auto bound = [&](const json& at, std::int64_t otherwise) {
      if (at.is_discarded()) return otherwise;
      if (!at.is_number_integer()) refuse();
      const std::int64_t i = at.get<std::int64_t>();
      return std::clamp<std::int64_t>(i < 0 ? i + std::ssize(value) : i, 0, std::ssize(value));
    };
    json part = json::array();
    for (std::int64_t i = bound(from, 0); i < bound(to, std::ssize(value)); ++i)
      part.push_back(value[static_cast<std::size_t>(i)]);
    return part;
  }
  json filtered(const json& value, const std::string& filter) const {
    if (!active_) return undefined();
    if (filter == "trim" && value.is_string()) {
      const auto& text = value.get_ref<const std::string&>();
      const std::size_t first = text.find_first_not_of(" \t\r\n\f\v");
      return first == std::string::npos
                 ? std::string()
                 : text.substr(first, text.find_last_not_of(" \t\r\n\f\v") - first + 1);
    }
    if (filter == "length" && (value.is_array() || value.is_object())) return std::ssize(value);
    refuse();
  }

  std::string_view whole_, rest_;
  const JinjaScope& scope_;
  const std::string& source_;
  bool active_ = true;
  int depth_ = 0;
};

}  // namespace

json evaluate_jinja(std::string_view expression, const JinjaScope& scope, const std::string& source) {
  return Evaluator(expression, scope, source).whole();
}

bool jinja_truth(const json& value) {
  if (value.is_discarded() || value.is_null()) return false;
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number()) return value.get<double>() != 0.0;
  if (value.is_string()) return !value.get_ref<const std::string&>().empty();
  return !value.empty();
}

std::string jinja_text(const json& value) {
  if (value.is_discarded()) return {};
  if (value.is_null()) return "None";
  if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
  if (value.is_string()) return value.get<std::string>();
  NMOE_CHECK(value.is_number_integer(), bad_data, "a chat template writes {:.40}, expected a text",
             value.dump());
  return value.dump();
}

}  // namespace nmoe::data
