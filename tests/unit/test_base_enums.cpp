// Enums as data: names, parsing, lists; the exit codes of the kinds of error.
#include <boost/test/unit_test.hpp>
#include <set>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/comm/communicator.hpp"
#include "neuronmoe/io/hdf5_file.hpp"
#include "support/temp_dir.hpp"

namespace {

enum class Fruit { apple, pear, plum };
constexpr auto enum_names(Fruit) {  // listed in another order than declared
  return std::to_array<nmoe::EnumName<Fruit>>(
      {{Fruit::plum, "plum"}, {Fruit::apple, "apple"}, {Fruit::pear, "pear"}});
}

}  // namespace

using namespace nmoe;

static_assert(NamedEnum<Fruit> && !NamedEnum<int>);
static_assert(name_of(Fruit::pear) == "pear" && name_of(static_cast<Fruit>(7)) == "?");
static_assert(find_enum<Fruit>("plum") == Fruit::plum && !find_enum<Fruit>("") && !find_enum<Fruit>("Plum"));
static_assert(names_among<Fruit::pear, Fruit::plum>[1] == "plum");
// The HDF5 types repeat no name of a tensor's type.
static_assert(name_of(io::ElementType::bfloat16) == name_of(DType::bfloat16));
static_assert(comm::num_operations == 7);

BOOST_AUTO_TEST_CASE(lists_keep_the_order_of_the_names) {
  BOOST_TEST(list_names(all_names<Fruit>, "|") == "plum|apple|pear");
  BOOST_TEST(list_names(all_names<Fruit>, ", ", " or ") == "plum, apple or pear");
  BOOST_TEST(list_names(names_among<Fruit::pear>, ", ", " or ") == "pear");
  BOOST_TEST(list_names({}, "|") == "");
}

BOOST_AUTO_TEST_CASE(an_unknown_name_is_refused_with_all_known_ones_on_one_line) {
  BOOST_TEST((parse_enum<Fruit>("apple", ErrorCode::config, "fruit") == Fruit::apple));
  const auto refuse = [](std::string_view text) {
    parse_enum<Fruit>(text, ErrorCode::bad_data, "a.h5: fruit");
  };
  for (const std::string_view text : {"", "appl", "apple ", "plum|apple"}) {
    const std::string wanted = "a.h5: fruit is \"" + std::string(text) + "\"; it may be plum, apple or pear";
    BOOST_CHECK_EXCEPTION(refuse(text), Error, [&](const Error& e) {
      return e.code() == ErrorCode::bad_data && e.what() == wanted;
    });
  }
  BOOST_TEST(test::expect_error(ErrorCode::bad_data, {"\"ap\\x0aple\""}, [&] { refuse("ap\nple"); }) == "");
}

BOOST_AUTO_TEST_CASE(every_kind_of_error_has_its_own_name_and_a_documented_exit_code) {
  std::set<int> values;
  std::set<std::string_view> names;
  for (const ExitRow& row : enum_table<ErrorCode>) {
    values.insert(static_cast<int>(row.value));
    names.insert(row.name);
    BOOST_TEST(exit_code(row.value) == row.exit_code);
    BOOST_TEST((row.exit_code >= 64 && row.exit_code < 126));  // what a shell passes on as it is
    BOOST_TEST(!row.meaning.empty());
  }
  BOOST_TEST(values.size() == enum_table<ErrorCode>.size());
  BOOST_TEST(names.size() == enum_table<ErrorCode>.size());
  BOOST_TEST((ErrorCode::io != ErrorCode::internal));
  BOOST_TEST(exit_code(ErrorCode::io) == 70);
  BOOST_TEST(exit_code(ErrorCode::internal) == 70);
  BOOST_TEST(exit_code(ErrorCode::bad_data) == 65);
  BOOST_TEST(exit_code(ErrorCode::config) == 78);
}
