/* privileges.h - who the process runs as. privileges_posix.c and privileges_win.c implement it.
 *
 * thread  the main thread.
 */
#ifndef PORTICO_PRIVILEGES_H
#define PORTICO_PRIVILEGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PRIVILEGES_GROUPS_MAX = 64 };

typedef struct privileges {
    bool changes_user;
    bool changes_group;
    uint32_t user;
    uint32_t group;
    uint32_t groups[PRIVILEGES_GROUPS_MAX]; /* the supplementary ones */
    size_t group_count;
} privileges;

/* Finds out who that is. Names or numbers; either may be NULL: without a group it is the user's, without a user that
 * stays.
 * error  of error_size bytes, when the result is false: there is no such user or group, or this process may not become
 *        it, or it does not work on this system. */
bool privileges_find(privileges *p, const char *user, const char *group, char *error, size_t error_size);

/* Does what it creates for that user as that user, until privileges_resume(). Before there are other threads: those would
 * be changed with it. False: it cannot, and nothing is to be resumed. */
bool privileges_assume(const privileges *p);
bool privileges_resume(const privileges *p);

/* Becomes it, all threads, for good. */
bool privileges_drop(const privileges *p, char *error, size_t error_size);

#endif
