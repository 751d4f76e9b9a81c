/* Maps a polluxd's shared file and checks it before anything is read. */
#include "tools/scope/attach.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fw/base/err.h"

#define SHM    "/dev/shm"
#define PREFIX "polluxd-"

static bool is_ours(const char *name)
{
	const char *dot = strrchr(name, '.');

	/* One that is being made ends in a dot and the maker's pid. */
	return strncmp(name, PREFIX, sizeof(PREFIX) - 1) == 0 &&
	       (dot == NULL || strspn(dot + 1, "0123456789") != strlen(dot + 1));
}

int plx_scope_find(char path[PLX_SHARE_PATH_BYTES], struct plx_diag *d)
{
	char first[256] = "";
	struct dirent *e;
	DIR *dir = opendir(SHM);

	while (dir != NULL && (e = readdir(dir)) != NULL) {
		if (!is_ours(e->d_name))
			continue;
		if (first[0] != '\0') {
			plx_diag_set(d, PLX_E_EXISTS,
			             "more than one polluxd: " SHM "/%.100s and " SHM
			             "/%.100s; name one with --file",
			             first, e->d_name);
			closedir(dir);
			return PLX_E_EXISTS;
		}
		snprintf(first, sizeof(first), "%s", e->d_name);
	}
	if (dir != NULL)
		closedir(dir);
	if (first[0] == '\0')
		return plx_diag_set(d, PLX_E_NOT_FOUND,
		                    "no polluxd here: no file " SHM "/" PREFIX
		                    "*; start it, or name its telemetry: file with --file");
	if (snprintf(path, PLX_SHARE_PATH_BYTES, SHM "/%s", first) >= PLX_SHARE_PATH_BYTES)
		return plx_diag_set(d, PLX_E_LIMIT, "%s: the name is too long", first);
	return PLX_E_OK;
}

static int check_head(const struct plx_share_head *h, const char *path, uint64_t n_bytes,
                      struct plx_diag *d)
{
	if (h->magic != PLX_SHARE_MAGIC)
		return plx_diag_set(d, PLX_E_FORMAT, "%s is not a polluxd's telemetry file", path);
	if (h->abi_version != PLX_SHARE_ABI || h->layout_hash != plx_share_layout())
		return plx_diag_set(d, PLX_E_UNSUPPORTED,
		                    "%s is of another version of polluxd; use the plx-scope that "
		                    "was built with it",
		                    path);
	uint32_t events = h->trace_events;
	uint64_t want = h->n_pages == 0 || h->n_pages > PLX_SHARE_MAX_PAGES
	                    ? UINT64_MAX
	                    : plx_share_size(h->n_pages, &events);

	if (h->page_bytes != sizeof(struct plx_page) || events != h->trace_events ||
	    h->page_off != 4096 || want > n_bytes || h->total_bytes != want ||
	    h->trace_off != want - (uint64_t)h->n_pages * events * sizeof(struct plx_trace_ev))
		return plx_diag_set(d, PLX_E_FORMAT, "%s: its parts don't fit its size", path);
	return PLX_E_OK;
}

static int map_file(struct plx_scope *s, int fd, const char *path, struct plx_diag *d)
{
	struct stat st;

	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) ||
	    st.st_size < (off_t)sizeof(struct plx_share_head))
		return plx_diag_set(d, PLX_E_FORMAT, "%s is not a polluxd's telemetry file", path);
	void *at = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);

	if (at == MAP_FAILED)
		return plx_diag_set(d, PLX_E_IO, "%s: can't be mapped: %s", path, strerror(errno));
	s->map = at;
	s->bytes = (size_t)st.st_size;
	s->inode = st.st_ino;
	memcpy(&s->head, at, sizeof(s->head));
	s->head.board[sizeof(s->head.board) - 1] = '\0';
	s->head.model[sizeof(s->head.model) - 1] = '\0';
	int err = check_head(&s->head, path, s->bytes, d);

	if (err != 0)
		plx_scope_close(s);
	return err;
}

int plx_scope_open(struct plx_scope *s, const char *path, struct plx_diag *d)
{
	memset(s, 0, sizeof(*s));
	if (strlen(path) >= sizeof(s->path))
		return plx_diag_set(d, PLX_E_LIMIT, "%s: the path is too long", path);
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return plx_diag_set(d, errno == ENOENT ? PLX_E_NOT_FOUND : PLX_E_IO,
		                    "%s: %s; is polluxd running, and may you read its file?", path,
		                    strerror(errno));
	int err = map_file(s, fd, path, d);

	close(fd);
	if (err == 0)
		snprintf(s->path, sizeof(s->path), "%s", path);
	return err;
}

void plx_scope_close(struct plx_scope *s)
{
	if (s->map != NULL)
		munmap((void *)(uintptr_t)s->map, s->bytes);
	s->map = NULL;
}

int plx_scope_again(struct plx_scope *s, struct plx_diag *d)
{
	struct plx_scope next;
	struct stat st;

	if (stat(s->path, &st) != 0 || st.st_ino == s->inode)
		return 0;
	int err = plx_scope_open(&next, s->path, d);

	if (err != 0)
		return err;
	plx_scope_close(s);
	*s = next;
	return 1;
}

enum plx_scope_life plx_scope_life(const struct plx_scope *s)
{
	uint32_t state = __atomic_load_n(&s->map->state, __ATOMIC_ACQUIRE);

	if (state == PLX_SHARE_ENDED)
		return PLX_SCOPE_ENDED;
	if (plx_share_pid_start(s->head.pid) != s->head.pid_start)
		return PLX_SCOPE_DEAD;
	return state == PLX_SHARE_STARTING ? PLX_SCOPE_STARTING : PLX_SCOPE_SERVING;
}

const char *plx_scope_life_name(enum plx_scope_life life)
{
	static const char *const name[] = {"unknown", "starting", "serving", "ended", "dead"};

	return name[life <= PLX_SCOPE_DEAD ? life : 0];
}

const struct plx_page *plx_scope_page(const struct plx_scope *s, uint32_t i)
{
	return (const struct plx_page *)(const void *)((const char *)s->map + s->head.page_off) + i;
}

const struct plx_trace_ev *plx_scope_ring(const struct plx_scope *s, uint32_t i)
{
	if (s->head.trace_events == 0)
		return NULL;
	return (const struct plx_trace_ev *)(const void *)((const char *)s->map +
	                                                   s->head.trace_off) +
	       (size_t)i * s->head.trace_events;
}

void plx_scope_name(const struct plx_page *p, char name[33])
{
	memcpy(name, p->name, sizeof(p->name));
	name[sizeof(p->name)] = '\0';
}
