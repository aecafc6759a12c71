/* Goal: what is put into a field of conn.state and is no plain data is seen in the text, and nothing else is. Method: texts, each
 * with the number of warnings that it deserves; then every beginning of each, for a reader that must not run over its end.
 */
#include "check.h"

#include "lint.h"
#include "log.h"
#include "mem.h"

#include <string.h>

static const struct {
    const char *text;
    size_t warnings;
} texts[] = {
    {"conn.state.cb = function() end", 1},
    {"conn.state.list[1][x[2]].cb=function() end", 1},
    {"self.conn.state.co = coroutine.create(f)", 1},
    {"conn.state.t = setmetatable({}, mt)", 1},
    {"conn.state . t --[[ why ]] = --[==[ not ]] ]==] portico . connect(uri)", 1},
    {"conn.state['a'].f = io.open(name)", 1},
    {"function conn.state.f() end", 1},
    {"function conn.state:f() end", 0}, /* a field of its own would be needed: state is no table of functions */
    {"conn.state.a = 1 conn.state.b = function() end\nconn.state.c = function() end", 2},
    {"conn.state.n = #functions", 0},
    {"if conn.state.f == function() end then end", 0},
    {"conn.state.x = coroutine.running", 0},
    {"conn.state.x = io.type", 0},
    {"conn.state = { cb = function() end }", 0}, /* raises when it happens */
    {"-- conn.state.cb = function() end", 0},
    {"--[[ conn.state.cb = function() end ]]", 0},
    {"local s = 'conn.state.cb = function() end'", 0},
    {"local s = \"\\\"conn.state.cb = function() end\"", 0},
    {"local s = [==[ conn.state.cb = function() ]] end ]==]", 0},
    {"state.cb = function() end", 0}, /* a local, who knows */
    {"mystate.cb = function() end", 0},
    {"conn.state.a.b.c.d", 0},
    {"conn.state[", 0},
    {"conn.state.", 0},
};

static generation *generation_of(const char *text, size_t len)
{
    char *copy = mem_alloc(len + 1); /* a NUL follows, which a sanitizer would not see: so none is read */
    check(copy != NULL);
    memcpy(copy, text, len);
    copy[len] = '\0';
    return generation_open(1, "script.lua", copy, len);
}

static void what_is_no_plain_data_is_seen(void)
{
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        generation *g = generation_of(texts[i].text, strlen(texts[i].text));
        if (lint_generation(g) != texts[i].warnings) fail("not %zu warnings: %s", texts[i].warnings, texts[i].text);
        generation_release(g);
    }
}

static void every_beginning_of_a_text_is_read_to_its_end(void)
{
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        for (size_t len = 0; len < strlen(texts[i].text); len++) {
            generation *g = generation_of(texts[i].text, len);
            check(lint_generation(g) <= texts[i].warnings + 1);
            generation_release(g);
        }
    }
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    log_open(LOG_NONE, false);
    check_run(what_is_no_plain_data_is_seen);
    check_run(every_beginning_of_a_text_is_read_to_its_end);
    log_close();
    return check_end();
}
