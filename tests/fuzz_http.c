/* Any bytes as an HTTP request: a request that is what it says, a status, or "not whole yet". */
#include <stdint.h>
#include <string.h>

#include "fw/base/check.h"
#include "tools/scope/http.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct plx_http r, again;
	char value[16];
	int n = plx_http_parse(&r, (const char *)data, bytes);

	if (n <= 0) {
		PLX_CHECK(n == 0 || strcmp(plx_http_reason(-n), "Error") != 0);
		return 0;
	}
	PLX_CHECK((size_t)n <= bytes && n <= PLX_HTTP_BYTES && r.path[0] == '/');
	PLX_CHECK(strlen(r.path) < sizeof(r.path) && strlen(r.query) < sizeof(r.query));
	/* What follows a request changes nothing. */
	PLX_CHECK(plx_http_parse(&again, (const char *)data, (size_t)n) == n);
	PLX_CHECK(strcmp(again.path, r.path) == 0 && strcmp(again.token, r.token) == 0);
	if (plx_http_query(&r, "token", value, sizeof(value)))
		PLX_CHECK(strpbrk(value, "&%+ ") == NULL);
	return 0;
}
