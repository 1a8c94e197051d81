// Chat templates: where they are found, and the statements of Jinja that they are made of.
#include "neuronmoe/data/chat_template.hpp"

#include <filesystem>
#include <vector>

#include "jinja_expression.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/json_file.hpp"

namespace nmoe::data {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// A piece of a template: text as it is, or what stands between two markers.
struct Piece {
  enum class Kind { text, output, statement } kind;
  std::string_view body;
};

constexpr std::string_view blanks = " \t\r\n";

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(blanks);
  return first == std::string_view::npos ? std::string_view{}
                                         : text.substr(first, text.find_last_not_of(blanks) - first + 1);
}

/// Removes blanks before a statement on a line of its own, as Jinja does with lstrip_blocks.
std::string_view without_indent(std::string_view text, bool begins_line) {
  const std::size_t last = text.find_last_not_of(" \t");
  if (last == std::string_view::npos) return begins_line ? std::string_view{} : text;
  return text[last] == '\n' ? text.substr(0, last + 1) : text;
}

/// Where the marker `end` closes what begins at `from`; strings are passed over.
std::size_t find_end(std::string_view text, std::size_t from, std::string_view end) {
  char quote = 0;
  for (std::size_t i = from; i < text.size(); ++i) {
    if (quote != 0) {
      if (text[i] == '\\')
        ++i;
      else if (text[i] == quote)
        quote = 0;
    } else if (end != "#}" && (text[i] == '\'' || text[i] == '"')) {
      quote = text[i];
    } else if (text.substr(i).starts_with(end)) {
      return i;
    }
  }
  return std::string_view::npos;
}

/// Cuts a template as transformers sets Jinja up: trim_blocks and lstrip_blocks.
std::vector<Piece> cut(std::string_view text, const std::string& source) {
  std::vector<Piece> pieces;
  bool strip_next = false, begins_line = true;
  while (!text.empty()) {
    std::size_t open = 0;
    do {
      open = text.find('{', open);
    } while (open != std::string_view::npos && ++open < text.size() &&
             std::string_view("{%#").find(text[open]) == std::string_view::npos);
    const bool last = open == std::string_view::npos || open >= text.size();
    std::string_view plain = last ? text : text.substr(0, open - 1);
    if (strip_next) plain.remove_prefix(std::min(plain.find_first_not_of(blanks), plain.size()));
    if (last) {
      pieces.push_back({Piece::Kind::text, plain});
      break;
    }
    const char kind = text[open];
    const std::string_view marker = kind == '{' ? "}}" : kind == '%' ? "%}" : "#}";
    const std::size_t end = find_end(text, open + 1, marker);
    NMOE_CHECK(end != std::string_view::npos, bad_data, "{}: \"{:.40}\" is not closed", source,
               text.substr(open - 1));
    std::string_view body = text.substr(open + 1, end - open - 1);
    if (body.starts_with('-')) {
      plain = plain.substr(0, plain.find_last_not_of(blanks) + 1);
    } else if (kind != '{' && !body.starts_with('+')) {
      plain = without_indent(plain, begins_line && !strip_next);
    }
    if (!plain.empty()) pieces.push_back({Piece::Kind::text, plain});
    strip_next = body.ends_with('-');
    if (body.starts_with('-') || body.starts_with('+')) body.remove_prefix(1);
    if (body.ends_with('-')) body.remove_suffix(1);
    text.remove_prefix(end + 2);
    begins_line = false;
    if (kind != '{' && text.starts_with('\n')) {
      text.remove_prefix(1);
      begins_line = true;
    }
    if (kind != '#')
      pieces.push_back({kind == '{' ? Piece::Kind::output : Piece::Kind::statement, trimmed(body)});
  }
  return pieces;
}

/// Executes the pieces of one template.
class Renderer {
 public:
  Renderer(std::vector<Piece> pieces, JinjaScope scope, const std::string& source)
      : pieces_(std::move(pieces)), scope_(std::move(scope)), source_(source) {}

  std::string render() {
    const std::size_t end = run(0, true);
    NMOE_CHECK(end == pieces_.size(), bad_data, "{}: \"{:.40}\" has no beginning", source_,
               pieces_[end].body);
    return std::move(text_);
  }

 private:
  static constexpr std::size_t longest_text = 1 << 20;

  json value(std::string_view expression) const { return evaluate_jinja(expression, scope_, source_); }
  static std::string_view word(std::string_view& statement) {
    const std::size_t end = std::min(statement.find_first_of(blanks), statement.size());
    const std::string_view first = statement.substr(0, end);
    statement = trimmed(statement.substr(end));
    return first;
  }

  /// Runs, or passes over, pieces from `at` up to a statement that ends a block, and returns its number.
  std::size_t run(std::size_t at, bool active) {
    for (; at < pieces_.size(); ++at) {
      const Piece& piece = pieces_[at];
      if (piece.kind == Piece::Kind::text) {
        if (active) text_ += piece.body;
      } else if (piece.kind == Piece::Kind::output) {
        if (active) text_ += jinja_text(value(piece.body));
      } else {
        std::string_view rest = piece.body;
        const std::string_view name = word(rest);
        if (name == "if") {
          at = run_if(at, rest, active);
        } else if (name == "for") {
          at = run_for(at, rest, active);
        } else if (name == "set") {
          if (active) assign(rest);
        } else if (name == "endif" || name == "else" || name == "elif" || name == "endfor") {
          return at;
        } else if (name != "generation" && name != "endgeneration") {
          NMOE_CHECK(!active, bad_data, "{}: \"{:.60}\" is not supported", source_, piece.body);
        }
      }
      NMOE_CHECK(text_.size() <= longest_text, bad_data, "{}: the template writes more than {} bytes",
                 source_, longest_text);
    }
    return at;
  }

  std::size_t run_if(std::size_t at, std::string_view condition, bool active) {
    bool open = active;  // whether a branch is still looked for
    while (true) {
      const bool chosen = open && (condition.empty() || jinja_truth(value(condition)));
      open = open && !chosen;
      at = run(at + 1, chosen);
      std::string_view rest = closing(at, "if");
      const std::string_view name = word(rest);
      if (name == "endif") return at;
      NMOE_CHECK(name == "elif" || name == "else", bad_data, "{}: \"{}\" ends an if", source_, name);
      condition = name == "elif" ? rest : std::string_view{};
    }
  }

  std::size_t run_for(std::size_t at, std::string_view header, bool active) {
    const std::size_t in = header.find(" in ");
    NMOE_CHECK(in != std::string_view::npos, bad_data, "{}: \"for {:.60}\" has no in", source_, header);
    const std::string name(trimmed(header.substr(0, in)));
    const json items = active ? value(header.substr(in + 4)) : json::array();
    NMOE_CHECK(items.is_array() && name.find(',') == std::string::npos, bad_data,
               "{}: \"for {:.60}\" is not supported: only lists are gone through", source_, header);
    const JinjaScope outer = scope_;
    std::size_t end = at;
    for (std::size_t i = 0; i < items.size(); ++i) {
      scope_ = outer;
      scope_[name] = items[i];
      scope_["loop"] = {{"index0", i},
                        {"index", i + 1},
                        {"first", i == 0},
                        {"last", i + 1 == items.size()},
                        {"length", items.size()}};
      end = run(at + 1, true);
    }
    scope_ = outer;
    if (items.empty()) end = run(at + 1, false);
    std::string_view rest = closing(end, "for");
    NMOE_CHECK(word(rest) == "endfor", bad_data, "{}: \"{:.40}\" ends a for", source_, pieces_[end].body);
    return end;
  }

  void assign(std::string_view statement) {
    const std::size_t equals = statement.find('=');
    const std::string name(trimmed(statement.substr(0, equals)));
    NMOE_CHECK(equals != std::string_view::npos && name.find_first_of(".,[") == std::string::npos, bad_data,
               "{}: \"set {:.60}\" is not supported", source_, statement);
    scope_[name] = value(statement.substr(equals + 1));
  }

  std::string_view closing(std::size_t at, std::string_view what) const {
    NMOE_CHECK(at < pieces_.size(), bad_data, "{}: an {} is not closed", source_, what);
    return pieces_[at].body;
  }

  std::vector<Piece> pieces_;
  JinjaScope scope_;
  const std::string& source_;
  std::string text_;
};

/// A token of tokenizer_config.json: a string, or an object with its content.
std::string token_text(const json& config, const char* key) {
  const json token = config.value(key, json());
  if (token.is_string()) return token.get<std::string>();
  return token.is_object() && token.value("content", json()).is_string() ? token["content"].get<std::string>()
                                                                         : std::string();
}

json default_template(const json& config) {
  json found = config.value("chat_template", json());
  if (found.is_array()) {
    for (const json& named : found)
      if (named.is_object() && named.value("name", json()) == "default")
        return named.value("template", json());
  }
  return found;
}

}  // namespace

ChatTemplate::ChatTemplate(std::string text, std::string source, std::string bos_token, std::string eos_token)
    : text_(std::move(text)),
      source_(std::move(source)),
      bos_token_(std::move(bos_token)),
      eos_token_(std::move(eos_token)) {}

ChatTemplate ChatTemplate::load(const std::string& directory) {
  const fs::path file = fs::path(directory) / "chat_template.jinja",
                 settings = fs::path(directory) / "tokenizer_config.json";
  json config = fs::exists(settings) ? io::read_json(settings.string()) : json::object();
  if (!config.is_object()) config = json::object();
  const std::string bos = token_text(config, "bos_token"), eos = token_text(config, "eos_token");
  if (fs::exists(file)) return {io::read_file(file.string()), file.string(), bos, eos};
  const json text = default_template(config);
  NMOE_CHECK(
      text.is_string(), bad_data,
      "{}: no chat_template.jinja, and no chat_template in tokenizer_config.json; without generate.chat "
      "the prompt is continued as it is",
      directory);
  return {text.get<std::string>(), settings.string(), bos, eos};
}

std::string ChatTemplate::render(std::string_view message) const {
  JinjaScope scope;
  scope["messages"] = json::array({{{"role", "user"}, {"content", message}}});
  scope["add_generation_prompt"] = true;
  scope["bos_token"] = bos_token_;
  scope["eos_token"] = eos_token_;
  // transformers passes these as None.
  scope["tools"] = scope["documents"] = nullptr;
  std::string text = text_;
  if (text.ends_with('\n')) text.pop_back();  // Jinja's keep_trailing_newline is off
  return Renderer(cut(text, source_), std::move(scope), source_).render();
}

}  // namespace nmoe::data
