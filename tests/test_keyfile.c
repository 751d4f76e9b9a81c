/* plx-key's files: what it writes is what the appliance and the client library read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "dataplane/keytab.h"
#include "tools/client/client.h"
#include "tools/key/keyfile.h"

static char folder[] = "/tmp/plx-keyfile-XXXXXX";
static char path[64];

static int make_folder(void **state)
{
	(void)state;
	if (!mkdtemp(folder))
		return -1;
	snprintf(path, sizeof(path), "%s/keys", folder);
	return 0;
}

static int remove_folder(void **state)
{
	(void)state;
	unlink(path);
	return rmdir(folder);
}

static void write_file(const char *text, mode_t mode)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	assert_int_equal(chmod(path, mode), 0);
}

static struct plx_keyfile_entry entry(uint64_t id)
{
	struct plx_keyfile_entry e;

	plx_keyfile_entry_init(&e);
	e.id = id;
	memset(e.key, 0xab, sizeof(e.key));
	return e;
}

static void test_keyfile_line_is_what_the_appliance_reads(void **state)
{
	struct plx_keyfile_entry e = entry(0x1f);
	char line[PLX_KEYFILE_LINE_BYTES];
	struct plx_keytab *t;
	struct plx_diag d = {0}, why = {0};

	(void)state;
	assert_int_equal(plx_keyfile_set(&e, "tenant", "acme", &d), 0);
	assert_int_equal(plx_keyfile_set(&e, "sessions", "4", &d), 0);
	assert_int_equal(plx_keyfile_set(&e, "kv_percent", "50", &d), 0);
	assert_int_equal(plx_keyfile_set(&e, "priority", "7", &d), 0);
	assert_int_equal(plx_keyfile_set(&e, "share_prefix", "perhaps", &why), PLX_E_INVAL);
	assert_string_equal(why.text, "share_prefix \"perhaps\" is not yes or no");
	assert_int_equal(plx_keyfile_set(&e, "share_prefix", "yes", &d), 0);
	size_t n = plx_keyfile_format(&e, line);

	assert_string_equal(line, "id=1f key="
	                          "abababababababababababababababab"
	                          "abababababababababababababababab"
	                          " tenant=acme sessions=4 kv_percent=50 priority=7 "
	                          "share_prefix=yes\n");
	assert_int_equal(plx_keytab_parse(&t, line, n, "keys", &d), 0);
	assert_int_equal(t->n, 1);
	assert_int_equal(t->key[0].psk.key_id, 0x1f);
	assert_memory_equal(t->key[0].psk.psk, e.key, 32);
	assert_string_equal(t->key[0].tenant, "acme");
	assert_int_equal(t->key[0].max_sessions, 4);
	assert_int_equal(t->key[0].kv_percent, 50);
	assert_int_equal(t->key[0].max_priority, 7);
	assert_true(t->key[0].share_prefix);
	plx_keytab_free(t);
}

static void test_keyfile_client_line_is_what_the_library_reads(void **state)
{
	struct plx_keyfile_entry e = entry(0xdeadbeef);
	char line[PLX_KEYFILE_LINE_BYTES];
	struct plx_client_config cfg;
	struct plx_diag d = {0};

	(void)state;
	plx_client_config_init(&cfg);
	plx_keyfile_format_client(&e, line);
	unlink(path);
	assert_int_equal(plx_keyfile_create(path, line, &d), 0);
	assert_int_equal(plx_keyfile_create(path, line, NULL), PLX_E_EXISTS);
	assert_int_equal(plx_client_key_read(&cfg, path, &d), 0);
	assert_int_equal(cfg.key_id, 0xdeadbeef);
	assert_memory_equal(cfg.key, e.key, 32);
	chmod(path, 0640);
	assert_int_equal(plx_client_key_read(&cfg, path, &d), PLX_E_AUTH);
	assert_non_null(strstr(d.text, "chmod 600"));
}

static void client_refuses(const char *text, const char *why)
{
	struct plx_client_config cfg;
	struct plx_diag d = {0};

	plx_client_config_init(&cfg);
	write_file(text, 0600);
	assert_int_equal(plx_client_key_read(&cfg, path, &d), PLX_E_FORMAT);
	if (!strstr(d.text, why))
		fail_msg("\"%s\" does not say \"%s\"", d.text, why);
}

#define HEX64 "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static void test_keyfile_client_reader_is_strict(void **state)
{
	(void)state;
	client_refuses("", "no key");
	client_refuses("# only a comment\n", "no key");
	client_refuses("id=1\n", ":1: id or key is missing");
	client_refuses("id=0 key=" HEX64 "\n", ":1: id is not");
	client_refuses("id=1x key=" HEX64 "\n", ":1: id is not");
	client_refuses("\nid=1 key=" HEX64 "0\n", ":2: key is not");
	client_refuses("id=1 key=zz112233445566778899aabbccddeeff" HEX64 "\n", "key is not");
	client_refuses("id=1 key=" HEX64 " tenant=x\n", "neither id nor key");
	client_refuses("id=1 key=" HEX64 "\nid=2 key=" HEX64 "\n", ":2: a second key");
}

static void test_keyfile_append_and_remove_keep_the_rest(void **state)
{
	static const char before[] = "# ours\nid=1 key=" HEX64 "\n\nid=2 key=" HEX64 " # two";
	struct plx_keyfile f;
	struct plx_diag d = {0};
	struct stat st;

	(void)state;
	write_file(before, 0600);
	assert_int_equal(plx_keyfile_load(&f, path, false, &d), 0);
	assert_int_equal(f.n_entries, 2);
	assert_int_equal(plx_keyfile_find(&f, 2)->line, 4);
	assert_int_equal(plx_keyfile_append(&f, path, "id=3 key=" HEX64 "\n", &d), 0);
	plx_keyfile_free(&f);
	assert_int_equal(plx_keyfile_load(&f, path, false, &d), 0);
	assert_int_equal(f.n_entries, 3);
	assert_int_equal(plx_keyfile_remove(&f, path, 2, &d), 0);
	plx_keyfile_free(&f);
	assert_int_equal(plx_keyfile_load(&f, path, false, &d), 0);
	assert_string_equal(f.text, "# ours\n\nid=2 key=" HEX64 " # two\nid=3 key=" HEX64 "\n");
	plx_keyfile_free(&f);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
}

static void test_keyfile_loader_names_file_and_line(void **state)
{
	struct plx_keyfile f;
	struct plx_diag d = {0}, e = {0}, g = {0};

	(void)state;
	write_file("id=1 key=" HEX64 "\nid=1 key=" HEX64 "\n", 0600);
	assert_int_equal(plx_keyfile_load(&f, path, false, &d), PLX_E_EXISTS);
	assert_non_null(strstr(d.text, "keys:2: this id is there already"));
	write_file("id=1 key=" HEX64 " priority=16\n", 0600);
	assert_int_equal(plx_keyfile_load(&f, path, false, &e), PLX_E_FORMAT);
	assert_non_null(strstr(e.text, "keys:1: priority \"16\" is not a number of 0 to 15"));
	write_file("id=1 key=" HEX64 " tenant=a tenant=b\n", 0600);
	assert_int_equal(plx_keyfile_load(&f, path, false, &g), PLX_E_FORMAT);
	assert_non_null(strstr(g.text, "twice"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_keyfile_line_is_what_the_appliance_reads),
	    cmocka_unit_test(test_keyfile_client_line_is_what_the_library_reads),
	    cmocka_unit_test(test_keyfile_client_reader_is_strict),
	    cmocka_unit_test(test_keyfile_append_and_remove_keep_the_rest),
	    cmocka_unit_test(test_keyfile_loader_names_file_and_line),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
