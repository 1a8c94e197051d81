#include "neuronmoe/train/frozen_weights.hpp"

#include <cstddef>

#include "neuronmoe/base/sha256.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/manifest.hpp"

namespace nmoe::train {

FrozenWeights::FrozenWeights(comm::Communicator& world, const model::Decoder& decoder) : world_(world) {
  model::for_each_parameter(decoder, [&](const model::Parameter& p) {
    if (!p.trainable) parameters_.push_back(&p);
  });
  hashes_ = hash();
  if (parameters_.empty()) return;
  std::vector<std::int64_t> agreed = hashes_;  // each is held by some rank
  Stream stream;
  world
      .all_reduce({agreed.data(), DType::int64, {static_cast<std::int64_t>(agreed.size())}},
                  comm::ReduceOp::max, stream)
      .wait();
  std::string text;
  comm::agree(world, [&] {
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      NMOE_CHECK(hashes_[i] < 0 || hashes_[i] == agreed[i], internal,
                 "frozen tensor {} is not the same on every rank: {:015x} here, {:015x} elsewhere",
                 parameters_[i]->name, hashes_[i], agreed[i]);
      text += fmt::format("{} {:015x}\n", parameters_[i]->name, agreed[i]);
    }
  });
  digest_ = sha256_text(text);
}

std::vector<std::int64_t> FrozenWeights::hash() const {
  constexpr int base_sixteen = 16;
  constexpr std::size_t digits = 15;
  const auto count = static_cast<std::int64_t>(parameters_.size());
  std::vector<std::int64_t> hashes(parameters_.size(), -1);
#pragma omp parallel for schedule(dynamic)
  for (std::int64_t i = 0; i < count; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const model::Parameter& p = *parameters_[at];
    if (!p.held()) continue;
    Sha256 sha;
    sha.update(p.value.view().raw(), static_cast<std::size_t>(p.value.view().num_bytes()));
    hashes[at] = std::stoll(sha.hex().substr(0, digits), nullptr, base_sixteen);
  }
  return hashes;
}

void FrozenWeights::check() const {
  comm::agree(world_, [&] {
    const std::vector<std::int64_t> now = hash();
    for (std::size_t i = 0; i < parameters_.size(); ++i)
      NMOE_CHECK(now[i] == hashes_[i], internal,
                 "frozen tensor {} has changed since the run began ({:015x}, was {:015x}): no checkpoint is "
                 "written; "
                 "check the memory of this node and resume from the last one",
                 parameters_[i]->name, now[i], hashes_[i]);
  });
}

void FrozenWeights::require_same_as(const std::string& step_dir) const {
  comm::agree(world_, [&] {
    const std::string stored = io::read_manifest_facts(step_dir)["frozen_sha256"];
    NMOE_CHECK(
        stored.empty() || stored == digest_, bad_data,
        "{}: was trained over frozen weights with hash {}, this run has {}; pass the same model and dtype",
        step_dir, stored, digest_);
  });
}

}  // namespace nmoe::train
