/*
 * Writing the cache of repacked weights, beside a device that serves already.
 *
 * A file at PATH is complete: it was renamed from PATH.tmp after its bytes were on the disk. Who
 * writes PATH.tmp holds its lock, which ends with the process; so one that can be locked is left
 * over. A lock counts only while the name still means the locked file.
 */
#include "accel/cpu_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <xxhash.h>

#include "fw/base/clock.h"
#include "fw/base/err.h"
#include "fw/base/log.h"
#include "fw/base/thread.h"

#define PIECE_BYTES (256u << 10) /* written at once: 0.1 ms of a core */
#define REST_FACTOR 3u           /* rests so many times as long as it worked */
#define REST_MAX_NS (20 * PLX_NS_PER_MS)
#define NICE        19
#define TRIES       3

/* ---- the temporary file --------------------------------------------------------------------- */

static int os_error(struct plx_diag *why, const char *what)
{
	int err = errno == ENOSPC || errno == EDQUOT || errno == EFBIG ? PLX_E_FULL : PLX_E_IO;

	return plx_diag_set(why, err, "%s: %s", what, strerror(errno));
}

static bool is_named(int fd, const char *path)
{
	struct stat a, b;

	return fstat(fd, &a) == 0 && lstat(path, &b) == 0 && a.st_dev == b.st_dev &&
	       a.st_ino == b.st_ino;
}

/* Removes a temporary file that nobody holds: false while somebody does, or where it is odd. */
static bool drop_leftover(const char *tmp)
{
	int fd = open(tmp, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
	struct stat st;

	if (fd < 0)
		return errno == ENOENT;
	bool ours = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid() &&
	            flock(fd, LOCK_EX | LOCK_NB) == 0;

	if (ours && is_named(fd, tmp))
		(void)unlink(tmp);
	close(fd);
	return ours;
}

int plx_cache_tmp_open(const char *path, int *fd, struct plx_diag *why)
{
	for (int i = 0; i < TRIES; i++) {
		*fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (*fd < 0 && errno != EEXIST)
			return os_error(why, "it can't be made");
		if (*fd < 0 && !drop_leftover(path))
			break;
		if (*fd < 0)
			continue;
		if (flock(*fd, LOCK_EX | LOCK_NB) == 0 && is_named(*fd, path))
			return PLX_E_OK;
		close(*fd); /* taken for a leftover before it was locked */
	}
	*fd = -1;
	return plx_diag_set(why, PLX_E_AGAIN, "another process is writing it");
}

/* ---- the thread ----------------------------------------------------------------------------- */

static bool stopped(const struct plx_cache_writer *w)
{
	return atomic_load_explicit(&w->stop, memory_order_relaxed);
}

static int write_all(struct plx_cache_writer *w, int fd, const uint8_t *p, uint64_t n, uint64_t off)
{
	while (n > 0) {
		ssize_t put = pwrite(fd, p, n, (off_t)off);

		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return os_error(&w->why, "it can't be written");
		p += put;
		off += (uint64_t)put;
		n -= (uint64_t)put;
	}
	return PLX_E_OK;
}

/* Gives the core back for some times as long as it was taken. */
static void rest(uint64_t since_ns)
{
	uint64_t ns = (plx_clock_ns() - since_ns) * REST_FACTOR;

	if (ns > REST_MAX_NS)
		ns = REST_MAX_NS;
	nanosleep(&(struct timespec){.tv_nsec = (long)ns}, NULL);
}

/* A chunk of the data, in pieces. */
static int write_chunk(struct plx_cache_writer *w, int fd, uint32_t i)
{
	uint64_t off = i * PLX_CACHE_CHUNK, end = off + PLX_CACHE_CHUNK;
	int err = PLX_E_OK;

	if (end > w->data_bytes)
		end = w->data_bytes;
	plx_cache_table_sums(w->table)[i] = XXH3_64bits(w->data + off, end - off);
	while (err == 0 && off < end) {
		uint64_t n = end - off < PIECE_BYTES ? end - off : PIECE_BYTES;
		uint64_t t0 = plx_clock_ns();

		if (stopped(w))
			return PLX_E_CANCELLED;
		err = write_all(w, fd, w->data + off, n, w->data_off + off);
		off += n;
		rest(t0);
	}
	return err;
}

static int write_file(struct plx_cache_writer *w, int fd)
{
	int err = PLX_E_OK;

	/* Full is found out before anything is written, where the file system can. */
	if (fallocate(fd, 0, 0, (off_t)(w->data_off + w->data_bytes)) != 0 && errno != EOPNOTSUPP &&
	    errno != ENOSYS)
		return os_error(&w->why, "it can't be made as large as it must be");
	for (uint32_t i = 0; err == 0 && i < plx_cache_n_chunk(w->data_bytes); i++)
		err = write_chunk(w, fd, i);
	if (err != 0)
		return err;
	plx_cache_table_seal(w->table, w->data_off);
	err = write_all(w, fd, w->table, w->data_off, 0);
	return err;
}

/* So that the new name is on the disk too; not every file system can, and none must. */
static void sync_folder(const char *path)
{
	char dir[PLX_CACHE_PATH_BYTES];
	const char *slash = strrchr(path, '/');
	int n = slash == NULL ? 1 : (int)(slash - path) + 1;

	snprintf(dir, sizeof(dir), "%.*s", n, slash == NULL ? "." : path);
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return;
	(void)fsync(fd);
	close(fd);
}

int plx_cache_tmp_keep(int fd, const char *tmp, const char *path, struct plx_diag *why)
{
	if (fsync(fd) != 0)
		return os_error(why, "it can't be written");
	if (rename(tmp, path) != 0)
		return os_error(why, "it can't be renamed");
	sync_folder(path);
	return PLX_E_OK;
}

static int write_cache(struct plx_cache_writer *w)
{
	int fd, err = plx_cache_tmp_open(w->tmp, &fd, &w->why);

	if (err != 0)
		return err;
	err = write_file(w, fd);
	if (err == 0)
		err = plx_cache_tmp_keep(fd, w->tmp, w->path, &w->why);
	if (err != 0)
		(void)unlink(w->tmp);
	close(fd); /* and with it the lock, once the name is gone */
	return err;
}

static void say(const struct plx_cache_writer *w, uint64_t ns)
{
	if (w->err == 0)
		plx_log(PLX_LOG_INFO,
		        "weights cache: wrote %s, %" PRIu64 " MiB in %" PRIu64
		        " ms; the next start reads it",
		        w->path, (w->data_off + w->data_bytes) >> 20, ns / PLX_NS_PER_MS);
	else if (w->err != PLX_E_CANCELLED)
		plx_log(PLX_LOG_INFO, "weights cache: no %s: %s; the next start repacks too",
		        w->path, w->why.text);
}

static void *writer_main(void *arg)
{
	struct plx_cache_writer *w = arg;
	uint64_t t0 = plx_clock_ns();

	/* On Linux this is the thread's alone. */
	(void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICE);
	(void)sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){0});
	w->err = write_cache(w);
	say(w, plx_clock_ns() - t0);
	atomic_store_explicit(&w->done, true, memory_order_release);
	return NULL;
}

/* ---- from outside --------------------------------------------------------------------------- */

int plx_cache_write_start(struct plx_cache_writer *w, const char *path,
                          const struct plx_cache_plan *plan, const uint8_t *data,
                          struct plx_diag *d)
{
	if (snprintf(w->path, sizeof(w->path), "%s", path) >= (int)sizeof(w->path))
		return plx_diag_set(d, PLX_E_LIMIT, "its path is too long");
	snprintf(w->tmp, sizeof(w->tmp), "%s.tmp", w->path);
	w->data = data;
	w->data_bytes = plan->data_bytes;
	w->data_off = plx_cache_table_bytes(plan);
	w->table = malloc(w->data_off);
	if (w->table == NULL)
		return plx_diag_set(d, PLX_E_NOMEM, "out of memory");
	plx_cache_table_make(w->table, plan);
	w->started = plx_thread_start(&w->thread, writer_main, w) == 0;
	if (w->started)
		return PLX_E_OK;
	free(w->table);
	w->table = NULL;
	return plx_diag_set(d, PLX_E_NOMEM, "no thread can be started");
}

void plx_cache_write_wait(struct plx_cache_writer *w)
{
	if (!w->started)
		return;
	(void)pthread_join(w->thread, NULL);
	w->started = false;
	free(w->table);
	w->table = NULL;
}

void plx_cache_write_stop(struct plx_cache_writer *w)
{
	atomic_store_explicit(&w->stop, true, memory_order_relaxed);
	plx_cache_write_wait(w);
}
