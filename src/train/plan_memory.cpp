// Memory of a rank: what the decoder's passes take (model/step_cost), optimizer, gradients and messages.
#include "neuronmoe/model/gradient_layout.hpp"
#include "plan_shape.hpp"

namespace nmoe::train {

namespace {

/// Gradient leaves: of all parameters if they are sums of a step, else of the largest segment.
std::int64_t gradient_bytes(const PlanShape& shape) {
  std::vector<std::int64_t> leaves;
  std::int64_t all = 0;
  for (const model::Parameter& p : shape.parameters) {
    const bool has_gradient = p.trainable && shape.holds(p);
    const bool owned = shape.placement.is_owned(p.layer, p.expert);
    leaves.push_back(!has_gradient ? 0 : owned ? shape.layout.expert_parallel_size() : 1);
    all += leaves.back() * p.shape.num_elements();
  }
  const model::GradientLayout layout = model::lay_out_gradients(shape.parameters, leaves, shape.freeze);
  return size_of(DType::float32) * (shape.reduce.once_per_step ? all : layout.num_shared + layout.num_own);
}

/// All but activations.
MemoryPlan plan_states(const PlanShape& shape) {
  MemoryPlan memory;
  const std::int64_t value_bytes = size_of(shape.dtype);
  for (const model::Parameter& p : shape.parameters) {
    if (shape.holds(p)) memory.weights += p.shape.num_elements() * value_bytes;
  }
  memory.gradients = gradient_bytes(shape);
  for (const bool experts : {false, true}) {
    const PlanGroup group(shape, experts);
    for (const ShardUnit& unit : group.cut.units()) {
      const std::int64_t held = shape.reduce.zero ? unit.map.num_owned(group.me) : unit.map.num_total();
      memory.gradient_sum += 4 * held;
      memory.optimizer += 12 * held;
    }
    memory.partial_sums += group.cut.partial_sum_bytes(group.me, group.counts);
    memory.buffers += group.cut.buffer_bytes(group.me, group.counts, value_bytes);
  }
  return memory;
}

MemoryPlan with_activations(MemoryPlan memory, const model::StepBytes& bytes) {
  memory.saved = bytes.saved;
  memory.scratch = bytes.scratch;
  memory.to_experts = bytes.to_experts;
  memory.from_experts = bytes.from_experts;
  return memory;
}

}  // namespace

MemoryPlan plan_memory(const PlanInput& input, int rank) {
  const PlanShape shape(input, rank);
  const model::StepShape step = shape.step(input.tokens_per_micro_batch());
  return with_activations(plan_states(shape), model::step_cost(step, model::BaseLoad::balanced).peak);
}

MemoryPlan plan_reserved_memory(const PlanInput& input, int rank) {
  const PlanShape shape(input, rank);
  const model::StepShape step = shape.step(input.tokens_per_micro_batch());
  return with_activations(plan_states(shape), model::reserved_step_bytes(step));
}

std::vector<std::int64_t> plan_saved_bytes(const PlanInput& input, int rank) {
  const PlanShape shape(input, rank);
  return model::step_cost(shape.step(input.tokens_per_micro_batch()), model::BaseLoad::balanced).kept;
}

}  // namespace nmoe::train
