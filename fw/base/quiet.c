/* The allocator's hooks of a debug build; nothing in a release build. */
#include "fw/base/quiet.h"

#include <stddef.h>

#include "fw/base/check.h"

#ifdef PLX_DEBUG

/* Of gcc's and clang's sanitizers: called after each allocation and before each free. */
int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void *, size_t),
                                              void (*on_free)(const volatile void *));

static _Thread_local bool is_quiet;

static void object(void)
{
	if (!is_quiet)
		return;
	is_quiet = false; /* what says so may allocate */
	plx_check_failed("the data path uses the allocator after start", __FILE__, __LINE__);
}

static void on_malloc(const volatile void *p, size_t n_bytes)
{
	(void)p;
	(void)n_bytes;
	object();
}

static void on_free(const volatile void *p)
{
	if (p != NULL)
		object();
}

bool plx_quiet_set(bool quiet)
{
	static _Atomic bool installed;
	bool was = is_quiet;

	if (!installed)
		installed = __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free) != 0;
	is_quiet = quiet;
	return was;
}

#endif
