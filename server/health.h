/* health.h: `halutd --health URL`, what a container's HEALTHCHECK runs. */
#ifndef HALUT_HEALTH_H
#define HALUT_HEALTH_H

/* GETs http://HOST[:PORT][/PATH] (default path /healthz) within three seconds. 0 if the answer is
 * 200; otherwise 1, with the reason on stderr. */
int halut_health(const char *url);

#endif
