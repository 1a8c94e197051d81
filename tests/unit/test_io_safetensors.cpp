// safetensors: round trips, conversion, and the hostile headers of the reference implementation's tests.
#include <malloc.h>

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>
#include <sstream>

#include "neuronmoe/base/philox.hpp"
#include "neuronmoe/io/safetensors.hpp"
#include "support/temp_dir.hpp"

using namespace nmoe;
using io::SafetensorsReader;
using test::expect_error;

namespace {

/// A file from header text and data, with the true header length unless another is forced.
std::string file_of(const std::string& header, const std::string& data, std::int64_t forced = -1) {
  const auto n = forced >= 0 ? static_cast<std::uint64_t>(forced) : header.size();
  std::string file(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(n >> (8 * i));
  return file + header + data;
}

std::string refusal(const std::string& bytes, std::initializer_list<std::string_view> words) {
  const test::TempDir dir;
  test::write_bytes(dir / "bad.safetensors", bytes);
  return expect_error(ErrorCode::bad_data, words, [&] { SafetensorsReader reader(dir / "bad.safetensors"); });
}

}  // namespace

BOOST_AUTO_TEST_CASE(round_trip_is_deterministic) {
  const test::TempDir dir;
  const Tensor f32 =
      make_tensor<float>({1.5F, -0.0F, std::numeric_limits<float>::infinity(), 1e-45F}, {2, 2});
  const Tensor f64 = make_tensor<double>({0.1, 0.2, 0.3}, {3});
  const Tensor half = make_tensor<bfloat16>({bfloat16(1.0F), bfloat16(2.5F)}, {1, 2, 1});
  const Tensor none({0, 5}, DType::float32);
  io::write_safetensors(
      dir / "a.safetensors",
      {{"z.weight", f32.view()}, {"b", f64.view()}, {"a", half.view()}, {"empty", none.view()}});
  io::write_safetensors(
      dir / "b.safetensors",
      {{"empty", none.view()}, {"a", half.view()}, {"z.weight", f32.view()}, {"b", f64.view()}});
  BOOST_TEST(test::read_bytes(dir / "a.safetensors") == test::read_bytes(dir / "b.safetensors"));
  const SafetensorsReader reader(dir / "a.safetensors");
  BOOST_TEST(reader.names() == (std::vector<std::string>{"a", "b", "empty", "z.weight"}),
             boost::test_tools::per_element());
  BOOST_TEST(reader.entry("z.weight").dtype == "F32");
  Tensor back({2, 2}, DType::float32);
  reader.read("z.weight", back.view());
  BOOST_TEST(std::memcmp(back.view().raw(), f32.view().raw(), 16) == 0);
  Tensor back64({3}, DType::float64);
  reader.read("b", back64.view());
  BOOST_TEST(back64.data<double>()[2] == 0.3);
  Tensor widened({1, 2, 1}, DType::float32);
  reader.read("a", widened.view());
  BOOST_TEST(widened.data<float>()[1] == 2.5F);
  Tensor nothing({0, 5}, DType::float32);
  reader.read("empty", nothing.view());
  Tensor wrong({4}, DType::float32);
  BOOST_TEST(expect_error(ErrorCode::bad_data, {"z.weight", "[2, 2]", "[4]"},
                          [&] { reader.read("z.weight", wrong.view()); }) == "");
  BOOST_TEST(expect_error(ErrorCode::bad_data, {"absent"}, [&] { reader.entry("absent"); }) == "");
}

BOOST_AUTO_TEST_CASE(half_precision_and_rounding) {
  const test::TempDir dir;
  // 1, -2, largest, smallest subnormal, -0, inf, nan
  const std::uint16_t bits[7] = {0x3C00, 0xC000, 0x7BFF, 0x0001, 0x8000, 0x7C00, 0x7E00};
  test::write_bytes(dir / "h.safetensors",
                    file_of(R"({"h":{"dtype":"F16","shape":[7],"data_offsets":[0,14]}})",
                            std::string(reinterpret_cast<const char*>(bits), 14)));
  Tensor out({7}, DType::float32);
  SafetensorsReader(dir / "h.safetensors").read("h", out.view());
  const float* h = out.data<float>();
  BOOST_TEST((h[0] == 1.0F && h[1] == -2.0F && h[2] == 65504.0F && h[3] == 0x1p-24F));
  BOOST_TEST((h[4] == 0.0F && std::signbit(h[4]) && std::isinf(h[5]) && std::isnan(h[6])));
  // Between two bfloat16 values 1 and 1 + 2^-7: a hair above the middle must go up, also from double.
  const Tensor d = make_tensor<double>({1.0 + 0x1p-8 + 0x1p-40, 1.0 + 0x1p-8, 1.0 + 0x1p-8 - 0x1p-40}, {3});
  io::write_safetensors(dir / "d.safetensors", {{"d", d.view()}});
  Tensor rounded({3}, DType::bfloat16);
  SafetensorsReader(dir / "d.safetensors").read("d", rounded.view());
  const bfloat16* r = rounded.data<bfloat16>();
  BOOST_TEST((r[0].bits == 0x3F81 && r[1].bits == 0x3F80 && r[2].bits == 0x3F80));
}

BOOST_AUTO_TEST_CASE(hostile_headers) {
  const std::string data(16, 'x');
  const auto header = [](const std::string& entry) { return "{\"t\":" + entry + "}"; };
  BOOST_TEST(refusal("", {"0 bytes"}) == "");
  BOOST_TEST(refusal("1234567", {"7 bytes"}) == "");
  BOOST_TEST(refusal(file_of("{}", "", 100), {"header of 100"}) == "");                // header too small
  BOOST_TEST(refusal(file_of("{}", "", std::int64_t{1} << 62), {"header of"}) == "");  // header too large
  BOOST_TEST(refusal(file_of("\xFF\xFE", ""), {"start"}) == "");                       // not UTF-8
  BOOST_TEST(refusal(file_of("{\"\xC3\x28\":1}", ""), {"not valid JSON"}) == "");      // not UTF-8 inside
  BOOST_TEST(refusal(file_of("{", ""), {"not valid JSON"}) == "");                     // not JSON
  BOOST_TEST(refusal(file_of(" {}", ""), {"start"}) == "");                            // leading white space
  BOOST_TEST(refusal(file_of("[]", ""), {"start"}) == "");
  BOOST_TEST(refusal(file_of("{}", "x"), {"trailing"}) == "");  // bytes of nobody
  BOOST_TEST(refusal(file_of(R"({"t":1})", ""), {"tensor t"}) == "");
  BOOST_TEST(refusal(file_of(header(R"({"dtype":"F32","shape":[4]})"), data), {"data_offsets"}) == "");
  BOOST_TEST(refusal(file_of(header(R"({"dtype":"F32","shape":[4],"data_offsets":[0,16],"x":1})"), data),
                     {"exactly"}) == "");
  BOOST_TEST(refusal(file_of(header(R"({"dtype":"I8","shape":[16],"data_offsets":[0,16]})"), data), {"I8"}) ==
             "");
  BOOST_TEST(refusal(file_of(header(R"({"dtype":"F32","shape":[5],"data_offsets":[0,16]})"), data), {"20"}) ==
             "");
  BOOST_TEST(refusal(file_of(header(R"({"dtype":"F32","shape":[-4],"data_offsets":[0,16]})"), data),
                     {"plain number"}) == "");
  BOOST_TEST(refusal(file_of(header(R"({"dtype":"F32","shape":[4.0],"data_offsets":[0,16]})"), data),
                     {"plain number"}) == "");
  BOOST_TEST(refusal(file_of(header(R"({"dtype":"F32","shape":[1,1,1,2,2],"data_offsets":[0,16]})"), data),
                     {"at most 4"}) == "");
  BOOST_TEST(
      refusal(
          file_of(header(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,16]})"), data),
          {"2^59"}) == "");  // the product overflows to 0
  BOOST_TEST(
      refusal(
          file_of(header(R"({"dtype":"F32","shape":[2,18446744073709551615],"data_offsets":[0,16]})"), data),
          {"plain number"}) == "");
  BOOST_TEST(refusal(file_of(header(R"({"dtype":"F32","shape":[4],"data_offsets":[16,0]})"), data),
                     {"offsets"}) == "");
  BOOST_TEST(
      refusal(file_of(header(R"({"dtype":"F32","shape":[4],"data_offsets":[4,20]})"), data), {"hole"}) == "");
  BOOST_TEST(refusal(file_of(header(R"({"dtype":"F32","shape":[8],"data_offsets":[0,32]})"), data),
                     {"truncated"}) == "");
  const std::string pair =
      R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":)";
  BOOST_TEST(refusal(file_of("{" + pair + "[4,12]}}", data), {"overlap"}) == "");
  BOOST_TEST(refusal(file_of("{" + pair + "[12,20]}}", data), {"hole"}) == "");
  BOOST_TEST(refusal(file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                             R"("a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})",
                             data),
                     {"twice"}) == "");
  BOOST_TEST(refusal(file_of(R"({"__metadata__":{"x":1}})", ""), {"__metadata__"}) == "");
  BOOST_TEST(refusal(file_of(R"({"__metadata__":"x"})", ""), {"__metadata__"}) == "");
  BOOST_TEST(refusal(file_of("{\"a\":" + std::string(100000, '['), ""), {"deeper"}) == "");
  std::string many = "{";
  for (int i = 0; i < 200001; ++i) {
    if (i > 0) many += ',';
    many += '"' + std::to_string(i) + R"(":{"dtype":"F32","shape":[0],"data_offsets":[0,0]})";
  }
  BOOST_TEST(refusal(file_of(many + "}", ""), {"200000"}) == "");
}

/// The negative cases of the reference implementation that are not above, byte for byte but for the element
/// type: its integer tensors are no weights and would be refused for that alone.
BOOST_AUTO_TEST_CASE(negative_cases_of_the_reference) {
  using namespace std::string_literals;
  const std::string zeros(16, '\0');
  const std::string entry = R"({"test":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}})";
  BOOST_TEST(entry.size() == 60U);  // '<' in the reference's files
  const std::string length = "<\0\0\0\0\0\0\0"s;
  const auto read = [](const std::string& bytes) {
    const test::TempDir dir;
    test::write_bytes(dir / "a.safetensors", bytes);
    return SafetensorsReader(dir / "a.safetensors").names().size();
  };
  BOOST_TEST(read(length + entry + zeros) == 1U);
  std::string attack;  // test_json_attack: many tensors over the same bytes
  for (int i = 0; i < 10; ++i)
    attack += fmt::format(R"({}"weight_{}":{{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}})",
                          i == 0 ? "{" : ",", i);
  BOOST_TEST(refusal(file_of(attack + "}", zeros), {"begins at byte 0", "ends at 16", "overlap"}) == "");
  BOOST_TEST(
      refusal(length + entry + zeros + "extra_bogus_data_for_polyglot_file", {"trailing", "16", "50"}) == "");
  BOOST_TEST(refusal(length + entry + zeros.substr(2), {"truncated", "16", "14"}) == "");
  BOOST_TEST(refusal("<\0\0\0\0\xff\xff\xff"s + entry + zeros, {"header of 18446742974197923900 bytes"}) ==
             "");
  BOOST_TEST(refusal(length, {"header of 60 bytes", "the file has 0"}) == "");  // test_invalid_header_length
  BOOST_TEST(refusal("\x01\0\0\0\0\0\0\0\xff"s, {"does not start with '{'"}) == "");
  BOOST_TEST(refusal("\x01\0\0\0\0\0\0\0{"s, {"not valid JSON"}) == "");
  BOOST_TEST(read("\x06\0\0\0\0\0\0\0{}\r \t\n"s) == 0U);  // test_whitespace_padded_header
  BOOST_TEST(refusal("\x06\0\0\0\0\0\0\0\t\n{}\r "s, {"does not start with '{'"}) == "");
  BOOST_TEST(read(file_of(R"({"test":{"dtype":"F32","shape":[2,0],"data_offsets":[0, 0]}})", "")) == 1U);
  BOOST_TEST(read(file_of(R"({"test":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})", "1234")) == 1U);
  BOOST_TEST(refusal(file_of(R"({"test":{"dtype":"F32","shape":[2,2],"data_offsets":[0, 4]}})", ""),
                     {"test of shape [2, 2] needs 16 bytes", "0 and 4"}) == "");
  for (const char* extent :
       {"18446744073709551614", "9223372036854775807"})  // test_validation_overflow, both
    BOOST_TEST(
        refusal(file_of(fmt::format(R"({{"test":{{"dtype":"F32","shape":[2,{}],"data_offsets":[0,16]}}}})",
                                    extent),
                        zeros),
                {"test has a size or offset that is not a plain number"}) == "");
  for (const char* dtype : {"I32", "U8", "BOOL", "F8_E4M3", "F4", "f32", ""})
    BOOST_TEST(
        refusal(file_of(fmt::format(R"({{"t":{{"dtype":"{}","shape":[16],"data_offsets":[0,16]}}}})", dtype),
                        zeros),
                {"tensor t has dtype", "F64, F32, BF16 and F16 are read"}) == "");
  BOOST_TEST(refusal(file_of(R"({"t":{"dtype":"F32","shape":[4],"data_offsets":[0,16,16]}})", zeros),
                     {"exactly"}) == "");
}

namespace {

std::int64_t status_kb(const std::string& key) {
  std::istringstream status(test::read_bytes("/proc/self/status"));
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(key + ":")) return std::stoll(line.substr(key.size() + 1));
  return -1;
}

}  // namespace

/// A reader that mapped its file or took it whole would raise the peak by its 128 MiB.
BOOST_AUTO_TEST_CASE(reading_holds_one_tensor_and_a_piece) {
  const test::TempDir dir;
  const std::string path = dir / "large.safetensors";
  constexpr std::int64_t num_tensors = 16, elements = 2 << 20, tensor_bytes = elements * 4;
  std::string header = "{";
  for (std::int64_t i = 0; i < num_tensors; ++i)
    header += fmt::format(R"({}"t{:02d}":{{"dtype":"F32","shape":[{}],"data_offsets":[{},{}]}})",
                          i == 0 ? "" : ",", i, elements, i * tensor_bytes, (i + 1) * tensor_bytes);
  test::write_bytes(path, file_of(header + "}", ""));
  std::filesystem::resize_file(path, std::filesystem::file_size(path) + num_tensors * tensor_bytes);
  Tensor out({elements}, DType::float32);
  out.data<float>()[0] = 1.0F;
  malloc_trim(0);                                   // what earlier tests freed would hide what this one takes
  test::write_bytes("/proc/self/clear_refs", "5");  // forget the peak so far
  const std::int64_t before = status_kb("VmHWM");
  const SafetensorsReader reader(path);
  for (const std::string& name : reader.names()) reader.read(name, out.view());
  const std::int64_t grown = status_kb("VmHWM") - before;
  BOOST_TEST(out.data<float>()[0] == 0.0F);
  BOOST_TEST(grown >= 0);
  BOOST_TEST(grown < 24 * 1024, "the peak grew by " << grown << " kB; 8192 of them are the tensor");
}

BOOST_AUTO_TEST_CASE(a_file_that_shrinks_is_an_error) {
  const test::TempDir dir;
  const Tensor t = make_tensor<float>(std::vector<float>(64, 1.0F), {64});
  io::write_safetensors(dir / "a.safetensors", {{"t", t.view()}});
  const SafetensorsReader reader(dir / "a.safetensors");
  std::filesystem::resize_file(dir / "a.safetensors", 100);
  Tensor out({64}, DType::float32);
  BOOST_TEST(expect_error(ErrorCode::bad_data, {"a.safetensors", "truncated while being read"},
                          [&] { reader.read("t", out.view()); }) == "");
}

BOOST_AUTO_TEST_CASE(planned_shards) {
  const auto source = [](const std::string& name, std::int64_t elements) {
    return io::TensorSource{{name, "F16", {elements}}, [](std::int64_t, std::span<char>) {}};
  };
  const std::vector<io::TensorSource> sources = {source("c", 10), source("a", 6), source("b", 100),
                                                 source("d", 10), source("e", 1)};
  const auto shards = io::plan_shards(sources, 40);
  BOOST_REQUIRE(shards.size() == 4U);  // a | b, larger than a shard | c d | e
  BOOST_TEST(shards[0].file == "model-00001-of-00004.safetensors");
  BOOST_TEST(shards[2].tensors == (std::vector<std::size_t>{0, 3}), boost::test_tools::per_element());
  BOOST_TEST(io::plan_shards(sources, 1000).front().file == "model.safetensors");
  const std::string index = io::shard_index_json(sources, shards);
  BOOST_TEST(index.find(R"("total_size": 254)") != std::string::npos);
  BOOST_TEST(index.find(R"("d": "model-00003-of-00004.safetensors")") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(every_truncation_and_any_noise_is_survived) {
  const test::TempDir dir;
  const Tensor t = make_tensor<float>(std::vector<float>(64, 1.0F), {8, 8});
  io::write_safetensors(dir / "a.safetensors", {{"first", t.view()}, {"second", t.view()}});
  const std::string whole = test::read_bytes(dir / "a.safetensors");
  const Philox random(3, RandomPurpose::test);
  int accepted = 0;
  for (std::uint64_t i = 0; i < 50; ++i)
    accepted += refusal(whole.substr(0, i == 0 ? whole.size() - 1 : random.below(i, whole.size())), {}) != "";
  BOOST_TEST(accepted == 0);
  const std::size_t header_end = whole.size() - 512;
  int crashed = 0;
  for (std::uint64_t i = 0; i < 2000; ++i) {  // any byte of the header: an error or a file that still adds up
    std::string damaged = whole;
    damaged[random.below(2 * i, header_end)] = static_cast<char>(random.bits(2 * i + 1));
    const std::string said = refusal(damaged, {});
    crashed += said != "" && said != "nothing was thrown";
  }
  BOOST_TEST(crashed == 0);
}

BOOST_AUTO_TEST_CASE(shards) {
  const test::TempDir dir;
  const Tensor one = make_tensor<float>({1.0F}, {1}), two = make_tensor<float>({2.0F}, {1});
  io::write_safetensors(dir / "model-00001-of-00002.safetensors", {{"x", one.view()}});
  io::write_safetensors(dir / "model-00002-of-00002.safetensors", {{"y", two.view()}});
  const std::string index = dir / "model.safetensors.index.json";
  const auto write_index = [&](const std::string& map) {
    test::write_bytes(index, R"({"weight_map":{)" + map + "}}");
  };
  const auto refused = [&](const std::string& map, std::string_view word) {
    write_index(map);
    return expect_error(ErrorCode::bad_data, {word}, [&] { SafetensorsReader reader(dir.path()); });
  };
  const std::string first = "model-00001-of-00002.safetensors", second = "model-00002-of-00002.safetensors";
  write_index(R"("x":")" + first + R"(","y":")" + second + "\"");
  const SafetensorsReader reader(dir.path());
  BOOST_TEST(reader.files().size() == 2U);
  Tensor y({1}, DType::float32);
  reader.read("y", y.view());
  BOOST_TEST(y.data<float>()[0] == 2.0F);
  BOOST_TEST(refused(R"("x":"../secret.safetensors")", "plain file name") == "");
  BOOST_TEST(refused(R"("x":"/etc/passwd")", "plain file name") == "");
  BOOST_TEST(refused(R"("x":"..")", "plain file name") == "");
  BOOST_TEST(refused(R"("x":7)", "not a string") == "");
  BOOST_TEST(refused(R"("x":"none.safetensors")", "none.safetensors") == "");
  BOOST_TEST(refused(R"("x":")" + first + R"(","z":")" + first + "\"", "not in") == "");
  BOOST_TEST(refused(R"("x":")" + second + R"(","y":")" + first + "\"", "is in") == "");
  io::write_safetensors(dir / second, {{"y", two.view()}, {"extra", two.view()}});
  BOOST_TEST(refused(R"("x":")" + first + R"(","y":")" + second + "\"", "missing from the index") == "");
  std::filesystem::remove(index);
  BOOST_TEST(expect_error(ErrorCode::bad_data, {"neither"}, [&] { SafetensorsReader r(dir.path()); }) == "");
}
