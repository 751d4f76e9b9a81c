/*
 * Key files: every line is checked and every mistake named, since a typo here locks somebody out.
 * Keys are wiped from memory that is given back.
 */
#include "dataplane/keytab.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sodium.h>

#include "fw/base/err.h"

#define NO_LIMIT UINT32_MAX

struct parser {
	const char *name;
	struct plx_diag *d;
	struct plx_keytab *t;
	uint32_t cap;
	uint32_t line;
};

/* One field of a line: name=value, neither terminated. */
struct field {
	const char *name, *value;
	size_t name_bytes, value_bytes;
};

enum {
	HAVE_ID = 1,
	HAVE_KEY = 2,
	HAVE_TENANT = 4,
	HAVE_SESSIONS = 8,
	HAVE_REQUESTS = 16,
	HAVE_KV = 32,
	HAVE_PRIORITY = 64,
	HAVE_SHARE = 128,
};

/* A message about the current line; returns err. */
__attribute__((format(printf, 3, 4))) static int say(struct parser *p, int err, const char *fmt,
                                                     ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return plx_diag_set(p->d, err, "%s:%u: %s", p->name, p->line, text);
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static int parse_id(struct parser *p, const struct field *f, uint64_t *id)
{
	bool bad = f->value_bytes == 0 || f->value_bytes > 16;

	*id = 0;
	for (size_t i = 0; !bad && i < f->value_bytes; i++) {
		int v = hex_digit(f->value[i]);

		bad = v < 0;
		*id = *id << 4 | (uint64_t)(v & 15);
	}
	if (bad || *id == 0)
		return say(p, PLX_E_FORMAT, "id= wants 1 to 16 hex digits, not all zero");
	return PLX_E_OK;
}

static int parse_psk(struct parser *p, const struct field *f, uint8_t psk[PLX_PSK_BYTES])
{
	bool bad = f->value_bytes != 2 * PLX_PSK_BYTES;
	uint8_t any = 0;

	for (size_t i = 0; !bad && i < PLX_PSK_BYTES; i++) {
		int hi = hex_digit(f->value[2 * i]), lo = hex_digit(f->value[2 * i + 1]);

		bad = hi < 0 || lo < 0;
		psk[i] = (uint8_t)((hi & 15) << 4 | (lo & 15));
		any |= psk[i];
	}
	if (bad || any == 0)
		return say(p, PLX_E_FORMAT,
		           "key= wants 64 hex digits, not all zero; plx-key makes one");
	return PLX_E_OK;
}

static int parse_number(struct parser *p, const struct field *f, uint32_t lo, uint32_t hi,
                        uint32_t *out)
{
	uint64_t v = 0;
	bool bad = f->value_bytes == 0 || f->value_bytes > 9;

	for (size_t i = 0; !bad && i < f->value_bytes; i++) {
		bad = f->value[i] < '0' || f->value[i] > '9';
		v = v * 10 + (uint64_t)(f->value[i] - '0');
	}
	if (bad || v < lo || v > hi)
		return say(p, PLX_E_FORMAT, "%.*s= wants a number from %u to %u",
		           (int)f->name_bytes, f->name, lo, hi);
	*out = (uint32_t)v;
	return PLX_E_OK;
}

static bool is(const struct field *f, const char *name)
{
	return f->name_bytes == strlen(name) && memcmp(f->name, name, f->name_bytes) == 0;
}

static int parse_yes(struct parser *p, const struct field *f, bool *out)
{
	*out = f->value_bytes == 3 && memcmp(f->value, "yes", 3) == 0;
	if (!*out && (f->value_bytes != 2 || memcmp(f->value, "no", 2) != 0))
		return say(p, PLX_E_FORMAT, "%.*s= wants yes or no", (int)f->name_bytes, f->name);
	return PLX_E_OK;
}

static int parse_tenant(struct parser *p, const struct field *f, char out[PLX_TENANT_BYTES])
{
	bool bad = f->value_bytes == 0 || f->value_bytes >= PLX_TENANT_BYTES;

	for (size_t i = 0; !bad && i < f->value_bytes; i++) {
		char c = f->value[i];

		bad = !((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
		        (c >= 'A' && c <= 'Z') || c == '_' || c == '.' || c == '-');
	}
	if (bad)
		return say(p, PLX_E_FORMAT,
		           "tenant= wants 1 to %u of letters, digits, '_', '.' and '-'",
		           PLX_TENANT_BYTES - 1);
	memset(out, 0, PLX_TENANT_BYTES);
	memcpy(out, f->value, f->value_bytes);
	return PLX_E_OK;
}

/* Which field it is, as a HAVE_ bit; 0 when there is no such field. */
static unsigned int field_bit(const struct field *f)
{
	static const char *const name[] = {"id",       "key",        "tenant",   "sessions",
	                                   "requests", "kv_percent", "priority", "share_prefix"};

	for (unsigned int i = 0; i < sizeof(name) / sizeof(name[0]); i++)
		if (is(f, name[i]))
			return 1u << i;
	return 0;
}

static int parse_field(struct parser *p, const struct field *f, struct plx_key *k,
                       uint8_t psk[PLX_PSK_BYTES], unsigned int *have)
{
	unsigned int bit = field_bit(f);
	uint32_t small = 0;
	int err;

	if (bit == 0)
		return say(p, PLX_E_FORMAT,
		           "a field is not known; there are id, key, tenant, sessions, requests, "
		           "kv_percent, priority, share_prefix");
	if (*have & bit)
		return say(p, PLX_E_FORMAT, "%.*s= stands there twice; remove one",
		           (int)f->name_bytes, f->name);
	*have |= bit;
	switch (bit) {
	case HAVE_ID:
		return parse_id(p, f, &k->psk.key_id);
	case HAVE_KEY:
		return parse_psk(p, f, psk);
	case HAVE_TENANT:
		return parse_tenant(p, f, k->tenant);
	case HAVE_SESSIONS:
		return parse_number(p, f, 1, 999999999, &k->max_sessions);
	case HAVE_REQUESTS:
		return parse_number(p, f, 1, 999999999, &k->max_requests);
	case HAVE_KV:
		err = parse_number(p, f, 1, 100, &small);
		k->kv_percent = (uint8_t)small;
		return err;
	case HAVE_SHARE:
		return parse_yes(p, f, &k->share_prefix);
	default:
		err = parse_number(p, f, 0, 15, &small);
		k->max_priority = (uint8_t)small;
		return err;
	}
}

static bool blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

/* Next field of [*at, end): 1 and f, 0 at the end of the line or a comment, negative: not a field.
 */
static int next_field(struct parser *p, const char **at, const char *end, struct field *f)
{
	const char *c = *at;

	while (c < end && blank(*c))
		c++;
	if (c == end || *c == '#')
		return 0;
	f->name = c;
	while (c < end && *c != '=' && !blank(*c))
		c++;
	f->name_bytes = (size_t)(c - f->name);
	if (c == end || *c != '=' || f->name_bytes == 0 || f->name_bytes > 16)
		return say(p, PLX_E_FORMAT,
		           "fields are written name=value, without blanks around =");
	f->value = ++c;
	while (c < end && !blank(*c))
		c++;
	f->value_bytes = (size_t)(c - f->value);
	*at = c;
	return 1;
}

static int parse_line(struct parser *p, const char *at, const char *end)
{
	struct plx_key k = {.tenant = "default",
	                    .max_sessions = NO_LIMIT,
	                    .max_requests = NO_LIMIT,
	                    .kv_percent = 100,
	                    .max_priority = 15,
	                    .line = p->line};
	uint8_t psk[PLX_PSK_BYTES] = {0};
	unsigned int have = 0;
	struct field f;
	int rc;

	while ((rc = next_field(p, &at, end, &f)) == 1)
		if ((rc = parse_field(p, &f, &k, psk, &have)) != PLX_E_OK)
			break;
	if (rc == 0 && have != 0 && (have & (HAVE_ID | HAVE_KEY)) != (HAVE_ID | HAVE_KEY))
		rc = say(p, PLX_E_FORMAT,
		         "id= and key= must both be there; plx-key makes such lines");
	if (rc == 0 && have != 0 && p->t->n == p->cap)
		rc = say(p, PLX_E_LIMIT, "more than %u keys", PLX_KEYTAB_MAX);
	if (rc == 0 && have != 0) {
		plx_psk_init(&k.psk, k.psk.key_id, psk);
		p->t->key[p->t->n++] = k;
	}
	sodium_memzero(psk, sizeof(psk));
	sodium_memzero(&k, sizeof(k));
	return rc;
}

static int by_id(const void *a, const void *b)
{
	const struct plx_key *x = a, *y = b;

	if (x->psk.key_id != y->psk.key_id)
		return x->psk.key_id < y->psk.key_id ? -1 : 1;
	return x->line < y->line ? -1 : x->line > y->line;
}

static int check_ids(struct parser *p)
{
	qsort(p->t->key, p->t->n, sizeof(p->t->key[0]), by_id);
	for (uint32_t i = 1; i < p->t->n; i++) {
		const struct plx_key *a = &p->t->key[i - 1], *b = &p->t->key[i];

		p->line = b->line;
		if (a->psk.key_id == b->psk.key_id)
			return say(p, PLX_E_EXISTS, "id=%llx stands in line %u already; remove one",
			           (unsigned long long)b->psk.key_id, a->line);
	}
	return PLX_E_OK;
}

/* Lines that could hold a key: an upper bound for the table's size. */
static uint32_t count_lines(const char *text, size_t bytes)
{
	uint32_t n = 1;

	for (size_t i = 0; i < bytes; i++)
		n += text[i] == '\n';
	return n;
}

static struct plx_keytab *new_table(uint32_t cap)
{
	return calloc(1, sizeof(struct plx_keytab) + cap * sizeof(struct plx_key));
}

int plx_keytab_parse(struct plx_keytab **out, const char *text, size_t bytes, const char *name,
                     struct plx_diag *d)
{
	struct parser p = {.name = name, .d = d};
	const char *at = text, *end = text + bytes;
	int err = PLX_E_OK;

	*out = NULL;
	if (bytes > PLX_KEYTAB_FILE_BYTES)
		return plx_diag_set(d, PLX_E_LIMIT, "%s: larger than %u bytes; is it a key file?",
		                    name, PLX_KEYTAB_FILE_BYTES);
	p.cap = count_lines(text, bytes);
	if (p.cap > PLX_KEYTAB_MAX)
		p.cap = PLX_KEYTAB_MAX;
	p.t = new_table(p.cap);
	if (p.t == NULL)
		return plx_diag_set(d, PLX_E_NOMEM, "%s: no memory for %u keys", name, p.cap);
	while (err == PLX_E_OK && at < end) {
		const char *nl = memchr(at, '\n', (size_t)(end - at));

		p.line++;
		err = parse_line(&p, at, nl != NULL ? nl : end);
		at = nl != NULL ? nl + 1 : end;
	}
	if (err == PLX_E_OK)
		err = check_ids(&p);
	if (err == PLX_E_OK && p.t->n == 0)
		err = plx_diag_set(d, PLX_E_FORMAT,
		                   "%s: no key in it, so nobody could connect; plx-key makes one",
		                   name);
	if (err == PLX_E_OK)
		*out = p.t;
	else
		plx_keytab_free(p.t);
	return err;
}

/* The file is a regular one that nobody but its owner may touch, and the owner is us or root. */
static int check_file(const struct stat *st, const char *path, struct plx_diag *d)
{
	if (!S_ISREG(st->st_mode))
		return plx_diag_set(d, PLX_E_AUTH, "%s: is not a regular file", path);
	if ((st->st_mode & 077) != 0)
		return plx_diag_set(d, PLX_E_AUTH,
		                    "%s: mode is %04o, so others may read the keys; `chmod 600 %s`",
		                    path, st->st_mode & 07777, path);
	if (st->st_uid != geteuid() && st->st_uid != 0)
		return plx_diag_set(d, PLX_E_AUTH, "%s: belongs to user %u; `chown %u %s`", path,
		                    st->st_uid, geteuid(), path);
	if (st->st_size > (off_t)PLX_KEYTAB_FILE_BYTES)
		return plx_diag_set(d, PLX_E_LIMIT, "%s: larger than %u bytes; is it a key file?",
		                    path, PLX_KEYTAB_FILE_BYTES);
	return PLX_E_OK;
}

int plx_keytab_load(struct plx_keytab **out, const char *path, struct plx_diag *d)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), err;
	struct stat st;
	char *text = NULL;

	*out = NULL;
	if (fd < 0)
		return plx_diag_set(d, errno == ENOENT ? PLX_E_NOT_FOUND : PLX_E_IO,
		                    "%s: %s; `plx-key` makes a key file", path, strerror(errno));
	err = fstat(fd, &st) == 0 ? check_file(&st, path, d)
	                          : plx_diag_set(d, PLX_E_IO, "%s: %s", path, strerror(errno));
	if (err != PLX_E_OK)
		goto out;
	text = malloc((size_t)st.st_size + 1);
	if (text == NULL) {
		err = plx_diag_set(d, PLX_E_NOMEM, "%s: no memory to read it", path);
		goto out;
	}
	ssize_t n = read(fd, text, (size_t)st.st_size);

	err = n == (ssize_t)st.st_size ? plx_keytab_parse(out, text, (size_t)n, path, d)
	                               : plx_diag_set(d, PLX_E_IO, "%s: can't be read whole", path);
	sodium_memzero(text, (size_t)st.st_size);
out:
	free(text);
	close(fd);
	return err;
}

int plx_keytab_insecure(struct plx_keytab **out, struct plx_diag *d)
{
	struct plx_keytab *t = new_table(1);

	*out = t;
	if (t == NULL)
		return plx_diag_set(d, PLX_E_NOMEM, "no memory for a key");
	t->n = 1;
	t->insecure = true;
	t->key[0] = (struct plx_key){.tenant = "default",
	                             .max_sessions = NO_LIMIT,
	                             .max_requests = NO_LIMIT,
	                             .kv_percent = 100,
	                             .max_priority = 15};
	plx_psk_insecure(&t->key[0].psk);
	return PLX_E_OK;
}

void plx_keytab_free(struct plx_keytab *t)
{
	if (t == NULL)
		return;
	sodium_memzero(t, sizeof(*t) + t->n * sizeof(t->key[0]));
	free(t);
}

const struct plx_key *plx_keytab_find(const struct plx_keytab *t, uint64_t key_id)
{
	uint32_t lo = 0, hi = t->n;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (t->key[mid].psk.key_id < key_id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < t->n && t->key[lo].psk.key_id == key_id ? &t->key[lo] : NULL;
}

/* ---- the current table --------------------------------------------------------------------- */

static int name_tenants(struct plx_keys *k, struct plx_keytab *t, const char *path,
                        struct plx_diag *d)
{
	for (uint32_t i = 0; i < t->n; i++) {
		uint32_t j = 0;

		while (j < k->n_tenants && strcmp(k->tenant[j], t->key[i].tenant) != 0)
			j++;
		if (j == PLX_KEYTAB_TENANTS)
			return plx_diag_set(
			    d, PLX_E_LIMIT,
			    "%s:%u: more than %u tenants since start; restart, or let "
			    "keys share tenants",
			    path, t->key[i].line, PLX_KEYTAB_TENANTS);
		if (j == k->n_tenants)
			memcpy(k->tenant[k->n_tenants++], t->key[i].tenant, PLX_TENANT_BYTES);
		t->key[i].tenant_idx = j;
	}
	return PLX_E_OK;
}

/* A key keeps its counter over reloads; a counter is free when no table and no session has it. */
static void place_uses(struct plx_keys *k, struct plx_keytab *t)
{
	const struct plx_keytab *before = atomic_load_explicit(&k->cur, memory_order_relaxed);
	uint32_t at = 0;

	for (uint32_t i = 0; i < t->n; i++) {
		uint64_t id = t->key[i].psk.key_id;
		const struct plx_key *was = before != NULL ? plx_keytab_find(before, id) : NULL;

		if (was != NULL) {
			t->key[i].use_idx = was->use_idx;
			continue;
		}
		while (at < 2 * PLX_KEYTAB_MAX - 1) {
			struct plx_key_use *u = &k->use[at];
			uint64_t holder = atomic_load_explicit(&u->key_id, memory_order_relaxed);
			bool current = before != NULL && plx_keytab_find(before, holder) != NULL &&
			               plx_keytab_find(before, holder)->use_idx == at;

			if (!current &&
			    atomic_load_explicit(&u->n_sessions, memory_order_relaxed) == 0)
				break;
			at++;
		}
		atomic_store_explicit(&k->use[at].key_id, id, memory_order_relaxed);
		t->key[i].use_idx = (uint16_t)at++;
	}
}

static int adopt(struct plx_keys *k, struct plx_keytab *t, const char *path, struct plx_diag *d)
{
	struct plx_keytab *before = atomic_load_explicit(&k->cur, memory_order_relaxed);
	int err = name_tenants(k, t, path, d);

	if (err != PLX_E_OK) {
		plx_keytab_free(t);
		return err;
	}
	place_uses(k, t);
	t->gen = before != NULL ? before->gen + 1 : 1;
	k->old = before;
	/* K1: pairs with plx_keys_get, so that a stage sees a table that is whole. */
	atomic_store_explicit(&k->cur, t, memory_order_release);
	return PLX_E_OK;
}

int plx_keys_open(struct plx_keys *k, const char *path, struct plx_diag *d)
{
	struct plx_keytab *t;
	int err;

	memset(k, 0, sizeof(*k));
	err = path != NULL && path[0] != '\0' ? plx_keytab_load(&t, path, d)
	                                      : plx_keytab_insecure(&t, d);
	return err == PLX_E_OK ? adopt(k, t, path, d) : err;
}

int plx_keys_reader(struct plx_keys *k)
{
	return k->n_readers < PLX_KEYTAB_READERS ? (int)k->n_readers++ : PLX_E_LIMIT;
}

/* Whether every stage holds the current table, so that the one before can go. */
static bool all_seen(struct plx_keys *k)
{
	uint32_t gen = atomic_load_explicit(&k->cur, memory_order_relaxed)->gen;

	for (uint32_t i = 0; i < k->n_readers; i++)
		if (atomic_load_explicit(&k->seen[i], memory_order_acquire) != gen) /* K2 */
			return false;
	return true;
}

int plx_keys_reload(struct plx_keys *k, const char *path, struct plx_diag *d)
{
	struct plx_keytab *t;

	if (k->old != NULL && !all_seen(k))
		return plx_diag_set(d, PLX_E_AGAIN, "the reload before is still under way");
	plx_keytab_free(k->old);
	k->old = NULL;
	int err = plx_keytab_load(&t, path, d);

	return err == PLX_E_OK ? adopt(k, t, path, d) : err;
}

void plx_keys_close(struct plx_keys *k)
{
	plx_keytab_free(k->old);
	plx_keytab_free(atomic_load_explicit(&k->cur, memory_order_relaxed));
	memset(k, 0, sizeof(*k));
}
