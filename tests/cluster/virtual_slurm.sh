#!/usr/bin/env bash
# A Slurm of several nodes on this machine, for the tests of slurm/ and launch/run.sh: munged, slurmctld and a slurmd per node
# in a folder of their own; the machine's Slurm and munge, if it has them, are left alone.
#   virtual_slurm.sh up DIR [NODES] [GPUS]   NODES (2) nodes n1, n2, ... with GPUS (2) cores and as many GPUs in name only
#   virtual_slurm.sh down DIR                ends them
# `source DIR/environment` makes sbatch, srun and the programs under them use it.
set -euo pipefail
action=${1:-} dir=${2:-}
if [[ $action != up && $action != down || -z $dir ]]; then
  echo "usage: virtual_slurm.sh up|down DIR [NODES] [GPUS]" >&2
  exit 78
fi

if [[ $action == down ]]; then
  for file in "$dir"/pid/slurmd-*.pid "$dir"/pid/slurmctld.pid "$dir"/pid/munged.pid; do
    [[ ! -s $file ]] || kill "$(<"$file")" 2>/dev/null || true
  done
  for _ in $(seq 50); do
    left=0
    for file in "$dir"/pid/*.pid; do
      if [[ -s $file ]] && kill -0 "$(<"$file")" 2>/dev/null; then left=1; fi
    done
    ((left)) || exit 0
    sleep 0.1
  done
  for file in "$dir"/pid/*.pid; do
    [[ ! -s $file ]] || kill -KILL "$(<"$file")" 2>/dev/null || true
  done
  exit 0
fi

nodes=${3:-2} gpus=${4:-2}
export PATH=$PATH:/usr/sbin:/sbin
for program in slurmctld slurmd munged mungekey; do
  command -v "$program" >/dev/null || { echo "virtual_slurm.sh: $program is not there; install slurm-wlm and munge" >&2; exit 70; }
done
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
mkdir -p "$dir"/{state,log,pid,munge}
chmod 700 "$dir/munge"
host=$(hostname -s) user=$(id -un)
# A port for slurmctld and one for each slurmd, drawn so that two of these on one machine do not meet.
port=$((20000 + RANDOM % 20000))

rm -f "$dir/munge/key"
mungekey --create --keyfile="$dir/munge/key"
munged --socket="$dir/munge/socket" --key-file="$dir/munge/key" --pid-file="$dir/pid/munged.pid" \
  --log-file="$dir/log/munged.log" --seed-file="$dir/munge/seed" --num-threads=2 --force
# Characters devices that every machine has stand for GPUs: Slurm wants some, and programs see their number only.
devices=(/dev/zero /dev/full /dev/null /dev/random)
((gpus <= ${#devices[@]})) || { echo "virtual_slurm.sh: at most ${#devices[@]} GPUs" >&2; exit 78; }
for ((n = 1; n <= nodes; ++n)); do
  mkdir -p "$dir/spool/n$n" "$dir/tmp/n$n" # TmpFS: PMIx makes folders of one name there
done
cat >"$dir/slurm.conf" <<C
ClusterName=virtual
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
# cred_expire is also how long a requeued job waits before it starts again (2 minutes by default).
AuthInfo=socket=$dir/munge/socket,cred_expire=${NMOE_REQUEUE_S:-5}
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
TmpFS=$dir/tmp/%n
SlurmctldPidFile=$dir/pid/slurmctld.pid
SlurmdPidFile=$dir/pid/slurmd-%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=${NMOE_TASK_PLUGIN:-task/none}
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=1,sched_interval=1
MpiDefault=none
ReturnToService=2
KillWait=${NMOE_KILL_WAIT:-10}
GresTypes=gpu
NodeName=n[1-$nodes] NodeHostName=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + nodes))] CPUs=$((gpus * ${NMOE_CORES_PER_GPU:-1})) Boards=1 SocketsPerBoard=1 CoresPerSocket=$((gpus * ${NMOE_CORES_PER_GPU:-1})) ThreadsPerCore=1 RealMemory=4000 Gres=gpu:$gpus State=UNKNOWN
PartitionName=debug Nodes=n[1-$nodes] Default=YES MaxTime=INFINITE State=UP
C
files=$(IFS=, && echo "${devices[*]:0:gpus}")
: >"$dir/gres.conf"
for file in ${files//,/ }; do
  echo "NodeName=n[1-$nodes] Name=gpu File=$file Flags=nvidia_gpu_env" >>"$dir/gres.conf"
done
cat >"$dir/environment" <<C
export SLURM_CONF=$dir/slurm.conf
# Ranks of virtual nodes share one host: Open MPI's shared memory takes them for neighbors and its TCP may fail in MPI_Init
# (4.1.4), so messages go through libfabric.
export OMPI_MCA_pml=cm OMPI_MCA_mtl=ofi OMPI_MCA_mtl_ofi_provider_include='tcp;ofi_rxm' FI_TCP_IFACE=lo
export OMPI_MCA_mpi_yield_when_idle=1
C
export SLURM_CONF=$dir/slurm.conf
slurmctld
for ((n = 1; n <= nodes; ++n)); do slurmd -N "n$n"; done
for _ in $(seq 150); do
  idle=$(sinfo -h -N -t idle -o %N 2>/dev/null | sort -u | wc -l) || idle=0
  if ((idle == nodes)); then
    echo "virtual_slurm.sh: $nodes nodes are idle"
    exit 0
  fi
  sleep 0.2
done
echo "virtual_slurm.sh: Slurm did not start; logs in $dir/log:" >&2
tail -n 5 "$dir"/log/*.log >&2
"$0" down "$dir"
exit 70
