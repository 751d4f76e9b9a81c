/*
 * Counts what each thread asks of the allocator: malloc and its kin, and free, one each.
 *
 * In a release build they stand here, in front of glibc's own; under a sanitizer, whose allocator
 * must not be replaced, its hooks are used.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "tests/lib/watch.h"

static _Thread_local uint64_t n_calls;

uint64_t plx_watch_allocs(void)
{
	return n_calls;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)

int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void *, size_t),
                                              void (*on_free)(const volatile void *));

static void on_malloc(const volatile void *p, size_t n)
{
	(void)p;
	(void)n;
	n_calls++;
}

static void on_free(const volatile void *p)
{
	n_calls += p != NULL;
}

__attribute__((constructor)) static void install(void)
{
	(void)__sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
}

#else

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);
void __libc_free(void *p);

void *malloc(size_t n)
{
	n_calls++;
	return __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
	n_calls++;
	return __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
	n_calls++;
	return __libc_realloc(p, n);
}

void *memalign(size_t align, size_t n);
void *memalign(size_t align, size_t n)
{
	n_calls++;
	return __libc_memalign(align, n);
}

void *aligned_alloc(size_t align, size_t n)
{
	n_calls++;
	return __libc_memalign(align, n);
}

int posix_memalign(void **out, size_t align, size_t n)
{
	void *p = memalign(align, n);

	if (p == NULL)
		return 12; /* ENOMEM */
	*out = p;
	return 0;
}

void free(void *p)
{
	n_calls += p != NULL;
	__libc_free(p);
}

#endif
