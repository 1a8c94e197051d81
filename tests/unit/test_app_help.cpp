// What the program says about itself: every command's help is complete and narrow, its example is a command
// line that the program takes, and the manual page and the completions hold every command and key.
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <sstream>

#include "../../src/app/help.hpp"
#include "../../src/app/option_text.hpp"
#include "neuronmoe/app/command_line.hpp"
#include "neuronmoe/base/error.hpp"
#include "support/temp_dir.hpp"

namespace {

using namespace nmoe;

bool holds(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

std::size_t longest_line(const std::string& text) {
  std::size_t longest = 0;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) longest = std::max(longest, line.size());
  return longest;
}

/// The command lines of an example: words behind "neuronmoe", continued lines joined.
std::vector<std::vector<std::string>> command_lines(std::string example) {
  for (std::size_t at; (at = example.find("\\\n")) != std::string::npos;) example.replace(at, 2, " ");
  std::vector<std::vector<std::string>> lines;
  std::istringstream in(example);
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line.substr(line.find("neuronmoe ") + 10));
    std::vector<std::string>& into = lines.emplace_back();
    for (std::string word; words >> word;) into.push_back(word);
  }
  return lines;
}

std::string error_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    BOOST_TEST(exit_code(error.code()) == 78);
    return error.what();
  }
  return "";
}

std::string roff(std::string text) {
  for (std::size_t at = 0; (at = text.find('-', at)) != std::string::npos; at += 2) text.insert(at, 1, '\\');
  return text;
}

}  // namespace

BOOST_AUTO_TEST_CASE(help_has_usage_and_example_and_fits_a_page) {
  BOOST_TEST(longest_line(app::overall_help()) <= 100U);
  for (const app::Command& command : app::commands()) {
    for (const int width : {100, 80, 60}) {
      const std::string help = app::command_help(command, width);
      BOOST_TEST(holds(help, "\nusage:\n  [mpirun -n N] neuronmoe " + command.name), help);
      BOOST_TEST(holds(help, "\nexample:\n"), help);
      if (width >= 80)
        BOOST_TEST(longest_line(help) <= 100U, command.name << " is " << longest_line(help) << " wide");
    }
    BOOST_TEST(longest_line(command.example) <= 98U, command.example);
    BOOST_TEST(holds(app::overall_help(), "\n  " + command.name + " "));
  }
  for (const app::Question& question : app::questions())
    BOOST_TEST(holds(app::overall_help(), "\n  " + question.name + " "));
}

BOOST_AUTO_TEST_CASE(examples_are_command_lines_with_all_that_is_needed) {
  for (const app::Command& command : app::commands()) {
    for (std::vector<std::string> words : command_lines(command.example)) {
      BOOST_REQUIRE(!words.empty());
      BOOST_TEST(words[0] == command.name, command.example);
      if (command.takes_file) words.insert(words.begin() + 1, "--run.input");
      const app::AppConfig config = app::make_config({app::parse_command_line(words).assignments});
      BOOST_CHECK_NO_THROW(app::require_needs(command, config));
      for (std::size_t i = 1; i < words.size(); ++i) {
        if (!words[i].starts_with("--") || words[i].starts_with("--data.")) continue;
        const std::string key = app::full_key(words[i].substr(2), app::sections_of(command));
        BOOST_TEST(app::reads_key(command, key), command.name << " does not read " << key);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(what_is_needed_is_named_and_marked) {
  for (const app::Command& command : app::commands()) {
    const std::string help = app::command_help(command);
    BOOST_TEST(holds(help, "\nrequired:\n") == !command.needs.empty());
    for (const app::Needed& needed : command.needs) {
      for (const std::string& key : needed.keys)
        BOOST_TEST((key == "data" || app::reads_key(command, key)), key);
    }
  }
  const app::Command& train = *app::find_command("train");
  const auto missing = [&](const std::vector<std::string>& words) {
    return error_of(
        [&] { app::require_needs(train, app::make_config({app::parse_command_line(words).assignments})); });
  };
  BOOST_TEST(holds(missing({"train"}), "--model is not set: "));
  BOOST_TEST(holds(missing({"train", "--model", "m"}), "--experts is not set, nor --train.init_from: "));
  const std::vector<std::string> most = {"train", "--model", "m", "--experts", "e.cfg", "--output", "o"};
  BOOST_TEST(holds(missing(most), "--tokens is not set, and there is no [data.<name>] section: "));
  std::vector<std::string> all = most;
  all.insert(all.end(), {"--data.el.tokens", "t.h5"});
  BOOST_TEST(missing(all) == "");
  BOOST_TEST(
      holds(error_of([] { app::require_needs(*app::find_command("inspect"), {}); }), "FILE is not set: "));
}

BOOST_AUTO_TEST_CASE(help_shows_the_keys_a_command_reads_and_no_others) {
  const auto help = [](const char* command) { return app::command_help(*app::find_command(command)); };
  BOOST_TEST(!holds(help("check"), "run.experts"));
  BOOST_TEST(!holds(help("tokenize"), "run.experts"));
  BOOST_TEST(!holds(help("tokenize"), "run.device"));
  BOOST_TEST(holds(help("tokenize"), "--run.threads"));
  BOOST_TEST(holds(help("analyze"), "train.expert_parallel_size"));
  BOOST_TEST(!holds(help("pretrain"), "train.lpr_form"));
  BOOST_TEST(holds(help("train"), "--data.<name>.tokens"));
  BOOST_TEST(holds(help("train"), "--stage, --train.stage N"));
  const std::string all = help("train");
  BOOST_TEST(all.find("\n[train]") < all.find("\n[analysis]"));  // in the order of the table
  BOOST_TEST(all.find("\n[expert_ap]") < all.find("\n[run]"));
  BOOST_TEST(all.find("\n[analysis]") == all.rfind("\n[analysis]"));  // a section once
  for (const app::OptionText& option : app::all_options()) {
    const auto reads = [&](const app::Command& command) { return app::reads_key(command, option.key); };
    BOOST_TEST(std::any_of(app::commands().begin(), app::commands().end(), reads),
               option.key << " is read by no command");
  }
  for (const app::Command& command : app::commands()) {
    for (const std::string& entry : command.reads) {
      const std::string key = entry.substr(entry.starts_with('-') ? 1 : 0);
      const auto known = [&](const app::OptionText& o) {
        return o.key == key || o.key.starts_with(key + ".");
      };
      const auto options = app::all_options();
      BOOST_TEST(std::any_of(options.begin(), options.end(), known),
                 command.name << ": " << entry << " is no key");
    }
  }
}

BOOST_AUTO_TEST_CASE(unknown_words_are_answered_with_the_nearest) {
  BOOST_TEST(holds(error_of([] { app::require_command("trian"); }),
                   "unknown command 'trian'; did you mean 'train'?"));
  BOOST_TEST(!holds(error_of([] { app::require_command("bogus"); }), "did you mean"));
  BOOST_TEST(holds(error_of([] { app::require_command(""); }), "no command given"));
  BOOST_TEST(holds(error_of([] { app::completions("fish"); }), "it may be bash or zsh"));
}

BOOST_AUTO_TEST_CASE(manual_page_and_completions_hold_every_command_and_key) {
  const std::string page = app::man_page(), bash = app::completions("bash"), zsh = app::completions("zsh");
  for (const app::Command& command : app::commands()) {
    BOOST_TEST(holds(page, "\n.SS " + roff(command.name) + "\n"));
    BOOST_TEST(holds(bash, "\n      " + command.name + ") words="));
    BOOST_TEST(holds(zsh, "\n    " + command.name + ")\n"));
    for (const app::OptionText& option : app::options_of(command)) {
      if (option.section == "data.<name>") continue;
      const std::string line = bash.substr(bash.find("\n      " + command.name + ") words="));
      BOOST_TEST(holds(line.substr(0, line.find('\n', 1)), "--" + option.key));
    }
  }
  for (const app::OptionText& option : app::all_options()) {
    BOOST_TEST(holds(page, roff("--" + option.key)), option.key);
    if (option.section != "data.<name>") BOOST_TEST(holds(zsh, "--" + option.key + "["), option.key);
  }
  for (const auto& row : enum_table<ErrorCode>)
    BOOST_TEST(holds(page, "\\fB" + std::to_string(row.exit_code) + "\\fR"));
}

BOOST_AUTO_TEST_CASE(bash_takes_its_completions) {
  const test::TempDir dir;
  const std::string path = dir.path() + "/neuronmoe.bash";
  std::ofstream(path) << app::completions("bash");
  const auto offered = [&](const std::string& words) {
    const std::string out = dir.path() + "/out";
    const std::string ask = "bash -c 'source " + path + "; COMP_WORDS=(" + words +
                            "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _neuronmoe; echo ${COMPREPLY[@]}' > " +
                            out;
    BOOST_REQUIRE(std::system(ask.c_str()) == 0);
    std::ifstream in(out);
    std::string line;
    std::getline(in, line);
    return line;
  };
  BOOST_TEST(offered("neuronmoe insp") == "inspect");
  BOOST_TEST(offered("neuronmoe analyze --analysis.ti") == "--analysis.ties");
  BOOST_TEST(offered("neuronmoe check --analysis.ti") == "");
  BOOST_TEST(offered("neuronmoe train --device c") == "cpu cuda");
  BOOST_TEST(offered("neuronmoe help spec") == "specialize");
}
