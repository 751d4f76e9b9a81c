/*
 * A disk that takes its time: loaded ahead of libc (LD_PRELOAD), it makes each read of 64 KiB and
 * more at a place of a file take $SLOWDISK_MS milliseconds longer.
 */
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/types.h>
#include <time.h>

#define LARGE (64u << 10)

typedef ssize_t read_at(int fd, void *p, size_t n, off_t off);

read_at pread, pread64;

static ssize_t slow(const char *name, int fd, void *p, size_t n, off_t off)
{
	const char *ms = getenv("SLOWDISK_MS");
	long long ns = ms != NULL && n >= LARGE ? atoll(ms) * 1000000 : 0;
	struct timespec t = {ns / 1000000000, ns % 1000000000};
	read_at *real;

	*(void **)&real = dlsym(RTLD_NEXT, name);
	if (ns > 0)
		(void)nanosleep(&t, NULL);
	return real(fd, p, n, off);
}

ssize_t pread(int fd, void *p, size_t n, off_t off)
{
	return slow("pread", fd, p, n, off);
}

ssize_t pread64(int fd, void *p, size_t n, off_t off)
{
	return slow("pread64", fd, p, n, off);
}
