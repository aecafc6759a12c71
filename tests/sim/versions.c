/* versions.c - the first text, with something before and behind it. */
#include "versions.h"

#include "mem.h"
#include "sim.h"
#include "wraps.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct frame {
    const char *before;
    const char *behind;
} frame;

static const frame good = {"", ""};

static const frame bad[] = {
    {"", "\n)"},                       /* does not compile */
    {"error('on purpose')\n", ""},     /* raises when it is loaded */
    {"local script = (function(...) ", /* refuses itself: no handler of its may ever run */
     "\nend)(...)\n"
     "local function never() error('ORACLE a version that was refused runs', 0) end\n"
     "for name in pairs(script) do\n"
     "  if name:find('^on_') and name ~= 'on_load' and name ~= 'on_unload' then script[name] = never end\n"
     "end\n"
     "script.on_check = function() error('on purpose') end\n"
     "return script"},
    {"local script = (function(...) ", /* raises in its handlers */
     "\nend)(...)\n"
     "math.randomseed(1)\n"
     "local name = script.on_message and 'on_message' or script.on_readable and 'on_readable' or 'on_stream'\n"
     "local handler = script[name]\n"
     "local function faulty(...)\n"
     "  if math.random(3) == 1 then error('on purpose') end\n"
     "  return handler(...)\n"
     "end\n"
     "script[name] = faulty\n"
     "return script"},
};

static struct {
    const char *text;
    size_t len;
    frame now;
    unsigned saves;
} file;

void sim_versions_open(const char *text, size_t len)
{
    file.text = text;
    file.len = len;
    file.now = good;
    file.saves = 0;
}

char *sim_version_read(size_t *len)
{
    char remark[32];
    (void)snprintf(remark, sizeof(remark), "\n-- %u\n", file.saves);
    size_t room = strlen(file.now.before) + file.len + strlen(file.now.behind) + strlen(remark) + 1;
    char *text = mem_alloc(room);
    if (text == NULL) return NULL;
    int written =
        snprintf(text, room, "%s%.*s%s%s", file.now.before, (int)file.len, file.text, file.now.behind, remark);
    *len = (size_t)written;
    return text;
}

void sim_version_save(bool is_good)
{
    size_t choice = is_good ? 0 : (size_t)sim_below(SIM_PEERS, 2 * array_count(bad));
    file.saves++;
    file.now = is_good || choice >= array_count(bad) ? good : bad[choice];
    sim_note("save", file.saves, is_good ? 99 : choice, 0);
}

/* The only file that the program reads. */
bool __wrap_file_read_ordinary(char **data, size_t *len, const char *path, bool *missing, char *error,
                               size_t error_size)
{
    *missing = false;
    sim_check("sim", strcmp(path, SIM_SCRIPT_PATH) == 0, "the program reads %s", path);
    *data = sim_version_read(len);
    if (*data == NULL) (void)snprintf(error, error_size, "out of memory");
    return *data != NULL;
}
