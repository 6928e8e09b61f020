#!/usr/bin/env bash
# Runs a command beside a Slurm of two nodes with two pretended cards each, on this machine, in namespaces of its own: nothing of
# it is left when the command ends. As root, with Debian's slurm-wlm, munge and iproute2:
#   unshare --net --pid --fork --mount --mount-proc tests/slurm/cluster.sh COMMAND...
set -euo pipefail
home=$(mktemp -d)
node=$(hostname -s)
mkdir -p "$home"/{state,log,pid,n1,n2,munge}

# Slurm resolves names only where there is an address besides the loopback's.
ip link set lo up
ip link add nas0 type veth peer name nas1
ip address add 192.0.2.1/32 dev nas0
ip link set nas0 up
ip link set nas1 up

# A key and a socket of its own; munged refuses folders that others may write.
chmod 755 "$home"
chown munge "$home/munge"
(umask 077 && head --bytes=256 /dev/urandom > "$home/munge/key" && chown munge "$home/munge/key")
runuser -u munge -- munged --force --socket="$home/munge/socket" --key-file="$home/munge/key" \
    --pid-file="$home/munge/pid" --log-file="$home/munge/log" --seed-file="$home/munge/seed"

for card in 0 1; do mknod "$home/card$card" c 195 "$card"; done
echo "NodeName=n[1-2] Name=gpu File=$home/card[0-1]" > "$home/gres.conf"
cat > "$home/slurm.conf" <<EOF
ClusterName=nas
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$home/munge/socket
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/%n
SlurmctldPidFile=$home/pid/slurmctld
SlurmdPidFile=$home/pid/%n
SlurmctldLogFile=$home/log/slurmctld
SlurmdLogFile=$home/log/%n
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
KillWait=2
SchedulerParameters=sched_interval=1,batch_sched_delay=0
NodeName=n[1-2] NodeHostname=$node NodeAddr=127.0.0.1 Port=[17101-17102] CPUs=2 RealMemory=2000 Gres=gpu:2
PartitionName=all Nodes=n[1-2] Default=YES MaxTime=INFINITE
EOF
export SLURM_CONF=$home/slurm.conf
slurmctld
slurmd -N n1
slurmd -N n2
for _ in $(seq 100); do
    [ "$(sinfo --noheader --Node --format=%T | grep --count idle)" = 2 ] && break
    sleep 0.1
done
status=0
"$@" || status=$?
# Slurm still writes down how the last jobs ended, into the folder that goes.
for _ in $(seq 100); do
    rm -rf "$home" 2> /dev/null && break
    sleep 0.1
done
exit "$status"
