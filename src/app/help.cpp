// --help from the table of commands and the lists of fields.
#include "help.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "neuronmoe/app/schema.hpp"
#include "neuronmoe/base/error.hpp"
#include "option_text.hpp"
#include "standard_output.hpp"

namespace nmoe::app {
namespace {

constexpr int key_column = 2, help_column = 34;

/// Appends `text` word by word to a line that is `column` long; further lines begin at `indent`.
std::string wrapped(std::string_view text, int column, int indent, int width) {
  std::string result;
  bool first = true;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    const std::string_view word = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (!first && column + 1 + static_cast<int>(word.size()) > width) {
      result += "\n" + std::string(static_cast<std::size_t>(indent), ' ');
      column = indent;
    } else if (!first) {
      result += ' ';
      ++column;
    }
    result += word;
    column += static_cast<int>(word.size());
    first = false;
  }
  return result;
}

/// One row of a table: the left side, the right side wrapped beside it, or below if there is no room.
std::string row(const std::string& left, std::string_view right, int at, int width) {
  std::string text = std::string(key_column, ' ') + left;
  const auto length = static_cast<int>(text.size());
  if (length + 2 <= at)
    text += std::string(static_cast<std::size_t>(at - length), ' ');
  else
    text += "\n" + std::string(static_cast<std::size_t>(at), ' ');
  return text + wrapped(right, at, at, width) + "\n";
}

std::string option_row(const OptionText& option, std::string_view text, int width) {
  const std::string also = option.short_name.empty() ? "" : "--" + option.short_name + ", ";
  return row(fmt::format("{}--{}{}{}", also, option.key, option.value.empty() ? "" : " ", option.value), text,
             help_column, width);
}

std::string heading(const std::string& text) {
  return accented(text, Accent::heading);
}

OptionText find_option(std::string_view key) {
  const std::vector<OptionText> all = all_options();
  const auto found = std::find_if(all.begin(), all.end(), [&](const auto& o) { return o.key == key; });
  NMOE_CHECK(found != all.end(), internal, "the table of commands has {}, which is no key", key);
  return *found;
}

std::string typed(const Command& command, const std::string& key) {
  if (key == "data") return "--data.NAME.tokens TOKENS";
  if (command.takes_file && key == "run.input") return "FILE";
  return as_typed(find_option(key));
}

std::string typed_alternatives(const Command& command, const Needed& needed, std::string_view between) {
  std::string text;
  for (const std::string& key : needed.keys)
    text += (text.empty() ? "" : std::string(between)) + typed(command, key);
  return text;
}

std::string needs_block(const Command& command, int width) {
  std::string text;
  for (const Needed& needed : command.needs) {
    std::string what = needed.what;
    if (needed.keys.size() == 1) {
      const OptionText option = find_option(needed.keys.front());
      if (!option.choices.empty()) what += fmt::format(" [{}]", list_names(option.choices, "|"));
    }
    text += row(typed_alternatives(command, needed, " or "), what, help_column, width);
  }
  return text.empty() ? "" : "\n" + heading("required:") + "\n" + text;
}

bool needed_alone(const Command& command, const std::string& key) {
  return std::any_of(command.needs.begin(), command.needs.end(), [&](const Needed& needed) {
    return needed.keys.size() == 1 && needed.keys.front() == key;
  });
}

/// Sections as the table has them: those of what is needed first, what every command has last.
std::vector<std::string> sections_in_order(const Command& command) {
  std::vector<std::string> order;
  const auto add = [&](const std::vector<std::string>& entries) {
    for (const std::string& entry : entries) {
      const std::string section = entry.substr(0, entry.find('.'));
      if (section != "run" && section != "comm" &&
          std::find(order.begin(), order.end(), section) == order.end())
        order.push_back(section);
    }
  };
  for (const Needed& needed : command.needs) add(needed.keys);
  add(command.reads);
  order.insert(order.end(), {"run", "comm"});
  return order;
}

std::string section_blocks(const Command& command, int width) {
  std::vector<std::pair<std::string, std::string>> blocks;  // section, rows
  for (const OptionText& option : options_of(command)) {
    if (needed_alone(command, option.key)) continue;
    auto block = std::find_if(blocks.begin(), blocks.end(),
                              [&](const auto& known) { return known.first == option.section; });
    if (block == blocks.end()) block = blocks.insert(block, {option.section, ""});
    block->second += option_row(option, described(option), width);
  }
  const std::vector<std::string> order = sections_in_order(command);
  std::stable_sort(blocks.begin(), blocks.end(), [&](const auto& a, const auto& b) {
    const auto place = [&](std::string_view section) {
      return std::find(order.begin(), order.end(), section.substr(0, section.find('.')));
    };
    return place(a.first) < place(b.first);
  });
  std::string text;
  for (const auto& [section, rows] : blocks)
    text += "\n" + heading("[" + section + "]") +
            (section == "data.<name>" ? ", one section for each data set\n" : "\n") + rows;
  return text;
}

std::string indented(std::string_view lines) {
  std::string text = "  ";
  for (const char c : lines) text += c == '\n' ? std::string("\n  ") : std::string(1, c);
  return text + "\n";
}

}  // namespace

std::string usage_of(const Command& command) {
  std::string text = "neuronmoe " + command.name;
  for (const Needed& needed : command.needs) {
    const std::string all = typed_alternatives(command, needed, " | ");
    text += needed.keys.size() > 1 ? " (" + all + ")" : " " + all;
  }
  return text + " [OPTION ...]";
}

std::string command_help(const Command& command, int width) {
  std::string text =
      fmt::format("neuronmoe {}: {}\n\n{}\n", command.name, command.summary, heading("usage:"));
  text += "  " + wrapped("[mpirun -n N] " + usage_of(command), 2, 6, width) + "\n";
  text += "\n" + heading("example:") + "\n" + indented(command.example);
  text += needs_block(command, width) + section_blocks(command, width);
  text += "\n" + heading("more:") + "\n";
  text += row("--config FILE.cfg",
              "keys as KEY = VALUE lines below their [section]; repeatable: a later file wins over an "
              "earlier one, the command line over all",
              help_column, width);
  text += row("--print-config", "print the whole resolved config, a config file itself, and end", help_column,
              width);
  return text;
}

std::string key_help(const std::string& name, int width) {
  const auto dot = name.rfind('.');
  const bool of_data = is_data_key(name);
  std::string text;
  for (const OptionText& option : all_options()) {
    const bool wanted = of_data ? option.key == "data.<name>" + name.substr(dot)
                                : option.key == name || option.short_name == name;
    if (!wanted) continue;
    std::string readers;
    for (const Command& command : commands())
      if (reads_key(command, option.key)) readers += (readers.empty() ? "" : ", ") + command.name;
    text += option_row(option, described(option), width) + row("", "read by " + readers, help_column, width);
  }
  NMOE_CHECK(!text.empty(), config, "command line: unknown key '{}'; did you mean '{}'?", name,
             nearest_key(name));
  return text;
}

const std::vector<Question>& questions() {
  static const std::vector<Question> list = {
      {"help", "[COMMAND|KEY]", "this list, what COMMAND --help says, or what a key is and who reads it"},
      {"version", "", "as --version: what this program was built from and with"},
      {"man", "", "the manual page, in roff"},
      {"completions", "bash|zsh", "a script that completes commands and options in a shell"},
  };
  return list;
}

std::string usage_of(const Question& question) {
  return "neuronmoe " + question.name + (question.arguments.empty() ? "" : " " + question.arguments);
}

std::string overall_help(int width) {
  constexpr int at = 24;
  std::string text =
      "neuronmoe: from a dense decoder to a measured multilingual mixture of experts\n\n" +
      heading("usage:") +
      "\n  [mpirun -n N] neuronmoe COMMAND [--config FILE.cfg ...] [--section.key VALUE ...]\n\n" +
      heading("example:") + "\n  neuronmoe help train\n  mpirun -n 2 neuronmoe check --output runs\n\n" +
      heading("commands:") + "\n";
  for (const Command& command : commands()) text += row(command.name, command.summary, at, width);
  text += "\n" + heading("about the program:") + "\n";
  for (const Question& question : questions())
    text += row(question.name + (question.arguments.empty() ? "" : " " + question.arguments),
                question.summary, at, width);
  text += "\n" + heading("options of every command:") + "\n";
  text += row("--help", "usage, an example, what is required, and the keys it reads", at, width);
  text += row("--config FILE.cfg", "KEY = VALUE lines below a [section]; later files win", at, width);
  text += row("--section.key VALUE", "the same on the command line, which wins over all files", at, width);
  text +=
      row("--print-config", "the whole resolved config as INI, which gives the same run again", at, width);
  text += row("--version", "version, compiler, libraries", at, width);
  text += "\n" +
          heading("Short names (one with several keys means that in a section which the command reads):") +
          "\n";
  for (const ShortName& s : short_names()) text += fmt::format("  --{:<12} --{}\n", s.name, s.key);
  text += "\n" + heading("Exit codes:") + "\n  0   done\n";
  for (const auto& code : enum_table<ErrorCode>)
    text += row(fmt::format("{}", code.exit_code), code.meaning, 6, width);
  return text;
}

}  // namespace nmoe::app
