#!/bin/bash
# cluster.sh - a throw-away Slurm cluster of N simulated nodes on one machine (no systemd, root).
#   cluster.sh up   DIR [-n NODES] [-g GPUS] [-c CPUS] [-m multi|netns] [-o]
#   cluster.sh down DIR
#   cluster.sh run  [same options] -- CMD...     up in a fresh temp dir, run CMD, always down
#   cluster.sh kill-node DIR NODE                power-fail a node: slurmd and every task on it
#   cluster.sh cut|join|power DIR NODE           netns only: network black hole / undo / black hole and then kill-node
#   cluster.sh start-node DIR NODE
#   cluster.sh exec DIR CMD...                   run CMD where the Slurm commands work
# multi: N slurmds on 127.0.0.1 with different ports (Debian's slurmd has MULTIPLE_SLURMD); own hostname, pid, ipc and mount namespace each.
# netns: each node has its own net+uts+pid namespace and address; the controller too; no route to outside.
# -o: other names, netns only. Each node calls itself node.cluster, which is 127.0.1.1 there, and n1, as Slurm has it, leads nowhere.
# Needs: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge iproute2 (for srun --mpi=pmix also libpmix2 and libpmix-dev: the plugin opens "libpmix.so")
set -u
NODES=2 GPUS=8 CPUS=16 MODE=multi OTHER= BASEPORT=${BASEPORT:-17800} EXTRA=${EXTRA_CONF:-}
die(){ echo "cluster.sh: $*" >&2; exit 1; }
opts(){ while [ $# -gt 0 ]; do case $1 in
  -n) NODES=$2; shift 2;; -g) GPUS=$2; shift 2;; -c) CPUS=$2; shift 2;; -m) MODE=$2; shift 2;; -o) OTHER=1; shift;;
  --) shift; REST=("$@"); return;; *) die "bad option $1";; esac; done; }
load(){ D=$(readlink -f "$1"); [ -f "$D/lab.env" ] || die "no cluster in $1"; . "$D/lab.env"; export SLURM_CONF=$D/slurm.conf; }
# nsenter, not "ip netns exec": that one remounts /sys, and slurmd dies on the missing /sys/fs/cgroup
inctl(){ if [ $MODE = netns ]; then nsenter --net=/run/netns/${ID}c unshare -u -m bash -c 'hostname ctl; mount --bind '$D'/hosts /etc/hosts; exec "$@"' _ "$@"; else "$@"; fi; }
alive(){ [ -d /proc/$1 ] && ! grep -q '^State:.*Z' /proc/$1/status 2>/dev/null; }   # a zombie still answers kill -0
gone(){ local k; for k in $(seq 100); do alive $1 || return 0; sleep 0.05; done; return 1; }
start_node(){ local n=$1 ns="" host=$1; [ -n "$OTHER" ] && host=node.cluster; [ $MODE = netns ] && ns="nsenter --net=/run/netns/$ID$n"
  # own pid namespace: killing $n.outer.pid kills its init and so slurmd, every slurmstepd and every task at once (a power cut);
  # own uts namespace: own hostname; own mount namespace: own /etc/hosts, /proc, /dev/shm (and sysv ipc: no shared-memory MPI between "nodes"),
  # own folder for Open MPI's daemons (they clean up after each other if the nodes' names are alike);
  # and own PMIx temp dir (else srun --mpi=pmix: "Cannot create directory /tmp/spmix_appdir_0_1.0: File exists" on the 2nd node)
  mkdir -p $D/tmp/$n; chmod 1777 $D/tmp/$n
  (cat /etc/openmpi/openmpi-mca-params.conf; echo "orte_tmpdir_base = $D/tmp/$n") >$D/tmp/$n.conf
  setsid $ns unshare -u -m -i -p -f --kill-child=KILL --mount-proc \
    bash -c 'hostname '$host'; mount --bind '$D/hosts${OTHER:+.$n}' /etc/hosts; mount -t tmpfs -o size=1g tmpfs /dev/shm; mount -t tmpfs tmpfs '$D'/pmix; mount --bind '$D/tmp/$n.conf' /etc/openmpi/openmpi-mca-params.conf; slurmd -D -f '$D/slurm.conf' -N '$n' & wait $!' \
    >>$D/log/$n.out 2>&1 </dev/null &
  echo $! >$D/$n.outer.pid; disown $!; }
stop_node(){ local p; p=$(cat $D/$1.outer.pid 2>/dev/null) || return 0; kill -KILL $p 2>/dev/null; gone $p; wait $p 2>/dev/null; rm -f $D/$1.outer.pid; }
up(){ D=$(readlink -f "$1"); mkdir -p $D/state $D/log $D/dev $D/pmix; echo "PMIxCliTmpDirBase=$D/pmix" >$D/mpi.conf; chmod 755 $D
  ID=s$(printf %s "$D" | cksum | cut -c1-6); H=$(hostname -s)
  ( umask 077; head -c 128 /dev/urandom >$D/munge.key )
  { echo "D=$D ID=$ID MODE=$MODE NODES=$NODES OTHER=$OTHER"; } >$D/lab.env
  for i in $(seq 0 $((GPUS-1))); do [ -e $D/dev/nvidia$i ] || mknod $D/dev/nvidia$i c 1 3; done
  local g1="" ; if [ $GPUS -gt 0 ]; then g1="Gres=gpu:$GPUS"; echo "Name=gpu File=$D/dev/nvidia[0-$((GPUS-1))]" >$D/gres.conf; fi
  if [ $MODE = netns ]; then
    ip netns add ${ID}c; ip -n ${ID}c link set lo up; ip -n ${ID}c link add br0 type bridge; ip -n ${ID}c addr add 198.18.0.1/24 dev br0; ip -n ${ID}c link set br0 up
    printf '127.0.0.1 localhost\n198.18.0.1 ctl\n' >$D/hosts
    for i in $(seq $NODES); do ip netns add ${ID}n$i; ip -n ${ID}n$i link set lo up
      ip -n ${ID}c link add v$i type veth peer name eth0 netns ${ID}n$i
      ip -n ${ID}c link set v$i master br0 up; ip -n ${ID}n$i addr add 198.18.0.$((10+i))/24 dev eth0; ip -n ${ID}n$i link set eth0 up
      if [ -n "$OTHER" ]; then (cat $D/hosts; echo "127.0.1.1 node.cluster node") >$D/hosts.n$i
      else echo "198.18.0.$((10+i)) n$i" >>$D/hosts; fi; done
    CTL="ctl(198.18.0.1)"; NODELINES=$(for i in $(seq $NODES); do echo "NodeName=n$i NodeHostname=n$i NodeAddr=198.18.0.$((10+i)) Port=$((BASEPORT+20))"; done)
  else
    CTL="$H(127.0.0.1)"; cp /etc/hosts $D/hosts; for i in $(seq $NODES); do echo "127.0.0.1 n$i"; done >>$D/hosts
    NODELINES=$(for i in $(seq $NODES); do echo "NodeName=n$i NodeHostname=n$i NodeAddr=127.0.0.1 Port=$((BASEPORT+20+i))"; done)
  fi
  cat >$D/slurm.conf <<EOC
ClusterName=lab
SlurmctldHost=$CTL
SlurmctldPort=$((BASEPORT+17))
SlurmctldParameters=preempt_send_user_signal
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# cred_expire is also how long a requeued job must wait before it starts again (default 120 s)
AuthInfo=socket=$D/munge.sock,cred_expire=${CRED_EXPIRE:-5}
CredType=cred/munge
StateSaveLocation=$D/state
SlurmctldPidFile=$D/slurmctld.pid
SlurmctldLogFile=$D/log/slurmctld.log
SlurmdPidFile=$D/slurmd-%n.pid
SlurmdLogFile=$D/log/slurmd-%n.log
SlurmdSpoolDir=$D/spool-%n
# believe the CPUs and memory below, not the real machine
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
# small timeouts, for tests of node loss and of time limits
SlurmctldTimeout=10
SlurmdTimeout=${SLURMD_TIMEOUT:-10}
MessageTimeout=${MESSAGE_TIMEOUT:-5}
TCPTimeout=1
KillWait=${KILLWAIT:-5}
UnkillableStepTimeout=10
BatchStartTimeout=10
OverTimeLimit=0
MinJobAge=600
InactiveLimit=0
JobRequeue=1
JobCompType=jobcomp/filetxt
JobCompLoc=$D/log/jobcomp.txt
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2${SCHED_EXTRA:+,$SCHED_EXTRA}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
DebugFlags=${DEBUGFLAGS:-}
EOC
  [ $GPUS -gt 0 ] && echo GresTypes=gpu >>$D/slurm.conf
  sed -i '/^DebugFlags=$/d' $D/slurm.conf
  printf '%s\n' "$NODELINES" | while read -r l; do echo "$l CPUs=$CPUS Boards=1 SocketsPerBoard=1 CoresPerSocket=$CPUS ThreadsPerCore=1 RealMemory=4000 $g1 State=UNKNOWN"; done >>$D/slurm.conf
  cat >>$D/slurm.conf <<EOC
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=${GRACE:-0}
PartitionName=low Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=CANCEL GraceTime=20
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
EOC
  [ -n "$EXTRA" ] && printf '%b\n' "$EXTRA" >>$D/slurm.conf
  export SLURM_CONF=$D/slurm.conf
  inctl munged --force --key-file=$D/munge.key --socket=$D/munge.sock --pid-file=$D/munged.pid --log-file=$D/log/munged.log --seed-file=$D/munge.seed --num-threads=2 --origin=127.0.0.1 || die "munged"
  inctl slurmctld -f $D/slurm.conf || die slurmctld
  for i in $(seq $NODES); do start_node n$i; done
  local k; for k in $(seq 150); do [ "$(inctl sinfo -h -p main -t idle -o %D 2>/dev/null)" = $NODES ] && return 0; sleep 0.1; done
  inctl sinfo -N -l; tail -n 20 $D/log/*.log >&2; die "nodes did not come up"; }
down(){ load "$1"
  local i p
  for i in $(seq $NODES); do stop_node n$i; done
  for p in slurmctld munged; do i=$(cat $D/$p.pid 2>/dev/null) || continue; kill $i 2>/dev/null; gone $i || kill -KILL $i 2>/dev/null; done
  if [ $MODE = netns ]; then for i in $(seq $NODES); do ip netns del ${ID}n$i; done; ip netns del ${ID}c; fi; }
case ${1:-} in
 up) dir=$2; shift 2; mkdir -p $dir; opts "$@"; up $dir;;
 down) down $2;;
 kill-node) load $2; stop_node $3;;
 start-node) load $2; start_node $3;;
 cut) load $2; ip -n ${ID}c link set v${3#n} nomaster;;          # netns only: silent black hole
 join) load $2; ip -n ${ID}c link set v${3#n} master br0;;
 power) load $2; ip -n ${ID}c link set v${3#n} nomaster; stop_node $3;;   # no FIN/RST leaves the node
 exec) load $2; shift 2; inctl "$@";;
 run) shift; REST=(); opts "$@"; dir=$(mktemp -d "${TMPDIR:-/tmp}/slurmlab.XXXXXX"); trap 'down $dir; [ -n "${KEEP:-}" ] || rm -rf $dir' EXIT; trap 'exit 143' TERM INT; up $dir; export LAB=$dir; inctl "${REST[@]}";;
 *) sed -n 2,14p $0; exit 2;;
esac
