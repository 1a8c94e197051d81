#include "neuronmoe/train/shard_group.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>

#include "neuronmoe/ops/transformer.hpp"

namespace nmoe::train {

namespace {

/// Buckets on their way at once: one travels while the next is packed.
constexpr std::size_t max_in_flight = 2;

std::vector<std::int64_t> sizes_of(const std::vector<model::Parameter*>& parameters) {
  std::vector<std::int64_t> sizes;
  for (const model::Parameter* p : parameters) sizes.push_back(p->shape.num_elements());
  return sizes;
}
std::vector<int> stages_of(const std::vector<model::Parameter*>& parameters) {
  std::vector<int> stages;
  for (const model::Parameter* p : parameters) stages.push_back(p->last_writer);
  return stages;
}

TensorView view_of(std::vector<float>& values, std::int64_t count) {
  return {values.data(), DType::float32, {count}};
}

/// Elements [begin, begin + count) of a parameter's flat value.
TensorView flat(model::Parameter& p, std::int64_t begin, std::int64_t count) {
  return p.value.view().reshape({p.shape.num_elements()}).rows(begin, count);
}

void grow(std::vector<char>& buffer, std::int64_t bytes) {
  buffer.resize(static_cast<std::size_t>(std::max<std::int64_t>(1, bytes)));
}

}  // namespace

std::vector<ShardUnit> make_shard_units(std::span<const int> stages, std::span<const std::int64_t> sizes,
                                        int group_size) {
  std::map<int, std::vector<std::int64_t>> tensors;
  for (std::size_t i = 0; i < stages.size(); ++i) tensors[stages[i]].push_back(static_cast<std::int64_t>(i));
  std::vector<ShardUnit> units;
  for (auto& [stage, list] : tensors) {
    std::vector<std::int64_t> of_unit;
    for (const std::int64_t t : list) of_unit.push_back(sizes[static_cast<std::size_t>(t)]);
    units.push_back({stage, std::move(list), comm::ShardMap(of_unit, group_size)});
  }
  return units;
}

std::int64_t bucket_elements(const ReduceOptions& options, int group_size, int leaves) {
  return std::max<std::int64_t>(1,
                                options.bucket_bytes / (size_of(options.wire_dtype) * group_size * leaves));
}

bool sends_sum_of_leaves(const ReduceOptions& options, int count, int leaves) {
  return options.wire_dtype == DType::float32 && count == leaves && leaves > 1 &&
         std::has_single_bit(static_cast<unsigned>(leaves));
}

ShardGroup::ShardGroup(std::vector<model::Parameter*> parameters, comm::Communicator& comm, int leaves,
                       const ReduceOptions& options)
    : parameters_(std::move(parameters)),
      comm_(comm),
      leaves_(leaves),
      options_(options),
      bucket_elements_(bucket_elements(options, comm.size(), leaves)),
      units_(make_shard_units(stages_of(parameters_), sizes_of(parameters_), comm.size())) {
  std::int64_t offset = 0;
  for (const ShardUnit& unit : units_) {
    UnitState& state = states_.emplace_back();
    std::int64_t most = 0;
    for (int r = 0; r < comm.size(); ++r) {
      most = std::max(most, unit.map.num_owned(r));
      const bool mine = r == comm.rank(), held = mine || !options.zero;
      state.first.push_back(held ? offset : -1);
      if (!held) continue;
      for (const comm::Slice& slice : unit.map.slices(r)) {
        const auto tensor = static_cast<std::size_t>(unit.tensors[static_cast<std::size_t>(slice.tensor)]);
        held_.push_back({parameters_[tensor], slice.begin, slice.size(), offset});
        if (mine) owned_.push_back(held_.back());
        offset += slice.size();
      }
    }
    state.num_buckets = (most + bucket_elements_ - 1) / bucket_elements_;
    state.sums.resize(static_cast<std::size_t>(state.num_buckets));
  }
  for (Tensor* t : {&gradient_, &master_, &exp_avg_, &exp_avg_sq_}) *t = Tensor({offset}, DType::float32);
}

std::int64_t ShardGroup::num_owned() const {
  std::int64_t n = 0;
  for (const HeldSlice& slice : owned_) n += slice.size;
  return n;
}

std::int64_t ShardGroup::state_bytes() const {
  return 4 * (master_.num_elements() + exp_avg_.num_elements() + exp_avg_sq_.num_elements());
}

std::int64_t ShardGroup::buffer_bytes() const {
  std::size_t bytes = 0;
  const auto add = [&](const auto& flights) {
    for (const Flight& f : flights) bytes += f.send.capacity() + f.receive.capacity();
  };
  add(reductions_);
  add(gathers_);
  add(landed_);
  for (const std::vector<float>& buffer : pool_) bytes += 4 * buffer.capacity();
  return static_cast<std::int64_t>(bytes);
}

/// Calls f(parameter, element in parameter, count) for the pieces of [begin, end) of what `rank` owns of a
/// unit.
template <typename F>
void ShardGroup::for_each_piece(const ShardUnit& unit, int rank, std::int64_t begin, std::int64_t end,
                                F&& f) const {
  std::int64_t first = 0;  // position of the slice within what the rank owns of the unit
  for (const comm::Slice& slice : unit.map.slices(rank)) {
    const std::int64_t from = std::max(begin, first), to = std::min(end, first + slice.size());
    if (from < to) {
      const std::int64_t tensor = unit.tensors[static_cast<std::size_t>(slice.tensor)];
      f(*parameters_[static_cast<std::size_t>(tensor)], slice.begin + (from - first), to - from);
    }
    first += slice.size();
  }
}

std::int64_t ShardGroup::bucket_part(std::size_t unit, int rank, std::int64_t bucket) const {
  return std::clamp<std::int64_t>(units_[unit].map.num_owned(rank) - bucket * bucket_elements_, 0,
                                  bucket_elements_);
}

std::vector<float> ShardGroup::take_buffer(std::int64_t size) {
  std::vector<float> buffer;
  if (!pool_.empty()) {
    buffer = std::move(pool_.back());
    pool_.pop_back();
  }
  buffer.resize(static_cast<std::size_t>(size));
  return buffer;
}

ShardGroup::Flight ShardGroup::take_flight(std::size_t unit, std::int64_t bucket) {
  Flight flight;
  if (!landed_.empty()) {
    flight = std::move(landed_.back());
    landed_.pop_back();
  }
  flight.unit = unit;
  flight.bucket = bucket;
  flight.send_counts.assign(static_cast<std::size_t>(comm_.size()), 0);
  flight.recv_counts.assign(static_cast<std::size_t>(comm_.size()), 0);
  return flight;
}

void ShardGroup::pack_leaf(std::size_t unit, int rank, std::int64_t bucket, int leaf, float* out) const {
  const std::int64_t begin = bucket * bucket_elements_;
  for_each_piece(units_[unit], rank, begin, begin + bucket_part(unit, rank, bucket),
                 [&](model::Parameter& p, std::int64_t at, std::int64_t count) {
                   const float* grad = p.grad.data<float>() + leaf * p.shape.num_elements() + at;
                   out = std::copy_n(grad, count, out);
                 });
}

void ShardGroup::pack(Flight& flight) {
  const std::int64_t width = size_of(options_.wire_dtype);
  const int my_count = flight.leaf_counts[static_cast<std::size_t>(comm_.rank())];
  std::int64_t num_send = 0, num_recv = 0;
  for (int r = 0; r < comm_.size(); ++r) {
    const auto at = static_cast<std::size_t>(r);
    num_send += flight.send_counts[at] = bucket_part(flight.unit, r, flight.bucket) * nodes_of(my_count);
    num_recv += flight.recv_counts[at] =
        bucket_part(flight.unit, comm_.rank(), flight.bucket) * nodes_of(flight.leaf_counts[at]);
  }
  grow(flight.send, num_send * width);
  grow(flight.receive, num_recv * width);
  char* out = flight.send.data();
  const auto add = [&](std::vector<float>& a, std::vector<float>& b) {
    ops::add_inplace(view_of(a, static_cast<std::int64_t>(a.size())),
                     ConstTensorView(view_of(b, static_cast<std::int64_t>(b.size()))), stream_);
    pool_.push_back(std::move(b));
  };
  for (int r = 0; r < comm_.size(); ++r) {
    const std::int64_t part = bucket_part(flight.unit, r, flight.bucket);
    comm::BinaryCounterSum<std::vector<float>> node;
    for (int leaf = 0; leaf < my_count; ++leaf) {
      std::vector<float> values = take_buffer(part);
      pack_leaf(flight.unit, r, flight.bucket, leaf, values.data());
      if (nodes_of(my_count) == 1 && my_count > 1) {
        node.push(std::move(values), add);
        if (leaf + 1 < my_count) continue;
        values = node.finish(add);
      }
      ops::cast({out, options_.wire_dtype, {part}}, ConstTensorView(view_of(values, part)), stream_);
      out += part * width;
      pool_.push_back(std::move(values));
    }
  }
}

void ShardGroup::reduce_stage(int stage, std::span<const int> leaf_counts, std::int64_t num_micro_batches) {
  for (std::size_t u = 0; u < units_.size(); ++u) {
    if (units_[u].stage != stage) continue;
    for (std::int64_t bucket = 0; bucket < states_[u].num_buckets; ++bucket) {
      if (reductions_.size() == max_in_flight) land_oldest_reduction();
      Flight flight = take_flight(u, bucket);
      flight.num_micro_batches = num_micro_batches;
      flight.leaf_counts.assign(leaf_counts.begin(), leaf_counts.end());
      pack(flight);
      const auto elements = [&](std::vector<char>& buffer, const std::vector<std::int64_t>& counts) {
        std::int64_t n = 0;
        for (const std::int64_t c : counts) n += c;
        return TensorView(buffer.data(), options_.wire_dtype, {n});
      };
      flight.work =
          comm_.all_to_all_v(elements(flight.receive, flight.recv_counts), flight.recv_counts,
                             elements(flight.send, flight.send_counts), flight.send_counts, stream_);
      reductions_.push_back(std::move(flight));
      if (!options_.overlap) land_oldest_reduction();
    }
  }
}

void ShardGroup::land_oldest_reduction() {
  Flight flight = std::move(reductions_.front());
  reductions_.pop_front();
  flight.work.wait();
  fold(flight);
  landed_.push_back(std::move(flight));
}

void ShardGroup::fold(Flight& flight) {
  UnitState& state = states_[flight.unit];
  const std::int64_t mine = bucket_part(flight.unit, comm_.rank(), flight.bucket);
  const std::int64_t width = size_of(options_.wire_dtype);
  auto& sum = state.sums[static_cast<std::size_t>(flight.bucket)];
  const auto add = [&](std::vector<float>& a, std::vector<float>& b) {
    ops::add_inplace(view_of(a, mine), ConstTensorView(view_of(b, mine)), stream_);
    pool_.push_back(std::move(b));
  };
  const char* in = flight.receive.data();
  for (const int count : flight.leaf_counts) {
    const int nodes = nodes_of(count);
    const auto level = static_cast<unsigned>(std::countr_zero(static_cast<unsigned>(std::max(1, count))));
    for (int node = 0; node < nodes; ++node) {
      std::vector<float> buffer = take_buffer(mine);
      ops::cast(view_of(buffer, mine), ConstTensorView(in, options_.wire_dtype, {mine}), stream_);
      in += mine * width;
      sum.push(std::move(buffer), add, nodes < count ? level : 0);
    }
  }
  if (static_cast<std::int64_t>(sum.num_leaves()) < flight.num_micro_batches) return;
  std::vector<float> total = sum.finish(add);
  const std::int64_t first =
      state.first[static_cast<std::size_t>(comm_.rank())] + flight.bucket * bucket_elements_;
  std::copy_n(total.begin(), mine, gradient_.data<float>() + first);
  pool_.push_back(std::move(total));
}

void ShardGroup::finish_reduction() {
  while (!reductions_.empty()) land_oldest_reduction();
}

void ShardGroup::gather_gradients(Stream& stream) {
  if (options_.zero || comm_.size() == 1) return;
  for (std::size_t u = 0; u < units_.size(); ++u) {
    std::vector<std::int64_t> counts;
    for (int r = 0; r < comm_.size(); ++r) counts.push_back(units_[u].map.num_owned(r));
    const std::int64_t first = states_[u].first.front(),
                       mine = counts[static_cast<std::size_t>(comm_.rank())];
    std::vector<float> send(static_cast<std::size_t>(mine));
    std::copy_n(gradient_.data<float>() + states_[u].first[static_cast<std::size_t>(comm_.rank())], mine,
                send.begin());
    comm_
        .all_gather_v(gradient_.view().rows(first, units_[u].map.num_total()), counts,
                      ConstTensorView(send.data(), DType::float32, {mine}), stream)
        .wait();
  }
}

void ShardGroup::start_gather() {
  if (!options_.zero || comm_.size() == 1) return;  // every rank has updated everything itself
  for (std::size_t u = units_.size(); u-- > 0;) {   // a forward needs the last stages first
    for (std::int64_t bucket = 0; bucket < states_[u].num_buckets; ++bucket)
      gathers_to_start_.emplace_back(u, bucket);
  }
  while (gathers_.size() < max_in_flight && !gathers_to_start_.empty()) start_next_gather();
  if (!options_.overlap) wait_weights(-1);
}

void ShardGroup::start_next_gather() {
  const auto [unit, bucket] = gathers_to_start_.front();
  gathers_to_start_.pop_front();
  Flight flight = take_flight(unit, bucket);
  const DType dtype = parameters_.front()->value.dtype();
  const std::int64_t width = size_of(dtype), begin = bucket * bucket_elements_;
  const std::int64_t mine = bucket_part(unit, comm_.rank(), bucket);
  std::int64_t total = 0;
  for (int r = 0; r < comm_.size(); ++r)
    total += flight.recv_counts[static_cast<std::size_t>(r)] = bucket_part(unit, r, bucket);
  grow(flight.send, mine * width);
  grow(flight.receive, total * width);
  char* out = flight.send.data();
  for_each_piece(units_[unit], comm_.rank(), begin, begin + mine,
                 [&](model::Parameter& p, std::int64_t at, std::int64_t count) {
                   std::memcpy(out, flat(p, at, count).raw(), static_cast<std::size_t>(count * width));
                   out += count * width;
                 });
  flight.work = comm_.all_gather_v({flight.receive.data(), dtype, {total}}, flight.recv_counts,
                                   {flight.send.data(), dtype, {mine}}, stream_);
  gathers_.push_back(std::move(flight));
}

void ShardGroup::land_oldest_gather() {
  Flight flight = std::move(gathers_.front());
  gathers_.pop_front();
  flight.work.wait();
  const std::int64_t width = size_of(parameters_.front()->value.dtype());
  const std::int64_t begin = flight.bucket * bucket_elements_;
  const char* in = flight.receive.data();
  for (int r = 0; r < comm_.size(); ++r) {
    for_each_piece(units_[flight.unit], r, begin, begin + flight.recv_counts[static_cast<std::size_t>(r)],
                   [&](model::Parameter& p, std::int64_t at, std::int64_t count) {
                     std::memcpy(flat(p, at, count).raw(), in, static_cast<std::size_t>(count * width));
                     in += count * width;
                   });
  }
  landed_.push_back(std::move(flight));
  if (!gathers_to_start_.empty()) start_next_gather();
}

void ShardGroup::wait_weights(int stage) {
  const auto pending = [&] {
    if (gathers_.empty()) return false;
    const int next = units_[gathers_.front().unit].stage;
    return stage < 0 || next >= stage;  // they land from the last stage to the first
  };
  while (pending()) land_oldest_gather();
}

}  // namespace nmoe::train
