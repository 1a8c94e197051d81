// Chat templates against transformers' apply_chat_template (tests/golden/chat_templates.json), and hostile
// ones.
#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/data/chat_template.hpp"
#include "support/temp_dir.hpp"

using namespace nmoe;
using data::ChatTemplate;

namespace {

std::string render(const std::string& text, const std::string& message = "hi") {
  return ChatTemplate(text, "t.jinja", "<s>", "</s>").render(message);
}

}  // namespace

BOOST_AUTO_TEST_CASE(equals_transformers) {
  const auto golden = nlohmann::json::parse(test::read_bytes(
      std::string(std::getenv("NMOE_TEST_SOURCE_DIR")) + "/tests/golden/chat_templates.json"));
  BOOST_TEST(golden["cases"].size() == 8);
  for (const auto& c : golden["cases"]) {
    const ChatTemplate chat(c["template"], c["name"], c["bos"], c["eos"]);
    for (std::size_t i = 0; i < golden["messages"].size(); ++i)
      BOOST_TEST(chat.render(golden["messages"][i].get<std::string>()) ==
                 c["rendered"][i].get<std::string>());
  }
}

// Values by hand: each line is one construct of Jinja.
BOOST_AUTO_TEST_CASE(expressions) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"{{ 'a' + \"b\" ~ 1 }}", "ab1"},
      {"{{ '\\n\\t\\\\\\'' }}", "\n\t\\'"},
      {"{{ 1 + 2 - 4 }}", "-1"},
      {"{{ messages[0].content }}{{ messages[-1]['role'] }}", "hiuser"},
      {"{{ messages[0:1]|length }}{{ messages[1:]|length }}{{ messages[:-1]|length }}", "100"},
      {"{{ 'x' if messages else 'y' }}{{ 'x' if nothing else 'y' }}{{ 'x' if nothing }}", "xy"},
      {"{{ nothing.deep if nothing is defined else 'safe' }}", "safe"},
      {"{{ ' a '.strip() }}{{ ' b ' | trim }}", "ab"},
      {"{{ 'ser' in messages[0].role }}{{ 'x' not in 'abc' }}{{ 'role' in messages[0] }}", "TrueTrueTrue"},
      {"{{ not false and (none is none) or nothing.x }}", "True"},
      {"{% set x = 'a' %}{% for m in messages %}{% set x = 'b' %}{{ x }}{% endfor %}{{ x }}", "ba"},
      {"{% if false %}{{ tool | tojson }}{% elif true %}y{% else %}{{ x | upper }}{% endif %}", "y"},
      {"{% for t in [] %}{% endfor %}", "refused"},
      {"a{# {{ 'not closed #}b", "ab"},
      {"{{ '}}' }}{{ \"%}\" }}{ { } }", "}}%}{ { } }"},
      {"", ""}};
  for (const auto& [text, expected] : cases) {
    if (expected == "refused")
      BOOST_CHECK_THROW(render(text), Error);
    else
      BOOST_TEST(render(text) == expected, text << " gives " << render(text));
  }
}

BOOST_AUTO_TEST_CASE(hostile_templates_are_refused) {
  std::string deep, doubled = "{% set x = 'aaaaaaaaaaaaaaaa' %}";
  for (int i = 0; i < 5000; ++i) deep += '(';
  for (int i = 0; i < 60; ++i) doubled += "{% set x = x + x %}";
  std::string nested = "0";
  for (int i = 0; i < 40; ++i) nested = "(" + nested + " if true else 1)";
  for (const std::string& text : {std::string("{{"),
                                  std::string("{% if x %}"),
                                  std::string("{% endif %}"),
                                  std::string("{% for x %}{% endfor %}"),
                                  std::string("{% for m in messages %}"),
                                  std::string("{% if true %}{% endfor %}"),
                                  std::string("{{ 'a }}"),
                                  std::string("{{ messages }}"),
                                  std::string("{{ messages[0].content.upper() }}"),
                                  std::string("{{ 1 + 'a' }}"),
                                  std::string("{{ range(10) }}"),
                                  std::string("{% include 'x' %}"),
                                  std::string("{{ nothing.x }}"),
                                  std::string("{{ raise_exception('not today') }}"),
                                  std::string("{{ a b }}"),
                                  std::string("{% set a.b = 1 %}"),
                                  std::string("{{ 99999999999999999999 }}"),
                                  "{{ " + deep + " }}",
                                  doubled,
                                  "{{ " + nested + " }}"})
    BOOST_CHECK_THROW(render(text), Error);
  BOOST_TEST(test::expect_error(ErrorCode::bad_data, {"t.jinja: \"messages | map('x')\" is not supported"},
                                [] { render("{{ messages | map('x') }}"); }) == "");
}

BOOST_AUTO_TEST_CASE(found_where_models_keep_them) {
  const test::TempDir dir;
  const auto write = [&](const char* name, const std::string& text) { test::write_bytes(dir / name, text); };
  BOOST_TEST(test::expect_error(ErrorCode::bad_data, {dir.path(), "no chat_template.jinja"},
                                [&] { ChatTemplate::load(dir.path()); }) == "");
  write("tokenizer_config.json", R"({"chat_template": "{{ bos_token }}1", "bos_token": {"content": "<b>"}})");
  BOOST_TEST(ChatTemplate::load(dir.path()).render("x") == "<b>1");
  write(
      "tokenizer_config.json",
      R"({"chat_template": [{"name": "tool_use", "template": "2"}, {"name": "default", "template": "3"}]})");
  BOOST_TEST(ChatTemplate::load(dir.path()).render("x") == "3");
  write("chat_template.jinja", "{{ messages[0].content }}!");
  BOOST_TEST(ChatTemplate::load(dir.path()).render("x") == "x!");
}
