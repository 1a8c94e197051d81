// Hashes of the weights that do not train, compared over ranks, steps and checkpoints.
#include "neuronmoe/train/frozen_weights.hpp"

#include <cstddef>

#include "neuronmoe/base/sha256.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/manifest.hpp"
#include "neuronmoe/tensor/device.hpp"

namespace nmoe::train {

FrozenWeights::FrozenWeights(comm::Communicator& world, const model::Decoder& decoder)
    : world_(world), stream_(decoder.stream()) {
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
  constexpr std::int64_t most_copied = std::int64_t{256} << 20;  // of weights on a GPU, or one tensor
  std::vector<std::int64_t> hashes(parameters_.size(), -1);
  for (std::size_t first = 0; first < parameters_.size();) {
    std::vector<Tensor> copies;
    std::vector<ConstTensorView> values;
    std::int64_t copied = 0;
    for (; first + values.size() < parameters_.size() && copied < most_copied;) {
      const ConstTensorView value = parameters_[first + values.size()]->value.view();
      const bool there = value && value.device() != Device::cpu;
      if (there) copied += value.num_bytes();
      values.push_back(there ? copies.emplace_back(copied_to(Device::cpu, value, stream_)).view() : value);
    }
    const auto count = static_cast<std::int64_t>(values.size());
#pragma omp parallel for schedule(dynamic)
    for (std::int64_t i = 0; i < count; ++i) {
      const ConstTensorView value = values[static_cast<std::size_t>(i)];
      if (!value) continue;
      Sha256 sha;
      sha.update(value.raw(), static_cast<std::size_t>(value.num_bytes()));
      hashes[first + static_cast<std::size_t>(i)] =
          std::stoll(sha.hex().substr(0, digits), nullptr, base_sixteen);
    }
    first += values.size();
  }
  return hashes;
}

void FrozenWeights::check() const {
  comm::agree(world_, [&] {
    const std::vector<std::int64_t> now = hash();
    for (std::size_t i = 0; i < parameters_.size(); ++i)
      NMOE_CHECK(now[i] == hashes_[i], internal,
                 "frozen tensor {} has changed since the run began ({:015x}, was {:015x}): no "
                 "checkpoint is written; check the memory of this node and resume from the last one",
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
