#!/bin/sh
# Gets this machine ready for the tests on simulated nodes and hosts; where it cannot be, says why on
# standard output and fails.
set -eu

packages="slurmctld slurmd slurm-client munge iproute2 libpmix-dev"

[ "$(id -u)" = 0 ] || { echo "they need root"; exit 1; }
command -v apt-get >/dev/null || { echo "they need Debian's packages: $packages"; exit 1; }
missing=""
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$' ||
        missing="$missing $package"
done
if [ -n "$missing" ]; then
    { apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -qq $missing
    } >/dev/null 2>&1 || { echo "these packages cannot be installed:$missing"; exit 1; }
fi
ls /usr/lib/*/slurm*/mpi_pmix*.so >/dev/null 2>&1 || { echo "this Slurm has no PMIx"; exit 1; }
name=tandem$$
{ ip netns add $name && ip netns del $name && unshare -u -m -i -p -f --mount-proc true
} >/dev/null 2>&1 || { echo "this machine allows no namespaces of its own"; exit 1; }
# The way that the nodes of the cluster are entered.
folder=$(mktemp -d)
mknod "$folder/gpu" c 1 3 2>/dev/null || { rm -rf "$folder"; echo "mknod is not allowed"; exit 1; }
rm -rf "$folder"
