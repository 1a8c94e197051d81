// Completion scripts for bash and zsh from the table of commands and the lists of fields.
#include <fmt/format.h>

#include "help.hpp"
#include "neuronmoe/base/error.hpp"
#include "option_text.hpp"

namespace nmoe::app {
namespace {

struct Shell {
  std::string_view name;
  std::string (*script)();
};

/// Option words of a key: its short name, its own name; the user's part of a data set's stays out.
std::vector<std::string> option_words(const OptionText& option) {
  if (option.section == "data.<name>") return {};
  std::vector<std::string> words;
  if (!option.short_name.empty()) words.push_back("--" + option.short_name);
  words.push_back("--" + option.key);
  return words;
}

std::string all_words(const Command& command) {
  std::string words = "--help --config --print-config";
  for (const OptionText& option : options_of(command))
    for (const std::string& word : option_words(option)) words += " " + word;
  return words;
}

std::string first_words(std::string_view between) {
  std::string words;
  for (const Command& command : commands())
    words += (words.empty() ? "" : std::string(between)) + command.name;
  for (const Question& question : questions()) words += std::string(between) + question.name;
  return words;
}

/// What may stand behind an option: its choices, true or false; nothing for a path or a number.
std::string value_words(const OptionText& option) {
  if (option.value.empty()) return "true false";
  return fmt::format("{}", fmt::join(option.choices, " "));
}

std::string bash_script() {
  std::string text =
      "# bash completion for neuronmoe; made by `neuronmoe completions bash`\n"
      "_neuronmoe() {\n"
      "  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} words=\n"
      "  COMPREPLY=()\n"
      "  if ((COMP_CWORD == 1)); then\n"
      "    mapfile -t COMPREPLY < <(compgen -W \"" +
      first_words(" ") +
      " --help --version\" -- \"$current\")\n    return\n  fi\n"
      "  case $previous in\n";
  for (const OptionText& option : all_options()) {
    const std::string values = value_words(option);
    const std::vector<std::string> words = option_words(option);
    if (!values.empty() && !words.empty())
      text += fmt::format("    {}) words=\"{}\" ;;\n", fmt::join(words, " | "), values);
  }
  text += "    help) words=\"" + first_words(" ") +
          "\" ;;\n"
          "    completions) words=\"bash zsh\" ;;\n"
          "  esac\n"
          "  if [[ $current == -* ]]; then\n"
          "    case ${COMP_WORDS[1]} in\n";
  for (const Command& command : commands())
    text += fmt::format("      {}) words=\"{}\" ;;\n", command.name, all_words(command));
  return text +
         "    esac\n"
         "  fi\n"
         "  if [[ -n $words ]]; then\n"
         "    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$current\")\n"
         "  else\n"
         "    mapfile -t COMPREPLY < <(compgen -f -- \"$current\")\n"
         "  fi\n"
         "}\n"
         "complete -o filenames -o bashdefault -F _neuronmoe neuronmoe\n";
}

/// Text inside [...] of an _arguments specification between single quotes.
std::string zsh_quoted(std::string_view text) {
  std::string result;
  for (const char c : text) {
    if (c == '\'')
      result += "'\\''";
    else if (c == '[' || c == ']' || c == ':' || c == '\\')
      result += std::string("\\") + c;
    else
      result += c;
  }
  return result;
}

std::string zsh_specifications(const Command& command) {
  std::string text =
      "        '--help[usage, an example and the keys it reads]' \\\n"
      "        '*--config[config file]:FILE:_files' \\\n"
      "        '--print-config[print the whole resolved config]' \\\n";
  for (const OptionText& option : options_of(command)) {
    const std::string values = value_words(option);
    const std::string action = values.empty() ? "_files" : "(" + values + ")";
    for (const std::string& word : option_words(option))
      text += fmt::format("        '{}{}[{}]:{}:{}' \\\n", option.repeatable ? "*" : "", word,
                          zsh_quoted(option.help), option.value.empty() ? ":true or false" : option.value,
                          action);
  }
  return text + "        '*:file:_files'\n";
}

std::string zsh_script() {
  std::string text =
      "#compdef neuronmoe\n# made by `neuronmoe completions zsh`\n_neuronmoe() {\n"
      "  local -a names\n  names=(\n";
  for (const Command& command : commands())
    text += fmt::format("    '{}:{}'\n", command.name, zsh_quoted(command.summary));
  for (const Question& question : questions())
    text += fmt::format("    '{}:{}'\n", question.name, zsh_quoted(question.summary));
  text +=
      "  )\n  if (( CURRENT == 2 )); then\n    _describe command names\n    return\n  fi\n"
      "  local name=$words[2]\n  shift words\n  (( CURRENT-- ))\n  case $name in\n";
  for (const Command& command : commands())
    text +=
        fmt::format("    {})\n      _arguments \\\n{}      ;;\n", command.name, zsh_specifications(command));
  return text +
         "    help) _describe command names ;;\n    completions) _values shell bash zsh ;;\n  esac\n}\n"
         "_neuronmoe \"$@\"\n";
}

constexpr Shell shells[] = {{"bash", bash_script}, {"zsh", zsh_script}};

}  // namespace

std::string completions(const std::string& shell) {
  std::vector<std::string_view> names;
  for (const Shell& known : shells) {
    if (known.name == shell) return known.script();
    names.push_back(known.name);
  }
  fail_unknown_name(ErrorCode::config, "the shell of `neuronmoe completions`", shell, names);
}

}  // namespace nmoe::app
