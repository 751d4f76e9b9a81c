/*
 * How long a model takes from its path to a device that can compute: repacked, and read from the
 * cache, each with the files dropped from the kernel's memory before (cold) and not (warm), beside
 * a plain read of the same file in the same run. Medians; the range behind them.
 *
 * Usage: bench_load [model.gguf] [threads] [runs]
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

#define MAX_RUNS    21u
#define MAX_THREADS 16u
#define PIECE       (UINT64_C(1) << 20)

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

/* ---- a plain read --------------------------------------------------------------------------- */

struct reader {
	int fd;
	_Atomic uint64_t next;
	uint64_t bytes;
};

static void *reader_main(void *arg)
{
	struct reader *r = arg;
	uint8_t *buf = malloc(PIECE);
	uint64_t off;

	PLX_CHECK(buf != NULL);
	while ((off = atomic_fetch_add(&r->next, PIECE)) < r->bytes)
		PLX_CHECK(pread(r->fd, buf, PIECE, (off_t)off) > 0);
	free(buf);
	return NULL;
}

/* Seconds to read a whole file by all threads, each MiB into the same memory of its thread. */
static double plain(const char *path)
{
	struct reader r = {.fd = open(path, O_RDONLY | O_CLOEXEC), .bytes = size_of(path)};
	pthread_t t[MAX_THREADS];
	uint64_t t0 = plx_clock_ns();

	PLX_CHECK(r.fd >= 0);
	for (uint32_t i = 1; i < n_thread; i++)
		PLX_CHECK(pthread_create(&t[i], NULL, reader_main, &r) == 0);
	(void)reader_main(&r);
	for (uint32_t i = 1; i < n_thread; i++)
		pthread_join(t[i], NULL);
	close(r.fd);
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

enum what { READ_MODEL, REPACK, READ_CACHE, FROM_CACHE, N_WHAT };

static int by_value(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

static double measure(enum what w, const char *path, bool cold, char *note, size_t note_bytes)
{
	if (cold) {
		drop(path);
		drop(cache);
	}
	switch (w) {
	case READ_MODEL:
		return plain(path);
	case READ_CACHE:
		return plain(cache);
	case REPACK:
		return load(path, false, false, note, note_bytes);
	case FROM_CACHE:
	case N_WHAT:
		break;
	}
	return load(path, true, false, note, note_bytes);
}

static void print(const char *path, bool cold, double t[N_WHAT][MAX_RUNS], uint32_t n,
                  char note[N_WHAT][256])
{
	static const char *const name[N_WHAT] = {"plain read of the model", "load, repacked",
	                                         "plain read of the cache", "load, from the cache"};
	double gb[N_WHAT] = {(double)size_of(path) / 1e9, (double)size_of(path) / 1e9,
	                     (double)size_of(cache) / 1e9, (double)size_of(cache) / 1e9};

	for (uint32_t w = 0; w < N_WHAT; w++) {
		qsort(t[w], n, sizeof(double), by_value);
		double med = t[w][n / 2], plain_med = t[w & ~1u][n / 2];

		printf("bench_load: %s, %u threads, %s: %.0f ms (%.0f to %.0f), %.2f GB/s",
		       cold ? "cold" : "warm", n_thread, name[w], med * 1e3, t[w][0] * 1e3,
		       t[w][n - 1] * 1e3, gb[w] / med);
		if (w & 1)
			printf(", %.2f of the plain read's rate; last: %s", plain_med / med,
			       note[w]);
		printf("\n");
	}
}

int main(int argc, char **argv)
{
	static double t[2][N_WHAT][MAX_RUNS];
	static char note[2][N_WHAT][256];
	const char *path = argc > 1 ? argv[1] : plx_test_model();
	uint32_t n = argc > 3 ? (uint32_t)atoi(argv[3]) : 5;
	uint64_t t0;

	plx_log_init("bench_load", PLX_LOG_WARN);
	(void)setvbuf(stdout, NULL, _IOLBF, 0);
	n_thread = argc > 2 ? (uint32_t)atoi(argv[2]) : 2;
	if (path == NULL) {
		printf("bench_load: SKIPPED, no model\n");
		return 0;
	}
	PLX_CHECK(n >= 1 && n <= MAX_RUNS && n_thread >= 1 && n_thread <= MAX_THREADS);
	snprintf(base, sizeof(base), "%s.bench-%d", path, (int)getpid());
	snprintf(cache, sizeof(cache), "%s" PLX_CACHE_SUFFIX, base);
	t0 = plx_clock_ns();
	(void)load(path, true, true, note[0][0], sizeof(note[0][0]));
	printf("bench_load: the first load and its cache of %.0f MB, written beside: %.1f s\n",
	       (double)size_of(cache) / 1e6, (double)(plx_clock_ns() - t0) / 1e9);
	for (uint32_t i = 0; i < n; i++)
		for (uint32_t cold = 0; cold < 2; cold++)
			for (uint32_t w = 0; w < N_WHAT; w++)
				t[cold][w][i] = measure((enum what)w, path, cold == 1,
				                        note[cold][w], sizeof(note[cold][w]));
	print(path, false, t[0], n, note[0]);
	print(path, true, t[1], n, note[1]);
	(void)unlink(cache);
	return 0;
}
