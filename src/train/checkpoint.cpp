// Checkpoints of a run: the sharded optimizer state and the progress, written and read on any layout.
#include "neuronmoe/train/checkpoint.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <map>

#include "neuronmoe/base/sha256.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/data/jsonl.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/hdf5_file.hpp"
#include "neuronmoe/io/manifest.hpp"
#include "neuronmoe/tensor/device.hpp"

namespace nmoe::train {

namespace {

constexpr io::FileFormat optim_format{"neuronmoe-optim", 1};
constexpr const char* origin_fact = "init_from";
constexpr const char* origin_hash_fact = "init_from_sha256";

/// One record of optim.h5 /index: where a parameter's state lies in the flat arrays.
struct IndexRecord {
  char name[128];
  std::uint64_t offset, size;
  std::uint8_t ndim, group;  // group: 0 replicated, 1 expert
  std::uint64_t shape[4];
};

std::vector<io::RecordColumn> index_columns() {
  return {{"name", offsetof(IndexRecord, name), io::ElementType::uint8, 1, 128},
          {"offset", offsetof(IndexRecord, offset), io::ElementType::uint64, 1, 0},
          {"size", offsetof(IndexRecord, size), io::ElementType::uint64, 1, 0},
          {"ndim", offsetof(IndexRecord, ndim), io::ElementType::uint8, 1, 0},
          {"shape", offsetof(IndexRecord, shape), io::ElementType::uint64, 4, 0},
          {"group", offsetof(IndexRecord, group), io::ElementType::uint8, 1, 0}};
}

/// Trainable parameters in name order with their place in the flat arrays; the same on every rank.
std::vector<IndexRecord> make_index(const model::Decoder& decoder, std::int64_t& total) {
  std::vector<IndexRecord> index;
  total = 0;
  model::for_each_parameter(decoder, [&](const model::Parameter& p) {
    if (!p.trainable) return;
    NMOE_CHECK(p.name.size() < sizeof(IndexRecord::name), internal,
               "parameter name {} is longer than 127 bytes", p.name);
    IndexRecord record{};
    std::memcpy(record.name, p.name.data(), p.name.size());
    record.offset = static_cast<std::uint64_t>(total);
    record.size = static_cast<std::uint64_t>(p.shape.num_elements());
    record.ndim = static_cast<std::uint8_t>(p.shape.rank());
    record.group = p.is_new_expert() ? 1 : 0;
    for (int axis = 0; axis < p.shape.rank(); ++axis)
      record.shape[axis] = static_cast<std::uint64_t>(p.shape[axis]);
    index.push_back(record);
    total += p.shape.num_elements();
  });
  return index;
}

/// One slice: where it is in the file's flat arrays and in its group's flat arrays.
struct StateSlice {
  std::int64_t file_begin;
  ShardGroup* group;
  std::int64_t group_begin, size;
};

/// What this rank writes (the owned slices: each element once over all ranks) or reads (all it keeps state
/// for), in the order of the file.
enum class Direction { write, read };
std::vector<StateSlice> state_slices(ShardedOptimizer& optimizer, const std::vector<IndexRecord>& index,
                                     Direction direction) {
  std::map<std::string, std::int64_t> offset_of;
  for (const IndexRecord& record : index) offset_of[record.name] = static_cast<std::int64_t>(record.offset);
  std::vector<StateSlice> slices;
  for (ShardGroup* group : optimizer.groups()) {
    for (const HeldSlice& slice : direction == Direction::write ? group->owned() : group->held())
      slices.push_back({offset_of.at(slice.parameter->name) + slice.begin, group, slice.offset, slice.size});
  }
  std::sort(slices.begin(), slices.end(),
            [](const auto& a, const auto& b) { return a.file_begin < b.file_begin; });
  return slices;
}

using StateMember = Tensor& (ShardGroup::*)();
struct StateArray {
  const char* name;
  StateMember member;
  float least;  // possible value
};
constexpr float no_bound = -std::numeric_limits<float>::max();
constexpr StateArray state_arrays[] = {{"/flat/master", &ShardGroup::master, no_bound},
                                       {"/flat/exp_avg", &ShardGroup::exp_avg, no_bound},
                                       {"/flat/exp_avg_sq", &ShardGroup::exp_avg_sq, 0.0F}};

/// Calls f(part of the flat array in memory, where it begins in the piece) for elements [first, first +
/// count) of the slices one after another.
template <typename F>
void for_each_part(const std::vector<StateSlice>& slices, const StateArray& array, std::int64_t first,
                   std::int64_t count, F&& f) {
  std::int64_t at = 0;
  for (const StateSlice& slice : slices) {
    const std::int64_t from = std::max(first, at), to = std::min(first + count, at + slice.size);
    if (from < to) {
      const TensorView values = (slice.group->*array.member)().view();
      f(values.rows(slice.group_begin + (from - at), to - from), from - first);
    }
    at += slice.size;
  }
}

std::vector<io::FileRange> ranges_of(const std::vector<StateSlice>& slices) {
  std::vector<io::FileRange> ranges;
  for (const StateSlice& slice : slices) ranges.push_back({slice.file_begin, slice.size});
  return ranges;
}

void write_optimizer(comm::Communicator& world, const std::string& path, ShardedOptimizer& optimizer) {
  std::int64_t total = 0;
  const std::vector<IndexRecord> index = make_index(optimizer.decoder(), total);
  const std::vector<StateSlice> slices = state_slices(optimizer, index, Direction::write);
  const std::vector<io::FileRange> ranges = ranges_of(slices);
  io::H5File file = io::H5File::create(path, world);
  file.write_format(optim_format);
  file.write_records("/index", index_columns(), sizeof(IndexRecord), index.data(),
                     static_cast<std::int64_t>(index.size()));
  Stream& stream = optimizer.decoder().stream();
  for (const StateArray& array : state_arrays) {
    const std::int64_t shape[] = {total};
    const auto fill = [&](std::int64_t first, std::span<char> bytes) {
      const auto count = static_cast<std::int64_t>(bytes.size() / sizeof(float));
      const TensorView piece(bytes.data(), DType::float32, {count});
      for_each_part(slices, array, first, count, [&](TensorView values, std::int64_t at) {
        copy(piece.rows(at, values.num_elements()), values, stream);
      });
    };
    file.write_ranges(array.name, io::ElementType::float32, shape, ranges, fill);
  }
  file.finish();
}

/// A manifest says that a file is what its writer wrote, not that the writer was sound.
/// @throws Error(bad_data) for a value that no training leaves behind
void require_possible(const std::string& path, const StateArray& array, std::span<const float> values) {
  const auto bad = std::find_if(values.begin(), values.end(), [&](float value) {
    return !(value >= array.least && value <= std::numeric_limits<float>::max());
  });
  NMOE_CHECK(bad == values.end(), bad_data,
             "{}:{} holds {}; wanted finite numbers{}; take another checkpoint", path, array.name, *bad,
             array.least == 0.0F ? " >= 0" : "");
}

/// @throws Error(bad_data) naming the counter
void require_possible(const std::string& path, const TrainProgress& progress) {
  struct Counter {
    const char* name;
    std::int64_t value, most;
  };
  constexpr std::int64_t most_steps = 9'999'999'999;  // ten digits in step_NNNNNNNNNN
  constexpr std::int64_t most_tokens = std::int64_t{1} << 60;
  const Counter counters[] = {{"step", progress.step, most_steps},
                              {"tokens_seen", progress.tokens_seen, most_tokens},
                              {"samples_seen", progress.samples_seen, most_tokens},
                              {"skipped_steps", progress.skipped_steps, progress.step},
                              {"optimizer_steps", progress.optimizer_steps, progress.step},
                              {"nan_steps_in_a_row", progress.nan_steps_in_a_row, progress.step}};
  for (const Counter& counter : counters)
    NMOE_CHECK(counter.value >= 0 && counter.value <= counter.most, bad_data,
               "{}: {} is {}, wanted 0 to {}; take another checkpoint", path, counter.name, counter.value,
               counter.most);
  NMOE_CHECK(std::isfinite(progress.learning_rate) && progress.learning_rate >= 0.0, bad_data,
             "{}: lr is {}, wanted a finite number >= 0; take another checkpoint", path,
             progress.learning_rate);
}

void read_optimizer(comm::Communicator& world, const std::string& path, ShardedOptimizer& optimizer) {
  std::int64_t total = 0;
  const std::vector<IndexRecord> index = make_index(optimizer.decoder(), total);
  io::H5File file = io::H5File::open(path, world, optim_format);
  const std::int64_t stored = file.count_records("/index", index_columns());
  NMOE_CHECK(
      stored == static_cast<std::int64_t>(index.size()), bad_data,
      "{}: {} trainable tensors stored, this run trains {}; resume with the same model, experts and stage",
      path, stored, index.size());
  std::vector<IndexRecord> found(index.size());
  file.read_records("/index", index_columns(), sizeof(IndexRecord), found.data(), stored);
  for (std::size_t i = 0; i < index.size(); ++i) {
    NMOE_CHECK(std::strncmp(found[i].name, index[i].name, sizeof(index[i].name)) == 0 &&
                   found[i].size == index[i].size && found[i].offset == index[i].offset,
               bad_data, "{}: entry {} is {} with {} elements, expected {} with {}", path, i,
               std::string(found[i].name, strnlen(found[i].name, sizeof(found[i].name))), found[i].size,
               index[i].name, index[i].size);
  }
  const std::vector<StateSlice> slices = state_slices(optimizer, index, Direction::read);
  const std::vector<io::FileRange> ranges = ranges_of(slices);
  Stream& stream = optimizer.decoder().stream();
  for (const StateArray& array : state_arrays) {
    const std::int64_t shape[] = {total};
    const auto take = [&](std::int64_t first, std::span<const char> bytes) {
      const auto count = static_cast<std::int64_t>(bytes.size() / sizeof(float));
      const ConstTensorView piece(bytes.data(), DType::float32, {count});
      require_possible(path, array,
                       {reinterpret_cast<const float*>(bytes.data()), static_cast<std::size_t>(count)});
      for_each_part(slices, array, first, count, [&](TensorView values, std::int64_t at) {
        copy(values, piece.rows(at, values.num_elements()), stream);
      });
    };
    file.read_ranges(array.name, io::ElementType::float32, shape, ranges, take);
  }
  file.close();
}

void write_state(comm::Communicator& world, const std::string& path, const TrainProgress& progress,
                 const RunIdentity& identity) {
  io::H5File file = io::H5File::create(path, world);
  file.write_format(state_format);
  file.make_group("/progress");
  file.write_attribute("/progress", "step", progress.step);
  file.write_attribute("/progress", "tokens_seen", progress.tokens_seen);
  file.write_attribute("/progress", "samples_seen", progress.samples_seen);
  file.write_attribute("/progress", "skipped_steps", progress.skipped_steps);
  file.write_attribute("/progress", "optimizer_steps", progress.optimizer_steps);
  file.write_attribute("/progress", "nan_steps_in_a_row", progress.nan_steps_in_a_row);
  file.write_attribute("/progress", "lr", progress.learning_rate);
  // Random numbers are counters keyed by the seed and global positions: the seed is their whole state.
  file.make_group("/rng");
  file.write_attribute("/rng", "seed", static_cast<std::int64_t>(progress.seed));
  file.write("/data/cursor", progress.cursors);
  write_expert_tokens(file, progress.expert_tokens);
  file.write_strings("/config", {identity.resolved_config});
  file.finish();
}

}  // namespace

std::int64_t checkpoint_bytes(const model::Parameter& parameter, DType dtype) {
  const std::int64_t n = parameter.shape.num_elements();
  return (model::is_stored(parameter) ? n * size_of(dtype) : 0) +
         (parameter.trainable ? n * 3 * static_cast<std::int64_t>(sizeof(float)) : 0);
}

std::int64_t checkpoint_bytes(const model::Decoder& decoder) {
  std::int64_t bytes = 1 << 20;
  model::for_each_parameter(
      decoder, [&](const model::Parameter& p) { bytes += checkpoint_bytes(p, decoder.dtype()); });
  return bytes;
}

std::string save_checkpoint(const comm::ExecutionContext& context, const std::string& run_dir,
                            ShardedOptimizer& optimizer, const TrainProgress& progress,
                            const RunIdentity& identity) {
  comm::Communicator& world = context.world;
  comm::agree(world, [&] {
    if (world.rank() == 0) {
      io::make_directories(run_dir);
      io::require_free_space(run_dir, checkpoint_bytes(optimizer.decoder()));
    }
  });
  const std::string directory = io::begin_step(world, run_dir, progress.step);
  model::write_model_file(world, directory + "/model.h5", optimizer.decoder(), optimizer.owned_pieces());
  context.heartbeat.beat();  // each file of a large model may take minutes
  write_optimizer(world, directory + "/optim.h5", optimizer);
  context.heartbeat.beat();
  write_state(world, directory + "/state.h5", progress, identity);
  comm::agree(world, [&] {
    if (world.rank() == 0)
      io::write_file_atomically(directory + "/provenance.json", identity.provenance_json);
  });
  io::ManifestFacts facts = {{"step", std::to_string(progress.step)},
                             {"version", identity.version},
                             {"config_sha256", sha256_text(identity.resolved_config)},
                             {"base_model", identity.base_model},
                             {"base_model_sha256", identity.base_model_hash},
                             {"base_model_files", identity.base_model_files},
                             {"tokens_sha256", identity.tokens_hash},
                             {"frozen_sha256", identity.frozen_hash}};
  if (!identity.origin.checkpoint.empty()) {
    facts[origin_fact] = identity.origin.checkpoint;
    facts[origin_hash_fact] = identity.origin.hash;
  }
  const model::ModelConfig& model = optimizer.decoder().config();
  if (!model.num_old_experts.empty())
    facts["num_old_experts"] = fmt::format("{}", fmt::join(model.num_old_experts, ","));
  return io::commit_step(world, run_dir, progress.step, facts);
}

TrainProgress load_checkpoint(const comm::ExecutionContext& context, const std::string& step_dir,
                              model::Decoder& decoder, ShardedOptimizer& optimizer) {
  TrainProgress progress;
  comm::agree(context.world, [&] {
    model::load_checkpoint_weights(decoder, step_dir);
    io::H5File file = io::H5File::open(step_dir + "/state.h5", state_format);
    progress.step = file.read_int_attribute("/progress", "step");
    progress.tokens_seen = file.read_int_attribute("/progress", "tokens_seen");
    progress.samples_seen = file.read_int_attribute("/progress", "samples_seen");
    progress.skipped_steps = file.read_int_attribute("/progress", "skipped_steps");
    progress.optimizer_steps = file.read_int_attribute("/progress", "optimizer_steps");
    const std::int64_t nan_steps = file.read_int_attribute("/progress", "nan_steps_in_a_row");
    progress.nan_steps_in_a_row = std::in_range<int>(nan_steps) ? static_cast<int>(nan_steps) : -1;
    progress.learning_rate = file.read_double_attribute("/progress", "lr");
    progress.seed = static_cast<std::uint64_t>(file.read_int_attribute("/rng", "seed"));
    progress.cursors = file.read<std::uint64_t>("/data/cursor");
    progress.expert_tokens = read_expert_tokens(file, decoder.config());
    file.close();
    require_possible(step_dir + "/state.h5", progress);
  });
  read_optimizer(context.world, step_dir + "/optim.h5", optimizer);
  return progress;
}

Origin stored_origin(const std::string& step_dir) {
  io::ManifestFacts facts = io::read_manifest_facts(step_dir);
  return {facts[origin_fact], facts[origin_hash_fact]};
}

Origin origin_of(const std::string& step_dir) {
  return {step_dir, sha256_file(step_dir + "/manifest.json")};
}

std::string stored_config(const std::string& step_dir) {
  io::H5File file = io::H5File::open(step_dir + "/state.h5", state_format);
  const std::vector<std::string> text = file.read_strings("/config");
  file.close();
  NMOE_CHECK(text.size() == 1, bad_data, "{}/state.h5: /config holds {} texts, expected 1", step_dir,
             text.size());
  NMOE_CHECK(data::is_valid_utf8(text.front()), bad_data, "{}/state.h5: /config is not UTF-8", step_dir);
  return text.front();
}

}  // namespace nmoe::train
