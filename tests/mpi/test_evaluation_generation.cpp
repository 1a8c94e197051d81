// Texts over ranks: the same on 1 to 4 ranks and for any expert-parallel size, more and fewer prompts than
// ranks.
#include <boost/test/unit_test.hpp>

#include "neuronmoe/evaluation/generation.hpp"
#include "neuronmoe/model/key_value_cache.hpp"
#include "neuronmoe/train/parallel_groups.hpp"
#include "support/fake_analysis.hpp"
#include "support/mpi_fixture.hpp"
#include "support/tiny_model.hpp"

using namespace nmoe;
using namespace nmoe::test;

namespace {

std::vector<evaluation::Prompt> prompts(int count) {
  std::vector<evaluation::Prompt> result;
  for (int i = 0; i < count; ++i) {
    result.push_back({});
    for (int t = 0; t <= i; ++t) result.back().ids.push_back(3 + (5 * i + 7 * t) % 16);
  }
  return result;
}

/// All texts as one, with what each rank was told of its own.
std::vector<std::vector<std::int32_t>> write(comm::Communicator& comm, int expert_parallel_size, int count,
                                             const evaluation::Sampling& sampling) {
  TestContext test(comm);
  const train::ParallelGroups groups(comm, expert_parallel_size);
  const model::ModelConfig config = tiny_config({3, 1, 4});
  model::Decoder decoder(config, DType::float32, model::TrainableSet::none,
                         groups.experts(config.num_experts), test.stream);
  decoder.initialise_dense(1);
  decoder.upcycle(1);
  perturb(decoder, 9, 0.3);
  model::KeyValueCache cache(config, DType::float32, 40, Device::cpu);
  std::size_t told = 0;
  int ends = 0;
  const auto texts = evaluation::generate_texts(
      test.context, prompts(count), sampling, {12, 20, {2}},
      [&](std::span<const std::int32_t> ids, bool restart) {
        if (restart) cache.clear();
        return decoder.next_logits(ids, cache);
      },
      [&](std::size_t number, const evaluation::Generated&, bool last) {
        BOOST_TEST(static_cast<int>(number) % comm.size() == comm.rank());
        ends += last ? 1 : 0;
        ++told;
      });
  BOOST_TEST(ends ==
             (count + comm.size() - 1 - comm.rank()) / comm.size());  // one for each text of this rank
  std::vector<std::vector<std::int32_t>> result;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const std::size_t length = texts[i].ids.size();
    BOOST_TEST((texts[i].ended || length == 12 || length + i + 1 == 20));  // prompt i has i + 1 tokens
    result.push_back(texts[i].ids);
    result.back().push_back(texts[i].ended ? -1 : -2);
  }
  return result;
}

}  // namespace

BOOST_AUTO_TEST_CASE(same_texts_on_any_number_of_ranks) {
  const auto alone = comm::make_local_communicator();
  for (const evaluation::Sampling& sampling : {evaluation::Sampling{}, evaluation::Sampling{1.5, 0.95, 7}}) {
    for (const int count : {1, 7}) {
      const auto expected = write(*alone, 1, count, sampling);
      for (int size = 1; size <= world().size(); ++size)
        if (world().size() % size == 0) BOOST_TEST((write(world(), size, count, sampling) == expected));
    }
  }
  BOOST_TEST((write(*alone, 1, 7, {1.5, 0.95, 7}) != write(*alone, 1, 7, {1.5, 0.95, 8})));
}
