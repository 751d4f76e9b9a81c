/* Makes the shared file of pages and rings; see share.h. */
#include "fw/base/share.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "fw/base/clock.h"
#include "fw/base/err.h"

#define HEAD_BYTES 4096u
#define ALIGN      4096u

/* FNV-1a, 64 bits: offset basis and prime of the algorithm's definition. */
static uint64_t mix(uint64_t h, const char *text)
{
	for (; *text != '\0'; text++)
		h = (h ^ (uint8_t)*text) * UINT64_C(0x100000001b3);
	return (h ^ 0xff) * UINT64_C(0x100000001b3);
}

uint64_t plx_share_layout(void)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);
	char sizes[64];

	for (uint32_t i = 0; i < PLX_M_COUNT; i++)
		h = mix(h, plx_metric_name((enum plx_metric)i));
	for (uint32_t i = 0; i < PLX_G_COUNT; i++)
		h = mix(h, plx_gauge_name((enum plx_gauge)i));
	for (uint32_t i = 0; i < PLX_H_COUNT; i++)
		h = mix(h, plx_hist_name((enum plx_hist_idx)i));
	for (uint32_t i = 0; i < PLX_TR_KIND_END; i++)
		h = mix(h, plx_trace_name(i));
	snprintf(sizes, sizeof(sizes), "%zu %zu %zu %u", sizeof(struct plx_share_head),
	         sizeof(struct plx_page), sizeof(struct plx_trace_ev), PLX_PAGE_ABI);
	return mix(h, sizes);
}

static size_t round_up(size_t v)
{
	return (v + ALIGN - 1) & ~(size_t)(ALIGN - 1);
}

size_t plx_share_size(uint32_t n_pages, uint32_t *trace_events)
{
	uint32_t n = *trace_events;

	if (n > PLX_SHARE_MAX_EVENTS)
		n = PLX_SHARE_MAX_EVENTS;
	if (n > 1)
		n = 1u << (32 - __builtin_clz(n - 1));
	*trace_events = n;
	return HEAD_BYTES + round_up(n_pages * sizeof(struct plx_page)) +
	       (size_t)n_pages * n * sizeof(struct plx_trace_ev);
}

uint64_t plx_share_pid_start(int32_t pid)
{
	char path[32], text[512], *at;
	unsigned long long ticks = 0;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	FILE *f = fopen(path, "re");

	if (f == NULL)
		return 0;
	/* The name may hold anything, blanks and brackets too: count from its last bracket. */
	at = fgets(text, sizeof(text), f) != NULL ? strrchr(text, ')') : NULL;
	fclose(f);
	if (at == NULL || sscanf(at + 1,
	                         " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d "
	                         "%*d %*d %*d %*d %llu",
	                         &ticks) != 1)
		return 0;
	return ticks;
}

/* Whether a running process other than this one keeps the file at path. */
static bool is_in_use(const char *path, int32_t *pid)
{
	struct plx_share_head h;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	ssize_t n = fd < 0 ? -1 : pread(fd, &h, sizeof(h), 0);

	if (fd >= 0)
		close(fd);
	if (n != (ssize_t)sizeof(h) || h.magic != PLX_SHARE_MAGIC ||
	    h.abi_version != PLX_SHARE_ABI || h.state == PLX_SHARE_ENDED || h.pid == getpid())
		return false;
	*pid = h.pid;
	return h.pid_start != 0 && plx_share_pid_start(h.pid) == h.pid_start;
}

static int refused(struct plx_diag *d, const char *path, const char *what)
{
	return plx_diag_set(d, PLX_E_IO,
	                    "telemetry file %s: %s: %s; give another path with telemetry: in the "
	                    "board file, or telemetry: off",
	                    path, what, strerror(errno));
}

/* A new file of so many bytes, all of them there: later there is nobody to tell. */
static int make_file(const char *path, size_t bytes, void **map, struct plx_diag *d)
{
	(void)unlink(path);
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0640);

	if (fd < 0)
		return refused(d, path, "can't be made");
	int err = 0;

	if (fchmod(fd, 0640) != 0)
		err = refused(d, path, "can't be given its mode");
	else if ((errno = posix_fallocate(fd, 0, (off_t)bytes)) != 0)
		err = refused(d, path, "has no room");
	void *at =
	    err != 0 ? MAP_FAILED
		     : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);

	if (err == 0 && at == MAP_FAILED)
		err = refused(d, path, "can't be mapped");
	close(fd);
	if (err != 0) {
		(void)unlink(path);
		return err;
	}
	memset(at, 0, bytes);
	*map = at;
	return PLX_E_OK;
}

static void fill_head(struct plx_share *s, uint32_t n_pages, uint32_t trace_events)
{
	struct plx_share_head *h = s->head;
	struct timespec real;

	clock_gettime(CLOCK_REALTIME, &real);
	h->magic = PLX_SHARE_MAGIC;
	h->abi_version = PLX_SHARE_ABI;
	h->head_bytes = HEAD_BYTES;
	h->layout_hash = plx_share_layout();
	h->total_bytes = s->bytes;
	h->page_off = HEAD_BYTES;
	h->page_bytes = sizeof(struct plx_page);
	h->n_pages = n_pages;
	h->trace_events = trace_events;
	h->trace_off = HEAD_BYTES + round_up(n_pages * sizeof(struct plx_page));
	h->state = PLX_SHARE_STARTING;
	h->pid = getpid();
	h->pid_start = plx_share_pid_start(getpid());
	h->start_ns = plx_clock_ns();
	h->start_real = (uint64_t)real.tv_sec * PLX_NS_PER_S + (uint64_t)real.tv_nsec;
}

static void place_rings(struct plx_share *s)
{
	const struct plx_share_head *h = s->head;
	size_t ring_bytes = h->trace_events * sizeof(struct plx_trace_ev);

	for (uint32_t i = 0; i < h->n_pages && h->trace_events > 0; i++) {
		s->page[i].trace_off =
		    h->trace_off + i * ring_bytes - h->page_off - i * sizeof(struct plx_page);
		s->page[i].trace_events = h->trace_events;
	}
}

int plx_share_create(struct plx_share *s, const char *path, uint32_t n_pages, uint32_t trace_events,
                     struct plx_diag *d)
{
	char made[PLX_SHARE_PATH_BYTES + 16];
	void *map = NULL;
	int32_t pid = 0;

	memset(s, 0, sizeof(*s));
	if (strlen(path) >= sizeof(s->path) || n_pages == 0 || n_pages > PLX_SHARE_MAX_PAGES)
		return plx_diag_set(d, PLX_E_INVAL, "telemetry file %s: path too long or no stages",
		                    path);
	if (is_in_use(path, &pid))
		return plx_diag_set(d, PLX_E_EXISTS,
		                    "telemetry file %s is that of a running process, %d; give "
		                    "another path with telemetry: in the board file",
		                    path, (int)pid);
	s->bytes = plx_share_size(n_pages, &trace_events);
	snprintf(made, sizeof(made), "%s.%d", path, (int)getpid());
	int err = make_file(made, s->bytes, &map, d);

	if (err != 0 || map == NULL)
		return err;
	s->head = map;
	s->page = (struct plx_page *)(void *)((char *)map + HEAD_BYTES);
	fill_head(s, n_pages, trace_events);
	place_rings(s);
	if (rename(made, path) != 0) {
		err = refused(d, path, "can't be put in its place");
		(void)unlink(made);
		munmap(map, s->bytes);
		memset(s, 0, sizeof(*s));
		return err;
	}
	snprintf(s->path, sizeof(s->path), "%s", path);
	return PLX_E_OK;
}

void plx_share_state_set(struct plx_share *s, enum plx_share_state state)
{
	if (s->head != NULL)
		__atomic_store_n(&s->head->state, (uint32_t)state, __ATOMIC_RELEASE);
}

void plx_share_close(struct plx_share *s)
{
	if (s->head == NULL)
		return;
	plx_share_state_set(s, PLX_SHARE_ENDED);
	(void)unlink(s->path);
	munmap(s->head, s->bytes);
	memset(s, 0, sizeof(*s));
}
