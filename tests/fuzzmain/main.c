/*
 * Runs a fuzz target on the files it is given, without libFuzzer: so that `make test` can feed the
 * committed seeds to a build that any compiler's sanitizers watch.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv) __attribute__((weak));
int main(int argc, char **argv);

/* Feeds one file, whole, in a block of exactly its size, so that a read past the end is caught. */
static int feed(const char *path)
{
	FILE *f = fopen(path, "rb");
	long n;
	uint8_t *data;

	if (f == NULL || fseek(f, 0, SEEK_END) != 0 || (n = ftell(f)) < 0) {
		fprintf(stderr, "%s: can't be read\n", path);
		if (f != NULL)
			fclose(f);
		return 1;
	}
	rewind(f);
	data = malloc(n > 0 ? (size_t)n : 1);
	if (data == NULL || fread(data, 1, (size_t)n, f) != (size_t)n) {
		fprintf(stderr, "%s: can't be read\n", path);
		free(data);
		fclose(f);
		return 1;
	}
	fclose(f);
	(void)LLVMFuzzerTestOneInput(data, (size_t)n);
	free(data);
	return 0;
}

int main(int argc, char **argv)
{
	if (LLVMFuzzerInitialize != NULL)
		LLVMFuzzerInitialize(&argc, &argv);
	(void)LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
	for (int i = 1; i < argc; i++)
		if (feed(argv[i]) != 0)
			return 1;
	printf("stat::number_of_executed_units: %d\n", argc);
	return 0;
}
