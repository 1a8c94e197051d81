// metrics.jsonl: cut back at a resume, then one line a step.
#include "neuronmoe/train/metrics.hpp"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/regular_file.hpp"

namespace nmoe::train {

namespace {

/// JSON has no NaN: a non-finite number is written as null.
nlohmann::ordered_json number(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
}

}  // namespace

MetricsFile::MetricsFile(const std::string& path, std::int64_t resumed_step) : path_(path) {
  std::string kept;
  if (resumed_step > 0 && std::filesystem::exists(path)) {
    std::istringstream in(io::read_file(path));
    std::int64_t number = 0;
    for (std::string line; std::getline(in, line);) {
      const auto object = nlohmann::json::parse(line, nullptr, false);
      const bool good = object.is_object() && object.contains("step") && object["step"].is_number_integer();
      if (!good && in.peek() == std::istringstream::traits_type::eof()) break;  // torn: the run was killed
      NMOE_CHECK(
          good, bad_data,
          "{}:{}: not a line of metrics, an object with an integer \"step\"; remove the line, or move the "
          "file away to begin a new one",
          path, number + 1);
      ++number;
      if (object["step"].get<std::int64_t>() > resumed_step) break;
      kept += line + "\n";
    }
  }
  io::write_file_atomically(path, kept);
  out_.open(path, std::ios::app);
  NMOE_CHECK(out_.good(), io, "{}: cannot be opened for writing", path);
}

void MetricsFile::write(const StepMetrics& m) {
  nlohmann::ordered_json line = {{"step", m.step}, {"tokens", m.tokens}, {"loss_lm", number(m.loss_lm)}};
  for (std::size_t i = 0; i < m.auxiliary.size(); ++i)
    line["loss_" + std::string(model::auxiliary_losses[i].name)] = number(m.auxiliary[i]);
  line["grad_norm"] = number(m.grad_norm);
  line["lr"] = m.learning_rate;
  line["step_s"] = m.step_s;
  line["tokens_per_s"] = m.tokens_per_s;
  line["bytes"] = m.bytes;
  line["flops"] = m.flops;
  if (m.skipped) line["skipped"] = true;
  if (m.no_label) line["no_label"] = true;
  errno = 0;
  out_ << line.dump() << "\n" << std::flush;
  const int reason = errno;
  NMOE_CHECK(out_.good() || reason != ENOSPC, no_space, "{}: no space left on the device", path_);
  NMOE_CHECK(out_.good(), io, "{}: write failed ({})", path_, std::strerror(reason));
}

void MetricsFile::sync() {
  io::sync_path(path_);
}

}  // namespace nmoe::train
