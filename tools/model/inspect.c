/*
 * plx-model inspect: what a model is, what a token of it costs, and where it fits.
 *
 * One JSON object is made first; the table for people prints from it, so the two can't disagree.
 */
#include <cyaml/cyaml.h>
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "accel/model/chat.h"
#include "accel/model/model.h"
#include "accel/model/tokenizer.h"
#include "fw/base/err.h"
#include "tools/model/commands.h"
#include "tools/model/facts.h"
#include "tools/model/st.h"

#define MIB 1048576.0

/* ---- tensors by type ------------------------------------------------------------------------- */

/* Adds one tensor to {"Q4_1": {"tensors", "elements", "bytes"}}. */
static void count(json_t *types, const char *type, uint64_t elems, uint64_t bytes)
{
	json_t *t = json_object_get(types, type);

	if (!t) {
		t = json_pack("{s:i,s:i,s:i}", "tensors", 0, "elements", 0, "bytes", 0);
		json_object_set_new(types, type, t);
	}
	json_integer_set(json_object_get(t, "tensors"),
	                 json_integer_value(json_object_get(t, "tensors")) + 1);
	json_integer_set(json_object_get(t, "elements"),
	                 json_integer_value(json_object_get(t, "elements")) + (json_int_t)elems);
	json_integer_set(json_object_get(t, "bytes"),
	                 json_integer_value(json_object_get(t, "bytes")) + (json_int_t)bytes);
}

static json_t *gguf_types(const struct plx_gguf *g)
{
	json_t *types = json_object();

	for (uint32_t i = 0; i < plx_gguf_n_tensor(g); i++) {
		const struct plx_gguf_tensor *t = plx_gguf_tensor_at(g, i);

		count(types, plx_gguf_tensor_type_name(t->type), t->n_elem, t->bytes);
	}
	return types;
}

/* ---- a model that this build runs ------------------------------------------------------------ */

static json_t *sizes(const struct plx_model *m)
{
	json_t *s = json_pack("{s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:b}", "layers", m->n_layer,
	                      "embedding", m->n_embd, "heads", m->n_head, "heads_kv", m->n_head_kv,
	                      "head_dim", m->head_dim, "feed_forward", m->n_ff, "vocabulary",
	                      m->n_vocab, "context", m->n_ctx, "tied_output", m->tied_output);

	if (m->n_expert > 0)
		json_object_set_new(s, "experts",
		                    json_pack("{s:i,s:i,s:i,s:i}", "count", m->n_expert, "used",
		                              m->n_expert_used, "feed_forward", m->n_ff_expert,
		                              "shared_feed_forward", m->n_ff_shared));
	return s;
}

static json_t *costs(const struct plx_model *m)
{
	struct plx_facts f = plx_facts_of(m);
	json_t *kv = json_object();

	for (uint32_t i = 0; i < PLX_FACTS_KV_TYPES; i++)
		json_object_set_new(
		    kv, plx_facts_kv_types[i].name,
		    json_integer((json_int_t)plx_facts_kv_bytes(m, &plx_facts_kv_types[i])));
	return json_pack("{s:I,s:I,s:I,s:o}", "read_bytes", (json_int_t)f.token_bytes,
	                 "multiplications",
	                 (json_int_t)(f.layer_macs + (uint64_t)m->n_vocab * m->n_embd),
	                 "head_bytes", (json_int_t)f.head_bytes, "kv_bytes", kv);
}

static json_t *token(const struct plx_tok *t, int32_t id)
{
	uint32_t n = 0;
	const char *p = (const char *)plx_tok_piece(t, id, &n);

	return p ? json_pack("{s:i,s:s#}", "id", id, "text", p, (size_t)n) : json_null();
}

static json_t *tokenizer(const struct plx_gguf *g)
{
	const struct plx_tok_special *s;
	struct plx_gguf_str model = {0}, pre = {0};
	struct plx_diag why = {0};
	struct plx_tok *t;

	if (plx_tok_open(&t, g, &why))
		return json_pack("{s:s}", "unusable", why.text);
	(void)plx_gguf_get_str(g, "tokenizer.ggml.model", &model, NULL);
	(void)plx_gguf_get_str(g, "tokenizer.ggml.pre", &pre, NULL);
	s = plx_tok_special(t);
	json_t *j = json_pack("{s:s#,s:s#,s:i,s:b,s:b}", "model", model.ptr, (size_t)model.len,
	                      "pre", pre.len ? pre.ptr : "", (size_t)pre.len, "tokens",
	                      plx_tok_n_vocab(t), "add_bos", s->add_bos, "add_eos", s->add_eos);

	json_object_set_new(j, "bos", token(t, s->bos));
	json_object_set_new(j, "eos", token(t, s->eos));
	json_object_set_new(j, "eot", token(t, s->eot));
	plx_tok_free(t);
	return j;
}

static const char *chat_of(const struct plx_gguf *g)
{
	struct plx_chat *c;

	if (!plx_gguf_find(g, "tokenizer.chat_template"))
		return "none";
	if (plx_chat_open(g, NULL, &c, NULL))
		return "not recognised; polluxd needs chat_template in the board file";
	plx_chat_free(c);
	return "recognised";
}

/* ---- where it fits --------------------------------------------------------------------------- */

struct board_device {
	char *name;
	char *kind;
};

struct board {
	struct board_device *devices;
	uint32_t n_devices;
};

/* Only what is asked here; polluxd --check reads the rest. */
static const cyaml_schema_field_t device_fields[] = {
    CYAML_FIELD_STRING_PTR("name", CYAML_FLAG_POINTER, struct board_device, name, 0,
                           CYAML_UNLIMITED),
    CYAML_FIELD_STRING_PTR("kind", CYAML_FLAG_POINTER, struct board_device, kind, 0,
                           CYAML_UNLIMITED),
    CYAML_FIELD_END};
static const cyaml_schema_value_t device_value = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct board_device, device_fields)};
static const cyaml_schema_field_t board_fields[] = {
    CYAML_FIELD_SEQUENCE_COUNT("devices", CYAML_FLAG_POINTER, struct board, devices, n_devices,
                               &device_value, 1, PLX_MTOOL_MAX_DEVICES),
    CYAML_FIELD_END};
static const cyaml_schema_value_t board_value = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct board, board_fields)};

/* MemTotal and MemAvailable; 0 where /proc does not say. */
static void host_memory(uint64_t *total, uint64_t *available)
{
	char line[128];
	unsigned long long kib;
	FILE *f = fopen("/proc/meminfo", "re");

	*total = *available = 0;
	while (f && fgets(line, sizeof line, f)) {
		if (sscanf(line, "MemTotal: %llu", &kib) == 1)
			*total = kib * 1024;
		if (sscanf(line, "MemAvailable: %llu", &kib) == 1)
			*available = kib * 1024;
	}
	if (f)
		fclose(f);
}

/* Bytes of all experts but the shared ones, as the file has them. */
static uint64_t expert_bytes(const struct plx_model *m)
{
	uint64_t sum = 0;

	for (uint32_t il = 0; il < m->n_layer && m->n_expert > 0; il++)
		sum += m->layer[il].exp_gate.bytes + m->layer[il].exp_up.bytes +
		       m->layer[il].exp_down.bytes;
	return sum;
}

/* The CPU device can leave experts on disk: how many MiB it may keep of them where not all fit; 0:
 * less than a token uses, or no experts. */
static uint64_t expert_mem_mib(const struct plx_model *m, uint64_t bytes)
{
	uint64_t all = expert_bytes(m), rest = m->weight_bytes - all;

	if (all == 0 || bytes < rest + all / m->n_layer / m->n_expert * m->n_expert_used)
		return 0;
	return (bytes - rest) / (UINT64_C(1) << 20);
}

/* One place: weights, and as many tokens of KV memory as the rest holds. */
static json_t *place(const char *name, uint64_t bytes, const struct plx_model *m, uint64_t n_ctx)
{
	uint64_t left = bytes > m->weight_bytes ? bytes - m->weight_bytes : 0;
	json_t *tokens = json_object();

	for (uint32_t i = 0; i < PLX_FACTS_KV_TYPES; i++)
		json_object_set_new(
		    tokens, plx_facts_kv_types[i].name,
		    json_integer(
			(json_int_t)(left / plx_facts_kv_bytes(m, &plx_facts_kv_types[i]))));
	bool fits = left / plx_facts_kv_bytes(m, &plx_facts_kv_types[0]) >= n_ctx;

	return json_pack("{s:s,s:I,s:b,s:b,s:o}", "name", name, "bytes", (json_int_t)bytes,
	                 "weights_fit", bytes >= m->weight_bytes, "context_fits", fits, "kv_tokens",
	                 tokens);
}

/* A place of a CPU device's. */
static json_t *cpu_place(const char *name, uint64_t bytes, const struct plx_model *m,
                         uint64_t n_ctx)
{
	json_t *p = place(name, bytes, m, n_ctx);

	if (bytes < m->weight_bytes)
		json_object_set_new(p, "expert_mem_mib",
		                    json_integer((json_int_t)expert_mem_mib(m, bytes)));
	return p;
}

/* A board's device. A CPU device has this machine's memory; of a card's the board says nothing.
 * What
 * --device NAME=SIZE says of either counts. */
static json_t *board_place(const struct board_device *b, const struct plx_mtool_options *o,
                           const struct plx_model *m, uint64_t n_ctx, uint64_t host)
{
	char name[96];

	bool cpu = strcmp(b->kind, "cpu") == 0;

	snprintf(name, sizeof name, "%s (%s)", b->name, b->kind);
	for (uint32_t i = 0; i < o->n_devices; i++)
		if (strcmp(o->device[i].name, b->name) == 0)
			return cpu ? cpu_place(name, o->device[i].bytes, m, n_ctx)
			           : place(name, o->device[i].bytes, m, n_ctx);
	if (cpu)
		return cpu_place(name, host, m, n_ctx);
	return json_pack(
	    "{s:s,s:o}", "name", name, "unknown",
	    json_sprintf("its memory is not known here; give --device %s=SIZE", b->name));
}

static int add_board(json_t *list, const char *path, const struct plx_mtool_options *o,
                     const struct plx_model *m, uint64_t n_ctx, uint64_t host, struct plx_diag *d)
{
	cyaml_config_t cy = {.mem_fn = cyaml_mem,
	                     .log_level = CYAML_LOG_ERROR,
	                     .flags = CYAML_CFG_IGNORE_UNKNOWN_KEYS | CYAML_CFG_NO_ALIAS};
	struct board *b = NULL;
	cyaml_err_t err = cyaml_load_file(path, &cy, &board_value, (cyaml_data_t **)&b, NULL);

	if (err != CYAML_OK)
		return plx_diag_set(d, PLX_E_FORMAT,
		                    "%s: %s; `polluxd --board %s --check` says more", path,
		                    cyaml_strerror(err), path);
	for (uint32_t i = 0; i < b->n_devices; i++)
		json_array_append_new(list, board_place(&b->devices[i], o, m, n_ctx, host));
	cyaml_free(&cy, &board_value, b, 0);
	return 0;
}

static int fits(const struct plx_mtool_options *o, const struct plx_model *m, json_t *out,
                struct plx_diag *d)
{
	uint64_t n_ctx = o->n_ctx ? o->n_ctx : m->n_ctx, total, available;
	json_t *list = json_array();
	int err = 0;

	host_memory(&total, &available);
	json_array_append_new(list, cpu_place("this machine, free now", available, m, n_ctx));
	json_array_append_new(list, cpu_place("this machine, all", total, m, n_ctx));
	if (o->board)
		err = add_board(list, o->board, o, m, n_ctx, total, d);
	for (uint32_t i = 0; i < o->n_devices; i++)
		json_array_append_new(list, place(o->device[i].name, o->device[i].bytes, m, n_ctx));
	json_object_set_new(out, "asked_context", json_integer((json_int_t)n_ctx));
	json_object_set_new(out, "fits", list);
	return err;
}

/* ---- printing -------------------------------------------------------------------------------- */

static long long whole(const json_t *o, const char *key)
{
	return json_integer_value(json_object_get(o, key));
}

static const char *text(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

static void print_token(const json_t *tok, const char *key)
{
	const json_t *t = json_object_get(tok, key);

	if (json_is_object(t))
		printf(", %s %lld %s", key, whole(t, "id"), text(t, "text"));
}

static void print_experts(const json_t *e)
{
	printf("              a token uses %lld of %lld experts of %lld", whole(e, "used"),
	       whole(e, "count"), whole(e, "feed_forward"));
	if (whole(e, "shared_feed_forward") > 0)
		printf(" and a shared one of %lld", whole(e, "shared_feed_forward"));
	putchar('\n');
}

static void print_model(const json_t *r)
{
	const json_t *s = json_object_get(r, "sizes"), *c = json_object_get(r, "token");
	const json_t *tok = json_object_get(r, "tokenizer"), *v;
	const char *key;

	printf(
	    "sizes         %lld layers, embedding %lld, %lld heads on %lld of %lld, feed-forward "
	    "%lld\n",
	    whole(s, "layers"), whole(s, "embedding"), whole(s, "heads"), whole(s, "heads_kv"),
	    whole(s, "head_dim"), whole(s, "feed_forward"));
	if (json_object_get(s, "experts"))
		print_experts(json_object_get(s, "experts"));
	printf("              vocabulary %lld%s, context %lld\n", whole(s, "vocabulary"),
	       json_is_true(json_object_get(s, "tied_output")) ? " (output is the embedding)" : "",
	       whole(s, "context"));
	printf("a token       reads %.1f MiB of weights, %.3f G multiplications\n",
	       (double)whole(c, "read_bytes") / MIB, (double)whole(c, "multiplications") / 1e9);
	json_object_foreach(json_object_get(c, "kv_bytes"), key, v)
	    printf("              %s KV: %lld bytes a token, %.1f MiB for %lld tokens\n", key,
	           json_integer_value(v),
	           (double)json_integer_value(v) * (double)whole(r, "asked_context") / MIB,
	           whole(r, "asked_context"));
	if (*text(tok, "unusable")) {
		printf("tokenizer     unusable: %s\n", text(tok, "unusable"));
		return;
	}
	printf("tokenizer     %s %s, %lld tokens", text(tok, "model"), text(tok, "pre"),
	       whole(tok, "tokens"));
	print_token(tok, "bos");
	print_token(tok, "eos");
	print_token(tok, "eot");
	printf("\n              %s bos, chat template %s\n",
	       json_is_true(json_object_get(tok, "add_bos")) ? "begins with" : "no",
	       text(r, "chat"));
}

static void print_fits(const json_t *r)
{
	const json_t *p, *v;
	const char *key;
	size_t i;

	json_array_foreach(json_object_get(r, "fits"), i, p)
	{
		printf("%-13s %s: ", i ? "" : "fits", text(p, "name"));
		if (*text(p, "unknown")) {
			printf("%s\n", text(p, "unknown"));
			continue;
		}
		printf("%.1f GiB, ", (double)whole(p, "bytes") / MIB / 1024);
		if (whole(p, "expert_mem_mib") > 0) {
			printf("only with experts on disk: limits.expert_mem_mib below %lld\n",
			       whole(p, "expert_mem_mib"));
			continue;
		}
		if (!json_is_true(json_object_get(p, "weights_fit"))) {
			printf("NO: too small for the weights\n");
			continue;
		}
		printf("%s", json_is_true(json_object_get(p, "context_fits"))
		                 ? "yes"
		                 : "only with a shorter context");
		json_object_foreach(json_object_get(p, "kv_tokens"), key, v)
		    printf("; beside it %lld tokens of %s KV", json_integer_value(v), key);
		putchar('\n');
	}
}

static void print_all(const json_t *r)
{
	const json_t *t;
	const char *type;
	bool first = true;

	printf("%s\n", text(r, "file"));
	printf("format        %s\n", text(r, "format"));
	printf("architecture  %s%s%s\n", text(r, "architecture"), *text(r, "name") ? ", " : "",
	       text(r, "name"));
	printf("size          %.1f M parameters, %.1f MiB of weights\n",
	       (double)whole(r, "parameters") / 1e6, (double)whole(r, "weight_bytes") / MIB);
	json_object_foreach(json_object_get(r, "types"), type, t)
	{
		printf("%-13s %-6s %5lld tensors %9.1f MiB\n", first ? "tensors" : "", type,
		       whole(t, "tensors"), (double)whole(t, "bytes") / MIB);
		first = false;
	}
	if (json_object_get(r, "sizes"))
		print_model(r);
	print_fits(r);
	if (*text(r, "why_not"))
		printf("runs          no: %s\n", text(r, "why_not"));
	else if (json_is_true(json_object_get(r, "runs")))
		printf("runs          yes\n");
}

/* ---- kinds of files -------------------------------------------------------------------------- */

static int inspect_model(const struct plx_mtool_options *o, json_t *r, struct plx_diag *d)
{
	struct plx_diag why = {0};
	struct plx_model *m;
	int err = plx_model_open(o->in, &m, &why);

	json_object_set_new(r, "runs", json_boolean(err == 0));
	if (err) {
		json_object_set_new(r, "why_not", json_string(why.text));
		return 0;
	}
	json_object_set_new(r, "name", json_string(m->name));
	json_object_set_new(r, "sizes", sizes(m));
	json_object_set_new(r, "token", costs(m));
	json_object_set_new(r, "tokenizer", tokenizer(m->gguf));
	json_object_set_new(r, "chat", json_string(chat_of(m->gguf)));
	err = fits(o, m, r, d);
	plx_model_close(m);
	return err;
}

static int inspect_gguf(const struct plx_mtool_options *o, json_t *r, struct plx_diag *d)
{
	struct plx_gguf_str arch = {.ptr = "", .len = 0};
	uint64_t params = 0, bytes = 0;
	struct plx_gguf *g;
	char shown[64];
	int err = plx_gguf_open(o->in, &g, d);

	if (err)
		return err;
	(void)plx_gguf_get_str(g, "general.architecture", &arch, NULL);
	for (uint32_t i = 0; i < plx_gguf_n_tensor(g); i++) {
		params += plx_gguf_tensor_at(g, i)->n_elem;
		bytes += plx_gguf_tensor_at(g, i)->bytes;
	}
	json_object_set_new(r, "format", json_sprintf("GGUF version %u", plx_gguf_version(g)));
	json_object_set_new(r, "architecture",
	                    json_string(plx_gguf_printable(arch, shown, sizeof shown)));
	json_object_set_new(r, "parameters", json_integer((json_int_t)params));
	json_object_set_new(r, "weight_bytes", json_integer((json_int_t)bytes));
	json_object_set_new(r, "types", gguf_types(g));
	plx_gguf_close(g);
	return inspect_model(o, r, d);
}

/* model_type of the config.json beside the tensors, where there is one. */
static char *config_type(const char *path, bool folder)
{
	char file[PATH_MAX];
	const char *slash = strrchr(path, '/');
	int n = folder ? (int)strlen(path) : slash ? (int)(slash - path) : -1;

	snprintf(file, sizeof file, "%.*s%sconfig.json", n < 0 ? 0 : n, path, n < 0 ? "" : "/");
	json_t *c = json_load_file(file, 0, NULL);
	const char *type = json_string_value(json_object_get(c, "model_type"));
	char *copy = strdup(type ? type : "not said (no config.json)");

	json_decref(c);
	return copy;
}

static int inspect_safetensors(const struct plx_mtool_options *o, bool folder, json_t *r,
                               struct plx_diag *d)
{
	uint64_t params = 0, bytes = 0;
	struct plx_st_set set;
	json_t *types = json_object();
	char *type = config_type(o->in, folder);
	int err = plx_st_set_open(o->in, &set, d);

	for (uint32_t f = 0; !err && f < set.n_files; f++)
		for (uint32_t i = 0; i < plx_st_n(set.file[f]); i++) {
			const struct plx_st_tensor *t = plx_st_at(set.file[f], i);

			count(types, t->dtype_name, t->n_elem, t->bytes);
			params += t->n_elem;
			bytes += t->bytes;
		}
	json_object_set_new(r, "types", types);
	if (!err) {
		json_object_set_new(r, "format",
		                    json_sprintf("safetensors in %u file%s", set.n_files,
		                                 set.n_files == 1 ? "" : "s"));
		json_object_set_new(r, "architecture", json_string(type ? type : ""));
		json_object_set_new(r, "parameters", json_integer((json_int_t)params));
		json_object_set_new(r, "weight_bytes", json_integer((json_int_t)bytes));
		json_object_set_new(r, "runs", json_false());
		json_object_set_new(r, "why_not",
		                    json_string("convert it to GGUF: plx-model convert"));
		plx_st_set_close(&set);
	}
	free(type);
	return err;
}

static bool ends(const char *s, const char *tail)
{
	size_t n = strlen(s), k = strlen(tail);

	return n >= k && strcasecmp(s + n - k, tail) == 0;
}

int plx_mtool_inspect(const struct plx_mtool_options *o, struct plx_diag *d)
{
	json_t *r = json_pack("{s:s}", "file", o->in);
	struct stat st;
	bool folder = stat(o->in, &st) == 0 && S_ISDIR(st.st_mode);
	int err;

	if (!r)
		return plx_diag_set(d, PLX_E_FORMAT, "the file's name is no UTF-8");
	if (folder || ends(o->in, ".safetensors") || ends(o->in, ".json"))
		err = inspect_safetensors(o, folder, r, d);
	else
		err = inspect_gguf(o, r, d);
	if (!err && o->json) {
		json_dumpf(r, stdout, JSON_INDENT(1) | JSON_PRESERVE_ORDER);
		putchar('\n');
	} else if (!err) {
		print_all(r);
	}
	json_decref(r);
	return err;
}
