#!/bin/bash
# Runs one worker on each of several simulated hosts: network namespaces, a bridge, and rate-limited
# links. Needs root, iproute2 and Open MPI.
#
# usage: network.sh RANKS RATE [arguments of `tandem-worker`]
#        network.sh 2 200mbit bench reduce --reproducible
set -eu
ranks=$1 rate=$2
shift 2
worker=$(dirname "$(readlink -f "$0")")/../../target/release/tandem-worker
worker=${TANDEM_WORKER:-$worker}
lab=tandem$$
agent=$(mktemp)
tidy() {
  for host in $(seq 0 "$ranks") switch; do ip netns del "$lab-$host" 2>/dev/null || true; done
  rm -f "$agent"
}
trap tidy EXIT

ip netns add "$lab-switch"
ip -n "$lab-switch" link add bridge type bridge
ip -n "$lab-switch" link set bridge up
hosts=
# Host 0 runs mpirun, the others one rank each.
for host in $(seq 0 "$ranks"); do
  ip netns add "$lab-$host"
  ip -n "$lab-switch" link add "port$host" type veth peer name eth0 netns "$lab-$host"
  ip -n "$lab-switch" link set "port$host" master bridge up
  ip -n "$lab-$host" addr add "198.18.2.$((host + 1))/24" dev eth0
  ip -n "$lab-$host" link set lo up
  ip -n "$lab-$host" link set eth0 up
  if [ "$host" -gt 0 ]; then
    hosts=$hosts,198.18.2.$((host + 1)):1
    ip netns exec "$lab-$host" tc qdisc add dev eth0 root tbf rate "$rate" burst 256kb latency 500ms
  fi
done

# Replaces ssh, and gives each host its own name.
cat >"$agent" <<AGENT
#!/bin/bash
host=\$((\${1##*.} - 1)); shift
exec ip netns exec $lab-\$host unshare -u sh -c "hostname host\$host; \$*"
AGENT
chmod +x "$agent"

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
timeout 600 ip netns exec "$lab-0" mpirun -n "$ranks" -H "${hosts#,}" --bind-to none \
  -x OMP_NUM_THREADS \
  --mca plm rsh --mca plm_rsh_agent "$agent" --mca plm_rsh_no_tree_spawn 1 \
  --mca pml ob1 --mca btl tcp,self --mca btl_tcp_if_include eth0 --mca oob_tcp_if_include eth0 \
  --mca mpi_yield_when_idle 1 "$worker" "$@"
