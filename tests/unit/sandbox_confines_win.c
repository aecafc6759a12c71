/* Goal: a confined process is alone in a job object that allows no other. Method: it confines itself, asks the system, and
 * tries to start itself once more. */
#include "base.h"
#include "check.h"
#include "os.h"
#include "sandbox.h"

#include <stdio.h>
#include <string.h>
#include <windows.h>

/* Starts this program with an argument that makes it end at once. Returns 0, or the system's code. */
static DWORD start_child(void)
{
    wchar_t path[MAX_PATH];
    wchar_t line[MAX_PATH + 16];
    STARTUPINFOW startup = {.cb = sizeof startup};
    PROCESS_INFORMATION child;
    check(GetModuleFileNameW(NULL, path, MAX_PATH) < MAX_PATH);
    swprintf(line, array_count(line), L"\"%ls\" child", path);
    if (!CreateProcessW(path, line, NULL, NULL, FALSE, 0, NULL, NULL, &startup, &child)) return GetLastError();
    check_eq(WaitForSingleObject(child.hProcess, INFINITE), WAIT_OBJECT_0);
    CloseHandle(child.hThread);
    CloseHandle(child.hProcess);
    return 0;
}

static void no_process_can_be_started(void)
{
    char told[SANDBOX_TOLD_BYTES] = "";
    BOOL in_job = FALSE;
    JOBOBJECT_BASIC_ACCOUNTING_INFORMATION accounts = {0};
    check_eq(start_child(), 0);
    check(sandbox_confine(NULL, 0, told));
    check_str(told, "job object: no other processes");
    check(IsProcessInJob(GetCurrentProcess(), NULL, &in_job) && in_job);
    if (os_is_wine()) { /* Wine 8 neither answers the next question nor counts processes */
        check_eq(start_child(), 0);
        return;
    }
    check(QueryInformationJobObject(NULL, JobObjectBasicAccountingInformation, &accounts, sizeof accounts, NULL));
    check_eq(accounts.ActiveProcesses, 1);
    check_eq(start_child(), ERROR_NOT_ENOUGH_QUOTA);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "child") == 0) return 0;
    check_begin(argc, argv);
    check_run(no_process_can_be_started);
    return check_end();
}
