/* Breaks the WRITE_WHENth write of a process to a file half way, as WRITE_HOW says: an error, or SIGKILL. Each such write is
   noted in WRITE_LOG, as strace notes it. To be preloaded. The log, pipes and wakeups are no files here. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
static void note(void) {
    int file = open(getenv("WRITE_LOG"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) return;
    char line[32];
    syscall(SYS_write, file, line, snprintf(line, sizeof line, "%d write(\n", getpid()));
    close(file);
}
ssize_t write(int file, const void *bytes, size_t length) {
    static atomic_int writes;
    struct stat about;
    if (file <= STDERR_FILENO || fstat(file, &about) || !S_ISREG(about.st_mode))
        return syscall(SYS_write, file, bytes, length);
    note();
    if (atomic_fetch_add(&writes, 1) + 1 != atoi(getenv("WRITE_WHEN")))
        return syscall(SYS_write, file, bytes, length);
    syscall(SYS_write, file, bytes, length / 2);
    if (strstr(getenv("WRITE_HOW"), "SIGKILL")) kill(getpid(), SIGKILL);
    errno = strstr(getenv("WRITE_HOW"), "ENOSPC") ? ENOSPC : EIO;
    return -1;
}
