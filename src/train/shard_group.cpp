// ZeRO-2 of one group of parameters: buckets of gradients to their owners, updated weights back.
#include "neuronmoe/train/shard_group.hpp"

#include <algorithm>
#include <bit>
#include <numeric>

#include "neuronmoe/ops/transformer.hpp"

namespace nmoe::train {

namespace {

std::vector<std::int64_t> sizes_of(const std::vector<model::Parameter*>& parameters) {
  std::vector<std::int64_t> sizes;
  for (const model::Parameter* p : parameters) sizes.push_back(p->shape.num_elements());
  return sizes;
}
std::vector<int> segments_of(const std::vector<model::Parameter*>& parameters) {
  std::vector<int> segments;
  for (const model::Parameter* p : parameters) segments.push_back(p->last_writer);
  return segments;
}

/// `count` elements of a buffer of bytes, from element `begin` on.
TensorView part_of(TensorView bytes, DType dtype, std::int64_t begin, std::int64_t count) {
  auto* first = static_cast<char*>(bytes.raw()) + begin * size_of(dtype);
  return {first, dtype, {count}, bytes.device()};
}

std::int64_t sum_of(const std::vector<std::int64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

}  // namespace

TensorView flat_value(model::Parameter& parameter, std::int64_t begin, std::int64_t count) {
  return parameter.value.view().reshape({parameter.shape.num_elements()}).rows(begin, count);
}

ShardGroup::ShardGroup(std::vector<model::Parameter*> parameters, comm::Communicator& comm, int leaves,
                       const ReduceOptions& options, Stream& compute)
    : parameters_(std::move(parameters)),
      comm_(comm),
      compute_(compute),
      own_(compute.device()),
      event_(compute.device()),
      options_(options),
      cut_(segments_of(parameters_), sizes_of(parameters_), comm.size(), leaves, options),
      packing_(compute.device()),
      sums_pool_(compute.device()) {
  std::int64_t offset = 0;
  for (const ShardUnit& unit : cut_.units()) {
    UnitState& state = states_.emplace_back();
    for (int r = 0; r < comm.size(); ++r) {
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
    state.sums.resize(static_cast<std::size_t>(cut_.num_buckets(states_.size() - 1)));
  }
  for (Tensor* t : {&gradient_, &master_, &exp_avg_, &exp_avg_sq_})
    *t = Tensor({offset}, DType::float32, compute.device());
  if (cut_.rounded_bytes() > 0)
    rounded_ =
        Tensor({cut_.rounded_bytes() / size_of(options.wire_dtype)}, options.wire_dtype, compute.device());
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
  std::int64_t bytes = rounded_.view().num_bytes() + packing_.num_bytes();
  for (const auto* flights : {&reductions_, &gathers_}) {
    for (const Flight& f : *flights) bytes += f.send.num_elements() + f.receive.num_elements();
  }
  for (const Flight& f : landed_) bytes += f.send.num_elements() + f.receive.num_elements();
  return bytes;
}

void ShardGroup::order(Stream& first, Stream& then) {
  event_.record(first);
  event_.make_wait(then);
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

ShardGroup::Flight ShardGroup::take_flight(std::size_t unit, std::int64_t bucket) {
  Flight flight;
  if (!landed_.empty()) {
    flight = std::move(landed_.front());  // which the others have had most time to read
    landed_.erase(landed_.begin());
    flight.exchange.reclaim();
  } else {
    const std::int64_t value_bytes = size_of(parameters_.front()->value.dtype());
    const std::int64_t send_bytes = cut_.send_bytes(value_bytes);
    if (compute_.device() == Device::cpu) {
      flight.memory = comm_.allocate_send(send_bytes);
      flight.send = {flight.memory.get(), DType::uint8, {send_bytes}};
    } else {
      const auto memory = std::make_shared<Tensor>(Shape{send_bytes}, DType::uint8, compute_.device());
      flight.memory = memory;
      flight.send = memory->view();
    }
    flight.receive = Tensor({cut_.receive_bytes(value_bytes)}, DType::uint8, compute_.device());
  }
  flight.unit = unit;
  flight.bucket = bucket;
  flight.send_counts.assign(static_cast<std::size_t>(comm_.size()), 0);
  flight.recv_counts.assign(static_cast<std::size_t>(comm_.size()), 0);
  return flight;
}

void ShardGroup::add(Tensor& a, Tensor& b, BufferPool& pool, Stream& stream) {
  ops::add_inplace(a.view(), b.view(), stream);
  pool.give(std::move(b));
}

/// Where a bucket of this rank's part of a unit is summed up; empty buckets lie nowhere.
TensorView ShardGroup::gradient_of(std::size_t unit, std::int64_t bucket) {
  const std::int64_t first = states_[unit].first[static_cast<std::size_t>(comm_.rank())];
  const std::int64_t mine = cut_.part(unit, comm_.rank(), bucket);
  return gradient_.view().rows(mine > 0 ? first + bucket * cut_.bucket_elements() : 0, mine);
}

void ShardGroup::pack_leaf(std::size_t unit, int rank, std::int64_t bucket, int leaf, TensorView out) const {
  const std::int64_t begin = bucket * cut_.bucket_elements();
  std::int64_t done = 0;
  for_each_piece(cut_.units()[unit], rank, begin, begin + cut_.part(unit, rank, bucket),
                 [&](model::Parameter& p, std::int64_t at, std::int64_t count) {
                   const TensorView leaves = p.grad.reshape({p.grad.num_elements()});
                   copy(out.rows(done, count), leaves.rows(leaf * p.shape.num_elements() + at, count),
                        compute_);
                   done += count;
                 });
}

void ShardGroup::pack(Flight& flight) {
  const int my_count = flight.leaf_counts[static_cast<std::size_t>(comm_.rank())];
  for (int r = 0; r < comm_.size(); ++r) {
    const auto at = static_cast<std::size_t>(r);
    flight.send_counts[at] = cut_.part(flight.unit, r, flight.bucket) * cut_.nodes_of(my_count);
    flight.recv_counts[at] =
        cut_.part(flight.unit, comm_.rank(), flight.bucket) * cut_.nodes_of(flight.leaf_counts[at]);
  }
  std::int64_t done = 0;
  const auto add_leaves = [&](Tensor& a, Tensor& b) { add(a, b, packing_, compute_); };
  for (int r = 0; r < comm_.size(); ++r) {
    const std::int64_t part = cut_.part(flight.unit, r, flight.bucket);
    comm::BinaryCounterSum<Tensor> node;
    for (int leaf = 0; leaf < my_count; ++leaf) {
      Tensor values = packing_.take(part);
      pack_leaf(flight.unit, r, flight.bucket, leaf, values.view());
      if (cut_.nodes_of(my_count) == 1 && my_count > 1) {
        node.push(std::move(values), add_leaves);
        if (leaf + 1 < my_count) continue;
        values = node.finish(add_leaves);
      }
      ops::cast(part_of(flight.send, options_.wire_dtype, done, part), values.view(), compute_);
      done += part;
      packing_.give(std::move(values));
    }
  }
}

void ShardGroup::reduce_segment(int segment, std::span<const int> leaf_counts, std::int64_t num_leaves) {
  for (std::size_t u = 0; u < cut_.units().size(); ++u) {
    if (cut_.units()[u].segment != segment) continue;
    for (std::int64_t bucket = 0; bucket < cut_.num_buckets(u); ++bucket) {
      if (comm_.size() == 1) {
        fold_here(u, bucket, leaf_counts.front(), num_leaves);
        continue;
      }
      if (reductions_.size() == ShardCut::max_in_flight) land_oldest_reduction();
      Flight flight = take_flight(u, bucket);
      flight.num_leaves = num_leaves;
      flight.leaf_counts.assign(leaf_counts.begin(), leaf_counts.end());
      pack(flight);
      order(compute_, stream());
      const DType wire = options_.wire_dtype;
      flight.exchange = comm_.all_to_all_in_place(
          part_of(flight.receive.view(), wire, 0, sum_of(flight.recv_counts)), flight.recv_counts,
          part_of(flight.send, wire, 0, sum_of(flight.send_counts)), flight.send_counts, stream());
      reductions_.push_back(std::move(flight));
      if (!options_.overlap) land_oldest_reduction();
    }
  }
}

void ShardGroup::land_oldest_reduction() {
  Flight flight = std::move(reductions_.front());
  reductions_.pop_front();
  flight.exchange.wait();
  fold(flight);
  flight.exchange.release();
  order(stream(), compute_);  // which may pack into its buffers again
  landed_.push_back(std::move(flight));
}

void ShardGroup::fold(Flight& flight) {
  const std::int64_t mine = cut_.part(flight.unit, comm_.rank(), flight.bucket);
  auto& sum = states_[flight.unit].sums[static_cast<std::size_t>(flight.bucket)];
  const auto add_nodes = [&](Tensor& a, Tensor& b) { add(a, b, sums_pool_, stream()); };
  for (int r = 0; r < comm_.size(); ++r) {
    const auto* rows = static_cast<const std::byte*>(flight.exchange.rows_of(r));
    const int count = flight.leaf_counts[static_cast<std::size_t>(r)];
    const int nodes = cut_.nodes_of(count);
    const auto level = static_cast<unsigned>(std::countr_zero(static_cast<unsigned>(std::max(1, count))));
    for (int node = 0; node < nodes; ++node) {
      Tensor values = sums_pool_.take(mine);
      const std::byte* leaf = rows + node * mine * size_of(options_.wire_dtype);
      ops::cast(values.view(), ConstTensorView(leaf, options_.wire_dtype, {mine}, compute_.device()),
                stream());
      sum.push(std::move(values), add_nodes, nodes < count ? level : 0);
    }
  }
  finish_bucket(flight.unit, flight.bucket, flight.num_leaves);
}

/// One rank: leaves become sums without travelling, rounded as if they did.
void ShardGroup::fold_here(std::size_t unit, std::int64_t bucket, int leaves, std::int64_t num_leaves) {
  const std::int64_t mine = cut_.part(unit, 0, bucket);
  const auto take_leaf = [&](int leaf, TensorView out) {
    pack_leaf(unit, 0, bucket, leaf, out);
    if (!rounded_.valid()) return;
    ops::cast(rounded_.view().rows(0, mine), out, compute_);
    ops::cast(out, rounded_.view().rows(0, mine), compute_);
  };
  if (num_leaves == 1) {
    if (leaves == 1) take_leaf(0, gradient_of(unit, bucket));
    return;
  }
  for (int leaf = 0; leaf < leaves; ++leaf) {
    Tensor values = sums_pool_.take(mine);
    take_leaf(leaf, values.view());
    states_[unit].sums[static_cast<std::size_t>(bucket)].push(
        std::move(values), [&](Tensor& a, Tensor& b) { add(a, b, sums_pool_, compute_); });
  }
  finish_bucket(unit, bucket, num_leaves);
}

/// With the step's last leaf the sum of a bucket is complete.
void ShardGroup::finish_bucket(std::size_t unit, std::int64_t bucket, std::int64_t num_leaves) {
  auto& sum = states_[unit].sums[static_cast<std::size_t>(bucket)];
  if (static_cast<std::int64_t>(sum.num_leaves()) < num_leaves) return;
  Tensor total = sum.finish([&](Tensor& a, Tensor& b) { add(a, b, sums_pool_, stream()); });
  copy(gradient_of(unit, bucket), total.view(), stream());
  sums_pool_.give(std::move(total));
}

void ShardGroup::finish_reduction() {
  while (!reductions_.empty()) land_oldest_reduction();
}

void ShardGroup::gather_gradients() {
  if (options_.zero || comm_.size() == 1) return;
  for (std::size_t u = 0; u < cut_.units().size(); ++u) {
    std::vector<std::int64_t> counts;
    for (int r = 0; r < comm_.size(); ++r) counts.push_back(cut_.units()[u].map.num_owned(r));
    const auto me = static_cast<std::size_t>(comm_.rank());
    Tensor send = packing_.take(counts[me]);
    copy(send.view(), gradient_.view().rows(states_[u].first[me], counts[me]), compute_);
    comm_
        .all_gather_v(gradient_.view().rows(states_[u].first.front(), cut_.units()[u].map.num_total()),
                      counts, send.view(), compute_)
        .wait();
    packing_.give(std::move(send));
  }
}

void ShardGroup::start_gather() {
  if (!options_.zero || comm_.size() == 1) return;  // every rank has updated everything itself
  order(compute_, stream());
  for (std::size_t u = cut_.units().size(); u-- > 0;) {  // a forward needs the last segments first
    for (std::int64_t bucket = 0; bucket < cut_.num_buckets(u); ++bucket)
      gathers_to_start_.emplace_back(u, bucket);
  }
  while (gathers_.size() < ShardCut::max_in_flight && !gathers_to_start_.empty()) start_next_gather();
  if (!options_.overlap) wait_weights(-1);
}

void ShardGroup::start_next_gather() {
  const auto [unit, bucket] = gathers_to_start_.front();
  gathers_to_start_.pop_front();
  Flight flight = take_flight(unit, bucket);
  const DType dtype = parameters_.front()->value.dtype();
  const std::int64_t begin = bucket * cut_.bucket_elements(), mine = cut_.part(unit, comm_.rank(), bucket);
  for (int r = 0; r < comm_.size(); ++r)
    flight.recv_counts[static_cast<std::size_t>(r)] = cut_.part(unit, r, bucket);
  std::int64_t done = 0;
  for_each_piece(cut_.units()[unit], comm_.rank(), begin, begin + mine,
                 [&](model::Parameter& p, std::int64_t at, std::int64_t count) {
                   copy(part_of(flight.send, dtype, done, count), flat_value(p, at, count), stream());
                   done += count;
                 });
  flight.work = comm_.all_gather_v(part_of(flight.receive.view(), dtype, 0, sum_of(flight.recv_counts)),
                                   flight.recv_counts, part_of(flight.send, dtype, 0, mine), stream());
  gathers_.push_back(std::move(flight));
}

void ShardGroup::land_oldest_gather() {
  Flight flight = std::move(gathers_.front());
  gathers_.pop_front();
  flight.work.wait();
  const DType dtype = parameters_.front()->value.dtype();
  const std::int64_t begin = flight.bucket * cut_.bucket_elements();
  std::int64_t done = 0;
  for (int r = 0; r < comm_.size(); ++r) {
    for_each_piece(
        cut_.units()[flight.unit], r, begin, begin + flight.recv_counts[static_cast<std::size_t>(r)],
        [&](model::Parameter& p, std::int64_t at, std::int64_t count) {
          copy(flat_value(p, at, count), part_of(flight.receive.view(), dtype, done, count), stream());
          done += count;
        });
  }
  order(stream(), compute_);
  landed_.push_back(std::move(flight));
  if (!gathers_to_start_.empty()) start_next_gather();
}

void ShardGroup::wait_weights(int segment) {
  const auto pending = [&] {
    if (gathers_.empty()) return false;
    const int next = cut_.units()[gathers_.front().unit].segment;
    return segment < 0 || next >= segment;  // they land from the last segment to the first
  };
  while (pending()) land_oldest_gather();
}

}  // namespace nmoe::train
