#!/bin/busybox sh
# The guest's first process: loads the modules, mounts what the host shares, and hands over to the agent.
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mkdir -p /dev/shm
mount -t tmpfs shm /dev/shm
chmod 1777 /tmp /dev/shm
modprobe -a @MODULES@
mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=loose host /host || echo "slipring: no share"
# Memory that is reserved and hardly touched is no memory, as on the host.
echo 1 >/proc/sys/vm/overcommit_memory
# What the kernel says from here on is on the console.
dmesg -n 7
stty -F /dev/ttyS1 raw -echo
/host/harness --inside
echo "slipring: the agent ended with status $?"
poweroff -f
