// The matrix of interventions (METHOD 1.9) over ranks: the same bytes on 1 to 4 ranks and for any
// expert-parallel size, cells by hand, and the files.
#include <boost/test/unit_test.hpp>
#include <cmath>

#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/evaluation/eval_file.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/hdf5_file.hpp"
#include "neuronmoe/train/parallel_groups.hpp"
#include "support/fake_analysis.hpp"
#include "support/mpi_fixture.hpp"
#include "support/tiny_model.hpp"

using namespace nmoe;
using namespace nmoe::evaluation;
using namespace nmoe::test;
using model::Projection;
using model::ReplacedNeuron;

namespace {

/// In layer 0, in the last one alone, and nowhere.
const std::vector<std::vector<ReplacedNeuron>> sets = {
    {{0, Projection::gate, 3, 0.5F}, {0, Projection::k, 1, 0.0F}, {2, Projection::down, 2, -1.0F}},
    {{2, Projection::up, 4, 0.0F}, {2, Projection::o, 7, 2.0F}},
    {}};

/// Texts of many lengths, an empty one among them.
std::vector<Request> toy_texts(int count) {
  std::vector<Request> texts;
  for (int i = 0; i < count; ++i) {
    Request& text = texts.emplace_back();
    text.rolling = true;
    text.ids = {2};
    for (int t = 0; t < i * 7 % 83; ++t) text.ids.push_back((t * 5 + i + t / 3) % 19);
  }
  return texts;
}

struct Measured {
  InterventionMatrix matrix;
  std::string lines;
};

Measured measure(comm::Communicator& comm, const std::vector<int>& experts, int expert_parallel_size,
                 model::ExpertHome home = model::ExpertHome::owned) {
  TestContext context(comm);
  const train::ParallelGroups groups(comm, expert_parallel_size);
  const model::ModelConfig config = tiny_config(experts);
  model::Decoder decoder(config, DType::float32, model::TrainableSet::none,
                         groups.experts(config.num_experts, 0, home), context.stream);
  decoder.initialise_dense(3);
  decoder.upcycle(3);
  perturb(decoder, 9, 0.3);
  std::vector<model::Intervention> interventions;
  Measured measured;
  for (const auto& set : sets) {
    interventions.emplace_back(config, DType::float32, set, context.stream);
    measured.matrix.rows.push_back({"el", std::ssize(measured.matrix.rows),
                                    std::vector<std::uint64_t>(set.size(), 5),
                                    interventions.back().first_layer()});
  }
  for (const int count : {40, 1}) {
    const std::vector<Request> texts = toy_texts(count + 1);
    const auto answers =
        measure_variants(context.context, texts, 30, 1 + sets.size(),
                         [&](const model::Batch& batch, std::span<const model::LabelAt> labels) {
                           return decoder.label_scores_of_each(batch, labels, interventions);
                         });
    const auto alone = measure_log_likelihoods(
        context.context, texts, 30, [&](const model::Batch& batch, std::span<const model::LabelAt> labels) {
          return decoder.label_scores(batch, labels);
        });
    for (std::size_t i = 0; i < texts.size(); ++i)
      BOOST_TEST((answers[0][i].sum == alone[i].sum && answers[0][i].greedy == alone[i].greedy &&
                  answers[3][i].sum == alone[i].sum && answers[1][i].tokens == alone[i].tokens));
    const std::vector<std::int64_t> numbers(texts.size(), 4);
    for (std::size_t r = 0; r < sets.size(); ++r)
      measured.lines += intervention_lines(measured.matrix.rows[r], "hu", numbers, answers[r + 1]);
    if (count > 1) add_column(measured.matrix, "hu", answers);
  }
  return measured;
}

}  // namespace

BOOST_AUTO_TEST_CASE(same_bytes_on_any_number_of_ranks) {
  const auto alone = comm::make_local_communicator();
  for (const std::vector<int>& experts : {std::vector<int>{1, 1, 1}, std::vector<int>{3, 1, 4}}) {
    const Measured expected = measure(*alone, experts, 1);
    const InterventionColumn& column = expected.matrix.columns.front();
    BOOST_TEST((std::abs(column.changes[0].nll) > 1e-4 && std::abs(column.changes[1].nll) > 1e-4));
    BOOST_TEST((column.changes[2].nll == 0.0 && column.changes[2].stderr_ == 0.0));
    for (int size = 1; size <= world().size(); ++size) {
      if (world().size() % size != 0) continue;
      for (const model::ExpertHome home : {model::ExpertHome::owned, model::ExpertHome::replicated}) {
        const Measured found = measure(world(), experts, size, home);
        BOOST_TEST((found.lines == expected.lines));
        BOOST_TEST((intervention_csv(found.matrix) == intervention_csv(expected.matrix)));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(cells_by_hand) {
  const std::vector<LogLikelihood> untouched = {{-10.0, true, 4}, {-6.0, true, 2}, {0.0, true, 0}},
                                   touched = {{-13.0, true, 4}, {-6.5, true, 2}, {0.0, true, 0}};
  // 3.5 nats more over 6 tokens; residuals 3 − 4·3.5/6, 0.5 − 2·3.5/6, 0.
  const PairedChange change = paired_change(untouched, touched);
  BOOST_TEST(std::abs(change.nll - 3.5 / 6) < 1e-15);
  const double a = 3.0 - 4 * 3.5 / 6, b = 0.5 - 2 * 3.5 / 6;
  BOOST_TEST(std::abs(change.stderr_ - std::sqrt(1.5 * (a * a + b * b)) / 6) < 1e-15);
  BOOST_TEST(paired_change(std::span(untouched).first(1), std::span(touched).first(1)).stderr_ == 0.0);
  InterventionMatrix matrix;
  matrix.rows.push_back({"el", 0, {7, 9}, 1});
  add_column(matrix, "en", std::vector{untouched, touched});
  BOOST_TEST(matrix.columns[0].tokens == 6);
  BOOST_TEST(std::abs(matrix.columns[0].nll - 16.0 / 6) < 1e-15);
  BOOST_CHECK_THROW(add_column(matrix, "el", std::vector<std::vector<LogLikelihood>>{untouched}), Error);
}

BOOST_AUTO_TEST_CASE(files) {
  const SharedDirectory directory("interventions");
  const Measured measured = measure(world(), {1, 1, 1}, 1);
  EvalResults results;
  results.model = "m";
  results.config = {{"evaluation.seed", "42"}};
  results.interventions = measured.matrix;
  const std::string path = directory.path() + "/eval.json";
  comm::agree(world(), [&] {
    if (world().rank() == 0) write_eval_files(path, results, measured.lines);
  });
  comm::agree(world(), [&] {
    io::H5File file = io::H5File::open(directory.path() + "/eval.interventions.h5");
    const auto change = file.read<double>("/change", std::vector<std::int64_t>{3, 1});
    const auto error = file.read<double>("/stderr", std::vector<std::int64_t>{3, 1});
    for (std::size_t r = 0; r < 3; ++r) {
      BOOST_TEST(change[r] == measured.matrix.columns[0].changes[r].nll);
      BOOST_TEST(error[r] == measured.matrix.columns[0].changes[r].stderr_);
    }
    BOOST_TEST((file.read_strings("/row/language") == std::vector<std::string>(3, "el")));
    BOOST_TEST((file.read<std::int64_t>("/row/control") == std::vector<std::int64_t>{0, 1, 2}));
    BOOST_TEST((file.read<std::int64_t>("/row/neurons") == std::vector<std::int64_t>{3, 2, 0}));
    BOOST_TEST((file.read<std::int64_t>("/row/first_layer") == std::vector<std::int64_t>{0, 2, 3}));
    BOOST_TEST(file.read<std::uint64_t>("/neuron/uuid").size() == 5U);
    BOOST_TEST(io::read_file(directory.path() + "/eval.interventions.csv") ==
               intervention_csv(measured.matrix));
    BOOST_TEST(io::read_file(directory.path() + "/eval.items.jsonl") == measured.lines);
  });
  world().barrier();
}
