/* confine.c - see confine.h. The process keeps the files that the command line names: the script's directory, where addresses and
 * sockets are written, and where portico ctl finds it. What the script itself names, such as a Unix socket in its
 * `listen`, does not count.
 */
#include "confine.h"

#include "control.h"
#include "log.h"
#include "privileges.h"
#include "sandbox.h"

#include <inttypes.h>
#include <string.h>

static struct {
    privileges privileges;
    bool is_strict;
    bool is_whole;                 /* all that this system has is in force, */
    char told[SANDBOX_TOLD_BYTES]; /* … which is this */
} confined;

enum { PATHS_MAX = OPTIONS_LISTEN_MAX + 3 };

typedef struct path_list {
    sandbox_path paths[PATHS_MAX];
    size_t count;
} path_list;

static void add(path_list *list, const char *path, sandbox_right right)
{
    list->paths[list->count++] = (sandbox_path){path, right};
}

/* Where portico ctl looks for servers of the user that the process becomes. */
static bool find_usual_place(char *place)
{
    char why[256];
    if (!privileges_assume(&confined.privileges)) return false;
    bool found = control_usual_place(place, why, sizeof why);
    return privileges_resume(&confined.privileges) && found;
}

/* place: of CONTROL_WHERE_MAX bytes, for one of the paths. */
static void collect(path_list *list, const options *o, char *place)
{
    bool is_file = o->script != NULL && strcmp(o->script, "-") != 0;
    if (is_file) add(list, o->script, SANDBOX_READ);
    if (o->address_file != NULL) add(list, o->address_file, SANDBOX_REPLACE);
    for (uint32_t i = 0; i < o->listen_count; i++) {
        if (o->listen[i].transport == NET_UNIX) add(list, o->listen[i].path, SANDBOX_SOCKETS);
    }
    bool is_usual = o->control == NULL;
    if (is_usual && find_usual_place(place)) add(list, place, SANDBOX_SOCKETS);
    else if (!is_usual && strcmp(o->control, "off") != 0) add(list, o->control, SANDBOX_SOCKETS);
}

bool confine_open(const options *o, char *error, size_t error_size)
{
    path_list list = {.count = 0};
    char place[CONTROL_WHERE_MAX];
    confined.is_strict = o->sandbox == OPTIONS_SANDBOX_STRICT;
    if (!privileges_find(&confined.privileges, o->user, o->group, error, error_size)) return false;
    if (!confined.is_strict) return true;
    collect(&list, o, place);
    confined.is_whole = sandbox_confine(list.paths, list.count, confined.told);
    return true;
}

void confine_log(void)
{
    if (confined.is_strict) log_write(confined.is_whole ? LOG_INFO : LOG_WARN, "sandbox strict: %s", confined.told);
}

bool confine_user(uint32_t *user)
{
    *user = confined.privileges.user;
    return confined.privileges.changes_user;
}

bool confine_drop(char *error, size_t error_size)
{
    const privileges *p = &confined.privileges;
    if (!p->changes_user && !p->changes_group) return true;
    if (!privileges_drop(p, error, error_size)) return false;
    if (p->changes_user) log_write(LOG_INFO, "running as user %" PRIu32 ", group %" PRIu32, p->user, p->group);
    else log_write(LOG_INFO, "running as group %" PRIu32, p->group);
    return true;
}
