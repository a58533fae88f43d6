"""A file system in user space that keeps its files in another folder, and takes its time
to sync: slow.py FOLDER MOUNTPOINT MILLISECONDS. FOLDER.delay has other milliseconds, where it
exists; syncs fail while FOLDER.failing exists, and what grows a file while FOLDER.full does."""

import errno
import os
import sys
import time

from fusepy import FUSE, FuseOSError, Operations


class Slow(Operations):
    def __init__(self, folder, delay):
        self.folder, self.delay = folder, delay

    def is_told(self, what):
        return os.path.exists(self.folder + what)

    def __call__(self, operation, path, *arguments):
        try:
            # An open file that was removed has no path any more.
            return getattr(self, operation)(self.folder + (path or ""), *arguments)
        except OSError as error:
            raise FuseOSError(error.errno) from error

    def getattr(self, path, handle=None):
        found = os.lstat(path) if handle is None else os.fstat(handle)
        return {name: getattr(found, name) for name in dir(found) if name.startswith("st_")}

    def wait(self):
        delay = self.delay
        if self.is_told(".delay"):
            with open(self.folder + ".delay") as file:
                delay = int(file.read() or 0) / 1000
        time.sleep(delay)
        if self.is_told(".failing"):
            raise FuseOSError(errno.EIO)

    def fsync(self, path, datasync, handle):
        self.wait()
        os.fdatasync(handle) if datasync else os.fsync(handle)
        return 0

    def fsyncdir(self, path, datasync, handle):
        self.wait()
        folder = os.open(path, os.O_DIRECTORY)
        os.fsync(folder)
        os.close(folder)
        return 0

    def open(self, path, flags):
        return os.open(path, flags & ~os.O_DIRECT)

    def create(self, path, mode, info=None):
        if self.is_told(".full"):
            raise FuseOSError(errno.ENOSPC)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)

    def read(self, path, size, offset, handle):
        return os.pread(handle, size, offset)

    def write(self, path, data, offset, handle):
        if self.is_told(".full") and offset + len(data) > os.fstat(handle).st_size:
            raise FuseOSError(errno.ENOSPC)
        return os.pwrite(handle, data, offset)

    def truncate(self, path, length, handle=None):
        os.truncate(path if handle is None else handle, length)

    def release(self, path, handle):
        os.close(handle)

    def flush(self, path, handle):
        return 0

    def readdir(self, path, handle):
        return [".", "..", *os.listdir(path)]

    def statfs(self, path):
        found = os.statvfs(path)
        return {name: getattr(found, name) for name in dir(found) if name.startswith("f_")}

    def mkdir(self, path, mode):
        os.mkdir(path, mode)

    def rmdir(self, path):
        os.rmdir(path)

    def unlink(self, path):
        os.unlink(path)

    def rename(self, path, new):
        os.rename(path, self.folder + new)

    def chmod(self, path, mode):
        os.chmod(path, mode)

    def chown(self, path, user, group):
        os.lchown(path, user, group)

    def utimens(self, path, times=None):
        os.utime(path, times)

    def readlink(self, path):
        return os.readlink(path)


folder, mountpoint, milliseconds = sys.argv[1:]
FUSE(Slow(folder, int(milliseconds) / 1000), mountpoint, foreground=True, hard_remove=True)
