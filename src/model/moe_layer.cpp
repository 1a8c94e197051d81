// Forward and backward of a mixture-of-experts layer.
#include "neuronmoe/model/moe_layer.hpp"

#include "neuronmoe/ops/transformer.hpp"
#include "neuronmoe/tensor/device.hpp"

namespace nmoe::model {

namespace {

FeedForwardSaved rows_of(const FeedForwardSaved& saved, std::int64_t begin, std::int64_t count) {
  return {saved.x ? saved.x.rows(begin, count) : ConstTensorView(), saved.gate.rows(begin, count),
          saved.up.rows(begin, count)};
}

FeedForwardScratch first_rows(const FeedForwardScratch& buffers, std::int64_t count) {
  return {buffers.h.rows(0, count), buffers.dh.rows(0, count), buffers.dgate.rows(0, count),
          buffers.dup.rows(0, count)};
}

}  // namespace

void MoeLayer::forward(TensorView y, ConstTensorView x, ConstTensorView row_sample, MoeSaved& saved,
                       const LayerPass& pass) const {
  Stream& stream = pass.stream;
  const LayerPlan& plan = pass.plan();
  saved.router = Router(weights_.router).forward(x, pass);
  const auto order = take_buffers<RowOrder>(pass.memory, pass.sizes);
  {
    const ScratchScope scope(pass.memory.scratch);
    const auto counts = take_buffers<RowCounts>(pass.memory, pass.sizes);
    saved.dispatcher = std::make_unique<TokenDispatcher>(
        group_, TokenDispatcher::Choice{pass.sizes.layer, weights_.place_of_expert, saved.router.indices},
        order, counts, stream);
  }
  const TokenDispatcher& dispatcher = *saved.dispatcher;
  const std::int64_t num_rows = dispatcher.num_rows(), num_local = dispatcher.num_local_rows();
  const bool local = dispatcher.is_local();
  saved.rows = take_buffers<MoeRows>(pass.memory, pass.sizes, dispatcher.rows());
  const MoeRows& rows = saved.rows;
  const TensorView expert_out = local ? rows.out_rows.rows(num_local, num_rows - num_local) : rows.expert_out;
  ops::gather_rows(rows.rows, x, dispatcher.token_of_row(), stream);
  Arrivals arriving = dispatcher.dispatch(rows.received, rows.rows, plan.experts, stream);
  run_local(saved, pass);  // while rows of the other experts travel
  arriving.wait();
  run_experts(saved, arriving, expert_out, pass);
  arriving.release();
  if (!local) dispatcher.combine(rows.out_rows, expert_out, stream).wait();
  arriving.reclaim();
  if (pass.observer != nullptr) observe(saved, expert_out, row_sample, pass);
  const RouterSaved& router = saved.router;
  if (pass.sizes.config.release_router) {
    ops::combine_forward_rounded(y, rows.out_rows, dispatcher.row_of_slot(), router.indices,
                                 router.combine_weights, stream);
  } else {
    ops::combine_forward(y, rows.out_rows, dispatcher.row_of_slot(), router.indices, router.combine_weights,
                         false, stream);
  }
}

void MoeLayer::run_local(MoeSaved& saved, const LayerPass& pass) const {
  const TokenDispatcher& dispatcher = *saved.dispatcher;
  const DispatchedRows n = dispatcher.rows();
  saved.base = take_buffers<FeedForwardSaved>(pass.memory, base_sizes(pass.sizes, n));
  saved.base.x = saved.rows.rows.rows(0, n.base);
  saved.replicated = take_buffers<FeedForwardSaved>(pass.memory, replicated_sizes(pass.sizes, n));
  saved.replicated.x = saved.rows.rows.rows(n.base, n.replicated);
  const ScratchScope scope(pass.memory.scratch);
  const auto [h] = take_buffers<FeedForwardHidden>(pass.memory, local_sizes(pass.sizes, n));
  feed_forward_forward(saved.rows.out_rows.rows(0, n.base), saved.base, h.rows(0, n.base), weights_.base,
                       pass.replaced(), pass.stream);
  for (const ExpertBlock& block : dispatcher.local_blocks()) {
    const std::int64_t count = block.end - block.begin;
    FeedForwardSaved part = rows_of(saved.replicated, block.begin - n.base, count);
    feed_forward_forward(saved.rows.out_rows.rows(block.begin, count), part, h.rows(0, count),
                         weights_.experts[static_cast<std::size_t>(block.expert)].front(), {}, pass.stream);
  }
}

void MoeLayer::run_experts(MoeSaved& saved, const Arrivals& inputs, TensorView expert_out,
                           const LayerPass& pass) const {
  const FeedForwardSizes sizes = owned_sizes(pass.sizes, saved.dispatcher->rows());
  saved.experts = take_buffers<FeedForwardSaved>(pass.memory, sizes);
  saved.experts.x = saved.rows.received;
  const ScratchScope scope(pass.memory.scratch);
  const auto [h] = take_buffers<FeedForwardHidden>(pass.memory, sizes);
  for (const ExpertBlock& block : saved.dispatcher->blocks()) {
    const std::int64_t count = block.end - block.begin;
    FeedForwardSaved part{inputs.rows(block), saved.experts.gate.rows(block.begin, count),
                          saved.experts.up.rows(block.begin, count)};
    feed_forward_forward(
        expert_out.rows(block.begin, count), part, h.rows(0, count),
        weights_.experts[static_cast<std::size_t>(block.expert)][static_cast<std::size_t>(block.source)], {},
        pass.stream);
  }
}

void MoeLayer::observe(const MoeSaved& saved, ConstTensorView expert_out, ConstTensorView row_sample,
                       const LayerPass& pass) const {
  const TokenDispatcher& dispatcher = *saved.dispatcher;
  pass.observer->observe_router(pass.sizes.layer, saved.router.probs, saved.router.weights,
                                saved.router.indices, row_sample);
  const std::int64_t num_rows = dispatcher.num_rows(), num_base = dispatcher.num_base_rows();
  const Tensor tokens =
      copied_to(Device::cpu, dispatcher.token_of_row(), pass.stream);  // row_sample is on the host
  Tensor of_rows({num_rows}, DType::int32), of_received({dispatcher.num_received()}, DType::int32);
  const TensorView sample_rows = of_rows.view(), received_sample = of_received.view();
  const auto* sample = row_sample.data<std::int32_t>();
  const auto* token = tokens.data<std::int32_t>();
  for (std::int64_t n = 0; n < num_rows; ++n) sample_rows.data<std::int32_t>()[n] = sample[token[n]];
  Arrivals arrived = dispatcher.dispatch(received_sample, sample_rows, true, pass.stream);
  arrived.wait();

  const auto report = [&](int expert, const FeedForwardSaved& part, ConstTensorView out,
                          ConstTensorView samples) {
    pass.offer(Projection::gate, expert, part.gate, samples);
    pass.offer(Projection::up, expert, part.up, samples);
    pass.offer(Projection::down, expert, out, samples);
  };
  const TensorView out_rows = saved.rows.out_rows;
  report(0, saved.base, out_rows.rows(0, num_base), sample_rows.rows(0, num_base));
  for (const ExpertBlock& block : dispatcher.local_blocks()) {
    const std::int64_t count = block.end - block.begin;
    report(block.expert, rows_of(saved.replicated, block.begin - num_base, count),
           out_rows.rows(block.begin, count), sample_rows.rows(block.begin, count));
  }
  for (const ExpertBlock& block : dispatcher.blocks()) {
    const std::int64_t count = block.end - block.begin;
    report(block.expert, rows_of(saved.experts, block.begin, count), expert_out.rows(block.begin, count),
           arrived.rows(block));
  }
}

void MoeLayer::backward(TensorView dx, ConstTensorView dy, ConstTensorView x, MoeSaved& saved,
                        const RouterLosses& losses, const LayerPass& pass) const {
  const TokenDispatcher& dispatcher = *saved.dispatcher;
  const RouterSaved& router = saved.router;
  Stream& stream = pass.stream;
  const ScratchScope scope(pass.memory.scratch);
  const auto [dweights, narrow] = take_buffers<CombineGradients>(pass.memory, pass.sizes);
  {
    const ScratchScope inner(pass.memory.scratch);
    const auto gradients = take_buffers<ExpertGradients>(pass.memory, pass.sizes, dispatcher.rows());
    ops::combine_backward(gradients.d_rows, dweights, dy, saved.rows.out_rows, dispatcher.row_of_slot(),
                          router.combine_weights, stream);
    // Whether anything flows into the experts is the same on every rank, so all of them skip or join the
    // exchange together.
    if (pass.plan().any_expert_gradient()) {
      restore_inputs(gradients, x, saved, pass);
      backward_experts(gradients, saved, pass);
      if (dx) {
        ops::combine_forward(dx, gradients.dx_rows, dispatcher.row_of_slot(), router.indices, {}, false,
                             stream);
      }
    }
  }
  if (narrow) {  // they are of the model's type there (router.compat = release)
    ops::cast(narrow, dweights, stream);
    ops::cast(dweights, narrow, stream);
  }
  Router(weights_.router).backward(dx, dweights, x, router, losses, pass);
}

void MoeLayer::restore_inputs(const ExpertGradients& gradients, ConstTensorView x, MoeSaved& saved,
                              const LayerPass& pass) const {
  const ConstTensorView token_of_row = saved.dispatcher->token_of_row();
  const DispatchedRows n = saved.dispatcher->rows();
  const auto gather = [&](TensorView rows, std::int64_t first) {
    if (rows) ops::gather_rows(rows, x, token_of_row.rows(first, rows.dim(0)), pass.stream);
    return rows;
  };
  saved.base.x = gather(gradients.base_x, 0);
  saved.replicated.x = gather(gradients.replicated_x, n.base);
  if (n.local || !pass.plan().experts) saved.experts.x = gather(gradients.owned_x, n.base + n.replicated);
}

/// Base and replicated experts.
void MoeLayer::backward_local(const ExpertGradients& gradients, const MoeSaved& saved,
                              const FeedForwardScratch& buffers, Stream& stream) const {
  const TokenDispatcher& dispatcher = *saved.dispatcher;
  const std::int64_t num_base = dispatcher.num_base_rows();
  const auto dx_of = [&](std::int64_t begin, std::int64_t count) {
    return gradients.dx_rows ? gradients.dx_rows.rows(begin, count) : TensorView();
  };
  feed_forward_backward(dx_of(0, num_base), gradients.d_rows.rows(0, num_base), saved.base,
                        first_rows(buffers, num_base), weights_.base, stream);
  for (const ExpertBlock& block : dispatcher.local_blocks()) {
    const std::int64_t count = block.end - block.begin;
    feed_forward_backward(dx_of(block.begin, count), gradients.d_rows.rows(block.begin, count),
                          rows_of(saved.replicated, block.begin - num_base, count),
                          first_rows(buffers, count),
                          weights_.experts[static_cast<std::size_t>(block.expert)].front(), stream);
  }
}

void MoeLayer::backward_experts(const ExpertGradients& gradients, const MoeSaved& saved,
                                const LayerPass& pass) const {
  const TokenDispatcher& dispatcher = *saved.dispatcher;
  const DispatchedRows n = dispatcher.rows();
  const TensorView dx_rows = gradients.dx_rows;
  const std::int64_t num_local = dispatcher.num_local_rows();
  const TensorView dx_received =
      n.local && dx_rows ? dx_rows.rows(num_local, n.all - num_local) : gradients.dx_received;
  Arrivals arriving = dispatcher.dispatch(gradients.d_received, gradients.d_rows, false, pass.stream);
  const auto buffers = take_buffers<FeedForwardScratch>(pass.memory, largest_sizes(pass.sizes, n));
  backward_local(gradients, saved, buffers, pass.stream);  // while the others' rows travel
  arriving.wait();
  for (const ExpertBlock& block : dispatcher.blocks()) {
    const std::int64_t count = block.end - block.begin;
    feed_forward_backward(
        dx_received ? dx_received.rows(block.begin, count) : TensorView(), arriving.rows(block),
        rows_of(saved.experts, block.begin, count), first_rows(buffers, count),
        weights_.experts[static_cast<std::size_t>(block.expert)][static_cast<std::size_t>(block.source)],
        pass.stream);
  }
  arriving.release();
  if (!n.local && dx_rows) dispatcher.combine(dx_rows, dx_received, pass.stream).wait();
  arriving.reclaim();
}

Flops moe_flops(const LayerSizes& s, std::span<const std::int64_t> slots_of_expert, std::int64_t num_computed,
                std::int64_t num_trained) {
  Flops flops = router_flops(s);
  const bool input = s.plan.mlp_input;
  for (const Flops& part :
       {feed_forward_flops(s.config, slots_of_expert.front(), input, s.plan.base_mlp_weights),
        feed_forward_flops(s.config, num_computed - num_trained, input, false),
        feed_forward_flops(s.config, num_trained, input, true)}) {
    flops.forward += part.forward;
    flops.backward += part.backward;
  }
  return flops;
}

}  // namespace nmoe::model
