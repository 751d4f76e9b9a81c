/* Walks /proc/self/maps twice: how much there is to lock, then locks it. */
#include "fw/settle.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fw/base/err.h"
#include "fw/base/mem.h"

#define MAPS       "/proc/self/maps"
#define LINE_BYTES 512
#define LARGE_FROM (UINT64_C(16) << 20) /* bytes of a mapping that takes 2 MiB pages */

struct range {
	uintptr_t begin, end;
	unsigned long inode;
	char perm[5];
};

static bool next_range(FILE *f, struct range *r)
{
	char line[LINE_BYTES];
	int n;

	do {
		if (fgets(line, sizeof(line), f) == NULL)
			return false;
		n = sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s %*x %*s %lu", &r->begin, &r->end,
		           r->perm, &r->inode);
		/* A name longer than the line has the rest of itself to read over. */
		while (strchr(line, '\n') == NULL && fgets(line, sizeof(line), f) != NULL)
			;
	} while (n != 4);
	return true;
}

/* What is reserved and can't be touched takes no memory; the kernel's own pages have no place. */
static bool wanted(const struct range *r, unsigned long except)
{
	return r->perm[0] == 'r' && (except == 0 || r->inode != except) &&
	       r->begin < UINT64_C(0x800000000000);
}

static unsigned long inode_of(const char *path)
{
	struct stat st;

	return path != NULL && stat(path, &st) == 0 ? (unsigned long)st.st_ino : 0;
}

static uint64_t sum_bytes(unsigned long except)
{
	FILE *f = fopen(MAPS, "re");
	uint64_t sum = 0;
	struct range r;

	while (f != NULL && next_range(f, &r))
		if (wanted(&r, except))
			sum += r.end - r.begin;
	if (f != NULL)
		fclose(f);
	return sum;
}

/* Bytes that could not be locked; *why: the last errno. */
static uint64_t lock_all(unsigned long except, int *why)
{
	FILE *f = fopen(MAPS, "re");
	uint64_t refused = 0;
	struct range r;

	while (f != NULL && next_range(f, &r)) {
		size_t bytes = r.end - r.begin;

		/* DPDK's memory without reserved pages: 64 faults instead of 32,768. */
		if (r.inode == 0 && bytes >= LARGE_FROM)
			(void)madvise((void *)r.begin, bytes, MADV_HUGEPAGE);
		/* Pages of the kernel or of a device answer EINVAL: they never go anywhere. */
		if (!wanted(&r, except) || mlock((const void *)r.begin, bytes) == 0 ||
		    errno == EINVAL)
			continue;
		*why = errno;
		refused += bytes;
	}
	if (f != NULL)
		fclose(f);
	return refused;
}

/* What of this process is in memory already. */
static uint64_t resident_bytes(void)
{
	FILE *f = fopen("/proc/self/statm", "re");
	unsigned long pages = 0;

	if (f == NULL)
		return 0;
	if (fscanf(f, "%*u %lu", &pages) != 1)
		pages = 0;
	fclose(f);
	return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

int plx_settle(const char *except_path, struct plx_diag *d)
{
	unsigned long except = inode_of(except_path);
	uint64_t sum = sum_bytes(except), there = resident_bytes(), left = plx_mem_available();
	uint64_t more = sum > there ? sum - there : 0, refused;
	int why = 0;

	if (sum == 0)
		return plx_diag_set(d, PLX_E_IO, MAPS " can't be read: memory is not locked");
	if (more > left)
		return plx_diag_set(d, PLX_E_LIMIT,
		                    "%" PRIu64 " MiB more would have to stay in memory, %" PRIu64
		                    " are left: memory is not locked, a page fault can delay a "
		                    "token; lower the limits in the board file or add memory",
		                    more >> 20, left >> 20);
	refused = lock_all(except, &why);
	if (refused == 0)
		return PLX_E_OK;
	return plx_diag_set(d, PLX_E_LIMIT,
	                    "%" PRIu64 " of %" PRIu64 " MiB could not be locked in memory (%s), a "
	                    "page fault can delay a token; `ulimit -l unlimited`, or LimitMEMLOCK "
	                    "in the systemd unit",
	                    refused >> 20, sum >> 20, strerror(why));
}
