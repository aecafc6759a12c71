/* options.c - the table of settings, and what is made from it. */
#include "options.h"

#include "base.h"
#include "guess.h"
#include "os.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define NANOSECONDS UINT64_C(1000000000) /* in a second */
#define MEBIBYTE (UINT64_C(1) << 20)
#define SECONDS_MOST (OPTIONS_SECONDS_MAX * NANOSECONDS)

enum {
    CHOICES_MAX = 128, /* bytes of "debug, info, warn, error or none" */
    HELP_COLUMN = 30,  /* where the meanings begin */
    HELP_WIDTH = 96
};

/* How a value is read, and the type of the field that it goes to. */
typedef enum option_kind {
    OPTION_FLAG,    /* bool; takes no value */
    OPTION_STATE,   /* uint32_t: what `least` says; takes no value */
    OPTION_URI,     /* the list of addresses */
    OPTION_TEXT,    /* const char * */
    OPTION_BACKEND, /* const char *: "auto" or a name that is compiled in */
    OPTION_CHOICE,  /* uint32_t: index in choices */
    OPTION_COUNT,   /* uint32_t */
    OPTION_AUTO,    /* uint32_t; "auto" is OPTIONS_AUTO */
    OPTION_THREADS, /* uint32_t; "auto" is 0, "2x" two per processor */
    OPTION_SECONDS, /* uint64_t nanoseconds; decimals allowed */
    OPTION_BYTES    /* uint64_t; K, M and G allowed */
} option_kind;

typedef struct option {
    const char *name; /* without the dashes */
    char letter;      /* "-h"; 0: none */
    option_kind kind;
    uint32_t given;      /* bit for options.given; 0: nobody asks */
    size_t offset;       /* of the field in options */
    const char *value;   /* what the help calls the value; NULL for flags */
    const char *initial; /* the default, read like a value from the command line; NULL: the field is zero */
    uint64_t least;      /* range of numbers, in the field's unit */
    uint64_t most;
    const char *choices; /* separated by blanks */
    const char *meaning;
} option;

#define FIELD(name) offsetof(options, name)

static const option table[] = {
    {"listen", 0, OPTION_URI, 0, FIELD(listen), "URI", NULL, 0, 0, NULL,
     "Listen there: tcp://HOST:PORT, with HOST an IPv4 address, an IPv6 address in brackets, localhost or *; port 0 is "
     "one of the system's choice; or udp://HOST:PORT, unix:PATH, unix:PATH?mode=0660, unix:@NAME. May be given several "
     "times. Without "
     "it the script's `listen` counts, "
     "else " OPTIONS_LISTEN_DEFAULT "."},
    {"address-file", 0, OPTION_TEXT, 0, FIELD(address_file), "FILE", NULL, 0, 0, NULL,
     "When ready, write the addresses listened on into FILE, one a line."},
    {"workers", 0, OPTION_THREADS, 0, FIELD(workers), "N", "auto", 1, OPTIONS_WORKERS_MAX, NULL,
     "Threads, each with its own connections and its own Lua state; auto is one per processor, 2x two per processor."},
    {"backend", 0, OPTION_BACKEND, 0, FIELD(backend), "NAME", "auto", 0, 0, NULL,
     "The system's interface for I/O; auto takes the best that works here."},
    {"max-connections", 0, OPTION_COUNT, 0, FIELD(max_connections), "N", "0", 0, OPTIONS_CONNECTIONS_MAX, NULL,
     "Connections at a time, in all; more wait to be accepted. 0: as many as there are descriptors for."},
    {"max-per-address", 0, OPTION_AUTO, 0, FIELD(max_per_address), "N", "auto", 0, OPTIONS_CONNECTIONS_MAX, NULL,
     "Connections at a time from one IPv4 address or IPv6 network of 64 bits; more are refused. auto: a quarter of the "
     "connections in all, and for this machine's own any number. 0: any number."},
    {"accept-rate", 0, OPTION_COUNT, 0, FIELD(accept_rate), "N", "10000", 0, 1000000, NULL,
     "Connections that are accepted in a second, in all; more wait. 0: any number."},
    {"watch", 0, OPTION_STATE, 0, FIELD(watch), NULL, NULL, OPTIONS_WATCH_ON, 0, NULL,
     "Load the script again when it or a module of its directory is saved. This is so by default."},
    {"no-watch", 0, OPTION_STATE, 0, FIELD(watch), NULL, NULL, OPTIONS_WATCH_OFF, 0, NULL,
     "Load it again only when asked: portico ctl reload, HUP, portico.reload()."},
    {"watch-poll", 0, OPTION_STATE, 0, FIELD(watch), NULL, NULL, OPTIONS_WATCH_POLL, 0, NULL,
     "The same as --watch, by looking at the files four times a second instead of being notified; for file systems of "
     "other machines."},
    {"control", 0, OPTION_TEXT, 0, FIELD(control), "PLACE", NULL, 0, 0, NULL,
     "Take commands of portico ctl there: the path of a Unix socket, on Windows the name of a pipe; off: nowhere. "
     "Without "
     "it, a place of this user's where portico ctl finds it."},
    {"log-level", 0, OPTION_CHOICE, OPTIONS_GIVEN_LOG_LEVEL, FIELD(log_level), "LEVEL", "info", 0, 0,
     "debug info warn error none", "Log what is at least this important, on standard error."},
    {"log-format", 0, OPTION_CHOICE, 0, FIELD(log_format), "FORMAT", "text", 0, 0, "text json",
     "One line of text or one JSON object per event."},
    {"quiet", 'q', OPTION_FLAG, 0, FIELD(quiet), NULL, NULL, 0, 0, NULL, "The same as --log-level warn."},
    {"drain-timeout", 0, OPTION_SECONDS, 0, FIELD(drain_ns), "SECONDS", "10", 0, SECONDS_MOST, NULL,
     "When stopping, the time in which connections may send what is queued."},
    {"reload-probation", 0, OPTION_SECONDS, 0, FIELD(reload_probation_ns), "SECONDS", "5", 0, SECONDS_MOST, NULL,
     "After a reload, the time in which too many errors bring the version before back. 0: none."},
    {"reload-error-limit", 0, OPTION_COUNT, 0, FIELD(reload_error_limit), "N", "10", 0, OPTIONS_CONNECTIONS_MAX, NULL,
     "So many errors of handlers are allowed meanwhile."},
    {"reload-deadline", 0, OPTION_SECONDS, 0, FIELD(reload_deadline_ns), "SECONDS", "30", 0, SECONDS_MOST, NULL,
     "After a reload, the time in which handlers of the version before that still wait may end."},
    {"lua-memory", 0, OPTION_BYTES, 0, FIELD(lua_memory), "SIZE", "64M", MEBIBYTE, MEBIBYTE << 20, NULL,
     "Memory that the script may use, per worker, in bytes or with K, M or G."},
    {"shared-memory", 0, OPTION_BYTES, 0, FIELD(shared_memory), "SIZE", "64M", MEBIBYTE, MEBIBYTE << 20, NULL,
     "Memory that portico.shared may use, for all workers together."},
    {"callback-budget", 0, OPTION_SECONDS, 0, FIELD(callback_budget_ns), "SECONDS", "0.1", 0, SECONDS_MOST, NULL,
     "Time that a handler may run without waiting before it is ended. 0: any."},
    {"load-budget", 0, OPTION_SECONDS, 0, FIELD(load_budget_ns), "SECONDS", "5", 0, SECONDS_MOST, NULL,
     "Time in which the script must have loaded. 0: any."},
    {"sandbox", 0, OPTION_CHOICE, 0, FIELD(sandbox), "LEVEL", "std", 0, 0, "off std strict",
     "What the script may use: off is all of Lua; std is without what blocks or ends the process; strict is without "
     "files, programs and the environment, and on Linux confines the process, too."},
    {"user", 0, OPTION_TEXT, 0, FIELD(user), "NAME", NULL, 0, 0, NULL,
     "Become this user when all is listened on. Only for root, and not on Windows."},
    {"group", 0, OPTION_TEXT, 0, FIELD(group), "NAME", NULL, 0, 0, NULL,
     "The same for the group; without it, the user's groups."},
    {"idle-timeout", 0, OPTION_SECONDS, OPTIONS_GIVEN_IDLE, FIELD(idle_ns), "SECONDS", "600", 0, SECONDS_MOST, NULL,
     "Close a connection on which no byte has moved for so long. 0: never."},
    {"first-byte-timeout", 0, OPTION_SECONDS, OPTIONS_GIVEN_FIRST_BYTE, FIELD(first_byte_ns), "SECONDS", "10", 0,
     SECONDS_MOST, NULL, "Close a connection whose peer has sent nothing for so long since it connected. 0: never."},
    {"write-timeout", 0, OPTION_SECONDS, OPTIONS_GIVEN_WRITE, FIELD(write_ns), "SECONDS", "60", 0, SECONDS_MOST, NULL,
     "Close a connection whose peer takes nothing of what is to be sent for so long. 0: never."},
    {"check", 0, OPTION_FLAG, 0, FIELD(check), NULL, NULL, 0, 0, NULL,
     "Load the script and stop; the exit code is 0 when it is fit to run, else 3. Nothing is listened on."},
    {"version", 'V', OPTION_FLAG, 0, FIELD(version), NULL, NULL, 0, 0, NULL,
     "Print the version; with --verbose also what is built in and which backends work here."},
    {"verbose", 0, OPTION_FLAG, 0, FIELD(verbose), NULL, NULL, 0, 0, NULL,
     "With --version: everything. Else the same as --log-level debug."},
    {"help", 'h', OPTION_FLAG, 0, FIELD(help), NULL, NULL, 0, 0, NULL, "Print this."},
};

static_assert(LOG_DEBUG == 0 && LOG_INFO == 1 && LOG_WARN == 2 && LOG_ERROR == 3 && LOG_NONE == 4,
              "--log-level's choices are in the order of log_level");
static_assert(OPTIONS_SANDBOX_OFF == 0 && OPTIONS_SANDBOX_STD == 1 && OPTIONS_SANDBOX_STRICT == 2,
              "--sandbox's choices are in the order of options_sandbox");
static_assert(OPTIONS_TEXT == 0 && OPTIONS_JSON == 1, "--log-format's choices are in the order of options_format");

/* One reading of a command line. */
typedef struct reading {
    options *o;
    const char *backends;
    char *error;
    size_t error_size;
} reading;

static bool fail(const reading *r, const char *format, ...) PRINTF_LIKE(2, 3);

static bool fail(const reading *r, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(r->error, r->error_size, format, arguments);
    va_end(arguments);
    return false;
}

/* ---- Words: lists separated by blanks, and which of them was meant ---- */

/* The next word of a list, or NULL. *list moves behind it. */
static const char *next_word(const char **list, size_t *len)
{
    *list += strspn(*list, " ");
    if (**list == '\0') return NULL;
    const char *word = *list;
    *len = strcspn(word, " ");
    *list = word + *len;
    return word;
}

/* "debug, info or none" of "debug info none". Returns text. */
static char *join_words(char *text, size_t size, const char *first, const char *list)
{
    int used = snprintf(text, size, "%s", first);
    size_t len = 0;
    for (const char *word = next_word(&list, &len); word != NULL; word = next_word(&list, &len)) {
        const char *comma = used == 0 ? "" : list[strspn(list, " ")] == '\0' ? " or " : ", ";
        if ((size_t)used < size) used += snprintf(text + used, size - (size_t)used, "%s%.*s", comma, (int)len, word);
    }
    return text;
}

/* ---- Values ---- */

/* What the value of a row must be, in words: "seconds from 0 to 31536000". Returns text. */
static char *expected(char *text, size_t size, const option *row, const char *backends)
{
    switch (row->kind) {
    case OPTION_FLAG:
    case OPTION_STATE:
    case OPTION_URI:
    case OPTION_TEXT:
        snprintf(text, size, "%s", row->value != NULL ? row->value : "");
        break;
    case OPTION_BACKEND:
        join_words(text, size, "auto", backends);
        break;
    case OPTION_CHOICE:
        join_words(text, size, "", row->choices);
        break;
    case OPTION_COUNT:
        snprintf(text, size, "a number from %" PRIu64 " to %" PRIu64, row->least, row->most);
        break;
    case OPTION_AUTO:
        snprintf(text, size, "auto or a number from %" PRIu64 " to %" PRIu64, row->least, row->most);
        break;
    case OPTION_THREADS:
        snprintf(text, size, "auto, 2x or a number from %" PRIu64 " to %" PRIu64, row->least, row->most);
        break;
    case OPTION_SECONDS:
        snprintf(text, size, "seconds from %" PRIu64 " to %" PRIu64, row->least / NANOSECONDS, row->most / NANOSECONDS);
        break;
    case OPTION_BYTES:
        snprintf(text, size, "a size from %" PRIu64 "M to %" PRIu64 "G", row->least / MEBIBYTE,
                 row->most / (MEBIBYTE << 10));
        break;
    }
    return text;
}

typedef enum number_verdict { NUMBER_GOOD, NUMBER_OUT_OF_RANGE, NUMBER_NONE } number_verdict;

/* Reads digits. *number stops growing where it would overflow: that is out of any range. Returns what follows. */
static const char *read_digits(uint64_t *number, const char *text)
{
    uint64_t value = 0;
    for (; *text >= '0' && *text <= '9'; text++) {
        uint64_t digit = (uint64_t)(*text - '0');
        value = value > (UINT64_MAX - digit) / 10 ? UINT64_MAX : value * 10 + digit;
    }
    *number = value;
    return text;
}

/* Nanoseconds behind a decimal point, digits beyond the ninth dropped; but what is more than 0 stays so, since 0 means
 * without limit. Returns what follows. */
static const char *read_fraction(uint64_t *ns, const char *text)
{
    uint64_t value = 0;
    uint64_t unit = NANOSECONDS / 10;
    bool any = false;
    for (; *text >= '0' && *text <= '9'; text++) {
        value += (uint64_t)(*text - '0') * unit;
        unit /= 10;
        any = any || *text != '0';
    }
    *ns = value == 0 && any ? 1 : value;
    return text;
}

/* A number that is one, but for which no unsigned integer stands: negative, or not finite. */
static bool is_beyond(const char *value)
{
    const char *text = value[0] == '-' || value[0] == '+' ? value + 1 : value;
    if (strcmp(text, "nan") == 0 || strcmp(text, "inf") == 0 || strcmp(text, "infinity") == 0) return true;
    if (strcmp(text, "NaN") == 0 || strcmp(text, "NAN") == 0 || strcmp(text, "INF") == 0) return true;
    return value[0] == '-' && text[0] != '\0' && strspn(text, "0123456789.") == strlen(text);
}

/* Reads a number with whatever the kind allows around it, and asks whether the row's range has it. */
static number_verdict read_number(uint64_t *number, const option *row, const char *value)
{
    if (is_beyond(value)) return NUMBER_OUT_OF_RANGE;
    uint64_t whole = 0;
    uint64_t fraction = 0;
    uint64_t unit = 1;
    const char *rest = read_digits(&whole, value);
    bool any = rest != value;
    if (row->kind == OPTION_SECONDS) {
        unit = NANOSECONDS;
        if (*rest == '.') {
            const char *decimals = rest + 1;
            rest = read_fraction(&fraction, decimals);
            any = any || rest != decimals;
        }
    } else if (row->kind == OPTION_BYTES && any && *rest != '\0') {
        static const char suffixes[] = "kKmMgG";
        const char *suffix = strchr(suffixes, *rest);
        if (suffix != NULL) {
            unit = UINT64_C(1) << (10 * ((suffix - suffixes) / 2 + 1));
            rest++;
        }
    }
    if (!any || *rest != '\0') return NUMBER_NONE;
    if (whole > (UINT64_MAX - fraction) / unit) return NUMBER_OUT_OF_RANGE;
    *number = whole * unit + fraction;
    return *number < row->least || *number > row->most ? NUMBER_OUT_OF_RANGE : NUMBER_GOOD;
}

static uint64_t least_number(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static bool take_number(const reading *r, const option *row, void *field, const char *value)
{
    uint64_t number = 0;
    bool is_auto = (row->kind == OPTION_THREADS || row->kind == OPTION_AUTO) && strcmp(value, "auto") == 0;
    if (is_auto && row->kind == OPTION_AUTO) number = OPTIONS_AUTO;
    bool is_double = row->kind == OPTION_THREADS && strcmp(value, "2x") == 0;
    if (is_double) number = least_number(2 * (uint64_t)os_cpu_count(), row->most);
    number_verdict verdict = is_auto || is_double ? NUMBER_GOOD : read_number(&number, row, value);
    if (verdict != NUMBER_GOOD) {
        char words[CHOICES_MAX];
        expected(words, sizeof words, row, r->backends);
        if (verdict == NUMBER_OUT_OF_RANGE) {
            return fail(r, "option '--%s': %s is out of range: it takes %s", row->name, value, words);
        }
        return fail(r, "option '--%s' takes %s, not '%s'", row->name, words, value);
    }
    bool wide = row->kind == OPTION_SECONDS || row->kind == OPTION_BYTES;
    assert(wide || number <= UINT32_MAX);
    if (wide) *(uint64_t *)field = number;
    else *(uint32_t *)field = (uint32_t)number;
    return true;
}

/* *index: place in the list. */
static bool find_word(const reading *r, uint32_t *index, const option *row, const char *list, const char *value)
{
    guess g;
    guess_begin(&g, value, strlen(value));
    const char *rest = list;
    size_t len = 0;
    uint32_t i = 0;
    for (const char *word = next_word(&rest, &len); word != NULL; word = next_word(&rest, &len), i++) {
        if (len == strlen(value) && memcmp(word, value, len) == 0) {
            *index = i;
            return true;
        }
        guess_consider(&g, word, len);
    }
    char words[CHOICES_MAX];
    expected(words, sizeof words, row, r->backends);
    if (g.best == NULL) return fail(r, "option '--%s' takes %s, not '%s'", row->name, words, value);
    return fail(r, "option '--%s' takes %s, not '%s': did you mean '%.*s'?", row->name, words, value, (int)g.best_len,
                g.best);
}

static bool take_uri(const reading *r, const option *row, const char *value)
{
    options *o = r->o;
    char why[256];
    if (o->listen_count == OPTIONS_LISTEN_MAX) {
        return fail(r, "option '--%s' can be given %d times at most", row->name, OPTIONS_LISTEN_MAX);
    }
    if (net_uri_parse(&o->listen[o->listen_count], value, why, sizeof why) != IO_OK) {
        return fail(r, "option '--%s': cannot use '%s' as an address: %s", row->name, value, why);
    }
    o->listen_uri[o->listen_count++] = value;
    return true;
}

static bool take_value(const reading *r, const option *row, const char *value)
{
    void *field = (char *)r->o + row->offset;
    uint32_t index = 0;
    switch (row->kind) {
    case OPTION_FLAG:
        *(bool *)field = true;
        return true;
    case OPTION_STATE:
        *(uint32_t *)field = (uint32_t)row->least;
        return true;
    case OPTION_URI:
        return take_uri(r, row, value);
    case OPTION_TEXT:
        *(const char **)field = value;
        return true;
    case OPTION_BACKEND:
        if (strcmp(value, "auto") != 0 && !find_word(r, &index, row, r->backends, value)) return false;
        *(const char **)field = value;
        return true;
    case OPTION_CHOICE:
        return find_word(r, (uint32_t *)field, row, row->choices, value);
    case OPTION_COUNT:
    case OPTION_AUTO:
    case OPTION_THREADS:
    case OPTION_SECONDS:
    case OPTION_BYTES:
        return take_number(r, row, field, value);
    }
    return false;
}

/* ---- The command line ---- */

static bool fail_unknown(const reading *r, const char *word)
{
    size_t dashes = strspn(word, "-");
    const char *name = word + dashes;
    size_t len = strcspn(name, "=");
    guess g;
    guess_begin(&g, name, len);
    for (size_t i = 0; i < array_count(table); i++) guess_consider(&g, table[i].name, strlen(table[i].name));
    int shown = (int)(dashes + len);
    if (g.best == NULL) return fail(r, "unknown option '%.*s': see portico --help", shown, word);
    return fail(r, "unknown option '%.*s': did you mean '--%s'?", shown, word, g.best);
}

/* The row of "--name", "--name=value" or "-n"; NULL: unknown. *value: behind the "=", or NULL. */
static const option *find_option(const char *word, const char **value)
{
    *value = NULL;
    for (size_t i = 0; i < array_count(table); i++) {
        const option *row = &table[i];
        size_t len = strlen(row->name);
        if (word[1] != '-') {
            if (row->letter != 0 && word[1] == row->letter && word[2] == '\0') return row;
        } else if (strncmp(word + 2, row->name, len) == 0 && (word[2 + len] == '\0' || word[2 + len] == '=')) {
            if (word[2 + len] == '=') *value = word + 2 + len + 1;
            return row;
        }
    }
    return NULL;
}

/* Reads the option at argv[*next] and moves *next behind it. */
static bool take_option(const reading *r, int *next, int argc, char *const *argv)
{
    const char *word = argv[(*next)++];
    const char *value;
    const option *row = find_option(word, &value);
    if (row == NULL) return fail_unknown(r, word);
    if (row->kind == OPTION_FLAG || row->kind == OPTION_STATE) {
        if (value != NULL) return fail(r, "option '--%s' takes no value", row->name);
    } else {
        /* What looks like the next option is not a value, unless it is tied to this one with "=". */
        if (value == NULL && *next < argc && strncmp(argv[*next], "--", 2) != 0) value = argv[(*next)++];
        if (value == NULL || *value == '\0') {
            char words[CHOICES_MAX];
            expected(words, sizeof words, row, r->backends);
            return fail(r, "option '--%s' needs a value: %s", row->name, words);
        }
    }
    r->o->given |= row->given;
    return take_value(r, row, value);
}

bool options_parse(options *o, int argc, char *const *argv, const char *backends, char *error, size_t error_size)
{
    reading r = {.o = o, .backends = backends, .error = error, .error_size = error_size};
    *o = (options){0};
    for (size_t i = 0; i < array_count(table); i++) {
        bool good = table[i].initial == NULL || take_value(&r, &table[i], table[i].initial);
        assert(good);
        (void)good;
    }
    int next = argc > 0 ? 1 : 0;
    while (next < argc && !o->help && argv[next][0] == '-' && argv[next][1] != '\0') {
        if (strcmp(argv[next], "--") == 0) {
            next++;
            break;
        }
        if (!take_option(&r, &next, argc, argv)) return false;
    }
    if (next < argc && !o->help) {
        o->script = argv[next++];
        o->arg_count = argc - next;
        o->args = argv + next;
    }
    bool level_given = (o->given & OPTIONS_GIVEN_LOG_LEVEL) != 0;
    if (o->quiet && !level_given) o->log_level = LOG_WARN;
    if (o->verbose && !level_given) o->log_level = LOG_DEBUG;
    return true;
}

/* ---- Help ---- */

/* A text that grows in a buffer and is cut where that ends. */
typedef struct page {
    char *text;
    size_t size;
    size_t len;
    size_t column;
} page;

static void put(page *p, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (p->len + 1 < p->size) p->text[p->len++] = text[i];
        p->column = text[i] == '\n' ? 0 : p->column + 1;
    }
    if (p->size > 0) p->text[p->len] = '\0';
}

static void put_text(page *p, const char *text)
{
    put(p, text, strlen(text));
}

static void put_blanks(page *p, size_t column)
{
    while (p->column < column) put(p, " ", 1);
}

/* Words from HELP_COLUMN on, broken into lines. */
static void put_words(page *p, const char *text)
{
    size_t len = 0;
    for (const char *word = next_word(&text, &len); word != NULL; word = next_word(&text, &len)) {
        if (p->column > HELP_COLUMN) {
            if (p->column + 1 + len > HELP_WIDTH) put(p, "\n", 1);
            else put(p, " ", 1);
        }
        put_blanks(p, HELP_COLUMN);
        put(p, word, len);
    }
}

static void put_option(page *p, const option *row, const char *backends)
{
    char letter[] = "  -x, ";
    letter[3] = row->letter;
    put_text(p, row->letter != 0 ? letter : "      ");
    put_text(p, "--");
    put_text(p, row->name);
    if (row->value != NULL) {
        put_text(p, " ");
        put_text(p, row->value);
    }
    if (p->column + 2 > HELP_COLUMN) put_text(p, "\n");
    put_words(p, row->meaning);
    if (row->kind == OPTION_BACKEND || row->kind == OPTION_CHOICE) {
        char words[CHOICES_MAX];
        put_words(p, " One of:");
        put_words(p, expected(words, sizeof words, row, backends));
        put_text(p, ".");
    }
    if (row->initial != NULL) {
        put_words(p, " Default:");
        put_words(p, row->initial);
        put_text(p, ".");
    }
    put_text(p, "\n");
}

char *options_help(char *text, size_t size, const char *backends)
{
    page p = {.text = text, .size = size};
    put_text(&p, "Usage: portico [options] [script.lua [arguments...]]\n"
                 "       portico ctl COMMAND (asks a running server; see portico ctl help)\n"
                 "\n"
                 "Serves TCP connections with a Lua script. Without a script the built-in default.lua runs, which\n"
                 "sends back what it receives. A script named - is read from standard input; -- ends the options.\n"
                 "\n"
                 "Options:\n");
    for (size_t i = 0; i < array_count(table); i++) put_option(&p, &table[i], backends);
    put_text(&p, "\n"
                 "Signals: INT and TERM (Ctrl+C, Ctrl+Break or closing the console on Windows) stop the server: the\n"
                 "first lets connections send what is queued, the second ends them at once. USR2 logs counters.\n"
                 "\n"
                 "Exit codes: 0 clean stop, 1 failure while running, 2 wrong usage, 3 the script did not load,\n"
                 "4 cannot listen, 5 what was queued at the stop was not sent in time.\n");
    return text;
}
