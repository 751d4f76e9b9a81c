/* Reads the line format of tests/golden/tokenizer. */
#include "tests/lib/tok_golden.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Grows an array by one element, doubling. NULL when memory ran out. */
static void *grow(void *array, uint32_t n, size_t elem)
{
	if (n != 0 && (n & (n - 1)) != 0)
		return array;
	return realloc(array, elem * (n == 0 ? 1 : 2 * (size_t)n));
}

/* Bytes of a hex word; *len out. */
static char *unhex(const char *word, uint32_t *len)
{
	size_t n = strcmp(word, "-") == 0 ? 0 : strlen(word) / 2;
	char *out = malloc(n + 1);

	for (size_t i = 0; out != NULL && i < n; i++) {
		char two[3] = {word[2 * i], word[2 * i + 1], 0};

		out[i] = (char)strtoul(two, NULL, 16);
	}
	if (out != NULL)
		out[n] = '\0';
	*len = (uint32_t)n;
	return out;
}

static int read_token(struct tok_golden *g, char **save)
{
	uint32_t n = g->src.n_tokens;
	uint32_t len;

	g->tokens = grow(g->tokens, n, sizeof(*g->tokens));
	g->scores = grow(g->scores, n, sizeof(*g->scores));
	g->types = grow(g->types, n, sizeof(*g->types));
	if (g->tokens == NULL || g->scores == NULL || g->types == NULL)
		return -1;
	g->types[n] = atoi(strtok_r(NULL, " ", save));
	g->scores[n] = strtof(strtok_r(NULL, " ", save), NULL);
	g->tokens[n].s = unhex(strtok_r(NULL, " ", save), &len);
	g->tokens[n].len = len;
	g->src.n_tokens++;
	return 0;
}

static int read_merge(struct tok_golden *g, char **save)
{
	uint32_t n = g->src.n_merges;
	uint32_t len;

	g->merges = grow(g->merges, n, sizeof(*g->merges));
	if (g->merges == NULL)
		return -1;
	g->merges[n].s = unhex(strtok_r(NULL, " ", save), &len);
	g->merges[n].len = len;
	g->src.n_merges++;
	return 0;
}

static int read_case(struct tok_golden *g, char **save)
{
	g->cases = grow(g->cases, g->n_cases, sizeof(*g->cases));
	if (g->cases == NULL)
		return -1;
	struct tok_case *c = &g->cases[g->n_cases++];
	char *word;

	*c = (struct tok_case){.flags = (uint32_t)atoi(strtok_r(NULL, " ", save))};
	c->text = (uint8_t *)unhex(strtok_r(NULL, " ", save), &c->len);
	while ((word = strtok_r(NULL, " ", save)) != NULL) {
		c->ids = grow(c->ids, c->n_ids, sizeof(*c->ids));
		if (c->ids == NULL)
			return -1;
		c->ids[c->n_ids++] = atoi(word);
	}
	return 0;
}

static int read_line(struct tok_golden *g, char *line)
{
	char *save = NULL;
	const char *key = strtok_r(line, " \n", &save);

	if (key == NULL)
		return 0;
	if (strcmp(key, "t") == 0)
		return read_token(g, &save);
	if (strcmp(key, "m") == 0)
		return read_merge(g, &save);
	if (strcmp(key, "c") == 0)
		return read_case(g, &save);
	const char *value = strtok_r(NULL, " \n", &save);

	if (strcmp(key, "model") == 0)
		g->src.model = strncpy(g->model, value, sizeof(g->model) - 1);
	else if (strcmp(key, "pre") == 0)
		g->src.pre = strncpy(g->pre, value, sizeof(g->pre) - 1);
	else if (strcmp(key, "bos") == 0)
		g->src.bos = atoi(value);
	else if (strcmp(key, "eos") == 0)
		g->src.eos = atoi(value);
	else if (strcmp(key, "unk") == 0)
		g->src.unk = atoi(value);
	else if (strcmp(key, "add_space_prefix") == 0)
		g->src.add_space_prefix = (int8_t)atoi(value);
	else
		return -1;
	return 0;
}

int tok_golden_read(struct tok_golden *g, const char *path)
{
	char *line = NULL;
	size_t cap = 0;
	int err = 0;

	memset(g, 0, sizeof(*g));
	g->src.bos = g->src.eos = g->src.eot = g->src.unk = g->src.pad = PLX_TOK_NONE;
	g->src.add_bos = g->src.add_eos = g->src.add_space_prefix = -1;
	FILE *f = fopen(path, "r");

	if (f == NULL) {
		fprintf(stderr, "%s: can't be read\n", path);
		return -1;
	}
	while (err == 0 && getline(&line, &cap, f) > 0) {
		line[strcspn(line, "\n")] = '\0';
		err = read_line(g, line);
		if (err)
			fprintf(stderr, "%s: not understood: %.60s\n", path, line);
	}
	free(line);
	fclose(f);
	g->src.tokens = g->tokens;
	g->src.merges = g->merges;
	g->src.scores = g->scores;
	g->src.types = g->types;
	return err;
}

void tok_golden_free(struct tok_golden *g)
{
	for (uint32_t i = 0; i < g->src.n_tokens; i++)
		free((void *)(uintptr_t)g->tokens[i].s);
	for (uint32_t i = 0; i < g->src.n_merges; i++)
		free((void *)(uintptr_t)g->merges[i].s);
	for (uint32_t i = 0; i < g->n_cases; i++) {
		free(g->cases[i].text);
		free(g->cases[i].ids);
	}
	free(g->tokens);
	free(g->merges);
	free(g->scores);
	free(g->types);
	free(g->cases);
	memset(g, 0, sizeof(*g));
}
