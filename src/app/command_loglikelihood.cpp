// neuronmoe loglikelihood: answers to requests in token ids, for the dense model or a checkpoint.
#include <cmath>
#include <filesystem>

#include "commands.hpp"
#include "model_setup.hpp"
#include "neuronmoe/base/sha256.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/evaluation/log_likelihood.hpp"
#include "neuronmoe/io/file_format.hpp"
#include "neuronmoe/io/file_hash.hpp"
#include "neuronmoe/io/same_file.hpp"
#include "output_origin.hpp"

namespace nmoe::app {
namespace {

constexpr io::FileFormat answers_format{"neuronmoe-loglikelihood", 1};

/// Writing the answers over their requests would leave neither. Collective.
void require_other_output(comm::ExecutionContext& context, const std::string& requests,
                          const std::string& output) {
  comm::agree(context.world, [&] {
    std::error_code missing;  // then it is another file, or the reader says why
    if (context.world.rank() != 0 || !std::filesystem::equivalent(requests, output, missing)) return;
    throw Error(ErrorCode::config, "--output " + output + " is the file of requests; name another");
  });
}

/// No comparison with NaN is true: a broken model would seem to answer.
void require_finite(std::span<const evaluation::LogLikelihood> answers,
                    std::span<const evaluation::Request> requests, const AppConfig& config,
                    const LoadedModel& loaded) {
  for (std::size_t r = 0; r < answers.size(); ++r)
    NMOE_CHECK(std::isfinite(answers[r].sum), bad_data,
               "{}{}{}: its log probabilities of {}:{} are not finite: a weight is NaN or infinite, or "
               "activations overflow in {}",
               config.run.model, loaded.checkpoint.empty() ? "" : " with the experts of ", loaded.checkpoint,
               config.loglikelihood.requests, requests[r].line, name_of(config.train.dtype));
}

}  // namespace

int run_loglikelihood(comm::ExecutionContext& context, const AppConfig& config) {
  const std::string& path = config.loglikelihood.requests;
  require_other_output(context, path, config.run.output);
  const LoadedModel loaded = load_model_or_checkpoint(context, config, config.train.dtype);
  const model::ModelConfig& architecture = loaded.decoder->config();
  const std::int64_t max_length =
      length_or_positions("loglikelihood.max_length", config.loglikelihood.max_length, architecture);
  io::require_same_file(context.world, path);
  std::vector<evaluation::Request> requests;
  context.log.set_task("reading requests");
  comm::agree(context.world, [&] {
    requests = evaluation::load_requests(path, {architecture.vocab_size, max_length}, context.heartbeat);
  });
  const std::string requests_hash = io::file_hash(context.world, path);
  context.log.info("{}: {} requests", path, requests.size());
  const auto answers = evaluation::measure_log_likelihoods(
      context, requests, max_length, [&](const model::Batch& batch, std::span<const model::LabelAt> labels) {
        return loaded.decoder->label_scores(batch, labels);
      });
  require_finite(answers, requests, config, loaded);
  comm::agree(context.world, [&] {
    if (context.world.rank() != 0) return;
    const std::string text = evaluation::answer_lines(answers);
    nlohmann::ordered_json origin = output_origin(answers_format, config, loaded, "loglikelihood");
    origin["max_length"] = max_length;
    origin["requests_hash"] = requests_hash;
    origin["answers_sha256"] = sha256_text(text);
    write_with_origin(config.run.output, text, origin);
  });
  context.log.info("{}: written", config.run.output);
  return 0;
}

}  // namespace nmoe::app
