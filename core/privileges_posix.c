/* privileges_posix.c - see privileges.h. */
#include "privileges.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

/* A whole word that is a number. */
static bool read_number(const char *word, uint32_t *number)
{
    char *end;
    errno = 0;
    unsigned long value = strtoul(word, &end, 10);
    *number = (uint32_t)value;
    return word[0] >= '0' && word[0] <= '9' && *end == '\0' && errno == 0 && value < UINT32_MAX;
}

static bool find_user(privileges *p, const char *user, char *error, size_t error_size)
{
    uint32_t number;
    const struct passwd *found = read_number(user, &number) ? getpwuid(number) : getpwnam(user);
    gid_t groups[PRIVILEGES_GROUPS_MAX];
    int count = PRIVILEGES_GROUPS_MAX;
    if (found == NULL) {
        snprintf(error, error_size, "--user: there is no user '%s'", user);
        return false;
    }
    p->changes_user = p->changes_group = true;
    p->user = found->pw_uid;
    p->group = found->pw_gid;
    if (getgrouplist(found->pw_name, found->pw_gid, groups, &count) < 0) {
        snprintf(error, error_size, "--user: '%s' is in more than %d groups", user, PRIVILEGES_GROUPS_MAX);
        return false;
    }
    p->group_count = (size_t)count;
    for (int i = 0; i < count; i++) p->groups[i] = groups[i];
    return true;
}

static bool find_group(privileges *p, const char *group, char *error, size_t error_size)
{
    uint32_t number;
    const struct group *found = read_number(group, &number) ? getgrgid(number) : getgrnam(group);
    if (found == NULL) {
        snprintf(error, error_size, "--group: there is no group '%s'", group);
        return false;
    }
    p->changes_group = true;
    p->group = found->gr_gid;
    p->groups[0] = found->gr_gid;
    p->group_count = 1;
    return true;
}

bool privileges_find(privileges *p, const char *user, const char *group, char *error, size_t error_size)
{
    *p = (privileges){0};
    if (user != NULL && !find_user(p, user, error, error_size)) return false;
    if (group != NULL && !find_group(p, group, error, error_size)) return false;
    bool changes = p->changes_user || p->changes_group;
    if (changes && geteuid() != 0) {
        snprintf(error, error_size, "%s: only root can become another; this process runs as user %lu",
                 user != NULL ? "--user" : "--group", (unsigned long)geteuid());
        return false;
    }
    return true;
}

static bool fail(const char *what, char *error, size_t error_size)
{
    snprintf(error, error_size, "cannot give up privileges: %s: %s", what, strerror(errno));
    return false;
}

bool privileges_assume(const privileges *p)
{
    if (p->changes_group && setegid(p->group) != 0) return false;
    if (!p->changes_user || seteuid(p->user) == 0) return true;
    (void)privileges_resume(p);
    return false;
}

/* The user first, who may then change the group. */
bool privileges_resume(const privileges *p)
{
    return (!p->changes_user || seteuid(getuid()) == 0) && (!p->changes_group || setegid(getgid()) == 0);
}

/* glibc changes all threads: nptl(7), "NPTL and process credential changes". */
bool privileges_drop(const privileges *p, char *error, size_t error_size)
{
    gid_t groups[PRIVILEGES_GROUPS_MAX];
    for (size_t i = 0; i < p->group_count; i++) groups[i] = p->groups[i];
    if (p->changes_group && setgroups(p->group_count, groups) != 0) return fail("setgroups", error, error_size);
    if (p->changes_group && setresgid(p->group, p->group, p->group) != 0) return fail("setresgid", error, error_size);
    if (!p->changes_user) return true;
    if (setresuid(p->user, p->user, p->user) != 0) return fail("setresuid", error, error_size);
    if (p->user != 0 && setresuid(0, 0, 0) == 0) {
        snprintf(error, error_size, "cannot give up privileges: they can be had back");
        return false;
    }
    return true;
}
