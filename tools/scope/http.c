/* The parser of HTTP requests; see http.h. */
#include "tools/scope/http.h"

#include <stdint.h>
#include <string.h>
#include <strings.h>

/* Where a line ends (at its CR), or NULL. A bare LF or CR is not one. */
static const char *line_end(const char *at, const char *end)
{
	const char *cr = memchr(at, '\r', (size_t)(end - at));

	return cr != NULL && cr + 1 < end && cr[1] == '\n' ? cr : NULL;
}

/* Whether the head is whole: n up to and with its empty line, 0 not yet. */
static size_t head_bytes(const char *in, size_t n)
{
	const char *at = memmem(in, n, "\r\n\r\n", 4);

	return at == NULL ? 0 : (size_t)(at - in) + 4;
}

static bool is_clean(const char *at, const char *end)
{
	for (; at < end; at++)
		if ((unsigned char)*at < 0x21 || (unsigned char)*at > 0x7e)
			return false;
	return true;
}

static int take_target(struct plx_http *r, const char *at, const char *end)
{
	const char *mark = memchr(at, '?', (size_t)(end - at));
	const char *path_end = mark != NULL ? mark : end;

	if (at == end || *at != '/' || !is_clean(at, end))
		return -400;
	if ((size_t)(path_end - at) >= sizeof(r->path) ||
	    (mark != NULL && (size_t)(end - mark) > sizeof(r->query)))
		return -414;
	memcpy(r->path, at, (size_t)(path_end - at));
	if (mark != NULL)
		memcpy(r->query, mark + 1, (size_t)(end - mark - 1));
	return 0;
}

static int take_line(struct plx_http *r, const char *at, const char *end)
{
	const char *sp = memchr(at, ' ', (size_t)(end - at));

	if (sp == NULL || !is_clean(at, sp) || sp == at)
		return -400;
	r->head = sp - at == 4 && memcmp(at, "HEAD", 4) == 0;
	if (!r->head && !(sp - at == 3 && memcmp(at, "GET", 3) == 0))
		return -405;
	const char *version = memchr(sp + 1, ' ', (size_t)(end - sp - 1));

	if (version == NULL || end - version != 9)
		return -400;
	if (memcmp(version + 1, "HTTP/1.1", 8) != 0 && memcmp(version + 1, "HTTP/1.0", 8) != 0)
		return memcmp(version + 1, "HTTP/", 5) == 0 ? -505 : -400;
	return take_target(r, sp + 1, version);
}

static bool is_named(const char *at, size_t n, const char *name)
{
	return n == strlen(name) && strncasecmp(at, name, n) == 0;
}

static int take_token(struct plx_http *r, const char *at, size_t n)
{
	if (n < 8 || strncasecmp(at, "Bearer ", 7) != 0)
		return 0; /* another scheme: no token of ours */
	if (n - 7 >= sizeof(r->token) || !is_clean(at + 7, at + n) || r->token[0] != '\0')
		return -400;
	memcpy(r->token, at + 7, n - 7);
	return 0;
}

static int take_header(struct plx_http *r, const char *at, const char *end)
{
	const char *colon = memchr(at, ':', (size_t)(end - at));

	if (colon == NULL || colon == at || !is_clean(at, colon))
		return -400;
	const char *v = colon + 1;

	while (v < end && (*v == ' ' || *v == '\t'))
		v++;
	while (end > v && (end[-1] == ' ' || end[-1] == '\t'))
		end--;
	size_t n = (size_t)(end - v), n_name = (size_t)(colon - at);

	for (const char *c = v; c < end; c++)
		if ((unsigned char)*c < 0x20 && *c != '\t')
			return -400;
	if (is_named(at, n_name, "transfer-encoding"))
		return -411;
	if (is_named(at, n_name, "content-length"))
		return n == 1 && *v == '0' ? 0 : -411;
	if (is_named(at, n_name, "accept"))
		r->open_metrics |= memmem(v, n, "application/openmetrics-text", 28) != NULL;
	if (is_named(at, n_name, "authorization"))
		return take_token(r, v, n);
	return 0;
}

int plx_http_parse(struct plx_http *r, const char *in, size_t n_bytes)
{
	size_t n = head_bytes(in, n_bytes < PLX_HTTP_BYTES ? n_bytes : PLX_HTTP_BYTES);

	memset(r, 0, sizeof(*r));
	if (n == 0)
		return n_bytes >= PLX_HTTP_BYTES ? -431 : 0;
	const char *end = in + n - 2;
	const char *stop = line_end(in, in + n);
	int status = stop == NULL ? -400 : take_line(r, in, stop);

	while (status == 0 && stop + 2 < end) {
		const char *at = stop + 2;

		stop = line_end(at, in + n);
		status = stop == NULL ? -400 : take_header(r, at, stop);
	}
	return status != 0 ? status : (int)n;
}

static bool is_plain(const char *at, size_t n)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				    "0123456789-_.~";

	for (size_t i = 0; i < n; i++)
		if (memchr(plain, at[i], sizeof(plain) - 1) == NULL)
			return false;
	return true;
}

bool plx_http_query(const struct plx_http *r, const char *key, char *value, size_t room)
{
	size_t n_key = strlen(key);

	for (const char *at = r->query; *at != '\0';) {
		size_t n = strcspn(at, "&");

		if (n > n_key && strncmp(at, key, n_key) == 0 && at[n_key] == '=') {
			size_t n_value = n - n_key - 1;

			if (n_value >= room || !is_plain(at + n_key + 1, n_value))
				return false;
			memcpy(value, at + n_key + 1, n_value);
			value[n_value] = '\0';
			return true;
		}
		at += n + (at[n] == '&');
	}
	return false;
}

const char *plx_http_reason(int status)
{
	static const struct {
		int status;
		const char *text;
	} row[] = {{200, "OK"},
	           {400, "Bad Request"},
	           {401, "Unauthorized"},
	           {404, "Not Found"},
	           {405, "Method Not Allowed"},
	           {411, "Length Required"},
	           {414, "URI Too Long"},
	           {431, "Request Header Fields Too Large"},
	           {503, "Service Unavailable"},
	           {505, "HTTP Version Not Supported"}};

	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++)
		if (row[i].status == status)
			return row[i].text;
	return "Error";
}

bool plx_http_same(const char *a, const char *b)
{
	size_t n_a = strlen(a), n_b = strlen(b);
	uint8_t differ = n_a != n_b;

	for (size_t i = 0; i < n_a; i++)
		differ |= (uint8_t)(a[i] ^ b[n_b > 0 ? i % n_b : 0]);
	return differ == 0;
}
