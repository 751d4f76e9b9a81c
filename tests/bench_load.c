/*
 * How long a model takes from its path to a device that can compute: repacked, and read from the
 * cache, each with the files dropped from the kernel's memory before (cold) and not (warm), in turn
 * with plain reads of the same bytes: by as many threads through the kernel's memory, a MiB at a
 * time, and by one thread past it (O_DIRECT), 16 MiB at a time, as dd would. What a load from the
 * cache reads are the cache and the model's embedding rows. Medians; the range behind them.
 *
 * Usage: bench_load [model.gguf] [threads] [runs] [warm | cold] [cache: not what repacking reads]
 * The memory that a load takes was touched just before, see memory_ready; BENCH_FRESH=1: was not.
 * BENCH_KEEP=1: the cache, MODEL.bench.plx, stays for the next run.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "accel/accel.h"
#include "accel/cpu_cache.h"
#include "accel/model/model.h"
#include "fw/base/check.h"
#include "fw/base/clock.h"
#include "fw/base/err.h"
#include "fw/base/log.h"
#include "tests/lib/model_path.h"

#define MAX_RUNS     21u
#define MAX_THREADS  16u
#define PIECE        (UINT64_C(1) << 20)
#define DIRECT_PIECE (UINT64_C(16) << 20)
#define HUGE_PAGE    (UINT64_C(2) << 20)
#define SPARE        (UINT64_C(256) << 20) /* for what is not weights */

static char base[PLX_DEV_PATH_BYTES], cache[PLX_DEV_PATH_BYTES + 8];
static uint32_t n_thread;

static uint64_t size_of(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

/* Pages that nobody has mapped leave the kernel's memory. */
static void drop(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	(void)fdatasync(fd);
	(void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	close(fd);
}

/*
 * Memory that this machine's host will back at once: a virtual machine's host takes free memory
 * back within seconds and clears it anew at its first use, 2.5 ms a MiB, which would be most of
 * every figure here, of plain reads too. What is touched and freed just now is still there.
 */
static void memory_ready(uint64_t bytes)
{
	uint8_t *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return;
	(void)madvise(p, bytes, MADV_HUGEPAGE);
	for (uint64_t off = 0; off < bytes; off += 4096)
		*(volatile uint8_t *)(p + off) = 0;
	munmap(p, bytes);
}

/* ---- a plain read --------------------------------------------------------------------------- */

/* What is read: bytes of a file. */
struct part {
	const char *path;
	uint64_t off;
	uint64_t bytes;
};

struct reader {
	int fd;
	_Atomic uint64_t next;
	uint64_t end;
};

static void *reader_main(void *arg)
{
	struct reader *r = arg;
	uint8_t *buf = malloc(PIECE);
	uint64_t off;

	PLX_CHECK(buf != NULL);
	while ((off = atomic_fetch_add(&r->next, PIECE)) < r->end)
		PLX_CHECK(pread(r->fd, buf, PIECE, (off_t)off) > 0);
	free(buf);
	return NULL;
}

/* By all threads, each MiB into the same memory of its thread. */
static void read_shared(const struct part *p)
{
	struct reader r = {.fd = open(p->path, O_RDONLY | O_CLOEXEC), .end = p->off + p->bytes};
	pthread_t t[MAX_THREADS];

	PLX_CHECK(r.fd >= 0);
	atomic_init(&r.next, p->off);
	for (uint32_t i = 1; i < n_thread; i++)
		PLX_CHECK(pthread_create(&t[i], NULL, reader_main, &r) == 0);
	(void)reader_main(&r);
	for (uint32_t i = 1; i < n_thread; i++)
		pthread_join(t[i], NULL);
	close(r.fd);
}

/* On huge pages: a disk's request holds so many pages at most, so large ones make it large. */
static void read_direct(const struct part *p)
{
	int fd = open(p->path, O_RDONLY | O_CLOEXEC | O_DIRECT);
	uint8_t *buf = aligned_alloc(HUGE_PAGE, DIRECT_PIECE);
	uint64_t off = p->off & ~UINT64_C(4095);

	PLX_CHECK(fd >= 0 && buf != NULL);
	(void)madvise(buf, DIRECT_PIECE, MADV_HUGEPAGE);
	memset(buf, 0, DIRECT_PIECE);
	while (off < p->off + p->bytes) {
		ssize_t n = pread(fd, buf, DIRECT_PIECE, (off_t)off);

		PLX_CHECK(n > 0);
		off += (uint64_t)n;
	}
	free(buf);
	close(fd);
}

/* Seconds to read some of a file, and some of another one. */
static double plain(const struct part part[2], void (*read_part)(const struct part *))
{
	uint64_t t0 = plx_clock_ns();

	for (uint32_t i = 0; i < 2; i++)
		if (part[i].bytes > 0)
			read_part(&part[i]);
	return (double)(plx_clock_ns() - t0) / 1e9;
}

/* ---- loading -------------------------------------------------------------------------------- */

struct lane {
	struct plx_dev *dev;
	uint32_t idx;
	_Atomic bool *stop;
};

static void *lane_main(void *arg)
{
	struct lane *l = arg;

	while (!*l->stop)
		if (plx_dev_worker(l->dev, l->idx, 1000) <= 0)
			usleep(50);
	return NULL;
}

static void load_by_all(struct plx_dev *dev, struct plx_load_progress *p)
{
	_Atomic bool stop = false;
	struct lane lane[MAX_THREADS];
	pthread_t t[MAX_THREADS];
	struct plx_diag d = {0};
	int err;

	for (uint32_t i = 1; i < n_thread; i++) {
		lane[i] = (struct lane){dev, i, &stop};
		PLX_CHECK(pthread_create(&t[i], NULL, lane_main, &lane[i]) == 0);
	}
	while ((err = plx_dev_load_poll(dev, 10000, p, &d)) == PLX_E_AGAIN)
		;
	stop = true;
	for (uint32_t i = 1; i < n_thread; i++)
		pthread_join(t[i], NULL);
	PLX_CHECK(err == 0);
}

/* Seconds from the path to a loaded device. With wait the cache that it begins to write is done. */
static double load(const char *path, bool with_cache, bool wait, char *note, size_t note_bytes)
{
	struct plx_dev_limits lim = {.n_slots = 8,
	                             .n_blocks = 64,
	                             .block_tokens = 32,
	                             .max_seq_blocks = 64,
	                             .max_step_tokens = 256,
	                             .max_step_seqs = 8,
	                             .steps_in_flight = 2,
	                             .n_threads = n_thread};
	struct plx_dev_conf conf = {.name = "bench", .kind = "cpu"};
	struct plx_load_progress p = {0};
	struct plx_model *m;
	struct plx_dev *dev;
	struct plx_diag d = {0};

	if (with_cache)
		snprintf(conf.cache_base, sizeof(conf.cache_base), "%s", base);
	uint64_t t0 = plx_clock_ns();

	PLX_CHECK(plx_model_open(path, &m, &d) == 0);
	PLX_CHECK(plx_dev_open(&conf, &dev, &d) == 0);
	PLX_CHECK(plx_dev_load_begin(dev, m, &lim, &d) == 0);
	load_by_all(dev, &p);
	double s = (double)(plx_clock_ns() - t0) / 1e9;

	snprintf(note, note_bytes, "%s", p.note);
	for (uint32_t i = 0; wait && size_of(cache) == 0 && i < 600; i++)
		usleep(100000);
	plx_dev_close(dev);
	plx_model_close(m);
	return s;
}

/* ---- figures -------------------------------------------------------------------------------- */

enum what {
	READ_MODEL,
	DIRECT_MODEL,
	REPACK,
	READ_CACHE,
	DIRECT_CACHE,
	FROM_CACHE,
	N_WHAT,
};

/* What either way of loading reads. */
static struct part model_part[2], cache_part[2];

static void parts_find(const char *path)
{
	struct plx_diag d = {0};
	struct plx_model *m;
	uint64_t head;

	PLX_CHECK(plx_model_open(path, &m, &d) == 0);
	const uint8_t *file = plx_gguf_head(m->gguf, &head);

	model_part[0] = (struct part){path, 0, size_of(path)};
	cache_part[0] = (struct part){cache, 0, size_of(cache)};
	cache_part[1] = (struct part){path, (uint64_t)(m->tok_embd.data - file), m->tok_embd.bytes};
	plx_model_close(m);
}

static int by_value(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

/* Seconds of processor time of all threads. */
static double cpu_now(void)
{
	struct rusage u;

	(void)getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static double measure(enum what w, const char *path, char *note, size_t note_bytes)
{
	switch (w) {
	case READ_MODEL:
		return plain(model_part, read_shared);
	case DIRECT_MODEL:
		return plain(model_part, read_direct);
	case READ_CACHE:
		return plain(cache_part, read_shared);
	case DIRECT_CACHE:
		return plain(cache_part, read_direct);
	case REPACK:
		return load(path, false, false, note, note_bytes);
	case FROM_CACHE:
	case N_WHAT:
		break;
	}
	return load(path, true, false, note, note_bytes);
}

struct figures {
	double s[MAX_RUNS];
	double cpu[MAX_RUNS];
	char note[256];
};

static void measure_into(struct figures *f, uint32_t run, enum what w, const char *path, bool cold)
{
	if (cold) {
		drop(path);
		drop(cache);
	}
	if (getenv("BENCH_FRESH") == NULL)
		memory_ready((w == REPACK ? 2 : 1) * size_of(path) + SPARE);
	double cpu = cpu_now();

	f->s[run] = measure(w, path, f->note, sizeof(f->note));
	f->cpu[run] = cpu_now() - cpu;
}

static void print(bool cold, struct figures f[N_WHAT], uint32_t n, uint32_t from)
{
	static const char *const name[N_WHAT] = {
	    "plain read of the model", "direct read of the model", "load, repacked",
	    "plain read of the cache", "direct read of the cache", "load, from the cache"};
	double med[N_WHAT];

	for (uint32_t w = from; w < N_WHAT; w++) {
		const struct part *p = w <= REPACK ? model_part : cache_part;

		qsort(f[w].s, n, sizeof(double), by_value);
		qsort(f[w].cpu, n, sizeof(double), by_value);
		med[w] = f[w].s[n / 2];
		printf("bench_load: %s, %u threads, %s: %.0f ms (%.0f to %.0f), processors %.0f ms "
		       "(from %.0f), %.2f GB/s",
		       cold ? "cold" : "warm", n_thread, name[w], med[w] * 1e3, f[w].s[0] * 1e3,
		       f[w].s[n - 1] * 1e3, f[w].cpu[n / 2] * 1e3, f[w].cpu[0] * 1e3,
		       (double)(p[0].bytes + p[1].bytes) / 1e9 / med[w]);
		if (w == REPACK || w == FROM_CACHE)
			printf(
			    ", %.2f of the plain read's rate, %.2f of the direct one's; last: %s",
			    med[w - 2] / med[w], med[w - 1] / med[w], f[w].note);
		printf("\n");
	}
}

int main(int argc, char **argv)
{
	static struct figures f[2][N_WHAT];
	const char *path = argc > 1 ? argv[1] : plx_test_model();
	uint32_t n = argc > 3 ? (uint32_t)atoi(argv[3]) : 5;
	const char *only = argc > 4 ? argv[4] : "";
	uint32_t from = argc > 5 && strcmp(argv[5], "cache") == 0 ? READ_CACHE : 0;
	uint64_t t0;

	plx_log_init("bench_load", PLX_LOG_WARN);
	(void)setvbuf(stdout, NULL, _IOLBF, 0);
	n_thread = argc > 2 ? (uint32_t)atoi(argv[2]) : 2;
	if (path == NULL) {
		printf("bench_load: SKIPPED, no model\n");
		return 0;
	}
	PLX_CHECK(n >= 1 && n <= MAX_RUNS && n_thread >= 1 && n_thread <= MAX_THREADS);
	snprintf(base, sizeof(base), "%s.bench", path);
	snprintf(cache, sizeof(cache), "%s" PLX_CACHE_SUFFIX, base);
	t0 = plx_clock_ns();
	(void)load(path, true, true, f[0][0].note, sizeof(f[0][0].note));
	printf("bench_load: the first load and its cache of %.0f MB, written beside: %.1f s\n",
	       (double)size_of(cache) / 1e6, (double)(plx_clock_ns() - t0) / 1e9);
	parts_find(path);
	for (uint32_t cold = 0; cold < 2; cold++) {
		if (strcmp(only, cold ? "warm" : "cold") == 0)
			continue;
		for (uint32_t i = 0; i < n; i++)
			for (uint32_t w = from; w < N_WHAT; w++)
				measure_into(&f[cold][w], i, (enum what)w, path, cold == 1);
		print(cold == 1, f[cold], n, from);
	}
	if (getenv("BENCH_KEEP") == NULL)
		(void)unlink(cache);
	return 0;
}
