/* The weights' cache past the kernel's cache: pieces, threads, and whether it is worth it. */
#include "accel/cpu_fetch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fw/base/err.h"
#include "fw/base/thread.h"

#define PAGE_BYTES UINT64_C(4096) /* what O_DIRECT wants, whatever the disk */
#define N_LOOK     64u            /* pages that stand for the file */

/* ---- reading -------------------------------------------------------------------------------- */

/* One pread that no signal interrupts. */
static ssize_t read_at(int fd, uint8_t *to, uint64_t n, uint64_t off)
{
	ssize_t got;

	do
		got = pread(fd, to, n, (off_t)off);
	while (got < 0 && errno == EINTR);
	return got;
}

/*
 * n bytes: past the kernel's cache as far as that goes in whole pages, then through it. What is
 * read past the file's end stands beyond n in its page.
 */
static bool read_piece(const struct plx_fetch *f, uint8_t *to, uint64_t n, uint64_t off)
{
	uint64_t whole = (n + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1), done = 0;
	ssize_t got = 1;

	while (done < n && got > 0 && done % PAGE_BYTES == 0) {
		got = read_at(f->direct_fd, to + done, whole - done, off + done);
		done += got > 0 ? (uint64_t)got : 0;
	}
	for (got = 1; done < n && got > 0; done += got > 0 ? (uint64_t)got : 0)
		got = read_at(f->cache->fd, to + done, n - done, off + done);
	return done >= n;
}

static uint32_t state_of(struct plx_fetch *f, uint32_t i)
{
	/* F1: pairs with F2, so that the piece's pages, then its bytes, are seen. */
	return atomic_load_explicit(&f->state[i], memory_order_acquire);
}

static void state_set(struct plx_fetch *f, uint32_t i, enum plx_fetch_state s)
{
	pthread_mutex_lock(&f->lock);
	/* F2: pairs with F1. */
	atomic_store_explicit(&f->state[i], s, memory_order_release);
	pthread_cond_broadcast(&f->change);
	pthread_mutex_unlock(&f->lock);
}

/* Until piece i has got past a state, or all ends. */
static uint32_t state_past(struct plx_fetch *f, uint32_t i, uint32_t past)
{
	if (state_of(f, i) > past)
		return state_of(f, i);
	pthread_mutex_lock(&f->lock);
	while (state_of(f, i) <= past && !f->stop)
		pthread_cond_wait(&f->change, &f->lock);
	pthread_mutex_unlock(&f->lock);
	return state_of(f, i);
}

static void *fetch_main(void *arg)
{
	struct plx_fetch *f = arg;
	uint32_t i;

	plx_thread_keep_off(f->cpus);
	while (!f->stop && (i = atomic_fetch_add(&f->next, 1)) < f->n_piece) {
		uint64_t off = i * PLX_FETCH_PIECE, n = f->cache->data_bytes - off;

		if (state_past(f, i, PLX_FETCH_NO_MEMORY) != PLX_FETCH_WANTED)
			break;
		bool ok = read_piece(f, f->to + off, n < PLX_FETCH_PIECE ? n : PLX_FETCH_PIECE,
		                     f->cache->data_off + off);

		state_set(f, i, ok ? PLX_FETCH_HERE : PLX_FETCH_FAILED);
	}
	return NULL;
}

/* ---- whether it is worth it ----------------------------------------------------------------- */

/* Most of the file is in the kernel's memory, by a look at some of its pages. */
static bool in_memory(const struct plx_cache *c)
{
	uint64_t bytes = c->data_off + c->data_bytes, step = bytes / N_LOOK & ~(PAGE_BYTES - 1);
	uint8_t *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, c->fd, 0);
	uint32_t n = 0;

	if (map == MAP_FAILED)
		return false;
	for (uint32_t i = 0; i < N_LOOK; i++) {
		unsigned char here = 0;

		if (mincore(map + i * step, PAGE_BYTES, &here) == 0 && (here & 1) != 0)
			n++;
	}
	munmap(map, bytes);
	return n >= N_LOOK / 2;
}

/* The same file, read past the kernel's cache; -1 where that can't be. */
static int direct_open(const struct plx_cache *c, uint8_t *to)
{
	char self[48];

	snprintf(self, sizeof(self), "/proc/self/fd/%d", c->fd);
	int fd = open(self, O_RDONLY | O_CLOEXEC | O_DIRECT);

	if (fd < 0)
		return -1;
	if (read_at(fd, to, PAGE_BYTES, c->data_off) > 0)
		return fd;
	close(fd);
	return -1;
}

/* ---- from outside --------------------------------------------------------------------------- */

bool plx_fetch_start(struct plx_fetch *f, const struct plx_cache *c, uint8_t *to,
                     const uint64_t *cpus)
{
	*f = (struct plx_fetch){.n_piece = plx_fetch_pieces(c->data_bytes),
	                        .direct_fd = in_memory(c) ? -1 : direct_open(c, to),
	                        .cache = c,
	                        .to = to,
	                        .cpus = cpus};
	if (f->direct_fd < 0)
		return false;
	f->state = calloc(f->n_piece, sizeof(*f->state)); /* NO_MEMORY */
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->change, NULL);
	f->on = true;
	for (uint32_t i = 0; f->state != NULL && i < PLX_FETCH_THREADS; i++)
		if (plx_thread_start(&f->thread[f->n_thread], fetch_main, f) == 0)
			f->n_thread++;
	if (f->n_thread > 0)
		return true;
	plx_fetch_stop(f);
	return false;
}

void plx_fetch_allow(struct plx_fetch *f, uint32_t i)
{
	state_set(f, i, PLX_FETCH_WANTED);
}

int plx_fetch_wait(struct plx_fetch *f, uint32_t i)
{
	return state_past(f, i, PLX_FETCH_WANTED) == PLX_FETCH_HERE ? PLX_E_OK : PLX_E_IO;
}

void plx_fetch_stop(struct plx_fetch *f)
{
	if (!f->on)
		return;
	pthread_mutex_lock(&f->lock);
	f->stop = true;
	pthread_cond_broadcast(&f->change);
	pthread_mutex_unlock(&f->lock);
	for (uint32_t i = 0; i < f->n_thread; i++)
		(void)pthread_join(f->thread[i], NULL);
	f->n_thread = 0;
	close(f->direct_fd);
	free(f->state);
	pthread_cond_destroy(&f->change);
	pthread_mutex_destroy(&f->lock);
	f->on = false;
}
