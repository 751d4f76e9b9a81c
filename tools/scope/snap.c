/* Takes copies of pages and rings; see snap.h. */
#include "tools/scope/snap.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fw/base/clock.h"
#include "fw/base/err.h"

int plx_snap_open(struct plx_snap *s, const struct plx_share_head *h, bool events)
{
	memset(s, 0, sizeof(*s));
	s->head = *h;
	s->max_evs = events ? h->n_pages * h->trace_events : 0;
	s->page = aligned_alloc(64, PLX_SHARE_MAX_PAGES * sizeof(*s->page));
	s->ev = malloc((s->max_evs + 1) * sizeof(*s->ev));
	if (s->page != NULL && s->ev != NULL) {
		memset(s->page, 0, PLX_SHARE_MAX_PAGES * sizeof(*s->page));
		return PLX_E_OK;
	}
	plx_snap_close(s);
	return PLX_E_NOMEM;
}

void plx_snap_close(struct plx_snap *s)
{
	free(s->page);
	free(s->ev);
	s->page = NULL;
	s->ev = NULL;
}

static void copy_page(struct plx_page *to, const struct plx_page *from)
{
	const uint64_t *src = (const uint64_t *)(const void *)from;
	uint64_t *dst = (uint64_t *)(void *)to;

	for (size_t i = 0; i < sizeof(*to) / sizeof(*src); i++)
		dst[i] = __atomic_load_n(&src[i], __ATOMIC_RELAXED);
	to->name[sizeof(to->name) - 1] = '\0';
	for (uint32_t h = 0; h < PLX_H_COUNT; h++) {
		uint64_t n = 0;

		for (uint32_t b = 0; b < PLX_HIST_BINS; b++)
			n += to->hist[h].bin[b];
		to->hist[h].count = n;
	}
}

static void take_ring(struct plx_snap *s, const struct plx_scope *from, uint32_t i)
{
	const struct plx_trace_ev *ring = plx_scope_ring(from, i);
	uint32_t size = from->head.trace_events;

	if (ring == NULL)
		return;
	uint64_t end = __atomic_load_n(&plx_scope_page(from, i)->trace_seq, __ATOMIC_ACQUIRE);

	for (uint64_t n = end > size ? end - size : 0; n < end && s->n_evs < s->max_evs; n++) {
		struct plx_scope_ev *to = &s->ev[s->n_evs];

		if (!plx_trace_read(ring, size, n, &to->e)) {
			s->n_lost++;
			continue;
		}
		to->page = i;
		to->lcore = s->page[i].lcore;
		s->n_evs++;
	}
}

static int by_time(const void *a, const void *b)
{
	const struct plx_scope_ev *x = a, *y = b;

	if (x->e.ns != y->e.ns)
		return x->e.ns < y->e.ns ? -1 : 1;
	if (x->page != y->page)
		return x->page < y->page ? -1 : 1;
	return (x->e.seq > y->e.seq) - (x->e.seq < y->e.seq);
}

void plx_snap_sort(struct plx_snap *s)
{
	qsort(s->ev, s->n_evs, sizeof(*s->ev), by_time);
}

void plx_snap_take(struct plx_snap *s, const struct plx_scope *from)
{
	struct timespec real;

	clock_gettime(CLOCK_REALTIME, &real);
	s->real_ns = (uint64_t)real.tv_sec * PLX_NS_PER_S + (uint64_t)real.tv_nsec;
	s->ns = plx_clock_ns();
	s->head = from->head;
	s->life = plx_scope_life(from);
	s->n_pages = from->head.n_pages;
	s->n_evs = 0;
	s->n_lost = 0;
	for (uint32_t i = 0; i < s->n_pages; i++) {
		copy_page(&s->page[i], plx_scope_page(from, i));
		take_ring(s, from, i);
	}
	plx_snap_sort(s);
}
