/* A disk that takes less than it is given, for LD_PRELOAD: writes to regular files are counted from 1.
 *
 * SHORT_WRITE=N: the N-th takes half of its bytes, and the one behind it finds the disk full, as the kernel has it.
 * SHORT_WRITE=0: each of more than one byte takes half of its bytes, and that is no error. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long writes;

/* How many of `count` bytes are taken; -1 if the disk is full. */
static ssize_t taken(int fd, size_t count)
{
    struct stat found;
    const char *when = getenv("SHORT_WRITE");
    if (!when || count < 2 || fstat(fd, &found) || !S_ISREG(found.st_mode))
        return count;
    long at = atol(when), now = ++writes;
    if (at && now == at + 1) {
        errno = ENOSPC;
        return -1;
    }
    return at == 0 || now == at ? count / 2 : count;
}

ssize_t write(int fd, const void *bytes, size_t count)
{
    ssize_t (*next)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    ssize_t some = taken(fd, count);
    return some < 0 ? some : next(fd, bytes, some);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at)
{
    ssize_t (*next)(int, const void *, size_t, off64_t) = dlsym(RTLD_NEXT, "pwrite64");
    ssize_t some = taken(fd, count);
    return some < 0 ? some : next(fd, bytes, some, at);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at)
{
    return pwrite64(fd, bytes, count, at);
}
