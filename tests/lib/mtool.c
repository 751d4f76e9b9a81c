/* plx-model in process. */
#include "tests/lib/mtool.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fw/base/check.h"
#include "tools/model/commands.h"

#define MAX_WORDS 24

static char folder[64];

void mtool_begin(void)
{
	strcpy(folder, "/tmp/plx-mtool.XXXXXX");
	PLX_CHECK(mkdtemp(folder) != NULL);
}

static int drop(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	return remove(path);
}

void mtool_end(void)
{
	PLX_CHECK(nftw(folder, drop, 8, FTW_DEPTH | FTW_PHYS) == 0);
}

int mtool_setup(void **state)
{
	(void)state;
	mtool_begin();
	return 0;
}

int mtool_teardown(void **state)
{
	(void)state;
	mtool_end();
	return 0;
}

const char *mtool_path(const char *name)
{
	static char buf[8][PATH_MAX];
	static unsigned next;
	char *p = buf[next++ % 8];

	snprintf(p, PATH_MAX, "%s/%s", folder, name);
	return p;
}

static int run(struct plx_mtool_options *o, bool *sound, struct plx_diag *d)
{
	switch (o->cmd) {
	case PLX_MTOOL_INSPECT:
		return plx_mtool_inspect(o, d);
	case PLX_MTOOL_CONVERT:
		return plx_mtool_convert(o, d);
	case PLX_MTOOL_QUANTISE:
		return plx_mtool_quantise(o, d);
	case PLX_MTOOL_VERIFY:
		return plx_mtool_verify(o, sound, d);
	case PLX_MTOOL_HELP:
		break;
	}
	return 0;
}

int mtool(struct plx_diag *d, const char *word, ...)
{
	static char name[] = "plx-model";
	char *argv[MAX_WORDS + 1] = {name};
	struct plx_mtool_options o;
	bool sound = true;
	int argc = 1;
	va_list ap;

	va_start(ap, word);
	for (const char *w = word; w; w = va_arg(ap, const char *)) {
		PLX_CHECK(argc < MAX_WORDS);
		argv[argc++] = strdup(w);
	}
	va_end(ap);
	d->text[0] = '\0';
	int err = plx_mtool_parse(&o, argc, argv, d);
	bool usage = err != 0;

	if (!err) {
		fflush(stdout);
		int keep = dup(STDOUT_FILENO);
		int fd = open(mtool_path("stdout"), O_WRONLY | O_CREAT | O_TRUNC, 0600);

		PLX_CHECK(keep >= 0 && fd >= 0 && dup2(fd, STDOUT_FILENO) >= 0);
		err = run(&o, &sound, d);
		fflush(stdout);
		PLX_CHECK(dup2(keep, STDOUT_FILENO) >= 0);
		close(keep);
		close(fd);
	}
	for (int i = 1; i < argc; i++)
		free(argv[i]);
	PLX_CHECK(!err == !d->text[0]); /* every refusal says why */
	return usage   ? PLX_MTOOL_USAGE
	       : err   ? plx_mtool_exit_of(err)
	       : sound ? 0
	               : PLX_MTOOL_DIFFERS;
}

void *mtool_read(const char *path, size_t *n)
{
	struct stat st;
	FILE *f = fopen(path, "r");

	PLX_CHECK(f != NULL && fstat(fileno(f), &st) == 0);
	char *p = calloc(1, (size_t)st.st_size + 1);

	PLX_CHECK(p != NULL && fread(p, 1, (size_t)st.st_size, f) == (size_t)st.st_size);
	fclose(f);
	if (n)
		*n = (size_t)st.st_size;
	return p;
}

char *mtool_said(void)
{
	return mtool_read(mtool_path("stdout"), NULL);
}

void mtool_write(const char *path, const void *p, size_t n)
{
	FILE *f = fopen(path, "w");

	PLX_CHECK(f != NULL && fwrite(p, 1, n, f) == n && fclose(f) == 0);
}

void mtool_edit(const char *name, const char *from, const char *to)
{
	size_t n, k = strlen(from), m = strlen(to);
	char *text = mtool_read(mtool_path(name), &n);
	char *at = memmem(text, n, from, k), *out = calloc(1, n + m + 1);

	PLX_CHECK(at != NULL && out != NULL);
	size_t before = (size_t)(at - text);

	memcpy(out, text, before);
	memcpy(out + before, to, m);
	memcpy(out + before + m, at + k, n - k - before);
	mtool_write(mtool_path(name), out, n - k + m);
	free(text);
	free(out);
}

void mtool_copy(const char *from, const char *to)
{
	DIR *dir = opendir(from);
	struct dirent *e;

	PLX_CHECK(dir != NULL && mkdir(to, 0700) == 0);
	while ((e = readdir(dir))) {
		char a[PATH_MAX], b[PATH_MAX];
		size_t n;

		if (e->d_name[0] == '.')
			continue;
		snprintf(a, sizeof a, "%s/%s", from, e->d_name);
		snprintf(b, sizeof b, "%s/%s", to, e->d_name);
		void *p = mtool_read(a, &n);

		mtool_write(b, p, n);
		free(p);
	}
	closedir(dir);
}

bool mtool_same(const char *a, const char *b)
{
	size_t n, k;
	void *p = mtool_read(a, &n), *q = mtool_read(b, &k);
	bool same = n == k && memcmp(p, q, n) == 0;

	free(p);
	free(q);
	return same;
}

unsigned mtool_files(void)
{
	DIR *dir = opendir(folder);
	struct dirent *e;
	unsigned n = 0;

	PLX_CHECK(dir != NULL);
	while ((e = readdir(dir)))
		n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
		     strcmp(e->d_name, "stdout") != 0;
	closedir(dir);
	return n;
}
