/* A library for LD_PRELOAD that lets system calls of one rank fail, chosen by
   NMOE_FAULT="op=pwrite,err=28,match=step_0000000003.tmp/model.h5[,mode=errno|short|lost|flip|slow|kill][,ms=N][,rank=R][,nth=N][,count=N]"
   op: open create write pwrite pread read fsync rename close ftruncate mkdir; match: part of the path; nth:
   the first call that fails, from 1; count: how many fail, 0 for all from there on; rank: -1 for every rank.
   NMOE_FAULT_LOG gets a line per fault. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static char op_[32], match_[256], mode_[16] = "errno";
static int err_, nth_ = 1, count_, ms_, on_ = -1, seen_;

static void read_fault(void) {
  const char* text = getenv("NMOE_FAULT");
  int rank = -1;
  on_ = 0;
  if (!text) return;
  char copy[1024];
  snprintf(copy, sizeof copy, "%s", text);
  for (char* key = strtok(copy, ","); key; key = strtok(NULL, ",")) {
    char* value = strchr(key, '=');
    if (!value) continue;
    *value++ = 0;
    if (!strcmp(key, "op")) snprintf(op_, sizeof op_, "%s", value);
    if (!strcmp(key, "match")) snprintf(match_, sizeof match_, "%s", value);
    if (!strcmp(key, "mode")) snprintf(mode_, sizeof mode_, "%s", value);
    if (!strcmp(key, "err")) err_ = atoi(value);
    if (!strcmp(key, "nth")) nth_ = atoi(value);
    if (!strcmp(key, "count")) count_ = atoi(value);
    if (!strcmp(key, "ms")) ms_ = atoi(value);
    if (!strcmp(key, "rank")) rank = atoi(value);
  }
  const char* mine = getenv("OMPI_COMM_WORLD_RANK");
  on_ = rank < 0 || rank == (mine ? atoi(mine) : 0);
}

/* Whether this call is to fail. */
static int hit(const char* op, const char* path) {
  if (on_ < 0) read_fault();
  if (!on_ || !path || strcmp(op, op_) || !strstr(path, match_)) return 0;
  const int n = ++seen_;
  if (n < nth_ || (count_ > 0 && n >= nth_ + count_)) return 0;
  const char* log = getenv("NMOE_FAULT_LOG");
  if (log) {
    char line[600];
    const int length = snprintf(line, sizeof line, "%s %s %s\n", op, mode_, path);
    const long fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (fd >= 0) {
      syscall(SYS_write, fd, line, length);
      syscall(SYS_close, fd);
    }
  }
  if (!strcmp(mode_, "kill")) raise(SIGKILL);
  if (!strcmp(mode_, "slow")) {
    usleep((useconds_t)ms_ * 1000);
    return 0;
  }
  return 1;
}

static const char* path_of(int fd, char* buffer, size_t size) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const long n = syscall(SYS_readlink, link, buffer, size - 1);
  if (n < 0) return NULL;
  buffer[n] = 0;
  return buffer;
}

#define REAL(name)               \
  static __typeof__(name)* real; \
  if (!real) real = (__typeof__(name)*)dlsym(RTLD_NEXT, #name)

static long raw_pwrite(int fd, const void* data, size_t size, long at) {
  return at < 0 ? syscall(SYS_write, fd, data, size) : syscall(SYS_pwrite64, fd, data, size, at);
}
static ssize_t fail_write(int fd, const void* data, size_t size, long at) {
  if (!strcmp(mode_, "lost")) return (ssize_t)size;
  if (!strcmp(mode_, "short") && size > 1) return raw_pwrite(fd, data, size / 2, at);
  if (!strcmp(mode_, "flip") && size > 0) {
    char* copy = malloc(size);
    memcpy(copy, data, size);
    copy[size / 2] ^= 4;
    const long n = raw_pwrite(fd, copy, size, at);
    free(copy);
    return n;
  }
  errno = err_;
  return -1;
}

ssize_t write(int fd, const void* data, size_t size) {
  REAL(write);
  char path[512];
  return fd > 2 && hit("write", path_of(fd, path, sizeof path)) ? fail_write(fd, data, size, -1)
                                                                : real(fd, data, size);
}
ssize_t pwrite(int fd, const void* data, size_t size, off_t at) {
  REAL(pwrite);
  char path[512];
  return hit("pwrite", path_of(fd, path, sizeof path)) ? fail_write(fd, data, size, at)
                                                       : real(fd, data, size, at);
}
ssize_t pwrite64(int fd, const void* data, size_t size, off64_t at) {
  REAL(pwrite64);
  char path[512];
  return hit("pwrite", path_of(fd, path, sizeof path)) ? fail_write(fd, data, size, at)
                                                       : real(fd, data, size, at);
}

/* Calls that only fail: the condition, then errno and -1. */
#define OR_FAIL(condition, call) \
  if (condition) {               \
    errno = err_;                \
    return -1;                   \
  }                              \
  return call

ssize_t read(int fd, void* data, size_t size) {
  REAL(read);
  char path[512];
  OR_FAIL(fd > 2 && hit("read", path_of(fd, path, sizeof path)), real(fd, data, size));
}
ssize_t pread(int fd, void* data, size_t size, off_t at) {
  REAL(pread);
  char path[512];
  OR_FAIL(hit("pread", path_of(fd, path, sizeof path)), real(fd, data, size, at));
}
ssize_t pread64(int fd, void* data, size_t size, off64_t at) {
  REAL(pread64);
  char path[512];
  OR_FAIL(hit("pread", path_of(fd, path, sizeof path)), real(fd, data, size, at));
}
int fsync(int fd) {
  REAL(fsync);
  char path[512];
  OR_FAIL(hit("fsync", path_of(fd, path, sizeof path)), real(fd));
}
int close(int fd) {
  REAL(close);
  char path[512];
  const int fails = fd > 2 && hit("close", path_of(fd, path, sizeof path));
  const int result = real(fd);
  OR_FAIL(fails, result);
}
int ftruncate(int fd, off_t size) {
  REAL(ftruncate);
  char path[512];
  OR_FAIL(hit("ftruncate", path_of(fd, path, sizeof path)), real(fd, size));
}
int ftruncate64(int fd, off64_t size) {
  REAL(ftruncate64);
  char path[512];
  OR_FAIL(hit("ftruncate", path_of(fd, path, sizeof path)), real(fd, size));
}
int rename(const char* from, const char* to) {
  REAL(rename);
  OR_FAIL(hit("rename", from), real(from, to));
}
int mkdir(const char* path, mode_t mode) {
  REAL(mkdir);
  OR_FAIL(hit("mkdir", path), real(path, mode));
}
#define OPEN(name)                                                                     \
  int name(const char* path, int flags, ...) {                                         \
    REAL(name);                                                                        \
    mode_t mode = 0;                                                                   \
    if (flags & (O_CREAT | O_TMPFILE)) {                                               \
      va_list list;                                                                    \
      va_start(list, flags);                                                           \
      mode = va_arg(list, mode_t);                                                     \
      va_end(list);                                                                    \
    }                                                                                  \
    const int fails = hit("open", path) || ((flags & O_CREAT) && hit("create", path)); \
    OR_FAIL(fails, real(path, flags, mode));                                           \
  }
OPEN(open)
OPEN(open64)
