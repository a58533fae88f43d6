# Runs in the machine, as its first process: makes it a Debian 12 host with cgroup v2,
# runs the tests in a cgroup like a service's, says how they ended, and turns it off.
# $repository, $modules, $tests and $path are set above this line.
export HOME=/root LANG=C.UTF-8 TERM=dumb PATH="$path"
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t tmpfs run /run
mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
mkdir -p /lib/modules /scratch
mount --bind "$modules" /lib/modules
# Not empty, as no disk in use is.
mkfs.ext4 -q -F /dev/vda && mount /dev/vda /scratch && fallocate -l 512M /scratch/.ballast
ip link set lo up
echo 1 >/proc/sys/kernel/panic_on_oops

# As systemd has it.
echo '+cpu +io +memory +pids' >/sys/fs/cgroup/cgroup.subtree_control
mkdir -p /sys/fs/cgroup/init.scope /sys/fs/cgroup/system.slice
echo $$ >/sys/fs/cgroup/init.scope/cgroup.procs
echo '+cpu +io +memory +pids' >/sys/fs/cgroup/system.slice/cgroup.subtree_control
mkdir /sys/fs/cgroup/system.slice/suite.service

(
  echo $BASHPID >/sys/fs/cgroup/system.slice/suite.service/cgroup.procs
  ulimit -n 1048576
  cd "$repository" || exit 1
  export CI=true TMPDIR=/scratch
  eval "$tests"
) </dev/null
echo "atoll-vm: exit $?"
/bin/busybox poweroff -f
