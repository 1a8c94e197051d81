// The whole decoder on the GPU against the same decoder on the CPU: losses, gradients, log-probabilities,
// observed activations, and the way of weights to the GPU and back.
#include <map>

#include "neuronmoe/model/decoder.hpp"
#include "support/on_gpu.hpp"
#include "support/tiny_model.hpp"

using namespace nmoe;
using namespace nmoe::test;

namespace {

/// One decoder on the stream's device, same seed on either.
struct Run {
  std::unique_ptr<comm::Communicator> comm = comm::make_local_communicator();
  std::unique_ptr<model::Decoder> decoder;
  Run(DType dtype, model::TrainableSet trainable, Stream& stream) {
    const model::ModelConfig config = tiny_config({3, 1, 2});
    decoder = std::make_unique<model::Decoder>(
        config, dtype, trainable,
        model::ExpertParallelGroup{*comm, model::ExpertPlacement(config.num_experts, 1)}, stream);
    decoder->initialise_dense(7);
    decoder->upcycle(8);
  }
};

model::BatchBuilder batch_of(std::int64_t vocab) {
  model::BatchBuilder builder;
  builder.clear();
  std::int32_t sample = 0;
  for (const std::int64_t length : {5, 1, 70}) {
    const Tensor ids = random_ids({length}, vocab, static_cast<std::uint32_t>(length));
    const std::vector<std::int32_t> id(ids.data<std::int32_t>(), ids.data<std::int32_t>() + length);
    std::vector<std::int32_t> labels(id.begin() + 1, id.end());
    labels.push_back(-100);
    builder.add(id, labels, std::vector<std::uint8_t>(id.size(), length == 5 ? 1 : 0), sample++);
  }
  return builder;
}

std::vector<double> host_values(ConstTensorView x) {
  return values(copied_to(Device::cpu, x, gpu_stream()).view());
}

struct Recorder final : model::ActivationObserver {
  std::map<std::string, std::vector<double>> seen;
  bool wants(const model::ActivationSite&) const override { return true; }
  void observe(const model::ActivationSite& site, ConstTensorView v, ConstTensorView row_sample) override {
    auto& all = seen[fmt::format("{}.{}.{}", site.layer, static_cast<int>(site.projection), site.expert)];
    const std::vector<double> more = values(v), samples = values(row_sample);
    all.insert(all.end(), more.begin(), more.end());
    all.insert(all.end(), samples.begin(), samples.end());
  }
};

}  // namespace

BOOST_AUTO_TEST_CASE(losses_and_gradients_equal_the_cpu) {
  for (const auto trainable : {model::TrainableSet::all, model::TrainableSet::experts_and_routers}) {
    Stream cpu;
    Run here(DType::float32, trainable, cpu), there(DType::float32, trainable, gpu_stream());
    const model::BatchBuilder builder = batch_of(here.decoder->config().vocab_size);
    model::LossScales scales;
    scales.lm = 1.0 / 70;
    scales.balancing = 0.01;
    scales.lpr = 0.1;
    const model::Losses a = here.decoder->forward_backward(builder.batch(), scales);
    const model::Losses b = there.decoder->forward_backward(builder.batch(), scales);
    // float32 on both sides, sums of up to ~100 terms in another order: a few units of 6e-8 times their
    // number.
    BOOST_TEST(a.lm_sum == b.lm_sum, boost::test_tools::tolerance(1e-5));
    BOOST_TEST(a.balancing == b.balancing, boost::test_tools::tolerance(1e-5));
    BOOST_TEST(a.lpr == b.lpr, boost::test_tools::tolerance(1e-5));
    BOOST_TEST(a.num_labels == b.num_labels);
    int compared = 0;
    for (const model::Parameter& p : here.decoder->parameters()) {
      if (!p.grad) continue;
      const model::Parameter& q = there.decoder->parameter(p.name);
      BOOST_TEST((q.grad.device() == Device::cuda));
      check_close(p.name, host_values(q.grad), values(p.grad), {2e-5, 1e-4});
      ++compared;
    }
    BOOST_TEST(compared > 10);
  }
}

BOOST_AUTO_TEST_CASE(bfloat16_stays_near_the_cpu_and_repeats) {
  Stream cpu;
  Run here(DType::bfloat16, model::TrainableSet::experts_and_routers, cpu);
  Run there(DType::bfloat16, model::TrainableSet::experts_and_routers, gpu_stream());
  const model::BatchBuilder builder = batch_of(here.decoder->config().vocab_size);
  model::LossScales scales;
  scales.lm = 1.0 / 70;
  const double a = here.decoder->forward_backward(builder.batch(), scales).lm_sum;
  const double b = there.decoder->forward_backward(builder.batch(), scales).lm_sum;
  // Some tens of roundings of 2^-9 in a row, averaged over 70 tokens; a router may tip at a near tie.
  BOOST_TEST(a == b, boost::test_tools::tolerance(0.01));
  const std::string name = "model.layers.0.mlp.experts.1.up_proj.weight";
  BOOST_TEST(repeats_bits([&] {
    there.decoder->zero_gradients();
    static_cast<void>(there.decoder->forward_backward(builder.batch(), scales));
    return copied_to(Device::cpu, there.decoder->parameter(name).grad, gpu_stream());
  }));
}

BOOST_AUTO_TEST_CASE(observers_see_the_same) {
  Stream cpu;
  Run here(DType::float32, model::TrainableSet::none, cpu),
      there(DType::float32, model::TrainableSet::none, gpu_stream());
  const model::BatchBuilder builder = batch_of(here.decoder->config().vocab_size);
  Recorder on_cpu, on_gpu_;
  here.decoder->observe(builder.batch(), on_cpu);
  there.decoder->observe(builder.batch(), on_gpu_);
  BOOST_TEST(on_cpu.seen.size() == on_gpu_.seen.size());
  for (const auto& [site, wanted] : on_cpu.seen) check_close(site, on_gpu_.seen[site], wanted, {2e-5, 1e-4});
  check_close("log p", there.decoder->token_log_probs(builder.batch()),
              here.decoder->token_log_probs(builder.batch()), {2e-5, 1e-4});
}

BOOST_AUTO_TEST_CASE(replaced_neurons_change_the_same) {
  Stream cpu;
  Run here(DType::float32, model::TrainableSet::none, cpu),
      there(DType::float32, model::TrainableSet::none, gpu_stream());
  const model::BatchBuilder builder = batch_of(here.decoder->config().vocab_size);
  std::vector<model::LabelAt> labels;
  for (std::int32_t t = 0; t < 76; ++t) labels.push_back({t, t % 19});
  const std::vector<std::vector<model::ReplacedNeuron>> sets = {
      {{0, model::Projection::q, 3, 0.5F}, {0, model::Projection::up, 2, 0.0F}},
      {{2, model::Projection::down, 1, -1.0F}, {2, model::Projection::v, 0, 0.0F}}};
  const auto scores = [&](Run& run) {
    std::vector<model::Intervention> interventions;
    for (const auto& set : sets)
      interventions.emplace_back(run.decoder->config(), DType::float32, set, run.decoder->stream());
    std::vector<double> all;
    for (const auto& variant : run.decoder->label_scores_of_each(builder.batch(), labels, interventions))
      for (const model::LabelScore& score : variant) all.push_back(score.log_prob);
    return all;
  };
  const std::vector<double> on_cpu = scores(here), on_gpu_ = scores(there);
  check_close("log p", on_gpu_, on_cpu, {2e-5, 1e-4});
  for (const std::size_t variant : {1U, 2U})
    BOOST_TEST(std::abs(on_gpu_[variant * 76 + 70] - on_gpu_[70]) > 1e-3);
}

BOOST_AUTO_TEST_CASE(ids_outside_the_vocabulary_are_refused) {
  Run there(DType::float32, model::TrainableSet::none, gpu_stream());
  model::BatchBuilder builder;
  builder.clear();
  builder.add(std::vector<std::int32_t>{1, 1 << 20}, {}, {});
  BOOST_CHECK_EXCEPTION(static_cast<void>(there.decoder->token_log_probs(builder.batch())), Error,
                        [](const Error& e) { return e.code() == ErrorCode::bad_data; });
}
