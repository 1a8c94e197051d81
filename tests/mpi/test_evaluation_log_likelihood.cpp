// Log-likelihood requests over ranks: equal to one pass per token of each request, same bytes on 1 to 4 ranks
// and for any expert-parallel size; files that are no requests.
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <fstream>
#include <map>

#include "neuronmoe/evaluation/log_likelihood.hpp"
#include "neuronmoe/train/parallel_groups.hpp"
#include "support/fake_analysis.hpp"
#include "support/mpi_fixture.hpp"
#include "support/tiny_model.hpp"

using namespace nmoe;
using namespace nmoe::evaluation;
using namespace nmoe::test;

namespace {

using Ids = std::vector<std::int32_t>;

/// A model that is arithmetic: what it says of a label depends on every token before it and on their order.
model::LabelScore score_after(std::span<const std::int32_t> before, std::int32_t label) {
  double state = 0.0;
  for (const std::int32_t id : before) state = std::fmod(state * 1.37 + 0.61 * id, 7.0);
  return {-1.0 - std::abs(std::sin(state - 0.3 * label)), label % 3 == 0};
}

/// The same from a batch, whose tokens it counts.
struct FakeModel {
  std::int64_t num_tokens = 0, num_calls = 0;
  std::vector<model::LabelScore> operator()(const model::Batch& batch,
                                            std::span<const model::LabelAt> labels) {
    ++num_calls;
    num_tokens += batch.num_tokens();
    const auto* const ids = batch.ids.data<std::int32_t>();
    const std::size_t num_alone = batch.offsets.size() - 1 - batch.prefixes.size();
    std::vector<model::LabelScore> scores;
    for (const auto& [token, label] : labels) {
      std::size_t b = 0;
      while (batch.offsets[b + 1] <= token) ++b;
      Ids before;
      if (b >= num_alone) {
        const auto prefix = static_cast<std::size_t>(batch.prefixes[b - num_alone]);
        before.assign(ids + batch.offsets[prefix], ids + batch.offsets[prefix + 1]);
      }
      before.insert(before.end(), ids + batch.offsets[b], ids + token + 1);
      scores.push_back(score_after(before, label));
    }
    return scores;
  }
};

Request scored(Ids context, const Ids& continuation) {
  Request request;
  request.num_context = context.size();
  request.ids = std::move(context);
  request.ids.insert(request.ids.end(), continuation.begin(), continuation.end());
  return request;
}

Request rolling(std::int32_t prefix, const Ids& text) {
  Request request = scored({prefix}, text);
  request.rolling = true;
  return request;
}

Ids toy_ids(int length, int seed) {
  Ids ids;
  for (int i = 0; i < length; ++i) ids.push_back((i * 7 + i / 5 + seed * 3) % 19);
  return ids;
}

/// Contexts of four requests each, long and short, one-token continuations, texts, and nothing at all.
std::vector<Request> toy_requests(int count) {
  std::vector<Request> requests;
  for (int i = 0; i < count; ++i) {
    const Ids context = toy_ids(1 + i * i % 37, i);
    for (int c = 0; c < 4; ++c)
      requests.push_back(scored(context, toy_ids(i % 3 == 0 ? 1 : 1 + (i + c) % 9, c)));
    if (i % 4 == 1) requests.push_back(rolling(2, toy_ids(i * 5 % 83, i)));
  }
  requests.push_back(rolling(2, {}));
  return requests;
}

/// lm_eval.utils.get_rolling_token_windows(text, prefix, max_length, 1) and make_disjoint_window, by hand.
std::vector<std::pair<Ids, Ids>> windows_of_lm_eval(const Ids& text, std::int32_t prefix, int max_length) {
  std::vector<std::pair<Ids, Ids>> windows;
  const int total = static_cast<int>(text.size());
  const auto slice = [&](int begin, int end) { return Ids(text.begin() + begin, text.begin() + end); };
  int predicted = std::min(max_length, total);
  if (total > 0) {
    Ids input = slice(0, predicted - 1);
    input.insert(input.begin(), prefix);
    windows.emplace_back(input, slice(0, predicted));
  }
  while (predicted < total) {
    const int length = std::min(total - predicted, max_length), end = predicted + length;
    windows.emplace_back(slice(end - max_length - 1, end - 1), slice(end - length, end));
    predicted += length;
  }
  for (auto& [input, scored_ids] : windows) input.resize(input.size() - (scored_ids.size() - 1));
  return windows;
}

LogLikelihood expected_answer(const Request& request, int max_length) {
  std::vector<std::pair<Ids, Ids>> windows;
  const auto split = request.ids.begin() + static_cast<std::ptrdiff_t>(request.num_context);
  const Ids tail(split, request.ids.end());
  if (request.rolling) {
    windows = windows_of_lm_eval(tail, request.ids.front(), max_length);
  } else {
    const auto most = static_cast<std::size_t>(max_length) + 1;
    const auto skip = request.ids.size() > most ? static_cast<std::ptrdiff_t>(request.ids.size() - most) : 0;
    windows.emplace_back(Ids(request.ids.begin() + skip, split), tail);
  }
  LogLikelihood answer;
  for (const auto& [context, continuation] : windows) {
    Ids before = context;
    double sum = 0.0;
    for (const std::int32_t id : continuation) {
      const model::LabelScore score = score_after(before, id);
      sum += score.log_prob;
      answer.greedy = answer.greedy && score.greedy;
      ++answer.tokens;
      before.push_back(id);
    }
    answer.sum += sum;
  }
  return answer;
}

/// Answers of a tiny mixture on `comm`.
std::string answers_of_mixture(comm::Communicator& comm, int expert_parallel_size,
                               const std::vector<Request>& requests) {
  TestContext context(comm);
  const train::ParallelGroups groups(comm, expert_parallel_size);
  const model::ModelConfig config = tiny_config({1, 3, 4});
  model::Decoder decoder(config, DType::float32, model::TrainableSet::none,
                         groups.experts(config.num_experts), context.stream);
  decoder.initialise_dense(3);
  decoder.upcycle(3);
  perturb(decoder, 9, 0.3);
  return answer_lines(measure_log_likelihoods(
      context.context, requests, 30, [&](const model::Batch& batch, std::span<const model::LabelAt> labels) {
        return decoder.label_scores(batch, labels);
      }));
}

}  // namespace

BOOST_AUTO_TEST_CASE(each_request_as_if_it_were_alone) {
  TestContext many(world());
  for (const int count : {0, 1, 3, 90}) {
    const std::vector<Request> requests = toy_requests(count);
    for (const int max_length : {9, 20, 4096}) {
      FakeModel fake;
      const auto answers = measure_log_likelihoods(many.context, requests, max_length, std::ref(fake));
      BOOST_REQUIRE(answers.size() == requests.size());
      for (std::size_t r = 0; r < requests.size(); ++r) {
        const LogLikelihood expected = expected_answer(requests[r], max_length);
        BOOST_TEST(answers[r].sum == expected.sum);
        BOOST_TEST(answers[r].greedy == expected.greedy);
        BOOST_TEST(answers[r].tokens == expected.tokens);
      }
      // Every rank takes part in every call, also those without a batch.
      std::int64_t calls[2] = {fake.num_calls, -fake.num_calls};
      world().all_reduce(TensorView(calls, DType::int64, {2}), comm::ReduceOp::max, many.stream).wait();
      BOOST_TEST(calls[0] == -calls[1]);
    }
  }
}

BOOST_AUTO_TEST_CASE(a_shared_context_runs_once) {
  const auto alone = comm::make_local_communicator();
  TestContext one(*alone);
  const Ids context = toy_ids(500, 1), other = toy_ids(500, 2);
  std::vector<Request> requests;
  for (int c = 0; c < 4; ++c) {  // neighbours or not
    requests.push_back(scored(context, {c}));
    requests.push_back(scored(other, toy_ids(3, c)));
  }
  FakeModel fake;
  measure_log_likelihoods(one.context, requests, 4096, std::ref(fake));
  BOOST_TEST(fake.num_tokens == 500 + 500 + 4 * 2);
  BOOST_TEST(fake.num_calls == 1);
  // A context longer than a batch, with more continuations than fit behind it, stands in few batches.
  requests.clear();
  for (int c = 0; c < 40; ++c) requests.push_back(scored(toy_ids(3000, 1), toy_ids(100, c)));
  FakeModel second;
  measure_log_likelihoods(one.context, requests, 4096, std::ref(second));
  BOOST_TEST(second.num_calls == 4);
  BOOST_TEST(second.num_tokens == 4 * 3000 + 40 * 99);
}

BOOST_AUTO_TEST_CASE(same_bytes_on_any_number_of_ranks) {
  const auto alone = comm::make_local_communicator();
  const std::vector<Request> requests = toy_requests(60);
  const std::string expected = answers_of_mixture(*alone, 1, requests);
  BOOST_TEST(std::count(expected.begin(), expected.end(), '\n') ==
             static_cast<std::ptrdiff_t>(requests.size()));
  for (int size = 1; size <= world().size(); ++size)
    if (world().size() % size == 0) BOOST_TEST((answers_of_mixture(world(), size, requests) == expected));
}

BOOST_AUTO_TEST_CASE(requests_file) {
  const SharedDirectory directory("requests");
  const std::string path = directory.path() + "/requests.jsonl";
  comm::Heartbeat heartbeat;
  const auto load = [&](const std::string& text) {
    if (world().rank() == 0) std::ofstream(path) << text;
    world().barrier();
    struct AtExit {
      ~AtExit() { world().barrier(); }
    } const wait_for_readers;
    return load_requests(path, {19, 8}, heartbeat);
  };
  const std::string good = "{\"context\": [1, 2], \"continuation\": [3]}\n";
  std::string wide = "{\"rolling\": [0";
  for (int i = 0; i < 300'000; ++i) wide += ",18";
  wide += "], \"prefix\": 4, \"doc\": {\"x\": null}}";
  const auto requests = load("\xEF\xBB\xBF" + good + "\n" + wide + "\r\n{\"rolling\": [], \"prefix\": 0}");
  BOOST_REQUIRE(requests.size() == 3U);
  BOOST_TEST((requests[0].ids == Ids{1, 2, 3}));
  BOOST_TEST((!requests[0].rolling && requests[0].num_context == 2U && requests[0].line == 1));
  BOOST_TEST((requests[1].rolling && requests[1].num_scored() == 300'001 && requests[1].line == 3));
  BOOST_TEST((requests[2].rolling && requests[2].num_scored() == 0 && requests[2].ids == Ids{0}));
  const std::map<std::string, std::string> bad = {
      {R"({"context": [], "continuation": [3]})", "context is empty"},
      {R"({"context": [1], "continuation": []})", "continuation is empty"},
      {R"({"context": [1]})", "no \"continuation\""},
      {R"({"rolling": [1]})", "no \"prefix\""},
      {R"({"continuation": [1]})", "wanted either"},
      {R"({"context": [1], "continuation": [1], "rolling": [1], "prefix": 1})", "wanted either"},
      {R"({"context": [1], "context": [1], "continuation": [1]})", "appears twice"},
      {R"({"context": [1, 19], "continuation": [3]})", "context[1] is 19; the model's token ids are 0 to 18"},
      {R"({"context": [-1], "continuation": [3]})", "context[0] is -1"},
      {R"({"context": [1.5], "continuation": [3]})", "context[0] is 1.5"},
      {R"({"context": [4294967297], "continuation": [3]})", "context[0] is 4294967297"},
      {R"({"context": [1e30], "continuation": [3]})", "context[0] is 1e+30"},
      {R"({"context": [NaN], "continuation": [3]})", "context[0] is null"},
      {R"({"context": ["1"], "continuation": [3]})", "context[0] is string"},
      {R"({"context": [[1]], "continuation": [3]})", "context[0] is array"},
      {R"({"context": 1, "continuation": [3]})", "context is number"},
      {R"({"rolling": [1], "prefix": [1]})", "prefix is array"},
      {R"({"context": [1], "continuation": [1,1,1,1,1,1,1,1,1]})",
       "9 tokens, but the model is given at most 8"},
      {R"([{"context": [1], "continuation": [1]}])", "JSON array"},
      {R"({"context": [1], "continuation": [1)", "not valid JSON"},
      {"{\"context\": [1], \"continuation\": [1]}\xFF", "not valid JSON"},
      {"{", "over several lines"}};
  for (const auto& [line, says] : bad) {
    std::string what = "nothing";
    try {
      load(good + line + "\n" + good);
    } catch (const Error& e) {
      what = e.code() == ErrorCode::bad_data ? e.what() : "another code";
    }
    BOOST_TEST((what.find("requests.jsonl:2: ") != std::string::npos && what.find(says) != std::string::npos),
               line << " gave: " << what);
  }
  for (const std::string nothing : {"", "\n \n"}) BOOST_CHECK_THROW(load(nothing), Error);
}

BOOST_AUTO_TEST_CASE(answers_read_back) {
  BOOST_TEST(answer_lines(std::vector<LogLikelihood>{{-0.1, false, 3}, {0.0, true, 0}, {-12.0, true, 1}}) ==
             "{\"loglikelihood\": -0.10000000000000001, \"is_greedy\": false, \"tokens\": 3}\n"
             "{\"loglikelihood\": 0.0, \"is_greedy\": true, \"tokens\": 0}\n"
             "{\"loglikelihood\": -12.0, \"is_greedy\": true, \"tokens\": 1}\n");
}
