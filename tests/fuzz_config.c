/* Board files from anybody: parsing must end in a configuration or a message. */
#include <stddef.h>
#include <stdint.h>

#include "fw/base/check.h"
#include "fw/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct plx_config c;
	struct plx_diag d = {0};
	int err = plx_config_parse(&c, "fuzz.yml", data, size, NULL, &d);

	PLX_CHECK(err == 0 || d.text[0] != '\0');
	return 0;
}
