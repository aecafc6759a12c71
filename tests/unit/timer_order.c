/* timer_order.c - timers fire in order of their deadlines, once, and only when due; starting, moving and stopping at random
 * against a plain list. argv[1]: the seed.
 */
#include "check.h"
#include "timer.h"

enum { TIMERS = 300, STEPS = 20000 };

static timers set;
static timer all[TIMERS];
static int64_t model[TIMERS]; /* the deadline; 0 while stopped */
static int64_t now, last_fired;
static uint64_t seed;

static void on_fire(timer *t, int64_t now_ns)
{
    size_t i = (size_t)(t - all);
    check_eq(now_ns, now);
    check(!timer_running(t));
    check(model[i] != 0 && model[i] <= now);
    check(model[i] >= last_fired);
    last_fired = model[i];
    model[i] = 0;
}

static void random_timers_behave_like_a_list(void)
{
    timers_open(&set);
    for (size_t i = 0; i < TIMERS; i++) all[i].fire = on_fire;
    for (now = 1; now < STEPS; now++) {
        size_t i = check_random_below(&seed, TIMERS);
        if (check_random_below(&seed, 4) == 0) {
            timer_stop(&set, &all[i]);
            model[i] = 0;
        } else {
            model[i] = now + 1 + (int64_t)check_random_below(&seed, 500);
            check(timer_start(&set, &all[i], model[i]));
        }
        int64_t next = INT64_MAX;
        uint32_t running = 0;
        for (i = 0; i < TIMERS; i++) {
            if (model[i] == 0) continue;
            running++;
            if (model[i] < next) next = model[i];
        }
        check_eq(set.count, running);
        check_eq(timers_next(&set), next);
        last_fired = 0;
        timers_run(&set, now, UINT32_MAX);
        for (i = 0; i < TIMERS; i++) check(model[i] == 0 || model[i] > now);
    }
    timers_close(&set);
}

static unsigned fired;

static void start_again(timer *t, int64_t now_ns)
{
    fired++;
    check(timer_start(&set, t, now_ns - 5)); /* due already */
}

static void one_started_while_others_fire_waits_for_the_next_round(void)
{
    timers_open(&set);
    timer a = {.fire = start_again}, b = {.fire = start_again};
    check(timer_start(&set, &a, 10) && timer_start(&set, &b, 10));
    check_eq(timers_run(&set, 9, UINT32_MAX), 0);
    check_eq(timers_run(&set, 10, UINT32_MAX), 2);
    check_eq(timers_run(&set, 11, UINT32_MAX), 2);
    check_eq(fired, 4);
    check(timer_running(&a) && timer_running(&b));
    timers_close(&set);
    check(!timer_running(&a) && !timer_running(&b));
}

static timer early, late;

static void run_inside(timer *t, int64_t now_ns)
{
    (void)t;
    fired++;
    check(timer_start(&set, &early, now_ns));          /* waits for the next round, not only for the one inside */
    check_eq(timers_run(&set, now_ns, UINT32_MAX), 1); /* late */
}

static void count(timer *t, int64_t now_ns)
{
    (void)t;
    (void)now_ns;
    fired++;
}

static void running_them_from_inside_is_a_round_like_others(void)
{
    timers_open(&set);
    fired = 0;
    early = (timer){.fire = run_inside};
    late = (timer){.fire = count};
    check(timer_start(&set, &early, 10) && timer_start(&set, &late, 20));
    check_eq(timers_run(&set, 20, UINT32_MAX), 1);
    check_eq(fired, 2);
    check(timer_running(&early) && !timer_running(&late));
    timers_close(&set);
}

static void no_more_than_asked_for_fire_and_the_rest_stays_due(void)
{
    timers few;
    timer three[3];
    timers_open(&few);
    fired = 0;
    for (int i = 0; i < 3; i++) {
        three[i] = (timer){.fire = count};
        check(timer_start(&few, &three[i], 10 * (i + 1)));
    }
    check_eq(timers_run(&few, 100, 2), 2);
    check_eq(fired, 2);
    check(!timer_running(&three[0]) && !timer_running(&three[1]) && timer_running(&three[2]));
    check_eq(timers_next(&few), 30);
    check_eq(timers_run(&few, 100, 2), 1);
    timers_close(&few);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    seed = check_seed(argc, argv, 1, 20261122);
    check_run(random_timers_behave_like_a_list);
    check_run(one_started_while_others_fire_waits_for_the_next_round);
    check_run(no_more_than_asked_for_fire_and_the_rest_stays_due);
    check_run(running_them_from_inside_is_a_round_like_others);
    return check_end();
}
