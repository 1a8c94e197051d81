// Config files and command line: every bad one is refused with file, line and key; every good one comes back
// from
// --print-config unchanged.
#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "../../src/app/help.hpp"
#include "../../src/app/option_text.hpp"
#include "neuronmoe/app/command_line.hpp"
#include "neuronmoe/base/error.hpp"

namespace {

using namespace nmoe;
namespace fs = std::filesystem;

std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

app::AppConfig from_ini(const std::string& text) {
  return app::make_config({app::parse_ini(text, "test.cfg")});
}

/// Message of the Error(config) that `work` throws.
template <typename Work>
std::string config_error(Work&& work) {
  try {
    work();
  } catch (const Error& error) {
    BOOST_TEST(exit_code(error.code()) == 78);
    return error.what();
  }
  BOOST_ERROR("nothing was thrown");
  return {};
}

void check_contains(const std::string& message, const std::string& part) {
  BOOST_TEST(message.find(part) != std::string::npos, "'" << message << "' should hold '" << part << "'");
}

std::string config_error_of_arguments(const std::vector<std::string>& arguments) {
  return config_error([&] { app::make_config({app::parse_command_line(arguments).assignments}); });
}

}  // namespace

BOOST_AUTO_TEST_CASE(every_bad_config_names_file_line_and_key) {
  const fs::path dir = fs::path(std::getenv("NMOE_TEST_SOURCE_DIR")) / "tests" / "bad_configs";
  int count = 0;
  for (const auto& entry : fs::directory_iterator(dir)) {
    const std::string text = read(entry.path());
    const auto at = text.rfind("# expect ");
    BOOST_REQUIRE_MESSAGE(at != std::string::npos, entry.path() << " lacks its '# expect LINE | text' line");
    std::istringstream expect(text.substr(at + 9));
    std::string part, file = entry.path().filename().string();
    int line = 0;
    expect >> line;
    const std::string message = config_error([&] { app::make_config({app::parse_ini(text, file)}); });
    BOOST_TEST(message.starts_with(file + ":" + std::to_string(line) + ": "),
               message << " should begin with " << file << ":" << line);
    std::getline(expect, part, '|');
    while (std::getline(expect, part, '|') || !part.empty()) {
      std::string wanted = part;
      while (!wanted.empty() && (wanted.back() == ' ' || wanted.back() == '\n')) wanted.pop_back();
      check_contains(message, wanted.substr(std::min(wanted.find_first_not_of(' '), wanted.size())));
      part.clear();
    }
    BOOST_TEST(message.find('\n') == std::string::npos);
    ++count;
  }
  BOOST_TEST(count >= 30);
}

BOOST_AUTO_TEST_CASE(values_keep_number_signs_and_lose_comments) {
  const auto config = from_ini(
      "# top\r\n; also\r\n[run]\r\nmodel = /data/run#3/x  # a comment\r\noutput=a = "
      "b\r\n\n[train]\nlearning_rate\t=\t1e-3\t# c\nseed = 18446744073709551615");
  BOOST_TEST(config.run.model == "/data/run#3/x");
  BOOST_TEST(config.run.output == "a = b");
  BOOST_TEST(config.train.learning_rate == 1e-3);
  BOOST_TEST(config.train.seed == 18446744073709551615ULL);
}

BOOST_AUTO_TEST_CASE(later_sources_win_and_lists_are_replaced) {
  const auto first =
      app::parse_ini("[train]\nsteps = 1\nseed = 1\n[analysis]\nsense = en:a\nsense = el:b\n", "1.cfg");
  const auto second = app::parse_ini("[train]\nsteps = 2\n", "2.cfg");
  const auto line =
      app::parse_command_line({"train", "--train.steps", "3", "--train.steps=4", "--analysis.sense", "tr:c"});
  auto config = app::make_config({first, second});
  BOOST_TEST(config.train.steps == 2);
  BOOST_TEST(config.train.seed == 1U);
  BOOST_TEST(config.analysis.sense == (std::vector<std::string>{"en:a", "el:b"}),
             boost::test_tools::per_element());
  config = app::make_config({first, second, line.assignments});
  BOOST_TEST(config.train.steps == 4);
  BOOST_TEST(config.analysis.sense == (std::vector<std::string>{"tr:c"}), boost::test_tools::per_element());
  BOOST_TEST(line.command == "train");
}

BOOST_AUTO_TEST_CASE(stage_decides_defaults_but_not_what_was_set) {
  auto config = from_ini("[train]\nlearning_rate = 3e-3\nstage = 2\n");
  BOOST_TEST(config.train.seq_length == 512);
  BOOST_TEST(config.train.learning_rate == 3e-3);
  config = app::make_config({app::parse_command_line({"train", "--stage", "2"}).assignments});
  BOOST_TEST(config.train.learning_rate == 5e-5);
  BOOST_TEST(from_ini("[run]\nquiet = true\n").train.seq_length == 1024);
}

BOOST_AUTO_TEST_CASE(data_sections_and_aliases) {
  const auto line = app::parse_command_line(
      {"train", "--data.greek-new.tokens", "el.h5", "--data.greek-new.weight=0.5", "--model", "m", "--output",
       "-1", "--counts", "c.csv", "--config", "a.cfg", "--config", "b.cfg", "--print-config"});
  const auto config = app::make_config(
      {app::parse_ini("[data.en]\ntokens = en.h5\nmark = old\n", "x.cfg"), line.assignments});
  BOOST_TEST(config.data.size() == 2U);
  BOOST_TEST(config.data[0].name == "en");
  BOOST_TEST((config.data[0].mark == data::Mark::old_language));
  BOOST_TEST(config.data[1].name == "greek-new");
  BOOST_TEST(config.data[1].weight == 0.5);
  BOOST_TEST(config.run.model == "m");
  BOOST_TEST(config.run.output == "-1");
  BOOST_TEST(config.allocation.counts == "c.csv");
  BOOST_TEST(line.files == (std::vector<std::string>{"a.cfg", "b.cfg"}), boost::test_tools::per_element());
  BOOST_TEST(line.print_config);
}

BOOST_AUTO_TEST_CASE(printed_config_gives_the_same_config) {
  const auto config = from_ini(
      "[run]\nmodel = /data/run#3/x y\n[train]\nlearning_rate = 0.1\nstage = 2\neps = 3.3e-9\nseed = "
      "18446744073709551615\neos_label = true\n"
      "[analysis]\nsense = en:a b.json\nsense = el:c#.json\n[data.b]\ntokens = b.h5\nweight = "
      "0.3\n[data.a]\ntokens = a.h5\nlang = el\nmark = new\n");
  const std::string printed = app::config_to_ini(config, true);
  const auto again = from_ini(printed);
  BOOST_TEST(app::config_to_ini(again, true) == printed);
  BOOST_TEST(again.train.eps == 3.3e-9);
  BOOST_TEST(again.data[0].name == "b");
  BOOST_TEST(again.analysis.sense.size() == 2U);
  const std::string portable = app::config_to_ini(config, false);
  BOOST_TEST(portable.find("expert_parallel_size") == std::string::npos);
  BOOST_TEST(portable.find("watchdog_s") == std::string::npos);
  check_contains(portable, "learning_rate = 0.1\n");
}

BOOST_AUTO_TEST_CASE(command_line_is_as_strict) {
  check_contains(config_error_of_arguments({"train", "--train.step", "3"}), "did you mean '--train.steps'");
  check_contains(config_error_of_arguments({"train", "--train.lpr", "3"}), "unknown option '--train.lpr'");
  check_contains(config_error_of_arguments({"train", "--modle", "m"}), "did you mean '--model'");
  check_contains(config_error_of_arguments({"train", "--data.el.tokenz", "m"}), "--data.el.tokenz");
  check_contains(config_error_of_arguments({"train", "--stage", "1", "extra"}), "stray argument 'extra'");
  check_contains(config_error_of_arguments({"train", "-1"}), "stray argument '-1'");
  check_contains(config_error_of_arguments({"train", "--stage"}), "stage");
  check_contains(config_error_of_arguments({"train", "--stage", "2x"}), "command line: train.stage = '2x'");
  check_contains(config_error_of_arguments({"train", "--model="}), "model");
  check_contains(config_error_of_arguments({"train", "--model", ""}), "no value");
  check_contains(config_error_of_arguments({"train", "--model", "a #b"}), "run.model");
  check_contains(config_error_of_arguments({"train", "--model", "\xC3"}), "invalid UTF-8");
  check_contains(config_error_of_arguments({"train", "--train.seed", "-1"}), "train.seed = '-1'");
  check_contains(config_error_of_arguments({"train", "--TRAIN.seed", "1"}), "did you mean '--train.seed'");
}

BOOST_AUTO_TEST_CASE(help_lists_every_field_of_a_command_with_default_and_range) {
  const std::string help = app::command_help(*app::find_command("train"), 1000);
  check_contains(help, "--train.learning_rate");
  check_contains(help, "(default 0.0001)");
  check_contains(help, "[2..1048576 tokens]");
  check_contains(help, "double_softmax|nll|off");
  check_contains(help, "--data.<name>.tokens");
  BOOST_TEST(help.find("--analysis.top_k") == std::string::npos);
}

BOOST_AUTO_TEST_CASE(every_named_choice_can_be_set_and_comes_back) {
  int fields = 0, choices = 0;
  for (const app::OptionText& option : app::all_options()) {
    if (option.choices.empty()) continue;
    const std::string list = list_names(option.choices, "|");
    std::string key = option.key;
    std::string given = "[data.x]\ntokens = x.h5\n";
    if (key.starts_with("data.<name>.")) key = "data.x." + key.substr(12);
    const auto dot = key.rfind('.');
    const std::string section = key.substr(0, dot), name = key.substr(dot + 1);
    ++fields;
    for (const std::string_view choice : option.choices) {
      const std::string word(choice);
      ++choices;
      const std::string text = given + "[" + section + "]\n" + name + " = " + word + "\n";
      const std::string printed = app::config_to_ini(from_ini(text), true);
      const auto at = printed.find("[" + section + "]\n");
      BOOST_REQUIRE(at != std::string::npos);
      const std::string part = printed.substr(at, printed.find("\n[", at) + 1 - at);
      check_contains(part, "\n" + name + " = " + word + "\n");
    }
    for (const std::string& wrong : {list, std::string("float64"), std::string("nothing")}) {
      check_contains(
          config_error([&] { from_ini(given + "[" + section + "]\n" + name + " = " + wrong + "\n"); }),
          "test.cfg:4: " + key + " = '" + wrong + "': must be one of " + list);
    }
  }
  BOOST_TEST(fields >= 23);
  BOOST_TEST(choices >= 59);
}

BOOST_AUTO_TEST_CASE(a_short_name_means_the_key_of_a_section_that_the_command_reads) {
  const auto explains = [](const std::vector<std::string>& arguments) {
    const auto config = app::make_config({app::parse_command_line(arguments).assignments});
    return std::pair(config.plan.explain, config.allocation.explain);
  };
  BOOST_TEST((explains({"plan", "--explain"}) == std::pair(true, false)));
  BOOST_TEST((explains({"plan", "--explain=true"}) == std::pair(true, false)));
  BOOST_TEST((explains({"allocate", "--explain"}) == std::pair(false, true)));
  BOOST_TEST((explains({"plan", "--allocation.explain"}) == std::pair(false, true)));
  BOOST_TEST((explains({"train", "--explain"}) == std::pair(true, false)));     // reads [plan]
  BOOST_TEST((explains({"evaluate", "--explain"}) == std::pair(false, true)));  // reads neither
  for (const app::ShortName& s : app::short_names()) {
    const std::vector<std::string> sections = {"run", std::string(s.key.substr(0, s.key.find('.')))};
    BOOST_TEST(app::full_key(std::string(s.name), sections) == s.key);
  }
  BOOST_TEST(app::full_key("train.steps", {}) == "train.steps");
}

BOOST_AUTO_TEST_CASE(every_default_is_inside_its_own_range) {
  // Reading back the printed defaults runs each through its own check.
  const app::AppConfig defaults;
  const std::string printed = app::config_to_ini(defaults, true);
  BOOST_TEST(app::config_to_ini(from_ini(printed), true) == printed);
}
