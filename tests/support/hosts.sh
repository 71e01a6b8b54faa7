#!/bin/bash
# hosts.sh - N simulated hosts (net+uts+pid+ipc+mount namespaces, one bridge), no Slurm, no ssh, no route to outside.
# Each has two more networks, as real ones do, by which it reaches no other: docker0, with one address everywhere, and eth1.
#   hosts.sh up DIR [N]      hosts n1..nN at 198.18.1.11.. ; DIR/agent is an "ssh" for mpirun: --mca plm_rsh_agent DIR/agent
#   hosts.sh down DIR
#   hosts.sh head DIR CMD...          run CMD (mpirun) on the head host n0: own address and name, outer pid namespace
#   hosts.sh sh DIR HOST CMD...       run CMD on a host
#   hosts.sh cut DIR HOST   / join    silent black hole (bridge port removed: carrier stays up, packets vanish)
#   hosts.sh power DIR HOST           power cut: black hole first, then every process on the host dies
#   hosts.sh boot DIR HOST            the host is there again
#   hosts.sh ipv6 DIR                 from now on eth0 has an address of IPv6 alone: fd00::11.. and fd00::1
set -u; die(){ echo "hosts.sh: $*" >&2; exit 1; }
up(){ local D=$1 N=${2:-2} i ns; mkdir -p $D; D=$(readlink -f $D); local ID=m$(printf %s "$D" | cksum | cut -c1-6)
  echo "D=$D ID=$ID N=$N" >$D/lab.env
  ip netns add ${ID}sw; ip -n ${ID}sw link add br0 type bridge; ip -n ${ID}sw link set br0 up
  echo "127.0.0.1 localhost" >$D/hosts; for i in $(seq $N); do echo "198.18.1.$((10+i)) n$i" >>$D/hosts; done
  for i in $(seq $N); do ns=${ID}n$i; ip netns add $ns; ip -n $ns link set lo up
    ip -n ${ID}sw link add v$i type veth peer name eth0 netns $ns; ip -n ${ID}sw link set v$i master br0 up
    ip -n $ns addr add 198.18.1.$((10+i))/24 dev eth0; ip -n $ns link set eth0 up
    more $ns $i; boot $i; done
  for i in $(seq $N); do await $i; done
  ns=${ID}n0; ip netns add $ns; ip -n $ns link set lo up
  ip -n ${ID}sw link add v0 type veth peer name eth0 netns $ns; ip -n ${ID}sw link set v0 master br0 up
  ip -n $ns addr add 198.18.1.1/24 dev eth0; ip -n $ns link set eth0 up; more $ns 0
  (cat $D/hosts; echo "127.0.1.1 n0.cluster n0") >$D/hosts.head # its own name as Debian has it
  echo "198.18.1.1 n0" >>$D/hosts
  printf '#!/bin/bash\n# remote shell for mpirun: agent HOST COMMAND...  (call it on the head host n0: needs the outer /proc)\nh=$1; shift\ntimeout 2 bash -c "</dev/tcp/$h/9" 2>/dev/null; [ $? = 124 ] && exit 255 # refused at once, unless nothing gets there\nexec nsenter -t $(cat %s/$h.init) -n -u -i -m -p -- sh -c "export TMPDIR=%s/tmp/$h; cd /; $*"\n' $D $D >$D/agent
  chmod +x $D/agent; }
more(){ ip -n $1 link add docker0 type bridge; ip -n $1 addr add 172.17.0.1/16 dev docker0; ip -n $1 link set docker0 up
  ip -n $1 link add eth1 type bridge; ip -n $1 addr add 10.99.0.$((10+$2))/24 dev eth1; ip -n $1 link set eth1 up; }
boot(){ local i=$1; rm -rf $D/n$i.ready $D/tmp/n$i; mkdir -p $D/tmp/n$i # Open MPI's daemons of two hosts must not share one
  setsid nsenter --net=/run/netns/${ID}n$i unshare -u -m -i -p -f --kill-child=KILL --mount-proc \
    bash -c 'hostname node; mount --bind '$D'/hosts /etc/hosts; mount -t tmpfs -o size=1g tmpfs /dev/shm; echo ok >'$D'/n'$i'.ready; while :; do sleep 3600 & wait $!; done' </dev/null >/dev/null 2>&1 &
  echo $! >$D/n$i.outer; disown; }
await(){ local i=$1 k; for k in $(seq 100); do [ -e $D/n$i.ready ] && break; sleep 0.05; done
  cat /proc/$(cat $D/n$i.outer)/task/*/children | tr -d ' ' >$D/n$i.init; }
ipv6(){ local i a; printf '127.0.0.1 localhost\n::1 localhost\n' >$D/hosts.new
  for i in $(seq 0 $N); do a=$((10+i)); [ $i = 0 ] && a=1; ip -n ${ID}n$i addr del 198.18.1.$a/24 dev eth0; ip -n ${ID}n$i addr add fd00::$a/64 dev eth0 nodad
    [ $i = 0 ] || echo "fd00::$a n$i" >>$D/hosts.new; done
  (cat $D/hosts.new; echo "127.0.1.1 n0.cluster n0") >$D/hosts.head
  (cat $D/hosts.new; echo "fd00::1 n0") >$D/hosts; rm $D/hosts.new; }
load(){ D=$(readlink -f $1); . $D/lab.env || die "no lab in $1"; }
on(){ local h=$1; shift; nsenter -t $(cat $D/$h.init) -n -u -i -m -p -- "$@"; }
case ${1:-} in
 up) up $2 ${3:-2};;
 down) load $2; for i in $(seq $N); do kill -KILL $(cat $D/n$i.outer) 2>/dev/null; ip netns del ${ID}n$i; done; ip netns del ${ID}n0; ip netns del ${ID}sw; rm -f $D/n*.outer $D/n*.init $D/n*.ready;;
 head) load $2; shift 2; exec nsenter --net=/run/netns/${ID}n0 unshare -u -m bash -c 'hostname n0; mount --bind '$D'/hosts.head /etc/hosts; exec "$@"' _ "$@";;
 sh) load $2; h=$3; shift 3; on $h "$@";;
 cut) load $2; ip -n ${ID}sw link set v${3#n} nomaster;;
 join) load $2; ip -n ${ID}sw link set v${3#n} master br0;;
 power) load $2; ip -n ${ID}sw link set v${3#n} nomaster; kill -KILL $(cat $D/$3.outer);;
 ipv6) load $2; ipv6;;
 boot) load $2; boot ${3#n}; await ${3#n}; ip -n ${ID}sw link set v${3#n} master br0;;
 *) sed -n 2,11p $0; exit 2;;
esac
