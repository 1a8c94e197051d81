// Forward and backward of a mixture-of-experts layer.
#include "neuronmoe/model/moe_layer.hpp"

#include <algorithm>

#include "neuronmoe/ops/linear.hpp"
#include "neuronmoe/ops/transformer.hpp"
#include "neuronmoe/tensor/device.hpp"

namespace nmoe::model {

namespace {

/// The router works in acc (fp32 for bf16 models): values widened once per use, or passed through.
ConstTensorView widened(ConstTensorView x, Arena& arena, Stream& stream) {
  const DType acc = accumulator_of(x.dtype());
  if (x.dtype() == acc) return x;
  TensorView wide = arena.take(x.shape(), acc);
  ops::cast(wide, x, stream);
  return wide;
}

/// Values rounded to `dtype` and widened again (router.compat = release); a copy of them when nothing is
/// lost.
TensorView rounded(ConstTensorView x, DType dtype, Arena& arena, Stream& stream) {
  TensorView wide = arena.take(x.shape(), x.dtype());
  const Arena::Mark scratch = arena.mark();
  TensorView narrow = arena.take(x.shape(), dtype);
  ops::cast(narrow, x, stream);
  ops::cast(wide, narrow, stream);
  arena.rewind(scratch);
  return wide;
}

FeedForwardSaved rows_of(const FeedForwardSaved& saved, std::int64_t begin, std::int64_t count) {
  return {saved.x ? saved.x.rows(begin, count) : ConstTensorView(), saved.gate.rows(begin, count),
          saved.up.rows(begin, count)};
}

FeedForwardScratch first_rows(const FeedForwardScratch& buffers, std::int64_t count) {
  return {buffers.h.rows(0, count), buffers.dh.rows(0, count), buffers.dgate.rows(0, count),
          buffers.dup.rows(0, count)};
}

}  // namespace

void MoeLayer::route(ConstTensorView x, const MoeWeights& weights, MoeSaved& saved, Arena& kept,
                     Arena& scratch, Stream& stream) const {
  const std::int64_t num_tokens = x.dim(0);
  const std::int64_t k = std::min(top_k_, num_experts_);  // adaptive k, METHOD 5 step 3
  const DType dtype = x.dtype(), acc = accumulator_of(dtype);
  const bool normalise = top_k_ != 1;
  saved.probs = kept.take({num_tokens, num_experts_}, acc);
  saved.weights = kept.take({num_tokens, k}, acc);
  saved.indices = kept.take({num_tokens, k}, DType::int32);
  {
    const ScratchScope scope(scratch);
    TensorView logits = scratch.take({num_tokens, num_experts_}, acc);
    if (release_) {  // METHOD 11 row 38: logits are stored in the model's type
      TensorView narrow = scratch.take(logits.shape(), dtype);
      ops::linear_forward(narrow, x, weights.router.value, {}, stream);
      ops::cast(logits, narrow, stream);
    } else {
      ops::linear_forward(logits, widened(x, scratch, stream), widened(weights.router.value, scratch, stream),
                          {}, stream);
    }
    ops::route_forward(saved.probs, saved.weights, saved.indices, logits, normalise, stream);
  }
  saved.combine_weights = release_ ? rounded(saved.weights, dtype, kept, stream) : saved.weights;
}

void MoeLayer::forward(TensorView y, ConstTensorView x, ConstTensorView row_sample, const MoeWeights& weights,
                       MoeSaved& saved, const LayerPlan& plan, StepMemory& memory,
                       ActivationObserver* observer, Stream& stream) const {
  const std::int64_t hidden = x.dim(1);
  Arena& scratch = memory.scratch;
  Arena& kept = plan.router ? memory.saved : scratch;
  route(x, weights, saved, kept, scratch, stream);
  saved.dispatcher =
      std::make_unique<TokenDispatcher>(group_, layer_, weights.place_of_expert, saved.indices, kept, stream);
  const TokenDispatcher& dispatcher = *saved.dispatcher;
  const std::int64_t num_rows = dispatcher.num_rows(), num_local = dispatcher.num_local_rows();
  saved.out_rows = kept.take({num_rows, hidden}, x.dtype());
  const bool local = dispatcher.is_local();
  const Shape received{dispatcher.num_received(), hidden};
  TensorView expert_out;
  if (local) {
    saved.rows = scratch.take({num_rows, hidden}, x.dtype());
    expert_out = saved.out_rows.rows(num_local, num_rows - num_local);
  } else {
    saved.rows = memory.to_experts.take({num_rows, hidden}, x.dtype());
    saved.received = (plan.experts ? memory.saved : scratch).take(received, x.dtype());
    expert_out = memory.from_experts.take(received, x.dtype());
  }
  ops::gather_rows(saved.rows, x, dispatcher.token_of_row(), stream);
  Arrivals arriving = dispatcher.dispatch(saved.received, saved.rows, plan.experts, stream);
  run_local(weights, saved, plan, memory, stream);  // while rows of the other experts travel
  arriving.wait();
  run_experts(weights, saved, arriving, expert_out, plan, memory, stream);
  arriving.release();
  if (!local) dispatcher.combine(saved.out_rows, expert_out, stream).wait();
  arriving.reclaim();
  if (observer != nullptr) observe(*observer, saved, expert_out, row_sample, stream);
  if (release_) {
    ops::combine_forward_rounded(y, saved.out_rows, dispatcher.row_of_slot(), saved.indices,
                                 saved.combine_weights, stream);
  } else {
    ops::combine_forward(y, saved.out_rows, dispatcher.row_of_slot(), saved.indices, saved.combine_weights,
                         false, stream);
  }
}

void MoeLayer::run_local(const MoeWeights& weights, MoeSaved& saved, const LayerPlan& plan,
                         StepMemory& memory, Stream& stream) const {
  const TokenDispatcher& dispatcher = *saved.dispatcher;
  const std::int64_t num_base = dispatcher.num_base_rows(), width = weights.base.gate.value.dim(0);
  const std::int64_t num_replicated = dispatcher.num_local_rows() - num_base;
  const DType dtype = saved.rows.dtype();
  Arena& base = plan.keeps_base_mlp() ? memory.saved : memory.scratch;
  Arena& replicated = plan.keeps_experts() ? memory.saved : memory.scratch;
  saved.base = {saved.rows.rows(0, num_base), base.take({num_base, width}, dtype),
                base.take({num_base, width}, dtype)};
  saved.replicated = {saved.rows.rows(num_base, num_replicated),
                      replicated.take({num_replicated, width}, dtype),
                      replicated.take({num_replicated, width}, dtype)};
  const ScratchScope scope(memory.scratch);
  TensorView h = memory.scratch.take({std::max(num_base, num_replicated), width}, dtype);
  feed_forward_forward(saved.out_rows.rows(0, num_base), saved.base, h.rows(0, num_base), weights.base,
                       stream);
  for (const ExpertBlock& block : dispatcher.local_blocks()) {
    const std::int64_t count = block.end - block.begin;
    FeedForwardSaved part = rows_of(saved.replicated, block.begin - num_base, count);
    feed_forward_forward(saved.out_rows.rows(block.begin, count), part, h.rows(0, count),
                         weights.experts[static_cast<std::size_t>(block.expert)].front(), stream);
  }
}

void MoeLayer::run_experts(const MoeWeights& weights, MoeSaved& saved, const Arrivals& inputs,
                           TensorView expert_out, const LayerPlan& plan, StepMemory& memory,
                           Stream& stream) const {
  const std::int64_t num_received = saved.dispatcher->num_received(), width = weights.base.gate.value.dim(0);
  const DType dtype = saved.rows.dtype();
  Arena& kept = plan.keeps_experts() ? memory.saved : memory.scratch;
  saved.experts = {saved.received, kept.take({num_received, width}, dtype),
                   kept.take({num_received, width}, dtype)};
  const ScratchScope scope(memory.scratch);
  TensorView h = memory.scratch.take({num_received, width}, dtype);
  for (const ExpertBlock& block : saved.dispatcher->blocks()) {
    const std::int64_t count = block.end - block.begin;
    FeedForwardSaved part{inputs.rows(block), saved.experts.gate.rows(block.begin, count),
                          saved.experts.up.rows(block.begin, count)};
    feed_forward_forward(
        expert_out.rows(block.begin, count), part, h.rows(0, count),
        weights.experts[static_cast<std::size_t>(block.expert)][static_cast<std::size_t>(block.source)],
        stream);
  }
}

void MoeLayer::observe(ActivationObserver& observer, const MoeSaved& saved, ConstTensorView expert_out,
                       ConstTensorView row_sample, Stream& stream) const {
  const TokenDispatcher& dispatcher = *saved.dispatcher;
  observer.observe_router(layer_, saved.probs, saved.weights, saved.indices, row_sample);
  const std::int64_t num_rows = dispatcher.num_rows(), num_base = dispatcher.num_base_rows();
  const Tensor tokens =
      copied_to(Device::cpu, dispatcher.token_of_row(), stream);  // row_sample is on the host
  Tensor of_rows({num_rows}, DType::int32), of_received({dispatcher.num_received()}, DType::int32);
  const TensorView sample_rows = of_rows.view(), received_sample = of_received.view();
  const auto* sample = row_sample.data<std::int32_t>();
  const auto* token = tokens.data<std::int32_t>();
  for (std::int64_t n = 0; n < num_rows; ++n) sample_rows.data<std::int32_t>()[n] = sample[token[n]];
  Arrivals arrived = dispatcher.dispatch(received_sample, sample_rows, true, stream);
  arrived.wait();

  const auto report = [&](int expert, const FeedForwardSaved& part, ConstTensorView out,
                          ConstTensorView samples) {
    const auto offer = [&](Projection projection, ConstTensorView values) {
      const ActivationSite site{layer_, projection, expert};
      if (observer.wants(site)) observer.observe(site, values, samples);
    };
    offer(Projection::gate, part.gate);
    offer(Projection::up, part.up);
    offer(Projection::down, out);
  };
  report(0, saved.base, saved.out_rows.rows(0, num_base), sample_rows.rows(0, num_base));
  for (const ExpertBlock& block : dispatcher.local_blocks()) {
    const std::int64_t count = block.end - block.begin;
    report(block.expert, rows_of(saved.replicated, block.begin - num_base, count),
           saved.out_rows.rows(block.begin, count), sample_rows.rows(block.begin, count));
  }
  for (const ExpertBlock& block : dispatcher.blocks()) {
    const std::int64_t count = block.end - block.begin;
    report(block.expert, rows_of(saved.experts, block.begin, count), expert_out.rows(block.begin, count),
           arrived.rows(block));
  }
}

void MoeLayer::backward(TensorView dx, ConstTensorView dy, ConstTensorView x, ConstTensorView old_mask,
                        const MoeWeights& weights, MoeSaved& saved, const AuxLossScales& scales,
                        const AuxLosses& losses, const LayerPlan& plan, StepMemory& memory,
                        Stream& stream) const {
  const TokenDispatcher& dispatcher = *saved.dispatcher;
  Arena& scratch = memory.scratch;
  const Shape rows = saved.out_rows.shape();
  const DType dtype = saved.out_rows.dtype();
  {
    const ScratchScope scope(scratch);
    TensorView dweights = scratch.take(saved.weights.shape(), saved.weights.dtype());
    {
      const ScratchScope inner(scratch);
      TensorView d_rows =
          dispatcher.is_local() ? scratch.take(rows, dtype) : memory.to_experts.take(rows, dtype);
      ops::combine_backward(d_rows, dweights, dy, saved.out_rows, dispatcher.row_of_slot(),
                            saved.combine_weights, stream);
      // Whether anything flows into the experts is the same on every rank, so all of them skip or join the
      // exchange together.
      if (plan.experts || plan.base_mlp_weights || plan.mlp_input) {
        TensorView dx_rows = plan.mlp_input ? scratch.take(rows, dtype) : TensorView();
        restore_inputs(x, saved, plan, scratch, stream);
        backward_experts(dx_rows, d_rows, weights, saved, memory, stream);
        if (dx) ops::combine_forward(dx, dx_rows, dispatcher.row_of_slot(), saved.indices, {}, false, stream);
      }
    }
    if (release_) dweights = rounded(dweights, dtype, scratch, stream);  // they are of the model's type there
    backward_router(dx, dweights, x, old_mask, weights, saved, scales, losses, scratch, stream);
  }
}

void MoeLayer::restore_inputs(ConstTensorView x, MoeSaved& saved, const LayerPlan& plan, Arena& scratch,
                              Stream& stream) const {
  const TokenDispatcher& dispatcher = *saved.dispatcher;
  const std::int64_t num_base = dispatcher.num_base_rows(), num_local = dispatcher.num_local_rows(),
                     hidden = x.dim(1);
  const auto gather = [&](std::int64_t first, std::int64_t count) {
    TensorView rows = scratch.take({count, hidden}, x.dtype());
    ops::gather_rows(rows, x, dispatcher.token_of_row().rows(first, count), stream);
    return rows;
  };
  saved.base.x = plan.base_mlp_weights ? ConstTensorView(gather(0, num_base)) : ConstTensorView();
  saved.replicated.x =
      plan.experts ? ConstTensorView(gather(num_base, num_local - num_base)) : ConstTensorView();
  if (!plan.experts) {
    saved.experts.x = {};
  } else if (dispatcher.is_local()) {
    saved.experts.x = gather(num_local, dispatcher.num_rows() - num_local);
  }
}

/// Base and replicated experts.
void MoeLayer::backward_local(TensorView dx_rows, ConstTensorView d_rows, const MoeWeights& weights,
                              const MoeSaved& saved, const FeedForwardScratch& buffers,
                              Stream& stream) const {
  const TokenDispatcher& dispatcher = *saved.dispatcher;
  const std::int64_t num_base = dispatcher.num_base_rows();
  const auto dx_of = [&](std::int64_t begin, std::int64_t count) {
    return dx_rows ? dx_rows.rows(begin, count) : TensorView();
  };
  feed_forward_backward(dx_of(0, num_base), false, d_rows.rows(0, num_base), saved.base,
                        first_rows(buffers, num_base), weights.base, stream);
  for (const ExpertBlock& block : dispatcher.local_blocks()) {
    const std::int64_t count = block.end - block.begin;
    feed_forward_backward(dx_of(block.begin, count), false, d_rows.rows(block.begin, count),
                          rows_of(saved.replicated, block.begin - num_base, count),
                          first_rows(buffers, count),
                          weights.experts[static_cast<std::size_t>(block.expert)].front(), stream);
  }
}

void MoeLayer::backward_experts(TensorView dx_rows, ConstTensorView d_rows, const MoeWeights& weights,
                                const MoeSaved& saved, StepMemory& memory, Stream& stream) const {
  const TokenDispatcher& dispatcher = *saved.dispatcher;
  const std::int64_t num_rows = dispatcher.num_rows(), num_base = dispatcher.num_base_rows();
  const std::int64_t num_local = dispatcher.num_local_rows();
  const std::int64_t num_received = dispatcher.num_received(), hidden = d_rows.dim(1),
                     width = weights.base.gate.value.dim(0);
  const DType dtype = d_rows.dtype();
  const bool local = dispatcher.is_local();
  Arena& scratch = memory.scratch;
  const Shape received{num_received, hidden};
  TensorView dx_received;
  if (dx_rows) {
    dx_received =
        local ? dx_rows.rows(num_local, num_rows - num_local) : memory.from_experts.take(received, dtype);
  }
  Arrivals arriving =
      dispatcher.dispatch(local ? TensorView() : scratch.take(received, dtype), d_rows, false, stream);
  const std::int64_t most = std::max({num_base, num_local - num_base, num_received});
  const FeedForwardScratch buffers{scratch.take({most, width}, dtype), scratch.take({most, width}, dtype),
                                   scratch.take({most, width}, dtype), scratch.take({most, width}, dtype)};
  backward_local(dx_rows, d_rows, weights, saved, buffers, stream);  // while the others' rows travel
  arriving.wait();
  for (const ExpertBlock& block : dispatcher.blocks()) {
    const std::int64_t count = block.end - block.begin;
    feed_forward_backward(
        dx_received ? dx_received.rows(block.begin, count) : TensorView(), false, arriving.rows(block),
        rows_of(saved.experts, block.begin, count), first_rows(buffers, count),
        weights.experts[static_cast<std::size_t>(block.expert)][static_cast<std::size_t>(block.source)],
        stream);
  }
  arriving.release();
  if (!local && dx_rows) dispatcher.combine(dx_rows, dx_received, stream).wait();
  arriving.reclaim();
}

void MoeLayer::backward_router(TensorView dx, TensorView dweights, ConstTensorView x,
                               ConstTensorView old_mask, const MoeWeights& weights, MoeSaved& saved,
                               const AuxLossScales& scales, const AuxLosses& losses, Arena& arena,
                               Stream& stream) const {
  TensorView dprobs;
  if (scales.balancing != 0.0 || scales.lpr != 0.0) {
    dprobs = arena.take(saved.probs.shape(), saved.probs.dtype());
    ops::fill(dprobs, 0.0, stream);
  }
  if (scales.balancing != 0.0 && scales.choice_counts) {
    if (scales.num_tokens > 0.0) {
      TensorView counts = arena.take(scales.choice_counts.shape(), DType::float64);  // beside dprobs
      copy(counts, scales.choice_counts, stream);
      ops::balancing_gradient(dprobs, counts, scales.num_tokens, scales.balancing, stream);
    }
  } else if (scales.balancing != 0.0) {
    ops::load_balancing_loss(losses.balancing, dprobs, saved.probs, saved.indices, scales.balancing, stream);
  }
  if (scales.lpr != 0.0) {
    ops::lpr_loss_sum(losses.lpr_sum, dprobs, saved.probs, old_mask, scales.lpr_form, scales.lpr, stream);
  }
  if (!weights.router.grad && !dx) return;
  TensorView dlogits = arena.take(saved.probs.shape(), saved.probs.dtype());
  ops::route_backward(dlogits, dweights, dprobs, saved.probs, saved.weights, saved.indices, top_k_ != 1,
                      stream);
  if (release_) dlogits = rounded(dlogits, x.dtype(), arena, stream);
  if (weights.router.grad) {
    ops::linear_backward_weight(weights.router.grad, dlogits, widened(x, arena, stream), stream);
  }
  if (dx) {
    const ConstTensorView router = widened(weights.router.value, arena, stream);
    if (dx.dtype() == dlogits.dtype()) {
      ops::linear_backward_input(dx, dlogits, router, true, stream);
    } else {
      TensorView wide = arena.take(dx.shape(), dlogits.dtype());
      ops::linear_backward_input(wide, dlogits, router, false, stream);
      ops::add_inplace(dx, wide, stream);
    }
  }
}

}  // namespace nmoe::model
