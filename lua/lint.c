/* lint.c - reads a Lua text as words, which is enough for what it looks for. */
#include "lint.h"

#include "base.h"
#include "log.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>

/* A name, a sign, or a whole string. At the end of the text it is empty. */
typedef struct word {
    const char *start;
    size_t len;
    int line;
} word;

typedef struct reader {
    const char *at;
    const char *end;
    int line;
} reader;

static bool is_name(char c)
{
    return isalnum((unsigned char)c) || c == '_';
}

static void step(reader *r)
{
    if (*r->at == '\n') r->line++;
    r->at++;
}

/* The level of the long bracket that begins here ("[[" is 0), or -1. */
static int bracket_level(const reader *r)
{
    const char *c = r->at + 1;
    int level = 0;
    if (r->at == r->end || *r->at != '[') return -1;
    for (; c < r->end && *c == '='; c++) level++;
    return c < r->end && *c == '[' ? level : -1;
}

static void skip_bracket(reader *r, int level)
{
    for (int i = 0; i < level + 2; i++) step(r);
    while (r->at < r->end) {
        int signs = 0;
        if (*r->at != ']') {
            step(r);
            continue;
        }
        step(r);
        while (r->at < r->end && *r->at == '=') {
            signs++;
            step(r);
        }
        if (signs == level && r->at < r->end && *r->at == ']') {
            step(r);
            return;
        }
    }
}

static void skip_string(reader *r)
{
    char quote = *r->at;
    step(r);
    while (r->at < r->end && *r->at != quote && *r->at != '\n') {
        if (*r->at == '\\' && r->at + 1 < r->end) step(r);
        step(r);
    }
    if (r->at < r->end) step(r);
}

/* Blanks and comments. */
static void skip_nothing(reader *r)
{
    while (r->at < r->end) {
        if (isspace((unsigned char)*r->at)) {
            step(r);
        } else if (r->end - r->at >= 2 && r->at[0] == '-' && r->at[1] == '-') {
            r->at += 2;
            int level = bracket_level(r);
            if (level >= 0) skip_bracket(r, level);
            else {
                while (r->at < r->end && *r->at != '\n') r->at++;
            }
        } else {
            return;
        }
    }
}

static word next_word(reader *r)
{
    skip_nothing(r);
    word w = {.start = r->at, .line = r->line};
    if (r->at == r->end) return w;
    int level = bracket_level(r);
    if (level >= 0) {
        skip_bracket(r, level);
    } else if (*r->at == '"' || *r->at == '\'') {
        skip_string(r);
    } else if (is_name(*r->at)) {
        while (r->at < r->end && is_name(*r->at)) r->at++;
    } else {
        r->at++;
        if (r->at < r->end && *r->at == '=' && strchr("=<>~", w.start[0]) != NULL) r->at++; /* "==" is no assignment */
    }
    w.len = (size_t)(r->at - w.start);
    return w;
}

static bool is(const word *w, const char *text)
{
    return w->len == strlen(text) && memcmp(w->start, text, w->len) == 0;
}

/* Behind "state": reads ".field" and "[index]", as many as there are, and leaves the word after them. How many these were. */
static int read_fields(reader *r, word *w)
{
    int count = 0;
    for (;;) {
        if (is(w, ".")) {
            (void)next_word(r);
        } else if (is(w, "[")) {
            int depth = 1;
            while (depth > 0) {
                *w = next_word(r);
                if (w->len == 0) return count;
                if (is(w, "[")) depth++;
                if (is(w, "]")) depth--;
            }
        } else {
            return count;
        }
        count++;
        *w = next_word(r);
    }
}

/* What is assigned begins with w. Returns what that is, or NULL when it may be plain data. */
static const char *what_is(reader *r, const word *w)
{
    static const struct {
        const char *name;
        const char *field; /* NULL: the name alone */
        const char *what;
    } known[] = {
        {"function", NULL, "a function"},
        {"setmetatable", NULL, "a table with a metatable"},
        {"coroutine", "create", "a coroutine"},
        {"coroutine", "wrap", "a function"},
        {"io", "open", "a file"},
        {"io", "popen", "a file"},
        {"portico", "connect", "a connection"},
        {"portico", "after", "a timer"},
        {"portico", "every", "a timer"},
        {"portico", "spawn", "a task"},
        {"portico", "channel", "a channel"},
        {"portico", "shared", "a dictionary"},
        {"portico", "semaphore", "a semaphore"},
    };
    for (size_t i = 0; i < array_count(known); i++) {
        if (!is(w, known[i].name)) continue;
        if (known[i].field == NULL) return known[i].what;
        reader ahead = *r;
        word dot = next_word(&ahead), field = next_word(&ahead);
        if (is(&dot, ".") && is(&field, known[i].field)) return known[i].what;
    }
    return NULL;
}

static size_t lint_file(const generation_file *file)
{
    reader r = {.at = file->text, .end = file->text + file->len, .line = 1};
    size_t warnings = 0;
    bool after_dot = false, after_function = false;
    for (word w = next_word(&r); w.len > 0;) {
        if (!after_dot || !is(&w, "state")) {
            if (is(&w, "function")) after_function = true;
            else if (!is(&w, ".") && !is_name(w.start[0])) after_function = false; /* its name is over */
            after_dot = is(&w, ".");
            w = next_word(&r);
            continue;
        }
        int line = w.line;
        const char *what = NULL;
        w = next_word(&r);
        if (read_fields(&r, &w) > 0) {
            if (after_function && is(&w, "(")) {
                what = "a function";
            } else if (is(&w, "=")) {
                w = next_word(&r);
                what = what_is(&r, &w);
            }
        }
        after_dot = after_function = false;
        if (what == NULL) continue;
        warnings++;
        log_write(LOG_WARN, "%s:%d: %s is put into conn.state: the next version of the script cannot be given it",
                  file->path[0] != '\0' ? file->path : "script", line, what);
    }
    return warnings;
}

size_t lint_generation(const generation *g)
{
    size_t warnings = 0;
    for (const generation_file *file = g->files; file != NULL; file = file->next) {
        if (file->text != NULL) warnings += lint_file(file);
    }
    return warnings;
}
