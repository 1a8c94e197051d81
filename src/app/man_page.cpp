// The manual page from the table of commands and the lists of fields.
#include <fmt/format.h>

#include "help.hpp"
#include "neuronmoe/app/schema.hpp"
#include "neuronmoe/app/version.hpp"
#include "neuronmoe/base/error.hpp"
#include "option_text.hpp"

namespace nmoe::app {
namespace {

/// Text that roff prints as it is.
std::string plain(std::string_view text) {
  std::string result;
  bool line_begins = true;
  for (const char c : text) {
    if (line_begins && (c == '.' || c == '\'')) result += "\\&";
    line_begins = c == '\n';
    if (c == '\\')
      result += "\\e";
    else if (c == '-')
      result += "\\-";
    else
      result += c;
  }
  return result;
}

std::string tagged(const std::string& tag, std::string_view text) {
  return fmt::format(".TP\n\\fB{}\\fR\n{}\n", plain(tag), plain(text));
}

std::string example_lines(std::string_view lines) {
  return ".IP\n.nf\n" + plain(lines) + "\n.fi\n";
}

std::string command_part(const Command& command) {
  std::string text = fmt::format(".SS {}\n{}.\n.PP\n{}\n", plain(command.name), plain(command.summary),
                                 plain(usage_of(command)));
  for (const Needed& needed : command.needs) {
    std::string keys;
    for (const std::string& key : needed.keys)
      keys += (keys.empty() ? "" : " or ") + (key == "data" ? "[data.<name>]" : "--" + short_form(key));
    text += tagged(keys, "Required: " + needed.what + ".");
  }
  text += ".PP\nExample:\n" + example_lines(command.example);
  std::string keys;
  for (const OptionText& option : options_of(command)) keys += (keys.empty() ? "" : ", ") + option.key;
  return text + ".PP\nReads " + plain(keys) + ".\n";
}

std::string options_part() {
  std::string text, current;
  for (const OptionText& option : all_options()) {
    if (option.section != current) text += fmt::format(".SS [{}]\n", plain(option.section));
    current = option.section;
    const std::string also = option.short_name.empty() ? "" : "--" + option.short_name + ", ";
    text += tagged(fmt::format("{}--{}{}{}", also, option.key, option.value.empty() ? "" : " ", option.value),
                   described(option));
  }
  return text;
}

}  // namespace

std::string man_page() {
  std::string text = fmt::format(
      ".TH NEURONMOE 1 \"\" \"neuronmoe {}\" \"User Commands\"\n.nh\n.ad l\n.SH NAME\nneuronmoe \\- from a "
      "dense decoder "
      "to a measured multilingual mixture of experts\n.SH SYNOPSIS\n"
      "[mpirun \\-n N] \\fBneuronmoe\\fR \\fICOMMAND\\fR [\\-\\-config \\fIFILE.cfg\\fR ...] "
      "[\\-\\-section.key \\fIVALUE\\fR ...]\n",
      plain(version()));
  text +=
      ".SH DESCRIPTION\nA key is KEY = VALUE below [SECTION] in a file and \\-\\-SECTION.KEY VALUE on the "
      "command line. Later files win over earlier ones, the command line over all. A true\\-or\\-false key "
      "alone means true. \\-\\-print\\-config prints the whole resolved config, which is itself a config "
      "file.\n.SH COMMANDS\n";
  for (const Command& command : commands()) text += command_part(command);
  for (const Question& question : questions())
    text += fmt::format(".SS {}\n{}: {}.\n", plain(question.name), plain(usage_of(question)),
                        plain(question.summary));
  text += ".SH OPTIONS\n" + options_part();
  text += ".SH EXIT STATUS\n" + tagged("0", "done");
  for (const auto& row : enum_table<ErrorCode>) text += tagged(fmt::format("{}", row.exit_code), row.meaning);
  text += ".SH ENVIRONMENT\n" + tagged("OMP_NUM_THREADS", "threads of a rank, if run.threads does not say") +
          tagged("NO_COLOR", "if it is set and not empty, a terminal gets no colors") +
          tagged("CUDA_VISIBLE_DEVICES", "GPUs that may be taken");
  return text;
}

}  // namespace nmoe::app
