#include "report.h"

#include "clock.h"
#include "options.h"

#include <stdio.h>

static double microseconds(uint64_t in_ticks)
{
    return (double)in_ticks * tick_ns / 1000;
}

void report_latency(const struct histogram *h)
{
    printf("\"lat_us\":{\"p50\":%.2f,\"p90\":%.2f,\"p99\":%.2f,\"p999\":%.2f,\"max\":%.2f}",
           microseconds(histogram_quantile(h, .5)), microseconds(histogram_quantile(h, .9)),
           microseconds(histogram_quantile(h, .99)), microseconds(histogram_quantile(h, .999)), microseconds(h->max));
}

static double per(double sum, double count)
{
    return count > 0 ? sum / count : 0;
}

void report_processor(const struct processor *begin, const struct processor *end, double messages)
{
    double wall = (double)(end->wall_ns - begin->wall_ns) / 1e9, self = (double)(end->self_us - begin->self_us) / 1e6;
    printf(",\"client_cpu\":%.3f,\"client_us_per_msg\":%.4f", self / wall, per(self * 1e6, messages));
    if (options.pid_count > 0) {
        double used = (double)(end->server_ns - begin->server_ns),
               runs = (double)(end->server_runs - begin->server_runs);
        double user = (double)(end->server_user - begin->server_user);
        double system = (double)(end->server_system - begin->server_system);
        printf(
            ",\"server_cpu\":%.3f,\"server_us_per_msg\":%.4f,\"server_user_share\":%.3f,\"server_runs_per_msg\":%.4f",
            used / 1e9 / wall, per(used / 1e3, messages), per(user, user + system), per(runs, messages));
    }
    double busy = (double)(end->busy - begin->busy), all = busy + (double)(end->idle - begin->idle);
    if (all > 0)
        printf(",\"core_busy\":%.3f,\"core_us_per_msg\":%.4f", busy / all, per(busy / all * wall * 1e6, messages));
}
