/* The experts' file: what an expert looks like in it, making it, reading from it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <xxhash.h>

#include "accel/experts_int.h"
#include "fw/base/err.h"
#include "fw/base/log.h"

#define SLOT_ALIGN UINT64_C(4096) /* O_DIRECT's, whatever the disk */

/* ---- an expert's shape ---------------------------------------------------------------------- */

static struct plx_k_mat mat_of(const struct plx_model *m, uint32_t il, enum plx_expert_part part)
{
	struct plx_tensor t = plx_model_expert(m, &m->layer[il], part, 0);

	return (struct plx_k_mat){NULL, (enum plx_qtype)t.type, t.n_rows, t.n_cols};
}

static uint64_t granule_bytes(const struct plx_k_mat *w)
{
	return plx_k_pack_bytes(w->type, PLX_FWD_GRAIN, w->n_in);
}

static uint64_t whole_bytes(const struct plx_k_mat *w)
{
	return (plx_k_pack_bytes(w->type, w->n_out, w->n_in) + 63) & ~UINT64_C(63);
}

void plx_expert_shape_make(const struct plx_model *m, uint32_t il, struct plx_expert_shape *s)
{
	struct plx_fwd_ffn *f = &s->ffn;

	*f = (struct plx_fwd_ffn){.gate = mat_of(m, il, PLX_EXPERT_GATE),
	                          .up = mat_of(m, il, PLX_EXPERT_UP),
	                          .down = mat_of(m, il, PLX_EXPERT_DOWN)};
	f->stride = granule_bytes(&f->gate) + granule_bytes(&f->up);
	s->up_off = granule_bytes(&f->gate);
	s->down_off = whole_bytes(&f->gate) + whole_bytes(&f->up);
	s->bytes = s->down_off + whole_bytes(&f->down);
}

struct plx_fwd_ffn plx_experts_shape(const struct plx_model *m, uint32_t il)
{
	struct plx_expert_shape s;

	plx_expert_shape_make(m, il, &s);
	return s.ffn;
}

uint64_t plx_experts_slot_bytes(const struct plx_model *m)
{
	uint64_t most = 0;

	for (uint32_t il = 0; il < m->n_layer; il++) {
		struct plx_expert_shape s;

		plx_expert_shape_make(m, il, &s);
		most = s.bytes > most ? s.bytes : most;
	}
	return (most + SLOT_ALIGN - 1) & ~(SLOT_ALIGN - 1);
}

/* Granules of gate or up, each a matrix of its own. */
static void pack_granules(uint8_t *to, uint64_t stride, const struct plx_tensor *t)
{
	for (uint32_t row = 0; row < t->n_rows; row += PLX_FWD_GRAIN)
		plx_k_pack(to + row / PLX_FWD_GRAIN * stride, (enum plx_qtype)t->type,
		           t->data + row * t->row_bytes, PLX_FWD_GRAIN, t->n_cols, 0,
		           PLX_FWD_GRAIN);
}

void plx_expert_pack(const struct plx_experts *x, uint32_t i, uint8_t *slot)
{
	uint32_t il = i / x->n_expert, e = i % x->n_expert;
	const struct plx_layer *l = &x->m->layer[il];
	const struct plx_expert_shape *s = &x->shape[il];
	struct plx_tensor gate = plx_model_expert(x->m, l, PLX_EXPERT_GATE, e);
	struct plx_tensor up = plx_model_expert(x->m, l, PLX_EXPERT_UP, e);
	struct plx_tensor down = plx_model_expert(x->m, l, PLX_EXPERT_DOWN, e);

	memset(slot, 0, x->slot_bytes);
	pack_granules(slot, s->ffn.stride, &gate);
	pack_granules(slot + s->up_off, s->ffn.stride, &up);
	plx_k_pack(slot + s->down_off, (enum plx_qtype)down.type, down.data, down.n_rows,
	           down.n_cols, 0, down.n_rows);
}

/* ---- opening -------------------------------------------------------------------------------- */

/* Reads past the kernel's cache, which would keep a second copy of what the pool holds. */
static void direct_open(struct plx_experts *x)
{
	char self[48];
	void *page = aligned_alloc(SLOT_ALIGN, SLOT_ALIGN);

	snprintf(self, sizeof(self), "/proc/self/fd/%d", x->cache.fd);
	x->direct_fd = open(self, O_RDONLY | O_CLOEXEC | O_DIRECT);
	if (x->direct_fd < 0 || page == NULL ||
	    pread(x->direct_fd, page, SLOT_ALIGN, (off_t)x->cache.data_off) !=
	        (ssize_t)SLOT_ALIGN) {
		if (x->direct_fd >= 0)
			close(x->direct_fd);
		x->direct_fd = -1;
	}
	free(page);
}

static int make_begin(struct plx_experts *x, struct plx_diag *d)
{
	struct plx_diag why = {0};
	uint64_t bytes = plx_cache_table_bytes(&x->plan);

	x->table = malloc(bytes);
	if (x->table == NULL)
		return plx_diag_set(d, PLX_E_NOMEM, "out of memory");
	plx_cache_table_make(x->table, &x->plan);
	int err = plx_cache_tmp_open(x->tmp, &x->tmp_fd, &why);

	if (err == 0 && fallocate(x->tmp_fd, 0, 0, (off_t)(bytes + x->plan.data_bytes)) != 0 &&
	    errno != EOPNOTSUPP && errno != ENOSYS)
		err = plx_diag_set(&why, errno == ENOSPC || errno == EFBIG ? PLX_E_FULL : PLX_E_IO,
		                   "it can't be made as large as it must be: %s", strerror(errno));
	if (err == 0)
		return PLX_E_NOT_FOUND;
	return plx_diag_set(d, err == PLX_E_AGAIN ? PLX_E_IO : err,
	                    "%s: %s; it needs %llu MiB, or leave expert_mem_mib at 0", x->path,
	                    why.text, (unsigned long long)(x->plan.data_bytes >> 20));
}

int plx_expert_file_open(struct plx_experts *x, struct plx_diag *d)
{
	struct plx_diag why = {0};
	int err = plx_cache_open(&x->cache, x->path, &x->plan, &why);

	if (err == 0) {
		direct_open(x);
		return PLX_E_OK;
	}
	if (err != PLX_E_NOT_FOUND)
		plx_log(PLX_LOG_INFO, "experts: %s is not used: %s", x->path, why.text);
	return make_begin(x, d);
}

/* ---- making --------------------------------------------------------------------------------- */

static int put_all(int fd, const uint8_t *p, uint64_t n, uint64_t off)
{
	while (n > 0) {
		ssize_t put = pwrite(fd, p, n, (off_t)off);

		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return errno == ENOSPC || errno == EFBIG || errno == EDQUOT ? PLX_E_FULL
			                                                            : PLX_E_IO;
		p += put;
		off += (uint64_t)put;
		n -= (uint64_t)put;
	}
	return PLX_E_OK;
}

int plx_expert_file_put(struct plx_experts *x, uint32_t i, const uint8_t *slot, struct plx_diag *d)
{
	uint64_t data_off = plx_cache_table_bytes(&x->plan);

	plx_cache_table_sums(x->table)[i] = XXH3_64bits(slot, x->slot_bytes);
	int err = put_all(x->tmp_fd, slot, x->slot_bytes, data_off + i * x->slot_bytes);

	if (err != 0)
		return plx_diag_set(d, err, "%s: it can't be written: %s", x->path,
		                    strerror(errno));
	return PLX_E_OK;
}

int plx_expert_file_end(struct plx_experts *x, struct plx_diag *d)
{
	uint64_t bytes = plx_cache_table_bytes(&x->plan);
	struct plx_diag why = {0};

	plx_cache_table_seal(x->table, bytes);
	int err = put_all(x->tmp_fd, x->table, bytes, 0);

	if (err != 0)
		(void)plx_diag_set(&why, err, "it can't be written: %s", strerror(errno));
	else
		err = plx_cache_tmp_keep(x->tmp_fd, x->tmp, x->path, &why);
	if (err != 0)
		return plx_diag_set(d, err, "%s: %s", x->path, why.text);
	close(x->tmp_fd);
	x->tmp_fd = -1;
	err = plx_cache_open(&x->cache, x->path, &x->plan, &why);
	if (err != 0)
		return plx_diag_set(d, PLX_E_IO, "%s was just made, but %s", x->path,
		                    err == PLX_E_NOT_FOUND ? "is gone" : why.text);
	direct_open(x);
	plx_log(PLX_LOG_INFO, "experts: wrote %s, %llu MiB; the next start reads it", x->path,
	        (unsigned long long)(x->plan.data_bytes >> 20));
	return PLX_E_OK;
}

void plx_expert_file_close(struct plx_experts *x)
{
	if (x->tmp_fd >= 0) {
		(void)unlink(x->tmp);
		close(x->tmp_fd);
	}
	x->tmp_fd = -1;
	if (x->direct_fd >= 0)
		close(x->direct_fd);
	x->direct_fd = -1;
	plx_cache_close(&x->cache);
	free(x->table);
	x->table = NULL;
}

/* ---- reading -------------------------------------------------------------------------------- */

/* 0, or errno; a file that ends too early is ENODATA. */
static int get_all(int fd, uint8_t *p, uint64_t n, uint64_t off)
{
	while (n > 0) {
		ssize_t got = pread(fd, p, n, (off_t)off);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? errno : ENODATA;
		p += got;
		off += (uint64_t)got;
		n -= (uint64_t)got;
	}
	return 0;
}

int plx_expert_read(struct plx_experts *x, uint32_t i, uint8_t *slot, struct plx_diag *d)
{
	uint64_t off = x->cache.data_off + i * x->slot_bytes;
	int fd = x->direct_fd >= 0 ? x->direct_fd : x->cache.fd;
	int os = get_all(fd, slot, x->slot_bytes, off);
	unsigned il = i / x->n_expert, e = i % x->n_expert;

	atomic_fetch_add_explicit(&x->read_bytes, x->slot_bytes, memory_order_relaxed);
	if (os != 0)
		return plx_diag_set(d, PLX_E_IO,
		                    "layer %u's expert %u can't be read from %s at %llu: %s", il, e,
		                    x->path, (unsigned long long)off,
		                    os == ENODATA ? "the file ends there" : strerror(os));
	if (XXH3_64bits(slot, x->slot_bytes) != x->cache.sum[i])
		return plx_diag_set(d, PLX_E_FORMAT,
		                    "layer %u's expert %u is damaged in %s at %llu; delete that "
		                    "file, and the next start makes it anew",
		                    il, e, x->path, (unsigned long long)off);
	return PLX_E_OK;
}
