# Environment of a laptop, a CI box or a few hosts with Open MPI from Debian. Sourced by launch/run.sh.
# shellcheck shell=bash

# Open MPI refuses root (containers) unless both are set; one alone is not enough.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# More ranks than cores is normal in tests.
export OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
# MPI-IO through ROMIO: with Open MPI's own (ompio) a full disk is reported as success and the last good
# checkpoint is lost. Open MPI 4 calls it romio321, 5 calls it romio341.
if [[ -z ${OMPI_MCA_io:-} ]]; then
  case $(mpirun --version 2>/dev/null | head -n 1) in
    *"Open MPI) 5."*) export OMPI_MCA_io=romio341 ;;
    *) export OMPI_MCA_io=romio321 ;;
  esac
fi
# A waiting rank gives its core away. Each rank has a communication thread beside its workers, and threads fill the
# cores, so somebody always wants it (2 cores, 4 ranks: 15 ms -> 0.05 ms per exchange).
export OMPI_MCA_mpi_yield_when_idle=1
# One host: no network card is asked for (a container without one makes Open MPI complain or wait). Several hosts need one.
if [[ -z ${NMOE_HOSTFILE:-${PBS_NODEFILE:-}} ]]; then
  export OMPI_MCA_btl=${OMPI_MCA_btl:-self,vader} OMPI_MCA_btl_vader_single_copy_mechanism=none
fi
