/* systemd.h: the two sides of systemd that a service meets: sockets passed at start, and telling
 * how it goes. Both are protocols of environment variables and need no library.
 *
 * Main only, before other threads read the environment.
 */
#ifndef HALUT_SYSTEMD_H
#define HALUT_SYSTEMD_H

#include <stdint.h>

/* Listening sockets passed to this process (LISTEN_FDS, meant for the process LISTEN_PID): their
 * first descriptor in *first_out, and their number; 0 if there are none. The variables are removed,
 * so that a second call finds none. */
uint32_t halut_systemd_sockets(int *first_out);

/* "READY=1", "STOPPING=1": to NOTIFY_SOCKET, if there is one. Best effort. */
void halut_systemd_notify(const char *state);

#endif
