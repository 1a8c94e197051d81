// Choice of tokens, and the loop in which ranks write their texts side by side.
#include "neuronmoe/evaluation/generation.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "gather.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/base/philox.hpp"
#include "neuronmoe/comm/agree.hpp"

namespace nmoe::evaluation {

namespace {

std::int32_t largest(std::span<const float> logits) {
  std::int32_t best = -1;
  for (std::size_t i = 0; i < logits.size(); ++i)
    if (!std::isnan(logits[i]) && (best < 0 || logits[i] > logits[static_cast<std::size_t>(best)]))
      best = static_cast<std::int32_t>(i);
  NMOE_CHECK(best >= 0 && std::isfinite(logits[static_cast<std::size_t>(best)]), bad_data,
             "no logit of {} is finite: a weight is NaN or infinite", logits.size());
  return best;
}

/// The text that a rank is writing.
struct Writing {
  std::size_t number;
  std::vector<std::int32_t> unread;  // tokens that the model has not seen
  bool restart = true;
  Generated text;
};

constexpr std::size_t record_width =
    3;  // number of the text * 2^32 + place, token, whether it ended the text

}  // namespace

std::int32_t pick_token(std::span<const float> logits, const Sampling& sampling, double uniform) {
  const std::int32_t best = largest(logits);
  if (sampling.temperature == 0.0) return best;
  const double top = logits[static_cast<std::size_t>(best)];
  std::vector<double> weights(logits.size());
  double total = 0.0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double weight = std::exp((static_cast<double>(logits[i]) - top) / sampling.temperature);
    total += weights[i] = std::isnan(weight) ? 0.0 : weight;
  }
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return weights[static_cast<std::size_t>(a)] > weights[static_cast<std::size_t>(b)];
  });
  std::size_t count = 0;
  double kept = 0.0;
  while (count < order.size() && (count == 0 || kept < sampling.top_p * total))
    kept += weights[static_cast<std::size_t>(order[count++])];
  double left = uniform * kept;
  for (std::size_t i = 0; i < count; ++i) {
    left -= weights[static_cast<std::size_t>(order[i])];
    if (left < 0.0) return order[i];
  }
  return order[count - 1];
}

std::vector<Generated> generate_texts(comm::ExecutionContext& context, std::span<const Prompt> prompts,
                                      const Sampling& sampling, const GenerationLimits& limits,
                                      const NextLogits& next_logits, const OnToken& on_token) {
  comm::Communicator& world = context.world;
  const auto stride = static_cast<std::size_t>(world.size());
  auto next = static_cast<std::size_t>(world.rank());
  std::optional<Writing> now;
  std::vector<double> mine;
  const auto finish = [&] {
    const double first = static_cast<double>(now->number) * 0x1.0p32;
    const std::vector<std::int32_t>& ids = now->text.ids;
    for (std::size_t t = 0; t < ids.size(); ++t)
      mine.insert(mine.end(), {first + static_cast<double>(t), static_cast<double>(ids[t]), 0.0});
    if (now->text.ended) mine.insert(mine.end(), {first + static_cast<double>(ids.size()), -1.0, 1.0});
    now.reset();
  };
  const auto step = [&](const Tensor& logits) {
    const Philox random(sampling.seed, RandomPurpose::generation, static_cast<std::uint32_t>(now->number));
    std::vector<std::int32_t>& ids = now->text.ids;
    const std::int32_t token =
        pick_token({logits.data<float>(), static_cast<std::size_t>(logits.num_elements())}, sampling,
                   random.uniform(ids.size()));
    now->restart = false;
    now->unread = {token};
    now->text.ended =
        std::find(limits.end_tokens.begin(), limits.end_tokens.end(), token) != limits.end_tokens.end();
    if (!now->text.ended) ids.push_back(token);
    const auto length = static_cast<std::int64_t>(prompts[now->number].ids.size() + ids.size());
    const bool last = now->text.ended || static_cast<std::int64_t>(ids.size()) >= limits.max_tokens ||
                      length >= limits.max_length;
    if (on_token) on_token(now->number, now->text, last);
    if (last) finish();
  };
  while (true) {
    if (!now && next < prompts.size()) {
      now = Writing{next, prompts[next].ids, true, {}};
      next += stride;
    }
    if (comm::all_reduce_max(world, std::int64_t{now.has_value()}) == 0) break;
    const Tensor logits =
        next_logits(now ? std::span<const std::int32_t>(now->unread) : std::span<const std::int32_t>(),
                    now && now->restart);
    comm::agree(world, [&] {
      if (now) step(logits);
    });
    context.heartbeat.beat();
  }
  std::vector<Generated> texts(prompts.size());
  const std::vector<double> all = gather_records(world, context.stream, mine, record_width);
  for (std::size_t i = 0; i < all.size(); i += record_width) {
    Generated& text = texts[static_cast<std::size_t>(all[i] * 0x1.0p-32)];
    if (all[i + 2] == 1.0)
      text.ended = true;
    else
      text.ids.push_back(static_cast<std::int32_t>(all[i + 1]));
  }
  return texts;
}

}  // namespace nmoe::evaluation
