#pragma once
// What `neuronmoe plan` prints and assumes beside training and machine: the [plan] section of a config.
#include <concepts>
#include <string>
#include <type_traits>

#include "neuronmoe/base/enum_names.hpp"
#include "neuronmoe/base/fields.hpp"

namespace nmoe::train {

enum class PlanFormat { table, csv, json };
constexpr auto enum_names(PlanFormat) {
  return std::to_array<EnumName<PlanFormat>>(
      {{PlanFormat::table, "table"}, {PlanFormat::csv, "csv"}, {PlanFormat::json, "json"}});
}

struct PlanConfig {
  bool explain = false;
  PlanFormat format = PlanFormat::table;
  std::string calibrate;  ///< metrics.jsonl or run directory; "": the share of machine.gemm_efficiency
  double job_hours = 24.0;
  double analysis_tokens = 225'000;       ///< 9 languages x 500 sentences x about 50
  double evaluation_tokens = 50'000'000;  ///< a few k-shot benchmarks in one language
};

template <class Config, class F>
requires std::same_as<std::remove_const_t<Config>, PlanConfig>
void for_each_field(Config& c, F&& f) {
  f("plan.explain", c.explain,
    FieldInfo{
        .help = "print what backward computes and what forward keeps, layer by layer (short: --explain)",
        .layout = true});
  f("plan.format", c.format,
    FieldInfo{.help = "table: Markdown, with what the numbers mean; csv, json: a row per number",
              .layout = true});
  f("plan.calibrate", c.calibrate,
    FieldInfo{.help =
                  "metrics.jsonl (or run directory) of a run on this machine: its measured rate takes the "
                  "place of machine.gemm_efficiency",
              .layout = true});
  f("plan.job_hours", c.job_hours,
    FieldInfo{.help = "time limit of a job", .unit = "h", .min = 0.01, .max = 1e5, .layout = true});
  f("plan.analysis_tokens", c.analysis_tokens,
    FieldInfo{.help = "tokens of the sentences that `analyze` reads",
              .unit = "tokens",
              .min = 0,
              .max = 1e15,
              .layout = true});
  f("plan.evaluation_tokens", c.evaluation_tokens,
    FieldInfo{.help = "tokens that `evaluate` and benchmarks read",
              .unit = "tokens",
              .min = 0,
              .max = 1e15,
              .layout = true});
}

}  // namespace nmoe::train
