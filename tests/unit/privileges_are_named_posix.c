/* Goal: users and groups are found by name and by number, and who is not there is named.
 * Method: those that every system has. What giving up privileges does is tests/faults/system.c's. */
#include "check.h"
#include "privileges.h"

#include <pwd.h>
#include <unistd.h>

static char error[256];

static void who_is_not_there_is_named(void)
{
    privileges p;
    check(!privileges_find(&p, "no_such_user", NULL, error, sizeof(error)));
    check_str(error, "--user: there is no user 'no_such_user'");
    check(!privileges_find(&p, NULL, "no_such_group", error, sizeof(error)));
    check_str(error, "--group: there is no group 'no_such_group'");
    check(!privileges_find(&p, "4294967295", NULL, error, sizeof(error))); /* -1 changes nothing: setresuid(2) */
    check(!privileges_find(&p, "1x", NULL, error, sizeof(error)));
    check(!privileges_find(&p, "99999999999999999999", NULL, error, sizeof(error)));
}

static void nobody_is_asked_for(void)
{
    privileges p;
    check(privileges_find(&p, NULL, NULL, error, sizeof(error)));
    check(!p.changes_user && !p.changes_group);
    check(privileges_drop(&p, error, sizeof(error)));
}

static void names_and_numbers_are_the_same(void)
{
    privileges by_name, by_number;
    char number[32];
    const struct passwd *nobody = getpwnam("nobody");
    if (nobody == NULL || geteuid() != 0) {
        check_skip("only root may become somebody else");
        return;
    }
    snprintf(number, sizeof(number), "%lu", (unsigned long)nobody->pw_uid);
    check(privileges_find(&by_name, "nobody", NULL, error, sizeof(error)));
    check(privileges_find(&by_number, number, NULL, error, sizeof(error)));
    check(by_name.changes_user && by_name.changes_group);
    check_eq(by_name.user, by_number.user);
    check_eq(by_name.group, by_number.group);
    check(by_name.group_count > 0);
    check(privileges_find(&by_number, NULL, "0", error, sizeof(error)));
    check(!by_number.changes_user && by_number.changes_group);
    check_eq(by_number.group, 0);
    check_eq(by_number.group_count, 1);
    check(privileges_find(&by_name, "nobody", "0", error, sizeof(error)));
    check(by_name.changes_user);
    check_eq(by_name.group, 0); /* the group that is named, and not the user's */
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    check_run(who_is_not_there_is_named);
    check_run(nobody_is_asked_for);
    check_run(names_and_numbers_are_the_same);
    return check_end();
}
