/* A bump allocator over one mapping. */
#include "fw/base/arena.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fw/base/check.h"
#include "fw/base/err.h"
#include "fw/base/mem.h"

#define HUGE_BYTES ((size_t)2 << 20)
#define PAGE_BYTES ((size_t)4096)

static size_t round_up(size_t v, size_t align)
{
	return (v + align - 1) & ~(align - 1);
}

static int no_memory(size_t size, struct plx_diag *d)
{
	return plx_diag_set(d, PLX_E_NOMEM,
	                    "out of memory: %zu MiB are needed and %llu MiB are free; lower the "
	                    "limits in the board file or add memory",
	                    size >> 20, (unsigned long long)(plx_mem_available() >> 20));
}

int plx_arena_map(struct plx_arena *a, size_t size_bytes, struct plx_diag *d)
{
	size_t size = round_up(size_bytes, HUGE_BYTES);
	int prot = PROT_READ | PROT_WRITE;
	int flags = MAP_PRIVATE | MAP_ANONYMOUS;

	memset(a, 0, sizeof(*a));
	int lock = plx_mem_huge_lock();
	/* The pages are reserved here, so that touching them can't fail. */
	void *p = mmap(NULL, size, prot, flags | MAP_HUGETLB, -1, 0);

	close(lock);
	a->huge = p != MAP_FAILED;
	if (!a->huge) {
		/* Mapping succeeds whatever the size; touching would end in the OOM killer. */
		p = size > plx_mem_available() ? MAP_FAILED : mmap(NULL, size, prot, flags, -1, 0);
		if (p == MAP_FAILED)
			return no_memory(size, d);
		(void)madvise(p, size, MADV_HUGEPAGE);
	}
	a->base = p;
	a->size_bytes = size;
	return PLX_E_OK;
}

void plx_arena_touch(const struct plx_arena *a, size_t begin, size_t end)
{
	end = end < a->size_bytes ? end : a->size_bytes;
	if (begin >= end)
		return;
	size_t from = begin & ~(PAGE_BYTES - 1);

#ifdef MADV_POPULATE_WRITE
	if (madvise(a->base + from, end - from, MADV_POPULATE_WRITE) == 0)
		return;
#endif
	/* A kernel before 5.14. */
	for (size_t off = from; off < end; off += PAGE_BYTES)
		*(volatile uint8_t *)(a->base + off) = 0;
}

int plx_arena_open(struct plx_arena *a, size_t size_bytes, struct plx_diag *d)
{
	int err = plx_arena_map(a, size_bytes, d);

	if (err == 0)
		plx_arena_touch(a, 0, a->size_bytes);
	return err;
}

void *plx_arena_take(struct plx_arena *a, size_t bytes, size_t align)
{
	PLX_CHECK(!a->sealed);
	size_t off = round_up(a->used_bytes, align);

	if (off > a->size_bytes || bytes > a->size_bytes - off)
		return NULL;
	a->used_bytes = off + bytes;
	return a->base + off;
}

void plx_arena_seal(struct plx_arena *a)
{
	a->sealed = true;
}

void plx_arena_close(struct plx_arena *a)
{
	if (a->base != NULL)
		munmap(a->base, a->size_bytes);
	memset(a, 0, sizeof(*a));
}
