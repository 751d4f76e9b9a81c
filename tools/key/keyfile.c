/*
 * Key files: strict parsing, and rewriting by a temporary file and rename, so that polluxd never
 * reads half a file.
 */
#include "tools/key/keyfile.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sodium.h>

#include "fw/base/err.h"

void plx_keyfile_entry_init(struct plx_keyfile_entry *e)
{
	*e = (struct plx_keyfile_entry){
	    .tenant = "default", .sessions = -1, .requests = -1, .kv_percent = -1, .priority = -1};
}

/* ---- fields ---- */

static int set_id(struct plx_keyfile_entry *e, const char *v, struct plx_diag *d)
{
	size_t n = strlen(v);

	if (n < 1 || n > 16 || strspn(v, "0123456789abcdefABCDEF") != n ||
	    !(e->id = strtoull(v, NULL, 16)))
		return plx_diag_set(d, PLX_E_INVAL, "id \"%s\" is not 1 to 16 hex digits, not 0",
		                    v);
	return 0;
}

static int set_key(struct plx_keyfile_entry *e, const char *v, struct plx_diag *d)
{
	size_t len;

	if (strlen(v) != 2 * sizeof(e->key) ||
	    sodium_hex2bin(e->key, sizeof(e->key), v, strlen(v), NULL, &len, NULL) ||
	    len != sizeof(e->key))
		return plx_diag_set(d, PLX_E_INVAL, "key is not 64 hex digits");
	return 0;
}

static int set_tenant(struct plx_keyfile_entry *e, const char *v, struct plx_diag *d)
{
	static const char ok[] =
	    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
	size_t n = strlen(v);

	if (n < 1 || n >= sizeof(e->tenant) || strspn(v, ok) != n)
		return plx_diag_set(d, PLX_E_INVAL,
		                    "tenant \"%s\" is not a name of 1 to 31 of A-Z a-z 0-9 _ . -",
		                    v);
	memcpy(e->tenant, v, n + 1);
	return 0;
}

static int set_number(int64_t *out, const char *name, const char *v, int64_t low, int64_t high,
                      struct plx_diag *d)
{
	size_t n = strlen(v);

	if (n < 1 || n > 10 || strspn(v, "0123456789") != n || strtoll(v, NULL, 10) < low ||
	    strtoll(v, NULL, 10) > high)
		return plx_diag_set(d, PLX_E_INVAL, "%s \"%s\" is not a number of %lld to %lld",
		                    name, v, (long long)low, (long long)high);
	*out = strtoll(v, NULL, 10);
	return 0;
}

static int set_yes(bool *out, const char *name, const char *v, struct plx_diag *d)
{
	*out = !strcmp(v, "yes");
	if (!*out && strcmp(v, "no"))
		return plx_diag_set(d, PLX_E_INVAL, "%s \"%s\" is not yes or no", name, v);
	return 0;
}

int plx_keyfile_set(struct plx_keyfile_entry *e, const char *name, const char *v,
                    struct plx_diag *d)
{
	if (!strcmp(name, "id"))
		return set_id(e, v, d);
	if (!strcmp(name, "key"))
		return set_key(e, v, d);
	if (!strcmp(name, "tenant"))
		return set_tenant(e, v, d);
	if (!strcmp(name, "sessions"))
		return set_number(&e->sessions, name, v, 1, UINT32_MAX - 1, d);
	if (!strcmp(name, "requests"))
		return set_number(&e->requests, name, v, 1, UINT32_MAX - 1, d);
	if (!strcmp(name, "kv_percent"))
		return set_number(&e->kv_percent, name, v, 1, 100, d);
	if (!strcmp(name, "priority"))
		return set_number(&e->priority, name, v, 0, 15, d);
	if (!strcmp(name, "share_prefix"))
		return set_yes(&e->share_prefix, name, v, d);
	return plx_diag_set(d, PLX_E_INVAL,
	                    "unknown field \"%s\"; known are id, key, tenant, sessions, requests, "
	                    "kv_percent, priority, share_prefix",
	                    name);
}

static size_t add_number(char *line, size_t n, const char *name, int64_t v)
{
	if (v < 0)
		return n;
	return n + (size_t)snprintf(line + n, PLX_KEYFILE_LINE_BYTES - n, " %s=%lld", name,
	                            (long long)v);
}

size_t plx_keyfile_format_client(const struct plx_keyfile_entry *e,
                                 char line[PLX_KEYFILE_LINE_BYTES])
{
	char hex[2 * PLX_KEYFILE_KEY_BYTES + 1];

	sodium_bin2hex(hex, sizeof(hex), e->key, sizeof(e->key));
	int n = snprintf(line, PLX_KEYFILE_LINE_BYTES, "id=%llx key=%s\n",
	                 (unsigned long long)e->id, hex);

	sodium_memzero(hex, sizeof(hex));
	return (size_t)n;
}

size_t plx_keyfile_format(const struct plx_keyfile_entry *e, char line[PLX_KEYFILE_LINE_BYTES])
{
	size_t n = plx_keyfile_format_client(e, line) - 1;

	n += (size_t)snprintf(line + n, PLX_KEYFILE_LINE_BYTES - n, " tenant=%s", e->tenant);
	n = add_number(line, n, "sessions", e->sessions);
	n = add_number(line, n, "requests", e->requests);
	n = add_number(line, n, "kv_percent", e->kv_percent);
	n = add_number(line, n, "priority", e->priority);
	if (e->share_prefix)
		n += (size_t)snprintf(line + n, PLX_KEYFILE_LINE_BYTES - n, " share_prefix=yes");
	line[n++] = '\n';
	line[n] = 0;
	return n;
}

/* ---- parsing ---- */

static int at_line(struct plx_diag *d, int err, const char *path, uint32_t line, const char *what)
{
	return plx_diag_set(d, err, "%s:%u: %s; correct or remove the line", path, line, what);
}

#define N_FIELDS 8u

/* The place of a field's name among those known; N_FIELDS when it is unknown. */
static uint32_t field_place(const char *name)
{
	static const char *const known[N_FIELDS] = {"id",       "key",         "tenant",
	                                            "sessions", "requests",    "kv_percent",
	                                            "priority", "share_prefix"};
	uint32_t i = 0;

	while (i < N_FIELDS && strcmp(known[i], name) != 0)
		i++;
	return i;
}

/* A line without comment and newline; 1 when it was an entry, 0 when it was empty. */
static int parse_line(struct plx_keyfile_entry *e, char *text, const char *path, uint32_t line,
                      struct plx_diag *d)
{
	uint32_t seen = 0;
	char *save = NULL;

	plx_keyfile_entry_init(e);
	e->line = line;
	for (char *f = strtok_r(text, " \t\r", &save); f; f = strtok_r(NULL, " \t\r", &save)) {
		struct plx_diag why = {0};
		char *eq = strchr(f, '=');

		if (!eq)
			return at_line(d, PLX_E_FORMAT, path, line, "a field without '='");
		*eq = 0;
		if (seen & 1u << field_place(f))
			return at_line(d, PLX_E_FORMAT, path, line, "a field is there twice");
		seen |= 1u << field_place(f);
		if (plx_keyfile_set(e, f, eq + 1, &why))
			return at_line(d, PLX_E_FORMAT, path, line, why.text);
	}
	if (!seen)
		return 0;
	if ((seen & 3) != 3)
		return at_line(d, PLX_E_FORMAT, path, line, "id and key must be there");
	return 1;
}

static int add_entry(struct plx_keyfile *f, const struct plx_keyfile_entry *e, const char *path,
                     struct plx_diag *d)
{
	if (plx_keyfile_find(f, e->id))
		return at_line(d, PLX_E_EXISTS, path, e->line, "this id is there already");
	if (f->n_entries == PLX_KEYFILE_MAX)
		return at_line(d, PLX_E_LIMIT, path, e->line, "more than 4,096 keys");
	f->entry[f->n_entries++] = *e;
	return 0;
}

static int parse(struct plx_keyfile *f, const char *path, struct plx_diag *d)
{
	const char *at = f->text;
	uint32_t line = 0;

	while (*at) {
		char text[PLX_KEYFILE_LINE_BYTES];
		struct plx_keyfile_entry e;
		size_t whole = strcspn(at, "\n"), n = strcspn(at, "#\n");

		line++;
		if (n >= sizeof(text))
			return at_line(d, PLX_E_FORMAT, path, line, "the line is too long");
		memcpy(text, at, n);
		text[n] = 0;
		at += whole + (at[whole] == '\n');
		int err = parse_line(&e, text, path, line, d);

		if (err == 1)
			err = add_entry(f, &e, path, d);
		sodium_memzero(text, sizeof(text));
		sodium_memzero(&e, sizeof(e));
		if (err)
			return err;
	}
	return 0;
}

static int read_whole(struct plx_keyfile *f, FILE *in, const char *path, struct plx_diag *d)
{
	struct stat st;

	if (fstat(fileno(in), &st) || !S_ISREG(st.st_mode))
		return plx_diag_set(d, PLX_E_IO, "%s: not a plain file", path);
	if (st.st_mode & 077)
		return plx_diag_set(d, PLX_E_AUTH,
		                    "%s: others may read or write it (mode %03o); chmod 600 it",
		                    path, st.st_mode & 0777);
	f->n_bytes = fread(f->text, 1, PLX_KEYFILE_BYTES, in);
	if (f->n_bytes == PLX_KEYFILE_BYTES)
		return plx_diag_set(d, PLX_E_LIMIT, "%s: larger than a key file may be (1 MiB)",
		                    path);
	f->text[f->n_bytes] = 0;
	if (strlen(f->text) != f->n_bytes)
		return plx_diag_set(d, PLX_E_FORMAT, "%s: not a text file", path);
	return 0;
}

int plx_keyfile_load(struct plx_keyfile *f, const char *path, bool may_lack, struct plx_diag *d)
{
	FILE *in = fopen(path, "re");
	int err = 0;

	*f = (struct plx_keyfile){.text = calloc(1, PLX_KEYFILE_BYTES + 1),
	                          .entry = calloc(PLX_KEYFILE_MAX, sizeof(*f->entry))};
	if (!f->text || !f->entry)
		err = plx_diag_set(d, PLX_E_NOMEM, "no memory for a key file");
	else if (!in && !(may_lack && errno == ENOENT))
		err = plx_diag_set(d, PLX_E_IO, "%s: %s", path, strerror(errno));
	else if (in)
		err = read_whole(f, in, path, d);
	if (in)
		fclose(in);
	if (!err)
		err = parse(f, path, d);
	if (err)
		plx_keyfile_free(f);
	return err;
}

void plx_keyfile_free(struct plx_keyfile *f)
{
	if (f->text)
		sodium_memzero(f->text, PLX_KEYFILE_BYTES + 1);
	if (f->entry)
		sodium_memzero(f->entry, PLX_KEYFILE_MAX * sizeof(*f->entry));
	free(f->text);
	free(f->entry);
	*f = (struct plx_keyfile){0};
}

const struct plx_keyfile_entry *plx_keyfile_find(const struct plx_keyfile *f, uint64_t id)
{
	for (uint32_t i = 0; i < f->n_entries; i++)
		if (f->entry[i].id == id)
			return &f->entry[i];
	return NULL;
}

/* ---- writing ---- */

static int write_all(int fd, const char *p, size_t n)
{
	while (n) {
		ssize_t w = write(fd, p, n);

		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			return PLX_E_IO;
		p += w;
		n -= (size_t)w;
	}
	return 0;
}

/* The file becomes head, then tail. */
static int replace(const char *path, const char *head, size_t head_bytes, const char *tail,
                   struct plx_diag *d)
{
	char temp[PATH_MAX];

	if ((size_t)snprintf(temp, sizeof(temp), "%s.XXXXXX", path) >= sizeof(temp))
		return plx_diag_set(d, PLX_E_IO, "%s: the name is too long", path);
	int fd = mkostemp(temp, O_CLOEXEC); /* mode 0600 */

	if (fd < 0)
		return plx_diag_set(d, PLX_E_IO, "%s: %s", temp, strerror(errno));
	bool bad =
	    write_all(fd, head, head_bytes) || write_all(fd, tail, strlen(tail)) || fsync(fd);

	bad = close(fd) || bad;
	if (bad || rename(temp, path)) {
		int why = errno;

		unlink(temp);
		return plx_diag_set(d, PLX_E_IO, "%s: %s", path, strerror(why));
	}
	return 0;
}

int plx_keyfile_append(const struct plx_keyfile *f, const char *path, const char *line,
                       struct plx_diag *d)
{
	char tail[PLX_KEYFILE_LINE_BYTES + 1];
	bool open_end = f->n_bytes && f->text[f->n_bytes - 1] != '\n';

	snprintf(tail, sizeof(tail), "%s%s", open_end ? "\n" : "", line);
	int err = replace(path, f->text, f->n_bytes, tail, d);

	sodium_memzero(tail, sizeof(tail));
	return err;
}

int plx_keyfile_remove(const struct plx_keyfile *f, const char *path, uint32_t line,
                       struct plx_diag *d)
{
	const char *at = f->text;

	for (uint32_t i = 1; i < line; i++)
		at += strcspn(at, "\n") + 1;
	const char *after = at + strcspn(at, "\n");

	return replace(path, f->text, (size_t)(at - f->text), *after ? after + 1 : after, d);
}

int plx_keyfile_create(const char *path, const char *text, struct plx_diag *d)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (fd < 0 && errno == EEXIST)
		return plx_diag_set(d, PLX_E_EXISTS, "%s: is there already; give another name",
		                    path);
	if (fd < 0)
		return plx_diag_set(d, PLX_E_IO, "%s: %s", path, strerror(errno));
	bool bad = write_all(fd, text, strlen(text));

	bad = close(fd) || bad;
	if (!bad)
		return 0;
	unlink(path);
	return plx_diag_set(d, PLX_E_IO, "%s: could not be written", path);
}

int plx_keyfile_lock(const char *path, struct plx_diag *d)
{
	char copy[PATH_MAX];

	snprintf(copy, sizeof(copy), "%s", path);
	const char *folder = dirname(copy);
	int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || flock(fd, LOCK_EX)) {
		int why = errno;

		if (fd >= 0)
			close(fd);
		return plx_diag_set(d, PLX_E_IO, "%s: %s", folder, strerror(why));
	}
	return fd;
}
