/* The client's key file: one line `id=<hex> key=<64 hex>`, readable by its owner alone. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <sodium.h>

#include "tools/client/core.h"

#define LINE_BYTES 512

static int bad_line(struct plx_diag *d, const char *path, unsigned line, const char *what)
{
	return plx_diag_set(d, PLX_E_FORMAT,
	                    "%s:%u: %s; a client key file has one line `id=<1-16 hex digits> "
	                    "key=<64 hex digits>`, as `plx-key show-client` writes it",
	                    path, line, what);
}

static int parse_id(const char *s, uint64_t *id)
{
	size_t n = strlen(s);

	if (n < 1 || n > 16 || strspn(s, "0123456789abcdefABCDEF") != n)
		return PLX_E_FORMAT;
	*id = strtoull(s, NULL, 16);
	return *id ? 0 : PLX_E_FORMAT;
}

static int parse_key(const char *s, uint8_t key[PLX_CLIENT_KEY_BYTES])
{
	size_t n = strlen(s), len;

	if (n != 2 * (size_t)PLX_CLIENT_KEY_BYTES)
		return PLX_E_FORMAT;
	return sodium_hex2bin(key, PLX_CLIENT_KEY_BYTES, s, n, NULL, &len, NULL) ||
	               len != PLX_CLIENT_KEY_BYTES
	           ? PLX_E_FORMAT
	           : 0;
}

/* One line that is neither empty nor a comment. */
static int parse_line(struct plx_client_config *cfg, char *text, const char *path, unsigned line,
                      struct plx_diag *d)
{
	bool have_id = false, have_key = false;
	char *save = NULL;

	for (char *f = strtok_r(text, " \t\r\n", &save); f; f = strtok_r(NULL, " \t\r\n", &save)) {
		if (!strncmp(f, "id=", 3) && !have_id) {
			have_id = true;
			if (parse_id(f + 3, &cfg->key_id))
				return bad_line(d, path, line, "id is not 1 to 16 hex digits");
		} else if (!strncmp(f, "key=", 4) && !have_key) {
			have_key = true;
			if (parse_key(f + 4, cfg->key))
				return bad_line(d, path, line, "key is not 64 hex digits");
		} else {
			return bad_line(d, path, line, "a field that is neither id nor key");
		}
	}
	return have_id && have_key ? 0 : bad_line(d, path, line, "id or key is missing");
}

static int read_lines(struct plx_client_config *cfg, FILE *f, const char *path, struct plx_diag *d)
{
	char text[LINE_BYTES];
	unsigned line = 0, found = 0;
	int err = 0;

	while (!err && fgets(text, sizeof(text), f)) {
		line++;
		char *hash = strchr(text, '#');

		if (!hash && !strchr(text, '\n') && !feof(f))
			err = bad_line(d, path, line, "the line is too long");
		if (hash)
			*hash = 0;
		if (err || text[strspn(text, " \t\r\n")] == 0)
			continue;
		err = found++ ? bad_line(d, path, line, "a second key")
		              : parse_line(cfg, text, path, line, d);
	}
	sodium_memzero(text, sizeof(text));
	if (!err && !found)
		err = bad_line(d, path, line, "there is no key in it");
	return err;
}

int plx_client_key_read(struct plx_client_config *cfg, const char *path, struct plx_diag *d)
{
	FILE *f = fopen(path, "re");
	struct stat st;

	if (!f)
		return plx_diag_set(d, PLX_E_IO,
		                    "%s: %s; give the key file that `plx-key "
		                    "show-client` wrote",
		                    path, strerror(errno));
	int err = 0;

	if (fstat(fileno(f), &st) || !S_ISREG(st.st_mode))
		err = plx_diag_set(d, PLX_E_IO, "%s: not a plain file", path);
	else if (st.st_mode & 077)
		err = plx_diag_set(d, PLX_E_AUTH,
		                   "%s: others may read or write it (mode %03o); chmod 600 it",
		                   path, st.st_mode & 0777);
	if (!err)
		err = read_lines(cfg, f, path, d);
	fclose(f);
	return err;
}
