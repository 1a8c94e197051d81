# Alps (CSCS: Daint, Clariden, Santis): 4 GH200 per node, Slingshot 11, Slurm. Sourced by launch/run.sh with NMOE_SITE=alps.
# From the site's documentation of 2026-08-20 (github.com/eth-cscs/cscs-docs, commit 80abed1), untried. Behind each line stands
# the page below docs/ that says it.
#
# Cray MPICH, which the site recommends (software/communication/cray-mpich.md), in the uenv prgenv-gnu (versions 25.11 and 26.3
# have compiler, CMake, parallel HDF5, Boost, fmt, CUDA, NCCL and its plug-in; the rest of docs/install.md comes from Spack):
#   sbatch --uenv=prgenv-gnu/25.11:v1 --view=default ...                         (software/uenv/using.md, prgenv/prgenv-gnu.md)
# Open MPI 5 instead, "on a best effort basis": uenv prgenv-gnu-openmpi and NMOE_MPI=pmix.
# A container instead: packaging/alps.toml, NMOE_MPI=pmix and NMOE_SRUN_OPTIONS="--environment=/path/to/alps.toml".
# shellcheck shell=bash

: "${NMOE_MPI:=cray_shasta}" # Slurm's name for what Cray MPICH expects (docs.isambard.ac.uk, guides/mpi: the same system)
if [[ $NMOE_MPI == cray_shasta ]]; then
  # No pointer of a GPU reaches MPI here. Beside NCCL, GPU-aware MPI "can easily lead to deadlocks" (software/communication/nccl.md),
  # and with drivers from 580 on it slows messages of host memory (software/communication/cray-mpich.md).
  export MPICH_GPU_SUPPORT_ENABLED=0
  # For runs on /ritom, which is NFS to ROMIO: ROMIO_FSTYPE_FORCE and MPICH_MPIIO_HINTS of guides/storage.md, "VAST tuning on Ritom".
else # software/communication/openmpi.md
  export PMIX_MCA_psec=${PMIX_MCA_psec:-native} # the security domain of Slurm
  export FI_PROVIDER=${FI_PROVIDER:-cxi} # Slingshot; also inside a node, over the network card ("lnx" is faster there, experimental)
  export OMPI_MCA_pml=${OMPI_MCA_pml:-cm} # point-to-point messages
  export OMPI_MCA_mtl=${OMPI_MCA_mtl:-ofi} # by libfabric
fi

# NCCL over libfabric: software/communication/nccl_env_vars, the values of which the hook of a container sets by itself.
export NCCL_NET="${NCCL_NET:-AWS Libfabric}" # ends if the plug-in is missing, instead of falling back to TCP. Never with NCCL_NET_PLUGIN=ofi
export NCCL_NET_GDR_LEVEL=${NCCL_NET_GDR_LEVEL:-PHB} # GPU and network card of one NUMA node talk directly
export NCCL_CROSS_NIC=${NCCL_CROSS_NIC:-1}
export NCCL_PROTO=${NCCL_PROTO:-^LL128} # from NCCL 2.27 on by default, and slower on Slingshot
export FI_CXI_DEFAULT_CQ_SIZE=${FI_CXI_DEFAULT_CQ_SIZE:-131072}
export FI_CXI_DEFAULT_TX_SIZE=${FI_CXI_DEFAULT_TX_SIZE:-16384}
export FI_CXI_DISABLE_HOST_REGISTER=${FI_CXI_DISABLE_HOST_REGISTER:-1}
export FI_CXI_RX_MATCH_MODE=${FI_CXI_RX_MATCH_MODE:-software}
export FI_MR_CACHE_MONITOR=${FI_MR_CACHE_MONITOR:-userfaultfd}
# Sends and receives, of which an exchange of tokens between experts is made (software/communication/nccl.md, known issues).
export NCCL_NCHANNELS_PER_NET_PEER=${NCCL_NCHANNELS_PER_NET_PEER:-4}
# If NCCL hangs (the same page): export FI_CXI_RDZV_GET_MIN=0 FI_CXI_RDZV_THRESHOLD=0 FI_CXI_RDZV_EAGER_SIZE=0

# Every rank sees the four GPUs of its node and takes one: the site's --gpus-per-task=1 (running/slurm.md) sets CUDA_VISIBLE_DEVICES
# only; launch/run.sh asks for GPUs by node.
