#pragma once
// How a run trains: pure data, the [train], [lbl], [router] and [pack] sections of a config. app fills it
// through `for_each_field`; the trainer reads it; checkpoints and files carry it as attributes. Defaults are
// METHOD 7.
#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

#include "neuronmoe/base/enum_names.hpp"
#include "neuronmoe/base/fields.hpp"
#include "neuronmoe/data/packed_dataset.hpp"
#include "neuronmoe/model/config.hpp"
#include "neuronmoe/model/expert_placement.hpp"
#include "neuronmoe/model/router.hpp"
#include "neuronmoe/tensor/dtype.hpp"
#include "neuronmoe/train/run_kind.hpp"

namespace nmoe::train {

/// What owned experts are spread by, besides bytes: tokens that top_k lets expect, or counted ones.
enum class PlacementTokens { expected, measured };
constexpr auto enum_names(PlacementTokens) {
  return std::to_array<EnumName<PlacementTokens>>(
      {{PlacementTokens::expected, "expected"}, {PlacementTokens::measured, "measured"}});
}
/// When gradients go to their owners.
enum class ReduceEvery { micro_step, step };
constexpr auto enum_names(ReduceEvery) {
  return std::to_array<EnumName<ReduceEvery>>(
      {{ReduceEvery::micro_step, "micro_step"}, {ReduceEvery::step, "step"}});
}
/// The language-prior routing loss of stage 2 (METHOD 6.3): an ops::LprForm, or none.
enum class LprLoss { double_softmax, nll, off };
constexpr auto enum_names(LprLoss) {
  return std::to_array<EnumName<LprLoss>>(
      {{LprLoss::double_softmax, "double_softmax"}, {LprLoss::nll, "nll"}, {LprLoss::off, "off"}});
}
/// Weights of the layers in the mean of that loss.
enum class LayerMean { by_expert_count, flat };
constexpr auto enum_names(LayerMean) {
  return std::to_array<EnumName<LayerMean>>(
      {{LayerMean::by_expert_count, "by_expert_count"}, {LayerMean::flat, "flat"}});
}
/// Denominator of the language-model loss: the labels of the whole step, or those of each micro-batch.
enum class LossNorm { global_tokens, microbatch_mean };
constexpr auto enum_names(LossNorm) {
  return std::to_array<EnumName<LossNorm>>(
      {{LossNorm::global_tokens, "global_tokens"}, {LossNorm::microbatch_mean, "microbatch_mean"}});
}
/// Tokens whose statistics the balancing loss takes: of a micro-batch, or of the global batch.
enum class BalancingScope { local, global };
constexpr auto enum_names(BalancingScope) {
  return std::to_array<EnumName<BalancingScope>>(
      {{BalancingScope::local, "local"}, {BalancingScope::global, "global"}});
}

/// --resume takes these words or a step directory: the newest step of the output directory, or a new run.
inline constexpr std::string_view resume_auto = "auto", resume_none = "none";

/// Batch sizes are in sequences, lengths in tokens, bucket sizes in bytes.
struct TrainConfig {
  int stage = 1;  ///< 1 new experts + routers; 2 routers only; `pretrain` trains everything and ignores it
  std::string init_from;  ///< checkpoint to start from (step directory or run directory); stage 2 needs one
  model::ExtendRouter extend_router = model::ExtendRouter::redraw;  ///< if stage 1 adds experts to it

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
  DType dtype = DType::float32;
  int expert_parallel_size = 1;
  std::int64_t bucket_bytes = 33554432;
  model::ExpertHome expert_placement = model::ExpertHome::automatic;
  PlacementTokens placement_tokens = PlacementTokens::expected;
  std::string placement_tokens_from;  ///< step or run directory
  bool overlap = true;
  bool zero = true;
  DType gradient_dtype = DType::float32;
  ReduceEvery reduce_every = ReduceEvery::micro_step;

  int top_k = 2;
  double router_aux_loss_coef = 0.01;
  double lpr_loss_coef = 0.1;
  LprLoss lpr_form = LprLoss::double_softmax;
  LayerMean lpr_layer_mean = LayerMean::by_expert_count;
  LossNorm loss_norm = LossNorm::global_tokens;
  bool eos_label = false;
  BalancingScope lbl_scope = BalancingScope::local;
  model::RouterCompat router_compat = model::RouterCompat::none;
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

/// Calls f(scale, kind of run that has the loss, its coefficient) for every auxiliary loss.
template <class F>
void for_each_coefficient(const TrainConfig& c, F&& f) {
  f(&model::LossScales::balancing, RunKind::stage1, c.router_aux_loss_coef);
  f(&model::LossScales::lpr, RunKind::stage2, c.lpr_form == LprLoss::off ? 0.0 : c.lpr_loss_coef);
}

/// Calls f("section.key", member, FieldInfo) for every field, in the order of --help.
template <class Config, class F>
requires std::same_as<std::remove_const_t<Config>, TrainConfig>
void for_each_field(Config& c, F&& f) {
  constexpr double many = 1e15;
  f("train.stage", c.stage,
    FieldInfo{.help = "what trains: 1 new experts and routers, 2 routers only", .min = 1, .max = 2});
  f("train.init_from", c.init_from,
    FieldInfo{.help = "checkpoint or run directory whose experts and "
                      "routers the run starts from; needed by stage 2. In stage 1, --experts may list more "
                      "experts than it has: those are added and the old ones stay frozen"});
  f("train.extend_router", c.extend_router,
    FieldInfo{.help = "stage 1 that adds experts to train.init_from: all routers are drawn anew, or the rows "
                      "of experts that exist are kept and those of new ones drawn"});
  f("train.seq_length", c.seq_length,
    FieldInfo{
        .help = "length of a packed sequence (stage 2: 512)", .unit = "tokens", .min = 2, .max = 1 << 20});
  f("train.micro_batch_size", c.micro_batch_size,
    FieldInfo{.help = "sequences of one forward on one rank; divides global_batch_size",
              .unit = "sequences",
              .min = 1,
              .max = 1 << 20});
  f("train.global_batch_size", c.global_batch_size,
    FieldInfo{.help = "sequences of one optimizer step over all ranks",
              .unit = "sequences",
              .min = 1,
              .max = 1 << 24});
  f("train.steps", c.steps, FieldInfo{.help = "optimizer steps", .unit = "steps", .min = 1, .max = many});
  f("train.epochs", c.epochs,
    FieldInfo{.help = "> 0: steps = ceil(epochs * whole steps in the data) instead of train.steps",
              .unit = "epochs",
              .min = 0,
              .max = 1e6});
  f("train.learning_rate", c.learning_rate,
    FieldInfo{.help = "peak learning rate (stage 2: 5e-5)", .min = 0, .max = 10});
  f("train.min_lr_ratio", c.min_lr_ratio,
    FieldInfo{.help = "final learning rate as a fraction of the peak", .min = 0, .max = 1});
  f("train.warmup_steps", c.warmup_steps,
    FieldInfo{.help = "linear warm-up", .unit = "steps", .min = 0, .max = many});
  f("train.beta1", c.beta1,
    FieldInfo{.help = "AdamW: decay of the mean gradient", .min = 0, .max = 0.9999999});
  f("train.beta2", c.beta2,
    FieldInfo{.help = "AdamW: decay of the mean squared gradient", .min = 0, .max = 0.9999999});
  f("train.eps", c.eps,
    FieldInfo{.help = "AdamW: added to the root of the second moment", .min = 1e-30, .max = 1});
  f("train.weight_decay", c.weight_decay, FieldInfo{.help = "AdamW: decoupled decay", .min = 0, .max = 10});
  f("train.max_grad_norm", c.max_grad_norm,
    FieldInfo{.help = "gradients are clipped to this global norm; 0 = not at all", .min = 0, .max = 1e30});
  f("train.seed", c.seed, FieldInfo{.help = "seed of initialization and data order"});
  f("train.dtype", c.dtype, FieldInfo{.help = "type of weights and activations", .choices = weight_dtypes});
  f("train.expert_parallel_size", c.expert_parallel_size,
    FieldInfo{.help = "ranks over which the experts of a layer are spread; divides the rank count",
              .unit = "ranks",
              .min = 1,
              .max = 1 << 20,
              .layout = true});
  f("train.bucket_bytes", c.bucket_bytes,
    FieldInfo{.help = "gradients are reduced in buckets of at most this size",
              .unit = "bytes",
              .min = 4096,
              .max = 67108864,
              .layout = true});
  f("train.expert_placement", c.expert_placement,
    FieldInfo{.help = "new experts: each on one rank of a group (owned), on every rank (replicated), or "
                      "replicated where top_k >= E (auto)",
              .layout = true});
  f("train.placement_tokens", c.placement_tokens,
    FieldInfo{.help = "balance owned experts by bytes and by expected tokens (top_k / E), or by the tokens "
                      "per expert counted in the checkpoint of train.placement_tokens_from, else the resumed "
                      "one, else train.init_from (same bits; expected where none has counts)",
              .layout = true});
  f("train.placement_tokens_from", c.placement_tokens_from,
    FieldInfo{.help = "checkpoint or run directory with the counts for train.placement_tokens = measured",
              .layout = true});
  f("train.overlap", c.overlap,
    FieldInfo{.help = "reduce gradients and gather weights while computing (the result has the same bits)",
              .layout = true});
  f("train.zero", c.zero,
    FieldInfo{.help = "shard the optimizer state (ZeRO-2); false: every rank keeps all of it (same bits)",
              .layout = true});
  f("train.gradient_dtype", c.gradient_dtype,
    FieldInfo{.help = "type in which gradients are sent; they are summed in float32",
              .choices = weight_dtypes});
  f("train.reduce_every", c.reduce_every,
    FieldInfo{
        .help =
            "send gradients to their owners after each micro_step, or once per step: fewer bytes, but every "
            "rank holds full gradient sums, and results depend on the number of ranks in the last bits"});
  f("train.top_k", c.top_k, FieldInfo{.help = "experts per token", .min = 1, .max = 1024});
  f("train.router_aux_loss_coef", c.router_aux_loss_coef,
    FieldInfo{.help = "weight of the balancing loss (stage 1)", .min = 0, .max = 1e6});
  f("train.lpr_loss_coef", c.lpr_loss_coef,
    FieldInfo{.help = "weight of the language-prior routing loss (stage 2)", .min = 0, .max = 1e6});
  f("train.lpr_form", c.lpr_form, FieldInfo{.help = "form of the language-prior routing loss"});
  f("train.lpr_layer_mean", c.lpr_layer_mean, FieldInfo{.help = "mean of that loss over layers"});
  f("train.loss_norm", c.loss_norm, FieldInfo{.help = "denominator of the language-model loss"});
  f("train.eos_label", c.eos_label, FieldInfo{.help = "train on end-of-text labels too"});
  f("train.save_every", c.save_every,
    FieldInfo{
        .help = "steps between checkpoints; 0 = only at the end", .unit = "steps", .min = 0, .max = many});
  f("train.keep_last", c.keep_last,
    FieldInfo{.help = "number of checkpoints to keep", .min = 1, .max = 1 << 20});
  f("train.log_every", c.log_every,
    FieldInfo{.help = "steps between progress lines", .unit = "steps", .min = 1, .max = many});
  f("train.max_nan_steps", c.max_nan_steps,
    FieldInfo{.help = "skipped steps in a row with a non-finite loss or gradient before the run ends with 87",
              .unit = "steps",
              .min = 1,
              .max = 1 << 20});
  f("lbl.scope", c.lbl_scope,
    FieldInfo{.help = "statistics of the balancing loss: of a micro-batch, or of the global batch (needs as "
                      "many ranks as micro-batches)"});
  f("router.compat", c.router_compat,
    FieldInfo{.help = "release: router logits, expert weights and combination in train.dtype as the released "
                      "code has them; none: in fp32"});
  f("pack.batch_docs", c.packing.batch_docs,
    FieldInfo{.help = "documents per packing batch, whose remainder is dropped (0: no batches, remainders "
                      "are carried over)",
              .unit = "documents",
              .min = 0,
              .max = many});
  f("pack.shards", c.packing.shards,
    FieldInfo{.help = "contiguous shards of a data set that are packed separately",
              .unit = "shards",
              .min = 1,
              .max = 1 << 20});
}

}  // namespace nmoe::train
