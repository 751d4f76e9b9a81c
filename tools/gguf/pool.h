/*
 * A few threads that share a list of items.
 */
#ifndef PLX_TOOLS_GGUF_POOL_H
#define PLX_TOOLS_GGUF_POOL_H

#include <stdint.h>

#define PLX_POOL_MAX 256u

/* One item by one thread, 0 <= thread < n_threads. Returns 0, or an error that ends the work. */
typedef int (*plx_pool_fn)(void *ctx, uint32_t thread, uint64_t item);

/*
 * plx_pool_run - fn on each of n_items, each once, by n_threads threads (the caller is thread 0).
 *
 * Items begin in ascending order. After an error no further item begins.
 *
 * Returns 0; the error of the lowest item that failed, so that messages do not depend on timing
 * more than they must; CANCELLED after a signal (plx_out_interrupted).
 */
int plx_pool_run(uint32_t n_threads, uint64_t n_items, plx_pool_fn fn, void *ctx);

/* plx_pool_threads - asked, or (0) one a CPU that this process may use; 1 to PLX_POOL_MAX. */
uint32_t plx_pool_threads(uint32_t asked);

#endif
