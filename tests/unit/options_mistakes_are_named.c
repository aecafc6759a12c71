/* Goal: a mistake on the command line is answered with the option's name, what it takes, and the word that was
 * probably meant. Method: a table of command lines and the exact answers. */
#include "check.h"
#include "options.h"

#define BACKENDS "io_uring epoll"

typedef struct mistake {
    const char *words[4];
    const char *error;
} mistake;

static void refused(const mistake *mistakes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        options o;
        char error[OPTIONS_ERROR_BYTES] = "";
        char *words[5] = {"portico"};
        int argc = 1;
        for (; argc < 5 && mistakes[i].words[argc - 1] != NULL; argc++)
            words[argc] = (char *)mistakes[i].words[argc - 1];
        check(!options_parse(&o, argc, words, BACKENDS, error, sizeof error));
        check_str(error, mistakes[i].error);
    }
}

static void unknown_options_are_named_with_the_nearest(void)
{
    static const mistake mistakes[] = {
        {{"--bakend", "epoll"}, "unknown option '--bakend': did you mean '--backend'?"},
        {{"--bakend=epoll"}, "unknown option '--bakend': did you mean '--backend'?"},
        {{"--wrokers", "2"}, "unknown option '--wrokers': did you mean '--workers'?"},
        {{"--worker", "2"}, "unknown option '--worker': did you mean '--workers'?"},
        {{"-workers", "2"}, "unknown option '-workers': did you mean '--workers'?"},
        {{"-help"}, "unknown option '-help': did you mean '--help'?"},
        {{"--max", "2"}, "unknown option '--max': did you mean '--max-connections'?"},
        {{"--loglevel=info"}, "unknown option '--loglevel': did you mean '--log-level'?"},
        {{"--lisen", "x"}, "unknown option '--lisen': did you mean '--listen'?"},
        {{"--zzzzzz"}, "unknown option '--zzzzzz': see portico --help"},
        {{"--port", "80"}, "unknown option '--port': see portico --help"},
        {{"-x"}, "unknown option '-x': see portico --help"},
        {{"-qV"}, "unknown option '-qV': see portico --help"},
        {{"--=3"}, "unknown option '--': see portico --help"},
        {{"--a-very-long-option-that-nobody-could-have-meant"},
         "unknown option '--a-very-long-option-that-nobody-could-have-meant': see portico --help"},
        {{"--check", "--bogus", "x.lua"}, "unknown option '--bogus': see portico --help"},
    };
    refused(mistakes, array_count(mistakes));
}

static void numbers_out_of_range_are_answered_with_the_range(void)
{
    static const mistake mistakes[] = {
        {{"--workers", "0"}, "option '--workers': 0 is out of range: it takes auto, 2x or a number from 1 to 256"},
        {{"--workers", "257"}, "option '--workers': 257 is out of range: it takes auto, 2x or a number from 1 to 256"},
        {{"--workers", "-1"}, "option '--workers': -1 is out of range: it takes auto, 2x or a number from 1 to 256"},
        {{"--workers=4294967297"},
         "option '--workers': 4294967297 is out of range: it takes auto, 2x or a number from 1 to 256"},
        {{"--workers=99999999999999999999999"},
         "option '--workers': 99999999999999999999999 is out of range: it takes auto, 2x or a number from 1 to 256"},
        {{"--max-connections", "100000001"},
         "option '--max-connections': 100000001 is out of range: it takes a number from 0 to 100000000"},
        {{"--drain-timeout", "-0.5"},
         "option '--drain-timeout': -0.5 is out of range: it takes seconds from 0 to 31536000"},
        {{"--drain-timeout", "nan"},
         "option '--drain-timeout': nan is out of range: it takes seconds from 0 to 31536000"},
        {{"--drain-timeout", "inf"},
         "option '--drain-timeout': inf is out of range: it takes seconds from 0 to 31536000"},
        {{"--drain-timeout", "31536000.5"},
         "option '--drain-timeout': 31536000.5 is out of range: it takes seconds from 0 to 31536000"},
        {{"--drain-timeout", "18446744073709551616"},
         "option '--drain-timeout': 18446744073709551616 is out of range: it takes seconds from 0 to 31536000"},
        {{"--lua-memory", "1023K"}, "option '--lua-memory': 1023K is out of range: it takes a size from 1M to 1024G"},
        {{"--lua-memory", "64"}, "option '--lua-memory': 64 is out of range: it takes a size from 1M to 1024G"},
        {{"--lua-memory", "1025G"}, "option '--lua-memory': 1025G is out of range: it takes a size from 1M to 1024G"},
        {{"--lua-memory", "18014398509481985K"},
         "option '--lua-memory': 18014398509481985K is out of range: it takes a size from 1M to 1024G"},
    };
    refused(mistakes, array_count(mistakes));
}

static void what_is_no_number_is_answered_with_what_is_taken(void)
{
    static const mistake mistakes[] = {
        {{"--workers", "many"}, "option '--workers' takes auto, 2x or a number from 1 to 256, not 'many'"},
        {{"--workers", "3x"}, "option '--workers' takes auto, 2x or a number from 1 to 256, not '3x'"},
        {{"--workers", "2X"}, "option '--workers' takes auto, 2x or a number from 1 to 256, not '2X'"},
        {{"--max-connections", "2x"}, "option '--max-connections' takes a number from 0 to 100000000, not '2x'"},
        {{"--workers", "1.5"}, "option '--workers' takes auto, 2x or a number from 1 to 256, not '1.5'"},
        {{"--workers", " 2"}, "option '--workers' takes auto, 2x or a number from 1 to 256, not ' 2'"},
        {{"--max-connections", "0x10"}, "option '--max-connections' takes a number from 0 to 100000000, not '0x10'"},
        {{"--idle-timeout", "."}, "option '--idle-timeout' takes seconds from 0 to 31536000, not '.'"},
        {{"--idle-timeout", "1e3"}, "option '--idle-timeout' takes seconds from 0 to 31536000, not '1e3'"},
        {{"--idle-timeout", "5s"}, "option '--idle-timeout' takes seconds from 0 to 31536000, not '5s'"},
        {{"--idle-timeout", "1.5.2"}, "option '--idle-timeout' takes seconds from 0 to 31536000, not '1.5.2'"},
        {{"--lua-memory", "M"}, "option '--lua-memory' takes a size from 1M to 1024G, not 'M'"},
        {{"--lua-memory", "64MB"}, "option '--lua-memory' takes a size from 1M to 1024G, not '64MB'"},
        {{"--lua-memory", "64T"}, "option '--lua-memory' takes a size from 1M to 1024G, not '64T'"},
    };
    refused(mistakes, array_count(mistakes));
}

static void choices_are_listed(void)
{
    static const mistake mistakes[] = {
        {{"--log-level", "warning"}, "option '--log-level' takes debug, info, warn, error or none, not 'warning'"},
        {{"--log-level", "inof"},
         "option '--log-level' takes debug, info, warn, error or none, not 'inof': did you mean 'info'?"},
        {{"--log-level=INFO"}, "option '--log-level' takes debug, info, warn, error or none, not 'INFO'"},
        {{"--log-format", "jsno"}, "option '--log-format' takes text or json, not 'jsno': did you mean 'json'?"},
        {{"--backend", "iocp"}, "option '--backend' takes auto, io_uring or epoll, not 'iocp'"},
        {{"--backend", "epol"}, "option '--backend' takes auto, io_uring or epoll, not 'epol': did you mean 'epoll'?"},
        {{"--backend", "io_uring epoll"}, "option '--backend' takes auto, io_uring or epoll, not 'io_uring epoll'"},
    };
    refused(mistakes, array_count(mistakes));
}

static void missing_values_are_named(void)
{
    static const mistake mistakes[] = {
        {{"--workers"}, "option '--workers' needs a value: auto, 2x or a number from 1 to 256"},
        {{"--workers="}, "option '--workers' needs a value: auto, 2x or a number from 1 to 256"},
        {{"--workers", "--check"}, "option '--workers' needs a value: auto, 2x or a number from 1 to 256"},
        {{"--listen"}, "option '--listen' needs a value: URI"},
        {{"--address-file", "--check"}, "option '--address-file' needs a value: FILE"},
        {{"--address-file", ""}, "option '--address-file' needs a value: FILE"},
        {{"--log-level"}, "option '--log-level' needs a value: debug, info, warn, error or none"},
        {{"--drain-timeout"}, "option '--drain-timeout' needs a value: seconds from 0 to 31536000"},
    };
    refused(mistakes, array_count(mistakes));
}

static void flags_take_no_value(void)
{
    static const mistake mistakes[] = {
        {{"--check=yes"}, "option '--check' takes no value"},
        {{"--help="}, "option '--help' takes no value"},
    };
    refused(mistakes, array_count(mistakes));
}

static void bad_addresses_are_quoted_with_the_reason(void)
{
    static const char *const uris[] = {
        "127.0.0.1",    "tcp://127.0.0.1:65536", "tcp://127.0.0.1:-1", "http://127.0.0.1:80",
        "tcp://::1:80", "tcp://[::1:80",         "tcp://1.2.3.4.5:80", "tcp://"};
    for (size_t i = 0; i < array_count(uris); i++) {
        options o;
        char error[OPTIONS_ERROR_BYTES] = "";
        char *words[] = {"portico", "--listen", (char *)uris[i]};
        char begin[128];
        snprintf(begin, sizeof begin, "option '--listen': cannot use '%s' as an address: ", uris[i]);
        check(!options_parse(&o, 3, words, BACKENDS, error, sizeof error));
        check(strncmp(error, begin, strlen(begin)) == 0);
        check(strlen(error) > strlen(begin));
    }
}

static void more_addresses_than_there_is_room_for_are_refused(void)
{
    options o;
    char error[OPTIONS_ERROR_BYTES] = "";
    char *words[1 + OPTIONS_LISTEN_MAX + 1] = {"portico"};
    for (int i = 1; i < (int)array_count(words); i++) words[i] = "--listen=127.0.0.1:0";
    check(options_parse(&o, OPTIONS_LISTEN_MAX + 1, words, BACKENDS, error, sizeof error));
    check_eq(o.listen_count, OPTIONS_LISTEN_MAX);
    check(!options_parse(&o, OPTIONS_LISTEN_MAX + 2, words, BACKENDS, error, sizeof error));
    check_str(error, "option '--listen' can be given 64 times at most");
}

static void a_short_buffer_cuts_the_message(void)
{
    options o;
    char error[24];
    memset(error, 'x', sizeof error);
    char *words[] = {"portico", "--bakend"};
    check(!options_parse(&o, 2, words, BACKENDS, error, 16));
    check_str(error, "unknown option ");
    check_eq(error[16], 'x');
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    check_run(unknown_options_are_named_with_the_nearest);
    check_run(numbers_out_of_range_are_answered_with_the_range);
    check_run(what_is_no_number_is_answered_with_what_is_taken);
    check_run(choices_are_listed);
    check_run(missing_values_are_named);
    check_run(flags_take_no_value);
    check_run(bad_addresses_are_quoted_with_the_reason);
    check_run(more_addresses_than_there_is_room_for_are_refused);
    check_run(a_short_buffer_cuts_the_message);
    return check_end();
}
