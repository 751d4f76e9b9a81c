/*
 * Fuzz target: any bytes as a safetensors file. What opens is walked over in full: every tensor's
 * first and last byte, and its name found again.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "tools/model/st.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint8_t sink;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct plx_diag d = {0};
	struct plx_st *s;

	if (plx_st_open_mem(data, size, &s, &d) != 0) {
		if (d.text[0] == '\0')
			abort(); /* every refusal says why */
		return 0;
	}
	for (uint32_t i = 0; i < plx_st_n(s); i++) {
		const struct plx_st_tensor *t = plx_st_at(s, i);

		if (plx_st_find(s, t->name) != t)
			abort();
		if (t->bytes > 0)
			sink = (uint8_t)(t->data[0] + t->data[t->bytes - 1]);
	}
	plx_st_close(s);
	return 0;
}
