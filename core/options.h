/* options.h - the settings of the command line. One table in options.c holds name, default, range and meaning of each;
 * parsing, error messages and the help text come from it.
 *
 *   portico [options] [script.lua [args…]]
 *
 * Options come before the script; what follows it is the script's. "--" ends the options. Values are given as
 * "--name value" or "--name=value"; of an option that is given twice the last counts, but for --listen.
 */
#ifndef PORTICO_OPTIONS_H
#define PORTICO_OPTIONS_H

#include "log.h"
#include "net_uri.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    OPTIONS_LISTEN_MAX = 64,
    OPTIONS_WORKERS_MAX = 256,
    OPTIONS_CONNECTIONS_MAX = 100000000,
    OPTIONS_SECONDS_MAX = 31536000, /* a year */
    OPTIONS_ERROR_BYTES = 512,      /* room for every message of options_parse(); longer values are cut */
    OPTIONS_HELP_BYTES = 16384      /* room for the help text */
};

/* What is listened on when neither the command line nor the script says. */
#define OPTIONS_LISTEN_DEFAULT "tcp://127.0.0.1:7777"

/* --max-per-address auto. */
#define OPTIONS_AUTO UINT32_MAX

/* Bits of options.given: the command line named it. */
enum { OPTIONS_GIVEN_IDLE = 1, OPTIONS_GIVEN_FIRST_BYTE = 2, OPTIONS_GIVEN_WRITE = 4, OPTIONS_GIVEN_LOG_LEVEL = 8 };

/* The texts are those of argv. */
typedef struct options {
    uint32_t listen_count;
    net_uri listen[OPTIONS_LISTEN_MAX];
    const char *listen_uri[OPTIONS_LISTEN_MAX]; /* the same, as given */
    const char *address_file;                   /* NULL: none */
    const char *control;                        /* NULL: the usual place; "off": none */
    const char *backend;                        /* "auto", or a name that is compiled in */
    uint32_t workers;                           /* 0: one per processor; "2x" is here already a number */
    uint32_t max_connections;                   /* 0: as many as the descriptors allow */
    uint32_t max_per_address;                   /* 0: no limit; OPTIONS_AUTO */
    uint32_t accept_rate;                       /* in a second; 0: no limit */
    uint32_t watch;                             /* an options_watch */
    uint32_t log_level;                         /* a log_level */
    uint32_t log_format;                        /* an options_format */
    uint32_t sandbox;                           /* an options_sandbox */
    const char *user;                           /* NULL: stays; so does group */
    const char *group;
    uint64_t drain_ns;
    uint64_t reload_probation_ns;
    uint64_t reload_deadline_ns;
    uint32_t reload_error_limit;
    uint64_t lua_memory;         /* bytes */
    uint64_t shared_memory;      /* bytes */
    uint64_t callback_budget_ns; /* 0: none; also for the four below */
    uint64_t load_budget_ns;
    uint64_t idle_ns;
    uint64_t first_byte_ns;
    uint64_t write_ns;
    bool check;
    bool quiet;   /* in force through log_level when this is not given */
    bool verbose; /* likewise */
    bool version;
    bool help;
    uint32_t given;     /* bits OPTIONS_GIVEN_* */
    const char *script; /* NULL: the embedded one; "-": standard input */
    int arg_count;      /* what follows the script */
    char *const *args;
} options;

typedef enum options_watch { OPTIONS_WATCH_ON, OPTIONS_WATCH_OFF, OPTIONS_WATCH_POLL } options_watch;
typedef enum options_sandbox { OPTIONS_SANDBOX_OFF, OPTIONS_SANDBOX_STD, OPTIONS_SANDBOX_STRICT } options_sandbox;
typedef enum options_format { OPTIONS_TEXT, OPTIONS_JSON } options_format;

/* Reads a command line. --help ends the reading: nothing after it matters.
 *
 * argv      argc texts, the first of which is the program's name.
 * backends  the names compiled in, separated by blanks.
 * error     of error_size bytes: what is wrong, when the result is false. Names the option. */
bool options_parse(options *o, int argc, char *const *argv, const char *backends, char *error, size_t error_size);

/* Writes the help text. Returns text; OPTIONS_HELP_BYTES are enough. */
char *options_help(char *text, size_t size, const char *backends);

#endif
