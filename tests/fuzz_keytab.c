/* Any bytes as a key file: a table or a message that names the place, never a crash. */
#include <stdlib.h>

#include <sodium.h>

#include "dataplane/keytab.h"
#include "fw/base/check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static int ready;
	struct plx_keytab *t;
	struct plx_diag d = {0};

	if (!ready)
		ready = sodium_init() + 2;
	int err = plx_keytab_parse(&t, (const char *)data, bytes, "keys", &d);

	if (err != 0) {
		PLX_CHECK(t == NULL && d.text[0] != '\0');
		return 0;
	}
	PLX_CHECK(t->n > 0);
	for (uint32_t i = 0; i < t->n; i++)
		PLX_CHECK(plx_keytab_find(t, t->key[i].psk.key_id) == &t->key[i]);
	plx_keytab_free(t);
	return 0;
}
