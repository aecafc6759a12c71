/* options.c - an input is a command line, a word on each line of it. What is refused is refused in words; what is taken
 * is within bounds, the same the second time, and points into the words. */
#include "options.h"
#include "fuzz.h"

enum { WORDS_MAX = 100 };

#define BACKENDS "io_uring epoll"

static void check_options(const options *o, int argc, char *const *argv)
{
    fuzz_check(o->listen_count <= OPTIONS_LISTEN_MAX, "%u addresses", (unsigned)o->listen_count);
    fuzz_check(o->max_connections <= OPTIONS_CONNECTIONS_MAX, "%u connections", (unsigned)o->max_connections);
    fuzz_check(o->workers <= OPTIONS_WORKERS_MAX, "%u workers", (unsigned)o->workers);
    fuzz_check(o->log_level <= LOG_NONE && o->log_format <= OPTIONS_JSON, "level %u", (unsigned)o->log_level);
    fuzz_check(o->watch <= OPTIONS_WATCH_POLL && o->sandbox <= OPTIONS_SANDBOX_STRICT, "watch %u", (unsigned)o->watch);
    fuzz_check(o->lua_memory > 0 && o->backend != NULL, "a default is lost");
    for (uint32_t i = 0; i < o->listen_count; i++) {
        char text[NET_URI_TEXT_MAX];
        fuzz_check(o->listen_uri[i] != NULL, "an address without its text");
        (void)net_uri_format(&o->listen[i], text, sizeof(text));
    }
    if (o->script == NULL) return;
    int at = 0;
    while (at < argc && argv[at] != o->script) at++;
    fuzz_check(at < argc, "the script is none of the words");
    fuzz_check(o->arg_count == argc - at - 1 && o->args == argv + at + 1, "the script has %d arguments of %d",
               o->arg_count, argc - at - 1);
}

static void parse(int argc, char *const *argv, size_t error_size)
{
    options o, again;
    char *error = malloc(error_size);
    if (error == NULL) abort();
    memset(error, 'x', error_size);
    error[0] = '\0';
    bool good = options_parse(&o, argc, argv, BACKENDS, error, error_size);
    fuzz_check(memchr(error, '\0', error_size) != NULL, "an error without an end");
    fuzz_check(good || error_size == 1 || error[0] != '\0', "refused without a word");
    if (good) check_options(&o, argc, argv);
    fuzz_check(options_parse(&again, argc, argv, BACKENDS, error, error_size) == good, "another answer");
    if (good) {
        fuzz_check(o.given == again.given && o.listen_count == again.listen_count && o.drain_ns == again.drain_ns &&
                       o.callback_budget_ns == again.callback_budget_ns && o.script == again.script,
                   "other settings the second time");
    }
    free(error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char program[] = "portico";
    char *argv[WORDS_MAX + 1] = {program};
    int argc = 1;
    for (size_t at = 0; at < size && argc < WORDS_MAX; argc++) {
        const uint8_t *end = memchr(data + at, '\n', size - at);
        size_t len = end == NULL ? size - at : (size_t)(end - data) - at;
        argv[argc] = fuzz_text(data + at, len);
        at += len + 1;
    }
    parse(argc, argv, OPTIONS_ERROR_BYTES);
    parse(argc, argv, 1 + fuzz_hash(data, size) % OPTIONS_ERROR_BYTES);
    for (int i = 1; i < argc; i++) free(argv[i]);
    return 0;
}
