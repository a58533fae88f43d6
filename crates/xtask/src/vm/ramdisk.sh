#!/bin/busybox sh
# The machine's first program: reaches the host's files and goes over to them.
set -e
b=/bin/busybox
$b mkdir -p /proc /host /layer /root
$b mount -t proc proc /proc
for module in /modules/*.ko; do $b insmod "$module"; done
$b mount -t virtiofs -o ro host /host
$b mount -t tmpfs layer /layer
$b mkdir /layer/upper /layer/work
$b mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work root /root
suite=$($b sed -n 's/.*atoll\.suite=\([^ ]*\).*/\1/p' /proc/cmdline)
exec $b switch_root /root /bin/bash "$suite"
