#pragma once
// A machine as `neuronmoe plan` sees it: the [machine] section of a config (configs/machines/*.cfg).
#include <concepts>
#include <string>
#include <type_traits>

#include "neuronmoe/base/fields.hpp"

namespace nmoe::train {

/// Rates are per GPU (or per rank where there is none); 1 GB = 1e9 bytes.
struct MachineConfig {
  std::string name = "laptop";
  int nodes = 1;
  int gpus_per_node = 1;
  double gemm_tflops = 0.2;      ///< measured rate of large matrix products
  double gemm_efficiency = 0.6;  ///< share of it that a training step reaches
  double memory_gb = 16.0;
  double link_gbs = 5.0;        ///< to another GPU of the node
  double network_gbs = 0.0;     ///< to another node; 0 = there is none
  double latency_us = 5.0;      ///< of one hop of a ring
  double gpu_context_mb = 0.0;  ///< CUDA context and kernels of a rank; 0: it computes on no GPU
  /// Channels of an NCCL communicator to each GPU of its node: the 32 that NCCL makes on an H100 node at the
  /// first all-to-all (NVIDIA/nccl issue 1685).
  int nccl_channels = 32;
  double gemm_efficiency_low = 0.0;   ///< 0: 2/3 of gemm_efficiency
  double gemm_efficiency_high = 0.0;  ///< 0: 5/4 of it, at most 1
  /// Of a rank: hash, write, read back and sync. Measured on one rank of the 2-core machine of
  /// docs/performance.md, 669 MB.
  double save_gbs = 0.167;
  double storage_gbs = 0.0;  ///< what the file system takes from all ranks together; 0: not known, no bound
  /// Time of one GPU (or rank) between failures that end a job: 16,384 GPUs, 54 days, 419 unexpected
  /// interruptions while Llama 3 was trained.
  double mtbf_gpu_hours = 50000.0;
};

template <class Config, class F>
requires std::same_as<std::remove_const_t<Config>, MachineConfig>
void for_each_field(Config& c, F&& f) {
  f("machine.name", c.name, FieldInfo{.help = "name of the machine in the report"});
  f("machine.nodes", c.nodes,
    FieldInfo{.help = "nodes of the planned run", .unit = "nodes", .min = 1, .max = 65536});
  f("machine.gpus_per_node", c.gpus_per_node,
    FieldInfo{.help = "GPUs (or ranks) of a node", .min = 1, .max = 1024});
  f("machine.gemm_tflops", c.gemm_tflops,
    FieldInfo{.help = "rate of large matrix products, measured",
              .unit = "TFLOP/s per GPU",
              .min = 1e-6,
              .max = 1e6});
  f("machine.gemm_efficiency", c.gemm_efficiency,
    FieldInfo{.help = "fraction of that rate that a training step reaches", .min = 0.001, .max = 1});
  f("machine.memory_gb", c.memory_gb,
    FieldInfo{.help = "memory of a GPU", .unit = "GB", .min = 0.001, .max = 1e6});
  f("machine.link_gbs", c.link_gbs,
    FieldInfo{.help = "bandwidth to a GPU of the same node, one direction",
              .unit = "GB/s per GPU",
              .min = 1e-3,
              .max = 1e6});
  f("machine.network_gbs", c.network_gbs,
    FieldInfo{.help = "bandwidth to another node, one direction; 0 = only one node",
              .unit = "GB/s per GPU",
              .min = 0,
              .max = 1e6});
  f("machine.latency_us", c.latency_us,
    FieldInfo{.help = "latency of one hop of a ring", .unit = "us", .min = 0, .max = 1e6});
  f("machine.gpu_context_mb", c.gpu_context_mb,
    FieldInfo{.help = "CUDA context and kernels of a rank; 0 = no GPU", .unit = "MB", .min = 0, .max = 1e6});
  f("machine.nccl_channels", c.nccl_channels,
    FieldInfo{.help = "channels of an NCCL communicator to each GPU of the node, 12 MiB each",
              .min = 0,
              .max = 1024});
  f("machine.gemm_efficiency_low", c.gemm_efficiency_low,
    FieldInfo{.help = "the same share for the high estimate of time; 0 = 2/3 of machine.gemm_efficiency",
              .min = 0,
              .max = 1,
              .layout = true});
  f("machine.gemm_efficiency_high", c.gemm_efficiency_high,
    FieldInfo{.help = "the same share for the low estimate of time; 0 = 5/4 of it, at most 1",
              .min = 0,
              .max = 1,
              .layout = true});
  f("machine.save_gbs", c.save_gbs,
    FieldInfo{.help = "rate of saving a checkpoint: hash, write, read back, sync",
              .unit = "GB/s per rank",
              .min = 1e-6,
              .max = 1e6,
              .layout = true});
  f("machine.storage_gbs", c.storage_gbs,
    FieldInfo{.help = "what the file system takes from all ranks together; 0 = not known",
              .unit = "GB/s",
              .min = 0,
              .max = 1e6,
              .layout = true});
  f("machine.mtbf_gpu_hours", c.mtbf_gpu_hours,
    FieldInfo{.help = "time of one GPU between failures that end a job",
              .unit = "GPU-hours",
              .min = 0.01,
              .max = 1e9,
              .layout = true});
}

}  // namespace nmoe::train
