/* Makes, saves and loads recordings; see rec.h. */
#include "tools/scope/rec.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fw/base/err.h"

#define MAGIC UINT64_C(0x444345525f584c50) /* "PLX_RECD" */

struct file_head {
	uint64_t magic;
	uint64_t layout;
	uint64_t ns, real_ns, n_lost;
	uint32_t life, n_pages, n_evs, n_thieves, watched, reserved;
	struct plx_share_head head;
};

int plx_rec_open(struct plx_rec *r, const struct plx_scope *from)
{
	memset(r, 0, sizeof(*r));
	int err = plx_snap_open(&r->snap, &from->head, false);

	if (err != 0)
		return err;
	free(r->snap.ev);
	r->snap.max_evs = PLX_REC_EVENTS;
	r->snap.ev = malloc(PLX_REC_EVENTS * sizeof(*r->snap.ev));
	r->thief = malloc(PLX_REC_THIEVES * sizeof(*r->thief));
	if (r->snap.ev != NULL && r->thief != NULL)
		return PLX_E_OK;
	plx_rec_close(r);
	return PLX_E_NOMEM;
}

void plx_rec_close(struct plx_rec *r)
{
	plx_snap_close(&r->snap);
	free(r->thief);
	r->thief = NULL;
}

static uint64_t written(const struct plx_scope *from, uint32_t page)
{
	return __atomic_load_n(&plx_scope_page(from, page)->trace_seq, __ATOMIC_ACQUIRE);
}

void plx_rec_begin(struct plx_rec *r, const struct plx_scope *from)
{
	for (uint32_t i = 0; i < from->head.n_pages; i++)
		r->next[i] = written(from, i);
}

static void poll_ring(struct plx_rec *r, const struct plx_scope *from, uint32_t i)
{
	const struct plx_trace_ev *ring = plx_scope_ring(from, i);
	uint64_t end = written(from, i), size = from->head.trace_events;

	if (ring == NULL)
		return;
	if (end - r->next[i] > size) {
		r->snap.n_lost += end - size - r->next[i];
		r->next[i] = end - size;
	}
	for (; r->next[i] < end; r->next[i]++) {
		struct plx_scope_ev *to = &r->snap.ev[r->snap.n_evs];

		if (r->snap.n_evs == r->snap.max_evs ||
		    !plx_trace_read(ring, (uint32_t)size, r->next[i], &to->e)) {
			r->snap.n_lost++;
			continue;
		}
		to->page = i;
		to->lcore = plx_scope_page(from, i)->lcore;
		r->snap.n_evs++;
	}
}

void plx_rec_poll(struct plx_rec *r, const struct plx_scope *from)
{
	for (uint32_t i = 0; i < from->head.n_pages; i++)
		poll_ring(r, from, i);
}

void plx_rec_end(struct plx_rec *r, const struct plx_scope *from)
{
	struct plx_snap pages = r->snap;

	plx_rec_poll(r, from);
	pages.max_evs = 0; /* only pages */
	plx_snap_take(&pages, from);
	pages.ev = r->snap.ev;
	pages.n_evs = r->snap.n_evs;
	pages.max_evs = r->snap.max_evs;
	pages.n_lost = r->snap.n_lost;
	r->snap = pages;
	plx_snap_sort(&r->snap);
}

bool plx_rec_is(const char *path)
{
	uint64_t magic = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t n = fd < 0 ? 0 : read(fd, &magic, sizeof(magic));

	if (fd >= 0)
		close(fd);
	return n == (ssize_t)sizeof(magic) && magic == MAGIC;
}

int plx_rec_save(const struct plx_rec *r, const char *path, struct plx_diag *d)
{
	const struct plx_snap *s = &r->snap;
	struct file_head h = {.magic = MAGIC,
	                      .layout = plx_share_layout(),
	                      .ns = s->ns,
	                      .real_ns = s->real_ns,
	                      .n_lost = s->n_lost,
	                      .life = (uint32_t)s->life,
	                      .n_pages = s->n_pages,
	                      .n_evs = s->n_evs,
	                      .n_thieves = r->n_thieves,
	                      .watched = r->watched,
	                      .head = s->head};
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
	FILE *f = fd < 0 ? NULL : fdopen(fd, "w");

	if (f == NULL) {
		if (fd >= 0)
			close(fd);
		return plx_diag_set(d, PLX_E_IO, "%s: %s", path, strerror(errno));
	}
	fwrite(&h, sizeof(h), 1, f);
	fwrite(s->page, sizeof(*s->page), s->n_pages, f);
	fwrite(s->ev, sizeof(*s->ev), s->n_evs, f);
	fwrite(r->thief, sizeof(*r->thief), r->n_thieves, f);
	bool bad = ferror(f) != 0;

	if (fclose(f) != 0 || bad)
		return plx_diag_set(d, PLX_E_IO, "%s: not all of it could be written: %s", path,
		                    strerror(errno));
	return PLX_E_OK;
}

static int check(const struct file_head *h, size_t n_bytes, const char *name, struct plx_diag *d)
{
	if (h->magic != MAGIC)
		return plx_diag_set(d, PLX_E_FORMAT, "%s is no recording", name);
	if (h->layout != plx_share_layout())
		return plx_diag_set(d, PLX_E_UNSUPPORTED,
		                    "%s was made by another version of plx-scope; use that one",
		                    name);
	if (h->n_pages == 0 || h->n_pages > PLX_SHARE_MAX_PAGES || h->n_evs > PLX_REC_EVENTS ||
	    h->n_thieves > PLX_REC_THIEVES ||
	    n_bytes != sizeof(*h) + h->n_pages * sizeof(struct plx_page) +
	                   h->n_evs * sizeof(struct plx_scope_ev) +
	                   h->n_thieves * sizeof(struct plx_thief))
		return plx_diag_set(d, PLX_E_FORMAT, "%s is cut, or its counts are wrong", name);
	return PLX_E_OK;
}

/* What readers rely on, whatever the bytes are. */
static void make_safe(struct plx_rec *r)
{
	struct plx_snap *s = &r->snap;

	s->head.board[sizeof(s->head.board) - 1] = '\0';
	s->head.model[sizeof(s->head.model) - 1] = '\0';
	for (uint32_t i = 0; i < s->n_pages; i++)
		s->page[i].name[sizeof(s->page[i].name) - 1] = '\0';
	for (uint32_t i = 0; i < s->n_evs; i++)
		if (s->ev[i].page >= s->n_pages)
			s->ev[i].page = 0;
	for (uint32_t i = 0; i < r->n_thieves; i++)
		if (r->thief[i].kind >= PLX_THIEF_KIND_END)
			r->thief[i].kind = 0;
}

int plx_rec_parse(struct plx_rec *r, const uint8_t *at, size_t n_bytes, const char *name,
                  struct plx_diag *d)
{
	struct file_head h = {0};

	memset(r, 0, sizeof(*r));
	memcpy(&h, at, n_bytes < sizeof(h) ? n_bytes : sizeof(h));
	int err = n_bytes < sizeof(h) ? plx_diag_set(d, PLX_E_FORMAT, "%s is no recording", name)
	                              : check(&h, n_bytes, name, d);

	if (err != 0)
		return err;
	struct plx_snap *s = &r->snap;

	err = plx_snap_open(s, &h.head, false);
	if (err != 0)
		return err;
	free(s->ev);
	s->ev = malloc((h.n_evs + 1) * sizeof(*s->ev));
	r->thief = malloc((h.n_thieves + 1) * sizeof(*r->thief));
	if (s->ev == NULL || r->thief == NULL) {
		plx_rec_close(r);
		return PLX_E_NOMEM;
	}
	s->life = h.life <= PLX_SCOPE_DEAD ? (enum plx_scope_life)h.life : PLX_SCOPE_DEAD;
	s->ns = h.ns;
	s->real_ns = h.real_ns;
	s->n_lost = h.n_lost;
	s->n_pages = h.n_pages;
	s->n_evs = s->max_evs = h.n_evs;
	r->n_thieves = h.n_thieves;
	r->watched = h.watched != 0;
	at += sizeof(h);
	memcpy(s->page, at, h.n_pages * sizeof(*s->page));
	at += h.n_pages * sizeof(*s->page);
	memcpy(s->ev, at, h.n_evs * sizeof(*s->ev));
	at += h.n_evs * sizeof(*s->ev);
	memcpy(r->thief, at, h.n_thieves * sizeof(*r->thief));
	make_safe(r);
	plx_snap_sort(s);
	return PLX_E_OK;
}

int plx_rec_load(struct plx_rec *r, const char *path, struct plx_diag *d)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	void *at = MAP_FAILED;

	if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0)
		at = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	int err = at == MAP_FAILED ? plx_diag_set(d, PLX_E_IO, "%s: %s", path,
	                                          fd < 0 ? strerror(errno) : "no file to read")
	                           : plx_rec_parse(r, at, (size_t)st.st_size, path, d);

	if (at != MAP_FAILED)
		munmap(at, (size_t)st.st_size);
	if (fd >= 0)
		close(fd);
	return err;
}
