/* Goal: what is written on the command line is what the program gets, and what is not written has the defaults of the
 * documentation. Method: options_parse() on one command line after the other, fields compared. */
#include "check.h"
#include "conn.h"
#include "options.h"
#include "os.h"
#include "server.h"

#define BACKENDS "io_uring epoll"

#define parse(o, ...) parse_words(__LINE__, (o), (const char *const[]){"portico", __VA_ARGS__, NULL})

static void parse_words(int line, options *o, const char *const *words)
{
    char error[OPTIONS_ERROR_BYTES] = "";
    int count = 0;
    while (words[count] != NULL) count++;
    if (!options_parse(o, count, (char *const *)words, BACKENDS, error, sizeof error)) {
        check_fail_at(__FILE__, line, "refused: %s", error);
    }
}

static void nothing_given_is_all_defaults(void)
{
    options o;
    char error[OPTIONS_ERROR_BYTES];
    char *words[] = {"portico"};
    check(options_parse(&o, 1, words, BACKENDS, error, sizeof error));
    check_eq(o.listen_count, 0);
    check(o.address_file == NULL);
    check_str(o.backend, "auto");
    check_eq(o.workers, 0);
    check_eq(o.max_connections, 0);
    check_eq(o.log_level, LOG_INFO);
    check_eq(o.log_format, OPTIONS_TEXT);
    check_eq(o.drain_ns, 10000000000);
    check_eq(o.lua_memory, 64 << 20);
    check_eq(o.shared_memory, 64 << 20);
    check_eq(o.callback_budget_ns, 100000000);
    check_eq(o.load_budget_ns, 5000000000);
    check_eq(o.max_per_address, OPTIONS_AUTO);
    check_eq(o.accept_rate, 10000);
    check_eq(o.idle_ns, 600000000000);
    check_eq(o.first_byte_ns, 10000000000);
    check_eq(o.write_ns, 60000000000);
    check(!o.check && !o.quiet && !o.verbose && !o.version && !o.help);
    check_eq(o.given, 0);
    check(o.script == NULL);
    check_eq(o.arg_count, 0);
}

static void no_words_at_all_is_all_defaults(void)
{
    options o;
    char error[OPTIONS_ERROR_BYTES];
    char *words[] = {NULL};
    check(options_parse(&o, 0, words, BACKENDS, error, sizeof error));
    check(o.script == NULL);
}

static void the_defaults_are_those_of_the_engine(void)
{
    options o;
    parse(&o, "x.lua");
    check_eq(o.idle_ns, conn_limits_default.idle_ns);
    check_eq(o.first_byte_ns, conn_limits_default.first_byte_ns);
    check_eq(o.write_ns, conn_limits_default.write_ns);
    check_eq(OPTIONS_WORKERS_MAX, WORKER_MAX);
    check_eq(OPTIONS_LISTEN_MAX, SERVER_LISTENERS_MAX);
}

static void a_value_follows_or_is_tied_with_an_equals_sign(void)
{
    options o;
    parse(&o, "--workers", "3", "--max-connections=17", "--backend", "epoll", "--address-file=a=b");
    check_eq(o.workers, 3);
    check_eq(o.max_connections, 17);
    check_str(o.backend, "epoll");
    check_str(o.address_file, "a=b");
}

static void listen_may_be_repeated_and_keeps_its_order(void)
{
    options o;
    char name[NET_ADDR_TEXT_MAX];
    parse(&o, "--listen", "tcp://127.0.0.1:1", "--listen=[::1]:0");
    check_eq(o.listen_count, 2);
    check_str(net_addr_format(&o.listen[0].addr, name, sizeof name), "127.0.0.1:1");
    check_str(net_addr_format(&o.listen[1].addr, name, sizeof name), "[::1]:0");
    check_str(o.listen_uri[0], "tcp://127.0.0.1:1");
    check_str(o.listen_uri[1], "[::1]:0");
}

static void of_the_other_options_the_last_counts(void)
{
    options o;
    parse(&o, "--workers", "3", "--workers", "auto", "--log-level=none", "--log-level=debug");
    check_eq(o.workers, 0);
    check_eq(o.log_level, LOG_DEBUG);
}

static void files_are_watched_unless_the_last_word_on_it_says_otherwise(void)
{
    options o;
    parse(&o, "x.lua");
    check_eq(o.watch, OPTIONS_WATCH_ON);
    check(o.control == NULL);
    parse(&o, "--no-watch", "--control", "off", "x.lua");
    check_eq(o.watch, OPTIONS_WATCH_OFF);
    check_str(o.control, "off");
    parse(&o, "--no-watch", "--watch-poll");
    check_eq(o.watch, OPTIONS_WATCH_POLL);
    parse(&o, "--watch-poll", "--no-watch", "--watch");
    check_eq(o.watch, OPTIONS_WATCH_ON);
}

static void words_behind_the_script_are_the_scripts(void)
{
    options o;
    parse(&o, "--check", "chat.lua", "--workers", "x", "--", "-h");
    check(o.check && !o.help);
    check_str(o.script, "chat.lua");
    check_eq(o.arg_count, 4);
    check_str(o.args[0], "--workers");
    check_str(o.args[3], "-h");
    check_eq(o.workers, 0);
}

static void two_dashes_end_the_options(void)
{
    options o;
    parse(&o, "--check", "--", "--help", "--check");
    check(o.check && !o.help);
    check_str(o.script, "--help");
    check_eq(o.arg_count, 1);
    parse(&o, "--");
    check(o.script == NULL);
}

static void one_dash_is_a_script(void)
{
    options o;
    parse(&o, "-", "a");
    check_str(o.script, "-");
    check_eq(o.arg_count, 1);
}

static void an_empty_word_is_a_script(void)
{
    options o;
    parse(&o, "");
    check_str(o.script, "");
}

static void seconds_have_decimals(void)
{
    options o;
    parse(&o, "--drain-timeout", "0.25", "--idle-timeout=1.000000001", "--write-timeout", "0", "--load-budget", ".5");
    check_eq(o.drain_ns, 250000000);
    check_eq(o.idle_ns, 1000000001);
    check_eq(o.write_ns, 0);
    check_eq(o.load_budget_ns, 500000000);
    parse(&o, "--drain-timeout", "7.", "--first-byte-timeout=0.12345678999", "--callback-budget=31536000");
    check_eq(o.drain_ns, 7000000000);
    check_eq(o.first_byte_ns, 123456789);
    check_eq(o.callback_budget_ns, 31536000000000000);
    parse(&o, "--callback-budget", ".0000000001", "--load-budget", "0.0000000000");
    check_eq(o.callback_budget_ns, 1); /* 0 would be without limit */
    check_eq(o.load_budget_ns, 0);
}

static void sizes_have_suffixes(void)
{
    options o;
    parse(&o, "--lua-memory", "1048576");
    check_eq(o.lua_memory, 1 << 20);
    parse(&o, "--lua-memory", "2048K");
    check_eq(o.lua_memory, 2 << 20);
    parse(&o, "--lua-memory", "3m");
    check_eq(o.lua_memory, 3 << 20);
    parse(&o, "--lua-memory", "2G", "--shared-memory", "5M");
    check_eq(o.lua_memory, 2LL << 30);
    check_eq(o.shared_memory, 5 << 20);
}

static void the_ends_of_a_range_are_in_it(void)
{
    options o;
    parse(&o, "--workers", "1", "--max-connections", "100000000", "--lua-memory", "1M");
    check_eq(o.workers, 1);
    check_eq(o.max_connections, OPTIONS_CONNECTIONS_MAX);
    parse(&o, "--workers", "256", "--lua-memory", "1024G", "--max-connections=000");
    check_eq(o.workers, 256);
    check_eq(o.lua_memory, 1LL << 40);
    check_eq(o.max_connections, 0);
}

static void twice_as_many_workers_as_processors_can_be_had(void)
{
    options o;
    uint32_t twice = 2 * (uint32_t)os_cpu_count();
    parse(&o, "--workers", "2x");
    check_eq(o.workers, twice < OPTIONS_WORKERS_MAX ? twice : OPTIONS_WORKERS_MAX);
    parse(&o, "--workers=2x", "--workers", "auto");
    check_eq(o.workers, 0);
}

static void levels_and_formats_are_known_by_name(void)
{
    static const char *const names[] = {"debug", "info", "warn", "error", "none"};
    options o;
    for (unsigned i = 0; i < 5; i++) {
        parse(&o, "--log-level", names[i]);
        check_eq(o.log_level, i);
        log_level level;
        check(log_level_parse(&level, names[i]));
        check_eq(level, i);
    }
    parse(&o, "--log-format", "json");
    check_eq(o.log_format, OPTIONS_JSON);
}

static void short_forms_mean_the_long_ones(void)
{
    options o;
    parse(&o, "-q");
    check_eq(o.log_level, LOG_WARN);
    parse(&o, "-V");
    check(o.version);
    parse(&o, "-h");
    check(o.help);
}

static void a_level_that_is_named_counts_more_than_quiet_and_verbose(void)
{
    options o;
    parse(&o, "--log-level=error", "--quiet", "--verbose");
    check_eq(o.log_level, LOG_ERROR);
    parse(&o, "--verbose");
    check_eq(o.log_level, LOG_DEBUG);
}

static void what_was_named_is_remembered(void)
{
    options o;
    parse(&o, "--idle-timeout=0", "--write-timeout=60");
    check_eq(o.given, OPTIONS_GIVEN_IDLE | OPTIONS_GIVEN_WRITE);
    parse(&o, "--first-byte-timeout=0", "--log-level=info");
    check_eq(o.given, OPTIONS_GIVEN_FIRST_BYTE | OPTIONS_GIVEN_LOG_LEVEL);
}

static void help_ends_the_reading(void)
{
    options o;
    parse(&o, "--help", "--bogus");
    check(o.help);
    check(o.script == NULL);
}

static void version_waits_for_verbose(void)
{
    options o;
    parse(&o, "--version", "--verbose");
    check(o.version && o.verbose);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    check_run(nothing_given_is_all_defaults);
    check_run(no_words_at_all_is_all_defaults);
    check_run(the_defaults_are_those_of_the_engine);
    check_run(a_value_follows_or_is_tied_with_an_equals_sign);
    check_run(listen_may_be_repeated_and_keeps_its_order);
    check_run(of_the_other_options_the_last_counts);
    check_run(files_are_watched_unless_the_last_word_on_it_says_otherwise);
    check_run(words_behind_the_script_are_the_scripts);
    check_run(two_dashes_end_the_options);
    check_run(one_dash_is_a_script);
    check_run(an_empty_word_is_a_script);
    check_run(seconds_have_decimals);
    check_run(sizes_have_suffixes);
    check_run(the_ends_of_a_range_are_in_it);
    check_run(twice_as_many_workers_as_processors_can_be_had);
    check_run(levels_and_formats_are_known_by_name);
    check_run(short_forms_mean_the_long_ones);
    check_run(a_level_that_is_named_counts_more_than_quiet_and_verbose);
    check_run(what_was_named_is_remembered);
    check_run(help_ends_the_reading);
    check_run(version_waits_for_verbose);
    return check_end();
}
