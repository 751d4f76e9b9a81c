/*
 * Repacked weights in a file beside the model, so that the next start reads instead of repacking.
 *
 * The file says for which model and which layout of the kernels it was made, then where each matrix
 * lies, then a checksum of each MiB, then the matrices as they lie in memory:
 *
 *   0         struct plx_cache_head
 *   128       struct plx_cache_mat [n_mat]
 *   ...       u64 [n_chunk]: XXH3-64 of each chunk of chunk_bytes bytes of data
 *   data_off  data_bytes, up to the end of the file; data_off is a multiple of 4096
 *
 * All of it but the checksums is known before the file is read, from the model: so it is compared,
 * not parsed, and no number in the file is ever used as one. Native byte order. It holds nothing
 * that the model does not: whoever likes may delete it at any time.
 *
 * What it can't tell: a model file that was changed in place, in the middle of a tensor, and kept
 * its size and its time of change to the nanosecond. (The model's hash covers its configuration,
 * tensor table and both ends of each tensor.)
 */
#ifndef PLX_ACCEL_CPU_CACHE_H
#define PLX_ACCEL_CPU_CACHE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "fw/base/diag.h"

#define PLX_CACHE_SUFFIX     ".plx" /* behind the model's name */
#define PLX_CACHE_VERSION    1u
#define PLX_CACHE_CHUNK      (UINT64_C(1) << 20)
#define PLX_CACHE_HASH_BYTES 16
#define PLX_CACHE_PATH_BYTES 512

/* A matrix in the data. */
struct plx_cache_mat {
	uint64_t off; /* from the start of the data */
	uint64_t bytes;
	uint32_t type; /* enum plx_qtype */
	uint32_t n_out;
	uint32_t n_in;
	uint32_t zero;
};
_Static_assert(sizeof(struct plx_cache_mat) == 32, "a file format");

struct plx_cache_head {
	char magic[8]; /* "PLXWGHT\0" */
	uint32_t version;
	uint32_t layout_id; /* PLX_K_LAYOUT_ID */
	uint64_t model_bytes;
	uint64_t model_mtime_ns;
	uint8_t model_hash[PLX_CACHE_HASH_BYTES];
	uint64_t data_off;
	uint64_t data_bytes;
	uint64_t chunk_bytes;
	uint64_t n_chunk;
	uint32_t n_mat;
	uint8_t zero[28];
	uint8_t sum[16]; /* XXH3-128 of what follows up to data_off, its seed XXH3-64 of
	                  * the head with this field zero */
};
_Static_assert(sizeof(struct plx_cache_head) == 128, "a file format");

/* What a cache is for: the model, and how its matrices lie. */
struct plx_cache_plan {
	uint32_t layout_id;
	uint32_t n_mat;
	uint64_t model_bytes;
	uint64_t model_mtime_ns;
	uint8_t model_hash[PLX_CACHE_HASH_BYTES];
	const struct plx_cache_mat *mat; /* [n_mat] */
	uint64_t data_bytes;
	uint64_t chunk_bytes; /* 0: PLX_CACHE_CHUNK */
};

struct plx_cache {
	int fd;
	uint64_t data_off;
	uint64_t data_bytes;
	uint32_t n_chunk;
	uint8_t *table;      /* what stands before data_off */
	const uint64_t *sum; /* [n_chunk], in it */
};

/* plx_cache_n_chunk - chunks of that much data. */
static inline uint32_t plx_cache_n_chunk(uint64_t data_bytes)
{
	return (uint32_t)((data_bytes + PLX_CACHE_CHUNK - 1) / PLX_CACHE_CHUNK);
}

/* plx_cache_plan_chunks - chunks of a plan, which may have a size of its own for them. */
static inline uint32_t plx_cache_plan_chunks(const struct plx_cache_plan *p)
{
	uint64_t chunk = p->chunk_bytes != 0 ? p->chunk_bytes : PLX_CACHE_CHUNK;

	return (uint32_t)((p->data_bytes + chunk - 1) / chunk);
}

/*
 * plx_cache_open - open the file at path if it may be trusted and was made for this plan.
 *
 * Trusted: a regular file and no link, owned by this process's user, writable by nobody else.
 *
 * Owner:  the caller; plx_cache_close.  Cost: what stands before the data is read and hashed.
 * Errors: NOT_FOUND (there is none), else why says in a few words what is wrong with it: AUTH
 *         (not trusted), STALE (of another model, or layout), FORMAT (damaged), IO, NOMEM.
 */
int plx_cache_open(struct plx_cache *c, const char *path, const struct plx_cache_plan *plan,
                   struct plx_diag *why);

/* plx_cache_open_fd - the same for an open file, whoever owns it. The descriptor is c's, on error
 * the caller's. */
int plx_cache_open_fd(struct plx_cache *c, int fd, const struct plx_cache_plan *plan,
                      struct plx_diag *why);

/*
 * plx_cache_read - chunk i of the data into its place, where chunks have the usual size.
 *
 * @data  out, start of all the data; [i * PLX_CACHE_CHUNK, ...) is written.
 *
 * Thread: any, different chunks at the same time.  Cost: one read, and its checksum.
 * Errors: FORMAT (the bytes are not those that were written), IO.
 */
int plx_cache_read(const struct plx_cache *c, uint32_t i, uint8_t *data);

/* plx_cache_check - chunk i of the data is in its place: are its bytes those that were written?
 * Errors: FORMAT. */
int plx_cache_check(const struct plx_cache *c, uint32_t i, const uint8_t *data);

/*
 * plx_cache_ask - ask the disk for some of the data, which will be read soon; a hint.
 *
 * @off, @bytes  in the data; what lies beyond its end is left out.
 *
 * Thread: any.  Cost: one system call; it does not wait for the disk.
 */
void plx_cache_ask(const struct plx_cache *c, uint64_t off, uint64_t bytes);

/* plx_cache_close - a cache that was not opened, or is closed, is accepted if zeroed. */
void plx_cache_close(struct plx_cache *c);

/* ---- writing (cpu_cache_write.c) ------------------------------------------------------------ */

/*
 * A thread of its own that writes the file while the device works already, and ends by itself. It
 * runs at the lowest priority, a quarter of the time at most, and allocates nothing.
 *
 * The file grows under the name PATH.tmp, locked, and gets its own by rename once it is on the
 * disk. One that a dead process left behind is removed; one that a living process is writing is
 * left to that one.
 */
struct plx_cache_writer {
	bool started;
	_Atomic bool stop;
	_Atomic bool done;
	int err; /* once done: 0, or why there is no file */
	pthread_t thread;
	char path[PLX_CACHE_PATH_BYTES];
	char tmp[PLX_CACHE_PATH_BYTES + 8];
	uint8_t *table; /* head, matrices, sums, up to the data */
	uint64_t data_off;
	uint64_t data_bytes;
	const uint8_t *data;
	struct plx_diag why;
};

/*
 * plx_cache_write_start - begin; the outcome is one line in the log.
 *
 * @w     zeroed; must stay where it is until plx_cache_write_stop.
 * @data  [plan->data_bytes], unchanged until plx_cache_write_stop.
 *
 * Errors: NOMEM, LIMIT (a path too long): then nothing runs.
 */
int plx_cache_write_start(struct plx_cache_writer *w, const char *path,
                          const struct plx_cache_plan *plan, const uint8_t *data,
                          struct plx_diag *d);

/* plx_cache_write_wait - until it has ended by itself. plx_cache_write_stop - end it: what is not
 * complete is removed. Both free what it took and may be called again. */
void plx_cache_write_wait(struct plx_cache_writer *w);
void plx_cache_write_stop(struct plx_cache_writer *w);

/* plx_cache_tmp_open - a new file at path, locked for as long as *fd is open, in place of one that
 * a dead process left. Errors: AGAIN (another process has it), FULL, IO; why says so. */
int plx_cache_tmp_open(const char *path, int *fd, struct plx_diag *why);

/*
 * plx_cache_tmp_keep - the file at tmp, complete, gets its name: fsync, rename, fsync of the
 * folder. Cost: waits for the disk.  Errors: FULL, IO; the caller removes tmp then.
 */
int plx_cache_tmp_keep(int fd, const char *tmp, const char *path, struct plx_diag *why);

/* ---- shared by both files ------------------------------------------------------------------- */

/* plx_cache_table_bytes - what stands before the data, a multiple of 4096. */
uint64_t plx_cache_table_bytes(const struct plx_cache_plan *plan);

/* plx_cache_table_make - all of it but the sums: theirs and the head's are zero. */
void plx_cache_table_make(uint8_t *table, const struct plx_cache_plan *plan);

/* plx_cache_table_sums - where the chunks' sums stand in it. */
uint64_t *plx_cache_table_sums(uint8_t *table);

/* plx_cache_table_seal - the head's sum of it. plx_cache_table_sealed - whether it has the right
 * one. */
void plx_cache_table_seal(uint8_t *table, uint64_t bytes);
bool plx_cache_table_sealed(const uint8_t *table, uint64_t bytes);

#endif
