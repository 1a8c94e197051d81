// What a proposal asks of `plan`: hours, jobs, checkpoints and their interval against arithmetic by hand, the
// choice of micro-batches on more nodes, a measured rate in the place of the goal, and the three formats.
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/train/plan_cost.hpp"
#include "neuronmoe/train/plan_report.hpp"
#include "neuronmoe/train/run_accounts.hpp"
#include "support/temp_dir.hpp"

using namespace nmoe;

namespace {

/// Stage 1 of Llama-3.2-3B with 49 experts: 17.5778 GFLOP a token, 1,585,539,072 parameters that train.
train::PlanInput llama_greek() {
  const char* root = std::getenv("NMOE_TEST_SOURCE_DIR");
  BOOST_REQUIRE(root != nullptr);
  const std::string configs = std::string(root) + "/configs/";
  train::PlanInput input;
  input.model = model::load_model_config(configs + "models/llama3.2-3b.json");
  input.model.num_experts = model::load_expert_counts(configs + "experts/llama3.2-3b-el.cfg", 28);
  input.config.dtype = DType::bfloat16;
  input.num_ranks = 4;
  return input;
}

train::MachineConfig gh200() {
  return {"gh200", 1, 4, 790, 0.6, 96, 350, 22.5, 5, 500};
}

void check_close(double found, double expected, double percent = 0.5) {
  BOOST_CHECK_CLOSE(found, expected, percent);
}

/// metrics.jsonl of steps with these seconds and 1e12 FLOP each.
std::string metrics_of(const test::TempDir& dir, const std::vector<double>& seconds,
                       const std::string& end = "") {
  std::ofstream out(dir.path() + "/metrics.jsonl");
  for (const double s : seconds) out << "{\"step\":1,\"step_s\":" << s << ",\"flops\":1000000000000}\n";
  out << end;
  return dir.path() + "/metrics.jsonl";
}

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

BOOST_AUTO_TEST_CASE(hours_of_one_node_by_hand) {
  const train::PlanInput input = llama_greek();
  const train::PlanConfig plan;
  const train::RunCost cost = train::run_cost(input, gh200(), train::compute_rate(gh200(), plan), plan);
  // 32 x 1024 tokens x 17.5778 GF / (790 TF/s x 60 %, 75 %, 40 %), and the wire: 1.5855 G x 4 B x 3/4 / 350
  // GB/s of gradients and half of it of weights, which only the high estimate sees in full.
  check_close(cost.time.compute_s, 32768 * 17.5778e9 / (790e12 * 0.6));
  check_close(cost.step_s.low, 32768 * 17.5778e9 / (790e12 * 0.75), 0.6);  // and 5 ms of the tail
  check_close(cost.step_s.high, 32768 * 17.5778e9 / (790e12 * 0.4) + 1.5855e9 * 6 * 0.75 / 350e9);
  BOOST_TEST(cost.step_s.low < cost.step_s.value);
  BOOST_TEST(cost.step_s.value < cost.step_s.high);
  check_close(cost.tokens_per_s.value, 131072 / cost.step_s.value, 1e-9);
  check_close(cost.tokens_per_s.low, 131072 / cost.step_s.high, 1e-9);
  // Experts and routers in bfloat16, masters and two moments in float32: 14 bytes each, on 4 ranks of 0.167
  // GB/s.
  BOOST_TEST(cost.checkpoint_bytes == 14 * std::int64_t{1'585'539'072});
  check_close(cost.save_s.value, 22.1975 / (4 * 0.167));
  check_close(cost.save_s.high, 4 * cost.save_s.low, 1e-9);
  BOOST_TEST(cost.num_saves == 153);  // 15,259 steps, every 100, and the last one
  check_close(cost.run_s.value, 15259 * cost.step_s.value + 153 * cost.save_s.value, 1e-9);
  // 50,000 GPU-hours between failures of 4 GPUs; Young and Daly.
  check_close(cost.mtbf_s, 12500 * 3600.0, 1e-9);
  check_close(cost.save_interval_s.value, std::sqrt(2 * 33.23 * 12500 * 3600), 0.1);
  BOOST_TEST(cost.jobs(24).value == 1);
  BOOST_TEST(cost.jobs(1).value == std::ceil(cost.run_s.value / 3600));
  // 5.637 GF per token of the dense layers (A6), here of sequences of 1024: 5.99; 7.960 with experts and
  // head.
  check_close(cost.analysis_s.value, 225e3 * (7.9604e9 - 0.788e9 - 9 * 2 * 75.497e6) / (4 * 790e12 * 0.6), 1);
  check_close(cost.evaluation_s.value, 50e6 * 7.9604e9 / (4 * 790e12 * 0.6));
}

BOOST_AUTO_TEST_CASE(a_file_system_bounds_the_saves_of_many_ranks) {
  train::PlanInput input = llama_greek();
  input.num_ranks = 64;
  input.config.micro_batch_size = 2;
  train::MachineConfig machine = gh200();
  machine.nodes = 16;
  const auto save_s = [&] {
    return train::run_cost(input, machine, train::compute_rate(machine, {}), {}).save_s.value;
  };
  check_close(save_s(), 22.1975 / (64 * 0.167));
  machine.storage_gbs = 2;
  check_close(save_s(), 22.1975 / 2);
}

BOOST_AUTO_TEST_CASE(nodes_take_the_micro_batch_that_feeds_and_fits) {
  const train::PlanInput input = llama_greek();
  const train::ComputeRate rate = train::compute_rate(gh200(), {});
  const auto strong = train::plan_nodes(input, gh200(), rate, {}, train::Scaling::strong);
  BOOST_TEST(strong.size() == 7U);
  const std::int64_t micro[] = {16, 16, 8, 4, 2, 1, 1};  // 32 does not fit with NCCL and context beside it
  for (std::size_t i = 0; i < strong.size(); ++i) {
    BOOST_TEST(strong[i].input.config.micro_batch_size == micro[i]);
    BOOST_TEST(strong[i].input.config.global_batch_size == 128);
    BOOST_TEST(strong[i].layout.fits);
    BOOST_TEST(train::rank_use(strong[i].input.config, strong[i].input.num_ranks).idle == (i < 6 ? 0 : 128));
  }
  const auto weak = train::plan_nodes(input, gh200(), rate, {}, train::Scaling::weak);
  BOOST_TEST(weak.back().input.config.global_batch_size == 8192);
  BOOST_TEST(weak.back().input.config.steps == 239);  // 15,259 x 128 sequences / 8192
  train::MachineConfig alone = gh200();
  alone.network_gbs = 0;
  BOOST_TEST(train::plan_nodes(input, alone, rate, {}, train::Scaling::strong).size() == 1U);
}

BOOST_AUTO_TEST_CASE(a_measured_rate_takes_the_place_of_the_goal) {
  const test::TempDir dir;
  train::PlanConfig plan;
  // The first three steps are left out, a torn last line too: 2, 4, 4, 5, 8 TFLOP/s.
  plan.calibrate = metrics_of(dir, {9, 9, 9, 0.5, 0.25, 0.25, 0.2, 0.125}, "{\"step\":9,\"st");
  train::MachineConfig machine = gh200();
  machine.gemm_tflops = 10;
  const train::ComputeRate rate = train::compute_rate(machine, plan);
  check_close(rate.value, 0.4, 1e-9);
  check_close(rate.slow, 0.24, 1e-9);  // 2 + 0.2 x (4 - 2)
  check_close(rate.fast, 0.74, 1e-9);  // 5 + 0.8 x (8 - 5)
  const train::PlanInput input = llama_greek();
  const train::RunCost cost = train::run_cost(input, machine, rate, plan);
  check_close(cost.time.compute_s, 32768 * 17.5778e9 / 4e12);
  const std::string text = train::plan_report(input, machine, plan);
  BOOST_TEST(text.find("the rate of 5 steps of " + plan.calibrate) != std::string::npos);
  BOOST_TEST(text.find("is a goal") == std::string::npos);
  plan.calibrate = dir.path();  // the run's directory will do
  check_close(train::compute_rate(machine, plan).value, 0.4, 1e-9);
}

BOOST_AUTO_TEST_CASE(what_is_no_measured_rate_is_named) {
  const test::TempDir dir;
  train::PlanConfig plan;
  const auto message = [&](const std::string& path) {
    plan.calibrate = path;
    return message_of([&] { train::compute_rate(gh200(), plan); });
  };
  BOOST_TEST(message(metrics_of(dir, {1, 1, 1, 1})).find("has 4 steps") != std::string::npos);
  BOOST_TEST(message(metrics_of(dir, {1, 0, 1, 1, 1})).find("metrics.jsonl:2: ") != std::string::npos);
  BOOST_TEST(message(metrics_of(dir, {1}, "[1]\n{}\n")).find("metrics.jsonl:2: ") != std::string::npos);
  BOOST_TEST(message(metrics_of(dir, {}, "no json")).find("metrics.jsonl:1: ") != std::string::npos);
  BOOST_TEST(message(dir.path() + "/none") != "");
  train::MachineConfig machine = gh200();
  machine.gemm_efficiency_low = 0.7;
  BOOST_TEST(
      message_of([&] {
        train::compute_rate(machine, {});
      }).find("machine.gemm_efficiency = 0.6 does not lie between machine.gemm_efficiency_low = 0.7") !=
      std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_run_says_what_its_saves_cost_and_how_often_to_save) {
  train::RunAccounts accounts;
  BOOST_TEST(accounts.saves_text().empty());
  accounts.step_s = {2.0, 2.0, 2.0, 2.0};
  accounts.save_s = {0.5, 1.5};
  accounts.saved_bytes = 50'000'000;
  accounts.wall_s = 16;
  accounts.num_ranks = 4;
  accounts.machine.mtbf_gpu_hours = 800;
  // sqrt(2 x 1 s x 200 h) = 1200 s, 600 steps
  BOOST_TEST(
      accounts.saves_text() ==
      "saves: 2 in 2 s (median 1 s, 50.0 MB, 50 MB/s), 12.5 % of 16 s; effective training time 50.0 %; "
      "with a failure every 800 GPU-hours the best interval is 1200 s, --train.save_every 600\n");
}

BOOST_AUTO_TEST_CASE(every_format_has_the_same_numbers_and_says_what_they_are) {
  const train::PlanInput input = llama_greek();
  train::PlanConfig plan;
  const std::string table = train::plan_report(input, gh200(), plan);
  BOOST_TEST(table.find("60 % of GEMM is a goal, never measured on this machine") != std::string::npos);
  plan.format = train::PlanFormat::json;
  const auto json = nlohmann::json::parse(train::plan_report(input, gh200(), plan));
  BOOST_TEST(json["times"].get<std::string>().find("a goal, never measured") != std::string::npos);
  plan.format = train::PlanFormat::csv;
  std::istringstream csv(train::plan_report(input, gh200(), plan));
  std::string line;
  std::getline(csv, line);
  BOOST_TEST(line == "table,nodes,section,quantity,value,low,high,unit,basis,note");
  std::size_t lines = 0;
  for (; std::getline(csv, line); ++lines) {
    const auto& q = json["quantities"][lines];
    const std::string basis = q["basis"];
    BOOST_TEST(line.find("," + basis + ",") != std::string::npos);
    BOOST_TEST(line.starts_with(q["table"].get<std::string>() + ","));
    BOOST_TEST((basis == "exact" || basis == "modeled" || basis == "goal" || basis == "given"));
    const std::string name = q["quantity"];
    if (name == "jobs" || q["table"] != "run") continue;
    BOOST_TEST(table.find("| " + name + " ") != std::string::npos);
  }
  BOOST_TEST(lines == json["quantities"].size());
  const auto find = [&](const std::string& name) {
    for (const auto& q : json["quantities"])
      if (q["table"] == "run" && q["quantity"] == name) return q["value"].get<double>();
    return -1.0;
  };
  check_close(find("parameters that train"), 1'585'539'072, 1e-12);
  check_close(find("one checkpoint"), 22.197547, 1e-4);
  // Context, cuBLAS and NCCL are in what is needed, which is more than there is.
  check_close(
      find("needed"),
      find("taken at the start") + find("CUDA context") + find("NCCL") + find("workspace of matrix products"),
      1e-9);
  BOOST_TEST(table.find("DOES NOT FIT; lower train.micro_batch_size") != std::string::npos);
}
