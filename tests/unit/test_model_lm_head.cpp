// Final projection and cross-entropy in chunks: equal to plain loops over the whole batch, in the memory of
// one chunk.
#include <boost/test/unit_test.hpp>

#include "neuronmoe/model/lm_head.hpp"
#include "support/compare.hpp"

using namespace nmoe;
using namespace nmoe::test;

namespace {

constexpr std::int64_t hidden = 6, vocab = 37;

struct Expected {
  std::vector<double> losses, dx, dhead;
};

/// The definition, row by row, in double.
Expected plain(const Tensor& x, const Tensor& head, const Tensor& labels, double scale) {
  const std::int64_t tokens = x.view().dim(0);
  Expected e{std::vector<double>(static_cast<std::size_t>(tokens)),
             std::vector<double>(static_cast<std::size_t>(tokens * hidden)),
             std::vector<double>(static_cast<std::size_t>(vocab * hidden))};
  const double *xs = x.data<double>(), *w = head.data<double>();
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::int32_t label = labels.data<std::int32_t>()[t];
    if (label < 0) continue;
    std::vector<double> p(static_cast<std::size_t>(vocab));
    double sum = 0.0;
    for (std::int64_t v = 0; v < vocab; ++v) {
      double logit = 0.0;
      for (std::int64_t d = 0; d < hidden; ++d) logit += xs[t * hidden + d] * w[v * hidden + d];
      sum += p[static_cast<std::size_t>(v)] = std::exp(logit);
    }
    e.losses[static_cast<std::size_t>(t)] = std::log(sum) - std::log(p[static_cast<std::size_t>(label)]);
    for (std::int64_t v = 0; v < vocab; ++v) {
      const double g = scale * (p[static_cast<std::size_t>(v)] / sum - (v == label ? 1.0 : 0.0));
      for (std::int64_t d = 0; d < hidden; ++d) {
        e.dx[static_cast<std::size_t>(t * hidden + d)] += g * w[v * hidden + d];
        e.dhead[static_cast<std::size_t>(v * hidden + d)] += g * xs[t * hidden + d];
      }
    }
  }
  return e;
}

}  // namespace

BOOST_AUTO_TEST_CASE(chunks_equal_the_whole_and_logits_of_a_batch_never_exist) {
  // Whole chunks, a rest, a rest alone, nothing.
  for (const std::int64_t tokens : {3 * model::lm_head_chunk + 5, 2 * model::lm_head_chunk,
                                    model::lm_head_chunk - 1, std::int64_t{1}, std::int64_t{0}}) {
    const Tensor x = random_tensor({tokens, hidden}, DType::float64, 1),
                 head = random_tensor({vocab, hidden}, DType::float64, 2);
    Tensor labels = random_ids({tokens}, vocab, 3);
    for (std::int64_t t = 2; t < tokens; t += 7) labels.data<std::int32_t>()[t] = -100;
    const Expected expected = plain(x, head, labels, 0.25);
    Tensor losses({tokens}, DType::float64), dx({tokens, hidden}, DType::float64),
        dhead({vocab, hidden}, DType::float64);
    Tensor logits({std::min(model::lm_head_chunk, tokens), vocab}, DType::float64);
    Stream stream;
    model::lm_head_loss(losses.view(), dx.view(), {x.view(), labels.view(), 0.25},
                        {head.view(), dhead.view()}, logits.view(), stream);
    // float64 sums of up to 800 terms of size 1 in another order: 800 · 1.1e-16 at worst.
    const Tolerance bound{1e-13, 1e-13};
    check_close("losses", values(losses.view()), expected.losses, bound);
    check_close("dx", values(dx.view()), expected.dx, bound);
    check_close("dhead", values(dhead.view()), expected.dhead, bound);
    model::CountedMemory listed;
    model::take_buffers<model::LmHeadScratch>(listed, tokens, std::int64_t{vocab}, DType::float64);
    BOOST_TEST(listed.peak_bytes().scratch == Arena::bytes_of(logits.shape(), DType::float64));
  }
}
