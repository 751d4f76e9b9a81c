/* Lines with check sums, one a measurement. */
#include "tools/tune/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

#include "fw/base/err.h"

#define SUM_BYTES 18u /* " #" and 16 digits */

struct kind {
	char letter;
	uint32_t n;
	const char *name[PLX_JOURNAL_FIGURES];
};

static const struct kind kinds[PLX_JOURNAL_N_KINDS] = {
    {'a', 7, {"n", "ln_ppl", "ln_ppl_sd", "kl", "kl_sd", "top", "seconds"}},
    {'s', 7, {"block", "rate", "p50_ms", "p99_ms", "first_ms", "memory_mib", "seconds"}},
    {'c', 7, {"block", "rate", "p50_ms", "p99_ms", "first_ms", "memory_mib", "seconds"}},
};

static const struct {
	const char *name;
	size_t off;
	const char *other;
} keys[] = {
    {"model", offsetof(struct plx_journal_key, model), "another model"},
    {"reference", offsetof(struct plx_journal_key, reference), "another reference model"},
    {"text", offsetof(struct plx_journal_key, text), "another text"},
    {"machine", offsetof(struct plx_journal_key, machine),
     "another machine, or another number of threads"},
    {"load", offsetof(struct plx_journal_key, load), "another load (batch, prompts, answers)"},
    {"knobs", offsetof(struct plx_journal_key, knobs), "another version of plx-tune"},
};
#define N_KEYS (sizeof keys / sizeof keys[0])

static uint64_t key_of(const struct plx_journal_key *k, size_t i)
{
	uint64_t v;

	memcpy(&v, (const char *)k + keys[i].off, sizeof v);
	return v;
}

/* ---- writing ---- */

static size_t seal(char *buf, size_t len)
{
	return len + (size_t)snprintf(buf + len, PLX_JOURNAL_LINE_BYTES - len, " #%016llx\n",
	                              (unsigned long long)XXH3_64bits(buf, len));
}

size_t plx_journal_head(const struct plx_journal_key *key, char buf[PLX_JOURNAL_LINE_BYTES])
{
	size_t len = (size_t)snprintf(buf, PLX_JOURNAL_LINE_BYTES, "plx-tune 1");

	for (size_t i = 0; i < N_KEYS; i++)
		len += (size_t)snprintf(buf + len, PLX_JOURNAL_LINE_BYTES - len, " %s=%016llx",
		                        keys[i].name, (unsigned long long)key_of(key, i));
	return seal(buf, len);
}

size_t plx_journal_line(const struct plx_journal_rec *r, char buf[PLX_JOURNAL_LINE_BYTES])
{
	const struct kind *k = &kinds[r->kind];
	char point[PLX_TUNE_TEXT_BYTES];

	plx_tune_point_print(&r->point, point);
	size_t len = (size_t)snprintf(buf, PLX_JOURNAL_LINE_BYTES, "%c %s", k->letter, point);

	for (uint32_t i = 0; i < k->n; i++)
		len += (size_t)snprintf(buf + len, PLX_JOURNAL_LINE_BYTES - len, " %s=%.17g",
		                        k->name[i], r->v[i]);
	return seal(buf, len);
}

/* ---- reading ---- */

/* The line's text without its sum; false where the sum is not right. */
static bool unseal(const char *line, size_t len, char buf[PLX_JOURNAL_LINE_BYTES])
{
	char sum[SUM_BYTES + 1];

	if (len <= SUM_BYTES || len >= PLX_JOURNAL_LINE_BYTES || memchr(line, '\0', len))
		return false;
	len -= SUM_BYTES;
	snprintf(sum, sizeof sum, " #%016llx", (unsigned long long)XXH3_64bits(line, len));
	if (memcmp(line + len, sum, SUM_BYTES) != 0)
		return false;
	memcpy(buf, line, len);
	buf[len] = '\0';
	return true;
}

/* " NAME=" at *at; moves behind it. */
static bool skip_name(const char **at, const char *name)
{
	size_t n = strlen(name);

	if ((*at)[0] != ' ' || strncmp(*at + 1, name, n) != 0 || (*at)[n + 1] != '=')
		return false;
	*at += n + 2;
	return true;
}

static int read_head(const char *name, const char *line, const struct plx_journal_key *key,
                     struct plx_diag *d)
{
	static const char first[] = "plx-tune 1";
	const char *at = line + sizeof first - 1;

	if (strncmp(line, first, sizeof first - 1) != 0)
		return plx_diag_set(d, PLX_E_FORMAT,
		                    "%s:1: this is no journal of this plx-tune; give another "
		                    "folder, or --restart",
		                    name);
	for (size_t i = 0; i < N_KEYS; i++) {
		char *end;

		if (!skip_name(&at, keys[i].name))
			return plx_diag_set(d, PLX_E_FORMAT, "%s:1: %s is missing", name,
			                    keys[i].name);
		unsigned long long v = strtoull(at, &end, 16);

		at = end;
		if (v != key_of(key, i))
			return plx_diag_set(d, PLX_E_INVAL,
			                    "%s: this is the journal of %s; give another folder, "
			                    "or --restart to begin anew",
			                    name, keys[i].other);
	}
	return 0;
}

static bool read_rec(const char *line, struct plx_journal_rec *r)
{
	uint32_t kind = 0;

	while (kind < PLX_JOURNAL_N_KINDS && kinds[kind].letter != line[0])
		kind++;
	if (kind == PLX_JOURNAL_N_KINDS || line[1] != ' ')
		return false;
	const char *at = line + 2;
	size_t len = strcspn(at, " ");

	*r = (struct plx_journal_rec){.kind = (enum plx_journal_kind)kind};
	plx_tune_point_usual(&r->point);
	if (plx_tune_point_parse(&r->point, at, len, NULL) != 0)
		return false;
	at += len;
	for (uint32_t i = 0; i < kinds[kind].n; i++) {
		char *end;

		if (!skip_name(&at, kinds[kind].name[i]))
			return false;
		r->v[i] = strtod(at, &end);
		if (end == at || !isfinite(r->v[i]))
			return false;
		at = end;
	}
	return *at == '\0';
}

int plx_journal_parse(struct plx_journal *j, const char *name, const char *text, size_t n_bytes,
                      const struct plx_journal_key *key, struct plx_diag *d)
{
	char buf[PLX_JOURNAL_LINE_BYTES];
	uint32_t line = 1;
	int err;

	j->n = 0;
	j->bytes = 0;
	for (const char *at = text, *end; n_bytes > 0; at = end, line++) {
		end = memchr(at, '\n', n_bytes);
		size_t len = end ? (size_t)(end - at) : n_bytes;
		bool last = !end || len + 1 == n_bytes;

		if (!end || !unseal(at, len, buf)) {
			if (last)
				return 0;
			return plx_diag_set(d, PLX_E_FORMAT,
			                    "%s:%u: the line is damaged; remove it, or give "
			                    "--restart to begin anew",
			                    name, line);
		}
		end++;
		if (line == 1) {
			err = read_head(name, buf, key, d);
			if (err)
				return err;
		} else if (j->n == PLX_JOURNAL_MAX) {
			return plx_diag_set(d, PLX_E_LIMIT, "%s: more than %u measurements", name,
			                    PLX_JOURNAL_MAX);
		} else if (!read_rec(buf, &j->rec[j->n++])) {
			return plx_diag_set(d, PLX_E_FORMAT,
			                    "%s:%u: this is no measurement of this plx-tune; "
			                    "remove the line, or give --restart",
			                    name, line);
		}
		n_bytes -= (size_t)(end - at);
		j->bytes += (uint64_t)(end - at);
	}
	return 0;
}

/* ---- the file ---- */

static int failed(const struct plx_journal *j, const char *what, struct plx_diag *d)
{
	return plx_diag_set(
	    d, PLX_E_IO, "%s: can't %s it: %s%s; the %u measurements in it are safe", j->path, what,
	    strerror(errno),
	    errno == ENOSPC || errno == EDQUOT ? "; free some room and run again" : "", j->n);
}

static int append(struct plx_journal *j, const char *line, size_t n, struct plx_diag *d)
{
	ssize_t w = pwrite(j->fd, line, n, (off_t)j->bytes);

	if (w >= 0 && (size_t)w < n)
		errno = ENOSPC;
	if (w != (ssize_t)n || fdatasync(j->fd) != 0) {
		int why = errno;

		(void)!ftruncate(j->fd, (off_t)j->bytes);
		errno = why;
		return failed(j, "append to", d);
	}
	j->bytes += n;
	return 0;
}

static int load(struct plx_journal *j, const struct plx_journal_key *key, struct plx_diag *d)
{
	struct stat st;
	int err = 0;

	if (fstat(j->fd, &st) != 0)
		return failed(j, "read", d);
	if (!S_ISREG(st.st_mode))
		return plx_diag_set(d, PLX_E_IO, "%s: this is no regular file", j->path);
	if ((uint64_t)st.st_size > PLX_JOURNAL_BYTES)
		return plx_diag_set(d, PLX_E_LIMIT, "%s: larger than %u bytes; give --restart",
		                    j->path, PLX_JOURNAL_BYTES);
	char *text = malloc((size_t)st.st_size + 1);

	if (!text)
		return plx_diag_set(d, PLX_E_NOMEM, "no memory for %s", j->path);
	if (pread(j->fd, text, (size_t)st.st_size, 0) != st.st_size)
		err = failed(j, "read", d);
	if (!err)
		err = plx_journal_parse(j, j->path, text, (size_t)st.st_size, key, d);
	free(text);
	if (!err && j->bytes < (uint64_t)st.st_size && ftruncate(j->fd, (off_t)j->bytes) != 0)
		err = failed(j, "write", d);
	return err;
}

int plx_journal_open(struct plx_journal *j, const char *path, const struct plx_journal_key *key,
                     bool restart, struct plx_diag *d)
{
	char head[PLX_JOURNAL_LINE_BYTES];
	int err = 0;

	j->n = 0;
	j->bytes = 0;
	snprintf(j->path, sizeof j->path, "%s", path);
	j->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	if (j->fd < 0)
		return failed(j, "open", d);
	if (flock(j->fd, LOCK_EX | LOCK_NB) != 0)
		err = plx_diag_set(d, PLX_E_EXISTS, "%s: another plx-tune is writing it", path);
	else if (restart && ftruncate(j->fd, 0) != 0)
		err = failed(j, "empty", d);
	if (!err)
		err = load(j, key, d);
	if (!err && j->bytes == 0)
		err = append(j, head, plx_journal_head(key, head), d);
	if (err)
		plx_journal_close(j);
	return err;
}

int plx_journal_add(struct plx_journal *j, const struct plx_journal_rec *r, struct plx_diag *d)
{
	char line[PLX_JOURNAL_LINE_BYTES];
	size_t n = plx_journal_line(r, line);
	int err;

	if (j->n == PLX_JOURNAL_MAX || j->bytes + n > PLX_JOURNAL_BYTES)
		return plx_diag_set(d, PLX_E_LIMIT, "%s: there is no room for more measurements",
		                    j->path);
	err = append(j, line, n, d);
	if (!err)
		j->rec[j->n++] = *r;
	return err;
}

void plx_journal_close(struct plx_journal *j)
{
	if (j->fd >= 0)
		close(j->fd);
	j->fd = -1;
}
