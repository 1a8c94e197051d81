// Cuts the documents of a token file into blocks of equal length.
#include "neuronmoe/data/packed_dataset.hpp"

#include <algorithm>

#include "neuronmoe/base/error.hpp"

namespace nmoe::data {

PackedDataset::PackedDataset(const DataSetConfig& config, std::shared_ptr<const TokenFile> file,
                             std::int64_t seq_length, bool eos_label, const Packing& packing)
    : name_(config.name),
      file_(std::move(file)),
      seq_length_(seq_length),
      eos_label_(eos_label),
      mark_override_(config.mark),
      start_{0} {
  NMOE_CHECK(seq_length >= 2, config, "seq_length is {}; a sequence needs at least 2 tokens", seq_length);
  int lang = -1;
  if (!config.lang.empty()) {
    lang = file_->language_index(config.lang);
    NMOE_CHECK(lang >= 0, bad_data, "data.{}: {} holds no language \"{}\"", name_, file_->path(),
               config.lang);
  }
  for (std::int64_t doc = 0; doc < file_->num_docs(); ++doc) {
    if (config.max_docs > 0 && num_docs() >= config.max_docs) break;
    if (config.max_tokens > 0 && num_tokens() >= config.max_tokens) break;
    if (lang >= 0 && file_->lang(doc) != lang) continue;
    docs_.push_back(doc);
    start_.push_back(start_.back() + file_->document(doc).size());
  }
  cut_batches(packing);
  NMOE_CHECK(num_blocks_ >= 1, bad_data,
             "data.{}: {} gives {} documents with {} tokens, less "
             "than one sequence of {} in each batch of documents",
             name_, file_->path(), num_docs(), num_tokens(), seq_length_);
}

std::int64_t PackedDataset::num_docs(Mark mark) const {
  return std::count_if(docs_.begin(), docs_.end(), [&](std::int64_t doc) { return mark_of(doc) == mark; });
}

void PackedDataset::cut_batches(const Packing& packing) {
  NMOE_CHECK(packing.batch_docs >= 0 && packing.shards >= 1, config,
             "pack.batch_docs = {} and pack.shards = {}; they must be at least 0 and 1", packing.batch_docs,
             packing.shards);
  const std::int64_t shards = std::clamp<std::int64_t>(num_docs(), 1, packing.shards);
  const std::int64_t share = num_docs() / shards,
                     longer = num_docs() % shards;  // the first ones get one more
  batch_block_ = {0};
  for (std::int64_t shard = 0, doc = 0; shard < shards; ++shard) {
    const std::int64_t end = doc + share + (shard < longer ? 1 : 0);
    while (doc < end) {
      const std::int64_t count = packing.batch_docs > 0 ? std::min(packing.batch_docs, end - doc) : end - doc;
      const std::uint64_t first = start_[static_cast<std::size_t>(doc)],
                          last = start_[static_cast<std::size_t>(doc + count)];
      batch_token_.push_back(first);
      batch_block_.push_back(batch_block_.back() + static_cast<std::int64_t>(last - first) / seq_length_);
      doc += count;
    }
  }
  num_blocks_ = batch_block_.back();
}

Sample PackedDataset::block(std::int64_t index) const {
  NMOE_CHECK(index >= 0 && index < num_blocks_, internal, "data.{}: block {} of {}", name_, index,
             num_blocks_);
  constexpr std::int32_t ignored = -100;
  const auto length = static_cast<std::size_t>(seq_length_);
  Sample sample;
  sample.ids.reserve(length);
  sample.old_mask.reserve(length);
  const auto batch = static_cast<std::size_t>(
      std::upper_bound(batch_block_.begin(), batch_block_.end(), index) - batch_block_.begin() - 1);
  std::uint64_t position =
      batch_token_[batch] + static_cast<std::uint64_t>(index - batch_block_[batch]) * length;
  auto doc =
      static_cast<std::size_t>(std::upper_bound(start_.begin(), start_.end(), position) - start_.begin()) - 1;
  for (; sample.ids.size() < length; ++doc) {
    const auto ids = file_->document(docs_[doc]).subspan(position - start_[doc]);
    const std::size_t count = std::min(ids.size(), length - sample.ids.size());
    const Mark mark = mark_of(docs_[doc]);
    for (std::size_t i = 0; i < count; ++i) sample.ids.push_back(static_cast<std::int32_t>(ids[i]));
    sample.old_mask.insert(sample.old_mask.end(), count, mark == Mark::old_language ? 1 : 0);
    position += count;
  }
  sample.labels.assign(sample.ids.begin() + 1, sample.ids.end());
  sample.labels.push_back(ignored);
  if (!eos_label_) std::replace(sample.labels.begin(), sample.labels.end(), file_->info().eos_id, ignored);
  return sample;
}

}  // namespace nmoe::data
