/* sandbox_win.c - sandbox.h for Windows: a job object that this process is alone in. */
#include "sandbox.h"

#include <stdio.h>
#include <windows.h>

bool sandbox_confine(const sandbox_path *paths, size_t count, char *told)
{
    JOBOBJECT_BASIC_LIMIT_INFORMATION limits = {.LimitFlags = JOB_OBJECT_LIMIT_ACTIVE_PROCESS, .ActiveProcessLimit = 1};
    HANDLE job = CreateJobObjectW(NULL, NULL);
    (void)paths;
    (void)count;
    bool ok = job != NULL && SetInformationJobObject(job, JobObjectBasicLimitInformation, &limits, sizeof limits) &&
              AssignProcessToJobObject(job, GetCurrentProcess());
    if (ok) snprintf(told, SANDBOX_TOLD_BYTES, "job object: no other processes");
    else snprintf(told, SANDBOX_TOLD_BYTES, "nothing: no job object (error %lu)", GetLastError());
    if (!ok && job != NULL) CloseHandle(job); /* else it stays open as long as the process */
    return ok;
}
