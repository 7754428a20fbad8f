/* user.h: giving up root: a daemon that needed it for a port or a file goes on as somebody else.
 *
 * Main only.
 */
#ifndef HALUT_USER_H
#define HALUT_USER_H

#include <sys/types.h>

#include "../core/halut.h"

struct halut_user {
  char name[64];
  uid_t uid;
  gid_t gid;
};

/* HALUT_ENOTFOUND: no such user. HALUT_EINVALID: that is root, or this process is neither root nor
 * that user. */
int halut_user_find(const char *name, struct halut_user *out, struct halut_diag *diag)
    __attribute__((warn_unused_result));

/* Becomes that user, with its groups and no way back, in all threads. HALUT_EIO. */
int halut_user_become(const struct halut_user *user, struct halut_diag *diag)
    __attribute__((warn_unused_result));

#endif
