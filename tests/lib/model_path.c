/* Where tests find the real model. */
#include "tests/lib/model_path.h"

#include <stdlib.h>
#include <unistd.h>

const char *plx_test_model(void)
{
	const char *env = getenv("PLX_TEST_MODEL");

	if (env != NULL && access(env, R_OK) == 0)
		return env;
	return access("models/SmolLM2-135M-Instruct.Q4_1.gguf", R_OK) == 0
	           ? "models/SmolLM2-135M-Instruct.Q4_1.gguf"
	           : NULL;
}
