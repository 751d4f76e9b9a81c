/*
 * The weights' cache straight from the disk into the memory where they will lie, past the kernel's
 * cache: a few threads have a piece each on its way, so that the disk always has something to do
 * and no lane copies what it brings. Lanes make the memory's pages before it, and check sums
 * behind.
 *
 * For a file that is not in the kernel's memory. One that is comes faster by plain reads.
 */
#ifndef PLX_ACCEL_CPU_FETCH_H
#define PLX_ACCEL_CPU_FETCH_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "accel/cpu_cache.h"

#define PLX_FETCH_PIECE   (UINT64_C(4) << 20) /* a disk's largest request; chunks do not cross it */
#define PLX_FETCH_THREADS 4u

enum plx_fetch_state {
	PLX_FETCH_NO_MEMORY, /* its pages are not made yet */
	PLX_FETCH_WANTED,
	PLX_FETCH_HERE,
	PLX_FETCH_FAILED, /* cut short, or the disk said no */
};

struct plx_fetch {
	bool on; /* owner: it runs, or has run */
	_Atomic bool stop;
	_Atomic uint32_t next;   /* piece that no thread has taken yet */
	_Atomic uint32_t *state; /* [n_piece] enum plx_fetch_state */
	uint32_t n_piece;
	uint32_t n_thread;
	int direct_fd;
	const struct plx_cache *cache;
	uint8_t *to;
	const uint64_t *cpus;
	pthread_mutex_t lock; /* of change alone */
	pthread_cond_t change;
	pthread_t thread[PLX_FETCH_THREADS];
};

/* plx_fetch_pieces - pieces of so much data. */
static inline uint32_t plx_fetch_pieces(uint64_t data_bytes)
{
	return (uint32_t)((data_bytes + PLX_FETCH_PIECE - 1) / PLX_FETCH_PIECE);
}

/*
 * plx_fetch_start - begin to read an open cache's data, where that is worth it.
 *
 * @f     zeroed.
 * @to    start of all the data, on a page; it has room up to the end of data_bytes' last page.
 * @cpus  [16] CPUs whose lcores compute: the threads keep off them where they can.
 *
 * Returns false, and nothing runs, for a file that is in the kernel's memory already, a file system
 * that can't read past it, or where no thread can be started.
 */
bool plx_fetch_start(struct plx_fetch *f, const struct plx_cache *c, uint8_t *to,
                     const uint64_t *cpus);

/* plx_fetch_allow - piece i's pages are made: it may be read. Thread: any, once a piece. */
void plx_fetch_allow(struct plx_fetch *f, uint32_t i);

/*
 * plx_fetch_wait - until piece i is here.  Thread: any, after all pieces were allowed.
 * Errors: IO (it did not come, or the fetch was stopped).
 */
int plx_fetch_wait(struct plx_fetch *f, uint32_t i);

/* plx_fetch_stop - end it, wherever it is; nothing is written to memory from then on. A fetch that
 * was not started is accepted. Cost: waits for the pieces that are on their way. */
void plx_fetch_stop(struct plx_fetch *f);

#endif
