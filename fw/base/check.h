/*
 * Assertions on our own mistakes; never on packets, files or devices.
 *
 * PLX_CHECK stays in release builds: it prints the expression and place, then aborts.
 * PLX_DCHECK is for hot paths and exists only where PLX_DEBUG is defined (sanitizer builds).
 */
#ifndef PLX_FW_BASE_CHECK_H
#define PLX_FW_BASE_CHECK_H

__attribute__((noreturn, cold)) void plx_check_failed(const char *expr, const char *file, int line);

#define PLX_CHECK(expr)                                                                            \
	do {                                                                                       \
		if (__builtin_expect(!(expr), 0))                                                  \
			plx_check_failed(#expr, __FILE__, __LINE__);                               \
	} while (0)

#ifdef PLX_DEBUG
#define PLX_DCHECK(expr) PLX_CHECK(expr)
#else
#define PLX_DCHECK(expr)                                                                           \
	do {                                                                                       \
		(void)sizeof(expr);                                                                \
	} while (0)
#endif

#define PLX_LIKELY(x)   __builtin_expect(!!(x), 1)
#define PLX_UNLIKELY(x) __builtin_expect(!!(x), 0)

#endif
