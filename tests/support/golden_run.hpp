#pragma once
// Runs of twenty optimizer steps with files beside those of torch.optim.AdamW (METHOD 6-7): losses, gradient
// norms, learning rates and trained weights. Used by the golden tests of training on either device.
#include <fstream>

#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/data/token_file.hpp"
#include "neuronmoe/tensor/device.hpp"
#include "neuronmoe/train/trainer.hpp"
#include "support/golden.hpp"
#include "support/mpi_fixture.hpp"
#include "support/temp_dir.hpp"

namespace nmoe::test {

/// Bounds on what a run may differ from PyTorch's. Losses relative, weights norm-wise, movement of the
/// weights since the start norm-wise.
struct RunBounds {
  double loss, grad_norm, weights, movement;
};
// float32 against float64. One step's rounding is that of test_golden_moe.cpp; the mean over 180 tokens takes
// a tenth of it, and 20 steps of at most 3e-3 hardly amplify it: 7e-8 was seen in losses, 7e-7 in weights.
// The smallest gap between a chosen expert and the next is 1e-5 (reference.json, margin), so none is chosen
// differently.
inline constexpr RunBounds float32_bounds{1e-6, 1e-5, 1e-5, 1e-4};
// bfloat16 against PyTorch in bfloat16: both round, at different places (fused SwiGLU, order of sums), by up
// to 2^-9 each time, so logits differ by the 1e-2 of test_golden_models.cpp. About one choice of expert in a
// hundred is closer than that: three or four of a step's 360 turn, each moving its token's loss by a few
// tenths, sqrt(4) · 0.5 / 180 = 5e-3 of 5.4, or 1e-3, three times that in the worst of 20 steps. Gradients
// carry the roundings of the whole way back. A weight near 0.2 has a spacing of 1e-3 and moves by some 2.5 of
// them; two roundings of 0.29 each are 0.16 of that, small gradients of unsure sign add half as much again.
// Without float32 masters most weights would not move at all.
inline constexpr RunBounds bfloat16_bounds{3e-3, 2e-2, 2e-3, 0.35};

inline void write_tokens(comm::Communicator& comm, const nlohmann::json& train, const std::string& path) {
  data::TokenDocuments documents;
  if (comm.rank() == 0) {
    const auto marks = train.at("marks").get<std::vector<std::uint8_t>>();
    for (const auto& doc : train.at("documents")) {
      for (const std::uint32_t id : doc) documents.ids.push_back(id);
      documents.mark.push_back(marks[documents.lengths.size()]);
      documents.lang.push_back(0);
      documents.lengths.push_back(doc.size());
    }
  }
  data::TokenFileInfo info;
  info.vocab_size = 64;
  info.eos_id = train.at("eos");
  info.languages = {"xx"};
  data::write_token_file(comm, path, documents, info);
}

inline train::TrainConfig config_of(const nlohmann::json& run, int expert_parallel_size) {
  train::TrainConfig c;
  nlohmann::json left = run;
  const auto take = [&](const char* key, auto& member) {
    using Member = std::remove_reference_t<decltype(member)>;
    if constexpr (NamedEnum<Member>)
      member = parse_enum<Member>(left.at(key).get<std::string>(), ErrorCode::config, key);
    else
      left.at(key).get_to(member);
    left.erase(key);
  };
  take("stage", c.stage);
  take("steps", c.steps);
  take("seq_length", c.seq_length);
  take("micro_batch_size", c.micro_batch_size);
  take("global_batch_size", c.global_batch_size);
  take("learning_rate", c.learning_rate);
  take("min_lr_ratio", c.min_lr_ratio);
  take("warmup_steps", c.warmup_steps);
  take("beta1", c.beta1);
  take("beta2", c.beta2);
  take("eps", c.eps);
  take("weight_decay", c.weight_decay);
  take("max_grad_norm", c.max_grad_norm);
  take("seed", c.seed);
  take("top_k", c.top_k);
  take("router_aux_loss_coef", c.router_aux_loss_coef);
  take("lpr_loss_coef", c.lpr_loss_coef);
  take("lpr_form", c.lpr_form);
  take("lpr_layer_mean", c.lpr_layer_mean);
  take("loss_norm", c.loss_norm);
  take("eos_label", c.eos_label);
  take("lbl_scope", c.lbl_scope);
  take("router_compat", c.router_compat);
  take("batch_docs", c.packing.batch_docs);
  take("shards", c.packing.shards);
  take("dtype", c.dtype);
  BOOST_REQUIRE_MESSAGE(left.empty(), "settings nobody read: " << left.dump());
  c.expert_parallel_size = expert_parallel_size;
  c.save_every = 0;
  return c;
}

inline void check_series(const nlohmann::json& expected, const std::string& metrics,
                         const RunBounds& bounds) {
  std::ifstream file(metrics);
  std::size_t step = 0;
  for (std::string line; std::getline(file, line); ++step) {
    const nlohmann::json found = nlohmann::json::parse(line);
    const auto error = [&](const char* key) {
      const double wanted = expected.at(key).at(step);
      return wanted == 0.0 ? std::abs(found.at(key).get<double>()) : relative(found.at(key), wanted);
    };
    for (const char* key : {"loss_lm", "loss_lbl", "loss_lpr"}) {
      BOOST_CHECK_MESSAGE(error(key) < bounds.loss, "step " << step << " " << key << " " << found.at(key)
                                                            << ", PyTorch " << expected.at(key).at(step));
    }
    BOOST_CHECK_MESSAGE(error("grad_norm") < bounds.grad_norm,
                        "step " << step << " grad_norm " << found.at("grad_norm") << ", PyTorch "
                                << expected.at("grad_norm").at(step));
    BOOST_CHECK_MESSAGE(error("lr") < 1e-12, "step " << step << " lr " << found.at("lr") << ", PyTorch "
                                                     << expected.at("lr").at(step));
  }
  BOOST_TEST(step == expected.at("loss_lm").size());
}

/// The run `name` of the reference on `world`, with all of its tensors on `device`. Collective.
inline void check_run(comm::Communicator& world, Device device, const nlohmann::json& moe,
                      const std::string& name, int expert_parallel_size) {
  const nlohmann::json& expected = moe.at("train").at("runs").at(name);
  const SharedDirectory shared("golden");
  const std::string tokens = shared.path() + "/tokens.h5";
  write_tokens(world, moe.at("train"), tokens);
  train::TrainRun run;
  run.config = config_of(expected.at("run"), expert_parallel_size);
  run.kind = run.config.stage == 1 ? train::RunKind::stage1 : train::RunKind::stage2;
  run.output_dir = shared.path() + "/run";
  run.identity.provenance_json = "{}\n";
  const bool bf16 = run.config.dtype == DType::bfloat16;
  const RunBounds bounds = bf16 ? bfloat16_bounds : float32_bounds;

  const train::ParallelGroups groups(world, expert_parallel_size);
  model::ModelConfig config = model::load_model_config(golden_path("moe/config.json"));
  config.num_experts = moe.at("num_experts").get<std::vector<int>>();
  config.top_k = run.config.top_k;
  config.release_router = run.config.router_compat == model::RouterCompat::release;
  OwnedStream owned(device);
  Stream& stream = owned.stream();
  const Logger log(world.rank(), true);
  comm::Heartbeat heartbeat;
  const comm::ExecutionContext context{world, device, stream, log, heartbeat};
  model::Decoder decoder(config, run.config.dtype, train::trainables_of(run.kind),
                         groups.experts(config.num_experts), stream);
  load_weights(decoder, "moe/model.safetensors");
  const data::Mixture mixture = data::make_mixture({{.name = "all", .tokens = tokens}}, run.config.seq_length,
                                                   run.config.eos_label, run.config.seed, run.config.packing);
  BOOST_TEST(mixture.num_blocks() == expected.at("num_blocks").get<std::int64_t>());
  train::Trainer(context, run, groups, decoder, mixture).run();

  if (world.rank() == 0) check_series(expected, run.output_dir + "/metrics.jsonl", bounds);
  const io::SafetensorsReader trained(golden_path("moe/train_" + name + ".safetensors"));
  const io::SafetensorsReader initial(golden_path("moe/model.safetensors"));
  for (const model::Parameter& p : decoder.parameters()) {
    if (!p.trainable || !p.held()) continue;
    const Tensor on_host = copied_to(Device::cpu, p.value.view(), stream);
    std::vector<double> found = wide(on_host.view()), wanted = golden_tensor(trained, p.name);
    const double error = norm_error(found, wanted);
    BOOST_CHECK_MESSAGE(error < bounds.weights, p.name << " is off by " << error);
    const std::vector<double> start = golden_tensor(initial, p.name);
    for (std::size_t i = 0; i < start.size(); ++i) {
      found[i] -= start[i];
      wanted[i] -= start[i];
    }
    const double astray = norm_error(found, wanted);
    BOOST_CHECK_MESSAGE(astray < bounds.movement, p.name << " moved otherwise, by " << astray);
  }
  world.barrier();
}

}  // namespace nmoe::test
