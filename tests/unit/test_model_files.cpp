// Checkpoints and adapters that do not fit the model: named before anything is allocated. And the element
// types that tensors pass through on their way.
#include <boost/test/unit_test.hpp>
#include <functional>

#include "neuronmoe/model/adapter.hpp"
#include "neuronmoe/model/checkpoint_weights.hpp"
#include "neuronmoe/model/hf_model.hpp"
#include "neuronmoe/model/tensor_sources.hpp"
#include "support/temp_dir.hpp"
#include "support/tiny_model.hpp"

using namespace nmoe;

namespace {

/// model.h5 of a mixture with 1, 3 experts over the tiny model (hidden 8, intermediate 12), with one thing
/// changed.
struct Parts {
  io::FileFormat format = model::model_file_format;
  std::optional<std::int64_t> version;
  std::vector<std::int32_t> counts = {1, 3}, old_counts = {};
  std::int64_t top_k = 2;
  std::map<std::string, std::vector<std::int64_t>> shapes = {{"/model/layers/01/router", {3, 8}},
                                                             {"/model/layers/01/experts/gate", {2, 12, 8}},
                                                             {"/model/layers/01/experts/up", {2, 12, 8}},
                                                             {"/model/layers/01/experts/down", {2, 8, 12}}};
  io::ElementType type = io::ElementType::float32;
};

std::string refused(const std::function<void(Parts&)>& change,
                    std::initializer_list<std::string_view> words) {
  const test::TempDir dir;
  Parts parts;
  change(parts);
  io::write_h5_atomically(dir / "model.h5", io::Storage::contiguous, [&](io::H5File& f) {
    f.write_attribute("/", "format", parts.format.name);
    if (parts.version) f.write_attribute("/", "format_version", *parts.version);
    f.write_attribute("/", "top_k", parts.top_k);
    f.write_attribute("/", "dtype", "float32");
    f.write("/num_experts", parts.counts);
    if (!parts.old_counts.empty()) f.write("/num_old_experts", parts.old_counts);
    for (const auto& [name, shape] : parts.shapes) {
      std::int64_t n = 1;
      for (const std::int64_t extent : shape) n *= extent;
      const std::vector<char> zeros(static_cast<std::size_t>(n * 8), '\0');
      f.write(name, parts.type, shape, zeros.data());
    }
  });
  return test::expect_error(ErrorCode::bad_data, words, [&] {
    model::apply_checkpoint_config(test::tiny_config({1, 1}), dir.path());
  });
}

}  // namespace

BOOST_AUTO_TEST_CASE(checkpoints_that_do_not_fit) {
  BOOST_TEST(refused([](Parts&) {}, {}) == "nothing was thrown");
  BOOST_TEST(refused([](Parts& p) { p.format.name = "neuronmoe-optim"; },
                     {"neuronmoe-optim", "neuronmoe-model"}) == "");
  BOOST_TEST(refused([](Parts& p) { p.version = p.format.version; }, {}) == "nothing was thrown");
  BOOST_TEST(refused([](Parts& p) { p.version = p.format.version + 1; },
                     {"model.h5 has version 2 of format \"neuronmoe-model\"", "use a newer neuronmoe"}) ==
             "");
  BOOST_TEST(refused([](Parts& p) { p.counts = {1, 3, 1}; }, {"3 layers", "has 2"}) == "");
  BOOST_TEST(refused([](Parts& p) { p.counts = {1, 0}; }, {"1..4096"}) == "");
  BOOST_TEST(refused([](Parts& p) { p.counts = {1, 2000000000}; }, {"1..4096"}) == "");
  BOOST_TEST(refused([](Parts& p) { p.old_counts = {1, 2}; }, {}) == "nothing was thrown");
  BOOST_TEST(refused([](Parts& p) { p.old_counts = {1, 4}; }, {"/num_old_experts is 1,4", "1,3"}) == "");
  BOOST_TEST(refused([](Parts& p) { p.old_counts = {0, 2}; }, {"/num_old_experts is 0,2", "1,3"}) == "");
  BOOST_TEST(refused([](Parts& p) { p.old_counts = {1, 2, 1}; }, {"/num_old_experts is 1,2,1", "1,3"}) == "");
  BOOST_TEST(refused([](Parts& p) { p.counts = {1, 4000}; }, {"experts.10.", "missing"}) == "");
  BOOST_TEST(refused([](Parts& p) { p.counts = {2, 3}; }, {"model.layers.0.mlp.", "missing"}) == "");
  BOOST_TEST(refused([](Parts& p) { p.counts = {1, 2}; }, {"router", "[3, 8]", "[2, 8]"}) == "");
  BOOST_TEST(refused([](Parts& p) { p.top_k = 0; }, {"top_k is 0"}) == "");
  BOOST_TEST(refused([](Parts& p) { p.shapes.erase("/model/layers/01/router"); },
                     {"router.weight", "missing"}) == "");
  BOOST_TEST(refused(
                 [](Parts& p) {
                   p.shapes["/model/layers/01/experts/gate"] = {2, 8, 12};
                 },
                 {"gate_proj", "[8, 12]", "[12, 8]"}) == "");  // the same number of elements
  BOOST_TEST(refused([](Parts& p) { p.shapes["/model/layers/01/experts/up"] = {24, 8}; }, {"2 axes"}) == "");
  BOOST_TEST(refused(
                 [](Parts& p) {
                   p.shapes["/model/layers/01/classifier"] = {2, 8};
                 },
                 {"classifier", "no place"}) == "");
  BOOST_TEST(refused(
                 [](Parts& p) {
                   p.shapes["/model/layers/01/experts/bias"] = {2, 8, 1};
                 },
                 {"bias", "no place"}) == "");
  BOOST_TEST(refused(
                 [](Parts& p) {
                   p.shapes["/model/layers/1/router"] = {3, 8};
                 },
                 {"/model/layers/1 is no layer"}) == "");
  BOOST_TEST(refused(
                 [](Parts& p) {
                   p.shapes["/model/layers/02/router"] = {3, 8};
                 },
                 {"layers.2.", "no place"}) == "");
  BOOST_TEST(refused([](Parts& p) { p.shapes["/model/model.norm.weight"] = {9}; },
                     {"model.norm.weight", "[9]"}) == "");
  BOOST_TEST(refused([](Parts& p) { p.shapes["/model/model.norm.weight"] = {2, 2, 2}; }, {"3 axes"}) == "");
  BOOST_TEST(refused([](Parts& p) { p.type = io::ElementType::int64; }, {"int64", "no type of weights"}) ==
             "");
}

BOOST_AUTO_TEST_CASE(names_of_the_lineage) {
  BOOST_TEST(model::adapter_name(model::Role::router, 21) ==
             "base_model.model.model.layers.21.mlp.moe_router_embedding.weight");
  BOOST_TEST(model::adapter_name(model::Role::gate, 0, 5) ==
             "base_model.model.model.layers.0.mlp.moe_experts.4.gate_proj.weight");
}

/// Stage 1 -> adapter -> back: the same bits, and so the same logits.
BOOST_AUTO_TEST_CASE(an_adapter_gives_the_same_logits) {
  const test::TempDir dir;
  const model::ModelConfig config = test::tiny_config({3, 1, 12});
  test::LocalDecoder trained(config, DType::float32, model::TrainableSet::none);
  test::perturb(trained.decoder, 7, 0.1);
  model::TensorSources sources;
  for (const model::Parameter& p : trained.decoder.parameters()) {
    if (p.is_dense()) continue;
    const auto* const data = static_cast<const char*>(p.value.view().raw());
    sources[p.name] = {{p.name, "F32", p.shape}, [data](std::int64_t begin, std::span<char> out) {
                         std::copy_n(data + begin, out.size(), out.data());
                       }};
  }
  model::write_adapter(dir.path(), config, sources, "base", "hash");
  const model::ModelConfig dense = test::tiny_config({1, 1, 1});
  const model::Adapter adapter = model::open_adapter(dir.path(), dense, "hash");
  BOOST_TEST(adapter.config.num_experts == config.num_experts, boost::test_tools::per_element());
  model::write_model_file(*trained.comm, dir / "model.h5", adapter.config, adapter.tensors);

  for (const auto& [name, source] :
       model::checkpoint_tensors(dir.path())) {  // experts are rows of one dataset
    std::string stored(static_cast<std::size_t>(source.entry.num_bytes()), '\0'), given = stored;
    source.read(0, stored);
    sources.at(name).read(0, given);
    BOOST_TEST(stored == given, name << " comes back as another tensor");
  }

  test::LocalDecoder again(model::apply_checkpoint_config(dense, dir.path()), DType::float32,
                           model::TrainableSet::none, 99);
  for (model::Parameter& p : again.decoder.parameters())
    if (p.is_dense())
      std::memcpy(p.value.view().raw(), trained.decoder.parameter(p.name).value.view().raw(),
                  static_cast<std::size_t>(p.value.view().num_bytes()));
  model::load_checkpoint_weights(again.decoder, dir.path());
  const model::BatchBuilder batch = test::random_batch({9, 14}, config.vocab_size, 3);
  const Tensor a = trained.decoder.logits(batch.batch()), b = again.decoder.logits(batch.batch());
  BOOST_TEST(std::memcmp(a.view().raw(), b.view().raw(), static_cast<std::size_t>(a.view().num_bytes())) ==
             0);
  BOOST_TEST(test::expect_error(ErrorCode::bad_data, {"base with hash hash", "other"},
                                [&] { model::open_adapter(dir.path(), dense, "other"); }) == "");
}

BOOST_AUTO_TEST_CASE(converted_while_read) {
  const std::vector<float> values = {1.0F, 1.00390625F, 1.01171875F, -3.0F,
                                     65504.0F};  // two halfway, ties to even
  const io::TensorSource source{
      {"t", "F32", {5}}, [&](std::int64_t begin, std::span<char> out) {
        std::memcpy(out.data(), reinterpret_cast<const char*>(values.data()) + begin, out.size());
      }};
  const io::TensorSource narrow = model::converted(source, DType::bfloat16);
  BOOST_TEST((narrow.entry.dtype == "BF16" && narrow.entry.num_bytes() == 10));
  std::uint16_t bits[3];
  narrow.read(2, {reinterpret_cast<char*>(bits), 6});
  BOOST_TEST((bits[0] == 0x3F80 && bits[1] == 0x3F82 && bits[2] == 0xC040));
  BOOST_TEST(model::converted(source, DType::float32).entry.dtype == "F32");
}
