/* Preloaded into a server, this gives it a disk of so many flushes a second.
 *
 * Each call that makes data durable gets the next free slot of the disk, in the order of the calls, sleeps until the
 * slot begins, and is then made. A disk that is slower than the bound is as slow as before.
 *
 * The servers have one process each, but the slots are in a file that all processes share, so that one that forks is
 * held to the same bound. The count of flushes beside them tells the harness whether the bound was in force.
 *
 * sync_file_range is not here, since it leaves the disk's cache alone and so makes nothing durable. Of O_DSYNC,
 * RWF_DSYNC and io_uring nothing is seen: no server here uses them.
 *
 * From the environment: FLUSHES_FILE, the shared file, and FLUSHES_A_SECOND.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ULL

/* The harness reads this layout. */
struct disk {
    _Atomic uint64_t free;    /* when the next slot begins, on CLOCK_MONOTONIC, in nanoseconds */
    _Atomic uint64_t flushes; /* how many were let through */
};

static struct disk *disk;
static uint64_t period;

static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_syncfs)(int);
static int (*real_msync)(void *, size_t, int);

/* A server without the bound would be measured as one with it, so it must not start. */
static void give_up(const char *what)
{
    dprintf(STDERR_FILENO, "flushes.so: %s: %s\n", what, errno ? strerror(errno) : "not usable");
    _exit(1);
}

static void find(const char *name, void *where)
{
    void *symbol = dlsym(RTLD_NEXT, name);
    if (!symbol)
        give_up(name);
    /* ISO C has no cast from an object's pointer to a function's. */
    memcpy(where, &symbol, sizeof symbol);
}

__attribute__((constructor)) static void start(void)
{
    errno = 0;
    const char *rate = getenv("FLUSHES_A_SECOND"), *path = getenv("FLUSHES_FILE");
    uint64_t number = rate ? strtoull(rate, NULL, 10) : 0;
    if (number == 0 || number > SECOND)
        give_up("FLUSHES_A_SECOND");
    if (!path)
        give_up("FLUSHES_FILE");
    period = SECOND / number;
    find("fsync", &real_fsync);
    find("fdatasync", &real_fdatasync);
    find("syncfs", &real_syncfs);
    find("msync", &real_msync);

    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0 || ftruncate(file, sizeof *disk) != 0)
        give_up(path);
    disk = mmap(NULL, sizeof *disk, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (disk == MAP_FAILED)
        give_up(path);
    close(file);
}

static void wait_for_slot(void)
{
    uint64_t slot, now, seen = atomic_load(&disk->free);
    do {
        struct timespec time;
        clock_gettime(CLOCK_MONOTONIC, &time);
        now = (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_nsec;
        slot = seen > now ? seen : now;
    } while (!atomic_compare_exchange_weak(&disk->free, &seen, slot + period));
    if (slot > now) {
        struct timespec due = {.tv_sec = (time_t)(slot / SECOND), .tv_nsec = (long)(slot % SECOND)};
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL) == EINTR)
            ;
    }
    atomic_fetch_add(&disk->flushes, 1);
}

int fsync(int file)
{
    wait_for_slot();
    return real_fsync(file);
}

int fdatasync(int file)
{
    wait_for_slot();
    return real_fdatasync(file);
}

int syncfs(int file)
{
    wait_for_slot();
    return real_syncfs(file);
}

int msync(void *address, size_t length, int flags)
{
    if (flags & MS_SYNC)
        wait_for_slot();
    return real_msync(address, length, flags);
}
