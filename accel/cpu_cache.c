/* The cache of repacked weights: what its table says, and reading it. */
#include "accel/cpu_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

#include "fw/base/err.h"

#define PAGE_BYTES UINT64_C(4096)

static const char magic[8] = "PLXWGHT";

/* ---- the table ------------------------------------------------------------------------------ */

static uint64_t sums_off(uint32_t n_mat)
{
	return sizeof(struct plx_cache_head) + (uint64_t)n_mat * sizeof(struct plx_cache_mat);
}

uint64_t plx_cache_table_bytes(const struct plx_cache_plan *plan)
{
	uint64_t n = sums_off(plan->n_mat) + plx_cache_plan_chunks(plan) * sizeof(uint64_t);

	return (n + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
}

void plx_cache_table_make(uint8_t *table, const struct plx_cache_plan *plan)
{
	struct plx_cache_head h = {.version = PLX_CACHE_VERSION,
	                           .layout_id = plan->layout_id,
	                           .model_bytes = plan->model_bytes,
	                           .model_mtime_ns = plan->model_mtime_ns,
	                           .data_off = plx_cache_table_bytes(plan),
	                           .data_bytes = plan->data_bytes,
	                           .chunk_bytes =
	                               plan->chunk_bytes != 0 ? plan->chunk_bytes : PLX_CACHE_CHUNK,
	                           .n_chunk = plx_cache_plan_chunks(plan),
	                           .n_mat = plan->n_mat};

	memcpy(h.magic, magic, sizeof(h.magic));
	memcpy(h.model_hash, plan->model_hash, sizeof(h.model_hash));
	memset(table, 0, h.data_off);
	memcpy(table, &h, sizeof(h));
	memcpy(table + sizeof(h), plan->mat, plan->n_mat * sizeof(*plan->mat));
}

uint64_t *plx_cache_table_sums(uint8_t *table)
{
	const struct plx_cache_head *h = (const void *)table;

	return (uint64_t *)(void *)(table + sums_off(h->n_mat));
}

/* The head's own sum is the seed of the sum over the rest. */
static void table_sum(const uint8_t *table, uint64_t bytes, uint8_t out[16])
{
	struct plx_cache_head h;
	XXH128_canonical_t sum;

	memcpy(&h, table, sizeof(h));
	memset(h.sum, 0, sizeof(h.sum));
	XXH128_canonicalFromHash(&sum, XXH3_128bits_withSeed(table + sizeof(h), bytes - sizeof(h),
	                                                     XXH3_64bits(&h, sizeof(h))));
	memcpy(out, sum.digest, 16);
}

void plx_cache_table_seal(uint8_t *table, uint64_t bytes)
{
	table_sum(table, bytes, table + offsetof(struct plx_cache_head, sum));
}

bool plx_cache_table_sealed(const uint8_t *table, uint64_t bytes)
{
	uint8_t sum[16];

	table_sum(table, bytes, sum);
	return memcmp(sum, table + offsetof(struct plx_cache_head, sum), sizeof(sum)) == 0;
}

/* ---- opening -------------------------------------------------------------------------------- */

static bool read_all(int fd, uint8_t *to, uint64_t n, uint64_t off)
{
	while (n > 0) {
		ssize_t got = pread(fd, to, n, (off_t)off);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		to += got;
		off += (uint64_t)got;
		n -= (uint64_t)got;
	}
	return true;
}

/* What a head that is not the wanted one is for. */
static int head_judge(const struct plx_cache_head *h, const struct plx_cache_head *want,
                      struct plx_diag *why)
{
	if (memcmp(h->magic, want->magic, sizeof(h->magic)) != 0)
		return plx_diag_set(why, PLX_E_FORMAT, "it is no weights cache");
	if (h->version != want->version)
		return plx_diag_set(why, PLX_E_STALE, "it has format %u, this build %u", h->version,
		                    want->version);
	if (h->layout_id != want->layout_id)
		return plx_diag_set(why, PLX_E_STALE, "it has kernel layout %u, this build %u",
		                    h->layout_id, want->layout_id);
	if (h->model_bytes != want->model_bytes || h->model_mtime_ns != want->model_mtime_ns ||
	    memcmp(h->model_hash, want->model_hash, sizeof(h->model_hash)) != 0)
		return plx_diag_set(why, PLX_E_STALE, "the model file has changed since");
	return PLX_E_OK;
}

/* The table that was read against the one this plan would make. */
static int table_judge(const uint8_t *table, uint8_t *want, uint64_t bytes,
                       const struct plx_cache_plan *plan, struct plx_diag *why)
{
	int err = head_judge((const void *)table, (const void *)want, why);
	uint64_t sums = sums_off(plan->n_mat);
	uint64_t n_sum = plx_cache_plan_chunks(plan) * sizeof(uint64_t);

	if (err != 0)
		return err;
	/* The sums and the seal are the file's own; all else is ours to know. */
	memcpy(want + sums, table + sums, n_sum);
	memcpy(want + offsetof(struct plx_cache_head, sum),
	       table + offsetof(struct plx_cache_head, sum), 16);
	if (memcmp(table, want, bytes) != 0 || !plx_cache_table_sealed(table, bytes))
		return plx_diag_set(why, PLX_E_FORMAT, "its table is damaged");
	return PLX_E_OK;
}

static int table_read(struct plx_cache *c, const struct plx_cache_plan *plan, struct plx_diag *why)
{
	uint64_t bytes = plx_cache_table_bytes(plan);
	uint8_t *want = malloc(bytes);
	struct stat st;
	int err;

	c->table = malloc(bytes);
	if (c->table == NULL || want == NULL)
		err = plx_diag_set(why, PLX_E_NOMEM, "out of memory");
	else if (fstat(c->fd, &st) != 0)
		err = plx_diag_set(why, PLX_E_IO, "%s", strerror(errno));
	else if (!read_all(c->fd, c->table, sizeof(struct plx_cache_head), 0))
		err = plx_diag_set(why, PLX_E_FORMAT, "it is cut short");
	else {
		plx_cache_table_make(want, plan);
		err = head_judge((const void *)c->table, (const void *)want, why);
		if (err == 0 && (uint64_t)st.st_size != bytes + plan->data_bytes)
			err = plx_diag_set(why, PLX_E_FORMAT, "it has the wrong size");
		if (err == 0 && !read_all(c->fd, c->table, bytes, 0))
			err = plx_diag_set(why, PLX_E_IO, "it can't be read");
		if (err == 0)
			err = table_judge(c->table, want, bytes, plan, why);
	}
	free(want);
	return err;
}

int plx_cache_open_fd(struct plx_cache *c, int fd, const struct plx_cache_plan *plan,
                      struct plx_diag *why)
{
	*c = (struct plx_cache){.fd = fd,
	                        .data_off = plx_cache_table_bytes(plan),
	                        .data_bytes = plan->data_bytes,
	                        .n_chunk = plx_cache_plan_chunks(plan)};
	int err = table_read(c, plan, why);

	if (err != 0) {
		free(c->table);
		*c = (struct plx_cache){.fd = -1};
		return err;
	}
	c->sum = plx_cache_table_sums(c->table);
	return PLX_E_OK;
}

/* Who could have written it. */
static int trust(int fd, struct plx_diag *why)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
		return plx_diag_set(why, PLX_E_IO, "%s", strerror(errno));
	if (!S_ISREG(st.st_mode))
		return plx_diag_set(why, PLX_E_AUTH, "it is no regular file");
	if (st.st_uid != geteuid())
		return plx_diag_set(why, PLX_E_AUTH, "it belongs to user %u, not to %u",
		                    (unsigned)st.st_uid, (unsigned)geteuid());
	if ((st.st_mode & (S_IWGRP | S_IWOTH)) != 0)
		return plx_diag_set(why, PLX_E_AUTH, "its mode is %04o, so others may write it",
		                    (unsigned)st.st_mode & 07777u);
	return PLX_E_OK;
}

int plx_cache_open(struct plx_cache *c, const char *path, const struct plx_cache_plan *plan,
                   struct plx_diag *why)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);

	*c = (struct plx_cache){.fd = -1};
	if (fd < 0 && errno == ENOENT)
		return PLX_E_NOT_FOUND;
	if (fd < 0 && errno == ELOOP)
		return plx_diag_set(why, PLX_E_AUTH, "it is a symbolic link");
	if (fd < 0)
		return plx_diag_set(why, PLX_E_IO, "%s", strerror(errno));
	int err = trust(fd, why);

	if (err == 0)
		err = plx_cache_open_fd(c, fd, plan, why);
	if (err != 0)
		close(fd);
	return err;
}

void plx_cache_ask(const struct plx_cache *c, uint64_t off, uint64_t bytes)
{
	if (off < c->data_bytes)
		(void)posix_fadvise(
		    c->fd, (off_t)(c->data_off + off),
		    (off_t)(bytes < c->data_bytes - off ? bytes : c->data_bytes - off),
		    POSIX_FADV_WILLNEED);
}

/* The bytes of a chunk, of which the last one is shorter. */
static uint64_t chunk_bytes(const struct plx_cache *c, uint32_t i)
{
	uint64_t rest = c->data_bytes - i * PLX_CACHE_CHUNK;

	return rest < PLX_CACHE_CHUNK ? rest : PLX_CACHE_CHUNK;
}

int plx_cache_check(const struct plx_cache *c, uint32_t i, const uint8_t *data)
{
	uint64_t sum = XXH3_64bits(data + i * PLX_CACHE_CHUNK, chunk_bytes(c, i));

	return sum == c->sum[i] ? PLX_E_OK : PLX_E_FORMAT;
}

int plx_cache_read(const struct plx_cache *c, uint32_t i, uint8_t *data)
{
	uint64_t off = i * PLX_CACHE_CHUNK;

	if (!read_all(c->fd, data + off, chunk_bytes(c, i), c->data_off + off))
		return PLX_E_IO;
	return plx_cache_check(c, i, data);
}

void plx_cache_close(struct plx_cache *c)
{
	if (c->table == NULL)
		return;
	close(c->fd);
	free(c->table);
	*c = (struct plx_cache){.fd = -1};
}
