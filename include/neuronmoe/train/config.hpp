#pragma once
// How a run trains: pure data, the [train], [lbl], [router] and [pack] sections of a config. app fills it
// through `for_each_field`; the trainer reads it; checkpoints and files carry it as attributes. Defaults are
// METHOD 7.
#include <concepts>
#include <cstdint>
#include <string>
#include <type_traits>

#include "neuronmoe/base/fields.hpp"
#include "neuronmoe/data/packed_dataset.hpp"

namespace nmoe::train {

/// Batch sizes are in sequences, lengths in tokens, bucket sizes in bytes.
struct TrainConfig {
  int stage = 1;  ///< 1 new experts + routers; 2 routers only; `pretrain` trains everything and ignores it
  std::string init_from;  ///< checkpoint to start from (step directory or run directory); stage 2 needs one

  std::int64_t seq_length = 1024;
  std::int64_t micro_batch_size = 32;
  std::int64_t global_batch_size = 128;
  std::int64_t steps = 15259;
  double epochs = 0.0;  ///< > 0: steps follow from the data instead

  double learning_rate = 1e-4;
  double min_lr_ratio = 0.0;
  std::int64_t warmup_steps = 0;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.0;
  double max_grad_norm = 1.0;

  std::uint64_t seed = 42;
  std::string dtype = "float32";
  int expert_parallel_size = 1;
  std::int64_t bucket_bytes = 33554432;
  std::string expert_placement = "auto";
  std::string placement_tokens = "expected";
  std::string placement_tokens_from;  ///< step or run directory
  bool overlap = true;
  bool zero = true;
  std::string gradient_dtype = "float32";
  std::string reduce_every = "micro_step";

  int top_k = 2;
  double router_aux_loss_coef = 0.01;
  double lpr_loss_coef = 0.1;
  std::string lpr_form = "double_softmax";
  std::string lpr_layer_mean = "by_expert_count";
  std::string loss_norm = "global_tokens";
  bool eos_label = false;
  std::string lbl_scope = "local";
  std::string router_compat = "none";
  data::Packing packing;

  std::int64_t save_every = 100;
  int keep_last = 2;
  std::int64_t log_every = 10;
  int max_nan_steps = 10;

  /// Defaults of a stage where they differ (METHOD 7.3): stage 2 runs at length 512 and learning rate 5e-5.
  static TrainConfig for_stage(int stage) {
    TrainConfig config;
    config.stage = stage;
    if (stage == 2) {
      config.seq_length = 512;
      config.learning_rate = 5e-5;
    }
    return config;
  }
};

/// Calls f("section.key", member, FieldInfo) for every field, in the order of --help.
template <class Config, class F>
requires std::same_as<std::remove_const_t<Config>, TrainConfig>
void for_each_field(Config& c, F&& f) {
  constexpr double many = 1e15;
  f("train.stage", c.stage, FieldInfo{"what trains: 1 new experts and routers, 2 routers only", "", 1, 2});
  f("train.init_from", c.init_from,
    FieldInfo{
        "checkpoint or run directory whose experts and routers the run starts from; needed by stage 2"});
  f("train.seq_length", c.seq_length,
    FieldInfo{"length of a packed sequence (stage 2: 512)", "tokens", 2, 1 << 20});
  f("train.micro_batch_size", c.micro_batch_size,
    FieldInfo{"sequences of one forward on one rank; divides global_batch_size", "sequences", 1, 1 << 20});
  f("train.global_batch_size", c.global_batch_size,
    FieldInfo{"sequences of one optimizer step over all ranks", "sequences", 1, 1 << 24});
  f("train.steps", c.steps, FieldInfo{"optimizer steps", "steps", 1, many});
  f("train.epochs", c.epochs,
    FieldInfo{"> 0: steps = ceil(epochs * whole steps in the data) instead of train.steps", "epochs", 0,
              1e6});
  f("train.learning_rate", c.learning_rate, FieldInfo{"peak learning rate (stage 2: 5e-5)", "", 0, 10});
  f("train.min_lr_ratio", c.min_lr_ratio, FieldInfo{"the cosine ends at this share of the peak", "", 0, 1});
  f("train.warmup_steps", c.warmup_steps, FieldInfo{"linear warm-up", "steps", 0, many});
  f("train.beta1", c.beta1, FieldInfo{"AdamW: decay of the mean gradient", "", 0, 0.9999999});
  f("train.beta2", c.beta2, FieldInfo{"AdamW: decay of the mean squared gradient", "", 0, 0.9999999});
  f("train.eps", c.eps, FieldInfo{"AdamW: added to the root of the second moment", "", 1e-30, 1});
  f("train.weight_decay", c.weight_decay, FieldInfo{"AdamW: decoupled decay", "", 0, 10});
  f("train.max_grad_norm", c.max_grad_norm,
    FieldInfo{"gradients are clipped to this global norm; 0 = not at all", "", 0, 1e30});
  f("train.seed", c.seed, FieldInfo{"seed of initialisation and data order"});
  f("train.dtype", c.dtype, FieldInfo{"type of weights and activations", "", 0, 0, "float32|bfloat16"});
  f("train.expert_parallel_size", c.expert_parallel_size,
    FieldInfo{"ranks over which the experts of a layer are spread; divides the rank count", "ranks", 1,
              1 << 20, "", true});
  f("train.bucket_bytes", c.bucket_bytes,
    FieldInfo{"gradients are reduced in buckets of at most this size", "bytes", 4096, 67108864, "", true});
  f("train.expert_placement", c.expert_placement,
    FieldInfo{
        "new experts: each on one rank of a group, on every rank, or (auto) on every rank where top_k >= E",
        "", 0, 0, "auto|owned|replicated", true});
  f("train.placement_tokens", c.placement_tokens,
    FieldInfo{
        "owned experts are spread by bytes and by the tokens that top_k lets expect, or by those that the "
        "checkpoint of train.placement_tokens_from, else the one resumed, else train.init_from, has counted "
        "per expert (same bits; expected where none has)",
        "", 0, 0, "expected|measured", true});
  f("train.placement_tokens_from", c.placement_tokens_from,
    FieldInfo{"checkpoint or run directory that train.placement_tokens = measured takes counts from", "", 0,
              0, "", true});
  f("train.overlap", c.overlap,
    FieldInfo{"reduce gradients and gather weights while computing (the result has the same bits)", "", 0, 0,
              "", true});
  f("train.zero", c.zero,
    FieldInfo{"shard the optimizer state (ZeRO-2); false: every rank keeps all of it (same bits)", "", 0, 0,
              "", true});
  f("train.gradient_dtype", c.gradient_dtype,
    FieldInfo{"gradients travel in this type; they are summed in float32", "", 0, 0, "float32|bfloat16"});
  f("train.reduce_every", c.reduce_every,
    FieldInfo{"gradients go to their owners after each micro_step, or once a step: fewer bytes, but every "
              "rank sums "
              "whole gradients, and the result has other bits on other rank counts",
              "", 0, 0, "micro_step|step"});
  f("train.top_k", c.top_k, FieldInfo{"experts per token", "", 1, 1024});
  f("train.router_aux_loss_coef", c.router_aux_loss_coef,
    FieldInfo{"weight of the balancing loss (stage 1)", "", 0, 1e6});
  f("train.lpr_loss_coef", c.lpr_loss_coef,
    FieldInfo{"weight of the language-prior routing loss (stage 2)", "", 0, 1e6});
  f("train.lpr_form", c.lpr_form,
    FieldInfo{"form of the language-prior routing loss", "", 0, 0, "double_softmax|nll|off"});
  f("train.lpr_layer_mean", c.lpr_layer_mean,
    FieldInfo{"mean of that loss over layers", "", 0, 0, "by_expert_count|flat"});
  f("train.loss_norm", c.loss_norm,
    FieldInfo{"denominator of the language-model loss", "", 0, 0, "global_tokens|microbatch_mean"});
  f("train.eos_label", c.eos_label, FieldInfo{"train on end-of-text labels too"});
  f("train.save_every", c.save_every,
    FieldInfo{"steps between checkpoints; 0 = only at the end", "steps", 0, many});
  f("train.keep_last", c.keep_last, FieldInfo{"checkpoints that are kept", "", 1, 1 << 20});
  f("train.log_every", c.log_every, FieldInfo{"steps between lines on the terminal", "steps", 1, many});
  f("train.max_nan_steps", c.max_nan_steps,
    FieldInfo{"skipped steps in a row with a non-finite loss or gradient before the run ends with 87",
              "steps", 1, 1 << 20});
  f("lbl.scope", c.lbl_scope,
    FieldInfo{
        "statistics of the balancing loss: of a micro-batch, or of the global batch (needs as many ranks as "
        "micro-batches)",
        "", 0, 0, "local|global"});
  f("router.compat", c.router_compat,
    FieldInfo{
        "release: router logits, expert weights and combination in train.dtype as the released code has "
        "them; none: in fp32",
        "", 0, 0, "none|release"});
  f("pack.batch_docs", c.packing.batch_docs,
    FieldInfo{
        "documents packed together; what is left of each batch is dropped (0: carried over, no batches)",
        "documents", 0, many});
  f("pack.shards", c.packing.shards,
    FieldInfo{"contiguous shards of a data set that are packed apart", "shards", 1, 1 << 20});
}

}  // namespace nmoe::train
