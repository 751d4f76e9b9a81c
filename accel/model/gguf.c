/*
 * The GGUF reader: maps files and finds what the parser (gguf_parse.c) checked.
 */
#include "accel/model/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "accel/model/gguf_file.h"
#include "fw/base/check.h"
#include "fw/base/err.h"

#define PAGE_BYTES UINT64_C(4096)

static struct plx_gguf *new_reader(const char *name, struct plx_diag *d)
{
	struct plx_gguf *g = calloc(1, sizeof *g);

	if (g)
		g->name = strdup(name);
	if (!g || !g->name) {
		plx_diag_set(d, 0, "%s: no memory to open it; free some memory", name);
		free(g);
		return NULL;
	}
	return g;
}

int plx_gguf_open_mem(const void *mem, size_t bytes, struct plx_gguf **out, struct plx_diag *d)
{
	struct plx_gguf *g = new_reader("(memory)", d);
	int err;

	*out = NULL;
	if (!g)
		return PLX_E_NOMEM;
	g->base = mem;
	g->size = bytes;
	err = plx_gguf_parse(g, d);
	if (err)
		plx_gguf_close(g);
	else
		*out = g;
	return err;
}

static int os_refused(const char *path, const char *verb, struct plx_diag *d)
{
	int err = errno == ENOENT ? PLX_E_NOT_FOUND : PLX_E_IO;

	return plx_diag_set(d, err, "%s: can't %s it: %s; check the path and its permissions", path,
	                    verb, strerror(errno));
}

/* Map an open file; g owns the mapping. */
static int map_file(struct plx_gguf *g, int fd, struct plx_diag *d)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
		return os_refused(g->name, "examine", d);
	if (!S_ISREG(st.st_mode))
		return plx_diag_set(d, PLX_E_IO, "%s: this is no regular file; give a GGUF file",
		                    g->name);
	if (st.st_size == 0)
		return plx_diag_set(d, PLX_E_FORMAT, "%s: the file is empty; fetch it again",
		                    g->name);
	void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);

	if (map == MAP_FAILED)
		return os_refused(g->name, "map", d);
	g->map = map;
	g->base = map;
	g->size = (uint64_t)st.st_size;
	g->mtime_ns = (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec;
	return 0;
}

int plx_gguf_open(const char *path, struct plx_gguf **out, struct plx_diag *d)
{
	struct plx_gguf *g = NULL;
	int err = PLX_E_NOMEM;
	/* NONBLOCK, so that a path that names a pipe is refused and does not hang. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	*out = NULL;
	if (fd < 0)
		return os_refused(path, "open", d);
	g = new_reader(path, d);
	if (!g)
		goto out;
	err = map_file(g, fd, d);
	if (!err)
		err = plx_gguf_parse(g, d);
	if (err)
		plx_gguf_close(g);
	else
		*out = g;
out:
	close(fd);
	return err;
}

void plx_gguf_close(struct plx_gguf *g)
{
	if (!g)
		return;
	if (g->map)
		munmap(g->map, g->size);
	free(g->kv);
	free(g->kv_sorted);
	free(g->tensor);
	free(g->tensor_sorted);
	free(g->name);
	free(g);
}

/* ---- what the disk is told ------------------------------------------------------------------- */

void plx_gguf_ask(const struct plx_gguf *g, const uint8_t *at, uint64_t bytes)
{
	if (g->map == NULL || (uintptr_t)at < (uintptr_t)g->base ||
	    (uintptr_t)at - (uintptr_t)g->base >= g->size)
		return;
	uint64_t off = (uint64_t)(at - g->base), page = off & ~(PAGE_BYTES - 1);
	uint64_t end = bytes < g->size - off ? off + bytes : g->size;

	(void)madvise((uint8_t *)g->map + page, end - page, MADV_WILLNEED);
}

void plx_gguf_scattered(const struct plx_gguf *g, bool on)
{
	if (g->map != NULL)
		(void)madvise(g->map, g->size, on ? MADV_RANDOM : MADV_NORMAL);
}

/* ---- looking things up --------------------------------------------------------------------- */

const char *plx_gguf_name(const struct plx_gguf *g)
{
	return g->name;
}

uint32_t plx_gguf_version(const struct plx_gguf *g)
{
	return g->version;
}

uint64_t plx_gguf_file_bytes(const struct plx_gguf *g)
{
	return g->size;
}

uint32_t plx_gguf_alignment(const struct plx_gguf *g)
{
	return g->alignment;
}

uint64_t plx_gguf_mtime_ns(const struct plx_gguf *g)
{
	return g->mtime_ns;
}

const uint8_t *plx_gguf_head(const struct plx_gguf *g, uint64_t *bytes)
{
	*bytes = g->head_bytes;
	return g->base;
}

uint32_t plx_gguf_n_kv(const struct plx_gguf *g)
{
	return g->n_kv;
}

const struct plx_gguf_kv *plx_gguf_kv_at(const struct plx_gguf *g, uint32_t idx)
{
	PLX_DCHECK(idx < g->n_kv);
	return &g->kv[idx];
}

const struct plx_gguf_kv *plx_gguf_find(const struct plx_gguf *g, const char *key)
{
	struct plx_gguf_str want = {.ptr = key, .len = strlen(key)};
	uint32_t lo = 0;
	uint32_t hi = g->n_kv;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		const struct plx_gguf_kv *kv = &g->kv[g->kv_sorted[mid]];
		int r = plx_gguf_str_cmp(want, kv->key);

		if (r == 0)
			return kv;
		if (r < 0)
			hi = mid;
		else
			lo = mid + 1;
	}
	return NULL;
}

uint32_t plx_gguf_n_tensor(const struct plx_gguf *g)
{
	return g->n_tensor;
}

const struct plx_gguf_tensor *plx_gguf_tensor_at(const struct plx_gguf *g, uint32_t idx)
{
	PLX_DCHECK(idx < g->n_tensor);
	return &g->tensor[idx];
}

const struct plx_gguf_tensor *plx_gguf_tensor_find(const struct plx_gguf *g, const char *name)
{
	struct plx_gguf_str want = {.ptr = name, .len = strlen(name)};
	uint32_t lo = 0;
	uint32_t hi = g->n_tensor;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		const struct plx_gguf_tensor *t = &g->tensor[g->tensor_sorted[mid]];
		int r = plx_gguf_str_cmp(want, t->name);

		if (r == 0)
			return t;
		if (r < 0)
			hi = mid;
		else
			lo = mid + 1;
	}
	return NULL;
}
