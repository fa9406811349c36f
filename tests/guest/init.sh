#!/bin/sh
# PID 1 of the guest, after the first root: / is the host's, read-only over 9p. Puts a tmpfs over it, runs the job, keeps its status.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t tmpfs -o size=75%,mode=755 tmpfs /mnt || exec busybox poweroff -f
cache=$(sed -n 's/.*guest_cache=\([^ ]*\).*/\1/p' /proc/cmdline)
version=$(uname -r)

mkdir -p /mnt/upper /mnt/work /mnt/root /mnt/modules/lib/modules
ln -s "$cache/kernel/lib/modules/$version" "/mnt/modules/lib/modules/$version"
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root || exec busybox poweroff -f

# The kernel loads filesystems by itself; the modules lie in the cache, not in the host's /lib/modules.
printf '#!/bin/sh\nexec %s/tools/modprobe -d /mnt/modules "$@"\n' "$cache" > /mnt/modprobe
chmod +x /mnt/modprobe
echo /mnt/modprobe > /proc/sys/kernel/modprobe
/mnt/modprobe -a loop xfs ext4 quota_v2

root=/mnt/root
mount -t proc proc $root/proc
mount -t sysfs sys $root/sys
mount -t devtmpfs dev $root/dev
mkdir -p $root/dev/shm $root/out $root/scratch
for directory in run scratch dev/shm; do mount -t tmpfs -o mode=1777 tmpfs $root/$directory; done
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 out $root/out
chroot $root busybox ip link set lo up
chroot $root /bin/sh -c '. /out/env; cd "$GUEST_CWD" && exec setsid sh /out/job' > $root/out/log 2>&1 < /dev/null
echo $? > $root/out/status
sync
exec busybox poweroff -f
