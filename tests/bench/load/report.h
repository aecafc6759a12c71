/* report.h - the members of the JSON object that a run ends with. */
#ifndef LOAD_REPORT_H
#define LOAD_REPORT_H

#include "histogram.h"
#include "processor.h"

/* "lat_us":{...}, from ticks. */
void report_latency(const struct histogram *h);

/* ,"client_cpu":..., between two samples, and per message. */
void report_processor(const struct processor *begin, const struct processor *end, double messages);

#endif
