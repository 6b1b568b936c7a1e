/* Faults in the file I/O of a store. Preloaded into the server, this library counts the writes and
 * syncs of the files below one directory, and kills the process or fails a call at the n-th of them.
 * It can also note what was written but not yet synced; the same file compiled with -DSHIM_TOOL then
 * takes a random part of that back, which is what a power cut does. README.md has the interface. */
#define _GNU_SOURCE
#undef _FORTIFY_SOURCE /* it defines functions of these names */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* One record of the undo log, followed by `n1` and `n2` bytes of names and `data` bytes. A file is
 * known by its inode number, because names move. The log outlives restarts of the server. */
struct rec {
    uint32_t magic, type;
    uint64_t ino; /* the file; of S also a directory */
    uint64_t dir; /* C, U, R: the directory whose sync makes the operation durable */
    uint64_t off; /* W: offset. T: new size. S: log offset where the sync began. U, R: number of the saved file */
    uint64_t len; /* W: bytes written. R: inode of the file that was replaced */
    uint64_t old; /* W, T: size of the file before */
    uint64_t data; /* W, T: how many of the old bytes follow; none beyond the old end of the file */
    uint32_t n1, n2; /* R: the new name comes first */
};
enum { MAGIC = 0x4d494853 };
_Static_assert(sizeof(off_t) == 8 && sizeof(long) == 8, "64-bit Linux only");

/* Read the record at `pos`; returns where the next one begins, 0 at the end or at a torn tail. */
static uint64_t rec_at(int fd, uint64_t pos, struct rec *r)
{
    struct stat st;
    if (fstat(fd, &st) || pread(fd, r, sizeof *r, (off_t)pos) != (ssize_t)sizeof *r || r->magic != MAGIC)
        return 0;
    uint64_t next = pos + sizeof *r + r->n1 + r->n2 + r->data;
    return next <= (uint64_t)st.st_size ? next : 0;
}

#ifndef SHIM_TOOL

#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>

/* What the caller of enter() has to do with the operation. */
enum act { GO, FAIL, SKIP_SYNC, TEAR, KILL, KILL_AFTER };

static char dir[PATH_MAX];
static size_t dir_len; /* 0: nothing is watched */
static int log_fd = -1, undo_fd = -1;
static const char *undo_path, *match, *swallow, *while_path;
static unsigned long at, count;
static int fault_errno, from_then_on;
static enum act fault = GO;
/* Held over "count, note the old bytes, do it", so that the numbers, both logs and the file agree on
 * one order. A real sync runs without it: the other threads must be able to write meanwhile. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* System calls are made directly: nothing in here can come back to the wrappers below. */
static void append(int fd, const struct iovec *v, int n)
{
    size_t len = 0;
    for (int i = 0; i < n; i++)
        len += v[i].iov_len;
    if (syscall(SYS_writev, fd, v, n) != (long)len)
        abort(); /* a log with a hole would make a test pass that should not */
}

static int ends_with(const char *s, const char *end)
{
    size_t a = strlen(s), b = strlen(end);
    return a >= b && strcmp(s + a - b, end) == 0;
}

/* The name below SHIM_DIR, or NULL for what is not watched. SQLite rebuilds the -shm file at every
 * start and maps it, and a deleted file can no longer be found by anyone. */
static const char *watched(const char *path)
{
    if (strncmp(path, dir, dir_len) || (path[dir_len] && path[dir_len] != '/') || ends_with(path, "-shm") ||
        ends_with(path, " (deleted)"))
        return NULL;
    return path[dir_len] ? path + dir_len + 1 : ".";
}

/* The kernel is asked for the name each time. A table of descriptors would have to follow every dup,
 * fcntl and rename; this costs a microsecond. */
static const char *fd_name(int fd, char *buf)
{
    if (!dir_len)
        return NULL;
    int e = errno;
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, buf, PATH_MAX - 1);
    errno = e;
    if (n <= 0)
        return NULL;
    buf[n] = 0;
    return watched(buf);
}

/* The same for a path; the last part need not exist. */
static const char *path_name(int base, const char *path, int follow, char *buf)
{
    char full[PATH_MAX];
    if (!dir_len)
        return NULL;
    int e = errno, n;
    if (path[0] == '/' || base == AT_FDCWD)
        n = snprintf(full, sizeof full, "%s%s", path[0] == '/' ? "" : "./", path);
    else
        n = snprintf(full, sizeof full, "/proc/self/fd/%d/%s", base, path);
    const char *name = NULL;
    if (n > 0 && n < PATH_MAX) {
        char *slash = strrchr(full, '/');
        if (follow && realpath(full, buf)) {
            name = watched(buf);
        } else {
            *slash = 0;
            if (realpath(slash == full ? "/" : full, buf) && strlen(buf) + strlen(slash + 1) + 2 < PATH_MAX) {
                strcat(strcat(buf, "/"), slash + 1);
                name = watched(buf);
            }
        }
    }
    errno = e;
    return name;
}

__attribute__((noreturn)) static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

static int matches(const char *kind, const char *name)
{
    if (!match)
        return 1;
    size_t n = strcspn(match, ":");
    return (n == 0 || (n == strlen(kind) && !strncmp(match, kind, n))) && (!match[n] || ends_with(name, match + n + 1));
}

/* Count one point and say what happens to it. Takes the lock; leave() gives it back. */
static enum act enter(const char *kind, const char *name)
{
    pthread_mutex_lock(&lock);
    if (!matches(kind, name))
        return GO;
    unsigned long n = ++count;
    if (log_fd >= 0) {
        char line[PATH_MAX + 64];
        int len = snprintf(line, sizeof line, "%lu %s %s\n", n, kind, name);
        append(log_fd, &(struct iovec){line, (size_t)len}, 1);
    }
    int io = !strcmp(kind, "write") || !strcmp(kind, "sync");
    if (!at || n < at || (n > at && !(from_then_on && io)) || (while_path && access(while_path, F_OK)))
        return GO;
    if (fault == KILL || (fault == TEAR && strcmp(kind, "write")))
        die();
    if (fault == FAIL)
        errno = fault_errno;
    return fault;
}

static void leave(enum act a)
{
    if (a == KILL_AFTER)
        die();
    pthread_mutex_unlock(&lock);
}

static void emit(struct rec r, const char *n1, const char *n2, const void *data)
{
    r.magic = MAGIC;
    r.n1 = (uint32_t)strlen(n1);
    r.n2 = (uint32_t)strlen(n2);
    struct iovec v[] = {{&r, sizeof r}, {(void *)n1, r.n1}, {(void *)n2, r.n2}, {(void *)data, r.data}};
    append(undo_fd, v, 4);
}

/* Note the bytes that a write or a truncation is about to replace. */
static void note_old(struct rec r, int fd, const char *name, uint64_t off, uint64_t len)
{
    static char *buf;
    static size_t room;
    r.data = off >= r.old ? 0 : off + len > r.old ? r.old - off : len;
    if (r.data > room && !(buf = realloc(buf, room = r.data)))
        abort();
    /* A second descriptor only where this one cannot read: closing it drops the process's POSIX locks
     * on the file. SQLite relies on those, and always opens for reading too. */
    char self[32];
    int in = fd;
    if ((fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY) {
        snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
        in = (int)syscall(SYS_openat, AT_FDCWD, self, O_RDONLY | O_CLOEXEC);
    }
    for (uint64_t got = 0; got < r.data;) {
        ssize_t k = pread(in, buf + got, r.data - got, (off_t)(off + got));
        if (k <= 0)
            abort();
        got += (uint64_t)k;
    }
    if (in != fd)
        close(in);
    emit(r, name, "", buf);
}

static void note_write(int fd, const char *name, off_t off, size_t len)
{
    struct stat st;
    if (undo_fd < 0 || fstat(fd, &st))
        return;
    if (fcntl(fd, F_GETFL) & O_APPEND)
        off = st.st_size; /* Linux appends even when an offset is given */
    else if (off < 0)
        off = lseek(fd, 0, SEEK_CUR);
    struct rec r = {.type = 'W', .ino = st.st_ino, .off = (uint64_t)off, .len = len, .old = (uint64_t)st.st_size};
    note_old(r, fd, name, r.off, len);
}

static void note_size(int fd, const char *name, uint64_t size)
{
    struct stat st;
    if (undo_fd < 0 || fstat(fd, &st))
        return;
    struct rec r = {.type = 'T', .ino = st.st_ino, .off = size, .old = (uint64_t)st.st_size};
    note_old(r, fd, name, size, size < r.old ? r.old - size : 0);
}

/* Keep what a name stands for by a second link, so that its removal can be taken back. The link also
 * keeps the inode number from being used again. Returns the number of the saved file, 0 if there is none. */
static uint64_t save(const char *path)
{
    char to[PATH_MAX + 32];
    uint64_t n = undo_fd < 0 ? 0 : (uint64_t)lseek(undo_fd, 0, SEEK_END);
    snprintf(to, sizeof to, "%s.%llu", undo_path, (unsigned long long)n);
    return n && syscall(SYS_linkat, AT_FDCWD, path, AT_FDCWD, to, 0) == 0 ? n : 0;
}

static void note_name(struct rec r, const char *path, const char *n1, const char *n2)
{
    char parent[PATH_MAX];
    struct stat st;
    strcpy(parent, path);
    *strrchr(parent, '/') = 0;
    if (undo_fd < 0 || stat(parent, &st))
        return;
    r.dir = st.st_ino;
    emit(r, n1, n2, NULL);
}

static ssize_t do_write(int fd, const char *name, const struct iovec *v, int n, off_t off)
{
    size_t len = 0;
    for (int i = 0; i < n; i++)
        len += v[i].iov_len;
    enum act a = enter("write", name);
    ssize_t r = -1;
    if (a != FAIL) {
        note_write(fd, name, off, len);
        for (size_t left = len / 2; a == TEAR && left; v++) {
            struct iovec half = {v->iov_base, v->iov_len < left ? v->iov_len : left};
            if (off < 0)
                syscall(SYS_writev, fd, &half, 1);
            else
                syscall(SYS_pwritev, fd, &half, 1, off, 0L);
            off += off < 0 ? 0 : (off_t)half.iov_len;
            left -= half.iov_len;
        }
        if (a == TEAR)
            die();
        r = off < 0 ? syscall(SYS_writev, fd, v, n) : syscall(SYS_pwritev, fd, v, n, off, 0L);
    }
    leave(a);
    return r;
}

/* `how` is the system call; only the full ones make anything durable. */
static int do_sync(long how, int fd, off_t off, off_t len, unsigned flags)
{
    char buf[PATH_MAX];
    struct stat st;
    const char *name = fd_name(fd, buf);
    if (!name)
        return (int)syscall(how, fd, off, len, flags);
    enum act a = enter("sync", name);
    int r = a == FAIL ? -1 : 0, e = errno;
    if (a != FAIL && a != SKIP_SYNC && !(swallow && ends_with(name, swallow))) {
        uint64_t begin = undo_fd < 0 ? 0 : (uint64_t)lseek(undo_fd, 0, SEEK_END);
        pthread_mutex_unlock(&lock);
        r = (int)syscall(how, fd, off, len, flags);
        e = errno;
        pthread_mutex_lock(&lock);
        if (r == 0 && undo_fd >= 0 && how != SYS_sync_file_range && !fstat(fd, &st))
            emit((struct rec){.type = 'S', .ino = st.st_ino, .off = begin}, name, "", NULL);
    }
    /* After a failed sync the kernel may have dropped the pages: no later sync covers these writes. */
    if (r && undo_fd >= 0 && !fstat(fd, &st) && S_ISREG(st.st_mode))
        emit((struct rec){.type = 'F', .ino = st.st_ino}, name, "", NULL);
    errno = e;
    leave(a);
    return r;
}

static int do_truncate(int fd, off_t size)
{
    char buf[PATH_MAX];
    const char *name = fd_name(fd, buf);
    if (!name || size < 0)
        return (int)syscall(SYS_ftruncate, fd, size);
    enum act a = enter("truncate", name);
    int r = -1;
    if (a != FAIL) {
        note_size(fd, name, (uint64_t)size);
        r = (int)syscall(SYS_ftruncate, fd, size);
    }
    leave(a);
    return r;
}

static int do_fallocate(int fd, int mode, off_t off, off_t len)
{
    char buf[PATH_MAX];
    struct stat st;
    const char *name = fd_name(fd, buf);
    if (!name)
        return (int)syscall(SYS_fallocate, fd, mode, off, len);
    enum act a = enter("write", name);
    int r = -1;
    if (a == TEAR)
        die();
    if (a != FAIL) {
        if (!mode && !fstat(fd, &st) && off + len > st.st_size)
            note_size(fd, name, (uint64_t)(off + len));
        r = (int)syscall(SYS_fallocate, fd, mode, off, len);
    }
    leave(a);
    return r;
}

static int do_open(int base, const char *path, int flags, va_list ap)
{
    char buf[PATH_MAX];
    struct stat st;
    int temp = (flags & O_TMPFILE) == O_TMPFILE;
    mode_t mode = (flags & O_CREAT) || temp ? va_arg(ap, mode_t) : 0;
    const char *name = (flags & (O_CREAT | O_TRUNC)) && !temp ? path_name(base, path, 1, buf) : NULL;
    if (!name)
        return (int)syscall(SYS_openat, base, path, flags, mode);
    int e = errno, exists = !stat(buf, &st), cut = exists && (flags & O_TRUNC) && !(flags & O_EXCL) && st.st_size;
    errno = e;
    int fd = (int)syscall(SYS_openat, base, path, cut ? flags & ~O_TRUNC : flags, mode);
    if (fd >= 0 && cut && do_truncate(fd, 0)) {
        e = errno;
        close(fd);
        errno = e;
        return -1;
    }
    if (fd >= 0 && !exists && undo_fd >= 0 && !fstat(fd, &st)) {
        pthread_mutex_lock(&lock);
        note_name((struct rec){.type = 'C', .ino = st.st_ino}, buf, name, "");
        pthread_mutex_unlock(&lock);
    }
    return fd;
}

static int do_unlink(int base, const char *path, int flags)
{
    char buf[PATH_MAX];
    struct stat st;
    const char *name = flags & AT_REMOVEDIR ? NULL : path_name(base, path, 0, buf);
    if (!name || lstat(buf, &st))
        return (int)syscall(SYS_unlinkat, base, path, flags);
    enum act a = enter("unlink", name);
    int r = -1;
    if (a != FAIL) {
        struct rec undo = {.type = 'U', .ino = st.st_ino, .off = save(buf)};
        r = (int)syscall(SYS_unlinkat, base, path, flags);
        if (r == 0)
            note_name(undo, buf, name, "");
    }
    leave(a);
    return r;
}

static int do_rename(int b1, const char *p1, int b2, const char *p2)
{
    char from[PATH_MAX], to[PATH_MAX];
    struct stat st, gone = {0};
    const char *n1 = path_name(b1, p1, 0, from), *n2 = path_name(b2, p2, 0, to);
    if ((!n1 && !n2) || lstat(from, &st))
        return (int)syscall(SYS_renameat2, b1, p1, b2, p2, 0);
    enum act a = enter("rename", n2 ? n2 : n1);
    int r = -1;
    if (a != FAIL) {
        struct rec undo = {.type = 'R', .ino = st.st_ino};
        if (n1 && n2 && !lstat(to, &gone))
            undo.off = save(to), undo.len = gone.st_ino;
        r = (int)syscall(SYS_renameat2, b1, p1, b2, p2, 0);
        if (r == 0 && n1 && n2)
            note_name(undo, to, n2, n1);
        else if (r == 0 && n1) /* gone for good, as far as this directory is concerned */
            note_name((struct rec){.type = 'U', .ino = st.st_ino}, from, n1, "");
    }
    leave(a);
    return r;
}

static const char *env(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

/* Descriptors out of the way of the program: it may count on getting the low ones. */
static int open_log(const char *path)
{
    int fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0666), high = fcntl(fd, F_DUPFD_CLOEXEC, 900);
    if (fd < 0 || high < 0) {
        fprintf(stderr, "shim: %s: %s\n", path, strerror(errno));
        abort();
    }
    close(fd);
    return high;
}

__attribute__((constructor)) static void init(void)
{
    static const struct { const char *word; enum act act; int error, from; } words[] = {
        {"kill", KILL, 0, 0}, {"kill_after", KILL_AFTER, 0, 0}, {"short", TEAR, 0, 0}, {"swallow", SKIP_SYNC, 0, 0},
        {"eio", FAIL, EIO, 0}, {"eio_from", FAIL, EIO, 1},
        {"enospc", FAIL, ENOSPC, 0}, {"enospc_from", FAIL, ENOSPC, 1},
    };
    const char *root = env("SHIM_DIR"), *what = env("SHIM_DO"), *number = env("SHIM_AT"), *path = env("SHIM_LOG");
    unsetenv("LD_PRELOAD"); /* for the children: their I/O is not the store's */
    if (!root)
        return;
    if (!realpath(root, dir)) {
        fprintf(stderr, "shim: SHIM_DIR=%s: %s\n", root, strerror(errno));
        abort();
    }
    if (path)
        log_fd = open_log(path);
    if ((undo_path = env("SHIM_UNDO"))) {
        struct rec r;
        uint64_t pos = 0, next;
        undo_fd = open_log(undo_path);
        while ((next = rec_at(undo_fd, pos, &r)))
            pos = next;
        if (ftruncate(undo_fd, (off_t)pos)) /* the torn tail of a killed run */
            abort();
        undo_path = realpath(undo_path, NULL);
    }
    match = env("SHIM_MATCH");
    swallow = env("SHIM_SWALLOW");
    while_path = env("SHIM_WHILE");
    at = number ? strtoul(number, NULL, 10) : 0;
    size_t i = 0, n = sizeof words / sizeof *words;
    while (what && i < n && strcmp(what, words[i].word))
        i++;
    if (i == n || (what && !at)) {
        fprintf(stderr, "shim: SHIM_DO=%s is not known or has no SHIM_AT\n", what);
        abort(); /* never a run that only seems to have had its fault */
    }
    if (what)
        fault = words[i].act, fault_errno = words[i].error, from_then_on = words[i].from;
    if (undo_fd >= 0)
        emit((struct rec){.type = 'D'}, dir, "", NULL);
    dir_len = strlen(dir); /* from here on files are watched */
}

#define WRITE(fd, v, n, off, plain)                       \
    char buf[PATH_MAX];                                   \
    const char *name = fd_name(fd, buf);                  \
    return name ? do_write(fd, name, v, n, off) : (plain)
#define ALIAS(of) __attribute__((alias(#of)))

ssize_t write(int fd, const void *p, size_t len)
{
    WRITE(fd, (&(struct iovec){(void *)p, len}), 1, -1, syscall(SYS_write, fd, p, len));
}
ssize_t writev(int fd, const struct iovec *v, int n)
{
    WRITE(fd, v, n, -1, syscall(SYS_writev, fd, v, n));
}
ssize_t pwrite(int fd, const void *p, size_t len, off_t off)
{
    WRITE(off < 0 ? -1 : fd, (&(struct iovec){(void *)p, len}), 1, off, syscall(SYS_pwrite64, fd, p, len, off));
}
ssize_t pwritev(int fd, const struct iovec *v, int n, off_t off)
{
    WRITE(off < 0 ? -1 : fd, v, n, off, syscall(SYS_pwritev, fd, v, n, off, 0L));
}
ssize_t pwritev2(int fd, const struct iovec *v, int n, off_t off, int flags)
{
    WRITE(off < -1 ? -1 : fd, v, n, off, syscall(SYS_pwritev2, fd, v, n, off, 0L, flags));
}
ssize_t pwrite64(int fd, const void *p, size_t len, off64_t off) ALIAS(pwrite);
ssize_t pwritev64(int fd, const struct iovec *v, int n, off64_t off) ALIAS(pwritev);
ssize_t pwritev64v2(int fd, const struct iovec *v, int n, off64_t off, int flags) ALIAS(pwritev2);

int fsync(int fd) { return do_sync(SYS_fsync, fd, 0, 0, 0); }
int fdatasync(int fd) { return do_sync(SYS_fdatasync, fd, 0, 0, 0); }
int sync_file_range(int fd, off_t off, off_t len, unsigned flags)
{
    return do_sync(SYS_sync_file_range, fd, off, len, flags);
}

int ftruncate(int fd, off_t size) { return do_truncate(fd, size); }
int ftruncate64(int fd, off64_t size) ALIAS(ftruncate);
int truncate(const char *path, off_t size)
{
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC), r = fd < 0 ? -1 : do_truncate(fd, size);
    int e = errno;
    if (fd >= 0)
        close(fd);
    errno = e;
    return r;
}
int truncate64(const char *path, off64_t size) ALIAS(truncate);
int fallocate(int fd, int mode, off_t off, off_t len) { return do_fallocate(fd, mode, off, len); }
int fallocate64(int fd, int mode, off64_t off, off64_t len) ALIAS(fallocate);
int posix_fallocate(int fd, off_t off, off_t len) { return do_fallocate(fd, 0, off, len) ? errno : 0; }
int posix_fallocate64(int fd, off64_t off, off64_t len) ALIAS(posix_fallocate);

#define OPEN(base)                            \
    va_list ap;                               \
    va_start(ap, flags);                      \
    int fd = do_open(base, path, flags, ap);  \
    va_end(ap);                               \
    return fd
int open(const char *path, int flags, ...) { OPEN(AT_FDCWD); }
int open64(const char *path, int flags, ...) ALIAS(open);
int openat(int base, const char *path, int flags, ...) { OPEN(base); }
int openat64(int base, const char *path, int flags, ...) ALIAS(openat);
int creat(const char *path, mode_t mode) { return open(path, O_WRONLY | O_CREAT | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) ALIAS(creat);

int unlink(const char *path) { return do_unlink(AT_FDCWD, path, 0); }
int unlinkat(int base, const char *path, int flags) { return do_unlink(base, path, flags); }
int rename(const char *from, const char *to) { return do_rename(AT_FDCWD, from, AT_FDCWD, to); }
int renameat(int b1, const char *from, int b2, const char *to) { return do_rename(b1, from, b2, to); }

#else /* SHIM_TOOL */

/* What is known of a file while the log is walked from its end to its beginning. */
struct file {
    uint64_t ino, synced; /* what lies before this log offset is covered by a sync */
    char *at;             /* its name, NULL when it has none (any more) */
    int lose, size_done, begun, fd;
    off_t size;          /* to give it at the end */
    unsigned char *kept; /* blocks that reached the disk: what was there before cannot come back */
    uint64_t blocks;
};
static struct file *files;
static size_t nfiles;
static uint64_t rng, bs, blocks[2], sizes[2], names[2]; /* undone, unsynced */
static int log_fd;

static void need(int ok, const char *what)
{
    if (ok)
        return;
    perror(what);
    exit(1);
}

static int coin(unsigned one_in)
{
    rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
    return (rng >> 33) % one_in == 0;
}

static int toss(int lose, uint64_t *counts)
{
    int undo = lose || coin(2);
    counts[0] += (uint64_t)undo;
    return undo;
}

static struct file *file(uint64_t ino)
{
    for (size_t i = 0; i < nfiles; i++)
        if (files[i].ino == ino)
            return &files[i];
    need((files = realloc(files, (nfiles + 1) * sizeof *files)) != NULL, "memory");
    files[nfiles] = (struct file){.ino = ino, .lose = coin(4), .fd = -1};
    return &files[nfiles++];
}

static unsigned char *kept(struct file *f, uint64_t block)
{
    if (block >= f->blocks) {
        uint64_t n = 2 * block + 64;
        need((f->kept = realloc(f->kept, n)) != NULL, "memory");
        memset(f->kept + f->blocks, 0, n - f->blocks);
        f->blocks = n;
    }
    return &f->kept[block];
}

/* The absolute path of the first or second name of a record. */
static char *name(const char *root, uint64_t pos, const struct rec *r, int second)
{
    size_t dir = strlen(root), len = second ? r->n2 : r->n1;
    char *s = calloc(1, dir + len + 2);
    sprintf(s, "%s/", root);
    need(pread(log_fd, s + dir + 1, len, (off_t)(pos + sizeof *r + (second ? r->n1 : 0))) == (ssize_t)len, "undo log");
    return s;
}

/* Put back what the record found between two offsets of the file: its bytes, and zeroes where the file ended. */
static void restore(struct file *f, uint64_t pos, const struct rec *r, uint64_t from, uint64_t to)
{
    char buf[4096];
    for (uint64_t n; from < to; from += n) {
        n = to - from < sizeof buf ? to - from : sizeof buf;
        uint64_t skip = from - r->off, have = skip < r->data ? (r->data - skip < n ? r->data - skip : n) : 0;
        memset(buf, 0, sizeof buf);
        need(pread(log_fd, buf, have, (off_t)(pos + sizeof *r + r->n1 + r->n2 + skip)) == (ssize_t)have, "undo log");
        need(pwrite(f->fd, buf, n, (off_t)from) == (ssize_t)n, f->at);
    }
}

/* Copied, not moved: the log and the saved files serve for any number of seeds. */
static void bring_back(const char *log, uint64_t saved, const char *to)
{
    char from[PATH_MAX], buf[4096];
    ssize_t n;
    snprintf(from, sizeof from, "%s.%llu", log, (unsigned long long)saved);
    int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    need(in >= 0, from);
    need(out >= 0, to);
    while ((n = read(in, buf, sizeof buf)) > 0)
        need(write(out, buf, (size_t)n) == n, to);
    close(in);
    close(out);
}

/* Each block of a file ends in a state that it once had: versions are taken back newest first, until a
 * toss or a sync says that one of them reached the disk. */
static void undo_content(uint64_t pos, const struct rec *r, int unsynced)
{
    struct file *f = file(r->ino);
    if (r->type == 'C')
        f->begun = 1; /* what is older belongs to a former file with this inode number */
    if (!f->at || f->begun || (r->type != 'W' && r->type != 'T'))
        return;
    if (f->fd < 0) {
        struct stat st;
        need((f->fd = open(f->at, O_RDWR)) >= 0 && !fstat(f->fd, &st), f->at);
        f->size = st.st_size;
    }
    uint64_t end = r->type == 'W' ? r->off + r->len : r->old;
    if (!unsynced)
        f->size_done = 1;
    if (unsynced && (r->type == 'T' || end > r->old)) {
        sizes[1]++;
        if (!f->size_done && toss(f->lose, sizes)) {
            f->size = (off_t)r->old;
            if (r->type == 'T' && r->off < end) {
                /* It never was: what it cut off is there again, and only its first block can hold a later write. */
                uint64_t whole = (r->off + bs - 1) / bs;
                restore(f, pos, r, *kept(f, r->off / bs) ? whole * bs : r->off, (end + bs - 1) / bs * bs);
                for (; whole * bs < end; whole++)
                    *kept(f, whole) = 0;
            }
        } else {
            f->size_done = 1;
        }
    }
    if (r->off >= end || (r->type == 'T' && unsynced && !f->size_done))
        return;
    for (uint64_t b = r->off / bs; b * bs < end; b++) {
        uint64_t from = b * bs > r->off ? b * bs : r->off, to = (b + 1) * bs < end ? (b + 1) * bs : end;
        unsigned char *k = kept(f, b);
        blocks[1] += unsynced && r->type == 'W';
        if (!*k && unsynced && r->type == 'W' && toss(f->lose, blocks))
            restore(f, pos, r, from, to);
        else
            *k = 1;
    }
}

/* Names are taken back as a journal loses them: from the end, up to the first that was kept. */
static void undo_name(const char *log, const char *root, uint64_t pos, const struct rec *r)
{
    static int lose = -1, done;
    if (lose < 0)
        lose = coin(4);
    names[1]++;
    int saved = r->off || r->type == 'C' || (r->type == 'R' && !r->len);
    if (done || !saved || !toss(lose, names)) {
        done = 1;
        return;
    }
    char *n1 = name(root, pos, r, 0), *n2 = r->n2 ? name(root, pos, r, 1) : NULL;
    if (r->type == 'C') {
        unlink(n1);
        file(r->ino)->at = NULL;
    } else if (r->type == 'R' && !rename(n1, n2)) {
        file(r->ino)->at = n2;
    }
    if (r->off) {
        bring_back(log, r->off, n1);
        file(r->type == 'U' ? r->ino : r->len)->at = n1;
    }
}

int main(int argc, char **argv)
{
    if (argc < 2 || argc > 4) {
        fprintf(stderr, "usage: %s UNDO_LOG [SEED [DIR]]\n", argv[0]);
        return 2;
    }
    need((log_fd = open(argv[1], O_RDONLY)) >= 0, argv[1]);
    rng = (strtoull(argc > 2 ? argv[2] : "0", NULL, 10) + 1) * 0x9e3779b97f4a7c15u;
    for (int i = 0; i < 8; i++)
        coin(2); /* neighbouring seeds begin alike */
    bs = coin(2) ? 512 : 4096;

    size_t n = 0, room = 0;
    struct { struct rec r; uint64_t pos; int unsynced; } *log = NULL;
    struct rec r;
    for (uint64_t pos = 0, next; (next = rec_at(log_fd, pos, &r)); pos = next, n++) {
        if (n == room)
            need((log = realloc(log, (room = 2 * room + 64) * sizeof *log)) != NULL, "memory");
        log[n].r = r, log[n].pos = pos;
    }
    need(n > 0 && log[0].r.type == 'D', "not an undo log");
    char *root = argc > 3 ? argv[3] : name("", 0, &log[0].r, 0) + 1;

    for (size_t i = 0; i < n; i++) {
        uint32_t t = log[i].r.type;
        if (t == 'U' || (t == 'R' && log[i].r.len))
            file(t == 'U' ? log[i].r.ino : log[i].r.len)->at = NULL;
        if (t == 'W' || t == 'T' || t == 'C' || t == 'R')
            file(log[i].r.ino)->at = name(root, log[i].pos, &log[i].r, 0);
    }
    for (size_t i = n; i-- > 0;) {
        uint32_t t = log[i].r.type;
        struct file *f = file(t == 'C' || t == 'U' || t == 'R' ? log[i].r.dir : log[i].r.ino);
        if (t == 'S' && log[i].r.off > f->synced)
            f->synced = log[i].r.off;
        if (t == 'F')
            f->synced = 0;
        log[i].unsynced = strchr("WTCUR", (int)t) && log[i].pos >= f->synced;
    }
    for (size_t i = 0; argc == 2 && i < n; i++)
        printf("%c %s %llu+%llu, %llu before%s\n", (char)log[i].r.type, name("", log[i].pos, &log[i].r, 0) + 1,
               (unsigned long long)log[i].r.off, (unsigned long long)log[i].r.len, (unsigned long long)log[i].r.old,
               log[i].unsynced ? ", unsynced" : "");
    if (argc == 2)
        return 0;
    for (size_t i = n; i-- > 0;)
        if (log[i].unsynced && strchr("CUR", (int)log[i].r.type))
            undo_name(argv[1], root, log[i].pos, &log[i].r);
    for (size_t i = n; i-- > 0;)
        undo_content(log[i].pos, &log[i].r, log[i].unsynced);
    for (size_t i = 0; i < nfiles; i++)
        need(files[i].fd < 0 || !ftruncate(files[i].fd, files[i].size), files[i].at);
    printf("undone %llu of %llu unsynced blocks, %llu of %llu sizes, %llu of %llu names; blocks of %llu bytes\n",
           (unsigned long long)blocks[0], (unsigned long long)blocks[1], (unsigned long long)sizes[0],
           (unsigned long long)sizes[1], (unsigned long long)names[0], (unsigned long long)names[1],
           (unsigned long long)bs);
    return 0;
}
#endif
